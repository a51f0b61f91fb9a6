"""Seconds of audio coded in a second, of every tokenizer that can run here, in each mode, there and back.

    python -m bench.tokenizers [NAME ...] [--device cuda] [--audio-s 60] [--rounds 3] [--threads 1] [--compile]

NAME is a file, a registered name or one of the database (`hubert-base-l9`). All but a few have the published
architecture and random weights (no hub is needed), so that their speed is true and their codes mean nothing. Clips are
speech of 1 to 16 s, hardly two of one length, already in memory. Beside the modes stands the plain loop: the network
called on one clip after the other, each moved to the device and its codes back, as scripts around tokenizers do; for
the codecs of transformers that is the reference itself. On a GPU it computes with PyTorch's defaults, TF32 in
convolutions, and once more in fp32 (`plain fp32`), which is what `exact` and `batched` compute.

All ways to encode take turns, in changing order: on a CPU clip by clip, on a GPU, where clips share batches, with all
clips. The speed is of the fastest of the rounds, for each clip; on one thread of a CPU, of its processor time. "of
plain": how many times as fast as the plain loop, the median of all turns and, in brackets, the middle half of them:
what else the machine does meets both sides alike. "differ": the fraction of codes that are not those of `exact`, over
all codebooks; a near tie that falls otherwise in one codebook changes those after it. `--compile` adds `exact` with its
network under torch.compile, for clips of any length; what cannot be compiled is told.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from slm.audio import find_audio, read_audio
from slm.errors import UsageError
from slm.tokenizers import TOKENIZERS, load_tokenizer
from slm.tokenizers._catalogue import catalogue
from slm.tokenizers._codec import NeuralCodec
from slm.tokenizers._measure import write_untrained_record
from slm.tokenizers.database import find_records
from slm.types import AudioClip

SPEECH = Path(__file__).parents[1] / "tests" / "data" / "speech"
READY = ["codec2-700c", "logmel-kmeans", "configs/tokenizers/whisper-tiny.en-l3-k100.yaml"]
"""Tokenizers whose weights are here."""
UNITS = ["hubert-base-l9", "mhubert-25hz", "discrete-wavlm", "w2v-bert-2-l17"]
"""Records of the database that share a tokenizer and differ in their encoders."""
LENGTHS_S = (1.0, 16.0)
BATCH_S_ON_CPU = 16.0
"""A CPU takes clips one by one in mode `batched` too, which is `exact` then; "differ" is of batches all the same."""


def main(arguments: Sequence[str]) -> None:
    import torch

    options = _options(arguments)
    torch.set_num_threads(options.threads)
    print(f"{torch.cuda.get_device_name() if options.device == 'cuda' else f'CPU, {options.threads} thread(s)'}")
    print(f"{'tokenizer':<26} {'mode':<12} {'encode':>10} {'of plain':>18} {'decode':>10} {'differ':>8}")
    for name in options.names or _runnable():
        shown = Path(name).stem if name.endswith(".yaml") else name
        try:
            with checkpoint_of(name) as (source, settings):
                for mode, *values in _rows(source, settings, options):
                    there, ratio, back, differing = values
                    row = f"{shown:<26} {mode:<12} {there:>10} {ratio:>18} {back:>10} {differing:>8}"
                    print(row.rstrip(), flush=True)
        except UsageError as error:
            print(f"{shown:<26} left out: {error}")


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.tokenizers", description="Speed of tokenizers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="tokenizers or their files (default: all there are)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--audio-s", type=float, default=60.0, help="seconds of audio to code (a GPU wants 600)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each way codes it")
    parser.add_argument("--compile", action="store_true", help="also measure `exact` under torch.compile")
    parser.add_argument("--threads", type=int, default=1, help="threads of a CPU")
    return parser.parse_args(arguments)


def _runnable() -> list[str]:
    """Those with weights here, and those that can be had with random ones."""
    return [*READY, *UNITS, *(name for name in TOKENIZERS.names() if hasattr(TOKENIZERS.get(name), "write_untrained"))]


@contextmanager
def checkpoint_of(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What `load_tokenizer` takes for `name`, a file or a name of the database, and settings."""
    if name in READY or name.endswith(".yaml"):
        yield name, {}
        return
    with TemporaryDirectory() as folder:
        row = find_records(name, catalogue())[0]
        made = write_untrained_record(row, Path(folder) / "untrained")
        yield made or (str(row.loads or name), dict(row.settings))


