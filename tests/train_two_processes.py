"""A plain loop with Hugging Face accelerate. test_training.py runs it by itself and through `accelerate
launch`, in two processes:

train_two_processes.py FOLDER METHOD...     each process writes FOLDER/<rank>.pt: for each method losses and
                                            adapter weights
"""

import sys

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


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, *methods = sys.argv[1:]
    results = {method: train(method) for method in methods}
    torch.save(results, f"{folder}/{Accelerator(cpu=True).process_index}.pt")
    Accelerator(cpu=True).end_training()
