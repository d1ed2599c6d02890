"The slides of the lectures: each row of the plan has some, the plan fills its time, no network is asked."
# lane: site

import json, re

import pytest

import slides
from conftest import ROOT

PLANS = [(lang, title) for lang in slides.LANGUAGES for title in slides.lectures(lang)]


def rows(lang, title):
    return slides.lectures(lang)[title]


def folder(lang):
    return ROOT / "nbs" / slides.LANGUAGES[lang]


def test_there_are_two_lectures_in_each_language():
    assert [len(slides.lectures(lang)) for lang in slides.LANGUAGES] == [2, 2]


@pytest.mark.parametrize("lang, title", PLANS)
def test_a_lecture_goes_forward_for_forty_five_minutes(lang, title):
    minutes = [minute for minute, *_ in rows(lang, title)]
    assert minutes[0] == 0 and minutes == sorted(set(minutes)) and 38 <= minutes[-1] < 45
    assert max(b - a for a, b in zip(minutes, [*minutes[1:], 45])) <= 10  # nothing takes longer


def test_both_languages_show_the_same_slides():
    def shown(lang):
        for title in slides.lectures(lang):
            for row in rows(lang, title):
                yield [row[0], row[1], [len(cells) for _, cells, _ in slides.slides_of(row, folder(lang))]]

    assert [*shown("en")] == [*shown("zh")]


def test_a_section_that_is_not_there():
    with pytest.raises(LookupError, match="no such section"):
        slides.section(folder("en") / "02_prompt_tuning.ipynb", "no-such-thing")


def test_the_first_sentence_stands_on_the_slide():
    assert slides.first_sentence("## Title\n\nOne `x.y` here. Two.\n\nThree.") == "One `x.y` here."
    assert slides.first_sentence("## 标题\n\n第一句。第二句。") == "第一句。"
    assert (
        slides.first_sentence("A ([B et al. 2021](x)) does not. Two.") == "A ([B et al. 2021](x)) does not."
    )
    assert slides.first_sentence("So it lies *between* them:") == "So it lies *between* them"
    assert (
        slides.first_sentence("One more trap: a cache of yours. Two.") == "One more trap: a cache of yours."
    )
    assert slides.first_sentence(f"One table: {'a row for each, ' * 8}and so on. Two.") == "One table"


def test_a_slide_leaves_out_what_is_imported():
    cell = dict(cell_type="code", metadata={}, source=["import a\n", "from b import c\n", "\n", "d = c(a)"])
    assert slides.code(cell, "slide")["source"] == "d = c(a)"


def test_letters_of_a_figure_can_be_read_from_the_last_row():
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(6, 2))
    figure.add_axes([0, 0, 1, 1]).text(0, 0, "letters", fontsize=9)
    assert "<img alt=" in slides.picture("here")["data"]["text/html"]
    figure.set_size_inches(6, 6)
    with pytest.raises(ValueError, match="here: letters of 1[01].* pixels, less than 20"):
        slides.picture("here")
    plt.close(figure)


def test_a_figure_of_its_own_stands_below_the_first_part_of_a_text(tmp_path):
    show = dict(slideshow=dict(slide_type="slide", figure="draw()"))
    cell = dict(cell_type="markdown", metadata=show, source="# One\n\nText.\n\n## Two\n\nText.", id="a")
    (tmp_path / "book.ipynb").write_text(json.dumps(dict(cells=[cell])))
    parts = [cell for _, cell in slides.pieces(tmp_path / "book.ipynb")]
    assert [slides.figure_of(part) for part in parts] == ["draw()", None]


@pytest.mark.browser
def test_slides_ask_nothing_of_the_network_and_are_large_enough(tmp_path, new_page, monkeypatch):
    "Each slide fits on the screen, its text is at least a fortieth of its height, and its figures are drawn."
    if slides.find_spec("sphinx_revealjs") is None:
        pytest.skip("reveal.js is not installed: make slides")
    slides.main(tmp_path)
    tab = new_page(offline=True, viewport={"width": 1280, "height": 720})
    for file in sorted(tmp_path.glob("*.html")):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)="https?:', text)
        tab.show(file)
        tab.wait_for_selector(".reveal.ready")
        odd = {}
        for n in range(tab.evaluate("Reveal.getTotalSlides()")):
            tab.evaluate("n => Reveal.slide(n)", n)
            found = tab.evaluate(LOOK)
            if found["height"] > 722 or found["width"] > 1282 or found["small"] or found["empty"]:
                odd[n] = found
            assert n == 0 or found["notes"]
        assert odd == {} and tab.problems == [] and tab.external == []


LOOK = """() => {
  const slide = Reveal.getCurrentSlide();
  const seen = e => e.offsetParent && !e.closest("aside, peft-viz-trace");
  const texts = [...slide.querySelectorAll("p, li, td, th, pre, pre span")].filter(seen);
  const shown = texts.length + slide.querySelectorAll("h1, img, peft-viz-trace, peft-viz-exercise").length;
  const boxes = [...slide.children].filter(e => e.tagName !== "ASIDE").map(e => e.getBoundingClientRect());
  return {
    title: slide.querySelector("h1, h2")?.textContent,
    height: Math.round(Math.max(...boxes.map(b => b.bottom))),
    width: Math.round(Math.max(...boxes.map(b => b.right))),
    small: texts.filter(e => parseFloat(getComputedStyle(e).fontSize) < 18).map(e => e.textContent.slice(0, 40)),
    empty: !shown,
    notes: slide.querySelector("aside.notes")?.textContent.trim().length > 20,
  };
}"""
