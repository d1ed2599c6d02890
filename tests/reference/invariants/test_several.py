"""Several at once, or one after another: threads on one model, adapters that come later, adapters switched off
and on again."""
# lane: reference

import sys
import threading

import pytest
import torch

import peft_viz as ours
import small
from peft_viz.reference.methods import lora

IDS = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])
CLM = dict(task_type="CAUSAL_LM")
METHODS = {  # name: its configuration, and what a call of one row needs besides
    "prompt": (lambda: small.config("prompt"), {}),
    "prefix": (lambda: small.config("prefix"), {}),
    "lora": (lambda: small.config("lora", init_lora_weights=False), {}),
    "poly": (lambda: small.config("poly", n_tasks=2, init_weights=False), dict(task_ids=torch.tensor([1]))),
}
methods = pytest.mark.parametrize("method", METHODS)


def make(method):
    config, more = METHODS[method]
    torch.manual_seed(0)
    return ours.get_peft_model(small.base_model(), config()).eval(), more


def side_by_side(jobs):
    "What each of the functions returns, all running in threads that take turns after a few instructions."
    found, often = [None] * len(jobs), sys.getswitchinterval()

    def go(n):
        found[n] = jobs[n]()

    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=go, args=(n,)) for n in range(len(jobs))]
        for step in threading.Thread.start, threading.Thread.join:
            for thread in threads:
                step(thread)
    finally:
        sys.setswitchinterval(often)
    return found


@methods
def test_threads_generate_as_one_alone(method):
    model, more = make(method)
    own = dict(vars(model.get_base_model()))
    write = lambda row: model.generate(
        input_ids=IDS[row : row + 1], max_new_tokens=8, do_sample=False, **more
    )
    alone = [write(0), write(1)]
    for n, text in enumerate(side_by_side([lambda n=n: write(n % 2) for n in range(4)])):
        assert torch.equal(text, alone[n % 2])
    assert vars(model.get_base_model()) == own


def test_threads_with_adapters_of_their_own():
    model, _ = make("lora")
    model.add_adapter("second", small.config("lora", init_lora_weights=False))
    names = ["default", "second", "__base__", None]
    read = lambda name: model(IDS, **({} if name is None else dict(adapter_names=[name] * 2))).logits
    alone = [read(name) for name in names]
    for logits, expected in zip(side_by_side([lambda name=n: read(name) for n in names * 3]), alone * 3):
        assert torch.equal(logits, expected)


def test_a_hook_that_another_thread_is_putting_in_changes_nothing():
    "torch puts it in first, and notes a moment later that it takes `kwargs`."
    assert lora._insert_adapter_names(-1, ["default"], None, (IDS,)) is None


@pytest.mark.parametrize("method", small.CONFIGS)
def test_off_and_on_again_the_same_is_trained(method):
    model = ours.get_peft_model(small.base_model(), small.config(method, modules_to_save=["lm_head"]))
    trained = lambda: [name for name, p in model.named_parameters() if p.requires_grad]
    for freeze in False, True:
        if freeze:
            model.requires_grad_(False)
        before = trained()
        with model.disable_adapter():
            assert not [
                name for name in trained() if "modules_to_save" in name or "base_model.model." in name
            ]
            with model.disable_adapter():
                pass
        assert trained() == before and bool(before) != freeze
        model.enable_adapter_layers()
        assert trained() == before


@pytest.mark.parametrize("config", ["lora", "poly"])
def test_an_adapter_that_comes_later_is_in_eval_mode_where_the_model_is(config, tmp_path):
    fields = dict(lora=dict(lora_dropout=0.9, init_lora_weights=False), poly=dict(init_weights=False))[config]
    task = dict(poly=dict(task_ids=torch.zeros(2, dtype=torch.long))).get(config, {})
    model = ours.get_peft_model(small.base_model(), small.config(config, **fields)).eval()
    model.add_adapter("second", small.config(config, **fields))
    model.save_pretrained(tmp_path)
    model.load_adapter(tmp_path, "third", is_trainable=True)
    for name in "second", "third":
        model.set_adapter(name)
        assert torch.equal(model(IDS, **task).logits, model(IDS, **task).logits)
    model.train()
    assert not torch.equal(model(IDS, **task).logits, model(IDS, **task).logits)
    model.add_adapter("fourth", small.config(config, **fields))
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("method", small.CONFIGS)
def test_words_that_came_after_the_adapter_are_saved_with_it(method, tmp_path):
    model = ours.get_peft_model(small.base_model(), small.config(method)).eval()
    model.resize_token_embeddings(70)
    ids = torch.tensor([[65, 66, 3]])
    more = dict(task_ids=torch.tensor([0])) if method == "poly" else {}
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="resize_token_embeddings"):
        ours.PeftModel.from_pretrained(small.base_model(), tmp_path)
    base = small.base_model(seed=0)
    base.resize_token_embeddings(70)
    again = ours.PeftModel.from_pretrained(base, tmp_path)
    assert torch.equal(again(ids, **more).logits, model(ids, **more).logits)


OFF = {"lora": {}, "ia3": dict(feedforward_modules=[]), "poly": {}}


@pytest.mark.parametrize("method", OFF)
def test_an_adapter_that_comes_while_they_are_off_is_off(method):
    fields = lambda *targets: dict(target_modules=list(targets), modules_to_save=["norm"], **OFF[method])
    model = ours.get_peft_model(small.base_model(), small.config(method, **fields("v_proj"))).eval()
    alone, more = (
        small.base_model()(IDS).logits,
        dict(poly=dict(task_ids=torch.zeros(2).long())).get(method, {}),
    )
    with model.disable_adapter():
        model.add_adapter("second", small.config(method, **fields("k_proj")))
        model.set_adapter("second")
        for parameter in model.parameters():
            assert not parameter.requires_grad
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".second" in name:
                    parameter.add_(1)
        assert torch.equal(model(IDS).logits, alone)
    assert not torch.allclose(model(IDS, **more).logits, alone)
    assert {".second" in name for name, p in model.named_parameters() if p.requires_grad} == {True}
