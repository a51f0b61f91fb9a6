"""A manifest: one row a clip, as JSONL, CSV, TSV (or those, gzipped) or Parquet, here or on a server."""

from __future__ import annotations

import csv
import os
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar, TextIO

import numpy as np

from slm.corpus.containers import refused_member
from slm.corpus.remote import FIRST_ROWS, is_file, is_remote, open_binary, open_text
from slm.corpus.sources._json import json_object
from slm.corpus.sources.base import SOURCES, Source, SourceClip, readable, stem
from slm.errors import AudioError, UsageError

PATH_COLUMNS = ("path", "audio", "audio_path", "audio_filepath", "file", "filename", "wav", "file_name")
START_COLUMNS, END_COLUMNS = ("start_s", "start"), ("end_s", "end")
_JSON = (".jsonl", ".json", ".jsonl.gz", ".json.gz")  # NeMo says .json for JSON lines
_CSV, _TSV = (".csv", ".csv.gz"), (".tsv", ".tsv.gz")
SUFFIXES = (*_JSON, *_CSV, *_TSV, ".parquet")
_LARGEST_CELL = 2**31 - 1  # of a CSV: Python's own limit is 128 KiB, less than a long transcript

Row = tuple[int, dict[str, Any]]
"""Line (or row, from 1) and its cells by column."""
Line = tuple[int, dict[str, Any] | str]
"""The same, or why the line is no row."""


@SOURCES.register("manifest")
class ManifestSource(Source):
    """Rows with the path of a recording, or a URL; all other columns are metadata. Relative paths are below `root`;
    without one, below the manifest's folder, or `clips` in it where the first file is (Common Voice).

    Columns are recognized by name, or given: `path_column`, `id_column`, `start_column` and `end_column` (seconds
    within the file). A row without an id is called by its path, without suffix where that is unique, and by its times
    where it has any.
    """

    about: ClassVar[str] = "a manifest (.jsonl, .json, .csv, .tsv, .parquet) with a path column"
    is_fallback = True  # other kinds of lists have the same suffixes

    def __init__(
        self,
        location: str,
        path_column: str | None = None,
        id_column: str = "id",
        start_column: str | None = None,
        end_column: str | None = None,
        root: str | None = None,
    ):
        super().__init__(location)
        self._given_root = root
        self._given_path_column, self.id_column = path_column, id_column
        self.start_columns = (start_column,) if start_column else START_COLUMNS
        self.end_columns = (end_column,) if end_column else END_COLUMNS
        given = {path_column, id_column, start_column, end_column}
        self._must_be_there = {name for name in given if name} - {"id"}

    @classmethod
    def recognizes(cls, location: str) -> bool:
        return location.lower().endswith(SUFFIXES) and is_file(location)

    @cached_property
    def base(self) -> str:
        if self._given_root is not None:
            return self._given_root
        here = os.path.dirname(self.location)
        path_column = self._path_column
        paths = (row.get(path_column) for _, row in islice(self._rows(), FIRST_ROWS))
        for path in paths:
            if isinstance(path, str) and path and not is_remote(path) and not os.path.isabs(path):
                below = os.path.join(here, "clips")
                return below if not is_file(os.path.join(here, path)) and is_file(os.path.join(below, path)) else here
        return here

    def clips(self) -> Iterator[SourceClip]:
        path_column = self._path_column
        shared = self._shared_stems(path_column)
        for line, row in self._lines():
            if isinstance(row, str):
                yield SourceClip(f"line {line}", self.location, member=refused_member(row))
                continue
            rest = {name: value for name, value in row.items() if name != path_column}
            given = rest.pop(self.id_column, None)
            try:
                path = self._path(line, row, path_column)
                start_s, end_s = self._times(line, rest)
            except AudioError as error:
                id = f"line {line}" if given in (None, "") else str(given)
                yield SourceClip(id, self.location, metadata=rest, member=refused_member(str(error)))
                continue
            if given in (None, ""):
                name = self._name(path)
                given = readable(name if hash(stem(name)) in shared else stem(name))
                if start_s is not None or end_s is not None:
                    given += f"@{start_s or 0:.10g}-" + ("" if end_s is None else f"{end_s:.10g}")
            yield SourceClip(str(given), self._where(path), start_s or 0.0, end_s, rest)

    @cached_property
    def _path_column(self) -> str:
        """UsageError where there is none, or where no row has a column that was given: a misspelt start would be
        the beginning of every file."""
        seen: dict[str, None] = {}
        fault, found = "", self._given_path_column
        for _, row in self._lines():
            if isinstance(row, str):
                fault = fault or row
                continue
            seen.update(dict.fromkeys(row))
            found = found or next((name for name in PATH_COLUMNS if name in row), None)
            if found and self._must_be_there <= seen.keys():
                return found
        if fault and not seen:
            raise UsageError(f"{self.location}: not one line can be read; the first is {fault}")
        if not seen:
            raise UsageError(f"{self.location} has no rows: give a manifest with a path column")
        it_has = f"it has {', '.join(sorted(seen))}"
        if missing := sorted(self._must_be_there - seen.keys()):
            raise UsageError(f"{self.location} has no column {missing[0]!r}: {it_has}")
        raise UsageError(
            f"{self.location} has no path column: {it_has}; name one of "
            f"{', '.join(PATH_COLUMNS)}, or give --source_settings.path_column"
        )

    def _shared_stems(self, path_column: str) -> set[int]:
        """Hashes of the stems of two different paths of rows without ids, or that are also a path."""
        stems, names = array("q"), array("q")
        for line, row in self._rows():
            if row.get(self.id_column) in (None, ""):
                with suppress(AudioError):
                    name = self._name(self._path(line, row, path_column))
                    stems.append(hash(stem(name)))
                    names.append(hash(name))
        pairs = np.unique(np.array([stems, names], np.int64), axis=1) if stems else np.zeros((2, 0), np.int64)
        found, count = np.unique(np.concatenate([pairs[0], pairs[1][pairs[0] != pairs[1]]]), return_counts=True)
        return set(found[count > 1].tolist())

    def _path(self, line: int, row: Mapping[str, Any], column: str) -> str:
        value = row.get(column)
        if not isinstance(value, str) or not value:
            raise AudioError(f"no path: `{column}` of line {line} is {value!r}")
        return value

    def _name(self, path: str) -> str:
        """A path as it is seen from the manifest."""
        remote = is_remote(path) or is_remote(self.base)
        return path if remote else os.path.relpath(self._where(path), self.base or ".")

    def _where(self, path: str) -> str:
        return path if is_remote(path) else os.path.join(self.base, path)

    def _times(self, line: int, row: dict[str, Any]) -> tuple[float | None, float | None]:
        """Start and end of the segment, taken out of the row; NeMo says offset and duration."""
        start_s = self._seconds(line, row, self.start_columns)
        end_s = self._seconds(line, row, self.end_columns)
        if start_s is None and end_s is None and (start_s := self._seconds(line, row, ("offset",))) is not None:
            duration_s = self._seconds(line, row, ("duration",))
            end_s = None if duration_s is None else start_s + duration_s
        return start_s, end_s

    def _seconds(self, line: int, row: dict[str, Any], names: tuple[str, ...]) -> float | None:
        values = [row.pop(name) for name in names if name in row]
        value = next((value for value in values if value not in (None, "")), None)
        try:
            return None if value is None else float(value)
        except (TypeError, ValueError):
            raise AudioError(f"no time: `{names[0]}` of line {line} is {value!r}, not in seconds") from None

    def _rows(self) -> Iterator[Row]:
        """Those that can be read."""
        for line, row in self._lines():
            if not isinstance(row, str):
                yield line, row

    def _lines(self) -> Iterator[Line]:
        """All rows that are not blank."""
        name = self.location.lower()
        if not name.endswith(SUFFIXES):
            raise UsageError(f"{self.location} is no {', '.join(SUFFIXES)}: name it by what it is")
        if name.endswith(".parquet"):
            yield from _parquet_rows(self.location)
            return
        with open_text(self.location) as text:
            if name.endswith(_JSON):
                yield from _json_lines(text)
            else:
                yield from _csv_lines(self.location, text, tabs=name.endswith(_TSV))


