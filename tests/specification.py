"""The map of the specification: one row for each way a decision of the specification can go.

A row says when, which line of the reference decides it, which test reaches that line with that outcome, and how
to make a recording that takes that way. Line numbers are found, never typed. nbs/60_specification.ipynb draws
the rows (with specification_page.py), test_specification.py checks them."""

import importlib, inspect, warnings
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Callable

import torch
import transformers
from transformers import DynamicCache
from transformers.utils import logging

import peft_viz
from peft_viz import causal_lm
from peft_viz.causal_lm import get_peft_model, PeftModelForCausalLM
from peft_viz.config import CPTConfig, get_peft_config
from peft_viz.model import PeftModel
from peft_viz.models import tiny_random
from peft_viz.recording.calls import Visit, Watched
from peft_viz.recording.doors import visited
from peft_viz.recording.recorder import record, Recorder
from peft_viz.recording.watch import statements
from peft_viz.trace import Trace

HOME = Path(peft_viz.__file__).parent
ERA_4 = transformers.__version__.startswith("4.")  # there, generate says where it is with `cache_position`


# ---- a row, and where its line stands -------------------------------------------------------------------------


@dataclass
class Row:
    section: str  # of the specification
    when: str  # the condition, in words
    code: str  # the specification's own condition
    where: str  # module and function that decide it here
    line: str  # a piece of the line that does, found exactly once in that function
    outcome: bool | None  # of an `if`; None: the line is reached
    test: str  # the test that comes by with this outcome
    take: Callable[[], Trace]  # makes a recording that takes this way
    here: str = ""  # what this reference does otherwise, and why
    also: tuple = ()  # more (piece of a line, outcome) that the recording and the test take with it
    ends: str | None = None  # the name of the exception that the deciding call ends with
    shows: Callable = lambda seen: True  # a question to the values that were measured there
    number: int = 0  # within its section

    @property
    def id(self):
        return f"{self.section.replace(' ', '-').strip('_')}-{self.number}".lower()

    @property
    def decisions(self):
        return [
            (number, outcome)
            for (_, number), (_, outcome) in zip(self.places(), [(self.line, self.outcome), *self.also])
        ]

    def places(self):
        return [find(self.where, line) for line in (self.line, *(line for line, _ in self.also))]

    @property
    def number_of_line(self):
        return self.places()[0][1]


@lru_cache
def function(where: str):
    "`causal_lm:PeftModelForCausalLM.forward` -> the function itself."
    module, _, name = where.partition(":")
    return inspect.unwrap(attrgetter(name)(importlib.import_module(f"peft_viz.{module}")))


@lru_cache
def source(where: str):  # the lines of a function, and the number of the first
    return inspect.getsourcelines(function(where))


@lru_cache
def find(where: str, piece: str):  # (file inside the package, line number of the statement)
    "Where a piece of a line stands; LookupError unless it stands exactly once in the function."
    lines, first = source(where)
    numbers = [first + i for i, line in enumerate(lines) if piece in line]
    if len(numbers) != 1:
        raise LookupError(
            f"{piece!r} stands {len(numbers)} times in {where}, not "
            "once: the row of the map needs another piece of the line"
        )
    return where.partition(":")[0].replace(".", "/") + ".py", statements("".join(lines), first).get(
        numbers[0], numbers[0]
    )


# ---- recordings -----------------------------------------------------------------------------------------------

PAD, V = 0, 3  # padding; virtual tokens
IDS = torch.tensor([[PAD, PAD, 5, 6, 7], [8, 9, 10, 11, 12]])
MASK = (IDS != PAD).long()
LABELS = IDS.masked_fill(IDS == PAD, -100)
TASKS = torch.tensor([1, 0])
TYPES = torch.tensor([[0, 0, 1, 2, 4], [1, 2, 3, 4, 4]])
CPT = dict(cpt_token_ids=[11, 12, 13], cpt_tokens_type_mask=[1, 2, 4])

METHODS = {
    "lora": dict(peft_type="LORA", r=2),
    "poly": dict(peft_type="POLY", r=2, n_tasks=2, n_skills=2),
    "prompt": dict(peft_type="PROMPT_TUNING", num_virtual_tokens=V),
    "multitask": dict(peft_type="MULTITASK_PROMPT_TUNING", num_virtual_tokens=V, num_tasks=2),
    "prefix": dict(peft_type="PREFIX_TUNING", num_virtual_tokens=V),
    "cpt": dict(peft_type="CPT", **CPT),
    "cpt-decay": dict(peft_type="CPT", opt_weighted_loss_type="decay", opt_loss_decay_factor=0.5, **CPT),
}


def config(method, **more):
    return get_peft_config(dict(task_type="CAUSAL_LM", **METHODS[method], **more))


def model_of(method, family="llama", corrected=False, **sizes):
    base = tiny_random(family, **sizes)
    base.generation_config.eos_token_id = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return get_peft_model(base, config(method), corrected_positions=corrected).eval()


@contextmanager
def quiet():
    "No warnings (some rows are about them), and an exception is no accident: it stands in the trace."
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        try:
            yield
        except Exception:
            pass
        except KeyboardInterrupt as error:
            if not error.args:
                raise  # somebody's key, not a row's
        finally:
            logging.set_verbosity(verbosity)


def recording(act, model):
    "What happens while `act(model)` runs."
    with quiet(), record(model) as trace:
        act(model)
    return trace


@contextmanager
def slicing(by_length):
    """As with transformers 5, which tells the base model how many tokens are new, or as with 4, which tells
    their places in the cache."""
    now, causal_lm.SLICES_BY_LENGTH = causal_lm.SLICES_BY_LENGTH, by_length
    try:
        yield
    finally:
        causal_lm.SLICES_BY_LENGTH = now


def forward(method, family="llama", corrected=False, **given):
    if "inputs_embeds" not in given:
        given = {"input_ids": IDS, **given}
    model = model_of(method, family, corrected)
    if given.get("inputs_embeds") is True:
        given["inputs_embeds"] = model.get_input_embeddings()(IDS).detach()
    if given.get("output_attentions"):
        model.get_base_model().set_attn_implementation("eager")  # the only one that has weights to give
    return recording(lambda m: m(**given), model)


def generate(method, family="llama", corrected=False, **given):
    return recording(
        lambda m: m.generate(IDS, max_new_tokens=2, do_sample=False, **given),
        model_of(method, family, corrected),
    )


def making_room(method, off=False, corrected=False, **given):
    "generate, and what happens in `_prepare_cache_for_generation`, which it calls."

    def act(model):
        if off:
            model.disable_adapter_layers()
        model.generate(IDS, attention_mask=MASK, max_new_tokens=2, do_sample=False, **given)

    return making(
        act, PeftModelForCausalLM._prepare_cache_for_generation, base=model_of(method, corrected=corrected)
    )


def continuing(by_length):
    "What is said to `generate` about a filled cache that it continues from."
    with slicing(by_length):
        return making(
            lambda m: m._room_for_virtual_tokens(
                m.generation_config, dict(past_key_values=filled(m), attention_mask=LONGER_MASK)
            ),
            PeftModelForCausalLM._room_for_virtual_tokens,
            base=model_of("prompt"),
        )


def going_on(method, family="llama", **given):
    "forward with a cache from an earlier forward."
    model = model_of(method, family)
    with torch.no_grad():
        cache = filled(model)
    return recording(
        lambda m: m(LONGER[:, -1:], attention_mask=LONGER_MASK, past_key_values=cache, **given), model
    )


def step(method, family="llama", cache=None, input_ids=IDS, lenient=False, corrected=False, **given):
    """One call of prepare_inputs_for_generation.

    `cache` makes one from the model; `lenient`: the base model hands everything on."""
    model = model_of(method, family, corrected)
    with torch.no_grad():
        cache = cache and cache(model)
    if given.get("inputs_embeds") is True:
        given["inputs_embeds"] = embeds(model)
    if lenient:
        model.base_model_prepare_inputs_for_generation = lambda input_ids, **kwargs: dict(
            {k: v for k, v in kwargs.items() if v is not None}, input_ids=input_ids
        )
    elif ERA_4:
        given.setdefault(
            "cache_position",
            torch.arange(input_ids.shape[1])[-1 if cache is not None and cache.get_seq_length() else 0 :],
        )
    return recording(
        lambda m: m.prepare_inputs_for_generation(input_ids, past_key_values=cache, **given), model
    )


def disabled(act, method="prompt"):
    def inside(model):
        with model.disable_adapter():
            act(model)

    return recording(inside, model_of(method))


def cropped(length, by_length=False):
    "The check of a cache that was cut to a length."

    def act(model):
        cache = filled(model)
        cache.crop(length - cache.get_seq_length())  # so many fewer, in both eras
        with slicing(by_length):
            model._empty_where_cropped(cache, None)

    return making(act, PeftModelForCausalLM._empty_where_cropped, base=model_of("prompt"))


def state_step():
    return step(
        "prompt",
        input_ids=LONGER,
        cache_params=object(),
        attention_mask=LONGER_MASK,
        cache_position=torch.arange(5, 6),
        lenient=True,
    )


def by_era(by_length):
    with slicing(by_length):
        return step("prompt", attention_mask=MASK, lenient=True)


LONGER = torch.cat((IDS, torch.tensor([[13], [14]])), 1)  # one token later
LONGER_MASK = (LONGER != PAD).long()


def filled(model):
    return model(IDS, attention_mask=MASK).past_key_values


def tuples(model):
    return tuple((layer.keys, layer.values) for layer in filled(model).layers)


def empty(model):
    return DynamicCache()


def embeds(model):
    return model.get_input_embeddings()(IDS).detach()


def square(additive=False, queries=None):
    "The causal 4-D mask of the batch; `queries` keeps the last ones."
    n = MASK.shape[1]
    allowed = MASK[:, None, None, :].bool() & torch.ones(n, n, dtype=torch.bool).tril() | torch.eye(
        n, dtype=torch.bool
    )
    if additive:
        allowed = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    return allowed if queries is None else allowed[:, :, -queries:]


