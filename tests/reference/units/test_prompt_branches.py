"""The rooms of the methods with virtual tokens, one by one and without a base model: every condition in them,
and what each way does."""
# lane: reference

import types
import warnings

import pytest
import torch
from torch import nn

import peft_viz as ours
from peft_viz.reference.config import (
    CPTConfig,
    MultitaskPromptTuningConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
)
from peft_viz.reference.architectures import prefix_layout
from peft_viz.reference.files import read_state_dict
from peft_viz.reference.place import BehindPadding, InFront
from peft_viz.reference.methods import cpt, multitask, p_tuning, prompt_tuning as soft_prompt
from peft_viz.reference.methods import prefix_tuning as prefix


@pytest.fixture
def words():
    "Word embeddings in which every row names its word."
    embedding = nn.Embedding(10, 4)
    embedding.weight.data = torch.arange(10.0)[:, None].expand(-1, 4).clone()
    return embedding


@pytest.fixture
def tokenizer(monkeypatch):
    "A tokenizer that makes a token of each letter, and a list of what it was asked for."
    import transformers

    asked = []

    def from_pretrained(name, **kwargs):
        asked.append((name, kwargs))
        return lambda text: {"input_ids": [ord(letter) - ord("a") for letter in text]}

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", from_pretrained)
    return asked


# --- prompt tuning ---------------------------------------------------------------------------------------------


def prompt_config(virtual=3, **more):
    return PromptTuningConfig(num_virtual_tokens=virtual, token_dim=4, **more)


TEXT = dict(prompt_tuning_init="TEXT", prompt_tuning_init_text="cab", tokenizer_name_or_path="letters")


def is_random(prompt):
    return not torch.equal(prompt, prompt.round())


def test_prompt_starts_at_random(words, tokenizer):
    assert is_random(soft_prompt.PromptEmbedding(prompt_config(), words).embedding.weight)
    assert tokenizer == []


@pytest.mark.parametrize("virtual, expected", [(2, [2, 0]), (3, [2, 0, 1]), (7, [2, 0, 1, 2, 0, 1, 2])])
def test_prompt_starts_from_a_text(words, tokenizer, virtual, expected):
    encoder = soft_prompt.PromptEmbedding(prompt_config(virtual, **TEXT), words.to(torch.bfloat16))
    assert encoder.embedding.weight[:, 0].tolist() == expected
    assert encoder.embedding.weight.dtype == torch.float32 and encoder.embedding.weight.requires_grad
    assert encoder(torch.tensor([[1]])).tolist() == [[[expected[1]] * 4]]


def test_prompt_starts_from_sampled_words(words):
    torch.manual_seed(0)
    expected = torch.randint(0, 10, (3,))
    state = torch.get_rng_state()
    torch.manual_seed(0)
    assert torch.equal(soft_prompt.sampled_token_ids(prompt_config(), words), expected)
    assert torch.equal(torch.get_rng_state(), state)
    prompt = soft_prompt.PromptEmbedding(
        prompt_config(prompt_tuning_init="SAMPLE_VOCAB"), words
    ).embedding.weight
    assert not is_random(prompt) and prompt.min() >= 0 and prompt.max() < 10


@pytest.mark.parametrize("start", [dict(prompt_tuning_init="SAMPLE_VOCAB"), TEXT], ids=["sampled", "text"])
def test_a_prompt_for_inference_is_not_copied(words, tokenizer, start):
    assert is_random(
        soft_prompt.PromptEmbedding(prompt_config(inference_mode=True, **start), words).embedding.weight
    )
    assert tokenizer == []


@pytest.mark.parametrize(
    "given, passed",
    [(None, {}), (dict(trust_remote_code=True, padding_side="left"), dict(padding_side="left"))],
)
def test_what_the_tokenizer_is_asked(words, tokenizer, given, passed):
    soft_prompt.PromptEmbedding(prompt_config(tokenizer_kwargs=given, **TEXT), words)
    assert tokenizer == [("letters", passed)]


