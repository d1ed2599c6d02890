"""`import peft_viz as peft` carries an ordinary script: peft's public names, its exceptions, what its loaders
and transformers' Trainer do."""
# lane: reference

import json
import subprocess
import sys

import pytest
import torch
import transformers

import peft_viz as ours
import surface
from forks import forks
from peft_viz import checkpoint, trainer

peft = pytest.importorskip("peft")
NEW = peft.__version__ == "0.21.2"  # the version that the table is about
CLM = dict(task_type="CAUSAL_LM")
IDS = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])


def wrap(package, config, *names, seed=0, base=None, **fields):
    "A model with random adapters, the same for both packages."
    torch.manual_seed(seed)
    make = lambda: getattr(package, config)(**CLM, **fields)
    model = package.get_peft_model(base or ours.tiny_random("llama"), make())
    for name in names:
        model.add_adapter(name, make())
    return model


def fresh_process(code, fork=True):
    """Run code in a process that has imported nothing of this project, nor peft; what it printed last. A fork has torch
    and transformers, and transformers knows already whether peft is installed."""
    code = f"import warnings; warnings.simplefilter('ignore')\n{code}"
    if fork:
        status, out, err = forks().run(code=code)
    else:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        status, out, err = done.returncode, done.stdout, done.stderr
    assert status == 0, err
    return out.strip().splitlines()[-1]


# --- the table ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [surface.names, surface.attributes, surface.parameters])
def test_every_public_name_is_here_or_has_a_reason(rows):
    table = rows(peft)
    if NEW:
        assert [name for name, here, why in table if not here and not why] == []
    assert [name for name, here, why in table if here and why and name in surface.REASON] == []
    assert len(table) > 80


def test_every_name_at_the_top_can_be_had():
    for name in ours.__all__:
        assert getattr(ours, name) is not None and name in dir(ours)


@pytest.mark.parametrize(
    "name, there", [("LoHaConfig", "LoraConfig, .*IA3Config"), ("get_peft_modle", "get_peft_model")]
)
def test_a_name_that_is_not_there_is_answered_with_what_is(name, there):
    with pytest.raises(AttributeError, match=f"no attribute '{name}'; there is {there}") as how:
        getattr(ours, name)
    with pytest.raises(ImportError) as why:
        exec(f"from peft_viz import {name}")
    assert str(how.value) == str(why.value) and not hasattr(ours, name)
    with pytest.raises(AttributeError, match="there is what dir"):
        getattr(ours, "xyzzy")  # noqa: B009


def test_a_page_shows_the_reasons():
    page = surface.page([("a<b", True, None), ("c", False, "too far away")], "names")
    assert "<code>a&lt;b</code>" in page and "not here: too far away" in page


# --- nothing depends on what was imported before ------------------------------------------------------------------


def test_modules_and_names_are_there_in_a_fresh_process():
    code = """import peft_viz
print(peft_viz.reference.methods.lora.LoraModel is peft_viz.LoraModel, peft_viz.views.plot.__name__, end=" ")
print(callable(peft_viz.record))"""
    assert fresh_process(code) == "True peft_viz.views.plot True"


def test_the_class_does_not_depend_on_what_was_imported(tmp_path):
    wrap(ours, "PromptTuningConfig", num_virtual_tokens=4).save_pretrained(tmp_path)
    code = (
        "import torch; from peft_viz.zoo.models import tiny_random; from peft_viz.reference.model import PeftModel;"
        f"model = PeftModel.from_pretrained(tiny_random('llama'), {str(tmp_path)!r});"
        "print(type(model).__name__, list(model(torch.tensor([[3, 4, 5, 6]])).logits.shape))"
    )
    assert fresh_process(code).startswith("PeftModelForCausalLM [1, 8, ")


def test_a_subclass_loads_itself(tmp_path):
    class Mine(ours.PeftModelForCausalLM):
        pass

    wrap(ours, "LoraConfig").save_pretrained(tmp_path)
    assert type(Mine.from_pretrained(ours.tiny_random("llama"), tmp_path)) is Mine


