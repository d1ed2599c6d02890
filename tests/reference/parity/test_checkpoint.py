"""Checkpoints are peft's: what peft saved loads here, what is saved here loads in peft, with the same bytes in
the file and the same logits from the model.

And whatever else may lie in a folder is refused by name, before the model is touched, and without running anything.
"""
# lane: reference

import copy
import itertools
import json
import os
import pickle
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, MusicgenConfig
from torch import nn

import peft_viz.reference.causal_lm as ours
import peft_viz.reference.checkpoint as checkpoint
import peft_viz.reference.config as our_config
from peft_viz.reference.config import LoraConfig, PromptEncoderConfig, PromptTuningConfig
from peft_viz.reference.model import PeftModel
from parity import assert_equal, base_model, batch, OLD_PEFT, VOCABULARY
from small import TOKENS

pytestmark = pytest.mark.usefixtures("quiet_and_single")

peft = pytest.importorskip("peft")
CLM = dict(task_type="CAUSAL_LM")
CONFIG, SAFE, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
CARD = "README.md"

METHODS = {  # the class of the configuration, its fields, the family
    "lora": ("LoraConfig", dict(r=3, lora_alpha=5), "llama"),
    "lora-conv1d": ("LoraConfig", dict(r=3, use_rslora=True), "gpt2"),
    "lora-ranks": (
        "LoraConfig",
        dict(r=2, target_modules="all-linear", rank_pattern={"q_proj": 4}, alpha_pattern={"k_proj": 3}),
        "llama",
    ),
    "lora-saved": ("LoraConfig", dict(r=2, modules_to_save=["lm_head", "final_layer_norm"]), "opt"),
    "lora-bias-all": ("LoraConfig", dict(r=2, bias="all", modules_to_save=["final_layer_norm"]), "opt"),
    "lora-bias-only": ("LoraConfig", dict(r=2, bias="lora_only"), "opt"),
    "lora-dora": ("LoraConfig", dict(r=2, use_dora=True), "llama"),
    "lora-dora-conv1d": ("LoraConfig", dict(r=2, use_dora=True), "gpt2"),
    "lora-embedding": ("LoraConfig", dict(r=2, target_modules=["embed_tokens", "q_proj"]), "llama"),
    "lora-head": ("LoraConfig", dict(r=2, target_modules=r".*(lm_head|v_proj)"), "llama"),
    "adalora": ("AdaLoraConfig", dict(init_r=4, target_r=2, total_step=10), "llama"),
    "adalora-pruned": ("AdaLoraConfig", dict(init_r=4, target_r=2, total_step=10), "llama"),
    "ia3": ("IA3Config", {}, "gpt2"),
    "poly": ("PolyConfig", dict(r=2, n_tasks=3, n_skills=2), "llama"),
    "prefix": ("PrefixTuningConfig", dict(num_virtual_tokens=4), "gpt2"),
    "prefix-projection": (
        "PrefixTuningConfig",
        dict(num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=24),
        "gpt2",
    ),
    "prompt": ("PromptTuningConfig", dict(num_virtual_tokens=4), "llama"),
    "prompt-saved": ("PromptTuningConfig", dict(num_virtual_tokens=4, modules_to_save=["lm_head"]), "llama"),
    "p-tuning": ("PromptEncoderConfig", dict(num_virtual_tokens=4, encoder_hidden_size=24), "llama"),
    "p-tuning-lstm": (
        "PromptEncoderConfig",
        dict(num_virtual_tokens=4, encoder_reparameterization_type="LSTM", encoder_hidden_size=12),
        "llama",
    ),
    "multitask": (
        "MultitaskPromptTuningConfig",
        dict(num_virtual_tokens=4, num_tasks=3, num_ranks=2),
        "llama",
    ),
    "cpt": (
        "CPTConfig",
        dict(cpt_token_ids=[11, 12, 13, 14, 15, 16], cpt_tokens_type_mask=[1, 2, 2, 3, 4, 4]),
        "llama",
    ),
}
# what is computed before and after may differ in the last bit: fewer numbers are added up; torch has another
# LSTM without gradients; CPT pulls its deltas back once more
ROUNDED = {"adalora-pruned", "p-tuning-lstm", "cpt"}
everywhere = pytest.mark.parametrize("method", METHODS)


def config(package, method, **more):
    name, fields, _ = METHODS[method]
    return getattr(package, name)(**{**CLM, **copy.deepcopy(fields), **more})


def trained(method, **more):
    "peft's model and ours around the same base model, with the same weights, which are nobody's initialisation."
    theirs = peft.get_peft_model(fresh(method), config(peft, method, **more))
    mine = ours.get_peft_model(fresh(method), config(our_config, method, **more))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in theirs.named_parameters():
        if parameter.requires_grad or "prompt_encoder" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    mine.load_state_dict(theirs.state_dict(), strict=True)
    if method == "adalora-pruned":
        for model in theirs, mine:
            prune(model)
    return theirs.eval(), mine.eval()


def prune(model):
    "As after `update_and_allocate`: some singular values are zero, and the configuration says which."
    patterns, kinds = {}, itertools.cycle([[True, False, True, False], [False] * 3 + [True], [True] * 4])
    for name, parameter in model.get_base_model().named_parameters():
        if "lora_E" in name:
            patterns[name] = next(kinds)
            parameter.data *= torch.tensor(patterns[name])[:, None]
    model.peft_config["default"].rank_pattern = patterns


def logits(model, method):
    tasks = dict(task_ids=torch.tensor([1, 0, 2])) if method in ("multitask", "poly") else {}
    with torch.no_grad():
        return model(**batch("left", labels=False), **tasks).logits


def fresh(method="lora"):
    return base_model(METHODS[method][2])


def settings(folder):
    "The configuration in a folder; the order of sets means nothing, and neither does the version."
    fields = json.loads(Path(folder, CONFIG).read_text())
    fields["base_model_name_or_path"] = (
        fields["base_model_name_or_path"] or None
    )  # older versions of peft write ""
    return {
        k: sorted(v) if k.endswith("_modules") and isinstance(v, list) else v
        for k, v in fields.items()
        if k != "peft_version"
    }


def file_bytes(folder):
    return Path(folder, SAFE).read_bytes()


# --- there and back -----------------------------------------------------------------------------------------------


@everywhere
def test_same_files(method, tmp_path):
    "The same model gives the same bytes, and the same configuration field by field."
    theirs, mine = trained(method)
    mine.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    if (
        OLD_PEFT and method == "lora-bias-only"
    ):  # peft 0.18 looks for the biases under names of the base model without LoRA, and forgets them
        assert not any("bias" in name for name in load_file(tmp_path / "theirs" / SAFE))
        assert sum("bias" in name for name in load_file(tmp_path / "ours" / SAFE)) == 4
    else:
        assert file_bytes(tmp_path / "ours") == file_bytes(tmp_path / "theirs")
    here, there = settings(tmp_path / "ours"), settings(tmp_path / "theirs")
    assert {k: here[k] for k in there} == there
    news = [here[k] for k in here.keys() - there.keys()]
    assert not any(news) if OLD_PEFT else not news
    if not OLD_PEFT:
        assert json.loads((tmp_path / "ours" / CONFIG).read_text())["peft_version"] == peft.__version__
    text = (tmp_path / "ours" / CONFIG).read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True)
    assert sorted(os.listdir(tmp_path / "ours")) == [CARD, CONFIG, SAFE]  # nothing temporary is left


