"""What is special to one method, and agrees with Hugging Face peft too: LoRA's, IA3's and the prompts'
settings, where a soft prompt starts, tasks, types of tokens; and mistakes, which are told.

Where peft itself goes wrong, a test says so and asserts what is right. What all methods share is in
test_parity; AdaLoRA and POLY have files of their own."""
# lane: reference

import copy

import pytest
import torch

import peft_viz.reference.causal_lm as ours
import peft_viz.reference.config as our_config
from parity import (
    assert_equal,
    assert_repeats,
    base_model,
    batch,
    CLM,
    config,
    extra,
    gradients,
    GREEDY,
    OLD_PEFT,
    pair,
    peft,
    share_random_weights,
    some_families,
    TASKS,
    VOCABULARY,
    wrap,
)
from small import OTHERS

pytestmark = pytest.mark.usefixtures("quiet_and_single")

MORE_METHODS = [
    "ia3",
    "p-tuning",
    "p-tuning-lstm",
    "cpt",
    "cpt-decay",
    "multitask",
]  # the others are in test_reference, test_adalora and test_poly


@pytest.mark.parametrize("family", OTHERS)
@pytest.mark.parametrize("method", MORE_METHODS)
def test_other_families_train_and_generate(family, method):
    "Every adapter parameter gets a gradient, and a text is what one pass over it says."
    model = ours.get_peft_model(base_model(family), config(our_config, method)).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    task = {k: v[:1] for k, v in extra(method).items()}
    model(ids, labels=ids, **task).loss.backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert trained and all(p.grad is not None and p.grad.any() for p in trained.values())
    with torch.no_grad():
        text = model.generate(ids, **task, **GREEDY)
        logits = model(text[:, :-1], **task).logits[:, -5:]
    assert torch.equal(logits.argmax(-1), text[:, -5:])


# --- LoRA's settings ------------------------------------------------------------------------------------------

LORA_SETTINGS = {
    "all-linear": dict(target_modules="all-linear"),
    "regular expression": dict(target_modules=r".*\.1\..*(c_attn|q_proj|fc1)"),
    "some layers": dict(target_modules=["c_attn", "q_proj"], layers_to_transform=[0]),
    "one layer of a named list": dict(
        target_modules=["c_attn", "q_proj"], layers_to_transform=1, layers_pattern=["h", "layers"]
    ),
    "excluded": dict(target_modules="all-linear", exclude_modules=["c_proj", "v_proj"]),
    "rslora": dict(use_rslora=True),
    "patterns": dict(rank_pattern={"0.*(c_attn|q_proj)": 5}, alpha_pattern={"c_attn": 7, "v_proj": 2}),
    "bias all": dict(bias="all"),
    "bias lora_only": dict(bias="lora_only"),
    "gaussian": dict(init_lora_weights="gaussian"),
    "random": dict(init_lora_weights=False),
    "dropout": dict(lora_dropout=0.3),
    "modules to save": dict(modules_to_save=["lm_head"]),
    "inference": dict(inference_mode=True),
}


@some_families
@pytest.mark.parametrize("setting", LORA_SETTINGS)
def test_lora_settings(family, setting):
    theirs, ours_ = wrap(base_model(family), "lora", seed=6, **LORA_SETTINGS[setting])
    assert_equal(dict(theirs.named_parameters()), dict(ours_.named_parameters()))
    assert [p.requires_grad for p in theirs.parameters()] == [p.requires_grad for p in ours_.parameters()]
    share_random_weights(theirs, ours_)
    outputs = []
    for model in theirs.train(), ours_.train():
        torch.manual_seed(7)
        outputs.append(model(**batch("left")))
        if setting != "inference":
            outputs[-1].loss.backward()
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    assert_equal(gradients(theirs), gradients(ours_))


# --- where a soft prompt starts -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(
        models.WordLevel(
            {"[UNK]": 0, **{w: i for i, w in enumerate("put the words in order please".split(), 5)}},
            unk_token="[UNK]",
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)
    return str(folder)


