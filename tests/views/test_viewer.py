"""The viewer in a real Chromium: what it shows is what the trace says, and nothing in a trace can take the page over."""
# lane: here

import base64, hashlib, json, pathlib, re, shutil, subprocess
import pytest, torch
from transformers import LlamaConfig, LlamaForCausalLM

from peft_viz import layout, viewer
from peft_viz.reference.causal_lm import get_peft_model
from peft_viz.reference.config import LoraConfig, PrefixTuningConfig, PromptTuningConfig
from peft_viz.recording.recorder import record
from peft_viz.recording.trace import Trace, WRITERS
from conftest import ROOT

VIRTUAL, TAG = 4, "peft-viz-trace"
GROWN = "kwargs['labels']"  # the name under which `forward` puts -100 in front of the labels
HOSTILE = "</script><img src=x onerror=alert(1)>"


class Letters:
    "A character is a token; the last one is not a character at all."

    text = ["<pad>", *"abcdefghijklmnopqrstuvwxyz ", HOSTILE]

    def __len__(self):
        return len(self.text)

    def decode(self, ids):
        return "".join(self.text[i] for i in ids)

    def batch(self, *rows):
        n = max(map(len, rows))
        ids = torch.tensor([[0] * (n - len(r)) + [self.text.index(c) for c in r] for r in rows])
        return {
            "input_ids": ids,
            "attention_mask": torch.tensor([[0] * (n - len(r)) + [1] * len(r) for r in rows]),
        }


TOKENIZER = Letters()


def make(config):
    torch.manual_seed(0)
    sizes = dict(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    base = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(TOKENIZER), pad_token_id=0, bos_token_id=None, eos_token_id=None, **sizes)
    ).eval()
    return get_peft_model(base, config)


def recorded(config, new_tokens=3, rows=("hello", "prompts"), change=None):
    "A forward with labels, then a generate."
    model, batch = make(config), TOKENIZER.batch(*rows)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    if change:
        change(batch)
    with record(model, TOKENIZER) as trace:
        model(**batch, labels=labels)
        if new_tokens:
            model.generate(**batch, max_new_tokens=new_tokens, do_sample=False)
    return trace


@pytest.fixture(scope="module")
def trace():
    return recorded(PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL))


@pytest.fixture(scope="module")
def prefix():
    return recorded(PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL))


@pytest.fixture(scope="module")
def raised():
    model, batch = (
        make(PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL)),
        TOKENIZER.batch("hello", "prompts"),
    )

    def fail(*_):
        raise RuntimeError("out of memory")

    model.word_embeddings.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError):
        with record(model, TOKENIZER) as trace:
            model(**batch, labels=batch["input_ids"])
    return trace


@pytest.fixture
def opened(page, tmp_path):
    "A function: save a trace, open the file from disk, return the page; it shows the lines."

    def open_file(trace, tab=page, view="lines"):
        tab.show(trace.save(tmp_path / "trace.html"))
        tab.wait_for_selector(f"{TAG} .root")
        open_view(tab, view)
        return tab

    return open_file


# ---------------------------------------------------------------- reading the page
def open_view(page, view="lines"):
    page.evaluate(f"view => document.querySelector('{TAG}').openTab(view)", view)


def text(page, selector):
    return page.raw.locator(f"{TAG} {selector}").first.inner_text()


def step(page):
    return page.evaluate(f"document.querySelector('{TAG}').step")


def go(page, k):
    page.evaluate(f"k => document.querySelector('{TAG}').go(k)", k)


def here(page):
    return page.evaluate(
        f"() => {{ const r = document.querySelector('{TAG}').shadowRoot.querySelector('[data-line][aria-current]'); return r ? +r.dataset.line : null; }}"
    )


def moments(trace):
    "The order of the viewer's steps, said once more in Python: (call id, line), line None where there is no source."
    out = []

    def walk(call):
        if not call.steps:
            return out.append((call.id, None))
        out.append((call.id, "def"))
        for s in call.steps:
            if s.calls:
                out.append((call.id, s.line))
                for i in s.calls:
                    walk(trace.calls[i])
            out.append((call.id, s.line))

    for root in trace.roots:
        walk(root)
    return out


def find(trace, function, name, how=None):
    "Number of the moment at which a call of `function` has just changed `name`."
    call = next(c for c in trace.calls if c.function.endswith(function))
    index, change = next(
        (i, ch)
        for i, s in enumerate(call.steps)
        for ch in s.changes
        if ch.name == name and how in (None, ch.how)
    )
    places = [
        k for k, (c, line) in enumerate(moments(trace)) if c == call.id and line == call.steps[index].line
    ]
    return places[-1], change


def cells(page, name, row=0):
    "Texts of one row of small cells under a variable: the last figure of it, so the state after the line."
    return page.evaluate(
        """([tag, name, row]) => {
        const vars = [...document.querySelector(tag).shadowRoot.querySelectorAll('.state .var')];
        const it = vars.find(v => v.querySelector('.name')?.textContent === name);
        const figures = it.querySelectorAll('.figure');
        return [...figures[figures.length - 1].querySelectorAll('.cells')[row].querySelectorAll('.cell')].map(c => c.textContent);
    }""",
        [TAG, name, row],
    )


