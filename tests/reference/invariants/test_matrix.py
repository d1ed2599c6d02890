"""The invariant matrix of `peft_viz`: every invariant holds for every family and method, apart from cells with
a reason; and every invariant can fail. peft is measured beside it, and both must be what matrix.json says,
which is what the page shows."""
# lane: broad

import json
import sys
from contextlib import nullcontext
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch

import families
import matrix
import matrix_page as pages
from matrix import BASE, INVARIANTS, Subject
from parity import INJECTED, PROMPTS
from conftest import ROOT

pytestmark = pytest.mark.usefixtures("quiet_and_single")

NOTEBOOK = ROOT / "nbs" / "reference" / "51_matrix.ipynb"
AGAIN = "`make matrix` measures again"

# What is refused or impossible: family, method, invariant -> why.
LISTED = {
    **{
        ("mpt", method, "embeddings"): "the specification's MPT branch refuses inputs_embeds"
        for method in INJECTED
    },
    **{
        (
            family,
            "prefix*",
            "*",
        ): "their own classes of cache, in transformers 4, cannot have keys and values before they have states"
        for family in ("qwen3_next", "lfm2")
        if not families.V5
    },
}
# What the base model alone cannot do in transformers 4: family, invariant.
EXCUSED = {
    ("qwen3_next", "continue"),
    ("lfm2", "beams"),
    ("lfm2", "left padding*"),
    ("lfm2", "continue"),
    ("deepseek_v3", "*static cache"),
}


def listed(*cell):
    return any(all(map(fnmatch, cell, pattern)) for pattern in LISTED)


@pytest.fixture(scope="module")
def stored():
    "This lane of matrix.json: implementation -> (family, method) -> invariant -> reason."
    assert matrix.LANE in matrix.stored(), f"{matrix.RESULTS.name} knows nothing of {matrix.LANE}: {AGAIN}"
    return matrix.unpack(matrix.stored()[matrix.LANE])


@pytest.mark.skipif(
    Path(sys.prefix).name not in (".venv", ".venv-era4"), reason="measured in these two alone"
)
def test_measured_with_these_versions():
    assert matrix.stored()[matrix.LANE]["versions"] == matrix.versions(), AGAIN


def peft_again(family, method):
    "Is peft measured again for the family and the method of these numbers? No family and no method is left out."
    return (family - method) % min(len(matrix.FAMILIES), len(matrix.METHODS)) == 0


def test_peft_is_measured_again_in_every_family_and_method():
    families_, methods = range(len(matrix.FAMILIES)), range(len(matrix.METHODS))
    assert all(any(peft_again(f, m) for m in methods) for f in families_)
    assert all(any(peft_again(f, m) for f in families_) for m in methods)


@pytest.mark.parametrize("method", matrix.METHODS)
@pytest.mark.parametrize("family", matrix.FAMILIES)
def test_every_invariant_holds(family, method, stored):
    """Ours hold, and what was measured is what the page shows. Ours is measured in every cell; peft, whose versions are
    those of the file, in a cell of each family and of each method."""
    again = list(matrix.FAMILIES).index(family), list(matrix.METHODS).index(method)
    names = matrix.IMPLEMENTATIONS if peft_again(*again) else ["ours"]
    measured = {name: matrix.measure(name, family, method) for name in names}
    cells = {name: reason for name, reason in measured["ours"].items() if not reason.startswith(BASE)}
    unexpected = {
        name: reason for name, reason in cells.items() if bool(reason) != listed(family, method, name)
    }
    assert not unexpected, "\n".join(
        f"{name}: {reason or 'holds, though it is listed'}" for name, reason in unexpected.items()
    )
    differ = list(differences(measured, {name: stored[name].get((family, method), {}) for name in measured}))
    assert not differ, "\n".join([f"{matrix.RESULTS.name} is not what was measured; {AGAIN}:", *differ])


