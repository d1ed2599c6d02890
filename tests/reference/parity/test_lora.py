"""LoRA in all its variants gives what Hugging Face peft gives: DoRA, embeddings, mixed batches, over six
families, bit for bit.

Where peft itself goes wrong, a test says so by name and asserts what is right. The helpers are those of
test_parity."""
# lane: reference

import warnings

import pytest
import torch
from torch import nn

import peft_viz.reference.causal_lm as ours
import peft_viz.reference.config as our_config
from peft_viz.reference.methods.lora import by_pattern, LoraEmbedding, LoraLayer, LoraLinear
from parity import assert_equal, batch, gradients, OLD_PEFT, share_random_weights
from small import base_model, copies

pytestmark = pytest.mark.usefixtures("quiet_and_single")

peft = pytest.importorskip("peft")
EMBEDDINGS = {
    "gpt2": "wte",
    "llama": "embed_tokens",
    "opt": "embed_tokens",
    "gpt_neox": "embed_in",
    "bloom": "word_embeddings",
    "mpt": "wte",
}
LINEAR = {
    "gpt2": "c_attn",
    "llama": "q_proj v_proj",
    "opt": "q_proj v_proj",
    "gpt_neox": "query_key_value",
    "bloom": "query_key_value",
    "mpt": "Wqkv",
}
families = pytest.mark.parametrize("family", EMBEDDINGS)
pairs = pytest.mark.parametrize("family", ["gpt2", "llama"])  # Conv1D, tied; Linear, not tied

VARIANTS = {  # "E" stands for the embeddings, "L" for the linear layers
    "dora": dict(targets="L", use_dora=True),
    "embedding": dict(targets="E"),
    "both": dict(targets="EL", lora_dropout=0.4, use_rslora=True),
    "dora both": dict(targets="EL", use_dora=True, use_rslora=True),
    "dora dropout": dict(targets="EL", use_dora=True, lora_dropout=0.4),
}
variants = pytest.mark.parametrize("variant", VARIANTS)


def targets(family, kinds):
    return [
        name
        for kind, names in (("E", EMBEDDINGS), ("L", LINEAR))
        if kind in kinds
        for name in names[family].split()
    ]


def config(package, family, targets_="EL", **fields):
    return package.LoraConfig(
        **{
            **dict(task_type="CAUSAL_LM", r=3, lora_alpha=5, target_modules=targets(family, targets_)),
            **fields,
        }
    )


def wrap(base, family, seed=None, autocast_adapter_dtype=True, **fields):
    "The same configuration around the same base model, twice: peft's model and ours."
    kinds = fields.pop("targets", "EL")
    wrapped, copied = [], copies(base)
    for get_peft_model, package in (peft.get_peft_model, peft), (ours.get_peft_model, our_config):
        if seed is not None:
            torch.manual_seed(seed)
        wrapped.append(
            get_peft_model(
                copied(),
                config(package, family, kinds, **fields),
                autocast_adapter_dtype=autocast_adapter_dtype,
            )
        )
    return wrapped


def pair(family, **fields):
    return share_random_weights(*wrap(base_model(family), family, **fields))


def add(models, family, name, **fields):
    kinds = fields.pop("targets", "EL")
    for model, package in zip(models, (peft, our_config)):
        model.add_adapter(name, config(package, family, kinds, **fields))
    return share_random_weights(*models)


def activate(models, names):
    for model in models:
        model.base_model.set_adapter(names)


# --- the variants ---------------------------------------------------------------------------------------------


@families
@variants
@pytest.mark.parametrize("start", [True, False])
def test_same_names_and_start(family, variant, start):
    theirs, ours_ = wrap(base_model(family), family, seed=3, init_lora_weights=start, **VARIANTS[variant])
    assert [(n, p.shape, p.requires_grad) for n, p in theirs.named_parameters()] == [
        (n, p.shape, p.requires_grad) for n, p in ours_.named_parameters()
    ]
    assert list(theirs.state_dict()) == list(ours_.state_dict())
    assert_equal(dict(theirs.named_parameters()), dict(ours_.named_parameters()))
    assert theirs.get_nb_trainable_parameters() == ours_.get_nb_trainable_parameters()


