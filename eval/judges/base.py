"""The contract of a judge, and what to do without it.

A judge hears clips (or reads texts) and gives one answer each, None where it cannot tell. `record()` goes beside every
number that it had a part in: a metric's name alone is no definition. A judge that cannot be had raises
`MissingJudgeError`, with the command that would bring it; its metrics are then absent, never zero.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from slm.types import AudioClip

T = TypeVar("T")


class MissingJudgeError(Exception):
    """A judge that is not here. The message names what to install or fetch."""


@dataclass(frozen=True)
class JudgeRecord:
    """Tool with its version, weights, sample rate (0 for judges of text), what becomes of long and short input, and
    the rest that changes an answer."""

    tool: str
    checkpoint: str
    rate_hz: int
    truncation: str
    settings: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def sentence(self) -> str:
        """For the convention of a score."""
        rate = [f"{self.rate_hz / 1000:g} kHz"] if self.rate_hz else []
        return ", ".join(part for part in (self.checkpoint, self.tool, *rate, self.truncation, self.settings) if part)


class Judge(ABC):
    """`name` says which one; loading happens in the constructor, so that what is missing shows before the work."""

    name: str

    @abstractmethod
    def record(self) -> JudgeRecord: ...


def tool(package: str) -> str:
    """A package with its version."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package


def need(module: str, judge: str, install: str) -> Any:
    """The module; MissingJudgeError with the install line where it does not import."""
    try:
        return import_module(module)
    except (ImportError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MissingJudgeError(f"{judge} needs {install} ({reason})") from None


def session_options(runtime: Any) -> Any:
    """Of onnxruntime, which does not ask OMP_NUM_THREADS by itself."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", 0))
    return options


def from_local_or_hub(load: Callable[[bool], T], checkpoint: str, judge: str, other: str = "") -> T:
    """`load(local_files_only)` from a folder or the cache of the hub, then from the hub. MissingJudgeError where there
    is neither; `other` names another way."""
    from pickle import UnpicklingError

    from safetensors import SafetensorError

    complaint = ""
    if checkpoint.startswith(("/", ".", "~")) and not Path(checkpoint).is_dir():  # no id of the hub
        raise MissingJudgeError(f"{judge} needs {checkpoint}: there is no such folder")
    for local_only in (True,) if Path(checkpoint).is_dir() else (True, False):
        try:
            return load(local_only)
        except (OSError, ValueError, ImportError, RuntimeError, EOFError, SafetensorError, UnpicklingError) as error:
            complaint = (str(error).strip() or type(error).__name__).splitlines()[0]
    fetch = "" if Path(checkpoint).is_dir() else f"hf download {checkpoint} --local-dir DIR, and give DIR"
    ways = " or ".join(way for way in (other, fetch) if way)
    raise MissingJudgeError(f"{judge} needs {checkpoint}: {ways or 'a whole checkpoint there'} ({complaint[:200]})")


def at_rate(clip: AudioClip, rate_hz: int) -> np.ndarray:
    """Float32 samples `[N]` at that rate, by the resampler of `slm.audio`; silence stays silence."""
    from slm.audio import DecodedAudio, read_audio

    samples = np.ascontiguousarray(clip.samples, np.float32)
    if clip.sample_rate_hz == rate_hz or not len(samples):
        return samples
    if not samples.any():
        return np.zeros(round(len(samples) * rate_hz / clip.sample_rate_hz), np.float32)
    return read_audio(DecodedAudio(lambda: (block for block in [(clip.sample_rate_hz, samples)])), rate_hz)


def in_batches(items: Sequence[T], size: int, length: Callable[[T], int]) -> list[list[int]]:
    """Places of the items, in batches of about equal length: little padding, and the same batches for any order."""
    order = sorted(range(len(items)), key=lambda i: (length(items[i]), i))
    return [order[i : i + size] for i in range(0, len(order), size)]


def in_equal_batches(items: Sequence[Any], size: int) -> list[list[int]]:
    """Places of the items, in batches of exactly equal length: no padding, so that a model which would hear padding
    hears each as it is alone."""
    groups: dict[int, list[int]] = {}
    for place, item in enumerate(items):
        groups.setdefault(len(item), []).append(place)
    return [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]
