"""What recording costs: time with the recorder on, as a ratio of the time without.

Run with `make bench`. Plain and recorded runs are interleaved, so that a busy machine slows both alike; the
figure is the median of the ratios of neighbours, with the quartiles beside it. Each figure gets the same share of
`--minutes`; on the tiny model, where nearly all is overhead, the other half of the truth."""

import argparse, functools, importlib.util, itertools, json, pathlib, statistics, time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import peft_viz
from peft_viz import record


def as_large_as_smollm2():
    "A random model of SmolLM2-135M's sizes: the same time, without a download."
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
    )
    return LlamaForCausalLM(config)


MODELS = {"SmolLM2-135M's sizes": as_large_as_smollm2, "tiny": lambda: peft_viz.tiny_random("llama")}


def wrap(package, method: str, base):
    configs = dict(
        LORA=lambda: package.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"]),
        PROMPT_TUNING=lambda: package.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=8),
        PREFIX_TUNING=lambda: package.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=8),
    )
    return package.get_peft_model(base, configs[method]()).eval()


def seconds(go, model=None, layers=0) -> float:
    start = time.perf_counter()
    if model is None:
        go()
    else:
        with record(model, layers=layers):
            go()
    return time.perf_counter() - start


def ratios(go, model, share: float, least: int = 7) -> list:
    "Recorded over plain, pair by pair, for so many seconds; who goes first alternates."
    seconds(go), seconds(go, model)  # warm up
    found, end = [], time.monotonic() + share
    while len(found) < least or (time.monotonic() < end and len(found) < 1000):
        first = (lambda: seconds(go)), (lambda: seconds(go, model))
        swapped = len(found) % 2
        a, b = [f() for f in (first[::-1] if swapped else first)]
        plain, watched = (b, a) if swapped else (a, b)
        found.append(watched / plain)
    return found


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=6, help="for all figures together")
    parser.add_argument("--tokens", type=int, default=16, help="tokens to generate")
    parser.add_argument("--json", type=pathlib.Path, help="write the medians to this file, too")
    args = parser.parse_args()
    packages = [peft_viz] + ([importlib.import_module("peft")] if importlib.util.find_spec("peft") else [])
    methods = "LORA", "PROMPT_TUNING", "PREFIX_TUNING"
    share = 60 * args.minutes / (2 * len(MODELS) * len(packages) * len(methods))
    print(f"11 tokens in, {args.tokens} generated, {torch.get_num_threads()} threads")
    print(f"{'model':<22}{'package':<10}{'method':<16}{'forward':>24}{'generate':>24}")
    ids = torch.randint(10, 60, (1, 11), generator=torch.Generator().manual_seed(0))
    figures = dict(tokens=args.tokens, threads=torch.get_num_threads(), rows=[])
    for name, package, method in itertools.product(MODELS, packages, methods):
        model = wrap(package, method, MODELS[name]())
        inputs = dict(input_ids=ids, attention_mask=torch.ones_like(ids))
        length = dict(max_new_tokens=args.tokens, min_new_tokens=args.tokens)
        more = dict(inputs, **length, do_sample=False, pad_token_id=0)
        row = dict(model=name, package=package.__name__, method=method)
        for work, go in (
            ("forward", functools.partial(model, **inputs)),
            ("generate", functools.partial(model.generate, **more)),
        ):
            found = ratios(go, model, share)
            row[work] = [round(x, 3) for x in statistics.quantiles(found, n=4)]
            row[f"{work}_pairs"] = len(found)
        show = lambda r: "x{1:.3f} ({0:.3f}-{2:.3f})".format(*r)
        print(
            f"{name:<22}{package.__name__:<10}{method:<16}{show(row['forward']):>24}{show(row['generate']):>24}",
            flush=True,
        )
        figures["rows"].append(row)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
