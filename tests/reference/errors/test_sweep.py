"""Every field of every configuration takes odd values: each is refused in words, when the configuration is made or
before the base model is touched, or what comes of it can be saved and read again. Odd names of adapters likewise."""

# lane: reference

import copy
import dataclasses
import functools
import os
import tempfile
import warnings

import pytest
import torch

import peft_viz as ours
from damage import METHODS, print_of, small_model
from peft_viz import config as c


class Silent:
    "Cannot be printed, cannot be compared."

    __hash__ = object.__hash__

    def __repr__(self):
        raise RuntimeError("no words")

    def __eq__(self, other):
        raise RuntimeError("not comparable")


ODD = [None, -1, 0, float("nan"), float("inf"), "", "(", [], [None], {"x": "y"}, True, 1.5, 10**30, b"x"]
LATER = [torch.ones(2), Silent(), {"x": Silent()}]  # also where the configuration is there already
IN_WORDS = ValueError, NotImplementedError, TypeError


def make(method, **fields):
    return c.CONFIGS[c.PeftType(method)](**{"task_type": "CAUSAL_LM", **METHODS[method], **fields})


@functools.cache
def kept():
    return small_model()


def fresh():
    "A copy takes a third of the time that a new model takes."
    return copy.deepcopy(kept())


def attempt(base, build):
    "True where it is refused in words of ours, and nothing was changed."
    before = print_of(base)
    try:
        model = ours.get_peft_model(base, build())
    except IN_WORDS as error:
        assert print_of(base) == before and len(str(error)) > 10
        return True
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        ours.PeftModel.from_pretrained(fresh(), folder)
    return False


