"""Files by path or by URL (`s3://`, `gs://`, `https://`, `hf://`, ...): fsspec opens what is not on this machine."""

from __future__ import annotations

import gzip
import io
import os
import posixpath
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO, TextIO, TypeVar, cast
from urllib.parse import urlsplit

from slm.audio import AUDIO_SUFFIXES, walk_folder
from slm.errors import UsageError

T = TypeVar("T")

FIRST_ROWS = 1000
"""Of a list, in which a relative path is looked for to find its root."""

_BLOCK_BYTES = 1 << 18  # of a request, where a file is read in parts
_WAITS_S = (1, 4)  # before another try
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotImplementedError)
_EXTRAS = {"https": "http", "s3a": "s3", "az": "abfs"}  # of fsspec, which are called otherwise than the protocol
_LOOKED_AT = 1000  # entries of a folder, to tell what it is


def is_remote(path: str) -> bool:
    return "://" in path


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it. UsageError where the package for it is not installed."""
    import fsspec

    protocol = url.partition("://")[0]
    if urlsplit(url).password:
        raise UsageError(f"a URL of {protocol}:// names a password, which files of the corpus would tell: take it out")
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UsageError(
            f"{protocol}:// needs a package that is not installed ({error}): "
            f"pip install 'fsspec[{_EXTRAS.get(protocol, protocol)}]'"
        ) from None
    except (ValueError, OSError) as error:  # such as of an archive (zip://x::file) that is none
        raise UsageError(f"cannot read {url}: {error}") from None


def patiently(read: Callable[[], T]) -> T:
    """What `read` returns; a fault of the network gets two more tries. OSError, whatever the library raises."""
    for wait_s in _WAITS_S:
        try:
            return read()
        except _FINAL:
            raise
        except Exception:
            time.sleep(wait_s)
    try:
        return read()
    except OSError:
        raise
    except Exception as error:
        raise OSError(" ".join(str(error).split()) or type(error).__name__) from error


def read_bytes(path: str, start: int | None = None, stop: int | None = None) -> bytes:
    """The bytes of a file, or its part `start`..`stop`."""
    if is_remote(path):
        fs, inner = filesystem(path)
        # File systems that open a file for this (hf://) would read megabytes ahead.
        exactly = {} if stop is None or fs.async_impl else {"cache_type": "none"}
        return patiently(lambda: fs.cat_file(inner, start=start, end=stop, **exactly))
    with open(path, "rb") as file:
        file.seek(start or 0)
        return file.read(-1 if stop is None else stop - (start or 0))


def file_info(url: str) -> dict[str, Any]:
    """What the file system of a URL says of a file: its size, and often when or as what version it was written."""
    fs, inner = filesystem(url)
    return patiently(lambda: fs.info(inner))


def open_binary(path: str) -> BinaryIO:
    """A stream that can seek. A remote file is read in blocks, or at once where its server gives no parts of files."""
    if not is_remote(path):
        return open(path, "rb")
    info = file_info(path)
    in_parts = info.get("size") is not None and (not path.startswith("http") or info.get("partial"))
    if not in_parts:
        return io.BytesIO(read_bytes(path))
    return open_part(path, 0, info["size"])


def open_part(path: str, offset: int, size: int) -> BinaryIO:
    """`size` bytes of a file from `offset`, as a stream of their own."""
    return cast(BinaryIO, io.BufferedReader(_Part(path, offset, size), _BLOCK_BYTES))


@dataclass
class _Part(io.RawIOBase):
    path: str
    offset: int
    size: int
    position: int = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = max(0, start + offset)
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self.size - self.position))
        start = self.offset + self.position
        data = read_bytes(self.path, start, start + wanted) if wanted else b""
        if len(data) != wanted:
            raise OSError(f"{len(data)} of {wanted} bytes at {start}: the file was cut, or its server gives no parts")
        buffer[:wanted] = data
        self.position += wanted
        return wanted


@contextmanager
def open_text(path: str) -> Iterator[TextIO]:
    """UTF-8 text with or without a byte order mark, unzipped where its name ends in .gz, its line ends as they are.
    UsageError for what cannot be read or is no such text."""
    try:
        with open_binary(path) as raw:
            data = gzip.GzipFile(fileobj=raw) if path.lower().endswith(".gz") else raw
            with io.TextIOWrapper(data, encoding="utf-8-sig", newline="") as text:
                yield text
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text ({error.reason}): convert it") from None
    except (gzip.BadGzipFile, EOFError) as error:
        raise UsageError(f"{path} is not a whole gzip file ({error}): get it anew") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None


def is_file(path: str) -> bool:
    """Whether there is such a file; of what cannot be asked: no."""
    if not is_remote(path):
        return os.path.isfile(path)
    fs, inner = filesystem(path)
    try:
        return bool(fs.isfile(inner))
    except Exception:  # of whatever library asks
        return False


def has_file(folder: str, name: str) -> bool:
    """Whether a folder, here or on a server, holds such a file. A query of http is no folder: servers answer it
    whatever stands behind."""
    is_query = folder.startswith("http") and "?" in folder
    return not is_query and is_file(os.path.join(folder, name))


def list_folder(url: str) -> tuple[list[str], list[str]]:
    """Sorted names of the folders and of the files in a remote folder, hidden ones left out. UsageError where it cannot
    be listed."""
    fs, inner = filesystem(url)
    try:
        entries = patiently(lambda: fs.ls(inner, detail=True))
    except OSError as error:
        raise UsageError(f"cannot list the folder {url}: {error.strerror or error}") from None
    here = inner.strip("/")
    folders: set[str] = set()
    files: set[str] = set()
    for entry in entries:
        path = entry["name"].rstrip("/")
        name = posixpath.basename(path)
        # An object store may keep an empty object in the name of the folder itself.
        if path.strip("/") != here and not name.startswith("."):
            (folders if entry["type"] == "directory" else files).add(name)
    return sorted(folders), sorted(files)


def walk(location: str) -> Iterator[tuple[str, list[str], Counter[str]]]:
    """`slm.audio.walk_folder`, of a folder here or on a server."""
    if not is_remote(location):
        yield from walk_folder(location)
        return
    waiting = [location.rstrip("/")]
    while waiting:
        parent = waiting.pop()
        folders, names = list_folder(parent)
        waiting += [f"{parent}/{name}" for name in reversed(folders)]
        audio = [name for name in names if _suffix(name) in AUDIO_SUFFIXES]
        yield parent, audio, Counter(_suffix(name) for name in names if _suffix(name) not in AUDIO_SUFFIXES)


def find_files(location: str, suffix: str, skipped: Counter[str]) -> Iterator[str]:
    """All files with a suffix (none of audio) below a folder, here or on a server, folder by folder in sorted order;
    counts the others in `skipped`, by suffix. A folder below that cannot be listed comes as `NAME/`."""
    for parent, audio, others in walk(location):
        if audio and audio[0].endswith("/"):
            yield os.path.join(parent, audio[0])
            continue
        if others.pop(suffix, 0):
            names = list_folder(parent)[1] if is_remote(parent) else sorted(os.listdir(parent))
            yield from (os.path.join(parent, name) for name in names if _suffix(name) == suffix and name[0] != ".")
        skipped.update(others)
        skipped.update(map(_suffix, audio))


def first_files(folder: str, levels: int = 4) -> list[str]:
    """Some files of a local folder, of its first folder, of the first in that, ...: enough to tell what it is. None
    where it cannot be listed."""
    found: list[str] = []
    with suppress(OSError):
        for _ in range(levels):
            with os.scandir(folder) as entries:
                shown = [entry for entry in islice(entries, _LOOKED_AT) if not entry.name.startswith(".")]
            found += [entry.path for entry in shown if entry.is_file()]
            if not (below := [entry.path for entry in shown if entry.is_dir()]):
                break
            folder = min(below)
    return found


def find_root(path: str, location: str) -> str:
    """Where the relative `path`, one of a list at `location`, leads to a file: the nearest folder at or above the list,
    else the working directory (`""`)."""
    folder = location.rstrip("/") if is_remote(location) else os.path.abspath(location)
    while not is_file(os.path.join(folder, path)):
        above = os.path.dirname(folder)
        if above == folder or is_remote(above) < is_remote(folder):
            return ""
        folder = above
    return folder


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()
