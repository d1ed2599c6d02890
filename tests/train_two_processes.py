"""A plain loop with Hugging Face accelerate, which test_training.py runs in one process and in two."""

import os

import torch
from accelerate import Accelerator
from transformers import LlamaConfig, LlamaForCausalLM

import peft_viz.reference.causal_lm as ours
from peft_viz.reference.config import LoraConfig, PrefixTuningConfig, PromptTuningConfig

METHODS = dict(
    lora=(LoraConfig, dict(r=3)),
    prompt=(PromptTuningConfig, dict(num_virtual_tokens=4)),
    prefix=(PrefixTuningConfig, dict(num_virtual_tokens=4)),
)
ROWS, STEPS = 4, 3  # rows of a step, shared among the processes


def train(method):
    "Losses [steps], mean over all rows, and the trained weights, as this process has them in the end."
    accelerator = Accelerator(cpu=True)
    rank, processes = accelerator.process_index, accelerator.num_processes
    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=61,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )
    batches = torch.randint(3, 61, (STEPS, ROWS, 6))
    config, fields = METHODS[method]
    model = ours.get_peft_model(base, config(task_type="CAUSAL_LM", **fields))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    losses = []
    for batch in batches:
        mine = batch[rank * ROWS // processes : (rank + 1) * ROWS // processes]
        loss = wrapped(input_ids=mine, labels=mine).loss
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(accelerator.reduce(loss.detach(), "mean"))
    weights = {
        name: p.detach()
        for name, p in accelerator.unwrap_model(wrapped).named_parameters()
        if p.requires_grad
    }
    return dict(processes=processes, losses=torch.stack(losses), weights=weights)


def main(rank, processes, port, folder, methods):
    "One of several processes: writes FOLDER/<rank>.pt, for each method losses and adapter weights."
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(processes),
        LOCAL_WORLD_SIZE=str(processes),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    torch.save({method: train(method) for method in methods}, f"{folder}/{rank}.pt")
    Accelerator(cpu=True).end_training()
