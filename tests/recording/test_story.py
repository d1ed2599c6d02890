"""The story of a recording: which moments it tells, that what it says was measured, and that peft's code and ours tell
the same one. The history of a tensor: back to what was passed, line by line."""

import ast
import contextlib
import copy
import json
import re
from collections import defaultdict
from functools import cache

import pytest
import torch

import peft_viz
from peft_viz import load_tiny, plot, record
from peft_viz.recording import layout
from peft_viz.recording.sentences import KINDS, Number, TEXTS
from peft_viz.recording.story import moments
from peft_viz.recording.trace import Trace
from peft_viz.watching import join

peft = pytest.importorskip("peft")
V5 = not __import__("transformers").__version__.startswith("4.")
PAD = 0
IDS = torch.tensor([[0, 0, 9, 10, 11, 12], [13, 14, 15, 16, 17, 18]])
MASK = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
LABELS = torch.tensor([[-100, -100, 9, 10, 11, 12], [13, 14, 15, 16, 17, 18]])
BATCH = dict(input_ids=IDS, attention_mask=MASK)
TASKS = torch.tensor([1, 0])
LINEAR = dict(target_modules=["q_proj", "v_proj"])
METHODS = {
    "prompt": ("PromptTuningConfig", dict(num_virtual_tokens=4)),
    "p-tuning": ("PromptEncoderConfig", dict(num_virtual_tokens=4, encoder_hidden_size=8)),
    "multitask": ("MultitaskPromptTuningConfig", dict(num_virtual_tokens=4, num_tasks=2)),
    "prefix": ("PrefixTuningConfig", dict(num_virtual_tokens=4)),
    "cpt": (
        "CPTConfig",
        dict(cpt_token_ids=[5, 6, 7, 8], cpt_mask=[1] * 4, cpt_tokens_type_mask=[1, 2, 3, 4]),
    ),
    "lora": ("LoraConfig", dict(r=4, **LINEAR)),
    "adalora": ("AdaLoraConfig", dict(init_r=4, target_r=2, total_step=10, **LINEAR)),
    "ia3": ("IA3Config", dict(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])),
    "poly": ("PolyConfig", dict(r=4, n_tasks=2, n_skills=2, **LINEAR)),
}
OTHERS = {  # methods that only peft has
    "vera": ("VeraConfig", dict(r=4, **LINEAR)),
    "loha": ("LoHaConfig", dict(r=4, **LINEAR)),
    "oft": ("OFTConfig", dict(oft_block_size=4, **LINEAR)),
    "trainable tokens": ("TrainableTokensConfig", dict(token_indices=[1, 2])),
    "adaption prompt": ("AdaptionPromptConfig", dict(adapter_len=4, adapter_layers=2)),
}
SOFT = ("prompt", "p-tuning", "multitask", "prefix", "cpt")  # methods with virtual tokens
SIDES = {"ours": peft_viz, "peft": peft}


def made(side, method):
    "A model with a new adapter."
    name, options = (METHODS | OTHERS)[method]
    torch.manual_seed(0)
    base, tokenizer = load_tiny()
    config = getattr(SIDES[side], name)(task_type="CAUSAL_LM", **options)
    return SIDES[side].get_peft_model(base, config).eval(), tokenizer


def watched(side, method, run, **options):
    "What a recording of `run(model)` holds, whether it raises or not."
    model, tokenizer = made(side, method)
    with torch.no_grad(), contextlib.suppress(ValueError, RuntimeError, KeyboardInterrupt):
        with record(model, tokenizer=tokenizer, **options) as trace:
            run(model)
    return trace


def batch_of(method):
    return BATCH | (dict(task_ids=TASKS) if method in ("multitask", "poly") else {})


@cache
def forward(side, method):
    return watched(side, method, lambda m: m(**batch_of(method), labels=LABELS))


@cache
def generate(side, method):
    options = dict(min_new_tokens=5, max_new_tokens=5, do_sample=False)
    return watched(side, method, lambda m: m.generate(**batch_of(method), **options))


def told(story, kind):
    return [m for m in story if m.kind == kind]


def facts(story):
    "Kinds, names and what was measured, without what names code; in an order that does not depend on the code's."
    code = ("warning", "taker", "message")
    plain = lambda m: sorted((k, str(v)) for k, v in m.facts.items() if k not in code)
    return sorted((m.kind, m.names, plain(m)) for m in story)


# ---- every method


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("made_by", [forward, generate])
def test_ours_and_peft_tell_the_same_story(method, made_by):
    one, other = made_by("ours", method).story(), made_by("peft", method).story()
    assert facts(one) == facts(other)


@pytest.mark.parametrize("method", [*METHODS, *OTHERS])
def test_a_forward_has_ten_to_fifteen_moments(method):
    trace = forward("peft", method)
    story = trace.story()
    assert 10 <= len(story) <= 15
    assert [m.kind for m in story][:2] == ["given", "decision"]
    assert {"reached", "attention", "logits", "loss"} <= {m.kind for m in story}
    soft = method in SOFT
    yes, answer = ("Yes", True) if soft else ("No", False)
    assert story[1].facts["answer"] is answer and story[1].text.startswith(
        f"Is it prompt learning? {yes}, because"
    )
    assert trace.about["peft_type"] in story[1].text
    assert bool(told(story, "inside")) is not soft
    assert bool(told(story, "prompt")) is soft


