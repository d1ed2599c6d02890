"""The viewer as a reader meets it: it opens on the story, one row of the batch on one grid of columns, and everything
else is a key away."""
# lane: here

import json, pathlib, re
import pytest, torch

from peft_viz import (
    CPTConfig,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
    layout,
    load_tiny,
    record,
    viewer,
)
from peft_viz.zoo.letters import collate

TAG, VIRTUAL = "peft-viz-trace", 4
LM = dict(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL)
ROOT = f"document.querySelector('{TAG}').shadowRoot"
pytestmark = pytest.mark.browser


def recorded(config, new_tokens=3, **how):
    "A padded batch with labels, then a generate."
    torch.manual_seed(0)
    base, tokenizer = load_tiny()
    model = get_peft_model(base, config).eval()
    question = tokenizer(
        ["fig=", "hello="],
        return_tensors="pt",
        padding=True,
        padding_side="left",
        add_special_tokens=False,
    )
    with record(model, tokenizer=tokenizer, **how) as trace, torch.no_grad():
        model(**collate(tokenizer, ["fig=", "hello="], ["fgi", "ehllo"], padding_side="left"))
        if new_tokens:
            model.generate(**question, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False)
    return trace


@pytest.fixture(scope="module")
def trace():
    return recorded(PromptTuningConfig(**LM))


@pytest.fixture(scope="module")
def prefix():
    return recorded(PrefixTuningConfig(**LM))


@pytest.fixture
def opened(new_page, tmp_path):
    "A function: save a trace, open it from disk, return the page."

    def open_file(trace, hash="", **options):
        page, file = new_page(**options), trace.save(tmp_path / "trace.html")
        page.raw.goto(file.resolve().as_uri() + hash)
        page.wait_for_selector(f"{TAG} .root")
        return page

    return open_file


def view(page, name):
    page.evaluate(f"n => document.querySelector('{TAG}').openTab(n)", name)


def text(page, selector):
    return " ".join(page.raw.locator(f"{TAG} {selector}").first.inner_text().split())


def plain(told):
    return " ".join(told.split())


def of(page, name):
    return page.evaluate(f"document.querySelector('{TAG}').{name}")


def grid(page):
    "The lines of the grid: part -> name of the line -> [(text, classes, left edge)] of its cells."
    return page.evaluate(f"""() => Object.fromEntries(['passed', 'reached'].map(part => [part, Object.fromEntries(
        [...{ROOT}.querySelectorAll(`.sheet .${{part}} tr:not(.keys)`)].filter(r => r.querySelector('th[scope=row]')).map(r =>
            [r.cells[0].textContent, [...r.cells].slice(1).map(c => [c.textContent, c.className, c.getBoundingClientRect().left])]))]))""")


