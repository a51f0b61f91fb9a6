"""The contract of a source: a place that lists clips, in a fixed order, without opening any audio."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from slm.errors import UsageError
from slm.registry import Registry


@dataclass(frozen=True)
class SourceClip:
    """A recording, or its segment `start_s`..`end_s` (None: to the end), and what its source says about it.

    `path` is a local path or a URL that fsspec opens. `member` says where in that file the recording lies, where the
    file holds many (see `slm.corpus.reading`); it is empty for a file of audio.
    """

    id: str
    path: str
    start_s: float = 0.0
    end_s: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    member: str = ""


class Source(ABC):
    """The clips at one location. A subclass is one file beside this one, registered with `@SOURCES.register`.

    `skipped` counts, by suffix, the files that were not taken for audio, once `clips` has run to its end.
    """

    about: ClassVar[str]
    """What it reads, in a line for `--help` and for errors."""
    is_fallback: ClassVar[bool] = False
    """Takes what no more particular source recognizes."""

    def __init__(self, location: str):
        self.location = location
        self.skipped: Counter[str] = Counter()

    @classmethod
    @abstractmethod
    def recognizes(cls, location: str) -> bool:
        """Whether the location is of this kind: by its name and a look at names in it or at its first row; never raises
        OSError."""

    @abstractmethod
    def clips(self) -> Iterator[SourceClip]:
        """All clips in an order that is always the same. Holds few of them at a time: there may be millions.

        Raises UsageError for what cannot be listed.
        """

    @property
    def base(self) -> str:
        """The folder that paths are relative to when a corpus tells whether its source has changed: source and audio
        may move together."""
        return self.location if os.path.isdir(self.location) else os.path.dirname(self.location)


SOURCES: Registry[Source] = Registry("source", package="slm.corpus.sources", group="slm.sources")


def open_source(location: str | os.PathLike[str], kind: str = "auto", /, **settings: Any) -> Source:
    """The source at a location, of the kind that recognizes it or that is named, with that kind's settings.

    Raises UsageError where there is none, where two kinds recognize it, and for an unknown kind or
    setting.
    """
    location = os.fspath(location)
    if kind != "auto":
        return SOURCES.create(kind, {"location": location}, **settings)
    kinds = {name: SOURCES.get(name) for name in SOURCES.names()}
    try:
        found = {name: cls for name, cls in kinds.items() if cls.recognizes(location)}
    except ValueError as error:  # a zero byte
        raise UsageError(f"cannot read {location!r}: {error}") from None
    chosen = {name: cls for name, cls in found.items() if not cls.is_fallback} or found
    bases = {base for cls in chosen.values() for base in cls.__mro__[1:]}  # the more particular one is meant
    chosen = {name: cls for name, cls in chosen.items() if cls not in bases}
    if len(chosen) > 1:
        raise UsageError(f"{location} could be read as {' or '.join(chosen)}: say which with --source")
    for name in chosen:
        return SOURCES.create(name, {"location": location}, **settings)
    what = "cannot be read as audio" if os.path.exists(location) else "no such folder or manifest"
    *known, last = (cls.about for cls in sorted(kinds.values(), key=lambda cls: not cls.is_fallback))
    raise UsageError(f"{what}: {location}; give {', '.join(known)} or {last}")


def list_clips(location: str | os.PathLike[str], kind: str = "auto") -> list[SourceClip]:
    """All clips of a source at once, with unique ids; UsageError where there are none, or equal ids."""
    source = open_source(location, kind)
    clips = list(source.clips())
    if not clips:
        raise UsageError(describe_nothing(source))
    check_unique(source.location, [id for id, count in Counter(clip.id for clip in clips).items() if count > 1])
    return clips


def describe_nothing(source: Source) -> str:
    """Of a source without clips: what is there instead, and what should be."""
    others = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in source.skipped.most_common(3))
    seen = f" (but {others}: say with --source what holds audio)" if others else ""
    return f"no audio files in {source.location}{seen}; give {source.about}"


def check_unique(location: str, twice: list[str]) -> None:
    if twice:
        examples = ", ".join(repr(id) for id in twice[:3])
        raise UsageError(
            f"{location} has {len(twice)} ids more than once, such as {examples}; rename the files, or give each row "
            "of a manifest its own `id`"
        )


def readable(path: str | os.PathLike[str]) -> str:
    """A path as text that can be stored: bytes that are not UTF-8 become escapes."""
    if isinstance(path, str) and path.isascii():
        return path
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def stem(path: str) -> str:
    """A path without its last suffix."""
    return os.path.splitext(path)[0]