# --- exceptions of peft's kind ------------------------------------------------------------------------------------

ACTIONS = {
    "a mistyped initialisation": lambda p: wrap(p, "LoraConfig", init_lora_weights="gausian"),
    "an absent target": lambda p: wrap(p, "LoraConfig", target_modules=["v_porj"]),
    "nothing left of the targets": lambda p: wrap(
        p, "LoraConfig", target_modules=["q_proj"], exclude_modules=["q_proj"]
    ),
    "an unknown active adapter": lambda p: wrap(p, "LoraConfig").set_adapter("other"),
    "an unknown adapter to delete": lambda p: wrap(p, "LoraConfig").delete_adapter("other"),
    "an adapter that is there": lambda p: wrap(p, "LoraConfig").add_adapter("default", p.LoraConfig(**CLM)),
    "unknown adapters to combine": lambda p: wrap(p, "LoraConfig").add_weighted_adapter(
        ["other"], [1.0], "new"
    ),
    "an unknown combination": lambda p: wrap(p, "LoraConfig", "b").add_weighted_adapter(
        ["default", "b"], [1, 1], "c", "mean"
    ),
    "combining AdaLoRA": lambda p: wrap(p, "AdaLoraConfig", total_step=9).add_weighted_adapter(
        ["default"], [1.0], "new"
    ),
    "rows for an unknown adapter": lambda p: wrap(p, "LoraConfig").eval()(
        IDS, adapter_names=["other", "default"]
    ),
    "a report on virtual tokens": lambda p: p.get_layer_status(
        wrap(p, "PromptTuningConfig", num_virtual_tokens=2)
    ),
    "a report on a plain model": lambda p: p.get_model_status(torch.nn.Linear(1, 1)),
    "another rank of 0": lambda p: wrap(p, "LoraConfig", r=0),
    "a base state that does not fit": lambda p: p.set_base_model_state_dict(wrap(p, "LoraConfig"), {}),
    "injecting a prompt": lambda p: p.inject_adapter_in_model(
        p.PromptTuningConfig(num_virtual_tokens=2), ours.tiny_random("llama")
    ),
    "an instance of an auto class": lambda p: p.AutoPeftModelForCausalLM(),
}


@pytest.mark.parametrize("what", ACTIONS)
def test_exceptions_are_of_peft_s_kind(what):
    if not NEW and what in ("a base state that does not fit", "an adapter that is there"):
        pytest.skip("older versions of peft have no such function, or say nothing")
    kinds = []
    for package in peft, ours:
        with pytest.raises(Exception) as caught:
            ACTIONS[what](package)
        kinds.append(caught.type)
    builtin = [
        k
        for k in kinds[0].__mro__
        if k.__module__ == "builtins" and k not in (Exception, BaseException, object)
    ]
    assert builtin and issubclass(kinds[1], builtin[0]), kinds


def test_names_of_the_exceptions():
    with pytest.raises(ours.NoMatchingPeftModuleError) as caught:
        wrap(ours, "LoraConfig", target_modules=["v_porj"])
    assert isinstance(caught.value, ours.PeftError)
    with pytest.raises(KeyError, match="^there is no adapter 'other'; there are default$"):
        wrap(ours, "LoraConfig").set_adapter("other")


# --- several adapters as one --------------------------------------------------------------------------------------

KINDS = {
    "linear": {},
    "cat": {},
    "svd": {},
    "svd clamped": dict(svd_clamp=0.9, svd_rank=3, svd_full_matrices=False),
    "ties": dict(density=0.4),
    "ties frequency": dict(density=0.4, majority_sign_method="frequency"),
    "ties_svd": dict(density=0.4),
    "dare_linear": dict(density=0.6),
    "dare_ties": dict(density=0.6),
    "dare_linear_svd": dict(density=0.6),
    "dare_ties_svd": dict(density=0.6),
    "magnitude_prune": dict(density=0.5),
    "magnitude_prune_svd": dict(density=0.5),
}