@families
@variants
def test_the_start_is_the_base_model(family, variant):
    base = base_model(family)
    _, model = wrap(base, family, **VARIANTS[variant])
    torch.testing.assert_close(model(**batch("left")).logits, base(**batch("left")).logits)


@families
@variants
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_forward_and_gradients(family, variant, mode):
    results = []
    for model in pair(family, **VARIANTS[variant]):
        model.train(mode == "train")
        torch.manual_seed(4)  # dropout
        output = model(**batch("left"))
        output.loss.backward()
        results.append((output, gradients(model)))
    (their_output, their_gradients), (our_output, our_gradients) = results
    assert torch.equal(their_output.loss, our_output.loss)
    assert torch.equal(their_output.logits, our_output.logits)
    assert len(our_gradients) == sum(p.requires_grad for p in model.parameters())
    assert_equal(their_gradients, our_gradients)


@families
@pytest.mark.parametrize("variant", ["embedding", "dora both"])
@pytest.mark.parametrize(
    "how",
    [dict(do_sample=False), dict(do_sample=True, num_return_sequences=2), dict(num_beams=2)],
    ids=["greedy", "sampled", "beams"],
)
def test_generate(family, variant, how):
    texts = []
    for model in pair(family, **VARIANTS[variant]):
        torch.manual_seed(5)
        with torch.no_grad():
            texts.append(model.eval().generate(**batch("left", labels=False), max_new_tokens=4, **how))
    assert torch.equal(*texts)


@pairs
@variants
def test_several_at_once(family, variant):
    "Also adapters of different kinds, in different layers."
    models = pair(family, **VARIANTS[variant])
    add(models, family, "plain", targets="L", r=2)
    add(models, family, "dora", use_dora=True, r=2)
    for names in (
        ["default"],
        ["default", "plain"],
        ["plain", "default"],
        ["dora", "default"],
        ["default", "plain", "dora"],
    ):
        activate(models, names)
        theirs, ours_ = [m(**batch("left")) for m in models]
        assert torch.equal(theirs.logits, ours_.logits)
        for model, output in zip(models, (theirs, ours_)):
            model.zero_grad()
            output.loss.backward()
        their_gradients, our_gradients = [gradients(m) for m in models]
        if OLD_PEFT:  # old peft never trains an embedding's magnitude that was not active from the start
            forgotten = our_gradients.keys() - their_gradients.keys()
            assert all(".lora_magnitude_vector." in n for n in forgotten)
            our_gradients = {n: g for n, g in our_gradients.items() if n not in forgotten}
        assert_equal(their_gradients, our_gradients)


@pairs
@variants
@pytest.mark.parametrize("cast", [True, False])
def test_half_precision(family, variant, cast):
    base = base_model(family).to(torch.bfloat16)
    models = wrap(
        base, family, seed=6, autocast_adapter_dtype=cast, init_lora_weights=False, **VARIANTS[variant]
    )
    assert {p.dtype for n, p in models[1].named_parameters() if "lora_" in n} == {
        torch.float32 if cast else torch.bfloat16
    }
    assert_equal(*[dict(m.named_parameters()) for m in models])
    assert torch.equal(*[m.eval()(**batch("left")).logits for m in models])


def test_double_precision_stays_double():
    model = ours.get_peft_model(
        base_model("gpt2").double(), config(our_config, "gpt2", init_lora_weights=False)
    )
    layer = model.transformer.h[0].attn.c_attn
    A, B = layer.factors("default")
    assert torch.equal(layer.get_delta_weight("default"), (B @ A).T * (5 / 3))
    assert layer.get_delta_weight("default").dtype == torch.float64


class Scaled(nn.Embedding):
    embed_scale = 3.0

    def forward(self, input_ids):
        return super().forward(input_ids) * self.embed_scale