def _rows(source: str, settings: dict[str, Any], options: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """(mode, encode, of plain, decode, differ) of each way to run it."""
    from slm.tokenizers._batched import code_mismatch

    load = partial(load_tokenizer, source, options.device, **settings)
    exact = load()
    clips = _clips(exact.spec.sample_rate_hz, options.audio_s)
    modes: dict[str, Any] = {
        mode: load(mode=mode) for mode in exact.modes if mode != "exact" and (options.device, mode) != ("cpu", "bf16")
    }
    ways: dict[str, Callable[[Sequence[AudioClip]], Any]] = {}
    if isinstance(exact, NeuralCodec) or "batched" in exact.modes:
        ways["plain loop"] = partial(_plain_loop, exact)
        if options.device == "cuda":
            ways["plain fp32"] = partial(_plain_loop, exact, fp32=True)
        if options.compile and (compiled := _compiled(load(), clips)):
            modes["compiled"] = compiled
    ways["exact"] = exact.encode
    ways |= {mode: t.encode for mode, t in modes.items() if options.device == "cuda" or mode == "compiled"}
    times, made = _take_turns(ways, clips, options)
    codes = made["exact"]
    for way in [*ways, *(mode for mode in modes if mode not in ways)]:
        speed = ratio = ""
        if way in times:
            speed = f"{sum(clip.duration_s for clip in clips) / times[way].min(axis=0).sum():,.1f} x"
        if way in times and "plain loop" in times:
            low, middle, high = np.quantile(times["plain loop"] / times[way], (0.25, 0.5, 0.75))
            ratio = f"{middle:.2f} ({low:.2f}-{high:.2f})" if way != "plain loop" else ""
        back = differing = ""
        if way == "exact":
            back = _decoding(exact, codes) if exact.spec.has_decoder else "-"
        elif way in modes:
            if way not in made:
                modes[way].batch_s = {**modes[way].batch_s, "cpu": BATCH_S_ON_CPU}
                made[way] = modes[way].encode(clips)
            differing = f"{code_mismatch(made[way], codes):.3%}"
        yield way, speed, ratio, back, differing


def _take_turns(
    ways: Mapping[str, Callable[[Sequence[AudioClip]], Any]], clips: Sequence[AudioClip], options: argparse.Namespace
) -> tuple[dict[str, np.ndarray], dict[str, list[Any]]]:
    """Seconds that each way took `[rounds, portions]`, and what it made of the clips; all do a portion before any does
    the next. On a GPU every turn is at lengths that no turn had before, as the next clips of a corpus are: libraries
    get ready for each, which the plain loop pays for."""
    on_gpu = options.device == "cuda"
    portions = [clips] if on_gpu else [[clip] for clip in clips]
    clock = time.perf_counter if on_gpu or options.threads > 1 else time.process_time
    took_s = {way: np.zeros((options.rounds, len(portions))) for way in ways}
    order = list(ways)
    for way in order:
        # To warm up. Tensors of batches recur in a corpus, lengths of clips do not.
        ways[way](portions[0][:16] if way == "exact" or way.startswith("plain") else portions[0])
    turns = 0
    for turn in range(options.rounds):
        made: dict[str, list[Any]] = {way: [] for way in ways}
        for i, portion in enumerate(portions):
            order = order[1:] + order[:1]
            for way in order:
                turns += 1
                given = [replace(clip, samples=clip.samples[:-turns]) for clip in portion] if on_gpu else portion
                start = clock()
                made[way] += ways[way](given)  # its last step moves codes back, which waits for the device
                took_s[way][turn, i] = clock() - start
    if on_gpu:
        made = {way: list(run(clips)) for way, run in ways.items() if not way.startswith("plain")}
    return took_s, made


def _decoding(tokenizer: Any, codes: Sequence[Any]) -> str:
    tokenizer.decode(codes[0])  # to warm up
    start = time.perf_counter()
    for each in codes:
        tokenizer.decode(each)
    return f"{sum(each.duration_s for each in codes) / (time.perf_counter() - start):,.1f} x"


def _compiled(tokenizer: Any, clips: Sequence[AudioClip]) -> Any:
    """The tokenizer with its network compiled, and run on all clips; None where it cannot be."""
    import torch

    tokenizer._codes_of = torch.compile(tokenizer._codes_of, dynamic=True)
    try:
        tokenizer.encode(clips)
    except Exception as error:  # whatever the compiler meets in a foreign network
        print(f"{tokenizer.spec.name:<26} cannot be compiled: {type(error).__name__}")
        return None
    return tokenizer


def _plain_loop(tokenizer: Any, clips: Sequence[AudioClip], fp32: bool = False) -> list[Any]:
    import torch

    from slm.tokenizers._modes import inference

    device = tokenizer._parameter().device
    with inference() if fp32 else torch.inference_mode():
        signals = (np.ascontiguousarray(part) for clip in clips for part in tokenizer._cut(clip.samples))
        return [tokenizer._codes_of(torch.from_numpy(signal)[None, None].to(device)).cpu() for signal in signals]


def _clips(rate_hz: int, audio_s: float) -> list[AudioClip]:
    """Speech of `audio_s` seconds in clips of mixed lengths, each put together of recordings."""
    speech = np.concatenate([read_audio(path, rate_hz) for path in sorted(find_audio(SPEECH))])
    rng, left_s = np.random.default_rng(0), audio_s
    clips: list[AudioClip] = []
    while left_s > 0:
        length = int(min(rng.uniform(*LENGTHS_S), max(left_s, LENGTHS_S[0])) * rate_hz)
        start = int(rng.integers(0, len(speech) - length))
        clips.append(AudioClip(str(len(clips)), speech[start : start + length].copy(), rate_hz))
        left_s -= length / rate_hz
    return clips


if __name__ == "__main__":
    main(sys.argv[1:])
