"""Interrupted at any moment: the trace function, hooks, methods, modes and what the model answers are as before.

A hundred moments are tried here; INTERRUPTS=1000 tries as many.
"""

# lane: here

import os
import random
import signal
import sys
import time

import pytest
import torch
from torch.overrides import _get_current_function_mode_stack as modes

import peft_viz as ours
from peft_viz import record, tiny_random
from peft_viz.recording.calls import HERE

MANY = int(os.environ.get("INTERRUPTS", 100))
IDS = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])
CLM = dict(task_type="CAUSAL_LM")
CONFIGS = [
    ours.LoraConfig(**CLM, init_lora_weights=False),
    ours.PrefixTuningConfig(**CLM, num_virtual_tokens=2),
    ours.CPTConfig(**CLM, cpt_token_ids=[4, 5], cpt_tokens_type_mask=[1, 4]),
]


class Moments:
    "Raises KeyboardInterrupt once, at a random moment of a run."

    def __init__(self, seed):
        self.rng, self.armed = random.Random(seed), False

    def strike(self, *_):
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt

    def run(self, go, seconds):
        self.armed = True
        try:
            signal.setitimer(signal.ITIMER_REAL, self.rng.uniform(0.0005, seconds))
            go()
        except KeyboardInterrupt:
            return True
        finally:
            self.armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        return False


@pytest.fixture
def moments():
    "SIGALRM is ours for a while. (Python cannot raise an interrupt in a finaliser; it reports it, and goes on.)"
    found, before, hook = Moments(0), None, sys.unraisablehook
    before = signal.signal(signal.SIGALRM, found.strike)
    sys.unraisablehook = lambda *_: None
    yield found
    signal.signal(signal.SIGALRM, before)
    sys.unraisablehook = hook


def state(model):
    "What an interrupt could leave behind."
    base = model.get_base_model()
    hooks = [(n, tuple(m._forward_hooks), tuple(m._forward_pre_hooks)) for n, m in model.named_modules()]
    own = sorted((name, id(value)) for obj in (model, base) for name, value in vars(obj).items())
    doors = [vars(type(obj)).get(name) for obj in (model, base) for name in ("forward", "generate")]
    return sys.gettrace(), len(modes()), HERE.tracer.sessions, HERE.tracer.compiling, hooks, own, doors


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.peft_type.value)
def test_interrupted_at_any_moment(config, moments):
    torch.manual_seed(0)
    model = ours.get_peft_model(tiny_random("llama"), config).eval()
    generate = lambda: model.generate(input_ids=IDS, max_new_tokens=4, do_sample=False)

    def go():
        with record(model, layers=1):
            generate()

    right = generate()
    go()
    begun = time.perf_counter()
    go()
    seconds, before, struck = time.perf_counter() - begun, state(model), 0
    for _ in range(MANY // len(CONFIGS)):
        struck += moments.run(go, seconds)
        assert state(model) == before
        assert torch.equal(generate(), right)
    assert struck > MANY / len(CONFIGS) / 4
