"""The API reference of the site: an entry for each public name at the top of its module's page, a page that lists them
all, and a page for the source of each module, so that a line can be linked to.

What an entry says is taken from the code: the signature, the docstring, and the comment behind each parameter."""

import ast, html, importlib, inspect, re, types
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHORT = 5  # parameters that a signature shows in a heading
MANY = 5  # entries that stand unfolded above the text


def module_of(name):
    return importlib.import_module(f"peft_viz.{name}")


def path_of(module):
    "The file of a module, from the package on: reference/place.py"
    return Path(inspect.getsourcefile(module)).relative_to(ROOT / "peft_viz").as_posix()


@cache
def assigned(file):
    "The constants of a file: name -> (line, the comment behind the line that ends it)."
    text = (ROOT / "peft_viz" / file).read_text(encoding="utf-8")
    lines, found = text.splitlines(), {}
    for node in ast.parse(text).body:
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            if isinstance(target, ast.Name):
                comment = re.search(r"#\s*([^'\"]+)$", lines[node.end_lineno - 1])
                found[target.id] = node.lineno, comment[1].strip() if comment else ""
    return found


# ---- one entry


def call(name, value):
    "How it is called, without types and defaults: pack(numbers), and of a class's method: .value(i)."
    if inspect.isclass(value):
        return name
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    names = [
        stars.get(p.kind, "") + p.name
        for p in inspect.signature(value).parameters.values()
        if p.name not in ("self", "cls")
    ]
    if len(names) > SHORT:
        names = [*names[: SHORT - 1], "..."]
    return f"{'.' if '.' in name else ''}{name.split('.')[-1]}({', '.join(names)})"


SENTENCE = re.compile(r"(?<=[.?!])(?<!\bal\.)(?<!\be\.g\.)(?<!\bi\.e\.)\s|\n\s*\n")


def summary(doc):
    "The first sentence of a docstring; of a link, its text."
    first = SENTENCE.split(doc.strip())[0].replace("\n", " ")
    return re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", first)


def markdown(text):
    from smalldocs.markdown import render

    return re.sub(r"\n\s*\n", "\n", render(text, {}).strip())


def described(name, value, module):
    "The Markdown of what opens: signature, docstring, a table of parameters with types and defaults."
    from smalldocs import api

    home = inspect.getmodule(value) or module
    parts = []
    if not inspect.isclass(value) or api.has_init(value):
        parts.append(f"```python\n{name}{signature(value, home)}\n```")
    parts.append(inspect.cleandoc(value.__doc__))
    if not inspect.isclass(value) or api.has_init(value):
        parts.append(api.params_table(value, home))
    return "\n\n".join(part for part in parts if part)


def signature(value, module):
    "As smalldocs writes it; a line for each parameter where it is long."
    from smalldocs import api

    line = api.signature(value, module)
    if len(line) < 80:
        return line
    node = ast.parse(f"def f{line}: ...").body[0] if parses(line) else None
    if node is None:
        return line
    inside, _, after = ast.unparse(node).removesuffix(":\n    ...").removeprefix("def f(").rpartition(")")
    each = ",\n    ".join(split(inside))
    return f"(\n    {each},\n){after}"


def parses(line):
    try:
        return bool(ast.parse(f"def f{line}: ..."))
    except SyntaxError:  # a default that is no Python, as <object>
        return False


def split(parameters):
    "Split at the commas that stand in no bracket and no string."
    parts, depth, quote = [""], 0, ""
    for c in parameters:
        if quote:
            quote = "" if c == quote else quote
        elif c in "'\"":
            quote = c
        depth += (c in "([{") - (c in ")]}") if not quote else 0
        if c == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += c
    return [part.strip() for part in parts]


def anchor(name):
    return f"api-{name.lower()}"


def entry(name, value, module, targets):
    "One name, folded: how it is called and what it does; open: everything."
    file = path_of(module)
    place = next(
        (p for p in (name, name.split(".")[-1]) if p in targets), None
    )  # it may be made a method later
    links = [f'<a href="#{place.lower()}">in this page</a>'] if place else []
    if is_code(value):
        links.insert(0, source_link(*where(value, file)))
        head, told, inside = (
            call(name, value),
            summary(value.__doc__),
            markdown(described(name, value, module)),
        )
    else:
        line, told = assigned(file).get(name, (1, ""))
        links.insert(0, source_link(file, line))
        head = f"{name}: {type(value).__name__}"
        inside = f'<div class="sourceCode"><pre><code>{html.escape(shown(name, value))}</code></pre></div>'
    indent = ' class="pv-method"' if "." in name else ""
    return (
        f'<details id="{anchor(name)}"{indent}><summary><code>{html.escape(head)}</code> '
        f'<span>{inline(told)}</span></summary><div class="pv-entry">{inside}'
        f'<p class="pv-links">{" · ".join(links)}</p></div></details>'
    )


def inline(text):
    "A sentence, with `code` in it."
    return "".join(
        f"<code>{html.escape(part)}</code>" if i % 2 else html.escape(part)
        for i, part in enumerate(text.split("`"))
    )


def shown(name, value, most=300):
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(value))
    return f"{name} = {text if len(text) <= most else text[:most] + ' ...'}"


def is_code(value):
    return (inspect.isclass(value) or inspect.isfunction(value)) and bool(value.__doc__)


@cache
def classes(file):
    "The line of each class of a file, by its full name; asked of `inspect`, each would parse the file once more."
    found = {}

    def look(body, above):
        for node in (node for node in body if isinstance(node, ast.ClassDef)):
            found[above + node.name] = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            look(node.body, f"{above}{node.name}.")

    look(ast.parse((ROOT / "peft_viz" / file).read_text(encoding="utf-8")).body, "")
    return found


