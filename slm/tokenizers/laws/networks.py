"""What networks keep, if they code long clips in pieces, clips in one batch, or streams.

Held in float64, where near ties do not flip.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import numpy as np

from slm.tokenizers._codec import NeuralCodec
from slm.tokenizers._modes import PackedTokenizer
from slm.tokenizers.base import Tokenizer
from slm.tokenizers.laws.contract import hold, hold_equal, refused
from slm.types import AudioClip, Codes

if TYPE_CHECKING:
    import torch

    from slm.tokenizers._batched import Batch


@contextmanager
def in_float64(*tokenizers: PackedTokenizer) -> Iterator[None]:
    """Leaves their networks in float64. Within, what a codec would round to float32 on its way (Mimi what it compares
    with its codebook) is not rounded; centroids of k-means are no part of a network, and stay in float32."""
    import torch
    from torch.overrides import TorchFunctionMode

    class Unrounded(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func is torch.Tensor.float:
                return args[0].double()
            if func is torch.Tensor.to:
                args = [torch.float64 if value is torch.float32 else value for value in args]
                kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
            return func(*args, **(kwargs or {}))

    for tokenizer in tokenizers:
        tokenizer.model.double()
    with Unrounded() if all(isinstance(tokenizer, NeuralCodec) for tokenizer in tokenizers) else nullcontext():
        yield


def long_audio_law(tokenizer: NeuralCodec, clip: AudioClip) -> None:
    """In float64, a clip coded in many pieces gives what one pass gives, there and, but for random decoders, back.

    `clip` spans several times what a frame sees. Leaves the tokenizer in float64.
    """
    frames = tokenizer.spec.num_frames(len(clip.samples))
    tokenizer.piece_s = 2 * clip.duration_s
    with in_float64(tokenizer):
        [whole] = tokenizer.encode([clip])
        comes_back = tokenizer.decoder_context_frames is not None and not tokenizer.decoder_is_random
        there_and_back = tokenizer.decode(whole).samples if comes_back and tokenizer.spec.has_decoder else None
        for pieces in (2, 3, 7):
            tokenizer.piece_s = (frames // pieces) / tokenizer.spec.frame_rate_hz
            [joined] = tokenizer.encode([clip])
            hold_equal(joined.codes, whole.codes, f"{clip.id}: {pieces} pieces give other codes than one pass")
            if there_and_back is not None:
                _nearly(tokenizer.decode(whole).samples, there_and_back, f"{clip.id}: decoded in {pieces} pieces")


def _nearly(samples: np.ndarray, expected: np.ndarray, what: str, rtol: float = 1e-7, atol: float = 1e-6) -> None:
    hold(samples.shape == expected.shape, f"{what}, it is {samples.shape} samples, not {expected.shape}")
    near = np.isclose(samples, expected, rtol, atol)
    hold(near.all(), f"{what}, it is other audio: {(~near).sum()} of {near.size} samples differ")


def batching_law(exact: PackedTokenizer, batched: PackedTokenizer, clips: Sequence[AudioClip]) -> None:
    """In float64, clips of different lengths in one batch give the codes of each alone.

    `batched` is the tokenizer in that mode, with `batch_s` of several clips. Leaves both in float64.
    """
    shared, code = 0, batched._codes_of_batch

    def counted(batch: Batch, signals: Sequence[np.ndarray]) -> torch.Tensor:
        nonlocal shared
        shared += len(batch.members) if len(batch.members) > 1 else 0
        return code(batch, signals)

    batched._codes_of_batch = counted  # type: ignore[method-assign]
    hop = exact.spec.hop_samples
    cuts = [
        AudioClip(f"{clip.id}-{i}-{cut}", clip.samples[i * 37 : len(clip.samples) - cut], clip.sample_rate_hz)
        for i, clip in enumerate(clips)
        for cut in (0, 1, hop // 2, hop, hop + 1)
    ]
    with in_float64(exact, batched):
        made = zip(exact.encode(cuts), batched.encode(cuts), strict=True)
    for alone, together in made:
        differing = np.nonzero((alone.codes != together.codes).any(axis=1))[0]
        hold(not len(differing), f"{alone.id}: frames {differing[:5]} of {len(alone.codes)} differ in a batch")
    hold(shared >= len(cuts) / 2, "clips did not share batches")


def streaming_law(
    tokenizer: Tokenizer, clips: Sequence[AudioClip], wait_frames: int | None = None, ways: str = "there and back"
) -> None:
    """Chunks of any size give together what `encode` and `decode` give at once (a network in float64), and no more than
    `wait_frames` whole frames of audio are without codes (of a `CausalCodec`: what its first codes need). `ways`: of a
    tokenizer that streams one way only, `there` or `back`."""
    there, back = "there" in ways, "back" in ways
    if there and wait_frames is None:
        wait_frames = tokenizer.encoder_start_frames - 1  # type: ignore[attr-defined]
    hop, chance = tokenizer.spec.hop_samples, random.Random(0)
    lengths = (1, hop, hop + 1, 9 * hop + 5)
    short = [AudioClip(str(n), clips[0].samples[:n], clips[0].sample_rate_hz) for n in lengths]
    with in_float64(tokenizer) if isinstance(tokenizer, NeuralCodec) else nullcontext():
        for clip in [*short, *clips]:
            [whole] = tokenizer.encode([clip])
            audio = tokenizer.decode_unfilled(whole) if back else None
            for longest in (1 if len(clip.samples) <= hop + 1 else hop // 3, hop, 6 * hop, len(clip.samples) + 1):
                if there and wait_frames is not None:
                    _stream_there(tokenizer, clip, whole, _chunks(clip.samples, longest, chance), wait_frames)
                if audio is not None:
                    _stream_back(tokenizer, whole, audio, _chunks(whole.codes, -(-longest // hop), chance))


def _stream_there(
    tokenizer: Tokenizer, clip: AudioClip, whole: Codes, chunks: Sequence[np.ndarray], wait_frames: int
) -> None:
    hold(not len(tokenizer.stream_encoder().finish()), "a stream of no samples has codes")
    stream = tokenizer.stream_encoder()
    codes = [stream.feed(chunk) for chunk in chunks]
    waiting = len(clip.samples) // tokenizer.spec.hop_samples - sum(map(len, codes))
    hold(waiting <= wait_frames, f"{clip.id}: {waiting} frames of audio are without codes")
    codes.append(stream.finish())
    stored = all(part.dtype == tokenizer.spec.code_dtype for part in codes)
    hold(stored, f"{clip.id}: a stream's codes are not {tokenizer.spec.code_dtype}")
    hold_equal(np.concatenate(codes), whole.codes, f"{clip.id} in {len(chunks)} chunks has other codes")
    with refused(ValueError, "finished", "what is fed to a finished stream"):
        stream.feed(clip.samples)


def _stream_back(tokenizer: Tokenizer, whole: Codes, audio: np.ndarray, chunks: Sequence[np.ndarray]) -> None:
    hold(not len(tokenizer.stream_decoder().finish()), "a stream of no codes has audio")
    stream = tokenizer.stream_decoder()
    samples = np.concatenate([*(stream.feed(chunk) for chunk in chunks), stream.finish()])
    hold(samples.dtype == np.float32, f"{whole.id}: a stream's audio is {samples.dtype}")
    complete = len(samples) == len(whole.codes) * tokenizer.spec.hop_samples
    hold(complete, f"{whole.id}: a stream's audio is {len(samples)} samples")
    _nearly(samples[: len(audio)], audio, f"{whole.id}: decoded as a stream", rtol=1e-6, atol=1e-9)
    with refused(ValueError, "finished", "what is fed to a finished stream"):
        stream.feed(whole.codes)


def _chunks(values: np.ndarray, longest: int, chance: random.Random) -> list[np.ndarray]:
    chunks, start = [], 0
    while start < len(values):
        length = chance.randint(1, longest)
        chunks.append(values[start : start + length])
        start += length
    return chunks