def test_a_text_without_tokens(tokenizer):
    config = prompt_config(**TEXT)
    config.prompt_tuning_init_text = ""
    with pytest.raises(ValueError, match="makes no token of prompt_tuning_init_text=''"):
        soft_prompt.text_token_ids(config)


# --- P-tuning --------------------------------------------------------------------------------------------------


def layers(network):
    return [type(layer).__name__ for layer in network]


def encoder_config(**more):
    return PromptEncoderConfig(num_virtual_tokens=3, token_dim=4, encoder_hidden_size=6, **more)


def test_p_tuning_by_an_mlp():
    encoder = p_tuning.PromptEncoder(encoder_config())
    assert encoder.lstm_head is None and layers(encoder.mlp_head) == [
        "Linear",
        "ReLU",
        "Linear",
        "ReLU",
        "Linear",
    ]
    assert [layer.in_features for layer in encoder.mlp_head[::2]] == [4, 6, 6]
    assert torch.equal(encoder(torch.tensor([[2]]))[0], encoder.mlp_head(encoder.embedding.weight[2:]))


def test_p_tuning_by_an_lstm():
    encoder = p_tuning.PromptEncoder(encoder_config(encoder_reparameterization_type="LSTM"))
    assert layers(encoder.mlp_head) == ["Linear", "ReLU", "Linear"] and encoder.mlp_head[0].in_features == 12
    indices = torch.arange(3)[None]
    assert torch.equal(encoder(indices), encoder.mlp_head(encoder.lstm_head(encoder.embedding(indices))[0]))


@pytest.mark.parametrize("kind", ["MLP", "LSTM"])
def test_p_tuning_for_inference_is_a_table(kind):
    encoder = p_tuning.PromptEncoder(
        encoder_config(inference_mode=True, encoder_reparameterization_type=kind)
    )
    assert list(encoder.state_dict()) == ["embedding.weight"]
    assert torch.equal(encoder(torch.arange(3)), encoder.embedding.weight)


# --- prefix tuning ---------------------------------------------------------------------------------------------


def prefix_config(**more):
    return PrefixTuningConfig(
        num_virtual_tokens=3, token_dim=4, num_layers=2, num_attention_heads=2, encoder_hidden_size=6, **more
    )


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("init_weights", [None, "zero"])
def test_prefix_encoder(projection, inference, init_weights):
    encoder = prefix.PrefixEncoder(
        prefix_config(prefix_projection=projection, inference_mode=inference, init_weights=init_weights)
    )
    rows = encoder(torch.arange(3))
    assert rows.shape == (3, 16) and bool(rows.any()) == (init_weights is None)
    if projection and not inference:
        assert encoder.embedding.weight.shape == (3, 4) and encoder.embedding.weight.any()
        assert torch.equal(rows, encoder.transform(encoder.embedding.weight))
    else:
        assert encoder.transform is None and torch.equal(rows, encoder.embedding.weight)


def test_prefix_rows_become_keys_and_values():
    rows = torch.arange(5 * 3 * 16.0).view(5, 3, 16)
    key_values = prefix.split_key_values(rows, prefix_config())
    assert key_values.shape == (2, 2, 5, 2, 3, 2)
    assert torch.equal(key_values[1, 0, 4, 1, 2], rows[4, 2, 10:12])  # layer 1, keys, row 4, head 1, token 2
    from transformers import LlamaConfig

    cache = prefix.to_cache(key_values, prefix_layout(LAYERS := LlamaConfig(num_hidden_layers=2)), LAYERS)
    assert cache.get_seq_length() == 3
    for layer, kept in zip(key_values, cache.layers):
        assert torch.equal(layer[0], kept.keys) and torch.equal(layer[1], kept.values)


