"""What may happen to a program that writes or records, in any number: it is killed, the disk is full, the folder is
read-only, two write at once, someone presses Ctrl-C. Each function tries it `many` times, raises AssertionError where
a promise is not kept, and answers with what it counted.

Right is: a file is the old one or the new one, and whole; files that belong together are of one age; nothing is left
behind; after an interrupt the process is as before.
"""

import contextlib
import os
import pathlib
import random
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter

import torch
from torch.overrides import _get_current_function_mode_stack as modes

import peft_viz as ours
from peft_viz import PeftConfig, Trace, record, tiny_random
from peft_viz.recording.calls import HERE
from peft_viz.reference.checkpoint import load_peft_weights, reading
from peft_viz.reference.files import JOURNAL, WORKSHOP

CLM = dict(task_type="CAUSAL_LM")
IDS = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])

# --- what is written ----------------------------------------------------------------------------------------


class Traces:
    "Two recordings of different lengths; a file has one of them."

    name = "trace.json"

    def __init__(self):
        self.traces = []
        for steps in 1, 6:
            model = ours.get_peft_model(
                tiny_random("llama"), ours.PromptTuningConfig(**CLM, num_virtual_tokens=2)
            )
            with record(model) as trace:
                model.generate(input_ids=IDS, max_new_tokens=steps, do_sample=False)
            self.traces.append(trace)
        self.calls = [len(trace.base_calls) for trace in self.traces]
        self.files = {self.name}

    def write(self, folder, version):
        self.traces[version].save(folder / self.name)

    def read(self, folder):
        return self.calls.index(len(Trace.load(folder / self.name).base_calls))


class Pages(Traces):
    "The same as pages for a browser."

    name = "trace.html"

    def __init__(self):
        super().__init__()
        with tempfile.TemporaryDirectory() as folder:
            self.pages = [t.save(pathlib.Path(folder, self.name)).read_bytes() for t in self.traces]

    def read(self, folder):
        return self.pages.index((folder / self.name).read_bytes())


class Configurations:
    "Two configurations: the rank says which."

    files = {"adapter_config.json"}

    def write(self, folder, version):
        ours.LoraConfig(**CLM, r=version + 1, target_modules=["q_proj"]).save_pretrained(folder)

    def read(self, folder):
        return PeftConfig.from_pretrained(folder).r - 1


class Checkpoints:
    "Two adapters: the rank, and every number, say which. Configuration and weights are of one age."

    files = {"adapter_config.json", "adapter_model.safetensors", "README.md"}

    def __init__(self):
        self.models = []
        for version in 0, 1:
            model = ours.get_peft_model(tiny_random("llama"), ours.LoraConfig(**CLM, r=version + 1))
            for parameter in model.parameters():
                if parameter.requires_grad:
                    torch.nn.init.constant_(parameter, version)
            self.models.append(model)

    def write(self, folder, version):
        self.models[version].save_pretrained(folder)

    def read(self, folder):
        with reading(folder):
            found = {PeftConfig.from_pretrained(folder).r - 1}
            for tensor in load_peft_weights(folder).values():
                found |= set(tensor.flatten().int().tolist())
        (version,) = found
        return version


KINDS = dict(traces=Traces, pages=Pages, configurations=Configurations, checkpoints=Checkpoints)


@contextlib.contextmanager
def room():
    "A new folder, in memory where that is possible."
    memory = pathlib.Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield pathlib.Path(folder)


def child(work) -> int:
    "The process number of a copy of this process that does some work, and ends. It says nothing."
    number = os.fork()
    if number:
        return number
    end = 1
    try:
        work()
        end = 0
    except OSError:
        end = 3
    except BaseException:  # told by its number
        import traceback

        traceback.print_exc()
    finally:
        os._exit(end)


def left_over(folder, files):
    return set(os.listdir(folder)) - set(files)


# --- killed -------------------------------------------------------------------------------------------------


def while_writing(seconds: float):
    "End this process, from the moment on at which a file is begun, as SIGKILL does: no line of it runs any more."
    really = secrets.token_hex  # called for the name of the workshop

    def begin(size):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        return really(size)

    secrets.token_hex = begin


