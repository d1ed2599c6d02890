"The recorder sees what happened, and the model does not notice."

import functools, gc, sys, threading

import peft, pytest, torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MptConfig,
    MptForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

import small
import peft_viz
from families import tiny_model, V5
from peft_viz.recording.about import _text
from peft_viz import record
from peft_viz.recording import base_model, doors, values as value_records, watch
from peft_viz.recording.trace import MAX_VALUES, READABLE, Trace

SMALL = dict(vocab_size=64, num_hidden_layers=2, num_attention_heads=4, hidden_size=32)
FAMILIES = dict(
    gpt2=lambda: GPT2LMHeadModel(GPT2Config(vocab_size=64, n_layer=2, n_head=4, n_embd=32, n_positions=64)),
    llama=lambda: LlamaForCausalLM(LlamaConfig(**SMALL, intermediate_size=48, num_key_value_heads=2)),
    opt=lambda: OPTForCausalLM(
        OPTConfig(**SMALL, ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=64, dropout=0.0)
    ),
    mpt=lambda: MptForCausalLM(MptConfig(vocab_size=64, n_layers=2, n_heads=4, d_model=32, max_seq_len=64)),
    bloom=lambda: BloomForCausalLM(BloomConfig(vocab_size=64, n_layer=2, n_head=4, hidden_size=32)),
    gpt_neox=lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL, intermediate_size=48)),
)
METHODS = ("LORA", "PROMPT_TUNING", "PREFIX_TUNING")
IMPLEMENTATIONS = (peft_viz, peft)
IDS = torch.tensor([[0, 0, 5, 6, 7], [3, 4, 5, 6, 7]])
BATCH = dict(input_ids=IDS, attention_mask=(IDS > 0).long(), labels=IDS.masked_fill(IDS == 0, -100))
PROMPT = dict(input_ids=IDS, attention_mask=(IDS > 0).long())
GREEDY = dict(max_new_tokens=5, do_sample=False, pad_token_id=0)


def make(method="PROMPT_TUNING", package=peft_viz, family="llama", seed=0):
    torch.manual_seed(seed)
    base = FAMILIES[family]().eval()
    random = dict(init_lora_weights=False) if method == "LORA" else {}
    return package.get_peft_model(base, small.config(method, package, **random))


@pytest.fixture(params=IMPLEMENTATIONS, ids=lambda p: p.__name__)
def package(request):
    return request.param


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


def run(model):
    "Loss, logits, gradients, greedy and sampled text: everything a run gives."
    model.train().zero_grad()
    out = model(**BATCH)
    out.loss.backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.eval()
    torch.manual_seed(1)
    sampled = model.generate(**PROMPT, max_new_tokens=5, do_sample=True, pad_token_id=0)
    return out.loss, out.logits, model.generate(**PROMPT, **GREEDY), sampled, grads


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return all(map(same, a, b)) if isinstance(a, tuple) else torch.equal(a, b)


def test_outputs_are_the_same_bits(method, package):
    model = make(method, package)
    torch.manual_seed(7)
    plain = run(model)
    torch.manual_seed(7)
    with record(model, layers=1) as trace:
        watched = run(model)
    assert same(plain, watched) and len(trace.base_calls) == 11
    assert Trace.from_json(trace.to_json()) == trace


def test_base_calls_hold_what_reached_the_base_model(method, package):
    "Compared with a witness of the test's own. (Not a hook: peft 0.18 calls the base model's `forward` past them.)"
    model, seen = make(method, package), []
    base = model.get_base_model()
    forward = base.forward

    @functools.wraps(forward)
    def witness(*args, **kwargs):
        seen.append({n: v.clone() for n, v in kwargs.items() if isinstance(v, torch.Tensor)})
        return forward(*args, **kwargs)

    base.forward = witness
    with record(model) as trace:
        run(model)
    assert base.forward is witness
    assert len(seen) == len(trace.base_calls)
    kept = 0
    for call, kwargs in zip(trace.base_calls, seen):
        assert {n for n in call.args if trace.value(call.args[n]).kind == "tensor"} == kwargs.keys()
        for name, tensor in kwargs.items():
            value = trace.value(call.args[name])
            assert value.shape == tuple(tensor.shape) and value.dtype == str(tensor.dtype).split(".")[1]
            if value.role in READABLE and tensor.ndim < 3:
                assert value.nested() == tensor.tolist()
                kept += 1
            else:
                assert value.data is None
    assert kept >= 11


