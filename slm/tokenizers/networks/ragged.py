"""Rows of different lengths in one batch, each computed as if it were alone.

A network of convolutions is local but for where a clip ends: there its layers put zeros or a reflection, and in a
batch the end of a row lies inside the tensor. `RaggedRows` knows where every row ends at every layer, and puts there
what the layer would have put. What lies behind the end of a row is never seen by the row, at any layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Ends:
    """Of a tensor `[R, C, T]`: row r is real from `left` to `left + lengths[r]`.

    `right` is what `functional.pad` has put behind the longest row, in `mode`. A layer that pads by itself completes
    its last window (ceil); a convolution that pads by its own argument drops it (floor).
    """

    lengths: tuple[int, ...]
    left: int = 0
    right: int = 0
    mode: str | None = None
    value: float = 0.0


class RaggedRows(TorchFunctionMode):
    """Within it, a network sees rows of `lengths` samples in a tensor `[R, 1, padded_length]`.

    It follows convolutions (with their own zeros, or behind `functional.pad` by zeros, reflection or repetition),
    LSTMs of both directions, and pooling of whole windows; other layers must not look along time. `padded_length` is
    whole strides at every layer, so that none completes a window for it. Lengths are known by
    the width of a tensor, so that no width may stand for two sets of lengths: RuntimeError if it does. Nothing is read
    back from the device.
    """

    def __init__(self, lengths: Sequence[int], padded_length: int):
        super().__init__()
        self._ends = {padded_length: Ends(tuple(lengths))}
        self._padded: dict[int, Ends] = {}
        self._indices: dict[tuple[Any, ...], tuple[torch.Tensor, ...]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        handler = _HANDLERS.get(func) or (RaggedRows.lstm if getattr(func, "__name__", "") == "lstm" else None)
        if handler is None:
            return func(*args, **(kwargs or {}))
        return handler(self, *args, **(kwargs or {}))

    def pad(
        self, x: torch.Tensor, pad: Iterable[Any], mode: str = "constant", value: float | None = None
    ) -> torch.Tensor:
        widths = [int(width) for width in pad]
        padded = functional.pad(x, widths, mode, value)
        if any(widths):
            if len(widths) != 2 or min(widths) < 0:
                raise RuntimeError(f"padding by {widths} within a batch of rows of different lengths")
            ends = self._of(x)
            if mode == "reflect" and min(ends.lengths) <= max(widths):
                raise RuntimeError(f"a row of {min(ends.lengths)} is too short to be reflected by {max(widths)}")
            self._padded[padded.shape[-1]] = Ends(ends.lengths, widths[0], widths[1], mode, value or 0.0)
        return padded

    def conv1d(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> torch.Tensor:
        ends, step = self._padded.pop(x.shape[-1], None) or self._of(x), _one(stride)
        reach = (weight.shape[-1] - 1) * _one(dilation) + 1
        before, behind = (
            (((reach - 1) // 2, reach // 2) if padding == "same" else (0, 0))
            if isinstance(padding, str)
            else (_one(padding), _one(padding))
        )
        completes = ends.mode is not None
        self._end_rows(x, ends, (step - 1 if completes else 0) + ends.right + behind)
        made = functional.conv1d(x, weight, bias, stride, padding, dilation, groups)
        extent = ends.left + ends.right + before + behind - reach + (step - 1 if completes else 0)
        self._learn(made, Ends(tuple((length + extent) // step + 1 for length in ends.lengths)))
        return made

    def avg_pool1d(self, x: torch.Tensor, kernel_size: Any, stride: Any = None, *rest: Any, **others: Any) -> Any:
        ends, step = self._of(x), _one(stride or kernel_size)
        if _one(kernel_size) != step or any(length % step for length in ends.lengths):
            raise RuntimeError("pooling that is not of whole windows, within a batch of rows of different lengths")
        made = functional.avg_pool1d(x, kernel_size, stride, *rest, **others)
        self._learn(made, Ends(tuple(length // step for length in ends.lengths)))
        return made

    def lstm(self, x: torch.Tensor, state: Any, weights: Any, *settings: Any) -> Any:
        """One direction never sees what is behind a row; the other is run on rows turned around within their ends."""
        has_bias, num_layers, dropout, training, bidirectional, batch_first = settings
        if not bidirectional:
            return torch.lstm(x, state, weights, *settings)
        time = 1 if batch_first else 0
        (turned,) = self._index("turned", self._ends[x.shape[time]], x.shape[time], 0, x.device)
        turned = (turned if batch_first else turned.T)[..., None]
        each = len(weights) // (2 * num_layers)
        for layer in range(2 * num_layers):
            part = weights[layer * each : (layer + 1) * each]
            hidden = tuple(s[layer : layer + 1] for s in state)
            source = x if layer % 2 == 0 else x.gather(time, turned.expand_as(x))
            made = torch.lstm(source, hidden, part, has_bias, 1, dropout, training, False, batch_first)[0]
            if layer % 2 == 0:
                forward = made
            else:
                x = torch.cat([forward, made.gather(time, turned.expand_as(made))], dim=-1)
        return x, *state

    def _end_rows(self, x: torch.Tensor, ends: Ends, width: int) -> None:
        """Put into `x`, in place, `width` values behind the end of each row, as far as the tensor goes."""
        if width == 0:
            return
        where, source, inside = self._index("ends", ends, x.shape[-1], width, x.device)
        shape = (-1, x.shape[1], -1)
        values = x.gather(2, source[:, None].expand(shape))
        if ends.mode in (None, "constant"):
            values = torch.where(inside[:, None], values, ends.value)
        x.scatter_(2, where[:, None].expand(shape), values)

    def _index(self, kind: str, ends: Ends, total: int, width: int, device: torch.device) -> tuple[torch.Tensor, ...]:
        key = (kind, ends, total, width)
        if key not in self._indices:
            lengths = torch.tensor(ends.lengths)[:, None]
            if kind == "turned":
                places = torch.arange(total)[None]
                made: tuple[torch.Tensor, ...] = (torch.where(places < lengths, lengths - 1 - places, places),)
            else:
                last = ends.left + lengths - 1
                # Clamped places repeat the last one, with the same value.
                where = (last + 1 + torch.arange(width)).clamp(max=total - 1)
                mirrored = (2 * last - where).clamp(min=0) if ends.mode == "reflect" else last.expand_as(where)
                made = (where, torch.where(where <= last, where, mirrored), where <= last)
            pinned = device.type == "cuda"
            self._indices[key] = tuple((m.pin_memory() if pinned else m).to(device, non_blocking=True) for m in made)
        return self._indices[key]

    def _of(self, x: torch.Tensor) -> Ends:
        if x.shape[-1] not in self._ends:
            raise RuntimeError(f"a layer of width {x.shape[-1]}, of which nothing is known: {sorted(self._ends)}")
        return self._ends[x.shape[-1]]

    def _learn(self, x: torch.Tensor, ends: Ends) -> None:
        known = self._ends.setdefault(x.shape[-1], ends)
        if known != ends:
            raise RuntimeError(f"the width {x.shape[-1]} stands for rows of {known} and of {ends}")


def _one(setting: Any) -> int:
    return int(setting[0]) if isinstance(setting, (tuple, list)) else int(setting)


_HANDLERS: dict[Any, Callable[..., Any]] = {
    functional.pad: RaggedRows.pad,
    functional.conv1d: RaggedRows.conv1d,
    functional.avg_pool1d: RaggedRows.avg_pool1d,
}
