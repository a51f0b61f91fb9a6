"""A model made ready for its benchmarks, after what could stop it hours later is checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.benchmarks.base import MODEL, Benchmark, Run
from eval.benchmarks.pairs import PairBenchmark
from eval.config import EvalConfig
from eval.conventions import find_convention, find_conventions
from eval.outputs import keep_training_curve
from eval.processes import Processes
from eval.score_cache import CachedScorer
from slm.errors import UsageError
from slm.types import Scorer, stable_hash

if TYPE_CHECKING:
    from slm.model.checkpoint import ModelRecord
    from slm.spoken_lm import SpokenLM


@dataclass(frozen=True)
class Prepared:
    """A model with all that its benchmarks are run with; `record` becomes its results.json."""

    run: Run
    record: dict[str, Any]
    generated: dict[str, Any] | None


def prepare(config: EvalConfig, device: str, benchmarks: Sequence[Benchmark], out: Path,
            generated: dict[str, Any] | None, processes: Processes, alone: bool) -> Prepared:  # fmt: skip
    """UsageError for a model that cannot be scored, where OUT is another's, and, of a model `alone`, for a benchmark
    that cannot score it: of several models that costs this benchmark only."""
    from eval.results import describe_corpus, open_results

    lm = load_model(config, device)
    for benchmark in benchmarks if alone else ():
        benchmark.check(lm)
    record = open_results(out, lm, str(config.model))
    if config.corpus:
        record["corpus"] = describe_corpus(Path(config.corpus), lm)
    pairs = any(isinstance(b, PairBenchmark) for b in benchmarks)
    scorers = {MODEL: lm, **(make_baselines(config, lm, generated is not None) if pairs else {})}
    fingerprints = {name: fingerprint_of(scorer, lm) for name, scorer in scorers.items()}
    kept = {
        name: CachedScorer(scorer, fingerprints[name], out / "scored", name, processes)
        if hasattr(scorer, "fingerprint") else scorer
        for name, scorer in scorers.items()
    }  # fmt: skip
    convention = find_convention(config.convention).for_model(lm.record.codebook_weights, len(lm.record.units.sizes))
    run = Run(lm, kept, fingerprints, out, convention, config.bootstrap, config.seed, cache_folder(config), processes,
              find_conventions(config.conventions), config.per_frame)  # fmt: skip
    if processes.is_main:
        keep_training_curve(config, out)
    return Prepared(run, record, generated)


def check_models(config: EvalConfig) -> None:
    """UsageError for one that is no checkpoint, or has other codebooks than a convention weighs: before hours with
    those before it."""
    from slm.model.checkpoint import find_model, load_record

    for path in config.models:
        record = load_record(find_model(path))
        try:
            check_conventions(config, record)
        except UsageError as error:
            raise UsageError(f"--model {path}: {error}") from None


def check_conventions(config: EvalConfig, record: ModelRecord) -> None:
    """UsageError for one that does not fit the codebooks of a model."""
    for asked in (find_convention(config.convention), *find_conventions(config.conventions)):
        asked.for_model(record.codebook_weights, len(record.units.sizes))


def load_model(config: EvalConfig, device: str) -> SpokenLM:
    """A model, its tokenizer known, that can be scored."""
    from slm.spoken_lm import load_lm

    given = {"tokenizer": config.tokenizer} if config.tokenizer else {}
    lm = load_lm(str(config.model), device, config.vocoder, **given)
    if lm.spec.is_declared:
        _ = lm.tokenizer  # which says who it is: results and caches are kept under its fingerprint
    lm.precision, lm.batch_steps = config.precision, config.batch_steps
    if config.compile:
        lm.compile()
    check_conventions(config, lm.record)
    return lm


def cache_folder(config: EvalConfig) -> Path:
    return Path(config.cache) if config.cache else Path(config.out, "tokens")


def make_baselines(config: EvalConfig, lm: SpokenLM, generated: bool) -> dict[str, Scorer]:
    if config.baselines == "no" or (config.baselines == "auto" and not generated):
        return {}
    made: dict[str, Scorer] = {"untrained": lm.untrained(config.seed)}
    if lm.statistics.num_documents:  # a published model says nothing of how often its units occurred
        made["unigram"] = lm.unigram()
    return made


def fingerprint_of(scorer: Scorer, lm: SpokenLM) -> str:
    """A model's own; for the unigram, the hash of all it knows: counts, and how codes become documents."""
    if own := getattr(scorer, "fingerprint", None):
        return own
    counts = [c.tolist() for c in lm.statistics.counts]
    return stable_hash([lm.spec.fingerprint, lm.convention, counts, lm.statistics.num_documents])
