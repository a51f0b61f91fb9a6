"""What a finished corpus is, in numbers that all come from its shards and its plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from slm.corpus.plan import Plan, Reject, count_kinds, describe_kinds
from slm.corpus.shards import ShardRecord
from slm.types import TokenizerSpec


@dataclass(frozen=True)
class CodebookUse:
    """How one codebook is used: distinct codes seen, and the entropy of their frequencies (order 0), in bits."""

    size: int
    used: int
    entropy_bits: float

    @property
    def perplexity(self) -> float:
        return 2.0**self.entropy_bits


@dataclass(frozen=True)
class ShardEntry:
    """A shard as `shards.json` lists it, so that a lost or exchanged one is seen."""

    file: str
    num_clips: int
    num_frames: int
    seal: str


@dataclass(frozen=True)
class CorpusSummary:
    """A finished corpus, or where there are missing shards, the part of it that a run made.

    `real_time_factor` is that of the run that finished it, None where nothing was left to do; `skipped` counts, by
    suffix, the files of the source's folder that were not taken for audio; `outside_s` is what segmentation left out;
    `location` is the folder or URL where the corpus is, `out` where its files are made.
    """

    out: Path
    spec: TokenizerSpec
    num_clips: int
    duration_s: float
    num_frames: int
    codebooks: tuple[CodebookUse, ...]
    rejects: tuple[Reject, ...]
    shards: tuple[ShardEntry, ...]
    real_time_factor: float | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)
    location: str = ""
    num_missing_shards: int = 0
    outside_s: float = 0.0

    @property
    def num_shards(self) -> int:
        return len(self.shards)

    @property
    def num_codes(self) -> int:
        return self.num_frames * self.spec.num_codebooks

    @property
    def entropy_bitrate_bps(self) -> float:
        """Frame rate x sum of the codebooks' entropies: what an order-0 coder of each codebook would need."""
        return self.spec.frame_rate_hz * sum(codebook.entropy_bits for codebook in self.codebooks)

    def describe(self) -> str:
        """The lines that the command prints at its end."""
        speed = "" if self.real_time_factor is None else f", {self.real_time_factor:.0f} x real time"
        lines = [
            f"{self.num_clips:,} clips, {self.duration_s / 3600:.3f} h, {self.num_codes:,} codes{speed}",
            f"tokenizer  {self.spec.describe()}",
            f"bitrate    {self.spec.bitrate_bps:,.0f} bit/s nominal, {self.entropy_bitrate_bps:,.0f} by entropy",
        ]
        for k, codebook in enumerate(self.codebooks):
            lines.append(
                f"codebook {k}  {codebook.used:,} of {codebook.size:,} codes used, "
                f"entropy {codebook.entropy_bits:.2f} bits, perplexity {codebook.perplexity:,.1f}"
            )
        if self.skipped:
            lines.append(f"skipped    {describe_skipped(self.skipped)}")
        if self.outside_s > 0:
            lines.append(f"outside    {self.outside_s / 3600:.3f} h of the recordings are in no segment")
        where = self.location or str(self.out)
        lines.append(f"dataset    {where}")
        if self.num_missing_shards:
            lines.append(
                f"unfinished {self.num_missing_shards:,} shards are for other runs, of which the last finishes it"
            )
        kinds = f": {describe_kinds(count_kinds(self.rejects))} (see {where}/rejects.jsonl)" if self.rejects else ""
        return "\n".join([*lines, f"left out   {len(self.rejects):,} clips{kinds}"])


def summarize(out: Path, spec: TokenizerSpec, plan: Plan, records: Iterable[ShardRecord]) -> CorpusSummary:
    """Sum up the shards of a plan; rejects in the source's order."""
    made = sum_up(out, spec, records, plan.rejects())
    return replace(made, rejects=tuple(_in_order(made.rejects, plan)), outside_s=plan.outside_s)


def sum_up(out: Path, spec: TokenizerSpec, records: Iterable[ShardRecord], rejects: Iterable[Reject]) -> CorpusSummary:
    """Sum up shards, their rejects after those given."""
    shards, left_out = list[ShardEntry](), list(rejects)
    clips = samples = frames = 0
    counts = [np.zeros(size, np.int64) for size in spec.codebook_sizes]
    for record in records:
        clips, samples, frames = clips + record.num_clips, samples + record.num_samples, frames + record.num_frames
        counts = [total + count for total, count in zip(counts, record.counts, strict=True)]
        left_out += record.rejects
        shards.append(ShardEntry(record.file, record.num_clips, record.num_frames, record.seal))
    return CorpusSummary(
        out=out,
        spec=spec,
        num_clips=clips,
        duration_s=samples / spec.sample_rate_hz,
        num_frames=frames,
        codebooks=tuple(codebook_use(count) for count in counts),
        rejects=tuple(left_out),
        shards=tuple(shards),
    )


def _in_order(rejects: Sequence[Reject], plan: Plan) -> list[Reject]:
    if not rejects:
        return []
    order = {id: row for row, id in enumerate(plan.in_order([reject.id for reject in rejects]))}
    return sorted(rejects, key=lambda reject: order[reject.id])


def describe_skipped(skipped: Mapping[str, int]) -> str:
    """`"12 files that are no audio by their name: 11 .txt, 1 without suffix"`, the most frequent first."""
    kinds = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    text = ", ".join(f"{count:,} {suffix or 'without suffix'}" for suffix, count in kinds)
    return f"{sum(skipped.values()):,} files that are no audio by their name: {text}"


def codebook_use(counts: np.ndarray) -> CodebookUse:
    """Of how often each code occurs `[V]`."""
    seen = counts[counts > 0]
    shares = seen / seen.sum()
    return CodebookUse(len(counts), len(seen), float(-(shares * np.log2(shares)).sum()) + 0.0)