def executed(model, go):
    "An independent witness: (function, line) of everything that ran, by a trace function of the test's own."
    lines = []

    def local(frame, event, arg):
        if event == "line":
            lines.append((frame.f_code.co_name, frame.f_lineno))
        return local

    old = sys.gettrace()
    sys.settrace(lambda frame, event, arg: local)
    try:
        go()
    finally:
        sys.settrace(old)
    return lines


def test_steps_are_the_lines_that_ran(method, package):
    model = make(method, package)
    with record(model) as trace:
        model(**BATCH)
    call = trace.calls[0]
    witness = {line for name, line in executed(model, lambda: model(**BATCH)) if name == "forward"}
    ours = {s.line for s in call.steps}
    assert ours and ours <= witness
    text = trace.sources[call.source].text.splitlines()
    assert all(text[line - trace.sources[call.source].first_line].strip() for line in ours)


@pytest.mark.parametrize("method, taken", [("LORA", False), ("PROMPT_TUNING", True), ("PREFIX_TUNING", True)])
def test_branches_of_peft(method, taken):
    """In peft's forward: `if not peft_config.is_prompt_learning` goes one way for LoRA, the other for prompt
    learning; the rest follows."""
    model = make(method, peft)
    with record(model) as trace:
        model(**BATCH)
    source = trace.sources[trace.calls[0].source]
    outcome = {
        source.text.splitlines()[s.line - source.first_line].strip(): s.branch
        for s in trace.calls[0].steps
        if s.branch is not None
    }
    assert outcome["if not peft_config.is_prompt_learning:"] is not taken
    if taken:
        assert outcome["if attention_mask is not None:"] is True
        assert [v for k, v in outcome.items() if "PREFIX_TUNING" in k] == [method == "PREFIX_TUNING"]
    else:
        assert outcome['if self.base_model.config.model_type == "mpt":'] is False


BY_HAND = ("bloom", "mpt")  # these compute attention themselves, never through PyTorch's function


@pytest.mark.parametrize(
    "family, implementation",
    [(f, i) for f in FAMILIES for i in ("sdpa", "eager") if i == "eager" or f not in BY_HAND],
)
def test_attention_is_the_one_computed(family, implementation):
    "What the recorder reads at the attention layers is where the attention weights are above zero."
    model = FAMILIES[family]().eval()
    model.set_attn_implementation("eager")
    weights = model(**PROMPT, output_attentions=True).attentions
    model.set_attn_implementation(implementation)
    with record(model) as trace:
        model(**PROMPT)
    (entry,) = trace.base_calls[0].attention
    assert entry["layers"] == [0, 1] and entry["how"] == ("sdpa" if implementation == "sdpa" else "mask")
    measured = torch.tensor(trace.value(entry["value"]).nested()).bool()
    real = PROMPT[
        "attention_mask"
    ].bool()  # rows of padding queries may attend anywhere or nowhere: nobody reads them
    for w in weights:
        assert torch.equal(
            (w > 0)[real.unsqueeze(1).expand(w.shape[:3])],
            measured.expand_as(w)[real.unsqueeze(1).expand(w.shape[:3])],
        )


