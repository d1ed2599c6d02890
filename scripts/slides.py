"""The slides of the two lectures, made from the notebooks of the course: reveal.js through nbconvert, no network.

    slides.py [FOLDER]      for each lecture and language a file in FOLDER (_slides), with reveal.js beside it

nbs/tutorials/lectures.ipynb is the plan: each row of its tables has a minute, a section of a notebook, and what to do
there. Of that section those cells become slides that say so in their metadata (`slideshow.slide_type`): "slide" begins
a slide, "-" goes on with it, "fragment" comes later on the same one, "notes" is only for the one who speaks. A slide
shows the first sentence of a text (all of it with `slideshow.whole`); the whole text and what the row says are its
speaker notes (press S).

Figures are drawn again, large: the code of a notebook runs up to its last figure on a slide. `slideshow.figure` is
code that draws another figure than the cell does, or one below a text: one row of a batch instead of all, so that its
letters can be read from the last row."""

import base64, contextlib, copy, html, io, json, os, re, shutil, sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the package that stands beside this script
LANGUAGES = {"en": "tutorials", "zh": "zh"}  # language -> folder of nbs/
ROW = re.compile(r"^\| *(\d+) *\| *\[[^\]]*\]\(([\w.-]+\.ipynb)(?:#([^)]+))?\) *\| *(.*?) *\|$", re.M)
SENTENCE = re.compile(r"(?<=[.?!])(?<!et al\.)\s|(?<=[。？！])")
COLON = re.compile(r": |：")
LONG = 100  # letters: a longer sentence ends at its colon
IMPORTS = re.compile(r"\A(?:(?:import|from) .*\n)+\s*")
HEADING = re.compile(r"^(#{1,3}) +(.+)$", re.M)


def slug(title):
    "The anchor of a heading."
    return re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-")


# ---- the plan


