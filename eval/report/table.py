"""Results as Markdown: the primary convention with baselines and intervals, then every convention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.benchmarks.base import MODEL
from eval.report.wording import UNITS, convention_meaning, format_interval, format_value


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded so that it reads well in a terminal too; the first to the left, the others to the right."""
    cells = [[c.replace("|", "\\|") for c in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]
    lines = ["| " + " | ".join(_pad(c, w, i) for i, (c, w) in enumerate(zip(row, widths, strict=True))) + " |"
             for row in cells]  # fmt: skip
    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _pad(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column == 0 else cell.rjust(width)


def by_item(scores: Sequence[Mapping[str, Any]], metric: str, convention: str | None = None) -> dict[str, Any]:
    """Item -> its score of one metric (and convention), in their order."""
    return {s["item"]: s for s in scores if s["metric"] == metric and convention in (None, s["convention"])}


def primary_convention(result: Mapping[str, Any]) -> str:
    """The convention under which the headline score comes first."""
    return next(s["convention"] for s in result["scores"][MODEL] if s["item"] == result["headline"])


def result_table(result: Mapping[str, Any]) -> str:
    """One benchmark: a title line, the table, what was left out."""
    rows = _accuracy_rows(result) if result["headline"] else _statistic_rows(result)
    lines = [f"## {result['benchmark']}, {result['split']}", "", result["about"], "", rows]
    if result["left_out"]:
        first = result["left_out"][0]
        lines += ["", f"Left out: {len(result['left_out'])} items, such as {first['item']} ({first['reason']})."]
    if note := result["details"].get("note"):
        lines += ["", f"Note: {note}."]
    return "\n".join(lines)


def _accuracy_rows(result: Mapping[str, Any]) -> str:
    convention = primary_convention(result)
    scorers = {name: by_item(s, "pair_accuracy", convention) for name, s in result["scores"].items()}
    others = [name for name in scorers if name != MODEL]
    rows = [
        [f"accuracy, {_short(item)}", format_value(score), format_interval(score),
         *(format_value(scorers[name][item]) for name in others), str(score["count"])]
        for item, score in scorers[MODEL].items()
    ]  # fmt: skip
    bits = {name: by_item(s, "bits_per_s") for name, s in result["scores"].items()}
    rows += [
        [f"bits per s of audio, {_short(item)}", format_value(score), format_interval(score),
         *(format_value(bits[name][item]) for name in others), str(score["count"])]
        for item, score in bits[MODEL].items()
    ]  # fmt: skip
    return markdown_table([f"convention: {convention}", MODEL, "95 % interval", *others, "n"], rows)


def _statistic_rows(result: Mapping[str, Any]) -> str:
    rows = [
        [f"{UNITS.get(s['metric'], s['metric'])} ({_short(s['item'])})", format_value(s), str(s["count"])]
        for s in result["scores"][MODEL]
    ]
    return markdown_table([result["scores"][MODEL][0]["convention"], MODEL, "n"], rows)


def conventions_table(result: Mapping[str, Any]) -> str:
    """The model's accuracy under every convention."""
    accuracies = [s for s in result["scores"][MODEL] if s["metric"] == "pair_accuracy"]
    names = list(dict.fromkeys(s["convention"] for s in accuracies))
    columns = [by_item(accuracies, "pair_accuracy", name) for name in names]
    rows = [[_short(item), *(format_value(column[item]) for column in columns)] for item in columns[0]]
    meanings = [f"- {name}: {convention_meaning(name)}" for name in names]
    return "\n".join([markdown_table(["accuracy", *names], rows), "", *meanings])


def results_markdown(record: Mapping[str, Any]) -> str:
    """The whole file: OUT/results.md."""
    tokenizer, model = record["tokenizer"], record["model"]
    parts = [
        f"# {model['path']}",
        f"Model {model['fingerprint'][:12]} over tokenizer {tokenizer['name']} {tokenizer['fingerprint'][:12]}, "
        f"{tokenizer['frame_rate_hz']:g} Hz; slm {record['versions']['slm']}.",
    ]
    for result in record["results"]:
        parts.append(result_table(result))
        if result["headline"]:
            parts.append("### Every convention\n\n" + conventions_table(result))
    return "\n\n".join(parts) + "\n"


def _short(item: str) -> str:
    return item.split("/", 2)[2]
