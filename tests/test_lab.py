"In a real JupyterLab, with a real kernel: the tour runs, the viewer is drawn, and the explorer follows its slider."
# lane: here

import sys
from pathlib import Path
import nbformat
import pytest
from lab import Lab

ROOT = Path(__file__).resolve().parent.parent
TOUR = ROOT / "nbs" / "tutorials" / "01_tour.ipynb"
pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def server(tmp_path_factory, browser):  # no browser, no server
    server = Lab(tmp_path_factory.mktemp("lab"), None)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def lab(server, new_page):
    "The server; `lab.open(path)` opens a notebook in a fresh tab."
    server.new_page = new_page
    return server


def written(path, cells):
    "A notebook of these code cells, at `path`."
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(c) for c in cells],
            metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}},
        ),
        path,
    )
    return path


@pytest.fixture
def small(tmp_path):
    "A small notebook: which Python is this, and a figure that follows a slider."
    cells = [
        "import sys; print(sys.executable)",
        "import ipywidgets as w, matplotlib.pyplot as plt\n"
        "slider, out = w.IntSlider(value=2, min=1, max=5), w.Output()\n"
        "def draw(change):\n"
        "    with out:\n"
        "        out.clear_output(wait=True)\n"
        "        plt.figure(figsize=(2, 2)); plt.bar(range(slider.value), range(slider.value)); plt.show()\n"
        "slider.observe(draw, 'value'); draw(None)\n"
        "w.VBox([slider, out])",
    ]
    return written(tmp_path / "small.ipynb", cells)


def test_the_kernel_is_this_python_and_widgets_are_alive(lab, small):
    notebook = lab.open(small)
    notebook.run_all()
    assert notebook.errors() == []
    assert notebook.cell(0).locator(".jp-OutputArea-output").inner_text().strip() == sys.executable
    slider, before = notebook.page.locator(".widget-slider"), notebook.pictures()
    assert slider.count() == 1 and len(before) == 1
    notebook.nudge(slider)
    notebook.wait_pictures_change(before)
    assert slider.locator(".widget-readout").inner_text() == "3"
    assert notebook.page.external == []


def test_the_tour_shows_the_viewer_and_the_explorer(lab):
    notebook = lab.open(TOUR)
    notebook.run_all(timeout=600)
    page = notebook.page
    assert notebook.errors() == []

    viewers = page.locator("peft-viz-trace")
    assert viewers.count() >= 1
    viewers.first.scroll_into_view_if_needed()
    assert viewers.first.bounding_box()["height"] > 100
    assert page.evaluate("document.querySelector('peft-viz-trace').shadowRoot.textContent").strip()

    sliders, before = page.locator(".widget-slider"), notebook.pictures()
    assert sliders.count() >= 1 and before
    notebook.nudge(sliders.first)
    notebook.wait_pictures_change(before)
    assert notebook.errors() == [] and page.external == []


def test_python_hears_the_viewer_and_moves_it(lab, tmp_path):
    cells = [
        "import torch, ipywidgets as w, peft_viz as peft\n"
        "from peft_viz.views.widgets import Viewer\n"
        "model = peft.get_peft_model(peft.tiny_random('llama'), "
        "peft.PromptTuningConfig(task_type='CAUSAL_LM', num_virtual_tokens=2))\n"
        "with peft.record(model) as trace: model(input_ids=torch.tensor([[5, 6, 7]]))\n"
        "viewer, heard, jump = Viewer(trace), w.Label('nothing yet'), w.Button(description='to 5')\n"
        "viewer.observe(lambda change: setattr(heard, 'value', f'Python heard {change.new}'), 'step')\n"
        "jump.on_click(lambda _: setattr(viewer, 'step', 5))\n"
        "w.VBox([jump, heard, viewer])"
    ]
    notebook = lab.open(written(tmp_path / "viewer.ipynb", cells))
    notebook.run_all()
    assert notebook.errors() == []
    page = notebook.page
    element = page.locator("peft-viz-trace")
    element.wait_for()
    element.evaluate("view => { view.step = 2; }")
    page.get_by_text("Python heard 2").wait_for()
    page.get_by_text("to 5", exact=True).click()
    page.get_by_text("Python heard 5").wait_for()
    page.wait_for_function("document.querySelector('peft-viz-trace').step === 5")
