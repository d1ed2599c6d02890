"""Every family that transformers calls a causal language model, so small that it is built in a moment.

`tiny_config(family)` takes the family's default configuration and makes its numbers small by their names,
keeping what makes it special: fewer key/value heads than query heads, heads wider than hidden_size / heads, one
layer of each kind."""

import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
import torch

FAMILIES = list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
V5 = not transformers.__version__.startswith("4.")

SIZES = {
    1: "topk_group n_group num_expert_group n_groups mamba_n_groups o_groups",
    2: "num_experts_per_tok num_experts_per_token moe_topk moe_k moe_top_k num_blocks",
    4: "num_attention_heads n_head n_heads num_heads decoder_attention_heads "
    "encoder_attention_heads attention_heads num_encoder_attention_heads num_decoder_attention_heads "
    "swa_num_attention_heads num_query_groups index_n_heads linear_num_key_heads "
    "linear_num_value_heads linear_num_heads num_experts num_local_experts n_routed_experts "
    "moe_num_experts mamba_d_head qk_rope_head_dim rotary_dim",
    6: "v_head_dim",
    8: "d_kv dim_head d_head linear_key_head_dim linear_value_head_dim "
    "linear_head_dim mamba_head_dim mamba_headdim kv_channels num_mel_bins",
    12: "qk_nope_head_dim",
    16: "kv_lora_rank q_lora_rank o_lora_rank qk_head_dim mamba_d_state state_size "
    "ssm_state_size chunk_size mamba_chunk_size router_hidden_size adapter_rank",
    32: "hidden_size n_embd d_model model_dim embedding_dim emb_dim embedding_size "
    "word_embed_proj_dim input_embedding_size output_embedding_size lru_width pronunciation_embed_dim "
    "shape_embed_dim backbone_hidden_size index_head_dim hc_lowrank ple_embed_dim hidden_size_per_layer_input",
    48: "intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim n_inner ffn_hidden_size "
    "dff dim_ff d_inner moe_intermediate_size shared_expert_intermediate_size "
    "shared_intermediate_size expert_ffn_hidden_size intermediate_size_mlp "
    "dense_intermediate_size feed_forward_size moe_shared_expert_intermediate_size prompt_mid_dim",
    64: "vocab_size decoder_vocab_size vocab_size_per_layer_input unpadded_vocab_size "
    "audio_vocab_size pronunciation_vocab_size shape_vocab_size encoder_hash_byte_group_vocab "
    "sliding_window sliding_window_size attention_window_size window_size local_attention",
    128: "max_position_embeddings n_positions n_ctx max_seq_len "
    "max_target_positions max_source_positions context_length",
}
SIZES = {name: size for size, names in SIZES.items() for name in names.split()}
DEPTHS = (
    "num_hidden_layers n_layer n_layers num_layers decoder_layers "
    "encoder_layers num_encoder_layers num_decoder_layers"
).split()
HEADS = ("num_attention_heads", "decoder_attention_heads", "n_head")
WIDTHS = ("hidden_size", "d_model", "n_embd")
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LEFT_OUT = {
    "id2label",
    "label2id",
    "architectures",
    "model_type",
    "transformers_version",
    "_name_or_path",
    "dtype",
    "torch_dtype",
}