def cells_of(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def lectures(lang):
    "Title of a lecture -> its rows: (minute, notebook, anchor, what to do)."
    path = ROOT / "nbs" / LANGUAGES[lang] / "lectures.ipynb"
    parts = re.split(r"^## +(.+)$", "\n".join("".join(c["source"]) for c in cells_of(path)), flags=re.M)
    found = {title: ROW.findall(text) for title, text in zip(parts[1::2], parts[2::2])}
    return {title: [(int(minute), *row) for minute, *row in rows] for title, rows in found.items() if rows}


def pieces(path):
    "The cells of a notebook, split at the headings: (title, cell)."
    title = ""
    for cell in cells_of(path):
        if cell["cell_type"] != "markdown":
            yield title, cell
            continue
        for text in re.split(r"(?m)^(?=#{1,3} )", "".join(cell["source"])):
            if heading := HEADING.match(text):
                title = heading[2].strip()
            if text.strip():
                yield title, {**cell, "source": text.strip()}
                cell = without_figure(cell)  # it stands below the first part of a text


def without_figure(cell):
    show = {name: x for name, x in cell["metadata"].get("slideshow", {}).items() if name != "figure"}
    return {**cell, "metadata": {**cell["metadata"], "slideshow": show}}


def section(path, anchor):
    "The cells of a section that are marked; LookupError for a section that is not there, or that shows nothing."
    every = [*pieces(path)]
    wanted = slug(anchor) if anchor else slug(every[0][0])
    found = [(title, cell) for title, cell in every if slug(title) == wanted]
    marked = [(title, cell) for title, cell in found if kind(cell)]
    if not marked:
        raise LookupError(
            f"{path.name}#{anchor}: {'no cell is marked as a slide' if found else 'no such section'}"
        )
    return marked


def kind(cell):
    return cell["metadata"].get("slideshow", {}).get("slide_type", "")


# ---- the slides


def markdown(source, slide_type):
    source = mathml(re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", source))  # a slide leads nowhere else
    return dict(cell_type="markdown", metadata=dict(slideshow=dict(slide_type=slide_type)), source=source)


def first_sentence(text):
    "The first sentence of a text, without its heading."
    parts = HEADING.sub("", text).strip().split("\n\n")
    line = next((part for part in parts if not part.startswith(">")), "")  # not the line under a title
    sentence = SENTENCE.split(line)[0].strip() if line else ""
    if text_width(re.sub(r"\]\([^)]*\)", "", sentence)) > LONG:
        sentence = COLON.split(sentence)[0]
    return sentence.rstrip(":：")


def text_width(text):
    "How wide a text is, in letters; Chinese ones are wider."
    return sum(1 + 0.7 * (ord(c) > 0x2E80) for c in text)


def code(cell, slide_type, figure=None):
    "A cell with what it shows; its code, without imports, only where it shows nothing, or text."
    cell = copy.deepcopy(cell)
    if figure:
        cell["outputs"] = [o for o in cell["outputs"] if "image/png" not in o.get("data", {})] + [figure]
    cell["source"] = IMPORTS.sub("", "".join(cell["source"]))
    rich = any({"text/html", "image/png"} & set(o.get("data", {})) for o in cell.get("outputs", ()))
    tags = ["without-code"] if rich else []
    cell["metadata"] = dict(tags=tags, slideshow=dict(slide_type=slide_type))
    return cell


def slides_of(row, folder):
    "The slides of one row: (title, cells, notes)."
    minute, file, anchor, what = row
    slides = []
    for name, cell in section(folder / file, anchor):
        if kind(cell) == "slide" or not slides:
            slides.append((name, [], []))
        if kind(cell) != "notes":
            slides[-1][1].append(cell)
        if cell["cell_type"] == "markdown":
            slides[-1][2].append(HEADING.sub("", cell["source"]).strip())
    slides[0][2].insert(0, f"**{minute} min.** {what}")
    for (_, _, before), (_, _, notes) in zip(slides, slides[1:]):
        notes.extend([] if notes else before)  # no text of its own: what was said before goes on
    return slides


def notebook(title, rows, folder):
    "A lecture as one notebook with slides; a slide has its notes at its end."
    cells = [markdown(f"# {title}", "slide")]
    drawn = figures(rows, folder)
    for name, shown, notes in (slide for row in rows for slide in slides_of(row, folder)):
        cells.append(markdown(f"## {name}", "slide"))
        for cell in shown:
            slide_type = "-" if kind(cell) == "slide" else kind(cell)
            if cell["cell_type"] == "markdown":
                whole = cell["metadata"]["slideshow"].get("whole")
                text = HEADING.sub("", cell["source"]) if whole else first_sentence(cell["source"])
                cells.append(markdown(text.strip(), slide_type))
                if figure_of(cell):
                    blank = dict(cell_type="code", metadata={}, source="", outputs=[], execution_count=None)
                    cells.append(code(blank, "-", drawn[cell["id"]]))
            else:
                cells.append(code(cell, slide_type, drawn.get(cell["id"])))
        cells.append(markdown("\n\n".join(filter(None, notes)), "notes"))
    return dict(cells=cells, metadata=dict(title=title), nbformat=4, nbformat_minor=5)


# ---- the figures

ROOM = 1216, 545  # pixels of a slide that a figure has at most: slides.css
LEAST = 20  # pixels: no letter is smaller on a slide of 720


def figure_of(cell):
    "The code that draws a cell's figure on its slide: `slideshow.figure`, else its own; None where there is none."
    said = cell["metadata"].get("slideshow", {}).get("figure")
    drawn = any("image/png" in o.get("data", {}) for o in cell.get("outputs", ()))
    return said or ("".join(cell["source"]) if drawn else None)


def figures(rows, folder):
    "Cell -> its figure, as an output of a notebook: each notebook runs up to the last one that is on a slide."
    found = {}
    for file in dict.fromkeys(row[1] for row in rows):
        shown = [c for row in rows if row[1] == file for _, c in section(folder / file, row[2])]
        wanted = {cell["id"] for cell in shown if figure_of(cell) and kind(cell) != "notes"}
        if wanted:
            found |= run(folder / file, wanted)
    return found


def run(path, wanted):
    "Run a notebook's code as far as needed; what it prints is not kept."
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    every, found, names = cells_of(path), {}, {"__name__": "slides"}
    last = max(i for i, cell in enumerate(every) if cell["id"] in wanted)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for cell in every[: last + 1]:
            said = cell["metadata"].get("slideshow", {}).get("figure")
            parts = ["".join(cell["source"])] * (cell["cell_type"] == "code") + [said] * bool(said)
            for part in parts:
                exec(compile(part, f"{path.name}, cell {cell['id']}", "exec"), names)
            if cell["id"] in wanted:
                found[cell["id"]] = picture(f"{path.name}, cell {cell['id']}")
            plt.close("all")
    return found


def picture(where):
    "The figure that was drawn last, twice as large as it stands on its slide; ValueError for letters too small."
    import matplotlib.pyplot as plt
    from matplotlib.text import Text

    figure = plt.gcf()
    scale = min(room / side for room, side in zip(ROOM, figure.get_size_inches()))  # pixels of an inch
    sizes = [t.get_fontsize() / 72 * scale for t in figure.findobj(Text) if t.get_text().strip()]
    if min(sizes) < LEAST:
        raise ValueError(
            f"{where}: letters of {min(sizes):.1f} pixels, less than {LEAST}; see slideshow.figure"
        )
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=2 * scale)
    said = html.escape(" ".join(figure.axes[0].get_title(loc="left").split()))
    image = f'<img alt="{said}" src="data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}">'
    return dict(output_type="display_data", data={"text/html": image}, metadata={})


# ---- the page


def mathml(text):
    from latex2mathml.converter import convert

    return re.sub(r"\$([^$\n]+)\$", lambda m: convert(html.unescape(m[1])), text)


def exported(book, lang):
    "The slides as HTML."
    import nbformat
    from nbconvert import SlidesExporter
    from traitlets.config import Config

    settings = Config()
    settings.SlidesExporter.reveal_url_prefix, settings.SlidesExporter.reveal_theme = "reveal.js", "white"
    settings.SlidesExporter.exclude_anchor_links = True
    settings.SlidesExporter.exclude_input_prompt = settings.SlidesExporter.exclude_output_prompt = True
    settings.TagRemovePreprocessor.enabled = True
    settings.TagRemovePreprocessor.remove_input_tags = ("without-code",)
    maker = SlidesExporter(
        config=settings, template_name="slides_theme", extra_template_basedirs=[str(ROOT / "scripts")]
    )
    book["cells"] = [{**c, "id": f"slide-{i}"} for i, c in enumerate(book["cells"])]
    text, _ = maker.from_notebook_node(
        nbformat.reads(json.dumps(book), as_version=4), {"language_code": lang}
    )
    return text


def reveal():
    "The folder of reveal.js: it comes with a Python package (requirements/slides.txt)."
    found = find_spec("sphinx_revealjs")
    if found is None:
        raise SystemExit("reveal.js is not installed: run `make slides`, which installs it")
    return Path(found.submodule_search_locations[0]) / "_static" / "revealjs"


def copy_to(target, source):
    target.parent.mkdir(parents=True, exist_ok=True)
    (shutil.copytree if source.is_dir() else shutil.copy2)(source, target)


def main(folder="_slides"):
    folder = ROOT / folder
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("LICENSE", "dist/reveal.js", "dist/reveal.css", "dist/theme/white.css", "plugin/notes"):
        copy_to(folder / "reveal.js" / name, reveal() / name)
    theme = folder / "reveal.js" / "dist" / "theme" / "white.css"  # the system's fonts are used
    theme.write_text(re.sub(r"@import [^;]+;", "", theme.read_text(encoding="utf-8")), encoding="utf-8")
    shutil.copy2(ROOT / "scripts" / "slides_theme" / "slides.css", folder)
    for lang, name in LANGUAGES.items():
        for number, (title, rows) in enumerate(lectures(lang).items(), 1):
            book = notebook(title, rows, ROOT / "nbs" / name)
            file = folder / f"lecture-{number}{'' if lang == 'en' else f'.{lang}'}.html"
            file.write_text(exported(book, lang), encoding="utf-8")
            print(f"{title}: {file.as_uri()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
