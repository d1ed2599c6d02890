"""Render the site: notebooks -> nbdev's processing -> smalldocs -> _docs/, a folder that needs no server and no
network.

    docs.py [FOLDER [STAGE]]      the site goes to FOLDER (_docs), the work is done in STAGE (_proc); both are
                                  removed and made again

In the stage the notebooks lose the numbers that order them in nbs/ (20_trace.ipynb becomes trace.html), gain what
their module offers (docs_api.py), and keep the outputs they were saved with. Recordings in these move to files of
their own (docs_live.py); a second process records meanwhile what the explorers and the map show. smalldocs then makes
pages of the notebooks. Three things of its pages would ask the network and are replaced here: fonts (the system's are
used), mathematics (written as MathML), and the search index (a script, since a page opened from disk may not
fetch). Pictures become files, so that a page is read before they are loaded."""

import argparse, ast, base64, hashlib, html, io, json, os, re, shutil, subprocess, sys, time
from configparser import ConfigParser
from functools import cache
from pathlib import Path

os.environ["IN_TEST"] = "1"  # nbdev: nothing is being exported now
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the package that stands beside this script
import docs_api, docs_live, playground_page

ROOT = Path(__file__).resolve().parent.parent
NUMBER = re.compile(r"(?<![\w.-])\d\d_(?=[A-Za-z])")  # the "20_" of 20_trace.ipynb
LINK = re.compile(r'\]\([^)\s]*|href="[^"]*')


# ---- nbs/ -> stage


def prepare(stage):
    "Process every notebook into `stage`, and copy what stands beside them."
    from execnb.nbio import read_nb, write_nb

    os.chdir(ROOT)  # where nbdev looks for settings.ini
    docs_api.quick_highlighting()
    (process, found), pages = processing(), {}
    settings = ConfigParser(delimiters=["="])
    settings.read("settings.ini", encoding="utf-8")
    upstream = "{git_url}/blob/{branch}/".format(
        **settings["DEFAULT"]
    )  # of what stands outside nbs/, CONTRIBUTING.md for one
    shelf = docs_live.Shelf(stage / "live" / "recordings")
    for source in sorted((ROOT / "nbs").rglob("*")):
        relative = source.relative_to(ROOT / "nbs")
        if source.is_dir() or any(
            part.startswith(".") or part in ("__pycache__", "_proc", "_docs") for part in relative.parts
        ):
            continue
        target = stage / NUMBER.sub("", str(relative))
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".ipynb":
            page = target.relative_to(stage).with_suffix("").as_posix()
            notebook, found["module"], found["targets"] = read_nb(source), None, set()
            try:
                process(title_alone(notebook))
            except Exception as error:
                raise SystemExit(f"{source.relative_to(ROOT)}: {error}") from error
            for cell in notebook.cells:
                if cell.cell_type == "markdown":
                    cell.source = relink(cell.source, upstream if source.parent.name == "nbs" else "../")
                elif cell.cell_type == "code":
                    cell.source = folded(quoted(cell.source), relative.parts[0])
                    for output in cell.get("outputs", []):
                        lively(output, shelf, page)
            dress(notebook, page, found)
            if found["module"]:
                pages[found["module"]] = f"{page}.html"
            write_nb(notebook, target)
        elif source.suffix == ".yml":
            target.write_text(NUMBER.sub("", source.read_text(encoding="utf-8")), encoding="utf-8")
        elif source.suffix != ".toml":  # how lessons are laid out
            shutil.copy2(source, target)
    for folder in stage.iterdir():
        if folder.name in LANGUAGES:  # the reader's browser and its screen reader are told
            (folder / "_metadata.yml").write_text(f"lang: {folder.name}\n", encoding="utf-8")
    (stage / "api.md").write_text(docs_api.index(pages), encoding="utf-8")
    docs_api.sources(stage)


LANGUAGES = ("zh",)  # folders of nbs/ in another language than English


