"""The invariant matrix: what must hold for a language model with an adapter whatever the family and the method,
measured on `peft_viz`, on Hugging Face peft, and on the base model alone.

    python tests/matrix.py [--families gpt2 llama] [--methods lora prefix] [--implementations ours peft] [--json
    FILE] [--store] [-v]

What was measured stands in matrix.json, a lane for each generation of transformers: `make matrix` writes it,
test_matrix.py measures again and compares, and nbs/reference/51_matrix.ipynb shows it.

Weights are random, of adapters too, and so large that texts depend on every token and on the adapter. Where the
base model alone breaks an invariant, the cell says so and counts for nobody. An invariant is a function of a
`Subject`, a model with its three rows of text; it raises where it does not hold."""

import argparse
import copy
import inspect
import json
import os
import re
import sys
import tempfile
import time
import warnings
from functools import lru_cache
from pathlib import Path
from unittest.mock import patch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
import transformers

import families
import parity
import small
import peft_viz.reference.causal_lm as ours
import peft_viz.reference.config as our_config
from parity import peft
from peft_viz.reference.model import PeftModel

BASE = "base: "  # how a cell begins that the base model decides
FAMILIES = (
    "gpt2",
    "llama",
    "mpt",
    "opt",
    "bloom",
    "gpt_neox",  # of the facts measured at the beginning
    "mistral",
    "gemma2",
    "gemma3_text",  # windows shorter than the text, in all layers or in some
    "qwen3_next",
    "lfm2",  # linear attention, short convolutions
    "falcon",
    "phi",
    "cohere",
    "mixtral",
    "deepseek_v3",
)  # multi-query, partial rotary, parallel block, experts, latent attention
METHODS = [method for method in parity.METHODS if method not in ("lora-dora", "cpt-decay")]
TWO, UNTIED = (
    dict(num_hidden_layers=2),
    dict(tie_word_embeddings=False),
)  # untied where embeddings outweigh the layers, and a tied model repeats its last token
CHANGES = {  # of the tiny configurations
    "gpt2": dict(n_layer=2),
    "mpt": dict(n_layers=2),
    "llama": dict(TWO, num_key_value_heads=2),
    **dict.fromkeys(("opt", "gpt_neox", "phi", "cohere", "mixtral"), TWO),
    "mistral": dict(TWO, sliding_window=6),
    "gemma2": dict(UNTIED, sliding_window=6),
    "gemma3_text": dict(UNTIED, sliding_window=6),
    "qwen3_next": dict(TWO, layer_types=["linear_attention", "full_attention"]),  # a linear layer takes long
    "deepseek_v3": dict(TWO, first_k_dense_replace=1),
    "bloom": UNTIED,
    "falcon": dict(TWO, **UNTIED),
}
SCALES = {
    "ia3_": 0.4,
    "lora_E": 1.0,
    "lora_": 0.4,
    "poly_": 0.5,
    "prompt_encoder": 0.5,
}  # of adapter weights, by the first part that is in the name
MULTIPLY = "ia3_", "magnitude"  # weights that something is multiplied with: near one
LEFT_OUT = 3, 1, 0  # tokens that a row lacks where rows differ in length
NEW = 5  # tokens to generate
RESULTS = Path(__file__).with_name("matrix.json")
LANE = f"transformers {transformers.__version__.partition('.')[0]}"
IMPLEMENTATIONS = "ours", "peft"


# --- subjects --------------------------------------------------------------------------------------------------


@lru_cache(maxsize=None)
def copied_base(family):
    "A function that gives a copy of `base_model`."
    return small.copies(base_model(family))


@lru_cache(maxsize=None)
def base_model(family):
    """A small base model, its matrices drawn anew: as wide as keeps variances, and embeddings small beside what
    the layers add.

    So texts vary, and every token counts."""
    model = families.tiny_model(family, **CHANGES.get(family, {}))
    model.generation_config.eos_token_id = None  # texts of full length
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    generator = torch.Generator().manual_seed(7)  # of the first eight, the one with the most different texts
    for parameter in model.parameters():
        if parameter.dim() > 1:
            scale = 0.3 if id(parameter) in embeddings else 1.5 / parameter.shape[-1] ** 0.5
            parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    return model


def draw_adapter(model, seed=2):
    "Adapter weights that are nobody's initialisation, the same for ours and for peft."
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        scale = next((scale for part, scale in SCALES.items() if part in name), None)
        if scale is not None:
            parameter.data = scale * torch.randn(parameter.shape, generator=generator) + any(
                part in name for part in MULTIPLY
            )
    return model


