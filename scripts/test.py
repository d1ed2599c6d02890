"""Run every notebook (nbdev's own test) and then every pytest test; end with one line that counts all.

    test.py                 what `make test` runs: notebooks, reference, rest
    test.py all             these, era4 and docs
    test.py coverage        reference, and every branch of it must be taken; where `CI` is set, `make test` runs this
                            instead of reference: measuring takes three quarters of the time of these tests besides
    test.py era4 rest       some parts: see PARTS
    test.py .venv-3.12      the tests of recorder and reference in another environment: `make python` makes it
    test.py era4 -k prefix  from the first dash on, pytest's own arguments

A notebook is one test: its cells run from the top, and an exception anywhere, or another output than the one that
was saved, fails it. Cells marked `#| notest` are left out.
"""

import os, re, subprocess, sys, tempfile, time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent)]
import lesson_branches
from notebooks import OFFLINE, ROOT, WORKERS, eligible, test_all

LANE = re.compile(r"^# lane: (\w+)$", re.M)
LANES = ("reference", "broad", "watching", "here", "site")


def lane(path):
    """Where a file of tests runs; it says so itself, in a line of its own, "# lane: reference".

    reference  what the models compute: in both environments, and every branch must be taken by one of these files
    broad      the same, tried on many families, methods and batches; in both environments. Its coverage is not
               measured, and no mutant is shown to it: what only these tests notice, a test of the first lane should
    watching   what is recorded and drawn of it, and whatever says nothing: in both environments. Many of these tests
               trace what runs, which no coverage tool may do besides
    here       what needs a browser or notebooks: in the first environment alone
    site       what the rendered docs must hold: `make docs` renders them, then runs this
    """
    said = LANE.search(path.read_text(encoding="utf-8"))
    if said and said[1] not in LANES:
        raise ValueError(f"{path.name}: there is no lane {said[1]}; there are {', '.join(LANES)}")
    return said[1] if said else "watching"


def files(*lanes):
    "The files of tests of these lanes, as paths within the checkout: lane by lane, each from the largest file on."
    every = sorted((ROOT / "tests").rglob("test_*.py"), key=lambda path: (-path.stat().st_size, path))
    return [str(path.relative_to(ROOT)) for wanted in lanes for path in every if lane(path) == wanted]


PARTS = {  # part: (Python environment, lanes, pytest's options)
    "reference": (".venv", ["reference"], ["-n", WORKERS, "--dist", "worksteal"]),
    # What is long and cannot be divided comes first (see `pytest_xdist_make_scheduler` in tests/conftest.py), single
    # tests last: so all workers end at the same time. There is one more of them than cores, since some of these tests
    # wait for a server, a browser or another process.
    "rest": (
        ".venv",
        ["here", "watching", "broad"],
        ["-n", WORKERS + 1, "--dist", "loadfile", "--no-loadscope-reorder"],
    ),
    "era4": (".venv-era4", ["reference", "broad", "watching"], ["-n", WORKERS, "--dist", "worksteal"]),
    "docs": (".venv", ["site"], []),
}
PARTS["coverage"] = (
    *PARTS["reference"][:2],
    [*PARTS["reference"][2], "--cov", "--cov-report=term-missing:skip-covered"],
)


def notebooks():
    "Run them all, as many at a time as there are cores; counts of (passed, failed, skipped)."
    print("Notebooks", flush=True)
    # The Chinese lessons have the code of the English ones: tests/project/test_course.py.
    passed, failed, skipped = test_all([path for path in eligible() if path.parent.name != "zh"])
    missed = lesson_branches.main()  # one test more: all branches are shown to the reader
    return passed + (not missed), failed + missed, skipped


def pytest(part, *arguments):
    "Run one part's tests; counts of (passed, failed, skipped). An error in a fixture or at collection is a failure."
    venv, lanes, options = PARTS.get(part) or (part, *PARTS["era4"][1:])
    python = ROOT / venv / "bin" / "python"
    if not python.exists():
        made_by = {".venv": "test", ".venv-era4": "era4"}.get(venv, "python PYTHON=...")
        sys.exit(f"There is no {venv}: run `make {made_by}`, which makes it.")
    start = time.time()
    print(f"\nTests: {part}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            python,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--durations=10",
            "--durations-min=10",
            *map(str, options),
            f"--junitxml={report}",
            *arguments,
            *files(*lanes),
        ]
        # What is measured lies in this run's own folder: left in the checkout, the data of a run that was
        # killed, or of one beside this, would be counted here.
        environment = {**os.environ, "COVERAGE_FILE": f"{folder}/coverage"}
        if venv != ".venv":
            environment.pop(
                "PEFT_VIZ_BROWSER", None
            )  # no Playwright there: a browser shows what it shows here
        status = subprocess.run(command, cwd=ROOT, env=environment).returncode
        suites = ElementTree.parse(report).getroot().iter("testsuite") if report.exists() else []
        total, failed, skipped = map(
            sum,
            zip(
                (0, 0, 0),
                *(
                    (
                        int(s.get("tests")),
                        int(s.get("failures")) + int(s.get("errors")),
                        int(s.get("skipped")),
                    )
                    for s in suites
                ),
            ),
        )
    if status and not failed:
        failed, total = 1, total + 1  # pytest gave up, or too little is covered: that must show in the count
    print(f"{part} took {time.time() - start:.0f} s", flush=True)
    return total - failed - skipped, failed, skipped


def main(*arguments):
    os.environ.update(OFFLINE)
    sys.path[:0] = [str(ROOT / "tests")]
    from conftest import find_chromium

    if os.environ.get("CI") or find_chromium():
        os.environ.setdefault("PEFT_VIZ_BROWSER", "required")
    dash = next((i for i, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    usual = ["notebooks", "coverage" if os.environ.get("CI") else "reference", "rest"]
    parts = arguments[:dash] or usual
    if "all" in parts:
        parts = [*usual, "era4", "docs"]
    if not all(part in ("notebooks", *PARTS) or part.startswith(".venv-") for part in parts):
        sys.exit(__doc__)
    start = time.time()
    counts = [notebooks() if part == "notebooks" else pytest(part, *arguments[dash:]) for part in parts]
    passed, failed, skipped = map(sum, zip(*counts))
    print(f"\n{', '.join(parts)}: {time.time() - start:.0f} s")
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