def quoted(source):
    "A cell's code; a text in its options that would not be read (a colon stands in it) is put into quotes."
    import yaml

    def one(match):
        try:
            yaml.safe_load(match[0].removeprefix("#|"))
            return match[0]
        except yaml.YAMLError:
            return f"{match[1]}{json.dumps(match[2], ensure_ascii=False)}"

    return re.sub(r"^(#\| *[\w-]+: +)(.+)$", one, source, flags=re.M)


def lively(output, shelf, page):
    "The recordings in an output go to the shelf; rows of the map get links."
    data = output.get("data", {})
    if "text/html" not in data:
        return
    text = "".join(data["text/html"])
    if page == MAP:
        text = map_links(text)
    data["text/html"] = docs_live.shelve(text, shelf, page)


MAP = "reference/specification"
MAP_ROW = re.compile(r'(?<=</code> )([\w/]+)\.py:(\d+)(.*?<div class="sm-figure" id="([^"]+)">)', re.S)


def map_links(text):
    "In the map of the specification: from a row to its recording, and to the line in the source."

    def linked(match):
        file, line, rest, row = match.groups()
        recording = f'<a href="../recording.html?map-{row}">Open the recording</a>'
        source = docs_api.source_link(f"{file}.py", line, f"{file}.py:{line}")
        return f'{file}.py:{line}{rest}<p class="pv-links">{recording} · {source}</p>'

    return MAP_ROW.sub(linked, text)


# ---- what a page has besides its notebook


def dress(notebook, page, found):
    "What the module offers, under the title; a story on the first page, an explorer on a method's."
    if page in margin():  # as learners know it, before the name of the module
        notebook.cells[0].source = re.sub(
            r"^title: .*$", f"title: {json.dumps(margin()[page])}", notebook.cells[0].source, flags=re.M
        )
    method = next((m for m, p in docs_live.PAGES.items() if p == page), None)
    if method:
        at = next(
            (i for i, cell in enumerate(notebook.cells) if i > 1 and cell.source.lstrip().startswith("## ")),
            len(notebook.cells),
        )
        notebook.cells.insert(at, raw(EXPLORER.format(name=docs_live.name_of(method))))
    if found["module"] and (offered := docs_api.contents(found["module"], found["targets"])):
        notebook.cells.insert(1, raw(offered))
    if page == "index":
        first_page(notebook)


def raw(markdown):
    from nbdev.processors import mk_cell

    return mk_cell(markdown, cell_type="markdown")


EXPLORER = """## Try it {{.pv-quiet}}

A model that ran with these settings was recorded for each of them: a forward pass over a padded batch with labels, then
four tokens of `generate`. Choose, then press → in the viewer.

````{{=html}}
<div class="pv-explorer"><peft-viz-trace data-recording="{name}"></peft-viz-trace></div>
````
"""
COMMAND = re.compile(r"```sh\n(.+?)\n```\n?", re.S)
STORY = """````{{=html}}
<div class="pv-first">
<p class="pv-twin"><a href="zh/tour.html" lang="zh" hreflang="zh">中文教程</a></p>
<p class="pv-command"><code>{command}</code>
<button type="button" data-copy="{command}" data-done="Copied">Copy</button></p>
<peft-viz-trace data-recording="{name}"></peft-viz-trace>
<p class="pv-caption">A recording of a model that ran: prompt tuning, and a batch of two rows, one of them padded.
Press → for the next moment, ↓ for the lines of code behind it. <a href="recording.html?{name}">Open it in a page of
its own</a>, or <a href="reference/prompt_tuning.html#try-it">choose another method</a>.</p>
{sections}
</div>
````
"""


CAPTION = re.compile(r"\A\*[^*]+\*\n+")


