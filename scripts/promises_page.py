"""The tables of the page of promises, from `bench/figures.json`: what was measured, or that it was not yet."""

import json
import pathlib

STORE = pathlib.Path(__file__).resolve().parent.parent / "bench" / "figures.json"
NOT_YET = "not measured yet"


def figures() -> dict:
    "What `make promises` has measured so far."
    return json.loads(STORE.read_text()) if STORE.exists() else {}


def table(head: list, rows: list) -> str:
    "Markdown."
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


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
    return table(
        ["damaged", "tried", "refused in words", "read", "anything else", "longest, in seconds"], rows
    )


def soak() -> str:
    "Memory in the loop of training and generation."
    found = figures().get("soak")
    if found is None:
        return table(["soak test"], [[NOT_YET]])
    names = ("minutes", "rounds", "megabytes_first", "megabytes_last", "kilobytes_a_round")
    return table([name.replace("_", " ") for name in names], [[found[name] for name in names]])


def costs() -> str:
    "Time with a recording over time without, and time of ours over that of peft."
    recorded, compared = figures().get("record", {}), figures().get("compare", {})
    rows = [
        [f"recording, {name}, on {recorded['model']}", f"x{x:.3f}"]
        for name, x in recorded.items()
        if name != "model"
    ] or [["recording", NOT_YET]]
    rows += [[f"ours over peft, {name}", f"x{x:.3f}"] for name, x in compared.items()] or [
        ["ours over peft", NOT_YET]
    ]
    imports = figures().get("imports")
    what = "import peft_viz and its public names, over import peft"
    rows += [
        [f"{what}, time", f"x{imports['time']}" if imports else NOT_YET],
        [
            f"{what}, modules",
            f"{imports['modules']} over {imports['modules_of_peft']}" if imports else NOT_YET,
        ],
    ]
    return table(["what", "median of ratios"], rows)


def growth() -> str:
    "Bytes of a saved recording."
    found = figures().get("growth")
    if found is None:
        return table(["growth"], [[NOT_YET]])
    rows = [
        [name, ", ".join(f"{n}: {size:,}" for n, size in one["sizes"].items()), one["early"], one["late"]]
        for name, one in found["growth"].items()
    ]
    return table(["what grows", "bytes of the file", "bytes for one more", "later"], rows)


def large(tokens: int = 128 * 1024, layers: int = 80, steps: int = 64) -> str:
    "What the slopes say of a large model with a long context."
    found = figures().get("growth")
    if found is None:
        return NOT_YET
    grown, wanted, total = found["growth"], dict(tokens=tokens, layers=layers, steps=steps), 0
    for name, n in wanted.items():
        values = [int(value) for value in grown[name]["sizes"]]
        first = grown[name]["sizes"][str(values[0])]
        total += (n - values[0]) * max(grown[name]["late"], 0)
    long = found["long"]
    return (
        f"A generate of {steps} steps behind {tokens:,} tokens, with {layers} layers: {(first + total) / 1e6:.1f} MB by "
        f"the slopes above, were every value kept. Measured at {long['tokens']:,} tokens, where a row is too large to be "
        f"kept whole: {long['bytes_of_file'] / 1e6:.2f} MB, and {long['megabytes_of_memory']} MB of memory more than "
        "without a recording."
    )
