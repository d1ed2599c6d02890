"Laws that hold for any batch, any padding, any number of virtual tokens and any order of calls: tried on many of them."
# lane: broad

import copy
import re

import pytest
import torch
from hypothesis import given, settings, strategies as st

import small
import matrix
import peft_viz.reference.causal_lm as ours
from matrix import close, same_text
from peft_viz.reference.place import BehindPadding, InFront

CONFIGS = {
    "prompt": lambda n: small.config("prompt", num_virtual_tokens=n),
    "prefix": lambda n: small.config("prefix", num_virtual_tokens=n),
    "lora": lambda n: small.config("lora", r=n, lora_alpha=n),
}
methods = pytest.mark.parametrize("method", CONFIGS)
NEW = 3  # tokens to generate


def tried(examples):
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None)


@pytest.fixture(autouse=True, scope="module")
def quiet_and_single():
    threads = torch.get_num_threads()
    matrix.quiet()
    yield
    torch.set_num_threads(threads)


# --- what is tried ---------------------------------------------------------------------------------------------

SIDES = st.sampled_from(["left", "right", "none"])


@st.composite
def batches(draw, sides=SIDES):
    "Ids and mask of one to four rows with one to nine tokens, each row with one real token at least."
    rows, length, side = draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(sides)
    left_out = [draw(st.integers(0, length - 1)) if side != "none" else 0 for _ in range(rows)]
    mask = torch.ones(rows, length, dtype=torch.long)
    for row, n in enumerate(left_out):
        mask[row, slice(n) if side == "left" else slice(length - n, None)] = 0
    ids = torch.tensor([[draw(st.integers(3, 60)) for _ in range(length)] for _ in range(rows)])
    return ids * mask, mask


# --- virtual tokens among real ones ----------------------------------------------------------------------------


@given(batches(), st.integers(1, 64))
@tried(60)
def test_virtual_tokens_taken_out_again_leave_the_real_ones(batch, n):
    ids, mask = batch
    order = BehindPadding(mask, n)
    joined = order.insert(-1 - torch.arange(n).expand(len(ids), -1), ids)
    assert joined.shape == (len(ids), n + ids.shape[1])
    assert torch.equal(joined[joined >= 0].view_as(ids), ids)
    assert torch.equal(joined.gather(1, order.real_columns), ids)
    assert torch.equal(joined.gather(1, order.columns), -1 - torch.arange(n).expand(len(ids), -1))


@given(batches(), st.integers(1, 64))
@tried(60)
def test_padding_on_the_left_comes_first(batch, n):
    "Then the virtual tokens, one after the other, then the rest."
    ids, mask = batch
    columns = BehindPadding(mask, n).columns
    padding = (mask.cumsum(1) == 0).sum(1, keepdim=True)
    assert torch.equal(columns, padding + torch.arange(n))


@given(batches(), st.integers(1, 64), st.integers(1, 3))
@tried(30)
def test_what_has_more_dimensions_is_put_in_the_same_order(batch, n, width):
    ids, mask = batch
    order = BehindPadding(mask, n)
    virtual = torch.randn(len(ids), n, width, generator=torch.Generator().manual_seed(n))
    real = torch.randn(*ids.shape, width, generator=torch.Generator().manual_seed(width))
    assert torch.equal(
        order.insert(virtual, real),
        torch.stack([order.insert(virtual[..., i], real[..., i]) for i in range(width)], dim=-1),
    )


@given(batches(st.just("none")), st.integers(1, 64))
@tried(30)
def test_without_padding_virtual_tokens_are_in_front(batch, n):
    ids, mask = batch
    virtual = -1 - torch.arange(n).expand(len(ids), -1)
    assert torch.equal(BehindPadding(mask, n).insert(virtual, ids), InFront().insert(virtual, ids))


# --- any padding -----------------------------------------------------------------------------------------------


def adapter(model, name, seed):
    "Random weights of one adapter: the same, whatever other adapters the model has."
    generator = torch.Generator().manual_seed(seed)
    for key, parameter in sorted(model.named_parameters()):
        if re.search(rf"\.{name}(\.|$)", key):
            parameter.data = 0.4 * torch.randn(parameter.shape, generator=generator)
    return model


def fresh(method, sizes, active, family="llama"):
    "A model with adapters of these sizes, name -> size; one is active."
    names = [active, *(name for name in sizes if name != active)]
    model = ours.get_peft_model(
        copy.deepcopy(matrix.base_model(family)),
        CONFIGS[method](sizes[active]),
        active,
        corrected_positions=True,
    )
    for name in names[1:]:
        model.add_adapter(name, CONFIGS[method](sizes[name]))
    for name in names:
        adapter(model, name, sizes[name])
    return model.eval()


def logits(model, ids, mask):
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).logits[:, -ids.shape[1] :]


def text(model, ids, mask):
    return model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False)[
        :, ids.shape[1] :
    ]


