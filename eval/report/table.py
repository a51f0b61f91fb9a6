"""Results as Markdown: the primary convention with baselines and intervals, then every convention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.benchmarks.base import MODEL
from eval.report.rows import (
    chance_outside,
    conventions,
    headline_score,
    main_rows,
    near_chance,
    other_rows,
    select,
    short_name,
    statistic_name,
)
from eval.report.wording import (
    OVER_SEEDS,
    PAIRED,
    absences,
    chance_note,
    convention_meaning,
    format_interval,
    format_p,
    format_value,
    format_versions,
    inline,
    left_out,
    measure,
    run_name,
)

_SAID = 10  # differences in one line


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


def result_table(result: Mapping[str, Any]) -> str:
    """One benchmark: a title line, the table, what was left out."""
    result = inline(result)
    rows = _score_rows(result) if result["headline"] else _statistic_rows(result)
    lines = [f"## {result['benchmark']}, {result['split']}", "", result["about"], "", rows]
    outside = chance_outside(result) if result["headline"] else None
    if outside is not None:
        lines += ["", ("WARNING: " if any(outside.values()) else "") + chance_note(outside)]
    if result["headline"] and (unsure := near_chance(result)):
        lines += ["", f"Inside the noise: guessing (50 %) lies in the 95 % interval of {', '.join(unsure)}."]
    counts = result["counts"]
    for name in ("pairs", "prompts"):
        done = counts.get(f"{name}_scored", counts.get(f"{name}_continued"))
        if done is not None and done < counts[name]:
            lines += ["", f"{done:,} of {counts[name]:,} {name} could be used: the numbers are about these."]
    if result["left_out"]:
        lines += ["", left_out(result)]
    for line in absences(result):
        lines += ["", line]
    if note := result["details"].get("note"):
        lines += ["", f"Note: {note}."]
    return "\n".join(lines)


def _score_rows(result: Mapping[str, Any]) -> str:
    """The headline metric by subset, then the other metrics; baselines with their intervals in brackets."""
    headline = headline_score(result)
    others = [name for name in result["scores"] if name != MODEL]
    named = [(f"{measure(headline['metric'])}, {row.name}", row) for row in main_rows(result)]
    named += [(row.name, row) for row in other_rows(result)]
    rows = [
        [name, format_value(row.score), format_interval(row.score),
         *(_with_interval(row.baselines.get(other), row.score) for other in others), str(row.score["count"])]
        for name, row in named
    ]  # fmt: skip
    return markdown_table([f"convention: {headline['convention']}", MODEL, "95 % interval", *others, "n"], rows)


def _with_interval(score: Mapping[str, Any] | None, beside: Mapping[str, Any] | None = None) -> str:
    """With its n as well, where it is another than that of the number that it stands `beside`."""
    if score is None:
        return "–"
    count = f"n {score['count']:,}" if beside and score["count"] != beside["count"] else ""
    about = "; ".join(filter(None, [format_interval(score), count]))
    return format_value(score) + (f" ({about})" if about else "")


def _statistic_rows(result: Mapping[str, Any]) -> str:
    """Numbers without a headline: the model's, their intervals where there are some, the same of what stands beside
    it, and, where they are not all of one convention, how each was made."""
    scores = result["scores"].get(MODEL, [])
    if not scores:
        return "No numbers."
    others = {
        name: {(s["item"], s["metric"]): s for s in found} for name, found in result["scores"].items() if name != MODEL
    }
    has_intervals = any(s.get("interval") for s in scores)
    rows = [
        [statistic_name(result, s), format_value(s), *([format_interval(s)] if has_intervals else []),
         *(_with_interval(found.get((s["item"], s["metric"])), s) for found in others.values()), str(s["count"])]
        for s in scores
    ]  # fmt: skip
    header = [scores[0]["convention"], MODEL, *(["95 % interval"] if has_intervals else []), *others, "n"]
    made: dict[str, list[str]] = {}
    for score, row in zip(scores, rows, strict=True):
        made.setdefault(score["convention"], []).append(row[0])
    lines = [f"- {', '.join(names)}: {convention}" for convention, names in made.items()] if len(made) > 1 else []
    return "\n".join([markdown_table(header, rows), *(["", "How each was made:", "", *lines] if lines else [])])


def conventions_table(result: Mapping[str, Any]) -> str:
    """The model's headline metric under every convention."""
    result = inline(result)
    metric, names = headline_score(result)["metric"], conventions(result)
    columns = [select(result["scores"][MODEL], metric, name) for name in names]
    rows = [
        [short_name(result, item), *(format_value(c[item]) if item in c else "–" for c in columns)]
        for item in columns[0]
    ]
    meanings = [f"- {name}: {convention_meaning(name)}" for name in names]
    return "\n".join([markdown_table([measure(metric), *names], rows), "", *meanings])