OTHERS = [
    (family, method)
    for family, methods in {  # families that are in no table here, and what is special about them
        "gpt_bigcode": "prefix",
        "qwen2": "prompt",
        "olmo2": "prefix",
        "stablelm": "prompt",
        "starcoder2": "prefix",
        "persimmon": "cpt",
        "gptj": "prefix cpt",
        "biogpt": "prompt",
        "mamba": "prompt",
        "recurrent_gemma": "multitask",
        "minicpm3": "prefix",
        "jamba": "prefix",
        "glm_moe_dsa": "prompt",
        "gemma4_text": "prompt prefix cpt",
        "gemma4": "multitask",  # embeds tokens once more for each layer
        "xlm": "prompt cpt",  # adds a token of its own when it generates, and wants positions for each row
        "moss_transcribe_diarize": "prefix",  # hands positions on to its decoder
        "phi4_multimodal": "lora ia3",  # layers of the usual names are in its encoders
    }.items()
    for method in methods.split()
    if family in families.FAMILIES
]
NOT_HERE = (
    set() if families.V5 else {("recurrent_gemma", "embeddings"), ("recurrent_gemma", "continue")}
)  # in transformers 4, it keeps its state to itself


@pytest.mark.parametrize("family, method", OTHERS)
def test_other_families(family, method):
    if not families.V5 and (family == "phi4_multimodal" or (family, method) == ("jamba", "prefix")):
        pytest.skip("in transformers 4 it is built otherwise, or refused")
    if not families.V5 and family == "xlm":
        pytest.skip("in transformers 4 it counts its own token in positions that others made")
    cell = matrix.measure("ours", family, method)
    assert not {
        name: reason
        for name, reason in cell.items()
        if reason and not reason.startswith(BASE) and (family, name) not in NOT_HERE
    }


def differences(measured, before):
    "Of peft only whether it holds; the reasons of ours too."
    for implementation, cell in measured.items():
        for name, reason in cell.items():
            old = before[implementation].get(name, "never measured")
            same = (
                matrix.plain(reason) == old
                if implementation == "ours"
                else matrix.kind(reason) == matrix.kind(old)
            )
            if not same:
                yield f"{implementation}, {name}: now {reason or 'holds'}, before {old or 'holds'}"


def test_a_cell_that_changed_is_noticed():
    holds, other = dict(train=""), dict(train="ValueError: 2 rows")
    for now, before, noticed in (
        (holds, holds, False),
        (other, dict(train="ValueError: # rows"), False),
        (holds, other, True),
        (other, holds, True),
        (holds, {}, True),
        (dict(train=BASE), other, True),
    ):
        for implementation in matrix.IMPLEMENTATIONS:
            assert bool(list(differences({implementation: now}, {implementation: before}))) == noticed
    assert not list(differences(dict(peft=other), dict(peft=dict(train="KeyError: 'x'")))) and list(
        differences(dict(ours=other), dict(ours=dict(train="KeyError: 'x'")))
    )


def test_the_file_gives_back_what_was_written(tmp_path):
    results = {
        name: {
            (family, method): dict.fromkeys(INVARIANTS, "")
            for family in ("gpt2", "llama")
            for method in ("lora", "cpt")
        }
        for name in matrix.IMPLEMENTATIONS
    }
    results["peft"]["gpt2", "lora"]["beams"] = "ValueError: a “word” in GPT2"
    results["peft"]["llama", "cpt"] = dict.fromkeys(INVARIANTS, BASE + "no")
    path = tmp_path / "matrix.json"
    matrix.store(results, path)
    first = path.read_bytes()
    assert matrix.unpack(matrix.stored(path)[matrix.LANE]) == results
    matrix.store(results, path)
    assert path.read_bytes() == first
    assert (
        matrix.plain("row 1: 3 of -5 differ by 1.2e-05 in GPT2 at [3, 7]")
        == "row #: # of # differ by # in GPT2 at [#, #]"
    )


def test_the_table(stored, capsys):
    "What the tests above have measured, for whoever reads the output of a run."
    lines = list(matrix.table(stored))
    with capsys.disabled():
        print(
            f"\n{matrix.LANE}: invariants that hold, of those the base model keeps",
            *lines,
            sep="\n",
            file=sys.stderr,
        )  # what a worker of xdist writes there is seen
    assert len(lines) == len(INVARIANTS) + 2