@pytest.mark.parametrize("method", METHODS)
def test_a_decoding_step_has_three_moments_and_alike_ones_are_folded(method):
    trace = generate("peft", method)
    story = trace.story()
    bases = [c.id for c in trace.base_calls]
    assert len(bases) == 5
    first = [m.kind for m in story if m.base == bases[1]]
    assert first in (["reached", "grew", "token"], ["reached", "same", "token"])
    (alike,) = told(story, "alike")
    assert list(alike.folded) == bases[2:] and alike.text.startswith(
        "Steps 2–4: as step 1, one token more in the cache"
    )
    assert story[-1].kind == "returned" and story[-2] is alike


@pytest.mark.parametrize("method", [*METHODS, *OTHERS])
@pytest.mark.parametrize("made_by", [forward, generate])
def test_both_languages(method, made_by):
    trace = made_by("peft", method)
    english, chinese = trace.story(), trace.story("zh")
    assert [m.kind for m in english] == [m.kind for m in chinese]
    for one, other in zip(english, chinese):
        assert one.texts == other.texts and one.text == one.texts["en"] and other.text == other.texts["zh"]
        assert re.search("[\u4e00-\u9fff]", other.text) and not re.search("[\u4e00-\u9fff]", one.text)
        assert "{" not in one.text + other.text
        assert one.text[-1] in ".!:)”" or one.kind == "raised"
    assert str(chinese) != str(english) and "提示学习" in str(chinese)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("made_by", [forward, generate])
def test_moments_point_into_the_recording(method, made_by):
    trace = made_by("ours", method)
    for m in trace.story():
        call = trace.calls[m.call]
        assert m.kind in KINDS and (m.step is None or m.line == call.steps[m.step].line)
        assert [m.before, m.after] == [trace.value(i) for i in m.indices]
        assert m.base is None or trace.calls[m.base].kind == "base"
    plain = trace.story().as_payload()
    assert json.loads(json.dumps(plain)) == plain
    assert {*plain[0]} >= {"kind", "call", "step", "names", "text", "before", "after"}
    assert {*plain[0]["text"]} == {"en", "zh"}


def test_the_story_is_that_of_the_saved_trace():
    trace = generate("peft", "prompt")
    again = Trace.from_json(trace.to_json())
    assert (
        str(again.story()) == str(trace.story()) and again.story().as_payload() == trace.story().as_payload()
    )


# ---- what it says, computed here by hand


def test_prompt_tuning_by_hand():
    story = forward("peft", "prompt").story()
    given = story[0]
    assert given.text == (
        "You pass 2 rows of 6 tokens. Padding: row 0 has 2 on the left. "
        "With them: attention_mask [2, 6], labels [2, 6]."
    )
    mask, labels, vectors = told(story, "grew")
    assert mask.names == ("attention_mask",) and mask.before.nested() == MASK.tolist()
    assert mask.after.nested() == torch.cat((torch.ones(2, 4, dtype=torch.long), MASK), 1).tolist()
    assert mask.text.startswith("attention_mask grew from 6 to 10: four ones in front, so that every token")
    assert labels.after.nested() == torch.cat((torch.full((2, 4), -100), LABELS), 1).tolist()
    assert labels.text == (
        "labels grew from 6 to 10: four times -100 in front, so that the loss ignores the virtual tokens."
    )
    assert labels.texts["zh"] == "labels 从 6 变为 10：前面加 4 个 -100，使损失忽略虚拟词元。"
    assert vectors.facts["a"] == 6 and vectors.facts["b"] == 10 and vectors.after.shape == (2, 10, 96)
    (logits,) = told(story, "logits")
    assert (logits.facts["n"], logits.facts["m"], logits.facts["k"]) == (10, 6, 4)
    counted = (torch.cat((torch.full((2, 4), -100), LABELS), 1)[:, 1:] != -100).sum()
    assert told(story, "loss")[0].facts["count"] == counted == 10


@pytest.mark.parametrize("side", SIDES)
def test_the_lines_are_those_that_did_it(side):
    trace = forward(side, "prompt")
    said = {m.names[0]: code_of(trace, m) for m in told(trace.story(), "grew")}
    if side == "peft":
        assert (
            said["attention_mask"]
            == "attention_mask = torch.cat((prefix_attention_mask, attention_mask), dim=1)"
        )
        assert said["labels"] == 'kwargs["labels"] = torch.cat((prefix_labels, labels), dim=1)'
        assert said["inputs_embeds"] == "inputs_embeds = torch.cat((prompts, inputs_embeds), dim=1)"
    else:
        assert said["attention_mask"].startswith("attention_mask = place.mask(attention_mask)")
        assert "labels=place.labels(labels)" in said["labels"]
    decision = code_of(trace, told(trace.story(), "decision")[0])
    assert "is_prompt_learning" in decision


def code_of(trace, moment):
    source = trace.sources[trace.calls[moment.call].source]
    return source.text.splitlines()[moment.line - source.first_line].strip()


def test_the_loss_and_the_logits_are_those_of_the_model():
    for method in METHODS:
        model, _ = made("peft", method)
        with torch.no_grad():
            out = model(**batch_of(method), labels=LABELS)
        story = forward("peft", method).story()
        assert float(told(story, "loss")[-1].facts["loss"]) == pytest.approx(out.loss.item(), rel=1e-3)
        assert told(story, "logits")[0].facts["shape"] == list(out.logits.shape)


