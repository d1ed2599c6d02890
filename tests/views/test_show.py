"A recording as text: every line stands for what the trace holds."

import pytest, torch
from peft_viz import (
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
    load_tiny,
    record,
    show,
)
from peft_viz.recording.trace import Trace


@pytest.fixture(scope="module")
def traces():
    "A forward of each of two methods, and a `generate`, all of the same padded batch."
    batch = load_tiny()[1](["abc", "hello"], padding=True, return_tensors="pt")
    found = {}
    for name, config in (("prompt", PromptTuningConfig), ("prefix", PrefixTuningConfig)):
        model = get_peft_model(load_tiny()[0], config(task_type="CAUSAL_LM", num_virtual_tokens=4)).eval()
        with record(model) as found[name], torch.no_grad():
            model(**batch, labels=batch["input_ids"])
    with record(model) as found["generate"]:
        model.generate(**batch, max_new_tokens=2, min_new_tokens=2)
    return found


def cells(text):
    "(direction, name) -> the cells of a table's line."
    return {tuple(line.split()[:2]): line[5:].split(None, 1)[1] for line in text.splitlines()[1:]}


def test_table_says_what_reached_each_base_model_and_what_came_back(traces):
    rows = cells(show.table({name: traces[name] for name in ("prompt", "prefix")}))
    squeezed = {key: " ".join(row.split()) for key, row in rows.items()}
    loss = squeezed.pop(("out", "loss"))
    assert squeezed == {
        ("in", "inputs_embeds"): "[2, 9, 96] -",
        ("in", "attention_mask"): "[2, 9] [2, 9]",
        ("in", "labels"): "[2, 9] [2, 5]",
        ("in", "input_ids"): "- [2, 5]",
        ("in", "past_key_values"): "- 4 tokens",
        ("out", "logits"): "[2, 9, 67] [2, 5, 67]",
        ("out", "past_key_values"): "9 tokens 9 tokens",
    }
    measured = [
        trace.value(trace.base_calls[0].outputs["loss"]).data[0]
        for trace in (traces["prompt"], traces["prefix"])
    ]
    assert [float(number) for number in loss.split()] == pytest.approx(measured, rel=1e-3)


def test_table_of_a_later_call_leaves_out_who_was_not_called_so_often(traces):
    rows = cells(show.table(traces, call=1))
    assert rows["in", "input_ids"].split("  ")[-1].strip() == "[2, 1]"
    assert all(row.split()[:2] == ["-", "-"] for row in rows.values())


def test_columns_are_aligned(traces):
    lines = show.table(
        {"a recording with a long title": traces["prompt"], "b": traces["prefix"]}
    ).splitlines()
    assert len({len(line) for line in lines if not line.endswith("-")}) == 1


def test_a_recording_of_nothing_is_an_empty_table_and_an_empty_listing():
    empty = Trace()
    assert show.table({"nothing": empty}).split() == ["nothing"] and show.listing(empty) == ""


def test_listing_has_one_line_for_each_step_and_says_how_conditions_came_out(traces):
    trace = traces["prompt"]
    lines = show.listing(trace).splitlines()
    steps = [step for call in trace.calls for step in call.steps]
    for outcome in (True, False):
        assert sum(line.endswith(f"   -> {outcome}") for line in lines) == sum(
            step.branch is outcome for step in steps
        )
    tensors = [
        change
        for step in steps
        for change in step.changes
        if change.value is not None and trace.value(change.value).kind in ("tensor", "cache")
    ]
    assert len(lines) == len(steps) + len(tensors) + len(trace.base_calls)


def test_listing_of_one_call_begins_with_its_first_line(traces):
    trace = traces["prompt"]
    call = trace.roots[0]
    source = trace.sources[call.source]
    first = source.text.splitlines()[call.steps[0].line - source.first_line].strip()
    assert show.listing(trace, call).splitlines()[0] == first
    base = trace.base_calls[0]
    assert show.listing(trace, base).startswith(f"{base.function}: ")


def test_listing_ends_with_what_was_raised():
    model = get_peft_model(load_tiny()[0], LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    with pytest.raises(ValueError), record(model) as trace:
        model(input_ids=torch.tensor([[999]]))  # no such token
    assert "raised IndexError: " in show.listing(trace).splitlines()[-1]


@pytest.mark.parametrize("given", [5, {"a": 5}])
def test_a_table_of_what_is_no_recording(given):
    with pytest.raises(TypeError, match="takes titles and recordings: show.table"):
        show.table(given)