@some_families
@pytest.mark.parametrize("start", ["RANDOM", "SAMPLE_VOCAB", "TEXT shorter", "TEXT longer"])
def test_soft_prompt_starts(family, start, tokenizer_folder):
    settings = dict(prompt_tuning_init=start.split()[0])
    if start.startswith("TEXT"):
        text = "put the words" if start.endswith("shorter") else "put the words in order please"
        settings.update(
            prompt_tuning_init_text=text,
            tokenizer_name_or_path=tokenizer_folder,
            tokenizer_kwargs=dict(padding_side="left"),
        )
    theirs, ours_ = wrap(base_model(family), "prompt", seed=9, **settings)
    weight = ours_.prompt_encoder["default"].embedding.weight
    assert torch.equal(theirs.prompt_encoder["default"].embedding.weight, weight)
    if start == "TEXT shorter":
        assert torch.equal(weight, ours_.word_embeddings(torch.tensor([5, 6, 7, 5])))
    elif start == "SAMPLE_VOCAB":
        assert all((ours_.word_embeddings.weight == row).all(dim=1).any() for row in weight)
    assert torch.equal(theirs(**batch("left")).logits, ours_(**batch("left")).logits)


@pytest.mark.skipif(OLD_PEFT, reason="old peft has no init_weights")
def test_prefix_that_starts_at_zero():
    for projection in False, True:
        theirs, ours_ = wrap(
            base_model("llama"), "prefix", seed=10, init_weights="zero", prefix_projection=projection
        )
        assert_equal(dict(theirs.named_parameters()), dict(ours_.named_parameters()))
        assert not ours_.get_prompt(batch_size=1).layers[0].keys.any()


def test_projection_is_left_out_for_inference():
    theirs, ours_ = pair("llama", "prefix-projection", inference_mode=True)
    assert list(ours_.prompt_encoder["default"].state_dict()) == ["embedding.weight"]
    assert torch.equal(theirs(**batch("left")).logits, ours_(**batch("left")).logits)


# --- IA3 -------------------------------------------------------------------------------------------------------

IA3_SETTINGS = {
    "all-linear": dict(target_modules="all-linear", feedforward_modules=[]),
    "regular expressions": dict(
        target_modules=r".*\.1\..*(c_attn|c_fc|q_proj|v_proj|fc1)", feedforward_modules=r".*(c_fc|fc1|v_proj)"
    ),
    "every layer at its input": dict(
        target_modules=["c_attn", "q_proj"], feedforward_modules=["c_attn", "q_proj"]
    ),
    "excluded": dict(exclude_modules=["mlp.c_proj", "down_proj", "fc2"]),
    "random": dict(init_ia3_weights=False),
    "modules to save": dict(modules_to_save=["lm_head"]),
    "inference": dict(inference_mode=True),
}


@some_families
@pytest.mark.parametrize("setting", IA3_SETTINGS)
def test_ia3_settings(family, setting):
    theirs, ours_ = wrap(base_model(family), "ia3", seed=6, **IA3_SETTINGS[setting])
    assert_equal(dict(theirs.named_parameters()), dict(ours_.named_parameters()))
    assert [p.requires_grad for p in theirs.parameters()] == [p.requires_grad for p in ours_.parameters()]
    share_random_weights(theirs, ours_)
    outputs = [model.train()(**batch("left")) for model in (theirs, ours_)]
    if setting != "inference":
        for output in outputs:
            output.loss.backward()
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    assert_equal(gradients(theirs), gradients(ours_))


def test_two_ia3_adapters_at_once():
    theirs, ours_ = wrap(base_model("gpt2"), "ia3")
    for model, package in (theirs, peft), (ours_, our_config):
        model.add_adapter(
            "other", package.IA3Config(target_modules=["c_attn", "c_fc"], feedforward_modules=["c_fc"])
        )
    share_random_weights(theirs, ours_)
    for model in theirs, ours_:
        model.base_model.set_adapter(["default", "other"])
    assert torch.equal(theirs(**batch()).logits, ours_(**batch()).logits)


@some_families
@pytest.mark.parametrize("cast", [True, False])
def test_ia3_around_bfloat16(family, cast):
    base = base_model(family).to(torch.bfloat16)
    theirs = peft.get_peft_model(copy.deepcopy(base), peft.IA3Config(**CLM), autocast_adapter_dtype=cast)
    mine = ours.get_peft_model(copy.deepcopy(base), our_config.IA3Config(**CLM), autocast_adapter_dtype=cast)
    assert {p.dtype for n, p in mine.named_parameters() if "ia3_" in n} == {
        torch.float32 if cast else torch.bfloat16
    }
    assert_equal(dict(theirs.named_parameters()), dict(mine.named_parameters()))
    for parameter in mine.parameters():
        if parameter.requires_grad:
            parameter.data = (
                torch.linspace(0.5, 1.5, parameter.numel()).view_as(parameter).to(parameter.dtype)
            )
    theirs.load_state_dict(mine.state_dict())
    assert torch.equal(theirs(**batch("left")).logits, mine(**batch("left")).logits)


