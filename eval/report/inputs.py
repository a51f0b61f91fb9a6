"""What a report is given: folders of results, of several models, of training runs, of tokenized corpora."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from eval.report.drawing import is_number
from eval.report.failed import Failed, failed_beside, failed_of
from eval.report.wording import run_name
from eval.results import read_checked, read_object, read_results
from slm.errors import UsageError
from slm.files import read_json_lines


@dataclass(frozen=True)
class Evaluated:
    """The results of one model, or of one tokenizer alone. `name` is its own in this report, `key` fits a file name."""

    name: str
    folder: Path
    record: Mapping[str, Any]

    @property
    def key(self) -> str:
        return slug(self.name)

    @property
    def has_model(self) -> bool:
        return subject_of(self.record) == "model"

    @property
    def is_deduplicated(self) -> bool:
        return bool(((self.record.get("model") or {}).get("convention") or {}).get("dedup"))


@dataclass(frozen=True)
class Training:
    """The curve of a run: the lines of its metrics.jsonl, and what a step of it costs where the run says so."""

    name: str
    lines: Sequence[Mapping[str, Any]]
    flops_per_step: float | None
    audio_s_per_step: float | None = None
    """Repetitions count."""
    run: Path | None = None
    """The folder of the run, there or not."""


@dataclass(frozen=True)
class Corpus:
    name: str
    facts: Mapping[str, Any]
    """As `eval.results.describe_corpus` tells them."""


@dataclass
class Inputs:
    evaluated: list[Evaluated] = field(default_factory=list)
    comparisons: list[Mapping[str, Any]] = field(default_factory=list)
    trainings: list[Training] = field(default_factory=list)
    corpora: list[Corpus] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)

    def free_name(self, name: str, folder: Path) -> str:
        """`name`, or a longer one where something else is called so already."""
        taken = {e.key.lower() for e in self.evaluated}  # folders: not every disk tells case apart
        where = folder.name
        if where == name:  # one of several models of a run, whose folder is the one above
            where = folder.resolve().parent.name
        choices = [name, f"{name} ({where})", *(f"{name} ({n})" for n in range(2, 10_000))]
        return next(choice for choice in choices if slug(choice).lower() not in taken)


def subject_of(record: Mapping[str, Any]) -> str:
    """What was judged: a "model", a "tokenizer" alone or "recordings". The latter two have a `kind`."""
    model = record.get("model") or {}
    if "kind" in model or not model.get("convention"):
        return "recordings" if model.get("kind") == "recordings" else "tokenizer"
    return "model"


def name_of(record: Mapping[str, Any]) -> str:
    path = (record.get("model") or {}).get("path")
    return run_name(path) if path else record["tokenizer"]["name"]


def same_models(evaluated: Sequence[Evaluated]) -> list[tuple[str, ...]]:
    """Names of results that are of one checkpoint."""
    names: dict[str, list[str]] = {}
    for run in evaluated:
        if run.has_model and (fingerprint := run.record["model"].get("fingerprint")):
            names.setdefault(fingerprint, []).append(run.name)
    return [tuple(each) for each in names.values() if len(each) > 1]


def slug(name: str, most: int = 100) -> str:
    """Letters, digits, - . and _ only, and not too many of them: a file name and an anchor."""
    made = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "x"
    return made if len(made) <= most else f"{made[: most - 9]}-{sha256(name.encode(errors='replace')).hexdigest()[:8]}"


def read_inputs(folders: Sequence[Path]) -> Inputs:
    """Each folder is read as what it holds. UsageError for one that holds nothing to show."""
    made = Inputs()
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise UsageError(f"{folder} is given twice")
        seen.add(folder.resolve())
        if not _read_folder(made, folder):
            raise UsageError(
                f"no results.json in {folder}, nor comparison.json, metrics.jsonl or plan.json: give a folder that "
                "eval/run.py --out, train_lm.py or tokenize_corpus.py wrote"
            )
    return made


def _read_folder(made: Inputs, folder: Path) -> bool:
    """Whether something was found. Of several models, each has its own folder inside."""
    found = False
    if (folder / "comparison.json").is_file():
        made.comparisons.append(read_checked(folder / "comparison.json", "comparison"))
        found = True
    inner = [] if (folder / "results.json").is_file() else sorted(folder.glob("*/results.json"))
    for path in [folder / "results.json"] if (folder / "results.json").is_file() else inner:
        _read_evaluated(made, path.parent)
        found = True
    made.failed += list(failed_beside(folder, made.evaluated, made.failed))
    if (folder / "metrics.jsonl").is_file():
        _add_training(made, run_name(folder.as_posix()), folder / "metrics.jsonl", folder)
        found = True
    if (folder / "plan.json").is_file() and (folder / "tokenizer.json").is_file():
        if folder.resolve() not in {Path(c.facts["path"]).resolve() for c in made.corpora}:
            made.corpora.append(Corpus(folder.name, describe_folder(folder)))
        found = True
    return found


def _read_evaluated(made: Inputs, folder: Path) -> None:
    record = read_results(folder)
    model = record.get("model") or {}
    evaluated = Evaluated(made.free_name(name_of(record), folder), folder, record)
    made.evaluated.append(evaluated)
    made.failed += failed_of(evaluated.name, record)
    if record.get("corpus") and record["corpus"]["path"] not in {c.facts["path"] for c in made.corpora}:
        made.corpora.append(Corpus(Path(record["corpus"]["path"]).name, record["corpus"]))
    run = Path(model["path"]).parent if model.get("path") else folder
    _add_training(made, evaluated.name, folder / "training.jsonl", run)


def _add_training(made: Inputs, name: str, metrics: Path, run: Path) -> None:
    """Once for each curve: a run and its results, or several results of its model, may be given. Results that were made
    elsewhere name a folder that is not here."""
    lines = [line for line in read_json_lines(metrics) if isinstance(line, dict) and is_number(line.get("step"))]
    run = run.resolve()
    same = [t for t in made.trainings if t.lines == lines and (t.run == run or not (_is_here(t) and run.is_dir()))]
    if not lines or any(_is_here(t) or t.run == run for t in same):
        return
    for t in same:
        made.trainings.remove(t)
        name = t.name
    made.trainings.append(Training(name, lines, spent_per_step(run, "flops"), spent_per_step(run, "audio_s"), run))


def _is_here(training: Training) -> bool:
    return training.run is not None and training.run.is_dir()


def spent_per_step(run: Path, what: str) -> float | None:
    """From what the run's last checkpoint says it has spent (a field of `slm.training.budget.Progress`); None where the
    run is not at hand."""
    for path in sorted(run.glob("checkpoints/step-*/state/progress.json"), reverse=True):
        spent = read_object(path)
        if spent.get(what) and spent.get("steps"):
            return float(spent[what]) / float(spent["steps"])
    return None


def describe_folder(path: Path) -> dict[str, Any]:
    """A tokenized corpus as its shards tell it. UsageError for one that is not finished, StoppedError for damage."""
    from dataclasses import asdict

    from slm.corpus.output import Output
    from slm.corpus.plan import Plan
    from slm.corpus.shards import shard_path
    from slm.corpus.summary import summarize
    from slm.types import TokenizerSpec

    plan, spec = Plan(path), TokenizerSpec.from_dict(read_object(path / "tokenizer.json"))
    files = [shard_path(path, plan, shard) for shard in plan.shards]
    if missing := [f.name for f in files if not f.is_file()]:
        raise UsageError(f"{path} is not finished ({len(missing)} shards are missing): run tokenize_corpus.py again")
    summary = summarize(path, spec, plan, [Output(str(path)).record(file.name) for file in files])
    return {
        "path": str(path), "trained_on": False, "clips": summary.num_clips, "hours": summary.duration_s / 3600,
        "codes": summary.num_codes, "bitrate_bps": spec.bitrate_bps,
        "entropy_bitrate_bps": summary.entropy_bitrate_bps, "clips_left_out": len(summary.rejects),
        "codebooks": [{**asdict(c), "perplexity": c.perplexity} for c in summary.codebooks],
    }  # fmt: skip
