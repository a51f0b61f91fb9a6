"""How much later an output comes than its input, and both without that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SURE = 0.5
"""A correlation from which the lag of its maximum is believed."""
ENVELOPE_S = 0.001
COARSE_S = 0.005
"""Less than this is no delay where only envelopes are alike: they cannot tell."""


@dataclass(frozen=True)
class Delay:
    """Of an output behind its input; negative where it comes early. `by` says what was correlated: the waveforms, or
    their envelopes (1 ms) where phases are made anew; "" where neither is alike enough to tell."""

    delay_s: float
    correlation: float
    by: str


def measure_delay(reference: np.ndarray, made: np.ndarray, sample_rate_hz: int, max_delay_s: float) -> Delay:
    """Where the correlation of signals `[N]` and `[M]` is largest, up to `max_delay_s` either way."""
    lag, correlation = best_lag(reference, made, round(max_delay_s * sample_rate_hz))
    if correlation >= SURE:
        return Delay(lag / sample_rate_hz, correlation, "waveform")
    step = max(1, round(ENVELOPE_S * sample_rate_hz))
    first, second = (envelope(x, step) for x in (reference, made))
    lag, rough = best_lag(first, second, round(max_delay_s * sample_rate_hz / step))
    if rough >= SURE:
        delay_s = lag * step / sample_rate_hz
        return Delay(delay_s if abs(delay_s) >= COARSE_S else 0.0, rough, "envelope")
    return Delay(0.0, max(correlation, rough), "")


def best_lag(reference: np.ndarray, made: np.ndarray, most: int) -> tuple[int, float]:
    """The lag within `most` at which the correlation is largest, whatever its sign, and that correlation over the
    norms of both; (0, 0) for a silent one. Of equal ones, the smallest lag."""
    first, second = reference.astype(np.float64), made.astype(np.float64)
    norms = float(np.sqrt((first @ first) * (second @ second)))
    if not norms:
        return 0, 0.0
    size = 1 << (len(first) + len(second) + most).bit_length()
    products = np.fft.irfft(np.fft.rfft(first, size).conj() * np.fft.rfft(second, size), size)
    lags = np.array(sorted(range(-most, most + 1), key=abs))
    found = np.abs(products[lags]) / norms
    best = int(found.argmax())
    return int(lags[best]), min(1.0, float(found[best]))


def envelope(signal: np.ndarray, step: int) -> np.ndarray:
    """Loudness in steps, less its mean: `[N // step - 19]`. Smoothed over 20 steps, so that pitch does not show; whole
    ones only, since the fall at the ends of two signals is always alike. None of it in less than 0.3 s."""
    power = (signal[: len(signal) // step * step].astype(np.float64).reshape(-1, step) ** 2).mean(axis=1)
    if len(power) < 300:
        return np.zeros(0)
    window = np.hanning(22)[1:-1]
    smooth = np.sqrt(np.maximum(0, np.convolve(power, window / window.sum(), mode="valid")))
    return smooth - smooth.mean()


def align(reference: np.ndarray, made: np.ndarray, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """The part that both have, once `made` is put `lag` samples earlier."""
    reference, made = reference[max(0, -lag) :], made[max(0, lag) :]
    length = min(len(reference), len(made))
    return reference[:length], made[:length]


def common_delay(delays: Sequence[Delay]) -> Delay:
    """The median of those that are sure, preferring waveforms; 0 where none is."""
    for by in ("waveform", "envelope"):
        found = [d for d in delays if d.by == by]
        if len(found) * 2 >= max(1, len(delays)):
            middle = float(np.median([d.delay_s for d in found]))
            return Delay(middle, float(np.median([d.correlation for d in found])), by)
    sure = sorted((d for d in delays if d.by), key=lambda d: d.delay_s)
    return sure[len(sure) // 2] if sure else Delay(0.0, 0.0, "")
