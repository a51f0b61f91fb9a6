"""LibriHeavy: Libri-Light with text, as Lhotse cuts. Format: https://github.com/k2-fsa/libriheavy"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

from slm.corpus.remote import is_file
from slm.corpus.sources.base import SOURCES
from slm.corpus.sources.lhotse import Cut, LhotseSource

_FILE = re.compile(r"libriheavy_cuts_(\w+)\.jsonl(\.gz)?")
_IN_THE_CUTS = "download/librilight/"  # where they all say that Libri-Light is


@SOURCES.register("libriheavy")
class LibriHeavySource(LhotseSource):
    """A file `libriheavy_cuts_SUBSET.jsonl.gz`, or a folder of them; `root` is where Libri-Light is, if not at or above
    that folder or below the working directory.

    `text` is that of the book, with case and punctuation; `subset`, `book` and `chapter` are columns too. The text
    before and the transcript by a recognizer are not kept.
    """

    about: ClassVar[str] = "LibriHeavy's cuts"

    @classmethod
    def recognizes(cls, location: str) -> bool:
        if _FILE.fullmatch(os.path.basename(location)):
            return is_file(location)
        return bool(_files_in(location))

    def _files(self) -> Sequence[str]:
        return self._found

    @cached_property
    def _found(self) -> Sequence[str]:
        return _files_in(self.location) or [self.location]

    def _names(self, path: str) -> Sequence[str]:
        return [path, path.removeprefix(_IN_THE_CUTS)]

    def _metadata(self, file: str, cut: Cut) -> dict[str, Any]:
        book, chapter = ["", *cut["recording"]["id"].split("/")][-2:]
        named = _FILE.fullmatch(os.path.basename(file))
        own = {"subset": named[1] if named else None, "book": book, "chapter": chapter}
        return super()._metadata(file, cut) | own

    def _text(self, supervision: Mapping[str, Any]) -> str | None:
        custom = supervision.get("custom") or {}
        return supervision.get("text") or custom.get("texts", [None])[0]


def _files_in(location: str) -> list[str]:
    """The cuts in a local folder, in sorted order."""
    try:
        names = sorted(os.listdir(location)) if os.path.isdir(location) else []
    except OSError:
        return []
    return [os.path.join(location, name) for name in names if _FILE.fullmatch(name)]
