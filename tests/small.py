"""Small base models, configurations and batches that many tests share. (Every family that transformers knows, made
small: families.py.)"""

import copy, functools, io, pickle, types

import torch
import transformers as tf

import peft_viz

VOCABULARY, PAD = 61, 0
TOKENS = dict(vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, pad_token_id=PAD)
SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, **TOKENS)
GATED = dict(intermediate_size=48, **SMALL)
LEARNED = dict(ffn_dim=48, max_position_embeddings=64, **SMALL)

FAMILIES = {  # name: makes the model. The first six are compared with peft in everything
    "gpt2": lambda: tf.GPT2LMHeadModel(
        tf.GPT2Config(n_positions=64, n_embd=32, n_layer=2, n_head=4, **TOKENS)
    ),  # Conv1D
    "llama": lambda: tf.LlamaForCausalLM(
        tf.LlamaConfig(num_key_value_heads=2, **GATED)
    ),  # rotary positions, grouped queries
    "opt": lambda: tf.OPTForCausalLM(tf.OPTConfig(word_embed_proj_dim=32, **LEARNED)),  # learned positions
    "mpt": lambda: tf.MptForCausalLM(
        tf.MptConfig(d_model=32, n_heads=4, n_layers=2, max_seq_len=64, **TOKENS)
    ),  # ALiBi; a branch of its own in `forward`
    "bloom": lambda: tf.BloomForCausalLM(
        tf.BloomConfig(hidden_size=32, n_layer=2, n_head=4, **TOKENS)
    ),  # ALiBi, fused query, key and value
    "gpt_neox": lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**GATED)),  # parallel residual
    "opt, narrow embeddings": lambda: tf.OPTForCausalLM(tf.OPTConfig(word_embed_proj_dim=16, **LEARNED)),
    "falcon, multi-query": lambda: tf.FalconForCausalLM(tf.FalconConfig(**SMALL)),
    "falcon, new": lambda: tf.FalconForCausalLM(
        tf.FalconConfig(new_decoder_architecture=True, num_kv_heads=2, **SMALL)
    ),
    "falcon, plain": lambda: tf.FalconForCausalLM(tf.FalconConfig(multi_query=False, **SMALL)),
    "gpt_bigcode, multi-query": lambda: tf.GPTBigCodeForCausalLM(
        tf.GPTBigCodeConfig(n_embd=32, n_layer=2, n_head=4, n_positions=64, **TOKENS)
    ),
    "mistral": lambda: tf.MistralForCausalLM(tf.MistralConfig(num_key_value_heads=2, **GATED)),
    "qwen3, wide heads": lambda: tf.Qwen3ForCausalLM(
        tf.Qwen3Config(num_key_value_heads=2, head_dim=16, **GATED)
    ),
    "gemma2, wide heads": lambda: tf.Gemma2ForCausalLM(
        tf.Gemma2Config(num_key_value_heads=2, head_dim=16, sliding_window=8, **GATED)
    ),
    "phi3": lambda: tf.Phi3ForCausalLM(tf.Phi3Config(num_key_value_heads=2, **GATED)),
}
SIX = list(FAMILIES)[:6]
OTHERS = list(FAMILIES)[6:]


class Pickler(pickle.Pickler):
    "Pickles a module without its tensors, and without functions, which may be local ones: these stand in `beside`."

    def __init__(self, file):
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.beside, self.numbers = [], {}

    def persistent_id(self, value):
        if not isinstance(value, (torch.Tensor, types.FunctionType)):
            return None
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.beside)
            self.beside.append(value)
        return self.numbers[id(value)]


class Unpickler(pickle.Unpickler):
    "Reads what `Pickler` wrote, with clones of the tensors."

    def __init__(self, file, beside):
        super().__init__(file)
        self.beside, self.clones = beside, {}

    def persistent_load(self, number):
        if number not in self.clones:
            self.clones[number] = copy.deepcopy(self.beside[number])
        return self.clones[number]


def copies(model):
    """A function that returns a copy of the model as it is now. Each takes a fifth of the time of `copy.deepcopy`,
    which walks through thousands of Python objects."""
    file = io.BytesIO()
    pickler = Pickler(file)
    pickler.dump(model)
    return lambda: Unpickler(io.BytesIO(file.getvalue()), pickler.beside).load()


@functools.cache
def _made(family, seed):
    torch.manual_seed(seed)
    model = FAMILIES[family]().eval()
    model.generation_config.eos_token_id = None
    return copies(model), torch.get_rng_state()


def base_model(family="llama", seed=0):
    "A small model with random weights, that writes texts of full length."
    copied, drawn = _made(family, seed)
    torch.set_rng_state(drawn)  # as if the weights had been drawn now
    return copied()


CONFIGS = {  # method: the class of its configuration, the fields that it needs
    "lora": ("LoraConfig", {}),
    "adalora": ("AdaLoraConfig", dict(total_step=10)),
    "ia3": ("IA3Config", {}),
    "poly": ("PolyConfig", {}),
    "prompt": ("PromptTuningConfig", dict(num_virtual_tokens=4)),
    "prefix": ("PrefixTuningConfig", dict(num_virtual_tokens=4)),
}


def config(method, package=peft_viz, **fields):
    "A configuration, of this package or of peft. The method may be called as in `PeftType`, too: PREFIX_TUNING."
    name, needed = CONFIGS[method.lower().removesuffix("_tuning")]
    return getattr(package, name)(**{"task_type": "CAUSAL_LM", **needed, **fields})


def batch(*rows, side="left", labels=True):
    "Rows of ids, padded with zeros on one side to the longest."
    width = max(map(len, rows))
    fill = [[0] * (width - len(row)) for row in rows]
    ids = torch.tensor([[*f, *row] if side == "left" else [*row, *f] for f, row in zip(fill, rows)])
    made = dict(input_ids=ids, attention_mask=(ids > 0).long())
    return dict(made, labels=ids.masked_fill(ids == 0, -100)) if labels else made
