"""AdaLoRA gives what Hugging Face peft gives, bit for bit: the start, the loss with its penalty, logits,
gradients and texts, and every parameter at every step of a training through all three phases.

Where peft itself goes wrong, a test says so and asserts what is right. What all methods share (forward,
gradients, ways to generate) is in test_parity."""
# lane: reference

import copy

import pytest
import torch
from torch import nn

import peft_viz.reference.causal_lm as ours
import peft_viz.reference.config as our_config
from peft_viz.reference.methods.adalora import adalora_layers, AdaLoraLayer, AdaLoraModel, layer_name
from parity import assert_as_peft, assert_equal, base_model, batch, families, gradients, OLD_PEFT

pytestmark = pytest.mark.usefixtures("quiet_and_single")

peft = pytest.importorskip("peft")
# steps 1 to 3 are the first phase, 4, 6 and 8 prune, from 9 on the ranks stay
FIELDS = dict(
    task_type="CAUSAL_LM",
    init_r=4,
    target_r=2,
    lora_alpha=3,
    tinit=3,
    tfinal=4,
    deltaT=2,
    total_step=12,
    orth_reg_weight=0.2,
)
STEPS = range(1, 13)
GREEDY = dict(max_new_tokens=6, do_sample=False)


def config(package, family="llama", **more):
    by_hand = dict(target_modules=["Wqkv"]) if family == "mpt" else {}  # peft knows no default
    return package.AdaLoraConfig(**{**FIELDS, **by_hand, **more})


def wrap_one(package, family="llama", seed=None, dtype=None, autocast=True, **more):
    base = base_model(family).to(dtype)
    get_peft_model = peft.get_peft_model if package is peft else ours.get_peft_model
    if seed is not None:
        torch.manual_seed(seed)
    return get_peft_model(base, config(package, family, **more), autocast_adapter_dtype=autocast)


def wrap(family="llama", **more):
    "The same configuration around the same base model, twice: peft's model and ours."
    return [wrap_one(package, family, **more) for package in (peft, our_config)]


def share_random_weights(theirs, ours_, seed=1):
    "Adapter weights that are nobody's initialisation, the same in both."
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    ours_.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours_


def pair(family="llama", **more):
    return share_random_weights(*wrap(family, **more))


def ours_alone(family="llama", seed=3, **more):
    base = base_model(family)
    torch.manual_seed(seed)
    return ours.get_peft_model(base, config(our_config, family, **more))


