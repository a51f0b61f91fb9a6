"""Choosing one candidate of each group so that no measured property tells the right item from the wrong one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def choose_balanced(options: Sequence[np.ndarray], rng: np.random.Generator, sweeps: int = 50) -> list[int]:
    """Pick one row of each `options[g]` `[n_g, F]` so that the picked rows sum to nearly zero.

    A row holds the differences (right item minus wrong item) of F properties. Coordinate descent on the squared norm
    of the sum: one group after another takes the row that brings the sum closest to zero, until none changes.
    """
    picked = [int(rng.integers(len(rows))) for rows in options]
    total = np.sum([rows[i] for rows, i in zip(options, picked, strict=True)], axis=0)
    for _ in range(sweeps):
        before = list(picked)
        for g in rng.permutation(len(options)):
            without = total - options[g][picked[g]]
            picked[g] = int(np.square(without + options[g]).sum(axis=1).argmin())
            total = without + options[g][picked[g]]
        if picked == before:
            break
    return picked
