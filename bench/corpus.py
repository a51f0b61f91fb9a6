"""Tokenizing a corpus: does the pipeline keep the tokenizer busy, in what memory, and how long does a plan take?

    python -m bench.corpus [busy] [memory] [plan] [--audio-s 300] [--files 1000000] [--threads 1]
    python -m bench.corpus busy --device cuda --tokenizers encodec --mode batched --audio-s 18000 --batch-seconds 600

busy    seconds of audio a second of `tokenize_corpus` (compressed speech read, resampled, encoded, written), against
        the bare `encode` of the same batches already in memory; turn by turn in one process, medians. "encoding": the
        share of the pipeline's time in which the tokenizer was at work, however fast beside readers and writer (not
        where a device goes on by itself: the pipeline has always given it something).
        "writing": what the shards take by themselves; "waited": for how much of that the pipeline waits.
memory  the most that the processes of a run hold, of corpora of 1, 10 and 100 times the same audio, in shards of an
        hour: the codes of one shard are held, and of the one before, which is written.
plan    a folder of so many WAV files (headers with nothing but a hole behind) planned, and the plan gone on with.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr
from functools import cache
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from bench.tokenizers import SPEECH, checkpoint_of
from slm.audio import find_audio, probe, read_audio
from slm.corpus import job
from slm.corpus.config import CorpusConfig
from slm.corpus.folder import load_plan
from slm.corpus.output import Output
from slm.corpus.pipeline import tokenize_corpus
from slm.corpus.plan import Plan
from slm.corpus.planning import PlanSettings, make_plan
from slm.corpus.readers import make_batches
from slm.corpus.shards import write_shard
from slm.corpus.sources import open_source
from slm.data.store import CodeStore
from slm.tokenizers import Tokenizer, load_tokenizer
from slm.types import AudioClip, Codes

BUSY = {"encodec": 1, "configs/tokenizers/whisper-tiny.en-l3-k100.yaml": 10}
"""Tokenizers, and how many times `--audio-s` each is given: the start of processes counts, and is made once."""


def main(arguments: Sequence[str]) -> None:
    options = _options(arguments)
    for name in options.questions or ["busy", "memory", "plan"]:
        {"busy": busy, "memory": memory, "plan": plan}[name](options)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.corpus", description="Speed and memory of tokenizing.")
    parser.add_argument("questions", nargs="*", metavar="busy|memory|plan", help="which (default: all three)")
    parser.add_argument("--audio-s", type=float, default=300.0, help="seconds of audio for the slowest of `busy`")
    parser.add_argument("--files", type=int, default=1_000_000, help="files for `plan`")
    parser.add_argument("--threads", type=int, default=1, help="threads of the tokenizer")
    parser.add_argument("--device", default="cpu", help="device of the tokenizer")
    parser.add_argument("--tokenizers", nargs="+", default=list(BUSY), metavar="NAME", help="those of `busy`")
    parser.add_argument("--mode", default="exact", help="of encoding, where the tokenizer has it")
    parser.add_argument("--batch-seconds", type=float, default=120.0, help="seconds of audio in a batch")
    parser.add_argument("--turns", type=int, default=2, help="of `busy`")
    return parser.parse_args(arguments)


@contextmanager
def _speech(audio_s: float) -> Iterator[Path]:
    """A folder with so many seconds of the shipped recordings (Ogg Opus), each linked as often as it takes."""
    recordings = [(path, probe(path).duration_s) for path in find_audio(SPEECH)]
    with TemporaryDirectory() as folder:
        audio, total_s, number = Path(folder, "audio"), 0.0, 0
        audio.mkdir()
        while total_s < audio_s:
            path, duration_s = recordings[number % len(recordings)]
            os.link(path, audio / f"{number:07d}{path.suffix}")
            total_s, number = total_s + duration_s, number + 1
        yield Path(folder)


def busy(options: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(options.threads)
    print(f"{'tokenizer':<26} {'pipeline':>10} {'bare':>10} of bare encoding  writing   waited bytes/code")
    for name in options.tokenizers:
        with checkpoint_of(name) as (source, settings), _speech(options.audio_s * BUSY.get(name, 1)) as folder:
            tokenizer = load_tokenizer(source, options.device, mode=options.mode, **settings)
            _warm_up(tokenizer, folder / "audio")
            ours, shares, waits, bare = [], [], [], []
            for turn in range(options.turns):
                config = CorpusConfig(str(folder / "audio"), name, str(folder / f"out-{turn}"), shard_hours=1.0,
                                      batch_seconds=options.batch_seconds)  # fmt: skip
                with _timed(tokenizer) as spent_s, _waiting() as waited_s, _quiet():
                    summary = tokenize_corpus(config, tokenizer)
                ours.append(summary.real_time_factor or 0.0)
                shares.append(sum(spent_s) * ours[-1] / summary.duration_s)
                waits.append(sum(waited_s) * ours[-1] / summary.duration_s)
                bare.append(_bare(config, tokenizer))
            writing_s, bytes_a_code = _written(folder / "out-0")
            at_work = "-" if tokenizer.runs_ahead else f"{median(shares):.1%}"
            print(
                f"{Path(name).stem:<26} {median(ours):>8.1f} x {median(bare):>8.1f} x "
                f"{median(a / b for a, b in zip(ours, bare, strict=True)):>8.1%} {at_work:>8} "
                f"{writing_s * median(ours) / summary.duration_s:>8.2%} {median(waits):>8.2%} {bytes_a_code:>10.2f}",
                flush=True,
            )


def _warm_up(tokenizer: Tokenizer, audio: Path) -> None:
    """The first turn would else pay for what a device sets up once, and for each length that it has not seen."""
    rate_hz = tokenizer.spec.sample_rate_hz
    paths = sorted(audio.iterdir())[: len(find_audio(SPEECH))]  # each recording once
    tokenizer.encode([AudioClip(path.name, read_audio(path, rate_hz), rate_hz) for path in paths])


@contextmanager
def _timed(tokenizer: Tokenizer) -> Iterator[list[float]]:
    """A list of the times for which it had something to do, in seconds: from `start` until the codes of all that it
    was given are there."""
    spent_s: list[float] = []
    start, given, begun = tokenizer.start, 0, 0.0

    def timed(clips: Sequence[AudioClip]) -> Callable[[], list[Codes]]:
        nonlocal given, begun
        if given == 0:
            begun = time.perf_counter()
        given += 1
        wait = start(clips)

        def finish() -> list[Codes]:
            nonlocal given
            made = wait()
            given -= 1
            if given == 0:
                spent_s.append(time.perf_counter() - begun)
            return made

        return finish

    tokenizer.start = timed  # type: ignore[method-assign]
    yield spent_s
    del tokenizer.start  # the method of its class again


@contextmanager
def _waiting() -> Iterator[list[float]]:
    """A list of the seconds for which the pipeline waits until a shard is written."""
    waited_s: list[float] = []

    class Writer(ThreadPoolExecutor):
        def submit(self, *arguments: Any, **others: Any) -> Any:
            future = super().submit(*arguments, **others)
            wait = future.result

            def result(*patience: Any) -> Any:
                begun = time.perf_counter()
                made = wait(*patience)
                waited_s.append(time.perf_counter() - begun)
                return made

            future.result = result  # type: ignore[method-assign]
            return future

    job.ThreadPoolExecutor = Writer  # type: ignore[misc,attr-defined]
    yield waited_s
    job.ThreadPoolExecutor = ThreadPoolExecutor  # type: ignore[misc,attr-defined]


@contextmanager
def _quiet() -> Iterator[None]:
    with open(os.devnull, "w") as nothing, redirect_stderr(nothing):
        yield


def _bare(config: CorpusConfig, tokenizer: Tokenizer) -> float:
    """Seconds of audio that `encode` alone does in a second, on the batches of the plan."""
    read = cache(lambda inode: read_audio(paths[inode], tokenizer.spec.sample_rate_hz))  # the same few recordings
    paths = {path.stat().st_ino: path for path in Path(config.audio).iterdir()}
    made = Plan(config.out, config.audio)
    seconds = 0.0
    with _timed(tokenizer) as spent_s:
        for shard in made.shards:
            for batch in make_batches(shard, made.clips(shard), config.batch_seconds):
                samples = {clip.id: read(os.stat(clip.path).st_ino).copy() for clip in batch.clips}
                tokenizer.start([AudioClip(id, of, tokenizer.spec.sample_rate_hz) for id, of in samples.items()])()
                seconds += batch.duration_s
    return seconds / sum(spent_s)


def _written(out: Path) -> tuple[float, float]:
    """Seconds that writing the shards takes by itself, and bytes on disk for each code."""
    store, made = CodeStore(out), Plan(out)
    codes = {c.id: c for c in store}
    begun = time.perf_counter()
    for shard in made.shards:
        clips = {planned.clip.id: planned.clip for planned in made.clips(shard)}
        write_shard(out / "again.arrow", made, store.spec, [codes[id] for id in clips if id in codes], clips, [])
    spent = time.perf_counter() - begun
    num_codes = sum(c.codes.size for c in codes.values())
    return spent, sum(path.stat().st_size for path in out.glob("data-*.arrow")) / num_codes


def memory(options: argparse.Namespace) -> None:
    print(f"{'audio':>8} {'clips':>8} {'peak of all processes':>24}")
    for times in (1, 10, 100):
        with _speech(342.0 * times) as folder:
            config = CorpusConfig(str(folder / "audio"), "logmel-kmeans", str(folder / "out"), device=options.device,
                                  shard_hours=1.0)  # fmt: skip
            peak_mb = _peak_mb(_quietly, config)
            clips = len(CodeStore(folder / "out"))
            print(f"{342 * times / 3600:>6.2f} h {clips:>8,} {peak_mb:>21,.0f} MB", flush=True)


def _quietly(config: CorpusConfig) -> None:
    with _quiet():
        tokenize_corpus(config)


def _peak_mb(run: Callable[..., object], *arguments: Any) -> float:
    """The most memory that a process running this and all below it hold at a time, counted once where it is shared."""
    import psutil

    process = multiprocessing.get_context("spawn").Process(target=run, args=arguments)
    process.start()
    watched, peak, ended = psutil.Process(process.pid), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.25):
            total = 0
            for one in [watched, *_below(watched)]:
                try:
                    total += one.memory_full_info().pss
                except psutil.Error:
                    continue
            peak = max(peak, total)

    watcher = threading.Thread(target=watch)
    watcher.start()
    process.join()
    ended.set()
    watcher.join()
    if process.exitcode != 0:
        raise RuntimeError(f"the run ended with exit status {process.exitcode}")
    return peak / 1e6


def _below(process: Any) -> list[Any]:
    import psutil

    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def plan(options: argparse.Namespace) -> None:
    with TemporaryDirectory() as folder:
        begun = time.perf_counter()
        audio, out = Path(folder, "audio"), Path(folder, "out")
        _write_headers(audio, options.files)
        out.mkdir()
        print(f"{options.files:,} files written in {time.perf_counter() - begun:.0f} s")
        settings, spec = PlanSettings(shard_hours=10.0), load_tokenizer("logmel-kmeans").spec
        begun = time.perf_counter()
        peak_mb = _peak_mb(make_plan, out, open_source(audio), spec, settings, os.cpu_count() or 1)
        spent = time.perf_counter() - begun
        print(f"planned by {os.cpu_count()} processes in {spent:.1f} s, {peak_mb:,.0f} MB", flush=True)
        begun = time.perf_counter()
        found = load_plan(Output(out), settings, open_source(audio))
        assert found is not None
        print(f"found again, every file looked at, in {time.perf_counter() - begun:.1f} s: {len(found.shards)} shards")
        shutil.rmtree(audio)


def _write_headers(folder: Path, files: int) -> None:
    for i in range(files):
        if i % 1000 == 0:
            below = folder / f"{i // 1000:04d}"
            below.mkdir(parents=True)
        size = 2 * (16_000 * 10 + i % 777)
        head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", size + 36, b"WAVE", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16,
                           b"data", size)  # fmt: skip
        with open(below / f"{i:07d}.wav", "wb") as file:
            file.write(head)
            file.truncate(len(head) + size)


if __name__ == "__main__":
    main(sys.argv[1:])
