"""Snake activations, x + sin(a x)^2 / b with an a and a b for each channel (arXiv 2006.08195), of codecs.

What PyTorch does in five passes over memory is most of the work of a light codec on a GPU. Of clips that are packed,
one kernel does it in one; a clip alone meets PyTorch's own arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from slm.tokenizers.networks.packed import current


def snake(x: torch.Tensor, frequency: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """x + scale * sin(x * frequency)^2, of `[B, C, T]` and, of as many channels, `[C, 1]` or `[1, C, 1]`."""
    fused = _fused() if x.is_cuda and current() is not None else None
    if fused is not None and x.is_contiguous():
        return fused(x, frequency, scale)
    return x + scale * torch.sin(x * frequency).pow(2)


@cache
def _fused() -> Callable[..., torch.Tensor] | None:
    """None without Triton, which PyTorch brings along for most GPUs."""
    try:
        from slm.tokenizers.networks.snake_kernel import fused_snake
    except ImportError:
        return None
    return fused_snake


class Snake(nn.Module):
    """With one alpha as frequency and inverse scale, as `Snake1d` of DAC and SNAC."""

    def __init__(self, alpha: torch.Tensor):
        super().__init__()
        self.alpha = nn.Parameter(alpha, requires_grad=alpha.requires_grad)

    def forward(self, signals: torch.Tensor) -> torch.Tensor:
        return snake(signals, self.alpha, (self.alpha + 1e-9).reciprocal())


def with_own_snakes(model: Any) -> Any:
    """Each `Snake1d` of a package becomes a `Snake` with its alpha. SNAC's are TorchScript, which fuses them on a GPU
    after their first calls and then rounds otherwise: codes would depend on what was coded before."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__ == "Snake1d":
                setattr(parent, name, Snake(child.alpha))
    return model
