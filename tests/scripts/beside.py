"A module beside the script `arguments.py`."

from peft import LoraConfig


def add_lora(model):
    "An adapter in a transformers model, without a PEFT model around it."
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
