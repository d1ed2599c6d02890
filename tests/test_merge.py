"""Merging, unmerging, unloading and the status reports: as in Hugging Face peft, bit for bit, and right where peft is not.

Covers what all tuners share (`peft_viz.tuners.injection`), with LoRA, DoRA, IA3, AdaLoRA and POLY. The helpers are those of test_parity and test_lora.
"""
import copy
import dataclasses
import warnings

import pytest
import torch
from torch import nn

import peft_viz.causal_lm as ours
import peft_viz.config as our_config
from peft_viz.tuners.injection import AdapterHolder, BaseTuner, BaseTunerLayer, get_layer_status, get_model_status, rows_by_adapter
from test_lora import base_model, EMBEDDINGS, families, LINEAR, pairs, targets
from test_parity import assert_equal, batch, gradients, OLD_PEFT, quiet_and_single

peft = pytest.importorskip("peft")

METHODS = {
    "lora": ("LoraConfig", dict(r=3, lora_alpha=5)),
    "dora": ("LoraConfig", dict(r=3, lora_alpha=5, use_dora=True)),
    "ia3": ("IA3Config", dict(feedforward_modules=[])),
    "ia3 feedforward": ("IA3Config", dict()),
    "adalora": ("AdaLoraConfig", dict(target_r=2, init_r=3, total_step=10)),
}
methods = pytest.mark.parametrize("method", METHODS)
LLAMA = "llama, grouped queries"


def config(package, family, method, **fields):
    name, settings = METHODS[method]
    kinds = fields.pop("targets", "L")
    settings = {**dict(task_type="CAUSAL_LM", target_modules=targets(family, kinds)), **settings, **fields}
    if method == "ia3 feedforward":
        settings["feedforward_modules"] = settings["target_modules"]
    return getattr(package, name)(**settings)


def share_random_weights(theirs, ours_, seed=1):
    "Adapter weights that are nobody's initialisation, the same in both; and biases of the base model that are not zero."
    generator = torch.Generator().manual_seed(seed)
    ours_by_name = dict(ours_.named_parameters())
    for name, parameter in theirs.named_parameters():
        if any(part in name for part in ("lora_", "ia3_", "modules_to_save", ".bias")) and "ranknum" not in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
            ours_by_name[name].data = parameter.data.clone()
    return theirs, ours_


def wrap(base, family, method, **fields):
    wrapped = []
    for get_peft_model, package in (peft.get_peft_model, peft), (ours.get_peft_model, our_config):
        torch.manual_seed(3)
        wrapped.append(get_peft_model(copy.deepcopy(base), config(package, family, method, **fields)).eval())
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
    names = {n.replace("base_model.model.", "").replace(".base_layer", "").replace(".original_module", ""): p.detach().clone() for n, p in model.named_parameters()}
    return {n: p for n, p in names.items() if not any(part in n for part in ("lora_", "ia3_", "modules_to_save", "ranknum", "poly_"))}


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
    if OLD_PEFT and method == "dora" and family == "gpt2":  # old peft divides a Conv1D's columns by the factors of its rows
        with pytest.raises(RuntimeError):
            theirs.unmerge_adapter()
        ours_.unmerge_adapter()
    else:
        for model in models:
            model.unmerge_adapter()
        assert_equal(weights(theirs), weights(ours_))
        assert torch.equal(logits(theirs), logits(ours_))
    for name in before:
        torch.testing.assert_close(weights(ours_)[name], before[name])
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
        if len(wanted) == 2:
            activate([ours_], wanted)  # the order counts for DoRA
            torch.testing.assert_close(logits(ours_), (activate([ours_], wanted), logits(ours_))[1])
        if wanted == ["default", "other"]:
            torch.testing.assert_close(logits(ours_), detoured, atol=1e-4, rtol=1e-4)


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
        torch.testing.assert_close(weight, before[name], atol=1e-4, rtol=1e-4)
        assert OLD_PEFT or torch.equal(weight, weights(theirs)[name])


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_merging_into_half_precision(method):
    models = pair("gpt2", method, base_model("gpt2").to(torch.bfloat16))
    for model in models:
        model.merge_adapter()
    assert {w.dtype for n, w in weights(models[1]).items()} == {torch.bfloat16, torch.float32} or {w.dtype for w in weights(models[1]).values()} == {torch.bfloat16}
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


@pytest.mark.parametrize("names, error, message", [("default", TypeError, r"write \['default'\]"), (["defualt"], ValueError, "no adapter 'defualt'; there are default")])
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
    state = copy.deepcopy(ours_.state_dict())
    for call in lambda m: m.merge_adapter(["default"], safe_merge=True), lambda m: m.merge_and_unload(safe_merge=True, adapter_names=["default"]):
        with pytest.raises(ValueError, match="'default' would give weights that are not finite"):
            call(ours_)
        assert_equal(weights(ours_), after_good)
        assert_equal(ours_.state_dict(), state)
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


@pytest.mark.parametrize("fields, settled", [(dict(target_modules=["wte"]), True), (dict(modules_to_save=["lm_head"]), True), (dict(), False)], ids=str)
def test_a_model_whose_embeddings_came_apart_says_so(fields, settled, tmp_path):
    "In its configuration: otherwise they would be tied again, and the adapter be lost, when it is saved and loaded."
    _, model = pair("gpt2", "lora", **fields)
    detoured = logits(model)
    plain = model.merge_and_unload()
    assert plain.config.tie_word_embeddings is (not settled)
    torch.testing.assert_close(logits(plain), detoured, atol=1e-4, rtol=1e-4)
    plain.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(type(plain).from_pretrained(tmp_path)), detoured, atol=1e-4, rtol=1e-4)
