"""A Libri-Light tree: SUBSET/SPEAKER/BOOK/CHAPTER.flac, and CHAPTER.json beside it.

Format: https://github.com/facebookresearch/libri-light, data_preparation/README.md
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, ClassVar

from slm.corpus.remote import first_files, is_file, read_bytes, walk
from slm.corpus.sources._json import json_object
from slm.corpus.sources.base import SOURCES, Source, SourceClip, readable, stem
from slm.corpus.sources.folder import clips_of_folder
from slm.errors import UsageError


@SOURCES.register("librilight")
class LibriLightSource(Source):
    """Every audio file of the tree or of a part of it, with `subset`, `speaker`, `book` and `chapter` from its path,
    and `title`, `genre` and `snr` (in dB) from the JSON beside it, where it has one.

    The recordings are long: `--segmentation.kind vad` cuts them. For segments with text give the cuts of LibriHeavy.
    """

    about: ClassVar[str] = "a Libri-Light tree"

    @classmethod
    def recognizes(cls, location: str) -> bool:
        files = first_files(location)
        described = [path for path in files if path.endswith(".json") and stem(path) + ".flac" in files]
        try:
            return bool(described) and "voice_activity" in _read(described[0])
        except UsageError:
            return False

    def clips(self) -> Iterator[SourceClip]:
        for parent, audio, skipped in walk(self.location):
            described = skipped.pop(".json", 0) > 0
            self.skipped.update(skipped)
            for clip in clips_of_folder(self.location, parent, audio):
                path = stem(clip.path) + ".json"
                about = _read(path) if described and is_file(path) else {}
                yield SourceClip(clip.id, clip.path, metadata=_metadata(clip.path, about))


def _read(path: str) -> dict[str, Any]:
    try:
        about = json_object(read_bytes(path).decode())
        if not isinstance(about.get("book_meta") or {}, dict):
            raise ValueError("its book_meta is not a JSON object")
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {readable(path)} ({error}): get it anew, or remove it") from None
    return about


def _metadata(path: str, about: dict[str, Any]) -> dict[str, Any]:
    subset, speaker, book, name = ["", "", "", *readable(os.path.abspath(path)).split(os.sep)][-4:]
    details = about.get("book_meta") or {}
    own = {"subset": subset, "speaker": about.get("speaker") or speaker, "book": book, "chapter": stem(name)}
    return own | {"title": details.get("title"), "genre": details.get("meta_genre"), "snr": about.get("snr")}
