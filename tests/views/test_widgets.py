"The explorer, driven without a browser: a knob turned is a model run, and the figures follow."

import asyncio, base64, html, io, re, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote
from xml.etree import ElementTree

import ipywidgets, matplotlib.pyplot as plt
import numpy, pytest, torch

from peft_viz import (
    LoraConfig,
    explore,
    explore_generation,
    explore_lora,
    explore_padding,
    get_peft_model,
    layout,
    load_tiny,
    widgets,
)
from peft_viz.views.widgets import CONFIG_FOR, TEXTS, Bench, Explorer, encode

SVG = b"<svg"


@pytest.fixture(scope="module")
def tiny():
    return load_tiny()


@pytest.fixture
def explorer(tiny):
    return explore(*tiny)


def roles(e, row=0):
    return layout.sequence(e.trace).rows[row].roles


def test_it_is_a_widget_and_runs_at_once(explorer):
    assert isinstance(explorer, Explorer) and isinstance(explorer, ipywidgets.VBox)
    assert (explorer.method, explorer.num_virtual_tokens, explorer.padding_side, explorer.error) == (
        "PROMPT_TUNING",
        4,
        "left",
        None,
    )
    assert roles(explorer) == ["virtual"] * 4 + ["padding"] * 4 + ["token"] * 7
    assert set(explorer.figures) == {"attention", "labels"} and all(
        svg.startswith(SVG) for svg in explorer.figures.values()
    )
    assert plt.get_fignums() == []  # no figure is left behind to be shown twice


def test_every_knob_changes_trace_and_figures(explorer):
    for name, value, expected in (
        ("num_virtual_tokens", 2, ["virtual"] * 2 + ["padding"] * 4 + ["token"] * 7),
        ("padding_side", "right", ["virtual"] * 2 + ["token"] * 7 + ["padding"] * 4),
        ("method", "PREFIX_TUNING", ["virtual"] * 2 + ["token"] * 7 + ["padding"] * 4),
        ("texts", ("abc", "abcd"), ["virtual"] * 2 + ["token"] * 3 + ["padding"]),
        ("method", "LORA", ["token"] * 3 + ["padding"]),
    ):
        trace, figures = explorer.trace, dict(explorer.figures)
        setattr(explorer, name, value)
        assert explorer.error is None and explorer.trace is not trace and roles(explorer) == expected
        assert all(explorer.figures[k] != figures[k] for k in figures), name
        assert explorer.trace.about["peft_type"] == explorer.method


def test_controls_and_attributes_are_one(explorer):
    explorer.slider.value = 7
    assert explorer.num_virtual_tokens == 7 and roles(explorer).count("virtual") == 7
    explorer.num_virtual_tokens = 1
    assert (
        explorer.slider.value == 1
        and (explorer.slider.min, explorer.slider.max) == (1, 16)
        and not explorer.slider.continuous_update
    )
    explorer.area.value = "x=x\nyy=yy\nzzz=zzz"
    assert explorer.texts == ("x=x", "yy=yy", "zzz=zzz") and len(explorer.rows.options) == 3
    explorer.texts = TEXTS
    assert explorer.area.value == "\n".join(TEXTS)
    explorer.method = "LORA"
    assert explorer.slider.disabled
    explorer.method = "PROMPT_TUNING"
    assert not explorer.slider.disabled
    with pytest.raises(Exception, match="num_virtual_tokens|maximum|should be"):
        explorer.num_virtual_tokens = 17
    with pytest.raises(Exception, match="PREFIX_TUNING"):
        explorer.method = "NOPE"


def test_row_and_paper_redraw_without_a_run(explorer):
    trace, before = explorer.trace, dict(explorer.figures)
    explorer.rows.value = 1
    assert explorer.row == 1 and explorer.trace is trace
    assert (
        explorer.figures["attention"] != before["attention"]
        and explorer.figures["labels"] == before["labels"]
    )
    explorer.theme = "dark"
    assert explorer.trace is trace and explorer.figures["labels"] != before["labels"]
    explorer.texts = ("one=one",)
    assert explorer.row == 0 and explorer.error is None


def test_figures_are_those_of_plot(explorer):
    png, _ = widgets.picture(widgets.plot.attention(explorer.trace, theme="light"))
    assert png == explorer.figures["attention"]


