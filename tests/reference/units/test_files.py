"A file is the old one or the new one, whole, and nothing else is left in its folder."
# lane: reference

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from peft_viz.reference import files
from peft_viz.reference.files import is_stream, JOURNAL, match, to_read, write, write_together

PARENT = "import sys; from peft_viz.reference.files import write, write_together; import os; folder = sys.argv[1]\n"


def killed(folder, nth):
    "Write two files over old ones in a process that ends, like one that is killed, at its n-th `os.replace`."
    code = (
        PARENT
        + f"""
really, calls = os.replace, []
def replace(a, b):
    calls.append(a)
    if len(calls) == {nth}: os._exit(9)
    really(a, b)
os.replace = replace
write_together(folder, dict(a="new", b="new", c=None))
"""
    )
    return subprocess.run([sys.executable, "-c", code, str(folder)]).returncode


@pytest.mark.parametrize("content", ["te\udcffxt", b"bytes", lambda path: path.write_bytes(b"bytes")])
def test_a_pipe_gets_the_content_and_stays(content, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()), daemon=True)
    reader.start()
    write(tmp_path / "pipe", content)
    reader.join(20)
    assert got == [rb"te\udcffxt" if isinstance(content, str) else b"bytes"]
    assert stat.S_ISFIFO(os.lstat(tmp_path / "pipe").st_mode) and os.listdir(tmp_path) == ["pipe"]
    assert not is_stream(tmp_path / "nothing\0") and not is_stream(tmp_path)


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_killed_between_two_files(nth, tmp_path):
    write_together(tmp_path, dict(a="old", b="old", c="old"))
    assert killed(tmp_path, nth) == 9
    seen = [to_read(tmp_path / name).read_text() for name in "ab"]
    assert seen == (["old", "old"] if nth == 1 else ["new", "new"])
    write(tmp_path / "other", "x")  # the next writer finishes, and tidies up
    left = ["a", "b", "c", "other"] if nth == 1 else ["a", "b", "other"]
    assert sorted(os.listdir(tmp_path)) == left
    assert [(tmp_path / name).read_text() for name in "ab"] == seen


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("contents", [["a"], ["a", "b"]])
def test_stopped_while_writing(error, contents, tmp_path):
    (tmp_path / "a").write_text("old")

    def half(path):
        path.write_text("ne")
        raise error

    with pytest.raises(error):
        write_together(tmp_path, {name: half for name in contents})
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"


def test_stopped_while_putting_in_place(tmp_path, monkeypatch):
    "From the journal on the new files count."
    write_together(tmp_path, dict(a="old", b="old"))
    really, calls = os.replace, []

    def replace(*paths):
        calls.append(paths)
        if len(calls) == 2:
            raise KeyboardInterrupt
        really(*paths)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        write_together(tmp_path, dict(a="new", b="new"))
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    assert {(tmp_path / name).read_text() for name in "ab"} == {"new"}


def test_without_a_file_handle_left(tmp_path):
    "An error, the old file, and no empty folder beside it."
    write(tmp_path / "a", "old")
    code = (
        PARENT
        + """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
try: write(folder + "/a", "new")
except OSError as error: os._exit(error.errno)
"""
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == errno.EMFILE
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"


def test_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "new", "x")
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
        (tmp_path / "new").chmod(0o604)
        write(tmp_path / "new", lambda path: path.write_text("y"))
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o604
    finally:
        os.umask(before)


def test_root_writes_for_others(tmp_path):
    (tmp_path / "theirs").touch()
    try:
        os.chown(tmp_path / "theirs", 1234, 5678)
    except PermissionError:
        pytest.skip("root alone may give a file away")
    (tmp_path / "theirs").chmod(0o640)
    write(tmp_path / "theirs", "new")
    found = (tmp_path / "theirs").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 5678, 0o640)


def test_a_file_that_may_not_be_written_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "kept").write_text("old")
    (tmp_path / "link").symlink_to("kept")
    monkeypatch.setattr(
        os, "access", lambda path, mode: os.path.basename(path) != "kept"
    )  # as for who is not root
    for content in ("new", None):
        with pytest.raises(PermissionError, match="kept may not be written: make it writable"):
            write_together(tmp_path, {"other": "x", "kept": content})
    write(tmp_path / "link", "new")  # the link is replaced, and what it points to stays
    assert sorted(os.listdir(tmp_path)) == ["kept", "link"] and (tmp_path / "kept").read_text() == "old"


