"Figures: axes in, axes out, and what is drawn is what was measured."

import subprocess, sys, warnings

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest, torch
from transformers import LlamaConfig, LlamaForCausalLM

from peft_viz import (
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    Trace,
    get_peft_model,
    layout,
    plot,
    record,
)

WORDS = [
    "<pad>",
    " the",
    "quick",
    " brown",
    "$x_1$",
    "词",
    "\n",
    "🙂",
    "</script><img src=x onerror=alert(1)>",
    " unbelievably",
    "\x00",
    "a",
    "b",
    "c",
    "d",
    "e",
]
METHODS = dict(
    LORA=lambda: LoraConfig(task_type="CAUSAL_LM"),
    PROMPT_TUNING=lambda: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    PREFIX_TUNING=lambda: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
)
FIGURES = (plot.attention, plot.labels, plot.sequence)


class Tokenizer:
    "Sixteen tokens, some of them hostile to a figure."

    def __len__(self):
        return 64

    def decode(self, ids):
        return WORDS[ids[0] % 16]


def batch(*rows, side="left", labels=True):
    width = max(map(len, rows))
    ids = torch.tensor(
        [
            [0] * (width - len(r)) + r if side == "left" else r + [0] * (width - len(r))
            for r in map(list, rows)
        ]
    )
    made = dict(input_ids=ids, attention_mask=(ids > 0).long())
    return made | dict(labels=ids.masked_fill(ids == 0, -100)) if labels else made


def recorded(method, b, tokenizer=Tokenizer(), generate=0):
    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            hidden_size=32,
            intermediate_size=48,
            pad_token_id=0,
            eos_token_id=63,
        )
    )
    model = get_peft_model(base.eval(), METHODS[method]()).eval()
    with record(model, tokenizer) as trace, torch.no_grad():
        model(**b)
        if generate:
            model.generate(
                input_ids=b["input_ids"],
                attention_mask=b["attention_mask"],
                max_new_tokens=generate,
                min_new_tokens=generate,
                do_sample=False,
            )
    return trace


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.fixture(scope="module")
def prompt():
    return recorded("PROMPT_TUNING", batch([11, 12], [11, 12, 13, 14, 15]), generate=3)


@pytest.fixture(params=FIGURES, ids=lambda f: f.__name__)
def figure(request):
    return request.param


def chips(ax):
    "(mark name, x, y, the text on it) of every chip that stands at a position."
    texts = {(round(t.get_position()[0], 3), round(t.get_position()[1], 3)): t.get_text() for t in ax.texts}
    found = []
    for p in ax.patches:
        if p.get_gid() not in layout.MARKS:
            continue
        x, y = p.get_x() + p.get_width() / 2, p.get_y() + p.get_height() / 2
        found.append((p.get_gid(), round(x, 3), round(y, 3), texts.get((round(x, 3), round(y, 3)), "")))
    return found


def lines(ax, n):
    "The lines of chips from top to bottom: dicts position -> (mark, text). The legend is left out: its chips are not centred on positions, or not alone."
    rows = {}
    for name, x, y, text in chips(ax):
        if x == round(x) and 0 <= x < n:
            rows.setdefault(y, {})[int(x)] = (name, text)
    return [rows[y] for y in sorted(rows)]


# ---- attention


@pytest.mark.parametrize("side", ("left", "right"))
def test_image_is_the_measured_mask(method, side):
    trace = recorded(method, batch([11, 12], [11, 12, 13, 14, 15], side=side), generate=2)
    for call in trace.base_calls:
        for row in (0, 1):
            ax = plot.attention(trace, call, row)
            image = ax.images[0]
            measured = np.array(trace.value(call.attention[0]["value"]).nested())
            measured = measured[min(row, len(measured) - 1), 0]
            assert np.array_equal(np.asarray(image.get_array()) > 0, measured > 0)
            nq, nk = measured.shape
            assert list(image.get_extent()) == [
                -0.5,
                nk - 0.5,
                nq - 0.5,
                -0.5,
            ]  # x is the key, y the query, counted from the top
            plt.close(ax.figure)


