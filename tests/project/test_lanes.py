"""No test is forgotten: each file of tests runs in one part of scripts/test.py, and the second environment is
what its lock says."""
# lane: here

import os, re, subprocess
from pathlib import Path
import pytest

import test as runner  # scripts/test.py
from conftest import ROOT

ERA4 = ROOT / ".venv-era4" / "bin" / "python"


def pins(name):
    return dict(
        line.split("==")
        for line in (ROOT / "requirements" / name).read_text().splitlines()
        if line and not line.startswith("#")
    )


def test_the_parts_run_every_file_here_and_in_both_environments_what_needs_no_browser():
    every = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py"))
    ran = {venv: [] for venv, _, _ in runner.PARTS.values()}
    for part, (venv, lanes, _) in runner.PARTS.items():
        ran[venv] += runner.files(*lanes) if part != "coverage" else []  # it is the part "reference"
    assert sorted(ran[".venv"]) == every  # each once
    assert sorted(ran[".venv-era4"]) == sorted(set(every) - set(runner.files("here", "site")))
    folders = {Path(file).parent.as_posix() for file in runner.files("reference", "broad")}
    assert all(folder.startswith("tests/reference/") for folder in folders)
    measured = {part: lanes for part, (_, lanes, options) in runner.PARTS.items() if "--cov" in options}
    assert measured == {"coverage": ["reference"]} and runner.files("reference")


def test_a_file_says_where_it_runs_in_a_line_of_its_own(tmp_path):
    for text, lane in ("# lane: here", "here"), ("# lane: reference", "reference"), ("x = 1", "watching"):
        (tmp_path / "test_x.py").write_text(f'"About x."\n{text}\nimport os\n')
        assert runner.lane(tmp_path / "test_x.py") == lane
    (tmp_path / "test_x.py").write_text("# lane: nowhere\n")
    with pytest.raises(ValueError, match="nowhere"):
        runner.lane(tmp_path / "test_x.py")


def test_another_python_runs_what_the_second_environment_runs(monkeypatch):
    commands = []

    class Done:
        returncode = 0

    monkeypatch.setattr(runner.subprocess, "run", lambda command, cwd, env: commands.append(command) or Done)
    monkeypatch.setattr(Path, "exists", lambda path: path.suffix != ".xml")
    runner.pytest("era4"), runner.pytest(".venv-3.12")
    assert [c[0].relative_to(ROOT).parts[0] for c in commands] == [".venv-era4", ".venv-3.12"]
    files = [[argument for argument in command if str(argument).startswith("tests/")] for command in commands]
    assert files[0] == files[1] == runner.files("reference", "broad", "watching")


def test_a_run_of_parts_is_counted_as_one(monkeypatch, capsys):
    monkeypatch.setattr(runner, "notebooks", lambda: (1, 0, 0))
    monkeypatch.setattr(
        runner,
        "pytest",
        lambda part, *arguments: {
            "reference": (10, 1, 2),
            "coverage": (20, 0, 2),
            "rest": (100, 0, 0),
            "era4": (1000, 0, 3),
            "docs": (10000, 0, 0),
        }[part],
    )
    monkeypatch.setattr(runner.os, "environ", {k: v for k, v in os.environ.items() if k != "CI"})
    assert runner.main("all") == 1
    assert capsys.readouterr().out.splitlines()[-1] == "11111 passed, 1 failed, 5 skipped"
    assert runner.main("era4") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1000 passed, 0 failed, 3 skipped"
    assert runner.main() == 1
    assert capsys.readouterr().out.splitlines()[-1] == "111 passed, 1 failed, 2 skipped"
    runner.os.environ["CI"] = "1"
    assert runner.main() == 0
    assert capsys.readouterr().out.splitlines()[-1] == "121 passed, 0 failed, 2 skipped"
    with pytest.raises(SystemExit):
        runner.main("era5")


def test_coverage_counts_this_run_alone(monkeypatch):
    "coverage adds up every data file in a folder: those of a killed run in the checkout made 45 % look like 99.9 %."
    seen = []

    class Done:
        returncode = 0

    def run(command, cwd, env):
        folder = Path(env["COVERAGE_FILE"]).parent
        seen.append(folder)
        assert folder.is_dir() and not list(folder.iterdir()) and ROOT not in [folder, *folder.parents]
        return Done

    monkeypatch.setattr(runner.subprocess, "run", run)
    runner.pytest("reference"), runner.pytest("reference")
    assert len(set(seen)) == 2


def test_only_the_first_environment_has_a_browser(monkeypatch):
    seen = []

    class Done:
        returncode = 0

    monkeypatch.setattr(
        runner.subprocess, "run", lambda command, cwd, env: seen.append(env.get("PEFT_VIZ_BROWSER")) or Done
    )
    monkeypatch.setattr(
        Path, "exists", lambda path: path.suffix != ".xml"
    )  # (there may be no second environment)
    monkeypatch.setenv("PEFT_VIZ_BROWSER", "required")
    runner.pytest("rest"), runner.pytest("era4")
    assert seen == ["required", None]


def test_the_locks_agree_where_they_may():
    main, era4 = pins("torch.txt") | pins("dev.txt"), pins("era4.txt")
    different = {name for name in era4 if era4[name] != main[name]}
    assert different == {
        "transformers",
        "peft",
        "huggingface_hub",
        "tokenizers",
    }  # what the era is, and what transformers of that time asks for
    assert era4["transformers"].startswith("4.57.") and era4["peft"].startswith("0.18.")
    assert "torch" not in era4


def test_what_users_install_allows_both_eras():
    from packaging.requirements import Requirement

    settings = (ROOT / "settings.ini").read_text(encoding="utf-8")
    wanted = {
        r.name: r.specifier
        for r in map(Requirement, re.search(r"^requirements = (.*)$", settings, re.M)[1].split())
    }
    assert all(
        wanted["transformers"].contains(pins(lock)["transformers"]) for lock in ("dev.txt", "era4.txt")
    )


@pytest.mark.skipif(not ERA4.exists(), reason="there is no .venv-era4: make era4 makes it")
def test_the_second_environment_is_the_locked_one():
    lock = pins("torch.txt") | pins("era4.txt")
    code = (
        f"from importlib.metadata import version; print({{name: "
        f"version(name).split('+')[0] for name in {list(lock)}}} == {lock})"
    )
    done = subprocess.run([ERA4, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "True", done.stderr
