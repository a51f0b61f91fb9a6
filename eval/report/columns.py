"""Scores of several models as tables: every number a row, headlines as columns, and mean ranks."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from eval.benchmarks.base import MODEL
from eval.report.failed import Failed
from eval.report.inputs import Evaluated, slug
from eval.report.rows import short_name
from eval.report.wording import absences, few, format_number, format_span, label, left_out, visible

# Of numbers that no registered metric of that name tells about.
DIRECTIONS = {"abx_error": False, "pair_accuracy": True, "bits_per_s": False, "wer": False, "dwer": False}
DIRECTIONS |= dict.fromkeys(
    ("dnsmos_ovrl", "dnsmos_sig", "dnsmos_bak", "dnsmos_p808", "distillmos", "utmos", "speaker_similarity"), True
)
COUNT = re.compile(r"(?:^|[/ _-])(?:k|q|n)?=?(\d+)(?: ?-?codebooks?)?$")  # at the end of a subset's name


def without_count(name: str) -> str:
    """`speech 8 codebooks` -> `speech`: what tokenizers of different numbers of codebooks share."""
    return COUNT.sub("", name).strip("/ _-")


FIELDS = {"run": "Model", "scorer": "Scorer", "subset": "Subset", "metric": "Measure", "convention": "Convention"}


@dataclass(frozen=True)
class NumberRow:
    """One number of one model (or baseline) on one subset, as a line of a table."""

    run: str
    scorer: str
    subset: str
    metric: str
    convention: str
    value: float
    shown: str
    interval: str
    low: float | None
    """Where the interval begins."""
    count: int
    anchor: str
    """Of the configuration that made it."""


@dataclass(frozen=True)
class NumberTable:
    """All numbers of one benchmark and split, and what to show of them at first."""

    title: str
    split: str
    about: str
    rows: tuple[NumberRow, ...]
    first: Mapping[str, str]
    """Field -> the value that is shown at first; fields that are absent show all."""
    notes: tuple[str, ...]
    failed: tuple[str, ...] = ()
    """What could not be evaluated, and why."""

    @property
    def key(self) -> str:
        return slug(f"{self.title}-{self.split}")

    def choices(self, field: str) -> list[str]:
        return list(dict.fromkeys(str(getattr(row, field)) for row in self.rows))

    def packed(self) -> dict[str, Any]:
        """The rows as the page's script draws them, those that are asked for: `words` holds each text of each field
        once, and a row begins with the places of its own in them. Of sixty models there are tens of thousands of rows.
        """
        words = {field: self.choices(field) for field in (*FIELDS, "anchor")}
        places = [(field, {word: i for i, word in enumerate(found)}) for field, found in words.items()]
        rows = [
            [*(place[getattr(row, field)] for field, place in places),
             visible(row.shown), _sortable(row.value), row.interval, _sortable(row.low), row.count]
            for row in self.rows
        ]  # fmt: skip
        return {"words": [(field, [visible(word) for word in found]) for field, found in words.items()], "rows": rows}


def _sortable(value: float | None) -> float | None:
    """With as many digits as tell numbers apart; None for what is no number, which stands last."""
    return float(f"{value:.7g}") if value is not None and math.isfinite(value) else None


def number_tables(evaluated: Sequence[Evaluated], failed: Sequence[Failed] = ()) -> list[NumberTable]:
    """One for each benchmark and split, in the order in which they are met. What of `failed` is of a benchmark is noted
    below its tables."""
    met: dict[tuple[str, str], list[tuple[Evaluated, Mapping[str, Any]]]] = {}
    for run in evaluated:
        for result in run.record["results"]:
            met.setdefault((result["benchmark"], result["split"]), []).append((run, result))
    return [_table(title, split, found, failed) for (title, split), found in met.items()]


def _table(title: str, split: str, found: Sequence[tuple[Evaluated, Mapping[str, Any]]],
           failed: Sequence[Failed]) -> NumberTable:  # fmt: skip
    rows = [row for run, result in found for row in _rows(run, result)]
    first = {"scorer": MODEL} if len({row.scorer for row in rows}) > 1 else {}
    primary = next(
        (s for _, r in found if r["headline"] for s in r["scores"][MODEL] if s["item"] == r["headline"]), None
    )
    if primary:
        metric, convention = label(primary["metric"]), primary["convention"]
        lines = [(row.run, row.convention) for row in rows if row.metric == metric]
        alike = {run for run, _ in lines} == {run for run, made in lines if made == convention}
        first |= {"metric": metric, **({"convention": convention} if alike else {})}  # nobody's number is hidden
    noted: dict[str, list[str]] = {}
    for run, result in found:
        for note in _notes(result):
            noted.setdefault(note, []).append(run.name)
    notes = [f"{few(names)}: {note}" for note, names in noted.items()]
    missing = tuple(str(f) for f in failed if f.benchmark == title)
    return NumberTable(title, split, found[0][1]["about"], tuple(rows), first, tuple(notes), missing)


def _rows(run: Evaluated, result: Mapping[str, Any]) -> list[NumberRow]:
    return [
        NumberRow(run.name, scorer, short_name(result, s["item"]), label(s["metric"]), s["convention"], s["value"],
                  format_number(s), format_span(s), (s.get("interval") or (None,))[0], s["count"],
                  config_anchor(run, result))
        for scorer, scores in result["scores"].items()
        for s in scores
    ]  # fmt: skip


def _notes(result: Mapping[str, Any]) -> list[str]:
    """What was left out and what is absent, in plain words."""
    made = []
    if result["left_out"]:
        made.append(left_out(result))
    made += absences(result)
    if note := result["details"].get("note"):
        made.append(f"{note}.")
    return made


def config_anchor(run: Evaluated, result: Mapping[str, Any]) -> str:
    return slug(f"{run.key}-{result['benchmark']}-{result['split']}")


@dataclass(frozen=True)
class Column:
    """A number that several models have: whose, by which measure, and which way is better (None: unknown)."""

    benchmark: str
    split: str
    name: str
    metric: str
    convention: str
    higher_is_better: bool | None
    scores: Mapping[str, Mapping[str, Any]]
    """Key of the model -> its score."""
    own: str = ""
    """What of its convention another column of the same number does not say; empty where there is none."""


def headline_columns(evaluated: Sequence[Evaluated]) -> list[Column]:
    """The first number of each benchmark; another convention is another column."""
    return _columns(evaluated, lambda result, score: score["item"] == result["headline"] and _is_primary(result, score))


def measure_columns(evaluated: Sequence[Evaluated], benchmark: str, split: str) -> list[Column]:
    """Every number of one benchmark; of one that has a headline, about the same subset."""
    return _columns(
        evaluated,
        lambda result, score: (
            (result["benchmark"], result["split"]) == (benchmark, split) and result["headline"] in ("", score["item"])
        ),
    )


def _is_primary(result: Mapping[str, Any], score: Mapping[str, Any]) -> bool:
    first = next(s for s in result["scores"][MODEL] if s["item"] == result["headline"])
    return (score["metric"], score["convention"]) == (first["metric"], first["convention"])


def _columns(evaluated: Sequence[Evaluated], wanted: Any) -> list[Column]:
    met: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = {}
    for run in evaluated:
        for result in run.record["results"]:
            for s in result["scores"].get(MODEL, ()):
                if wanted(result, s):
                    name = short_name(result, s["item"])
                    name = without_count(name) or name if s["item"] == result["headline"] else name
                    key = (result["benchmark"], result["split"], name, s["metric"])
                    met.setdefault((*key, s["convention"]), {})[run.key] = s
    return [
        Column(
            b, p, n, m, c, direction(m), scores, _own([c, *(k[4] for k in met if k[:4] == (b, p, n, m) and k[4] != c)])
        )
        for (b, p, n, m, c), scores in met.items()
    ]


def _own(conventions: Sequence[str]) -> str:
    """Of the first, what not all of the others say too: headings are short, and their beginnings alike."""
    first, *others = ([part.strip() for part in re.split("[;,]", c)] for c in conventions)
    return ", ".join(part for part in first if not all(part in other for other in others))


@cache
def direction(metric: str) -> bool | None:
    """Whether more of it is better; None where nobody says so: then nothing is ranked by it."""
    from eval.metrics.base import METRICS

    if metric in METRICS.names():
        return METRICS.get(metric).higher_is_better
    return DIRECTIONS.get(metric)


@dataclass(frozen=True)
class Ranking:
    """Mean ranks of the models over the columns that all of them have. 1 is the worst of a column."""

    title: str
    columns: tuple[Column, ...]
    means: Mapping[str, float]
    without: tuple[str, ...]
    """Columns that were not ranked by, and why."""


def rank(title: str, columns: Sequence[Column]) -> Ranking | None:
    """None where there are no two models, or no column that can rank them."""
    models = list(dict.fromkeys(key for column in columns for key in column.scores))
    used, without = [], []
    for column in columns:
        name = f"{column.benchmark} {column.name}, {label(column.metric)}"
        if column.higher_is_better is None:
            without.append(f"{name} (which way is better is not said)")
        elif missing := [m for m in models if not _is_number((column.scores.get(m) or {}).get("value"))]:
            without.append(f"{name} (not there for {few(missing)})")
        else:
            used.append(column)
    if len(models) < 2 or not used:
        return None
    ranks = np.array([column_ranks([_merit(c, m) for m in models]) for c in used])
    return Ranking(title, tuple(used), dict(zip(models, ranks.mean(axis=0).tolist(), strict=True)), tuple(without))


def _is_number(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def _merit(column: Column, model: str) -> float:
    value = column.scores[model]["value"]
    return value if column.higher_is_better else -value


def column_ranks(merits: Sequence[float]) -> np.ndarray:
    """1 for the least merit; equal ones share the mean of their places."""
    values = np.asarray(merits, dtype=np.float64)
    below = (values[None, :] < values[:, None]).sum(axis=1)
    equal = (values[None, :] == values[:, None]).sum(axis=1)
    return below + (equal + 1) / 2
