"""Render the site: notebooks -> nbdev's processing -> smalldocs -> _docs/, a folder that needs no server and no network.

    docs.py [FOLDER]      FOLDER is where the site goes, _docs unless told

The work is done in _proc/ (removed and made again): there the notebooks lose the numbers that order them in nbs/
(20_trace.ipynb becomes trace.html), gain the reference of what they export, and keep the outputs they were saved with.
smalldocs then makes pages of them. Three things of its pages would ask the network and are replaced here: fonts (the system's
are used), mathematics (written as MathML), and the search index (a script, since a page opened from disk may not fetch).
"""
import html, importlib, json, os, re, shutil, sys, time
from pathlib import Path

os.environ["IN_TEST"] = "1"      # nbdev: nothing is being exported now
ROOT = Path(__file__).resolve().parent.parent
STAGE = ROOT/"_proc"
NUMBER = re.compile(r"(?<![\w.-])\d\d_(?=[A-Za-z])")     # the "20_" of 20_trace.ipynb


# ---- nbs/ -> _proc/

def stage():
    "Process every notebook into `STAGE`, and copy what stands beside them."
    from execnb.nbio import read_nb, write_nb
    from nbdev.doclinks import _build_modidx
    from nbdev.quarto import refresh_quarto_yml
    shutil.rmtree(STAGE, ignore_errors=True)
    os.chdir(ROOT)
    refresh_quarto_yml()      # writes nbs/nbdev.yml from settings.ini
    _build_modidx()
    process = processing()
    for source in sorted((ROOT/"nbs").rglob("*")):
        relative = source.relative_to(ROOT/"nbs")
        if source.is_dir() or any(part.startswith(".") or part in ("__pycache__", "_proc", "_docs") for part in relative.parts): continue
        target = STAGE/NUMBER.sub("", str(relative))
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".ipynb":
            notebook = read_nb(source)
            try: process(notebook)
            except Exception as error: raise SystemExit(f"{source.relative_to(ROOT)}: {error}") from error
            for cell in notebook.cells:
                if cell.cell_type == "markdown": cell.source = NUMBER.sub("", cell.source)
            write_nb(notebook, target)
        elif source.suffix == ".yml": target.write_text(NUMBER.sub("", source.read_text(encoding="utf-8")), encoding="utf-8")
        else: shutil.copy2(source, target)


def processing():
    """nbdev's processors, with one change: its `exec_show_docs` runs every cell that exports or imports something to find the objects it documents;
    here they are looked up in the exported module, which is the same and much faster."""
    from execnb.shell import CaptureShell
    from nbdev.process import Processor
    from nbdev.processors import FilterDefaults, exec_show_docs
    from nbdev.showdoc import show_doc

    class describe(Processor):
        "Run the `show_doc(...)` cells that nbdev added."
        def begin(self):
            names = [cell.directives_["default_exp"][0] for cell in self.nb.cells if "default_exp" in (getattr(cell, "directives_", None) or {})]
            self.shell = CaptureShell()
            for name in names: self.shell.user_ns.update(vars(importlib.import_module(f"peft_viz.{name}")))
            self.shell.user_ns["show_doc"] = show_doc

        def __call__(self, cell):
            if cell.cell_type != "code" or not cell.source.lstrip().startswith("show_doc("): return
            self.shell.cell(cell)
            if self.shell.exc: raise RuntimeError(f"{cell.source}: {self.shell.exc}") from self.shell.exc

    class Process(FilterDefaults):
        def base_procs(self): return [describe if proc is exec_show_docs else proc for proc in super().base_procs()]

    return Process()


# ---- _proc/ -> pages

IGNORED = re.compile(r"output-file is not read by smalldocs$")     # the names are right already

def render():
    "Make the pages with smalldocs. What it warns of (a broken link, an unknown key) is shown."
    from smalldocs.site import build
    site = build(STAGE, quiet=True)
    for warning in site.warnings:
        if not IGNORED.search(warning): print(f"  warning: {warning}")
    return Path(site.out)


def self_contained(folder):
    "Replace in the pages, style sheets and scripts of `folder` all that would be loaded from the network."
    settings = re.search(r'site-url: "([^"]+)"', (ROOT/"nbs"/"nbdev.yml").read_text(encoding="utf-8"))
    for page in folder.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        up = "../" * (len(page.relative_to(folder).parts) - 1)
        text = re.sub(r'<link[^>]*href="https?:[^>]*rel="stylesheet"[^>]*>|<link[^>]*rel="stylesheet"[^>]*href="https?:[^>]*>', "", text)
        text = re.sub(r'<script[^>]*src="https?:[^>]*>\s*</script>', "", text)
        text = re.sub(r'<span class="math (inline|display)">(.*?)</span>', mathml, text, flags=re.S)
        if settings: text = text.replace(f'href="{settings[1]}/', f'href="{up or "./"}')
        page.write_text(text, encoding="utf-8")
    for sheet in folder.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        sheet.write_text(re.sub(r"@import\s+(?:url\()?['\"]?https?:[^;]*;(?:[^{};]*\);)?", "", text), encoding="utf-8")
    search_from_disk(folder)


def mathml(match):
    "TeX in a page -> MathML, which browsers draw without help."
    from latex2mathml.converter import convert
    kind, tex = match.groups()
    tex = html.unescape(re.sub(r"^\s*\\[(\[]|\\[)\]]\s*$", "", tex))
    return f'<span class="math {kind}">{convert(tex, display="block" if kind == "display" else "inline")}</span>'


FETCH = 'const r = await fetch(offset + "search.json");\n      index = await r.json();'
LOAD = ('await new Promise((done, failed) => { const s = document.createElement("script"); s.src = offset + "search.js";\n'
        '        s.onload = done; s.onerror = failed; document.head.append(s); });\n      index = window.searchIndex;')

def search_from_disk(folder):
    "A page opened from disk may load a script, but not fetch a file."
    script, index = folder/"site_libs"/"smalldocs.js", folder/"search.json"
    text = script.read_text(encoding="utf-8")
    if FETCH not in text: raise SystemExit("smalldocs loads its search index in another way now: adapt FETCH in scripts/docs.py")
    script.write_text(text.replace(FETCH, LOAD), encoding="utf-8")
    entries = json.loads(index.read_text(encoding="utf-8"))
    (folder/"search.js").write_text(f"window.searchIndex = {json.dumps(entries, ensure_ascii=False)};\n", encoding="utf-8")
    index.unlink()


def main(target="_docs"):
    start, target = time.time(), (ROOT/target).resolve()
    stage()
    built = render()
    self_contained(built)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(built, target)
    pages = len(list(target.rglob("*.html")))
    print(f"{pages} pages in {time.time() - start:.0f} s. Open {(target/'index.html').as_uri()}")


if __name__ == "__main__": main(*sys.argv[1:])
