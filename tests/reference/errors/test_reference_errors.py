"""Wrong input is refused with a message that helps, before anything in the base model has been changed."""
# lane: reference

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import small
from peft_viz.reference.causal_lm import get_peft_model, PeftModelForCausalLM
from peft_viz.reference.config import (
    get_peft_config,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
)

TOKENS = dict(vocab_size=31, bos_token_id=1, eos_token_id=2, pad_token_id=0)
MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_positions=32, n_embd=16, n_layer=2, n_head=2, **TOKENS)),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, **TOKENS
        )
    ),
}
CLM = dict(task_type="CAUSAL_LM")


def fingerprint(model):
    "All that wrapping could change."
    return (
        [
            (n, id(m), m.training, dict(m._forward_pre_hooks), dict(m._forward_hooks), sorted(vars(m)))
            for n, m in model.named_modules()
        ],
        [(n, id(p), p._version, p.requires_grad, p.dtype) for n, p in model.named_parameters()],
        list(model.state_dict()),
        model.config.to_dict(),
    )


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    model = MODELS[request.param]()
    before = fingerprint(model)
    yield model
    assert fingerprint(model) == before


def test_the_fingerprint_would_notice():
    torch.manual_seed(0)
    for config in LoraConfig(**CLM), PromptTuningConfig(num_virtual_tokens=2, **CLM):
        model = MODELS["gpt2"]()
        before = fingerprint(model)
        get_peft_model(model, config)
        assert fingerprint(model) != before


@pytest.mark.parametrize(
    "task", ["SEQ_CLS", "SEQ_2_SEQ_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"]
)
@pytest.mark.parametrize("wrap", [get_peft_model, PeftModelForCausalLM])
@pytest.mark.parametrize("config", [LoraConfig, PromptTuningConfig, PrefixTuningConfig])
def test_task_that_is_not_causal_lm(model, task, wrap, config):
    config = config(task_type=task, **({} if config is LoraConfig else dict(num_virtual_tokens=2)))
    with pytest.raises(ValueError, match=f"{task}.*causal language models only.*CAUSAL_LM"):
        wrap(model, config)


def test_unknown_task():
    with pytest.raises(ValueError, match="'CHAT' is not a TaskType; it must be one of CAUSAL_LM"):
        LoraConfig(task_type="CHAT")


@pytest.mark.parametrize("config", [PromptTuningConfig, PrefixTuningConfig])
def test_prompt_without_a_task(model, config):
    with pytest.raises(ValueError, match="pass task_type='CAUSAL_LM'"):
        get_peft_model(model, config(num_virtual_tokens=2))


@pytest.mark.parametrize(
    "make",
    [lambda t: get_peft_config({"peft_type": t}), lambda t: PeftConfig(peft_type=t)],
    ids=["dictionary", "class"],
)
def test_unknown_peft_type(make):
    with pytest.raises(ValueError, match="'LORO' is not a PeftType.*PROMPT_TUNING.*LORA"):
        make("LORO")


@pytest.mark.parametrize(
    "make",
    [lambda: get_peft_config({"peft_type": "LOHA"}), lambda: PeftConfig(peft_type="LOHA")],
    ids=["dictionary", "class"],
)
def test_method_of_peft_that_is_not_one_of_the_nine(make):
    with pytest.raises(
        ValueError, match="'LOHA' is not a PeftType; it must be one of PROMPT_TUNING, .*, POLY$"
    ):
        make()


def test_no_peft_type(model):
    with pytest.raises(ValueError, match="add 'peft_type', one of PROMPT_TUNING"):
        get_peft_config({"r": 8})
    with pytest.raises(ValueError, match="does not say which method to use.*LoraConfig"):
        get_peft_model(model, PeftConfig(**CLM))


def test_base_class_for_a_method(model):
    with pytest.raises(
        ValueError, match="LORA needs a peft_viz LoraConfig, not a peft_viz.reference.config.PeftConfig"
    ):
        get_peft_model(model, PeftConfig(peft_type="LORA", **CLM))


def test_configuration_of_peft(model):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=3, **CLM)
    with pytest.raises(ValueError, match="not a peft.tuners.*get_peft_config"):
        get_peft_model(model, config)
    assert get_peft_config(config.to_dict()) == LoraConfig(r=3, peft_version=config.peft_version, **CLM)


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "8"])
@pytest.mark.parametrize("config", [PromptTuningConfig, PrefixTuningConfig])
def test_not_a_number_of_virtual_tokens(model, config, number):
    with pytest.raises(ValueError, match="num_virtual_tokens=.*a whole number, at least 1"):
        config(num_virtual_tokens=number, **CLM)
    changed = config(num_virtual_tokens=3, **CLM)
    changed.num_virtual_tokens = number  # behind the constructor's back
    with pytest.raises(ValueError, match="num_virtual_tokens=.*a whole number, at least 1"):
        get_peft_model(model, changed)


