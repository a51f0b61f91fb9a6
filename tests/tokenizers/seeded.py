"""Weights that any implementation can be given: values drawn by numpy from a seed and each tensor's name and shape."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np


def seeded_tensor(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Float64 values of a weight called `name`. Independent of the order of tensors and of torch's generators.

    Matrices and kernels are drawn with variance 1 / fan-in, so that signals neither die nor explode; vectors called
    weight (of norms), gains (`weight_g`, alpha, gamma, scale) lie around 1; all others (biases) are small.
    """
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = generator.standard_normal(shape)
    last = name.rsplit(".", 1)[-1]
    if last in ("weight_g", "original0", "alpha", "gamma", "scale") or (last == "weight" and len(shape) == 1):
        return 1 + 0.1 * values
    if len(shape) >= 2:
        return values / math.sqrt(max(1, math.prod(shape[1:])))
    return 0.1 * values


def seeded_state(state: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
    """A state dict of the same names, shapes and types with seeded values; tensors of integers stay as they are."""
    import torch

    return {
        name: torch.from_numpy(np.asarray(seeded_tensor(name, tuple(old.shape), seed))).to(old.dtype)
        if old.is_floating_point()
        else old
        for name, old in state.items()
    }


def fill_seeded(module: Any, seed: int = 0) -> Any:
    """The torch module itself, all its parameters and buffers seeded by their names."""
    module.load_state_dict(seeded_state(module.state_dict(), seed))
    return module
