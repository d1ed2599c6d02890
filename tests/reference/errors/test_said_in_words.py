"""Mistakes with models, names, sizes, masks and labels are said in words, and nothing is changed by a refused
call. What stays as it is without the caller's knowledge is said as well."""

# lane: reference

import warnings

import pytest
import torch

import peft_viz as ours
from damage import print_of
from families import tiny_model, V5
from peft_viz import tiny_random
from peft_viz.reference.calls import check_inputs, check_mask, check_mask_behind
from peft_viz.reference.config import PeftWarning
from small import base_model

CLM = dict(task_type="CAUSAL_LM")
IDS = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])


def prompt(**fields):
    return ours.PromptTuningConfig(**{**CLM, "num_virtual_tokens": 2, **fields})


def lora(**fields):
    return ours.LoraConfig(**{**CLM, **fields})


def said(call):
    "What is warned of."
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return " / ".join(str(w.message) for w in found if issubclass(w.category, PeftWarning))


def a_linear_layer():
    return torch.nn.Linear(2, 2)


def without_a_head():
    return tiny_random("llama").model


@pytest.mark.parametrize("model", [None, "gpt2", lora(), dict], ids=repr)
def test_what_is_no_model(model):
    with pytest.raises(TypeError, match="the base model must be a model, such as"):
        ours.get_peft_model(model, lora())
    with pytest.raises(TypeError, match="the base model must be a model, such as"):
        ours.PeftModel.from_pretrained(model, "somewhere")


@pytest.mark.parametrize("make", [a_linear_layer, without_a_head])
@pytest.mark.parametrize(
    "config", [lora(target_modules=["q_proj"]), prompt()], ids=lambda c: c.peft_type.value
)
def test_a_model_that_cannot_go_on_with_a_text(make, config):
    model = make()
    before = print_of(model)
    with pytest.raises(ValueError, match="needs a transformers model that can generate.*has no"):
        ours.get_peft_model(model, config)
    assert print_of(model) == before


@pytest.mark.parametrize("config", [None, {"peft_type": "LORA"}, ours.LoraConfig], ids=repr)
def test_what_is_no_configuration(config):
    model = tiny_random("llama")
    wrapped = ours.get_peft_model(tiny_random("llama"), lora())
    for call in (
        lambda: ours.get_peft_model(model, config),
        lambda: wrapped.add_adapter("other", config),
        lambda: ours.inject_adapter_in_model(config, model),
    ):
        with pytest.raises(TypeError, match="peft_config must be a configuration, such as"):
            call()
    assert list(wrapped.peft_config) == ["default"]


def test_a_dictionary_of_fields_is_one():
    with pytest.raises(TypeError, match="expected a dictionary with 'peft_type' in it"):
        ours.get_peft_config(None)


def test_names_that_are_none():
    model = ours.get_peft_model(tiny_random("llama"), lora())
    model.add_adapter("other", lora())
    before = print_of(model)
    for call in (model.set_adapter, model.delete_adapter):
        with pytest.raises(TypeError, match="expected the name of one adapter, a text, not"):
            call(["default", "other"])
        with pytest.raises(ours.UnknownAdapterError, match="there is no adapter 'strange'"):
            call("strange")
    for call in (model.merge_adapter, lambda names: model.add_weighted_adapter(names, [1], "sum")):
        with pytest.raises(TypeError, match=r"expected a list of names of adapters; write \['default'\]"):
            call("default")
    with pytest.raises(ours.UnknownAdapterError, match="there is no adapter 'strange'"):
        model.set_requires_grad("strange")
    assert print_of(model) == before


def test_names_to_save(tmp_path):
    model = ours.get_peft_model(tiny_random("llama"), lora())
    with pytest.raises(TypeError, match="expected a list of names"):
        model.save_pretrained(tmp_path / "a", selected_adapters="default")
    with pytest.raises(ValueError, match="save_embedding_layers='yes'; it must be True, False or 'auto'"):
        model.save_pretrained(tmp_path / "a", save_embedding_layers="yes")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "weights, more, message",
    [
        ([], {}, "there must be a weight for each adapter"),
        ([float("nan"), 1], {}, "a weight must be a number, not nan"),
        (["1", 1], {}, "a weight must be a number, not '1'"),
        ([1, 1], dict(svd_rank=0), "svd_rank=0; it must be a whole number"),
    ],
)
def test_weights_of_adapters(weights, more, message):
    model = ours.get_peft_model(tiny_random("llama"), lora())
    model.add_adapter("other", lora(r=4))
    with pytest.raises(ValueError, match=message):
        model.add_weighted_adapter(["default", "other"][: len(weights)], weights, "sum", **more)
    assert list(model.peft_config) == ["default", "other"]