def test_ia3_mistakes():
    with pytest.raises(ValueError, match="fc2 is not in target_modules"):
        our_config.IA3Config(target_modules=["q_proj"], feedforward_modules=["fc2"])
    base = base_model("llama")
    before = list(base.state_dict())
    with pytest.raises(ValueError, match="IA3 adapts nn.Linear.*narrow target_modules down"):
        ours.get_peft_model(base, our_config.IA3Config(**CLM, target_modules=".*norm"))
    with pytest.raises(ValueError, match="'query' match no module.*q_proj"):
        ours.get_peft_model(base, our_config.IA3Config(**CLM, target_modules=["query"]))
    assert list(base.state_dict()) == before and all(p.requires_grad for p in base.parameters())
    model = ours.get_peft_model(base, our_config.IA3Config(**CLM))
    names = list(model.state_dict())
    with pytest.raises(ValueError, match="rescaled at its input by another adapter"):
        model.add_adapter("other", our_config.IA3Config(feedforward_modules=[]))
    with pytest.raises(ValueError, match="adapter_names work with LoRA only"):
        model(**batch(), adapter_names=["default"] * 3)
    assert list(model.state_dict()) == names and list(model.peft_config) == ["default"]


def test_no_default_targets_for_ia3():
    with pytest.raises(ValueError, match="pass target_modules and feedforward_modules.*0, 2"):
        ours.get_peft_model(
            torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)),
            our_config.IA3Config(),
        )


def test_layers_for_ia3_that_are_given_are_not_looked_up():
    base = torch.nn.Sequential(
        torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)
    )  # nothing to be found here
    model = ours.get_peft_model(
        base, our_config.IA3Config(target_modules=["0", "2"], feedforward_modules=["2"])
    ).base_model.model
    assert [model[i].is_feedforward for i in (0, 2)] == [False, True]


# --- P-tuning --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 3])
def test_lstm_layers_and_dropout(layers):
    dropout = dict(encoder_dropout=0.4) if layers > 1 else {}
    theirs, ours_ = pair("llama", "p-tuning-lstm", encoder_num_layers=layers, **dropout)
    given, outputs = batch("left"), []
    for model, seed in (theirs.train(), 7), (ours_.train(), 7), (ours_, 8):
        torch.manual_seed(seed)
        outputs.append(model(**given).logits)
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[1], outputs[2]) == (layers == 1)  # dropout is between layers


@pytest.mark.parametrize("method", ["p-tuning", "p-tuning-lstm"])
def test_a_prompt_encoder_for_inference_is_a_table(method):
    theirs, ours_ = wrap(base_model("llama"), method, inference_mode=True)
    share_random_weights(theirs, ours_)
    assert list(ours_.prompt_encoder["default"].state_dict()) == ["embedding.weight"]
    assert torch.equal(theirs(**batch("left")).logits, ours_(**batch("left")).logits)


def test_the_table_a_prompt_encoder_leaves_behind_is_its_output():
    _, model = pair("llama", "p-tuning-lstm")
    trained = model(**batch("left")).logits
    table = ours.get_peft_model(base_model("llama"), config(our_config, "p-tuning-lstm", inference_mode=True))
    table.prompt_encoder["default"].embedding.weight.data = model.get_prompt(batch_size=1)[0].detach()
    assert torch.equal(table(**batch("left")).logits, trained)


def test_p_tuning_width_is_the_models_where_none_is_given():
    theirs, ours_ = wrap(base_model("llama"), "p-tuning", encoder_hidden_size=None)
    assert ours_.active_peft_config.encoder_hidden_size == theirs.active_peft_config.encoder_hidden_size == 32


def test_p_tuning_mistakes():
    with pytest.raises(ValueError, match="'GRU' is not a PromptEncoderReparameterizationType.*MLP, LSTM"):
        our_config.PromptEncoderConfig(encoder_reparameterization_type="GRU")
    with pytest.warns(UserWarning, match="encoder_num_layers=3 has no effect"):
        our_config.PromptEncoderConfig(encoder_num_layers=3)
    with pytest.raises(ValueError, match="PromptEncoderConfig needs at least one virtual token"):
        ours.get_peft_model(base_model("llama"), our_config.PromptEncoderConfig(**CLM))