def test_a_prefix_fills_the_cache():
    story = forward("peft", "prefix").story()
    (cache_,) = told(story, "cache")
    assert cache_.after.kind == "cache" and cache_.after.length == 4 and cache_.before is None
    assert told(story, "prompt")[0].facts == dict(v=4, layers=4)
    assert [m.names for m in told(story, "same")] == [("input_ids",), ("labels",)]
    assert told(story, "logits")[0].facts["n"] == 6
    decision = told(story, "decision")[1]
    assert decision.facts["put"] == "cache" and "PREFIX_TUNING" in decision.text


def test_cpt_has_labels_of_its_own():
    (labels,) = [m for m in told(forward("peft", "cpt").story(), "grew") if m.names == ("labels",)]
    assert labels.after.nested()[1] == [-100, -100, -100, 8, *LABELS[1].tolist()]
    assert "1 of them in the loss" in labels.text
    assert told(forward("peft", "cpt").story(), "loss")[0].facts["count"] == 1 + 4 + 1 + 6


def test_tasks_pick_the_prompt_or_go_to_the_layers():
    (used,) = told(forward("peft", "multitask").story(), "used")
    assert used.names == ("task_ids",) and "inputs_embeds" in used.text
    for side in SIDES:
        (used,) = told(forward(side, "poly").story(), "used")
        assert used.names == ("task_ids",) and "_enable_peft_forward_hooks" in used.text


@pytest.mark.parametrize("method", METHODS)
def test_the_tokens_written_are_those_that_generate_returns(method):
    model, _ = made("peft", method)
    with torch.no_grad():
        out = model.generate(**batch_of(method), min_new_tokens=5, max_new_tokens=5, do_sample=False)
    trace = generate("peft", method)
    story = trace.story()
    assert [m.facts["ids"] for m in told(story, "token")] == out[:, 6:8].T.tolist()
    text = lambda ids: "".join(layout.visible(trace.decode(i)) for i in ids.tolist())
    assert told(story, "alike")[0].facts["tokens"] == f"{text(out[0, 8:])} | {text(out[1, 8:])}"
    assert story[-1].text.startswith("generate gives back [2, 11]: 5 new tokens")


def test_the_likeliest_token_is_the_largest_logit():
    trace = generate("peft", "lora")
    model, _ = made("peft", "lora")
    with torch.no_grad():
        positions = (MASK.cumsum(1) - 1).clamp(min=0)
        logits = model(**BATCH, position_ids=positions).logits[:, -1]
    token = told(trace.story(), "token")[0]
    assert token.facts["likeliest"] == logits.argmax(-1).tolist()
    chance = logits.softmax(-1).max(-1).values
    assert [f"({p:.2f})" in token.text for p in chance.tolist()] == [True, True]


def test_positions_are_those_that_the_layers_used():
    "Counted by hand: peft's prefix tuning differs between forward and generate."
    at = lambda trace: told(trace.story(), "positions")[0].facts["rows"]
    assert (
        at(forward("peft", "prompt")) == [[*range(10)]] or at(forward("peft", "prompt")) == [[*range(10)]] * 2
    )
    assert {tuple(r) for r in at(forward("peft", "prefix"))} == {(4, 5, 6, 7, 8, 9)}
    if V5:
        assert (
            at(generate("peft", "prefix")) == [[4, 4, 4, 4, 5, 6], [4, 5, 6, 7, 8, 9]]
            or len({tuple(r) for r in at(generate("peft", "prefix"))}) == 2
        )


# ---- other inputs


@pytest.mark.parametrize("side", SIDES)
def test_no_mask_no_labels(side):
    story = watched(side, "prompt", lambda m: m(input_ids=IDS)).story()
    assert story[0].text == "You pass 2 rows of 6 tokens."
    assert {m.names for m in told(story, "grew")} == {("inputs_embeds",)}
    assert not told(story, "loss") and not told(story, "same")


@pytest.mark.parametrize("method", ("prompt", "lora"))
def test_a_mask_of_ones_that_generate_keeps_back(method):
    "transformers 5 leaves out a mask that hides no token; 4 passes it on."
    batch = dict(input_ids=IDS[1:], attention_mask=MASK[1:])
    trace = watched("peft", method, lambda model: model.generate(**batch, max_new_tokens=1, do_sample=False))
    dropped = lambda trace: [
        m for m in trace.story() if (m.kind, m.names) == ("dropped", ("attention_mask",))
    ]
    assert ["all ones" in m.text for m in dropped(trace)] == [True] * V5
    assert not dropped(generate("peft", method))  # there, the mask hides the padding


@pytest.mark.parametrize("side", SIDES)
def test_embeddings_instead_of_ids(side):
    run = lambda m: m(inputs_embeds=m.get_input_embeddings()(IDS), attention_mask=MASK, labels=LABELS)
    story = watched(side, "prompt", run).story()
    assert story[0].text.startswith("You pass 2 rows of 6 embeddings.") and not told(story, "embedded")
    assert told(story, "grew")[-1].names == ("inputs_embeds",)


def test_a_mask_of_four_dimensions():
    grid = torch.ones(6, 6).tril().bool()[None, None] & MASK.bool()[:, None, None]
    mask = torch.zeros(2, 1, 6, 6).masked_fill(~grid, torch.finfo(torch.float32).min)
    story = watched("ours", "prompt", lambda m: m(input_ids=IDS, attention_mask=mask)).story()
    (grew,) = [m for m in told(story, "grew") if m.names == ("attention_mask",)]
    assert "[2, 1, 6, 6] became [2, 1, 10, 10]" in grew.text
    crashed = watched("peft", "prompt", lambda m: m(input_ids=IDS, attention_mask=mask)).story()
    assert crashed[-1].kind == "raised" and "RuntimeError" in crashed[-1].text


