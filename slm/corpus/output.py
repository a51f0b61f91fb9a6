"""Where a corpus is written: a folder, or a URL that fsspec opens.

What is at a URL is made in a folder of this machine and sent file by file, each whole or not at all. What is finished
is known by what lies at the URL, so that any machine can go on.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from slm.corpus.plan import PLAN_FILES
from slm.corpus.remote import filesystem, is_remote, open_binary, patiently
from slm.corpus.shards import ShardRecord, read_record, record_of
from slm.errors import UsageError
from slm.files import atomic_file

_DESCRIBES = ("tokenizer.json", *PLAN_FILES)
# A file sent to one of these is there when it is whole; elsewhere it gets its name after that.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "hf"}


class Output:
    """The files of a corpus by name. `folder` is where they are made."""

    def __init__(self, location: str | os.PathLike[str]):
        self.location = os.fspath(location).rstrip("/") or "/"
        self.is_remote = is_remote(self.location)
        self.folder = _staging(self.location) if self.is_remote else Path(self.location)

    @cached_property
    def _remote(self) -> tuple[Any, str]:
        return filesystem(self.location)

    def names(self) -> set[str]:
        """The names of the files that are there; hidden ones are not counted."""
        if self.is_remote:
            fs, inner = self._remote
            fs.invalidate_cache()
            try:
                found = [os.path.basename(path.rstrip("/")) for path in patiently(partial(fs.ls, inner, detail=False))]
            except FileNotFoundError:
                return set()
            except OSError as error:
                raise UsageError(f"--out {self.location} cannot be used ({error}): give one that can be") from None
        else:
            found = os.listdir(self.folder) if self.folder.is_dir() else []
        return {name for name in found if name and not name.startswith(".")}

    def bring(self) -> None:
        """Of a URL: fetch what tells whose corpus it is and which clips are in it."""
        if not self.is_remote:
            return
        there = self.names()
        fs, inner = self._remote
        for name in _DESCRIBES:
            path = self.folder / name
            if name not in there:
                path.unlink(missing_ok=True)
                continue
            with atomic_file(path) as temporary:
                patiently(partial(fs.get_file, f"{inner}/{name}", str(temporary)))

    def send(self, *names: str) -> None:
        """Of a URL: put files of the folder there, in this order; a shard is then removed here."""
        if not self.is_remote:
            return
        fs, inner = self._remote
        patiently(partial(fs.makedirs, inner, exist_ok=True))
        for name in names:
            here, there = str(self.folder / name), f"{inner}/{name}"
            if self.location.partition("://")[0] in _OBJECT_STORES:
                patiently(partial(fs.put_file, here, there))
            else:
                patiently(partial(fs.put_file, here, part := f"{inner}/.{name}.tmp"))
                patiently(partial(fs.mv, part, there))
            if name.endswith(".arrow") and name not in _DESCRIBES:
                os.unlink(here)

    def record(self, name: str) -> ShardRecord:
        """What the shard of that name says of itself."""
        if not self.is_remote:
            return read_record(self.folder / name)
        with open_binary(f"{self.location}/{name}") as file:
            return record_of(file, name)

    def remove(self, *names: str) -> None:
        """Take files away, in this order, where they are."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)
            if self.is_remote and name in self.names():
                fs, inner = self._remote
                patiently(partial(fs.rm_file, f"{inner}/{name}"))

    def close(self) -> None:
        """Of a URL: remove the folder where the files were made, which is no longer needed."""
        if self.is_remote:
            shutil.rmtree(self.folder, ignore_errors=True)


def _staging(url: str) -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache, "slm", "corpora", hashlib.sha256(url.encode()).hexdigest()[:16])
