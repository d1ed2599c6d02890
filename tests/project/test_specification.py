"""The map of the specification is true: every row has its line, its recording shows it, and its test goes there. (That
the page is up to date is what the test of its notebook asks.)"""

import ast
import inspect
import json
import re
import textwrap
from collections import defaultdict
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

import specification as spec
import specification_page as pages
from peft_viz.reference.causal_lm import get_peft_model
from peft_viz.reference.generation import count_new_tokens, room_for_virtual_tokens
from peft_viz.reference.place import find_place, Past
from specification import IDS, MASK, model_of, ROWS
from specification_paths import ways_of, went
from conftest import ROOT

NOTEBOOK = ROOT / "nbs" / "reference" / "50_specification.ipynb"


# --- the table ----------------------------------------------------------------------------------------------------


def wrong(check):
    "Row -> what is wrong with it, for all rows that a check refuses."
    found = {}
    for row in ROWS:
        try:
            check(row)
        except (AssertionError, LookupError) as error:
            found[row.id] = str(error)
    return found


def test_rows_are_complete():
    def check(row):
        told = dict(when=row.when, mark=row.mark, condition=row.code, test=row.test)
        assert all(told.values()), f"no row may be empty: {told}"
        assert row.module in {*spec.MODULES, "model"}, f"the appendix has to know {row.module}, too"
        for number, outcome in row.decisions:  # raises LookupError unless each mark leads to one statement
            condition = isinstance(spec.statement(row.where, number), ast.If)
            assert (outcome is not None) == condition, (
                f"line {number} is {'a' if condition else 'no'} condition"
            )

    assert wrong(check) == {}


def test_rows_are_called_differently():
    assert len({row.id for row in ROWS}) == len(ROWS)
    assert len({(row.section, row.when) for row in ROWS}) == len(ROWS)


@lru_cache
def renamed(text):
    "The text of a function whose arguments and variables are called otherwise, and whose lines break elsewhere."
    tree = ast.parse(textwrap.dedent(text))
    own = spec.own_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in own:
            node.id += "_renamed"
        if isinstance(node, ast.arg) and node.arg != "self":
            node.arg += "_renamed"
    return ast.unparse(tree)


def test_marks_survive_a_renamed_variable():
    def check(row):
        text = "".join(spec.source(row.where)[0])
        for mark, _ in [(row.mark, None), *row.also]:
            before, after = (
                [line for line, _ in spec.shapes(text)].index(spec.marked(text, mark, row.where))
                for text in (text, renamed(text))
            )
            assert before == after, mark

    assert wrong(check) == {}
    assert "labels_renamed is None" in renamed("".join(spec.source(spec.CLASS + "_cpt_forward")[0]))


@pytest.mark.parametrize("mark, found", [("if _ is None", 3), ("if _ is None #4", 3), ("if _ is missing", 0)])
def test_a_mark_that_leads_to_no_statement_or_to_several(mark, found):
    with pytest.raises(LookupError, match=f"leads to {found} statements"):
        spec.find(spec.CLASS + "_cpt_forward", mark)


# --- links from the code to the page ------------------------------------------------------------------------------

PAGE = "https://peft-viz.github.io/peft_viz/reference/specification.html#"


def linked(where):
    "The anchors on the page to which the docstring of a function leads."
    return re.findall(re.escape(PAGE) + r"([\w-]+)", spec.function(where).__doc__ or "")


def test_what_decides_a_row_links_to_a_row_that_it_decides():
    "The number of a row changes when one is put in before it; then its link has to be changed."
    decides = defaultdict(list)
    for row in ROWS:
        if not row.function.startswith("_") or row.function == "_cpt_forward":
            decides[row.where].append(row.id)
    wrong = {where: linked(where) for where, ids in decides.items() if not set(linked(where)) & set(ids)}
    assert wrong == {} and len(decides) > 20


def test_each_link_leads_to_an_anchor_of_the_page():
    text = "".join(p.read_text(encoding="utf-8") for p in sorted(spec.HOME.rglob("[a-z]*.py")))
    links = re.findall(re.escape(PAGE) + r"([\w-]*)", text)
    anchors = re.findall(r'id=\\"([\w-]+)\\"', NOTEBOOK.read_text(encoding="utf-8"))
    assert set(links) <= set(anchors) and len(links) > 20
    address = re.search(r'site-url: "(.+)"', (ROOT / "nbs" / "nbdev.yml").read_text(encoding="utf-8"))[1]
    assert PAGE == f"{address}/reference/{NOTEBOOK.stem.partition('_')[2]}.html#"


