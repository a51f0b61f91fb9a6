"""A folder of audio files, at any depth, here or on a server."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar

from slm.audio import walk_folder
from slm.corpus.remote import is_remote, walk_remote
from slm.corpus.sources.base import SOURCES, Source, SourceClip, readable, stem
from slm.errors import UsageError


@SOURCES.register("folder")
class FolderSource(Source):
    """Every audio file below a folder, folder by folder in sorted order.

    Ids are paths relative to the folder, without suffix where that is unique. Hidden files are left out.
    """

    about: ClassVar[str] = "a folder of audio files"
    is_fallback = True

    @classmethod
    def recognizes(cls, location: str) -> bool:
        return os.path.isdir(location) or (is_remote(location) and not os.path.splitext(location)[1])

    def clips(self) -> Iterator[SourceClip]:
        location = self.location.rstrip("/") if is_remote(self.location) else self.location
        if not is_remote(location) and not os.path.isdir(location):
            raise UsageError(f"no such folder: {location}")
        for parent, audio, skipped in walk_remote(location) if is_remote(location) else walk_folder(location):
            self.skipped.update(skipped)
            below = os.path.relpath(parent, location)
            prefix = "" if below == "." else readable(below) + "/"
            for name, id in zip(audio, ids_of_files(audio), strict=True):
                yield SourceClip(prefix + id, os.path.join(parent, name))


def ids_of_files(names: list[str]) -> list[str]:
    """Names of one folder as ids: without suffix where no other name shares the rest or is it."""
    texts = [readable(name) for name in names]
    stems = [stem(text) for text in texts]
    count = Counter(stems) + Counter(set(texts))
    return [short if count[short] == 1 else text for short, text in zip(stems, texts, strict=True)]
