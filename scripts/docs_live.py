"""The recordings of the site: what its pages show alive, without a kernel.

    docs_live.py FOLDER      record the grid of the explorers and the rows of the map into FOLDER

A recording is one small script, NAME.js, that hands over a viewer's payload, packed: a page opened from disk may load
scripts, but it may not fetch files. docs_theme/live.js loads it when its figure comes near the screen, and the viewer's
own code once for all of them."""

import base64, gzip, hashlib, json, os, re, sys
from pathlib import Path

os.environ.update(IN_TEST="1", OMP_NUM_THREADS="1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the package that stands beside this script

ROOT = Path(__file__).resolve().parent.parent
THEME = Path(__file__).resolve().parent / "docs_theme"
SCRIPTS = ("live.js", "explorer.js", "search.js", "page.js")  # joined into one for all pages

# ---- the grid: method x virtual tokens x padding side x cache

PAGES = {  # a method of `peft_viz.views.widgets` -> the page that explains it
    "PROMPT_TUNING": "reference/prompt_tuning",
    "P_TUNING": "reference/p_tuning",
    "MULTITASK_PROMPT_TUNING": "reference/multitask",
    "PREFIX_TUNING": "reference/prefix_tuning",
    "CPT": "reference/cpt",
    "LORA": "reference/lora",
    "ADALORA": "reference/adalora",
    "IA3": "reference/ia3",
    "POLY": "reference/poly",
}
VIRTUAL, SIDES = (2, 4, 8), ("left", "right")
CACHES = {  # as the page calls it -> what `generate` is told
    "dynamic": {},
    "static": dict(cache_implementation="static"),
    "none": dict(use_cache=False),
}
RANK, NEW_TOKENS = 4, 4


def counts(method):
    "The numbers of virtual tokens that a method is recorded with; 0 where it has none."
    from peft_viz.views.widgets import INSIDE

    return (0,) if method in INSIDE else VIRTUAL


def name_of(method, virtual=4, side="left", cache="dynamic"):
    "The name of a recording of the grid."
    return f"{method}-{virtual if virtual in counts(method) else 0}-{side}-{cache}"


def turn(bench, method, virtual, side, cache):
    "One turn: a forward pass of a padded batch with labels, then `generate` from its questions."
    import torch
    from peft_viz import record
    from peft_viz.views.widgets import WITH_TASKS, TEXTS, encode

    batch = encode(bench.tokenizer, TEXTS, side)
    question = encode(bench.tokenizer, [text.partition("=")[0] + "=" for text in TEXTS], side)
    del question["labels"]
    if method in WITH_TASKS:
        batch["task_ids"] = question["task_ids"] = torch.zeros(len(TEXTS), dtype=torch.long)
    how = dict(max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=bench.tokenizer.pad_token_id)
    with bench.wrapped(method, virtual, RANK) as model, torch.no_grad():
        with record(model, bench.tokenizer) as trace:
            model(**batch)
            model.generate(**question, **how, **CACHES[cache])
    return trace


def record_grid(shelf):
    "A recording for each point of the grid."
    from peft_viz import load_tiny
    from peft_viz.recording import marks
    from peft_viz.views.widgets import Bench

    bench = Bench(*load_tiny())
    for method, page in PAGES.items():
        for virtual in counts(method):
            for side in SIDES:
                for cache in CACHES:
                    trace = turn(bench, method, virtual, side, cache)
                    about = dict(title=marks.method(method, "en"), page=f"{page}.html")
                    shelf.put(trace, name_of(method, virtual, side, cache), **about)


def grid():
    "What the explorer offers, for its script."
    from peft_viz.recording import marks

    methods = [
        dict(key=m, en=marks.method(m, "en"), zh=marks.method(m, "zh"), virtual=counts(m) != (0,))
        for m in PAGES
    ]
    return dict(methods=methods, virtual=VIRTUAL, side=SIDES, cache=tuple(CACHES))


# ---- the map of the specification


def record_map(shelf):
    "A recording for each row of the map; it opens at the line that decides."
    sys.path.append(str(ROOT / "tests"))
    import specification

    for row in specification.ROWS:
        trace, seen = specification.recorded(row)
        at = dict(call=trace.calls.index(seen.call), step=seen.step)
        title, page = f"The map, row {row.id}", f"reference/specification.html#{row.id}"
        shelf.put(trace, f"map-{row.id}", title=title, page=page, **at)


# ---- the shelf


class Shelf:
    "A folder of recordings."

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def put(
        self,
        recording,  # a trace, or the text of a viewer's payload
        name=None,  # of the file; one made of its content unless told otherwise
        **about,  # `title` and `page` of it; `call` and `step` at which it opens
    ):  # the name
        "Keep a recording. The same recording gives the same file."
        if not isinstance(recording, str):
            from peft_viz.views import viewer

            recording = json.dumps(viewer.payload(recording), ensure_ascii=False, separators=(",", ":"))
        text = recording.encode()
        name = name or hashlib.sha256(text).hexdigest()[:12]
        packed = base64.b64encode(gzip.compress(text, 9, mtime=0)).decode()
        script = f"peftViz.got({json.dumps(name)}, {json.dumps(packed)}, {json.dumps(about)});\n"
        (self.folder / f"{name}.js").write_text(script, encoding="utf-8")
        return name


VIEWER = re.compile(
    r'<peft-viz-trace([^>]*)><script type="application/json">(.*?)</script>(.*?)</peft-viz-trace>'
    r"<script>.*?</script>",
    re.S,
)
UNTRUSTED = re.compile(r"<p>Trust this notebook .*?</p>")


def shelve(html, shelf, page):
    "A notebook's HTML with the recordings of its viewers on the shelf; their code is the site's."

    def one(match):
        attributes, payload, inside = match.groups()
        name = shelf.put(payload, title=page.rpartition("/")[2], page=f"{page}.html")
        return f'<peft-viz-trace{attributes} data-recording="{name}">{UNTRUSTED.sub("", inside)}</peft-viz-trace>'

    return VIEWER.sub(one, html)


def scripts(folder):
    "The viewer, once, and the one script of all pages."
    from peft_viz.views import viewer

    (folder / "viewer.js").write_text(viewer.code(), encoding="utf-8")
    joined = "\n".join(viewer.bare((THEME / name).read_text(encoding="utf-8")) for name in SCRIPTS)
    if "/*grid*/ null" not in joined:
        raise SystemExit("explorer.js has no place for the grid")
    joined = joined.replace("/*grid*/ null", json.dumps(grid(), ensure_ascii=False))
    (folder / "site.js").write_text(f'(() => {{\n"use strict";\n{joined}\n}})();\n', encoding="utf-8")


def main(folder):
    from peft_viz.zoo.settings import quiet

    shelf = Shelf(folder)
    with quiet():  # right padding is recorded on purpose
        record_grid(shelf)
        record_map(shelf)


if __name__ == "__main__":
    main(*sys.argv[1:])
