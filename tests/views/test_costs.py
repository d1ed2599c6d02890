"What a method costs and can do is measured, and right where the answer is known."
# lane: here

import pytest
import torch

import peft_viz as peft
from peft_viz.views import costs
from peft_viz.zoo.letters import collate

HEADS, SIZE, LAYERS, WIDTH = 2, 24, 4, 96  # of the embedded model: heads of keys and values


@pytest.fixture(scope="module")
def base_and_batch():
    base, tokenizer = peft.load_tiny()
    batch = collate(tokenizer, ["gearwheel=", "fig="], ["aeeeghlrw", "fgi"], padding_side="left")
    return base, batch | dict(task_ids=torch.tensor([0, 1]))


def of(base_and_batch, make, **options):
    base, batch = base_and_batch
    return costs.cost(base, make(task_type="CAUSAL_LM", **options), batch)


def test_virtual_tokens(base_and_batch):
    found = of(base_and_batch, peft.PromptTuningConfig, num_virtual_tokens=3)
    assert (found.trained, found.stored, found.optimizer) == (3 * WIDTH, 3 * WIDTH, 12 * 3 * WIDTH)
    assert (found.columns, found.cached, found.layers) == (3, 0, 0)
    assert not (found.starts or found.merges or found.mixes or found.ignores_padding)


def test_a_prefix(base_and_batch):
    found = of(base_and_batch, peft.PrefixTuningConfig, num_virtual_tokens=3)
    assert found.trained == 3 * LAYERS * 2 * HEADS * SIZE
    assert (found.columns, found.cached, found.layers) == (0, 3, 0)
    assert not (found.starts or found.merges or found.mixes or found.ignores_padding)


def test_an_encoder_is_trained_and_not_stored(base_and_batch):
    found = of(base_and_batch, peft.PromptEncoderConfig, num_virtual_tokens=3, encoder_hidden_size=32)
    assert found.stored == 3 * WIDTH < found.trained


def test_lora(base_and_batch):
    found = of(base_and_batch, peft.LoraConfig, r=2, target_modules=["q_proj"])
    assert (found.trained, found.layers, found.columns, found.cached) == (
        LAYERS * 2 * 2 * WIDTH,
        LAYERS,
        0,
        0,
    )
    assert found.starts and found.merges and found.mixes and found.ignores_padding


def test_poly_gives_each_row_its_task_and_no_adapter_of_its_own(base_and_batch):
    found = of(base_and_batch, peft.PolyConfig, r=2, n_tasks=2, n_skills=2, target_modules=["q_proj"])
    assert found.ignores_padding and not (found.merges or found.mixes)


def test_all_weights_take_three_forward_passes(base_and_batch):
    base, batch = base_and_batch
    every = costs.cost(base, None, batch)
    one = of(base_and_batch, peft.PromptTuningConfig, num_virtual_tokens=1)
    assert every.trained == sum(p.numel() for p in base.parameters())
    assert 2.8 < every.flops < 3.01 and 1.5 < one.flops < every.flops
    assert one.optimizer < every.optimizer / 1000


def test_the_base_model_stays_as_it_is(base_and_batch):
    base, batch = base_and_batch
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    wants = [p.requires_grad for p in base.parameters()]
    of(base_and_batch, peft.LoraConfig, r=2, target_modules=["q_proj"])
    assert all(torch.equal(before[name], tensor) for name, tensor in base.state_dict().items())
    assert [p.requires_grad for p in base.parameters()] == wants and len(before) == len(base.state_dict())


@pytest.mark.parametrize("without", ["labels", "rows"])
def test_a_batch_that_cannot_be_measured(base_and_batch, without):
    base, batch = base_and_batch
    kept = {
        name: tensor[:1] if without == "rows" else tensor for name, tensor in batch.items() if name != without
    }
    with pytest.raises(ValueError, match="at least two rows"):
        costs.cost(base, None, kept)


def test_the_table_says_the_numbers_in_both_languages(base_and_batch):
    found = {"a < b": of(base_and_batch, peft.PromptTuningConfig, num_virtual_tokens=3)}
    assert "288" in repr(costs.Table(found)) and "3 columns" in repr(costs.Table(found))
    shown = costs.Table(found, costs.ABLE, lang="zh")._repr_html_()
    assert "a &lt; b" in shown and shown.count("<td>否</td>") == len(costs.ABLE)
    with pytest.raises(ValueError, match="en, zh"):
        costs.Table(found, lang="fr")
