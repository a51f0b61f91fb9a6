"""A language model of text and units together, as one that scores: clips, and what is said partly in text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from slm.errors import UsageError
from slm.model.checkpoint import ModelRecord
from slm.model.interleaved import TextAndUnits
from slm.model.statistics import CodeStatistics
from slm.patterns import PATTERNS
from slm.scoring import DocumentScorer
from slm.spoken_lm import SpokenLM
from slm.types import CodeLogProbs, Codes, TokenizerSpec, stable_hash

if TYPE_CHECKING:
    from slm.continuation import Continuer


class InterleavedLM(SpokenLM):
    """`record` is about the units alone; the model's ids are those of `text`.

    What is mixed of text and speech comes as `Codes` that `mix` made: ids, whose spec says whose they are. All but the
    first is predicted, markers too, as slamkit counts.
    """

    def __init__(self, causal_lm: Any, record: ModelRecord, statistics: CodeStatistics, text: TextAndUnits,
                 device: str = "cpu"):  # fmt: skip
        from slm.model.acoustic_lm import AcousticLM

        self.record, self.statistics, self.device, self.text = record, statistics, device, text
        self.spec = record.tokenizer
        self.pattern, self.has_ends = PATTERNS.create("flat", codebook_sizes=(text.size,)), False
        self.model = AcousticLM(causal_lm, self.pattern).to(device).eval()
        self.scorer = DocumentScorer(self.model, self.pattern)

    @property
    def mixed_spec(self) -> TokenizerSpec:
        """Of ids of text and units: no tokenizer of audio, but what `Codes` need to say whose they are."""
        return replace(
            self.spec,
            name=f"text and {self.spec.name}",
            fingerprint=stable_hash([self.spec.fingerprint, self.text.fingerprint]),
            codebook_sizes=(self.text.size,),
            semantic_codebooks=(),
            has_decoder=False,
            settings={},
        )

    def mix(self, id: str, parts: Sequence[tuple[str, str | Codes]]) -> Codes:
        """`(SPEECH, codes)` and `(TEXT, a text)` in their order, as one document to score. It lasts as long as its
        speech."""
        units = [(k, c if isinstance(c, str) else self.record.units.apply(self._checked(c))) for k, c in parts]
        samples = sum(0 if isinstance(c, str) else c.num_samples for _, c in parts)
        ids = self.text.mixed(units).astype(self.mixed_spec.code_dtype)
        return Codes(id, ids[:, None], samples, self.mixed_spec)

    def document(self, codes: Codes) -> np.ndarray:
        """The ids `[S, 1]` that the model reads."""
        if codes.spec == self.mixed_spec:
            return codes.codes.astype(np.int64)
        return self.text.speech(super().document(codes))[:, None]

    def score_documents(self, codes: Sequence[Codes], documents: Sequence[np.ndarray],
                        max_steps: int | None = None) -> list[CodeLogProbs]:  # fmt: skip
        """Of clips the log-probabilities `[R, 1]` of their units, of what is mixed those `[S - 1, 1]` of all ids but
        the first."""
        for c, d in zip(codes, documents, strict=True):
            self.check_length(c.id, len(d))
        given = [1 if c.spec == self.mixed_spec else len(self.text.begin) for c in codes]
        scored = self.scorer.score_steps(documents, max_steps)
        return [
            CodeLogProbs(c.id, values[n:], np.zeros(0), c.duration_s)
            for c, n, values in zip(codes, given, scored, strict=True)
        ]

    def check_length(self, id: str, frames: int) -> None:
        """`frames` are the ids of a document."""
        if self.positions is not None and frames > self.positions:
            raise UsageError(f"{id} takes {frames} steps, but the model has {self.positions} positions: cut it")

    @property
    def convention(self) -> dict[str, Any]:
        begins = "what the text tokenizer begins with" if self.text.ids([]) else "<speech>"
        return {**super().convention, "bos": f"{begins}, given", "text_tokenizer": self.text.fingerprint}

    def _with(self, causal_lm: Any) -> InterleavedLM:
        return InterleavedLM(causal_lm, self.record, self.statistics, self.text, self.device)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of weights, units and text tokenizer."""
        from slm.tokenizers.base import fingerprint

        settings = {"units": self.record.units.fingerprint, "tokenizer": self.spec.fingerprint,
                    "text": self.text.fingerprint}  # fmt: skip
        return fingerprint(settings, self.model.causal_lm.state_dict().items())

    @cached_property
    def continuer(self) -> Continuer:
        raise UsageError("a model of text and units together is scored, but not continued: take one of units alone")

    def _checked(self, codes: Codes) -> np.ndarray:
        """The codes, of this tokenizer."""
        super().document(codes)
        return codes.codes.astype(self.spec.code_dtype)
