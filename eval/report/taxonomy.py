"""The tokenizer database as a table that can be filtered by what the survey classifies tokenizers by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.report.inputs import Evaluated
from slm.tokenizers._catalogue import catalogue, is_runnable, sizes
from slm.tokenizers.database import TAXONOMY, VOCABULARY, TokenizerRecord, text

UNKNOWN = "unknown"
TITLES = {"inputs": "encoder reads", "bitrate": "bit allocation", "auxiliary": "auxiliary objectives",
          "joint": "trained jointly"}  # fmt: skip


@dataclass(frozen=True)
class Facet:
    """A filter: a field of the records, and the words that it may hold, in the vocabulary's order."""

    field: str
    title: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """A tokenizer: `words` by facet for filters, `facts` for people, and the runs of this report that used it."""

    row: TokenizerRecord
    words: Mapping[str, tuple[str, ...]]
    facts: Mapping[str, str]
    runs: tuple[Evaluated, ...]

    @property
    def frame_rate_hz(self) -> float | None:
        return min(self.row.frame_rates_hz) if self.row.frame_rates_hz else None

    @property
    def codebooks(self) -> str:
        return sizes(self.row.codebook_sizes)


def make_entries(evaluated: Sequence[Evaluated]) -> list[Entry]:
    return [
        Entry(row, {**{name: words_of(row, name) for name in TAXONOMY}, "loaded": (text(is_runnable(row)),)},
              facts_of(row), tuple(run for run in evaluated if is_same(row, run.record["tokenizer"])))
        for row in catalogue()
    ]  # fmt: skip


def make_facets(entries: Sequence[Entry]) -> list[Facet]:
    """Those that some tokenizer answers to; unknown last."""
    made = []
    for name in (*TAXONOMY, "loaded"):
        met = {word for entry in entries for word in entry.words[name]}
        known = [word for word in (*VOCABULARY.get(name, ("yes", "no")), "none") if word in met]
        words = [*dict.fromkeys(known), *([UNKNOWN] if UNKNOWN in met else [])]
        title = "loaded by slm" if name == "loaded" else TITLES.get(name, name)
        made.append(Facet(name, title, tuple(words)))
    return made


def words_of(row: TokenizerRecord, name: str) -> tuple[str, ...]:
    """A field's value as single words: CNN+T are two."""
    value = getattr(row, name)
    if value is None:
        return (UNKNOWN,)
    if isinstance(value, bool):
        return (text(value),)
    return tuple(value.split("+")) if isinstance(value, str) else tuple(value) or ("none",)


def facts_of(row: TokenizerRecord) -> dict[str, str]:
    """What is known beside the columns of the table."""
    paper = row.paper and f"{row.paper.title}, {row.paper.year}" + (
        f", arXiv {row.paper.arxiv}" if row.paper.arxiv else ""
    )
    facts: dict[str, Any] = {
        "paper": paper,
        **{TITLES.get(name, name): getattr(row, name) for name in TAXONOMY},
        "sample rate": row.sample_rate_hz and f"{row.sample_rate_hz:,} Hz",
        "checkpoint": row.checkpoint,
        "parameters": row.parameters and f"{row.parameters / 1e6:.4g} M",
        "operations": row.macs_per_s and f"{row.macs_per_s / 1e9:.4g} G multiply-accumulates per second of audio",
        "licence of the weights": row.licence,
        "loaded as": row.loads if is_runnable(row) else None,
        "note": row.note,
    }
    return {name: text(value) for name, value in facts.items() if value is not None and value != ""}


def is_same(row: TokenizerRecord, spec: Mapping[str, Any]) -> bool:
    """Whether results over such a tokenizer are about this record: its name, and what both know of its codes.

    A run may use the first of the codebooks only.
    """
    if spec["name"] not in (row.name, row.loads):
        return False
    known, used = row.codebook_sizes, tuple(spec["codebook_sizes"])
    same_rate = row.sample_rate_hz in (None, spec["sample_rate_hz"])
    return same_rate and (known is None or known[: len(used)] == used)
