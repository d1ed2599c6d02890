"""Training gives what Hugging Face peft gives: the same losses and the same adapter weights after the same
steps, in transformers' Trainer, in plain loops, with gradient checkpointing, under bfloat16 autocast, in two
processes. The frozen base model stays as it was, bit for bit."""
# lane: reference

import hashlib
import multiprocessing
import socket
from contextlib import nullcontext

import pytest
import torch
from transformers import default_data_collator, Trainer, TrainerCallback, TrainingArguments

import peft_viz.reference.causal_lm as ours
import peft_viz.reference.config as our_config
import train_two_processes
from peft_viz.reference.model import PeftModel
from parity import assert_as_peft, assert_equal, assert_repeats, base_model, gradients, PAD, VOCABULARY
from small import copies

pytestmark = pytest.mark.usefixtures("quiet_and_single")

peft = pytest.importorskip("peft")
STEPS = 6
PHASES = dict(tinit=1, tfinal=2, deltaT=1, total_step=STEPS)  # AdaLoRA prunes in the steps between
METHODS = {
    "lora": ("LoraConfig", dict(r=3, lora_dropout=0.2)),
    "adalora": ("AdaLoraConfig", dict(init_r=4, target_r=2, **PHASES)),
    "ia3": ("IA3Config", {}),
    "poly": ("PolyConfig", dict(r=3, n_tasks=3, n_skills=2)),
    "prefix": ("PrefixTuningConfig", dict(num_virtual_tokens=4)),
    "prompt": ("PromptTuningConfig", dict(num_virtual_tokens=4)),
    "p-tuning": ("PromptEncoderConfig", dict(num_virtual_tokens=4, encoder_hidden_size=24)),
    "multitask": ("MultitaskPromptTuningConfig", dict(num_virtual_tokens=4, num_tasks=3, num_ranks=2)),
    "cpt": (
        "CPTConfig",
        dict(cpt_token_ids=[5, 6, 7, 8], cpt_mask=[1, 1, 1, 1], cpt_tokens_type_mask=[1, 2, 3, 4]),
    ),
}
WITH_TASKS = ("poly", "multitask")
methods = pytest.mark.parametrize("method", METHODS)
CHECKPOINTED = [
    m for m in METHODS if m not in ("prefix", "poly")
]  # prefix tuning refuses it; POLY draws its coins again when it is computed again, see test_poly


def wrap_one(package, method, base=None):
    "peft's model, or ours, around the same base model, from the same seed."
    base = base_model("llama") if base is None else copies(base)()
    name, fields = METHODS[method]
    get_peft_model = peft.get_peft_model if package is peft else ours.get_peft_model
    torch.manual_seed(3)
    return get_peft_model(base, getattr(package, name)(task_type="CAUSAL_LM", **fields))


def wrap(method, base=None):
    return [wrap_one(package, method, base) for package in (peft, our_config)]


def examples(method, rows=12):
    "Rows for a Trainer: seven tokens, some of them padding on the left; a task where the method has tasks."
    torch.manual_seed(4)
    ids = torch.randint(3, VOCABULARY, (rows, 7))
    for row in range(0, rows, 3):
        ids[row, :2] = PAD
    data = dict(input_ids=ids, attention_mask=(ids != PAD).long(), labels=ids.masked_fill(ids == PAD, -100))
    if method in WITH_TASKS:
        data["task_ids"] = torch.arange(rows) % 3
    return [{name: values[row] for name, values in data.items()} for row in range(rows)]


