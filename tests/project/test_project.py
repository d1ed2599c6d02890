"The package as a package: what it ships, what it imports, and that its papers agree with each other."
# lane: here

import ast, configparser, json, re, shutil, subprocess, sys, zipfile
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
import pytest
from conftest import ROOT

PACKAGE = ROOT / "peft_viz"
MODULES = sorted(PACKAGE.rglob("*.py"))
NOTEBOOKS = [
    p for p in sorted((ROOT / "nbs").rglob("*.ipynb")) if not any(part.startswith(".") for part in p.parts)
]
SETTINGS = configparser.ConfigParser(delimiters=["="])
SETTINGS.read(ROOT / "settings.ini", encoding="utf-8")
SETTINGS = SETTINGS["DEFAULT"]


def module_name(path):
    "peft_viz/reference/methods/lora.py -> reference.methods.lora"
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def imported(path):
    "Every module that a file imports anywhere, also inside functions: absolute names, `peft_viz.x` for its own."
    package = (
        ("peft_viz." + module_name(path)).split(".")[:-1]
        if path.name != "__init__.py"
        else ("peft_viz." + module_name(path)).rstrip(".").split(".")
    )
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            names |= {whole} | {f"{whole}.{alias.name}" for alias in node.names}
    return names


def python(code):
    "Run code in a fresh process, outside the checkout; what it printed."
    done = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ---- imports


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_neither_nbdev_nor_fastcore_nor_peft_is_imported(path):
    assert not {name.split(".")[0] for name in imported(path)} & {"nbdev", "fastcore", "execnb", "peft"}


def arrows():
    "Module -> the modules of the package that it imports, anywhere in its text; packages do not count."
    names = {module_name(path): path for path in MODULES if path.name != "__init__.py"}
    own = {name: {i.removeprefix("peft_viz.") for i in imported(path)} for name, path in names.items()}
    return {name: imports & names.keys() for name, imports in own.items()}


def wing(module):
    "The folder that a module stands in; `commands` for those at the top."
    return module.split(".")[0] if "." in module else "commands"


KNOWS = {  # wing -> the wings that it may import
    "reference": {"reference"},
    "recording": {"recording", "reference"},
    "zoo": {"zoo", "reference"},
    "views": {"views", "recording", "reference", "zoo"},
    "startup": {"startup"},
    "commands": {"commands", "startup", "views", "recording", "reference", "zoo"},
}


def test_arrows_run_one_way():
    found = arrows()
    assert len(found) > 30 and found["reference.causal_lm"] >= {"reference.place", "reference.model"}
    wrong = [f"{a} -> {b}" for a, imports in found.items() for b in imports if wing(b) not in KNOWS[wing(a)]]
    assert not wrong


def test_recording_takes_nothing_of_the_reference_but_files_and_the_ignored_label():
    of = {
        b
        for a, imports in arrows().items()
        if wing(a) == "recording"
        for b in imports
        if wing(b) == "reference"
    }
    assert of == {"reference.files", "reference.config"}
    names = {name for path in (PACKAGE / "recording").glob("*.py") for name in imported(path)}
    assert {n for n in names if ".config." in n} == {"peft_viz.reference.config.IGNORED"}


def test_no_circle():
    with pytest.raises(CycleError):
        list(TopologicalSorter({"a": {"b"}, "b": {"a"}}).static_order())
    order = list(TopologicalSorter(arrows()).static_order())  # raises CycleError, and names the circle
    assert (
        order.index("reference.files") < order.index("reference.config") < order.index("reference.causal_lm")
    )


@pytest.mark.parametrize("module", ["recording.trace", "recording.layout", "views.viewer", "cli"])
def test_a_trace_is_read_without_torch(module):
    assert (
        python(
            f"import sys, peft_viz.{module}; print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
        )
        == "[]"
    )


def test_importing_the_package_is_cheap():
    assert (
        python(
            "import sys, peft_viz; print([m for m in ('torch', 'transformers', "
            "'matplotlib', 'ipywidgets') if m in sys.modules])"
        )
        == "[]"
    )


MOVED = dict(
    [
        ("reference.injection:ModulesToSaveWrapper", "reference.injection.saved"),
        ("tuners.injection:BaseTuner", "reference.injection.tuner"),
        ("tuners.prefix:PrefixEncoder", "reference.methods.prefix_tuning"),
        ("tuners.soft_prompt:PromptEmbedding", "reference.methods.prompt_tuning"),
        ("recording.describe:Album", "recording.values"),
        ("tasks:collate", "zoo.letters"),
        ("model:PeftModel", "reference.model"),
    ]
)


def test_what_has_moved_is_found_under_its_address_of_before():
    "A pickled model names the module and the class of each of its parts."
    code = [
        f"from peft_viz.{module} import {name}; print({name}.__module__)"
        for module, name in (old.split(":") for old in MOVED)
    ]
    assert python("\n".join(code)).split() == [f"peft_viz.{new}" for new in MOVED.values()]