def test_links_are_replaced_not_followed(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "link").symlink_to("precious")
    write(tmp_path / "link", "new")
    assert (tmp_path / "precious").read_text() == "precious" and not (tmp_path / "link").is_symlink()


def test_a_text_that_is_no_utf8(tmp_path):
    write(tmp_path / "a", "caf\udce9")
    assert (tmp_path / "a").read_bytes() == rb"caf\udce9"


def test_two_writers(tmp_path):
    "Both files are always of the same writer."
    threads = [
        threading.Thread(target=lambda k=k: [write_together(tmp_path, dict(a=k, b=k)) for _ in range(10)])
        for k in ("one", "two")
    ]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_workshop_in_use_stays(tmp_path):
    def writer(path):
        write(tmp_path / "b", "in between")
        path.write_text("a")

    write(tmp_path / "a", writer)
    assert (tmp_path / "a").read_text() == "a" and sorted(os.listdir(tmp_path)) == ["a", "b"]


WORKSHOP = ".peft_viz-" + "0" * 32 + ".tmp"


@pytest.mark.parametrize(
    "journal",
    [
        "[",
        "[]",
        "[" * 10**5,
        '{"workshop": "..", "files": ["a"], "removed": []}',
        '{"workshop": "%s", "files": ["../a"], "removed": []}' % WORKSHOP,
        '{"workshop": "%s", "files": [], "removed": ["../a"]}' % WORKSHOP,
        '{"workshop": "%s", "files": [1], "removed": []}' % WORKSHOP,
        '{"workshop": "%s", "files": ["folder"], "removed": ["folder"]}' % WORKSHOP,
    ],
)
def test_a_journal_of_a_stranger(journal, tmp_path):
    (tmp_path / "a").write_text("precious")
    inside = tmp_path / "inside"
    (inside / "folder").mkdir(parents=True)
    (inside / WORKSHOP).mkdir()
    (inside / WORKSHOP / "folder").write_text("x")
    (inside / JOURNAL).write_text(journal)
    write(inside / "new", "x")
    assert sorted(os.listdir(inside)) == ["folder", "new"] and (tmp_path / "a").read_text() == "precious"


def test_a_directory_is_in_the_way(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError):
        write_together(tmp_path, dict(b="x", a="x"))
    assert os.listdir(tmp_path) == ["a"]


def test_patterns():
    name = "model.layers.0.self_attn.q_proj"
    assert match(r".*\.q_proj", name) and match("model", name, whole=False) and not match("model", name)
    with pytest.raises(ValueError, match="takes too long"):
        match(r"(?:(?:.|.)*.)*[0-9]{3}", name * 3)
    with pytest.raises(ValueError, match="is no regular expression"):
        match("(", name)


def test_opens_without_torch():
    code = "import sys; sys.modules['torch'] = None; import peft_viz.reference.files"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_where_nothing_can_be_written_the_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere'$"):
        write(tmp_path / "nowhere" / "a.json", "{}")
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="file'$"):
        write(tmp_path / "file" / "a.json", "{}")


@pytest.mark.parametrize("moment", ("before it is looked at", "before it is opened"))
def test_a_file_that_its_writer_puts_in_place_while_one_looks_for_it(tmp_path, monkeypatch, moment):
    "It was in the workshop a moment ago; now it stands in its place."
    there, workshop = tmp_path / "a.json", tmp_path / ".workshop"
    workshop.mkdir()
    there.write_text("new")
    answers = [workshop / "a.json", there]
    monkeypatch.setattr(files, "to_read", lambda _: answers.pop(0))
    if moment == "before it is looked at":
        monkeypatch.setattr(files.os.path, "lexists", lambda _: True)
    else:
        as_before = Path.is_file
        there_still = lambda path: path.parent == workshop or as_before(path)
        monkeypatch.setattr(Path, "is_file", there_still)
    assert files.existing(tmp_path, "a.json") == there and not answers
