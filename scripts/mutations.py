"""Is every condition of the reference tested? Turn each one round, once, and see a test fail.

    mutations.py                       every module of the reference
    mutations.py reference/causal_lm   these modules
    mutations.py --left left.json      keep a list of what survived; where the list exists, try only what is on it.
                                       So what only one of two environments can show is shown by the two together.

What is turned round: the test of each `if`, `elif`, `while`, conditional expression and comprehension, each
operand of `and` and `or`, and each comparison and `not` wherever it stands (`==` becomes `!=`, `not x` becomes
`x`, any other x becomes `not x`). Each such mutant is a copy of the module with that one change. It is killed
when a test fails, survives when all tests that reach its line pass, and the exit status is 1 if one survives.

How it is fast: pytest collects all tests once, and this process is forked for whatever is to be run. The first
child runs every test, watched, to learn which reach which line; then each mutant has a child, in which the
function with the condition gets the mutant's code, and which runs the tests that reach the line, those first
that killed a neighbour, then the quickest."""

import argparse, ast, gc, json, os, signal, sys, tempfile, time, types
from collections import defaultdict
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
import pytest
from _pytest.runner import runtestprotocol

sys.path[:0] = [str(Path(__file__).resolve().parent)]
import test as runner  # scripts/test.py
from notebooks import OFFLINE, ROOT


PACKAGE = ROOT / "peft_viz"
REFERENCE = sorted(  # all but what writes files, which is tested in processes that are killed
    p.relative_to(PACKAGE).with_suffix("").as_posix()
    for p in (PACKAGE / "reference").rglob("[a-z]*.py")
    if p.stem not in ("files", "helpers", "trainer")
)
# Not asked are the broad tests: what only they notice should be noticed by a test that says what is wrong.
ASKED = [*runner.files("reference"), *(f for f in runner.files("watching") if "test_specification" in f)]
OPPOSITE = {ast.Eq: ast.NotEq, ast.Lt: ast.GtE, ast.Gt: ast.LtE, ast.Is: ast.IsNot, ast.In: ast.NotIn}
OPPOSITE.update({b: a for a, b in OPPOSITE.items()})
# conditions that no test can show to be wrong: (module, line of code, condition) -> why
EQUIVALENT = {}


# --- what is turned round ---------------------------------------------------------------------------------------


def conditions(tree):
    "The expressions of a module that are turned round one after the other, in the order of the text."
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.If, ast.While, ast.IfExp)):
            found[id(node.test)] = node.test
        if isinstance(node, ast.comprehension):
            found.update((id(n), n) for n in node.ifs)
        if isinstance(node, ast.BoolOp):
            found.update((id(n), n) for n in node.values)
        if isinstance(node, ast.Compare) or is_not(node):
            found[id(node)] = node
    for node in list(found.values()):
        if is_not(node):
            found.pop(id(node.operand), None)  # it would be the same mutant
    return sorted(found.values(), key=lambda n: (n.lineno, n.col_offset, -n.end_lineno, -n.end_col_offset))


def is_not(node):
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)


def turned(node):
    "The opposite of a condition."
    if is_not(node):
        return node.operand
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in OPPOSITE:
        return ast.Compare(node.left, [OPPOSITE[type(node.ops[0])]()], node.comparators)
    return ast.UnaryOp(ast.Not(), node)


class Mutant:
    "One condition of one module."

    def __init__(self, module, source, number, node):
        lines = source.splitlines()
        self.module, self.number, self.source, self.line = (
            module,
            number,
            source,
            lines[node.lineno - 1].strip(),
        )
        self.lines = range(node.lineno, node.end_lineno + 1)
        self.text = " ".join(ast.get_source_segment(source, node).split())
        self.path = str(PACKAGE / f"{module}.py")

    @property
    def name(self):
        return [self.module, self.line, self.text]

    def __str__(self):
        return f"{self.module}:{self.lines[0]}  {self.text}"

    def code(self):
        "The module with this condition turned round, compiled."
        tree = ast.parse(self.source)
        target = conditions(tree)[self.number]

        class Turn(ast.NodeTransformer):
            def visit(self, node):
                return ast.copy_location(turned(node), node) if node is target else self.generic_visit(node)

        return compile(ast.fix_missing_locations(Turn().visit(tree)), self.path, "exec")

    def install(self, functions):
        """Give every function of the module its code in the mutant.

        What runs at import has been run: see `import_again`."""
        for code in functions_in(self.code()):
            for function in functions.get((self.path, code.co_qualname, code.co_firstlineno), ()):
                function.__code__ = code


