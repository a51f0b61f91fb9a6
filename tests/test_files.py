"""Files are whole or absent, also when the writer raises or is killed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from slm import files
from slm.errors import UsageError
from slm.files import (
    append_json_lines,
    atomic_directory,
    atomic_file,
    clear_half_written,
    locked,
    read_json,
    read_json_lines,
    temporary_name,
    write_json,
    write_text,
)

ROOT = Path(__file__).parents[1]


def test_a_file_appears_whole_under_its_name(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "a.txt"
    with atomic_file(target) as temporary:
        temporary.write_text("half")
        assert not target.exists()
        assert temporary.parent == target.parent  # a rename across file systems would not be atomic
        temporary.write_text("whole")
    assert target.read_text() == "whole"
    assert [f.name for f in target.parent.iterdir()] == ["a.txt"]


def test_an_exception_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write() -> None:
        with atomic_file(target) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write()
    assert target.read_text() == "old"
    assert [f.name for f in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("atomic", [atomic_file, atomic_directory])
def test_a_full_disk_is_named_by_what_was_to_be_written(atomic, tmp_path: Path, monkeypatch) -> None:
    """Neither a write nor safetensors says which disk; a name that is no part of it is kept."""

    def fill(temporary: Path) -> None:
        with open("/dev/full", "wb") as file:
            file.write(b"x")

    def say(error: Exception):
        def fail(temporary: Path) -> None:
            raise error

        return fail

    monkeypatch.chdir(tmp_path)
    full = (errno.ENOSPC, os.strerror(errno.ENOSPC))
    for write, is_full, named in [
        (fill, True, "a"),
        (fill, False, None),  # another disk is
        (say(RuntimeError("I/O error: No space left on device (os error 28)")), True, "a"),
        (lambda temporary: say(OSError(*full, str(temporary / "b")))(temporary), True, "a"),
        (say(OSError(*full, "/other/x")), True, "/other/x"),
    ]:
        monkeypatch.setattr(files, "_takes_no_more", lambda folder, is_full=is_full: is_full)
        with pytest.raises(OSError, match="No space left") as caught, atomic(Path("a")) as temporary:
            write(temporary)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, named)

    def become_read_only(temporary: Path) -> None:
        gone = OSError(errno.EROFS, os.strerror(errno.EROFS), str(temporary))
        monkeypatch.setattr(Path, "unlink", lambda path, **_: say(gone)(path))
        say(gone)(temporary)

    with pytest.raises(OSError, match="Read-only") as caught, atomic(Path("a")) as temporary:
        become_read_only(temporary)
    assert caught.value.filename == "a"
    told = UsageError("set TMPDIR")
    told.__context__ = OSError(*full)
    with pytest.raises(UsageError, match="set TMPDIR"), atomic(Path("a")) as temporary:
        say(told)(temporary)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_not_utf8_comes_back_from_json(tmp_path: Path) -> None:
    name = os.fsdecode("Grüße ".encode() + b"caf\xe9")
    write_json(tmp_path / "a.json", {"path": name})
    assert json.loads((tmp_path / "a.json").read_bytes())["path"] == name
    assert "Grüße" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_a_value_that_json_cannot_hold_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_json(target, {"a": 1})
    circle: list = []
    circle.append(circle)
    with pytest.raises(ValueError, match="Circular"):
        write_json(target, circle)
    assert read_json(target) == {"a": 1}


def test_what_json_does_not_have_is_null(tmp_path: Path) -> None:
    """A strict reader, as a browser is, can read what was written, wherever the number stands."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    inf = float("inf")
    write_json(tmp_path / "a.json", {"a": [np.nan, 1.5, (-inf,)], "b": np.array([[inf, 2.0]]), "c": np.float32("nan")})
    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert read == {"a": [None, 1.5, [None]], "b": [[None, 2.0]], "c": None}


def test_a_folder_appears_whole_and_replaces_whole(tmp_path: Path) -> None:
    target = tmp_path / "run"
    with atomic_directory(target) as temporary:
        (temporary / "a").write_text("1")
        (temporary / "sub").mkdir()
        assert not target.exists()
    assert sorted(f.name for f in target.iterdir()) == ["a", "sub"]
    with atomic_directory(target) as temporary:
        (temporary / "b").write_text("2")
    assert [f.name for f in target.iterdir()] == ["b"]
    assert [f.name for f in tmp_path.iterdir()] == ["run"]