class Following(Watched):
    "Follows also functions that run before there is a model to watch, or beside it."

    def __init__(self, model, functions):
        super().__init__(model, [])
        self.home, self.first = f"{HOME}/", {f.__code__ for f in functions}

    def _verdict(self, frame):
        return "entry" if frame.f_code in self.first else super()._verdict(frame)

    def _now(self, verdict, frame, top):
        return frame.f_code in self.first or super()._now(verdict, frame, top)


def making(act, *functions, base=None):
    "What happens in these functions while `act(base model)` runs."
    recorder = Recorder(tiny_random("llama") if base is None else base)
    recorder.watched = Following(recorder.model, functions)
    with quiet(), recorder:
        visited([Visit(recorder, recorder.model)], act, (recorder.model,), {})
    return recorder.trace


def failing(error, method="lora"):
    "generate, with an exception in its second step."

    def act(model):
        calls = []

        def fail(module, args, output):
            calls.append(module)
            if len(calls) == 2:
                raise error("in the second step")

        model.get_base_model().register_forward_hook(fail)
        model.generate(IDS, attention_mask=MASK, max_new_tokens=3, do_sample=False)

    return recording(act, model_of(method))


def patched():
    "generate around a base model whose own preparation somebody has replaced."
    base = tiny_random("llama")
    original = base.prepare_inputs_for_generation
    base.prepare_inputs_for_generation = lambda *args, **kwargs: original(*args, **kwargs)
    return recording(
        lambda m: m.generate(IDS, attention_mask=MASK, max_new_tokens=2, do_sample=False),
        get_peft_model(base, config("prompt")).eval(),
    )


def two_adapters():
    "CPT with an active adapter that is not called default, and that weighs its losses otherwise."
    model = model_of("cpt")
    model.add_adapter("other", config("cpt-decay"))
    model.set_adapter("other")
    return recording(lambda m: m(IDS, attention_mask=MASK, labels=LABELS), model)


def mixed(act):
    "A LoRA model with an adapter for each row."
    return recording(lambda m: act(m, adapter_names=["default", "__base__"]), model_of("lora"))


# ---- what a recording shows of a row --------------------------------------------------------------------------


@dataclass
class Seen:
    "The moment of the decision, as it was recorded."

    trace: Trace
    call: object  # the watched call
    step: int  # index of the deciding step in it
    before: dict  # name -> Value, when the line began
    made: dict  # name -> Value, what the line made
    returned: object  # Value, or None when the call raised
    around: dict  # name -> Value, what the calling line made of it
    base: dict  # name -> Value, what reached the base model first; empty when nothing did

    def __getitem__(self, name):
        return (self.before | self.made | self.around)[name].nested()


def taken(call, number, outcome):
    "Indices of the steps of a call at a line with an outcome."
    return [i for i, s in enumerate(call.steps) if s.line == number and outcome in (None, s.branch)]


def measure(row: Row, trace: Trace) -> Seen:
    """The first moment in the trace that is as the row says, if there is one also as it shows; LookupError when
    there is none."""
    name, found = row.where.rpartition(".")[2].rpartition(":")[2], []
    for call in trace.calls:
        if (
            call.source is None
            or call.function.rpartition(".")[2] != name
            or trace.sources[call.source].file != f"peft_viz/{row.places()[0][0]}"
        ):
            continue
        if row.ends != (call.raised or {}).get("type"):
            continue
        at = [taken(call, number, outcome) for number, outcome in row.decisions]
        if all(at):
            found += [moment(trace, call, index) for index in at[0]]
    if not found:
        raise LookupError(
            f"the recording of row {row.id} does not take {row.line!r} with outcome {row.outcome}"
        )
    return next(filter(row.shows, found), found[0])


def moment(trace, call, index):
    known = {name: trace.value(i) for name, i in call.args.items()}
    for earlier in call.steps[:index]:
        apply(known, earlier, trace)
    made, around = apply({}, call.steps[index], trace), {}
    if call.parent_step is not None:
        around = apply({}, trace.calls[call.parent].steps[call.parent_step], trace)
    base = next(iter(trace.base_calls), None)
    return Seen(
        trace,
        call,
        index,
        known,
        made,
        trace.value(call.returned),
        around,
        {n: trace.value(i) for n, i in base.args.items()} if base else {},
    )


def apply(known, step, trace):
    for change in step.changes:
        if change.value is None:
            known.pop(change.name, None)
        else:
            known[change.name] = trace.value(change.value)
    return known


# ---- the rows -------------------------------------------------------------------------------------------------

PARITY, MORE, REFERENCE, ERRORS, BRANCHES = (
    f"tests/test_{name}.py::test_"
    for name in ("parity", "parity_more", "reference", "reference_errors", "branches")
)
HERE = "tests/test_specification.py::test_"
CLASS = "causal_lm:PeftModelForCausalLM."
ROWS: list[Row] = []


def row(section, when, code, where, line, outcome, test, take, **more):
    ROWS.append(
        Row(
            section,
            when,
            code,
            where,
            line,
            outcome,
            test,
            take,
            number=1 + sum(r.section == section for r in ROWS),
            **more,
        )
    )


# ---- the class

S = "Class description"
INIT, WRAP = "model:PeftModel.__init__", "causal_lm:get_peft_model"


def wrapped(method, dtype=torch.float32, **how):
    return making(
        lambda base: PeftModelForCausalLM(base, config(method), **how),
        PeftModel.__init__,
        base=tiny_random("llama").to(dtype),
    )


def got(method, **how):
    return making(lambda base: get_peft_model(base, config(method), **how), get_peft_model)


row(
    S,
    "the method puts virtual tokens before the real ones",
    "peft_config.is_prompt_learning",
    INIT,
    "if peft_config.is_prompt_learning:",
    True,
    PARITY + "same_names[prompt-llama]",
    lambda: wrapped("prompt"),
)
row(
    S,
    "the method changes layers of the base model",
    "not peft_config.is_prompt_learning",
    INIT,
    "if peft_config.is_prompt_learning:",
    False,
    PARITY + "same_names[lora-llama]",
    lambda: wrapped("lora"),
)
row(
    S,
    "float16 and bfloat16 adapter weights become float32",
    "autocast_adapter_dtype",
    INIT,
    "if autocast_adapter_dtype:",
    True,
    PARITY + "adapter_dtype[True-llama]",
    lambda: wrapped("lora", torch.bfloat16),
)
row(
    S,
    "adapter weights keep the base model's number type",
    "not autocast_adapter_dtype",
    INIT,
    "if autocast_adapter_dtype:",
    False,
    PARITY + "adapter_dtype[False-llama]",
    lambda: wrapped("lora", torch.bfloat16, autocast_adapter_dtype=False),
)
row(
    S,
    "an attribute that only the base model has",
    "model.config",
    "model:PeftModel.__getattr__",
    "return getattr(self.base_model, name)",
    None,
    REFERENCE + "attributes_of_the_base_model[lora]",
    lambda: making(lambda m: m.config, PeftModel.__getattr__, base=model_of("lora")),
    here="The specification only says that the class inherits this from PeftModel.",
)
row(
    S,
    "`get_peft_model` is asked for something that is not there",
    "mixed or low_cpu_mem_usage",
    WRAP,
    "if mixed or low_cpu_mem_usage:",
    True,
    ERRORS + "options_that_are_not_there[llama-mixed]",
    lambda: got("lora", mixed=True),
    ends="NotImplementedError",
    here="Not in the specification.",
)
row(
    S,
    "`get_peft_model` is given a model that has adapters already",
    "isinstance(model, PeftModel)",
    WRAP,
    "if isinstance(model, PeftModel)",
    True,
    ERRORS + "wrapping_the_base_of_a_lora_model",
    lambda: making(lambda m: get_peft_model(m, config("prompt")), get_peft_model, base=model_of("lora")),
    ends="ValueError",
    here="Not in the specification. peft wraps it a second time, with a warning.",
)
row(
    S,
    "a prompt method does not say for which task",
    "peft_config.task_type is None",
    WRAP,
    "if peft_config.task_type is None and",
    True,
    ERRORS + "prompt_without_a_task[llama-PromptTuningConfig]",
    lambda: making(lambda m: get_peft_model(m, get_peft_config(METHODS["prompt"])), get_peft_model),
    ends="ValueError",
    here="Not in the specification.",
)
row(
    S,
    "nothing speaks against it: the model is made, and its configurations note the base model's name",
    "PeftModelForCausalLM(model, peft_config)",
    WRAP,
    "for config in peft_model.peft_config.values():",
    None,
    REFERENCE + "attributes_of_the_base_model[prompt]",
    lambda: got("prompt"),
    also=(
        ("if mixed or low_cpu_mem_usage:", False),
        ("if isinstance(model, PeftModel)", False),
        ("if peft_config.task_type is None and", False),
    ),
)
row(
    S,
    "positions shall be corrected",
    "",
    WRAP,
    "options = dict(corrected_positions=True)",
    None,
    HERE + "behind_padding_is_as_without[prompt]",
    lambda: got("prompt", corrected_positions=True),
    shows=lambda seen: seen.made["options"].items,
    here="Not in the specification: see forward.",
)

# ---- forward

S, F = "forward", CLASS + "forward"
INJECTED, PREFIX = CLASS + "_forward_injected", CLASS + "_forward_prefix"
ADAPTERS_OFF = (
    "Not in the specification: peft exchanges the method while "
    "its adapters are switched off; here it is a branch."
)

