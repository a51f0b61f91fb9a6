"""Which files below a folder are audio, by their names: `slm.audio.find_audio` and `walk_folder`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from slm.errors import UsageError

SNDFILE_SUFFIXES = {
    *(".wav", ".wave", ".rf64", ".w64", ".flac", ".mp3", ".mp2", ".ogg", ".oga", ".opus"),
    *(".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".sph", ".nist", ".voc"),
}
FFMPEG_SUFFIXES = {".m4a", ".m4b", ".mp4", ".aac", ".ac3", ".amr", ".3gp", ".wma", ".g722", ".webm", ".mka"}
AUDIO_SUFFIXES = SNDFILE_SUFFIXES | FFMPEG_SUFFIXES


def find_audio(folder: Path | str) -> list[Path]:
    """All audio files below `folder`, in the order of `walk_folder`. UsageError also where a folder below it cannot be
    listed."""
    found = [os.path.join(parent, name) for parent, audio, _ in walk_folder(folder) for name in audio]
    if closed := next((path for path in found if path.endswith(os.sep)), None):
        raise UsageError(f"cannot list the folder {closed}: make it readable, or move it away")
    return list(map(Path, found))


def walk_folder(folder: Path | str) -> Iterator[tuple[str, list[str], Counter[str]]]:
    """(folder, sorted names of its audio files, number of its other files by suffix), for a folder and all below it,
    in sorted order.

    Audio is known by its suffix, in any case. Hidden files and folders are left out; links are followed (a folder
    once). A folder below that cannot be listed takes the place of its files: as `NAME/`, alone among the audio files of
    the folder that it lies in, so that reading it gives the reason. Raises UsageError where `folder` itself is not
    there or cannot be listed.
    """
    if not os.path.isdir(folder):
        raise UsageError(f"no such folder: {folder}")
    seen: set[str] = set()
    closed: list[str] = []

    def note(error: OSError) -> None:
        if error.filename == os.fspath(folder):
            raise UsageError(f"cannot list the folder {folder}: {error.strerror}")
        closed.append(error.filename)

    for parent, folders, names in os.walk(folder, onerror=note, followlinks=True):
        yield from _closed_folders(closed, seen)
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = sorted(name for name in names if not name.startswith("."))
        suffixes = [_suffix(name) for name in shown]
        audio = [name for name, suffix in zip(shown, suffixes, strict=True) if suffix in AUDIO_SUFFIXES]
        yield os.fspath(parent), audio, Counter(suffix for suffix in suffixes if suffix not in AUDIO_SUFFIXES)
    yield from _closed_folders(closed, seen)


def _closed_folders(closed: list[str], seen: set[str]) -> Iterator[tuple[str, list[str], Counter[str]]]:
    """Those that were met since the last call, each once."""
    for path in closed:
        if (real := os.path.realpath(path)) not in seen:
            seen.add(real)
            parent, name = os.path.split(path)
            yield parent, [os.path.join(name, "")], Counter()
    closed.clear()


def _suffix(path: Path | str) -> str:
    return os.path.splitext(path)[1].lower()
