"""What a tokenizer costs on this machine: parameters, multiply-accumulates per second of audio, speed."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from slm.errors import UsageError
from slm.tokenizers import load_tokenizer
from slm.tokenizers.base import TOKENIZERS, Tokenizer
from slm.tokenizers.database import TokenizerRecord, records
from slm.types import AudioClip

COUNTED = "convolutions, matrix products, attention and recurrent layers as executed; not FFTs, norms and activations"
_RUNS = 3


@dataclass(frozen=True)
class Measured:
    """Costs of one clip of `seconds_s`, alone. `*_macs_per_s` and `*_speed` are per second of audio."""

    weights: str
    """Whose weights: those of the checkpoint, or random ones."""
    parameters: int
    encode_macs_per_s: float
    decode_macs_per_s: float | None
    surveyed_macs_per_s: float
    """Both ways, as the survey counts (`_surveyed_convolution`): for comparison with published figures."""
    encode_speed: float
    """Seconds of audio coded in a second; the median of some runs after one to warm up."""
    decode_speed: float | None
    seconds_s: float
    device: str
    threads: int


def measure(row: TokenizerRecord, device: str, seconds_s: float, seed: int = 0) -> Measured:
    """Measure the tokenizer of a record. UsageError where neither it nor an untrained one of its form can be had."""
    with _loaded(row, device, seed) as (tokenizer, weights):
        return measure_tokenizer(tokenizer, weights, device, seconds_s, seed)


@contextmanager
def _loaded(row: TokenizerRecord, device: str, seed: int) -> Iterator[tuple[Tokenizer, str]]:
    """The tokenizer of its checkpoint; where that cannot be had, one of random weights and the same architecture."""
    if row.loads is None or row.loads not in TOKENIZERS.names():
        raise UsageError(f"{row.name} is known, but not loaded by slm: there is nothing to measure")
    try:
        tokenizer = load_tokenizer(row.loads, device, **dict(row.settings))
    except UsageError as error:
        reason = error
    else:
        yield tokenizer, f"of {row.checkpoint or 'the package'}"
        return
    with TemporaryDirectory() as folder:
        made = write_untrained_record(row, Path(folder) / "untrained", seed)
        if made is None:
            raise UsageError(f"{row.name} cannot be measured without its weights: {reason}") from reason
        source, settings = made
        yield load_tokenizer(source, device, **settings), f"random (seed {seed}); {reason}"


def write_untrained_record(row: TokenizerRecord, folder: Path, seed: int = 0) -> tuple[str, dict[str, str]] | None:
    """Write random weights of the record's architecture -> what `load_tokenizer` takes; None where nobody can."""
    changes = dict(row.untrained)
    if "architecture" in changes:
        from slm.tokenizers._untrained_encoders import write_untrained_units

        return str(write_untrained_units(folder, seed=seed, **changes)), {}
    write = getattr(TOKENIZERS.get(str(row.loads)), "write_untrained", None)
    # Of a plug-in there is one record, which is not in the database.
    is_default = [other.name for other in records() if other.loads == row.loads][:1] in ([row.name], [])
    if write is None or not (is_default or changes):
        return None
    write(folder, seed=seed, **changes)
    return str(row.loads), {"checkpoint": str(folder)}


