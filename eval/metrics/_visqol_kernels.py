"""The two loops in which visqol-python spends its time, laid out so that a processor computes several numbers at once.

Each number is the same sum of the same products in the same order as in `visqol.numba_accel`, so that the results are
equal to the last bit: what a compiler may not do by itself is done here by hand. Bands stand side by side in one array
at fixed distances; what depends on the output alone is computed once and not again for each piece of the ground truth.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

LANES = 32
"""The most bands there are (speech has 21): a constant, so that the compiler knows that rows do not overlap."""
_Z0, _Z1, _B0, _B1, _B2 = (4 * LANES * i for i in range(5))
_A1, _A2, _X, _E = (20 * LANES + LANES * i for i in range(4))
_SIZE = 24 * LANES


@njit(cache=True)
def gammatone_spectrogram(sig: Any, hann_window: Any, b_stages: Any, a_denom: Any, window_size: int, hop_size: int,
                          num_bands: int, num_cols: int) -> Any:  # fmt: skip
    """Root mean squares `[bands, frames]` of a signal behind filters of four stages, which begin anew with each frame.
    At most `LANES` bands."""
    out = np.zeros((num_bands, num_cols), dtype=np.float64)
    for i in range(num_cols):
        w = np.zeros(_SIZE, dtype=np.float64)
        for band in range(num_bands):
            for stage in range(4):
                w[_B0 + stage * LANES + band] = b_stages[stage, band, 0]
                w[_B1 + stage * LANES + band] = b_stages[stage, band, 1]
                w[_B2 + stage * LANES + band] = b_stages[stage, band, 2]
            w[_A1 + band], w[_A2 + band] = a_denom[band, 1], a_denom[band, 2]
        for k in range(window_size):
            value = sig[i * hop_size + k] * hann_window[k]
            for band in range(LANES):
                x = value
                a1, a2 = w[_A1 + band], w[_A2 + band]
                for stage in range(4):
                    at = stage * LANES + band
                    y = w[_B0 + at] * x + w[_Z0 + at]
                    w[_Z0 + at] = w[_B1 + at] * x - a1 * y + w[_Z1 + at]
                    w[_Z1 + at] = w[_B2 + at] * x - a2 * y
                    x = y
                w[_E + band] += x * x
        for band in range(num_bands):
            out[band, i] = np.sqrt(w[_E + band] / window_size)
    return out


@njit(cache=True)
def _smoothed(values: Any, gw: Any) -> Any:
    """`[3, 2, rows, frames]`: mean and mean square by a kernel of 3 x 3, whose rows end with the first and last one;
    of a frame in the middle of a piece, at its start (there is nothing before it) and at its end."""
    rows, frames = values.shape
    made = np.zeros((3, 2, rows, frames), dtype=np.float64)
    for place in range(3):
        for row in range(rows):
            for frame in range(1 - (place == 1), frames - 1 + (place == 2)):
                mean, square = 0.0, 0.0
                for i in range(3):
                    source = min(max(row + i - 1, 0), rows - 1)
                    for j in range(3):
                        beside = frame + j - 1
                        if (place == 1 and j == 0) or (place == 2 and j == 2):
                            beside = frame
                        value = values[source, beside]
                        mean += gw[i, j] * value
                        square += gw[i, j] * (value * value)
                made[place, 0, row, frame], made[place, 1, row, frame] = mean, square
    return made


@njit(cache=True)
def _stats_at(smoothed: Any, start: int, made: Any) -> None:
    """Mean and mean square `[2, rows, cols]` of the piece of `smoothed` that begins at a frame, written to `made`."""
    last = made.shape[2] - 1
    for kind in range(2):
        for row in range(made.shape[1]):
            for col in range(1, last):
                made[kind, row, col] = smoothed[0, kind, row, start + col]
            made[kind, row, 0] = smoothed[1, kind, row, start]
            made[kind, row, last] = smoothed[2, kind, row, start + last]


@njit(cache=True)
def _similarity(ref: Any, ref_stats: Any, deg: Any, start: int, deg_stats: Any, gw: Any, c1: float, c3: float) -> float:
    """NSIM of a piece `[rows, cols]` of the ground truth and the piece of `deg` that begins at a frame."""
    rows, cols = ref.shape
    product = np.empty((rows + 2, cols + 2), dtype=np.float64)
    for row in range(rows):
        for col in range(cols):
            product[row + 1, col + 1] = ref[row, col] * deg[row, start + col]
        product[row + 1, 0], product[row + 1, cols + 1] = product[row + 1, 1], product[row + 1, cols]
    for col in range(cols + 2):
        product[0, col], product[rows + 1, col] = product[1, col], product[rows, col]
    cross, similar = np.empty(cols, dtype=np.float64), np.empty(cols, dtype=np.float64)
    g00, g01, g02, g10, g11, g12 = gw[0, 0], gw[0, 1], gw[0, 2], gw[1, 0], gw[1, 1], gw[1, 2]
    g20, g21, g22 = gw[2, 0], gw[2, 1], gw[2, 2]
    total = 0.0
    for row in range(rows):
        a, b, c = product[row], product[row + 1], product[row + 2]
        for col in range(cols):
            cross[col] = (
                0.0 + g00 * a[col] + g01 * a[col + 1] + g02 * a[col + 2]
                + g10 * b[col] + g11 * b[col + 1] + g12 * b[col + 2]
                + g20 * c[col] + g21 * c[col + 1] + g22 * c[col + 2]
            )  # fmt: skip
        means, variances = ref_stats[0, row], ref_stats[1, row]
        deg_means, deg_squares = deg_stats[0, row], deg_stats[1, row]
        for col in range(cols):
            mean_ref, mean_deg = means[col], deg_means[col]
            deg_mean_sq, mean_cross = mean_deg * mean_deg, mean_ref * mean_deg
            intensity = (2.0 * mean_cross + c1) / (mean_ref * mean_ref + deg_mean_sq + c1)
            spread = variances[col] * (deg_squares[col] - deg_mean_sq)
            denominator = c3 if spread < 0.0 else np.sqrt(spread) + c3
            similar[col] = intensity * ((cross[col] - mean_cross + c3) / denominator)
        band = 0.0
        for col in range(cols):
            band += similar[col]
        total += band / cols
    return total / rows


@njit(cache=True)
def _similarities(ref: Any, deg: Any, smoothed: Any, low: int, high: int, gw: Any, c1: float, c3: float) -> Any:
    """NSIM of a piece of the ground truth with those of `deg` that begin at the frames from `low` to `high`."""
    rows, cols = ref.shape
    own = np.empty((2, rows, cols), dtype=np.float64)
    _stats_at(_smoothed(ref, gw), 0, own)
    for row in range(rows):
        for col in range(cols):
            own[1, row, col] -= own[0, row, col] * own[0, row, col]
    made = np.empty(high + 1 - low, dtype=np.float64)
    for at in range(high + 1 - low):
        stats = np.empty((2, rows, cols), dtype=np.float64)
        _stats_at(smoothed, low + at, stats)
        made[at] = _similarity(ref, own, deg, low + at, stats, gw, c1, c3)
    return made


@njit(cache=True)
def dp_forward_pass(ref_patches: Any, deg_patches: Any, ref_patch_indices: Any, num_patches: int,
                    num_frames_in_deg: int, search_window: int, gw: Any, c1: float, c3: float) -> Any:  # fmt: skip
    """Where each piece of the ground truth `[patches, rows, cols]` may lie in the output, whose pieces
    `[frames, rows, cols]` begin at each frame and end with zeros: the best sum of similarities up to each frame, and
    the frame of the piece before, both `[patches, frames]`. At least two columns."""
    shape = (ref_patch_indices.shape[0], num_frames_in_deg)
    sums, before = np.zeros(shape, dtype=np.float64), np.full(shape, -1, dtype=np.int64)
    rows, cols = deg_patches.shape[1], deg_patches.shape[2]
    deg = np.zeros((rows, num_frames_in_deg + cols), dtype=np.float64)
    for frame in range(num_frames_in_deg):
        for row in range(rows):
            deg[row, frame] = deg_patches[frame, row, 0]
    smoothed = _smoothed(deg, gw)
    for patch in range(num_patches):
        low = max(0, ref_patch_indices[patch] - search_window)
        high = min(num_frames_in_deg - 1, ref_patch_indices[patch] + search_window)
        found = _similarities(ref_patches[patch], deg, smoothed, low, high, gw, c1, c3)
        best, best_at, first = 0.0, -1, low
        if patch:
            best, first = -1e308, max(0, ref_patch_indices[patch - 1] - search_window)
        for frame in range(first, high + 1):
            if not patch:
                sums[0, frame] = found[frame - low]
                continue
            if frame >= low:
                value, last = found[frame - low] + best, best_at
                if sums[patch - 1, frame] > value:
                    value, last = sums[patch - 1, frame], frame
                sums[patch, frame], before[patch, frame] = value, last
            if sums[patch - 1, frame] >= best:  # of equal ones the last
                best, best_at = sums[patch - 1, frame], frame
    return sums, before