# ---------------------------------------------------------------- the story
def test_it_opens_on_one_sentence_and_one_grid(trace, opened):
    page = opened(trace)
    assert text(page, ".say").startswith(
        f"Prompt tuning puts {VIRTUAL} learned vectors, the virtual tokens ◆, in front"
    )
    assert f"The mask grows by {VIRTUAL} ones, the labels by {VIRTUAL} times −100." in text(page, ".say")
    lines = grid(page)
    assert list(lines["passed"]) == ["token", "mask", "label", "id"]
    ids = trace.value(trace.calls[0].args["input_ids"]).data
    assert [int(t) for t, *_ in lines["passed"]["id"] if t] == ids[: len(ids) // 2]
    assert list(lines["reached"]) == ["token", "mask", "label", "position"]
    row = layout.sequence(trace, trace.base_calls[0]).rows[0]
    assert [t for t, *_ in lines["reached"]["mask"]] == [str(a) for a in row.attended]
    assert [t for t, *_ in lines["reached"]["label"]][:VIRTUAL] == ["−100"] * VIRTUAL
    positions = layout.positions(trace, trace.base_calls[0])
    assert [int(t) for t, *_ in lines["reached"]["position"]] == list(positions[0])
    added = [i for i, (_, cls, _) in enumerate(lines["reached"]["token"]) if "fresh" in cls]
    assert added == list(range(VIRTUAL))
    assert page.problems == []


def test_cpt_says_what_its_loss_counts(opened):
    "Types and weights do not reach the base model: they stand below, above the same columns."
    ids = dict(cpt_token_ids=[3, 4, 5, 6], cpt_tokens_type_mask=[1, 2, 3, 4])
    decay = dict(opt_weighted_loss_type="decay", opt_loss_decay_factor=0.5)
    page = opened(recorded(CPTConfig(task_type="CAUSAL_LM", **ids, **decay), new_tokens=0))
    assert "the labels by 3 times −100 and 1 that counts in the loss" in text(page, ".say")
    parts = page.raw.locator(f"{TAG} .sheet .part").all_inner_texts()
    assert parts[-1] == "For the loss"
    rows = page.raw.locator(f"{TAG} .sheet tbody").last.locator("tr:not(:first-child)").all()
    told = {row.locator("th").inner_text(): row.locator("td").all_inner_texts() for row in rows}
    assert told["type"][:5] == ["1", "2", "3", "4", "8"]
    weights = [x for x in told["loss weight"] if x]
    assert weights == ["0.50"] + ["1"] * (len(weights) - 1) and told["loss weight"][3] == "0.50"
    assert page.problems == []


def test_a_decision_says_what_goes_the_other_way(trace, opened):
    page = opened(trace, "#moment=2")
    assert "Is it prompt learning?" in text(page, ".say")
    assert re.match(r"The other way: True for example in: LoRA", text(page, ".otherway summary"))
    code = page.raw.locator(f"{TAG} .otherway pre").inner_text()
    assert "LoraConfig(" in code and "with record(model) as trace:\n    model(**batch)" in code
    page = opened(trace, "#moment=2&lang=zh")
    assert "LoRA，前向传播" in text(page, ".otherway summary")
    view(page, "overview")
    ways = page.raw.locator(f"{TAG} .otherway").all_inner_texts()
    assert len(ways) > 4 and page.problems == []


def test_the_other_way_may_stand_in_this_recording(trace, opened):
    "A decoding step takes no prompts, the prefill before it does."
    page = opened(trace)
    line = """t => { const el = document.querySelector(t), r = el.rec;
      const c = r.calls.find(c => c.steps.some(s => s.branch) && /prepare_inputs/.test(c.function));
      const i = c.steps.findIndex(s => s.branch && r.sources[c.source].text.split("\\n")
        [s.line - r.sources[c.source].first_line].includes("takes_prompts"));
      el.openTab("lines"); el.go(c.at[i]); return c.steps[i].line; }"""
    number = page.evaluate(line, TAG)
    box = page.raw.locator(f"{TAG} .otherway")
    assert "in this recording" in box.inner_text()
    before = page.evaluate("t => document.querySelector(t).step", TAG)
    box.locator("button").click()
    here = page.evaluate(
        "t => { const m = document.querySelector(t).rec.moments[document.querySelector(t).step];"
        "return [m.call.steps[m.step].line, m.call.steps[m.step].branch]; }",
        TAG,
    )
    assert here == [number, False] and page.evaluate("t => document.querySelector(t).step", TAG) != before


def test_every_cell_of_a_row_stands_on_one_grid(trace, prefix, opened):
    for recording in (trace, prefix):
        page = opened(recording)
        for i in range(len(recording.story()) + 1):
            page.evaluate(f"i => document.querySelector('{TAG}').goScene(i)", i)
            edges = [[x for *_, x in cells] for part in grid(page).values() for cells in part.values()]
            assert edges and all(row == pytest.approx(edges[0], abs=0.6) for row in edges)
            steps = {round(b - a) for row in edges for a, b in zip(row, row[1:])}
            assert len(steps) <= 2  # whole pixels
        assert page.problems == []


def test_the_cache_stands_on_the_columns_of_the_grid(trace, opened):
    page = opened(trace)
    edges = [x for *_, x in grid(page)["reached"]["token"]]
    cells = page.evaluate(
        f"""() => [...{ROOT}.querySelectorAll('.sheet .keys td')].map(e =>
        [e.colSpan, e.className, e.getBoundingClientRect().left])"""
    )
    roles, at = layout.sequence(trace, trace.base_calls[0]).rows[0].roles, 0
    assert layout.cache(trace)[0].after == len(roles) == len(edges)
    for span, name, left in cells:
        assert left == pytest.approx(edges[at], abs=0.6)
        assert {*roles[at : at + span]} == {name.split()[0].removeprefix("m-")}
        at += span
    assert at == len(roles)


def test_moments_are_those_of_python(trace, opened):
    page, told = opened(trace), trace.story()
    for number, moment in enumerate(told, 1):
        page.keyboard.press("ArrowRight")
        assert text(page, ".say") == plain(moment.text)
        page.raw.wait_for_url(re.compile(f"#moment={number}$"))
        line = page.raw.locator(f"{TAG} .snippet [aria-current]")
        if moment.step is not None and line.count():
            call = trace.calls[moment.call]
            assert int(line.get_attribute("data-line")) == call.steps[moment.step].line
    page.keyboard.press("Home")
    page.raw.locator(f"{TAG} [data-lang='1']").click()
    for moment in list(told)[:6]:
        page.keyboard.press("ArrowRight")
        assert text(page, ".say") == plain(moment.texts["zh"])
    assert page.problems == []


def test_what_has_not_happened_is_faint_and_what_just_did_is_marked(trace, opened):
    page = opened(trace)
    moments = [(i, m) for i, m in enumerate(trace.story(), 1) if m.kind == "grew"]
    i, grew = next((i, m) for i, m in moments if m.names[0] == "attention_mask")
    page.evaluate(f"i => document.querySelector('{TAG}').goScene(i)", i - 1)
    before = grid(page)["reached"]
    assert all("unborn" in cls for _, cls, _ in before["mask"][:VIRTUAL])
    assert not any("unborn" in cls for _, cls, _ in before["mask"][VIRTUAL:])  # the caller's own
    page.keyboard.press("ArrowRight")
    after = grid(page)["reached"]
    assert all("fresh" in cls for _, cls, _ in after["mask"][:VIRTUAL])
    assert all("unborn" in cls for _, cls, _ in after["label"][:VIRTUAL])
    assert "not yet" in text(page, ".back")
    last = next(i for i, m in enumerate(trace.story(), 1) if m.kind == "loss")
    page.evaluate(f"i => document.querySelector('{TAG}').goScene(i)", last)
    assert not any("unborn" in cls for cells in grid(page)["reached"].values() for _, cls, _ in cells)
    loss = trace.value(trace.base_calls[0].outputs["loss"]).data[0]
    assert f"{loss:.3f}" in text(page, ".back")


def test_a_moment_marks_as_new_what_it_made_itself(trace, prefix, opened):
    "Logits, losses and attention made no cell; the cache that is filled holds the virtual tokens."
    new = f"""() => {{
        const view = document.querySelector('{TAG}');
        return view.rec.story.map((scene, i) => {{
            view.goScene(i);
            const rows = [...{ROOT}.querySelectorAll('.sheet tr')].filter(row => row.querySelector('.fresh'));
            return [scene.kind, rows.map(row => [row.cells[0].textContent, row.querySelectorAll('.fresh').length])];
        }});
    }}"""
    told = opened(prefix).evaluate(new)
    assert [rows for kind, rows in told if kind == "cache"] == [[["token", VIRTUAL]]] * 2
    assert [rows for kind, rows in told if kind == "positions"][0] == [["position", 12]]
    told += opened(trace).evaluate(new)
    assert not any(
        rows for kind, rows in told if kind in ("attention", "logits", "loss", "token", "decision")
    )
    assert [["label", VIRTUAL]] in [rows for kind, rows in told if kind == "grew"]


def test_who_may_attend_stands_beside_the_moments(trace, opened):
    "Faint until the base model is called; the row that is chosen; of more than one moment the same element."
    kinds = ["short", *(m.kind for m in trace.story())]
    page = opened(trace, f"#moment={kinds.index('grew')}")
    picture, pairs = f"{TAG} .two > .who", ".who .hover"

    def may(row):
        return sum(map(sum, layout.attention(trace, trace.base_calls[0]).attended[row]))

    assert page.raw.locator(f"{picture}.later").count() == 1 and "not yet" in text(page, ".who .when")
    assert text(page, pairs).startswith(f"{may(0)} of ") and may(0) != may(1)
    page.evaluate(f"{ROOT}.querySelector('.who').seen = true")
    for _ in range(kinds.index("reached") - kinds.index("grew")):
        page.raw.keyboard.press("ArrowRight")
    assert page.raw.locator(f"{picture}.later").count() == 0 and page.evaluate(
        f"{ROOT}.querySelector('.who').seen"
    )
    page.raw.locator(f"{TAG} .rowpick button[data-row='1']").click()
    assert text(page, pairs).startswith(f"{may(1)} of ")
    page.raw.locator(f"{TAG} .who .more").click()
    assert of(page, "tab") == "attention" and page.problems == []


def test_rows_are_heard_as_sentences(trace, opened):
    page = opened(trace)
    heard = page.raw.locator(f"{TAG} .sheet th[scope=row]").evaluate_all("all => all.map(x => x.ariaLabel)")
    assert f"token: {VIRTUAL} × virtual token, 4 × padding, f, i, g, =, f, g, i, <eo…" in heard
    assert f"mask: {VIRTUAL} × attended, 4 × masked, 8 × attended" in heard
    tree = page.raw.locator(TAG).aria_snapshot()
    assert "button: " not in tree and 'button ""' not in tree  # each has a name
    assert "? Is it prompt learning" not in tree  # a sign that the sentence says


def test_the_lines_behind_a_moment_and_back(trace, opened):
    page = opened(trace)
    number, moment = next((i, m) for i, m in enumerate(trace.story(), 1) if m.kind == "grew")
    page.evaluate(f"i => document.querySelector('{TAG}').goScene(i)", number)
    page.keyboard.press("ArrowDown")
    here = page.raw.locator(f"{TAG} .code [aria-current]")
    assert int(here.get_attribute("data-line")) == trace.calls[moment.call].steps[moment.step].line
    page.raw.wait_for_url(re.compile("#step="))
    for back in ("ArrowUp", "Escape"):
        page.keyboard.press(back)
        assert text(page, ".say") == plain(moment.text)
        page.keyboard.press("ArrowDown")
    assert page.problems == []


def test_prefix_tuning_goes_into_the_cache(prefix, opened):
    page = opened(prefix)
    assert f"{VIRTUAL} virtual tokens ◆ into the cache" in text(page, ".say")
    lines = grid(page)["reached"]
    assert [t for t, *_ in lines["label"]][:VIRTUAL] == [""] * VIRTUAL  # nothing is computed for them
    assert "in the cache" in text(page, ".sheet .axis")


def test_the_other_row(trace, opened):
    page = opened(trace)
    assert "4 of padding" in text(page, ".rowpick")
    page.keyboard.press("r")
    assert "no padding" in text(page, ".rowpick") and of(page, "row") == 1
    want = layout.sequence(trace, trace.base_calls[0]).rows[1]
    assert [t for t, *_ in grid(page)["reached"]["mask"]] == [str(a) for a in want.attended]


# ---------------------------------------------------------------- the lines
def test_step_over_and_step_out(trace, opened):
    page = opened(trace)
    view(page, "lines")
    order = page.evaluate(f"document.querySelector('{TAG}').rec.moments.map(m => [m.call.id, m.phase])")
    into = next(k for k, (_, phase) in enumerate(order) if phase == "into")
    page.evaluate(f"k => document.querySelector('{TAG}').go(k)", into)
    page.keyboard.press("o")
    assert order[of(page, "step")] == [order[into][0], "line"]  # the same line, when it is done
    page.keyboard.press("O")
    assert of(page, "step") == into
    page.keyboard.press("ArrowRight")
    inside = order[of(page, "step")][0]
    assert inside != order[into][0]
    page.keyboard.press("u")
    assert order[of(page, "step")][0] == trace.calls[inside].parent
    page.keyboard.press("Home")
    page.keyboard.press("h")
    seen = set()
    while (k := of(page, "step")) not in seen:
        seen.add(k)
        page.keyboard.press("ArrowRight")
    names = {trace.calls[order[k][0]].function.split(".")[-1] for k in seen}
    assert names <= {"forward", "generate", "prepare_inputs_for_generation"}


# ---------------------------------------------------------------- overview, decoding, attention
def test_overview_lists_the_base_calls_and_leads_there(trace, opened):
    page = opened(trace)
    view(page, "overview")
    rows = page.raw.locator(f"{TAG} [data-base]")
    assert rows.count() == len(trace.base_calls)
    caches = {c.call: c for c in layout.cache(trace)}
    for i, call in enumerate(trace.base_calls):
        told, c = rows.nth(i).inner_text(), caches[call.id]
        assert f"{c.before} → {c.after}" in told
        taken = layout.taken(trace, call)
        assert all(pair[1] in told for pair in taken or [])
    rows.nth(2).click()
    first = page.evaluate(f"i => document.querySelector('{TAG}').rec.bases[i].first", 2)
    assert of(page, "tab") == "lines" and of(page, "step") == first


def test_each_decision_says_where_the_other_way_leads(trace, opened):
    page = opened(trace)
    view(page, "overview")
    call = trace.roots[0]
    source = trace.sources[call.source]
    tree = text(page, ".decisions")
    for branch in layout.branches(trace, call).branches:
        if branch["outcomes"]:
            assert f"{branch['line']} " in tree
    first = next(
        b for b in source.branches if any(s.line == b["line"] and s.branch is False for s in call.steps)
    )
    assert f"True would lead to lines {first['body'][0]}–{first['body'][1]}" in tree
    page.raw.locator(f"{TAG} button.cond").first.click()
    assert of(page, "tab") == "lines"


def test_search_finds_functions_variables_and_lines(trace, opened):
    page = opened(trace)
    page.keyboard.press("/")
    page.keyboard.type("get_prompt")
    assert "function" in text(page, ".found") and "line" in text(page, ".found")
    page.keyboard.press("Enter")
    assert of(page, "tab") == "lines"
    k = of(page, "step")
    name = page.evaluate(f"k => document.querySelector('{TAG}').rec.moments[k].call.function", k)
    assert name.endswith("get_prompt")


def test_search_finds_the_sentences_of_the_story(trace, opened):
    page = opened(trace)
    page.keyboard.press("/")
    page.keyboard.type("positions that the LAYERS")
    found = page.raw.locator(f"{TAG} .hit")
    assert found.count() >= 1 and found.first.inner_text().startswith("moment")
    sentence = found.first.inner_text().split("\n")[-1].strip()
    found.first.click()
    assert of(page, "tab") == "story" and text(page, ".say") == sentence


def test_a_call_that_ended_early_shows_what_was_passed(opened):
    "As peft is called with a mask of another batch: it raises before it calls the base model."
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(load_tiny()[0], peft.PromptTuningConfig(**LM))
    tokenizer = load_tiny()[1]
    batch = tokenizer(["fig=", "hello="], return_tensors="pt", padding=True, padding_side="left")
    with pytest.raises(RuntimeError), record(model, tokenizer=tokenizer) as crashed:
        model(batch["input_ids"], attention_mask=batch["attention_mask"][[1, 0, 1]])
    page = opened(crashed)
    cells = lambda line: page.raw.locator(f"{TAG} .passed tr:has(th:text-is('{line}')) td").all_inner_texts()
    for row in (0, 1):
        page.raw.locator(f"{TAG} [data-row='{row}']").click()
        assert [int(x) for x in cells("id")] == batch["input_ids"][row].tolist()
        assert [int(x) for x in cells("mask")] == batch["attention_mask"][[1, 0, 1]][row].tolist()
        assert len(cells("token")) == batch["input_ids"].shape[1]
    gap = """e => e.querySelector('.say').getBoundingClientRect().top
        - e.querySelector('.findings').getBoundingClientRect().bottom"""
    assert page.raw.locator(f"{TAG} .scene-inner").evaluate(gap) > 8
    page.keyboard.press("ArrowRight")
    assert page.raw.locator(f"{TAG} .passed").is_visible() and page.problems == []


def test_tokens_that_the_mask_hides_are_masked_and_no_padding(trace, opened):
    model, tokenizer = get_peft_model(load_tiny()[0], PromptTuningConfig(**LM)).eval(), load_tiny()[1]
    batch = collate(tokenizer, ["fig=", "hello="], ["fgi", "ehllo"], padding_side="left")
    batch["attention_mask"][1, :2] = 0  # the longer row: tokens
    with record(model, tokenizer=tokenizer) as hiding, torch.no_grad():
        model(**batch)
    rows = layout.sequence(hiding).rows
    assert [row.masked for row in rows] == [(), (4, 5)] and rows[1].roles[4:6] == ["padding"] * 2
    assert rows[1].looks[4:6] == ["masked"] * 2 and rows[0].looks == rows[0].roles
    page = opened(hiding)
    padded = rows[0].roles.count("padding")
    assert f"{padded} of padding" in text(page, ".rowpick")
    page.keyboard.press("r")
    assert "2 masked" in text(page, ".rowpick") and "padding" not in text(page, ".rowpick")
    assert "masked" in text(page, ".legend") and "padding" not in text(page, ".legend")
    told = [str(moment) for moment in hiding.story()]
    assert any("Each that is not masked sees" in x for x in told)
    assert not any("In row 1 padding is counted" in x for x in told)
    assert any("Each that is not padding sees" in str(moment) for moment in trace.story())


def test_decoding_a_step_at_a_time(trace, opened):
    page, caches = opened(trace), {c.call: c for c in layout.cache(trace)}
    view(page, "decoding")
    for call in trace.base_calls:
        c, taken = caches[call.id], layout.taken(trace, call)
        assert f"{c.before} → {c.after} tokens" in text(page, ".cache-line")
        likely = layout.next_tokens(trace, call)[0]
        shown = page.raw.locator(f"{TAG} .likely li")
        assert shown.count() == len(likely) and likely[0][1] in shown.first.inner_text()
        if taken:
            assert taken[0][1] in text(page, ".likely .taken") and "taken" in text(page, ".likely .taken")
        page.keyboard.press("ArrowRight")
    assert of(page, "step") == of(page, "rec.bases.at(-1).last") and page.problems == []


def test_attention_weights_heads_and_shares(new_page, tmp_path):
    trace = recorded(PromptTuningConfig(**LM), new_tokens=0, attention="full")
    call, page = trace.base_calls[0], new_page()
    page.raw.goto(trace.save(tmp_path / "trace.html").as_uri() + "#step=1&view=attention")
    shares = layout.share(trace, call)
    shown = page.evaluate(f"""() => [...{ROOT}.querySelectorAll('.shares tbody tr')].map(r =>
        [...r.querySelectorAll('button')].map(b => +b.textContent))""")
    assert shown == [[pytest.approx(100 * x, abs=0.51) for x in rows[0]] for rows in shares.values()]
    page.raw.locator(f"{TAG} [data-head='2.1']").click()
    weights = torch.tensor(layout.weights(trace, call, layer=2))[0][1]
    queries, keys = weights.shape
    box = page.raw.locator(f"{TAG} .attention canvas").bounding_box()
    for q, k in ((queries - 1, 0), (queries - 1, keys - 1), (queries - 1, VIRTUAL + 4)):
        page.mouse.move(
            box["x"] + box["width"] * (k + 0.5) / keys, box["y"] + box["height"] * (q + 0.5) / queries
        )
        assert text(page, ".hover").endswith(f"· {weights[q, k]:.3f}")
    assert page.problems == []


def test_two_recordings_side_by_side(trace, new_page, tmp_path):
    from peft_viz import compare

    torch.manual_seed(0)
    model = get_peft_model(load_tiny()[0], PromptTuningConfig(**LM), corrected_positions=True).eval()
    tokenizer = load_tiny()[1]
    with record(model, tokenizer=tokenizer) as other, torch.no_grad():
        model(**collate(tokenizer, ["fig=", "hello="], ["fgi", "ehllo"], padding_side="left"))
    page, file = new_page(), tmp_path / "two.html"
    file.write_text(viewer.page(trace, other=other), encoding="utf-8")
    page.show(file)
    assert of(page, "tab") == "compare"
    first = next(d for d in compare(trace, other).differences if d.place)
    assert of(page, "row") == first.place[0]
    rows = page.raw.locator(f"{TAG} .compared tbody tr:has(button)")
    assert rows.count() == len(compare(trace, other).differences) > 0
    sides = page.raw.locator(f"{TAG} .side .sheet")
    assert sides.count() == 2
    told = [[int(x) for x in layout.positions(t, t.base_calls[0])[0]] for t in (trace, other)]
    for i, positions in enumerate(told):
        last = sides.nth(i).locator("tr").last.locator("td")
        assert [int(x) for x in last.all_inner_texts()] == positions
        assert last.last.get_attribute("class").split()[-1] == "fresh"
    page.keyboard.press("ArrowRight")
    assert "no such call" in text(page, ".side:has(.note)") and page.problems == []


def test_two_recordings_on_a_phone(trace, prefix, new_page, tmp_path):
    "Differences as cards; the sheets take turns in one place, scrolled alike; a difference leads there."
    page, file = new_page(viewport=dict(width=390, height=844)), tmp_path / "two.html"
    file.write_text(viewer.page(trace, other=prefix), encoding="utf-8")
    page.show(file)
    cards = page.raw.locator(f"{TAG} .compared tbody tr").all_inner_texts()
    assert re.search(r"peft_type PROMPT_TUNING\s+peft_type PREFIX_TUNING", cards[0])
    sheets = page.raw.locator(f"{TAG} .side .sheet")
    assert [s.is_visible() for s in sheets.all()] == [True, False]
    page.raw.locator(f"{TAG} .link").last.click()
    top = page.evaluate(f"{ROOT}.querySelector('.sides').getBoundingClientRect().top")
    assert 0 <= top < 844 / 2
    box = f"{ROOT}.querySelectorAll('.side .scroll')"
    page.evaluate(f"{box}[0].scrollLeft = 40")
    page.raw.locator(f"{TAG} .switch button").last.click()
    assert [s.is_visible() for s in sheets.all()] == [False, True]
    assert page.evaluate(f"{box}[1].scrollLeft") == 40 and page.problems == []


def test_decoding_steps_on_a_phone(trace, opened):
    "They stand in a row above what one of them is; the one that is shown is in view."
    page = opened(trace, "#view=decoding", viewport={"width": 390, "height": 844})
    page.keyboard.press("End")
    steps = page.raw.locator(f"{TAG} .decode-step")
    boxes = [step.bounding_box() for step in steps.all()]
    assert len({box["y"] for box in boxes}) == 1
    assert boxes[0]["y"] < page.raw.locator(f"{TAG} .movebar").bounding_box()["y"]
    here = page.raw.locator(f"{TAG} .decode-step[aria-current]").bounding_box()
    assert here == boxes[-1] and 0 <= here["x"] and here["x"] + here["width"] <= 390
    steps.first.scroll_into_view_if_needed()
    steps.first.click()
    assert of(page, "step") == of(page, "rec.bases[0].last") and page.problems == []


def test_the_command_leaves_both_on_a_page(trace, prefix, tmp_path, capsys):
    from peft_viz.cli import main

    files = [str(t.save(tmp_path / f"{n}.json")) for n, t in (("a", trace), ("b", prefix))]
    page = tmp_path / "both.html"
    assert (
        main(["compare", *files, "-o", str(page)]) == 1 and "open it in a browser" in capsys.readouterr().out
    )
    assert page.read_text(encoding="utf-8") == viewer.page(trace, other=prefix)
    assert main(["compare", *files, "-o", str(tmp_path / "both.json")]) == 2


def test_what_looks_wrong_is_said_at_once(trace, opened):
    page, found = opened(trace), trace.diagnose()
    assert found and [plain(x) for x in page.raw.locator(f"{TAG} .finding").all_inner_texts()] == [
        f"{f.level}: {plain(f.text)} step {page.evaluate(_STEP_OF, [f.call, f.step]) + 1}" for f in found
    ]
    view(page, "overview")
    assert all(plain(f.advice) in text(page, ".findings") for f in found)
    page.raw.locator(f"{TAG} .finding button").first.click()
    assert of(page, "tab") == "lines"


_STEP_OF = f"""([id, step]) => {{ const c = document.querySelector('{TAG}').rec.calls[id];
    return (step == null ? null : c.at[step]) ?? c.first; }}"""


def test_the_layers_that_lora_adapts(new_page, tmp_path):
    config, page = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"]), new_page()
    trace = recorded(config, new_tokens=0, layers=2, attention="full")
    number = next(i for i, m in enumerate(trace.story(), 1) if m.kind == "inside")
    page.raw.goto(trace.save(tmp_path / "trace.html").as_uri() + f"#moment={number}")
    told = [plain(x) for x in page.raw.locator(f"{TAG} .list tbody tr").all_inner_texts()]
    layers = layout.lora(trace, trace.base_calls[0])
    assert len(told) == len(layers) == 2
    for row, layer in zip(told, layers):
        assert row.startswith(layer.name) and f"{list(layer.a)} {list(layer.b)} 2 0 no" in row
    page.raw.goto(trace.save(tmp_path / "zh.html").as_uri() + "#lang=zh")
    assert text(page, ".say").startswith("LoRA 不改变你的批次") and page.problems == []
    view(page, "attention")  # no virtual token: no share of nothing
    assert {cell.inner_text() for cell in page.raw.locator(f"{TAG} .shares button").all()} == {"·"}
    assert "这里没有虚拟词元" in text(page, ".sharemap")


# ---------------------------------------------------------------- links, copies, sizes
def test_links_are_restored_with_language_and_theme(trace, opened):
    page = opened(trace, "#moment=3&lang=zh&theme=dark&row=1")
    assert text(page, ".say") == trace.story()[2].texts["zh"] and of(page, "row") == 1
    assert page.evaluate(f"{ROOT}.querySelector('.root').dataset.theme") == "dark"
    page.keyboard.press("ArrowRight")
    page.raw.wait_for_url(re.compile("#moment=4&"))
    assert all(part in page.url for part in ("#moment=4", "lang=zh", "theme=dark", "row=1"))
    page.raw.reload()
    page.wait_for_selector(f"{TAG} .root")
    assert text(page, ".say") == trace.story()[3].texts["zh"]
    for name in ("overview", "attention", "decoding"):
        view(page, name)
        page.keyboard.press("PageDown")
        page.raw.wait_for_url(re.compile(f"view={name}"))
    assert page.problems == []


def test_a_picture_of_the_grid(trace, opened):
    page = opened(trace)
    for kind in ("SVG", "PNG"):
        page.raw.locator(f"{TAG} .menu summary").click()
        with page.expect_download() as download:
            page.raw.locator(f"{TAG} .menu-items button", has_text=kind).click()
        data = pathlib.Path(download.value.path()).read_bytes()
        if kind == "SVG":
            drawn = data.decode()
            assert drawn.startswith("<svg ") and drawn.count("◆") >= VIRTUAL and "−100" in drawn
        else:
            assert data[:4] == b"\x89PNG" and len(data) > 5000
    assert page.problems == []


def test_presenting_is_large_and_one_pane(trace, opened):
    page = opened(trace)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("p")
    sizes = page.evaluate(f"""() => [...{ROOT}.querySelectorAll('.say, .sheet td:not(.gap), .sheet th, .snippet code')]
        .map(e => parseFloat(getComputedStyle(e).fontSize))""")
    assert min(sizes) >= 22 and not page.raw.locator(f"{TAG} .contents").is_visible()
    page.keyboard.press("p")
    assert page.raw.locator(f"{TAG} .contents").is_visible()


@pytest.mark.parametrize("width", [390, 700, 800, 1400])
@pytest.mark.parametrize("name", ["story", "lines", "overview", "attention", "decoding"])
def test_every_view_fits_every_width(trace, opened, width, name):
    page = opened(trace, viewport={"width": width, "height": 844})
    view(page, name)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    small = page.evaluate(f"""() => [...{ROOT}.querySelectorAll('*')].filter(e => e.children.length === 0 && e.textContent.trim()
        && e.getClientRects().length && parseFloat(getComputedStyle(e).fontSize) < 12).map(e => e.outerHTML.slice(0, 80))""")
    assert small == []
    fades = "e => [e.scrollWidth - e.clientWidth - e.scrollLeft > 1, getComputedStyle(e).maskImage.includes('to left')]"
    wide = page.raw.locator(f"{TAG} :is(.scroll, .attention, .code)")
    for shown in wide.all():  # what goes on at the right fades, until one has scrolled there
        goes_on, fading = shown.evaluate(fades)
        assert goes_on == fading
    if wide.count():
        wide.first.evaluate("e => e.scrollTo(1e6, 0)")
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert wide.first.evaluate(fades) == [False, False]
        left = """e => { const th = e.querySelector('.strip th:not(.part)');
            return !th || [e.scrollLeft > 1, getComputedStyle(th, '::after').content !== 'none']; }"""
        assert wide.first.evaluate(left) in (True, [False, False], [True, True])
    if width == 390:  # one scroll; the code alone keeps its own
        scrolls = page.evaluate(f"""() => [...{ROOT}.querySelectorAll('.body:not(.code)')].filter(e =>
            e.scrollHeight > e.clientHeight + 4 && /auto|scroll/.test(getComputedStyle(e).overflowY)).map(e => e.className)""")
        assert scrolls == []


@pytest.mark.parametrize("sandbox", ["allow-scripts", "allow-scripts allow-same-origin"])
def test_a_low_frame_is_filled_or_made_higher(trace, page, sandbox):
    "As marimo and other hosts put it: 400 pixels high, whatever is in it."
    inside = f"<!doctype html><body style='margin:0'>{viewer.fragment(trace)}"
    page.show("<!doctype html><body>")
    page.evaluate(
        """([html, sandbox]) => { const f = document.createElement('iframe'); f.sandbox = sandbox; f.height = 400; f.width = 900;
        f.srcdoc = html; document.body.append(f); }""",
        [inside, sandbox],
    )
    frame = page.raw.frame_locator("iframe")
    frame.locator(f"{TAG} .say").wait_for()
    if "origin" in sandbox:
        page.wait_for_function("document.querySelector('iframe').getBoundingClientRect().height > 700")
    else:
        frame.locator(f"{TAG}[fitted]").wait_for()
    high = page.raw.locator("iframe").bounding_box()["height"]
    assert frame.locator(TAG).bounding_box()["height"] <= high
    assert high > 700 if "origin" in sandbox else high < 410
    assert frame.locator(f"{TAG} .keyline").is_visible() == ("origin" in sandbox)


def test_ten_viewers_on_one_page(trace, new_page):
    page = new_page()
    page.show(f"<!doctype html><body>{viewer.fragment(trace) * 10}")
    page.wait_for_function(f"[...document.querySelectorAll('{TAG}')].every(v => v.steps)")
    page.raw.locator(f"{TAG} .root").nth(7).focus()
    page.keyboard.press("ArrowRight")
    said = page.evaluate(f"[...document.querySelectorAll('{TAG}')].map(v => v.sceneIndex)")
    assert said == [0] * 7 + [1] + [0] * 2 and page.problems == []


def test_the_payload_is_the_trace_without_what_is_empty(trace):
    from peft_viz.recording.trace import Trace

    sent = json.loads(json.dumps(viewer.payload(trace)))["trace"]
    assert Trace.from_json(sent).to_json() == trace.to_json()
    assert len(json.dumps(sent, separators=(",", ":"), ensure_ascii=False)) < 0.9 * len(trace.to_json())
    assert not re.search(r'": ?\[\], ?"', json.dumps(sent["calls"]))


@pytest.mark.parametrize("name", ["story", "lines", "overview", "attention", "decoding", "compare"])
def test_every_control_is_reached_by_tab_and_shows_it(trace, prefix, page, tmp_path, name):
    "Tab goes through all that can be pressed, chosen or scrolled, each once, and what has the focus is outlined."
    file = tmp_path / "two.html"
    file.write_text(viewer.page(trace, other=prefix), encoding="utf-8")
    page.show(file)
    view(page, name)
    controls = f"""[...{ROOT}.querySelectorAll('button, select, input, summary, a[href], [tabindex="0"]')]
        .filter(e => e.checkVisibility() && e.getClientRects().length && !e.closest('dialog') && e.tabIndex >= 0)"""
    page.evaluate(f"""() => {{
        window.controls = {controls};
        window.told = [];
        {ROOT}.addEventListener('focusin', e => {{
            const style = getComputedStyle(e.target), ring = parseFloat(style.outlineWidth) >= 2;
            window.told.push([window.controls.indexOf(e.target), ring && style.outlineStyle !== 'none', e.target.outerHTML.slice(0, 120)]);
        }});
        {ROOT}.querySelector('.root').focus();
    }}""")
    count = page.evaluate("window.controls.length")
    for _ in range(count - 1):
        page.keyboard.press("Tab")
    told = page.evaluate("window.told")
    assert [html for _, ring, html in told[1:] if not ring] == []
    assert count > 10 and {0, *(number for number, *_ in told)} == {*range(count)} and page.problems == []


@pytest.mark.parametrize("lang, theme, width", [("en", "light", 1400), ("zh", "dark", 390)])
def test_axe_finds_nothing_in_any_view(trace, prefix, new_page, tmp_path, lang, theme, width):
    "Names, contrast, landmarks: each view of two recordings."
    axe = pytest.importorskip("axe_playwright_python", reason="axe is not installed")
    script = (pathlib.Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    file = tmp_path / "two.html"
    file.write_text(viewer.page(trace, other=prefix), encoding="utf-8")
    page = new_page(viewport=dict(width=width, height=900), bypass_csp=True)
    page.raw.goto(f"{file.as_uri()}#moment=5&theme={theme}&lang={lang}")
    page.wait_for_selector(f"{TAG} .root")
    page.evaluate(script)
    for name in ("story", "lines", "overview", "attention", "decoding", "compare"):
        view(page, name)
        found = page.evaluate("async () => (await axe.run()).violations.map(v => [v.id, v.nodes[0].html])")
        assert found == [], name
