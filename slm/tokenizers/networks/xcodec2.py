"""What lets clips share a tensor in the acoustic encoder of X-Codec 2, whose activations are alias-free."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from slm.tokenizers.networks.bigcodec import ALIAS_FREE_REACH, at_twice_the_rate
from slm.tokenizers.networks.packed import current
from slm.tokenizers.networks.snake import snake


class AliasFree(nn.Module):
    """An alias-free activation of transformers; of clips that are packed the same by padding that is followed."""

    reach = ALIAS_FREE_REACH

    def __init__(self, published: Any):
        super().__init__()
        self.published = published

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer = self.published
        if current() is None:
            made: torch.Tensor = layer(x)
            return made
        filters = (half.filter.to(x.dtype) for half in (layer.upsample, layer.downsample))
        frequency, magnitude = layer.act.alpha.exp()[:, None], layer.act.beta.exp()[:, None]
        scale = 1 / (magnitude + layer.act.no_div_by_zero)
        return at_twice_the_rate(x, lambda x: snake(x, frequency, scale), *filters)


def follow_clips(encoder: nn.Module) -> None:
    """From now on `encoder` takes clips that are packed too."""
    for parent in list(encoder.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith("AntiAliasedActivation1d"):
                setattr(parent, name, AliasFree(child))