# --- the recordings -----------------------------------------------------------------------------------------------


def test_recordings_go_there():
    def check(row):
        _, seen = pages.recorded(ROWS.index(row))  # raises LookupError where it does not
        assert row.shows(seen), "it does not show what the row says"

    assert wrong(check) == {}


def test_a_recording_that_goes_another_way_is_noticed():
    row = next(row for row in ROWS if row.when == "there is no mask: then none reaches the base model")
    with pytest.raises(LookupError, match="does not take"):
        spec.measure(row, spec.forward("prompt", attention_mask=MASK))


# --- the tests that the rows name ---------------------------------------------------------------------------------


def test_tests_go_there():
    ways = ways_of([row.test for row in ROWS])

    def check(row):
        assert row.test in ways, f"there is no test {row.test}"
        outcome, way = ways[row.test]
        assert outcome == "passed"
        for number, outcome in row.decisions:
            node = spec.statement(row.where, number)
            assert went(way, row.file, row.function, node, outcome), (
                f"{row.test} does not take {row.mark}: {outcome}"
            )

    assert wrong(check) == {}


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
        torch.testing.assert_close(
            logits[row], model(IDS[1:], task_ids=torch.tensor([task])).logits[0], rtol=0, atol=1e-6
        )


def test_poly_gives_each_row_its_task_in_generate():
    model = poly()
    how = dict(max_new_tokens=6, do_sample=False)
    texts = model.generate(IDS[1:].expand(2, -1), task_ids=torch.tensor([1, 0]), **how)
    assert not torch.equal(texts[0], texts[1])
    for row, task in enumerate([1, 0]):
        assert torch.equal(texts[row], model.generate(IDS[1:], task_ids=torch.tensor([task]), **how)[0])


@pytest.mark.parametrize("method", ["lora", "prompt", "prefix"])
def test_static_cache(method):
    "A cache of fixed size has room for the virtual tokens. peft crashes with a prefix."
    model = model_of(method)
    given = dict(attention_mask=MASK, max_new_tokens=6, do_sample=False)
    assert torch.equal(
        model.generate(IDS, cache_implementation="static", **given), model.generate(IDS, **given)
    )


@torch.no_grad()
@pytest.mark.parametrize("given", ["input_ids", "inputs_embeds"])
def test_no_cache_is_told_its_length(given):
    "The cache of a prefix grows with what comes: `get_prompt` needs no `max_cache_len`."
    model = model_of("prefix")
    inputs = {given: IDS if given == "input_ids" else spec.embeds(model)}
    cache = model(**inputs, attention_mask=MASK).past_key_values
    assert cache.get_seq_length() == spec.V + 5
    model(spec.LONGER[:, -1:], attention_mask=spec.LONGER_MASK, past_key_values=cache)
    assert cache.get_seq_length() == spec.V + 6
    assert "max_cache_len" not in inspect.signature(model.get_prompt).parameters


@torch.no_grad()
def test_positions_behind_a_prefix():
    "Counted from 0 by the caller, they come behind the prefix; without them, the base model counts so by itself."
    model = model_of("prefix")
    plain, counted, later = (
        model(IDS[1:], **given).logits
        for given in (
            {},
            dict(position_ids=torch.arange(5)[None]),
            dict(position_ids=torch.tensor([[0, 1, 2, 4, 5]])),
        )
    )
    assert (
        torch.equal(plain, counted)
        and torch.equal(plain[:, :3], later[:, :3])
        and not torch.equal(plain, later)
    )


TEXT = IDS[:1, 2:]  # the first row without its padding


