"""Clips judged in a second: one at a time in one process, against how `eval/run.py` has them judged.

    python -m bench.metrics [--device cuda] [--clips 32] [--seconds 4] [--workers 0] [--judges signals,asr,...]
                            [--tokenizer codec2-1200] [--each]

Clips are cuts of real speech, and what comes back of them with noise on it. Both sides have the same judges, loaded and
warm; what is kept is looked up by neither, but "again" is a second run, which finds everything.

one         one process with one thread, one clip at a time
ours        signal metrics and judges in processes of one thread each; on a GPU judges that use it in batches
apart       the largest difference between the two sides' numbers; of transcripts, the share that differs

With `--each` comes only what every metric and judge costs: seconds of one processor for a minute of audio, in a process
as those of `eval/run.py`. Give `--clips 4 --seconds 15`: windows that overlap make long clips dearer.

Last comes a reconstruction as `eval/run.py --benchmarks reconstruction` makes it, with everything that was asked for:
seconds of the tokenizer (encoding and decoding), of metrics (over all processes), and by the clock.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from eval.judges.asr import SpeechRecognizer
from eval.judges.base import MissingJudgeError
from eval.judges.embedding import embedding_judge
from eval.judges.mos import DistillMos, Dnsmos
from eval.judges.pool import Asked, JudgePool, Recipe, processes
from eval.judges.speaker import speaker_judge
from eval.metrics.signals import SignalPair
from eval.reconstruction.scoring import Job, chosen_metrics, judge_all
from slm.audio import find_audio, read_audio
from slm.devices import available_cores
from slm.types import AudioClip

SPEECH = Path(__file__).parents[1] / "tests" / "data" / "speech"
RATE_HZ = 16_000
JUDGES: dict[str, tuple[Callable[..., Any], tuple[Any, ...], str]] = {
    "asr": (SpeechRecognizer, ("openai/whisper-tiny.en",), "transcribe"),
    "distillmos": (DistillMos, ("",), "rate"),
    "dnsmos": (Dnsmos, ("",), "rate"),
    "speaker": (speaker_judge, ("resemblyzer",), "embed"),
    "embedding": (embedding_judge, ("openwakeword",), "embed"),
}


def main(arguments: Sequence[str]) -> None:
    import torch

    options = _options(arguments)
    torch.set_num_threads(1)
    pairs = make_jobs(options.clips, options.seconds)
    cuda = options.device.startswith("cuda")
    judge_processes = processes(options.workers)
    judge_pool = JudgePool(options.workers, judge_processes)
    if options.each:
        with judge_processes:
            return costs(pairs, judge_processes, options)
    on = torch.cuda.get_device_name() if cuda else "CPU"
    print(f"{on}, {options.workers} processes, {options.clips} clips of {options.seconds:g} s")
    print(f"{'':<12} {'one':>12} {'ours':>12} {'times':>7} {'again':>12} {'apart':>9}", flush=True)
    try:
        for name in options.judges:
            if name == "signals":
                signals(pairs, judge_processes)
            else:
                judge(name, pairs, judge_pool, options)
    finally:
        judge_pool.close()
        judge_processes.shutdown()
    if options.tokenizer:
        reconstruct(options)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.metrics", description="Speed of metrics and judges.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--workers", type=int, default=available_cores())
    parser.add_argument("--judges", default="signals," + ",".join(JUDGES), help="with commas between")
    parser.add_argument("--tokenizer", default="codec2-1200", help="of the reconstruction; empty: none")
    parser.add_argument("--each", action="store_true", help="what each metric and judge costs, and no more")
    made = parser.parse_args(arguments)
    made.judges = [name.strip() for name in made.judges.split(",") if name.strip()]
    if unknown := set(made.judges) - {"signals", *JUDGES}:
        parser.error(f"no judge {', '.join(sorted(unknown))}: there are signals, {', '.join(JUDGES)}")
    return made


def make_jobs(number: int, seconds: float) -> list[Job]:
    """Different cuts of the recordings laid end to end, each with noise at 20 dB."""
    files = find_audio(SPEECH / "en")
    speech = np.concatenate([read_audio(file, RATE_HZ) for file in files])
    length, rng = round(seconds * RATE_HZ), np.random.default_rng(0)
    starts = np.linspace(0, len(speech) - length, number).astype(int)
    cuts = [speech[start : start + length] for start in starts]
    noisy = [cut + 0.1 * cut.std() * rng.normal(size=length).astype(np.float32) for cut in cuts]
    return [Job(f"{i}", f"{i}", "speech", cut, made.astype(np.float32), RATE_HZ, 0, 0.1)
            for i, (cut, made) in enumerate(zip(cuts, noisy, strict=True))]  # fmt: skip


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    made = work()
    return time.perf_counter() - started, made


def costs(jobs: Sequence[Job], workers: Any, options: argparse.Namespace) -> None:
    """The first clip warms up, and has no part in it."""
    minutes = (len(jobs) - 1) * options.seconds / 60
    print(f"{options.clips} clips of {options.seconds:g} s: seconds of one processor for a minute of audio")
    names = [m.name for m in chosen_metrics("") if not m.missing()] if "signals" in options.judges else []
    for name in [*names, *(name for name in options.judges if name != "signals")]:
        took_s = workers.submit(cost_of, name, jobs).result()
        print(f"{name:<14}" + ("absent" if took_s is None else f"{took_s / minutes:6.2f}"), flush=True)


def cost_of(name: str, jobs: Sequence[Job]) -> float | None:
    """Processor seconds of this process for all but the first; None for a judge that is not here."""
    if name in JUDGES:
        make, given, question = JUDGES[name]
        try:
            ask = getattr(make(*given), question)
        except MissingJudgeError:
            return None
        clips = [AudioClip(job.pair_id, job.made, RATE_HZ) for job in jobs]
        work = [lambda: ask(clips[:1]), lambda: ask(clips[1:])]  # as many at once as a process is given
    else:
        (metric,) = chosen_metrics(name)
        pairs = [SignalPair(job.group, job.reference, job.made, RATE_HZ) for job in jobs]
        work = [lambda pair=pair: metric.measure(pair) for pair in pairs]
    work[0]()
    started = time.process_time()
    for one in work[1:]:
        one()
    return time.process_time() - started


def signals(jobs: Sequence[Job], workers: Any) -> None:
    metrics = [m for m in chosen_metrics("") if not m.missing()]
    list(judge_all(jobs[:1], metrics, None))
    list(judge_all([*jobs[:1]] * 8, metrics, workers))
    one_s, one = timed(lambda: list(judge_all(jobs, metrics, None)))
    ours_s, ours = timed(lambda: list(judge_all(jobs, metrics, workers)))
    apart = max(abs(a.values[n][0] - b.values[n][0]) for a, b in zip(one, ours, strict=True) for n in a.values)
    tell("signals", len(jobs), one_s, ours_s, None, apart)


def judge(name: str, jobs: Sequence[Job], judge_pool: JudgePool, options: argparse.Namespace) -> None:
    make, given, question = JUDGES[name]
    recipe = Recipe(make, given if name in ("speaker", "embedding") else (*given, options.device))
    try:
        own = recipe.make(*recipe.arguments)
    except MissingJudgeError as error:
        print(f"{name:<12} absent: {error}")
        return
    clips = [AudioClip(job.pair_id, job.made, RATE_HZ) for job in jobs]
    ask = getattr(own, question)
    ask(clips[:1])
    asked = Asked(own, judge_pool, recipe)
    warm = [AudioClip("w", clip.samples[::-1].copy(), RATE_HZ) for clip in clips[: 4 * options.workers]]
    asked.begin(question, warm)()
    one_s, one = timed(lambda: [ask([clip])[0] for clip in clips])
    ours_s, ours = timed(asked.begin(question, clips))
    again_s, _ = timed(lambda: asked.begin(question, clips)())
    tell(name, len(clips), one_s, ours_s, again_s, apart_of(one, ours))


def apart_of(one: Sequence[Any], ours: Sequence[Any]) -> float:
    """The largest difference of numbers; the share of texts that differ."""
    if isinstance(one[0], str):
        return float(np.mean([a != b for a, b in zip(one, ours, strict=True)]))
    if isinstance(one[0], dict):
        return max(abs(a[name] - b[name]) for a, b in zip(one, ours, strict=True) for name in a)
    found = [(a, b) for a, b in zip(one, ours, strict=True) if a is not None and len(a)]
    return max(float(np.abs(np.asarray(a, np.float64) - b).max()) for a, b in found)


def tell(name: str, clips: int, one_s: float, ours_s: float, again_s: float | None, apart: float) -> None:
    again = f"{clips / again_s:>8,.0f} c/s" if again_s else f"{'–':>12}"
    print(f"{name:<12} {clips / one_s:>8.2f} c/s {clips / ours_s:>8.2f} c/s {one_s / ours_s:>6.1f}x {again} "
          f"{apart:>9.1e}", flush=True)  # fmt: skip


def reconstruct(options: argparse.Namespace) -> None:
    from eval.config import EvalConfig
    from eval.results import read_results
    from eval.run import main as evaluate
    from slm.audio import write_wav

    asked = {name: name in options.judges for name in JUDGES}
    mos = ",".join(name for name in ("distillmos", "dnsmos") if asked[name])
    from eval.reconstruction.settings import Reconstruction

    settings = Reconstruction(mos=mos, asr=JUDGES["asr"][1][0] if asked["asr"] else "", codebooks="",
                              speaker="resemblyzer" if asked["speaker"] else "", workers=options.workers, samples=0,
                              metrics="" if "signals" in options.judges else "snr")  # fmt: skip
    with TemporaryDirectory(prefix="bench-metrics-") as folder:
        for job in make_jobs(options.clips, options.seconds):
            write_wav(Path(folder, "data", f"{job.pair_id}.wav"), AudioClip(job.pair_id, job.reference, RATE_HZ))
        config = EvalConfig("reconstruction", f"{folder}/out", data=f"{folder}/data", tokenizer=options.tokenizer,
                            device=options.device, reconstruction=settings, bootstrap=10)  # fmt: skip
        for turn in ("new", "again"):
            took_s, _ = timed(lambda: _quietly(evaluate, config))
            points = read_results(Path(folder, "out"))["results"][0]["details"]["points"]
            parts = {
                name: sum(p["time_s"].get(name, 0.0) for p in points) for name in ("tokenizer", "metrics", "clock")
            }
            print(f"reconstruction by {options.tokenizer}, {turn}: " + ", ".join(f"{k} {v:.1f} s" for k, v in
                  parts.items()) + f"; {took_s:.1f} s with start and report", flush=True)  # fmt: skip


def _quietly(work: Callable[..., Any], *arguments: Any) -> None:
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()):
        work(*arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
