"""An exponential moving average of the weights, held where the weights are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class MovingAverage:
    """`average <- decay x average + (1 - decay) x weights` after each step.

    Each process averages what it holds: the whole model, or its shard under FSDP2. In float32, since a step of a
    thousandth is rounded away in 16 bits, in which DeepSpeed holds its weights.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self._weights = [p for p in model.parameters() if p.requires_grad]
        self._average = [_local(p).detach().to(torch.float32, copy=True) for p in self._weights]

    @torch.no_grad()
    def update(self) -> None:
        torch._foreach_lerp_(self._average, [_local(p).float() for p in self._weights], 1 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model with its averaged weights, for evaluating and saving."""
        live = [_local(p).detach().clone() for p in self._weights]
        self._set(self._average)
        try:
            yield
        finally:
            self._set(live)

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        for weight, value in zip(self._weights, values, strict=True):
            _local(weight).copy_(value)

    def save(self, file: Path) -> None:
        from safetensors.torch import save_file

        save_file({str(i): t.contiguous() for i, t in enumerate(self._average)}, str(file))

    def load(self, file: Path) -> None:
        from safetensors.torch import load_file

        found = load_file(str(file))
        for i, average in enumerate(self._average):
            average.copy_(found[str(i)])


def _local(parameter: Any) -> Tensor:
    """What this process holds of a parameter (FSDP2 shards are DTensors)."""
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter.data
