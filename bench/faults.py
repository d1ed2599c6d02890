"""Kill, fill the disk, forbid, write at once, and interrupt, in great numbers; see `tests/faults.py`.

A promise that is not kept ends the command with the assertion that says which. `--json` keeps the figures for the
page of promises.
"""

import argparse, json, os, pathlib, sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", MPLBACKEND="agg", OMP_NUM_THREADS="1")

import torch

import faults


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--many", type=int, default=1000, help="interrupts; the others follow from it")
    parser.add_argument("--json", type=pathlib.Path, help="write the figures to this file, too")
    args = parser.parse_args()
    torch.set_num_threads(1)  # a process with one thread can be copied
    many, kinds, found = args.many, faults.KINDS, {}
    parts = {
        "killed": (faults.killed, kinds, many // 4),
        "full": (faults.full, kinds, many // 10),
        "read_only": (faults.read_only, kinds, max(1, many // 100)),
        "at_once": (faults.at_once, kinds, many // 4),
        "interrupted": (faults.interrupted, faults.CONFIGS, many // len(faults.CONFIGS) + 1),
    }
    for part, (function, names, n) in parts.items():
        found[part] = {name: dict(function(name, n)) for name in names}
        print(f"{part}: {found[part]}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
