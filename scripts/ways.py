"""Which way each condition goes, and in which setting: record a small table of settings and write what was seen.

    .venv/bin/python scripts/ways.py            # peft_viz/views/static/ways.json
    .venv/bin/python scripts/ways.py --check    # is the file today's?

The viewer reads the table to say, at a decision, in which setting it goes the other way. Every setting is the text
that the viewer shows: this script runs that very text, with our `peft_viz` and with `peft`."""

import argparse, json, sys, warnings
from pathlib import Path

import peft, torch

import peft_viz
from peft_viz import load_tiny, tiny_random
from peft_viz.recording.recorder import record
from peft_viz.views.ways import code, decides, FUNCTIONS, keys

FILE = Path(peft_viz.__file__).parent / "views" / "static" / "ways.json"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

LM = 'task_type="CAUSAL_LM"'
PROMPT = f"PromptTuningConfig({LM}, num_virtual_tokens=4)"
PREFIX = f"PrefixTuningConfig({LM}, num_virtual_tokens=4)"
CPT = f"CPTConfig({LM}, cpt_token_ids=[3, 4], cpt_tokens_type_mask=[3, 4])"
LORA = f'LoraConfig({LM}, target_modules="all-linear")'
POLY = f'PolyConfig({LM}, target_modules=["q_proj"], n_tasks=2)'
FORWARD, LABELS = "model(**batch)", 'model(**batch, labels=batch["input_ids"])'
GENERATE = "model.generate(**batch, max_new_tokens=2)"
EMBED = 'model.get_input_embeddings()(batch["input_ids"])'
EMBEDS = f"model(inputs_embeds={EMBED})"
TASKS = "task_ids=torch.tensor([0, 1])"
TINY, MPT, GPT2 = "load_tiny()[0]", 'tiny_random("mpt")', 'tiny_random("gpt2")'

NAMES = ("en", "zh", "base", "config", "call")
# The first that goes a way is the one that is shown
SETTINGS = [
    ("prompt tuning, forward with labels", "提示微调，带标签的前向传播", TINY, PROMPT, LABELS),
    ("prompt tuning, generate", "提示微调，生成", TINY, PROMPT, GENERATE),
    ("prefix tuning, forward with labels", "前缀微调，带标签的前向传播", TINY, PREFIX, LABELS),
    ("prefix tuning, generate", "前缀微调，生成", TINY, PREFIX, GENERATE),
    ("CPT, forward with labels", "CPT，带标签的前向传播", TINY, CPT, LABELS),
    ("CPT, forward without labels", "CPT，不带标签的前向传播", TINY, CPT, FORWARD),
    ("LoRA, forward", "LoRA，前向传播", TINY, LORA, FORWARD),
    ("LoRA, generate", "LoRA，生成", TINY, LORA, GENERATE),
    ("prompt tuning, forward without labels", "提示微调，不带标签的前向传播", TINY, PROMPT, FORWARD),
    (
        "prompt tuning, forward without a mask",
        "提示微调，不带掩码的前向传播",
        TINY,
        PROMPT,
        'model(input_ids=batch["input_ids"])',
    ),
    ("prompt tuning, forward with embeddings", "提示微调，传入嵌入的前向传播", TINY, PROMPT, EMBEDS),
    ("prefix tuning, forward with embeddings", "前缀微调，传入嵌入的前向传播", TINY, PREFIX, EMBEDS),
    ("CPT, forward with embeddings", "CPT，传入嵌入的前向传播", TINY, CPT, EMBEDS),
    (
        "CPT, forward with input_type_mask",
        "CPT，传入 input_type_mask 的前向传播",
        TINY,
        CPT,
        'model(**batch, labels=batch["input_ids"], input_type_mask=torch.full_like(batch["input_ids"], 4))',
    ),
    (
        "prompt tuning, forward behind a cache",
        "提示微调，在已有缓存之后的前向传播",
        TINY,
        PROMPT,
        'model(input_ids=batch["input_ids"][:, -1:], past_key_values=model(**batch, use_cache=True).past_key_values)',
    ),
    ("POLY, forward", "POLY，前向传播", TINY, POLY, f"model(**batch, {TASKS})"),
    (
        "POLY, generate",
        "POLY，生成",
        TINY,
        POLY,
        f"model.generate(**batch, {TASKS}, max_new_tokens=2)",
    ),
    ("LoRA on MPT, forward", "MPT 上的 LoRA，前向传播", MPT, LORA, FORWARD),
    (
        "LoRA on MPT, forward with embeddings: AssertionError",
        "MPT 上的 LoRA，传入嵌入的前向传播：AssertionError",
        MPT,
        LORA,
        EMBEDS,
    ),
    ("prompt tuning on GPT-2, generate", "GPT-2 上的提示微调，生成", GPT2, PROMPT, GENERATE),
    (
        "prompt tuning, generate with a cache of fixed size",
        "提示微调，用固定大小的缓存生成",
        TINY,
        PROMPT,
        'model.generate(**batch, max_new_tokens=2, cache_implementation="static")',
    ),
    (
        "prefix tuning, generate with a cache of fixed size",
        "前缀微调，用固定大小的缓存生成",
        TINY,
        PREFIX,
        'model.generate(**batch, max_new_tokens=2, cache_implementation="static")',
    ),
    (
        "prompt tuning, generate without a cache",
        "提示微调，不用缓存生成",
        TINY,
        PROMPT,
        "model.generate(**batch, max_new_tokens=2, use_cache=False)",
    ),
    (
        "prompt tuning, generate from embeddings",
        "提示微调，从嵌入开始生成",
        TINY,
        PROMPT,
        f"model.generate(inputs_embeds={EMBED}, max_new_tokens=2)",
    ),
]


