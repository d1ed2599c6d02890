"""What the reference promises beyond agreeing with peft: the specification's example, restored base models,
untouched tensors, families and widths peft does not handle."""
# lane: reference

import copy
import inspect

import pytest
import torch
import transformers as tf

import small
from small import base_model
from peft_viz.reference.architectures import dimensions, lora_targets
from peft_viz.reference.causal_lm import get_peft_model, PeftModelForCausalLM
from peft_viz.reference.config import (
    CONFIGS,
    get_peft_config,
    LoraConfig,
    PeftType,
)
from peft_viz.reference.model import PeftModel

SPECIFICATION = {
    "peft_type": "PREFIX_TUNING",
    "task_type": "CAUSAL_LM",
    "inference_mode": False,
    "num_virtual_tokens": 20,
    "token_dim": 1280,
    "num_transformer_submodules": 1,
    "num_attention_heads": 20,
    "num_layers": 36,
    "encoder_hidden_size": 1280,
    "prefix_projection": False,
    "postprocess_past_key_value_function": None,
}
METHODS = {
    "lora": lambda: small.config("lora", r=2, init_lora_weights=False),
    "prompt": lambda: small.config("prompt", num_virtual_tokens=3),
    "prefix": lambda: small.config("prefix", num_virtual_tokens=3),
}
methods = pytest.mark.parametrize("method", METHODS)
IDS = torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12]])
GREEDY = dict(max_new_tokens=5, do_sample=False)


def model_with(method, family="llama"):
    torch.manual_seed(1)
    return get_peft_model(base_model(family), METHODS[method]()).eval()


def batch():
    mask = (IDS != 0).long()
    return dict(input_ids=IDS.clone(), attention_mask=mask, labels=IDS.masked_fill(mask == 0, -100))


def test_the_specifications_example(capsys):
    config = get_peft_config(SPECIFICATION)
    with torch.device("meta"):
        model = tf.GPT2LMHeadModel(tf.GPT2Config(n_embd=1280, n_layer=36, n_head=20))
    PeftModelForCausalLM(model, config).print_trainable_parameters()
    assert (
        capsys.readouterr().out
        == "trainable params: 1,843,200 || all params: 775,873,280 || trainable%: 0.2376\n"
    )


@pytest.mark.parametrize("family", small.FAMILIES)
@methods
def test_families(family, method):
    "Every family trains, and generates what a single pass over the result says."
    model = model_with(method, family)
    output = model(**batch())
    output.loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained and all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    with torch.no_grad():
        text = model.generate(IDS[1:], **GREEDY)
        assert torch.equal(text, model.generate(IDS[1:], use_cache=False, **GREEDY))
        logits = model(text[:, :-1]).logits[:, -5:]
    assert torch.equal(logits.argmax(-1), text[:, -5:])


def test_widths():
    "Virtual tokens are as wide as embeddings, prefixes as wide as all heads of the cache."

    def width(family, method):
        return model_with(method, family).active_peft_config.token_dim

    assert width("opt, narrow embeddings", "prompt") == 16 and width("opt, narrow embeddings", "prefix") == 32
    assert width("llama", "prompt") == 32 and width("llama", "prefix") == 16
    assert width("qwen3, wide heads", "prefix") == 32 and width("falcon, multi-query", "prefix") == 8


@methods
@pytest.mark.parametrize(
    "how", [dict(input_ids=IDS[1:]), dict(inputs_embeds=None)], ids=["ids", "embeddings"]
)
def test_generate_from_embeddings(method, how):
    model = model_with(method)
    if "inputs_embeds" in how:
        how = dict(inputs_embeds=model.get_input_embeddings()(IDS[1:]))
    assert torch.equal(model.generate(**how, **GREEDY)[:, -5:], model.generate(IDS[1:], **GREEDY)[:, -5:])


# --- nothing is left behind -----------------------------------------------------------------------------------


def state(model):
    "Everything `generate` might leave on a base model: attributes and hooks."
    return {
        name: (dict(vars(m)), dict(m._forward_hooks), dict(m._forward_pre_hooks))
        for name, m in model.named_modules()
    }


@methods
@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_generate_leaves_the_base_model_as_it_was(family, method, error):
    model = model_with(method, family)
    base = model.get_base_model()
    before, prepare, settings = (
        state(model.base_model),
        base.prepare_inputs_for_generation,
        copy.deepcopy(base.generation_config),
    )
    calls = []

    def fail(module, args, output):
        calls.append(module)
        if error is not None and len(calls) == 2:
            raise error("in the second step")

    hook = base.register_forward_hook(fail)
    if error is None:
        model.generate(IDS, **GREEDY)
        assert len(calls) == 5
    else:
        with pytest.raises(error):
            model.generate(IDS, **GREEDY)
    hook.remove()
    assert (
        base.prepare_inputs_for_generation == prepare
        and model.base_model.prepare_inputs_for_generation == prepare
    )
    assert base.generation_config.to_dict() == settings.to_dict()
    assert state(model.base_model) == before


def test_a_patched_base_model_gets_its_patch_back():
    base = base_model()
    original = base.prepare_inputs_for_generation
    used = []

    def patched(*args, **kwargs):
        used.append(1)
        return original(*args, **kwargs)

    base.prepare_inputs_for_generation = patched
    model = get_peft_model(base, METHODS["prompt"]())
    model.generate(IDS, **GREEDY)
    assert base.prepare_inputs_for_generation is patched and len(used) == 5


@methods
def test_generation_settings_of_the_wrapper_count(method):
    model = model_with(method)
    own = model.get_base_model().generation_config
    model.generation_config = copy.deepcopy(own)
    model.generation_config.max_new_tokens = 3
    assert model.generate(IDS).shape == (2, 8)
    assert model.get_base_model().generation_config is own


