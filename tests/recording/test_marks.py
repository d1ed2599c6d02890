"Names of methods, from what a recording says of its adapters."

import pytest

from peft_viz.recording import marks

LORA, DORA = dict(peft_type="LORA"), dict(peft_type="LORA", use_dora=True)


@pytest.mark.parametrize(
    "about, name",
    (
        ({}, "no adapter"),
        (dict(peft_type="LORA"), "LoRA"),
        (dict(peft_type="LORA", active_adapter="a", adapters=dict(a=DORA, b=LORA)), "DoRA"),
        (dict(peft_type="LORA", active_adapter="b", adapters=dict(a=DORA, b=LORA)), "LoRA"),
        (dict(peft_type="LORA", active_adapter="a, b", adapters=dict(a=DORA, b=LORA)), "DoRA + LoRA"),
        (dict(peft_type="LORA", active_adapter="a, b", adapters={"a, b": DORA, "b": LORA}), "DoRA"),
        (dict(peft_type="LORA+IA3", active_adapter="a, b", adapters=dict(a=LORA)), "LoRA + IA³"),
        (dict(peft_type="LORA", active_adapter="a", adapters=dict(a=5)), "LoRA"),
        (dict(peft_type="LORA", active_adapter="a", adapters=None), "LoRA"),
        (dict(peft_type="ADALORA", active_adapter="a", adapters=dict(a=DORA)), "AdaLoRA"),
        (dict(peft_type="NEW_ONE", active_adapter="a", adapters=dict(a={})), "new one"),
    ),
)
def test_the_active_adapters_say_what_they_are(about, name):
    assert marks.method(marks.kind(about)) == name


def test_a_name_keeps_its_own_capitals():
    names = "prompt tuning", "P-tuning", "rsLoRA", "aLoRA", "IA³", "LayerNorm tuning", ""
    begun = "Prompt tuning", "P-tuning", "rsLoRA", "aLoRA", "IA³", "LayerNorm tuning", ""
    assert tuple(map(marks.capital, names)) == begun