def first_page(notebook):
    "One sentence, one command, and a story that can be stepped through, before anything else; then the ways in."
    text = next(cell for cell in notebook.cells if COMMAND.search(cell.source))
    command = html.escape(COMMAND.search(text.source)[1])
    text.source = COMMAND.sub("", text.source)
    picture = notebook.cells.index(text) + 1  # the same story, drawn: for where no script runs
    if any("image/png" in output.get("data", {}) for output in notebook.cells[picture].get("outputs", [])):
        below = notebook.cells[picture + 1]
        below.source = CAPTION.sub("", below.source)
        del notebook.cells[picture]
    notebook.cells.insert(
        1, raw(STORY.format(command=command, name=docs_live.name_of("PROMPT_TUNING"), sections=ways_in()))
    )


@cache
def sections():
    "The margin: section -> (text or None, file of each entry)."
    import yaml

    sidebar = yaml.safe_load((ROOT / "nbs" / "sidebar.yml").read_text(encoding="utf-8"))
    found = {}
    for section in sidebar["website"]["sidebar"]["contents"]:
        if "section" in section:
            entries = [e if isinstance(e, dict) else dict(href=e) for e in section["contents"]]
            found[section["section"]] = [(e.get("text"), e["href"]) for e in entries if "href" in e]
    return found


def page_of(file):
    return re.sub(r"\.(ipynb|md)$", "", NUMBER.sub("", file))


@cache
def margin():
    "The texts that the margin has for pages."
    return {page_of(file): text for entries in sections().values() for text, file in entries if text}


def ways_in():
    "The sections of the margin as lists of links."
    parts = []
    for name, entries in sections().items():
        if name.startswith("Internals"):  # they are in the margin
            continue
        links = [
            f'<li><a href="{page_of(file)}.html">{html.escape(text or title(file))}</a></li>'
            for text, file in entries
        ]
        parts.append(f"<section><h2>{html.escape(name)}</h2><ul>{''.join(links)}</ul></section>")
    return f'<div class="pv-ways">{"".join(parts)}</div>'


def title(notebook):
    first = json.loads((ROOT / "nbs" / notebook).read_text(encoding="utf-8"))["cells"][0]
    return "".join(first["source"]).partition("\n")[0].removeprefix("# ")


def relink(markdown, up):
    "Links to notebooks lose the numbers; what stands above nbs/ is found at `up`."
    return LINK.sub(lambda match: NUMBER.sub("", match[0]).replace("](../", f"]({up}"), markdown)


ANSWERS = {
    "tutorials": "Code, with the answer",
    "zh": "代码，含答案",
}  # a lesson's folder -> what unfolds its code


def folded(source, part):
    "A lesson's cell whose code has the answer to its question above the question is shown closed."
    if part not in ANSWERS or "ask.exercise(" not in source:
        return source
    return f'#| code-fold: true\n#| code-summary: "{ANSWERS[part]}"\n{source}'


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
    """nbdev's processors, with one change, and what the last notebook defines. nbdev hides exported code and puts the
    signature in its place; these notebooks are written to be read with their code, so it stays, and each definition can
    be linked to (`trace.html#pack`)."""
    from nbdev import processors
    from nbdev.process import Processor
    from nbdev.processors import FilterDefaults, mk_cell

    found = {}  # "module": its name; "targets": the names that can be linked to

    class show_exports(Processor):
        "Exported cells stay, with an anchor for each name; hidden cells and cells that only import go."

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
                    anchors = (f'<span id="{name.lower()}" class="target"></span>' for name in sorted(names))
                    cells.append(mk_cell("".join(anchors), cell_type="markdown"))
                cells.append(cell)
            self.nb.cells = type(self.nb.cells)(cells)
            found.update(module=module, targets=targets)

    class Process(FilterDefaults):
        def base_procs(self):
            gone = {
                processors.clean_show_doc,
                processors.exec_show_docs,
                processors.rm_export,
                processors.mv_exports,
                processors.add_fold,
                processors.clean_magics,  # `%%record` is part of what a cell says
            }
            return [
                show_exports if proc is processors.add_show_docs else proc
                for proc in super().base_procs()
                if proc not in gone
            ]

    return Process(), found


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