def test_states_that_are_none():
    model = ours.get_peft_model(tiny_random("llama"), lora())
    for state in None, [1], {"weight": torch.zeros(1).numpy()}:
        with pytest.raises(TypeError, match="expected a dictionary of tensors by name"):
            ours.set_peft_model_state_dict(model, state)
    for call in (
        lambda: ours.get_peft_model_state_dict(tiny_random("llama")),
        lambda: ours.set_peft_model_state_dict(tiny_random("llama"), {}),
    ):
        with pytest.raises(TypeError, match="expected a PeftModel, not a LlamaForCausalLM"):
            call()


def test_virtual_tokens_cannot_be_merged():
    "The attribute is missing, as in peft; the message says why."
    model = ours.get_peft_model(tiny_random("llama"), prompt())
    assert not hasattr(model, "merge_and_unload")
    with pytest.raises(AttributeError, match="PROMPT_TUNING does not change the base model's layers"):
        model.merge_and_unload()


def test_hints_at_targets():
    for target, hint in (
        ("q_proj", r"a list is of names: \['q_proj'\]"),
        ("all-linears", "did you mean 'all-linear'"),
    ):
        with pytest.raises(ours.NoMatchingPeftModuleError, match=hint):
            ours.get_peft_model(tiny_random("llama"), lora(target_modules=target))
    pattern = lora(target_modules=["q_proj"], rank_pattern={"k_proj": 2, "q_porj": 3})
    told = said(lambda: ours.get_peft_model(tiny_random("llama"), pattern))
    assert "'k_proj'" in told and told.endswith("did you mean q_proj?")  # k_proj is there, and not adapted


@pytest.mark.parametrize(
    "kind", [prompt, lambda **f: ours.PrefixTuningConfig(**CLM, num_virtual_tokens=2, **f)]
)
@pytest.mark.parametrize("size", ["num_layers", "token_dim"])
def test_sizes_of_another_base_model(kind, size):
    told = said(lambda: ours.get_peft_model(tiny_random("llama"), kind(**{size: 9})))
    assert f"says {size}=9, and this base model has" in told and "for another one?" in told
    assert not said(lambda: ours.get_peft_model(tiny_random("llama"), kind()))


def test_as_many_virtual_tokens_as_tokens():
    with pytest.raises(ValueError, match="num_virtual_tokens=5, but cpt_token_ids has 2"):
        ours.CPTConfig(**CLM, cpt_token_ids=[4, 5], num_virtual_tokens=5)


@pytest.mark.parametrize(
    "kind, fields",
    [
        (ours.PromptTuningConfig, dict(prompt_tuning_init_text="tea")),
        (ours.MultitaskPromptTuningConfig, dict(prompt_tuning_init_task=2)),
        (ours.MultitaskPromptTuningConfig, dict(prompt_tuning_init_state_dict_path="file")),
        (ours.PromptEncoderConfig, dict(encoder_num_layers=3)),
        (ours.PromptEncoderConfig, dict(encoder_dropout=0.5)),
        (ours.CPTConfig, dict(opt_loss_decay_factor=0.5)),
    ],
)
def test_fields_without_effect(kind, fields):
    (name, value) = next(iter(fields.items()))
    assert f"{kind.__name__}: {name}={value!r} has no effect" in said(lambda: kind(**CLM, **fields))
    assert not said(lambda: kind(**CLM, **fields, inference_mode=True))  # a file names every field
    assert not said(lambda: kind(**CLM))


@pytest.mark.parametrize("make", [prompt, lora])
@pytest.mark.parametrize(
    "mask",
    [-1e4 * torch.tensor([[1.0, 0, 0, 0]] * 2), torch.full((2, 4), 0.5), -torch.ones(2, 4, dtype=torch.long)],
)
def test_a_mask_that_is_to_be_added(make, mask):
    model = ours.get_peft_model(tiny_random("llama"), make())
    for call in model, model.generate:
        with pytest.raises(
            ValueError, match="attention_mask must hold 1 for tokens that are seen and 0 for padding"
        ):
            call(input_ids=IDS, attention_mask=mask)