# ---------------------------------------------------------------- the file
def test_the_file_is_the_viewer_and_its_payload_is_the_trace(trace, tmp_path):
    assert WRITERS[".html"] is viewer.page
    html = trace.save(tmp_path / "x.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.S)[1])
    assert Trace.from_json(data["trace"]).to_json() == trace.to_json()
    sequences, whole = {s["call"]: s for s in data["layout"]["sequences"]}, {}
    for call in trace.base_calls:  # a decoding step is sent as what it adds to the one before
        sent = sequences[call.id]
        before = whole.get(sent.get("from"), {"rows": [{}] * len(sent["rows"])})["rows"]
        rows = [
            {k: old[k][: v["keep"]] + v["add"] if isinstance(v, dict) else v for k, v in row.items()}
            for old, row in zip(before, sent["rows"])
        ]
        whole[call.id] = {k: v for k, v in sent.items() if k != "from"} | {"rows": rows}
        assert whole[call.id] == layout.sequence(trace, call).to_dict()
    assert any("from" in s for s in data["layout"]["sequences"])
    assert {name: m["light"] for name, m in data["marks"].items()} == {
        name: m.light for name, m in layout.MARKS.items()
    }


def test_the_file_may_not_reach_anywhere(trace):
    html = viewer.page(trace)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    digest = lambda text: "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
    assert rules == {
        "default-src": "'none'",
        "script-src": digest(re.search(r"<script>(.*?)</script>", html, re.S)[1]),
        "style-src": digest(re.search(r"<style>(.*?)</style>", html, re.S)[1]),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


@pytest.mark.browser
def test_a_script_that_slipped_in_does_not_run(trace, page, tmp_path):
    slipped = "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'></main>"
    file = tmp_path / "x.html"
    file.write_text(viewer.page(trace).replace("</main>", slipped), encoding="utf-8")
    page.show(file)
    assert page.evaluate(f"document.querySelector('{TAG}').steps") == len(moments(trace))
    assert page.evaluate("window.ran") is None and any("Content Security Policy" in p for p in page.problems)


def test_modules_are_joined():
    "Each once, after those that it imports; what the joiner does not know it refuses."
    names = list(viewer.modules())
    static = pathlib.Path(viewer._STATIC)
    alone = {"exercise"}  # a script of its own
    assert {*names} == {file.stem for file in static.glob("*.js")} - alone and names[-1] == "element"
    assert len(names) == len({*names})
    assert viewer.join(
        {"a": "// why\nexport const x = 1;\n", "b": 'import { x } from "./a.js";\n\n  f(x);\n'}
    ) == ('(() => {\n"use strict";\nconst x = 1;\nf(x);\n})();\n')
    with pytest.raises(ValueError, match="a.js and b.js both declare x"):
        viewer.join({"a": "const x = 1;\n", "b": "export function x() {}\n"})
    for line in (
        'import x from "./a.js";',
        "export default 3;",
        'import { x as y } from "a";',
        "export { x };",
    ):
        with pytest.raises(ValueError, match="a.js: write"):
            viewer.join({"a": line + "\n"})
    for file in static.glob("*.js"):
        text = file.read_text(encoding="utf-8")
        assert max(map(len, text.splitlines())) <= 100, file.name
        for kept in re.sub(r"/\S*`\S*/", "", viewer.bare(text)).splitlines():  # (not in regular expressions)
            assert kept.count("`") % 2 == 0, f"{file.name}: a string over several lines: {kept}"


def test_nothing_is_written_below_twelve_pixels():
    css = (viewer._STATIC / "viewer.css").read_text(encoding="utf-8")
    sizes = re.findall(r"font(?:-size)?:[^;]*?([\d.]+)px", css)
    assert len(sizes) > 20 and min(map(float, sizes)) >= 12


def test_what_needs_no_browser():
    "`node --test`: texts, numbers, masks, moments."
    if not (node := shutil.which("node")):
        pytest.skip("Node.js is not installed: the modules are tried in Chromium alone")
    done = subprocess.run([node, "--test", "tests/js"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"^# pass (\d+)", done.stdout, re.M)[1]) >= 12


def test_size(tmp_path):
    "A forward and sixteen tokens of generate: at most 400 kB; the component itself below 236 kB."
    trace = recorded(
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=8),
        new_tokens=16,
        rows=("the quick brown fox jumps", "hello", "over the lazy dog"),
    )
    assert len([c for c in trace.base_calls]) == 17
    assert trace.save(tmp_path / "x.html").stat().st_size <= 400_000
    assert len(viewer.code().encode()) <= 236_000


@pytest.mark.parametrize("bad", ["</script>", "<!--", "</SCRIPT x", "\u2028", "\ud7ff"])
def test_no_text_ends_the_data(bad):
    html = viewer.data_script({"a": bad})
    assert html.count("<") == 2 and json.loads(html[html.index(">") + 1 : html.rindex("<")]) == {"a": bad}


def test_a_notebook_gets_it_as_the_value_of_a_cell(trace):
    html = trace._repr_html_()
    assert (
        html == viewer.fragment(trace)
        and html.startswith(f"<{TAG} ")
        and "http" not in re.sub(r'"http://www.w3.org/2000/svg"', "", viewer.code())
    )


# ---------------------------------------------------------------- stepping
@pytest.mark.browser
def test_from_disk_without_network(trace, new_page, opened):
    page = opened(trace, new_page(offline=True))
    for key in ("ArrowRight", "ArrowDown", "PageDown", "End", "ArrowLeft", "ArrowUp", "PageUp", "Home"):
        page.keyboard.press(key)
    assert page.problems == []
    assert len(page.requests) == 1 and page.requests[0].startswith("file:")


@pytest.mark.browser
def test_every_step_in_the_order_of_execution(trace, opened):
    page, expected = opened(trace), moments(trace)
    assert page.evaluate(f"document.querySelector('{TAG}').steps") == len(expected)
    shown = page.evaluate(f"""() => {{
        const el = document.querySelector('{TAG}'), out = [];
        el.addEventListener('peft-viz-step', e => out.push([e.detail.step, e.detail.call, e.detail.line, +(el.shadowRoot.querySelector('[data-line][aria-current]')?.dataset.line ?? -1)]));
        for (let k = 1; k < el.steps; k++) el.step = k;
        return out;
    }}""")
    for (_, call, line, highlighted), (want_call, want_line) in zip(shown, expected[1:]):
        assert call == want_call
        if want_line == "def":
            assert line is None and highlighted >= trace.sources[trace.calls[call].source].first_line
        elif want_line is None:
            assert line is None and highlighted == -1
        else:
            assert line == highlighted == want_line
    assert [k for k, *_ in shown] == list(range(1, len(expected)))


@pytest.mark.browser
def test_keys_move_the_line_and_the_tensors(trace, opened):
    page = opened(trace)
    k, change = find(trace, ".forward", GROWN, "rebound")
    for _ in range(k - 1):
        page.keyboard.press("ArrowRight")
    before, line = cells(page, "labels"), here(page)  # inside `labels`, which makes them
    page.keyboard.press("ArrowRight")
    assert step(page) == k and here(page) != line
    old, new = trace.value(change.before), trace.value(change.value)
    assert before == ["−100", "−100", *"hello"] and new.nested()[0] == [-100] * VIRTUAL + old.nested()[0]
    assert cells(page, GROWN) == ["−100"] * VIRTUAL + before
    head = text(page, ".changed .names")
    assert f"{old.dtype}[2, 7]" in head and f"[2, {7 + VIRTUAL}]" in head and "rebound" in head
    # what was put in front stands in front: the old row begins above the new one's fifth cell, and the first four are marked as new
    fresh, shift = page.evaluate(f"""() => {{
        const [was, now] = document.querySelector('{TAG}').shadowRoot.querySelectorAll('.changed .compare .figure');
        const x = (f, i) => f.querySelectorAll('.cells')[0].querySelectorAll('.cell')[i].getBoundingClientRect().left;
        return [[...now.querySelectorAll('.cells')[0].querySelectorAll('.cell')].map(c => c.classList.contains('fresh')), x(was, 0) - x(now, {VIRTUAL})];
    }}""")
    assert fresh == [True] * VIRTUAL + [False] * 7 and abs(shift) < 0.01
    page.keyboard.press("ArrowLeft")
    assert step(page) == k - 1 and cells(page, "labels") == before and here(page) == line


@pytest.mark.browser
def test_labels_get_their_prefix_of_minus_100(trace, opened):
    page = opened(trace)
    call = trace.base_calls[0]
    go(page, next(k for k, (c, _) in enumerate(moments(trace)) if c == call.id))
    want = layout.sequence(trace, call).rows[1].labels
    assert want[:VIRTUAL] == [-100] * VIRTUAL
    assert cells(page, "labels", row=1) == ["−100" if n == -100 else TOKENIZER.text[n] for n in want]


@pytest.mark.browser
def test_calls_and_base_calls_by_key(trace, opened):
    page, order = opened(trace), moments(trace)
    first = {}
    for k, (c, _) in enumerate(order):
        first.setdefault(c, k)
    seen = [step(page)]
    for _ in trace.calls[1:]:
        page.keyboard.press("ArrowDown")
        seen.append(step(page))
    assert seen == [first[c.id] for c in trace.calls]
    page.keyboard.press("Home")
    seen = []
    for _ in trace.base_calls:
        page.keyboard.press("PageDown")
        seen.append(step(page))
    assert seen == [first[c.id] for c in trace.base_calls]
    page.keyboard.press("End")
    assert step(page) == len(order) - 1
    page.keyboard.press("ArrowRight")
    assert step(page) == len(order) - 1  # and no further


@pytest.mark.browser
def test_branches_as_they_came_out(trace, opened):
    "At the end of a call every decided condition wears its outcome, and exactly the lines that the layout calls skipped are dimmed."
    page = opened(trace)
    call = trace.roots[0]
    go(page, max(k for k, (c, _) in enumerate(moments(trace)) if c == call.id))
    shown = page.evaluate(
        f"""() => [...document.querySelector('{TAG}').shadowRoot.querySelectorAll('.lines:not(.away) [data-line]')].map(r => [+r.dataset.line, r.querySelector('.badge').textContent, r.classList.contains('off')])"""
    )
    decided = {b["line"]: b["outcomes"][-1] for b in layout.branches(trace, call).branches if b["outcomes"]}
    assert {l: badge for l, badge, _ in shown if badge} == {
        l: "✓ True" if yes else "✗ False" for l, yes in decided.items()
    }
    skipped = {l for first, last in layout.branches(trace, call).skipped for l in range(first, last + 1)}
    dimmed = {l for l, _, off in shown if off}
    assert skipped and skipped <= dimmed
    source = trace.sources[call.source].text.splitlines()
    extra = [source[l - trace.sources[call.source].first_line].strip() for l in dimmed - skipped]
    assert all(
        l in ("", "else:") or l.startswith("#") for l in extra
    )  # an else that was not taken goes with its body
    assert not dimmed & {s.line for s in call.steps}


@pytest.mark.browser
def test_click_on_a_line_goes_to_the_step_that_ran_it(trace, opened):
    page = opened(trace)
    k, _ = find(trace, ".forward", GROWN, "rebound")
    line = moments(trace)[k][1]
    page.raw.locator(f"{TAG} .lines:not(.away) [data-line='{line}']").click()
    assert step(page) == k and here(page) == line


@pytest.mark.browser
def test_scrubber(trace, opened):
    page = opened(trace)
    box = page.raw.locator(f"{TAG} .timeline").bounding_box()
    page.mouse.move(box["x"] + 1, box["y"] + 5)
    page.mouse.down()
    assert step(page) == 0
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 5)
    middle = step(page)
    page.mouse.move(box["x"] + box["width"] - 1, box["y"] + 5)
    page.mouse.up()
    assert 0 < middle < step(page) == len(moments(trace)) - 1
    slider = page.raw.locator(f"{TAG} .timeline")
    assert (
        slider.get_attribute("aria-valuenow")
        == slider.get_attribute("aria-valuemax")
        == str(len(moments(trace)))
    )


