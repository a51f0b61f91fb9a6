"""One source on the recordings of one domain: aligned, judged by every metric, counted."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eval.benchmarks.base import LeftOut
from eval.metrics.signals import SignalMetric
from eval.reconstruction.alignment import Delay, common_delay, measure_delay
from eval.reconstruction.material import Piece
from eval.reconstruction.opinions import Opinions
from eval.reconstruction.scoring import Job, Judged, judge_all, with_lag
from eval.reconstruction.settings import Reconstruction
from eval.reconstruction.sources import Returned, Source
from slm.audio import read_audio, write_wav
from slm.errors import AudioError
from slm.types import AudioClip

CHUNK = 32  # pieces at a time; those of the first tell the common delay


@dataclass
class Found:
    """Of one source and one domain."""

    domain: str
    codebooks: int | None
    whole: bool = True
    """All codebooks that the tokenizer has."""
    sample_rate_hz: int = 0
    common: Delay | None = None
    judged: list[Judged] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def undefined(self) -> dict[str, dict[str, int]]:
        """Metric -> why it said nothing of how many pieces."""
        made: dict[str, Counter[str]] = {}
        for one in self.judged:
            for metric, reason in one.undefined.items():
                made.setdefault(metric, Counter())[reason] += 1
        return {metric: dict(reasons.most_common()) for metric, reasons in sorted(made.items())}

    @property
    def alignment(self) -> dict[str, Any]:
        """Delay and length, measured and corrected, over pieces."""
        sure = [j.delay for j in self.judged if j.delay.by]
        lengths = [j.length_s for j in self.judged]
        corrected = [j.lag / self.sample_rate_hz for j in self.judged]
        return {
            "corrected_s": float(np.median(corrected)) if corrected else 0.0,
            "delay_s": float(np.median([d.delay_s for d in sure])) if sure else None,
            "delay_range_s": [min(d.delay_s for d in sure), max(d.delay_s for d in sure)] if sure else None,
            "correlation": float(np.median([j.delay.correlation for j in self.judged])) if self.judged else None,
            "measured_by": dict(Counter(j.delay.by or "not alike enough" for j in self.judged)),
            "length_s": float(np.median(lengths)) if lengths else None,
            "length_range_s": [min(lengths), max(lengths)] if lengths else None,
        }


@dataclass(frozen=True)
class Bench:
    """What all sources are judged with."""

    settings: Reconstruction
    metrics: Sequence[SignalMetric]
    workers: Executor | None
    opinions: Opinions


def judge_domain(source: Source, pieces: Sequence[Piece], found: Found, bench: Bench, keep: Path) -> Found:
    """Fill `found` from the pieces of its domain. While the processes judge one chunk, the source makes the next.
    Recordings to listen to go below `keep`."""
    waiting: deque[tuple[Iterator[Judged], dict[str, dict[str, tuple[float, float]]]]] = deque()

    def take() -> None:
        judged, opinions = waiting.popleft()
        found.judged += [_with_opinions(one, opinions.get(one.pair_id, {})) for one in judged]

    for start in range(0, len(pieces), CHUNK):
        chunk = pieces[start : start + CHUNK]
        returned, left_out = source.make(chunk)
        found.left_out += left_out
        jobs, left_out = _jobs(returned, found, bench.settings, keep)
        found.left_out += left_out
        jobs = _aligned(jobs, found, bench.settings)
        judged = judge_all(jobs, bench.metrics, bench.workers)
        waiting.append((judged, bench.opinions.about(jobs, {p.id: p.text for p in chunk})))
        while len(waiting) > 1:
            take()
    while waiting:
        take()
    found.facts = source.facts()
    return found


def _with_opinions(judged: Judged, opinions: dict[str, tuple[float, float]]) -> Judged:
    return Judged(**{**vars(judged), "values": {**judged.values, **opinions}})


def _jobs(
    returned: Sequence[Returned], found: Found, settings: Reconstruction, keep: Path
) -> tuple[list[Job], list[LeftOut]]:
    """Both signals at the rate of the domain, as they come; the first few go to disk too."""
    import soxr

    jobs, left_out = list[Job](), list[LeftOut]()
    for one in returned:
        piece, own_hz = one.piece, one.sample_rate_hz
        rate_hz = found.sample_rate_hz = settings.rate_hz(piece.domain, own_hz)
        try:
            reference = read_audio(piece.path, rate_hz, piece.start_s, piece.end_s)
        except AudioError as error:
            left_out.append(LeftOut(piece.id, f"ground truth: {error}"))
            continue
        made = one.samples if own_hz == rate_hz else soxr.resample(one.samples, own_hz, rate_hz, quality="HQ")
        if not np.isfinite(made).all():
            left_out.append(LeftOut(piece.id, "NaN or infinity came back"))
            continue
        jobs.append(Job(piece.id, piece.file, piece.domain, reference, made, rate_hz, 0, settings.max_delay_s))
        if len(found.samples) < settings.samples:
            found.samples.append(_keep(jobs[-1], one, found, keep))
    return jobs, left_out


def _aligned(jobs: Sequence[Job], found: Found, settings: Reconstruction) -> list[Job]:
    if settings.alignment == "none":
        return list(jobs)
    if settings.alignment == "each":
        return [Job(**{**vars(job), "lag": None}) for job in jobs]
    if found.common is None and jobs:
        found.common = common_delay(
            [measure_delay(j.reference, j.made, j.sample_rate_hz, settings.max_delay_s) for j in jobs]
        )
    return [with_lag(job, found.common or Delay(0.0, 0.0, "")) for job in jobs]


def _keep(job: Job, one: Returned, found: Found, keep: Path) -> dict[str, Any]:
    """Write a recording, and what came back of it as it came; as the report reads samples."""
    number = len(found.samples) + 1
    truth = keep / f"{found.domain}-{number}-ground-truth.wav"
    what = f"{found.codebooks} codebooks" if found.codebooks else "reconstruction"
    made = keep / f"{found.domain}-{number}-{what.replace(' ', '-')}.wav"
    if not truth.is_file():
        write_wav(truth, AudioClip(job.pair_id, job.reference, job.sample_rate_hz))
    write_wav(made, AudioClip(job.pair_id, one.samples, one.sample_rate_hz))
    return {
        "id": job.pair_id,
        "text": one.piece.text,
        "folder": keep.name,
        "files": {"original": truth.name, what: made.name},
    }