@pytest.mark.skipif(
    not NEW, reason="older versions of peft apply the scaling twice, and know no negative weights"
)
@pytest.mark.parametrize("kind", KINDS)
def test_combined_adapters_are_peft_s(kind):
    results = []
    for package in peft, ours:
        model = wrap(
            package,
            "LoraConfig",
            "b",
            target_modules=["q_proj", "embed_tokens"],
            init_lora_weights=False,
            r=4,
        )
        torch.manual_seed(3)
        model.add_weighted_adapter(["default", "b"], [0.7, -0.4], "c", kind.split()[0], **KINDS[kind])
        model.set_adapter("c")
        results.append({n: p.detach() for n, p in model.named_parameters() if ".c" in n})
    assert results[0].keys() == results[1].keys() and len(results[0]) > 2
    assert all(torch.equal(tensor, results[1][name]) for name, tensor in results[0].items())


def test_combined_factors_of_ia3_are_peft_s():
    results = []
    for package in peft, ours:
        model = wrap(package, "IA3Config", "b", init_ia3_weights=False)
        model.add_weighted_adapter(["default", "b"], [0.5, 0.25], "c")
        results.append({n: p.detach() for n, p in model.named_parameters() if n.endswith(".c")})
    assert results[0] and all(torch.equal(tensor, results[1][name]) for name, tensor in results[0].items())


def test_combined_adapters_do_what_their_sum_does():
    "Also where ranks and scalings differ, and where an adapter is not in each layer."
    base = ours.tiny_random("llama")
    model = ours.get_peft_model(
        base,
        ours.LoraConfig(r=2, target_modules="model.*q_proj", init_lora_weights=False, use_rslora=True, **CLM),
    )
    other = ours.LoraConfig(
        r=3, target_modules=".*v_proj|.*q_proj", rank_pattern={"v_proj": 5}, init_lora_weights=False, **CLM
    )
    model.add_adapter("b", other)
    for kind in "cat", "svd":
        model.add_weighted_adapter(["default", "b"], [2, -1], kind, combination_type=kind)
        for layer in model.base_model.tuner_layers():
            want = sum(
                w * layer.get_delta_weight(n) for n, w in (("default", 2), ("b", -1)) if layer.has_adapter(n)
            )
            torch.testing.assert_close(layer.get_delta_weight(kind), want)
    assert model.active_adapter == "default"
    model.add_weighted_adapter(["b"], [3.0], "alone")
    layer = model.base_model.tuner_layers()[0]
    torch.testing.assert_close(layer.get_delta_weight("alone"), 3 * layer.get_delta_weight("b"))


def lora(*names, **fields):
    return wrap(ours, "LoraConfig", *names, **fields)


def different_ranks():
    model = lora()
    model.add_adapter("b", ours.LoraConfig(r=2, **CLM))
    return model


def different_targets():
    model = lora(target_modules=["q_proj"])
    model.add_adapter("b", ours.LoraConfig(target_modules=".*q_proj", **CLM))
    return model


REFUSED = [
    (lambda: lora("b"), dict(weights=[1]), "a weight for each adapter, but there are 1 for 2"),
    (lambda: lora("b"), dict(kind="ties"), "density=None; it must be the part that stays"),
    (lambda: lora("b"), dict(kind="dare_linear", density=0.0), "density=0.0"),
    (lambda: lora("b"), dict(majority_sign_method="loudest"), "majority_sign_method='loudest'"),
    (lambda: lora("b", use_dora=True), {}, "DoRA"),
    (lambda: lora("b", modules_to_save=["lm_head"]), {}, "modules_to_save"),
    (different_ranks, dict(kind="linear"), "must have the same rank"),
    (different_targets, {}, "lists of names for all adapters"),
    (lambda: lora("b"), dict(name="a.b"), "an adapter cannot be called 'a.b'"),
]


@pytest.mark.parametrize("make, options, message", REFUSED, ids=[message for *_, message in REFUSED])
def test_adapters_that_do_not_go_together(make, options, message):
    model = make()
    before = list(model.state_dict())
    options = dict(options)
    weights, kind, name = options.pop("weights", [1, 1]), options.pop("kind", "svd"), options.pop("name", "c")
    with pytest.raises(ValueError, match=message):
        model.add_weighted_adapter(["default", "b"], weights, name, kind, **options)
    assert list(model.state_dict()) == before and list(model.peft_config) == ["default", "b"]


