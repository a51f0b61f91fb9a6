"""Codecs that are causal: codes while the audio comes in, audio while the codes do, equal to doing it at once.

A family of such a codec puts `CausalCodec` before its base and says, in `_next_codes` and `_next_audio`, through which
networks a chunk goes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from slm.audio import joined
from slm.tokenizers._codec import NeuralCodec
from slm.tokenizers._modes import inference
from slm.tokenizers.base import StreamDecoder, StreamEncoder, check_chunk, check_codes
from slm.types import Codes

if TYPE_CHECKING:
    import torch

    from slm.tokenizers.networks.causal import CausalRun


class CausalCodec(NeuralCodec):
    """A codec that can be streamed where `is_causal`, and takes long clips as a stream, in bounded memory."""

    @property
    @abstractmethod
    def is_causal(self) -> bool:
        """Whether this checkpoint is; some of a family are not."""

    @property
    def encodes_causally(self) -> bool:
        """Of a codec of which one half alone is causal, whether this one is."""
        return self.is_causal

    @property
    def decodes_causally(self) -> bool:
        return self.is_causal

    @property
    def pieces_are_exact(self) -> bool:
        return self.encodes_causally or self.decodes_causally or super().pieces_are_exact

    def _new_run(self) -> CausalRun:
        """One stream through the networks."""
        from slm.tokenizers.networks.causal import CausalRun

        return CausalRun()

    @abstractmethod
    def _next_codes(self, run: CausalRun, signals: torch.Tensor) -> torch.Tensor:
        """The next samples `[1, 1, n]` -> codes `[1, K, t]`."""

    @abstractmethod
    def _next_audio(self, run: CausalRun, codes: torch.Tensor) -> torch.Tensor:
        """The next codes `[1, K, t]` -> samples `[1, t x hop]`."""

    @property
    def encoder_start_frames(self) -> int:
        """Frames that must be there before the first codes come: reflected starts look so far ahead."""
        from slm.tokenizers.networks.causal import frames_to_start

        return frames_to_start(self.model.encoder, 1 / self.spec.hop_samples)

    @property
    def decoder_start_frames(self) -> int:
        """Frames of codes that must be there before the first samples come."""
        from slm.tokenizers.networks.causal import frames_to_start

        return frames_to_start(self.model.decoder, 1.0)

    def stream_encoder(self) -> StreamEncoder:
        return CodecStreamEncoder(self) if self.encodes_causally else super().stream_encoder()

    def stream_decoder(self) -> StreamDecoder:
        return CodecStreamDecoder(self) if self.decodes_causally else super().stream_decoder()

    def _encode_long(self, signal: np.ndarray) -> np.ndarray:
        if not self.encodes_causally:
            return super()._encode_long(signal)
        stream = CodecStreamEncoder(self)
        step = stream.piece_frames * self.spec.hop_samples
        made = [stream.feed(signal[start : start + step]) for start in range(0, len(signal), step)]
        return np.concatenate([*made, stream.finish()])

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        if not self.decodes_causally or len(codes) <= self.piece_s * self.spec.frame_rate_hz:
            return super()._decode(codes)
        return joined(self._decoded_as_stream(codes))

    def _decoded_as_stream(self, codes: np.ndarray) -> Iterator[np.ndarray]:
        stream = CodecStreamDecoder(self)
        for start in range(0, len(codes), stream.piece_frames):
            yield stream.feed(codes[start : start + stream.piece_frames])
        yield stream.finish()


class _Stream:
    """Input that waits until it can be run, as whole frames, in pieces of bounded length."""

    def __init__(self, codec: CausalCodec, waiting: np.ndarray, frame: int, start_frames: int):
        self._codec, self._waiting, self._frame, self._needed = codec, waiting, frame, start_frames
        self.piece_frames = max(start_frames, int(codec.piece_s * codec.spec.frame_rate_hz))
        """How many are run at once, at most."""
        self._run = codec._new_run()
        self._started = self._finished = False

    def _take(self, more: np.ndarray) -> list[np.ndarray]:
        """The pieces that can be run now."""
        if self._finished:
            raise ValueError("the stream is finished: open another one for the next clip")
        self._waiting = np.concatenate([self._waiting, more])
        pieces = []
        while (frames := len(self._waiting) // self._frame) >= self._needed:
            cut = min(frames, self.piece_frames) * self._frame
            pieces.append(self._waiting[:cut])
            self._waiting, self._started, self._needed = self._waiting[cut:], True, 1
        self._waiting = self._waiting.copy()
        return pieces

    def _rest(self) -> np.ndarray:
        rest, self._waiting, self._finished = self._waiting, self._waiting[:0], True
        self._run.last = True
        return rest


class CodecStreamEncoder(_Stream):
    """`feed` samples at the codec's rate as they come, `finish` when the clip ends; each gives the codes that are then
    known, `[t, K]`, possibly none. Together they are the codes of `encode`, but for near ties in rounding."""

    def __init__(self, codec: CausalCodec):
        super().__init__(codec, np.zeros(0, np.float32), codec.spec.hop_samples, codec.encoder_start_frames)

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Mono float32 samples `[n]`, any n -> the next codes `[t, K]`. ValueError for other samples."""
        check_chunk(samples)
        return self._codes(self._take(samples))

    def finish(self) -> np.ndarray:
        """The codes of what is left `[t, K]`. The stream ends."""
        started, rest = self._started, self._rest()
        if not started and self._codec.spec.num_frames(len(rest)):
            return self._codec._encode([rest])[0].astype(self._codec.spec.code_dtype)
        return self._codes([rest] if started and len(rest) else [])

    def _codes(self, pieces: list[np.ndarray]) -> np.ndarray:
        import torch

        codec, made = self._codec, [np.zeros((0, self._codec.spec.num_codebooks), np.int64)]
        with inference():
            for piece in pieces:
                values = codec._to_model(torch.from_numpy(piece)[None, None])
                made.append(codec._next_codes(self._run, values)[0].T.cpu().numpy())
        return np.concatenate(made).astype(codec.spec.code_dtype)


class CodecStreamDecoder(_Stream):
    """`feed` codes as they come, `finish` when there are no more; each gives the samples that are then known, possibly
    none. Together they are those of `decode`, but for rounding: a hop for each frame, of which `decode` cuts the end.
    """

    def __init__(self, codec: CausalCodec):
        empty = np.zeros((0, codec.spec.num_codebooks), np.int64)
        super().__init__(codec, empty, 1, codec.decoder_start_frames)

    def feed(self, codes: np.ndarray) -> np.ndarray:
        """Codes `[t, K]`, any t -> the next samples. ValueError for codes that are not of the codec."""
        codes = np.asarray(codes)
        check_codes(Codes("stream", codes, 0, self._codec.spec), self._codec.spec)
        return self._audio(self._take(codes.astype(np.int64)))

    def finish(self) -> np.ndarray:
        """The samples of what is left. The stream ends."""
        started, rest = self._started, self._rest()
        if not started and len(rest):
            return self._codec._decode(rest).astype(np.float32)
        return self._audio([rest] if len(rest) else [])

    def _audio(self, pieces: list[np.ndarray]) -> np.ndarray:
        import torch

        made = [np.zeros(0, np.float32)]
        with inference():
            for piece in pieces:
                values = torch.from_numpy(piece.T.copy())[None].to(self._codec._parameter().device)
                made.append(self._codec._next_audio(self._run, values)[0].cpu().numpy())
        return np.concatenate(made).astype(np.float32)
