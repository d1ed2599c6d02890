"""Mistakes that people make are said in words, with what to do, and before anything is changed: after a refused call
the base model is as before.
"""
# lane: reference

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import peft_viz as ours
import small
from peft_viz import config as c
from peft_viz.reference import injection

CLM = dict(task_type="CAUSAL_LM")
IDS = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])
BASE = ours.tiny_random("llama")


def state(model):
    "All that a refused call must leave alone."
    parameters = [(name, id(p), p.requires_grad, p.data_ptr()) for name, p in model.named_parameters()]
    return parameters, [(name, type(m), sorted(vars(m))) for name, m in model.named_modules()]


@pytest.fixture
def base():
    model = ours.tiny_random("llama")
    before = state(model)
    yield model
    assert state(model) == before


# --- what a field may be ------------------------------------------------------------------------------------------

WRONG = {  # for each rule, values that are nearly right
    "True or False": (None, 1, "yes"),
    "a number": ("16", None, True, float("nan"), float("inf")),
    "a number from 0 to 1": (1.5, -0.1, "0.1", None),
    "a number, at least 0": (-1, "0", None),
    "a number between 0 and 1": (0, 1, None, "0.5"),
    "whole": (0.5, "8", True, -1, 10**15),
    "names": (5, "(", "*", "", ["q_proj", ""], [3], {"a": 1}, "a{99999999999}"),
    "patterns": ({"(": 3}, {"q_proj": "x"}, ["q_proj"], {3: 3}, {"(?i)q_proj": None}),
}
KIND_OF = {  # which of these a rule's words are about, by how they begin
    "True or False": "True or False",
    "a number from 0 to 1": "a number from 0 to 1",
    "a number, at least 0": "a number, at least 0",
    "a number between": "a number between 0 and 1",
    "a number": "a number",
    "a whole number": "whole",
    "a list of names, or a regular": "names",
    "a dictionary from": "patterns",
}


@pytest.mark.parametrize("kind", list(c.CONFIGS.values()), ids=lambda kind: kind.__name__)
def test_every_field_refuses_what_it_cannot_be(kind):
    make = {ours.AdaLoraConfig: dict(total_step=10), ours.CPTConfig: {}}.get(kind, dict(num_virtual_tokens=1))
    good = kind(**CLM, **{name: value for name, value in make.items() if name in kind.__dataclass_fields__})
    for name, rule in c.rules(kind).items():
        about = next((values for start, values in KIND_OF.items() if rule.words.startswith(start)), None)
        for value in WRONG.get(about, (object(), ["x", object()], 1.5)):
            if value is None and rule.allows(None):
                continue
            config = dataclasses.replace(good)
            setattr(config, name, value)  # behind the constructor's back: it is looked at once more
            with pytest.raises(ValueError, match=f"{kind.__name__}: {name}=.*; it must be "):
                ours.model.check_config(config)


def test_no_field_is_without_a_rule():
    "Those that are not implemented stay at their defaults; enumerations and initialisations have checks of their own."
    own = {
        "task_type",
        "peft_type",
        "prompt_tuning_init",
        "encoder_reparameterization_type",
        "init_lora_weights",
    }
    own |= {"num_transformer_submodules"}
    for kind in c.CONFIGS.values():
        fields = dataclasses.fields(kind)
        assert {f.name for f in fields if not f.metadata.get("only")} - own == c.rules(kind).keys() - own