@pytest.mark.parametrize("dora", [True, False])
@pytest.mark.parametrize("scale", [3.0, torch.tensor(3.0)])
def test_embeddings_that_scale(dora, scale):
    "As in Gemma 3: the detour is scaled with what it is added to."
    base = base_model("llama")
    table = base.model.embed_tokens
    base.model.embed_tokens = Scaled(table.num_embeddings, table.embedding_dim, _weight=table.weight.data)
    base.model.embed_tokens.embed_scale = scale
    models = share_random_weights(*wrap(base, "llama", targets="E", use_dora=dora))
    theirs, ours_ = [m(**batch("left")).logits for m in models]
    assert torch.equal(theirs, ours_)
    merged = models[1].merge_and_unload()
    torch.testing.assert_close(merged(**batch("left")).logits, ours_, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        dict(padding_idx=0),
        dict(max_norm=0.5),
        dict(max_norm=0.5, norm_type=1.0),
        dict(scale_grad_by_freq=True),
        dict(sparse=True),
    ],
    ids=str,
)
def test_embeddings_with_settings(settings):
    "The factors are picked with the settings of the table."
    base = base_model("llama")
    base.model.embed_tokens = nn.Embedding(61, 32, **settings)
    results = []
    for model in share_random_weights(*wrap(base, "llama", targets="E")):
        try:
            output = model(**batch("left"))
            output.loss.backward()
            results.append((output.logits, {n: g.to_dense() for n, g in gradients(model).items()}))
        except RuntimeError as e:
            results.append(str(e))
    if isinstance(results[0], str):
        assert results[0] == results[1]
    else:
        assert torch.equal(results[0][0], results[1][0])
        assert_equal(results[0][1], results[1][1])


# --- an adapter for each row ----------------------------------------------------------------------------------

NAMES = ["other", "__base__", "default"]


def alone(model, names, **inputs):
    "Each row's logits in a batch of rows of the same adapter."
    logits = []
    for row, name in enumerate(names):
        if name == "__base__":
            with model.disable_adapter():
                logits.append(model(**inputs).logits[row])
        else:
            model.set_adapter(name)
            logits.append(model(**inputs).logits[row])
    return torch.stack(logits)


@families
@torch.no_grad()
def test_mixed_batches(family):
    "Linear layers, embeddings and a module trained in full, with a copy for one adapter only."
    base = base_model(family)
    name = next(n for n, m in base.named_modules() if m is base.get_output_embeddings())
    models = pair(family, modules_to_save=[name])
    add(models, family, "other", r=2, modules_to_save=[name])
    ours_ = models[1].eval()
    expected = alone(ours_, NAMES, **batch("left", labels=False))
    mixed = ours_(**batch("left", labels=False), adapter_names=NAMES).logits
    torch.testing.assert_close(mixed, expected, atol=1e-5, rtol=1e-5)
    models[0].set_adapter("default")
    ours_.set_adapter("default")
    theirs = models[0].eval()(**batch("left", labels=False), adapter_names=NAMES).logits
    if family == "mpt":  # peft's forward for MPT forgets them
        assert torch.equal(theirs, ours_(**batch("left", labels=False)).logits)
    else:
        assert torch.equal(theirs, mixed)
    texts = [
        m.generate(**batch("left", labels=False), adapter_names=NAMES, num_beams=2, max_new_tokens=4)
        for m in models
    ]
    assert torch.equal(*texts)
    assert not any(m._forward_pre_hooks for m in ours_.modules())


