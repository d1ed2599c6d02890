"""How fast the reference is beside Hugging Face peft: time of ours as a ratio of peft's, with nothing recorded.

Run with `make bench`. Nine methods on a small Llama, forward and backward, and generate. Ours and peft's runs are
interleaved, so that a busy machine slows both alike; each figure is the median of the ratios of neighbours, with the
quartiles beside it. Below 1 ours is faster. The time is that of the processor, which other programs disturb least; the
last lines are the geometric means of the medians, by the processor's time and by the clock on the wall.
"""

import argparse, functools, gc, json, pathlib, statistics, time

import peft
import torch
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

import peft_viz

COMMON = dict(task_type="CAUSAL_LM")
VIRTUAL = dict(COMMON, num_virtual_tokens=8)
METHODS = {
    "prompt tuning": ("PromptTuningConfig", VIRTUAL),
    "P-tuning": ("PromptEncoderConfig", dict(VIRTUAL, encoder_hidden_size=64)),
    "multitask": ("MultitaskPromptTuningConfig", dict(VIRTUAL, num_tasks=3)),
    "prefix tuning": ("PrefixTuningConfig", VIRTUAL),
    "CPT": (
        "CPTConfig",
        dict(COMMON, cpt_token_ids=list(range(11, 19)), cpt_tokens_type_mask=[1, 2, 2, 3, 4, 1, 2, 4]),
    ),
    "LoRA": ("LoraConfig", COMMON),
    "AdaLoRA": ("AdaLoraConfig", dict(COMMON, total_step=1000)),
    "IA3": ("IA3Config", COMMON),
    "POLY": ("PolyConfig", dict(COMMON, n_tasks=3, n_skills=2)),
}
WITH_TASKS = "multitask", "POLY"
PACKAGES = dict(ours=peft_viz, peft=peft)
MODELS = 6  # of each package, for each figure


def model(package, method: str):
    "A small Llama with the method around it; the base model has the same weights in both packages."
    torch.manual_seed(0)
    sizes = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4)
    base = LlamaForCausalLM(LlamaConfig(vocab_size=256, **sizes))
    base.generation_config.eos_token_id = None
    name, fields = METHODS[method]
    return package.get_peft_model(base, getattr(package, name)(**fields))


def train(model, inputs: dict):
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    model.zero_grad(set_to_none=True)


@torch.no_grad()
def generate(model, inputs: dict, tokens: int):
    model.generate(**inputs, max_new_tokens=tokens, do_sample=False, pad_token_id=0)


CLOCKS = time.process_time, time.perf_counter  # of the processor, on the wall


def seconds(go) -> list:
    "How long it takes, by each clock."
    start = [clock() for clock in CLOCKS]
    go()
    return [clock() - began for clock, began in zip(CLOCKS, start)]


def ratios(method: str, mode: bool, go, rounds: int, title: str) -> list:
    """For each clock: time of ours over time of peft's, pair by pair.

    Where a model lies in memory makes it some hundredths faster or slower for as long as it lives. So there are
    several pairs of models; which one of a pair is built first, and runs first, alternates."""
    found = []
    gc.disable()  # or one of the two pays for both
    bar = tqdm(total=rounds, desc=title, leave=False)
    for built in range(MODELS):
        names = ["ours", "peft"][:: -1 if built % 2 else 1]
        models = {name: model(PACKAGES[name], method).train(mode) for name in names}
        for one in models.values():
            for _ in range(2):  # warm up
                go(one)
        gc.collect()
        gc.freeze()  # so that the collections below are short
        for i in range(max(1, rounds // MODELS)):
            times = {
                name: seconds(functools.partial(go, models[name])) for name in names[:: -1 if i % 2 else 1]
            }
            found.append([ours / theirs for ours, theirs in zip(times["ours"], times["peft"])])
            gc.collect()
            bar.update()
        gc.unfreeze()
    gc.enable()
    return list(zip(*found))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=60, help="pairs of runs for each figure, at least 6")
    parser.add_argument("--tokens", type=int, default=16, help="tokens to generate")
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=list(METHODS), help="default: all nine"
    )
    parser.add_argument("--json", type=pathlib.Path, help="write the medians to this file, too")
    args = parser.parse_args()
    torch.set_num_threads(1)  # more gain nothing on so small a model
    print(f"peft_viz {peft_viz.__version__} over peft {peft.__version__}, {args.rounds} pairs, one thread")
    print(f"{'method':<16}{'forward + backward':>26}{'generate ' + str(args.tokens):>26}")
    ids = torch.randint(10, 250, (4, 24), generator=torch.Generator().manual_seed(0))
    medians, figures = [], {}
    for method in args.methods:
        inputs = dict(input_ids=ids, attention_mask=torch.ones_like(ids))
        if method in WITH_TASKS:
            inputs["task_ids"] = torch.tensor([0, 1, 2, 0])
        shown = []
        for work, go in ("train", train), ("generate", functools.partial(generate, tokens=args.tokens)):
            one_run = functools.partial(go, inputs=inputs)
            by_clock = ratios(method, work == "train", one_run, args.rounds, f"{method}, {work}")
            quartiles = statistics.quantiles(by_clock[0], n=4)
            medians.append([statistics.median(found) for found in by_clock])
            figures[f"{method} {work}"] = round(quartiles[1], 3)
            shown.append("x{1:.3f} ({0:.3f}-{2:.3f})".format(*quartiles))
        print(f"{method:<16}{shown[0]:>26}{shown[1]:>26}", flush=True)
    for clock, found in zip(("processor", "wall"), zip(*medians)):
        mean, slowest = statistics.geometric_mean(found), max(found)
        print(f"{clock}: geometric mean x{mean:.3f}, the slowest x{slowest:.3f}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