@pytest.mark.parametrize(
    "fields",
    [dict(deltaT=0), dict(deltaT=-1), dict(tinit=-5), dict(tfinal=-5), dict(target_r=20), dict(beta2=1)],
    ids=str,
)
def test_a_schedule_that_cannot_be_kept(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        small.config("adalora", **fields)


@pytest.mark.parametrize("step", [-1, 1.5, "3", None])
def test_a_step_that_is_none(step):
    model = ours.get_peft_model(ours.tiny_random("llama"), small.config("adalora"))
    with pytest.raises(ValueError, match="global_step=.*; it must be a whole number"):
        model.base_model.update_and_allocate(step)


def test_initialisations():
    for known in "pissa", "pissa_niter_16", "olora", "eva", "loftq":
        with pytest.raises(NotImplementedError, match=known):
            small.config("lora", init_lora_weights=known)
    for unknown in "gausian", "piss", 1, None, ["gaussian"]:
        with pytest.raises(ValueError, match="unknown, here and to peft"):
            small.config("lora", init_lora_weights=unknown)


def test_settings_of_adalora_without_effect():
    with pytest.warns(ours.PeftWarning, match="alpha_pattern=.* not used by AdaLoRA"):
        small.config("adalora", alpha_pattern={"q_proj": 3})


def test_examples_that_are_empty():
    with pytest.raises(ValueError, match="cpt_token_ids is empty"):
        ours.CPTConfig(cpt_token_ids=[], **CLM)
    with pytest.raises(ValueError, match="cpt_token_ids='text'; it must be a list of whole numbers"):
        ours.CPTConfig(cpt_token_ids="text", **CLM)


# --- names of adapters --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "a.b",
        "",
        "keys",
        "forward",
        "training",
        None,
        5,
        "a/b",
        "a\\b",
        "..",
        "a\nb",
        "\ud800",
        "é" * 150,
        "__base__",
    ],
)
def test_names_that_no_adapter_can_have(base, name):
    for method in "lora", "prompt":
        with pytest.raises(ValueError, match="adapter"):
            ours.get_peft_model(base, small.config(method), name)


@pytest.mark.parametrize("name", ["lora", "weight", "a b", "é", "team-model_0", "lora_A", "default"])
def test_names_that_work(name, tmp_path):
    model = ours.get_peft_model(
        ours.tiny_random("llama"), small.config("lora", init_lora_weights=False), name
    ).eval()
    model.save_pretrained(tmp_path)
    folder = tmp_path if name == "default" else tmp_path / name
    again = ours.PeftModel.from_pretrained(ours.tiny_random("llama"), folder, name)
    assert torch.equal(again(IDS).logits, model(IDS).logits)


# --- all or nothing -----------------------------------------------------------------------------------------------


def broken(monkeypatch, where):
    def fail(*args, **kwargs):
        raise MemoryError("no room")

    monkeypatch.setattr(where[0], where[1], fail)


@pytest.mark.parametrize("method", small.CONFIGS)
@pytest.mark.parametrize("where", ["add_modules_to_save", "set_adapter"])
def test_a_failure_in_the_middle_leaves_the_base_model(base, method, where, monkeypatch):
    "Whatever goes wrong, and however late."
    if where == "add_modules_to_save":
        for module in injection.tuner, ours.model:
            broken(monkeypatch, (module, where))
    elif method in ("prompt", "prefix"):
        broken(monkeypatch, (ours.PeftModelForCausalLM, "_activate_saved_modules"))
    else:
        broken(monkeypatch, (injection.layer.AdapterHolder, where))
    with pytest.raises(MemoryError):
        ours.get_peft_model(base, small.config(method))


@pytest.mark.parametrize("method", ["lora", "ia3", "poly", "prompt", "prefix"])
def test_a_second_adapter_that_fails_leaves_the_first(method, monkeypatch):
    model = ours.get_peft_model(ours.tiny_random("llama"), small.config(method, modules_to_save=["lm_head"]))
    before, values = state(model), {n: t.clone() for n, t in model.state_dict().items()}
    for module in injection.tuner, ours.model:
        broken(monkeypatch, (module, "add_modules_to_save"))
    with pytest.raises(MemoryError):
        model.add_adapter("second", small.config(method, modules_to_save=["norm"]))
    assert state(model) == before and list(model.peft_config) == ["default"]
    assert all(torch.equal(t, values[n]) for n, t in model.state_dict().items())


def test_lists_and_tables_are_put_back():
    module = nn.Linear(1, 1)
    module.names, module.table, module.seen = ["a"], {"a": 1}, {1}
    kept = module.names
    with pytest.raises(KeyError):
        with injection.undo.all_or_nothing(module):
            module.names.append("b")
            module.table["b"] = 2
            module.seen.add(2)
            module.more = 1
            raise KeyError
    assert module.names is kept and (kept, module.table, module.seen) == (["a"], {"a": 1}, {1})
    assert not hasattr(module, "more")


# --- what fits nothing --------------------------------------------------------------------------------------------

