"""What looks wrong is found, in recordings of peft as it is installed; and nothing is found that is not there.

Each kind of finding has a recording that shows it and one like it, without the fault, that does not."""

import contextlib
import json
import random
import re
from functools import partial

import peft
import pytest
import torch
from transformers import (
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

import peft_viz
from damage import damage
from families import V5
from peft_viz import layout, load_tiny, record, Trace, TraceError
from peft_viz.recording.diagnose import TEXTS

SMALL = dict(vocab_size=64, num_hidden_layers=2, num_attention_heads=4, hidden_size=32)
TOKENS = dict(pad_token_id=0, bos_token_id=1, eos_token_id=63)
FAMILIES = dict(
    llama=(LlamaForCausalLM, LlamaConfig, dict(SMALL, intermediate_size=48, num_key_value_heads=2)),
    mistral=(MistralForCausalLM, MistralConfig, dict(SMALL, intermediate_size=48, num_key_value_heads=2)),
    gpt2=(GPT2LMHeadModel, GPT2Config, dict(vocab_size=64, n_layer=2, n_head=4, n_embd=32, n_positions=64)),
)
SOFT = dict(num_virtual_tokens=4)
METHODS = {
    "LORA": ("LoraConfig", dict(init_lora_weights=False)),
    "ADALORA": ("AdaLoraConfig", dict(total_step=100)),
    "IA3": ("IA3Config", {}),
    "POLY": ("PolyConfig", dict(n_tasks=2)),
    "PROMPT_TUNING": ("PromptTuningConfig", SOFT),
    "P_TUNING": ("PromptEncoderConfig", SOFT),
    "MULTITASK_PROMPT_TUNING": ("MultitaskPromptTuningConfig", dict(SOFT, num_tasks=2)),
    "PREFIX_TUNING": ("PrefixTuningConfig", SOFT),
    "CPT": ("CPTConfig", dict(cpt_token_ids=[5, 6, 7, 8], cpt_tokens_type_mask=[1, 2, 3, 4])),
}
IN_THE_INPUTS = ("PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "CPT")
TASKS = ("POLY", "MULTITASK_PROMPT_TUNING")
TEXT = [[5, 6, 7], [8, 9, 10, 11, 12, 13]]
POSITIONS = torch.tensor([[0, 0, 0, 0, 1, 2], [*range(6)]])  # of the batch that is padded on the left
FULL = torch.tensor([[5, 6, 7, 8, 9, 10], [8, 9, 10, 11, 12, 13]])


def make(method="PROMPT_TUNING", package=peft, family="llama", corrected=False, base=None, **fields):
    model, config, sizes = FAMILIES[family]
    cls, usual = METHODS[method]
    torch.manual_seed(0)
    inner = model(config(**{**sizes, **TOKENS, **(base or {})})).eval()
    more = dict(corrected_positions=True) if corrected else {}
    config = getattr(package, cls)(task_type="CAUSAL_LM", **{**usual, **fields})
    return package.get_peft_model(inner, config, **more).eval()


def batch(side="left", method="", labels=False):
    pad = lambda row: [0] * (6 - len(row)) + row if side == "left" else row + [0] * (6 - len(row))
    ids = torch.tensor([pad(row) for row in TEXT]) if side else FULL
    made = dict(input_ids=ids, attention_mask=(ids > 0).long())
    if labels:
        made["labels"] = ids.masked_fill(ids == 0, -100)
    return made | (dict(task_ids=torch.tensor([0, 1])) if method in TASKS else {})


def recorded(model, run, *args, **more):
    "The recording; what ended the run stands in it."
    with record(model, **more) as trace, torch.no_grad():
        try:
            run(model, *args)
        except Exception as error:
            assert trace.roots[-1].raised["type"] == type(error).__name__
    return trace


def kinds(model, run, *args, **more):
    return {finding.kind for finding in checked(recorded(model, run, *args, **more).diagnose())}


def checked(found):
    "Findings as they are read: each is whole in both languages, and points to something that is there."
    for f in found:
        plain = f.to_dict()
        assert json.loads(json.dumps(plain)) == plain and f.kind in TEXTS
        assert all(len(plain[name][lang]) > 8 for name in ("text", "advice") for lang in ("en", "zh"))
        assert not any(c in plain[name]["en"] for name in ("text", "advice") for c in "{}")
        assert f.text in str(found) and f.advice in str(found)
    assert found._repr_html_().count("<li") == len(found)
    return found


def generate(model, **more):
    return model.generate(max_new_tokens=3, min_new_tokens=3, do_sample=False, **more)


STAGES = dict(
    forward=lambda m, side, method: m(**batch(side, method, labels=True)),
    generate=lambda m, side, method: generate(m, **batch(side, method)),
)


# ---- nothing that is not there


def expected(method, stage, side, corrected):
    "What peft, and we, really do to a batch."
    found = {"logits-longer"} if method in IN_THE_INPUTS and stage == "forward" else set()
    moved = method in IN_THE_INPUTS or (method == "PREFIX_TUNING" and (stage == "forward" or not V5))
    return found | ({"positions-ignore-padding"} if side == "left" and moved and not corrected else set())


@pytest.mark.parametrize("package", (peft, peft_viz), ids=lambda p: p.__name__)
@pytest.mark.parametrize("method", METHODS)
def test_healthy_recordings(method, package):
    for stage, side in (("forward", "left"), ("forward", "right"), ("forward", None), ("generate", "left")):
        found = recorded(make(method, package), STAGES[stage], side, method).diagnose()
        assert {f.kind for f in checked(found)} == expected(method, stage, side, False)
        assert not found.unchecked


@pytest.mark.parametrize("method", [m for m in METHODS if "num_virtual_tokens" in METHODS[m][1]])
def test_corrected_positions_have_no_finding(method):
    "Padded on the left, in both stages: only that the logits are longer."
    both = lambda m: (m(**batch("left", method, True)), generate(m, **batch("left", method)))
    model = make(method, peft_viz, corrected=True)
    assert kinds(model, both) == expected(method, "forward", "left", True)


def test_ordinary_ways_to_call_a_model():
    "Beams, no cache, embeddings, no mask, a cache that was returned: no finding by itself."
    lora, ours = make("LORA"), make("PROMPT_TUNING", peft_viz, corrected=True)
    embeds = lora.get_input_embeddings()(FULL)
    ways = (
        lambda m: generate(m, **batch("left"), num_beams=2),
        lambda m: generate(m, **batch("left"), use_cache=False),
        lambda m: generate(m, **batch("left"), cache_implementation="static"),
        lambda m: generate(m, input_ids=FULL),
    )
    for run in (*ways, lambda m: m(inputs_embeds=embeds), lambda m: m(FULL), lambda m: goes_on(m)):
        assert kinds(lora, run) == set()
    for run in ways:
        assert kinds(ours, run) == set()
    assert kinds(ours, goes_on) == {"logits-longer"}


def goes_on(model):
    "A loop as many write it: the cache that came back is passed in, with a mask over everything."
    out = model(input_ids=FULL, attention_mask=torch.ones_like(FULL))
    model(
        input_ids=out.logits[:, -1:].argmax(-1),
        attention_mask=torch.ones(2, 7, dtype=torch.long),
        past_key_values=out.past_key_values,
    )


def test_a_model_without_adapters_and_other_recordings():
    base = make().get_base_model()
    assert kinds(base, lambda m: m(**batch("right", labels=True))) == set()
    assert Trace().diagnose() == [] and "nothing" in str(Trace().diagnose()).lower()
    with pytest.raises(ValueError, match="lang should be"):
        Trace().diagnose("fr")


# ---- labels and lengths


def test_labels():
    run = lambda labels: lambda m: m(input_ids=FULL, labels=labels)
    first = FULL.masked_fill(
        torch.arange(6) > 0, -100
    )  # only the label of the first token, which nothing predicts
    assert "labels-all-ignored" in kinds(make("LORA"), run(torch.full_like(FULL, -100)))
    assert "labels-all-ignored" in kinds(make("LORA"), run(first))
    said = recorded(make("LORA"), run(first)).diagnose()[0].text
    assert "all that stand behind the first column, which no token predicts, are -100." in said
    assert "labels-all-ignored" not in kinds(make("LORA"), run(FULL.masked_fill(torch.arange(6) < 5, -100)))
    assert "labels-all-ignored" not in kinds(make("PROMPT_TUNING"), run(first))  # a virtual token predicts it
    found = recorded(make(), run(torch.full_like(FULL, -100))).diagnose()
    assert [f.level for f in found] == ["error", "note"] and "nan" in found[0].text


@pytest.mark.parametrize("package", (peft, peft_viz), ids=lambda p: p.__name__)
def test_labels_of_cpt(package):
    "Its virtual tokens have labels of their own: they count, and none of the caller's."
    run = lambda labels: lambda m: m(input_ids=FULL, labels=labels)
    found = recorded(make("CPT", package), run(torch.full_like(FULL, -100))).diagnose()
    assert checked(found)[0].kind == "labels-all-ignored"
    assert "all that you passed are -100; only those of the virtual tokens count." in found[0].text
    assert "labels-all-ignored" not in kinds(make("CPT", package), run(FULL))


def test_logits_longer_than_labels():
    trace = recorded(make(), lambda m: m(input_ids=FULL, labels=FULL))
    (found,) = checked(trace.diagnose())
    assert (found.kind, found.facts["logits"], found.facts["n"], found.facts["k"]) == (
        "logits-longer",
        10,
        6,
        4,
    )
    step = trace.calls[found.call].steps[found.step]
    assert found.base in step.calls and found.line == step.line  # the line that called the base model
    assert not kinds(make("PREFIX_TUNING"), lambda m: m(input_ids=FULL, labels=FULL))


def test_lengths_that_do_not_fit():
    short = FULL[:, :-1]
    assert "labels-length" in kinds(make(), lambda m: m(input_ids=FULL, labels=short))
    for method in ("LORA", "PROMPT_TUNING"):
        got = kinds(make(method), lambda m: m(input_ids=FULL, attention_mask=torch.ones_like(short)))
        assert "mask-length" in got
        assert "mask-length" not in kinds(make(method), lambda m: m(**batch()))
    too_long = torch.ones(2, 10, dtype=torch.long)  # the virtual tokens counted by the caller, too
    assert "mask-length" in kinds(make(), lambda m: m(input_ids=FULL, attention_mask=too_long))


def test_a_mask_that_generate_cuts():
    "The base model gets one of the right length, and the caller's was not."
    for method in ("LORA", "PROMPT_TUNING", "PREFIX_TUNING"):
        for n in (4, 9):
            run = lambda m, n=n: generate(
                m, input_ids=FULL, attention_mask=torch.ones(2, n, dtype=torch.long)
            )
            trace = recorded(make(method), run)
            (found,) = [f for f in checked(trace.diagnose()) if f.kind == "mask-length"]
            assert found.facts["keys"] in (6, 10) and re.search(
                rf"for ({n}|{n + 4}) numbers|{n} of yours|{n} numbers", found.text
            )
        assert "mask-length" not in kinds(make(method), lambda m: generate(m, **batch()))


def test_logits_in_a_tuple():
    run = lambda m: m(FULL, torch.ones_like(FULL), return_dict=False)
    assert kinds(make("PROMPT_TUNING"), run) == {"logits-longer"}
    assert not kinds(make("PREFIX_TUNING"), run) and not kinds(make("LORA"), run)


def test_one_of_a_thing():
    "Numbers meet nouns: `1 layers` is said nowhere."
    one = dict(num_virtual_tokens=1)
    runs = (
        (make(**one), lambda m: m.get_base_model()(FULL)),
        (make(**one), lambda m: m(FULL[:1, :1], labels=torch.tensor([[-100]]))),
        (make(**one), lambda m: generate(m, input_ids=torch.tensor([[0, 5], [6, 7]]), attention_mask=TWO)),
        (
            make(**one),
            lambda m: m(FULL[:, 1:], past_key_values=m.get_base_model()(FULL[:, :1]).past_key_values),
        ),
        (make("LORA", target_modules=["lm_head"]), off(lambda m: m(FULL))),
        (make("LORA", target_modules=["lm_head"]), lambda m: (m.merge_adapter(), m(FULL))),
        (make("POLY", n_tasks=1), lambda m: m(FULL)),
    )
    for model, run in runs:
        (told,) = [str(checked(trace.diagnose())) for trace in [recorded(model, run)]]
        assert "1." in told and not re.search(
            r"(?<![\w.])1 (?!for)[a-z ]{0,12}(layer|token|column|label|task|row)s\b", told
        ), told


TWO = torch.tensor([[0, 1], [1, 1]])


def test_numbers_are_those_that_the_caller_can_count():
    "A virtual token has a label and a place in the mask, too; whoever passed 11 finds 11 in the sentence."
    short = FULL[:, :-1]
    said = lambda *args, **more: " ".join(f.text for f in recorded(*args, **more).diagnose())
    text = said(make(), lambda m: m(input_ids=FULL, labels=short))
    assert (
        "9 labels (5 of yours, 4 for virtual tokens), and 10 inputs (6 of yours, 4 for virtual tokens)"
        in text
    )
    text = said(make(), lambda m: m(input_ids=FULL, labels=torch.full_like(FULL, -100)))
    assert "None of the 20 labels (12 of yours, 8 for virtual tokens) counts" in text
    for method in ("PROMPT_TUNING", "PREFIX_TUNING"):
        text = said(make(method), lambda m: m(input_ids=FULL, attention_mask=torch.ones_like(short)))
        assert "9 numbers (5 of yours, 4 for virtual tokens), but there are 10 keys" in text
    text = said(make("LORA"), lambda m: m(input_ids=FULL, attention_mask=torch.ones_like(short)))
    assert "5 numbers, but there are 6 keys" in text and "yours" not in text


def test_a_recording_of_nothing_is_not_said_to_be_right():
    for lang, word in (("en", "Nothing was recorded"), ("zh", "没有记录任何内容")):
        found = Trace().diagnose(lang)
        assert not found and word in str(found) and word in found._repr_html_()


def test_a_prefix_without_a_cache():
    "peft's generate then feeds one token, and tells the positions of all."
    got = kinds(make("PREFIX_TUNING"), lambda m: generate(m, **batch(), use_cache=False))
    assert got == ({"positions-length", "raised"} if V5 else {"positions-ignore-padding", "raised"})
    assert not kinds(make("PREFIX_TUNING"), lambda m: generate(m, input_ids=FULL))


# ---- positions


def test_forward_and_generate():
    both = lambda m: (m(**batch()), generate(m, **batch()))
    found = recorded(make("PREFIX_TUNING"), both).diagnose()
    assert [f.kind for f in checked(found)] == ["positions-ignore-padding", "positions-differ"][: 1 + V5]
    assert (found[0].facts["position"], found[0].facts["right"], found[0].facts["pad"]) == (7, 4, 3)
    if V5:
        assert (found[1].facts["forward"], found[1].facts["generate"]) == ("7 8 9", "4 5 6")
    full = lambda m: (m(input_ids=FULL), generate(m, input_ids=FULL))
    assert not kinds(make("PREFIX_TUNING"), full) and not kinds(make("LORA"), both)


def test_forward_and_generate_of_other_batches():
    "A row is found again among its beams, and in a batch of other rows."
    more = lambda one: {name: torch.cat((t, t.flip(0))) for name, t in one.items()}
    for run in (
        lambda m: (m(**batch()), generate(m, **batch(), num_beams=2)),
        lambda m: (m(**{name: t[:1] for name, t in batch().items()}), generate(m, **batch())),
        lambda m: (generate(m, **more(batch())), m(**batch())),
    ):
        assert ("positions-differ" in kinds(make("PREFIX_TUNING"), run)) is V5
        assert not kinds(make("LORA"), run)


def test_a_table_of_positions_is_not_a_rotary_embedding():
    "The same shift makes no difference to the one, and does to the other."
    for family, found in (("gpt2", {"positions-ignore-padding"}), ("llama", set())):
        model = make("LORA", family=family)
        assert kinds(model, lambda m: m(**batch())) == found
        assert not kinds(model, lambda m: m(**batch(), position_ids=POSITIONS))
        # and this is so: the logits of a padded row, against the row alone
        alone, padded = model(FULL[:1, :3]).logits, model(**batch()).logits[:1, 3:]
        assert torch.allclose(alone, padded, atol=1e-5) is (family == "llama")


def test_padding_on_the_right_of_generate():
    assert "padding-behind" in kinds(make("LORA"), lambda m: generate(m, **batch("right")))
    assert not kinds(make("LORA"), lambda m: generate(m, **batch("left")))


def test_positions_beyond_the_model():
    long = torch.full((1, 13), 5)
    got = kinds(make(base=dict(max_position_embeddings=16)), lambda m: m(input_ids=long))
    assert got == {"position-beyond", "logits-longer"}
    assert kinds(make(base=dict(max_position_embeddings=17)), lambda m: m(input_ids=long)) == {
        "logits-longer"
    }
    crash = recorded(make(family="gpt2"), lambda m: m(input_ids=torch.full((1, 62), 5))).diagnose()
    assert [f.kind for f in checked(crash)] == ["raised", "position-beyond"]
    (found,) = recorded(
        make("LORA", base=dict(max_position_embeddings=7)), lambda m: generate(m, input_ids=FULL)
    ).diagnose()
    assert found.when == ("decode", 2) and found.facts["position"] == 7


# ---- virtual tokens


def off(run):
    def without(model):
        with model.disable_adapter():
            run(model)

    return without


def test_virtual_tokens_that_are_not_there():
    for run in (
        lambda m: m.get_base_model()(input_ids=FULL),
        off(lambda m: m(input_ids=FULL)),
        off(lambda m: generate(m, input_ids=FULL)),
    ):
        assert kinds(make(), run) == {"virtual-missing"}
    assert kinds(make(), lambda m: generate(m, input_ids=FULL)) == set()


@pytest.mark.parametrize("package", (peft, peft_viz), ids=lambda p: p.__name__)
def test_with_and_without_the_adapter(package):
    "To ask both is how one compares them, as losses of preferences do; the other way alone is a finding."
    ways = dict(forward=lambda m: m(input_ids=FULL), generate=lambda m: generate(m, input_ids=FULL))
    for method, kind in (
        ("LORA", "adapters-off"),
        ("PREFIX_TUNING", "virtual-missing"),
        ("CPT", "virtual-missing"),
    ):
        for run in ways.values():
            assert kind not in kinds(make(method, package), lambda m, run=run: (run(m), off(run)(m)))
        if package is peft:  # ours calls the base model's own generate, which is not told from a forward
            assert kind in kinds(make(method), lambda m: (ways["forward"](m), off(ways["generate"])(m)))


def generates_on(model):
    "Two more tokens behind what generate wrote, with the cache that it returned."
    out = generate(model, input_ids=FULL, return_dict_in_generate=True)
    longer = torch.cat((out.sequences, FULL[:, :2]), 1)
    mask = torch.ones_like(longer)
    generate(model, input_ids=longer, attention_mask=mask, past_key_values=out.past_key_values)


def test_tokens_that_are_lost_behind_a_cache_that_was_passed_in():
    found = checked(recorded(make(), generates_on).diagnose())
    if V5:
        (lost,) = [f for f in found if f.kind == "warm-cache"]
        assert "2 of them did not go in with the 1 new one" in lost.text
    else:  # generate of transformers 4 does not come that far
        assert [f.kind for f in found] == ["raised", "no-tokens"]
    assert kinds(make("PROMPT_TUNING", peft_viz), generates_on) == kinds(make("LORA"), generates_on) == set()


@pytest.mark.parametrize("method", ("PROMPT_TUNING", "PREFIX_TUNING"))
def test_a_cache_that_was_passed_in(method):
    model = make(method)
    past = lambda: model.get_base_model()(FULL[:, :3]).past_key_values
    assert "warm-cache" in kinds(model, lambda m: m(input_ids=FULL[:, 3:], past_key_values=past()))
    warm = past()
    assert "warm-cache" in kinds(model, lambda m: generate(m, input_ids=FULL, past_key_values=warm))
    assert "warm-cache" in kinds(model, goes_on)
    assert "warm-cache" not in kinds(make(method, peft_viz), goes_on)
    assert "warm-cache" not in kinds(make("LORA"), goes_on)


def test_a_prompt_that_no_query_attends_to():
    "The padding uses the window up."
    run = lambda m: m(**batch())
    got = recorded(make(family="mistral", base=dict(sliding_window=4)), run).diagnose()
    found = next(f for f in checked(got) if f.kind == "prompt-unattended")
    assert (found.facts["row"], found.facts["v"], found.level) == (0, 4, "warning")
    assert "prompt-unattended" not in kinds(make(family="mistral", base=dict(sliding_window=16)), run)
    assert "prompt-unattended" not in kinds(
        make(family="mistral", base=dict(sliding_window=4)), lambda m: m(FULL)
    )


# ---- what the caller passed


def test_a_tensor_changed_under_the_caller():
    types = torch.full((2, 6), 4)
    run = lambda m: m(input_ids=FULL, labels=FULL, input_type_mask=types.clone())
    trace = recorded(make("CPT"), run)
    found = next(f for f in checked(trace.diagnose()) if f.kind == "changed-in-place")
    assert found.facts["name"] == "input_type_mask"
    changed = trace.calls[found.call].steps[found.step].changes
    assert any(c.how == "in-place" and c.name == "input_type_mask" for c in changed)  # the innermost line
    assert "changed-in-place" not in kinds(make("CPT"), lambda m: m(input_ids=FULL, labels=FULL))
    assert "changed-in-place" not in kinds(make("CPT", peft_viz), run)


@pytest.mark.parametrize("method", TASKS)
def test_task_ids(method):
    model, wrong = make(method), ([0, 2], [0, -1], [1])
    for run in (
        lambda m, **more: m(input_ids=FULL, **more),
        lambda m, **more: generate(m, input_ids=FULL, **more),
    ):
        assert "task-ids-missing" in kinds(model, run)
        for ids in map(torch.tensor, wrong):
            got = kinds(model, partial(run, task_ids=ids))
            assert "task-ids-wrong" in got and "task-ids-missing" not in got
        assert not any("task" in kind for kind in kinds(model, partial(run, task_ids=torch.tensor([1, 0]))))
    assert not any("task" in kind for kind in kinds(make("LORA"), lambda m: m(input_ids=FULL)))


def test_task_ids_of_beams():
    run = lambda m: generate(m, input_ids=FULL, task_ids=torch.tensor([0, 1]), num_beams=2)
    theirs = recorded(make("POLY"), run)
    found = {f.kind for f in checked(theirs.diagnose())}
    assert found == ({"task-ids-wrong", "raised"} if theirs.roots[0].raised else set())
    assert not kinds(make("POLY", peft_viz), run)


# ---- the state of the adapters


def test_adapters():
    run = lambda m: m(input_ids=FULL)
    assert kinds(make("LORA"), off(run)) == {"adapters-off"}
    model = make("LORA")
    model.base_model.disable_adapter_layers()
    assert kinds(model, run) == {"adapters-off"}
    model = make("LORA")
    model.merge_adapter()
    assert kinds(model, run) == {"adapters-merged"}
    model.unmerge_adapter()
    assert kinds(model, run) == set()
    assert kinds(make("LORA", peft_viz), off(run)) == {"adapters-off"}


def test_adapters_on_no_layer_that_ran():
    "An adapter of the table of tokens, and embeddings that were passed in."
    model = make("LORA", target_modules=["embed_tokens"])
    assert kinds(model, lambda m: m(inputs_embeds=torch.zeros(2, 3, 32))) == {"adapters-nowhere"}
    assert kinds(model, lambda m: m(input_ids=FULL)) == set()


def test_an_adapter_that_takes_the_place_of_a_layer():
    "peft's adaption prompt wraps no layer, and holds its parameters by itself: it is there all the same."
    torch.manual_seed(0)
    config = peft.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=4, adapter_layers=1)
    model = peft.get_peft_model(load_tiny()[0], config)
    trace = recorded(model, lambda m: m(input_ids=FULL) and generate(m, **batch()))
    assert not checked(trace.diagnose())
    assert trace.about["trains"] == dict(adapter=2, base=0, names=[], training=True)
    model.get_base_model().lm_head.weight.requires_grad_(True)
    assert kinds(model, lambda m: m(input_ids=FULL)) == {"base-trains"}


def test_parameters_of_the_base_model_that_train():
    run = lambda m: m(input_ids=FULL)
    for package in (peft, peft_viz):
        model = make("LORA", package)
        model.get_base_model().lm_head.weight.requires_grad_(True)
        (found,) = checked(recorded(model, run).diagnose())
        assert found.kind == "base-trains" and found.call is None
        assert (found.facts["n"], "lm_head" in found.facts["names"]) == (1, True)
        assert not kinds(make("LORA", package, modules_to_save=["lm_head"]), run)
        assert not kinds(make("LORA", package, bias="all"), run)


def test_nothing_that_trains():
    model = make("LORA")
    model.requires_grad_(False)
    assert not kinds(model, lambda m: m(input_ids=FULL))  # to use a model is no fault
    assert kinds(model.train(), lambda m: m(input_ids=FULL)) == {"nothing-trains"}
    assert not kinds(make("LORA").train(), lambda m: m(input_ids=FULL))


def test_an_update_of_zero():
    run = lambda m: m(input_ids=FULL)
    assert kinds(make("LORA", init_lora_weights=True), run, layers=4) == {"update-zero"}
    assert not kinds(make("LORA"), run, layers=4)


# ---- recordings from elsewhere


def test_a_recording_from_a_file(tmp_path):
    both = lambda m: (m(**batch()), generate(m, **batch()))
    trace = recorded(make("PREFIX_TUNING"), both)
    again = Trace.load(trace.save(tmp_path / "prefix.json"))
    assert str(again.diagnose("zh")) == str(trace.diagnose("zh")) and again.diagnose()


def test_a_recording_of_an_older_version():
    "What it does not have is not checked, and it says so."
    document = json.loads(recorded(make("PREFIX_TUNING"), lambda m: m(**batch())).to_json())
    [document["about"].pop(name) for name in ("max_positions", "trains")]
    [call.pop("measured", None) for call in document["calls"]]
    found = Trace.from_json(document).diagnose()
    assert found == [] and found.unchecked == ("positions",) and "positions" in str(found)
    assert "adapters" in Trace.from_json(_stripped(make("LORA"))).diagnose().unchecked


def _stripped(model):
    document = json.loads(recorded(model, lambda m: m(input_ids=FULL)).to_json())
    [call.pop("measured", None) for call in document["calls"]]
    return document


def test_damaged_recordings():
    "Whatever can be read can be asked."
    rng, read = random.Random(5), 0
    texts = [
        recorded(make(method), STAGES[stage], "left", method).to_json()
        for method, stage in (
            ("MULTITASK_PROMPT_TUNING", "forward"),
            ("PREFIX_TUNING", "generate"),
            ("LORA", "forward"),
        )
    ]
    for _ in range(250):
        document = json.loads(rng.choice(texts))
        for name in ("about", "values", "calls"):
            damage(document[name], rng)
        try:
            trace = Trace.from_json(document)
        except TraceError:
            continue
        read += 1
        checked(trace.diagnose(rng.choice(("en", "zh"))))
    assert read > 3


def test_a_cache_that_was_filled_elsewhere_may_hold_no_virtual_token():
    "So it is not said that tokens are lost where all of them can be in it."
    model = make()
    warm = model.get_base_model()(FULL[:, :-1]).past_key_values
    (found,) = [
        f
        for f in recorded(model, lambda m: generate(m, input_ids=FULL, past_key_values=warm)).diagnose()
        if f.kind == "warm-cache"
    ]
    assert "no virtual tokens were put in" in found.text and "never sees" not in found.text


@pytest.mark.parametrize("package", (peft, peft_viz), ids=lambda p: p.__name__)
@pytest.mark.parametrize("method", ("LORA", "PROMPT_TUNING", "PREFIX_TUNING"))
def test_padding_taken_for_text(method, package):
    ids, mask = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    model, right = make(method, package), torch.where(mask == 1, ids, -100)

    def kinds(**inputs):
        with record(model) as trace:
            model(**inputs)
        return {f.kind: f.facts for f in trace.diagnose()}

    told = kinds(input_ids=ids, attention_mask=mask, labels=ids)
    # a virtual token is before the first label, which otherwise never counts
    assert told["labels-on-padding"] == {"n": 2 if method in IN_THE_INPUTS else 1}
    assert "labels-on-padding" not in kinds(input_ids=ids, attention_mask=mask, labels=right)
    with contextlib.suppress(ValueError):  # the loss cannot put them side by side
        with record(model) as trace:
            long = torch.nn.functional.pad(right, (4, 0), value=-100).flip(1)
            model(input_ids=ids.flip(1), attention_mask=mask.flip(1), labels=long)
    found = {"labels-length", "labels-on-padding"} & {f.kind for f in trace.diagnose()}
    assert found == (
        {"labels-length"} if package is peft else set()
    )  # ours refuses them before the base model
    assert kinds(input_ids=ids)["padding-seen"] == {"row": 0, "n": 2, "pad": 0}
    assert "padding-seen" not in kinds(input_ids=ids, attention_mask=mask)
    assert kinds(input_ids=ids.flip(1))["padding-seen"]["n"] == 2
    assert "padding-seen" not in kinds(input_ids=ids[1:])


def test_padding_that_also_ends_a_row():
    model = make("LORA", base=dict(pad_token_id=63))
    ids, mask = torch.tensor([[5, 6, 63, 63], [7, 8, 9, 63]]), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])
    with record(model) as trace:
        model(input_ids=ids, attention_mask=mask, labels=torch.tensor([[5, 6, 63, -100], [7, 8, 9, 63]]))
        model(input_ids=ids[1:])
    assert not {f.kind for f in trace.diagnose()} & {"labels-on-padding", "padding-seen"}
    with record(model) as trace:
        model(input_ids=ids)
    assert "padding-seen" in {f.kind for f in trace.diagnose()}


