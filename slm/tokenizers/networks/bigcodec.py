"""BigCodec's encoder, quantizer and decoder (arXiv 2409.05377): wide convolutions with alias-free Snake activations.

Encoder and decoder have the three parts of a SEANet (convolutions, LSTM, convolutions), and run in pieces as one does.
Blocks carry the authors' names; `own_names` and `published_names` say what else is called otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import nn
from torch.nn import functional

from slm.tokenizers._checkpoints import fold_weight_norm, with_weight_norm
from slm.tokenizers.networks.packed import current
from slm.tokenizers.networks.seanet import Recurrence, SEANet
from slm.tokenizers.networks.snake import snake

_DILATIONS = (1, 3, 9)
_FILTER_TAPS = 12
ALIAS_FREE_REACH = 8
"""Steps that one of `at_twice_the_rate` sees to either side: 5 of the filter up, 3 of the filter down."""


@dataclass(frozen=True)
class BigCodecConfig:
    """The authors' arguments, by their names; the values are those of the release. The decoder's strides are the
    encoder's in reverse."""

    ngf: int = 48
    up_ratios: Sequence[int] = (2, 2, 2, 5, 5)
    rnn_num_layers: int = 2
    vq_dim: int = 1024
    codebook_size: int = 8192
    codebook_dim: int = 8
    upsample_initial_channel: int = 1536

    @property
    def hop_samples(self) -> int:
        return prod(self.up_ratios)


class FillingConv1d(nn.Conv1d):
    """Fills the signal up with zeros to the next whole frame, as the authors do: always with one sample at least.
    Clips that are packed have been filled up by then."""

    def __init__(self, channels_out: int, kernel: int, hop_samples: int):
        super().__init__(1, channels_out, kernel, padding=kernel // 2)
        self.hop_samples = hop_samples

    def forward(self, signals: torch.Tensor) -> torch.Tensor:
        if current() is not None:
            return super().forward(signals)
        return super().forward(functional.pad(signals, (0, self.hop_samples - signals.shape[-1] % self.hop_samples)))


class Activation(nn.Module):
    """x + sin(a x)^2 / b at twice the rate, between two low-pass filters; a and b are learned logarithms."""

    reach = ALIAS_FREE_REACH

    up_filter: torch.Tensor
    down_filter: torch.Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("up_filter", kaiser_low_pass())
        self.register_buffer("down_filter", kaiser_low_pass())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        alpha, beta = self.alpha.exp()[:, None], self.beta.exp()[:, None]

        return at_twice_the_rate(x, lambda x: snake(x, alpha, 1 / (beta + 1e-9)), self.up_filter, self.down_filter)


def at_twice_the_rate(
    x: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor], up: torch.Tensor, down: torch.Tensor
) -> torch.Tensor:
    """`change` of `[B, C, T]` between two filters `[1, 1, 12]`, the first and last step repeated around it."""
    channels = x.shape[1]
    padded = functional.pad(x, (5, 5), mode="replicate")
    raised = functional.conv_transpose1d(padded, up.expand(channels, -1, -1), stride=2, padding=15, groups=channels)
    padded = functional.pad(change(2 * raised), (5, 5), mode="replicate")
    return functional.conv1d(padded, down.expand(channels, -1, -1), stride=2, groups=channels)


