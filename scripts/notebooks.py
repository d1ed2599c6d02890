"""What is done with notebooks from the command line.

notebooks.py demo NOTEBOOK       run a copy of it with a progress line; it leaves tour.html in the checkout
notebooks.py run [NOTEBOOK...]   run them in place and keep their outputs (all of them when none is named), then export
notebooks.py test NOTEBOOK       run it as a test, with nbdev; nothing is kept
notebooks.py export              write peft_viz/*.py and README.md, and clean the notebooks
notebooks.py check               do the above in a copy and say what would change: nothing should
"""

import base64, difflib, os, re, shutil, subprocess, sys, tempfile, time
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


def test(notebook):
    "Run one notebook as a test, with nbdev: cells marked `#| notest` are left out. Exits with 1 when a cell raises."
    from nbdev.config import get_config
    from nbdev.test import test_nb

    with tempfile.TemporaryDirectory() as folder:
        os.environ["PEFT_VIZ_TOUR"] = str(Path(folder) / "tour.html")
        good, _ = test_nb(
            Path(notebook).resolve(), skip_flags=get_config(path=ROOT).tst_flags.split(), basepath=ROOT
        )
    sys.exit(not good)


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
        nbformat.write(execute(path, path.stem), path)
    export()


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
            parts += [shown for shown in (show(output, pictures) for output in cell.outputs) if shown]
    target.write_text("\n\n".join(part.strip("\n") for part in parts) + "\n", encoding="utf-8")


def relink(markdown):
    "Links of the index notebook lead out of nbs/; those of the README out of the folder above it."
    target = r"(?!https?:|mailto:|#|/)"
    up = re.sub(rf"(\]\(){target}(?!\.\./)", r"\1nbs/", markdown)  # ](tutorials/x)  -> ](nbs/tutorials/x)
    return re.sub(r"(\]\()\.\./", r"\1", up)  # ](../LICENSE)   -> ](LICENSE)


def show(output, pictures):
    "One saved output as Markdown: Markdown itself, else a picture, else plain text."
    if output.output_type == "stream":
        return f"```\n{output.text.rstrip()}\n```" if output.name == "stdout" else None
    data = output.get("data", {})
    if "text/markdown" in data:
        return data["text/markdown"]
    if "image/png" in data:
        pictures.mkdir(exist_ok=True)
        name = f"figure-{len(list(pictures.iterdir())) + 1}.png"
        (pictures / name).write_bytes(base64.b64decode(data["image/png"]))
        return f"![]({pictures.name}/{name})"
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
    commands = {"demo": demo, "run": run, "test": test, "export": export, "check": check}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])