def test_virtual_tokens_behind_the_padding():
    torch.manual_seed(0)
    base, tokenizer = load_tiny()
    config = peft_viz.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    model = peft_viz.get_peft_model(base, config, corrected_positions=True)
    with torch.no_grad(), record(model, tokenizer=tokenizer) as trace:
        model(**BATCH, labels=LABELS)
    mask, labels, vectors = told(trace.story(), "grew")
    assert mask.after.nested()[0] == [0, 0, 1, 1, 1, 1, 1, 1, 1, 1]
    assert labels.after.nested()[0] == [-100] * 6 + LABELS[0, 2:].tolist()
    assert all(
        "behind the padding" in m.text and "填充之后" in m.texts["zh"] for m in (mask, labels, vectors)
    )
    (made_,) = told(trace.story(), "made")
    assert made_.names == ("position_ids",) and made_.after.nested()[0] == [0, 0, 0, 1, 2, 3, 4, 5, 6, 7]


def test_positions_that_are_counted_anew_and_labels_behind_the_padding():
    def corrected(cls, run, **more):
        torch.manual_seed(0)
        config = getattr(peft_viz, cls)(task_type="CAUSAL_LM", **more)
        model = peft_viz.get_peft_model(load_tiny()[0], config, corrected_positions=True).eval()
        with torch.no_grad(), record(model) as trace:
            run(model)
        return trace.story()

    story = corrected("CPTConfig", lambda m: m(**BATCH, labels=LABELS), **METHODS["cpt"][1])
    (labels,) = [m for m in told(story, "grew") if m.names == ("labels",)]
    assert "those of the four virtual tokens behind the padding, 1 of them in the loss" in labels.text
    story = corrected(
        "PromptTuningConfig", lambda m: m.generate(**BATCH, max_new_tokens=1), num_virtual_tokens=4
    )
    if V5:  # before, no positions are given to what prepares the inputs
        (moved,) = [m for m in told(story, "grew") if m.names == ("position_ids",)]
        assert moved.text.startswith(
            "position_ids grew from 6 to 10: 0 0 0 1 2 3 | 0 1 2 3 4 5 became 0 0 0 1 2 3 4 5 6 7 | 0 1 2 3"
        )
    story = corrected("PrefixTuningConfig", lambda m: m(**BATCH), num_virtual_tokens=4)
    assert "keys and values take columns behind the padding" in " ".join(
        m.text for m in told(story, "decision")
    )
    assert "keys and values of 4 virtual tokens" in told(story, "prompt")[0].text


@pytest.mark.filterwarnings("ignore")
def test_what_is_dropped_with_its_warning():
    more = dict(position_ids=torch.arange(6)[None].expand(2, -1), token_type_ids=torch.zeros_like(IDS))
    trace = watched("peft", "prompt", lambda m: m(**BATCH, **more))
    dropped = told(trace.story(), "dropped")
    assert [m.names for m in dropped] == [("position_ids",), ("token_type_ids",)]
    assert (
        "Position ids are not supported for parameter efficient tuning. Ignoring position ids."
        in dropped[0].text
    )
    assert all(m.after is None and m.before is not None for m in dropped)
    assert code_of(trace, dropped[0]) == 'kwargs["position_ids"] = None'
    ours = told(watched("ours", "prompt", lambda m: m(**BATCH, **more)).story(), "dropped")
    assert [m.names for m in ours] == [m.names for m in dropped]


@pytest.mark.parametrize("side", SIDES)
def test_positions_that_are_passed_to_a_prefix_are_shifted(side):
    run = lambda m: m(**BATCH, position_ids=torch.arange(6)[None].expand(2, -1))
    story = watched(side, "prefix", run).story()
    if side == "peft" and not V5:  # peft 0.18 drops them
        assert [m.names for m in told(story, "dropped")] == [("position_ids",)]
        return
    (moved,) = told(story, "replaced")
    assert moved.names == ("position_ids",) and moved.facts["d"] == 4
    assert "0 1 2 3 4 5 became 4 5 6 7 8 9" in moved.text


def test_a_tensor_of_the_callers_that_is_changed():
    run = lambda m: m(**BATCH, labels=LABELS, input_type_mask=torch.full_like(IDS, 4))
    (changed,) = told(watched("peft", "cpt", run).story(), "changed")
    assert changed.names == ("input_type_mask",) and changed.facts["count"] == 12
    assert {*changed.before.data} == {4} and {*changed.after.data} == {8}
    assert not told(watched("ours", "cpt", run).story(), "changed")


def test_a_cache_that_was_passed_in():
    def run(m):
        out = m(**BATCH, use_cache=True)
        mask = torch.cat((MASK, torch.ones(2, 1, dtype=torch.long)), 1)
        m(input_ids=IDS[:, -1:], attention_mask=mask, past_key_values=out.past_key_values)

    story = watched("ours", "prompt", run).story()
    second = story[[k for k, m in enumerate(story) if m.kind == "given"][1] :]
    assert any("the cache holds 10 tokens already" in m.text for m in second)
    assert not told(second, "prompt") and told(second, "logits")[0].facts["n"] == 1


def test_without_a_cache_the_whole_sequence_is_fed_again():
    run = lambda m: m.generate(**BATCH, max_new_tokens=4, do_sample=False, use_cache=False)
    for side in SIDES:
        story = watched(side, "prompt", run).story()
        assert any(
            m.text == "Step 1: without a cache the base model gets all 11 inputs again." for m in story
        )
        assert told(story, "alike")[0].text.startswith(
            "Steps 2–3: as step 1, one token more in the inputs each time."
        )