def test_prefix_is_exchanged_at_each_layers_first_update():
    """Behind the padding: other columns in each row, in the first update of a layer alone; then the cache is an
    ordinary one."""
    from transformers import LlamaConfig

    key_values = torch.arange(2 * 2 * 2 * 2 * 3 * 2.0).view(2, 2, 2, 2, 3, 2) + 1
    columns = BehindPadding(torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]), 3).columns
    cache = prefix.to_cache(
        key_values, prefix_layout(LAYERS := LlamaConfig(num_hidden_layers=2)), LAYERS, columns=columns
    )
    assert cache.get_seq_length() == 0
    new, later = torch.zeros(2, 2, 7, 2), -torch.ones(2, 2, 1, 2)
    first = cache.update(new, new, 0)
    cache.update(later, later, 0)
    assert "update" in vars(cache)  # the second layer still waits
    cache.update(new, new, 1)
    assert "update" not in vars(cache) and not new.any()
    for i, layer in enumerate(cache.layers):
        for kept, own in zip((layer.keys, layer.values), key_values[i]):
            assert torch.equal(kept[0, :, 2:5], own[0]) and torch.equal(kept[1, :, :3], own[1])
            assert not kept[0, :, :2].any() and not kept[0, :, 5:7].any() and not kept[1, :, 3:7].any()
    assert torch.equal(cache.layers[0].keys[:, :, 7:], later) and torch.equal(
        first[0], cache.layers[0].keys[:, :, :7]
    )


# --- multitask prompt tuning -----------------------------------------------------------------------------------


def multitask_config(tasks=2, **more):
    return MultitaskPromptTuningConfig(
        num_virtual_tokens=3, token_dim=4, num_tasks=tasks, num_ranks=2, **more
    )


SOURCE = {
    "prompt_embeddings": torch.full((3, 4), 7.0),
    "prefix_task_cols": torch.stack([torch.full((3, 2), 1.0), torch.full((3, 2), 5.0)]),
    "prefix_task_rows": torch.stack([torch.full((2, 4), 2.0), torch.full((2, 4), 8.0)]),
}


@pytest.fixture
def source(tmp_path):
    "Writes tensors to a file of the kind that its name says."

    def write(tensors=SOURCE, name="source.safetensors"):
        from safetensors.torch import save_file

        path = str(tmp_path / name)
        save_file(tensors, path) if name.endswith(".safetensors") else torch.save(tensors, path)
        return path

    return write


@pytest.mark.parametrize("name", ["source.safetensors", "source.bin"])
def test_multitask_reads_both_kinds_of_files(source, name):
    read = read_state_dict(source(name=name))
    assert read.keys() == SOURCE.keys() and all(torch.equal(read[k], SOURCE[k]) for k in SOURCE)


def test_multitask_unpickles_tensors_only(tmp_path):
    torch.save({"prompt_embeddings": types.SimpleNamespace()}, tmp_path / "source.bin")
    with pytest.raises(ValueError, match="source.bin cannot be read; .*UnpicklingError"):
        read_state_dict(str(tmp_path / "source.bin"))


@pytest.mark.parametrize("start", ["ONLY_SOURCE_SHARED", "AVERAGE_SOURCE_TASKS"])
def test_a_source_that_cannot_be_read_is_named(words, tmp_path, start):
    def begin(path):
        named = dict(prompt_tuning_init=start, prompt_tuning_init_state_dict_path=str(path))
        return multitask.MultitaskPromptEmbedding(multitask_config(1, **named), words)

    torch.save(SOURCE | dict(epoch=3), tmp_path / "training.bin")  # with what is no tensor besides
    assert torch.equal(begin(tmp_path / "training.bin").embedding.weight, SOURCE["prompt_embeddings"])
    torch.save(list(SOURCE.values()), tmp_path / "list.bin")
    with pytest.raises(ValueError, match="list.bin does not hold tensors by name"):
        begin(tmp_path / "list.bin")
    for name in "cut.safetensors", "cut.bin":
        (tmp_path / name).write_bytes(b"PK")
        with pytest.raises(ValueError, match=f"{name} cannot be read; it may be damaged"):
            begin(tmp_path / name)
        with pytest.raises(FileNotFoundError, match="nowhere"):
            begin(tmp_path / f"nowhere{name}")


