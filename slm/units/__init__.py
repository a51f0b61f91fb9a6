"""Units: what a language model reads in place of codes, and the exact way back."""

from slm.units.bpe import UnitBPE
from slm.units.dedup import deduplicate, expand
from slm.units.units import Units

__all__ = ["UnitBPE", "Units", "deduplicate", "expand"]
