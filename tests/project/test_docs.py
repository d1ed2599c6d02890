"The site: it is complete, it asks nothing of the network, and its pages run without errors."
# lane: here

import html, re, subprocess, sys
from urllib.parse import unquote
import pytest
import yaml
from conftest import Page, ROOT

NUMBER = re.compile(r"\b\d\d_(?=[A-Za-z])")
NOTEBOOKS = sorted(
    p.relative_to(ROOT / "nbs")
    for p in (ROOT / "nbs").rglob("*.ipynb")
    if not any(part.startswith((".", "_")) for part in p.parts)
)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    "The rendered site."
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
    assert expected == {str(p.relative_to(site)) for p in pages(site)}


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
    assert sorted(listed) == sorted(map(str, NOTEBOOKS))


def test_no_link_within_the_site_is_broken(site):
    ids = {page: set(re.findall(r'\bid="([^"]+)"', page.read_text())) for page in pages(site)}
    broken = []
    for page in pages(site):
        for href in re.findall(r'<a\b[^>]*\shref="([^"]+)"', page.read_text()):
            path, _, anchor = unquote(html.unescape(href)).partition("#")
            if re.match(r"[a-z]+:", path):
                continue
            target = (page.parent / path).resolve() if path else page
            if target.is_dir():
                target = target / "index.html"
            state = "=" in anchor  # of the playground, not a heading
            if not target.exists() or (anchor and not state and target in ids and anchor not in ids[target]):
                broken.append(f"{page.relative_to(site)}: {href}")
    assert not broken


@pytest.fixture(scope="module")
def walk(site, browser):
    """A walk through every page, each opened once, on a phone; the tab, and what was seen: page -> (is its title
    visible, its width)."""
    context = browser.new_context(viewport={"width": 390, "height": 800})
    tab, seen = Page(context.new_page()), {}
    for path in pages(site):
        tab.show(path)
        visible = tab.locator("main h1, main .title").first.is_visible()
        seen[path] = visible, tab.evaluate("document.documentElement.scrollWidth")
    tab.wait_for_timeout(200)
    yield tab, seen
    context.close()


@pytest.mark.browser
def test_pages_load_nothing_from_the_network(walk):
    tab, seen = walk
    assert tab.external == [] and tab.problems == []
    assert [path for path, (visible, _) in seen.items() if not visible] == []


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
def test_search_works_from_disk(site, page):
    page.show(site / "index.html")
    page.fill(".smalldocs-search input", "run-length")
    page.wait_for_selector(".smalldocs-search-results a[href*='trace.html']")
    assert page.problems == []


@pytest.mark.browser
def test_a_phone_needs_no_sideways_scrolling(walk):
    _, seen = walk
    assert [path for path, (_, width) in seen.items() if width > 390] == []


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
    before = tab.locator("peft-viz-playground .figure").inner_text()
    for link in links.all():
        link.click()
        tab.wait_for_function(
            "before => document.querySelector('peft-viz-playground')"
            ".shadowRoot.querySelector('.figure').innerText !== before",
            arg=before,
        )
        before = tab.locator("peft-viz-playground .figure").inner_text()
    assert links.count() >= 5 and tab.problems == [] and tab.external == []
    assert (site / "playground.html").stat().st_size < 400_000


@pytest.mark.browser
def test_every_figure_of_the_tour_is_drawn(site, page):
    page.show(site / "tutorials" / "tour.html")
    widths = page.evaluate(
        "[...document.querySelectorAll('main .cell-output-display img')].map(i => i.naturalWidth)"
    )
    assert len(widths) >= 5 and all(widths)
    assert "VBox(" not in page.inner_text("main") and "<Axes" not in page.inner_text("main")