def functions_in(code):
    "The code of all functions and classes in a module's code."
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from functions_in(constant)


def mutants(module):
    source = (PACKAGE / f"{module}.py").read_text()
    return [Mutant(module, source, number, node) for number, node in enumerate(conditions(ast.parse(source)))]


# --- children ---------------------------------------------------------------------------------------------------------


def child(function, timeout):
    "What a function returns in a fork of this process; None where it ends otherwise or not at all."
    sys.stdout.flush()
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        pid = os.fork()
        if pid == 0:
            try:
                result.write_text(json.dumps(function()))
            finally:
                os._exit(0)
        end, done = time.time() + timeout, 0
        while not done and time.time() < end:
            done, _ = os.waitpid(pid, os.WNOHANG)
            if not done:
                time.sleep(0.01)
        if not done:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        return json.loads(result.read_text()) if result.exists() and result.stat().st_size else None


def run(items):
    "Run tests; yields each with 'did all of it pass?'."
    for item, following in zip(items, [*items[1:], None]):
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            reports = runtestprotocol(item, log=False, nextitem=following)
        yield item, all(r.passed for r in reports), any(r.failed for r in reports)


def watched(items, paths):
    """For each test that passes, how long it took and the lines it ran of the modules at these paths; and the
    names of those that fail."""
    reached, tests, failures = {}, {}, []

    def line(frame, event, _argument):
        if event == "line":
            reached.setdefault(frame.f_code.co_filename, set()).add(frame.f_lineno)
        return line

    def call(frame, _event, _argument):
        return line if frame.f_code.co_filename in paths else None

    start = time.time()
    sys.settrace(call)
    for item, passed, failed in run(items):
        sys.settrace(call)  # the test may have set its own
        if passed:
            tests[item.nodeid] = [
                time.time() - start,
                {path: sorted(lines) for path, lines in reached.items()},
            ]
        if failed:
            failures.append(item.nodeid)
        reached.clear()
        start = time.time()
    return tests, failures


# --- one mutant -------------------------------------------------------------------------------------------------------


