"""NVIDIA NeMo's audio codecs: HiFi-GAN's generator (arXiv 2010.05646), its inverse, groups of finite scalars between.

Modules stand in the order in which a signal meets them; `published_name` gives the names that NeMo has for weights.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from slm.tokenizers.networks.causal import CausalRun
from slm.tokenizers.networks.snake import Snake


@dataclass(frozen=True)
class Form:
    """The encoder, or the decoder. Channels double at each stage of the one, and are halved at each of the other."""

    width: int
    """Of the latents."""
    rates: Sequence[int]
    channels: int
    """Of the first convolution."""
    first_kernel: int
    last_kernel: int
    block_kernels: Sequence[int]
    block_dilations: Sequence[int]
    activation: str
    padding: str
    """What lies about a clip: `zeros`, `reflect` or `replicate`; before it alone, and zeros, where causal."""
    causal: bool
    grouped: bool = False
    """Whether each channel that a transposed convolution gives is made of two alone."""
    clamp: bool = False
    """Whether audio is cut off at -1 and 1, or by a tanh."""


class Conv1d(nn.Conv1d):
    """As many steps as it is given, or one for each `stride` of them."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, form: Form, stride: int = 1, dilation: int = 1
    ):
        super().__init__(channels_in, channels_out, kernel, stride=stride, dilation=dilation)
        around = dilation * (kernel - 1) + 1 - stride
        left = around if form.causal else (around + 1) // 2
        self.around = left, around - left
        self.fill = "constant" if form.causal or form.padding == "zeros" else form.padding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(functional.pad(x, self.around, self.fill))


