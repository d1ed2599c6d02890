"Layouts say what a trace means; here they are compared with facts worked out another way."

import json, sys
from itertools import combinations

import peft, pytest, torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    MistralConfig,
    MistralForCausalLM,
)

import small
import peft_viz
from families import V5
from peft_viz import layout, record
from peft_viz import trace as trace_module
from peft_viz.recording.layout import MARKS

V, METHODS = 4, ("LORA", "PROMPT_TUNING", "PREFIX_TUNING")
TEXTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13]]  # two rows of ids; 0 pads
SMALL = dict(
    vocab_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    hidden_size=32,
    intermediate_size=48,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=63,
)
GREEDY = dict(max_new_tokens=4, min_new_tokens=4, do_sample=False)


def base(eager=False, family=(LlamaForCausalLM, LlamaConfig), **more):
    torch.manual_seed(0)
    return family[0](family[1](**SMALL, **more, attn_implementation="eager" if eager else "sdpa")).eval()


def make(method, package=peft_viz, **kw):
    random = dict(init_lora_weights=False) if method == "LORA" else {}
    config = small.config(method, package, **random)
    model = base(**kw)
    torch.manual_seed(1)
    return package.get_peft_model(model, config).eval()


def batch(side="left", labels=False):
    return small.batch(*TEXTS, side=side, labels=labels)


def recorded(model, run, tokenizer=None):
    with record(model, tokenizer) as trace, torch.no_grad():
        run(model)
    return trace


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.fixture(params=("left", "right"))
def side(request):
    return request.param


@pytest.fixture(params=(peft_viz, peft), ids=lambda p: p.__name__)
def package(request):
    return request.param


def expected_roles(method, side, generated=0):
    "Worked out from the texts alone."
    n = max(map(len, TEXTS))
    prompt = ["virtual"] * (V if method != "LORA" else 0)
    rows = []
    for text in TEXTS:
        pads, tokens = ["padding"] * (n - len(text)), ["token"] * len(text)
        rows.append(prompt + (pads + tokens if side == "left" else tokens + pads) + ["generated"] * generated)
    return rows


# ---- the sequence


def test_forward(method, side, package):
    b = batch(side, labels=True)
    seq = layout.sequence(recorded(make(method, package), lambda m: m(**b)))
    roles = expected_roles(method, side)
    assert [r.roles for r in seq.rows] == roles
    assert seq.query_start == (V if method == "PREFIX_TUNING" else 0)
    v = len(roles[0]) - b["input_ids"].shape[1]
    for r, row in enumerate(seq.rows):
        assert row.ids == [None] * v + b["input_ids"][r].tolist()
        assert row.attended == [int(role != "padding") for role in roles[r]]
        front = {"LORA": [], "PROMPT_TUNING": [-100] * V, "PREFIX_TUNING": [None] * V}[method]
        assert row.labels == front + b["labels"][r].tolist()
        assert seq.caller_labels[r] == [None] * v + b["labels"][r].tolist()
        assert row.texts == [None] * len(roles[0])


def test_generate(method, package):
    trace, out = None, []
    model = make(method, package)
    trace = recorded(model, lambda m: out.append(m.generate(**batch(), **GREEDY)))
    n = batch()["input_ids"].shape[1]
    assert [layout.stage(trace, c) for c in trace.base_calls] == [
        ("prefill", 0),
        ("decode", 1),
        ("decode", 2),
        ("decode", 3),
    ]
    for step, call in enumerate(trace.base_calls):
        seq = layout.sequence(trace, call)
        assert [r.roles for r in seq.rows] == expected_roles(method, "left", step)
        v = seq.length - n - step
        assert [r.ids for r in seq.rows] == [[None] * v + row[: n + step] for row in out[0].tolist()]
        assert seq.query_start == (seq.length - 1 if step else V if method == "PREFIX_TUNING" else 0)


