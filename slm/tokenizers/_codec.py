"""What all codecs that are torch modules share: precision, one clip at a time, long clips in pieces, the spec.

In mode `exact` clips are never stacked. Rows of a batch go through other kernels than a clip alone, and rounding then
decides near ties otherwise; residual quantization carries one flip into all later codebooks. Stacking clips of equal
length changed 1 % of Mimi's codes and 2 % of EnCodec's on a CPU in fp32 (random weights, codebooks filled with latents
of speech).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from slm.audio import joined
from slm.errors import UsageError
from slm.tokenizers.base import EXACT, Tokenizer, fingerprint, weight_digests
from slm.types import AudioClip, Codes, TokenizerSpec

if TYPE_CHECKING:
    import torch


_FASTER = {
    "batched": "clips share tensors of a fixed shape, equal in exact arithmetic",
    "tf32": "as batched (but for rare near ties that the place in a tensor decides), with the TensorFloat-32 products "
    "that PyTorch makes on GPUs by default",
    "bf16": "as batched (but for rare near ties that the place in a tensor decides), with the encoder in bfloat16",
}
_MEASURED = "with random weights on one GPU"


class NeuralCodec(Tokenizer):
    """A codec in fp32. A family loads `model` and `spec`, and maps signals to codes and back.

    A clip longer than `piece_s` is coded in pieces that overlap by `context_frames`, as far as a frame of codes can
    see to either side: in exact arithmetic this equals one pass, in fp32 near ties may fall otherwise. Where a frame
    sees the whole clip, `context_frames` is None and a clip is coded in one piece, unless the family overrides
    `_encode_long`. `decoder_context_frames` is the same for the way back, in frames of codes that a sample depends on.
    """

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
    """Mode -> how many codes it changed, as `_batched.code_mismatch` has it, with random weights, there where
    `_MEASURED` says; what is not here is not measured."""
    batch_s: Mapping[str, float] = {"cuda": 128.0, "cpu": 0.0}
    """Seconds of audio in a batch, by type of device: as many as the GPU likes best, the gaps between clips included.
    0: one by one, as on a CPU, where a batch gains nothing."""
    piece_s: float = 60.0
    context_frames: int | None = None
    decoder_context_frames: int | None = None

    @classmethod
    def known_modes(cls) -> Mapping[str, str]:
        if cls.batching == "none":
            return super().known_modes()
        modes = {mode: about for mode, about in _FASTER.items() if mode != "bf16" or mode in cls.mismatch}
        shares = {mode: cls.mismatch.get(mode) for mode in modes}
        told = {
            mode: f"{share} of codes differed from exact, {_MEASURED}" if share else "not measured against exact"
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
            from slm.tokenizers._batched import to_bfloat16

            to_bfloat16(self)

    def encoder_stages(self) -> Sequence[Any]:
        """The modules that a signal goes through, in order, up to what is quantized."""
        return [self.model.encoder]

    @abstractmethod
    def _codes_of(self, signals: torch.Tensor) -> torch.Tensor:
        """Signals `[B, 1, N]` of one length -> codes `[B, K, T]`, in whatever precision the model is."""

    def _audio_of(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes `[B, K, T]` -> audio `[B, about T x hop]`; frame t begins at sample t x hop."""
        raise NotImplementedError

    def _make_spec(
        self,
        *,
        name: str,
        checkpoint: str,
        num_codebooks: int | None,
        codebook_sizes: Sequence[int],
        sample_rate_hz: int,
        hop_samples: int,
        frame_offset_samples: int,
        identity: Mapping[str, Any],
        frame_multiple: int = 1,
        settings: Mapping[str, Any] | None = None,
        semantic_codebooks: Sequence[int] = (),
        taxonomy: Mapping[str, str] | None = None,
        published: Iterable[torch.Tensor] | None = None,
    ) -> TokenizerSpec:
        """The spec of the first `num_codebooks` (None: all) of the codebooks there are.

        `identity` is what changes the codes and leaves no trace in the weights; `settings` are those of the family
        beside `checkpoint` and `num_codebooks`. `published` are the tensors of the checkpoint where the model holds
        others that are computed from them (a folded weight norm, whose last bit is another on another machine).
        """
        available = len(codebook_sizes)
        count = available if num_codebooks is None else num_codebooks
        if not isinstance(count, int) or not 1 <= count <= available:
            raise UsageError(
                f"{checkpoint} has {available} codebooks: num_codebooks must be 1 to {available}, not {count}"
            )
        weights = weight_digests(self.model.state_dict().values() if published is None else published)
        parameters = sum(p.numel() for p in self.model.parameters())
        # A folder is kept as an absolute path: the next stage may run elsewhere.
        where = str(Path(checkpoint).resolve()) if Path(checkpoint).exists() else checkpoint
        return TokenizerSpec(
            name=name,
            fingerprint=fingerprint({"family": name, "num_codebooks": count, "weights": weights, **identity}),
            sample_rate_hz=sample_rate_hz,
            hop_samples=hop_samples,
            codebook_sizes=tuple(codebook_sizes[:count]),
            frame_offset_samples=frame_offset_samples,
            frame_multiple=frame_multiple,
            semantic_codebooks=tuple(k for k in semantic_codebooks if k < count),
            settings={"checkpoint": where, "num_codebooks": count, **(settings or {})},
            taxonomy={**(taxonomy or {}), "parameters": f"{parameters / 1e6:.1f} M"},
        )

    @property
    def runs_ahead(self) -> bool:
        # Not past a subclass that does something of its own there.
        own = type(self)._encode is not NeuralCodec._encode or type(self).encode is not Tokenizer.encode
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
            return [self._encode_single(signal) for signal in signals]

    def _begin(self, signals: Sequence[np.ndarray]) -> Callable[[], list[np.ndarray]]:
        import torch

        from slm.tokenizers._batched import start_batches

        device = self._parameter().device  # of several GPUs, streams and events are made for the current one
        with inference(tf32=self.mode == "tf32"), torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            return start_batches(self, signals)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "graphs": {}}  # which belong to this process

    def _encode_single(self, signal: np.ndarray) -> np.ndarray:
        return self._encode_long(signal) if self._is_long(len(signal)) else self._encode_whole(signal)

    def _is_long(self, num_samples: int) -> bool:
        return num_samples > self.piece_s * self.spec.sample_rate_hz

    def _encode_whole(self, signal: np.ndarray) -> np.ndarray:
        """A signal `[N]` in one pass -> codes `[T, K]`."""
        import torch

        values = torch.from_numpy(np.ascontiguousarray(signal))[None, None]
        return self._codes_of(self._to_model(values))[0].T.int().cpu().numpy()  # of hours, int64 would be as much again

    def _encode_long(self, signal: np.ndarray) -> np.ndarray:
        """A signal `[N]` longer than a piece -> codes `[T, K]`."""
        if self.context_frames is None:
            return self._encode_whole(signal)
        hop, frames = self.spec.hop_samples, self.spec.num_frames(len(signal))
        made = []
        for first, last, start, stop in self._pieces(frames, self.context_frames):
            end = len(signal) if last == frames else stop * hop
            made.append(self._encode_whole(signal[start * hop : end])[first - start : last - start])
        return np.concatenate(made)

    def _pieces(self, frames: int, context: int) -> Iterator[tuple[int, int, int, int]]:
        """(first, last) frames of each piece, and (start, stop) of what must be read for it."""
        step = max(1, int(self.piece_s * self.spec.frame_rate_hz))
        for first in range(0, frames, step):
            last = min(first + step, frames)
            yield first, last, max(0, first - context), min(frames, last + context)

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        with inference():
            context = self.decoder_context_frames
            if context is None or len(codes) <= self.piece_s * self.spec.frame_rate_hz:
                return self._decode_whole(codes)
            return joined(self._decoded_pieces(codes, context))

    def _decoded_pieces(self, codes: np.ndarray, context: int) -> Iterator[np.ndarray]:
        hop = self.spec.hop_samples
        for first, last, start, stop in self._pieces(len(codes), context):
            audio = self._decode_whole(codes[start:stop])
            yield audio[(first - start) * hop : None if last == len(codes) else (last - start) * hop]

    def _decode_whole(self, codes: np.ndarray) -> np.ndarray:
        """Codes `[T, K]` in one pass -> samples."""
        import torch

        values = torch.from_numpy(codes.T.astype(np.int64))[None].to(self._parameter().device)
        return self._audio_of(values)[0].cpu().numpy()

    def _to_model(self, values: torch.Tensor) -> torch.Tensor:
        return values.to(self._parameter().device, self._parameter().dtype)

    def _parameter(self) -> torch.Tensor:
        return next(self.model.parameters())


