"""The reference gives what Hugging Face peft gives, for every method around every family: the same names and
start, and with the same weights the same loss, logits, gradients and texts, bit for bit.

Where peft itself fails (the table PEFT_FAILS), a test sees it fail and asserts what is right instead. What is
special to one method is in test_parity_more."""
# lane: reference

import copy
import functools
import warnings

import pytest
import torch

import peft_viz.reference.causal_lm as ours
import peft_viz.reference.config as our_config
from parity import (
    agree,
    assert_equal,
    assert_repeats,
    base_model,
    batch,
    config,
    everywhere,
    extra,
    families,
    SIX,
    GREEDY,
    gradients,
    INJECTED,
    METHODS,
    OLD_PEFT,
    pair,
    peft,
    PEFT_ASKS,
    peft_failure,
    PROMPTS,
    randomise,
    share_random_weights,
    some_families,
    TASKS,
    VOCABULARY,
    wrap,
    wrap_one,
)

pytestmark = pytest.mark.usefixtures("quiet_and_single")

ALL = [(method, family) for method in METHODS for family in SIX]
LLAMA = [(method, "llama") for method in METHODS]


def cross(names, *parts):
    "`parametrize` with several products: each part is some values and the (method, family) they are tried with."
    return pytest.mark.parametrize(
        names + ", method, family", [(*values, *which) for values, cases in parts for which in cases]
    )


@families
@everywhere
def test_same_names(family, method):
    if peft_failure(method, family, "start"):
        with pytest.raises((TypeError, ValueError), match=peft_failure(method, family, "start")):
            wrap(base_model(family), method)
        return
    theirs, ours_ = wrap(base_model(family), method, seed=3)
    assert [(n, p.shape, p.requires_grad) for n, p in theirs.named_parameters()] == [
        (n, p.shape, p.requires_grad) for n, p in ours_.named_parameters()
    ]
    assert list(theirs.state_dict()) == list(ours_.state_dict())
    assert_equal(dict(theirs.named_parameters()), dict(ours_.named_parameters()))
    assert theirs.get_nb_trainable_parameters() == ours_.get_nb_trainable_parameters()
    assert ours_.modules_to_save is None


@pytest.mark.parametrize("method, family", PEFT_ASKS)
def test_what_peft_has_to_be_told_and_we_find_out(method, family):
    with pytest.raises(ValueError, match="Please specify|Target modules|target_modules"):
        peft.get_peft_model(base_model(family), config(peft, method))
    found = ours.get_peft_model(base_model(family), config(our_config, method)).active_peft_config
    assert {name: getattr(found, name) for name in PEFT_ASKS[method, family]} == PEFT_ASKS[method, family]


# --- forward and backward --------------------------------------------------------------------------------------


@cross(
    "mode, inputs, padding",
    (("train", "input_ids", "left"), ALL),
    (("train", "inputs_embeds", "left"), ALL),
    *[(("train", "input_ids", padding), LLAMA) for padding in ("none", "ones", "right")],
    (("train", "inputs_embeds", "none"), LLAMA),
    *[(("eval", "input_ids", padding), LLAMA) for padding in ("none", "left")],
    (("eval", "inputs_embeds", "left"), LLAMA),
)
def test_forward_and_gradients(mode, inputs, padding, method, family):
    def run(model):
        model.train(mode == "train").zero_grad()
        embed = model.get_input_embeddings() if inputs == "inputs_embeds" else None
        torch.manual_seed(4)  # dropout, and the skills that POLY draws
        output = model(**batch(padding, embed=embed), **extra(method))
        output.loss.backward()
        return dict(gradients(model), loss=output.loss, logits=output.logits)

    if family == "mpt" and inputs == "inputs_embeds" and method in INJECTED:
        for model in pair(family, method):
            with pytest.raises(
                AssertionError, match="forward in MPTForCausalLM does not support inputs_embeds"
            ):
                run(model)
        return
    model, result, alone = agree(family, method, "forward", run)
    assert torch.isfinite(result["loss"])
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == set(result) - {"loss", "logits"} and all(result[name].any() for name in trained)
    if alone:
        assert_right_without_peft(model, method)