def corrected(function):
    "Positions as they should be is something to ask for, and peft cannot be asked."
    return (
        dict(corrected_positions=True)
        if "corrected_positions" in inspect.signature(function).parameters
        else {}
    )


def wrap_ours(base, method):
    return draw_adapter(
        ours.get_peft_model(base, parity.config(our_config, method), **corrected(ours.get_peft_model))
    )


def wrap_peft(base, method):
    return draw_adapter(peft.get_peft_model(base, parity.config(peft, method)))


WRAP = {"ours": wrap_ours, "peft": wrap_peft, "base": lambda base, method: base}
LOAD = {
    "ours": lambda base, folder: PeftModel.from_pretrained(
        base, folder, **corrected(PeftModel.from_pretrained)
    ),
    "peft": lambda base, folder: peft.PeftModel.from_pretrained(base, folder),
}


class Subject:
    "A model, three rows of seven tokens, and how to call it."

    def __init__(self, implementation, family, method=None):
        self.implementation, self.family, self.method = implementation, family, method
        self.plain = base_model(family)  # nobody's: only to compare with
        self.model = WRAP[implementation](copied_base(family)(), method).eval()
        self.base = self.model if implementation == "base" else self.model.get_base_model()
        self.ids = torch.randint(3, 61, (3, 7), generator=torch.Generator().manual_seed(3))
        self.takes_positions = "position_ids" in inspect.signature(self.plain.forward).parameters
        self.known = {}

    def extra(self, rows=slice(None)):
        return parity.extra(self.method) and dict(task_ids=parity.TASKS[rows].clone())

    def forward(self, ids=None, rows=slice(None), **kwargs):
        given = {} if ids is None else dict(input_ids=ids)
        return self.model(**given, **self.extra(rows), **kwargs)

    def logits(self, ids=None, rows=slice(None), last=None, **kwargs):
        "Of the real tokens, which come last; `last`: of so many of them."
        with torch.no_grad():
            return self.forward(ids, rows, **kwargs).logits[:, -(last or self.ids.shape[1]) :]

    def generate(self, *args, rows=slice(None), **kwargs):
        return self.model.generate(*args, **{**parity.GREEDY, **self.extra(rows), **kwargs})

    def once(self, key, make):
        if key not in self.known:
            self.known[key] = make()
        return self.known[key]

    def text(self):
        return self.once("text", lambda: self.generate(input_ids=self.ids))

    def whole(self):
        return self.once("whole", lambda: self.logits(self.ids))

    def alone(self, i):
        "The row by itself, without the tokens it lacks."
        return self.ids[i : i + 1, LEFT_OUT[i] :]

    def text_alone(self, i):
        return self.once(i, lambda: self.generate(input_ids=self.alone(i), rows=[i]))


def padded(ids, side):
    "Rows of different lengths, and what says so: ids and mask, [3, 7]."
    mask = torch.ones_like(ids)
    for i, n in enumerate(LEFT_OUT):
        mask[i, slice(n) if side == "left" else slice(ids.shape[1] - n, None)] = 0
    return ids.masked_fill(mask == 0, 0), mask


def positions(subject, mask):
    "As `generate` counts them, for models that can be told."
    return dict(position_ids=(mask.cumsum(-1) - 1).clamp(min=0)) if subject.takes_positions else {}


def same_text(a, b, what="text"):
    assert a.shape == b.shape, f"{what}: {list(a.shape)} instead of {list(b.shape)}"
    assert torch.equal(a, b), f"{what}: {(a != b).sum().item()} of {a.numel()} tokens differ"


def close(a, b, what="logits"):
    assert a.shape == b.shape, f"{what}: {list(a.shape)} instead of {list(b.shape)}"
    difference, scale = (a - b).abs().max().item(), max(1, b.abs().max().item())
    assert difference <= 1e-4 * scale, (
        f"{what} differ by {difference:.2g}, the largest is {scale:.2g}"
    )  # not a number is not close


# --- invariants ------------------------------------------------------------------------------------------------