def test_the_model_is_left_alone(tiny):
    model, tokenizer = tiny
    values, names = {n: p.clone() for n, p in model.state_dict().items()}, set(vars(model))
    settings, modes = model.config.to_dict(), [m.training for m in model.modules()]
    random = torch.get_rng_state()
    e = explore(model, tokenizer)
    for method in CONFIG_FOR:
        e.method = method
    assert torch.equal(random, torch.get_rng_state())
    assert (
        set(vars(model)) == names
        and model.config.to_dict() == settings
        and [m.training for m in model.modules()] == modes
    )
    assert model.state_dict().keys() == values.keys() and all(
        torch.equal(values[n], p) for n, p in model.state_dict().items()
    )
    assert all(p.requires_grad for p in model.parameters())
    get_peft_model(load_tiny()[0], LoraConfig(task_type="CAUSAL_LM"))


def test_same_seed_same_run(tiny):
    losses = [
        [
            t.value(t.base_calls[0].outputs["loss"]).data
            for t in (Bench(*tiny, seed=s).run(m) for m in CONFIG_FOR)
        ]
        for s in (0, 0, 1)
    ]
    assert losses[0] == losses[1] and losses[0][1] != losses[2][1]


def test_turning_back_gives_the_same_figure(explorer):
    before = dict(explorer.figures)
    explorer.method = "LORA"
    explorer.method = "PROMPT_TUNING"
    assert explorer.figures == before


def test_table_says_what_arrived(explorer):
    rows = dict((name, rest) for name, *rest in widgets.differences(explorer.trace))
    hidden = explorer.trace.about["hidden_size"]
    assert rows == {
        "input_ids": ["[2, 11]", "–"],
        "inputs_embeds": ["–", f"[2, 15, {hidden}]"],
        "attention_mask": ["[2, 11]", "[2, 15]"],
        "labels": ["[2, 11]", "[2, 15]"],
    }
    explorer.method = "PREFIX_TUNING"
    rows = dict((name, rest) for name, *rest in widgets.differences(explorer.trace))
    assert rows == {
        "input_ids": ["[2, 11]"] * 2,
        "attention_mask": ["[2, 11]", "[2, 15]"],
        "labels": ["[2, 11]"] * 2,
        "past_key_values": ["–", "4 tokens per row"],
    }
    explorer.method = "LORA"
    assert all(given == got for _, given, got in widgets.differences(explorer.trace))
    assert "base model got" in explorer.table.value


def test_pictures_are_described(explorer):
    alts = [html.unescape(a) for a in re.findall(r'alt="([^"]+)"', explorer.pictures.value)]
    grid = layout.attention(explorer.trace).attended[0]
    size = "15 queries and 15 keys, of which 4 virtual tokens, 4 padding, 7 tokens"
    filled = f"{sum(map(sum, grid))} of 225 squares are filled."
    assert alts[0].endswith(f"row 0. Attention grid of row 0: {size}. {filled}")
    assert "11 per row were passed, 15 arrived" in alts[1]


def test_errors_are_shown_and_kept(explorer):
    explorer.texts = ("  ",)
    assert (
        isinstance(explorer.error, ValueError)
        and explorer.trace is None
        and explorer.figures == {}
        and explorer.pictures.value == ""
    )
    assert (
        'role="alert"' in explorer.message.value
        and "there is no text: write one text per line" in explorer.message.value
    )
    explorer.method = "LORA"  # still broken, still said
    assert explorer.error is not None
    explorer.texts = TEXTS
    assert explorer.error is None and explorer.message.value == "" and len(explorer.figures) == 2


def test_a_failing_model_is_reported_as_text(explorer, monkeypatch):
    def boom(*args, **kwargs):
        raise RuntimeError("<script>alert(1)</script>")

    monkeypatch.setattr(explorer.bench, "run", boom)
    explorer.num_virtual_tokens = 9
    assert (
        "RuntimeError: &lt;script&gt;" in explorer.message.value and "<script>" not in explorer.message.value
    )


def test_hostile_texts_stay_texts(explorer):
    explorer.texts = ("</script><img src=x onerror=alert(1)>", "a")
    assert explorer.error is None and "onerror" not in explorer.pictures.value + explorer.table.value


