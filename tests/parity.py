"""What the tests of parity with Hugging Face peft share: the nine methods in all their
variants, peft's model and ours around the same weights, and what peft itself cannot do.

The order of operations is peft's, so everything is compared with `torch.equal`; no tolerance is needed anywhere
on the CPU in float32."""

from contextlib import nullcontext
from fnmatch import fnmatch

import pytest
import torch
from packaging.version import Version

import peft_viz.reference.causal_lm as ours
import peft_viz.reference.config as our_config
from small import base_model, copies, PAD, SIX, VOCABULARY

peft = pytest.importorskip("peft")
OLD_PEFT = Version(peft.__version__) < Version(
    "0.21"
)  # the lane of transformers 4; where that peft has no answer, a test says so
CLM = dict(task_type="CAUSAL_LM")
GREEDY = dict(max_new_tokens=5, do_sample=False)
TASKS = torch.tensor([1, 0, 2])  # of the three rows of a batch

METHODS = {
    "lora": ("LoraConfig", dict(r=3, lora_alpha=5)),
    "lora-dora": ("LoraConfig", dict(r=3, lora_alpha=5, use_dora=True)),
    "adalora": ("AdaLoraConfig", dict(init_r=4, target_r=2, lora_alpha=5, total_step=10)),
    "ia3": ("IA3Config", {}),
    "poly": ("PolyConfig", dict(r=3, n_tasks=3, n_skills=2, n_splits=2)),
    "prompt": ("PromptTuningConfig", dict(num_virtual_tokens=4)),
    "prefix": ("PrefixTuningConfig", dict(num_virtual_tokens=4)),
    "prefix-projection": (
        "PrefixTuningConfig",
        dict(num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=24),
    ),
    "p-tuning": ("PromptEncoderConfig", dict(num_virtual_tokens=4, encoder_hidden_size=24)),
    "p-tuning-lstm": (
        "PromptEncoderConfig",
        dict(num_virtual_tokens=4, encoder_reparameterization_type="LSTM", encoder_hidden_size=12),
    ),
    "multitask": ("MultitaskPromptTuningConfig", dict(num_virtual_tokens=4, num_tasks=3, num_ranks=2)),
    "cpt": (
        "CPTConfig",
        dict(cpt_token_ids=[11, 12, 13, 14, 15, 16], cpt_tokens_type_mask=[1, 2, 2, 3, 4, 4]),
    ),
    "cpt-decay": (
        "CPTConfig",
        dict(
            cpt_token_ids=list(range(11, 20)),
            cpt_tokens_type_mask=[0, 1, 2, 3, 4, 5, 6, 7, 8],
            opt_weighted_loss_type="decay",
            opt_loss_decay_factor=0.7,
            opt_projection_epsilon=0.9,
            opt_projection_format_epsilon=0.2,
        ),
    ),
}
INJECTED = [
    "lora",
    "lora-dora",
    "adalora",
    "ia3",
    "poly",
]  # they change layers; the others have virtual tokens
PROMPTS = [method for method in METHODS if method not in INJECTED]
everywhere = pytest.mark.parametrize("method", METHODS)
families = pytest.mark.parametrize("family", SIX)
some_families = pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])

# What peft has to be told about MPT, and we find out: set on its configuration.
MPT_SIZES = dict(num_layers=2, num_attention_heads=4, token_dim=32)
PEFT_ASKS = {
    **{(method, "mpt"): MPT_SIZES for method in PROMPTS},
    ("adalora", "mpt"): dict(target_modules={"Wqkv"}),
    ("ia3", "mpt"): dict(target_modules={"Wqkv", "down_proj"}, feedforward_modules={"down_proj"}),
}

# What peft cannot do: transformers' version, method, family, check -> what peft, or the comparison with it,
# says, and why. The checks are those of `agree`.
PEFT_FAILS = {
    ("*", "poly", "gpt2", "*"): ("Conv1D", "its POLY adapts nn.Linear only"),
    ("*", "poly", "mpt", "forward"): ("task_ids should not be None", "its branch for MPT forgets task_ids"),
    ("*", "poly", "*", "beams"): (
        "Expected size for first two dimensions",
        "generate repeats the rows for the beams, and the task ids stay as they were",
    ),
    **{
        ("4", method, "*", "positional"): (
            "sequences differ",
            "it drops positional arguments and answers to none",
        )
        for method in PROMPTS
    },
}


def peft_failure(method, family, check):
    "What peft says where it is known to fail, else None."
    case = "4" if OLD_PEFT else "5", method, family, check
    return next(
        (message for pattern, (message, why) in PEFT_FAILS.items() if all(map(fnmatch, case, pattern))), None
    )


# --- models ----------------------------------------------------------------------------------------------------


