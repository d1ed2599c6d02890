"A cell of a notebook that goes into the package fits on a screen, and something shows what it does."
# lane: here

import json
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCREEN = 60  # lines
NOTEBOOKS = [
    path
    for path in sorted((ROOT / "nbs").rglob("*.ipynb"))
    if not any(part.startswith((".", "_")) for part in path.relative_to(ROOT).parts)
]
LATER = {  # notebook -> the longest cell that it has today
    "recording/00_recorder": 140,
    "recording/01_trace": 92,
    "recording/02_layout": 61,
    "recording/03_story": 105,
    "recording/04_compare": 133,
    "recording/05_diagnose": 157,
    "recording/06_history": 72,
    "recording/07_measured": 167,
    "recording/10_watch": 87,
    "recording/12_calls": 92,
    "recording/15_describe": 93,
    "views/00_viewer": 67,
    "figures/00_sheet": 80,
}


def short(path):
    "The folder and the name of a notebook."
    return f"{path.parent.name}/{path.stem}"


def cells(path):
    "(kind, text without the line that says `export`) of each cell; the kind is export, code or another."
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        lines = "".join(cell["source"]).strip().splitlines()
        said = [line for line in lines if line.startswith("#|")]
        exported = cell["cell_type"] == "code" and any("export" in line for line in said)
        hidden = any("hide" in line for line in said)
        kind = "export" if exported else "hidden" if hidden else cell["cell_type"]
        yield kind, "\n".join(line for line in lines if line not in said)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=short)
def test_an_exported_cell_fits_on_a_screen(path):
    most = LATER.get(short(path), SCREEN)
    long = {
        text.partition("\n")[0]: n
        for kind, text in cells(path)
        if kind == "export" and (n := len(text.strip().splitlines())) > most
    }
    assert not long, f"split these cells: they have more than {most} lines"


@pytest.mark.parametrize("name", LATER)
def test_the_list_of_notebooks_to_be_split_is_short_enough(name):
    (path,) = (path for path in NOTEBOOKS if short(path) == name)
    longest = max(len(text.strip().splitlines()) for kind, text in cells(path) if kind == "export")
    assert longest > SCREEN, f"take {name} off the list: it has no long cell any more"
    assert longest == LATER[name], f"the longest cell of {name} has {longest} lines now"
