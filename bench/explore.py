"""How long an explorer takes: from a knob to its figures, and from the call to the first figure.

Run with `python bench/explore.py`. Beside the seconds on the clock stand those of the processor, which a busy
machine does not change."""

import argparse, json, statistics, subprocess, sys, time

from tqdm.auto import tqdm

from peft_viz import explore
from peft_viz.views import plot, widgets


FIRST = """import json, time
from peft_viz import explore
explorer = explore()
assert explorer.figures
print(json.dumps((time.perf_counter(), time.process_time())))"""


def first() -> tuple:
    "Milliseconds from the start of a fresh Python to the first figure, all that is imported among them."
    start = time.perf_counter()
    told = subprocess.run([sys.executable, "-c", FIRST], check=True, capture_output=True, text=True).stdout
    clock, processor = json.loads(told)
    return 1000 * (clock - start), 1000 * processor


def timed(go) -> tuple:
    "Milliseconds on the clock and of the processor."
    clock, processor = time.perf_counter(), time.process_time()
    go()
    return 1000 * (time.perf_counter() - clock), 1000 * (time.process_time() - processor)


def to_the_figure(explorer, knob, value) -> tuple:
    "Milliseconds from a knob to the moment at which its figures are sent: what is swept up later is not waited for."
    sent = []
    watch = lambda _: sent.append((time.perf_counter(), time.process_time()))
    explorer.pictures.observe(watch, "value")
    clock, processor = time.perf_counter(), time.process_time()
    explorer.set_trait(knob, value)
    explorer.pictures.unobserve(watch, "value")
    watch(None)  # where they look as before, nothing is sent
    return 1000 * (sent[0][0] - clock), 1000 * (sent[0][1] - processor)


def told(name, found):
    "A line: the median and the worst."
    clock, processor = zip(*found)
    print(
        f"{name:42} {statistics.median(clock):6.0f} ms   processor {statistics.median(processor):6.0f} ms"
        f"   worst {max(clock):6.0f} ms"
    )


def main():
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--rounds", type=int, default=3)
    rounds = ask.parse_args().rounds
    told("a fresh Python: the first figure", [first() for _ in range(rounds)])
    explorer, found = explore(), {}
    told("the model runs for the first time", [timed(lambda: explorer.trace)])
    told("another explorer", [timed(explore) for _ in range(rounds)])
    for turn in tqdm(range(rounds), leave=False):
        for method in widgets.CONFIG_FOR:
            explorer.texts = ("tea=aet", f"{'abcdefgh'[: 1 + turn % 8]}=")
            explorer.method = method
            knob = "rank" if method in ("LORA", "ADALORA", "POLY") else "num_virtual_tokens"
            turns = found.setdefault(method, [])
            if method == "IA3":  # it has no such knob
                knob = "padding_side"
            other = {"left": "right", "right": "left", 5: 3}
            turns.append(to_the_figure(explorer, knob, other.get(getattr(explorer, knob), 5)))
            explorer._kept.clear()
    for method, turns in found.items():
        told(f"a knob, {method}", turns)
    explorer.padding_side, explorer.mode = "left", "generate"
    generated = [to_the_figure(explorer, "new_tokens", n) for n in (2, 3, 5)]
    told("a knob, generate", generated)
    told("a row", [timed(lambda r=r: explorer.set_trait("row", r)) for r in (1, 0, 1, 0)])
    explorer.method = "PROMPT_TUNING"
    trace = explorer.trace
    for name, figure in plot.FIGURES.items():
        if name not in ("labels", "lora"):
            told(
                f"figure: {name}", [timed(lambda f=figure: widgets.picture(f(trace))) for _ in range(rounds)]
            )


if __name__ == "__main__":
    main()