def test_padding_behind_a_finished_row_was_not_generated():
    n, model, out = max(map(len, TEXTS)), make("LORA", peft_viz), []
    recorded(model, lambda m: out.append(m.generate(**batch(), **GREEDY)))
    ends = out[0][0, n].item()  # row 0 ends with its first token
    assert ends not in out[0][1, n:]
    greedy = {k: x for k, x in GREEDY.items() if not k.startswith("min")} | dict(eos_token_id=ends)
    trace = recorded(model, lambda m: out.append(m.generate(**batch(), **greedy)))
    rows = layout.sequence(trace, trace.base_calls[-1]).rows
    steps = len(trace.base_calls) - 1
    assert rows[0].roles[n:] == ["generated"] + ["padding"] * (steps - 1) and steps > 1
    assert rows[1].roles[n:] == ["generated"] * steps
    assert rows[0].attended[n:] == [1] * steps  # the mask does not say it


def test_a_prefix_behind_padding_stands_in_the_sequence():
    model = make("PREFIX_TUNING", peft_viz)
    model.corrected_positions = True
    b = batch("left", labels=True)
    trace = recorded(model, lambda m: (m(**b), m.generate(input_ids=b["input_ids"], **GREEDY)))
    seq, pads = layout.sequence(trace), [max(map(len, TEXTS)) - len(text) for text in TEXTS]
    assert [r.roles for r in seq.rows] == [
        ["padding"] * p + ["virtual"] * V + ["token"] * len(text) for p, text in zip(pads, TEXTS)
    ]
    for row, ids in zip(seq.rows, b["input_ids"].tolist()):
        assert [i for i, role in zip(row.ids, row.roles) if role != "virtual"] == ids
    assert layout.describe(trace, trace.base_calls[0]) == (
        "prefix tuning: 4 virtual tokens as keys and values behind the padding"
    )


def test_what_is_made_beside_the_base_models_inputs(package):
    config = package.CPTConfig(
        task_type="CAUSAL_LM",
        cpt_token_ids=[5, 6, 7, 8],
        cpt_mask=[1] * 4,
        cpt_tokens_type_mask=[1, 2, 3, 4],
        opt_weighted_loss_type="decay",
        opt_loss_decay_factor=0.5,
    )
    b, model = batch("left", labels=True), package.get_peft_model(base(), config).eval()
    trace = recorded(model, lambda m: (m(**b), m.generate(**batch(), **GREEDY)))
    n = b["input_ids"].shape[1]
    assert layout.beside(trace) == [[1, 2, 3, 4] + [8] * n] * 2
    row = layout.sequence(trace).rows[0]
    counted = [
        w for w, label in zip(layout.beside(trace, role="loss_weights")[0], row.labels) if label != -100
    ]
    assert counted == [0.5] + [1] * (len(counted) - 1) and len(counted) > 1
    for call in trace.base_calls[1:]:  # no labels, no types
        assert layout.beside(trace, call) is layout.beside(trace, call, "loss_weights") is None
    prompt = recorded(make("PROMPT_TUNING", package), lambda m: m(**b))
    assert layout.beside(prompt) is layout.beside(prompt, role="loss_weights") is None


def test_positional_ids_of_generate():
    trace = recorded(make("LORA"), lambda m: m.generate(batch()["input_ids"], **GREEDY))
    assert layout.sequence(trace, trace.base_calls[2]).rows[1].roles == ["token"] * 6 + ["generated"] * 2


class Spy(LogitsProcessor):
    "Sees the whole sequences before each choice of a token: the truth about what each row of a step holds."

    def __init__(self):
        self.seen = []

    def __call__(self, input_ids, scores):
        self.seen.append(input_ids.tolist())
        return scores


