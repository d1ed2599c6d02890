"Questions about a recording: what is right, what is said to a wrong answer, in Python and in the browser alike."
# lane: here

import json, pathlib, random, re, shutil, subprocess
import peft, pytest, torch

import peft_viz
from peft_viz import get_peft_model, load_tiny, LoraConfig, PrefixTuningConfig, PromptTuningConfig, record
from peft_viz.recording import layout
from peft_viz.views import ask
from peft_viz.zoo.letters import collate

SCRIPT = pathlib.Path(ask.__file__).parent / "static" / "exercise.js"
CONFIGS = {
    "prompt": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "lora": LoraConfig(task_type="CAUSAL_LM"),
}


def recorded(config, get=get_peft_model):
    "A batch that is padded on the left, then a generate of three tokens."
    torch.manual_seed(0)
    base, tokenizer = load_tiny()
    batch = collate(tokenizer, ["fig=", "hello="], ["fgi", "ehllo"], padding_side="left")
    model = get(base, config).eval()
    with record(model, tokenizer=tokenizer) as trace, torch.no_grad():
        model(**batch)
        question = {k: batch[k][:, :8] for k in ("input_ids", "attention_mask")}
        model.generate(**question, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    return trace


@pytest.fixture(scope="module", params=CONFIGS)
def trace(request):
    return recorded(CONFIGS[request.param])


@pytest.fixture(scope="module")
def prompt():
    return recorded(CONFIGS["prompt"])


def asked(trace, lang="en"):
    "Every question that this recording can answer."
    return [
        *(ask.mask(trace, row, call, lang) for row in (0, 1) for call in (0, 1)),
        *(ask.labels(trace, row, lang=lang) for row in (0, 1)),
        *(ask.positions(trace, row, call, lang) for row in (0, 1) for call in (0, 1, 2)),
        *(ask.cached(trace, call, lang) for call in (0, 1, 2)),
        *(ask.shape(trace, name, lang=lang) for name in ("attention_mask", "labels", "logits")),
        *(ask.next_token(trace, row, lang=lang) for row in (0, 1)),
    ]


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_recorded_answer_is_right_and_no_hint_is_for_it(trace, lang):
    for exercise in asked(trace, lang):
        assert exercise.check(exercise.right) == ask.WORDS[lang]["right"]
        assert exercise.right not in exercise.hints
        for wrong, hint in exercise.hints.items():
            assert exercise.check(wrong) == hint and "{" not in hint


def test_the_answers_are_those_of_the_tensors(prompt):
    base = prompt.base_calls[0]
    for row in (0, 1):
        for name, question in (("attention_mask", ask.mask), ("labels", ask.labels)):
            right = prompt.value(base.args[name]).nested()[row]
            assert question(prompt, row).check(right) == "Right."
    assert ask.cached(prompt, 0).check(16) == ask.cached(prompt, 1).check(12) == "Right."
    assert ask.shape(prompt, "logits").check(torch.Size([2, 16, 67])) == "Right."
    assert ask.branch(prompt, "PREFIX_TUNING", "forward").check("No") == "Right."
    assert "#" not in ask.branch(prompt, "is_prompt_learning", "forward").question
    assert ask.branch(prompt, "PREFIX_TUNING", "forward").check("yes") == "`peft_type` is PROMPT_TUNING."
    assert ask.branch(prompt, "inputs_embeds is None", "forward").check("no") == "`inputs_embeds` is None."
    assert (
        ask.branch(prompt, "takes_prompts", "prepare_inputs").hints == {}
    )  # nothing was recorded that tells it
    assert ask.positions(prompt, 0).check([*range(16)]) == "Right."  # the padding was counted


def test_what_is_fed_in_beside_a_prefix_has_no_virtual_columns():
    prefix, words = recorded(CONFIGS["prefix"]), ask.WORDS["en"]
    for name in ("input_ids", "labels", "logits"):
        question = ask.shape(prefix, name)
        more, fewer = (f"2 {n} 67" if name == "logits" else f"2 {n}" for n in (16, 8))
        assert question.check(more) == words["elsewhere"] and fewer not in question.hints
    assert ask.shape(prefix, "attention_mask").check([2, 12]) == words["virtual"].format(n=4)


def test_a_form_holds_the_words_that_it_shows(prompt):
    script = SCRIPT.read_text(encoding="utf-8")
    assert set(re.findall(r"words\.(\w+)", script)) == set(ask.FORM)


def test_a_decision_is_asked_for_in_each_call(prompt):
    first, second = (ask.branch(prompt, "takes_prompts", "prepare_inputs", time=n) for n in (0, 1))
    assert (first.right, second.right) == ("yes", "no") and "call 2" in second.question
    assert ask.branch(prompt, "takes_prompts", "prepare_inputs").right == "yes"
    with pytest.raises(ValueError, match="9 times"):
        ask.branch(prompt, "takes_prompts", "prepare_inputs", time=8)


def test_a_step_gets_the_new_token_alone(prompt):
    step = ask.shape(prompt, "input_ids", call=2)
    assert step.right == "2 1" and step.check("2 13") == step.check("2 9") == ask.WORDS["en"]["again"]


def test_a_hint_fits_the_mistake(prompt):
    words, mask = ask.WORDS["en"], ask.mask(prompt)
    right = [int(x) for x in mask.right.split()]
    assert mask.check(right[4:]) == words["virtual"].format(n=4)
    assert mask.check([1 - x for x in right]) == words["exchanged"]
    assert mask.check([1] * len(right)) == words["padding"]
    assert mask.check(right[:-1]) == words["length"].format(right=16, given=15)
    assert mask.check([*right[:8], 0, 0, *right[10:]]) == words["places"].format(wrong=2, of=16, first=9)
    assert (
        ask.labels(prompt).check([0 if x == -100 else x for x in map(int, ask.labels(prompt).right.split())])
        == words["zeros"]
    )
    both = words["both"].format(n=4, padding=4)  # they are equally many: which were forgotten is not known
    assert ask.cached(prompt).check(12) == ask.cached(prompt).check(8) == both
    assert ask.cached(prompt).check("many") == words["wrong"]
    assert mask.check([0] * 4 + [1] * 12) == words["order"]
    shape = ask.shape(prompt, "logits")
    assert shape.check("16 67") == words["batch"] and shape.check("67 16 2") == words["turned"]
    asked = ask.branch(prompt, "takes_prompts", "prepare_inputs", hint="It is the first call.")
    assert asked.check("no") == "It is the first call."


def test_a_hint_fits_the_mistake_beside_a_cache_and_inside_the_layers():
    words, lora = ask.WORDS["en"], recorded(CONFIGS["lora"])
    prefix = recorded(PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    assert ask.positions(prefix).check([*range(15)]) == words["elsewhere"]
    assert ask.positions(prefix, call=2).check([*range(12)]) == words["again"]
    assert ask.positions(lora, call=2).check([*range(9)]) == words["again"]
    assert {*ask.positions(lora, call=1).hints.values()} <= {words["counted"], words["uncounted"]}
    assert ask.cached(prefix).check(3) == words["before"]
    assert ask.cached(prefix).check(12) == words["virtual"].format(n=3)
    assert ask.cached(prefix, call=1).check(7) == words["masked"]
    assert ask.shape(lora, "labels").check([2, 16]) == words["no_columns"]
    assert words["order"] not in ask.mask(lora).hints.values()


def test_an_answer_may_be_written_in_short(prompt):
    positions, mask = ask.positions(prompt), ask.mask(prompt)
    for answer in ("0-15", "0..15", "0 … 15", "0, 1, ..., 15", "0到15", "0-3 4～15", "0–15"):
        assert positions.check(answer) == "Right.", answer
    assert mask.check("1111000011111111") == mask.check("1111 0000 11111111") == "Right."
    assert mask.check("0000111111111111") == ask.WORDS["en"]["order"]
    assert ask.plain("3..1") == "3..1" and ask.plain("-100 -100 3") == "-100 -100 3"
    assert ask.plain("1 to 10 %", ["1 to 10 %"]) == "1 to 10 %"


def test_padding_may_be_left_out_of_positions(prompt):
    words, real = ask.WORDS["en"], ask.positions(prompt)
    assert real.check("0-3, 8-15") == "Right." and "leave out the padding" in real.question
    assert real.check("8-15") == words["virtual"].format(n=4)
    assert real.check("0-3, 9-16") == words["places"].format(wrong=8, of=12, first=5)
    assert real.check("0-11") == words["counted"] or real.check("0-11") == words["uncounted"]
    alone = ask.positions(prompt, 1)  # a row without padding
    assert alone.also == () and "leave out" not in alone.question
    theirs = recorded(CONFIGS["prefix"], peft.get_peft_model)
    assert ask.positions(theirs, call=1).check("4-7") == "Right."  # generate does not count the padding
    assert ask.positions(theirs, call=1).check("8-11") == words["counted"]


def test_so_many_numbers_have_a_hint(prompt):
    words = ask.WORDS["en"]
    missing = words["virtual"].format(n=4)
    assert ask.mask(prompt).check([1, 0] * 6) == missing
    assert ask.labels(prompt).check([7] * 12) == words["ignored"].format(n=4)
    shape = ask.shape(prompt, "attention_mask")
    assert shape.check("16") == words["batch"] and shape.check("12") == missing
    assert shape.check("2 9") == "Not right: columns." and shape.check("3 9") == "Not right: rows, columns."
    assert ask.shape(prompt, "logits", lang="zh").check("1 16 3") == "不对的是：行数、最后一个数。"
    assert ask.cached(prompt, 3).check(12) == words["sooner"]


def test_each_wrong_size_of_an_update_has_a_hint(layers):
    update = ask.update(layers)
    at = update.choices.index(update.right)
    said = [update.check(choice) for choice in update.choices]
    assert said[:at] == ["It is larger."] * at and {*said[at + 1 :]} <= {"It is smaller."}


def test_virtual_tokens_behind_the_padding():
    right = recorded(CONFIGS["prompt"], lambda base, c: get_peft_model(base, c, corrected_positions=True))
    mask = ask.mask(right)
    assert mask.right.startswith("0 0 0 0 1 1 1 1")
    assert mask.check([1] * 4 + [0] * 4 + [1] * 8) == ask.WORDS["en"]["behind"]


@pytest.fixture(scope="module", params=[peft_viz, peft], ids=lambda p: p.__name__)
def cpt(request):
    "Two examples of three tokens as virtual tokens; the answer is one token."
    config = dict(
        task_type="CAUSAL_LM", cpt_token_ids=[15, 11, 16] * 2, cpt_tokens_type_mask=[2, 3, 4, 6, 7, 8]
    )
    return recorded(request.param.CPTConfig(**config, cpt_mask=[1] * 6), request.param.get_peft_model)


def test_labels_of_examples_count(cpt):
    question, words = ask.labels(cpt, 0), ask.WORDS["en"]
    right = [int(x) for x in question.right.split()]
    assert right[:6] == [-100, -100, 16] * 2
    assert question.check([-100] * 6 + right[6:]) == words["counts"].format(n=2)
    assert question.check(right[6:]) == words["virtual"].format(n=6)


def test_a_table_on_the_way(cpt, prompt):
    hint = "The types go on behind the examples."
    question = ask.numbers(cpt, "cpt_type_mask", "_cpt_forward", 1, [([2, 3, 4, 6, 7, 8] + [4] * 12, hint)])
    assert question.question == (
        "Which numbers are in row 1 of `cpt_type_mask` in `PeftModelForCausalLM._cpt_forward`?"
    )
    assert question.check([2, 3, 4, 6, 7, 8] + [12] * 12) == "Right."
    assert question.check([2, 3, 4, 6, 7, 8] + [4] * 12) == hint
    assert question.check([12] * 12) == ask.WORDS["en"]["virtual"].format(n=6)
    last = ask.numbers(cpt, "cpt_type_mask", "_cpt_forward", last=3)
    assert last.right == "12 12 12" and "the last 3 numbers in row 0" in last.question
    mask = ask.numbers(prompt, "attention_mask", "forward", lang="zh")  # as it is at the end
    assert mask.right == ask.mask(prompt).right and mask.question.startswith(
        "`PeftModelForCausalLM.forward` 里"
    )


def test_questions_on_peft_itself():
    theirs = recorded(
        peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4), peft.get_peft_model
    )
    ours = recorded(CONFIGS["prompt"])
    for a, b in zip(asked(theirs)[:-2], asked(ours)[:-2]):
        assert (a.question, a.right) == (b.question, b.right)
    assert ask.branch(theirs, "PREFIX_TUNING", "forward").right == "no"


@pytest.fixture(scope="module")
def layers():
    "LoRA, with all adapted layers followed."
    torch.manual_seed(0)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False
    )
    model = get_peft_model(load_tiny()[0], config).eval()
    with record(model, layers=8) as trace, torch.no_grad():
        model(torch.tensor([[5, 6, 7]]))
    return trace


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_questions_about_adapted_layers(layers, lang):
    words = ask.WORDS[lang]
    A, B = (ask.part(layers, name, "0.self_attn.v_proj", lang=lang) for name in ("lora_A", "lora_B"))
    assert A.check([4, 96]) == B.check((48, 4)) == words["right"]
    assert A.check("4 x 96") == A.check("4×96") == words["right"]
    assert A.check([96, 4]) == words["weight"] and A.check([48, 96]) == words["frozen"]
    numbers = ask.trained(layers, "v_proj", lang=lang)
    assert numbers.check(4 * 96 + 48 * 4) == words["right"] and numbers.check(48 * 96) == words["frozen"]
    assert numbers.check(4 * 96) == words["parts"].format(parts="lora_A.default, lora_B.default")
    low = ask.variable(layers, "low_rank", "detour", lang)
    assert low.check([1, 3, 4]) == words["right"] and low.check([4, 3, 1]) == words["turned"]
    (one,) = [a for a in layout.lora(layers) if a.name == "model.layers.3.self_attn.q_proj"]
    size = ask.update(layers, "3.self_attn.q_proj", lang=lang)
    assert f"{one.ratio:.1%}" in size.check(size.right) and size.choices == tuple(ask.RANGES[lang].values())
    assert one.ratio <= next(most for most, said in ask.RANGES[lang].items() if said == size.right)


