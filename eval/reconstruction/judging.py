"""One source on the recordings of one domain: aligned, judged by every metric, counted."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eval.benchmarks.base import LeftOut
from eval.metrics.signals import SPEECH, SignalMetric
from eval.progress import Progress
from eval.reconstruction.alignment import Delay, common_delay, measure_delay
from eval.reconstruction.kept import FORMAT as KEPT_FORMAT
from eval.reconstruction.kept import KeptPieces, piece_key
from eval.reconstruction.material import Piece
from eval.reconstruction.opinions import Opinions
from eval.reconstruction.scoring import Job, Judged, judge_all, with_lag
from eval.reconstruction.settings import Reconstruction
from eval.reconstruction.sources import Returned, Source
from slm import __version__
from slm.audio import read_audio, write_wav
from slm.errors import AudioError
from slm.types import AudioClip, stable_hash

FIRST, CHUNK = 32, 16  # pieces at a time; those of the first tell the common delay
AHEAD = 2  # chunks that wait for judges while the next is made: processes are never without work


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
    time: dict[str, float] = field(default_factory=dict)
    """Seconds of this run: of the tokenizer, of all metrics and judges (of a processor, where they have processes of
    their own), and by the clock; and the pieces it made."""
    progress: Progress | None = None

    @property
    def name(self) -> str:
        return self.domain if self.codebooks is None else f"{self.domain}, {self.codebooks} codebooks"

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
            "other_length": sum(j.has_other_length for j in self.judged),
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
    waiting: deque[Waiting] = field(default_factory=deque)
    """Chunks that are being judged, the oldest first, while sources make the next."""
    finished_s: list[float] = field(default_factory=list)

    def since(self, started: float) -> float:
        """Seconds that this one took by the clock, those apart in which the one before was not done."""
        self.finished_s.append(time.perf_counter())
        return self.finished_s[-1] - max(started, *self.finished_s[-2:-1], 0)

    def metrics_of(self, domain: str, sample_rate_hz: int) -> dict[str, str]:
        """Those that can be said of a domain, with what makes each the number that it is."""
        return {m.name: m.convention(domain, sample_rate_hz) for m in self.metrics if domain in m.domains}


@dataclass(frozen=True)
class Waiting:
    """A chunk that is being judged."""

    found: Found
    kept: KeptPieces
    chunk: Sequence[Piece]
    returned: Mapping[str, Returned]
    judged: Iterator[Judged]
    opinions: Callable[[], dict[str, Any]]


def begin_domain(source: Source, pieces: Sequence[Piece], found: Found, bench: Bench,
                 keep: Path) -> Callable[[], None]:  # fmt: skip
    """Make all pieces of a domain, those apart that an earlier run judged, and have them judged. The last chunks are
    still being judged when it returns, so that the next source can begin; what it returns waits for them, and fills
    `found`. Recordings to listen to go below `keep`."""
    started = time.perf_counter()
    kept = KeptPieces(keep / "kept" / f"{kept_name(source, pieces, found, bench)}.jsonl")
    found.common = kept.common
    rest: list[Piece] = []
    for piece in pieces:
        wanted = len(found.samples) + len(rest) < bench.settings.samples
        if not _recalled(piece, kept, source, found, keep if wanted else None):
            rest.append(piece)
    found.time = {"tokenizer": 0.0, "metrics": 0.0, "pieces": len(rest), "before": len(pieces) - len(rest)}
    found.progress = Progress(f"reconstruction: {found.name}", "recordings judged")
    while rest:
        size = CHUNK if found.common or bench.settings.alignment != "constant" else FIRST
        bench.waiting.extend(_begun(source, rest[:size], found, bench, keep, kept))
        rest = rest[size:]
        while len(bench.waiting) > (AHEAD if bench.workers else 1):
            take_next(bench)
    found.facts = source.facts()
    order = {piece.id: number for number, piece in enumerate(pieces)}

    def finish() -> None:
        while any(one.found is found for one in bench.waiting):
            take_next(bench)
        found.judged.sort(key=lambda one: order[one.pair_id])
        found.samples.sort(key=lambda one: order[one["id"]])
        found.samples = found.samples[: bench.settings.samples]
        found.time["clock"] = bench.since(started)
        bench.opinions.learn(name for one in found.judged for name in one.values)

    return finish


def kept_name(source: Source, pieces: Sequence[Piece], found: Found, bench: Bench) -> str:
    """A hash of everything that the judgement of a piece depends on, beside the piece."""
    settings = bench.settings
    rate_hz = settings.rate_hz(found.domain, 0)
    first = [piece_key(piece) for piece in pieces[:FIRST]] if settings.alignment == "constant" else []
    depends = [
        KEPT_FORMAT, __version__, list(source.identity), found.domain, rate_hz, settings.alignment,
        settings.max_delay_s, bench.metrics_of(found.domain, rate_hz), first,
        bench.opinions.identities if found.domain == SPEECH else [],
    ]  # fmt: skip
    books = f"-{found.codebooks}" if found.codebooks else ""
    return f"{found.domain}{books}-{stable_hash(depends)[:16]}"


def _recalled(piece: Piece, kept: KeptPieces, source: Source, found: Found, samples: Path | None) -> bool:
    """Whether an earlier run judged it, and kept its recordings below `samples` where they are to be listened to."""
    line = kept.find(piece)
    if line is None:
        return False
    judged, trace, sample = line
    if samples is not None:
        if sample is None or not all((samples / name).is_file() for name in sample["files"].values()):
            return False
        found.samples.append(sample)
    found.judged.append(judged)
    found.sample_rate_hz = judged.sample_rate_hz
    source.recall(trace)
    return True


def _begun(
    source: Source, pieces: Sequence[Piece], found: Found, bench: Bench, keep: Path, kept: KeptPieces
) -> Iterator[Waiting]:
    """Make and align pieces, and have them judged, a chunk at a time: what is judged is soon kept."""
    returned, left_out = source.make(pieces)
    found.left_out += left_out
    found.time["tokenizer"] += sum(one.trace.get("encode_s", 0) + one.trace.get("decode_s", 0) for one in returned)
    jobs, left_out = _jobs(returned, found, bench.settings, keep)
    found.left_out += left_out
    jobs = _aligned(jobs, found, bench.settings)
    if kept.common is None and found.common is not None:
        kept.set_common(found.common)
    made = {one.piece.id: one for one in returned}
    for start in range(0, len(pieces), CHUNK):
        chunk = pieces[start : start + CHUNK]
        ids = {piece.id for piece in chunk}
        own = [job for job in jobs if job.pair_id in ids]
        judged = judge_all(own, bench.metrics, bench.workers)
        yield Waiting(found, kept, chunk, made, judged, bench.opinions.begin(own, {p.id: p.text for p in chunk}))


def take_next(bench: Bench) -> None:
    """Wait until the chunk that was begun first is judged, and keep it."""
    waiting = bench.waiting.popleft()
    found, busy_s = waiting.found, bench.opinions.judges.busy_s
    signals, opinions = list(waiting.judged), waiting.opinions()
    found.time["metrics"] += sum(one.took_s for one in signals) + bench.opinions.judges.busy_s - busy_s
    made = {one.pair_id: _with_opinions(one, opinions.get(one.pair_id, {})) for one in signals}
    found.judged += made.values()
    samples = {sample["id"]: sample for sample in found.samples}
    waiting.kept.add(
        [(p, made[p.id], waiting.returned[p.id].trace, samples.get(p.id)) for p in waiting.chunk if p.id in made]
    )
    if found.progress:
        found.progress.add(len(waiting.chunk), int(found.time["pieces"]))


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
    name = f"{found.domain}-{stable_hash(job.pair_id)[:8]}"
    truth = keep / f"{name}-ground-truth.wav"
    what = f"{found.codebooks} codebooks" if found.codebooks else "reconstruction"
    made = keep / f"{name}-{what.replace(' ', '-')}.wav"
    write_wav(truth, AudioClip(job.pair_id, job.reference, job.sample_rate_hz))
    write_wav(made, AudioClip(job.pair_id, one.samples, one.sample_rate_hz))
    return {
        "id": job.pair_id,
        "text": one.piece.text,
        "folder": keep.name,
        "files": {"original": truth.name, what: made.name},
    }
