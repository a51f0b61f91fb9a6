"""Several sources in one sequence of rows: who gets which row follows from its number alone."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from slm.errors import UsageError

if TYPE_CHECKING:  # which needs numpy: the options of a mixture are read without
    from slm.data.source import Source

_PARTS = 1 << 32


def complaints(weights: Sequence[float] | None, epochs: Sequence[float] | None, temperature: float | None,
               num_sources: int) -> list[str]:  # fmt: skip
    """What is wrong with the options of a mixture, by their names on the command line."""
    options = {"weights": weights, "epochs": epochs, "temperature": temperature}
    given = [name for name, value in options.items() if value is not None]
    made = [f"mixture: give one of {', '.join(given)}, not several"] if len(given) > 1 else []
    for name, values in (("weights", weights), ("epochs", epochs)):
        if values is not None and len(values) != num_sources:
            made.append(f"mixture.{name}: {len(values)} given for {num_sources} corpora")
        if values is not None and min(values, default=1) <= 0:
            made.append(f"mixture.{name} must be above 0: {[*values]}")
    if temperature is not None and temperature <= 0:
        made.append(f"mixture.temperature must be above 0, not {temperature}")
    return made


class Mixture:
    """Sources and what decides their shares of the rows: one of `weights` (the shares themselves), `epochs` (how often
    each is heard for once of the others: size times this) and `temperature` (size to the power of 1 / temperature).
    Without any, shares are in proportion to size. UsageError for several, or for what is not above 0."""

    def __init__(self, sources: Sequence[Source], weights: Sequence[float] | None = None,
                 epochs: Sequence[float] | None = None, temperature: float | None = None):  # fmt: skip
        self.sources = tuple(sources)
        self.weights, self.epochs, self.temperature = weights, epochs, temperature
        if not self.sources:
            raise UsageError("a mixture needs at least one corpus")
        if wrong := complaints(weights, epochs, temperature, len(self.sources)):
            raise UsageError("; ".join(wrong))

    def shares(self, sizes: Sequence[float]) -> list[float]:
        """Shares that sum to 1; `sizes` are how many rows each source has."""
        if self.weights is not None:
            parts = [float(weight) for weight in self.weights]
        elif self.epochs is not None:
            parts = [size * times for size, times in zip(sizes, self.epochs, strict=True)]
        else:
            parts = self._tempered(sizes)
        return [part / sum(parts) for part in parts]

    def _tempered(self, sizes: Sequence[float]) -> list[float]:
        try:
            return [size ** (1 / (self.temperature or 1)) for size in sizes]
        except OverflowError:
            raise UsageError(
                f"mixture.temperature {self.temperature} leaves next to nothing for any corpus but the largest: give "
                "a higher one, or that corpus alone"
            ) from None


class Division:
    """Rows 0, 1, 2, .. divided among sources by shares: never more than a few rows off at any time.

    Source 0 gets a row whenever n times its share passes a half; what is left is numbered anew and divided among the
    others in the same way. So how many rows each has had by row n is a formula, and nothing is counted through.
    """

    def __init__(self, shares: Sequence[float]):
        self._parts: list[int] = []  # of what those before have left, in 2^-32
        left = sum(map(Fraction, shares))
        for share in map(Fraction, shares[:-1]):
            self._parts.append(round(_PARTS * share / left))
            left -= share

    def place(self, row: int) -> tuple[int, int]:
        """(source, which of its rows) of a row."""
        for source, part in enumerate(self._parts):
            before = _taken(row, part)
            if _taken(row + 1, part) > before:
                return source, before
            row -= before
        return len(self._parts), row

    def counts(self, rows: int) -> list[int]:
        """How many of the first rows each source has."""
        made = []
        for part in self._parts:
            made.append(_taken(rows, part))
            rows -= made[-1]
        return [*made, rows]


def _taken(rows: int, part: int) -> int:
    return (rows * part + _PARTS // 2) // _PARTS
