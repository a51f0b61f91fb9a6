"""Patterns against slow references, audiocraft's layouts, and drawings made by hand."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slm.data.packing import max_frames
from slm.data.sequence import RowSequence
from slm.errors import UsageError
from slm.patterns import BOS, EMPTY, EOS, PATTERNS, Pattern
from tests.contracts import pattern_law
from tests.loading.sources import Lengths

PATTERNS_TO_TRY: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
    ("flat", (5,), {}),
    ("flat", (5, 7, 3), {}),
    ("delay", (5,), {}),
    ("delay", (5, 7, 3), {}),
    ("delay", (5, 7, 3), {"delays": [0, 1, 1]}),
    ("delay", (5, 7, 3), {"delays": [0, 2, 5]}),
    ("delay", (5, 7, 3), {"valid_steps_only": True}),
    ("delay", (5, 7, 3), {"delays": [0, 0, 0], "valid_steps_only": True}),
    ("parallel", (5, 7, 3), {}),
    ("unrolled", (5,), {}),
    ("unrolled", (5, 7, 3), {}),
    ("unrolled", (5, 7, 3), {"flattening": [0, 1, 1]}),
    ("unrolled", (5, 7, 3), {"delays": [0, 0, 2]}),
    ("unrolled", (5, 7, 3, 4), {"flattening": [0, 0, 1, 2], "delays": [0, 0, 1, 1]}),
    ("coarse-first", (5,), {}),
    ("coarse-first", (5, 7, 3), {}),
    ("coarse-first", (5, 7, 3, 4), {"delays": [0, 1, 4]}),
    ("musiclm", (5, 7, 3, 4), {}),
    ("musiclm", (5, 7, 3), {"group_by": 1}),
    ("musiclm", (5, 7, 3), {"group_by": 3}),
]

# What a step holds in a stream: ("code", t, k), or the name of a special id.
Entry = Any


def columns(at: dict[tuple[int, int], Entry], books: int) -> list[list[Entry]]:
    """Entries by (step, stream), step 0 not among them -> rows, the first of BOS."""
    steps = range(1, 1 + max(step for step, _ in at))
    return [["bos"] * books, *([at.get((s, k), "empty") for k in range(books)] for s in steps)]


def entry(t: int, k: int, frames: int) -> Entry:
    return ("code", t, k) if t < frames else "eos"


def slow_unrolled(books: list[int], frames: int, groups: list[int], delays: list[int], start: int) -> dict:
    """Frame by frame, group by group: what happens is put on a list with its time, and the list is sorted."""
    horizon = frames + max(delays) + 1
    events = sorted({(t + d, t, g) for t in range(horizon) for g, d in zip(groups, delays, strict=True)})
    at = {}
    for step, (_, t, g) in enumerate(events, start):
        at |= {(step, k): entry(t, k, frames) for k, its in zip(books, groups, strict=True) if its == g and t <= frames}
    return at


def slow_delayed(books: list[int], frames: int, delays: list[int], start: int) -> dict:
    return {
        (start + t + d, k): entry(t, k, frames) for k, d in zip(books, delays, strict=True) for t in range(frames + 1)
    }


def slow_reference(name: str, books: int, frames: int, settings: dict[str, Any]) -> list[list[Entry]]:
    """The steps as lists, one entry at a time from the definition in the docstring."""
    every, delays = list(range(books)), settings.get("delays")
    if name == "flat":
        return [["bos"], *[[("code", t, k)] for t in range(frames) for k in every], ["eos"]]
    if name == "unrolled":
        groups = settings.get("flattening", every)
        return columns(slow_unrolled(every, frames, groups, delays or [0] * books, 1), books)
    if name == "coarse-first":
        at = slow_delayed([0], frames, [0], 1)
        return columns(at | slow_delayed(every[1:], frames, delays or [0] * (books - 1), frames + 2), books)
    if name == "musiclm":
        at, size = {}, settings.get("group_by", 2)
        for first in range(0, books, size):
            group = every[first : first + size]
            start = 1 + max((step for step, _ in at), default=0)
            at |= slow_unrolled(group, frames, list(range(size)), [0] * size, start)
        return columns(at, books)
    delays = [0] * books if name == "parallel" else every if delays is None else delays
    rows = columns(slow_delayed(every, frames, delays, 1), books)
    return rows[: frames + 1] if settings.get("valid_steps_only") else rows


def assert_equals_reference(pattern: Pattern, codes: np.ndarray, settings: dict[str, Any]) -> None:
    sizes = pattern.codebook_sizes
    offsets = np.cumsum([0, *sizes[:-1]]) if pattern.name == "flat" else np.zeros(len(sizes), int)
    made, expected = pattern.apply(codes), slow_reference(pattern.name, len(sizes), len(codes), settings)
    assert len(made.steps) == len(expected)
    for s, row in enumerate(expected):
        for q, what in enumerate(row):
            if isinstance(what, tuple):
                _, t, k = what
                want, valid = int(codes[t, k]) + int(offsets[k]), True
            else:
                want, valid = getattr(pattern.streams[q], f"{what}_id"), what == "eos"
            assert (made.steps[s, q], made.valid[s, q]) == (want, valid), (s, q, what)


@pytest.mark.parametrize(("name", "sizes", "settings"), PATTERNS_TO_TRY)
@pytest.mark.parametrize("frames", [0, 1, 2, 9])
def test_law_and_slow_reference(name, sizes, settings, frames):
    pattern = PATTERNS.create(name, codebook_sizes=sizes, **settings)
    codes = np.random.default_rng(frames).integers(0, sizes, (frames, len(sizes))).astype(np.uint16)
    pattern_law(pattern, codes)
    assert_equals_reference(pattern, codes, settings)


def random_settings(name: str, books: int, rng: np.random.Generator) -> dict[str, Any]:
    def delays(count: int) -> list[int]:
        return np.cumsum([0, *rng.integers(0, 4, max(0, count - 1))])[:count].tolist()

    if name == "delay":
        return {"delays": delays(books), "valid_steps_only": bool(rng.integers(2))}
    if name == "unrolled":
        flattening = np.cumsum([0, *rng.integers(0, 2, books - 1)]).tolist()
        of_group = delays(flattening[-1] + 1)
        return {"flattening": flattening, "delays": [of_group[g] for g in flattening]}
    if name == "coarse-first":
        return {"delays": delays(books - 1)}
    if name == "musiclm":
        return {"group_by": int(rng.choice([n for n in range(1, books + 1) if books % n == 0]))}
    return {}


@pytest.mark.parametrize("name", ["flat", "delay", "parallel", "unrolled", "coarse-first", "musiclm"])
def test_law_and_slow_reference_of_anything(name):
    rng = np.random.default_rng(0)
    for _ in range(40):
        books, frames = int(rng.integers(1, 9)), int(rng.integers(0, 12))
        sizes, settings = tuple(rng.integers(1, 9, books).tolist()), random_settings(name, books, rng)
        pattern = PATTERNS.create(name, codebook_sizes=sizes, **settings)
        codes = rng.integers(0, sizes, (frames, books)).astype(np.uint16)
        pattern_law(pattern, codes)
        assert_equals_reference(pattern, codes, settings)
        lengths = [pattern.num_steps(t) for t in range(20)]
        assert lengths == sorted(lengths)


# Layouts printed by audiocraft's own modules/codebooks_patterns.py: `.` is its special token, digits frames from 1.
AUDIOCRAFT: list[tuple[str, dict[str, Any], int, list[str]]] = [
    ("delay", {}, 4, [". 1 2 3 4 . .", ". . 1 2 3 4 .", ". . . 1 2 3 4"]),
    ("delay", {"valid_steps_only": True}, 4, [". 1 2 3 4", ". . 1 2 3", ". . . 1 2"]),
    ("delay", {"delays": [0, 1, 1, 1]}, 4, [". 1 2 3 4 .", *[". . 1 2 3 4"] * 3]),
    ("delay", {"delays": [0, 1, 1, 1], "valid_steps_only": True}, 4, [". 1 2 3 4", *[". . 1 2 3"] * 3]),
    ("parallel", {}, 4, [". 1 2 3 4"] * 3),
    ("unrolled", {}, 4, [". 1 . . 2 . . 3 . . 4 . .", ". . 1 . . 2 . . 3 . . 4 .", ". . . 1 . . 2 . . 3 . . 4"]),
    ("unrolled", {"flattening": [0, 1, 1]}, 4, [". 1 . 2 . 3 . 4 .", *[". . 1 . 2 . 3 . 4"] * 2]),
    ("unrolled", {"flattening": [0, 1, 1], "delays": [0, 3, 3]}, 4,
     [". 1 2 3 . 4 . . . . . .", *[". . . . 1 . 2 . 3 . 4 ."] * 2]),
    ("coarse-first", {}, 4, [". 1 2 3 4 . . . .", *[". . . . . 1 2 3 4"] * 2]),
    ("musiclm", {"group_by": 2}, 3, [". 1 . 2 . 3 . . . . . . .", ". . 1 . 2 . 3 . . . . . .",
                                     ". . . . . . . 1 . 2 . 3 .", ". . . . . . . . 1 . 2 . 3"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings", "frames", "drawn"), AUDIOCRAFT)
def test_codes_stand_where_audiocraft_puts_them(name, settings, frames, drawn):
    """But for ends, which it has none of: they follow what is drawn, and stand between the stages of a document."""
    books = len(drawn)
    layout = PATTERNS.create(name, codebook_sizes=(9,) * books, **settings).layout(frames)
    if name in ("coarse-first", "musiclm"):
        layout = layout[(layout == BOS).any(axis=1) | (layout >= 0).any(axis=1)]
    steps = len(drawn[0].split())
    made = [" ".join(str(i // books + 1) if i >= 0 else "." for i in stream) for stream in layout[:steps].T]
    assert made == drawn
    assert not (layout[steps:] >= 0).any()


DRAWINGS: list[tuple[str, int, dict[str, Any], int, list[str]]] = [
    ("flat", 1, {}, 4, ["< 0 1 2 3 >"]),
    ("delay", 3, {}, 4, ["< 0 1 2 3 > . .", "< . 0 1 2 3 > .", "< . . 0 1 2 3 >"]),
    ("delay", 3, {"delays": [0, 1, 1]}, 4, ["< 0 1 2 3 > .", "< . 0 1 2 3 >", "< . 0 1 2 3 >"]),
    ("delay", 3, {"valid_steps_only": True}, 4, ["< 0 1 2 3", "< . 0 1 2", "< . . 0 1"]),
    ("parallel", 3, {}, 4, ["< 0 1 2 3 >"] * 3),
    ("unrolled", 3, {}, 2, ["< 0 . . 1 . . > . .", "< . 0 . . 1 . . > .", "< . . 0 . . 1 . . >"]),
    ("unrolled", 3, {"flattening": [0, 1, 1]}, 2, ["< 0 . 1 . > .", "< . 0 . 1 . >", "< . 0 . 1 . >"]),
    ("unrolled", 3, {"flattening": [0, 1, 1], "delays": [0, 3, 3]}, 4,
     ["< 0 1 2 . 3 . > . . . . .", "< . . . 0 . 1 . 2 . 3 . >", "< . . . 0 . 1 . 2 . 3 . >"]),
    ("coarse-first", 3, {}, 3, ["< 0 1 2 > . . . .", "< . . . . 0 1 2 >", "< . . . . 0 1 2 >"]),
    ("musiclm", 4, {}, 2, ["< 0 . 1 . > . . . . . . .", "< . 0 . 1 . > . . . . . .",
                           "< . . . . . . 0 . 1 . > .", "< . . . . . . . 0 . 1 . >"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "books", "settings", "frames", "drawn"), DRAWINGS)
def test_drawings(name, books, settings, frames, drawn):
    """What stands in the docstrings is what is made."""
    pattern = PATTERNS.create(name, codebook_sizes=(9,) * books, **settings)
    signs = {BOS: "<", EOS: ">", EMPTY: "."}
    layout = pattern.layout(frames)
    assert [" ".join(signs.get(int(i), str(i // books)) for i in stream) for stream in layout.T] == drawn
    if books > 1:
        drawing = "\n".join(" " * 4 + row for row in drawn)
        assert drawing in inspect.cleandoc(str(type(pattern).__doc__))  # as Python 3.13 has it


def test_the_page_draws_what_is_made_and_its_example_is_a_pattern(monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "patterns.md").read_text(encoding="utf-8")
    drawn = [block.split("\n") for block in re.findall(r"(?:^    <.*\n)+", page, re.M)]
    made = [rows for *_, rows in DRAWINGS]
    assert len(drawn) >= 8
    assert all([row.strip() for row in block if row] in made for block in drawn)
    [example] = re.findall(r"```python\n(.*?)```", page, re.S)
    monkeypatch.setattr(PATTERNS, "_classes", dict(PATTERNS._classes))
    exec(example, {})
    pattern_law(PATTERNS.create("every-other", codebook_sizes=(5, 7)), np.zeros((4, 2), np.uint16))


def test_a_piece_of_a_document_has_no_end():
    pattern = PATTERNS.create("delay", codebook_sizes=(9, 9))
    codes = np.zeros((3, 2), np.uint16)
    piece = pattern.apply(codes, ends=False)
    assert not (piece.steps == pattern.streams[0].eos_id).any()
    assert piece.valid.sum() == codes.size
    assert np.array_equal(pattern.invert(piece.steps, 3), codes)


def test_delay_counts_every_code_of_a_short_clip():
    """A short word loses nothing by itself; audiocraft's layout drops 28 of these 64 codes."""
    codes, sizes = np.zeros((8, 8), np.uint16), (2048,) * 8
    assert PATTERNS.create("delay", codebook_sizes=sizes).apply(codes).valid.sum() == 64 + 8
    cut = PATTERNS.create("delay", codebook_sizes=sizes, valid_steps_only=True)
    assert cut.apply(codes).valid.sum() == 64 - 28


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("delay", {"delays": [0, 1]}, "4 codebooks need as many delays"),
        ("delay", {"delays": [1, 2, 3, 4]}, "must start at 0 and never decrease"),
        ("delay", {"delays": [0, 2, 1, 3]}, "must start at 0 and never decrease"),
        ("coarse-first", {"delays": [0, 1, 2, 3]}, "3 codebooks after the first need as many delays"),
        ("unrolled", {"flattening": [0, 1]}, "4 codebooks need as many groups"),
        ("unrolled", {"flattening": [0, 2, 2, 3]}, "skip none"),
        ("unrolled", {"flattening": [1, 1, 1, 1]}, "count groups up from 0"),
        ("unrolled", {"flattening": [0, 1, 0, 1]}, "count groups up from 0"),
        ("unrolled", {"flattening": [0, 1, 1, 2], "delays": [0, 0, 1, 1]}, "must be the same within a group"),
        ("musiclm", {"group_by": 3}, "group_by 3 does not divide 4 codebooks"),
        ("musiclm", {"group_by": 0}, "group_by 0 does not divide"),
        ("parallel", {"delays": [0, 0, 0, 0]}, "no setting 'delays'"),
        ("delay", {"delays": [0, 1.5, 2, 3]}, "delays must be a list of whole numbers"),
        ("delay", {"delays": "0123"}, "delays must be a list of whole numbers"),
        ("unrolled", {"flattening": [0, 1, 2, 2.5]}, "flattening must be a list of whole numbers"),
    ],
)
def test_wrong_settings_are_refused(name, settings, message):
    with pytest.raises(UsageError, match=message):
        PATTERNS.create(name, codebook_sizes=(4,) * 4, **settings)


@pytest.mark.parametrize(("name", "sizes", "settings"), PATTERNS_TO_TRY)
def test_documents_are_packed_under_every_pattern(name, sizes, settings):
    """Pieces are as long as a row takes, and cover each document once."""
    pattern = PATTERNS.create(name, codebook_sizes=sizes, **settings)
    longest = max_frames(pattern, 40)
    assert pattern.num_steps(longest) <= 40 < pattern.num_steps(longest + 1)
    lengths = np.array([1, 50, 7, 0, 23])
    rows, seen = RowSequence(Lengths(lengths), pattern, 40, (0, 0)), []
    for r in range(rows.rows_of_epoch()):
        pieces = rows.row(r)[0].tolist()
        assert sum(len(pattern.layout(end - start)) for _, start, end, _ in pieces) <= 40
        seen += [(d, t) for d, start, end, _ in pieces for t in range(start, end)]
    assert sorted(seen) == [(d, t) for d, n in enumerate(lengths) for t in range(n)]