def train(s):
    "Forward, loss and backward; what is trained has gradients, and nothing else."
    s.model.train()
    try:
        loss = s.forward(s.ids, labels=s.ids.clone()).loss
        loss.backward()
        assert loss.isfinite(), f"loss {loss}"
        grads = {
            name: parameter.grad for name, parameter in s.model.named_parameters() if parameter.requires_grad
        }
        strangers = [name for name in grads if s.method and not any(part in name for part in SCALES)]
        assert grads and not strangers, f"trained beside the adapter: {strangers[:1]}"
        without = [
            name
            for name, grad in grads.items()
            if s.method and (grad is None or not grad.isfinite().all() or not grad.any())
        ]
        assert not without, f"no gradients: {len(without)} of {len(grads)}, as {without[0]}"
        frozen = [
            name
            for name, parameter in s.model.named_parameters()
            if not parameter.requires_grad and parameter.grad is not None
        ]
        assert not frozen, f"gradients of frozen weights, as {frozen[0]}"
    finally:
        s.model.zero_grad()
        s.model.eval()


def greedy(s):
    text = s.text()
    assert text.shape == (3, 7 + NEW), f"text: {list(text.shape)}"
    same_text(text[:, :7], s.ids, "the beginning")


def positional(s):
    same_text(s.generate(s.ids), s.text())


def argmax(s):
    text = s.text()
    same_text(s.logits(text[:, :-1], last=NEW).argmax(-1), text[:, -NEW:])


def no_cache(s):
    same_text(s.generate(input_ids=s.ids, use_cache=False), s.text())


def static_cache(s):
    for time_ in "first", "second":  # transformers keeps the cache for the next call
        same_text(s.generate(input_ids=s.ids, cache_implementation="static"), s.text(), f"{time_} time: text")


def beams(s):
    together = s.generate(input_ids=s.ids, num_beams=3)
    for i in range(3):
        same_text(
            together[i : i + 1], s.generate(input_ids=s.ids[i : i + 1], rows=[i], num_beams=3), f"row {i}"
        )


def left_padding_logits(s):
    ids, mask = padded(s.ids, "left")
    together = s.logits(ids, attention_mask=mask, **positions(s, mask))
    for i in range(3):
        n = s.alone(i).shape[1]
        close(together[i : i + 1, -n:], s.logits(s.alone(i), rows=[i], last=n), f"logits of row {i}")


def left_padding(s, **kwargs):
    ids, mask = padded(s.ids, "left")
    together = s.generate(input_ids=ids, attention_mask=mask, **kwargs)
    for i in range(3):
        same_text(together[i : i + 1, -NEW:], s.text_alone(i)[:, -NEW:], f"row {i}")


def left_padding_static(s):
    vars(s.base).pop("_cache", None)  # what `static_cache` left behind, where it failed
    left_padding(s, cache_implementation="static")


def _loss(s, ids, mask=None, rows=slice(None)):
    labels = ids.clone() if mask is None else ids.masked_fill(mask == 0, -100)
    with torch.no_grad():
        return s.forward(ids, rows, labels=labels, **({} if mask is None else dict(attention_mask=mask))).loss


def right_padding_loss(s):
    ids, mask = padded(s.ids, "right")
    for i, n in enumerate(LEFT_OUT):
        close(
            _loss(s, ids[i : i + 1], mask[i : i + 1], [i]),
            _loss(s, ids[i : i + 1, : 7 - n], rows=[i]),
            f"loss of row {i}",
        )
    more = [torch.nn.functional.pad(tensor, (0, 3)) for tensor in (ids, mask)]
    close(_loss(s, *more), _loss(s, ids, mask), "loss of the batch")


def batch(s):
    for i in range(3):
        close(s.logits(s.ids[i : i + 1], rows=[i]), s.whole()[i : i + 1], f"logits of row {i}")
        same_text(s.generate(input_ids=s.ids[i : i + 1], rows=[i]), s.text()[i : i + 1], f"row {i}")


def embeddings(s):
    embeds = s.plain.get_input_embeddings()(s.ids).detach()
    close(s.logits(inputs_embeds=embeds), s.whole())
    if (
        "inputs_embeds" in inspect.signature(s.plain.prepare_inputs_for_generation).parameters
    ):  # what transformers asks before it generates from them
        same_text(s.generate(inputs_embeds=embeds), s.text()[:, 7:])


def no_mask(s):
    ones = torch.ones_like(s.ids)
    close(s.logits(s.ids, attention_mask=ones), s.whole())
    same_text(s.generate(input_ids=s.ids, attention_mask=ones), s.text())


