"""SEANet, the convolutional encoder and decoder of EnCodec (arXiv 2210.13438), in the form that is not causal.

Modules carry the names of EnCodec's own code, without its wrappers around each convolution; `own_names` and
`published_names` lead from one to the other. A network is three parts: `front` (convolutions), `recurrence` (an LSTM)
and `back` (convolutions). Convolutions see a bounded context and an LSTM carries a state, so that all three can run
over a long signal in pieces and give what one pass gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from slm.tokenizers._checkpoints import fold_weight_norm
from slm.tokenizers.networks.snake import Snake


@dataclass(frozen=True)
class SEANetConfig:
    """The form of encoder and decoder. `strides` are those of the decoder; the encoder takes them in reverse."""

    strides: tuple[int, ...]
    width: int
    """Channels after the first convolution; each stride doubles them."""
    latent_width: int
    lstm_layers: int = 2
    residual_layers: int = 1
    residual_kernel: int = 3
    dilation_base: int = 2
    snake: bool = False
    """Snake activations with a learned frequency instead of ELU."""


class PaddedConv1d(nn.Conv1d):
    """Pads by reflection, and behind it fills the last window: N -> ceil(N / stride)."""

    def forward(self, signals: torch.Tensor) -> torch.Tensor:
        stride = self.stride[0]
        padding = (self.kernel_size[0] - 1) * self.dilation[0] + 1 - stride
        right = padding // 2
        return super().forward(_reflect(signals, padding - right, right + -signals.shape[-1] % stride))


class TrimmedConvTranspose1d(nn.ConvTranspose1d):
    """N -> N x stride: what the kernel adds is cut off on both sides."""

    def forward(self, signals: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        padding = self.kernel_size[0] - self.stride[0]
        right = padding // 2
        made = super().forward(signals, output_size)
        return made[..., padding - right : made.shape[-1] - right]


def _reflect(signals: torch.Tensor, left: int, right: int) -> torch.Tensor:
    """Reflection padding; a signal too short to be reflected is extended with zeros for it."""
    missing = max(0, max(left, right) + 1 - signals.shape[-1])
    padded = functional.pad(functional.pad(signals, (0, missing)), (left, right), mode="reflect")
    return padded[..., : padded.shape[-1] - missing]


def _activation(config: SEANetConfig, channels: int) -> nn.Module:
    return Snake(torch.ones(1, channels, 1)) if config.snake else nn.ELU()


class ResidualUnit(nn.Module):
    """A dilated convolution into half the channels and a pointwise one back, beside a pointwise shortcut."""

    def __init__(self, config: SEANetConfig, channels: int, dilation: int):
        super().__init__()
        half = channels // 2
        self.block = nn.Sequential(
            _activation(config, channels),
            PaddedConv1d(channels, half, config.residual_kernel, dilation=dilation),
            _activation(config, half),
            PaddedConv1d(half, channels, 1),
        )
        self.shortcut = PaddedConv1d(channels, channels, 1)

    def forward(self, signals: torch.Tensor) -> torch.Tensor:
        return self.shortcut(signals) + self.block(signals)


class Recurrence(nn.Module):
    """An LSTM over frames `[B, C, T]` beside an identity: `[B, C, T]`, or `[B, 2C, T]` where it runs both ways."""

    def __init__(self, channels: int, layers: int, bidirectional: bool):
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, layers, bidirectional=bidirectional)

    def run(
        self, frames: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Output, and the states `[layers x directions, B, C]` with which each direction leaves the frames."""
        inputs = frames.permute(2, 0, 1)
        outputs, state = self.lstm(inputs, state)
        directions = outputs.unflatten(-1, (-1, inputs.shape[-1]))
        return (directions + inputs[..., None, :]).flatten(-2).permute(1, 2, 0), state

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.run(frames)[0]

    def in_pieces(self, features: Callable[[int], torch.Tensor], count: int) -> Iterator[torch.Tensor]:
        """The output piece by piece; `features(i)` gives piece i `[1, C, t]`, and is asked again in each sweep.

        Forward, states are carried from piece to piece in one sweep. An LSTM that runs both ways needs one sweep
        more than it has layers, in turns from either end: each makes the states of one more layer exact at the
        borders of all pieces, and only those states are kept.
        """
        lstm = self.lstm
        directions = 2 if lstm.bidirectional else 1
        sweeps = lstm.num_layers + 1 if directions == 2 and count > 1 else 1
        weight = next(lstm.parameters())
        states = weight.new_zeros(count, 2, lstm.num_layers * directions, 1, lstm.hidden_size)
        for left in reversed(range(sweeps)):
            to_the_right = left % 2 == 0
            for i in range(count) if to_the_right else reversed(range(count)):
                frames, ends = self.run(features(i), (states[i, 0], states[i, 1]))
                if to_the_right and i + 1 < count:
                    states[i + 1, :, 0::directions] = torch.stack(ends)[:, 0::directions]
                elif not to_the_right and i > 0:
                    states[i - 1, :, 1::2] = torch.stack(ends)[:, 1::2]
                if left == 0:
                    yield frames


