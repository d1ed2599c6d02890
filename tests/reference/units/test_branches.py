"""Branches of the class that the parity tests do not reach: masks with four dimensions and masks in a
dictionary, caches of tuples, MPT, what a switched-off adapter is told.

Each asserts what is right from first principles: a soft prompt that consists of the embeddings of real tokens
must give what these tokens give."""
# lane: reference

import copy

import pytest
import torch
import transformers as tf
from transformers import (
    DynamicCache,
    LlamaConfig,
    MptConfig,
    MptForCausalLM,
)

import parity
import peft_viz.reference.causal_lm as ours
from peft_viz import generation, place
from peft_viz.reference.config import CPTConfig, IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig
from parity import base_model, OLD_PEFT, PAD, VOCABULARY
from small import TOKENS

pytestmark = pytest.mark.usefixtures("quiet_and_single")

CLM = dict(task_type="CAUSAL_LM")
V = 4  # virtual tokens
FIRST = torch.tensor([[21, 22, 23, 24]])  # the real tokens whose embeddings the soft prompt takes
IDS = torch.tensor([[5, 6, 7, 8, 9], [PAD, PAD, 10, 11, 12]])
MASK = (IDS != PAD).long()


def prompted(family="llama"):
    "A soft prompt that is `FIRST`, the base model, and FIRST + IDS with its mask."
    base = base_model(family)
    model = ours.get_peft_model(copy.deepcopy(base), PromptTuningConfig(num_virtual_tokens=V, **CLM)).eval()
    model.prompt_encoder["default"].embedding.weight.data = base.get_input_embeddings()(FIRST[0]).detach()
    return (
        model,
        base,
        torch.cat((FIRST.expand(2, -1), IDS), 1),
        torch.cat((torch.ones(2, V, dtype=torch.long), MASK), 1),
    )


def prefixed(family="llama"):
    "A prefix that is the cache of `FIRST`, and the rest as above."
    _, base, ids, mask = prompted(family)
    model = ours.get_peft_model(copy.deepcopy(base), PrefixTuningConfig(num_virtual_tokens=V, **CLM)).eval()
    key_values = torch.stack(
        [torch.stack(layer_key_values(base(FIRST).past_key_values, i)) for i in range(2)]
    )  # [layers, 2, 1, heads, virtual, head_dim]
    model.prompt_encoder["default"].embedding.weight.data = (
        key_values.permute(2, 4, 0, 1, 3, 5).reshape(V, -1).detach()
    )
    return model, base, ids, mask


def layer_key_values(cache, layer):
    return cache.layers[layer].keys, cache.layers[layer].values


def square(mask, dtype=torch.bool):
    """`[batch, sequence]` to the causal `[batch, 1, query, key]`, where a padded query sees itself; as bool, or
    as numbers to add."""
    n = mask.shape[1]
    allowed = mask[:, None, None, :].bool() & torch.ones(n, n, dtype=torch.bool).tril() | torch.eye(
        n, dtype=torch.bool
    )
    if dtype == torch.bool:
        return allowed
    return torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)


def real(logits):
    "Those of real tokens: what a padded query computes is nobody's business."
    return logits[:, -5:][MASK.bool()]


def at(start, stop):
    "What `generate` of transformers 4 says besides about a step; later ones tell the prefill from the cache."
    return dict(cache_position=torch.arange(start, stop)) if OLD_PEFT else {}


# --- masks with four dimensions, and masks in a dictionary --------------------------------------------------------


