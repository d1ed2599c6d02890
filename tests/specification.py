"""The map of the specification: one row for each way a decision of the specification can go.

A row says when, which line of the reference decides it, which test reaches that line with that outcome, and how
to make a recording that takes that way. nbs/reference/50_specification.ipynb draws the rows (with
specification_page.py), test_specification.py checks them.

**How a row finds its line.** Line numbers are never typed. A row names a function and a *mark*: how the shape of the
deciding statement begins. The shape of a statement is its code, on one line, in which each local variable and each
argument of the function is written `_`:

    if peft_config.peft_type == PeftType.POLY:      if _.peft_type == PeftType.POLY:
    if labels is None:                              if _ is None:

So a mark survives a renamed variable, a moved line and another line break. Where several statements of the function
begin alike, the mark ends with the number of the one that is meant: `if _ is None #2`.

What no row leads to is in the appendix, which `left_over` makes from the code: see `Branch`."""

import ast, importlib, inspect, re, textwrap, warnings
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
from peft_viz import generation
from peft_viz.reference.causal_lm import get_peft_model, PeftModelForCausalLM
from peft_viz.reference.config import CPTConfig, get_peft_config
from peft_viz.zoo.models import tiny_random
from peft_viz.recording.calls import Visit, Watched
from peft_viz.recording.doors import visited
from peft_viz.recording.recorder import record, Recorder
from peft_viz.recording.trace import Trace

HOME = Path(peft_viz.__file__).parent
TESTS = Path(__file__).resolve().parent
ERA_4 = transformers.__version__.startswith("4.")  # there, generate says where it is with `cache_position`


# ---- a row, and where its line stands -------------------------------------------------------------------------


ANCHORS = {"Class description": "class", "_cpt_forward": "cpt", "prepare_inputs_for_generation": "prepare"}


@dataclass
class Row:
    section: str  # of the specification
    when: str  # the condition, in words
    code: str  # the specification's own condition
    where: str  # module and function that decide it here
    mark: str  # how the shape of the deciding statement begins: see above
    outcome: bool | None  # of an `if`; None: the line is reached
    test: str  # the test that comes by with this outcome
    take: Callable[[], Trace]  # makes a recording that takes this way
    here: str = ""  # what this reference does otherwise, and why
    also: tuple = ()  # more (mark, outcome) that the recording and the test take with it
    ends: str | None = None  # the name of the exception that the deciding call ends with
    shows: Callable = lambda seen: True  # a question to the values that were measured there
    number: int = 0  # within its section

    @property
    def id(self):  # the anchor on the page, to which docstrings link
        return f"{ANCHORS.get(self.section, self.section)}-{self.number}"

    @property
    def decisions(self):
        marks = [(self.mark, self.outcome), *self.also]
        return [(find(self.where, mark), outcome) for mark, outcome in marks]

    @property
    def line(self):
        return self.decisions[0][0]

    @property
    def module(self):
        return self.where.partition(":")[0]

    @property
    def file(self):  # inside the package
        return f"reference/{self.module.replace('.', '/')}.py"

    @property
    def function(self):  # without its class
        return self.where.rpartition(":")[2].rpartition(".")[2]


@lru_cache
def function(where: str):
    "`causal_lm:PeftModelForCausalLM.forward` -> the function itself."
    module, _, name = where.partition(":")
    return inspect.unwrap(attrgetter(name)(importlib.import_module(f"peft_viz.reference.{module}")))


@lru_cache
def source(where: str):  # the lines of a function, and the number of the first
    return inspect.getsourcelines(function(where))


@lru_cache
def find(where: str, mark: str) -> int:
    "The line of the statement that the mark leads to; LookupError unless there is exactly one."
    lines, first = source(where)
    return first - 1 + marked("".join(lines), mark, where)


def marked(text: str, mark: str, where: str) -> int:
    "The same in the text of a function; its first line is line 1."
    beginning, _, number = mark.partition(" #")
    found = [line for line, shape in shapes(text) if shape.startswith(beginning)]
    if number and int(number) <= len(found):
        found = [found[int(number) - 1]]
    if len(found) != 1:
        raise LookupError(
            f"{mark!r} leads to {len(found)} statements of {where}, not to one: see specification.py"
        )
    return found[0]


@lru_cache
def shapes(text: str) -> list:
    "(line, shape) of each statement of a function, in their order."
    tree = ast.parse(textwrap.dedent(text))
    own = own_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in own:
            node.id = "_"
    shape = lambda node: re.sub(
        r"^\(([^()]*)\) = ", r"\1 = ", ast.unparse(node).partition("\n")[0]
    )  # as on 3.10
    return [(node.lineno, shape(node)) for node in statements_of(tree)]


def own_names(tree) -> set:
    "The arguments and local variables of a function, without `self`."
    nodes = list(ast.walk(tree))
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return stored | {node.arg for node in nodes if isinstance(node, ast.arg)} - {"self"}


def statements_of(tree) -> list:
    "The statements of a function, in their order."
    found = [node for node in ast.walk(tree.body[0]) if isinstance(node, ast.stmt)]
    return sorted(found[1:], key=attrgetter("lineno"))


def statement(where: str, line: int):
    "The statement of a function that begins in a line of its file, parsed."
    lines, first = source(where)
    tree = ast.increment_lineno(ast.parse(textwrap.dedent("".join(lines))), first - 1)
    return next(node for node in statements_of(tree) if node.lineno == line)


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
                raise  # a key pressed now, and not by a row
        finally:
            logging.set_verbosity(verbosity)


FOLLOWED = []  # functions that a recording follows besides those that it follows anyway


