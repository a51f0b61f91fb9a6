"""Pairs of signals -> what every metric says of each, in processes beside the tokenizer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from eval.judges.pool import deaths_are_told, processes
from eval.metrics.base import METRICS, metrics_of
from eval.metrics.signals import SignalMetric, SignalPair, UndefinedError
from eval.reconstruction.alignment import Delay, align, measure_delay
from slm.devices import available_cores
from slm.errors import UsageError, did_you_mean

LEAST = 0.5
"""Of the ground truth must be left once an output is aligned and both are cut to the shorter: of a scrap nothing can be
said."""
OTHER_LENGTH = 0.1
"""From which difference in length on, as a share of the ground truth, an output is counted as one of another length."""


@dataclass(frozen=True)
class Job:
    """A pair as it comes. `lag` is by how many samples the output is put earlier; None: by its own delay."""

    pair_id: str
    group: str
    domain: str
    reference: np.ndarray
    made: np.ndarray
    sample_rate_hz: int
    lag: int | None
    max_delay_s: float


@dataclass(frozen=True)
class Judged:
    """What was found of a pair. `values` are what it adds to both sums of each metric; `undefined` says why a metric
    has nothing to say. `delay` is its own, `lag` what was removed, in samples; `length_s` is how much longer the output
    is than the input, which lasts `reference_s`."""

    pair_id: str
    group: str
    domain: str
    delay: Delay
    lag: int
    sample_rate_hz: int
    length_s: float
    values: Mapping[str, tuple[float, float]]
    undefined: Mapping[str, str]
    reference_s: float = 0.0
    took_s: float = field(default=0.0, compare=False)
    """Seconds of a processor that its metrics took."""

    @property
    def has_other_length(self) -> bool:
        return abs(self.length_s) > OTHER_LENGTH * self.reference_s > 0


def chosen_metrics(names: str) -> list[SignalMetric]:
    """Those asked for, or all, in the order of their names; a plug-in's too. UsageError for an unknown one."""
    every: list[SignalMetric] = [m for m in metrics_of(SignalPair) if isinstance(m, SignalMetric)]
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = [m.name for m in every]
    for name in wanted:
        if name not in known:
            raise UsageError(f"--reconstruction.metrics: no metric {name!r}{did_you_mean(name, known)}")
    return [m for m in every if not wanted or m.name in wanted]


def judge(metrics: Sequence[str], job: Job) -> Judged:
    """Align, then ask every metric of that domain."""
    started = time.process_time()
    delay = measure_delay(job.reference, job.made, job.sample_rate_hz, job.max_delay_s)
    lag = round(delay.delay_s * job.sample_rate_hz) if job.lag is None else job.lag
    reference, made = align(job.reference, job.made, lag)
    pair = SignalPair(job.group, reference, made, job.sample_rate_hz, job.domain)
    values: dict[str, tuple[float, float]] = {}
    undefined: dict[str, str] = {}
    for name in metrics:
        metric = METRICS.get(name)()
        assert isinstance(metric, SignalMetric)
        if job.domain not in metric.domains:
            continue
        try:
            _check_rest(len(reference), len(job.reference))
            numerator, denominator = metric.measure(pair)
            if not (np.isfinite(numerator) and np.isfinite(denominator)):
                raise UndefinedError("no finite number")
            values[name] = (float(numerator), float(denominator))
        except UndefinedError as error:
            undefined[name] = str(error)
    length_s = (len(job.made) - len(job.reference)) / job.sample_rate_hz
    took_s = time.process_time() - started
    return Judged(
        job.pair_id, job.group, job.domain, delay, lag, job.sample_rate_hz, length_s, values, undefined,
        len(job.reference) / job.sample_rate_hz, took_s,
    )  # fmt: skip


def _check_rest(left: int, whole: int) -> None:
    """UndefinedError for a scrap, be it alike to the last bit."""
    if not left or left < LEAST * whole:
        raise UndefinedError(f"less than {LEAST:.0%} of the ground truth is left once both are aligned and cut")


@contextmanager
def pool(workers: int) -> Iterator[Executor | None]:
    """Processes that judge; None for one worker: it is done in passing."""
    number = workers or available_cores()
    if number <= 1:
        yield None
        return
    with deaths_are_told(), processes(number) as made:
        yield made


def judge_all(jobs: Sequence[Job], metrics: Sequence[SignalMetric], workers: Executor | None) -> Iterator[Judged]:
    """In their order. With workers they are begun at once, and given as they are asked for."""
    work = partial(judge, tuple(m.name for m in metrics))
    return map(work, jobs) if workers is None else workers.map(work, jobs)


def with_lag(job: Job, delay: Delay) -> Job:
    return replace(job, lag=round(delay.delay_s * job.sample_rate_hz))