@pytest.mark.browser
def test_second_control_picks_the_decoding_step(trace, opened):
    page = opened(trace)
    page.raw.locator(f"{TAG} .bases input").fill("2")
    assert moments(trace)[step(page)] == (trace.base_calls[2].id, None)
    assert text(page, ".base-model .stage") == "decoding step 1" and "decoding step 1" in text(
        page, ".bases .count"
    )
    page.raw.locator(f"{TAG} .bases button").first.click()
    assert text(page, ".base-model .stage") == "prefill"


@pytest.mark.browser
def test_play_and_pause(trace, opened):
    page = opened(trace)
    page.keyboard.press(" ")
    assert (
        page.evaluate(
            "new Promise(done => document.addEventListener('peft-viz-step', e => e.detail.step === 2 && done(e.detail.step)))"
        )
        == 2
    )
    page.keyboard.press(" ")
    stopped = step(page)
    page.wait_for_timeout(1600)  # two steps' worth
    assert step(page) == stopped


# ---------------------------------------------------------------- what reached the base model
@pytest.mark.browser
@pytest.mark.parametrize("which", ["trace", "prefix"])
def test_sequence_attention_and_cache_are_the_layouts(which, request, opened):
    trace = request.getfixturevalue(which)
    page, caches = opened(trace), {c.call: c for c in layout.cache(trace)}
    letter = {TOKENIZER.text[0]: layout.MARKS["padding"].glyph, " ": "␣"}
    for call in trace.base_calls:
        go(page, next(k for k, (c, _) in enumerate(moments(trace)) if c == call.id))
        rows = page.evaluate(f"""() => [...document.querySelector('{TAG}').shadowRoot.querySelectorAll('.strip tbody')].map(b =>
            Object.fromEntries([...b.rows].map((r, i) => [i ? r.cells[0].textContent : 'token', [...r.cells].slice(1).map(c => [c.textContent, c.className])])))""")
        sequence = layout.sequence(trace, call)
        for got, want in zip(rows, sequence.rows, strict=True):
            assert [re.search(r"m-(\w+)", c)[1] for _, c in got["token"]] == want.roles
            assert [t for t, _ in got["token"]] == [
                layout.MARKS[r].glyph if t is None else letter.get(t, t)
                for r, t in zip(want.roles, want.texts)
            ]
            assert [t for t, _ in got["mask"]] == ["" if a is None else str(a) for a in want.attended]
            if want.labels and any(l is not None for l in want.labels):
                assert [t for t, _ in got["label"]] == [
                    "" if l is None else "−100" if l == -100 else letter.get(trace.decode(l), trace.decode(l))
                    for l in want.labels
                ]
        grid = layout.attention(trace, call)
        q, k = len(grid.attended[0]), len(grid.attended[0][0])
        for row in range(len(grid.attended)):
            page.raw.locator(f"{TAG} .attention select").select_option(index=row)
            assert (
                text(page, ".hover")
                == f"{sum(map(sum, grid.attended[row]))} of {q * k} query–key pairs may attend ({q} × {k})"
            )
        c = caches[call.id]
        if c.after:
            assert f"{c.before} → {c.after} tokens · {c.virtual} virtual" in text(page, ".cache-line")