def test_large_letters_count_where_choices_differ_by_them():
    token = ask.exercise("Which?", "a", [("A", "Not the large one.")], choices=("A", "a", "b"))
    assert token.check("a") == "Right." and token.check("A") == "Not the large one."
    assert ask.exercise("Is it?", "yes", choices=("yes", "no")).check("Yes") == "Right."


def test_the_solution_is_the_choice_as_it_is_written():
    asked = ask.exercise("Which?", "only B", choices=("only A", "only B"))
    assert "<p>only B</p>" in ask.html(asked, script=False)


def test_what_reaches_the_base_model(prompt):
    assert ask.reached(prompt, "inputs_embeds").check("yes") == "Right."
    assert ask.reached(prompt, "task_ids", lang="zh").check("否") == "正确。"


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda t: ask.part(t, "lora_A"), "followed were none: record it again with record"),
        (lambda t: ask.variable(t, "low_rank"), "no recorded line makes a tensor 'low_rank'"),
        (
            lambda t: ask.shape(t, "pixels"),
            "'pixels' is not there; this call has inputs_embeds, attention_mask",
        ),
        (lambda t: ask.labels(t, call=1), "no labels reached"),
        (lambda t: ask.branch(t, "no such condition"), "no recorded line decides"),
        (lambda t: ask.numbers(t, "pixels", "forward"), "no numbers were kept of 'pixels' in forward"),
        (
            lambda t: ask.numbers(t, "inputs_embeds"),
            "no numbers were kept of 'inputs_embeds' in any function",
        ),
        (lambda t: ask.mask(t, lang="fr"), "lang is 'fr'; there are en, zh"),
        (lambda t: ask.exercise("?", 1, choices=[2, 3]), "1 is the right answer and is not among"),
    ],
)
def test_what_cannot_be_asked_is_said(prompt, wrong, message):
    with pytest.raises((ValueError, KeyError), match=message):
        wrong(prompt)