@pytest.mark.parametrize("make", [prompt, lora])
@pytest.mark.parametrize(
    "shape", [(4,), (2, 4, 4), (3, 1, 4, 4), (2, 1, 4, 3), (2, 1, 3, 4), (2, 1, 6, 6), (2, 1, 1, 4, 4)]
)
def test_masks_of_other_shapes(make, shape):
    model = ours.get_peft_model(tiny_random("llama"), make()).eval()
    with pytest.raises(ValueError, match=rf"attention_mask has shape \[{shape[0]}.*\]"):
        model(input_ids=IDS, attention_mask=torch.zeros(shape))
    fits = torch.zeros(1, 1, 4, 4).masked_fill(torch.ones(4, 4).triu(1).bool(), -1e9)
    assert torch.allclose(
        model(input_ids=IDS, attention_mask=fits).logits, model(input_ids=IDS).logits, atol=1e-5
    )


def test_positions_for_other_rows():
    model = ours.get_peft_model(tiny_random("llama"), lora())
    with pytest.raises(ValueError, match="position_ids are for 3 rows, and the input has 2"):
        model(input_ids=IDS, position_ids=torch.arange(4).expand(3, -1))


@pytest.mark.parametrize("shape", [(2, 3), (2, 5), (1, 4), (4,)])
def test_types_of_other_lengths_with_labels_or_not(shape):
    config = ours.CPTConfig(**CLM, cpt_token_ids=[4, 5], cpt_tokens_type_mask=[1, 4])
    model = ours.get_peft_model(tiny_random("llama"), config)
    for labels in IDS, None:
        with pytest.raises(ValueError, match="input_type_mask has shape"):
            model(input_ids=IDS, labels=labels, input_type_mask=torch.ones(shape, dtype=torch.long))


@pytest.mark.parametrize("make", [prompt, lora])
def test_masks_that_are_none_of_these(make):
    model = ours.get_peft_model(tiny_random("llama"), make()).eval()
    right = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    for kind in torch.bool, torch.float32, torch.int8:
        assert torch.equal(model(input_ids=IDS, attention_mask=torch.ones(2, 4, dtype=kind)).logits, right)


@pytest.mark.parametrize("make", [prompt, lora])
@pytest.mark.parametrize("label", [67, -1])
def test_labels_beyond_the_vocabulary(make, label):
    model = ours.get_peft_model(tiny_random("llama"), make())
    labels = IDS.clone()
    labels[0, 1] = label  # (the loss looks at no label of a first token)
    with pytest.raises(ValueError, match=rf"labels must be -100.*or from 0 to 66; there is \[{label}\]"):
        model(input_ids=IDS, labels=labels)
    labels[0, 1] = -100
    assert model(input_ids=IDS, labels=labels).loss.isfinite()


@pytest.mark.parametrize("make", [prompt, lora])
def test_a_refused_call_leaves_the_caller_s_cache_as_it_was(make):
    model = ours.get_peft_model(tiny_random("llama"), make())
    cache = model(input_ids=IDS, use_cache=True).past_key_values
    length = cache.get_seq_length()
    for wrong in dict(input_ids=IDS + 67), dict(input_ids=IDS, labels=IDS + 67):
        with pytest.raises(ValueError, match="from 0 to 66"):
            model(**wrong, past_key_values=cache)
        assert cache.get_seq_length() == length


def test_another_number_for_what_the_loss_leaves_out():
    model = ours.get_peft_model(tiny_random("llama"), lora())
    labels = IDS.clone()
    labels[0, 0] = -1
    assert model(input_ids=IDS, labels=labels, ignore_index=-1).loss.isfinite()


@pytest.mark.parametrize("make", [prompt, lora])
def test_arguments_that_are_misspelt(make):
    model = ours.get_peft_model(tiny_random("llama"), make())
    told = said(lambda: model(input_ids=IDS, lables=IDS))
    assert "no argument 'lables', and leaves it out; did you mean 'labels'?" in told
    assert not said(
        lambda: model(input_ids=IDS, labels=IDS, num_items_in_batch=8, decoder_attention_mask=None)
    )


def test_a_cache_that_is_none():
    model = ours.get_peft_model(tiny_random("llama"), lora())
    with pytest.raises(ValueError, match="past_key_values is a str; it must be a cache"):
        model(input_ids=IDS, past_key_values="cache")


