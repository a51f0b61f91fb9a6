"""Files that are whole or absent: write under a temporary name, flush to disk, rename."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

from slm.errors import StoppedError, UsageError, disk_fault, file_of


def _temporary(path: Path) -> Path:
    return path.with_name(temporary_name(path.name))


def temporary_name(name: str) -> str:
    """What a file is called until it is whole. Machines that share a disk may have processes of one number."""
    return f".{name}.tmp-{platform.node()}-{os.getpid()}"


def clear_half_written(path: Path, below: bool = False) -> None:
    """Remove what killed processes of this machine left half-written of `path`; with `below`, of anything in it."""
    names, folder = ("**/.*", path) if below else (f".{escape(path.name)}", path.parent)
    ours = f".tmp-{platform.node()}-"
    for left in list(folder.glob(f"{names}{escape(ours)}*")):
        with suppress(ValueError, OSError):  # of a machine `node-2` beside `node`; or of another user, who is at it
            if not _is_alive(int(left.name.rpartition(ours)[2])):
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _is_alive(pid: int) -> bool:
    """Not one that has ended and is yet to be asked how, which in a container without an init may be for ever."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in ("Z", "X")
    return True


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(path: Path) -> None:
    """Flush every file below `path` to disk, so that a rename never gets there before what it names."""
    for file in path.rglob("*"):
        if file.is_file():
            handle = os.open(file, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


@contextmanager
def disk_named(path: Path) -> Iterator[None]:
    """Inside, `path` is written: where its disk is full, has become read-only or fails, for it or for what becomes part
    of it, it is named, which most of what writes does not do."""
    try:
        yield
    except (UsageError, StoppedError):
        raise
    except Exception as error:
        name = file_of(error)
        if name is None:  # while what was written is still there: or it is another disk, such as that of TMPDIR
            is_here = _takes_no_more(path.parent)
        else:
            is_here = path.absolute().parent in Path(os.fsdecode(name)).absolute().parents
        if is_here and (fault := disk_fault(error)):
            raise OSError(fault, os.strerror(fault), str(path)) from error
        raise


def _takes_no_more(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 16))
    except OSError:
        return True
    return False


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path`, on error nothing is left."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with disk_named(path):
            yield temporary
            with open(temporary, "rb+") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, path)
            _sync_directory(path.parent)
    finally:
        with suppress(OSError):  # it is not there any more; or the disk has become read-only, which is told of already
            temporary.unlink()


@contextmanager
def temporary_directory(path: Path) -> Iterator[Path]:
    """A folder beside `path`, for as long; those that killed processes had for it are removed."""
    clear_half_written(path)
    temporary = _temporary(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        with disk_named(path):
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def atomic_directory(path: Path | str) -> Iterator[Path]:
    """Like `atomic_file` for a directory that must not exist yet, or is replaced whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_directory(path) as temporary:
        yield temporary
        sync_tree(temporary)
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
        _sync_directory(path.parent)


def user_cache(kind: str) -> Path:
    """The folder for files of a kind in the user's cache. Not by `Path.expanduser`, which raises for a user without
    name and HOME, as in a container, also where nothing is to be written there."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "slm", kind)


def copy_file(source: Path, path: Path) -> None:
    """Whole or not at all: what stood at `path` before is lost to no full disk."""
    with atomic_file(path) as temporary:
        shutil.copyfile(source, temporary)


def check_local(path: Path | str, named: str) -> None:
    """UsageError for a URL, for which a folder `s3:` would be made here (what a `Path` leaves of one is known too), and
    for a name that TensorBoard, Arrow and others cannot open."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        raise UsageError(
            f"{named} is a URL: give a folder of this machine (tokenize_corpus.py and slm.corpus alone work at URLs)"
        )
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UsageError(f"{named} has a name that is not UTF-8: give another") from None


def check_folder(out: Path, option: str = "--out", written: bool = True) -> None:
    """UsageError where a file stands in the way of the folder to write, or it may not be written to. One that is not
    sure to be `written` need not be writable where it is there."""
    there = _lowest_folder(out, f"{option} {out}")
    if written or there != out:
        _check_writable(there, f"{option} {out}")


def check_new_file(out: Path | str, why: str = "") -> None:
    """UsageError where the file to write is there already (`why` that matters) or cannot be made."""
    if os.path.lexists(out) or not str(out):
        raise UsageError(f"--out {out} exists{why}; choose another name or remove it" if str(out) else "--out is empty")
    _check_writable(_lowest_folder(Path(out).parent, f"--out {out}"), f"--out {out}")
    clear_half_written(Path(out))


def _lowest_folder(out: Path, named: str) -> Path:
    """The lowest of `out` and the folders above it that is there."""
    check_local(out, named)
    there = next((path for path in (out, *out.absolute().parents) if os.path.lexists(path)), out)
    if os.path.lexists(there) and not there.is_dir():
        what = "a link to nothing" if there.is_symlink() and not there.exists() else "a file"
        raise UsageError(f"{named}: {there} is {what}; give a folder")
    return there


def _check_writable(folder: Path, named: str) -> None:
    try:
        # Permissions do not tell: what a root user may, /proc refuses. A file without a name: killed, nothing is left.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{named}: {folder} cannot be written to ({error.strerror}); give another folder") from None


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Wait for, and hold, a lock of the system (flock) on a file made for it, and removed: it ends with its process
    however that ends. Yields whether it is held: on network disks without locks nobody waits."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            is_held = False
            break
        with suppress(FileNotFoundError):
            if is_held := os.path.samestat(os.fstat(handle), os.stat(path)):
                break
        os.close(handle)  # who held it has removed it: another file has its name by now
    try:
        yield is_held
    finally:
        with suppress(OSError):
            if is_held:
                path.unlink()
        os.close(handle)


def write_text(path: Path | str, text: str) -> None:
    """UTF-8. Bytes of a file's name that are none become escapes, which JSON reads as what they were."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path | str, value: Any) -> None:
    """Strict JSON, as `plain_json` says."""
    write_text(path, json.dumps(plain_json(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def plain_json(value: Any) -> Any:
    """What will be read of it: NaN and infinity, which JSON does not have and browsers refuse, are null."""
    return json.loads(json.dumps(value, default=_plain), parse_constant=lambda name: None)


def read_json(path: Path | str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def append_json_lines(path: Path, values: Iterable[Any]) -> None:
    """One line each, at the end of the file, in one piece. What a killed process left there unfinished stays a line of
    its own, which `read_json_lines` passes over."""
    lines = "".join(json.dumps(value) + "\n" for value in values)
    if not lines:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_named(path), open(path, "ab+") as file:
        if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
            lines = "\n" + lines
        file.write(lines.encode())


def read_json_lines(path: Path) -> list[Any]:
    """The values of the lines that are whole; none where there is no file."""
    made = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        with suppress(ValueError):
            made.append(json.loads(line))
    return made


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)
