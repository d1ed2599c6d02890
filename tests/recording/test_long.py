"""Long texts: a mask of any size is kept as runs, and no grid is made that the model did not have."""

# lane: here

import pytest
import torch

from peft_viz import layout, record, tiny_random, Trace
from peft_viz.recording.base_model import _sdpa_grid
from peft_viz.recording.values import Album, Causal, MAX_RUNS, MAX_SCAN, Unmasked


def test_no_grid_that_the_model_did_not_have():
    query = torch.zeros(1, 1, 40_000, 1).expand(1, 4, 40_000, 8)
    assert _sdpa_grid(query, query, is_causal=True).shape == (1, 1, 40_000, 40_000)
    assert isinstance(_sdpa_grid(query, query, is_causal=True), Causal)
    assert _sdpa_grid(query, query).value().packed == {"runs": [1, 40_000**2]}
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


@pytest.mark.parametrize("queries, keys", [(3, 3), (3, 5), (5, 3), (40, 40), (1, 1), (1, 30), (0, 3), (3, 0)])
@pytest.mark.parametrize("kind", [Causal, Unmasked])
def test_a_mask_that_was_never_made_is_the_one_that_would_have_been(queries, keys, kind):
    made = torch.ones(1, 1, queries, keys, dtype=torch.bool)
    album = Album([])
    index = album.add(made.tril() if kind is Causal else made, "attention_mask")
    assert album.add(kind(queries, keys), "attention_mask") == index and len(album.values) == 1


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("kind", ["bool", "float"])
@pytest.mark.parametrize("chunk", [1, 50, 10**6])
def test_runs_of_a_mask_are_those_of_its_numbers(kind, heads, chunk, monkeypatch):
    monkeypatch.setattr("peft_viz.recording.values.CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    for density in (0.02, 0.5, 1.0):
        seen = torch.rand(2, heads, 20, 30, generator=generator) < density
        least = torch.finfo(torch.float32).min
        mask = seen if kind == "bool" else torch.zeros(seen.shape).masked_fill(~seen, least)
        album = Album([])
        value = album.values[album.add(mask, "attention_mask")]
        assert value.shape == (2, heads, 20, 30) if density < 1 else (2, 1, 20, 30)
        assert value.data == seen[:, : value.shape[1]].flatten().int().tolist()


def test_the_keys_of_a_query():
    album = Album([])
    mask = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 1, 0]]).bool()
    small = album.values[album.add(mask[None, None], "attention_mask")]
    assert [small.keys(0, q) for q in range(4)] == [[(0, 2), (3, 4)], [], [(0, 4)], [(0, 1), (2, 3)]]
    assert album.values[album.add(torch.ones(2, 3), "attention_mask")].keys(0, 0) is None


def test_a_mask_without_order_is_not_kept():
    mask = torch.rand(1, 1, 600, 600, generator=torch.Generator().manual_seed(0)) < 0.5
    album = Album([])
    value = album.values[album.add(mask, "attention_mask")]
    assert mask.numel() / 2 > MAX_RUNS and value.packed is None and value.truncated
    assert value.keys(0, 0) is None


@pytest.mark.parametrize("padding", [0, 5])
def test_a_long_text(padding, tmp_path):
    "With padding the model makes a mask, without it has none: the causal one is that of its attention function."
    model, n = tiny_random("llama", num_hidden_layers=1), int(MAX_SCAN**0.5) + 1
    ids = torch.ones(1, n, dtype=torch.long)
    mask = (torch.arange(n) >= padding).long()[None]
    with record(model) as trace:
        model(input_ids=ids, attention_mask=mask, logits_to_keep=1)
    path = trace.save(tmp_path / "trace.json")
    assert path.stat().st_size < 100_000
    (seen,) = Trace.load(path).base_calls[0].attention
    for t in (trace, Trace.load(path)):
        value = t.value(seen["value"])
        assert value.shape == (1, 1, n, n) and not value.truncated and value.data is None
        for query in (padding, 1000, n - 1):
            assert value.keys(0, query) == [(padding, query + 1)]
        with pytest.raises(ValueError, match="kept as runs"):
            layout.attention(t)