def test_arguments(tiny):
    with pytest.raises(ValueError, match="pass a model and its tokenizer, or neither"):
        explore(tiny[0])
    with pytest.raises(TypeError, match="no argument colour"):
        explore(*tiny, colour="red")
    with pytest.raises(ValueError, match="has an adapter already"):
        explore(get_peft_model(load_tiny()[0], LoraConfig(task_type="CAUSAL_LM")), tiny[1])
    with pytest.raises(ValueError, match="no labels in 'fr'"):
        explore(*tiny, lang="fr")
    e = explore(
        *tiny,
        method="PREFIX_TUNING",
        num_virtual_tokens=2,
        padding_side="right",
        texts="a\nbb",
        row=1,
        theme="dark",
        lang="zh",
    )
    assert roles(e) == ["virtual"] * 2 + ["token", "padding"] and e.row == 1 and "你传入的" in e.table.value


def test_encode(tiny):
    batch = encode(tiny[1], ["ab", "c"], "right")
    a, b, c = (tiny[1](x)["input_ids"][0] for x in "abc")
    assert (
        batch["input_ids"].tolist() == [[a, b], [c, tiny[1].pad_token_id]]
        and batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
        and batch["labels"].tolist() == [[a, b], [c, -100]]
    )


def test_a_still_picture_for_pages_without_python(explorer):
    bundle = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle and bundle["text/html"].count("<img ") == 2


def test_the_still_picture_lies_below_the_live_widget_which_hides_it(explorer, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **_: shown.append(data))
    live = widgets.Viewer(explorer.trace)
    for widget, sheet in ((explorer, explorer.children[-1].value), (live, live.hides)):
        widget._ipython_display_()
        name = f"peft-viz-still-{widget.model_id}"
        assert f".{name}{{display:none}}" in sheet
        assert list(shown[-2]) == [
            "application/vnd.jupyter.widget-view+json"
        ]  # an exported page leaves it out
        assert shown[-1]["text/html"] == f'<div class="{name}">{widget.still()}</div>'
        assert shown[-1]["text/plain"] == repr(widget)


def test_a_viewer_leaves_the_recording_where_no_python_runs(explorer):
    data, _ = widgets.Viewer(explorer.trace)._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert data["text/html"] == explorer.trace._repr_html_() and "<table>" in data["text/html"]


# ---- several methods, generate, and what is shown


def test_all_nine_methods_run_forward_and_generate(tiny):
    bench = Bench(*tiny)
    assert len(CONFIG_FOR) == 9
    for method in CONFIG_FOR:
        for mode, calls in (("forward", 1), ("generate", 2)):
            trace = bench.run(method, 3, mode=mode, new_tokens=2, texts=("x=x", "abc=abc"))
            assert trace.about["peft_type"] == method and 1 <= len(trace.base_calls) <= calls
            roles = layout.sequence(trace).rows[0].roles
            assert roles.count("virtual") == 3 * (method not in widgets.INSIDE)
    assert not hasattr(tiny[0], "peft_config")


def test_one_copy_serves_all_methods(tiny):
    bench = Bench(*tiny)
    losses = {}
    for method in (*CONFIG_FOR, *reversed(CONFIG_FOR)):
        trace = bench.run(method)
        losses.setdefault(method, set()).add(trace.value(trace.base_calls[0].outputs["loss"]).data[0])
    assert all(len(found) == 1 for found in losses.values())


def test_methods_side_by_side(explorer):
    explorer.beside = ("PREFIX_TUNING", "right")
    assert list(explorer.traces) == [
        ("PROMPT_TUNING", "left"),
        ("PREFIX_TUNING", "left"),
        ("PROMPT_TUNING", "right"),
    ]
    assert [t.about["peft_type"] for t in explorer.traces.values()] == [
        "PROMPT_TUNING",
        "PREFIX_TUNING",
        "PROMPT_TUNING",
    ]
    assert len(explorer.figures) == 6 and explorer.pictures.value.count("<img ") == 6
    assert explorer.trace is explorer.traces["PROMPT_TUNING", "left"]
    explorer.beside = ("PROMPT_TUNING",)  # the same once more: one column
    assert len(explorer.traces) == 1
    with pytest.raises(Exception, match="there is no method or padding side 'NOPE'"):
        explorer.beside = ("NOPE",)


def test_generate_call_by_call(tiny):
    e = explore(*tiny, mode="generate", new_tokens=3, texts=("tea=",), show=("cache", "next_tokens"))
    calls = e.trace.base_calls
    assert list(e.calls.options) == list(range(len(calls))) and set(e.figures) == {"cache", "next_tokens"}
    before = dict(e.figures)
    e.call = len(calls) - 1
    assert e.figures["cache"] == before["cache"] and (
        len(calls) == 1 or e.figures["next_tokens"] != before["next_tokens"]
    )
    e.mode = "forward"
    assert e.call == 0 and list(e.calls.options) == [0]


