"""Six questions of an engineer, each answered from the page of a recording of peft's own model and a left-padded
batch, in at most three actions: opening the file is none, a key or a click is one."""
# lane: here

import re
import pytest, torch

from peft_viz import layout, load_tiny, record, viewer
from peft_viz.zoo.letters import collate

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.browser
TAG, VIRTUAL, NEW = "peft-viz-trace", 4, 3


def recorded(name, **options):
    "A forward with labels and a generate, of rows of which the first has padding on its left."
    torch.manual_seed(0)
    base, tokenizer = load_tiny()
    config = getattr(peft, name)(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL)
    model = peft.get_peft_model(base, config).eval()
    question = tokenizer(
        ["fig=", "hello="], return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
    )
    with record(model, tokenizer=tokenizer, **options) as trace, torch.no_grad():
        model(**collate(tokenizer, ["fig=", "hello="], ["fgi", "ehllo"], padding_side="left"))
        model.generate(**question, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
    return trace


@pytest.fixture(scope="module")
def traces():
    return {name: recorded(name, attention="full") for name in ("PromptTuningConfig", "PrefixTuningConfig")}


class Reader:
    "A page, and how many actions were needed on it."

    def __init__(self, page):
        self.page, self.actions = page, 0

    def press(self, key):
        self.actions += 1
        self.page.keyboard.press(key)

    def told(self, selector):
        found = self.page.raw.locator(f"{TAG} {selector}").all_inner_texts()
        assert self.actions <= 3 and self.page.problems == []
        return [" ".join(text.split()) for text in found]

    def line(self, name):
        "The numbers of a line of the grid, of what reached the base model."
        row = self.page.raw.locator(
            f"{TAG} .sheet .reached tr", has=self.page.raw.locator(f"th:text-is('{name}')")
        )
        return [int(text) for text in row.locator("td").all_inner_texts() if text]


@pytest.fixture
def reader(new_page, tmp_path):
    def opened(trace, other=None):
        file = tmp_path / "trace.html"
        file.write_text(viewer.page(trace, other=other), encoding="utf-8")
        page = new_page()
        page.show(file)
        page.wait_for_selector(f"{TAG} .root")
        return Reader(page)

    return opened


def test_why_are_the_logits_longer_than_the_labels(traces, reader):
    at = reader(traces["PromptTuningConfig"])
    note = next(text for text in at.told(".finding") if "labels" in text)
    assert "Logits come back for 16 positions, and your labels have 12" in note
    assert "one for each virtual token" in note and at.actions == 0


@pytest.mark.parametrize("method", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_which_positions_did_the_padded_rows_get(traces, reader, method):
    "In forward: they stand in the grid that the page opens on. In generate: a view away."
    trace, at = traces[method], reader(traces[method])
    forward, prefill = (layout.positions(trace, call)[0] for call in trace.base_calls[:2])
    assert at.line("position") == list(forward)
    at.press("5")  # decoding
    at.press("ArrowRight")  # from the forward to the prefill
    assert at.line("position") == list(prefill)
    at.press("r")  # the row without padding
    assert at.line("position") == list(layout.positions(trace, trace.base_calls[1])[1])


def test_how_long_is_the_cache_at_each_step(traces, reader):
    trace = traces["PrefixTuningConfig"]
    at = reader(trace)
    at.press("3")  # overview
    rows = at.told("tr[data-base]")
    assert len(rows) == 1 + NEW
    for row, cache in zip(rows, layout.cache(trace), strict=True):
        assert f"{cache.before} → {cache.after}" in row


@pytest.mark.parametrize("method", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_which_branch_of_forward_was_taken(traces, reader, method):
    trace = traces[method]
    at = reader(trace)
    at.press("3")
    shown = at.told(".decisions[open] .cond")
    call, wanted = trace.roots[0], {}
    for step in call.steps:
        if step.branch is not None:
            wanted[step.line] = "True" if step.branch else "False"
    told = {int(re.match(r"\d+", text)[0]): text.split()[-1] for text in shown if "not reached" not in text}
    assert told == wanted and len(shown) > len(told)
    taken = {line for line, outcome in told.items() if outcome == "True"}
    source = trace.sources[call.source]
    text = [source.text.splitlines()[line - source.first_line] for line in taken]
    assert any("PREFIX_TUNING" in line for line in text) == (method == "PrefixTuningConfig")


@pytest.mark.parametrize("method", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_who_attends_to_the_virtual_tokens_and_how_strongly(traces, reader, method):
    trace = traces[method]
    at = reader(trace)
    at.press("4")  # attention
    call = trace.base_calls[0]
    for row in range(2):
        if row:
            at.press("r")
        shown = [int(text) for text in at.told(".shares button")]
        want = [100 * x for rows in layout.share(trace, call).values() for x in rows[row]]
        assert shown == [pytest.approx(x, abs=0.51) for x in want]


def test_where_do_two_runs_first_differ(traces, reader):
    from peft_viz import compare

    a, b = traces.values()
    at = reader(a, b)
    first = compare(a, b).differences[0]
    table = at.page.raw.locator(f"{TAG} .compared tbody").first.locator("tr")
    assert " ".join(table.first.inner_text().split()) == " ".join(" ".join(first.cells("en")).split())
    places = [d for d in compare(a, b).differences if d.call is not None]
    number = compare(a, b).differences.index(places[0])
    table.nth(number).locator("button").click()
    at.actions += 1
    assert at.told(".side .fresh") and at.actions == 1
