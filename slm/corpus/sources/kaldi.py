"""A Kaldi or ESPnet data directory. Format: https://kaldi-asr.org/doc/data_prep.html"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import ClassVar

from slm.corpus.containers import channel_member
from slm.corpus.remote import FIRST_ROWS, find_root, has_file, is_file, is_remote, open_text
from slm.corpus.sources.base import SOURCES, Source, SourceClip
from slm.errors import UsageError

_IN_ARCHIVE = re.compile(r"\.(ark|scp):\d+$")
_BY_UTTERANCE = {"text": "text", "utt2spk": "speaker", "utt2lang": "language"}


@SOURCES.register("kaldi")
class KaldiSource(Source):
    """`wav.scp` and, where they are there, `segments`, `text`, `utt2spk`, `spk2gender` and `utt2lang`.

    A clip is an utterance. Commands in `wav.scp` are never run: `flac -c -d -s FILE |`, `sph2pipe -f wav -c 1 FILE |`
    and `cat FILE |` are taken for the file (and channel) they read, others are refused. Relative paths are below
    `root`; without one, below the nearest folder at or above the data directory where the first file is (the recipe's,
    as ESPnet has it), else below the working directory, as in Kaldi itself. Files by utterance must be sorted as Kaldi
    demands: they are read side by side.
    """

    about: ClassVar[str] = "a Kaldi data directory (wav.scp)"

    def __init__(self, location: str, root: str | None = None):
        super().__init__(os.path.dirname(location) if os.path.basename(location) == "wav.scp" else location)
        self._given_root = root

    @classmethod
    def recognizes(cls, location: str) -> bool:
        if os.path.basename(location) == "wav.scp":
            return is_file(location)
        return has_file(location, "wav.scp")

    @cached_property
    def base(self) -> str:
        if self._given_root is not None:
            return self._given_root
        paths = (path for _, path, _ in islice(self._files(), FIRST_ROWS))
        first = next((path for path in paths if not is_remote(path) and not os.path.isabs(path)), None)
        return self.location if first is None else find_root(first, self.location)

    def clips(self) -> Iterator[SourceClip]:
        tables = {column: _Sorted(self._file(name)) for name, column in _BY_UTTERANCE.items() if self._has(name)}
        genders = dict(_lines(self._file("spk2gender"))) if self._has("spk2gender") else {}
        for id, path, member, start_s, end_s in self._segments() if self._has("segments") else self._recordings():
            metadata = {column: table.get(id) for column, table in tables.items()}
            if genders:
                metadata["gender"] = genders.get(metadata.get("speaker") or "")
            yield SourceClip(id, path, start_s, end_s, metadata, member)
        for table in tables.values():
            table.check_rest()

    def _file(self, name: str) -> str:
        return os.path.join(self.location, name)

    def _has(self, name: str) -> bool:
        return is_file(self._file(name))

    def _files(self) -> Iterator[tuple[str, str, int | None]]:
        """Each recording: id, path as it is given, channel."""
        scp = self._file("wav.scp")
        for line, (id, rest) in enumerate(_lines(scp), start=1):
            yield id, *_file_of(rest, f"{scp}, line {line}")

    def _recordings(self) -> Iterator[tuple[str, str, str, float, float | None]]:
        """Each recording as a clip: id, path, member, start, end."""
        for id, path, channel in self._files():
            where = path if is_remote(path) else os.path.join(self.base, path)
            yield id, where, "" if channel is None else channel_member(channel), 0.0, None

    def _segments(self) -> Iterator[tuple[str, str, str, float, float | None]]:
        """The same of each segment; end -1 means the end of the recording. Long recordings are few: they are held."""
        recordings = {id: (path, member) for id, path, member, _, _ in self._recordings()}
        segments = self._file("segments")
        for line, (id, rest) in enumerate(_lines(segments), start=1):
            where = f"{segments}, line {line}"
            try:
                recording, start, end = rest.split()
                start_s, end_s = float(start), float(end)
            except ValueError:
                raise UsageError(f"{where}: {rest!r} is not a recording, its start and its end in seconds") from None
            if recording not in recordings:
                raise UsageError(f"{where}: the recording {recording!r} is not in wav.scp")
            yield id, *recordings[recording], start_s, None if end_s == -1 else end_s


def _lines(path: str) -> Iterator[tuple[str, str]]:
    """The first word of each line and the rest."""
    with open_text(path) as text:
        for number, line in enumerate(text, start=1):
            key, *rest = line.strip().split(maxsplit=1)[:2] or [""]
            if not key:
                raise UsageError(f"{path}, line {number}: blank; remove it (utils/fix_data_dir.sh does)")
            yield key, rest[0] if rest else ""


class _Sorted:
    """A file by utterance, read only as far as it was asked for: keys rise, in the order of their bytes."""

    def __init__(self, path: str):
        self.path, self._rows = path, _lines(path)
        self._key, self._value, self._asked = "", "", ""

    def get(self, key: str) -> str | None:
        self._check(self._asked, key, "the utterances")
        self._asked = key
        while self._key.encode() < key.encode():
            self._take(*next(self._rows, (key + "\U0010ffff", "")))
        return self._value if self._key == key else None

    def check_rest(self) -> None:
        """UsageError where what was not asked for is not in order: it may belong to an utterance."""
        for row in self._rows:
            self._take(*row)

    def _take(self, key: str, value: str) -> None:
        self._check(self._key, key, self.path)
        self._key, self._value = key, value

    def _check(self, before: str, key: str, what: str) -> None:
        if key.encode() <= before.encode():
            raise UsageError(
                f"{what} of {os.path.dirname(self.path)} are not in sorted order without repeats ({key!r} after "
                f"{before!r}): run utils/fix_data_dir.sh, or sort all its files with LC_ALL=C sort -u"
            )


def _file_of(entry: str, where: str) -> tuple[str, int | None]:
    """The file that an entry of `wav.scp` reads, and the channel of it, if one is taken."""
    if entry.endswith("|"):
        return _file_of_command(entry[:-1], where)
    if not entry or _IN_ARCHIVE.search(entry):
        what = f"{entry!r} lies in a Kaldi archive" if entry else "no file"
        raise UsageError(f"{where}: {what}; {_EXPORT}")
    return entry, None


_EXPORT = (
    "export the audio to files first, with ESPnet's scripts/audio/format_wav_scp.sh --audio_format flac or Kaldi's "
    "wav-copy, and give that wav.scp"
)


def _file_of_command(command: str, where: str) -> tuple[str, int | None]:
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    program, *arguments = words or [""]
    if not any(set(word) & set("|&;<>$`*?") for word in words):
        known = {"flac": _flac, "sph2pipe": _sph2pipe, "cat": _cat}.get(os.path.basename(program))
        if known and (read := known(arguments)):
            return read
    raise UsageError(f"{where}: the command `{command.strip()} |` is not run; {_EXPORT}")


def _flac(arguments: list[str]) -> tuple[str, int | None] | None:
    """`flac -c -d -s FILE`: to standard output, all of it."""
    long_forms = {"--stdout": "-c", "--decode": "-d", "--silent": "-s"}
    flags = [word for word in arguments if word.startswith("-")]
    letters = {letter for word in flags for letter in long_forms.get(word, word)[1:]}
    files = [word for word in arguments if word not in flags]
    return (files[0], None) if {"c", "d"} <= letters <= {"c", "d", "s"} and len(files) == 1 else None


def _sph2pipe(arguments: list[str]) -> tuple[str, int | None] | None:
    """`sph2pipe -f wav -p -c 1 FILE`: channels count from 1; `-p` writes 16-bit samples, as decoding does anyhow."""
    channel = None
    rest = list(arguments)
    while len(rest) > 1:
        option = rest.pop(0)
        if option == "-c" and rest[0] in ("1", "2"):
            channel = int(rest.pop(0)) - 1
        elif not (option == "-p" or (option == "-f" and rest.pop(0) in ("wav", "rif"))):
            return None
    return (rest[0], channel) if rest and not rest[0].startswith("-") else None


def _cat(arguments: list[str]) -> tuple[str, int | None] | None:
    return (arguments[0], None) if len(arguments) == 1 and not arguments[0].startswith("-") else None
