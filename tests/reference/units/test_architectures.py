"""What `architectures` says about every family that transformers calls a causal language model, against the
models themselves.

Every family is either answered for or named here with the reason why not; a family that a new transformers adds
is tested like the others and, if it is special, shows."""
# lane: reference

import copy
import re
from dataclasses import make_dataclass
from functools import lru_cache

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    CONFIG_MAPPING,
    DynamicCache,
    FalconConfig,
    GPTBigCodeConfig,
    LlamaConfig,
    PretrainedConfig,
)

from families import FAMILIES, tiny_model, V5
from peft_viz import architectures
from peft_viz.reference.architectures import (
    accepts,
    adalora_targets,
    causal_lm_class,
    check_generates,
    counts_in_mask,
    Dimensions,
    dimensions,
    embeds_again,
    ia3_targets,
    key_value_shapes,
    KeyValues,
    linear_names,
    lora_targets,
    maximum_length,
    prefix_goes_behind,
    prefix_layout,
    takes_positions,
)
from peft_viz.reference.causal_lm import get_peft_model
from peft_viz.reference.config import LoraConfig, PrefixTuningConfig, PromptTuningConfig

pytestmark = pytest.mark.usefixtures("quiet_and_single")

IDS = torch.arange(10).reshape(2, 5) + 5

# families whose models are not built here
NOT_BUILT = {
    "blt": "a byte model of four models with configurations of their own",
    "gemma3n": "needs timm, or pillow",
    "musicgen": "its configuration must be given three others",
    "musicgen_melody": "its configuration must be given three others",
}
NOT_BUILT |= (
    {
        "cohere_compass_text": "its default configuration is incomplete",
        "dbrx": "its default configuration is incomplete",
        "dots3_note": "its layers have different numbers of heads, which small numbers contradict",
        "dots3_note_text": "its layers have different numbers of heads, which small numbers contradict",
        "gemma4_assistant": "its default configuration is invalid",
        "gemma4_unified_assistant": "uses the cache of another model",
        "qwen4_exp": "its default configuration is incomplete",
        "qwen4_exp_text": "its default configuration is incomplete",
    }
    if V5
    else {
        **dict.fromkeys(
            ("emu3", "llama4", "mllama", "phi4_multimodal"),
            "AutoModelForCausalLM hands the whole configuration to the text model",
        ),
        "qdqbert": "needs pytorch-quantization",
        "speech_to_text_2": "deprecated; it cannot be built any more",
        "transfo-xl": "deprecated; its vocabulary cannot be small",
    }
)
NO_CONFIG = {"gemma4_assistant"} if V5 else {"musicgen", "musicgen_melody"}
BUILT = [family for family in FAMILIES if family not in NOT_BUILT]
CONFIGURED = [family for family in FAMILIES if family not in NO_CONFIG]

RECURRENT = {"falcon_mamba", "mamba", "rwkv"}  # without a number of attention heads
ENCODERS = {
    "bert",
    "bert-generation",
    "big_bird",
    "camembert",
    "data2vec-text",
    "electra",
    "ernie",
    "megatron-bert",
    "rembert",
    "roberta",
    "roberta-prelayernorm",
    "roc_bert",
    "roformer",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}
NO_PREFIX = {  # reason -> families
    "past_key_values": {*RECURRENT, "mamba2", "openai-gpt", "reformer", "xlm", "xlnet", "xlstm"},
    "encoder": ENCODERS,
    "before it has states": {"minimax"},
    "one token at a time": {"prophetnet"},
    "a prompt of its own": {"cpmant"},
    "recurrent state to themselves": {"recurrent_gemma"},
}
if V5:
    NO_PREFIX["none of its layers"] = {
        "bamba",
        "granitemoehybrid",
    }  # in their default configuration, without a single attention layer
    NO_PREFIX["more than keys and values"] = {
        "axk2",
        "deepseek_v32",
        "deepseek_v4",
        "dots3_note",
        "dots3_note_text",
        "glm_moe_dsa",
        "hy_v4",
        "qwen4_exp",
        "qwen4_exp_text",
    }
    NO_PREFIX["past_key_values"] |= {"gemma4_unified_assistant"}
