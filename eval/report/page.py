"""Results -> one self-contained page: opens from disk, needs no network, plays what the model said.

`templates/page.html` is the page; everything it shows is prepared here. The template escapes all values.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from eval.benchmarks.base import MODEL
from eval.report import wording
from eval.report.drawing import Chart, draw_lines, draw_waveform, file_inside, is_number, is_recording
from eval.report.inputs import name_of, slug, subject_of
from eval.report.rows import CHANCE, chance_outside, conventions, headline_score, main_rows, other_rows, select
from eval.results import read_results
from slm import __version__
from slm.files import check_folder, copy_file, read_json_lines, write_text

TEMPLATES = Path(__file__).parent / "templates"
EMBED_BYTES = 20_000_000  # of recordings go into the page itself, in their order; the others are linked
TITLES = {
    "model": "Spoken language model evaluation",
    "tokenizer": "Tokenizer evaluation",
    "recordings": "Evaluation of recordings",
}


def build_page(results: Sequence[Path], out: Path, home: str = "", embed_bytes: int | None = None,
               failures: Sequence[Mapping[str, Any]] = ()) -> Path:  # fmt: skip
    """Write OUT/index.html about one or more folders of results. Recordings go into the page up to `embed_bytes`
    (`EMBED_BYTES` when None); those beyond are linked, copied to OUT/audio where they lie elsewhere. `home` is the
    page of a site that this one belongs to. `failures` are what could not be evaluated (as `eval.several.Failure` has
    it), to be named beside.

    Raises UsageError for a folder without results.
    """
    check_folder(out)
    records, recordings = [read_results(folder) for folder in results], Recordings(out, embed_bytes)
    runs = [
        _run(f"run-{i}", folder, record, recordings)
        for i, (folder, record) in enumerate(zip(results, records, strict=True), start=1)
    ]
    page = (
        make_environment()
        .get_template("page.html")
        .render(
            runs=runs,
            compared=_compare(runs),
            who=wording.who(run["subject"] for run in runs),
            wording=wording,
            version=__version__,
            recordings=recordings,
            home=home,
            failures=failures,
        )
    )
    write_text(out / "index.html", page)
    return out / "index.html"


@cache  # compiling the templates takes longer than filling them in, and a page is written anew after each benchmark
def make_environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=lambda value: wording.visible(value) if type(value) is str else value,
    )  # fmt: skip
    made.filters["number"], made.filters["span"] = wording.format_number, wording.format_span
    made.filters["sortable"] = lambda value: "" if value is None or value != value else value  # what is no number: last
    made.filters["percent"] = lambda share: f"{100 * min(1.0, max(0.0, share)):.2f}%"
    return made


def _run(anchor: str, folder: Path, record: dict[str, Any], recordings: Recordings) -> dict[str, Any]:
    scored, subject = [_scored_result(r) for r in record["results"] if r["headline"]], subject_of(record)
    return {
        "anchor": anchor,
        "title": TITLES[subject],
        "subject": subject,
        "has_model": subject == "model",
        "name": name_of(record),
        "model": record["model"] or {},
        "tokenizer": record["tokenizer"],
        "versions": _versions(record["results"]),
        "created": max((r["created"] for r in record["results"]), default=""),
        "scored": scored,
        "conventions": list(dict.fromkeys(name for r in scored if r["chance"] for name in r["conventions"])),
        "scorers": list(dict.fromkeys(name for r in scored for name in r["scorers"])),
        "generated": any(r["generated"] for r in scored),
        "in_bits": any(r["in_bits"] for r in scored),
        "spoken": [_continuation(r, folder, recordings, anchor) for r in record["results"] if not r["headline"]],
        "curve": _curve(folder / "training.jsonl"),
        "corpus": record["corpus"],
        "failed": record.get("failed", []),
        "raw": json.dumps(_without_prompts(record), indent=2, ensure_ascii=False),
    }


def _versions(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Which benchmarks were run -> with which libraries: one entry unless they changed in between."""
    made: dict[str, list[str]] = {}
    for result in results:
        made.setdefault(wording.format_versions(result["versions"]), []).append(result["benchmark"])
    return {", ".join(dict.fromkeys(names)): versions for versions, names in made.items()}


