"""What all codecs that are torch modules share: one clip at a time, long clips in pieces, the spec."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slm.audio import joined
from slm.errors import UsageError
from slm.tokenizers._checkpoints import check_no_nan
from slm.tokenizers._modes import PackedTokenizer, inference
from slm.tokenizers.base import fingerprint, weight_digests
from slm.types import TokenizerSpec

if TYPE_CHECKING:
    import torch


class NeuralCodec(PackedTokenizer):
    """A codec in fp32. A family loads `model` and `spec`, and maps signals to codes and back.

    A clip longer than `piece_s` is coded in pieces that overlap by `context_frames`, as far as a frame of codes can
    see to either side: in exact arithmetic this equals one pass, in fp32 near ties may fall otherwise. Where a frame
    sees the whole clip, `context_frames` is None and a clip is coded in one piece, unless the family overrides
    `_encode_long`. `decoder_context_frames` is the same for the way back, in frames of codes that a sample depends on.
    """

    piece_s: float = 60.0
    context_frames: int | None = None
    decoder_context_frames: int | None = None
    decoder_is_random: bool = False
    """Whether decoding draws noise, anew for each piece: what is decoded in pieces is other audio then."""

    @property
    def pieces_are_exact(self) -> bool:
        """Whether a clip of any length is coded, or decoded, in pieces that equal one pass."""
        return (self.context_frames, self.decoder_context_frames) != (None, None)

    def encoder_stages(self) -> Sequence[Any]:
        return [self.model.encoder]

    @abstractmethod
    def _codes_of(self, signals: torch.Tensor) -> torch.Tensor: ...

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
        check_no_nan(self.model, checkpoint)
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

    def _encode_alone(self, signal: np.ndarray) -> np.ndarray:
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
            end = len(signal) if stop == frames else stop * hop
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
    """How many frames a layer of these stages sees beside its own, at most; counted as by `conv_context`.
    Those for which clips become rows are not counted."""
    from torch import nn

    jump, widest = 1, 0
    for layer in (layer for stage in stages for layer in stage.modules()):
        if isinstance(layer, nn.Conv1d) and not getattr(layer, "runs_along_clips", False):
            stride = int(layer.stride[0])
            widest = max(widest, (int(layer.kernel_size[0]) - 1) * layer.dilation[0] * jump)
            jump *= stride
        else:
            widest = max(widest, 2 * int(getattr(layer, "reach", 0)) * jump)
    return ceil(widest / hop_samples)
