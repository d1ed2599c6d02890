"""Damaged traces, configurations and checkpoints, and what has to come of each: a refusal in words that
leaves everything as it was, or something whole that can be used, saved and read again.

`KINDS` has a class for each. Its `attempt(rng)` makes a damaged input with a `random.Random`, keeps it as
`tried`, and answers "refused" or "read"; anything else is an exception that says what is wrong.
"""

import copy
import io
import json
import os
import pathlib
import struct
import tempfile
import warnings

ODD = (-1, 0, 1, 2, 3, 7, 10**3, 10**6, 10**9, 2**53, 10**30, 0.5, -100, 1e300, True, False, None)
ODD += ("", "text", "nan", "default", "道\udce9", "</script>", "x" * 300, "[", "5", "base", "peft", "layer")
ODD += ([], [[]], [0], [0, 1], [-1, 1], {}, {"a": 0}, {"kind": "secret"}, {"q_proj": 3}, {"(": 1}, ["q_proj"])
ODD += (
    {"runs": [1, 3]},
    {"runs": [5, 10**6]},
    float("nan"),
    float("inf"),
    "all-linear",
    ".*",
    "(a+)+$",
    10**400,
)


def places(document, at=()):
    "Every place in a document, as a path."
    yield at
    kind = type(document)
    for key, value in document.items() if kind is dict else enumerate(document) if kind is list else ():
        yield from places(value, (*at, key))


def place(document, path):
    for key in path:
        document = document[key]
    return document


def damage(document, rng):
    "Do one thing to a document, somewhere: drop, replace, swap, repeat, or a small step up or down."
    paths = [path for path in places(document) if path]
    if not paths:
        return
    path = rng.choice(paths)
    alike = [p for p in paths if type(p[-1]) is type(path[-1]) and (p[-1] == path[-1] or p[:-2] == path[:-2])]
    other = rng.choice(rng.choice((alike, alike, paths)))
    parent, key, what = place(document, path[:-1]), path[-1], rng.randrange(8)
    if what == 0:
        del parent[key]
    elif what in (1, 6):
        parent[key] = copy.deepcopy(place(document, other))
    elif what == 2 and isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    elif what == 3 and type(parent[key]) is int:
        parent[key] += rng.choice((-1, 1))
    elif what == 4 and isinstance(parent[key], list):
        rng.shuffle(parent[key])
    elif what == 5 and isinstance(parent, dict):
        parent[rng.choice(("extra", "kind", "data", "5"))] = parent.pop(key)
    else:
        parent[key] = copy.deepcopy(rng.choice(ODD))


def damaged(text, rng):
    "A JSON document with one to three things wrong."
    document = json.loads(text)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        damage(document, rng)
    return document


def damaged_bytes(data, rng):
    "Bytes of which some were lost, repeated, or became others."
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at, n, what = rng.randrange(len(data) + 1), rng.randrange(1, 9), rng.randrange(5)
        if what == 0:
            del data[at:]
        elif what == 1:
            del data[at : at + n]
        elif what == 2:
            data[at:at] = data[at : at + n]
        elif what == 3:
            data[at : at + n] = rng.randbytes(n)
        elif at < len(data):
            data[at] ^= 1 << rng.randrange(8)
    return bytes(data)


def in_words(error):
    "Does an exception say something? (A KeyError says a key, an empty one nothing.)"
    assert len(str(error)) > 10, repr(error)
    return "refused"


# --- traces -------------------------------------------------------------------------------------------------


