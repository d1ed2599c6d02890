"""A configuration that cannot work is refused when it is made, and the message says what to do."""
# lane: reference

import warnings

import pytest

from peft_viz import config as c

CLM = dict(task_type="CAUSAL_LM")

REFUSED = [
    (
        c.PromptTuningConfig,
        dict(num_virtual_tokens=0),
        "num_virtual_tokens=0; it must be a whole number, at least 1",
    ),
    (c.PromptTuningConfig, dict(num_virtual_tokens="8"), "num_virtual_tokens='8'"),
    (c.PromptTuningConfig, dict(num_virtual_tokens=True), "num_virtual_tokens=True"),
    (
        c.PromptTuningConfig,
        dict(num_virtual_tokens=4, num_transformer_submodules=2),
        "num_transformer_submodules=2 is for encoder-decoder models",
    ),
    (
        c.PromptTuningConfig,
        dict(prompt_tuning_init="WORDS"),
        "'WORDS' is not a PromptTuningInit; it must be one of TEXT, SAMPLE_VOCAB, RANDOM",
    ),
    (
        c.PromptTuningConfig,
        dict(prompt_tuning_init="TEXT", prompt_tuning_init_text="sort"),
        "needs tokenizer_name_or_path, which is None",
    ),
    (
        c.PromptTuningConfig,
        dict(prompt_tuning_init="TEXT", tokenizer_name_or_path="here", prompt_tuning_init_text=""),
        "needs prompt_tuning_init_text, which is ''",
    ),
    (
        c.PromptTuningConfig,
        dict(tokenizer_kwargs={"use_fast": True}),
        "tokenizer_kwargs only make sense with prompt_tuning_init='TEXT'",
    ),
    (
        c.MultitaskPromptTuningConfig,
        dict(num_tasks=0),
        "MultitaskPromptTuningConfig: num_tasks=0; it must be a whole number, at least 1",
    ),
    (c.MultitaskPromptTuningConfig, dict(num_ranks=1.5), "num_ranks=1.5"),
    (c.MultitaskPromptTuningConfig, dict(num_tasks=True), "num_tasks=True"),
    (
        c.MultitaskPromptTuningConfig,
        dict(prompt_tuning_init="EXACT_SOURCE_TASK"),
        "prompt_tuning_init_state_dict_path must name their file",
    ),
    (
        c.PrefixTuningConfig,
        dict(init_weights="one"),
        "init_weights='one'; it must be None or 'zero'",
    ),
    (
        c.PromptEncoderConfig,
        dict(encoder_reparameterization_type="GRU"),
        "'GRU' is not a PromptEncoderReparameterizationType",
    ),
    (c.CPTConfig, dict(task_type="SEQ_CLS"), "works with causal language models only"),
    (
        c.CPTConfig,
        dict(**CLM, cpt_token_ids=[3, 4], cpt_tokens_type_mask=[1]),
        "the lists differ in length: cpt_token_ids 2, cpt_mask 2, cpt_tokens_type_mask 1",
    ),
    (
        c.CPTConfig,
        dict(**CLM, cpt_token_ids=[3, 4], cpt_tokens_type_mask=[1, -1]),
        "cpt_tokens_type_mask=[1, -1]; it must be a list of whole numbers, at least 0",
    ),
    (c.CPTConfig, dict(**CLM, opt_weighted_loss_type="linear"), "'linear'; it must be 'none' or 'decay'"),
    (c.LoraConfig, dict(r=0), "r=0; it must be a whole number, at least 1"),
    (c.LoraConfig, dict(r=True), "r=True; it must be a whole number"),
    (
        c.LoraConfig,
        dict(rank_pattern={"q_proj": "2"}),
        "rank_pattern={'q_proj': '2'}; it must be a dictionary from names or regular expressions to ranks",
    ),
    (c.LoraConfig, dict(bias="some"), "bias='some'; it must be 'none', 'all' or 'lora_only'"),
    (
        c.LoraConfig,
        dict(target_modules=".*q_proj", layers_to_transform=[0]),
        "a regular expression can name the layers itself",
    ),
    (c.LoraConfig, dict(layers_pattern="h"), "layers_to_transform, which is missing"),
    (c.AdaLoraConfig, dict(total_step=10, use_dora=True), "cannot be combined with use_dora=True"),
    (c.AdaLoraConfig, dict(), "total_step=None; AdaLoRA needs to know"),
    (c.AdaLoraConfig, dict(total_step=0), "total_step=0"),
    (
        c.AdaLoraConfig,
        dict(total_step=10, orth_reg_weight=-0.1),
        "orth_reg_weight=-0.1; it must be a number, at least 0",
    ),
    (
        c.AdaLoraConfig,
        dict(total_step=10, tinit=6, tfinal=4),
        "tinit=6 and tfinal=4 leave no steps between them",
    ),
    (
        c.AdaLoraConfig,
        dict(total_step=10, init_r=0),
        "AdaLoraConfig: init_r=0; it must be a whole number, at least 1",
    ),
    (c.AdaLoraConfig, dict(total_step=10, target_r=0), "target_r=0"),
    (c.PolyConfig, dict(n_tasks=0), "PolyConfig: n_tasks=0; it must be a whole number, at least 1"),
    (c.PolyConfig, dict(n_skills=0), "n_skills=0"),
    (c.PolyConfig, dict(n_splits=0), "n_splits=0"),
    (c.PolyConfig, dict(r=0), "r=0"),
    (c.PolyConfig, dict(poly_type="mhr"), "poly_type='mhr'; it must be 'poly'"),
    (
        c.IA3Config,
        dict(target_modules=["k_proj"], feedforward_modules=["fc2"]),
        "fc2 is not in target_modules; add it there",
    ),
    (c.LoraConfig, dict(task_type="CHAT"), "'CHAT' is not a TaskType"),
]
ACCEPTED = [  # the nearest neighbours of what is refused
    (c.PromptTuningConfig, dict(num_virtual_tokens=1, num_transformer_submodules=1)),
    (
        c.PromptTuningConfig,
        dict(
            prompt_tuning_init="TEXT",
            tokenizer_name_or_path="here",
            prompt_tuning_init_text="sort",
            tokenizer_kwargs={"use_fast": True},
        ),
    ),
    (
        c.MultitaskPromptTuningConfig,
        dict(
            num_tasks=1,
            num_ranks=1,
            prompt_tuning_init="EXACT_SOURCE_TASK",
            prompt_tuning_init_state_dict_path="there",
        ),
    ),
    (c.PrefixTuningConfig, dict(init_weights="zero")),
    (
        c.CPTConfig,
        dict(**CLM, cpt_token_ids=[3, 4], cpt_tokens_type_mask=[0, 1], opt_weighted_loss_type="decay"),
    ),
    (
        c.LoraConfig,
        dict(
            r=1,
            target_modules=["q_proj"],
            layers_to_transform=[0],
            layers_pattern="h",
            bias="lora_only",
            use_dora=True,
        ),
    ),
    (c.LoraConfig, dict(target_modules=".*q_proj")),
    (c.AdaLoraConfig, dict(total_step=1, orth_reg_weight=0)),
    (c.AdaLoraConfig, dict(total_step=10, tinit=5, tfinal=4, init_r=1, target_r=1)),
    (c.PolyConfig, dict(r=1, n_tasks=1, n_skills=1, n_splits=1)),
    (c.IA3Config, dict(target_modules=["k_proj", "fc2"], feedforward_modules=["fc2"])),
    (c.IA3Config, dict(target_modules=".*fc2", feedforward_modules=["fc2"])),
    (c.IA3Config, dict(target_modules=["k_proj"], feedforward_modules=".*fc2")),
]