def assert_right_without_peft(model, method):
    "The loss is that of the logits, and every row is as if it were alone."
    model.eval()
    given, tasks = batch("left"), extra(method)
    output = model(**given, **tasks)
    loss = torch.nn.functional.cross_entropy(
        output.logits[:, :-1].flatten(0, 1), given["labels"][:, 1:].flatten(), ignore_index=-100
    )
    torch.testing.assert_close(output.loss, loss, rtol=0, atol=1e-5)
    for row in range(3):
        one = slice(row, row + 1)
        alone = model(**{k: v[one] for k, v in given.items()}, **{k: v[one] for k, v in tasks.items()})
        torch.testing.assert_close(alone.logits, output.logits[one], rtol=0, atol=1e-5)
    assert not torch.equal(output.logits, model(**given, **{k: v.roll(1) for k, v in tasks.items()}).logits)


@pytest.mark.parametrize("family", ["llama"])
@everywhere
def test_without_labels(method, family):
    theirs, ours_ = [
        model.eval()(**batch("left", labels=False), **extra(method)) for model in pair(family, method)
    ]
    assert ours_.loss is None and torch.equal(theirs.logits, ours_.logits)


# --- generate --------------------------------------------------------------------------------------------------


def texts(method, padding="left", positional=False, **how):
    "What `agree` runs: a text of six more tokens."

    def run(model):
        arguments = dict(batch(padding, labels=False), **extra(method))
        first = [arguments.pop("input_ids")] if positional else []
        torch.manual_seed(5)
        with torch.no_grad():
            return dict(sequences=model.eval().generate(*first, **arguments, max_new_tokens=6, **how))

    return run


def assert_greedy(model, method, padding, sequences):
    "A greedy text is what one pass over it says."
    given = batch(padding, labels=False)
    if "attention_mask" in given:
        mask = given["attention_mask"] = torch.nn.functional.pad(given["attention_mask"], (0, 5), value=1)
        given["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(**dict(given, input_ids=sequences[:, :-1]), **extra(method)).logits[:, -6:]
    assert torch.equal(logits.argmax(-1), sequences[:, -6:])


@cross(
    "call, padding",
    (("keyword", "left"), ALL),
    (("keyword", "none"), LLAMA + [(method, "gpt2") for method in METHODS]),
    (("positional", "left"), LLAMA),
)
def test_greedy_generate(call, padding, method, family):
    run = texts(method, padding, call == "positional", do_sample=False)
    model, result, alone = agree(family, method, "greedy" if call == "keyword" else call, run)
    assert result["sequences"].shape == (3, 13)
    if alone and call == "positional":
        assert_equal(texts(method, padding, do_sample=False)(model), result)
    elif alone:
        assert_greedy(model, method, padding, result["sequences"])


HOW = {
    "beams": dict(num_beams=3),
    "sampled": dict(do_sample=True),
    "sampled-twice": dict(do_sample=True, num_return_sequences=2),
}


@cross(
    "how",
    (("beams",), ALL),
    (("sampled",), ALL),
    (("sampled-twice",), [(method, "llama") for method in METHODS if method != "poly"]),
)
def test_other_ways_to_generate(how, method, family):
    model, result, alone = agree(family, method, how, texts(method, **HOW[how]))
    assert result["sequences"].shape == (6 if how == "sampled-twice" else 3, 13)
    if alone and how == "sampled":  # where there is no choice, sampled is greedy
        assert_equal(texts(method, do_sample=True, top_k=1)(model), texts(method, do_sample=False)(model))
    elif alone:  # a batch is searched as its rows would be
        together = texts(method, "none", **HOW[how])(model)["sequences"]
        for row, (ids, task) in enumerate(zip(batch(labels=False)["input_ids"], TASKS)):
            with torch.no_grad():
                assert torch.equal(
                    model.generate(ids[None], task_ids=task[None], max_new_tokens=6, **HOW[how])[0],
                    together[row],
                )


def noting(calls, forward):
    @functools.wraps(forward)
    def noted(*args, **kwargs):
        calls.append(kwargs)
        return forward(*args, **kwargs)

    return noted


@pytest.mark.parametrize("family", ["llama", "bloom"])
@everywhere
def test_what_the_base_model_is_told(family, method):
    "Everything but the mask's number type, which peft turns into float."
    seen = []
    for model in pair(family, method):
        base, calls = model.get_base_model(), []
        base.forward = noting(
            calls, base.forward
        )  # no hook: some of peft's methods call `forward` past the hooks
        model(**batch("left"), **extra(method))
        with torch.no_grad():
            model.eval().generate(
                **batch("left", labels=False), **extra(method), max_new_tokens=3, do_sample=False
            )
        seen.append([{k: v for k, v in call.items() if v is not None} for call in calls])
    assert len(seen[0]) == len(seen[1]) == 4
    for theirs, ours_ in zip(*seen):
        assert theirs.keys() == ours_.keys()
        for name, value in theirs.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value.float(), ours_[name].float()), name