def seconds_of_writing(target, folder) -> float:
    "How long it takes from the beginning of a file to the end; the second shortest of five."
    really, begun, took = secrets.token_hex, [], []
    secrets.token_hex = lambda size: (begun.append(time.perf_counter()), really(size))[1]
    try:
        for version in 0, 1, 0, 1, 0:
            target.write(folder, version)
            took.append(time.perf_counter() - begun[-1])
    finally:
        secrets.token_hex = really
    return sorted(took)[1]


def killed(kind: str, many: int, seed: int = 0) -> Counter:
    "Killed at random moments of writing: the file is the old or the new one, and the next writer tidies up."
    target, rng, counts = KINDS[kind](), random.Random(seed), Counter()
    with room() as folder:
        target.write(folder, 1)
        seconds = seconds_of_writing(target, folder)
        for i in range(many):
            old, new, moment = i % 2, 1 - i % 2, rng.uniform(1e-5, rng.choice((1, 2, 4)) * seconds)
            target.write(folder, old)
            assert not left_over(folder, target.files), "something was left behind"
            ended = os.waitpid(child(lambda: (while_writing(moment), target.write(folder, new))), 0)[1]  # noqa: B023
            assert os.WIFSIGNALED(ended) or ended == 0, ended
            version = target.read(folder)
            counts["killed" if os.WIFSIGNALED(ended) else "too late"] += 1
            counts["new" if version == new else "old"] += 1
            stray = left_over(folder, target.files)
            counts["left for the next writer"] += bool(stray)
            assert all(name == JOURNAL or WORKSHOP.fullmatch(name) for name in stray), stray
        target.write(folder, 0)
        assert not left_over(folder, target.files) and target.read(folder) == 0
    return counts


# --- no room ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(kilobytes: int):
    "A disk of its own, if this process may mount one; else None."
    with tempfile.TemporaryDirectory() as folder:
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder]
        may = shutil.which("mount") and subprocess.run(command, capture_output=True).returncode == 0
        try:
            yield pathlib.Path(folder) if may else None
        finally:
            if may:
                subprocess.run(["umount", "-l", folder], check=True)


