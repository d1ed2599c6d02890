"""What a stranger meets first: README.md as a repository's page shows it, and a page with a sentence at its top."""
# lane: here

import configparser, importlib, json, os, re, subprocess, sys
import pytest, torch
import peft_viz
from peft_viz import PromptTuningConfig, get_peft_model, load_tiny, record, viewer
from conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")]
PAGES += [path for path in sorted((ROOT / "nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]


def prose(path):
    "The Markdown of a page."
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
    return "\n\n".join("".join(cell["source"]) for cell in cells)


def anchors(markdown):
    "The anchors that a repository's page gives to the headings of a Markdown file."
    headings = re.findall(r"^#+ +(.+)$", re.sub(r"^```.*?^```", "", markdown, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_pictures_of_a_page_of_the_repository_are_there(path):
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        if "://" in target:
            continue
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(prose(file))):
            wrong.append(target)
    assert not wrong


def test_what_a_stranger_types_first_is_one_command():
    settings = configparser.ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    address = settings["DEFAULT"]["git_url"]
    first = re.search(r"^```sh\n(.*?)^```", README, re.M | re.S)
    folder = address.rsplit("/", 1)[1]
    assert first[1] == f"git clone {address} && cd {folder} && make demo\n"
    assert "make test" not in README[: first.end()] and "make test" in README[first.end() :]


def test_the_first_screen_has_one_command_and_one_picture_and_every_picture_says_what_is_on_it():
    first_screen = README[: README.index("\n## ")]
    assert first_screen.count("![") == 1 and first_screen.count("```") == 2
    assert all(len(alt) > 20 for alt in re.findall(r"!\[(.*?)\]\(", README))


def test_every_method_has_a_row_that_says_when_to_choose_it():
    names = [name for name in dir(peft_viz) if re.fullmatch(r"\w+Config", name)]
    methods = {name for name in names if name not in ("PeftConfig", "PromptLearningConfig")}
    rows = [
        line.strip("|").split("|") for line in README.splitlines() if re.match(r"\| \[.*Config` \|", line)
    ]
    assert {re.search(r"`(\w+Config)`", row[0])[1] for row in rows} == methods
    assert all(len(row) == 4 and len(row[3].split()) > 8 for row in rows)


def test_code_can_be_pasted_and_prints_what_stands_below_it(tmp_path):
    "Each block of Python runs by itself, in a new process and an empty folder, without a network."
    blocks = re.findall(r"^```python\n(.*?)^```\n+(?:^```\n(.*?)^```)?", README, re.M | re.S)
    assert blocks and any(printed for _, printed in blocks)
    for code, printed in blocks:
        assert len(code.strip().splitlines()) < 15
        env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
        assert done.returncode == 0 and not list(tmp_path.iterdir()), done.stderr
        assert done.stdout.rstrip() == printed.rstrip()


def test_each_command_and_the_magic_are_named():
    from peft_viz.cli import parser

    commands = parser()._subparsers._group_actions[0].choices
    missing = [name for name in commands if f"`peft-viz {name}" not in README]
    assert not missing and "`%%record`" in README


def test_functions_and_commands_that_are_named_exist():
    for module, name in re.findall(r"`(plot|show|peft_viz)\.(\w+)\(", README):
        home = peft_viz if module == "peft_viz" else importlib.import_module(f"peft_viz.{module}")
        assert callable(getattr(home, name)), f"{module}.{name}"
    targets = set(re.findall(r"^(\w+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"\bmake (\w+)`", README)) <= targets
    assert "`peft-viz run script.py`" in README and "`peft_viz.explore()`" in README


# ---- a page with a sentence at its top


@pytest.fixture(scope="module")
def trace():
    model, tokenizer = load_tiny()
    batch = tokenizer(["abc", "hello"], padding=True, return_tensors="pt")
    model = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    with record(model, tokenizer) as trace, torch.no_grad():
        model(**batch)
    return trace


def test_the_sentence_is_text_and_without_one_nothing_stands_there(trace):
    assert '<p class="lead">1 &lt; 2 &amp; so on</p>' in viewer.page(trace, lead="1 < 2 & so on")
    assert "<p" not in viewer.page(trace).split("<body>")[1].split("<peft-viz-trace")[0]


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_sentence_and_viewer_share_the_window(trace, new_page, tmp_path, width):
    file = tmp_path / "x.html"
    file.write_text(viewer.page(trace, lead="Press → for the next line. " * 4), encoding="utf-8")
    page = new_page(viewport={"width": width, "height": 800})
    page.goto(file.as_uri())
    lead, view = (page.locator(name).bounding_box() for name in ("body > .lead", "peft-viz-trace"))
    assert lead["y"] >= 0 and lead["y"] + lead["height"] <= view["y"] + 1 and view["height"] > 400
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width == 1280:
        assert view["y"] + view["height"] <= 800  # nothing to scroll
    page.keyboard.press("ArrowRight")
    assert page.problems == []