@families
@pytest.mark.parametrize("method", ["prefix", "prefix-projection"])
def test_given_positions_come_after_the_prefix(family, method):
    if OLD_PEFT:
        pytest.skip("old peft drops them")
    if family in ("mpt", "bloom"):
        pytest.skip("a family without positions")
    positions = torch.arange(7).expand(3, -1) // 2
    theirs, ours_ = [model(**batch("ones"), position_ids=positions) for model in pair(family, method)]
    assert torch.equal(theirs.logits, ours_.logits)


@some_families
def test_given_positions_are_dropped_before_a_prompt(family):
    positions = torch.arange(7).expand(3, -1) // 2
    theirs, ours_ = pair(family, "prompt")
    with pytest.warns(UserWarning, match="Position ids are not supported"):
        with_positions = ours_(**batch("ones"), position_ids=positions)
    assert torch.equal(with_positions.logits, ours_(**batch("ones")).logits)
    assert torch.equal(with_positions.logits, theirs(**batch("ones"), position_ids=positions).logits)


@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_token_types_are_dropped(method):
    types = torch.ones(3, 7, dtype=torch.long)
    theirs, ours_ = pair("gpt2", method)
    with pytest.warns(UserWarning, match="Token type ids are not supported"):
        with_types = ours_(**batch("left"), token_type_ids=types)
    assert torch.equal(with_types.logits, ours_(**batch("left")).logits)
    assert torch.equal(with_types.logits, theirs(**batch("left"), token_type_ids=types).logits)


@everywhere
def test_no_warning_without_a_reason(method):
    _, model = pair("llama", method)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(**batch("left"), **extra(method))
        model.generate(**batch("left", labels=False), **extra(method), max_new_tokens=2)


@everywhere
def test_the_callers_tensors_and_configuration_are_untouched(method):
    asked = config(our_config, method)
    before = asked.to_dict()
    model = ours.get_peft_model(base_model("llama"), asked).eval()
    given = {**batch("left"), **extra(method)}
    copies, versions = {k: v.clone() for k, v in given.items()}, {k: v._version for k, v in given.items()}
    model(**given)
    del given["labels"]
    model.generate(**given, **GREEDY)
    assert all(torch.equal(v, copies[k]) and v._version == versions[k] for k, v in given.items())
    assert asked.to_dict() == before


@everywhere
def test_configurations_survive_plain_data(method):
    mine, theirs = config(our_config, method), config(peft, method)
    assert our_config.get_peft_config(mine.to_dict()) == mine
    assert (
        our_config.get_peft_config({k: v for k, v in theirs.to_dict().items() if k != "peft_version"}) == mine
    )


# --- adapters by name ------------------------------------------------------------------------------------------

OTHER = {
    **dict.fromkeys(["lora", "lora-dora", "poly"], dict(r=2)),
    **dict.fromkeys(["adalora", "ia3"], dict(target_modules=["q_proj"])),
    "cpt": dict(cpt_token_ids=[7, 8, 9, 10, 11, 12]),
    "cpt-decay": dict(opt_loss_decay_factor=0.3),
    "ia3": dict(target_modules=["k_proj"], feedforward_modules=[]),
}


