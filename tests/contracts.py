"""The laws: what every tokenizer, pattern, benchmark and metric must satisfy. A new one's test calls its law."""

from __future__ import annotations

import numpy as np

from slm.patterns import BOS, EOS, Pattern


def pattern_law(pattern: Pattern, codes: np.ndarray) -> None:
    """invert∘apply = identity; every code and every end stands exactly once; each codebook runs forward in time;
    `num_steps` agrees with the layout."""
    frames, books = codes.shape
    layout, made = pattern.layout(frames), pattern.apply(codes)
    assert layout.shape == made.steps.shape == made.valid.shape == (pattern.num_steps(frames), len(pattern.streams))
    assert np.array_equal(pattern.invert(made.steps, frames), codes)
    assert sorted(layout[layout >= 0].tolist()) == list(range(frames * books))
    assert ((layout == EOS).sum(axis=0) == 1).all()
    assert (layout[0] == BOS).all()
    assert (layout[1:] != BOS).all()
    step_of = np.full(frames * books, -1)
    step_of[layout[layout >= 0]] = np.nonzero(layout >= 0)[0]
    assert (np.diff(step_of.reshape(frames, books), axis=0) > 0).all()
    for q, vocabulary in enumerate(pattern.streams):
        predicted = made.steps[made.valid[:, q], q]
        assert ((predicted >= 0) & (predicted <= vocabulary.eos_id)).all()
    assert np.array_equal(pattern.gather_ends(made.steps, frames), [v.eos_id for v in pattern.streams])
