"""The command: what scripts do with and without `peft-viz run`, what was recorded of them; `show`, `demo`, `%%record`.

Each script of tests/scripts is a process of its own, twice."""
# lane: here

import contextlib, errno, functools, gc, os, pickle, re, signal, socket, subprocess, sys, threading, traceback
import warnings, weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from peft_viz import LoraConfig, PromptTuningConfig, Trace, get_peft_model, load_tiny, record, tiny_random
from peft_viz import cli, watching
from peft_viz.recording import outline, recorder
from peft_viz.startup.sitecustomize import PLACES
from conftest import ROOT
from forks import MODELS, forks

SCRIPTS = ROOT / "tests" / "scripts"
RUN = {  # name: (script and its arguments, exit code)
    "plain loop": (["plain_loop.py"], 0),
    "Trainer": (["trainer_lora.py"], 0),
    "SFTTrainer": (["sft_prompt_tuning.py"], 0),
    "streamer": (["generate_prefix.py"], 0),
    "raises": (["raises.py"], 1),
    "interrupted": (["interrupted.py"], -signal.SIGINT),
    "ends hard": (["interrupted.py", "hard"], 7),
    "arguments": (["arguments.py", "--words", "words.txt", "-o", "3"], 3),
}
TIMES = re.compile(r"'train_(runtime|\w+_per_second)': '[\d.e-]+'")  # no two runs take equally long

# What runs begin with; not with peft, which the command has to meet as a script imports it. Two under the command
# begin with nothing, as in a terminal.
IMPORTED = *MODELS, "transformers.tokenization_utils_tokenizers"
BEGIN_ANEW = "SFTTrainer", "raises"


def words(name):
    script, *arguments = RUN[name][0]
    return [str(SCRIPTS / script), *arguments]


def environment(**more):
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false", **more}


def python(*command, **more):
    "Run Python; (exit code, standard output, standard error)."
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, **more)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    "What each script does by itself: name -> (exit code, standard output, standard error)."
    run = functools.partial(forks(*IMPORTED).run, env=environment(), cwd=tmp_path_factory.mktemp("plain"))
    return {name: run(*words(name)) for name in RUN}


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    "A function: run a script under the command, once; (exit code, standard output, standard error, its traces)."
    done = {}

    def run(name):
        if name not in done:
            folder = tmp_path_factory.mktemp("watched")
            command = ["-m", "peft_viz", "run", "-o", "trace.json", *words(name)]
            begin = python if name in BEGIN_ANEW else forks(*IMPORTED).run
            result = begin(*command, env=environment(), cwd=folder)
            traces = {p.name: Trace.load(p) for p in sorted(folder.iterdir())}
            done[name] = *result, traces
        return done[name]

    return run


# ---- the same run


@pytest.mark.parametrize("name", RUN)
def test_a_script_runs_as_without_the_command(name, plain, watched):
    code, out, err, _ = watched(name)
    assert (code, RUN[name][1]) == (plain[name][0],) * 2, err
    assert TIMES.sub("", out) == TIMES.sub("", plain[name][1])


def test_a_traceback_shows_the_script_and_nothing_of_ours(watched):
    *_, err, _ = watched("raises")
    shown = err[err.index("Traceback") :].splitlines()
    assert shown[1].startswith(f'  File "{SCRIPTS / "raises.py"}", line') and "peft_viz/" not in err
    assert shown[-2].startswith("ValueError: Expected input batch_size") and shown[-1].startswith(
        "peft-viz: "
    )


# ---- what was recorded


LAST = {  # what the last line says
    "plain loop": [
        "3 of 7 forwards and 1 generate of PeftModelForCausalLM (LoRA on LlamaForCausalLM): trace.json",
        "1 forward of PeftModelForCausalLM (LoRA on LlamaForCausalLM): trace.2.json",
        "2 forwards of PeftModelForCausalLM (LoRA on LlamaForCausalLM): trace.3.json",
    ],
    "Trainer": ["3 of 5 forwards of PeftModelForCausalLM (LoRA on LlamaForCausalLM): trace.json"],
    "SFTTrainer": ["3 of 4 forwards of PeftModelForCausalLM (prompt tuning on LlamaForCausalLM): trace.json"],
    "streamer": ["1 generate of PeftModelForCausalLM (prefix tuning on LlamaForCausalLM): trace.json"],
    "raises": ["4 of 5 forwards of PeftModelForCausalLM (prompt tuning on LlamaForCausalLM): trace.json"],
    "interrupted": ["2 generates of PeftModelForCausalLM (LoRA on LlamaForCausalLM): trace.json"],
    "arguments": ["2 forwards of LlamaForCausalLM (LoRA on LlamaForCausalLM): trace.json"],
}


@pytest.mark.parametrize("name", LAST)
def test_the_last_line_says_what_was_recorded_and_where_it_lies(name, watched):
    *_, err, traces = watched(name)
    said = f"peft-viz: recorded {'; '.join(LAST[name])} - read it: peft-viz show trace.json"
    assert err.splitlines()[-1] == said
    assert set(traces) == {part.rpartition(" ")[2] for part in LAST[name]}


def test_tokens_are_read_with_the_tokenizer_that_the_script_has(watched):
    for name in ("plain loop", "Trainer", "SFTTrainer", "streamer"):
        trace = watched(name)[-1]["trace.json"]
        assert "e" in trace.tokens.values(), name