row(
    S,
    "the adapters are switched off",
    "",
    F,
    "if self._adapters_disabled:",
    True,
    PARITY + "disabled_is_the_base_model[prompt-llama]",
    lambda: disabled(lambda m: m(IDS, attention_mask=MASK)),
    here=ADAPTERS_OFF,
)
row(
    S,
    "what is said to a method that is switched off is taken out",
    "",
    CLASS + "_forward_disabled",
    'for name in "adapter_names"',
    None,
    BRANCHES + "what_a_switched_off_method_is_told",
    lambda: disabled(lambda m: m(IDS, attention_mask=MASK, input_type_mask=TYPES), "cpt"),
    here=ADAPTERS_OFF,
)
row(
    S,
    "the method changes layers (LoRA, AdaLoRA, IA3, POLY)",
    "not peft_config.is_prompt_learning",
    F,
    "if not peft_config.is_prompt_learning:",
    True,
    PARITY + "forward_and_gradients[train-input_ids-left-lora-llama]",
    lambda: forward("lora", attention_mask=MASK, labels=LABELS),
    also=(("if self._adapters_disabled:", False),),
)
row(
    S,
    "the method has virtual tokens",
    "peft_config.is_prompt_learning",
    F,
    "if not peft_config.is_prompt_learning:",
    False,
    PARITY + "forward_and_gradients[train-input_ids-left-prompt-llama]",
    lambda: forward("prompt", attention_mask=MASK, labels=LABELS),
)
row(
    S,
    "an MPT model is given embeddings",
    'model_type == "mpt" and inputs_embeds is not None',
    INJECTED,
    "if inputs_embeds is not None:",
    True,
    BRANCHES + "mpt_refuses_embeddings_where_layers_are_changed[LORA]",
    lambda: forward("lora", "mpt", inputs_embeds=True),
    also=(('== "mpt":', True),),
    ends="AssertionError",
    here="Today's MPT takes embeddings; the refusal stays because the specification and peft "
    "have it. With the adapters switched off, or with virtual tokens, MPT does take them.",
)
row(
    S,
    "an MPT model is given ids: straight to the base model, without hooks",
    'model_type == "mpt" and inputs_embeds is None',
    INJECTED,
    "if inputs_embeds is not None:",
    False,
    BRANCHES + "mpt_runs_without_hooks",
    lambda: forward("lora", "mpt", attention_mask=MASK, labels=LABELS),
    here="Arguments for the method (`adapter_names`, `task_ids`) reach "
    "the tuner, which takes them out itself; peft loses the tasks.",
)
row(
    S,
    "any other model",
    'model_type != "mpt"',
    INJECTED,
    '== "mpt":',
    False,
    BRANCHES + "another_family_runs_with_hooks",
    lambda: forward("lora", "gpt2", attention_mask=MASK),
)
row(
    S,
    "POLY: the tasks of the rows go along",
    "peft_config.peft_type == PeftType.POLY",
    INJECTED,
    "== PeftType.POLY:",
    True,
    HERE + "poly_gives_each_row_its_task",
    lambda: forward("poly", task_ids=TASKS, attention_mask=MASK),
)
row(
    S,
    "not POLY: nobody is told of tasks",
    "peft_config.peft_type != PeftType.POLY",
    INJECTED,
    "== PeftType.POLY:",
    False,
    PARITY + "forward_and_gradients[eval-input_ids-left-lora-llama]",
    lambda: forward("lora", attention_mask=MASK, task_ids=TASKS),
    shows=lambda seen: "task_ids" not in seen.base,
)
row(
    S,
    "the method's hooks are on while the base model runs",
    "with self._enable_peft_forward_hooks(**kwargs)",
    INJECTED,
    "with self._enable_peft_forward_hooks(**kwargs):",
    None,
    PARITY + "an_adapter_for_each_row",
    lambda: mixed(lambda m, **k: m(IDS, attention_mask=MASK, **k)),
)
row(
    S,
    "special arguments are for the hooks, not for the base model",
    "k not in self.special_peft_forward_args",
    "model:PeftModel._without_special_args",
    "return {",
    None,
    PARITY + "an_adapter_for_each_row",
    lambda: mixed(lambda m, **k: m(IDS, attention_mask=MASK, **k)),
    shows=lambda seen: (
        "adapter_names" in seen.before["kwargs"].items and "adapter_names" not in seen.returned.items
    ),
)

SIZE = "causal_lm:_get_batch_size"
row(
    S,
    "the batch is counted in `input_ids`",
    "_get_batch_size(input_ids, inputs_embeds)",
    SIZE,
    "    if input_ids is not None:",
    True,
    PARITY + "forward_and_gradients[train-input_ids-none-prompt-llama]",
    lambda: forward("prompt"),
    also=(
        ("if input_ids is None and inputs_embeds is None:", False),
        ("if input_ids is not None and inputs_embeds is not None:", False),
    ),
)
row(
    S,
    "the batch is counted in `inputs_embeds`",
    "_get_batch_size(input_ids, inputs_embeds)",
    SIZE,
    "    if input_ids is not None:",
    False,
    PARITY + "forward_and_gradients[train-inputs_embeds-none-prompt-llama]",
    lambda: forward("prompt", inputs_embeds=True),
)
row(
    S,
    "neither ids nor embeddings",
    "_get_batch_size(input_ids, inputs_embeds)",
    SIZE,
    "if input_ids is None and inputs_embeds is None:",
    True,
    ERRORS + "neither_or_both_inputs[prompt]",
    lambda: forward("prompt", input_ids=None),
    ends="ValueError",
)
row(
    S,
    "both ids and embeddings",
    "_get_batch_size(input_ids, inputs_embeds)",
    SIZE,
    "if input_ids is not None and inputs_embeds is not None:",
    True,
    ERRORS + "neither_or_both_inputs[prompt]",
    lambda: forward("prompt", input_ids=IDS, inputs_embeds=True),
    ends="ValueError",
)

MASKS, MASK_4D, ONLY = "causal_lm:_extend_attention_mask", "causal_lm:_extend_4d_mask", "causal_lm:_only_mask"
row(
    S,
    "there is a mask: ones for the virtual tokens in front",
    "attention_mask is not None",
    MASKS,
    "if attention_mask is None:",
    False,
    PARITY + "what_the_base_model_is_told[prompt-llama]",
    lambda: forward("prompt", attention_mask=MASK),
    shows=lambda seen: seen.base["attention_mask"].nested()[0] == [1, 1, 1, 0, 0, 1, 1, 1],
    here="The mask keeps its number type; peft's becomes float32.",
)
row(
    S,
    "there is no mask: then none reaches the base model",
    "attention_mask is None",
    MASKS,
    "if attention_mask is None:",
    True,
    PARITY + "forward_and_gradients[eval-input_ids-none-prompt-llama]",
    lambda: forward("prompt"),
    shows=lambda seen: "attention_mask" not in seen.base,
)

LIMIT, ORDER = CLASS + "_check_length", CLASS + "_order"
row(
    S,
    "more tokens, virtual ones included, than the base model has positions for",
    "",
    LIMIT,
    "if maximum is not None and",
    True,
    HERE + "too_many_tokens",
    lambda: recording(lambda m: m(IDS, attention_mask=MASK), model_of("prompt", "gpt2", n_positions=7)),
    ends="ValueError",
    here="Not in the specification: the base model would fail somewhere inside, or count on where nothing was learned.",
)
row(
    S,
    "there is room for all tokens",
    "",
    LIMIT,
    "if maximum is not None and",
    False,
    HERE + "too_many_tokens",
    lambda: forward("prompt", "gpt2", attention_mask=MASK),
    here="Not in the specification.",
)
row(
    S,
    "the virtual tokens will be in the cache, before the first token",
    "",
    F,
    "if is_first and not virtual_queries:",
    True,
    HERE + "corrected_positions_without_a_mask[prefix]",
    lambda: forward("prefix", attention_mask=MASK),
    here="Not in the specification: for the check of the length, and for counting positions.",
)
row(
    S,
    "the virtual tokens are in the sequence, or have been put into the cache before",
    "",
    F,
    "if is_first and not virtual_queries:",
    False,
    HERE + "corrected_positions_without_a_mask[prompt]",
    lambda: forward("prompt", attention_mask=MASK),
    here="Not in the specification.",
)
row(
    S,
    "virtual tokens stand in front of everything",
    "torch.cat((prefix_attention_mask, attention_mask), dim=1)",
    ORDER,
    "if not self.corrected_positions or",
    True,
    PARITY + "what_the_base_model_is_told[prompt-llama]",
    lambda: forward("prompt", attention_mask=MASK),
    shows=lambda seen: seen.base["attention_mask"].nested()[0] == [1, 1, 1, 0, 0, 1, 1, 1],
    here="As the specification and peft have it: padding on the left "
    "comes between the virtual tokens and the text, and is counted.",
)
row(
    S,
    "`corrected_positions=True`: virtual tokens stand behind the padding of their row",
    "",
    ORDER,
    "if not self.corrected_positions or",
    False,
    HERE + "behind_padding_is_as_without[prompt]",
    lambda: forward("prompt", corrected=True, attention_mask=MASK),
    also=(("PeftType.PREFIX_TUNING and not", False),),
    shows=lambda seen: seen.base["attention_mask"].nested()[0] == [0, 0, 1, 1, 1, 1, 1, 1],
    here="Not in the specification: so a row with padding gives what it gives without.",
)
row(
    S,
    "`corrected_positions=True`, a prefix and no padding: the prefix is in the cache, as ever",
    "",
    ORDER,
    "PeftType.PREFIX_TUNING and not",
    True,
    HERE + "a_prefix_without_padding_stays_in_front",
    lambda: forward("prefix", corrected=True, attention_mask=torch.ones_like(MASK)),
    shows=lambda seen: seen.base["past_key_values"].length == V,
    here="Not in the specification.",
)