STARTS = {"ONLY_SOURCE_SHARED": None, "AVERAGE_SOURCE_TASKS": (3.0, 5.0), "EXACT_SOURCE_TASK": (5.0, 8.0)}


@pytest.mark.parametrize("start", STARTS)
def test_multitask_starts_from_other_tasks(words, source, start):
    shared_only = start == "ONLY_SOURCE_SHARED"
    more = dict(
        prompt_tuning_init=start, prompt_tuning_init_task=1, prompt_tuning_init_state_dict_path=source()
    )
    encoder = multitask.MultitaskPromptEmbedding(multitask_config(2 if shared_only else 1, **more), words)
    assert torch.equal(encoder.embedding.weight, SOURCE["prompt_embeddings"])
    found = [encoder.prefix_task_cols.unique().tolist(), encoder.prefix_task_rows.unique().tolist()]
    if shared_only:
        assert [len(values) for values in found] == [12, 16]  # random
    else:
        assert found == [[value] for value in STARTS[start]]


def test_multitask_at_random_reads_no_file(words):
    encoder = multitask.MultitaskPromptEmbedding(multitask_config(), words)
    assert is_random(encoder.embedding.weight)
    inference = multitask_config(
        1,
        prompt_tuning_init="EXACT_SOURCE_TASK",
        prompt_tuning_init_state_dict_path="/nowhere",
        inference_mode=True,
    )
    assert is_random(multitask.MultitaskPromptEmbedding(inference, words).embedding.weight)


@pytest.mark.parametrize(
    "start, tasks, task, drop, message",
    [
        (
            "ONLY_SOURCE_SHARED",
            2,
            0,
            ["prompt_embeddings"],
            "has no prompt_embeddings; it has prefix_task_cols",
        ),
        (
            "AVERAGE_SOURCE_TASKS",
            1,
            0,
            ["prefix_task_cols", "prefix_task_rows"],
            "has no prefix_task_cols, prefix_task_rows;",
        ),
        ("AVERAGE_SOURCE_TASKS", 2, 0, [], "begins one task, but num_tasks=2"),
        ("EXACT_SOURCE_TASK", 1, 2, [], "the file has 2 tasks"),
    ],
)
def test_multitask_refuses_a_source(words, source, start, tasks, task, drop, message):
    path = source({k: v for k, v in SOURCE.items() if k not in drop})
    config = multitask_config(
        tasks, prompt_tuning_init=start, prompt_tuning_init_task=task, prompt_tuning_init_state_dict_path=path
    )
    with pytest.raises(ValueError, match=message):
        multitask.MultitaskPromptEmbedding(config, words)


def test_multitask_needs_no_tasks_of_the_source_for_the_shared_prompt(words, source):
    path = source({"prompt_embeddings": SOURCE["prompt_embeddings"]})
    encoder = multitask.MultitaskPromptEmbedding(
        multitask_config(prompt_tuning_init="ONLY_SOURCE_SHARED", prompt_tuning_init_state_dict_path=path),
        words,
    )
    assert torch.equal(encoder.embedding.weight, SOURCE["prompt_embeddings"])


def test_multitask_refuses_other_shapes(words, source):
    path = source({**SOURCE, "prefix_task_rows": torch.zeros(2, 2, 5)})
    config = multitask_config(
        1, prompt_tuning_init="EXACT_SOURCE_TASK", prompt_tuning_init_state_dict_path=path
    )
    with pytest.raises(
        ValueError,
        match=r"prefix_task_rows: the file's prompts give \[1, 2, 5\], but the configuration makes it \[1, 2, 4\]",
    ):
        multitask.MultitaskPromptEmbedding(config, words)


def test_a_start_that_is_set_later_is_refused_in_words_too(source):
    config = ours.MultitaskPromptTuningConfig(num_virtual_tokens=2, num_tasks=2, task_type="CAUSAL_LM")
    config.prompt_tuning_init, config.prompt_tuning_init_state_dict_path = "AVERAGE_SOURCE_TASKS", source()
    with pytest.raises(ValueError, match="'AVERAGE_SOURCE_TASKS' begins one task, but num_tasks=2"):
        ours.get_peft_model(ours.tiny_random("llama"), config)


