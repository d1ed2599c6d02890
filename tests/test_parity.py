"""The reference gives what Hugging Face peft gives: the same names, and with the same weights the same loss, logits, gradients and texts, bit for bit.

The order of operations is peft's, so everything is compared with `torch.equal`; no tolerance is needed anywhere on the CPU in float32.
"""
import copy
import warnings

import pytest
import torch
from packaging.version import Version
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

import peft_viz.causal_lm as ours
import peft_viz.config as our_config

peft = pytest.importorskip("peft")
OLD_PEFT = Version(peft.__version__) < Version("0.21")  # the lane of transformers 4; where that peft has no answer, a test says so
VOCABULARY, PAD = 61, 0
TOKENS = dict(vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, pad_token_id=PAD)

FAMILIES = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_positions=64, n_embd=32, n_layer=2, n_head=4, **TOKENS)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, **TOKENS)),
    "opt": lambda: OPTForCausalLM(OPTConfig(hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32, max_position_embeddings=64, **TOKENS)),
}
METHODS = {
    "lora": ("LoraConfig", dict(r=3, lora_alpha=5)),
    "prompt": ("PromptTuningConfig", dict(num_virtual_tokens=4)),
    "prefix": ("PrefixTuningConfig", dict(num_virtual_tokens=4)),
    "prefix-projection": ("PrefixTuningConfig", dict(num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=24)),
}
everywhere = pytest.mark.parametrize("method", METHODS)
families = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(autouse=True)
def quiet_and_single():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


def base_model(family, seed=0):
    torch.manual_seed(seed)
    model = FAMILIES[family]().eval()
    model.generation_config.eos_token_id = None  # texts of full length
    return model


def wrap(base, method, seed=None, adapter_name="default", **more):
    "The same configuration around the same base model, twice: peft's model and ours."
    name, fields = METHODS[method]
    fields = dict(task_type="CAUSAL_LM", **{**fields, **more})
    wrapped = []
    for package, config in (peft, getattr(peft, name)), (ours, getattr(our_config, name)):
        if seed is not None:
            torch.manual_seed(seed)
        wrapped.append(package.get_peft_model(copy.deepcopy(base), config(**fields), adapter_name))
    return wrapped


def share_random_weights(theirs, ours_, seed=1):
    "Adapter weights that are nobody's initialisation, the same in both."
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name or "prompt_encoder" in name or "modules_to_save" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    ours_.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours_


def pair(family, method, **more):
    return share_random_weights(*wrap(base_model(family), method, **more))


def batch(padding="none", labels=True, embed=None):
    "Three rows of seven tokens; `padding` 'none' gives no mask at all."
    torch.manual_seed(2)
    ids = torch.randint(3, VOCABULARY, (3, 7))
    result = dict(input_ids=ids)
    if padding != "none":
        mask = torch.ones_like(ids)
        if padding == "left":
            mask[0, :3] = mask[1, :1] = 0
        elif padding == "right":
            mask[0, -3:] = mask[1, -1:] = 0
        result.update(input_ids=ids.masked_fill(mask == 0, PAD), attention_mask=mask)
    if labels:
        result["labels"] = result["input_ids"].masked_fill(result["input_ids"] == PAD, -100)
    if embed is not None:
        result["inputs_embeds"] = embed(result.pop("input_ids")).detach()
    return result


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@families
@everywhere
def test_same_names(family, method):
    theirs, ours_ = wrap(base_model(family), method)
    assert [(n, p.shape, p.requires_grad) for n, p in theirs.named_parameters()] == [(n, p.shape, p.requires_grad) for n, p in ours_.named_parameters()]
    assert list(theirs.state_dict()) == list(ours_.state_dict())
    assert theirs.get_nb_trainable_parameters() == ours_.get_nb_trainable_parameters()


@families
@everywhere
def test_same_seed_same_start(family, method):
    theirs, ours_ = wrap(base_model(family), method, seed=3)
    assert_equal(dict(theirs.named_parameters()), dict(ours_.named_parameters()))