@pytest.mark.browser
def test_many_rows_and_many_tokens(opened):
    "A long batch: three rows until asked for more, and a grid of 300 x 300 that still fits."
    trace = recorded(
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL),
        new_tokens=0,
        rows=["abc " * 74] * 5,
    )
    page, rows = opened(trace), lambda: page.raw.locator(f"{TAG} .strip tbody").count()
    assert rows() == 3
    page.raw.locator(f"{TAG} .left button", has_text="2 more rows").click()
    assert rows() == 5
    box = page.raw.locator(f"{TAG} .attention svg").bounding_box()
    assert (
        150 < box["width"] < 250
        and 150 < box["height"] < 250
        and text(page, ".hover").startswith("45,150 of 90,000")
        and page.problems == []
    )


@pytest.mark.browser
def test_hover_says_who_may_attend_to_whom(trace, opened):
    page, call = opened(trace), trace.base_calls[0]
    grid, keys = layout.attention(trace, call), layout.sequence(trace, call).rows[0]
    name = lambda i: (
        f"◆{i + 1}"
        if keys.roles[i] == "virtual"
        else f"□ at {i}"
        if keys.texts[i] == "<pad>"
        else f"'{keys.texts[i]}' at {i}"
    )
    go(page, next(k for k, (c, _) in enumerate(moments(trace)) if c == call.id))
    box = page.evaluate(
        f"() => {{ const b = document.querySelector('{TAG}').shadowRoot.querySelector('.attention canvas').getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; }}"
    )
    n = len(keys.roles)
    for q, k in [(0, 0), (0, n - 1), (n - 1, 0), (n - 1, n - 1), (n - 1, VIRTUAL), (2, 3)]:
        page.mouse.move(box[0] + box[2] * (k + 0.5) / n, box[1] + box[3] * (q + 0.5) / n)
        may = "may" if grid.attended[0][q][k] else "may not"
        assert text(page, ".hover") == f"query {name(q)} {may} attend to key {name(k)}"


@pytest.mark.browser
def test_the_base_model_is_shown_before_its_call_as_yet_to_come(trace, opened):
    page = opened(trace)
    first = next(k for k, (c, _) in enumerate(moments(trace)) if c == trace.base_calls[0].id)
    assert text(page, ".when") == f"not called yet: comes at step {first + 1}"
    page.raw.locator(f"{TAG} .when").click()
    assert step(page) == first and text(page, ".when") == "this step"
    page.keyboard.press("ArrowRight")
    assert text(page, ".when") == f"called at step {first + 1}"


