"""What a run leaves on disk: results and pages of a model as they come, what could not be evaluated, comparisons."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eval.benchmarks.base import Benchmark, Result
from eval.comparison import Compared, compare
from eval.config import EvalConfig
from eval.several import Failure
from slm.files import copy_file, write_json, write_text


def keep_result(record: dict[str, Any], result: Result, config: EvalConfig, out: Path, fingerprints: dict[str, str],
                generated: dict[str, Any] | None) -> None:  # fmt: skip
    """Into results.json, results.md and the page, and its table on the screen."""
    from eval.report.table import result_table
    from eval.results import add_result, other_data

    if line := other_data(record, result):
        print(line, file=sys.stderr, flush=True)
    add_result(record, result, config, fingerprints, generated)
    _write(record, out)
    print("\n" + result_table(record["results"][-1]), flush=True)


def keep_failure(record: dict[str, Any], failure: Failure, out: Path) -> None:
    """Into the same files, until the benchmark is evaluated. An earlier result of it stays."""
    others = [f for f in record["failed"] if f["benchmark"] != failure.benchmark]
    created = datetime.now(UTC).isoformat(timespec="seconds")
    record["failed"] = [*others, {"benchmark": failure.benchmark, "reason": failure.reason, "created": created}]
    _write(record, out)


def _write(record: dict[str, Any], out: Path) -> None:
    from eval.report.page import build_page
    from eval.report.table import results_markdown
    from eval.results import write_results

    write_results(out, record)
    write_text(out / "results.md", results_markdown(record))
    build_page([out], out)


def write_comparison(config: EvalConfig, models: Sequence[Compared], benchmarks: Sequence[Benchmark],
                     failures: Sequence[Failure], out: Path) -> None:  # fmt: skip
    """OUT/comparison.json, comparison.md and the page about all models that could be loaded."""
    from eval.report.page import build_page
    from eval.report.table import comparison_markdown, comparison_table

    compared = compare(models, benchmarks, config.bootstrap, config.seed)
    compared["failures"] = [asdict(failure) for failure in failures]
    write_json(out / "comparison.json", compared)
    write_text(out / "comparison.md", comparison_markdown(compared))
    told = {m.name for m in models}  # each by its own part of the page
    missing = [failure for failure in compared["failures"] if failure["model"] not in told]
    build_page([m.folder for m in models], out, failures=missing)
    said = f"comparison: {out / 'comparison.md'}\npage:       {out / 'index.html'}"
    print("\n" + "\n\n".join(filter(None, [comparison_table(compared), said])), flush=True)


def keep_training_curve(config: EvalConfig, out: Path) -> None:
    """Copy the run's metrics beside the results, so that OUT can be read without the run at hand."""
    out.mkdir(parents=True, exist_ok=True)
    curve = Path(str(config.model)).resolve().parent / "metrics.jsonl"
    if curve.is_file():
        copy_file(curve, out / "training.jsonl")
