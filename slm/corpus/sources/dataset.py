"""A Hugging Face dataset as `save_to_disk` writes it, here or on a server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any, ClassVar

from slm.corpus.remote import has_file, is_remote, read_bytes
from slm.corpus.sources._arrow import open_arrow
from slm.corpus.sources._tables import audio_table
from slm.corpus.sources.base import SOURCES, Source, SourceClip
from slm.errors import UsageError


@SOURCES.register("dataset")
class DatasetSource(Source):
    """The rows of a dataset or of one or all `split`s of a dictionary of datasets, whose column of type Audio
    (`audio_column`, where there are several) holds files or paths.

    Other columns are metadata, but for arrays and files; `split` is one more. A row is called by its `id_column`, else
    by its split and number.
    """

    about: ClassVar[str] = "a dataset saved by save_to_disk"

    def __init__(self, location: str, split: str | None = None, audio_column: str | None = None, id_column: str = "id"):
        super().__init__(location)
        self.split, self.audio_column, self.id_column = split, audio_column, id_column

    @classmethod
    def recognizes(cls, location: str) -> bool:
        return any(has_file(location, name) for name in ("state.json", "dataset_dict.json"))

    def clips(self) -> Iterator[SourceClip]:
        for split, folder in self._splits():
            number = 0
            for name in self._files(folder):
                for clip in self._clips_of(os.path.join(folder, name), split, number):
                    number += 1
                    yield clip

    def _splits(self) -> list[tuple[str | None, str]]:
        if not has_file(self.location, "dataset_dict.json"):
            if self.split is not None:
                raise UsageError(f"{self.location} has no splits: leave out --source_settings.split")
            return [(None, self.location)]
        splits = self._read(self.location, "dataset_dict.json", "splits")
        if self.split not in (None, *splits):
            raise UsageError(f"{self.location} has no split {self.split!r}: it has {', '.join(splits)}")
        return [(split, os.path.join(self.location, split)) for split in splits if self.split in (None, split)]

    def _files(self, folder: str) -> list[str]:
        return [file["filename"] for file in self._read(folder, "state.json", "_data_files")]

    def _read(self, folder: str, name: str, key: str) -> Any:
        try:
            return json.loads(read_bytes(os.path.join(folder, name)))[key]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{folder} is no whole dataset ({error!r}): save it anew") from None

    def _clips_of(self, path: str, split: str | None, number: int) -> Iterator[SourceClip]:
        """The rows of a file, the first of which is row `number` of the split."""
        import pyarrow as pa

        root = self.location if is_remote(path) else None
        try:
            with open_arrow(path) as stream:
                table = audio_table(stream.schema, path, self.audio_column, self.id_column, split, root)
                for batch, member_of in stream.batches(table.audio, table.columns):
                    cells = batch.column(table.audio)
                    empty = cells.field("bytes").is_null().to_pylist()
                    names = cells.field("path").to_pylist() if table.has_path else [None] * len(empty)
                    rows = batch.select(table.columns).to_pylist() if table.columns else [{}] * len(empty)
                    for row, (values, name, is_empty) in enumerate(zip(rows, names, empty, strict=True)):
                        yield table.clip(number, values, name, None if is_empty else member_of(row, name))
                        number += 1
        except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read {path}: {str(error).splitlines()[0]}; save the dataset anew") from None