@pytest.mark.parametrize("make", [prompted, prefixed])
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32], ids=["bool", "additive"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "dictionary"])
def test_4d_mask_in_forward(make, dtype, wrapped):
    "Padding that stands in the mask is kept, and virtual tokens see no text."
    model, base, ids, mask = make("gpt2")
    given = square(MASK, dtype)
    untouched = given.clone()
    with torch.no_grad():
        logits = model(IDS, attention_mask={"full_attention": given} if wrapped else given).logits
        plain = model(IDS, attention_mask=MASK).logits
        right = base(ids, attention_mask=square(mask, dtype)).logits
    torch.testing.assert_close(real(logits), real(right), rtol=0, atol=1e-5)
    torch.testing.assert_close(real(logits), real(plain), rtol=0, atol=1e-5)
    assert torch.equal(given, untouched)


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.float32, torch.long], ids=["bool", "additive", "numbers"]
)
def test_what_a_4d_mask_becomes(dtype):
    mask = square(MASK) if dtype != torch.float32 else square(MASK, dtype)
    yes, no = (0, torch.finfo(dtype).min) if dtype == torch.float32 else (1, 0)
    mask = mask.to(dtype)
    with_rows = place.with_columns(mask, V, are_queries=True)
    without_rows = place.with_columns(mask, V, are_queries=False)
    assert (
        with_rows.shape == (2, 1, V + 5, V + 5)
        and without_rows.shape == (2, 1, 5, V + 5)
        and with_rows.dtype == dtype
    )
    assert torch.equal(with_rows[:, :, V:], without_rows) and torch.equal(without_rows[..., V:], mask)
    assert (without_rows[..., :V] == yes).all()
    lower = torch.ones(V, V + 5).tril().bool()
    assert (with_rows[:, 0, :V][:, lower] == yes).all() and (with_rows[:, 0, :V][:, ~lower] == no).all()


@pytest.mark.parametrize("make", [prompted, prefixed])
def test_4d_mask_at_the_first_and_at_a_later_step(make):
    "The first step of a decoding has queries for virtual tokens where these are in the sequence; a later one has not."
    model, base, ids, mask = make("gpt2")
    with torch.no_grad():
        first = model.prepare_inputs_for_generation(
            IDS, attention_mask=square(MASK, torch.float32), **at(0, 5)
        )
        queries = 5 + V * (make is prompted)
        assert first["attention_mask"].shape == (2, 1, queries, V + 5)
        out = model.base_model(**first, use_cache=True)
        following = torch.cat((IDS, out.logits[:, -1:].argmax(-1)), 1)
        step = square(torch.cat((MASK, torch.ones(2, 1, dtype=torch.long)), 1), torch.float32)[:, :, -1:]
        later = model.prepare_inputs_for_generation(
            following, attention_mask=step, past_key_values=out.past_key_values, **at(5, 6)
        )
        assert later["attention_mask"].shape == (2, 1, 1, V + 6) and later["input_ids"].shape == (2, 1)
        logits = model.base_model(**later).logits
        plain = model(
            following, attention_mask=torch.cat((MASK, torch.ones(2, 1, dtype=torch.long)), 1)
        ).logits[:, -1:]
    torch.testing.assert_close(logits, plain, rtol=0, atol=1e-5)


def test_dictionary_of_one_mask_in_a_decoding_step():
    model, *_ = prompted()
    one = model.prepare_inputs_for_generation(IDS, attention_mask={"full_attention": MASK})
    assert torch.equal(one["attention_mask"], torch.cat((torch.ones(2, V, dtype=torch.long), MASK), 1))


@pytest.mark.parametrize("make", [prompted, prefixed])
def test_dictionary_of_several_masks(make):
    model, *_ = make()
    two = {"full_attention": MASK, "sliding_attention": MASK}
    for call in (
        (lambda: model(IDS, attention_mask=two)),
        (lambda: model.prepare_inputs_for_generation(IDS, attention_mask=two)),
    ):
        with pytest.raises(
            ValueError,
            match=r"single attention mask, got 2: full_attention, sliding_attention; pass a mask \[batch, sequence\]",
        ):
            call()


# --- the inputs of a decoding step ---------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [prompted, prefixed])
@pytest.mark.parametrize("empty", [None, DynamicCache], ids=["no cache", "empty cache"])
def test_injection_where_there_is_nothing_yet(make, empty):
    model, *_ = make()
    step = model.prepare_inputs_for_generation(
        IDS, attention_mask=MASK, past_key_values=empty and empty(), **at(0, 5)
    )
    assert step["attention_mask"].shape == (2, V + 5)
    if make is prompted:
        assert step["input_ids"] is None and step["inputs_embeds"].shape == (2, V + 5, 32)
    else:
        assert step["input_ids"].shape == (2, 5) and step["past_key_values"].get_seq_length() == V


