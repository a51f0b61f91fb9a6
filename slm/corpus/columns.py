"""The types of a corpus's metadata columns, one for the whole corpus: numbers stay numbers only where all are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

RESERVED = ("id", "codes", "num_samples", "duration_s")
"""Columns that tokenizing writes: a manifest's own columns of these names are left out."""

OF_SEGMENTS = {"segment_of": "string", "start_s": "float64", "end_s": "float64"}
"""Columns that say of a segment what it is one of and which part, with their types; as those above, a corpus's own."""


class ColumnTypes:
    """Finds the type of each column over all rows: bool, int64, float64 or string, in the order of first appearance.
    None fits all; the rest mixes to string, as do lists and objects (as JSON)."""

    def __init__(self) -> None:
        self._seen: dict[str, set[type]] = {}

    def add(self, metadata: Mapping[str, Any]) -> None:
        for name, value in metadata.items():
            if name not in RESERVED:
                self._seen.setdefault(name, set()).add(_kind(value))

    def result(self) -> dict[str, str]:
        return {name: _one_type(types - {type(None)}) for name, types in self._seen.items()}


class _LongInt(int):
    """An integer that float64 would round."""


def _kind(value: Any) -> type:
    if not isinstance(value, int) or -(2**53) <= value <= 2**53:
        return type(value)
    return _LongInt if -(2**63) <= value < 2**63 else str


def _one_type(types: set[type]) -> str:
    if types == {bool}:
        return "bool"
    if types and types <= {int, _LongInt}:
        return "int64"
    return "float64" if types and types <= {int, float} else "string"


def column(values: Iterable[Any], type_name: str) -> pa.Array:
    """Values as an Arrow array of that type, None where there is none."""
    if type_name == "string":
        return pa.array([_text(value) for value in values], pa.string())
    return pa.array(list(values), pa.type_for_alias(type_name))


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def features(types: Mapping[str, str], num_codebooks: int, code_type: str) -> dict[str, Any]:
    """The columns of a corpus as `datasets.Features.to_dict` writes them."""
    frame = {"feature": _value(code_type), "length": num_codebooks, "_type": "List"}
    own = {
        "id": _value("string"),
        "codes": {"feature": frame, "_type": "List"},
        "num_samples": _value("int64"),
        "duration_s": _value("float32"),
    }
    return own | {name: _value(type_name) for name, type_name in types.items()}


def _value(type_name: str) -> dict[str, str]:
    return {"dtype": type_name, "_type": "Value"}