def test_what_raised_points_to_other_findings_only_where_there_are_some():
    model = make("LORA")
    model.get_base_model().lm_head.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), record(model) as trace:
        model(input_ids=torch.tensor([[5, 6]]))
    (found,) = trace.diagnose()
    assert found.advice == "The recording holds everything up to here."


@pytest.mark.parametrize("package", [peft, peft_viz], ids=["peft", "ours"])
def test_an_id_that_the_model_does_not_know_is_named(package):
    def told(method, ids, name="__call__", **more):
        model = make(method, package)
        with record(model) as trace, contextlib.suppress(Exception):
            getattr(model, name)(input_ids=torch.tensor(ids), **more)
        return {f.kind: f.facts for f in trace.diagnose()}.get("ids-unknown")

    for method in ("PROMPT_TUNING", "PREFIX_TUNING", "LORA"):
        facts = told(method, [[5, 6, 7], [5, 99, 64]])
        assert facts == dict(name="input_ids", ids="99 64", row=1, place=1, last=63), method
        assert told(method, [[5, -100, 7]])["ids"] == "-100"
        if package is peft:  # ours refuses it before it begins, in words
            assert told(method, [[5, 6, 99]], "generate", max_new_tokens=2)["place"] == 2
        labels = torch.tensor([[-100, 64]])
        assert told(method, [[5, 6]], labels=labels) == dict(name="labels", ids="64", row=0, place=1, last=63)
        assert told(method, [[5, 63]], labels=torch.tensor([[-100, 63]])) is None
        assert told(method, [[5, 63]], attention_mask="text") is None


