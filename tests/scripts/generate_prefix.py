"Prefix tuning generates in a thread and streams its text."

from threading import Thread

import torch
from peft import PrefixTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer

from peft_viz.zoo.models import TINY

torch.manual_seed(0)
tokenizer = AutoTokenizer.from_pretrained(TINY)
base = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
model = get_peft_model(base, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)).eval()
streamer = TextIteratorStreamer(tokenizer)
asked = tokenizer(["<upper>tea="], return_tensors="pt")
work = Thread(
    target=model.generate,
    kwargs=dict(**asked, streamer=streamer, max_new_tokens=6, min_new_tokens=6, do_sample=True),
)
work.start()
for piece in streamer:
    print(piece, end="|", flush=True)
work.join()
print()