# ---------------------------------------------------------------- every picture says what was measured so far
def moment_of(trace, call):
    "Number of the moment at which a base call is shown."
    return next(k for k, (c, _) in enumerate(moments(trace)) if c == call.id)


@pytest.mark.browser
def test_what_has_not_come_back_is_not_shown(trace, opened):
    page, call = opened(trace), trace.base_calls[0]
    k = moment_of(trace, call)
    loss = f"{trace.value(call.outputs['loss']).data[0]:.4g}"
    for at in (0, k - 1):
        go(page, at)
        pane = text(page, ".base-model")
        assert (
            f"not yet: comes at step {k + 1}" in text(page, ".io")
            and loss not in pane
            and "logits" not in pane
        )
        assert "Will reach the base model" in pane and "0 tokens → not yet" in pane
        assert page.raw.locator(f"{TAG} .base-model.later").count() == 1
    go(page, k)
    assert loss in text(page, ".io") and "not yet" not in text(page, ".base-model")
    assert page.raw.locator(f"{TAG} .base-model .later").count() == 0


@pytest.mark.browser
def test_outputs_wait_until_the_call_has_ended(opened):
    "With the lines of adapted layers, a call of the base model lasts: its outputs come at its end."
    model = make(LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]))
    batch = TOKENIZER.batch("hello", "prompts")
    with record(model, TOKENIZER, layers=1) as trace:
        model(**batch, labels=batch["input_ids"])
    page, call = opened(trace), trace.base_calls[0]
    order = page.evaluate(f"document.querySelector('{TAG}').rec.moments.map(m => m.call.id)")
    mine = [k for k, c in enumerate(order) if c == call.id]
    first, last = mine[0], mine[-1]
    assert last > first
    for k in range(first, last):
        go(page, k)
        assert f"not yet: comes at step {last + 1}" in text(page, ".io")
        assert text(page, ".when") == f"running: ends at step {last + 1}"
    go(page, first)
    assert f"not yet: comes at step {last + 1}" in text(page, ".panes")
    go(page, last)
    assert "logits" in text(page, ".io") and "logits" in text(page, ".panes")


@pytest.mark.browser
def test_embeddings_show_the_tokens_they_stand_for(trace, opened):
    page = opened(trace)
    go(page, moment_of(trace, trace.base_calls[0]))
    glyph = {name: mark.glyph for name, mark in layout.MARKS.items()}
    virtual = [glyph["virtual"]] * VIRTUAL
    assert cells(page, "inputs_embeds") == [*virtual, *[glyph["padding"]] * 2, *"hello"]
    assert cells(page, "inputs_embeds", row=1) == [*virtual, *"prompts"]


@pytest.mark.browser
def test_what_generate_returns_is_drawn_as_what_it_is(trace, opened):
    page = opened(trace)
    go(page, len(moments(trace)) - 1)
    call = trace.roots[-1]
    ids = trace.value(call.returned).nested()
    shown = page.evaluate(f"""() => [...document.querySelector('{TAG}').shadowRoot.querySelectorAll('.changed .cells')]
        .map(r => [...r.children].map(c => [c.className.match(/m-(\\w+)/)[1], c.textContent]))""")
    roles = [["padding"] * 2 + ["token"] * 5 + ["generated"] * 3, ["token"] * 7 + ["generated"] * 3]
    assert [[role for role, _ in row] for row in shown] == roles
    assert [t for _, t in shown[1]][:7] == [TOKENIZER.text[i] for i in ids[1][:7]]


@pytest.mark.browser
def test_padding_is_padding_where_the_base_model_was_not_reached(raised, opened):
    page = opened(raised)
    for k in (0, len(moments(raised)) - 1):
        go(page, k)
        shown = page.evaluate(f"""() => {{
            const vars = [...document.querySelector('{TAG}').shadowRoot.querySelectorAll('.state .var')];
            const it = vars.find(v => v.querySelector('.name')?.textContent === 'input_ids');
            return [...it.querySelector('.cells').children].map(c => c.className);
        }}""")
        assert ["m-padding" in c for c in shown] == [True, True, False, False, False, False, False]


@pytest.mark.browser
def test_a_mask_that_was_not_kept_says_the_same_everywhere(trace, page):
    html = viewer.fragment(trace)
    document = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.S)[1])
    for call in document["trace"]["calls"]:
        for measured in call.get("attention", []):
            document["trace"]["values"][measured["value"]] |= {"data": None, "truncated": True}
    page.show(f"<!doctype html><body>{viewer.fragment(trace)}")
    page.evaluate(f"p => {{ document.querySelector('{TAG}').payload = p; }}", document)
    open_view(page)
    assert "The attention mask [2, 1, 11, 11] was too large to be kept." in text(page, ".attention")
    assert "no mask" not in text(page, ".root") and page.problems == []


@pytest.mark.browser
def test_one_grid_of_columns(trace, opened):
    "The n-th cell of the mask stands under the n-th token, the n-th label under the mask; so in the variables."
    page = opened(trace)
    go(page, moment_of(trace, trace.base_calls[0]))
    left = page.evaluate(f"""() => {{
        const root = document.querySelector('{TAG}').shadowRoot;
        const x = cells => [...cells].map(c => c.getBoundingClientRect().left);
        const rows = [...root.querySelectorAll('.strip tbody tr')].map(r => x([...r.cells].slice(1)));
        return [rows, [...root.querySelectorAll('.source .cells')].map(r => x(r.children))];
    }}""")
    for rows in left:
        assert len(rows) >= 6 and all(len(r) == 11 for r in rows)
        for row in rows:
            assert row == pytest.approx(rows[0], abs=0.6)
    steps = {round(b - a) for rows in left for row in rows for a, b in zip(row, row[1:])}
    assert len(steps) == 1


