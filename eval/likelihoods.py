"""Score once, decide later: sums of log-probabilities by item and codebook, and every convention derived from them.

The table holds, for each item and codebook, the summed natural-log probability of its codes and their number, and the
same of the ends of its streams. A pattern with one stream (flat) has one end, kept with codebook 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slm.errors import UsageError, did_you_mean
from slm.files import atomic_file
from slm.types import CodeLogProbs, Codes, Scorer

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Convention:
    """How the log-probabilities of an item become one score."""

    name: str
    mean: bool
    eos: bool
    first_codebook: bool = False

    @property
    def meaning(self) -> str:
        what = "the codes of the first codebook" if self.first_codebook else "all codes of all codebooks"
        end = " and of the end of the clip" if self.eos else ", without the end of the clip"
        return f"{'mean' if self.mean else 'sum'} of the log-probabilities of {what}{end}"


CONVENTIONS = {
    c.name: c
    for c in (
        Convention("mean+eos", mean=True, eos=True),
        Convention("mean", mean=True, eos=False),
        Convention("sum+eos", mean=False, eos=True),
        Convention("sum", mean=False, eos=False),
        Convention("first-mean+eos", mean=True, eos=True, first_codebook=True),
        Convention("first-mean", mean=True, eos=False, first_codebook=True),
        Convention("first-sum+eos", mean=False, eos=True, first_codebook=True),
        Convention("first-sum", mean=False, eos=False, first_codebook=True),
    )
}


def whole_clip_convention(dedup: bool) -> str:
    """The convention of numbers about whole clips. A model of deduplicated units does not say how long each lasts."""
    return "sum+eos, durations not counted" if dedup else "sum+eos"


def find_convention(name: str) -> Convention:
    if name not in CONVENTIONS:
        raise UsageError(f"unknown convention {name!r}{did_you_mean(name, CONVENTIONS)}")
    return CONVENTIONS[name]


@dataclass(frozen=True)
class Likelihoods:
    """`sums`, `counts`, `eos_sums` (nats), `eos_counts`: `[N, K]`; `duration_s [N]`."""

    items: tuple[str, ...]
    sums: np.ndarray
    counts: np.ndarray
    eos_sums: np.ndarray
    eos_counts: np.ndarray
    duration_s: np.ndarray

    @classmethod
    def measure(cls, scorer: Scorer, codes: Sequence[Codes]) -> Likelihoods:
        """Score each distinct sequence of codes once: items with the same codes tie exactly, whatever the batching.

        UsageError for a model that gives NaN; ValueError for a scorer that answers about other clips than asked.
        """
        first: dict[bytes, Codes] = {}
        of = [first.setdefault(np.ascontiguousarray(c.codes).tobytes(), c).id for c in codes]
        scored = scorer.score_codes(list(first.values()))
        if sorted(s.id for s in scored) != sorted(c.id for c in first.values()):
            raise ValueError(f"{type(scorer).__name__} scored other clips than it was asked for")
        made = {s.id: s for s in scored}
        table = cls.collect([made[id] for id in of], [c.id for c in codes], [c.duration_s for c in codes])
        if np.isnan(table.sums).any() or np.isnan(table.eos_sums).any():
            raise UsageError("the model gives NaN: was its training stable? See its metrics.jsonl")
        return table

    @classmethod
    def collect(cls, scored: Sequence[CodeLogProbs], items: Sequence[str], duration_s: Sequence[float]) -> Likelihoods:
        books = scored[0].log_probs.shape[1]
        ends = [np.pad(s.eos_log_probs, (0, books - len(s.eos_log_probs))) for s in scored]
        present = [np.arange(books) < len(s.eos_log_probs) for s in scored]
        return cls(
            items=tuple(items),
            sums=np.stack([s.log_probs.sum(axis=0) for s in scored]).astype(np.float64),
            counts=np.stack([np.full(books, len(s.log_probs)) for s in scored]),
            eos_sums=np.stack(ends).astype(np.float64),
            eos_counts=np.stack(present).astype(np.int64),
            duration_s=np.asarray(duration_s, np.float64),
        )

    @property
    def conventions(self) -> list[Convention]:
        """Those that differ: with one codebook the first is all there is."""
        return [c for c in CONVENTIONS.values() if self.sums.shape[1] > 1 or not c.first_codebook]

    def scores(self, convention: Convention) -> dict[str, float]:
        """Item -> score, larger is likelier; rounded to 1e-9 nats, below which sums of float64 are noise, not order."""
        books = slice(1) if convention.first_codebook else slice(None)
        total, count = self.sums[:, books].sum(axis=1), self.counts[:, books].sum(axis=1)
        if convention.eos:
            total, count = total + self.eos_sums[:, books].sum(axis=1), count + self.eos_counts[:, books].sum(axis=1)
        values = np.round(total / count if convention.mean else total, 9)
        return dict(zip(self.items, values.tolist(), strict=True))

    def log_prob_nats(self) -> dict[str, float]:
        """Item -> everything it holds: all codes and all ends."""
        return dict(zip(self.items, (self.sums + self.eos_sums).sum(axis=1).tolist(), strict=True))

    def to_table(self) -> pa.Table:
        """One row for each item and codebook."""
        import pyarrow as pa

        size, books = self.sums.shape
        return pa.table(
            {
                "item": np.repeat(np.array(self.items, object), books),
                "codebook": np.tile(np.arange(books, dtype=np.int16), size),
                "log_prob_nats": self.sums.reshape(-1),
                "count": self.counts.reshape(-1),
                "eos_log_prob_nats": self.eos_sums.reshape(-1),
                "eos_count": self.eos_counts.reshape(-1),
                "duration_s": np.repeat(self.duration_s, books),
            }
        )

    @classmethod
    def from_table(cls, table: pa.Table) -> Likelihoods:
        """The exact inverse of `to_table`."""
        columns = {name: table.column(name).to_numpy() for name in table.column_names}
        books = int(columns["codebook"].max()) + 1

        def grid(name: str) -> np.ndarray:
            return columns[name].reshape(-1, books)

        return cls(
            tuple(columns["item"][::books].tolist()), grid("log_prob_nats"), grid("count"),
            grid("eos_log_prob_nats"), grid("eos_count"), columns["duration_s"][::books],
        )  # fmt: skip

    def write(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Parquet, with who scored what in the schema's metadata."""
        import pyarrow.parquet as pq

        with atomic_file(path) as temporary:
            pq.write_table(self.to_table().replace_schema_metadata(dict(metadata)), temporary)

    @classmethod
    def read(cls, path: Path) -> Likelihoods:
        import pyarrow.parquet as pq

        return cls.from_table(pq.read_table(path))
