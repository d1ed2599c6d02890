"Where the virtual tokens stand is measured, and the two sequences of an encoder-decoder are not taken for one."

import json
import warnings

import peft, pytest, torch
from transformers import T5Config, T5ForConditionalGeneration

from peft_viz import plot, record, tiny_random, Trace
from peft_viz.recording import layout

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11], [12, 13, 14, 15, 16, 17, 18]])
PADDED = torch.tensor([[1] * 7, [1, 1, 1, 1, 1, 0, 0]])
PLACES = dict(end=[7, 7], middle=[3, 3], rows=[7, 5], front=[0, 0])


class Mine(peft.PeftModelForCausalLM):
    "Puts the virtual tokens of each row where `at` says."

    at, change = [0, 0], staticmethod(lambda prompts: prompts)

    def forward(self, input_ids=None, attention_mask=None, labels=None, **kwargs):
        if kwargs.get("past_key_values") is not None and kwargs["past_key_values"].get_seq_length():
            return self.base_model(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        prompts = self.change(self.get_prompt(len(input_ids)))
        put = lambda rows, new: torch.stack(
            [torch.cat([row[:n], more, row[n:]]) for row, more, n in zip(rows, new, self.at)]
        )
        fill = lambda n: torch.full(prompts.shape[:2], n)
        return self.base_model(
            inputs_embeds=put(self.word_embeddings(input_ids), prompts),
            attention_mask=None if attention_mask is None else put(attention_mask, fill(1)),
            labels=None if labels is None else put(labels, fill(-100)),
            **kwargs,
        )


def recorded(at, change=lambda prompts: prompts, v=4, **inputs):
    torch.manual_seed(0)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=v)
    model = Mine(tiny_random("llama"), config).eval()
    model.at, model.change = at, change
    with record(model) as trace, torch.no_grad():
        model(input_ids=IDS, **inputs)
    return trace


@pytest.mark.parametrize("place", PLACES)
def test_virtual_tokens_in_other_places(place, tmp_path):
    "Roles, ids and labels stand where they stood, also in a recording that was read again."
    trace = recorded(PLACES[place], labels=IDS, attention_mask=PADDED)
    assert trace.base_calls[0].measured.virtual_at == PLACES[place]
    for t in (trace, Trace.load(trace.save(tmp_path / "t.json"))):
        for row, ids, mask, start in zip(
            layout.sequence(t).rows, IDS.tolist(), PADDED.tolist(), PLACES[place]
        ):
            roles = ["token" if m else "padding" for m in mask]
            assert row.roles == roles[:start] + ["virtual"] * 4 + roles[start:]
            assert (
                row.ids
                == row.labels[:start] + [None] * 4 + row.labels[start + 4 :]
                == ids[:start] + [None] * 4 + ids[start:]
            )


def test_the_story_says_where_they_stand():
    end, rows, one = (
        str(recorded(at, v=v, labels=IDS).story()).replace("\n    ", "")
        for at, v in (([7, 7], 4), ([7, 5], 4), ([3, 3], 1))
    )
    assert "the four virtual tokens in columns 7 to 10, your 7 in the others" in end and "in front" not in end
    assert "four times -100 for the virtual tokens, so that the loss ignores them" in end
    assert "No token of yours sees all four" in end
    assert "in columns that differ from row to row" in rows
    assert "in column 3, your 7 in the others" in one
    masked = str(recorded([3, 3], attention_mask=PADDED).story())
    assert (
        "four ones for the virtual tokens" in masked
        and "6 of your 12 tokens see all four" in masked.replace("\n    ", "")
    )
    chinese = str(recorded([7, 7], labels=IDS).story("zh"))
    assert "在第 7 到 10 列" in chinese and "前面" not in chinese


def test_what_is_advised_fits_the_place():
    said = {place: str(recorded(PLACES[place]).diagnose()) for place in ("front", "middle")}
    assert "logits[:, 4:]" in said["front"] and "logits[:, 4:]" not in said["middle"]
    assert "take those at your tokens" in said["middle"]
    kinds = [f.kind for f in recorded(PLACES["end"]).diagnose()]
    assert kinds == ["logits-longer"]  # what comes back at the virtual tokens, they do change


