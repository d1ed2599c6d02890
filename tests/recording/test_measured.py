"What is measured inside of the base model: positions, next tokens, attention weights, digests, adapted layers."

import inspect
import random

import peft
import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

import families
import peft_viz
from peft_viz import layout, record, tiny_random, Trace
from peft_viz.recording import doors, measured, values
from peft_viz.recording.base_model import attention_layers
from peft_viz.recording.trace import pack, TraceError, unpack
from test_record_trust import left, strike

C = dict(task_type="CAUSAL_LM")
IDS = torch.tensor([[0, 0, 4, 5, 6, 7], [3, 4, 5, 6, 7, 8]])
MASK = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
BATCH = dict(input_ids=IDS, attention_mask=MASK)
GREEDY = dict(max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=0)
ODD = torch.tensor([[0, 0, 2, 4, 6, 9], [1, 3, 5, 7, 8, 11]])  # positions that no model would count by itself
EVERYTHING = dict(attention="full", digests=True, layers=2)


def wrapped(config, family="llama", package=peft_viz, **more):
    torch.manual_seed(0)
    return package.get_peft_model(tiny_random(family, **more), config(package)).eval()


def soft(package):
    return package.PromptTuningConfig(num_virtual_tokens=4, **C)


def prefix(package):
    return package.PrefixTuningConfig(num_virtual_tokens=4, **C)


def lora(package):
    return package.LoraConfig(init_lora_weights=False, **C)


PACKAGES = pytest.mark.parametrize("package", (peft_viz, peft), ids=("ours", "peft"))


def stages(trace):
    return [(layout.stage(trace, c)[0], c) for c in trace.base_calls]


# --- positions


def built(family):
    try:
        return families.tiny_model(family)
    except Exception as error:  # some need more than a small configuration, or a package that is not here
        pytest.skip(f"{family} cannot be built: {error!r:.60}")


def run(model, *more):
    "A recording of one forward, and of one with each of `more` besides."
    with record(model, next_tokens=0) as trace, torch.no_grad():
        try:
            for given in ({}, *more):
                model(input_ids=IDS, attention_mask=MASK, **given)
        except Exception as error:
            pytest.skip(f"{model.config.model_type} does not run: {error!r:.60}")
    return trace


class Rows:
    "Which rows of a table of positions came out of it, found by comparing with the whole table."

    def __init__(self, model):
        self.found = None
        for m, how, _ in measured.position_places(model):
            if how == "table" and isinstance(m, torch.nn.Embedding):
                m.register_forward_hook(self.look)

    def look(self, module, _args, out):
        distance = (out.detach()[..., None, :] - module.weight.detach()).abs().amax(-1)
        self.found = distance.argmin(-1) - getattr(module, "offset", 0)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_positions_of_every_family(family):
    """Where a model takes positions, it is told odd ones, and these are what was measured. The rows that come out of
    a table are those that were measured."""
    model = built(family)
    rows, takes = Rows(model), "position_ids" in inspect.signature(type(model).forward).parameters
    trace = run(model, *([dict(position_ids=ODD.clone())] if takes else []))
    how, found = layout.positions_how(trace), layout.positions(trace)
    assert how != "unknown" and (found is None) == (how == "none")
    if how == "none":
        return
    assert [len(row) for row in found] == [6, 6] and found[1] == [found[1][0] + i for i in range(6)]
    last = layout.positions(trace, trace.base_calls[-1])
    if rows.found is not None and rows.found.ndim > 1:
        assert rows.found.expand(2, -1).tolist() == last
    if takes and how != "mask":
        assert last == ODD.tolist()