def test_single_query_with_grouped_heads():
    """A decoding step: one query over the whole cache, also where transformers packs the query groups into
    the query axis."""
    model = make("LORA")
    with record(model) as trace:
        model.generate(**PROMPT, **GREEDY)
    for n, call in enumerate(trace.base_calls[1:], 6):
        grid = trace.value(call.attention[0]["value"])
        assert grid.shape[-2:] == (1, n) and grid.nested()[0][0][0][:2] == [0, 0]


# --- it gets out of the way


def other_tracer(frame, event, arg):
    return None


@pytest.fixture
def tracer():
    old = sys.gettrace()
    sys.settrace(other_tracer)
    yield other_tracer
    sys.settrace(old)


def test_previous_trace_function_is_restored(tracer, package):
    model, inside = make(package=package), []
    model.get_base_model().get_decoder().register_forward_pre_hook(lambda *_: inside.append(sys.gettrace()))
    with record(model):
        model(**BATCH)
    assert sys.gettrace() is tracer and inside == [
        tracer
    ]  # and it is in charge while the base model computes
    broken(model)
    with pytest.raises(RuntimeError):
        with record(model):
            model(**BATCH)
    assert sys.gettrace() is tracer


def broken(model):
    "The same model; its soft prompt does not fit beside the text any more."
    model.prompt_encoder["default"].embedding = torch.nn.Embedding(8, 3)
    return model


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_nothing_is_left_behind(method, package):
    model = make(method, package)
    before = hooks(model)
    with record(model, layers=2) as trace:
        assert hooks(model) == before and "forward" not in vars(model.get_base_model())
        run(model)
    assert hooks(model) == before and "forward" not in vars(model.get_base_model())
    assert not doors._SLOTS and type(model).forward.__module__ != doors.__name__
    todo, seen = [trace], set()
    while todo:  # no tensor, module or frame hangs on the trace
        x = todo.pop()
        if id(x) in seen or isinstance(x, type):
            continue
        seen.add(id(x))
        assert not isinstance(x, (torch.Tensor, torch.nn.Module)) and type(x).__name__ != "frame"
        todo += gc.get_referents(x)


def test_no_activation_is_kept(method, package):
    "Numbers are kept of small integer-like tensors only, and never more than the cap."
    model = make(method, package)
    ids = torch.randint(1, 64, (2, 40))
    with record(model, layers=2) as trace:
        model(input_ids=ids, labels=ids)
    for v in trace.values:
        if v.kind != "tensor" or v.data is None:
            continue
        assert v.role in READABLE and len(v.packed) <= MAX_VALUES
        if v.role != "loss":
            assert all(isinstance(n, int) for n in v.data) and v.shape[-1:] != (32,)


def test_long_inputs_are_cut(monkeypatch):
    model, ids = make("LORA"), torch.randint(1, 64, (1, 40))
    monkeypatch.setattr(value_records, "MAX_VALUES", 16)
    monkeypatch.setattr(value_records, "SMALL", 0)
    with record(model) as trace:
        model(input_ids=ids)
    value = trace.value(trace.base_calls[0].args["input_ids"])
    assert value.truncated and value.data == ids[0, :16].tolist() and value.nested() is None
    assert Trace.from_json(trace.to_json()) == trace


@pytest.mark.parametrize(
    "module, place",
    (
        (watch._Looking, "_differ"),
        (watch, "_Held"),
        (base_model, "bind"),
        (base_model, "_sdpa_grid"),
        (value_records, "_cache"),
        (base_model, "may_attend"),
    ),
)
def test_a_recorder_error_does_not_reach_the_model(module, place, monkeypatch, tracer):
    "Wherever the recorder fails: while lines run, before and after the base model, in its layers and in its attention."
    model = make()
    if place == "may_attend":
        model.base_model.set_attn_implementation("eager")
    plain = model.generate(**PROMPT, **GREEDY)
    monkeypatch.setattr(module, place, lambda *_, **__: 1 / 0)
    with pytest.warns(UserWarning, match="recording is incomplete.*ZeroDivisionError"):
        with record(model) as partly:
            watched = model.generate(**PROMPT, **GREEDY)
    assert len(partly.base_calls) == 5 and Trace.from_json(partly.to_json()) == partly
    assert torch.equal(plain, watched) and sys.gettrace() is tracer
    monkeypatch.undo()
    assert torch.equal(plain, model.generate(**PROMPT, **GREEDY))
    with record(model) as trace:
        model.generate(**PROMPT, **GREEDY)
    assert len(trace.base_calls) == 5 and not any(c.raised for c in trace.calls)


