"""Conventions: how the log-probabilities of an item become one score. Each is a name that says all of it.

    [local-0.5s- | normalized-] [first- | weighted- | weighted-100:1:1-] mean | sum [+eos] [-strict]

    first-          the codes of the first codebook only
    weighted-       codebooks weighed as the checkpoint's loss weighs them, or by the numbers given; a mean is divided
                    by the sum of the weights of all codes (an end weighs as much as its stream's first codebook)
    +eos            the end of the clip counts as a code more
    local-0.5s-     only what begins in the first 0.5 s after the two items of a pair part (arXiv 2601.06329);
                    `local-0.5s` is short for the mean
    normalized-     log P(what follows where they part | what they share) - log P(what follows, alone) (the same);
                    `normalized` is short for the sum
    -strict         a tie is a miss, not half a hit

Besides there are the names of what others do; see `PRESETS`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from slm.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Convention:
    """How the log-probabilities of an item become one score, and what a tie of two scores counts."""

    name: str
    mean: bool
    eos: bool
    first_codebook: bool = False
    weighted: bool = False
    weights: tuple[float, ...] | None = None
    """Of the codebooks, where `weighted`; None: those of the checkpoint."""
    window_s: float | None = None
    normalized: bool = False
    after_first: bool = False
    """The first code of the clip does not count."""
    tie: float = 0.5

    @property
    def is_of_pairs(self) -> bool:
        """Whether an item's score depends on the item that it is compared with."""
        return self.window_s is not None or self.normalized

    @property
    def meaning(self) -> str:
        what = "the codes of the first codebook" if self.first_codebook else "all codes of all codebooks"
        if self.weighted:
            by = "the weights of the model's loss" if self.weights is None else ":".join(f"{w:g}" for w in self.weights)
            what += f", weighed by {by},"
        if self.after_first:
            what += " but the first code of the clip"
        end = " and of the end of the clip" if self.eos else ", without the end of the clip"
        said = f"{'mean' if self.mean else 'sum'} of the log-probabilities of {what}{end}".replace(",,", ",")
        if self.window_s is not None:
            said += f", in the first {self.window_s:g} s after the two items of a pair part"
        if self.normalized:
            said += ", after the two items of a pair part, given what they share less given nothing"
        return said + ("" if self.tie else "; a tie is a miss")

    def weights_of(self, books: int) -> np.ndarray:
        """float64 `[K]`: what a code of each codebook counts. UsageError for another number of weights."""
        if self.first_codebook:
            return np.eye(1, books)[0]
        if not self.weighted:
            return np.ones(books)
        if self.weights is None:
            raise UsageError(
                f"convention {self.name!r}: this model was trained without codebook weights; give them, as in "
                f"{self.name.replace('weighted-', 'weighted-100:1:1-')!r}"
            )
        if len(self.weights) != books:
            raise UsageError(f"convention {self.name!r}: {len(self.weights)} weights for {books} codebooks")
        return np.array(self.weights, np.float64)

    def for_model(self, codebook_weights: Sequence[float] | None, books: int) -> Convention:
        """With the weights of a checkpoint where it asks for them. UsageError where they do not fit."""
        made = self
        if self.weighted and self.weights is None and codebook_weights is not None:
            made = replace(self, weights=tuple(codebook_weights))
        made.weights_of(books)
        return made


CONVENTIONS = {
    c.name: c
    for c in (
        Convention("mean+eos", mean=True, eos=True),
        Convention("mean", mean=True, eos=False),
        Convention("sum+eos", mean=False, eos=True),
        Convention("sum", mean=False, eos=False),
        Convention("first-mean+eos", mean=True, eos=True, first_codebook=True),
        Convention("first-mean", mean=True, eos=False, first_codebook=True),
        Convention("first-sum+eos", mean=False, eos=True, first_codebook=True),
        Convention("first-sum", mean=False, eos=False, first_codebook=True),
    )
}
"""Those that every result has; see `usual_conventions`."""

