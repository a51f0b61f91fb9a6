"""Faster ways to encode than `exact`, by name: modes in which clips of different lengths share a tensor.

In mode `exact` clips are never stacked. Rows of a batch go through other kernels than a clip alone, and rounding then
decides near ties otherwise; residual quantization carries one flip into all later codebooks. Stacking clips of equal
length changed 1 % of Mimi's codes and 2 % of EnCodec's on a CPU in fp32 (random weights, codebooks filled with latents
of speech).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from slm.devices import exact_float32
from slm.tokenizers.base import EXACT, Tokenizer
from slm.types import AudioClip, Codes

if TYPE_CHECKING:
    import torch

    from slm.tokenizers._batched import Batch

_FASTER = {
    "batched": "clips share tensors of a fixed shape, equal in exact arithmetic",
    "tf32": "as batched (but for rare near ties that the place in a tensor decides), with the TensorFloat-32 products "
    "that PyTorch makes on GPUs by default",
    "bf16": "as batched (but for rare near ties that the place in a tensor decides), with the encoder in bfloat16",
}


class PackedTokenizer(Tokenizer):
    """A tokenizer that says whether and how its clips may share a tensor; where they may, it has a `model` in fp32."""

    model: Any  # torch.nn.Module; Any, since attributes of a model are not typed
    graphs: dict[Any, Any]
    """What `_batched` has captured on a GPU, for one shape each. Their tensors are written to in each batch: a
    tokenizer is for one thread."""
    batching: Literal["none", "frames", "samples"] = "none"
    """How clips of different lengths may share a batch, which a test of the family proves in float64.

    `none`: they may not. `frames`: each is filled up with zeros to whole frames (of the spec) and ends there, at
    every layer. `samples`: so, without the filling up.
    """
    mismatch: ClassVar[Mapping[str, str]] = {}
    """Mode -> how many codes it changed, as `_batched.code_mismatch` has it, with random weights on `measured_on`; what
    is not here is not measured."""
    measured_on: ClassVar[str] = "one GPU"
    batch_s: Mapping[str, float] = {"cuda": 128.0, "cpu": 0.0}
    """Seconds of audio in a batch, by type of device: as many as the GPU likes best, the gaps between clips included.
    0: one by one, as on a CPU, where a batch gains nothing."""
    longest_in_batch_s: ClassVar[float] = math.inf
    """A longer clip is coded alone: in pieces that are not those of others."""

    @classmethod
    def known_modes(cls) -> Mapping[str, str]:
        if cls.batching == "none":
            return super().known_modes()
        modes = {mode: about for mode, about in _FASTER.items() if mode != "bf16" or mode in cls.mismatch}
        shares = {mode: cls.mismatch.get(mode) for mode in modes}
        told = {
            mode: f"{share} of codes differed from exact, with random weights on {cls.measured_on}"
            if share
            else "not measured against exact"
            for mode, share in shares.items()
        }
        return {**super().known_modes(), **{mode: f"{about}; {told[mode]}" for mode, about in modes.items()}}

    @property
    def modes(self) -> Mapping[str, str]:
        return self.known_modes() if self.batching != "none" else super().known_modes()

    def use_mode(self, mode: str) -> None:
        entering = mode != self.mode
        super().use_mode(mode)
        self.graphs = {}
        if entering and mode == "bf16":
            self._to_bfloat16()

    @abstractmethod
    def _encode_alone(self, signal: np.ndarray) -> np.ndarray:
        """One of the signals of `_cut` -> codes `[T, K]`."""

    def _codes_of(self, signals: torch.Tensor) -> torch.Tensor:
        """Signals `[B, 1, N]` of one length -> codes `[B, K, T]`, in whatever precision the model is. Needed where
        `batching` is not `none`, as is `encoder_stages`."""
        raise NotImplementedError

    def encoder_stages(self) -> Sequence[Any]:
        """The modules that a signal goes through, in order, up to what is quantized."""
        raise NotImplementedError

    def _parameter(self) -> torch.Tensor:
        parameter: torch.Tensor = next(self.model.parameters())
        return parameter

    def _to_bfloat16(self) -> None:
        """From now on compute latents in bfloat16, and codes from them as before."""
        from slm.tokenizers._batched import to_bfloat16

        to_bfloat16(self)

    def _cut(self, signal: np.ndarray) -> Iterable[np.ndarray]:
        """What a clip is coded as, each by itself: the whole, or windows of it."""
        return [signal]

    def _num_frames(self, num_samples: int) -> int:
        """Of a signal of `_cut`."""
        return self.spec.num_frames(num_samples)

    @property
    def _tail_samples(self) -> int:
        """What a tensor needs beyond whole hops, that each layer of it has whole shares."""
        return 0

    def _samples_taken(self, num_samples: int) -> int:
        """By a signal of `_cut` in a tensor, zeros with which a network would fill it up counted."""
        unit = self.spec.frame_multiple * self.spec.hop_samples if self.batching == "frames" else 1
        return -(-num_samples // unit) * unit

    def _gap_frames(self) -> int:
        """What must lie between clips in a tensor."""
        from slm.tokenizers._codec import widest_layer

        return widest_layer(self.encoder_stages(), self.spec.hop_samples)

    def _codes_of_batch(self, batch: Batch, signals: Sequence[np.ndarray]) -> torch.Tensor:
        """Codes `[1, K, T]` of a whole batch, on the device."""
        from slm.tokenizers._batched import codes_of_batch

        return codes_of_batch(self, batch, signals)

    @property
    def runs_ahead(self) -> bool:
        # Not past a subclass that does something of its own there.
        own = type(self)._encode is not PackedTokenizer._encode or type(self).encode is not Tokenizer.encode
        return self.mode != EXACT and self._parameter().is_cuda and not own

    def start(self, clips: Sequence[AudioClip]) -> Callable[[], list[Codes]]:
        if not self.runs_ahead:
            return super().start(clips)
        wait = self._begin([clip.samples for clip in self._checked(clips)])
        return lambda: self._all_codes(clips, wait())

    def _encode(self, signals: Sequence[np.ndarray]) -> list[np.ndarray]:
        if self.mode != EXACT:
            return self._begin(signals)()
        with inference():
            return [_end_to_end([self._encode_alone(part) for part in self._cut(signal)]) for signal in signals]

    def _begin(self, signals: Sequence[np.ndarray]) -> Callable[[], list[np.ndarray]]:
        import torch

        from slm.tokenizers._batched import start_batches

        parts = [list(self._cut(signal)) for signal in signals]
        device = self._parameter().device  # of several GPUs, streams and events are made for the current one
        with inference(tf32=self.mode == "tf32"), torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            wait = start_batches(self, [part for each in parts for part in each])

        def finish() -> list[np.ndarray]:
            made = iter(wait())
            return [_end_to_end([next(made) for _ in each]) for each in parts]

        return finish

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "graphs": {}}  # which belong to this process


def _end_to_end(parts: Sequence[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


@contextmanager
def inference(tf32: bool = False) -> Iterator[None]:
    """In which networks run: without gradients, and in fp32 that is fp32, whatever the program around has asked PyTorch
    for. On CUDA, convolutions default to TF32, whose 10-bit mantissa moves codes away: where that is wanted, it must be
    asked for."""
    import torch
    from torch.backends import cudnn

    with exact_float32(), torch.inference_mode(), cudnn.flags(enabled=True, deterministic=True, allow_tf32=tf32):
        yield
