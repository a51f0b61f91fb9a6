"""Random numbers that are looked up, not drawn one after the other: each is a hash of a seed, a step and a place.

So a clip's draws are the same alone and in any batch, on any device, with any cache, whatever else is drawn. The hash
is `lowbias32` (C. Wellons, Hash Function Prospector), applied to one word after the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
# Multipliers below 2 ** 31 in size, congruent to those of lowbias32: products of 32 bits then fit in 64 signed ones.
_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - 2**32
_SALTS = (0x9E3779B9, 0x85EBCA6B)


def hash32(words: Any) -> Any:
    """int64 words of 32 bits, numpy or torch -> as many others: a permutation of all of them."""
    words = words ^ (words >> 16)
    words = (words * _FIRST) & _MASK
    words = words ^ (words >> 15)
    words = (words * _SECOND) & _MASK
    return words ^ (words >> 16)


def step_keys(seed: int, num_steps: int) -> np.ndarray:
    """int64 `[S, 2]`: two words of 32 bits for each step of a document whose seed is any whole number."""
    low, high = np.int64(seed & _MASK), np.int64((seed >> 32) & _MASK)
    steps = np.arange(num_steps, dtype=np.int64)
    return np.stack([hash32(hash32(hash32(low ^ salt) ^ high) ^ steps) for salt in _SALTS], axis=1)


def gumbel(keys: Tensor, places: Tensor) -> Tensor:
    """Keys `[B, 2]` of a step and places `[V]` in the vocabulary -> float32 `[B, V]` of the standard Gumbel
    distribution: the place where logits plus this are largest is a draw from their softmax."""
    words = hash32(hash32(places ^ keys[:, :1]) ^ keys[:, 1:])
    uniform = ((words.float() + 0.5) * 2.0**-32).clamp(max=1 - 2.0**-24)
    return -torch.log(-torch.log1p(-uniform))
