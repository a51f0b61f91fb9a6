"""Score once, decide later: sums of log-probabilities by item and codebook, and every convention derived from them.

The table holds, for each item and codebook, the summed natural-log probability of its codes and their number, and the
same of the ends of its streams: an end is kept with the first codebook of its stream (a pattern with one stream, flat,
has one end, kept with codebook 0). Beside them what conventions of pairs need, where they are asked for: the sums of
what follows where the two items of a pair part, and of the same scored alone. What each unit got is a second table,
on request and wherever a convention of a window is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eval.conventions import CONVENTIONS, Convention, find_convention, whole_clip_convention
from eval.frames import FrameLikelihoods
from eval.partings import Parting, continuations
from slm.errors import UsageError
from slm.files import atomic_file
from slm.types import CodeLogProbs, Codes, Scorer

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["CONVENTIONS", "Convention", "Likelihoods", "Wanted", "find_convention", "whole_clip_convention"]


@dataclass(frozen=True)
class Wanted:
    """What is kept beside the sums of each item. `partings` say where an item parts from its partner; with `alone`
    what follows there is scored alone too; `starts [R + 1]` (see `eval.partings.unit_starts`) are needed to keep what
    each unit got, `frame_rate_hz` with them; `ends_at [Q]` is the first codebook of each stream, where that is not the
    stream's own number."""

    partings: Mapping[str, Parting] = field(default_factory=dict)
    alone: bool = False
    starts: Mapping[str, np.ndarray] = field(default_factory=dict)
    frame_rate_hz: float = 0.0
    ends_at: Sequence[int] | None = None


@dataclass(frozen=True)
class Continuation:
    """Of what follows where an item parts from its partner, `[N, K]` each: given all before it, and alone (NaN where
    that was not asked for). `parts_at [N]` is the first unit of it. Counts of 0: nothing follows."""

    parts_at: np.ndarray
    sums: np.ndarray
    counts: np.ndarray
    alone_sums: np.ndarray
    alone_eos_sums: np.ndarray


