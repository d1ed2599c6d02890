"A trace is plain data: it survives a file, and what is not a trace is refused in words."

import copy, json, random, subprocess, sys

import jsonschema
import pytest
import torch
from hypothesis import given, strategies as st

from peft_viz.recording.values import Album
from peft_viz.recording.trace import (
    Call,
    Change,
    Source,
    Step,
    Trace,
    TraceError,
    Value,
    pack,
    schema,
    unpack,
)

ABOUT = dict(
    implementation="peft_viz",
    implementation_version="0.1.0",
    transformers="5",
    torch="2",
    python="3",
    model_class="LlamaForCausalLM",
    model_type="llama",
    num_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    hidden_size=64,
    vocab_size=100,
    active_adapter="default",
    adapters={"default": {"r": 8}},
    peft_type="PROMPT_TUNING",
    num_virtual_tokens=4,
)


def sample() -> Trace:
    "One of everything."
    values = [
        Value("tensor", shape=(1, 3), dtype="int64", device="cpu", role="ids", packed=[5, 6, 7]),
        Value(
            "tensor",
            shape=(1, 1, 2, 2),
            dtype="bool",
            device="cpu",
            role="attention_mask",
            packed=[1, 0, 1, 1],
            attended=True,
        ),
        Value("cache", type="DynamicCache", length=4, layers=2, shape=(1, 2, 4, 8)),
        Value("scalar", type="NoneType", value=None),
        Value("sequence", type="tuple", length=1, items=[0]),
        Value("mapping", type="dict", length=1, items={"input_ids": 0}),
        Value("object", type="Thing"),
        Value("tensor", shape=(), dtype="float32", device="cpu", role="loss", packed=["nan"]),
    ]
    branch = dict(kind="if", line=11, end=11, body=[12, 12], orelse=None)
    calls = [
        Call(
            "peft",
            "M.forward",
            source=0,
            args={"input_ids": 0},
            returned=5,
            id=0,
            steps=[
                Step(11, True),
                Step(
                    12,
                    None,
                    [Change("mask", 1, None, "new", ["other"]), Change("gone", None, 3, "deleted")],
                    [1],
                ),
            ],
        ),
        Call(
            "base",
            "LlamaForCausalLM.forward",
            parent=0,
            parent_step=1,
            args={"input_ids": 0, "past_key_values": 2},
            outputs={"loss": 7},
            attention=[dict(layers=[0, 1], value=1, how="sdpa")],
            raised=dict(type="ValueError", message="no", line=None),
            id=1,
        ),
    ]
    return Trace(
        ABOUT,
        {"5": "a", "6": "</script>", "7": "道"},
        [Source("M.forward", "m.py", 10, "def forward(self):\n    if x:\n        y\n", [branch])],
        values,
        calls,
    )


def test_round_trip(tmp_path):
    t = sample()
    assert Trace.from_json(t.to_json()) == t and Trace.load(t.save(tmp_path / "t.json")) == t
    assert t.base_calls == t.children(t.calls[0]) == [t.calls[1]] and t.roots == [t.calls[0]]
    assert (
        t.value(0).nested() == [[5, 6, 7]]
        and t.value(1).nested() == [[[[1, 0], [1, 1]]]]
        and t.decode(7) == "道"
        and t.decode(8) is None
    )


@given(st.lists(st.integers(-100, 3), max_size=60))
def test_pack(numbers):
    assert unpack(pack(numbers)) == numbers


def growing(n=4):
    "A trace of tables of ids, each the one before and a column more."
    album = Album([])
    tables = [torch.arange(2 * k).view(k, 2).T.contiguous() for k in range(3, 3 + n)]
    indices = [album.add(t, "input_ids") for t in tables]
    return Trace(ABOUT, None, [], album.values, []), tables, indices


def test_a_table_that_grows_is_kept_as_what_is_new():
    trace, tables, indices = growing()
    back = Trace.from_json(trace.to_json())
    for t, i in zip(tables, indices):
        assert trace.value(i).nested() == back.value(i).nested() == t.tolist()
    assert dict(trace.value(indices[-1]).packed) == {"grown": [indices[-2], *tables[-1][:, -1].tolist()]}
    assert back == trace and back.to_dict() == trace.to_dict() and copy.deepcopy(trace) == trace
    jsonschema.Draft202012Validator(schema()).validate(trace.to_dict())