def test_beams_claim_nothing_that_may_have_been_shuffled(method, package):
    spy = Spy()
    trace = recorded(
        make(method, package),
        lambda m: m.generate(**batch(), num_beams=3, logits_processor=LogitsProcessorList([spy]), **GREEDY),
    )
    assert len(trace.base_calls) == len(spy.seen) == 4
    for step, (call, truth) in enumerate(zip(trace.base_calls, spy.seen)):
        seq = layout.sequence(trace, call)
        assert len(seq.rows) == 6 and [r.roles for r in seq.rows] == [
            row for row in expected_roles(method, "left", step) for _ in range(3)
        ]
        for row, ids in zip(seq.rows, truth):
            told = row.ids[-len(ids) :]
            assert all(a in (None, b) for a, b in zip(told, ids))  # nothing wrong is said
            assert told[:6] == ids[:6] and told[-1] == ids[-1]  # the prompt and the newest token are safe


def test_embeddings_alone_tell_no_ids(method, package):
    model = make(method, package)
    embeds = model.get_base_model().get_input_embeddings()(batch()["input_ids"]).detach()
    seq = layout.sequence(
        recorded(model, lambda m: m(inputs_embeds=embeds, attention_mask=batch()["attention_mask"]))
    )
    assert [r.roles for r in seq.rows] == expected_roles(method, "left")
    assert all(i is None for r in seq.rows for i in r.ids)


def test_without_a_mask_nothing_is_padding(method):
    seq = layout.sequence(recorded(make(method), lambda m: m(input_ids=batch()["input_ids"])))
    assert {role for r in seq.rows for role in r.roles} == (
        {"token"} if method == "LORA" else {"virtual", "token"}
    )
    assert all(r.attended is None for r in seq.rows)


def test_plain_model():
    b, out = batch(), []
    trace = recorded(base(), lambda m: out.append(m.generate(**b, **GREEDY)))
    assert layout.describe(trace, trace.base_calls[0]).startswith("no adapter: no virtual tokens")
    last = layout.sequence(trace, trace.base_calls[-1])
    assert [r.ids for r in last.rows] == out[0][:, :-1].tolist()


def test_disabled_adapter_has_no_virtual_tokens():
    def run(m):
        with m.disable_adapter():
            m(**batch())
            m.generate(**batch(), **GREEDY)

    for package in (peft_viz, peft):
        for method in METHODS:
            trace = recorded(make(method, package), run)
            assert not any(
                "virtual" in r.roles for c in trace.base_calls for r in layout.sequence(trace, c).rows
            )


def test_a_cache_that_is_handed_on_keeps_its_story():
    def run(m):
        out = m(**batch())
        m(
            input_ids=torch.tensor([[20], [21]]),
            attention_mask=torch.cat([batch()["attention_mask"], torch.ones(2, 1, dtype=torch.long)], 1),
            past_key_values=out.past_key_values,
        )

    trace = recorded(make("LORA"), run)
    seq = layout.sequence(trace, trace.base_calls[1])
    assert [r.ids for r in seq.rows] == [
        row + [new] for row, new in zip(batch()["input_ids"].tolist(), (20, 21))
    ]
    assert seq.rows[0].roles == ["padding"] * 3 + ["token"] * 4 and seq.query_start == 6


def test_a_cache_from_before_the_recording_begins_with_the_prompt():
    model = make("PROMPT_TUNING")
    with torch.no_grad():
        cache = model(input_ids=batch()["input_ids"]).past_key_values
    trace = recorded(model, lambda m: m(input_ids=torch.tensor([[20], [21]]), past_key_values=cache))
    seq = layout.sequence(trace)
    assert (
        seq.query_start == V + 6
        and seq.rows[0].roles[: V + 6] == ["virtual"] * V + ["token"] * 6
        and seq.rows[1].ids[-1] == 21
    )


