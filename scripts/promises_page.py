"""The tables of the page of promises, from `bench/figures.json`: what was measured, or that it was not yet."""

import json
import pathlib
from collections import Counter, defaultdict

STORE = pathlib.Path(__file__).resolve().parent.parent / "bench" / "figures.json"
NOT_YET = "not measured yet"


def figures() -> dict:
    "What `make promises` has measured so far."
    return json.loads(STORE.read_text()) if STORE.exists() else {}


def table(head: list, rows: list) -> str:
    "Markdown."
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def when(text: str, *parts: str) -> str:
    "A table, and below it the day on which each of its parts was measured."
    days = figures().get("measured", {})
    said = {part: days[part] for part in parts if part in days}
    if len({*said.values()}) > 1:
        return f"{text}\n\n*measured: {', '.join(f'{part} {day}' for part, day in said.items())}*"
    return text + "".join(f"\n\n*measured {day}*" for day in {*said.values()})


def faults() -> str:
    "What was damaged, and what came of it."
    found = figures().get("fuzz", {})
    kinds = ("traces", "configurations", "checkpoints")
    rows = [
        [
            kind,
            *(f"{found[kind][name]:,}" for name in ("tried", "refused", "read", "faults")),
            found[kind]["seconds"],
        ]
        if kind in found
        else [kind, NOT_YET, "", "", "", ""]
        for kind in kinds
    ]
    head = ["damaged", "tried", "refused in words", "read", "anything else", "longest, in seconds"]
    return when(table(head, rows), "fuzz")


def soak() -> str:
    "Memory in the loop of training and generation."
    found = figures().get("soak")
    if found is None:
        return table(["soak test"], [[NOT_YET]])
    names = ("minutes", "rounds", "megabytes_first", "megabytes_last", "kilobytes_a_round")
    return when(table([name.replace("_", " ") for name in names], [[found[name] for name in names]]), "soak")


WRITERS = dict(traces="a trace", pages="a page", configurations="a configuration", checkpoints="a checkpoint")
TRIED = {  # part of the figures -> what happened, and how the numbers that came of it read
    "killed": ("killed while writing", "{old:,} times the old, {new:,} times the new; {whole:,} whole"),
    "full": ("disk full", "{refused} refused, {written} had room; old or new, whole"),
    "read_only": ("folder read-only", "{refused} refused, nothing changed"),
    "at_once": ("two write, one reads", "{reads:,} times read, whole and of one age"),
}


def strikes() -> str:
    "What happened to programs that were writing or recording."
    found, rows = figures().get("faults", {}), []
    for part, (what, words) in TRIED.items():
        for kind, name in WRITERS.items():
            n = Counter(found.get(part, {}).get(kind, {}))
            if not n:
                rows.append([what, name, NOT_YET, ""])
                continue
            tried = {"at_once": n["written"], "killed": n["old"] + n["new"]}.get(
                part, n["refused"] + n["written"]
            )
            numbers = defaultdict(int, n, whole=tried, reads=n["read as 0"] + n["read as 1"])
            rows.append([what, name, f"{tried:,}", words.format_map(numbers)])
    for method, n in found.get("interrupted", {"": {}}).items():
        tried = sum(n.values())
        words = f"{n.get('interrupted', 0)} struck in time; process and answers as before"
        rows.append(
            [
                "interrupted (Ctrl-C)",
                method.replace("_", " "),
                f"{tried:,}" if n else NOT_YET,
                words if n else "",
            ]
        )
    return when(table(["what happened", "to", "times", "what came of it"], rows), "faults")


def costs() -> str:
    "Time with a recording over time without."
    found = figures().get("record")
    if found is None:
        return table(["what a recording costs"], [[NOT_YET]])
    show = lambda r: "x{1:.3f} ({0:.3f} to {2:.3f})".format(*r)
    rows = [
        [
            row["model"],
            row["package"],
            row["method"].replace("_", " "),
            show(row["forward"]),
            show(row["generate"]),
        ]
        for row in found["rows"]
    ]
    words = f"a forward of 11 tokens, and {found['tokens']} tokens generated; {found['threads']} thread{'s' * (found['threads'] > 1)}"
    told = table(["model", "package", "method", "forward", "generate"], rows) + f"\n\n*{words}*"
    return when(told, "record")