# ---- what is shipped


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "The names in a wheel built from a copy of the checkout, with the packages of this environment."
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("peft_viz", "nbs", "tests"):
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        )
    for name in ("setup.py", "settings.ini", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source / name)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            ".",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "-q",
            "-w",
            folder,
        ],
        cwd=source,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_holds_every_module_and_every_file_beside_them(wheel):
    expected = {
        str(p.relative_to(ROOT))
        for p in PACKAGE.rglob("*")
        if p.is_file() and not {"__pycache__", ".ipynb_checkpoints"} & set(p.parts)
    }
    shipped = {name for name in wheel.namelist() if not name.startswith("peft_viz-")}
    assert shipped == expected
    assert any(name.startswith("peft_viz/views/static/") for name in shipped) and any(
        name.startswith("peft_viz/zoo/tiny/") for name in shipped
    )


def test_what_is_shipped_beside_the_code_is_small(wheel):
    size = {
        part: sum(i.file_size for i in wheel.infolist() if i.filename.startswith(f"peft_viz/{part}/"))
        for part in ("zoo/tiny", "views/static")
    }
    assert size["zoo/tiny"] <= 2 * 2**20 and size["views/static"] <= 415_000


def test_the_wheel_says_what_settings_ini_says(wheel):
    metadata = wheel.read(next(n for n in wheel.namelist() if n.endswith("/METADATA"))).decode()
    scripts = wheel.read(next(n for n in wheel.namelist() if n.endswith("/entry_points.txt"))).decode()
    assert (
        f"Version: {SETTINGS['version']}\n" in metadata
        and "License: Apache-2.0" in metadata
        and "Provides-Extra: smollm2" in metadata
    )
    assert f"Requires-Python: >={SETTINGS['min_python']}" in metadata
    assert "[console_scripts]" in scripts and "peft-viz" in scripts
    required = {
        re.split(r"[<>=!; ]", line.removeprefix("Requires-Dist: "))[0]
        for line in metadata.splitlines()
        if line.startswith("Requires-Dist:")
    }
    assert (
        "peft" not in required
        and {"torch", "transformers", "safetensors", "matplotlib", "ipywidgets", "anywidget"} <= required
    )


def test_the_installed_command_starts(capsys, monkeypatch):
    "What is installed as `peft-viz` can be imported, and says what it is for."
    from importlib.metadata import entry_points

    (command,) = entry_points(group="console_scripts", name="peft-viz")
    monkeypatch.setattr(sys, "argv", ["peft-viz", "--help"])
    with pytest.raises(SystemExit) as ended:
        command.load()()
    assert not ended.value.code and "peft-viz" in capsys.readouterr().out


def test_the_command_in_the_environment_starts_too():
    "The script that pip wrote beside this Python, and `python -m peft_viz`, in processes of their own."
    script = Path(sys.executable).with_name("peft-viz")
    for command in [script], [sys.executable, "-m", "peft_viz"]:
        done = subprocess.run([*command, "--help"], cwd="/", capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.startswith("usage"), done.stderr


# ---- the papers agree


def pins(name):
    return dict(
        line.split("==")
        for line in (ROOT / "requirements" / name).read_text().splitlines()
        if line and not line.startswith("#")
    )


def test_the_lock_is_exact_and_serves_what_users_install():
    from packaging.requirements import Requirement

    lock = pins("torch.txt") | pins("dev.txt")
    assert list(pins("torch.txt")) == ["torch"] and "torch" not in pins("dev.txt")
    normal = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in lock.items()}
    wanted = [
        Requirement(r) for key in ("requirements", "smollm2_requirements") for r in SETTINGS[key].split()
    ]
    wanted += [
        Requirement(line)
        for line in (ROOT / "requirements" / "dev.in").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    for requirement in wanted:
        assert requirement.specifier.contains(normal[requirement.name.lower()]), str(requirement)


def test_this_environment_is_the_locked_one():
    from importlib.metadata import version

    lock = pins("torch.txt") | pins("dev.txt")
    assert {name: version(name).split("+")[0] for name in lock} == lock


def test_versions_and_python_agree():
    init = (PACKAGE / "__init__.py").read_text()
    assert f'__version__ = "{SETTINGS["version"]}"' in init
    assert f'requires-python=">={SETTINGS["min_python"]}"' in (ROOT / "pyproject.toml").read_text()
    assert f"## [{SETTINGS['version']}]" in (ROOT / "CHANGELOG.md").read_text()


# ---- notebooks


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT / "nbs")))
def test_saved_outputs_hold_no_errors_and_no_place_of_this_machine(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert not [o for o in outputs if o["output_type"] == "error"]
    text = json.dumps([o for o in outputs if "image/png" not in o.get("data", {})])
    assert not re.findall(
        r"(?<![\w.:/-])/(?:root|home|Users|work|tmp|opt|usr|private)/[\w./-]+|site-packages|ipykernel_\d+",
        text,
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT / "nbs")))
def test_a_notebook_begins_with_its_title_and_one_line(path):
    first = next(
        c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "markdown"
    )
    assert re.match(r"# .+\n+> .+", "".join(first["source"]))