@pytest.mark.browser
def test_next_change_and_next_decision(trace, opened):
    page, order, seen = opened(trace), moments(trace), set()
    expected = {"n": [], "d": []}
    done = dict.fromkeys(range(len(trace.calls)), 0)
    for k, (c, line) in enumerate(order):
        if not isinstance(line, int):
            continue
        step_ = trace.calls[c].steps[done[c]]
        if (
            step_.calls and (c, done[c]) not in seen
        ):  # a line that calls shows its outcome at its second moment
            seen.add((c, done[c]))
            continue
        done[c] += 1
        kinds = {trace.value(i).kind for ch in step_.changes for i in (ch.value, ch.before) if i is not None}
        if kinds & {"tensor", "cache"}:
            expected["n"].append(k)
        if step_.branch is not None:
            expected["d"].append(k)
    for key, want in expected.items():
        page.keyboard.press("Home")
        assert len(want) > 3
        for k in want[:12]:
            page.keyboard.press(key)
            assert step(page) == k
        page.keyboard.press(key.upper())
        assert step(page) == want[min(12, len(want)) - 2]


@pytest.mark.browser
def test_a_link_leads_to_a_step_and_is_kept_on_reload(trace, opened, page):
    opened(trace)
    page.keyboard.press("Home")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.raw.wait_for_url(re.compile("#step=5$"))
    assert text(page, ".count").startswith("step 5 of")
    page.reload()
    page.wait_for_selector(f"{TAG} .root")
    assert step(page) == 4
    page.evaluate("location.hash = '#step=9'")
    page.wait_for_function(f"document.querySelector('{TAG}').step === 8")
    page.evaluate("location.hash = '#step=99999'")
    page.wait_for_function(f"document.querySelector('{TAG}').step === {len(moments(trace)) - 1}")
    page.show(f"<!doctype html><body>{viewer.fragment(trace)}")  # in a notebook the address is not ours
    go(page, 3)
    assert "#step=4" not in page.url and page.problems == []


@pytest.mark.browser
def test_the_keys_are_on_the_screen(trace, opened):
    page = opened(trace)
    line = text(page, ".keyline")
    assert "next / previous change of a tensor" in line and "back to the story" in line
    page.keyboard.press("?")
    keys = page.evaluate(
        f"[...document.querySelector('{TAG}').shadowRoot.querySelectorAll('.keys kbd')].map(k => k.textContent)"
    )
    assert {"→", "n", "d", "PageDown", "?"} <= set(keys)


# ---------------------------------------------------------------- runs that failed, texts that are hostile
@pytest.mark.browser
def test_a_run_that_raised(raised, opened):
    page, call = (
        opened(raised),
        [c for c in raised.calls if c.raised][-1],
    )  # where it began; the calls around it raised it too
    error = call.raised
    page.raw.locator(f"{TAG} .alarm").click()
    assert moments(raised)[step(page)][0] == call.id
    assert text(page, ".message") == f"RuntimeError {error['message']}"
    assert here(page) == error["line"] and "bad" in page.evaluate(
        f"document.querySelector('{TAG}').shadowRoot.querySelector('[aria-current=step]').className"
    )
    above = page.evaluate(
        f"+document.querySelector('{TAG}').shadowRoot.querySelector('.message').previousElementSibling.dataset.line"
    )
    assert above == error["line"] and "not called here" in text(page, ".base-model") and page.problems == []


@pytest.mark.browser
def test_hostile_texts_stay_texts(opened, page):
    "A token, a variable, a function, a message, a colour: none of them becomes markup, style or script."

    def last_token(batch):
        batch["input_ids"][:, -1] = len(TOKENIZER) - 1

    page.raw.on("dialog", lambda d: page.problems.append("a dialog opened") or d.dismiss())
    document = recorded(
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL), new_tokens=1, change=last_token
    ).to_dict()
    document = json.loads(json.dumps(document))
    document["about"] |= {"model_class": HOSTILE, "peft_type": HOSTILE, "implementation": HOSTILE}
    document["calls"][0]["args"][HOSTILE] = 0
    document["calls"][0]["raised"] = {"type": HOSTILE, "message": HOSTILE, "line": None}
    document["calls"][-1]["function"] = HOSTILE
    document["sources"][0]["file"] = HOSTILE
    trace = Trace.from_json(document)
    opened(trace)
    for k in range(len(moments(trace))):
        go(page, k)
    go(page, 0)
    assert HOSTILE in text(page, ".h1, .h2") and HOSTILE in page.evaluate(
        f"document.querySelector('{TAG}').shadowRoot.textContent"
    )
    titles = page.evaluate(
        f"[...document.querySelector('{TAG}').shadowRoot.querySelectorAll('[title]')].map(e => e.title).filter(t => t.includes('onerror'))"
    )
    assert any(f"'{HOSTILE}'" in t for t in titles)  # the token, in full, where one points at it
    assert page.evaluate(
        f"[document, document.querySelector('{TAG}').shadowRoot].every(d => !d.querySelector('img'))"
    )
    assert page.evaluate("document.scripts.length") == 2 and page.problems == []


@pytest.mark.browser
def test_a_colour_is_a_colour(trace, page):
    html = viewer.fragment(trace)
    light = layout.MARKS["virtual"].light
    page.show(html.replace(f'"light":"{light}"', '"light":"red;background:url(http://127.0.0.1:9/x)"'))
    page.wait_for_selector(f"{TAG} .root")
    assert (
        page.evaluate(
            f"document.querySelector('{TAG}').shadowRoot.querySelector('.root').style.getPropertyValue('--virtual')"
        )
        == "gray"
    )
    assert page.external == [] and not any("127.0.0.1" in url for url in page.requests)


