"""What `import peft_viz` and its public names cost beside `import peft`: modules, and seconds of the processor.

Each is imported in a process of its own, in turns; the figure is the median of the ratios of neighbours.
"""

import argparse, json, pathlib, statistics, subprocess, sys

OURS = "import peft_viz\nfor name in peft_viz.__all__: getattr(peft_viz, name)"
COUNT = "\nimport sys, time; print(len(sys.modules), time.process_time())"


def cost(what: str) -> tuple[int, float]:
    "Modules that are there, and seconds that the process took."
    done = subprocess.run([sys.executable, "-c", what + COUNT], check=True, capture_output=True, text=True)
    modules, seconds = done.stdout.split()
    return int(modules), float(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=pathlib.Path, help="write the figures to this file, too")
    args = parser.parse_args()
    cost(OURS), cost("import peft")  # what is compiled the first time
    pairs = [(cost(OURS), cost("import peft")) for _ in range(args.rounds)]
    (ours, _), (theirs, _) = pairs[0]
    ratio = statistics.median(a[1] / b[1] for a, b in pairs)
    figures = dict(modules=ours, modules_of_peft=theirs, time=round(ratio, 2))
    print(figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