@everywhere
def test_peft_here_peft(method, tmp_path):
    theirs, _ = trained(method)
    theirs.save_pretrained(tmp_path / "theirs")
    mine = PeftModel.from_pretrained(fresh(method), tmp_path / "theirs")
    assert type(mine) is ours.PeftModelForCausalLM and not mine.training
    theirs_again = peft.PeftModel.from_pretrained(fresh(method), str(tmp_path / "theirs"))
    assert torch.equal(logits(mine, method), logits(theirs_again, method))
    assert_equal(dict(theirs_again.named_parameters()), dict(mine.named_parameters()))
    if not (
        OLD_PEFT and method == "adalora-pruned"
    ):  # peft 0.18 makes new parameters for the pruned ranks, and those want gradients
        assert {n: p.requires_grad for n, p in theirs_again.named_parameters()} == {
            n: p.requires_grad for n, p in mine.named_parameters()
        }
    mine.save_pretrained(tmp_path / "ours")
    if not (OLD_PEFT and method == "lora-bias-only"):
        assert file_bytes(tmp_path / "ours") == file_bytes(tmp_path / "theirs")
    said = {}
    for folder in "ours", "theirs":
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            back = peft.PeftModel.from_pretrained(fresh(method), str(tmp_path / folder))
        said[folder] = {str(w.message) for w in caught}
        assert torch.equal(logits(back, method), logits(theirs_again, method))
    assert OLD_PEFT or said["ours"] == said["theirs"]  # older versions do not know all fields


@everywhere
def test_here_peft_here(method, tmp_path):
    _, mine = trained(method)
    mine.save_pretrained(tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(fresh(method), str(tmp_path / "ours"))
    again = PeftModel.from_pretrained(fresh(method), tmp_path / "ours")
    assert torch.equal(logits(theirs, method), logits(again, method))
    if method in ROUNDED:
        torch.testing.assert_close(logits(again, method), logits(mine, method))
    else:
        assert torch.equal(logits(again, method), logits(mine, method))
    theirs.save_pretrained(tmp_path / "theirs")
    if not (OLD_PEFT and method == "lora-bias-only"):
        assert file_bytes(tmp_path / "ours") == file_bytes(tmp_path / "theirs")


@everywhere
def test_twice(method, tmp_path):
    "Saving into the same folder and loading into the same adapter again changes nothing."
    _, mine = trained(method)
    mine.save_pretrained(tmp_path)
    first = file_bytes(tmp_path), settings(tmp_path)
    loaded = PeftModel.from_pretrained(fresh(method), tmp_path)
    expected = logits(loaded, method)
    result = loaded.load_adapter(tmp_path, "default")
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert torch.equal(logits(loaded, method), expected)
    for _ in range(2):
        loaded.save_pretrained(tmp_path)
        assert (file_bytes(tmp_path), settings(tmp_path)) == first


@pytest.mark.parametrize("method", ["lora-dora", "adalora-pruned", "prompt-saved", "multitask"])
def test_pickle(method, tmp_path):
    theirs, mine = trained(method)
    mine.save_pretrained(tmp_path / "ours", safe_serialization=False)
    mine.save_pretrained(tmp_path / "safe")
    theirs.save_pretrained(tmp_path / "theirs", safe_serialization=False)
    assert sorted(os.listdir(tmp_path / "ours")) == [CARD, CONFIG, PICKLE]
    assert_equal(torch.load(tmp_path / "ours" / PICKLE), torch.load(tmp_path / "theirs" / PICKLE))
    loaded = [
        logits(PeftModel.from_pretrained(fresh(method), tmp_path / folder), method)
        for folder in ("ours", "safe")
    ]
    if method in ROUNDED:
        torch.testing.assert_close(*loaded)
    else:
        assert torch.equal(*loaded)
    assert torch.equal(
        logits(peft.PeftModel.from_pretrained(fresh(method), str(tmp_path / "ours")), method), loaded[0]
    )


# --- several adapters ---------------------------------------------------------------------------------------------


def several(package, get_peft_model, third="third"):
    model = get_peft_model(fresh("lora-saved"), config(package, "lora-saved"))
    model.add_adapter("second", package.LoraConfig(r=1, **CLM))
    model.add_adapter(third, package.LoraConfig(r=1, modules_to_save=["final_layer_norm"], **CLM))
    return model


@pytest.mark.parametrize("selected", [None, ["default"], ["second"], ["third", "default"], []])
def test_several_adapters(selected, tmp_path):
    theirs, mine = several(peft, peft.get_peft_model), several(our_config, ours.get_peft_model)
    mine.load_state_dict(theirs.state_dict())
    theirs.save_pretrained(tmp_path / "theirs", selected_adapters=selected)
    mine.save_pretrained(tmp_path / "ours", selected_adapters=selected)
    files = [
        {str(f.relative_to(tmp_path / who)): f.read_bytes() for f in (tmp_path / who).rglob(SAFE)}
        for who in ("ours", "theirs")
    ]
    assert files[0] == files[1] and len(files[0]) == (3 if selected is None else len(selected))
    for name in ["default", "second", "third"] if selected is None else selected:
        loaded = PeftModel.from_pretrained(
            fresh("lora-saved"),
            tmp_path / "ours",
            adapter_name="new",
            subfolder=None if name == "default" else name,
        )
        mine.set_adapter(name)
        assert torch.equal(logits(loaded, "lora"), logits(mine.eval(), "lora"))


def test_an_adapter_called_like_a_module(tmp_path):
    "peft takes the name for a part of every key it occurs in, and loses tensors."
    if not OLD_PEFT:  # an older one saves tensors of all adapters instead
        with pytest.raises(KeyError):
            several(peft, peft.get_peft_model, "layers").save_pretrained(tmp_path / "theirs")
    mine = several(our_config, ours.get_peft_model, "layers")
    mine.save_pretrained(tmp_path)
    assert [len(load_file(tmp_path / name / SAFE)) for name in ("", "second", "layers")] == [
        2 * 4 + 3 * 2 + 1,
        2 * 4,
        2 * 4 + 3 * 2,
    ]


def test_adapters_keep_to_themselves(tmp_path):
    "With bias='all' every bias belongs to the adapter, but not those that another adapter trains in full."
    model = ours.get_peft_model(fresh("lora-bias-all"), LoraConfig(r=1, bias="all", **CLM))
    model.add_adapter("other", LoraConfig(r=1, modules_to_save=["final_layer_norm"], **CLM))
    names = checkpoint.get_peft_model_state_dict(model)
    assert not any("other" in name or "modules_to_save" in name for name in names)
    assert "base_model.model.model.decoder.final_layer_norm.original_module.bias" in names
    with_embeddings = ours.get_peft_model(fresh(), LoraConfig(r=1, target_modules=["embed_tokens"], **CLM))
    with_embeddings.add_adapter("other", LoraConfig(r=1, modules_to_save=["lm_head"], **CLM))
    names = checkpoint.get_peft_model_state_dict(with_embeddings, save_embedding_layers=True)
    assert not any("other" in name for name in names)
    names = checkpoint.get_peft_model_state_dict(
        with_embeddings, adapter_name="other", save_embedding_layers=True
    )
    assert not any("default" in name for name in names)
    assert {
        "base_model.model.lm_head.weight",
        "base_model.model.lm_head.original_module.weight",
    } <= names.keys()


def test_names_in_files():
    assert checkpoint._without("a", "layers.a.q.lora_A.a.weight") == "layers.a.q.lora_A.weight"
    assert checkpoint._without("a", "a.ia3_l.a") == "a.ia3_l"
    assert checkpoint._without("a", "a.b.c.weight") == "a.b.c.weight"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "/a", "a\\b", "a\0b"])
