"A cell of a notebook that goes into the package fits on a screen, and something shows what it does."
# lane: here

import json
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCREEN, COLUMNS = 60, 110  # lines; columns of what is shown in a lecture
NOTEBOOKS = [
    path
    for path in sorted((ROOT / "nbs").rglob("*.ipynb"))
    if not any(part.startswith((".", "_")) for part in path.relative_to(ROOT).parts)
]


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
    assert not long_ones(path), f"split these cells: they have more than {SCREEN} lines"


def long_ones(path):
    "First line of each exported cell that is too long -> how many lines it has."
    exported = (text.strip() for kind, text in cells(path) if kind == "export")
    lengths = {text.partition("\n")[0]: len(text.splitlines()) for text in exported}
    return {first: n for first, n in lengths.items() if n > SCREEN}


LECTURE = [
    p for p in NOTEBOOKS if p.parent.name == "reference" and p.name < "2" and p.stem[:2] not in ("03", "04")
]


@pytest.mark.parametrize("path", LECTURE, ids=short)
def test_what_is_shown_in_a_lecture_is_not_wider_than_its_screen(path):
    assert len(LECTURE) == 13  # the decision tree, and the methods
    code = (text for kind, text in cells(path) if kind == "export")
    lines = [line.partition("  # noqa")[0] for text in code for line in text.splitlines()]
    assert not [line for line in lines if len(line) > COLUMNS]