@pytest.mark.parametrize("kind, fields, message", REFUSED, ids=lambda x: getattr(x, "__name__", None))
def test_refused(kind, fields, message):
    with pytest.raises(ValueError) as caught:
        kind(**fields)
    assert message in str(caught.value)


@pytest.mark.parametrize("kind, fields", ACCEPTED, ids=lambda x: getattr(x, "__name__", None))
def test_accepted_and_kept(kind, fields):
    config = kind(**fields)
    for name, value in fields.items():
        kept = getattr(config, name)
        assert kept == (set(value) if isinstance(value, list) and isinstance(kept, set) else value), name
    assert c.get_peft_config(config.to_dict()) == config


@pytest.mark.parametrize(
    "kind, fields, message",
    [
        (
            c.LoraConfig,
            dict(use_qalora=True),
            r"LoraConfig\(use_qalora=True\) is not implemented in peft_viz",
        ),
        (c.LoraConfig, dict(loftq_config={"loftq_bits": 4}), "loftq_config"),
        (c.LoraConfig, dict(lora_bias=True), "lora_bias=True"),
        (c.AdaLoraConfig, dict(total_step=9, qalora_group_size=8), r"AdaLoraConfig\(qalora_group_size=8\)"),
        (
            c.LoraConfig,
            dict(init_lora_weights="pissa"),
            "'pissa' is not implemented in peft_viz; use True, False or 'gaussian'",
        ),
    ],
    ids=str,
)
def test_variants_that_are_not_implemented_are_named(kind, fields, message):
    with pytest.raises(NotImplementedError, match=message):
        kind(**fields)