def test_prompts_of_a_trainer_reach_the_base_model(watched):
    trace = watched("SFTTrainer")[-1]["trace.json"]
    for root, base in zip(trace.roots, trace.base_calls):
        given = next(trace.value(i) for n, i in root.args.items() if n == "input_ids")
        assert trace.value(base.args["inputs_embeds"]).shape[1] == given.shape[1] + 4
        assert trace.value(base.outputs["loss"]).data


def test_a_generate_in_a_thread_is_recorded_whole(watched):
    trace = watched("streamer")[-1]["trace.json"]
    assert [c.function for c in trace.roots] == ["PeftModelForCausalLM.generate"] and len(
        trace.base_calls
    ) == 6
    assert trace.value(trace.base_calls[0].args["past_key_values"]).length == 4


def test_the_call_that_raises_is_kept_with_its_line(watched):
    *good, bad = watched("raises")[-1]["trace.json"].roots
    assert not any(c.raised for c in good) and bad.raised["type"] == "ValueError" and bad.raised["line"]


def test_what_was_interrupted_is_kept_as_far_as_it_came(watched):
    trace = watched("interrupted")[-1]["trace.json"]
    first, second = trace.roots
    assert not first.raised and second.raised["type"] == "KeyboardInterrupt"
    assert [c.kind for c in trace.children(second)].count("base") == 6


def test_a_process_that_ends_at_once_leaves_the_calls_before(watched):
    trace = watched("ends hard")[-1]["trace.json"]
    assert [c.function for c in trace.roots] == ["PeftModelForCausalLM.generate"] and not trace.roots[
        0
    ].raised


BECOMES = """
import os
from peft_viz import get_peft_model, PromptTuningConfig, load_tiny
base, tokenizer = load_tiny()
model = get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
model(**tokenizer(["abc"], return_tensors="pt"))
os.execvp("printf", ["printf", "another"])
"""


def test_a_script_that_becomes_another_program_says_before_what_was_recorded(tmp_path):
    "`os.execvp` tries each folder of PATH: it is said once, for the one that has the program."
    path = script(tmp_path, BECOMES)
    command = ["-m", "peft_viz", "run", "-o", "trace.json", path]
    code, out, err = python(*command, env=environment(), cwd=tmp_path)
    assert (code, out) == (0, "another") and err.count("\n") == 1
    assert re.search(r"recorded 1 forward .* \(the script becomes /\S*/printf\)$", err)
    assert len(Trace.load(tmp_path / "trace.json").base_calls) == 1


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_two_processes_leave_a_file_each(tmp_path):
    launch = [
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launch += ["--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port())]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", str(SCRIPTS / "trainer_lora.py"), "fork"]
    command = ["-m", "peft_viz", "run", "-o", "trace.json", "--every", "5", "--calls", "1", *launch]
    code, out, err = python(*command, env=environment(), cwd=tmp_path)
    assert code == 0 and "[" in out, err
    traces = [Trace.load(tmp_path / name) for name in ("trace.json", "trace.rank1.json")]
    assert [len(t.base_calls) for t in traces] == [2, 2]  # the first and the fifth
    assert err.count("peft-viz: recorded 2 of 5 forwards of PeftModelForCausalLM") == 2
    launcher = "peft-viz: recorded in other processes: trace.json, trace.rank1.json"
    launcher += " - read it: peft-viz show trace.json"
    assert err.splitlines()[-1] == launcher and "no PEFT model" not in err  # it called none itself
    assert len(list(tmp_path.iterdir())) == 2


# ---- watching, in this process


@contextlib.contextmanager
def watch(**options):
    watcher = watching.Watcher(**options)
    watcher.install()
    try:
        yield watcher
    finally:
        watcher.remove()


def small(config=None, family="llama"):
    return get_peft_model(
        tiny_random(family, num_hidden_layers=1), config or LoraConfig(task_type="CAUSAL_LM")
    ).eval()


IDS = torch.tensor([[5, 6, 7, 8]])


def test_a_joined_trace_is_the_trace_of_both():
    model, one = small(PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)), Trace()
    with record(model) as whole:
        model(input_ids=IDS)
        model.generate(input_ids=IDS, max_new_tokens=2)
    for run in (lambda: model(input_ids=IDS), lambda: model.generate(input_ids=IDS, max_new_tokens=2)):
        with record(model) as part:
            run()
        watching.join(one, part)
    assert Trace.from_json(one.to_json()) == one
    assert one.sources == whole.sources and one.about == whole.about

    def resolved(trace):
        see = lambda i: None if i is None else repr(trace.value(i))
        named = lambda d: {k: see(i) for k, i in d.items()}
        change = lambda c: (c.name, see(c.value), see(c.before), c.how, c.aliases)
        return [
            (
                c.kind,
                c.function,
                c.parent,
                c.parent_step,
                c.source,
                c.id,
                named(c.args),
                named(c.outputs),
                see(c.returned),
            )
            + (
                [see(a["value"]) for a in c.attention],
                [(s.line, s.calls, [*map(change, s.changes)]) for s in c.steps],
            )
            for c in trace.calls
        ]

    assert resolved(one) == resolved(whole)