# ---- a call without a token, and the order of the findings


def other_text(model):
    "The cache of one text, and another text of the same length."
    first = generate(model, input_ids=FULL[:1], return_dict_in_generate=True)
    generate(model, input_ids=FULL[1:], past_key_values=first.past_key_values)


@pytest.mark.parametrize("method", ("PROMPT_TUNING", "PREFIX_TUNING"))
def test_inputs_that_were_cut_to_nothing(method, tmp_path):
    trace = recorded(make(method), other_text, attention="share")
    found = checked(trace.diagnose())
    assert [f.kind for f in found if f.level == "error"] == ["raised", "no-tokens"]
    how = (
        "were cut to 0 tokens, because the cache holds 12 already"
        if V5
        else "6 tokens, and the cache that was"
    )
    assert how in found[1].text and found[1].advice.startswith(
        "Generate without past_key_values, or pass the whole"
    )
    told = trace.story()
    assert told[-1].kind == "raised" and how in told[-2].text and "past_key_values" in told[-2].text
    assert not peft_viz.compare(trace, trace).differences
    page = tmp_path / "cut.html"
    trace.save(page)
    assert "because the cache holds 12 already" in page.read_text() or not V5
    for call in trace.base_calls if V5 else ():
        if call.raised:
            with pytest.raises(ValueError, match="has no query or no key"):
                peft_viz.layout.attention(trace, call)


