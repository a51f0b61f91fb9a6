"""What is asked for when a model is to go on, checked before work starts: each wrong value is a UsageError that says
what is right."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from slm.errors import UsageError
from slm.generation.generator import Speed
from slm.generation.sampling import Sampling
from slm.tokenizers.base import Tokenizer
from slm.types import AudioClip, Codes


def whole_number(name: str, value: Any, least: int = 0) -> int:
    """`value`, which must be an integer (numpy's too, no bool) of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise UsageError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise UsageError(f"{name} must be {least} or more, not {value}")
    return int(value)


def length_s(seconds: Any) -> float:
    """`seconds`, which must be a finite number above 0 (numpy's too, no bool)."""
    if isinstance(seconds, bool) or not isinstance(seconds, float | int | np.number):
        raise UsageError(f"seconds must be a number, not {seconds!r}")
    if not (seconds > 0 and math.isfinite(seconds)):
        raise UsageError(f"seconds must be a finite number above 0, not {seconds}")
    return float(seconds)


def seeds_of(given: Any, count: int) -> list[int]:
    """One for each of `count` documents: those given, or a number to which a document's place is added."""
    if isinstance(given, Integral) and not isinstance(given, bool):
        return [int(given) + i for i in range(count)]
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise UsageError(f"seeds must be a whole number, or one for each prompt, not {given!r}")
    seeds = list(given)
    if len(seeds) != count:
        raise UsageError(f"there are {count} prompts, but {len(seeds)} seeds: give one for each, or one number")
    if wrong := [seed for seed in seeds if isinstance(seed, bool) or not isinstance(seed, Integral)]:
        raise UsageError(f"seeds must be whole numbers, not {wrong[0]!r}")
    return [int(seed) for seed in seeds]


def check_clips(clips: Sequence[AudioClip], tokenizer: Tokenizer) -> None:
    """UsageError for anything but a list of clips that the tokenizer takes: float32 audio at its rate, not empty."""
    for clip in _several(clips, AudioClip, "clips"):
        try:
            tokenizer.check_clip(clip)
        except ValueError as error:
            raise UsageError(str(error)) from None


def check_codes(codes: Sequence[Codes]) -> None:
    """UsageError for anything but a list of `Codes`. Whose codes they are, the model checks."""
    for one in _several(codes, Codes, "codes"):
        if not isinstance(one, Codes):
            raise UsageError(f"codes must be Codes, as tokenizer.encode gives them, not {_told(one)}")


def check_asked(seconds: Any, sampling: Any, speed: Any) -> None:
    """What can be told before any audio is read. `sampling` and `speed` may be None."""
    length_s(seconds)
    if not isinstance(sampling, Sampling | None):
        raise UsageError(f"sampling must be a Sampling, as Sampling(temperature=0.8, top_p=0.95), not {sampling!r}")
    if not isinstance(speed, Speed | None):
        raise UsageError(f"speed must be a Speed, as Speed(batch_size=8), not {speed!r}")


def _several(given: Any, kind: type, name: str) -> Sequence[Any]:
    """A list or tuple: others have no length, or would be taken apart."""
    if isinstance(given, str | kind) or not isinstance(given, Sequence):
        raise UsageError(f"{name} must be a list of {kind.__name__}, not {_told(given)}")
    return given


def _told(value: Any) -> str:
    """Short: arrays are long."""
    return repr(value) if isinstance(value, str | int | float | None) else type(value).__name__