@pytest.mark.parametrize(
    "family",
    (
        "mamba",
        "rwkv",
        "jamba",
        "lfm2",
        "qwen3_next",
        "recurrent_gemma",
        "falcon_h1",
        "gemma2",
        "deepseek_v3",
        "minimax",
        "xlnet",
    ),
)
def test_caches_and_states_of_all_kinds(family):
    "Also a cache with nothing but recurrent states, which cannot say how long it is."
    model = peft_viz.get_peft_model(
        tiny_model(family),
        peft_viz.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, target_modules="all-linear"),
    )
    plain = model.generate(IDS[1:], **GREEDY)
    with record(model) as trace:
        watched = model.generate(IDS[1:], **GREEDY)
    assert (
        torch.equal(plain, watched)
        and len(trace.base_calls) == 5
        and Trace.from_json(trace.to_json()) == trace
    )
    caches = [v for v in trace.values if v.kind == "cache"]
    assert (
        family in ("mamba", "rwkv", "xlnet", "recurrent_gemma")
        or not V5
        or max(c.length for c in caches) == 9
    )


def test_nests_and_works_twice():
    model = make()
    with record(model) as outer:
        model(**BATCH)
        with record(model) as inner:
            model.generate(**PROMPT, **GREEDY)
        model(**BATCH)
    with record(model) as again:
        model.generate(**PROMPT, **GREEDY)
    assert again == inner
    assert [c.function.split(".")[1] for c in outer.roots] == ["forward", "generate", "forward"] and len(
        outer.base_calls
    ) == 7


def test_other_threads_are_left_alone():
    model, seen = make(), []
    with record(model) as trace:
        t = threading.Thread(target=lambda: seen.append(sys.gettrace()))
        t.start()
        t.join()
    assert seen == [None] and trace.calls == []


# --- crashes


def test_crash_in_peft_code(package):
    model = broken(make(package=package))
    with pytest.raises(RuntimeError):
        with record(model) as trace:
            model(**BATCH)
    call = trace.calls[0]
    source = trace.sources[call.source]
    assert call.raised["type"] == "RuntimeError" and "Sizes of tensors must match" in call.raised["message"]
    deepest = [c for c in trace.calls if c.raised][-1]
    source = trace.sources[deepest.source]
    assert (
        "torch.cat" in source.text.splitlines()[deepest.raised["line"] - source.first_line]
        and deepest.steps[-1].line == deepest.raised["line"]
    )
    assert Trace.from_json(trace.to_json()) == trace


@pytest.mark.parametrize("call", ["forward", "generate"])
def test_a_call_whose_arguments_were_refused_is_kept(package, call):
    "None of its lines ran: the recording has its name and the error. A call after it is recorded as ever."
    model, ids = make(package=package), PROMPT["input_ids"]
    with record(model) as trace:
        with pytest.raises((TypeError, ValueError, AttributeError)) as how:
            model(ids, input_ids=ids) if call == "forward" else model.generate(inputs="no tensor")
        model(**BATCH)
    refused = trace.roots[0]
    assert refused.function == f"{type(model).__name__}.{call}" and refused.raised["type"] == how.typename
    assert len(trace.roots) == 2 and trace.roots[1].raised is None and trace.roots[1].steps
    assert trace.diagnose()[0].kind == "raised" and str(how.value)[:30] in str(trace.diagnose()[0])
    assert Trace.from_json(trace.to_json()) == trace and hooks(model) == 0