@pytest.mark.parametrize("make", [prompted, prefixed])
@pytest.mark.parametrize("kind", ["cache", "tuples"])
def test_last_token_alone_where_the_rest_is_cached(make, kind):
    model, *_ = make("gpt2")
    cache = model(IDS, attention_mask=MASK).past_key_values
    if kind == "tuples":
        cache = tuple(layer_key_values(cache, i) for i in range(2))
    following = torch.cat((IDS, IDS[:, :1]), 1)
    # the base model of transformers 5 does not know caches of tuples any more: it is not asked
    model.base_model_prepare_inputs_for_generation = lambda input_ids, **kwargs: dict(
        kwargs, input_ids=input_ids
    )
    step = model.prepare_inputs_for_generation(
        following, attention_mask=torch.ones_like(following), past_key_values=cache
    )
    assert torch.equal(step["input_ids"], IDS[:, :1]) and step.get("inputs_embeds") is None
    assert step["past_key_values"] is cache and step["attention_mask"].shape == (2, V + 6)


@pytest.mark.parametrize("make", [prompted, prefixed])
def test_new_tokens_alone(make):
    """Fewer ids than the cache holds are the new ones; so they are with a mask for all, of which the base model
    gets everything."""
    model, *_ = make()
    with torch.no_grad():
        whole = model(torch.cat((IDS, IDS[:, :3]), 1)).logits[:, -1]
        for mask in (None, torch.ones(2, 8, dtype=torch.long)):
            cache = model(IDS).past_key_values
            step = model.prepare_inputs_for_generation(
                IDS[:, :3], attention_mask=mask, past_key_values=cache, **at(5, 8)
            )
            assert torch.equal(step["input_ids"], IDS[:, :3]) and (
                mask is None or step["attention_mask"].shape == (2, V + 8)
            )
            torch.testing.assert_close(model.base_model(**step).logits[:, -1], whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", [prompted, prefixed])
@pytest.mark.parametrize("corrected", [False, True])
def test_positions_of_a_decoding_step(make, corrected):
    """After a prefix they come later; where virtual tokens are in the sequence the base model counts by itself,
    unless positions are corrected."""
    model, *_ = make()
    model.corrected_positions = corrected
    positions = torch.tensor([[7, 8, 9, 10, 11], [0, 1, 2, 3, 4]])
    step = model.prepare_inputs_for_generation(
        IDS, attention_mask=torch.ones_like(IDS), position_ids=positions, **at(0, 5)
    )
    if make is prefixed:
        assert torch.equal(step["position_ids"], positions + V)
    elif corrected:
        assert torch.equal(step["position_ids"], torch.cat((torch.arange(V).expand(2, -1), positions + V), 1))
    else:
        assert "position_ids" not in step
    cache, longer = model(IDS).past_key_values, torch.cat((IDS, IDS[:, :1]), 1)
    step = model.prepare_inputs_for_generation(
        longer,
        past_key_values=cache,
        position_ids=torch.cat((positions, positions[:, -1:] + 1), 1),
        **at(5, 6),
    )
    assert step["input_ids"].shape == (2, 1)
    if make is prefixed or corrected:
        assert torch.equal(step["position_ids"], positions[:, -1:] + 1 + V)
    else:
        assert "position_ids" not in step


@pytest.mark.parametrize("make", [prompted, prefixed])
def test_cache_position_counts_virtual_tokens(make):
    "transformers 4 passes it; whatever it says, it is what the cache says."
    model, *_ = make()
    told = []
    model.base_model_prepare_inputs_for_generation = lambda input_ids, **kwargs: (
        told.append(kwargs["cache_position"]) or dict(kwargs, input_ids=input_ids)
    )
    step = model.prepare_inputs_for_generation(IDS, attention_mask=MASK, cache_position=torch.arange(5))
    assert torch.equal(told[-1], torch.arange(V + 5)[-(5 + V * (make is prompted)) :])
    assert ("cache_position" in step) == (make is prefixed)  # else the base model counts by itself
    cache, longer = model(IDS).past_key_values, torch.cat((IDS, IDS[:, :1]), 1)
    for given in (
        torch.arange(5, 6),
        torch.arange(0),
    ):  # of a decoding step; of a new generate with a cache that holds more than transformers thinks
        step = model.prepare_inputs_for_generation(longer, past_key_values=cache, cache_position=given)
        assert torch.equal(told[-1], torch.tensor([V + 5])) and torch.equal(step["input_ids"], IDS[:, :1])


def test_embeddings_for_the_first_step():
    model, *_ = prompted()
    embeds = model.word_embeddings(IDS)
    is_first = at(0, 5) or dict(is_first_iteration=True)
    first = model.prepare_inputs_for_generation(
        IDS[:, :0], inputs_embeds=embeds, attention_mask=MASK, **is_first
    )
    assert first["input_ids"] is None and torch.equal(
        first["inputs_embeds"], torch.cat((model.get_prompt(2), embeds), 1)
    )


# --- MPT ------------------------------------------------------------------------------------------------------------


def mpt(config, **more):
    torch.manual_seed(0)
    base = MptForCausalLM(
        MptConfig(d_model=32, n_heads=4, n_layers=2, max_seq_len=64, expansion_ratio=2, **TOKENS)
    ).eval()
    base.generation_config.eos_token_id = None
    return ours.get_peft_model(base, config, **more).eval()


@pytest.mark.parametrize(
    "config",
    [LoraConfig(init_lora_weights=False, **CLM), IA3Config(init_ia3_weights=False, **CLM)],
    ids=["LORA", "IA3"],
)
def test_mpt_refuses_embeddings_where_layers_are_changed(config):
    model = mpt(config)
    with pytest.raises(AssertionError, match="forward in MPTForCausalLM does not support inputs_embeds"):
        model(inputs_embeds=model.get_input_embeddings()(IDS))
    with model.disable_adapter():  # the base model itself does
        assert torch.equal(model(inputs_embeds=model.get_input_embeddings()(IDS)).logits, model(IDS).logits)


def test_mpt_runs_without_hooks(monkeypatch):
    model = mpt(LoraConfig(init_lora_weights=False, **CLM))
    monkeypatch.setattr(
        type(model), "_enable_peft_forward_hooks", lambda *args, **kwargs: pytest.fail("a hook")
    )
    given = dict(attention_mask=MASK, labels=IDS, output_hidden_states=True, return_dict=True)
    out, base_out = model(IDS, **given), model.base_model(IDS, **given)
    assert (
        torch.equal(out.logits, base_out.logits)
        and torch.equal(out.loss, base_out.loss)
        and len(out.hidden_states) == 3
    )


def test_another_family_runs_with_hooks(monkeypatch):
    model = ours.get_peft_model(base_model("llama"), LoraConfig(**CLM))
    monkeypatch.setattr(type(model), "_enable_peft_forward_hooks", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(IDS)


def test_mpt_gives_each_row_its_adapter():
    model = mpt(LoraConfig(init_lora_weights=False, **CLM))
    with torch.no_grad():
        mixed = model(IDS, adapter_names=["default", "__base__"]).logits
        adapted = model(IDS).logits
        with model.disable_adapter():
            plain = model(IDS).logits
    torch.testing.assert_close(mixed, torch.stack((adapted[0], plain[1])), rtol=0, atol=1e-6)


def test_prompts_before_mpt_take_embeddings():
    model = mpt(PromptTuningConfig(num_virtual_tokens=V, **CLM))
    assert torch.equal(model(IDS).logits, model(inputs_embeds=model.word_embeddings(IDS)).logits)


# --- a switched-off adapter -----------------------------------------------------------------------------------------


def test_what_a_switched_off_method_is_told():
    "Arguments of the method mean nothing to the base model."
    base = base_model("llama")
    cpt = ours.get_peft_model(
        copy.deepcopy(base), CPTConfig(cpt_token_ids=[3, 4], cpt_tokens_type_mask=[1, 4], **CLM)
    ).eval()
    lora = ours.get_peft_model(copy.deepcopy(base), LoraConfig(init_lora_weights=False, **CLM)).eval()
    right = base(IDS, attention_mask=MASK, labels=IDS)
    for model, told in (
        (cpt, dict(input_type_mask=torch.full_like(IDS, 4))),
        (lora, dict(adapter_names=["default", "__base__"])),
    ):
        with model.disable_adapter():
            out = model(IDS, attention_mask=MASK, labels=IDS, task_ids=torch.tensor([0, 1]), **told)
        assert torch.equal(out.logits, right.logits) and torch.equal(out.loss, right.loss)


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(init_lora_weights=False, **CLM),
        PromptTuningConfig(num_virtual_tokens=V, **CLM),
        PrefixTuningConfig(num_virtual_tokens=V, modules_to_save=["lm_head"], **CLM),
    ],
    ids=lambda c: c.peft_type.value,
)
def test_the_switch(config):
    base = base_model("llama")
    model = ours.get_peft_model(copy.deepcopy(base), config).eval()
    if config.modules_to_save:
        model.base_model.lm_head.modules_to_save["default"].weight.data.mul_(2)
    adapted, plain = model(IDS).logits, base(IDS).logits
    assert adapted.shape != plain.shape or not torch.equal(adapted, plain)
    model.disable_adapter_layers()
    assert torch.equal(model(IDS).logits, plain)
    with model.disable_adapter():
        pass
    assert torch.equal(model(IDS).logits, plain), "the context gives back what it found"
    model.enable_adapter_layers()
    assert torch.equal(model(IDS).logits, adapted)