else:
    NO_PREFIX["before it has states"] |= {
        "bamba",
        "falcon_h1",
        "granitemoehybrid",
        "jamba",
        "lfm2",
        "mega",
        "open-llama",
        "qdqbert",
        "qwen3_next",
        "speech_to_text_2",
        "zamba",
        "zamba2",
    }
    NO_PREFIX["past_key_values"] |= {"transfo-xl"}
    NO_PREFIX["one token at a time"] |= {"xlm-prophetnet"}
REASON = {family: reason for reason, families in NO_PREFIX.items() for family in families}

# targets other than q_proj and v_proj, and other than k_proj, v_proj and down_proj
FUSED = {
    "bloom": "query_key_value",
    "codegen": "qkv_proj",
    "dbrx": "Wqkv",
    "falcon": "query_key_value",
    "fuyu": "query_key_value",
    "gpt-sw3": "c_attn",
    "gpt2": "c_attn",
    "gpt_bigcode": "c_attn",
    "gpt_neox": "query_key_value",
    "gpt_neox_japanese": "query_key_value",
    "mpt": "Wqkv",
    "openai-gpt": "c_attn",
    "persimmon": "query_key_value",
    "phi3": "qkv_proj",
    "jetmoe": "kv_proj",
}
LATENT = {
    "axk1",
    "axk2",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "glm4_moe_lite",
    "glm_moe_dsa",
    "hy_v4",
    "longcat_flash",
    "minicpm3",
    "youtu",
}
LORA = {
    **FUSED,
    **dict.fromkeys(LATENT, "q_b_proj kv_b_proj"),
    "axk2": "q_a_proj kv_b_proj",
    **dict.fromkeys([*ENCODERS, "git", "reformer", "qdqbert"], "query value"),
    **dict.fromkeys(("mamba", "mamba2", "falcon_mamba"), "in_proj"),
    "phi": "q_proj v_proj fc1 fc2",
    "nemotron_h": "q_proj k_proj v_proj o_proj",
    "rwkv": "key value receptance output",
    "deepseek_v4": "q_b_proj kv_proj",
    "zaya": "q_proj v_proj_current v_proj_delayed",
    "phi4_multimodal": "qkv_proj",
    "moshi": "q_proj.linear v_proj.linear",
    "prophetnet": "query_proj value_proj",
    "xlm-prophetnet": "query_proj value_proj",
    "cpmant": "project_q project_v",
    "xlm": "q_lin v_lin",
    "ctrl": "Wq Wv",
}
NO_TARGETS = {
    "xlnet",
    "xlstm",
    "mega",
}  # queries and values are made by other things than linear layers, or by layers whose names tell nothing
NO_KEYS = NO_TARGETS | {"mamba", "mamba2", "falcon_mamba"}
MULTIMODAL = {"gemma3", "moss_transcribe_diarize"}  # there are layers of the same names outside the decoder


@lru_cache(maxsize=None)
def model_of(family):
    return tiny_model(family)


def everything(model):
    return dict(model.named_modules())


def caught(model, targets):
    "The names of the modules that these targets catch, as tuners match them."
    return {name for name in everything(model) if any(name == t or name.endswith("." + t) for t in targets)}


# --- sizes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", CONFIGURED)
def test_every_family_has_sizes(family):
    config = CONFIG_MAPPING[family]()
    if family == "blt":
        with pytest.raises(ValueError, match="BltConfig has none of num_hidden_layers, n_layer"):
            dimensions(config)
        return
    size = dimensions(config)
    assert size.num_layers > 0
    assert [n > 0 for n in (size.num_attention_heads, size.num_key_value_heads, size.head_dim)] == [
        family not in RECURRENT
    ] * 3