def test_fields_that_say_nothing_are_accepted():
    "`None` is how other versions of peft write it."
    assert c.LoraConfig(megatron_core=None, loftq_config=None).megatron_core is None


@pytest.mark.parametrize(
    "kind, fields, message",
    [
        (
            c.PromptEncoderConfig,
            dict(encoder_num_layers=3),
            "encoder_num_layers=3 has no effect",
        ),
        (
            c.AdaLoraConfig,
            dict(total_step=9, r=4),
            "r=4 is not used by AdaLoRA; init_r is the rank at the start",
        ),
    ],
    ids=str,
)
def test_settings_without_effect(kind, fields, message):
    with pytest.warns(UserWarning, match=message):
        kind(**fields)


def test_settings_with_effect_say_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        c.PromptEncoderConfig(encoder_num_layers=2)
        c.PromptEncoderConfig(encoder_num_layers=3, encoder_reparameterization_type="LSTM")
        c.AdaLoraConfig(total_step=9)


def test_cpt_fills_in_what_is_missing():
    config = c.CPTConfig(**CLM)
    assert (
        config.cpt_token_ids,
        config.cpt_mask,
        config.cpt_tokens_type_mask,
        config.num_virtual_tokens,
    ) == ([0], [1], [1], 1)
    config = c.CPTConfig(**CLM, cpt_token_ids=[5, 6], cpt_mask=[1, 0], num_layers=7, token_dim=8)
    assert (
        config.cpt_mask,
        config.cpt_tokens_type_mask,
        config.num_virtual_tokens,
        config.num_layers,
        config.token_dim,
    ) == ([1, 0], [1, 1], 2, None, None)


def test_names_lose_their_order():
    for kind in c.LoraConfig, c.IA3Config, c.PolyConfig:
        config = kind(target_modules=["b", "a", "b"], exclude_modules=["c"])
        assert config.target_modules == {"a", "b"} and config.exclude_modules == {"c"}
        assert config.to_dict()["target_modules"] == ["a", "b"]
        assert kind(target_modules=".*a").target_modules == ".*a"


def test_repr_says_what_differs_from_the_defaults():
    assert (
        repr(c.PolyConfig(n_tasks=3, target_modules={"b", "a"}))
        == "PolyConfig(target_modules=['a', 'b'], n_tasks=3)"
    )
    assert (
        repr(c.LoraConfig(rank_pattern={"q": 2}, **CLM))
        == "LoraConfig(task_type='CAUSAL_LM', rank_pattern={'q': 2})"
    )


def test_plain_data_is_a_copy():
    config = c.LoraConfig(rank_pattern={"q": 2})
    config.to_dict()["rank_pattern"]["q"] = 3
    assert config.rank_pattern == {"q": 2}


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, "add 'peft_type', one of PROMPT_TUNING"),
        (
            {"peft_type": "LORA", "lora_aplha": 3},
            "LoraConfig has no field 'lora_aplha'; did you mean 'lora_alpha'",
        ),
        ({"peft_type": "LORA", "zzzzzz": 3}, "LoraConfig has no field 'zzzzzz'$"),
        (
            {"peft_type": "PREFIX_TUNING", "postprocess_past_key_value_function": "cut"},
            "no field 'postprocess_past_key_value_function'",
        ),
        ({"peft_type": "LOHA"}, "'LOHA' is not a PeftType"),
    ],
    ids=str,
)
def test_dictionaries_that_describe_nothing(given, message):
    with pytest.raises((ValueError, TypeError), match=message):
        c.get_peft_config(given)


def test_a_forgotten_field_that_says_nothing():
    assert isinstance(
        c.get_peft_config({"peft_type": "PREFIX_TUNING", "postprocess_past_key_value_function": None}),
        c.PrefixTuningConfig,
    )


