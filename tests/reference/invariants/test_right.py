"""Right everywhere, besides the invariant matrix: half precision, torch.compile, sampling, beams, assisted
generation, what transformers refuses, maximum lengths, and continuing from a cache."""
# lane: reference

import copy
import inspect

import pytest
import torch
from packaging.version import Version
from transformers import DynamicCache, StaticCache

import families
import matrix
import parity
import peft_viz.reference.causal_lm as ours
import peft_viz.reference.config as our_config
from matrix import close, NEW, padded, same_text, Subject, wrap_ours
from parity import METHODS, peft, PROMPTS
from peft_viz.reference.calls import check_positions
from peft_viz.reference.model import PeftModel

pytestmark = pytest.mark.usefixtures("quiet_and_single")

FEW = (
    "gpt2",
    "llama",
    "opt",
    "bloom",
    "mistral",
)  # learned positions of two kinds, rotary ones, ALiBi, a window shorter than the text
PREFIX = "prefix", "prefix-projection"
few = pytest.mark.parametrize("family", FEW)
two = pytest.mark.parametrize("family", ["gpt2", "llama"])
some = pytest.mark.parametrize("family", ["gpt2", "mistral"])
all_methods = pytest.mark.parametrize("method", METHODS)
prompts = pytest.mark.parametrize("method", PROMPTS)
prefixes = pytest.mark.parametrize("method", PREFIX)


def subject(family, method, corrected=True):
    s = Subject("ours", family, method)
    s.model.corrected_positions = corrected
    return s


def virtual(s):
    "How many virtual tokens."
    return s.model.active_peft_config.num_virtual_tokens


# --- half precision --------------------------------------------------------------------------------------------


def keeping_dtypes(model):
    "Random adapter weights, in the numbers that the model chose for them."
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    for name, parameter in matrix.draw_adapter(model).named_parameters():
        parameter.data = parameter.data.to(dtypes[name])
    return model.eval()


def dtypes(s):
    return {name: tensor.dtype for name, tensor in s.model.state_dict().items()}


def in_half(family, method, dtype, package=our_config):
    s = Subject("ours", family, method)
    s.model = keeping_dtypes(
        parity.wrap_one(package, copy.deepcopy(matrix.base_model(family)).to(dtype), method)
    )
    return s


HALVES = [("opt", torch.bfloat16), ("mistral", torch.bfloat16), ("llama", torch.float16)]


@all_methods
@pytest.mark.parametrize("family, dtype", HALVES)
def test_half_precision_runs_in_the_base_models_dtype(family, dtype, method):
    s = in_half(family, method, dtype)
    logits = s.whole()
    assert logits.dtype == dtype and logits.isfinite().all()
    assert s.text().shape == (3, 7 + NEW)


@all_methods
@two
def test_half_precision_says_the_same_with_a_static_cache(family, method):
    s = in_half(family, method, torch.bfloat16)
    same_text(s.generate(input_ids=s.ids, cache_implementation="static"), s.text())


@all_methods
@pytest.mark.parametrize(
    "family, dtype", [("gpt2", torch.bfloat16), ("llama", torch.bfloat16), ("gpt2", torch.float16)]
)
def test_half_precision_is_what_peft_makes_of_it(family, dtype, method):
    "The same dtypes of parameters, the same logits."
    if parity.peft_failure(method, family, "forward"):
        pytest.skip("peft cannot do this")
    mine, theirs = in_half(family, method, dtype), in_half(family, method, dtype, peft)
    assert dtypes(mine) == dtypes(theirs)
    assert torch.equal(mine.whole(), theirs.whole())


# --- torch.compile ---------------------------------------------------------------------------------------------

# Graphs more than the base model's own one, which has no break: method -> how many, and why. All others have none more.
MORE_GRAPHS = {
    "p-tuning-lstm": 5,  # torch.compile does not take an LSTM
    "prefix": 1,
}  # only corrected: is there padding at all?


