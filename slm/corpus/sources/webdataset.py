"""WebDataset: tar files in which the files of a sample share a name. Format: https://github.com/webdataset/webdataset"""

from __future__ import annotations

import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, ClassVar

from slm.audio import AUDIO_SUFFIXES
from slm.corpus.containers import part_member, refused_member
from slm.corpus.remote import find_files, first_files, is_file, is_remote, open_binary
from slm.corpus.sources._json import json_object
from slm.corpus.sources.base import SOURCES, Source, SourceClip, readable, stem
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

    A clip is an audio file; the sample's `.json` gives its metadata, its `.txt` the `text`; `.X.txt` and `.X.json` are
    those of `.X.wav`, and without one a column `X`. It is called by the name of its sample, after the path of its tar
    where there are several, with the suffix where a sample has several audio files. What cannot be read of a tar that
    was cut is one clip, left out with the reason, as links in a tar are.
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
        folder = self.location.partition("{")[0]
        folder = os.path.dirname(folder) if folder != self.location or folder.endswith(".tar") else folder
        for shard in shards:
            if shard.endswith("/"):  # a folder that cannot be listed: reading it gives the reason
                yield SourceClip(readable(os.path.relpath(shard, folder or ".")) + "/", shard)
                continue
            name = name_of_tar(shard, folder)
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


def name_of_tar(path: str, folder: str) -> str:
    """Its path below a folder, without suffix."""
    return readable(stem(os.path.relpath(path, folder or ".")))


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
        info.name = readable(info.name)
        if not _refusal(info) and info.offset_data + info.size > size:
            raise tarfile.ReadError(f"it ends within {info.name}")
        if not info.isdir() and not os.path.basename(info.name).startswith("."):
            yield info.name.removeprefix("./"), info
    raw.seek(tar.offset)
    if raw.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no header and no end mark at byte {tar.offset:,}")


def _refusal(info: tarfile.TarInfo) -> str:
    """Why a member is no file whose bytes lie in the tar, one after the other."""
    if info.issparse():
        return "a sparse file inside the tar: pack it without --sparse"
    if info.islnk() or info.issym():
        return "a link inside the tar: pack it with --dereference --hard-dereference"
    return "" if info.isreg() else "a device or pipe"


def _clips_of_sample(
    path: str, raw: BinaryIO, id: str, files: Sequence[File], skipped: Counter[str]
) -> Iterator[SourceClip]:
    kinds = [(os.path.splitext(info.name)[1].lower(), rest, info) for rest, info in files]
    audio = [(rest, info) for kind, rest, info in kinds if kind in AUDIO_SUFFIXES]
    sidecars = [(rest, info) for kind, rest, info in kinds if kind in _SIDECARS and audio]
    skipped.update(kind for kind, _, _ in kinds if kind not in AUDIO_SUFFIXES and (not audio or kind not in _SIDECARS))
    told: list[tuple[str, str | dict[str, Any]]] = []
    fault = ""
    for rest, info in sidecars:
        try:
            told.append((_field(rest), _read(raw, info)))
        except ValueError as error:
            fault = f"bad metadata: {info.name} ({error})"
    fields = {_field(rest) for rest, _ in audio}
    for rest, info in audio:
        metadata: dict[str, Any] = {}
        for field, value in told:
            if field in ("", _field(rest)):
                metadata |= value if isinstance(value, dict) else {"text": value}
            elif field not in fields:
                metadata[field] = value
        part = part_member(info.offset_data, info.size, os.path.basename(info.name))
        member = refused_member(reason) if (reason := _refusal(info) or fault) else part
        yield SourceClip(id if len(audio) == 1 else f"{id}.{rest}", path, metadata=metadata, member=member)


def _field(rest: str) -> str:
    """`mic1` of `mic1.wav`; of `wav` nothing."""
    return rest.rpartition(".")[0]


def _read(raw: BinaryIO, info: tarfile.TarInfo) -> str | dict[str, Any]:
    """What a sidecar says; ValueError for one that cannot be read, is no UTF-8 or no JSON object."""
    if reason := _refusal(info):
        raise ValueError(reason)
    raw.seek(info.offset_data)
    text = raw.read(info.size).decode()
    return text.strip() if info.name.lower().endswith(".txt") else json_object(text)