def test_configurations_by_method():
    assert set(c.CONFIGS) == set(c.PeftType) and [c.config_class(t.value) for t in c.PeftType] == [
        c.CONFIGS[t] for t in c.PeftType
    ]
    virtual = {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT"}
    for peft_type, kind in c.CONFIGS.items():
        config = kind(**CLM, **({"total_step": 9} if kind is c.AdaLoraConfig else {}))
        assert config.peft_type is peft_type and config.is_prompt_learning == (peft_type.value in virtual)
    assert not c.PeftConfig().is_prompt_learning


def test_a_configuration_in_a_folder(tmp_path):
    for config in (
        c.LoraConfig(r=3, target_modules=["v_proj"], **CLM),
        c.PrefixTuningConfig(num_virtual_tokens=4),
    ):
        config.save_pretrained(tmp_path / "inner")
        again = c.PeftConfig.from_pretrained(tmp_path, subfolder="inner")
        assert type(again) is type(config) and {**again.to_dict(), "peft_version": None} == config.to_dict()
    with pytest.raises(ValueError, match="no adapter_config.json"):
        c.PeftConfig.from_pretrained(tmp_path)


def test_a_base_model_without_attention(tmp_path):
    "What the base model fills in can be saved and read again, also a number of heads that is none."
    config = c.PromptTuningConfig(num_virtual_tokens=2, num_attention_heads=0, **CLM)
    config.save_pretrained(tmp_path)
    assert c.PeftConfig.from_pretrained(tmp_path).num_attention_heads == 0


def failing(kind, *names):
    "A class whose instances look right, and fail when they are compared or looked through."

    def fail(*_):
        raise RuntimeError("not to be asked")

    return type(
        f"Failing{kind.__name__}", (kind,), dict.fromkeys(names, fail) | {"__hash__": object.__hash__}
    )


@pytest.mark.parametrize(
    "kind, name, value",
    [
        (c.LoraConfig, "r", failing(int, "__le__", "__ge__")(4)),
        (c.LoraConfig, "bias", failing(str, "__eq__")("none")),
        (c.LoraConfig, "target_modules", failing(set, "__iter__")(["q_proj"])),
        (c.IA3Config, "target_modules", failing(str, "__eq__")("k_proj")),
        (c.LoraConfig, "rank_pattern", failing(dict, "__iter__", "values")(q_proj=4)),
        (c.PromptTuningConfig, "auto_mapping", failing(dict, "items")(a=1)),
        (c.PromptEncoderConfig, "encoder_dropout", failing(float, "__le__", "__ge__")(0.5)),
    ],
    ids=lambda x: x if isinstance(x, str) and type(x) is str else type(x).__name__,
)
def test_values_that_cannot_be_asked_are_refused_in_words(kind, name, value):
    with pytest.raises(ValueError, match=f"{kind.__name__}: {name}=.*; it must be"):
        kind(**{name: value})


def test_what_is_changed_later_still_fits_together():
    config = c.CPTConfig(**CLM, cpt_token_ids=[3, 4])
    config.num_virtual_tokens = 5
    with pytest.raises(ValueError, match="num_virtual_tokens=5, but cpt_token_ids has 2"):
        config.check()
    config.cpt_token_ids = config.cpt_mask = config.cpt_tokens_type_mask = [3] * 5
    config.check()


@pytest.mark.parametrize(
    "kind, name, value",
    [
        (c.PromptTuningConfig, "prompt_tuning_init", c.PromptTuningInit.SAMPLE_VOCAB),
        (c.MultitaskPromptTuningConfig, "prompt_tuning_init", c.MultitaskPromptTuningInit.RANDOM),
        (
            c.PromptEncoderConfig,
            "encoder_reparameterization_type",
            c.PromptEncoderReparameterizationType.LSTM,
        ),
        (c.LoraConfig, "peft_type", c.PeftType.LORA),
    ],
)
def test_a_name_that_is_set_later_becomes_a_member(kind, name, value):
    config = kind()
    setattr(config, name, value.value)
    config.check()
    assert getattr(config, name) is value
    setattr(config, name, "x")
    with pytest.raises(ValueError, match=f"'x' is not a {type(value).__name__}; it must be one of"):
        config.check()


def test_a_pattern_has_an_end():
    with pytest.raises(ValueError, match="target_modules=.*; it must be"):
        c.LoraConfig(target_modules="a" * c.LONGEST)
    with pytest.raises(ValueError, match="init_lora_weights=.* is unknown"):
        c.LoraConfig(init_lora_weights=failing(str, "__eq__")("pissa"))