def test_the_base_model_excuses_little():
    "A cell that the base model decides says nothing about adapters."
    excused = {
        (family, name): reason
        for family in matrix.FAMILIES
        for name, reason in matrix.by_base(family).items()
    }
    unexpected = {
        cell: reason
        for cell, reason in excused.items()
        if families.V5 or not any(all(map(fnmatch, cell, pattern)) for pattern in EXCUSED)
    }
    assert not unexpected


@pytest.mark.parametrize("family", matrix.FAMILIES)
def test_texts_vary(family):
    "Or the invariants of `generate` would compare constants."
    text = Subject("base", family).text()[:, 7:]
    assert len(text.unique()) > 4 and not torch.equal(text[0], text[1])


def test_the_patterns_of_listed_cells_match_something():
    cells = [
        (family, method, name)
        for family in matrix.FAMILIES
        for method in [*INJECTED, *PROMPTS]
        for name in INVARIANTS
    ]
    for pattern in LISTED:
        assert any(all(map(fnmatch, cell, pattern)) for cell in cells), pattern


# --- every invariant can fail ----------------------------------------------------------------------------------


def on_call(change):
    "Change what the base model's forward is told."

    def spoil(s):
        s.base.register_forward_pre_hook(
            lambda module, args, kwargs: (args, change(dict(kwargs))), with_kwargs=True
        )

    return spoil


def on_generate(change):
    "Change what `generate` is told."

    def spoil(s):
        generate = s.model.generate
        s.model.generate = lambda *args, **kwargs: generate(*args, **change(kwargs))

    return spoil


def on_logits(change):
    "Change what the base model's forward answers."

    def spoil(s):
        s.base.register_forward_hook(
            lambda module, args, kwargs, output: change(output, kwargs), with_kwargs=True
        )

    return spoil


def _noise(output, kwargs):
    output.logits = output.logits + torch.randn_like(output.logits)
    return output


def _another_if_alone(output, kwargs):
    output.logits = output.logits.flip(-1) if len(output.logits) == 1 else output.logits
    return output


def _shift_by_length(output, kwargs):
    "A loss that padding changes."
    if output.loss is not None:
        output.loss = output.loss + output.logits.shape[1]
    return output


def _reverse_where(condition):
    def change(output, kwargs):
        output.logits = output.logits.flip(-1) if condition(kwargs) else output.logits
        return output

    return on_logits(change)


def _shorter(kwargs):
    return {**kwargs, "max_new_tokens": kwargs["max_new_tokens"] - 1}


def _without(name):
    return lambda kwargs: {key: value for key, value in kwargs.items() if key != name}


def _thaw(s):
    next(s.base.parameters()).requires_grad_(True)


def _drop_positional(s):
    generate = s.model.generate
    s.model.generate = lambda *args, **kwargs: generate(**{"input_ids": torch.full((3, 7), 5), **kwargs})


def _no_switch(s):
    s.model.disable_adapter = nullcontext


def _save_less(s):
    save = s.model.save_pretrained

    def spoilt(folder):
        with torch.no_grad():
            for parameter in s.model.parameters():
                if parameter.requires_grad:
                    parameter.mul_(0.5)
            save(folder)
            for parameter in s.model.parameters():
                if parameter.requires_grad:
                    parameter.mul_(2)

    s.model.save_pretrained = spoilt


def _changes_the_mask(s):
    forward = s.model.forward

    def spoilt(*args, attention_mask=None, **kwargs):
        if attention_mask is not None:
            attention_mask.fill_(1)  # also where padding was
        return forward(*args, attention_mask=attention_mask, **kwargs)

    s.model.forward = spoilt


def _keeps_something(s):
    generate = s.model.generate

    def spoilt(*args, **kwargs):
        try:
            return generate(*args, **kwargs)
        except BaseException:
            s.base.left_behind = True
            raise

    s.model.generate = spoilt


