"""The map of the specification is complete and true: every row has its line, its test goes there, its recording shows it, no branch is without a row, and the page is up to date."""
import ast
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import specification as spec
import specification_page as pages
from peft_viz.record import statements
from specification import IDS, MASK, model_of, ROWS

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT/"nbs"/"60_specification.ipynb"
each = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
AGAIN = "make notebooks NB=nbs/60_specification.ipynb"


# --- the table ----------------------------------------------------------------------------------------------------

@each
def test_a_row_is_complete(row):
    told = dict(when=row.when, line=row.line, condition=row.code or row.here, test=row.test)
    assert all(told.values()), f"no row may be empty: {told}"
    assert row.test.startswith("tests/test_") and "::test_" in row.test
    for number, outcome in row.decisions:  # raises LookupError where the line is not there, or there twice
        condition = isinstance(statement(row.where, number), ast.If)
        assert (outcome is not None) == condition, f"{row.where}:{number} is {'a' if condition else 'no'} condition"


def statement(where, number):
    "What stands in a line of a function, parsed."
    lines, first = spec.source(where)
    tree = ast.increment_lineno(ast.parse(textwrap.dedent("".join(lines))), first - 1)
    return next(node for node in ast.walk(tree) if isinstance(node, ast.stmt) and node.lineno == number)


def test_rows_are_called_differently():
    assert len({row.id for row in ROWS}) == len(ROWS) and len({(row.section, row.when) for row in ROWS}) == len(ROWS)


def branches(file):
    "(line, outcome) of all that a function can decide: both ways of an `if`, the body of a `for` or `with`, what handles or ends a `try`, and conditional expressions."
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for function in [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]:
        for node in ast.walk(function):
            if isinstance(node, (ast.If, ast.While)):
                yield from ((function.name, node.lineno, outcome) for outcome in (True, False))
            elif isinstance(node, (ast.For, ast.With)):
                yield function.name, node.lineno, None
            elif isinstance(node, ast.Try):
                yield from ((function.name, block[0].lineno, None) for block in [*(h.body for h in node.handlers), node.orelse, node.finalbody] if block)
            elif isinstance(node, ast.IfExp):
                yield function.name, node.lineno, None


def test_no_branch_is_without_a_row():
    told = {(number, outcome) for row in ROWS if row.where.startswith("causal_lm:") for number, outcome in row.decisions}
    every = set(branches(ROOT/"peft_viz"/"causal_lm.py"))
    missing = sorted((name, line, outcome) for name, line, outcome in every if (line, outcome) not in told)
    assert len(every) > 60
    assert missing == [], "tests/specification.py needs rows for these branches of causal_lm.py (function, line, outcome)"


# --- the recordings -----------------------------------------------------------------------------------------------

@each
def test_its_recording_goes_there(row):
    _, seen = pages.recorded(ROWS.index(row))
    assert row.shows(seen)


def test_a_recording_that_goes_another_way_is_noticed():
    row = next(row for row in ROWS if row.when == "there is no mask: then none reaches the base model")
    with pytest.raises(LookupError, match="does not take"):
        spec.measure(row, spec.forward("prompt", attention_mask=MASK))
    with pytest.raises(LookupError, match="0 times"):
        spec.find(row.where, "if attention_mask is not there:")
    with pytest.raises(LookupError, match="times in"):
        spec.find(row.where, "attention_mask")


# --- the tests that the rows name ---------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    "The tests that the rows name, run once in a process of its own; test -> outcome and the pairs of lines it went through."
    found = tmp_path_factory.mktemp("paths")/"paths.json"
    found.write_text(json.dumps([row.test for row in ROWS]))
    files = sorted({row.test.partition("::")[0] for row in ROWS})
    environment = {**os.environ, "PATHS_FILE": str(found), "PYTHONPATH": os.pathsep.join([str(ROOT/"tests"), str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "specification_paths", *files], cwd=ROOT, env=environment, capture_output=True, text=True)
    paths = json.loads(found.read_text())
    assert isinstance(paths, dict), done.stdout + done.stderr
    return paths


def went(ways, file, name, number, outcome, node, heads):
    "Do the pairs of lines take this decision?"
    pairs = {(heads.get(a, a), heads.get(b, b)) for f, n, a, b in ways if (f, n) == (file, name)}
    pairs = {(a, b) for a, b in pairs if a != b}
    if outcome is None:
        return any(b == number for a, b in pairs)
    body = range(node.body[0].lineno, node.body[-1].end_lineno + 1)
    return any(a == number and (b in body) == outcome for a, b in pairs)


@each
def test_its_test_goes_there(row, paths):
    assert row.test in paths, f"there is no test {row.test}"
    outcome, ways = paths[row.test]
    assert outcome == "passed"
    lines, first = spec.source(row.where)
    name, heads = row.where.rpartition(":")[2].rpartition(".")[2], statements("".join(lines), first)
    for (file, number), (_, outcome) in zip(row.places(), row.decisions):
        assert went(ways, file, name, number, outcome, statement(row.where, number), heads), f"{row.test} does not go through {row.where}:{number} with outcome {outcome}"


# --- branches that no other test reaches --------------------------------------------------------------------------

def poly():
    "POLY whose tasks differ."
    model = model_of("poly")
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)
    return model