def config(package, method, family=None, **more):
    "The configuration of a method, of peft or of ours; peft's is told what it does not know of the family."
    name, fields = METHODS[method]
    made = getattr(package, name)(**{**CLM, **fields, **more})
    if package is peft:
        for field, value in PEFT_ASKS.get((method, family), {}).items():
            setattr(made, field, value)
    return made


def wrap_one(package, base, method, seed=None, adapter_name="default", **more):
    "A copy of the base model, with a new adapter."
    return wrap_this(package, copies(base)(), method, seed, adapter_name, **more)


def wrap_this(package, base, method, seed=None, adapter_name="default", **more):
    if seed is not None:
        torch.manual_seed(seed)
    get_peft_model = peft.get_peft_model if package is peft else ours.get_peft_model
    return get_peft_model(base, config(package, method, base.config.model_type, **more), adapter_name)


def wrap(base, method, seed=None, adapter_name="default", **more):
    "The same configuration around the same base model, twice: peft's model and ours."
    copied = copies(base)
    return [
        wrap_this(package, copied(), method, seed, adapter_name, **more) for package in (peft, our_config)
    ]


def randomise(model, seed=1):
    "Adapter weights that are nobody's initialisation; those that DoRA and IA3 multiply with are near one."
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if any(
            part in name for part in ("lora_", "ia3_", "prompt_encoder", "modules_to_save", "poly_router")
        ):
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator) + ("magnitude" in name)
    return model


def share_random_weights(theirs, ours_, seed=1):
    "The same random adapter weights in both."
    ours_.load_state_dict(randomise(theirs, seed).state_dict(), strict=True)
    return theirs, ours_


def pair(family, method, **more):
    return share_random_weights(*wrap(base_model(family), method, **more))


# --- calls -----------------------------------------------------------------------------------------------------


def batch(padding="none", labels=True, embed=None):
    "Three rows of seven tokens; `padding` 'none' gives no mask at all."
    torch.manual_seed(2)
    ids = torch.randint(3, VOCABULARY, (3, 7))
    result = dict(input_ids=ids)
    if padding != "none":
        mask = torch.ones_like(ids)
        if padding == "left":
            mask[0, :3] = mask[1, :1] = 0
        elif padding == "right":
            mask[0, -3:] = mask[1, -1:] = 0
        result.update(input_ids=ids.masked_fill(mask == 0, PAD), attention_mask=mask)
    if labels:
        result["labels"] = result["input_ids"].masked_fill(result["input_ids"] == PAD, -100)
    if embed is not None:
        result["inputs_embeds"] = embed(result.pop("input_ids")).detach()
    return result


def extra(method):
    "What a call needs besides the batch."
    return dict(task_ids=TASKS.clone()) if method in ("multitask", "poly") else {}


def gradients(model):
    return {
        name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None
    }


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name + " differ"


def assert_as_peft(run, one_step=None, attempts=5):
    """`run(package)`, a dictionary of tensors, is the same with peft and with ours. Returns ours.

    For what is computed backwards in bfloat16: on some processors the last bit of a gradient depends on where
    in the memory the numbers lie, and an optimizer makes much of it. If ours and peft's differ, both run again,
    elsewhere. If peft always gives the same, ours is wrong. If it does not, this machine does not repeat
    itself, and only what `one_step(package)` gives (as a rule gradients; without it, `run`) must be close."""
    theirs, kept = [], []
    for attempt in range(attempts):
        theirs.append(run(peft))
        mine = run(our_config)
        if same(theirs[-1], mine):
            return mine
        kept.append(torch.empty(997 * (attempt + 1)))
    if all(same(again, theirs[0]) for again in theirs):
        assert_equal(theirs[0], mine)
    expected, found = map(one_step or run, (peft, our_config))
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        within = 2**-5 * float(tensor.abs().max())
        torch.testing.assert_close(
            found[name], tensor, rtol=0, atol=within, msg=lambda m, n=name: f"{n}: {m}"
        )
    return mine


def same(a, b):
    "Two dictionaries of the same tensors, bit for bit."
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a
    )


def assert_repeats(method, again, before):
    "Bit for bit; but CPT, as in peft, pulls its deltas back at each call, and rounds each time."
    torch.testing.assert_close(again, before, rtol=0, atol=1e-5 if method.startswith("cpt") else 0)


def agree(family, method, check, run, **more):
    """`run(model)`, a dictionary of tensors, is the same with peft's model and with ours. Returns our model and
    its result.

    Where peft is known to fail at this check, it must fail still, and whether ours is right is for the caller
    to find out: then 'True' comes third."""
    failure = peft_failure(method, family, check)
    mine = randomise(wrap_this(our_config, base_model(family), method, **more))
    result = run(mine)
    with pytest.raises(Exception, match=failure) if failure else nullcontext():
        theirs = randomise(wrap_this(peft, base_model(family), method, **more))
        assert list(theirs.state_dict()) == list(mine.state_dict())
        assert_equal(run(theirs), result)
    return mine, result, bool(failure)
