"""A LibriSpeech tree: SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-UTTERANCE.flac. Format: https://www.openslr.org/12"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any, ClassVar

from slm.corpus.remote import first_files, is_file, is_remote, open_text, walk
from slm.corpus.sources.base import SOURCES, Source, SourceClip, readable
from slm.corpus.sources.folder import clips_of_folder
from slm.errors import UsageError

_NAME = re.compile(r"(\d+)-(\d+)-\d+")


@SOURCES.register("librispeech")
class LibriSpeechSource(Source):
    """Every audio file of the tree or of a part of it, with `text` (its line in the chapter's `.trans.txt`), `speaker`,
    `chapter`, `subset` and, where `SPEAKERS.TXT` is in the folder or above it, `gender`.

    Ids are those of the utterances, such as 84-121123-0000; a file of another name is called by its path.
    """

    about: ClassVar[str] = "a LibriSpeech tree"

    @classmethod
    def recognizes(cls, location: str) -> bool:
        return any(path.endswith(".trans.txt") for path in first_files(location))

    def clips(self) -> Iterator[SourceClip]:
        for parent, audio, skipped in walk(self.location):
            skipped.pop(".txt", None)
            self.skipped.update(skipped)
            texts: dict[str, dict[str, str]] = {}
            for clip in clips_of_folder(self.location, parent, audio):
                stem = os.path.splitext(os.path.basename(clip.path))[0]
                if not (named := _NAME.fullmatch(stem)):
                    yield clip
                    continue
                speaker, chapter = named.groups()
                name = f"{speaker}-{chapter}.trans.txt"
                if name not in texts:
                    texts[name] = _transcripts(os.path.join(parent, name))
                metadata = self._metadata(parent, speaker, chapter, texts[name].get(stem))
                yield SourceClip(stem, clip.path, metadata=metadata)

    def _metadata(self, parent: str, speaker: str, chapter: str, text: str | None) -> dict[str, Any]:
        subset = readable(os.path.abspath(parent).split(os.sep)[-3:][0])
        metadata = {"text": text, "speaker": speaker, "chapter": chapter, "subset": subset}
        return metadata | ({"gender": self._genders.get(speaker)} if self._genders else {})

    @cached_property
    def _genders(self) -> dict[str, str]:
        """Of each speaker: F or M."""
        folder = self.location.rstrip("/") if is_remote(self.location) else os.path.abspath(self.location)
        for _ in range(4):  # up from a chapter
            if is_file(path := os.path.join(folder, "SPEAKERS.TXT")):
                with open_text(path) as lines:
                    cells = [line.split("|") for line in lines if "|" in line and not line.startswith(";")]
                return {speaker.strip(): gender.strip() for speaker, gender, *_ in cells}
            folder = os.path.dirname(folder)
        return {}


def _transcripts(path: str) -> dict[str, str]:
    """Utterance -> text; none where there is no such file."""
    if not is_file(path):
        return {}
    with open_text(path) as lines:
        pairs = [line.strip().split(maxsplit=1) for line in lines if line.strip()]
    if any(len(pair) < 2 for pair in pairs):
        raise UsageError(f"{path}: a line has no text behind the utterance; get the file anew")
    return dict(pairs)