MARGIN = re.compile(r'<nav id="quarto-sidebar".*?</nav>', re.S)
BAR = re.compile(r'<nav class="quarto-secondary-nav".*?</nav>', re.S)  # its button opens the margin
SCRIPT = re.compile(r'<script[^>]*src="(?:https?:|[./]*site_libs/fuse/)[^>]*>\s*</script>')
SHEET = re.compile(
    r'<link[^>]*href="https?:[^>]*rel="stylesheet"[^>]*>|<link[^>]*rel="stylesheet"[^>]*href="https?:[^>]*>'
)


def self_contained(folder):
    "Replace in the pages, style sheets and scripts of `folder` all that would be loaded from the network."
    settings = re.search(r'site-url: "([^"]+)"', (ROOT / "nbs" / "nbdev.yml").read_text(encoding="utf-8"))
    pictures = Pictures(folder)
    write_margin(folder)
    for page in folder.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        up = "../" * (len(page.relative_to(folder).parts) - 1)
        text = SCRIPT.sub("", SHEET.sub("", text))
        if page.relative_to(folder).parts[0] == "source":
            text = BAR.sub("", MARGIN.sub("", text))
            text = text.replace(" has-sidebar", "").replace("nav-sidebar docked ", "")
        text = MARGIN.sub(margin_of(page.relative_to(folder).as_posix(), up), text)
        text = CODE.sub(lighter, text)
        text = PRINTED.sub(sentences, text)
        text = CELL.sub(breakable, text)
        text = HEADING.sub(broken_heading, text)
        text = re.sub(r'<span class="math (inline|display)">(.*?)</span>', mathml, text, flags=re.S)
        text = text.replace('href="@source/', f'href="{up}source/')
        text = PICTURE.sub(lambda match, up=up: pictures.tag(match, up), text)
        text = DRAWING.sub(told_dark, text)
        text = NAV.sub(lambda match: f'<nav aria-label="{NAVS[match[0]]}"{match[0][4:]}', text)
        text = framed(text, page.relative_to(folder), folder)
        if settings:
            text = with_links(text, settings[1])
            text = text.replace(f'href="{settings[1]}/', f'href="{up or "./"}')
        text = text.replace("</body>", f'<script src="{up}live/site.js"></script></body>')
        page.write_text(text, encoding="utf-8")
    for sheet in folder.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        sheet.write_text(
            re.sub(r"@import\s+(?:url\()?['\"]?https?:[^;]*;(?:[^{};]*\);)?", "", text), encoding="utf-8"
        )
    shutil.rmtree(folder / "site_libs" / "fuse", ignore_errors=True)
    icons(folder)
    plain_copies(folder)
    search_from_disk(folder)


WORDS = {  # folder of pages in another language -> what stands around a text, in English and in it
    "zh": {
        "Home": "首页",
        "Playground": "演练场",
        "Course": "教程",
        "Methods": "方法",
        "How to": "怎样做",
        "What holds": "保证",
        "Internals: the reference": "内部：参考实现",
        "Internals: changing layers": "内部：改动层",
        "Internals: recording": "内部：记录",
        "Internals: figures": "内部：图",
        "Internals: models and commands": "内部：模型和命令",
        "On this page": "本页内容",
        "All pages": "所有页面",
        "Search": "搜索",
        "Toggle navigation": "打开或关闭菜单",
        "Toggle sidebar navigation": "打开或关闭目录",
        "Toggle section": "展开或收起",
        "Toggle dark mode": "切换深浅颜色",
        "Copy to Clipboard": "复制",
        "Copied!": "已复制",
        "No results": "没有找到",
        "breadcrumb": "所在位置",
        "Site": "网站",
        "This page": "本页",
        "Before and after": "上一页和下一页",
        "The figure that the code above draws": "上面的代码画出的图",
    }
}
FRAME = re.compile(
    r'((?:<span class="menu-text"|<h2 id="toc-title"|<noscript><a [^>]*)>|\s(?:placeholder|aria-label|title|alt)=")'
    r'([^<>"]+)(?=[<"])'
)
FOREIGN = re.compile(r"<em>(?=[\x00-\x7f…]*?[A-Za-z]{2}[^<\u4e00-\u9fff]*</em>)")
TWINS = {
    "tutorials": ("zh", "中文"),
    "zh": ("tutorials", "English"),
}  # folder -> the same pages, in which language
TITLE = '<div class="quarto-title-meta">'
TURN = re.compile(
    r'(<div class="nav-page nav-page-\w+">)<a href="([^"]+)".*?</a></div>', re.S
)  # at a page's foot