def test_names_that_are_no_folders(name, tmp_path):
    with pytest.raises(ValueError, match="cannot be one"):
        checkpoint.adapter_folder(tmp_path, name)
    assert (
        checkpoint.adapter_folder(tmp_path, "a b.c") == tmp_path / "a b.c"
        and checkpoint.adapter_folder(tmp_path, "default") == tmp_path
    )


def test_a_name_that_leads_elsewhere_saves_nothing(tmp_path):
    model = ours.get_peft_model(fresh(), LoraConfig(**CLM))
    with pytest.raises(ValueError, match="'in/side'"):
        model.add_adapter("in/side", LoraConfig(**CLM))
    model.peft_config["in/side"] = model.peft_config["default"]  # behind the model's back
    for selected in None, ["in/side"]:
        with pytest.raises(ValueError, match="'in/side'"):
            model.save_pretrained(tmp_path / "new", selected_adapters=selected)
    with pytest.raises(ValueError, match="no adapter 'nobody'; there are default, in/side"):
        model.save_pretrained(tmp_path / "new", selected_adapters=["default", "nobody"])
    assert os.listdir(tmp_path) == []


# --- embeddings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", ["lora", "lora-conv1d", "lora-saved", "lora-embedding", "lora-head", "prompt", "ia3"]
)
@pytest.mark.parametrize("embeddings", [True, False])
def test_embeddings_on_request(method, embeddings, tmp_path):
    theirs, mine = trained(method)
    mine.save_pretrained(tmp_path / "ours", save_embedding_layers=embeddings)
    theirs.save_pretrained(tmp_path / "theirs", save_embedding_layers=embeddings)
    assert_equal(load_file(tmp_path / "theirs" / SAFE), load_file(tmp_path / "ours" / SAFE))
    base = fresh(method)
    torch.nn.init.zeros_(base.get_input_embeddings().weight)
    loaded = PeftModel.from_pretrained(base, tmp_path / "ours")
    assert torch.equal(logits(loaded, method), logits(mine, method)) == embeddings or method == "lora-head"
    if not embeddings:
        assert not base.get_input_embeddings().weight.any()


@pytest.mark.parametrize(
    "targets, method, targeted",
    [
        (r".*q_proj", "lora", False),
        (r".*(lm_head|q_proj)", "lora", True),
        (["q_proj", "lm_head"], "lora", True),
        (["q_proj"], "lora", False),
        ("all-linear", "lora", False),
        (r".*wte", "lora-conv1d", False),
    ],
)
def test_embeddings_among_the_targets(targets, method, targeted):
    model = ours.get_peft_model(fresh(method), LoraConfig(r=1, target_modules=targets, **CLM))
    assert checkpoint.targets_embeddings(model, "default") == targeted
    assert any("base_layer" in name for name in checkpoint.get_peft_model_state_dict(model)) == targeted


@pytest.fixture
def base_folder(tmp_path):
    "A base model in several files."
    base_model("llama").save_pretrained(tmp_path / "base", max_shard_size="20KB")
    assert len(list((tmp_path / "base").glob("*.safetensors"))) > 2
    return tmp_path / "base"


def resized(folder, more=3):
    model = LlamaForCausalLM.from_pretrained(folder)
    torch.manual_seed(0)
    model.resize_token_embeddings(VOCABULARY + more, mean_resizing=False)
    return model.eval()


def test_embeddings_of_a_resized_vocabulary(base_folder, tmp_path):
    theirs = peft.get_peft_model(resized(base_folder), peft.LoraConfig(**CLM))
    mine = ours.get_peft_model(resized(base_folder), LoraConfig(**CLM)).eval()
    mine.load_state_dict(theirs.state_dict())
    theirs.save_pretrained(tmp_path / "theirs")
    mine.save_pretrained(tmp_path / "ours")
    tensors = load_file(tmp_path / "ours" / SAFE)
    assert {"base_model.model.lm_head.weight", "base_model.model.model.embed_tokens.weight"} <= tensors.keys()
    assert file_bytes(tmp_path / "ours") == file_bytes(tmp_path / "theirs")
    loaded = PeftModel.from_pretrained(
        resized(base_folder).apply(lambda m: m.reset_parameters() if isinstance(m, nn.Embedding) else None),
        tmp_path / "ours",
    )
    assert torch.equal(logits(loaded, "lora"), logits(mine, "lora"))
    with pytest.raises(
        ValueError,
        match=r"of another shape: .*embed_tokens.weight \[64, 32\] instead of \[61, 32\].*call resize_token_embeddings",
    ):
        PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base_folder), tmp_path / "ours")


def test_tied_embeddings(tmp_path):
    "Saved twice, and still one tensor after loading."

    def tied():
        torch.manual_seed(0)
        return LlamaForCausalLM(
            LlamaConfig(
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=1,
                num_attention_heads=4,
                tie_word_embeddings=True,
                **TOKENS,
            )
        ).eval()

    mine = ours.get_peft_model(tied(), LoraConfig(**CLM))
    mine.get_input_embeddings().weight.data += 1
    mine.save_pretrained(tmp_path, save_embedding_layers=True)
    loaded = PeftModel.from_pretrained(tied(), tmp_path)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    assert torch.equal(loaded.lm_head.weight, mine.lm_head.weight)


@pytest.mark.parametrize(
    "written",
    [
        "{",
        "[]",
        '{"vocab_size": 61}',
        '{"text_config": {"vocab_size": 61}}',
        '{"text_config": 5}',
        "{}",
        None,
        '{"vocab_size": 60}',
        '{"text_config": {"vocab_size": 60}}',
    ],
)
def test_what_the_base_model_says_of_its_vocabulary(written, tmp_path):
    "Only another number is a reason to save the embeddings."
    model = ours.get_peft_model(fresh(), LoraConfig(**CLM))
    model.peft_config["default"].base_model_name_or_path = str(tmp_path)
    if written is not None:
        (tmp_path / "config.json").write_text(written)
    assert checkpoint.vocabulary_was_resized(model, "default") == ("60" in (written or ""))


def test_the_vocabulary_is_the_decoders():
    "A configuration of several models may describe several texts; a model may have no configuration."
    config = MusicgenConfig(
        text_encoder=dict(model_type="t5", vocab_size=7),
        audio_encoder=dict(model_type="encodec"),
        decoder=dict(model_type="musicgen_decoder", vocab_size=9),
    )
    assert checkpoint.vocabulary(SimpleNamespace(config=config)) == 9
    assert checkpoint.vocabulary(torch.nn.Linear(1, 1)) is None


