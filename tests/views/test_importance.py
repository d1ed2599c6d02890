"What a part does is measured by taking it away, and the model is left as it was."

import matplotlib.pyplot as plt
import pytest, torch
from test_figures import llama
import small
from test_plot import METHODS, batch

from peft_viz import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model, plot
from peft_viz.recording.base_model import attention_layers

CLM = dict(task_type="CAUSAL_LM")
BATCH = batch([11, 12], [11, 12, 13, 14, 15])


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def wrapped(config, package=None, base=None):
    torch.manual_seed(1)
    return (package or get_peft_model)(base or llama(), config)


def state(model):
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), m.training, "forward" in vars(m))
        for m in model.modules()
    ]
    return (
        hooks,
        {n: p.clone() for n, p in model.state_dict().items()},
        [p.requires_grad for p in model.parameters()],
    )


def same(one, other):
    return (
        one[0] == other[0]
        and one[2] == other[2]
        and one[1].keys() == other[1].keys()
        and all(torch.equal(one[1][n], other[1][n]) for n in one[1])
    )


def test_a_hidden_token_is_a_token_that_is_not_there():
    "A prefix of two keys, one hidden: what the base model gives for this cache, with a mask that hides the key."
    model = wrapped(PrefixTuningConfig(num_virtual_tokens=2, **CLM)).eval()
    one = dict(input_ids=torch.tensor([[11, 12, 13]]), labels=torch.tensor([[11, 12, 13]]))
    found = plot.knock_out(model, one)
    for hidden in (0, 1):
        mask = torch.ones(1, 5, dtype=torch.long)
        mask[0, hidden] = 0
        with torch.no_grad():
            base, cache = model.get_base_model(), model.get_prompt(1)
            expected = base(**one, attention_mask=mask, past_key_values=cache).loss.item()
        assert found.tokens[hidden] == pytest.approx(expected, rel=1e-5) != found.loss
    with torch.no_grad():
        assert found.loss == model(**one).loss.item()
    assert set(found.heads) == {(layer, head) for layer in (0, 1) for head in range(4)} and not found.layers


def test_heads_that_see_no_virtual_token():
    "With the virtual tokens hidden from every head of every layer, a prefix does nothing but move the positions."
    from peft_viz.views import importance

    model = wrapped(PrefixTuningConfig(num_virtual_tokens=3, **CLM)).eval()
    ids = torch.tensor([[11, 12, 13]])
    given = dict(input_ids=ids, labels=ids)
    hide = torch.zeros(1, 4, 3, 6, dtype=torch.bool)
    hide[..., :3] = True
    layers = [m for _, m in attention_layers(model.get_base_model())]
    with torch.no_grad(), importance._hiding(layers, hide):
        hidden = model(**given).loss
    with torch.no_grad():
        assert torch.allclose(
            hidden, llama()(**given, position_ids=torch.tensor([[3, 4, 5]])).loss, rtol=1e-5
        )
    found = plot.knock_out(model, given, tokens=False)
    assert not found.tokens and all(loss != found.loss for loss in found.heads.values())


