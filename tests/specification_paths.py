"""Which way tests go through the reference: `ways_of(names of tests)` runs them here, in a pytest session inside the
one that is running, and returns for each test its outcome and its ways.

The ways are, for each (file, function), pairs of lines that ran one after the other; -1: the function was called, or
it ended."""

import sys
from collections import defaultdict
from pathlib import Path

import pytest

import peft_viz

ROOT = Path(__file__).resolve().parent.parent
HOME = str(Path(peft_viz.__file__).parent) + "/"
REFERENCE = tuple(
    f"{HOME}reference/{name}"
    for name in ("causal_lm.py", "place.py", "generation.py", "calls.py", "model.py", "methods/cpt.py")
)


class Ways:
    "A pytest plugin."

    def __init__(self):
        self.ways, self.found = defaultdict(set), {}

    def watch(self, frame, event, arg):
        "For each call of a function of the reference, note the lines as they follow each other."
        code = frame.f_code
        if not code.co_filename.startswith(REFERENCE):
            return None
        ways, last = self.ways[code.co_filename.removeprefix(HOME), code.co_name], -1

        def line(frame, event, arg):
            nonlocal last
            if event in ("line", "return"):
                now = frame.f_lineno if event == "line" else -1
                ways.add((last, now))
                last = now
            return line

        return line

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item):
        self.ways = defaultdict(set)
        before = sys.gettrace()
        sys.settrace(self.watch)
        try:
            yield
        finally:
            sys.settrace(before)
        self.found[item.nodeid] = "passed", self.ways

    def pytest_runtest_logreport(self, report):
        if report.outcome != "passed":
            self.found[report.nodeid] = report.outcome, {}


def ways_of(tests: list) -> dict:  # names of tests -> name -> outcome, ways
    "Run these tests once, and see where they go. A test that does not exist is not in the answer."
    plugin = Ways()
    quiet = ["-p", "no:terminal", "-p", "no:cacheprovider", "-p", "no:faulthandler", "-o", "addopts="]
    pytest.main(
        [*quiet, "--rootdir", str(ROOT), *(str(ROOT / name) for name in sorted(set(tests)))], [plugin]
    )
    return plugin.found


def went(
    ways: dict,  # of one test
    file: str,  # inside the package
    function: str,  # without its class
    node,  # a statement in it, parsed, with the line numbers of the file
    outcome: bool | None,  # of an `if`; None: is the statement reached?
) -> bool:
    "Does the test come by there, with this outcome?"
    body = getattr(node, "body", None)
    head = range(node.lineno, body[0].lineno if body else node.end_lineno + 1)
    pairs = ways.get((file, function), ())
    if outcome is None:
        return any(after in head for _, after in pairs)
    inside = range(body[0].lineno, body[-1].end_lineno + 1)
    return any(a in head and b not in head and (b in inside) == outcome for a, b in pairs)