def recorded(library, setting: dict):  # -> a trace
    "Run the text of one setting. What it raises is part of the recording."
    torch.manual_seed(0)
    names = {name: getattr(library, name) for name in dir(library) if name.endswith("Config")}
    names |= dict(load_tiny=load_tiny, tiny_random=tiny_random, record=record, torch=torch)
    try:
        with torch.no_grad():
            exec(code(setting), names | dict(get_peft_model=library.get_peft_model), kept := {})
    except Exception as error:
        print(f"{library.__name__}: {setting['en']}: {type(error).__name__}: {error}", file=sys.stderr)
    return kept.get("trace")


def found() -> dict:  # condition -> outcome -> number of the first setting that has it
    ways = {}
    for number, setting in enumerate(SETTINGS):
        for library in (peft_viz, peft):
            trace = recorded(library, dict(zip(NAMES, setting)))
            for call in trace.calls:
                source = None if call.source is None else trace.sources[call.source]
                if source is None or not decides(source.function):
                    continue
                named = keys(source.text, source.function, source.first_line)
                for step in call.steps:
                    if step.branch is not None and step.line in named:
                        ways.setdefault(named[step.line], {}).setdefault(str(step.branch).lower(), number)
    return ways


def rows() -> dict:  # condition -> outcome -> the row of the map of the specification
    import specification

    out = {}
    for row in specification.ROWS:
        if row.function not in FUNCTIONS or row.outcome is None:
            continue
        lines, first = specification.source(row.where)
        key = keys("".join(lines), row.function, first).get(row.line)
        if key:
            out.setdefault(key, {}).setdefault(str(row.outcome).lower(), row.id)
    return out


def table() -> dict:
    return {
        "settings": [dict(zip(NAMES, setting)) for setting in SETTINGS],
        "ways": dict(sorted(found().items())),
        "rows": dict(sorted(rows().items())),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    warnings.filterwarnings("ignore")
    text = json.dumps(table(), ensure_ascii=False, indent=0, sort_keys=False) + "\n"
    if check and FILE.read_text(encoding="utf-8") != text:
        sys.exit(f"{FILE.name} is not what the code does today: run scripts/ways.py")
    if not check:
        FILE.write_text(text, encoding="utf-8")