def beside() -> str:
    "The import, and ours over peft without a recording."
    compared, imports = figures().get("compare"), figures().get("imports")
    rows = [[f"{name}, ours over peft", f"x{x:.3f}"] for name, x in (compared or {}).items()]
    rows = rows or [["ours over peft", NOT_YET]]
    what = "import peft_viz and its public names, over import peft"
    many = f"{imports['modules']} over {imports['modules_of_peft']}" if imports else NOT_YET
    rows += [[f"{what}, time", f"x{imports['time']}" if imports else NOT_YET], [f"{what}, modules", many]]
    return when(table(["what", "median of ratios"], rows), "compare", "imports")


AXES = dict(
    tokens="tokens of the prompt", steps="steps of generate", layers="layers", rows="rows of the batch"
)
PLOTTED = {  # figure -> what it is, its unit, and a factor
    "seconds": ("time", "s", 1),
    "memory": ("memory", "MB", 1e-6),
    "file": ("size of the file", "MB", 1e-6),
}


def growth():
    "A figure: what grows, against how much it costs; None where nothing was measured yet."
    import matplotlib.pyplot as plt

    found = figures().get("growth", {}).get("growth")
    if found is None:
        return None
    figure, axes = plt.subplots(len(PLOTTED), len(AXES), figsize=(10, 6.4))
    figure.subplots_adjust(left=0.08, right=0.98, top=0.97, bottom=0.12, hspace=0.28, wspace=0.3)
    for line, (key, (what, unit, factor)) in zip(axes, PLOTTED.items()):
        for ax, (name, title) in zip(line, AXES.items()):
            values = found[name]["values"]
            numbers = [point[key] * factor for point in found[name]["points"]]
            ax.plot(values, numbers, "o-", color="#0072b2", ms=4)
            ax.set_ylim(0, 1.15 * max(numbers))
            ax.spines[["top", "right"]].set_visible(False)
            if key == [*PLOTTED][-1]:
                ax.set_xlabel(title)
            if ax is line[0]:
                ax.set_ylabel(f"{what} ({unit})")
    plt.close(figure)  # the cell shows it, and pyplot would show it once more
    return figure


def slopes() -> str:
    "What one more costs."
    found = figures().get("growth", {}).get("growth")
    if found is None:
        return table(["what one more costs"], [[NOT_YET]])
    rows = []
    for name in AXES:
        s = found[name]["slopes"]
        rows.append(
            [
                f"one of the {name} more",
                f"{s['seconds'] * 1e3:.2f}",
                f"{s['memory']:,.0f}",
                f"{s['file']:,.0f}",
            ]
            + [f"{s['memory_early']:,.0f}, {s['file_early']:,.0f}"]
        )
    head = ["what", "milliseconds", "bytes of memory", "bytes of the file", "the two at the beginning"]
    return when(table(head, rows), "growth")


def large(tokens: int = 128 * 1024, layers: int = 80, steps: int = 64) -> str:
    "What the slopes say of a large model with a long context."
    found = figures().get("growth", {})
    if "growth" not in found:
        return NOT_YET
    grown, wanted, total = found["growth"], dict(tokens=tokens, layers=layers, steps=steps), {}
    for key in "memory", "file":
        total[key] = grown["tokens"]["points"][0][key]
        for name, n in wanted.items():
            total[key] += (n - grown[name]["values"][0]) * max(grown[name]["slopes"][key], 0)
    long = found["long"]
    return (
        f"A generate of {steps} steps behind {tokens:,} tokens, with {layers} layers, two rows: "
        f"{total['memory'] / 1e6:.1f} MB of memory and a file of {total['file'] / 1e6:.1f} MB by the slopes above. "
        f"Measured at {long['tokens']:,} tokens, one forward: a file of {long['bytes_of_file'] / 1e6:.2f} MB, "
        f"{long['megabytes_of_memory']} MB of memory more than without a recording, {long['seconds']} s instead of "
        f"{long['seconds_without']} s."
    )
