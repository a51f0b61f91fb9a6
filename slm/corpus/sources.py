"""Where the clips of a corpus come from: a folder of audio files, or a manifest (JSONL, CSV, TSV)."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slm.audio import find_audio
from slm.errors import UsageError

PATH_COLUMNS = ("path", "audio", "audio_path", "file", "filename", "wav")
MANIFEST_SUFFIXES = (".jsonl", ".csv", ".tsv")
_ACCEPTED = "give a folder of audio files, or a manifest (.jsonl, .csv, .tsv) with a path column"


@dataclass(frozen=True)
class SourceClip:
    """A file, or its segment `start_s`..`end_s` (None: to the end), and what its manifest says about it."""

    id: str
    path: Path
    start_s: float = 0.0
    end_s: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def list_clips(source: Path | str) -> list[SourceClip]:
    """The clips of a folder (sorted by path) or of a manifest (in its order), with unique ids. Opens no audio.

    Ids come from the manifest's `id` column, else from the path relative to the source, without its suffix where
    that is unique. Raises UsageError for a source that is not there, of another kind, empty, or has equal ids.
    """
    source = Path(source)
    if source.is_dir():
        return _list_folder(source)
    if not source.is_file():
        raise UsageError(f"no such folder or manifest: {source}; {_ACCEPTED}{_hub_hint(str(source))}")
    if source.suffix.lower() not in MANIFEST_SUFFIXES:
        raise UsageError(f"{source} is neither a folder nor a manifest; {_ACCEPTED}")
    return _list_manifest(source)


def readable(path: Path | str) -> str:
    """A path as text that can be stored: bytes that are not UTF-8 become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _hub_hint(source: str) -> str:
    looks_like_id = re.fullmatch(r"[\w.\-]+/[\w.\-]+", source)
    return " (datasets of the Hugging Face hub are not read: save their audio as files first)" if looks_like_id else ""


def _list_folder(folder: Path) -> list[SourceClip]:
    paths = find_audio(folder)
    if not paths and any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
        raise UsageError(f"{folder} is a saved Hugging Face dataset, which is not read as audio; {_ACCEPTED}")
    if not paths:
        raise UsageError(f"no audio files in {folder}; {_ACCEPTED}")
    return [SourceClip(id, path) for id, path in zip(_ids_from_paths(paths, folder), paths, strict=True)]


def _ids_from_paths(paths: list[Path], base: Path) -> list[str]:
    """Relative paths, without suffix where no other path shares the rest."""
    names = [Path(os.path.relpath(path, base)) for path in paths]
    stems = [readable(name.with_suffix("").as_posix()) for name in names]
    count = Counter(stems)
    return [stem if count[stem] == 1 else readable(name.as_posix()) for stem, name in zip(stems, names, strict=True)]


def _list_manifest(manifest: Path) -> list[SourceClip]:
    rows = list(_read_rows(manifest))
    if not rows:
        raise UsageError(f"{manifest} has no rows; {_ACCEPTED}")
    columns = sorted({name for _, row in rows for name in row})
    path_column = next((name for name in PATH_COLUMNS if name in columns), None)
    if path_column is None:
        raise UsageError(
            f"{manifest} has no path column: it has {', '.join(columns)}; name one of {', '.join(PATH_COLUMNS)}"
        )
    paths = [_path(manifest, line, row, path_column) for line, row in rows]
    from_paths = _ids_from_paths(paths, manifest.parent)
    clips = [
        _clip(manifest, line, row, path_column, path, id)
        for (line, row), path, id in zip(rows, paths, from_paths, strict=True)
    ]
    _check_unique(manifest, clips)
    return clips


def _path(manifest: Path, line: int, row: Mapping[str, Any], column: str) -> Path:
    value = row.get(column)
    if not isinstance(value, str) or not value:
        raise UsageError(f"{manifest}, line {line}: `{column}` is {value!r}, not the path of a file")
    return manifest.parent / value


def _clip(manifest: Path, line: int, row: dict[str, Any], path_column: str, path: Path, path_id: str) -> SourceClip:
    rest = {name: value for name, value in row.items() if name != path_column}
    given = rest.pop("id", None)
    start_s = _seconds(manifest, line, rest, ("start_s", "start"))
    end_s = _seconds(manifest, line, rest, ("end_s", "end"))
    id = path_id if given in (None, "") else str(given)
    return SourceClip(id, path, start_s or 0.0, end_s, rest)


def _seconds(manifest: Path, line: int, row: dict[str, Any], names: tuple[str, ...]) -> float | None:
    values = [row.pop(name) for name in names if name in row]
    value = next((value for value in values if value not in (None, "")), None)
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        raise UsageError(f"{manifest}, line {line}: `{names[0]}` is {value!r}, not a time in seconds") from None


def _check_unique(manifest: Path, clips: list[SourceClip]) -> None:
    twice = [id for id, count in Counter(clip.id for clip in clips).items() if count > 1]
    if twice:
        raise UsageError(
            f"{manifest} has {len(twice)} ids more than once, such as {', '.join(repr(id) for id in twice[:3])}; "
            "give each row its own `id`"
        )


def _read_rows(manifest: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, row) of each row that is not blank."""
    try:
        text = manifest.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{manifest} is not UTF-8 text ({error.reason} at byte {error.start}): convert it") from None
    if manifest.suffix.lower() == ".jsonl":
        yield from _json_rows(manifest, text.split("\n"))
        return
    # Common Voice and most TSV do not quote; CSV does.
    tabs = manifest.suffix.lower() == ".tsv"
    reader = csv.DictReader(
        io.StringIO(text, newline=""),
        delimiter="\t" if tabs else ",",
        quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
    )
    for row in reader:
        if None in row or None in row.values():
            raise UsageError(f"{manifest}, line {reader.line_num}: not as many cells as the header has columns")
        yield reader.line_num, row


def _json_rows(manifest: Path, lines: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"{manifest}, line {number}: not JSON ({error.msg})") from None
        if not isinstance(row, dict):
            raise UsageError(f"{manifest}, line {number}: not a JSON object")
        yield number, row