@pytest.mark.parametrize("shape", ((1, 0), (2, 0), (0, 3)))
@pytest.mark.parametrize("method", ("LORA", "PROMPT_TUNING", "PREFIX_TUNING"))
def test_no_row_and_no_token(method, shape):
    ids = torch.zeros(shape, dtype=torch.long)
    for run in (
        lambda m: m(input_ids=ids, attention_mask=ids + 1, labels=ids),
        lambda m: generate(m, input_ids=ids, attention_mask=ids + 1),
        lambda m: m.get_base_model()(
            input_ids=ids, attention_mask=torch.ones(shape[0], 2, shape[1], shape[1])
        ),
    ):
        trace = recorded(make(method), run, attention="share")
        found = checked(trace.diagnose())
        assert trace.story().told() and not peft_viz.compare(trace, trace).differences
        empty = [c for c in trace.base_calls if peft_viz.layout.emptied(trace, c)]
        assert bool(empty) == any(f.kind == "no-tokens" and "have 0 tokens" in f.text for f in found)
        assert "virtual-missing" not in {f.kind for f in found} or trace.roots[-1].kind == "base"


def test_what_is_graver_comes_first():
    trace = recorded(
        make(), lambda m: (m(**batch()), m(**batch(labels=True) | dict(labels=torch.full((2, 6), -100))))
    )
    found = checked(trace.diagnose())
    assert [f.level for f in found] == ["error", "warning", "note"]
    (note,) = [f for f in found if f.kind == "logits-longer"]
    assert "labels" not in note.text + note.advice and "your tokens" in note.text
    (note,) = [
        f for f in recorded(make(), lambda m: m(FULL, labels=FULL)).diagnose() if f.kind == "logits-longer"
    ]
    assert "before you compare them with your labels" in note.advice and "A loss" in note.advice