def measure_tokenizer(tokenizer: Tokenizer, weights: str, device: str, seconds_s: float, seed: int = 0) -> Measured:
    """Measure with one clip of noise, encoded and, where there is a decoder, decoded."""
    import torch

    rate = tokenizer.spec.sample_rate_hz
    noise = np.random.default_rng(seed).normal(scale=0.1, size=round(seconds_s * rate)).astype(np.float32)
    clip = AudioClip("noise", noise, rate)
    if not tokenizer.spec.num_frames(len(noise)):
        raise UsageError(f"--seconds {seconds_s:g} is too short for a frame of {tokenizer.spec.name}")
    longest_s = tokenizer.longest_clip_s
    if longest_s is not None and clip.duration_s > longest_s:
        raise UsageError(f"--seconds {seconds_s:g}: {tokenizer.spec.name} codes clips of {longest_s:g} s at most")
    (codes,) = tokenizer.encode([clip])

    def encode() -> None:
        tokenizer.encode([clip])

    def decode() -> None:
        tokenizer.decode(codes)

    decodes = tokenizer.spec.has_decoder
    there, back = _macs(encode), _macs(decode) if decodes else (0.0, 0.0)
    return Measured(
        weights=weights,
        parameters=sum({id(p): p.numel() for p in _parameters(tokenizer)}.values()),
        encode_macs_per_s=there[0] / clip.duration_s,
        decode_macs_per_s=back[0] / clip.duration_s if decodes else None,
        surveyed_macs_per_s=(there[1] + back[1]) / clip.duration_s,
        encode_speed=clip.duration_s / _median_s(encode),
        decode_speed=clip.duration_s / _median_s(decode) if decodes else None,
        seconds_s=clip.duration_s,
        device=device,
        threads=torch.get_num_threads(),
    )


def _macs(run: Callable[[], None]) -> tuple[float, float]:
    """Multiply-accumulates of `run`, half the operations that PyTorch's counter sees: those done, and those that the
    survey's tool would count.

    oneDNN runs recurrent layers as one operation, which the counter does not know: it is switched off meanwhile.
    """
    import torch
    from torch.backends import mkldnn
    from torch.utils.flop_counter import FlopCounterMode

    as_surveyed = {torch.ops.aten.convolution: _surveyed_convolution}
    with (
        warnings.catch_warnings(action="ignore", category=UserWarning),  # oneDNN's, on being switched
        mkldnn.flags(enabled=False, allow_tf32=False),
        FlopCounterMode(display=False) as done,
        FlopCounterMode(display=False, custom_mapping=as_surveyed) as surveyed,
    ):
        run()
    return done.get_total_flops() / 2, surveyed.get_total_flops() / 2


def _surveyed_convolution(
    signal: Sequence[int], kernel: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any
) -> int:
    """Operations as ptflops counts them: the whole kernel for every sample that comes out, transposed or not.

    A transposed convolution does that only for every sample that goes in: `stride` times less.
    """
    return 2 * signal[0] * prod(kernel) * prod(out_shape[2:])


def _median_s(run: Callable[[], None]) -> float:
    run()
    times = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return median(times)


def _parameters(holder: Any, depth: int = 2) -> Iterator[Any]:
    """The parameters of all networks that an object of ours holds."""
    from torch import nn

    for value in vars(holder).values():
        if isinstance(value, nn.Module):
            yield from value.parameters()
        elif depth and type(value).__module__.startswith("slm.") and hasattr(value, "__dict__"):
            yield from _parameters(value, depth - 1)


def report(made: Measured) -> dict[str, str]:
    """What was measured, for the page of a tokenizer."""
    told = {
        "measured": f"on {made.device}, {made.threads} thread(s), {made.seconds_s:g} s of noise at once",
        "weights": made.weights,
        "speed": f"{_both(made.encode_speed, made.decode_speed, 1, ' x real time')} (median of {_RUNS} runs)",
    }
    if not made.surveyed_macs_per_s:
        return told
    operations = _both(made.encode_macs_per_s, made.decode_macs_per_s, 1e9, " G")
    return told | {
        "parameters": f"{made.parameters / 1e6:.1f} M",
        "operations": f"{operations}, in multiply-accumulates per second of audio ({COUNTED})",
        "as surveyed": f"{made.surveyed_macs_per_s / 1e9:.3g} G in all, counted as ptflops does, which takes "
        "transposed convolutions for stride times too many",
    }


def _both(encode: float, decode: float | None, unit: float, name: str) -> str:
    back = "no decoder" if decode is None else f"decode {decode / unit:.3g}{name}"
    return f"encode {encode / unit:.3g}{name}, {back}"
