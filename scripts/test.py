"""Run every notebook (nbdev's own test) and then every pytest test; end with one line that counts all.

    test.py                 what `make test` runs: notebooks, reference, rest
    test.py all             these and era4
    test.py era4 rest       some parts: see PARTS
    test.py era4 -k prefix  from the first dash on, pytest's own arguments

A notebook is one test: its cells run from the top, and an exception anywhere fails it. Cells marked `#| notest` are left out.
"""

import os, subprocess, sys, tempfile, time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent)]
from notebooks import ROOT, eligible

WORKERS = max(1, min(4, os.cpu_count() or 1))
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "agg",
    "OMP_NUM_THREADS": "1",
}

# Every tests/test_*.py stands in one of these; tests/test_lanes.py misses those that do not.
REFERENCE = "adalora architectures branches checkpoint config lora matrix merge mistakes parity parity_more poly prompt_branches properties reference reference_errors right surface training".split()  # what the models compute
WATCHING = "layout models plot record specification trace widgets".split()  # what is recorded and drawn of it; record and specification trace what runs themselves: no coverage tool may do so besides
REST = "docs lab lanes project viewer".split()

PARTS = {  # part: (Python environment, test files, pytest's options)
    "reference": (
        ".venv",
        REFERENCE,
        ["--dist", "worksteal", "--cov", "--cov-report=term-missing:skip-covered"],
    ),
    "rest": (".venv", WATCHING + REST, ["--dist", "loadfile", "--no-loadscope-reorder"]),
    "era4": (".venv-era4", REFERENCE + WATCHING, ["--dist", "worksteal"]),
}


def notebook(path):
    "Run one notebook in a process of its own: (path, passed?, seconds, what it wrote)."
    start = time.time()
    try:
        done = subprocess.run(
            [sys.executable, "scripts/notebooks.py", "test", path],
            cwd=ROOT,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=1200,
        )
    except subprocess.TimeoutExpired:
        return path, False, time.time() - start, "it did not end within 20 minutes"
    return path, done.returncode == 0, time.time() - start, done.stdout + done.stderr


def notebooks():
    "Run them all, as many at a time as there are cores; counts of (passed, failed, skipped)."
    paths, passed = eligible(), 0
    print(f"Notebooks: {len(paths)}", flush=True)
    with ThreadPoolExecutor(WORKERS) as pool:
        for path, good, seconds, output in pool.map(notebook, paths):
            passed += good
            print(
                f"  {'ok    ' if good else 'FAILED'} {seconds:6.1f} s  {path.relative_to(ROOT)}", flush=True
            )
            if not good:
                print("\n" + output.strip() + "\n", flush=True)
    return passed, len(paths) - passed, 0


def paths(files):
    return [f"tests/test_{name}.py" for name in files]


def pytest(part, *arguments):
    "Run one part's tests; counts of (passed, failed, skipped). An error in a fixture or at collection is a failure."
    venv, files, options = PARTS[part]
    python = ROOT / venv / "bin" / "python"
    if not python.exists():
        sys.exit(
            f"There is no {venv}: run `make {'era4' if venv.endswith('era4') else 'test'}`, which makes it."
        )
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
            "-n",
            str(WORKERS),
            *options,
            f"--junitxml={report}",
            *arguments,
            *paths(files),
        ]
        # What is measured lies in this run's own folder: left in the checkout, the data of a run that was killed, or of one beside this, would be counted here.
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
    parts = arguments[:dash] or ["notebooks", "reference", "rest"]
    if "all" in parts:
        parts = ["notebooks", *PARTS]
    if not set(parts) <= {"notebooks", *PARTS}:
        sys.exit(__doc__)
    start = time.time()
    counts = [notebooks() if part == "notebooks" else pytest(part, *arguments[dash:]) for part in parts]
    passed, failed, skipped = map(sum, zip(*counts))
    print(f"\n{', '.join(parts)}: {time.time() - start:.0f} s")
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
