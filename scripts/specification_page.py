"""Draws the rows of tests/specification.py as HTML without scripts: for nbs/reference/50_specification.ipynb, and for the test
that the page is up to date."""

import ast, html, sys, textwrap
from functools import lru_cache
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
import specification
from specification import ROWS
from peft_viz import layout
from peft_viz.recording.watch import statements

SECTIONS = list(dict.fromkeys(row.section for row in ROWS))
NEAR = 4  # lines of the source around the deciding one
text = html.escape


def short(test: str) -> str:
    "The name of a test without the folders of its file."
    file, _, name = test.partition("::")
    return f"{file.rpartition('/')[2]}::{name}"


@lru_cache
def recorded(number: int):  # of the row in ROWS
    "The recording of a row, made once."
    return specification.recorded(ROWS[number])


# ---- values: a few words, and small numbers one by one


def words(value) -> str:
    if value is None:
        return "not there"
    if value.kind == "tensor":
        return f"{value.dtype} [{', '.join(map(str, value.shape))}]"
    if value.kind == "cache":
        return f"{value.type} of {value.length} tokens" + (
            f", room for {value.max_length}" if (value.max_length or -1) > 0 else ""
        )
    if value.kind == "scalar":
        return repr(value.value)
    if value.kind == "mapping" and value.items:
        return f"{value.type}: {', '.join(value.items)}"
    return f"{value.type} of {value.length}" if value.length is not None else value.type


def marks(value) -> tuple:  # (class, shown, said) of one number
    if value.role == "attention_mask":
        return lambda n: ("k1" if n else "k0", n, n)
    if value.role == "labels":
        return lambda n: ("ki", "×", "ignored") if n == layout.IGNORED else ("kl", n, n)
    if value.role == "ids":
        return lambda n: ("kp", "□", "padding") if n == specification.PAD else ("kt", n, n)
    return lambda n: ("kn", n, n)


def grid(rows, mark) -> str:
    "Rows of small cells; read aloud row by row."
    shown = [[mark(n) for n in row] for row in rows]
    said = "; ".join(f"row {i}: " + " ".join(str(s) for *_, s in row) for i, row in enumerate(shown, 1))
    return (
        f'<span class="sm-grid" role="img" aria-label="{text(said)}">'
        + "".join("<span>" + "".join(f"<i class={c}>{s}</i>" for c, s, _ in row) + "</span>" for row in shown)
        + "</span>"
    )


def cells(value) -> str:
    if value is None or value.kind != "tensor" or not (numbers := value.nested()) or value.role == "loss":
        return ""
    if len(value.shape) == 4:
        numbers = numbers[0][0]  # the first row of the batch, its first head
    if len(value.shape) == 1:
        numbers = [numbers]
    if not isinstance(numbers[0], list) or len(numbers) > 8 or len(numbers[0]) > 14:
        return ""
    if value.dtype == "bool" and value.role == "other":
        return ""
    return grid(numbers, marks(value))


def values(title, items) -> str:
    "Names and what they stand for."
    rows = []
    for name, value in items.items():
        note = " · first row of the batch" if value is not None and value.attended else ""
        rows.append(f"<dt>{text(name)}</dt><dd>{cells(value)}<span>{text(words(value))}{note}</span></dd>")
    return f'<div><p class="sm-head">{text(title)}</p><dl>{"".join(rows)}</dl></div>' if rows else ""


# ---- the parts of a figure


