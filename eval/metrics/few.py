"""How sure shares of few observations are. Where of a part fewer than ten are right, or fewer than ten wrong, the
bootstrap's interval is too narrow: a part that happens to agree shows it no spread at all, and adds none to a mean.

Of a mean over parts: the exact limits of each (Clopper and Pearson 1934), combined by the distances from what was seen
(MOVER: Newcombe 1998; Zou and Donner 2008); but never narrower than the exact interval of as many observations as the
mean is worth, the square of the number of parts by the sum of 1 / size (Korn and Graubard 1998), which no shares of
parts of one size can make too narrow (Hoeffding 1956). Values between 0 and 1 spread less than those of a share with
the same mean, so both hold for them too. Where all parts wholly agree: `eval.metrics.unanimous`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.metrics.binomial import exact_limits
from eval.metrics.unanimous import unanimous_interval

FEW = 10


def few_share(values: Sequence[np.ndarray]) -> tuple[float, float] | None:
    """95 % interval of the mean over parts of each one's mean of values `[N]` within [0, 1]. None where every part has
    as many right and wrong ones as a bootstrap needs, and they differ."""
    if any(not len(part) for part in values):
        return None
    if alike := unanimous_interval(values):
        return alike
    return None if all(min(v.sum(), (1 - v).sum()) >= FEW for v in values) else _combined(values)


def few_difference(differences: Sequence[np.ndarray]) -> tuple[float, float] | None:
    """Likewise, of the mean over parts of each one's mean of differences `[N]` within [-1, 1].

    It is what is better less what is worse: two shares, whose limits are combined as those of paired shares are, by
    the correlation that they have because no item is both.
    """
    sides = [np.maximum(d, 0) for d in differences], [np.maximum(-d, 0) for d in differences]
    if any(not len(d) for d in differences):
        return None
    if alike := unanimous_interval([(d + 1) / 2 for d in differences]):
        return 2 * alike[0] - 1, 2 * alike[1] - 1
    if all(part.sum() >= FEW for side in sides for part in side):
        return None
    better, worse = (_mean(side) for side in sides)
    (b_low, b_high), (w_low, w_high) = (_combined(side) for side in sides)
    odds = [share / (1 - share) if share < 1 else 0.0 for share in (better, worse)]
    together = min(1.0, np.sqrt(odds[0] * odds[1]))
    low = better - worse - _joint(better - b_low, w_high - worse, together)
    high = better - worse + _joint(b_high - better, worse - w_low, together)
    return max(-1.0, low), min(1.0, high)


def _combined(values: Sequence[np.ndarray]) -> tuple[float, float]:
    parts, mean = len(values), _mean(values)
    shares = np.array([part.mean() for part in values])
    low, high = np.array([exact_limits(float(part.sum()), len(part)) for part in values]).T
    worth = parts**2 / sum(1 / len(part) for part in values)
    least, most = exact_limits(mean * worth, worth)
    below, above = np.linalg.norm(shares - low) / parts, np.linalg.norm(high - shares) / parts
    return max(0.0, min(least, mean - float(below))), min(1.0, max(most, mean + float(above)))


def _mean(values: Sequence[np.ndarray]) -> float:
    return float(np.mean([part.mean() for part in values]))


def _joint(one: float, other: float, together: float) -> float:
    return float(np.sqrt(one**2 + 2 * together * one * other + other**2))
