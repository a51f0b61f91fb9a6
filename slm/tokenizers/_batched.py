"""Clips of different lengths through a tokenizer together, packed into tensors of one shape.

Rounding depends on the shape of a tensor, and decides near ties. So every clip is coded in a tensor of the same shape
(or of a few, where layers run along the whole clip: its own length says of which), in which clips lie behind one
another. The same clip then meets the same kernels whatever its neighbours, and its codes are theirs and its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

    from slm.tokenizers._modes import PackedTokenizer
    from slm.tokenizers.networks.packed import PackedClips
    from slm.types import Codes

MIN_FRAMES = 16
"""A clip of fewer frames is coded alone: layers treat what is shorter than their padding otherwise."""
_SHARES = (1, 2, 4, 8, 16)
_MAX_ROWS = 64


@dataclass
class Batch:
    """Clips in one tensor, each at most a `share`-th of it: their numbers, and where each begins. `num_rows` is how
    many may share it, where they are of like length."""

    share: int = 1
    num_rows: int | None = None
    members: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    free: int = 0
    """Where the next clip may begin."""

    def packed(
        self, starts: Sequence[int], lengths: Sequence[int], total: int, graphs: dict[Any, Any] | None = None
    ) -> PackedClips:
        """In which a network sees the members, from `starts` on, in a tensor of `total` samples, or steps."""
        from slm.tokenizers.networks.packed import PackedClips

        return PackedClips(starts, lengths, total, share=self.share, num_rows=self.num_rows, graphs=graphs)


def pack(lengths: Sequence[int], total: int, gap: int, by_length: bool) -> list[Batch]:
    """Clips of such lengths into batches of `total`, `gap` or more between them: each clip, from the longest on, goes
    to the first batch with room. `by_length`: clips share one with those of more than half the same share only."""
    batches: list[Batch] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        share, num_rows = 1, None
        if by_length:
            share = max(share for share in _SHARES if lengths[i] * share <= total)
            num_rows = _MAX_ROWS if share == _SHARES[-1] else 2 * share - 1  # more do not fit
        for batch in batches:
            if batch.share == share and len(batch.members) != num_rows and batch.free + lengths[i] <= total:
                break
        else:
            batches.append(batch := Batch(share, num_rows))
        batch.members.append(i)
        batch.starts.append(batch.free)
        batch.free += lengths[i] + gap
    return batches


def start_batches(tokenizer: PackedTokenizer, signals: Sequence[np.ndarray]) -> Callable[[], list[np.ndarray]]:
    """Set the device to work on signals `[N_i]`; what is returned waits for it and gives codes `[T_i, K]`. Signals that
    share no batch are coded one by one, at once."""
    begun: list[tuple[Batch, torch.Tensor, Callable[[], None]]] = []
    for batch in _batches(tokenizer, signals):
        codes = tokenizer._codes_of_batch(batch, signals)[0].T.int()
        begun.append((batch, *_on_its_way_to_host(codes)))
    packed = {i for batch, *_ in begun for i in batch.members}
    made = {i: tokenizer._encode_alone(signal) for i, signal in enumerate(signals) if i not in packed}
    frames = [tokenizer._num_frames(len(signal)) for signal in signals]

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


def _batches(tokenizer: PackedTokenizer, signals: Sequence[np.ndarray]) -> Iterator[Batch]:
    """The batches of those signals that fit in one, in frames."""
    from slm.tokenizers.networks.clip_by_clip import runs_along_clips

    total, unit = frames_of_batch(tokenizer), tokenizer.spec.frame_multiple
    units = [-(-tokenizer._samples_taken(len(signal)) // (tokenizer.spec.hop_samples * unit)) for signal in signals]
    longest = tokenizer.longest_in_batch_s * tokenizer.spec.sample_rate_hz
    packed = [i for i, count in enumerate(units) if MIN_FRAMES <= count * unit <= total and len(signals[i]) <= longest]
    if not packed:
        return
    by_length = any(runs_along_clips(stage) for stage in tokenizer.encoder_stages())
    gap = -(-tokenizer._gap_frames() // unit)
    for batch in pack([units[i] for i in packed], total // unit, gap, by_length):
        batch.members = [packed[i] for i in batch.members]
        batch.starts = [start * unit for start in batch.starts]
        yield batch


def frames_of_batch(tokenizer: PackedTokenizer) -> int:
    """Whole shares of whole frames, so that each share is as many steps at every layer."""
    whole = tokenizer.spec.frame_multiple * _SHARES[-1]
    seconds = tokenizer.batch_s.get(tokenizer._parameter().device.type, 0.0)
    return int(seconds * tokenizer.spec.frame_rate_hz) // whole * whole


def codes_of_batch(tokenizer: PackedTokenizer, batch: Batch, signals: Sequence[np.ndarray]) -> torch.Tensor:
    """Codes `[1, K, T]` of a whole batch, on the device, by a network that takes signals as they are."""
    hop = tokenizer.spec.hop_samples
    total = frames_of_batch(tokenizer) * hop + tokenizer._tail_samples
    starts = [start * hop for start in batch.starts]
    values = end_to_end([signals[i] for i in batch.members], starts, total, tokenizer._parameter())
    lengths = [tokenizer._samples_taken(len(signals[i])) for i in batch.members]
    with batch.packed(starts, lengths, total, tokenizer.graphs):
        return tokenizer._codes_of(values)


class ReadsSpectra(Protocol):
    """What takes log-mel frames, or what is made of them clip by clip."""

    @property
    def spectra_per_frame(self) -> int: ...

    def spectra_of(self, signal: torch.Tensor) -> torch.Tensor:
        """A signal `[N]` -> `[1, spectra, bands]` on its device."""

    def run(self, spectra: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Spectra, of one clip or packed, and which frame of its clip each frame is `[T]` -> frames."""


