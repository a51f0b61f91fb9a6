"""Everything that was found as one table for each domain: a row for each tokenizer and number of codebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.benchmarks.base import MODEL
from eval.metrics.signals import DOMAINS
from eval.reconstruction.opinions import TRUTH
from eval.reconstruction.scoring import OTHER_LENGTH
from eval.report.table import markdown_table
from eval.report.wording import inline

NAME = "reconstruction"


def points_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each number of codebooks of each domain in a record of results, with every score by metric."""
    made = []
    for result in record["results"]:
        if result["benchmark"] != NAME:
            continue
        for point in result["details"]["points"]:
            scores = [s for s in result["scores"][MODEL] if s["item"] == point["item"]]
            made.append({
                "system": record["model"]["path"],
                **point,
                "scores": {s["metric"]: {k: s[k] for k in ("value", "interval", "unit", "convention", "count")}
                           for s in scores},
                "absent": result["details"]["absent"],
                "files_left_out": len({left["item"] for left in result["left_out"]}),
            })  # fmt: skip
    return made


def tables(points: Sequence[Mapping[str, Any]], failed: Sequence[Mapping[str, str]] = ()) -> str:
    """Markdown: per domain the values, then what each column is, what is absent, and what was left out; last, which
    systems `failed` and why."""
    points, failed = inline(points), inline(failed)
    parts = [_domain(domain, [p for p in points if p["domain"] == domain]) for domain in DOMAINS]
    if failed:
        parts += ["## Could not be judged", "\n".join(f"- {one['system']}: {one['reason']}" for one in failed)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _domain(domain: str, points: Sequence[Mapping[str, Any]]) -> str:
    if not points:
        return ""
    every = dict.fromkeys(name for p in points for name in p["scores"])
    metrics = [name for name in every if not name.endswith(TRUTH)]
    header = ["tokenizer", "codebooks", *metrics, "delay ms", "n"]
    rows = [
        [p["system"], str(p["codebooks"] or "–"), *(_value(p["scores"].get(name)) for name in metrics),
         _delay(p["alignment"]), str(p["pieces"])]
        for p in points
    ]  # fmt: skip
    truth = next((p for p in points if any(name.endswith(TRUTH) for name in p["scores"])), None)
    if truth:
        values = [_value(truth["scores"].get(name + TRUTH)) for name in metrics]
        rows.insert(0, ["ground truth", "–", *values, "–", str(truth["pieces"])])
    lines = [f"## {domain}", "", markdown_table(header, rows), ""]
    for name in metrics:
        told = sorted({f"{p['scores'][name]['unit']}; {p['scores'][name]['convention']}" for p in points
                       if name in p["scores"]})  # fmt: skip
        lines.append(f"- {name}: {' / '.join(told)}")
    absent = {name: how for p in points for name, how in p["absent"].items()}
    lines += [f"- {name} is absent: {how}" for name, how in absent.items()]
    lines += _silent_about(points)
    lines += [
        f"- {p['alignment']['other_length']} of {p['pieces']} outputs ({p['system']}, {p['codebooks'] or 'as given'}) "
        f"are over {OTHER_LENGTH:.0%} longer or shorter than the ground truth: the values are about what both have"
        for p in points if p["alignment"].get("other_length")
    ]  # fmt: skip
    if most := max(p["files_left_out"] for p in points):
        lines.append(f"- left out: {most} recordings; results.json names each with its reason")
    return "\n".join(lines)


def _silent_about(points: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"- {name} says nothing of {number} of {p['pieces']} ({p['system']}, {p['codebooks'] or 'as given'}): {reason}"
        for p in points
        for name, reasons in p["undefined"].items()
        for reason, number in reasons.items()
    ]


def _value(score: Mapping[str, Any] | None) -> str:
    value = None if score is None else score["value"]
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _delay(alignment: Mapping[str, Any]) -> str:
    delay = alignment["delay_s"]
    return "?" if delay is None else f"{1000 * delay:.2f}"
