"""Measure everything that the page of promises shows, one after the other, into `bench/figures.json`.

Run with `make promises` on a machine with nothing else to do. It takes some hours: `--many`, `--strikes` and
`--minutes` shorten it, `--only` measures some parts again and keeps the others. `make bench` measures only what a
recording costs, in a quarter of an hour.
"""

import argparse, datetime, json, pathlib, subprocess, sys, tempfile

HERE = pathlib.Path(__file__).resolve().parent
PARTS = {
    "imports": ["bench/imports.py"],
    "growth": ["bench/long.py"],
    "record": ["bench/record.py"],
    "compare": ["bench/compare.py"],
    "faults": ["bench/faults.py", "--many", "{strikes}"],
    "fuzz": ["scripts/fuzz.py", "--many", "{many}"],
    "soak": ["bench/soak.py", "{minutes}"],
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--many", type=int, default=100_000, help="damaged inputs of each kind")
    parser.add_argument(
        "--strikes", type=int, default=1000, help="interrupts; kills and the like follow from it"
    )
    parser.add_argument("--minutes", type=float, default=60, help="of the soak test")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    args = parser.parse_args()
    store = HERE / "figures.json"
    figures = json.loads(store.read_text()) if store.exists() else {}
    for name in args.only:
        with tempfile.TemporaryDirectory() as folder:
            told = pathlib.Path(folder, "figures.json")
            command = [part.format(**vars(args)) for part in PARTS[name]]
            done = subprocess.run([sys.executable, *command, "--json", str(told)], cwd=HERE.parent)
            if not told.exists():
                sys.exit(f"{' '.join(command)} ended with {done.returncode} and left no figures")
            figures[name] = json.loads(told.read_text())
            figures.setdefault("measured", {})[name] = datetime.date.today().isoformat()
            store.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