def _scored_result(result: dict[str, Any]) -> dict[str, Any]:
    """Rows (one for each subset) with the model's score, the baselines' and every convention."""
    headline, rows = headline_score(result), main_rows(result)
    names = conventions(result)
    selected = {c: {n: select(s, headline["metric"], c) for n, s in result["scores"].items()} for c in names}
    outside = chance_outside(result)
    return {
        **result,
        "measure": wording.measure(headline["metric"]).capitalize(),
        "primary": headline["convention"],
        "conventions": names,
        "scorers": list(result["scores"]),
        "baselines": [name for name in result["scores"] if name != MODEL],
        "rows": [
            {
                "row": row,
                "meaning": result["meanings"].get(row.score["item"], ""),
                "by_convention": {
                    c: {n: found.get(row.score["item"]) for n, found in selected[c].items()} for c in names
                },
            }
            for row in rows
        ],
        "first": next(row for row in rows if row.score["item"] == result["headline"]),
        "others": other_rows(result),
        "track": headline["unit"] == "fraction",
        "chance": CHANCE.get(headline["metric"]),
        "chance_note": wording.chance_note(outside) if outside else None,
        "shortcut": any((outside or {}).values()),
        "in_bits": any(s["metric"] == "bits_per_s" for s in result["scores"][MODEL]),
    }


def _compare(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """One row for each model, one column for each benchmark; nothing to compare with one model."""
    if len(runs) < 2:
        return None
    columns = list(dict.fromkeys((r["benchmark"], r["split"], r["primary"]) for run in runs for r in run["scored"]))
    rows = [
        {
            "run": run,
            "cells": [
                next((r for r in run["scored"] if (r["benchmark"], r["split"], r["primary"]) == column), None)
                for column in columns
            ],
        }
        for run in runs
    ]
    return {"columns": columns, "rows": rows}


def _continuation(result: dict[str, Any], folder: Path, recordings: Recordings, anchor: str) -> dict[str, Any]:
    """Each prompt with its recordings and their waveforms."""
    prompts = [_players(prompt, folder, recordings, anchor) for prompt in result["details"].get("prompts", ())]
    return {**result, "prompts": prompts, "statistics": result["scores"].get(MODEL, [])}


def _players(prompt: dict[str, Any], folder: Path, recordings: Recordings, anchor: str) -> dict[str, Any]:
    made = []
    name = slug(f"{anchor}-{prompt['folder']}")
    for part, title in (("prompt", "Recording"), ("whole", "Prompt and continuation, as the tokenizer renders them")):
        wav = file_inside(folder, prompt["folder"], prompt["files"].get(part, ""))
        if wav and is_recording(wav):
            wave = draw_waveform(wav, prompt["prompt"]["duration_s"])
            made.append({"title": title, "source": recordings.source(wav, name), "wave": wave})
    return {**prompt, "players": made}


class Recordings:
    """Puts recordings into the page while there is room, links the others, and counts both."""

    def __init__(self, out: Path, room: int | None = None):
        self.out, self.embedded, self.linked = out, 0, 0
        self.room = EMBED_BYTES if room is None else room

    def source(self, wav: Path, name: str) -> str:
        """A data URI, or the relative URL of the file itself or of its copy in OUT/audio."""
        size = wav.stat().st_size
        if size <= self.room:
            self.room, self.embedded = self.room - size, self.embedded + 1
            return "data:audio/wav;base64," + base64.b64encode(wav.read_bytes()).decode()
        self.linked += 1
        if not wav.resolve().is_relative_to(self.out.resolve()):
            copy = self.out / "audio" / slug(f"{name}-{wav.name}")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy_file(wav, copy)
            wav = copy
        return quote(wav.resolve().relative_to(self.out.resolve()).as_posix())

    @property
    def note(self) -> str:
        """Where the recordings are, for whoever wants to send the page to somebody."""
        if self.linked:
            return (
                f"It works without a network; {self.linked} of its {self.linked + self.embedded} recordings are files "
                "in folders beside it: move them together."
            )
        return (
            "It holds all it needs" + (", recordings too," if self.embedded else "") + " and works without a network."
        )


def _curve(path: Path) -> Chart | None:
    """Training and held-out loss by step."""
    lines = [line for line in read_json_lines(path) if isinstance(line, dict) and is_number(line.get("step"))]

    def points(key: str) -> list[tuple[float, float]]:
        return [(line["step"], line[key]) for line in lines if is_number(line.get(key))]

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
