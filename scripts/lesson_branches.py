"""Which branches of the reference's four methods the lessons show.

    lesson_branches.py       say which were visited when the lessons were tested last, by which lesson, and which not

A lesson that runs as a test (notebooks.py) leaves the branches of its recordings in a file in .branches/: so no lesson
is run a second time for this. A branch is a condition of one of the methods with one of its two outcomes."""

import ast, json, sys, textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / ".branches"
METHODS = ("forward", "_cpt_forward", "generate", "prepare_inputs_for_generation")
FILE = "reference/causal_lm.py"


def conditions(text, first=1):
    "Line -> condition, of each `if` in some code whose first line has this number."
    tree = ast.increment_lineno(ast.parse(textwrap.dedent(text)), first - 1)
    return {node.lineno: ast.unparse(node.test) for node in ast.walk(tree) if isinstance(node, ast.If)}


def all_branches():
    "Each branch of the four methods: (method, condition, outcome)."
    text = (ROOT / "peft_viz" / FILE).read_text(encoding="utf-8")
    methods = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef) and n.name in METHODS]
    found = {m.name: conditions(ast.get_source_segment(text, m, padded=True)).values() for m in methods}
    return {(name, test, way) for name, tests in found.items() for test in tests for way in (True, False)}


def visited(traces):
    "The branches that were taken in some recordings of the reference."
    found = set()
    for trace in traces:
        for call in trace.calls:
            name = call.function.rpartition(".")[2]
            source = None if call.source is None else trace.sources[call.source]
            if source is None or name not in METHODS or not source.file.endswith(f"peft_viz/{FILE}"):
                continue
            tests = conditions(source.text, source.first_line)
            ways = ((tests.get(step.line), step.branch) for step in call.steps if step.branch is not None)
            found |= {(name, test, way) for test, way in ways if test}
    return found


class Watch:
    "Keeps the branches of all recordings that are made from now on."

    def __init__(self):
        from peft_viz.recording.recorder import Recorder

        self.found, stop = set(), Recorder.stop

        def stop_and_keep(recorder, *args, **how):
            result = stop(recorder, *args, **how)
            self.found |= visited([recorder.trace])
            return result

        Recorder.stop = stop_and_keep

    def save(self, name, folder=KEPT):
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(sorted(self.found), indent=1), encoding="utf-8")


def lessons():
    "The names of the lessons."
    return sorted(path.stem for path in (ROOT / "nbs" / "tutorials").glob("[0-9]*.ipynb"))


def by_lesson(folder=KEPT):
    "Lesson -> the branches that it visited when it was tested last; without those that were not."
    files = {name: folder / f"{name}.json" for name in lessons()}
    read = lambda file: {tuple(branch) for branch in json.loads(file.read_text(encoding="utf-8"))}
    return {name: read(file) for name, file in files.items() if file.exists()}


def missing(found):
    "The branches that no lesson visits, as sentences."
    left = all_branches() - set().union(*found.values())
    return [f"{name}: `{test}` is never {way}" for name, test, way in sorted(left)]


def main():
    found, every = by_lesson(), all_branches()
    left = missing(found)
    print(f"The lessons visit {len(every) - len(left)} of {len(every)} branches of {', '.join(METHODS)}.")
    for line in left:
        print(f"  {line}")
    return 1 if left else 0


if __name__ == "__main__":
    for lesson, ways in by_lesson().items():
        print(lesson, *(f"  {name}: `{test}` {way}" for name, test, way in sorted(ways)), sep="\n")
    sys.exit(main())
