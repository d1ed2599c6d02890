"""How many steps a recording has, of ours and of peft's: what test_budget.py holds them to, and what the table of
nbs/views/04_beside.ipynb shows."""

import peft
import torch

import peft_viz
from peft_viz import load_tiny, record
from peft_viz.views.beside import steps

CLM = dict(task_type="CAUSAL_LM")
SOFT = dict(CLM, num_virtual_tokens=4)
EXAMPLES = dict(cpt_token_ids=[5, 6, 7, 8], cpt_mask=[1] * 4, cpt_tokens_type_mask=[1, 2, 3, 4])
METHODS = {  # name -> class of the configuration, its fields
    "LoRA": ("LoraConfig", CLM),
    "AdaLoRA": ("AdaLoraConfig", dict(CLM, total_step=100)),
    "IA3": ("IA3Config", CLM),
    "POLY": ("PolyConfig", dict(CLM, n_tasks=2)),
    "prompt tuning": ("PromptTuningConfig", SOFT),
    "P-tuning": ("PromptEncoderConfig", SOFT),
    "multitask prompt tuning": ("MultitaskPromptTuningConfig", dict(SOFT, num_tasks=2)),
    "prefix tuning": ("PrefixTuningConfig", SOFT),
    "CPT": ("CPTConfig", dict(CLM, **EXAMPLES)),
}
PHASES = ("forward", "prefill", "decoding step")


def traces(package, method):
    """(Recording of a forward, recording of a `generate` of three tokens), on the embedded model and a padded batch of
    two rows, with the package's default settings."""
    cls, fields = METHODS[method]
    base, tokenizer = load_tiny()
    torch.manual_seed(0)
    model = package.get_peft_model(base, getattr(package, cls)(**fields))
    batch = tokenizer(["abc", "hello"], padding=True, return_tensors="pt")
    tasks = dict(task_ids=torch.tensor([0, 1])) if method in ("POLY", "multitask prompt tuning") else {}
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    with record(model, tokenizer) as forward:
        model(**batch, labels=labels, **tasks)
    with record(model, tokenizer) as generate:
        model.generate(**batch, min_new_tokens=3, max_new_tokens=3, do_sample=False, **tasks)
    return forward, generate


def measured(package, method):
    """Phase -> steps. Methods that change layers have a forward alone: peft's `generate` asks nothing of them, so
    there is nothing to compare with."""
    forward, generate = traces(package, method)
    prepare = [c for c in generate.calls if c.function.endswith(".prepare_inputs_for_generation")]
    counted = {"forward": steps(forward, forward.roots[0])}
    if method not in ("LoRA", "AdaLoRA", "IA3", "POLY"):
        counted |= {"prefill": steps(generate, prepare[0]), "decoding step": steps(generate, prepare[1])}
    return counted


def table():
    "Markdown: for each method and phase, the steps of ours and of peft's."
    rows = ["| | " + " | ".join(f"{phase}: peft | here" for phase in PHASES) + " |", "|---|" + "--:|" * 6]
    for method in METHODS:
        theirs, ours = measured(peft, method), measured(peft_viz, method)
        cells = [str(side.get(phase, "–")) for phase in PHASES for side in (theirs, ours)]
        rows.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(rows)
