"Somebody presses Ctrl-C in the middle of generate; `interrupted.py hard`: the process ends at once."

import os, signal, sys

import torch
from peft_viz import LoraConfig, get_peft_model, load_tiny

base, tokenizer = load_tiny()


class Mine(torch.nn.Module):
    "Counts, and interrupts in the second generate."

    def __init__(self, layer):
        super().__init__()
        self.layer, self.calls = layer, 0

    def forward(self, x):
        self.calls += 1
        if self.calls == 8:
            os._exit(7) if "hard" in sys.argv else os.kill(os.getpid(), signal.SIGINT)
        return self.layer(x)


model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])).eval()
base.lm_head = Mine(base.lm_head)
asked = tokenizer(["tea="], return_tensors="pt")
for n in (2, 9):
    print(model.generate(**asked, max_new_tokens=n, min_new_tokens=n).shape, flush=True)
