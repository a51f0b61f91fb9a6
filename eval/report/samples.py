"""What models and tokenizers made of the same recordings, side by side: players, waveforms, spectrograms.

A result tells of its recordings in `details`: `prompts` as the continuation benchmark writes them, or `samples`, each
with `id`, `folder` and `files` (what it is -> the name of a WAV file in the folder). What judges said of a continuation
is read from `judged` of the generation benchmark.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from eval.report.drawing import Waveform, draw_waveform, file_inside, is_recording
from eval.report.inputs import Evaluated, slug
from eval.report.spectrogram import write_spectrogram
from slm.files import copy_file

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
    heard: str | None = None
    """What a recognizer understood: of the prompt, or of what the model added to it. None: nobody listened."""
    ratings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Player:
    """A take as the page has it; `audio` and `picture` are relative URLs."""

    title: str
    who: str
    audio: str
    picture: str
    wave: Waveform
    heard: str | None = None
    ratings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sample:
    id: str
    text: str
    players: tuple[Player, ...]


def collect_takes(evaluated: Sequence[Evaluated]) -> dict[str, tuple[str, list[Take]]]:
    """Id of a recording -> its text and its takes; the recording itself once, though every run has it."""
    made: dict[str, tuple[str, list[Take]]] = {}
    for run in evaluated:
        notes = judged_notes(run)
        for result in run.record["results"]:
            for entry in (*result["details"].get("prompts", ()), *result["details"].get("samples", ())):
                _, takes = made.setdefault(str(entry["id"]), (entry.get("text") or "", []))
                given = {take.what for take in takes if take.what in ("prompt", "original")}
                takes += [noted(take, notes.get(str(entry["id"]), {})) for take in _takes(run, entry)
                          if take.what not in given and is_recording(take.file)]  # fmt: skip
    return {key: (text, takes) for key, (text, takes) in made.items() if takes}


def judged_notes(run: Evaluated) -> dict[str, Mapping[str, Any]]:
    """Id of a prompt -> what judges said of it and of its continuation, as the generation benchmark has it."""
    return {str(note["id"]): note for r in run.record["results"] for note in r["details"].get("judged", ())}


def noted(take: Take, note: Mapping[str, Any]) -> Take:
    """With the transcript of the part that it is about, and the ratings of a continuation."""
    texts = note.get("texts") or {}
    if take.what == "prompt":
        return replace(take, heard=texts.get("prompt"))
    return replace(take, heard=texts.get("continuation"), ratings=ratings_of(note)) if take.what == "whole" else take


def ratings_of(note: Mapping[str, Any]) -> tuple[str, ...]:
    """Opinions, each with its name: `distillmos 3.42`. The perplexity is that of the transcript alone."""
    found: dict[str, float] = {}
    for name, value in note.items():
        found |= value if isinstance(value, Mapping) and name != "texts" else {}
    made = [f"{name.replace('_', ' ')} {value:.2f}" for name, value in found.items() if isinstance(value, int | float)]
    if (rating := note.get("text_lm_rating")) is not None:
        made.append(f"makes sense {rating:.2f} of 5, says the text model")
    if (nats := note.get("nll_nats_per_token")) is not None:
        made.append(f"perplexity {format_plain(math.exp(min(nats, 700.0)))}")
    return tuple(made)


def format_plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _takes(run: Evaluated, entry: Mapping[str, Any]) -> Iterator[Take]:
    """The files to hear, there or not; paths that lead out of the folder of results are not followed."""
    for what, name in entry["files"].items():
        file = file_inside(run.folder, entry.get("folder") or "", name)
        if what not in SKIPPED and file and file.suffix.lower() == ".wav":
            heard = (entry.get("prompt") or {}).get("duration_s", 0.0)
            yield Take(run, what, file, heard if what == "whole" else 0.0)


def count_missing(evaluated: Sequence[Evaluated]) -> int:
    """Recordings that results tell of and that are not there, or cannot be read."""
    files = {
        take.file for run in evaluated for result in run.record["results"]
        for entry in (*result["details"].get("prompts", ()), *result["details"].get("samples", ()))
        for take in _takes(run, entry)
    }  # fmt: skip
    return sum(not is_recording(file) for file in files)


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
    copy_file(take.file, media / f"{name}.wav")
    samples, rate_hz = soundfile.read(str(take.file), dtype="float32", always_2d=True)
    write_spectrogram(samples.mean(axis=1), rate_hz, media / f"{name}.png")
    wave = draw_waveform(take.file, take.cut_s or 1e9)  # all of one colour where nothing was added
    given = take.what in ("prompt", "original")
    title = TITLES.get(take.what, take.what.replace("_", " "))
    return Player(title, "" if given else take.run.name, quote(f"media/{name}.wav"), quote(f"media/{name}.png"), wave,
                  take.heard, take.ratings)  # fmt: skip
