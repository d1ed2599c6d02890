"""Where a notebook is shown by others: the output of a cell in the frame that VS Code puts it into, with its rules for
scripts and pictures, and its style sheet over everything."""

import re

import pytest

from peft_viz.views import viewer, widgets

pytestmark = pytest.mark.browser

SANDBOX = "allow-scripts allow-same-origin allow-forms allow-pointer-lock allow-downloads"
POLICY = (
    "default-src 'none'; script-src https://*.vscode-cdn.net 'unsafe-inline' 'unsafe-eval'; "
    "style-src https://*.vscode-cdn.net 'unsafe-inline'; img-src https://*.vscode-cdn.net https: http: data:; "
    "font-src https://*.vscode-cdn.net https:; connect-src https:; child-src https: data:"
)  # the strictest that it has
STYLE = """body {overflow: hidden; font: 13px sans-serif; background: #1f1f1f; color: #ccc}
#container > div > div {overflow-x: auto}
table, thead, tr, th, td, tbody {border: none !important; border-collapse: collapse}
table, th, tr {vertical-align: middle; text-align: right}
th, td {padding: 4px 8px} tr:nth-child(even) {background-color: rgba(130, 130, 130, 0.08)}"""
# HTML is set as text, which runs no script; then each script is run once more, in a copy that is taken away at once
PUT = """html => {
    const output = document.createElement("div");
    document.querySelector("#container").append(output);
    output.innerHTML = html;
    for (const found of [...output.querySelectorAll("script")]) {
        const script = document.createElement("script");
        script.text = found.innerText;
        if (found.type) script.type = found.type;
        output.append(script);
        script.remove();
    }
}"""


@pytest.fixture
def cell(page):
    "`cell(html)` is the frame that shows a cell's output."
    page.show("<!doctype html><body style='margin:0'>")
    inside = (
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><style>{STYLE}</style>'
        '<body class="vscode-dark"><div id="container" style="position:absolute;width:100%;top:0"></div>'
    )

    def put(html):
        page.evaluate(
            """([html, sandbox]) => new Promise(done => { const f = document.createElement('iframe');
                Object.assign(f, {sandbox, width: 1000, height: 1400, srcdoc: html, onload: done});
                document.body.append(f); })""",
            [inside, SANDBOX],
        )
        frame = page.raw.frames[-1]
        frame.evaluate(PUT, html)
        return frame

    return put


@pytest.fixture(scope="module")
def trace():
    return next(iter(widgets.ready().values()))


def test_the_viewer_works_in_vs_code(cell, trace, page):
    frame = cell(viewer.fragment(trace))
    root = frame.locator("peft-viz-trace .root")
    root.wait_for()
    assert frame.locator("peft-viz-trace").bounding_box()["height"] == 740
    assert root.get_attribute("data-theme") == "dark"
    root.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert frame.evaluate("document.querySelector('peft-viz-trace').sceneIndex") == 2
    assert "attention_mask" in root.inner_text()


def test_a_still_explorer_is_readable_in_vs_code(cell, page):
    frame = cell(widgets.explore().still())
    pictures = frame.locator("img")
    assert pictures.count() == 2
    widths = frame.evaluate(
        "Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))"
    )
    assert min(widths) > 300
    aligned = "[...document.querySelectorAll('td, th')].map(e => getComputedStyle(e).textAlign)"
    assert set(frame.evaluate(aligned)) == {"left"}
    assert not re.search("Refused|violates", str(page.problems))
