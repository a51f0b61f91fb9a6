"""Distances of spectra: multi-resolution mel and STFT, and mel-cepstral distortion."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np

from eval.metrics.base import METRICS
from eval.metrics.signals import SignalMetric, SignalPair, need_sound

MEL = ((32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320))  # window, bands
STFT = ((512, 50, 240), (1024, 120, 600), (2048, 240, 1200))  # size, hop, window
FLOOR = 1e-5  # of magnitudes: -100 dB of full scale
CEPSTRA = 24
BANDS = 80
FRAME_S, HOP_S = 0.025, 0.005


@METRICS.register("mel_distance")
class MelDistance(SignalMetric):
    name = "mel_distance"
    unit = "log10"
    higher_is_better = False
    about = "Mean absolute difference of log10 mel spectra, summed over seven resolutions, as DAC's training has it."

    def convention(self, domain: str, sample_rate_hz: int) -> str:
        sizes = ", ".join(f"{window}/{bands}" for window, bands in MEL)
        return f"{sample_rate_hz} Hz, window/bands {sizes}, hop a quarter, Slaney mel, floor {FLOOR:g}"

    def measure(self, pair: SignalPair) -> tuple[float, float]:
        total = 0.0
        for window, bands in MEL:
            bank = mel_filters(window, bands, pair.sample_rate_hz)
            first, second = (
                np.log(np.maximum(magnitudes(x, window, window // 4, window) @ bank, FLOOR))
                for x in (pair.reference, pair.made)
            )
            total += float(np.abs(first - second).mean() / np.log(10))  # log is half as dear as log10
        return total, 1.0


@METRICS.register("stft_distance")
class StftDistance(SignalMetric):
    name = "stft_distance"
    unit = "nats"
    higher_is_better = False
    about = "Spectral convergence and difference of log magnitudes, over three resolutions (arXiv 1910.11480)."

    def convention(self, domain: str, sample_rate_hz: int) -> str:
        sizes = ", ".join("/".join(map(str, one)) for one in STFT)
        return f"{sample_rate_hz} Hz, size/hop/window {sizes}, mean over them, magnitudes of at least 1e-4"

    def measure(self, pair: SignalPair) -> tuple[float, float]:
        need_sound(pair)
        made = []
        for size, hop, window in STFT:
            first, second = (np.maximum(magnitudes(x, size, hop, window), 1e-4) for x in (pair.reference, pair.made))
            convergence = np.linalg.norm(first - second) / np.linalg.norm(first)
            made.append(convergence + np.abs(np.log(first) - np.log(second)).mean())
        return float(np.mean(made)), 1.0


@METRICS.register("mcd")
class MelCepstralDistortion(SignalMetric):
    name = "mcd"
    unit = "dB"
    higher_is_better = False
    about = "Mel-cepstral distortion (Kubichek 1993), frame by frame without warping: how far envelopes are apart."

    def convention(self, domain: str, sample_rate_hz: int) -> str:
        return (
            f"{sample_rate_hz} Hz, cepstra 1 to {CEPSTRA} of {BANDS} mel bands, {FRAME_S * 1000:g} ms every "
            f"{HOP_S * 1000:g} ms, floor {FLOOR:g}"
        )

    def measure(self, pair: SignalPair) -> tuple[float, float]:
        """The sum over frames, and how many they are."""
        first, second = (cepstra(x, pair.sample_rate_hz) for x in (pair.reference, pair.made))
        distances = 10 * np.sqrt(2) / np.log(10) * np.sqrt(((first - second) ** 2).sum(axis=1))
        return float(distances.sum()), float(len(distances))


def cepstra(signal: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """`[N]` -> `[frames, CEPSTRA]`: c with log magnitude = c0 + sum of c[m] cos(pi m (band + 1/2) / bands)."""
    window, hop = round(FRAME_S * sample_rate_hz), round(HOP_S * sample_rate_hz)
    size = 1 << (window - 1).bit_length()
    bands = np.log(np.maximum(magnitudes(signal, size, hop, window) @ mel_filters(size, BANDS, sample_rate_hz), FLOOR))
    orders = np.outer(np.arange(BANDS) + 0.5, np.arange(1, CEPSTRA + 1)) * np.pi / BANDS
    return bands @ (2 / BANDS * np.cos(orders))


def magnitudes(signal: np.ndarray, size: int, hop: int, window: int) -> np.ndarray:
    """STFT magnitudes `[frames, size // 2 + 1]` of `[N]`: periodic Hann in the middle of `size`, frames centred on
    multiples of `hop`, the signal mirrored at its ends (as `torch.stft`; one that is too short for it, zeros)."""
    mode: Literal["reflect", "constant"] = "reflect" if len(signal) > size // 2 else "constant"
    padded = np.pad(signal.astype(np.float64), size // 2, mode=mode)
    before = (size - window) // 2  # outside the window all is 0, and where 0 stands changes phases only
    inside = padded[before : len(padded) - (size - window - before)]
    frames = np.lib.stride_tricks.sliding_window_view(inside, window)[::hop]
    return np.abs(np.fft.rfft(frames * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)), size))


@lru_cache(maxsize=32)
def mel_filters(size: int, bands: int, sample_rate_hz: int) -> np.ndarray:
    """Triangles `[size // 2 + 1, bands]` of equal area on Slaney's mel scale, from 0 to half the rate (librosa's)."""
    top = _to_mel(sample_rate_hz / 2)
    edges = _to_hz(np.linspace(0, top, bands + 2))
    bins = np.fft.rfftfreq(size, 1 / sample_rate_hz)
    up = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(up, down)) * 2 / (edges[2:] - edges[:-2])


# Linear below 1 kHz (15 mel), 27 mel to 6.4 times as many hertz above.
def _to_mel(hz: float) -> float:
    return 3 * hz / 200 if hz < 1000 else 15 + 27 * np.log(hz / 1000) / np.log(6.4)


def _to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, 200 / 3 * mel, 1000 * np.exp(np.log(6.4) / 27 * (mel - 15)))
