"""Which option a misspelt one stands for."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

_CLOSE = 0.7  # one letter in four may be wrong
_AS_GOOD = 0.05


def meant(wrong: str, options: Sequence[str]) -> str:
    """`"; did you mean 'optimizer.lr'?"` for `learning_rate`, or where to read what there is, when nothing is close.

    Options may have dots (`optimizer.lr`): the whole is compared, and the last part alone, since groups are what people
    leave out or misremember. A name also stands for its initials, and initials for the name.
    """
    groups = {name.rpartition(".")[0] for name in options}
    found = {name: _closeness(wrong, name) for name in options if name not in groups or "." not in wrong}
    best = max(found.values(), default=0.0)
    if best < _CLOSE:
        return "; --help lists all"
    names = sorted(name for name, close in found.items() if close >= max(_CLOSE, best - _AS_GOOD))
    return "; did you mean " + " or ".join(repr(name) for name in names[:3]) + "?"


def _closeness(wrong: str, option: str) -> float:
    """From 0 to 1, of the whole names or of their last parts, whichever are closer."""
    last, own = wrong.rpartition(".")[2], option.rpartition(".")[2]
    if _initials(last) == own or last == _initials(own):
        return 0.95
    if len(last) > 3 and own.startswith(f"{last}_"):
        return 0.9
    return max(SequenceMatcher(None, a, b).ratio() for a, b in ((wrong, option), (last, own)))


def _initials(name: str) -> str | None:
    """`lr` of `learning_rate`; None of a single word."""
    return "".join(word[:1] for word in name.split("_")) if "_" in name else None
