"What happens seldom: pictures, checkpointing switched on late, a layer without adapters, a module that is not there."
# lane: reference

import sys
import warnings
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import peft_viz
from families import tiny_model
from peft_viz import checkpoint, helpers, tiny_random, trainer
from peft_viz.reference.generation import as_many_positions_as_tokens, DecodingStep
from peft_viz.reference.place import find_place, Past

CLM = dict(task_type="CAUSAL_LM")
IDS = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])


def prompted(**options):
    config = peft_viz.PromptTuningConfig(num_virtual_tokens=3, **CLM)
    return peft_viz.get_peft_model(tiny_random("llama"), config, **options)


def test_pictures_whose_positions_are_counted_from_the_ids_are_refused():
    base = tiny_random("llama")
    base.get_rope_index = lambda *_: None  # how transformers names it where positions have several directions
    model = peft_viz.get_peft_model(base, peft_viz.PromptTuningConfig(num_virtual_tokens=3, **CLM))
    assert model(IDS).logits.shape == (2, 7, base.config.vocab_size)
    with pytest.raises(ValueError, match="several directions.*LoRA"):
        model(IDS, pixel_values=torch.ones(1, 2))


def test_positions_in_several_directions_are_moved_alike():
    place = find_place(prompted(corrected_positions=True).setting, None, 2, 4, Past({}))
    directions = torch.arange(3 * 2 * 4).view(3, 2, 4)
    moved = place.shifted(directions)
    assert moved.shape == (3, 2, 7) and torch.equal(moved[..., 3:], directions + 3)
    assert torch.equal(moved[..., :3], torch.arange(3).expand(3, 2, 3))


@pytest.mark.parametrize("corrected", [False, True])
def test_a_prefix_with_checkpointing_switched_on_later(corrected):
    config = peft_viz.PrefixTuningConfig(num_virtual_tokens=3, **CLM)
    model = peft_viz.get_peft_model(tiny_random("llama"), config, corrected_positions=corrected).train()
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="gradient checkpointing"):
        model(IDS, attention_mask=mask)
    with torch.no_grad():
        assert (
            model.eval()(IDS, attention_mask=mask).logits.isfinite().all()
        )  # nothing is computed again there


@pytest.mark.parametrize("corrected", [False, True])
def test_a_prefix_with_each_layer_in_a_wrapper(corrected):
    "As FSDP puts it around the layers, after the model has its adapter."
    config = peft_viz.PrefixTuningConfig(num_virtual_tokens=3, **CLM)
    model = peft_viz.get_peft_model(tiny_random("llama"), config, corrected_positions=corrected).train()
    layers = model.get_base_model().model.layers
    layers[1] = checkpoint_wrapper(layers[1])
    with pytest.raises(ValueError, match="leave out the checkpoint_wrapper"):
        model(IDS)
    with torch.no_grad():
        assert model.eval()(IDS).logits.isfinite().all()


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta-xl", "bert"])
def test_a_prefix_before_embeddings_is_one_before_their_ids(family):
    "RoBERTa and its kin count positions behind the cache for ids only; in peft the two differ."
    config = peft_viz.PrefixTuningConfig(num_virtual_tokens=3, **CLM)
    model = peft_viz.get_peft_model(tiny_model(family, is_decoder=True), config).eval()
    embeds, where = model.get_input_embeddings()(IDS), torch.arange(4)[None]
    assert torch.equal(model(inputs_embeds=embeds).logits, model(IDS).logits)
    given = model(inputs_embeds=embeds, position_ids=where).logits
    assert torch.equal(given, model(IDS, position_ids=where).logits)
    padded = torch.cat((IDS, torch.full_like(IDS[:, :1], model.config.pad_token_id)), 1)
    seen = []
    hook = model.base_model.register_forward_pre_hook(
        lambda _, __, given: seen.append(given), with_kwargs=True
    )
    model(padded)  # the base model counts by itself, past the padding
    hook.remove()
    assert seen[0].get("position_ids") is None


def test_prompt_methods_have_nothing_to_do_around_the_base_model():
    with prompted()._enable_peft_forward_hooks():
        assert prompted().active_adapters == ["default"]


@pytest.mark.parametrize("config", [peft_viz.LoraConfig, peft_viz.IA3Config])
def test_layers_that_none_of_the_combined_adapters_has(config):
    extra = dict(feedforward_modules=[]) if config is peft_viz.IA3Config else {}
    fields = {
        name: config(target_modules=[target], **extra, **CLM)
        for name, target in zip("abc", ("q_proj", "k_proj", "v_proj"))
    }
    model = peft_viz.get_peft_model(tiny_random("llama"), fields["a"], "a")
    model.add_adapter("b", fields["b"])
    model.add_adapter("c", fields["c"])
    model.base_model.add_weighted_adapter(["a", "b"], [0.5, 2.0], "both")
    model.set_adapter("both")
    assert model(IDS).logits.isfinite().all()


def test_a_card_for_a_base_model_without_a_name():
    config = peft_viz.IA3Config(**CLM)
    model = SimpleNamespace(get_base_model=object, base_model=object(), peft_config={"default": config})
    assert checkpoint.card_metadata(model, "default")["tags"] == []


