"""What models and tokenizers made of the same recordings, side by side: players, waveforms, spectrograms.

A result tells of its recordings in `details`: `prompts` as the continuation benchmark writes them, or `samples`, each
with `id`, `folder` and `files` (what it is -> the name of a WAV file in the folder).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from eval.report.drawing import Waveform, draw_waveform
from eval.report.inputs import Evaluated, slug
from eval.report.spectrogram import write_spectrogram

MAX_SAMPLES = 30  # recordings of a site; the others are counted
TITLES = {"prompt": "The recording that it heard", "whole": "Prompt and continuation", "original": "Original",
          "reconstruction": "Reconstruction"}  # fmt: skip
SKIPPED = {"continuation", "codes"}  # of what `whole` has too, or nobody can hear


@dataclass(frozen=True)
class Take:
    """One file about a recording: whose, what it is, and from which second on a model made it (0: all is given)."""

    run: Evaluated
    what: str
    file: Path
    cut_s: float


@dataclass(frozen=True)
class Player:
    """A take as the page has it; `audio` and `picture` are relative URLs."""

    title: str
    who: str
    audio: str
    picture: str
    wave: Waveform


@dataclass(frozen=True)
class Sample:
    id: str
    text: str
    players: tuple[Player, ...]


def collect_takes(evaluated: Sequence[Evaluated]) -> dict[str, tuple[str, list[Take]]]:
    """Id of a recording -> its text and its takes; the recording itself once, though every run has it."""
    made: dict[str, tuple[str, list[Take]]] = {}
    for run in evaluated:
        for result in run.record["results"]:
            for entry in (*result["details"].get("prompts", ()), *result["details"].get("samples", ())):
                _, takes = made.setdefault(str(entry["id"]), (entry.get("text") or "", []))
                given = {take.what for take in takes if take.what in ("prompt", "original")}
                takes += [take for take in _takes(run, entry) if take.what not in given]
    return {key: (text, takes) for key, (text, takes) in made.items() if takes}


def _takes(run: Evaluated, entry: Mapping[str, Any]) -> Iterator[Take]:
    """The files that are there; paths that lead out of the folder of results are not followed."""
    for what, name in entry["files"].items():
        file = run.folder / entry.get("folder", "") / name
        inside = file.resolve().is_relative_to(run.folder.resolve())
        if what not in SKIPPED and inside and file.suffix.lower() == ".wav" and file.is_file():
            heard = (entry.get("prompt") or {}).get("duration_s", 0.0)
            yield Take(run, what, file, heard if what == "whole" else 0.0)


def make_samples(evaluated: Sequence[Evaluated], out: Path, limit: int = MAX_SAMPLES) -> tuple[list[Sample], int]:
    """Copies the recordings to OUT/media, with a picture of each. Also how many recordings there are in all."""
    takes = collect_takes(evaluated)
    made = []
    for number, (key, (text, found)) in enumerate(list(takes.items())[:limit]):
        players = [_player(take, f"{number:03d}-{n:02d}-{slug(take.what)}", out) for n, take in enumerate(found)]
        made.append(Sample(key, text, tuple(players)))
    return made, len(takes)


def _player(take: Take, name: str, out: Path) -> Player:
    import soundfile

    media = out / "media"
    media.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(take.file, media / f"{name}.wav")
    samples, rate_hz = soundfile.read(str(take.file), dtype="float32", always_2d=True)
    write_spectrogram(samples.mean(axis=1), rate_hz, media / f"{name}.png")
    wave = draw_waveform(take.file, take.cut_s or 1e9)  # all of one colour where nothing was added
    given = take.what in ("prompt", "original")
    title = TITLES.get(take.what, take.what.replace("_", " "))
    return Player(title, "" if given else take.run.name, quote(f"media/{name}.wav"), quote(f"media/{name}.png"), wave)
