"""Processes that begin with torch and transformers imported, and with nothing of this project.

Each is forked from one process that has imported them. To start Python and import them anew takes five seconds."""

import atexit, functools, json, os, subprocess, sys, tempfile
from pathlib import Path

MODELS = "torch", "transformers.generation", "transformers.models.llama.modeling_llama"

# One line of JSON comes in for each run. The child becomes the run; its exit code goes out.
SERVER = """
import importlib, itertools, json, os, runpy, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
for line in sys.stdin:
    run = json.loads(line)
    child = os.fork()
    if not child:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    os._exit(0)
for number, file in enumerate((os.devnull, run["out"], run["err"])):
    os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), number)
os.chdir(run["cwd"])
os.environ.clear()
os.environ.update(run["env"])
sys.stdin, words = open(0), run["words"]


class Replaced(BaseException):
    "This process is to become another Python."


def execv(path, command):
    flags = itertools.takewhile(lambda word: word[0] == "-" and word != "-m", command[1:])
    raise Replaced(command[1 + len(list(flags)):])


def begin_again():
    "As a new Python would: the environment's places first, with what is called `sitecustomize` there."
    sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)
    for name in list(sys.modules):
        if name.partition(".")[0] in ("peft_viz", "sitecustomize"):
            del sys.modules[name]
    import sitecustomize


def run_module(words):
    sys.argv, sys.path[0] = words, os.getcwd()
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def run_script(words):
    sys.argv, sys.path[:] = words, [os.path.dirname(words[0]), *filter(None, sys.path)]
    runpy.run_path(words[0], run_name="__main__")


if words[:2] == ["-m", "peft_viz"]:
    replace, os.execv = os.execv, execv
    try:
        run_module(words[1:])
    except Replaced as replaced:
        words = replaced.args[0]
        os.execv = replace
        del sys.path[0]
        begin_again()
if words[0] == "-m":
    run_module(words[1:])
elif run["code"] is None:
    run_script(words)
else:
    exec(compile(run["code"], "<string>", "exec"), {"__name__": "__main__"})
"""


class Forks:
    "Runs code or scripts in forks of a process that has imported some modules."

    def __init__(self, *modules):
        command = [sys.executable, "-c", SERVER, *modules]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        atexit.register(self.process.kill)

    def run(self, *words, code=None, cwd=None, env=None):
        "A script or `-m` and a module, with arguments, or code; (exit code, standard output, standard error)."
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder) / "out", Path(folder) / "err"
            run = dict(
                words=words or ["-c"], code=code, cwd=str(cwd or os.getcwd()), out=str(out), err=str(err)
            )
            run["env"] = dict(os.environ if env is None else env)
            self.process.stdin.write(json.dumps(run) + "\n")
            self.process.stdin.flush()
            status = int(self.process.stdout.readline())
            return status, out.read_text(), err.read_text()


@functools.cache
def forks(*modules):
    "The one `Forks` for these modules; without any, for `MODELS`."
    return Forks(*(modules or MODELS))