def test_sizes_of_known_models():
    assert dimensions(FalconConfig()) == Dimensions(32, 71, 1, 64)
    assert dimensions(FalconConfig(multi_query=False)).num_key_value_heads == 71
    assert dimensions(FalconConfig(new_decoder_architecture=True)).num_key_value_heads == 71
    assert dimensions(GPTBigCodeConfig(multi_query=False)).num_key_value_heads == 12
    assert dimensions(LlamaConfig(num_key_value_heads=8)).num_key_value_heads == 8
    assert dimensions(CONFIG_MAPPING["mpt"]()) == Dimensions(24, 16, 16, 128)
    assert dimensions(CONFIG_MAPPING["gemma"]()).head_dim == 256
    assert dimensions(CONFIG_MAPPING["bart"](decoder_layers=3, encoder_layers=5)).num_layers == 3


@pytest.mark.skipif(not V5, reason="new in transformers 5")
def test_layers_with_a_window_can_have_sizes_of_their_own():
    config = CONFIG_MAPPING["inkling_text"]()
    assert (config.num_key_value_heads, config.swa_num_key_value_heads) == (8, 16)
    assert [shape.heads for shape in key_value_shapes(config)] == [
        16 if kind == "hybrid_sliding" else 8 for kind in config.layer_types
    ]


@pytest.mark.parametrize("multi_query", (True, False))
@pytest.mark.parametrize("new", (True, False))
def test_falcons_cache(new, multi_query):
    config = FalconConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_kv_heads=2 if new else 4,
        multi_query=multi_query,
        new_decoder_architecture=new,
    )
    model = causal_lm_class(config)(config).eval()
    assert measured(model) == key_value_shapes(config)


def test_a_family_of_ones_own():
    class MyConfig(PretrainedConfig):
        model_type = "mine"

    config = MyConfig(
        model_dim=24,
        n_layers=2,
        num_heads=3,
        kv_lora_rank=5,
        qk_nope_head_dim=4,
        qk_rope_head_dim=2,
        v_head_dim=7,
    )
    if V5:
        config.num_hidden_layers = 2
    assert causal_lm_class(config) is None
    assert dimensions(config) == Dimensions(2, 3, 3, 7)
    config.num_hidden_layers = 2
    assert prefix_layout(config) == [KeyValues(3, 6, 7)] * 2
    del config.model_dim
    with pytest.raises(
        ValueError,
        match="MyConfig has none of hidden_size, n_embd, d_model, model_dim, embedding_dim; set one of them",
    ):
        dimensions(config)
    config.head_dim = 6
    assert dimensions(config) == Dimensions(2, 3, 3, 7)  # the width of the model is asked for nothing else


# --- the cache -------------------------------------------------------------------------------------------------


def measured(model):
    cache = DynamicCache(config=model.config)
    model(IDS, past_key_values=cache, use_cache=True)
    return [
        KeyValues(l.keys.shape[1], l.keys.shape[3], l.values.shape[3])
        if getattr(l, "keys", None) is not None
        else None
        for l in cache.layers
    ]


@pytest.mark.parametrize("family", [f for f in CONFIGURED if f != "blt"])
def test_every_family_takes_a_prefix_or_says_why_not(family):
    config = CONFIG_MAPPING[family]()
    if family in REASON:
        with pytest.raises(
            ValueError,
            match=f"prefix tuning cannot work with (this )?{config.model_type}: .*{REASON[family]}",
        ):
            prefix_layout(config)
    else:
        layout = prefix_layout(config)
        assert len(layout) == dimensions(config).num_layers and any(layout)