@methods
@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral"])
def test_a_row_does_not_depend_on_its_padding(family, method):
    "Right of padding on the left, left of padding on the right; and `generate` with padding on the left."

    @given(batches(), st.integers(1, 64))
    @tried(20)
    def holds(batch, n):
        ids, mask = batch
        model = fresh(method, {"default": n}, "default", family)
        positions = (
            {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if method == "lora" else {}
        )  # virtual tokens bring theirs
        with torch.no_grad():
            together = model(input_ids=ids, attention_mask=mask, **positions).logits[:, -ids.shape[1] :]
        for row in range(len(ids)):
            real = ids[row][mask[row] == 1][None]
            behind = together[row] if method != "prompt" else whole(model, ids, mask)[row]
            close(behind[mask[row] == 1][None], logits(model, real, torch.ones_like(real)))
            if mask[:, -1].all():
                same_text(text(model, ids, mask)[row : row + 1], text(model, real, torch.ones_like(real)))

    holds()


def whole(model, ids, mask):
    "Logits of the real tokens, wherever virtual ones are: `[batch, sequence, vocabulary]`."
    n = model.active_peft_config.num_virtual_tokens
    with torch.no_grad():
        output = model(input_ids=ids, attention_mask=mask).logits
    return output[(BehindPadding(mask, n).index() >= n)].view(*ids.shape, -1)


# --- any order of calls ----------------------------------------------------------------------------------------

SIZES = {"default": 2, "second": 5, "third": 64}  # virtual tokens; LoRA: the rank
OPERATIONS = st.tuples(
    st.sampled_from(["add", "set", "delete", "disable", "enable", "generate", "forward", "error", "loss"]),
    st.sampled_from(list(SIZES)),
)


class Track:
    "A model, and what should be true of it: which adapters it has, which is active, and whether they are switched off."

    def __init__(self, method):
        self.method, self.names, self.active, self.off = method, ["default"], "default", None
        self.model = fresh(method, {"default": SIZES["default"]}, "default")

    def add(self, name):
        if name not in self.names:
            self.model.add_adapter(name, CONFIGS[self.method](SIZES[name]))
            adapter(self.model, name, SIZES[name])
            self.model.eval()
            self.names.append(name)

    def set(self, name):
        if name in self.names:
            self.model.set_adapter(name)
            self.active = name

    def delete(self, name):
        if name in self.names and name != self.active:
            self.model.delete_adapter(name)
            self.names.remove(name)

    def disable(self, name):
        if self.off is None:
            self.off = self.model.disable_adapter()
            self.off.__enter__()

    def enable(self, name):
        if self.off is not None:
            self.off.__exit__(None, None, None)
            self.off = None

    def generate(self, name):
        text(self.model, *BATCH)

    def forward(self, name):
        logits(self.model, *BATCH)

    def loss(self, name):
        if self.off is None:
            self.model(input_ids=BATCH[0], attention_mask=BATCH[1], labels=BATCH[0]).loss.backward()
            self.model.zero_grad()

    def error(self, name):
        with pytest.raises(ValueError):
            self.model.generate(input_ids=BATCH[0], no_such_argument=True)


BATCH = torch.tensor([[0, 0, 9, 8], [7, 6, 5, 4]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
expected = {}


def known(method, name):
    "What a fresh model with this adapter says, or without any: its logits and its text."
    if (method, name) not in expected:
        model = (
            fresh(method, {name: SIZES[name]}, name) if name else copy.deepcopy(matrix.base_model("llama"))
        )
        expected[method, name] = logits(model, *BATCH), text(model, *BATCH)
    return expected[method, name]


@methods
def test_state_never_leaks(method):
    "After any order of calls, the model says what a freshly made one says."

    @given(st.lists(OPERATIONS, min_size=1, max_size=10))
    @tried(40)
    def holds(operations):
        track = Track(method)
        for operation, name in operations:
            getattr(track, operation)(name)
        shown, said = known(method, None if track.off else track.active)
        assert torch.equal(logits(track.model, *BATCH), shown), "logits"
        same_text(text(track.model, *BATCH), said)
        assert list(track.model.peft_config) == track.names
        track.enable(None)
        assert torch.equal(logits(track.model, *BATCH), known(method, track.active)[0])

    holds()


@methods
def test_adapters_of_other_sizes_change_nothing(method):
    @given(st.integers(1, 64), st.integers(1, 64))
    @tried(15)
    def holds(n, other):
        one, both = fresh(method, {"a": n}, "a"), fresh(method, {"a": n, "b": other}, "a")
        assert torch.equal(logits(one, *BATCH), logits(both, *BATCH))
        both.set_adapter("b")
        text(both, *BATCH)
        both.set_adapter("a")
        same_text(text(both, *BATCH), text(one, *BATCH))

    holds()


def test_different_adapters_say_different_things():
    "Or the laws above would compare what is always the same."
    for method in CONFIGS:
        shown = [known(method, name)[0] for name in (None, *SIZES)]
        assert all(not torch.allclose(a, b, atol=1e-2) for i, a in enumerate(shown) for b in shown[:i])
