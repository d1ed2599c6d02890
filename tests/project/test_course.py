"""The course: English and Chinese in step, and enough to predict.

The Chinese notebooks have the code of the English ones, so they are not run a second time among the notebooks."""
# lane: here

import ast, json, re
import pytest

from conftest import ROOT

ENGLISH, CHINESE = ROOT / "nbs" / "tutorials", ROOT / "nbs" / "zh"
LESSONS = sorted(path.name for path in CHINESE.glob("*.ipynb"))
HAN = re.compile(r"[\u4e00-\u9fff]")


def cells(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))["cells"]


def text(cell):
    return "".join(cell["source"])


class Texts(ast.NodeTransformer):
    "Takes out what is to differ: texts for readers, and the language."

    def visit_Constant(self, node):
        said = isinstance(node.value, str) and (" " in node.value or HAN.search(node.value))
        return ast.Constant("text") if said else node

    def visit_JoinedStr(self, node):
        return ast.Constant("text")

    def visit_Call(self, node):
        node.keywords = [k for k in node.keywords if k.arg != "lang"]
        return self.generic_visit(node)


def code(cell):
    lines = text(cell).splitlines()
    magics = [line for line in lines if line.startswith("%")]  # of Jupyter: the same in both languages
    python = "\n".join(line for line in lines if line not in magics)
    return magics, ast.dump(Texts().visit(ast.parse(python)))


@pytest.mark.parametrize("name", LESSONS)
def test_both_languages_have_the_same_cells(name):
    english, chinese = cells(ENGLISH, name), cells(CHINESE, name)
    assert [c["cell_type"] for c in english] == [c["cell_type"] for c in chinese]
    for a, b in zip(english, chinese):
        if a["cell_type"] == "code":
            assert code(a) == code(b), text(b)
        else:  # as many paragraphs, headings, links and pieces of code
            for what in (r"\n\n", r"^#+ ", r"\]\(", r"^\|"):
                count = [len(re.findall(what, text(c), re.M)) for c in (a, b)]
                assert count[0] == count[1], (what, text(a)[:80])
            assert HAN.search(text(b)) and not HAN.search(text(a))


@pytest.mark.parametrize("name", LESSONS)
def test_both_languages_show_the_same(name):
    kinds = [
        [[sorted(o.get("data", {"stream": 0})) for o in c.get("outputs", ())] for c in cells(folder, name)]
        for folder in (ENGLISH, CHINESE)
    ]
    assert kinds[0] == kinds[1] and any(kinds[0])


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_asks_at_least_five_questions(name):
    asked = [text(c) for c in cells(ENGLISH, name) if c["cell_type"] == "code" and "ask." in text(c)]
    assert len(asked) >= 5


@pytest.mark.parametrize("name", LESSONS)
def test_a_chinese_lesson_asks_and_draws_in_chinese(name):
    for cell in cells(CHINESE, name):
        if cell["cell_type"] == "code":
            for call in re.findall(r"\b(?:ask|plot)\.\w+\(", text(cell)):
                assert 'lang="zh"' in text(cell), call


@pytest.mark.parametrize("folder", [ENGLISH, CHINESE], ids=lambda folder: folder.name)
def test_cells_of_a_lesson_are_short(folder):
    for path in sorted(folder.glob("*.ipynb")):
        for cell in cells(folder, path.name):
            assert cell["cell_type"] != "code" or len(text(cell).splitlines()) <= 16, text(cell)
        assert path.stat().st_size < 1_000_000
