"""Base models that see pictures: what they remember of one picture does not change the next text, and every layer that
an adapter has changed knows what it has to know."""

# lane: reference

import pytest
import torch
import transformers

import peft_viz as ours
from families import V5

IMAGE, START, END = 50, 51, 52
WORDS = dict(vocab_size=67, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
WORDS |= dict(num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=0)
EYES = dict(hidden_size=32, intermediate_size=64, num_attention_heads=4, num_hidden_layers=2)
EYES |= dict(image_size=16, patch_size=8)
TEXT = torch.tensor([[8, 9, 13, 14, 15, 10]])
MORE = dict(max_new_tokens=2, min_new_tokens=2, do_sample=False)


def llava():
    torch.manual_seed(0)
    eyes = dict(model_type="clip_vision_model", projection_dim=32, **EYES)
    config = transformers.LlavaConfig(
        vision_config=eyes, text_config=dict(model_type="llama", **WORDS), image_token_id=IMAGE
    )
    ids = torch.tensor([[8, IMAGE, IMAGE, IMAGE, IMAGE, 10, 11]])
    return transformers.LlavaForConditionalGeneration(config).eval(), dict(
        input_ids=ids, pixel_values=torch.randn(1, 3, 16, 16)
    )


def qwen2_vl():
    torch.manual_seed(0)
    rope = {"type": "mrope", "rope_type": "default", "mrope_section": [1, 1, 2]}
    rope = dict(rope_parameters=rope | {"rope_theta": 1e4}) if V5 else dict(rope_scaling=rope)
    eyes = dict(depth=1, embed_dim=32, hidden_size=32, mlp_ratio=2, num_heads=4, patch_size=4)
    eyes |= dict(spatial_merge_size=2, temporal_patch_size=2)
    marks = dict(image_token_id=IMAGE, vision_start_token_id=START, vision_end_token_id=END)
    config = transformers.Qwen2VLConfig(
        text_config=WORDS | rope, vision_config=eyes, video_token_id=53, **marks
    )
    ids = torch.tensor([[8, START, IMAGE, IMAGE, IMAGE, IMAGE, END, 10]])
    seen = dict(input_ids=ids, pixel_values=torch.randn(16, 96), image_grid_thw=torch.tensor([[1, 4, 4]]))
    if V5:
        seen["mm_token_type_ids"] = (ids == IMAGE).int()
    return transformers.Qwen2VLForConditionalGeneration(config).eval(), seen


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("config", [ours.PromptTuningConfig, ours.PrefixTuningConfig])
@torch.no_grad()
def test_a_picture_before_does_not_move_a_text(config, corrected):
    base, seen = qwen2_vl()
    soft = config(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = ours.get_peft_model(base, soft, corrected_positions=corrected)
    given = dict(input_ids=TEXT, attention_mask=torch.ones_like(TEXT), labels=TEXT)
    first = model(**given)
    before = model.generate(input_ids=TEXT, attention_mask=torch.ones_like(TEXT), **MORE)
    with model.disable_adapter():
        model.generate(attention_mask=torch.ones_like(seen["input_ids"]), **seen, **MORE)
    moved = base.model.rope_deltas
    assert bool(moved.ne(0).any())
    for rows in 1, 2:  # (what it remembers is of one row)
        again = model(**{name: value.repeat(rows, 1) for name, value in given.items()})
        assert torch.allclose(first.logits.expand(rows, -1, -1), again.logits, atol=1e-5)
    assert base.model.rope_deltas is moved
    after = model.generate(input_ids=TEXT, attention_mask=torch.ones_like(TEXT), **MORE)
    assert torch.equal(before, after)


def poly():
    torch.manual_seed(1)
    base, seen = llava()
    config = ours.PolyConfig(
        task_type="CAUSAL_LM", r=2, n_tasks=2, n_skills=2, init_weights=False, target_modules=["q_proj"]
    )
    return ours.get_peft_model(base, config).eval(), seen


@torch.no_grad()
def test_each_layer_knows_the_task_where_pictures_are_encoded_first():
    model, seen = poly()
    for task in torch.tensor([0]), torch.tensor([1]):
        new = model.generate(**seen, task_ids=task, **MORE)
        ids, rest = seen["input_ids"], dict(pixel_values=seen["pixel_values"], task_ids=task)
        for _ in range(2):
            logits = model(input_ids=ids, **rest).logits[:, -1].index_fill(-1, torch.tensor([2]), -torch.inf)
            ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), dim=1)
        assert torch.equal(new, ids)
    with pytest.raises(ValueError, match="must lie from 0 to 1"):
        model.generate(**seen, task_ids=torch.tensor([2]), **MORE)


