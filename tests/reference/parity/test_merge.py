"""Merging, unmerging, unloading and the status reports: as in Hugging Face peft, bit for bit, and right where
peft is not.

Covers what all tuners share (`peft_viz.reference.injection`), with LoRA, DoRA, IA3, AdaLoRA and POLY. The helpers
are those of test_parity and test_lora."""
# lane: reference

import copy
import dataclasses
import warnings

import pytest
import torch
from torch import nn

import peft_viz.reference.causal_lm as ours
import peft_viz.reference.config as our_config
from peft_viz.reference.injection.layer import AdapterHolder, BaseTunerLayer
from peft_viz.reference.injection.saved import rows_by_adapter
from peft_viz.reference.injection.status import get_layer_status, get_model_status
from peft_viz.reference.injection.targets import all_linear, layer_number, name_matches
from peft_viz.reference.injection.tuner import BaseTuner
from small import base_model, copies
from test_lora import families, pairs, targets
from parity import assert_equal, batch, OLD_PEFT

pytestmark = pytest.mark.usefixtures("quiet_and_single")

peft = pytest.importorskip("peft")

METHODS = {
    "lora": ("LoraConfig", dict(r=3, lora_alpha=5)),
    "dora": ("LoraConfig", dict(r=3, lora_alpha=5, use_dora=True)),
    "ia3": ("IA3Config", dict(feedforward_modules=[])),
    "ia3 feedforward": ("IA3Config", dict()),
    "adalora": ("AdaLoraConfig", dict(target_r=2, init_r=3, total_step=10)),
}
methods = pytest.mark.parametrize("method", METHODS)
LLAMA = "llama"


def config(package, family, method, **fields):
    name, settings = METHODS[method]
    kinds = fields.pop("targets", "L")
    settings = {**dict(task_type="CAUSAL_LM", target_modules=targets(family, kinds)), **settings, **fields}
    if method == "ia3 feedforward":
        settings["feedforward_modules"] = settings["target_modules"]
    return getattr(package, name)(**settings)


def share_random_weights(theirs, ours_, seed=1):
    """Adapter weights that are nobody's initialisation, the same in both; and biases of the base model that are
    not zero."""
    generator = torch.Generator().manual_seed(seed)
    ours_by_name = dict(ours_.named_parameters())
    for name, parameter in theirs.named_parameters():
        if (
            any(part in name for part in ("lora_", "ia3_", "modules_to_save", ".bias"))
            and "ranknum" not in name
        ):
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
            ours_by_name[name].data = parameter.data.clone()
    return theirs, ours_


def wrap(base, family, method, **fields):
    wrapped, copied = [], copies(base)
    for get_peft_model, package in (peft.get_peft_model, peft), (ours.get_peft_model, our_config):
        torch.manual_seed(3)
        wrapped.append(get_peft_model(copied(), config(package, family, method, **fields)).eval())
    return wrapped


def pair(family, method, base=None, **fields):
    return share_random_weights(*wrap(base or base_model(family), family, method, **fields))


def add(models, family, name, method, **fields):
    for model, package in zip(models, (peft, our_config)):
        model.add_adapter(name, config(package, family, method, **fields))
    return share_random_weights(*models)


def activate(models, names):
    for model in models:
        model.base_model.set_adapter(names)


def weights(model):
    "All parameters, by the names they have without a tuner, without adapters."
    names = {
        n.replace("base_model.model.", "")
        .replace(".base_layer", "")
        .replace(".original_module", ""): p.detach().clone()
        for n, p in model.named_parameters()
    }
    return {
        n: p
        for n, p in names.items()
        if not any(part in n for part in ("lora_", "ia3_", "modules_to_save", "ranknum", "poly_"))
    }


def logits(model):
    with torch.no_grad():
        return model(**batch("left", labels=False)).logits


# --- merge, unmerge -------------------------------------------------------------------------------------------