@pytest.mark.parametrize("length", [4, 6])
@pytest.mark.parametrize("name", ["peft", "peft_viz"])
def test_a_cache_of_the_callers_is_told_from_one_that_the_method_made(name, length):
    "peft's prefix tuning puts its own cache in the place of the caller's, which may be as long; ours goes on with it."
    model = make("PREFIX_TUNING", dict(peft=peft, peft_viz=peft_viz)[name])
    inner = model.get_base_model()
    ids = torch.arange(5, 5 + length)[None]
    mask = torch.ones(1, length + 2, dtype=torch.long)

    def run(model):
        cache = inner(input_ids=ids, use_cache=True).past_key_values
        return model(input_ids=torch.tensor([[20, 21]]), past_key_values=cache, attention_mask=mask)

    trace = recorded(model, run)
    (row,) = layout.sequence(trace, trace.base_calls[1]).rows
    before = "virtual" if name == "peft" else "token"
    n = 4 if name == "peft" else length
    assert row.roles == [before] * n + ["token"] * 2
    assert row.ids == ([None] * n if name == "peft" else ids[0].tolist()) + [20, 21]


def with_the_long_one(model):
    model(**batch())
    model.set_adapter("long")
    model(**batch())
    model.generate(**batch(), **GREEDY)


@pytest.mark.parametrize("name", ["peft", "peft_viz"])
def test_a_prefix_that_is_longer_than_the_first_one(name):
    "The recording says how many virtual tokens there were at its beginning; another adapter may have more."
    package = dict(peft=peft, peft_viz=peft_viz)[name]
    model = make("PREFIX_TUNING", package)
    model.add_adapter("long", small.config("PREFIX_TUNING", package, num_virtual_tokens=2 * V))

    first, *others = (
        layout.sequence(trace, c) for trace in [recorded(model, with_the_long_one)] for c in trace.base_calls
    )
    assert [row.roles.count("virtual") for row in first.rows] == [V, V]
    for seq in others:
        for row in seq.rows:
            assert row.roles.count("virtual") == 2 * V and row.roles.count("token") <= 6
    assert {"generated"} == {row.roles[2 * V + 6] for row in others[-1].rows}


def test_a_longer_prefix_behind_padding():
    model = make("PREFIX_TUNING", peft_viz)
    model.corrected_positions = True
    model.add_adapter("long", small.config("PREFIX_TUNING", peft_viz, num_virtual_tokens=2 * V))

    trace, pads = recorded(model, with_the_long_one), [max(map(len, TEXTS)) - len(text) for text in TEXTS]
    for n, call in zip((V, 2 * V, 2 * V), trace.base_calls):
        for row, pad, text in zip(layout.sequence(trace, call).rows, pads, TEXTS):
            assert row.roles == ["padding"] * pad + ["virtual"] * n + ["token"] * len(text)
            assert row.ids == [0] * pad + [None] * n + text
    last = layout.sequence(trace, trace.base_calls[-1])
    assert [row.roles.count("generated") for row in last.rows] == [3, 3]


@pytest.mark.parametrize("method", METHODS)
def test_embeddings_that_generate_got_tell_no_ids(method):
    "The preparation may hold ids that were made up, as many as the embeddings."

    def run(m):
        words = m.get_base_model().get_input_embeddings()(batch()["input_ids"])
        m.generate(inputs_embeds=words, attention_mask=batch()["attention_mask"], **GREEDY)

    trace = recorded(make(method), run)
    assert [i for row in layout.sequence(trace).rows for i in row.ids if i is not None] == []


def read(trace):
    "What a cache held when each base call was over, and the row that is drawn: ids of one row."
    held = []
    for call in trace.base_calls:
        seq, own = layout.sequence(trace, call), layout.argument(trace, call, "input_ids")
        own = (own or layout.passed(trace, call, "input_ids")).data
        held = (held or [None] * seq.query_start)[: seq.query_start] + own
        yield held, seq.rows[0].ids


