"Readability, by the project's own instrument: a recording of ours has no more steps than one of peft's."
# lane: here

from collections import defaultdict

import peft
import pytest
import torch

import peft_viz
from peft_viz import load_tiny, record

CLM = dict(task_type="CAUSAL_LM")
SOFT = dict(CLM, num_virtual_tokens=4)
EXAMPLES = dict(cpt_token_ids=[5, 6, 7, 8], cpt_mask=[1] * 4, cpt_tokens_type_mask=[1, 2, 3, 4])
METHODS = {  # name -> class of the configuration, its fields
    "LoRA": ("LoraConfig", CLM),
    "AdaLoRA": ("AdaLoraConfig", dict(CLM, total_step=100)),
    "IA3": ("IA3Config", CLM),
    "POLY": ("PolyConfig", dict(CLM, n_tasks=2)),
    "prompt tuning": ("PromptTuningConfig", SOFT),
    "P-tuning": ("PromptEncoderConfig", SOFT),
    "multitask prompt tuning": ("MultitaskPromptTuningConfig", dict(SOFT, num_tasks=2)),
    "prefix tuning": ("PrefixTuningConfig", SOFT),
    "CPT": ("CPTConfig", dict(CLM, **EXAMPLES)),
}
PHASES = ("forward", "prefill", "decoding step")


def steps(trace, root):
    "Lines that ran in a call and in all that it called, the base model's own not counted."
    inner = defaultdict(list)
    for call in trace.calls:
        inner[call.parent].append(call)
    total, waiting = 0, [root]
    while waiting:
        call = waiting.pop()
        total += len(call.steps) if call.kind != "base" else 0
        waiting += inner[call.id]
    return total


def recorded(package, method):
    "Phase of a run -> steps of its recording, in the default setting, on a padded batch."
    cls, fields = METHODS[method]
    base, tokenizer = load_tiny()
    model = package.get_peft_model(base, getattr(package, cls)(**fields))
    batch = tokenizer(["abc", "hello"], padding=True, return_tensors="pt")
    tasks = dict(task_ids=torch.tensor([0, 1])) if method in ("POLY", "multitask prompt tuning") else {}
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    with record(model, tokenizer) as trace:
        model(**batch, labels=labels, **tasks)
    found = {"forward": steps(trace, next(call for call in trace.calls if call.parent is None))}
    injected = method in ("LoRA", "AdaLoRA", "IA3", "POLY")  # peft's generate is never watched there
    if injected:
        return found
    with record(model, tokenizer) as trace:
        model.generate(**batch, min_new_tokens=3, max_new_tokens=3, do_sample=False, **tasks)
    calls = [call for call in trace.calls if call.function.endswith(".prepare_inputs_for_generation")]
    return {**found, "prefill": steps(trace, calls[0]), "decoding step": steps(trace, calls[1])}


@pytest.mark.parametrize("method", METHODS)
def test_no_more_steps_than_peft(method):
    ours, theirs = recorded(peft_viz, method), recorded(peft, method)
    assert ours.keys() == theirs.keys()
    assert all(ours[phase] <= theirs[phase] for phase in ours), (ours, theirs)


def test_prepare_inputs_of_a_method_that_changes_layers_is_a_handful_of_lines():
    base, tokenizer = load_tiny()
    model = peft_viz.get_peft_model(base, peft_viz.LoraConfig(**CLM))
    with record(model, tokenizer) as trace:
        model.generate(**tokenizer("abc", return_tensors="pt"), max_new_tokens=2, do_sample=False)
    prepare = [call for call in trace.calls if call.function.endswith(".prepare_inputs_for_generation")]
    assert prepare and all(steps(trace, call) <= 5 for call in prepare)