@families
@methods
@pytest.mark.parametrize("safe", [False, True])
def test_merge_and_unmerge(family, method, safe):
    models = theirs, ours_ = pair(family, method)
    before, detoured = weights(ours_), logits(ours_)
    for model in models:
        model.merge_adapter(safe_merge=safe)
    merged = weights(ours_)
    assert_equal(weights(theirs), merged)
    changed = [n for n in before if not torch.equal(before[n], merged[n])]
    assert len(changed) >= 2 and all(any(t in n for t in targets(family, "L")) for n in changed)
    assert torch.equal(logits(theirs), logits(ours_))
    torch.testing.assert_close(logits(ours_), detoured, atol=1e-4, rtol=1e-4)
    if (
        OLD_PEFT and method == "dora" and family == "gpt2"
    ):  # old peft divides a Conv1D's columns by the factors of its rows
        with pytest.raises(RuntimeError):
            theirs.unmerge_adapter()
        ours_.unmerge_adapter()
    else:
        for model in models:
            model.unmerge_adapter()
        assert_equal(weights(theirs), weights(ours_))
        assert torch.equal(logits(theirs), logits(ours_))
    for name in before:
        torch.testing.assert_close(weights(ours_)[name], before[name], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(logits(ours_), detoured, atol=1e-4, rtol=1e-4)


@pairs
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_merged_embeddings(family, method):
    "In models whose output layer is not tied to the embeddings; for the others see below."
    base = base_model(family)
    base.lm_head.weight = nn.Parameter(base.lm_head.weight.detach().clone())
    models = theirs, ours_ = pair(family, method, base, targets="EL")
    detoured = logits(ours_)
    for model in models:
        model.merge_adapter()
    assert_equal(weights(theirs), weights(ours_))
    torch.testing.assert_close(logits(ours_), detoured, atol=1e-4, rtol=1e-4)
    if not (OLD_PEFT and method == "dora" and family == "gpt2"):
        for model in models:
            model.unmerge_adapter()
        assert_equal(weights(theirs), weights(ours_))


@pairs
@pytest.mark.parametrize("orders", [["lora", "lora"], ["lora", "dora"], ["dora", "lora"], ["ia3", "ia3"]])
def test_several_merged(family, orders):
    "Both at once, and one after the other."
    for steps in [None], [["default", "other"]], [["other"], ["default"]], [["other"]]:
        models = theirs, ours_ = pair(family, orders[0])
        add(models, family, "other", orders[1])
        activate(models, ["default", "other"])
        detoured = logits(ours_)
        for names in steps:
            for model in models:
                model.merge_adapter(names)
        wanted = [n for names in steps for n in names or ["default", "other"]]
        layer = next(m for m in ours_.modules() if isinstance(m, BaseTunerLayer))
        assert layer.merged_adapters == wanted and layer.merged
        if not (OLD_PEFT and "dora" in orders):
            assert_equal(weights(theirs), weights(ours_))
        merged = logits(ours_)
        assert (
            not torch.allclose(merged, detoured, atol=1e-3)
            or wanted == ["default", "other"]
            or (len(wanted) == 2 and orders[0] == orders[1])
        )
        activate([ours_], wanted)  # unmerges; the order counts for DoRA
        torch.testing.assert_close(merged, logits(ours_), atol=1e-3, rtol=1e-3)


@pairs
@pytest.mark.parametrize("safe", [False, True])
def test_several_dora_merged(family, safe):
    "Each one's norm is one of the base model's weights, not of weights with the others in them; old peft forgets that."
    models = theirs, ours_ = pair(family, "dora")
    add(models, family, "second", "dora")
    add(models, family, "third", "dora")
    names = ["default", "third", "second"]
    activate(models, names)
    before, detoured = weights(ours_), logits(ours_)
    for model in models:
        model.merge_adapter(safe_merge=safe)
    torch.testing.assert_close(logits(ours_), detoured, atol=1e-3, rtol=1e-3)
    if OLD_PEFT:
        assert not torch.allclose(logits(theirs), detoured, atol=1e-3, rtol=1e-3)
    else:
        assert_equal(weights(theirs), weights(ours_))
        theirs.unmerge_adapter()
    ours_.unmerge_adapter()
    for name, weight in weights(ours_).items():
        torch.testing.assert_close(weight, before[name], atol=1e-3, rtol=1e-3)
        assert OLD_PEFT or torch.equal(weight, weights(theirs)[name])


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_merging_into_half_precision(method):
    models = pair("gpt2", method, base_model("gpt2").to(torch.bfloat16))
    for model in models:
        model.merge_adapter()
    assert {w.dtype for n, w in weights(models[1]).items()} == {torch.bfloat16, torch.float32} or {
        w.dtype for w in weights(models[1]).values()
    } == {torch.bfloat16}
    assert_equal(*[weights(m) for m in models])


def test_warnings():
    "Where there is nothing to do, or something was done already."
    models = theirs, ours_ = pair("gpt2", "lora")
    add(models, "gpt2", "other", "lora")
    tuner, layer = ours_.base_model, ours_.transformer.h[0].attn.c_attn
    with pytest.warns(UserWarning, match="nothing is merged"):
        tuner.unmerge_adapter()
    with pytest.warns(UserWarning, match="nothing is merged"):
        layer.unmerge()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tuner.merge_adapter(["default"])
    merged = weights(ours_)
    with pytest.warns(UserWarning, match="merged already; there is nothing to do"):
        tuner.merge_adapter(["default"])
    assert_equal(weights(ours_), merged)
    with pytest.warns(UserWarning, match="default were merged already; other are merged on top"):
        tuner.merge_adapter(["default", "other"])
    assert layer.merged_adapters == ["default", "other"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tuner.unmerge_adapter()
    assert layer.merged_adapters == [] and not layer.merged


def test_only_some_layers_hold_the_merged_adapter():
    models = theirs, ours_ = pair("gpt2", "lora", layers_to_transform=[0])
    add(models, "gpt2", "other", "lora", layers_to_transform=[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours_.merge_adapter(["other"])
        layers = [h.attn.c_attn for h in ours_.transformer.h]
        assert [layer.merged_adapters for layer in layers] == [[], ["other"]]
        ours_.unmerge_adapter()
    theirs.merge_adapter(["other"])
    theirs.unmerge_adapter()
    assert_equal(weights(theirs), weights(ours_))


@pytest.mark.parametrize(
    "names, error, message",
    [
        ("default", TypeError, r"write \['default'\]"),
        (["defualt"], ValueError, "no adapter 'defualt'; there are default"),
    ],
)
def test_names_that_cannot_be_merged(names, error, message):
    theirs, ours_ = pair("gpt2", "lora")
    before = weights(ours_)
    for merge in ours_.merge_adapter, lambda n: ours_.merge_and_unload(adapter_names=n):
        with pytest.raises(error, match=message):
            merge(names)
    assert_equal(weights(ours_), before)
    if error is ValueError:
        theirs.merge_adapter(names)  # peft does nothing, and does not say so
        assert_equal(weights(theirs), before)


# --- safe_merge: all or nothing -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "dora", "ia3", "adalora"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_adapters_are_refused(method, value):
    "The second layer's adapter is broken; peft has merged the first one then."
    models = theirs, ours_ = pair("gpt2", method)
    add(models, "gpt2", "good", method, **(dict(inference_mode=True) if method == "adalora" else {}))
    for model in models:
        layer = model.base_model.model.transformer.h[1].attn.c_attn
        part = getattr(layer, layer.adapter_layer_names[0])["default"]
        (part.weight if isinstance(part, nn.Module) else part).data.flatten()[0] = value
    before = weights(ours_)
    ours_.merge_adapter(["good"])
    after_good = weights(ours_)
    for call in (
        lambda m: m.merge_adapter(["default"], safe_merge=True),
        lambda m: m.merge_and_unload(safe_merge=True, adapter_names=["default"]),
    ):
        with pytest.raises(ValueError, match="'default' would give weights that are not finite"):
            call(ours_)
        assert_equal(weights(ours_), after_good)
        assert [h.attn.c_attn.merged_adapters for h in ours_.transformer.h] == [["good"], ["good"]]
    ours_.unmerge_adapter()
    for name, weight in weights(ours_).items():
        torch.testing.assert_close(weight, before[name], atol=1e-4, rtol=1e-4)

    with pytest.raises(ValueError, match="NaNs detected"):
        theirs.merge_adapter(["default"], safe_merge=True)
    assert theirs.base_model.model.transformer.h[0].attn.c_attn.merged_adapters == ["default"]


def test_a_broken_bias_is_refused():
    "IA3 rescales biases too: a weight of zero hides a factor that is not finite, its bias does not."
    _, model = pair("gpt2", "ia3")
    layer = model.transformer.h[0].attn.c_attn
    layer.base_layer.weight.data[:, 0] = 1e-30
    layer.base_layer.bias.data[0] = 1e10
    layer.ia3_l["default"].data[0] = 3e38 / 1e9
    with pytest.raises(ValueError, match="not finite"):
        model.merge_adapter(safe_merge=True)


def test_without_safe_merge_nobody_looks():
    theirs, ours_ = pair("gpt2", "lora")
    for model in theirs, ours_:
        model.base_model.model.transformer.h[0].attn.c_attn.lora_A["default"].weight.data[0, 0] = float("nan")
        model.merge_adapter()
        assert model.base_model.model.transformer.h[0].attn.c_attn.weight.isnan().any()


def test_an_interrupted_merge_without_safe_merge_can_be_unmerged(monkeypatch):
    "Each layer knows what is in it."
    _, model = pair("gpt2", "lora")
    before = weights(model)
    last = model.transformer.h[1].attn.c_attn
    monkeypatch.setattr(last, "get_delta_weight", lambda name: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.merge_adapter()
    assert [h.attn.c_attn.merged for h in model.transformer.h] == [True, False]
    model.unmerge_adapter()
    for name, weight in weights(model).items():
        torch.testing.assert_close(weight, before[name])


# --- tied weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["wte", "lm_head"])
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_tied_weights_are_not_corrupted(side, method):
    "peft adds the adapter of one of the two to the weight of both."
    fields = dict(target_modules=[side])
    theirs, ours_ = pair("gpt2", method, **fields)
    before, detoured = weights(ours_), logits(ours_)
    assert ours_.lm_head.weight is ours_.transformer.wte.weight
    theirs.merge_adapter()
    assert not torch.allclose(logits(theirs), detoured, atol=1e-2)
    for safe in False, True:
        with pytest.warns(UserWarning, match="shares its weight"):
            ours_.merge_adapter(safe_merge=safe)
        torch.testing.assert_close(logits(ours_), detoured, atol=1e-4, rtol=1e-4)
        assert ours_.lm_head.weight is not ours_.transformer.wte.weight
        ours_.unmerge_adapter()
        assert ours_.lm_head.weight is ours_.transformer.wte.weight
        assert_equal(weights(ours_), before)  # the shared weight was never touched
        assert torch.equal(logits(ours_), detoured)


def test_tied_weights_both_adapted():
    "The first gets a copy, and the other one keeps the original; twice over one adapter after the other."
    _, model = pair("gpt2", "lora", target_modules=["wte", "lm_head"])
    add([_, model], "gpt2", "other", "lora", target_modules=["wte", "lm_head"])
    activate([model], ["default", "other"])
    before, detoured = weights(model), logits(model)
    model.merge_adapter(["default"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "default were merged already")
        model.merge_adapter(["other"])
    torch.testing.assert_close(logits(model), detoured, atol=1e-4, rtol=1e-4)
    model.unmerge_adapter()
    assert model.lm_head.weight is model.transformer.wte.weight
    for name, weight in weights(model).items():
        torch.testing.assert_close(weight, before[name])


def test_a_refused_adapter_leaves_the_tying():
    _, model = pair("gpt2", "lora", target_modules=["wte", "lm_head"])
    before = weights(model)
    model.lm_head.lora_A["default"].weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        model.merge_adapter(safe_merge=True)
    assert model.lm_head.weight is model.transformer.wte.weight and not model.transformer.wte._shared_weight
    assert_equal(weights(model), before)


def test_an_adapter_elsewhere_leaves_the_tying():
    models = pair("gpt2", "lora", target_modules=["wte"])
    add(models, "gpt2", "other", "lora")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models[1].merge_adapter(["other"])
    assert models[1].lm_head.weight is models[1].transformer.wte.weight


@pytest.mark.parametrize(
    "fields, settled",
    [(dict(target_modules=["wte"]), True), (dict(modules_to_save=["lm_head"]), True), (dict(), False)],
    ids=str,
)
def test_a_model_whose_embeddings_came_apart_says_so(fields, settled, tmp_path):
    "In its configuration: otherwise they would be tied again, and the adapter be lost, when it is saved and loaded."
    _, model = pair("gpt2", "lora", **fields)
    detoured = logits(model)
    plain = model.merge_and_unload()
    assert plain.config.tie_word_embeddings is (not settled)
    torch.testing.assert_close(logits(plain), detoured, atol=1e-4, rtol=1e-4)
    plain.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(type(plain).from_pretrained(tmp_path)), detoured, atol=1e-4, rtol=1e-4)


# --- unload ---------------------------------------------------------------------------------------------------


def is_plain(model):
    return not any(
        isinstance(m, (AdapterHolder, BaseTuner)) or "peft" in type(m).__module__ for m in model.modules()
    )


@families
@methods
@pytest.mark.parametrize("safe", [False, True])
def test_merge_and_unload(family, method, safe):
    models = pair(family, method, modules_to_save=["lm_head"] if family.startswith("llama") else None)
    base, detoured = base_model(family), logits(models[1])
    theirs, ours_ = [m.merge_and_unload(safe_merge=safe) for m in models]
    assert type(ours_) is type(base) and is_plain(ours_)
    assert_equal(dict(theirs.named_parameters()), dict(ours_.named_parameters()))
    assert [(n, p.shape) for n, p in ours_.named_parameters()] == [
        (n, p.shape) for n, p in base.named_parameters()
    ]
    assert [p.requires_grad for p in theirs.parameters()] == [p.requires_grad for p in ours_.parameters()]
    torch.testing.assert_close(logits(ours_), detoured, atol=1e-4, rtol=1e-4)
    again = ours.get_peft_model(
        ours_, config(our_config, family, method)
    )  # nothing is in the way of the next adapter
    torch.testing.assert_close(logits(again), detoured, atol=1e-4, rtol=1e-4)


@pairs
@methods
def test_unload(family, method):
    base = base_model(family)
    _, model = pair(family, method, base, modules_to_save=["lm_head"])
    biases = {n: p.detach().clone() for n, p in weights(model).items()}
    plain = model.unload()
    assert type(plain) is type(base) and is_plain(plain)
    assert_equal(dict(plain.named_parameters()), {n: biases[n] for n, _ in plain.named_parameters()})


@methods
def test_merging_while_the_adapters_are_switched_off(method):
    "The base model goes on computing alone. (peft merges, and takes it back in the next forward.)"
    models = pair(LLAMA, method)
    on = logits(models[1])
    for model in models:
        model.disable_adapter_layers()
        off = logits(model)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            model.merge_adapter()
        torch.testing.assert_close(logits(model), off, atol=1e-5, rtol=1e-5)  # (peft: up to rounding)
    assert "switched off" in str(heard[0].message)
    with pytest.raises(ValueError, match="no adapter 'x'"):
        models[1].merge_adapter(["x"])
    models[1].enable_adapter_layers()
    assert torch.equal(logits(models[1]), on)
    models[1].disable_adapter_layers()
    torch.testing.assert_close(logits(models[1].merge_and_unload()), on, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("first", [dict(targets="L"), dict(modules_to_save=["down_proj"])], ids=str)
def test_unload_with_a_module_in_full_around_adapted_layers(first):
    "One adapter in the layers of `mlp`, another one with a copy of `mlp`: both are out afterwards."
    base = base_model(LLAMA)
    _, model = pair(LLAMA, "lora", base, **first)
    with model.disable_adapter():
        off = logits(model)
    model.add_adapter("other", our_config.LoraConfig(target_modules=["q_proj"], modules_to_save=["mlp"]))
    plain = model.unload()
    assert is_plain(plain) and torch.equal(logits(plain), off)


def test_a_layer_is_adapted_or_trained_in_full():
    "Not both, in whatever order they come; nothing has changed after the error."
    both = dict(target_modules=["down_proj"]), dict(target_modules=["q_proj"], modules_to_save=["down_proj"])
    for first, second in (both, both[::-1]):
        for package, get in ((peft, peft.get_peft_model), (our_config, ours.get_peft_model)):
            model = get(base_model(LLAMA), package.LoraConfig(task_type="CAUSAL_LM", **first))
            names = [n for n, _ in model.named_modules()]
            with pytest.raises(
                (ValueError, TypeError), match="full, too|narrow|cannot be applied|not supported"
            ):
                model.add_adapter("other", package.LoraConfig(task_type="CAUSAL_LM", **second))
    assert [n for n, _ in model.named_modules()] == names


@pytest.mark.parametrize("name", ["norm", "d_tokens", "layernorm", "model.norm"])
def test_modules_in_full_by_the_ends_of_their_names(name, tmp_path):
    "As in peft, also in the middle of a word: `norm` is `input_layernorm`, too. A checkpoint of peft's fits."
    models = pair(LLAMA, "lora", modules_to_save=[name])
    trained = [sorted(n for n, p in m.named_parameters() if p.requires_grad) for m in models]
    assert trained[0] == trained[1] and torch.equal(*map(logits, models))
    models[0].save_pretrained(tmp_path)
    again = ours.PeftModelForCausalLM.from_pretrained(base_model(LLAMA), tmp_path)
    assert torch.equal(logits(again), logits(models[0]))


def test_unload_gives_modules_trained_in_full_back():
    "peft leaves the trained copy in what it calls the base model."
    base = base_model(LLAMA)
    theirs, ours_ = pair(LLAMA, "lora", base, modules_to_save=["lm_head"])
    copies = [m.base_model.model.lm_head.modules_to_save["default"] for m in (theirs, ours_)]
    assert theirs.unload().lm_head is copies[0]
    plain = ours_.unload()
    assert torch.equal(plain.lm_head.weight, base.lm_head.weight)
    assert torch.equal(logits(plain), logits(base))


def test_unload_keeps_what_is_merged():
    models = theirs, ours_ = pair(LLAMA, "lora")
    for model in models:
        model.merge_adapter()
    merged = logits(ours_)
    assert torch.equal(logits(theirs.unload()), merged)
    assert torch.equal(logits(ours_.unload()), merged)


def test_modules_trained_in_full_are_the_merged_adapters():
    "peft takes the active adapter's copy, whichever adapter is merged; where none is active, both take the original."
    models = theirs, ours_ = pair(LLAMA, "lora", modules_to_save=["lm_head"])
    add(models, LLAMA, "other", "lora", modules_to_save=["lm_head"])
    add(models, LLAMA, "without", "lora")
    for names, kept in (
        (["other"], "other"),
        (["without", "other"], "other"),
        (["without"], None),
        (None, "default"),
    ):
        model = copy.deepcopy(ours_)
        head = model.lm_head
        wanted = head.modules_to_save[kept] if kept else head.original_module
        assert model.merge_and_unload(adapter_names=names).lm_head is wanted
    for model in models:
        model.set_adapter("other")
    expected = logits(ours_)
    for model in models:
        model.set_adapter("default")
    assert not torch.allclose(logits(theirs.merge_and_unload(adapter_names=["other"])), expected, atol=1e-3)
    torch.testing.assert_close(
        logits(ours_.merge_and_unload(adapter_names=["other"])), expected, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_trained_biases_stay(bias):
    models = pair("gpt2", "lora", bias=bias)
    detoured = logits(models[1])
    theirs, ours_ = [m.merge_and_unload() for m in models]
    assert_equal(dict(theirs.named_parameters()), dict(ours_.named_parameters()))
    assert [p.requires_grad for p in theirs.parameters()] == [p.requires_grad for p in ours_.parameters()]
    torch.testing.assert_close(logits(ours_), detoured, atol=1e-4, rtol=1e-4)


def test_progress(capsys):
    for shown in True, False:
        pair("gpt2", "lora")[1].merge_and_unload(progressbar=shown)
        assert ("Merging" in capsys.readouterr().err) is shown


def test_what_cannot_be_merged():
    poly = ours.get_peft_model(
        base_model(LLAMA), our_config.PolyConfig(task_type="CAUSAL_LM", r=2, n_tasks=2, n_skills=2)
    )
    before = weights(poly)
    for merge in poly.base_model.merge_adapter, poly.base_model.merge_and_unload:
        with pytest.raises(NotImplementedError, match="PolyModel cannot be merged"):
            merge()
    assert_equal(weights(poly), before)
    assert is_plain(poly.base_model.unload())
    with pytest.raises(NotImplementedError):
        BaseTunerLayer(nn.Linear(2, 2)).get_delta_weight("default")


# --- what else changes while something is merged --------------------------------------------------------------


@methods
def test_switching_off_unmerges(method):
    base = base_model(LLAMA)
    models = theirs, ours_ = pair(LLAMA, method, base)
    detoured = logits(ours_)
    for model in models:
        model.merge_adapter()
        with model.disable_adapter():
            torch.testing.assert_close(logits(model), logits(base), atol=1e-4, rtol=1e-4)
    assert torch.equal(logits(theirs), logits(ours_))
    assert_equal(weights(theirs), weights(ours_))
    assert not any(layer.merged for layer in ours_.base_model.tuner_layers())
    torch.testing.assert_close(logits(ours_), detoured, atol=1e-4, rtol=1e-4)


def test_the_switch():
    _, model = pair("gpt2", "lora", bias="all", modules_to_save=["ln_f"])
    on = logits(model)
    with pytest.warns(UserWarning, match="bias='all'.* stay as trained"):
        model.base_model.disable_adapter_layers()
    assert not torch.equal(logits(model), on)
    assert {n for n, p in model.named_parameters() if p.requires_grad and "bias" not in n} == set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.base_model.enable_adapter_layers()
    assert torch.equal(logits(model), on)
    assert all(p.requires_grad for n, p in model.named_parameters() if "lora_" in n or "modules_to_save" in n)
    _, model = pair("gpt2", "lora")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.base_model.disable_adapter_layers()


def test_the_switch_does_not_thaw():
    "In peft, an adapter for inference is trainable after it was switched off and on."
    theirs, ours_ = pair("gpt2", "lora", inference_mode=True)
    for model in theirs, ours_:
        with model.disable_adapter():
            assert not any(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in ours_.parameters())
    assert any(p.requires_grad for p in theirs.parameters())


def test_another_active_adapter_unmerges():
    models = theirs, ours_ = pair("gpt2", "lora")
    add(models, "gpt2", "other", "lora")
    for model in models:
        model.merge_adapter()
    with pytest.warns(
        UserWarning, match="another adapter becomes active, so the merged adapters were unmerged"
    ):
        ours_.set_adapter("other")
    theirs.set_adapter("other")
    assert_equal(weights(theirs), weights(ours_))
    assert torch.equal(logits(theirs), logits(ours_))
    merged = logits(ours_)
    ours_.merge_adapter()
    with pytest.raises(ValueError, match="no adapter 'nobody'"):
        ours_.base_model.set_adapter(["other", "nobody"])
    assert ours_.active_adapters == ["other"]
    torch.testing.assert_close(logits(ours_), merged, atol=1e-4, rtol=1e-4)


def test_a_new_adapter_unmerges_first():
    "peft measures a new DoRA adapter's lengths on weights with the merged adapter in them."
    models = theirs, ours_ = pair("gpt2", "lora")
    for model in models:
        model.merge_adapter()
    with pytest.warns(UserWarning, match="an adapter is added, so the merged adapters were unmerged"):
        ours_.add_adapter("other", config(our_config, "gpt2", "dora"))
    theirs.add_adapter("other", config(peft, "gpt2", "dora"))
    assert_equal(weights(theirs), weights(ours_))
    lengths = [
        m.base_model.model.transformer.h[0].attn.c_attn.lora_magnitude_vector["other"].weight for m in models
    ]
    torch.testing.assert_close(lengths[1], base_model("gpt2").transformer.h[0].attn.c_attn.weight.norm(dim=0))
    assert not torch.allclose(*lengths)


def test_a_new_adapter_trains_nothing_else():
    theirs, ours_ = pair("gpt2", "lora", modules_to_save=["ln_f"])
    for model in theirs, ours_:
        model.base_model.model.transformer.wte.weight.requires_grad_(True)
        model.base_model.model.transformer.h[0].attn.c_attn.lora_A["default"].weight.requires_grad_(False)
    before = {n: p.requires_grad for n, p in ours_.named_parameters()}
    add((theirs, ours_), "gpt2", "other", "lora", target_modules=["c_attn", "c_fc"], modules_to_save=["ln_f"])
    assert {n: p.requires_grad for n, p in ours_.named_parameters()} == {
        n: before.get(n, False) for n, _ in ours_.named_parameters()
    }
    if not OLD_PEFT:
        assert [p.requires_grad for p in theirs.parameters()] == [p.requires_grad for p in ours_.parameters()]


def test_only_one_adapter_trains_biases():
    models = pair("gpt2", "lora", bias="all")
    for model, package, message in zip(
        models,
        (peft, our_config),
        ("only 1 adapter with bias", "by one adapter only, but there are default and other"),
    ):
        with pytest.raises(ValueError, match=message):
            model.add_adapter("other", config(package, "gpt2", "lora", bias="lora_only"))
    assert list(models[1].peft_config) == ["default"]
    models[1].add_adapter("other", config(our_config, "gpt2", "lora"))
    assert list(models[1].peft_config) == ["default", "other"]


def test_deleting():
    models = theirs, ours_ = pair("gpt2", "dora", modules_to_save=["ln_f"])
    add(models, "gpt2", "other", "dora", modules_to_save=["ln_f"])
    add(models, "gpt2", "third", "lora")
    tuner, layer = ours_.base_model, ours_.transformer.h[0].attn.c_attn
    with ours_.disable_adapter():
        base = logits(ours_)
    for model in models:
        model.merge_adapter()
    with pytest.raises(ValueError, match="'default' is merged; call unmerge_adapter"):
        tuner.delete_adapter("default")
    if not OLD_PEFT:  # old peft forgets what to unmerge
        with pytest.raises(ValueError, match="while they are merged"):
            theirs.delete_adapter("default")
    with pytest.raises(ValueError, match="no adapter 'nobody'"):
        tuner.delete_adapter("nobody")
    merged = logits(ours_)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tuner.delete_adapter("third")  # not merged, not active: nothing else changes
    assert torch.equal(logits(ours_), merged) and layer.merged_adapters == ["default"]
    tuner.unmerge_adapter()
    tuner.set_adapter(["default", "other"])
    tuner.delete_adapter("default")
    assert (
        tuner.active_adapters == layer.active_adapters == ours_.transformer.ln_f.active_adapters == ["other"]
    )
    assert not any(
        "default" in getattr(layer, a) for a in layer.adapter_layer_names + layer.other_param_names
    )
    tuner.delete_adapter("other")
    assert tuner.active_adapters == layer.active_adapters == ours_.transformer.ln_f.active_adapters == []
    torch.testing.assert_close(logits(tuner), base, atol=1e-4, rtol=1e-4)


def test_deleting_the_active_one_of_several():
    "The first of the others becomes active, and trainable unless it is for inference."
    for inference_mode in True, False:
        models = pair("gpt2", "lora")
        add(models, "gpt2", "other", "lora", inference_mode=inference_mode)
        tuner = models[1].base_model
        tuner.delete_adapter("default")
        assert tuner.active_adapters == ["other"]
        assert {p.requires_grad for n, p in tuner.named_parameters() if "lora_" in n} == {not inference_mode}


def test_holders_know_their_adapters():
    _, model = pair("gpt2", "lora", modules_to_save=["ln_f"])
    layer, saved = model.transformer.h[0].attn.c_attn, model.transformer.ln_f
    assert layer.has_adapter("default") and saved.has_adapter("default") and not layer.has_adapter("other")
    assert layer.get_base_layer() is layer.base_layer
    saved.delete_adapter("default")
    assert saved.active_adapters == [] and saved.used() is saved.original_module
    saved.delete_adapter("default")  # not there any more: nothing to forget


def test_rows_by_adapter():
    assert rows_by_adapter(torch.zeros(4, 2), ["a", "b", "a", "__base__"]) == {
        "a": [0, 2],
        "b": [1],
        "__base__": [3],
    }
    with pytest.raises(ValueError, match="3 names, but a layer got 4 rows"):
        rows_by_adapter(torch.zeros(4, 2), ["a"] * 3)


# --- reports --------------------------------------------------------------------------------------------------


def scenarios():
    def merged(models):
        for model in models:
            model.merge_adapter()

    def merged_partly(models):
        for model in models:
            model.base_model.model.transformer.h[0].attn.c_attn.merge()

    def switched_off(models):
        for model in models:
            model.base_model.disable_adapter_layers()

    def switched_off_partly(models):
        for model in models:
            model.base_model.model.transformer.h[0].attn.c_attn.enable_adapters(False)

    def frozen_partly(models):
        for model in models:
            layer = model.base_model.model.transformer.h[0].attn.c_attn
            part = getattr(layer, layer.adapter_layer_names[0])["default"]
            part.requires_grad_(False)

    def active_partly(models):
        for model in models:
            model.base_model.model.transformer.h[1].attn.c_attn.set_adapter([])

    return {
        "as it is": lambda models: None,
        **{
            f.__name__: f
            for f in (merged, merged_partly, switched_off, switched_off_partly, frozen_partly, active_partly)
        },
    }


def same_reports(theirs, ours_):
    their_layers, our_layers = theirs.get_layer_status(), get_layer_status(ours_)
    assert [dataclasses.asdict(s) | {"quantization_backend": None} for s in their_layers] == [
        dataclasses.asdict(s) for s in our_layers
    ]
    their_model, our_model = theirs.get_model_status(), get_model_status(ours_)
    assert dataclasses.asdict(their_model) | {"quantization_backend": None} == dataclasses.asdict(our_model)
    if not OLD_PEFT:
        assert [f.name for f in dataclasses.fields(their_layers[0])] == [
            f.name for f in dataclasses.fields(our_layers[0])
        ]
        assert [f.name for f in dataclasses.fields(their_model)] == [
            f.name for f in dataclasses.fields(our_model)
        ]
    return our_layers, our_model


@methods
@pytest.mark.parametrize("scenario", scenarios())
@pytest.mark.parametrize("saved", [None, ["ln_f"]])
def test_reports(method, scenario, saved):
    if OLD_PEFT and scenario == "switched_off":
        saved = None  # old peft goes on training the copies
    models = pair("gpt2", method, modules_to_save=saved)
    scenarios()[scenario](models)
    same_reports(*models)


@pytest.mark.parametrize("second", ["lora", "dora"])
def test_reports_about_several(second):
    saved = (
        [None, None] if OLD_PEFT else [["ln_f"], ["lm_head"]]
    )  # old peft disables the copies where an adapter has none
    models = theirs, ours_ = pair("gpt2", "lora", modules_to_save=saved[0], targets="EL")
    add(models, "gpt2", "other", second, targets="L", modules_to_save=saved[1])
    same_reports(*models)
    for model in models:
        model.set_adapter("other")
        model.merge_adapter()
    layers, model = same_reports(*models)
    assert model.available_adapters == ["default", "other"] and model.active_adapters == (
        ["other"] if OLD_PEFT else "irregular"
    )  # ln_f has no copy for it
    assert (
        layers[0].module_type == "lora.Embedding"
        and layers[1].module_type == "lora.Linear"
        and layers[1].merged_adapters == ["other"]
    )


def test_reports_about_poly():
    models = []
    for package, tuner in (peft, peft.get_peft_model), (our_config, ours.get_peft_model):
        models.append(
            tuner(base_model(LLAMA), package.PolyConfig(task_type="CAUSAL_LM", r=2, n_tasks=2, n_skills=2))
        )
    same_reports(*models)


def test_reports_about_parts_without_parameters():
    same_reports(*pair("gpt2", "lora", modules_to_save=["act"]))


def test_reports_about_other_models():
    "A tuner, a model that only holds adapted layers, and one that does not."
    theirs, ours_ = pair("gpt2", "lora")
    assert get_layer_status(ours_.base_model) == get_layer_status(ours_)
    assert get_model_status(ours_.base_model) == get_model_status(ours_)
    inner = [m.base_model.model for m in (theirs, ours_)]
    assert dataclasses.asdict(peft.get_model_status(inner[0])) | {
        "quantization_backend": None
    } == dataclasses.asdict(get_model_status(inner[1]))
    assert [s.name for s in peft.get_layer_status(inner[0])] == [s.name for s in get_layer_status(inner[1])]
    for status in get_layer_status, get_model_status:
        with pytest.raises(ValueError, match="no adapted layers in this GPT2LMHeadModel"):
            status(base_model("gpt2"))


def test_reports_are_tables():
    _, model = pair("gpt2", "lora")
    layers, status = get_layer_status(model), get_model_status(model)
    html = layers._repr_html_()
    assert html.count("<tr>") == 1 + len(layers) == 3 and html.count("<th ") == len(
        dataclasses.fields(layers[0])
    )
    assert "model.transformer.h.1.attn.c_attn" in html and "default: True" in html and "default: cpu" in html
    assert layers[0]._repr_html_().count("<tr>") == 1 + len(dataclasses.fields(layers[0]))
    assert "GPT2LMHeadModel" in status._repr_html_() and "default: LORA" in status._repr_html_()
    layers[0].name = "<b>"
    assert "&lt;b&gt;" in layers._repr_html_() and "<b>" not in layers._repr_html_()


# --- targets --------------------------------------------------------------------------------------------------


def test_names_and_numbers():
    name = "model.layers.1.self_attn.q_proj"
    for names, expected in (
        ({"q_proj"}, True),
        (["k_proj", "self_attn.q_proj"], True),
        (r".*\.1\..*_proj", True),
        (r"\.1\.", False),
        ({"proj"}, False),
        (None, False),
        ([], False),
        ({name}, True),
    ):
        assert name_matches(names, name) is expected
    for pattern, number in (None, 1), ("layers", 1), (["h", "layers"], 1), ("h", None), (["h"], None):
        assert layer_number(name, pattern) == number
    assert layer_number("lm_head", None) is None


def test_all_linear_is_all_but_the_output():
    base = base_model("gpt2")
    assert all_linear(base) == {
        f"transformer.h.{i}.{n}"
        for i in range(2)
        for n in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }
    assert all_linear(nn.Sequential(nn.Linear(2, 2), nn.ReLU())) == {"0"}  # no output layer that it knows of
    for method in "lora", "ia3":
        fields = dict(target_modules="all-linear") | (dict(feedforward_modules=[]) if method == "ia3" else {})
        models = pair("gpt2", method, **fields)
        assert models[1].peft_config["default"].target_modules == all_linear(base)
        assert torch.equal(logits(models[0]), logits(models[1]))


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_default_targets(method):
    "What is not given comes from the table of families."
    for family in "gpt2", LLAMA:
        fields = dict(target_modules=None) | (dict(feedforward_modules=None) if method == "ia3" else {})
        models = pair(family, method, **fields)
        a, b = [m.peft_config["default"] for m in models]
        assert a.target_modules == b.target_modules and getattr(a, "feedforward_modules", None) == getattr(
            b, "feedforward_modules", None
        )
        assert torch.equal(logits(models[0]), logits(models[1]))


def test_targets_that_do_not_exist():
    for fields, message in (
        (
            dict(target_modules=["fc"]),
            "'fc' match no module of GPT2LMHeadModel; its linear layers are called c_attn, c_proj, c_fc",
        ),
        (dict(target_modules="fc"), "'fc' match no module"),
        (dict(target_modules=["c_attn"], exclude_modules=["c_attn"]), r"\(with exclude_modules={'c_attn'}\)"),
        (dict(target_modules=["c_attn"], layers_to_transform=7), r"\(with layers_to_transform=7\)"),
    ):
        with pytest.raises(ValueError, match=message):
            ours.get_peft_model(base_model("gpt2"), config(our_config, "gpt2", "lora", **fields))
    with pytest.raises(ValueError, match="no module of GPT2LMHeadModel is called 'heads'; there are wte"):
        ours.get_peft_model(base_model("gpt2"), config(our_config, "gpt2", "lora", modules_to_save=["heads"]))


@pytest.mark.parametrize(
    "fields",
    [
        dict(layers_to_transform=1),
        dict(layers_to_transform=[0, 1], exclude_modules=["h.0.attn.c_attn"]),
        dict(target_modules=["c_attn", "ln_f"], modules_to_save=["ln_f"]),
    ],
    ids=str,
)
def test_narrowed_targets(fields):
    models = pair("gpt2", "lora", **fields)
    assert list(models[0].state_dict()) == list(models[1].state_dict())
    assert torch.equal(logits(models[0]), logits(models[1]))


def test_a_method_must_say_how():
    tuner = pair("gpt2", "lora")[1].base_model
    for name, arguments in ("prepare_config", 1), ("check_target", 3), ("create_layer", 3):
        with pytest.raises(NotImplementedError):
            getattr(BaseTuner, name)(tuner, *[None] * arguments)


def test_rows_of_their_own_are_for_lora():
    _, model = pair("gpt2", "ia3")
    with pytest.raises(ValueError, match="IA3Model cannot give each row an adapter of its own"):
        model.base_model(**batch(labels=False), adapter_names=["default"] * 3)


def test_ia3_has_one_side_for_each_layer():
    models = pair("gpt2", "ia3")
    with pytest.raises(ValueError, match="rescaled at its output by another adapter"):
        models[1].add_adapter("other", config(our_config, "gpt2", "ia3 feedforward"))
    with pytest.raises(ValueError, match="LayerNorm; narrow"):
        ours.get_peft_model(base_model("gpt2"), config(our_config, "gpt2", "ia3", target_modules=["ln_f"]))


def test_ia3_alone():
    "An adapter that is not in a layer, one that starts at random, and what a layer says about itself."
    models = pair("gpt2", "ia3", target_modules=r".*h\.0.*c_attn")
    add(models, "gpt2", "other", "ia3", target_modules=r".*h\.1.*c_attn", init_ia3_weights=False)
    for names in ["default"], ["other"], ["default", "other"]:
        activate(models, names)
        assert torch.equal(logits(models[0]), logits(models[1]))
    for method, side in ("ia3", "output"), ("ia3 feedforward", "input"):
        starts = [
            m.base_model.model.transformer.h[0].attn.c_attn.ia3_l["default"]
            for m in wrap(base_model("gpt2"), "gpt2", method, init_ia3_weights=False)
        ]
        assert torch.equal(*starts) and not torch.equal(starts[1], torch.ones_like(starts[1]))
        layer = (
            ours.get_peft_model(base_model("gpt2"), config(our_config, "gpt2", method))
            .transformer.h[0]
            .attn.c_attn
        )
        assert f"rescales its {side}" in repr(layer) and (layer.ia3_l["default"] == 1).all()


def test_attributes_of_the_base_model_are_reachable():
    tuner = pair("gpt2", "lora")[1].base_model
    assert tuner.config is tuner.model.config
    with pytest.raises(AttributeError):
        tuner.nothing  # noqa: B018
    with pytest.raises(AttributeError):
        BaseTuner.__new__(BaseTuner).model  # noqa: B018