def test_a_base_model_without_a_name_is_not_looked_for_here(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"vocab_size": 60}')
    monkeypatch.chdir(tmp_path)
    model = ours.get_peft_model(fresh(), LoraConfig(**CLM))
    assert model.peft_config["default"].base_model_name_or_path is None
    assert not checkpoint.vocabulary_was_resized(model, "default")


def test_the_base_models_files_are_left_alone(base_folder, tmp_path):
    model = ours.get_peft_model(
        LlamaForCausalLM.from_pretrained(base_folder).eval(), LoraConfig(init_lora_weights=False, **CLM)
    )
    another = LlamaForCausalLM.from_pretrained(base_folder).eval()
    shutil.rmtree(base_folder)  # neither read
    model.save_pretrained(tmp_path / "adapter")
    assert torch.equal(
        logits(PeftModel.from_pretrained(another, tmp_path / "adapter"), "lora"), logits(model.eval(), "lora")
    )
    assert os.listdir(tmp_path) == ["adapter"]  # nor written
    assert json.loads((tmp_path / "adapter" / CONFIG).read_text())["base_model_name_or_path"] == str(
        base_folder
    )


# --- what is saved ------------------------------------------------------------------------------------------------


def test_a_prompt_is_saved_without_dropout():
    "In training mode, peft saves the prompt that an LSTM with dropout happened to give."
    fields = dict(
        num_virtual_tokens=4,
        encoder_reparameterization_type="LSTM",
        encoder_hidden_size=12,
        encoder_dropout=0.5,
    )
    theirs = peft.get_peft_model(fresh(), peft.PromptEncoderConfig(**fields, **CLM)).train()
    mine = ours.get_peft_model(fresh(), PromptEncoderConfig(**fields, **CLM)).train()
    mine.load_state_dict(theirs.state_dict())
    assert not torch.equal(
        theirs.get_prompt_embedding_to_save("default"), theirs.get_prompt_embedding_to_save("default")
    )
    saved = mine.get_prompt_embedding_to_save("default")
    assert all(m.training for m in mine.prompt_encoder.modules())
    assert torch.equal(saved, theirs.eval().get_prompt_embedding_to_save("default"))
    assert torch.equal(checkpoint.get_peft_model_state_dict(mine.eval())["prompt_embeddings"], saved)
    assert not any(m.training for m in mine.prompt_encoder.modules())


def test_state_dict_from_elsewhere(tmp_path):
    "As a trainer hands it over."
    _, model = trained("lora-saved")
    elsewhere = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=elsewhere, safe_serialization=True, max_shard_size="1GB")
    own = checkpoint.get_peft_model_state_dict(model)
    assert_equal(load_file(tmp_path / SAFE), {name: tensor + 1 for name, tensor in own.items()})
    del elsewhere["base_model.model.lm_head.modules_to_save.default.weight"]
    with pytest.raises(ValueError, match="it lacks base_model.model.lm_head.modules_to_save.default.weight"):
        model.save_pretrained(tmp_path / "new", state_dict=elsewhere)
    assert not (tmp_path / "new").exists()


def test_compiled():
    _, model = trained("lora")
    assert_equal(
        checkpoint.get_peft_model_state_dict(SimpleNamespace(_orig_mod=model), unwrap_compiled=True),
        checkpoint.get_peft_model_state_dict(model),
    )
    assert_equal(
        checkpoint.get_peft_model_state_dict(model, unwrap_compiled=True),
        checkpoint.get_peft_model_state_dict(model),
    )


def test_the_model_is_not_changed_by_saving(tmp_path):
    _, model = trained("adalora-pruned")
    before = copy.deepcopy(model.peft_config), {n: t.clone() for n, t in model.state_dict().items()}
    model.save_pretrained(tmp_path)
    assert model.peft_config == before[0] and not model.peft_config["default"].inference_mode
    assert_equal(model.state_dict(), before[1])


def test_other_processes_write_nothing(tmp_path):
    _, model = trained("lora")
    model.save_pretrained(tmp_path / "new", is_main_process=False)
    assert not (tmp_path / "new").exists()


def test_nothing_is_uploaded(tmp_path):
    _, model = trained("lora")
    with pytest.raises(NotImplementedError, match="push_to_hub"):
        model.save_pretrained(tmp_path / "new", push_to_hub=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_without_a_task(method, tmp_path):
    theirs, mine = trained(method, task_type=None)
    assert type(mine) is PeftModel
    theirs.save_pretrained(tmp_path / "theirs")
    mine.save_pretrained(tmp_path / "ours")
    assert (
        settings(tmp_path / "ours")["auto_mapping"] == settings(tmp_path / "theirs")["auto_mapping"] != None
    )
    assert type(PeftModel.from_pretrained(fresh(method), tmp_path / "theirs")) is PeftModel
    assert (
        type(ours.PeftModelForCausalLM.from_pretrained(fresh(method), tmp_path / "theirs"))
        is ours.PeftModelForCausalLM
    )
    assert mine.peft_config["default"].auto_mapping is None


# --- writing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("what", [KeyboardInterrupt, OSError])
def test_an_interrupted_save_costs_nothing(safe, what, tmp_path, monkeypatch):
    model = ours.get_peft_model(fresh(), LoraConfig(**CLM))
    model.save_pretrained(tmp_path, safe_serialization=safe)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}

    def half(tensors, path, **kwargs):
        Path(path).write_bytes(b"half")
        raise what("out of luck")

    monkeypatch.setattr("safetensors.torch.save_file", half)
    monkeypatch.setattr("torch.save", half)
    model.peft_config["default"].lora_alpha = 99
    with pytest.raises(what):
        model.save_pretrained(tmp_path, safe_serialization=safe)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


@pytest.mark.parametrize("first", [True, False])
def test_the_other_kind_of_file_goes(first, tmp_path):
    "Where peft finds both kinds, it loads the older one of them, if that happens to be the safetensors."
    theirs, mine = trained("prompt")
    for model in theirs, mine:
        folder = str(tmp_path / type(model).__module__)
        model.save_pretrained(folder, safe_serialization=first)
        model.prompt_encoder["default"].embedding.weight.data += 1
        model.save_pretrained(folder, safe_serialization=not first)
        loaded = type(model).from_pretrained(fresh(), folder)
        is_new = torch.equal(
            loaded.prompt_encoder["default"].embedding.weight,
            model.prompt_encoder["default"].embedding.weight,
        )
        assert is_new == (model is mine or not first)
    assert sorted(os.listdir(folder)) == [CARD, CONFIG, PICKLE if first else SAFE]


@pytest.mark.parametrize("taken", ["", CONFIG, SAFE, PICKLE])
def test_a_place_that_is_taken(taken, tmp_path):
    model = ours.get_peft_model(fresh(), LoraConfig(**CLM))
    if taken:
        (tmp_path / "new" / taken).mkdir(parents=True)
    else:
        (tmp_path / "new").write_text("a file")
    with pytest.raises(ValueError, match=f"{taken or 'new'}.* (something else|a directory) is there"):
        model.save_pretrained(tmp_path / "new")
    left = os.listdir(tmp_path / "new") if taken else [(tmp_path / "new").read_text()]
    assert left == [taken or "a file"]


