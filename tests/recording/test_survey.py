"What is remembered of a model is what one would find by looking again, whatever was exchanged since."

import gc, weakref

import pytest, torch
from torch.nn.utils import parametrize, prune

import peft_viz
from peft_viz import LoraConfig, PromptTuningConfig, tiny_random
from peft_viz.recording import survey as surveys
from peft_viz.recording.survey import survey

LORA = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"])


def lora(config=LORA):
    return peft_viz.get_peft_model(tiny_random("llama"), config)


def found(model, base) -> dict:
    seen = survey(model, base)
    lists = {name: [(id(x[0]), *x[1:]) for x in getattr(seen, name)] for name in ("places",)}
    lists |= {"attentions": [(layer, id(m)) for layer, m in seen.attentions]}
    lists |= {name: list(map(id, getattr(seen, name))) for name in ("layers", "own")}
    return lists | dict(compiled=seen.compiled, trains=seen.trains(getattr(model, "peft_config", {})))


def layer_of(base, i=0):
    return base.model.layers[i]


def swap(base):
    a, b = layer_of(base, 0), layer_of(base, 1)
    a.mlp, b.mlp = b.mlp, a.mlp


def move(base):
    "From one module to the next: the same parts in the same order, in other places."
    a, b = layer_of(base).self_attn.q_proj.lora_A, layer_of(base).self_attn.q_proj.lora_B
    a._modules["other"], b._modules["other"] = b._modules.pop("default"), a._modules.pop("default")


def rename(base):
    parts = layer_of(base).self_attn.q_proj.lora_A._modules
    parts["another"] = parts.pop("default")


def to_the_next(base):
    "The last part of a module becomes a part of the module that follows: the same parts, in the same order."
    layer = layer_of(base)
    layer.input_layernorm._modules["extra"] = layer.mlp._modules.pop("extra")


def parameter_to_the_next(base):
    mlp = layer_of(base, 1).mlp
    assert list(mlp._modules)[-2:] == ["down_proj", "act_fn"]
    mlp.act_fn._parameters["weight"] = mlp.down_proj._parameters.pop("weight")


def parameter_renamed(base):
    held = layer_of(base, 1).mlp.down_proj._parameters
    held["another"] = held.pop("weight")


def another_class(base):
    layer_of(base).self_attn.__class__ = torch.nn.Identity


def own_forward(base):
    del layer_of(base).mlp.some_note
    layer_of(base).mlp.forward = layer_of(base).mlp.forward


def untied(base):
    base.lm_head.weight = torch.nn.Parameter(base.lm_head.weight.detach().clone())


def tied(base):
    base.lm_head.weight = base.model.embed_tokens.weight


CHANGES = dict(
    second_adapter=lambda model, _: model.add_adapter("second", LORA),
    another_active=lambda model, _: (model.add_adapter("second", LORA), model.set_adapter("second")),
    deleted=lambda model, _: (model.add_adapter("second", LORA), model.delete_adapter("second")),
    merged=lambda model, _: model.merge_adapter(),
    unloaded=lambda model, _: model.unload(),
    swapped=lambda _, base: swap(base),
    moved=lambda _, base: move(base),
    renamed=lambda _, base: rename(base),
    a_layer_less=lambda _, base: base.model.layers.pop(1),
    own_forward=lambda _, base: own_forward(base),
    compiled=lambda _, base: layer_of(base).compile(),
    to_the_next=lambda _, base: to_the_next(base),
    parameter_to_the_next=lambda _, base: parameter_to_the_next(base),
    parameter_renamed=lambda _, base: parameter_renamed(base),
    table=lambda _, base: setattr(layer_of(base).mlp, "position_table", torch.randn(9, 4)),
    buffer=lambda _, base: layer_of(base).mlp.register_buffer("position_table", torch.randn(9, 4)),
    parameter=lambda _, base: setattr(layer_of(base).mlp, "position", torch.nn.Parameter(torch.ones(9, 4))),
    attention=lambda _, base: setattr(layer_of(base), "self_attn", torch.nn.Identity()),
    another_class=lambda _, base: another_class(base),
    parametrized=lambda _, base: parametrize.register_parametrization(
        base.lm_head, "weight", torch.nn.Identity()
    ),
    pruned=lambda _, base: prune.random_unstructured(base.lm_head, "weight", amount=0.5),
    trained=lambda _, base: base.requires_grad_(True),
    frozen=lambda model, _: model.requires_grad_(False),
    half=lambda model, _: model.half(),
    untied=lambda _, base: untied(base),
    tied=lambda _, base: tied(base),
    bias=lambda _, base: setattr(base.lm_head, "bias", torch.nn.Parameter(torch.zeros(2))),
    evaluated=lambda model, _: model.eval(),
)

