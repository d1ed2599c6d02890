"The site: it is complete, it asks nothing of the network, and its pages run without errors."
# lane: site

import html, inspect, json, os, re, subprocess, sys
from pathlib import Path
from urllib.parse import unquote
import pytest
import yaml
from conftest import Page, ROOT

sys.path.append(str(ROOT / "scripts"))
import docs_live
from peft_viz.views import ask

NUMBER = re.compile(r"\b\d\d_(?=[A-Za-z])")
NOTEBOOKS = sorted(
    p.relative_to(ROOT / "nbs")
    for p in (ROOT / "nbs").rglob("*.ipynb")
    if not any(part.startswith((".", "_")) for part in p.parts)
)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    "The rendered site; `PEFT_VIZ_SITE` names one that was rendered already."
    if "PEFT_VIZ_SITE" in os.environ:
        return Path(os.environ["PEFT_VIZ_SITE"])
    folder = tmp_path_factory.mktemp("docs")
    done = subprocess.run(
        [sys.executable, "scripts/docs.py", folder / "site", folder / "stage"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def pages(site):
    return sorted(site.rglob("*.html"))


def test_every_notebook_has_a_page(site):
    expected = {NUMBER.sub("", str(nb.with_suffix(".html"))) for nb in NOTEBOOKS}
    found = {str(p.relative_to(site)) for p in pages(site)}
    made = {p for p in found if p in ("api.html", "recording.html") or p.startswith("source/")}
    assert expected == found - made


def test_every_notebook_stands_in_the_margin():
    def leaves(entry):
        if isinstance(entry, str):
            return [entry]
        if isinstance(entry, list):
            return [leaf for item in entry for leaf in leaves(item)]
        return leaves(entry.get("contents", [])) + leaves(entry.get("href", []))

    listed = leaves(
        yaml.safe_load((ROOT / "nbs" / "sidebar.yml").read_text())["website"]["sidebar"]["contents"]
    )
    assert sorted(listed) == sorted([*map(str, NOTEBOOKS), "api.md"])


LINK = re.compile(r'<(?:a|img|script|link)\b[^>]*?\s(?:href|src)="([^"]+)"')


def test_no_link_within_the_site_is_broken(site):
    "Links, their anchors, pictures, scripts, style sheets and recordings."
    texts = {page: page.read_text() for page in pages(site)}
    ids = {page: set(re.findall(r'\bid="([^"]+)"', text)) for page, text in texts.items()}
    broken = []
    for page, text in texts.items():
        for href in LINK.findall(text):
            address, _, anchor = unquote(html.unescape(href)).partition("#")
            path, _, query = address.partition("?")
            if re.match(r"[a-z]+:", path):
                continue
            target = (page.parent / path).resolve() if path else page
            if target.is_dir():
                target = target / "index.html"
            state = "=" in anchor  # of the playground, not a heading
            there = target.exists() and (not anchor or state or target not in ids or anchor in ids[target])
            if not there or (target.name == "recording.html" and not recording(site, query).exists()):
                broken.append(f"{page.relative_to(site)}: {href}")
        broken += [
            n for n in re.findall(r'data-recording="([^"]+)"', text) if not recording(site, n).exists()
        ]
    assert not broken


def recording(site, name):
    return site / "live" / "recordings" / f"{name}.js"


def test_the_site_is_small(site):
    "Under 25 MB; what a page needs before it is painted, under 1 MB (a tenth more where figures stand in its text)."
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    assert size < 25_000_000
    heavy = {}
    for page in pages(site):
        text = page.read_text()
        needed = [p for p in LINK.findall(text) if p.endswith((".css", ".js")) and "darkly" not in p]
        bytes_ = page.stat().st_size + sum((page.parent / p).stat().st_size for p in set(needed))
        if bytes_ > (1_100_000 if page.name == "widgets.html" else 900_000):  # and 100 kB for a recording
            heavy[page.name] = bytes_
    assert heavy == {}


def test_no_page_has_a_copy_of_the_viewer(site):
    "Its code is loaded once, and recordings when they come near the screen."
    assert (site / "live" / "viewer.js").stat().st_size > 50_000
    assert [p.name for p in pages(site) if 'TAG = "peft-viz-trace"' in p.read_text()] == []
    assert 'TAG = "peft-viz-trace"' in (site / "live" / "viewer.js").read_text()
    assert [p.name for p in pages(site) if '"format":"peft_viz.trace"' in p.read_text()] == []


def test_a_method_page_has_a_recording_for_each_choice(site):
    for method, page in docs_live.PAGES.items():
        assert f'data-recording="{docs_live.name_of(method)}"' in (site / f"{page}.html").read_text()
    names = {p.stem for p in (site / "live" / "recordings").glob("*.js")}
    wanted = {
        docs_live.name_of(method, virtual, side, cache)
        for method in docs_live.PAGES
        for virtual in docs_live.counts(method)
        for side in docs_live.SIDES
        for cache in docs_live.CACHES
    }
    assert len(wanted) == 114 and wanted <= names


def test_every_public_name_has_an_entry(site):
    "With its parameters, their types and defaults; and a link to the line of the source that defines it."
    import peft_viz
    from peft_viz import api

    index, missing = (site / "api.html").read_text(), []
    for names in api.NAMES.values():
        for name in names.split():
            link = re.search(rf'<a href="([^"#]+)#(api-{name.lower()})"[^>]*><code>{name}</code>', index)
            if link is None:
                missing.append(name)
                continue
            entry = (
                (site / link[1])
                .read_text()
                .partition(f'<details id="{link[2]}"')[2]
                .partition("</details>")[0]
            )
            value = getattr(peft_viz, name)
            if inspect.isfunction(value):
                assert [
                    p for p in inspect.signature(value).parameters if f"<code>{p}</code>" not in entry
                ] == []
            file, line = re.search(r'href="[./]*source/([^"#]+)\.html#L(\d+)"', entry).groups()
            code = (ROOT / "peft_viz" / f"{file}.py").read_text().splitlines()
            assert name in code[int(line) - 1] or code[int(line) - 1].startswith("@"), name
    assert missing == []


def test_the_copies_in_plain_text_are_listed(site):
    listed = re.findall(r"\((?:https?://[^/]+/[^/]+/)?([^)]+\.llms\.md)\)", (site / "llms.txt").read_text())
    assert "tutorials/tour.llms.md" in listed and "api.llms.md" in listed
    assert [path for path in listed if not (site / path).exists()] == []
    no_text = re.compile(r'<details id="api-|base64,[\w+/]{200}|data-recording')
    assert [p.name for p in site.rglob("*.llms.md") if no_text.search(p.read_text())] == []


def test_a_chinese_page_has_a_chinese_frame(site, monkeypatch):
    "Whatever stands around the text of a page is said in its language, by one table; the margin knows its sections."
    monkeypatch.setenv("IN_TEST", "1")  # docs.py sets it, too: so it is put back
    import docs

    words = docs.WORDS["zh"]
    texts = [p.read_text() for p in pages(site) if p.relative_to(site).parts[0] == "zh"]
    said = {match[2] for text in texts for match in docs.FRAME.finditer(text)}
    assert said & set(words) == set() and len(said & set(words.values())) >= 12
    assert [name for name in docs.sections() if name.isascii() and name not in words] == ["API"]
    assert json.dumps(words, ensure_ascii=False) in (site / "live" / "margin.js").read_text()


def test_a_lesson_leads_to_itself_in_the_other_language(site):
    for one, other in (("tutorials", "zh"), ("zh", "tutorials")):
        for page in (site / one).glob("*.html"):
            assert f'<p class="pv-twin"><a href="../{other}/{page.name}"' in page.read_text(), page


def test_a_figure_that_was_drawn_dark_is_not_turned_round(site):
    "On the pages of the figures there are such pictures, and an explorer with a drawing in the page."
    dark = re.compile(r'<img[^>]* data-drawn="dark"')
    found = {page.stem: len(dark.findall(page.read_text())) for page in pages(site)}
    assert found["widgets"] == 2 and sum(found.values()) > 8 and found["tour"] == 0


def test_each_navigation_of_a_page_has_its_name(site):
    for page in pages(site):
        assert re.findall(r"<nav(?! aria-label)[^>]*>", page.read_text()) == [
            n for n in re.findall(r"<nav[^>]*>", page.read_text()) if "breadcrumbs" in n
        ]


def test_a_button_opens_what_is_on_its_page(site):
    for page in pages(site):
        text = page.read_text()
        opened = set(re.findall(r'aria-controls="([^"]+)"', text))
        assert opened <= set(re.findall(r'\bid="([^"]+)"', text)), page


def test_a_long_name_in_a_heading_is_broken_behind_its_points(site):
    text = (site / "reference" / "specification.html").read_text()
    assert re.search(r"<h2[^>]*>(<code>)?prepare_<wbr>inputs_<wbr>for_<wbr>generation<", text)
    assert ">reference.<wbr>methods.<wbr>prompt_<wbr>tuning<" in (site / "api.html").read_text()


def test_the_next_page_is_in_the_same_language(site):
    found = {}
    for page in pages(site):
        for href in re.findall(r'nav-page-\w+"><a href="([^"]+)"', page.read_text()):
            target = (page.parent / href).resolve()
            found[page.relative_to(site), target.relative_to(site)] = "zh" in page.parts, "zh" in target.parts
    assert len(found) > 100 and [way for way, (here, there) in found.items() if here != there] == []


def test_the_margin_leads_to_every_page_and_is_kept_once(site):
    margin = (site / "live" / "margin.js").read_text()
    linked = set(re.findall(r'href=\\"([^"#\\]+)', margin))
    made = {str(p.relative_to(site)) for p in pages(site)}
    assert linked == {p for p in made if p != "recording.html" and not p.startswith("source/")}
    assert [p.name for p in pages(site) if "sidebar-item" in p.read_text()] == []


@pytest.mark.parametrize("folder", ["tutorials", "zh"])
def test_code_with_the_answer_to_a_question_is_folded(site, folder):
    folded = {}
    for notebook in sorted((ROOT / "nbs" / folder).glob("*.ipynb")):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        asked = sum("ask.exercise(" in "".join(c["source"]) for c in cells if c["cell_type"] == "code")
        page = site / folder / re.sub(r"^\d\d_", "", notebook.with_suffix(".html").name)
        folded[notebook.name] = asked, page.read_text(encoding="utf-8").count('<details class="code-fold">')
    assert all(asked == closed for asked, closed in folded.values()), folded
    assert sum(asked for asked, _ in folded.values()) > 20


ASKED = """n => {
  const element = document.querySelectorAll("peft-viz-exercise")[n];
  const text = new TextDecoder().decode(Uint8Array.from(atob(element.dataset.exercise), c => c.charCodeAt(0)));
  element.shadowRoot.querySelector("input").focus();
  return JSON.parse(text);
}"""
SAID = """n => {
  const { shadowRoot } = document.querySelectorAll("peft-viz-exercise")[n];
  const { className, textContent } = shadowRoot.querySelector("output");
  shadowRoot.querySelector("input").focus();
  shadowRoot.querySelector("input").select();
  return [className, textContent];
}"""


def answers(tab):
    """What the exercises of a page say to a wrong and to the right answer, where it is not what they should say. The
    answers are given by keyboard."""
    found, keys, count = [], tab.keyboard, tab.locator("peft-viz-exercise").count()
    if count:  # the script that makes forms of them has come
        tab.locator("peft-viz-exercise output").last.wait_for(state="attached")
    for n in range(count):
        asked = tab.evaluate(ASKED, n)
        choices, right = [ask.plain(c, asked["choices"]) for c in asked["choices"]], asked["right"]
        hinted = [answer for answer in asked["hints"] if not choices or answer in choices]
        others = hinted or [choice for choice in choices if choice != right] or ["0 0 7"]
        for answer, kind in ((others[0], "wrong"), (right, "right")):
            if choices:
                keys.press("Space")
                for _ in range(choices.index(answer)):
                    keys.press("ArrowDown")
            else:
                keys.insert_text(answer)
            keys.press("Enter")
            told, text = tab.evaluate(SAID, n)
            hint = asked["hints"].get(answer, text).replace("`", "")  # (they mark code)
            if told != kind or text != hint or not text:
                found.append((n, answer, told, text))
    return found


BEYOND = """() => {
  document.querySelectorAll(".pv-api details").forEach(d => (d.open = true));
  const scrolls = e => e && (/auto|scroll|hidden/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
  const written = e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  const beyond = [...document.querySelectorAll("main *")]
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && written(e) && !scrolls(e));
  const upright = [...document.querySelectorAll("main :is(td, th)")].filter(e => {
    const { width, height } = e.getBoundingClientRect();
    return width && width < 40 && height > 70 && e.textContent.trim().length > 3;
  });
  return [...beyond, ...upright].map(e => e.textContent.slice(0, 80));
}"""  # texts that leave the screen at the right, where nothing scrolls, and cells with a letter in each line; the
# entries of the API are opened


@pytest.fixture(scope="module")
def walk(site, browser):
    """A walk through every page, each opened once, on a phone without a network; the tab, and what was seen: page ->
    (is its title visible, its width, texts beyond its edge, `answers`). Of the pages that show a file's source one is
    opened."""
    context = browser.new_context(viewport={"width": 390, "height": 800}, offline=True)
    tab, seen = Page(context.new_page()), {}
    listings = [p for p in pages(site) if p.relative_to(site).parts[0] == "source"]
    for path in [p for p in pages(site) if p not in listings[1:]]:
        tab.show(path)
        visible = tab.locator("main h1, main .title, peft-viz-trace.alive").first.is_visible()
        width, beyond = tab.evaluate("document.documentElement.scrollWidth"), tab.evaluate(BEYOND)
        seen[path] = visible, width, beyond, answers(tab)
        tab.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        tab.wait_for_function(  # what it asked for, at the latest when the answers scrolled it, has come
            "!document.querySelector('peft-viz-trace[aria-busy]')"
        )
    tab.wait_for_timeout(200)
    yield tab, seen
    context.close()


@pytest.mark.browser
def test_pages_load_nothing_from_the_network(walk):
    tab, seen = walk
    assert tab.external == [] and tab.problems == []
    assert [path for path, (visible, *_) in seen.items() if not visible] == []


@pytest.mark.browser
def test_every_exercise_takes_a_wrong_and_a_right_answer_by_keyboard(walk):
    _, seen = walk
    assert {"/".join(path.parts[-2:]): said for path, (*_, said) in seen.items() if said} == {}


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_switch_turns_the_page_over_and_back(site, new_page, scheme):
    tab = new_page(color_scheme=scheme)
    tab.show(site / "index.html")

    def wait(dark):
        tab.wait_for_function(
            "dark => { const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number);"
            " return (r + g + b < 384) === dark && "
            "document.documentElement.classList.contains('quarto-dark') === dark }",
            arg=dark,
        )

    for dark in (scheme == "dark", scheme != "dark", scheme == "dark"):
        wait(dark)
        tab.click(".quarto-color-scheme-toggle")
    assert tab.problems == []


@pytest.mark.browser
def test_a_dark_page_is_printed_light(site, new_page):
    tab = new_page(color_scheme="dark", offline=True)
    tab.show(site / "zh" / "prompt_tuning.html")
    ink = """when => {
      if (when) dispatchEvent(new Event(when));
      const colours = ["body", "main p", "main pre code span[class]"].map(where => {
        const found = getComputedStyle(document.querySelector(where))[where === "body" ? "backgroundColor" : "color"];
        return found.match(/\\d+/g).slice(0, 3).reduce((sum, x) => sum + +x, 0) / 3;
      });
      return [...colours, getComputedStyle(document.querySelector(".cell-output-display img")).filter];
    }"""
    before, printed, after = (tab.evaluate(ink, when) for when in (None, "beforeprint", "afterprint"))
    assert before == after and before[0] < 60 < 180 < before[1] and before[3] != "none"
    assert printed[0] == 255 and max(printed[1:3]) < 150 and printed[3] == "none"
    assert tab.problems == []


@pytest.mark.browser
def test_a_recording_that_was_not_reached_is_printed_in_words(site, new_page):
    tab = new_page(offline=True)
    tab.show(site / "tutorials" / "cpt.html")
    recording = tab.locator("peft-viz-trace:not(.alive)").last
    assert not recording.locator("li").first.is_visible()  # its place is kept
    tab.emulate_media(media="print")
    assert recording.locator("li").first.is_visible() and tab.problems == []


@pytest.mark.browser
@pytest.mark.parametrize(
    "question, page_found",
    [
        ("run-length", "trace.html"),
        ("layout.attention", "layout.html#api-"),
        ("虚拟词元", "virtual-tokens"),  # what the views call it in Chinese
        ("提示微调", "prompt_tuning.html"),
        ("ｐｒｅｆｉｘ", "prefix"),  # letters as a Chinese keyboard may write them
        ("adalroa", "adalora"),  # mistyped
    ],
)
def test_search_works_from_disk(site, page, question, page_found):
    page.show(site / "index.html")
    page.fill(".smalldocs-search input", question)
    page.wait_for_selector(f".smalldocs-search-results a[href*='{page_found}']")
    assert page.problems == []


@pytest.mark.browser
def test_a_chinese_word_is_found_where_it_stands(site, page):
    "Chinese has no spaces: a word is found inside a sentence, and a part of a longer question where nothing has all."
    page.show(site / "index.html")
    texts = {"a.html": "左侧填充时，位置编号从零开始。", "b.html": "前缀放在键值缓存里。"}
    entries = [dict(title=name, section="", text=text, href=name) for name, text in texts.items()]
    find = "([e, q]) => peftVizSearch({entries: e, dictionary: [['padding', '填充']]}, q, 9).map(x => x.href)"
    asked = {
        "填充": "a",
        "缓存": "b",
        "padding": "a",
        "键值缓存 前缀": "b",
        "键值缓存是什么": "b",
        "梯度": "",
    }
    found = {q: page.evaluate(find, [entries, q]) for q in asked}
    assert found == {q: [f"{name}.html"] if name else [] for q, name in asked.items()}


@pytest.mark.browser
def test_the_first_screen_has_a_sentence_a_command_and_a_living_story(site, new_page):
    tab = new_page(offline=True)
    tab.show(site / "index.html")
    viewer = tab.locator("peft-viz-trace").first
    viewer.locator(".say").wait_for()
    box = viewer.bounding_box()
    assert box["y"] < 400 and box["height"] > 400
    assert "make demo" in tab.locator(".pv-command code").inner_text()
    first = viewer.locator(".say").inner_text()
    viewer.locator(".say").click()
    tab.keyboard.press("ArrowRight")
    assert viewer.locator(".say").inner_text() != first and tab.problems == []


@pytest.mark.browser
def test_the_explorer_shows_what_is_chosen_by_keyboard(site, new_page):
    tab = new_page(offline=True)
    tab.show(site / "reference" / "prompt_tuning.html")
    viewer = tab.locator(".pv-explorer peft-viz-trace")
    viewer.scroll_into_view_if_needed()
    viewer.locator(".say").wait_for()
    kept = "e => [e.tab, e.sceneIndex]"
    told = "e => JSON.stringify([e.payload.method.en, e.payload.layout.sequences[0].rows[0].roles])"
    before = viewer.evaluate(told)
    viewer.evaluate("e => e.goScene(3)")
    tab.locator(".pv-knobs [name=virtual][value='4']").focus()
    tab.keyboard.press("ArrowRight")
    tab.wait_for_function(
        "was => document.querySelector('.pv-explorer peft-viz-trace').wanted !== was", arg=None
    )
    tab.wait_for_function(
        f"was => ({told})(document.querySelector('.pv-explorer peft-viz-trace')) !== was", arg=before
    )
    assert viewer.evaluate(kept) == ["story", 3]
    assert json.loads(before)[1].count("v") == 4 and json.loads(viewer.evaluate(told))[1].count("v") == 8
    tab.select_option(".pv-knobs select", "LORA")
    tab.wait_for_function(
        f"() => ({told})(document.querySelector('.pv-explorer peft-viz-trace')).includes('LoRA')"
    )
    assert tab.locator(".pv-knobs [name=virtual]").first.is_disabled()
    tab.select_option(".pv-knobs select", "PREFIX_TUNING")  # the eight are remembered
    tab.wait_for_function(
        f"() => ({told})(document.querySelector('.pv-explorer peft-viz-trace')).includes('refix')"
    )
    assert tab.locator(".pv-open").get_attribute("href").endswith("?PREFIX_TUNING-8-left-dynamic")
    assert tab.problems == []


@pytest.mark.browser
def test_a_row_of_the_map_opens_its_recording_at_the_deciding_line(site, new_page):
    tab = new_page(offline=True)
    links = re.findall(
        r'href="../recording.html\?map-([^"]+)"', (site / "reference/specification.html").read_text()
    )
    import specification

    assert links == [row.id for row in specification.ROWS]
    for row in (specification.ROWS[2], specification.ROWS[40], specification.ROWS[-1]):
        tab.show(f"{(site / 'recording.html').as_uri()}?map-{row.id}")
        line = tab.locator("peft-viz-trace [data-line][aria-current]")
        line.wait_for()
        assert int(line.get_attribute("data-line")) in dict(row.decisions)
        assert row.id in tab.locator("[data-back]").inner_text()
    assert tab.problems == []


def test_a_line_of_the_map_leads_to_the_source(site):
    found = re.findall(
        r'<a href="\.\./source/([\w/]+)\.html#L(\d+)">([\w/]+)\.py:(\d+)</a>',
        (site / "reference/specification.html").read_text(),
    )
    assert len(found) > 90 and all((a, n) == (b, m) for a, n, b, m in found)


AXE = """async rules => (await axe.run(rules ? { runOnly: rules } : {}))
  .violations.filter(v => /serious|critical/.test(v.impact))"""
FEW = """alone => {
  if (!alone) document.querySelectorAll("peft-viz-trace").forEach(e => e.remove());
  document.querySelectorAll(".pv-api details").forEach((d, i) => (d.open = i < 3));
  document.querySelectorAll(".sm details").forEach((d, i) => (i % 20 == 4 ? (d.open = true) : d.remove()));
  for (const parent of document.querySelectorAll("body *")) {
    const seen = {};
    for (const child of [...parent.children]) {
      const kind = child.tagName + child.className;
      if ((seen[kind] = (seen[kind] ?? 0) + 1) > 5) child.remove();
    }
  }
}"""  # what is made alike is looked at five times, and the viewer on the page that has nothing else
KINDS = (  # the map's figures are looked at where they are made: test_specification.py
    "index.html",
    "reference/prompt_tuning.html",
    "zh/prompt_tuning.html",
    "api.html",
    "source/reference/place.html",
    "recording.html",
)


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_of_each_kind_are_accessible(site, new_page, scheme):
    "By every rule in light; in the dark only the colours are others."
    axe = pytest.importorskip(
        "axe_playwright_python", reason="axe is not installed: pip install axe-playwright-python"
    )
    script = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    tab, found = new_page(color_scheme=scheme, offline=True), {}
    for name in KINDS:
        tab.show(site / name)
        alone = name == "recording.html"
        if alone:
            tab.wait_for_selector("peft-viz-trace.alive")
        tab.evaluate(FEW, alone)
        tab.evaluate(script + "; 0")
        told = f"{AXE}.map(v => [v.id, ...v.nodes.slice(0, 3).map(n => n.html.slice(0, 160))])"
        if violations := tab.evaluate(told, ["color-contrast"] if scheme == "dark" else None):
            found[name] = violations
    assert found == {}


@pytest.mark.browser
def test_a_phone_needs_no_sideways_scrolling(walk):
    _, seen = walk
    assert [path for path, (_, width, *_) in seen.items() if width > 390] == []


@pytest.mark.browser
def test_no_text_leaves_the_screen_of_a_phone_or_stands_upright(walk):
    _, seen = walk
    assert {path.name: beyond for path, (_, _, beyond, _) in seen.items() if beyond} == {}


@pytest.mark.browser
def test_the_viewer_of_the_tour_is_alive_without_a_kernel(site, new_page):
    tab = new_page(offline=True)
    tab.show(site / "tutorials" / "tour.html")
    viewer = tab.locator("peft-viz-trace").first
    viewer.scroll_into_view_if_needed()
    line = "e => +e.shadowRoot.querySelector('[data-line][aria-current]').dataset.line"
    told = [viewer.locator(".say").inner_text()]
    viewer.locator(".say").click()
    for _ in range(5):
        tab.keyboard.press("ArrowRight")
        told.append(viewer.locator(".say").inner_text())
    assert len(set(told)) == 6
    tab.keyboard.press("ArrowDown")  # the lines behind the moment
    seen = [viewer.evaluate(line)]
    for _ in range(5):
        tab.keyboard.press("ArrowRight")
        seen.append(viewer.evaluate(line))
    assert len(set(seen)) >= 4 and tab.problems == []


@pytest.mark.browser
def test_the_playground_computes_and_its_links_lead_to_states(site, new_page):
    tab = new_page(offline=True)
    tab.show(site / "playground.html")
    shown = tab.locator("peft-viz-playground output.answer")
    shown.first.wait_for()
    assert shown.all_inner_texts() == ["azzip", "?"]
    links = tab.locator("main a[href*='#'][href*='=']")
    for link in links.all():
        link.click()
        assert tab.url.endswith(link.get_attribute("href").partition("#")[2])
        assert shown.count() == 2
    assert links.count() >= 5 and tab.problems == [] and tab.external == []
    assert (site / "playground.html").stat().st_size < 400_000


@pytest.mark.browser
def test_every_figure_of_the_tour_is_drawn(site, page):
    page.show(site / "tutorials" / "tour.html")
    widths = page.evaluate(
        "async () => Promise.all([...document.querySelectorAll('main .cell-output-display img')].map(async i => {"
        " i.loading = 'eager'; await i.decode(); return i.naturalWidth }))"
    )
    assert len(widths) >= 5 and all(widths)
    assert "VBox(" not in page.inner_text("main") and "<Axes" not in page.inner_text("main")
