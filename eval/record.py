"""What tables and pages take for granted of results.json, which may be a stranger's, or edited by hand."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType
from typing import Any

from eval.benchmarks.base import MODEL


@dataclass(frozen=True)
class Or:
    """A shape, or nothing: null, or what is empty."""

    shape: Any


@dataclass(frozen=True)
class Free:
    """The shape of a key that may be absent."""

    shape: Any


NUMBER, SIZE, ANYTHING = "a number", "a size", object
_TITLES = {str: "text", dict: "an object", NoneType: "null", bool: "yes or no"}

_SCORE = {"item": str, "metric": str, "value": Or(NUMBER), "unit": str, "convention": str, "count": NUMBER,
          "interval": Or((Or(NUMBER), Or(NUMBER)))}  # fmt: skip
_FILES = {
    "id": ANYTHING,
    "text": Free(Or(str)),
    "folder": Free(str),
    "files": {...: str},
    "prompt": Free(Or({"duration_s": NUMBER})),
}
_PROMPT = {**_FILES, "folder": str, "prompt": {"duration_s": NUMBER},
           "codes": {"frames": NUMBER, "distinct_frames": NUMBER},
           "continuation": Free({"duration_s": NUMBER, "level_dbfs": Or(NUMBER),
                                 "silence_share": Or(NUMBER)})}  # fmt: skip
_SWEEP = {
    "points": [{"temperature": NUMBER, "vert": Or(NUMBER), "gen_ppl": Or(NUMBER)}],
    "recordings": {"vert": Or(NUMBER), "gen_ppl": Or(NUMBER)},
    "anchored": {"perplexity_at_vert": Or(NUMBER), "vert_at_perplexity": Or(NUMBER)},
}
_TEXTS = Free(Or({"prompt": Free(Or(str)), "continuation": Free(Or(str))}))
_OPINION = Free(Or(NUMBER))
_JUDGED = {"id": ANYTHING, "texts": _TEXTS, "text_lm_rating": _OPINION, "nll_nats_per_token": _OPINION}
_DETAILS = {"prompts": Free([_PROMPT]), "samples": Free([_FILES]), "judged": Free([_JUDGED]), "sweep": Free(Or(_SWEEP)),
            "note": Free(Or(str))}  # fmt: skip
_RESULT = {
    "benchmark": str, "split": str, "about": str, "item_list_sha256": str, "counts": {...: NUMBER},
    "scores": {...: [_SCORE]}, "left_out": [{"item": str, "reason": str}], "headline": str, "meanings": {...: str},
    "details": _DETAILS, "fingerprints": dict, "generated": ANYTHING, "config": dict, "versions": {...: str},
    "created": str,
}  # fmt: skip
_FAILED = {"benchmark": str, "reason": str, "created": str}
_CODEBOOK = {"used": NUMBER, "size": SIZE, "entropy_bits": NUMBER, "perplexity": NUMBER}
_CORPUS = {
    "path": str, "trained_on": ANYTHING, "clips": NUMBER, "hours": NUMBER, "codes": NUMBER, "bitrate_bps": NUMBER,
    "entropy_bitrate_bps": NUMBER, "clips_left_out": NUMBER, "codebooks": [_CODEBOOK],
}  # fmt: skip
_TOKENIZER = {"name": str, "fingerprint": str, "codebook_sizes": [SIZE], "frame_rate_hz": Or(NUMBER),
              "sample_rate_hz": Or(NUMBER), "bitrate_bps": Or(NUMBER)}  # fmt: skip
RECORD = {
    "model": Or({"path": str, "fingerprint": str, "convention": Or({"pattern": {"name": str}})}),
    "tokenizer": _TOKENIZER, "corpus": Or(_CORPUS), "results": [_RESULT], "failed": Free([_FAILED]),
}  # fmt: skip
_TEST = {"benchmark": str, "split": str, "name": str, "convention": str, "first": str, "second": str,
         "difference": NUMBER, "interval": (NUMBER, NUMBER), "p_value": NUMBER, "count": NUMBER,
         "within_noise": ANYTHING}  # fmt: skip
_FAILURE = {"reason": str}
FAILURES = {"failures": Free(Or([_FAILURE]))}
COMPARISON = {"models": [{"name": str}], "tests": [_TEST]}


def find_faults(value: Any, shape: Any, where: str) -> Iterator[str]:
    """What of a value out of JSON is not of a shape, each as what follows its place: types, NUMBER and SIZE; `[shape]`
    lists, tuples of as many, and objects, in which `...` stands for every key. More keys than are named may be there.
    """
    if isinstance(shape, Or | Free):
        if value not in (None, {}, []) or isinstance(shape, Free):
            yield from find_faults(value, shape.shape, where)
    elif isinstance(shape, dict) and isinstance(value, dict):
        needed = {key for key, inner in shape.items() if key is not ... and not isinstance(inner, Free)}
        if lacking := sorted(needed - value.keys()):
            yield f"{where} lacks {', '.join(lacking)}"
        for key, inner in value.items():
            yield from find_faults(inner, shape.get(key, shape.get(..., ANYTHING)), f"{where}.{key}"[:200])
    elif isinstance(shape, list | tuple) and isinstance(value, list):
        if isinstance(shape, tuple) and len(shape) != len(value):
            yield f"{where} has {len(value)} entries, not {len(shape)}"
        for number, inner in enumerate(value):
            yield from find_faults(inner, shape[min(number, len(shape) - 1)], f"{where}[{number}]")
    elif not _is_of(value, shape):
        yield f"{where} is {str(value)[:40]!r}, not {_title(shape)}"


def _is_of(value: Any, shape: Any) -> bool:
    if shape in (NUMBER, SIZE):
        whole = isinstance(value, int) and value.bit_length() < sys.float_info.max_exp  # else it is no float
        return (whole and value >= (1 if shape == SIZE else value)) or (isinstance(value, float) and shape == NUMBER)
    return isinstance(shape, type) and isinstance(value, shape)


def _title(shape: Any) -> str:
    if isinstance(shape, list | tuple):
        return "a list"
    return "an object" if isinstance(shape, dict) else _TITLES.get(shape, str(shape))


def faults_of_record(record: dict[str, Any]) -> Iterator[str]:
    """Of a whole results.json."""
    yield from find_faults(record, RECORD, "record")
    for number, result in enumerate(record["results"]):
        items = {score["item"] for score in result["scores"].get(MODEL, ())}
        if result["headline"] and MODEL not in result["scores"]:
            yield f"record.results[{number}].scores lacks {MODEL}"
        elif result["headline"] and result["headline"] not in items:
            yield f"record.results[{number}] has a headline that no score of the model is about"