@families
@everywhere
@pytest.mark.parametrize("padding", ["none", "ones", "left", "right"])
@pytest.mark.parametrize("inputs", ["input_ids", "inputs_embeds"])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_forward_and_gradients(family, method, padding, inputs, mode):
    results = []
    for model in pair(family, method):
        model.train(mode == "train")
        embed = model.get_input_embeddings() if inputs == "inputs_embeds" else None
        torch.manual_seed(4)  # dropout
        output = model(**batch(padding, embed=embed))
        output.loss.backward()
        results.append((output, gradients(model)))
    (their_output, their_gradients), (our_output, our_gradients) = results
    assert torch.equal(their_output.loss, our_output.loss)
    assert torch.equal(their_output.logits, our_output.logits)
    assert len(our_gradients) > 0
    assert_equal(their_gradients, our_gradients)


@families
@everywhere
@pytest.mark.parametrize("padding", ["none", "ones", "left"])
@pytest.mark.parametrize("call", ["keyword", "positional"])
def test_greedy_generate(family, method, padding, call):
    results = []
    for model in pair(family, method):
        arguments = batch(padding, labels=False)
        ignored = OLD_PEFT and method != "lora" and isinstance(model, peft.PeftModel)  # old peft drops positional arguments
        positional = [arguments.pop("input_ids")] if call == "positional" and not ignored else []
        with torch.no_grad():
            results.append(model.eval().generate(*positional, **arguments, max_new_tokens=6, do_sample=False))
    assert results[1].shape == (3, 13)
    assert torch.equal(*results)


@families
@everywhere
@pytest.mark.parametrize("how", [dict(num_beams=3), dict(do_sample=True), dict(do_sample=True, num_return_sequences=2)], ids=["beams", "sampled", "sampled-twice"])
def test_other_ways_to_generate(family, method, how):
    results = []
    for model in pair(family, method):
        torch.manual_seed(5)
        with torch.no_grad():
            results.append(model.eval().generate(**batch("left", labels=False), max_new_tokens=6, **how))
    assert torch.equal(*results)


@families
@everywhere
def test_what_the_base_model_is_told(family, method):
    "Everything but the mask's number type, which peft turns into float."
    if OLD_PEFT and method == "lora":
        pytest.skip("old peft calls forward past the hook")
    seen = []
    for model in pair(family, method):
        calls = []
        model.get_base_model().register_forward_pre_hook(lambda module, args, kwargs: calls.append(kwargs), with_kwargs=True)
        model(**batch("left"))
        with torch.no_grad():
            model.eval().generate(**batch("left", labels=False), max_new_tokens=3, do_sample=False)
        seen.append([{k: v for k, v in call.items() if v is not None} for call in calls])
    assert len(seen[0]) == len(seen[1]) == 4
    for theirs, ours_ in zip(*seen):
        assert theirs.keys() == ours_.keys()
        for name, value in theirs.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value.float(), ours_[name].float()), name


@families
@pytest.mark.parametrize("method", ["prefix", "prefix-projection"])
def test_given_positions_come_after_the_prefix(family, method):
    if OLD_PEFT:
        pytest.skip("old peft drops them")
    positions = torch.arange(7).expand(3, -1) // 2
    theirs, ours_ = [model(**batch("ones"), position_ids=positions) for model in pair(family, method)]
    assert torch.equal(theirs.logits, ours_.logits)


@families
def test_given_positions_are_dropped_before_a_prompt(family):
    positions = torch.arange(7).expand(3, -1) // 2
    theirs, ours_ = pair(family, "prompt")
    with pytest.warns(UserWarning, match="Position ids are not supported"):
        with_positions = ours_(**batch("ones"), position_ids=positions)
    assert torch.equal(with_positions.logits, ours_(**batch("ones")).logits)
    assert torch.equal(with_positions.logits, theirs(**batch("ones"), position_ids=positions).logits)