# --- bases that cannot take a prompt or a prefix --------------------------------------------------------------------


def test_a_prompt_needs_a_base_that_takes_embeddings():
    base = base_model("llama")

    class WithoutEmbeddings(type(base)):
        def forward(self, input_ids=None, attention_mask=None, labels=None, **kwargs):
            return super().forward(
                input_ids=input_ids, attention_mask=attention_mask, labels=labels, **kwargs
            )

    base.__class__ = WithoutEmbeddings
    names = list(base.state_dict())
    with pytest.raises(
        ValueError,
        match="PROMPT_TUNING puts virtual tokens before the embeddings of "
        "the input, and WithoutEmbeddings takes no inputs_embeds",
    ):
        ours.get_peft_model(base, PromptTuningConfig(num_virtual_tokens=V, **CLM))
    assert list(base.state_dict()) == names and all(p.requires_grad for p in base.parameters())
    model = ours.get_peft_model(base, PrefixTuningConfig(num_virtual_tokens=V, **CLM))  # a prefix does not
    assert model(IDS).logits.shape == (2, 5, VOCABULARY)


def test_a_prompt_needs_a_base_that_does_without_ids():
    "BLIP-2 takes embeddings, and wants the ids, too."
    base = base_model("llama")

    class WithIds(type(base)):
        def forward(self, input_ids, attention_mask=None, inputs_embeds=None, **kwargs):
            return super().forward(input_ids, attention_mask, inputs_embeds=inputs_embeds, **kwargs)

    base.__class__ = WithIds
    names = list(base.state_dict())
    with pytest.raises(
        ValueError, match="WithIds cannot do without input_ids; use a method that changes layers"
    ):
        ours.get_peft_model(base, PromptTuningConfig(num_virtual_tokens=V, **CLM))
    assert list(base.state_dict()) == names and all(p.requires_grad for p in base.parameters())
    model = ours.get_peft_model(base, PrefixTuningConfig(num_virtual_tokens=V, **CLM))
    assert model(IDS).logits.shape == (2, 5, VOCABULARY)