def test_the_first_calls_and_every_kth_are_kept_of_each_kind():
    model = small()
    with watch(calls=2, every=3) as watcher:
        for n in range(1, 8):
            model(input_ids=IDS[:, :2].repeat(1, n))
        model.generate(input_ids=IDS, max_new_tokens=1)
        model.forward(input_ids=IDS)  # past __call__
    (page,) = watcher.pages
    lengths = [page.trace.value(c.args["input_ids"]).shape[1] for c in page.trace.base_calls]
    assert lengths == [2, 4, 6, 12, 4] and page.calls == dict(forward=8, generate=1)


def test_subclasses_adapters_and_classes_that_come_later():
    import peft

    class Mine(peft.PeftModelForCausalLM):
        def generate(self, *args, **kwargs):
            return self.base_model.generate(*args, **kwargs)

    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    make = lambda: tiny_random(num_hidden_layers=1)
    injected, added, before = make(), make(), make()
    before.add_adapter(config)
    with watch() as watcher:

        class Later(peft.PeftModelForCausalLM):
            def forward(self, *args, **kwargs):
                return super().forward(*args, **kwargs)

        added(input_ids=IDS)  # no adapter yet: not counted
        added.add_adapter(config)
        peft.inject_adapter_in_model(config, injected)
        for model in (Mine(make(), config), Later(make(), config), added, injected, before):
            model.eval()(input_ids=IDS)
            model.generate(input_ids=IDS, max_new_tokens=1)
        make()(input_ids=IDS)
    names = ["Mine", "Later", "LlamaForCausalLM", "LlamaForCausalLM", "LlamaForCausalLM"]
    assert [page.model for page in watcher.pages] == names
    assert [dict(page.kept) for page in watcher.pages] == [dict(forward=1, generate=1)] * 5
    calls = [[c.function for c in page.trace.roots] for page in watcher.pages]
    assert calls == [[f"{name}.forward", f"{name}.generate"] for name in names]
    assert not watcher.notes


def test_nothing_is_left_on_classes_and_models():
    import peft.peft_model
    import peft_viz.reference.model

    classes = [peft.PeftModel, peft.PeftModelForCausalLM, peft_viz.PeftModel, peft_viz.PeftModelForCausalLM]
    before = [dict(vars(c)) for c in classes]
    model = small()
    attributes = set(vars(model)), set(model.state_dict())
    with watch():
        model(input_ids=IDS)
        assert (set(vars(model)), set(model.state_dict())) == attributes
        assert torch.equal(
            pickle.loads(pickle.dumps(model))(input_ids=IDS).logits, model(input_ids=IDS).logits
        )
    assert [dict(vars(c)) for c in classes] == before