@pytest.mark.parametrize(
    "family", [f for f in BUILT if REASON.get(f, "encoder") in ("encoder", "none of its layers")]
)
@torch.no_grad()
def test_the_cache_and_a_prefix_in_it(family):
    """What the layout says is what a real cache has, and keys and values of these shapes, put before the first
    token, are taken and matter."""
    model = tiny_model(family, is_decoder=True) if family in ENCODERS else model_of(family)
    layout, real = prefix_layout(model.config), measured(model)
    assert real + [None] * (len(layout) - len(real)) == layout
    cache = DynamicCache(config=model.config)
    for layer, shape in enumerate(layout):
        if shape:
            cache.update(
                torch.randn(2, shape.heads, 3, shape.key_dim),
                torch.randn(2, shape.heads, 3, shape.value_dim),
                layer,
            )
    logits = model(
        IDS, past_key_values=cache, attention_mask=torch.ones(2, 8, dtype=torch.long), use_cache=True
    ).logits
    assert logits.isfinite().all() and not torch.allclose(logits, model(IDS).logits)


@pytest.mark.parametrize(
    "family, length",
    [
        ("gpt2", 128),
        ("opt", 128),
        ("codegen", 128),
        ("ctrl", 128),
        ("gptj", 128),
        ("biogpt", 128),
        ("mpt", 128),
        ("gpt_bigcode", 128),
        ("reformer", 128),
        ("roberta", 127),
        ("llama", None),
        ("mistral", None),
        ("falcon", None),
        ("gpt_neox", None),
        ("bloom", None),
        ("xlnet", None),
    ],
)
def test_how_long_a_sequence_may_be(family, length):
    "Where positions are looked up in a table, a sequence ends with it; rotary ones are computed."
    model = tiny_model(family)
    assert maximum_length(model) == length
    ids = torch.full((1, 128 + 1), 5)
    with torch.no_grad():
        if length is None:
            assert model(ids).logits.shape[1] == 129
        else:
            with pytest.raises(Exception, match="index|size|[Ss]equence|range"):
                model(ids)


@pytest.mark.parametrize("family", ["opt", "gpt2", "llama"])
def test_who_counts_positions_in_the_mask(family):
    "Padding on the left, no positions: OPT gives the real tokens the positions that they would have alone."
    model = model_of(family)
    assert counts_in_mask(model) == (family == "opt")
    with torch.no_grad():
        padded = model(
            torch.cat((torch.zeros_like(IDS), IDS), 1),
            attention_mask=torch.cat((torch.zeros_like(IDS), torch.ones_like(IDS)), 1),
        ).logits[:, 5:]
        alone = model(IDS).logits
    if family != "llama":  # whose positions are relative
        assert torch.allclose(padded, alone, atol=1e-5) == counts_in_mask(model)


@pytest.mark.skipif(not V5, reason="caches of transformers 4 have no layers with states")
@pytest.mark.parametrize(
    "family, behind",
    [("llama", True), ("mistral", True), ("qwen3_next", False), ("falcon_h1", False), ("mamba", False)],
)
def test_where_a_prefix_goes_behind_padding(family, behind):
    "Where no layer keeps a recurrent state."
    assert prefix_goes_behind(model_of(family).config) == behind


@pytest.mark.skipif(not V5, reason="this family came with transformers 5")
def test_no_padding_between_a_prefix_and_a_window_with_a_state():
    """As in peft, padding is in between, and noticed; to ask for something better is refused, with the reason.

    Without padding there is nothing to refuse."""
    config, mask = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), torch.ones_like(IDS)
    mask[0, 0] = 0
    model = get_peft_model(tiny_model("inkling_text"), config, corrected_positions=True)
    with torch.no_grad():
        assert model(IDS, attention_mask=torch.ones_like(IDS)).logits.shape[:2] == (2, 5)
        for call in (model, model.generate):
            with pytest.raises(
                ValueError,
                match="inkling_text counts what stands between a prefix and the text, "
                "so it must not be padding; .* or use corrected_positions=False",
            ):
                call(IDS, attention_mask=mask)
        assert get_peft_model(tiny_model("inkling_text"), config)(IDS, attention_mask=mask).logits.shape[
            :2
        ] == (2, 5)