WARN, POSITIONS, SHIFTED = (
    CLASS + "_warn_of_positions",
    CLASS + "_shift_or_drop_positions",
    CLASS + "_shifted",
)
row(
    S,
    "`position_ids` are given: a warning",
    'kwargs.get("position_ids") is not None',
    WARN,
    'if kwargs.get("position_ids") is not None and',
    True,
    PARITY + "given_positions_are_dropped_before_a_prompt[llama]",
    lambda: forward("prompt", position_ids=torch.arange(5).expand(2, -1)),
)
row(
    S,
    "and they are dropped",
    'kwargs["position_ids"] = None',
    POSITIONS,
    "if position_ids is not None and",
    False,
    PARITY + "given_positions_are_dropped_before_a_prompt[llama]",
    lambda: forward("prompt", position_ids=torch.arange(5).expand(2, -1)),
    shows=lambda seen: "position_ids" not in seen.base,
)
row(
    S,
    "`position_ids` are given with a prefix: they count on behind it",
    'kwargs.get("position_ids") is not None',
    POSITIONS,
    "if position_ids is not None and",
    True,
    HERE + "positions_behind_a_prefix",
    lambda: forward("prefix", position_ids=torch.arange(5).expand(2, -1)),
    shows=lambda seen: seen.base["position_ids"].nested()[0] == [3, 4, 5, 6, 7],
    here="The specification, and peft up to 0.18, drop them with a warning here too. The text is "
    "what the positions say, only behind a prefix: peft 0.21 and this reference add its length.",
)
row(
    S,
    "all positions move by the number of virtual tokens",
    "",
    SHIFTED,
    "if not virtual_queries:",
    True,
    HERE + "positions_behind_a_prefix",
    lambda: forward("prefix", position_ids=torch.arange(5).expand(2, -1)),
    here="Not in the specification: no query belongs to a prefix in the cache.",
)
row(
    S,
    "`corrected_positions=True`: given positions move, and virtual tokens have the first ones",
    "",
    SHIFTED,
    "if not virtual_queries:",
    False,
    HERE + "given_positions_are_corrected[prompt]",
    lambda: forward(
        "prompt",
        corrected=True,
        attention_mask=MASK,
        position_ids=torch.tensor([[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]),
    ),
    shows=lambda seen: seen.base["position_ids"].nested()[0] == [3, 3, 0, 1, 2, 3, 4, 5],
    here="Not in the specification: what a caller counts is right where positions are "
    "said to be counted right. What stands at padding is nobody's business.",
)
row(
    S,
    "`corrected_positions=True`: no positions are given, they are counted in the mask",
    "",
    POSITIONS,
    "self.base_model_accepts_positions and",
    True,
    HERE + "behind_padding_is_as_without[prompt]",
    lambda: forward("prompt", corrected=True, attention_mask=MASK),
    also=(("if position_ids is not None and", False),),
    shows=lambda seen: seen.base["position_ids"].nested()[0] == [0, 0, 0, 1, 2, 3, 4, 5],
    here="Not in the specification: padding is not counted.",
)
row(
    S,
    "`corrected_positions=True`: there is no mask to count in, so positions are counted from the cache's length on",
    "",
    POSITIONS,
    "self.base_model_accepts_positions:",
    True,
    HERE + "corrected_positions_without_a_mask[prefix]",
    lambda: forward("prefix", corrected=True),
    also=(("self.base_model_accepts_positions and", False),),
    shows=lambda seen: seen.base["position_ids"].nested() == [[3, 4, 5, 6, 7]] * 2,
    here="Not in the specification: a few models count from 0, whatever the cache holds.",
)
row(
    S,
    "no positions are given, and none are made",
    "",
    POSITIONS,
    "self.base_model_accepts_positions:",
    False,
    PARITY + "what_the_base_model_is_told[prefix-llama]",
    lambda: forward("prefix", attention_mask=MASK),
    shows=lambda seen: "position_ids" not in seen.base,
    here="The base model counts by itself, as in the specification.",
)
row(
    S,
    "no `position_ids` are given: no warning",
    'kwargs.get("position_ids") is None',
    WARN,
    'if kwargs.get("position_ids") is not None and',
    False,
    PARITY + "no_warning_without_a_reason[prompt]",
    lambda: forward("prompt", attention_mask=MASK),
)
row(
    S,
    "`token_type_ids` are given: a warning, and they are dropped",
    'kwargs.get("token_type_ids") is not None',
    WARN,
    'if kwargs.get("token_type_ids") is not None:',
    True,
    PARITY + "token_types_are_dropped[prompt]",
    lambda: forward("prompt", "gpt2", token_type_ids=torch.ones_like(IDS)),
    shows=lambda seen: "token_type_ids" not in seen.base,
)
row(
    S,
    "no `token_type_ids` are given",
    'kwargs.get("token_type_ids") is None',
    WARN,
    'if kwargs.get("token_type_ids") is not None:',
    False,
    PARITY + "no_warning_without_a_reason[prefix]",
    lambda: forward("prefix", attention_mask=MASK),
)

CONTINUED = "Not in the specification, which would put the virtual tokens in a second time."
row(
    S,
    "a cache from an earlier pass: the virtual tokens are in it",
    "",
    F,
    "if not is_first:",
    True,
    HERE + "forward_goes_on[prompt]",
    lambda: going_on("prompt"),
    shows=lambda seen: (
        seen.base["past_key_values"].length == V + 5 and seen.base["input_ids"].shape == (2, 1)
    ),
    here=CONTINUED,
)
row(
    S,
    "there is nothing yet",
    "",
    F,
    "if not is_first:",
    False,
    HERE + "forward_goes_on[prompt]",
    lambda: forward("prompt", attention_mask=MASK),
    here=CONTINUED,
)
row(
    S,
    "the base model's state, if it is recurrent: has it seen something?",
    "",
    "causal_lm:_has_state",
    "return any(",
    None,
    HERE + "a_recurrent_state_has_seen_all_but_one",
    lambda: state_step(),
    shows=lambda seen: seen.returned.value is True,
    here="Not in the specification: a state has no length to ask for. Recorded "
    "in a decoding step, with something that stands for a state.",
)

row(
    S,
    "prefix tuning",
    "peft_config.peft_type == PeftType.PREFIX_TUNING",
    F,
    "if peft_config.peft_type == PeftType.PREFIX_TUNING:",
    True,
    PARITY + "forward_and_gradients[train-input_ids-left-prefix-llama]",
    lambda: forward("prefix", attention_mask=MASK, labels=LABELS),
    also=(("if not is_first:", False),),
)
LENGTH = "causal_lm:_get_sequence_length"
row(
    S,
    "prefix tuning: the cache's length from `input_ids`",
    "input_ids is not None",
    LENGTH,
    "if input_ids is not None:",
    True,
    PARITY + "forward_and_gradients[train-input_ids-none-prefix-llama]",
    lambda: forward("prefix"),
)
row(
    S,
    "prefix tuning: the cache's length from `inputs_embeds`",
    "input_ids is None",
    LENGTH,
    "if input_ids is not None:",
    False,
    PARITY + "forward_and_gradients[train-inputs_embeds-none-prefix-llama]",
    lambda: forward("prefix", inputs_embeds=True),
)
row(
    S,
    "prefix tuning: virtual tokens go into the cache, labels stay",
    'kwargs["past_key_values"] = self.get_prompt(...)',
    PREFIX,
    'kwargs["past_key_values"] = past_key_values',
    None,
    PARITY + "what_the_base_model_is_told[prefix-llama]",
    lambda: forward("prefix", attention_mask=MASK, labels=LABELS),
    also=(("if order is not None:", False),),
    shows=lambda seen: seen.base["past_key_values"].length == V and seen.base["labels"].shape == (2, 5),
)
BEHIND, WITH = CLASS + "_forward_prefix_behind_padding", CLASS + "_with_virtual_tokens"
PLACES = (
    "Not in the specification. Keys and values of the prefix have no query; something "
    "stands in their places, and they are exchanged on the way into the cache."
)
row(
    S,
    "`corrected_positions=True`, a prefix and padding: the sequence gets places for the virtual tokens",
    "",
    PREFIX,
    "if order is not None:",
    True,
    HERE + "behind_padding_is_as_without[prefix]",
    lambda: forward("prefix", corrected=True, attention_mask=MASK),
    shows=lambda seen: seen.base["input_ids"].shape == (2, V + 5),
    here=PLACES,
)
row(
    S,
    "a prefix behind padding, labels: -100 in the places, and at the first token",
    "",
    BEHIND,
    "if labels is not None:",
    True,
    HERE + "behind_padding_is_as_without[prefix]",
    lambda: forward("prefix", corrected=True, attention_mask=MASK, labels=LABELS),
    shows=lambda seen: seen.base["labels"].nested()[1] == [-100] * (V + 1) + IDS[1, 1:].tolist(),
    here="Not in the specification: nobody is before the first token who could predict it, only the places are.",
)
row(
    S,
    "a prefix behind padding, no labels",
    "",
    BEHIND,
    "if labels is not None:",
    False,
    HERE + "a_prefix_behind_padding_hands_on_what_was_asked_for",
    lambda: forward("prefix", corrected=True, attention_mask=MASK),
    shows=lambda seen: "labels" not in seen.base,
    here="Not in the specification.",
)
row(
    S,
    "a prefix behind padding: hidden states without the places",
    "",
    BEHIND,
    'if output.get("hidden_states") is not None:',
    True,
    HERE + "a_prefix_behind_padding_hands_on_what_was_asked_for",
    lambda: forward("prefix", corrected=True, attention_mask=MASK, output_hidden_states=True),
    here="Not in the specification: logits and hidden states keep the sequence's length, as with a prefix in front.",
)
row(
    S,
    "a prefix behind padding: no hidden states",
    "",
    BEHIND,
    'if output.get("hidden_states") is not None:',
    False,
    HERE + "a_prefix_behind_padding_hands_on_what_was_asked_for",
    lambda: forward("prefix", corrected=True, attention_mask=MASK),
    here="Not in the specification.",
)
row(
    S,
    "a prefix behind padding: attention weights of the text's queries",
    "",
    BEHIND,
    'if output.get("attentions") is not None:',
    True,
    HERE + "attention_weights_of_a_prefix_behind_padding",
    lambda: forward("prefix", corrected=True, attention_mask=MASK, output_attentions=True),
    here="Not in the specification: [batch, heads, sequence, virtual + "
    "sequence], the prefix's keys first, as with a prefix in front.",
)
row(
    S,
    "a prefix behind padding: no attention weights",
    "",
    BEHIND,
    'if output.get("attentions") is not None:',
    False,
    HERE + "a_prefix_behind_padding_hands_on_what_was_asked_for",
    lambda: forward("prefix", corrected=True, attention_mask=MASK),
    here="Not in the specification.",
)
row(
    S,
    "a prefix behind padding: logits of the last tokens alone, if so many are asked for",
    "",
    BEHIND,
    "kept = ",
    None,
    "tests/test_right.py::test_only_the_last_logits[prefix-llama]",
    lambda: forward("prefix", corrected=True, attention_mask=MASK, logits_to_keep=2),
    shows=lambda seen: seen.made["kept"] is not None,
    here="Not in the specification: of the text's tokens, which are not always the sequence's last ones.",
)
row(
    S,
    "a prefix behind padding: a tuple, if `return_dict=False`",
    "",
    BEHIND,
    "return output if return_dict is not False",
    None,
    HERE + "a_prefix_behind_padding_hands_on_what_was_asked_for",
    lambda: forward("prefix", corrected=True, attention_mask=MASK, return_dict=False),
    shows=lambda seen: seen.returned.type == "tuple",
    here="Not in the specification.",
)
row(
    S,
    "a prefix behind padding, ids are given: ids in the places",
    "",
    WITH,
    "if is_prefix and inputs_embeds is None:",
    True,
    HERE + "behind_padding_is_as_without[prefix]",
    lambda: forward("prefix", corrected=True, attention_mask=MASK),
    here=PLACES,
)
row(
    S,
    "a prefix behind padding, embeddings are given: zeros in the places",
    "",
    WITH,
    "        if is_prefix:",
    True,
    HERE + "a_prefix_behind_padding_hands_on_what_was_asked_for",
    lambda: forward("prefix", corrected=True, attention_mask=MASK, inputs_embeds=True),
    also=(("if is_prefix and inputs_embeds is None:", False),),
    here=PLACES,
)
row(
    S,
    "CPT has a forward of its own",
    "peft_config.peft_type == PeftType.CPT",
    F,
    "elif peft_config.peft_type == PeftType.CPT:",
    True,
    PARITY + "forward_and_gradients[train-input_ids-left-cpt-llama]",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS),
)
row(
    S,
    "any other prompt method: virtual tokens before the embeddings",
    "else",
    F,
    "elif peft_config.peft_type == PeftType.CPT:",
    False,
    PARITY + "forward_and_gradients[train-input_ids-left-multitask-llama]",
    lambda: forward("multitask", attention_mask=MASK, task_ids=TASKS),
    also=(("if peft_config.peft_type == PeftType.PREFIX_TUNING:", False),),
)
row(
    S,
    "ids are given: the base model's embeddings of them",
    "inputs_embeds is None",
    WITH,
    "        if inputs_embeds is None:",
    True,
    PARITY + "forward_and_gradients[eval-input_ids-left-prompt-llama]",
    lambda: forward("prompt", attention_mask=MASK),
    also=(("        if is_prefix:", False),),
)
row(
    S,
    "embeddings are given",
    "inputs_embeds is not None",
    WITH,
    "        if inputs_embeds is None:",
    False,
    PARITY + "forward_and_gradients[eval-inputs_embeds-left-prompt-llama]",
    lambda: forward("prompt", attention_mask=MASK, inputs_embeds=True),
)
row(
    S,
    "a base model that embeds tokens again, for each layer, gets that too",
    "",
    CLASS + "_embedded_again",
    "input_ids if inputs_embeds is None",
    None,
    PARITY + "forward_and_gradients[eval-input_ids-left-prompt-llama]",
    lambda: forward("prompt", attention_mask=MASK),
    shows=lambda seen: "per_layer_inputs" not in seen.base,
    here="Not in the specification. Gemma 4 does; Llama, here, has nothing of the kind.",
)
row(
    S,
    "labels are given: -100 for the virtual tokens in front",
    "labels is not None",
    "causal_lm:_extend_labels",
    "if labels is None:",
    False,
    PARITY + "what_the_base_model_is_told[prompt-llama]",
    lambda: forward("prompt", attention_mask=MASK, labels=LABELS),
    shows=lambda seen: seen.base["labels"].nested()[1] == [-100] * V + IDS[1].tolist(),
)
row(
    S,
    "no labels are given",
    "labels is None",
    "causal_lm:_extend_labels",
    "if labels is None:",
    True,
    PARITY + "without_labels[p-tuning-llama]",
    lambda: forward("prompt", attention_mask=MASK),
    shows=lambda seen: "labels" not in seen.base,
)