@pytest.mark.parametrize("error", (ValueError, KeyboardInterrupt))
def test_crash_in_the_base_model(package, method, error, tracer):
    model = make(method, package)

    def boom(*_):
        raise error("stop here")

    mlp = model.get_base_model().get_decoder().layers[1].mlp
    mlp.forward = boom
    for go in (lambda: model(**BATCH), lambda: model.generate(**PROMPT, **GREEDY)):
        with pytest.raises(error, match="stop here"):
            with record(model) as trace:
                go()
        assert trace.roots[0].raised["type"] == error.__name__ and trace.roots[0].raised["line"]
        assert (
            trace.base_calls[-1].raised["message"] == "stop here"
            and "attention_mask" in trace.base_calls[-1].args
        )
        assert sys.gettrace() is tracer and hooks(model) == 0
        assert len(trace.calls[0].steps) > 1


def test_the_run_after_a_caught_crash_is_recorded():
    model = make()
    whole = model.prompt_encoder["default"].embedding
    with record(model) as trace:
        with pytest.raises(RuntimeError):
            broken(model)(**BATCH)
        model.prompt_encoder["default"].embedding = whole
        model(**BATCH)
    assert [bool(c.raised) for c in trace.roots] == [True, False] and len(trace.base_calls) == 1


# --- what a careful reader wants to see


def test_in_place_change_and_alias_in_peft_cpt():
    "peft's CPT adds to the caller's `input_type_mask` in place; two names for one storage are how."
    torch.manual_seed(0)
    model = peft.get_peft_model(
        FAMILIES["llama"](),
        peft.CPTConfig(
            task_type="CAUSAL_LM", cpt_token_ids=[1, 2, 3], cpt_mask=[1] * 3, cpt_tokens_type_mask=[1, 2, 4]
        ),
    )
    mine = torch.full((2, 5), 4)
    with record(model) as trace:
        model(**BATCH, input_type_mask=mine)
    cpt = next(c for c in trace.calls if c.function.endswith("_cpt_forward"))
    found = [
        ch
        for s in cpt.steps
        for ch in s.changes
        if ch.how == "in-place" and ch.name == "adjusted_input_type_mask"
    ]
    assert len(found) == 1 and "input_type_mask" in found[0].aliases
    assert (
        trace.value(found[0].before).nested() == [[4] * 5] * 2
        and trace.value(found[0].value).nested() == mine.tolist() == [[8] * 5] * 2
    )


def test_a_decoding_step_is_prepare_then_base(package):
    for method in ("PROMPT_TUNING", "PREFIX_TUNING"):
        model = make(method, package)
        with record(model) as trace:
            model.generate(**PROMPT, **GREEDY)
        names = [c.function.rpartition(".")[2] for c in trace.children(trace.roots[0])]
        assert [n for n in names if n in ("prepare_inputs_for_generation", "forward")] == [
            "prepare_inputs_for_generation",
            "forward",
        ] * 5
        lengths = [trace.value(c.outputs["past_key_values"]).length for c in trace.base_calls]
        assert lengths == [9, 10, 11, 12, 13]


def test_lines_are_followed_in_peft_methods_and_not_in_the_base_models_generate(package, method):
    model, traced, before = make(method, package), [], sys.gettrace()
    note = lambda _ids, scores: traced.append(sys.gettrace()) or scores
    with record(model) as trace:
        model.generate(**PROMPT, **GREEDY, logits_processor=[note])
    prepared = [c for c in trace.calls if c.function.endswith(".prepare_inputs_for_generation")]
    assert traced == [before] * 5 and all(c.steps for c in prepared)
    assert len(prepared) == 5 or (package is peft and method == "LORA")  # there it is the base model's own