@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_token_types_are_dropped(method):
    types = torch.ones(3, 7, dtype=torch.long)
    theirs, ours_ = pair("gpt2", method)
    with pytest.warns(UserWarning, match="Token type ids are not supported"):
        with_types = ours_(**batch("left"), token_type_ids=types)
    assert torch.equal(with_types.logits, ours_(**batch("left")).logits)
    assert torch.equal(with_types.logits, theirs(**batch("left"), token_type_ids=types).logits)


@pytest.mark.parametrize("method", METHODS)
def test_no_warning_without_a_reason(method):
    _, model = pair("gpt2", method)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(**batch("left"))
        model.generate(**batch("left", labels=False), max_new_tokens=2)


@families
def test_several_adapters_by_name(family):
    for method in METHODS:
        theirs, ours_ = wrap(base_model(family), method)
        name, fields = METHODS[method]
        other = {**fields, "r": 2} if method == "lora" else {**fields, "num_virtual_tokens": 7}
        for model, package in (theirs, peft), (ours_, our_config):
            model.add_adapter("other", getattr(package, name)(task_type="CAUSAL_LM", **other))
        share_random_weights(theirs, ours_)
        outputs = {}
        for step in "default", "other", "default":
            for model in theirs, ours_:
                model.set_adapter(step)
                assert model.active_adapter == step
            a, b = theirs(**batch("left")), ours_(**batch("left"))
            assert torch.equal(a.logits, b.logits) and torch.equal(a.loss, b.loss)
            assert torch.equal(outputs.setdefault(step, b.logits), b.logits)
            assert theirs.get_nb_trainable_parameters() == ours_.get_nb_trainable_parameters()
            generated = [m.generate(**batch("left", labels=False), max_new_tokens=4, do_sample=False) for m in (theirs, ours_)]
            assert torch.equal(*generated)
        assert outputs["default"].shape != outputs["other"].shape or not torch.equal(outputs["default"], outputs["other"])
        ours_.delete_adapter("default")
        if not OLD_PEFT or method == "lora":  # old peft cannot delete a prompt
            theirs.delete_adapter("default")
            assert list(theirs.state_dict()) == list(ours_.state_dict())
            assert theirs.active_adapter == "other"
        assert ours_.active_adapter == "other"
        assert torch.equal(ours_(**batch("left")).logits, outputs["other"])


@families
@everywhere
def test_disabled_is_the_base_model(family, method):
    base = base_model(family)
    _, model = share_random_weights(*wrap(base, method))
    adapted = model(**batch("left")).logits
    with model.disable_adapter():
        assert torch.equal(model(**batch("left")).logits, base(**batch("left")).logits)
        how = dict(max_new_tokens=4, do_sample=False)
        assert torch.equal(model.generate(**batch("left", labels=False), **how), base.generate(**batch("left", labels=False), **how))
    assert torch.equal(model(**batch("left")).logits, adapted)


# --- LoRA's settings ------------------------------------------------------------------------------------------

LORA_SETTINGS = {
    "all-linear": dict(target_modules="all-linear"),
    "regular expression": dict(target_modules=r".*\.1\..*(c_attn|q_proj|fc1)"),
    "some layers": dict(target_modules=["c_attn", "q_proj"], layers_to_transform=[0]),
    "one layer of a named list": dict(target_modules=["c_attn", "q_proj"], layers_to_transform=1, layers_pattern=["h", "layers"]),
    "excluded": dict(target_modules="all-linear", exclude_modules=["c_proj", "v_proj"]),
    "rslora": dict(use_rslora=True),
    "patterns": dict(rank_pattern={"0.*(c_attn|q_proj)": 5}, alpha_pattern={"c_attn": 7, "v_proj": 2}),
    "bias all": dict(bias="all"),
    "bias lora_only": dict(bias="lora_only"),
    "gaussian": dict(init_lora_weights="gaussian"),
    "random": dict(init_lora_weights=False),
    "dropout": dict(lora_dropout=0.3),
    "modules to save": dict(modules_to_save=["lm_head"]),
    "inference": dict(inference_mode=True),
}