def compiled(model, **kwargs):
    "Logits of the compiled model, and of how many graphs it is made. One without an operation counts for none."
    graphs = []

    def backend(graph, example_inputs):
        if any(node.op.startswith("call_") for node in graph.graph.nodes):
            graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    with torch.no_grad():
        logits = torch.compile(model, backend=backend)(**kwargs).logits
    return logits, len(graphs)


def one_layer(family, method, corrected=False):
    "A subject that is compiled soon."
    s = subject(family, method, corrected)
    base = families.tiny_model(
        family, **{**matrix.CHANGES[family], "n_layer" if family == "gpt2" else "num_hidden_layers": 1}
    )
    s.model = wrap_ours(base, method).eval()
    s.model.corrected_positions = corrected
    return s


OLD_TORCH = Version(torch.__version__) < Version("2.10")  # begins a new graph at an import inside a function


def compiles(s, more_graphs, **kwargs):
    with torch.no_grad():
        expected = s.model(**kwargs, **s.extra()).logits
    logits, graphs = compiled(s.model, **kwargs, **s.extra())
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert OLD_TORCH or graphs <= 1 + more_graphs


def test_the_base_model_compiles_into_one_graph():
    s = Subject("base", "llama")
    assert compiled(s.model, input_ids=s.ids)[1] == 1


@pytest.mark.parametrize(
    "method", [method for method in METHODS if method not in ("lora-dora", "prefix-projection", "cpt-decay")]
)
def test_compiles(method):
    compiles(
        s := one_layer("llama", method),
        0 if method == "prefix" else MORE_GRAPHS.get(method, 0),
        input_ids=s.ids,
        attention_mask=padded(s.ids, "left")[1],
    )


@pytest.mark.parametrize("method", ["prompt", "prefix", "cpt"])
def test_compiles_with_corrected_positions(method):
    compiles(
        s := one_layer("llama", method, corrected=True),
        MORE_GRAPHS.get(method, 0),
        input_ids=s.ids,
        attention_mask=padded(s.ids, "left")[1],
    )


@pytest.mark.parametrize("family", ["gpt2", "mistral"])
@pytest.mark.parametrize("method", ["prefix"])
def test_compiles_in_other_families(family, method):
    compiles(s := one_layer(family, method), 0, input_ids=s.ids)


# --- ways to generate ------------------------------------------------------------------------------------------


def sampled(s):
    torch.manual_seed(5)
    return s.generate(input_ids=s.ids, do_sample=True, num_return_sequences=3)


@all_methods
@two
def test_samples_several_sequences(family, method):
    "The generator is drawn from as often as with peft: the same texts."
    mine = sampled(subject(family, method, corrected=False))
    assert mine.shape == (9, 7 + NEW)
    assert len(mine[:3].unique(dim=0)) > 1
    if not parity.peft_failure(method, family, "beams"):  # where peft does not repeat task ids
        same_text(mine, sampled(Subject("peft", family, method)))


@all_methods
@some
def test_beams_of_several_sequences_from_rows_of_different_lengths(family, method):
    s = subject(family, method)
    ids, mask = padded(s.ids, "left")
    together = s.generate(input_ids=ids, attention_mask=mask, num_beams=3, num_return_sequences=2)
    assert together.shape == (6, 7 + NEW)
    for i in range(3):
        alone = s.generate(input_ids=s.alone(i), rows=[i], num_beams=3, num_return_sequences=2)
        same_text(together[2 * i : 2 * i + 2, -NEW:], alone[:, -NEW:], f"row {i}")


AGAIN = torch.tensor([[5, 6, 7, 5, 6, 7, 5, 6]])  # something to look up
ONE_ROW = dict(
    rows=[0], max_new_tokens=9, eos_token_id=63
)  # transformers 4 looks for an end of text when it looks up


def assisted(s, ids, **how):
    same_text(s.generate(input_ids=ids, **ONE_ROW, **how), s.generate(input_ids=ids, **ONE_ROW))


