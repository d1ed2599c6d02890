"""What is done with notebooks from the command line.

notebooks.py demo NOTEBOOK       run a copy of it with a progress line; it leaves tour.html in the checkout
notebooks.py run [NOTEBOOK...]   run them in place and keep their outputs (all of them when none is named), then export
notebooks.py pictures            make every saved picture anew: `run`, then the screenshots in nbs/images
notebooks.py test [NOTEBOOK...]  run them as tests: nothing is kept, and what they show must be what was saved
notebooks.py outputs             the same for those that changed since they last passed
notebooks.py export              write peft_viz/*.py and README.md, and clean the notebooks
notebooks.py check               do the above in a copy and say what would change: nothing should

A cell whose output is another one each time, or on another machine, says so in a line of its own: `#| varies`.
A notebook that needs more than what is installed for everyone says so in one of its cells: `#| needs MODULE...`.
Where a module is missing, the notebook is not run, and counts as skipped.
"""

import base64, difflib, hashlib, importlib.util, io, json, multiprocessing, os, re, runpy, shutil, subprocess, sys
import tempfile, time, traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GENERATED = ("nbs", "peft_viz", "README.md", "README_files", "pyproject.toml")  # what `export` may write to
NEEDED = (*GENERATED, "settings.ini", "setup.py")  # what `export` reads besides


def eligible(root=ROOT):
    """The notebooks that are run and tested: all but those in a folder with a file named `.notest` (hours of
    training, say)."""
    found = sorted((root / "nbs").rglob("*.ipynb"))
    return [
        nb
        for nb in found
        if not (nb.parent / ".notest").exists()
        and not any(part.startswith((".", "_")) for part in nb.relative_to(root).parts)
    ]


def missing(path):
    "The modules that the notebook at `path` needs, as it says itself, and that are not installed."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    said = re.findall(r"^#\| needs (.+)", "\n".join("".join(cell["source"]) for cell in cells), re.M)
    named = [name for line in said for name in line.split()]
    return [name for name in named if importlib.util.find_spec(name) is None]


# ---- running