def test_an_exception_leaves_the_old_folder_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "run"
    with atomic_directory(target) as temporary:
        (temporary / "a").write_text("old")

    def write() -> None:
        with atomic_directory(target) as temporary:
            (temporary / "a").write_text("new")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write()
    assert (target / "a").read_text() == "old"
    assert [f.name for f in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("kind", ["atomic_file", "atomic_directory"])
def test_a_kill_while_writing_leaves_the_old_content(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    inside = "temporary" if kind == "atomic_file" else "temporary / 'a'"
    program = f"""
        import os, signal, sys
        from slm.files import {kind}
        with {kind}(sys.argv[1]) as temporary:
            ({inside}).write_text(sys.argv[2])
            if sys.argv[2] == "new":
                os.kill(os.getpid(), signal.SIGKILL)
        """
    command = [sys.executable, "-c", dedent(program), str(target)]
    subprocess.run([*command, "old"], check=True, cwd=ROOT)
    killed = subprocess.run([*command, "new"], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    content = target if kind == "atomic_file" else target / "a"
    assert content.read_text() == "old"
    left = next(tmp_path.glob(".target.*"))
    subprocess.run([*command, "newer"], check=True, cwd=ROOT)  # what the killed one left is in nobody's way
    assert content.read_text() == "newer"
    assert left.exists() == (kind == "atomic_file")  # of one in a folder of many others whoever clears the folder


def test_what_killed_processes_left_half_written_is_cleared_and_no_more(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # a zombie, until it is waited for
    mine, gone = temporary_name("a*"), temporary_name("a*").replace(f"-{os.getpid()}", f"-{1 << 30}")
    asked = mine.replace(f"-{os.getpid()}", f"-{ended.pid}")
    elsewhere = gone.replace(".tmp-", ".tmp-elsewhere-")
    sibling = gone.replace(f"-{1 << 30}", f"-2-{1 << 30}")  # a machine whose name goes on after that of this one
    others = (elsewhere, sibling, f"{gone}x", gone[1:])
    for name in (mine, gone, asked, *others, gone.replace("a*", "ab"), f"below/{gone}"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    before = set(tmp_path.rglob("*"))
    clear_half_written(tmp_path / "a*")
    assert before - set(tmp_path.rglob("*")) == {tmp_path / gone, tmp_path / asked}
    clear_half_written(tmp_path, below=True)
    assert before - set(tmp_path.rglob("*")) == {
        tmp_path / name for name in (gone, asked, gone.replace("a*", "ab"), f"below/{gone}")
    }
    ended.wait()


def test_json_round_trip_with_numpy_and_paths(tmp_path: Path) -> None:
    value = {"i": np.int64(3), "f": np.float32(0.5), "a": np.arange(3), "p": Path("x/y"), "t": "ä", "n": None}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == {"i": 3, "f": 0.5, "a": [0, 1, 2], "p": "x/y", "t": "ä", "n": None}
    assert "ä" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_text_is_utf8_whatever_the_locale(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "łódź\n")
    assert (tmp_path / "a.txt").read_bytes() == "łódź\n".encode()


def test_files_are_as_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    write_text(tmp_path / "ours", "x")
    assert os.stat(tmp_path / "ours").st_mode == os.stat(tmp_path / "plain").st_mode


def test_lines_after_one_that_a_kill_cut_short_are_read(tmp_path):
    file = tmp_path / "new" / "lines.jsonl"
    assert read_json_lines(file) == []
    append_json_lines(file, [])
    assert not file.exists()
    append_json_lines(file, [{"a": 1}, ["b", "ü"]])
    whole = file.read_bytes()
    for cut in range(1, len(whole)):
        file.write_bytes(whole[:cut])
        left = [v for v, end in (({"a": 1}, whole.index(b"\n")), (["b", "ü"], len(whole) - 1)) if cut >= end]
        append_json_lines(file, [3])
        assert read_json_lines(file) == [*left, 3]


def test_a_lock_is_one_s_alone_and_leaves_no_file(tmp_path):
    inside, most = [], []

    def count(_: int) -> None:
        with locked(tmp_path / ".lock") as is_held:
            assert is_held
            inside.append(1)
            time.sleep(0.001)
            most.append(len(inside))
            inside.pop()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(60)))
    assert set(most) == {1}
    assert list(tmp_path.iterdir()) == []
