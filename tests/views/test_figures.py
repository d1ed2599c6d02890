"The figures of what was measured: what is drawn is checked against values computed here."

import json, math, warnings
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest, torch
import small
from matplotlib.patches import Rectangle
from test_plot import METHODS, TOKENIZER, batch, chips, lines, recorded
from transformers import LlamaConfig, LlamaForCausalLM

from peft_viz import CPTConfig, LoraConfig, PromptTuningConfig, get_peft_model, layout, plot, record
from peft_viz.views import sheet, strips, viewer

V = 4  # virtual tokens
SHORT, LONG = [11, 12], [11, 12, 13, 14, 15]


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def llama(**more):
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    config = LlamaConfig(
        vocab_size=64, num_key_value_heads=2, pad_token_id=0, eos_token_id=63, **sizes, **more
    )
    return LlamaForCausalLM(config).eval()


def watched(config, b=None, generate=0, base=None, **options):
    torch.manual_seed(1)
    model = get_peft_model(base or llama(), config).eval()
    b = b or batch(SHORT, LONG)
    with record(model, TOKENIZER, **options) as trace, torch.no_grad():
        if not generate:
            model(**b)
            return trace
        del b["labels"]
        model.generate(**b, max_new_tokens=generate, min_new_tokens=generate, do_sample=False)
    return trace


@pytest.fixture(scope="module")
def prompt():
    return watched(small.config("PROMPT_TUNING"), generate=3)


@pytest.fixture(scope="module")
def prefix():
    return watched(small.config("PREFIX_TUNING"), attention="full")


@pytest.fixture(scope="module")
def lora():
    return watched(LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False), layers=4)


def texts(ax):
    return [t.get_text().replace("\n", " ").replace("\xa0", " ") for t in [*ax.texts, ax._left_title]]


def boxes(ax, *starts):
    "gid -> (width, height) of the rectangles whose gid begins so."
    found = {p.get_gid(): p for p in ax.patches if (p.get_gid() or "").startswith(starts)}
    return {gid: (p.get_width(), p.get_height()) for gid, p in found.items()}


# ---- positions


def test_positions_told_and_used(prefix):
    ax = plot.positions(prefix, rows=1)
    shown = {}
    for t in ax.texts:
        x, y = t.get_position()
        if x == round(x) and t.get_text().isdigit():
            shown.setdefault(round(y, 3), {})[int(x)] = int(t.get_text())
    used = {V + k: p for k, p in enumerate(layout.positions(prefix)[0])}
    assert used in shown.values()
    assert used == {4: 4, 5: 5, 6: 6, 7: 7, 8: 8}  # the padding on the left is counted in a forward
    assert any("seen in the rotary embedding" in t for t in texts(ax))


def test_positions_go_back_through_the_cache(prompt):
    last = prompt.base_calls[-1]
    expected = [p for c in prompt.base_calls for p in layout.positions(prompt, c)[1]]
    assert (
        strips.used_positions(prompt, last, 1) == expected
        and len(expected) == layout.sequence(prompt, last).length
    )
    ax = plot.positions(prompt, last)
    assert [str(p) for p in expected] == [
        t.get_text() for t in ax.texts if t.get_text().isdigit() and t.get_position()[0] % 1 == 0
    ][-len(expected) :]


def test_positions_behind_a_prefix():
    trace = watched(small.config("PREFIX_TUNING"), generate=3)
    own = [p for c in trace.base_calls for p in layout.positions(trace, c)[0]]
    assert (
        strips.used_positions(trace, trace.base_calls[-1], 0) == [None] * V + own
    )  # keys of a prefix have no position


def test_positions_that_were_not_measured_say_so(prompt):
    trace = watched(small.config("LORA"))
    trace.base_calls[0].measured = None
    said = texts(plot.positions(trace))
    assert said.count("not measured") == 2 and any("were not measured" in t for t in said)
    assert "未测量" in texts(plot.positions(trace, lang="zh"))


