"With or without a recording: the same bits and exceptions, the same process afterwards; what was lost is said."

import ast, asyncio, copy, dis, enum, gc, inspect, pickle, random, signal, sys, threading, time, warnings, weakref
from contextlib import contextmanager, nullcontext
from functools import cache
from itertools import pairwise

import peft, pytest, torch, transformers
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack, TorchDispatchMode

from conftest import run_async
import peft_viz
from peft_viz import (
    get_peft_model,
    LoraConfig,
    PeftModelForCausalLM,
    PrefixTuningConfig,
    PromptTuningConfig,
    record,
)
from peft_viz import tiny_random, watching
from peft_viz.recording import (
    about,
    base_model,
    calls,
    describe,
    doors,
    layout,
    measured,
    recorder,
    state,
    survey,
    values,
    watch,
)
from peft_viz.recording.calls import HERE, Tracer, Visit
from peft_viz.recording.recorder import Recorder
from peft_viz.recording import trace as trace_module
from peft_viz.recording.trace import Trace

IDS = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])
GREEDY = dict(max_new_tokens=3, do_sample=False)
C = dict(task_type="CAUSAL_LM")


@pytest.fixture(scope="module")
def model():
    return make()


def make(config=None, package_get=get_peft_model):
    torch.manual_seed(0)
    return package_get(tiny_random("llama"), config or PromptTuningConfig(num_virtual_tokens=4, **C)).eval()


def lora(**more):
    return make(LoraConfig(init_lora_weights=False, **more, **C))


def left(model):
    "What a recording could leave behind; empty when it left nothing."
    base = model.get_base_model()
    found = dict(
        tracer=sys.gettrace(),
        session=HERE.tracer.sessions,
        struck=HERE.tracer.struck,
        modes=torch.overrides._get_current_function_mode_stack(),
        functions_switched_off=not torch._C._is_torch_function_enabled(),
        slots=doors._SLOTS,
        doors=[
            c for m in model.modules() for c in type(m).__mro__ if hasattr(vars(c).get("forward"), "_slot")
        ],
        own=[m for m in (model, base) if "forward" in vars(m)],
        hooks=[m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks],
    )
    return {k: v for k, v in found.items() if v}


@contextmanager
def told(match=None):
    "One warning that fits, or none."
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        yield
    said = [str(w.message) for w in heard if "recording is incomplete" in str(w.message)]
    assert len(said) == (match is not None) and (match is None or match in said[0]), said


def whole(trace):
    return Trace.from_json(trace.to_json()) == trace


# --- interrupts


class Struck(BaseException):
    pass


OURS = doors.__file__.rpartition("/")[0]


# After these instructions the interpreter asks whether a signal has come.
ASKS = {"RESUME", "CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD"}


@cache
def moments(code) -> set:  # of offsets
    "Where an interrupt can strike in a function: nowhere else, not between a `with` block and its end, say."
    return {b.offset for a, b in pairwise(dis.get_instructions(code)) if a.opname in ASKS}


def strike(n, go):
    "Run `go` with an interrupt at the n-th moment of the recorder's own code; how many moments there were."
    count = 0

    def local(frame, event, _arg):
        nonlocal count
        frame.f_trace_opcodes = True
        if event == "opcode" and frame.f_lasti in moments(frame.f_code):
            count += 1
            if count == n:
                raise Struck
        return local

    def tracer(frame, event, arg):
        return local(frame, event, arg) if frame.f_code.co_filename.startswith(OURS) else None

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        go()
    except Struck:
        pass
    finally:
        sys.settrace(before)
    return count


def test_an_interrupt_at_any_moment_of_ours_leaves_nothing(model):
    "Outside of the followed calls, where a tracer of the test's own can strike: starting, at the doors, stopping."
    plain = model(input_ids=IDS).logits

    def go():
        with record(model):
            model(input_ids=IDS)

    total = strike(None, go)
    for n in (
        *range(1, total, 97),
        total - 1,
        total,
    ):  # all of them, 34,174, were tried when this was written
        strike(n, go)
        assert not left(model), n
    assert torch.equal(model(input_ids=IDS).logits, plain)


def test_an_interrupt_at_every_moment_of_a_look_leaves_function_modes_on():
    class Looks(Visit):
        losses = describe.Losses()

        def __init__(self):
            pass

        def begin(self):
            pass

        undo = begin

        @describe.guarded("a test")
        def look(self, *_):
            torch.ones(2).add(1)

        @describe.guarded("a test")
        def look_back(self, *_):
            torch.ones(2).mul(2)

    def go():
        doors.visited([Looks(), Looks()], len, ([],), {})

    for n in range(1, strike(None, go) + 1):
        strike(n, go)
        assert torch._C._is_torch_function_enabled(), n
        assert not doors.UNSEEN.blocks, n