def test_steps_that_differ_are_not_folded():
    trace = copy.deepcopy(generate("peft", "prompt"))
    last = trace.base_calls[3]
    del last.args["attention_mask"]
    story = Trace.from_json(trace.to_json()).story()
    assert any(m.text == "The base model gets no attention_mask." for m in story)
    assert [m.folded for m in told(story, "alike")] == [(trace.base_calls[2].id,)]


@pytest.mark.parametrize("side", SIDES)
def test_beams_are_rows_repeated(side):
    run = lambda m: m.generate(**BATCH, max_new_tokens=2, num_beams=2, do_sample=False)
    (repeated,) = told(watched(side, "lora", run).story(), "replaced")
    assert repeated.text == "generate repeats each of your 2 rows two times: input_ids [4, 6]."


def test_calls_that_are_alike_are_folded():
    def run(m):
        for _ in range(3):
            m(**BATCH, labels=LABELS)
        m(input_ids=IDS[:, :4], attention_mask=MASK[:, :4], labels=LABELS[:, :4])

    trace = watched("peft", "prompt", run)
    story = trace.story()
    assert len(story) == len(forward("peft", "prompt").story()) + 1
    loss = told(story, "loss")[0].facts["loss"]
    assert re.fullmatch(
        rf"Calls 2–4 of PeftModelForCausalLM.forward: as call 1, with other shapes; the loss goes from {loss} to .*\.",
        story[-1].text,
    )
    assert story[-1].folded == tuple(r.id for r in trace.roots[1:])


# ---- adapters switched off or merged, caches of every kind, beams


def test_the_condition_of_a_decision_is_read_as_python_reads_it():
    from peft_viz.recording.story import _says

    says = lambda text, outcome: _says(ast.parse(text, mode="eval").body, outcome)
    assert says("not c.is_prompt_learning", True) is False and says("c.is_prompt_learning", True) is True
    assert says("not (c.is_prompt_learning and x)", False) is True
    assert says("c.is_prompt_learning and x", False) is says("c.is_prompt_learning or x", True) is None
    assert says("x or c.is_prompt_learning", False) is False


@pytest.mark.parametrize("side", SIDES)
def test_adapters_that_are_off_or_merged_are_not_said_to_work(side):
    def off(m):
        with m.disable_adapter():
            m(**BATCH)

    (inside,) = told(watched(side, "lora", off).story(), "inside")
    assert inside.text == "LoRA is switched off: all 8 adapted layers do what they do without it."
    (inside,) = told(watched(side, "lora", lambda m: (m.merge_adapter(), m(**BATCH))).story(), "inside")
    assert inside.text.endswith("In 8 of 8 adapted layers the update is merged into the weight.")
    (inside,) = told(watched(side, "lora", lambda m: m(**BATCH), layers=4).story(), "inside")  # as it begins
    assert inside.text.endswith("q_proj, v_proj. The update is 0 in all 4 layers that were followed.")
    assert inside.texts["zh"].endswith("在跟踪的全部 4 层中，更新量都是 0。")


def test_a_cache_that_peft_replaces_by_the_prefix():
    story = watched("peft", "prefix", goes_on).story()
    (replaced,) = told(story, "replaced")
    assert (
        replaced.text == "Your cache of 10 tokens does not reach the base model: it is replaced by one of 4."
    )
    assert [m.facts["put"] for m in told(story, "decision") if "put" in m.facts] == ["cache", "cache"]
    ours = watched("ours", "prefix", goes_on).story()
    assert not told(ours, "replaced")
    assert [m.facts["put"] for m in told(ours, "decision") if "put" in m.facts] == ["cache", None]


@pytest.mark.parametrize("method", ("prompt", "prefix", "lora"))
def test_empty_places_of_a_static_cache_are_no_virtual_tokens(method):
    run = lambda m: m.generate(**BATCH, max_new_tokens=3, min_new_tokens=3, cache_implementation="static")
    story = watched("ours", method, run).story()
    mask = next(m for m in story if m.text.startswith("The attention_mask covers"))
    v = 0 if method == "lora" else 4
    assert (mask.facts["v"], mask.facts["a"], mask.facts["b"]) == (v, 7, 7 + v)
    assert ("four ones for the virtual tokens" in mask.text) is (v == 4)
    assert "1 place behind them is still empty." in mask.text


def test_no_token_is_written_where_the_base_model_raised():
    beams = lambda m: m.generate(**batch_of("poly"), max_new_tokens=2, num_beams=2, do_sample=False)
    story = watched("peft", "poly", beams).story()
    assert story[-1].kind == "raised" and not told(story, "token")


def test_what_was_passed_to_a_call_that_ended_before_its_first_line_is_not_known():
    wrong = lambda m: m(BATCH["input_ids"], attention_mask=BATCH["attention_mask"][:1].repeat(9, 1))
    story = watched("ours", "prompt", wrong).story()
    assert [moment.kind for moment in story] == ["raised"]


def test_a_row_whose_place_another_beam_took():
    beams = lambda m: m.generate(**BATCH, max_new_tokens=4, num_beams=3, do_sample=False)
    tokens = told(watched("ours", "prompt", beams).story(), "token")
    for token in tokens:
        assert (None in token.facts["ids"]) is ("another beam took" in token.text)


