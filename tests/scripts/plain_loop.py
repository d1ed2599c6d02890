"A plain loop with LoRA that evaluates with generate, saves, loads, merges and deletes."

import gc, pickle, tempfile, weakref

import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from peft_viz.zoo.models import TINY

torch.manual_seed(0)
tokenizer = AutoTokenizer.from_pretrained(TINY)
model = get_peft_model(
    AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32),
    LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"]),
)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
batch = tokenizer(["tea=", "coffee="], padding=True, return_tensors="pt")
labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
for step in range(5):
    loss = model(**batch, labels=labels).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(step, loss.item())

model.eval()
out = model.generate(**tokenizer(["tea="], return_tensors="pt"), max_new_tokens=4, do_sample=False)
print(tokenizer.batch_decode(out))
print("in the model's own dictionary:", sorted(k for k in vars(model) if not k.startswith("_")))
print(
    "pickled and back:", torch.equal(pickle.loads(pickle.dumps(model))(**batch).logits, model(**batch).logits)
)

with tempfile.TemporaryDirectory() as folder:
    model.base_model.model.config._name_or_path = model.peft_config["default"].base_model_name_or_path = str(
        TINY
    )
    model.save_pretrained(folder)
    loaded = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
print("loaded again:", torch.equal(loaded(**batch).logits, model(**batch).logits))

merged = model.merge_and_unload()
print(
    "merged:",
    type(merged).__name__,
    torch.allclose(merged(**batch).logits, loaded(**batch).logits, atol=1e-4),
)
gone = weakref.ref(loaded)
gc.disable()  # nothing but the script held it: it goes at once
del loaded
print("deleted:", gone() is None)
