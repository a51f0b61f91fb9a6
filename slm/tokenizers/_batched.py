"""Clips of different lengths through a codec together, packed into tensors of one shape.

Rounding depends on the shape of a tensor, and decides near ties. So every clip is coded in a tensor of the same shape
(or of a few, where layers run along the whole clip: its own length says of which), in which clips lie behind one
another. The same clip then meets the same kernels whatever its neighbours, and its codes are theirs and its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from slm.tokenizers._codec import NeuralCodec
    from slm.types import Codes

MIN_FRAMES = 16
"""Shorter clips are coded alone: layers treat what is shorter than their padding otherwise."""
_SHARES = (1, 2, 4, 8, 16)
_MAX_ROWS = 64


@dataclass
class Batch:
    """Clips in one tensor, all of at most a `share`-th of it and more than half of that; numbers and first frames."""

    share: int
    members: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    free: int = 0
    """The first frame that is free."""

    @property
    def num_rows(self) -> int:
        """As many clips as fit, at most; of the shortest ones, as many as are taken."""
        return _MAX_ROWS if self.share == _SHARES[-1] else 2 * self.share - 1


def pack(frames: Sequence[int], total: int, gap: int, by_length: bool) -> list[Batch]:
    """Clips of so many frames into batches of `total` frames, `gap` frames or more between them: each clip, from the
    longest on, goes to the first batch with room. `by_length`: clips share one with those of like length only."""
    batches: list[Batch] = []
    for i in sorted(range(len(frames)), key=lambda i: -frames[i]):
        share = max(share for share in _SHARES if frames[i] * share <= total) if by_length else 1
        for batch in batches:
            full = by_length and len(batch.members) == batch.num_rows
            if batch.share == share and not full and batch.free + frames[i] <= total:
                break
        else:
            batches.append(batch := Batch(share))
        batch.members.append(i)
        batch.starts.append(batch.free)
        batch.free += frames[i] + gap
    return batches


def start_batches(codec: NeuralCodec, signals: Sequence[np.ndarray]) -> Callable[[], list[np.ndarray]]:
    """Set the device to work on signals `[N_i]`; what is returned waits for it and gives codes `[T_i, K]`. Signals that
    share no batch are coded one by one, at once."""
    begun: list[tuple[Batch, torch.Tensor, Callable[[], None]]] = []
    for batch, by_length in _batches(codec, signals):
        codes = _codes_of_batch(codec, batch, signals, by_length)[0].T.int()
        begun.append((batch, *_on_its_way_to_host(codes)))
    packed = {i for batch, *_ in begun for i in batch.members}
    made = {i: codec._encode_single(signal) for i, signal in enumerate(signals) if i not in packed}
    frames = [codec.spec.num_frames(len(signal)) for signal in signals]

    def finish() -> list[np.ndarray]:
        for batch, codes, wait in begun:
            wait()
            for i, start in zip(batch.members, batch.starts, strict=True):
                made[i] = codes.numpy()[start : start + frames[i]]
        return [made[i] for i in range(len(frames))]

    return finish


def _on_its_way_to_host(values: torch.Tensor) -> tuple[torch.Tensor, Callable[[], None]]:
    """A copy on the host, and what waits for that alone, not for what the device is given to do after it."""
    import torch

    copied = values.to("cpu", non_blocking=True)
    if not values.is_cuda:
        return copied, lambda: None
    there = torch.cuda.Event()
    there.record()
    return copied, there.synchronize


def _batches(codec: NeuralCodec, signals: Sequence[np.ndarray]) -> Iterator[tuple[Batch, bool]]:
    """The batches of those signals that can share one, and whether their layers run along whole clips."""
    from slm.tokenizers._codec import widest_layer
    from slm.tokenizers.networks.packed import runs_along_clips

    total, unit = _frames_of_batch(codec), codec.spec.frame_multiple
    units = [-(-len(signal) // (codec.spec.hop_samples * unit)) for signal in signals]
    packed = [
        i
        for i, signal in enumerate(signals)
        if units[i] >= MIN_FRAMES and units[i] * unit <= total and not codec._is_long(len(signal))
    ]
    if not packed:
        return
    stages = codec.encoder_stages()
    by_length = any(runs_along_clips(stage) for stage in stages)
    gap = -(-widest_layer(stages, codec.spec.hop_samples) // unit)
    for batch in pack([units[i] for i in packed], total // unit, gap, by_length):
        batch.members = [packed[i] for i in batch.members]
        batch.starts = [start * unit for start in batch.starts]
        yield batch, by_length


def _frames_of_batch(codec: NeuralCodec) -> int:
    """Whole shares of whole frames, so that each share is as many steps at every layer."""
    whole = codec.spec.frame_multiple * _SHARES[-1]
    seconds = codec.batch_s.get(codec._parameter().device.type, 0.0)
    return int(seconds * codec.spec.frame_rate_hz) // whole * whole


def _codes_of_batch(codec: NeuralCodec, batch: Batch, signals: Sequence[np.ndarray], by_length: bool) -> torch.Tensor:
    """Codes `[1, K, T]` of a whole batch, on the device."""
    import torch

    from slm.tokenizers.networks.packed import PackedClips

    parameter, hop = codec._parameter(), codec.spec.hop_samples
    total = _frames_of_batch(codec) * hop
    values = torch.zeros(total, pin_memory=parameter.is_cuda)
    for i, start in zip(batch.members, batch.starts, strict=True):
        values[start * hop : start * hop + len(signals[i])] = torch.from_numpy(np.ascontiguousarray(signals[i]))
    unit = codec.spec.frame_multiple * hop if codec.batching == "frames" else 1
    packed = PackedClips(
        [start * hop for start in batch.starts],
        [-(-len(signals[i]) // unit) * unit for i in batch.members],
        total,
        share=batch.share,
        num_rows=batch.num_rows if by_length else None,
        graphs=codec.graphs,
    )
    with packed:
        return codec._codes_of(values[None, None].to(parameter.device, parameter.dtype, non_blocking=True))


def to_bfloat16(codec: NeuralCodec) -> None:
    """From now on what leads to the codec's `model.quantizer` computes in bfloat16, and that as before, whatever it is
    given."""
    import torch

    def in_fp32(quantize: Callable[..., Any]) -> Callable[..., Any]:
        return lambda latents, *rest, **others: quantize(latents.float(), *rest, **others)

    model = codec.model
    for stage in codec.encoder_stages():
        stage.to(torch.bfloat16)
    model.encoder.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(torch.bfloat16), *inputs[1:]))
    model.quantizer.forward = in_fp32(model.quantizer.forward)
    if hasattr(model.quantizer, "encode"):
        model.quantizer.encode = in_fp32(model.quantizer.encode)


def code_mismatch(made: Sequence[Codes], exact: Sequence[Codes]) -> float:
    """The fraction of codes, over all codebooks, in which clips differ from what mode `exact` makes of them.

    A near tie that falls otherwise in one codebook changes the residue, and so most codes of its frame after it.
    """
    pairs = list(zip(made, exact, strict=True))
    differing = sum(int((a.codes != b.codes).sum()) for a, b in pairs)
    return differing / max(1, sum(a.codes.size for a, _ in pairs))