SPOILT = {
    "train": _thaw,
    "greedy": on_generate(_shorter),
    "positional": _drop_positional,
    "argmax": on_logits(_noise),
    "no cache": _reverse_where(lambda kwargs: kwargs.get("use_cache") is False),
    "static cache": _reverse_where(
        lambda kwargs: type(kwargs.get("past_key_values")).__name__ == "StaticCache"
    ),
    "beams": _reverse_where(lambda kwargs: kwargs["input_ids"].shape[0] == 9),
    "left padding, logits": on_call(_without("position_ids")),
    "left padding, generate": on_call(_without("attention_mask")),
    "left padding, static cache": on_call(_without("attention_mask")),
    "right padding, loss": on_logits(_shift_by_length),
    "batch": on_logits(_another_if_alone),
    "embeddings": _reverse_where(lambda kwargs: kwargs.get("inputs_embeds") is not None),
    "no mask": _reverse_where(lambda kwargs: kwargs.get("attention_mask") is not None),
    "disable": _no_switch,
    "save and load": _save_less,
    "untouched": _changes_the_mask,
    "restored": _keeps_something,
    "continue": _reverse_where(
        lambda kwargs: kwargs["input_ids"].shape[1] == 3 and kwargs["past_key_values"] is not None
    ),  # three new tokens: the last one and another turn
}


@pytest.mark.parametrize("name", INVARIANTS)
def test_can_fail(name):
    "A model broken on purpose breaks the invariant."
    assert matrix.broken(INVARIANTS[name], Subject("ours", "gpt2", "lora")) == ""
    subject = Subject("ours", "gpt2", "lora")
    SPOILT[name](subject)
    assert "AssertionError" in matrix.broken(INVARIANTS[name], subject)


# --- the page --------------------------------------------------------------------------------------------------


def saved():
    "The HTML that the notebook was saved with."
    outputs = [
        output
        for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
        for output in cell.get("outputs", [])
    ]
    return [
        "".join(output["data"]["text/html"]) for output in outputs if "text/html" in output.get("data", {})
    ]


def test_the_page_shows_what_was_measured():
    assert saved() == pages.figures(), (
        "the page is older than matrix.json; run make notebooks NB=nbs/reference/51_matrix.ipynb"
    )


def test_the_page_tells_of_every_invariant_and_is_small():
    assert list(pages.SAID) == list(INVARIANTS)
    assert NOTEBOOK.stat().st_size < 300_000 and matrix.RESULTS.stat().st_size < 100_000


@pytest.mark.browser
@pytest.mark.skipif(not families.V5, reason="one page for both lanes")
@pytest.mark.parametrize(
    "scheme, paper", [("default", "white"), ("alternate", "#13171c")], ids=["light", "dark"]
)
def test_figures_are_accessible(new_page, scheme, paper):
    axe = pytest.importorskip(
        "axe_playwright_python", reason="axe is not installed: pip install axe-playwright-python"
    )
    tab = new_page()
    tab.show(
        f'<!doctype html><html lang="en" data-scheme="{scheme}"><title>matrix</title><body '
        f'style="background: {paper}; color: gray"><main>{"".join(saved())}</main>'
    )
    tab.evaluate(
        "document.querySelectorAll('.mx details').forEach((d, i) => i % 8 == 2 ? d.open = true : d.remove())"
    )  # they are all made alike
    tab.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8") + "; 0")
    found = tab.evaluate(
        "async () => (await axe.run('main')).violations.map(v => [v.id, "
        "...v.nodes.slice(0, 3).map(n => n.html.slice(0, 160))])"
    )
    assert found == [] and tab.problems == []


@pytest.mark.browser
@pytest.mark.skipif(not families.V5, reason="one page for both lanes")
def test_each_family_opens_with_the_keyboard(page):
    page.show(f'<!doctype html><html lang="en"><title>matrix</title><body>{"".join(saved())}')
    links = page.locator(".mx-grid tbody th a")
    assert (
        links.count() == len(matrix.FAMILIES) * len(matrix.stored())
        and page.locator(".mx-why:visible").count() == 0
    )
    for i in (0, 17):
        links.nth(i).focus()
        page.keyboard.press("Enter")
        page.locator(links.nth(i).get_attribute("href")).wait_for(state="visible")
    assert page.locator(".mx-why:visible").count() == 2 and page.problems == []
