"""Whether a record on disk, which may be a stranger's, or edited by hand, is what tables and pages take for granted:
of the shape that results.schema.yaml says."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

from eval.benchmarks.base import MODEL
from slm.errors import UsageError
from slm.yaml_files import read_yaml

SCHEMA = Path(__file__).with_name("results.schema.yaml")
Kind = Literal["results", "result", "comparison", "failures"]


def check_record(path: Path, record: dict[str, Any], kind: Kind) -> None:
    """UsageError, with the place, where the record that `path` holds is of another shape."""
    if found := fault(record, kind):
        _refuse(path, found)
    for number, result in enumerate(record["results"] if kind == "results" else ()):
        headline = result["headline"]  # what no schema can say
        if headline and headline not in {score["item"] for score in result["scores"][MODEL]}:
            _refuse(path, f"$.results[{number}].headline: {headline!r} is no item that the model has a score for")


def fault(record: dict[str, Any], kind: Kind) -> str | None:
    """Where the record is of another shape than the schema says, and how."""
    from jsonschema.exceptions import best_match

    if error := best_match(_validator(kind).iter_errors(record)):
        told = error.message if len(error.message) < 160 else f"{error.message[:80]} .. {error.message[-70:]}"
        return f"{error.json_path}: {told}"
    return None


def _refuse(path: Path, told: str) -> None:
    raise UsageError(f"{path}, {told}; it was edited: remove the file and run eval/run.py again")


@cache
def _validator(kind: Kind) -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator({**read_yaml(SCHEMA), "$ref": f"#/$defs/{kind}"})