@pytest.mark.browser
@pytest.mark.parametrize("data", ["", "{", "null", "{}", '{"trace":{"calls":3}}'])
def test_broken_data_says_so_and_leaves_the_rest_readable(data, page):
    page.show(
        f'<{TAG}><script type="application/json">{data}</script><p id="inside">summary</p></{TAG}><script>{viewer.code()}</script>'
    )
    assert "could not be shown" in text(page, "[role=alert]")
    assert page.raw.locator("#inside").is_visible() and page.problems == []


@pytest.mark.browser
def test_what_could_not_be_made_is_said(trace, page, monkeypatch):
    "A recording from elsewhere, whose story raises: one warning, a word on the page, and the lines."
    monkeypatch.setattr(type(trace), "story", lambda self: [][0])
    with pytest.warns(UserWarning, match="less of this trace.*story.. raised IndexError") as told:
        html = viewer.fragment(trace)
    assert len(told) == 1 and "The story of this trace could not be made: IndexError" in html
    page.show(html)
    assert "no story, because making it raised IndexError" in text(page, ".untold")
    assert page.raw.locator(f"{TAG} .untold").count() == 1
    assert page.raw.locator(f"{TAG} .here").is_visible() and page.problems == []


@pytest.mark.browser
def test_nothing_recorded(page):
    model = make(PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL))
    with record(model) as trace:
        pass
    page.show(viewer.fragment(trace))
    assert "Nothing was recorded" in text(page, ".root")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.problems == []


@pytest.mark.browser
def test_where_no_script_runs(trace, new_page):
    page = new_page(java_script_enabled=False)
    page.show(f"<!doctype html><body>{viewer.fragment(trace)}")
    table = page.raw.locator(f"{TAG} table")
    assert table.is_visible() and table.locator("tr").count() == 1 + len(trace.base_calls)
    assert "decoding step 2" in table.inner_text() and "float32[2, 11, 32]" in table.inner_text()


# ---------------------------------------------------------------- the page around it
@pytest.mark.browser
def test_two_viewers_on_one_page(trace, prefix, page):
    page.show(f"<!doctype html><body>{viewer.fragment(trace)}{viewer.fragment(prefix)}")
    page.wait_for_function(f"[...document.querySelectorAll('{TAG}')].every(v => v.steps)")
    page.raw.locator(f"{TAG} .root").nth(1).focus()
    page.keyboard.press("2")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.evaluate(f"[...document.querySelectorAll('{TAG}')].map(v => v.step)") == [0, 3]
    assert page.evaluate(f"[...document.querySelectorAll('{TAG}')].map(v => v.steps)") == [
        len(moments(trace)),
        len(moments(prefix)),
    ]
    assert page.problems == []


@pytest.mark.browser
def test_output_put_in_like_a_notebook_does(trace, page):
    "Notebook front ends set innerHTML, then run the scripts they find by replacing them."
    page.show("<!doctype html><body><div id=cell></div>")
    for _ in range(2):  # the second time, the element is defined already
        page.evaluate(
            """html => {
            const cell = document.querySelector('#cell');
            cell.innerHTML = html;
            for (const old of [...cell.querySelectorAll('script')]) {
                const script = document.createElement('script');
                for (const a of old.attributes) script.setAttribute(a.name, a.value);
                script.textContent = old.textContent;
                old.replaceWith(script);
            }
        }""",
            viewer.fragment(trace),
        )
        assert page.evaluate(f"document.querySelector('{TAG}').steps") == len(moments(trace))
    assert page.problems == []


@pytest.mark.browser
def test_keys_only_with_the_focus(trace, page, opened):
    page.show(f"<!doctype html><body><input id=other>{viewer.fragment(trace)}")
    page.wait_for_selector(f"{TAG} .root")
    open_view(page)
    page.keyboard.press("ArrowRight")  # nothing has the focus yet
    page.raw.locator("#other").click()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("End")
    assert step(page) == 0
    page.raw.locator(f"{TAG} .code").click(position={"x": 300, "y": 2})
    page.keyboard.press("ArrowRight")
    assert step(page) >= 1
    assert (
        page.evaluate(f"document.querySelector('{TAG}').getAttribute('data-lm-suppress-shortcuts')") == "true"
    )
    opened(trace)  # a file of its own has the focus from the start
    page.keyboard.press("ArrowRight")
    assert step(page) == 1


@pytest.mark.browser
def test_buttons_keep_the_keyboard(trace, opened):
    "Space on a button presses it; a control that was drawn anew gives the focus back to the viewer."
    page = opened(trace)
    page.raw.locator(f"{TAG} .tools button").nth(3).focus()
    page.keyboard.press(" ")
    page.keyboard.press("Enter")
    assert step(page) == 2
    k = next(i for i, (c, _) in enumerate(moments(trace)) if trace.calls[c].parent is not None)
    go(page, k)
    page.raw.locator(f"{TAG} .path button").first.focus()
    page.keyboard.press("Enter")
    assert step(page) == 0
    page.keyboard.press("ArrowRight")
    assert step(page) == 1


THEMES = [
    ("data-jp-theme-light='false'", "dark"),
    ("data-jp-theme-light='true'", "light"),
    ("data-bs-theme=dark", "dark"),
    ("data-bs-theme=light", "light"),
    ("data-theme=dark", "dark"),
    ("class=dark", "dark"),
    ("class=quarto-light", "light"),
    ("class=vscode-dark", "dark"),
    ("class='vscode-high-contrast'", "dark"),
    ("data-vscode-theme-kind=vscode-light", "light"),
    ("style='background:#181818'", "dark"),
    ("style='background:#fffdf5'", "light"),
]