@pytest.mark.skipif(not V5, reason="with transformers 4 this call ends before its first step")
def test_a_token_that_was_cut_off_is_not_drawn():
    "peft cuts as many ids from a warm call as its cache has keys, of the virtual tokens too."
    model = make("PREFIX_TUNING", peft)

    def run(m):
        out = m.generate(input_ids=torch.tensor([[5, 6, 7]]), return_dict_in_generate=True, **GREEDY)
        more = torch.cat([out.sequences, torch.tensor([[20]])], 1)
        with pytest.raises(RuntimeError):  # it crashes a step later
            m.generate(input_ids=more, past_key_values=out.past_key_values, **GREEDY)

    *_, (held, drawn) = read(recorded(model, run))
    assert drawn == held and held[-1] == 20 and len(held) == V + 7


@pytest.mark.parametrize("name", ["peft", "peft_viz"])
def test_guesses_that_were_wrong_are_taken_back(name):
    "generate cuts them out of the cache, which may be as long then as an earlier call had left one."
    package = dict(peft=peft, peft_viz=peft_viz)[name]

    def guessed(seed):
        model = make("LORA", package)
        torch.manual_seed(seed)
        for p in model.parameters():
            p.data.normal_(0, 0.3)
        ids = torch.randint(3, 12, (1, 9))
        return recorded(
            model,
            lambda m: m.generate(
                input_ids=ids, prompt_lookup_num_tokens=3, **(GREEDY | {"max_new_tokens": 25})
            ),
        )

    traces = list(map(guessed, range(4)))
    for trace in traces:
        for held, drawn in read(trace):
            assert drawn == held
    assert any(layout._cut_short(trace, c) for trace in traces for c in trace.base_calls)


def test_the_base_calls_of_a_call():
    trace = recorded(make("LORA"), lambda m: (m(**batch()), m.generate(**batch(), **GREEDY), m(**batch())))
    found = [layout.bases_of(trace, root) for root in trace.roots]
    assert [len(calls) for calls in found] == [1, 4, 1] and sum(found, []) == trace.base_calls


def test_static_cache_and_4d_masks():
    trace = recorded(make("LORA"), lambda m: m.generate(**batch(), cache_implementation="static", **GREEDY))
    for step, call in enumerate(trace.base_calls):
        assert len(trace.value(call.args["attention_mask"]).shape) == 4
        assert [r.roles for r in layout.sequence(trace, call).rows] == expected_roles("LORA", "left", step)
        att = layout.attention(trace, call)
        assert len(att.attended[0][0]) == 6 + step  # the empty slots are not keys
    assert layout.cache(trace)[0].max_length is not None


def test_sliding_window_drops_the_oldest_keys():
    trace = recorded(
        base(family=(MistralForCausalLM, MistralConfig), sliding_window=4),
        lambda m: m.generate(**batch(), **GREEDY),
    )
    att, seq = layout.attention(trace, trace.base_calls[-1]), layout.sequence(trace, trace.base_calls[-1])
    assert att.key_start > 0 and att.key_roles[1] == seq.rows[1].roles[att.key_start :]
    prefill = layout.attention(trace)
    assert prefill.attended[1][5] == [0, 0, 1, 1, 1, 1]


# ---- attention: what was measured = the formula = the weights of an eager run that are not zero


def formula(roles, q):
    "Query i may attend to key j: j is not later, and j is not padding."
    k = len(roles)
    return [[int(j <= k - q + i and roles[j] != "padding") for j in range(k)] for i in range(q)]


def test_three_ways(method, side, package):
    b = batch(side)
    trace = recorded(make(method, package), lambda m: m(**b))
    att = layout.attention(trace)
    with torch.no_grad():
        weights = make(method, package, eager=True)(**b, output_attentions=True).attentions
    assert att.layers == [0, 1]
    for r, roles in enumerate(expected_roles(method, side)):
        q = len(att.attended[r])
        believed = formula(roles, q)
        for layer in weights:
            used = (layer[r] > 0).any(0).int().tolist()
            for i in range(q):
                if roles[len(roles) - q + i] == "padding":
                    continue  # a padded query's output is never used
                assert att.attended[r][i] == believed[i] == used[i]
        assert att.query_roles[r] == roles[-q:] and att.key_roles[r] == roles


