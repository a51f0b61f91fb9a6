"""Clips of different lengths behind one another in one tensor, each computed as if it were alone.

A network of convolutions is local but for where a clip begins and ends: there its layers put zeros or a reflection.
`PackedClips` knows where every clip lies at every layer, and puts there what the layer would have put, into the gap
between clips. What runs along a whole clip (an LSTM, attention) gets the clips as rows of a batch instead, a norm over
it each clip alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar, Token
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from slm.devices import sent
from slm.tokenizers.networks.captured import captured
from slm.tokenizers.networks.places import Places, gaps, held, rows, steps, turned

_LOOK_ALONG = {"gru", "rnn_tanh", "rnn_relu", "instance_norm", "conv2d", "max_pool1d"}
"""What looks along time and is not followed."""


class PackedClips(TorchFunctionMode):
    """Within it, a network sees clips of `lengths` samples, from `starts` on, in a tensor `[1, 1, total]`.

    It follows convolutions (with their own zeros, or behind `functional.pad` by zeros, reflection or repetition),
    transposed ones that cut off what they see beyond it, group norms, LSTMs of both directions, PyTorch's attention,
    and pooling of whole windows; other layers must not look along time, or be told to (`clip_by_clip`). `total` and
    `starts` are whole strides at every layer. A clip is at most a `share`-th of the whole, and rows are `num_rows` in
    number, whatever is packed (None: there are none). Places are known by the width of a tensor, so that no width may
    stand for two of them: RuntimeError if it does, where clips lie too close, and for some layers that it does not
    follow. Nothing is read back from the device. `graphs` keeps captured LSTMs from one batch to the next.
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
        self._share, self._num_rows = share, num_rows
        self._graphs = graphs
        self._token: Token[PackedClips | None] | None = None
        self.follows = True
        """Not while a module runs on clips as rows."""

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
        if not self.follows:
            return func(*args, **(kwargs or {}))
        handler = _HANDLERS.get(func) or (PackedClips.lstm if getattr(func, "__name__", "") == "lstm" else None)
        if handler is None:
            if getattr(func, "__name__", "") in _LOOK_ALONG:
                raise RuntimeError(f"{func.__name__} is not followed, of clips that are packed")
            return func(*args, **(kwargs or {}))
        return handler(self, *args, **(kwargs or {}))

    def pad(
        self, x: torch.Tensor, pad: Iterable[Any], mode: str = "constant", value: float | None = None
    ) -> torch.Tensor:
        widths = [int(width) for width in pad]
        padded = functional.pad(x, widths, mode, value)
        if any(widths):
            if len(widths) != 2 or min(widths) < 0 or mode not in ("constant", "reflect", "replicate"):
                raise RuntimeError(f"padding by {widths} ({mode}) of clips that are packed")
            places = self._at(x.shape[-1])
            self._padded[padded.shape[-1]] = Places(
                places.starts, places.lengths, widths[0], widths[1], mode, value or 0.0
            )
        return padded

    def conv1d(
        self,
        input: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> torch.Tensor:
        x, step = input, _one(stride)
        places = self._padded.pop(x.shape[-1], None) or self._at(x.shape[-1])
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

    def conv_transpose1d(
        self,
        input: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> torch.Tensor:
        """Of what was padded, and as much cut off again, so that nothing beyond the padding is seen."""
        places, step, cut = self._padded.pop(input.shape[-1], None), _one(stride), _one(padding)
        reach = (weight.shape[-1] - 1) * _one(dilation)
        if places is None or cut < reach or _one(output_padding):
            raise RuntimeError("a transposed convolution that sees beyond what was padded, of clips that are packed")
        self._fill_gaps(input, places, places.left, places.right)
        made = functional.conv_transpose1d(input, weight, bias, stride, padding, output_padding, groups, dilation)
        around = places.left + places.right - 1
        lengths = [(length + around) * step + reach + 1 - 2 * cut for length in places.lengths]
        self._know(made.shape[-1], Places(tuple(start * step for start in places.starts), tuple(lengths)))
        return made

    def avg_pool1d(self, input: torch.Tensor, kernel_size: Any, stride: Any = None, *rest: Any, **others: Any) -> Any:
        places, step = self._at(input.shape[-1]), _one(stride or kernel_size)
        if rest or others or _one(kernel_size) != step or any(length % step for length in places.lengths):
            raise RuntimeError("pooling that is not of whole windows, of clips that are packed")
        made = functional.avg_pool1d(input, kernel_size, stride)
        self._learn(made, places.starts, step, [length // step for length in places.lengths])
        return made

    def group_norm(self, input: torch.Tensor, *settings: Any, **others: Any) -> torch.Tensor:
        places, made = self._at(input.shape[-1]), torch.zeros_like(input)
        for start, length in zip(places.starts, places.lengths, strict=True):
            clip = slice(start, start + length)
            made[..., clip] = functional.group_norm(input[..., clip], *settings, **others)
        return made

    def scaled_dot_product_attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **settings: Any,
    ) -> torch.Tensor:
        """Of whole clips `[1, H, T, D]`, by rows. Windows within clips, whose number of steps is none of the network's,
        are left as they are."""
        attend = functional.scaled_dot_product_attention
        if query.shape[-2] not in self._places:
            return attend(query, key, value, attn_mask, dropout_p, is_causal, **settings)
        if attn_mask is not None or len(query) > 1 or key.shape[-2] != query.shape[-2]:
            raise RuntimeError("attention by a mask or between sequences, of clips that are packed")
        query, key, value = (self._heads_to_rows(x) for x in (query, key, value))
        # What is causal never looks behind a clip.
        mask = None if is_causal else self.held(query.transpose(1, 2))[:, None, None]
        made = attend(query, key, value, mask, dropout_p, is_causal, **settings).transpose(1, 2).flatten(2)
        return self.from_rows(made, time=1).unflatten(2, (query.shape[1], -1)).transpose(1, 2)

    def _heads_to_rows(self, x: torch.Tensor) -> torch.Tensor:
        """`[1, H, T, D]` -> `[num_rows, H, T / share, D]`."""
        return self.to_rows(x.transpose(1, 2).flatten(2), time=1).unflatten(2, (x.shape[1], -1)).transpose(1, 2)

    def lstm(self, x: torch.Tensor, state: Any, weights: Any, *settings: Any) -> Any:
        """One direction never sees what is behind a row; the other is run on rows turned around within their ends."""
        has_bias, num_layers, _, _, bidirectional, batch_first = settings
        time = 1 if batch_first else 0
        made = self.to_rows(x, time).transpose(0, 1).contiguous()
        if bidirectional:
            back_to_front = self._index(turned, x.device, self._at(x.shape[time]), *made.shape[:2])[..., None]
            each = len(weights) // (2 * num_layers)
            for layer in range(0, 2 * num_layers, 2):
                there, back = (weights[i * each : (i + 1) * each] for i in (layer, layer + 1))
                forward = self._run_lstm(made, state, there, has_bias, 1)
                backward = self._run_lstm(made.gather(0, back_to_front.expand_as(made)), state, back, has_bias, 1)
                made = torch.cat([forward, backward.gather(0, back_to_front.expand_as(backward))], dim=-1)
        else:
            made = self._run_lstm(made, state, weights, has_bias, num_layers)
        return self.from_rows(made.transpose(0, 1), time), *state

    def to_rows(self, x: torch.Tensor, time: int) -> torch.Tensor:
        """`[1, T, C]` or `[T, 1, C]`, of which `time` is T -> `[num_rows, T / share, C]`, a clip in each row."""
        total = x.shape[time]
        if self._num_rows is None:
            raise RuntimeError("clips as rows, whose number is not known: does `encoder_stages` name all stages?")
        if total % self._share:
            raise RuntimeError(f"{total} steps are not {self._share} x as many, of clips that are packed")
        index = self._index(rows, x.device, self._at(total), self._num_rows, total // self._share)
        return x.reshape(total, -1).index_select(0, index).view(self._num_rows, total // self._share, -1)

    def from_rows(self, x: torch.Tensor, time: int) -> torch.Tensor:
        """The inverse."""
        total = x.shape[1] * self._share
        index = self._index(steps, x.device, self._at(total), x.shape[1], total)
        return x.flatten(0, 1).index_select(0, index).unsqueeze(1 - time)

    def held(self, rows: torch.Tensor) -> torch.Tensor:
        """Which places of rows `[num_rows, W, ...]` are of a clip, bool `[num_rows, W]`; of one without a clip, one."""
        places = self._at(rows.shape[1] * self._share)
        return self._index(held, rows.device, places, *rows.shape[:2])

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
        if key not in self._graphs:  # with the weights, so that no others come to their address
            self._graphs[key] = captured(run, x), weights
        replay, _ = self._graphs[key]
        made: torch.Tensor = replay(x)
        return made

    def _fill_gaps(self, x: torch.Tensor, places: Places, before: int, behind: int) -> None:
        """Put into `x`, in place, so many values around each clip, as far as the tensor goes."""
        if before or behind:
            where, source = self._index(gaps, x.device, places, before, behind, x.shape[-1])
            if places.mode in (None, "constant"):
                x.index_fill_(2, where, places.value)
            else:
                x.index_copy_(2, where, x.index_select(2, source))

    def _index(self, make: Callable[..., np.ndarray], device: torch.device, *arguments: Any) -> torch.Tensor:
        """`make(*arguments)`, once, on the device."""
        key = (make, *arguments)
        if key not in self._indices:
            self._indices[key] = sent(torch.from_numpy(make(*arguments)), device)
        return self._indices[key]

    def _at(self, width: int) -> Places:
        if width not in self._places:
            raise RuntimeError(f"a layer of width {width}, of which nothing is known: {sorted(self._places)}")
        return self._places[width]

    def _learn(self, made: torch.Tensor, starts: Sequence[int], step: int, lengths: Sequence[int]) -> None:
        if any(start % step for start in starts):
            raise RuntimeError(f"clips at {starts} do not begin with a stride of {step}")
        self._know(made.shape[-1], Places(tuple(start // step for start in starts), tuple(lengths)))

    def _know(self, width: int, places: Places) -> None:
        known = self._places.setdefault(width, places)
        if known != places:
            raise RuntimeError(f"the width {width} stands for clips at {known} and at {places}")


def current() -> PackedClips | None:
    """The one that a network runs within."""
    return _CURRENT.get()


def _one(setting: Any) -> int:
    return int(setting[0]) if isinstance(setting, (tuple, list)) else int(setting)


_CURRENT: ContextVar[PackedClips | None] = ContextVar("packed clips", default=None)
_HANDLERS: dict[Any, Callable[..., Any]] = {
    functional.pad: PackedClips.pad,
    functional.conv1d: PackedClips.conv1d,
    functional.conv_transpose1d: PackedClips.conv_transpose1d,
    functional.avg_pool1d: PackedClips.avg_pool1d,
    functional.group_norm: PackedClips.group_norm,
    functional.scaled_dot_product_attention: PackedClips.scaled_dot_product_attention,
}
