"""What people reported of such libraries, and what they get wrong: the right answer, or a clear word before anything
is changed."""

# lane: reference

import functools
import gc
import warnings

import peft
import pytest
import torch
import transformers as tf
from torch import nn
from torch.utils.checkpoint import checkpoint

import peft_viz as ours
from damage import print_of
from families import tiny_model, V5
from peft_viz import tiny_random
from peft_viz.reference.config import PeftWarning
from small import base_model

CLM = dict(task_type="CAUSAL_LM")
IDS = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 10, 11, 12]])


def prompt(**fields):
    return ours.PromptTuningConfig(**{**CLM, "num_virtual_tokens": 2, **fields})


def prefix(**fields):
    return ours.PrefixTuningConfig(**{**CLM, "num_virtual_tokens": 2, **fields})


def lora(**fields):
    return ours.LoraConfig(**{**CLM, **fields})


def wrapped(config, **options):
    return ours.get_peft_model(tiny_random("llama"), config, **options).eval()


def said(call):
    "What is warned of."
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
        gc.collect()
    return " / ".join(str(w.message) for w in found if issubclass(w.category, PeftWarning))


@pytest.mark.parametrize("config", [lora(), prompt(), prefix()], ids=lambda c: c.peft_type.value)
def test_a_mask_that_numbers_the_texts_of_a_row(config):
    "transformers takes every number for a token that is seen: the texts would see each other."
    model = wrapped(config)
    for numbers in torch.tensor([[1, 1, 2, 2, 2]] * 2), torch.full((2, 5), 255, dtype=torch.uint8):
        for call in model, model.generate:
            with pytest.raises(ValueError, match="1 for tokens that are seen.*largest number is"):
                call(IDS, attention_mask=numbers)
    assert model(IDS, attention_mask=torch.ones(2, 5).bool()).logits.isfinite().all()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_base_model_that_leaves_the_cache_out(attention):
    base = tiny_model("whisper")
    base.set_attn_implementation(attention)
    model = ours.get_peft_model(base, prefix()).eval()
    for call in model, model.generate:
        for ids in IDS, IDS[:, :1]:
            with pytest.raises(ValueError, match="leaves the cache out, and with it the prefix"):
                call(input_ids=ids, use_cache=False)
    assert model.generate(input_ids=IDS, max_new_tokens=2).shape == (2, 7)
    model.config.use_cache = False
    with pytest.raises(ValueError, match="pass use_cache=True"):
        model(input_ids=IDS)
    assert model(input_ids=IDS, use_cache=True).logits.isfinite().all()
    assert wrapped(prefix())(IDS, use_cache=False).logits.isfinite().all()  # others read it all the same


HOW = {
    "partial": lambda forward: functools.partial(checkpoint, forward, use_reentrant=False),
    "function": lambda forward: (
        lambda *args, **kwargs: checkpoint(forward, *args, use_reentrant=False, **kwargs)
    ),
}


@pytest.mark.parametrize("part", ["", "self_attn"])
@pytest.mark.parametrize("how", HOW)
def test_checkpointing_by_hand_around_layers(how, part):
    model = wrapped(prefix()).train()
    for layer in model.get_base_model().model.layers:
        inner = layer.get_submodule(part)
        inner.forward = HOW[how](inner.forward)
    with pytest.raises(ValueError, match="the checkpoint around their forward"):
        model(IDS, labels=IDS)
    assert model.eval()(IDS).logits.isfinite().all()


def mention_it(base, flag):
    "Layers whose own code checkpoints, if a flag says so, or if there is none."

    class Layer(type(base.model.layers[0])):
        checkpoints = flag

        def forward(self, *args, **kwargs):
            if self.checkpoints and self.training:
                return checkpoint(super().forward, *args, use_reentrant=False, **kwargs)
            return super().forward(*args, **kwargs)

    class Always(type(base.model.layers[0])):
        def forward(self, *args, **kwargs):
            return checkpoint(super().forward, *args, use_reentrant=False, **kwargs)

    for layer in base.model.layers:
        layer.__class__ = Always if flag is None else Layer
    return base