@dataclass(frozen=True)
class Likelihoods:
    """`sums`, `counts`, `eos_sums`, `first_sums` (nats), `eos_counts`: `[N, K]`; `duration_s [N]`. `first_sums` are
    the log-probabilities of the first unit of each codebook."""

    items: tuple[str, ...]
    sums: np.ndarray
    counts: np.ndarray
    eos_sums: np.ndarray
    eos_counts: np.ndarray
    first_sums: np.ndarray
    duration_s: np.ndarray
    continuation: Continuation | None = None
    frames: FrameLikelihoods | None = None

    @classmethod
    def measure(cls, scorer: Scorer, codes: Sequence[Codes], wanted: Wanted = Wanted()) -> Likelihoods:
        """Score each distinct document once: items of which a model reads the same tie exactly, whatever the batching.

        UsageError for a model that gives NaN or infinite values; ValueError for a scorer that answers about other
        clips than asked.
        """
        given = {c.id: c for c in codes}
        rest = continuations(given, wanted.partings) if wanted.alone else {}
        first: dict[bytes, Codes] = {}
        asked = [*codes, *rest.values()]
        documents = [document_of(scorer, c) for c in asked]
        of = {c.id: first.setdefault(_content(d), c).id for c, d in zip(asked, documents, strict=True)}
        read = {c.id: d for c, d in zip(asked, documents, strict=True)}
        scored = score_read(scorer, list(first.values()), [read[c.id] for c in first.values()])
        if sorted(s.id for s in scored) != sorted(c.id for c in first.values()):
            raise ValueError(f"{type(scorer).__name__} scored other clips than it was asked for")
        made = {s.id: s for s in scored}
        if not all(is_finite(s) for s in scored):
            nan = any(np.isnan(s.log_probs).any() or np.isnan(s.eos_log_probs).any() for s in scored)
            raise UsageError(
                f"the model gives {'NaN' if nan else 'infinite log-probabilities'}: was its training stable? See its "
                "metrics.jsonl"
            )
        alone = {item: made[of[c.id]] for item, c in rest.items()}
        whole = [made[of[c.id]] for c in codes]
        return cls.collect(whole, [c.id for c in codes], [c.duration_s for c in codes], wanted, alone)

    @classmethod
    def collect(cls, scored: Sequence[CodeLogProbs], items: Sequence[str], duration_s: Sequence[float],
                wanted: Wanted = Wanted(), alone: Mapping[str, CodeLogProbs] | None = None) -> Likelihoods:  # fmt: skip
        books = scored[0].log_probs.shape[1]
        eos_sums, eos_counts = (
            np.stack(a) for a in zip(*(_ends(s, books, wanted.ends_at) for s in scored), strict=True)
        )
        frames = None
        if wanted.starts:
            starts = tuple(wanted.starts[item] for item in items)
            values = tuple(s.log_probs for s in scored)
            frames = FrameLikelihoods(values, starts, eos_sums, eos_counts, wanted.frame_rate_hz)
        return cls(
            items=tuple(items),
            sums=np.stack([s.log_probs.sum(axis=0) for s in scored]).astype(np.float64),
            counts=np.stack([np.full(books, len(s.log_probs)) for s in scored]),
            eos_sums=eos_sums,
            eos_counts=eos_counts,
            first_sums=np.stack([s.log_probs[:1].sum(axis=0) for s in scored]).astype(np.float64),
            duration_s=np.asarray(duration_s, np.float64),
            continuation=_continuation(scored, items, wanted, alone) if wanted.partings else None,
            frames=frames,
        )

    def scores(self, convention: Convention) -> dict[str, float]:
        """Item -> score, larger is likelier; rounded to 1e-9 nats, below which sums of float64 are noise, not order.

        An item of which the convention counts nothing has no score. UsageError for a convention whose figures were
        not asked for when this table was made.
        """
        weights = convention.weights_of(self.sums.shape[1])
        sums, counts, eos_sums, eos_counts = self._figures(convention)
        total, count = (sums * weights).sum(axis=1), (counts * weights).sum(axis=1)
        scored = count > 0
        if convention.eos:
            total = total + (eos_sums * weights).sum(axis=1)
            count = count + (eos_counts * weights).sum(axis=1)
            scored |= count > 0
        values = np.round(total / np.where(scored, count, 1) if convention.mean else total, 9)
        return {item: value for item, value, there in zip(self.items, values.tolist(), scored, strict=True) if there}

    def _figures(self, convention: Convention) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Sums and counts `[N, K]` of codes and of ends."""
        if not convention.is_of_pairs:
            sums, counts = self.sums, self.counts
            if convention.after_first:
                taken = np.eye(1, sums.shape[1]) * (counts > 0)
                sums, counts = sums - self.first_sums * taken, counts - taken
            return sums, counts, self.eos_sums, self.eos_counts
        rest = self.continuation
        if rest is None:
            raise UsageError(f"convention {convention.name!r} is one of pairs: ask for it when they are scored")
        if convention.window_s is not None:
            if self.frames is None:
                raise UsageError(
                    f"convention {convention.name!r} needs what each frame got: score with --per_frame true"
                )
            return self.frames.within(rest.parts_at, convention.window_s)
        if np.isnan(rest.alone_sums[rest.counts > 0]).any():
            raise UsageError(
                f"convention {convention.name!r} needs continuations scored alone: ask for it when scoring"
            )
        there = rest.counts > 0
        return (np.where(there, rest.sums - rest.alone_sums, 0.0), rest.counts,
                np.where(there, self.eos_sums - rest.alone_eos_sums, 0.0), self.eos_counts * there)  # fmt: skip

    def log_prob_nats(self) -> dict[str, float]:
        """Item -> everything it holds: all codes and all ends."""
        return dict(zip(self.items, (self.sums + self.eos_sums).sum(axis=1).tolist(), strict=True))

    def to_table(self) -> pa.Table:
        """One row for each item and codebook. What was not asked for has no column."""
        import pyarrow as pa

        size, books = self.sums.shape
        columns = {
            "item": np.repeat(np.array(self.items, object), books),
            "codebook": np.tile(np.arange(books, dtype=np.int16), size),
            "log_prob_nats": self.sums.reshape(-1),
            "count": self.counts.reshape(-1),
            "eos_log_prob_nats": self.eos_sums.reshape(-1),
            "eos_count": self.eos_counts.reshape(-1),
            "first_log_prob_nats": self.first_sums.reshape(-1),
            "duration_s": np.repeat(self.duration_s, books),
        }
        if rest := self.continuation:
            columns["parts_at"] = np.repeat(rest.parts_at, books)
            columns |= {name: getattr(rest, field).reshape(-1) for name, field in _OF_CONTINUATION.items()}
        return pa.table(columns)

    @classmethod
    def from_table(cls, table: pa.Table) -> Likelihoods:
        """The exact inverse of `to_table`."""
        columns = {name: table.column(name).to_numpy() for name in table.column_names}
        books = int(columns["codebook"].max()) + 1

        def grid(name: str) -> np.ndarray:
            return columns[name].reshape(-1, books)

        rest = None
        if "parts_at" in columns:
            rest = Continuation(columns["parts_at"][::books], *(grid(name) for name in _OF_CONTINUATION))
        return cls(
            tuple(columns["item"][::books].tolist()), grid("log_prob_nats"), grid("count"),
            grid("eos_log_prob_nats"), grid("eos_count"), grid("first_log_prob_nats"), columns["duration_s"][::books],
            rest,
        )  # fmt: skip

    def write(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Parquet, with who scored what in the schema's metadata; what each unit got in X-frames.parquet beside it."""
        import pyarrow.parquet as pq

        beside = frames_path(path)
        beside.unlink(missing_ok=True)
        if self.frames is not None:
            long = self.frames.to_table(self.items)
            rate = {"frame_rate_hz": repr(self.frames.frame_rate_hz)}
            with atomic_file(beside) as temporary:
                pq.write_table(long.replace_schema_metadata({**metadata, **rate}), temporary)
        with atomic_file(path) as temporary:
            pq.write_table(self.to_table().replace_schema_metadata(dict(metadata)), temporary)

    @classmethod
    def read(cls, path: Path) -> Likelihoods:
        import pyarrow.parquet as pq

        made = cls.from_table(pq.read_table(path))
        if not frames_path(path).is_file():
            return made
        long = pq.read_table(frames_path(path))
        rate = float(long.schema.metadata[b"frame_rate_hz"])
        frames = FrameLikelihoods.from_table(long, made.counts, made.eos_sums, made.eos_counts, rate)
        return replace(made, frames=frames)


