"""Render the site: notebooks -> nbdev's processing -> smalldocs -> _docs/, a folder that needs no server and no
network.

    docs.py [FOLDER [STAGE]]      the site goes to FOLDER (_docs), the work is done in STAGE (_proc); both are
                                  removed and made again

In the stage the notebooks lose the numbers that order them in nbs/ (20_trace.ipynb becomes trace.html), gain a
table of what they export, and keep the outputs they were saved with. smalldocs then makes pages of them. Three
things of its pages would ask the network and are replaced here: fonts (the system's are used), mathematics
(written as MathML), and the search index (a script, since a page opened from disk may not fetch)."""

import ast, html, importlib, inspect, json, os, re, shutil, sys, time
from configparser import ConfigParser
from pathlib import Path

import playground_page

os.environ["IN_TEST"] = "1"  # nbdev: nothing is being exported now
ROOT = Path(__file__).resolve().parent.parent
NUMBER = re.compile(r"(?<![\w.-])\d\d_(?=[A-Za-z])")  # the "20_" of 20_trace.ipynb
LINK = re.compile(r'\]\([^)\s]*|href="[^"]*')


# ---- nbs/ -> stage


def prepare(stage):
    "Process every notebook into `stage`, and copy what stands beside them."
    from execnb.nbio import read_nb, write_nb

    shutil.rmtree(stage, ignore_errors=True)
    os.chdir(ROOT)  # where nbdev looks for settings.ini
    process = processing()
    settings = ConfigParser(delimiters=["="])
    settings.read("settings.ini", encoding="utf-8")
    upstream = "{git_url}/blob/{branch}/".format(
        **settings["DEFAULT"]
    )  # of what stands outside nbs/, CONTRIBUTING.md for one
    for source in sorted((ROOT / "nbs").rglob("*")):
        relative = source.relative_to(ROOT / "nbs")
        if source.is_dir() or any(
            part.startswith(".") or part in ("__pycache__", "_proc", "_docs") for part in relative.parts
        ):
            continue
        target = stage / NUMBER.sub("", str(relative))
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".ipynb":
            notebook = read_nb(source)
            try:
                process(title_alone(notebook))
            except Exception as error:
                raise SystemExit(f"{source.relative_to(ROOT)}: {error}") from error
            for cell in notebook.cells:
                if cell.cell_type == "markdown":
                    cell.source = relink(cell.source, upstream if source.parent.name == "nbs" else "../")
            write_nb(notebook, target)
        elif source.suffix == ".yml":
            target.write_text(NUMBER.sub("", source.read_text(encoding="utf-8")), encoding="utf-8")
        else:
            shutil.copy2(source, target)


def relink(markdown, up):
    "Links to notebooks lose the numbers; what stands above nbs/ is found at `up`."
    return LINK.sub(lambda match: NUMBER.sub("", match[0]).replace("](../", f"]({up}"), markdown)


def title_alone(notebook):
    """nbdev takes the title and the line under it out of the first cell, and drops what else stands there: that
    gets a cell of its own."""
    from nbdev.processors import mk_cell

    place, first = next(
        ((i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "markdown"),
        (0, notebook.cells[0]),
    )
    head = re.match(r"# .+\n+(?:> .+(?:\n|$))*", first.source)
    if head and first.source[head.end() :].strip():
        notebook.cells.insert(place + 1, mk_cell(first.source[head.end() :].strip(), cell_type="markdown"))
        first.source = head[0].strip()
    return notebook


def processing():
    """nbdev's processors, with one change. nbdev hides exported code and puts the signature in its place; these
    notebooks are written to be read with their code, so it stays, each definition can be linked to
    (`trace.html#pack`), and a table of what the module offers ends the page."""
    from nbdev import processors
    from nbdev.process import Processor
    from nbdev.processors import FilterDefaults, mk_cell

    class show_exports(Processor):
        """Exported cells stay, with an anchor for each name; hidden cells and cells that only import go; a
        table of names comes last."""

        def begin(self):
            cells, module, targets = [], None, set()
            for cell in self.nb.cells:
                directives = getattr(cell, "directives_", None) or {}
                if "default_exp" in directives:
                    module = directives["default_exp"][0]
                if {"hide", "default_exp"} & set(directives):
                    continue
                if {"export", "exports", "exporti"} & set(directives):
                    if only_imports(cell.source):
                        continue
                    names = defined(cell.source)
                    targets |= names
                    cells.append(
                        mk_cell(
                            "".join(
                                f'<span id="{name.lower()}" class="target"></span>' for name in sorted(names)
                            ),
                            cell_type="markdown",
                        )
                    )
                cells.append(cell)
            if module:
                cells.append(mk_cell(contents(module, targets), cell_type="markdown"))
            self.nb.cells = type(self.nb.cells)(cells)

    class Process(FilterDefaults):
        def base_procs(self):
            gone = {
                processors.clean_show_doc,
                processors.exec_show_docs,
                processors.rm_export,
                processors.mv_exports,
                processors.add_fold,
            }
            return [
                show_exports if proc is processors.add_show_docs else proc
                for proc in super().base_procs()
                if proc not in gone
            ]

    return Process()


def only_imports(source):
    return all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.parse(source).body)


def defined(source):
    "The functions, classes and methods that a cell defines: pack, Trace, Trace.value, ..."
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}.{method.name}" for method in node.body if isinstance(method, ast.FunctionDef)
            }
    return names


