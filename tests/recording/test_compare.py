"Two recordings compared: where they first differ, and that nothing differs where both compute the same."

import json
import random
from pathlib import Path

import peft
import pytest
import torch

import peft_viz
from damage import damage
from families import V5
from peft_viz import Trace, TraceError, compare
from peft_viz.cli import main
from peft_viz.recording.compare import FACTS, NAMES, UNKNOWN, Chances, answer_texts, first_difference
from test_diagnose import FULL, METHODS, STAGES, batch, generate, make, recorded

PAIRS = [(method, stage) for method in METHODS for stage in STAGES]


def found(a, b, **more):
    "What differs, after the comparison was read in every form."
    result = compare(a, b, **more)
    zh = compare(a, b, lang="zh", **more)
    for told in (result, zh):
        assert told._repr_html_().count("<tr>") == (1 + len(told.differences) if told.differences else 0)
        assert str(told) == repr(told) and all(d.text(told.lang) in str(told) for d in told.differences)
    assert [d.what for d in zh.differences] == [d.what for d in result.differences]
    for d in result.differences:
        assert d.what in NAMES and str(d) == d.text() and d.times >= 1
        for trace, call, step in ((a, d.call, d.step), (b, d.call_b, d.step_b)):
            steps = trace.calls[call].steps if call is not None else ()
            assert step is None or 0 <= step < len(steps)
    return {d.what: d for d in result.differences}


# ---- nothing differs


@pytest.mark.parametrize("method, stage", PAIRS)
def test_ours_and_peft(method, stage):
    "Other functions, other lines, the same facts; in the other order, too."
    theirs, ours = (
        recorded(make(method, package), STAGES[stage], "left", method) for package in (peft, peft_viz)
    )
    assert found(theirs, ours) == {} and found(ours, theirs) == {}
    assert compare(theirs, ours).moments == (1 if stage == "forward" else 3)


def test_a_recording_and_itself(tmp_path):
    trace = recorded(make(), lambda m: (m(**batch(labels=True)), generate(m, **batch())))
    again = Trace.load(trace.save(tmp_path / "a.json"))
    assert found(trace, trace) == {} and found(trace, again) == {}
    assert compare(tmp_path / "a.json", str(tmp_path / "a.json")).moments == 4
    assert not compare(trace, again).unknown


def test_recordings_of_nothing():
    trace = recorded(make(), lambda m: m(**batch()))
    assert compare(Trace(), Trace()).differences == [] and compare(Trace(), Trace()).moments == 0
    assert {"method", "model", "calls"} <= found(Trace(), trace).keys()
    assert found(trace, Trace())["calls"].call == 0


# ---- what differs


def test_two_methods():
    lora, prompt, prefix = (
        recorded(make(m), STAGES["forward"], "right", m) for m in ("LORA", "PROMPT_TUNING", "PREFIX_TUNING")
    )
    got = found(lora, prompt)
    assert (got["inputs"].a, got["inputs"].b) == ((2, 6), (2, 10))
    assert (got["virtual tokens"].a, got["virtual tokens"].b) == ((0, 0), (0, 4))
    assert (got["positions"].a, got["positions"].b, got["positions"].place) == (0, 4, (0, "token", 0))
    assert got["decisions"].a.endswith("True") and got["decisions"].b.endswith("False")
    condition = lora.calls[got["decisions"].call].steps[got["decisions"].step]
    assert condition.branch is True
    assert not {"tokens", "labels", "stage"} & got.keys()  # the caller's own are the same
    got = found(prefix, prompt)
    assert (got["virtual tokens"].a, got["virtual tokens"].b) == ((4, 0), (0, 4))
    assert not {"tokens", "attention", "positions", "mask"} & got.keys()  # and so is what a token sees