def comparison_markdown(compared: Mapping[str, Any]) -> str:
    """The whole file: DIR/comparison.md. Models by benchmarks, every number, every difference with its test."""
    compared = inline(compared)
    names = [model["name"] for model in compared["models"]]
    models = [
        [m["name"], m["path"], m["fingerprint"][:12], f"{m['tokenizer']['name']} {m['tokenizer']['fingerprint'][:12]}"]
        for m in compared["models"]
    ]
    parts = ["# " + ", ".join(names), markdown_table(["model", "path", "weights", "tokenizer"], models)]
    if short := comparison_table(compared):
        parts += ["## In short", short]
    if methods := _methods_table(compared):
        parts += ["## Over seeds", methods]
    for benchmark, split in dict.fromkeys((row["benchmark"], row["split"]) for row in compared["rows"]):
        rows = [row for row in compared["rows"] if (row["benchmark"], row["split"]) == (benchmark, split)]
        cells = [[row["name"], *(_cell(row, name) for name in names)] for row in rows]
        if any(row["headline"] for row in rows):
            header = f"convention: {rows[0]['convention']}"
        else:
            made = {row["convention"] for row in rows}
            header = made.pop() if len(made) == 1 else "how each was made: results.md of each model"
        parts += [f"## {benchmark}, {split}", markdown_table([header, *names], cells)]
        tests = [t for t in compared["tests"] if (t["benchmark"], t["split"]) == (benchmark, split)]
        if tests:
            parts.append(_tests_table(tests))
    if compared["tests"]:
        parts.append(PAIRED)
    if failures := compared.get("failures"):
        parts += ["## Could not be evaluated", _failures([(f["model"], f["benchmark"], f["reason"]) for f in failures])]
    return "\n\n".join(parts) + "\n"


def _methods_table(compared: Mapping[str, Any]) -> str:
    """Of each method the mean over its trainings, the least and the most; of two the difference, with its test."""
    methods, columns = compared.get("methods"), [row for row in compared["rows"] if row["headline"]]
    if not methods or not columns:
        return ""
    header = ["", *(f"{row['benchmark']} {row['split']}, {row['name']}" for row in columns), "seeds"]
    rows = [[m["name"], *(_over_trainings(row, m["models"]) for row in columns), ", ".join(map(str, m["seeds"]))]
            for m in methods]  # fmt: skip
    tests = [
        [f"{t['second']} less {t['first']}: {t['benchmark']} {t['split']}, {t['name']}", _difference(t),
         format_p(t["p_value"]), f"{t['count']:,}", "inside the noise" if t["within_noise"] else "told apart"]
        for t in compared["method_tests"]
    ]  # fmt: skip
    table = markdown_table(["accuracy", "difference", "p", "n", ""], tests)
    return "\n\n".join([markdown_table(header, rows), *([table, OVER_SEEDS] if tests else [])])