@pytest.mark.parametrize("attention", ("sdpa", "eager"))
@pytest.mark.parametrize("method", METHODS)
def test_it_is_the_same_for_both_ways_to_compute_attention(method, attention):
    torch.manual_seed(0)
    base = llama(attn_implementation=attention)
    given = batch([11, 12], [11, 12, 13, 14, 15], side="right")  # no query without a key
    found = plot.knock_out(wrapped(small.config(method), base=base), given)
    other = plot.knock_out(wrapped(small.config(method), base=llama()), given)
    for part in ("tokens", "heads", "layers"):
        one, two = getattr(found, part), getattr(other, part)
        assert one.keys() == two.keys() and list(one.values()) == pytest.approx(list(two.values()), rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_peft_models_have_the_same_importance(method):
    peft = pytest.importorskip("peft")
    ours = wrapped(small.config(method))
    name = {
        "LORA": "LoraConfig",
        "PROMPT_TUNING": "PromptTuningConfig",
        "PREFIX_TUNING": "PrefixTuningConfig",
    }[method]
    more = {} if method == "LORA" else dict(num_virtual_tokens=4)
    theirs = wrapped(getattr(peft, name)(**CLM, **more), peft.get_peft_model)
    theirs.load_state_dict(ours.state_dict())
    before = state(theirs)
    one, two = plot.knock_out(ours, BATCH), plot.knock_out(theirs, BATCH)
    assert one.loss == pytest.approx(two.loss, rel=1e-5) and one.method == two.method == method
    for part in ("tokens", "heads", "layers"):
        assert getattr(one, part).keys() == getattr(two, part).keys()
        assert list(getattr(one, part).values()) == pytest.approx(list(getattr(two, part).values()), rel=1e-4)
    assert one.without_adapter == pytest.approx(two.without_adapter, rel=1e-5) and same(before, state(theirs))


def test_an_adapted_layer_without_its_adapter():
    model = wrapped(LoraConfig(init_lora_weights=False, **CLM)).eval()
    found = plot.knock_out(model, BATCH)
    assert len(found.layers) == 4 and not found.tokens and not found.heads
    name = next(iter(found.layers))
    layer = model.get_base_model().get_submodule(name)
    layer.scaling["default"] = 0.0
    with torch.no_grad():
        assert model(**BATCH).loss.item() == pytest.approx(found.layers[name], rel=1e-6)
    with torch.no_grad():
        assert found.without_adapter == llama()(**BATCH).loss.item()


@pytest.mark.parametrize("training", (True, False))
@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_left_as_it_was(method, training):
    model = wrapped(small.config(method)).train(training)
    before, random = state(model), torch.get_rng_state()
    plot.knock_out(model, BATCH)
    assert same(before, state(model)) and torch.equal(random, torch.get_rng_state())
    with pytest.raises(ValueError, match="the batch needs labels"):
        plot.knock_out(model, {"input_ids": BATCH["input_ids"]})
    assert same(before, state(model))


@pytest.mark.parametrize("at", (0, 1, 2, 6))
def test_also_when_a_run_fails(at, monkeypatch):
    from peft_viz.views import importance

    model, runs = wrapped(small.config("PROMPT_TUNING")).train(), []
    before, loss = state(model), importance._loss

    def fails(*args):
        runs.append(0)
        if len(runs) > at:
            raise RuntimeError("out of memory")
        return loss(*args)

    monkeypatch.setattr(importance, "_loss", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        plot.knock_out(model, BATCH)
    assert same(before, state(model))


def test_the_figure_has_a_bar_for_each_part():
    model = wrapped(PromptTuningConfig(num_virtual_tokens=3, **CLM))
    found = plot.knock_out(model, BATCH)
    ax = plot.importance(found)
    bars = {p.get_gid(): p.get_width() for p in ax.patches if " token " in (p.get_gid() or "")}
    changes = {n: loss - found.loss for n, loss in found.tokens.items()}
    assert set(bars) == {f"{'rises' if c > 0 else 'falls'} token {n}" for n, c in changes.items()}
    first, second = (next(w for gid, w in bars.items() if gid.endswith(f" {n}")) for n in (0, 1))
    assert first / second == pytest.approx(abs(changes[0]) / abs(changes[1]), rel=1e-6)
    assert sum((p.get_gid() or "").startswith("head ") for p in ax.patches) == 8
    said = " ".join(t.get_text().replace("\n", " ") for t in ax.texts)
    assert (
        f"with everything it is {found.loss:.3f}" in said and f"adapter {found.without_adapter:.3f}" in said
    )
    for lang in ("en", "zh"):
        for inches in (3.4, 10):
            own = plt.figure(figsize=(inches, 2 * inches)).add_axes([0, 0, 1, 1])
            ax = plot.importance(found, ax=own, lang=lang, theme="dark")
            ax.figure.canvas.draw()
            w, h = ax.figure.canvas.get_width_height()
            for t in [*ax.texts, ax._left_title]:
                box = t.get_window_extent()
                assert -1 <= box.x0 and box.x1 <= w + 1 and -1 <= box.y0 and box.y1 <= h + 1, t.get_text()


def test_what_cannot_be_taken_away():
    model = wrapped(LoraConfig(init_lora_weights=False, **CLM))
    with pytest.raises(ValueError, match="nothing to take away"):
        plot.knock_out(llama(), BATCH)
    model.merge_adapter()
    with pytest.raises(ValueError, match="is merged: its update is in the weights"):
        plot.importance(model, BATCH)