def limited(size: int | None):
    "From now on no file of this process may be larger."
    if size is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def full(kind: str, many: int, seed: int = 0) -> Counter:
    """A disk with less and less room, or, where none can be mounted, a limit on the size of a file. Either the file is
    written, or an OSError is raised and the old one stays."""
    target, rng, counts = KINDS[kind](), random.Random(seed), Counter()
    with room() as measured:
        target.write(measured, 1)
        size = sum(path.stat().st_size for path in measured.iterdir())
    with small_disk(4 * size // 1024 + 64) as disk, room() as elsewhere:
        folder = disk or elsewhere
        counts["on a full disk" if disk else "with a limit on sizes"] = many
        for _ in range(many):
            target.write(folder, 0)
            assert not left_over(folder, target.files), "something was left behind"
            if disk:
                free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
                (folder / "filler").write_bytes(bytes(max(0, free - int(rng.uniform(0, 1.5 * size + 2**14)))))
            limit = None if disk else int(rng.uniform(0, 1.2 * size))
            work = lambda: (limited(limit), target.write(folder, 1))  # noqa: B023
            end = os.waitstatus_to_exitcode(os.waitpid(child(work), 0)[1])
            assert end in (0, 3), f"another exception than OSError: {end}"
            counts["refused" if end else "written"] += 1
            assert target.read(folder) == (0 if end else 1)
            (folder / "filler").unlink(missing_ok=True)
            assert not left_over(folder, target.files), "something was left behind"
    return counts


def read_only(kind: str, many: int) -> Counter:
    "A folder that may not be written to: an OSError, and everything as before. (Root may write everywhere.)"
    target, counts = KINDS[kind](), Counter()
    with room() as folder:
        folder.chmod(0o755)
        target.write(folder, 0)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        folder.chmod(0o555)

        def work():
            if os.geteuid() == 0:
                os.setgid(65534), os.setuid(65534)
            target.write(folder, 1)

        for _ in range(many):
            end = os.waitstatus_to_exitcode(os.waitpid(child(work), 0)[1])
            assert end == 3, f"no OSError: {end}"
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
            counts["refused"] += 1
        folder.chmod(0o755)
    return counts


# --- at once ------------------------------------------------------------------------------------------------


def at_once(kind: str, many: int, writers: int = 2) -> Counter:
    "Processes that write to one folder, and one that reads meanwhile: what it reads is whole, and of one age."
    target, counts = KINDS[kind](), Counter()
    with room() as folder:
        target.write(folder, 0)
        work = lambda version: [target.write(folder, version) for _ in range(many // writers)]
        processes = [child(lambda v=n % 2: work(v)) for n in range(writers)]
        while processes:
            counts[f"read as {target.read(folder)}"] += 1
            for process in list(processes):
                ended, status = os.waitpid(process, os.WNOHANG)
                if ended:
                    assert status == 0, status
                    processes.remove(process)
        counts["written"] = many // writers * writers
        assert not left_over(folder, target.files), "something was left behind"
    return counts


# --- interrupted --------------------------------------------------------------------------------------------

CONFIGS = dict(
    LORA=ours.LoraConfig(**CLM, init_lora_weights=False),
    PREFIX_TUNING=ours.PrefixTuningConfig(**CLM, num_virtual_tokens=2),
    CPT=ours.CPTConfig(**CLM, cpt_token_ids=[4, 5], cpt_tokens_type_mask=[1, 4]),
)


class Moments:
    "Raises KeyboardInterrupt once, at a random moment of a run."

    def __init__(self, seed):
        self.rng, self.armed = random.Random(seed), False

    def strike(self, *_):
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt

    def run(self, go, seconds):
        self.armed = True
        try:
            signal.setitimer(signal.ITIMER_REAL, self.rng.uniform(0.0005, seconds))
            go()
        except KeyboardInterrupt:
            return True
        finally:
            self.armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        return False


@contextlib.contextmanager
def moments(seed: int = 0):
    "SIGALRM is ours for a while. (Python cannot raise an interrupt in a finaliser; it reports it, and goes on.)"
    found, hook = Moments(seed), sys.unraisablehook
    before = signal.signal(signal.SIGALRM, found.strike)
    sys.unraisablehook = lambda *_: None
    try:
        yield found
    finally:
        signal.signal(signal.SIGALRM, before)
        sys.unraisablehook = hook


def state(model):
    "What an interrupt could leave behind."
    base = model.get_base_model()
    hooks = [(n, tuple(m._forward_hooks), tuple(m._forward_pre_hooks)) for n, m in model.named_modules()]
    own = sorted((name, id(value)) for obj in (model, base) for name, value in vars(obj).items())
    doors = [vars(type(obj)).get(name) for obj in (model, base) for name in ("forward", "generate")]
    threads = sorted(thread.name for thread in threading.enumerate())
    recorder = HERE.tracer.sessions, HERE.tracer.compiling
    return sys.gettrace(), sys.getprofile(), len(modes()), recorder, hooks, own, doors, threads


def interrupted(method: str, many: int, seed: int = 0) -> Counter:
    "Interrupted at random moments of a recorded generate: the process and what the model answers are as before."
    torch.manual_seed(0)
    model = ours.get_peft_model(tiny_random("llama"), CONFIGS[method]).eval()
    generate = lambda: model.generate(input_ids=IDS, max_new_tokens=4, do_sample=False)

    def go():
        with record(model, layers=1):
            generate()

    right, counts = generate(), Counter()
    go()
    begun = time.perf_counter()
    go()
    seconds, before = time.perf_counter() - begun, state(model)
    with moments(seed) as strike:
        for _ in range(many):
            begun = time.perf_counter()
            struck = strike.run(go, seconds)
            if not struck:  # so long it takes now: a machine is not equally busy all the time
                seconds = time.perf_counter() - begun
            counts["interrupted" if struck else "too late"] += 1
            assert state(model) == before
            assert torch.equal(generate(), right)
    return counts