@pytest.mark.parametrize(
    "family, takes",
    [
        ("llama", True),
        ("gpt2", True),
        ("bloom", False),
        ("mpt", False),
        ("mamba", False),
        ("bart", False),
        *[("moss_transcribe_diarize", True)] * V5,
    ],
)
def test_who_takes_positions(family, takes):
    "By name, or, as the last one, by handing them on to a decoder that does."
    assert takes_positions(model_of(family)) == takes and accepts(model_of(family), "position_ids") == (
        takes and family != "moss_transcribe_diarize"
    )


def test_positions_that_are_not_handed_on():
    class Decoder:
        def forward(self, x, position_ids=None):
            pass

    class Wrapper:
        def get_decoder(self):
            return Decoder()

        def forward(self, x):
            pass

    class Open(Wrapper):
        def forward(self, x, **kwargs):
            pass

    assert [takes_positions(model) for model in (Decoder(), Wrapper(), Open())] == [True, False, True]


@pytest.mark.parametrize("family", ["xlnet", "reformer"])
@torch.no_grad()
def test_who_generates_from_ids_alone(family):
    """Virtual tokens have no place among what these families prepare for a step; a forward pass takes them, and
    without them generate works."""
    model = get_peft_model(
        tiny_model(family), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    )
    assert model(IDS).logits.shape[:2] == (2, 8)
    with pytest.raises(ValueError, match=f"{family} prepares ids of its own for each step of generate"):
        model.generate(IDS, max_new_tokens=2)
    with model.disable_adapter():
        assert model.generate(IDS, max_new_tokens=2, do_sample=False).shape == (2, 7)
    assert check_generates(LlamaConfig()) is None


def test_layers_without_a_place_for_a_prefix():
    if V5:
        assert prefix_layout(CONFIG_MAPPING["jamba"](num_hidden_layers=6)) == [None] * 4 + [
            KeyValues(8, 128, 128),
            None,
        ]
        layout = prefix_layout(CONFIG_MAPPING["mllama"]())
        assert [i for i, l in enumerate(layout) if l is None] == CONFIG_MAPPING[
            "mllama"
        ]().text_config.cross_attention_layers
    shared = CONFIG_MAPPING["gemma3n_text"]()  # its last layers use the cache of earlier ones
    assert [l is None for l in prefix_layout(shared)] == [False] * (
        shared.num_hidden_layers - shared.num_kv_shared_layers
    ) + [True] * shared.num_kv_shared_layers
    assert prefix_layout(BertConfig(is_decoder=True, num_hidden_layers=2)) == [KeyValues(12, 64, 64)] * 2


def test_layers_that_keep_other_things(monkeypatch):
    class Strange:
        def __init__(self, config):
            self.layers = [type("StrangeLayer", (), {})()]

    monkeypatch.setattr("transformers.DynamicCache", Strange)
    with pytest.raises(
        ValueError,
        match=r"cannot work with llama: its cache keeps more than keys and values \(StrangeLayer\)",
    ):
        prefix_layout(LlamaConfig())


# --- what the base accepts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [f for f in BUILT if f != "xlstm"])
@torch.no_grad()
def test_embeddings_in_place_of_ids(family):
    model = model_of(family)
    assert accepts(model, "inputs_embeds") == accepts(type(model), "inputs_embeds") == (family != "cpmant")
    if family not in (
        "cpmant",
        "deepseek_v4",
        "open-llama",
    ):  # (deepseek_v4 chooses experts by the ids, open-llama normalises only embeddings that it looked up)
        assert torch.allclose(
            model(inputs_embeds=model.get_input_embeddings()(IDS)).logits, model(IDS).logits, atol=1e-5
        )


