"""Results -> a folder of pages that open from disk: no server, no network, nothing but what lies in it.

`templates/site/` holds the pages; everything they show is prepared in the modules beside this one.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.report import wording
from eval.report.columns import FIELDS, Ranking, config_anchor, headline_columns, measure_columns, number_tables, rank
from eval.report.drawing import file_inside
from eval.report.inputs import Evaluated, Inputs, read_inputs, same_models, subject_of
from eval.report.page import TEMPLATES, build_page, make_environment
from eval.report.plots import INSTALL, dedup_note, make_plots, plotly_script, training_plot
from eval.report.rows import CHANCE, headline_score
from eval.report.samples import MAX_SAMPLES, count_missing, make_samples
from eval.report.taxonomy import make_entries, make_facets
from eval.report.wording import label
from slm import __version__
from slm.errors import UsageError
from slm.files import check_folder, copy_file, temporary_directory, write_text
from slm.run_lock import held

ASSETS = ("site/site.js", "site/plots.js", "script.js")
FILES = "assets/files.txt"  # all that a site consists of, so that the next in its place can take away what it has not


@dataclass(frozen=True)
class Page:
    file: str
    title: str


PAGES = (
    Page("index.html", "Results"), Page("plots.html", "Plots"), Page("samples.html", "Samples"),
    Page("training.html", "Training"), Page("tokenizers.html", "Tokenizers"), Page("config.html", "Configurations"),
)  # fmt: skip


def build_site(results: Sequence[Path], out: Path, max_samples: int = MAX_SAMPLES) -> Path:
    """Write OUT/index.html and the pages beside it, about everything in the folders given. What a site that stood there
    had besides is taken away, and nothing else.

    UsageError for a folder that holds nothing to show, and where OUT is one of them or has a page of something else,
    which would be lost.
    """
    inputs = read_inputs(results)
    given = {folder.resolve() for folder in (*results, *(e.folder for e in inputs.evaluated))}
    if out.resolve() in given:
        raise UsageError(f"--out {out} is a folder of results, whose own page would be lost: give another folder")
    for folder in (out, out / "assets", out / "media", out / "models"):
        check_folder(folder)
    if (out / "index.html").exists() and not _is_site(out / "index.html"):
        raise UsageError(
            f"--out {out} has an index.html that is no site of results and would be lost: give another folder"
        )
    with held(out), temporary_directory(out / "site") as temporary:
        write_site(inputs, temporary, max_samples)
        put_in_place(temporary, out)
    return out / "index.html"


def write_site(inputs: Inputs, out: Path, max_samples: int) -> None:
    write_assets(out)
    write_models(inputs.evaluated, out)
    context = {**_results(inputs), **_training(inputs), **_taxonomy(inputs)}
    context["samples"], context["num_recordings"] = make_samples(inputs.evaluated, out, max_samples)
    context["missing"] = count_missing(inputs.evaluated)
    context["plots"] = make_plots(inputs.evaluated, inputs.trainings)
    context |= {"failed": inputs.failed, "failed_cells": {(f.name, f.benchmark) for f in inputs.failed}}
    environment = make_environment()
    for page in PAGES:
        shown = {**context, "page": page, "pages": PAGES, "version": __version__, "wording": wording,
                 "has_plotly": plotly_script() is not None, "install": INSTALL}  # fmt: skip
        write_text(out / page.file, environment.get_template(f"site/{page.file}").render(shown))


def put_in_place(made: Path, out: Path) -> None:
    """Move the files of a site to OUT, parts of which may be on other disks: a copy takes the room of two sites, and a
    full disk would leave parts of both. Those of the one before that it does not have are removed first: where case is
    not told apart, both may be called alike."""
    is_known = _is_site(out / "index.html") and (out / FILES).is_file()  # else it lists something else
    before = (out / FILES).read_text(encoding="utf-8", errors="replace").splitlines() if is_known else []
    files = sorted(path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file())
    for name in set(before) - set(files):
        if path := file_inside(out, "", name):
            with suppress(OSError):  # gone already, or a folder with something else in it
                path.unlink()
                os.removedirs(path.parent)
    write_text(made / FILES, "".join(f"{name}\n" for name in files))
    for name in (*files, FILES):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.replace(made / name, out / name)
        except OSError as error:
            if error.errno != errno.EXDEV:  # else this part of OUT is on another disk
                raise
            copy_file(made / name, out / name)


def _is_site(page: Path) -> bool:
    if not page.is_file():
        return False
    with page.open(encoding="utf-8", errors="replace") as file:
        return '<body class="site">' in file.read(4000)


def write_assets(out: Path) -> None:
    """Style, scripts, and the script of the plots with its licence, where its package is installed."""
    assets = out / "assets"
    assets.mkdir(parents=True, exist_ok=True)
    styles = [TEMPLATES / "style.css", TEMPLATES / "site/site.css"]
    write_text(assets / "style.css", "\n".join(file.read_text(encoding="utf-8") for file in styles))
    for name in ASSETS:
        copy_file(TEMPLATES / name, assets / Path(name).name)
    if script := plotly_script():
        copy_file(script, assets / "plotly.min.js")


def write_models(evaluated: Sequence[Evaluated], out: Path) -> None:
    """OUT/models/KEY/index.html, the page of each model alone, and the file that all its numbers are from."""
    for run in evaluated:
        folder = out / "models" / run.key
        folder.mkdir(parents=True, exist_ok=True)
        copy_file(run.folder / "results.json", folder / "results.json")
        if run.has_model:
            build_page([run.folder], folder, home="../../index.html", embed_bytes=0)


def _results(inputs: Inputs) -> dict[str, Any]:
    tables = number_tables(inputs.evaluated, inputs.failed)
    numbers = [row for table in tables for row in table.rows]
    return {
        "runs": inputs.evaluated,
        "names": {run.key: run.name for run in inputs.evaluated},
        "columns": headline_columns(inputs.evaluated),
        "tables": tables,
        "fields": {**FIELDS, "run": wording.who(subject_of(run.record) for run in inputs.evaluated)},
        "accuracies": list(dict.fromkeys(row.convention for row in numbers if row.metric == label("pair_accuracy"))),
        "in_bits": any(row.metric == label("bits_per_s") for row in numbers),
        "rankings": rankings(inputs.evaluated),
        "same_models": same_models(inputs.evaluated),
        "comparisons": inputs.comparisons,
        "without_first": sorted({t.title for t in tables} - {c.benchmark for c in headline_columns(inputs.evaluated)}),
        "dedup_note": dedup_note(inputs.evaluated),
        "generated": any(r.get("generated") for run in inputs.evaluated for r in run.record["results"]),
        "configurations": {
            run.key: [_configuration(run, r) for r in run.record["results"]] for run in inputs.evaluated
        },
    }


def rankings(evaluated: Sequence[Evaluated]) -> list[Ranking]:
    """Over the headlines of benchmarks that guessing has a value for; and over all measures of each other benchmark."""
    made = [rank("Minimal pairs, zero-shot", [c for c in headline_columns(evaluated) if c.metric in CHANCE])]
    others = dict.fromkeys(
        (r["benchmark"], r["split"]) for run in evaluated for r in run.record["results"]
        if not r["headline"] or headline_score(r)["metric"] not in CHANCE
    )  # fmt: skip
    made += [rank(f"{name}, {split}", measure_columns(evaluated, name, split)) for name, split in others]
    return [ranking for ranking in made if ranking]


def _configuration(run: Evaluated, result: dict[str, Any]) -> dict[str, Any]:
    """Everything that made a result, less the numbers and lists that other pages show."""
    long = ("scores", "left_out", "meanings", "about", "headline", "details")
    details = {k: v for k, v in result["details"].items() if k not in ("prompts", "samples")}
    shown = {k: v for k, v in result.items() if k not in long} | {"details": details}
    text = json.dumps(shown, indent=2, ensure_ascii=False)
    return {
        "benchmark": result["benchmark"],
        "split": result["split"],
        "text": text,
        "anchor": config_anchor(run, result),
    }


def _training(inputs: Inputs) -> dict[str, Any]:
    ends = [(t, {k: v for line in t.lines for k, v in line.items()}) for t in inputs.trainings]
    return {"trainings": ends, "curves": [training_plot(inputs.trainings)], "corpora": inputs.corpora}


def _taxonomy(inputs: Inputs) -> dict[str, Any]:
    entries = make_entries(inputs.evaluated)
    return {"entries": entries, "facets": make_facets(entries)}