def test_prompt_is_always_visible():
    for method in ("PROMPT_TUNING", "PREFIX_TUNING"):
        trace = recorded(make(method), lambda m: m.generate(**batch(), **GREEDY))
        for call in trace.base_calls:
            att = layout.attention(trace, call)
            for row, queries in zip(att.attended, att.query_roles):
                seen = [query[:V] for query, role in zip(row, queries) if role != "virtual"]
                assert seen and all(query == [1] * V for query in seen)


def test_layers_that_were_not_measured():
    trace = recorded(make("LORA"), lambda m: m(**batch()))
    with pytest.raises(ValueError, match=r"layer 7: layers \[0, 1\] were measured"):
        layout.attention(trace, layer=7)


# ---- cache, branches, words


def test_cache(method):
    trace = recorded(make(method), lambda m: m.generate(**batch(), **GREEDY))
    n, v = 6, 0 if method == "LORA" else V
    story = layout.cache(trace)
    before = [V if method == "PREFIX_TUNING" else 0] + [n + v + i for i in range(3)]
    assert [c.before for c in story] == before and [c.after for c in story] == [n + v + i for i in range(4)]
    assert [c.virtual for c in story] == [v] * 4
    first = {"LORA": None, "PROMPT_TUNING": "inputs", "PREFIX_TUNING": "cache"}[method]
    assert [c.prompt_in for c in story] == [first] + ["cache" if v else None] * 3


def test_branches(method, package):
    trace = recorded(make(method, package), lambda m: m(**batch()))
    call = trace.roots[0]
    path = layout.branches(trace, call)
    ran = {s.line for s in call.steps}
    assert path.executed == sorted(ran)
    assert path.skipped and not any(first <= line <= last for first, last in path.skipped for line in ran)
    decided = [b for b in path.branches if b["outcomes"]]
    assert decided and sum(len(b["outcomes"]) for b in path.branches) == sum(
        s.branch is not None for s in call.steps
    )
    with pytest.raises(ValueError, match="not watched line by line"):
        layout.branches(trace, trace.base_calls[0])


def test_branches_of_a_crash():
    model = make("LORA")
    with record(model) as trace, pytest.raises(ValueError, match="from 0 to 63"):
        model(input_ids=torch.tensor([[1, 99]]))  # no such token
    path = layout.branches(trace, trace.roots[0])
    assert path.raised in path.executed


def test_words(method):
    trace = recorded(make(method), lambda m: m.generate(**batch(), **GREEDY))
    first, later = trace.base_calls[0], trace.base_calls[3]
    what = {
        "LORA": ("LoRA: no virtual tokens",) * 2,
        "PROMPT_TUNING": (
            "prompt tuning: 4 virtual tokens in the inputs",
            "prompt tuning: 4 virtual tokens in the cache",
        ),
        "PREFIX_TUNING": ("prefix tuning: 4 virtual tokens in the cache",) * 2,
    }[method]
    assert layout.describe(trace, first) == what[0] + ", prefill of generate"
    assert layout.describe(trace, later) == what[1] + ", decoding step 3"


def test_visible():
    assert layout.visible("a b\n") == "a␣b⏎" and layout.visible("") == "∅" and layout.visible(None) == ""
    assert layout.visible("x" * 50) == "x" * 11 + "…" and layout.visible("\x00\u202e") == "␀▯"


@pytest.mark.parametrize(
    "sign", "\u00ad\u061c\u200b\u200c\u200d\u2060\u2063\u3164\ufe0f\ufeff\ufff9\U000e0001\U000e0041"
)
def test_what_shows_nothing_by_itself_has_a_sign(sign):
    assert layout.visible(sign) == "▯" and layout.visible(sign + "a").startswith("▯")
    assert layout.visible("a" + sign) in ("a▯", "a" + sign)  # the latter: it may shape the letter