@torch.no_grad()
@pytest.mark.parametrize("method", ["prompt", "multitask", "cpt", "prefix"])
def test_behind_padding_is_as_without(method):
    "With corrected positions, a row with padding gives what it gives without; as in peft, it does not."
    told = dict(task_ids=spec.TASKS[:1]) if method == "multitask" else {}
    whole = {
        corrected: model_of(method, corrected=corrected)(
            IDS[:1], attention_mask=MASK[:1], labels=spec.LABELS[:1], **told
        )
        for corrected in (True, False)
    }
    right = model_of(method, corrected=True)(TEXT, attention_mask=torch.ones_like(TEXT), labels=TEXT, **told)
    torch.testing.assert_close(whole[True].logits[:, -3:], right.logits[:, -3:], rtol=0, atol=1e-5)
    torch.testing.assert_close(whole[True].loss, right.loss, rtol=0, atol=1e-5)
    assert whole[True].logits.shape == whole[False].logits.shape and not torch.allclose(
        whole[True].logits[:, -3:], whole[False].logits[:, -3:], rtol=0, atol=1e-5
    )


@torch.no_grad()
@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_behind_padding_is_as_without_in_generate(method):
    model, how = model_of(method, corrected=True), dict(max_new_tokens=6, do_sample=False)
    padded = model.generate(IDS, attention_mask=MASK, **how)
    assert torch.equal(padded[0, 5:], model.generate(TEXT, **how)[0, 3:]) and torch.equal(
        padded[1], model.generate(IDS[1:], **how)[0]
    )


@torch.no_grad()
def test_a_prefix_without_padding_stays_in_front():
    mask = torch.ones_like(IDS)
    assert torch.equal(
        model_of("prefix", corrected=True)(IDS, attention_mask=mask).logits,
        model_of("prefix")(IDS, attention_mask=mask).logits,
    )


@torch.no_grad()
def test_a_prefix_behind_padding_hands_on_what_was_asked_for():
    "The places that the virtual tokens had in the sequence are in nothing that comes back."
    model = model_of("prefix", corrected=True)
    plain, more = model(IDS, attention_mask=MASK), model(IDS, attention_mask=MASK, output_hidden_states=True)
    assert plain.loss is None and plain.get("hidden_states") is None and plain.logits.shape[:2] == IDS.shape
    assert torch.equal(plain.logits, more.logits) and torch.equal(
        plain.logits, model(inputs_embeds=spec.embeds(model), attention_mask=MASK).logits
    )
    for ours, right in zip(
        more.hidden_states, model(TEXT, output_hidden_states=True).hidden_states, strict=True
    ):
        torch.testing.assert_close(ours[:1, 2:], right, rtol=0, atol=1e-5)
    logits, cache = model(IDS, attention_mask=MASK, return_dict=False)
    assert torch.equal(logits, plain.logits) and cache.get_seq_length() == spec.V + 5


@torch.no_grad()
def test_attention_weights_of_a_prefix_behind_padding():
    "The prefix's keys come first, as they do where it stands in front; the row's own are those of the row alone."
    model = model_of("prefix", corrected=True)
    model.base_model.set_attn_implementation("eager")
    weights = model(IDS, attention_mask=MASK, output_attentions=True).attentions
    for ours, right in zip(weights, model(TEXT, output_attentions=True).attentions, strict=True):
        assert ours.shape[2:] == (5, spec.V + 5) and not ours[0, :, 2:, spec.V : spec.V + 2].any()
        torch.testing.assert_close(
            torch.cat((ours[:1, :, 2:, : spec.V], ours[:1, :, 2:, spec.V + 2 :]), 3), right, rtol=0, atol=1e-5
        )


@torch.no_grad()
@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_given_positions_are_corrected(method):
    "Those that the mask says make no difference; others do, where they stand."
    model, right = model_of(method, corrected=True), torch.tensor([[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]])
    counted, given = (
        model(IDS, attention_mask=MASK).logits[:, -5:],
        model(IDS, attention_mask=MASK, position_ids=right).logits[:, -5:],
    )
    moved = model(IDS, attention_mask=MASK, position_ids=right + torch.tensor([0, 0, 0, 0, 1])).logits[:, -5:]
    assert torch.equal(counted[MASK.bool()], given[MASK.bool()])
    assert torch.equal(counted[1, :4], moved[1, :4]) and not torch.equal(counted[1, 4], moved[1, 4])


@torch.no_grad()
@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_corrected_positions_without_a_mask(method):
    "Counted from what is in the cache."
    model, told = model_of(method, corrected=True), []
    model.get_base_model().register_forward_pre_hook(
        lambda module, args, kwargs: told.append(kwargs["position_ids"].tolist()), with_kwargs=True
    )
    cache = model(IDS).past_key_values
    model(IDS[:, :2], past_key_values=cache)
    assert told == [[list(range(8))[spec.V * (method == "prefix") :]] * 2, [[8, 9]] * 2]