@pairs
@torch.no_grad()
def test_mixed_batches_where_peft_has_none(family):
    """DoRA, and modules trained in full that are no linear layers: peft refuses them, and in a row of an
    adapter without a copy it crashes."""
    models = pair(family, use_dora=True, modules_to_save=["mlp"])
    add(models, family, "other", r=2)
    theirs, ours_ = [m.eval() for m in models]
    expected = alone(ours_, NAMES, **batch("left", labels=False))
    torch.testing.assert_close(
        ours_(**batch("left", labels=False), adapter_names=NAMES).logits, expected, atol=1e-5, rtol=1e-5
    )
    with pytest.raises(ValueError, match="DoRA"):
        theirs(**batch("left", labels=False), adapter_names=NAMES)

    plain = share_random_weights(*wrap(base_model(family), family, targets="L", modules_to_save=["mlp"]))
    with pytest.raises(TypeError, match="only supported for"):
        plain[0].eval()(**batch("left", labels=False), adapter_names=["default"] * 3)
    expected = plain[1].eval()(**batch("left", labels=False)).logits
    torch.testing.assert_close(
        plain[1](**batch("left", labels=False), adapter_names=["default"] * 3).logits,
        expected,
        atol=1e-5,
        rtol=1e-5,
    )


@torch.no_grad()
def test_mixed_batches_switched_off():
    _, model = pair("gpt2", modules_to_save=["lm_head"])
    with model.eval().disable_adapter():
        off = model(**batch(labels=False), adapter_names=["default"] * 3).logits
    assert torch.equal(off, base_model("gpt2")(**batch(labels=False)).logits)


@pytest.mark.parametrize(
    "how",
    [
        dict(num_return_sequences=2, do_sample=True),
        dict(num_return_sequences=2, num_beams=3),
        dict(do_sample=False),
    ],
)
def test_adapter_names_for_each_copy_of_a_row(how):
    "The rows that generate makes of one row get its adapter, whether sequences or beams are more."
    model = pair("gpt2")[1].eval()
    model.generation_config.eos_token_id = None
    names, ids = ["default", "__base__", "default"], batch(labels=False)["input_ids"]
    copies = how.get("num_return_sequences", 1)
    torch.manual_seed(0)
    mixed = model.generate(ids, adapter_names=names, max_new_tokens=4, **how)
    assert mixed.shape == (3 * copies, 11)
    rows = [
        torch.equal(model(row[None, :-1], adapter_names=[name]).logits, model(row[None, :-1]).logits)
        for row, name in zip(mixed, [n for n in names for _ in range(copies)])
    ]
    assert rows == [name == "default" for name in names for _ in range(copies)]
    if not how.get("do_sample"):
        alone = [
            model.generate(ids[i : i + 1], adapter_names=names[i : i + 1], max_new_tokens=4, **how)
            for i in range(3)
        ]
        assert torch.equal(mixed, torch.cat(alone))


@pytest.mark.parametrize(
    "names, message",
    [
        (["default"] * 2, "2 names, but a layer got 3 rows"),
        (["default", "nobody", "__base__"], "no adapter 'nobody'"),
    ],
)
def test_adapter_names_that_do_not_fit(names, message):
    _, model = pair("gpt2")
    with pytest.raises(ValueError, match=message):
        model.eval()(**batch(labels=False), adapter_names=names)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_adapter_names_are_for_inference():
    _, model = pair("gpt2")
    with pytest.raises(ValueError, match="for inference"):
        model.train()(**batch(labels=False), adapter_names=["default"] * 3)


def test_adapter_names_and_merged_adapters():
    theirs, ours_ = pair("llama")
    for model, message in (theirs, "merged adapters"), (ours_, "not merged; call unmerge_adapter"):
        model.eval().merge_adapter()
        with pytest.raises(ValueError, match=message):
            model(**batch(labels=False), adapter_names=["default"] * 3)


def test_adapter_names_and_modules_that_take_more():
    _, model = pair("llama", modules_to_save=["self_attn"], targets="E")
    with pytest.raises(TypeError, match="LlamaAttention takes more"):
        model.eval()(**batch(labels=False), adapter_names=["default"] * 3)


@torch.no_grad()
def test_the_tuner_itself_takes_adapter_names():
    _, model = pair("gpt2")
    model.eval()
    names = ["default", "__base__", "default"]
    mixed = model(**batch(labels=False), adapter_names=names).logits
    assert torch.equal(model.base_model(**batch(labels=False), adapter_names=names).logits, mixed)
    assert not torch.equal(model(**batch(labels=False)).logits, mixed)