def test_numbers_in_cells_that_are_too_narrow():
    assert sheet.shortened("abcdefgh", 1) == "abcdefgh"
    assert strips.number_runs(["", "1", "1", "1", "2", "3", "4"]) == [(2, 3, "1"), (5, 3, "2–4")]
    assert strips.number_runs(["7", "5", "", "6"]) == [(0, 1, "7"), (1, 1, "5"), (3, 1, "6")]
    trace = watched(small.config("PROMPT_TUNING"), batch([1 + k % 60 for k in range(400)]))
    assert "0–403" in texts(plot.positions(trace))


# ---- the cache


def test_the_cache_call_by_call(prompt):
    ax = plot.cache(prompt)
    rows = lines(ax, 20)
    roles = ["virtual"] * V + ["padding"] * 3 + ["token"] * 2 + ["generated"] * 2
    assert [[row[k][0] for k in sorted(row)] for row in rows[:3]] == [roles[:9], roles[:10], roles[:11]]
    new = [(round(p.get_x() + 0.5), round(p.get_width())) for p in ax.patches if p.get_gid() == "new"]
    assert new == [(0, 9), (9, 1), (10, 1)]  # what each call put there
    assert [t for t in texts(ax) if t.endswith("kept")] == ["9 kept", "10 kept", "11 kept"]


def test_a_prefix_is_there_before_the_first_call(prefix):
    ax = plot.cache(prefix)
    new = [(round(p.get_x() + 0.5), round(p.get_width())) for p in ax.patches if p.get_gid() == "new"]
    assert new == [(V, 5)]


def test_without_a_cache_the_figure_says_so():
    trace = watched(small.config("LORA"), base=llama(use_cache=False))
    said = texts(plot.cache(trace))
    assert (
        "no cache came back" in said
        and "read by this call" in said
        and any("no cache, 1 call" in t for t in said)
    )


def test_many_calls_are_folded():
    trace = watched(small.config("LORA"), generate=12)
    said = texts(plot.cache(trace, most=6))
    assert sum(t.endswith("kept") for t in said) == 6 and "… 6 more calls" in said
    with pytest.raises(ValueError, match="made no call of the base model"):
        plot.cache(trace, next(c for c in trace.calls if c.kind != "base" and c.parent is not None))


# ---- branches


def circles(ax):
    found = [p.get_gid().split() for p in ax.patches if isinstance(p, matplotlib.patches.Circle)]
    return {int(n) for word, n in found if word == "ran" and n != "else"}, {
        int(n) for word, n in found if word == "skipped" and n != "else"
    }


@pytest.mark.parametrize("method", METHODS)
def test_the_way_through_a_call(method):
    trace = watched(small.config(method))
    ax = plot.branches(trace)
    found = layout.branches(trace, 0)
    ran, skipped = circles(ax)
    assert ran <= set(found.executed) and not skipped & set(found.executed)
    decided = {b["line"] for b in found.branches}
    assert decided <= ran | skipped  # every decision is there
    for b in found.branches:
        assert (b["line"] in ran) == bool(b["outcomes"])
    said = [t for t in texts(ax) if t in ("yes", "no")]
    assert said.count("yes") == sum(b["outcomes"] == [True] for b in found.branches)
    assert said.count("no") == sum(b["outcomes"] == [False] for b in found.branches)


def test_methods_take_different_ways():
    ways = {m: frozenset(circles(plot.branches(watched(small.config(m))))[0]) for m in METHODS}
    assert len(set(ways.values())) == len(METHODS)


def test_a_call_that_was_not_watched_has_no_branches(prompt):
    with pytest.raises(ValueError, match="not watched line by line"):
        plot.branches(prompt, prompt.base_calls[0])


# ---- next tokens