def test_an_interrupt_that_was_kept_holds_no_frames():
    "What it broke off, a `with` block of a generator say, ends at once and not when rubbish is collected."

    class Stop(KeyboardInterrupt):
        pass

    tracer = Tracer()
    tracer.struck, held = Stop(), None
    gc.disable()
    try:
        tracer._deliver()
    except Stop as error:
        held = weakref.ref(error)
    finally:
        gc.enable()
    assert held() is None


def test_signals_at_random_moments(model):
    "As they come to a user: Ctrl-C while a recorded forward runs."
    armed, rng, base = [False], random.Random(0), model.get_base_model()

    def handler(*_):
        if armed[0]:
            armed[0] = False
            raise KeyboardInterrupt

    def go():
        with record(model):
            model(input_ids=IDS)

    go()
    start = time.perf_counter()
    go()
    duration, before, struck = time.perf_counter() - start, signal.signal(signal.SIGALRM, handler), 0
    try:
        for _ in range(60):
            try:
                armed[0] = True
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0002, duration))
                go()
                armed[0] = False
            except KeyboardInterrupt:
                struck += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert not left(model) and "prepare_inputs_for_generation" not in vars(base)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert struck


class Late(Exception):
    "What a user's own timeout raises."


def test_an_exception_of_a_signal_handler_is_no_loss_of_ours(model, monkeypatch):
    def handler(*_):
        raise Late

    before, real = signal.signal(signal.SIGALRM, handler), base_model.bind

    def slow(*args):
        signal.raise_signal(signal.SIGALRM)
        return real(*args)

    monkeypatch.setattr(base_model, "bind", slow)
    try:
        with pytest.raises(Late), told(), record(model):
            model(input_ids=IDS)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not left(model)


@pytest.mark.parametrize("asked", ("decode", "pad_token_id"))
def test_a_timeout_while_a_tokenizer_is_asked_is_the_users(asked, model):
    def handler(*_):
        raise Late

    def late(*_):
        signal.raise_signal(signal.SIGALRM)
        return "text"

    names = dict(decode=lambda self, ids: "text", pad_token_id=property(lambda self: 0))
    names[asked] = late if asked == "decode" else property(late)
    before = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(Late), told(), record(model, type("Words", (), names)()):
            model(input_ids=IDS)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not left(model)


@pytest.mark.parametrize("error", (KeyboardInterrupt, SystemExit))
@pytest.mark.parametrize(
    "config", (peft.PromptTuningConfig(num_virtual_tokens=4, **C), peft.LoraConfig(**C)), ids=type
)
def test_what_peft_leaves_in_the_base_model_is_its_own(config, error):
    "Interrupted, peft 0.21 does not take back what `generate` lent to the base model; 0.18 does."

    def strike(*_):
        raise error

    def left(model, recording):
        "What stands in the model and its base model after a `generate` that was interrupted."
        hook = model.get_base_model().model.norm.register_forward_hook(strike)
        with pytest.raises(error), recording:
            with model.disable_adapter():
                pass
            model.generate(input_ids=IDS, **GREEDY)
        hook.remove()
        return {**vars(model), **vars(model.base_model)}

    recorder = record(model := make(config, peft.get_peft_model))
    found, alone = left(model, recorder), left(make(config, peft.get_peft_model), nullcontext())
    assert not [name for name, f in found.items() if hasattr(getattr(f, "__func__", f), "_slot")]
    lent = "prepare_inputs_for_generation"
    assert found[lent].__func__ is alone[lent].__func__
    assert whole(recorder.trace)