class Following(Watched):
    "Follows the functions in `FOLLOWED`, too: also where they run before there is a model to watch, or beside it."

    def __init__(self, model):
        super().__init__(model, [])
        self.home, self.first = f"{HOME}/", {f.__code__ for f in FOLLOWED}
        self.verdicts, self.ignored = {}, set()  # its own: the usual recordings follow fewer functions

    def _verdict(self, frame):
        return "entry" if frame.f_code in self.first else super()._verdict(frame)

    def _now(self, verdict, frame, top):
        return frame.f_code in self.first or super()._now(verdict, frame, top)


def recording(act, model):
    "What happens while `act(model)` runs."
    recorder = record(model)
    recorder.watched = Following(recorder.model)
    with quiet(), recorder:
        act(model)
    return recorder.trace


@contextmanager
def slicing(by_length):
    """As with transformers 5, which tells the base model how many tokens are new, or as with 4, which tells
    their places in the cache."""
    now, generation.SLICES_BY_LENGTH = generation.SLICES_BY_LENGTH, by_length
    try:
        yield
    finally:
        generation.SLICES_BY_LENGTH = now


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


def making(act, base=None):
    "What happens in the functions in `FOLLOWED` while `act(base model)` runs: no model of ours is there yet."
    recorder = Recorder(tiny_random("llama") if base is None else base)
    recorder.watched = Following(recorder.model)
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
    "generate around a base model whose own preparation was replaced."
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


def recorded(row: Row):
    "The recording of a row, and the moment in it. The row's function is followed wherever it is called."
    FOLLOWED.append(function(row.where))
    try:
        trace = row.take()
    finally:
        FOLLOWED.pop()
    return trace, measure(row, trace)


def only(values):
    "The numbers of the first thing that a line made, whatever it is called."
    value = next(iter(values.values()))
    return value.nested() if value.kind == "tensor" else value.value


def taken(call, number, outcome):
    "Indices of the steps of a call at a line with an outcome."
    return [i for i, s in enumerate(call.steps) if s.line == number and outcome in (None, s.branch)]


