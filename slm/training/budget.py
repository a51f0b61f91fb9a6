"""How long a run is, in whatever it is counted: one fraction, from 0 to 1, that everything else follows."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from slm.errors import UsageError

_UNITS = {
    "step": ("steps", 1.0), "steps": ("steps", 1.0),
    "token": ("codes", 1.0), "tokens": ("codes", 1.0), "codes": ("codes", 1.0),
    "epoch": ("epochs", 1.0), "epochs": ("epochs", 1.0),
    "audio-s": ("audio_s", 1.0), "audio-h": ("audio_s", 3600.0),
    "flop": ("flops", 1.0), "flops": ("flops", 1.0),
    "s": ("elapsed_s", 1.0), "min": ("elapsed_s", 60.0), "h": ("elapsed_s", 3600.0), "d": ("elapsed_s", 86400.0),
}  # fmt: skip
_FORM = re.compile(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([kMGT]?)\s*([a-z-]+)\s*", re.ASCII)
_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def duration_text(seconds: float) -> str:
    """In the unit that has digits: `12.8 s`, `9.5 min`, `145,000.0 h`."""
    for unit, length in (("s", 1), ("min", 60)):
        if seconds < 100 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds / 3600:,.1f} h"


@dataclass(frozen=True)
class Progress:
    """What a run has spent. All of it is saved with a checkpoint, so that a resumed schedule is the same schedule.

    `warm_at` is the fraction of the budget at which a warm-up counted in steps ended; None until then.
    """

    steps: int = 0
    codes: int = 0
    audio_s: float = 0.0
    epochs: float = 0.0
    flops: float = 0.0
    elapsed_s: float = 0.0
    warm_at: float | None = None

    def after_step(self, codes: int, audio_s: float, epochs: float, flops: float, elapsed_s: float) -> Progress:
        """`epochs` and `elapsed_s` are what they are by then; the others are what the step adds."""
        return replace(self, steps=self.steps + 1, codes=self.codes + codes, audio_s=self.audio_s + audio_s,
                       epochs=epochs, flops=self.flops + flops, elapsed_s=elapsed_s)  # fmt: skip

    def warm(self, fraction: float) -> Progress:
        return replace(self, warm_at=fraction)


@dataclass(frozen=True)
class Budget:
    """`amount` of one field of `Progress`."""

    amount: float
    field: str

    @classmethod
    def parse(cls, text: str) -> Budget:
        """`24h` (of wall-clock time: s, min, h, d), `5e4 steps`, `1.4G tokens`, `145k audio-h`, `2.6 epochs`,
        `1e19 flops`. UsageError for anything else."""
        match = _FORM.fullmatch(text)
        unit = _UNITS.get(match[3]) if match else None
        if match is None or unit is None:
            known = "24h (s, min, h, d: wall-clock time), 50k steps, 1.4G tokens, 145k audio-h, 2.6 epochs, 1e19 flops"
            raise UsageError(f"budget {text!r} is not understood: write a number and a unit, as in {known}")
        try:
            amount = float(match[1]) * _PREFIXES[match[2]] * unit[1]
        except ValueError:
            amount = 0.0
        if not 0 < amount < math.inf or (unit[0] == "steps" and amount != round(amount)):
            raise UsageError(f"budget {text!r}: the number must be above 0 and finite, and whole for steps")
        return cls(amount, unit[0])

    def fraction(self, progress: Progress) -> float:
        """The share that is spent, at most 1."""
        return min(1.0, getattr(progress, self.field) / self.amount)

    def is_spent(self, progress: Progress) -> bool:
        return self.fraction(progress) >= 1.0

    @property
    def is_time(self) -> bool:
        return self.field == "elapsed_s"