def test_padded_and_not():
    "By token, not by column: a padded row and the same row alone."
    alone = recorded(make("PREFIX_TUNING"), lambda m: m(input_ids=FULL[:1, :3], labels=FULL[:1, :3]))
    right = recorded(make("PREFIX_TUNING"), lambda m: m(**batch("right", labels=True)))
    left = recorded(make("PREFIX_TUNING"), lambda m: m(**batch("left", labels=True)))
    got = found(alone, right)
    assert {"inputs", "mask"} <= got.keys() and not {
        "tokens",
        "positions",
        "attention",
        "labels",
    } & got.keys()
    got = found(alone, left)
    assert (got["positions"].a, got["positions"].b, got["positions"].place) == (4, 7, (0, "token", 0))
    assert not {"tokens", "attention", "labels"} & got.keys()
    got = found(left, right)
    assert {"mask", "positions"} <= got.keys() and "inputs" not in got
    assert got["mask"].a == ((1, 4), (0, 3), (1, 3)) and got["mask"].b == ((1, 7), (0, 3))


def test_cached_and_not():
    with_cache = recorded(make("LORA"), lambda m: generate(m, **batch()))
    without = recorded(make("LORA"), lambda m: generate(m, **batch(), use_cache=False))
    got = found(with_cache, without)
    assert got.keys() == {"cache", "inputs"}
    first = with_cache.base_calls[1].id
    assert (got["inputs"].a, got["inputs"].b, got["inputs"].call) == ((2, 1), (2, 7), first)
    assert got["inputs"].when == ("decode", 1) and got["inputs"].times == 2


def test_forward_and_generate():
    forward, generated = (
        recorded(make("PREFIX_TUNING"), STAGES[s], "left", "") for s in ("forward", "generate")
    )
    got = found(forward, generated)
    assert (got["stage"].a, got["stage"].b) == ("forward", "prefill")
    assert (got["function"].a, got["function"].b) == ("forward", "generate")
    prefill = found(
        generated, recorded(make("PREFIX_TUNING", peft_viz, corrected=True), STAGES["generate"], "left", "")
    )
    assert "tokens" not in prefill or prefill["tokens"].when[0] == "decode"


# What may differ when one number of the mask is another and nothing else is. What the tokens and labels are, is not in.
OF_THE_MASK = {"mask", "attention", "positions", "loss", "next tokens", "decisions", "taken"}


@pytest.mark.parametrize("hidden", [(0, 0), (1, 2), (0, 5), (1, 5)])
@pytest.mark.parametrize("method", ["LORA", "PROMPT_TUNING", "PREFIX_TUNING"])
@pytest.mark.parametrize("stage", ["forward", "generate"])
def test_another_mask_is_no_other_text(method, stage, hidden):
    "A hidden token counts as padding. The tokens behind it are still the same tokens."
    mask = torch.ones_like(FULL)
    mask[hidden] = 0
    more = dict(labels=FULL) if stage == "forward" else dict(max_new_tokens=1, do_sample=False)
    call = {"forward": lambda m: m, "generate": lambda m: m.generate}[stage]
    run = lambda m, mask: call(m)(input_ids=FULL, attention_mask=mask, **more)
    one, other = (recorded(make(method), run, given) for given in (torch.ones_like(FULL), mask))
    for got in (found(one, other), found(other, one)):
        assert {"mask"} <= got.keys() <= OF_THE_MASK
        assert got["mask"].place == (hidden[0],)
        token = (got["attention"] if "attention" in got else got["positions"]).place
        assert token[:3] == (hidden[0], "token", hidden[1])  # where it is hidden, and not at the first one


def filled(model):
    "Weights that every version of everything makes alike."
    with torch.no_grad():
        for i, (_, p) in enumerate(sorted(model.named_parameters())):
            p.copy_(((0.7 + 0.01 * i) * torch.arange(p.numel())).sin().view(p.shape) * 0.1)
    return model


BEFORE = Path(__file__).parent / "before_the_upgrade.json"  # by `now` below, with transformers 4.57.6


def now():
    return recorded(filled(make("PREFIX_TUNING", peft_viz)), STAGES["generate"], "left", "")


def test_before_and_after_an_upgrade():
    "transformers 5 counts the positions from the mask, and our code asks which of the two it is. Nothing else differs."
    got = found(Trace.load(BEFORE), now())
    assert got.keys() == ({"decisions", "positions"} if V5 else set())
    if V5:
        assert (got["positions"].a, got["positions"].b, got["positions"].times) == (7, 4, 3)


