"""Signal against error, in decibels: as it is (SNR), but for the loudness (SI-SNR), but for a short filter (SDR)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from eval.metrics.base import METRICS
from eval.metrics.signals import LIMIT_DB, SignalMetric, SignalPair, UndefinedError, need_sound

FILTER = 512


class _Ratio(SignalMetric):
    unit = "dB"
    higher_is_better = True

    def measure(self, pair: SignalPair) -> tuple[float, float]:
        need_sound(pair)
        return self.ratio(pair.reference.astype(np.float64), pair.made.astype(np.float64)), 1.0

    def ratio(self, reference: np.ndarray, made: np.ndarray) -> float:
        raise NotImplementedError


@METRICS.register("snr")
class SNR(_Ratio):
    name = "snr"
    about = "Energy of the signal over that of the difference. A codec that renders phases anew gets little."

    def convention(self, domain: str, sample_rate_hz: int) -> str:
        return f"{sample_rate_hz} Hz, within {LIMIT_DB:g} dB"

    def ratio(self, reference: np.ndarray, made: np.ndarray) -> float:
        return decibels(energy(reference), energy(made - reference))


@METRICS.register("si_snr")
class SISNR(_Ratio):
    name = "si_snr"
    about = "SNR whatever the loudness of the output: both signals less their means, the signal scaled to fit best."

    def convention(self, domain: str, sample_rate_hz: int) -> str:
        return f"{sample_rate_hz} Hz, means removed (arXiv 1809.07454), within {LIMIT_DB:g} dB"

    def ratio(self, reference: np.ndarray, made: np.ndarray) -> float:
        reference, made = reference - reference.mean(), made - made.mean()
        if not energy(reference):
            raise UndefinedError("the ground truth is constant")
        fitted = reference * (made @ reference / energy(reference))
        return decibels(energy(fitted), energy(made - fitted))


@METRICS.register("sdr")
class SDR(_Ratio):
    name = "sdr"
    about = "SNR but for a filter of 512 taps: what a fixed equalizer or a small delay would mend does not count."

    def convention(self, domain: str, sample_rate_hz: int) -> str:
        return f"{sample_rate_hz} Hz, BSS Eval v3 (mir_eval), {FILTER} taps, within {LIMIT_DB:g} dB"

    def measure(self, pair: SignalPair) -> tuple[float, float]:
        return _sdr(pair), 1.0

    def ratio(self, reference: np.ndarray, made: np.ndarray) -> float:
        fitted = best_filtered(reference, made, FILTER)
        return decibels(energy(fitted), energy(np.pad(made, (0, FILTER - 1)) - fitted))


@METRICS.register("ci_sdr")
class ConvolutionInvariantSDR(SDR):
    name = "ci_sdr"
    about = "SDR as arXiv 2011.15003 defines it, for training. Of one source it is `sdr`: both are listed by tradition."

    def convention(self, domain: str, sample_rate_hz: int) -> str:
        return f"{sample_rate_hz} Hz, {FILTER} taps, one source, within {LIMIT_DB:g} dB"


@lru_cache(maxsize=2)
def _sdr(pair: SignalPair) -> float:
    """Once for both names of it."""
    return _Ratio.measure(SDR(), pair)[0]


def energy(x: np.ndarray) -> float:
    return float(x @ x)


def decibels(signal: float, noise: float) -> float:
    """Within `LIMIT_DB` of 0; nothing of the signal is the worst, whatever the noise."""
    if signal <= 0:
        return -LIMIT_DB
    if noise <= 0:
        return LIMIT_DB
    return float(np.clip(10 * np.log10(signal / noise), -LIMIT_DB, LIMIT_DB))


def best_filtered(reference: np.ndarray, made: np.ndarray, taps: int) -> np.ndarray:
    """`reference [N]` through the causal filter of `taps` that brings it closest to `made [N]` -> `[N + taps - 1]`.

    Normal equations in float64, whose matrix of autocorrelations is Toeplitz; least squares where it is singular, as
    for a band-limited signal at a higher rate.
    """
    length = len(reference) + taps - 1
    size = 1 << (length - 1).bit_length()
    spectrum = np.fft.rfft(reference, size)
    own = np.fft.irfft(np.abs(spectrum) ** 2, size)[:taps]
    cross = np.fft.irfft(spectrum.conj() * np.fft.rfft(made, size), size)[:taps]
    matrix = own[np.abs(np.subtract.outer(np.arange(taps), np.arange(taps)))]
    try:
        filter = np.linalg.solve(matrix, cross)
    except np.linalg.LinAlgError:
        filter = np.linalg.lstsq(matrix, cross, rcond=None)[0]
    return np.fft.irfft(spectrum * np.fft.rfft(filter, size), size)[:length]