def test_checkpointing_that_does_not_touch_the_cache():
    plain = wrapped(prefix())
    expected, state = plain(IDS, labels=IDS).loss, plain.state_dict()
    around = wrapped(prefix()).train()
    for layer in around.get_base_model().model.layers:
        layer.mlp.forward = functools.partial(checkpoint, layer.mlp.forward, use_reentrant=False)
    off = ours.get_peft_model(mention_it(tiny_random("llama"), False), prefix()).train()
    for model in around, off:
        model.load_state_dict(state)
        loss = model(IDS, labels=IDS).loss
        loss.backward()
        assert torch.equal(loss, expected)
    for flag in True, None:
        on = ours.get_peft_model(mention_it(tiny_random("llama"), flag), prefix()).train()
        with pytest.raises(ValueError, match="the checkpoint around their forward"):
            on(IDS, labels=IDS)


def test_checkpointing_around_the_whole_model_keeps_the_prefix():
    model = wrapped(prefix())
    model(IDS, labels=IDS).loss.backward()
    (trained,) = (p for p in model.parameters() if p.requires_grad)
    expected, trained.grad = trained.grad, None
    checkpoint(lambda ids: model(ids, labels=ids).loss, IDS, use_reentrant=False).backward()
    assert torch.equal(trained.grad, expected)


class OfEightBits(nn.Module):
    "A linear layer that is none for PyTorch, as libraries for quantization have them."

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("numbers", (linear.weight.detach() * 100).round().to(torch.int8))

    def forward(self, x):
        return x @ (self.numbers.to(x.dtype) / 100).T


class WithAMethod(OfEightBits):
    "The same, where `weight` is a method."

    def weight(self):
        return self.numbers


def quantized(
    kind=OfEightBits, names=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
):
    base = tiny_random("llama")
    for name, module in list(base.named_modules()):
        parent, _, last = name.rpartition(".")
        if last in names:
            setattr(base.get_submodule(parent), last, kind(module))
    return base


@pytest.mark.parametrize(
    "config",
    [
        lora(),
        lora(target_modules="all-linear"),
        lora(target_modules=["attention"]),
        ours.IA3Config(**CLM),
        ours.AdaLoraConfig(total_step=9, **CLM),
        ours.PolyConfig(**CLM),
    ],
    ids=lambda c: f"{c.peft_type.value}-{getattr(c, 'target_modules', None)}",
)
def test_quantized_layers_that_cannot_be_listed_are_named(config):
    base = quantized()
    before = print_of(base)
    with pytest.raises(
        ValueError, match="q_proj.*OfEightBits.*load the base model without this quantization"
    ):
        ours.get_peft_model(base, config)
    assert print_of(base) == before