@pytest.mark.parametrize("method", ["PREFIX_TUNING", "PROMPT_TUNING"])
def test_gradient_checkpointing_drops_a_prefix(method):
    model = make(method)
    model.gradient_checkpointing_enable()
    for training in True, False:
        found = kinds(model.train(training), lambda m: m(FULL, labels=FULL))
        assert ("prefix-checkpointed" in found) == (training and method == "PREFIX_TUNING")


# ---- masks that hide what is no padding, labels that are shifted


def found(model, *args, **inputs):
    tokenizer = inputs.pop("tokenizer", None)
    with record(model, *filter(None, [tokenizer])) as trace:
        model(*args, **inputs)
    return {f.kind: f for f in checked(trace.diagnose())}, str(trace.story())


@pytest.mark.parametrize("method", ("LORA", "PROMPT_TUNING", "PREFIX_TUNING"))
@pytest.mark.parametrize("side", ("left", "right"))
def test_a_mask_that_hides_tokens(method, side):
    model, given = make(method), batch(side)
    inverted = given | dict(attention_mask=1 - given["attention_mask"], labels=given["input_ids"])
    told, story = found(model, **inverted)
    assert told["row-masked"].level == "error" and told["row-masked"].facts["row"] == 1
    assert told["tokens-masked"].facts["n"] == 9 and "labels-on-padding" not in told
    assert "Padding:" not in story and "no padding: 3 in row 0, 6 in row 1" in story
    told, story = found(model, **given)
    assert not {"row-masked", "tokens-masked"} & {*told} and "Padding:" in story
    inputs = model.get_input_embeddings()(given["input_ids"])
    told, _ = found(model, inputs_embeds=inputs, attention_mask=inverted["attention_mask"])
    assert not {"row-masked", "tokens-masked"} & {*told}