def disable(s):
    with torch.no_grad():
        expected = s.plain(input_ids=s.ids).logits
    assert (expected - s.whole()).abs().max() > 0.01 * expected.abs().max(), "the adapter changes nothing"
    with s.model.disable_adapter():
        close(s.logits(s.ids), expected)
        same_text(
            s.model.generate(input_ids=s.ids, **parity.GREEDY), plain_text(s)
        )  # no task ids: they are none of the base model's
    close(s.logits(s.ids), s.whole(), "afterwards: logits")


def plain_text(s):
    return s.once("plain text", lambda: s.plain.generate(input_ids=s.ids, **parity.GREEDY))


def save_and_load(s):
    with tempfile.TemporaryDirectory() as folder:
        s.model.save_pretrained(folder)
        loaded = LOAD[s.implementation](copied_base(s.family)(), folder)
    with patch.object(s, "model", loaded.eval()):
        again = s.logits(s.ids)
    close(again, s.whole())


def untouched(s):
    "Tensors and configurations of whoever calls."
    mask = padded(s.ids, "left")[1]
    given = dict(s.extra(), input_ids=s.ids.clone(), attention_mask=mask)
    told = dict(
        given,
        **positions(s, mask),
        labels=s.ids.clone(),
        **(dict(input_type_mask=torch.arange(21).view(3, 7) % 4 + 1) if s.method == "cpt" else {}),
    )
    embedded = {name: value for name, value in told.items() if name != "input_ids"} | dict(
        inputs_embeds=s.plain.get_input_embeddings()(s.ids).detach()
    )
    calls = [(s.model, told), (s.model.generate, given)] + [(s.model, embedded)] * (
        s.family != "mpt" or s.method in parity.PROMPTS
    )  # MPT with changed layers takes no embeddings
    for call, tensors in calls:
        _leaves_alone(s, call, tensors)


def _configs(s):
    adapters = (
        {name: copy.deepcopy(vars(config)) for name, config in getattr(s.model, "peft_config", {}).items()}
        if s.method
        else {}
    )
    return s.base.config.to_dict(), s.base.generation_config.to_dict(), adapters


def _leaves_alone(s, call, tensors):
    before, configs = {name: value.clone() for name, value in tensors.items()}, _configs(s)
    with torch.no_grad():
        call(**tensors, **(parity.GREEDY if call == s.model.generate else {}))
    changed = [name for name, value in before.items() if not torch.equal(value, tensors[name])]
    assert not changed, f"{', '.join(changed)} of the caller changed"
    assert _configs(s) == configs, "a configuration changed"


class OnPurpose(Exception):
    pass


def restored(s):
    "After an exception in `generate` the base model is as before it, and so is the model."
    texts = s.text(), plain_text(s)
    before, state = _lent(s.base), dict(vars(s.base))
    try:
        for error in OnPurpose, KeyboardInterrupt:
            _interrupt(s, error)
            assert _lent(s.base) == before, f"the base model is not as before {error.__name__}"
            _still(s, *texts)
    finally:  # other invariants come after this one
        vars(s.base).clear()
        vars(s.base).update(state)


def _lent(base):
    return base.prepare_inputs_for_generation, id(base.generation_config), set(vars(base))


def _still(s, text, plain):
    same_text(s.generate(input_ids=s.ids), text, "afterwards: text")
    with s.model.disable_adapter():
        same_text(s.base.generate(input_ids=s.ids, **parity.GREEDY), plain, "the base model's text")
    if s.method in parity.PROMPTS:
        same_text(
            s.base.generate(input_ids=s.ids, **parity.GREEDY),
            plain,
            "the base model's text without disable_adapter",
        )


def _interrupt(s, error):
    "An exception in the base model's second call."
    calls = []

    def hook(module, args):
        calls.append(args)
        if len(calls) == 2:
            raise error("on purpose")

    handle = s.base.register_forward_pre_hook(hook)
    try:
        s.generate(input_ids=s.ids)
    except error:
        return
    finally:
        handle.remove()
    raise AssertionError(f"{error.__name__} did not come out of generate")


def continues(s):
    """From the cache that `generate` returned, with the whole text: where it stopped, and with another turn of
    two tokens."""
    for turn, expected in (s.ids[:, :0], s.text()), (s.ids[:, :2], None):
        first = s.generate(input_ids=s.ids, max_new_tokens=3, return_dict_in_generate=True)
        ids = torch.cat((first.sequences, turn), dim=1)
        new = dict(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW - 3)
        more = s.generate(**new, past_key_values=first.past_key_values)
        same_text(
            more,
            s.generate(**new) if expected is None else expected,
            f"after {turn.shape[1]} more tokens: text",
        )


