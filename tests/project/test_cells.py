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
    "20_trace": 76,
    "00_describe": 93,
    "01_watch": 87,
    "03_calls": 92,
    "06_recorder": 117,
    "31_viewer": 67,
}


def cells(path):
    "(kind, text without the line that says `export`) of each cell; the kind is export, code or another."
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        lines = "".join(cell["source"]).strip().splitlines()
        said = [line for line in lines if line.startswith("#|")]
        exported = cell["cell_type"] == "code" and any("export" in line for line in said)
        hidden = any("hide" in line for line in said)
        kind = "export" if exported else "hidden" if hidden else cell["cell_type"]
        yield kind, "\n".join(line for line in lines if line not in said)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_exported_cell_fits_on_a_screen(path):
    most = LATER.get(path.stem, SCREEN)
    long = {
        text.partition("\n")[0]: n
        for kind, text in cells(path)
        if kind == "export" and (n := len(text.strip().splitlines())) > most
    }
    assert not long, f"split these cells: they have more than {most} lines"


@pytest.mark.parametrize("name", LATER)
def test_the_list_of_notebooks_to_be_split_is_short_enough(name):
    (path,) = (path for path in NOTEBOOKS if path.stem == name)
    longest = max(len(text.strip().splitlines()) for kind, text in cells(path) if kind == "export")
    assert longest > SCREEN, f"take {name} off the list: it has no long cell any more"
    assert longest == LATER[name], f"the longest cell of {name} has {longest} lines now"
