"""Clips of different lengths behind one another in one tensor, each computed as if it were alone.

A network of convolutions is local but for where a clip begins and ends: there its layers put zeros or a reflection.
`PackedClips` knows where every clip lies at every layer, and puts there what the layer would have put, into the gap
between clips. What runs along a whole clip (an LSTM, attention) gets the clips as rows of a batch instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Places:
    """Of a tensor `[1, C, T]`: clip i is real from `left + starts[i]` on, for `lengths[i]`.

    `left` and `right` are what `functional.pad` has put around the tensor, in `mode`. A layer that pads by itself
    completes its last window (ceil); a convolution that pads by its own argument drops it (floor).
    """

    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    left: int = 0
    right: int = 0
    mode: str | None = None
    value: float = 0.0


class PackedClips(TorchFunctionMode):
    """Within it, a network sees clips of `lengths` samples, from `starts` on, in a tensor `[1, 1, total]`.

    It follows convolutions (with their own zeros, or behind `functional.pad` by zeros, reflection or repetition),
    LSTMs of both directions, and pooling of whole windows; other layers must not look along time, or be wrapped
    (`run_clip_by_clip`). `total` and `starts` are whole strides at every layer. A clip is at most a `share`-th of the
    whole, and rows of LSTMs are `num_rows` in number, whatever is packed. Places are known by the width of a tensor,
    so that no width may stand for two of them: RuntimeError if it does, and where clips lie too close. Nothing is
    read back from the device. `graphs` keeps captured LSTMs from one batch to the next.
    """

    def __init__(
        self,
        starts: Sequence[int],
        lengths: Sequence[int],
        total: int,
        *,
        share: int = 1,
        num_rows: int | None = None,
        graphs: dict[Any, Any] | None = None,
    ):
        super().__init__()
        self._places = {total: Places(tuple(starts), tuple(lengths))}
        self._padded: dict[int, Places] = {}
        self._indices: dict[tuple[Any, ...], Any] = {}
        self._share, self._num_rows = share, num_rows or len(starts)
        self._graphs = graphs
        self._token: Token[PackedClips | None] | None = None

    def __enter__(self) -> PackedClips:
        self._token = _CURRENT.set(self)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        assert self._token is not None
        _CURRENT.reset(self._token)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        handler = _HANDLERS.get(func) or (PackedClips.lstm if getattr(func, "__name__", "") == "lstm" else None)
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
                raise RuntimeError(f"padding by {widths} of clips that are packed")
            places = self._at(x.shape[-1])
            self._padded[padded.shape[-1]] = Places(
                places.starts, places.lengths, widths[0], widths[1], mode, value or 0.0
            )
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
        places, step = self._padded.pop(x.shape[-1], None) or self._at(x.shape[-1]), _one(stride)
        reach = (weight.shape[-1] - 1) * _one(dilation) + 1
        before, behind = (
            (((reach - 1) // 2, reach // 2) if padding == "same" else (0, 0))
            if isinstance(padding, str)
            else (_one(padding), _one(padding))
        )
        completes = places.mode is not None
        if completes and before + behind:
            raise RuntimeError("a convolution that pads what was padded, of clips that are packed")
        extra = step - 1 if completes else 0
        self._fill_gaps(x, places, places.left + before, places.right + behind + extra)
        made = functional.conv1d(x, weight, bias, stride, padding, dilation, groups)
        extent = places.left + places.right + before + behind - reach + extra
        self._learn(made, places.starts, step, [(length + extent) // step + 1 for length in places.lengths])
        return made

    def avg_pool1d(self, x: torch.Tensor, kernel_size: Any, stride: Any = None, *rest: Any, **others: Any) -> Any:
        places, step = self._at(x.shape[-1]), _one(stride or kernel_size)
        if _one(kernel_size) != step or any(length % step for length in places.lengths):
            raise RuntimeError("pooling that is not of whole windows, of clips that are packed")
        made = functional.avg_pool1d(x, kernel_size, stride, *rest, **others)
        self._learn(made, places.starts, step, [length // step for length in places.lengths])
        return made

    def lstm(self, x: torch.Tensor, state: Any, weights: Any, *settings: Any) -> Any:
        """One direction never sees what is behind a row; the other is run on rows turned around within their ends."""
        has_bias, num_layers, _, _, bidirectional, batch_first = settings
        time = 1 if batch_first else 0
        made = self.to_rows(x, time).transpose(0, 1).contiguous()
        if bidirectional:
            turned = self._index(_turned, x.device, self._at(x.shape[time]), *made.shape[:2])[..., None]
            each = len(weights) // (2 * num_layers)
            for layer in range(0, 2 * num_layers, 2):
                there, back = (weights[i * each : (i + 1) * each] for i in (layer, layer + 1))
                forward = self._run_lstm(made, state, there, has_bias, 1)
                backward = self._run_lstm(made.gather(0, turned.expand_as(made)), state, back, has_bias, 1)
                made = torch.cat([forward, backward.gather(0, turned.expand_as(backward))], dim=-1)
        else:
            made = self._run_lstm(made, state, weights, has_bias, num_layers)
        return self.from_rows(made.transpose(0, 1), time), *state

    def to_rows(self, x: torch.Tensor, time: int) -> torch.Tensor:
        """`[1, T, C]` or `[T, 1, C]`, of which `time` is T -> `[num_rows, T / share, C]`, a clip in each row."""
        total = x.shape[time]
        if total % self._share:
            raise RuntimeError(f"{total} steps are not {self._share} x as many, of clips that are packed")
        index = self._index(_rows, x.device, self._at(total), self._num_rows, total // self._share, total)
        return x.reshape(total, -1).index_select(0, index).view(self._num_rows, total // self._share, -1)

    def from_rows(self, rows: torch.Tensor, time: int) -> torch.Tensor:
        """The inverse."""
        total = rows.shape[1] * self._share
        index = self._index(_steps, rows.device, self._at(total), rows.shape[1], total)
        return rows.flatten(0, 1).index_select(0, index).unsqueeze(1 - time)

    def _run_lstm(
        self, x: torch.Tensor, state: Any, weights: Sequence[torch.Tensor], has_bias: bool, num_layers: int
    ) -> torch.Tensor:
        """An LSTM over `[T, R, C]` from zeros. To a GPU it is thousands of small kernels: captured once, replayed."""

        def run(x: torch.Tensor) -> torch.Tensor:
            zeros = x.new_zeros(num_layers, x.shape[1], state[0].shape[-1])
            return torch.lstm(x, (zeros, zeros), list(weights), has_bias, num_layers, 0.0, False, False, False)[0]

        if not x.is_cuda or self._graphs is None:
            return run(x)
        key = (weights[0].data_ptr(), tuple(x.shape), x.dtype)
        if key not in self._graphs:
            self._graphs[key] = _captured(run, x)
        return self._graphs[key](x)

    def _fill_gaps(self, x: torch.Tensor, places: Places, before: int, behind: int) -> None:
        """Put into `x`, in place, so many values around each clip, as far as the tensor goes."""
        if before or behind:
            where, source = self._index(_gaps, x.device, places, before, behind, x.shape[-1])
            if places.mode in (None, "constant"):
                x.index_fill_(2, where, places.value)
            else:
                x.index_copy_(2, where, x.index_select(2, source))

    def _index(self, make: Callable[..., np.ndarray], device: torch.device, *arguments: Any) -> torch.Tensor:
        """`make(*arguments)`, once, on the device."""
        key = (make, *arguments)
        if key not in self._indices:
            made = torch.from_numpy(make(*arguments))
            self._indices[key] = (made.pin_memory() if device.type == "cuda" else made).to(device, non_blocking=True)
        return self._indices[key]

    def _at(self, width: int) -> Places:
        if width not in self._places:
            raise RuntimeError(f"a layer of width {width}, of which nothing is known: {sorted(self._places)}")
        return self._places[width]

    def _learn(self, made: torch.Tensor, starts: Sequence[int], step: int, lengths: Sequence[int]) -> None:
        if any(start % step for start in starts):
            raise RuntimeError(f"clips at {starts} do not begin with a stride of {step}")
        places = Places(tuple(start // step for start in starts), tuple(lengths))
        known = self._places.setdefault(made.shape[-1], places)
        if known != places:
            raise RuntimeError(f"the width {made.shape[-1]} stands for clips at {known} and at {places}")


def run_clip_by_clip(module: Any) -> None:
    """From now on `module`, which maps `[1, T, C]` to an output with `last_hidden_state`, is given clips as rows of a
    batch wherever they are packed: for what looks along a whole clip and never behind it, as causal attention."""
    forward = module.forward

    def over_rows(steps: torch.Tensor, *rest: Any, **others: Any) -> Any:
        packed = _CURRENT.get()
        if packed is None:
            return forward(steps, *rest, **others)
        made = forward(packed.to_rows(steps, time=1), *rest, **others)
        made.last_hidden_state = packed.from_rows(made.last_hidden_state, time=1)
        return made

    module.forward = over_rows
    module.runs_along_clips = True


def runs_along_clips(network: nn.Module) -> bool:
    """Whether it has layers for which clips become rows."""
    return any(isinstance(m, nn.LSTM) or getattr(m, "runs_along_clips", False) for m in network.modules())


def _captured(
    run: Callable[[torch.Tensor], torch.Tensor], like: torch.Tensor
) -> Callable[[torch.Tensor], torch.Tensor]:
    """`run` as one CUDA graph, for inputs of this shape. What it returns holds until it is called again."""
    given, stream = torch.empty_like(like), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):  # what libraries set up at first cannot be captured
            run(given)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        made = run(given)

    def replay(x: torch.Tensor) -> torch.Tensor:
        given.copy_(x)
        graph.replay()
        return made

    return replay


def _gaps(places: Places, before: int, behind: int, total: int) -> np.ndarray:
    """(where, the place that it is to equal), `[2, n]`: `before` values before each clip, `behind` values behind it."""
    first = places.left + np.array(places.starts)[:, None]
    last = first + np.array(places.lengths)[:, None] - 1
    mirrored = places.mode == "reflect"
    room = max(before, behind) if places.mode in (None, "constant") else before + behind
    apart = first[1:] - last[:-1] - 1
    if apart.size and apart.min() < room:
        raise RuntimeError(f"clips lie {apart.min()} apart, where a layer needs {room}")
    if mirrored and min(places.lengths) <= max(before, behind):
        raise RuntimeError(f"{min(places.lengths)} values are too short to be reflected by {max(before, behind)}")
    where, source = [], []
    for end, there in ((first, first - 1 - np.arange(before)), (last, last + 1 + np.arange(behind))):
        where.append(there.ravel())
        source.append((2 * end - there if mirrored else np.broadcast_to(end, there.shape)).ravel())
    made = np.stack([np.concatenate(where), np.concatenate(source)])
    return np.ascontiguousarray(made[:, (made[0] >= 0) & (made[0] < total)])


def _rows(places: Places, num_rows: int, width: int, total: int) -> np.ndarray:
    """The step that each place of the rows holds, row by row; some other where there is none."""
    if len(places.starts) > num_rows or max(places.lengths) > width:
        raise RuntimeError(f"{len(places.starts)} clips of up to {max(places.lengths)} steps, but {num_rows} x {width}")
    starts = np.zeros(num_rows, np.int64)
    starts[: len(places.starts)] = places.starts
    return np.minimum(starts[:, None] + np.arange(width), total - 1).ravel()


def _steps(places: Places, width: int, total: int) -> np.ndarray:
    """The place in the rows at which each step is; some other where it is of no clip."""
    made = np.zeros(total, np.int64)
    for row, (start, length) in enumerate(zip(places.starts, places.lengths, strict=True)):
        made[start : start + length] = row * width + np.arange(length)
    return made


def _turned(places: Places, width: int, num_rows: int) -> np.ndarray:
    """`[T, R]`: for each place of the rows the one whose value is there when each clip is turned around."""
    lengths = np.zeros(num_rows, np.int64)
    lengths[: len(places.lengths)] = places.lengths
    steps = np.arange(width)[:, None]
    return np.where(steps < lengths, lengths - 1 - steps, steps)


def _one(setting: Any) -> int:
    return int(setting[0]) if isinstance(setting, (tuple, list)) else int(setting)


_CURRENT: ContextVar[PackedClips | None] = ContextVar("packed clips", default=None)
_HANDLERS: dict[Any, Callable[..., Any]] = {
    functional.pad: PackedClips.pad,
    functional.conv1d: PackedClips.conv1d,
    functional.avg_pool1d: PackedClips.avg_pool1d,
}
