"""Recorded training and generation in a loop, for an hour or as long as you say: is the memory flat?

Run with `make soak`. Each round trains a step and generates, recorded, saves the trace, reads and shows it, and
forgets everything. Memory is read once a round. The figure is the slope over the second half, in kilobytes a round:
what a leak would grow by for ever. More than `LIMIT` fails.
"""

import argparse, gc, json, os, pathlib, resource, statistics, sys, tempfile, time

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", MPLBACKEND="agg")

import matplotlib.pyplot as plt
import torch

from peft_viz import (
    get_peft_model,
    LoraConfig,
    plot,
    PrefixTuningConfig,
    PromptTuningConfig,
    record,
    tiny_random,
    Trace,
)

LIMIT = 8  # kilobytes a round
CLM = dict(task_type="CAUSAL_LM")
CONFIGS = (
    LoraConfig(**CLM),
    PromptTuningConfig(**CLM, num_virtual_tokens=4),
    PrefixTuningConfig(**CLM, num_virtual_tokens=4),
)


def memory() -> float:
    "Megabytes of this process that are in memory."
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def round_of(model, optimizer, ids, folder):
    "Train, generate, save, read, show; nothing is kept."
    model.train()
    with record(model) as training:
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    with record(model, layers=1) as generation, torch.no_grad():
        model.generate(input_ids=ids, max_new_tokens=4, do_sample=False)
    for trace in (training, generation):
        again = Trace.load(trace.save(folder / "trace.json"))
        again.save(folder / "trace.html")
    plot.sequence(training)
    plt.close("all")


def slope(values: list) -> float:
    "Megabytes a round, over the second half (the median of all slopes between two rounds does not mind jumps)."
    half = values[len(values) // 2 :]
    step = max(1, len(half) // 200)
    points = list(enumerate(half))[::step]
    pairs = [(b - a) / (j - i) for k, (i, a) in enumerate(points) for j, b in points[k + 1 :]]
    return statistics.median(pairs) if pairs else 0.0


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("minutes", type=float, nargs="?", default=60)
    parser.add_argument("--json", type=pathlib.Path, help="write the figures to this file, too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    ids = torch.randint(3, 60, (2, 12), generator=torch.Generator().manual_seed(0))
    models = [get_peft_model(tiny_random("llama"), config) for config in CONFIGS]
    trained = [[p for p in model.parameters() if p.requires_grad] for model in models]
    optimizers = [torch.optim.AdamW(parameters, lr=1e-4) for parameters in trained]
    end, found = time.monotonic() + 60 * args.minutes, []
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end or len(found) < 20:
            for model, optimizer in zip(models, optimizers):
                round_of(model, optimizer, ids, pathlib.Path(folder))
            gc.collect()
            found.append(memory())
            if len(found) % 100 == 0:
                print(f"round {len(found)}: {found[-1]:.1f} MB", flush=True)
    figures = dict(
        minutes=args.minutes,
        rounds=len(found),
        megabytes_first=round(found[len(found) // 2], 1),
        megabytes_last=round(found[-1], 1),
        kilobytes_a_round=round(1024 * slope(found), 2),
    )
    print(figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    sys.exit(figures["kilobytes_a_round"] > LIMIT)


if __name__ == "__main__":
    main()