def test_a_broken_link_is_a_place_that_is_taken(tmp_path):
    (tmp_path / "new").symlink_to("new")
    with pytest.raises(ValueError, match="something else is there"):
        our_config.write_config(LoraConfig(), tmp_path / "new")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    our_config.write_config(LoraConfig(), tmp_path / "link")
    assert os.listdir(tmp_path / "folder") == [CONFIG]


# --- configurations -----------------------------------------------------------------------------------------------


@everywhere
def test_a_configuration_alone(method, tmp_path):
    theirs = config(peft, method)
    theirs.save_pretrained(tmp_path / "theirs")
    mine = our_config.read_config(tmp_path / "theirs")
    assert type(mine) is type(config(our_config, method)) and mine.inference_mode is False
    our_config.write_config(mine, tmp_path / "deep" / "ours")
    assert settings(tmp_path / "deep" / "ours") | settings(tmp_path / "theirs") == settings(
        tmp_path / "deep" / "ours"
    )
    again = peft.PeftConfig.from_pretrained(str(tmp_path), subfolder="deep/ours")
    theirs.peft_version = again.peft_version = None
    assert again == theirs
    assert our_config.read_config(tmp_path, subfolder="deep/ours") == mine or OLD_PEFT


def changed(folder, **fields):
    text = Path(folder, CONFIG).read_text()
    Path(folder, CONFIG).write_text(json.dumps({**json.loads(text), **fields}))


@pytest.mark.parametrize("nothing", [None, False, 0, 0.0, "", [], {}])
def test_fields_that_say_nothing(nothing, tmp_path):
    our_config.write_config(LoraConfig(r=3, **CLM), tmp_path)
    changed(tmp_path, a_new_field=nothing, runtime_config={"ephemeral_gpu_offload": True})
    assert our_config.read_config(tmp_path).r == 3


def test_fields_that_say_something(tmp_path):
    our_config.write_config(LoraConfig(r=3, **CLM), tmp_path)
    changed(tmp_path, a_new_field=1, another="x", peft_version="9.9")
    with pytest.raises(
        ValueError,
        match=r"adapter_config.json .*LoraConfig here knows nothing "
        r"of a_new_field=1, another='x', which peft 9.9 wrote",
    ):
        our_config.read_config(tmp_path)


def test_a_variant_that_is_not_there(tmp_path):
    our_config.write_config(LoraConfig(r=3, **CLM), tmp_path)
    changed(tmp_path, use_qalora=True)
    with pytest.raises(
        NotImplementedError, match=r"adapter_config.json: LoraConfig\(use_qalora=True\) is not implemented"
    ):
        our_config.read_config(tmp_path)


# --- reading what may be anything ---------------------------------------------------------------------------------


def spoil(folder, name, content):
    path = folder / name
    path.unlink(missing_ok=True)
    if content == "directory":
        path.mkdir()
    elif content == "loop":
        path.symlink_to(name)
    elif content == "nowhere":
        path.symlink_to("nobody")
    elif isinstance(content, bytes):
        path.write_bytes(content)


