"Draws tests/matrix.json as HTML without scripts: for nbs/reference/51_matrix.ipynb, and for the test that the page is up to date."

from specification_page import DARK, DARK_INK, LIGHT_INK, sentence, text  # adds ../tests to the path
import matrix
from matrix import BASE, INVARIANTS, METHODS

SAID = {  # what must hold, in a line
    "train": "the loss is finite; every adapter weight gets a gradient, and nothing else does",
    "greedy": "`generate` returns the text it was given, and as many new tokens as were asked for",
    "positional": "`generate(ids)` is `generate(input_ids=ids)`",
    "argmax": "each new token is the likeliest of one `forward` over the whole text",
    "no cache": "the same text with `use_cache=False`",
    "static cache": 'the same text with `cache_implementation="static"`, twice in a row',
    "beams": "beam search gives each row of a batch what it gives the row alone",
    "left padding, logits": "a row's logits do not depend on padding before it",
    "left padding, generate": "nor does its text",
    "left padding, static cache": "nor does its text with a static cache",
    "right padding, loss": "the loss does not depend on padding behind the text",
    "batch": "a row of a batch is the row alone",
    "embeddings": "`inputs_embeds` instead of `input_ids` changes nothing",
    "no mask": "no mask is a mask of ones",
    "disable": "with adapters switched off it is the base model, and afterwards itself again",
    "save and load": "what was saved and loaded gives the same logits",
    "untouched": "the caller's tensors and configurations stay as they were",
    "restored": "an exception in the middle of `generate` leaves the base model as it was",
    "continue": "from the cache that `generate` returned, it goes on where it stopped",
}
NAME = {"ours": "here", "peft": "peft"}
FAMILY_NAMES = {"gemma3_text": "gemma3"}
METHOD_NAMES = {"prefix-projection": "prefix, projected", "p-tuning-lstm": "p-tuning, LSTM"}


def lanes():
    "Lane -> implementation -> (family, method) -> invariant -> reason."
    return {lane: matrix.unpack(part) for lane, part in matrix.stored().items()}


def version(lane, name):
    return matrix.stored()[lane]["versions"][name]


def minor(lane, name):
    return ".".join(version(lane, name).split(".")[:2])


# ---- invariants: how often each holds


def bar(holds, of):
    return f'<span class="mx-bar" aria-hidden="true"><i style="width:{100 * holds / of:.1f}%"></i></span>'


def counted(holds, of):
    return f'<td class="mx-count{" mx-whole" if holds == of else ""}">{bar(holds, of)}<span>{holds} of {of}</span></td>'


def by_invariant() -> str:
    "A row for each invariant, ours and peft's, in both lanes."
    columns = [(lane, name, cells) for lane, results in lanes().items() for name, cells in results.items()]
    head = "".join(
        f'<th scope="colgroup" colspan="{len(results)}">transformers {minor(lane, "transformers")}</th>'
        for lane, results in lanes().items()
    )
    names = "".join(
        f'<th scope="col">{NAME[name]}{f" {minor(lane, name)}" if name == "peft" else ""}</th>'
        for lane, name, _ in columns
    )
    rows, totals = [], [(0, 0)] * len(columns)
    for invariant in INVARIANTS:
        counts = [matrix.count(cells, invariant)[:2] for *_, cells in columns]
        totals = [(a + c, b + d) for (a, b), (c, d) in zip(totals, counts)]
        rows.append(
            "<tr><th "
            f'scope="row">{invariant}<small>{sentence(SAID[invariant])}</small></th>{"".join(counted(*c) for c in counts)}</tr>'
        )
    rows.append(f'<tr class="mx-all"><th scope="row">all</th>{"".join(counted(*c) for c in totals)}</tr>')
    return (
        '<div class="mx"><div class="mx-wide" role="region" aria-label="Invariants" '
        'tabindex="0"><table class="mx-invariants"><caption>How often each invariant holds, '
        "of the combinations of family and method in which the base model keeps it</caption>"
        '<thead><tr><th rowspan="2" '
        f'scope="col">invariant</th>{head}</tr><tr>{names}</tr></thead><tbody>{"".join(rows)}</tbody></table></div></div>'
    )


# ---- families and methods: how many invariants hold


def level(holds, of):
    return 3 if holds == of else 2 if 3 * holds >= 2 * of else 1 if holds else 0


def chip(name, cell):
    holds, kinds = (
        sum(not reason for reason in cell.values()),
        [matrix.kind(reason) for reason in cell.values()],
    )
    of = len(kinds) - kinds.count("base")
    return (
        f'<span class="mx-level{level(holds, of)}"><span class="mx-said">{NAME[name]} '
        f'</span>{holds}{"*" if of < len(kinds) else ""}<span class="mx-said"> of {of}</span></span>'
    )


def key(lane, family):
    return f"{lane.replace(' ', '-')}-{family}"


