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

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

if __name__ == "__main__":  # a checkout needs no installation
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eval.benchmarks.base import BENCHMARKS, Benchmark, Setup
from eval.benchmarks.pairs import PairBenchmark
from eval.comparison import Compared
from eval.config import EvalConfig
from eval.conventions import find_convention, find_conventions
from eval.methods import Training
from eval.outputs import keep_failure, keep_result, write_comparison
from eval.prepared import Prepared, cache_folder, check_models, prepare
from eval.processes import ALONE, Processes, join_processes
from eval.several import Attempts, name_models
from slm.config import ending_at_once, join_list, run_command
from slm.errors import UsageError, did_you_mean


def main(config: EvalConfig) -> int:
    """Every benchmark checks its material before a model is loaded; results are kept after each benchmark."""
    from eval.results import check_corpus, read_object
    from slm.devices import choose_device
    from slm.files import check_folder

    if is_reconstruction(config):
        from eval.reconstruction.command import main as reconstruct

        with ALONE.alone_in(Path(config.out)):
            reconstruct(config)
        return 0
    find_conventions(config.conventions)
    find_convention(config.convention)
    check_folder(Path(config.out))
    check_folder(cache_folder(config), "--cache", written=False)
    if config.corpus:
        check_corpus(Path(config.corpus))
    benchmarks = make_benchmarks(config)
    out, description = Path(config.out), Path(config.data, "generated.json")
    named = name_models(config.models)
    folders = {name: out / name if len(named) > 1 else out for name in named}
    for folder in folders.values():
        check_folder(folder)
    if len(named) > 1:
        check_models(config)
    generated = read_object(description) if description.is_file() else None
    device = choose_device(config.device)
    processes = join_processes()
    with processes.alone_in(out):
        return evaluate_all(config, named, folders, benchmarks, generated, device, processes)


def evaluate_all(config: EvalConfig, named: Mapping[str, str], folders: Mapping[str, Path],
                 benchmarks: Sequence[Benchmark], generated: dict[str, Any] | None, device: str,
                 processes: Processes) -> int:  # fmt: skip
    """Every benchmark on every model of `named` (name -> checkpoint), and the comparison of several."""
    attempts, compared = Attempts(processes, len(named) * len(benchmarks)), list[Compared]()
    for number, (name, path) in enumerate(named.items(), start=1):
        tell(f"model {number} of {len(named)}: {name}", processes, len(named) > 1)
        one = replace(config, model=path)
        prepared: Prepared | None = None
        with attempts.apart(name if len(named) > 1 else ""):
            prepared = prepare(one, processes.device(device), benchmarks, folders[name], generated, processes,
                               alone=len(named) == 1)  # fmt: skip
        if prepared is not None and not attempts.last_failed:
            failed = evaluate(one, prepared, benchmarks, name if len(named) > 1 else "", attempts)
            training = Training.of(prepared.run.lm, path)
            compared.append(Compared(name, folders[name], prepared.run.convention, failed, training))
        del prepared  # the next model may need its room
    if len(named) > 1 and compared:
        with attempts.apart("the comparison"):
            if processes.is_main:
                write_comparison(config, compared, benchmarks, attempts.failures, Path(config.out))
    processes.leave()
    if not processes.is_main:
        return 1 if attempts.failures else 0
    attempts.report()
    return 0


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
    if not config.model and "reconstruction" in names and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UsageError(
            "`reconstruction` runs in one process, whose judges have others (--reconstruction.workers): start it "
            "without a launcher"
        )
    if not config.model and names != {"reconstruction"}:
        raise UsageError("--model is missing: give a checkpoint (RUN/final); only `reconstruction` needs none")
    return not config.model


def evaluate(config: EvalConfig, prepared: Prepared, benchmarks: Sequence[Benchmark], name: str,
             attempts: Attempts) -> frozenset[str]:  # fmt: skip
    """Run the benchmarks on one model. Every process runs them and scores its share; the main one writes. One that
    cannot be run is told and returned; the others go on. `name` is the model's, where there are several."""
    run, record, processes = prepared.run, prepared.record, prepared.run.processes
    failed = set[str]()
    for number, benchmark in enumerate(benchmarks, start=1):
        tell(f"benchmark {number} of {len(benchmarks)}: {benchmark.name}", processes, len(benchmarks) > 1)
        with attempts.apart(name, benchmark.name):
            benchmark.check(run.lm)
            if processes.is_main:
                keep_result(record, benchmark.run(run), config, run.out, dict(run.fingerprints), prepared.generated)
            elif isinstance(benchmark, PairBenchmark):
                with TemporaryDirectory() as elsewhere:
                    benchmark.run(replace(run, out=Path(elsewhere), resamples=1))
        if attempts.last_failed:
            failed.add(benchmark.name)
            if processes.is_main:
                keep_failure(record, attempts.failures[-1], run.out)
    if processes.is_main and len(failed) < len(benchmarks):
        print(f"\nresults: {run.out / 'results.json'}\npage:    {run.out / 'index.html'}", flush=True)
    return frozenset(failed)


def tell(line: str, processes: Processes, worth_it: bool = True) -> None:
    """A line of progress, once."""
    if processes.is_main and worth_it:
        print(line, file=sys.stderr, flush=True)


def make_benchmarks(config: EvalConfig) -> list[Benchmark]:
    """UsageError for an unknown name, and for missing material: all of it, a line each."""
    names = [name.strip() for name in config.benchmarks.split(",") if name.strip()]
    if not names:
        raise UsageError(f"--benchmarks names none; known: {', '.join(BENCHMARKS.names())}")
    classes = [BENCHMARKS.get(name) for name in dict.fromkeys(names)]
    setup = Setup(Path(config.data), config.split, config.prompts, config.generation, cache_folder(config) / "audio",
                  config.judges)  # fmt: skip
    made, missing = list[Benchmark](), list[str]()
    for cls in classes:
        try:
            made.append(cls(setup))
        except UsageError as error:
            missing.append(str(error))
    if missing:
        raise UsageError("\n".join(dict.fromkeys(missing)))
    return made


if __name__ == "__main__":
    with ending_at_once():
        run_command(main, EvalConfig, join_list(sys.argv[1:], "--model"))