@pytest.mark.parametrize(
    "ids, mask, pad, n",
    [
        ([5, 6, 7, 8], [1, 0, 1, 1], 0, 1),  # in the middle
        ([5, 6, 7, 8], [1, 0, 1, 1], None, 1),
        ([5, 6, 7, 8], [0, 0, 1, 1], None, 2),  # more than one id
        ([5, 6, 7, 8], [1, 1, 1, 0], 0, 1),
        ([5, 6, 7, 7], [1, 1, 0, 0], None, 0),  # it may pad with 7
        ([5, 6, 0, 0], [1, 1, 0, 0], 9, 0),  # as pad_sequence does
        ([5, 63, 63, 63], [1, 1, 0, 0], 0, 0),  # the token that ends a row pads it, too
        ([0, 5, 0, 7], [1, 1, 0, 1], 0, 0),
    ],
)
def test_which_masked_tokens_are_padding(ids, mask, pad, n):
    model = make("LORA", base=dict(pad_token_id=pad))
    told, _ = found(model, input_ids=torch.tensor([ids]), attention_mask=torch.tensor([mask]))
    assert (told["tokens-masked"].facts["n"] if "tokens-masked" in told else 0) == n


def test_a_masked_token_is_said_by_its_text():
    base, tokenizer = peft_viz.load_tiny()
    base.config.pad_token_id = base.generation_config.pad_token_id = None
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    given = tokenizer(["hello"], return_tensors="pt")
    given["attention_mask"][0, -1] = 0
    told, story = found(model, tokenizer=tokenizer, **given)
    assert "'o' in row 0" in told["tokens-masked"].text and "no padding: 1 in row 0" in story