@all_methods
@two
@pytest.mark.parametrize("ids", [AGAIN, AGAIN[:, :2]], ids=["long", "shorter than the virtual tokens"])
def test_looking_up_candidates_changes_no_text(family, method, ids):
    assisted(subject(family, method), ids, prompt_lookup_num_tokens=2)


@all_methods
@pytest.mark.parametrize("ids", [AGAIN, AGAIN[:, :2]], ids=["long", "shorter than the virtual tokens"])
def test_an_assistant_changes_no_text(method, ids):
    "The base model assists; one with tasks has to be assisted by one with tasks."
    s = subject("llama", method)
    if s.extra():
        with pytest.raises(ValueError, match="task_ids"):
            s.generate(input_ids=ids, **ONE_ROW, assistant_model=copy.deepcopy(s.plain))
    else:
        assisted(s, ids, assistant_model=copy.deepcopy(s.plain))
    assisted(s, ids, assistant_model=wrap_ours(copy.deepcopy(s.plain), method).eval())


@pytest.mark.parametrize("padding", [1, 5])
@pytest.mark.parametrize("method", ["prompt", "prefix", "cpt"])
@two
def test_an_assistant_changes_no_text_behind_padding(family, method, padding):
    s = subject(family, method)
    ids, mask = (
        torch.nn.functional.pad(AGAIN, (padding, 0)),
        torch.nn.functional.pad(torch.ones_like(AGAIN), (padding, 0)),
    )
    text = s.generate(input_ids=ids, attention_mask=mask, **ONE_ROW, assistant_model=copy.deepcopy(s.plain))
    same_text(text[:, -9:], s.generate(input_ids=AGAIN, **ONE_ROW)[:, -9:])


@all_methods
@two
def test_a_model_with_an_adapter_assists(family, method):
    s = subject(family, method)
    kwargs = dict(input_ids=s.ids[:1], max_new_tokens=9, do_sample=False)
    plain = copy.deepcopy(s.plain)
    if s.extra():
        with pytest.raises(ValueError, match="pass task_ids"):
            plain.generate(**kwargs, assistant_model=s.model)
    else:
        same_text(plain.generate(**kwargs, assistant_model=s.model), plain.generate(**kwargs))


REFUSED = {
    "contrastive search": dict(penalty_alpha=0.6, top_k=4),
    "DoLa": dict(dola_layers="low"),
    "group beams": dict(num_beams=4, num_beam_groups=2, diversity_penalty=0.5),
    "constrained beams": dict(num_beams=2, force_words_ids=[[5]]),
}


@pytest.mark.parametrize("how", REFUSED)
@pytest.mark.parametrize("method", ["lora", "prompt", "prefix"])
def test_what_transformers_has_moved_to_the_hub_is_refused(how, method):
    "And the base model is as before."
    s = subject("llama", method)
    text, before = s.text(), matrix._lent(s.base)
    with pytest.raises(ValueError, match="trust_remote_code"):
        s.generate(input_ids=s.ids, **REFUSED[how])
    assert matrix._lent(s.base) == before
    same_text(s.generate(input_ids=s.ids), text)


@some
@all_methods
def test_a_prompt_in_chunks_gives_the_same_text(family, method):
    s = subject(family, method, corrected=False)
    same_text(s.generate(input_ids=s.ids, prefill_chunk_size=3), s.text())
    ids, mask = padded(s.ids, "left")
    if families.V5:  # transformers 4 counts padding when it cuts
        same_text(
            s.generate(input_ids=ids, attention_mask=mask, prefill_chunk_size=3),
            s.generate(input_ids=ids, attention_mask=mask),
        )


@two
@prompts
def test_a_prompt_in_chunks_cannot_have_corrected_positions(family, method):
    s = subject(family, method)
    with pytest.raises(ValueError, match="prefill_chunk_size.*corrected_positions=False"):
        s.generate(input_ids=s.ids, prefill_chunk_size=3)


# --- the longest sequence --------------------------------------------------------------------------------------