def test_a_base_model_whose_generate_is_no_method(package):
    class Llama(LlamaForCausalLM):
        generate = staticmethod(lambda *args, **kwargs: (args, kwargs))

    base = Llama(make().get_base_model().config).eval()
    model = package.get_peft_model(base, small.config("LORA", package))
    with record(model) as trace:
        model(**PROMPT)
        assert base.generate(1, a=2) == ((1,), {"a": 2})
    assert len(trace.base_calls) == 1


def test_layers_on_request(package):
    model = make("LORA", package)
    with record(model) as none:
        model(**BATCH)
    with record(model, layers=3) as three:
        model(**BATCH)
    assert [c.kind for c in none.calls].count("layer") == 0
    layer = [
        c for c in three.calls if c.kind == "layer" and three.calls[c.parent].kind == "base"
    ]  # what they call is shown below them
    assert len(layer) == 3
    assert layer[0].steps and any(
        "lora_A" in three.sources[c.source].text for c in three.calls if c.kind != "base"
    )


def test_plain_transformers_model():
    model = FAMILIES["gpt2"]().eval()
    with record(model) as trace:
        model(**BATCH)
    assert (
        [c.kind for c in trace.calls] == ["base"]
        and trace.about["peft_type"] is None
        and trace.about["num_virtual_tokens"] == 0
    )


def test_not_a_model():
    with pytest.raises(TypeError, match="Linear"):
        with record(torch.nn.Linear(2, 2)):
            pass


def test_inference_mode_and_static_cache():
    model = make("LORA")
    with torch.inference_mode(), record(model) as trace:
        model.generate(**PROMPT, **GREEDY, cache_implementation="static")
    cache = trace.value(trace.base_calls[-1].outputs["past_key_values"])
    assert (
        cache.type == "StaticCache"
        and cache.max_length >= 9
        and trace.value(trace.roots[0].returned).shape == (2, 10)
    )


class Letters:
    "A tokenizer as far as the recorder is concerned."

    def __len__(self):
        return 64

    def decode(self, ids):
        return "</script><img src=x onerror=alert(1)>" if ids == [5] else f"t{ids[0]}"


def test_tokens_that_occur_are_named():
    model = make()
    with record(model, tokenizer=Letters()) as trace:
        model(**BATCH)
    assert (
        trace.tokens.keys() >= {"0", "3", "4", "5", "6", "7"}
        and trace.decode(5).startswith("</script>")
        and trace.decode(-100) is None
    )


def test_a_token_that_begins_a_word_keeps_its_space():
    class Pieces:
        names = ["<unk>", "▁the", "the", "▁"]

        def decode(self, ids):  # as SentencePiece does: without the first space
            return "".join(self.names[i] for i in ids).replace("▁", " ").removeprefix(" ")

        def convert_ids_to_tokens(self, i):
            return self.names[i]

    assert [_text(Pieces(), i) for i in range(4)] == ["<unk>", " the", "the", " "]


def test_about(package, method):
    with record(make(method, package)) as trace:
        pass
    a = trace.about
    assert (a["implementation"], a["peft_type"], a["num_virtual_tokens"]) == (
        package.__name__,
        method,
        0 if method == "LORA" else 4,
    )
    assert (
        a["num_layers"],
        a["num_attention_heads"],
        a["num_key_value_heads"],
        a["hidden_size"],
        a["active_adapter"],
    ) == (2, 4, 2, 32, "default")
    assert a["adapters"]["default"]["peft_type"] == method


def test_a_recorder_says_where_the_recording_is():
    with pytest.raises(AttributeError, match=r"with record\(model\) as trace"):
        record(make()).calls  # noqa: B018


def test_a_recorder_that_is_entered_twice_goes_on():
    model, _ = peft_viz.load_tiny()
    recorder = record(model)
    with recorder as trace, torch.no_grad():
        with pytest.raises(RuntimeError, match="on already"):
            with recorder:
                pass
        assert recorder.on
        model(torch.tensor([[5, 6, 7]]))
    assert len(trace.base_calls) == 1 and not recorder.on
