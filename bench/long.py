"""How a recording grows with tokens, steps, layers and rows: time, memory, and the size of the file; and a text of
32,768 tokens.

Sizes of files are the same on every machine, memory nearly so; times are of this one. From the slopes follows what
a recording of a large model with a long context would take. Takes some two minutes.
"""

import argparse, gc, json, os, pathlib, resource, statistics, tempfile, time, tracemalloc

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")

import torch

from peft_viz import get_peft_model, PromptTuningConfig, record, tiny_random

SOFT = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
AXES = {  # what grows -> values; the others stay at the first
    "tokens": (64, 128, 256, 512, 1024),
    "steps": (8, 16, 32, 64, 128),
    "layers": (2, 4, 8, 16, 32),
    "rows": (2, 4, 8, 16, 32),
}
ROUNDS = 3


def peak() -> float:
    "The largest amount of memory so far, in megabytes."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def size(trace) -> int:
    "Bytes of the saved file."
    with tempfile.TemporaryDirectory() as folder:
        return trace.save(pathlib.Path(folder, "trace.json")).stat().st_size


def run(tokens: int, steps: int, layers: int, rows: int):
    "A function that generates, and its model."
    model = get_peft_model(tiny_random("llama", num_hidden_layers=layers, max_position_embeddings=4096), SOFT)
    ids = torch.randint(3, 60, (rows, tokens), generator=torch.Generator().manual_seed(0))
    how = dict(max_new_tokens=steps, min_new_tokens=steps, do_sample=False)
    return model.eval(), lambda: model.generate(input_ids=ids, **how)


def seconds(go) -> float:
    begun = time.perf_counter()
    go()
    return time.perf_counter() - begun


def memory(model, go) -> int:
    "Bytes that a trace keeps: what becomes free when it is forgotten."
    gc.collect()
    tracemalloc.start()
    with record(model) as trace:
        go()
    gc.collect()
    whole = tracemalloc.get_traced_memory()[0]
    del trace
    gc.collect()
    kept = whole - tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return kept


@torch.no_grad()
def point(**sizes) -> dict:
    "What one recording costs."
    model, go = run(**sizes)

    def recorded():
        with record(model):
            go()

    go(), recorded()  # warm up
    pairs = [(seconds(go), seconds(recorded)) for _ in range(ROUNDS)]
    with record(model) as trace:
        go()
    return dict(
        file=size(trace),
        memory=memory(model, go),
        seconds=round(max(0, statistics.median(b - a for a, b in pairs)), 4),
        run=round(statistics.median(a for a, _ in pairs), 4),
    )


def growth() -> dict:
    "For each axis: the values, what each costs, and the slope between the last two values."
    first, found = {name: values[0] for name, values in AXES.items()}, {}
    for name, values in AXES.items():
        points = [point(**{**first, name: value}) for value in values]
        found[name] = dict(values=values, points=points, slopes=slopes(values, points))
        print(f"{name}: {found[name]['slopes']} for one more", flush=True)
    return found


def slopes(values: tuple, points: list) -> dict:
    "What one more costs, at the end; and how much that is, compared with the beginning (1: a straight line)."
    found = {}
    for what in "file", "memory", "seconds":
        at = lambda i, j: (points[j][what] - points[i][what]) / (values[j] - values[i])  # noqa: B023
        found[what] = float(f"{at(-2, -1):.4g}")
        found[f"{what}_early"] = float(f"{at(0, 1):.4g}")
    return found


@torch.no_grad()
def long_text(tokens: int) -> dict:
    "A forward of a long text: the file, time, and what recording adds to the peak of memory."
    model = get_peft_model(
        tiny_random("llama", num_hidden_layers=1, max_position_embeddings=2 * tokens), SOFT
    )
    ids = torch.randint(3, 60, (1, tokens), generator=torch.Generator().manual_seed(0))
    go = lambda: model(input_ids=ids, logits_to_keep=1)
    model.eval(), go()
    plain, before = seconds(go), peak()
    with record(model) as trace:
        took = seconds(go)
    return dict(
        tokens=tokens,
        megabytes_of_memory=round(peak() - before, 1),
        bytes_of_file=size(trace),
        seconds=round(took, 2),
        seconds_without=round(plain, 2),
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--json", type=pathlib.Path, help="write the figures to this file, too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    figures = dict(growth=growth(), long=long_text(args.tokens))
    print(figures["long"])
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
