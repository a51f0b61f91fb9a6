"""What a corpus holds, counted in one pass over its shards: lengths, codes, pairs of codes, units."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from slm.corpus.shards import flat_frames
from slm.corpus.summary import CodebookUse, codebook_use
from slm.corpus.tools.files import tracked
from slm.corpus.tools.finished import FinishedCorpus
from slm.errors import UsageError
from slm.types import TokenizerSpec

_BLOCK_FRAMES = 1 << 18
_PAIR_CELLS = 1 << 26  # of all codebooks together: 512 MB
_PAIRS_PER_CELL = 10
ORDER_1 = "Order 1 is left out where there are not ten pairs of codes for each pair of used ones: it would be too low."


@dataclass(frozen=True)
class CodebookStatistics:
    """One codebook: `counts [V]` of its codes; `order1_bits`, the entropy of a code given the code before it in the
    clip. That is a plug-in estimate, too low where there are few pairs of codes: it is None where there are fewer than
    ten for each pair of used codes, or where counting takes too much memory."""

    counts: np.ndarray
    use: CodebookUse
    order1_bits: float | None

    @property
    def most_frequent(self) -> int:
        return int(np.argmax(self.counts))

    @property
    def most_frequent_share(self) -> float:
        return float(self.counts.max() / self.counts.sum())


@dataclass(frozen=True)
class CorpusStatistics:
    """A corpus: lengths of its clips `[clips]` in seconds, and `num_units`: its frames, runs of equal codes counted
    once (None where there are several codebooks)."""

    spec: TokenizerSpec
    durations_s: np.ndarray
    num_frames: int
    num_bytes: int
    num_units: int | None
    codebooks: tuple[CodebookStatistics, ...]

    @property
    def duration_s(self) -> float:
        return float(self.durations_s.sum(dtype=np.float64))

    @property
    def entropy_bps(self) -> float:
        """Frame rate x sum of the codebooks' entropies (order 0)."""
        return self.spec.frame_rate_hz * sum(codebook.use.entropy_bits for codebook in self.codebooks)

    @property
    def order1_bps(self) -> float | None:
        """The same with entropies given the code before; None where one is not known."""
        bits = [codebook.order1_bits for codebook in self.codebooks if codebook.order1_bits is not None]
        return self.spec.frame_rate_hz * sum(bits) if len(bits) == len(self.codebooks) else None

    def to_dict(self) -> dict[str, Any]:
        lengths = self.durations_s
        return {
            "tokenizer": self.spec.describe(),
            "fingerprint": self.spec.fingerprint,
            "clips": len(lengths),
            "hours": self.duration_s / 3600,
            "frames": self.num_frames,
            "frames_per_s": self.num_frames / self.duration_s,
            "frame_rate_hz": self.spec.frame_rate_hz,
            "units_per_s": None if self.num_units is None else self.num_units / self.duration_s,
            "nominal_bits_per_s": self.spec.bitrate_bps,
            "entropy_bits_per_s": self.entropy_bps,
            "order1_bits_per_s": self.order1_bps,
            "disk_bits_per_s": 8 * self.num_bytes / self.duration_s,
            "length_s": {
                "min": float(lengths.min()),
                "median": float(np.median(lengths)),
                "mean": self.duration_s / len(lengths),
                "max": float(lengths.max()),
            },
            "codebooks": [_codebook_dict(codebook) for codebook in self.codebooks],
        }


def _codebook_dict(codebook: CodebookStatistics) -> dict[str, Any]:
    return {
        "size": codebook.use.size,
        "used": codebook.use.used,
        "entropy_bits": codebook.use.entropy_bits,
        "perplexity": codebook.use.perplexity,
        "order1_bits": codebook.order1_bits,
        "most_frequent": codebook.most_frequent,
        "most_frequent_share": codebook.most_frequent_share,
    }


