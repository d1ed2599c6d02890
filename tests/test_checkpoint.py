"""Checkpoints are peft's: what peft saved loads here, what is saved here loads in peft, with the same bytes in the file and the same logits from the model.

And whatever else may lie in a folder is refused by name, before the model is touched, and without running anything.
"""
import copy
import itertools
import json
import os
import pickle
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM
from torch import nn

import peft_viz.causal_lm as ours
import peft_viz.checkpoint as checkpoint
import peft_viz.config as our_config
from peft_viz.config import LoraConfig, PromptEncoderConfig, PromptTuningConfig
from peft_viz.model import PeftModel
from test_parity import assert_equal, base_model, batch, OLD_PEFT, quiet_and_single, TOKENS, VOCABULARY

peft = pytest.importorskip("peft")
CLM = dict(task_type="CAUSAL_LM")
CONFIG, SAFE, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"

METHODS = {  # the class of the configuration, its fields, the family
    "lora": ("LoraConfig", dict(r=3, lora_alpha=5), "llama"),
    "lora-conv1d": ("LoraConfig", dict(r=3, use_rslora=True), "gpt2"),
    "lora-ranks": ("LoraConfig", dict(r=2, target_modules="all-linear", rank_pattern={"q_proj": 4}, alpha_pattern={"k_proj": 3}), "llama"),
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
    "prefix-projection": ("PrefixTuningConfig", dict(num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=24), "gpt2"),
    "prompt": ("PromptTuningConfig", dict(num_virtual_tokens=4), "llama"),
    "prompt-saved": ("PromptTuningConfig", dict(num_virtual_tokens=4, modules_to_save=["lm_head"]), "llama"),
    "p-tuning": ("PromptEncoderConfig", dict(num_virtual_tokens=4, encoder_hidden_size=24), "llama"),
    "p-tuning-lstm": ("PromptEncoderConfig", dict(num_virtual_tokens=4, encoder_reparameterization_type="LSTM", encoder_hidden_size=12), "llama"),
    "multitask": ("MultitaskPromptTuningConfig", dict(num_virtual_tokens=4, num_tasks=3, num_ranks=2), "llama"),
    "cpt": ("CPTConfig", dict(cpt_token_ids=[11, 12, 13, 14, 15, 16], cpt_tokens_type_mask=[1, 2, 2, 3, 4, 4]), "llama"),
}
# what is computed before and after may differ in the last bit: fewer numbers are added up; torch has another LSTM without gradients; CPT pulls its deltas back once more
ROUNDED = {"adalora-pruned", "p-tuning-lstm", "cpt"}
everywhere = pytest.mark.parametrize("method", METHODS)


def config(package, method, **more):
    name, fields, _ = METHODS[method]
    return getattr(package, name)(**{**CLM, **copy.deepcopy(fields), **more})


def trained(method, **more):
    "peft's model and ours around the same base model, with the same weights, which are nobody's initialisation."
    base = base_model(METHODS[method][2])
    theirs = peft.get_peft_model(copy.deepcopy(base), config(peft, method, **more))
    mine = ours.get_peft_model(base, config(our_config, method, **more))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in theirs.named_parameters():
        if parameter.requires_grad or "prompt_encoder" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    mine.load_state_dict(theirs.state_dict(), strict=True)
    if method == "adalora-pruned":
        for model in theirs, mine:
            prune(model, ".default" if not OLD_PEFT or model is mine else ".default")
    return theirs.eval(), mine.eval()


def prune(model, suffix):
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


def fresh(method):
    return base_model(METHODS[method][2])


def settings(folder):
    "The configuration in a folder; the order of sets means nothing, and neither does the version."
    fields = json.loads(Path(folder, CONFIG).read_text())
    return {k: sorted(v) if k.endswith("_modules") and isinstance(v, list) else v for k, v in fields.items() if k != "peft_version"}


def file_bytes(folder):
    return Path(folder, SAFE).read_bytes()


@pytest.fixture
def strict():
    "Any warning is an error."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# --- there and back -----------------------------------------------------------------------------------------------


@everywhere
def test_same_files(method, tmp_path):
    "The same model gives the same bytes, and the same configuration field by field."
    theirs, mine = trained(method)
    mine.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    if OLD_PEFT and method == "lora-bias-only":  # peft 0.18 looks for the biases under names of the base model without LoRA, and forgets them
        assert not any("bias" in name for name in load_file(tmp_path / "theirs" / SAFE))
        assert sum("bias" in name for name in load_file(tmp_path / "ours" / SAFE)) == 4
    else:
        assert file_bytes(tmp_path / "ours") == file_bytes(tmp_path / "theirs")
    here, there = settings(tmp_path / "ours"), settings(tmp_path / "theirs")
    if OLD_PEFT:
        assert here.items() >= there.items() and not any(here[k] for k in here.keys() - there.keys())
    else:
        assert here == there
        assert json.loads((tmp_path / "ours" / CONFIG).read_text())["peft_version"] == peft.__version__
    text = (tmp_path / "ours" / CONFIG).read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True)
    assert sorted(os.listdir(tmp_path / "ours")) == [CONFIG, SAFE]  # nothing temporary is left


@everywhere
def test_peft_here_peft(method, tmp_path):
    theirs, _ = trained(method)
    theirs.save_pretrained(tmp_path / "theirs")
    mine = PeftModel.from_pretrained(fresh(method), tmp_path / "theirs")
    assert type(mine) is ours.PeftModelForCausalLM and not mine.training
    theirs_again = peft.PeftModel.from_pretrained(fresh(method), str(tmp_path / "theirs"))
    assert torch.equal(logits(mine, method), logits(theirs_again, method))
    assert_equal(dict(theirs_again.named_parameters()), dict(mine.named_parameters()))
    assert {n: p.requires_grad for n, p in theirs_again.named_parameters()} == {n: p.requires_grad for n, p in mine.named_parameters()}
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


@everywhere
def test_pickle(method, tmp_path):
    theirs, mine = trained(method)
    mine.save_pretrained(tmp_path / "ours", safe_serialization=False)
    mine.save_pretrained(tmp_path / "safe")
    theirs.save_pretrained(tmp_path / "theirs", safe_serialization=False)
    assert sorted(os.listdir(tmp_path / "ours")) == [CONFIG, PICKLE]
    if not (OLD_PEFT and method == "lora-bias-only"):
        assert_equal(torch.load(tmp_path / "ours" / PICKLE), torch.load(tmp_path / "theirs" / PICKLE))
    loaded = [logits(PeftModel.from_pretrained(fresh(method), tmp_path / folder), method) for folder in ("ours", "safe")]
    if method in ROUNDED:
        torch.testing.assert_close(*loaded)
    else:
        assert torch.equal(*loaded)
    assert torch.equal(logits(peft.PeftModel.from_pretrained(fresh(method), str(tmp_path / "ours")), method), loaded[0])