def parameters(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def train(model, steps=STEPS, lr=0.05, each=lambda step, loss: None):
    "Examples, one batch over and over; `each` is called before the gradients are dropped."
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    model.train()
    for step in steps:
        torch.manual_seed(step)  # dropout
        loss = model(**batch("left")).loss
        loss.backward()
        optimizer.step()
        model.base_model.update_and_allocate(step)
        each(step, loss)
        optimizer.zero_grad()
    return model


def alive(model, adapter_name="default"):
    "Singular values that are not zero, by layer."
    return {
        name: layer.lora_E[adapter_name].count_nonzero().item()
        for name, layer in adalora_layers(model.base_model.model, adapter_name).items()
    }


# --- the same as peft ------------------------------------------------------------------------------------------


@families
@pytest.mark.parametrize(
    "settings",
    [{}, dict(init_lora_weights=False, inference_mode=True)],
    ids=["default", "random, for inference"],
)
def test_same_names_and_start(family, settings):
    theirs, ours_ = wrap(family, seed=3, **settings)
    assert [(n, p.shape, p.requires_grad) for n, p in theirs.named_parameters()] == [
        (n, p.shape, p.requires_grad) for n, p in ours_.named_parameters()
    ]
    assert list(theirs.state_dict()) == list(ours_.state_dict())
    assert_equal(dict(theirs.named_parameters()), dict(ours_.named_parameters()))
    assert theirs.get_nb_trainable_parameters() == ours_.get_nb_trainable_parameters()
    assert theirs.peft_config["default"].target_modules == ours_.peft_config["default"].target_modules


@families
def test_the_start_is_the_base_model(family):
    assert torch.equal(ours_alone(family)(**batch("left")).logits, base_model(family)(**batch("left")).logits)


def training(model, steps=STEPS):
    "Everything after every step: loss, gradients, parameters, what the allocator observed, what it decided."
    history, allocator = [], model.base_model.rankallocator

    def each(_, loss):
        history.append(
            dict(
                loss=dict(loss=loss.detach()),
                gradients=gradients(model),
                parameters=parameters(model),
                ipt=dict(allocator.exp_avg_ipt),
                unc=dict(allocator.exp_avg_unc),
                pattern=copy.copy(model.peft_config["default"].rank_pattern),
            )
        )

    train(model, steps, each=each)
    return history


def flat(history):
    "One dictionary of all tensors."
    return {
        f"step {step} {kind} {name}": torch.as_tensor(tensor)
        for step, entry in enumerate(history, start=1)
        for kind, tensors in entry.items()
        for name, tensor in (tensors or {}).items()
    }


def assert_same_training(theirs, ours_):
    histories = [training(model) for model in (theirs, ours_)]
    assert_equal(*map(flat, histories))
    return histories[1]


@families
def test_a_whole_training(family):
    theirs, ours_ = wrap(family, seed=3)
    history = assert_same_training(theirs, ours_)
    patterns = [step["pattern"] for step in history]
    assert patterns[2] is None and patterns[3] == patterns[4] != patterns[5] and patterns[7] == patterns[11]
    assert history[6]["ipt"] and not history[7]["ipt"]  # forgotten when all is decided
    assert {layer_name(k, "default"): sum(v) for k, v in patterns[-1].items()} == alive(ours_)
    assert sum(alive(ours_).values()) == 2 * len(alive(ours_))
    for model in theirs.eval(), ours_.eval():
        model.update_and_allocate(13)  # reachable from the outside too
    a, b = [model(**batch("left")) for model in (theirs, ours_)]
    assert torch.equal(a.loss, b.loss) and torch.equal(a.logits, b.logits)
    assert torch.equal(
        *[model.generate(**batch("left", labels=False), **GREEDY) for model in (theirs, ours_)]
    )
    with theirs.disable_adapter(), ours_.disable_adapter():
        assert torch.equal(theirs(**batch("left")).logits, ours_(**batch("left")).logits)
        assert torch.equal(base_model(family)(**batch("left")).logits, ours_(**batch("left")).logits)
    assert not torch.equal(base_model(family)(**batch("left")).logits, b.logits)


SETTINGS = {
    "at every step, dropout": dict(deltaT=1, lora_dropout=0.3),
    "no alpha, random start, smoothing": dict(lora_alpha=0, init_lora_weights=False, beta1=0.5, beta2=0.99),
    "no phases, negative alpha": dict(tinit=0, tfinal=0, lora_alpha=-1, init_r=7, deltaT=7),
    "one is left, all linear": dict(target_r=1, init_r=7, target_modules="All-Linear"),
    "bias all, regular expression": dict(bias="all", target_modules=r".*\.1\..*(q_proj|fc1)"),
    "bias lora_only, modules to save": dict(
        bias="lora_only", modules_to_save=["lm_head"], target_modules=["k_proj"]
    ),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings(setting):
    family = "opt" if setting.startswith("bias") else "llama"
    theirs, ours_ = wrap(family, seed=3, **SETTINGS[setting])
    assert [p.requires_grad for p in theirs.parameters()] == [p.requires_grad for p in ours_.parameters()]
    history = assert_same_training(theirs, ours_)
    pattern = history[-1]["pattern"].values()
    assert sum(sum(p) for p in pattern) == ours_.peft_config["default"].target_r * len(pattern)


@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16(autocast):
    "New peft makes the divisor, which no checkpoint holds, a trained parameter then."
    theirs, ours_ = wrap(seed=3, dtype=torch.bfloat16, autocast=autocast)
    assert [p.dtype for p in theirs.parameters()] == [p.dtype for p in ours_.parameters()]
    divisors = [p for n, p in theirs.named_parameters() if "ranknum" in n]
    assert all(p.requires_grad != OLD_PEFT for p in divisors) and not any(
        p.requires_grad for n, p in ours_.named_parameters() if "lora_" not in n
    )
    assert {p.dtype for n, p in ours_.named_parameters() if "lora_" in n or "ranknum" in n} == {
        torch.float32 if autocast else torch.bfloat16
    }
    assert_equal(dict(theirs.named_parameters()), dict(ours_.named_parameters()))

    def run(package, steps=STEPS):
        model = wrap_one(package, seed=3, dtype=torch.bfloat16, autocast=autocast)
        for name, p in model.named_parameters():
            p.requires_grad_(p.requires_grad and "ranknum" not in name)
        history = flat(training(model, steps))
        output = model.eval()(**batch("left"))
        return dict(history, logits=output.logits.detach(), final_loss=output.loss.detach())

    def one_step(package):
        return {name: tensor for name, tensor in run(package, STEPS[:1]).items() if "gradients" in name}

    assert_as_peft(run, one_step)


def test_the_loss_keeps_its_type():
    "A bfloat16 loss plus a float32 penalty stays bfloat16, as peft's in-place sum does."

    class Base(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4, dtype=torch.bfloat16)

        def forward(self, x):
            return ours_output(loss=self.linear(x).mean())

    from transformers.modeling_outputs import CausalLMOutput as ours_output

    tuner = AdaLoraModel(Base(), {"default": config(our_config, target_modules=["linear"])}, "default")
    tuner.cast_adapter_dtype("default")
    loss = tuner(torch.ones(2, 4, dtype=torch.bfloat16)).loss
    assert tuner.orthogonality("default").dtype == torch.float32 and loss.dtype == torch.bfloat16


@families
@pytest.mark.parametrize("safe_merge", [False, True])
def test_merge(family, safe_merge):
    theirs, ours_ = pair(family)
    before = ours_.eval()(**batch("left"))
    for model in theirs.eval(), ours_:
        model.merge_adapter(safe_merge=safe_merge)
    assert_equal(parameters(theirs), parameters(ours_))
    a, b = [model(**batch("left")) for model in (theirs, ours_)]
    assert torch.equal(a.logits, b.logits) and torch.equal(a.loss, b.loss)
    torch.testing.assert_close(b.logits, before.logits, rtol=1e-4, atol=1e-4)
    for model in theirs, ours_:
        model.unmerge_adapter()
    assert_equal(parameters(theirs), parameters(ours_))
    assert_equal(theirs.merge_and_unload().state_dict(), ours_.merge_and_unload().state_dict())


def test_two_adapters():
    theirs, ours_ = wrap()
    for model, package in (theirs, peft), (ours_, our_config):
        model.add_adapter(
            "other", config(package, init_r=3, inference_mode=True, target_modules=["q_proj", "up_proj"])
        )
        model.set_adapter("default")
    assert [(n, p.requires_grad) for n, p in theirs.named_parameters()] == [
        (n, p.requires_grad) for n, p in ours_.named_parameters()
    ]
    share_random_weights(theirs, ours_)
    outputs = {}
    for name in "default", "other", ["default", "other"], "default":
        for model in theirs, ours_:
            model.base_model.set_adapter(name)
        a, b = theirs(**batch("left")), ours_(**batch("left"))
        assert torch.equal(a.logits, b.logits) and torch.equal(a.loss, b.loss)
        assert torch.equal(outputs.setdefault(str(name), b.logits), b.logits)
    assert len({str(o) for o in outputs.values()}) == 3
    assert_same_training(theirs, ours_)
    for model in theirs, ours_:
        model.delete_adapter("other")
    assert list(theirs.state_dict()) == list(ours_.state_dict())
    assert all(
        "other" not in getattr(layer, a)
        for layer in adalora_layers(ours_.base_model.model, "default").values()
        for a in layer.adapter_layer_names + layer.other_param_names
    )


def test_without_labels_and_without_return_dict():
    theirs, ours_ = pair()
    assert ours_(**batch(labels=False)).loss is None
    a, b = [model(**batch(), return_dict=False) for model in (theirs, ours_)]
    assert torch.equal(a[0], b[0]) and torch.equal(
        a[1], b[1]
    )  # a tuple has no place called loss: no penalty, in peft as here


@pytest.mark.parametrize(
    "fields",
    [
        {},
        dict(tinit=0, tfinal=0),
        dict(deltaT=1, init_r=9, target_r=1),
        dict(deltaT=5, total_step=30),
        dict(target_r=4),
    ],
)
def test_budget_schedule(fields):
    theirs, ours_ = [model.base_model.rankallocator for model in wrap(**fields)]
    assert (theirs.init_bgt, theirs.target_bgt) == (ours_.init_bgt, ours_.target_bgt)
    assert [theirs.budget_schedule(step) for step in range(35)] == [
        ours_.budget_schedule(step) for step in range(35)
    ]


def test_the_layer_is_its_weight():
    for base in nn.Linear(6, 4), __import__("transformers").pytorch_utils.Conv1D(4, 6):
        layer = AdaLoraLayer(base)
        layer.update_layer("default", config(our_config, init_lora_weights=False), "layer")
        layer.set_adapter(["default"])
        x, weight = torch.randn(5, 6), base.weight if isinstance(base, nn.Linear) else base.weight.T
        delta = layer.get_delta_weight("default")
        assert delta.shape == base.weight.shape and not delta.requires_grad
        delta = delta if isinstance(base, nn.Linear) else delta.T
        torch.testing.assert_close(layer(x), x @ (weight + delta).T + base.bias)
        assert repr(layer).startswith("AdaLoraLayer(\n  r={'default': 4}, scaling={'default': 3}")


# --- the penalty -------------------------------------------------------------------------------------------------


def test_the_penalty_is_the_papers():
    _, model = pair()
    norms = []
    for layer in adalora_layers(model.base_model.model, "default").values():
        P, Q = layer.lora_B["default"], layer.lora_A["default"]
        norms += [torch.dist(P.T @ P, torch.eye(4)), torch.dist(Q @ Q.T, torch.eye(4))]
    torch.testing.assert_close(model.base_model.orthogonality("default"), torch.stack(norms).mean())
    penalty = model(**batch()).loss - model.base_model.model(**batch()).loss
    torch.testing.assert_close(penalty, 0.2 * torch.stack(norms).mean())


def test_no_penalty():
    "Old peft refuses a weight of 0 at the first loss."
    if not OLD_PEFT:
        theirs, ours_ = wrap(seed=3, orth_reg_weight=0)
        assert_same_training(theirs, ours_)
    model = ours_alone(orth_reg_weight=0)
    assert torch.equal(model(**batch()).loss, base_model("llama")(**batch()).loss)


def test_switched_off_there_is_no_penalty():
    "peft adds the penalty to the base model's loss as well."
    base = base_model("llama")(**batch())
    theirs, ours_ = pair()
    with theirs.disable_adapter(), ours_.disable_adapter():
        a, b = theirs(**batch()), ours_(**batch())
        assert torch.equal(a.logits, b.logits) and torch.equal(b.logits, base.logits)
        assert torch.equal(b.loss, base.loss) and a.loss > base.loss + 0.1
        assert ours_.base_model.orthogonality("default") == 0


def test_for_inference_there_is_no_penalty():
    "peft cannot compute a loss then: it looks for the adapter that is trained."
    theirs, ours_ = pair(inference_mode=True)
    with pytest.raises(AttributeError, match="trainable_adapter_name"):
        theirs(**batch())
    output = ours_(**batch())
    assert torch.equal(output.logits, theirs(**batch(labels=False)).logits)
    assert torch.equal(output.loss, ours_.base_model.model(**batch()).loss)
    assert ours_.base_model.trainable_adapter_name is None
    with pytest.raises(ValueError, match="all adapters are for inference"):
        ours_.update_and_allocate(1)


# --- several adapters, where peft goes wrong ----------------------------------------------------------------------


def test_one_adapter_is_trained():
    theirs, ours_ = wrap()
    for model, package, message in (
        (theirs, peft, "only 1 trainable adapter"),
        (ours_, our_config, "default and second are to be trained; set inference_mode=True"),
    ):
        with pytest.raises(ValueError, match=message):
            model.add_adapter("second", config(package))
        assert list(model.peft_config) == ["default"] and not any("second" in n for n in model.state_dict())


def test_the_second_adapter_is_trained():
    "peft makes an allocator for the first adapter only; training a later one fails."
    theirs, ours_ = wrap(inference_mode=True)
    for model, package in (theirs, peft), (ours_, our_config):
        model.add_adapter("late", config(package))
        model.set_adapter("late")
    with pytest.raises(AttributeError, match="trainable_adapter_name"):
        theirs(**batch())
    assert ours_.base_model.trainable_adapter_name == ours_.base_model.rankallocator.adapter_name == "late"
    train(ours_)
    assert sum(alive(ours_, "late").values()) == 2 * len(alive(ours_, "late"))
    assert set(ours_.peft_config["late"].rank_pattern) == {
        f"{name}.lora_E.late" for name in alive(ours_, "late")
    }
    assert ours_.peft_config["default"].rank_pattern is None


def test_an_adapter_for_inference_leaves_the_allocator_alone():
    model = ours_alone()
    allocator = model.base_model.rankallocator
    model.add_adapter("other", config(our_config, inference_mode=True))
    assert model.base_model.rankallocator is allocator


@pytest.mark.parametrize("other", ["default2", "q_proj"])
def test_names_within_names(other):
    "peft looks for an adapter's parameters by a part of their names."
    theirs, ours_ = wrap(seed=3)
    alone = ours_alone()
    for model, package in (theirs, peft), (ours_, our_config):
        model.add_adapter(other, config(package, inference_mode=True))
        model.set_adapter("default")
    if other == "default2":
        with pytest.raises((TypeError, RuntimeError, KeyError)):
            train(theirs)
    train(ours_), train(alone)
    assert ours_.peft_config["default"].rank_pattern == alone.peft_config["default"].rank_pattern
    assert_equal(
        {
            n: p
            for n, p in parameters(ours_).items()
            if f".{other}" not in n or other == "q_proj" and not n.endswith(other)
        },
        parameters(alone),
    )


def test_the_trained_adapter_is_deleted():
    "peft looks for it all the same at the next loss."
    theirs, ours_ = wrap()
    for model, package in (theirs, peft), (ours_, our_config):
        model.add_adapter("other", config(package, inference_mode=True))
        model.delete_adapter("default")
    with pytest.raises(KeyError):
        theirs(**batch())
    assert torch.isfinite(ours_(**batch()).loss)
    ours_.add_adapter("new", config(our_config))
    ours_.set_adapter("new")
    train(ours_)
    assert sum(alive(ours_, "new").values()) == 2 * len(alive(ours_, "new"))


# --- pruning, where peft goes wrong --------------------------------------------------------------------------------


def test_nothing_to_prune():
    "peft looks for the 0th smallest importance and fails."
    theirs, ours_ = wrap(seed=3, target_r=4)
    with pytest.raises(RuntimeError, match="kthvalue"):
        train(theirs)
    train(ours_)
    assert set(alive(ours_).values()) == {4} and all(
        all(p) for p in ours_.peft_config["default"].rank_pattern.values()
    )


def test_called_for_the_first_time_when_all_has_to_be_decided():
    "peft has no importance yet and fails; the gradients of this one step are better than none."
    theirs, ours_ = wrap(seed=3)
    with pytest.raises(KeyError):
        train(theirs, steps=[8])
    train(ours_, steps=[8])
    assert sum(alive(ours_).values()) == 2 * len(alive(ours_))


def test_called_for_the_first_time_when_all_should_have_been_decided():
    theirs, ours_ = wrap(seed=3)
    with pytest.raises(AttributeError):
        train(theirs, steps=[9])
    pruned = []
    train(
        ours_,
        steps=[9, 10, 11],
        each=lambda step, loss: pruned.append(ours_.peft_config["default"].rank_pattern),
    )
    assert sum(alive(ours_).values()) == 2 * len(alive(ours_)) and pruned[0] == pruned[1] == pruned[2]
    assert not ours_.base_model.rankallocator.exp_avg_ipt


def test_what_is_pruned_stays_pruned_at_the_end():
    model = train(ours_alone())
    pattern = model.peft_config["default"].rank_pattern
    for layer in adalora_layers(model.base_model.model, "default").values():
        nn.init.ones_(layer.lora_E["default"])
    model.update_and_allocate(13)
    for name, layer in adalora_layers(model.base_model.model, "default").items():
        assert layer.lora_E["default"].flatten().bool().tolist() == pattern[f"{name}.lora_E.default"]


def test_the_most_important_stay():
    model = ours_alone(target_modules=["q_proj"])
    allocator, layers = model.base_model.rankallocator, adalora_layers(model.base_model.model, "default")
    score = {
        "model.layers.0.self_attn.q_proj": [3.0, 1.0, 8.0, 2.0],
        "model.layers.1.self_attn.q_proj": [4.0, 7.0, 5.0, 6.0],
    }
    for name, layer in layers.items():
        nn.init.ones_(layer.lora_E["default"])
        for part, dim in ("lora_A", 0), ("lora_B", 1), ("lora_E", 0):
            p = getattr(layer, part)["default"]
            shape = (4, 1) if dim == 0 else (1, 4)
            allocator.exp_avg_ipt[f"{name}.{part}.default"] = (
                torch.tensor(score[name]).view(shape).expand(p.shape).clone()
            )
            allocator.exp_avg_unc[f"{name}.{part}.default"] = torch.ones_like(p)
        assert allocator.triplet_ipt(name).tolist() == [3 * s for s in score[name]]
    for budget, first_layer in (
        (8, [True] * 4),
        (7, [True, False, True, True]),
        (5, [False, False, True, False]),
    ):
        pattern = allocator.mask_to_budget(model.base_model.model, budget)
        assert list(pattern.values()) == [first_layer, [True, True, True, True]]
        assert [layer.lora_E["default"].flatten().bool().tolist() for layer in layers.values()] == list(
            pattern.values()
        )


def test_without_gradients():
    theirs, ours_ = wrap()
    with pytest.raises(TypeError):
        theirs.base_model.update_and_allocate(1)
    with pytest.raises(
        ValueError,
        match=r"'default' has no gradients.*after loss.backward\(\) and before optimizer.zero_grad\(\)",
    ):
        ours_.update_and_allocate(1)


def test_a_layer_that_took_no_part():
    "An expert that no token chose has no gradients; in peft that ends the training."

    def drop(model):
        model(**batch()).loss.backward()
        for name, p in model.named_parameters():
            if "layers.1.self_attn.q_proj" in name:
                p.grad = None
        model.base_model.update_and_allocate(1)
        return {n: m for n, m in model.base_model.rankallocator.exp_avg_ipt.items()}

    theirs, ours_ = pair()
    with pytest.raises(TypeError):
        drop(theirs)
    observed = drop(ours_)
    assert {n: bool(m.any()) for n, m in observed.items()} == {
        n: "layers.1.self_attn.q_proj" not in n for n in observed
    }


# --- checkpoints: layers that became smaller ------------------------------------------------------------------------


def state_of(model, adapter_name="default"):
    return {n: p for n, p in model.state_dict().items() if "lora_" in n and n.endswith(f".{adapter_name}")}


def cut(model, adapter_name="default"):
    return model.base_model.resize_state_dict_by_rank_pattern(
        model.peft_config[adapter_name].rank_pattern, state_of(model, adapter_name), adapter_name
    )


def reopened(model, inference_mode=True):
    "What loading a checkpoint amounts to: the configuration, layers of the right size, the values."
    saved = {
        layer_name(k, "default") + ".lora_E": v for k, v in model.peft_config["default"].rank_pattern.items()
    }
    again = ours_alone(seed=8, rank_pattern=saved, inference_mode=inference_mode)
    again.base_model.resize_modules_by_rank_pattern(saved, "default")
    result = again.load_state_dict(cut(model), strict=False)
    assert not result.unexpected_keys
    return again


@pytest.mark.parametrize("steps", [4, 12])
def test_what_peft_saves_and_loads(tmp_path, steps):
    theirs, ours_ = [train(model, steps=range(1, steps + 1)) for model in wrap(seed=3)]
    from safetensors.torch import load_file

    state = cut(ours_)
    assert all(t.is_contiguous() for t in state.values())
    theirs.save_pretrained(tmp_path)
    assert_equal(
        load_file(tmp_path / "adapter_model.safetensors"),
        {n.removesuffix(".default"): p for n, p in sorted(state.items())},
    )
    loaded = peft.PeftModel.from_pretrained(base_model("llama"), tmp_path).eval()
    again = reopened(ours_).eval()
    assert {n: p.shape for n, p in loaded.named_parameters() if "lora_" in n} == {
        n: p.shape for n, p in again.named_parameters() if "lora_" in n
    }
    assert not any(p.requires_grad for p in again.parameters())
    assert (
        any(p.requires_grad for p in loaded.parameters()) == OLD_PEFT
    )  # which trains what it resized, although it is for inference
    with torch.no_grad():
        assert torch.equal(
            loaded(**batch("left", labels=False)).logits, again(**batch("left", labels=False)).logits
        )
        if steps == 12:  # before that, pruned values may have moved again since
            torch.testing.assert_close(again(**batch("left")).logits, ours_.eval()(**batch("left")).logits)
    assert {
        layer_name(k, "default"): sum(v) for k, v in ours_.peft_config["default"].rank_pattern.items()
    } == {n: layer.r["default"] for n, layer in adalora_layers(again.base_model.model, "default").items()}
    with pytest.raises((IndexError, RuntimeError)):
        loaded.load_adapter(tmp_path, "default")  # peft cannot load the same thing twice
    before = parameters(again)
    again.base_model.resize_modules_by_rank_pattern(again.peft_config["default"].rank_pattern, "default")
    assert_equal(before, parameters(again))


@pytest.mark.parametrize("saved, failure", [(4, None), (7, KeyError), (8, RuntimeError), (10, RuntimeError)])
def test_training_goes_on_after_loading(tmp_path, saved, failure):
    "In peft it does not: the allocator still counts on the layers' first size, and prunes too much or fails."
    theirs, ours_ = [train(model, steps=range(1, saved + 1)) for model in wrap(seed=3)]
    theirs.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(base_model("llama"), tmp_path, is_trainable=True)
    if failure:
        with pytest.raises(failure):
            train(loaded, steps=range(saved + 1, 13))
    else:
        train(loaded, steps=range(saved + 1, 13))
        assert sum(p.count_nonzero().item() for n, p in loaded.named_parameters() if "lora_E" in n) < 8
    again = reopened(ours_, inference_mode=False)
    before = ours_.peft_config["default"].rank_pattern
    train(again, steps=range(saved + 1, 13))
    after = again.peft_config["default"].rank_pattern
    assert sum(alive(again).values()) == 2 * len(alive(again)) == sum(sum(p) for p in after.values())
    for key, pattern in after.items():
        earlier = before[layer_name(key, "default") + ".lora_E.default"]
        assert len(pattern) == len(earlier) == 4 and all(e or not p for p, e in zip(pattern, earlier))
    if saved >= 8:
        assert [*after.values()] == [*before.values()]
    twice = reopened(again)
    assert {n: p.shape[0] for n, p in state_of(twice).items() if "lora_E" in n} == {
        f"base_model.model.{n}.lora_E.default": k for n, k in alive(again).items()
    }
    torch.testing.assert_close(twice.eval()(**batch("left")).logits, again.eval()(**batch("left")).logits)


def test_loading_next_to_a_bfloat16_base(tmp_path):
    "peft makes the smaller layers in the base model's type, which rounds what it loads, and only then widens them."
    from safetensors.torch import load_file

    train(ours_alone()).save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    theirs = peft.PeftModel.from_pretrained(base_model("llama").bfloat16(), tmp_path)
    ours_ = ours.PeftModelForCausalLM.from_pretrained(base_model("llama").bfloat16(), tmp_path)
    assert_equal({n.removesuffix(".default"): p for n, p in sorted(state_of(ours_).items())}, saved)
    assert_equal(
        {n.removesuffix(".default"): p for n, p in sorted(state_of(theirs).items())},
        {n: p.bfloat16().float() for n, p in saved.items()},
    )
    assert not all(torch.equal(p, p.bfloat16().float()) for p in saved.values())


def test_another_checkpoint_into_the_same_layers():
    "What was cut off comes back as zeros, for the checkpoint to fill."
    _, model = pair(target_modules=["q_proj"])
    name = "model.layers.0.self_attn.q_proj"
    layer = adalora_layers(model.base_model.model, "default")[name]
    full = {part: getattr(layer, part)["default"].detach().clone() for part in ("lora_A", "lora_B", "lora_E")}
    model.base_model.resize_modules_by_rank_pattern({f"{name}.lora_E": [True, False, True, False]}, "default")
    assert torch.equal(layer.lora_A["default"], full["lora_A"][[0, 2]]) and torch.equal(
        layer.lora_E["default"], full["lora_E"][[0, 2]]
    )
    assert torch.equal(layer.lora_B["default"], full["lora_B"][:, [0, 2]])
    model.base_model.resize_modules_by_rank_pattern(
        {f"{name}.lora_E.default": torch.tensor([False, True, True, True])}, "default"
    )
    assert torch.equal(
        layer.lora_E["default"], torch.stack((torch.zeros(1), full["lora_E"][2], torch.zeros(1)))
    )
    assert (
        layer.r["default"] == 3
        and layer.lora_B["default"].shape[1] == 3
        and layer.lora_E["default"].requires_grad
    )
    assert layer.ranknum["default"].item() == 4  # the scale stays


def test_a_layer_that_lost_everything():
    _, model = pair(target_modules=["q_proj", "v_proj"])
    name = "model.layers.0.self_attn.q_proj"
    layer = adalora_layers(model.base_model.model, "default")[name]
    nn.init.zeros_(layer.lora_E["default"])
    before = model(**batch()).logits
    model.base_model.resize_modules_by_rank_pattern({f"{name}.lora_E": [False] * 4}, "default")
    assert layer.lora_A["default"].shape == (0, 32) and not layer.get_delta_weight("default").any()
    assert torch.equal(model(**batch()).logits, before)
    train(model, steps=range(1, 9))
    assert (
        layer.r["default"] == 0
        and model.peft_config["default"].rank_pattern[f"{name}.lora_E.default"] == [False] * 4
    )


def test_loading_forgets_what_was_observed():
    model = train(ours_alone(), steps=range(1, 5))
    assert model.base_model.rankallocator.exp_avg_ipt
    model.add_adapter("other", config(our_config, inference_mode=True))
    pattern = {"model.layers.0.self_attn.q_proj.lora_E": [True, True, True, False]}
    model.base_model.resize_modules_by_rank_pattern(pattern, "other")
    assert model.base_model.rankallocator.exp_avg_ipt
    model.base_model.resize_modules_by_rank_pattern(pattern, "default")
    assert not model.base_model.rankallocator.exp_avg_ipt


@pytest.mark.parametrize(
    "key, adapter_name",
    [
        ("h.0.c_attn.lora_E.default", "default"),
        ("h.0.c_attn.lora_E", "default"),
        ("h.0.c_attn.lora_E.c_attn", "c_attn"),
        ("h.0.c_attn.lora_E", "c_attn"),
    ],
)
def test_layer_names(key, adapter_name):
    "peft takes the adapter's name out wherever it stands."
    assert layer_name(key, adapter_name) == "h.0.c_attn"


@pytest.mark.parametrize(
    "pattern, message",
    [
        (
            {"model.layers.7.self_attn.q_proj.lora_E": [True] * 4},
            "speaks of 'model.layers.7.self_attn.q_proj.lora_E', but adapter "
            "'default' has no such layer; its target_modules must be",
        ),
        (
            {"model.layers.0.self_attn.q_proj.lora_E": [True] * 6},
            "a rank pattern for 6 triplets does not fit a layer that began with 4; init_r must be",
        ),
    ],
)
def test_patterns_that_do_not_fit(pattern, message):
    model = ours_alone()
    before = parameters(model)
    with pytest.raises(ValueError, match=message):
        model.base_model.resize_modules_by_rank_pattern(pattern, "default")
    with pytest.raises(ValueError, match=message):
        model.base_model.resize_state_dict_by_rank_pattern(pattern, state_of(model), "default")
    assert_equal(before, parameters(model))


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(beta1=0), "beta1=0; it must be a number between 0 and 1"),
        (dict(beta1=1.0), "beta1=1.0"),
        (dict(beta2=1.5), "beta2=1.5"),
        (dict(beta2=0.0), "beta2=0.0"),
        (
            dict(target_modules=["embed_tokens"]),
            "AdaLoRA adapts nn.Linear and transformers' Conv1D, but the target 'model.embed_tokens' is Embedding",
        ),
    ],
)
def test_settings_that_do_not_fit(fields, message):
    base = base_model("llama")
    with pytest.raises(ValueError, match=message):
        ours.get_peft_model(base, config(our_config, **fields))
    assert all(p.requires_grad for p in base.parameters()) and not any(
        isinstance(m, AdaLoraLayer) for m in base.modules()
    )


def test_default_targets_where_peft_has_none():
    with pytest.raises(ValueError, match="target_modules"):
        peft.get_peft_model(base_model("mpt"), peft.AdaLoraConfig(**FIELDS))
    model = ours.get_peft_model(base_model("mpt"), our_config.AdaLoraConfig(**FIELDS))
    assert (
        model.peft_config["default"].target_modules == {"Wqkv"}
        and len(adalora_layers(model.base_model.model, "default")) == 2
    )


def test_no_adapter_for_each_row():
    model = ours_alone().eval()
    with pytest.raises(ValueError, match="AdaLoraModel cannot give each row an adapter of its own"):
        model(**batch(), adapter_names=["default"] * 3)