def measure(row: Row, trace: Trace) -> Seen:
    """The first moment in the trace that is as the row says, if there is one also as it shows; LookupError when
    there is none."""
    found = []
    for call in trace.calls:
        here = call.source is not None and trace.sources[call.source].file == f"peft_viz/{row.file}"
        if not here or call.function.rpartition(".")[2] != row.function:
            continue
        if row.ends != (call.raised or {}).get("type"):
            continue
        at = [taken(call, number, outcome) for number, outcome in row.decisions]
        if all(at):
            found += [moment(trace, call, index) for index in at[0]]
    if not found:
        raise LookupError(
            f"the recording of row {row.id} does not take {row.mark!r} with outcome {row.outcome}"
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


def tests_of(name: str) -> str:
    "How the names of the tests in test_`name`.py begin, wherever that file stands."
    (file,) = TESTS.rglob(f"test_{name}.py")
    return f"{file.relative_to(TESTS.parent).as_posix()}::test_"


PARITY, MORE, REFERENCE, ERRORS, BRANCHES = (
    tests_of(name) for name in ("parity", "parity_more", "reference", "reference_errors", "branches")
)
HERE, PROMPT = tests_of("specification"), tests_of("prompt_branches")
CLASS = "causal_lm:PeftModelForCausalLM."
ROWS: list[Row] = []


def row(section, *told, **more):
    number = 1 + sum(r.section == section for r in ROWS)
    ROWS.append(Row(section, *told, number=number, **more))


# ---- the class

S = "Class description"
INIT, WRAP = "model:PeftModel.__init__", "causal_lm:get_peft_model"


def wrapped(method, dtype=torch.float32, **how):
    return making(
        lambda base: PeftModelForCausalLM(base, config(method), **how),
        base=tiny_random("llama").to(dtype),
    )


def got(method, **how):
    return making(lambda base: get_peft_model(base, config(method), **how))


row(
    S,
    "the method puts virtual tokens before the real ones",
    "peft_config.is_prompt_learning",
    INIT,
    "if _.is_prompt_learning",
    True,
    PARITY + "same_names[prompt-llama]",
    lambda: wrapped("prompt"),
)
row(
    S,
    "the method changes layers of the base model",
    "not peft_config.is_prompt_learning",
    INIT,
    "if _.is_prompt_learning",
    False,
    PARITY + "same_names[lora-llama]",
    lambda: wrapped("lora"),
)
row(
    S,
    "float16 and bfloat16 adapter weights become float32",
    "autocast_adapter_dtype",
    INIT,
    "if _:",
    True,
    PARITY + "adapter_dtype[True-llama]",
    lambda: wrapped("lora", torch.bfloat16),
)
row(
    S,
    "adapter weights keep the base model's number type",
    "not autocast_adapter_dtype",
    INIT,
    "if _:",
    False,
    PARITY + "adapter_dtype[False-llama]",
    lambda: wrapped("lora", torch.bfloat16, autocast_adapter_dtype=False),
)
row(
    S,
    "an attribute that only the base model has",
    "model.config",
    "model:PeftModel.__getattr__",
    "return getattr(self.base_model, _)",
    None,
    REFERENCE + "attributes_of_the_base_model[lora]",
    lambda: making(lambda m: m.config, base=model_of("lora")),
    here="The specification only says that the class inherits this from PeftModel.",
)


row(
    S,
    "`get_peft_model` makes the model, and its configurations note the base model's name",
    "PeftModelForCausalLM(model, peft_config)",
    WRAP,
    "for _ in _.peft_config.values()",
    None,
    REFERENCE + "attributes_of_the_base_model[prompt]",
    lambda: got("prompt"),
    also=(("if _ or _", False), ("if _.task_type is None", False)),
)


# ---- forward

S, F = "forward", CLASS + "forward"
MPT = "if self.base_model.config.model_type == 'mpt'"
INTO_CACHE = "_['past_key_values'] = self.get_prompt("
WARN, WARN_OF_POSITIONS = "calls:check_prompt_inputs", "calls:warn_of_positions"
MASK_OF, OTHER_MASK, PLAIN = "place:Place.mask", "place:Place._other_mask", "if getattr(_, 'ndim', None) != 2"
NO_LENGTH = (
    "`get_prompt` has no `max_cache_len`: the cache of a prefix grows, and where `generate` makes one "
    "of fixed length, it makes it longer by the virtual tokens."
)
row(
    S,
    "the method changes layers (LoRA, AdaLoRA, IA3, POLY)",
    "not peft_config.is_prompt_learning",
    F,
    "if not _.is_prompt_learning",
    True,
    PARITY + "forward_and_gradients[train-input_ids-left-lora-llama]",
    lambda: forward("lora", attention_mask=MASK, labels=LABELS),
)
row(
    S,
    "the method has virtual tokens",
    "peft_config.is_prompt_learning",
    F,
    "if not _.is_prompt_learning",
    False,
    PARITY + "forward_and_gradients[train-input_ids-left-prompt-llama]",
    lambda: forward("prompt", attention_mask=MASK, labels=LABELS),
)
row(
    S,
    "an MPT model is given embeddings",
    'model_type == "mpt" and inputs_embeds is not None',
    F,
    "if _ is not None",
    True,
    BRANCHES + "mpt_refuses_embeddings_where_layers_are_changed[LORA]",
    lambda: forward("lora", "mpt", inputs_embeds=True),
    ends="AssertionError",
    here="Today's MPT takes embeddings; the refusal stays because the specification and peft "
    "have it. With the adapters switched off, or with virtual tokens, MPT does take them.",
    also=((MPT, True),),
)
row(
    S,
    "an MPT model is given ids: straight to the base model, without hooks",
    'model_type == "mpt" and inputs_embeds is None',
    F,
    "if _ is not None",
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
    F,
    MPT,
    False,
    BRANCHES + "another_family_runs_with_hooks",
    lambda: forward("lora", "gpt2", attention_mask=MASK),
)
row(
    S,
    "POLY: the tasks of the rows go along",
    "peft_config.peft_type == PeftType.POLY",
    F,
    "if _.peft_type == PeftType.POLY",
    True,
    HERE + "poly_gives_each_row_its_task",
    lambda: forward("poly", task_ids=TASKS, attention_mask=MASK),
)
row(
    S,
    "not POLY: the base model gets no tasks",
    "peft_config.peft_type != PeftType.POLY",
    F,
    "if _.peft_type == PeftType.POLY",
    False,
    PARITY + "forward_and_gradients[eval-input_ids-left-lora-llama]",
    lambda: forward("lora", attention_mask=MASK, task_ids=TASKS),
    shows=lambda seen: "task_ids" not in seen.base,
)
row(
    S,
    "the method's hooks are on while the base model runs",
    "with self._enable_peft_forward_hooks(**kwargs)",
    F,
    "with self._enable_peft_forward_hooks(",
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

row(
    S,
    "the batch is counted in `input_ids`",
    "_get_batch_size(input_ids, inputs_embeds)",
    F,
    "_, _ = (_ if _ is None else _).shape",
    None,
    PARITY + "forward_and_gradients[train-input_ids-none-prompt-llama]",
    lambda: forward("prompt"),
    shows=lambda seen: seen.before["input_ids"].kind == "tensor" and seen["inputs_embeds"] is None,
)
row(
    S,
    "the batch is counted in `inputs_embeds`",
    "_get_batch_size(input_ids, inputs_embeds)",
    F,
    "_, _ = (_ if _ is None else _).shape",
    None,
    PARITY + "forward_and_gradients[train-inputs_embeds-none-prompt-llama]",
    lambda: forward("prompt", inputs_embeds=True),
    shows=lambda seen: seen.before["inputs_embeds"].kind == "tensor" and seen["input_ids"] is None,
)
row(
    S,
    "neither ids nor embeddings",
    "_get_batch_size(input_ids, inputs_embeds)",
    "calls:check_inputs",
    "if _ is None",
    True,
    ERRORS + "neither_or_both_inputs[prompt]",
    lambda: forward("prompt", input_ids=None),
    ends="ValueError",
)
row(
    S,
    "both ids and embeddings",
    "_get_batch_size(input_ids, inputs_embeds)",
    "calls:check_prompt_inputs",
    "need(_ is None or _ is None, 'pass",
    None,
    ERRORS + "neither_or_both_inputs[prompt]",
    lambda: forward("prompt", input_ids=IDS, inputs_embeds=True),
    ends="ValueError",
)

row(
    S,
    "there is a mask: ones for the virtual tokens in front",
    "attention_mask is not None",
    MASK_OF,
    PLAIN,
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
    OTHER_MASK,
    "if _ is None",
    True,
    PARITY + "forward_and_gradients[eval-input_ids-none-prompt-llama]",
    lambda: forward("prompt"),
    shows=lambda seen: "attention_mask" not in seen.base,
)

row(
    S,
    "virtual tokens stand in front of everything",
    "torch.cat((prefix_attention_mask, attention_mask), dim=1)",
    "place:InFront.insert",
    "return torch.cat(",
    None,
    PARITY + "what_the_base_model_is_told[prompt-llama]",
    lambda: forward("prompt", attention_mask=MASK),
    shows=lambda seen: seen.base["attention_mask"].nested()[0] == [1, 1, 1, 0, 0, 1, 1, 1],
    here="As the specification and peft have it: padding on the left "
    "comes between the virtual tokens and the text, and is counted.",
)


row(
    S,
    "`position_ids` are given: a warning",
    'kwargs.get("position_ids") is not None',
    WARN_OF_POSITIONS,
    "if _.get('position_ids')",
    True,
    PARITY + "given_positions_are_dropped_before_a_prompt[llama]",
    lambda: forward("prompt", position_ids=torch.arange(5).expand(2, -1)),
)
row(
    S,
    "and they are dropped",
    'kwargs["position_ids"] = None',
    "place:Place.positions",
    "return ",
    None,
    PARITY + "given_positions_are_dropped_before_a_prompt[llama]",
    lambda: forward("prompt", position_ids=torch.arange(5).expand(2, -1)),
    shows=lambda seen: "position_ids" not in seen.base,
)
row(
    S,
    "`position_ids` are given with a prefix: they count on behind it",
    'kwargs.get("position_ids") is not None',
    "place:Place._own_positions",
    "if _.get('position_ids')",
    True,
    HERE + "positions_behind_a_prefix",
    lambda: forward("prefix", position_ids=torch.arange(5).expand(2, -1)),
    shows=lambda seen: seen.base["position_ids"].nested()[0] == [3, 4, 5, 6, 7],
    here="The specification, and peft up to 0.18, drop them with a warning here too. peft 0.21 "
    "and this reference add the length of the prefix: the text stands behind it.",
)


row(
    S,
    "no `position_ids` are given: no warning",
    'kwargs.get("position_ids") is None',
    WARN_OF_POSITIONS,
    "if _.get('position_ids')",
    False,
    PARITY + "no_warning_without_a_reason[prompt]",
    lambda: forward("prompt", attention_mask=MASK),
)
row(
    S,
    "`token_type_ids` are given: a warning, and they are dropped",
    'kwargs.get("token_type_ids") is not None',
    WARN,
    "if _.get('token_type_ids')",
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
    "if _.get('token_type_ids')",
    False,
    PARITY + "no_warning_without_a_reason[prefix]",
    lambda: forward("prefix", attention_mask=MASK),
)

row(
    S,
    "prefix tuning",
    "peft_config.peft_type == PeftType.PREFIX_TUNING",
    F,
    "if _.peft_type == PeftType.PREFIX_TUNING",
    True,
    PARITY + "forward_and_gradients[train-input_ids-left-prefix-llama]",
    lambda: forward("prefix", attention_mask=MASK, labels=LABELS),
    also=(("if _.is_past", False),),
)
row(
    S,
    "prefix tuning: the length of the cache, from `input_ids`",
    "input_ids is not None",
    F,
    INTO_CACHE,
    None,
    HERE + "no_cache_is_told_its_length[input_ids]",
    lambda: forward("prefix"),
    shows=lambda seen: seen.base["input_ids"].shape == (2, 5) and seen.base["past_key_values"].length == V,
    here=NO_LENGTH,
)
row(
    S,
    "prefix tuning: the length of the cache, from `inputs_embeds`",
    "input_ids is None",
    F,
    INTO_CACHE,
    None,
    HERE + "no_cache_is_told_its_length[inputs_embeds]",
    lambda: forward("prefix", inputs_embeds=True),
    shows=lambda seen: (
        seen.base["inputs_embeds"].shape[:2] == (2, 5) and seen.base["past_key_values"].length == V
    ),
    here=NO_LENGTH,
)
row(
    S,
    "prefix tuning: virtual tokens go into the cache, labels stay",
    'kwargs["past_key_values"] = self.get_prompt(...)',
    F,
    INTO_CACHE,
    None,
    PARITY + "what_the_base_model_is_told[prefix-llama]",
    lambda: forward("prefix", attention_mask=MASK, labels=LABELS),
    shows=lambda seen: seen.base["past_key_values"].length == V and seen.base["labels"].shape == (2, 5),
)
row(
    S,
    "CPT has a forward of its own",
    "peft_config.peft_type == PeftType.CPT",
    F,
    "if _.peft_type == PeftType.CPT",
    True,
    PARITY + "forward_and_gradients[train-input_ids-left-cpt-llama]",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS),
)
row(
    S,
    "any other prompt method: virtual tokens before the embeddings",
    "else",
    F,
    "if _.peft_type == PeftType.CPT",
    False,
    PARITY + "forward_and_gradients[train-input_ids-left-multitask-llama]",
    lambda: forward("multitask", attention_mask=MASK, task_ids=TASKS),
    also=(("if _.peft_type == PeftType.PREFIX_TUNING", False),),
)
row(
    S,
    "ids are given: the base model's embeddings of them",
    "inputs_embeds is None",
    F,
    "if _ is None",
    True,
    PARITY + "forward_and_gradients[eval-input_ids-left-prompt-llama]",
    lambda: forward("prompt", attention_mask=MASK),
)
row(
    S,
    "embeddings are given",
    "inputs_embeds is not None",
    F,
    "if _ is None",
    False,
    PARITY + "forward_and_gradients[eval-inputs_embeds-left-prompt-llama]",
    lambda: forward("prompt", attention_mask=MASK, inputs_embeds=True),
)

row(
    S,
    "labels are given: -100 for the virtual tokens in front",
    "labels is not None",
    "place:InSequence.labels",
    "return None if _ is None",
    None,
    PARITY + "what_the_base_model_is_told[prompt-llama]",
    lambda: forward("prompt", attention_mask=MASK, labels=LABELS),
    shows=lambda seen: seen.base["labels"].nested()[1] == [-100] * V + IDS[1].tolist(),
)
row(
    S,
    "no labels are given",
    "labels is None",
    "place:InSequence.labels",
    "return None if _ is None",
    None,
    PARITY + "without_labels[p-tuning-llama]",
    lambda: forward("prompt", attention_mask=MASK),
    shows=lambda seen: "labels" not in seen.base,
)

# ---- _cpt_forward

S, C = "_cpt_forward", CLASS + "_cpt_forward"
TYPES_OF, ANSWERS, WITH_LOSS, LOSS = (
    "methods.cpt:extend_types",
    "methods.cpt:answers_only",
    "methods.cpt:with_cpt_loss",
    "methods.cpt:cpt_loss",
)

row(
    S,
    "`input_type_mask` is given",
    '"input_type_mask" in kwargs.keys()',
    C,
    "if _ is None #1",
    False,
    MORE + "given_types[input_ids-cpt-llama]",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS, input_type_mask=TYPES),
)
row(
    S,
    "no `input_type_mask`: every token is an answer; counted in `input_ids`",
    "input_ids is not None",
    C,
    "if _ is None #1",
    True,
    PARITY + "forward_and_gradients[train-input_ids-none-cpt-llama]",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS),
    shows=lambda seen: seen["inputs_embeds"] is None,
    here="One line makes the default for both. `place` has counted the tokens.",
)
row(
    S,
    "no `input_type_mask`: every token is an answer; counted in `inputs_embeds`",
    "input_ids is None",
    C,
    "if _ is None #1",
    True,
    PARITY + "forward_and_gradients[train-inputs_embeds-none-cpt-llama]",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS, inputs_embeds=True),
    shows=lambda seen: seen["input_ids"] is None,
)