# --- what the configuration says ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "opt"])
@pytest.mark.parametrize("kinds", ["E", "L", "EL", "LE"])
@pytest.mark.parametrize("given", [True, False])
def test_the_layout_in_the_configuration(family, kinds, given):
    """peft notes, with a warning, in which layout the weights are; checkpoints carry it, so it is noted here as
    well, without one."""
    theirs, ours_ = wrap(base_model(family), family, targets=kinds, fan_in_fan_out=given)
    assert ours_.peft_config["default"].fan_in_fan_out == theirs.peft_config["default"].fan_in_fan_out
    add((theirs, ours_), family, "other", targets=kinds)
    assert ours_.peft_config["other"].fan_in_fan_out == theirs.peft_config["other"].fan_in_fan_out
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*shares its weight with")
        ours.get_peft_model(base_model(family), config(our_config, family, fan_in_fan_out=given))


def test_layers_that_cannot_be_adapted():
    for family, name, message in (
        ("gpt2", "ln_f", "LayerNorm"),
        ("opt", "embed_positions", "OPTLearnedPositionalEmbedding, works them out for itself"),
    ):
        base = base_model(family)
        with pytest.raises(ValueError, match=message):
            ours.get_peft_model(base, our_config.LoraConfig(target_modules=[name]))
        assert not any(isinstance(m, LoraLayer) for m in base.modules()) and all(
            p.requires_grad for p in base.parameters()
        )


def test_kinds_of_layers():
    model = ours.get_peft_model(base_model("gpt2"), config(our_config, "gpt2")).transformer
    assert type(model.wte) is LoraEmbedding and type(model.h[0].attn.c_attn) is LoraLinear
    assert (model.wte.in_features, model.wte.out_features) == (61, 32)
    assert (model.h[0].attn.c_attn.in_features, model.h[0].attn.c_attn.out_features) == (32, 96)
    assert "r={'default': 3}, scaling={'default': 1.6666666666666667}" in repr(model.wte)
    for abstract in "add_factors", "factors", "detour", "dora":
        with pytest.raises(NotImplementedError):
            getattr(LoraLayer, abstract)(
                model.wte, *[None] * {"add_factors": 3, "factors": 1, "detour": 2, "dora": 3}[abstract]
            )


def test_patterns():
    assert by_pattern({"c_attn": 1, "h.0.*": 2}, "transformer.h.0.attn.c_attn", 3) == 1
    assert by_pattern({"attn": 1, "h.0.*": 2}, "transformer.h.0.attn.c_attn", 3) == 2
    assert by_pattern({"attn": 1, "_attn": 2}, "transformer.h.0.attn.c_attn", 3) == 3
    model = ours.get_peft_model(
        base_model("gpt2"), config(our_config, "gpt2", rank_pattern={"wte": 5}, alpha_pattern={"c_attn": 7})
    ).transformer
    assert (model.wte.r, model.wte.lora_alpha) == ({"default": 5}, {"default": 5})
    assert (model.h[1].attn.c_attn.r, model.h[1].attn.c_attn.scaling) == ({"default": 3}, {"default": 7 / 3})


def test_dora_is_directions_and_lengths():
    "The rows of the weight the layer computes with have the trained lengths, whatever the detour is."
    for family in "gpt2", "llama":
        _, model = pair(family, use_dora=True)
        for layer in [m for m in model.modules() if isinstance(m, LoraLayer)]:
            merged = layer.oriented(layer.merged_parameters("default")["weight"])
            lengths = layer.lora_magnitude_vector["default"].weight
            torch.testing.assert_close(merged.norm(dim=1), lengths.abs())
            delta = layer.oriented(layer.weight + layer.get_delta_weight("default"))
            torch.testing.assert_close(nn.functional.cosine_similarity(merged, delta, dim=1), lengths.sign())