@pytest.mark.parametrize("name", ["embed_tokens", "lm_head"])
@pytest.mark.parametrize("make", [prompt, lora, lambda **f: lora(target_modules=f["modules_to_save"])])
def test_shared_weights_of_which_one_is_trained(make, name):
    told = said(
        lambda: ours.get_peft_model(
            tiny_random("llama", tie_word_embeddings=True), make(modules_to_save=[name])
        )
    )
    assert "shares its weight with" in told
    assert not said(lambda: ours.get_peft_model(tiny_random("llama"), make(modules_to_save=[name])))


def test_a_base_model_that_keeps_copies_of_another_wrapper():
    "Its modules_to_save would be lost."
    base = tiny_random("llama")
    ours.get_peft_model(base, prompt(modules_to_save=["lm_head"]))
    with pytest.raises(ValueError, match="the model has adapters already"):
        ours.get_peft_model(base, prompt(modules_to_save=["lm_head"]))


# --- the embeddings in use are the base model's -------------------------------------------------------------


def test_embeddings_are_trained_in_full_beside_a_prompt():
    model = ours.get_peft_model(tiny_random("llama"), prompt(modules_to_save=["embed_tokens"]))
    model(input_ids=IDS, labels=IDS).loss.backward()
    copy = model.get_base_model().model.embed_tokens.modules_to_save["default"]
    assert copy.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("modules_to_save", [None, ["embed_tokens"]])
def test_the_state_has_the_embeddings_under_the_name_of_peft(modules_to_save):
    one, two = (
        ours.get_peft_model(tiny_random("llama"), prompt(modules_to_save=modules_to_save)).eval()
        for _ in range(2)
    )
    right = one(input_ids=IDS).logits
    two.load_state_dict(one.state_dict())
    assert torch.equal(two(input_ids=IDS).logits, right)
    assert [k for k in one.state_dict() if k.startswith("word_embeddings")] == ["word_embeddings.weight"]


def test_embeddings_that_were_replaced_afterwards():
    model = ours.get_peft_model(tiny_random("llama"), prompt()).eval()
    model.get_base_model().set_input_embeddings(torch.nn.Embedding(80, 32))
    assert model.word_embeddings is model.get_base_model().get_input_embeddings()
    before = model(input_ids=IDS + 60).logits
    with torch.no_grad():
        model.get_base_model().get_input_embeddings().weight += 1
    assert not torch.equal(model(input_ids=IDS + 60).logits, before)


@pytest.mark.parametrize("name", ["attention_mask", "position_ids"])
@pytest.mark.parametrize(
    "given, is_first, fits", [(4, 1, 1), (4, 0, 1), (6, 1, 0), (6, 0, 1), (3, 1, 0), (3, 0, 0)]
)
def test_a_mask_or_positions_of_all_tokens_so_far_need_a_cache(name, given, is_first, fits):
    inputs = {"input_ids": torch.ones(2, 4, dtype=torch.long), name: torch.ones(2, given, dtype=torch.long)}
    if fits:
        check_inputs(**inputs, is_first=bool(is_first))
    else:
        with pytest.raises(ValueError, match=name):
            check_inputs(**inputs, is_first=bool(is_first))


@pytest.mark.parametrize(
    "numbers, end",
    [([1.0, 0.5], "is 0.5, and not all are whole"), ([1.0, -1.0], "is -1"), ([1, -1], "is -1")],
)
def test_what_is_wrong_with_a_mask_is_said(numbers, end):
    with pytest.raises(ValueError, match=f"its smallest number {end}$"):
        check_mask(torch.tensor([numbers]))


def test_embeddings_of_another_width_do_not_go_with_virtual_tokens_in_the_sequence():
    model = ours.get_peft_model(tiny_random("llama"), prompt())
    width = model.word_embeddings.weight.shape[1]
    with pytest.raises(ValueError, match=rf"inputs_embeds has shape \[1, 4, {width + 1}\]"):
        model(inputs_embeds=torch.zeros(1, 4, width + 1))


@pytest.mark.parametrize(
    "targets, end",
    [
        ("all_linear", "did you mean 'all-linear'?"),
        ("q_porj", r"a list is of names: ['q_porj']"),
        (["q_porj"], ""),
    ],
)
def test_targets_that_match_nothing_are_refused_with_a_hint(targets, end):
    with pytest.raises(ValueError, match="match no module") as found:
        ours.get_peft_model(tiny_random("llama"), lora(target_modules=targets))
    assert str(found.value).endswith(end)
    assert ("expression" in str(found.value)) == (targets == "q_porj")


# --- what the base model would say in its own words, or not at all -------------------------------------------------


def a_prefix(**fields):
    return ours.PrefixTuningConfig(**{**CLM, "num_virtual_tokens": 2, **fields})


