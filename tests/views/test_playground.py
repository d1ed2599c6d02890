"The playground: it computes what PyTorch computes, and its page works from disk, by keyboard, in both languages."
# lane: here

import json, os, pathlib, re, shutil, subprocess
import pytest
import torch
from transformers import DynamicCache
from conftest import ROOT
from peft_viz.views import playground, viewer
from peft_viz.zoo.learned import KINDS, learned_tasks, learned_tensors, load_learned
from peft_viz.zoo.letters import TASKS, answer, answers_of, question, random_texts
from peft_viz.zoo.models import load_tiny

TAG = "peft-viz-playground"


# ---- against PyTorch


def placed(virtual, padding, text, counted, flipped):
    "What the page shows: the mask and the positions of virtual tokens, padding and text."
    names = [f"{kind}{i}" for kind, n in (("v", virtual), ("p", padding), ("t", len(text))) for i in range(n)]
    mask = [int((name[0] != "p") != (name in flipped)) for name in names]
    counts = [name[0] != "p" or counted for name in names]
    return mask, [sum(counts[:i]) for i in range(len(names))]


@torch.no_grad()
def expected(word, task, method, padding=0, counted=False, flipped=(), off=()):
    "PyTorch's logits of what is read: [columns, vocabulary], and which of them are seen."
    model, tokenizer = load_tiny() if method == "none" else load_learned(task, method)
    virtual = 0 if method in ("none", "lora") else 4
    ids = tokenizer("<pad>" * padding + question(word), add_special_tokens=False)["input_ids"]
    mask, positions = placed(virtual, padding, ids[padding:], counted, flipped)
    given = {"attention_mask": torch.tensor([mask])}
    first = virtual if method == "prefix" else 0
    base = model if method == "none" else model.get_base_model()
    embeds = base.get_input_embeddings()(torch.tensor([ids]))
    if method == "prompt":
        prompt = learned_tensors(task, method)["prompt_embeddings"].float()
        embeds = torch.cat([prompt[None], embeds], 1)
    if method == "prefix":
        layers = base.config.num_hidden_layers
        pairs = learned_tensors(task, method)["prompt_embeddings"].float().view(1, virtual, 2 * layers, 2, -1)
        given["past_key_values"] = cache = DynamicCache()
        for i in range(layers):
            keys, values = (pairs[:, :, 2 * i + j].transpose(1, 2) for j in (0, 1))
            cache.update(keys, values, i)
    for layer in off:
        for name, tensor in base.named_parameters():
            if f"layers.{layer}." in name and "lora_B" in name:
                tensor.zero_()
    out = base(inputs_embeds=embeds, position_ids=torch.tensor([positions[first:]]), **given)
    return out.logits[0], mask[first:]


def case(**asked):
    logits, seen = expected(**asked)
    rows = [row.tolist() if kept else None for row, kept in zip(logits, seen)]
    return {"asked": {"padding": 0, "counted": False, "flipped": [], **asked}, "seen": seen, "logits": rows}


def cases():
    "Every method with each kind of change, alone and together."
    changes = [
        {},
        {"padding": 3},
        {"padding": 5, "counted": True},
        {"padding": 2, "flipped": ["p1"]},
        {"flipped": ["t1"]},
    ]
    hidden = [{"flipped": ["v1"]}, {"padding": 3, "counted": True, "flipped": ["v0", "v3", "t0"]}]
    for method in ("none", *KINDS):
        for i, change in enumerate(changes + (hidden if method in ("prompt", "prefix") else [])):
            task = learned_tasks()[i % len(learned_tasks())]
            yield case(word="pizza"[: 3 + i % 3] + "q", task=task, method=method, **change)
    yield case(word="abc", task="sort", method="lora", off=[0, 2])
    yield case(word="a Z.é", task="sort", method="prompt")
    yield case(word="", task="sort", method="prefix")


def thousand():
    "A thousand words with the answers that `generate` gives: 250 for each method, and without one."
    tasks = learned_tasks()
    for i, method in enumerate((*KINDS, "none")):
        task = tasks[i % len(tasks)]
        model, tokenizer = load_tiny() if method == "none" else load_learned(task, method)
        words = random_texts(250, seed=i)
        for word, text in zip(words, answers_of(model, tokenizer, [question(word) for word in words])):
            yield {"word": word, "task": task, "method": method}, text