def test_two_adapters_of_one_model_have_a_page_each():
    model = small(PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    model.add_adapter("other", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with watch() as watcher:
        model(input_ids=IDS)
        model.set_adapter("other")
        model(input_ids=IDS)
    assert [page.trace.about["num_virtual_tokens"] for page in watcher.pages] == [2, 3]


def test_a_compiled_model_answers_as_ever_and_is_not_recorded():
    model = small()
    with watch() as watcher:
        compiled = torch.compile(model, backend="eager")
        with torch.no_grad():
            assert torch.allclose(compiled(input_ids=IDS).logits, model(input_ids=IDS).logits, atol=1e-6)
    assert watcher.pages[0].calls["forward"] == 1


def test_a_call_of_which_nothing_was_seen_is_not_said_to_be_recorded():
    model = small()
    model._compiled_call_impl = lambda **kwargs: "compiled"  # as after `model.compile()`
    with watch() as watcher:
        assert model(input_ids=IDS) == "compiled"
    assert not watcher.pages and "what runs compiled" in watcher.notes[0]


def test_what_cannot_be_recorded_runs_all_the_same():
    import peft

    plain = torch.nn.Sequential(torch.nn.Linear(3, 3))
    model = peft.get_peft_model(plain, peft.LoraConfig(target_modules=["0"]))
    with watch() as watcher:
        assert model(torch.ones(1, 3)).shape == (1, 3)
    assert not watcher.pages and "has no config" in watcher.notes[0]


def test_a_failing_sink_does_not_reach_the_model():
    def full(_page):
        raise OSError("no space left on device")

    model = small()
    with watch(sink=full) as watcher:
        assert model(input_ids=IDS).logits.shape[1] == 4
        model.generate(input_ids=IDS, max_new_tokens=1)
    assert watcher.notes == ["it could not be written: no space left on device"]  # once, not for each call


def test_a_copy_of_data_parallel_is_not_recorded():
    model = small()
    with watch() as watcher:
        vars(model)["_is_replica"] = True  # as torch.nn.DataParallel marks its copies
        assert model(input_ids=IDS).logits.shape[1] == 4
    assert not watcher.pages and "torch.nn.DataParallel made a copy" in watcher.notes[0]


def test_threads_that_share_a_model_are_recorded_each_by_itself():
    model, start = (
        small(PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)),
        threading.Barrier(3),
    )

    def run(n):
        start.wait()
        return model.generate(input_ids=IDS, max_new_tokens=n, min_new_tokens=n).shape[1]

    with watch() as watcher, ThreadPoolExecutor(3) as pool:
        assert list(pool.map(run, (2, 3, 4))) == [6, 7, 8]
    (page,) = watcher.pages
    roots = page.trace.roots
    assert [c.function for c in roots] == ["PeftModelForCausalLM.generate"] * 3 and not watcher.notes
    count = lambda root: sum(c.kind == "base" for c in page.trace.children(root))
    assert sorted(map(count, roots)) == [2, 3, 4] and len(page.trace.base_calls) == 9


def test_nothing_holds_a_model_between_two_calls():
    model = small()
    gc.collect()
    gc.disable()
    try:
        with watch() as watcher:
            model(input_ids=IDS)
            model.generate(input_ids=IDS, max_new_tokens=1)
            with contextlib.suppress(ValueError):
                model(input_ids=IDS, labels=IDS[:, :2])
            model = weakref.ref(model)
            assert model() is None and watcher.pages[0].calls == dict(forward=2, generate=1)
    finally:
        gc.enable()


def test_a_call_that_is_refused_is_kept_too():
    model = small(PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with watch(calls=1) as watcher:
        model(input_ids=IDS)
        with pytest.raises(ValueError):
            model(input_ids=IDS, labels=IDS[:, :2])
    trace = Trace.from_json(watcher.pages[0].trace.to_json())
    assert [(c.function, bool(c.raised)) for c in trace.roots] == [
        ("PeftModelForCausalLM.forward", False),
        ("PeftModelForCausalLM.forward", True),
    ]
    assert "  raised ValueError: " in cli.summary(trace, 90)


def test_what_was_lost_is_a_note_and_no_warning(monkeypatch):
    monkeypatch.setattr(recorder, "_note_compiled", lambda self: self.ledger.losses.add("a line"))
    with watch() as watcher, warnings.catch_warnings():
        warnings.simplefilter("error")
        small()(input_ids=IDS)
    assert "Not recorded: a line." in watcher.notes[0] and watcher.pages


def test_a_page_names_an_adapter_that_has_a_name():
    model = small()
    model.add_adapter("second", LoraConfig(task_type="CAUSAL_LM"))
    with watch(calls=2) as watcher:
        model(input_ids=IDS)
        model.set_adapter("second")
        model(input_ids=IDS)
    first, second = (page.summary() for page in watcher.pages)
    assert "(LoRA on Llama" in first and "(LoRA 'second' on Llama" in second


def test_calls_that_are_not_to_be_kept_are_not_said_to_be_none():
    with watch(calls=0) as watcher:
        small()(input_ids=IDS)
    assert watcher.has_seen and not watcher.pages


def test_a_forked_process_begins_anew():
    watcher = watching.Watcher()
    holder = threading.Thread(target=watcher.lock.acquire)  # the child does not have the thread that holds it
    holder.start()
    holder.join()
    watcher.forget()
    assert watcher.lock.acquire(blocking=False) and not watcher.pages


def test_our_lines_are_taken_out_of_all_that_an_error_brings():
    def fail():
        with watch(), pytest.raises(ValueError) as caught:
            small(PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))(
                input_ids=IDS, labels=IDS[:, :2]
            )
        return caught.value

    def ours(error):
        return [f for f in traceback.extract_tb(error.__traceback__) if f.filename == watching.__file__]

    cause, context, member = fail(), fail(), fail()
    assert ours(cause) and ours(context) and ours(member)
    error = ValueError("all of them")
    error.__cause__, error.__context__, error.exceptions = cause, context, (member,)
    watching.clean(error)
    assert not ours(cause) and not ours(context) and not ours(member) and member.__traceback__


def test_the_tokenizer_that_fits_is_found():
    _, tokenizer = load_tiny()
    model = small()
    assert watching.find_tokenizer(model) is not None
    model.base_model.model.name_or_path = tokenizer.name_or_path = "a name of its own"
    assert watching.find_tokenizer(model) is tokenizer


@pytest.mark.parametrize("rank, owner", [(None, ""), ("0", ""), ("1", ".rank1")])
def test_each_process_and_model_has_a_file(rank, owner, tmp_path, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("RANK", rank) if rank else monkeypatch.delenv("RANK", raising=False)
    output = tmp_path / "trace.html"
    output.touch()
    os.utime(output, (50, 50))  # of an earlier run
    files = watching.Files(str(output), os.getpid(), 100)
    assert [files.path(n).name for n in (1, 2)] == [f"trace{owner}.html", f"trace{owner}.2.html"]
    output.touch()  # now another process has written it: that changes nothing for this one
    assert files.path(1).name == f"trace{owner}.html"
    theirs = watching.Files(str(output), os.getpid() + 1, 100)  # as a process sees it that this one started
    assert theirs.path(1).name == (f"trace{owner}.html" if rank else f"trace.{os.getpid()}.html")
    os.utime(output, (50, 50))
    theirs.forget()
    assert theirs.path(1).name == f"trace{owner}.html"
    monkeypatch.setenv(watching.CLAIMED, "1")  # the process that the user started has met PEFT
    theirs.forget()
    assert theirs.path(1).name == (f"trace{owner}.html" if rank else f"trace.{os.getpid()}.html")


def test_the_places_exist():
    import importlib

    assert all(hasattr(importlib.import_module(module), name) for module, name in PLACES.items())


# ---- scripts without models, and Python's options


def script(tmp_path, text):
    (tmp_path / "script.py").write_text(text)
    return tmp_path / "script.py"


def test_a_script_without_peft_runs_as_usual_and_nothing_is_imported_for_it(tmp_path):
    (tmp_path / "json.py").write_text("mine = True")  # modules beside a script come before Python's own
    text = (
        "import sys, json, subprocess; print(sys.stdout.write_through, json.mine, sys.argv, sys.warnoptions, "
        "sys.path[1:2], 'torch' in sys.modules); subprocess.run([sys.executable, '-c', 'print(1)'])"
    )
    path = script(tmp_path, text)
    _, expected, _ = python("-u", "-W", "error", path, "--calls", "7", "--", "-x", env=environment())
    command = ["-u", "-W", "error", "-m", "peft_viz", "run", path, "--calls", "7", "--", "-x"]
    code, out, err = python(*command, env=environment(), cwd=tmp_path.parent)
    assert (code, out) == (0, expected) and "True True" in out
    assert err == "peft-viz: no PEFT model was called, so nothing was recorded\n"
    assert not list(tmp_path.parent.glob("trace*"))


@pytest.mark.parametrize(
    "text, speaks",
    [
        ("import os; os.environ.clear(); print(1)", True),
        ("import sys, io; sys.stderr = io.StringIO(); print(1)", True),
        ("import sys; sys.stderr = None; print(1)", True),
        ("import sys; sys.exit(3)", True),
        ("print(1)\nx = = 1", False),  # Python has said already what is wrong
    ],
)
def test_whatever_a_script_does_the_last_line_is_said_where_it_helps(text, speaks, tmp_path):
    path = script(tmp_path, text)
    plain = python(path, env=environment(), cwd=tmp_path)
    code, out, err = python("-m", "peft_viz", "run", path, env=environment(), cwd=tmp_path)
    line = "peft-viz: no PEFT model was called, so nothing was recorded\n"
    assert (code, out, err) == (*plain[:2], plain[2] + line * speaks)


def test_a_script_may_come_from_standard_input(tmp_path):
    text = "import sys; print(sys.argv, __name__)"
    run = [["-", "a"], ["-m", "peft_viz", "run", "-", "a"]]
    plain, ours = (python(*words, env=environment(), cwd=tmp_path, input=text) for words in run)
    assert ours[:2] == plain[:2] == (0, "['-', 'a'] __main__\n")


def test_a_module_is_run_as_python_runs_it(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "job.py").write_text(
        "import sys; print(__name__, __package__, sys.path[0], sys.argv); sys.exit('stop')"
    )
    expected = python("-m", "package.job", "-m", "x", env=environment(), cwd=tmp_path)
    code, out, err = python(
        "-m", "peft_viz", "run", "-m", "package.job", "-m", "x", env=environment(), cwd=tmp_path
    )
    assert (code, out) == expected[:2] and code == 1
    assert err.splitlines()[0] == expected[2].strip() == "stop"


def test_a_pipe_that_closes_ends_a_script_as_it_would(tmp_path):
    path = script(tmp_path, "for i in range(100000): print(i)")
    for command in ([path], ["-m", "peft_viz", "run", path]):
        process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            cwd=tmp_path,
        )
        process.stdout.close()
        err = process.stderr.read().decode()
        process.stderr.close()
        assert process.wait() in (1, 120) and "BrokenPipeError" in err
        codes = [*locals().get("codes", []), process.returncode]
    assert codes[0] == codes[1]


def test_the_environment_keeps_a_sitecustomize_of_its_own(tmp_path):
    text = "import builtins; builtins.greeting = 'hello'; import nothing_of_that_name"
    (tmp_path / "sitecustomize.py").write_text(text)
    path = script(tmp_path, "print(greeting)")
    env = environment()
    env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), env["PYTHONPATH"]])
    code, out, expected = python(path, env=env, cwd=tmp_path)
    assert (code, out) == (0, "hello\n") and "nothing_of_that_name" in expected
    code, out, err = python("-m", "peft_viz", "run", path, env=env, cwd=tmp_path)
    own = "peft-viz: no PEFT model was called, so nothing was recorded\n"
    assert (code, out) == (0, "hello\n") and err == expected * 2 + own  # `peft-viz` is a Python, too


