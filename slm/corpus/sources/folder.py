"""A folder of audio files, at any depth, here or on a server."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar

from slm.corpus.remote import filesystem, is_remote, walk
from slm.corpus.sources.base import SOURCES, Source, SourceClip, readable, stem


@SOURCES.register("folder")
class FolderSource(Source):
    """Every audio file below a folder, folder by folder in sorted order.

    Ids are paths relative to the folder, without suffix where that is unique. Hidden files are left out.
    """

    about: ClassVar[str] = "a folder of audio files"
    is_fallback = True

    @classmethod
    def recognizes(cls, location: str) -> bool:
        if not is_remote(location):
            return os.path.isdir(location)
        fs, inner = filesystem(location)
        try:
            return bool(fs.isdir(inner))
        except Exception:  # of whatever library asks; listing it tells why
            return True

    def clips(self) -> Iterator[SourceClip]:
        for parent, audio, skipped in walk(self.location):
            self.skipped.update(skipped)
            yield from clips_of_folder(self.location, parent, audio)


def clips_of_folder(location: str, parent: str, names: list[str]) -> Iterator[SourceClip]:
    """The files `names` of one folder, at or below `location`, called by their paths from there."""
    below = os.path.relpath(parent, location)
    prefix, folder = "" if below == "." else readable(below) + "/", os.path.join(parent, "")
    for name, id in zip(names, ids_of_files(names), strict=True):
        yield SourceClip(prefix + id, folder + name)


def ids_of_files(names: list[str]) -> list[str]:
    """Names of one folder as ids: without suffix where no other name shares the rest or is it."""
    texts = [readable(name) for name in names]
    stems = [stem(text) for text in texts]
    count = Counter(stems) + Counter(set(texts))
    return [short if count[short] == 1 else text for short, text in zip(stems, texts, strict=True)]