def test_quantized_layers_that_are_named():
    with pytest.raises(ValueError, match="is .*test_reported.OfEightBits; narrow"):
        ours.get_peft_model(quantized(), lora(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="training in full is not possible.*no plain form"):
        ours.get_peft_model(
            quantized(WithAMethod), lora(target_modules=["embed_tokens"], modules_to_save=["q_proj"])
        )
    some = quantized(names=("q_proj",))
    words = said(lambda: ours.get_peft_model(some, lora(target_modules="all-linear")))
    assert "'all-linear' leaves some layers out: q_proj are" in words
    assert ours.get_peft_model(quantized(), prompt())(IDS).logits.shape[1] == 7


@pytest.mark.parametrize("fields", [dict(lora_dropout=1.0), dict(lora_alpha=0)], ids=str)
def test_settings_with_which_nothing_is_learned(fields):
    assert "it learns nothing" in said(lambda: lora(**fields))
    assert said(lambda: lora(**fields, inference_mode=True)) == ""
    said_of_one = said(lambda: lora(**fields, alpha_pattern={"q_proj": 8}))
    assert ("it learns nothing" in said_of_one) == ("lora_dropout" in fields)
    assert (
        said(lambda: ours.AdaLoraConfig(total_step=9, lora_alpha=0, **CLM)) == ""
    )  # there, it stands for the rank


def test_an_adapter_comes_while_one_with_lengths_is_merged(tmp_path):
    model = wrapped(lora(use_dora=True, init_lora_weights=False))
    logits = model(IDS).logits
    model.save_pretrained(tmp_path)
    model.merge_adapter()
    assert "were unmerged" in said(lambda: model.load_adapter(tmp_path, "again"))
    model.set_adapter("again")
    assert torch.allclose(model(IDS).logits, logits, atol=1e-5)


CPT = dict(cpt_token_ids=[3, 4, 5, 6], cpt_tokens_type_mask=[1, 2, 3, 4], **CLM)


def test_gradients_of_cpt_that_are_added_up_are_those_of_one_batch():
    "A trainer adds up the losses of several calls, each with the number of labels of all."
    model = wrapped(ours.CPTConfig(**CPT))
    given = dict(input_ids=IDS, labels=IDS, input_type_mask=torch.tensor([[1, 2, 3, 4, 4]] * 2))
    whole = model(**given).loss
    all_labels = (IDS[:, 1:] if V5 else IDS).numel()  # as transformers counts them
    rows = [{name: tensor[i : i + 1] for name, tensor in given.items()} for i in range(2)]
    parts = [model(**row, num_items_in_batch=torch.tensor(all_labels)).loss for row in rows]
    assert torch.allclose(sum(parts), whole)
    assert torch.equal(model(**given, num_items_in_batch=all_labels).loss, whole)  # alone: as peft
    loss, *_ = model(**given, num_items_in_batch=2 * all_labels, return_dict=False)
    assert torch.allclose(loss, whole / 2)


def test_labels_that_are_shifted_already():
    given = dict(labels=IDS, shift_labels=IDS.roll(-1, 1).index_fill(1, torch.tensor([4]), -100))
    for config in prompt(), ours.CPTConfig(**CPT):
        with pytest.raises(ValueError, match="shift_labels holds.*pass labels alone"):
            wrapped(config)(IDS, **given)
    for model in wrapped(prefix()), wrapped(lora()):
        assert torch.equal(model(IDS, **given).loss, model(IDS, labels=IDS).loss)


@pytest.mark.parametrize("task", ["CAUSAL_LM", None])
@pytest.mark.parametrize("where", ["argument", "generation_config", "model"])
def test_beams_of_rows_with_adapters_of_their_own(where, task):
    config = ours.LoraConfig(task_type=task, init_lora_weights=False)
    model = ours.get_peft_model(base_model("llama"), config)
    model.add_adapter("other", config)
    model.eval()
    given = dict(max_new_tokens=4, do_sample=False)
    if where == "argument":
        given.update(num_beams=3)
    elif where == "generation_config":
        given.update(generation_config=tf.GenerationConfig(num_beams=3, pad_token_id=0))
    else:
        model.generation_config.num_beams = 3
    both = model.generate(input_ids=IDS, adapter_names=["default", "other"], **given)
    model.set_adapter("other")
    assert torch.equal(both[1:], model.generate(input_ids=IDS[1:], **given))
    model.set_adapter("default")
    assert torch.equal(both[:1], model.generate(input_ids=IDS[:1], **given))


@pytest.mark.parametrize("make", [lora, lambda: ours.AdaLoraConfig(total_step=9, **CLM)])
def test_merged_adapters_in_training(make):
    model = wrapped(make())
    model.merge_adapter()
    assert said(lambda: model(IDS)) == ""
    model.train()
    assert "merged adapters learn nothing" in said(lambda: model(IDS))
    with torch.no_grad():
        assert said(lambda: model(IDS)) == ""
    model.unmerge_adapter()
    assert said(lambda: model(IDS)) == ""


@pytest.mark.parametrize("config", [lora(), prompt()], ids=lambda c: c.peft_type.value)
@pytest.mark.parametrize(
    "theirs",
    [peft.LoraConfig(**CLM), peft.PromptTuningConfig(num_virtual_tokens=2, **CLM)],
    ids=lambda c: c.peft_type,
)
def test_a_model_with_adapters_of_peft(theirs, config):
    model = peft.get_peft_model(tiny_random("llama"), theirs)
    for around in model, model.base_model:
        if not (theirs.is_prompt_learning and around is model.base_model):
            before = print_of(around)
            with pytest.raises(
                ValueError, match="has adapters of peft already.*start from a fresh base model"
            ):
                ours.get_peft_model(around, config)
            assert print_of(around) == before


FLAGS = [
    lambda model, folder: ours.get_peft_model(model, prompt(), corrected_positions="no"),
    lambda model, folder: ours.get_peft_model(model, lora(), autocast_adapter_dtype="float32"),
    lambda model, folder: ours.get_peft_model(model, lora(), revision=3),
    lambda model, folder: ours.PeftModel.from_pretrained(model, folder, is_trainable="False"),
    lambda model, folder: ours.PeftModel.from_pretrained(model, folder, corrected_positions=[]),
]


@pytest.mark.parametrize("number", range(len(FLAGS)))
def test_values_of_a_wrong_type(number, tmp_path):
    wrapped(lora()).save_pretrained(tmp_path)
    model = tiny_random("llama")
    before = print_of(model)
    with pytest.raises(ValueError, match="must be"):
        FLAGS[number](model, tmp_path)
    assert print_of(model) == before


def test_names_that_stand_there_twice():
    model = wrapped(lora(init_lora_weights=False))
    before, logits = print_of(model), model(IDS).logits
    acts = [
        lambda: model.base_model.set_adapter(["default", "default"]),
        lambda: model.merge_adapter(["default", "default"]),
        lambda: model.add_weighted_adapter(["default", "default"], [0.5, 0.5], "sum"),
    ]
    for act in acts:
        with pytest.raises(ValueError, match="'default' is named more than once"):
            act()
        assert print_of(model) == before and torch.equal(model(IDS).logits, logits)


def test_values_that_are_no_lists():
    model = wrapped(lora())
    for act, message in [
        (lambda: model.merge_adapter(True), "a list of names of adapters, not True"),
        (lambda: model.base_model.set_adapter(3), "the name of one adapter, a text, not 3"),
        (lambda: model.add_weighted_adapter(["default"], 1.0, "w"), "a weight for each adapter, not 1.0"),
    ]:
        with pytest.raises(TypeError, match=message):
            act()


def test_arguments_of_other_methods_are_left_out_with_a_word():
    model, tasks = wrapped(lora()), torch.tensor([0, 1])
    assert "task_ids is for MULTITASK_PROMPT_TUNING and POLY" in said(lambda: model(IDS, task_ids=tasks))
    assert "task_ids is for" in said(lambda: model.generate(IDS, task_ids=tasks, max_new_tokens=1))
    assert "input_type_mask is for CPT" in said(lambda: wrapped(prompt())(IDS, input_type_mask=IDS))
    multitask = wrapped(ours.MultitaskPromptTuningConfig(num_virtual_tokens=2, num_tasks=2, **CLM))
    assert said(lambda: multitask(IDS, task_ids=tasks)) == ""


@pytest.mark.parametrize("config", [lora(), prompt()], ids=lambda c: c.peft_type.value)
def test_beginnings_of_generate_that_do_not_fit(config):
    model, short = wrapped(config), torch.arange(3)[None]
    with pytest.raises(ValueError, match="past_key_values is a list"):
        model.generate(IDS, past_key_values=[1], max_new_tokens=1)
    if config.is_prompt_learning:
        assert "Ignoring position ids" in said(
            lambda: model.generate(IDS, position_ids=torch.arange(5)[None], max_new_tokens=1)
        )
        with pytest.raises(ValueError, match="adapter_names give each row its own LoRA adapter"):
            model.generate(IDS, adapter_names=["default", "default"], max_new_tokens=1)
    else:
        with pytest.raises(ValueError, match="position_ids are for 3 tokens"):
            model.generate(IDS, position_ids=short, max_new_tokens=1)


def test_a_context_that_is_not_entered():
    model = wrapped(lora(init_lora_weights=False))
    logits = model(IDS).logits
    assert "disable_adapter() alone switches nothing off" in said(lambda: model.disable_adapter() and None)
    with model.disable_adapter(), model.disable_adapter():
        without = model(IDS).logits
    assert torch.equal(without, tiny_random("llama")(IDS).logits) and torch.equal(model(IDS).logits, logits)
    alone = model.disable_adapter()(lambda: model(IDS).logits)
    assert torch.equal(alone(), without) and torch.equal(alone(), without)
    assert said(lambda: model.disable_adapter().__enter__()) == ""


def test_nothing_to_save_is_said(tmp_path):
    assert "nothing is saved" in said(lambda: wrapped(lora()).save_pretrained(tmp_path, selected_adapters=[]))


@pytest.mark.parametrize(
    "config",
    [
        lora(init_lora_weights=False, modules_to_save=["lm_head"]),
        lora(init_lora_weights=False, target_modules=["embed_tokens", "q_proj"]),
        ours.AdaLoraConfig(total_step=9, init_lora_weights=False, **CLM),
        ours.IA3Config(init_ia3_weights=False, **CLM),
    ],
    ids=["LORA", "LORA-embeddings", "ADALORA", "IA3"],
)
def test_the_state_of_a_model_in_place_of_a_file(config, tmp_path):
    "Trainers have saved `lora_A.default.weight`, and whole models."
    model, state = wrapped(config), {}
    logits = model(IDS).logits
    state.update(model.state_dict())
    again = wrapped(config)
    assert said(lambda: ours.set_peft_model_state_dict(again, state)) == ""
    assert torch.equal(again(IDS).logits, logits)
    own = {name: tensor for name, tensor in state.items() if ".default" in name and "ranknum" not in name}
    model.save_pretrained(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    torch.save(own, tmp_path / "adapter_model.bin")
    other = ours.PeftModel.from_pretrained(tiny_random("llama"), tmp_path, "another")
    assert torch.equal(other(IDS).logits, logits)


def test_the_state_of_another_base_model():
    model, state = wrapped(lora()), {}
    state.update({name: tensor + 1 for name, tensor in model.state_dict().items()})
    before = model.get_base_model().model.norm.weight.clone()
    words = said(lambda: ours.set_peft_model_state_dict(model, state))
    assert "the state is that of another base model" in words
    assert torch.equal(model.get_base_model().model.norm.weight, before)
    with pytest.raises(ValueError, match="missing: prompt_embeddings"):
        ours.set_peft_model_state_dict(wrapped(prompt()), wrapped(prompt()).state_dict())
    del state["base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"]
    with pytest.raises(ValueError, match="missing: .*lora_A.weight"):
        ours.set_peft_model_state_dict(model, state)


def test_a_name_that_is_assigned_is_a_switch():
    model = wrapped(lora(init_lora_weights=False))
    model.add_adapter("other", lora(init_lora_weights=False))
    first = model(IDS).logits
    model.active_adapter = "other"
    assert model.active_adapters == ["other"] and not torch.equal(model(IDS).logits, first)
    with pytest.raises(ValueError, match="there is no adapter 'x'"):
        model.active_adapter = "x"
    assert model.active_adapter == "other"
    model.set_adapter("default")
    assert torch.equal(model(IDS).logits, first)


@pytest.mark.parametrize("make", [prompt, prefix])
def test_no_room_for_a_text(make):
    base = base_model("gpt2")  # 64 positions
    before = print_of(base)
    with pytest.raises(ValueError, match="64 virtual tokens leave no room for a text"):
        ours.get_peft_model(base, make(num_virtual_tokens=64))
    assert print_of(base) == before
    assert ours.get_peft_model(base, make(num_virtual_tokens=63))(IDS[:, :1]).logits.isfinite().all()


def test_a_configuration_that_was_spoiled_is_not_saved(tmp_path):
    model = wrapped(lora())
    model.peft_config["default"].r = "many"
    with pytest.raises(ValueError, match="r='many'; it must be a whole number"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_loading_and_saving_with_values_that_mean_nothing(tmp_path):
    model = wrapped(lora())
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="torch_device='gpu' cannot be used here"):
        ours.PeftModel.from_pretrained(tiny_random("llama"), tmp_path, torch_device="gpu")
    with pytest.raises(ValueError, match="safe_serialization='no'; it must be True or False"):
        model.save_pretrained(tmp_path, safe_serialization="no")


def test_fields_that_nothing_reads():
    assert "encoder_hidden_size=8 has no effect" in said(lambda: prefix(encoder_hidden_size=8))
    assert said(lambda: prefix(encoder_hidden_size=8, prefix_projection=True)) == ""
    assert "cpt_mask=[0, 1, 1, 1] has no effect" in said(lambda: ours.CPTConfig(**CPT, cpt_mask=[0, 1, 1, 1]))
    assert said(lambda: ours.CPTConfig(**CPT, cpt_mask=[1, 1, 1, 1])) == ""


@pytest.mark.parametrize("options", [{}, dict(corrected_positions=True)], ids=str)
@pytest.mark.parametrize("config", [prompt(), prefix()], ids=lambda c: c.peft_type.value)
def test_texts_that_share_a_row(config, options):
    "Virtual tokens stand before the first of them."
    model = wrapped(config, **options)
    positions = torch.tensor([[0, 1, 2, 0, 1]])
    for call in model, model.generate:
        with pytest.raises(ValueError, match="position_ids begin anew.*give each text a row of its own"):
            call(IDS, position_ids=positions)
    with pytest.raises(ValueError, match="cu_seq_lens_q says that several texts share a row"):
        model(IDS, cu_seq_lens_q=torch.tensor([0, 3, 5]))
    padded = dict(
        position_ids=torch.tensor([[1, 1, 0, 1, 2]]), attention_mask=torch.tensor([[0, 0, 1, 1, 1]] * 2)
    )
    assert model(IDS, **padded).logits.isfinite().all()  # behind padding, they begin anyway
    padded = dict(
        position_ids=torch.tensor([[0, 1, 2, 0, 0]]), attention_mask=torch.tensor([[1, 1, 1, 0, 0]] * 2)
    )
    assert model(IDS, **padded).logits.isfinite().all()  # and padding may have any positions
    assert wrapped(lora())(IDS, position_ids=positions).logits.isfinite().all()


@pytest.mark.parametrize("config", [prompt(), prefix()], ids=lambda c: c.peft_type.value)
def test_a_mask_of_another_form(config):
    class BlockMask:
        "As torch's flex attention has it."

    BlockMask.__module__ = "torch.nn.attention.flex_attention"
    for mask in BlockMask(), {"full_attention": BlockMask()}:
        with pytest.raises(ValueError, match="a BlockMask, in which virtual tokens have no columns"):
            wrapped(config)(IDS, attention_mask=mask)


def test_experts_that_are_parameters():
    "In transformers 5 the weights of all experts are one parameter."
    words = said(
        lambda: ours.get_peft_model(tiny_model("qwen2_moe"), lora(target_modules=["q_proj", "down_proj"]))
    )
    has_layers = any(
        name.endswith("experts.0.down_proj") for name, _ in tiny_model("qwen2_moe").named_modules()
    )
    assert (
        has_layers
        or "LoraConfig does not adapt experts.down_proj: these are parameters and no layers" in words
    )
    assert said(lambda: ours.get_peft_model(tiny_model("qwen2_moe"), lora(target_modules=["q_proj"]))) == ""
    if not has_layers:
        words = said(lambda: ours.get_peft_model(tiny_model("mixtral"), lora(target_modules="all-linear")))
        assert "experts.gate_up_proj, experts.down_proj" in words
        with pytest.raises(ValueError, match="match no module.*experts.down_proj: these are parameters"):
            ours.get_peft_model(tiny_model("mixtral"), lora(target_modules=["down_proj"]))


def tied():
    return tf.LlamaForCausalLM(
        tf.LlamaConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            vocab_size=20,
            tie_word_embeddings=True,
        )
    )


@pytest.mark.parametrize(
    "config",
    [
        lora(modules_to_save=["lm_head"]),
        lora(target_modules=["embed_tokens"]),
        lora(target_modules=["lm_head"]),
        prompt(modules_to_save=["lm_head"]),
    ],
    ids=lambda c: f"{c.peft_type.value}-{getattr(c, 'target_modules', None)}",
)
@pytest.mark.parametrize("make", [tied, lambda: tiny_random("llama")], ids=["tied", "two"])
def test_more_words_when_an_adapter_holds_the_embeddings(make, config):
    "transformers would resize one of the two, and then fail."
    model = ours.get_peft_model(make(), config)
    before = print_of(model)
    with pytest.raises(ValueError, match="cannot be resized any more.*before it gets the adapter"):
        model.resize_token_embeddings(99)
    assert print_of(model) == before
    words = model.get_base_model().get_input_embeddings()
    rows = len(words.weight)
    for as_before in {}, dict(new_num_tokens=rows), dict(new_num_tokens=rows - 1, pad_to_multiple_of=rows):
        assert model.resize_token_embeddings(**as_before) is words
    assert print_of(model) == before


def test_more_words_when_no_adapter_holds_them():
    for config in lora(), prompt():
        model = wrapped(config)
        assert model.resize_token_embeddings(99).weight.shape[0] == 99
        assert model(IDS + 80).logits.shape[-1] == 99


@pytest.mark.parametrize("config", [lora(), prompt()], ids=lambda c: c.peft_type.value)
def test_contexts_in_which_no_adapter_can_be_made(config):
    base = tiny_random("llama")
    before = print_of(base)
    with torch.device("meta"), pytest.raises(ValueError, match="the adapter would have no numbers"):
        ours.get_peft_model(base, config)
    assert print_of(base) == before
    with torch.device("meta"):
        assert (
            ours.get_peft_model(tiny_model("llama"), config).device.type == "meta"
        )  # the base model has none
    with torch.inference_mode():
        assert "can never be trained" in said(lambda: ours.get_peft_model(base, config))


def with_smoothing(model, folder):
    args = dict(label_smoothing_factor=0.1, report_to=[], use_cpu=True)
    return tf.Trainer(model, tf.TrainingArguments(output_dir=str(folder), **args))


@pytest.mark.parametrize("options", [{}, dict(corrected_positions=True)], ids=str)
@pytest.mark.parametrize("config", [prompt(), prefix(), lora()], ids=lambda c: c.peft_type.value)
def test_smoothed_labels_are_those_of_the_next_tokens(config, options, tmp_path):
    "transformers finds out by a name whether to shift them; a prefix would learn to repeat what it sees."
    model = wrapped(config, **options)
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    given = dict(input_ids=IDS, attention_mask=mask, labels=IDS.masked_fill(mask == 0, -100))
    logits, labels = model(IDS, attention_mask=mask).logits, given["labels"]
    more = logits.shape[1] - labels.shape[1]  # virtual tokens
    labels = torch.cat((labels.new_full((2, more), -100), labels), 1)[:, 1:]
    chances = logits[:, :-1].log_softmax(-1)[labels != -100]
    right = chances.gather(1, labels[labels != -100][:, None]).mean()
    trainer = with_smoothing(model, tmp_path)
    loss, smoother = trainer.compute_loss(model, dict(given)), trainer.label_smoother
    assert torch.allclose(loss, -(0.9 * right + 0.1 * chances.mean()), atol=1e-6)
    assert trainer.label_smoother is smoother and type(smoother).__name__ == "LabelSmoother"


def test_smoothed_labels_would_replace_the_loss_of_cpt(tmp_path):
    model = wrapped(ours.CPTConfig(**CPT))
    trainer = with_smoothing(model, tmp_path)
    with pytest.raises(ValueError, match="replace CPT's own loss; set label_smoothing_factor=0"):
        trainer.compute_loss(model, dict(input_ids=IDS, labels=IDS))


@pytest.mark.parametrize("config", [lora(), ours.IA3Config(**CLM)], ids=lambda c: c.peft_type.value)
def test_weights_of_adapters_in_tensors(config):
    def combined(weights):
        model = wrapped(config)
        model.add_adapter("b", config)
        model.add_weighted_adapter(["default", "b"], weights, "c")
        model.set_adapter("c")
        return model(IDS).logits

    expected = combined([0.5, 0.25])
    for weights in torch.tensor([0.5, 0.25]), [torch.tensor(0.5), torch.tensor(0.25)]:
        assert torch.equal(combined(weights), expected)
    with pytest.raises(ValueError, match="a weight must be a number, not tensor"):
        combined(torch.ones(2, 1))


def test_the_width_that_peft_writes_for_a_network_that_is_not_there():
    model = peft.get_peft_model(tiny_random("llama"), peft.PrefixTuningConfig(num_virtual_tokens=2, **CLM))
    written = model.peft_config["default"]
    width = dict(encoder_hidden_size=written.encoder_hidden_size, token_dim=written.token_dim)
    assert said(lambda: prefix(**width)) == ""
    assert "encoder_hidden_size=7 has no effect" in said(lambda: prefix(encoder_hidden_size=7))


def test_a_base_model_that_subtracts_the_mask():
    for config in prompt(), lora(target_modules=["ff.layer_1"]):
        model = ours.get_peft_model(tiny_model("xlnet"), config).eval()
        mask = torch.tensor([[0, 1, 1, 1, 1]] * 2)
        with pytest.raises(ValueError, match="holds torch.bool.*pass attention_mask.long()"):
            model(IDS, attention_mask=mask.bool())
        assert model(IDS, attention_mask=mask).logits.isfinite().all()


@pytest.mark.parametrize(
    "config",
    [
        lora(target_modules="all-linear", exclude_modules=["q_proj"]),
        ours.IA3Config(exclude_modules=["k_proj"], **CLM),
    ],
    ids=lambda c: c.peft_type.value,
)
def test_a_file_names_what_is_excluded_among_the_targets(config, tmp_path):
    assert said(lambda: wrapped(config).save_pretrained(tmp_path)) == ""
    assert said(lambda: ours.PeftModel.from_pretrained(tiny_random("llama"), tmp_path)) == ""
    strange = lora(target_modules=["q_proj", "v_porj"], exclude_modules=["k_proj"])
    assert "target_modules: 'v_porj' fits no layer" in said(lambda: wrapped(strange))


@pytest.mark.parametrize("bias", ["none", "all"])
@pytest.mark.parametrize("how", ["unload", "merge_and_unload"])
def test_what_was_unloaded_is_not_saved_over_an_adapter(how, bias, tmp_path):
    "The file would hold no weights, and the good one would be gone."
    model = wrapped(lora(init_lora_weights=False, bias=bias))
    expected = model(IDS).logits
    model.save_pretrained(tmp_path)
    getattr(model, how)()
    for save in ours.get_peft_model_state_dict, lambda m: m.save_pretrained(tmp_path):
        with pytest.raises(
            ValueError, match="no weights of adapter 'default' any more.*save the model that these"
        ):
            save(model)
    again = ours.PeftModel.from_pretrained(tiny_random("llama"), tmp_path).eval()
    assert torch.equal(again(IDS).logits, expected)


def test_another_adapter_after_the_merged_one_is_trained():
    model = wrapped(lora(init_lora_weights=False))
    model.merge_and_unload()
    assert said(lambda: model.train()(IDS)) == ""  # none is left to be taken out again
    model.add_adapter("b", lora())
    model.set_adapter("b")
    assert said(lambda: model.train()(IDS, labels=IDS).loss.backward()) == ""
