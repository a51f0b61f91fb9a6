"""Patterns against slow references and drawings made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from slm.errors import UsageError
from slm.patterns import EOS, PATTERNS, Pattern
from tests.contracts import pattern_law

PATTERNS_TO_TRY = [
    ("flat", (5,), {}),
    ("flat", (5, 7, 3), {}),
    ("delay", (5,), {}),
    ("delay", (5, 7, 3), {}),
    ("delay", (5, 7, 3), {"delays": [0, 1, 1]}),
    ("delay", (5, 7, 3), {"delays": [0, 0, 0]}),
    ("delay", (5, 7, 3), {"delays": [0, 2, 5]}),
]


def slow_reference(pattern: Pattern, codes: np.ndarray, delays: list[int] | None) -> list[list[object]]:
    """Steps as lists of ("code", t, k) or words, built one entry at a time from the definition in the docstring."""
    frames, books = codes.shape
    if pattern.name == "flat":
        return [["bos"], *[[("code", t, k)] for t in range(frames) for k in range(books)], ["eos"]]
    delays = list(range(books)) if delays is None else delays
    rows = []
    for step in range(1 + frames + max(delays) + 1):
        row: list[object] = []
        for k in range(books):
            t = step - 1 - delays[k]
            row.append("bos" if step == 0 else ("code", t, k) if 0 <= t < frames else "eos" if t == frames else "empty")
        rows.append(row)
    return rows


@pytest.mark.parametrize(("name", "sizes", "settings"), PATTERNS_TO_TRY)
@pytest.mark.parametrize("frames", [0, 1, 2, 9])
def test_law_and_slow_reference(name, sizes, settings, frames):
    pattern = PATTERNS.create(name, codebook_sizes=sizes, **settings)
    codes = np.random.default_rng(frames).integers(0, sizes, (frames, len(sizes))).astype(np.uint16)
    pattern_law(pattern, codes)
    offsets = np.cumsum([0, *sizes[:-1]]) if name == "flat" else np.zeros(len(sizes), int)
    made = pattern.apply(codes)
    expected = slow_reference(pattern, codes, settings.get("delays"))
    for s, row in enumerate(expected):
        for q, entry in enumerate(row):
            vocabulary = pattern.streams[q]
            if isinstance(entry, tuple):
                _, t, k = entry
                want, valid = int(codes[t, k]) + int(offsets[k]), True
            else:
                want, valid = getattr(vocabulary, f"{entry}_id"), entry == "eos"
            assert (made.steps[s, q], made.valid[s, q]) == (want, valid), (s, q, entry)
    assert len(made.steps) == len(expected)


def test_delay_drawing():
    """The drawing of the docstring, K = 3 and T = 4."""
    pattern = PATTERNS.create("delay", codebook_sizes=(9, 9, 9))
    codes = np.tile(np.arange(4)[:, None], (1, 3))
    symbols = dict(zip((10, 9, 11), "<>.", strict=True))
    drawn = [" ".join(symbols.get(int(i), str(i)) for i in stream) for stream in pattern.apply(codes).steps.T]
    assert drawn == ["< 0 1 2 3 > . .", "< . 0 1 2 3 > .", "< . . 0 1 2 3 >"]


def test_a_piece_of_a_document_has_no_end():
    pattern = PATTERNS.create("delay", codebook_sizes=(9, 9))
    codes = np.zeros((3, 2), np.uint16)
    piece = pattern.apply(codes, ends=False)
    assert not (piece.steps == pattern.streams[0].eos_id).any()
    assert piece.valid.sum() == codes.size
    assert np.array_equal(pattern.invert(piece.steps, 3), codes)


def test_delay_counts_every_code_of_a_short_clip():
    """A short word loses nothing: audiocraft's valid-only layout would drop 28 of these 64 codes."""
    pattern = PATTERNS.create("delay", codebook_sizes=(2048,) * 8)
    assert pattern.apply(np.zeros((8, 8), np.uint16)).valid.sum() == 64 + 8


@pytest.mark.parametrize("delays", [[0, 1], [1, 2, 3], [0, 2, 1]])
def test_wrong_delays_are_refused(delays):
    with pytest.raises(UsageError, match="delays"):
        PATTERNS.create("delay", codebook_sizes=(4, 4, 4), delays=delays)


@pytest.mark.parametrize(("name", "sizes", "settings"), PATTERNS_TO_TRY)
def test_open_ended_layouts_agree_until_the_end(name, sizes, settings):
    """What lets a model stop by itself: until the first end, the layouts of two lengths are the same."""
    pattern = PATTERNS.create(name, codebook_sizes=sizes, **settings)
    short, long = pattern.layout(3), pattern.layout(8)
    first_end = int(np.argmax((short == EOS).any(axis=1)))
    assert np.array_equal(short[:first_end], long[:first_end])