def test_next_tokens_are_those_of_the_logits(prompt):
    torch.manual_seed(1)
    model = get_peft_model(llama(), small.config("PROMPT_TUNING")).eval()
    b = batch(SHORT, LONG)
    with torch.no_grad():
        logits = model(**b).logits[:, -1]
    best = logits.softmax(-1).topk(5)
    ax = plot.next_tokens(prompt)
    bars = [p for p in ax.patches if (p.get_gid() or "").startswith(("token ", "generated "))]
    assert [int(p.get_gid().split()[1]) for p in bars] == best.indices.flatten().tolist()
    wide = np.array([p.get_width() for p in bars]).reshape(2, 5)
    ratio = best.values.numpy() / best.values.numpy()[:, :1]
    assert np.allclose(wide / wide[:, :1], ratio, atol=1e-3)
    assert [p.get_gid().split()[0] for p in bars] == (
        ["generated"] + ["token"] * 4
    ) * 2  # greedy: the first was taken
    trace = watched(small.config("LORA"), next_tokens=0)
    with pytest.raises(ValueError, match="were not measured"):
        plot.next_tokens(trace)


# ---- weights


def test_colours_are_as_strong_as_the_weights(prefix):
    ax = plot.attention(prefix, row=1, layer=1, head=2)
    weights = np.array(layout.weights(prefix, layer=1)[1][2])
    assert np.allclose(ax.images[0].get_alpha(), 0.1 + 0.9 * np.sqrt(weights / weights.max()))
    shares = [f"{100 * s:.0f}" for s in weights[:, :V].sum(1)]
    at_the_right = [t.get_text() for t in ax.texts if t.get_position()[0] > weights.shape[1] - 0.5]
    assert at_the_right == ["◆ %", *shares]
    assert any("head 2" in t for t in texts(ax)) and any(
        "mean of 4 heads" in t for t in texts(plot.attention(prefix))
    )
    with pytest.raises(ValueError, match="no head 4: layer 0 has heads 0 to 3"):
        plot.attention(prefix, head=4)
    with pytest.raises(ValueError, match="no head 'all': layer 0 has heads 0 to 3"):
        plot.attention(prefix, head="all")


@pytest.mark.parametrize("head", (0, 99))
def test_a_head_alone_wants_its_weights(prompt, head):
    "Without weights the mask is drawn, which is no head's own."
    with pytest.raises(ValueError, match=f"head {head} of layer 0 cannot be drawn alone.*attention='full'"):
        plot.attention(prompt, head=head)
    assert plot.attention(prompt).images


@pytest.mark.parametrize(
    "options, name, formula",
    (
        ({}, "LoRA", "W x + (α/r) B A x"),
        ({"use_rslora": True}, "rsLoRA", "W x + (α/√r) B A x"),
        ({"use_dora": True}, "DoRA", "m ⊙ (W x + (α/r) B A x) / ‖W + (α/r) B A‖"),
        (
            {"use_dora": True, "use_rslora": True},
            "DoRA + rsLoRA",
            "m ⊙ (W x + (α/√r) B A x) / ‖W + (α/√r) B A‖",
        ),
    ),
)
def test_a_form_of_lora_is_called_by_its_name(options, name, formula):
    trace = watched(LoraConfig(task_type="CAUSAL_LM", **options))
    assert layout.describe(trace, trace.base_calls[0]).startswith(f"{name}: ")
    assert f"{name} works inside the layers" in " ".join(str(trace.story()).split())
    assert formula in texts(plot.story(trace))
    assert f"<title>{name} on" in viewer.page(trace)


def test_the_map_of_shares(prefix):
    grid = np.array(plot.share(prefix, row=1).images[0].get_array())
    for layer in (0, 1):
        weights = np.array(layout.weights(prefix, layer=layer)[1])  # of a row without padding
        assert np.allclose(grid[layer], weights[:, :, :V].sum(-1).mean(-1), atol=1e-3)
    with pytest.raises(ValueError, match=r"record\(model, attention='share'\)"):
        plot.share(watched(small.config("LORA")))
    with pytest.raises(ValueError, match="there are no virtual tokens"):
        plot.share(watched(small.config("LORA"), attention="share"))


def test_one_row_is_no_mean():
    one = watched(small.config("PREFIX_TUNING"), batch(LONG), attention="share")
    (title,) = {" ".join(plot.share(one, row=row)._left_title.get_text().split()) for row in (None, 0)}
    assert "row" in title and "mean" not in title


