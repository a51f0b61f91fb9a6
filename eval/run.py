"""Score a checkpoint on benchmarks, let it continue prompts, and write one page about it.

    python eval/run.py --model RUN/final --benchmarks swuggy,sblimp,continuation --data ROOT --out DIR

Writes DIR/results.json (every convention, interval and fingerprint), results.md (tables), index.html (the page),
likelihoods/*.parquet (log-probabilities by item and codebook), continuation/ (audio and codes) and tokens/.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if __name__ == "__main__":  # a checkout needs no installation
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eval.benchmarks.base import BENCHMARKS, MODEL, Benchmark, Generation, Run, Setup
from eval.benchmarks.pairs import PairBenchmark
from eval.likelihoods import find_convention
from slm.config import run_command
from slm.errors import UsageError
from slm.files import write_text
from slm.types import Scorer, stable_hash

if TYPE_CHECKING:
    from slm.spoken_lm import SpokenLM


@dataclass(frozen=True)
class EvalConfig:
    """Score a checkpoint on benchmarks, let it continue prompts, and write one page about it."""

    model: str
    """The checkpoint folder (RUN/final)."""
    benchmarks: str
    """Names with commas between: swuggy, sblimp, continuation, or a plug-in's."""
    out: str
    """Folder to write. Other benchmarks of the same model may be added to it later."""
    data: str = "."
    """Folder of the benchmarks: lexical/SPLIT (swuggy), syntactic/SPLIT (sblimp), prompts (continuation)."""
    split: str = "dev"
    """The split of the pair benchmarks: dev or test."""
    convention: str = "mean+eos"
    """What becomes the score of an item first of all; every convention is recorded. The mean does not favour short
    items as the sum does, and the end tells whether a word or sentence is complete."""
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
    vocoder: str | None = None
    """Unit vocoder (folder or hub id) with which continuations can be heard where the model's tokenizer has no decoder
    of its own, or instead of the vocoder that its tokenizer names."""
    cache: str | None = None
    """Folder of tokenized benchmarks, which later runs and other models of the same tokenizer use again; OUT/tokens
    when not given."""
    corpus: str | None = None
    """A tokenized corpus to describe on the page, such as the one that the model was trained on."""

    def __post_init__(self) -> None:
        if self.bootstrap < 1:
            raise UsageError("--bootstrap must be 1 or more")


def main(config: EvalConfig) -> None:
    """Every benchmark checks its material before the model is loaded; results are kept after each benchmark."""
    from eval.report.page import build_page
    from eval.report.table import result_table, results_markdown
    from eval.results import add_result, check_folder, describe_corpus, open_results, read_object, write_results
    from slm.devices import choose_device
    from slm.spoken_lm import load_lm

    convention = find_convention(config.convention)
    benchmarks = make_benchmarks(config)
    out, description = Path(config.out), Path(config.data, "generated.json")
    check_folder(out)
    generated = read_object(description) if description.is_file() else None
    lm = load_lm(config.model, choose_device(config.device), config.vocoder)
    record = open_results(out, lm, config.model)
    if config.corpus:
        record["corpus"] = describe_corpus(Path(config.corpus), lm)
    pairs = any(isinstance(b, PairBenchmark) for b in benchmarks)
    scorers = {MODEL: lm, **(make_baselines(config, lm, generated is not None) if pairs else {})}
    fingerprints = {name: fingerprint_of(scorer, lm) for name, scorer in scorers.items()}
    run = Run(lm, scorers, fingerprints, out, convention, config.bootstrap, config.seed, cache_folder(config))
    keep_training_curve(config, out)
    for benchmark in benchmarks:
        add_result(record, benchmark.run(run), config, fingerprints, generated)
        write_results(out, record)
        write_text(out / "results.md", results_markdown(record))
        build_page([out], out)
        print("\n" + result_table(record["results"][-1]), flush=True)
    print(f"\nresults: {out / 'results.json'}\npage:    {out / 'index.html'}")


def make_benchmarks(config: EvalConfig) -> list[Benchmark]:
    """UsageError for an unknown name, and for missing material."""
    names = [name.strip() for name in config.benchmarks.split(",") if name.strip()]
    if not names:
        raise UsageError(f"--benchmarks names none; known: {', '.join(BENCHMARKS.names())}")
    classes = [BENCHMARKS.get(name) for name in dict.fromkeys(names)]
    setup = Setup(Path(config.data), config.split, config.prompts, config.generation, cache_folder(config) / "audio")
    return [cls(setup) for cls in classes]


def cache_folder(config: EvalConfig) -> Path:
    return Path(config.cache) if config.cache else Path(config.out, "tokens")


def make_baselines(config: EvalConfig, lm: SpokenLM, generated: bool) -> dict[str, Scorer]:
    if config.baselines == "no" or (config.baselines == "auto" and not generated):
        return {}
    return {"untrained": lm.untrained(config.seed), "unigram": lm.unigram()}


def fingerprint_of(scorer: Scorer, lm: SpokenLM) -> str:
    """A model's own; for the unigram, the hash of all it knows: counts, and how codes become documents."""
    if own := getattr(scorer, "fingerprint", None):
        return own
    counts = [c.tolist() for c in lm.statistics.counts]
    return stable_hash([lm.spec.fingerprint, lm.convention, counts, lm.statistics.num_documents])


def keep_training_curve(config: EvalConfig, out: Path) -> None:
    """Copy the run's metrics beside the results, so that OUT can be read without the run at hand."""
    out.mkdir(parents=True, exist_ok=True)
    curve = Path(config.model).resolve().parent / "metrics.jsonl"
    if curve.is_file():
        shutil.copyfile(curve, out / "training.jsonl")


if __name__ == "__main__":
    run_command(main, EvalConfig)
