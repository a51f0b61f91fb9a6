"""What could not be evaluated, which a table that does not say so would hide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.results import read_checked

if TYPE_CHECKING:
    from eval.report.inputs import Evaluated


@dataclass(frozen=True)
class Failed:
    """`name` is the model's or tokenizer's, `benchmark` empty where it could not even be loaded. `of_another`:
    numbers of it are shown all the same, which another run left."""

    name: str
    benchmark: str
    reason: str
    of_another: bool = False

    def __str__(self) -> str:
        where = f"{self.name}, {self.benchmark}" if self.benchmark else self.name
        shown = " (Its numbers here are of another run.)" if self.of_another else ""
        return f"{where} could not be evaluated: {self.reason}{shown}"


def failed_of(name: str, record: Mapping[str, Any]) -> list[Failed]:
    """What a results.json says of itself."""
    shown = {r["benchmark"] for r in record["results"]}
    return [Failed(name, f["benchmark"], f["reason"], f["benchmark"] in shown) for f in record.get("failed", ())]


def failed_beside(folder: Path, evaluated: Sequence[Evaluated], known: Sequence[Failed]) -> Iterator[Failed]:
    """What comparison.json and reconstruction.json in `folder` say of the models and tokenizers of one run, less what
    is `known` of those `evaluated`."""
    by_folder = {e.folder.resolve(): e for e in evaluated}
    for name, benchmark, reason in _told(folder):
        run = by_folder.get((folder / name).resolve()) if name else None
        results = run.record["results"] if run else ()
        shown = any(benchmark in ("", r["benchmark"]) for r in results)
        one = Failed(run.name if run else name or folder.name, benchmark, reason, shown)
        if not any((one.name, one.benchmark) == (k.name, k.benchmark) for k in known):
            yield one


def _told(folder: Path) -> Iterator[tuple[str, str, str]]:
    """(folder of the model, benchmark, reason)."""
    for file, key, benchmark in (("comparison.json", "model", ""), ("reconstruction.json", "system", "reconstruction")):
        if (folder / file).is_file():
            for f in read_checked(folder / file, "failures").get("failures") or ():
                yield f.get(key, ""), f.get("benchmark", benchmark), f["reason"]
