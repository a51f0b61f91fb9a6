"""Clips of different lengths through a codec together, in tensors of canonical shapes.

Rounding depends on the shape of a tensor, and decides near ties. So the shape that a clip is coded in depends on its
own length alone: its length is rounded up to a rung of a ladder, and each rung has its number of rows, which silence
fills up. The same clip then meets the same kernels whatever its neighbours, and its codes are theirs and its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from slm.tokenizers._codec import NeuralCodec
    from slm.types import Codes

MIN_FRAMES = 16
"""Shorter clips are coded alone, at their own length: layers treat what is shorter than their padding otherwise."""
_MAX_ROWS = 64


def rung_frames(frames: int) -> int:
    """The rung for a clip of `frames` (16 or more): eight to an octave, so that a row is 6 % longer on average."""
    step = 1 << max(0, frames.bit_length() - 4)
    return -(-frames // step) * step


def num_rows(rung_s: float, batch_s: float) -> int:
    """Rows of a batch of `batch_s` seconds of audio, as many as a rung of `rung_s` always gets."""
    return max(1, min(_MAX_ROWS, int(batch_s / rung_s)))


def encode_batched(codec: NeuralCodec, signals: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Signals `[N_i]` -> codes `[T_i, K]`. The device is not waited for until all batches are on their way."""
    made: dict[int, np.ndarray] = {}
    waiting: list[tuple[list[int], torch.Tensor]] = []
    for rung, rows, members in _groups(codec, [len(signal) for signal in signals]):
        for start in range(0, len(members), rows):
            part = members[start : start + rows]
            if rows == 1:
                made[part[0]] = codec._encode_single(signals[part[0]])
            else:
                waiting.append((part, _codes_of_rows(codec, [signals[i] for i in part], rung, rows)))
    for part, codes in waiting:
        for i, row in zip(part, codes.cpu().numpy(), strict=False):
            made[i] = row[:, : codec.spec.num_frames(len(signals[i]))].T
    return [made[i] for i in range(len(signals))]


def _groups(codec: NeuralCodec, lengths: Sequence[int]) -> list[tuple[int, int, list[int]]]:
    """(frames of a row, rows, the signals that go there), longest first, so that a lack of memory shows early."""
    hop, unit = codec.spec.hop_samples, codec.spec.frame_multiple
    batch_s = codec.batch_s.get(codec._parameter().device.type, 0.0)
    groups: dict[tuple[int, int], list[int]] = {}
    for i, length in enumerate(lengths):
        frames = -(-length // (hop * unit)) * unit
        rung = -(-rung_frames(frames) // unit) * unit if frames >= MIN_FRAMES * unit else frames
        rows = num_rows(rung / codec.spec.frame_rate_hz, batch_s) if frames >= MIN_FRAMES * unit else 1
        groups.setdefault((rung, 1 if codec._is_long(length) else rows), []).append(i)
    return [(rung, rows, members) for (rung, rows), members in sorted(groups.items(), reverse=True)]


def _codes_of_rows(codec: NeuralCodec, signals: Sequence[np.ndarray], rung: int, rows: int) -> torch.Tensor:
    """Signals within `rung` frames -> codes `[rows, K, T]`, on the device; rows without a signal are silence."""
    import torch

    from slm.tokenizers.networks.ragged import RaggedRows

    parameter = codec._parameter()
    total = rung * codec.spec.hop_samples
    values = torch.zeros(rows, 1, total, pin_memory=parameter.is_cuda)
    for row, signal in zip(values, signals, strict=False):
        row[0, : len(signal)] = torch.from_numpy(np.ascontiguousarray(signal))
    lengths = [len(signal) for signal in signals] + [total] * (rows - len(signals))
    unit = codec.spec.frame_multiple * codec.spec.hop_samples if codec.batching == "frames" else 1
    with RaggedRows([-(-length // unit) * unit for length in lengths], total):
        return codec._codes_of(values.to(parameter.device, parameter.dtype, non_blocking=True))


def to_bfloat16(model: Any) -> None:
    """From now on what leads to `model.quantizer` computes in bfloat16, and that as before, whatever it is given."""
    import torch

    def in_fp32(quantize: Callable[..., Any]) -> Callable[..., Any]:
        return lambda latents, *rest, **others: quantize(latents.float(), *rest, **others)

    for stage in ("encoder", "encoder_transformer", "downsample"):  # Mimi's last two, in older versions of transformers
        if getattr(model, stage, None) is not None:
            getattr(model, stage).to(torch.bfloat16)
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
