"""Metrics of speech by their reference packages: PESQ, STOI, ViSQOL (of any sound), and pitch by WORLD."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np

from eval.metrics.base import METRICS
from eval.metrics.signals import SPEECH, SignalMetric, SignalPair, UndefinedError, at_rate, need_sound, release

PITCH_HZ = (60.0, 600.0)
PITCH_STEP_MS = 5.0
TRACKS = 1024
"""As many are looked up: in 25 MB where recordings last 15 s."""


@METRICS.register("pesq")
class PESQ(SignalMetric):
    name = "pesq"
    unit = "MOS-LQO"
    higher_is_better = True
    domains = (SPEECH,)
    package = ("pesq", "pesq")
    about = "ITU-T P.862.2, wide band: what listeners would say of the telephone line, 1.04 to 4.64."

    def convention(self, domain: str, sample_rate_hz: int) -> str:
        return f"{release('pesq')}, wb, 16000 Hz"

    def measure(self, pair: SignalPair) -> tuple[float, float]:
        import pesq

        need_sound(pair)
        reference, made = at_rate(pair, 16_000)
        if not made.any():
            raise UndefinedError("the output is silent")
        try:
            return float(pesq.pesq(16_000, reference, made, "wb")), 1.0
        except pesq.NoUtterancesError:
            raise UndefinedError("no utterance was found") from None
        except pesq.BufferTooShortError:
            raise UndefinedError("shorter than a quarter of a second") from None
        except ValueError:  # levels that its float32 cannot hold
            raise UndefinedError("too faint to be judged") from None


@METRICS.register("stoi")
class STOI(SignalMetric):
    name = "stoi"
    unit = "of 1"
    higher_is_better = True
    domains = (SPEECH,)
    package = ("pystoi", "pystoi")
    about = "Short-time objective intelligibility: how alike the envelopes of 15 bands are, in pieces of 384 ms."
    extended = False

    def convention(self, domain: str, sample_rate_hz: int) -> str:
        return f"{release('pystoi')}, from {sample_rate_hz} Hz, {'extended, ' if self.extended else ''}in 10 kHz"

    def measure(self, pair: SignalPair) -> tuple[float, float]:
        from eval.metrics._stoi import estoi_of, stoi_of

        need_sound(pair)
        if not pair.made.any():
            return 0.0, 1.0  # no envelope is alike
        found = _segments(pair)
        with np.errstate(all="ignore"):
            value = float("nan") if found is None else (estoi_of if self.extended else stoi_of)(*found)
        if not np.isfinite(value):
            raise UndefinedError("less than 0.4 s of it is above silence")
        return value, 1.0


@lru_cache(maxsize=2)
def _segments(pair: SignalPair) -> tuple[np.ndarray, np.ndarray] | None:
    """Once for STOI and its extension."""
    from eval.metrics._stoi import segments

    return segments(pair.reference, pair.made, pair.sample_rate_hz)


@METRICS.register("estoi")
class ESTOI(STOI):
    name = "estoi"
    about = "STOI of whole spectra, not band by band: also for what varies over time."
    extended = True


@METRICS.register("visqol")
class ViSQOL(SignalMetric):
    name = "visqol"
    unit = "MOS-LQO"
    higher_is_better = True
    package = ("visqol-python[lattice,accel]", "visqol")
    about = "Google's ViSQOL v3: the similarity of gammatone spectra as an opinion from 1 to 5."

    def convention(self, domain: str, sample_rate_hz: int) -> str:
        if domain != SPEECH:
            return f"{release('visqol-python')}, audio mode, 48000 Hz"
        mapping = "lattice" if _has_lattice() else "polynomial, which gives 1 to 2 more than the lattice"
        return f"{release('visqol-python')}, speech mode ({mapping}), 16000 Hz"

    def missing(self) -> str:
        return super().missing() or ("" if find_spec("libsvm") else "pip install libsvm-official")

    def measure(self, pair: SignalPair) -> tuple[float, float]:
        need_sound(pair)
        if not pair.made.any():
            raise UndefinedError("the output is silent")
        mode = "speech" if pair.domain == SPEECH else "audio"
        rate_hz = 16_000 if mode == "speech" else 48_000
        reference, made = (x.astype(np.float64) for x in at_rate(pair, rate_hz))
        try:
            with contextlib.redirect_stdout(sys.stderr):
                value = float(_visqol(mode).measure_from_arrays(reference, made, rate_hz).moslqo)
        except (ValueError, RuntimeError, IndexError) as error:  # a signal without a patch above silence
            raise UndefinedError(f"visqol: {' '.join(str(error).split())[:80]}") from None
        if not np.isfinite(value):
            raise UndefinedError("visqol gives no number")
        return value, 1.0


@lru_cache(maxsize=2)
def _visqol(mode: str) -> Any:
    from eval.metrics._visqol import visqol_api

    return visqol_api(mode, _has_lattice() if mode == "speech" else None)


def _has_lattice() -> bool:
    return find_spec("ai_edge_litert") is not None


class _Pitch(SignalMetric):
    domains = (SPEECH,)
    package = ("pyworld", "pyworld")

    def convention(self, domain: str, sample_rate_hz: int) -> str:
        low, high = PITCH_HZ
        return (
            f"{release('pyworld')}, DIO and StoneMask, {low:g} to {high:g} Hz, every {PITCH_STEP_MS:g} ms, "
            f"{sample_rate_hz} Hz"
        )


@METRICS.register("f0_error")
class PitchError(_Pitch):
    name = "f0_error"
    unit = "cents"
    higher_is_better = False
    about = "How far pitch is off, where both are voiced. A semitone is 100 cents, an octave error 1200."

    def measure(self, pair: SignalPair) -> tuple[float, float]:
        """The sum over frames that are voiced in both, and how many they are."""
        first, second = pitch_tracks(pair)
        both = (first > 0) & (second > 0)
        if not both.any():
            raise UndefinedError("no frame is voiced in both")
        return float(np.abs(1200 * np.log2(second[both] / first[both])).sum()), float(both.sum())


@METRICS.register("voicing_error")
class VoicingError(_Pitch):
    name = "voicing_error"
    unit = "fraction"
    higher_is_better = False
    about = "Share of frames that are voiced in one of both only."

    def measure(self, pair: SignalPair) -> tuple[float, float]:
        first, second = pitch_tracks(pair)
        return float(((first > 0) != (second > 0)).sum()), float(len(first))


@lru_cache(maxsize=2)
def pitch_tracks(pair: SignalPair) -> tuple[np.ndarray, np.ndarray]:
    """Hz every 5 ms, 0 where unvoiced, of both."""
    return _track_of_truth(pair.reference, pair.sample_rate_hz), _pitch(pair.made, pair.sample_rate_hz)


_known_tracks: OrderedDict[bytes, np.ndarray] = OrderedDict()


def _track_of_truth(samples: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Looked up by the samples: a ground truth comes again with other codebooks, once all others have come."""
    key = hashlib.sha256(str(sample_rate_hz).encode() + samples.astype(np.float32).tobytes()).digest()
    found = _known_tracks.pop(key, None)
    _known_tracks[key] = _pitch(samples, sample_rate_hz) if found is None else found
    if len(_known_tracks) > TRACKS:
        _known_tracks.popitem(last=False)
    return _known_tracks[key]


def _pitch(samples: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    signal = samples.astype(np.float64)
    with _with_pkg_resources():
        import pyworld
    low, high = PITCH_HZ
    coarse, times = pyworld.dio(signal, sample_rate_hz, f0_floor=low, f0_ceil=high, frame_period=PITCH_STEP_MS)
    fine = pyworld.stonemask(signal, coarse, times, sample_rate_hz)
    return np.where((fine >= low) & (fine <= 2 * high), fine, 0.0)


@contextlib.contextmanager
def _with_pkg_resources() -> Iterator[None]:
    """pyworld 0.3.5 asks setuptools for its own version, in a way that setuptools no longer has."""
    if find_spec("pkg_resources") or "pyworld" in sys.modules:
        yield
        return
    sys.modules["pkg_resources"] = SimpleNamespace(  # type: ignore[assignment]
        get_distribution=lambda name: SimpleNamespace(version="")
    )
    try:
        yield
    finally:
        del sys.modules["pkg_resources"]
