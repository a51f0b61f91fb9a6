"""Where a corpus is written: a folder, or a URL that fsspec opens.

What is at a URL is made in a folder of this machine and sent file by file, each whole or not at all. What is finished
is known by what lies at the URL, so that any machine can go on.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from slm.corpus.plan import PLAN_FILES
from slm.corpus.remote import filesystem, is_remote, open_binary, patiently
from slm.corpus.shards import ShardRecord, read_record, record_of
from slm.corpus.sources.base import readable
from slm.errors import StoppedError, UsageError
from slm.files import atomic_file, temporary_name, user_cache

_DESCRIBES = ("tokenizer.json", *PLAN_FILES)
# A file sent to one of these is there when it is whole; elsewhere it gets its name after that.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "hf"}


class Output:
    """The files of a corpus by name. `folder` is where they are made."""

    def __init__(self, location: str | os.PathLike[str]):
        if not os.fspath(location):
            raise UsageError("--out is empty: give a folder")
        self.location = os.fspath(location).rstrip("/") or "/"
        self.is_remote = is_remote(os.fspath(location))
        if self.is_remote and not is_remote(self.location):
            raise UsageError(f"--out {os.fspath(location)} names no folder: give one")
        if (shown := readable(self.location)) != self.location:  # Arrow opens no such file
            raise UsageError(f"--out {shown} has a name that is not UTF-8: give a folder with another")
        self.folder = _staging(self.location) if self.is_remote else Path(self.location)

    @cached_property
    def _remote(self) -> tuple[Any, str]:
        return filesystem(self.location)

    def names(self) -> set[str]:
        """The names of the files that are there; hidden ones are not counted."""
        return set(self._sizes())

    def _sizes(self) -> dict[str, int]:
        if self.is_remote:
            fs, inner = self._remote
            fs.invalidate_cache()
            try:
                listed = patiently(partial(fs.ls, inner, detail=True))
                found = {os.path.basename(entry["name"].rstrip("/")): entry.get("size") or 0 for entry in listed}
            except FileNotFoundError:
                return {}
            except OSError as error:
                raise UsageError(f"--out {self.location} cannot be used ({error}): give one that can be") from None
        else:
            found = dict.fromkeys(os.listdir(self.folder), 0) if self.folder.is_dir() else {}
        return {name: size for name, size in found.items() if name and not name.startswith(".")}

    def bring(self, *names: str) -> None:
        """Of a URL: fetch files into the folder, without names those that tell whose corpus it is and which clips are
        in it; what is not there is then not here either.

        Others may have made the corpus anew since this machine last saw it: JSON is compared, and where it differs all
        is fetched; else what has another size.
        """
        if not self.is_remote:
            return
        sizes = self._sizes()
        fs, inner = self._remote
        wanted = names or _DESCRIBES
        told = {
            name: patiently(partial(fs.cat_file, f"{inner}/{name}"))
            for name in wanted
            if name.endswith(".json") and name in sizes
        }
        anew = any(not (path := self.folder / name).is_file() or path.read_bytes() != told[name] for name in told)
        for name in wanted:
            path = self.folder / name
            if name not in sizes:
                path.unlink(missing_ok=True)
            elif anew or not path.is_file() or path.stat().st_size != sizes[name]:
                with atomic_file(path) as temporary:
                    if name in told:
                        temporary.write_bytes(told[name])
                    else:
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
                patiently(partial(fs.put_file, here, part := f"{inner}/{temporary_name(name)}"))
                patiently(partial(fs.mv, part, there))
            if name.endswith(".arrow") and name not in _DESCRIBES:
                os.unlink(here)

    def record(self, name: str) -> ShardRecord:
        """What the shard of that name says of itself; StoppedError where it cannot be read."""
        try:
            if not self.is_remote:
                return read_record(self.folder / name)
            with open_binary(f"{self.location}/{name}") as file:
                return record_of(file, name)
        except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
            told = f"{self.location}/{name} is damaged or no shard; delete it and run the command that made it again"
            raise StoppedError(told) from error

    def remove(self, *names: str) -> None:
        """Take files away, in this order, where they are."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)
            if self.is_remote and name in self.names():
                fs, inner = self._remote
                patiently(partial(fs.rm_file, f"{inner}/{name}"))

    def close(self) -> None:
        """Of a URL: remove the folder where the files were made, which is no longer needed. It is renamed before, so
        that nothing of a run that begins meanwhile is lost."""
        if self.is_remote:
            gone = self.folder.with_name(temporary_name(self.folder.name))
            with suppress(OSError):
                shutil.rmtree(gone, ignore_errors=True)
                self.folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)


def _staging(url: str) -> Path:
    return user_cache("corpora") / hashlib.sha256(url.encode()).hexdigest()[:16]