PRESETS = {
    c.name: c
    for c in (
        # `mean_nll: true`, and `<S> u.. <S>`: the first is given, the last is predicted like any unit.
        Convention("slamkit", mean=True, eos=True),
        # The evaluator compares what is submitted, and normalizes nothing: the log-probability of the codes itself.
        Convention("zerospeech", mean=False, eos=False),
        # `mean_nll: true` of its TWIST baselines, which put nothing before the units: there the first one is not
        # predicted, and no end is. What stands before it here is the model's own begin.
        Convention("salmon", mean=True, eos=False, after_first=True),
        # sLM21.py, sStoryCloze.py: `labels[:, 2::4]`, the first codebook and, as it happens, `</audio>`; `>` alone.
        Convention("llama-mimi", mean=True, eos=True, first_codebook=True, tie=0.0),
        # Its salmon.py: all labels.
        Convention("llama-mimi-salmon", mean=True, eos=True, tie=0.0),
    )
}
"""What public implementations do, by their names."""

_NAME = re.compile(
    r"(?:local-(?P<window>\d+(?:\.\d+)?)s|(?P<normalized>normalized))?"
    r"(?:(?:^|(?<=.)-)(?:(?P<first>first)|weighted(?:-(?P<weights>\d[\d.:]*))?(?P<weighted>)))?"
    r"(?:(?:^|(?<=.)-)(?P<sum>mean|sum))?(?P<eos>\+eos)?(?P<strict>-strict)?"
)


def usual_conventions(books: int) -> list[Convention]:
    """Those of `CONVENTIONS` that differ: with one codebook the first is all there is."""
    return [c for c in CONVENTIONS.values() if books > 1 or not c.first_codebook]


def find_convention(name: str) -> Convention:
    """UsageError for a name that means nothing."""
    if known := CONVENTIONS.get(name) or PRESETS.get(name):
        return known
    found = _NAME.fullmatch(name)
    of_pairs = found is not None and (found["window"] or found["normalized"])
    if found is None or not (found["sum"] or of_pairs):
        known_names = [*CONVENTIONS, *PRESETS, "weighted-mean+eos", "local-0.5s", "normalized"]
        raise UsageError(
            f"unknown convention {name!r}{did_you_mean(name, known_names)} (see eval/conventions.py for all that a "
            "name can say)"
        )
    try:
        weights = tuple(float(w) for w in found["weights"].split(":")) if found["weights"] else None
    except ValueError:
        raise UsageError(f"convention {name!r}: weights are numbers with colons between, such as 100:1:1") from None
    if weights is not None and not any(weights):
        raise UsageError(f"convention {name!r} counts no codebook: give one a weight above 0, such as 100:1:1")
    window_s = float(found["window"]) if found["window"] else None
    if window_s == 0:
        raise UsageError(f"convention {name!r}: nothing begins within 0 s; give more, such as local-0.5s")
    return Convention(
        name,
        mean=found["sum"] == "mean" if found["sum"] else not found["normalized"],
        eos=bool(found["eos"]),
        first_codebook=bool(found["first"]),
        weighted=found["weighted"] is not None,
        weights=weights,
        window_s=window_s,
        normalized=bool(found["normalized"]),
        tie=0.0 if found["strict"] else 0.5,
    )


def find_conventions(names: str) -> tuple[Convention, ...]:
    """Names with commas between, each once."""
    return tuple(find_convention(n) for n in dict.fromkeys(filter(None, (n.strip() for n in names.split(",")))))


def meaning_of(name: str) -> str:
    """In a sentence; the name itself where it is none of these."""
    try:
        return find_convention(name).meaning
    except UsageError:
        return name


def whole_clip_convention(dedup: bool) -> str:
    """The convention of numbers about whole clips. A model of deduplicated units does not say how long each lasts."""
    return "sum+eos, durations not counted" if dedup else "sum+eos"