@pytest.mark.parametrize("virtual, length", ((40, 11), (1, 1), (20, 300)))
def test_figures_fit_a_column_with_legible_letters(virtual, length):
    "7.8 inches at most, and no text smaller than 12 pixels where such a figure is 740 pixels wide."
    ids = [k % 15 + 1 for k in range(length)]
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=virtual)
    trace = watched(config, batch(ids, ids[: max(1, length // 2)]), attention="full")
    for name, draw in plot.FIGURES.items():
        if name == "lora":
            continue
        ax = draw(trace)
        width = ax.figure.get_size_inches()[0]
        assert width < 7.81, name
        small_ones = {t.get_text() for t in ax.texts if t.get_fontsize() * 740 / 7.8 / 72 < 11.9}
        assert not small_ones, name
        plt.close(ax.figure)


def test_what_stands_on_stripes(prompt):
    "Cells too narrow for a letter each: how many of a thing, or what the texts read together."
    trace = watched(PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=52))
    told = texts(plot.labels(trace))
    assert {"◆ × 52", "-100 × 55", "-100 × 52", "abcde"} <= set(told)
    assert strips.run_text([(None, "long", "")] * 3, 0.3) == ""
    ax = plot.story(trace)
    assert {"1 × 52", "-100 × 52"} <= set(texts(ax))  # of the new ones: a text goes over no outline's edge
    ax.figure.canvas.draw()
    edges = [p.get_window_extent() for p in ax.patches if p.get_gid() == "new"]
    for told in (t.get_window_extent() for t in ax.texts if "×" in t.get_text()):
        across = [e for e in edges if told.overlaps(e)]
        assert all(e.x0 <= told.x0 and told.x1 <= e.x1 for e in across)


def test_why_labels_became_ignored():
    "CPT counts a label by the type of its token; a prefix or prompt in front loses none."
    b, ids = batch(SHORT, LONG), dict(cpt_token_ids=[5, 6, 7, 8], cpt_tokens_type_mask=[1, 2, 3, 4])
    cpt = CPTConfig(task_type="CAUSAL_LM", **ids)
    for kind, said in ((1, "a label counts only where the type of its token is a multiple of 4"), (4, "")):
        b["input_type_mask"] = torch.full_like(b["input_ids"], kind)
        told = " ".join(texts(plot.labels(watched(cpt, b))))
        assert said in told and "none of your tokens stands before it" not in told
        assert ("became -100" in told) is bool(said)


# ---- parameters and updates


def test_areas_are_counts():
    model = get_peft_model(llama(), small.config("PREFIX_TUNING"))
    counts = plot.parameter_counts(model)
    own = V * 2 * 2 * 2 * 8  # virtual tokens, layers, keys and values, heads, their size
    assert counts == {None: (0, sum(p.numel() for p in llama().parameters())), "default": (own, 0)}
    sizes = {gid: w * h for gid, (w, h) in boxes(plot.parameters(model), "trained ", "frozen ").items()}
    assert math.isclose(
        sizes["trained default"] / sizes["frozen base model"], own / counts[None][1], rel_tol=1e-6
    )


def test_each_adapter_has_its_square():
    model = get_peft_model(llama(), LoraConfig(task_type="CAUSAL_LM"), adapter_name="one")
    model.add_adapter("two", LoraConfig(task_type="CAUSAL_LM", r=2))
    assert set(boxes(plot.parameters(model), "trained ", "frozen ")) == {
        "frozen base model",
        "trained one",
        "frozen two",
    }
    counts, (trained, every) = plot.parameter_counts(model), model.get_nb_trainable_parameters()
    assert counts["one"] == (trained, 0) and sum(map(sum, counts.values())) == every
    plain = llama()
    assert plot.parameter_counts(plain) == {None: (sum(p.numel() for p in plain.parameters()), 0)}
    two = {"ours": model, "plain": plain}
    assert {"ours", "plain"} <= set(texts(plot.parameters(two)))


def test_bars_of_updates(lora):
    followed = layout.lora(lora)
    bars = {gid: w for gid, (w, _) in boxes(plot.lora(lora), "model.").items()}
    assert bars.keys() == {one.name for one in followed} and len(bars) == 4
    a, b = followed[:2]
    assert math.isclose(bars[a.name] / bars[b.name], a.ratio / b.ratio, rel_tol=1e-6)
    assert f"{a.ratio:.1%}" in texts(plot.lora(lora)) and any(
        t.startswith("B [32, 8] · A [8, 32]") for t in texts(plot.lora(lora))
    )
    largest = {one.name for one in sorted(followed, key=lambda one: one.ratio)[-2:]}
    assert boxes(plot.lora(lora, most=2), "model.").keys() == largest
    assert plot.lora(lora).get_title(loc="left").startswith("LoRA: updates of 4 layers")
    followed[0].ratio, followed[0].merged = None, True
    assert "merged into the weights: not told apart" in texts(plot.lora(lora))
    assert "… 3 more layers, with smaller updates" in texts(plot.lora(lora, most=1))
    assert "… 1 more layer, with smaller updates" in texts(plot.lora(lora, most=3))
    with pytest.raises(
        ValueError,
        match=r"no adapted layer was followed in call \d+: record it again with record\(model, layers=4\)",
    ):
        plot.lora(watched(small.config("LORA")))


def test_each_of_several_adapters_has_its_rank_and_scaling():
    model = get_peft_model(llama(), LoraConfig(task_type="CAUSAL_LM", r=4))
    model.add_adapter("second", LoraConfig(task_type="CAUSAL_LM", r=2))
    model.base_model.set_adapter(["default", "second"])
    with torch.no_grad(), record(model, layers=1) as trace:
        model(torch.arange(6)[None])
    assert "default: r 4, scaling 2 · second: r 2, scaling 4" in texts(plot.lora(trace))


# ---- comparison


def test_a_comparison_is_a_table(prompt):
    import peft_viz

    other = watched(small.config("PREFIX_TUNING"), generate=3)
    found = peft_viz.compare(prompt, other)
    ax = plot.compare(prompt, other)
    heads = [t.get_text() for t in ax.texts if t.get_fontweight() == "bold"]
    assert len(heads) == len(found.differences) > 3
    assert all(h.startswith(d.what) for h, d in zip(heads, found.differences))
    assert f"{len(heads)} differences" in texts(ax)
    assert f"… and {len(heads) - 2} more" in texts(plot.compare(found, most=2))
    assert "nothing differs" in texts(plot.compare(prompt, prompt))


# ---- any of them

ALL = sorted(plot.FIGURES)


@pytest.fixture(scope="module")
def rich():
    "A recording that has something for every figure."
    b = batch([11, 12, 13, 9, 8], [2])
    config = small.config("PROMPT_TUNING")
    return watched(config, b, attention="full"), watched(small.config("LORA"), b, layers=4, attention="full")


@pytest.mark.parametrize("lang", ("en", "zh"))
@pytest.mark.parametrize("inches", (None, 3.3, 10))
@pytest.mark.parametrize("name", ALL)
def test_texts_stay_on_the_paper_and_apart(rich, name, inches, lang):
    trace = rich[name == "lora"]
    ax = None if inches is None else plt.figure(figsize=(inches, 3 * inches)).add_axes([0, 0, 1, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ax = plot.FIGURES[name](trace, ax=ax, lang=lang)
        ax.figure.canvas.draw()
    w, h = ax.figure.canvas.get_width_height()
    drawn = [t for t in [*ax.texts, ax._left_title] if t.get_text()]
    found = [t.get_window_extent() for t in drawn]
    for t, box in zip(drawn, found):
        assert -1 <= box.x0 and box.x1 <= w + 1 and -1 <= box.y0 and box.y1 <= h + 1, t.get_text()
    for k, one in enumerate(found):
        for t, other in zip(drawn[:k], found[:k]):
            across = min(one.x1, other.x1) - max(one.x0, other.x0)
            down = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert across <= 2 or down <= 3, (drawn[k].get_text(), t.get_text())


def test_titles_are_readable_in_a_column(rich):
    for name in ALL:
        ax = plt.figure(figsize=(3.4, 9)).add_axes([0, 0, 1, 1])
        ax = plot.FIGURES[name](rich[name == "lora"], ax=ax)
        assert ax._left_title.get_fontsize() > 9, name


@pytest.mark.parametrize("style", ("dark_background", "seaborn-v0_8-darkgrid", "ggplot", "fast"))
def test_styles(rich, style):
    with plt.style.context(style):
        for name in ALL:
            ax = plot.FIGURES[name](rich[name == "lora"])
            paper = matplotlib.colors.to_hex(plt.rcParams["figure.facecolor"])
            assert matplotlib.colors.to_hex(ax.figure.get_facecolor()) == paper
            ink = matplotlib.colors.to_rgb(ax._left_title.get_color())
            assert (sum(ink) > 1.5) == (style == "dark_background")
            assert not any(s.get_visible() for s in ax.spines.values())
            plt.close(ax.figure)


def test_a_large_batch_and_no_tokenizer():
    ids = torch.arange(8 * 300).reshape(8, 300) % 60 + 1
    model = get_peft_model(
        llama(max_position_embeddings=512), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    )
    with record(model.eval()) as trace, torch.no_grad():
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids)
    for name in set(ALL) - {"share", "lora", "attention"}:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ax = plot.FIGURES[name](trace)
            ax.figure.canvas.draw()
        assert max(ax.figure.get_size_inches()) < 18, name
        plt.close(ax.figure)


def test_a_mask_of_four_dimensions():
    ids = torch.tensor([[1, 2, 3, 4]])
    mask = torch.ones(1, 1, 4, 4, dtype=torch.bool).tril()
    mask[..., 3, 1] = False
    model = get_peft_model(llama(), small.config("LORA")).eval()
    with record(model) as trace, torch.no_grad():
        model(input_ids=ids, attention_mask=mask, labels=ids)
    assert np.array_equal(np.asarray(plot.attention(trace).images[0].get_array()) > 0, mask[0, 0].numpy())
    for name in ("story", "labels", "sequence", "positions", "cache", "next_tokens"):
        plot.FIGURES[name](trace).figure.canvas.draw()


def test_every_word_is_there_in_both_languages():
    from peft_viz.views import (
        branches,
        cache,
        curves,
        differences,
        grids,
        importance,
        next_tokens,
        parameters,
    )

    tables = [cache.CACHE, branches.BRANCHES, differences.COMPARE, grids.SHARE, importance.IMPORTANCE]
    tables += [curves.CURVES, next_tokens.NEXT, parameters.PARAMETERS, parameters.UPDATES, plot.WORDS]
    for table in tables:
        fields = {
            lang: {k: set(__import__("re").findall(r"{(\w+)", v)) - {"s", "cs"} for k, v in words.items()}
            for lang, words in table.items()
        }
        assert fields["en"] == fields["zh"]


def test_a_trace_that_was_saved_draws_the_same(rich, tmp_path):
    from peft_viz import Trace

    again = Trace.load(rich[0].save(tmp_path / "t.json"))
    assert json.loads((tmp_path / "t.json").read_text())
    for name in set(ALL) - {"lora"}:
        one, other = (plot.FIGURES[name](t) for t in (rich[0], again))
        assert texts(one) == texts(other) and sorted(chips(one)) == sorted(chips(other))


def test_recorded_of_test_plot_is_the_same_model():
    assert recorded("LORA", batch(SHORT)).about["model_class"] == "LlamaForCausalLM"


def test_what_is_not_there_is_said_with_what_to_do(prompt):
    plain = watched(small.config("PROMPT_TUNING"))
    for figure, said in (
        (plot.share, r"without attention weights: record it again with record\(model, attention='share'\)"),
        (plot.lora, r"record it again with record\(model, layers=4\)"),
    ):
        with pytest.raises(ValueError, match=said):
            figure(plain)
    for figure in plot.FIGURES.values():
        with pytest.raises(ValueError, match="there is no call 999: this trace has"):
            figure(prompt, 999)


def test_nothing_is_too_small_in_a_column(prompt, prefix):
    "What is laid out for a narrow column is as large as anywhere: fewer letters to a line, not smaller ones."
    for figure, trace in ((plot.story, prefix), (plot.sequence, prompt), (plot.labels, prefix)):
        for width in (3.3, 6.3):
            fig, ax = plt.subplots(figsize=(width, 30), layout="constrained")
            assert min(t.get_fontsize() for t in figure(trace, ax=ax).texts if t.get_text()) >= 6.9
            assert sheet.inches(ax)[0] > 0.95 * width  # ticks take no room


def test_lines_end_where_a_reader_expects_it():
    shape = sheet.in_lines(
        "The base model gets inputs_embeds [2, 10, 96], labels [2, 10]: all of it.", 2.0, 5.1
    )
    assert all(line.count("[") == line.count("]") for line in shape) and len(shape) > 2
    chinese = sheet.in_lines("你传入 2 行，每行 5 个词元。填充：第\xa00\xa0行左侧 2 个。", 1.0, 5.1)
    assert "".join(chinese).replace(" ", "") == "你传入2行，每行5个词元。填充：第0行左侧2个。"
    assert not any(line[0] in "，。：个行" for line in chinese)
    assert sheet.in_lines("abc def ghi", 9, 5.1, first=0.1) == ["abc def ghi"]


def test_the_story_uses_the_room_that_there_is(prompt):
    sizes, xs = {}, {}
    for name, size in dict(column=(6.3, 20), projector=(13.33, 7.5)).items():
        fig, ax = plt.subplots(figsize=size, layout="constrained")
        plot.story(prompt, prompt.base_calls[0], ax=ax)
        dots = [p for p in ax.patches if isinstance(p, matplotlib.patches.Circle)]
        xs[name], sizes[name] = {round(d.center[0], 2) for d in dots}, min(t.get_fontsize() for t in ax.texts)
        numbers = [t.get_text() for t in ax.texts if t.get_fontweight() == "bold"]
        assert numbers == [str(k + 1) for k in range(len(dots))]
        fig.canvas.draw()
        boxes = [t.get_window_extent() for t in ax.texts if t.get_text()]
        assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])
    assert len(xs["column"]) == 1 and len(xs["projector"]) == 2  # sections stand beside each other
    assert sizes["projector"] > 1.3 * sizes["column"] >= 9


NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "nbs" / "views" / "figures").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_saved_picture_says_what_is_on_it_and_is_small(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        pictures = [
            o["data"]["image/png"] for o in cell.get("outputs", ()) if "image/png" in o.get("data", {})
        ]
        if pictures:
            assert any(line.startswith("#| fig-alt: ") for line in cell["source"]), "".join(cell["source"])
        assert all(len("".join(picture)) < 80_000 for picture in pictures)


def test_a_sentence_quotes_only_what_can_be_drawn(prompt):
    assert sheet.written("written: '\U0010fffd'\nand a 词") == "written: '▯'\nand a 词"
    assert sheet.written("plain") == "plain"
    trace = watched(small.config("LORA"), batch([7, 11]), generate=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a letter without a glyph is a warning
        plot.story(trace).figure.canvas.draw()


@pytest.mark.parametrize("hatch", [None, "//"])
def test_a_box_is_drawn_as_a_rectangle_of_matplotlib(hatch):
    "It has no transformation of its own; not one pixel is another one."
    drawn = []
    for shape in (sheet.Box, Rectangle):
        figure = plt.figure(figsize=(2, 1.5))
        ax = figure.add_axes([0.1, 0.1, 0.8, 0.8], xlim=(-0.5, 7), ylim=(5, -0.5))
        for k in range(5):
            look = dict(facecolor="#e69f00", edgecolor="#444", linewidth=k / 2, hatch=hatch)
            ax.add_artist(shape((k + 0.04, k / 3), 0.92, 1.37, **look))
        figure.canvas.draw()
        drawn.append(np.asarray(figure.canvas.buffer_rgba()).copy())
        plt.close(figure)
    assert (drawn[0] == drawn[1]).all() and len(np.unique(drawn[0])) > 5
