"""The pictures in nbs/images, taken of real pages in Chromium. `make pictures` takes them all anew.

Each picture notes in itself which page it was taken of, as a digest. So whether it is still today's is found out
without a browser: `stale()`, which `make check` asks.
"""

import hashlib, sys, tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "nbs" / "images"
SIZE = dict(width=1000, height=950)  # so narrow that the code stands below, in its whole width
# Go to the last step at a line: after what it calls.
STEP = """line => {
    const viewer = document.querySelector('peft-viz-trace');
    const at = () => +viewer.shadowRoot.querySelector('[data-line][aria-current]')?.dataset.line;
    let last = -1;
    for (viewer.step = 0; ; viewer.step++) {
        if (at() === line) last = viewer.step;
        if (viewer.step === viewer.steps - 1) break;
    }
    if (last < 0) throw 'no step at line ' + line;
    viewer.step = last;
}"""

# What has more in it than it shows, and is no list that one scrolls.
CUT = """() => {
    const root = document.querySelector('peft-viz-trace').shadowRoot;
    const wide = e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== 'visible';
    const end = root.querySelector('.keyline').getBoundingClientRect().top;
    const low = e => e.getBoundingClientRect().bottom > end;
    const code = [...root.querySelectorAll('.snippet')];
    return code.filter(e => wide(e) || low(e)).map(e => e.className);
}"""


def readme_trace():
    "The recording that README.md makes: the code of the index notebook, up to the cell that records."
    import nbformat

    names = {}
    for cell in nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
        if "trace" in names:
            return names["trace"]
    raise LookupError("no cell of nbs/index.ipynb makes a `trace`")


def labels_grown(trace):
    "The line at which the labels have just grown by those of the virtual tokens."
    call = trace.roots[0]
    before = trace.value(call.args["labels"]).shape
    for step in call.steps:
        for change in step.changes:
            if "labels" in change.name and trace.value(change.value).shape not in (None, before):
                return step.line
    raise LookupError("the labels do not grow in this recording")


PICTURES = {"viewer.png": (readme_trace, labels_grown)}  # name: (what is shown, at which step)


def pages(folder):
    "Write the page of each picture; yields (name, path, line, digest)."
    for name, (recording, place) in PICTURES.items():
        trace = recording()
        page = trace.save(Path(folder) / f"{name}.html")
        yield name, page, place(trace), hashlib.sha256(page.read_bytes()).hexdigest()


def stale():
    "The names of pictures that are not of today's pages, or that nothing makes."
    from PIL import Image

    made = {path.name: Image.open(path).info.get("page") for path in IMAGES.iterdir()}
    with tempfile.TemporaryDirectory() as folder:
        today = {name: digest for name, _, _, digest in pages(folder)}
    return sorted(name for name in made.keys() | today.keys() if made.get(name) != today.get(name))


def main():
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo
    from playwright.sync_api import sync_playwright

    sys.path[:0] = [str(ROOT / "tests")]
    from conftest import CHROMIUM_FLAGS, find_chromium

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(CHROMIUM_FLAGS))
        for name, page, place, digest in pages(folder):
            tab = browser.new_page(viewport=SIZE, color_scheme="light")
            tab.goto(page.as_uri())
            tab.wait_for_selector("peft-viz-trace")
            tab.evaluate(STEP, place)
            tab.wait_for_timeout(500)
            if cut := tab.evaluate(CUT):
                sys.exit(f"nbs/images/{name}: cut in the picture: {', '.join(cut)}")
            tab.screenshot(path=IMAGES / name)
            note = PngInfo()
            note.add_text("page", digest)
            with Image.open(IMAGES / name) as image:
                image.convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(
                    IMAGES / name, pnginfo=note, optimize=True
                )
            print(f"nbs/images/{name}: {(IMAGES / name).stat().st_size / 1000:.0f} kB")
        browser.close()


if __name__ == "__main__":
    main()