@methods
@pytest.mark.filterwarnings("ignore:Position ids are not supported")
def test_the_callers_tensors_are_untouched(method):
    model = model_with(method)
    given = dict(batch(), position_ids=torch.arange(5).expand(2, -1).clone())
    copies = {k: v.clone() for k, v in given.items()}
    versions = {k: v._version for k, v in given.items()}
    model(**given)
    model.generate(**{k: v for k, v in given.items() if k not in ("labels", "position_ids")}, **GREEDY)
    assert all(torch.equal(given[k], copies[k]) for k in given)
    assert {k: v._version for k, v in given.items()} == versions


@methods
def test_the_callers_configuration_is_untouched(method):
    config = METHODS[method]()
    before = config.to_dict()
    one, other = [get_peft_model(base_model(family), config) for family in ("gpt2", "opt, narrow embeddings")]
    assert config.to_dict() == before
    assert one.active_peft_config is not other.active_peft_config


@methods
def test_an_exception_inside_disable_adapter_enables_it_again(method):
    model = model_with(method)
    adapted = model(**batch()).logits
    with pytest.raises(KeyboardInterrupt):
        with model.disable_adapter():
            with model.disable_adapter():
                pass
            assert torch.equal(model(**batch()).logits, base_model()(**batch()).logits)
            raise KeyboardInterrupt
    assert torch.equal(model(**batch()).logits, adapted)


def test_mixed_batch_hooks_are_removed_after_an_error():
    model = model_with("lora")
    before = state(model.base_model)
    with pytest.raises(KeyboardInterrupt):
        with model._enable_peft_forward_hooks(adapter_names=["default", "__base__"]):
            raise KeyboardInterrupt
    assert state(model.base_model) == before


# --- reaching through ------------------------------------------------------------------------------------------


@methods
def test_attributes_of_the_base_model(method):
    model = model_with(method)
    assert model.config is model.get_base_model().config and model.lm_head is model.get_base_model().lm_head
    assert model.device == torch.device("cpu") and model.dtype == torch.float32
    with pytest.raises(AttributeError, match="no_such_thing"):
        model.no_such_thing  # noqa: B018
    assert model.active_adapter == "default" and model.active_adapters == ["default"]


@pytest.mark.parametrize("function", ["get_peft_model", "get_peft_config"])
def test_arguments_are_pefts(function):
    peft = pytest.importorskip("peft")
    import peft_viz.reference.causal_lm, peft_viz.reference.config

    mine = getattr(peft_viz.reference.causal_lm, function, None) or getattr(
        peft_viz.reference.config, function
    )
    theirs = inspect.signature(getattr(peft, function)).parameters
    more = (
        [("corrected_positions", False)] if function == "get_peft_model" else []
    )  # the only one that is ours
    assert [(p.name, p.default) for p in inspect.signature(mine).parameters.values()] == [
        (p.name, p.default) for p in theirs.values()
    ] + more


@pytest.mark.parametrize("peft_type", CONFIGS)
def test_fields_are_pefts(peft_type):
    "Same names, same order, same defaults."
    peft = pytest.importorskip("peft", minversion="0.21")
    needed = {"task_type": "CAUSAL_LM", **({"total_step": 10} if peft_type == PeftType.ADALORA else {})}
    ours = CONFIGS[peft_type](**needed)
    runtime = (
        {"runtime_config": None} if isinstance(ours, LoraConfig) else {}
    )  # settings of one run, which are not saved
    theirs = getattr(peft, type(ours).__name__)(**needed, **runtime)
    mine = [(k, v) for k, v in ours.to_dict().items() if k != "peft_version"]
    their = [
        (k, getattr(v, "value", v))
        for k, v in vars(theirs).items()
        if k not in ("peft_version", "is_prompt_learning") and not k.startswith("_")
    ]
    assert mine == [(k, v) for k, v in their]


def test_lora_without_a_task_is_a_plain_model():
    model = get_peft_model(base_model(), LoraConfig(r=2))
    assert type(model) is PeftModel
    assert model.generate(IDS, **GREEDY).shape == (2, 10)
    assert model(**batch()).loss.requires_grad


# --- architectures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", small.FAMILIES)
def test_dimensions_are_what_the_cache_says(family):
    model = base_model(family)
    size = dimensions(model.config)
    cache = model(IDS, use_cache=True).past_key_values
    layers = getattr(cache, "self_attention_cache", cache).layers
    assert len(layers) == size.num_layers
    assert {(l.keys.shape[1], l.keys.shape[3]) for l in layers} == {(size.num_key_value_heads, size.head_dim)}


@pytest.mark.parametrize("family", small.FAMILIES)
def test_default_targets_exist(family):
    model = base_model(family)
    names = {n.split(".")[-1] for n, _ in model.named_modules()}
    assert lora_targets(model) <= names


# --- copies and choices of the user ----------------------------------------------------------------------------


@methods
def test_a_copy_is_independent(method):
    model = model_with(method)
    twin = copy.deepcopy(model)
    before = model.generate(IDS, **GREEDY)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(model.generate(IDS, **GREEDY), before)
    assert not torch.equal(twin.generate(IDS, **GREEDY), before)


@methods
def test_parameters_the_user_unfroze_stay_so(method):
    model = model_with(method)
    norm = model.get_base_model().model.norm.weight
    norm.requires_grad_(True)
    model.add_adapter("other", METHODS[method]())
    model.set_adapter("other")
    with model.disable_adapter():
        pass
    assert norm.requires_grad