def count_corpus(corpus: FinishedCorpus) -> CorpusStatistics:
    """One pass; UsageError where codes are beyond the codebooks, or there are no clips."""
    sizes = corpus.spec.codebook_sizes
    counter = _Counter(sizes, with_pairs=sum(size * size for size in sizes) <= _PAIR_CELLS)
    durations, num_bytes = list[np.ndarray](), 0
    for name in tracked(corpus.names, "counting", len(corpus.names)):
        table = corpus.table(name)
        try:
            counter.add(table)
        except IndexError:
            raise UsageError(f"{corpus.path / name} has codes beyond its codebooks: check {corpus.path}") from None
        seconds = table.column("num_samples").to_numpy() / corpus.spec.sample_rate_hz
        durations.append(seconds.astype(np.float32))
        num_bytes += (corpus.path / name).stat().st_size
    if not counter.num_frames:
        raise UsageError(f"{corpus.path} has no frames: nothing to count")
    units = counter.num_units if len(sizes) == 1 else None
    lengths, codebooks = np.concatenate(durations), tuple(counter.codebooks())
    return CorpusStatistics(corpus.spec, lengths, counter.num_frames, num_bytes, units, codebooks)


class _Counter:
    """Counts of codes, of pairs of neighbours in a clip, and of units (where there is one codebook)."""

    def __init__(self, sizes: Iterable[int], with_pairs: bool):
        self.counts = [np.zeros(size, np.int64) for size in sizes]
        self.pairs = [np.zeros(len(count) ** 2, np.int64) for count in self.counts] if with_pairs else []
        self.num_frames = self.num_units = 0

    def add(self, table: pa.Table) -> None:
        for chunk in table.column("codes").chunks:
            frames = flat_frames(chunk, len(self.counts))
            offsets = chunk.offsets.to_numpy()
            starts = np.zeros(len(frames) + 1, bool)  # one more, where the last clip has no frames
            starts[offsets[:-1] - offsets[0]] = True
            for begin in range(0, len(frames), _BLOCK_FRAMES):
                before = max(0, begin - 1)  # with the last frame of the block before, for its pair
                self._add_block(frames[before : begin + _BLOCK_FRAMES], starts[before:], begin - before)
            self.num_frames += len(frames)

    def _add_block(self, frames: np.ndarray, starts: np.ndarray, overlap: int) -> None:
        inner = ~starts[1 : len(frames)]  # both frames of the pair are of one clip
        for k, count in enumerate(self.counts):
            codes = frames[:, k].astype(np.int64)
            np.add.at(count, codes[overlap:], 1)
            if self.pairs:
                np.add.at(self.pairs[k], (codes[:-1] * len(count) + codes[1:])[inner], 1)
            if len(self.counts) == 1:
                again = (codes[:-1] == codes[1:]) & inner
                self.num_units += len(codes) - overlap - int(again.sum())

    def codebooks(self) -> Iterable[CodebookStatistics]:
        for k, count in enumerate(self.counts):
            use, order1_bits = codebook_use(count), None
            if self.pairs and self.pairs[k].sum() >= _PAIRS_PER_CELL * use.used**2:
                order1_bits = _conditional_bits(self.pairs[k].reshape(len(count), len(count)))
            yield CodebookStatistics(count, use, order1_bits)


def _conditional_bits(pairs: np.ndarray) -> float:
    """Entropy of the second of a pair given the first, from counts `[V, V]`."""
    rows = pairs.sum(axis=1)
    first, second = np.nonzero(pairs)
    seen = pairs[first, second]
    return float(-(seen * np.log2(seen / rows[first])).sum() / rows.sum()) + 0.0


@dataclass(frozen=True)
class Bin:
    """Clips of a length in `start_s` .. `stop_s`; the last has no end (None) where longer clips are few."""

    start_s: float
    stop_s: float | None
    count: int


def histogram(durations_s: np.ndarray, about: int = 16) -> list[Bin]:
    """Bins of one width (1, 2 or 5 x 10^n s) and one of the longest clips, 1 %, where these are longer."""
    rank = len(durations_s) - 1 - len(durations_s) // 100
    high = max(float(np.partition(durations_s, rank)[rank]), 1e-3)
    power = 10.0 ** np.floor(np.log10(high / about))
    width = next(m * power for m in (1, 2, 5, 10) if high / (m * power) <= about)
    edges = [round(i * width, 9) for i in range(int(high / width + 1e-9) + 2)]
    counts = np.histogram(durations_s, [*edges, np.inf])[0]
    made = [Bin(a, b, int(c)) for a, b, c in zip(edges[:-1], edges[1:], counts[:-1], strict=True)]
    return [*made, Bin(edges[-1], None, int(counts[-1]))] if counts[-1] else made