# --- multitask prompt tuning -----------------------------------------------------------------------------------


def test_each_row_gets_the_prompt_of_its_task():
    _, model = pair("llama", "multitask")
    together = model.get_prompt(3, task_ids=TASKS)
    for row, task in enumerate(TASKS):
        assert torch.equal(model.get_prompt(1, task_ids=task[None])[0], together[row])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize(
    "how",
    [dict(num_return_sequences=2, do_sample=True), dict(num_beams=2, num_return_sequences=2)],
    ids=["sampled-twice", "two-beams"],
)
def test_generate_repeats_task_ids_with_the_rows(how):
    results = []
    for model in pair("gpt2", "multitask"):
        torch.manual_seed(5)
        with torch.no_grad():
            results.append(
                model.eval().generate(**batch("left", labels=False), task_ids=TASKS, max_new_tokens=6, **how)
            )
    assert results[1].shape == (6, 13) and torch.equal(*results)


def test_a_multitask_prompt_starts_with_a_text(tokenizer_folder):
    text = dict(
        prompt_tuning_init="TEXT",
        prompt_tuning_init_text="put the words",
        tokenizer_name_or_path=tokenizer_folder,
    )
    theirs, ours_ = wrap(base_model("llama"), "multitask", seed=9, **text)
    assert torch.equal(
        ours_.prompt_encoder["default"].embedding.weight, ours_.word_embeddings(torch.tensor([5, 6, 7, 5]))
    )
    assert_equal(dict(theirs.named_parameters()), dict(ours_.named_parameters()))


@pytest.fixture(params=["safetensors", "bin"])
def source(request, tmp_path):
    "What was trained on three other tasks, as peft saves it."
    generator = torch.Generator().manual_seed(11)
    state = {"prompt_embeddings": (4, 32), "prefix_task_cols": (3, 4, 2), "prefix_task_rows": (3, 2, 32)}
    state = {name: torch.randn(shape, generator=generator) for name, shape in state.items()}
    path = tmp_path / f"adapter_model.{request.param}"
    if request.param == "safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    else:
        torch.save(state, path)
    return str(path)


@pytest.mark.parametrize(
    "init, tasks", [("AVERAGE_SOURCE_TASKS", 1), ("EXACT_SOURCE_TASK", 1), ("ONLY_SOURCE_SHARED", 5)]
)
def test_prompts_that_begin_with_other_tasks(source, init, tasks):
    start = dict(
        prompt_tuning_init=init,
        prompt_tuning_init_state_dict_path=source,
        prompt_tuning_init_task=2,
        num_tasks=tasks,
    )
    theirs, ours_ = wrap(base_model("llama"), "multitask", seed=12, **start)
    assert_equal(dict(theirs.named_parameters()), dict(ours_.named_parameters()))
    state = (
        torch.load(source)
        if source.endswith("bin")
        else __import__("safetensors.torch").torch.load_file(source)
    )
    assert torch.equal(ours_.prompt_encoder["default"].embedding.weight, state["prompt_embeddings"])


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(prompt_tuning_init="AVERAGE_SOURCE_TASKS", num_tasks=2), "one task.*num_tasks=2"),
        (
            dict(prompt_tuning_init="EXACT_SOURCE_TASK", prompt_tuning_init_task=3),
            "prompt_tuning_init_task=3.*3 tasks",
        ),
        (
            dict(prompt_tuning_init="ONLY_SOURCE_SHARED", num_virtual_tokens=5),
            r"prompt_embeddings.*\[4, 32\].*\[5, 32\]",
        ),
        (
            dict(prompt_tuning_init="AVERAGE_SOURCE_TASKS", num_ranks=3),
            r"prefix_task_cols.*\[1, 4, 2\].*\[1, 4, 3\]",
        ),
    ],
)
def test_prompts_of_other_tasks_that_do_not_fit(source, fields, message):
    fields = {"num_tasks": 1, **fields}
    base = base_model("llama")
    with pytest.raises(ValueError, match=message):
        ours.get_peft_model(
            base, config(our_config, "multitask", prompt_tuning_init_state_dict_path=source, **fields)
        )
    assert all(p.requires_grad for p in base.parameters())