def where(value, file):
    "The file and line of a definition."
    value = inspect.unwrap(value)
    try:
        found = Path(inspect.getsourcefile(value)).relative_to(ROOT / "peft_viz").as_posix()
    except (OSError, TypeError, ValueError):
        return file, 1
    if inspect.isclass(value):
        return found, classes(found).get(value.__qualname__, 1)
    return found, value.__code__.co_firstlineno


# ---- a module, and all of them


def names_of(module):
    "The public names of a module and the methods of its classes, in order, with what they stand for."
    rows = []
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        if isinstance(value, types.ModuleType):
            continue
        rows.append((name, value))
        if inspect.isclass(value) and is_code(value):
            found = ((n, inspect.unwrap(getattr(m, "__func__", m))) for n, m in vars(value).items())
            rows += [
                (f"{name}.{n}", m)
                for n, m in found
                if not n.startswith("_") and inspect.isfunction(m) and m.__doc__
            ]
    methods = {id(value) for name, value in rows if "." in name}
    return [(name, value) for name, value in rows if "." in name or id(value) not in methods]


def contents(name, targets):
    "The API reference of a module as Markdown; empty where it offers nothing."
    module = module_of(name)
    rows = sorted(names_of(module), key=lambda row: not is_code(row[1]))  # constants last
    if not rows:
        return ""
    entries = "\n".join(entry(n, value, module, targets) for n, value in rows)
    tops = ", ".join(f"<code>{n}</code>" for n, value in rows if "." not in n and is_code(value))
    folded = (
        f'<details class="pv-all"><summary>{len(rows)} names: {tops or "constants"}</summary>\n{entries}\n</details>'
        if len(rows) > MANY
        else entries
    )
    return (
        "## What this module offers {.pv-quiet}\n\n````````{=html}\n"
        f'<div class="pv-api">\n{folded}\n</div>\n````````\n'
    )


def index(pages):  # module -> its page
    "The page that lists all names: those of the package first, then those of each module."
    from peft_viz import api

    lines = [
        "---",
        "title: API",
        "description: Every public name, what it does, and where it is explained",
        "---",
    ]
    lines += ["", "## `import peft_viz`", "", "| name | what it does |", "|---|---|"]
    for module, names in api.NAMES.items():
        for name in names.split():
            value = getattr(module_of(module), name, None)
            lines.append(row(name, value, module, pages))
    lines += ["", "## Modules", ""]
    for module, page in pages.items():
        doc = summary(module_of(module).__doc__ or "")
        found = [(n, v) for n, v in names_of(module_of(module)) if "." not in n]
        if not found:
            continue
        listed = ", ".join(f"[`{n}`]({page}#{anchor(n)})" for n, _ in found)
        lines += [f"### [{module}]({page})", "", doc, "", listed, ""]
    return "\n".join(lines) + "\n"


def row(name, value, module, pages):
    told = summary(value.__doc__) if is_code(value) else ""
    page = pages.get(home_of(value, module), pages.get(module))
    link = f"[`{name}`]({page}#{anchor(name)})" if page else f"`{name}`"
    return f"| {link} | {told.replace('|', chr(92) + '|')} |"


def home_of(value, module):
    "The module in which a name is defined; it may be offered by another one."
    full = getattr(value, "__module__", None) or ""
    name = full.removeprefix("peft_viz.")
    return name if full.startswith("peft_viz.") else module


# ---- the source of each module


def quick_highlighting():
    "smalldocs asks for each word of the code which of thirty kinds it is; a kind is asked once here."
    from smalldocs import highlight

    kind = cache(lambda type_: next((name for t, name in highlight.CLASSES if type_ in t), ""))
    control = lambda name, word: "cf" if name == "kw" and word in highlight.CONTROL else name
    highlight.css_class = lambda type_, word: control(kind(type_), word)


def source_link(file, line, text="source"):
    return f'<a href="@source/{file.removesuffix(".py")}.html#L{line}">{text}</a>'


PLAIN = re.compile(r'<span class="(?:op|fu|va|at|bu|dv|fl|im|cn|dt|sc|ss|bn)">([^<]*)</span>')


def each_line(match):
    "A span that goes over several lines, as one for each of them."
    kind, text = match.groups()
    return "\n".join(f'<span class="{kind}">{line}</span>' if line else "" for line in text.split("\n"))


def sources(stage):
    "A page for each file of the package, with a target for each line."
    from smalldocs.highlight import highlight

    for path in sorted((ROOT / "peft_viz").rglob("*.py")):
        file = path.relative_to(ROOT / "peft_viz")
        if path.name in ("__init__.py", "_modidx.py"):
            continue
        code = highlight(path.read_text(encoding="utf-8"), "python")
        code = re.sub(r'<span class="(\w+)">([^<]*\n[^<]*)</span>', each_line, code)
        code = PLAIN.sub(r"\1", code)
        lines = code.rstrip("\n").split("\n")
        numbered = "".join(f'<span id="L{i}">{line}</span>' for i, line in enumerate(lines, 1))
        target = stage / "source" / file.with_suffix(".md")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(
            f'---\ntitle: "{file.as_posix()}"\ntoc: false\nsearch: false\n---\n\n````````{{=html}}\n'
            f'<div class="sourceCode pv-listing"><pre class="sourceCode python" tabindex="0"><code>{numbered}'
            "</code></pre></div>\n````````\n",
            encoding="utf-8",
        )
