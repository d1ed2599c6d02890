"""Every public name says what it is: docstring, parameters, what it raises; in plain words.

Read from the text of the package and of its notebooks. What counts as said:
- a docstring of its own, or one of the same method in a class of the package that this class is made from;
- of a parameter: a comment in its lines, or its name in backticks in the docstring;
- of an exception: its name in the docstring, or that of the built-in one it is a kind of."""
# lane: here

import ast, builtins, io, json, re, tokenize
from functools import lru_cache
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "peft_viz"
MODULES = {
    str(path.relative_to(PACKAGE).with_suffix("")): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name not in ("__init__.py", "__main__.py", "_modidx.py")
}
NEVER = {  # what a helper raises, and what does not come out
    "reference/architectures.maximum_length: ValueError",  # the helper gets a default
    "watching.CallWatcher.call: TypeError",  # the helper catches it
    "recording/layout.cache: ValueError",  # for calls without inputs, which it leaves out
}
RIDDLES = (
    r"\b(nobody|have (?:its|their) say|has (?:its|his) say|of its own accord|in silence|needless to say)\b"
)


class Module:
    "A module, parsed: its public names, its classes, and where comments stand."

    def __init__(self, name):
        text = MODULES[name].read_text(encoding="utf-8")
        self.name, self.tree = name, ast.parse(text)
        self.comments = {
            token.start[0]: token.string
            for token in tokenize.generate_tokens(io.StringIO(text).readline)
            if token.type == tokenize.COMMENT and not token.string.startswith("# noqa")
        }
        self.top = {node.name: node for node in self.tree.body if hasattr(node, "name")}
        lists = (
            node.value
            for node in self.tree.body
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
        )
        self.public = [name for list_ in lists for name in ast.literal_eval(list_)]


@lru_cache
def module(name):
    return Module(name)


@lru_cache
def classes():
    "Name -> (module, class) of all classes of the package."
    return {
        node.name: (module(name), node)
        for name in MODULES
        for node in module(name).top.values()
        if isinstance(node, ast.ClassDef)
    }


def ancestry(here, node):
    "A class and the classes of the package that it is made from: (module, class), the nearest first."
    waiting, found = [node.name], []
    while waiting:
        name = waiting.pop(0)
        own = here.top.get(name)  # two modules may have a class of one name
        known = (here, own) if isinstance(own, ast.ClassDef) else classes().get(name)
        if known:
            found.append(known)
            waiting += [ast.unparse(base) for base in known[1].bases]
    return found


FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def methods(node):
    return {n.name: n for n in node.body if isinstance(n, FUNCTION)}


def public(name):
    """(where, module, class or None, node, [(module, node) of the same in the classes it is made from]) of each
    public class, function, method and property of a module."""
    here = module(name)
    for top in here.public:
        node = here.top.get(top)
        if node is None:
            continue  # a constant
        yield f"{name}.{top}", here, None, node, [(here, node)]
        for method in node.body if isinstance(node, ast.ClassDef) else ():
            is_public = isinstance(method, FUNCTION) and not method.name.startswith("_")
            if is_public or getattr(method, "name", "") == "__init__":
                above = [
                    (m, methods(c)[method.name]) for m, c in ancestry(here, node) if method.name in methods(c)
                ]
                yield f"{name}.{top}.{method.name}", here, node, method, above


def docs(above):
    return " ".join(ast.get_docstring(node) or "" for _, node in above)


def without_docstring(name):
    return [
        where
        for where, _, _, node, above in public(name)
        if node.name != "__init__" and not docs(above).strip()
    ]


def parameters(node):
    "The parameters of a function, and the fields of a class that its constructor takes."
    if isinstance(node, ast.ClassDef):
        made = [ast.unparse(d) for d in node.decorator_list] + [ast.unparse(b) for b in node.bases]
        is_plain_data = any(re.match(r"(dataclass|NamedTuple|Struct|TypedDict)\b", m) for m in made)
        return [n for n in node.body if isinstance(n, ast.AnnAssign)] if is_plain_data else []
    arguments = node.args
    every = [
        *arguments.posonlyargs,
        *arguments.args,
        *arguments.kwonlyargs,
        arguments.vararg,
        arguments.kwarg,
    ]
    return [a for a in every if a is not None and a.arg not in ("self", "cls")]


