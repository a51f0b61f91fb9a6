"""What unit frequency alone is worth: the baseline that every language model of units should beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from slm.model.checkpoint import ModelRecord
from slm.model.statistics import CodeStatistics
from slm.tokenizers import check_same_spec
from slm.tokenizers.base import check_codes
from slm.types import CodeLogProbs, Codes


class UnigramLM:
    """Each code independently by its frequency in the training corpus (add-one), by codebook; ends likewise."""

    def __init__(self, record: ModelRecord, statistics: CodeStatistics):
        self.record = record
        totals = [c.sum() + statistics.num_documents + len(c) + 1 for c in statistics.counts]
        self._codes = [np.log((c + 1) / total) for c, total in zip(statistics.counts, totals, strict=True)]
        ends = [np.log((statistics.num_documents + 1) / total) for total in totals]
        pattern = record.make_pattern()
        self._ends = np.array(ends[: len(pattern.streams) if pattern.has_ends else 0])

    def score_codes(self, codes: Sequence[Codes]) -> list[CodeLogProbs]:
        made = []
        for c in codes:
            document = units_of(self.record, c)
            values = np.stack([table[document[:, k]] for k, table in enumerate(self._codes)], axis=1)
            made.append(CodeLogProbs(c.id, values, self._ends.copy(), c.duration_s))
        return made


def units_of(record: ModelRecord, codes: Codes) -> np.ndarray:
    """The units `[R, K']` that a model reads; UsageError for codes of another tokenizer."""
    check_same_spec(record.tokenizer, codes.spec)
    check_codes(codes, record.tokenizer)
    return record.units.apply(codes.codes.astype(record.tokenizer.code_dtype))
