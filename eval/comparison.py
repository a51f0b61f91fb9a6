"""Several models on the same benchmarks: one table, and a paired test of every difference; of methods that were trained
with several seeds, a test over these too.

DIR/comparison.json and comparison.md, from what each model left in DIR/NAME.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from eval.benchmarks.base import MODEL, Benchmark
from eval.benchmarks.pairs import PairBenchmark, Subset
from eval.likelihoods import Convention, Likelihoods
from eval.methods import Method, Training, find_methods
from eval.metrics.base import sum_groups
from eval.metrics.over_seeds import method_test
from eval.metrics.paired import paired_test
from eval.progress import Progress
from eval.report.rows import headline_score, main_rows, other_rows, statistic_name
from eval.results import read_results
from slm.types import MinimalPair

FORMAT = 1
_KEPT = 8  # sets of pairs, whose decisions are kept


@dataclass(frozen=True)
class Compared:
    """A model of a comparison: where its results are, and the convention that it is judged by."""

    name: str
    folder: Path
    convention: Convention
    failed: frozenset[str] = frozenset()
    """Benchmarks that could not be run on it: what an earlier run left of them is not compared."""

    training: Training | None = None
    """How it was trained, where that is known."""

    def result(self, benchmark: Benchmark) -> dict[str, Any] | None:
        """What it got on a benchmark."""
        if benchmark.name in self.failed or not (self.folder / "results.json").is_file():
            return None
        split = getattr(benchmark, "split", None)
        same = (r for r in read_results(self.folder)["results"] if r["benchmark"] == benchmark.name)
        return next((r for r in same if split is None or r["split"] == split), None)

    def scores(self, result: Mapping[str, Any]) -> dict[str, float]:
        """Item -> score, from the likelihoods beside the results."""
        likelihoods = Likelihoods.read(self.folder / result["details"]["likelihoods"][MODEL])
        weights = result["details"].get("codebook_weights")
        return likelihoods.scores(self.convention.for_model(weights, likelihoods.sums.shape[1]))


def compare(models: Sequence[Compared], benchmarks: Sequence[Benchmark], resamples: int, seed: int) -> dict[str, Any]:
    """The content of comparison.json: `models`, `rows` (a number of each model), `tests` (a pair of models each),
    `notes` (where models were not measured on as many items, or two are of one seed); and, where a method was trained
    with several seeds, `methods` (all that there are) and `method_tests` (a pair of them each)."""
    rows: list[dict[str, Any]] = []
    tests: list[dict[str, Any]] = []
    method_tests: list[dict[str, Any]] = []
    methods = find_methods(models)
    for benchmark in benchmarks:
        found = {m.name: result for m in models if (result := m.result(benchmark)) is not None}
        rows += _rows(found)
        if isinstance(benchmark, PairBenchmark):
            decisions = _Decisions(benchmark, [(m, m.scores(found[m.name])) for m in models if m.name in found])
            two = list(combinations([m for m in models if m.name in found], 2))
            progress = Progress(f"{benchmark.name}, differences", "pairs of models")
            for first, second in two:
                tests += _tests(benchmark, first, second, decisions, resamples, seed)
                progress.add(1, len(two))
            for one, other in combinations(methods, 2):
                if all(m.name in found for m in (*one.trainings, *other.trainings)):
                    method_tests += _method_tests(benchmark, one, other, decisions)
    described = [{"name": m.name, "folder": str(m.folder), **_identity(m.folder)} for m in models]
    return {"format": FORMAT, "models": described, "resamples": resamples, "seed": seed, "rows": rows, "tests": tests,
            "notes": [*_notes(rows), *_repeated(methods)], "methods": [m.described() for m in methods],
            "method_tests": method_tests}  # fmt: skip


def _notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each benchmark whose first row is not about as many items of every model."""
    made: dict[str, str] = {}
    for row in rows:
        counts = {name: score["count"] for name, score in row["scores"].items()}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{count:,} of {name}" for name, count in counts.items())
            made.setdefault(
                f"{row['benchmark']} {row['split']}",
                f"{row['benchmark']} {row['split']}, {row['name']}: n is {said}. Their values are about other items; "
                "tests are about those that both could score.",
            )
    return list(made.values())


def _repeated(methods: Sequence[Method]) -> list[str]:
    """A line for each model that a method over seeds passes over."""
    return [
        f"{other.name} has the seed and the training of {first.name}: over seeds, only {first.name} counts."
        for method in methods
        for other, first in method.repeated
    ]


def _identity(folder: Path) -> dict[str, Any]:
    record = read_results(folder)
    tokenizer = {key: record["tokenizer"][key] for key in ("name", "fingerprint", "frame_rate_hz")}
    return {"path": record["model"]["path"], "fingerprint": record["model"]["fingerprint"], "tokenizer": tokenizer}


