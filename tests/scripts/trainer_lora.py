"transformers.Trainer with LoRA, gradient checkpointing and a worker for the data; alone or in several processes."

import os, sys, tempfile

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)

from peft_viz.zoo.models import TINY


class Words(torch.utils.data.Dataset):
    def __init__(self, tokenizer):
        self.rows = [dict(tokenizer(word + "=")) for word in "tea coffee water milk juice soda".split()]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


def main():
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"]))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=5,
            per_device_train_batch_size=2,
            gradient_checkpointing=True,
            dataloader_num_workers=1,
            dataloader_multiprocessing_context=sys.argv[1] if sys.argv[1:] else None,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
        )
        collate = DataCollatorForLanguageModeling(tokenizer, mlm=False)
        trainer = Trainer(model, arguments, collate, Words(tokenizer), processing_class=tokenizer)
        trainer.train()
    if os.environ.get("RANK", "0") == "0":
        print([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])


if __name__ == "__main__":
    main()
