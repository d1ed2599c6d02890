"""Damage traces, configurations and checkpoints, in great numbers, and see what comes of each.

Run with `make fuzz`. Right is: a refusal in words that leaves everything as it was, or something whole that can be
drawn, run, saved and read again (`tests/damage.py`); within two seconds and 500 MB. What is not right is printed
with the seed that makes it again, each place once, and the command fails. `--json` keeps the figures for the page
of promises.
"""

import argparse, json, os, pathlib, random, resource, signal, sys, time, traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", MPLBACKEND="agg", OMP_NUM_THREADS="1")
SECONDS, MEGABYTES = 2, 500
SLICE = 500  # attempts that share a process' samples


class TooSlow(BaseException):
    "An attempt took more than `SECONDS`."


def too_slow(*_):
    raise TooSlow(f"more than {SECONDS} seconds")


def used():
    "Megabytes of address space that this process has."
    return int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() / 2**20


def where(error):
    "The innermost line of ours: faults of one place are one fault."
    own = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if "peft_viz" in f.filename or "damage" in f.filename
    ]
    place = f"{pathlib.Path(own[-1].filename).name}:{own[-1].lineno}" if own else "?"
    return f"{type(error).__name__} at {place}: {' '.join(str(error).split())[:160]}"


def attempt(target, seed):
    "One attempt under limits: (what came of it, seconds, the fault or None)."
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (int((used() + MEGABYTES) * 2**20), hard))
    # (processor time: another program that is busy is not our fault)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    begun = time.process_time()
    try:
        came, fault = target.attempt(random.Random(seed)), None
    except (Exception, TooSlow) as error:
        came, fault = "fault", where(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    return came, time.process_time() - begun, fault


TARGETS = {}


def run(kind, first, many):
    "A slice of attempts: counts, the longest time, and faults with the seeds that make them."
    import torch
    from damage import KINDS

    torch.set_num_threads(1)
    signal.signal(signal.SIGPROF, too_slow)
    target = TARGETS.setdefault(kind, KINDS[kind]())
    counts, faults, longest = Counter(), {}, 0
    for seed in range(first, first + many):
        came, seconds, fault = attempt(target, seed)
        counts[came] += 1
        longest = max(longest, seconds)
        if fault:
            faults.setdefault(fault, []).append(seed)
            TARGETS[kind] = target = KINDS[kind]()  # whatever state it is in
    return kind, counts, longest, faults


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = "traces", "configurations", "checkpoints"
    parser.add_argument("--many", type=int, default=100_000, help="attempts of each kind")
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--seed", type=int, default=0, help="of the first attempt")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=pathlib.Path, help="write the figures to this file, too")
    args = parser.parse_args()
    counts, faults, longest = {k: Counter() for k in args.kinds}, {k: {} for k in args.kinds}, Counter()
    with ProcessPoolExecutor(args.jobs) as pool:
        ends = args.seed + args.many
        tasks = [
            pool.submit(run, kind, first, min(SLICE, ends - first))
            for kind in args.kinds
            for first in range(args.seed, ends, SLICE)
        ]
        for task in as_completed(tasks):
            kind, counted, slowest, found = task.result()
            counts[kind] += counted
            longest[kind] = max(longest[kind], slowest)
            for fault, seeds in found.items():
                if fault not in faults[kind]:
                    print(f"{kind}: {fault} (seed {seeds[0]})", flush=True)
                faults[kind].setdefault(fault, []).extend(seeds)
    figures = {}
    for kind in args.kinds:
        c = counts[kind]
        figures[kind] = dict(
            tried=c.total(),
            refused=c["refused"],
            read=c["read"],
            faults=c["fault"],
            seconds=round(longest[kind], 2),
        )
        print(f"{kind}: {figures[kind]}, in {len(faults[kind])} places")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    sys.exit(any(faults.values()))


if __name__ == "__main__":
    main()
