"""A Hugging Face dataset on disk, as `save_to_disk` writes it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import ClassVar

from slm.corpus.containers import arrow_member
from slm.corpus.sources._tables import audio_table
from slm.corpus.sources.base import SOURCES, Source, SourceClip
from slm.errors import UsageError
from slm.files import read_json


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
        return any(os.path.isfile(os.path.join(location, name)) for name in ("state.json", "dataset_dict.json"))

    def clips(self) -> Iterator[SourceClip]:
        for split, folder in self._splits():
            number = 0
            for name in self._files(folder):
                for clip in self._clips_of(os.path.join(folder, name), split, number):
                    number += 1
                    yield clip

    def _splits(self) -> list[tuple[str | None, str]]:
        path = os.path.join(self.location, "dataset_dict.json")
        if not os.path.isfile(path):
            if self.split is not None:
                raise UsageError(f"{self.location} has no splits: leave out --source_settings.split")
            return [(None, self.location)]
        splits = read_json(path)["splits"]
        if self.split not in (None, *splits):
            raise UsageError(f"{self.location} has no split {self.split!r}: it has {', '.join(splits)}")
        return [(split, os.path.join(self.location, split)) for split in splits if self.split in (None, split)]

    def _files(self, folder: str) -> list[str]:
        try:
            return [file["filename"] for file in read_json(os.path.join(folder, "state.json"))["_data_files"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{folder} is no whole dataset ({error!r}): save it anew") from None

    def _clips_of(self, path: str, split: str | None, number: int) -> Iterator[SourceClip]:
        """The rows of a file, the first of which is row `number` of the split."""
        import pyarrow as pa

        row = 0
        try:
            with pa.memory_map(path) as source, pa.ipc.open_stream(source) as reader:
                table = audio_table(reader.schema, path, self.audio_column, self.id_column, split)
                for batch in reader:
                    cells = batch.column(table.audio)
                    empty = cells.field("bytes").is_null().to_pylist()
                    names = cells.field("path").to_pylist() if table.has_path else [None] * len(empty)
                    rows = batch.select(table.columns).to_pylist() if table.columns else [{}] * len(empty)
                    for values, name, is_empty in zip(rows, names, empty, strict=True):
                        member = None if is_empty else arrow_member(row, table.audio, name)
                        yield table.clip(number + row, values, name, member)
                        row += 1
        except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read {path}: {str(error).splitlines()[0]}; save the dataset anew") from None