class Mutations:
    "A pytest plugin that tries mutants instead of running the tests."

    def __init__(self, candidates):
        self.candidates, self.survivors, self.killers, self.at_import = (
            candidates,
            [],
            defaultdict(list),
            defaultdict(set),
        )
        paths = {m.path for m in candidates}

        def line(frame, event, _argument):
            if event == "line":
                self.at_import[frame.f_code.co_filename].add(frame.f_lineno)
            return line

        sys.settrace(
            lambda frame, _event, _argument: line if frame.f_code.co_filename in paths else None
        )  # while pytest collects the tests

    def pytest_runtestloop(self, session):
        sys.settrace(None)
        start = time.time()
        self.items = {item.nodeid: item for item in session.items}
        self.functions = defaultdict(list)
        gc.unfreeze()  # conftest.py has frozen what there is, and what is frozen is not listed
        for f in gc.get_objects():
            if type(f) is types.FunctionType:  # (to ask a proxy for its class may warn)
                self.functions[
                    f.__code__.co_filename, f.__code__.co_qualname, f.__code__.co_firstlineno
                ].append(f)
        missing = {m.module for m in self.candidates} - {
            m.module for m in self.candidates if any(path == m.path for path, *_ in self.functions)
        }
        assert not missing, f"no function of {missing} is found, so nothing would be turned round"
        self.tests, failures = child(
            lambda: watched(session.items, {m.path for m in self.candidates}), timeout=3600
        )
        print(
            f"\n{len(self.candidates)} conditions; {len(self.tests)} tests, in {time.time() - start:.0f} s",
            flush=True,
        )
        for name in failures:
            print(f"fails without any mutant, and is left out: {name}")
        for mutant in self.candidates:
            killer, reach = self.try_out(mutant)
            excuse = EQUIVALENT.get(tuple(mutant.name))
            if killer is None and excuse is None:
                self.survivors.append(mutant)
            print(
                mutant,
                f"killed by {killer}"
                if killer
                else f"equivalent: {excuse}"
                if excuse
                else f"SURVIVED {reach} tests",
                sep="  ",
                flush=True,
            )
        return True

    def try_out(self, mutant):
        "The test that kills a mutant, or None, and how many tests reach it."
        reach = [
            t
            for t, (_, lines) in self.tests.items()
            if not set(mutant.lines).isdisjoint(lines.get(mutant.path, ()))
        ]
        if not reach and not set(mutant.lines).isdisjoint(self.at_import[mutant.path]):
            return self.import_again(mutant), 0
        neighbours = self.killers[mutant.module]
        order = sorted(
            reach, key=lambda t: (neighbours.index(t) if t in neighbours[:20] else 20, self.tests[t][0])
        )

        def first_failure():
            mutant.install(self.functions)
            return next(
                (item.nodeid for item, _, failed in run([self.items[t] for t in order]) if failed), ""
            )

        killer = child(first_failure, timeout=60 + 10 * sum(self.tests[t][0] for t in order)) if order else ""
        if (
            killer
            and not child(lambda: [passed for _, passed, _ in run([self.items[killer]])], timeout=300)[0]
        ):
            del self.tests[killer]  # it fails alone, without any mutant: no witness
            return self.try_out(mutant)
        if killer:
            neighbours.insert(0, killer)
        return "a test that does not end" if killer is None else killer or None, len(order)

    def import_again(self, mutant):
        "The same in a child that imports everything anew, with all tests of the package."
        files = sorted({str(item.path) for item in self.items.values()})

        def first_failure():
            for name in [
                n
                for n, m in sys.modules.items()
                if (getattr(m, "__file__", None) or "").startswith(str(ROOT)) and "/.venv/" not in m.__file__
            ]:
                del sys.modules[name]
            sys.meta_path.insert(0, Instead(mutant))
            plugin = Killer()
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
                status = pytest.main(
                    ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", *files], plugins=[plugin]
                )
            return (plugin.test or "the import") if status else ""

        return child(first_failure, timeout=1200) or None


class Instead:
    "Imports a mutant where its module is asked for."

    def __init__(self, mutant):
        self.mutant, self.name = mutant, f"peft_viz.{mutant.module.replace('/', '.')}"

    def find_spec(self, name, path=None, target=None):  # noqa: ARG002
        if name == self.name:
            from importlib.machinery import ModuleSpec

            return ModuleSpec(name, self, origin=self.mutant.path)

    def create_module(self, spec):  # noqa: ARG002
        return None

    def exec_module(self, module):
        module.__file__ = self.mutant.path
        exec(self.mutant.code(), vars(module))


class Killer:
    "A pytest plugin: the first failure."

    test = None

    def pytest_runtest_logreport(self, report):
        if report.failed and self.test is None:
            self.test = report.nodeid


# --- all of them ------------------------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("modules", nargs="*", default=REFERENCE, help="such as reference/causal_lm")
    parser.add_argument("--left", type=Path, help="a file for what survived")
    parser.add_argument("--tests", nargs="+", help="test files; default: all of the reference's")
    options = parser.parse_args()
    os.environ.update(OFFLINE)
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import torch

    torch.set_num_threads(1)
    candidates = [m for module in options.modules for m in mutants(module)]
    if options.left and options.left.exists():
        left = json.loads(options.left.read_text())
        candidates = [m for m in candidates if m.name in left]
    files = options.tests or [str(ROOT / file) for file in ASKED]
    start, plugin = time.time(), Mutations(candidates)
    status = pytest.main(
        ["-p", "no:cacheprovider", "-p", "no:terminal", "-o", "addopts=", *files], plugins=[plugin]
    )
    if status:
        return int(status)
    bad = plugin.survivors
    if options.left:
        options.left.write_text(json.dumps([m.name for m in bad], indent=1))
    print(f"{len(candidates)} conditions: {len(bad)} survived, in {time.time() - start:.0f} s")
    for m in bad:
        print(f"  {m}    in: {m.line}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
