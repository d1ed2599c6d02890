"""The course: English and Chinese in step, and enough to predict.

The Chinese notebooks have the code of the English ones, so they are not run a second time among the notebooks."""
# lane: here

import ast, json, re
import pytest

import lesson_branches
from conftest import ROOT

ENGLISH, CHINESE = ROOT / "nbs" / "tutorials", ROOT / "nbs" / "zh"
NOTEBOOKS = sorted(path.name for path in CHINESE.glob("*.ipynb"))
LESSONS = [name for name in NOTEBOOKS if name[0].isdigit()]
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
        plain_view = ast.unparse(node).endswith(".view()")  # what a trace is in English without it
        return self.generic_visit(node.func.value if plain_view else node)


def code(cell):
    lines = text(cell).splitlines()
    magics = [line for line in lines if line.startswith("%")]  # of Jupyter
    python = "\n".join(line for line in lines if line not in magics)
    return [line.replace(" --lang zh", "") for line in magics], ast.dump(Texts().visit(ast.parse(python)))


@pytest.mark.parametrize("name", NOTEBOOKS)
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


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_both_languages_show_the_same(name):
    kinds = [
        [[sorted(o.get("data", {"stream": 0})) for o in c.get("outputs", ())] for c in cells(folder, name)]
        for folder in (ENGLISH, CHINESE)
    ]
    assert kinds[0] == kinds[1] and (name not in LESSONS or any(kinds[0]))


@pytest.mark.parametrize("folder", [ENGLISH, CHINESE], ids=lambda folder: folder.name)
def test_nothing_is_shown_in_red(folder):
    "What goes to stderr is: warnings, and the progress bars of others."
    outputs = [(name, o) for name in NOTEBOOKS for c in cells(folder, name) for o in c.get("outputs", ())]
    assert [name for name, o in outputs if o.get("name") == "stderr" or o["output_type"] == "error"] == []


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_asks_at_least_five_questions(name):
    asked = [text(c) for c in cells(ENGLISH, name) if c["cell_type"] == "code" and "ask." in text(c)]
    assert len(asked) >= 5


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_chinese_lesson_asks_and_draws_in_chinese(name):
    for cell in cells(CHINESE, name):
        if cell["cell_type"] == "code":
            for call in re.findall(r"\b(?:ask|plot)\.\w+\(", text(cell)):
                assert 'lang="zh"' in text(cell), call
            for command in re.findall(r"\bpeft[_-]viz (?:run|show|compare|demo) .*", text(cell)):
                assert "--lang zh" in command


@pytest.mark.parametrize("folder, lang", [(ENGLISH, "en"), (CHINESE, "zh")])
def test_a_viewer_opens_in_the_language_of_its_lesson(folder, lang):
    'A Chinese lesson shows a recording with `trace.view(lang="zh")`.'
    opened = {}
    for name in NOTEBOOKS:
        for output in (o for cell in cells(folder, name) for o in cell.get("outputs", ())):
            shown = "".join(output.get("data", {}).get("text/html", ""))
            for payload in re.findall(
                r'<peft-viz-trace[^>]*><script type="application/json">(.*?)</script>', shown
            ):
                opened.setdefault(json.loads(payload)["lang"], []).append(name)
    assert set(opened) == {lang}, opened


ANCHOR = re.compile(r'<a id="([\w-]+)"></a>')


def test_the_glossary_has_the_same_words_in_both_languages():
    english, chinese = (
        [word for cell in cells(folder, "glossary.ipynb") for word in ANCHOR.findall(text(cell))]
        for folder in (ENGLISH, CHINESE)
    )
    assert english == chinese and len(set(english)) == len(english) >= 25


def test_links_to_the_glossary_lead_to_a_word_of_it():
    "From every notebook and in the language of the notebook. A lesson explains its words that way."
    broken, linked = [], set()
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        if any(part.startswith((".", "_")) for part in path.relative_to(ROOT).parts):
            continue
        markdown = "\n".join(text(c) for c in cells(path.parent, path.name) if c["cell_type"] == "markdown")
        for file, anchor in re.findall(r"\]\(([\w./-]*glossary\.ipynb)#?([\w-]*)\)", markdown):
            target = (path.parent / file).resolve()
            linked.add((path.parent, path.name))
            same = target.parent in (ENGLISH, CHINESE) and (target.parent == CHINESE) == (
                path.parent == CHINESE
            )
            if not same or (anchor and f'<a id="{anchor}"></a>' not in words_of(target)):
                broken.append(f"{path.name}: {file}#{anchor}")
    assert broken == []
    assert {(folder, name) for folder in (ENGLISH, CHINESE) for name in LESSONS} <= linked


def words_of(glossary):
    return "".join(text(cell) for cell in cells(glossary.parent, glossary.name)) if glossary.exists() else ""


@pytest.mark.parametrize("folder", [ENGLISH, CHINESE], ids=lambda folder: folder.name)
def test_cells_of_a_lesson_are_short(folder):
    for path in sorted(folder.glob("*.ipynb")):
        for cell in cells(folder, path.name):
            assert cell["cell_type"] != "code" or len(text(cell).splitlines()) <= 16, text(cell)
        assert path.stat().st_size < 1_000_000


def test_branches_are_counted_from_recordings():
    "What a lesson's recordings visit, and what is left; `make test` asks it of all lessons when their notebooks ran."
    import peft_viz as peft
    from peft_viz.zoo.models import tiny_random

    model = peft.get_peft_model(
        tiny_random("llama"), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    )
    with peft.record(model) as trace:
        model(input_ids=model.word_embeddings.weight.new_ones((1, 3)).long())
    every, seen = lesson_branches.all_branches(), lesson_branches.visited([trace])
    assert len(every) >= 36 and {name for name, _, _ in every} == set(lesson_branches.METHODS)
    assert seen == {
        ("forward", "not peft_config.is_prompt_learning", False),
        ("forward", "place.is_past", False),
        ("forward", "peft_config.peft_type == PeftType.PREFIX_TUNING", False),
        ("forward", "peft_config.peft_type == PeftType.CPT", False),
        ("forward", "inputs_embeds is None", True),
    }
    left = lesson_branches.missing({"a": seen, "b": every - {("forward", "place.is_past", True)} - seen})
    assert left == ["forward: `place.is_past` is never True"]


def test_a_lesson_leaves_the_branches_of_its_recordings(tmp_path, monkeypatch):
    import peft_viz as peft
    from peft_viz.recording.recorder import Recorder
    from peft_viz.zoo.models import tiny_random

    monkeypatch.setattr(Recorder, "stop", Recorder.stop)  # put back afterwards
    watch = lesson_branches.Watch()
    for method in (peft.PrefixTuningConfig, peft.PromptTuningConfig):  # the first recording is kept nowhere
        model = peft.get_peft_model(tiny_random("llama"), method(task_type="CAUSAL_LM", num_virtual_tokens=2))
        with peft.record(model):
            model(input_ids=model.word_embeddings.weight.new_ones((1, 3)).long())
    watch.save("02_prompt_tuning", tmp_path)
    found = lesson_branches.by_lesson(tmp_path)["02_prompt_tuning"]
    prefix = {("forward", "peft_config.peft_type == PeftType.PREFIX_TUNING", way) for way in (True, False)}
    assert prefix <= found <= lesson_branches.all_branches()
