"""POLY gives what Hugging Face peft gives, bit for bit: the same names, start, loss, logits, gradients (with
the same coins) and texts.

Where peft fails (GPT-2's Conv1D, MPT, beams, several returned texts, gradient checkpointing, layers that see
rows and tokens in one line), a test says so and asserts what is right. The families are those of test_parity
and, beyond, MPT, BLOOM and GPT-NeoX."""
# lane: reference

import copy

import pytest
import torch
from torch import nn

import peft_viz.reference.causal_lm as ours
import peft_viz.reference.config as our_config
from peft_viz.reference.methods.poly import features, knowing, PolyLayer, PolyModel
from parity import assert_equal, base_model, batch, gradients, OLD_PEFT
from small import copies, SIX

pytestmark = pytest.mark.usefixtures("quiet_and_single")

peft = pytest.importorskip("peft")
FIELDS = dict(task_type="CAUSAL_LM", r=3, n_tasks=3, n_skills=2)
KNOWN_TO_PEFT = [f for f in SIX if f not in ("gpt2", "mpt")]
families = pytest.mark.parametrize("family", SIX)
splits = pytest.mark.parametrize("n_splits", [1, 2])
TASKS = torch.tensor([2, 0, 1])
GREEDY = dict(max_new_tokens=5, do_sample=False)
REFUSES_GPT2 = "Conv1D.*is not supported"


def wrap(base, seed=None, **more):
    """The same configuration around the same base model, twice: peft's model and ours.

    Weights that are nobody's initialisation."""
    wrapped, copied = [], copies(base)
    for get_peft_model, config in (
        (peft.get_peft_model, peft.PolyConfig),
        (ours.get_peft_model, our_config.PolyConfig),
    ):
        if seed is not None:
            torch.manual_seed(seed)
        wrapped.append(get_peft_model(copied(), config(**{**FIELDS, **more})))
    return wrapped