def test_an_interrupt_between_two_lines_waits_for_the_next_call(model, monkeypatch):
    "`x = taken()` and the `try` below it: no call lies between them, so Python alone would not raise there."
    from peft_viz.recording import watch

    real, done = watch.Watch._on, []

    def interrupted(self, frame, event, arg):
        real(self, frame, event, arg)
        if event == "line" and not done and self.call.steps:
            done.append(frame.f_lineno)
            raise KeyboardInterrupt

    monkeypatch.setattr(watch.Watch, "_on", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught, record(model):
        model(input_ids=IDS)
    ours = [e.frame.code.raw.co_name for e in caught.traceback if OURS in str(e.path)]
    assert "_deliver" in ours and done and not left(model)


# --- threads, and recordings beside each other


def test_threads_are_recorded_where_they_run(model):
    "A streamer's thread: its calls are in the trace, the thread keeps nothing, and what comes later is not recorded."
    go, ended, counts = threading.Event(), threading.Event(), []

    def work():
        model.generate(input_ids=IDS, **GREEDY)
        go.set()
        ended.wait()
        counts.append((sys.gettrace(), HERE.tracer.sessions))
        model.generate(input_ids=IDS, **GREEDY)

    thread = threading.Thread(target=work)
    with record(model) as alone:
        model.generate(input_ids=IDS, **GREEDY)
    with record(model) as trace:
        thread.start()
        go.wait()
    n = len(trace.calls)
    ended.set()
    thread.join()
    assert len(trace.calls) == n and counts == [(None, ())]
    for part in "about", "tokens", "sources", "values", "calls":  # one by one: what is it that differs?
        assert getattr(trace, part) == getattr(alone, part)


def test_two_threads_do_not_mix(model):
    barrier, found = threading.Barrier(3), []

    def work():
        barrier.wait()
        for _ in range(3):
            found.append(model(input_ids=IDS).logits)

    plain = model(input_ids=IDS).logits
    threads = [threading.Thread(target=work) for _ in range(3)]
    with record(model) as trace:
        [t.start() for t in threads]
        [t.join() for t in threads]
    with record(model) as one:
        model(input_ids=IDS)
    shape = lambda c, t: (c.function, len(c.steps), [shape(k, t) for k in t.children(c)])
    assert {str(shape(r, trace)) for r in trace.roots} == {str(shape(one.roots[0], one))} and len(
        trace.roots
    ) == 9
    assert whole(trace) and all(torch.equal(x, plain) for x in found) and not left(model)


def test_a_call_that_outlives_the_recording(model):
    "Stopped while another thread is inside: the trace can be saved, grows no more, and says so."
    inside, ended = threading.Event(), threading.Event()

    class Wait:
        def put(self, _):
            inside.set()
            ended.wait()

        def end(self):
            pass

    thread = threading.Thread(target=lambda: model.generate(input_ids=IDS[:1], streamer=Wait(), **GREEDY))
    with told("went on after the recording"), record(model) as trace:
        thread.start()
        inside.wait()
    text = trace.to_json()
    ended.set()
    thread.join()
    assert trace.to_json() == text and whole(trace) and not left(model)


def test_recordings_end_in_any_order(model):
    async def job(wait):
        with record(model) as trace:
            model(input_ids=IDS)
            await asyncio.sleep(wait)
            model(input_ids=IDS)
        return len(trace.base_calls)

    async def both():
        return await asyncio.gather(job(0.02), job(0.05))

    assert run_async(both()) == [3, 3] and not left(model)


def test_recordings_end_in_any_order_beside_a_browser(browser, model):
    "The browser's driver keeps an event loop running in this thread."
    assert asyncio.get_running_loop()
    test_recordings_end_in_any_order(model)


def test_a_recording_goes_on_where_it_stopped(model):
    recorder = Recorder(model)
    for n in (1, 2):
        recorder.start()
        with pytest.raises(RuntimeError, match="on already"):
            recorder.start()
        model(input_ids=IDS)
        recorder.stop()
        recorder.stop()
        assert len(recorder.trace.base_calls) == n and whole(recorder.trace) and not left(model)
        model(input_ids=IDS)


def test_a_recorder_that_is_forgotten_goes(model):
    recorder = Recorder(model)
    recorder.start()
    assert left(model)
    del recorder
    assert not left(model)


@pytest.mark.parametrize("package", ["peft", "peft_viz"])
def test_two_models_around_one_base_model(package):
    "Each recording has the calls of its own model, and those that come to the base model directly."
    kind, configs = (
        (peft.PeftModelForCausalLM, peft) if package == "peft" else (PeftModelForCausalLM, peft_viz)
    )
    base = tiny_random("llama")
    one, other = (kind(base, configs.PromptTuningConfig(num_virtual_tokens=n, **C)).eval() for n in (2, 3))
    with torch.no_grad():
        want = other(input_ids=IDS).logits
        with record(one) as first, record(other) as second:
            one(input_ids=IDS)
            assert torch.equal(other(input_ids=IDS).logits, want)
            other.generate(input_ids=IDS, **GREEDY)
            base(input_ids=IDS)
            with one.disable_adapter():
                one(input_ids=IDS)
            one.base_model(input_ids=IDS)
        with record(base) as third:
            one(input_ids=IDS), other(input_ids=IDS)
    assert [c.parent is None for c in first.base_calls].count(False) >= 1
    assert [len(t.base_calls) for t in (first, second, third)] == [4, 1 + 3 + 2, 2]
    assert set(left(one)) <= {"own"} and not left(other)  # (peft leaves a `forward` of its own behind)


def test_two_models_of_one_class(model):
    other = make()
    with record(model) as trace:
        other(input_ids=IDS)
        assert trace.calls == []
        with record(other) as inner:
            model(input_ids=IDS)
            other(input_ids=IDS)
    assert len(trace.base_calls) == len(inner.base_calls) == 1


# --- other tools in the process


@pytest.mark.parametrize("again", (False, True), ids=("python", "puts itself back"))
def test_a_debugger_sees_what_it_would_see_alone(model, again):
    "Also one that puts itself in charge whenever it is asked, as coverage's does."
    seen = []

    def tracer(frame, event, _arg):
        if again and event == "call":
            sys.settrace(tracer)
        if frame.f_code.co_name in ("mine", "get_prompt") and event != "opcode":
            seen.append((frame.f_code.co_name, event, frame.f_lineno))
        return tracer

    def mine():
        return 1

    def go():
        mine()
        model(input_ids=IDS)
        mine()

    def traced(go):
        seen.clear()
        sys.settrace(tracer)
        try:
            go()
            still = sys.gettrace()
        finally:
            sys.settrace(None)
        assert still is tracer
        return list(seen)

    def recorded():
        with record(model) as trace:
            go()
        steps.append(sum(len(c.steps) for c in trace.calls))

    steps = []
    recorded()
    assert traced(go) == traced(recorded) != [] and steps[0] == steps[1] and not left(model)


def test_function_modes_of_the_user_see_no_more(model):
    class Count(TorchFunctionMode):
        n = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            Count.n += 1
            return func(*args, **kwargs or {})

    counts = []
    for recorded in (False, True):
        Count.n = 0
        with Count():
            if recorded:
                with record(model):
                    model(input_ids=IDS)
            else:
                model(input_ids=IDS)
        counts.append(Count.n)
    assert counts[0] == counts[1] > 0


class Noise(TorchDispatchMode):
    "Changes each number a little, with random numbers: who computes beside the model would be noticed."

    def __init__(self, by=0.01):
        super().__init__()
        self.seen, self.by = [], by

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ARG002
        self.seen.append(str(func))
        out = func(*args, **(kwargs or {}))
        moved = self.by and isinstance(out, torch.Tensor) and out.is_floating_point()
        return out + self.by * torch.rand(()) if moved else out


METHODS = dict(soft=make, lora=lora, prefix=lambda: make(PrefixTuningConfig(num_virtual_tokens=3, **C)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("options", (dict(), dict(attention="full", digests=True, layers=2)))
def test_dispatch_modes_of_the_user_see_no_more(method, options):
    model, found = METHODS[method](), []
    for block in (nullcontext(), record(model, **options)):
        torch.manual_seed(0)
        with block as trace, torch.no_grad(), Noise() as outer, Noise() as inner:
            logits = [model(IDS, labels=IDS).logits, model.generate(input_ids=IDS, **GREEDY)]
        assert not _get_current_dispatch_mode_stack()
        found.append((logits, torch.get_rng_state(), outer.seen, inner.seen))
    (plain, state, *seen), (watched, state_after, *seen_after) = found
    assert all(map(torch.equal, plain, watched)) and torch.equal(state, state_after)
    assert seen == seen_after and len(trace.base_calls) == 1 + GREEDY["max_new_tokens"]
    assert not left(model)


@pytest.mark.parametrize("method", METHODS)
def test_dispatch_modes_do_not_see_how_long_a_cache_is(method):
    "A cache of fixed length counts in tensors."
    model, seen = METHODS[method](), []
    for block in (nullcontext(), nullcontext(), record(model)):  # the first one makes the cache
        with block, torch.no_grad(), Noise(by=0) as mode:
            model.generate(input_ids=IDS, cache_implementation="static", pad_token_id=0, **GREEDY)
        seen.append(mode.seen)
    assert seen[1] == seen[2]


def test_tensors_without_memory_keep_their_mode():
    "A mode of torch's own, which gives tensors without memory their meaning, is there again after one has looked."
    mode, model = FakeTensorMode(allow_non_fake_inputs=True), lora()
    with mode:
        with record(model) as trace:
            out = model(torch.ones(1, 4, dtype=torch.long))
        assert _get_current_dispatch_mode_stack() == [mode]
    assert out.logits.shape[:2] == (1, 4) and len(trace.base_calls) == 1 and whole(trace)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("method", METHODS)
def test_a_recording_of_what_torch_traces_can_be_read(method):
    model = METHODS[method]()

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, ids):
            return self.model(input_ids=ids).logits

    torch.jit.trace(Logits(), IDS, check_trace=False)  # the first one has another graph
    plain = torch.jit.trace(Logits(), IDS, check_trace=False)
    with record(model) as trace:
        watched = torch.jit.trace(Logits(), IDS, check_trace=False)
    kinds = [[node.kind() for node in traced.inlined_graph.nodes()] for traced in (plain, watched)]
    assert kinds[0] == kinds[1]
    assert len(trace.base_calls) == 1 and whole(trace)
    (seen,) = trace.base_calls[0].attention
    rows, columns = trace.value(seen["value"]).shape[-2:]
    assert (rows, columns) == dict(soft=(8, 8), lora=(4, 4), prefix=(4, 7))[method]


def test_a_timeout_while_one_begins_to_follow_a_call(model, monkeypatch):
    "An exception of a signal handler is the user's, wherever it strikes."

    def out(*_):
        raise Timeout

    class Timeout(Exception):
        pass

    def begin(watch, frame):
        if not done:
            done.append(True)
            signal.raise_signal(signal.SIGUSR1)
        as_before(watch, frame)

    done, as_before = [], calls.Watch._begin
    monkeypatch.setattr(calls.Watch, "_begin", begin)
    before = signal.signal(signal.SIGUSR1, out)
    try:
        with told(), pytest.raises(Timeout), record(model):
            model(IDS)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert done and not left(model)


LOOKING = (
    about,
    base_model,
    calls,
    doors,
    layout,
    measured,
    recorder,
    state,
    survey,
    trace_module,
    values,
    watch,
    watching,
)


@pytest.mark.parametrize("module", LOOKING, ids=lambda m: m.__name__.rpartition(".")[2])
def test_no_generator_is_left_unfinished(module):
    """`any(... for ...)` drops its generator unfinished. Python runs it once more then, and loses the exception of a
    signal handler that strikes there. Lists have no such end."""
    assert not unfinished(inspect.getsource(module))


def unfinished(code):
    "Lines that ask a generator for less than all: `any`, `all` or `next` of one, or `next` of what a call gave."
    asked = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Call) and n.args]
    of = lambda *names: [(n.lineno, n.args[0]) for n in asked if getattr(n.func, "id", "") in names]
    made = [line for line, what in of("any", "all", "next", "iter") if isinstance(what, ast.GeneratorExp)]
    is_begun = lambda what: isinstance(what, ast.Call) and getattr(what.func, "id", "") != "iter"
    return made + [line for line, what in of("next") if is_begun(what)]