def test_of_equal_tables_one_is_kept_and_another_is_none_that_grew():
    album = Album([])
    t = torch.tensor([[3, 1, 4, 1], [5, 9, 2, 6]])
    assert album.add(t, "input_ids") == album.add(t.clone(), "input_ids")
    longer = torch.cat([t, t[:, :1]], 1)
    assert album.add(longer, "input_ids") == album.add(longer.clone(), "input_ids")
    moved = torch.cat([t.flip(0), t[:, :1]], 1)  # beams: rows change their places
    assert album.values[album.add(moved, "input_ids")].packed == moved.flatten().tolist()
    assert album.values[album.add(longer, "labels")].packed == longer.flatten().tolist()


@pytest.mark.parametrize("steps", [8, 32])
def test_a_step_more_costs_the_same_after_any_number_of_steps(steps):
    trace, _, _ = growing(steps)
    sizes = [len(v["data"]["grown"]) for v in trace.to_dict()["values"][1:]]
    assert sizes == [3] * (steps - 1)


@pytest.mark.parametrize(
    "grown",
    [[], [3, 1, 2], [-1, 1, 2], [0], [0, 1], [0, 1, 2, 3], [0.0, 1, 2], [9, 1, 2], ["nan", 1, 2]],
)
def test_a_table_that_grew_from_nothing(grown):
    document = growing()[0].to_dict()
    document["values"][1]["data"] = dict(grown=grown)
    with pytest.raises(TraceError, match=r"values\[1\]"):
        Trace.from_json(document)


def test_schema_is_one(tmp_path):
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.Draft202012Validator(schema()).validate(sample().to_dict())


def places(x, at=()):
    "Every place in a document, as a path."
    yield at
    for k, v in x.items() if isinstance(x, dict) else enumerate(x) if isinstance(x, list) else ():
        yield from places(v, at + (k,))


def mutate(doc, rng):
    "The document with one thing wrong, or at least different, somewhere."
    doc = copy.deepcopy(doc)
    path = rng.choice([p for p in places(doc) if p])
    parent = doc
    for k in path[:-1]:
        parent = parent[k]
    change = rng.choice(("drop", -1, 10**6, "text", None, [], {}, True, 1.5, {"kind": "secret"}))
    if change == "drop":
        del parent[path[-1]]
    else:
        parent[path[-1]] = change
    return doc


def test_what_is_read_fits_the_schema():
    "A JSON schema says less than the reader knows, but never something else: what is read fits it."
    rng, doc, seen = random.Random(0), sample().to_dict(), {True: 0, False: 0}
    validator = jsonschema.Draft202012Validator(schema())
    for _ in range(500):
        bad = mutate(doc, rng)
        try:
            Trace.from_json(bad)
            read = True
        except TraceError:
            read = False
        seen[read] += 1
        assert not read or validator.is_valid(bad), bad
    assert min(seen.values()) > 20  # both sorts occurred


def changed(path, value):
    "The sample document with another value at one place."
    doc = json.loads(sample().to_json())
    place = doc
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return doc


def towers():
    "A list of a list of a list; and lists that hold a list twice, which holds a list twice."
    seq = lambda *items: Value("sequence", type="list", length=len(items), items=list(items))
    deep = [Value("object", type="Thing")] + [seq(i) for i in range(200)]
    wide = [Value("object", type="Thing")] + [seq(i, i) for i in range(40)]
    return [Trace(ABOUT, None, [], values, []).to_dict() for values in (deep, wide)]


def runs(n):
    return dict(
        kind="tensor",
        shape=[1, n],
        dtype="int64",
        device="cpu",
        role="ids",
        data={"runs": [5, n]},
        truncated=False,
    )