def test_the_tokenizer_says_what_padding_is():
    "The configuration of a Llama has none, and `generate` takes the token that ends a row."
    base, tokenizer = peft_viz.load_tiny()
    base.config.pad_token_id = base.generation_config.pad_token_id = None
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    ids = tokenizer(["abc", "hello"], padding=True, return_tensors="pt")["input_ids"]
    told, _ = found(model, tokenizer=tokenizer, input_ids=ids)
    assert told["padding-seen"].facts["pad"] == tokenizer.pad_token_id
    assert "padding-seen" not in found(model, input_ids=ids)[0]
    assert "padding-seen" not in found(model, tokenizer=tokenizer, input_ids=ids[1:])[0]


@pytest.mark.parametrize("package", (peft, peft_viz), ids=lambda p: p.__name__)
def test_a_merged_adapter_that_is_to_be_trained(package):
    def told(model):
        return {f.kind: f.level for f in checked(recorded_with_gradients(model).diagnose())}

    def recorded_with_gradients(model):
        with record(model) as trace:
            model(input_ids=FULL)
        return trace

    model = make("LORA", package)
    model.merge_adapter()
    assert told(model) == {"adapters-merged": "note"}
    assert told(model.train()) == {"merged-in-training": "error"}
    assert kinds(model, lambda m: m(input_ids=FULL)) == {"adapters-merged"}  # without gradients
    model.unmerge_adapter()
    assert told(model) == {}