def test_a_prefix_needs_a_cache():
    from transformers import MambaConfig, MambaForCausalLM

    base = MambaForCausalLM(MambaConfig(hidden_size=16, num_hidden_layers=1, state_size=4, **TOKENS))
    with pytest.raises(ValueError, match="prefix tuning cannot work with mamba"):
        ours.get_peft_model(base, PrefixTuningConfig(num_virtual_tokens=V, **CLM))


def test_a_prefix_for_layers_of_different_sizes():
    "Keys of eight numbers, values of four, and a layer that keeps nothing: each takes what fits."
    from peft_viz.reference.architectures import KeyValues
    from peft_viz.reference.methods import prefix_tuning as prefix

    config = LlamaConfig(num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, hidden_size=32)
    key_values = torch.arange(3 * 2 * 1 * 2 * V * 8, dtype=torch.float32).view(3, 2, 1, 2, V, 8)
    cache = prefix.to_cache(key_values, [KeyValues(2, 8, 8), None, KeyValues(1, 8, 4)], config)
    assert torch.equal(cache.layers[0].keys, key_values[0, 0]) and torch.equal(
        cache.layers[0].values, key_values[0, 1]
    )
    assert not cache.layers[1].get_seq_length()
    assert torch.equal(cache.layers[2].keys, key_values[2, 0, :, :1]) and torch.equal(
        cache.layers[2].values, key_values[2, 1, :, :1, :, :4]
    )