def test_what_is_joined_stays_joined():
    whole = [
        "می\u200cرم",
        "क्\u200dष",
        "👩\u200d👧",
        "🏳\ufe0f\u200d🌈",
        "a\u00adb",
        "🏴" + "".join(chr(0xE0000 + ord(c)) for c in "gbeng") + "\U000e007f",
        "שלום",
        "e\u0301",
        "\ufffd",
    ]
    assert [layout.visible(text) for text in whole] == whole
    assert layout.visible("👩\u200d👧" * 9, 4) == "👩\u200d👧" * 3 + "…"  # never cut inside of a group
    assert layout.visible("e\u0301" * 4, 3) == "e\u0301" * 2 + "…"
    assert layout.visible("\u00a0\u2028") == "⍽⏎"


# ---- errors


def test_which_call():
    trace = recorded(make("LORA"), lambda m: m(**batch()))
    assert (
        layout.base_call(trace) is trace.base_calls[0]
        and layout.base_call(trace, trace.base_calls[0].id) is trace.base_calls[0]
    )
    with pytest.raises(ValueError, match="not a call of the base model; it made the base calls"):
        layout.sequence(trace, trace.roots[0])
    with pytest.raises(ValueError, match="this trace has no labels: pass labels="):
        layout.base_call(trace, labels=True)
    with pytest.raises(ValueError, match="no call of the base model"):
        layout.sequence(recorded(make("LORA"), lambda _: None))


# ---- for the viewer: compact, plain, and the same from a file


def test_payload_is_plain_and_small(method):
    trace = recorded(
        make(method),
        lambda m: (
            m(**batch(labels=True)),
            m.generate(**batch(), max_new_tokens=16, min_new_tokens=16, do_sample=False),
        ),
    )
    again = peft_viz.Trace.from_json(trace.to_json())

    def payload(t):
        return (
            [[layout.sequence(t, c).to_dict(), layout.attention(t, c).to_dict()] for c in t.base_calls]
            + [c.to_dict() for c in layout.cache(t)]
            + [layout.branches(t, c).to_dict() for c in t.calls if c.source is not None]
        )

    text = json.dumps(payload(trace), separators=(",", ":"))
    assert text == json.dumps(payload(again), separators=(",", ":"))
    assert len(text) < 120_000
    row = json.loads(text)[0][0]["rows"][0]
    code = {m.code: name for name, m in MARKS.items()}
    assert [code[letter] for letter in row["roles"]] == expected_roles(method, "left")[0] and set(
        row["attended"]
    ) == {"0", "1"}


def test_no_torch_needed():
    import subprocess

    code = (
        "import sys; from peft_viz import layout; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---- the marks can be told apart, by everyone


def rgb(c):
    return [int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def linear(c):
    return [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in rgb(c)]


def luminance(c):
    return sum(w * x for w, x in zip((0.2126, 0.7152, 0.0722), linear(c)))


def contrast(a, b):
    hi, lo = sorted((luminance(a), luminance(b)), reverse=True)
    return (hi + 0.05) / (lo + 0.05)


DICHROMACY = {  # Viénot, Brettel, Mollon 1999 (protan, deutan) and Machado 2009 (tritan), on linear RGB
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protan": ((0.1124, 0.8876, 0), (0.1124, 0.8876, 0), (0.0040, -0.0040, 1)),
    "deutan": ((0.2928, 0.7072, 0), (0.2928, 0.7072, 0), (-0.0223, 0.0223, 1)),
    "tritan": ((1.2555, -0.0767, -0.1788), (-0.0784, 0.9308, 0.1476), (0.0047, 0.6914, 0.3039)),
}


def lab(c, kind):
    "CIE Lab as a person with this colour vision sees it."
    r, g, b = [min(1, max(0, sum(w * x for w, x in zip(row, linear(c))))) for row in DICHROMACY[kind]]
    xyz = [
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    ]
    f = [t ** (1 / 3) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116 for t in xyz]
    return 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])


