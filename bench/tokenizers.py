"""Seconds of audio coded in a second, of every tokenizer that can run here, in each mode, there and back.

    python -m bench.tokenizers [NAME ...] [--device cuda] [--audio-s 60] [--threads 1]

A codec has its published architecture and random weights (no hub is needed), so that its speed is true and its codes
mean nothing. Clips are speech of mixed lengths, already in memory. Beside the modes stands the plain loop: the network
called on one clip after the other, each moved to the device and its codes back, as scripts around codecs do; for the
codecs of transformers that is the reference itself. "differ" is the fraction of codes that are not those of `exact`,
over all codebooks; a near tie that falls otherwise in one codebook changes those after it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from slm.audio import find_audio, read_audio
from slm.errors import UsageError
from slm.tokenizers import TOKENIZERS, load_tokenizer
from slm.types import AudioClip

SPEECH = Path(__file__).parents[1] / "tests" / "data" / "speech"
READY = ["codec2-700c", "logmel-kmeans", "configs/tokenizers/whisper-tiny.en-l3-k100.yaml"]
"""Tokenizers whose weights are here."""
LENGTHS_S = (1.3, 9.7, 4.1, 15.2, 2.6, 6.3, 11.8, 3.4)
BATCH_S_ON_CPU = 16.0
"""A CPU takes clips one by one, in mode `batched` too; "differ" is of batches all the same."""


def main(arguments: Sequence[str]) -> None:
    import torch

    options = _options(arguments)
    torch.set_num_threads(options.threads)
    print(f"{torch.cuda.get_device_name() if options.device == 'cuda' else f'CPU, {options.threads} thread(s)'}")
    print(f"{'tokenizer':<26} {'mode':<12} {'encode':>10} {'decode':>10} {'differ':>8}")
    for name in options.names or _runnable():
        try:
            with _checkpoint(name) as settings:
                for mode, there, back, differing in _rows(name, settings, options):
                    print(f"{Path(name).stem:<26} {mode:<12} {there:>10} {back:>10} {differing:>8}", flush=True)
        except UsageError as error:
            print(f"{Path(name).stem:<26} left out: {error}")


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.tokenizers", description="Speed of tokenizers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="tokenizers or their files (default: all there are)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--audio-s", type=float, default=60.0, help="seconds of audio to code (a GPU wants 600)")
    parser.add_argument("--threads", type=int, default=1, help="threads of a CPU")
    return parser.parse_args(arguments)


def _runnable() -> list[str]:
    """Those with weights here, and those that can be had with random ones."""
    return [*READY, *(name for name in TOKENIZERS.names() if hasattr(TOKENIZERS.get(name), "write_untrained"))]


@contextmanager
def _checkpoint(name: str) -> Iterator[dict[str, Any]]:
    """Settings with which `name` loads."""
    write = None if name in READY or name.endswith(".yaml") else getattr(TOKENIZERS.get(name), "write_untrained", None)
    if write is None:
        yield {}
        return
    with TemporaryDirectory() as folder:
        write(Path(folder) / name)
        yield {"checkpoint": str(Path(folder) / name)}


def _rows(name: str, settings: dict[str, Any], options: argparse.Namespace) -> Iterator[tuple[str, str, str, str]]:
    """(mode, encode, decode, differ) of each way to run it."""
    from slm.tokenizers._batched import code_mismatch

    exact = load_tokenizer(name, options.device, **settings)
    clips = _clips(exact.spec.sample_rate_hz, options.audio_s)
    audio_s = sum(clip.duration_s for clip in clips)
    if hasattr(exact, "_codes_of"):
        yield "plain loop", _speed(lambda: _plain_loop(exact, clips), audio_s, options), "", ""
    codes = exact.encode(clips)
    back = _speed(lambda: [exact.decode(c) for c in codes], audio_s, options) if exact.spec.has_decoder else "-"
    yield "exact", _speed(lambda: exact.encode(clips), audio_s, options), back, ""
    for mode in [mode for mode in exact.modes if mode != "exact"]:
        if options.device == "cpu" and mode == "bf16":
            continue
        tokenizer: Any = load_tokenizer(name, options.device, mode=mode, **settings)
        speed = _speed(partial(tokenizer.encode, clips), audio_s, options)
        tokenizer.batch_s = {**tokenizer.batch_s, "cpu": BATCH_S_ON_CPU}
        yield mode, speed, "", f"{code_mismatch(tokenizer, exact, clips):.3%}"


def _plain_loop(tokenizer: Any, clips: Sequence[AudioClip]) -> None:
    import torch

    with torch.inference_mode():
        for clip in clips:
            tokenizer._codes_of(tokenizer._to_model(torch.from_numpy(clip.samples)[None, None])).cpu()


def _clips(rate_hz: int, audio_s: float) -> list[AudioClip]:
    """Speech of `audio_s` seconds in clips of mixed lengths, each put together of recordings."""
    import numpy as np

    files, left_s = cycle(find_audio(SPEECH)), audio_s
    clips: list[AudioClip] = []
    for i, length_s in enumerate(cycle(LENGTHS_S)):
        if left_s <= 0:
            return clips
        samples = np.zeros(0, np.float32)
        while len(samples) < length_s * rate_hz:
            samples = np.concatenate([samples, read_audio(next(files), rate_hz)])
        clips.append(AudioClip(str(i), samples[: int(min(length_s, max(left_s, 1.0)) * rate_hz)].copy(), rate_hz))
        left_s -= length_s
    raise AssertionError("unreachable")


def _speed(run: Callable[[], Any], audio_s: float, options: argparse.Namespace) -> str:
    """Once to warm up (on a GPU), then timed."""
    if options.device == "cuda":
        run()
    start = time.perf_counter()
    run()  # its last step moves codes or audio back, which waits for the device
    return f"{audio_s / (time.perf_counter() - start):,.1f} x"


if __name__ == "__main__":
    main(sys.argv[1:])
