"""Likelihood in bits per second of audio: the one unit in which models over different tokenizers can be compared."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from eval.metrics.base import METRICS, ClipLikelihood, Metric, Observations, sum_groups


@METRICS.register("bits_per_s")
class BitsPerSecond(Metric[ClipLikelihood]):
    """Minus the summed log-probability, in bits, over the summed duration."""

    name = "bits_per_s"
    observes = ClipLikelihood
    unit = "bits per second of audio"
    higher_is_better = False
    about = "Bits the model needs to write down one second of audio as codes. Fewer are better."

    def observe(self, items: Sequence[ClipLikelihood]) -> Observations:
        bits = np.array([-c.log_prob_nats for c in items], np.float64) / math.log(2)
        if np.isnan(bits).any():
            raise ValueError("a clip's log-probability is NaN")
        return Observations(*sum_groups([c.group for c in items], bits, np.array([c.duration_s for c in items])))