def test_what_leaves_a_generator_unfinished_is_seen():
    left = ("any(x for x in y)", "next(m.parameters(), None)", "next(iter(x for x in y))", "next(f(y))")
    assert all(unfinished(code) == [1] for code in left)
    assert not any(
        map(unfinished, ("any([x for x in y])", "next(iter([x for x in y]), None)", "sum(x for x in y)"))
    )


def test_a_recorder_that_is_dropped_while_it_is_on_leaves_nothing(model):
    begun = record(model)
    begun.start()
    del begun
    gc.collect()
    assert not left(model)


@pytest.mark.parametrize(
    "how", (copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))), ids=("deepcopy", "pickle")
)
def test_a_copy_computes_with_its_own_weights(how):
    model = lora()
    with record(model, layers=1) as trace:
        other = how(model)
        with torch.no_grad():
            for p in other.parameters():
                p.add_(0.05)
        differs = not torch.equal(other(input_ids=IDS).logits, model(input_ids=IDS).logits)
    assert differs and len(trace.base_calls) == 1 and not left(model) and not left(other)
    assert vars(other).keys() == vars(model).keys()


def test_a_forward_of_the_objects_own(model):
    "As accelerate gives to modules: it is recorded, put back, and copied as it was."
    base = make().get_base_model()
    wrapped = get_peft_model(base, PromptTuningConfig(num_virtual_tokens=4, **C)).eval()
    real = base.forward
    base.forward = own = lambda *args, **kwargs: real(*args, **kwargs)
    with record(wrapped) as trace:
        wrapped(input_ids=IDS)
        inside = copy.deepcopy(wrapped).get_base_model().forward
    assert len(trace.base_calls) == 1 and base.forward is own and inside is own


