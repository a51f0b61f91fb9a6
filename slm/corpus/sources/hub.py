"""A dataset of the Hugging Face hub, or a copy of one: Parquet with a column of audio, or WebDataset tars."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from slm.audio import AUDIO_SUFFIXES
from slm.corpus.containers import parquet_member
from slm.corpus.remote import first_files, is_file, is_remote, open_binary
from slm.corpus.sources._tables import audio_columns, audio_table
from slm.corpus.sources.base import SOURCES, Source, SourceClip
from slm.corpus.sources.webdataset import clips_of_tar, name_of_tar
from slm.errors import UsageError

_ID = re.compile(r"[\w.-]+/[\w.-]+")
_URL = "hf://datasets/"
_MANIFESTS = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # beside raw audio
_ROWS = 1000


@SOURCES.register("hub")
class HubSource(Source):
    """The rows of a repository (its id, `hf://datasets/ID`, or a local copy) or of one Parquet file, of one or all
    `split`s of the `config` (where it has several) at the `revision`.

    Nothing is downloaded whole: of Parquet, metadata is read to list it, and row groups of audio when they are needed;
    of tars, the headers, and parts. Columns are as in a dataset on disk.
    """

    about: ClassVar[str] = "a dataset of the Hugging Face hub (NAME/NAME)"

    def __init__(
        self,
        location: str,
        config: str | None = None,
        split: str | None = None,
        revision: str | None = None,
        audio_column: str | None = None,
        id_column: str = "id",
    ):
        super().__init__(location)
        self.config, self.split, self.revision = config, split, revision
        self.audio_column, self.id_column = audio_column, id_column

    @classmethod
    def recognizes(cls, location: str) -> bool:
        if location.endswith(".parquet"):
            return is_file(location) and _has_audio(location)
        if is_remote(location):
            return location.startswith(_URL) and location.count("/") == 4
        if os.path.isdir(location):
            suffixes = {os.path.splitext(path)[1].lower() for path in first_files(location)}
            return ".parquet" in suffixes and not suffixes & AUDIO_SUFFIXES
        # A name in a folder that is here is a path that is wrong.
        return bool(_ID.fullmatch(location)) and not os.path.exists(location.partition("/")[0])

    @property
    def base(self) -> str:
        return os.path.realpath(self.location) if os.path.isdir(self.location) else super().base

    def clips(self) -> Iterator[SourceClip]:
        for split, files in self._splits().items():
            number = 0
            for path in files:
                if path.endswith(".tar"):
                    name = name_of_tar(path, self._folder(path))
                    for clip in clips_of_tar(path, name, f"{name}/", self.skipped):
                        yield replace(clip, metadata={**clip.metadata, "split": split})
                    continue
                for clip in self._clips_of(path, split, number):
                    number += 1
                    yield clip

    def _folder(self, path: str) -> str:
        """The repository, as the path of a file in it begins: `datasets` adds the commit."""
        return "/".join(path.split("/")[:5]) if path.startswith(_URL) else self.base

    def _splits(self) -> Mapping[str | None, Sequence[str]]:
        """The files of each split."""
        if self.location.endswith(".parquet"):
            return {None: [self.location]}
        found = _data_files(self.location, self.config, self.revision)
        if self.split not in (None, *found):
            raise UsageError(f"{self.location} has no split {self.split!r}: it has {', '.join(found)}")
        chosen: dict[str | None, Sequence[str]] = {
            split: files for split, files in found.items() if self.split in (None, split)
        }
        paths = [path for files in chosen.values() for path in files]
        if other := next((path for path in paths if not path.endswith((".parquet", ".tar"))), None):
            what = f"{self.location} holds {os.path.basename(other)}, no Parquet or tar"
            raise UsageError(f"{what}: {self._remedy(paths)}")
        return chosen

    def _remedy(self, paths: Sequence[str]) -> str:
        """How a repository is read of which not all files are Parquet or tars: raw audio as a folder, or by its
        manifest."""
        if all(os.path.splitext(path)[1].lower() not in AUDIO_SUFFIXES for path in paths):
            return "get a copy (hf download), unpack it, and give that folder or its manifest as --audio"
        where = self.location
        if not os.path.isdir(where):
            where = _URL + where.removeprefix(_URL)
            where += f"@{self.revision}" if self.revision and "@" not in where else ""
        found = [path for path in paths if os.path.basename(path) in _MANIFESTS]
        names = [os.path.relpath(path, self._folder(path)) for path in found[:3]]
        lists = " or ".join(f"--audio {where}/{name}" for name in names) or "its manifest (JSONL, CSV, TSV) as --audio"
        return f"raw audio is read by --source folder --audio {where}, or with its texts by {lists}"

    def _clips_of(self, path: str, split: str | None, number: int) -> Iterator[SourceClip]:
        """The rows of a Parquet file, the first of which is row `number` of the split."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with open_binary(path) as raw, pq.ParquetFile(raw) as file:
                root = self._folder(path)
                table = audio_table(file.schema_arrow, path, self.audio_column, self.id_column, split, root)
                columns = [*table.columns, *([f"{table.audio}.path"] if table.has_path else [])]
                for group in range(file.num_row_groups):
                    embedded = _is_embedded(file.metadata.row_group(group), table.audio)
                    rows = _rows(file, group, columns, table.audio)
                    for row, (values, name) in enumerate(rows):
                        member = parquet_member(group, row, table.audio, name) if embedded else None
                        yield table.clip(number, values, name, member)
                        number += 1
        except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read {path}: {str(error).splitlines()[0]}") from None


def _rows(file: Any, group: int, columns: Sequence[str], audio: str) -> Iterator[tuple[dict[str, Any], str | None]]:
    """The other cells of each row of a row group, and the name of its audio file."""
    if not columns:
        yield from (({}, None) for _ in range(file.metadata.row_group(group).num_rows))
        return
    for batch in file.iter_batches(_ROWS, row_groups=[group], columns=list(columns)):
        for values in batch.to_pylist():
            yield values, (values.pop(audio, None) or {}).get("path")


def _is_embedded(group: Any, audio: str) -> bool:
    """Whether a row group holds audio, and not paths only, by its statistics."""
    leaves = (group.column(i) for i in range(group.num_columns))
    statistics = next(leaf.statistics for leaf in leaves if leaf.path_in_schema == f"{audio}.bytes")
    return not (statistics and statistics.has_null_count and statistics.null_count == group.num_rows)


def _has_audio(path: str) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_binary(path) as raw, pq.ParquetFile(raw) as file:
            return bool(audio_columns(file.schema_arrow))
    except (pa.ArrowInvalid, OSError):
        return False


def _data_files(location: str, config: str | None, revision: str | None) -> dict[str, list[str]]:
    """Split -> files, as `datasets` finds them by the repository's card or the names of its files."""
    from datasets import load_dataset_builder
    from datasets.exceptions import DatasetsError

    name, _, at = location.removeprefix(_URL).partition("@")
    try:
        with TemporaryDirectory() as scratch:
            # It would make a lock in the user's cache, which of a copy of a repository nothing else goes to.
            cache = scratch if os.path.isdir(name) else None
            builder = load_dataset_builder(name, config, revision=revision or at or None, cache_dir=cache)
    except (OSError, ValueError, DatasetsError) as error:
        what = "read the folder" if os.path.isdir(location) else "find a folder or a dataset of the hub"
        raise UsageError(f"cannot {what} {location}: {' '.join(str(error).split())}") from None
    return {str(split): [str(path) for path in files] for split, files in (builder.config.data_files or {}).items()}