NO_EFFECT = [
    ("lora", dict(target_modules=["q_proj", "v_porj"]), "target_modules: 'v_porj'.*did you mean v_proj"),
    (
        "ia3",
        dict(target_modules=["k_proj", "down_prj"], feedforward_modules=[]),
        "target_modules: 'down_prj'",
    ),
    ("ia3", dict(target_modules=["k_proj"], feedforward_modules=".*down"), r"feedforward_modules: '.\*down'"),
    ("lora", dict(target_modules=["q_proj"], exclude_modules=["qproj"]), "exclude_modules: 'qproj'"),
    ("lora", dict(target_modules=["q_proj"], layers_to_transform=[0, 7]), "layers_to_transform: 7 fits"),
    ("lora", dict(target_modules=["q_proj"], rank_pattern={"k_proj": 4}), "rank_pattern: 'k_proj'"),
    (
        "lora",
        dict(target_modules=["q_proj"], layers_to_transform=[0], layers_pattern=["layers", "bloks"]),
        "layers_pattern: 'bloks' fits",
    ),
    (
        "lora",
        dict(target_modules=["q_proj"], alpha_pattern={"q_proj": 4, "layers.1.*q_proj": 8}),
        r"alpha_pattern: 'layers.1",
    ),
]
EFFECT = [
    (
        "lora",
        dict(target_modules="all-linear", rank_pattern={r".*\.1\..*v_proj": 2}, exclude_modules=["lm_head"]),
    ),
    ("lora", dict(target_modules=["q_proj"], layers_to_transform=1, layers_pattern="(model.)?layers")),
    ("lora", dict(target_modules=["q_proj"], layers_to_transform=1, layers_pattern=["layers"])),
    ("ia3", {}),
    ("poly", dict(target_modules=[".q_proj"[1:], "v_proj"])),
    ("adalora", dict(target_modules=r".*_proj")),
]


@pytest.mark.parametrize("method, fields, message", NO_EFFECT, ids=str)
def test_what_fits_nothing_is_told(method, fields, message):
    with pytest.warns(ours.PeftWarning, match=message) as heard:
        ours.get_peft_model(ours.tiny_random("llama"), small.config(method, **fields))
    assert [w.filename for w in heard] == [__file__]  # it points here, where the call is


@pytest.mark.parametrize("method, fields", EFFECT, ids=str)
def test_what_fits_is_not_complained_about(method, fields):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours.get_peft_model(ours.tiny_random("llama"), small.config(method, **fields))


# --- weights that cannot be trained -------------------------------------------------------------------------------


class Small(nn.Linear):
    "A weight of one byte per number, and a scale."

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


def shrunk(dtype):
    "A model whose projections keep their weights in few bits."
    model = ours.tiny_random("llama")
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and "proj" in name:
            small = Small(layer.in_features, layer.out_features, bias=False)
            small.scale = layer.weight.abs().max().item() / 127
            small.weight = nn.Parameter(
                (layer.weight.data / small.scale).round().to(dtype), requires_grad=False
            )
            injection.saved.replace(model, name, small)
    return model


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("method", ["lora", "ia3", "adalora", "poly", "prefix"])
def test_adapters_beside_weights_of_eight_bits(method, dtype):
    fields = dict(init_weights="zero") if method == "prefix" else {}
    model = ours.get_peft_model(shrunk(dtype), small.config(method, **fields))
    extra = dict(task_ids=torch.tensor([0, 0])) if method == "poly" else {}
    out = model.eval()(input_ids=IDS, labels=IDS, **extra)
    out.loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained and all(p.dtype == torch.float32 and p.grad is not None for p in trained)
    if method != "prefix":
        torch.testing.assert_close(out.logits, shrunk(dtype)(IDS).logits)


def test_what_cannot_be_done_with_them():
    model = ours.get_peft_model(shrunk(torch.int8), small.config("lora", target_modules=["q_proj"]))
    before = state(model)
    with pytest.raises(
        ValueError, match="merging an adapter is not possible for .*q_proj.* weights of torch.int8"
    ):
        model.merge_adapter()
    assert state(model) == before
    for fields, message in (
        (dict(use_dora=True), "DoRA is not possible"),
        (dict(modules_to_save=["q_proj"], target_modules=["v_proj"]), "training in full is not possible"),
    ):
        base = shrunk(torch.int8)
        before = state(base)
        with pytest.raises(ValueError, match=message):
            ours.get_peft_model(base, small.config("lora", **fields))
        assert state(base) == before