def contents(module, targets):
    """The public names of a module as a table: how each is called, and the first sentence of its docstring,
    linked to where it is defined."""
    full = importlib.import_module(f"peft_viz.{module}")
    rows = []
    for name in full.__all__:
        value = getattr(full, name)
        if not (inspect.isclass(value) or inspect.isfunction(value)) or not value.__doc__:
            continue
        rows.append((name, value))
        if inspect.isclass(value):
            rows += [
                (f"{name}.{n}", m)
                for n, m in vars(value).items()
                if not n.startswith("_") and inspect.isfunction(m) and m.__doc__
            ]
    methods = {value for name, value in rows if "." in name}
    lines = []
    for name, value in rows:
        if "." not in name and value in methods:
            continue  # written on its own, then made a method
        shown = f"<code>{html.escape(call(name, value))}</code>"
        place = next(
            (place for place in (name, name.split(".")[-1]) if place in targets), None
        )  # a method may be defined on its own, in a later cell
        if place:
            shown = f'<a href="#{place.lower()}">{shown}</a>'
        lines.append(f"| {shown} | {summary(value.__doc__)} |")
    return "## What this module offers\n\n| | |\n|---|---|\n" + "\n".join(lines) if lines else ""


def call(name, value):
    "How it is called, without types and defaults: pack(numbers), and of a class's method: .value(i)."
    if inspect.isclass(value):
        return name
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    names = [
        stars.get(p.kind, "") + p.name
        for p in inspect.signature(value).parameters.values()
        if p.name != "self"
    ]
    if len(names) > 5:
        names = [*names[:4], "..."]
    return f"{'.' if '.' in name else ''}{name.split('.')[-1]}({', '.join(names)})"


def summary(doc):
    return re.split(r"(?<=\.)\s|\n\s*\n", doc.strip())[0].replace("\n", " ").replace("|", "\\|")


# ---- stage -> pages

IGNORED = re.compile(r"output-file is not read by smalldocs$")  # the names are right already


def render(stage):
    "Make the pages with smalldocs. What it warns of (a broken link, an unknown key) is shown."
    from smalldocs.site import build

    site = build(stage, quiet=True)
    for warning in site.warnings:
        if not IGNORED.search(warning):
            print(f"  warning: {warning}")
    return Path(site.out)


def self_contained(folder):
    "Replace in the pages, style sheets and scripts of `folder` all that would be loaded from the network."
    settings = re.search(r'site-url: "([^"]+)"', (ROOT / "nbs" / "nbdev.yml").read_text(encoding="utf-8"))
    for page in folder.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        up = "../" * (len(page.relative_to(folder).parts) - 1)
        text = re.sub(
            r'<link[^>]*href="https?:[^>]*rel="stylesheet"[^>]*>|<link[^>]*rel="stylesheet"[^>]*href="https?:[^>]*>',
            "",
            text,
        )
        text = re.sub(r'<script[^>]*src="https?:[^>]*>\s*</script>', "", text)
        text = re.sub(r'<span class="math (inline|display)">(.*?)</span>', mathml, text, flags=re.S)
        if settings:
            text = with_links(text, settings[1])
            text = text.replace(f'href="{settings[1]}/', f'href="{up or "./"}')
        page.write_text(text, encoding="utf-8")
    for sheet in folder.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        sheet.write_text(
            re.sub(r"@import\s+(?:url\()?['\"]?https?:[^;]*;(?:[^{};]*\);)?", "", text), encoding="utf-8"
        )
    search_from_disk(folder)


def with_links(page, site):
    "Where the text of a page, code too, names a place on this site (as docstrings do), the name becomes a link."
    place = re.compile(rf"{re.escape(site)}/[\w/.-]+#[\w-]+")
    kept_or_text = re.compile(r"<(script|style|a)\b.*?</\1>|<[^>]*>|[^<]+", re.S)
    linked = lambda part: part if part[0] == "<" else place.sub(r'<a href="\g<0>">\g<0></a>', part)
    return kept_or_text.sub(lambda match: linked(match[0]), page)


def mathml(match):
    "TeX in a page -> MathML, which browsers draw without help."
    from latex2mathml.converter import convert

    kind, tex = match.groups()
    tex = html.unescape(re.sub(r"^\s*\\[(\[]|\\[)\]]\s*$", "", tex))
    return (
        f'<span class="math {kind}">{convert(tex, display="block" if kind == "display" else "inline")}</span>'
    )


FETCH = 'const r = await fetch(offset + "search.json");\n      index = await r.json();'
LOAD = (
    'await new Promise((done, failed) => { const s = document.createElement("script"); s.src = offset + "search.js";\n'
    "        s.onload = done; s.onerror = failed; document.head.append(s); });\n      index = window.searchIndex;"
)


def search_from_disk(folder):
    "A page opened from disk may load a script, but not fetch a file."
    script, index = folder / "site_libs" / "smalldocs.js", folder / "search.json"
    text = script.read_text(encoding="utf-8")
    if FETCH not in text:
        raise SystemExit(
            "smalldocs loads its search index in another way now: adapt FETCH in scripts/docs.py"
        )
    script.write_text(text.replace(FETCH, LOAD), encoding="utf-8")
    entries = json.loads(index.read_text(encoding="utf-8"))
    (folder / "search.js").write_text(
        f"window.searchIndex = {json.dumps(entries, ensure_ascii=False)};\n", encoding="utf-8"
    )
    index.unlink()


def main(folder="_docs", stage="_proc"):
    start, folder, stage = time.time(), ROOT / folder, ROOT / stage
    prepare(stage)
    built = render(stage)
    self_contained(built)
    playground_page.write(built)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(built, folder)
    pages = len(list(folder.rglob("*.html")))
    print(f"{pages} pages in {time.time() - start:.0f} s. Open {(folder / 'index.html').as_uri()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
