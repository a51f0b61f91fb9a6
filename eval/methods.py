"""Methods rather than models: trainings that differ in nothing but their seed, taken together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm.training.config import without_manner
from slm.types import stable_hash

if TYPE_CHECKING:
    from eval.comparison import Compared
    from slm.spoken_lm import SpokenLM


@dataclass(frozen=True)
class Training:
    """How a model came about: the seed, and a hash of all else."""

    seed: int
    method: str

    @classmethod
    def of(cls, lm: SpokenLM, checkpoint: str = "") -> Training | None:
        """Of the model in a folder; None where it does not say, as published ones."""
        told = dict(lm.record.training)
        seed = told.pop("seed", None)
        if not isinstance(seed, int):
            return None
        # One process, where a record of an earlier version does not say how many.
        rows = told.pop("rows_per_step", told.get("rows_per_batch", 1) * told.get("accumulation", 1))
        # A corpus is told by its name alone: what was counted in it says whether it was the same.
        counts = [counted.tolist() for counted in lm.statistics.counts]
        heard = {"tokenizer": lm.spec.fingerprint, "units": lm.record.units.fingerprint, "counts": counts}
        step = Path(checkpoint).name if Path(checkpoint).name.startswith("step-") else ""  # else the last
        return cls(seed, stable_hash({**heard, "rows": rows, "step": step, "training": without_manner(told)}))


@dataclass(frozen=True)
class Method:
    """One training or several, each of another seed."""

    trainings: tuple[Compared, ...]
    repeated: tuple[tuple[Compared, Compared], ...] = ()
    """Further ones, each with the training whose seed it has too: they say nothing new of seeds, and do not count."""

    @property
    def name(self) -> str:
        """That of the first, which no other method has."""
        first, *others = self.trainings
        return f"{first.name} ({len(self.trainings)} seeds)" if others else first.name

    def described(self) -> dict[str, Any]:
        seeds = [m.training.seed for m in self.trainings if m.training]
        return {"name": self.name, "models": [m.name for m in self.trainings], "seeds": seeds}


def find_methods(models: Sequence[Compared]) -> list[Method]:
    """None where none was trained with several seeds. Of two trainings with one seed the first is taken."""
    found: dict[str, dict[int, list[Compared]]] = {}
    for model in models:
        known = model.training
        of_one_method = found.setdefault(known.method if known else f"of {model.name}", {})
        of_one_method.setdefault(known.seed if known else 0, []).append(model)
    methods = []
    for by_seed in found.values():
        several = [by_seed[seed] for seed in sorted(by_seed)]
        repeated = tuple((other, first) for first, *others in several for other in others)
        methods.append(Method(tuple(same[0] for same in several), repeated))
    return methods if any(len(method.trainings) > 1 for method in methods) else []
