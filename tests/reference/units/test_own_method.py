"""A method that is registered is a method like the nine: it is checked, run, trained, saved and loaded; with virtual
tokens, and in the layers of the base model."""
# lane: reference

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import peft_viz as peft
import small
from peft_viz.reference import config as c, model as m
from peft_viz.reference.injection.layer import BaseTunerLayer, check_is_linear
from peft_viz.reference.injection.targets import all_linear, fill_targets
from peft_viz.reference.injection.tuner import BaseTuner
from peft_viz.reference.methods.prompt_tuning import PromptEmbedding

CLM = dict(task_type="CAUSAL_LM")
BATCH = small.batch([3, 4, 5], [6, 7, 8, 9, 10])


@dataclass(repr=False)
class TwiceConfig(peft.PromptLearningConfig):
    peft_type: str = "TWICE"
    factor: float = 2.0


class Twice(nn.Module):
    "Prompt tuning with a factor."

    def __init__(self, config, word_embeddings):  # noqa: ARG002
        super().__init__()
        self.embedding = nn.Embedding(config.num_virtual_tokens, config.token_dim)
        self.factor = 1.0 if config.inference_mode else config.factor

    def forward(self, indices):
        return self.embedding(indices) * self.factor


@dataclass(repr=False)
class DialConfig(peft.PeftConfig):
    peft_type: str = "DIAL"
    target_modules: list | str | None = "all-linear"
    exclude_modules = modules_to_save = layers_to_transform = layers_pattern = None
    bias = "none"


class DialLayer(BaseTunerLayer):
    "A layer that is louder or softer by one trained number."

    adapter_layer_names = ("dial_s",)

    def __init__(self, base_layer):
        super().__init__(base_layer)
        self.dial_s = nn.ParameterDict()

    def update_layer(self, adapter_name, config, name):  # noqa: ARG002
        self.dial_s[adapter_name] = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        result = self.base_layer(x)
        if self.disable_adapters or self.merged:
            return result
        return result * (1 + sum(self.dial_s[name] for name in self.active_adapters))

    def get_delta_weight(self, adapter_name):
        return self.weight * self.dial_s[adapter_name]


class DialModel(BaseTuner):
    tuner_layer_cls = DialLayer
    prefix = "dial_"

    def prepare_config(self, config):
        fill_targets(config, self.model, all_linear)

    def check_target(self, name, module, config):  # noqa: ARG002
        check_is_linear(module, name, DialLayer, "DIAL")

    def create_layer(self, name, module, config):  # noqa: ARG002
        return DialLayer(module)


@pytest.fixture(autouse=True)
def registered():
    "Both are known, and forgotten afterwards."
    tables = m.TUNERS, m.PROMPT_ENCODERS, c.CONFIGS, c.OWN_METHODS
    before = [dict(table) for table in tables]
    peft.register_peft_method(name="twice", config_cls=TwiceConfig, model_cls=Twice)
    peft.register_peft_method(name="dial", config_cls=DialConfig, model_cls=DialModel)
    yield
    for table, had in zip(tables, before):
        table.clear()
        table.update(had)


def made(kind):
    config = TwiceConfig(num_virtual_tokens=3, **CLM) if kind == "twice" else DialConfig(**CLM)
    return peft.get_peft_model(small.base_model(), config).eval()


def trained(model):
    "The model with other numbers in what is trained."
    torch.manual_seed(1)
    for p in model.parameters():
        if p.requires_grad:
            p.data += 0.1 * torch.randn_like(p)
    return model


def logits(model):
    with torch.no_grad():
        return model(**BATCH).logits


def test_virtual_tokens_of_ones_own_are_those_of_prompt_tuning_times_the_factor():
    own = trained(made("twice"))
    like = peft.get_peft_model(small.base_model(), small.config("prompt", num_virtual_tokens=3)).eval()
    table = own.prompt_encoder["default"].embedding.weight.data
    like.prompt_encoder["default"].embedding.weight.data = 2 * table
    assert torch.equal(logits(own), logits(like))
    ask = dict(input_ids=BATCH["input_ids"], attention_mask=BATCH["attention_mask"], max_new_tokens=4)
    assert torch.equal(own.generate(**ask), like.generate(**ask))


