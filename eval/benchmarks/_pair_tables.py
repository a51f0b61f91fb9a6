"""Data sets of pairs, one row a pair and a column of audio for each side: a folder of Parquet (as a repository of the
Hugging Face hub is), one that `datasets` saved, or the name of one on the hub.

Audio that lies inside a table is written out as files, once, so that it is tokenized like any other.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from eval.benchmarks._cache import made_once
from slm.errors import AudioError, UsageError
from slm.types import MinimalPair, stable_hash

SAVED = ("state.json", "dataset_dict.json")  # one of them is in a folder that `datasets` saved
DEV = ("dev", "validation", "valid", "val")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_FORMAT = 3  # of what is written out


@dataclass(frozen=True)
class PairRow:
    """A pair of the table: its number (from 0, over all splits), its files, its other columns, and the sha256 of each
    file's content."""

    number: int
    positive: Path
    negative: Path
    split: str | None
    fields: dict[str, Any] = field(default_factory=dict)
    sha256: tuple[str, str] = ("", "")


def find_table(data: Path, names: Sequence[str]) -> str | None:
    """Where the table called by one of `names` (in any case) is: `data` itself, a folder in it, or, where `data` is no
    path, the hub."""
    wanted = {name.lower() for name in names}
    named = data.resolve() if data.is_dir() else data
    if named.name.lower() in wanted:
        if is_table(data):
            return str(data)
        if _HUB_NAME.fullmatch(str(data)) and not data.exists() and not data.parent.exists():
            return str(data)
    if data.is_dir():
        folders = [p for p in sorted(data.iterdir()) if p.name.lower() in wanted and is_table(p)]
        return str(folders[0]) if folders else None
    return None


def is_table(folder: Path) -> bool:
    """Whether a folder holds a saved data set, or Parquet (in it or one or two levels below)."""
    if not folder.is_dir():
        return False
    if any((folder / name).is_file() for name in SAVED):
        return True
    return any(next(folder.glob(f"{below}*.parquet"), None) for below in ("", "*/", "*/*/"))


def read_pairs(location: str, cache: Path, positive: str = "positive", negative: str = "negative",
               config: str | None = None) -> list[PairRow]:  # fmt: skip
    """The pairs of a table, in its order. Audio inside of it lies in a folder of its own below `cache`, written when it
    is first needed; that of a row without any is an empty file, which the tokenizer will refuse by name.

    UsageError for a table that cannot be read, has no such columns or no rows.
    """
    key = stable_hash([_FORMAT, _identity(location), config, positive, negative])[:12]
    folder = cache / f"{Path(location).name}-{key}"
    stored = made_once(folder, lambda place: list(_write_rows(location, place, positive, negative, config)))
    if not stored:
        raise UsageError(f"{location} has no rows; fetch it again")
    return [
        PairRow(
            i, folder / row["positive"], folder / row["negative"], row["split"], row["fields"], tuple(row["sha256"])
        )
        for i, row in enumerate(stored)
    ]


def choose_split(rows: Sequence[PairRow], split: str) -> tuple[list[PairRow], str]:
    """Those of `split` where the table has one of that name, else all; and what they are called. What lies in files
    called `dev` is `validation` to `datasets`: either name finds it."""
    names = sorted({row.split for row in rows if row.split})
    name = next((n for n in (split, *(DEV if split in DEV else ())) if n in names), None)
    if name is not None:
        return [row for row in rows if row.split == name], f"pairs-{name}"
    return list(rows), "pairs" if not names else f"pairs-{'+'.join(names)}"


def pairs_of(rows: Sequence[PairRow], group: str = "") -> tuple[dict[str, Path], list[MinimalPair]]:
    """Item -> file, and a minimal pair for each row. Items are numbered, so that their names tell nothing apart from
    pair and side: what a row says and what its recordings are stands in the labels. Rows of one id (of one type and
    subtype, where there are such, and of one split) in several voices are one unit, else each is by itself."""
    files: dict[str, Path] = {}
    several = len({row.split for row in rows}) > 1  # each counts its ids by itself
    pairs = []
    for row in rows:
        name = f"{group}{row.number:05d}"
        files |= {f"{name}-positive": row.positive, f"{name}-negative": row.negative}
        labels = {"fields": row.fields, "sha256": list(row.sha256)}
        within = [str(row.fields[c]) for c in ("type", "subtype", "id") if c in row.fields]
        unit = group + "/".join([*[str(row.split)] * several, *within])
        has_voices = {"id", "voice"} <= row.fields.keys()
        pairs.append(MinimalPair(f"{name}-positive", f"{name}-negative", unit if has_voices else name, labels))
    return files, pairs


def _identity(location: str) -> list[Any]:
    """Where the table is and, on this disk, when and how large its files were written."""
    folder = Path(location)
    if not folder.is_dir():
        return [location]
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".parquet", ".arrow", ".json"))
    return [str(folder.resolve()), *([str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files)]


def _write_rows(location: str, folder: Path, positive: str, negative: str, config: str | None) -> Iterator[dict]:
    sides = [_clips(location, column, config) for column in (positive, negative)]
    for i, (right, wrong) in enumerate(zip_longest(*sides)):
        if right is None or wrong is None:
            raise UsageError(f"{location}: {positive} and {negative} have different numbers of rows; fetch it again")
        fields = {k: v for k, v in right.metadata.items() if isinstance(v, (str, int, float, bool)) and k != "split"}
        if "voice" in fields:
            fields["id"] = right.id
        names = _write_audio(right, folder, f"{i:05d}-positive"), _write_audio(wrong, folder, f"{i:05d}-negative")
        yield {
            "positive": names[0],
            "negative": names[1],
            "split": right.metadata.get("split"),
            "fields": fields,
            "sha256": [_digest(folder / name) for name in names],
        }


def _digest(path: Path) -> str:
    """Of the content of a file; empty where it is not there, which is told when the benchmark runs."""
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _clips(location: str, column: str, config: str | None) -> Iterator[Any]:
    from slm.corpus.sources import open_source

    saved = any(os.path.isfile(os.path.join(location, name)) for name in SAVED)
    settings = {} if config is None or saved else {"config": config}
    try:
        yield from open_source(location, "dataset" if saved else "hub", audio_column=column, **settings).clips()
    except UsageError as error:
        if os.path.isdir(location):
            raise
        name = location.rpartition("/")[2]
        raise UsageError(
            f"{error}; where there is a network, `hf download --repo-type dataset {location} --local-dir ROOT/{name}`, "
            "and give --data ROOT"
        ) from None


def _write_audio(clip: Any, folder: Path, name: str) -> str:
    """The name of its file in `folder`, or the path of one that lies elsewhere already."""
    from slm.corpus.containers import open_member

    if not clip.member:
        return os.path.abspath(clip.path)
    try:
        stream = open_member(clip.path, clip.member)
        with stream.open() as source:
            data = source.read()
    except AudioError:
        data, suffix = b"", ""
    else:
        suffix = os.path.splitext(stream.name)[1].lower()
    path = folder / f"{name}{suffix or '.wav'}"
    path.write_bytes(data)
    return path.name