def test_a_file_without_prompts(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.bin")
    with pytest.raises(ValueError, match="other.bin.*has no prompt_embeddings.*weight"):
        ours.get_peft_model(
            base_model("llama"),
            config(
                our_config,
                "multitask",
                prompt_tuning_init="ONLY_SOURCE_SHARED",
                prompt_tuning_init_state_dict_path=str(tmp_path / "other.bin"),
            ),
        )


@pytest.mark.parametrize(
    "task_ids, message",
    [
        (None, "needs to know each row's task.*task_ids"),
        (torch.tensor([0, 1]), r"shape \[2\].*one task id for each of the 3 rows"),
        (torch.tensor([0, 1, 3]), "from 0 to 2"),
        (torch.tensor([0, -1, 2]), "from 0 to 2"),
        (torch.tensor([0.0, 1.0, 2.0]), "integers"),
    ],
)
def test_task_ids_that_do_not_fit(task_ids, message):
    _, model = pair("llama", "multitask")
    with pytest.raises(ValueError, match=message):
        model(**batch(), task_ids=task_ids)
    with pytest.raises(ValueError, match=message):
        model.generate(**batch(labels=False), task_ids=task_ids, **GREEDY)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(num_tasks=0), "num_tasks=0.*at least 1"),
        (dict(num_ranks=1.5), "num_ranks=1.5"),
        (
            dict(prompt_tuning_init="SAMPLE_VOCAB"),
            "'SAMPLE_VOCAB' is not a MultitaskPromptTuningInit.*EXACT_SOURCE_TASK",
        ),
        (
            dict(prompt_tuning_init="EXACT_SOURCE_TASK"),
            "prompt_tuning_init_state_dict_path must name their file",
        ),
        (dict(prompt_tuning_init="TEXT"), "needs tokenizer_name_or_path"),
    ],
)
def test_multitask_settings(fields, message):
    with pytest.raises(ValueError, match=message):
        our_config.MultitaskPromptTuningConfig(num_virtual_tokens=2, **fields)


# --- CPT -------------------------------------------------------------------------------------------------------


def cpt_pair(method="cpt-decay", family="llama"):
    return pair(family, method)


TYPES = torch.tensor([[0, 0, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 4, 4], [1, 2, 2, 2, 3, 4, 4]])


@some_families
@pytest.mark.parametrize("method", ["cpt", "cpt-decay"])
@pytest.mark.parametrize("inputs", ["input_ids", "inputs_embeds"])
def test_given_types(family, method, inputs):
    results = []
    for model in cpt_pair(method, family):
        embed = model.get_input_embeddings() if inputs == "inputs_embeds" else None
        types = TYPES.clone()
        output = model(**batch("left", embed=embed), input_type_mask=types)
        output.loss.backward()
        results.append((output, gradients(model), types))
    assert torch.equal(results[0][0].loss, results[1][0].loss) and torch.equal(
        results[0][0].logits, results[1][0].logits
    )
    assert_equal(results[0][1], results[1][1])
    assert torch.equal(results[1][2], TYPES) and not torch.equal(
        results[0][2], TYPES
    )  # peft writes to the caller's mask


def test_types_without_labels():
    theirs, ours_ = [
        model(**batch("left", labels=False), input_type_mask=TYPES.clone()) for model in cpt_pair()
    ]
    assert torch.equal(theirs.logits, ours_.logits) and ours_.loss is None


@pytest.mark.parametrize("method", ["cpt", "cpt-decay"])
def test_the_loss_of_cpt_in_16_bits(method):
    "The mean is taken in 32 bits."
    losses = [m.bfloat16()(**batch("right"), input_type_mask=TYPES.clone()).loss for m in cpt_pair(method)]
    assert losses[1].dtype is torch.float32 and torch.equal(*losses)


def test_cpt_labels_are_the_answers():
    _, model = cpt_pair()
    told = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: told.append(kwargs["labels"]), with_kwargs=True
    )
    labels = batch("ones")["labels"]
    model(**batch("ones"), input_type_mask=TYPES)
    front = torch.full((3, 9), -100)
    front[:, 4], front[:, 8] = 15, 19
    assert torch.equal(told[0], torch.cat((front, labels.masked_fill(TYPES != 4, -100)), dim=1))