def test_what_cannot_be_drawn_is_said_in_its_place(explorer):
    explorer.show = ("lora", "attention")
    assert explorer.error is None and set(explorer.figures) == {"attention"}
    assert "Not drawn: updates of layers. no adapted layer was followed" in html.unescape(
        explorer.pictures.value
    )
    explorer.method = "LORA"
    assert set(explorer.figures) == {"lora", "attention"}


def test_turning_back_takes_no_run(explorer, monkeypatch):
    first = explorer.trace
    explorer.num_virtual_tokens = 5
    monkeypatch.setattr(explorer.bench, "run", None)
    explorer.num_virtual_tokens = 4
    assert explorer.trace is first and explorer.error is None


def test_a_figure_that_wants_layers_followed_runs_again(tiny):
    e = explore(*tiny, method="LORA", show=("next_tokens",))
    e.show = ("lora", "next_tokens")
    assert set(e.figures) == {"lora", "next_tokens"}


def test_only_what_changes_is_drawn(explorer, monkeypatch):
    "A row changes the grid and not the labels; and what was drawn once is not drawn again."
    drawn, picture = [], widgets.picture
    monkeypatch.setattr(widgets, "picture", lambda ax: drawn.append(ax) or picture(ax))
    explorer.row = 1
    assert len(drawn) == 1
    explorer.row = 0
    assert len(drawn) == 1
    explorer.texts = ("one=one",)
    assert len(drawn) == 3


# ---- what an explorer shows before its model has run

FIRST = (explore, explore_padding, explore_generation, explore_lora)


