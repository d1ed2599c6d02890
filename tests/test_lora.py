"""LoRA in all its variants gives what Hugging Face peft gives: DoRA, embeddings, mixed batches, over six families, bit for bit.

Where peft itself goes wrong, a test says so by name and asserts what is right. The helpers are those of test_parity.
"""
import copy
import warnings

import pytest
import torch
import transformers as tf
from torch import nn

import peft_viz.causal_lm as ours
import peft_viz.config as our_config
from peft_viz.tuners.lora import by_pattern, LoraEmbedding, LoraLayer, LoraLinear
from test_parity import assert_equal, batch, gradients, OLD_PEFT, quiet_and_single, share_random_weights
from test_reference import FAMILIES

peft = pytest.importorskip("peft")
EMBEDDINGS = {"gpt2": "wte", "llama, grouped queries": "embed_tokens", "opt": "embed_tokens", "gpt_neox": "embed_in", "bloom": "word_embeddings", "mpt": "wte"}
LINEAR = {"gpt2": "c_attn", "llama, grouped queries": "q_proj v_proj", "opt": "q_proj v_proj", "gpt_neox": "query_key_value", "bloom": "query_key_value", "mpt": "Wqkv"}
families = pytest.mark.parametrize("family", EMBEDDINGS)
pairs = pytest.mark.parametrize("family", ["gpt2", "llama, grouped queries"])  # Conv1D, tied; Linear, not tied

VARIANTS = {  # "E" stands for the embeddings, "L" for the linear layers
    "dora": dict(targets="L", use_dora=True),
    "embedding": dict(targets="E"),
    "both": dict(targets="EL", lora_dropout=0.4, use_rslora=True),
    "dora both": dict(targets="EL", use_dora=True, use_rslora=True),
    "dora dropout": dict(targets="EL", use_dora=True, lora_dropout=0.4),
}
variants = pytest.mark.parametrize("variant", VARIANTS)


def base_model(family, seed=0):
    torch.manual_seed(seed)
    model = FAMILIES[family]().eval()
    model.generation_config.eos_token_id = None  # texts of full length
    return model


def targets(family, kinds):
    return [name for kind, names in (("E", EMBEDDINGS), ("L", LINEAR)) if kind in kinds for name in names[family].split()]


def config(package, family, targets_="EL", **fields):
    return package.LoraConfig(**{**dict(task_type="CAUSAL_LM", r=3, lora_alpha=5, target_modules=targets(family, targets_)), **fields})


def wrap(base, family, seed=None, autocast_adapter_dtype=True, **fields):
    "The same configuration around the same base model, twice: peft's model and ours."
    kinds = fields.pop("targets", "EL")
    wrapped = []
    for get_peft_model, package in (peft.get_peft_model, peft), (ours.get_peft_model, our_config):
        if seed is not None:
            torch.manual_seed(seed)
        wrapped.append(get_peft_model(copy.deepcopy(base), config(package, family, kinds, **fields), autocast_adapter_dtype=autocast_adapter_dtype))
    return wrapped


def pair(family, **fields):
    return share_random_weights(*wrap(base_model(family), family, **fields))


def add(models, family, name, **fields):
    kinds = fields.pop("targets", "EL")
    for model, package in zip(models, (peft, our_config)):
        model.add_adapter(name, config(package, family, kinds, **fields))
    return share_random_weights(*models)


def activate(models, names):
    for model in models:
        model.base_model.set_adapter(names)


# --- the variants ---------------------------------------------------------------------------------------------

@families
@variants
@pytest.mark.parametrize("start", [True, False])
def test_same_names_and_start(family, variant, start):
    theirs, ours_ = wrap(base_model(family), family, seed=3, init_lora_weights=start, **VARIANTS[variant])
    assert [(n, p.shape, p.requires_grad) for n, p in theirs.named_parameters()] == [(n, p.shape, p.requires_grad) for n, p in ours_.named_parameters()]
    assert list(theirs.state_dict()) == list(ours_.state_dict())
    assert_equal(dict(theirs.named_parameters()), dict(ours_.named_parameters()))
    assert theirs.get_nb_trainable_parameters() == ours_.get_nb_trainable_parameters()


@families
@variants
def test_the_start_is_the_base_model(family, variant):
    base = base_model(family)
    _, model = wrap(base, family, **VARIANTS[variant])
    torch.testing.assert_close(model(**batch("left")).logits, base(**batch("left")).logits)