@pytest.mark.parametrize("config", [PromptTuningConfig, PrefixTuningConfig])
def test_number_of_virtual_tokens_left_out(model, config):
    with pytest.raises(ValueError, match="at least one virtual token.*num_virtual_tokens=None"):
        get_peft_model(model, config(**CLM))


@pytest.mark.parametrize("targets", [["query", "key"], r".*\.query", "no-such-layer"])
def test_targets_that_match_nothing(model, targets):
    with pytest.raises(ValueError) as error:
        get_peft_model(model, LoraConfig(target_modules=targets, **CLM))
    message = str(error.value)
    candidates = (
        ["c_attn", "c_proj", "c_fc"]
        if model.config.model_type == "gpt2"
        else ["q_proj", "v_proj", "down_proj"]
    )
    for name in [targets] if isinstance(targets, str) else targets:
        assert name in message
    assert all(name in message for name in candidates)


@pytest.mark.parametrize("narrowed", [dict(exclude_modules=["lm_head"]), dict(layers_to_transform=[7])])
def test_targets_that_were_narrowed_to_nothing(model, narrowed):
    with pytest.raises(ValueError, match=f"match no module.*{next(iter(narrowed))}"):
        get_peft_model(model, LoraConfig(target_modules=["lm_head"], **narrowed, **CLM))


def test_target_that_is_no_linear_layer(model):
    with pytest.raises(ValueError, match="LoRA adapts nn.Linear.*narrow target_modules down"):
        get_peft_model(model, LoraConfig(target_modules=r".*", **CLM))


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(modules_to_save=["lm_hed"], **CLM),
        PromptTuningConfig(num_virtual_tokens=2, modules_to_save=["lm_hed"], **CLM),
    ],
)
def test_modules_to_save_that_do_not_exist(model, config):
    with pytest.raises(ValueError, match="no module of .* is called 'lm_hed'.*lm_head"):
        get_peft_model(model, config)


def test_initial_text_without_tokens(model, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(tmp_path)
    config = PromptTuningConfig(
        num_virtual_tokens=2,
        prompt_tuning_init="TEXT",
        prompt_tuning_init_text=" ",
        tokenizer_name_or_path=str(tmp_path),
        **CLM,
    )
    with pytest.raises(ValueError, match="makes no token"):
        get_peft_model(model, config)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(prompt_tuning_init="TEXT"), "needs tokenizer_name_or_path"),
        (dict(prompt_tuning_init="TEXT", tokenizer_name_or_path="x"), "needs prompt_tuning_init_text"),
        (dict(prompt_tuning_init="WORDS"), "'WORDS' is not a PromptTuningInit.*TEXT, SAMPLE_VOCAB, RANDOM"),
        (dict(tokenizer_kwargs=dict(a=1)), "prompt_tuning_init='TEXT'"),
        (dict(num_transformer_submodules=2), "encoder-decoder"),
    ],
)
def test_prompt_tuning_settings(fields, message):
    with pytest.raises(ValueError, match=message):
        PromptTuningConfig(num_virtual_tokens=2, **fields)


@pytest.mark.parametrize(
    "fields, error, message",
    [
        (dict(r=0), ValueError, "at least 1"),
        (dict(r=2.5), ValueError, "at least 1"),
        (dict(rank_pattern={"q_proj": 0}), ValueError, "at least 1"),
        (dict(bias="some"), ValueError, "'none', 'all' or 'lora_only'"),
        (
            dict(target_modules=".*", layers_to_transform=[1]),
            ValueError,
            "regular expression can name the layers",
        ),
        (dict(layers_pattern="h"), ValueError, "layers_to_transform, which is missing"),
        (dict(use_qalora=True), NotImplementedError, "use_qalora=True"),
        (dict(init_lora_weights="pissa"), NotImplementedError, "'pissa' is not implemented.*'gaussian'"),
        (dict(target_parameters=["weight"]), NotImplementedError, "target_parameters"),
        (dict(trainable_token_indices=[1]), NotImplementedError, "trainable_token_indices"),
    ],
)
def test_lora_settings(fields, error, message):
    with pytest.raises(error, match=message):
        LoraConfig(**fields)


def test_unknown_prefix_initialisation():
    with pytest.raises(ValueError, match="'ones'.*None or 'zero'"):
        PrefixTuningConfig(init_weights="ones")