def _over_trainings(row: Mapping[str, Any], models: Sequence[str]) -> str:
    """The mean (least–most) of those that have the number."""
    values = [row["scores"][name]["value"] for name in models if name in row["scores"]]
    if not values:
        return "–"
    ends = (min(values), max(values)) if len(values) > 1 else (None, None)
    mean = {"value": sum(values) / len(values), "interval": ends, "unit": row["unit"], "metric": row["metric"]}
    return _with_interval(mean)


def _failures(found: Sequence[tuple[str, str, str]]) -> str:
    """Model, benchmark and reason of each, on a line."""
    return "\n".join(f"- {', '.join(filter(None, named))}: {reason}" for *named, reason in found)


def comparison_table(compared: Mapping[str, Any]) -> str:
    """One row a model, one column a benchmark that has a first number, and what of it may be luck."""
    compared = inline(compared)
    columns = [row for row in compared["rows"] if row["headline"]]
    header = ["", *(f"{row['benchmark']} {row['split']}, {row['name']} ({row['convention']})" for row in columns)]
    rows = [[m["name"], *(_cell(row, m["name"]) for row in columns)] for m in compared["models"]]
    keys = {(row["benchmark"], row["split"], row["name"]) for row in columns}
    noise: dict[str, list[str]] = {}
    for t in compared["tests"]:
        if t["within_noise"] and (t["benchmark"], t["split"], t["name"]) in keys:
            said = f"{t['second']} and {t['first']} by {_difference(t)} on {t['count']:,} items"
            noise.setdefault(f"{t['benchmark']} {t['split']}, {t['name']}", []).append(said)
    lines = [
        f"WARNING: on {where}, these differ by less than the noise: {_some(said)}." for where, said in noise.items()
    ]
    table = [markdown_table(header, rows)] if columns else []
    return "\n\n".join([*table, *lines, *(f"NOTE: {note}" for note in compared.get("notes", ()))])


def _some(said: Sequence[str]) -> str:
    """Of 20 models there are 190 differences."""
    more = len(said) - _SAID
    return "; ".join(said[:_SAID]) + (f"; and {more} others, told one by one in comparison.md" if more > 0 else "")


def _cell(row: Mapping[str, Any], name: str) -> str:
    score = row["scores"].get(name)
    first = next(iter(row["scores"].values()))
    return _with_interval(score and {**score, "unit": row["unit"], "metric": row["metric"]}, first)


def _tests_table(tests: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [f"{t['second']} less {t['first']}, {t['name']}", _difference(t), format_p(t["p_value"]),
         f"{t['better']:,} : {t['worse']:,}", f"{t['count']:,}",
         "inside the noise" if t["within_noise"] else "told apart"]
        for t in tests
    ]  # fmt: skip
    return markdown_table(["accuracy", "difference", "p", "better : worse", "n", ""], rows)


def _difference(test: Mapping[str, Any]) -> str:
    """In points of a per cent, with its interval."""
    low, high = test["interval"]
    return f"{100 * test['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def results_markdown(record: Mapping[str, Any]) -> str:
    """The whole file: OUT/results.md."""
    tokenizer, model = inline(record["tokenizer"]), inline(record["model"])
    parts = [
        f"# {run_name(model['path'])}",
        f"{model['path']}: model {model['fingerprint'][:12]} over tokenizer {tokenizer['name']} "
        f"{tokenizer['fingerprint'][:12]}, {tokenizer['frame_rate_hz']:g} Hz.",
    ]
    for result in record["results"]:
        parts.append(result_table(result))
        parts.append(f"Made {inline(result['created'])} with {format_versions(inline(result['versions']))}.")
        if result["headline"]:
            parts.append("### Every convention\n\n" + conventions_table(result))
    if failed := inline(record.get("failed")):
        lines = _failures([("", f["benchmark"], f"{f['reason']} ({f['created']})") for f in failed])
        parts += ["## Could not be evaluated", lines]
    return "\n\n".join(parts) + "\n"
