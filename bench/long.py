"""How a recording grows: with tokens, steps, layers and rows, and with a text of 32,768 tokens.

Sizes are those of the saved file; they are the same on every machine. From the slopes follows what a recording of a
large model with a long context would take.
"""

import argparse, json, os, pathlib, resource, tempfile

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")

import torch

from peft_viz import get_peft_model, PromptTuningConfig, record, tiny_random

SOFT = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
AXES = {  # what grows -> values; the others stay at the first
    "tokens": (16, 32, 64, 128),
    "steps": (4, 8, 16, 32),
    "layers": (1, 2, 4, 8),
    "rows": (1, 2, 4, 8),
}


def peak() -> float:
    "The largest amount of memory so far, in megabytes."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def size(trace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return trace.save(pathlib.Path(folder, "trace.json")).stat().st_size


@torch.no_grad()
def recorded(tokens: int, steps: int, layers: int, rows: int):
    "A trace of a generate."
    model = get_peft_model(tiny_random("llama", num_hidden_layers=layers), SOFT).eval()
    ids = torch.randint(3, 60, (rows, tokens), generator=torch.Generator().manual_seed(0))
    with record(model) as trace:
        model.generate(input_ids=ids, max_new_tokens=steps, min_new_tokens=steps, do_sample=False)
    return trace


def slopes() -> dict:
    "Bytes of a file for each token, step, layer and row: first to second value, and third to last."
    first, found = {name: values[0] for name, values in AXES.items()}, {}
    for name, values in AXES.items():
        sizes = [size(recorded(**{**first, name: value})) for value in values]
        at = lambda i, j: round((sizes[j] - sizes[i]) / (values[j] - values[i]), 1)  # noqa: B023
        found[name] = dict(sizes=dict(zip(values, sizes)), early=at(0, 1), late=at(2, 3))
    return found


@torch.no_grad()
def long_text(tokens: int) -> dict:
    "A forward of a long text: the file, and what recording adds to the peak of memory."
    model = get_peft_model(
        tiny_random("llama", num_hidden_layers=1, max_position_embeddings=2 * tokens), SOFT
    )
    ids = torch.randint(3, 60, (1, tokens), generator=torch.Generator().manual_seed(0))
    model.eval()(input_ids=ids, logits_to_keep=1)
    before = peak()
    with record(model) as trace:
        model(input_ids=ids, logits_to_keep=1)
    return dict(tokens=tokens, megabytes_of_memory=round(peak() - before, 1), bytes_of_file=size(trace))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--json", type=pathlib.Path, help="write the figures to this file, too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    figures = dict(growth=slopes(), long=long_text(args.tokens))
    for name, found in figures["growth"].items():
        print(f"{name}: {found['sizes']}; bytes for one more: {found['early']}, later {found['late']}")
    print(figures["long"])
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
