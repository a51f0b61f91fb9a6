"""The scores of a result as rows: its headline measure by subset, then every other measure. For tables and pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.benchmarks.base import MODEL
from eval.report.wording import label, measure

CHANCE = {"pair_accuracy": 0.5}  # what guessing gives, for the metrics that have such a value
ENOUGH = 6  # items: five are all right or all wrong by guessing more often than once in twenty times


@dataclass(frozen=True)
class Row:
    """One number of the model, and the same of every baseline that has it."""

    name: str
    score: Mapping[str, Any]
    baselines: Mapping[str, Mapping[str, Any]]


def select(scores: Sequence[Mapping[str, Any]], metric: str, convention: str) -> dict[str, Mapping[str, Any]]:
    """Item -> its score of one metric and convention, in their order."""
    return {s["item"]: s for s in scores if s["metric"] == metric and s["convention"] == convention}


def headline_score(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """The score to look at first: its metric and its convention are the primary ones."""
    return next(s for s in result["scores"][MODEL] if s["item"] == result["headline"])


def short_name(result: Mapping[str, Any], item: str) -> str:
    return item.removeprefix(f"{result['benchmark']}/{result['split']}/")


def statistic_name(result: Mapping[str, Any], score: Mapping[str, Any]) -> str:
    """What a number of a result without a headline is called."""
    return f"{label(score['metric'])} ({short_name(result, score['item'])})"


def main_rows(result: Mapping[str, Any]) -> list[Row]:
    """Every subset by the headline metric, under the primary convention."""
    headline = headline_score(result)
    return _rows(result, headline["metric"], headline["convention"])


def other_rows(result: Mapping[str, Any]) -> list[Row]:
    """The other metrics: under the primary convention where they know it, else under their own. Measure in `name`."""
    headline, scores = headline_score(result), result["scores"][MODEL]
    made = []
    for metric in dict.fromkeys(s["metric"] for s in scores if s["metric"] != headline["metric"]):
        conventions = list(dict.fromkeys(s["convention"] for s in scores if s["metric"] == metric))
        if headline["convention"] in conventions:
            conventions = [headline["convention"]]
        for convention in conventions:
            for row in _rows(result, metric, convention):
                own = "" if convention == headline["convention"] else f" ({convention})"
                made.append(Row(f"{measure(metric)}, {row.name}{own}", row.score, row.baselines))
    return made


def _rows(result: Mapping[str, Any], metric: str, convention: str) -> list[Row]:
    scorers = {name: select(scores, metric, convention) for name, scores in result["scores"].items()}
    model = scorers.pop(MODEL)
    return [
        Row(short_name(result, item), score, {n: found[item] for n, found in scorers.items() if item in found})
        for item, score in model.items()
    ]


def conventions(result: Mapping[str, Any]) -> list[str]:
    """Of the headline metric, the primary one first."""
    metric = headline_score(result)["metric"]
    return list(dict.fromkeys(s["convention"] for s in result["scores"][MODEL] if s["metric"] == metric))


def near_chance(result: Mapping[str, Any]) -> list[str]:
    """The rows in whose 95 % interval guessing lies: other items of the same kind might have shown nothing."""
    chance = CHANCE.get(headline_score(result)["metric"])
    if chance is None:
        return []
    return [row.name for row in main_rows(result) if _holds(row.score, chance) is True]


def _holds(score: Mapping[str, Any], value: float) -> bool | None:
    """Whether the interval of a score, or of one without the score itself, holds a value; None where it is no number,
    which is null in results.json."""
    low, high = score["interval"] or (score["value"], score["value"])
    return None if low is None or high is None else low - 1e-9 <= value <= high + 1e-9


def chance_outside(result: Mapping[str, Any]) -> dict[str, list[str]] | None:
    """Baseline -> the rows in whose 95 % interval guessing does not lie; None without baselines or without such a
    value. A baseline knows nothing of sequences: what it surely gets right or wrong is a shortcut. Rows of fewer than
    `ENOUGH` items cannot tell."""
    chance = CHANCE.get(headline_score(result)["metric"])
    rows = [row for row in main_rows(result) if row.baselines]
    if chance is None or not rows:
        return None
    made: dict[str, list[str]] = {name: [] for row in rows for name in row.baselines}
    for row in rows:
        for name, score in row.baselines.items():
            if score["count"] >= ENOUGH and _holds(score, chance) is False:
                made[name].append(row.name)
    return made
