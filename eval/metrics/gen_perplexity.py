"""Perplexity of what was said, by a text model that reads its transcript (GenPPL, ASR-PPL). Three averages are in use.

A text without tokens has no perplexity: it is refused here, so whoever observes must count it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from eval.metrics.base import METRICS, CorpusMetric, Metric, Observations, sum_groups
from eval.metrics.texts import TextLikelihood


def _per_token(items: Sequence[TextLikelihood]) -> np.ndarray:
    """Mean NLL of each text, `[N]`. ValueError for a text without tokens and for NaN."""
    if wrong := [t.group for t in items if t.num_tokens < 1 or math.isnan(t.nll_nats)]:
        raise ValueError(f"the text of {wrong[0]!r} has no token, or its likelihood is NaN: leave it out and count it")
    return np.array([t.nll_nats / t.num_tokens for t in items], np.float64)


class _Perplexity(Metric[TextLikelihood]):
    observes = TextLikelihood
    unit = "perplexity"
    higher_is_better = False

    def shown(self, ratio: float) -> float:
        return math.exp(ratio)


@METRICS.register("gen_ppl")
class GenPerplexity(_Perplexity):
    """exp of the mean over texts of the mean NLL of a token, as in slamkit: each text counts the same."""

    name = "gen_ppl"
    about = "How unlikely a text model finds what was said. Babble is high; so is what nobody repeats. See VERT too."

    def observe(self, items: Sequence[TextLikelihood]) -> Observations:
        return Observations(*sum_groups([t.group for t in items], _per_token(items), np.ones(len(items))))


@METRICS.register("gen_ppl_tokens")
class GenPerplexityTokens(_Perplexity):
    """exp of all NLL over all tokens, as of one long text: long texts count more."""

    name = "gen_ppl_tokens"
    about = "The same with every token counting the same, so that long texts count more."

    def observe(self, items: Sequence[TextLikelihood]) -> Observations:
        _per_token(items)
        nll, tokens = np.array([t.nll_nats for t in items]), np.array([t.num_tokens for t in items], np.float64)
        return Observations(*sum_groups([t.group for t in items], nll, tokens))


@METRICS.register("gen_ppl_median")
class GenPerplexityMedian(CorpusMetric[TextLikelihood]):
    """The median over texts of each one's perplexity, one of the two that the GSLM code prints."""

    name = "gen_ppl_median"
    observes = TextLikelihood
    unit = "perplexity"
    higher_is_better = False
    about = "The perplexity that half of the texts stay below: a few that make no sense do not move it."

    def measure(self, items: Sequence[TextLikelihood]) -> float:
        return float(np.median(np.exp(_per_token(items)))) if items else math.nan
