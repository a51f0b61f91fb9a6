"""FocalCodec (arXiv 2502.04465): WavLM's lower layers, squeezed by focal modulation, each number's sign kept, and back.

Modules carry the names of the authors' code, but for WavLM, which is that of transformers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from slm.tokenizers.networks.clip_by_clip import run_clip_by_clip
from slm.tokenizers.networks.packed import current
from slm.tokenizers.networks.snake import Snake
from slm.tokenizers.networks.vocos import ConvNeXtBlock, ISTFTHead

_STEPS_AT_A_TIME = 3000
"""Of WavLM's convolutions, whose first layer holds 131 KB for each."""


class GlobalContext(nn.Module):
    """The mean over a clip, `[B, C, T]` -> as many equal frames."""

    def __init__(self) -> None:
        super().__init__()
        run_clip_by_clip(self, mask="bool", channels_first=True)

    def forward(self, frames: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """`attention_mask` `[B, T]` is true at frames of a clip; others are zeros."""
        if attention_mask is None:
            mean = frames.mean(dim=-1, keepdim=True)
        else:
            mean = frames.sum(dim=-1, keepdim=True) / attention_mask.sum(dim=-1)[:, None, None]
        return functional.gelu(mean).expand_as(frames)


class FocalModulation(nn.Module):
    """In place of attention: each frame is multiplied by what ever wider windows around it hold, gated."""

    def __init__(self, width: int, kernels: Sequence[int]):
        super().__init__()
        self.in_proj = nn.Linear(width, 2 * width + len(kernels) + 1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv1d(width, width, kernel, padding="same", groups=width), nn.GELU())
            for kernel in kernels
        )
        self.global_context = GlobalContext()
        self.context_proj, self.out_proj = nn.Conv1d(width, width, 1), nn.Linear(width, width)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        width = self.out_proj.in_features
        query, context, gates = self.in_proj(frames).mT.split([width, width, len(self.layers) + 1], dim=1)
        seen = torch.zeros_like(context)
        for layer, gate in zip(self.layers, gates.split(1, dim=1), strict=False):
            context = layer(context)
            seen += context * gate
        seen += self.global_context(context) * gates[:, -1:]
        modulated: torch.Tensor = self.out_proj((query * self.context_proj(seen)).mT)
        return modulated


class FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.out_proj(functional.gelu(self.in_proj(frames)))
        return made


class FocalBlock(nn.Module):
    """Frames `[B, T, C]`."""

    def __init__(self, width: int, kernels: Sequence[int]):
        super().__init__()
        self.modulation_norm, self.modulation = nn.LayerNorm(width), FocalModulation(width, kernels)
        self.feed_forward_norm, self.feed_forward = nn.LayerNorm(width), FeedForward(width)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        frames = frames + self.modulation(self.modulation_norm(frames))
        made: torch.Tensor = frames + self.feed_forward(self.feed_forward_norm(frames))
        return made


class DownScale(nn.Module):
    """`factor` frames become one, zeros filling the last."""

    def __init__(self, width_in: int, width: int, factor: int):
        super().__init__()
        self.downscale = nn.Conv1d(width_in, width, factor, factor)
        self.activation = Snake(torch.ones(width, 1))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        frames, factor = frames.mT, self.downscale.stride[0]
        if factor > 1 and current() is not None:
            # Of clips that are packed zeros are laid behind each; a kernel that begins with it needs as many.
            weight, more = self.downscale.weight, self.downscale.weight.new_zeros(1)
            longer = torch.cat([weight, more.expand(*weight.shape[:2], factor - 1)], dim=2)
            frames = functional.conv1d(
                functional.pad(frames, (0, factor - 1)), longer, self.downscale.bias, stride=factor
            )
        else:
            frames = self.downscale(functional.pad(frames, (0, -frames.shape[2] % factor)))
        made: torch.Tensor = self.activation(frames).mT
        return made


class UpScale(nn.Module):
    """The inverse: of one frame `factor`."""

    def __init__(self, width: int, width_out: int, factor: int):
        super().__init__()
        self.activation = Snake(torch.ones(width, 1))
        self.upscale = nn.ConvTranspose1d(width, width_out, factor, factor)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.upscale(self.activation(frames.mT)).mT
        return made


class Compressor(nn.Module):
    """Frames `[B, T, C]` -> latents `[B, T / factors, D]`."""

    def __init__(self, widths: Sequence[int], factors: Sequence[int], kernels: Sequence[int], latent_width: int):
        super().__init__()
        layers = (
            OrderedDict(downscale=DownScale(width_in, width, factor), focal_block=FocalBlock(width, kernels))
            for (width_in, width), factor in zip(pairwise(widths), factors, strict=True)
        )
        self.layers = nn.Sequential(*map(nn.Sequential, layers))
        self.out_proj = nn.Linear(widths[-1], latent_width)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.out_proj(self.layers(frames))
        return made