@families
@pytest.mark.parametrize("setting", LORA_SETTINGS)
def test_lora_settings(family, setting):
    theirs, ours_ = wrap(base_model(family), "lora", seed=6, **LORA_SETTINGS[setting])
    assert_equal(dict(theirs.named_parameters()), dict(ours_.named_parameters()))
    assert [p.requires_grad for p in theirs.parameters()] == [p.requires_grad for p in ours_.parameters()]
    share_random_weights(theirs, ours_)
    outputs = []
    for model in theirs.train(), ours_.train():
        torch.manual_seed(7)
        outputs.append(model(**batch("left")))
        if setting != "inference":
            outputs[-1].loss.backward()
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    assert_equal(gradients(theirs), gradients(ours_))


def test_an_adapter_for_each_row():
    theirs, ours_ = wrap(base_model("llama"), "lora")
    for model, package in (theirs, peft), (ours_, our_config):
        model.add_adapter("other", package.LoraConfig(r=2))
    share_random_weights(theirs, ours_)
    names = ["other", "__base__", "default"]
    with torch.no_grad():
        outputs = [m.eval()(**batch("left"), adapter_names=names).logits for m in (theirs, ours_)]
        texts = [m.generate(**batch("left", labels=False), adapter_names=names, num_beams=2, max_new_tokens=4) for m in (theirs, ours_)]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-6)  # peft multiplies row by row in the order of a set
    assert torch.equal(*texts)


def test_two_lora_adapters_at_once():
    theirs, ours_ = wrap(base_model("gpt2"), "lora")
    for model, package in (theirs, peft), (ours_, our_config):
        model.add_adapter("other", package.LoraConfig(r=2, target_modules=["c_attn", "c_fc"]))
    share_random_weights(theirs, ours_)
    for model in theirs, ours_:
        model.base_model.set_adapter(["default", "other"])
    assert ours_.active_adapters == theirs.active_adapters == ["default", "other"]
    assert torch.equal(theirs(**batch()).logits, ours_(**batch()).logits)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("cast", [True, False])
def test_adapter_dtype(family, cast):
    base = base_model(family).to(torch.bfloat16)
    models = []
    for package, config in (peft, peft.LoraConfig), (ours, our_config.LoraConfig):
        torch.manual_seed(8)
        models.append(package.get_peft_model(copy.deepcopy(base), config(task_type="CAUSAL_LM", init_lora_weights=False), autocast_adapter_dtype=cast))
    expected = torch.float32 if cast else torch.bfloat16
    assert {p.dtype for n, p in models[1].named_parameters() if "lora_" in n} == {expected}
    assert_equal(*[dict(m.named_parameters()) for m in models])
    assert torch.equal(*[m(**batch("left")).logits for m in models])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("method", ["prompt", "prefix", "prefix-projection"])
def test_prompts_before_a_bfloat16_model(family, method):
    theirs, ours_ = share_random_weights(*wrap(base_model(family).to(torch.bfloat16), method))
    assert {p.dtype for p in ours_.prompt_encoder.parameters()} == {torch.float32}
    assert torch.equal(theirs(**batch("left")).logits, ours_(**batch("left")).logits)


# --- where a soft prompt starts -------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, **{w: i for i, w in enumerate("put the words in order please".split(), 5)}}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)
    return str(folder)