def legend() -> str:
    shown = ("none", "some", "two thirds or more", "all of them")
    return "".join(
        f'<span><span class="mx-level{i}" aria-hidden="true">{n}</span> {words_}</span>'
        for i, (n, words_) in enumerate(zip((0, 8, 15, 19), shown))
    )


def grid(lane) -> str:
    "Families by methods."
    results = lanes()[lane]
    families = list(dict.fromkeys(family for family, _ in results["ours"]))
    head = "".join(
        f'<th scope="col">{METHOD_NAMES.get(method, method).replace(", ", ",<br>")}</th>'
        for method in METHODS
    )
    rows = []
    for family in families:
        row = "".join(
            '<td><span class="mx-pair">'
            + "".join(chip(name, cells[family, method]) for name, cells in results.items())
            + "</span></td>"
            for method in METHODS
        )
        rows.append(
            f'<tr><th scope="row"><a href="#{key(lane, family)}">{FAMILY_NAMES.get(family, family)}</a></th>{row}</tr>'
        )
    caption = (
        f"With transformers {version(lane, 'transformers')} and peft "
        f"{version(lane, 'peft')}: how many of the {len(INVARIANTS)} invariants hold: left here, right in peft"
    )
    return (
        '<div class="mx"><div class="mx-wide" role="region" aria-label="Families and '
        f'methods, {lane}" tabindex="0"><table class="mx-grid"><caption>{caption}</caption>'
        "<thead><tr><th "
        f'scope="col">family</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div><p class="mx-legend">{legend()}<span><b>*</b> the base model alone breaks the rest</span></p>'
        + "".join(why(lane, family, results) for family in families)
        + "</div>"
    )


def reasons(cells, family):
    """[(methods, invariants, reason)]: equal ones together, what fails most first; what the base model breaks
    comes last."""
    found, measured = {}, {}
    for method in METHODS:
        for invariant, reason in cells[family, method].items():
            if not reason.startswith(BASE):
                measured.setdefault(method, []).append(invariant)
            if reason:
                found.setdefault((method, reason), []).append(invariant)
    together = {}
    for (method, reason), invariants in found.items():
        shown = ("all of them",) if invariants == measured[method] else tuple(invariants)
        together.setdefault((reason.startswith(BASE), -len(invariants), shown, reason), []).append(method)
    return [
        (methods, invariants, reason)
        for (_, _, invariants, reason), methods in sorted(together.items(), key=lambda item: item[0][:2])
    ]


def why(lane, family, results) -> str:
    "What does not hold with a family, opened by whoever asks."
    parts, told = [], []
    for name, cells in results.items():
        kinds = [matrix.kind(reason) for method in METHODS for reason in cells[family, method].values()]
        told.append(f"{NAME[name]} {kinds.count('fails') or 'none'}")
        rows = "".join(
            f"<tr><td>{', '.join(METHOD_NAMES.get(method, method).replace(', ', ' ') for method in methods) if len(methods) < len(METHODS) else 'all methods'}</td>"
            f"<td>{'; '.join(invariants)}</td><td>{reason_(reason)}</td></tr>"
            for methods, invariants, reason in reasons(cells, family)
        )
        if rows:
            parts.append(
                f'<table><caption>{"Here" if name == "ours" else "In peft"}</caption><thead><tr><th scope="col">methods</th><th scope="col">invariants</th><th scope="col">why</th></tr></thead><tbody>{rows}</tbody></table>'
            )
    label = FAMILY_NAMES.get(family, family)
    body = (
        f'<div class="mx-wide" role="region" aria-label="{label}, '
        f'{lane}: what fails" tabindex="0">{"".join(parts)}</div>'
        if parts
        else "<p>Everything holds.</p>"
    )
    return (
        f"<details><summary><b>{label}</b><span>what fails: "
        f'{", ".join(told)}</span></summary><div class="mx-why" id="{key(lane, family)}">{body}</div></details>'
    )


def reason_(reason):
    base = reason.startswith(BASE)
    return (
        "<b>The base model: </b>" if base else ""
    ) + f"<code>{text(reason.removeprefix(BASE) if base else reason)}</code>"


def figures():
    "All outputs of the notebook, in their order."
    return [style() + by_invariant(), *map(grid, lanes())]


# ---- the look, twice: light, and dark wherever the page says it is dark

LIGHT = (
    LIGHT_INK + " --m3: #0b4f86; --m3t: #fff; --m2: #8fc1ea; --m2t: #0a2236; "
    "--m1: #e3eefb; --m1t: #20262d; --m0: #fff; --m0t: #8a3b00;"
)
NIGHT = (
    DARK_INK + " --m3: #8cc6ff; --m3t: #06192b; --m2: #2a649b; --m2t: #fff; "
    "--m1: #17324d; --m1t: #d7dde4; --m0: #13171c; --m0t: #ffb784;"
)