def batches(method):
    return [default_data_collator(examples(method)[at : at + 4]) for at in (0, 4, 8)] * (STEPS // 3)


def trained(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def frozen(model):
    "A hash of everything that is not trained: parameters and buffers."
    kept = {name: p for name, p in [*model.named_parameters(), *model.named_buffers()] if not p.requires_grad}
    return {
        name: hashlib.sha256(p.detach().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, p in kept.items()
    }


class Prune(TrainerCallback):
    "AdaLoRA judges by gradients: it must be asked after each step, before they are forgotten."

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        model.base_model.update_and_allocate(state.global_step)


def trainer(model, method, folder, steps=STEPS, **more):
    settings = dict(
        save_strategy="no",
        logging_steps=1,
        max_steps=steps,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=1 if method == "cpt" else 2,  # (with more, peft makes its loss too large)
        learning_rate=0.05,
        seed=5,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    return Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(folder), **{**settings, **more}),
        train_dataset=examples(method),
        data_collator=default_data_collator,
        callbacks=[Prune()] if method == "adalora" else [],
    )


def losses(runner):
    return [
        (entry["step"], entry["loss"], entry["grad_norm"])
        for entry in runner.state.log_history
        if "loss" in entry
    ]


# --- transformers' Trainer ------------------------------------------------------------------------------------


@methods
def test_trainer(method, tmp_path):
    theirs, ours_ = wrap(method)
    before, base = trained(ours_), frozen(ours_)
    runs = []
    for model in theirs, ours_:  # one after the other: making a Trainer sets the seed
        runs.append(trainer(model, method, tmp_path))
        runs[-1].train()
    assert len(losses(runs[1])) == STEPS and losses(runs[0]) == losses(runs[1])
    assert_equal(trained(theirs), trained(ours_))
    assert all(
        not torch.equal(before[name], now) for name, now in trained(ours_).items() if must_move(name)
    ), "an adapter weight did not move"
    assert frozen(ours_) == base
    if method == "adalora":
        pattern = ours_.active_peft_config.rank_pattern
        assert pattern == theirs.active_peft_config.rank_pattern and sum(
            map(sum, pattern.values())
        ) == 2 * len(pattern)


def must_move(name):
    """All weights but two kinds: AdaLoRA may prune all of a layer's singular values back to zero; POLY's coins
    may leave tasks alone."""
    return "lora_E" not in name and "router" not in name


@methods
def test_what_a_trainer_saves_is_peft_s(method, tmp_path):
    theirs, ours_ = wrap(method)
    for model, folder in (theirs, "theirs"), (ours_, "ours"):
        trainer(model, method, tmp_path / folder, save_strategy="steps", save_steps=3).train()
    for step in 3, STEPS:
        assert not (tmp_path / "ours" / f"checkpoint-{step}" / "model.safetensors").exists()
        files = [
            (tmp_path / folder / f"checkpoint-{step}" / "adapter_model.safetensors").read_bytes()
            for folder in ("theirs", "ours")
        ]
        assert files[0] == files[1]
    loaded = PeftModel.from_pretrained(base_model("llama"), tmp_path / "ours" / f"checkpoint-{STEPS}").eval()
    batch = batches(method)[0]
    assert_repeats(method, loaded(**batch).logits, ours_.eval()(**batch).logits)


def test_a_plain_trainer_resumes(tmp_path):
    _, straight = wrap("lora")
    trainer(straight, "lora", tmp_path / "straight").train()
    _, first = wrap("lora")
    _, second = wrap("lora")
    trainer(
        first, "lora", tmp_path, lr_scheduler_type="constant", save_strategy="steps", save_steps=3
    ).train()
    run = trainer(second, "lora", tmp_path, lr_scheduler_type="constant")
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert run.state.global_step == STEPS
    assert_equal(trained(first), trained(second))
    assert not torch.equal(
        *[next(iter(trained(model).values())) for model in (straight, first)]
    )  # another schedule gives other weights


# --- plain loops ----------------------------------------------------------------------------------------------


def loop(model, method, autocast=False):
    "A plain loop with Adam; the losses."
    model.train()
    torch.manual_seed(6)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    seen = []
    for step, batch in enumerate(batches(method)):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        if method == "adalora":
            model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
        seen.append(loss.detach())
    return torch.stack(seen)


@methods
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16 autocast"])
def test_plain_loop(method, autocast):
    def run(package):
        model = wrap_one(package, method)
        before, base = trained(model), frozen(model)
        losses = loop(model, method, autocast)
        after = trained(model)
        assert frozen(model) == base and base
        assert any(not torch.equal(before[name], now) for name, now in after.items())
        return dict(losses=losses, **after)

    if autocast:
        assert_as_peft(run, lambda package: autocast_step(package, method))
    else:
        assert_equal(run(peft), run(our_config))


def autocast_step(package, method):
    "Loss, logits and gradients of one batch, under bfloat16 autocast."
    model = wrap_one(package, method)
    torch.manual_seed(7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model.train()(**batches(method)[0])
    output.loss.backward()
    return dict(loss=output.loss.detach(), logits=output.logits.detach(), **gradients(model))


@methods
def test_gradients_under_autocast(method):
    result = assert_as_peft(lambda package: autocast_step(package, method))
    assert result.pop("logits").dtype == torch.bfloat16 and result.pop("loss").isfinite()
    assert result and all(gradient.dtype == torch.float32 for gradient in result.values())


NOISE = 1e-4


@pytest.mark.parametrize(
    "peft_s_noise, our_noise, error, gradient_s_error, fails",
    [
        (0, 0, 0, 0, False),
        (0, 0, NOISE, 0, True),  # peft repeats itself, and ours is something else
        (0, NOISE, 0, 0, True),  # only ours does not repeat itself
        (NOISE, NOISE, 0, 0, False),  # a machine that does not repeat itself
        (NOISE, NOISE, 0, 0.1, True),  # there too, gradients are what they are
    ],
)
def test_the_comparison_in_bfloat16_can_fail(peft_s_noise, our_noise, error, gradient_s_error, fails):
    draw = torch.Generator().manual_seed(0)
    noise = {peft: peft_s_noise, our_config: our_noise}

    def run(package, error=error):
        random = noise[package] * torch.rand(3, generator=draw)
        return dict(weights=torch.ones(3) + random + error * (package is our_config))

    with pytest.raises(AssertionError) if fails else nullcontext():
        assert_as_peft(run, lambda package: run(package, gradient_s_error))


# --- gradient checkpointing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", CHECKPOINTED)
@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_gradient_checkpointing_changes_nothing(method, reentrant):
    base = base_model("llama")
    base.gradient_checkpointing_enable(dict(use_reentrant=reentrant))
    theirs, ours_ = wrap(method, base)
    _, without = wrap(method)
    calls = count_calls(ours_)
    seen = [loop(model, method) for model in (theirs, ours_, without)]
    assert calls() == 2 * STEPS  # computed again for the gradients
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[1], seen[2])
    assert_equal(trained(theirs), trained(ours_))
    assert_equal(trained(without), trained(ours_))


def count_calls(model):
    "How often the first layer's attention ran."
    calls = []
    layer = next(m for m in model.modules() if type(m).__name__ == "LlamaAttention")
    layer.register_forward_hook(lambda *_: calls.append(1))
    return lambda: len(calls)


def test_prefix_tuning_refuses_gradient_checkpointing():
    base = base_model("llama")
    base.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="gradient_checkpointing_disable"):
        ours.get_peft_model(base, our_config.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))


# --- two processes --------------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_two_processes(tmp_path):
    """Each has half of the rows; they end with the same weights, and these are those of one process with all rows.

    (That `accelerate launch` starts such processes is tested with the command.)"""
    methods = list(train_two_processes.METHODS)
    context = multiprocessing.get_context("forkserver")  # what is imported there is imported once
    context.set_forkserver_preload(["torch", "accelerate", "transformers.models.llama.modeling_llama"])
    port = free_port()
    processes = [
        context.Process(target=train_two_processes.main, args=(rank, 2, port, tmp_path, methods))
        for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for method in methods:
        first, second, alone = ranks[0][method], ranks[1][method], train_two_processes.train(method)
        assert first["processes"] == second["processes"] == 2 and alone["processes"] == 1
        assert torch.equal(first["losses"], second["losses"])
        assert_equal(first["weights"], second["weights"])
        # the mean of two halves is added up in another order than the mean of all
        torch.testing.assert_close(first["losses"], alone["losses"], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(first["weights"], alone["weights"], rtol=1e-5, atol=1e-6)
        assert alone["losses"][0] != alone["losses"][-1]