@families
@variants
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_forward_and_gradients(family, variant, mode):
    results = []
    for model in pair(family, **VARIANTS[variant]):
        model.train(mode == "train")
        torch.manual_seed(4)  # dropout
        output = model(**batch("left"))
        output.loss.backward()
        results.append((output, gradients(model)))
    (their_output, their_gradients), (our_output, our_gradients) = results
    assert torch.equal(their_output.loss, our_output.loss)
    assert torch.equal(their_output.logits, our_output.logits)
    assert len(our_gradients) == sum(p.requires_grad for p in model.parameters())
    assert_equal(their_gradients, our_gradients)


@families
@pytest.mark.parametrize("variant", ["embedding", "dora both"])
@pytest.mark.parametrize("how", [dict(do_sample=False), dict(do_sample=True, num_return_sequences=2), dict(num_beams=2)], ids=["greedy", "sampled", "beams"])
def test_generate(family, variant, how):
    texts = []
    for model in pair(family, **VARIANTS[variant]):
        torch.manual_seed(5)
        with torch.no_grad():
            texts.append(model.eval().generate(**batch("left", labels=False), max_new_tokens=4, **how))
    assert torch.equal(*texts)


@pairs
@variants
def test_several_at_once(family, variant):
    "Also adapters of different kinds, in different layers."
    models = pair(family, **VARIANTS[variant])
    add(models, family, "plain", targets="L", r=2)
    add(models, family, "dora", use_dora=True, r=2)
    for names in ["default"], ["default", "plain"], ["plain", "default"], ["dora", "default"], ["default", "plain", "dora"]:
        activate(models, names)
        theirs, ours_ = [m(**batch("left")) for m in models]
        assert torch.equal(theirs.logits, ours_.logits)
        for model, output in zip(models, (theirs, ours_)):
            model.zero_grad()
            output.loss.backward()
        assert_equal(*[gradients(m) for m in models])


@pairs
@variants
@pytest.mark.parametrize("cast", [True, False])
def test_half_precision(family, variant, cast):
    base = base_model(family).to(torch.bfloat16)
    models = wrap(base, family, seed=6, autocast_adapter_dtype=cast, init_lora_weights=False, **VARIANTS[variant])
    assert {p.dtype for n, p in models[1].named_parameters() if "lora_" in n} == {torch.float32 if cast else torch.bfloat16}
    assert_equal(*[dict(m.named_parameters()) for m in models])
    assert torch.equal(*[m.eval()(**batch("left")).logits for m in models])


def test_double_precision_stays_double():
    model = ours.get_peft_model(base_model("gpt2").double(), config(our_config, "gpt2", init_lora_weights=False))
    layer = model.transformer.h[0].attn.c_attn
    A, B = layer.factors("default")
    assert torch.equal(layer.get_delta_weight("default"), (B @ A).T * (5 / 3))
    assert layer.get_delta_weight("default").dtype == torch.float64


class Scaled(nn.Embedding):
    embed_scale = 3.0

    def forward(self, input_ids):
        return super().forward(input_ids) * self.embed_scale


@pytest.mark.parametrize("dora", [True, False])
@pytest.mark.parametrize("scale", [3.0, torch.tensor(3.0)])
def test_embeddings_that_scale(dora, scale):
    "As in Gemma 3: the detour is scaled with what it is added to."
    base = base_model("llama, grouped queries")
    table = base.model.embed_tokens
    base.model.embed_tokens = Scaled(table.num_embeddings, table.embedding_dim, _weight=table.weight.data)
    base.model.embed_tokens.embed_scale = scale
    models = share_random_weights(*wrap(base, "llama, grouped queries", targets="E", use_dora=dora))
    theirs, ours_ = [m(**batch("left")).logits for m in models]
    assert torch.equal(theirs, ours_)
    merged = models[1].merge_and_unload()
    torch.testing.assert_close(merged(**batch("left")).logits, ours_, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("settings", [dict(padding_idx=0), dict(max_norm=0.5), dict(max_norm=0.5, norm_type=1.0), dict(scale_grad_by_freq=True), dict(sparse=True)], ids=str)
def test_embeddings_with_settings(settings):
    "The factors are picked with the settings of the table."
    base = base_model("llama, grouped queries")
    base.model.embed_tokens = nn.Embedding(61, 32, **settings)
    results = []
    for model in share_random_weights(*wrap(base, "llama, grouped queries", targets="E")):
        try:
            output = model(**batch("left"))
            output.loss.backward()
            results.append((output.logits, {n: g.to_dense() for n, g in gradients(model).items()}))
        except RuntimeError as e:
            results.append(str(e))
    if isinstance(results[0], str):
        assert results[0] == results[1]
    else:
        assert torch.equal(results[0][0], results[1][0])
        assert_equal(results[0][1], results[1][1])