def test_a_layer_whose_weight_has_another_form():
    "Packed, it has neither the layer's shape nor its name; the adapter asks the layer how wide it is."

    class Packed(nn.Linear):
        def __init__(self):
            super().__init__(6, 4, bias=False)
            del self.weight
            self.register_buffer("packed", torch.zeros(12, dtype=torch.uint8))

        def forward(self, x):
            return x.new_zeros(*x.shape[:-1], 4)

    for config, name in (
        (ours.LoraConfig(r=2, target_modules=["0"]), "lora_A"),
        (ours.IA3Config(target_modules=["0"], feedforward_modules=[]), "ia3_l"),
    ):
        model = ours.inject_adapter_in_model(config, nn.Sequential(Packed()))
        trained = {n: tuple(p.shape) for n, p in model.named_parameters() if p.requires_grad}
        assert trained in (
            {"0.lora_A.default.weight": (2, 6), "0.lora_B.default.weight": (4, 2)},
            {"0.ia3_l.default": (4, 1)},
        )
        assert model(torch.ones(3, 6)).shape == (3, 4) and name in next(iter(trained))


LONE = ours.PromptTuningConfig(num_virtual_tokens=2, **CLM)
WRONG_INPUTS = {  # what is passed, and what is said: before `forward`, and before `generate`
    "a list": (dict(input_ids=[[5, 6]]), "input_ids is a list"),
    "no token": (
        dict(input_ids=torch.ones(2, 0).long()),
        r"the input has shape \[2, 0\]: there is no token in it",
    ),
    "no row": (
        dict(input_ids=torch.ones(0, 3).long()),
        r"the input has shape \[0, 3\]: there is no token in it",
    ),
    "one row without a batch": (dict(input_ids=torch.tensor([5, 6])), r"input_ids has shape \[2\]"),
    "fractions": (
        dict(input_ids=torch.ones(1, 2)),
        "input_ids holds torch.float32; it must hold whole numbers",
    ),
    "truths": (dict(input_ids=torch.ones(1, 2).bool()), "input_ids holds torch.bool"),
    "whole embeddings": (dict(inputs_embeds=torch.ones(1, 2, 32).long()), "must hold floating-point numbers"),
    "a mask that is too short": (
        dict(input_ids=IDS, attention_mask=torch.ones(2, 3)),
        r"attention_mask has shape \[2, 3\]",
    ),
    "a mask of one row": (
        dict(input_ids=IDS, attention_mask=torch.ones(1, 4)),
        r"attention_mask has shape \[1, 4\]",
    ),
    "a list for a mask": (dict(input_ids=IDS, attention_mask=[[1] * 4] * 2), "attention_mask is a list"),
    "an array for a mask": (
        dict(input_ids=IDS, attention_mask=np.ones((2, 4))),
        "attention_mask is a ndarray",
    ),
}


@pytest.mark.parametrize("config", [LONE, ours.LoraConfig(r=2, **CLM)], ids=lambda x: x.peft_type.value)
def test_inputs_that_do_not_fit(config):
    model = ours.get_peft_model(ours.tiny_random("llama"), config).eval()
    for given, said in WRONG_INPUTS.values():
        for call in model, model.generate:
            with pytest.raises(ValueError, match=said):
                call(**given)
    with pytest.raises(ValueError, match="input_ids is a list"):
        model.generate([[5, 6]])
    assert model.generate(max_new_tokens=2, pad_token_id=0).shape[0] == 1  # nothing given: begins by itself


def test_ids_outside_the_vocabulary():
    model = ours.get_peft_model(ours.tiny_random("llama"), LONE).eval()
    for call in model, model.generate:
        with pytest.raises(ValueError, match="input_ids must be from 0 to 66; here they are from -9 to"):
            call(input_ids=torch.tensor([[3, -9]]))


def test_positions_that_do_not_fit():
    for config in ours.LoraConfig(r=2, **CLM), ours.PrefixTuningConfig(num_virtual_tokens=2, **CLM):
        model = ours.get_peft_model(ours.tiny_random("llama"), config).eval()
        with pytest.raises(ValueError, match="position_ids are for 9 tokens, and the input has 4"):
            model(input_ids=IDS, position_ids=torch.arange(9)[None])
        with pytest.raises(ValueError, match="position_ids is a list"):
            model(input_ids=IDS, position_ids=[[0, 1, 2, 3]])


