"""Score checkpoints on benchmarks, let them continue prompts, and write one page about it.

    python eval/run.py --model RUN/final --benchmarks swuggy,sblimp,continuation --data ROOT --out DIR
    python eval/run.py --model A B C --benchmarks swuggy,sblimp,tsc --data ROOT --out DIR
    python eval/run.py --tokenizer mimi,encodec --benchmarks reconstruction --data DIR --out DIR
    accelerate launch eval/run.py ...          (several GPUs)

Writes DIR/results.json (every convention, interval and fingerprint), results.md (tables), index.html (the page),
likelihoods/*.parquet (log-probabilities by item and codebook), continuation/ (audio and codes), tokens/, and scored/,
from which the same command goes on where it was stopped. Of several models each has such a folder, DIR/NAME, and
DIR has comparison.json, comparison.md (all of them, and what is told apart) and one page about all.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

if __name__ == "__main__":  # a checkout needs no installation
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eval.benchmarks.base import BENCHMARKS, MODEL, Benchmark, Generation, Result, Run, Setup
from eval.benchmarks.pairs import PairBenchmark
from eval.comparison import Compared, compare
from eval.conventions import Convention, find_convention, find_conventions
from eval.judges.config import Judges
from eval.kept import KeptScorer
from eval.processes import Processes, join_processes
from eval.reconstruction.settings import Reconstruction
from eval.several import Failure, name_models, report_failures
from slm.config import join_list, run_command
from slm.errors import UsageError, did_you_mean
from slm.files import write_json, write_text
from slm.types import Scorer, stable_hash

if TYPE_CHECKING:
    from slm.spoken_lm import SpokenLM


@dataclass(frozen=True)
class EvalConfig:
    """Score a checkpoint on benchmarks, let it continue prompts, and write one page about it."""

    benchmarks: str
    """Names with commas between, such as swuggy,sblimp,tsc,salmon,continuation (docs/benchmarks.md lists them), or a
    plug-in's."""
    out: str
    """Folder to write. Other benchmarks of the same model may be added to it later."""
    model: list[str] | str = ""
    """The checkpoint folder (RUN/final), or that of a published model (slamkit's UnitLM), or a hub id. Several may
    follow each other (--model A B C): each gets a folder in OUT, and a comparison. `reconstruction` needs none."""
    data: str = "."
    """Folder of the benchmarks, each below it as it is distributed (docs/benchmarks.md): lexical/SPLIT for swuggy."""
    split: str = "dev"
    """The split of the pair benchmarks: dev or test."""
    convention: str = "mean+eos"
    """What becomes the score of an item first of all; every convention is recorded. The mean does not favour short
    items as the sum does, and the end tells whether a word or sentence is complete."""
    conventions: str = ""
    """Further ones, with commas between, such as llama-mimi, weighted-100:1:1-mean, first-sum-strict, local-0.5s or
    normalized; docs/conventions.md tells what a name can say."""
    per_frame: bool = False
    """Keep what each frame got too: likelihoods/*-frames.parquet."""
    precision: Literal["float32", "bf16"] = "float32"
    """Of scoring. bf16 is faster on a GPU, and near ties may fall otherwise."""
    baselines: Literal["auto", "yes", "no"] = "auto"
    """Score an untrained model and a unigram model too; auto: where ROOT/generated.json says that the benchmark is
    synthetic, so that its shortcuts show."""
    bootstrap: int = 1000
    """Resamples behind each 95 % interval."""
    seed: int = 0
    """Of resampling, of the untrained baseline's weights, and (with each prompt's id) of continuations."""
    device: str = "auto"
    """auto (cuda where there is one, else cpu), cpu, cuda, cuda:1, mps."""
    prompts: str | None = None
    """Folder or manifest of recordings to continue; ROOT/prompts when not given."""
    generation: Generation = field(default_factory=Generation)
    """How prompts are continued."""
    judges: Judges = field(default_factory=Judges)
    """Who judges what is heard, for generation (docs/metrics.md)."""
    vocoder: str | None = None
    """Unit vocoder (folder or hub id) with which continuations can be heard where the model's tokenizer has no decoder
    of its own, or instead of the vocoder that its tokenizer names."""
    tokenizer: str | None = None
    """What a published model's units are made by, where it does not say so: a name, a YAML file (--model then reads
    audio through it) or a tokenized corpus. For `reconstruction`, the tokenizers to judge, with commas between."""
    reconstruction: Reconstruction = field(default_factory=Reconstruction)
    """How the benchmark `reconstruction` judges what comes back of recordings (docs/reconstruction.md)."""
    cache: str | None = None
    """Folder of tokenized benchmarks, which later runs and other models of the same tokenizer use again; OUT/tokens
    when not given."""
    corpus: str | None = None
    """A tokenized corpus to describe on the page, such as the one that the model was trained on."""

    def __post_init__(self) -> None:
        if self.bootstrap < 1:
            raise UsageError("--bootstrap must be 1 or more")
        if self.seed < 0:
            raise UsageError("--seed must be 0 or more")

    @property
    def models(self) -> list[str]:
        return [self.model] if isinstance(self.model, str) else list(self.model)


