"The table of what goes the other way at a decision: it is what a recording says."
# lane: here

import json, sys
from pathlib import Path

import pytest

import peft, peft_viz
from peft_viz.views import viewer
from peft_viz.views.ways import code, decides, keys, table, ways

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from ways import NAMES, recorded, rows, SETTINGS


def test_the_file_holds_the_settings_of_the_script():
    assert table()["settings"] == [dict(zip(NAMES, setting)) for setting in SETTINGS]
    assert table()["rows"] == rows()


@pytest.mark.parametrize("library", [peft_viz, peft], ids=["ours", "peft"])
@pytest.mark.parametrize("number", [0, 3, 4, 7, 14])
def test_a_setting_decides_as_the_table_says(number, library):
    "Each outcome that is recorded stands in the table, and where it names this setting, it is recorded."
    trace, seen = recorded(library, table()["settings"][number]), set()
    for call in trace.calls:
        source = None if call.source is None else trace.sources[call.source]
        if source is None or not decides(source.function):
            continue
        named = keys(source.text, source.function, source.first_line)
        seen |= {(named[s.line], str(s.branch).lower()) for s in call.steps if s.branch is not None}
    known = table()["ways"]
    assert seen and all(outcome in known[key] for key, outcome in seen)
    mine = {(key, o) for key, way in known.items() for o, n in way.items() if n == number}
    assert {(key, o) for key, o in mine if key in dict(seen)} <= seen


def test_the_viewer_gets_what_concerns_the_recording():
    trace = recorded(peft, table()["settings"][0])
    found = ways(trace)
    assert found["rows"] == {}  # the map is about this package
    assert json.loads(json.dumps(found)) == viewer.payload(trace)["ways"]
    source = next(i for i, s in enumerate(trace.sources) if s.function == "PeftModelForCausalLM.forward")
    outcomes = [way for way in found["at"][str(source)].values()]
    assert all(str(n) in found["settings"] for way in outcomes for n in way.values())
    used = next(iter(found["settings"].values()))
    assert set(used) == {"en", "zh", "code"} and used["code"] == code(table()["settings"][0])