class ConvTranspose1d(nn.ConvTranspose1d):
    """`stride` steps for each; what the kernel adds is cut off behind (causal), or on both sides."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, form: Form):
        groups = channels_out if form.grouped else 1
        padding, more = (0, 0) if form.causal else ((stride + 1) // 2, stride % 2)
        super().__init__(channels_in, channels_out, 2 * stride, stride, padding, more, groups)
        self.cut = stride if form.causal else 0

    def forward(self, x: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        made = super().forward(x, output_size)
        return made[..., : made.shape[-1] - self.cut]


class HalfSnake(nn.Module):
    """Snake of the first half of the channels, a leaky ReLU of the others."""

    def __init__(self, channels: int):
        super().__init__()
        self.snake_act = Snake(torch.ones(1, channels // 2, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = self.snake_act.alpha.shape[1]
        return torch.cat([self.snake_act(x[:, :half]), functional.leaky_relu(x[:, half:])], dim=1)


ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "elu": lambda _: nn.ELU(),
    "lrelu": lambda _: nn.LeakyReLU(),
    "snake": lambda channels: Snake(torch.ones(1, channels, 1)),
    "half_snake": HalfSnake,
}


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, kernel: int, dilation: int, form: Form):
        super().__init__()
        self.input_activation = ACTIVATIONS[form.activation](channels)
        self.input_conv = Conv1d(channels, channels, kernel, form, dilation=dilation)
        self.skip_activation = ACTIVATIONS[form.activation](channels)
        self.skip_conv = Conv1d(channels, channels, kernel, form)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.skip_conv(self.skip_activation(self.input_conv(self.input_activation(x))))


class Mean(nn.ModuleList):
    """Of rows of residual blocks, one row for each kernel."""

    def __init__(self, channels: int, form: Form):
        super().__init__(
            nn.Sequential(*(ResidualBlock(channels, kernel, dilation, form) for dilation in form.block_dilations))
            for kernel in form.block_kernels
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mean(blocks(x) for blocks in self)

    def mean(self, made: Iterable[torch.Tensor]) -> torch.Tensor:
        return cast(torch.Tensor, sum(made)) / len(self)


def encoder(form: Form) -> nn.Sequential:
    """Samples `[B, 1, T x hop]` -> latents `[B, width, T]`."""
    stages, channels = [], form.channels
    for rate in form.rates:
        stages.append(
            _named(
                blocks=Mean(channels, form),
                activation=ACTIVATIONS[form.activation](channels),
                down=Conv1d(channels, 2 * channels, 2 * rate, form, stride=rate),
            )
        )
        channels *= 2
    return _named(
        pre_conv=Conv1d(1, form.channels, form.first_kernel, form),
        stages=nn.Sequential(*stages),
        post_activation=ACTIVATIONS[form.activation](channels),
        post_conv=Conv1d(channels, form.width, form.last_kernel, form),
    )


def decoder(form: Form) -> nn.Sequential:
    """Latents `[B, width, T]` -> audio `[B, 1, T x hop]` within -1..1."""
    stages, channels = [], form.channels
    for rate in form.rates:
        stages.append(
            _named(
                activation=ACTIVATIONS[form.activation](channels),
                up=ConvTranspose1d(channels, channels // 2, rate, form),
                blocks=Mean(channels // 2, form),
            )
        )
        channels //= 2
    return _named(
        pre_conv=Conv1d(form.width, form.channels, form.first_kernel, form),
        stages=nn.Sequential(*stages),
        post_activation=ACTIVATIONS[form.activation](channels),
        post_conv=Conv1d(channels, 1, form.last_kernel, form),
        bound=nn.Hardtanh() if form.clamp else nn.Tanh(),
    )


class GroupedScalars(nn.Module):
    """Latents `[B, groups x D, T]` <-> codes `[B, groups, T]`: each of D scalars is rounded to its number of levels,
    and those of a group are the digits of its code, the first being the least."""

    scale: torch.Tensor
    offset: torch.Tensor
    shift: torch.Tensor
    levels: torch.Tensor
    bases: torch.Tensor

    def __init__(self, groups: int, levels: Sequence[int], eps: float):
        super().__init__()
        self.groups, self.size = groups, prod(levels)
        count = torch.tensor(levels)[:, None]
        scale = (count - 1) / 2 * (1 - eps)
        offset = torch.where(count % 2 == 0, 0.5, 0.0)
        bases = torch.tensor([1, *levels[:-1]]).cumprod(0)[:, None]
        # In fp32, as NeMo has them, whatever the network computes in. The tangent is NeMo's; others have an artanh.
        parts = {"scale": scale, "offset": offset, "shift": (offset / scale).tan(), "levels": count, "bases": bases}
        for name, values in parts.items():
            self.register_buffer(name, values, persistent=False)

    def encode(self, latents: torch.Tensor) -> torch.Tensor:
        scalars = latents.unflatten(1, (self.groups, -1))
        rounded = (self.scale * (scalars + self.shift).tanh() - self.offset).round().long()
        return ((rounded + self.levels // 2) * self.bases).sum(dim=2)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """In fp32; of the first groups, where there are no more: the others are then 0."""
        half = self.levels // 2
        digits = codes[:, :, None] // self.bases % self.levels
        latents = ((digits - half) / half).flatten(1, 2)
        missing = (self.groups - codes.shape[1]) * len(self.levels)
        return functional.pad(latents, (0, 0, 0, missing))


class NemoAudioCodec(nn.Module):
    def __init__(self, encoder_form: Form, decoder_form: Form, quantizer: nn.Module):
        super().__init__()
        self.encoder, self.quantizer, self.decoder = encoder(encoder_form), quantizer, decoder(decoder_form)


class CausalCodecRun(CausalRun):
    """One stream through an encoder or a decoder that is causal."""

    def _step(self, module: Any, x: torch.Tensor) -> torch.Tensor:
        if isinstance(module, Conv1d):
            left = module.around[0]
            x = torch.cat([self._state.get(module, x.new_zeros(*x.shape[:-1], left)), x], dim=-1)
            self._state[module] = x[..., x.shape[-1] - left :].clone()
            return nn.Conv1d.forward(module, x)
        if isinstance(module, ConvTranspose1d):
            return self._overlapped(
                module, nn.ConvTranspose1d.forward(module, x), x.shape[-1] * module.cut, module.bias
            )
        if isinstance(module, ResidualBlock):
            return x + self.through(module.children(), x)
        if isinstance(module, Mean):
            return module.mean(self._step(blocks, x) for blocks in module)
        return self.through(module, x) if isinstance(module, nn.Sequential) else module(x)


def fewest_frames(network: nn.Module, steps_per_frame: int) -> int:
    """How many frames a clip must have that each layer can reflect it; a frame is so many steps of the input."""
    fewest = 1
    for layer in network.modules():
        if isinstance(layer, ConvTranspose1d):
            steps_per_frame *= layer.stride[0]
        elif isinstance(layer, Conv1d):
            if layer.fill == "reflect":
                fewest = max(fewest, max(layer.around) // steps_per_frame + 1)
            steps_per_frame //= layer.stride[0]
    return fewest


_PUBLISHED = [
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^(encoder|decoder)\.", r"audio_\1."),
        (r"\.stages\.(\d+)\.blocks\.(\d+)\.(\d+)\.", r".res_layers.\1.res_blocks.\2.res_blocks.\3."),
        (r"\.stages\.(\d+)\.activation\.", r".activations.\1."),
        (r"\.stages\.(\d+)\.(down|up)\.", r".\2_sample_conv_layers.\1."),
        (r"\.(weight|bias)$", r".conv.\1"),
        (r"\.weight_g$", ".conv.parametrizations.weight.original0"),
        (r"\.weight_v$", ".conv.parametrizations.weight.original1"),
        (r"((\.snake_act)?\.alpha)$", r".activation\1"),
    )
]


def published_name(name: str) -> str:
    """A weight of the network here, or a half of one under a weight norm -> its name in NeMo."""
    for pattern, published in _PUBLISHED:
        name = pattern.sub(published, name)
    return name


def _named(**modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))