def node(file):
    "`node --test` with the cases in a file; what it said."
    if not (program := shutil.which("node")):
        pytest.skip("Node.js is not installed")
    environment = {**os.environ, "PLAYGROUND_CASES": str(file)}
    command = [program, "--test", "tests/js/playground.test.mjs"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_it_computes_what_pytorch_computes(tmp_path):
    "Logits within a thousandth for every method, mask and position; the same answers to a thousand words."
    given = {
        "facts": (facts := playground._facts()),
        "tensors": facts["tensors"],
        "bytes": playground._packed()[1],
        "cases": list(cases()),
        "answers": list(thousand()),
        "tasks": [[task, text, answer(text, task)] for task in TASKS for text in random_texts(20)],
    }
    assert len(given["answers"]) == 1000 and len({a for _, a in given["answers"]}) > 700
    file = tmp_path / "cases.json"
    file.write_text(json.dumps(given))
    done = node(file)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^# skipped 0", done.stdout, re.M), done.stdout


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("corrected", [False, True])
@torch.no_grad()
def test_padding_counts_as_in_a_model_with_an_adapter(kind, corrected):
    "`forward` on a padded row counts the padding, unless `corrected_positions` is on."
    model, tokenizer = load_learned("reverse", kind, corrected_positions=corrected)
    batch = tokenizer(["pizza=", "pizzapizza="], padding=True, return_tensors="pt", add_special_tokens=False)
    logits, _ = expected("pizza", "reverse", kind, padding=5, counted=not corrected)
    assert torch.allclose(model(**batch).logits[0, -1], logits[-1], atol=1e-4)


def test_adapters_that_are_not_there_are_named():
    with pytest.raises(ValueError, match="unknown task 'fly'; there are copy, "):
        load_learned("fly")
    with pytest.raises(ValueError, match="unknown kind of adapter 'ia3'; there are prompt, prefix, lora"):
        learned_tensors("sort", "ia3")


def test_weights_are_those_of_the_package():
    "Packed and unpacked: the very bytes of the checkpoint."
    import base64, zlib

    facts, text = playground._packed()
    raw = zlib.decompress(base64.b64decode(text))
    numbers = bytes(b for pair in zip(raw[len(raw) // 2 :], raw[: len(raw) // 2]) for b in pair)
    at = 0
    expected_ = playground._base_tensors()
    for name, shape in facts["tensors"]:
        size = 2 * torch.Size(shape).numel()
        if name in expected_:
            assert numbers[at : at + size] == expected_[name].numpy().tobytes(), name
        at += size
    assert at == len(numbers) and facts["parameters"] == 412_800


def test_lines_are_short():
    for file in (viewer._STATIC / "play").glob("*.js"):
        text = file.read_text(encoding="utf-8")
        assert max(map(len, text.splitlines())) <= 100, file.name
        for kept in viewer.bare(text).splitlines():
            assert kept.count("`") % 2 == 0, f"{file.name}: a string over several lines: {kept}"
    css = (viewer._STATIC / "play" / "playground.css").read_text(encoding="utf-8")
    assert min(map(float, re.findall(r"font(?:-size)?:[^;]*?([\d.]+)px", css))) >= 12


# ---- the page


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("playground") / "playground.html"
    path.write_text(playground.html(), encoding="utf-8")
    return path


def opened(page, file, address=""):
    page.show(file.resolve().as_uri() + address)
    return drawn(page)


def drawn(page):
    page.locator(f"{TAG} output.answer").last.wait_for()
    return page


def answers(page):
    return page.locator(f"{TAG} output.answer").all_inner_texts()


@pytest.mark.browser
def test_from_disk_without_network(file, new_page):
    page = opened(new_page(offline=True), file)
    assert answers(page) == ["azzip", "?"]
    page.fill(f"{TAG} .word input", "abcde")
    assert answers(page) == ["edcba", "?"]
    for method in ("prefix", "lora"):
        page.click(f"{TAG} .method [data-value={method}]")
        assert answers(page) == ["edcba", "?"]
    page.click(f"{TAG} [data-value=sort]")
    page.click(f"{TAG} [role=switch]")
    assert answers(page) == ["?", "?"]
    assert page.problems == [] and len(page.requests) == 1


@pytest.mark.browser
def test_a_virtual_token_is_knocked_out_by_mouse_and_by_keyboard(file, page):
    opened(page, file, "#method=prefix")
    cell = lambda name: page.locator(f'{TAG} [data-key="mask {name}"]')
    told = page.locator(f"{TAG} .attention .told")

    def looked():  # what the last row of the attention takes from the second virtual token
        box = page.locator(f"{TAG} .heat canvas").bounding_box()
        beside = cell("v1").bounding_box()
        page.mouse.move(beside["x"] + 9, box["y"] + box["height"] - 5)
        return told.inner_text()

    assert re.search(r"takes \S+ % from ◆2$", looked())
    cell("v1").click()
    assert cell("v1").inner_text() == "0"
    assert looked().endswith("may not look at ◆2: it is masked")
    cell("v1").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert cell("v2").inner_text() == "0" and page.url.endswith("#method=prefix&out=v1,v2")
    page.keyboard.press("Enter")  # the focus is still there
    assert cell("v2").inner_text() == "1" and "◆2" in page.locator(f"{TAG} .told-now").inner_text()


@pytest.mark.browser
def test_an_address_brings_back_what_was_shown(file, new_page):
    page = opened(new_page(), file)
    page.click(f"{TAG} [aria-label*='one more']")
    page.click(f"{TAG} [aria-label*='one more']")
    page.click(f"{TAG} .counted [data-value=true]")
    page.click(f'{TAG} [data-key="at t2"]')
    page.click(f"{TAG} footer [lang=zh-CN]")
    again = opened(new_page(), file, "#" + page.url.partition("#")[2])
    text = lambda p: p.locator(f"{TAG} .figure").inner_text()
    assert text(again) == text(page) and "位置" in text(again)
    positions = again.locator(f"{TAG} .position i.cell").all_inner_texts()
    assert positions[: 4 + 2 + 6] == list(map(str, range(12)))
    assert again.problems == []


WORDS = {  # a word -> what is said of it, and the verdict of the first answer
    "": ("There is no word yet: type one.", ""),
    "pizza": ("learned vectors in front of it do (384 numbers).", "✓ right"),
    "Über": ("The model has no token for Ü: it reads <unk> there, and cannot write it.", "✗ should be rebÜ"),
    "abcdefghijk": ("words of 3 to 10 letters, a to z; this one is different.", ""),
    "abcdefghijkl": ("this one is different. No more than 12 letters fit here.", ""),
    "Ab": ("this one is different.", ""),
}


@pytest.mark.browser
def test_what_the_model_cannot_read_or_did_not_learn_is_said(file, page):
    opened(page, file)
    for word, (said, verdict) in WORDS.items():
        page.fill(f"{TAG} .word input", word)
        assert page.locator(f"{TAG} .told-now").inner_text().strip().endswith(said), word
        verdicts = page.locator(f"{TAG} .verdict").all_inner_texts()
        assert len(verdicts) == (2 if word else 0) and (not verdict or verdicts[0] == verdict), word
    page.click(f"{TAG} [role=switch]")
    assert "this one is different." in page.locator(f"{TAG} .told-now").inner_text()


@pytest.mark.browser
def test_rows_are_named_on_a_phone(file, new_page):
    page = opened(new_page(viewport={"width": 390, "height": 800}), file)
    names = page.locator(f"{TAG} .lane:not(.beside) .strip-name")
    assert names.all_inner_texts() == ["tokens", "mask", "position"]
    tops = [name.bounding_box() for name in names.all()]
    cells = [
        page.locator(f"{TAG} .lane:not(.beside) .{row} .cell").first for row in ("tokens", "mask", "position")
    ]
    assert all(a["y"] + a["height"] <= c.bounding_box()["y"] for a, c in zip(tops, cells))


SHOWN = {  # an address on the page -> the answer that the text beside it speaks of
    "on=0": "?",
    "word=planets&at=g2": "stenalp",
    "method=prefix&out=v1": "zzip",
    "method=prefix&out=v0": "azzip",
    "method=prefix&out=v0,v1,v2,v3": "?",
    "pad=4": "azzip",
    "pad=4&counted=1": "azzipp",
    "method=lora&pad=4&counted=1": "azzip",
    "method=prefix&pad=3&out=p0,p1,p2": "anp",
}


@pytest.mark.browser
def test_what_the_page_says_of_its_links_is_so(file, page):
    cells = json.loads((ROOT / "nbs" / "playground.ipynb").read_text(encoding="utf-8"))["cells"]
    text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert re.findall(r"\]\(#([^)]*=[^)]*)\)", text) == list(SHOWN)
    opened(page, file)
    go = """address => new Promise(done => {
        addEventListener("hashchange", () => setTimeout(done), {once: true});
        location.hash = address;
    })"""
    for address, answer_ in SHOWN.items():
        page.evaluate(go, address)
        assert answers(page)[0] == answer_, address
    assert page.problems == []


@pytest.mark.browser
def test_the_weights_may_come_from_a_script(tmp_path, page):
    "As on the site: the page is drawn first. Where there is no such script, it says so."
    file = tmp_path / "page.html"
    file.write_text(f"<!doctype html><meta charset=utf-8>{playground.fragment('weights.js')}")
    assert file.stat().st_size < 200_000
    page.show(file)
    page.locator(f"{TAG} .status", has_text="playground.html()").wait_for()
    (tmp_path / "weights.js").write_text(playground.weights_script())
    assert answers(opened(page, file)) == ["azzip", "?"]


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 820, 1400])
def test_it_fits_its_place(file, new_page, width):
    page = new_page(viewport={"width": width, "height": 800})
    for address in ("", "#word=abcdefghijkl&pad=12&counted=1&method=prefix", "#lang=zh&method=lora&pad=4"):
        opened(page, file, address)
        page.reload()
        drawn(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_accessible(file, new_page, scheme):
    axe = pytest.importorskip("axe_playwright_python")
    page = new_page(color_scheme=scheme, bypass_csp=True)
    opened(page, file, "#method=prefix&out=v1,p0&pad=3&counted=1")
    page.add_script_tag(
        content=(pathlib.Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    )
    found = (
        "async () => (await axe.run()).violations.map(v => [v.id, ...v.nodes.map(n => n.html.slice(0, 160))])"
    )
    assert page.evaluate(found) == []