def as_pickle(content, folder):
    torch.save(content, folder / "x")
    data = (folder / "x").read_bytes()
    (folder / "x").unlink()
    return data


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12\n"
CONFIGS = {
    "missing": (None, "there is no adapter_config.json"),
    "directory": ("directory", "is not a file but a directory"),
    "loop": ("loop", "is not a file but a broken link"),
    "nowhere": ("nowhere", "is not a file but a broken link"),
    "empty": (b"", "is not an adapter's configuration"),
    "cut off": (b'{"peft_type": "LO', "is not an adapter's configuration"),
    "list": (b"[1]", "it holds no object but list"),
    "binary": (b"\xff\xfe\x00", "is not an adapter's configuration"),
    "deep": (b"[" * 100_000, "is not an adapter's configuration"),
    "no method": (b"{}", "'peft_type'"),
    "another method": (b'{"peft_type": "VERA"}', "'VERA' is not a PeftType"),
    "no name": (b'{"peft_type": ["LORA"]}', r"configuration: \['LORA'\] is not a PeftType"),
    "git-lfs": (POINTER, "adapter_config.json is a pointer to a large file.*git lfs pull"),
    "wrong type": (b'{"peft_type": "LORA", "r": "8"}', "r='8'; it must be a whole number"),
    "wrong pattern": (b'{"peft_type": "LORA", "rank_pattern": 8}', "is not an adapter's configuration"),
}
WEIGHTS = {
    "missing": (SAFE, None, "there is neither adapter_model.safetensors nor adapter_model.bin in"),
    "directory": (SAFE, "directory", "adapter_model.safetensors is not a file but a directory"),
    "loop": (SAFE, "loop", "adapter_model.safetensors is not a file but a broken link"),
    "empty": (SAFE, b"", "adapter_model.safetensors cannot be read"),
    "no header": (SAFE, b"\xff" * 100, "adapter_model.safetensors cannot be read"),
    "huge header": (SAFE, b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", "adapter_model.safetensors cannot be read"),
    "cut off": (SAFE, "half", "adapter_model.safetensors cannot be read"),
    "pickle directory": (PICKLE, "directory", "adapter_model.bin is not a file but a directory"),
    "pickle empty": (PICKLE, b"", "adapter_model.bin cannot be read"),
    "pickle nonsense": (PICKLE, b"nonsense", "adapter_model.bin cannot be read"),
    "pickle cut off": (PICKLE, "half", "adapter_model.bin cannot be read"),
    "pickled list": (PICKLE, [torch.ones(1)], "adapter_model.bin does not hold tensors by name"),
    "pickled numbers": (PICKLE, {"a": 1}, "adapter_model.bin does not hold tensors by name"),
    "pickled without names": (PICKLE, {1: torch.ones(1)}, "adapter_model.bin does not hold tensors by name"),
    "git-lfs": (SAFE, POINTER, "adapter_model.safetensors is a pointer to a large file.*git lfs pull"),
    "pickle of git-lfs": (PICKLE, POINTER, "adapter_model.bin is a pointer to a large file.*git lfs pull"),
    "pickled without numbers": (
        PICKLE,
        {"a": torch.empty(2, device="meta")},
        "adapter_model.bin does not hold tensors by name",
    ),
    "pickled sparse": (
        PICKLE,
        {"a": torch.eye(2).to_sparse()},
        "adapter_model.bin does not hold tensors by name",
    ),
}


def picture(model):
    "Everything about a model that loading could change."
    return [(n, type(m), m.training) for n, m in model.named_modules()], [
        (n, p.requires_grad, p.tolist()) for n, p in model.named_parameters()
    ]


def refused(folder, match, error=ValueError, model=None, **more):
    base = fresh() if model is None else model
    before, state = picture(base), torch.get_rng_state()
    with pytest.raises(error, match=match):
        PeftModel.from_pretrained(base, folder, **more)
    assert picture(base) == before and torch.equal(torch.get_rng_state(), state)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    trained("lora")[1].save_pretrained(folder)
    return folder


@pytest.fixture
def saved(sound, tmp_path):
    "A folder with a sound adapter, to spoil."
    return Path(shutil.copytree(sound, tmp_path, dirs_exist_ok=True))


@pytest.mark.parametrize("case", CONFIGS)
def test_configurations_that_are_none(case, saved):
    content, match = CONFIGS[case]
    spoil(saved, CONFIG, content)
    refused(saved, match)


def test_a_configuration_from_an_editor_of_windows(saved):
    before = our_config.read_config(saved)
    (saved / CONFIG).write_bytes(b"\xef\xbb\xbf" + (saved / CONFIG).read_bytes())
    assert our_config.read_config(saved) == before


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_that_are_none(case, saved):
    name, content, match = WEIGHTS[case]
    if content == "half":
        if name == PICKLE:
            trained("lora")[1].save_pretrained(saved, safe_serialization=False)
        content = (saved / name).read_bytes()[:1000]
    elif not isinstance(content, (bytes, str, type(None))):
        content = as_pickle(content, saved)
    (saved / SAFE).unlink(missing_ok=True)
    spoil(saved, name, content)
    refused(saved, match)


class Evil:
    "Runs a program when it is unpickled."

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("how", ["torch", "pickle", "legacy"])
@pytest.mark.parametrize("name", [SAFE, PICKLE])
def test_a_pickle_runs_nothing(how, name, saved):
    marker = saved / "executed"
    content = {"base_model.model.lm_head.weight": Evil(marker)}
    (saved / SAFE).unlink()
    if how == "pickle":
        (saved / name).write_bytes(pickle.dumps(content))
    else:
        torch.save(content, saved / name, _use_new_zipfile_serialization=how == "torch")
    refused(saved, f"{name} cannot be read")
    assert not marker.exists()
    if name == PICKLE and how == "torch":  # it would have, elsewhere
        torch.load(saved / name, weights_only=False)
        assert marker.exists()


@pytest.mark.parametrize("place", ["someone/lora", "nobody", "file"])
def test_a_place_that_is_no_folder(place, tmp_path):
    (tmp_path / "file").write_text("")
    refused(tmp_path / place, "is not a folder on this machine; adapters are read from local folders only")
    with pytest.raises(ValueError, match="'someone/lora' is not a folder .* hf download NAME"):
        PeftModel.from_pretrained(fresh(), "someone/lora")


@pytest.mark.parametrize("act", ["save_pretrained", "load_adapter", "create_or_update_model_card"])
def test_a_folder_without_a_name(act, tmp_path, monkeypatch):
    "`Path` takes no letter at all for the folder that the program runs in."
    monkeypatch.chdir(tmp_path)
    model = ours.get_peft_model(fresh(), LoraConfig(task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match=r"path of the folder is empty; pass '\.'"):
        getattr(model, act)("", *["other"] * (act == "load_adapter"))
    assert not list(tmp_path.iterdir())


# --- what does not fit --------------------------------------------------------------------------------------------

A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
MISFITS = {
    "missing": (lambda t: t.pop(A), r"; missing: \S*q_proj.lora_A.weight \[3, 32\]$"),
    "unexpected": (lambda t: t.update(extra=torch.ones(2)), r"; unexpected: extra \[2\]$"),
    "base": (
        lambda t: t.update({"base_model.model.model.norm.weight": torch.ones(32)}),
        r"; unexpected: base_model.model.model.norm.weight \[32\]$",
    ),
    "shape": (
        lambda t: t.update({A: torch.ones(4, 32)}),
        r"; of another shape: \S*q_proj.lora_A.weight \[4, 32\] instead of \[3, 32\]$",
    ),
    "transposed": (
        lambda t: t.update({A: t[A].T.contiguous()}),
        r"; of another shape: \S*lora_A.weight \[32, 3\] instead of \[3, 32\]$",
    ),
    "kind": (
        lambda t: t.update({A: torch.ones(3, 32, dtype=torch.int64)}),
        r"; of another kind: \S*q_proj.lora_A.weight torch.int64 instead of torch.float32$",
    ),
    "several": (lambda t: (t.pop(A), t.update(extra=torch.ones(2))), "missing: .*; unexpected: extra"),
    "none": (lambda t: t.clear(), "missing: .* and 2 more$"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_named(case, saved):
    change, match = MISFITS[case]
    tensors = load_file(saved / SAFE)
    change(tensors)
    save_file(tensors, saved / SAFE)
    start = "^the checkpoint does not fit adapter 'default', a LoraConfig for LlamaForCausalLM"
    refused(saved, start + ".*" + match)
    _, model = trained("lora")
    before = picture(model), list(model.peft_config)
    for name in "default", "new":
        with pytest.raises(ValueError, match=start.replace("default", name) + ".*" + match):
            model.load_adapter(saved, name)
    with pytest.raises(ValueError, match=start):
        checkpoint.set_peft_model_state_dict(model, tensors)
    assert (picture(model), list(model.peft_config)) == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype, saved):
    tensors = {n: t.to(dtype) for n, t in load_file(saved / SAFE).items()}
    save_file(tensors, saved / SAFE)
    loaded = PeftModel.from_pretrained(fresh(), saved)
    theirs = peft.PeftModel.from_pretrained(fresh(), str(saved))
    assert_equal(dict(loaded.named_parameters()), dict(theirs.named_parameters()))
    assert all(p.dtype == torch.float32 for p in loaded.parameters())


@pytest.mark.parametrize("autocast", [True, False])
def test_a_base_model_in_half_precision(autocast, saved):
    loaded = PeftModel.from_pretrained(fresh().bfloat16(), saved, autocast_adapter_dtype=autocast)
    loaded.load_adapter(saved, "second", autocast_adapter_dtype=autocast)
    assert {p.dtype for n, p in loaded.named_parameters() if "lora_" in n} == {
        torch.float32 if autocast else torch.bfloat16
    }


def test_another_base_model_is_refused_before_it_is_touched(saved):
    refused(
        saved,
        "does not fit adapter 'default'.*another shape",
        model=LlamaForCausalLM(
            LlamaConfig(
                hidden_size=64, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, **TOKENS
            )
        ),
    )
    refused(saved, "target_modules .* match no module", model=fresh("lora-conv1d"))


def test_biases_that_peft_forgot(tmp_path):
    "peft 0.18 with bias='lora_only'."
    _, mine = trained("lora-bias-only")
    mine.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / SAFE)
    save_file({n: t for n, t in tensors.items() if not n.endswith("bias")}, tmp_path / SAFE)
    with pytest.warns(UserWarning, match="has no biases") as said:
        loaded = PeftModel.from_pretrained(fresh("lora-bias-only"), tmp_path)
    assert len(said) == 1
    own = {n: p for n, p in fresh("lora-bias-only").named_parameters()}
    assert torch.equal(
        loaded.get_base_model().model.decoder.layers[0].self_attn.q_proj.bias,
        own["model.decoder.layers.0.self_attn.q_proj.bias"],
    )
    one = next(n for n in tensors if n.endswith("bias"))
    save_file(
        {n: t for n, t in tensors.items() if not n.endswith("bias") or n == one}, tmp_path / SAFE
    )  # some, but not all
    with pytest.raises(ValueError, match="missing: .*bias"):
        PeftModel.from_pretrained(fresh("lora-bias-only"), tmp_path)
    save_file(
        {n: t for n, t in tensors.items() if "lora_A" not in n and not n.endswith("bias")}, tmp_path / SAFE
    )
    with pytest.raises(ValueError, match="missing: (?!.*bias).*lora_A"):
        PeftModel.from_pretrained(fresh("lora-bias-only"), tmp_path)


# --- loading ------------------------------------------------------------------------------------------------------


def test_an_adapter_is_a_guest(saved):
    "Loading draws the random numbers that peft draws, and no others."
    after = []
    for package in PeftModel, peft.PeftModel:
        torch.manual_seed(5)
        package.from_pretrained(fresh(), str(saved))
        after.append(torch.rand(3))
    assert torch.equal(*after)


@pytest.mark.parametrize("is_trainable", [True, False])
def test_trainable(is_trainable, saved):
    wrapped = []
    for package in PeftModel, peft.PeftModel:
        model = package.from_pretrained(fresh().train(), str(saved), is_trainable=is_trainable)
        assert model.training == is_trainable
        for name in "second", "default":
            model.train()
            model.load_adapter(str(saved), name, is_trainable=is_trainable)
        wrapped.append(model)
    mine, theirs = wrapped
    assert mine.training == theirs.training == is_trainable
    assert list(mine.peft_config) == ["default", "second"] and mine.active_adapter == "default"
    assert [mine.peft_config[n].inference_mode for n in mine.peft_config] == [not is_trainable] * 2
    if not OLD_PEFT:  # an older one trains the active adapter only
        assert {n: p.requires_grad for n, p in mine.named_parameters()} == {
            n: p.requires_grad for n, p in theirs.named_parameters()
        }
    assert any(p.requires_grad for n, p in mine.named_parameters() if "second" in n) == is_trainable
    assert (
        type(mine) is ours.PeftModelForCausalLM
        and mine.peft_config["default"].base_model_name_or_path is None
    )


def test_which_parameters_train():
    model = ours.get_peft_model(fresh("lora-saved"), config(our_config, "lora-saved"))
    model.add_adapter("second", config(our_config, "lora-saved"))
    trains = lambda: {n.split(".")[-2] for n, p in model.named_parameters() if p.requires_grad}
    assert trains() == {"default"}
    model.set_requires_grad(["second"])
    assert trains() == {"default", "second"}
    assert model.lm_head.modules_to_save["second"].weight.requires_grad
    model.set_requires_grad("default", False)
    assert trains() == {"second"}
    with pytest.raises(TypeError, match="set_requires_grad.*PROMPT_TUNING"):
        ours.get_peft_model(fresh(), PromptTuningConfig(num_virtual_tokens=2, **CLM)).set_requires_grad(
            "default"
        )


def test_a_given_configuration(saved):
    given = LoraConfig(r=3, lora_alpha=50, **CLM)
    loaded = PeftModel.from_pretrained(fresh(), saved, config=given)
    assert loaded.peft_config["default"].lora_alpha == 50 and loaded.peft_config["default"].inference_mode
    assert loaded.peft_config["default"] is given and given.target_modules == {"q_proj", "v_proj"}
    refused(saved, "does not fit", config=(wrong := LoraConfig(r=5, **CLM)))
    assert wrong == LoraConfig(r=5, **CLM)  # nothing was done, and nothing is filled in
    refused(saved, "must be a peft_viz configuration, not peft", config=peft.LoraConfig(r=3, **CLM))
    refused(saved, "covers causal language models only", config=LoraConfig(r=3, task_type="SEQ_CLS"))


def test_a_model_that_has_adapters_already(saved):
    loaded = PeftModel.from_pretrained(fresh(), saved)
    for model in loaded, loaded.get_base_model():
        with pytest.raises(ValueError, match="has adapters already; load another one with load_adapter"):
            PeftModel.from_pretrained(model, saved)


def test_a_finished_prompt(tmp_path):
    "It is for inference. Where there is no network, a new adapter can take it over and go on."
    _, mine = trained("prompt")
    mine.save_pretrained(tmp_path)
    for package in PeftModel, peft.PeftModel:
        with pytest.raises(ValueError, match="train"):
            package.from_pretrained(fresh(), str(tmp_path), is_trainable=True)
    again = ours.get_peft_model(fresh(), config(our_config, "prompt")).train()
    again.load_adapter(tmp_path, "default", is_trainable=True)
    assert again.training and again.prompt_encoder["default"].embedding.weight.requires_grad
    assert torch.equal(logits(again.eval(), "prompt"), logits(mine, "prompt"))
    with pytest.raises(ValueError, match="cannot be trained"):
        again.load_adapter(tmp_path, "new", is_trainable=True)
    again.load_adapter(tmp_path, "new")
    again.set_adapter("new")
    assert torch.equal(logits(again, "prompt"), logits(mine, "prompt"))


@pytest.mark.parametrize("method", ["p-tuning", "p-tuning-lstm", "prefix-projection"])
def test_a_finished_prompt_is_no_input_of_a_network(method, tmp_path):
    "peft puts what came out of P-tuning's network where its input is, and says nothing."
    theirs, mine = trained(method)
    mine.save_pretrained(tmp_path)
    before = picture(mine)
    with pytest.raises(ValueError, match="holds a finished prompt, and adapter 'default' has a network"):
        mine.load_adapter(tmp_path, "default", is_trainable=True)
    assert picture(mine) == before
    if method == "p-tuning":
        expected = logits(theirs, method)
        theirs.load_adapter(str(tmp_path), "default", is_trainable=True)
        assert not torch.allclose(logits(theirs.eval(), method), expected, atol=0.1)


def test_cpt_begins_anew(tmp_path):
    "peft adds what the examples had moved a second time."
    theirs, mine = trained("cpt", opt_projection_epsilon=9.0)
    expected = logits(mine, "cpt")
    mine.save_pretrained(tmp_path)
    mine.load_adapter(tmp_path, "default", is_trainable=True)
    torch.testing.assert_close(logits(mine, "cpt"), expected)
    assert mine.prompt_encoder["default"].delta_embedding.weight.requires_grad
    theirs.load_adapter(str(tmp_path), "default", is_trainable=True)
    assert not torch.allclose(logits(theirs, "cpt"), expected, atol=0.01)


def test_adalora_goes_on_where_it_was_pruned(tmp_path):
    "A new adapter of full rank takes over the pruned one. peft 0.21.2 finds that the sizes differ."
    _, mine = trained("adalora-pruned")
    mine.save_pretrained(tmp_path)
    again = ours.get_peft_model(fresh(), config(our_config, "adalora"))
    again.load_adapter(tmp_path, "default", is_trainable=True)
    torch.testing.assert_close(logits(again.eval(), "adalora"), logits(mine, "adalora"))
    assert {n: tuple(p.shape) for n, p in again.named_parameters() if "lora_E" in n} != {
        n: tuple(p.shape) for n, p in mine.named_parameters() if "lora_E" in n
    }
    with pytest.raises(RuntimeError, match="size mismatch"):
        peft.get_peft_model(fresh(), config(peft, "adalora")).load_adapter(
            str(tmp_path), "default", is_trainable=True
        )
    changed(tmp_path, rank_pattern={"model.layers.0.self_attn.o_proj.lora_E": [True]})
    refused(tmp_path, "no such layer")


def test_adapters_of_another_method(saved):
    model = ours.get_peft_model(fresh(), config(our_config, "ia3"))
    before = picture(model)
    with pytest.raises(ValueError, match="adapter 'default' is IA3, but the checkpoint is LORA"):
        model.load_adapter(saved, "default")
    with pytest.raises(ValueError, match="this one IA3, not LORA"):
        model.load_adapter(saved, "new")
    assert picture(model) == before and list(model.peft_config) == ["default"]


def test_merged_adapters(tmp_path):
    """Their numbers are in the base model's: those must not be saved as if they were its own, and new ones
    would leave the old ones in it."""
    _, model = trained("lora-embedding")
    model.save_pretrained(tmp_path)
    before = file_bytes(tmp_path)
    tensors = load_file(tmp_path / SAFE)
    model.add_adapter("second", config(our_config, "lora-embedding"))
    model.base_model.merge_adapter()
    for name in "default", "second":
        with pytest.raises(ValueError, match="saving the embeddings is not possible while default is merged"):
            model.save_pretrained(tmp_path, selected_adapters=[name])
    with pytest.raises(ValueError, match="loading is not possible while default is merged"):
        checkpoint.set_peft_model_state_dict(model, tensors)
    checkpoint.set_peft_model_state_dict(
        model, {n: t for n, t in tensors.items() if "base_layer" not in n}, "second"
    )
    model.save_pretrained(tmp_path / "new", save_embedding_layers=False)
    model.base_model.unmerge_adapter()
    checkpoint.set_peft_model_state_dict(model, tensors)
    model.save_pretrained(tmp_path, selected_adapters=["default"])
    assert file_bytes(tmp_path) == before


def test_unknown_adapters():
    _, model = trained("lora")
    for call in (
        lambda: checkpoint.get_peft_model_state_dict(model, adapter_name="nobody"),
        lambda: checkpoint.set_peft_model_state_dict(model, {}, "nobody"),
    ):
        with pytest.raises(ValueError, match="there is no adapter 'nobody'; there are default"):
            call()


def test_a_device(saved):
    assert {t.device.type for t in checkpoint.load_peft_weights(saved, device="meta").values()} == {"meta"}
    assert {t.device.type for t in checkpoint.load_peft_weights(saved).values()} == {"cpu"}


def test_a_rehearsal_takes_no_memory_and_leaves_no_trace():
    model = fresh()
    model.register_buffer("counts", torch.ones(3, dtype=torch.int64))
    model.lm_head.weight.requires_grad_(False)
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    model.last_logits = model(**batch()).logits  # with its history
    model.same_counts = model.counts
    before, state = picture(model), torch.get_rng_state()
    with checkpoint.rehearsal(model) as shadow:
        assert [
            (n, p.shape, p.dtype, p.requires_grad, p.device.type) for n, p in shadow.named_parameters()
        ] == [(n, p.shape, p.dtype, p.requires_grad, "meta") for n, p in model.named_parameters()]
        assert [(n, b.shape, b.dtype, b.device.type) for n, b in shadow.named_buffers()] == [
            (n, b.shape, b.dtype, "meta") for n, b in model.named_buffers()
        ]
        assert (
            torch.equal(shadow.last_logits, model.last_logits)
            and shadow.last_logits.data_ptr() != model.last_logits.data_ptr()
        )
        assert shadow.same_counts is shadow.counts
        torch.rand(3)
        warnings.warn("not now", stacklevel=1)
    assert picture(model) == before and torch.equal(torch.get_rng_state(), state)


# --- the model card -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "ia3", "prompt", "prefix"])
def test_the_card_says_what_peft_says(method, tmp_path):
    from huggingface_hub import ModelCard

    theirs, mine = trained(method)
    for model, folder in (theirs, "theirs"), (mine, "ours"):
        model.get_base_model().name_or_path = model.config._name_or_path = "someone/small"
        model.save_pretrained(tmp_path / folder)
    here, there = (ModelCard.load(tmp_path / folder / CARD).data.to_dict() for folder in ("ours", "theirs"))
    assert here == there


def test_a_card_keeps_what_its_owner_wrote(tmp_path):
    from huggingface_hub import ModelCard

    mine = ours.get_peft_model(fresh(), LoraConfig(**CLM))
    (tmp_path / CARD).write_text("---\nlicense: mit\ntags:\n- mine\n---\n\n# My adapter\n\nHands off.\n")
    mine.save_pretrained(tmp_path)
    mine.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / CARD)
    assert card.data.license == "mit" and {"mine", "lora"} <= set(card.data.tags)
    assert card.data.library_name == "peft" and "# My adapter\n\nHands off." in card.text


def test_a_card_that_cannot_be_read_stays(tmp_path):
    mine = ours.get_peft_model(fresh(), LoraConfig(**CLM))
    (tmp_path / CARD).write_bytes(b"\xff\xfe")
    with pytest.warns(UserWarning, match="stays as it is"):
        mine.save_pretrained(tmp_path)
    assert (tmp_path / CARD).read_bytes() == b"\xff\xfe" and (tmp_path / SAFE).exists()


SIZES = {"lora": "r", "poly": "n_skills", "prompt": "num_virtual_tokens"}


@pytest.mark.parametrize("method", SIZES)
def test_sizes_that_the_weights_do_not_have(method, tmp_path):
    "Refused before the memory is taken: a rehearsal makes nothing large."
    trained(method)[1].save_pretrained(tmp_path)
    fields = json.loads((tmp_path / CONFIG).read_text())
    for size, said in (10**6, "of another shape"), (10**8, "at most 1,048,576"):
        (tmp_path / CONFIG).write_text(json.dumps(fields | {SIZES[method]: size}))
        with pytest.raises(ValueError, match=said):
            PeftModel.from_pretrained(fresh(method), tmp_path)


def test_a_prompt_of_another_base_model(tmp_path):
    model = ours.get_peft_model(fresh("prompt"), PromptTuningConfig(num_virtual_tokens=4, **CLM))
    model.peft_config["default"].base_model_name_or_path = "someone/other"
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    base = fresh("prompt")
    base.name_or_path = "someone/small"
    with pytest.warns(UserWarning, match="'someone/other', and this one is 'someone/small'"):
        PeftModel.from_pretrained(base, tmp_path)


def test_a_prompt_without_a_task(tmp_path):
    "A plain PeftModel would run the base model alone: no model without virtual tokens is made in silence."
    trained("prompt")[1].save_pretrained(tmp_path)
    changed(tmp_path, task_type=None)
    with pytest.raises(ValueError, match="does not say the task"):
        PeftModel.from_pretrained(fresh("prompt"), tmp_path)
    model = ours.PeftModelForCausalLM.from_pretrained(fresh("prompt"), tmp_path)
    inputs = batch()
    virtual = model.peft_config["default"].num_virtual_tokens
    assert model(**inputs).logits.shape[1] == inputs["input_ids"].shape[1] + virtual


@pytest.mark.parametrize("method", ["lora", "prompt"])
def test_a_card_by_hand(method, tmp_path):
    model = trained(method)[1]
    model.create_or_update_model_card(tmp_path / "new" / "folder")
    by_hand = (tmp_path / "new" / "folder" / CARD).read_text()
    model.save_pretrained(tmp_path)
    assert by_hand == (tmp_path / CARD).read_text()