# --- reports --------------------------------------------------------------------------------------------------------


def test_reports_are_for_layers():
    lora, (prompt, *_) = ours.get_peft_model(base_model("llama"), LoraConfig(**CLM)), prompted()
    assert [row.name for row in lora.get_layer_status()][0] == "model.model.layers.0.self_attn.q_proj"
    assert lora.get_model_status().active_adapters == ["default"]
    for report in prompt.get_layer_status, prompt.get_model_status:
        with pytest.raises(
            TypeError,
            match="get_model_status are for adapters in the base model's layers, which PROMPT_TUNING does not have",
        ):
            report()


def test_half_made_models_do_not_look_for_themselves():
    "Copying and unpickling ask for attributes before there is a base model."
    from peft_viz.reference.model import PeftModel

    half = PeftModel.__new__(PeftModel)
    torch.nn.Module.__init__(half)
    with pytest.raises(AttributeError, match="base_model"):
        half.anything  # noqa: B018
    model, *_ = prompted()
    assert torch.equal(copy.deepcopy(model)(IDS).logits, model(IDS).logits)


# --- families that prepare in a way of their own --------------------------------------------------------------------


@pytest.mark.parametrize("family", ["mamba", "jamba", "bamba", "falcon_h1", "openai-gpt"])
@torch.no_grad()
def test_a_prompt_before_states_and_without_a_cache(family):
    "Recurrent states, alone or beside a cache, and no cache at all: what is generated is what one pass says."
    from families import tiny_model

    base = tiny_model(family)
    base.generation_config.eos_token_id = None
    for name, parameter in sorted(base.named_parameters()):
        if parameter.dim() == 2:
            parameter.data = (
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
                / parameter.shape[-1] ** 0.5
            )
    ids = IDS + 20  # no padding
    model = ours.get_peft_model(
        base, PromptTuningConfig(num_virtual_tokens=V, **CLM), corrected_positions=True
    ).eval()  # Bamba, not told positions, begins to count at every step
    text = model.generate(ids, max_new_tokens=4, do_sample=False)
    assert text.shape == (2, 9) and torch.equal(model(text[:, :-1]).logits[:, -4:].argmax(-1), text[:, -4:])
    assert torch.equal(model.generate(ids, max_new_tokens=4, do_sample=False, use_cache=False), text)
    alone = model.generate(ids[1:], max_new_tokens=4, do_sample=False)
    assert torch.equal(alone, text[1:])