@pytest.mark.parametrize("method", ("LORA", "PROMPT_TUNING", "PREFIX_TUNING"))
def test_labels_that_were_shifted_by_hand(method):
    model, given = make(method), batch("right", labels=True)
    right, ids = given.pop("labels"), given["input_ids"]
    sliced = ids.clone()
    sliced[:, :-1] = ids[:, 1:]
    answer = sliced.clone()
    answer[:, :2] = -100
    for labels in (ids.roll(-1, 1), sliced, answer):
        assert "labels-shifted" in found(model, **given, labels=labels)[0]
    for labels in (right, ids, ids.roll(1, 1), torch.full_like(ids, -100)):
        assert "labels-shifted" not in found(model, **given, labels=labels)[0]
    same = torch.full((2, 6), 7)
    assert "labels-shifted" not in found(model, input_ids=same, labels=same)[0]


@pytest.mark.parametrize("method", ("LORA", "PROMPT_TUNING"))
def test_an_end_that_is_never_learned(method):
    model = make(method, base=dict(pad_token_id=63))
    ids = torch.tensor([[5, 6, 63, 63], [7, 8, 9, 63]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    given = dict(input_ids=ids, attention_mask=mask)
    by_id, by_mask = ids.masked_fill(ids == 63, -100), ids.masked_fill(mask == 0, -100)
    told, _ = found(model, **given, labels=by_id)
    assert told["end-not-learned"].facts == dict(row=0, end=63)
    prompt = by_id.clone()
    prompt[:] = -100
    for labels in (by_mask, prompt):
        assert "end-not-learned" not in found(model, **given, labels=labels)[0]
    cut = dict(
        input_ids=ids, attention_mask=torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])
    )  # rows without an end
    assert "end-not-learned" not in found(model, **cut, labels=by_id)[0]


# ---- a cache of another text


ANOTHER = "cache-of-another-text"


def after(model, second):
    first = generate(model, input_ids=FULL[:1], return_dict_in_generate=True)
    whole = torch.cat((first.sequences, FULL[1:]), 1) if second is None else second
    generate(model, input_ids=whole, past_key_values=first.past_key_values)


@pytest.mark.parametrize("family", ("llama", "gpt2"))
@pytest.mark.parametrize("package", (peft, peft_viz), ids=lambda p: p.__name__)
def test_a_cache_of_another_text(family, package):
    model = make("LORA", package, family, **(dict(target_modules=["c_attn"]) if family == "gpt2" else {}))
    longer = torch.cat((FULL[1:], FULL[1:], FULL[:1]), 1)
    assert kinds(model, after, longer) == {ANOTHER}
    assert kinds(model, after, None) == set()
    if V5:
        assert ANOTHER in kinds(model, after, FULL[1:])
    on = lambda m, **more: m(FULL[:1], past_key_values=m(FULL[1:]).past_key_values, **more)
    assert kinds(model, on) == set()
    zero = torch.arange(6)[None]
    assert kinds(model, lambda m: on(m, position_ids=zero)) == {ANOTHER}
    assert kinds(model, lambda m: on(m, position_ids=zero + 6)) == set()


def test_an_empty_cache_that_stays_empty():
    "peft puts a prefix into another one; whatever else is passed an empty cache fills it."
    run = lambda m: m(FULL, past_key_values=DynamicCache())
    for package in peft, peft_viz:
        for method in "PREFIX_TUNING", "PROMPT_TUNING", "LORA":
            is_lost = package is peft and method == "PREFIX_TUNING"
            assert ("cache-not-filled" in kinds(make(method, package), run)) is is_lost


@pytest.mark.parametrize("package", [peft, peft_viz])
def test_virtual_tokens_in_embeddings_are_not_said_to_be_missing(package):
    "Put there by a `forward` from before the recording, or by code of the caller's own."
    for method in IN_THE_INPUTS[:1] + ("PREFIX_TUNING",):
        model = make(method, package)
        kept = model.forward
        assert "virtual-missing" not in kinds(model, lambda _, kept=kept: kept(input_ids=FULL))
    model = make(package=package)

    def own(m):
        words = m.get_base_model().get_input_embeddings()(FULL)
        m.get_base_model()(inputs_embeds=torch.cat((m.get_prompt(batch_size=2), words), 1))

    assert "virtual-missing" not in kinds(model, own)
    assert kinds(model, lambda m: m.get_base_model()(FULL)) == {"virtual-missing"}


def test_a_cache_of_padded_rows_and_one_of_a_window():
    def goes(m):
        first = m(**batch("left"), position_ids=POSITIONS)
        mask = torch.cat((batch("left")["attention_mask"], torch.ones(2, 1, dtype=torch.long)), 1)
        at = torch.tensor([[3], [6]])
        m(FULL[:, :1], attention_mask=mask, position_ids=at, past_key_values=first.past_key_values)

    assert ANOTHER not in kinds(make("LORA"), goes)
    assert kinds(make("LORA", family="mistral", base=dict(sliding_window=4)), after, None) == set()


def test_each_call_is_asked_a_few_times_whose_it_is(monkeypatch):
    "Not once for each call that the caller made: the time would grow with their square."
    model = make("LORA")
    with record(model) as trace:
        for _ in range(20):
            model(input_ids=torch.tensor([[5, 6, 7]]))
    asked, whose = [], layout.outermost
    monkeypatch.setattr(layout, "outermost", lambda *a: asked.append(a) or whose(*a))
    trace.diagnose()
    assert len(asked) < 5 * 20