@pytest.mark.parametrize("family", ("llama", "gpt2", "opt", "bloom", "gptj", "gpt_neox"))
@PACKAGES
def test_positions_of_padded_rows(family, package):
    "Left padding: LoRA's forward counts the padding where the model does, `generate` does not; a prefix is counted."
    known = {}
    for config in (lora, prefix):
        model = wrapped(config, family, package)
        with record(model) as trace:
            model(**BATCH)
            model.generate(**BATCH, **GREEDY)
        known[config] = {stage: layout.positions(trace, c) for stage, c in reversed(stages(trace))}
    hidden = known[lora]["prefill"][0][:2]  # what padding gets differs from one transformers to the next
    assert known[lora]["prefill"] == [[*hidden, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]
    assert known[lora]["decode"] == [[4], [6]] and known[prefix]["decode"] == (
        [[8], [10]] if families.V5 or family in ("opt", "bloom") else [[10], [10]]
    )
    assert known[prefix]["forward"][1] == known[prefix]["prefill"][1] == [4, 5, 6, 7, 8, 9]
    counted = family in ("opt", "bloom")  # from the mask
    at = 4 if families.V5 or counted else 6  # transformers 4 counts the padding here, too
    assert known[prefix]["prefill"][0][2:] == [at, at + 1, at + 2, at + 3]
    assert known[lora]["forward"][0][2:] == ([0, 1, 2, 3] if counted else [2, 3, 4, 5])


def test_falcon_counts_from_the_mask_when_it_has_biases():
    "With ALiBi the rotary embedding is there, too, and computes what nobody uses."
    torch.manual_seed(0)
    config = families.tiny_config("falcon", alibi=True, new_decoder_architecture=False)
    model = measured_model(config)
    trace = run(model)
    assert layout.positions_how(trace) == "mask"
    assert layout.positions(trace) == [[0, 0, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]


def measured_model(config):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config).eval()


def test_positions_in_several_directions():
    "An image: time, height and width; for text alone they are one."
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    text = dict(
        vocab_size=67, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    text |= dict(num_key_value_heads=2, rope_scaling=dict(type="mrope", mrope_section=[1, 1, 2]))
    vision = dict(depth=1, embed_dim=32, hidden_size=32, num_heads=4, patch_size=4)
    config = Qwen2VLConfig(text_config=text, vision_config=vision, pad_token_id=0)
    torch.manual_seed(0)
    model = Qwen2VLForConditionalGeneration(config).eval()
    planes = torch.stack([ODD, ODD + 1, ODD])
    with record(model) as trace, torch.no_grad():
        model(input_ids=IDS, attention_mask=MASK)
        model(input_ids=IDS, attention_mask=MASK, position_ids=planes)
    plain, told = trace.base_calls
    assert layout.positions(trace, plain)[1] == [0, 1, 2, 3, 4, 5]
    assert layout.positions(trace, told)[0] == [(p, p + 1, p) for p in ODD[0].tolist()]
    assert Trace.from_json(trace.to_json()) == trace


def test_a_compiled_or_silent_model_says_unknown(monkeypatch):
    monkeypatch.setattr(measured.PositionVisit, "look", lambda *_: None)
    model = wrapped(lora)
    with record(model) as trace:
        model(**BATCH)
    assert layout.positions_how(trace) == "unknown" and layout.positions(trace) is None


UNTURNED = (
    "smollm3 llama4_text cohere2 cohere2_moe exaone4 exaone_moe afmoe flint kolibri1 llama gemma2".split()
)


@pytest.mark.parametrize("family", [f for f in UNTURNED if f in families.FAMILIES])
def test_layers_without_positions(family):
    "Each attention layer once more, with the turns of other positions: these layers give the same."
    model, seen = built(family), {}
    attentions = attention_layers(model)
    for i, m in attentions:
        m.register_forward_pre_hook(
            lambda _m, args, kwargs, i=i: seen.update({i: (args, kwargs)}), with_kwargs=True
        )
    trace = run(model)
    told = trace.about.get("layers_without_positions", [])
    flipped = lambda turns: tuple(t.flip(-2) for t in turns) if isinstance(turns, tuple) else turns.flip(1)
    same = []
    for i, m in attentions:
        args, kwargs = seen[i]
        kwargs = {k: None if k.startswith("past") else v for k, v in kwargs.items()}  # the cache is full
        other = kwargs | dict(position_embeddings=flipped(kwargs["position_embeddings"]))
        with torch.no_grad():
            same += [i] if torch.equal(m(*args, **kwargs)[0], m(*args, **other)[0]) else []
    assert told == same and (told != []) == (family not in ("llama", "gemma2"))
    text = next(m.text for m in trace.story() if m.kind == "positions")
    assert ("none." in text) == (told != [])


class HomeMade(transformers.PreTrainedModel):
    "A model that transformers does not know: its positions are rows of a parameter or of a buffer."

    config_class = transformers.PretrainedConfig

    def __init__(self, shape, look_up, inside=False):
        super().__init__(transformers.PretrainedConfig(vocab_size=40, hidden_size=8, num_attention_heads=2))
        self.tokens, self.head, self.look_up = torch.nn.Embedding(40, 8), torch.nn.Linear(8, 40), look_up
        self.adds = PositionalEncoding(shape) if inside else None
        self.pos_emb = torch.nn.Parameter(torch.randn(shape))
        self.post_init()

    def forward(self, input_ids, attention_mask=None):
        at = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        table = self.pos_emb if self.adds is None else self.adds
        hidden = self.tokens(input_ids) + self.look_up(table, at)
        return transformers.modeling_outputs.CausalLMOutput(logits=self.head(hidden))


class PositionalEncoding(torch.nn.Module):
    "As in many a course: a table named `pe`."

    def __init__(self, shape):
        super().__init__()
        self.register_buffer("pe", torch.randn(shape))

    def forward(self, length):
        return self.pe[:, :length]


ROW, COUNTED = [0, 1, 2, 3, 4, 5], [[0, 0, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize(
    "shape, look_up, expected",
    (
        ((9, 8), lambda table, at: table[: at.shape[1]], [ROW, ROW]),
        ((1, 9, 8), lambda table, at: table[:, : at.shape[1]], [ROW, ROW]),
        ((9, 8), lambda table, at: table[None, 2:8], [[2, 3, 4, 5, 6, 7]] * 2),
        ((9, 8), lambda table, at: table[at], COUNTED),
        ((1, 9, 8), lambda table, at: table[0][at], COUNTED),
        ((9, 8), lambda table, at: torch.nn.functional.embedding(at, table), COUNTED),
        ((9, 8), lambda table, at: torch.sin(at)[..., None], None),
    ),
)
def test_positions_of_a_model_of_ones_own(shape, look_up, expected):
    "What is looked up is seen; of what is not, one cannot say that there is none."
    trace = run(HomeMade(shape, look_up).eval())
    assert layout.positions(trace) == expected
    assert layout.positions_how(trace) == ("table" if expected else "unknown")


def test_positions_that_a_module_adds_from_a_buffer():
    trace = run(HomeMade((1, 9, 8), lambda adds, at: adds(at.shape[1]), inside=True).eval())
    assert layout.positions(trace) == [ROW, ROW] and layout.positions_how(trace) == "table"


# --- next tokens


@PACKAGES
@pytest.mark.parametrize("side", ("left", "right"))
def test_next_tokens_stand_after_the_last_real_token(side, package):
    model = wrapped(soft, package=package)
    batch = BATCH if side == "left" else dict(input_ids=IDS.flip(1), attention_mask=MASK.flip(1))
    with record(model, next_tokens=3) as trace:
        logits = model(**batch).logits
    last = [-1, -1] if side == "left" else [-3, -1]
    for row, (said, at) in enumerate(zip(layout.next_tokens(trace), last)):
        chances, ids = logits[row, at].softmax(-1).topk(3)
        assert [i for i, _, _ in said] == ids.tolist()
        assert [p for *_, p in said] == pytest.approx(chances.tolist(), rel=1e-4)


@PACKAGES
@pytest.mark.parametrize("config", (soft, prefix, lora))
def test_the_token_taken(config, package):
    "Greedy: it is the likeliest one, and stands in what `generate` returns."
    model = wrapped(config, package=package)
    model.get_base_model().generation_config.eos_token_id = None
    with record(model) as trace:
        whole = model.generate(**BATCH, **GREEDY)
    for n, call in enumerate(trace.base_calls):
        taken = [i for i, _ in layout.taken(trace, call)]
        assert taken == whole[:, 6 + n].tolist() == [row[0][0] for row in layout.next_tokens(trace, call)]


def test_a_row_that_had_ended_takes_no_token():
    model, tokenizer = peft_viz.load_tiny()
    side = dict(return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    asked = tokenizer(["<sort>fig=", "<upper>letters="], **side)
    with torch.no_grad(), record(model, tokenizer=tokenizer) as trace:
        whole = model.generate(**asked, max_new_tokens=9)
    new, eos = whole[:, asked["input_ids"].shape[1] :].tolist(), tokenizer.eos_token_id
    seen = []
    for n, call in enumerate(trace.base_calls):
        over = [eos in row[:n] for row in new]
        ids = lambda pairs: [pair and pair[0] for pair in pairs]
        assert layout.ended(trace, call) == over
        assert ids(layout.taken(trace, call)) == [None if o else row[n] for o, row in zip(over, new)]
        assert ids(layout.filled(trace, call)) == [row[n] if o else None for o, row in zip(over, new)]
        seen.append(over)
    assert [True, False] in seen and "<pad>" not in str(trace.story())


def test_what_was_taken_from_beams_is_not_guessed():
    model = wrapped(soft)
    with record(model) as trace:
        model.generate(**BATCH, num_beams=2, **GREEDY)
    for a, b in zip(trace.base_calls, trace.base_calls[1:]):
        before, after = (layout.sequence(trace, c).rows for c in (a, b))
        for row, taken in enumerate(layout.taken(trace, a)):
            assert taken is None or taken[0] in {r.ids[-1] for r in after} and before[row].ids is not None


def test_no_next_tokens_on_request():
    with record(wrapped(soft), next_tokens=0) as trace:
        pass
    model = wrapped(soft)
    with record(model, next_tokens=0) as trace:
        model(**BATCH)
    assert layout.next_tokens(trace) is None and layout.taken(trace, trace.base_calls[0]) is None


# --- attention weights

WEIGHTS = (
    ("llama", {}),
    ("gpt2", {}),
    ("opt", {}),
    ("bloom", {}),
    ("gptj", {}),
    ("gpt_neox", {}),
    ("mpt", {}),
)


@pytest.mark.parametrize("family", [name for name, _ in WEIGHTS])
@pytest.mark.parametrize("config", (soft, prefix, lora))
def test_weights_are_those_that_eager_attention_returns(config, family):
    "The layers ran with PyTorch's attention function; the model itself says the weights when it computes by hand."
    model = wrapped(config, family)
    with record(model, attention="full") as trace, torch.no_grad():
        model(**BATCH)
    base = model.get_base_model()
    base.set_attn_implementation("eager")
    with torch.no_grad():
        weights = model(**BATCH, output_attentions=True).attentions
    check_weights(trace, trace.base_calls[0], weights)


def check_weights(trace, call, weights):
    seq = layout.sequence(trace, call)
    seeing = torch.tensor([[r != "padding" for r in row.roles[seq.query_start :]] for row in seq.rows])
    for layer, expected in enumerate(weights):
        found = torch.tensor(layout.weights(trace, call, layer))
        assert found.shape == expected.shape
        difference = (found - expected).abs().amax((1, 3))[seeing]  # what padding looks at is nobody's
        assert difference.max() < 1e-4
        virtual = torch.tensor([[r == "virtual" for r in row.roles] for row in seq.rows])[:, None, None]
        share = torch.tensor(layout.share(trace, call, each=True)[layer])
        assert torch.allclose(share, (found * virtual).sum(-1), atol=1e-3)


@pytest.mark.parametrize("family", ("gemma2", "mistral", "gpt_oss", "falcon"))
def test_weights_with_soft_caps_windows_and_sinks(family):
    torch.manual_seed(0)
    model = families.tiny_model(family, **({} if family in ("falcon", "gpt_oss") else dict(sliding_window=3)))
    with record(model, attention="full") as trace, torch.no_grad():
        weights = model(**BATCH, output_attentions=True).attentions
    if family != "gpt_oss":  # its weights come back without those of the sinks, too
        check_weights(trace, trace.base_calls[0], weights)
    sums = torch.tensor(layout.weights(trace, layer=0)).sum(-1)[1]
    assert (sums < 0.999).all() if family == "gpt_oss" else torch.allclose(sums, torch.ones(()), atol=1e-3)


@PACKAGES
def test_weights_of_decoding_steps(package):
    "Each step is checked against a forward of its own; a cache of fixed size has empty slots."
    model = wrapped(lora, package=package)
    for more in ({}, dict(cache_implementation="static")):
        with record(model, attention="full") as trace:
            whole = model.generate(**BATCH, **GREEDY, **more)
        mask = torch.cat([MASK, torch.ones(2, 3, dtype=torch.long)], 1)
        base = model.get_base_model()
        base.set_attn_implementation("eager")
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            full = model(whole, attention_mask=mask, position_ids=places, output_attentions=True).attentions
        base.set_attn_implementation("sdpa")
        for n, call in enumerate(trace.base_calls[1:]):
            found = torch.tensor(layout.weights(trace, call, 1))
            assert torch.allclose(found[:, :, 0], full[1][:, :, 6 + n, : 7 + n], atol=1e-3)


def test_output_attentions_leave_the_weights():
    model = wrapped(soft, attn_implementation="eager")
    model.get_base_model().set_attn_implementation("eager")
    with record(model) as trace, torch.no_grad():
        weights = model(**BATCH, output_attentions=True).attentions
    check_weights(trace, trace.base_calls[0], weights)


def test_share_alone_keeps_no_weights():
    model = wrapped(soft)
    with record(model, attention="share") as trace:
        model(**BATCH)
        model.generate(**BATCH, **GREEDY)
    for call in trace.base_calls:
        share = layout.share(trace, call)
        assert layout.weights(trace, call) is None and "share" in layout.no_weights(trace, call)
        assert len(share) == 2 and all(0 < s < 1 for rows in share.values() for heads in rows for s in heads)
    assert "not asked for" in layout.no_weights(trace, call, layer=7)


def test_what_is_too_much_is_not_kept_and_says_so(monkeypatch):
    monkeypatch.setattr(measured, "MAX_WEIGHTS", 1000)
    monkeypatch.setattr(measured, "PIECE", 100)  # computed a few queries at a time, all the same
    model = wrapped(soft)
    with record(model, attention="full") as trace:
        model(**BATCH)
    assert layout.weights(trace, layer=0) is not None and layout.weights(trace, layer=1) is None
    assert "1,000 weights at most" in layout.no_weights(trace, layer=1)
    with record(model, attention="full") as whole:
        monkeypatch.undo()
        model(**BATCH)
    for what in (layout.share, layout.weights):  # products of a few rows may differ in the last bit
        torch.testing.assert_close(*(torch.tensor(what(one)[0]) for one in (trace, whole)))


@pytest.mark.parametrize("given", ("all", 1, True))
def test_what_is_asked_for_is_checked_first(given):
    with pytest.raises(ValueError, match="attention should be"):
        record(wrapped(soft), attention=given)
    with pytest.raises((TypeError, ValueError), match="next_tokens should be"):
        record(wrapped(soft), next_tokens=-1 if given == "all" else 0.5)


# --- digests


@pytest.mark.parametrize("config", (soft, lora))
def test_digests_tell_runs_apart(config):
    "The same for ours and for peft's, other ones for another text."
    ours, theirs = (wrapped(config, package=package) for package in (peft_viz, peft))
    theirs.load_state_dict(ours.state_dict())
    found = []
    for model, batch in ((ours, BATCH), (theirs, BATCH), (ours, dict(BATCH, input_ids=IDS + 1))):
        with record(model, digests=True) as trace, torch.no_grad():
            model(**batch)
        found.append(layout.digests(trace))
        assert Trace.from_json(trace.to_json()) == trace
    a, b, c = found
    assert [d.what for d in a] == ["layer 0", "layer 1", "logits"] and [d.hash for d in a] == [
        d.hash for d in b
    ]
    assert all(x.hash != y.hash and x.norm != y.norm for x, y in zip(a, c))
    assert a[-1].shape[:2] == (2, 10 if config is soft else 6)


# --- adapted layers


@PACKAGES
def test_how_large_an_update_is(package):
    model = wrapped(lora, package=package)
    layer = next(m for m in model.modules() if hasattr(m, "lora_A"))
    seen = []
    hook = layer.register_forward_hook(lambda m, args, out: seen.append((args[0], out)))
    with record(model, layers=1) as trace, torch.no_grad():
        model(**BATCH)
    hook.remove()
    (facts,) = layout.lora(trace)
    x, out = seen[0]
    own = layer.base_layer(x)
    assert facts.ratio == pytest.approx(((out - own).norm() / own.norm()).item(), rel=1e-4)
    assert (facts.name, facts.a, facts.b) == ("model.layers.0.self_attn.q_proj", [8, 32], [32, 8])
    assert facts.product == [32, 32] and facts.scaling == {"default": 1.0} and not facts.merged
    model.merge_adapter()
    with record(model, layers=1) as trace, torch.no_grad():
        model(**BATCH)
    assert layout.lora(trace)[0].merged and layout.lora(trace)[0].ratio is None
    model.unmerge_adapter()
    with record(model, layers=1) as trace, torch.no_grad(), model.disable_adapter():
        model(**BATCH)
    assert layout.lora(trace)[0].adapters == [] and layout.lora(trace)[0].ratio == 0


@PACKAGES
def test_an_adapter_for_each_row(package):
    model = wrapped(lora, package=package)
    model.add_adapter("other", lora(package))
    with record(model, layers=2) as trace, torch.no_grad():
        model(**BATCH, adapter_names=["other", "default"])
    for facts in layout.lora(trace):
        assert facts.rows == ["other", "default"] and set(facts.adapters) == {"other", "default"}
        assert set(facts.parts) >= {"lora_A.other", "lora_A.default"}


METHODS = dict(
    ia3=lambda p: p.IA3Config(**C),
    adalora=lambda p: p.AdaLoraConfig(total_step=10, tinit=1, tfinal=1, init_lora_weights=False, **C),
    poly=lambda p: p.PolyConfig(n_tasks=2, target_modules=["q_proj", "v_proj"], **C),
    loha=lambda p: p.LoHaConfig(target_modules=["q_proj"], init_weights=False, **C),
)


@PACKAGES
@pytest.mark.parametrize("method", METHODS)
def test_other_adapted_layers(method, package):
    if method == "loha" and package is peft_viz:
        pytest.skip("peft alone has it")
    model = wrapped(METHODS[method], package=package)
    more = dict(task_ids=torch.tensor([0, 1])) if method == "poly" else {}
    with record(model, layers=9) as trace, torch.no_grad():
        model(**BATCH, **more)
    found = layout.lora(trace)
    assert found and all(f.parts and f.adapters == ["default"] for f in found)
    assert [f.ratio is None for f in found] == [method == "ia3" and "down" in f.name for f in found]
    assert (found[0].a is not None) == (method in ("adalora", "poly"))


# --- trust


@PACKAGES
@pytest.mark.parametrize("config", (soft, prefix, lora))
def test_everything_switched_on_changes_no_bit(config, package):
    torch.set_grad_enabled(True)  # another test's interrupt may have struck in the middle of `no_grad`
    model = wrapped(config, package=package)
    model.train()
    batch = dict(BATCH, labels=IDS)
    plain = model(**batch)
    plain.loss.backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    with record(model, **EVERYTHING) as trace:
        out = model(**batch)
        out.loss.backward()
    assert torch.equal(out.logits, plain.logits) and torch.equal(out.loss, plain.loss)
    for a, b in zip(gradients, [p.grad for p in model.parameters() if p.grad is not None], strict=True):
        assert torch.equal(a, b)
    assert not left(model) and Trace.from_json(trace.to_json()) == trace
    model.eval()
    text = model.generate(**BATCH, **GREEDY)
    with record(model, **EVERYTHING):
        assert torch.equal(model.generate(**BATCH, **GREEDY), text)
    assert not left(model)


def test_interrupts_with_everything_switched_on():
    model = wrapped(lora)
    plain = model(**BATCH).logits

    def go():
        with record(model, **EVERYTHING):
            model(**BATCH)

    total, rng = strike(None, go), random.Random(0)
    for n in sorted(rng.sample(range(2, total), 40)):
        strike(n, go)
        assert not left(model), n
    assert torch.equal(model(**BATCH).logits, plain)


@pytest.mark.parametrize(
    "place", ("alibi_positions", "next_tokens", "sdpa_weights", "summary", "layer_facts")
)
def test_what_fails_while_measuring_costs_only_itself(place, monkeypatch):
    def fail(*_args, **_more):
        raise RuntimeError("not today")

    monkeypatch.setattr(measured, place, fail)
    model = wrapped(lora, "bloom" if place == "alibi_positions" else "llama")
    plain = model(**BATCH).logits
    with pytest.warns(UserWarning, match="not today"), record(model, **EVERYTHING) as trace:
        assert torch.equal(model(**BATCH).logits, plain)
    assert len(trace.base_calls) == 1 and not left(model) and Trace.from_json(trace.to_json()) == trace


# --- what is kept


def test_ramps():
    rng = random.Random(0)
    for _ in range(200):
        numbers = [rng.choice((0, 1, 2, 5)) for _ in range(rng.randrange(20))]
        numbers += range(rng.randrange(9), rng.randrange(30))
        assert unpack(pack(numbers)) == numbers
    assert pack(list(range(5, 1000))) == {"ramps": [5, 995]} and pack([1] * 9) == {"runs": [1, 9]}


@pytest.mark.parametrize("side", ("left", "right"))
def test_long_positions_are_kept_whole(side):
    "As ramps: a few numbers for a row of any length."
    model = wrapped(lora, max_position_embeddings=8192)
    ids = torch.randint(3, 60, (2, 5000))
    mask = torch.ones_like(ids)
    mask[0, :100] = 0
    mask = mask if side == "left" else mask.flip(1)
    with record(model, next_tokens=0) as trace, torch.no_grad():
        model(input_ids=ids, attention_mask=mask)
    assert layout.positions(trace) == [list(range(5000))] * 2
    (index,) = trace.base_calls[0].measured.positions.values
    assert len(trace.value(index).packed["ramps"]) <= 4


@pytest.mark.parametrize(
    "change",
    (
        dict(positions=dict(how="rotary", values=[])),
        dict(positions=dict(how="none", values=[0])),
        dict(positions=dict(how="rotary", values=[10**6])),
        dict(next_tokens=dict(ids=0, probabilities=[[0.5]])),
        dict(weights=[dict(layer=0, share=dict(shape=[1, 2, 3], data="AAAA"))]),
        dict(weights=[dict(layer=0, full=dict(shape=[1, 1], data="AAAA"))]),
    ),
)
def test_what_does_not_fit_is_refused(change):
    model = wrapped(soft)
    with record(model) as trace:
        model(**BATCH)
    document = trace.to_dict()
    call = next(c for c in document["calls"] if c["kind"] == "base")
    call["measured"] = change
    with pytest.raises(TraceError):
        Trace.from_json(document)
    del call["measured"]  # as older recordings are
    older = Trace.from_json(document)
    assert layout.positions(older) is None and layout.next_tokens(older) is None and not layout.lora(older)


# --- an accelerator waits for each number that is read


class Reads(TorchDispatchMode):
    """Counts what is read from a device while a recording looks, and each copy of everything together. (Other modes
    than this one see nothing of it.)"""

    def __init__(self, monkeypatch):
        super().__init__()
        self.one_by_one, self.copies, self.here = 0, 0, False
        done = values.Reader._done

        def on_the_host(reader, then, tensors):
            self.here = True
            try:
                done(reader, then, tensors)
            finally:
                self.here = False

        monkeypatch.setattr(values.Reader, "_done", on_the_host)
        monkeypatch.setattr(doors, "_get_current_dispatch_mode_stack", list)  # it is not taken away

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ARG002
        if not self.here and func in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.nonzero.default,
        ):
            self.one_by_one += 1
        if func is torch.ops.aten._to_copy.default and (kwargs or {}).get("device") == torch.device("cpu"):
            self.copies += 1
        return func(*args, **(kwargs or {}))


def told(trace):
    "Everything that a recording says, without the numbers of the values."
    what = lambda i: None if i is None else repr(told_value(trace, trace.value(i)))
    return [
        (
            c.function,
            {n: what(i) for n, i in (c.args | c.outputs).items()},
            what(c.returned),
            [[(ch.name, ch.how, what(ch.value)) for ch in s.changes] for s in c.steps],
            [(a["layers"], what(a["value"]), a["how"]) for a in c.attention],
            layout.positions(trace, c) if c.kind == "base" else None,
            layout.next_tokens(trace, c) if c.kind == "base" else None,
            c.measured and (c.measured.weights, c.measured.digests, c.measured.adapted),
        )
        for c in trace.calls
    ]


def told_value(trace, v):
    if v.items is None:
        return v, v.data
    items = v.items.items() if isinstance(v.items, dict) else enumerate(v.items)
    return v.type, v.length, [(n, told_value(trace, trace.value(i))) for n, i in items]


@PACKAGES
@pytest.mark.parametrize("config", (soft, prefix, lora))
@pytest.mark.parametrize("asked", ({}, EVERYTHING), ids=("plain", "everything"))
def test_one_read_for_each_call_of_the_base_model(asked, config, package, monkeypatch):
    """There is no accelerator here. So the CPU is taken for one: nothing is read but together, once for a call of the
    base model and once at the end, and the recording is the same."""
    model = wrapped(config, package=package)
    for go in (lambda: model(**BATCH, labels=IDS), lambda: model.generate(**BATCH, **GREEDY)):
        with torch.no_grad(), Reads(monkeypatch) as plain:
            go()
        with record(model, **asked) as near, torch.no_grad():
            go()
        with monkeypatch.context() as patch:
            patch.setattr(values, "waits", lambda device: device.type != "meta")
            reads = Reads(patch)
            with reads, record(model, **asked) as far, torch.no_grad():
                go()
        calls = len(far.base_calls)
        early = calls if asked else 0  # where virtual tokens stand is asked for before
        assert reads.one_by_one == plain.one_by_one
        assert calls <= reads.copies - plain.copies <= calls + early + 1
        assert told(far) == told(near)