def test_positions_in_several_directions():
    "Models that look at pictures have positions `[directions, batch, sequence]`: each direction is shifted alone."
    place = find_place(model_of("prompt", corrected=True).setting, MASK, *IDS.shape, Past({}))
    text, constant = torch.tensor([[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]), torch.full((2, 5), 7)
    assert place.shifted(torch.stack((text, constant))).tolist() == [
        [[0, 0, 0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5, 6, 7]],  # padding has position 0
        [[0, 0, 0, 1, 2, 10, 10, 10], [0, 1, 2, 10, 10, 10, 10, 10]],
    ]


@torch.no_grad()
@pytest.mark.parametrize("method", ["prompt", "cpt", "prefix"])
def test_forward_goes_on(method):
    "A pass with the cache of an earlier one gives what one pass over all gives."
    model, types = model_of(method), dict(input_type_mask=spec.TYPES[1:, 3:]) if method == "cpt" else {}
    cache = model(IDS[1:, :3]).past_key_values
    rest = model(IDS[1:, 3:], attention_mask=MASK[1:], past_key_values=cache, **types).logits
    torch.testing.assert_close(rest, model(IDS[1:]).logits[:, -2:], rtol=0, atol=1e-5)
    assert cache.get_seq_length() == spec.V + 5


@torch.no_grad()
def test_recurrent_states_go_on():
    "A state that has seen the virtual tokens does not see them again."
    torch.manual_seed(0)
    model = get_peft_model(
        MambaForCausalLM(
            MambaConfig(
                vocab_size=67, hidden_size=16, state_size=4, num_hidden_layers=2, tie_word_embeddings=False
            )
        ),
        spec.config("prompt"),
    ).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, 0.3 if "embed" in name else 1.5 / parameter.shape[-1] ** 0.5)
    how = dict(max_new_tokens=6, do_sample=False, eos_token_id=None)
    text = model.generate(IDS[1:], **how)
    assert len(text[0, 5:].unique()) > 3 and torch.equal(
        text, model.generate(IDS[1:], use_cache=False, **how)
    )
    assert torch.equal(model(text[:, :-1]).logits[:, -6:].argmax(-1), text[:, -6:])


@torch.no_grad()
def test_too_many_tokens():
    model = model_of("prompt", "gpt2", n_positions=7)
    assert model(IDS[:, :4]).logits.shape[1] == 7
    for call in (
        (lambda: model(IDS)),
        (lambda: model.generate(IDS[:, :4], attention_mask=MASK[:, :4], max_new_tokens=2)),
    ):
        with pytest.raises(
            ValueError,
            match="8 tokens, 3 of them virtual, are more than the 7 that "
            "GPT2LMHeadModel has positions for; pass at most 4 tokens",
        ):
            call()


def test_chunks_and_corrected_positions():
    how = dict(attention_mask=torch.ones_like(IDS), max_new_tokens=4, do_sample=False)
    with pytest.raises(ValueError, match="prefill_chunk_size cuts between padding and virtual tokens"):
        model_of("prompt", corrected=True).generate(IDS, prefill_chunk_size=2, **how)
    whole = model_of("prompt").generate(IDS, **how)
    assert torch.equal(model_of("prompt").generate(IDS, prefill_chunk_size=2, **how), whole) and torch.equal(
        model_of("prompt", corrected=True).generate(IDS, **how), whole
    )


def told(model, *args, **given):
    "What the base model is asked to prepare from."
    found = []
    model.base_model_prepare_inputs_for_generation = lambda input_ids, **kwargs: (
        found.append(kwargs) or dict(kwargs, input_ids=input_ids)
    )
    return model.prepare_inputs_for_generation(*args, **given), found[0]


@torch.no_grad()
def test_a_recurrent_state_has_seen_all_but_one():
    "It does not say how many tokens it has seen: a decoding step has one more, and the base model chooses it."
    step, given = told(
        model_of("prompt"),
        spec.LONGER,
        attention_mask=spec.LONGER_MASK,
        cache_params=object(),
        cache_position=torch.arange(5, 6),
    )
    assert (
        step.get("inputs_embeds") is None
        and step["input_ids"][:, -6:].equal(spec.LONGER)
        and step["input_ids"].shape == given["attention_mask"].shape == (2, spec.V + 6)
    )
    assert given["cache_position"].tolist() == [spec.V + 5] and given.get("next_sequence_length", 1) == 1