LONGEST = {
    "gpt2": "n_positions",
    "opt": "max_position_embeddings",
    "mpt": "max_seq_len",
}


def up_to(family, method, maximum):
    base = families.tiny_model(family, **{**matrix.CHANGES.get(family, {}), LONGEST[family]: maximum})
    base.generation_config.eos_token_id = None
    return wrap_ours(base, method).eval()


def some_ids(tokens):
    return torch.full((1, tokens), 5)


@pytest.mark.parametrize("family", LONGEST)
@prompts
def test_virtual_tokens_count_in_the_longest_sequence(family, method):
    model = up_to(family, method, 24)
    n, extra = (
        model.active_peft_config.num_virtual_tokens,
        dict(task_ids=torch.tensor([1])) if method == "multitask" else {},
    )
    too_long = f"25 tokens, {n} of them virtual, are more than the 24 .* pass at most {24 - n} tokens"
    with torch.no_grad():
        assert model(input_ids=some_ids(24 - n), **extra).logits.shape[1] == 24 - n * (method in PREFIX)
    with pytest.raises(ValueError, match=too_long):
        model(input_ids=some_ids(25 - n), **extra)
    start = dict(input_ids=some_ids(21 - n), do_sample=False, **extra)
    assert model.generate(**start, max_new_tokens=4).shape[1] == 25 - n  # nobody reads the last token
    with pytest.raises(ValueError, match=too_long):
        model.generate(**start, max_new_tokens=5)


@pytest.mark.parametrize("family", LONGEST)
@prompts
def test_a_cache_counts_in_the_longest_sequence(family, method):
    model = up_to(family, method, 24)
    n, extra = (
        model.active_peft_config.num_virtual_tokens,
        dict(task_ids=torch.tensor([1])) if method == "multitask" else {},
    )
    with torch.no_grad():
        cache = model(input_ids=some_ids(23 - n), use_cache=True, **extra).past_key_values
        with pytest.raises(ValueError, match="25 tokens"):
            model(input_ids=some_ids(2), past_key_values=cache, **extra)
        assert model(input_ids=some_ids(1), past_key_values=cache, **extra).logits.isfinite().all()


DYNAMIC = dict(rope_parameters=dict(rope_type="dynamic", factor=4.0, rope_theta=1e4))


@pytest.mark.parametrize(
    "family, more", [("llama", {}), ("llama", DYNAMIC), ("mistral", {}), ("gpt_neox", {})]
)
@pytest.mark.parametrize("method", ["prompt", "prefix"])
@torch.no_grad()
def test_rotary_models_read_beyond_the_number_in_their_configuration(family, more, method):
    if more and not families.V5:
        more = dict(rope_scaling=dict(rope_type="dynamic", factor=4.0))
    base = families.tiny_model(family, max_position_embeddings=16, **more)
    model = wrap_ours(base, method).eval()
    n, ids = model.active_peft_config.num_virtual_tokens, torch.arange(5, 45)[None]
    cache = model.get_prompt(1) if method == "prefix" else None
    if method == "prompt":
        prompt = torch.cat((model.get_prompt(1), base.get_input_embeddings()(ids)), 1)
        expected = base(inputs_embeds=prompt).logits
    else:
        expected = base(ids, past_key_values=cache).logits
    close(model(ids).logits, expected)
    assert model(ids).logits.shape[1] == 40 + n * (method == "prompt")
    assert model.generate(ids, max_new_tokens=2, min_new_tokens=2, do_sample=False).shape == (1, 42)


@prompts
def test_bloom_has_no_longest_sequence(method):
    s = subject("bloom", method)
    assert s.logits(some_ids(200), rows=[0]).shape[1] == 7  # (the last seven)


# --- continuing ------------------------------------------------------------------------------------------------


def in_two_calls(s, first, second, **kwargs):
    "Logits of the last three tokens; masks are for all tokens so far."
    with torch.no_grad():
        cache = s.forward(**first, use_cache=True, **kwargs).past_key_values
        return s.forward(**second, past_key_values=cache, **kwargs).logits[:, -3:]