def main(config: EvalConfig) -> None:
    """Every benchmark checks its material before a model is loaded; results are kept after each benchmark."""
    from eval.results import check_folder, read_object
    from slm.devices import choose_device

    if is_reconstruction(config):
        from eval.reconstruction.command import main as reconstruct

        return reconstruct(config)
    convention, _ = find_convention(config.convention), find_conventions(config.conventions)
    check_folder(cache_folder(config), "--cache")
    benchmarks = make_benchmarks(config)
    out, description = Path(config.out), Path(config.data, "generated.json")
    named = name_models(config.models)
    jobs, failures = len(named) * len(benchmarks), list[Failure]()
    folders = {name: out / name if len(named) > 1 else out for name in named}
    for folder in (out, *folders.values()):
        check_folder(folder)
    if len(named) > 1:
        check_models(config.models)
    generated = read_object(description) if description.is_file() else None
    device = choose_device(config.device)
    processes = join_processes()
    compared = []
    for number, (name, path) in enumerate(named.items(), start=1):
        tell(f"model {number} of {len(named)}: {name}", processes, len(named) > 1)
        one = replace(config, model=path)
        try:
            lm = load_model(one, processes.device(device), benchmarks)
            own = convention.for_model(lm.record.codebook_weights, len(lm.record.units.sizes))
            failed = evaluate(one, lm, benchmarks, folders[name], own, generated, processes)
        except UsageError as error:
            if len(named) == 1:
                raise
            tell(f"{name} cannot be evaluated: {error}", processes)
            failures.append(Failure(error, name))
            continue
        failures += [replace(failure, model=name) for failure in failed]
        compared.append(Compared(name, folders[name], own, frozenset(f.benchmark for f in failed)))
        del lm  # the next one may need its room
    if len(named) > 1 and compared and processes.is_main:
        write_comparison(config, compared, benchmarks, out)
    processes.wait()
    report_failures(failures, jobs, len(named) > 1)


def is_reconstruction(config: EvalConfig) -> bool:
    """UsageError for an unknown benchmark, and where a model and the benchmark of tokenizers are asked for at once, or
    neither."""
    names = {name.strip() for name in config.benchmarks.split(",") if name.strip()}
    known = [*BENCHMARKS.names(), "reconstruction"]
    for name in sorted(names.difference(known)):
        raise UsageError(f"unknown benchmark {name!r}{did_you_mean(name, known)}")
    if "reconstruction" in names and (config.model or len(names) > 1):
        raise UsageError(
            "`reconstruction` judges tokenizers, not models: run it by itself, with --tokenizer NAME and no --model"
        )
    if not config.model and names != {"reconstruction"}:
        raise UsageError("--model is missing: give a checkpoint (RUN/final); only `reconstruction` needs none")
    return not config.model


def check_models(paths: Sequence[str]) -> None:
    """UsageError for one that is no checkpoint: before hours with those before it."""
    from slm.model.checkpoint import find_model, load_record

    for path in paths:
        load_record(find_model(path))


def load_model(config: EvalConfig, device: str, benchmarks: Sequence[Benchmark]) -> SpokenLM:
    """A model, its tokenizer known, that every benchmark can score."""
    from slm.spoken_lm import load_lm

    given = {"tokenizer": config.tokenizer} if config.tokenizer else {}
    lm = load_lm(str(config.model), device, config.vocoder, **given)
    if lm.spec.is_declared:
        _ = lm.tokenizer  # which says who it is: results and caches are kept under its fingerprint
    lm.precision = config.precision
    for asked in (find_convention(config.convention), *find_conventions(config.conventions)):
        asked.for_model(lm.record.codebook_weights, len(lm.record.units.sizes))
    for benchmark in benchmarks:
        benchmark.check(lm)
    return lm