EMBEDS = torch.zeros(1, 4, 32)
FAILS = {  # of methods that leave ids and embeddings to the base model
    "ids": (dict(input_ids=IDS + 60), "input_ids must be from 0 to 66; here they are from 63 to 70"),
    "width": (dict(inputs_embeds=torch.zeros(1, 4, 33)), r"inputs_embeds has shape \[1, 4, 33\].*any, 32"),
    "dtype": (
        dict(inputs_embeds=EMBEDS.double()),
        "inputs_embeds holds torch.float64, and the base model torch.float32",
    ),
}


@pytest.mark.parametrize("given, message", FAILS.values(), ids=FAILS)
@pytest.mark.parametrize("make", [lora, a_prefix, prompt])
def test_inputs_that_the_base_model_cannot_take(make, given, message):
    model = ours.get_peft_model(tiny_random("llama"), make()).eval()
    for call in model, model.generate:
        with pytest.raises(ValueError, match=message):
            call(**given)


@pytest.mark.parametrize("make", [lora, a_prefix])
def test_labels_that_the_loss_cannot_read(make):
    model = ours.get_peft_model(tiny_random("llama"), make())
    with pytest.raises(ValueError, match="labels holds torch.int32.*pass labels.long"):
        model(input_ids=IDS, labels=IDS.int())


def test_labels_of_any_whole_numbers_get_virtual_ones_in_front():
    model = ours.get_peft_model(tiny_random("llama"), prompt())
    right = model(input_ids=IDS, labels=IDS).loss
    for dtype in torch.int32, torch.int16, torch.uint8:
        assert torch.equal(model(input_ids=IDS, labels=IDS.to(dtype)).loss, right)


@pytest.mark.parametrize("make", [lora, prompt])
def test_other_failures_stay_what_they_are(make):
    model = ours.get_peft_model(tiny_random("llama"), make()).eval()

    def fail(*_):
        raise RuntimeError("mine")

    handle = model.get_base_model().lm_head.register_forward_pre_hook(fail)
    for call in model, model.generate:
        with pytest.raises(RuntimeError, match="mine"):
            call(input_ids=IDS)
    handle.remove()


@pytest.mark.parametrize("make", [lora, a_prefix, prompt])
def test_a_mask_behind_a_cache_is_for_all_tokens_so_far(make):
    "transformers takes what is missing for padding: the newest tokens would not be seen, without a word."
    model = ours.get_peft_model(tiny_random("llama"), make()).eval()
    new, ones = IDS[:, :2], lambda n: torch.ones(2, n, dtype=torch.long)
    held = lambda: model(input_ids=IDS).past_key_values
    right = model(input_ids=new, past_key_values=held()).logits
    for n in 2, 3, 5:
        with pytest.raises(ValueError, match=f"attention_mask is for {n} tokens, and there are 6"):
            model(input_ids=new, past_key_values=held(), attention_mask=ones(n))
    for n in 6, 8:
        given = dict(past_key_values=held(), attention_mask=ones(n))
        assert torch.equal(model(input_ids=new, **given).logits, right)


def test_caches_that_are_not_asked_for_their_length():
    class Recurrent:
        def get_seq_length(self):
            raise ValueError("no tokens")

    class Fixed(Recurrent):
        is_compileable = True

    mask = torch.ones(1, 1)
    for cache in Recurrent(), Fixed(), ((),), None:
        check_mask_behind(cache, mask, 5, 0)
    check_mask_behind(Recurrent(), mask[None], 5, 0)


@pytest.mark.parametrize(
    "pattern, message",
    [
        ({"model.layers.9.self_attn.q_proj.lora_E": [True] * 12}, "rank_pattern speaks of"),
        ({"model.layers.0.self_attn.q_proj.lora_E": [True] * 3}, "for 3 triplets does not fit a layer that"),
    ],
)
def test_a_rank_pattern_of_another_model_is_refused_at_once(pattern, message):
    fields = dict(target_modules=["q_proj"], total_step=10, **CLM)
    base = tiny_random("llama")
    before = print_of(base)
    with pytest.raises(ValueError, match=message):
        ours.get_peft_model(base, ours.AdaLoraConfig(rank_pattern=pattern, **fields))
    assert print_of(base) == before
    right = {"model.layers.0.self_attn.q_proj.lora_E.default": [True] * 12}
    ours.get_peft_model(base, ours.AdaLoraConfig(rank_pattern=right, **fields))