def _rows(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every number of the table of a benchmark, with that of each model that has it; the headline, if any, comes
    first."""
    made: dict[tuple[str, ...], dict[str, Any]] = {}
    for name, result in found.items():
        if result["headline"]:
            first = headline_score(result)
            named = [(row.name, row.score) for row in (*main_rows(result), *other_rows(result))]
        else:
            first, named = {}, [(statistic_name(result, score), score) for score in result["scores"].get(MODEL, ())]
        for row, score in named:
            entry = made.setdefault(
                (result["benchmark"], result["split"], row),
                {
                    "benchmark": result["benchmark"], "split": result["split"], "name": row,
                    "headline": bool(first) and (score["item"], score["metric"]) == (first["item"], first["metric"]),
                    "metric": score["metric"], "convention": score["convention"], "unit": score["unit"], "scores": {},
                },
            )  # fmt: skip
            entry["scores"][name] = {key: score[key] for key in ("value", "interval", "count")}
    return list(made.values())


class _Decisions:
    """What each model decides on the pairs that two of them could score. Those are mostly the same whichever two they
    are: each model decides once on them, and not once for each that it is compared with."""

    def __init__(self, benchmark: PairBenchmark, scored: Sequence[tuple[Compared, Mapping[str, float]]]):
        self._benchmark, self._scores = benchmark, {m.name: scores for m, scores in scored}
        pairs = benchmark.all_pairs
        self._there = {m.name: np.array([p.positive in s and p.negative in s for p in pairs]) for m, s in scored}
        self._kept: dict[bytes, tuple[list[Subset], dict[str, list[list[np.ndarray]]]]] = {}

    def of(self, *models: Compared) -> tuple[list[str], list[list[list[np.ndarray]]]]:
        """Names of the subsets; and of each model, for each of these, the decisions of each stratum."""
        shared = np.logical_and.reduce([self._there[m.name] for m in models])
        key = shared.tobytes()
        if key not in self._kept:
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            self._kept[key] = self._subsets(shared), {}
        subsets, made = self._kept[key]
        for m in models:
            if m.name not in made:
                scores = self._scores[m.name]
                made[m.name] = [[decide(stratum, scores, m.convention.tie) for stratum in s.strata if stratum]
                                for s in subsets]  # fmt: skip
        return [s.name for s in subsets], [made[m.name] for m in models]

    def _subsets(self, shared: np.ndarray) -> list[Subset]:
        pairs = [self._benchmark.all_pairs[i] for i in np.flatnonzero(shared).tolist()]
        return [s for s in self._benchmark.subsets(pairs) if any(s.strata)] if pairs else []


def _tests(benchmark: PairBenchmark, first: Compared, second: Compared, decisions: _Decisions,
           resamples: int, seed: int) -> list[dict[str, Any]]:  # fmt: skip
    """Accuracy on each subset, over the pairs that both models could score."""
    made = []
    names, (one, other) = decisions.of(first, second)
    for name, of_first, of_second in zip(names, one, other, strict=True):
        test = paired_test(of_first, of_second, resamples, seed)
        made.append({**_about(benchmark, name, first, second), **asdict(test), "within_noise": test.within_noise})
    return made


def _method_tests(benchmark: PairBenchmark, first: Method, second: Method,
                  decisions: _Decisions) -> list[dict[str, Any]]:  # fmt: skip
    """The same of two methods of which one has several trainings, over the pairs that all of these could score."""
    if len(first.trainings) + len(second.trainings) < 3:
        return []
    made = []
    names, values = decisions.of(*first.trainings, *second.trainings)
    for i, name in enumerate(names):
        of_all = [of_subset[i] for of_subset in values]
        split = len(first.trainings)
        if (test := method_test(of_all[:split], of_all[split:])) is not None:
            made.append({**_about(benchmark, name, first, second), **asdict(test), "within_noise": test.within_noise})
    return made


def _about(benchmark: PairBenchmark, name: str, first: Compared | Method, second: Compared | Method) -> dict[str, Any]:
    """Whose test it is, and of what."""
    judged_by = first if isinstance(first, Compared) else first.trainings[0]
    return {"benchmark": benchmark.name, "split": benchmark.split, "name": name,
            "convention": judged_by.convention.name, "first": first.name, "second": second.name}  # fmt: skip


def decide(pairs: Sequence[MinimalPair], scores: Mapping[str, float], tie: float) -> np.ndarray:
    """Of each group of pairs, groups sorted, the mean of 1 for a right decision, `tie` for a tie, 0 for a wrong one."""
    margins = np.array([scores[p.positive] - scores[p.negative] for p in pairs])
    right = np.where(margins == 0, tie, margins > 0).astype(np.float64)
    totals, sizes = sum_groups([p.group for p in pairs], right, np.ones(len(pairs)))
    return totals / sizes