row(
    S,
    "ids are given: the base model's embeddings of them",
    "inputs_embeds is None",
    C,
    "if _ is None #2",
    True,
    PARITY + "forward_and_gradients[train-input_ids-left-cpt-llama]",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS),
)
row(
    S,
    "embeddings are given",
    "inputs_embeds is not None",
    C,
    "if _ is None #2",
    False,
    PARITY + "forward_and_gradients[train-inputs_embeds-left-cpt-llama]",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS, inputs_embeds=True),
)
row(
    S,
    "labels are given: labels and types get the examples' in front",
    "labels is not None",
    C,
    "if _ is not None",
    True,
    MORE + "cpt_labels_are_the_answers",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS, input_type_mask=TYPES),
)
row(
    S,
    "no labels: none reach the base model",
    "labels is None",
    C,
    "if _ is not None",
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
    "_ = _ + (_ > 0)",
    None,
    MORE + "given_types[input_ids-cpt-decay-llama]",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS, input_type_mask=TYPES),
    shows=lambda seen: only(seen.around)[1][V:] == [5, 6, 7, 8, 8],
    here="A new tensor: the specification and peft add to the caller's.",
)
row(
    S,
    "the type 0, which is no kind, stays 0",
    "not adjusted_input_type_mask > 0",
    TYPES_OF,
    "_ = _ + (_ > 0)",
    None,
    MORE + "given_types[inputs_embeds-cpt-decay-llama]",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS, input_type_mask=TYPES),
    shows=lambda seen: only(seen.around)[0][V:] == [0, 0, 5, 6, 8],
)
row(
    S,
    "a label counts where an answer stands",
    "(cpt_type_mask > 0) & (cpt_type_mask % 4 == 0)",
    ANSWERS,
    "_ = _.masked_fill(",
    None,
    MORE + "cpt_labels_are_the_answers",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS, input_type_mask=TYPES),
    shows=lambda seen: only(seen.made)[1] == [-100, -100, 13, -100, -100, -100, 11, 12],
)
row(
    S,
    "any other label becomes -100",
    "cpt_labels[~labels_idx] = -100",
    ANSWERS,
    "_ = _.masked_fill(",
    None,
    PARITY + "forward_and_gradients[train-input_ids-none-cpt-decay-llama]",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS, input_type_mask=TYPES),
    shows=lambda seen: only(seen.made)[0] == [-100, -100, 13, -100, -100, -100, -100, 7],
)

