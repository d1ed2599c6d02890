"""Files that someone damaged: each is refused in words, or read; and what is read can be drawn,
saved and read again.

Some hundred damaged files are tried each time, always the same ones. FUZZ=100000 tries as many, and FUZZ_SEED
others."""

import copy
import json
import os
import random
from collections import Counter

import matplotlib.pyplot as plt
import pytest

import peft_viz.views.viewer  # noqa: F401  gives a trace its HTML
from peft_viz import layout, plot
from peft_viz.recording.trace import Trace, TraceError
from test_trace import places, sample

MANY, SEED = int(os.environ.get("FUZZ", 400)), int(os.environ.get("FUZZ_SEED", 0))
ODD = (-1, 0, 1, 2, 3, 7, 10**3, 10**6, 10**9, 2**53, 10**30, 0.5, -100, 1e300, True, False, None)
ODD += ("", "text", "nan", "default", "道\udce9", "</script>", "x" * 300, "[", "5", "base", "peft", "layer")
ODD += (
    [],
    [[]],
    [0],
    [0, 1],
    [-1, 1],
    {},
    {"runs": [1, 3]},
    {"runs": [5, 10**6]},
    {"a": 0},
    {"kind": "secret"},
)


def place(document, path):
    for key in path:
        document = document[key]
    return document


def damage(document, rng):
    "Do one thing to a document, somewhere: drop, replace, swap, repeat, or a small step up or down."
    paths = [path for path in places(document) if path]
    path = rng.choice(paths)
    alike = [p for p in paths if type(p[-1]) is type(path[-1]) and (p[-1] == path[-1] or p[:-2] == path[:-2])]
    other = rng.choice(rng.choice((alike, alike, paths)))
    parent, key, what = place(document, path[:-1]), path[-1], rng.randrange(8)
    if what == 0:
        del parent[key]
    elif what in (1, 6):
        parent[key] = copy.deepcopy(place(document, other))
    elif what == 2 and isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    elif what == 3 and type(parent[key]) is int:
        parent[key] += rng.choice((-1, 1))
    elif what == 4 and isinstance(parent[key], list):
        rng.shuffle(parent[key])
    elif what == 5 and isinstance(parent, dict):
        parent[rng.choice(("extra", "kind", "data", "5"))] = parent.pop(key)
    else:
        parent[key] = copy.deepcopy(rng.choice(ODD))


def damaged(documents, many, seed):
    "Documents with one to three things wrong, the same for the same seed."
    rng = random.Random(seed)
    for _ in range(many):
        document = json.loads(rng.choice(documents))
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            damage(document, rng)
        yield document


def in_words(draw, *args):
    "What a view shows, or the ValueError that says why it cannot."
    try:
        return draw(*args)
    except ValueError as error:
        assert len(str(error)) > 10
    finally:
        plt.close("all")


def use(trace, pictures):
    "Do with a trace what people do."
    again = Trace.from_json(trace.to_json())
    assert again.to_json() == trace.to_json()
    repr(trace), [repr(x) for x in (*trace.values, *trace.calls)]
    assert trace._repr_html_()
    for call in trace.base_calls[:2]:
        in_words(layout.attention, trace, call)
        if pictures:
            in_words(plot.attention, trace, call), in_words(plot.sequence, trace, call)
            in_words(plot.labels, trace, call)
    [in_words(layout.branches, trace, c) for c in trace.calls[:2]]
    assert str(trace.story()) and json.dumps(trace.story("zh").as_payload())
    for call in trace.base_calls[:2]:
        [str(in_words(trace.history, name, call)) for name in call.args]
    in_words(layout.cache, trace)


def recorded():
    "What a real recording looks like: a forward with labels and padding, and a short generate."
    torch = pytest.importorskip("torch")
    from peft_viz import PromptTuningConfig, get_peft_model, record, tiny_random

    torch.manual_seed(0)
    model = get_peft_model(
        tiny_random("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    )
    ids, mask = torch.tensor([[0, 4, 5], [6, 7, 8]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    with record(model) as forward:
        model(input_ids=ids, attention_mask=mask, labels=ids)
    with record(model) as generate:
        model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=2, do_sample=False)
    return forward.to_dict(), generate.to_dict()


def test_damaged_traces():
    "TraceError, or a trace that can be shown, saved and read again; never anything else,"
    seen = Counter()
    documents = [sample().to_json(), *(json.dumps(d) for d in recorded())]
    for document in damaged(documents, MANY, SEED):
        try:
            trace = Trace.from_json(document)
        except TraceError as error:
            seen["refused"] += 1
            assert str(error).startswith(("trace", "This"))
            continue
        seen["read"] += 1
        use(trace, pictures=seen["read"] % 10 == 0)
    assert min(seen["refused"], seen["read"]) > MANY / 10