def test_the_first_figures_need_no_torch():
    told = subprocess.run(
        [sys.executable, "-c", "from peft_viz import explore; e = explore(); import sys\n"
         "print(len(e.figures), 'torch' in sys.modules, 'Recorded beforehand' in e.message.value)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout.split() == ["2", "False", "True"]


@pytest.mark.parametrize("make", FIRST)
def test_what_was_recorded_beforehand_is_what_the_model_does_here(make):
    e = make()
    assert "Recorded beforehand" in e.message.value and e._ready and len(e.figures) >= 2
    words = lambda: re.findall(r'alt="([^"]+)"', e.pictures.value)
    shown = {column: seen.trace for column, seen in e._seen.items()}
    before = e.table.value, words(), list(e.figures)
    here = e.traces  # the model runs
    assert e.message.value == "" and (e.table.value, words(), list(e.figures)) == before
    assert list(here) == list(shown)
    for column, trace in here.items():
        assert trace is not shown[column] and len(trace.base_calls) == len(shown[column].base_calls)
        for was, now in zip(shown[column].base_calls, trace.base_calls):
            old, new = layout.weights(shown[column], was, 0), layout.weights(trace, now, 0)
            numpy.testing.assert_allclose(old, new, atol=1e-3)


def test_the_model_runs_when_the_cell_is_done():
    async def cell():
        e = explore()
        assert e._repr_mimebundle_()["text/html"].count("<img ") == 2 and e._ready
        await asyncio.sleep(0.1)
        return e

    with ThreadPoolExecutor(1) as alone:  # where no other loop runs
        e = alone.submit(lambda: asyncio.run(cell())).result()
    assert not e._ready and e.message.value == "" and len(e.figures) == 2


def test_a_knob_runs_the_model(monkeypatch):
    e = explore()
    e.theme = "dark"  # no run
    assert e._ready and "Recorded beforehand" in e.message.value
    e.show = ("cache",)  # of the same recording
    assert e._ready and set(e.figures) == {"cache"}
    e.row, e.num_virtual_tokens = 1, 2
    assert not e._ready and e.message.value == "" and roles(e).count("virtual") == 2
    for options in (dict(seed=1), dict(method="LORA"), dict(texts=("a=a",))):  # not recorded beforehand
        assert not explore(**options)._ready
    monkeypatch.setattr(widgets, "READY", widgets.READY.parent / "nothing")
    assert widgets.ready.__wrapped__() == {}


def test_a_run_that_fails_does_no_harm_to_the_next(explorer):
    explorer.texts = ("a" * 500,)  # more than the model was made for, or than fits: it may fail
    explorer.texts = ("",)
    assert explorer.error is not None
    explorer.texts = TEXTS
    assert explorer.error is None and roles(explorer) == ["virtual"] * 4 + ["padding"] * 4 + ["token"] * 7


@pytest.mark.parametrize("lang", ("en", "zh"))
def test_explorers_for_one_question(tiny, lang):
    padding = widgets.explore_padding(*tiny, method="PREFIX_TUNING", lang=lang)
    assert [side for _, side in padding.traces] == [
        "left",
        "right",
    ] and "padding_side" not in padding.controls
    generation = widgets.explore_generation(*tiny, lang=lang)
    assert generation.mode == "generate" and set(generation.figures) == {"cache", "positions", "next_tokens"}
    lora = widgets.explore_lora(*tiny, rank=3, lang=lang)
    assert set(lora.figures) == {"lora", "next_tokens"} and layout.lora(lora.trace)[0].a[0] == 3
    assert all(e.error is None for e in (padding, generation, lora))


def test_every_picture_is_described_in_its_language(tiny):
    e = explore(
        *tiny, lang="zh", show=tuple(n for n in widgets.plot.FIGURES if n not in ("share", "branches"))
    )
    alts = [html.unescape(a) for a in re.findall(r'alt="([^"]+)"', e.pictures.value)]
    assert len(alts) == len(e.figures) and all("提示微调" in a and len(a) > 20 for a in alts)


def test_two_recordings_beside_each_other(explorer):
    other = widgets.Bench(*load_tiny()).run("PREFIX_TUNING", 2)
    shown = widgets.Viewer(explorer.trace, other=other, lang="zh")
    assert shown.payload["other"]["trace"]["about"]["peft_type"] == "PREFIX_TUNING"
    assert shown.payload["differences"] and shown.payload["lang"] == "zh"
    still = shown._repr_mimebundle_()[0]["text/html"]
    assert still.startswith("<peft-viz-trace") and '"differences":[{' in still


def test_a_picture_is_shown_as_it_was_drawn(explorer):
    "The address of a picture gives the SVG file again, quotes and signs and all."
    svg = next(iter(explorer.figures.values()))
    source = re.search(r'src="data:image/svg\+xml,([^"]*)"', widgets.image(svg, 10, "x"))[1]
    again = ElementTree.fromstring(unquote(html.unescape(source)))
    once = ElementTree.fromstring(svg)
    assert ElementTree.tostring(again) == ElementTree.tostring(once) and len(list(once.iter())) > 50


@pytest.mark.parametrize("name", ["attention", "labels", "story"])
def test_a_picture_is_what_matplotlib_would_have_saved(explorer, name):
    "Our renderer measures each text once; what it writes has the same letters in the same places."
    ours, width = widgets.picture(widgets.plot.FIGURES[name](explorer.trace, theme="dark"))
    figure, out = widgets.plot.FIGURES[name](explorer.trace, theme="dark").figure, io.StringIO()
    with plt.rc_context({"svg.hashsalt": "peft_viz", "svg.fonttype": "path"}):
        figure.savefig(out, format="svg", dpi=144, facecolor=figure.get_facecolor(), metadata={"Date": None})
    assert ours.decode() == widgets._compact(out.getvalue())
    assert width == round(95 * figure.get_size_inches()[0])


def test_a_picture_has_the_shades_of_attention(explorer):
    "matplotlib leaves out how strong each square is where it writes squares without interpolation."
    (data,) = re.findall(rb'base64,([^"]+)"', explorer.figures["attention"])
    shades = plt.imread(io.BytesIO(base64.b64decode(data)))[..., 3]
    assert len(numpy.unique(shades)) > 10


def test_a_compact_picture_keeps_what_is_drawn():
    "Shorter: line ends, blanks, comments, names of groups and digits that say nothing are gone, the rest stays."
    svg = (
        '<?xml version="1.0"?>\n<!DOCTYPE svg PUBLIC "a"\n  "b">\n<svg viewBox="0 0 9.25 9">\n <!-- hello -->\n'
        '  <g id="a">\n <path d="M 1.25 2 \nL 3 4.75 \nz\n" style="fill: #fff; stroke: none"/>\n'
        ' <use transform="scale(0.015625)" xlink:href="#b"/>\n  </g>\n</svg>\n'
    )
    assert widgets._compact(svg) == (
        '<svg viewBox="0 0 9.25 9"><g><path d="M1.2 2L3 4.7z" style="fill:#fff;stroke:none"/>'
        '<use transform="scale(0.015625)" href="#b"/></g></svg>'
    )