def test_multitask_prompts_are_products(words):
    encoder = multitask.MultitaskPromptEmbedding(multitask_config(), words)
    prompts = encoder(torch.arange(3).expand(2, -1), torch.tensor([1, 0]))
    for row, task in enumerate([1, 0]):
        factors = encoder.prefix_task_cols[task] @ encoder.prefix_task_rows[task]
        torch.testing.assert_close(
            prompts[row], encoder.embedding.weight * factors
        )  # one product, or one of many


@pytest.mark.parametrize("tasks", [[0, 1, 2], [2, 2, 2], [0, 0, 0]])
def test_good_task_ids(tasks):
    multitask.check_task_ids(torch.tensor(tasks), 3, 3)


@pytest.mark.parametrize(
    "tasks, message",
    [
        (None, "pass task_ids, a tensor of 3 numbers from 0 to 2"),
        (torch.tensor([0, 1]), r"shape \[2\]"),
        (torch.tensor([[0, 1, 2]]), r"shape \[1, 3\]"),
        (torch.tensor([0.0, 1, 2]), "must be integers"),
        (torch.tensor([True, False, True]), "must be integers"),
        (torch.tensor([0, 1, -1]), "from 0 to 2"),
        (torch.tensor([0, 1, 3]), "from 0 to 2"),
    ],
)
def test_bad_task_ids(tasks, message):
    with pytest.raises(ValueError, match=message):
        multitask.check_task_ids(tasks, 3, 3)


# --- CPT -------------------------------------------------------------------------------------------------------


def cpt_config(kinds=(1, 2, 3, 4), token_dim=2048, **more):
    config = CPTConfig(
        task_type="CAUSAL_LM",
        cpt_token_ids=list(range(1, len(kinds) + 1)),
        cpt_tokens_type_mask=list(kinds),
        **more,
    )
    config.token_dim = token_dim
    return config


def test_kinds():
    found = {kind: cpt.is_kind(torch.arange(9), kind).nonzero().flatten().tolist() for kind in (1, 2, 3, 4)}
    assert found == {1: [1, 5], 2: [2, 6], 3: [3, 7], 4: [4, 8]}  # and 0 is none of them


def test_cpt_starts_from_its_tokens_and_moves(words):
    encoder = cpt.CPTEmbedding(cpt_config(token_dim=4), words.to(torch.bfloat16))
    assert (
        encoder.embedding.weight[:, 0].tolist() == [1, 2, 3, 4]
        and encoder.embedding.weight.dtype == torch.float32
    )
    assert not encoder.embedding.weight.requires_grad
    encoder(torch.arange(4)).sum().backward()
    assert encoder.delta_embedding.weight.grad.any(dim=1).tolist() == [
        True,
        True,
        True,
        False,
    ]  # answers stay


def test_cpt_for_inference_is_a_table(words):
    encoder = cpt.CPTEmbedding(cpt_config(token_dim=4, inference_mode=True), words)
    assert is_random(encoder.embedding.weight)
    encoder.delta_embedding.weight.data += 1
    assert (
        torch.equal(encoder(torch.arange(4)), encoder.embedding.weight)
        and encoder.delta_embedding.weight.eq(1).all()
    )


def test_cpt_limits(words):
    config = cpt_config(
        (0, 1, 2, 3, 4, 5, 6), 4, opt_projection_epsilon=0.5, opt_projection_format_epsilon=0.25
    )
    encoder = cpt.CPTEmbedding(config, words)
    scale = (4 / 2048) ** 0.5
    torch.testing.assert_close(
        encoder.limits(),
        torch.tensor([1e-10, 0.25 * scale, 0.5 * scale, 0.25 * scale, 1e-10, 0.25 * scale, 0.5 * scale]),
    )
    encoder.delta_embedding.weight.data += 1
    encoder.delta_embedding.weight.data[2] = torch.tensor([0.001, 0, 0, 0])
    encoder.project()
    torch.testing.assert_close(
        encoder.delta_embedding.weight.norm(dim=1),
        torch.cat((encoder.limits()[:2], torch.tensor([0.001]), encoder.limits()[3:])),
    )