def test_a_card_that_cannot_be_read_stays(tmp_path):
    (tmp_path / "README.md").write_text("---\ntags: [\n---\nmine")
    with pytest.warns(UserWarning, match="stays as it is"):
        checkpoint.create_or_update_model_card(prompted(), tmp_path)
    assert (tmp_path / "README.md").read_text() == "---\ntags: [\n---\nmine"


@pytest.mark.parametrize("here, warned", [("elsewhere/name", False), ("elsewhere/other", True)])
def test_a_prompt_of_the_same_base_model_in_another_folder(here, warned, tmp_path):
    model = prompted()
    model.peft_config["default"].base_model_name_or_path = "somewhere/name"
    model.save_pretrained(tmp_path)
    base = tiny_random("llama")
    base.name_or_path = base.config.name_or_path = here
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        peft_viz.PeftModel.from_pretrained(base, tmp_path)
    assert any("mean nothing to another model" in str(w.message) for w in found) == warned


def test_numbers_of_four_bits_keep_their_type_and_memory_is_given_back(monkeypatch):
    class Params4bit(torch.nn.Parameter):
        pass

    model = torch.nn.Linear(2, 2).half()
    model.weight = Params4bit(model.weight.data)
    given_back = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given_back.append(1))
    helpers.prepare_model_for_kbit_training(model)
    assert model.weight.dtype == torch.float16 and model.bias.dtype == torch.float32 and given_back == [1]


def test_an_adapter_beside_a_tokenizer_that_fits(monkeypatch, tmp_path):
    import transformers

    (tmp_path / "tokenizer_config.json").write_text("{}")
    base = tiny_random("llama")
    size = base.get_input_embeddings().weight.shape[0]
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: base)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: range(size))
    config = SimpleNamespace(base_model_name_or_path="x", revision=None)
    assert helpers._load_base_model(config, tmp_path, {}).get_input_embeddings().weight.shape[0] == size
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: range(size + 3))
    assert helpers._load_base_model(config, tmp_path, {}).get_input_embeddings().weight.shape[0] == size + 3


def test_the_trainer_is_taught_when_it_is_imported(monkeypatch):
    ran, taught = [], []
    finder = trainer.TeachOnImport(peft_viz.PeftModel)
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    loader = SimpleNamespace(exec_module=ran.append)
    monkeypatch.setattr(trainer.importlib.util, "find_spec", lambda _: SimpleNamespace(loader=loader))
    monkeypatch.setattr(trainer, "teach", taught.append)
    assert finder.find_spec("transformers.other", None) is None
    module = ModuleType("transformers.trainer")
    finder.find_spec("transformers.trainer", None).loader.exec_module(module)
    assert ran == [module] and taught == [peft_viz.PeftModel] and finder not in sys.meta_path


def test_teaching_where_a_version_has_no_such_module(monkeypatch):
    import transformers.trainer as theirs

    for name in "PeftModel", "is_peft_available":
        monkeypatch.setattr(theirs, name, getattr(theirs, name, ()), raising=False)
    monkeypatch.setattr(trainer, "ASKING", ("transformers.no_such_module",))
    trainer.teach(peft_viz.PeftModel)
    assert isinstance(prompted(), theirs.PeftModel) and theirs.is_peft_available()


def test_positions_are_given_back_only_where_they_fit_the_tokens():
    "XLM adds a token of its own to those that it is given."
    told, three = dict(position_ids=torch.zeros(2, 3)), torch.zeros(2, 3)
    assert as_many_positions_as_tokens(told, dict(input_ids=three)) and as_many_positions_as_tokens(told, {})
    assert as_many_positions_as_tokens({}, dict(input_ids=three))
    assert not as_many_positions_as_tokens(told, dict(input_ids=torch.zeros(2, 4)))


@pytest.mark.parametrize("places", [1, 2])
def test_the_word_embeddings_are_those_of_today(places):
    base = tiny_random("llama")
    if places == 2:
        base.also = base.get_input_embeddings()
    model = peft_viz.get_peft_model(base, peft_viz.PromptTuningConfig(num_virtual_tokens=3, **CLM))
    assert model.word_embeddings is base.get_input_embeddings()
    base.set_input_embeddings(torch.nn.Embedding(70, base.config.hidden_size))
    assert model.word_embeddings is base.get_input_embeddings() and len(model.word_embeddings.weight) == 70
    assert model.state_dict()["word_embeddings.weight"].shape[0] == 70


def test_positions_that_the_base_model_lost_are_given_back():
    "Some base models leave out in their prepared inputs what they were told."
    model = peft_viz.get_peft_model(
        tiny_random("llama"), peft_viz.PromptTuningConfig(**CLM, num_virtual_tokens=2)
    )
    ids, positions = torch.tensor([[3, 4, 5]]), torch.arange(5)[None]
    step = DecodingStep(model.setting, ids, None, dict(attention_mask=torch.ones_like(ids)))
    told = dict(attention_mask=torch.ones(1, 5), position_ids=positions)
    assert step.left_to_base_model({}, told)["position_ids"] is positions
    assert "position_ids" not in step.left_to_base_model(dict(input_ids=torch.zeros(1, 6)), told)