@pytest.mark.parametrize("method", METHODS)
def test_odd_values(method, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # hundreds of files that are not kept
    base, refused = fresh(), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for field in dataclasses.fields(c.CONFIGS[c.PeftType(method)]):
            for value in (*ODD, *LATER):

                def later(name=field.name, value=value):
                    config = make(method)
                    setattr(config, name, value)
                    return config

                builders = [later] if any(value is odd for odd in LATER) else []
                if field.name != "peft_type":
                    builders.append(lambda name=field.name, value=value: make(method, **{name: value}))
                for build in builders:
                    came = attempt(base, build)
                    refused += came
                    base = base if came else fresh()
    assert refused > 4 * len(dataclasses.fields(c.PrefixTuningConfig))


@pytest.mark.parametrize("method", ["LORA", "PROMPT_TUNING"])
def test_another_method_than_the_class(method):
    more_special = {"LORA": "ADALORA", "PROMPT_TUNING": "MULTITASK_PROMPT_TUNING"}[method]
    config = make(more_special)
    config.peft_type = c.PeftType(method)
    with pytest.raises(ValueError, match=f"{method} needs a peft_viz"):
        ours.get_peft_model(small_model(), config)


class InBuffers(torch.nn.Linear):
    "A quantized layer whose weight is no parameter."

    def __init__(self, layer, dtype, name="weight"):
        super().__init__(layer.in_features, layer.out_features, bias=False)
        weight = layer.weight.data
        self.kept, self.scale = name, weight.abs().max().item() / 100
        del self.weight
        self.register_buffer(name, (weight / self.scale).round().to(dtype))

    def forward(self, x):
        return x @ (getattr(self, self.kept).to(x.dtype) * self.scale).t()


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("name", ["weight", "qweight"])
def test_weights_that_are_no_parameters(dtype, name):
    "They can have adapters, and are neither merged nor trained in full."
    base = small_model()
    for block in base.model.layers:
        block.self_attn.v_proj = InBuffers(block.self_attn.v_proj, dtype, name)
    before = print_of(base)
    for fields in (
        dict(use_dora=True, target_modules=["v_proj"]),
        dict(modules_to_save=["v_proj"], target_modules=["q_proj"]),
    ):
        with pytest.raises(
            ValueError, match="v_proj', which has weights of (torch|no plain form)|no parameters"
        ):
            ours.get_peft_model(base, ours.LoraConfig(task_type="CAUSAL_LM", **fields))
        assert print_of(base) == before
    model = ours.get_peft_model(base, ours.LoraConfig(task_type="CAUSAL_LM", target_modules=["v_proj"]))
    model(torch.tensor([[4, 5]]), labels=torch.tensor([[4, 5]])).loss.backward()
    before = print_of(model)
    with pytest.raises(ValueError, match="merging an adapter is not possible"):
        model.merge_adapter()
    assert print_of(model) == before


def test_all_linear_layers_and_a_few_of_them_again(tmp_path):
    config = make("IA3", target_modules="all-linear", feedforward_modules=["down_proj"])
    ours.get_peft_model(small_model(), config).save_pretrained(tmp_path)
    again = ours.PeftModel.from_pretrained(small_model(), tmp_path).peft_config["default"]
    assert "model.layers.0.mlp.down_proj" in again.target_modules


NAMES = [
    "",
    ".",
    "..",
    "a.b",
    "a/b",
    "a\\b",
    "a\0b",
    "\n",
    "keys",
    "forward",
    "training",
    "__base__",
    "x" * 250,
]
NAMES += ["\ud800", None, 5, True, b"a", [], ["a"], {}, Silent()]


@pytest.mark.parametrize("method", METHODS)
def test_odd_names(method, tmp_path):
    model, fresh = ours.get_peft_model(small_model(), make(method)), small_model()
    model.save_pretrained(tmp_path)
    before, untouched = print_of(model), print_of(fresh)
    for name in NAMES:
        calls = [
            lambda: ours.get_peft_model(fresh, make(method), adapter_name=name),  # noqa: B023
            lambda: ours.PeftModel.from_pretrained(fresh, tmp_path, adapter_name=name),  # noqa: B023
            lambda: model.add_adapter(name, make(method)),  # noqa: B023
            lambda: model.load_adapter(tmp_path, name),  # noqa: B023
            lambda: model.set_adapter(name),  # noqa: B023
            lambda: model.delete_adapter(name),  # noqa: B023
            lambda: model.save_pretrained(tmp_path / "b", selected_adapters=[name]),  # noqa: B023
            lambda: ours.get_peft_model_state_dict(model, adapter_name=name),  # noqa: B023
        ]
        if method in ("LORA", "IA3"):
            calls += [
                lambda: model.add_weighted_adapter(["default"], [1.0], name),  # noqa: B023
                lambda: model.add_weighted_adapter([name], [1.0], "new"),  # noqa: B023
                lambda: model.add_weighted_adapter(["default"], [str], "new"),
            ]
        for call in calls:
            with pytest.raises((ValueError, TypeError)) as caught:
                call()
            assert len(str(caught.value)) > 10
            assert print_of(model) == before and print_of(fresh) == untouched
            assert list(model.peft_config) == ["default"] and not (tmp_path / "b").exists()


@pytest.mark.parametrize("path", [None, 5, [], Silent(), "é" * 300, "a\0b"], ids=type)
def test_odd_folders(path, tmp_path):
    model, fresh = ours.get_peft_model(small_model(), make("LORA")), small_model()
    before = print_of(fresh)
    for call in (
        lambda: ours.PeftModel.from_pretrained(fresh, path),
        lambda: model.load_adapter(path, "other"),
        lambda: ours.PeftConfig.from_pretrained(path),
        lambda: ours.load_peft_weights(path),
    ):
        with pytest.raises((ValueError, TypeError), match="folder"):
            call()
    assert print_of(fresh) == before and list(model.peft_config) == ["default"]


@pytest.mark.parametrize(
    "method, fields",
    [
        ("LORA", dict(r=2**20, rank_pattern={}, layers_to_transform=None)),
        (
            "LORA",
            dict(
                rank_pattern={".*_proj": 2**20}, target_modules=["q_proj", "o_proj"], layers_to_transform=None
            ),
        ),
        ("POLY", dict(r=2**19)),
        ("POLY", dict(n_skills=2**20)),
        ("P_TUNING", dict(encoder_hidden_size=2**16)),
        ("P_TUNING", dict(encoder_hidden_size=2**13, encoder_reparameterization_type="LSTM")),
        ("MULTITASK_PROMPT_TUNING", dict(num_tasks=2**20, num_ranks=2**10)),
    ],
)
def test_more_numbers_than_the_base_model(method, fields):
    "Refused before the memory is taken, for the first adapter and for a second one."
    base = small_model()
    first = ours.get_peft_model(small_model(), make(method))
    for model, act in (base, ours.get_peft_model), (first, lambda m, c: m.add_adapter("more", c)):
        before = print_of(model)
        with pytest.raises(ValueError, match="choose smaller sizes"):
            act(model, make(method, **fields))
        assert print_of(model) == before
    assert list(first.peft_config) == ["default"]


def test_large_sizes_that_are_meant():
    "Many numbers are allowed where they are few beside those of others."
    config = make("LORA", r=2**14, rank_pattern={}, alpha_pattern={})
    model = ours.get_peft_model(small_model(), config)
    assert model.get_nb_trainable_parameters()[0] > 2**19


def test_a_long_list_of_what_is_not_there_is_told_in_short():
    with pytest.warns(c.PeftWarning, match="and 2992 more fits no layer") as told:
        ours.get_peft_model(small_model(), make("LORA", layers_to_transform=list(range(3000))))
    assert max(len(str(w.message)) for w in told) < 1000