def halves(tensor, name="input_ids"):
    return {name: tensor[:, :4]}, {name: tensor[:, 4:]}


@few
@prompts
def test_forward_continues_from_a_cache(family, method):
    s = subject(family, method)
    expected = s.whole()[:, -3:]
    first, second = halves(s.ids)
    close(in_two_calls(s, first, second), expected)
    ones = torch.ones_like(s.ids)
    close(
        in_two_calls(s, {**first, "attention_mask": ones[:, :4]}, {**second, "attention_mask": ones}),
        expected,
        "with a mask: logits",
    )
    close(
        in_two_calls(s, *halves(s.plain.get_input_embeddings()(s.ids).detach(), "inputs_embeds")),
        expected,
        "from embeddings: logits",
    )


@few
@prompts
def test_forward_continues_behind_padding(family, method):
    s = subject(family, method)
    ids, mask = padded(s.ids, "left")
    for given, name in (ids, "input_ids"), (s.plain.get_input_embeddings()(ids).detach(), "inputs_embeds"):
        first, second = halves(given, name)
        together = in_two_calls(
            s, {**first, "attention_mask": mask[:, :4]}, {**second, "attention_mask": mask}
        )
        close(together, s.logits(attention_mask=mask, **{name: given}, last=3), f"{name}: logits")
        for i in range(3):
            close(together[i : i + 1], s.logits(s.alone(i), rows=[i], last=3), f"{name}: logits of row {i}")


@few
@prefixes
def test_an_empty_cache_of_the_caller_is_filled(family, method):
    s = subject(family, method)
    cache = DynamicCache(config=s.plain.config)
    close(s.logits(s.ids, past_key_values=cache), s.whole())
    assert cache.get_seq_length() == virtual(s) + 7
    cache = DynamicCache(config=s.plain.config)
    same_text(s.generate(input_ids=s.ids, past_key_values=cache), s.text())
    assert cache.get_seq_length() == virtual(s) + 7 + NEW - 1


# --- families that do not count from 0, or not in their cache ----------------------------------------------------


def loud(family, **more):
    "A model in which a wrong position is heard."
    model, numbers = families.tiny_model(family, **more), torch.Generator().manual_seed(3)
    for _, parameter in sorted(model.named_parameters()):
        if parameter.dim() > 1:
            parameter.data = torch.randn(parameter.shape, generator=numbers) * 0.2
    return model


PROMPT, PREFIXED = our_config.PromptTuningConfig, our_config.PrefixTuningConfig
COUNT_OTHERWISE = [(family, kind) for family in ("roberta", "xlm-roberta-xl") for kind in (PROMPT, PREFIXED)]
COUNT_OTHERWISE += [
    ("bamba", kind) for kind in (PROMPT, PREFIXED)[: 1 + families.V5]
]  # 4: its cache takes no prefix


