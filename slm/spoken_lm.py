"""`SpokenLM` = tokenizer ∘ pattern ∘ model: clips in; log-probabilities (nats) or clips out.

Benchmarks and metrics see nothing else, so training and scoring cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from slm.devices import choose_device
from slm.errors import UsageError
from slm.model.checkpoint import ModelRecord, find_model, load_causal_lm, load_record, load_statistics
from slm.model.interleaved import TextAndUnits, is_interleaved
from slm.model.statistics import CodeStatistics
from slm.patterns import Pattern
from slm.scoring import DocumentScorer, Precision
from slm.tokenizers import Tokenizer
from slm.tokenizers._of_model import given_tokenizer, load_again
from slm.tokenizers.base import fingerprint
from slm.types import AudioClip, CodeLogProbs, Codes, TokenizerSpec
from slm.unigram_lm import UnigramLM, units_of

if TYPE_CHECKING:
    from slm.continuation import Continuer
    from slm.generation import Sampling, Speed


def load_lm(checkpoint: str | Path, device: str = "cpu", vocoder: str | None = None,
            tokenizer: str | Path | TokenizerSpec | None = None) -> SpokenLM:  # fmt: skip
    """The language model of a checkpoint folder (`RUN/final`) or hub id, on a `device` (`auto`: cuda where there
    is one). UsageError where there is no such model or device.

    `vocoder` (folder or hub id) gives its tokenizer's units a way back to audio where they were made without one, or
    another than they were made with: it has no part in what the model knows.

    `tokenizer` says what a published model's units are, which does not say so itself: a name or YAML file, or a
    tokenized corpus (or spec), whose codes are then scored without the tokenizer's weights. For a model that knows its
    tokenizer it must be that one.
    """
    folder, device = find_model(checkpoint), choose_device(device)
    record = load_record(folder)
    spec, made = given_tokenizer(record.tokenizer, tokenizer, device)
    if vocoder:
        made = load_again(spec, device, vocoder=vocoder)
    record = replace(record, tokenizer=made.spec if made is not None else spec)
    lm = _make(folder, record, device)
    if made is not None:
        lm.tokenizer = made
    return lm


def _make(folder: Path, record: ModelRecord, device: str) -> SpokenLM:
    given = load_causal_lm(folder), record, load_statistics(folder)
    if not is_interleaved(folder):
        return SpokenLM(*given, device)
    from slm.interleaved_lm import InterleavedLM

    return InterleavedLM(*given, TextAndUnits.read(folder), device)


class SpokenLM:
    """A trained language model over the codes of one tokenizer.

    `record` says what its ids mean; `statistics` are the code counts of its training corpus.
    """

    def __init__(self, causal_lm: Any, record: ModelRecord, statistics: CodeStatistics, device: str = "cpu"):
        from slm.model.acoustic_lm import AcousticLM

        self.record, self.statistics, self.device = record, statistics, device
        self.spec: TokenizerSpec = record.tokenizer
        pattern = record.make_pattern()
        self.pattern, self.has_ends = pattern.full(), pattern.has_ends
        self.model = AcousticLM(causal_lm, self.pattern).to(device).eval()
        self.scorer = DocumentScorer(self.model, self.pattern)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer whose codes this model was trained on, checked against the checkpoint's spec. A spec that was
        only declared gives way to that of the tokenizer."""
        made = load_again(self.spec, self.device)
        if self.spec.is_declared:
            self.spec, self.record = made.spec, replace(self.record, tokenizer=made.spec)
            self.__dict__.pop("fingerprint", None)
        return made

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of weights, pattern and units."""
        settings = {"pattern": [self.record.pattern_name, dict(self.record.pattern_settings)],
                    "units": self.record.units.fingerprint, "tokenizer": self.spec.fingerprint}  # fmt: skip
        return fingerprint(settings, self.model.causal_lm.state_dict().items())

    @property
    def convention(self) -> dict[str, Any]:
        """How codes become what is scored: for the record of every result."""
        return {
            "pattern": {"name": self.record.pattern_name, **self.record.pattern_settings},
            "dedup": self.record.dedup,
            "bpe": None if self.record.bpe is None else self.record.bpe.fingerprint,
            "bos": "conditions the first code",
            "eos": "scored, kept apart" if self.has_ends else "not modelled",
            "vocabulary": [v.size for v in self.pattern.streams],
        }

    @property
    def precision(self) -> Precision:
        """Of scoring: exact float32, or bf16, which is faster on a GPU and rounds: near ties may fall otherwise."""
        return self.scorer.precision

    @precision.setter
    def precision(self, precision: Precision) -> None:
        if precision not in get_args(Precision):
            raise UsageError(f"precision must be one of {', '.join(get_args(Precision))}, not {precision!r}")
        steps, self.scorer = self.batch_steps, DocumentScorer(self.model, self.pattern, precision)
        self.batch_steps = steps

    @property
    def batch_steps(self) -> int | None:
        """Steps scored at a time, padding counted: fewer take less memory. None for what suits the device."""
        return self.scorer.batch_steps

    @batch_steps.setter
    def batch_steps(self, steps: int | None) -> None:
        self.scorer.batch_steps = steps

    def compile(self) -> None:
        """Compile the layers of the model (torch.compile), once for rows of any shape: scoring takes seconds longer at
        first, and less time from then on. Of generation, `Speed(compile=True)` compiles the steps."""
        self.model.compile(dynamic=True)

    @property
    def end_codebooks(self) -> list[int]:
        """The first codebook of each stream: what the end of the stream is counted with."""
        layout = self.pattern.layout(1)
        return [int(column[column >= 0].min()) for column in layout.T]

    def untrained(self, seed: int) -> SpokenLM:
        """The same architecture with fresh random weights: what a benchmark's shortcuts alone are worth."""
        from slm.model.backbone import from_config

        made = self._with(from_config(self.model.causal_lm.config, seed))
        made.precision, made.batch_steps = self.precision, self.batch_steps
        return made

    def _with(self, causal_lm: Any) -> SpokenLM:
        """The same over other weights."""
        return SpokenLM(causal_lm, self.record, self.statistics, self.device)

    def unigram(self) -> UnigramLM:
        """The code frequencies of the training corpus as a language model: what unit frequency alone is worth."""
        return UnigramLM(self.record, self.statistics)

    def score(self, clips: Sequence[AudioClip]) -> list[CodeLogProbs]:
        """Log-probabilities of clips at the tokenizer's sample rate; see `CodeLogProbs` for shapes."""
        return self.score_codes(self._encode(clips))

    def score_codes(self, codes: Sequence[Codes], max_steps: int | None = None) -> list[CodeLogProbs]:
        """Log-probabilities of codes, packed and sorted by length: at most `max_steps` steps, padding counted, at a
        time. See `slm.scoring`.

        Nothing that stands beside a document reaches its score; a beginning that documents share is computed once;
        equal documents are scored once, so that they tie to the last bit. UsageError for codes of another tokenizer.
        """
        from slm.generation.arguments import check_codes

        check_codes(codes)
        return self.score_documents(codes, [self.document(c) for c in codes], max_steps)

    def score_documents(self, codes: Sequence[Codes], documents: Sequence[np.ndarray],
                        max_steps: int | None = None) -> list[CodeLogProbs]:  # fmt: skip
        """`score_codes` of clips whose `document` is there already."""
        for c, d in zip(codes, documents, strict=True):
            self.check_length(c.id, len(d))
        scored = self.scorer.score(documents, max_steps)
        return [
            CodeLogProbs(c.id, values, ends if self.has_ends else ends[:0], c.duration_s)
            for c, (values, ends) in zip(codes, scored, strict=True)
        ]

    def document(self, codes: Codes) -> np.ndarray:
        """The units `[R, K']` that the model reads; UsageError for codes of another tokenizer."""
        return units_of(self.record, codes)

    def check_length(self, id: str, frames: int) -> None:
        """A document beyond the model's positions would fail, or be scored where nothing was ever trained."""
        check_positions(self.model.causal_lm.config, self.pattern, id, frames)

    @property
    def positions(self) -> int | None:
        """How many steps the model can read, where it has a limit."""
        return _positions(self.model.causal_lm.config)

    @cached_property
    def continuer(self) -> Continuer:
        """What goes on; see `slm.continuation` for how units get their durations."""
        from slm.continuation import Continuer

        return Continuer(self)

    def continue_codes(self, prompt: Codes, seconds: float, seed: int, temperature: float = 1.0,
                       top_k: int | None = None, may_stop: bool = True, **more: Any) -> Codes:  # fmt: skip
        """The prompt and up to `seconds` more. With `may_stop` a model that knows ends may end earlier by itself.
        `more` are other fields of `Sampling`."""
        from slm.generation.sampling import sampling_of

        sampling = sampling_of(temperature=temperature, top_k=top_k, may_stop=may_stop, **more)
        return self.continue_many([prompt], seconds, [seed], sampling)[0]

    def continue_many(self, prompts: Sequence[Codes], seconds: float, seeds: int | Sequence[int],
                      sampling: Sampling | None = None, speed: Speed | None = None) -> list[Codes]:  # fmt: skip
        """Each prompt and up to `seconds` more, many at a time: what `continue_codes` makes of each alone.

        `seeds` are one for each prompt, or a number to which its place in the list is added.
        """
        from slm.generation import Sampling, Speed
        from slm.generation.arguments import check_asked, check_codes, seeds_of

        check_asked(seconds, sampling, speed)
        check_codes(prompts)
        own = seeds_of(seeds, len(prompts))
        return self.continuer.codes(prompts, seconds, own, sampling or Sampling(), speed or Speed())

    def continue_clip(self, clip: AudioClip, seconds: float, seed: int, temperature: float = 1.0,
                      top_k: int | None = None, may_stop: bool = True, **more: Any) -> AudioClip:  # fmt: skip
        """The clip as the tokenizer renders it, in whole frames, and its continuation. UsageError without a decoder."""
        from slm.generation.sampling import sampling_of

        sampling = sampling_of(temperature=temperature, top_k=top_k, may_stop=may_stop, **more)
        return self.continue_clips([clip], seconds, [seed], sampling)[0]

    def continue_clips(self, clips: Sequence[AudioClip], seconds: float, seeds: int | Sequence[int],
                       sampling: Sampling | None = None, speed: Speed | None = None) -> list[AudioClip]:  # fmt: skip
        """What `continue_clip` makes of each clip, many at a time; `seeds` as in `continue_many`."""
        from slm.generation.arguments import check_asked, check_clips, seeds_of

        self._check_decoder("continue_codes or continue_many")
        check_asked(seconds, sampling, speed)
        check_clips(clips, self.tokenizer)
        own = seeds_of(seeds, len(clips))
        made = self.continue_many(self.tokenizer.encode(clips), seconds, own, sampling, speed)
        return [self.tokenizer.decode(codes) for codes in made]

    def generate(self, count: int, seconds: float, seeds: int | Sequence[int], sampling: Sampling | None = None,
                 speed: Speed | None = None) -> list[AudioClip]:  # fmt: skip
        """`count` clips from nothing, of up to `seconds` each; `seeds` as in `continue_many`."""
        self._check_decoder("generate_codes")
        return [self.tokenizer.decode(c) for c in self.generate_codes(count, seconds, seeds, sampling, speed)]

    def generate_codes(self, count: int, seconds: float, seeds: int | Sequence[int],
                       sampling: Sampling | None = None, speed: Speed | None = None) -> list[Codes]:  # fmt: skip
        """The codes of `generate`."""
        from slm.generation.arguments import whole_number

        count = whole_number("count", count)
        nothing = np.zeros((0, self.spec.num_codebooks), self.spec.code_dtype)
        prompts = [Codes(f"generated-{i:04d}", nothing, 0, self.spec) for i in range(count)]
        return self.continue_many(prompts, seconds, seeds, sampling, speed)

    def stream(self, clip: AudioClip | None, seconds: float, seed: int, sampling: Sampling | None = None,
               speed: Speed | None = None, chunk_frames: int = 1) -> Iterator[np.ndarray]:  # fmt: skip
        """The continuation of a clip (or of nothing) while it is made: float32 samples at the tokenizer's rate, a chunk
        for every `chunk_frames`. Together they are what `continue_clip` adds, but for rounding. UsageError where the
        tokenizer cannot be streamed."""
        from slm.continuation import audio_of
        from slm.generation import Sampling, Speed
        from slm.generation.arguments import check_asked, seeds_of, whole_number

        self._check_decoder("continue_codes")
        check_asked(seconds, sampling, speed)
        whole_number("chunk_frames", chunk_frames, 1)
        (seed,) = seeds_of([seed], 1)
        decoder = self.tokenizer.stream_decoder()
        nothing = Codes("generated", np.zeros((0, self.spec.num_codebooks), self.spec.code_dtype), 0, self.spec)
        prompt = self._encode([clip])[0] if clip is not None else nothing
        codes = self.continuer.stream(prompt, seconds, seed, sampling or Sampling(), speed or Speed(), chunk_frames)
        return audio_of(codes, decoder, prompt.codes, self.spec.hop_samples)

    def _encode(self, clips: Sequence[AudioClip]) -> list[Codes]:
        from slm.generation.arguments import check_clips

        check_clips(clips, self.tokenizer)
        return self.tokenizer.encode(clips)

    def _check_decoder(self, instead: str) -> None:
        if not self.spec.has_decoder:
            raise UsageError(f"tokenizer {self.spec.name!r} has no decoder: use {instead}")


def check_positions(config: Any, pattern: Pattern, id: str, frames: int) -> None:
    """UsageError where a document is longer than a model of this transformers configuration has positions."""
    longest = _positions(config)
    if longest is not None and (steps := pattern.num_steps(frames)) > longest:
        raise UsageError(
            f"{id} takes {steps} steps, but the model has {longest} positions: make it shorter, or train one with a "
            f"larger max_position_embeddings"
        )


def _positions(config: Any) -> int | None:
    return getattr(config, "max_position_embeddings", None)