@pytest.mark.parametrize("config", ["LoraConfig", "IA3Config"])
def test_a_combination_that_is_there_already(config):
    model = wrap(ours, config, "b")
    with pytest.warns(ours.PeftWarning, match="'b' already; nothing is combined"):
        model.add_weighted_adapter(["default"], [1.0], "b")


# --- loading arguments --------------------------------------------------------------------------------------------


def test_arguments_of_other_loaders(tmp_path):
    lora().save_pretrained(tmp_path)
    harmless = dict(
        device_map="auto", token=None, revision="main", low_cpu_mem_usage=True, ephemeral_gpu_offload=False
    )
    model = ours.PeftModel.from_pretrained(ours.tiny_random("llama"), tmp_path, **harmless)
    model.load_adapter(tmp_path, "again", **harmless)
    with pytest.warns(ours.PeftWarning, match="torch_dtype=.* has no effect"):
        model.load_adapter(tmp_path, "third", torch_dtype=torch.float16)
    for wrong, kind, message in (
        (dict(devicemap="auto"), TypeError, "no loading argument 'devicemap'; did you mean 'device_map'"),
        (dict(xyz=1), TypeError, "no loading argument 'xyz'$"),
        (dict(key_mapping={"a": "b"}), NotImplementedError, "key_mapping"),
    ):
        with pytest.raises(kind, match=message):
            ours.PeftModel.from_pretrained(ours.tiny_random("llama"), tmp_path, **wrong)
    offloaded = ours.tiny_random("llama")
    offloaded.hf_device_map = {"model": "cpu", "lm_head": "disk"}
    with pytest.raises(NotImplementedError, match="offloaded"):
        ours.PeftModel.from_pretrained(offloaded, tmp_path)


def test_attributes_of_the_model():
    model = lora()
    assert model.base_model_torch_dtype == torch.float32 and model.base_model.prefix == "lora_"
    assert model.has_active_enabled_adapter and not model.supports_lora_conversion()
    with model.disable_adapter():
        assert not model.has_active_enabled_adapter
    base = model.get_base_model()
    assert (
        model.prepare_model_for_gradient_checkpointing(base) is base and base._require_grads_hook is not None
    )
    for refused in (
        lambda: model.push_to_hub("me/mine"),
        lambda: model.save_pretrained("x", path_initial_model_for_weight_conversion="y"),
        lambda: model.add_adapter("b", ours.LoraConfig(**CLM), low_cpu_mem_usage=True),
        lambda: ours.inject_adapter_in_model(
            ours.LoraConfig(), torch.nn.Linear(1, 1), low_cpu_mem_usage=True
        ),
    ):
        with pytest.raises(NotImplementedError):
            refused()


# --- helpers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "marks",
    [{}, dict(is_loaded_in_8bit=True), dict(quantization_method="gptq"), dict(hqq_quantized=True)],
    ids=lambda m: ", ".join(m) or "plain",
)
@pytest.mark.parametrize("options", [None, dict(use_reentrant=False)], ids=str)
def test_prepared_as_peft_prepares(marks, options):
    told = []
    for package in peft, ours:
        model = ours.tiny_random("llama").half()
        for name, value in marks.items():
            setattr(model, name, value)
        assert package.prepare_model_for_kbit_training(model, gradient_checkpointing_kwargs=options) is model
        checkpointing = [getattr(m, "gradient_checkpointing", None) for m in model.modules()]
        hooked = getattr(model, "_require_grads_hook", None) is not None
        told.append((model.dtype, [p.requires_grad for p in model.parameters()], checkpointing, hooked))
    assert told[0] == told[1]


def test_cast_as_peft_casts():
    told = []
    for package in peft, ours:
        model = wrap(package, "LoraConfig")
        package.cast_mixed_precision_params(model, torch.bfloat16)
        told.append({name: (p.dtype, p.requires_grad) for name, p in model.named_parameters()})
    assert told[0] == told[1]


