"Readability, by the project's own instrument: a recording of ours has no more steps than one of peft's."
# lane: here

import peft
import pytest

import peft_viz
from budget import CLM, measured, METHODS
from peft_viz import load_tiny, record
from peft_viz.views.beside import steps


@pytest.mark.parametrize("method", METHODS)
def test_no_more_steps_than_peft(method):
    ours, theirs = measured(peft_viz, method), measured(peft, method)
    assert ours.keys() == theirs.keys()
    assert all(ours[phase] <= theirs[phase] for phase in ours), (ours, theirs)


def test_prepare_inputs_of_a_method_that_changes_layers_is_a_handful_of_lines():
    base, tokenizer = load_tiny()
    model = peft_viz.get_peft_model(base, peft_viz.LoraConfig(**CLM))
    with record(model, tokenizer) as trace:
        model.generate(**tokenizer("abc", return_tensors="pt"), max_new_tokens=2, do_sample=False)
    prepare = [call for call in trace.calls if call.function.endswith(".prepare_inputs_for_generation")]
    assert prepare and all(steps(trace, call) <= 5 for call in prepare)
