"""The playground in Chromium: from the touch of a control to the new picture. Prints a line for each control.

Run with `python bench/play.py`, or `make bench`. As in `page.py`, what is measured is the processor time of the page's
thread, layout and painting included. Each touch finds another word, so the model has to read it anew."""

import sys, tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from page import told, worst
from peft_viz.views import playground

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from conftest import find_chromium

TOUCHES, MOST = 100, 50  # how often each control is touched; milliseconds
SETUP = r"""() => {
  const view = document.querySelector("peft-viz-playground");
  let seed = 7;
  const random = (n) => Math.floor((seed = (seed * 1103515245 + 12345) % 2 ** 31) / 65536) % n;
  const letters = (n) => Array.from({ length: n }, () => String.fromCharCode(97 + random(26))).join("");
  const all = (selector) => [...view.shadowRoot.querySelectorAll(selector)];
  const press = (selector) => { const found = all(selector); found[random(found.length)].click(); };
  const set = (element, value, event) => { element.value = value; element.dispatchEvent(new Event(event)); };
  const padded = () => ({ pad: 1 + random(11), counted: random(2) > 0 });
  const controls = { // name -> what was chosen before, the touch
    "the word": [{}, () => set(all(".word input")[0], view.state.word + letters(1), "input")],
    "the task": [{}, () => press(".field.task [aria-pressed=false]")],
    "how it was learned": [{}, () => press(".field.method [aria-pressed=false]")],
    "the adapter, switched on": [{ on: false }, () => press("[role=switch]")],
    "padding": [padded, () => all(".stepper button")[1].click()],
    "positions": [padded, () => press(".field.counted [aria-pressed=false]")],
    "the mask of a token": [padded, () => press("[data-key^='mask ']")],
    "the token that is looked at": [padded, () => press("[data-key^='at ']")],
  };
  const drawn = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  window.prepare = async (name) => {
    const [before] = controls[name];
    const method = ["prompt", "prefix", "lora"][random(3)];
    const task = view.facts.tasks[random(view.facts.tasks.length)];
    const fresh = { word: letters(3 + random(8)), task, method, on: true, pad: 0, counted: false, out: [], at: "" };
    view.change({ ...fresh, ...(before.call ? before() : before) });
    await drawn();
  };
  window.touch = async (name) => { controls[name][1](); await drawn(); };
  return Object.keys(controls);
}"""


def main():
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder, "playground.html")
        file.write_text(playground.html(), encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport=dict(width=1280, height=900))
        tools = page.context.new_cdp_session(page)
        tools.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.goto(file.as_uri())
        page.locator("peft-viz-playground output.answer").last.wait_for()

        def spent() -> float:  # milliseconds that the page's thread has worked
            found = {m["name"]: m["value"] for m in tools.send("Performance.getMetrics")["metrics"]}
            return 1000 * found["TaskDuration"]

        for name in page.evaluate(SETUP):
            times = []
            for _ in range(TOUCHES):
                page.evaluate("name => prepare(name)", name)
                before = spent()
                page.evaluate("name => touch(name)", name)
                times.append(spent() - before)
            told(f"the playground: {name}, 95 of 100", worst(times), MOST, "ms")
        browser.close()


if __name__ == "__main__":
    main()