def test_a_place_that_cannot_be_seen_is_said():
    with pytest.warns(UserWarning, match="where the virtual tokens stand; they are drawn in front"):
        recorded([3, 3], change=lambda prompts: prompts * 2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*recording.*")
        recorded([3, 3], change=lambda prompts: prompts.double().float())


def test_virtual_tokens_that_never_arrive():
    class Forgets(Mine):
        def forward(self, input_ids):
            self.get_prompt(len(input_ids))
            return self.base_model(input_ids=input_ids)

    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    model = Forgets(tiny_random("llama"), config)
    with record(model) as trace:
        model(input_ids=IDS)
    assert trace.base_calls[0].measured.virtual_at is None
    assert layout.sequence(trace).rows[0].roles == ["token"] * 7


def test_generate_goes_on_behind_them():
    torch.manual_seed(0)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)

    class Ends(peft.PeftModelForCausalLM):
        def prepare_inputs_for_generation(self, *args, **kwargs):
            inputs = super().prepare_inputs_for_generation(*args, **kwargs)
            if inputs.get("inputs_embeds") is not None:
                inputs["inputs_embeds"] = inputs["inputs_embeds"].roll(-4, 1)
            return inputs

    model = Ends(tiny_random("llama"), config).eval()
    with record(model) as trace:
        model.generate(input_ids=IDS, max_new_tokens=3, do_sample=False)
    for call, new in zip(trace.base_calls, range(3)):
        roles = layout.sequence(trace, call).rows[0].roles
        assert roles == ["token"] * 7 + ["virtual"] * 4 + ["generated"] * new


def test_a_place_outside_is_not_drawn(tmp_path):
    "A file may say anything."
    trace = recorded([7, 7])
    text = trace.save(tmp_path / "t.json").read_text()
    for at in ([8, 8], [3], []):
        (tmp_path / "u.json").write_text(text.replace('"virtual_at":[7,7]', f'"virtual_at":{json.dumps(at)}'))
        roles = layout.sequence(Trace.load(tmp_path / "u.json")).rows[0].roles
        assert roles == ["virtual"] * 4 + ["token"] * 7


# --- encoder-decoders --------------------------------------------------------------------------------------------

S2S = dict(task_type="SEQ_2_SEQ_LM")
SIZES = dict(vocab_size=67, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, decoder_start_token_id=0)


def two_sequences(config, generate=False):
    torch.manual_seed(0)
    model = peft.get_peft_model(T5ForConditionalGeneration(T5Config(**SIZES)), config).eval()
    with record(model) as trace, torch.no_grad():
        if generate:
            model.generate(input_ids=IDS, attention_mask=PADDED, max_new_tokens=3)
        else:
            model(input_ids=IDS, attention_mask=PADDED, labels=IDS[:, :5].contiguous())
    return trace


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("generate", [False, True])
@pytest.mark.parametrize("method", ["PromptTuningConfig", "PrefixTuningConfig", "LoraConfig"])
def test_the_decoder_is_not_taken_for_the_encoder(method, generate, lang, tmp_path):
    more = {} if method == "LoraConfig" else dict(num_virtual_tokens=4)
    trace = two_sequences(getattr(peft, method)(**S2S, **more), generate)
    found = trace.diagnose(lang)
    assert [f.kind for f in found] == ["two-sequences"] and "T5ForConditionalGeneration" in str(found)
    story = str(trace.story(lang))
    assert ("is an encoder-decoder" if lang == "en" else "编码器-解码器") in story
    for false in ("the cache holds", "Logits", "queries", "Step 1", "gives back"):
        assert false not in story
    for draw in (plot.labels, plot.attention, *([plot.cache] if generate else [])):
        with pytest.raises(ValueError, match="encoder-decoder|no call of the base model here"):
            draw(trace)
    assert trace.save(tmp_path / "t.html").exists()
    if not generate:
        sequence = layout.sequence(trace)
        virtual = 4 * (method == "PromptTuningConfig")
        assert sequence.rows[1].roles == ["virtual"] * virtual + ["token"] * 5 + ["padding"] * 2
        assert (
            sequence.rows[1].labels is None and sequence.caller_labels is None and sequence.query_start == 0
        )
    assert ("get_prompt" in story) == (
        method != "LoraConfig" and not (generate and method == "PromptTuningConfig")
    )
