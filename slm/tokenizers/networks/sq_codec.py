"""SQ-Codec's encoder and decoder (arXiv 2406.02328): convolutions and PReLU. Modules carry the authors' names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

_DILATIONS = (1, 3, 5, 7, 9)


@dataclass(frozen=True)
class SQCodecConfig:
    """The authors' `generator.config`, by its own names. Channels double at each factor."""

    num_bands: int
    sample_rate: int
    causal: bool
    num_samples: int
    """Samples averaged into one before the strided convolutions."""
    downsample_factors: Sequence[int]
    downsample_kernel_sizes: Sequence[int]
    upsample_factors: Sequence[int]
    upsample_kernel_sizes: Sequence[int]
    latent_hidden_dim: int
    default_kernel_size: int
    delay_kernel_size: int
    """Kernel of the decoder's first convolution, which looks ahead even in a causal model."""
    init_channel: int
    res_kernel_size: int


class Conv1d(nn.Conv1d):
    """Zeros around it: all before it (causal), or as many on both sides."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, dilation: int = 1, causal: bool = False
    ):
        reach = dilation * (kernel - 1)
        padding = 0 if causal else reach // 2
        super().__init__(channels_in, channels_out, kernel, stride=stride, padding=padding, dilation=dilation)
        self.left = reach if causal else 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(functional.pad(x, (self.left, 0)))

    @property
    def frame_offset(self) -> int:
        """n of floor((N + n) / stride), the length of the output."""
        return self.left + 2 * int(self.padding[0]) - (self.kernel_size[0] - 1) * self.dilation[0] - 1 + self.stride[0]


class ConvTranspose1d(nn.ConvTranspose1d):
    """What the kernel adds is cut off behind (causal), or on both sides."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, causal: bool):
        super().__init__(channels_in, channels_out, kernel, stride, padding=0 if causal else (kernel - stride) // 2)
        self.right = stride if causal else 0

    def forward(self, x: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        made = super().forward(x, output_size)
        return made[..., : made.shape[-1] - self.right]


class ResidualUnit(nn.Module):
    def __init__(self, channels: int, kernel: int, dilation: int, causal: bool):
        super().__init__()
        self.conv1 = Conv1d(channels, channels, kernel, dilation=dilation, causal=causal)
        self.conv2 = Conv1d(channels, channels, 1, causal=causal)
        self.activation1, self.activation2 = nn.PReLU(), nn.PReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.activation2(self.conv2(self.activation1(self.conv1(x))))


class Strided(nn.Module):
    """A strided convolution, with a PReLU behind it on the way down. The authors share one PReLU among all strides:
    their checkpoints hold it once for each, so that it need not be shared here."""

    def __init__(self, layer: nn.Module, activation: bool):
        super().__init__()
        self.layer = layer
        self.activation = nn.PReLU() if activation else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(self.layer(x))


class EncoderBlock(nn.Module):
    def __init__(self, channels: int, kernel: int, stride: int, residual_kernel: int, causal: bool):
        super().__init__()
        self.convs = nn.ModuleList([ResidualUnit(channels, residual_kernel, d, causal) for d in _DILATIONS])
        self.down_conv = Strided(Conv1d(channels, 2 * channels, kernel, stride, causal=causal), activation=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.convs:
            x = conv(x)
        return self.down_conv(x)


class DecoderBlock(nn.Module):
    def __init__(self, channels: int, kernel: int, stride: int, residual_kernel: int, causal: bool):
        super().__init__()
        half = channels // 2
        self.up_conv = Strided(ConvTranspose1d(channels, half, kernel, stride, causal), activation=False)
        self.convs = nn.ModuleList([ResidualUnit(half, residual_kernel, d, causal) for d in _DILATIONS])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up_conv(x)
        for conv in self.convs:
            x = conv(x)
        return x


class Resample(nn.Module):
    """A convolution without weight norm; behind it (`down`) samples are averaged, before it they are repeated."""

    def __init__(self, channels: int, kernel: int, factor: int, causal: bool, down: bool):
        super().__init__()
        self.factor, self.down = factor, down
        self.conv, self.activation = Conv1d(channels, channels, kernel, causal=causal), nn.PReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.down:
            return functional.avg_pool1d(self.activation(self.conv(x)), self.factor)
        return self.activation(self.conv(x.repeat_interleave(self.factor, dim=-1)))


class SQCodecNetwork(nn.Module):
    """Signals `[B, 1, N]` <-> scalars `[B, D, T]`, which are to be rounded to -1, 0, 1."""

    def __init__(self, config: SQCodecConfig):
        super().__init__()
        kernel, causal, width = config.default_kernel_size, config.causal, config.init_channel
        layers: list[nn.Module] = [Conv1d(config.num_bands, width, kernel, causal=causal)]
        if config.num_samples > 1:
            layers.append(Resample(width, kernel, config.num_samples, causal, down=True))
        for stride, size in zip(config.downsample_factors, config.downsample_kernel_sizes, strict=True):
            layers.append(EncoderBlock(width, size, stride, config.res_kernel_size, causal))
            width *= 2
        layers.append(Conv1d(width, config.latent_hidden_dim, kernel, causal=causal))
        self.encoder = nn.ModuleList(layers)

        width = config.init_channel * 2 ** len(config.upsample_factors)
        layers = [Conv1d(config.latent_hidden_dim, width, config.delay_kernel_size)]
        for stride, size in zip(config.upsample_factors, config.upsample_kernel_sizes, strict=True):
            layers.append(DecoderBlock(width, size, stride, config.res_kernel_size, causal))
            width //= 2
        if config.num_samples > 1:
            layers.append(Resample(width, kernel, config.num_samples, causal, down=False))
        layers.append(Conv1d(width, config.num_bands, kernel, causal=causal))
        self.decoder = nn.ModuleList(layers)

    def encode(self, signals: torch.Tensor) -> torch.Tensor:
        for layer in self.encoder:
            signals = layer(signals)
        return torch.tanh(signals)

    def decode(self, scalars: torch.Tensor) -> torch.Tensor:
        for layer in self.decoder:
            scalars = layer(scalars)
        return scalars

    def frame_rule(self) -> tuple[int, int]:
        """(hop, offset) of T = floor((N + offset) / hop): the floors of all layers collapse into one."""
        hop, offset = 1, 0
        for layer in self.encoder.modules():
            if isinstance(layer, Conv1d):
                offset += layer.frame_offset * hop
                hop *= layer.stride[0]
            elif isinstance(layer, Resample):
                # Listed before its convolution, which keeps the length (odd kernels only, as `x + f(x)` needs too).
                hop *= layer.factor
        return hop, offset
