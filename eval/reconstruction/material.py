"""The recordings to reconstruct: files by domain, cut into pieces, with the words that are known of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from eval.benchmarks.base import LeftOut
from eval.metrics.signals import DOMAINS
from eval.reconstruction.settings import Reconstruction
from slm.audio import find_audio, probe, read_blocks
from slm.corpus.remote import open_text
from slm.corpus.sources.base import readable
from slm.corpus.sources.manifest import json_rows
from slm.errors import AudioError, SilentError, UsageError


@dataclass(frozen=True)
class Piece:
    """A recording or a part of it; `file` is its path below the folder of the data, `made` what came back of it where
    that is a file too."""

    file: str
    path: Path
    domain: str
    start_s: float = 0.0
    end_s: float | None = None
    text: str = ""
    made: Path | None = None

    @property
    def id(self) -> str:
        return self.file if self.end_s is None else f"{self.file}@{self.start_s:g}-{self.end_s:g}"


def find_recordings(data: Path, settings: Reconstruction) -> tuple[list[Piece], list[LeftOut]]:
    """Every audio file below `data`, sorted, the first `max_files` of each domain that can be read; those that cannot
    are named. UsageError where nothing is left."""
    paths = find_audio(data)
    if not paths:
        raise UsageError(f"no audio in {data}: put recordings there, in folders speech, music and audio if they differ")
    known = texts_of(data)
    whole = [
        Piece(readable(path.relative_to(data)), path, domain_of(path.relative_to(data), settings.domain),
              text=known.get(path.resolve(), ""))
        for path in paths
    ]  # fmt: skip
    taken, broken = first_of_each(whole, settings)
    pieces, left_out = in_pieces(taken, settings.cut_s)
    left_out = [*broken, *left_out]
    if not pieces:
        raise UsageError(f"nothing in {data} can be reconstructed; {left_out[0].item}: {left_out[0].reason}")
    return pieces, left_out


def domain_of(path: Path, otherwise: str) -> str:
    """The first folder of its path that is named after a domain."""
    return next((part.lower() for part in path.parts[:-1] if part.lower() in DOMAINS), otherwise)


def first_of_each(pieces: Iterable[Piece], settings: Reconstruction) -> tuple[list[Piece], list[LeftOut]]:
    """The first `max_files` of each domain that can be read, and those before them that cannot. For 0 all, unread: what
    is wrong with them will show."""
    number = settings.max_files
    if not number:
        return list(pieces), []
    made, left_out = list[Piece](), list[LeftOut]()
    taken = dict.fromkeys(DOMAINS, 0)
    for piece in pieces:
        if taken[piece.domain] == number:
            continue
        if wrong := why_not(piece, settings.cut_s):
            left_out.append(LeftOut(piece.file, wrong))
            continue
        taken[piece.domain] += 1
        made.append(piece)
    return made, left_out


def why_not(piece: Piece, cut_s: float) -> str:
    """Why nothing can be made of a file (and of what came back of it, where that is one), by decoding it; "" where
    something can."""
    for path, whose in ((piece.path, "ground truth: " if piece.made else ""), (piece.made, "")):
        try:
            if path is not None:
                rate_hz = probe(path).sample_rate_hz
                num_samples = sum(len(block) for block in read_blocks(path, rate_hz))
                if num_samples < cut_s * rate_hz * (1 - 1e-9):
                    return f"{whose}shorter than {cut_s:g} s"
        except AudioError as error:
            if path == piece.made and isinstance(error, SilentError):
                continue  # silence came back: that is judged
            return f"{whose}{error}"
    return ""


def in_pieces(whole: Iterable[Piece], cut_s: float) -> tuple[list[Piece], list[LeftOut]]:
    """Each file as pieces of `cut_s`, or as it is for 0; and the files that cannot be read, or are shorter."""
    made, left_out = list[Piece](), list[LeftOut]()
    for piece in whole:
        if not cut_s:
            made.append(piece)
            continue
        try:
            duration_s = probe(piece.path).duration_s
        except AudioError as error:
            left_out.append(LeftOut(piece.file, str(error)))
            continue
        number = int(duration_s / cut_s + 1e-9)
        if not number:
            left_out.append(LeftOut(piece.file, f"shorter than {cut_s:g} s"))
        made += [replace(piece, start_s=i * cut_s, end_s=(i + 1) * cut_s) for i in range(number)]
    return made, left_out


def texts_of(data: Path) -> Mapping[Path, str]:
    """Recording -> what is said: from rows `path`, `text` of manifest.jsonl files, from LibriSpeech's *.trans.txt, and
    from NAME.txt beside NAME.wav."""
    made: dict[Path, str] = {}
    for manifest in sorted(data.rglob("manifest.jsonl")):
        with open_text(str(manifest)) as text:
            for _, row in json_rows(str(manifest), text):
                if row.get("path") and row.get("text"):
                    made[(manifest.parent / row["path"]).resolve()] = str(row["text"])
    for table in sorted(data.rglob("*.trans.txt")):
        with open_text(str(table)) as lines:
            for line in lines:
                name, _, said = line.strip().partition(" ")
                made[(table.parent / f"{name}.flac").resolve()] = said.strip()
    for path in find_audio(data):
        beside = path.with_suffix(".txt")
        if path.resolve() not in made and beside.is_file():
            with open_text(str(beside)) as text:
                made[path.resolve()] = " ".join(text.read().split())
    return made