def run_on_spectra(
    reader: ReadsSpectra,
    hop_samples: int,
    batch: Batch,
    signals: Sequence[np.ndarray],
    frames: int,
    like: torch.Tensor,
) -> torch.Tensor:
    """The members of a batch of so many frames, in it -> what `reader` makes of their spectra."""
    import torch

    per_frame = reader.spectra_per_frame
    starts = [start * hop_samples for start in batch.starts]
    stops = [start + len(signal) for start, signal in zip(starts, signals, strict=True)]
    heard = end_to_end(signals, starts, max(stops), like.float())[0, 0]
    made = [reader.spectra_of(heard[start:stop]) for start, stop in zip(starts, stops, strict=True)]
    begins, lengths = [start * per_frame for start in batch.starts], [each.shape[1] for each in made]
    spectra = spectra_end_to_end(made, begins, frames * per_frame).to(like.dtype)
    positions = torch.zeros(frames, dtype=torch.int64, pin_memory=like.is_cuda)
    for start, length in zip(batch.starts, lengths, strict=True):
        count = -(-length // per_frame)
        positions[start : start + count] = torch.arange(count)
    with batch.packed(begins, lengths, frames * per_frame):
        return reader.run(spectra, positions.to(like.device, non_blocking=True))


def end_to_end(signals: Sequence[np.ndarray], starts: Sequence[int], total: int, like: torch.Tensor) -> torch.Tensor:
    """Signals in zeros `[1, 1, total]`, on the device of `like` and of its type."""
    import torch

    values = torch.zeros(total, pin_memory=like.is_cuda)
    for signal, start in zip(signals, starts, strict=True):
        values[start : start + len(signal)] = torch.from_numpy(np.ascontiguousarray(signal))
    # In two steps: a copy that changes the type would wait for the device.
    return values[None, None].to(like.device, non_blocking=True).to(like.dtype)


def spectra_end_to_end(spectra: Sequence[torch.Tensor], starts: Sequence[int], total: int) -> torch.Tensor:
    """Spectra `[1, T_i, bands]`, made clip by clip, in zeros `[1, total, bands]`."""
    values = spectra[0].new_zeros(1, total, spectra[0].shape[2])
    for each, start in zip(spectra, starts, strict=True):
        values[:, start : start + each.shape[1]] = each
    return values


def to_bfloat16(tokenizer: PackedTokenizer) -> None:
    """From now on what leads to the `model.quantizer` of a codec computes in bfloat16, and that as before, whatever it
    is given."""
    import torch

    model = tokenizer.model
    for stage in tokenizer.encoder_stages():
        stage.to(torch.bfloat16)
    model.encoder.register_forward_pre_hook(_given_bfloat16)
    for name in ("forward", "encode"):
        quantize = getattr(model.quantizer, name, None)
        if quantize is not None and quantize.__name__ == name:  # PyTorch's placeholder has another
            setattr(model.quantizer, name, partial(_in_fp32, quantize))


def _given_bfloat16(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return inputs[0].bfloat16(), *inputs[1:]


def _in_fp32(quantize: Callable[..., Any], latents: torch.Tensor, *rest: Any, **others: Any) -> Any:
    return quantize(latents.float(), *rest, **others)


def code_mismatch(made: Sequence[Codes], exact: Sequence[Codes]) -> float:
    """The fraction of codes, over all codebooks, in which clips differ from what mode `exact` makes of them.

    A near tie that falls otherwise in one codebook changes the residue, and so most codes of its frame after it.
    """
    pairs = list(zip(made, exact, strict=True))
    differing = sum(int((a.codes != b.codes).sum()) for a, b in pairs)
    return differing / max(1, sum(a.codes.size for a, _ in pairs))