_OF_CONTINUATION = {
    "after_log_prob_nats": "sums",
    "after_count": "counts",
    "alone_log_prob_nats": "alone_sums",
    "alone_eos_log_prob_nats": "alone_eos_sums",
}


def frames_path(path: Path) -> Path:
    """Where the table of frames stands beside that of sums."""
    return path.with_name(f"{path.stem}-frames.parquet")


def document_of(scorer: Scorer, codes: Codes) -> np.ndarray:
    """What a scorer reads of a clip: its units, where it says so (deduplicated ones may be those of another clip too),
    else the codes."""
    read = getattr(scorer, "document", None)
    return codes.codes if read is None else np.asarray(read(codes))


def score_read(scorer: Scorer, codes: Sequence[Codes], documents: Sequence[np.ndarray]) -> list[CodeLogProbs]:
    """Log-probabilities of clips of which `document_of` is known already: a scorer that takes documents need not make
    them again."""
    score = getattr(scorer, "score_documents", None)
    return scorer.score_codes(codes) if score is None else score(codes, documents)


def is_finite(scored: CodeLogProbs) -> bool:
    return bool(np.isfinite(scored.log_probs).all() and np.isfinite(scored.eos_log_probs).all())


def _content(document: np.ndarray) -> bytes:
    return np.ascontiguousarray(document).tobytes()


def _ends(scored: CodeLogProbs, books: int, ends_at: Sequence[int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities and counts `[K]` of the ends."""
    sums, counts = np.zeros(books), np.zeros(books, np.int64)
    number = len(scored.eos_log_probs)
    at = list(range(number)) if ends_at is None or not number else list(ends_at)
    sums[at], counts[at] = scored.eos_log_probs, 1
    return sums, counts


def _continuation(scored: Sequence[CodeLogProbs], items: Sequence[str], wanted: Wanted,
                  alone: Mapping[str, CodeLogProbs] | None) -> Continuation:  # fmt: skip
    books = scored[0].log_probs.shape[1]
    rows = np.array([wanted.partings[item].row for item in items], np.int64)
    nothing = np.full(books, np.nan)
    made = [(alone or {}).get(item) for item in items]
    return Continuation(
        parts_at=rows,
        sums=np.stack([s.log_probs[row:].sum(axis=0) for s, row in zip(scored, rows, strict=True)]),
        counts=np.stack([np.full(books, len(s.log_probs) - row) for s, row in zip(scored, rows, strict=True)]),
        alone_sums=np.stack([nothing if s is None else s.log_probs.sum(axis=0) for s in made]),
        alone_eos_sums=np.stack([nothing if s is None else _ends(s, books, wanted.ends_at)[0] for s in made]),
    )