def evaluate(config: EvalConfig, lm: SpokenLM, benchmarks: Sequence[Benchmark], out: Path, convention: Convention,
             generated: dict[str, Any] | None, processes: Processes) -> list[Failure]:  # fmt: skip
    """Run the benchmarks on one model. Every process runs them and scores its share; the main one writes. One that
    cannot be run is told and returned; the others go on."""
    from eval.results import describe_corpus, open_results

    record = open_results(out, lm, str(config.model))
    if config.corpus:
        record["corpus"] = describe_corpus(Path(config.corpus), lm)
    pairs = any(isinstance(b, PairBenchmark) for b in benchmarks)
    scorers = {MODEL: lm, **(make_baselines(config, lm, generated is not None) if pairs else {})}
    fingerprints = {name: fingerprint_of(scorer, lm) for name, scorer in scorers.items()}
    kept = {
        name: KeptScorer(scorer, fingerprints[name], out / "scored", name, processes)
        if hasattr(scorer, "fingerprint") else scorer
        for name, scorer in scorers.items()
    }  # fmt: skip
    run = Run(lm, kept, fingerprints, out, convention, config.bootstrap, config.seed, cache_folder(config), processes,
              find_conventions(config.conventions), config.per_frame)  # fmt: skip
    if processes.is_main:
        keep_training_curve(config, out)
    failed = []
    for number, benchmark in enumerate(benchmarks, start=1):
        tell(f"benchmark {number} of {len(benchmarks)}: {benchmark.name}", processes, len(benchmarks) > 1)
        try:
            if processes.is_main:
                keep_result(record, benchmark.run(run), config, out, fingerprints, generated)
            elif isinstance(benchmark, PairBenchmark):
                with TemporaryDirectory() as elsewhere:
                    benchmark.run(replace(run, out=Path(elsewhere), resamples=1))
        except UsageError as error:
            tell(f"{benchmark.name} cannot be evaluated: {error}", processes, len(benchmarks) > 1)
            failed.append(Failure(error, benchmark=benchmark.name))
    if processes.is_main and len(failed) < len(benchmarks):
        print(f"\nresults: {out / 'results.json'}\npage:    {out / 'index.html'}", flush=True)
    return failed


def keep_result(record: dict[str, Any], result: Result, config: EvalConfig, out: Path, fingerprints: dict[str, str],
                generated: dict[str, Any] | None) -> None:  # fmt: skip
    """Into results.json, results.md and the page, and its table on the screen."""
    from eval.report.page import build_page
    from eval.report.table import result_table, results_markdown
    from eval.results import add_result, other_data, write_results

    if line := other_data(record, result):
        print(line, file=sys.stderr, flush=True)
    add_result(record, result, config, fingerprints, generated)
    write_results(out, record)
    write_text(out / "results.md", results_markdown(record))
    build_page([out], out)
    print("\n" + result_table(record["results"][-1]), flush=True)


def write_comparison(config: EvalConfig, models: Sequence[Compared], benchmarks: Sequence[Benchmark],
                     out: Path) -> None:  # fmt: skip
    """OUT/comparison.json, comparison.md and the page about all models."""
    from eval.report.page import build_page
    from eval.report.table import comparison_markdown, comparison_table

    compared = compare(models, benchmarks, config.bootstrap, config.seed)
    write_json(out / "comparison.json", compared)
    write_text(out / "comparison.md", comparison_markdown(compared))
    build_page([m.folder for m in models], out)
    print(f"\n{comparison_table(compared)}\n\ncomparison: {out / 'comparison.md'}\npage:       {out / 'index.html'}")


def tell(line: str, processes: Processes, worth_it: bool = True) -> None:
    """A line of progress, once."""
    if processes.is_main and worth_it:
        print(line, file=sys.stderr, flush=True)


def make_benchmarks(config: EvalConfig) -> list[Benchmark]:
    """UsageError for an unknown name, and for missing material."""
    names = [name.strip() for name in config.benchmarks.split(",") if name.strip()]
    if not names:
        raise UsageError(f"--benchmarks names none; known: {', '.join(BENCHMARKS.names())}")
    classes = [BENCHMARKS.get(name) for name in dict.fromkeys(names)]
    setup = Setup(Path(config.data), config.split, config.prompts, config.generation, cache_folder(config) / "audio",
                  config.judges)  # fmt: skip
    return [cls(setup) for cls in classes]


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


def keep_training_curve(config: EvalConfig, out: Path) -> None:
    """Copy the run's metrics beside the results, so that OUT can be read without the run at hand."""
    out.mkdir(parents=True, exist_ok=True)
    curve = Path(str(config.model)).resolve().parent / "metrics.jsonl"
    if curve.is_file():
        shutil.copyfile(curve, out / "training.jsonl")


if __name__ == "__main__":
    run_command(main, EvalConfig, join_list(sys.argv[1:], "--model"))