def framed(text, page, folder):
    """What stands around the text of a page in another language, in that language; a link to the same page in ours;
    and at the foot no page in another one."""
    of, name = page.parts[0], page.name
    words = WORDS.get(of, {})
    if words:
        text = FOREIGN.sub('<em lang="en">', text)  # slanted, as English is
        text = FRAME.sub(lambda m: m[1] + words.get(m[2], m[2]), text)
        text = text.replace('class="nav-link" href="../tutorials/', 'class="nav-link" href="')
        text = text.replace('href="../playground.html"', f'href="../playground.html#lang={of}"')

    def turned(match):  # the next page, if it is in the same language
        target = os.path.normpath(page.parent / match[2]).split(os.sep)[0]
        return f"{match[1]}</div>" if target != of and {target, of} & {*LANGUAGES} else match[0]

    text = TURN.sub(turned, text)
    other, said = TWINS.get(of, ("", ""))
    if (folder / other / name).exists() and other:
        lang = other if other in WORDS else "en"
        link = (
            f'<p class="pv-twin"><a href="../{other}/{name}" lang="{lang}" hreflang="{lang}">{said}</a></p>'
        )
        text = text.replace(TITLE, link + TITLE, 1)
    return text


NAVS = {  # how a screen reader tells the navigations of a page apart
    '<nav class="navbar ': "Site",
    '<nav class="quarto-secondary-nav"': "This page",
    '<nav id="quarto-sidebar"': "All pages",
    '<nav id="TOC"': "On this page",
    '<nav class="page-navigation"': "Before and after",
}
NAV = re.compile("|".join(NAVS))


def write_margin(folder):
    "The margin as one script for all pages, from that of the first page; it is a tenth of the site otherwise."
    found = MARGIN.search((folder / "index.html").read_text(encoding="utf-8"))[0]
    inside = found.partition(">")[2].removesuffix("</nav>")
    plain = inside.replace(' active" aria-current="page"', '"').replace('href="./', 'href="')
    plain = plain.replace('role="navigation"', 'role="button"')  # what opens a section
    script = (docs_live.THEME / "margin.js").read_text(encoding="utf-8")
    told = script.replace("/*margin*/ null", json.dumps(plain, ensure_ascii=False).replace("</", "<\\/"))
    told = told.replace("/*words*/ null", json.dumps(WORDS, ensure_ascii=False))
    (folder / "live").mkdir(exist_ok=True)
    (folder / "live" / "margin.js").write_text(told, encoding="utf-8")


def margin_of(page, up):
    "What a page has in the place of its margin; without scripts, the way to the page that lists all."
    no_script = f'<noscript><a href="{up}index.html">All pages</a></noscript>'
    return lambda match: (
        f'{match[0].partition(">")[0]} data-page="{page}">{no_script}'
        f'<script src="{up}live/margin.js"></script></nav>'
    )


CODE = re.compile(r'<pre class="sourceCode.*?</pre>', re.S)
QUIET = re.compile(r'<span class="(?:op|va|at|bu)">([^<]*)</span>')  # of the colour of the text, or nearly
ALIKE = re.compile(r'<span class="(\w\w)">[^<]*</span>(?:<span class="\1">[^<]*</span>)+')