# ---- _cpt_forward

S, C = "_cpt_forward", CLASS + "_cpt_forward"
TYPES_OF, ANSWERS, WITH_LOSS, LOSS = (
    "tuners.cpt:extend_types",
    "tuners.cpt:answers_only",
    "tuners.cpt:with_cpt_loss",
    "tuners.cpt:cpt_loss",
)

row(
    S,
    "`input_type_mask` is given",
    '"input_type_mask" in kwargs.keys()',
    C,
    "if input_type_mask is None:",
    False,
    MORE + "given_types[input_ids-cpt-llama]",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS, input_type_mask=TYPES),
)
row(
    S,
    "no `input_type_mask`: every token is an answer; counted in `input_ids`",
    "input_ids is not None",
    C,
    "if input_type_mask is None:",
    True,
    PARITY + "forward_and_gradients[train-input_ids-none-cpt-llama]",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS),
    shows=lambda seen: seen["inputs_embeds"] is None,
    here="One line makes the default for both; the count is `_get_sequence_length`, as elsewhere.",
)
row(
    S,
    "no `input_type_mask`: every token is an answer; counted in `inputs_embeds`",
    "input_ids is None",
    C,
    "if input_type_mask is None:",
    True,
    PARITY + "forward_and_gradients[train-inputs_embeds-none-cpt-llama]",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS, inputs_embeds=True),
    shows=lambda seen: seen["input_ids"] is None,
)
row(
    S,
    "a type for each token, or a clear error",
    "",
    TYPES_OF,
    "if input_type_mask.shape !=",
    True,
    MORE + "cpt_mistakes",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS, input_type_mask=TYPES[:, 1:]),
    ends="ValueError",
    here="Not in the specification: types of another shape would be added or joined to something.",
)
row(
    S,
    "ids are given: the base model's embeddings of them",
    "inputs_embeds is None",
    WITH,
    "        if inputs_embeds is None:",
    True,
    PARITY + "forward_and_gradients[train-input_ids-left-cpt-llama]",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS),
)
row(
    S,
    "embeddings are given",
    "inputs_embeds is not None",
    WITH,
    "        if inputs_embeds is None:",
    False,
    PARITY + "forward_and_gradients[train-inputs_embeds-left-cpt-llama]",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS, inputs_embeds=True),
)
row(
    S,
    "labels are given: labels and types get the examples' in front",
    "labels is not None",
    C,
    "if labels is not None:",
    True,
    MORE + "cpt_labels_are_the_answers",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS, input_type_mask=TYPES),
)
row(
    S,
    "no labels: none reach the base model",
    "labels is None",
    C,
    "if labels is not None:",
    False,
    MORE + "types_without_labels",
    lambda: forward("cpt", attention_mask=MASK, input_type_mask=TYPES),
    shows=lambda seen: "labels" not in seen.base,
)
row(
    S,
    "the input's types go on where the examples' end",
    "adjusted_input_type_mask > 0",
    TYPES_OF,
    "shifted = ",
    None,
    MORE + "given_types[input_ids-cpt-decay-llama]",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS, input_type_mask=TYPES),
    shows=lambda seen: seen["cpt_type_mask"][1][V:] == [5, 6, 7, 8, 8],
    here="A new tensor: the specification and peft add to the caller's.",
)
row(
    S,
    "the type 0, nobody's, stays 0",
    "not adjusted_input_type_mask > 0",
    TYPES_OF,
    "shifted = ",
    None,
    MORE + "given_types[inputs_embeds-cpt-decay-llama]",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS, input_type_mask=TYPES),
    shows=lambda seen: seen["cpt_type_mask"][0][V:] == [0, 0, 5, 6, 8],
)
row(
    S,
    "a label counts where an answer stands",
    "(cpt_type_mask > 0) & (cpt_type_mask % 4 == 0)",
    ANSWERS,
    "cpt_labels = cpt_labels.masked_fill(",
    None,
    MORE + "cpt_labels_are_the_answers",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS, input_type_mask=TYPES),
    shows=lambda seen: seen["cpt_labels"][1] == [-100, -100, 13, -100, -100, -100, 11, 12],
)
row(
    S,
    "any other label becomes -100",
    "cpt_labels[~labels_idx] = -100",
    ANSWERS,
    "cpt_labels = cpt_labels.masked_fill(",
    None,
    PARITY + "forward_and_gradients[train-input_ids-none-cpt-decay-llama]",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS, input_type_mask=TYPES),
    shows=lambda seen: seen["cpt_labels"][0] == [-100, -100, 13, -100, -100, -100, -100, 7],
)
row(
    S,
    "no label is left: a warning",
    "",
    ANSWERS,
    "if not (cpt_labels[:, 1:] != IGNORED).any():",
    True,
    MORE + "no_answer_left",
    lambda: recording(lambda m: m(IDS, attention_mask=MASK, labels=LABELS), unlucky()),
    here="Not in the specification: the loss is nan, and one is told why. peft's own defaults lead here.",
)
row(
    S,
    "no labels: the base model's output as it is",
    "labels is None",
    C,
    "if labels is None:",
    True,
    PARITY + "without_labels[cpt-llama]",
    lambda: forward("cpt", attention_mask=MASK),
)
row(
    S,
    "labels: the base model's output with CPT's loss",
    "else",
    C,
    "if labels is None:",
    False,
    PARITY + "forward_and_gradients[train-input_ids-right-cpt-llama]",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS),
)
row(
    S,
    "the settings of the loss are the active adapter's",
    'self.peft_config["default"]',
    C,
    "return with_cpt_loss(",
    None,
    MORE + "the_active_adapters_loss_counts",
    two_adapters,
    here="The specification and peft take those of the adapter called default, whichever is active.",
)
row(
    S,
    "all answers count alike",
    'opt_weighted_loss_type == "none"',
    LOSS,
    'if config.opt_weighted_loss_type == "decay":',
    False,
    PARITY + "forward_and_gradients[train-input_ids-left-cpt-opt]",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS),
)
row(
    S,
    "earlier answers count less",
    'opt_weighted_loss_type == "decay"',
    LOSS,
    'if config.opt_weighted_loss_type == "decay":',
    True,
    PARITY + "forward_and_gradients[train-input_ids-left-cpt-decay-llama]",
    lambda: forward("cpt-decay", attention_mask=MASK, labels=LABELS),
)
row(
    S,
    "an output that is a tuple (`return_dict=False`)",
    "",
    WITH_LOSS,
    "if isinstance(output, tuple):",
    True,
    MORE + "cpt_without_return_dict",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS, return_dict=False),
    here="Not in the specification: peft crashes.",
)
row(
    S,
    "an output with names",
    "cpt_embedding.calculate_loss(base_model_output, ...)",
    WITH_LOSS,
    "if isinstance(output, tuple):",
    False,
    MORE + "given_types[input_ids-cpt-llama]",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS),
)