class SEANet(nn.Module):
    """An encoder or a decoder: its layers in a row, of which one is the recurrence."""

    def __init__(self, layers: Iterable[nn.Module]):
        super().__init__()
        self.model: nn.Sequential = nn.Sequential(*layers)
        self._middle = [isinstance(layer, Recurrence) for layer in self.model].index(True)

    @property
    def front(self) -> nn.Sequential:
        return nn.Sequential(*list(self.model)[: self._middle])

    @property
    def recurrence(self) -> Recurrence:
        return cast(Recurrence, self.model[self._middle])

    @property
    def back(self) -> nn.Sequential:
        return nn.Sequential(*list(self.model)[self._middle + 1 :])

    def forward(self, signals: torch.Tensor) -> torch.Tensor:
        return self.model(signals)

    def in_pieces(
        self, features: Callable[[int], torch.Tensor], count: int, context: int, hop_samples: int
    ) -> Iterator[torch.Tensor]:
        """The output piece by piece from what `front` gives for each of `count` pieces.

        One frame of the recurrence becomes `hop_samples` steps in `back`, which sees `context` frames to either side.
        """
        return _in_context(self.recurrence.in_pieces(features, count), self.back, context, hop_samples)


def _in_context(
    pieces: Iterable[torch.Tensor], run: Callable[[torch.Tensor], torch.Tensor], context: int, hop_samples: int
) -> Iterator[torch.Tensor]:
    """`run` over a sequence that comes in pieces `[.., t]`: each is given out once its context is there."""
    held, skip = torch.empty(0), 0
    pieces = iter(pieces)
    piece = next(pieces, None)
    while piece is not None:
        following = next(pieces, None)
        joined = torch.cat((held, piece), dim=-1) if held.numel() else piece
        ready = joined.shape[-1] if following is None else max(skip, joined.shape[-1] - context)
        yield run(joined)[..., skip * hop_samples : None if following is None else ready * hop_samples]
        start = max(0, ready - context)
        held, skip, piece = joined[..., start:], ready - start, following


def encoder(config: SEANetConfig, bidirectional: bool = False) -> SEANet:
    """Signals `[B, 1, N]` -> latents `[B, D, ceil(N / hop)]`."""
    channels = config.width
    layers: list[nn.Module] = [PaddedConv1d(1, channels, 7)]
    for stride in reversed(config.strides):
        layers += [ResidualUnit(config, channels, config.dilation_base**j) for j in range(config.residual_layers)]
        layers += [_activation(config, channels), PaddedConv1d(channels, 2 * channels, 2 * stride, stride)]
        channels *= 2
    layers.append(Recurrence(channels, config.lstm_layers, bidirectional))
    channels *= 2 if bidirectional else 1
    return SEANet([*layers, _activation(config, channels), PaddedConv1d(channels, config.latent_width, 7)])


def decoder(config: SEANetConfig) -> SEANet:
    """Latents `[B, D, T]` -> audio `[B, 1, T x hop]`."""
    channels = config.width * 2 ** len(config.strides)
    layers: list[nn.Module] = [PaddedConv1d(config.latent_width, channels, 7)]
    layers.append(Recurrence(channels, config.lstm_layers, bidirectional=False))
    for stride in config.strides:
        layers += [_activation(config, channels), TrimmedConvTranspose1d(channels, channels // 2, 2 * stride, stride)]
        channels //= 2
        layers += [ResidualUnit(config, channels, config.dilation_base**j) for j in range(config.residual_layers)]
    return SEANet([*layers, _activation(config, channels), PaddedConv1d(channels, 1, 7)])


_WRAPPERS = ((".conv.conv.", "."), (".convtr.convtr.", "."), (".vq.layers.", ".layers."), ("._codebook.", "."))


def own_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of EnCodec's own code, and of what was built upon it, as the modules here call them."""
    renamed = {}
    for name, value in fold_weight_norm(state).items():
        for published, own in _WRAPPERS:
            name = name.replace(published, own)
        renamed[name] = value
    return renamed


def published_names(model: nn.Module) -> dict[str, torch.Tensor]:
    """The inverse of `own_names`: each convolution of a SEANet with its weight norm, each codebook in its wrappers."""
    state = {}
    for path, module in model.named_modules():
        for name, value in chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False)):
            if isinstance(module, (PaddedConv1d, TrimmedConvTranspose1d)):
                stem = f"{path}.{'convtr.convtr' if isinstance(module, nn.ConvTranspose1d) else 'conv.conv'}.{name}"
                if name == "weight":
                    state[f"{stem}_g"], state[f"{stem}_v"] = value.flatten(1).norm(dim=1)[:, None, None], value
                else:
                    state[stem] = value
            elif name == "embed":
                state[f"{path.replace('.layers.', '.vq.layers.')}._codebook.{name}"] = value
            else:
                state[f"{path}.{name}"] = value
    return {name: value.detach().clone().contiguous() for name, value in state.items()}