# ---- the other commands


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    "A forward with labels and a generate, in a file."
    base, tokenizer = load_tiny()
    model = get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)).eval()
    batch = tokenizer(["tea=", "coffee="], padding=True, padding_side="left", return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    with record(model, tokenizer) as trace:
        model(**batch, labels=labels)
        model.generate(**batch, max_new_tokens=8, min_new_tokens=8)
    return trace.save(tmp_path_factory.mktemp("recorded") / "trace.json")


def test_show_writes_the_page_and_prints_the_story_and_a_summary(recorded, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    assert cli.main(["show", str(recorded)]) == 0
    out = capsys.readouterr().out
    assert recorded.with_suffix(".html").read_text().startswith("<!doctype html>")
    lines = out.splitlines()
    assert (
        lines[0].startswith("Prompt tuning on LlamaForCausalLM (peft_viz ") and "4 virtual tokens" in lines[0]
    )
    assert lines[1].startswith("  1  You pass 2 rows of 7 tokens. Padding: row 0 has 3 on the left.")
    assert any(line.startswith("prompt tuning (peft_viz ") and "4 virtual tokens" in line for line in lines)
    assert re.search(
        r"got +inputs_embeds +float32\[2, 11, 96\]\n +attention_mask +int64\[2, 11\]\n +labels", out
    )
    assert re.search(r"gave +loss +\d+\.\d{4}\n +logits +float32\[2, 11, 67\]", out)
    assert "◆◆◆◆□□□▪▪▪▪" in out and "●●●●···●●●●" in out and "×××××××◎◎◎◎" in out
    assert re.search(r"cache +tokens +0 -> 11, 4 of them virtual", out) and "7 decoding steps" in out
    assert re.search(r" 7 +int64\[2, 1\] .*17 -> 18\n", out)
    assert (
        re.search(r"\n +\d+ +(yes|no) +if ", out)
        and "PeftModelForCausalLM.prepare_inputs_for_generation" in out
    )
    assert max(len(line) for line in lines[:-1]) <= 90
    assert cli.main(["show", str(recorded), "--lang", "zh"]) == 0
    assert "  1  你传入 2 行，每行 7 个词元。" in capsys.readouterr().out
    assert all(len(line) <= 40 for line in cli.summary(Trace.load(recorded), 40).splitlines())


@pytest.mark.parametrize(
    "words, message",
    [
        ("show nothing.json", "there is no file nothing.json"),
        ("show {folder}/page.html", "is a page already"),
        ("show {folder}/notes.txt", "has an unknown extension"),
        ("show {folder}/other.json", "This is not a trace"),
        ("show {trace} -o x.txt", "a page ends in .html"),
        ("show {trace} -o /nowhere/x.html", "there is no folder /nowhere"),
        ("show {trace} -o {folder}/page.html", "page.html is there already, and is no recording"),
        ("run nothing.py", "there is no file nothing.py"),
        ("run {folder}", "is a folder without a __main__.py: name a script"),
        ("run {trace}", "is no Python script: peft-viz show reads a recording"),
        ("run {folder}/page.html", "is no Python script: open a page in a browser"),
        ("run -m no_such_package.job", "there is no module no_such_package.job"),
        ("run -m ..job", "there is no module ..job"),
        ("run -o trace.txt {trace}", "use a name that ends in .html or .json"),
        ("run -o /nowhere/trace.html {trace}", "there is no folder /nowhere"),
        ("run -o {folder}/folder.html {trace}", "folder.html is a folder: choose another name with -o"),
        ("run -o {folder}/locked/trace.html {trace}", "locked cannot be written to (Read-only file system)"),
        ("run -o {folder}/full/trace.json {trace}", "full cannot be written to (No space left on device)"),
        ("run -o {folder}/page.html {trace}", "page.html is there already, and is no recording"),
        ("run -o {folder}/pipe.json {trace}", "pipe.json is a pipe or a device"),
        ("run --calls -1 {trace}", "numbers from 0 upwards"),
        ("demo -o tour.txt", "unknown extension"),
        ("demo -o {folder}/other.json", "other.json is there already, and is no recording"),
        ("demo -o {folder}/full/tour.html", "full cannot be written to (No space left on device)"),
        ("compare {trace} {trace} -o x.json", "so its name ends in .html"),
        ("compare {trace} {trace} -o {folder}/full/x.html", "full cannot be written to (No space left on"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(words, message, recorded, tmp_path, capsys, monkeypatch):
    for name in ("page.html", "notes.txt", "other.json"):
        (tmp_path / name).write_text("{}")
    for name in ("folder.html", "locked", "full"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    monkeypatch.setattr(cli.tempfile, "NamedTemporaryFile", broken_disk(cli.tempfile.NamedTemporaryFile))
    assert cli.main(words.format(folder=tmp_path, trace=recorded).split()) == 2
    out, err = capsys.readouterr()
    assert not out and message in err and err.count("\n") == 1


def broken_disk(open_file):
    "Folders named `locked` cannot be written to, and in those named `full` a file can be made but not filled."

    def no_space(_data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def temporary(dir, **more):
        if Path(dir).name == "locked":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        file = open_file(dir=dir, **more)
        if Path(dir).name == "full":
            file.write = no_space
        return file

    return temporary


def test_what_cannot_be_written_is_noticed_before_anything_runs(tmp_path):
    "/proc lets nothing be made there, and says so to root as well."
    path = script(tmp_path, "print('it ran')")
    for words in (["run", "-o", "/proc/trace.html", path], ["demo", "-o", "/proc/tour.html"]):
        code, out, err = python("-m", "peft_viz", *words, env=environment(), cwd=tmp_path)
        assert (code, out) == (2, "") and err.count("\n") == 1
        assert "/proc cannot be written to" in err and "choose another place with -o" in err


@pytest.mark.parametrize("words", [["run"], ["run", "-o", "x.html"], ["run", "-m"]])
def test_what_is_missing_is_called_by_its_name(words, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    err = capsys.readouterr().err
    assert end.value.code == 2 and err.endswith("the following arguments are required: script.py\n")


def test_a_summary_says_what_a_poor_recording_holds(recorded):
    trace = Trace.load(recorded)
    for source in trace.sources:
        source.branches.clear()
    next(c for c in trace.calls if any(s.branch is not None for s in c.steps)).source = None
    assert re.search(r"\n +\d+ +(yes|no) +if ", cli.summary(trace, 90))


@pytest.mark.parametrize("error, code", [(KeyboardInterrupt, 130), (BrokenPipeError, 1)])
def test_a_reader_who_has_enough_sees_no_traceback(error, code, recorded, monkeypatch, capfd):
    def stop(*_):
        raise error

    monkeypatch.setattr("peft_viz.recording.trace.Trace.story", stop)
    descriptor = os.dup(1)
    try:
        assert cli.main(["show", str(recorded)]) == code
    finally:
        os.dup2(descriptor, 1)  # what is printed to a pipe without a reader goes nowhere from then on
        os.close(descriptor)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("command", ["run", "show", "demo"])
def test_help_ends_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0 and f"example:\n  peft-viz {command}" in out.replace(
        "peft-viz run -o trace.json train.py\n  ", ""
    )


def test_words_that_are_no_command(capsys):
    for words in ([], ["fly"]):
        with contextlib.suppress(SystemExit):
            assert cli.main(words) == 2
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out.endswith("peft-viz 0.1.0\n")


def test_bash_completes_subcommands_and_options(tmp_path):
    done = lambda *words: subprocess.run(
        [
            "bash",
            "-c",
            f'{cli.completion("bash")}\nCOMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _peft_viz; echo "${{COMPREPLY[@]}}"',
            "_",
            "peft-viz",
            *words,
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    ).stdout.split()
    assert done("") == ["run", "show", "compare", "demo", "-h", "--help", "--version", "--print-completion"]
    assert done("s") == ["show"] and done("run", "--c") == ["--calls"]
    (tmp_path / "script.py").touch()
    assert done("run", "scr") == ["script.py"]


@pytest.mark.parametrize("lang, words", [("en", "open it in a browser"), ("zh", "请用浏览器打开")])
def test_demo_leaves_a_page(lang, words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "_sorting", lambda steps=2, sorting=cli._sorting: sorting(steps))
    page = tmp_path / "page.html"
    for again in ("", {"en": "older one", "zh": "替换"}[lang]):
        assert cli.main(["demo", "-o", str(page), "--lang", lang]) == 0
        first, *told, last = capsys.readouterr().out.splitlines()
        assert lang == "zh" or "Padding: row 0 has 4 on the left" in " ".join(map(str.strip, told))
        assert str(page) in first and last.startswith(str(page)) and words in last and again in last
    assert page.stat().st_size > 50_000 and f'<html lang="{lang}"' in page.read_text()


def test_demo_says_how_its_data_are_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "_sorting", lambda steps=2, sorting=cli._sorting: sorting(steps))
    monkeypatch.setenv("COLUMNS", "100")
    file = tmp_path / "x.json"
    assert cli.main(["demo", "-o", str(file)]) == 0
    out = capsys.readouterr().out
    assert "open it in a browser" not in out and out.rstrip().endswith(f"peft-viz show {file}")
    assert len(out.splitlines()) < 60 and cli.main(["show", str(file)]) == 0


# ---- in a language


# In a Chinese text these are as in an English one: names of functions, arguments, types, packages, and files.
SAME = re.compile(r"[\w.]*[._\[\d][\w.\[\]]*|[A-Z]+[a-z]+[A-Z]\w*|peft-viz show|input_ids|past_key_values")


def test_chinese_is_whole(recorded, capsys, monkeypatch):
    "No English sentence is left in what the commands print in Chinese. Lines of code stay as they are."
    monkeypatch.setenv("COLUMNS", "200")
    code = re.compile(r" +\d+  [是否].*if .*|    [\w.]+  peft_viz/.*|\d+\. \w+\.\w+")
    other = recorded.with_name("other.json")
    other.write_bytes(recorded.read_bytes())
    for words in (["show"], ["compare", str(other)]):
        cli.main([*words, str(recorded), "--lang", "zh"])
        for line in capsys.readouterr().out.splitlines():
            line = line.replace(str(recorded.parent), "")
            left = "" if code.fullmatch(line) else SAME.sub("", line)
            assert not re.search(r"[A-Za-z]{2,} [a-z]{2,}", left), line
    assert '<html lang="zh"' in recorded.with_suffix(".html").read_text()
    for told in (cli._SAID, watching._SAID, outline._SAID):
        assert told["en"].keys() == told["zh"].keys()


def test_every_command_writes_in_the_language_that_is_asked_for(tmp_path):
    commands = cli.parser()._subparsers._group_actions[0].choices
    assert all("--lang" in parser._option_string_actions for parser in commands.values())
    command = ["-m", "peft_viz", "run", "--lang", "zh", "--calls", "1", *words("plain loop")]
    code, _, err = python(*command, env=environment(), cwd=tmp_path)
    last = err.splitlines()[-1]
    assert code == 0 and last.startswith(
        "peft-viz：已记录 PeftModelForCausalLM（LlamaForCausalLM 上的 LoRA）的 7"
    )
    assert "trace.html；" in last and last.endswith("—— 请用浏览器打开")
    assert '<html lang="zh"' in (tmp_path / "trace.html").read_text()


def test_columns_are_as_wide_as_they_look():
    lines = outline.columns([["收到", "掩码", "x"], ["got", "labels", "y"]])
    assert lines == ["收到  掩码    x", "got   labels  y"]
    assert outline.cut("收到掩码", 6) == "收到…" and outline.cut("收到掩码", 8) == "收到掩码"


# ---- a call by itself


def test_a_call_says_what_reached_it_and_what_came_back(recorded):
    from IPython.lib.pretty import pretty

    trace = Trace.load(recorded)
    call = trace.base_calls[0]
    start = f"Call {call.id}: LlamaForCausalLM.forward(inputs_embeds [2, 11, 96], attention_mask [2, 11]"
    assert repr(call).startswith(start)
    assert "-> loss " in repr(call) and "logits [2, 11, 67], past_key_values 11 tokens" in repr(call)
    assert pretty(call) == str(call) and pretty([call]) == f"[{call!r}]"
    assert 10 < str(call).count("\n") < 24 and "◆◆◆◆□□□▪▪▪▪" in str(call)
    hint = re.search(r"trace\.value\(.*\)\.nested\(\)", str(call))[0]
    assert eval(hint, dict(trace=trace)) == [[1] * 4 + [0] * 3 + [1] * 4, [1] * 11]
    assert "max_new_tokens  8" in str(trace.roots[1])
    assert "LlamaForCausalLM.forward 8x" in str(trace.roots[1])
    assert "Call 0: PeftModelForCausalLM.forward(input_ids [2, 7]" in repr(trace.calls[0])
    assert pickle.loads(pickle.dumps(trace)) == trace
    del trace  # a call holds none
    gc.collect()
    assert repr(call) == str(call) == f"Call {call.id}: LlamaForCausalLM.forward (base)"


# ---- in a notebook


@pytest.fixture
def shell():
    from IPython.testing.globalipapp import start_ipython  # noqa: F401
    from IPython.core.interactiveshell import InteractiveShell

    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "peft_viz")
    shell.user_ns.update(model=small(), ids=IDS)
    yield shell
    InteractiveShell.clear_instance()


def test_a_cell_is_recorded_and_shown(shell, capsys):
    cell = "a = model(input_ids=ids).logits.shape\nmodel(input_ids=ids)\na"
    result = shell.run_cell(f"%%record trace --calls 1\n{cell}")
    assert result.success and tuple(shell.user_ns["a"]) == (1, 4, 67)
    assert len(shell.user_ns["trace"].base_calls) == 1
    out = capsys.readouterr().out
    assert "torch.Size([1, 4, 67])" in out and "1 of 2 forwards of PeftModelForCausalLM" in out


def test_a_recorded_cell_is_shown_in_chinese(shell, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    for said in ("", " --lang zh"):
        assert shell.run_cell(f"%%record trace{said}\nmodel(input_ids=ids);").success
    assert [view.lang for view in shown] == ["en", "zh"] and shown[1].trace is shell.user_ns["trace"]


def test_an_error_in_a_recorded_cell_is_the_cells_error(shell, capsys):
    result = shell.run_cell("%%record trace\nmodel(input_ids=ids)\n1 / 0")
    assert isinstance(result.error_in_exec, ZeroDivisionError) and len(shell.user_ns["trace"].base_calls) == 1
    refused = shell.run_cell("%%record trace\nmodel(input_ids=ids.float())").error_in_exec
    files = [frame.filename for frame in traceback.extract_tb(refused.__traceback__)]
    assert not any("recording/" in file or "watching.py" in file for file in files), files
    unread = shell.run_cell("%%record trace\nx = = 1").error_in_exec
    assert isinstance(unread, SyntaxError) and "unknown" not in unread.filename
    assert shell.run_cell("%%record nothing\n1").success and shell.user_ns["nothing"] is None
    assert "no PEFT model was called" in capsys.readouterr().out
    shell.run_line_magic("unload_ext", "peft_viz")
    assert shell.find_cell_magic("record") is None


@pytest.mark.parametrize(
    "line, why",
    [
        ("--foo", "unrecognized arguments: --foo"),
        ("a b c", "unrecognized arguments: b c"),
        ("--lang xx", "invalid choice: 'xx'"),
        ("--calls many", "invalid int value: 'many'"),
        ("--calls -1", "take numbers from 0 upwards"),
        ("'a", "No closing quotation"),
        ("my-name", "'my-name' is no name of a variable"),
        ("class", "'class' is no name of a variable"),
    ],
)
def test_options_of_a_cell_that_do_not_work_are_told_in_one_line(line, why, shell, capsys):
    result = shell.run_cell(f"%%record {line}\nran = True")
    out, err = capsys.readouterr()
    said = out + err
    assert not result.success and "ran" not in shell.user_ns
    assert why in said and said.startswith("UsageError: %%record: ") and said.count("\n") == 1
    assert "Write: %%record [name] [--calls N]" in said


@pytest.mark.parametrize(
    "words, command", [("run --wrong x.py", "run"), ("show x.json --wrong", "show"), ("--wrong", "")]
)
def test_an_unknown_option_is_answered_by_its_command(words, command, capsys):
    with pytest.raises(SystemExit) as how:
        cli.main(words.split())
    said = capsys.readouterr().err
    assert how.value.code == 2 and "unrecognized arguments: --wrong" in said
    assert said.startswith(f"usage: {' '.join(['peft-viz', command]).rstrip()} [-h]")