def test_the_active_adapters_loss_counts():
    "peft takes the loss's settings from the adapter called 'default'."
    theirs, ours_ = wrap(base_model("llama"), "cpt")
    for model, package in (theirs, peft), (ours_, our_config):
        model.add_adapter("other", config(package, "cpt-decay"))
    share_random_weights(theirs, ours_)
    for model in theirs, ours_:
        model.set_adapter("other")
    a, b = theirs(**batch("left")), ours_(**batch("left"))
    assert torch.equal(a.logits, b.logits) and not torch.equal(a.loss, b.loss)
    theirs.peft_config["default"] = theirs.peft_config["other"]
    assert torch.equal(theirs(**batch("left")).loss, b.loss)


def test_tokens_may_move_only_so_far():
    _, model = cpt_pair()
    encoder = model.prompt_encoder["default"]
    with torch.no_grad():
        encoder.delta_embedding.weight.copy_(torch.randn(9, 32))
    model(**batch())
    norms, scale = encoder.delta_embedding.weight.norm(dim=1), (32 / 2048) ** 0.5
    expected = torch.tensor(
        [1e-10, 0.2 * scale, 0.9 * scale, 0.2 * scale, 1e-10, 0.2 * scale, 0.9 * scale, 0.2 * scale, 1e-10]
    )
    torch.testing.assert_close(norms, expected)


def test_answers_and_strangers_are_not_trained_not_even_in_a_copy():
    _, model = cpt_pair()
    for one in model, copy.deepcopy(model):
        one(**batch()).loss.backward()
        moved = one.prompt_encoder["default"].delta_embedding.weight.grad.any(dim=1)
        assert moved.tolist() == [False, True, True, True, False, True, True, True, False]


def test_cpt_for_inference_is_a_table():
    theirs, ours_ = pair("llama", "cpt", inference_mode=True)
    assert torch.equal(theirs(**batch("left")).logits, ours_(**batch("left")).logits)


def test_cpt_without_return_dict():
    _, model = cpt_pair()
    loss, logits, *_ = model(**batch("left"), return_dict=False)
    output = model(**batch("left"))
    assert_repeats("cpt", loss, output.loss)
    assert_repeats("cpt", logits, output.logits)


def test_no_answer_left():
    "peft's defaults shift every type by one, so that nothing counts and the loss is nan; here one is told."
    theirs, ours_ = [
        get(base_model("llama"), c(**CLM))
        for get, c in ((peft.get_peft_model, peft.CPTConfig), (ours.get_peft_model, our_config.CPTConfig))
    ]
    with pytest.warns(UserWarning, match="no label is left.*cpt_tokens_type_mask.*1 is not a multiple of 4"):
        loss = ours_(**batch()).loss
    assert theirs(**batch()).loss.isnan() and loss.isnan()


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(task_type=None), "pass task_type='CAUSAL_LM'"),
        (dict(cpt_token_ids=[], cpt_mask=[], cpt_tokens_type_mask=[]), "cpt_token_ids is empty"),
        (dict(cpt_tokens_type_mask=[1]), "cpt_token_ids 2, cpt_mask 2, cpt_tokens_type_mask 1"),
        (dict(cpt_mask=[1, 1, 1]), "cpt_mask 3"),
        (
            dict(cpt_tokens_type_mask=[1, -1]),
            r"cpt_tokens_type_mask=\[1, -1\]; it must be a list of whole numbers, at least 0",
        ),
        (dict(opt_weighted_loss_type="linear"), "'linear'.*'none' or 'decay'"),
    ],
)
def test_cpt_settings(fields, message):
    with pytest.raises(ValueError, match=message):
        our_config.CPTConfig(**{**CLM, "cpt_token_ids": [3, 4], **fields})


def test_cpt_mistakes():
    base = base_model("llama")
    with pytest.raises(ValueError, match="cpt_token_ids.*from 0 to 60.*61"):
        ours.get_peft_model(base, our_config.CPTConfig(**CLM, cpt_token_ids=[3, VOCABULARY]))
    assert all(p.requires_grad for p in base.parameters())
    _, model = cpt_pair()
    with pytest.raises(ValueError, match=r"input_type_mask has shape \[3, 6\].*\[3, 7\]"):
        model(**batch(), input_type_mask=TYPES[:, 1:])


def test_prompts_for_inference_will_be_loaded_so_the_source_is_not_read():
    settings = dict(
        prompt_tuning_init="ONLY_SOURCE_SHARED", prompt_tuning_init_state_dict_path="moved away.bin"
    )
    model = ours.get_peft_model(
        base_model("llama"), config(our_config, "multitask", inference_mode=True, **settings)
    )
    assert model(**batch(), task_ids=TASKS).logits.shape == (3, 11, VOCABULARY)