def test_field_that_a_method_does_not_have():
    with pytest.raises(TypeError, match="no field 'lora_aplha'; did you mean 'lora_alpha'"):
        get_peft_config({"peft_type": "LORA", "lora_aplha": 3})
    with pytest.raises(TypeError, match="postprocess_past_key_value_function"):
        get_peft_config(
            {
                "peft_type": "PREFIX_TUNING",
                "num_virtual_tokens": 1,
                "postprocess_past_key_value_function": "f",
            }
        )


@pytest.mark.parametrize("option", ["mixed", "low_cpu_mem_usage"])
def test_options_that_are_not_there(model, option):
    with pytest.raises(NotImplementedError, match=option):
        get_peft_model(model, LoraConfig(**CLM), **{option: True})


# --- adapters --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["lora", "prompt", "prefix"])
def wrapped(request):
    torch.manual_seed(0)
    wrapped = get_peft_model(MODELS["llama"](), small.config(request.param))
    before = (
        fingerprint(wrapped.base_model),
        list(wrapped.peft_config),
        list(wrapped.state_dict()),
        wrapped.active_adapter,
    )
    yield wrapped
    assert (
        fingerprint(wrapped.base_model),
        list(wrapped.peft_config),
        list(wrapped.state_dict()),
        wrapped.active_adapter,
    ) == before


def test_wrapping_twice(wrapped):
    with pytest.raises(ValueError, match="adapters already; add another one with add_adapter"):
        get_peft_model(wrapped, LoraConfig(**CLM))


def test_wrapping_the_base_of_a_lora_model():
    base = MODELS["llama"]()
    get_peft_model(base, LoraConfig(**CLM))
    with pytest.raises(ValueError, match="adapters already"):
        get_peft_model(base, PromptTuningConfig(num_virtual_tokens=2, **CLM))


def test_second_adapter_of_the_same_name(wrapped):
    with pytest.raises(ValueError, match="an adapter 'default' already"):
        wrapped.add_adapter("default", wrapped.active_peft_config)


def test_second_adapter_of_another_method(wrapped):
    other = small.config("prompt" if wrapped.peft_type == "LORA" else "lora")
    with pytest.raises(ValueError, match="adapters of one method"):
        wrapped.add_adapter("other", other)


@pytest.mark.parametrize("fields", [dict(modules_to_save=["nothing"]), dict(task_type="SEQ_CLS")])
def test_second_adapter_that_does_not_fit(wrapped, fields):
    config = type(wrapped.active_peft_config)(
        **{**CLM, **({} if wrapped.peft_type == "LORA" else dict(num_virtual_tokens=2)), **fields}
    )
    with pytest.raises(ValueError, match="nothing|SEQ_CLS"):
        wrapped.add_adapter("other", config)


@pytest.mark.parametrize("act", ["set_adapter", "delete_adapter"])
def test_adapter_that_does_not_exist(wrapped, act):
    with pytest.raises(ValueError, match="no adapter 'other'; there are default"):
        getattr(wrapped, act)("other")


def test_deleting_the_only_adapter(wrapped):
    with pytest.raises(ValueError, match="'default' is the only adapter"):
        wrapped.delete_adapter("default")


def test_second_lora_that_matches_nothing():
    wrapped = get_peft_model(MODELS["llama"](), LoraConfig(**CLM))
    before = fingerprint(wrapped.base_model)
    with pytest.raises(ValueError, match="match no module"):
        wrapped.add_adapter("other", LoraConfig(target_modules=["query"]))
    assert fingerprint(wrapped.base_model) == before and list(wrapped.peft_config) == ["default"]


def test_rows_for_an_adapter_that_does_not_exist():
    wrapped = get_peft_model(MODELS["llama"](), LoraConfig(**CLM)).eval()
    ids = torch.tensor([[3, 4], [5, 6]])
    with pytest.raises(ValueError, match="no adapter 'other'.*__base__"):
        wrapped(ids, adapter_names=["default", "other"])
    with pytest.raises(ValueError, match="call model.eval"):
        wrapped.train()(ids, adapter_names=["default", "default"])


# --- calls -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ["prompt", "prefix"])
def test_neither_or_both_inputs(config):
    wrapped = get_peft_model(MODELS["llama"](), small.config(config))
    with pytest.raises(ValueError, match="pass input_ids or inputs_embeds$"):
        wrapped()
    ids = torch.tensor([[3, 4]])
    with pytest.raises(ValueError, match="not both"):
        wrapped(ids, inputs_embeds=wrapped.word_embeddings(ids))