def lighter(match):
    "Highlighted code with half as many tags, and the same to the eye: neighbours of one colour are one piece."

    def joined(alike):
        return f'<span class="{alike[1]}">{re.sub("<[^>]*>", "", alike[0])}</span>'

    text = ALIKE.sub(joined, QUIET.sub(r"\1", match[0]))
    return re.sub(r"<[^>]*>|&#x27;|&quot;", lambda m: {"&#x27;": "'", "&quot;": '"'}.get(m[0], m[0]), text)


PRINTED = re.compile(r"(?<=<pre)(><code>)([^<]*)(?=</code></pre>\n</div>)")


def sentences(match):
    "What a cell printed in lines longer than any table here: the style sheet breaks them and cuts nothing off."
    longest = max(len(line) for line in html.unescape(match[2]).splitlines() or [""])
    return f' class="pv-said"{match[0]}' if longest > 100 else match[0]


CELL = re.compile(r"(?<=<t[dh])([^>]*>)([^<]+)(?=</t[dh]>)")


HEADING = re.compile(r"<h[1-4]\b.*?</h[1-4]>", re.S)


def pieces(text):
    "A text of a page whose long names may be broken behind their points and underscores, and nowhere else."
    return re.sub(r"\S{19,}", lambda name: re.sub(r"([._=])(?=\w)", r"\1<wbr>", name[0]), text)


def breakable(match):
    "A cell of a table, so."
    return match[1] + pieces(match[2])


def broken_heading(match):
    "A heading, so."
    return re.sub(r"(?<=>)[^<]+", lambda text: pieces(text[0]), match[0])


def with_links(page, site):
    "Where the text of a page, code too, names a place on this site (as docstrings do), the name becomes a link."
    place = re.compile(rf"{re.escape(site)}/[\w/.-]+#[\w-]+")
    kept_or_text = re.compile(r"<(script|style|a)\b.*?</\1>|<[^>]*>|[^<]+", re.S)
    linked = lambda part: part if part[0] == "<" else place.sub(r'<a href="\g<0>">\g<0></a>', part)
    return kept_or_text.sub(lambda match: linked(match[0]), page)


ICON = re.compile(r"\.(bi-[\w-]+)::before\{[^{}]*\}")


def icons(folder):
    "Of two thousand icons, those that a page or a script of the site names."
    texts = [p.read_text(encoding="utf-8") for kind in ("*.html", "smalldocs.js") for p in folder.rglob(kind)]
    used = {name for text in texts for name in re.findall(r"bi-[\w-]+", text)}
    sheet = folder / "site_libs" / "bootstrap-icons" / "bootstrap-icons.min.css"
    text = ICON.sub(lambda m: m[0] if m[1] in used else "", sheet.read_text(encoding="utf-8"))
    old = re.sub(
        r',\s*url\([^)]*\.woff(?:\?[^)]*)?\)\s*format\("woff"\)', "", text
    )  # every browser reads woff2
    sheet.write_text(old, encoding="utf-8")
    (sheet.parent / "fonts" / "bootstrap-icons.woff").unlink()


RAW = re.compile(r"^(`{3,})\{=html\}\n(.*?)\n\1$", re.S | re.M)
TRACE = re.compile(r"<peft-viz-trace[^>]*>(.*?)</peft-viz-trace>", re.S)
DRAWN = re.compile(r"data:image/[^;]+;base64,[A-Za-z0-9+/=]+|<svg\b.*?</svg>", re.S)