row(
    S,
    "no labels: the base model's output as it is",
    "labels is None",
    C,
    "if _ is None #3",
    True,
    PARITY + "without_labels[cpt-llama]",
    lambda: forward("cpt", attention_mask=MASK),
)
row(
    S,
    "labels: the base model's output with CPT's loss",
    "else",
    C,
    "if _ is None #3",
    False,
    PARITY + "forward_and_gradients[train-input_ids-right-cpt-llama]",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS),
)
row(
    S,
    "the settings of the loss are the active adapter's",
    'self.peft_config["default"]',
    C,
    "_ = with_cpt_loss(",
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
    "if _.opt_weighted_loss_type == 'decay'",
    False,
    PARITY + "forward_and_gradients[train-input_ids-left-cpt-opt]",
    lambda: forward("cpt", attention_mask=MASK, labels=LABELS),
)
row(
    S,
    "earlier answers count less",
    'opt_weighted_loss_type == "decay"',
    LOSS,
    "if _.opt_weighted_loss_type == 'decay'",
    True,
    PARITY + "forward_and_gradients[train-input_ids-left-cpt-decay-llama]",
    lambda: forward("cpt-decay", attention_mask=MASK, labels=LABELS),
)

row(
    S,
    "an output with names",
    "cpt_embedding.calculate_loss(base_model_output, ...)",
    WITH_LOSS,
    "if isinstance(_, tuple)",
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
    "if self.peft_type == PeftType.PREFIX_TUNING",
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
    "if self.peft_type == PeftType.MULTITASK_PROMPT_TUNING",
    True,
    MORE + "each_row_gets_the_prompt_of_its_task",
    lambda: forward("multitask", task_ids=TASKS),
    also=(("if self.peft_type == PeftType.PREFIX_TUNING", False),),
)
row(
    S,
    "one prompt for all rows",
    "else",
    G,
    "if self.peft_type == PeftType.MULTITASK_PROMPT_TUNING",
    False,
    PARITY + "forward_and_gradients[eval-input_ids-none-prompt-llama]",
    lambda: forward("prompt"),
)

