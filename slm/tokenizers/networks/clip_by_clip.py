"""Modules that look along a whole clip: where clips are packed, they are given them as rows of a batch.

Attention that is not PyTorch's own is told by a mask what is behind the end of each; a convolution whose kernel is
longer than the gaps between clips sees zeros there, as at the end of a clip alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from slm.tokenizers.networks.packed import PackedClips, current

Mask = Literal["bool", "added"]


def run_clip_by_clip(module: nn.Module, *, mask: Mask | None = None, channels_first: bool = False) -> None:
    """From now on `module`, which maps `[1, T, C]` (`channels_first`: `[1, C, T]`) to as many steps or a few more, is
    given clips as rows of a batch wherever they are packed, zeros behind them. With a `mask` it is also told as its
    `attention_mask` which places of the rows are of a clip: `[R, W]` true there ("bool"), or what is added to its
    scores `[R, H, W, W]` ("added"); without, it must not look behind the end of one, or see what zeros say.

    What it makes is a tensor, a tuple that begins with one, or an output with `last_hidden_state`.
    """
    rows = _Rows(mask, channels_first)
    module.register_forward_pre_hook(rows.give, with_kwargs=True)
    module.register_forward_hook(rows.take_back)
    module.runs_along_clips = True  # type: ignore[assignment]


def runs_along_clips(network: nn.Module) -> bool:
    """Whether it has layers for which clips become rows."""
    return any(isinstance(m, nn.LSTM) or getattr(m, "runs_along_clips", False) for m in network.modules())


@dataclass(frozen=True)
class _Rows:
    """Hooks of a module, which can be copied and pickled with it."""

    mask: Mask | None
    channels_first: bool

    def give(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if (packed := current()) is None:
            return None
        x, *rest = args or (kwargs["hidden_states"],)
        rows = packed.to_rows(x.mT if self.channels_first else x, time=1)
        held = packed.held(rows)
        rows = rows.masked_fill(~held[..., None], 0.0)
        if self.mask == "added":
            lowest = torch.finfo(rows.dtype).min
            held = rows.new_zeros(held.shape).masked_fill(~held, lowest)[:, None, None]
        if self.mask:
            kwargs = {**kwargs, "attention_mask": held}
        packed.follows = False
        kwargs = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        return (rows.mT if self.channels_first else rows, *rest), kwargs

    def take_back(self, module: nn.Module, args: tuple[Any, ...], made: Any) -> Any:
        if (packed := current()) is None:
            return None
        if isinstance(made, torch.Tensor):
            made = self._steps(packed, made, args[0])
        elif isinstance(made, tuple):
            made = (self._steps(packed, made[0], args[0]), *made[1:])
        else:
            made.last_hidden_state = self._steps(packed, made.last_hidden_state, args[0])
        packed.follows = True  # not before: what `_steps` puts behind is no padding of a layer
        return made

    def _steps(self, packed: PackedClips, made: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        """Of more steps than were given (an even kernel makes one more) those behind stay behind, as zeros."""
        if not self.channels_first:
            return packed.from_rows(made, time=1)
        width = given.shape[-1]
        steps = packed.from_rows(made[..., :width].mT, time=1).mT
        return nn.functional.pad(steps, (0, made.shape[-1] - width)) if made.shape[-1] > width else steps