@torch.no_grad()
def test_a_guide_has_the_tasks_of_the_rows():
    "`guidance_scale` makes transformers call the base model a second time, which says nothing of tasks."
    model, _ = poly()
    rows = dict(input_ids=TEXT.repeat(2, 1), task_ids=torch.tensor([0, 1]), guidance_scale=1.5, **MORE)
    both = model.generate(**rows)
    alone = [
        model.generate(input_ids=TEXT, task_ids=torch.tensor([n]), guidance_scale=1.5, **MORE) for n in (0, 1)
    ]
    assert torch.equal(both, torch.cat(alone))
    with pytest.raises(ValueError, match="POLY needs to know the task"):
        model(input_ids=TEXT)


def gemma3():
    torch.manual_seed(0)
    marks = dict(image_token_id=IMAGE, mm_tokens_per_image=4, boi_token_index=53, eoi_token_index=54)
    config = transformers.Gemma3Config(
        vision_config=EYES, text_config=dict(head_dim=8, sliding_window=16, **WORDS), **marks
    )
    ids = torch.tensor([[8, 9, IMAGE, IMAGE, IMAGE, IMAGE, 10, 11]])
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    seen = dict(input_ids=ids, pixel_values=torch.randn(1, 3, 16, 16), token_type_ids=(ids == IMAGE).long())
    return model, seen


@pytest.mark.parametrize("corrected", [False, True])
@torch.no_grad()
def test_tokens_of_a_picture_see_each_other_behind_virtual_tokens(corrected):
    "Here `token_type_ids` say which tokens are the picture; virtual ones are not."
    base, seen = gemma3()
    alone = base(**seen).logits
    assert not torch.allclose(alone, base(**seen | dict(token_type_ids=None)).logits, atol=1e-3)
    soft = ours.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = ours.get_peft_model(base, soft, corrected_positions=corrected).eval()
    ids, mask = seen.pop("input_ids"), torch.ones_like(seen["token_type_ids"])

    def by_hand(ids):
        embeds = base.get_input_embeddings()(ids)
        embeds = torch.cat((model.get_prompt(1), embeds), dim=1)
        types = torch.zeros_like(embeds[..., 0], dtype=torch.long)
        types[:, 3 : 3 + mask.shape[1]] = seen["token_type_ids"]
        return base(inputs_embeds=embeds, pixel_values=seen["pixel_values"], token_type_ids=types).logits

    assert torch.allclose(model(input_ids=ids, attention_mask=mask, **seen).logits, by_hand(ids), atol=1e-5)
    new = model.generate(input_ids=ids, attention_mask=mask, **seen, **MORE)
    for _ in range(2):
        logits = by_hand(ids)[:, -1].index_fill(-1, torch.tensor([2]), -torch.inf)
        ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), dim=1)
    assert torch.equal(new, ids)


@pytest.mark.parametrize("config", [ours.PromptTuningConfig, ours.PrefixTuningConfig])
@torch.no_grad()
def test_paligemma_begins_with_position_one(config):
    "Corrected positions change nothing where there is no padding, in `forward` and in `generate`."
    torch.manual_seed(0)
    eyes = dict(model_type="siglip_vision_model", **EYES)
    words = dict(model_type="gemma", head_dim=8, **WORDS)
    sizes = dict(image_token_id=IMAGE, projection_dim=32, hidden_size=32)
    made = transformers.PaliGemmaConfig(vision_config=eyes, text_config=words, **sizes)
    model = ours.get_peft_model(
        transformers.PaliGemmaForConditionalGeneration(made).eval(),
        config(task_type="CAUSAL_LM", num_virtual_tokens=3),
    ).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data = torch.randn(parameter.shape) * 0.3
    given = dict(input_ids=TEXT, attention_mask=torch.ones_like(TEXT), token_type_ids=torch.zeros_like(TEXT))
    seen = []
    for corrected in False, True:
        model.corrected_positions = corrected
        out = model.generate(**given, **MORE, output_logits=True, return_dict_in_generate=True)
        seen.append((model(**given).logits, torch.stack(out.logits)))
    for uncorrected, right in zip(*seen):
        assert torch.allclose(uncorrected, right, atol=1e-3)