# --- odd values


class Odd(list):
    def __len__(self):
        raise RuntimeError("no length")


class NoText(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class Silent(dict):
    __class__ = property(lambda self: 1 / 0)


VALUES = dict(
    sparse=lambda: torch.eye(2).to_sparse(),
    nested=lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    jagged=lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged),
    meta=lambda: torch.ones(1, 1, 3, 3, device="meta"),
    float8=lambda: torch.ones(2, 3).to(torch.float8_e4m3fn),
    odd=lambda: Odd([1]),
    silent=Silent,
    huge=lambda: 10**5000,
    surrogate=lambda: "file\udcff.txt",
    keys=lambda: {1: 2, "1": 3, "\udcff": 4, (1, 2): 5, None: float("nan")},
    infinite=lambda: [float("inf"), -float("inf"), float("nan"), 1e400],
    itself=lambda: (x := [])[:0] or x.append(x) or x,
)


@pytest.mark.parametrize("value", VALUES)
def test_an_odd_value_costs_no_more_than_itself(value, tmp_path):
    model = lora()
    with record(model) as plain:
        model(input_ids=IDS, my_mask=1)
    with record(model) as trace:
        model(input_ids=IDS, my_mask=VALUES[value]())
    count = lambda t: ([len(c.steps) for c in t.calls], [len(c.args) for c in t.calls], len(t.base_calls))
    assert count(trace) == count(plain) and whole(trace)
    trace.save(tmp_path / "x.html"), repr(trace)