# ---- generate

S, N = "generate", CLASS + "generate"
LENDING, GIVING_BACK = "generation:lent_to_base_model", "generation:_give_back"
LENT_HERE = (
    "The specification gives the settings to `base_model.model` if there is one. Under a prompt method this is a part "
    "of the transformers model, which reads no settings. Here the settings, and the methods of ours that `generate` "
    "calls, go to the transformers model itself."
)

row(
    S,
    "the base model is wrapped once more (`base_model.model`): that gets our settings",
    'hasattr(self.base_model, "model")',
    LENDING,
    "for _ in LENT #1",
    None,
    REFERENCE + "generation_settings_of_the_wrapper_count[lora]",
    lambda: generate("lora"),
    here=LENT_HERE,
)
row(
    S,
    "the base model is the transformers model: it gets our settings itself",
    'not hasattr(self.base_model, "model")',
    LENDING,
    "for _ in LENT #1",
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
    "if not _.is_prompt_learning",
    True,
    PARITY + "greedy_generate[keyword-left-lora-llama]",
    lambda: generate("lora", attention_mask=MASK),
)
row(
    S,
    "special arguments are for the hooks, not for the base model",
    "k not in self.special_peft_forward_args",
    N,
    "_ = self._without_special_args(",
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
    "the method has virtual tokens: `prepare_inputs_for_generation` will put them in",
    "else",
    N,
    "if not _.is_prompt_learning",
    False,
    PARITY + "greedy_generate[positional-left-prompt-llama]",
    lambda: generate("prompt", attention_mask=MASK),
    here="Positional arguments are handed on; the specification, and peft up to 0.18, drop them.",
)
row(
    S,
    "it went well: the base model is as before",
    "else",
    GIVING_BACK,
    "for _ in LENT",
    None,
    REFERENCE + "generate_leaves_the_base_model_as_it_was[llama-None-lora]",
    lambda: generate("lora"),
)
row(
    S,
    "an exception: the base model is as before, and it is raised again",
    "except",
    GIVING_BACK,
    "for _ in LENT",
    None,
    REFERENCE + "generate_leaves_the_base_model_as_it_was[llama-RuntimeError-lora]",
    lambda: failing(RuntimeError),
)
row(
    S,
    "the same with Ctrl-C in the middle",
    "except",
    GIVING_BACK,
    "for _ in LENT",
    None,
    REFERENCE + "generate_leaves_the_base_model_as_it_was[llama-KeyboardInterrupt-prompt]",
    lambda: failing(KeyboardInterrupt, "prompt"),
)
row(
    S,
    "what is lent is taken off again",
    "self.base_model.prepare_inputs_for_generation = self.base_model_prepare_inputs_for_generation",
    GIVING_BACK,
    "vars(_).pop(",
    None,
    REFERENCE + "generate_leaves_the_base_model_as_it_was[gpt2-None-lora]",
    lambda: generate("lora", "gpt2"),
)
row(
    S,
    "what stood there before is put back",
    "self.base_model.prepare_inputs_for_generation = self.base_model_prepare_inputs_for_generation",
    GIVING_BACK,
    "vars(_).update(",
    None,
    REFERENCE + "a_patched_base_model_gets_its_patch_back",
    patched,
)

# ---- prepare_inputs_for_generation

S, P = "prepare_inputs_for_generation", CLASS + "prepare_inputs_for_generation"
STEP = "generation:DecodingStep."
COUNT, CACHED, COLUMNS, ONLY = (
    "generation:count_new_tokens",
    "place:cache_length",
    "place:with_columns",
    "place:only_mask",
)