@contextmanager
def inference(tf32: bool = False) -> Iterator[None]:
    """In which networks run: without gradients, and in fp32 that is fp32. On CUDA, convolutions default to TF32, whose
    10-bit mantissa moves codes away: where that is wanted, it must be asked for."""
    import torch
    from torch.backends import cudnn

    with torch.inference_mode(), cudnn.flags(enabled=True, deterministic=True, allow_tf32=tf32):
        yield


def pad_to_frames(signals: torch.Tensor, hop_samples: int) -> torch.Tensor:
    """Zeros behind `[B, 1, N]`, up to whole frames."""
    import torch

    return torch.nn.functional.pad(signals, (0, -signals.shape[-1] % hop_samples))


def scalars_on_host(model: torch.nn.Module) -> None:
    """Layers of transformers keep strides and paddings as tensors and read them at each call: on a GPU, a wait."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.ndim == 0 and not buffer.is_floating_point():
                module._buffers[name] = buffer.cpu()


def conv_context(module: torch.nn.Module, hop_samples: int, from_frames: bool = False) -> int:
    """A bound on how many frames one output of a stack of 1-d convolutions depends on, to either side.

    Every convolution counts as if all stood in one row, in the order of `module.modules()`; side branches thus make
    the bound larger, not wrong. `from_frames`: a decoder, whose transposed convolutions go from frames to samples.
    Another layer may state its own `reach`, in steps of its input. Recurrent layers, attention and pooling are not
    counted: their families know better.
    """
    from torch import nn

    jump, reach = (float(hop_samples) if from_frames else 1.0), 0.0
    for layer in module.modules():
        if isinstance(layer, nn.ConvTranspose1d):
            jump /= layer.stride[0]
            reach += (layer.kernel_size[0] - 1) * layer.dilation[0] * jump
        elif isinstance(layer, nn.Conv1d):
            reach += (int(layer.kernel_size[0]) - 1) * layer.dilation[0] * jump
            jump *= layer.stride[0]
        else:
            reach += float(getattr(layer, "reach", 0)) * jump
    return ceil(reach / hop_samples) + 1


def widest_layer(stages: Iterable[torch.nn.Module], hop_samples: int) -> int:
    """How many frames a 1-d convolution of these stages sees beside its own, at most; counted as by `conv_context`."""
    from torch import nn

    jump, widest = 1, 0
    for layer in (layer for stage in stages for layer in stage.modules()):
        if isinstance(layer, nn.Conv1d):
            stride = int(layer.stride[0])
            widest = max(widest, (int(layer.kernel_size[0]) - 1) * layer.dilation[0] * jump)
            jump *= stride
    return ceil(widest / hop_samples)
