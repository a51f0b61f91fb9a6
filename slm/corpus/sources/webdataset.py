"""WebDataset: tar files in which the files of a sample share a name. Format: https://github.com/webdataset/webdataset"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, ClassVar

from slm.audio import AUDIO_SUFFIXES
from slm.corpus.containers import part_member, refused_member
from slm.corpus.remote import find_files, first_files, is_file, is_remote, open_binary
from slm.corpus.sources.base import SOURCES, Source, SourceClip, stem
from slm.errors import UsageError

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")  # up to the first dot of the file's name, as WebDataset splits
_SIDECARS = (".json", ".txt")

File = tuple[str, tarfile.TarInfo]
"""A name, or what of it is behind that of the sample, and where the file lies in its tar."""


@SOURCES.register("webdataset")
class WebDatasetSource(Source):
    """One tar, several as `shards/{000..010}.tar`, or all below a folder. To list a tar, only headers are read of it.

    A clip is an audio file; the sample's `.json` gives its metadata, its `.txt` the `text`. It is called by the name
    of its sample, after that of its tar where there are several, with the suffix where a sample has several audio
    files. What cannot be read of a tar that was cut is one clip, left out with the reason.
    """

    about: ClassVar[str] = "WebDataset tars"

    @classmethod
    def recognizes(cls, location: str) -> bool:
        if location.endswith((".tar", *_COMPRESSED)):
            return is_remote(location) or bool(_RANGE.search(location)) or is_file(location)
        suffixes = {os.path.splitext(path)[1].lower() for path in first_files(location)}
        return ".tar" in suffixes and not suffixes & AUDIO_SUFFIXES

    def clips(self) -> Iterator[SourceClip]:
        shards = list(_shards(self.location, self.skipped))
        for shard in shards:
            name = stem(os.path.basename(shard))
            yield from clips_of_tar(shard, name, f"{name}/" if len(shards) > 1 else "", self.skipped)


def _shards(location: str, skipped: Counter[str]) -> Iterator[str]:
    if location.endswith(_COMPRESSED):
        raise UsageError(f"{location} is compressed, so that no part of it can be read alone: unpack it to .tar files")
    if not location.endswith(".tar"):
        yield from find_files(location, ".tar", skipped)
    elif found := _RANGE.search(location):
        first, last = found.groups()
        for number in range(int(first), int(last) + 1):
            digits = f"{number:0{len(first)}d}" if first.startswith("0") else str(number)
            yield from _shards(location[: found.start()] + digits + location[found.end() :], skipped)
    else:
        yield location


def clips_of_tar(path: str, name: str, prefix: str, skipped: Counter[str]) -> Iterator[SourceClip]:
    """The clips of a tar called `name`, their ids behind `prefix`; counts files that are no audio and tell nothing of
    any. UsageError where the tar cannot be read."""
    try:
        with open_binary(path) as raw:
            for key, files in _samples(raw):
                yield from _clips_of_sample(path, raw, prefix + key, files, skipped)
    except tarfile.ReadError as error:
        reason = f"truncated or no tar: {error}; only what comes before is kept"
        yield SourceClip(name, path, member=refused_member(reason))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None


def _samples(raw: BinaryIO) -> Iterator[tuple[str, list[File]]]:
    """Name of each sample, and its files."""
    sample = ""
    files: list[File] = []
    try:
        for name, info in _files(raw):
            split = _NAME.fullmatch(name)
            key, rest = split.groups() if split else (name, "")
            if key != sample and files:
                yield sample, files
                files = []
            sample = key
            files.append((rest, info))
    except tarfile.ReadError:
        if files:
            yield sample, files
        raise
    if files:
        yield sample, files


def _files(raw: BinaryIO) -> Iterator[File]:
    """The files of a tar that are not hidden, by name. Raises ReadError where the tar breaks off, which `tarfile` takes
    for its end."""
    size = raw.seek(0, os.SEEK_END)
    raw.seek(0)
    tar = tarfile.TarFile(fileobj=raw)
    for info in tar:
        tar.members = []  # type: ignore[attr-defined]  # else it keeps them all
        if info.offset_data + info.size > size:
            raise tarfile.ReadError(f"it ends within {info.name}")
        if info.isreg() and not os.path.basename(info.name).startswith("."):
            yield info.name.removeprefix("./"), info
    raw.seek(tar.offset)
    if raw.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no header and no end mark at byte {tar.offset:,}")


def _clips_of_sample(
    path: str, raw: BinaryIO, id: str, files: Sequence[File], skipped: Counter[str]
) -> Iterator[SourceClip]:
    kinds = [(os.path.splitext(info.name)[1].lower(), rest, info) for rest, info in files]
    audio = [(rest, info) for kind, rest, info in kinds if kind in AUDIO_SUFFIXES]
    sidecars = [(kind, info) for kind, _, info in kinds if kind in _SIDECARS and audio]
    skipped.update(kind for kind, _, _ in kinds if kind not in AUDIO_SUFFIXES and (not audio or kind not in _SIDECARS))
    metadata: dict[str, Any] = {}
    fault = ""
    for kind, info in sidecars:
        try:
            metadata |= _metadata(kind, raw, info)
        except ValueError as error:
            fault = f"bad metadata: {info.name} ({error})"
    for rest, info in audio:
        member = (
            refused_member(fault) if fault else part_member(info.offset_data, info.size, os.path.basename(info.name))
        )
        yield SourceClip(id if len(audio) == 1 else f"{id}.{rest}", path, metadata=metadata, member=member)


def _metadata(kind: str, raw: BinaryIO, info: tarfile.TarInfo) -> dict[str, Any]:
    """What a sidecar says; ValueError for one that is no UTF-8 or no JSON object."""
    raw.seek(info.offset_data)
    text = raw.read(info.size).decode()
    if kind == ".txt":
        return {"text": text.strip()}
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    return values
