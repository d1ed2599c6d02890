"In a real JupyterLab, with a real kernel: widgets are alive, the viewer is drawn, and the explorer follows its slider."
# lane: here

import sys
import nbformat
import pytest
from lab import Lab
from conftest import Page, ROOT

TOUR = ROOT / "nbs" / "tutorials" / "01_tour.ipynb"
pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def server(tmp_path_factory, browser):  # no browser, no server
    "JupyterLab; `server.open(path)` opens a notebook in a fresh tab."
    contexts = []

    def new_page(**options):
        contexts.append(browser.new_context(**options))
        return Page(contexts[-1].new_page())

    server = Lab(tmp_path_factory.mktemp("lab"), new_page)
    server.start()
    yield server
    for context in contexts:
        context.close()
    server.stop()


CELLS = [
    "import sys; print(sys.executable)",
    "import ipywidgets as w, matplotlib.pyplot as plt\n"
    "slider, out = w.IntSlider(value=2, min=1, max=5), w.Output()\n"
    "def draw(change):\n"
    "    with out:\n"
    "        out.clear_output(wait=True)\n"
    "        plt.figure(figsize=(2, 2)); plt.bar(range(slider.value), range(slider.value)); plt.show()\n"
    "slider.observe(draw, 'value'); draw(None)\n"
    "w.VBox([slider, out])",
    "import torch, peft_viz as peft\n"
    "from peft_viz.views.widgets import Viewer\n"
    "model = peft.get_peft_model(peft.tiny_random('llama'), "
    "peft.PromptTuningConfig(task_type='CAUSAL_LM', num_virtual_tokens=2))\n"
    "with peft.record(model) as trace: model(input_ids=torch.tensor([[5, 6, 7]]))\n"
    "viewer, heard, jump = Viewer(trace), w.Label('nothing yet'), w.Button(description='to 5')\n"
    "viewer.observe(lambda change: setattr(heard, 'value', f'Python heard {change.new}'), 'step')\n"
    "jump.on_click(lambda _: setattr(viewer, 'step', 5))\n"
    "w.VBox([jump, heard, viewer])",
]


def written(path, cells):
    "The path of a notebook that has these cells of code."
    python = {"name": "python3", "display_name": "python3", "language": "python"}
    cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": python}), path)
    return path


@pytest.fixture(scope="module")
def small(server, tmp_path_factory):
    "A small notebook that has run: which Python is this, a figure that follows a slider, a viewer that Python hears."
    notebook = server.open(written(tmp_path_factory.mktemp("small") / "small.ipynb", CELLS))
    notebook.run_all()
    assert notebook.errors() == []
    return notebook


def test_the_kernel_is_this_python_and_widgets_are_alive(small):
    assert small.cell(0).locator(".jp-OutputArea-output").inner_text().strip() == sys.executable
    slider, before = small.page.locator(".widget-slider"), small.pictures()
    assert slider.count() == 1 and len(before) == 1
    small.nudge(slider)
    small.wait_pictures_change(before)
    assert slider.locator(".widget-readout").inner_text() == "3"
    assert small.page.external == []


def test_python_hears_the_viewer_and_moves_it(small):
    page = small.page
    element = page.locator("peft-viz-trace")
    element.wait_for()
    element.evaluate("view => { view.step = 2; }")
    page.get_by_text("Python heard 2").wait_for()
    page.get_by_text("to 5", exact=True).click()
    page.get_by_text("Python heard 5").wait_for()
    page.wait_for_function("document.querySelector('peft-viz-trace').step === 5")


def first_and_last_of_the_tour():
    """The tour's cells up to its first viewer, and its last one, the explorer. The whole tour runs among the notebooks
    (`scripts/test.py`); what is tried here is that JupyterLab draws what a cell returns."""
    cells = [cell.source for cell in nbformat.read(TOUR, 4).cells if cell.cell_type == "code"]
    return [*cells[: cells.index("trace") + 1], cells[-1]]


def test_the_tour_shows_the_viewer_and_the_explorer(server, tmp_path):
    notebook = server.open(written(tmp_path / "tour.ipynb", first_and_last_of_the_tour()))
    notebook.run_all(timeout=600)
    page = notebook.page
    assert notebook.errors() == []

    viewer = page.locator("peft-viz-trace")
    assert viewer.count() == 1
    viewer.scroll_into_view_if_needed()
    assert viewer.bounding_box()["height"] > 100
    assert page.evaluate("document.querySelector('peft-viz-trace').shadowRoot.textContent").strip()

    sliders, before = page.locator(".widget-slider"), notebook.pictures()
    assert sliders.count() >= 1 and before
    notebook.nudge(sliders.first)
    notebook.wait_pictures_change(before)
    assert notebook.errors() == [] and page.external == []

    # opened again, where the widget is not alive: its still picture is there, which the live one hides
    seen = (
        "[...document.querySelectorAll('.jp-OutputArea-output img')].filter(i => i.checkVisibility()).length"
    )
    assert len(notebook.pictures()) == page.evaluate(seen) + 2
    page.keyboard.press("Control+s")
    page.wait_for_function("!document.querySelector('.jp-mod-dirty')")
    again = server.open(server.work / "tour.ipynb", copy=False).page
    assert again.evaluate(seen) == page.evaluate(seen) and again.locator("peft-viz-trace").count() == 1