# nothing that a survey tells depends on them
WITHOUT_EFFECT = "second_adapter another_active deleted merged tied half parametrized pruned".split()


@pytest.mark.parametrize("change", CHANGES)
def test_after_a_change_one_finds_what_is_there(change, monkeypatch):
    monkeypatch.setattr(surveys, "_KEPT", [])
    model = lora()
    base = model.get_base_model()
    layer_of(base).mlp.some_note = 1
    layer_of(base).mlp.extra = torch.nn.Linear(2, 2, bias=False)
    down = layer_of(base, 1).mlp.down_proj
    down.weight.requires_grad_(True)
    del down._parameters["bias"]  # its weight is all it has
    before = found(model, base)
    assert found(model, base) == before and len(surveys._KEPT) == 1
    CHANGES[change](model, base)
    remembered = found(model, base)
    surveys._KEPT.clear()
    assert remembered == found(model, base)
    assert (remembered == before) == (change in WITHOUT_EFFECT)


def test_a_model_is_looked_at_once(monkeypatch):
    monkeypatch.setattr(surveys, "_KEPT", [])
    model, other = lora(), tiny_random("llama")
    first = survey(model, model.get_base_model())
    monkeypatch.setattr(surveys, "parts", lambda _: 1 / 0)
    assert survey(model, model.get_base_model())._facts is first._facts and first.now() is first
    with pytest.raises(ZeroDivisionError):
        survey(other, other)


def test_layers_that_come_in_during_a_recording_are_seen(monkeypatch):
    monkeypatch.setattr(surveys, "_KEPT", [])
    model = lora()
    first = survey(model, model.get_base_model())
    model.add_adapter("second", LoraConfig(task_type="CAUSAL_LM", target_modules=["k_proj"]))
    assert len(first.now().layers) == len(first.layers) + 2


@pytest.mark.parametrize("config", (LORA, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)))
def test_what_is_remembered_keeps_nothing_alive(config):
    gc.disable()  # counting references is enough
    try:
        model = lora(config)
        ghosts = [weakref.ref(m) for m in model.modules()]
        seen = survey(model, model.get_base_model())
        assert seen.modules
        del model, seen
        assert [ghost() for ghost in ghosts] == [None] * len(ghosts)
    finally:
        gc.enable()


def test_an_unusual_module_is_looked_at_each_time(monkeypatch):
    monkeypatch.setattr(surveys, "_KEPT", [])
    model = lora()
    base = model.get_base_model()
    layer_of(base).mlp.act_fn = torch.jit.script(torch.nn.ReLU())
    assert found(model, base) == found(model, base)
    assert len(survey(model, base).layers) == 4


def test_two_models_share_a_base():
    base = tiny_random("llama")
    one = peft_viz.get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    two = peft_viz.get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    for model in (one, two, one, two):
        seen = survey(model, base)
        assert seen.modules[0] is model
        assert seen.trains(model.peft_config)["adapter"] == 1


def test_whose_parameters_they_are_depends_on_the_adapters_names():
    model = lora()
    seen = survey(model, model.get_base_model())
    assert seen.trains(model.peft_config)["adapter"] == 8
    others = seen.trains(dict(another=LORA))
    assert (others["adapter"], others["base"]) == (0, 8)
    assert seen.trains(model.peft_config)["adapter"] == 8
