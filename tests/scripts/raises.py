"The fifth call gets too few labels. The script prints the error itself, and lets it go on."

import traceback

import torch
from peft import PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from peft_viz.zoo.models import TINY

base = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
model = get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
ids = torch.tensor([[5, 6, 7, 8]])
for step in range(9):
    try:
        model(input_ids=ids, attention_mask=torch.ones(1, 4), labels=ids if step < 4 else ids[:, :3])
    except ValueError:
        print(traceback.format_exc())
        raise
    print("step", step)
