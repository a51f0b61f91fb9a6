"""Results -> one self-contained page: opens from disk, needs no network, plays what the model said.

`templates/page.html` is the page; everything it shows is prepared here. The template escapes all values.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.benchmarks.base import MODEL
from eval.report import wording
from eval.report.drawing import Chart, draw_lines, draw_waveform
from eval.report.table import by_item, primary_convention
from eval.results import read_results
from slm.files import write_text

TEMPLATES = Path(__file__).parent / "templates"
EMBED_BYTES = 100_000  # a smaller recording goes into the page itself


def build_page(results: Sequence[Path], out: Path) -> Path:
    """Write OUT/index.html about one or more folders of results; recordings that lie elsewhere are copied to OUT.

    Raises UsageError for a folder without results.
    """
    records = [read_results(folder) for folder in results]
    runs = [
        _run(f"run-{i}", folder, record, out)
        for i, (folder, record) in enumerate(zip(results, records, strict=True), start=1)
    ]
    page = _environment().get_template("page.html").render(runs=runs, compared=_compare(runs), wording=wording)
    write_text(out / "index.html", page)
    return out / "index.html"


def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters["value"], made.filters["interval"] = wording.format_value, wording.format_interval
    made.filters["percent"] = lambda share: f"{100 * min(1.0, max(0.0, share)):.2f}%"
    return made


def _run(anchor: str, folder: Path, record: dict[str, Any], out: Path) -> dict[str, Any]:
    pairs = [_pair_result(r) for r in record["results"] if r["headline"]]
    return {
        "anchor": anchor,
        "name": record["model"]["path"],
        "model": record["model"],
        "tokenizer": record["tokenizer"],
        "versions": record["versions"],
        "created": max((r["created"] for r in record["results"]), default=""),
        "pairs": pairs,
        "conventions": list(dict.fromkeys(name for r in pairs for name in r["conventions"])),
        "scorers": list(dict.fromkeys(name for r in pairs for name in r["scorers"])),
        "generated": any(r["generated"] for r in pairs),
        "spoken": [_continuation(r, folder, out, anchor) for r in record["results"] if not r["headline"]],
        "curve": _curve(folder / "training.jsonl"),
        "corpus": record["corpus"],
        "raw": json.dumps(_without_prompts(record), indent=2, ensure_ascii=False),
    }


def _pair_result(result: dict[str, Any]) -> dict[str, Any]:
    """Rows (one for each subset) with the model's score, the baselines' and every convention."""
    primary = primary_convention(result)
    accuracies = {n: by_item(s, "pair_accuracy", primary) for n, s in result["scores"].items()}
    bits = {n: by_item(s, "bits_per_s") for n, s in result["scores"].items()}
    accuracy = [s for s in result["scores"][MODEL] if s["metric"] == "pair_accuracy"]
    conventions = list(dict.fromkeys(s["convention"] for s in accuracy))
    rows = []
    for item, score in accuracies[MODEL].items():
        rows.append({
            "name": item.split("/", 2)[2],
            "meaning": result["meanings"].get(item, ""),
            "score": score,
            "baselines": {n: a[item] for n, a in accuracies.items() if n != MODEL},
            "by_convention": {
                c: {n: by_item(s, "pair_accuracy", c)[item] for n, s in result["scores"].items()} for c in conventions
            },
        })  # fmt: skip
    headline = next(row for row in rows if row["score"]["item"] == result["headline"])
    return {
        **result,
        "primary": primary,
        "conventions": conventions,
        "scorers": list(result["scores"]),
        "rows": rows,
        "first": headline,
        "bits": {n: next(iter(b.values())) for n, b in bits.items()},
    }


def _compare(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """One row for each model, one column for each benchmark; nothing to compare with one model."""
    if len(runs) < 2:
        return None
    columns = list(dict.fromkeys((r["benchmark"], r["split"], r["primary"]) for run in runs for r in run["pairs"]))
    rows = [
        {
            "run": run,
            "cells": [
                next((r for r in run["pairs"] if (r["benchmark"], r["split"], r["primary"]) == column), None)
                for column in columns
            ],
        }
        for run in runs
    ]
    return {"columns": columns, "rows": rows}


def _continuation(result: dict[str, Any], folder: Path, out: Path, anchor: str) -> dict[str, Any]:
    """Each prompt with its recordings and their waveforms."""
    prompts = [_players(prompt, folder, out, anchor) for prompt in result["details"].get("prompts", ())]
    return {**result, "prompts": prompts, "statistics": result["scores"][MODEL]}


def _players(prompt: dict[str, Any], folder: Path, out: Path, anchor: str) -> dict[str, Any]:
    made = []
    name = f"{anchor}-{prompt['folder'].replace('/', '-')}"
    for part, title in (("prompt", "Recording"), ("whole", "Prompt and continuation, as the tokenizer renders them")):
        wav = folder / prompt["folder"] / prompt["files"].get(part, "")
        if wav.is_file():
            wave = draw_waveform(wav, prompt["prompt"]["duration_s"])
            made.append({"title": title, "source": _source(wav, out, name), "wave": wave})
    return {**prompt, "players": made}


def _source(wav: Path, out: Path, name: str) -> str:
    """A data URI for a short recording; else a relative path, of the file itself or of its copy."""
    if wav.stat().st_size <= EMBED_BYTES:
        return "data:audio/wav;base64," + base64.b64encode(wav.read_bytes()).decode()
    if not wav.resolve().is_relative_to(out.resolve()):
        copy = out / "audio" / f"{name}-{wav.name}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(wav, copy)
        wav = copy
    return wav.resolve().relative_to(out.resolve()).as_posix()


def _curve(path: Path) -> Chart | None:
    """Training and held-out loss by step."""
    from slm.training.metrics import read_metrics

    lines = read_metrics(path)

    def points(key: str) -> list[tuple[float, float]]:
        return [(line["step"], line[key]) for line in lines if line.get(key) is not None]

    curves = (("training", "train", "train_nats_per_code"), ("held out", "eval", "eval_nats_per_code"))
    return draw_lines([(name, css, points(key)) for name, css, key in curves])


def _without_prompts(record: dict[str, Any]) -> dict[str, Any]:
    """The record without its long lists, which the page shows by themselves."""
    short = [
        {k: v for k, v in r.items() if k not in ("scores", "left_out", "meanings")}
        | {"details": {k: v for k, v in r["details"].items() if k != "prompts"}}
        for r in record["results"]
    ]
    return {**record, "results": short}