def without_comment(name):
    found = []
    for where, here, owner, node, above in public(name):
        for parameter in parameters(node):
            own = getattr(parameter, "arg", None) or parameter.target.id
            told = f"{docs(above)} {ast.get_docstring(owner) if owner and node.name == '__init__' else ''}"
            same = [(m, p) for m, n in above for p in parameters(n) if getattr(p, "arg", None) == own] or [
                (here, parameter)
            ]
            commented = any(
                line in m.comments
                for m, p in same
                for line in range(p.lineno - (p.lineno - 1 in m.comments), p.end_lineno + 2)
                if line <= p.end_lineno or ends_there(m, p, line)
            )
            if not commented and f"`{own}`" not in told and not own.startswith("_"):
                found.append(f"{where}({own})")
    return found


def ends_there(here, parameter, line):
    "Does the default value of a parameter, with the comment behind it, reach into this line?"
    return any(
        isinstance(node, ast.arguments)
        and parameter in node.args + node.kwonlyargs
        and any(d is not None and d.end_lineno == line for d in node.defaults + node.kw_defaults)
        and parameter.lineno < line
        and not any(a.lineno == line for a in node.args + node.kwonlyargs)
        for node in ast.walk(here.tree)
    )


def raised(here, node, owner, seen=()):
    "Names of the exceptions that a function raises, or that private functions of its module raise for it."
    found = set()
    own = methods(owner) if owner else {}
    for part in ast.walk(node):
        if isinstance(part, ast.Raise) and isinstance(part.exc, ast.Call):
            found.add(ast.unparse(part.exc.func))
        elif isinstance(part, ast.Call):
            called = ast.unparse(part.func)
            plain = called.removeprefix("self.")
            helper = own.get(plain) if called != plain else here.top.get(plain)
            if plain.startswith("_") and isinstance(helper, FUNCTION) and plain not in seen:
                found |= raised(here, helper, owner, (*seen, plain))
    return found


def kinds(exception):
    "An exception and what it is a kind of, by name."
    names, waiting = [], [exception]
    while waiting:
        name = waiting.pop()
        names.append(name)
        if name in classes():
            waiting += [ast.unparse(base) for base in classes()[name][1].bases]
        elif isinstance(getattr(builtins, name, None), type):
            names += [k.__name__ for k in getattr(builtins, name).__mro__[1:-3]]
    return names


def without_warning(name):
    found = []
    for where, here, owner, node, above in public(name):
        if isinstance(node, ast.ClassDef):
            continue
        told = docs(above) + (ast.get_docstring(owner) or "" if owner and node.name == "__init__" else "")
        for exception in sorted(raised(here, node, owner)):
            if exception[:1].isupper() and not any(re.search(rf"\b{k}\b", told) for k in kinds(exception)):
                found.append(f"{where}: {exception}")
    return [told for told in found if told not in NEVER]


@pytest.mark.parametrize("name", MODULES)
def test_a_public_name_has_a_docstring(name):
    assert without_docstring(name) == []


@pytest.mark.parametrize("name", MODULES)
def test_a_parameter_is_explained(name):
    assert without_comment(name) == []


@pytest.mark.parametrize("name", MODULES)
def test_what_raises_says_so(name):
    assert without_warning(name) == []


def prose(name):
    "(where, text) of all that a reader of a module reads: its docstrings and comments, the prose of its notebook."
    here = module(name)
    for node in ast.walk(here.tree):
        if isinstance(node, (*FUNCTION, ast.ClassDef, ast.Module)):
            yield f"{name}.{getattr(node, 'name', '')}", ast.get_docstring(node) or ""
    for line, comment in here.comments.items():
        yield f"{name}, line {line}", comment
    source = re.search(r"File to edit: (\S+)\.$", MODULES[name].read_text(encoding="utf-8"), re.M)
    if source:
        notebook = (MODULES[name].parent / source[1]).resolve()
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                yield notebook.name, "".join(cell["source"])


@pytest.mark.parametrize("name", MODULES)
def test_words_are_plain(name):
    found = [
        (where, match[0])
        for where, text in prose(name)
        for match in re.finditer(RIDDLES, text, re.I)
        if match
    ]
    assert found == []
