"TRL's SFTTrainer with prompt tuning."

import tempfile

import torch
from datasets import Dataset
from peft import PromptTuningConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from peft_viz.zoo.models import TINY

torch.manual_seed(0)
tokenizer = AutoTokenizer.from_pretrained(TINY)
model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
with tempfile.TemporaryDirectory() as folder:
    trainer = SFTTrainer(
        model,
        SFTConfig(
            folder,
            max_steps=4,
            per_device_train_batch_size=2,
            report_to=[],
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
            logging_steps=1,
            save_strategy="no",
        ),
        train_dataset=Dataset.from_dict({"text": ["tea=aet", "water=retaw", "milk=klim", "soda=ados"]}),
        processing_class=tokenizer,
        peft_config=PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    )
    trainer.train()
print([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
