"Settings of the process that are changed for a moment: what holds within the block, and what is there after it."

import io, subprocess, sys, threading
import pytest, torch
from tqdm.auto import tqdm as auto
from tqdm.std import tqdm
from transformers.utils import logging
from peft_viz.zoo.models import load_tiny
from peft_viz.zoo.settings import SMALL, few_threads, quiet
from peft_viz.zoo.letters import answers_of, learn
from peft_viz.views.widgets import Bench


def elsewhere(function):
    "What a function returns in a thread of its own."
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


@pytest.fixture
def three():
    "torch computes with three threads, here and in threads that start from now on."
    found = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert (torch.get_num_threads(), elsewhere(torch.get_num_threads)) == (3, 3)  # whatever the test did
    torch.set_num_threads(found)


class Large(torch.nn.Module):
    "A model with many parameters, and none of them in memory."

    def __init__(self, parameters):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(parameters, device="meta"))


# ---- threads


@pytest.mark.usefixtures("three")
def test_one_thread_within_and_the_same_number_afterwards():
    with few_threads():
        assert torch.get_num_threads() == 1
        with few_threads():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_puts_the_number_back(error):
    with pytest.raises(error), few_threads():
        raise error


@pytest.mark.usefixtures("three")
def test_other_threads_keep_their_number_and_may_be_in_such_blocks_themselves():
    entered, leave, seen = threading.Event(), threading.Event(), []

    def other():
        seen.append(torch.get_num_threads())
        with few_threads():
            seen.append(torch.get_num_threads())
            entered.set()
            leave.wait(10)
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=other)
    with few_threads():
        thread.start()
        assert entered.wait(10)
    assert torch.get_num_threads() == 3  # this block ended while the other one had not
    leave.set()
    thread.join()
    assert seen == [3, 1, 3]


@pytest.mark.usefixtures("three")
def test_a_large_model_is_left_alone():
    with few_threads(Large(SMALL)):
        assert torch.get_num_threads() == 3
    with few_threads(Large(SMALL - 1)):
        assert torch.get_num_threads() == 1


class Watched(torch.nn.Module):
    "A model that notes with how many threads it is computed, and fails when it is told to."

    def __init__(self, fails=False):
        super().__init__()
        self.base, self.fails, self.seen = load_tiny()[0], fails, set()

    def forward(self, **batch):
        self.seen.add(torch.get_num_threads())
        if self.fails:
            raise RuntimeError("in forward")
        return self.base(**batch)

    def generate(self, **batch):
        self.seen.add(torch.get_num_threads())
        return self.base.generate(**batch)


@pytest.mark.usefixtures("three")
def test_learning_and_the_score_compute_with_one_thread():
    model, tokenizer = Watched().eval(), load_tiny()[1]
    learn(model, tokenizer, "copy", steps=1, batch_size=2, progress=False)
    answers_of(model, tokenizer, ["a="])
    assert model.seen == {1}


@pytest.mark.usefixtures("three")
def test_an_explorer_computes_with_one_thread():
    model, tokenizer = load_tiny()
    seen = []
    model.lm_head.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    Bench(model, tokenizer).run()
    assert set(seen) == {1}


@pytest.mark.usefixtures("three")
def test_learning_that_fails_leaves_threads_and_mode_as_they_were():
    model, tokenizer = Watched(fails=True).eval(), load_tiny()[1]
    with pytest.raises(RuntimeError, match="in forward"):
        learn(model, tokenizer, "copy", steps=1, progress=False)
    assert model.seen == {1} and not model.training


# ---- what loading prints


def shown(make):
    "What a bar of three steps writes."
    file = io.StringIO()
    list(make(range(3), file=file))
    return file.getvalue()


@pytest.mark.parametrize("make", [tqdm, auto, logging.tqdm])
def test_no_bar_within_and_bars_again_afterwards(make):
    with quiet():
        assert shown(make) == ""
        with quiet():
            assert shown(make) == ""
        assert shown(make) == ""
    assert "3/3" in shown(make)


def test_bars_of_other_threads_are_shown():
    with quiet():
        assert "3/3" in elsewhere(lambda: shown(tqdm))


def test_blocks_in_two_threads_put_back_what_the_first_one_found():
    made, entered, leave = tqdm.__init__, threading.Event(), threading.Event()

    def other():
        with quiet():
            entered.set()
            leave.wait(10)

    level = logging.get_verbosity()
    thread = threading.Thread(target=other)
    with quiet():
        thread.start()
        assert entered.wait(10)
    assert logging.get_verbosity() == logging.ERROR  # the other thread still needs it
    leave.set()
    thread.join()
    assert (logging.get_verbosity(), tqdm.__init__) == (level, made)


def test_settings_of_the_user_are_put_back_after_an_exception():
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    level = logging.get_verbosity()
    logging.set_verbosity(logging.INFO)
    disable_progress_bars("peft_viz.tests")
    try:
        with pytest.raises(ValueError), quiet():
            raise ValueError
        assert logging.get_verbosity() == logging.INFO and logging.is_progress_bar_enabled()
        assert are_progress_bars_disabled("peft_viz.tests") and not are_progress_bars_disabled()
    finally:
        logging.set_verbosity(level)
        enable_progress_bars("peft_viz.tests")


def test_loaders_print_nothing():
    "In a fresh process, where nothing is switched off, every model that is installed is loaded without a word."
    code = """
import os
for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "TRANSFORMERS_VERBOSITY", "TQDM_DISABLE"):
    os.environ.pop(name, None)
from peft_viz.zoo.models import FAMILIES, load_smollm2, load_tiny, tiny_random
load_tiny()
for family in FAMILIES:
    tiny_random(family)
try:
    load_smollm2()
except ImportError:
    pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