def test_what_cannot_be_described_is_said():
    class Lies(torch.Tensor):
        @property
        def shape(self):
            raise RuntimeError("no shape")

    odd, model = torch.ones(2).as_subclass(Lies), lora()
    with told("the value of my_mask"), record(model) as trace:
        model(input_ids=IDS, my_mask=odd)
    assert len(trace.base_calls) == 1 and whole(trace)


def test_equal_looking_values_are_told_apart():
    class Mode(enum.Enum):
        GREEDY, BEAM = 1, 2

    class Text(str, enum.Enum):
        GREEDY, BEAM = "greedy", "beam"

    class Id(int):
        pass

    given = dict(
        a=1, b=True, c=1.0, d=0.0, e=-0.0, f="1", g=Mode.GREEDY, h=Mode.BEAM, i=Text.GREEDY, j=Text.BEAM
    )
    given |= dict(k=Id(1), l=Id(2), m=torch.float32, n=torch.float16, o=10**5000, p=2**70)
    model = lora()
    with record(model) as trace:
        model(input_ids=IDS, **given)
    items = trace.value(trace.roots[0].args["kwargs"]).items
    seen = {k: trace.value(items[k]) for k in given}
    assert len({items[k] for k in given}) == len(given)
    assert (seen["i"].value, seen["j"].value, seen["k"].value, seen["l"].value) == ("greedy", "beam", 1, 2)


def test_an_exception_without_a_text_is_the_users():
    model = lora()

    def boom(*_, **__):
        raise NoText

    model.get_base_model().model.layers[0].mlp.forward = boom
    with pytest.raises(NoText), record(model) as trace:
        model(input_ids=IDS)
    assert trace.roots[0].raised["type"] == "NoText" and whole(trace)


# --- arguments


@pytest.mark.parametrize(
    "layers, error",
    (("2", TypeError), (1.5, TypeError), ([1], TypeError), (True, TypeError), (-1, ValueError)),
)
def test_layers_are_checked_first(layers, error, model):
    with pytest.raises(error, match="layers should be"):
        record(model, layers=layers)
    assert not left(model)


def test_a_tokenizer_that_cannot_decode_is_refused(model):
    with pytest.raises(TypeError, match="decode"):
        record(model, tokenizer=object())


class Words:
    "Knows some ids, and no length."

    def decode(self, ids):
        if ids[0] > 5:
            raise KeyError(ids[0])
        return {3: "three", 4: "", 5: "\udcff"}[ids[0]]

    def convert_ids_to_tokens(self, i):
        return f"<{i}>"


class Silence(Words):
    def __getattr__(self, name):
        raise RuntimeError("asked for " + name)


class Processor:
    tokenizer = Words()


@pytest.mark.parametrize("words", (Words(), Processor()), ids=("tokenizer", "processor"))
def test_each_id_has_its_text_or_costs_only_itself(words, model):
    with told("x the text of a token (KeyError"), record(model, words) as trace:
        model(input_ids=IDS)
    assert trace.tokens == {"3": "three", "4": "<4>", "5": "\\udcff"} and whole(trace)


class Pieces:
    "Three vocabularies whose tokens are parts of letters; one by one, all are decoded to the same sign."

    def __init__(self, **pieces):
        vars(self).update(pieces)

    def decode(self, ids):
        return "a \ufffd"


@pytest.mark.parametrize(
    "pieces, text",
    (
        (dict(convert_ids_to_tokens={3: "<0xF0>", 4: "<0x9F>"}.get), ["<0xF0>", "<0x9F>"]),  # Llama 2
        (dict(convert_ids_to_tokens={3: "Ã©Ġð", 4: "Ł"}.get), ["é \\xf0", "\\x9f"]),  # GPT-2
        (dict(decode_single_token_bytes={3: b"a\xe0", 4: b"\xb8"}.get), ["a\\xe0", "\\xb8"]),  # tiktoken
        (dict(convert_ids_to_tokens={3: "水", 4: "\ufffd"}.get), ["a \ufffd"] * 2),
    ),
)
def test_parts_of_a_letter_are_told_apart(pieces, text, model):
    with record(model, Pieces(**pieces)) as trace:
        model(input_ids=torch.tensor([[3, 4]]))
    assert [trace.tokens[i] for i in "34"] == text and whole(trace)