INVARIANTS = {
    "train": train,
    "greedy": greedy,
    "positional": positional,
    "argmax": argmax,
    "no cache": no_cache,
    "static cache": static_cache,
    "beams": beams,
    "left padding, logits": left_padding_logits,
    "left padding, generate": left_padding,
    "left padding, static cache": left_padding_static,
    "right padding, loss": right_padding_loss,
    "batch": batch,
    "embeddings": embeddings,
    "no mask": no_mask,
    "disable": disable,
    "save and load": save_and_load,
    "untouched": untouched,
    "restored": restored,
    "continue": continues,
}
ABOUT_ADAPTERS = "disable", "save and load", "restored"  # nothing to ask the base model


# --- measuring -------------------------------------------------------------------------------------------------


def one_line(error):
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:300]


def plain(reason):
    "Without the numbers, which differ from cell to cell, and not too long."
    reason = re.sub(r"(?<![\w.])-?\d[\d.]*(e-?\d+)?(?!\w)", "#", reason)
    return reason if len(reason) < 160 else reason[:160].rpartition(" ")[0] + " …"


def broken(invariant, subject):
    "'' where it holds, else why not."
    try:
        invariant(subject)
    except Exception as error:
        return one_line(error)
    return ""


@lru_cache(maxsize=None)
def by_base(family):
    "What the base model breaks by itself, and how."
    try:
        subject = Subject("base", family)
    except Exception as error:
        return dict.fromkeys(INVARIANTS, BASE + one_line(error))
    reasons = {
        name: broken(invariant, subject)
        for name, invariant in INVARIANTS.items()
        if name not in ABOUT_ADAPTERS
    }
    return {name: BASE + reason for name, reason in reasons.items() if reason}


def measure(implementation, family, method):
    "Invariant -> '' where it holds, else one line why not; it begins with `BASE` where the base model alone breaks it."
    try:
        subject = Subject(implementation, family, method)
    except Exception as error:
        return {name: by_base(family).get(name, one_line(error)) for name in INVARIANTS}
    return {
        name: by_base(family).get(name) or broken(invariant, subject)
        for name, invariant in INVARIANTS.items()
    }


def matrix(implementation, families=FAMILIES, methods=METHODS):
    "All cells, with a line for each family on stderr."
    cells = {}
    for i, family in enumerate(families, 1):
        start = time.perf_counter()
        cells |= {(family, method): measure(implementation, family, method) for method in methods}
        print(
            f"  {LANE}, {implementation}: {i:2}/{len(families)} {family:12} {time.perf_counter() - start:5.1f} s",
            file=sys.stderr,
            flush=True,
        )
    return cells


def count(cells, invariant):
    "Holds, measured, and left to the base model."
    reasons = [cell[invariant] for cell in cells.values()]
    by_base_model = sum(reason.startswith(BASE) for reason in reasons)
    return reasons.count(""), len(reasons) - by_base_model, by_base_model


def table(results):
    yield "".join([f"{'invariant':28}", *(f"{name:>12}{'(base)':>8}" for name in results)])
    totals = {name: [0, 0, 0] for name in results}
    for invariant in INVARIANTS:
        line = f"{invariant:28}"
        for name, cells in results.items():
            holds, of, base = count(cells, invariant)
            totals[name] = [a + b for a, b in zip(totals[name], (holds, of, base))]
            line += f"{f'{holds}/{of}':>12}{base or '':>8}"
        yield line
    yield f"{'all':28}" + "".join(
        f"{f'{holds}/{of}':>12}{base or '':>8}" for holds, of, base in totals.values()
    )


def failures(cells):
    "Each reason once, numbers left out: with how many cells, and which."
    by_reason = {}
    for (family, method), cell in cells.items():
        reasons = {reason for reason in cell.values() if not reason.startswith(BASE)}
        refused = len(reasons) == 1 and "" not in reasons  # one reason for all: the model was not even made
        for invariant, reason in {"all": reasons.pop()}.items() if refused else cell.items():
            if reason:
                by_reason.setdefault((invariant, plain(reason)), []).append(f"{family}/{method}")
    for (invariant, reason), where in sorted(
        by_reason.items(), key=lambda item: ["all", *INVARIANTS].index(item[0][0])
    ):
        yield f"  {invariant}: {reason}\n      {len(where)}: {' '.join(where)}"