def recorded():
    "What real recordings look like: a forward with labels and padding, a short generate, one with layers."
    import torch
    from peft_viz import LoraConfig, PromptTuningConfig, get_peft_model, record, tiny_random

    torch.manual_seed(0)
    soft = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    model = get_peft_model(tiny_random("llama"), soft)
    ids, mask = torch.tensor([[0, 4, 5], [6, 7, 8]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    with record(model) as forward:
        model(input_ids=ids, attention_mask=mask, labels=ids)
    with record(model) as generate:
        model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=2, do_sample=False)
    model = get_peft_model(tiny_random("llama"), LoraConfig(task_type="CAUSAL_LM"))
    with record(model, layers=1) as layers:
        model(input_ids=ids[:1])
    return [json.dumps(trace.to_dict()) for trace in (forward, generate, layers)]


class Traces:
    "Documents of traces. What is read can be drawn, saved and read again."

    def __init__(self, samples=None):
        import peft_viz.views.viewer  # noqa: F401  gives a trace its HTML

        self.samples = samples or recorded()
        self.read = 0

    def attempt(self, rng):
        from peft_viz.recording.trace import Trace, TraceError

        text = rng.choice(self.samples)
        self.tried = damaged(text, rng) if rng.random() < 0.8 else damaged_bytes(text.encode(), rng)
        given = self.tried if isinstance(self.tried, bytes) or rng.random() < 0.5 else json.dumps(self.tried)
        try:
            trace = Trace.from_json(given)
        except TraceError as error:
            assert str(error).startswith(("trace", "This")), repr(error)
            return in_words(error)
        self.read += 1
        self.use(trace, pictures=self.read % 10 == 0)
        return "read"

    def use(self, trace, pictures):
        "Do with a trace what people do."
        from peft_viz.recording import layout
        from peft_viz.views import plot
        from peft_viz.recording.trace import Trace

        again = Trace.from_json(trace.to_json())
        assert again.to_json() == trace.to_json()
        repr(trace), [repr(x) for x in (*trace.values, *trace.calls)], [str(call) for call in trace.calls[:9]]
        assert trace._repr_html_()
        for call in trace.base_calls[:2]:
            self.shown(layout.attention, trace, call)
            if pictures:
                self.shown(plot.attention, trace, call), self.shown(plot.sequence, trace, call)
                self.shown(plot.labels, trace, call)
        [self.shown(layout.branches, trace, c) for c in trace.calls[:2]]
        self.shown(layout.cache, trace)

    def shown(self, draw, *args):
        "What a view shows, or the ValueError that says why it cannot."
        import matplotlib.pyplot as plt

        try:
            return draw(*args)
        except ValueError as error:
            in_words(error)
        finally:
            plt.close("all")


# --- configurations -----------------------------------------------------------------------------------------

METHODS = {
    "PROMPT_TUNING": dict(num_virtual_tokens=2),
    "P_TUNING": dict(num_virtual_tokens=2, encoder_hidden_size=4),
    "PREFIX_TUNING": dict(num_virtual_tokens=2, prefix_projection=True, encoder_hidden_size=4),
    "MULTITASK_PROMPT_TUNING": dict(num_virtual_tokens=2, num_tasks=2),
    "CPT": dict(cpt_token_ids=[4, 5, 6], cpt_mask=[1, 1, 1], cpt_tokens_type_mask=[1, 2, 4]),
    "LORA": dict(
        r=2,
        target_modules=["q_proj", "v_proj"],
        rank_pattern={"q_proj": 1},
        alpha_pattern={"v_proj": 4},
        layers_to_transform=[0],
        modules_to_save=["lm_head"],
    ),
    "ADALORA": dict(init_r=2, target_r=1, total_step=10, tinit=1, tfinal=2, target_modules=["q_proj"]),
    "IA3": dict(target_modules=["v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "POLY": dict(r=2, n_tasks=2, n_skills=2, n_splits=2, target_modules=r".*\.(q_proj|v_proj)"),
}
WITH_TASKS = "MULTITASK_PROMPT_TUNING", "POLY"
REFUSED = ValueError, TypeError, NotImplementedError  # (of TypeErrors only ours)
SIZES = dict(hidden_size=16, intermediate_size=16, num_attention_heads=2, num_key_value_heads=1)
MANY = 4096  # what asks for more than that is not wrong, but takes its time


def small_model():
    from peft_viz import tiny_random

    return tiny_random("llama", num_hidden_layers=2, **SIZES)


def described(method):
    "The JSON text of a method's configuration with everything in it."
    from peft_viz import get_peft_config
    from peft_viz.reference.config import config_to_json

    return config_to_json(get_peft_config(dict(peft_type=method, task_type="CAUSAL_LM", **METHODS[method])))


def print_of(model):
    "What has to be as before when a call was refused."
    state = [
        (n, id(p), p._version, p.requires_grad) for n, p in model.named_parameters(remove_duplicate=False)
    ]
    modules = [(n, id(m), m.training, tuple(m._forward_pre_hooks)) for n, m in model.named_modules()]
    return state, modules, sorted(vars(model))


def inputs(config, labels=True):
    import torch

    ids = torch.tensor([[4, 5, 6], [7, 8, 9]])
    given = dict(input_ids=ids, attention_mask=torch.ones_like(ids))
    if labels:
        given["labels"] = ids
    if config.peft_type.value in WITH_TASKS:
        given["task_ids"] = torch.tensor([0, 0])
    return given


def too_many(config):
    sizes = "num_virtual_tokens r init_r n_tasks n_skills num_ranks num_tasks encoder_hidden_size encoder_num_layers"
    given = [getattr(config, name, 1) for name in sizes.split()]
    pattern = getattr(config, "rank_pattern", None) or {}
    return max([n or 1 for n in given] + [n for n in pattern.values() if type(n) is int]) > MANY


def tensors_of(model):
    from peft_viz import get_peft_model_state_dict

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_peft_model_state_dict(model)


def same(a, b):
    import torch

    return a.keys() == b.keys() and all(torch.allclose(a[k], b[k], 0, 0, equal_nan=True) for k in a)


class Configurations:
    "Dictionaries of configurations. What is accepted wraps a model, trains, and is saved and read again."

    def __init__(self):
        self.samples = [described(method) for method in METHODS]
        self.base = small_model()

    def attempt(self, rng):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.try_it(rng)

    def try_it(self, rng):
        from peft_viz import get_peft_config, get_peft_model
        from peft_viz.reference.config import config_from_json, config_to_json

        self.tried = damaged(rng.choice(self.samples), rng)
        try:
            config = get_peft_config(copy.deepcopy(self.tried))
        except REFUSED as error:
            assert type(error) is not TypeError or "has no field" in str(error), repr(error)
            return in_words(error)
        text = config_to_json(config)
        assert config_to_json(config_from_json(text)) == text
        if too_many(config):
            return "read"
        before = print_of(self.base)
        try:
            model = get_peft_model(self.base, config)
        except (ValueError, NotImplementedError) as error:
            assert print_of(self.base) == before, "something was changed before it was refused"
            return in_words(error)
        self.base = small_model()
        model.train()
        try:
            loss = model(**inputs(model.peft_config["default"])).loss
            if loss.requires_grad:
                loss.backward()
        except ValueError as error:
            assert "max_position_embeddings" in str(error) or "task" in str(error), repr(error)
            in_words(error)
        return "read"


# --- checkpoints --------------------------------------------------------------------------------------------


def reshaped(tensors, rng):
    "Tensors of which one has another name, shape, kind, or is not there."
    import torch

    tensors = dict(tensors)
    name, what = rng.choice(sorted(tensors)), rng.randrange(8)
    tensor = tensors[name]
    if what == 0:
        del tensors[name]
    elif what == 1:
        tensors[rng.choice((name + ".x", "base_model." + name, name.replace("proj", "prox"), ""))] = (
            tensors.pop(name)
        )
    elif what == 2:
        tensors[name] = tensor.reshape(-1)
    elif what == 3:
        tensors[name] = tensor[: rng.randrange(len(tensor) + 1)].clone() if tensor.dim() else tensor
    elif what == 4:
        kinds = torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.bool, torch.float8_e4m3fn
        tensors[name] = tensor.to(rng.choice(kinds))
    elif what == 5:
        tensors[name] = tensor * float(rng.choice(("nan", "inf", 0)))
    elif what == 6:
        tensors[name + ".more"] = tensor.clone()
    else:
        tensors[name] = tensor.t().contiguous() if tensor.dim() == 2 else tensor[None].clone()
    return tensors


class Checkpoints:
    "Folders of adapters. What is loaded is what the file says; it runs, and is saved and read again."

    def __init__(self):
        import torch
        from peft_viz import get_peft_config, get_peft_model

        self.samples = []
        for text in map(described, METHODS):
            torch.manual_seed(0)
            model = get_peft_model(small_model(), get_peft_config(json.loads(text)))
            with tempfile.TemporaryDirectory() as folder:
                model.save_pretrained(folder)
                names = "adapter_config.json", "adapter_model.safetensors"
                self.samples.append([pathlib.Path(folder, name).read_bytes() for name in names])
        self.base = small_model()
        memory = pathlib.Path("/dev/shm")
        self.room = tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)

    def files(self, rng):
        "Damaged files by their names."
        import torch
        from safetensors.torch import load, save

        config, weights = rng.choice(self.samples)
        name, what = "adapter_model.safetensors", rng.randrange(8)
        if what == 0:
            config = json.dumps(damaged(config, rng)).encode()
        elif what == 1:
            config = damaged_bytes(config, rng)
        elif what == 2:
            weights = damaged_bytes(weights, rng)
        elif what == 3:  # the head of a safetensors file is JSON behind its length
            size = struct.unpack("<Q", weights[:8])[0]
            head = json.dumps(damaged(weights[8 : 8 + size], rng)).encode()
            weights = struct.pack("<Q", len(head)) + head + weights[8 + size :]
        elif what == 4:
            weights = rng.choice(self.samples)[1]
        elif what in (5, 6):
            weights = save(reshaped(load(weights), rng))
        else:
            name, file = "adapter_model.bin", io.BytesIO()
            torch.save(
                rng.choice((reshaped(load(weights), rng), [1], {"a": 1}, {1: torch.ones(1)}, None)), file
            )
            weights = damaged_bytes(file.getvalue(), rng) if rng.random() < 0.5 else file.getvalue()
        return {"adapter_config.json": config, name: weights}

    def attempt(self, rng):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.try_it(rng)

    def try_it(self, rng):
        import torch
        from peft_viz import PeftModelForCausalLM
        from peft_viz.reference.checkpoint import load_peft_weights

        self.tried = self.files(rng)
        folder = pathlib.Path(self.room.name)
        for old in folder.iterdir():
            old.unlink()
        for name, data in self.tried.items():
            (folder / name).write_bytes(data)
        before = print_of(self.base)
        try:
            model = PeftModelForCausalLM.from_pretrained(self.base, folder)
        except (ValueError, NotImplementedError) as error:
            assert print_of(self.base) == before, "something was changed before it was refused"
            return in_words(error)
        self.base = small_model()
        found, said = tensors_of(model), load_peft_weights(folder)
        held = {
            k: v for k, v in model.state_dict().items() if k in said
        } | found  # a file may hold a vocabulary
        assert same(held, {k: v.to(held[k].dtype) for k, v in said.items()}), "it is not what the file says"
        with torch.no_grad():
            model(**inputs(model.peft_config["default"], labels=False))
        with tempfile.TemporaryDirectory(dir=folder.parent) as second:
            model.save_pretrained(second)
            assert same(found, load_peft_weights(second)), "it is not what was saved"
            PeftModelForCausalLM.from_pretrained(small_model(), second)
        return "read"


KINDS = dict(traces=Traces, configurations=Configurations, checkpoints=Checkpoints)
