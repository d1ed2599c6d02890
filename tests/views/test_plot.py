"Figures: axes in, axes out, and what is drawn is what was measured."

import copy, os, shutil, subprocess, sys, textwrap, warnings

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest, torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from transformers import LlamaConfig, LlamaForCausalLM

import small
from small import batch
from peft_viz import (
    Trace,
    get_peft_model,
    layout,
    plot,
    record,
)
from peft_viz.recording.trace import Value

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
METHODS = ("LORA", "PROMPT_TUNING", "PREFIX_TUNING")
FIGURES = (plot.attention, plot.labels, plot.sequence, plot.story)


class Tokenizer:
    "Sixteen tokens, some of them hostile to a figure."

    def __len__(self):
        return 64

    def decode(self, ids):
        return WORDS[ids[0] % 16]


TOKENIZER = Tokenizer()


def recorded(method, b, tokenizer=TOKENIZER, generate=0, keep=None, num_beams=1, **options):
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
    model = get_peft_model(base.eval(), small.config(method), **options).eval()
    with record(model, tokenizer) as trace, torch.no_grad():
        if keep is not None:
            keep.append(trace)
        model(**b)
        if generate:
            model.generate(
                input_ids=b["input_ids"],
                attention_mask=b["attention_mask"],
                max_new_tokens=generate,
                min_new_tokens=generate,
                do_sample=False,
                num_beams=num_beams,
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
    """The lines of chips from top to bottom: dicts position -> (mark, text).
    The legend is left out: its chips are not centred on positions, or not alone."""
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


# ---- the story


def sentences(ax):
    "What the chapters say, without the line breaks."
    ink = [t for t in ax.texts if t.get_fontsize() == 9.5]
    return " ".join(t.get_text() for t in ink)


def new(ax):
    "The columns of each outline, from top to bottom."
    frames = [p for p in ax.patches if p.get_gid() == "new"]
    return [(round(p.get_x() + 0.5), round(p.get_width())) for p in frames]


def test_the_story_of_prompt_tuning(prompt):
    ax = plot.story(prompt)
    told = sentences(ax)
    kinds = ("given", "grew", "reached", "logits")
    for moment in [
        m for m in prompt.story() if m.kind in kinds and m.base in (None, prompt.base_calls[0].id)
    ][:6]:
        assert moment.text in told  # the figure says what the story says
    assert f"The loss is {loss(prompt):.4g}" in told and "Is it prompt learning" not in told
    assert new(ax) == [(0, 4)] * 4  # what grew, and the logits: all on one grid of columns
    tokens, mask, labels, *_ = lines(ax, 9)
    assert list(tokens) == list(mask) == list(labels) == [4, 5, 6, 7, 8]
    assert [tokens[k][0] for k in (4, 8)] == ["padding", "token"] and mask[8][0] == "attended"
    shapes = {t.get_text() for t in ax.texts}
    assert {"[2, 5]", "[2, 5, 32] → [2, 9, 32]", "[2, 5] → [2, 9]", "[2, 9, 64]"} <= shapes


def loss(trace):
    return trace.value(trace.base_calls[0].outputs["loss"]).data[0]


def numbers_in(ax, n):
    "Per line of plain numbers: column -> number."
    found = {}
    for t in ax.texts:
        x, y = t.get_position()
        if t.get_text().isdigit() and x == round(x) and 0 <= x < n and t.get_fontweight() != "bold":
            found.setdefault(y, {})[int(x)] = int(t.get_text())
    return [found[y] for y in sorted(found)]


def test_the_story_of_the_other_methods():
    given = batch([11, 12], [11, 12, 13, 14, 15], side="right")
    ax = plot.story(recorded("PREFIX_TUNING", given))
    told = sentences(ax)
    assert "Padding: row 0 has 3 on the right." in told
    assert "The cache is filled before the base model runs: it holds 4 virtual tokens" in told
    assert "As you passed them: input_ids, labels." in told and "as many as you passed" in told
    assert new(ax) == [(0, 4)] * 2  # the mask and the cache
    assert dict(zip(range(4, 9), range(4, 9))) in numbers_in(ax, 9)  # the positions that were used
    ax = plot.story(recorded("LORA", given), row=1)
    told = sentences(ax)
    assert "As you passed them: input_ids, attention_mask, labels." in told
    assert (
        "LoRA works inside the layers of the base model; adapted: q_proj, v_proj." in told and new(ax) == []
    )
    assert sum("shown: row 1" in t.get_text() for t in ax.texts) == 1


def test_the_story_of_a_generate_is_told_to_its_end():
    trace = recorded("PREFIX_TUNING", batch([11, 12], [11, 12, 13, 14, 15]), generate=5)
    call = trace.roots[-1]
    ax = plot.story(trace, call)
    told = sentences(ax)
    for moment in trace.story():
        if moment.call >= call.id and moment.kind in (
            "given",
            "grew",
            "cache",
            "reached",
            "alike",
            "returned",
        ):
            assert moment.text in told
    assert "Step 1: " in told and "Steps 2–4: as step 1" in told and "5 new tokens in each row" in told
    *_, tokens = [line for line in lines(ax, 11) if "virtual" in {mark for mark, _ in line.values()}]
    assert [mark for mark, _ in tokens.values()][-1] == "generated" and len(tokens) == 10
    assert [plot.story(trace, k).get_xlim() for k in (call, call.id)] == [ax.get_xlim()] * 2


def test_the_story_of_a_step_that_is_like_another():
    trace = recorded("PROMPT_TUNING", batch([11, 12], [11, 12, 13, 14, 15]), generate=5)
    last = trace.base_calls[-1]
    told = sentences(plot.story(trace, last))
    assert told.startswith("Step 4: the base model gets 1 new token") and "as step" not in told
    assert "The attention_mask covers 13 keys" in told and "You pass" not in told


def test_the_story_of_virtual_tokens_behind_the_padding():
    trace = recorded("PROMPT_TUNING", batch([11, 12], [11, 12, 13, 14, 15]), corrected_positions=True)
    ax = plot.story(trace)
    told = sentences(ax)
    assert "the four virtual tokens behind the padding" in told and "four ones behind the padding" in told
    tokens, mask, labels, *_ = lines(ax, 9)
    assert list(tokens) == list(mask) == [0, 1, 2, 7, 8] and {(3, 4)} < set(new(ax))
    assert layout.sequence(trace).rows[0].roles == ["padding"] * 3 + ["virtual"] * 4 + ["token"] * 2
    assert layout.sequence(trace).caller_labels[0] == [-100] * 3 + [None] * 4 + [11, 12]


def test_the_story_of_a_prefix_behind_the_padding():
    trace = recorded("PREFIX_TUNING", batch([11, 12], [11, 12, 13, 14, 15]), corrected_positions=True)
    told = sentences(plot.story(trace))
    assert "labels grew from 5 to 9: four times -100 behind the padding" in told
    assert "of yours became -100" in told and "You get logits of 5 positions" in told
    said = " ".join(t.get_text() for t in plot.labels(trace).texts).replace("\n", " ")
    assert "4 labels of -100 were added" in said and "1 of yours became -100" in said


def test_the_story_does_not_say_what_did_not_happen(prompt):
    later = sentences(plot.story(prompt, prompt.base_calls[-1]))
    assert "loss" not in later and "labels" not in later and "and a cache of" in later
    lora = recorded("LORA", batch([11, 12], labels=False), generate=2)
    later = sentences(plot.story(lora, lora.base_calls[-1]))
    assert "You passed" not in later and "and a cache of 2" in later
    with pytest.raises(ValueError):
        recorded("LORA", dict(input_ids=torch.tensor([[1, 99]])), keep=(kept := []))  # no such token
    told = sentences(plot.story(kept[0]))
    assert "It ended here" in told and "IndexError" in told and "Logits" not in told
    with pytest.raises(ValueError, match="there is no row 7"):
        plot.story(prompt, row=7)
    with pytest.raises(ValueError, match="not a call of the base model"):
        plot.story(prompt, next(c for c in prompt.calls if c.kind == "peft" and c.parent is not None))


def test_beams_share_the_row_that_was_passed():
    torch.manual_seed(0)
    trace = recorded("PROMPT_TUNING", batch([11, 12], [11, 12, 13]), generate=2, num_beams=2)
    ax = plot.story(trace, trace.roots[-1], row=3)
    assert "generate repeats each of your 2 rows two times" in sentences(ax)
    assert not any("not kept" in t.get_text() for t in ax.texts)
    tokens, mask, *_ = lines(ax, 9)
    assert [mark for mark, _ in mask.values()] == ["attended"] * 3 and len(tokens) == 3


@pytest.mark.parametrize("lang", ("en", "zh"))
def test_no_sentence_runs_into_the_shapes(prompt, lang):
    many = recorded("LORA", batch([11, 12]))
    config = many.about["adapters"]["default"]
    config["target_modules"] = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")] * 2
    for trace in (prompt, many):
        ax = plot.story(trace, lang=lang)
        ax.figure.canvas.draw()
        boxes = [(t.get_window_extent(), t.get_fontsize()) for t in ax.texts]
        for sentence, _ in filter(lambda pair: pair[1] == 9.5, boxes):
            assert not any(sentence.overlaps(other) for other, size in boxes if size != 9.5)


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


@pytest.mark.parametrize("name", plot.FIGURES)
def test_a_figure_of_what_is_no_recording(name):
    with pytest.raises(TypeError, match="this takes a recording, the trace of .*; got 5"):
        plot.FIGURES[name](5)


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
    code = """
        import sys, matplotlib
        before = dict(matplotlib.rcParams)
        from peft_viz import plot
        print(plot.__name__, "torch" in sys.modules or dict(matplotlib.rcParams) != before)
    """
    assert in_a_new_process(code) == "peft_viz.views.plot False"


# ---- what was too large to be kept


def cut(trace, rows, *roles):
    "Leave of the tensors of these roles `rows` rows."
    for i, v in enumerate(trace.values):
        if v.kind == "tensor" and v.role in roles and len(v.shape) == 2:
            facts = dict(shape=v.shape, dtype=v.dtype, device=v.device, role=v.role)
            trace.values[i] = Value("tensor", packed=v.data[: v.shape[1] * rows], truncated=True, **facts)
    return trace


def test_labels_that_were_not_kept_say_so():
    b = batch([11, 12], [11, 12, 13, 14, 15])
    ax = plot.labels(cut(recorded("PROMPT_TUNING", b), 1, "labels"))
    assert [t.get_text() for t in ax.texts].count("not kept: too large") == 2  # of row 1, passed and arrived
    assert any(name == "label" for name, *_ in chips(ax))
    with pytest.raises(ValueError, match="the labels of call .* were too large to be kept"):
        plot.labels(cut(recorded("PROMPT_TUNING", b), 0, "labels"))


@pytest.mark.parametrize("rows", (0, 1))
def test_every_figure_of_a_cut_recording(figure, rows):
    trace = cut(recorded("PROMPT_TUNING", batch([11, 12], [13])), rows, "ids", "attention_mask")
    texts = [t.get_text().replace("\n", " ") for t in figure(trace).texts]
    if figure in (plot.labels, plot.sequence):
        assert any("padding is not told from tokens there" in t for t in texts)
    if figure is plot.story:
        assert ("not kept: too large" in texts) == (rows == 0)  # row 0 is the one that is told


# ---- fonts


def in_a_new_process(code, **env):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env=os.environ | dict(MPLBACKEND="agg", PYTHONPATH=os.pathsep.join(sys.path)) | env,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def own_font(folder, letters, family="Letters Of Ours"):
    "A small font of filled squares."
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for at in ((0, 700), (600, 700), (600, 0)):
        pen.lineTo(at)
    pen.closePath()
    names = [".notdef", *(f"u{ord(c):04X}" for c in letters)]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap({ord(c): f"u{ord(c):04X}" for c in letters})
    font.setupGlyf({name: pen.glyph() for name in names})
    font.setupHorizontalMetrics({name: (650, 0) for name in names})
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable(dict(familyName=family, styleName="Regular"))
    font.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    font.setupPost()
    folder.mkdir(exist_ok=True)
    font.save(folder / "ours.ttf")
    return folder / "ours.ttf"


LETTER = "ሀ"  # Amharic; matplotlib's own fonts do not have it


def matplotlib_folder(tmp_path):
    "matplotlib's cache folder with a list of fonts from before anything but its own fonts was installed"
    manager = copy.copy(font_manager.fontManager)
    manager.ttflist = [f for f in manager.ttflist if matplotlib.get_data_path() in f.fname]
    folder = tmp_path / "matplotlib"
    folder.mkdir()
    font_manager.json_dump(manager, folder / f"fontlist-v{font_manager.FontManager.__version__}.json")
    return str(folder)


SHOW = """
    from matplotlib import font_manager
    from peft_viz import plot
    known = len(font_manager.fontManager.ttflist)
    own = [f for f in font_manager.fontManager.ttflist if "mpl-data" in f.fname]
    print(plot.legible({letter!r}), known == len(own))
    import matplotlib.pyplot as plt
    plt.figure().text(0, 0, {letter!r}, family=plot.fonts({letter!r}))
    plt.gcf().canvas.draw()  # warnings are errors here: a glyph that is missing is one
"""


@pytest.mark.skipif(not shutil.which("fc-list"), reason="there is no fontconfig")
def test_a_font_that_was_installed_after_the_list_was_made(tmp_path):
    own_font(tmp_path / "fonts", LETTER)
    config = tmp_path / "fonts.conf"
    ours = f"<dir>{tmp_path / 'fonts'}</dir><cachedir>{tmp_path / 'cache'}</cachedir>"
    all_others = '<include ignore_missing="yes">/etc/fonts/fonts.conf</include>'
    config.write_text(f'<?xml version="1.0"?><fontconfig>{ours}{all_others}</fontconfig>')
    env = dict(MPLCONFIGDIR=matplotlib_folder(tmp_path), FONTCONFIG_FILE=str(config))
    letters = LETTER + "词" * plot.drawable("词")  # the second where a Chinese font is installed
    assert in_a_new_process(SHOW.format(letter=letters), **env) == f"{letters} True"


def test_a_font_of_ones_own(tmp_path):
    code = f"""
        from matplotlib import font_manager, rcParams
        from peft_viz import plot
        font_manager.fontManager.addfont({str(own_font(tmp_path / "fonts", "ⰀA"))!r})
        rcParams["font.family"] = ["Letters Of Ours", "DejaVu Sans"]
        print(plot.legible("Ⰰ"), plot.fonts()[0], plot.fonts(mono=True)[0], plot.legible("\U0010fffd"))
    """
    assert in_a_new_process(code, PATH="") == "Ⰰ Letters Of Ours DejaVu Sans Mono ▯"


def test_a_dollar_sign_is_a_dollar_sign(figure):
    trace = recorded("LORA", batch([4, 11, 12]))
    trace.about["peft_type"] = trace.about["model_class"] = "$\\FRAC$"
    with plt.rc_context({"text.usetex": True}):
        ax = figure(trace)
    texts = [t for t in ax.figure.findobj(matplotlib.text.Text) if t.get_text()]
    assert not any(t.get_usetex() or t.get_parse_math() for t in texts)
    ax.figure.canvas.draw()
