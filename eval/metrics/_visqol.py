"""ViSQOL by visqol-python, part for part, with some of its parts made cheaper. Numbers are the same to the last bit.

Its spectrograms begin anew with each frame, and it makes them twice: of whole signals, and of each patch once more, as
it is finely aligned. Frames that were made before are looked up here: those of patches that stay where they are, and
those of a ground truth that other codebooks have been compared with. Voice activity is counted without a loop over
samples. Where numba is there, its two inner loops are those of `_visqol_kernels`.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import numpy as np
from visqol import VisqolApi, gammatone, patch_selector
from visqol.analysis_window import AnalysisWindow
from visqol.audio_utils import AudioSignal
from visqol.gammatone import GammatoneSpectrogramBuilder, Spectrogram
from visqol.patch_creator import RmsVad, VadPatchCreator

FRAMES = 1 << 16
"""As many are looked up: those of eleven minutes of a ground truth and of what came back of it, in 25 MB."""
DELEGATE = b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU."
"""TFLite says so whenever the lattice is loaded: nothing that a user could act on."""


def visqol_api(mode: str, use_lattice: bool | None) -> VisqolApi:
    """`mode` is `speech` or `audio`."""
    api = QuickVisqol()
    with without_line(DELEGATE):
        api.create(mode=mode, use_lattice_model=use_lattice)
    parts: Any = api._manager
    bank = parts.spect_builder.filter_bank
    parts.spect_builder = KnownFrames(bank.num_bands, bank.min_freq, mode == "speech")
    if mode == "speech":
        parts.patch_creator = QuickVoiceActivity(parts.patch_creator.patch_size)
    return api


@contextmanager
def without_line(line: bytes) -> Iterator[None]:
    """Leaves out one line of what is written to the standard error, even by code that has no setting against it and
    writes there itself. All else that is written meanwhile, by whomever, comes at the end."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            for other in (one for one in held if one.strip() != line):
                os.write(2, other)


class QuickVisqol(VisqolApi):
    def measure_from_arrays(self, *given: Any, **options: Any) -> Any:
        with _quick_loops():
            return super().measure_from_arrays(*given, **options)


@contextmanager
def _quick_loops() -> Iterator[None]:
    """The package's modules have them inside, and their own again after it."""
    if not gammatone.has_numba():
        yield
        return
    from eval.metrics import _visqol_kernels as ours

    kept: Any = gammatone._gammatone_spectrogram_numba, patch_selector._dp_forward_pass
    gammatone._gammatone_spectrogram_numba = ours.gammatone_spectrogram
    patch_selector._dp_forward_pass = ours.dp_forward_pass
    try:
        yield
    finally:
        gammatone._gammatone_spectrogram_numba, patch_selector._dp_forward_pass = kept


class KnownFrames(GammatoneSpectrogramBuilder):
    """Makes each frame once. It is found by its samples; those not asked for longest are forgotten."""

    def __init__(self, num_bands: int, min_freq: float, speech_mode: bool):
        super().__init__(num_bands, min_freq, speech_mode)
        self.known: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self.centers: dict[int, np.ndarray] = {}

    def build(self, signal: AudioSignal, window: AnalysisWindow) -> Spectrogram:
        """As the package's: `[bands, frames]`. ValueError where a signal is too short for one frame."""
        if len(signal.data) <= window.size:
            return super().build(signal, window)
        frames = np.lib.stride_tricks.sliding_window_view(signal.data, window.size)[:: window.hop_size]
        rate = str(signal.sample_rate).encode()
        keys = [hashlib.sha256(rate + frame.tobytes()).digest() for frame in frames]
        new = {key: frame for key, frame in zip(keys, frames, strict=True) if key not in self.known}
        found = {key: self.known[key] for key in keys if key not in new}
        if new:
            found |= zip(new, self._made(np.stack(list(new.values())), signal.sample_rate, window), strict=True)
        for key, column in found.items():
            self.known[key] = column
            self.known.move_to_end(key)
        while len(self.known) > FRAMES:
            self.known.popitem(last=False)
        return Spectrogram(np.stack([found[key] for key in keys], axis=1), self.centers[signal.sample_rate])

    def _made(self, frames: np.ndarray, sample_rate_hz: int, window: AnalysisWindow) -> np.ndarray:
        """Columns `[frames, bands]`, by the package: of frames end to end, as a signal whose frames do not overlap. One
        is added, since it takes no signal of one frame alone."""
        apart = copy(window)
        apart.overlap = 1.0
        made = super().build(AudioSignal(np.concatenate([*frames, frames[-1]]), sample_rate_hz), apart)
        self.centers[sample_rate_hz] = made.center_freq_bands
        return made.data[:, :-1].T.copy()


class QuickVoiceActivity(VadPatchCreator):
    def _get_voice_activity(self, signal: AudioSignal, start_sample: int, total_samples: int,
                            frame_len: int) -> list[float]:  # fmt: skip
        """1 for each frame of `frame_len` samples that is loud enough, or comes within three of one; else 0."""
        data = signal.data[start_sample : start_sample + total_samples] * (1 << 15)
        levels = np.trunc(np.clip(data, -(1 << 15), (1 << 15) - 1))
        frames = levels[: len(levels) // frame_len * frame_len].reshape(-1, frame_len)
        vad = RmsVad()
        vad.each_chunk_result = [float(loud) for loud in np.sqrt((frames**2).mean(axis=1)) >= vad.RMS_THRESHOLD]
        return vad.get_vad_results()