def test_the_loss_of_alike_calls_is_the_one_that_was_returned():
    def run(m):
        for _ in range(3):
            losses.append(m(**BATCH, labels=LABELS).loss.item())

    losses = []
    last = watched("peft", "adalora", run).story()[-1]
    assert last.text.endswith(f"the loss goes from {losses[1]:.4g} to {losses[2]:.4g}.")


# ---- recordings that end early


def test_an_exception_ends_the_story():
    trace = watched("peft", "prompt", lambda m: m(**BATCH, labels=LABELS[:, :4]))
    last = trace.story()[-1]
    assert last.kind == "raised" and trace.calls[last.call].kind == "base"
    assert "LlamaForCausalLM.forward raised ValueError: Expected input batch_size" in last.text
    trace = watched("peft", "prompt", lambda m: m())
    last = trace.story()[-1]
    assert "_get_batch_size raised ValueError" in last.text
    assert last.line == trace.calls[last.call].raised["line"] == trace.calls[last.call].steps[last.step].line


def test_an_interrupted_recording():
    def run(m):
        def stop(*_):
            raise KeyboardInterrupt

        m.get_base_model().model.layers[1].register_forward_hook(stop)
        m.generate(**BATCH, max_new_tokens=3)

    last = watched("peft", "prompt", run).story()[-1]
    assert last.kind == "raised" and "KeyboardInterrupt" in last.text


def test_a_recording_that_was_cut():
    document = generate("peft", "prompt").to_dict()
    for keep in range(len(document["calls"])):
        cut = copy.deepcopy(document)
        del cut["calls"][keep:]
        for call in cut["calls"]:
            call["returned"] = None
            for step in call["steps"]:
                step["calls"] = [i for i in step["calls"] if i < keep]
        story = Trace.from_json(cut).story()
        assert bool(story) is bool(keep) and str(story)
        assert not keep or story[-1].kind == "stopped"


def test_recordings_that_were_joined():
    "As `peft-viz run` does with the calls of a script: what was measured goes with them."
    both = Trace.from_json(forward("peft", "prompt").to_json())
    join(both, Trace.from_json(generate("peft", "prompt").to_json()))
    story = Trace.from_json(both.to_json()).story()
    one, other = forward("peft", "prompt").story(), generate("peft", "prompt").story()
    assert [m.text for m in story] == [m.text for m in (*one, *other)]


def test_an_empty_recording():
    model, _ = made("ours", "prompt")
    with record(model) as trace:
        pass
    for empty in (trace, Trace()):
        assert empty.story() == [] and str(empty.story()) == "Nothing was recorded."
        assert str(empty.story("zh")) == "没有记录任何内容。"


def test_a_base_model_alone():
    model, tokenizer = load_tiny()
    with torch.no_grad(), record(model, tokenizer=tokenizer) as trace:
        model(**BATCH, labels=LABELS)
    story = trace.story()
    assert [m.kind for m in story] == ["given", "reached", "positions", "attention", "logits", "loss"]


def test_an_adapter_that_is_switched_off():
    def run(m):
        with m.disable_adapter():
            m(**BATCH)

    for side in SIDES:
        assert any("called directly" in m.text for m in watched(side, "prompt", run).story())


# ---- how it is shown


def test_it_reads_well_in_a_terminal():
    for lang in ("en", "zh"):
        lines = str(generate("peft", "prompt").story(lang)).splitlines()
        wide = lambda line: sum(2 if c > "\u2e80" else 1 for c in line)
        assert max(map(wide, lines)) <= 104
        assert not any(re.match(r"\s*[，。；：、）”]", line) for line in lines)
    assert lines[0].startswith("LlamaForCausalLM 上的提示微调")


def test_in_a_notebook_it_is_a_list():
    text = forward("peft", "prompt").story()._repr_markdown_()
    assert text.count("\n1. ") == 1 and "input\\_ids" in text


def test_another_language_is_refused():
    with pytest.raises(ValueError, match="'en' or 'zh'"):
        forward("peft", "lora").story("fr")
    with pytest.raises(ValueError, match="'en' or 'zh'"):
        forward("peft", "lora").history("labels", lang="fr")


def test_every_sentence_stands_in_both_languages():
    names = lambda text: {n.partition(":")[0] for n in re.findall(r"{([^}]*)}", text)}
    only_english = {"ies", "more", "keys", "every", "one", "are", "many"}  # what makes a plural
    for key, (en, zh) in TEXTS.items():
        assert names(en) - only_english == names(zh), key
        assert re.search("[\u4e00-\u9fff]", zh), key


# ---- the history of a tensor


def test_history_of_a_mask_in_peft():
    found = forward("peft", "prompt").history("attention_mask")
    assert [(o.kind, o.name) for o in found] == [
        ("reached", "attention_mask"),
        ("alias", "kwargs['attention_mask']"),
        ("made", "attention_mask"),
        ("new", "prefix_attention_mask"),
        ("given", "attention_mask"),
    ]
    cat = found[2]
    assert cat.code == "attention_mask = torch.cat((prefix_attention_mask, attention_mask), dim=1)"
    assert cat.sources == ("prefix_attention_mask", "attention_mask")
    assert cat.before.nested() == MASK.tolist() and cat.after.shape == (2, 10)
    assert found[-1].after.nested() == MASK.tolist() and found[-1].line is None