@pytest.mark.parametrize("family", ["gpt2", "opt"])
@pytest.mark.parametrize(
    "positions, said",
    [
        (torch.arange(4) + 64, "position_ids must be from 0 to 63; here"),
        (torch.arange(4.0), "needs whole numbers"),
    ],
)
def test_positions_that_are_not_in_the_table(family, positions, said):
    model = ours.get_peft_model(small.base_model(family), small.config("lora"))
    with pytest.raises(ValueError, match=said):
        model(input_ids=IDS, position_ids=positions[None])


@pytest.mark.parametrize(
    "types", [torch.full((2, 4), -1), torch.full((2, 4), 0.5), torch.full((2, 4), torch.nan)]
)
def test_types_that_are_none(types):
    config = ours.CPTConfig(cpt_token_ids=[5, 6], cpt_tokens_type_mask=[3, 4], **CLM)
    model = ours.get_peft_model(ours.tiny_random("llama"), config)
    with pytest.raises(ValueError, match="input_type_mask must hold whole numbers, at least 0"):
        model(input_ids=IDS, labels=IDS, input_type_mask=types)
    for kind in torch.float32, torch.bool, torch.uint8:
        assert model(input_ids=IDS, labels=IDS, input_type_mask=torch.ones(2, 4, dtype=kind)).loss > 0


def test_arguments_that_a_method_does_not_have():
    model = ours.get_peft_model(ours.tiny_random("llama"), LONE).eval()
    with pytest.warns(c.PeftWarning, match="Position ids are not supported"):
        model(input_ids=IDS, position_ids=torch.arange(4)[None])
    with pytest.raises(ValueError, match="adapter_names give each row its own LoRA adapter"):
        model(input_ids=IDS, adapter_names=["default", "default"])
    model = ours.get_peft_model(ours.tiny_random("llama"), ours.LoraConfig(r=2, **CLM)).eval()
    with pytest.raises(
        ValueError, match="adapter_names must be a list with a name for each row, not 'default'"
    ):
        model(input_ids=IDS, adapter_names="default")
    config = ours.CPTConfig(cpt_token_ids=[5, 6], **CLM)
    model = ours.get_peft_model(ours.tiny_random("llama"), config)
    with pytest.raises(ValueError, match="input_type_mask is a list"):
        model(input_ids=IDS, labels=IDS, input_type_mask=[[4] * 4] * 2)
    model = ours.get_peft_model(ours.tiny_random("llama"), ours.PolyConfig(n_tasks=2, **CLM))
    with pytest.raises(ValueError, match="task_ids must be a tensor, not int"):
        model(input_ids=IDS, task_ids=1)


# --- labels and tasks ---------------------------------------------------------------------------------------------


def test_labels_of_one_row_for_two():
    config = ours.CPTConfig(cpt_token_ids=[5, 6, 7, 8], cpt_tokens_type_mask=[1, 2, 3, 4], **CLM)
    model = ours.get_peft_model(ours.tiny_random("llama"), config)
    with pytest.raises(
        ValueError, match=r"labels has shape \[1, 4\]; it must be .*as the input, here \[2, 4\]"
    ):
        model(input_ids=IDS, labels=IDS[:1])


@pytest.mark.parametrize(
    "config",
    [
        ours.MultitaskPromptTuningConfig(num_virtual_tokens=2, num_tasks=2, **CLM),
        ours.PolyConfig(n_tasks=2, **CLM),
    ],
    ids=lambda x: x.peft_type.value,
)
def test_a_list_of_tasks(config):
    model = ours.get_peft_model(ours.tiny_random("llama"), config)
    with pytest.raises(
        ValueError, match=r"task_ids must be a tensor, not list; write torch.tensor\(\[0, 1\]\)"
    ):
        model(input_ids=IDS, task_ids=[0, 1])


def test_a_pattern_with_groups_of_its_own():
    assert injection.targets.layer_number("model.layers.3.q_proj", "(layers|h)") == 3
    assert injection.targets.fitting_pattern(["(q|k)_proj"], "model.layers.3.k_proj") == "(q|k)_proj"


def test_a_finished_adapter_needs_no_schedule():
    "Files of trainings that never came to prune can be read; only training on is refused."
    config = small.config("adalora", init_r=4, target_r=8, inference_mode=True)
    assert ours.get_peft_model(ours.tiny_random("llama"), config).peft_config["default"].target_r == 8
    config.inference_mode = False
    with pytest.raises(ValueError, match="target_r=8 is more than init_r=4"):
        ours.model.check_config(config)