@pytest.mark.parametrize("theme", ("light", "dark"))
def test_text_on_marks_is_readable(theme):
    for m in MARKS.values():
        assert contrast(m.fill(theme), m.text(theme)) >= 4.5, m.name


@pytest.mark.parametrize("theme", ("light", "dark"))
@pytest.mark.parametrize("kind", DICHROMACY)
def test_roles_differ_for_every_eye(theme, kind):
    for a, b in [*combinations(layout.POSITION_KINDS, 2), ("attended", "masked"), ("label", "ignored")]:
        distance = (
            sum(
                (x - y) ** 2 for x, y in zip(lab(MARKS[a].fill(theme), kind), lab(MARKS[b].fill(theme), kind))
            )
            ** 0.5
        )
        assert distance > 20, (a, b, distance)


def test_never_colour_alone():
    assert len({m.glyph for m in MARKS.values()}) == len({m.code for m in MARKS.values()}) == len(MARKS)


# ---- what was too large to be kept, and long recordings


def shortened(v, packed):
    "A tensor's value of which only these numbers were kept."
    facts = dict(shape=v.shape, dtype=v.dtype, device=v.device, role=v.role, attended=v.attended)
    return trace_module.Value("tensor", packed=packed, truncated=True, **facts)


def cut(trace, *roles):
    """Leave of the tensors of these roles the first numbers only, as a recording of a large batch does:
    all of row 0, some of row 1."""
    for i, v in enumerate(trace.values):
        if v.kind == "tensor" and v.role in roles and len(v.shape) == 2:
            trace.values[i] = shortened(v, v.data[: v.shape[1] + 1])
    return trace


def test_what_was_not_kept_says_so():
    b = batch(labels=True)
    trace = cut(recorded(make("PROMPT_TUNING"), lambda m: m(**b)), "ids", "labels", "attention_mask")
    seq = layout.sequence(trace)
    first, second = seq.rows
    assert first.unkept == () and first.ids == [None] * V + b["input_ids"][0].tolist()
    assert first.labels == [-100] * V + b["labels"][0].tolist() and first.roles[V] == "padding"
    assert set(second.unkept) == {"ids", "attended", "labels", "caller_labels"}
    assert second.attended is second.labels is seq.caller_labels[1] is None
    assert second.roles == ["virtual"] * V + ["token"] * 6 and not any(second.ids)
    assert "unkept" in seq.to_dict()["rows"][1] and "unkept" not in seq.to_dict()["rows"][0]


def test_a_tensor_of_which_nothing_was_kept_was_there_all_the_same():
    trace = recorded(make("LORA"), lambda m: m(**batch()))
    trace.values = [shortened(v, None) if v.kind == "tensor" else v for v in trace.values]
    assert [row.unkept for row in layout.sequence(trace).rows] == [("ids", "attended")] * 2
    with pytest.raises(ValueError, match="the mask was too large to be kept"):
        layout.attention(trace)


def test_a_long_generate_is_asked_for_once(monkeypatch):
    trace = recorded(
        make("PROMPT_TUNING"),
        lambda m: m.generate(**batch(), **(GREEDY | dict(max_new_tokens=40, min_new_tokens=40))),
    )
    looks = []
    for name in ("children", "base_calls"):
        whole = vars(trace_module.Trace)[name]
        f = whole.fget if isinstance(whole, property) else whole
        count = lambda self, *a, f=f: looks.append(1) or f(self, *a)
        monkeypatch.setattr(
            trace_module.Trace, name, property(count) if isinstance(whole, property) else count
        )
    calls = trace.base_calls
    for call in calls:
        assert layout.sequence(trace, call).length >= V
    assert (
        len(calls) == 40 and len(looks) < 10
    )  # all calls are looked through a few times, not once for each step