def randomise(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "poly_" in name:
            scale = 2.0 if "router" in name else 0.5
            parameter.data = scale * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return model


def mine(family, base=None, **more):
    base = base_model(family) if base is None else base
    return randomise(ours.get_peft_model(base, our_config.PolyConfig(**{**FIELDS, **more}))).eval()


def pair(family, **more):
    return [randomise(model) for model in wrap(base_model(family), **more)]


def layers_of(model):
    return [m for m in model.modules() if isinstance(m, PolyLayer)]


def nothing_left(model):
    return (
        all(layer.task_ids is None for layer in layers_of(model))
        and not model.base_model.takes_task_ids
        and not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    )


# --- equal to peft ---------------------------------------------------------------------------------------------


@splits
@pytest.mark.parametrize("init_weights", [True, False])
@pytest.mark.parametrize("family", KNOWN_TO_PEFT)
def test_same_names_and_start(family, init_weights, n_splits):
    theirs, ours_ = wrap(base_model(family), seed=3, init_weights=init_weights, n_splits=n_splits)
    assert [(n, p.shape, p.requires_grad) for n, p in theirs.named_parameters()] == [
        (n, p.shape, p.requires_grad) for n, p in ours_.named_parameters()
    ]
    assert list(theirs.state_dict()) == list(ours_.state_dict())
    assert_equal(dict(theirs.named_parameters()), dict(ours_.named_parameters()))
    assert theirs.get_nb_trainable_parameters() == ours_.get_nb_trainable_parameters()
    assert layers_of(ours_)[0].poly_lora_B["default"].any() == (not init_weights)


@splits
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(
    "padding, inputs", [("none", "input_ids"), ("left", "inputs_embeds"), ("right", "input_ids")]
)
@pytest.mark.parametrize("family", KNOWN_TO_PEFT)
def test_forward_and_gradients(family, padding, inputs, mode, n_splits):
    results = []
    for model in pair(family, n_splits=n_splits):
        model.train(mode == "train")
        embed = model.get_input_embeddings() if inputs == "inputs_embeds" else None
        torch.manual_seed(4)  # the router's coins
        output = model(**batch(padding, embed=embed), task_ids=TASKS)
        output.loss.backward()
        results.append((output, gradients(model)))
    (their_output, their_gradients), (our_output, our_gradients) = results
    assert torch.isfinite(our_output.loss) and torch.equal(their_output.loss, our_output.loss)
    assert torch.equal(their_output.logits, our_output.logits)
    assert len(our_gradients) > 0 and all(g.any() for g in our_gradients.values())
    assert_equal(their_gradients, our_gradients)


@pytest.mark.parametrize(
    "how",
    [dict(do_sample=False), dict(do_sample=True), dict(do_sample=False, use_cache=False)],
    ids=["greedy", "sampled", "without cache"],
)
@pytest.mark.parametrize("family", KNOWN_TO_PEFT)
def test_generate(family, how):
    texts = []
    for model in pair(family):
        torch.manual_seed(5)
        texts.append(
            model.eval().generate(**batch("left", labels=False), task_ids=TASKS, max_new_tokens=6, **how)
        )
    assert texts[1].shape == (3, 13)
    assert torch.equal(*texts)


def test_no_coins_in_evaluation():
    model, given = mine("llama"), batch("left")
    call = lambda: model(**given, task_ids=TASKS).logits
    assert torch.equal(call(), call())
    model.train()
    assert not torch.equal(call(), call())


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_shapes_of_task_ids(shape):
    theirs, ours_ = [model.eval()(**batch(), task_ids=TASKS.view(shape)).logits for model in pair("llama")]
    assert torch.equal(theirs, ours_)


def test_bytes_are_numbers_of_tasks_too():
    model = mine("llama")
    assert torch.equal(
        model(**batch(), task_ids=TASKS.to(torch.uint8)).logits, model(**batch(), task_ids=TASKS).logits
    )


@pytest.mark.parametrize("cast", [True, False])
def test_bfloat16(cast):
    base = base_model("llama").to(torch.bfloat16)
    models = []
    for get_peft_model, config in (
        (peft.get_peft_model, peft.PolyConfig),
        (ours.get_peft_model, our_config.PolyConfig),
    ):
        torch.manual_seed(8)
        models.append(
            get_peft_model(
                copy.deepcopy(base), config(**FIELDS, init_weights=False), autocast_adapter_dtype=cast
            ).eval()
        )
    assert {p.dtype for n, p in models[1].named_parameters() if "poly_" in n} == {
        torch.float32 if cast else torch.bfloat16
    }
    assert_equal(*[dict(m.named_parameters()) for m in models])
    outputs = [m(**batch("left"), task_ids=TASKS).logits for m in models]
    assert outputs[1].dtype == torch.bfloat16 and torch.equal(*outputs)


def test_autocast():
    theirs, ours_ = pair("llama")
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [m.eval()(**batch("left"), task_ids=TASKS).logits for m in (theirs, ours_)]
    assert torch.equal(*outputs)


def test_the_layers_output_is_as_wide_a_number_as_its_input():
    layer = layers_of(mine("llama"))[0]
    with torch.autocast("cpu", torch.bfloat16), knowing([layer], TASKS):
        assert layer(torch.randn(3, 2, 32)).dtype == torch.float32


# --- where peft fails ------------------------------------------------------------------------------------------


def reference_logits(model, ids, tasks, **kwargs):
    """Row by row, from nothing but the formula: the mixed matrices become part of the weights of a copy of the
    base model."""
    rows = []
    for row, task in enumerate(tasks):
        base = copy.deepcopy(model).base_model.unload()
        for name, layer in model.get_base_model().named_modules():
            if isinstance(layer, PolyLayer):
                logits = (
                    layer.poly_router["default"]
                    .module_logits[task]
                    .view(-1, layer.poly_router["default"].n_skills)
                )
                alpha = torch.sigmoid(logits) / torch.sigmoid(logits).sum(
                    -1, keepdim=True
                )  # [splits, skills]
                A = torch.cat(
                    [(a[:, None, None] * s).sum(0) for a, s in zip(alpha, layer.poly_lora_A["default"])],
                    dim=0,
                )  # [in, r]
                B = torch.cat(
                    [(a[:, None, None] * s).sum(0) for a, s in zip(alpha, layer.poly_lora_B["default"])],
                    dim=1,
                )  # [r, out]
                weight = base.get_submodule(name).weight
                delta = A @ B / FIELDS["r"]
                weight.data += delta if type(layer.base_layer).__name__ == "Conv1D" else delta.T
        rows.append(
            base(input_ids=ids[row : row + 1], **{k: v[row : row + 1] for k, v in kwargs.items()}).logits[0]
        )
    return torch.stack(rows)


@splits
@families
@torch.no_grad()
def test_each_row_is_what_the_formula_says(family, n_splits):
    "Also GPT-2, whose Conv1D peft refuses, and MPT, to which peft does not hand the tasks."
    model = mine(family, n_splits=n_splits)
    given = batch("right", labels=False)
    torch.testing.assert_close(
        model(**given, task_ids=TASKS).logits,
        reference_logits(model, given["input_ids"], TASKS, attention_mask=given["attention_mask"]),
        rtol=1e-4,
        atol=1e-4,
    )


def test_peft_refuses_conv1d():
    with pytest.raises((TypeError, ValueError), match=REFUSES_GPT2):
        peft.get_peft_model(base_model("gpt2"), peft.PolyConfig(**FIELDS))


def test_peft_loses_the_tasks_on_mpt():
    model = peft.get_peft_model(base_model("mpt"), peft.PolyConfig(**FIELDS))
    with pytest.raises(ValueError, match="task_ids should not be None"):
        model(**batch(), task_ids=TASKS)


@families
def test_every_family_trains_and_generates(family):
    model = mine(family).train()
    model(**batch("left"), task_ids=TASKS).loss.backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert trained and all("poly_" in n and p.grad.any() for n, p in trained.items())
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    model.eval()
    given = batch(labels=False)
    with torch.no_grad():
        text = model.generate(**given, task_ids=TASKS, **GREEDY)
        logits = model(text[:, :-1], task_ids=TASKS).logits[:, -5:]
    assert torch.equal(logits.argmax(-1), text[:, -5:])
    assert nothing_left(model)


HOWS = {
    "beams": dict(num_beams=3, do_sample=False),
    "beams, several returned": dict(num_beams=4, num_return_sequences=2, do_sample=False),
}


@families
@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
def test_beams_over_a_batch_are_beams_row_by_row(family, how):
    model, ids = mine(family), batch(labels=False)["input_ids"]
    for layer in layers_of(model):
        layer.poly_lora_B["default"].data *= 20  # or the text would not depend on the task
    given = dict(max_new_tokens=5, **how)
    alone = [model.generate(ids[row : row + 1], task_ids=TASKS[row : row + 1], **given) for row in range(3)]
    assert torch.equal(model.generate(ids, task_ids=TASKS, **given), torch.cat(alone))
    other = model.generate(ids, task_ids=TASKS.flip(0), **given)
    assert not torch.equal(other, torch.cat(alone))


@pytest.mark.parametrize(
    "how",
    [*HOWS.values(), dict(do_sample=True, num_return_sequences=2)],
    ids=[*HOWS, "sampled, several returned"],
)
def test_peft_does_not_repeat_the_tasks(how):
    theirs = pair("llama")[0].eval()
    with pytest.raises(RuntimeError, match="Expected size for first two dimensions"):
        theirs.generate(**batch(labels=False), task_ids=TASKS, max_new_tokens=5, **how)


@families
def test_several_sampled_texts_are_samples_of_repeated_rows(family):
    model, ids = mine(family), batch(labels=False)["input_ids"]
    texts = []
    for given in (
        dict(inputs=ids, task_ids=TASKS, num_return_sequences=2),
        dict(inputs=ids.repeat_interleave(2, 0), task_ids=TASKS.repeat_interleave(2)),
    ):
        torch.manual_seed(6)
        texts.append(model.generate(**given, do_sample=True, max_new_tokens=5))
    assert texts[0].shape == (6, 12) and torch.equal(*texts)


@pytest.mark.parametrize("family", [f for f in SIX if f != "mpt"])
def test_generate_from_embeddings(family):
    model, ids = mine(family), batch(labels=False)["input_ids"]
    embeddings = model.get_input_embeddings()(ids)
    assert torch.equal(
        model.generate(inputs_embeds=embeddings, task_ids=TASKS, **GREEDY),
        model.generate(ids, task_ids=TASKS, **GREEDY)[:, 7:],
    )


@families
def test_a_row_is_the_same_alone_as_in_a_mixed_batch(family):
    model, given = mine(family), batch("left", labels=False)
    together = model(**given, task_ids=TASKS).logits
    for row in range(3):
        alone = model(**{k: v[row : row + 1] for k, v in given.items()}, task_ids=TASKS[row : row + 1]).logits
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("family", SIX)
def test_gradient_checkpointing(family, reentrant):
    """Two calls with different tasks before one backward pass: each is computed again with its own tasks, and
    with its own coins."""

    def run(model):
        model.train()
        torch.manual_seed(9)
        loss = (
            model(**batch("left"), task_ids=TASKS).loss
            + 2 * model(**batch("right"), task_ids=TASKS.flip(0)).loss
        )
        assert nothing_left_but_the_embeddings_hook(model)
        loss.backward()
        assert nothing_left_but_the_embeddings_hook(model)
        return loss, gradients(model)

    def nothing_left_but_the_embeddings_hook(model):
        return all(layer.task_ids is None for layer in layers_of(model)) and not any(
            m._forward_pre_hooks for m in model.modules()
        )

    plain_loss, plain = run(mine(family))
    base = base_model(family)
    base.gradient_checkpointing_enable(dict(use_reentrant=reentrant))
    before = {
        n: m._gradient_checkpointing_func
        for n, m in base.named_modules()
        if hasattr(m, "_gradient_checkpointing_func")
    }
    model = mine(family, base)
    calls = []
    layers_of(model)[0].base_layer.register_forward_hook(lambda *_: calls.append(1))
    loss, checkpointed = run(model)
    assert len(calls) == 4  # each call once, and once more
    assert torch.equal(loss, plain_loss)
    assert_equal(checkpointed, plain)
    assert {
        n: m._gradient_checkpointing_func
        for n, m in base.named_modules()
        if hasattr(m, "_gradient_checkpointing_func")
    } == before


def test_peft_forgets_the_tasks_under_gradient_checkpointing():
    base = base_model("llama")
    base.gradient_checkpointing_enable(dict(use_reentrant=False))
    theirs = peft.get_peft_model(base, peft.PolyConfig(**FIELDS)).train()
    loss = theirs(**batch(), task_ids=TASKS).loss
    with pytest.raises(ValueError, match="task_ids should not be None"):
        loss.backward()


@torch.no_grad()
def test_layers_that_see_all_tokens_in_one_line():
    "OPT's feed-forward layers; peft multiplies row by row and fails."
    theirs, model = pair("opt", target_modules="all-linear")
    assert type(model.get_base_model().model.decoder.layers[0].fc1) is PolyLayer
    given = batch("right", labels=False)
    with pytest.raises(RuntimeError, match="must be a 3D tensor"):
        theirs(**given, task_ids=TASKS)
    torch.testing.assert_close(
        model.eval()(**given, task_ids=TASKS).logits,
        reference_logits(model, given["input_ids"], TASKS, attention_mask=given["attention_mask"]),
        rtol=1e-4,
        atol=1e-4,
    )


# --- adapters by name ------------------------------------------------------------------------------------------


@families
def test_disabled_is_the_base_model(family):
    base = base_model(family)
    model = mine(family, copy.deepcopy(base))
    adapted = model(**batch("left"), task_ids=TASKS).logits
    assert not torch.equal(adapted, base(**batch("left")).logits)
    with model.disable_adapter():
        for more in {}, dict(task_ids=TASKS):
            assert torch.equal(model(**batch("left"), **more).logits, base(**batch("left")).logits)
            assert torch.equal(
                model.generate(**batch("left", labels=False), **more, **GREEDY),
                base.generate(**batch("left", labels=False), **GREEDY),
            )
    assert torch.equal(model(**batch("left"), task_ids=TASKS).logits, adapted)
    model.base_model.disable_adapter_layers()
    assert torch.equal(model.base_model(**batch("left")).logits, base(**batch("left")).logits)


def test_several_adapters():
    "By name, at once, one deleted; the second one has a layer more."
    theirs, model = wrap(base_model("llama"))
    for m, package in (theirs, peft), (model, our_config):
        m.add_adapter(
            "other", package.PolyConfig(**{**FIELDS, "n_tasks": 4, "target_modules": ["v_proj", "o_proj"]})
        )
        randomise(m.eval())
    outputs = {}
    for active in "default", "other", ["default", "other"], "default":
        for m in theirs, model:
            m.base_model.set_adapter(active)
        assert {n for n, p in model.named_parameters() if p.requires_grad} == {
            n for n, p in theirs.named_parameters() if p.requires_grad
        }
        result = model(**batch("left"), task_ids=TASKS).logits
        assert torch.equal(result, theirs(**batch("left"), task_ids=TASKS).logits)
        assert torch.equal(outputs.setdefault(str(active), result), result)
    assert len({tuple(o.flatten().tolist()) for o in outputs.values()}) == 3
    model.set_adapter("other")
    assert torch.equal(model(**batch("left"), task_ids=TASKS).logits, outputs["other"])
    model(**batch(), task_ids=torch.tensor([3, 3, 3]))
    model.base_model.set_adapter(["other", "default"])
    with pytest.raises(ValueError, match="from 0 to 2"):  # the default adapter has three tasks
        model(**batch(), task_ids=torch.tensor([3, 3, 3]))
    model.set_adapter("other")
    model.delete_adapter("default")
    assert not any("default" in n for n in model.state_dict())
    assert torch.equal(model(**batch("left"), task_ids=TASKS).logits, outputs["other"])


def test_bfloat16_sums_of_adapters():
    models = []
    for get_peft_model, package in (peft.get_peft_model, peft), (ours.get_peft_model, our_config):
        model = get_peft_model(base_model("llama").to(torch.bfloat16), package.PolyConfig(**FIELDS))
        model.add_adapter("other", package.PolyConfig(**FIELDS))
        if OLD_PEFT and package is peft:
            for name, parameter in model.named_parameters():  # old peft leaves added adapters in bfloat16
                parameter.data = parameter.data.float() if "poly_" in name else parameter.data
        model.base_model.set_adapter(["default", "other"])
        models.append(randomise(model).eval())
    assert torch.equal(*[m(**batch(), task_ids=TASKS).logits for m in models])


def test_nothing_to_merge():
    model, base = mine("llama"), base_model("llama")
    layer = layers_of(model)[0]
    for merge in model.merge_adapter, model.merge_and_unload:
        with pytest.raises(NotImplementedError, match="PolyModel cannot be merged"):
            merge()
    with pytest.raises(NotImplementedError):
        layer.merge()
    assert layers_of(model)[0] is layer and layer.merged_adapters == []
    theirs = peft.get_peft_model(base_model("llama"), peft.PolyConfig(**FIELDS))
    with pytest.raises((NotImplementedError, AttributeError)):
        theirs.merge_and_unload()
    assert torch.equal(model.unload()(**batch()).logits, base(**batch()).logits)


def test_a_copy_knows_its_own_tasks():
    model = mine("llama")
    twin = copy.deepcopy(model)
    assert torch.equal(twin(**batch(), task_ids=TASKS).logits, model(**batch(), task_ids=TASKS).logits)
    assert nothing_left(twin) and nothing_left(model)


# --- nothing leaks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("call", ["forward", "generate", "checkpointed"])
def test_nothing_is_left_after_an_exception(call, error):
    base = base_model("llama")
    if call == "checkpointed":
        base.gradient_checkpointing_enable(dict(use_reentrant=False))
    model = mine("llama", base)
    functions = {
        m: m._gradient_checkpointing_func
        for m in base.modules()
        if hasattr(m, "_gradient_checkpointing_func")
    }
    assert bool(functions) == (call == "checkpointed")
    seen = []

    def fail(*_):
        seen.append([layer.task_ids is not None for layer in layers_of(model)])
        raise error("on the way")

    hook = layers_of(model)[-1].base_layer.register_forward_hook(fail)
    model.train(call == "checkpointed")
    with pytest.raises(error):
        model.generate(**batch(labels=False), task_ids=TASKS, **GREEDY) if call == "generate" else model(
            **batch(), task_ids=TASKS
        )
    hook.remove()
    assert seen == [[True] * 4]
    assert all(layer.task_ids is None for layer in layers_of(model)) and not model.base_model.takes_task_ids
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert {
        m: m._gradient_checkpointing_func
        for m in base.modules()
        if hasattr(m, "_gradient_checkpointing_func")
    } == functions
    model.eval()(**batch(), task_ids=TASKS)


def test_what_was_known_before_is_known_again():
    layer = layers_of(mine("llama"))[0]
    with knowing([layer], TASKS):
        with pytest.raises(RuntimeError):
            with knowing([layer], None):
                assert layer.task_ids is None
                raise RuntimeError
        assert layer.task_ids is TASKS
    assert layer.task_ids is None


def test_tasks_of_one_call_are_not_those_of_the_next():
    model = mine("llama")
    with model.base_model._enable_peft_forward_hooks():
        model.get_base_model()(**batch(), task_ids=TASKS)
        with pytest.raises(ValueError, match="pass task_ids"):
            model.get_base_model()(**batch())
    assert nothing_left(model)


@families
def test_a_missing_task_is_told(family):
    model = mine(family)
    for call in (
        lambda: model(**batch()),
        lambda: model.generate(**batch(labels=False), **GREEDY),
        lambda: model.base_model(**batch()),
    ):
        with pytest.raises(ValueError, match="POLY needs to know the task of each row; pass task_ids"):
            call()
    assert nothing_left(model)


WRONG = {
    "one too few": (torch.tensor([0, 1]), "one task id for each of the 3 rows"),
    "one too many": (torch.tensor([0, 1, 2, 0]), "one task id for each of the 3 rows"),
    "unknown": (torch.tensor([0, 1, 3]), "from 0 to 2"),
    "negative": (torch.tensor([0, 1, -1]), "from 0 to 2"),
    "a float": (torch.tensor([0.0, 1, 2]), "must be integers"),
}


@pytest.mark.parametrize("tasks, message", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("how", ["ids", "embeddings", "positional"])
def test_wrong_tasks_are_told(tasks, message, how):
    model, given = mine("llama"), batch(labels=False)
    with pytest.raises(ValueError, match=message):
        if how == "ids":
            model(**given, task_ids=tasks)
        elif how == "positional":
            model.base_model(given["input_ids"], task_ids=tasks)
        else:
            model(inputs_embeds=model.get_input_embeddings()(given["input_ids"]), task_ids=tasks)
    assert nothing_left(model)


def test_missing_inputs_are_the_base_models_business():
    with pytest.raises(ValueError, match="input_ids or inputs_embeds"):
        mine("llama")(task_ids=TASKS)


def test_no_adapter_for_each_row():
    with pytest.raises(ValueError, match="adapter_names work with LoRA only"):
        mine("llama")(**batch(), task_ids=TASKS, adapter_names=["default"] * 3)


# --- which layers ----------------------------------------------------------------------------------------------


def test_default_targets_are_loras():
    for family in SIX:
        poly = mine(family)
        lora = ours.get_peft_model(base_model(family), our_config.LoraConfig(task_type="CAUSAL_LM"))
        assert poly.active_peft_config.target_modules == lora.active_peft_config.target_modules


def test_given_targets_are_kept():
    model = mine("llama", target_modules=["o_proj"])
    assert [n for n, m in model.named_modules() if isinstance(m, PolyLayer)] == [
        f"base_model.model.model.layers.{i}.self_attn.o_proj" for i in (0, 1)
    ]


@pytest.mark.parametrize("spelling", ["all-linear", "ALL-LINEAR"])
def test_all_linear(spelling):
    assert len(layers_of(mine("llama", target_modules=spelling))) == 14
    assert len(layers_of(mine("llama", target_modules=r".*\.1\..*q_proj"))) == 1


def test_refused_targets():
    for targets, message in {
        "embed_tokens": "is Embedding; narrow",
        "q_proj": "must divide the widths",
    }.items():
        with pytest.raises(ValueError, match=message):
            mine("llama", target_modules=[targets], n_splits=5)
    model = mine("llama", n_splits=4)
    with pytest.raises(ValueError, match="n_splits=3 must divide the widths.*32 and 16"):
        model.add_adapter("other", our_config.PolyConfig(target_modules=["v_proj"], n_splits=3))
    with pytest.raises(ValueError, match="n_splits=32 must divide"):  # the output is narrower
        mine("llama", target_modules=["v_proj"], n_splits=32)
    assert list(model.peft_config) == ["default"]


def test_experts_are_refused():
    "They are given single tokens, of any rows."

    class Mixture(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts, self.shared_experts = nn.ModuleList([nn.Linear(4, 4)]), nn.Linear(4, 4)

    PolyModel(Mixture(), {"default": our_config.PolyConfig(target_modules=["shared_experts"])}, "default")
    with pytest.raises(ValueError, match="'experts.0' is an expert"):
        PolyModel(Mixture(), {"default": our_config.PolyConfig(target_modules=["experts.0"])}, "default")


def test_widths():
    from transformers.pytorch_utils import Conv1D

    assert features(nn.Linear(3, 5)) == features(Conv1D(5, 3)) == (3, 5)


def test_repr():
    model = mine("llama")
    assert "r={'default': 3}" in repr(layers_of(model)[0])