def kaiser_low_pass() -> torch.Tensor:
    """The filter `[1, 1, 12]` of half the band and unit sum, for a transition of 0.6 of it (Kaiser's formula)."""
    attenuation_db = 2.285 * (_FILTER_TAPS // 2 - 1) * torch.pi * 4 * 0.3 + 7.95
    window = torch.kaiser_window(_FILTER_TAPS, periodic=False, beta=0.1102 * (attenuation_db - 8.7))
    taps = window * torch.sinc(0.5 * (torch.arange(_FILTER_TAPS) - _FILTER_TAPS / 2 + 0.5))
    return (taps / taps.sum())[None, None]


class ResidualUnit(nn.Module):
    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.block = nn.Sequential(
            Activation(channels),
            nn.Conv1d(channels, channels, 7, dilation=dilation, padding=3 * dilation),
            Activation(channels),
            nn.Conv1d(channels, channels, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.block(x)


class Block(nn.Module):
    """Residual units and a strided convolution (N -> N / stride), or the inverse, `up`."""

    def __init__(self, channels: int, stride: int, up: bool = False):
        super().__init__()
        padding = stride // 2 + stride % 2
        if up:
            half = channels // 2
            resample: nn.Module = nn.ConvTranspose1d(
                channels, half, 2 * stride, stride, padding=padding, output_padding=stride % 2
            )
            units = [ResidualUnit(half, dilation) for dilation in _DILATIONS]
            self.block = nn.Sequential(Activation(channels), resample, *units)
        else:
            resample = nn.Conv1d(channels, 2 * channels, 2 * stride, stride, padding=padding)
            units = [ResidualUnit(channels, dilation) for dilation in _DILATIONS]
            self.block = nn.Sequential(*units, Activation(channels), resample)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


class FactorizedQuantizer(nn.Module):
    """One codebook of few dimensions, searched by the angle between vectors (as in DAC)."""

    def __init__(self, width: int, codebook_size: int, codebook_width: int):
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(width, codebook_width), nn.Linear(codebook_width, width)
        self.codebook = nn.Embedding(codebook_size, codebook_width)

    def encode(self, latents: torch.Tensor, num_codebooks: int = 1) -> torch.Tensor:
        """Latents `[B, D, T]` -> codes `[B, 1, T]`."""
        projected = self.in_proj(latents.mT)
        vectors = functional.normalize(projected.flatten(0, 1))
        codebook = functional.normalize(self.codebook.weight)
        # The authors' expression, in their order, so that ties fall as theirs do.
        distance = vectors.pow(2).sum(1, keepdim=True) - 2 * vectors @ codebook.T + codebook.pow(2).sum(1)[None]
        return (-distance).max(dim=1).indices.reshape(len(latents), 1, -1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return self.out_proj(self.codebook(codes[:, 0])).mT


class BigCodecNetwork(nn.Module):
    """Signals `[B, 1, N]` -> latents `[B, D, N // hop + 1]` -> codes -> latents -> audio `[B, 1, T x hop]`."""

    def __init__(self, config: BigCodecConfig):
        super().__init__()
        width, layers = config.ngf, config.rnn_num_layers
        parts: list[nn.Module] = [FillingConv1d(width, 7, config.hop_samples)]
        for stride in config.up_ratios:
            parts.append(Block(width, stride))
            width *= 2
        parts += [Recurrence(width, layers, False), Activation(width), nn.Conv1d(width, config.vq_dim, 3, padding=1)]
        self.encoder = SEANet(parts)
        self.quantizer = FactorizedQuantizer(config.vq_dim, config.codebook_size, config.codebook_dim)
        width = config.upsample_initial_channel
        parts = [nn.Conv1d(config.vq_dim, width, 7, padding=3), Recurrence(width, layers, False)]
        for stride in reversed(config.up_ratios):
            parts.append(Block(width, stride, up=True))
            width //= 2
        self.decoder = SEANet([*parts, Activation(width), nn.Conv1d(width, 1, 7, padding=3), nn.Tanh()])

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.quantizer.decode(codes))[:, 0]


_PARTS = {"CodecEnc": (("block.", "encoder.model."),), "generator": (("model.", "decoder.model."),)}
_RENAMED = (
    (".act.", "."),
    (".upsample.filter", ".up_filter"),
    (".downsample.lowpass.filter", ".down_filter"),
    ("quantizer.layers.0._codebook.", "quantizer.codebook."),
    ("quantizer.layers.0.", "quantizer."),
)


def own_names(checkpoint: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The weights of encoder (`CodecEnc`) and decoder (`generator`), as the modules here call them."""
    state = {}
    for part, prefixes in _PARTS.items():
        for name, value in fold_weight_norm(checkpoint[part]).items():
            for published, own in prefixes:
                name = re.sub(rf"^{re.escape(published)}", own, name)
            for published, own in _RENAMED:
                name = name.replace(published, own)
            state[name] = value
    return state


def published_names(network: BigCodecNetwork) -> dict[str, dict[str, torch.Tensor]]:
    """The inverse of `own_names`, with a weight norm in each convolution and projection."""
    parts: dict[str, dict[str, torch.Tensor]] = {"CodecEnc": {}, "generator": {}}
    for name, value in with_weight_norm(network).items():
        part = "CodecEnc" if name.startswith("encoder.") else "generator"
        name = name.removeprefix("encoder.").removeprefix("decoder.")
        if part == "CodecEnc":
            name = re.sub(r"^model\.", "block.", name)
        name = re.sub(r"\.(alpha|beta)$", r".act.\1", name)
        name = name.replace(".up_filter", ".upsample.filter").replace(".down_filter", ".downsample.lowpass.filter")
        name = name.replace("quantizer.codebook.", "quantizer._codebook.").replace("quantizer.", "quantizer.layers.0.")
        parts[part][name] = value
    return parts