@everywhere
def test_several_adapters_by_name(method):
    theirs, ours_ = wrap(base_model("llama"), method)
    other = dict(
        OTHER.get(method, dict(num_virtual_tokens=7)), inference_mode=method == "adalora"
    )  # AdaLoRA trains one at a time
    for model, package in (theirs, peft), (ours_, our_config):
        model.add_adapter("other", config(package, method, **other))
    share_random_weights(theirs, ours_)
    outputs = {}
    for name in "default", "other", "default":
        for model in theirs.eval(), ours_.eval():
            model.set_adapter(name)
            assert model.active_adapter == name
        a, b = [model(**batch("left"), **extra(method)) for model in (theirs, ours_)]
        assert torch.equal(a.logits, b.logits) and (
            torch.equal(a.loss, b.loss) or method == "cpt-decay"
        )  # see test_the_active_adapters_loss_counts
        assert_repeats(method, b.logits, outputs.setdefault(name, b.logits))
        assert theirs.get_nb_trainable_parameters() == ours_.get_nb_trainable_parameters()
        generated = [
            m.generate(**batch("left", labels=False), **extra(method), max_new_tokens=4, do_sample=False)
            for m in (theirs, ours_)
        ]
        assert torch.equal(*generated)
    assert outputs["default"].shape != outputs["other"].shape or not torch.equal(
        outputs["default"], outputs["other"]
    )
    ours_.delete_adapter("default")
    if not OLD_PEFT or method in INJECTED:  # old peft cannot delete a prompt
        theirs.delete_adapter("default")
        assert list(theirs.state_dict()) == list(ours_.state_dict())
        assert theirs.active_adapter == "other"
    assert ours_.active_adapter == "other"
    assert_repeats(method, ours_(**batch("left"), **extra(method)).logits, outputs["other"])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@everywhere
def test_disabled_is_the_base_model(family, method):
    base = base_model(family)
    model = randomise(wrap_one(our_config, base, method)).eval()
    adapted = model(**batch("left"), **extra(method)).logits
    assert adapted.shape != (3, 7, VOCABULARY) or not torch.equal(adapted, base(**batch("left")).logits)
    with model.disable_adapter():
        assert torch.equal(model(**batch("left")).logits, base(**batch("left")).logits)
        assert torch.equal(
            model.generate(**batch("left", labels=False), **GREEDY),
            base.generate(**batch("left", labels=False), **GREEDY),
        )
    assert_repeats(method, model(**batch("left"), **extra(method)).logits, adapted)


def test_what_is_said_to_a_method_that_is_switched_off_is_said_to_nobody():
    model = wrap_one(our_config, base_model("llama"), "prompt")
    with model.disable_adapter():
        text = model.generate(**batch("left", labels=False), adapter_names=["default"] * 3, **GREEDY)
    assert torch.equal(text, base_model("llama").generate(**batch("left", labels=False), **GREEDY))


@everywhere
def test_modules_to_save_of_one_of_two_adapters(method):
    saved, once = (
        dict(modules_to_save=["lm_head", "up_proj"]),
        dict(inference_mode=True) if method == "adalora" else {},
    )
    theirs, ours_ = wrap(base_model("llama"), method, **saved)
    for model, package in (theirs, peft), (ours_, our_config):
        model.add_adapter("without", config(package, method, **once))
        model.add_adapter("with", config(package, method, **saved, **once))
    assert ours_.modules_to_save == theirs.modules_to_save == {"lm_head", "up_proj"}
    share_random_weights(theirs, ours_)
    outputs = {}
    for adapter_name in "default", "with", "without":
        for model in theirs.eval(), ours_.eval():
            model.set_adapter(adapter_name)
        outputs[adapter_name] = ours_(**batch("left"), **extra(method)).logits
        assert torch.equal(theirs(**batch("left"), **extra(method)).logits, outputs[adapter_name])
        trained = {n for n, p in ours_.named_parameters() if p.requires_grad and "modules_to_save" in n}
        assert len(trained) == 3 * (adapter_name != "without") and all(
            f".{adapter_name}." in n for n in trained
        )
    with ours_.disable_adapter():
        assert torch.equal(
            ours_(**batch("left"), **extra(method)).logits, base_model("llama")(**batch("left")).logits
        )
    ours_.delete_adapter("without")
    assert ours_.active_adapter == "default"
    assert_repeats(method, ours_(**batch("left"), **extra(method)).logits, outputs["default"])
    ours_.delete_adapter("default")
    assert ours_.active_adapter == "with"
    assert_repeats(method, ours_(**batch("left"), **extra(method)).logits, outputs["with"])
    assert not any(".default." in n for n in ours_.state_dict())