def test_names_of_the_base_model_are_told_not_those_of_adapters():
    model = ours.get_peft_model(tiny_random("llama"), lora(modules_to_save=["lm_head"]))
    for field in "modules_to_save", "target_modules":
        with pytest.raises(ValueError, match="'strange'") as found:
            model.add_adapter("second", lora(**{"target_modules": ["v_proj"], field: ["strange"]}))
        told = str(found.value)
        assert "q_proj" in told and "lm_head" in told
        assert not any(part in told for part in ("base_layer", "lora_", "default", "original_module"))


@pytest.mark.parametrize("kind", [ours.PromptTuningConfig, ours.PrefixTuningConfig, ours.LoraConfig])
def test_a_mask_in_which_positions_cannot_be_counted(kind):
    "OPT counts positions in a mask of two dimensions; with one of four, it has to be told them."
    fields = {} if kind is ours.LoraConfig else dict(num_virtual_tokens=3)
    model = ours.get_peft_model(tiny_random("opt"), kind(task_type="CAUSAL_LM", **fields)).eval()
    ids, seen = torch.tensor([[7, 8, 9]]), torch.ones(3, 3, dtype=torch.bool).tril()[None, None]
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    for given in mask, seen:
        with pytest.raises(
            ValueError, match="OPTForCausalLM counts positions in the mask, so it must be .batch, seq"
        ):
            model(ids, attention_mask=given)
    model.corrected_positions = True  # they are counted here, for virtual tokens
    told = dict(position_ids=torch.arange(3)[None]) if kind is ours.LoraConfig else {}
    with torch.no_grad():
        plain, same = model(ids, attention_mask=torch.ones_like(ids)), model(ids, attention_mask=mask, **told)
    assert torch.allclose(plain.logits, same.logits, atol=1e-5)


@pytest.mark.parametrize("family", ["mamba", "jamba", "longcat_flash", "llama"])
def test_a_layer_that_is_never_called(family):
    "What an adapter adds to it is not computed: that is said where it is so, and only there."
    base, fields = tiny_model(family), dict(target_modules="all-linear", init_lora_weights=False)
    models = []
    heard = said(lambda: models.append(ours.get_peft_model(base, lora(**fields))))
    models[0](IDS.repeat(4, 4), labels=IDS.repeat(4, 4)).loss.backward()
    trained = [(n, p.grad) for n, p in models[0].named_parameters() if "lora_B" in n]
    silent = {n.split(".")[-4] for n, grad in trained if grad is None or not grad.any()}
    assert silent - {"gate_proj", "up_proj", "down_proj"} == (  # (of experts that no token was sent to)
        {"longcat_flash": {"classifier"}, "llama": set()}.get(family, {"dt_proj"} if V5 else set())
    )
    assert all(f".{name}" in heard for name in silent if name in ("dt_proj", "classifier"))
    assert ("without calling the layer" in heard) == bool(silent & {"dt_proj", "classifier"})


def test_a_mask_of_pictures_has_no_rows_for_virtual_tokens():
    "Mllama's `cross_attention_mask` says which token sees which picture."
    model = ours.get_peft_model(tiny_random("llama"), prompt()).eval()
    mask = torch.ones(2, 4, 1, 1)
    for call in model, model.generate:
        with pytest.raises(
            ValueError, match="a row for each token of yours, and none for the virtual tokens"
        ):
            call(input_ids=IDS, cross_attention_mask=mask)


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_a_text_that_is_too_long_for_a_table_of_positions(family):
    "Methods with virtual tokens say it before; here the base model is asked, and its error explained."
    model = ours.get_peft_model(base_model(family), lora()).eval()
    long = torch.randint(3, 60, (1, 65))
    assert model(long[:, :64]).logits.isfinite().all()
    with pytest.raises(ValueError, match="^65 tokens are more than the 64 that .* has positions for"):
        model(long)
    with pytest.raises(ValueError, match="^68 tokens are more than the 64"):
        model.generate(long[:, :60], max_new_tokens=8, do_sample=False)
    with pytest.raises(ValueError, match="labels holds torch.int32"):  # not asked where positions are given
        model(IDS, position_ids=torch.arange(4)[None], labels=IDS.int())


def test_a_list_with_the_word_for_all_layers():
    with pytest.raises(ours.NoMatchingPeftModuleError, match="'all-linear' is a text, not a list"):
        ours.get_peft_model(tiny_random("llama"), lora(target_modules=["all-linear"]))