def plain_copies(folder):
    """The pages as text, for readers that are no people (llms.txt lists them): without pictures and without tags. What
    is about the inside of the package is left out: the repository has it."""
    inside = {
        page_of(file)
        for name, found in sections().items()
        if name.startswith("Internals")
        for _, file in found
    }

    def text_of(match):
        text = re.sub(r"</(?:td|th|dt|span)>", " ", match[match.lastindex])
        text = re.sub(r"<(?:/tr|/p|/li|/summary|/details|/pre|/div|br)[^>]*>", "\n", text)
        return html.unescape(re.sub(r"\n\s*\n+", "\n", re.sub(r"<[^>]+>", "", text))).strip()

    for copy in folder.rglob("*.llms.md"):
        page = copy.relative_to(folder).as_posix().removesuffix(".llms.md")
        if page in inside or page.startswith("source/"):
            copy.unlink()
            continue
        text = TRACE.sub(text_of, RAW.sub(text_of, copy.read_text(encoding="utf-8")))
        text = re.sub(r"^<.*$", lambda line: re.sub(r"<[^>]+>", " ", line[0]).strip(), text, flags=re.M)
        copy.write_text(DRAWN.sub("", text), encoding="utf-8")
    index = folder / "llms.txt"
    lines = index.read_text(encoding="utf-8").splitlines(keepends=True)
    gone = re.compile(r"/(source/.+|" + "|".join(map(re.escape, inside)) + r")\.llms\.md\)")
    index.write_text("".join(line for line in lines if not gone.search(line)), encoding="utf-8")


PICTURE = re.compile(r'<img\b([^>]*?)\ssrc="data:image/(png|jpeg|gif|svg\+xml);base64,([^"]{2000,})"([^>]*)>')


DARK = ' data-drawn="dark"'  # styles.css does not turn it round on a dark page
DRAWING = re.compile(
    r'<img (?=src="data:image/svg\+xml,[^"]{0,3000}?fill:%23([0-9a-f]{6}))'
)  # its ground is first


def drawn_dark(png):
    "Whether a picture was drawn for a dark page: by the colour of its corner."
    from PIL import Image

    return sum(Image.open(io.BytesIO(png)).convert("RGB").getpixel((0, 0))) < 3 * 80


def told_dark(match):
    "The same of a drawing that stands in the page."
    return match[0] + DARK[1:] + " " if sum(bytes.fromhex(match[1])) < 3 * 80 else match[0]


class Pictures:
    "Pictures as files, each once; they are loaded when they come near the screen."

    def __init__(self, folder):
        self.folder, self.known = folder, {}
        for path in folder.rglob("*_files/*"):  # beside the pages' copies in plain text
            self.known[hashlib.sha256(path.read_bytes()).digest()] = path.relative_to(folder).as_posix()

    def tag(self, match, up):
        before, kind, text, after = match.groups()
        content = base64.b64decode(text)
        key = hashlib.sha256(content).digest()
        if key not in self.known:
            name = f"live/pictures/{key.hex()[:12]}.{'svg' if kind == 'svg+xml' else kind}"
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(content)
            self.known[key] = name
        size = ""
        if kind == "png" and "width=" not in before + after:
            width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
            size = f' width="{width}" height="{height}"'
        alt = "" if "alt=" in before + after else ' alt="The figure that the code above draws"'
        if kind == "png" and drawn_dark(content):
            alt += DARK
        return f'<img{before} src="{up}{self.known[key]}"{after}{alt}{size} loading="lazy" decoding="async">'


def mathml(match):
    "TeX in a page -> MathML, which browsers draw without help."
    from latex2mathml.converter import convert

    kind, tex = match.groups()
    tex = html.unescape(re.sub(r"^\s*\\[(\[]|\\[)\]]\s*$", "", tex))
    reach = ' tabindex="0"' if kind == "display" else ""  # a wide one can be scrolled with the keyboard
    drawn = convert(tex, display="block" if kind == "display" else "inline")
    return f'<span class="math {kind}"{reach}>{drawn}</span>'


FETCH = 'const r = await fetch(offset + "search.json");\n      index = await r.json();'
LOAD = "index = await window.peftViz.index();"
FIND = re.compile(r"const hits = fuse \?.*?;\n", re.S)
FOUND = "const hits = window.peftVizSearch(index, q, limit);\n"
SAYS = {  # what the script of all pages says, in the language of the page
    "'<div class=\"search-none\">No results</div>'": "'<div class=\"search-none\">' + pvSaid('No results') + '</div>'",
    '"Copied!"': "pvSaid('Copied!')",
    '"Copy to Clipboard"': "pvSaid('Copy to Clipboard')",
}
SAID = "const pvSaid = (text) => window.peftVizWords?.[text] ?? text;\n"
LEAST = "if (q.length < 2) { hide(); return; }"
PLACEHOLDERS = (("index = [];", "index = { entries: [], dictionary: [] };"), (LEAST, LEAST.replace("2", "1")))