def test_history_goes_through_calls_and_returns():
    found = forward("ours", "prompt").history("labels")
    assert [o.kind for o in found] == ["reached", "made", "returned", "returned", "given"]
    assert found[3].code == "return torch.cat((virtual, real), dim=1)"
    assert found[-1].after.nested() == LABELS.tolist()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("made_by", [forward, generate])
def test_every_argument_leads_back_to_the_caller(side, method, made_by):
    trace = made_by(side, method)
    for base in trace.base_calls:
        for name in ("attention_mask", "labels", "input_ids", "inputs_embeds"):
            if name not in base.args:
                continue
            found = trace.history(name, base)
            assert found[0].kind == "reached" and found[0].after == trace.value(base.args[name])
            given = {o.name.rpartition("['")[2].removesuffix("']") for o in found if o.kind == "given"}
            assert ("input_ids" if name == "inputs_embeds" else name) in given


def test_history_of_a_cache_goes_through_the_steps():
    trace = generate("peft", "prefix")
    found = trace.history("past_key_values", trace.base_calls[-1])
    assert [o.after.length for o in found if o.kind == "reached"] == [13, 12, 11, 10, 4]
    assert [o.after.length for o in found if o.kind == "left"] == [13, 12, 11, 10]
    assert any("new_past_key_values" in o.code for o in found)
    places = [(o.kind, o.call, o.step) for o in found]
    assert len(places) == len(set(places))


def goes_on(m):
    "A token more, with the cache that came back."
    cache = m(input_ids=IDS, use_cache=True).past_key_values
    m(input_ids=IDS[:, -1:], attention_mask=torch.ones(2, 7, dtype=torch.long), past_key_values=cache)


@pytest.mark.parametrize("side", SIDES)
def test_history_of_a_cache_that_was_passed_in(side):
    trace = watched(side, "lora", goes_on)
    found = trace.history("past_key_values", trace.base_calls[-1])
    assert [o.kind for o in found if o.line is None] == ["reached", "given", "left"]
    assert found[-2].text.startswith("you passed past_key_values: DynamicCache of 6 tokens")
    chinese = str(trace.history("past_key_values", trace.base_calls[-1], "zh"))
    assert "DynamicCache 6 个词元" in chinese and "tokens" not in chinese


@pytest.mark.parametrize("side", SIDES)
def test_history_of_embeddings_that_generate_got(side):
    run = lambda m: m.generate(inputs_embeds=m.get_input_embeddings()(IDS), max_new_tokens=1)
    trace = watched(side, "lora" if side == "peft" else "prefix", run)
    assert trace.history("inputs_embeds")[-1].text.startswith("you passed inputs_embeds: float32 [2, 6, 96]")


@pytest.mark.parametrize("side", SIDES)
def test_history_of_ids_however_they_were_passed(side):
    ways = (
        lambda m: m.generate(IDS, attention_mask=MASK, max_new_tokens=2),
        lambda m: m.generate(inputs=IDS, attention_mask=MASK, max_new_tokens=2),
    )
    for run in ways:
        trace = watched(side, "prompt", run)
        for name, base in zip(("inputs_embeds", "input_ids"), trace.base_calls):
            given = [o for o in trace.history(name, base) if o.kind == "given"]
            assert any(re.match(r"you passed input(s|_ids): int64 \[2, 6\]", o.text) for o in given)
            assert all(o.after.kind == "tensor" for o in given)


def test_history_of_a_name_in_a_watched_call():
    trace = forward("peft", "cpt")
    call = next(c for c in trace.calls if c.function.endswith("_cpt_forward"))
    found = trace.history("cpt_type_mask", call)
    assert found[0].name == "cpt_type_mask" and any(o.kind == "changed" for o in found)
    assert trace.history("cpt_type_mask", call.id) == found
    value = trace.value(trace.base_calls[0].args["labels"])
    assert trace.history(value) == trace.history("labels")


def test_history_of_what_is_not_there():
    trace = forward("peft", "lora")
    with pytest.raises(ValueError, match="position_ids.*attention_mask, input_ids, labels"):
        trace.history("position_ids")
    with pytest.raises(ValueError, match="call"):
        Trace().history("labels")
    with pytest.raises(ValueError, match="nothing"):
        trace.history("nothing", 0)


def test_history_reads_well():
    text = str(forward("peft", "prompt").history("labels"))
    assert text.splitlines()[-1].startswith("you passed labels: int64 [2, 6]")
    assert "你传入了 labels" in str(forward("peft", "prompt").history("labels", lang="zh"))


NO_PLURAL = "was is sees its yours distances reaches became has differs does gives holds"
PLURAL = rf"\b(1|one|only|a) ([a-z]+ )?(?!({NO_PLURAL.replace(' ', '|')})\b)[a-z]+[^s ]s\b"  # "1 new tokens"


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("method", ["prompt", "prefix", "cpt", "lora"])
def test_with_one_of_everything_no_word_stands_in_the_plural(side, method):
    "One row of one token, one virtual token, one layer, one label, one new token, a cache of one."
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    small = dict(hidden_size=16, intermediate_size=16, num_attention_heads=2, num_hidden_layers=1)
    base = LlamaForCausalLM(LlamaConfig(vocab_size=40, pad_token_id=0, eos_token_id=None, **small))
    name, _ = METHODS[method]
    one = dict(
        prompt=dict(num_virtual_tokens=1),
        prefix=dict(num_virtual_tokens=1),
        cpt=dict(cpt_token_ids=[5], cpt_mask=[1], cpt_tokens_type_mask=[1]),
        lora=dict(r=1, target_modules=["q_proj"]),
    )[method]
    config = getattr(SIDES[side], name)(task_type="CAUSAL_LM", **one)
    model = SIDES[side].get_peft_model(base, config).eval()
    with torch.no_grad(), record(model) as trace:
        for n in (1, 2):
            ids = torch.full((1, n), 7)
            model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids)
            model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=n)
    told = [m.text for root in trace.roots for m in moments(trace, root)]
    assert len(told) > 40 and [t for t in told if re.search(PLURAL, t)] == []
    assert not any(re.search(r"[#{}|]", t.replace(" | ", "")) for t in told)