def asked(row, seen) -> dict:
    "The names that the deciding condition asks about, with their values at that moment."
    node = specification.statement(row.where, row.line)
    test = getattr(node, "test", None) or getattr(node, "iter", None) or node
    names = {n.id for n in ast.walk(test) if isinstance(n, ast.Name)}
    found = {name: value for name, value in seen.before.items() if name in names}
    for name, value in list(found.items()):
        keys = (
            [n.value for n in ast.walk(test) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            if value.kind == "mapping"
            else []
        )
        if keys:
            del found[name]
        found |= {f"{name}[{key!r}]": seen.trace.value(value.items.get(key)) for key in keys}
    return found


def unfold(trace, name, value) -> dict:
    "A dictionary, entry by entry; without the Nones."
    if value is None or value.kind != "mapping":
        return {name: value}
    entries = {key: trace.value(i) for key, i in value.items.items()}
    return {key: v for key, v in entries.items() if not (v.kind == "scalar" and v.value is None)} or {
        name: value
    }


def came(row, seen) -> dict:
    "What the deciding line made, when it is no condition."
    if row.outcome is not None:
        return {}
    made = {
        name: value
        for name, value in seen.made.items()
        if "[" not in name or name.partition("[")[0] not in seen.made
    }
    line = specification.statement(row.where, row.line)
    if isinstance(line, ast.Return) and seen.returned is not None:
        made |= unfold(seen.trace, "returned", seen.returned)
    return made


def reached(row, seen) -> str:
    "What came of it: what the base model got, or what the call gave back, or how it failed."
    trace, base, root = seen.trace, seen.trace.base_calls, seen.trace.roots[0]
    parts = []
    if base:
        more = f", the first of {len(base)} calls" if len(base) > 1 else ""
        parts.append(
            f'<div><p class="sm-head">What reached the base model{more}</p>{strip(trace, base[0])}<dl>'
            + values("", seen.base).partition("<dl>")[2]
        )
    elif (
        not root.raised
        and not root.function.endswith("__init__")
        and not (seen.call is root and "returned" in came(row, seen))
    ):
        parts.append(
            values(
                f"What {root.function.rpartition('.')[2]} returned",
                unfold(trace, "returned", trace.value(root.returned)),
            )
        )
    if root.raised:
        parts.append(
            f'<div><p class="sm-head">How it ended</p><p class="sm-error"><b>{text(root.raised["type"])}</b>: '
            f"{text(root.raised['message'])}</p></div>"
        )
    return "".join(parts)


def strip(trace, call) -> str:
    "Position by position: virtual token, token, padding."
    rows = layout.sequence(trace, call).rows

    def mark(key):
        role, known = key
        return (
            "k" + layout.MARKS[role].code,
            known if role in ("token", "generated") and known is not None else layout.MARKS[role].glyph,
            role,
        )

    return (
        '<div class="sm-strip">'
        + grid([list(zip(row.roles, row.ids)) for row in rows], mark)
        + "<span>position by position</span></div>"
    )


OUTCOME = {True: ("yes", "true"), False: ("no", "false"), None: ("on", "reached")}


def badge(outcome):
    return '<b class="sm-{}">{}</b>'.format(*OUTCOME[outcome])


def listing(row, seen) -> str:
    "The source around the deciding line; what ran has a bar, what did not is pale."
    source = seen.trace.sources[seen.call.source]
    lines, first = textwrap.dedent(source.text).rstrip().split("\n"), source.first_line
    heads = statements(source.text, first)
    ran, decided = {s.line for s in seen.call.steps}, dict(row.decisions)
    low, high = max(first, min(decided) - NEAR), min(first + len(lines) - 1, max(decided) + NEAR)
    out = []
    for number in range(low, high + 1):
        head = heads.get(number, number)
        kind = "d" if number in decided else "r" if head in ran else ""
        tail = badge(decided[number]) if number in decided else ""
        out.append(
            f"<span{f' class={kind}' if kind else ''}><u>{number}</u>{text(lines[number - first])}{tail}</span>"
        )
    return (
        f'<pre class="sm-source" tabindex="0" aria-label="Lines {low} to {high} of {text(row.file)}">'
        + "".join(out)
        + "</pre>"
    )


def subject(trace) -> str:
    about = trace.about
    return (
        f"{layout.method(trace)} on {about['model_class']}"
        if about.get("peft_type")
        else f"{about['model_class']}, while it is wrapped"
    )


def sentence(note: str) -> str:
    "A note, with `code` in it."
    return "".join(
        f"<code>{text(part)}</code>" if i % 2 else text(part) for i, part in enumerate(note.split("`"))
    )


# ---- a row, a section, the overview


def figure(row) -> str:
    trace, seen = recorded(ROWS.index(row))
    here = f'<p class="sm-here"><b>Here:</b> {sentence(row.here)}</p>' if row.here else ""
    around = (
        values("What the calling line made of it", {n: v for n, v in seen.around.items() if cells(v)})
        if seen.around and row.outcome is None and row.section == "_cpt_forward"
        else ""
    )
    return (
        f"{here}{listing(row, seen)}<div "
        f'class="sm-values">{values("When it was decided", asked(row, seen))}{values("What the line made", came(row, seen))}{around}{reached(row, seen)}</div>'
        f'<p class="sm-subject">Recorded: {text(subject(trace))}.</p>'
    )


def entry(row) -> str:
    "One row: what it says, and its figure when it is opened."
    name = row.where.partition(":")[2].removeprefix("PeftModelForCausalLM.")
    return (
        f'<details><summary><span class="sm-number">{row.number}</span><span '
        f'class="sm-when">{sentence(row.when)}<code>{text(row.code)}</code></span>'
        f'<span class="sm-where"><span><code>{text(name)}</code> '
        f"{row.file}:{row.line}</span>{badge(row.outcome)}<small>{text(short(row.test))}</small></span></summary>"
        f'<div class="sm-figure" id="{row.id}">{figure(row)}</div></details>'
    )


def section(name: str) -> str:
    return '<div class="sm">' + "\n".join(entry(row) for row in ROWS if row.section == name) + "</div>"


def appendix() -> str:
    "The branches to which no row leads, and where they are."
    lines = []
    for branch in specification.left_over():
        place = f"{branch.file}:{branch.node.lineno}"
        lines.append(
            f"<tr><td><code>{text('.'.join(branch.names))}</code> {text(place)}</td>"
            f"<td><code>{text(ast.unparse(branch.node.test))}</code></td><td>{badge(branch.outcome)}</td></tr>"
        )
    head = "".join(f"<th scope=col>{title}</th>" for title in ("where", "condition", "it was"))
    return (
        '<div class="sm" tabindex="0"><table class="sm-appendix">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def overview() -> str:
    "All rows at a glance: a link for each."
    lines = []
    for name in SECTIONS:
        rows = [row for row in ROWS if row.section == name]
        links = "".join(
            f'<a href="#{row.id}" title="{text(row.when.replace("`", ""))}" '
            f'class="sm-{OUTCOME[row.outcome][0]}">{row.number}</a>'
            for row in rows
        )
        lines.append(
            "<tr><th "
            f"scope=row>{text(name)}</th><td>{len(rows)}</td><td>{len({row.test for row in rows})}</td><td class=sm-links>{links}</td></tr>"
        )
    total = (
        "<tr><th "
        f"scope=row>all</th><td>{len(ROWS)}</td><td>{len({row.test for row in ROWS})}</td><td>a link for each: the condition was {badge(True)}, {badge(False)}, or a line was {badge(None)}</td></tr>"
    )
    return (
        '<div class="sm"><table class="sm-overview"><thead><tr><th scope=col>section</th><th '
        "scope=col>rows</th><th scope=col>tests</th><th scope=col>go "
        f"to</th></tr></thead><tbody>{''.join(lines)}{total}</tbody></table></div>"
    )


# ---- the look, twice: light, and dark wherever the page says it is dark


def colours(theme):
    return " ".join(
        f"--{m.code}: {m.fill(theme)}; --{m.code}t: {m.text(theme)};" for m in layout.MARKS.values()
    )


DARK = ('html[data-scheme="alternate"]', '[data-jp-theme-light="false"]', ".vscode-dark", ".quarto-dark")
LIGHT_INK = (
    "--ink: #20262d; --soft: #59636d; --pale: #69727b; --line: #dfe3e8; --code: #f6f7f9; "
    "--here: #fff3d6; --bar: #0060a8; --yes: #00654d; --yesb: #dcf3ec; --no: "
    "#8a3b00; --nob: #fdeadb; --on: #0060a8; --onb: #e3eefb; --bad: #a8142a;"
)
DARK_INK = (
    "--ink: #d7dde4; --soft: #a0a9b3; --pale: #8b949e; --line: #30363d; --code: #1b2028; "
    "--here: #3a3113; --bar: #79b8ff; --yes: #7fdcbc; --yesb: #123a30; --no: "
    "#ffb784; --nob: #46290f; --on: #9cc9ff; --onb: #14304f; --bad: #ff9aa6;"
)


def style() -> str:
    dark = ", ".join(f"{where} .sm" for where in DARK)
    return f"""<style>
.sm {{ {LIGHT_INK} {colours("light")} color: var(--ink); font-size: 14px; line-height: 1.45; }}
{dark} {{ {DARK_INK} {colours("dark")} }}
.sm code, .sm pre, .sm dt, .sm i, .sm u, .sm small {{ font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }}
.sm code {{ font-size: 12px !important; background: none !important; padding: 0 !important; color: inherit !important; overflow-wrap: anywhere; }}
.sm b[class] {{ font: 600 12px/1.5 system-ui, sans-serif; padding: 0 7px; border-radius: 9px; white-space: nowrap; }}
.sm .sm-yes {{ color: var(--yes); background: var(--yesb); }} .sm .sm-no {{ color: var(--no); background: var(--nob); }} .sm .sm-on {{ color: var(--on); background: var(--onb); }}
.sm details {{ border-top: 1px solid var(--line); }} .sm details:last-of-type {{ border-bottom: 1px solid var(--line); }}
.sm summary {{ display: grid; grid-template-columns: 1.9em minmax(0, 1fr) minmax(0, 25em); gap: 2px 14px; padding: 8px 4px; cursor: pointer; list-style: none; }}
.sm summary::-webkit-details-marker {{ display: none; }}
.sm summary:hover, .sm details[open] > summary {{ background: var(--code); }}
.sm summary:focus-visible, .sm a:focus-visible, .sm pre:focus-visible {{ outline: 2px solid var(--bar); outline-offset: -2px; }}
.sm-number {{ color: var(--soft); font-variant-numeric: tabular-nums; text-align: right; }} .sm-number::before {{ content: "▸ "; font-size: 10px; }} .sm details[open] .sm-number::before {{ content: "▾ "; }}
.sm-when code {{ display: block; color: var(--soft) !important; font-size: 12px; }} .sm-when > code:not(:last-child) {{ display: inline; color: inherit !important; }}
.sm-where {{ display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 2px 10px; align-content: start; font-size: 12px; color: var(--soft); }} .sm-where > span code {{ color: var(--ink) !important; }}
.sm-where b {{ align-self: start; }} .sm-where small {{ grid-column: 1 / -1; font-size: 12px; line-height: 1.35; overflow-wrap: anywhere; }}
.sm-figure {{ padding: 2px 4px 14px 2.3em; scroll-margin-top: 9rem; }}
.sm p {{ margin: 6px 0; }} .sm-here {{ background: var(--here); border-radius: 6px; padding: 6px 10px; font-size: 13px; }} .sm-subject, .sm-strip span:last-child, .sm dd > span:last-child {{ color: var(--soft); font-size: 12px; }}
.sm .sm-source {{ background: var(--code) !important; border: 0 !important; border-radius: 6px !important; margin: 6px 0 !important; padding: 6px 0 !important; font-size: 12px !important; line-height: 1.55 !important; overflow-x: auto; color: var(--ink); }}
.sm-source > span {{ display: block; width: max-content; min-width: 100%; padding-right: 12px; white-space: pre; border-left: 4px solid transparent; color: var(--pale); }}
.sm-source .r, .sm-source .d {{ border-left-color: var(--bar); color: var(--ink); }} .sm-source .d {{ background: var(--onb); font-weight: 600; }} .sm-source b {{ margin-left: 12px; position: sticky; right: 8px; }}
.sm-source u {{ display: inline-block; width: 3.2em; padding-right: 1em; text-align: right; text-decoration: none; color: var(--soft); font-weight: 400; user-select: none; }}
.sm-values {{ display: flex; flex-wrap: wrap; gap: 4px 32px; }} .sm-values > div {{ min-width: min(100%, 250px); flex: 0 1 auto; }}
.sm .sm-head {{ font-size: 12px !important; font-weight: 650; margin: 8px 0 4px !important; color: var(--soft); }}
.sm dl {{ display: grid; grid-template-columns: auto minmax(0, 1fr); gap: 5px 12px; margin: 0; }} .sm dt {{ font-size: 12px; font-weight: 400; overflow-wrap: anywhere; }} .sm dd {{ margin: 0; display: flex; flex-wrap: wrap; gap: 2px 10px; align-items: center; }}
.sm-strip {{ display: flex; flex-wrap: wrap; gap: 4px 10px; align-items: center; margin-bottom: 6px; }}
.sm-grid, .sm-grid > span {{ display: inline-flex; gap: 1px; }} .sm-grid {{ flex-direction: column; }}
.sm-grid i {{ font: 12px/18px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; min-width: 20px; height: 18px; text-align: center; border-radius: 2px; padding: 0 2px; box-sizing: border-box; }}
{" ".join(f".sm .k{m.code} {{ background: var(--{m.code}); color: var(--{m.code}t); }}" for m in layout.MARKS.values())} .sm .kn {{ box-shadow: inset 0 0 0 1px var(--line); }}
.sm-error {{ font-size: 13px; max-width: 46em; }} .sm-error b {{ color: var(--bad); }}
.sm .sm-overview {{ display: table !important; width: 100% !important; border-collapse: collapse; font-size: 13px; }} .sm-overview td, .sm-overview th {{ text-align: left !important; padding: 6px 12px 6px 0 !important; border-bottom: 1px solid var(--line) !important; vertical-align: top; }}
.sm-overview td:nth-child(2), .sm-overview td:nth-child(3) {{ font-variant-numeric: tabular-nums; }} .sm-links {{ width: 70%; }} .sm-overview tbody th {{ overflow-wrap: anywhere; font-weight: 600; }}
.sm-links a {{ display: inline-block; min-width: 26px; padding: 1px 4px; margin: 0 4px 4px 0; border-radius: 5px; text-align: center; text-decoration: none; font-variant-numeric: tabular-nums; }} .sm-links a:hover {{ text-decoration: underline; }}
.sm .sm-appendix {{ display: table !important; width: 100% !important; border-collapse: collapse; font-size: 12px; }} .sm-appendix td, .sm-appendix th {{ text-align: left !important; padding: 4px 10px 4px 0 !important; border-bottom: 1px solid var(--line) !important; vertical-align: top; overflow-wrap: anywhere; }}
@media (max-width: 700px) {{ .sm summary {{ grid-template-columns: 1.9em minmax(0, 1fr); }} .sm-where {{ grid-column: 2; }} .sm-figure {{ padding-left: 4px; }} .sm-links a {{ padding: 4px; min-width: 30px; }} .sm-overview td:nth-child(3), .sm-overview th:nth-child(3) {{ display: none; }} .sm-appendix thead {{ display: none; }} .sm-appendix tr {{ display: grid; grid-template-columns: minmax(0, 1fr) auto; border-bottom: 1px solid var(--line); }} .sm-appendix td {{ border: 0 !important; padding: 2px 10px 2px 0 !important; }} .sm-appendix td:first-child {{ grid-column: 1 / -1; }} }}
</style>"""


def legend() -> str:
    "The marks that the figures use."
    shown = [
        ("v", "virtual"),
        ("t", "token"),
        ("p", "padding"),
        ("g", "generated"),
        ("1", "attended"),
        ("0", "masked"),
        ("l", "label"),
        ("i", "ignored"),
    ]
    marks = "".join(
        '<span class="sm-strip" style="margin:0"><span class="sm-grid" '
        'aria-hidden="true"><span><i '
        f'class="k{code}">{dict(attended=1, masked=0, label="7", token="5").get(name, layout.MARKS[name].glyph)}</i></span></span><span>{layout.MARKS[name].en}</span></span>'
        for code, name in shown
    )
    return f'<div class="sm"><div class="sm-values" style="gap:4px 18px">{marks}</div></div>'