STEP = ("calls", 0, "steps", 1, "calls")
REFUSED = {
    "a bool is no number": (changed(("calls", 0, "steps", 0, "line"), True), r"calls\[0\].steps\[0\].line"),
    "a number is no bool": (changed(("calls", 0, "steps", 0, "branch"), 1), "branch"),
    "version true": (changed(("version",), True), "version True"),
    "version 1.0": (changed(("version",), 1.0), "version 1.0"),
    "a stranger's key": (changed(("calls", 0, "colour"), 1), "colour"),
    "a call twice": (changed(STEP, [1, 1]), "names a call twice"),
    "a call of itself": (changed(STEP, [0, 1]), "call 0, which was not made there"),
    "a call that is not there": (changed(STEP, [7]), "points to call 7"),
    "a later parent": (changed(("calls", 0, "parent"), 1), "points to call 1"),
    "a step that knows nothing": (changed(STEP, []), "which does not"),
    "a list of itself": (changed(("values", 4, "items"), [4]), "points to value 4"),
    "a key of another kind": (changed(("values", 6, "dtype"), "int64"), "should not have 'dtype'"),
    "a kind without its keys": (changed(("values", 0, "shape"), None), "lacks 'shape'"),
    "a mapping with a list": (changed(("values", 5, "items"), [0]), "should be an object"),
    "too many numbers": (changed(("values", 0), runs(10**12)), "stands for 1000000000000 numbers"),
    "too many of them": (changed(("values",), [runs(2**22)] * 9), "more than"),
    "a tower": (towers()[0], "too much"),
    "a tree": (towers()[1], "too much"),
    "a tower in about": (
        changed(("about", "adapters"), json.loads("[" * 200 + "]" * 200)),
        "adapters|levels",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused(case):
    doc, why = REFUSED[case]
    with pytest.raises(TraceError, match=why):
        Trace.from_json(doc)


def test_a_large_file_is_refused_unless_asked_for(tmp_path):
    path = sample().save(tmp_path / "t.json")
    with pytest.raises(TraceError, match="max_bytes=None"):
        Trace.load(path, max_bytes=100)
    assert Trace.load(path, max_bytes=None) == sample()


def test_what_has_no_end_is_read_to_the_limit():
    with pytest.raises(TraceError, match="/dev/zero: This document has 1,001 bytes"):
        Trace.load("/dev/zero", max_bytes=1000)


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_a_mark_at_the_beginning_is_no_part_of_the_text(codec, tmp_path):
    "As editors and shells of Windows write it."
    mark = "\ufeff" * codec.endswith("be")
    (tmp_path / "t.json").write_bytes((mark + sample().to_json()).encode(codec))
    assert Trace.load(tmp_path / "t.json") == sample()
    (tmp_path / "page.html").write_bytes((mark + "<!doctype html><html></html>").encode(codec))
    with pytest.raises(TraceError, match="page to look at"):
        Trace.load(tmp_path / "page.html")
    assert Trace.from_json("\ufeff" + sample().to_json()) == sample()


def test_half_a_character_is_written_as_its_number(tmp_path):
    t = sample()
    t.about = t.about | {"adapters": {"caf\udce9": {}}}
    for kind in "json", "html":
        t.save(tmp_path / f"t.{kind}")
    assert list(Trace.load(tmp_path / "t.json").about["adapters"]) == [r"caf\udce9"]


def test_a_value_that_no_file_can_hold_leaves_the_old_file(tmp_path):
    path = sample().save(tmp_path / "t.json")
    bad = sample()
    bad.about = bad.about | {"thing": object()}
    with pytest.raises(TypeError):
        bad.save(path)
    assert Trace.load(path) == sample() and len(list(tmp_path.iterdir())) == 1


def test_repr_counts_equal_lines():
    t = Trace(ABOUT, None, [], [], [Call("peft", "M.forward", id=i) for i in range(1000)])
    assert repr(t).splitlines()[1:] == ["  1000 times: M.forward"]


def test_every_truncation_is_refused(tmp_path):
    text = sample().to_json()
    for cut in range(0, len(text), 7):
        (tmp_path / "t.json").write_text(text[:cut], encoding="utf-8")
        with pytest.raises(TraceError, match="t.json"):
            Trace.load(tmp_path / "t.json")


@pytest.mark.parametrize(
    "doc, word",
    [
        ("[1]", "not a trace"),
        ("\x00\x01", "not a trace"),
        (b"\xff\xfe\x80", "not a trace"),
        ("{}", "not a trace"),
        (json.dumps({"format": "peft_viz.trace"}), "version"),
        (json.dumps({"format": "peft_viz.trace", "version": 2}), "version 2"),
        ("[" * 100000, "not a trace"),
    ],
)
def test_not_a_trace(doc, word):
    with pytest.raises(TraceError, match=word):
        Trace.from_json(doc)


def test_save_asks_for_a_known_suffix(tmp_path):
    with pytest.raises(ValueError, match=r"\.json"):
        sample().save(tmp_path / "t.txt")
    assert not list(tmp_path.iterdir())


def test_opens_without_torch(tmp_path):
    "A saved trace opens where neither torch nor transformers can be imported."
    path = sample().save(tmp_path / "t.json")
    code = f"""import sys; sys.modules['torch'] = sys.modules['transformers'] = None
from peft_viz.recording.trace import Trace
t = Trace.load({str(path)!r}); print(t); print(len(t._repr_html_()) > 1000)"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "M.forward -> LlamaForCausalLM.forward" in out and out.strip().endswith("True")


def test_repr_says_what_happened():
    assert "1 of the base model" in repr(sample()) and "PROMPT_TUNING" in repr(sample())


@pytest.mark.parametrize("role", ("attention_mask", "labels", "ids", "positions"))
def test_only_a_loss_may_be_no_number(role):
    value = dict(kind="tensor", shape=[2], dtype="float32", device="cpu", truncated=False)
    document = sample().to_dict()
    document["values"].append(dict(value, role="loss_weights", data=["nan", 1]))
    Trace.from_json(document)
    document["values"].append(dict(value, role=role, data={"runs": ["inf", 2]}))
    with pytest.raises(TraceError, match="is not finite, which only a loss"):
        Trace.from_json(document)


@pytest.mark.parametrize("data", ([0, 10**30], [0, -(2**63) - 1], {"runs": [2**64, 2]}))
def test_a_number_no_tensor_holds_is_refused(data):
    document = sample().to_dict()
    document["values"].append(
        dict(kind="tensor", shape=[2], dtype="int64", device="cpu", role="labels", truncated=False, data=data)
    )
    with pytest.raises(TraceError, match="more than 64 bits"):
        Trace.from_json(document)


@pytest.mark.parametrize("data", ([0, 2], [0, 0.5], {"runs": [10**15, 1, 1, 1]}, {"ramps": [1, 2]}))
def test_a_mask_over_queries_and_keys_holds_bits(data):
    mask = dict(kind="tensor", shape=[1, 1, 1, 2], dtype="bool", device="cpu", role="attention_mask")
    document = sample().to_dict()
    document["values"].append(dict(mask, truncated=False, attended=True, data={"ramps": [0, 2]}))
    Trace.from_json(document)
    document["values"].append(dict(mask, truncated=False, attended=True, data=data))
    with pytest.raises(TraceError, match="0 and 1 alone"):
        Trace.from_json(document)


@pytest.mark.parametrize(
    "text, told",
    (
        (b"[]", "no JSON object"),
        (b"9" * 5000, "no JSON object"),
        (b"\x1f\x8b\x08", "something compressed"),
        (
            b'{"format": "peft_viz.trace", "version": 1, "about": {"n": ' + b"9" * 5000 + b"}}",
            r"^trace\.about",
        ),
    ),
)
def test_what_is_wrong_with_a_document_is_said(text, told):
    with pytest.raises(TraceError, match=told):
        Trace.from_json(text)


def test_a_page_is_no_recording(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><html></html>")
    with pytest.raises(TraceError, match="page to look at"):
        Trace.load(page)


def test_a_list_without_such_an_item_says_so():
    empty = Trace()
    for items, name in ((empty.base_calls, "call of the base model"), (empty.roots, "call")):
        with pytest.raises(IndexError, match=rf"no {name} 0: there are none; run the model inside"):
            items[0]
    with pytest.raises(IndexError, match="no moment -1: there are none$"):
        empty.story()[-1]
    with pytest.raises(IndexError, match="no finding 0"):
        empty.diagnose()[0]
    ended = Call("peft", "f", raised=dict(type="ValueError", message="no", line=None))
    one = Trace(calls=[ended])
    with pytest.raises(IndexError, match="there are none; the run was ended by ValueError: no$"):
        one.base_calls[0]
    with pytest.raises(IndexError, match="there is no call 1: there is 1$"):
        one.roots[1]
    assert one.roots == [ended] and one.roots[0] is ended and one.roots[:5] == [ended] and one.roots[-1:]