# what follows from no name; `...`: not given
_MAMBA = dict(mamba_n_heads=16, mamba_d_head=4)
_HALF = ["linear_attention", "full_attention"] * 2
SPECIAL = {
    "bamba": dict(_MAMBA, attn_layer_indices=[1, 3]),
    "granitemoehybrid": dict(_MAMBA, layer_types=_HALF if V5 else ["mamba", "attention"] * 2),
    "falcon_h1": dict(_MAMBA, mamba_d_ssm=64),
    "jamba": dict(attn_layer_period=2, attn_layer_offset=1, use_mamba_kernels=False),
    "zamba": dict(
        use_mamba_kernels=False, num_hidden_layers=6, layers_block_type=["mamba", "mamba", "hybrid"] * 2
    ),
    "deepseek_v2": dict(num_experts_per_tok=2),
    "dots1": dict(n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2, n_group=1, topk_group=1),
    "dbrx": dict(
        attn_config=dict(kv_n_heads=2, clip_qkv=8.0),
        ffn_config=dict(ffn_hidden_size=48, moe_num_experts=4, moe_top_k=2),
    ),
    **dict.fromkeys(("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral"), dict(head_dim=8)),
    "nemotron": dict(head_dim=8, num_key_value_heads=2),
    "gemma3n_text": dict(
        num_hidden_layers=6,
        num_kv_shared_layers=2,
        layer_types=["sliding_attention", "full_attention"] * 3,
        intermediate_size=48,
        activation_sparsity_pattern=[0.0] * 6,
        altup_num_inputs=2,
        laurel_rank=4,
    ),
    "gpt_neo": dict(attention_types=[[["global", "local"], 2]], attention_layers=...),
    "lfm2": dict(layer_types=["conv", "full_attention"] * 2, full_attn_idxs=...),
    "lfm2_moe": dict(layer_types=["conv", "full_attention"] * 2),
    "longcat_flash": dict(num_hidden_layers=8),
    "reformer": dict(is_decoder=True, axial_pos_embds_dim=[16, 16], axial_pos_shape=[8, 16]),
    "xmod": dict(default_language="en_XX"),
}


def number(name, value, heads, hidden, is_rotary=False):
    "A small number in place of `value`, by its name."
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if name in TOKENS:
        return TOKENS[name]
    if name.endswith(("token_id", "token_index")):
        return 3
    if name in SIZES:
        return min(SIZES[name], value)
    if name in ("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads"):
        return 1 if value == 1 else 4 if value == heads else 2
    if name == "head_dim" and is_rotary:
        return SIZES["rotary_dim"]
    if name in ("head_dim", "attention_head_dim", "swa_head_dim"):
        return 8 if heads and hidden and value * heads == hidden else 32 if value >= 512 else 16
    return value


def _one_of(fields, names):
    return next((fields[n] for n in names if fields.get(n)), None)


def shrunk(fields):
    "The fields that change, with small numbers; lists with an entry for each layer keep one layer of each kind."
    heads, hidden = _one_of(fields, HEADS), _one_of(fields, WIDTHS)
    depth = next((fields[n] for n in DEPTHS if isinstance(fields.get(n), int)), 0)
    by_layer = {
        k: v
        for k, v in fields.items()
        if isinstance(v, list) and len(v) == depth > 6 and v != list(range(depth))
    }
    overrides = {int(k): v for k, v in (fields.get("per_layer_config") or {}).items()}
    kinds = [str([v[i] for v in by_layer.values()] + [overrides.get(i)]) for i in range(depth)]
    firsts = [i for i in range(depth) if kinds[i] not in kinds[:i]]
    keep = sorted((firsts + [i for i in range(depth) if i not in firsts])[: max(4, len(firsts))])
    small = {}
    for name, value in fields.items():
        if name in LEFT_OUT or value is None:
            continue
        if name == "per_layer_config":
            small[name] = {
                keep.index(i): {k: number(k, v, heads, hidden) for k, v in overrides[i].items()}
                for i in keep
                if i in overrides
            }
        elif isinstance(value, dict):
            inner = shrunk(value)
            small[name] = value if "rope" in name else {**value, **inner} if inner else ...
        elif name in DEPTHS:
            small[name] = len(keep) or value
        elif name in by_layer:
            small[name] = [number(name, value[i], heads, hidden) for i in keep]
        else:
            new = number(name, value, heads, hidden, is_rotary=fields.get("qk_rope_head_dim") == value)
            small[name] = new if new != value else ...
    return {k: v for k, v in small.items() if v is not ...}


def tiny_config(family, **more):
    "A small configuration of the family; some families need more than that and raise."
    fields = {**shrunk(CONFIG_MAPPING[family]().to_dict()), **SPECIAL.get(family, {}), **more}
    return CONFIG_MAPPING[family](**{k: v for k, v in fields.items() if v is not ...})


def tiny_model(family, **more):
    "A small model of the family with random weights, in float32 and `eval` mode."
    torch.manual_seed(0)
    return (
        AutoModelForCausalLM.from_config(tiny_config(family, **more), attn_implementation="eager")
        .float()
        .eval()
    )