def test_labels_and_texts():
    other = FULL.clone()
    other[1, 2] = 20
    run = lambda m, ids, labels: m(input_ids=ids, labels=labels)
    a, b, c = (recorded(make("LORA"), run, *pair) for pair in ((FULL, FULL), (other, FULL), (FULL, other)))
    got = found(a, b)
    assert (got["tokens"].place, got["tokens"].a, got["tokens"].b) == ((1, "token", 2), 10, 20)
    assert {"tokens", "loss", "next tokens"} == got.keys()
    assert found(a, c).keys() == {"labels", "loss"}
    assert found(a, recorded(make("LORA"), lambda m: m(input_ids=FULL))).keys() == {"labels", "loss"}


def test_another_adapter():
    "The same shapes all over; only what is said differs, and the digests."
    run = lambda m: m(**batch(labels=True))
    a, b = (recorded(make("LORA", init_lora_weights=init), run, digests=True) for init in (False, True))
    got = found(a, b)
    assert {"loss", "next tokens", "digests"} <= got.keys() and not {
        "inputs",
        "mask",
        "attention",
    } & got.keys()
    assert got["digests"].place[0] == "layer 0"  # where it began
    off = recorded(make("LORA", init_lora_weights=True), run, layers=1, digests=True)
    assert found(b, off) == {}


def test_a_run_that_stopped_earlier():
    run = lambda m, n: m.generate(**batch(), max_new_tokens=n, min_new_tokens=n, do_sample=False)
    long, short = (recorded(make(), run, n) for n in (4, 2))
    got = found(long, short)
    assert got.keys() == {"calls"} and (got["calls"].a, got["calls"].b) == (4, 2)
    assert got["calls"].call == long.base_calls[2].id and got["calls"].call_b is None
    twice = recorded(make(), lambda m: (m(**batch()), m(**batch())))
    once = recorded(make(), lambda m: m(**batch()))
    assert found(once, twice).keys() == {"calls"} and compare(once, twice).moments == 1


def test_a_crash():
    good = recorded(make("MULTITASK_PROMPT_TUNING"), lambda m: m(**batch("left", "MULTITASK_PROMPT_TUNING")))
    crash = recorded(make("MULTITASK_PROMPT_TUNING"), lambda m: m(**batch("left")))
    got = found(good, crash)
    assert {"error", "calls"} <= got.keys() and got["error"].a is None and "task_ids" in got["error"].b
    assert found(crash, crash) == {}


# ---- what is not known


def test_what_was_not_kept_is_not_compared():
    trace = recorded(make(), lambda m: m(**batch(labels=True)))
    document = json.loads(trace.to_json())
    [call.pop("measured", None) for call in document["calls"]]  # as the first version wrote it
    old = Trace.from_json(document)
    result = compare(old, trace)
    assert result.differences == [] and {"positions", "next tokens"} <= set(result.unknown)
    assert "positions" in str(result) and not compare(old, old).unknown


def test_tables():
    a, b = {(0, "token", 0): 4, (0, "token", 1): 5}, {(0, "token", 1): 5, (0, "token", 2): 8}
    assert first_difference(a, b, 0) is None  # compared where both have something
    assert first_difference(a, {(0, "token", 1): 6}, 0) == (0, "token", 1)
    assert (
        first_difference(a, {(0,): UNKNOWN}, 0) == UNKNOWN == first_difference({(0,): 1}, {(0,): UNKNOWN}, 0)
    )
    assert first_difference(a, None, 0) == () and first_difference(None, None, 0) is None
    assert first_difference(float("nan"), float("nan"), 0) is None
    assert first_difference(2.30001, 2.30002, 1e-4) is None and first_difference(2.30001, 2.30002, 1e-7) == ()