def test_a_tokenizer_that_cannot_be_asked_has_no_more_to_it(model):
    with told("the text of a token"), record(model, Silence()) as trace:
        model(input_ids=IDS)
    assert trace.tokens["3"] == "three" and whole(trace)


def test_a_failing_tokenizer_never_hides_the_users_error(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="mine"), record(model, Words()):
            model(input_ids=IDS)
            raise ValueError("mine")


# --- who is it?


def test_adapters_are_named_however_they_came_in():
    config = lambda: peft.LoraConfig(target_modules=["q_proj"])
    native = tiny_random("llama")
    native.add_adapter(config(), adapter_name="mine")
    injected = peft.inject_adapter_in_model(config(), tiny_random("llama"), adapter_name="mine")
    for model in (native, injected):
        with record(model) as trace:
            model(input_ids=IDS)
        a = trace.about
        assert (a["peft_type"], a["active_adapter"], list(a["adapters"])) == ("LORA", "mine", ["mine"])
        assert a["implementation"] == "peft" and whole(trace)


def test_a_mixed_model_is_named():
    mixed = peft.PeftMixedModel(tiny_random("llama"), peft.LoraConfig(target_modules=["q_proj"]), "a")
    mixed.add_adapter("b", peft.LoHaConfig(target_modules=["v_proj"]))
    mixed.set_adapter(["a", "b"])
    with record(mixed) as trace:
        mixed(input_ids=IDS)
    assert trace.about["peft_type"] == "LORA+LOHA" and trace.about["active_adapter"] == "a, b"
    assert len(trace.base_calls) == 1 and whole(trace)


def test_compiled_models_say_so(model, monkeypatch):
    "`torch.compile(model)`, and `model.compile()`: named as what they are; that lines are missing is said."
    run, other = torch.compile(model, backend="eager"), make()
    other.get_base_model().compile(backend="eager")
    with torch.compiler.set_stance("force_eager"):
        for given in (run, other):
            with told(), record(given) as trace:
                given(input_ids=IDS)
            assert trace.about["peft_type"] == "PROMPT_TUNING" and len(trace.roots[0].steps) > 5
        monkeypatch.setattr(doors, "is_compiling", lambda: True)  # as it is for what is compiled now
        with told("what runs compiled"), record(run):
            run(input_ids=IDS)
    assert not left(model)


def test_a_layer_that_looks_at_a_picture_has_no_mask_of_the_text():
    from transformers.models.mllama import configuration_mllama as configs, MllamaForConditionalGeneration

    rope = "rope_scaling" if transformers.__version__.startswith("4.") else "rope_parameters"
    eyes = configs.MllamaVisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_global_layers=1,
        attention_heads=2,
        image_size=8,
        patch_size=4,
        vision_output_dim=64,
        intermediate_layers_indices=[0],
        max_num_tiles=1,
        supported_aspect_ratios=[[1, 1]],
    )
    text = configs.MllamaTextConfig(
        vocab_size=160,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        cross_attention_layers=[1],
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **{rope: dict(rope_type="default", rope_theta=1e4)},
    )
    config = configs.MllamaConfig(vision_config=eyes, text_config=text, image_token_index=150)
    model = MllamaForConditionalGeneration(config).eval()
    ones = lambda *shape: torch.ones(shape, dtype=torch.long)
    picture = dict(pixel_values=torch.randn(1, 1, 1, 3, 8, 8), aspect_ratio_ids=ones(1, 1))
    masks = dict(aspect_ratio_mask=ones(1, 1, 1), cross_attention_mask=ones(1, 7, 1, 1))
    with record(model, attention="full") as trace, torch.no_grad():
        model(input_ids=torch.tensor([[5, 150, 7, 8, 9, 10, 11]]), **picture, **masks)
    call = trace.base_calls[0]
    assert [a["layers"] for a in call.attention] == [[0, 2]] and whole(trace)
    assert [(w.layer, w.full.shape) for w in call.measured.weights] == [(0, (1, 4, 7, 7)), (2, (1, 4, 7, 7))]
    with pytest.raises(ValueError, match="layers \\[0, 2\\] were measured"):
        layout.attention(trace, layer=1)