# --- a cache that was cropped -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("make", [prompted, prefixed])
def test_a_cache_cropped_into_the_virtual_tokens(make, corrected, monkeypatch):
    "As assisted generation of transformers 4 does: what is left cannot be gone on with. What was cut further back can."
    monkeypatch.setattr(generation, "SLICES_BY_LENGTH", False)
    model, *_ = make()
    model.corrected_positions = corrected

    class Cache:
        def __init__(self, length):
            self.length = length

        def get_seq_length(self):
            return self.length

        def crop(self, length):
            self.length = length

    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    needed = V + 2 * corrected
    for length, left in (0, 0), (1, 0), (needed - 1, 0), (needed, needed), (needed + 3, needed + 3):
        generation.empty_where_cropped(cache := Cache(length), model.setting, mask)
        assert cache.length == left
    monkeypatch.setattr(generation, "SLICES_BY_LENGTH", True)  # transformers 5 crops by how many to remove
    generation.empty_where_cropped(cache := Cache(1), model.setting, mask)
    assert cache.length == 1


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
def test_positions_for_a_model_that_counts_in_the_mask(padded):
    "OPT does so, and with a cache of fixed length its mask has four dimensions: there it is told what it would count."
    torch.manual_seed(0)
    base = tf.OPTForCausalLM(
        tf.OPTConfig(
            hidden_size=32,
            word_embed_proj_dim=32,
            ffn_dim=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            **TOKENS,
        )
    ).eval()
    base.generation_config.eos_token_id = None
    model = ours.get_peft_model(base, PromptTuningConfig(num_virtual_tokens=V, **CLM)).eval()
    given = dict(attention_mask=MASK) if padded else dict(attention_mask=torch.ones_like(MASK))
    how = dict(max_new_tokens=6, do_sample=False, **given)
    assert torch.equal(model.generate(IDS, cache_implementation="static", **how), model.generate(IDS, **how))


@pytest.mark.parametrize("make", [prompted, prefixed])
@pytest.mark.parametrize("slices_by_length", [False, True])
def test_how_each_era_is_told_what_is_new(make, slices_by_length, monkeypatch):
    "A cache that generate continues from holds more than transformers 4 would think; 5 is told a number."
    monkeypatch.setattr(generation, "SLICES_BY_LENGTH", slices_by_length)
    model, *_ = make()
    cache, longer = model(IDS).past_key_values, torch.cat((MASK, MASK[:, -1:]), 1)
    for mask, filled, expected in (
        (longer, cache, [5]),
        (None, cache, None),
        (longer, None, None),
        (square(longer), cache, None),
    ):
        told = dict(past_key_values=filled, attention_mask=mask)
        assert generation.room_for_virtual_tokens(model.setting, model.generation_config, told) == V
        assert (told["cache_position"].tolist() if "cache_position" in told else None) == (
            None if slices_by_length else expected
        )
    model.base_model_prepare_inputs_for_generation = lambda input_ids, **kwargs: dict(
        kwargs, input_ids=input_ids
    )
    step = model.prepare_inputs_for_generation(IDS, attention_mask=MASK)
    assert step.get("next_sequence_length") == (
        (V + 5 if make is prompted else 5) if slices_by_length else None
    )


@pytest.mark.parametrize("make", [prompted, prefixed])
def test_which_masks_the_base_model_prepares(make):
    "Of two dimensions, with the virtual tokens in it. Another one comes back as it is, extended, and is not shown."
    model, *_ = make()
    for mask in MASK, square(MASK), None:
        told = []
        model.base_model_prepare_inputs_for_generation = lambda input_ids, told=told, **kwargs: (
            told.append(kwargs["attention_mask"]) or dict(input_ids=input_ids, attention_mask="prepared")
        )
        step = model.prepare_inputs_for_generation(IDS, attention_mask=mask)
        if mask is MASK:
            assert (
                torch.equal(told[0], torch.cat((torch.ones(2, V, dtype=torch.long), MASK), 1))
                and step["attention_mask"] == "prepared"
            )
        else:
            assert told == [None] and (
                step["attention_mask"] == "prepared" if mask is None else step["attention_mask"].dim() == 4
            )


@pytest.mark.parametrize("family, takes", [("bloom", False), ("mpt", False), ("gpt2", True)])
@pytest.mark.parametrize(
    "config",
    [PromptTuningConfig(num_virtual_tokens=V, **CLM), PrefixTuningConfig(num_virtual_tokens=V, **CLM)],
    ids=lambda c: c.peft_type.value,
)
@torch.no_grad()
def test_corrected_positions_are_for_those_who_take_positions(family, takes, config):
    model = ours.get_peft_model(parity.base_model(family), config, corrected_positions=True).eval()
    told = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: told.append(kwargs), with_kwargs=True
    )
    model(IDS, attention_mask=MASK), model(IDS)
    model.generate(IDS, attention_mask=MASK, max_new_tokens=2, do_sample=False)
    assert [kwargs.get("position_ids") is not None for kwargs in told] == [takes] * 4
