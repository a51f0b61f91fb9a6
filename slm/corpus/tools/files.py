"""The files of a corpus, finished or not, in a folder or at a URL."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from slm.corpus.output import Output
from slm.corpus.plan import PLAN_FILES
from slm.corpus.remote import filesystem, is_remote, patiently
from slm.errors import UsageError

T = TypeVar("T")


def local(location: str | Path) -> Path:
    """A folder of this machine; UsageError for a URL."""
    if is_remote(str(location)):
        raise UsageError(f"{location} is not on this machine: copy it into a folder, or name another")
    return Path(location)


def tracked(items: Iterable[T], what: str, total: int) -> Iterable[T]:
    """The items, with a bar on a terminal for as long as it takes."""
    from rich.console import Console
    from rich.progress import track

    is_shown = sys.stderr.isatty()
    return track(items, what, total, console=Console(stderr=True), transient=True, disable=not is_shown)


@dataclass(frozen=True)
class CorpusFiles:
    """`folder` holds what stands beside the shards: of a URL copies of it."""

    output: Output
    folder: Path

    @property
    def location(self) -> str:
        return self.output.location

    @contextmanager
    def shard(self, name: str) -> Iterator[Path]:
        """A shard as a file of this machine: of a URL a copy, for so long."""
        path = self.folder / name
        if not self.output.is_remote:
            yield path
            return
        try:
            self.fetch(name)
            yield path
        finally:
            path.unlink(missing_ok=True)

    def fetch(self, name: str) -> None:
        fs, inner = filesystem(self.location)
        try:
            patiently(partial(fs.get_file, f"{inner}/{name}", str(self.folder / name)))
        except OSError as error:
            raise UsageError(f"cannot read {self.location}/{name} ({error}): try again") from None


@contextmanager
def open_corpus(location: str) -> Iterator[CorpusFiles]:
    """UsageError where a URL cannot be read; whether it is a corpus is for the caller to see."""
    output = Output(location)
    if not output.is_remote:
        yield CorpusFiles(output, output.folder)
        return
    with TemporaryDirectory(prefix="slm-corpus-") as folder:
        files = CorpusFiles(output, Path(folder))
        there = output.names()
        if "tokenizer.json" not in there:
            raise UsageError(f"{location} is not a tokenized corpus: there is no tokenizer.json")
        for name in sorted(there):
            if not name.endswith(".arrow") or name in PLAN_FILES:
                files.fetch(name)
        yield files
