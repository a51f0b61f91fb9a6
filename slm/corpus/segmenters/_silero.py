"""Silero VAD: the probability of speech in each 32 ms, and from it where speech is.

The model is read from the installed package (https://github.com/snakers4/silero-vad, MIT) and run by onnxruntime: of
the package's code, which wants torch, nothing is imported. `speech_regions` follows its `get_speech_timestamps` (6.2,
without a greatest length), and is tested against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from slm.errors import UsageError

RATE_HZ = 16_000
FRAME_SAMPLES = 512
_CONTEXT_SAMPLES = 64
_FRAMES_A_CALL = 128
_HYSTERESIS, _LOWEST = 0.15, 0.01  # speech goes on until the probability is so much below the threshold

Region = tuple[int, int]
"""First and last (excluded) sample at 16 kHz."""


def model_path() -> Path:
    """Where the installed package has the model that takes many frames a call; UsageError where there is none."""
    found = find_spec("silero_vad")
    for folder in (found.submodule_search_locations or ()) if found and find_spec("onnxruntime") else ():
        path = Path(folder, "data", "silero_vad_16k_sequence.onnx")
        if path.is_file():
            return path
    raise UsageError("--segmentation.kind vad needs Silero VAD: pip install 'slm-toolkit[vad]'")


def model_version() -> str:
    try:
        return f"silero-vad {version('silero-vad')}"
    except PackageNotFoundError:  # a copy on the path
        return "silero-vad"


@cache
def _session() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1  # a process a core is there already
    return onnxruntime.InferenceSession(str(model_path()), options, providers=["CPUExecutionProvider"])


def speech_probabilities(blocks: Iterable[np.ndarray]) -> tuple[np.ndarray, int]:
    """Float32 `[frames]` (the last frame is padded with zeros) and the number of samples, of 16 kHz audio in blocks."""
    session = _session()
    hidden = cell = np.zeros((1, 1, 128), np.float32)
    context = np.zeros(_CONTEXT_SAMPLES, np.float32)
    found, num_samples = [np.zeros(0, np.float32)], 0
    for samples, num_new in _whole_frames(blocks):
        frames = samples.reshape(-1, FRAME_SAMPLES)
        before = np.vstack([context, frames[:-1, -_CONTEXT_SAMPLES:]])
        context = frames[-1, -_CONTEXT_SAMPLES:]
        inputs = {"input": np.hstack([before, frames]), "h": hidden, "c": cell}
        probabilities, hidden, cell = session.run(["speech_probs", "hn", "cn"], inputs)
        found.append(probabilities.reshape(-1))
        num_samples += num_new
    return np.concatenate(found), num_samples


def _whole_frames(blocks: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, int]]:
    """The same samples in blocks of whole frames, the last padded with zeros, and how many are not padding."""
    size = FRAME_SAMPLES * _FRAMES_A_CALL
    rest = np.zeros(0, np.float32)
    for block in blocks:
        rest = np.concatenate([rest, block])
        whole = len(rest) // size * size
        for start in range(0, whole, size):
            yield rest[start : start + size], size
        rest = rest[whole:]
    if len(rest):
        yield np.pad(rest, (0, -len(rest) % FRAME_SAMPLES)), len(rest)


def speech_regions(
    probabilities: np.ndarray,
    num_samples: int,
    threshold: float,
    min_speech_s: float,
    min_silence_s: float,
    pad_s: float,
) -> list[Region]:
    """Where there is speech: from a frame of at least `threshold` to the first of a silence of `min_silence_s`, longer
    than `min_speech_s`, and `pad_s` more on both sides, or half the silence where that is less."""
    min_speech, min_silence = min_speech_s * RATE_HZ, min_silence_s * RATE_HZ
    regions: list[Region] = []
    start = silence = None
    for frame, probability in enumerate(probabilities.tolist()):
        now = frame * FRAME_SAMPLES
        if probability >= threshold:
            silence = None
            start = now if start is None else start
        elif start is not None and probability < max(threshold - _HYSTERESIS, _LOWEST):
            silence = now if silence is None else silence
            if now - silence >= min_silence:
                if silence - start > min_speech:
                    regions.append((start, silence))
                start = silence = None
    if start is not None and num_samples - start > min_speech:
        regions.append((start, num_samples))
    return _padded(regions, num_samples, int(pad_s * RATE_HZ))


def _padded(regions: list[Region], num_samples: int, pad: int) -> list[Region]:
    ends = [0, *(time for region in regions for time in region), num_samples]
    silences = [ends[i + 1] - ends[i] for i in range(0, len(ends), 2)]
    # Half of an odd silence leaves one sample of it between.
    inner = [silence // 2 if silence < 2 * pad else pad for silence in silences[1:-1]]
    before, after = [min(pad, silences[0]), *inner], [*inner, min(pad, silences[-1])]
    return [(start - b, end + a) for (start, end), b, a in zip(regions, before, after, strict=False)]
