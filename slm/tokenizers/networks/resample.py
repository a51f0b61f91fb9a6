"""Resampling on the device, as torchaudio does it."""

from __future__ import annotations

from math import ceil, gcd, pi
from typing import Any

import torch
from torch.nn import functional


def resample(signals: torch.Tensor, from_hz: int, to_hz: int, zeros: int = 6, rolloff: float = 0.99) -> torch.Tensor:
    """Signals `[..., N]` -> `[..., ceil(N x to / from)]`: a sinc under a Hann window, torchaudio's default.

    `zeros` crossings of the sinc lie to either side of each output sample; `rolloff` is the cutoff as a fraction of
    the lower Nyquist frequency. Every output sample within a period has its own filter; they slide by whole periods.
    """
    if from_hz == to_hz:
        return signals
    step, phases = from_hz // gcd(from_hz, to_hz), to_hz // gcd(from_hz, to_hz)
    cutoff = rolloff * min(step, phases)
    reach = ceil(zeros * step / cutoff)
    like: dict[str, Any] = {"dtype": signals.dtype, "device": signals.device}
    taps = torch.arange(-reach, reach + step, **like) / step
    t = (torch.arange(0, -phases, -1, **like)[:, None] / phases + taps) * cutoff
    t = t.clamp(-zeros, zeros)
    window, angle = torch.cos(t * pi / zeros / 2) ** 2, t * pi
    filters = torch.where(angle == 0, 1.0, angle.sin() / angle) * (window * (cutoff / step))
    rows = functional.pad(signals.reshape(-1, 1, signals.shape[-1]), (reach, reach + step))
    made = functional.conv1d(rows, filters[:, None], stride=step).transpose(1, 2)
    length = -(-signals.shape[-1] * phases // step)
    return made.reshape(*signals.shape[:-1], -1)[..., :length]