def test_what_cannot_be_asked_of_layers_is_said(layers):
    with pytest.raises(
        ValueError, match="no adapted layer 'k_proj' was followed; followed were model.layers.0"
    ):
        ask.trained(layers, "k_proj")
    with pytest.raises(ValueError, match="has no part 'lora_E'; it has lora_A, lora_B"):
        ask.part(layers, "lora_E")
    model = get_peft_model(load_tiny()[0], CONFIGS["lora"]).eval()
    model.merge_adapter()
    with record(model, layers=1) as merged, torch.no_grad():
        model(torch.tensor([[5, 6, 7]]))
    with pytest.raises(ValueError, match="the update of model.layers.0.self_attn.q_proj was not measured"):
        ask.update(merged)


def test_the_browser_says_what_python_says(prompt, layers):
    if not (node := shutil.which("node")):
        pytest.skip("node is not installed")
    rng, cases = random.Random(0), []
    about_layers = [
        ask.part(layers, "lora_A"),
        ask.trained(layers),
        ask.update(layers),
        ask.update(layers, lang="zh"),
    ]
    large = ask.exercise("Which?", "a", [("A", "Not the large one.")], choices=("A", "a", "b"))
    prefix = asked(recorded(CONFIGS["prefix"], peft.get_peft_model))
    for exercise in (*asked(prompt), *asked(prompt, "zh"), *prefix, *about_layers, large):
        answers = [
            exercise.right,
            f"[{exercise.right.replace(' ', ', ')}]",
            exercise.right.replace(" ", " x "),
            "",
            "x",
            "1 2 x",
            "0-3",
            "4..15",
            "4 … 15, 16",
            "9-3, -100 -2，2～4",
            "00001111",
            "0" * 4 + "1" * 12,
            "5-99999999",
            *exercise.also,
            *exercise.hints,
            *exercise.choices,
        ]
        answers += [
            " ".join(str(rng.choice((0, 1, -100, 7))) for _ in range(rng.randrange(1, 20))) for _ in range(5)
        ]
        data = dict(
            right=exercise.right,
            hints=exercise.hints,
            choices=exercise.choices,
            why=exercise.why,
            also=exercise.also,
            axes=exercise.axes,
            lengths=exercise.lengths,
            words=ask.WORDS[exercise.lang],
        )
        cases += [(data, answer, exercise.check(answer)) for answer in answers]
    code = """
const [script, cases] = JSON.parse(require("fs").readFileSync(0, "utf8"));
const module_ = { exports: {} };
new Function("module", script)(module_);
console.log(JSON.stringify(cases.map(([exercise, answer]) => module_.exports.check(exercise, answer).text)));
"""
    said = subprocess.run(
        [node, "-e", code],
        input=json.dumps([SCRIPT.read_text(encoding="utf-8"), cases]),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(said.stdout) == [text for _, _, text in cases] and len(cases) > 200


@pytest.fixture
def opened(prompt, new_page, tmp_path):
    "A function: a page with five questions, opened."

    def open_page(**options):
        parts = [
            ask.mask(prompt),
            ask.labels(prompt, 1, lang="zh"),
            ask.next_token(prompt),
            ask.branch(prompt, "PREFIX"),
            ask.exercise("How many?", torch.tensor([2]), [(torch.tensor(1), "Count `<eos>`, ` too.")]),
        ]
        dark = "@media (prefers-color-scheme: dark) { body { background: #14171b; color: #e6e9ec } }"
        body = "".join(map(ask.html, parts))
        path = tmp_path / "page.html"
        path.write_text(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Questions</title><style>{dark}</style>'
            f"<main><h1>Questions</h1>{body}</main>",
            encoding="utf-8",
        )
        page = new_page(**options)
        page.show(path)
        return page, parts

    return open_page


@pytest.mark.browser
def test_a_wrong_and_a_right_answer_by_keyboard(opened):
    page, (mask, _, token, *_) = opened()
    first = page.locator("peft-viz-exercise").nth(0)
    field, said = first.locator("input"), first.locator("output")
    assert "row 0 of the attention mask" in first.locator("form p").inner_text()
    field.focus()
    page.keyboard.type("1 " * 16)
    page.keyboard.press("Enter")
    assert said.inner_text() == ask.WORDS["en"]["padding"] and said.get_attribute("class") == "wrong"
    field.fill(mask.right)
    page.keyboard.press("Enter")
    assert said.inner_text() == "Right." and said.get_attribute("class") == "right"

    third = page.locator("peft-viz-exercise").nth(2)
    third.locator("input").nth(0).focus()
    for _ in range(sorted(token.choices).index(token.choices[0]) + 1):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # on the button
    assert third.locator("output").inner_text()


@pytest.mark.browser
def test_code_in_a_hint(opened):
    page, _ = opened()
    last = page.locator("peft-viz-exercise").nth(4)
    last.locator("input").fill("1")
    last.locator("button").first.click()
    assert last.locator("output").inner_html() == "Count <code>&lt;eos&gt;</code>, ` too."


@pytest.mark.browser
def test_the_solution_can_be_seen(opened):
    page, (_, labels, token, branch, _) = opened()
    for n, (right, word) in enumerate(
        [(labels.right, "答案"), (token.right, "Solution"), (branch.right, "Solution")], 1
    ):
        element = page.locator("peft-viz-exercise").nth(n)
        element.locator("button.quiet").click()
        assert element.locator("output").inner_text().casefold() == f"{word}: {right}".casefold()


@pytest.mark.browser
def test_without_scripts_the_question_stays_and_the_solution_unfolds(opened):
    page, (mask, *_) = opened(java_script_enabled=False)
    first = page.locator("peft-viz-exercise").nth(0)
    assert "row 0 of the attention mask" in first.inner_text() and mask.right not in first.inner_text()
    first.locator("summary").click()
    assert mask.right in first.inner_text()


@pytest.mark.browser
def test_a_form_turns_dark_and_light_with_its_page(opened):
    page, parts = opened(color_scheme="light")
    count = "n => [...document.querySelectorAll('peft-viz-exercise')]"
    count += ".filter(e => e.shadowRoot.querySelector('form.dark')).length === n"
    assert page.evaluate(count, 0)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(count, arg=len(parts))
    page.evaluate("document.body.style = 'background: white; color: black'")  # a page's own switch
    page.wait_for_function(count, arg=0)


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_questions_are_accessible(opened, scheme):
    axe = pytest.importorskip("axe_playwright_python", reason="axe is not installed")
    page, _ = opened(color_scheme=scheme)
    for n in (0, 2):
        page.locator("peft-viz-exercise").nth(n).locator("button").first.click()
    page.locator("peft-viz-exercise").nth(1).locator("button.quiet").click()
    page.add_script_tag(path=pathlib.Path(axe.__file__).parent / "axe.min.js")
    assert (
        page.evaluate("async () => (await axe.run()).violations.map(v => [v.id, v.nodes.map(n => n.html)])")
        == []
    )
    assert page.external == []


def test_ask_is_at_the_top():
    assert peft_viz.ask is ask


@pytest.mark.parametrize(
    "call, right, counts", [(0, [*range(4, 16)], True), (1, [4, 4, 4, 4, 4, 5, 6, 7], False)]
)
def test_a_hint_to_positions_says_what_this_run_did(call, right, counts):
    "peft's prefix counts padding in forward, and not in generate."
    words, question = (
        ask.WORDS["en"],
        ask.positions(recorded(CONFIGS["prefix"], peft.get_peft_model), call=call),
    )
    assert question.right == " ".join(map(str, right))
    assert question.check([x - 4 for x in right]) == words["from_zero"]
    other = [4] * 4 + [*range(4, 12)] if counts else [*range(4, 12)]
    assert question.check(other) == words["uncounted" if counts else "counted"]


def test_a_hint_to_the_shape_of_a_mask_with_four_dimensions():
    words, square = ask.WORDS["en"], torch.ones(2, 1, 6, 6).tril().bool()
    shapes = {}
    for name in ("prompt", "prefix"):
        base, tokenizer = load_tiny()
        model = get_peft_model(base, CONFIGS[name]).eval()
        with record(model) as trace, torch.no_grad():
            model(torch.full((2, 6), 20), attention_mask=square)
        shapes[name] = ask.shape(trace, "attention_mask")
    assert (shapes["prompt"].right, shapes["prefix"].right) == ("2 1 10 10", "2 1 6 10")
    assert shapes["prompt"].check("2 1 6 10") == words["rows"]
    assert shapes["prefix"].check("2 1 10 10") == words["queries"]
    for question in shapes.values():
        assert question.check("2 1 6 6") == words["virtual"].format(n=4)
        assert question.check("2 10") == words["square"]


def test_what_comes_back_is_asked_for_as_such(prompt):
    assert "returns" in ask.shape(prompt, "logits").question
    assert "reaches" in ask.shape(prompt, "labels").question