@torch.no_grad()
def test_poly_gives_each_row_its_task():
    model = poly()
    logits = model(IDS[1:].expand(2, -1), task_ids=torch.tensor([1, 0])).logits
    assert not torch.equal(logits[0], logits[1])
    for row, task in enumerate([1, 0]):
        torch.testing.assert_close(logits[row], model(IDS[1:], task_ids=torch.tensor([task])).logits[0], rtol=0, atol=1e-6)


def test_poly_gives_each_row_its_task_in_generate():
    model = poly()
    how = dict(max_new_tokens=6, do_sample=False)
    texts = model.generate(IDS[1:].expand(2, -1), task_ids=torch.tensor([1, 0]), **how)
    assert not torch.equal(texts[0], texts[1])
    for row, task in enumerate([1, 0]):
        assert torch.equal(texts[row], model.generate(IDS[1:], task_ids=torch.tensor([task]), **how)[0])


@pytest.mark.parametrize("method", ["prefix"])
def test_static_cache(method):
    "The prefix comes in a cache that grows, whatever was asked for. peft crashes."
    model = model_of(method)
    given = dict(attention_mask=MASK, max_new_tokens=6, do_sample=False)
    assert torch.equal(model.generate(IDS, cache_implementation="static", **given), model.generate(IDS, **given))


@torch.no_grad()
def test_positions_behind_a_prefix():
    "Counted from 0 by the caller, they come behind the prefix; without them, the base model counts so by itself."
    model = model_of("prefix")
    plain, counted, later = (model(IDS[1:], **given).logits for given in ({}, dict(position_ids=torch.arange(5)[None]), dict(position_ids=torch.tensor([[0, 1, 2, 4, 5]]))))
    assert torch.equal(plain, counted) and torch.equal(plain[:, :3], later[:, :3]) and not torch.equal(plain, later)


# --- the page -----------------------------------------------------------------------------------------------------

def saved():
    "The HTML that the notebook was saved with."
    outputs = [output for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] for output in cell.get("outputs", [])]
    return ["".join(output["data"]["text/html"]) for output in outputs if "text/html" in output.get("data", {})]


@pytest.mark.skipif(spec.ERA_4, reason="the page shows recordings with transformers 5")
def test_the_page_is_what_the_code_gives_now():
    now = [pages.style() + pages.overview() + pages.legend(), *map(pages.section, pages.SECTIONS)]
    for name, before, after in zip(["the overview", *pages.SECTIONS], saved(), now, strict=True):
        if before != after:
            pytest.fail(f"{name}: the page is older than the code or the table; run {AGAIN}", pytrace=False)


def test_the_page_is_small():
    assert NOTEBOOK.stat().st_size < 500_000


def figures():
    "All that the page shows, in a page of its own."
    return "<main>" + "".join(saved()) + "</main>"


@pytest.mark.browser
@pytest.mark.parametrize("scheme, paper", [("default", "white"), ("alternate", "#13171c")], ids=["light", "dark"])
def test_figures_are_accessible(new_page, scheme, paper):
    axe = pytest.importorskip("axe_playwright_python", reason="axe is not installed: pip install axe-playwright-python")
    tab = new_page()
    tab.show(f'<!doctype html><html lang="en" data-scheme="{scheme}"><title>map</title><body style="background: {paper}; color: gray">{figures()}')
    tab.evaluate("document.querySelectorAll('.sm details').forEach((d, i) => i % 10 == 4 ? d.open = true : d.remove())")   # they are all made alike
    assert len({tuple(tab.evaluate("getComputedStyle(document.querySelector('.sm')).color.match(/[0-9]+/g)")), ("32", "38", "45")}) == (1 if scheme == "default" else 2)
    tab.evaluate((Path(axe.__file__).parent/"axe.min.js").read_text(encoding="utf-8") + "; 0")
    # the heading of a part of a figure stands deep on purpose
    found = tab.evaluate("async () => (await axe.run('main', {rules: {'heading-order': {enabled: false}}})).violations.map(v => [v.id, ...v.nodes.slice(0, 3).map(n => n.html.slice(0, 160))])")
    assert found == [] and tab.problems == []


@pytest.mark.browser
def test_each_link_opens_its_figure_with_the_keyboard(page):
    page.show(f'<!doctype html><html lang="en"><title>map</title><body>{figures()}')
    links = page.locator(".sm-overview a")
    assert links.count() == len(ROWS) and page.locator(".sm-figure:visible").count() == 0
    for i in (0, 20, len(ROWS) - 1):
        links.nth(i).focus()
        page.keyboard.press("Enter")
        shown = page.locator(f"[id='{ROWS[i].id}']")
        shown.wait_for(state="visible")
        assert shown.locator(".sm-source .d").count() == len(ROWS[i].decisions)
    last = page.locator("details[open] > summary").last
    last.focus()
    page.keyboard.press("Enter")
    assert page.locator(".sm-figure:visible").count() == 2 and page.problems == []