def test_injected_as_peft_injects():
    "Twice: the second adapter becomes the active one."
    told = []
    for package in peft, ours:
        model = ours.tiny_random("llama")
        torch.manual_seed(2)
        for name in "first", "second":
            config = package.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
            assert package.inject_adapter_in_model(config, model, name) is model
        told.append((model.state_dict(), model(IDS).logits, list(model.peft_config)))
    assert told[0][0].keys() == told[1][0].keys() and told[0][2] == told[1][2] == ["first", "second"]
    assert torch.equal(told[0][1], told[1][1])
    for config, name, message in (
        (ours.LoraConfig(), "first", "'first' in the model already"),
        (ours.PolyConfig(), "third", "POLY needs a model around"),
    ):
        with pytest.raises(ValueError, match=message):
            ours.inject_adapter_in_model(config, model, name)


@pytest.mark.skipif(not NEW, reason="the functions are younger")
@pytest.mark.parametrize(
    "config, fields",
    [("LoraConfig", dict(modules_to_save=["lm_head"])), ("PromptTuningConfig", dict(num_virtual_tokens=2))],
)
def test_the_base_model_s_own_state(config, fields):
    theirs, mine = (wrap(package, config, **fields) for package in (peft, ours))
    plain = ours.tiny_random("llama").state_dict()
    states = [peft.get_base_model_state_dict(theirs), ours.get_base_model_state_dict(mine)]
    for state in states:
        assert state.keys() == plain.keys() and all(torch.equal(state[name], plain[name]) for name in plain)
    doubled = {name: 2 * tensor for name, tensor in plain.items()}
    assert ours.set_base_model_state_dict(mine, doubled) == ([], [])
    assert torch.equal(ours.get_base_model_state_dict(mine)["lm_head.weight"], doubled["lm_head.weight"])
    result = ours.set_base_model_state_dict(mine, {"odd": torch.ones(1)}, strict=False)
    assert result.unexpected_keys == ["odd"] and len(result.missing_keys) == len(plain)


def test_a_base_model_and_an_adapter_from_one_folder(tmp_path):
    home, folder = tmp_path / "base", tmp_path / "adapter"
    ours.tiny_random("llama").save_pretrained(home)
    base = transformers.AutoModelForCausalLM.from_pretrained(home)
    model = wrap(ours, "LoraConfig", base=base, init_lora_weights=False).eval()
    model.save_pretrained(folder)
    loaded = [p.AutoPeftModelForCausalLM.from_pretrained(str(folder)) for p in (peft, ours)]
    for other in loaded:
        assert torch.equal(other(IDS).logits, model(IDS).logits)
    assert loaded[1].peft_config["default"].base_model_name_or_path == str(home)
    half = ours.AutoPeftModelForCausalLM.from_pretrained(
        folder, dtype=torch.float16, config=ours.LoraConfig.from_pretrained(folder)
    )
    assert half.get_base_model().dtype == torch.float16
    written = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(dict(written, base_model_name_or_path=None)))
    with pytest.raises(ValueError, match="does not name its base model"):
        ours.AutoPeftModelForCausalLM.from_pretrained(folder)


def test_a_tokenizer_beside_the_adapter_says_how_many_tokens(tmp_path):
    home, folder = tmp_path / "base", tmp_path / "adapter"
    model, tokenizer = ours.load_tiny()
    model.save_pretrained(home)
    size = model.get_input_embeddings().weight.shape[0]
    base = transformers.AutoModelForCausalLM.from_pretrained(home)
    tokenizer.add_tokens([f"<{i}>" for i in range(size + 3 - len(tokenizer))])
    base.resize_token_embeddings(len(tokenizer))
    wrap(ours, "LoraConfig", base=base).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    loaded = ours.AutoPeftModelForCausalLM.from_pretrained(folder)
    assert loaded.get_input_embeddings().weight.shape[0] == size + 3
    torch.testing.assert_close(
        loaded.get_input_embeddings().weight[-3:], base.get_input_embeddings().weight[-3:]
    )