@pytest.mark.parametrize("family, kind", COUNT_OTHERWISE)
@torch.no_grad()
def test_positions_of_families_that_count_otherwise(family, kind):
    """RoBERTa's first position is 2, and `generate` counts from 0; Bamba counts each call anew (transformers 5). What
    `generate` computes is what `forward` computes, and corrected positions change nothing where there is no padding."""
    base = loud(family, **(dict(is_decoder=True) if "roberta" in family else {}))
    model = ours.get_peft_model(base, kind(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    ids, seen = torch.tensor([[7, 8, 9, 10, 11]]), []
    how = dict(
        max_new_tokens=3,
        min_new_tokens=3,
        do_sample=False,
        pad_token_id=0,
        attention_mask=torch.ones_like(ids),
    )
    for model.corrected_positions in False, True:
        out = model.generate(ids, **how, output_logits=True, return_dict_in_generate=True)
        written = out.sequences[:, :-1]
        whole = model(written, attention_mask=torch.ones_like(written)).logits[:, -3:]
        close(torch.stack(out.logits, dim=1), whole)
        seen.append(whole)
    close(*seen)


@pytest.mark.parametrize("family, corrected", [("biogpt", False), ("opt", False), ("recurrent_gemma", True)])
@torch.no_grad()
def test_padding_is_told_apart_as_in_the_base_model(family, corrected):
    """A cache of fixed size has a mask of four dimensions, and OPT's positions are counted before. RecurrentGemma keeps
    its states in its layers: what was generated before does not flow in through the padding."""
    config = our_config.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = ours.get_peft_model(loud(family), config, corrected_positions=corrected).eval()
    ids = torch.tensor([[0, 0, 7, 8, 9], [12, 13, 14, 15, 16]])
    how = dict(
        max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=0, attention_mask=(ids > 0).long()
    )
    how |= dict(output_logits=True, return_dict_in_generate=True)
    again = {} if corrected else dict(cache_implementation="static")
    first, second = model.generate(ids, **how), model.generate(ids, **how, **again)
    close(torch.stack(first.logits), torch.stack(second.logits))


def test_a_table_with_rows_for_padding_is_shorter():
    model = loud("roberta", is_decoder=True)
    config = our_config.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = ours.get_peft_model(model, config, corrected_positions=True)
    most = model.config.max_position_embeddings - (model.config.pad_token_id + 1) - 3
    with torch.no_grad():
        model(torch.full((1, most), 5), attention_mask=torch.ones(1, most))
    with pytest.raises(ValueError, match=f"pass at most {most} tokens"):
        model(torch.full((1, most + 1), 5))
    check_positions(model, torch.tensor([[model.config.max_position_embeddings - 1]]))
    with pytest.raises(ValueError, match="position_ids must be from 0 to 127; here they are from 128 to 128"):
        check_positions(model, torch.tensor([[model.config.max_position_embeddings]]))


# --- positions as peft counts them, and corrected --------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral"])
@prompts
def test_positions_are_pefts_or_corrected(family, method):
    mine, right, theirs = (
        subject(family, method, corrected=False),
        subject(family, method),
        Subject("peft", family, method),
    )
    ids, mask = padded(mine.ids, "left")
    results = [
        (s.logits(ids, attention_mask=mask), s.generate(input_ids=ids, attention_mask=mask))
        for s in (mine, right, theirs)
    ]
    assert torch.equal(results[0][0][mask == 1], results[2][0][mask == 1])
    same_text(results[0][1], results[2][1])
    assert not torch.allclose(results[0][0][0, 3:], results[1][0][0, 3:], atol=1e-3)
    for i in range(3):
        n = right.alone(i).shape[1]
        close(
            results[1][0][i : i + 1, -n:],
            right.logits(right.alone(i), rows=[i], last=n),
            f"logits of row {i}",
        )
        same_text(results[1][1][i : i + 1, -NEW:], right.text_alone(i)[:, -NEW:], f"row {i}")


@two
def test_corrected_positions_change_nothing_for_lora(family):
    plain, right = subject(family, "lora", corrected=False), subject(family, "lora")
    for ids, mask in (plain.ids, None), padded(plain.ids, "left"):
        assert torch.equal(plain.logits(ids, attention_mask=mask), right.logits(ids, attention_mask=mask))
        same_text(
            plain.generate(input_ids=ids, attention_mask=mask),
            right.generate(input_ids=ids, attention_mask=mask),
        )


@all_methods
def test_corrected_positions_are_asked_for(tmp_path, method):
    "When a model is made and when it is loaded; they are not saved."
    model = ours.get_peft_model(
        copy.deepcopy(matrix.base_model("llama")), parity.config(our_config, method), corrected_positions=True
    )
    assert model.corrected_positions
    model.save_pretrained(tmp_path)
    for options in {}, dict(corrected_positions=True):
        loaded = PeftModel.from_pretrained(copy.deepcopy(matrix.base_model("llama")), tmp_path, **options)
        assert loaded.corrected_positions == bool(options)


# --- a prefix behind padding -----------------------------------------------------------------------------------


def labelled(s, side):
    "The same three texts, with padding on the one side or the other."
    ids, mask = padded(s.ids, "left")
    if side == "right":
        ids, mask = (
            torch.stack([row.roll(-n) for row, n in zip(tensor, matrix.LEFT_OUT)]) for tensor in (ids, mask)
        )
    return dict(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100))


def loss_and_gradients(s, **batch):
    s.model.zero_grad()
    loss = s.forward(**batch).loss
    loss.backward()
    return loss.detach(), {
        name: parameter.grad.clone()
        for name, parameter in s.model.named_parameters()
        if parameter.grad is not None
    }


@few
@prompts
def test_loss_and_gradients_do_not_depend_on_the_side_of_padding(family, method):
    s = subject(family, method)
    (left, grads), (right, expected) = (
        loss_and_gradients(s, **labelled(s, side)) for side in ("left", "right")
    )
    close(left, right, "loss")
    assert grads.keys() == expected.keys() and grads
    for name in grads:
        close(grads[name], expected[name], name)


def taken(s, **kwargs):
    ids, mask = padded(s.ids, "left")
    with torch.no_grad():
        return s.forward(**{"input_ids": ids, "attention_mask": mask, **kwargs})


@few
@prefixes
def test_what_comes_out_has_the_length_of_the_sequence(family, method):
    s = subject(family, method)
    output = taken(s, output_hidden_states=True, labels=labelled(s, "left")["labels"])
    assert output.logits.shape[:2] == (3, 7)
    assert {states.shape[:2] for states in output.hidden_states} == {(3, 7)}
    last, shown = (
        output.hidden_states[-1][0, 3:],
        s.model(s.alone(0), output_hidden_states=True).hidden_states[-1][0],
    )
    close(last, shown, "hidden states")
    as_tuple = taken(s, output_hidden_states=True, labels=labelled(s, "left")["labels"], return_dict=False)
    assert torch.equal(as_tuple[0], output.loss) and torch.equal(as_tuple[1], output.logits)


@two
@prefixes
def test_attentions_are_of_real_tokens_to_virtual_and_real_ones(family, method):
    "As without padding: `[batch, heads, sequence, virtual + sequence]`."
    s = subject(family, method)
    with torch.no_grad():
        alone = s.model(s.alone(0), output_attentions=True).attentions
    for mine, expected in zip(taken(s, output_attentions=True).attentions, alone):
        n = virtual(s)
        assert mine.shape[2:] == (7, n + 7)
        close(torch.cat((mine[:1, :, 3:, :n], mine[:1, :, 3:, n + 3 :]), dim=3), expected, "attentions")


@two
@prefixes
def test_only_the_last_logits(family, method):
    "`logits_to_keep` counts real tokens."
    s = subject(family, method)
    if "logits_to_keep" in inspect.signature(s.base.forward).parameters:
        close(taken(s, logits_to_keep=2).logits, taken(s).logits[:, -2:])


@few
@prefixes
def test_embeddings_and_caches_behind_padding(family, method):
    s = subject(family, method)
    expected = taken(s).logits
    ids, mask = padded(s.ids, "left")
    embeds = s.plain.get_input_embeddings()(ids).detach()
    close(taken(s, input_ids=None, inputs_embeds=embeds).logits, expected, "from embeddings: logits")
    if family != "bloom":  # which can only generate with a static cache: its ALiBi is as long as the mask
        static = StaticCache(config=s.plain.config, max_cache_len=20)
        close(
            taken(s, past_key_values=static).logits[mask == 1],
            expected[mask == 1],
            "with a static cache: logits",
        )
    text = s.generate(input_ids=ids, attention_mask=mask)[:, 7:]
    if "inputs_embeds" in inspect.signature(s.plain.prepare_inputs_for_generation).parameters:
        same_text(s.generate(inputs_embeds=embeds, attention_mask=mask), text)