@pytest.mark.parametrize("token, good", [(0, True), (9, True), (-1, False), (10, False)])
def test_cpt_tokens_must_be_words(words, token, good):
    config = cpt_config((1,))
    config.cpt_token_ids = [token]
    if good:
        assert cpt.token_ids(config, words).tolist() == [token]
    else:
        with pytest.raises(ValueError, match=f"from 0 to 9, but there is {token}"):
            cpt.token_ids(config, words)


def test_cpt_types_of_the_input_come_after_those_of_the_examples():
    given = torch.tensor([[0, 1, 4], [2, 0, 8]])
    extended = cpt.extend_types(given, cpt_config(), (2, 3), InFront().insert)
    assert extended.tolist() == [[1, 2, 3, 4, 0, 5, 8], [1, 2, 3, 4, 6, 0, 12]]
    for batch_size, length in (1, 3), (2, 4):
        with pytest.raises(
            ValueError, match=rf"it must hold a type for each token, \[{batch_size}, {length}\]"
        ):
            cpt.extend_types(given, cpt_config(), (batch_size, length), InFront().insert)


def test_cpt_labels_are_answers():
    kinds = torch.tensor([[1, 2, 3, 4, 5, 8, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cpt.answers_only(
            torch.tensor([[7, 8, 9]]), kinds, cpt_config(), InFront().insert
        ).tolist() == [[-100, -100, -100, 4, -100, 8, -100]]


@pytest.mark.parametrize(
    "kinds, reason",
    [((1, 2, 4), "no label stands where the type is an answer"), ((1, 2, 3), "3 is not a multiple of 4")],
)
def test_cpt_warns_when_no_label_is_left(kinds, reason):
    "A label at the first place of all does not count: nothing comes before it that could predict it."
    with pytest.warns(UserWarning, match=f"CPT: no label is left.*{reason}"):
        cpt.answers_only(
            torch.tensor([[7, 8]]), torch.tensor([[4, 2, 3, 0, 0]]), cpt_config(kinds), InFront().insert
        )


def test_cpt_weights_of_answers():
    kinds = torch.tensor([[0, 4, 4, 5, 8, 9, 12], [4, 3, 1, 12, 12, 2, 2], [1, 1, 1, 2, 2, 3, 3]])
    assert cpt.decay(kinds, 0.5).tolist() == [[1, 0.25, 0.25, 1, 0.5, 1, 1], [0.5, 1, 1, 1, 1, 1, 1], [1] * 7]
    assert cpt.decay(kinds[:1], 0).tolist() == [[1, 0, 0, 1, 0, 1, 1]]


@pytest.mark.parametrize("how", ["none", "decay"])
def test_cpt_loss(how):
    torch.manual_seed(0)
    logits, labels, kinds = (
        torch.randn(1, 4, 6),
        torch.tensor([[-100, 3, -100, 5]]),
        torch.tensor([[3, 4, 5, 8]]),
    )
    config = cpt_config(opt_weighted_loss_type=how, opt_loss_decay_factor=0.5)
    first, last = (-logits[0, i].log_softmax(-1)[label] for i, label in ((0, 3), (2, 5)))
    expected = (first * (0.5 if how == "decay" else 1) + last) / 2
    torch.testing.assert_close(cpt.cpt_loss(logits, labels, kinds, config), expected)
    output = types.SimpleNamespace(loss=None, logits=logits)
    assert cpt.with_cpt_loss(output, labels, kinds, config) is output
    torch.testing.assert_close(output.loss, expected)
    loss, *rest = cpt.with_cpt_loss((torch.tensor(0.0), logits, "the rest"), labels, kinds, config)
    torch.testing.assert_close(loss, expected)
    assert rest[0] is logits and rest[1] == "the rest"