def test_a_layer_of_ones_own_is_merged_and_switched_off():
    base = logits(small.base_model())
    model = made("dial")
    assert torch.equal(logits(model), base)  # it begins as nothing
    count = len(model.base_model.tuner_layers())
    assert model.get_nb_trainable_parameters()[0] == count > 0
    louder = logits(trained(model))
    assert not torch.allclose(louder, base)
    with model.disable_adapter():
        assert torch.equal(logits(model), base)
    torch.testing.assert_close(logits(model.merge_and_unload()), louder, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["twice", "dial"])
def test_it_is_saved_and_loaded(kind, tmp_path):
    model = trained(made(kind))
    model.save_pretrained(tmp_path)
    config = peft.PeftConfig.from_pretrained(tmp_path)
    assert type(config) is c.CONFIGS[kind.upper()] and config.peft_type.value == kind.upper()
    again = peft.PeftModel.from_pretrained(small.base_model(), tmp_path)
    torch.testing.assert_close(logits(again), logits(model))
    again.load_adapter(tmp_path, "second")
    assert [*again.peft_config] == ["default", "second"]


@pytest.mark.parametrize("kind", ["twice", "dial"])
def test_only_its_own_numbers_are_trained(kind):
    model = made(kind).train()
    model(**BATCH).loss.backward()
    touched = [name for name, p in model.named_parameters() if p.grad is not None]
    assert touched and all("prompt_encoder" in name or "dial_s" in name for name in touched)


def test_a_recording_names_it():
    model = made("twice")
    with peft.record(model) as trace:
        model(**BATCH)
    assert trace.about["peft_type"] == "TWICE" and "Twice.forward" in [call.function for call in trace.calls]
    assert peft.Trace.from_json(trace.to_json()) == trace


def test_its_configuration_is_plain_data_and_can_be_copied():
    config = copy.deepcopy(TwiceConfig(num_virtual_tokens=3, factor=4.0, **CLM))
    assert peft.get_peft_config(config.to_dict()) == config and "factor=4.0" in repr(config)
    with pytest.raises(TypeError, match="no field 'facto'; did you mean 'factor'"):
        peft.get_peft_config(dict(peft_type="TWICE", facto=1))


def test_registered_again_it_is_replaced_also_by_one_of_the_other_kind():
    peft.register_peft_method(name="dial", config_cls=TwiceConfig, model_cls=PromptEmbedding)
    assert "DIAL" not in m.TUNERS and m.PROMPT_ENCODERS["DIAL"] is PromptEmbedding
    peft.register_peft_method(name="dial", config_cls=DialConfig, model_cls=DialModel)
    assert "DIAL" not in m.PROMPT_ENCODERS and m.TUNERS["DIAL"] is DialModel


@pytest.mark.parametrize(
    "wrong, error, message",
    [
        (dict(name="lora"), ValueError, "LORA is one of the nine"),
        (dict(name="my method"), ValueError, "must be one word"),
        (dict(name=None), ValueError, "must be one word"),
        (dict(config_cls=dict), TypeError, "a subclass of PeftConfig"),
        (dict(config_cls="TwiceConfig"), TypeError, "a subclass of PeftConfig"),
        (dict(model_cls=dict), TypeError, "a subclass of Module for a TwiceConfig"),
        (dict(model_cls="Twice"), TypeError, "a subclass of Module"),
        (dict(config_cls=DialConfig), TypeError, "a subclass of BaseTuner for a DialConfig"),
    ],
    ids=str,
)
def test_what_is_no_method(wrong, error, message):
    before = dict(c.CONFIGS)
    with pytest.raises(error, match=message):
        peft.register_peft_method(**dict(name="third", config_cls=TwiceConfig, model_cls=Twice) | wrong)
    assert c.CONFIGS == before


def test_a_method_that_was_not_registered_is_not_known():
    @dataclass(repr=False)
    class Unknown(peft.PromptLearningConfig):
        peft_type: str = "UNKNOWN"

    with pytest.raises(ValueError, match="'UNKNOWN' is not a PeftType"):
        Unknown(num_virtual_tokens=1)