@pytest.mark.parametrize("method", ["PromptTuningConfig", "PrefixTuningConfig", "LoraConfig"])
def test_a_cache_that_does_not_fit_is_said(method):
    fields = {} if method == "LoraConfig" else dict(num_virtual_tokens=3)
    config = getattr(ours, method)(task_type="CAUSAL_LM", **fields)
    model = ours.get_peft_model(ours.tiny_random("llama"), config).eval()
    ids = torch.randint(3, 60, (2, 5))
    cache = model(ids, use_cache=True).past_key_values
    as_tuple = tuple((layer.keys, layer.values) for layer in cache.layers)
    for wrong in as_tuple, []:
        with pytest.raises(ValueError, match="this model takes a cache; pass what a call before returned"):
            model(ids[:, :1], past_key_values=wrong)
    three = torch.randint(3, 60, (3, 6))
    with pytest.raises(ValueError, match="past_key_values holds 2 rows, and the input 3"):
        model(three[:, :1], past_key_values=cache)
    with pytest.raises(ValueError, match="past_key_values holds 2 rows, and the input 3"):
        model.generate(three, past_key_values=cache, max_new_tokens=1, pad_token_id=0)


# --- what was changed is changed back, or decided in one place ----------------------------------------------------


def test_a_replaced_parameter_is_put_back():
    module = nn.Linear(2, 2)
    weight, values = module.weight, module.weight.detach().clone()
    with pytest.raises(KeyError):
        with injection.undo.all_or_nothing(module):
            module.weight = nn.Parameter(torch.zeros(2, 2))
            module.extra = nn.Linear(1, 1)
            raise KeyError
    assert module.weight is weight and torch.equal(weight, values)
    assert torch.equal(module(torch.ones(1, 2)), F.linear(torch.ones(1, 2), weight, module.bias))
    assert not list(module.children())


def lora(**fields):
    return ours.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, **fields, **CLM)


def with_adapters(*names, **fields):
    torch.manual_seed(0)
    model = ours.get_peft_model(ours.tiny_random("llama"), lora(), names[0])
    for name in names[1:]:
        model.add_adapter(name, lora(**fields))
    return model.eval()


@pytest.mark.parametrize("fields", [dict(svd_clamp=5), dict(svd_clamp="a"), dict(svd_rank=0)], ids=str)
def test_a_combination_that_is_refused_leaves_no_adapter(fields):
    model = with_adapters("a", "b")
    before = state(model)
    with pytest.raises(ValueError, match=f"{next(iter(fields))}="):
        model.base_model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "c", **fields)
    assert state(model) == before and list(model.peft_config) == ["a", "b"]


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_a_combination_that_fails_leaves_no_adapter(method, monkeypatch):
    model = ours.get_peft_model(ours.tiny_random("llama"), small.config(method), "a")
    model.add_adapter("b", small.config(method))
    before = state(model)
    put_in = model.base_model._add_combined

    def put_in_and_fail(*names, **told):
        put_in(*names, **told)
        raise MemoryError

    monkeypatch.setattr(model.base_model, "_add_combined", put_in_and_fail)
    with pytest.raises(MemoryError):
        model.base_model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "c")
    monkeypatch.undo()
    assert state(model) == before and list(model.peft_config) == ["a", "b"]


def broken_after(calls, method):
    left = iter(range(calls))

    def limited(*args, **kwargs):
        if next(left, None) is None:
            raise MemoryError
        return method(*args, **kwargs)

    return limited


def test_the_other_active_adapters_stay_active_when_one_is_deleted():
    model = with_adapters("a", "b", "c")
    model.base_model.set_adapter(["b", "c"])
    model.delete_adapter("b")
    assert model.active_adapters == ["c"] and model.active_adapter == "c"
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all(".c." in name for name in trained)
    model.delete_adapter("c")
    assert model.active_adapters == ["a"] == [model.active_adapter]


@pytest.mark.parametrize("method", ["lora", "prompt"])
def test_an_adapter_for_inference_is_not_trained_because_another_was_deleted(method):
    model = ours.get_peft_model(ours.tiny_random("llama"), small.config(method, inference_mode=True), "a")
    model.add_adapter("b", small.config(method))
    model.set_adapter("b")
    model.delete_adapter("b")
    assert model.active_adapters == ["a"]
    if method == "lora":
        assert not any(p.requires_grad for p in model.parameters())