def test_the_attention_is_the_language_models():
    "An image encoder with as many layers as the language model."
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    vision = dict(model_type="clip_vision_model", projection_dim=32, image_size=16, patch_size=8, **sizes)
    text = dict(model_type="llama", vocab_size=67, **sizes)
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_id=5)
    ).eval()
    ids = torch.tensor([[8, 9, 5, 5, 5, 5, 10, 11, 12]])
    with torch.no_grad(), record(model) as trace:
        model(input_ids=ids, pixel_values=torch.randn(1, 3, 16, 16))
    (entry,) = trace.base_calls[0].attention
    assert entry["layers"] == [0, 1]
    assert trace.value(entry["value"]).nested()[0][0] == torch.ones(9, 9).tril().int().tolist()


# --- what looks at itself


@pytest.mark.parametrize("method", ("lora", "prompt"))
def test_gradient_checkpointing_goes_on(method):
    "A layer asks whether its class still has its own `forward`; a recording must not change the answer."
    seen = []

    def computed(**how):
        model = make(LoraConfig(**C) if method == "lora" else None).train()
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=dict(use_reentrant=False))
        layers = model.get_base_model().model.layers
        for layer in layers:
            layer.input_layernorm.register_forward_hook(lambda *_: seen.append(1))
        seen.clear()
        if how:
            with record(model, **how):
                loss = model(input_ids=IDS, labels=IDS).loss
                loss.backward()
        else:
            loss = model(input_ids=IDS, labels=IDS).loss
            loss.backward()
        assert not any("forward" in vars(m) for m in model.modules())
        return len(seen), loss

    (plain, loss), (watched, again) = computed(), computed(layers=9, attention="full", digests=True)
    assert plain == watched == 4 and torch.equal(loss, again)


def test_a_door_in_an_object_leaves_copies_as_they_are():
    model = lora()
    layers = model.get_base_model().model.layers
    with record(model, digests=True) as trace:
        for other in copy.deepcopy(model), pickle.loads(pickle.dumps(model)):
            with torch.no_grad():
                for p in other.parameters():
                    p.add_(0.05)
            assert not torch.equal(other(input_ids=IDS).logits, model(input_ids=IDS).logits)
    assert [len(c.measured.digests) for c in trace.base_calls] == [len(layers) + 1] * 2 and not left(model)


@pytest.mark.parametrize("how", ["taken away", "replaced", "wrapped"])
def test_a_forward_that_is_replaced_in_the_block(how):
    "It computes as without a recording; what was not seen is said; what was put there stays."
    model = make()
    base, plain = model.get_base_model(), model(input_ids=IDS).logits
    theirs = base.forward
    base.forward = lambda *args, **more: theirs(*args, **more)
    with told("what reached the base model" if how != "wrapped" else None), record(model) as trace:
        ours = base.forward
        if how == "taken away":
            del base.forward
        else:
            kept = ours if how == "wrapped" else theirs
            base.forward = mine = lambda *args, **more: kept(*args, **more)
        assert torch.equal(model(input_ids=IDS).logits, plain)
    assert bool(trace.base_calls) is (how == "wrapped") and trace.roots[0].raised is None
    assert vars(base).get("forward") is (None if how == "taken away" else mine)
    assert torch.equal(model(input_ids=IDS).logits, plain)
    with record(model) as again:
        assert torch.equal(model(input_ids=IDS).logits, plain)
    assert len(again.base_calls) == 1 and whole(again)


def test_ids_by_another_name():
    "`generate(inputs=...)`: these are ids; embeddings that go by this name are none."
    model = lora()
    with record(model) as trace:
        model.generate(inputs=IDS, **GREEDY)
        model(input_ids=IDS, inputs=torch.zeros(2, 4, 32))
    given = [layout_of(trace, root)["inputs"] for root in trace.roots]
    assert [value.role for value in given] == ["ids", "embeddings"] and given[0].nested() == IDS.tolist()


def layout_of(trace, call):
    return {name: trace.value(i) for name, i in trace.value(call.args["kwargs"]).items.items()}


@pytest.mark.parametrize("package", [get_peft_model, peft.get_peft_model])
def test_a_model_in_a_wrapper_that_hands_calls_on(package):
    config = PromptTuningConfig if package is get_peft_model else peft.PromptTuningConfig
    inside = make(config(num_virtual_tokens=4, **C), package)
    model = torch.nn.DataParallel(torch.nn.DataParallel(inside))
    ids = torch.tensor([[7, 8, 9]])
    with record(model) as trace:
        model(input_ids=ids)
    assert len(trace.base_calls) == 1 and trace.about["peft_type"] == "PROMPT_TUNING"
    with pytest.raises(TypeError, match="got DataParallel|got Linear"):
        record(torch.nn.DataParallel(torch.nn.Linear(1, 1)))