class Decompressor(nn.Module):
    """The inverse: `[B, T, D]` -> `[B, T x factors, C]`."""

    def __init__(self, latent_width: int, widths: Sequence[int], factors: Sequence[int], kernels: Sequence[int]):
        super().__init__()
        self.in_proj = nn.Linear(latent_width, widths[0])
        layers = (
            OrderedDict(focal_block=FocalBlock(width, kernels), upscale=UpScale(width, width_out, factor))
            for (width, width_out), factor in zip(pairwise(widths), factors, strict=True)
        )
        self.layers = nn.Sequential(*map(nn.Sequential, layers))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.layers(self.in_proj(latents))
        return made


class Backbone(nn.Module):
    """Vocos without conditions: frames `[B, T, C]` -> `[B, T, channels]`."""

    def __init__(self, width: int, channels: int, inner: int, layers: int):
        super().__init__()
        self.embedding = nn.Conv1d(width, channels, 7, padding=3)
        self.input_norm, self.output_norm = (nn.LayerNorm(channels, eps=1e-6) for _ in range(2))
        self.layers = nn.ModuleList(
            ConvNeXtBlock(channels, inner, nn.LayerNorm(channels, eps=1e-6)) for _ in range(layers)
        )

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        frames = self.input_norm(self.embedding(frames.mT).mT).mT
        for block in self.layers:
            frames = block(frames)
        made: torch.Tensor = self.output_norm(frames.mT)
        return made


class Vocos(nn.Module):
    """Frames `[B, T, C]` -> audio `[B, T x hop]`."""

    def __init__(self, backbone: Backbone, head: ISTFTHead):
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.head(self.backbone(frames))
        return made


class BinaryQuantizer(nn.Module):
    """The signs of the numbers of a latent, the first the highest bit: a corner of a cube within the unit sphere."""

    places: torch.Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("places", 2 ** torch.arange(width - 1, -1, -1), persistent=False)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents `[B, T, D]` -> codes `[B, 1, T]`."""
        return ((latents > 0) * self.places).sum(dim=-1)[:, None]

    def decode(self, codes: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Codes `[B, 1, T]` -> `[B, T, D]`."""
        bits = (codes[:, 0, :, None] & self.places) != 0
        return (2 * bits.to(dtype) - 1) * len(self.places) ** -0.5


class Encoder(nn.Module):
    """Signals `[B, 1, N]` -> latents `[B, T, D]`, by a `WavLMModel` whose last norm is gone."""

    def __init__(self, wavlm: Any, compressor: Compressor):
        super().__init__()
        self.wavlm, self.compressor = wavlm, compressor
        kernels, strides = wavlm.config.conv_kernel, wavlm.config.conv_stride
        self.hop_samples = prod(strides)
        self.window_samples = 1 + sum((kernel - 1) * prod(strides[:i]) for i, kernel in enumerate(kernels))

    def forward(self, signals: torch.Tensor) -> torch.Tensor:
        projected, _ = self.wavlm.feature_projection(self._heard(signals[:, 0]).mT)
        latents: torch.Tensor = self.compressor(self.wavlm.encoder(projected).last_hidden_state)
        return latents

    def _heard(self, signals: torch.Tensor) -> torch.Tensor:
        """What the convolutions make of `[B, N]`; of what is long in pieces, whose frames see nothing of others."""
        hear, hop, window = self.wavlm.feature_extractor, self.hop_samples, self.window_samples
        steps = (signals.shape[1] - window) // hop + 1
        if current() is not None or steps <= _STEPS_AT_A_TIME:
            made: torch.Tensor = hear(signals)
            return made
        starts = range(0, steps, _STEPS_AT_A_TIME)
        stops = (min(start + _STEPS_AT_A_TIME, steps) for start in starts)
        parts = [hear(signals[:, a * hop : (b - 1) * hop + window]) for a, b in zip(starts, stops, strict=True)]
        return torch.cat(parts, dim=2)


class FocalCodecNetwork(nn.Module):
    def __init__(self, encoder: Encoder, quantizer: BinaryQuantizer, decompressor: Decompressor, decoder: Vocos):
        super().__init__()
        self.encoder, self.quantizer = encoder, quantizer
        self.decompressor, self.decoder = decompressor, decoder

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes `[B, 1, T]` -> audio `[B, T x hop]`."""
        latents = self.quantizer.decode(codes, self.decompressor.in_proj.weight.dtype)
        made: torch.Tensor = self.decoder(self.decompressor(latents))
        return made