def style() -> str:
    dark = ", ".join(f"{where} .mx" for where in DARK)
    levels = " ".join(
        f".mx .mx-level{i} {{ background: var(--m{i}); color: var(--m{i}t); }}" for i in range(4)
    )
    return f"""<style>
.mx {{ {LIGHT} color: var(--ink); font-size: 13px; line-height: 1.4; }}
{dark} {{ {NIGHT} }}
.mx code {{ font: 12px/1.4 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace !important; background: none !important; padding: 0 !important; color: inherit !important; overflow-wrap: anywhere; }}
.mx-wide {{ overflow-x: auto; position: relative; }} .mx :focus-visible {{ outline: 2px solid var(--bar); outline-offset: -2px; }}
.mx table {{ display: table !important; width: 100% !important; min-width: 0 !important; border-collapse: collapse; margin: 0 0 8px; font-size: 13px; color: inherit; }}
.mx caption {{ caption-side: top; text-align: left; color: var(--soft); font-size: 13px; padding: 4px 0 8px; }}
.mx th, .mx td {{ text-align: left !important; padding: 5px 14px 5px 0 !important; border: 0 !important; border-bottom: 1px solid var(--line) !important; vertical-align: middle !important; color: inherit; font-weight: 400; background: none; }}
.mx thead th {{ font-weight: 600; vertical-align: bottom !important; }}
.mx .mx-invariants {{ min-width: 640px !important; }} .mx-invariants tbody th {{ font-weight: 600; }} .mx-invariants small {{ display: block; font-size: 12px; font-weight: 400; color: var(--soft); }}
.mx-count {{ white-space: nowrap; font-variant-numeric: tabular-nums; width: 98px; padding-right: 8px !important; color: var(--soft); }} .mx .mx-whole {{ color: var(--ink); }} .mx-count > span:last-child {{ display: block; }}
.mx-bar {{ display: block; height: 7px; width: 84px; background: var(--m1); border-radius: 2px; margin: 2px 0 3px; overflow: hidden; }} .mx-bar i {{ display: block; height: 100%; background: var(--m2); }} .mx-whole .mx-bar i {{ background: var(--m3); }}
.mx-all th, .mx-all td {{ font-weight: 600 !important; border-bottom: 0 !important; }}
.mx .mx-grid {{ min-width: 728px !important; table-layout: fixed; }} .mx-grid thead th:first-child {{ width: 92px; }} .mx .mx-grid th, .mx .mx-grid td {{ padding: 3px 3px 3px 0 !important; }} .mx .mx-grid thead th {{ font-size: 12px; line-height: 1.25; letter-spacing: -.02em; white-space: nowrap; padding-right: 0 !important; }} .mx .mx-grid tbody th {{ font-size: 12px; font-weight: 600; white-space: nowrap; }}
.mx-grid a {{ color: var(--bar) !important; }}
.mx-pair {{ display: inline-flex; gap: 1px; }} .mx-pair > span, .mx-legend span > span {{ display: inline-block; width: 27px; box-sizing: border-box; padding: 2px 0; text-align: center; font-size: 12px; font-variant-numeric: tabular-nums; }}
.mx-pair > span:first-child {{ border-radius: 4px 0 0 4px; }} .mx-pair > span:last-child {{ border-radius: 0 4px 4px 0; }} .mx-legend span > span {{ border-radius: 4px; margin-right: 4px; }}
{levels} .mx .mx-level0 {{ box-shadow: inset 0 0 0 1px var(--m0t); }}
.mx-legend {{ display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0 0 10px; font-size: 12px; color: var(--soft); }}
.mx-said {{ position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }}
.mx details {{ border-top: 1px solid var(--line); }} .mx details:last-of-type {{ border-bottom: 1px solid var(--line); margin-bottom: 12px; }}
.mx summary {{ display: grid; grid-template-columns: 9em minmax(0, 1fr); gap: 2px 12px; padding: 5px 4px; cursor: pointer; list-style: none; }} .mx summary::-webkit-details-marker {{ display: none; }}
.mx summary b {{ font-weight: 600; }} .mx summary b::before {{ content: "▸ "; font-size: 10px; color: var(--soft); }} .mx details[open] summary b::before {{ content: "▾ "; }} .mx summary span {{ color: var(--soft); }}
.mx summary:hover, .mx details[open] > summary {{ background: var(--code); }}
.mx-why {{ padding: 2px 4px 10px 1.2em; scroll-margin-top: 9rem; }} .mx .mx-why table {{ min-width: 600px !important; table-layout: fixed; }} .mx-why caption {{ font-weight: 600; color: var(--ink); padding: 8px 0 2px; }}
.mx-why th, .mx-why td {{ vertical-align: top !important; font-size: 12px; overflow-wrap: break-word; }} .mx-why th:nth-child(1) {{ width: 24%; }} .mx-why th:nth-child(2) {{ width: 26%; }}
</style>"""