# --- what was measured, in a file ------------------------------------------------------------------------------


def versions():
    return {module.__name__: module.__version__.partition("+")[0] for module in (torch, transformers, peft)}


def kind(reason):
    "What matters of a cell's invariant: does it hold, does it fail, or is it the base model's?"
    return "base" if reason.startswith(BASE) else "fails" if reason else "holds"


def pack(results):
    """Implementation -> (family, method) -> invariant -> reason, as a lane of the file: of each cell what does
    not hold, and the number of the reason; one number where nothing holds for one reason."""
    reasons = sorted(
        {
            plain(reason)
            for cells in results.values()
            for cell in cells.values()
            for reason in cell.values()
            if reason
        }
    )
    number = {reason: i for i, reason in enumerate(reasons)}
    lane = dict(versions=versions(), reasons=reasons, cells={})
    for implementation, cells in results.items():
        for (family, method), cell in cells.items():
            found = {name: number[plain(reason)] for name, reason in cell.items() if reason}
            refused = len(found) == len(INVARIANTS) and len(set(found.values())) == 1
            lane["cells"].setdefault(implementation, {}).setdefault(family, {})[method] = (
                found.popitem()[1] if refused else found
            )
    return lane


def unpack(lane):
    "What `pack` was given, the reasons without numbers."
    reasons = lane["reasons"]

    def cell(found):
        found = dict.fromkeys(INVARIANTS, found) if isinstance(found, int) else found
        return {name: reasons[found[name]] if name in found else "" for name in INVARIANTS}

    return {
        implementation: {
            (family, method): cell(found) for family, row in rows.items() for method, found in row.items()
        }
        for implementation, rows in lane["cells"].items()
    }


def stored(path=RESULTS):
    "Lane -> its part of the file, the newest first; none where there is no file yet."
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def store(results, path=RESULTS):
    "Write this lane, and leave the other as it is. A line for each cell, so that a change is a short one."
    lanes = dict(sorted({**stored(path), LANE: pack(results)}.items(), reverse=True))
    path.write_text(_short(lanes) + "\n", encoding="utf-8")


def _short(value, depth=0):
    "JSON, broken into lines down to a cell."
    indent = "\n" + " " * (depth + 1)
    if isinstance(value, list):
        return "[" + ",".join(indent + _dumps(item) for item in value) + "]"
    if isinstance(value, dict) and depth < 5:
        return (
            "{"
            + ",".join(f"{indent}{_dumps(key)}: {_short(item, depth + 1)}" for key, item in value.items())
            + "}"
        )
    return _dumps(value)


def _dumps(value):
    return json.dumps(value, ensure_ascii=False)


def quiet():
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--families",
        nargs="+",
        default=FAMILIES,
        choices=families.FAMILIES,
        metavar="FAMILY",
        help="any of tests/families.py",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=METHODS,
        choices=list(parity.METHODS),
        metavar="METHOD",
        help=", ".join(parity.METHODS),
    )
    parser.add_argument("--implementations", nargs="+", default=IMPLEMENTATIONS, choices=IMPLEMENTATIONS)
    parser.add_argument("--json", help="write all cells to this file")
    parser.add_argument(
        "--store", action="store_true", help=f"write all cells to this lane of {RESULTS.name}"
    )
    parser.add_argument("-v", action="store_true", help="list what does not hold, and why")
    args = parser.parse_args(arguments)
    if args.store and (args.families, args.methods, args.implementations) != (
        FAMILIES,
        METHODS,
        IMPLEMENTATIONS,
    ):
        parser.error("--store needs the whole matrix")
    quiet()
    results, seconds = {}, {}
    for name in args.implementations:
        start = time.perf_counter()
        results[name] = matrix(name, args.families, args.methods)
        seconds[name] = time.perf_counter() - start
    print(*table(results), sep="\n")
    print(
        ", ".join(f"{name}: {s:.0f} s" for name, s in seconds.items()),
        f"(transformers {transformers.__version__}, peft {peft.__version__})",
    )
    if args.v:
        for name, cells in results.items():
            print(f"\n{name}", *failures(cells), sep="\n")
    if args.store:
        store(results)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(
                {
                    name: {f"{family}/{method}": cell for (family, method), cell in cells.items()}
                    for name, cells in results.items()
                },
                file,
                indent=1,
            )


if __name__ == "__main__":
    sys.exit(main())