def search_from_disk(folder):
    """A page opened from disk may load a script, but not fetch a file. And smalldocs finds words that are alike, in
    the alphabets of the West: docs_theme/search.js finds what is asked for, in Chinese, too."""
    script, index = folder / "site_libs" / "smalldocs.js", folder / "search.json"
    text, count = FIND.subn(FOUND, script.read_text(encoding="utf-8"))
    changes = dict([(FETCH, LOAD), *PLACEHOLDERS]) | SAYS
    if count != 1 or not all(old in text for old in changes):
        raise SystemExit("smalldocs searches in another way now: adapt search_from_disk in scripts/docs.py")
    for old, new in changes.items():
        text = text.replace(old, new)
    script.write_text(SAID + text, encoding="utf-8")
    keep = ("title", "section", "text", "href")
    entries = [{key: e[key] for key in keep} for e in json.loads(index.read_text(encoding="utf-8"))]
    told = dict(entries=names(folder) + entries, dictionary=dictionary())
    docs_live.write_script(folder / "live" / "search.js", told)
    index.unlink()


def names(folder):
    "An entry for each public name: it leads to its place in the API reference."
    pattern = re.compile(
        r'<details id="(api-[^"]+)"[^>]*><summary><code>(.*?)</code> <span>(.*?)</span></summary>'
    )
    found = []
    for page in sorted(folder.rglob("*.html")):
        path, text = page.relative_to(folder).as_posix(), page.read_text(encoding="utf-8")
        for anchor, called, told in pattern.findall(text):
            of = anchor[4:].partition(".")[0] if called.startswith(".") else ""  # the class of a method
            full = f"{page.stem}.{of}{html.unescape(called)}"
            entry = dict(title=path.removesuffix(".html"), section=re.split(r"[(:]", full)[0])
            plain = html.unescape(re.sub(r"<[^>]+>", "", told))
            found.append(entry | dict(text=f"{full} {plain}", href=f"{path}#{anchor}"))
    return found


def dictionary():
    "The field's terms in English and Chinese, from the tables of the views: a word finds the pages of both languages."
    from peft_viz.recording import layout, marks
    from peft_viz.views import widgets

    pairs = [(mark.en, mark.zh) for mark in layout.MARKS.values()] + list(marks.METHODS.values())
    pairs += [(en, widgets.LABELS["zh"][name]) for name, en in widgets.LABELS["en"].items() if "{" not in en]
    pairs += widgets.FIGURE_NAMES.values()
    return sorted({(en, zh) for en, zh in pairs if en != zh})


def main(folder="_docs", stage="_proc"):
    start, folder, stage = time.time(), ROOT / folder, ROOT / stage
    shutil.rmtree(stage, ignore_errors=True)
    recording = subprocess.Popen([sys.executable, docs_live.__file__, stage / "live" / "recordings"])
    try:
        prepare(stage)
        built = render(stage)
        docs_live.scripts(stage / "live")
        shutil.copy2(docs_live.THEME / "recording.html", built)
        self_contained(built)
        playground_page.write(built)
        if recording.wait():
            raise SystemExit("the recordings of the site were not made")
    finally:
        recording.kill()
    docs_live.pack(stage / "live")
    shutil.copytree(stage / "live", built / "live", dirs_exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(built, folder)
    pages = len(list(folder.rglob("*.html")))
    print(f"{pages} pages in {time.time() - start:.0f} s. Open {(folder / 'index.html').as_uri()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("folder", nargs="?", default="_docs", help="where the pages go (_docs)")
    parser.add_argument("stage", nargs="?", default="_proc", help="where the processed notebooks go (_proc)")
    main(**vars(parser.parse_args()))