@pytest.mark.parametrize("config", [PromptTuningConfig, PrefixTuningConfig])
def test_another_name_of_the_cache_is_refused(config, monkeypatch):
    "transformers 5.24 renamed it: the first step of generate would be taken for every step. LoRA needs no name."
    newer = make_dataclass("CausalLMOutputWithPast", ["loss", "logits", "cache"])
    monkeypatch.setattr("transformers.modeling_outputs.CausalLMOutputWithPast", newer)
    model = tiny_model("llama")
    with pytest.raises(RuntimeError, match="another name for past_key_values.*install 'transformers<5.24'"):
        get_peft_model(model, config(task_type="CAUSAL_LM", num_virtual_tokens=3))
    assert all(p.requires_grad for p in model.parameters())  # nothing was changed
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))


@pytest.mark.skipif(not V5, reason="this family came with transformers 5")
def test_who_needs_ids_takes_no_prompts():
    "Refused before anything is changed, with the reason; without what needs them, such a family takes prompts."
    config, model = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), tiny_model("deepseek_v4")
    before = [(name, p.requires_grad) for name, p in model.named_parameters()]
    with pytest.raises(
        ValueError,
        match="PROMPT_TUNING puts virtual tokens before the embeddings of "
        "the input, and .* chooses experts by the ids; use a method",
    ):
        get_peft_model(model, config)
    assert [(name, p.requires_grad) for name, p in model.named_parameters()] == before
    with torch.no_grad():
        assert get_peft_model(tiny_model("deepseek_v4", mlp_layer_types=["moe"] * 4), config)(
            IDS
        ).logits.shape[:2] == (2, 8)


@pytest.mark.skipif(not V5, reason="this family came with transformers 5")
@pytest.mark.parametrize("family", ["gemma4_text", "gemma4"])
@pytest.mark.parametrize("corrected", [False, True])
@torch.no_grad()
def test_who_embeds_tokens_again(family, corrected):
    """Real tokens have in each layer what they have without virtual ones, which have nothing there; of ids, and
    of embeddings of ids."""
    model, told = (
        get_peft_model(
            copy.deepcopy(model_of(family)),
            PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
            corrected_positions=corrected,
        ),
        [],
    )
    base, mask = model.get_base_model(), torch.ones_like(IDS)
    mask[0, :2] = 0
    text = next(module for module in base.modules() if hasattr(module, "embed_tokens_per_layer"))
    text.register_forward_pre_hook(
        lambda module, args, kwargs: told.append(kwargs["per_layer_inputs"]), with_kwargs=True
    )
    model(IDS, attention_mask=mask)
    model(inputs_embeds=text.embed_tokens(IDS), attention_mask=mask)
    expected, virtual = (
        text.get_per_layer_inputs(IDS, None),
        [[2, 3, 4] if corrected else [0, 1, 2], [0, 1, 2]],
    )
    for given in told:
        for row, columns in enumerate(virtual):
            rest = [column for column in range(8) if column not in columns]
            assert not given[row, columns].any() and torch.equal(given[row, rest], expected[row])
    assert len(told) == 2 and expected.any()


@pytest.mark.skipif(not V5, reason="this family came with transformers 5")
def test_who_does_not_embed_again():
    assert not any(
        embeds_again(model)
        for model in (
            model_of("llama"),
            model_of("gemma3n_text"),
            tiny_model("gemma4_text", hidden_size_per_layer_input=0),
        )
    )
    again = embeds_again(model_of("gemma4_text"))
    assert (
        again.keys() == {"per_layer_inputs"}
        and embeds_again(copy.deepcopy(model_of("gemma4_text")))["per_layer_inputs"].__self__
        is not again["per_layer_inputs"].__self__
    )


def test_keywords_that_are_taken_but_ignored_do_not_count():
    def forward(self, input_ids, position_ids=None, **kwargs):
        pass

    model = type("Model", (), dict(forward=forward))
    assert (
        accepts(model, "position_ids")
        and accepts(model(), "position_ids")
        and not accepts(model, "token_type_ids")
    )


