"""Several models and benchmarks in one run: what the models are called, and what could not be evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from eval.report.wording import run_name
from slm.errors import UsageError


def name_models(paths: Sequence[str]) -> dict[str, str]:
    """A short name for each model, none twice: `runs/x/final` is `x`. UsageError for a model given twice, however it
    is spelled, and for two whose folders would have one name."""
    if len({Path(path).resolve() for path in paths}) < len(paths) or not paths:
        raise UsageError(f"--model names {', '.join(paths) or 'none'}: give one or more, each once")
    names = [run_name(path) for path in paths]
    parts = [PurePath(path).parts for path in paths]
    longer = ["-".join(p for p in some if p not in ("/", ".", "..")) for some in parts]
    names = [name if names.count(name) == 1 else long for name, long in zip(names, longer, strict=True)]
    for path, name in zip(paths, names, strict=True):
        if names.count(name) > 1:
            raise UsageError(f"--model {path}: another model would share its folder {name}; rename or link one of them")
    return dict(zip(names, paths, strict=True))


@dataclass(frozen=True)
class Failure:
    """What could not be evaluated: one benchmark of a model, or, without a name of one, the model."""

    error: UsageError
    model: str = ""
    benchmark: str = ""


def report_failures(failures: Sequence[Failure], jobs: int, several_models: bool) -> None:
    """UsageError where there are any: what there was to do besides is done by now. `jobs`: models times benchmarks."""
    if failures and jobs == 1:
        raise failures[0].error
    if failures:
        where = [", ".join([f.model] * several_models + [f.benchmark] * bool(f.benchmark)) for f in failures]
        lines = [f"\n  {place}: {f.error}" for place, f in zip(where, failures, strict=True)]
        raise UsageError("could not be evaluated (what else was asked for is done):" + "".join(lines))
