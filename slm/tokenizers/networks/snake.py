"""Snake activations of codecs, x + scale * sin(frequency * x)^2 with both learned for each channel (arXiv 2006.08195).

Made of PyTorch's operations, one is five passes over memory, on a GPU most of the work of a light codec. Of clips that
are packed there it is one; a clip alone meets PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from slm.tokenizers.networks.packed import current


def snake(x: torch.Tensor, frequency: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Of `[B, C, T]`, with `[C, 1]` or `[1, C, 1]` of frequency and scale."""
    fused = fused_snake(x.device) if x.is_cuda and current() is not None and x.is_contiguous() else None
    return snake_by_passes(x, frequency, scale) if fused is None else fused(x, frequency, scale)


def snake_by_passes(x: torch.Tensor, frequency: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return x + scale * torch.sin(x * frequency).pow(2)


@cache
def fused_snake(device: torch.device) -> Callable[..., torch.Tensor] | None:
    """One kernel for all of it. None where Triton, which PyTorch brings along for most GPUs, is not there, or lacks
    what it needs to run (a C compiler), or does not give what PyTorch gives."""
    try:
        from slm.tokenizers.networks.snake_kernel import fused_snake as fused

        x = torch.linspace(-9, 9, 36, device=device).view(1, 2, 18)
        frequency, scale = (torch.tensor([[a], [b]], device=device) for a, b in ((0.5, 3.0), (2.0, 0.3)))
        right = torch.allclose(fused(x, frequency, scale), snake_by_passes(x, frequency, scale), atol=1e-5)
    except Exception:  # it is only faster: whatever fails in a compiler is no reason to stop
        return None
    return fused if right else None


class Snake(nn.Module):
    """With one alpha, the frequency and the inverse of the scale, as `Snake1d` of DAC and SNAC."""

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
