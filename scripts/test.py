"""Run every notebook (nbdev's own test) and then every pytest test; end with one line that counts both.

    test.py            all
    test.py notebooks  the notebooks alone
    test.py pytest     the tests alone (more arguments go to pytest)

A notebook is one test: its cells run from the top, and an exception anywhere fails it. Cells marked `#| notest` are left out.
"""
import os, subprocess, sys, tempfile, time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent)]
from notebooks import ROOT, eligible

WORKERS = max(1, min(4, os.cpu_count() or 1))
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}


def notebook(path):
    "Run one notebook in a process of its own: (path, passed?, seconds, what it wrote)."
    start = time.time()
    try: done = subprocess.run([sys.executable, "scripts/notebooks.py", "test", path], cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=1200)
    except subprocess.TimeoutExpired: return path, False, time.time() - start, "it did not end within 20 minutes"
    return path, done.returncode == 0, time.time() - start, done.stdout + done.stderr


def notebooks():
    "Run them all, as many at a time as there are cores; counts of (passed, failed, skipped)."
    paths, passed = eligible(), 0
    print(f"Notebooks: {len(paths)}", flush=True)
    with ThreadPoolExecutor(WORKERS) as pool:
        for path, good, seconds, output in pool.map(notebook, paths):
            passed += good
            print(f"  {'ok    ' if good else 'FAILED'} {seconds:6.1f} s  {path.relative_to(ROOT)}", flush=True)
            if not good: print("\n" + output.strip() + "\n", flush=True)
    return passed, len(paths) - passed, 0


def pytest(*arguments):
    "Run the tests in tests/; counts of (passed, failed, skipped). An error in a fixture or at collection is a failure."
    workers = ["-n", str(WORKERS), "--dist", "loadfile", "--no-loadscope-reorder"] if WORKERS > 1 and not arguments else []
    print("\nTests", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder)/"report.xml"
        status = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=10", "--durations-min=10", *workers, f"--junitxml={report}", *arguments], cwd=ROOT).returncode
        suites = ElementTree.parse(report).getroot().iter("testsuite") if report.exists() else []
        total, failed, skipped = map(sum, zip((0, 0, 0), *((int(s.get("tests")), int(s.get("failures")) + int(s.get("errors")), int(s.get("skipped"))) for s in suites)))
    if status and not failed: failed, total = 1, total + 1      # pytest itself gave up: that must show in the count
    return total - failed - skipped, failed, skipped


def main(part="all", *arguments):
    os.environ.update(OFFLINE)
    sys.path[:0] = [str(ROOT/"tests")]
    from conftest import find_chromium
    if os.environ.get("CI") or find_chromium(): os.environ.setdefault("PEFT_VIZ_BROWSER", "required")
    start, counts = time.time(), []
    if part in ("all", "notebooks"): counts.append(notebooks())
    if part in ("all", "pytest"): counts.append(pytest(*arguments))
    if not counts: sys.exit(__doc__)
    passed, failed, skipped = map(sum, zip(*counts))
    print(f"\nNotebooks and tests took {time.time() - start:.0f} s")
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""), flush=True)
    return 1 if failed or not passed else 0


if __name__ == "__main__": sys.exit(main(*sys.argv[1:]))