def test_tokens_that_are_equally_likely_may_change_places():
    one, other = Chances([(5, "a", 0.3), (6, "b", 0.2)]), Chances([(5, "a", 0.3), (7, "c", 0.2)])
    assert first_difference(one, Chances([(6, "b", 0.2), (5, "a", 0.3)]), 1e-4) is None
    assert first_difference(one, other, 1e-4) is None
    assert first_difference(one, Chances([(5, "a", 0.4), (6, "b", 0.2)]), 1e-4) == ()
    assert first_difference(one, Chances([(9, "a", 0.3), (6, "b", 0.2)]), 1e-4) == ()


def test_what_is_as_good_as_never_said_may_change_places():
    row = lambda *chances: Chances([(i, "abc"[i], p) for i, p in chances])
    one = row((0, 0.9995), (1, 0.0003), (2, 0.0002))
    for other in (row((0, 0.9995), (2, 0.0003), (1, 0.0002)), row((0, 0.9996), (2, 0.0001))):
        assert first_difference(one, other, 1e-4) is None and first_difference(one, other, 1e-5) == ()
    assert first_difference(one, row((0, 0.997), (1, 0.002)), 1e-4) == ()


def test_two_answers_never_read_the_same():
    "More digits, or the part in which they differ."
    row = lambda p: Chances([(5, "a", p)])
    assert answer_texts("next tokens", row(0.25), row(0.250002)) == ["a 0.250000", "a 0.250002"]
    assert answer_texts("loss", 2.30000012, 2.30000034) == ["2.30000012", "2.30000034"]
    assert answer_texts("loss", 2.25, 2.5) == ["2.25", "2.5"]
    long = "x" * 500
    texts = answer_texts("error", f"{long}a{long}", f"{long}b{long}")
    assert texts[0] != texts[1] and all(len(text) <= 120 and text[0] == text[-1] == "…" for text in texts)
    assert answer_texts("error", long, long + "b")[1].endswith("xb")
    assert answer_texts("mask", None, ((1, 4),), "zh") == ["无", "1×4"]


def test_what_is_no_recording():
    with pytest.raises(TypeError, match="two recordings"):
        compare(Trace(), 5)
    with pytest.raises(ValueError, match="lang should be"):
        compare(Trace(), Trace(), lang="fr")
    assert set(FACTS) <= set(NAMES)


def test_damaged_recordings():
    rng, read = random.Random(3), 0
    good = recorded(make("PREFIX_TUNING"), STAGES["generate"], "left", "")
    text = good.to_json()
    for _ in range(120):
        document = json.loads(text)
        for name in ("about", "values", "calls"):
            damage(document[name], rng)
        try:
            trace = Trace.from_json(document)
        except TraceError:
            continue
        read += 1
        found(trace, good), found(good, trace)
        assert compare(trace, trace).differences == []
    assert read > 3


# ---- in a terminal


def test_the_command(tmp_path, capsys):
    a, b = (recorded(make(m), STAGES["forward"], "right", m) for m in ("LORA", "PROMPT_TUNING"))
    one, other, broken = tmp_path / "one.json", tmp_path / "other.json", tmp_path / "broken.json"
    a.save(one), b.save(other), broken.write_text("{")
    assert main(["compare", str(one), str(one)]) == 0
    assert "Nothing differs" in capsys.readouterr().out
    assert main(["compare", str(one), str(other), "--lang", "zh"]) == 1
    assert "位置编号" in capsys.readouterr().out
    for wrong in (broken, tmp_path / "nothing.json", tmp_path):
        assert main(["compare", str(one), str(wrong)]) == 2
        assert str(wrong) in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main(["compare", "--help"])
    assert end.value.code == 0 and "exit code" in capsys.readouterr().out


def test_show_prints_the_findings(tmp_path, capsys):
    file = recorded(make(), lambda m: m(**batch(labels=True))).save(tmp_path / "prompt.json")
    assert main(["show", str(file)]) == 0
    said = capsys.readouterr().out
    assert "4 more, one for each virtual token" in said and "logits[:, 4:]" in said
    file = recorded(make("LORA"), lambda m: m(**batch(labels=True))).save(tmp_path / "lora.json")
    assert main(["show", str(file)]) == 0 and "Nothing looks wrong" in capsys.readouterr().out