@families
@pytest.mark.parametrize("start", ["RANDOM", "SAMPLE_VOCAB", "TEXT shorter", "TEXT longer"])
def test_soft_prompt_starts(family, start, tokenizer_folder):
    settings = dict(prompt_tuning_init=start.split()[0])
    if start.startswith("TEXT"):
        text = "put the words" if start.endswith("shorter") else "put the words in order please"
        settings.update(prompt_tuning_init_text=text, tokenizer_name_or_path=tokenizer_folder, tokenizer_kwargs=dict(padding_side="left"))
    theirs, ours_ = wrap(base_model(family), "prompt", seed=9, **settings)
    weight = ours_.prompt_encoder["default"].embedding.weight
    assert torch.equal(theirs.prompt_encoder["default"].embedding.weight, weight)
    if start == "TEXT shorter":
        assert torch.equal(weight, ours_.word_embeddings(torch.tensor([5, 6, 7, 5])))
    elif start == "SAMPLE_VOCAB":
        assert all((ours_.word_embeddings.weight == row).all(dim=1).any() for row in weight)
    assert torch.equal(theirs(**batch("left")).logits, ours_(**batch("left")).logits)


@pytest.mark.skipif(OLD_PEFT, reason="old peft has no init_weights")
def test_prefix_that_starts_at_zero():
    for projection in False, True:
        theirs, ours_ = wrap(base_model("llama"), "prefix", seed=10, init_weights="zero", prefix_projection=projection)
        assert_equal(dict(theirs.named_parameters()), dict(ours_.named_parameters()))
        assert not ours_.get_prompt(batch_size=1).layers[0].keys.any()


def test_projection_is_left_out_for_inference():
    theirs, ours_ = pair("llama", "prefix-projection", inference_mode=True)
    assert list(ours_.prompt_encoder["default"].state_dict()) == ["embedding.weight"]
    assert torch.equal(theirs(**batch("left")).logits, ours_(**batch("left")).logits)


@everywhere
def test_modules_to_save_of_one_of_two_adapters(method):
    name, fields = METHODS[method]
    theirs, ours_ = wrap(base_model("gpt2"), method, modules_to_save=["lm_head", "ln_f"])
    for model, package in (theirs, peft), (ours_, our_config):
        model.add_adapter("without", getattr(package, name)(task_type="CAUSAL_LM", **fields))
        model.add_adapter("with", getattr(package, name)(task_type="CAUSAL_LM", modules_to_save=["lm_head", "ln_f"], **fields))
    assert ours_.modules_to_save == theirs.modules_to_save == {"lm_head", "ln_f"}
    share_random_weights(theirs, ours_)
    outputs = {}
    for adapter_name in "default", "with", "without":
        for model in theirs, ours_:
            model.set_adapter(adapter_name)
        outputs[adapter_name] = ours_(**batch("left")).logits
        assert torch.equal(theirs(**batch("left")).logits, outputs[adapter_name])
        trained = {n for n, p in ours_.named_parameters() if p.requires_grad and "modules_to_save" in n}
        assert len(trained) == 3 * (adapter_name != "without") and all(f".{adapter_name}." in n for n in trained)
    with ours_.disable_adapter():
        assert torch.equal(ours_(**batch("left")).logits, base_model("gpt2")(**batch("left")).logits)
    ours_.delete_adapter("without")
    assert ours_.active_adapter == "default" and torch.equal(ours_(**batch("left")).logits, outputs["default"])
    ours_.delete_adapter("default")
    assert ours_.active_adapter == "with" and torch.equal(ours_(**batch("left")).logits, outputs["with"])
    assert not any(".default." in n for n in ours_.state_dict())


@everywhere
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(method, reentrant):
    base = base_model("llama")
    base.gradient_checkpointing_enable(dict(use_reentrant=reentrant))
    if method.startswith("prefix"):
        with pytest.raises(ValueError, match="gradient checkpointing"):
            ours.get_peft_model(base, getattr(our_config, METHODS[method][0])(task_type="CAUSAL_LM", **METHODS[method][1]))
        return
    theirs, ours_ = share_random_weights(*wrap(base, method))
    for model in theirs.train(), ours_.train():
        model(**batch("left")).loss.backward()
    assert all(p.grad is not None for p in ours_.parameters() if p.requires_grad)
    assert_equal(gradients(theirs), gradients(ours_))


@everywhere
def test_no_hooks_without_gradient_checkpointing(method):
    _, model = pair("llama", method)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
