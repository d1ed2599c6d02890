"""Long texts: what a recording holds of a mask that is too large to be kept."""

# lane: here

import pytest
import torch

from peft_viz import record, tiny_random
from peft_viz.recording.base_model import _sdpa_grid
from peft_viz.recording.values import MAX_SCAN


@pytest.mark.parametrize("causal", [True, False])
def test_no_grid_that_the_model_did_not_have(causal):
    query = torch.zeros(1, 1, 40_000, 1).expand(1, 4, 40_000, 8)
    grid = _sdpa_grid(query, query, is_causal=causal)
    assert grid.shape == (1, 1, 40_000, 40_000)
    assert grid.untyped_storage().nbytes() == 1  # a view of one number
    mask = torch.ones(1, dtype=torch.bool).expand(1, 1, 40_000, 40_000)
    assert (
        _sdpa_grid(query, query, attn_mask=mask).untyped_storage().data_ptr()
        == mask.untyped_storage().data_ptr()
    )


@pytest.mark.parametrize("shape", [(4, 4), (1, 4, 4), (2, 1, 4, 4)])
def test_masks_of_any_number_of_dimensions(shape):
    query, mask = torch.zeros(2, 4, 4, 8), torch.ones(shape, dtype=torch.bool).tril()
    grid = _sdpa_grid(query, query, attn_mask=mask)
    assert grid.ndim == 4 and torch.equal(grid[0, 0], torch.ones(4, 4, dtype=torch.bool).tril())


def test_a_text_whose_mask_is_not_kept(tmp_path):
    model, n = tiny_random("llama", num_hidden_layers=1), int(MAX_SCAN**0.5) + 1
    with record(model) as trace:
        model(input_ids=torch.ones(1, n, dtype=torch.long), logits_to_keep=1)
    (seen,) = trace.base_calls[0].attention
    mask = trace.value(seen["value"])
    assert mask.shape == (1, 1, n, n) and mask.truncated and mask.packed is None
    assert trace.save(tmp_path / "trace.json").stat().st_size < 100_000