def test_squares_have_the_colour_of_their_key(prompt):
    ax = plot.attention(prompt, prompt.base_calls[-1], theme="light")
    image, roles = ax.images[0], layout.attention(prompt, prompt.base_calls[-1]).key_roles[0]
    assert roles == ["virtual"] * 4 + ["padding"] * 3 + ["token"] * 2 + ["generated"] * 2
    colours = [
        matplotlib.colors.to_hex(image.cmap(image.norm(v))).upper() if v else None
        for v in np.asarray(image.get_array())[0]
    ]
    assert colours == [None if r == "padding" else layout.MARKS[r].light for r in roles]


def test_axes_are_marked_with_roles_and_texts(prompt):
    ax = plot.attention(prompt, row=0)
    keys = {x: (name, text) for name, x, y, text in chips(ax) if y == -1.2}
    queries = {y: (name, text) for name, x, y, text in chips(ax) if x == -1.2}
    assert keys == queries
    assert [keys[i] for i in range(9)] == [("virtual", "◆")] * 4 + [("padding", "")] * 3 + [
        ("token", "a"),
        ("token", "b"),
    ]


def test_title_says_what_was_measured(prompt):
    ax = plot.attention(prompt, row=1)
    assert (
        ax.get_title(loc="left").replace("\n", " ").replace("\xa0", " ")
        == "prompt tuning: 4 virtual tokens in the inputs, row 1"
    )
    assert any("measured in attention layers 0–1" in t.get_text().replace("\n", " ") for t in ax.texts)
    assert "解码第 2 步" in plot.attention(prompt, prompt.base_calls[3], lang="zh").get_title(
        loc="left"
    ).replace("\n", "")


# ---- labels and sequence


def test_labels_show_the_prefix(prompt):
    top, passed, got, *_ = lines(plot.labels(prompt), 9)
    assert [top[i][0] for i in range(9)] == ["virtual"] * 4 + ["padding"] * 3 + ["token"] * 2
    assert passed == {
        4: ("ignored", "-100"),
        5: ("ignored", "-100"),
        6: ("ignored", "-100"),
        7: ("label", "a"),
        8: ("label", "b"),
    }
    assert got == {i: ("ignored", "-100") for i in range(4)} | passed


def test_labels_of_the_other_methods_are_as_passed():
    for method, start in (("LORA", 0), ("PREFIX_TUNING", 4)):
        trace = recorded(method, batch([11, 12, 13]))
        ax = plot.labels(trace)
        top, passed, got = lines(ax, start + 3)[:3]
        assert passed == got == {start + i: ("label", text) for i, text in enumerate("abc")}
        assert any("as you passed them" in t.get_text() for t in ax.texts)


def test_sequence_in_generate(prompt):
    ax = plot.sequence(prompt, prompt.base_calls[-1])
    tokens, mask, *_ = lines(ax, 11)
    assert [tokens[i][0] for i in range(11)] == ["virtual"] * 4 + ["padding"] * 3 + ["token"] * 2 + [
        "generated"
    ] * 2
    assert [mask[i] for i in range(11)] == [("attended", "1")] * 4 + [("masked", "0")] * 3 + [
        ("attended", "1")
    ] * 4
    folds = [p.get_xy()[0][0] for p in ax.patches if isinstance(p, matplotlib.patches.Polygon)]
    assert [round(x) for x in folds if 0 < x < 11][:2] == [9, 10]  # generated tokens have a folded corner


def test_many_rows_are_cut_and_said():
    trace = recorded("LORA", batch(*[[11, 12]] * 11))
    ax = plot.sequence(trace, rows=3)
    assert sum(t.get_text().startswith("row\xa0") for t in ax.texts) == 3 and any(
        "… and 8 more rows" in t.get_text() for t in ax.texts
    )


# ---- any figure


def test_axes_in_axes_out(figure, prompt):
    fig, axs = plt.subplots(1, 2)
    assert figure(prompt, ax=axs[1]) is axs[1] and not axs[0].patches and plt.get_fignums() == [fig.number]
    assert isinstance(figure(prompt), matplotlib.axes.Axes) and len(plt.get_fignums()) == 2