row(
    S,
    "the method changes layers: the base model prepares",
    "not peft_config.is_prompt_learning",
    P,
    "if not _.is_prompt_learning",
    True,
    PARITY + "greedy_generate[keyword-none-lora-llama]",
    lambda: generate("lora", attention_mask=MASK),
)
row(
    S,
    "the method has virtual tokens",
    "peft_config.is_prompt_learning",
    P,
    "if not _.is_prompt_learning",
    False,
    PARITY + "greedy_generate[keyword-none-prompt-llama]",
    lambda: step("prompt", attention_mask=MASK),
)
row(
    S,
    "`past_key_values`: there is no cache yet, the prompt goes in",
    'model_kwargs.get("past_key_values", None) is None',
    CACHED,
    "if _ is None",
    True,
    BRANCHES + "injection_where_there_is_nothing_yet[no cache-prompted]",
    lambda: step("prompt", attention_mask=MASK, lenient=True),
)
row(
    S,
    "`past_key_values`: the cache is empty, the prompt goes in",
    "not past_key_values.get_seq_length()",
    CACHED,
    "return int(_.get_seq_length()",
    None,
    BRANCHES + "injection_where_there_is_nothing_yet[empty cache-prompted]",
    lambda: step("prompt", cache=empty, attention_mask=MASK),
    shows=lambda seen: seen.returned.value == 0,
    here="With transformers 5 the first step is known by its empty cache; there is no `cache_position` any more.",
    also=(("if _ is None", False),),
)
row(
    S,
    "`past_key_values`: the cache holds something, the prompt went in before",
    "not requires_prompt_injection",
    P,
    "if _.peft_type == PeftType.PREFIX_TUNING",
    False,
    BRANCHES + "last_token_alone_where_the_rest_is_cached[cache-prompted]",
    lambda: step("prompt", cache=filled, input_ids=LONGER, attention_mask=LONGER_MASK),
    also=(("if _.takes_prompts", False),),
)
row(
    S,
    "`past_key_values`: prefix tuning needs its prompt, a cache with the prefix",
    "requires_prompt_injection and peft_type == PREFIX_TUNING",
    P,
    "if _.peft_type == PeftType.PREFIX_TUNING",
    True,
    BRANCHES + "injection_where_there_is_nothing_yet[empty cache-prefixed]",
    lambda: step("prefix", cache=empty, attention_mask=MASK),
)
row(
    S,
    "`past_key_values`: prefix tuning, how long the cache may become",
    "max_cache_len",
    P,
    INTO_CACHE,
    None,
    HERE + "static_cache[prefix]",
    lambda: generate("prefix", cache_implementation="static"),
    here="`get_prompt` has no `max_cache_len`: the prefix goes into the cache that is there, whatever its kind, and "
    "`generate` has made room in it. peft crashes where a cache of fixed size was asked for.",
)
row(
    S,
    "`attention_mask`: none",
    "attention_mask is None",
    OTHER_MASK,
    "if _ is None",
    True,
    BRANCHES + "new_tokens_alone[prompted]",
    lambda: step("prompt", cache=filled, input_ids=LONGER),
)
row(
    S,
    "`attention_mask`: [batch, sequence]",
    "attention_mask.dim() != 4",
    MASK_OF,
    PLAIN,
    False,
    BRANCHES + "injection_where_there_is_nothing_yet[empty cache-prompted]",
    lambda: step("prompt", cache=empty, attention_mask=MASK),
    here="It is extended before the base model prepares, not after: with a static cache the base "
    "model makes one of four dimensions of it, which then has "
    "the virtual tokens. So only a caller brings a 4-D mask.",
)
row(
    S,
    "`attention_mask`: [batch, heads, query, key], first step, virtual tokens in the sequence",
    "is_prefill and peft_type != PREFIX_TUNING",
    COLUMNS,
    "if not _",
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
    COLUMNS,
    "if not _",
    True,
    BRANCHES + "4d_mask_at_the_first_and_at_a_later_step[prefixed]",
    lambda: step("prefix", attention_mask=square(), lenient=True),
    here="Columns only: no query belongs to the prefix.",
)
row(
    S,
    "`attention_mask`: four dimensions, numbers to add",
    "attention_mask.dim() == 4",
    COLUMNS,
    "_ = _.is_floating_point()",
    None,
    BRANCHES + "what_a_4d_mask_becomes[additive]",
    lambda: step("prompt", attention_mask=square(additive=True), lenient=True),
    shows=lambda seen: only(seen.made) is True,
)
row(
    S,
    "`attention_mask`: four dimensions, yes and no",
    "attention_mask.dim() == 4",
    COLUMNS,
    "_ = _.is_floating_point()",
    None,
    BRANCHES + "what_a_4d_mask_becomes[bool]",
    lambda: step("prompt", attention_mask=square(), lenient=True),
    shows=lambda seen: only(seen.made) is False,
)
row(
    S,
    "`attention_mask`: a dictionary of one mask",
    "isinstance(attention_mask, dict)",
    ONLY,
    "if len(_) != 1",
    False,
    BRANCHES + "dictionary_of_one_mask_in_a_decoding_step",
    lambda: step("prompt", attention_mask={"full_attention": MASK}),
)
row(
    S,
    "`attention_mask`: a dictionary of several masks",
    "len(attention_mask) != 1",
    ONLY,
    "if len(_) != 1",
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
    OTHER_MASK,
    "if isinstance(_, dict)",
    True,
    BRANCHES + "4d_mask_in_forward[dictionary-bool-prompted]",
    lambda: forward("prompt", attention_mask={"full_attention": square()}),
    here="forward takes these masks too.",
)
row(
    S,
    "`attention_mask`: not [batch, sequence]: it comes back as it is",
    "attention_mask.dim() == 4",
    STEP + "prepare",
    "if _['attention_mask'] is not",
    True,
    BRANCHES + "4d_mask_at_the_first_and_at_a_later_step[prompted]",
    lambda: step("prompt", attention_mask=square()),
    here="The base model prepares without it: it might count positions in it, or make a mask of its own of it.",
)
row(
    S,
    "`attention_mask`: [batch, sequence]: the base model gets it to prepare",
    "attention_mask.dim() != 4",
    STEP + "prepare",
    "if _['attention_mask'] is not",
    False,
    BRANCHES + "injection_where_there_is_nothing_yet[empty cache-prompted]",
    lambda: step("prompt", cache=empty, attention_mask=MASK),
)
row(
    S,
    "`inputs_embeds`: the prompt goes before the embeddings of the ids; the ids go",
    "requires_prompt_injection and peft_type != PREFIX_TUNING",
    P,
    "if _.takes_prompts",
    True,
    BRANCHES + "injection_where_there_is_nothing_yet[no cache-prompted]",
    lambda: step("prompt", attention_mask=MASK),
    shows=lambda seen: seen.returned.items and "inputs_embeds" in seen.returned.items,
)
row(
    S,
    "`inputs_embeds`: the caller gave ids",
    "inputs_embeds = self.word_embeddings(input_ids)",
    P,
    "if _ is None",
    True,
    REFERENCE + "generate_from_embeddings[ids-prompt]",
    lambda: generate("prompt"),
)

