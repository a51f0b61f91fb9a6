"""What tables with a column of Hugging Face's Audio type have in common, as Parquet or Arrow."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slm.corpus.containers import refused_member
from slm.corpus.remote import is_remote
from slm.corpus.sources.base import SourceClip
from slm.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class AudioTable:
    """A table at `location`: its column of audio, which is a struct of `bytes` (encoded, as in a file) and mostly
    `path`, and the columns that are kept as metadata. Where it was got from somewhere, its paths must be below `root`:
    the rest of this machine is none of its business."""

    location: str
    audio: str
    has_path: bool
    columns: tuple[str, ...]
    id_column: str
    split: str | None
    root: str | None

    def clip(self, number: int, row: Mapping[str, Any], name: str | None, member: str | None) -> SourceClip:
        """Of row `number` of the split. Its audio is `member` of the table, or, where that is None, the file `name`."""
        metadata = dict(row)
        id = metadata.pop(self.id_column, None)
        if id in (None, ""):
            id = str(number) if self.split is None else f"{self.split}/{number}"
        if self.split is not None:
            metadata["split"] = self.split
        where = self.location
        if member is None and name:
            where = name if is_remote(name) else os.path.join(os.path.dirname(self.location), name)
            if self.root is not None and os.path.relpath(where, self.root or ".").split(os.sep)[0] == os.pardir:
                where, member = self.location, refused_member(f"a path outside the dataset: {name}")
        elif member is None:
            member = refused_member("empty: no audio in this row")
        return SourceClip(str(id), where, metadata=metadata, member=member or "")


def audio_table(
    schema: pa.Schema,
    location: str,
    audio_column: str | None,
    id_column: str,
    split: str | None,
    root: str | None = None,
) -> AudioTable:
    """How to read a table. UsageError where it has no column of audio, or several and none is named."""
    found = audio_columns(schema) if audio_column is None else [audio_column]
    if len(found) > 1:
        raise UsageError(
            f"{location} has audio in {' and '.join(found)}: say which with --source_settings.audio_column"
        )
    for column, unless_given in ((audio_column, None), (id_column, "id")):
        if column not in (unless_given, *schema.names):
            raise UsageError(f"{location} has no column {column!r}: it has {', '.join(schema.names)}")
    if not found or not _holds_files(schema.field(found[0]).type):
        what = f"`{found[0]}` holds no audio files" if found else "has no column of audio files"
        raise UsageError(
            f"{location}: {what}; it has {', '.join(schema.names)}. Decoded samples are not read: save the dataset "
            "with cast_column(..., Audio()), or write files and a manifest"
        )
    audio = schema.field(found[0])
    columns = [field.name for field in schema if field.name != audio.name and not _is_bulk(field.type)]
    has_path = audio.type.get_field_index("path") >= 0
    return AudioTable(location, audio.name, has_path, tuple(columns), id_column, split, root)


def audio_columns(schema: pa.Schema) -> list[str]:
    """The columns that hold files, and those of them that are said to hold audio where that is said."""
    written = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    kinds = (written.get("info") or {}).get("features") or {}
    found = [field.name for field in schema if _holds_files(field.type)]
    return [name for name in found if (kinds.get(name) or {}).get("_type", "Audio") == "Audio"]


def _holds_files(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    return types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type)


def _is_binary(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    return types.is_binary(kind) or types.is_large_binary(kind)


def _is_bulk(kind: pa.DataType) -> bool:
    """Other files, and arrays of numbers: no metadata."""
    import pyarrow.types as types

    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return types.is_floating(kind.value_type) or _is_bulk(kind.value_type)
    return _is_binary(kind) or _holds_files(kind)
