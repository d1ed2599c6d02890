"""The viewer in Chromium: size of the file, memory, time to open, time of a frame. Prints a line for each goal.

Run with `python bench/page.py`, or `make bench`. Frames are measured as the processor time of the page's thread
(`ThreadTime`, from the DevTools protocol) for a step or a scroll and its layout and painting. So a busy machine does
not change them much."""

import argparse, statistics, sys, tempfile, time
from pathlib import Path

import torch
from playwright.sync_api import sync_playwright
from transformers import LlamaConfig, LlamaForCausalLM

from peft_viz import get_peft_model, load_tiny, PromptTuningConfig, record

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from conftest import find_chromium

SOFT = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=8)
VIEW = "document.querySelector('peft-viz-trace')"
FRAME = 1000 / 60  # milliseconds


def model(layers: int, tokens: int = 2048):
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2)
    config = LlamaConfig(
        vocab_size=len(load_tiny()[1]),
        num_hidden_layers=layers,
        max_position_embeddings=tokens,
        eos_token_id=None,
        pad_token_id=0,
        **sizes,
    )
    return get_peft_model(LlamaForCausalLM(config), SOFT).eval()


@torch.no_grad()
def generated(layers: int, new_tokens: int):
    "Four rows, padded: a forward with labels and a generate."
    soft, tokenizer = model(layers), load_tiny()[1]
    texts = ["fig=", "hello=", "abcdefgh=", "peft="]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    with record(soft, tokenizer=tokenizer) as trace:
        soft(**batch, labels=batch["input_ids"])
        soft.generate(**batch, max_new_tokens=new_tokens, do_sample=False)
    return trace


@torch.no_grad()
def long_text(tokens: int):
    "A forward of one row, whose attention mask has tokens x tokens entries."
    soft = model(1, 2 * tokens)
    ids = torch.randint(3, 60, (1, tokens), generator=torch.Generator().manual_seed(0))
    with record(soft, tokenizer=load_tiny()[1]) as trace:
        soft(input_ids=ids, attention_mask=torch.ones_like(ids))
    return trace


class Opened:
    "A page of Chromium that shows a file, and what it costs."

    def __init__(self, browser, file: Path):
        self.page = browser.new_page(viewport=dict(width=1400, height=900))
        self.tools = self.page.context.new_cdp_session(self.page)
        self.tools.send("Performance.enable", {"timeDomain": "threadTicks"})
        begin = time.perf_counter()
        self.page.goto(file.as_uri())
        self.page.wait_for_function(f"{VIEW}.steps > 0")
        self.page.evaluate(
            "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )
        self.clock, self.processor = time.perf_counter() - begin, self.spent() / 1000

    def spent(self) -> float:
        "Milliseconds that the page's thread has worked."
        found = {m["name"]: m["value"] for m in self.tools.send("Performance.getMetrics")["metrics"]}
        return 1000 * found["TaskDuration"]

    def frames(self, act: str, times: int) -> list:
        "Milliseconds of work for each of `times` acts, layout and painting included."
        wait = "new Promise(done => requestAnimationFrame(() => setTimeout(done)))"
        found = []
        for i in range(times):
            before = self.spent()
            self.page.evaluate(f"async i => {{ const el = {VIEW}; {act}; await {wait}; }}", i)
            found.append(self.spent() - before)
        return found


def heap(browser, file: Path) -> float:
    "Megabytes that a page holds which no tool has run a script in."
    page = browser.new_page(viewport=dict(width=1400, height=900))
    tools = page.context.new_cdp_session(page)
    page.goto(file.as_uri())
    page.wait_for_timeout(3000)
    tools.send("HeapProfiler.enable")
    tools.send("HeapProfiler.collectGarbage")
    found = tools.send("Runtime.getHeapUsage")["usedSize"] / 1e6
    page.close()
    return found


def told(name: str, found: float, most: float, unit: str):
    print(f"{name:64} {found:8.2f} {unit:3} at most {most:5.1f}{'' if found <= most else '   TOO MUCH'}")


def worst(times: list) -> float:  # the 95th percentile
    return statistics.quantiles(times, n=20)[-1]


def long_ones(browser, file: Path, tokens: int):
    "One forward of a long text: opened, stepped through, scrolled."
    told(f"{tokens:,} tokens: the file", file.stat().st_size / 1e6, 2, "MB")
    page = Opened(browser, file)
    told("   open, processor", page.processor, 1, "s")
    told("   a moment of the story, 95 of 100", worst(page.frames("el.goScene(i % 13)", 40)), FRAME, "ms")
    page.page.evaluate(f"{VIEW}.openTab('lines')")
    page.page.evaluate(f"{VIEW}.go(0)")
    told("   a step of the lines", worst(page.frames("el.move(1)", 40)), FRAME, "ms")
    scroll = "el.shadowRoot.querySelector('.sequence .scroll').scrollLeft += 60"
    page.page.evaluate(f"{VIEW}.go({VIEW}.steps - 2)")
    told("   scrolling its mask", worst(page.frames(scroll, 60)), FRAME, "ms")
    page.page.evaluate(f"{VIEW}.openTab('attention')")
    told("   the large mask, drawn anew", worst(page.frames("el.redraw()", 20)), 6 * FRAME, "ms")
    page.page.close()


def main():
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=find_chromium(), args=["--no-sandbox", "--disable-gpu"]
        )
        file = generated(30, 64).save(Path(folder, "generated.html"))
        told("30 layers, 64 new tokens, 4 rows: the file", file.stat().st_size / 1e6, 0.7, "MB")
        told("   held in memory", heap(browser, file), 2, "MB")

        file = generated(2, 400).save(Path(folder, "steps.html"))
        page = Opened(browser, file)
        steps = page.page.evaluate(f"{VIEW}.steps")
        told(f"{steps} steps: open, processor", page.processor, 1, "s")
        told(f"{steps} steps: open, on the clock", page.clock, 1, "s")
        page.page.evaluate(f"{VIEW}.openTab('lines')")
        told("   a step of the lines, 95 of 100", worst(page.frames("el.go(i * 37)", 60)), FRAME, "ms")
        page.page.close()

        for tokens in (4096, 32_768):
            long_ones(browser, long_text(tokens).save(Path(folder, f"{tokens}.html")), tokens)
        browser.close()


if __name__ == "__main__":
    main()
