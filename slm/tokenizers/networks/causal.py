"""Causal networks of EnCodec's make (SEANet) run chunk by chunk, with what each layer must remember in between.

The layers are those of `transformers` (EnCodec, Mimi), which are run here one by one, since their own streaming of
Mimi keeps no state in transposed convolutions and that of EnCodec does not exist. In exact arithmetic the chunks
together equal one pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional


class CausalRun:
    """One stream through networks, one behind the other: `run.through(networks, x)` maps the next chunk `[1, C, t]`.

    A chunk must hold whole strides at every layer; only one that is `last` may not. The first chunk must be long
    enough to be reflected at its start (`frames_to_start`). Memory: what the convolutions overlap by, the state of
    LSTMs, and the window of attention.
    """

    def __init__(self) -> None:
        self._state: dict[nn.Module, Any] = {}
        self.last = False

    def through(self, networks: Iterable[nn.Module], x: torch.Tensor) -> torch.Tensor:
        """The next chunk of what the last network gives."""
        for network in networks:
            x = self._step(network, x)
        return x

    def _step(self, module: Any, x: torch.Tensor) -> torch.Tensor:
        if isinstance(module, (nn.ELU, nn.Identity)):
            return module(x)
        if is_conv(module):
            return self._conv(module, x)
        if isinstance(getattr(module, "conv", None), nn.ConvTranspose1d):
            return self._transposed_conv(module, x)
        if isinstance(getattr(module, "lstm", None), nn.LSTM):
            return self._lstm(module, x)
        if hasattr(module, "rotary_emb"):
            return self._transformer(module, x)
        if hasattr(module, "shortcut"):
            made = x
            for layer in module.block:
                made = self._step(layer, made)
            return self._step(module.shortcut, x) + made
        for layer in module.layers:
            x = self._step(layer, x)
        return x

    def _conv(self, layer: Any, x: torch.Tensor) -> torch.Tensor:
        overlap, extra = int(layer.padding_total), int(layer._get_extra_padding_for_conv1d(x)) if self.last else 0
        if layer in self._state:
            x = torch.cat([self._state[layer], x], dim=-1)
        else:
            x = functional.pad(x, (overlap, 0), layer.pad_mode)
        self._state[layer] = x[..., x.shape[-1] - overlap :].clone()
        return layer.conv(functional.pad(x, (0, extra), layer.pad_mode) if extra else x)

    def _transposed_conv(self, layer: Any, x: torch.Tensor) -> torch.Tensor:
        return self._overlapped(layer, layer.conv(x), x.shape[-1] * layer.conv.stride[0], layer.conv.bias)

    def _overlapped(self, layer: nn.Module, made: torch.Tensor, ready: int, bias: torch.Tensor | None) -> torch.Tensor:
        """Of what a transposed convolution made the steps that are ready: what overlaps the next chunk is added to it.
        The bias, which every chunk adds, is kept out of that."""
        if layer in self._state:
            before = self._state[layer]
            made[..., : before.shape[-1]] += before
        rest = made[..., ready:]
        self._state[layer] = rest - bias[:, None] if bias is not None else rest.clone()
        return made[..., :ready]

    def _lstm(self, layer: Any, x: torch.Tensor) -> torch.Tensor:
        steps = x.permute(2, 0, 1)
        made, self._state[layer] = layer.lstm(steps, self._state.get(layer))
        return (made + steps).permute(1, 2, 0)

    def _transformer(self, module: Any, x: torch.Tensor) -> torch.Tensor:
        from transformers import DynamicCache

        cache = self._state.setdefault(module, DynamicCache(config=module.config))
        made = module(x.transpose(1, 2), past_key_values=cache, use_cache=True)
        return made.last_hidden_state.transpose(1, 2)


def is_conv(module: Any) -> bool:
    return isinstance(getattr(module, "conv", None), nn.Conv1d) and hasattr(module, "padding_total")


def frames_to_start(network: nn.Module, frames_per_step: float) -> int:
    """How many frames of codes the first chunk must hold so that every layer can reflect it at its start.

    `frames_per_step`: how much one step of the network's input is of a frame. 1 where nothing is reflected.
    """
    most, layers = 1.0, cast(Iterable[Any], network.modules())
    for layer in layers:
        if isinstance(layer, nn.ConvTranspose1d):
            frames_per_step /= layer.stride[0]
        elif is_conv(layer):
            if layer.pad_mode == "reflect":
                most = max(most, (int(layer.padding_total) + 1) * frames_per_step)
            frames_per_step *= int(layer.stride)
    return ceil(most)