@pytest.mark.parametrize("method, n", (("PREFIX_TUNING", 1), ("PROMPT_TUNING", 60), ("LORA", 200)))
def test_every_length_draws_without_a_warning(figure, method, n):
    trace = recorded(method, batch([i % 15 + 1 for i in range(n)], [2]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ax = figure(trace)
        ax.figure.canvas.draw()
    assert max(ax.figure.get_size_inches()) < 18


@pytest.mark.parametrize("method", ("PROMPT_TUNING", "PREFIX_TUNING"))
def test_texts_stay_on_the_paper(figure, method):
    trace = recorded(method, batch([11, 12, 13, 9, 8], [2]), generate=2)
    for call in [trace.base_calls[0]] + ([] if figure is plot.labels else [trace.base_calls[-1]]):
        for lang in ("en", "zh"):
            ax = figure(trace, call, lang=lang)
            ax.figure.canvas.draw()
            w, h = ax.figure.canvas.get_width_height()
            for t in [*ax.texts, ax._left_title]:
                box = t.get_window_extent()
                assert -1 <= box.x0 and box.x1 <= w + 1 and -1 <= box.y0 and box.y1 <= h + 1, t.get_text()


def test_hostile_texts_are_drawn_as_text(figure):
    trace = recorded("LORA", batch([4, 8, 10, 6]))
    texts = [t.get_text() for t in figure(trace).texts]
    assert (
        "$x_1$" in texts
        and "⏎" in texts
        and not any("\x00" in t or "\n" in t for t in texts if "filled" not in t)
    )
    assert all(not t.get_parse_math() for t in plt.gcf().axes[0].texts)


def test_themes(figure, prompt):
    for name, paper in (("light", "#ffffff"), ("dark", "#14181d")):
        ax = figure(prompt, theme=name)
        assert (
            matplotlib.colors.to_hex(ax.figure.get_facecolor())
            == matplotlib.colors.to_hex(ax.get_facecolor())
            == paper
        )
        fills = {
            matplotlib.colors.to_hex(p.get_facecolor()).upper()
            for p in ax.patches
            if p.get_gid() == "virtual"
        }
        assert fills == {getattr(layout.MARKS["virtual"], name)}
    with plt.style.context("dark_background"):
        ax = figure(prompt)
    assert matplotlib.colors.to_hex(ax.figure.get_facecolor()) == "#000000"  # the style's own paper
    assert {
        matplotlib.colors.to_hex(p.get_facecolor()).upper() for p in ax.patches if p.get_gid() == "virtual"
    } == {layout.MARKS["virtual"].dark}
    with pytest.raises(ValueError, match="unknown theme 'pink': use one of"):
        figure(prompt, theme="pink")


def test_nothing_global_changes(figure, prompt):
    before = dict(matplotlib.rcParams)
    figure(prompt, theme="dark").figure.canvas.draw()
    assert dict(matplotlib.rcParams) == before


def test_without_a_tokenizer_ids_are_shown():
    trace = recorded("LORA", batch([11, 12]), tokenizer=None)
    assert {"11", "12"} <= {t.get_text() for t in plot.attention(trace).texts}


def test_a_saved_trace_draws_the_same(figure, prompt, tmp_path):
    again = Trace.load(prompt.save(tmp_path / "t.json"))
    pixels = []
    for trace in (prompt, again):
        ax = figure(trace)
        ax.figure.canvas.draw()
        pixels.append(np.asarray(ax.figure.canvas.buffer_rgba()).copy())
    assert np.array_equal(*pixels)


def test_errors(prompt):
    unlabelled = recorded("LORA", batch([11], labels=False))
    with pytest.raises(ValueError, match="this trace has no labels: pass labels= to the recorded forward"):
        plot.labels(unlabelled)
    with pytest.raises(ValueError, match=f"call {unlabelled.base_calls[0].id} has no labels"):
        plot.labels(unlabelled, unlabelled.base_calls[0])
    with pytest.raises(ValueError, match="there is no row 5: this batch has rows 0 to 1"):
        plot.attention(prompt, row=5)
    with pytest.raises(ValueError, match="not a call of the base model"):
        plot.sequence(prompt, 0)
    with pytest.raises(ValueError, match="no labels in 'fr'"):
        plot.sequence(prompt, lang="fr")


def test_import_draws_nothing_and_needs_no_torch():
    code = "import matplotlib; before = dict(matplotlib.rcParams); import sys; from peft_viz import plot; sys.exit('torch' in sys.modules or dict(matplotlib.rcParams) != before)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