def test_what_is_merged_is_what_the_layers_say(monkeypatch):
    model = with_adapters("a")
    model.merge_adapter([])
    assert not model.base_model.has_merged
    second = model.base_model.tuner_layers()[1]
    monkeypatch.setattr(second, "merge", broken_after(0, second.merge))
    with pytest.raises(MemoryError):
        model.merge_adapter()
    assert model.base_model.has_merged  # the first layer is
    model.unmerge_adapter()
    assert not model.base_model.has_merged


def test_an_adapter_that_is_trained_while_all_are_off_is_trained_when_they_are_on():
    model = with_adapters("a", "b")
    of = lambda name: [p.requires_grad for n, p in model.named_parameters() if f".{name}." in n]
    model.base_model.disable_adapter_layers()
    model.set_requires_grad("a", False)
    model.set_requires_grad("b", True)
    assert not any(of("a") + of("b"))
    model.base_model.enable_adapter_layers()
    assert not any(of("a")) and all(of("b"))


def test_words_are_looked_up_in_the_active_adapters_own_table():
    model = ours.get_peft_model(
        ours.tiny_random("llama"), small.config("prompt", modules_to_save=["model"]), "a"
    )
    model.eval()(IDS)
    model.add_adapter("b", small.config("prompt", modules_to_save=["model"]))
    for name in "b", "a", "b":
        model.set_adapter(name)
        assert model.word_embeddings is model.base_model.get_input_embeddings()
        model(IDS)
    model.delete_adapter("a")
    model(IDS)


def test_a_module_on_the_way_to_the_words_may_be_saved_later():
    model = ours.get_peft_model(ours.tiny_random("llama"), small.config("prompt"), "a").eval()
    model(IDS)
    model.add_adapter("b", small.config("prompt", modules_to_save=["model"]))
    model.set_adapter("b")
    assert model.word_embeddings is model.base_model.get_input_embeddings()
    model(IDS)


def test_a_setting_of_generate_may_come_by_position():
    from transformers import GenerationConfig

    model = with_adapters("a", "b")
    told = GenerationConfig(num_beams=2, max_new_tokens=2, pad_token_id=0)
    names = dict(adapter_names=["a", "b"])
    want = model.generate(IDS, generation_config=told, **names)
    assert torch.equal(model.generate(IDS, told, **names), want)
    assert torch.equal(ours.PeftModel.generate(model, IDS, told, **names), want)


@pytest.mark.parametrize("method", ["prompt", "prefix", "lora"])
def test_an_empty_cache_is_no_past(method):
    from transformers import DynamicCache

    model = ours.get_peft_model(ours.tiny_random("llama"), small.config(method)).eval()
    config = model.get_base_model().config
    for cache in None, DynamicCache(config=config):
        with pytest.raises(ValueError, match="attention_mask has shape"):
            model(IDS, attention_mask=torch.ones(2, 9), past_key_values=cache)
    assert torch.equal(model(IDS).logits, model(IDS, past_key_values=DynamicCache(config=config)).logits)


CPT = ours.CPTConfig(cpt_token_ids=[5, 6, 7, 8], cpt_mask=[1] * 4, cpt_tokens_type_mask=[1, 2, 3, 4], **CLM)


def test_the_loss_of_cpt_is_a_part_of_the_batch_with_an_empty_cache_too():
    from transformers import DynamicCache

    model = ours.get_peft_model(ours.tiny_random("llama"), CPT).eval()
    told = dict(labels=IDS, num_items_in_batch=torch.tensor(24))
    loss = model(IDS, **told).loss
    again = model(IDS, past_key_values=DynamicCache(config=model.base_model.config), **told).loss
    assert torch.equal(loss, again) and loss < model(IDS, labels=IDS).loss


def test_a_misspelt_argument_of_a_loader_is_compared_with_its_own(tmp_path):
    model = with_adapters("a")
    model.save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="no loading argument 'config'$"):
        model.load_adapter(tmp_path / "a", "x", config=model.peft_config["a"])
    with pytest.raises(TypeError, match="did you mean 'config'"):
        ours.PeftModel.from_pretrained(ours.tiny_random("llama"), tmp_path / "a", confg=None)