def test_sentences_that_count_say_one_and_several():
    "What a small recording does not show: each sentence with a one in every place."
    texts = (
        "as_ dtype fill fills function how into listed losses message method more name now positions padding pad "
        "peft_type range ratio shape spare taken taker targets tokens type value warning what where which who"
    ).split()
    facts = defaultdict(lambda: Number(1)) | dict.fromkeys(texts, "x") | dict(ies="y", are="is", one="s")
    facts["width"] = 32
    more = dict(
        longer_logits=dict(n=2), own_labels=dict(v=2), own_labels_behind=dict(v=2), made_mask=dict(all=4)
    )
    told = {
        key: en.format_map(facts | {k: Number(n) for k, n in more.get(key, {}).items()})
        for key, (en, _) in TEXTS.items()
    }
    assert {key: text for key, text in told.items() if re.search(PLURAL, text)} == {}
    assert told["off"] == "x is switched off: the only adapted layer does what it does without it."
    several = defaultdict(lambda: Number(4)) | dict.fromkeys(texts, "x")
    assert TEXTS["off"][0].format_map(several).endswith("all 4 adapted layers do what they do without it.")


@pytest.mark.parametrize("side", SIDES)
def test_two_active_adapters_work_where_either_is(side):
    model, _ = made(side, "lora")
    second = SIDES[side].LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["up_proj", "v_proj"])
    model.add_adapter("second", second)
    model.base_model.set_adapter(["default", "second"])
    with torch.no_grad(), record(model, layers=2) as trace:
        model(**BATCH)
    (inside,) = told(trace.story(), "inside")
    assert "; adapted: q_proj, up_proj, v_proj." in inside.text
    assert "The update is 0 in all 2 layers that were followed." in inside.text
    ax = plot.story(trace)
    assert "Σ (αᵢ/rᵢ) BᵢAᵢ x" in " ".join(text.get_text() for text in ax.texts)


@pytest.mark.parametrize("side", SIDES)
def test_a_call_with_the_adapter_off_or_merged_is_not_as_the_one_before(side):
    model, _ = made(side, "lora")
    with torch.no_grad(), record(model) as trace:
        model(**BATCH)
        model(**BATCH)
        with model.disable_adapter():
            model(**BATCH)
        model.base_model.merge_adapter()
        model(**BATCH)
    kinds = [m.said for m in told(trace.story(), "inside")]
    assert len(kinds) == 3 and "off" in kinds[1] and "merged" in kinds[2] and kinds[0] == ("inside",)
    assert [m.folded for m in told(trace.story(), "alike")] == [(trace.roots[1].id,)]


def test_labels_that_all_are_ignored_are_not_as_those_before():
    def twice(model):
        model(**BATCH, labels=LABELS)
        model(**BATCH, labels=torch.full_like(LABELS, -100))

    assert told(watched("ours", "lora", twice).story(), "alike") == []


def test_padding_that_belongs_to_a_cache_is_not_told_of_the_new_tokens():
    def step(model):
        past = model(**BATCH, use_cache=True).past_key_values
        mask = torch.cat((MASK, torch.ones(2, 1, dtype=torch.long)), 1)
        model(IDS[:, -1:], attention_mask=mask, past_key_values=past)

    first, second = told(watched("ours", "lora", step).story(), "given")
    assert "Padding: row 0 has 2 on the left" in first.text and "Padding" not in second.text


def test_drafts_of_assisted_generation_stand_behind():
    ids = torch.tensor([[9, 10, 11, 9, 10, 11, 9, 10]])
    run = lambda m: m.generate(ids, max_new_tokens=6, min_new_tokens=6, prompt_lookup_num_tokens=3)
    story = watched("ours", "lora", run).story()
    grew = [m.text for m in story if m.kind == "grew" and "input_ids" in m.names]
    assert not any("in front" in text for text in grew)


@pytest.mark.parametrize("state", ["off", "merged"])
def test_no_formula_stands_beside_an_adapter_that_does_not_work(state):
    def run(model):
        if state == "merged":
            model.base_model.merge_adapter()
            return model(**BATCH)
        with model.disable_adapter():
            return model(**BATCH)

    shown = [text.get_text() for text in plot.story(watched("peft", "lora", run)).texts]
    assert not any("BA x" in text or "B A x" in text for text in shown)


def test_what_other_beams_may_have_continued_is_not_told():
    "Without virtual tokens each step has one id a row: nothing tells whether another beam took its place."
    told_ = dict(max_new_tokens=4, min_new_tokens=4, num_return_sequences=3)
    beams = watched("peft", "lora", lambda m: m.generate(IDS[1:], num_beams=4, **told_))
    assert all(set(layout.taken(beams, call) or [None]) == {None} for call in beams.base_calls)
    sampled = watched("peft", "lora", lambda m: m.generate(IDS[1:], do_sample=True, **told_))
    assert all(None not in layout.taken(sampled, call) for call in sampled.base_calls)