row(
    S,
    "`input_ids`: the cache is made of tuples",
    "isinstance(past_key_values, (tuple, list))",
    CACHED,
    "if isinstance(_, (tuple, list))",
    True,
    BRANCHES + "last_token_alone_where_the_rest_is_cached[tuples-prompted]",
    lambda: step("prompt", "gpt2", cache=tuples, input_ids=LONGER, attention_mask=LONGER_MASK, lenient=True),
)
row(
    S,
    "`input_ids`: the cache is a transformers cache",
    "else",
    CACHED,
    "if isinstance(_, (tuple, list))",
    False,
    BRANCHES + "last_token_alone_where_the_rest_is_cached[cache-prompted]",
    lambda: step("prompt", cache=filled, input_ids=LONGER, attention_mask=LONGER_MASK),
)
row(
    S,
    "`input_ids`: what is cached is not computed again; the new ones stay",
    'seq_len >= model_kwargs["input_ids"].shape[1]',
    STEP + "inputs",
    "return dict(input_ids=self.input_ids[",
    None,
    BRANCHES + "last_token_alone_where_the_rest_is_cached[cache-prefixed]",
    lambda: step("prefix", cache=filled, input_ids=LONGER, attention_mask=LONGER_MASK),
    here="The specification keeps the last token alone. Here virtual tokens in the cache are not counted as tokens, "
    "so that all new tokens stay when there are several.",
    also=(("if self.past.has_state", False),),
)


row(
    S,
    "how many are new: there are ids alone, those that are not in the cache",
    'seq_len >= model_kwargs["input_ids"].shape[1]',
    COUNT,
    "return _.shape[1] - (_ if",
    None,
    HERE + "how_many_tokens_are_new",
    lambda: step("prompt", cache=filled, input_ids=LONGER),
    also=(("if _ is not None", False),),
)
row(
    S,
    "how many are new: the cache holds more than the ids, so all of them",
    'seq_len >= model_kwargs["input_ids"].shape[1]',
    COUNT,
    "return _.shape[1] - (_ if",
    None,
    BRANCHES + "new_tokens_alone[prompted]",
    lambda: step("prompt", cache=filled, input_ids=IDS[:, :3]),
    shows=lambda seen: seen.returned.value == 3,
    here="The specification keeps the last token alone whenever the cache is at least as long as the ids.",
)


row(
    S,
    "`cache_position`: moved behind the prefix before the base model prepares",
    "is_prefill and peft_type == PREFIX_TUNING",
    STEP + "cache_position",
    "return torch.arange(",
    None,
    BRANCHES + "cache_position_counts_virtual_tokens[prefixed]",
    lambda: step("prefix", attention_mask=MASK, cache_position=torch.arange(5), lenient=True),
    shows=lambda seen: (
        seen.trace.value(seen.trace.roots[0].returned).items
        and seen.trace.value(seen.trace.value(seen.trace.roots[0].returned).items["cache_position"]).nested()
        == [3, 4, 5, 6, 7]
    ),
    here="transformers 5 does not pass it any more. Where it is passed, it is counted anew from the length of "
    "the cache.",
)

row(
    S,
    "`cache_position`: it stays behind a prefix",
    "peft_type == PREFIX_TUNING",
    STEP + "left_to_base_model",
    "_ = dict(cache_position=not self.cache_position_stays",
    None,
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
    STEP + "left_to_base_model",
    "_ = dict(cache_position=not self.cache_position_stays",
    None,
    BRANCHES + "cache_position_counts_virtual_tokens[prompted]",
    lambda: step("prompt", attention_mask=MASK, cache_position=torch.arange(5), lenient=True),
    shows=lambda seen: "cache_position" not in seen.trace.value(seen.trace.roots[0].returned).items,
)


row(
    S,
    "`task_ids`: POLY gets them at every step",
    "peft_config.peft_type == PeftType.POLY",
    P,
    "if _.peft_type == PeftType.POLY",
    True,
    HERE + "poly_gives_each_row_its_task_in_generate",
    lambda: generate("poly", task_ids=TASKS),
)
row(
    S,
    "`task_ids`: no other method that changes layers does",
    "peft_config.peft_type != PeftType.POLY",
    P,
    "if _.peft_type == PeftType.POLY",
    False,
    PARITY + "greedy_generate[keyword-none-lora-gpt2]",
    lambda: generate("lora", "gpt2"),
)

# ---- the appendix: what is not in the specification -------------------------------------------------------------

MODULES = (
    "causal_lm",
    "place",
    "generation",
    "calls",
    "methods.cpt",
)  # where the specification's branches are decided


@dataclass(frozen=True)
class Branch:
    "One way that a condition of the reference can go, to which no row leads."

    module: str
    names: tuple  # of its function, and of the class and the functions around it
    node: ast.If
    outcome: bool

    @property
    def file(self):  # inside the package
        return f"reference/{self.module.replace('.', '/')}.py"


def branches(module: str) -> list[Branch]:
    "Both ways of each `if` of a module, in their order."
    tree, found = (
        ast.parse((HOME / "reference" / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")),
        [],
    )

    def visit(node, names):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names = (*names, node.name)
        if isinstance(node, ast.If):
            found.extend(Branch(module, names, node, outcome) for outcome in (True, False))
        for child in ast.iter_child_nodes(node):
            visit(child, names)

    visit(tree, ())
    return found


def left_over() -> list[Branch]:
    "The branches of `MODULES` to which no row leads."
    rows = {(row.file, *decision) for row in ROWS for decision in row.decisions}
    every = [branch for module in MODULES for branch in branches(module)]
    return [branch for branch in every if (branch.file, branch.node.lineno, branch.outcome) not in rows]
