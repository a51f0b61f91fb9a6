"""STOI and its extension as pystoi has them, part for part, with what both share computed once and without its loops.

Numbers are the same but for their last bits. pystoi adds noise of 1e-16 to the extension, so that nothing is divided by
zero, from a generator that anybody may have used before; here it is the same noise each time.
"""

from __future__ import annotations

import numpy as np
from pystoi.stoi import BETA, DYN_RANGE, FS, N_FRAME, NFFT, OBM, N
from pystoi.utils import EPS, resample_oct

HOP = N_FRAME // 2
_WINDOW = np.hanning(N_FRAME + 2)[1:-1]


def segments(reference: np.ndarray, made: np.ndarray, sample_rate_hz: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Envelopes of `OBM`'s bands in every run of `N` frames, `[runs, bands, N]`, of signals `[N]` less the frames in
    which the first is silent. None where too few are left for one run."""
    if sample_rate_hz != FS:
        reference, made = (resample_oct(x, FS, sample_rate_hz) for x in (reference, made))
    if len(reference) <= N_FRAME:
        return None
    frames = [_frames(x) * _WINDOW for x in (reference, made)]
    levels = 20 * np.log10(np.linalg.norm(frames[0], axis=1) + EPS)
    loud = levels > levels.max() - DYN_RANGE
    bands = [_bands(_joined(x[loud])) for x in frames]
    if bands[0].shape[1] < N:
        return None
    first, second = (np.lib.stride_tricks.sliding_window_view(x, N, axis=1).transpose(1, 0, 2) for x in bands)
    return first, second


def _frames(signal: np.ndarray) -> np.ndarray:
    """`[frames, N_FRAME]`, without one that ends where the signal does."""
    return np.lib.stride_tricks.sliding_window_view(signal, N_FRAME)[:-1:HOP]


def _joined(frames: np.ndarray) -> np.ndarray:
    """Added to each other, each `HOP` later than the one before."""
    made = np.zeros((len(frames) + 1) * HOP)
    made[:-HOP] = frames[:, :HOP].ravel()
    made[HOP:] += frames[:, HOP:].ravel()
    return made


def _bands(signal: np.ndarray) -> np.ndarray:
    """`[bands, frames]`."""
    if len(signal) <= N_FRAME:
        return np.zeros((len(OBM), 0))
    power = np.square(np.abs(np.fft.rfft(_frames(signal) * _WINDOW, NFFT)))
    return np.sqrt(OBM @ power.T)


def stoi_of(first: np.ndarray, second: np.ndarray) -> float:
    """Mean correlation of envelopes, each band and run by itself, the second fitted in loudness and clipped."""
    loudness = np.linalg.norm(first, axis=2, keepdims=True) / (np.linalg.norm(second, axis=2, keepdims=True) + EPS)
    clipped = np.minimum(second * loudness, first * (1 + 10 ** (-BETA / 20)))
    made = []
    for x in (first, clipped):
        centred = x - x.mean(axis=2, keepdims=True)
        made.append(centred / (np.linalg.norm(centred, axis=2, keepdims=True) + EPS))
    return float(np.einsum("rbn,rbn->", *made) / (first.shape[0] * first.shape[1]))


def estoi_of(first: np.ndarray, second: np.ndarray) -> float:
    """Mean correlation of whole spectra, rows and then columns of each run normalized."""
    noise = np.random.default_rng(0)
    one, other = (_normalized(_normalized(x, 2, noise), 1, noise) for x in (first, second))
    return float(np.einsum("rbn,rbn->", one, other) / N / len(first))


def _normalized(x: np.ndarray, axis: int, noise: np.random.Generator) -> np.ndarray:
    made = x + EPS * noise.standard_normal(x.shape, np.float32)
    made -= made.mean(axis=axis, keepdims=True)
    made /= np.linalg.norm(made, axis=axis, keepdims=True)
    return made
