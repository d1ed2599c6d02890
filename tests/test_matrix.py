"The invariant matrix of `peft_viz`: every invariant holds for every family and method, apart from cells with a reason; and every invariant can fail."
from contextlib import nullcontext
from fnmatch import fnmatch

import pytest
import torch

import families
import matrix
from matrix import BASE, INVARIANTS, Subject
from parity import INJECTED, PROMPTS

# What is refused or impossible: family, method, invariant -> why.
LISTED = {
    **{("mpt", method, "embeddings"): "the specification's MPT branch refuses inputs_embeds" for method in INJECTED},
    **{(family, "prefix*", "*"): "transformers 4 keeps its cache in a class of its own" for family in ("qwen3_next", "lfm2") if not families.V5},
}
# What the base model alone cannot do in transformers 4: family, invariant.
EXCUSED = {("qwen3_next", "continue"), ("lfm2", "beams"), ("lfm2", "left padding*"), ("lfm2", "continue"), ("deepseek_v3", "*static cache")}


@pytest.fixture(autouse=True)
def quiet_and_single():
    threads = torch.get_num_threads()
    matrix.quiet()
    yield
    torch.set_num_threads(threads)


def listed(*cell):
    return any(all(map(fnmatch, cell, pattern)) for pattern in LISTED)


@pytest.mark.parametrize("method", matrix.METHODS)
@pytest.mark.parametrize("family", matrix.FAMILIES)
def test_every_invariant_holds(family, method):
    cells = {name: reason for name, reason in matrix.measure("ours", family, method).items() if not reason.startswith(BASE)}
    unexpected = {name: reason for name, reason in cells.items() if bool(reason) != listed(family, method, name)}
    assert not unexpected, "\n".join(f"{name}: {reason or 'holds, though it is listed'}" for name, reason in unexpected.items())


def test_the_base_model_excuses_little():
    "A cell that the base model decides says nothing about adapters."
    excused = {(family, name): reason for family in matrix.FAMILIES for name, reason in matrix.by_base(family).items()}
    unexpected = {cell: reason for cell, reason in excused.items() if families.V5 or not any(all(map(fnmatch, cell, pattern)) for pattern in EXCUSED)}
    assert not unexpected


@pytest.mark.parametrize("family", matrix.FAMILIES)
def test_texts_vary(family):
    "Or the invariants of `generate` would compare constants."
    text = Subject("base", family).text()[:, 7:]
    assert len(text.unique()) > 4 and not torch.equal(text[0], text[1])


def test_the_patterns_of_listed_cells_match_something():
    cells = [(family, method, name) for family in matrix.FAMILIES for method in [*INJECTED, *PROMPTS] for name in INVARIANTS]
    for pattern in LISTED:
        assert any(all(map(fnmatch, cell, pattern)) for cell in cells), pattern


# --- every invariant can fail ----------------------------------------------------------------------------------

def on_call(change):
    "Change what the base model's forward is told."
    def spoil(s):
        s.base.register_forward_pre_hook(lambda module, args, kwargs: (args, change(dict(kwargs))), with_kwargs=True)
    return spoil


def on_generate(change):
    "Change what `generate` is told."
    def spoil(s):
        generate = s.model.generate
        s.model.generate = lambda *args, **kwargs: generate(*args, **change(kwargs))
    return spoil


def on_logits(change):
    "Change what the base model's forward answers."
    def spoil(s):
        s.base.register_forward_hook(lambda module, args, kwargs, output: change(output, kwargs), with_kwargs=True)
    return spoil


def _noise(output, kwargs):
    output.logits = output.logits + torch.randn_like(output.logits)
    return output


def _another_if_alone(output, kwargs):
    output.logits = output.logits.flip(-1) if len(output.logits) == 1 else output.logits
    return output


def _shift_by_length(output, kwargs):
    "A loss that padding changes."
    if output.loss is not None:
        output.loss = output.loss + output.logits.shape[1]
    return output


def _reverse_where(condition):
    def change(output, kwargs):
        output.logits = output.logits.flip(-1) if condition(kwargs) else output.logits
        return output
    return on_logits(change)


def _shorter(kwargs):
    return {**kwargs, "max_new_tokens": kwargs["max_new_tokens"] - 1}


def _without(name):
    return lambda kwargs: {key: value for key, value in kwargs.items() if key != name}


def _thaw(s):
    next(s.base.parameters()).requires_grad_(True)


def _drop_positional(s):
    generate = s.model.generate
    s.model.generate = lambda *args, **kwargs: generate(**{"input_ids": torch.full((3, 7), 5), **kwargs})


def _no_switch(s):
    s.model.disable_adapter = nullcontext


def _save_less(s):
    save = s.model.save_pretrained

    def spoilt(folder):
        with torch.no_grad():
            for parameter in s.model.parameters():
                if parameter.requires_grad:
                    parameter.mul_(0.5)
            save(folder)
            for parameter in s.model.parameters():
                if parameter.requires_grad:
                    parameter.mul_(2)
    s.model.save_pretrained = spoilt


def _changes_the_mask(s):
    forward = s.model.forward

    def spoilt(*args, attention_mask=None, **kwargs):
        if attention_mask is not None:
            attention_mask += 1
        return forward(*args, attention_mask=attention_mask, **kwargs)
    s.model.forward = spoilt


def _keeps_something(s):
    generate = s.model.generate

    def spoilt(*args, **kwargs):
        try:
            return generate(*args, **kwargs)
        except BaseException:
            s.base.left_behind = True
            raise
    s.model.generate = spoilt


SPOILT = {
    "train": _thaw,
    "greedy": on_generate(_shorter),
    "positional": _drop_positional,
    "argmax": on_logits(_noise),
    "no cache": _reverse_where(lambda kwargs: kwargs.get("use_cache") is False),
    "static cache": _reverse_where(lambda kwargs: type(kwargs.get("past_key_values")).__name__ == "StaticCache"),
    "beams": _reverse_where(lambda kwargs: kwargs["input_ids"].shape[0] == 9),
    "left padding, logits": on_call(_without("position_ids")),
    "left padding, generate": on_call(_without("attention_mask")),
    "left padding, static cache": on_call(_without("attention_mask")),
    "right padding, loss": on_logits(_shift_by_length),
    "batch": on_logits(_another_if_alone),
    "embeddings": _reverse_where(lambda kwargs: kwargs.get("inputs_embeds") is not None),
    "no mask": _reverse_where(lambda kwargs: kwargs.get("attention_mask") is not None),
    "disable": _no_switch,
    "save and load": _save_less,
    "untouched": _changes_the_mask,
    "restored": _keeps_something,
    "continue": _reverse_where(lambda kwargs: kwargs["input_ids"].shape[1] == 3 and kwargs["past_key_values"] is not None),  # three new tokens: the last one and another turn
}


@pytest.mark.parametrize("name", INVARIANTS)
def test_can_fail(name):
    "A model broken on purpose breaks the invariant."
    assert matrix.broken(INVARIANTS[name], Subject("ours", "gpt2", "lora")) == ""
    subject = Subject("ours", "gpt2", "lora")
    SPOILT[name](subject)
    assert "AssertionError" in matrix.broken(INVARIANTS[name], subject)
