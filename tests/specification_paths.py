"""A pytest plugin: which way each of some tests goes through the reference. Use: `PATHS_FILE=tests.json pytest
-p specification_paths FILES`

tests.json holds a list of names of tests; others are not run. Afterwards it holds: test -> outcome and [file,
function, from line, to line] of each pair of lines that ran one after the other (-1: came in, or left)."""

import json, os, sys
from pathlib import Path

import pytest

import peft_viz

HOME = str(Path(peft_viz.__file__).parent) + "/"
REFERENCE = tuple(HOME + name for name in ("causal_lm.py", "model.py", "tuners/"))
ways, found = set(), {}


def watch(frame, event, arg):
    "For each call of a function of the reference, note the lines as they follow each other."
    code = frame.f_code
    if not code.co_filename.startswith(REFERENCE):
        return None
    place, last = (code.co_filename.removeprefix(HOME), code.co_name), -1

    def line(frame, event, arg):
        nonlocal last
        if event in ("line", "return"):
            now = frame.f_lineno if event == "line" else -1
            ways.add((*place, last, now))
            last = now
        return line

    return line


def pytest_collection_modifyitems(items):
    wanted = set(json.loads(Path(os.environ["PATHS_FILE"]).read_text()))
    items[:] = [item for item in items if item.nodeid in wanted]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    ways.clear()
    sys.settrace(watch)
    try:
        yield
    finally:
        sys.settrace(None)
    found[item.nodeid] = ["passed", sorted(ways)]


def pytest_runtest_logreport(report):
    if report.outcome != "passed":
        found[report.nodeid] = [report.outcome, []]


def pytest_sessionfinish():
    Path(os.environ["PATHS_FILE"]).write_text(json.dumps(found))