def unlucky():
    "CPT as peft's defaults make it: its one virtual token has a type that shifts every answer away."
    return get_peft_model(
        tiny_random("llama"), CPTConfig(task_type="CAUSAL_LM", cpt_token_ids=[11], cpt_tokens_type_mask=[1])
    ).eval()


# ---- get_prompt

S, G = "get_prompt", "model:PeftModel.get_prompt"
row(
    S,
    "prefix tuning: keys and values in a cache",
    "peft_config.peft_type == PeftType.PREFIX_TUNING",
    G,
    "if peft_config.peft_type == PeftType.PREFIX_TUNING:",
    True,
    PARITY + "forward_and_gradients[eval-input_ids-none-prefix-llama]",
    lambda: forward("prefix"),
    shows=lambda seen: seen.returned.length == V,
)
row(
    S,
    "multitask prompt tuning: a prompt for each row's task",
    "task_ids",
    G,
    "elif peft_config.peft_type == PeftType.MULTITASK_PROMPT_TUNING:",
    True,
    MORE + "each_row_gets_the_prompt_of_its_task",
    lambda: forward("multitask", task_ids=TASKS),
    also=(("if peft_config.peft_type == PeftType.PREFIX_TUNING:", False),),
)
row(
    S,
    "one prompt for all rows",
    "else",
    G,
    "elif peft_config.peft_type == PeftType.MULTITASK_PROMPT_TUNING:",
    False,
    PARITY + "forward_and_gradients[eval-input_ids-none-prompt-llama]",
    lambda: forward("prompt"),
)

# ---- generate

S, N = "generate", CLASS + "generate"
LEND, TAKE = CLASS + "_lend_to_base_model", CLASS + "_take_back"
LENT_HERE = (
    "The specification gives the settings to `base_model.model` if there "
    "is one, which under a prompt method is the transformer's inside; "
    "here they, and the methods of ours that `generate` calls, go "
    "to the transformers model itself, which is what asks for them."
)

row(
    S,
    "the base model is wrapped once more (`base_model.model`): that gets our settings",
    'hasattr(self.base_model, "model")',
    LEND,
    "for name in names:",
    None,
    REFERENCE + "generation_settings_of_the_wrapper_count[lora]",
    lambda: generate("lora"),
    here=LENT_HERE,
)
row(
    S,
    "the base model is the transformers model: it gets our settings itself",
    'not hasattr(self.base_model, "model")',
    LEND,
    "for name in names:",
    None,
    REFERENCE + "generate_leaves_the_base_model_as_it_was[gpt2-None-prompt]",
    lambda: generate("prompt", "gpt2"),
    here=LENT_HERE,
)
row(
    S,
    "the method changes layers: hooks around the base model's generate",
    "not peft_config.is_prompt_learning",
    N,
    "if self._adapters_disabled or not peft_config.is_prompt_learning:",
    True,
    PARITY + "greedy_generate[keyword-left-lora-llama]",
    lambda: generate("lora", attention_mask=MASK),
    also=(("with self._enable_peft_forward_hooks(", None),),
)
row(
    S,
    "special arguments are for the hooks, not for the base model",
    "k not in self.special_peft_forward_args",
    N,
    "kwargs = self._without_special_args(kwargs)",
    None,
    PARITY + "an_adapter_for_each_row",
    lambda: mixed(
        lambda m, **k: m.generate(IDS, attention_mask=MASK, max_new_tokens=2, do_sample=False, **k)
    ),
    shows=lambda seen: (
        "adapter_names" in seen.before["kwargs"].items and "adapter_names" not in seen.made["kwargs"].items
    ),
)
row(
    S,
    "a prompt method that is switched off: the base model's generate",
    "",
    N,
    "if self._adapters_disabled or not peft_config.is_prompt_learning:",
    True,
    PARITY + "disabled_is_the_base_model[prompt-gpt2]",
    lambda: disabled(lambda m: m.generate(IDS, attention_mask=MASK, max_new_tokens=2, do_sample=False)),
    here=ADAPTERS_OFF,
)
row(
    S,
    "the method has virtual tokens: `prepare_inputs_for_generation` will put them in",
    "else",
    N,
    "if self._adapters_disabled or not peft_config.is_prompt_learning:",
    False,
    PARITY + "greedy_generate[positional-left-prompt-llama]",
    lambda: generate("prompt", attention_mask=MASK),
    here="Positional arguments are handed on; the specification, and peft up to 0.18, drop them.",
)
row(
    S,
    "it went well: the base model is as before",
    "else",
    N,
    "self._take_back(lent)",
    None,
    REFERENCE + "generate_leaves_the_base_model_as_it_was[llama, grouped queries-None-lora]",
    lambda: generate("lora"),
)
row(
    S,
    "an exception: the base model is as before, and it is raised again",
    "except",
    N,
    "self._take_back(lent)",
    None,
    REFERENCE + "generate_leaves_the_base_model_as_it_was[llama, grouped queries-RuntimeError-lora]",
    lambda: failing(RuntimeError),
    ends="RuntimeError",
)
row(
    S,
    "so with a key pressed in the middle",
    "except",
    N,
    "self._take_back(lent)",
    None,
    REFERENCE + "generate_leaves_the_base_model_as_it_was[llama, grouped queries-KeyboardInterrupt-prompt]",
    lambda: failing(KeyboardInterrupt, "prompt"),
    ends="KeyboardInterrupt",
)
row(
    S,
    "what is lent is taken off again",
    "self.base_model.prepare_inputs_for_generation = self.base_model_prepare_inputs_for_generation",
    TAKE,
    "for name in names:",
    None,
    REFERENCE + "generate_leaves_the_base_model_as_it_was[gpt2-None-lora]",
    lambda: generate("lora", "gpt2"),
)
row(
    S,
    "and what somebody else had put there is put back",
    "self.base_model.prepare_inputs_for_generation = self.base_model_prepare_inputs_for_generation",
    TAKE,
    "setattr(transformer, name, value)",
    None,
    REFERENCE + "a_patched_base_model_gets_its_patch_back",
    patched,
    also=(("for name, value in had.items():", None),),
)

CACHE, ROOM = CLASS + "_prepare_cache_for_generation", CLASS + "_room_for_virtual_tokens"
row(
    S,
    "the base model makes a cache: with room for the virtual tokens, too",
    "",
    CACHE,
    "if not self._adapters_disabled and",
    True,
    HERE + "static_cache[prompt]",
    lambda: making_room("prompt", cache_implementation="static"),
    also=(("max_cache_length += ", None),),
    here="Not in the specification, which looks at the cache's length one step "
    "later, for a prefix only. A cache of fixed size would be too small.",
)
row(
    S,
    "there are no virtual tokens to make room for",
    "",
    CACHE,
    "if not self._adapters_disabled and",
    False,
    HERE + "static_cache[lora]",
    lambda: making_room("lora", cache_implementation="static"),
    here="Not in the specification.",
)
row(
    S,
    "`corrected_positions=True`, and the text shall be read in chunks",
    "",
    ROOM,
    "if self.corrected_positions and",
    True,
    HERE + "chunks_and_corrected_positions",
    lambda: making_room("prompt", corrected=True, prefill_chunk_size=2),
    ends="ValueError",
    here="Not in the specification: a chunk may end inside the padding, or inside the virtual tokens.",
)
row(
    S,
    "the text is read at once, or positions are as in peft",
    "",
    ROOM,
    "if self.corrected_positions and",
    False,
    HERE + "chunks_and_corrected_positions",
    lambda: making_room("prompt"),
    here="Not in the specification.",
)
row(
    S,
    "`generate` continues from a filled cache (transformers 4): `cache_position` without the virtual tokens",
    "",
    ROOM,
    "if past_length and _is_plain(attention_mask) and",
    True,
    HERE + "told_by_cache_position_or_by_length",
    lambda: continuing(by_length=False),
    also=(('model_kwargs["cache_position"] = ', None),),
    here="Not in the specification: transformers 4 counts what is new from the cache's length, "
    "virtual tokens included, and would find too little. Recorded with the switch for transformers 4 set.",
)
row(
    S,
    "transformers 5 counts by itself, or there is nothing to continue from",
    "",
    ROOM,
    "if past_length and _is_plain(attention_mask) and",
    False,
    HERE + "told_by_cache_position_or_by_length",
    lambda: continuing(by_length=True),
    here="Not in the specification.",
)

# ---- prepare_inputs_for_generation

S, P = "prepare_inputs_for_generation", CLASS + "prepare_inputs_for_generation"
COUNT, EXTEND, ASK, CACHED = (
    CLASS + "_count_new_tokens",
    CLASS + "_extend_for_base_model",
    CLASS + "_ask_base_model",
    "causal_lm:_get_cache_length",
)
NEEDED = "if requires_prompt_injection and"
FIRST = "if self._adapters_disabled or not peft_config.is_prompt_learning:"