@pytest.mark.browser
@pytest.mark.parametrize("attribute,theme", THEMES)
def test_theme_of_the_host(trace, new_page, attribute, theme):
    page = new_page(color_scheme="light" if theme == "dark" else "dark")  # the system says the opposite
    page.show(f"<!doctype html><body {attribute}>{viewer.fragment(trace)}")
    shown = page.evaluate(
        f"() => {{ const r = document.querySelector('{TAG}').shadowRoot.querySelector('.root'), s = getComputedStyle(r); return [r.dataset.theme, s.getPropertyValue('--virtual'), s.getPropertyValue('--on-virtual')]; }}"
    )
    mark = layout.MARKS["virtual"]
    assert shown == [theme, mark.fill(theme), mark.text(theme)]


@pytest.mark.browser
def test_theme_follows_changes(trace, page):
    now = lambda: page.evaluate(
        f"document.querySelector('{TAG}').shadowRoot.querySelector('.root').dataset.theme"
    )
    wait = lambda theme: page.wait_for_function(
        f"document.querySelector('{TAG}').shadowRoot.querySelector('.root').dataset.theme === '{theme}'"
    )
    page.show(f"<!doctype html><body>{viewer.fragment(trace)}")
    assert now() == "light"
    page.emulate_media(color_scheme="dark")
    wait("dark")
    page.evaluate("document.body.dataset.jpThemeLight = 'true'")
    wait("light")
    page.evaluate("document.body.dataset.jpThemeLight = 'false'")
    wait("dark")


@pytest.mark.browser
def test_chinese(trace, opened, page):
    words = (viewer._STATIC / "words.js").read_text(encoding="utf-8")
    pairs = re.findall(r'(\w+): \[\s*"([^"]*)",\s*"([^"]*)",?\s*\]', words)
    assert len(pairs) > 80
    opened(trace)
    page.keyboard.press("ArrowRight")
    page.raw.locator(f"{TAG} [data-lang='1']").click()
    assert step(page) == 1 and "变量" in text(page, ".root") and "提示微调" in text(page, ".h2")
    shown = (
        text(page, "header") + text(page, ".controls") + text(page, ".state") + text(page, ".base-model")
    )  # not the source
    assert [
        en
        for _, en, zh in pairs
        if len(en) > 9 and en != zh and "{" not in en and re.search(rf"\b{re.escape(en)}\b", shown)
    ] == []
    page.keyboard.press("ArrowRight")
    assert step(page) == 2
    page.evaluate(f"document.querySelector('{TAG}').lang = 'en'")
    assert "Variables" in text(page, ".root")
    page.show(viewer.fragment(trace, lang="zh"))
    open_view(page)
    assert "变量" in text(page, ".root") and page.problems == []


@pytest.mark.browser
def test_listening_from_outside(trace, page):
    page.show(
        f"<!doctype html><body><div id=out>{viewer.fragment(trace).replace(f'<{TAG} ', f'<{TAG} step=5 ')}</div>"
    )
    assert step(page) == 5
    seen = page.evaluate(f"""() => {{
        const seen = [], el = document.querySelector('{TAG}');
        document.querySelector('#out').addEventListener('peft-viz-step', e => seen.push(e.detail));
        el.setAttribute('step', 7); el.step = 9; el.step = 1e9; el.step = -4;
        return seen;
    }}""")
    last = len(moments(trace)) - 1
    assert [d["step"] for d in seen] == [7, 9, last, 0]
    assert all((d["call"], d["steps"]) == (moments(trace)[d["step"]][0], last + 1) for d in seen)
    other = recorded(PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), new_tokens=0)
    page.evaluate(f"p => {{ document.querySelector('{TAG}').payload = p; }}", viewer.payload(other))
    assert (
        page.evaluate(f"document.querySelector('{TAG}').steps") == len(moments(other)) and page.problems == []
    )


@pytest.mark.browser
@pytest.mark.parametrize("width", [700, 800, 1280, 1600])
def test_fits_its_place(trace, page, width):
    "No sideways scrolling of the page, every pane inside the element, at every width."
    page.set_viewport_size({"width": width, "height": 900})
    page.show(f"<!doctype html><body style='margin:0'>{viewer.fragment(trace, height=700)}")
    for k in range(0, len(moments(trace)), 5):
        go(page, k)
        outside = page.evaluate(f"""() => {{
            const el = document.querySelector('{TAG}'), box = el.getBoundingClientRect();
            return [...el.shadowRoot.querySelectorAll('.root, header, .controls, .pane, .body, .bar > *')].filter(e => {{
                const b = e.getBoundingClientRect();
                return b.width && (b.left < box.left - 1 || b.right > box.right + 1 || b.bottom > box.bottom + 1);
            }}).map(e => e.className).concat(document.documentElement.scrollWidth > innerWidth ? ['page'] : []);
        }}""")
        assert outside == []
    assert page.evaluate(f"document.querySelector('{TAG}').getBoundingClientRect().height") == 700


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_lines_are_accessible(trace, raised, tmp_path, new_page, scheme):
    axe = pytest.importorskip(
        "axe_playwright_python", reason="axe is not installed: pip install axe-playwright-python"
    )
    script = (pathlib.Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    rules = {} if scheme == "light" else {"runOnly": ["color-contrast"]}  # the rest is the same in the dark
    found = """async rules =>
        (await axe.run(rules)).violations.map(v => [v.id, ...v.nodes.map(n => n.html.slice(0, 120))])"""
    base = next(k for k, (_, line) in enumerate(moments(trace)) if line is None)
    grown, last = find(trace, ".forward", GROWN, "rebound")[0], len(moments(raised)) - 1
    for name, recording, steps in ("run", trace, [grown, base]), ("raised", raised, [last]):
        page = new_page(color_scheme=scheme, bypass_csp=True)
        page.show(recording.save(tmp_path / f"{name}.html"))
        open_view(page)
        page.add_script_tag(content=script)
        for k in steps:
            go(page, k)
            assert page.evaluate(found, rules) == [], f"step {k} of {name}"
    page.keyboard.press("?")
    assert page.evaluate(found, rules) == []