@torch.no_grad()
def test_told_by_cache_position_or_by_length():
    for by_length in (True, False):
        with spec.slicing(by_length):
            model = model_of("prompt")
            assert told(model, IDS, attention_mask=MASK)[1].get("next_sequence_length") == (
                spec.V + 5 if by_length else None
            )
            given = dict(past_key_values=spec.filled(model), attention_mask=spec.LONGER_MASK)
            room_for_virtual_tokens(model.setting, model.generation_config, given)
            assert (
                given.get("cache_position") is None if by_length else given["cache_position"].tolist() == [5]
            )
    step, _ = told(model_of("prefix"), IDS, attention_mask=MASK)
    assert "cache_position" not in step


@torch.no_grad()
def test_how_many_tokens_are_new():
    model, cache = model_of("prompt"), spec.filled(model_of("prompt"))
    longer, mask, embeds = spec.LONGER, spec.LONGER_MASK, spec.embeds(model)
    for new, ids, given in (
        (2, longer, dict(past_key_values=cache, attention_mask=mask, next_sequence_length=2)),  # it is said
        (1, longer, dict(past_key_values=cache, attention_mask=mask)),  # 6 in the mask, 5 in the cache
        (1, longer, dict(past_key_values=cache)),  # 6 ids, 5 in the cache
        (3, longer[:, :3], dict(past_key_values=cache)),  # fewer than in the cache: all new
        (5, longer[:, :0], dict(inputs_embeds=embeds)),
        (5, IDS, {}),
        (5, IDS, dict(attention_mask=MASK, next_sequence_length=1)),  # there is no cache: all new
        (1, longer, dict(cache_params=object(), attention_mask=mask)),  # a state knows no number
    ):
        assert count_new_tokens(ids, given.pop("inputs_embeds", None), Past(given), spec.V, given) == new
    step, _ = told(model, longer[:, :0], inputs_embeds=embeds)
    assert step["input_ids"] is None and torch.equal(step["inputs_embeds"][:, spec.V :], embeds)


@torch.no_grad()
@pytest.mark.parametrize("mask", [MASK, None], ids=["mask", "no mask"])
def test_a_model_that_counts_in_the_mask(mask):
    "OPT, whose mask has four dimensions with a static cache, is told the positions: the text is the same."
    model, how = model_of("prompt", "opt"), dict(attention_mask=mask, max_new_tokens=6, do_sample=False)
    ids = IDS if mask is not None else IDS[1:]
    assert torch.equal(model.generate(ids, cache_implementation="static", **how), model.generate(ids, **how))


# --- the page -----------------------------------------------------------------------------------------------------


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


def test_the_page_is_small():
    assert NOTEBOOK.stat().st_size < 600_000


def figures():
    "All that the page shows, in a page of its own."
    return "<main>" + "".join(saved()) + "</main>"


@pytest.mark.browser
@pytest.mark.parametrize(
    "scheme, paper", [("default", "white"), ("alternate", "#13171c")], ids=["light", "dark"]
)
def test_figures_are_accessible(new_page, scheme, paper):
    axe = pytest.importorskip(
        "axe_playwright_python", reason="axe is not installed: pip install axe-playwright-python"
    )
    tab = new_page()
    tab.show(
        f'<!doctype html><html lang="en" data-scheme="{scheme}"><title>map</title><body '
        f'style="background: {paper}; color: gray">{figures()}'
    )
    tab.evaluate(
        "document.querySelectorAll('.sm details').forEach((d, i) => i % 10 == 4 ? d.open = true : d.remove())"
    )  # they are all made alike
    assert len(
        {
            tuple(tab.evaluate("getComputedStyle(document.querySelector('.sm')).color.match(/[0-9]+/g)")),
            ("32", "38", "45"),
        }
    ) == (1 if scheme == "default" else 2)
    tab.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8") + "; 0")
    # the heading of a part of a figure stands deep on purpose
    found = tab.evaluate(
        "async () => (await axe.run('main', {rules: {'heading-order': {enabled: "
        "false}}})).violations.map(v => [v.id, ...v.nodes.slice(0, 3).map(n => n.html.slice(0, 160))])"
    )
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
