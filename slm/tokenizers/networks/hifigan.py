"""HiFi-GAN (Kong et al., 2020, arXiv 2010.05646) over discrete units (Polyak et al., 2021, arXiv 2104.00355).

One network for the unit vocoders of two families: those of speech-resynthesis, fairseq and textlesslib (one codebook,
zero padding, speakers and styles by number), and SpeechBrain's (several codebooks pooled by attention, reflect
padding). Weight norm is folded into the weights before they get here.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, pad

Padding = Literal["zeros", "reflect"]
_SLOPE = 0.1


class ResidualBlock(nn.Module):
    """Pairs of convolutions, the first of each dilated, each pair added to what it was given."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int], padding_mode: Padding):
        super().__init__()
        self.convs1 = nn.ModuleList(_same(channels, channels, kernel, padding_mode, d) for d in dilations)
        self.convs2 = nn.ModuleList(_same(channels, channels, kernel, padding_mode) for _ in dilations)
        self.paddings = [(kernel - 1) * d // 2 for dilation in dilations for d in (dilation, 1)]

    def forward(self, x: Tensor) -> Tensor:
        for first, second in zip(self.convs1, self.convs2, strict=True):
            x = x + second(leaky_relu(first(leaky_relu(x, _SLOPE)), _SLOPE))
        return x


class Generator(nn.Module):
    """Features `[B, in_channels, T]` -> audio `[B, T x hop_samples]` within -1..1.

    Kernels that differ from their rate by an odd number add a sample each, as in the original. `reach_frames` is how
    far a sample can see to either side; `min_frames` is the shortest input whose ends can be reflected.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        rates: Sequence[int],
        kernels: Sequence[int],
        block_kernels: Sequence[int],
        block_dilations: Sequence[Sequence[int]],
        padding_mode: Padding,
    ):
        super().__init__()
        self.conv_pre = _same(in_channels, channels, 7, padding_mode)
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        self.num_blocks = len(block_kernels)
        paddings, rate, reach = [(3, 1)], 1, 3.0
        for up, kernel in zip(rates, kernels, strict=True):
            self.ups.append(nn.ConvTranspose1d(channels, channels // 2, kernel, up, padding=(kernel - up) // 2))
            channels, rate = channels // 2, rate * up
            blocks = [
                ResidualBlock(channels, k, d, padding_mode) for k, d in zip(block_kernels, block_dilations, strict=True)
            ]
            self.resblocks.extend(blocks)
            paddings += [(padding, rate) for block in blocks for padding in block.paddings]
            reach += (kernel + max(sum(block.paddings) for block in blocks)) / rate
        self.conv_post = _same(channels, 1, 7, padding_mode)
        self.hop_samples = prod(rates)
        self.reach_frames = ceil(reach + 3 / rate)
        # A reflection needs one sample more than it is wide.
        self.min_frames = 1 + max(padding // at for padding, at in paddings) if padding_mode == "reflect" else 1

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_pre(x)
        for i, up in enumerate(self.ups):
            x = up(leaky_relu(x, _SLOPE))
            blocks = self.resblocks[i * self.num_blocks : (i + 1) * self.num_blocks]
            x = sum(block(x) for block in blocks) / self.num_blocks
        # The last slope is torch's default of 0.01, in every implementation since the first.
        return self.conv_post(leaky_relu(x)).tanh()[:, 0]


class DurationPredictor(nn.Module):
    """Features of units `[B, T, width]` -> how many frames each lasts, `[B, T]`, at least 1 (as in FastSpeech 2)."""

    def __init__(self, width: int, hidden: int, kernel: int, norm: bool, padding_mode: Padding):
        super().__init__()
        self.conv1 = nn.Sequential(_same(width, hidden, kernel, padding_mode), nn.ReLU())
        self.conv2 = nn.Sequential(_same(hidden, hidden, kernel, padding_mode), nn.ReLU())
        self.ln1, self.ln2 = (nn.LayerNorm(hidden) if norm else nn.Identity() for _ in range(2))
        self.proj = nn.Linear(hidden, 1)
        self.min_units = 1 + (kernel - 1) // 2 if padding_mode == "reflect" else 1

    def forward(self, features: Tensor) -> Tensor:
        num_units = features.shape[1]
        x = _at_least(features.transpose(1, 2), self.min_units)
        x = self.ln1(self.conv1(x).transpose(1, 2)).transpose(1, 2)
        x = self.ln2(self.conv2(x).transpose(1, 2))
        log_frames = self.proj(x)[:, :num_units, 0]
        return (log_frames.exp() - 1).round().long().clamp_min(1)


class UnitGenerator(nn.Module):
    """Units as rows of one embedding table -> audio.

    `attention_width` 0: embeddings of several codebooks are added. `num_speakers`, `num_styles` 0: there are none.
    """

    def __init__(
        self,
        generator: Generator,
        num_embeddings: int,
        width: int,
        *,
        attention_width: int = 0,
        num_speakers: int = 0,
        num_styles: int = 0,
        durations: DurationPredictor | None = None,
    ):
        super().__init__()
        self.units = nn.Embedding(num_embeddings, width)
        self.speaker = nn.Embedding(num_speakers, width) if num_speakers else None
        self.style = nn.Embedding(num_styles, width) if num_styles else None
        self.attention = (
            nn.Sequential(nn.Linear(width, attention_width), nn.ReLU(), nn.Linear(attention_width, 1, bias=False))
            if attention_width
            else None
        )
        self.durations, self.generator = durations, generator

    def features(self, rows: Tensor) -> Tensor:
        """Rows of the table `[B, T, K]` -> one vector per frame `[B, T, width]`."""
        embedded = self.units(rows)
        if self.attention is not None:
            embedded = embedded * self.attention(embedded).softmax(dim=2)
        return embedded.sum(dim=2)

    def forward(self, rows: Tensor, speaker: int, style: int) -> Tensor:
        """Rows of the table `[B, T, K]`, one for each frame -> audio `[B, T x hop_samples]`.

        What is too short to be reflected at its ends is extended by its last frame, and the audio cut back.
        """
        parts = [self.features(rows)]
        for table, index in ((self.speaker, speaker), (self.style, style)):
            if table is not None:
                parts.append(table.weight[index].expand_as(parts[0]))
        x = torch.cat(parts, dim=2).transpose(1, 2)
        short = x.shape[2] < self.generator.min_frames
        audio = self.generator(_at_least(x, self.generator.min_frames))
        return audio[:, : rows.shape[1] * self.generator.hop_samples] if short else audio


def _same(in_channels: int, out_channels: int, kernel: int, padding_mode: Padding, dilation: int = 1) -> nn.Conv1d:
    padding = (kernel - 1) * dilation // 2
    return nn.Conv1d(in_channels, out_channels, kernel, dilation=dilation, padding=padding, padding_mode=padding_mode)


def _at_least(x: Tensor, frames: int) -> Tensor:
    """`[B, C, T]`, extended by its last frame where T is below `frames`."""
    missing = frames - x.shape[2]
    return pad(x, (0, missing), mode="replicate") if missing > 0 else x