# --- targets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", BUILT)
def test_default_targets_of_every_family(family):
    model = model_of(family)
    if family in NO_TARGETS:
        with pytest.raises(
            ValueError,
            match=rf"no default targets for {type(model).__name__}; pass "
            r"target_modules, chosen from its linear layers: ",
        ):
            lora_targets(model)
        return
    targets = lora_targets(model)
    if family in MULTIMODAL:
        decoder = model.get_decoder()
        inside = {
            name for name, module in model.named_modules() if any(module is m for m in decoder.modules())
        }
        assert (
            targets
            == caught(model, targets)
            == caught(model, {"q_proj", "v_proj"}) & inside
            != caught(model, {"q_proj", "v_proj"})
        )
    else:
        assert targets == set(LORA.get(family, "q_proj v_proj").split())
        assert all(caught(model, {target}) for target in targets)
    assert all(architectures.is_linear(everything(model)[name]) for name in caught(model, targets))


@pytest.mark.parametrize("family", [f for f in BUILT if f not in NO_KEYS])
def test_default_targets_of_ia3(family):
    "Feed-forward layers among the targets, both there; experts that are not linear layers are not."
    model = model_of(family)
    targets, feedforward = ia3_targets(model)
    assert feedforward <= targets and caught(model, targets - feedforward)
    assert len(feedforward) <= 1 or family in MULTIMODAL
    if family != "mixtral":  # (its name for them is that of transformers 4; the choice is peft's)
        assert caught(model, feedforward) or not feedforward


@pytest.mark.parametrize("family", [f for f in BUILT if f in NO_KEYS])
def test_ia3_needs_keys_and_values(family):
    with pytest.raises(ValueError, match="pass target_modules and feedforward_modules, chosen from"):
        ia3_targets(model_of(family))


def test_targets_of_a_model_with_layers_adapted_already():
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.self_attn.q_proj = nn.ModuleDict({"base_layer": layer.self_attn.q_proj})
    assert lora_targets(model) == {"q_proj", "v_proj"} and "q_proj" in linear_names(model)


def test_a_model_that_is_none_of_transformers():
    model = nn.ModuleDict({"wq": nn.Linear(2, 2), "wv": nn.Linear(2, 2), "relu": nn.ReLU()})
    assert lora_targets(model) == adalora_targets(model) == {"wq", "wv"}
    with pytest.raises(
        ValueError,
        match="no default targets for ModuleDict; pass target_modules and "
        "feedforward_modules, chosen from its linear layers: wq, wv$",
    ):
        ia3_targets(model)
    model["wk"] = nn.Linear(2, 2)
    assert ia3_targets(model) == ({"wk", "wv"}, set())
    model["w2"] = nn.Linear(2, 2)
    assert ia3_targets(model) == ({"wk", "wv", "w2"}, {"w2"})


# where our layers are peft's, but said otherwise
OTHERWISE = {
    "gemma4": "peft's is a regular expression, to leave vision and sound alone; ours "
    "names layers, by their full names where short ones would catch others"
}


@pytest.mark.parametrize(
    "method, ours",
    (
        ("LORA", lora_targets),
        ("ADALORA", adalora_targets),
        ("IA3", lambda model: ia3_targets(model)[0]),
        ("IA3_FEEDFORWARD", lambda model: ia3_targets(model)[1]),
    ),
)
def test_the_choices_are_pefts(method, ours):
    constants = pytest.importorskip("peft.utils.constants")
    theirs = getattr(
        constants,
        f"TRANSFORMERS_MODELS_TO_{method}_{'MODULES' if 'FEED' in method else 'TARGET_MODULES'}_MAPPING",
    )
    families = [family for family in theirs if family in BUILT]
    assert len(families) > 15 and set(theirs) & set(NOT_BUILT) <= {"llama4"}
    for family in families:
        model = model_of(family)
        if family in OTHERWISE:
            assert caught(model, ours(model)) == {
                name for name in everything(model) if re.fullmatch(theirs[family], name)
            }, family
        else:
            assert ours(model) == set(theirs[family]), family
