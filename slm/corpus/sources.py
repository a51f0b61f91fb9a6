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

from slm.audio import scan_folder
from slm.errors import UsageError

PATH_COLUMNS = ("path", "audio", "audio_path", "file", "filename", "wav")
MANIFEST_SUFFIXES = (".jsonl", ".csv", ".tsv")
_LARGEST_CELL = 2**31 - 1  # of a CSV: Python's own limit is 128 KiB, less than a long transcript
_ACCEPTED = "give a folder of audio files, or a manifest (.jsonl, .csv, .tsv) with a path column"


@dataclass(frozen=True)
class SourceClip:
    """A file, or its segment `start_s`..`end_s` (None: to the end), and what its manifest says about it."""

    id: str
    path: Path
    start_s: float = 0.0
    end_s: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """The clips of a source, and how many files of a folder were skipped for their suffix (suffix -> count)."""

    clips: list[SourceClip]
    skipped: Mapping[str, int] = field(default_factory=dict)


def list_clips(source: Path | str) -> list[SourceClip]:
    """The clips of a source; as `list_source`."""
    return list_source(source).clips


def list_source(source: Path | str) -> Source:
    """The clips of a folder (sorted by path) or of a manifest (in its order), with unique ids. Opens no audio.

    Ids come from the manifest's `id` column, else from the path relative to the source, without its suffix where
    that is unique. Raises UsageError for a source that is not there, of another kind, empty, or has equal ids.
    """
    source = Path(source)
    try:
        is_folder, is_file = source.is_dir(), source.is_file()
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {source}: {getattr(error, 'strerror', None) or error}; {_ACCEPTED}") from None
    if is_folder:
        return _list_folder(source)
    if not is_file:
        raise UsageError(f"no such folder or manifest: {source}; {_ACCEPTED}{_hub_hint(str(source))}")
    if source.suffix.lower() not in MANIFEST_SUFFIXES:
        raise UsageError(f"{source} is neither a folder nor a manifest; {_ACCEPTED}")
    return Source(_list_manifest(source))


def readable(path: Path | str) -> str:
    """A path as text that can be stored: bytes that are not UTF-8 become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _hub_hint(source: str) -> str:
    looks_like_id = re.fullmatch(r"[\w.\-]+/[\w.\-]+", source)
    return " (datasets of the Hugging Face hub are not read: save their audio as files first)" if looks_like_id else ""


def _list_folder(folder: Path) -> Source:
    scan = scan_folder(folder)
    paths = scan.audio
    if not paths and any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
        raise UsageError(f"{folder} is a saved Hugging Face dataset, which is not read as audio; {_ACCEPTED}")
    if not paths:
        raise UsageError(f"no audio files in {folder}; {_ACCEPTED}")
    clips = [SourceClip(id, path) for id, path in zip(_ids_from_paths(paths, folder), paths, strict=True)]
    _check_unique(folder, clips, "rename the files")
    return Source(clips, scan.skipped)


def _ids_from_paths(paths: list[Path], base: Path) -> list[str]:
    """Relative paths, without suffix where no other path shares the rest or is it."""
    relative = [Path(os.path.relpath(path, base)) for path in paths]
    names = [readable(path.as_posix()) for path in relative]
    stems = [readable(path.with_suffix("").as_posix()) for path in relative]
    count = Counter(stems) + Counter(set(names))
    return [stem if count[stem] == 1 else name for stem, name in zip(stems, names, strict=True)]


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
    _check_unique(manifest, clips, "give each row its own `id`")
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


def _check_unique(source: Path, clips: list[SourceClip], remedy: str) -> None:
    twice = [id for id, count in Counter(clip.id for clip in clips).items() if count > 1]
    if twice:
        raise UsageError(
            f"{source} has {len(twice)} ids more than once, such as {', '.join(repr(id) for id in twice[:3])}; {remedy}"
        )


def _read_rows(manifest: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, row) of each row that is not blank."""
    try:
        text = manifest.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{manifest} is not UTF-8 text ({error.reason} at byte {error.start}): convert it") from None
    except OSError as error:
        raise UsageError(f"cannot read {manifest}: {error.strerror}") from None
    if manifest.suffix.lower() == ".jsonl":
        yield from _json_rows(manifest, text.split("\n"))
        return
    yield from _csv_rows(manifest, text)


def _csv_rows(manifest: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    # Common Voice and most TSV do not quote; CSV does.
    tabs = manifest.suffix.lower() == ".tsv"
    csv.field_size_limit(_LARGEST_CELL)
    reader = csv.DictReader(
        io.StringIO(text, newline=""),
        delimiter="\t" if tabs else ",",
        quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
        strict=True,  # else a quote that is never closed swallows the rest of the file
    )
    done = 0  # lines
    try:
        if reader.fieldnames:
            done = reader.line_num
        for row in reader:
            if None in row or None in row.values():
                raise UsageError(f"{manifest}, line {reader.line_num}: not as many cells as the header has columns")
            done = reader.line_num
            yield done, row
    except csv.Error as error:
        raise UsageError(f"{manifest}, line {done + 1} and after: not CSV ({error}); check its quotes") from None


def _json_rows(manifest: Path, lines: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if "\\ud" in line.lower():
                json.dumps(row, ensure_ascii=False).encode()
        except json.JSONDecodeError as error:
            raise UsageError(f"{manifest}, line {number}: not JSON ({error.msg})") from None
        except UnicodeEncodeError:
            raise UsageError(f"{manifest}, line {number}: half a surrogate pair, which is no text") from None
        except ValueError as error:
            raise UsageError(f"{manifest}, line {number}: {error}") from None
        if not isinstance(row, dict):
            raise UsageError(f"{manifest}, line {number}: not a JSON object")
        yield number, row
