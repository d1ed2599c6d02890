"""The recordings of the site: what its pages show alive, without a kernel.

    docs_live.py FOLDER      record the grid of the explorers and the rows of the map into FOLDER

A recording is one small script, NAME.js, that hands over a viewer's payload, packed: a page opened from disk may load
scripts, but it may not fetch files. docs_theme/live.js loads it when its figure comes near the screen, and the viewer's
own code once for all of them."""

import base64, gzip, hashlib, json, os, re, sys
from collections import Counter
from functools import partial
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
    for labels, here, asked in zip(batch["labels"], batch["attention_mask"], question["attention_mask"]):
        labels[here.nonzero()[: asked.sum(), 0]] = -100  # the loss is for the answer, as in the tour
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
    "A folder of recordings. They become scripts in the end: `pack`."

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def put(
        self,
        recording,  # a trace, or the text of a viewer's payload
        name=None,  # of the file; one made of its content unless told otherwise
        **about,  # `title` and `page` of it; `call` and `step` at which it opens
    ):  # the name
        "Keep a recording. The same recording gives the same file, whatever language its page has."
        if isinstance(recording, str):
            payload = json.loads(recording)
        else:
            from peft_viz.views import viewer

            payload = viewer.payload(recording)
        text = json.dumps(payload | dict(lang="en"), ensure_ascii=False, separators=(",", ":"))
        name = name or hashlib.sha256(text.encode()).hexdigest()[:12]
        file = self.folder / f"{name}.json"
        if not file.exists():
            file.write_text(json.dumps(about, ensure_ascii=False) + "\n" + text, encoding="utf-8")
        return name


def write_script(path, told, about=None):
    "A script that hands over plain data, packed."
    text = json.dumps(told, ensure_ascii=False, separators=(",", ":"))
    packed = base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()
    script = f"peftViz.got({json.dumps(path.stem)}, {json.dumps(packed)}, {json.dumps(about or {})});\n"
    path.write_text(script, encoding="utf-8")


def pack(live):
    """The recordings as scripts. What several of them have is kept once, in shared.js: the texts of functions, and the
    tables of marks and words."""
    files = sorted((live / "recordings").glob("*.json"))
    payloads, many = {}, Counter()
    for file in files:
        about, _, text = file.read_text(encoding="utf-8").partition("\n")
        payloads[file] = json.loads(about), json.loads(text)
        many.update({key for key, _ in shareable(payloads[file][1])})
    shared = {}
    for file, (about, payload) in payloads.items():
        for key, put in [*shareable(payload)]:
            if many[key] > 1:
                put(shared.setdefault(key, len(shared)))
        write_script(file.with_suffix(".js"), payload, about)
        file.unlink()
    write_script(live / "shared.js", [json.loads(key) for key in shared])


def shareable(payload):
    """Parts of a payload that others may have, too: its text, and what puts a number in its place. live.js puts them
    back."""
    for part in (payload, payload.get("other")):
        if part:
            places = [(part, name) for name in ("marks", "method") if name in part]
            places += [(part["trace"]["sources"], i) for i in range(len(part["trace"]["sources"]))]
            for holder, key in places:
                yield json.dumps(holder[key], ensure_ascii=False), partial(holder.__setitem__, key)


VIEWER = re.compile(
    r'<peft-viz-trace([^>]*)><script type="application/json">(.*?)</script>(.*?)</peft-viz-trace>'
    r"<script>.*?</script>",
    re.S,
)
UNTRUSTED = re.compile(r"<p>Trust this notebook .*?</p>")
EXERCISE = re.compile(
    r'(<peft-viz-exercise[^>]*data-exercise=")([^"]+)("[^>]*>.*?</peft-viz-exercise>)<script>.*?</script>',
    re.S,
)


def shelve(html, shelf, page):
    "A notebook's HTML: its recordings go to the shelf, and the code of viewers and exercises is the site's."

    def one(match):
        attributes, payload, inside = match.groups()
        name = shelf.put(payload, title=page.rpartition("/")[2], page=f"{page}.html")
        return f'<peft-viz-trace{attributes} data-recording="{name}">{UNTRUSTED.sub("", inside)}</peft-viz-trace>'

    def question(match):
        before, packed, after = match.groups()
        asked = json.loads(base64.b64decode(packed))
        own = {k: x for k, x in asked.items() if k not in ("style", "words") and x not in ("", [], {})}
        return before + base64.b64encode(json.dumps(own, ensure_ascii=False).encode()).decode() + after

    return EXERCISE.sub(question, VIEWER.sub(one, html))


def scripts(folder):
    "The viewer and the exercises, once, and the one script of all pages."
    from peft_viz.views import ask, viewer

    (folder / "viewer.js").write_text(viewer.code(), encoding="utf-8")
    static = ROOT / "peft_viz" / "views" / "static"
    told = dict(words=ask.WORDS, style=viewer.bare((static / "exercise.css").read_text(encoding="utf-8")))
    first = (THEME / "exercises.js").read_text(encoding="utf-8")
    first = viewer.bare(first.replace("/*shared*/ null", json.dumps(told, ensure_ascii=False)))
    exercise = viewer.bare((static / "exercise.js").read_text(encoding="utf-8"))
    (folder / "exercise.js").write_text(f"{first}\n{exercise}", encoding="utf-8")
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