def test_an_adapter_for_each_row():
    theirs, ours_ = wrap(base_model("llama"), "lora")
    for model, package in (theirs, peft), (ours_, our_config):
        model.add_adapter("other", config(package, "lora", r=2))
    share_random_weights(theirs, ours_)
    names = ["other", "__base__", "default"]
    with torch.no_grad():
        outputs = [m.eval()(**batch("left"), adapter_names=names).logits for m in (theirs, ours_)]
        texts = [
            m.generate(**batch("left", labels=False), adapter_names=names, num_beams=2, max_new_tokens=4)
            for m in (theirs, ours_)
        ]
    torch.testing.assert_close(
        *outputs, rtol=0, atol=1e-6
    )  # peft multiplies row by row in the order of a set
    assert torch.equal(*texts)


def test_two_lora_adapters_at_once():
    theirs, ours_ = wrap(base_model("gpt2"), "lora")
    for model, package in (theirs, peft), (ours_, our_config):
        model.add_adapter("other", config(package, "lora", r=2, target_modules=["c_attn", "c_fc"]))
    share_random_weights(theirs, ours_)
    for model in theirs, ours_:
        model.base_model.set_adapter(["default", "other"])
    assert ours_.active_adapters == theirs.active_adapters == ["default", "other"]
    assert torch.equal(theirs(**batch()).logits, ours_(**batch()).logits)


# --- number types, gradient checkpointing ----------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("cast", [True, False])
def test_adapter_dtype(family, cast):
    assert_same_around_bfloat16(family, "lora", cast, torch.float32 if cast else torch.bfloat16)


@pytest.mark.parametrize("method", ["adalora", "ia3", "poly"])
@pytest.mark.parametrize("cast", [True, False])
def test_adapter_dtype_of_other_methods(method, cast):
    assert_same_around_bfloat16("llama", method, cast, torch.float32 if cast else torch.bfloat16)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("method", PROMPTS)
def test_prompts_before_a_bfloat16_model(family, method):
    assert_same_around_bfloat16(family, method, True, torch.float32)


def assert_same_around_bfloat16(family, method, cast, expected):
    base = base_model(family).to(torch.bfloat16)
    models = []
    for get_peft_model, package in (peft.get_peft_model, peft), (ours.get_peft_model, our_config):
        torch.manual_seed(8)
        models.append(
            get_peft_model(copy.deepcopy(base), config(package, method), autocast_adapter_dtype=cast).eval()
        )
    assert {p.dtype for p in models[1].parameters() if p.requires_grad} == {expected}
    assert_equal(*[dict(m.named_parameters()) for m in models])
    generator = torch.Generator().manual_seed(9)
    for parameter in models[0].parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    models[1].load_state_dict(models[0].state_dict())
    assert torch.equal(*[m(**batch("left"), **extra(method)).logits for m in models])


@everywhere
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(method, reentrant):
    base = base_model("llama")
    base.gradient_checkpointing_enable(dict(use_reentrant=reentrant))
    if method.startswith("prefix"):
        with pytest.raises(ValueError, match="gradient checkpointing"):
            ours.get_peft_model(base, config(our_config, method))
        return
    models = share_random_weights(*wrap(base, method))
    if method == "poly":  # peft has forgotten the task ids when the layers are computed again
        with pytest.raises(ValueError, match="task_ids should not be None"):
            trained(models[0], method)
        models = (
            randomise(wrap_one(our_config, base_model("llama"), method)),
            models[1],
        )  # the same without checkpointing
    results = [trained(model, method) for model in models]
    assert set(results[1]) == {n for n, p in models[1].named_parameters() if p.requires_grad}
    assert_equal(*results)


def trained(model, method):
    "The gradients of one step."
    torch.manual_seed(10)
    model.train()(**batch("left"), **extra(method)).loss.backward()
    return gradients(model)


@everywhere
def test_no_hooks_without_gradient_checkpointing(method):
    _, model = pair("llama", method)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