def execute(path, title, env=None):
    """Run the notebook at `path` in its own folder, with a line for each of its sections; the notebook with its
    outputs, or exit."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # the kernel of this environment, not one of the user's
    os.environ.update(env or {})
    nb = nbformat.read(path, as_version=4)
    client = NotebookClient(
        nb,
        timeout=3600,
        kernel_name="python3",
        store_widget_state=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
    )
    total, progress = sum(cell.cell_type == "code" for cell in nb.cells), Progress(title)
    try:
        with client.setup_kernel():
            for index, cell in enumerate(nb.cells):
                if cell.cell_type == "markdown":
                    progress.section(cell.source)
                else:
                    progress.cell(total)
                    client.execute_cell(cell, index)
    except (CellExecutionError, DeadKernelError) as error:
        progress.close("failed")
        sys.exit(
            f"\n{title} failed. " + re.sub(r"\x1b\[[0-9;]*m", "", str(error))
        )  # the cell and its traceback
    progress.close()
    for cell in nb.cells:
        cell.get("metadata", {}).pop("execution", None)
    return nb


class Progress:
    "One line for each section of a notebook, and on a terminal a moving one for the cell that is running."

    def __init__(self, title):
        self.heading, self.cells, self.done, self.start, self.live = (
            title,
            0,
            0,
            time.time(),
            sys.stdout.isatty(),
        )

    def section(self, markdown):
        heading = re.search(r"^#+ +(.+)", markdown, re.M)
        if not heading:
            return
        self.close()
        self.heading, self.cells, self.start = heading[1].strip(), 0, time.time()

    def cell(self, total):
        self.cells, self.done = self.cells + 1, self.done + 1
        if self.live:
            print(f"\r\033[K  [{self.done}/{total}] {self.heading} ...", end="", flush=True)

    def close(self, word="done"):
        if self.live:
            print("\r\033[K", end="")
        if self.cells:
            print(f"  {word:<6} {time.time() - self.start:5.1f} s  {self.heading}", flush=True)


def demo(notebook):
    "Run the tour as anyone would, but in a copy, so that the checkout stays as it is; it leaves tour.html."
    source, page, start = Path(notebook).resolve(), ROOT / "tour.html", time.time()
    if not source.exists():
        sys.exit(f"{notebook} is not there")
    print(f"Running {source.relative_to(ROOT)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(source.parent, Path(folder) / source.parent.name)
        execute(copy / source.name, source.stem, env={"PEFT_VIZ_TOUR": str(page), "PEFT_VIZ_DEMO": "1"})
    if not page.exists() or page.stat().st_mtime < start - 1:
        sys.exit(f"the tour ran, but left no {page.name}")
    print(
        f"\n{page.name} is ready ({page.stat().st_size / 1000:.0f} kB, "
        f"{time.time() - start:.0f} s). It needs no network. Open it in a browser:\n"
        f"  {page.as_uri()}\nor read the tour itself, live: make lab"
    )


def run(*notebooks):
    "Run notebooks in place, keep what they show, then clean and export."
    import nbformat

    os.environ.setdefault("PEFT_VIZ_TOUR", str(ROOT / "tour.html"))
    paths = [Path(nb).resolve() for nb in notebooks] or eligible()
    for path in paths:
        print(path.relative_to(ROOT), flush=True)
        if lacks := missing(path):
            print(f"  left as it is: {', '.join(lacks)} is not installed", flush=True)
            continue
        nb = execute(path, path.stem)
        for output in (o for cell in nb.cells for o in cell.get("outputs", ())):
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = smaller(output["data"]["image/png"])
        nbformat.write(nb, path)
    export()


def smaller(picture):
    "A PNG (in base64) in 256 colours at most: nothing to be seen for what is drawn, and a third of the bytes."
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(base64.b64decode(picture)))
    except UnidentifiedImageError:
        return picture
    if image.mode == "P":
        return picture
    opaque = image.getchannel("A").getextrema()[0] == 255 if "A" in image.getbands() else True
    method = Image.Quantize.MEDIANCUT if opaque else Image.Quantize.FASTOCTREE
    out = io.BytesIO()
    few = image.convert("RGB" if opaque else "RGBA").quantize(256, method, dither=Image.Dither.NONE)
    few.save(out, "png", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def pictures():
    "Make every saved picture anew: those in notebooks and README_files by running, those in nbs/images by a browser."
    run()
    import screenshots

    screenshots.main()


# ---- running as a test

WORKERS = max(1, min(4, os.cpu_count() or 1))
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "agg",
    "OMP_NUM_THREADS": "1",
}
# Imported once, in a process that is forked for each notebook. Nothing of peft_viz: a notebook has what it imports.
HEAVY = """
torch torch.utils.checkpoint transformers transformers.generation transformers.models.auto.modeling_auto
transformers.models.llama.modeling_llama transformers.models.gpt2.modeling_gpt2
transformers.tokenization_utils_tokenizers IPython msgspec ipywidgets matplotlib.pyplot
matplotlib_inline.backend_inline nbdev.test nbdev.export
""".split()
PASSED = ROOT / ".passed.json"  # notebook -> digest of all that it depended on when it passed last
MINUTES = 20  # that a notebook may take


def test_all(paths):
    "Run notebooks as tests, each in its own process, with a line for each; how many (passed, failed, skipped)."
    lacks = {path: found for path in paths if (found := missing(path))}
    for path, found in lacks.items():
        print(
            f"  skipped           {path.relative_to(ROOT)}: {', '.join(found)} is not installed", flush=True
        )
    # the largest first, so that no worker is idle at the end
    paths = sorted((path for path in paths if path not in lacks), key=lambda path: -path.stat().st_size)
    os.environ.update(OFFLINE, IN_TEST="1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    count, good_ones = len(paths), json.loads(PASSED.read_text()) if PASSED.exists() else {}
    with ThreadPoolExecutor(WORKERS) as pool:
        for path, good, seconds, output in pool.map(lambda path: in_a_fork(context, path), paths):
            print(
                f"  {'ok    ' if good else 'FAILED'} {seconds:6.1f} s  {path.relative_to(ROOT)}", flush=True
            )
            if not good:
                print("\n" + output.strip() + "\n", flush=True)
            count -= good
            good_ones[str(path.relative_to(ROOT))] = digest(path) if good else None
            PASSED.write_text(json.dumps(good_ones, indent=1, sort_keys=True))
    return len(paths) - count, count, len(lacks)


def in_a_fork(context, path):
    start = time.time()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        log.touch()
        process = context.Process(target=notebook_test, args=(path, folder, log))
        process.start()
        process.join(60 * MINUTES)
        if process.is_alive():
            process.kill()
            process.join()
            log.write_text(f"it did not end within {MINUTES} minutes")
        good, output = process.exitcode == 0, log.read_text(encoding="utf-8", errors="replace")
    return path, good, time.time() - start, output


def notebook_test(path, folder, log):
    "In the fork: run one notebook; exit with 1, and say so in `log`, when a cell raises or shows something else."
    out = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(out, 1), os.dup2(out, 2)
    from execnb.shell import CaptureShell
    from nbdev.frontmatter import FrontmatterProc
    from nbdev.process import NBProcessor

    os.environ["PEFT_VIZ_TOUR"] = str(Path(folder) / "tour.html")
    os.chdir(path.parent)
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
    import lesson_branches

    notebook = NBProcessor(path, procs=FrontmatterProc, process=True).nb
    saved = {cell.id: [*cell.get("outputs", [])] for cell in notebook.cells}
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source.rstrip().endswith(";"):
            cell.source += "\nNone"  # for a cell that ends in a semicolon execnb leaves out what it prints
    watch = lesson_branches.Watch() if path.parent == ROOT / "nbs" / "tutorials" else None
    shell = CaptureShell(path, mpl_format="png")
    try:
        shell.run_all(notebook, exc_stop=True, preproc=left_out)
    except BaseException:
        print(shell.prettytb(fname=path) if shell.exc else traceback.format_exc())
        sys.exit(1)
    if watch:
        watch.save(path.stem)
    ran = [cell for cell in notebook.cells if not left_out(cell) and "varies" not in directives(cell)]
    wrong = [complaint for cell in ran if (complaint := compare(cell, saved[cell.id]))]
    if wrong:
        print("\n\n".join(wrong) + f"\nTo keep what it shows now: make notebooks NB={path.relative_to(ROOT)}")
        sys.exit(1)


def directives(cell):
    return getattr(cell, "directives_", None) or {}


def left_out(cell):
    "Is this cell not run in a test?"
    said = directives(cell)
    unwanted = "notest" in said or said.get("eval:", [""])[0].lower() == "false"
    return cell.cell_type != "code" or "nbdev_export(" in cell.source or unwanted


def compare(cell, saved):
    "How what a cell shows differs from what was saved of it; None where it does not."
    old, new = shown(saved), shown(cell.get("outputs", []))
    if old == new:
        return None
    lines = []
    for kind in sorted(old.keys() | new.keys()):
        a, b = old.get(kind, ""), new.get(kind, "")
        if a != b and kind == "image/png":
            lines.append("another picture")
        elif a != b and max(map(len, (a, b))) > 5000:  # a page of its own
            at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
            lines += [f"{kind}, at character {at}", "-" + a[at - 40 : at + 60], "+" + b[at - 40 : at + 60]]
        elif a != b:
            found = difflib.unified_diff(a.splitlines(), b.splitlines(), "saved", "now", lineterm="", n=0)
            lines += [kind, *list(found)[2:14]]
    return "\n  ".join(["What this cell shows is not what was saved:", cell.source.strip()[:200], *lines])


def shown(outputs):
    "Of a cell's outputs what a reader sees, by kind, without what varies. Progress bars are in stderr: left out."
    parts = {}
    for output in outputs:
        data = output.get("data", {})
        if output["output_type"] == "stream":
            data = {"stdout": output["text"]} if output["name"] == "stdout" else {}
        richer = {"text/html", "image/png", "image/svg+xml", "text/markdown"} & data.keys()
        for kind in richer or {"stdout", "text/plain"} & data.keys():
            text = "".join(data[kind])
            text = smaller(text.strip()) if kind == "image/png" else masked(text)
            parts[kind] = parts[kind] + "\n" + text if kind in parts else text
    return {kind: text for kind, text in parts.items() if text}


VARIES = (  # what may differ from run to run, and what is compared instead
    (r"\b0x[0-9a-f]{6,}\b", "0x…"),
    (r"\b\d+(\.\d+)? ?(ns|µs|us|ms|s|seconds|minutes)\b", "… s"),
    (r"\b[0-9a-f]{32}\b|\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}\b", "…"),
    (r"(/tmp|/var/folders)/[\w./-]+", "/tmp/…"),
    (r"\b\d{6,}\.py\b|(<|\\u003c)ipython-input-[\w-]+>", "a cell"),  # where a notebook's own function stands
)


def masked(text):
    "Text as it stands there at the end (a line that was written over is gone), without what varies."
    text = "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")).strip("\n")
    for pattern, instead in VARIES:
        text = re.sub(pattern, instead, text)
    return text


def digest(path):
    "Of all that a notebook depends on: itself, the package, tests (some read them), what draws pages, versions."
    found = [
        path,
        *(ROOT / "requirements").iterdir(),
        *(ROOT / "peft_viz").rglob("*"),
        *(ROOT / "scripts").glob("*_page.py"),
        *(ROOT / "tests").glob("*"),
        *(ROOT / "tests").rglob("test_*.py"),
    ]
    total = hashlib.sha256()
    for file in sorted(f for f in found if f.is_file() and "__pycache__" not in f.parts):
        total.update(str(file.relative_to(ROOT)).encode() + file.read_bytes())
    return total.hexdigest()


def test(*notebooks):
    "Run notebooks as tests. Exits with 1 when one fails."
    _, failed, _ = test_all([Path(nb).resolve() for nb in notebooks] or eligible())
    if failed:
        sys.exit(f"{failed} notebook(s) failed")


def outputs():
    "Test the notebooks that have not passed with everything as it is now."
    passed = json.loads(PASSED.read_text()) if PASSED.exists() else {}
    old = [path for path in eligible() if passed.get(str(path.relative_to(ROOT))) != digest(path)]
    if old:
        print(f"Notebooks whose saved outputs are to be compared: {len(old)}", flush=True)
        test(*old)
    import screenshots

    if stale := screenshots.stale():
        sys.exit(
            f"Not of today's pages: {', '.join(stale)} in nbs/images. Run `make pictures` and commit what it makes."
        )
    print("What the notebooks and the pictures show is what was saved.")


# ---- writing what is generated


def export(root=ROOT):
    "Notebooks to modules, notebooks cleaned, settings.ini to nbs/nbdev.yml, index notebook to README.md."
    steps = (
        "from nbdev.doclinks import nbdev_export; nbdev_export.__wrapped__()",
        "from nbdev.clean import nbdev_clean; nbdev_clean.__wrapped__()",
        "from nbdev.quarto import refresh_quarto_yml; refresh_quarto_yml()",
    )
    env = {
        name: value for name, value in os.environ.items() if name != "IN_TEST"
    }  # with it, nbdev_export does nothing
    subprocess.run([sys.executable, "-c", "\n".join(steps)], cwd=root, env=env, check=True)
    names = runpy.run_path(str(root / "peft_viz" / "api.py"))
    (root / "peft_viz" / "__init__.pyi").write_text(names["stub"](), encoding="utf-8")
    readme(root)


def readme(root=ROOT):
    "README.md is the index notebook: its prose, its code, and what the code printed."
    import nbformat

    source, target, pictures = root / "nbs" / "index.ipynb", root / "README.md", root / "README_files"
    if not source.exists():
        return
    shutil.rmtree(pictures, ignore_errors=True)
    parts = ["<!-- Written from nbs/index.ipynb by `make export`: edit that notebook. -->"]
    for cell in nbformat.read(source, as_version=4).cells:
        text = "".join(cell.source)
        if re.match(r"#\|\s*hide\s*$", text, re.M) or not text.strip():
            continue
        if cell.cell_type == "markdown":
            parts.append(relink(text))
        elif cell.cell_type == "code":
            code = re.sub(r"^#\|.*\n?", "", text, flags=re.M).strip()
            if code and "echo: false" not in text:
                parts.append(f"```python\n{code}\n```")
            alt = re.search(r"^#\|\s*fig-alt:\s*(.+)", text, re.M)
            outputs = (show(output, pictures, alt[1].strip() if alt else "") for output in cell.outputs)
            parts += [shown for shown in outputs if shown]
    target.write_text("\n\n".join(part.strip("\n") for part in parts) + "\n", encoding="utf-8")


def relink(markdown):
    "Links of the index notebook lead out of nbs/; those of the README out of the folder above it."
    target = r"(?!https?:|mailto:|#|/)"
    up = re.sub(rf"(\]\(){target}(?!\.\./)", r"\1nbs/", markdown)  # ](tutorials/x)  -> ](nbs/tutorials/x)
    return re.sub(r"(\]\()\.\./", r"\1", up)  # ](../LICENSE)   -> ](LICENSE)


def show(output, pictures, alt=""):
    "One saved output as Markdown: Markdown itself, else a picture (`alt` says what is on it), else plain text."
    if output.output_type == "stream":
        return f"```\n{output.text.rstrip()}\n```" if output.name == "stdout" else None
    data = output.get("data", {})
    if "text/markdown" in data:
        return data["text/markdown"]
    if "image/png" in data:
        pictures.mkdir(exist_ok=True)
        name = f"figure-{len(list(pictures.iterdir())) + 1}.png"
        (pictures / name).write_bytes(base64.b64decode(data["image/png"]))
        return f"![{alt}]({pictures.name}/{name})"
    return f"```\n{data['text/plain'].rstrip()}\n```" if data.get("text/plain") else None


# ---- checking that nothing is out of step


def files(root):
    "Path -> bytes of every generated file under `root`."
    every = [
        p
        for name in GENERATED
        for p in ([root / name] if (root / name).is_file() else (root / name).rglob("*"))
        if p.is_file()
    ]
    skip = {"__pycache__", ".ipynb_checkpoints", "sidebar.yml.bak"}
    return {str(p.relative_to(root)): p.read_bytes() for p in every if not skip & set(p.parts)}


def check(root=ROOT):
    """Export in a copy from which every generated module was removed; report what comes out differently.

    Exits with 1 if anything does."""
    before = files(root)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in NEEDED:
            if (root / name).is_dir():
                shutil.copytree(
                    root / name,
                    copy / name,
                    ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"),
                )
            elif (root / name).exists():
                shutil.copy2(root / name, copy / name)
        for module in (copy / "peft_viz").rglob("*.py"):
            if "AUTOGENERATED" in module.read_text(encoding="utf-8")[:200]:
                module.unlink()
        export(copy)
        after = files(copy)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    for name in changed:
        print(explain(name, before.get(name), after.get(name)), "\n")
    if changed:
        sys.exit(
            f"{len(changed)} file(s) out of step with the notebooks. Run `make export` and commit what it writes."
        )
    print(f"Notebooks, modules and README.md agree ({len(before)} files).")


def explain(name, have, want):
    "Why a file is out of step, with the first lines that differ."
    if have is None:
        return f"{name}: missing; the notebooks make it"
    if want is None:
        return f"{name}: no notebook makes it"
    kind = (
        "not clean (nbdev_clean changes it)"
        if name.endswith(".ipynb")
        else "differs from what the notebooks make"
    )
    try:
        old, new = have.decode().splitlines(), want.decode().splitlines()
    except UnicodeDecodeError:
        return f"{name}: {kind}"
    lines = [line[:160] for line in difflib.unified_diff(old, new, "here", "exported", lineterm="", n=1)]
    return "\n  ".join([f"{name}: {kind}", *lines[:20], *(["..."] if len(lines) > 20 else [])])


if __name__ == "__main__":
    commands = dict(
        demo=demo, run=run, pictures=pictures, test=test, outputs=outputs, export=export, check=check
    )
    if len(sys.argv) < 2 or sys.argv[1] not in commands or {"-h", "--help"} & set(sys.argv):
        sys.exit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])
