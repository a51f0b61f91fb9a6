"""How a `SpokenLM` goes on: prompts of codes become requests for units, and what is made becomes codes and audio."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from slm.errors import UsageError
from slm.generation.arguments import length_s
from slm.types import Codes

if TYPE_CHECKING:
    from slm.generation import Request, Sampling, Speed
    from slm.generation.run import Run
    from slm.spoken_lm import SpokenLM
    from slm.tokenizers.base import StreamDecoder


class Continuer:
    """Continues codes with the model of `lm`, many documents at a time.

    A model of units reads the prompt's and makes more of them until there are frames enough. Where they are
    deduplicated, each then lasts as long as the tokenizer's vocoder predicts, where it does, or else its mean duration
    in the training corpus, rounded.
    """

    def __init__(self, lm: SpokenLM):
        from slm.generation import Generator, Grammar

        self.lm, self._units = lm, lm.record.units
        bpe, grammar = self._units.bpe, None
        if bpe is not None and len(bpe.codebook_sizes) > 1:
            grammar = Grammar(*bpe.codebooks(), len(bpe.codebook_sizes))
        self._generator = Generator(lm.model, lm.pattern, grammar)

    def codes(self, prompts: Sequence[Codes], seconds: float, seeds: Sequence[int], sampling: Sampling,
              speed: Speed) -> list[Codes]:  # fmt: skip
        """Each prompt and up to `seconds` more."""
        sampling = self._as_trained(sampling)
        frames = self._frames(seconds)
        requests = [self._request(p, frames, seed) for p, seed in zip(prompts, seeds, strict=True)]
        enough = None if self._units.is_identity else [self._enough(p, frames) for p in prompts]
        made = self._generator.make(requests, sampling, speed, enough)
        return [self._as_codes(p, self._heard_again(p.codes, m, frames)) for p, m in zip(prompts, made, strict=True)]

    def check_room(self, prompt: Codes, seconds: float) -> None:
        """UsageError where prompt and continuation are more than the model has positions for."""
        self._request(prompt, self._frames(seconds), 0)

    def stream(self, prompt: Codes, seconds: float, seed: int, sampling: Sampling, speed: Speed,
               chunk_frames: int) -> Iterator[np.ndarray]:  # fmt: skip
        """The new codes `[t, K]`, as soon as `chunk_frames` of them are whole; together those of `codes`."""
        if not self._units.is_identity and self.lm.record.dedup and self.lm.spec.decoder_fingerprint:
            raise UsageError("durations that a vocoder predicts depend on what comes later: nothing can be streamed")
        frames = self._frames(seconds)
        enough = None if self._units.is_identity else [self._enough(prompt, frames)]
        request = self._request(prompt, frames, seed)
        return self._new_codes(self._generator.start([request], self._as_trained(sampling), speed, enough), prompt,
                               frames, chunk_frames)  # fmt: skip

    def _new_codes(self, run: Run, prompt: Codes, frames: int, chunk_frames: int) -> Iterator[np.ndarray]:
        given = len(prompt.codes)
        for _ in run:
            whole = run.whole_frames(0)
            if self._units.is_identity and whole - given < chunk_frames:
                continue
            codes = self._heard_again(prompt.codes, run.codes(0, whole), frames)
            if len(codes) - given >= chunk_frames:
                yield codes[given:].astype(self.lm.spec.code_dtype)
                given = len(codes)
        codes = self._heard_again(prompt.codes, run.codes(0), frames)
        if len(codes) > given:
            yield codes[given:].astype(self.lm.spec.code_dtype)

    def _heard_again(self, prompt: np.ndarray, units: np.ndarray, frames: int) -> np.ndarray:
        """Units that begin with the prompt's -> codes of it and of at most `frames` more."""
        return units if self._units.is_identity else self._expanded(prompt, units)[: len(prompt) + frames]

    def _frames(self, seconds: float) -> int:
        return max(1, round(length_s(seconds) * self.lm.spec.frame_rate_hz))

    def _as_trained(self, sampling: Sampling) -> Sampling:
        return sampling if self.lm.has_ends else replace(sampling, may_stop=False)

    def _request(self, prompt: Codes, frames: int, seed: int) -> Request:
        from slm.generation import Request

        lm = self.lm
        units = lm.document(prompt)
        most = len(units) + frames
        if lm.record.bpe is not None:
            # A unit may be as short as one code, but few are: what there is room for will do.
            room = (lm.positions or sys.maxsize) - lm.pattern.num_steps(0)
            most = min(len(units) + frames * lm.spec.num_codebooks, max(room, len(units) + 1))
        lm.check_length(prompt.id, most)
        return Request(units, most, seed)

    def _enough(self, prompt: Codes, frames: int) -> Callable[[np.ndarray], bool]:
        return lambda units: len(self._expanded(prompt.codes, units)) >= len(prompt.codes) + frames

    def _expanded(self, prompt: np.ndarray, units: np.ndarray) -> np.ndarray:
        """Units, which begin with the prompt's -> codes `[T, K]`, in which the prompt lasts as long as it did."""
        heard, runs = self._units.durations(prompt), self._units.invert(units)
        if self.lm.record.dedup:
            return self._units.invert(units, np.concatenate([heard, self._run_frames(runs)[len(heard) :]]))
        return runs

    def _run_frames(self, runs: np.ndarray) -> np.ndarray:
        """Codes that the model does not repeat `[R, 1]` -> int64 frames that each lasts `[R]`, at least 1."""
        lm = self.lm
        predicted = lm.tokenizer.predict_durations(runs) if lm.spec.decoder_fingerprint else None
        if predicted is not None:
            return predicted
        return np.maximum(1, np.rint(lm.statistics.mean_frames())).astype(np.int64)[runs[:, 0]]

    def _as_codes(self, prompt: Codes, codes: np.ndarray) -> Codes:
        """As long as its frames: what was added is a hop for each, whatever tail of the prompt had no frame, or was
        filled up to one."""
        spec, added = self.lm.spec, len(codes) > len(prompt.codes)
        num_samples = len(codes) * spec.hop_samples if added else prompt.num_samples
        return Codes(prompt.id, codes.astype(spec.code_dtype), num_samples, spec)


def audio_of(chunks: Iterator[np.ndarray], decoder: StreamDecoder, prompt: np.ndarray,
             hop_samples: int) -> Iterator[np.ndarray]:  # fmt: skip
    """Codes as they come -> float32 samples as they come, without those of the prompt, which the decoder hears."""
    heard = decoder.feed(prompt) if len(prompt) else np.zeros(0, np.float32)
    skip = len(prompt) * hop_samples - len(heard)
    for codes in chunks:
        samples = decoder.feed(codes)
        if len(samples) > skip:
            yield samples[skip:]
        skip = max(0, skip - len(samples))
    rest = decoder.finish()[skip:]
    if len(rest):
        yield rest