def _parquet_rows(location: str) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with open_binary(location) as raw, pq.ParquetFile(raw) as file:
            for batch in file.iter_batches(4096):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {location}: {str(error).splitlines()[0]}") from None


def _csv_lines(location: str, text: TextIO, tabs: bool) -> Iterator[Line]:
    # Common Voice and most TSV do not quote; CSV does.
    csv.field_size_limit(_LARGEST_CELL)
    reader = csv.reader(
        text,
        delimiter="\t" if tabs else ",",
        quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
        strict=True,  # else a quote that is never closed swallows the rest of the file
    )
    done = 0  # lines
    try:
        rows = filter(None, reader)
        header = next(rows, [])
        if twice := [name for name, count in Counter(header).items() if name and count > 1]:
            raise UsageError(f"{location} has two columns {twice[0]!r}: rename one")
        done = reader.line_num
        for cells in rows:
            done = reader.line_num
            if len(cells) == len(header):
                yield done, {name: cell for name, cell in zip(header, cells, strict=True) if name}  # "": pandas' index
            else:
                too_few = f"{len(cells)} of {len(header)} cells"
                too_many = f"{len(cells)} cells for {len(header)} columns"
                yield done, f"no row: line {done}: {too_few if len(cells) < len(header) else too_many}"
    except csv.Error as error:
        raise UsageError(f"{location}, line {done + 1} and after: not CSV ({error}); check its quotes") from None


def _json_lines(text: TextIO) -> Iterator[Line]:
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        row: dict[str, Any] | str
        try:
            row = json_object(line)
        except ValueError as error:
            row = f"no row: line {number}: {error}"
        yield number, row


def json_rows(location: str, text: TextIO) -> Iterator[Row]:
    """(line, object) of each line that is not blank; UsageError for one that is no JSON object."""
    for number, row in _json_lines(text):
        if isinstance(row, str):
            raise UsageError(f"{location}, {row.removeprefix('no row: ')}")
        yield number, row