row(
    S,
    "the method changes layers: the base model prepares",
    "not peft_config.is_prompt_learning",
    P,
    FIRST,
    True,
    PARITY + "greedy_generate[keyword-none-lora-llama]",
    lambda: generate("lora", attention_mask=MASK),
)
row(
    S,
    "the method has virtual tokens",
    "peft_config.is_prompt_learning",
    P,
    FIRST,
    False,
    PARITY + "greedy_generate[keyword-none-prompt-llama]",
    lambda: step("prompt", attention_mask=MASK),
)
row(
    S,
    "`past_key_values`: there is no cache yet, the prompt goes in",
    'model_kwargs.get("past_key_values", None) is None',
    CACHED,
    "if past_key_values is None:",
    True,
    BRANCHES + "injection_where_there_is_nothing_yet[no cache-prompted]",
    lambda: step("prompt", attention_mask=MASK, lenient=True),
)
row(
    S,
    "`past_key_values`: the cache is empty, the prompt goes in",
    "not past_key_values.get_seq_length()",
    CACHED,
    "return int(past_key_values.get_seq_length()",
    None,
    BRANCHES + "injection_where_there_is_nothing_yet[empty cache-prompted]",
    lambda: step("prompt", cache=empty, attention_mask=MASK),
    shows=lambda seen: seen.returned.value == 0,
    also=(("if past_key_values is None:", False),),
    here="In transformers 5 this is how the prefill is told; `cache_position`, which said so before, is gone.",
)
row(
    S,
    "`past_key_values`: the cache holds something, the prompt went in before",
    "not requires_prompt_injection",
    P,
    NEEDED,
    False,
    BRANCHES + "last_token_alone_where_the_rest_is_cached[cache-prompted]",
    lambda: step("prompt", cache=filled, input_ids=LONGER, attention_mask=LONGER_MASK),
    also=(("if virtual_queries:", False),),
)
row(
    S,
    "`past_key_values`: prefix tuning needs its prompt, a cache with the prefix",
    "requires_prompt_injection and peft_type == PREFIX_TUNING",
    P,
    NEEDED,
    True,
    BRANCHES + "injection_where_there_is_nothing_yet[empty cache-prefixed]",
    lambda: step("prefix", cache=empty, attention_mask=MASK),
)
row(
    S,
    "`past_key_values`: prefix tuning, how long the cache may become",
    "max_cache_len",
    P,
    'kwargs["past_key_values"] = self.get_prompt(',
    None,
    HERE + "static_cache[prefix]",
    lambda: generate("prefix", cache_implementation="static"),
    here="The prefix goes into the cache that there is, whatever its kind; `generate` "
    "has made room in it. peft crashes where a cache of fixed size was asked for.",
)
row(
    S,
    "`attention_mask`: none",
    "attention_mask is None",
    MASKS,
    "if attention_mask is None:",
    True,
    BRANCHES + "new_tokens_alone[prompted]",
    lambda: step("prompt", cache=filled, input_ids=LONGER),
)
row(
    S,
    "`attention_mask`: [batch, sequence]",
    "attention_mask.dim() != 4",
    MASKS,
    "if attention_mask.dim() == 4:",
    False,
    BRANCHES + "injection_where_there_is_nothing_yet[empty cache-prompted]",
    lambda: step("prompt", cache=empty, attention_mask=MASK),
    also=(("if isinstance(attention_mask, dict):", False),),
    here="It is extended before the base model prepares, not after: with a static cache the base "
    "model makes one of four dimensions of it, which then has "
    "the virtual tokens. So only a caller brings a 4-D mask.",
)
row(
    S,
    "`attention_mask`: [batch, heads, query, key], first step, virtual tokens in the sequence",
    "is_prefill and peft_type != PREFIX_TUNING",
    MASK_4D,
    "if not virtual_queries:",
    False,
    BRANCHES + "4d_mask_at_the_first_and_at_a_later_step[prompted]",
    lambda: step("prompt", attention_mask=square(), lenient=True),
    here="The specification makes a new mask of ones, and so forgets padding; here "
    "the given one is kept and gets columns and rows for the virtual tokens.",
)
row(
    S,
    "`attention_mask`: [batch, heads, query, key], prefix tuning or a later step",
    "else (cache_position_ = model_kwargs['cache_position'])",
    MASK_4D,
    "if not virtual_queries:",
    True,
    BRANCHES + "4d_mask_at_the_first_and_at_a_later_step[prefixed]",
    lambda: step("prefix", attention_mask=square(), lenient=True),
    here="Columns only: no query belongs to the prefix.",
)
row(
    S,
    "`attention_mask`: four dimensions, numbers to add",
    "attention_mask.dim() == 4",
    MASK_4D,
    "additive = ",
    None,
    BRANCHES + "what_a_4d_mask_becomes[additive]",
    lambda: step("prompt", attention_mask=square(additive=True), lenient=True),
    shows=lambda seen: seen.made["additive"].value is True,
    also=(("attend, masked = ", None),),
)
row(
    S,
    "`attention_mask`: four dimensions, yes and no",
    "attention_mask.dim() == 4",
    MASKS,
    "if attention_mask.dim() == 4:",
    True,
    BRANCHES + "what_a_4d_mask_becomes[bool]",
    lambda: step("prompt", attention_mask=square(), lenient=True),
)
row(
    S,
    "`attention_mask`: a dictionary of one mask",
    "isinstance(attention_mask, dict)",
    ONLY,
    "if len(attention_mask) != 1:",
    False,
    BRANCHES + "dictionary_of_one_mask_in_a_decoding_step",
    lambda: step("prompt", attention_mask={"full_attention": MASK}),
)
row(
    S,
    "`attention_mask`: a dictionary of several masks",
    "len(attention_mask) != 1",
    ONLY,
    "if len(attention_mask) != 1:",
    True,
    BRANCHES + "dictionary_of_several_masks[prompted]",
    lambda: step("prompt", attention_mask={"full_attention": MASK, "sliding_attention": MASK}),
    ends="ValueError",
    here="The message says what to pass instead.",
)
row(
    S,
    "`attention_mask`: it came in a dictionary",
    "isinstance(attention_mask, dict)",
    MASKS,
    "if isinstance(attention_mask, dict):",
    True,
    BRANCHES + "4d_mask_in_forward[dictionary-bool-prompted]",
    lambda: forward("prompt", attention_mask={"full_attention": square()}),
    here="forward takes these masks too.",
)
row(
    S,
    "`attention_mask`: not [batch, sequence]: it comes back as it is",
    "attention_mask.dim() == 4",
    ASK,
    "if plain is not attention_mask:",
    True,
    BRANCHES + "4d_mask_at_the_first_and_at_a_later_step[prompted]",
    lambda: step("prompt", attention_mask=square()),
    also=(("plain = attention_mask if", None),),
    here="The base model prepares without it: it might count positions in it, or make a mask of its own of it.",
)
row(
    S,
    "`attention_mask`: [batch, sequence]: the base model gets it to prepare",
    "attention_mask.dim() != 4",
    ASK,
    "if plain is not attention_mask:",
    False,
    BRANCHES + "injection_where_there_is_nothing_yet[empty cache-prompted]",
    lambda: step("prompt", cache=empty, attention_mask=MASK),
)
row(
    S,
    "`inputs_embeds`: the prompt goes before the embeddings of the ids; the ids go",
    "requires_prompt_injection and peft_type != PREFIX_TUNING",
    P,
    "if virtual_queries:",
    True,
    BRANCHES + "injection_where_there_is_nothing_yet[no cache-prompted]",
    lambda: step("prompt", attention_mask=MASK),
    shows=lambda seen: seen.returned.items and "inputs_embeds" in seen.returned.items,
)
row(
    S,
    "`inputs_embeds`: the caller gave ids",
    "inputs_embeds = self.word_embeddings(input_ids)",
    WITH,
    "        if inputs_embeds is None:",
    True,
    REFERENCE + "generate_from_embeddings[ids-prompt]",
    lambda: generate("prompt"),
)
row(
    S,
    "`inputs_embeds`: the caller gave embeddings",
    "",
    WITH,
    "        if inputs_embeds is None:",
    False,
    REFERENCE + "generate_from_embeddings[embeddings-prompt]",
    lambda: recording(
        lambda m: m.generate(inputs_embeds=embeds(m), max_new_tokens=2, do_sample=False), model_of("prompt")
    ),
    here="The specification embeds `input_ids`, which are empty then.",
)
row(
    S,
    "`input_ids`: the cache is made of tuples",
    "isinstance(past_key_values, (tuple, list))",
    CACHED,
    "if isinstance(past_key_values, (tuple, list)):",
    True,
    BRANCHES + "last_token_alone_where_the_rest_is_cached[tuples-prompted]",
    lambda: step("prompt", "gpt2", cache=tuples, input_ids=LONGER, attention_mask=LONGER_MASK, lenient=True),
)
row(
    S,
    "`input_ids`: the cache is a transformers cache",
    "else",
    CACHED,
    "if isinstance(past_key_values, (tuple, list)):",
    False,
    BRANCHES + "last_token_alone_where_the_rest_is_cached[cache-prompted]",
    lambda: step("prompt", cache=filled, input_ids=LONGER, attention_mask=LONGER_MASK),
)
row(
    S,
    "`input_ids`: what is cached is not computed again; the new ones stay",
    'seq_len >= model_kwargs["input_ids"].shape[1]',
    P,
    "elif not _has_state(kwargs):",
    True,
    BRANCHES + "last_token_alone_where_the_rest_is_cached[cache-prefixed]",
    lambda: step("prefix", cache=filled, input_ids=LONGER, attention_mask=LONGER_MASK),
    also=(("elif inputs_embeds is not None and", False), ('model_kwargs["input_ids"] = input_ids[', None)),
    here="The virtual tokens in the cache are not counted as tokens, so that several new ones stay several.",
)
row(
    S,
    "`input_ids`: the base model carries a recurrent state: its choice stays",
    "",
    P,
    "elif not _has_state(kwargs):",
    False,
    HERE + "a_recurrent_state_has_seen_all_but_one",
    lambda: state_step(),
    here="Not in the specification.",
)
row(
    S,
    "`input_ids`: the text came as embeddings, behind a prefix: so the new ones",
    "",
    P,
    "elif inputs_embeds is not None and",
    True,
    REFERENCE + "generate_from_embeddings[embeddings-prefix]",
    lambda: recording(
        lambda m: m.generate(inputs_embeds=embeds(m), max_new_tokens=2, do_sample=False), model_of("prefix")
    ),
    here="Not in the specification, which leaves them to the base model.",
)
CROP, CROPPED = CLASS + "_empty_where_cropped", BRANCHES + "a_cache_cropped_into_the_virtual_tokens"
row(
    S,
    "the cache was not cropped: transformers 5 knows how many tokens to take off",
    "",
    CROP,
    "if SLICES_BY_LENGTH or not past_length:",
    True,
    CROPPED + "[prompted-False]",
    lambda: cropped(2, by_length=True),
    here="Not in the specification.",
)
row(
    S,
    "the cache may have been cropped, by assisted generation of transformers 4",
    "",
    CROP,
    "if SLICES_BY_LENGTH or not past_length:",
    False,
    CROPPED + "[prompted-True]",
    lambda: cropped(2),
    also=(("needed = ", None),),
    here="Not in the specification: it crops to a number of tokens that does not "
    "count virtual ones. Recorded with the switch for transformers 4 set.",
)
row(
    S,
    "the cache was cropped into the virtual tokens: it is emptied, and the prompt goes in anew",
    "",
    CROP,
    "if past_length < needed:",
    True,
    CROPPED + "[prefixed-False]",
    lambda: cropped(V - 1),
    here="Not in the specification.",
)
row(
    S,
    "all virtual tokens are left: what is missing of the text is computed again",
    "",
    CROP,
    "if past_length < needed:",
    False,
    CROPPED + "[prefixed-True]",
    lambda: cropped(V),
    here="Not in the specification.",
)
row(
    S,
    "how many are new: `generate` says so",
    "",
    COUNT,
    'kwargs.get("next_sequence_length") is not None and',
    True,
    HERE + "how_many_tokens_are_new",
    lambda: step(
        "prompt",
        cache=filled,
        input_ids=LONGER,
        attention_mask=LONGER_MASK,
        next_sequence_length=1,
        lenient=True,
    ),
    here="In transformers 5 it does, after the first step.",
)
row(
    S,
    "how many are new: it does not say",
    "",
    COUNT,
    'kwargs.get("next_sequence_length") is not None and',
    False,
    BRANCHES + "new_tokens_alone[prompted]",
    lambda: step("prompt", attention_mask=MASK),
    here="At the first step it does not know what else is in the cache; transformers 4 never says.",
)
row(
    S,
    "how many are new: behind a recurrent state, one",
    "",
    COUNT,
    "if _has_state(kwargs):",
    True,
    HERE + "how_many_tokens_are_new",
    lambda: state_step(),
    here="Not in the specification: a state does not say how many tokens it has seen.",
)
row(
    S,
    "how many are new: those of the mask that are not in the cache",
    "",
    COUNT,
    'elif _is_plain(kwargs.get("attention_mask")):',
    True,
    HERE + "how_many_tokens_are_new",
    lambda: step("prompt", cache=filled, input_ids=LONGER, attention_mask=LONGER_MASK),
    also=(("if _has_state(kwargs):", False),),
    here="The mask is for all tokens, whatever the ids are for.",
)
row(
    S,
    "how many are new: there is no such mask, so the embeddings that are not in the cache",
    "",
    COUNT,
    "elif inputs_embeds is not None:",
    True,
    HERE + "how_many_tokens_are_new",
    lambda: step("prompt", input_ids=IDS[:, :0], inputs_embeds=True, lenient=True),
    also=(('elif _is_plain(kwargs.get("attention_mask")):', False),),
    here="Not in the specification.",
)
row(
    S,
    "how many are new: there are ids alone, those that are not in the cache",
    'seq_len >= model_kwargs["input_ids"].shape[1]',
    COUNT,
    "return input_ids.shape[1] - (",
    None,
    HERE + "how_many_tokens_are_new",
    lambda: step("prompt", cache=filled, input_ids=LONGER),
    also=(("elif inputs_embeds is not None:", False),),
)
row(
    S,
    "how many are new: the cache holds more than the ids, so all of them",
    'seq_len >= model_kwargs["input_ids"].shape[1]',
    COUNT,
    "return input_ids.shape[1] - (",
    None,
    BRANCHES + "new_tokens_alone[prompted]",
    lambda: step("prompt", cache=filled, input_ids=IDS[:, :3]),
    shows=lambda seen: seen.before["past_length"].value == 5 and seen.returned.value == 3,
    here="The specification keeps the last token alone whenever the cache is at least as long as the ids.",
)
row(
    S,
    "the base model is told how many tokens are new, virtual ones included (transformers 5)",
    "",
    EXTEND,
    "if SLICES_BY_LENGTH:",
    True,
    HERE + "told_by_cache_position_or_by_length",
    lambda: by_era(True),
    also=(('kwargs["next_sequence_length"] = queries', None),),
    here="Not in the specification: transformers 5 slices by this number.",
)
row(
    S,
    "the base model is not told so (transformers 4)",
    "",
    EXTEND,
    "if SLICES_BY_LENGTH:",
    False,
    HERE + "told_by_cache_position_or_by_length",
    lambda: by_era(False),
    here="Not in the specification: transformers 4 slices by "
    "`cache_position`. Recorded with the switch for transformers 4 set.",
)
row(
    S,
    "`cache_position`: moved behind the prefix before the base model prepares",
    "is_prefill and peft_type == PREFIX_TUNING",
    EXTEND,
    'if kwargs.get("cache_position") is not None:',
    True,
    BRANCHES + "cache_position_counts_virtual_tokens[prefixed]",
    lambda: step("prefix", attention_mask=MASK, cache_position=torch.arange(5), lenient=True),
    also=(('kwargs["cache_position"] = torch.arange(queries', None),),
    shows=lambda seen: (
        seen.trace.value(seen.trace.roots[0].returned).items
        and seen.trace.value(seen.trace.value(seen.trace.roots[0].returned).items["cache_position"]).nested()
        == [3, 4, 5, 6, 7]
    ),
    here="transformers 5 knows it no longer; where it is passed, it becomes what the cache says.",
)
row(
    S,
    "`cache_position`: none",
    "",
    EXTEND,
    'if kwargs.get("cache_position") is not None:',
    False,
    HERE + "told_by_cache_position_or_by_length",
    lambda: step("prefix", attention_mask=MASK, lenient=True),
    here="transformers 5 has none.",
)
row(
    S,
    "`cache_position`: it stays behind a prefix",
    "peft_type == PREFIX_TUNING",
    ASK,
    "if self.active_peft_config.peft_type != PeftType.PREFIX_TUNING and",
    False,
    BRANCHES + "cache_position_counts_virtual_tokens[prefixed]",
    lambda: step(
        "prefix",
        cache=filled,
        input_ids=LONGER,
        attention_mask=LONGER_MASK,
        cache_position=torch.arange(5, 6),
        lenient=True,
    ),
    shows=lambda seen: (
        seen.trace.value(seen.trace.value(seen.trace.roots[0].returned).items["cache_position"]).nested()
        == [8]
    ),
    here="At a later step, too, it counts the prefix.",
)
row(
    S,
    "`cache_position`: taken out where virtual tokens are in the sequence",
    "peft_type != PREFIX_TUNING",
    ASK,
    "if self.active_peft_config.peft_type != PeftType.PREFIX_TUNING and",
    True,
    BRANCHES + "cache_position_counts_virtual_tokens[prompted]",
    lambda: step("prompt", attention_mask=MASK, cache_position=torch.arange(5), lenient=True),
    shows=lambda seen: "cache_position" not in seen.trace.value(seen.trace.roots[0].returned).items,
)
row(
    S,
    "`position_ids`: ours, or the caller's moved, stay",
    "",
    ASK,
    'if "position_ids" in kwargs:',
    True,
    HERE + "behind_padding_is_as_without_in_generate[prompt]",
    lambda: generate("prompt", corrected=True, attention_mask=MASK),
    shows=lambda seen: seen.base["position_ids"].nested()[0][2:] == [0, 1, 2, 3, 4, 5],
    here="Not in the specification: `corrected_positions=True`, or a prefix (see forward).",
)
row(
    S,
    "`position_ids`: none; the base model's own go, and it counts when it runs",
    "",
    ASK,
    'if "position_ids" in kwargs:',
    False,
    PARITY + "greedy_generate[keyword-left-prompt-llama]",
    lambda: generate("prompt", attention_mask=MASK),
    also=(("if self.base_model_counts_in_mask and", False),),
    shows=lambda seen: "position_ids" not in seen.base,
    here="The specification does not name them. transformers 4 prepares some, from the "
    "mask; forward drops them before a prompt, and a text goes on as forward says.",
)
row(
    S,
    "`position_ids`: a model that counts in the mask, which has four dimensions: so we count",
    "",
    ASK,
    "if self.base_model_counts_in_mask and",
    True,
    HERE + "a_model_that_counts_in_the_mask[mask]",
    lambda: generate("prompt", "opt", attention_mask=MASK, cache_implementation="static"),
    also=(('model_kwargs["position_ids"] = _count_positions(', None),),
    here="Not in the specification: OPT counts in a mask [batch, sequence], and with a static cache it gets none.",
)
row(
    S,
    "`task_ids`: POLY gets them at every step",
    "peft_config.peft_type == PeftType.POLY",
    P,
    "if peft_config.peft_type == PeftType.POLY and",
    True,
    HERE + "poly_gives_each_row_its_task_in_generate",
    lambda: generate("poly", task_ids=TASKS),
)
row(
    S,
    "`task_ids`: no other method that changes layers does",
    "peft_config.peft_type != PeftType.POLY",
    P,
    "if peft_config.peft_type == PeftType.POLY and",
    False,
    PARITY + "greedy_generate[keyword-none-lora-gpt2]",
    lambda: generate("lora", "gpt2"),
)
