"""Cuts of Lhotse (`cuts.jsonl.gz`). Format: https://lhotse.readthedocs.io/en/latest/cuts.html"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar

from slm.corpus.containers import channel_member, refused_member
from slm.corpus.remote import FIRST_ROWS, find_root, is_file, is_remote, open_text
from slm.corpus.sources.base import SOURCES, Source, SourceClip
from slm.corpus.sources.manifest import json_rows
from slm.errors import AudioError, UsageError

SUFFIXES = (".jsonl", ".jsonl.gz")
_OF_SUPERVISIONS = ("speaker", "gender", "language")
_WHOLE_S = 1e-3  # Lhotse's own tolerance for a cut that is all of its recording

Cut = Mapping[str, Any]


@SOURCES.register("lhotse")
class LhotseSource(Source):
    """Each MonoCut is a clip: a recording or a part of it, and one of its channels.

    `text` is that of its supervisions, in their order; `speaker`, `gender` and `language` are kept where all of them
    say the same; numbers and words in `custom` fields are columns of their own. Relative paths are below `root`;
    without one, below the nearest folder at or above the cuts where the first file is, else below the working
    directory. Cuts that only Lhotse can make audio of (mixed, padded, of several channels, sped up, by a command, of
    features only) are left out, with the reason.
    """

    about: ClassVar[str] = "Lhotse cuts (.jsonl)"

    def __init__(self, location: str, root: str | None = None):
        super().__init__(location)
        self._given_root = root

    @classmethod
    def recognizes(cls, location: str) -> bool:
        if not location.lower().endswith(SUFFIXES) or not is_file(location):
            return False
        try:
            with open_text(location) as text:
                _, first = next(json_rows(location, text), (0, {}))
        except UsageError:
            return False
        return "supervisions" in first or "sources" in first or str(first.get("type")).endswith("Cut")

    @property
    def base(self) -> str:
        return self._layout[0]

    def clips(self) -> Iterator[SourceClip]:
        for file, line, cut in self._cuts():
            try:
                yield self._clip(file, cut)
            except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
                raise UsageError(f"{file}, line {line}: not a cut as Lhotse writes it ({error!r})") from None

    def _cuts(self) -> Iterator[tuple[str, int, Cut]]:
        """File, line and cut."""
        for file in self._files():
            with open_text(file) as text:
                for line, row in json_rows(file, text):
                    if "id" not in row or not {"type", "supervisions"} & set(row):
                        what = "recordings" if "sources" in row else "supervisions" if "recording_id" in row else "rows"
                        raise UsageError(f"{file}, line {line}: {what}, not cuts: make them with `lhotse cut simple`")
                    yield file, line, row

    def _files(self) -> Sequence[str]:
        return [self.location]

    def _clip(self, file: str, cut: Cut) -> SourceClip:
        metadata = self._metadata(file, cut)
        try:
            source, channel = _audio_of(cut)
        except AudioError as error:
            return SourceClip(str(cut["id"]), file, metadata=metadata, member=refused_member(str(error)))
        path, (root, which) = source["source"], self._layout
        where = path if _stands_alone(path) else os.path.join(root, self._names(path)[which])
        member = "" if channel is None else channel_member(channel)
        return SourceClip(str(cut["id"]), where, *_times(cut), metadata, member)

    def _metadata(self, file: str, cut: Cut) -> dict[str, Any]:
        supervisions = cut.get("supervisions") or []
        texts = [text for text in map(self._text, supervisions) if text]
        custom: dict[str, Any] = {}
        for owner in (cut, *supervisions) if len(supervisions) == 1 else (cut,):
            custom |= owner.get("custom") or {}
        own: dict[str, Any] = {"text": " ".join(texts) if texts else None}
        for name in _OF_SUPERVISIONS:
            values = {supervision.get(name) for supervision in supervisions}
            if values - {None}:
                own[name] = values.pop() if len(values) == 1 else None
        kept = {key: value for key, value in custom.items() if isinstance(value, (str, int, float))}
        return own | {key: value for key, value in kept.items() if own.get(key) is None}

    def _text(self, supervision: Mapping[str, Any]) -> str | None:
        return supervision.get("text")

    def _names(self, path: str) -> Sequence[str]:
        """What a relative path may be called below the root, the likeliest first."""
        return [path]

    @cached_property
    def _layout(self) -> tuple[str, int]:
        """The root, and which of its names a path has there, as the first file shows."""
        for _, _, cut in islice(self._cuts(), FIRST_ROWS):
            try:
                path = _audio_of(cut)[0]["source"]
            except (AudioError, KeyError, TypeError, IndexError):
                continue
            if _stands_alone(path):
                continue
            for which, name in enumerate(self._names(path)):
                root = find_root(name, self.location) if self._given_root is None else self._given_root
                if is_file(os.path.join(root, name)):
                    return root, which
            break
        return self._given_root or "", 0


def _stands_alone(path: str) -> bool:
    return is_remote(path) or os.path.isabs(path)


def _audio_of(cut: Cut) -> tuple[Mapping[str, Any], int | None]:
    """The file (or URL) of a cut as Lhotse's AudioSource, and which of its channels, where it has several. AudioError
    for a cut that is no part of one recording."""
    kind = cut.get("type", "MonoCut")
    if kind not in ("MonoCut", "Cut"):  # Cut: its name before Lhotse 0.8
        raise AudioError(f"not a plain recording: a {kind}")
    recording = cut.get("recording")
    if not recording:
        raise AudioError("not a plain recording: features only")
    made = [transform["name"] for transform in recording.get("transforms") or () if transform["name"] != "Resample"]
    if made:
        raise AudioError(f"not a plain recording: Lhotse makes it by {', '.join(made)}")
    channel = cut["channel"]
    for source in recording["sources"]:
        if channel in source["channels"]:
            if source["type"] == "shar":
                raise UsageError("cuts of a Shar folder have no files: write some with CutSet.save_audios")
            if source["type"] not in ("file", "url"):
                raise AudioError(f"not a plain recording: a {source['type']}")
            return source, source["channels"].index(channel) if len(source["channels"]) > 1 else None
    raise AudioError(f"no channel {channel}: the recording lacks it")


def _times(cut: Cut) -> tuple[float, float | None]:
    start_s, duration_s = float(cut["start"]), float(cut["duration"])
    if start_s == 0 and abs(duration_s - cut["recording"]["duration"]) <= _WHOLE_S:
        return 0.0, None
    return start_s, round(start_s + duration_s, 8)  # as Lhotse rounds