# --- transformers' Trainer ----------------------------------------------------------------------------------------

TRAIN = """
import sys, tempfile, os
{hide}
import torch
{first}
import peft_viz as peft
{second}
rows = [dict(input_ids=torch.arange(3, 9), labels=torch.arange(3, 9))] * 4
model = peft.get_peft_model(peft.tiny_random("llama"), peft.{config})
{third}
with tempfile.TemporaryDirectory() as folder:
    args = TrainingArguments(folder, max_steps=4, save_steps=2, eval_steps=2, eval_strategy="steps",
                             report_to=[], use_cpu=True, disable_tqdm=True,
                             load_best_model_at_end=True, label_smoothing_factor={smoothing})
    Trainer(model, args, train_dataset=rows, eval_dataset=rows).train()
    saved = sorted(os.listdir(folder + "/checkpoint-2"))
    other = peft.get_peft_model(peft.tiny_random("llama"), peft.{config})
    again = Trainer(other, args, train_dataset=rows, eval_dataset=rows)
    again.train(resume_from_checkpoint=folder + "/checkpoint-2")
    same = all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))
print("adapter_model.safetensors" in saved, "model.safetensors" in saved, again.state.global_step, same)
"""
HIDE = """sys.modules['peft'] = None; import importlib.util as u; f = u.find_spec
u.find_spec = lambda n, *a: None if n == 'peft' else f(n, *a)"""
IMPORT = "from transformers import Trainer, TrainingArguments"


@pytest.mark.parametrize("place", ["first", "second", "third"])
def test_a_trainer_saves_the_adapter_alone_and_goes_on_from_it(place):
    "Without peft on the machine too, and whether transformers' trainer is imported before or after the model is made."
    places = dict.fromkeys(("first", "second", "third"), "") | {place: IMPORT}
    config = (
        "LoraConfig(task_type='CAUSAL_LM')"
        if place != "second"
        else "PromptTuningConfig(task_type='CAUSAL_LM', num_virtual_tokens=2)"
    )
    hide = HIDE if place == "third" else ""
    smoothing = (
        0.1 if place == "first" else 0
    )  # (the loss of the base model's class, not of a class that it does not know)
    assert (
        fresh_process(TRAIN.format(hide=hide, config=config, smoothing=smoothing, **places), fork=not hide)
        == "True False 4 True"
    )


def test_the_trainer_is_told_once():
    from transformers import Trainer  # noqa: F401

    lora()
    told = sys.modules["transformers.trainer"].PeftModel
    lora()
    assert sys.modules["transformers.trainer"].PeftModel is told
    assert (
        isinstance(lora(), told)
        and isinstance(wrap(peft, "LoraConfig"), told)
        and not isinstance(ours.tiny_random("llama"), told)
    )
    is_peft_model = sys.modules["transformers.trainer"]._is_peft_model
    assert (
        is_peft_model(lora())
        and is_peft_model(wrap(peft, "LoraConfig"))
        and not is_peft_model(ours.tiny_random("llama"))
    )


def test_waiting_for_the_trainer(monkeypatch):
    "The import system does its work, and then the trainer is taught; for other modules nothing is done."
    monkeypatch.delitem(sys.modules, "transformers.trainer")
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    taught = []
    monkeypatch.setattr(trainer, "teach", taught.append)
    for _ in range(2):
        trainer.make_known(int)
    waiting = [finder for finder in sys.meta_path if isinstance(finder, trainer.TeachOnImport)]
    assert len(waiting) == 1 and waiting[0].find_spec("json", None) is None
    assert waiting[0].find_spec("transformers.trainer", None).name == "transformers.trainer"
    assert waiting[0] not in sys.meta_path and taught == []  # until the module has run, see above


def test_a_model_card_is_the_business_of_checkpoint(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        checkpoint, "create_or_update_model_card", lambda *args: asked.append(args), raising=False
    )
    model = lora()
    model.create_or_update_model_card(tmp_path)
    assert asked == [(model, tmp_path)]
