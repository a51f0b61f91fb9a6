"""Word lists: --lexicon, a table of words; --transcripts, how often each is in the training text."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from slm.corpus.remote import open_text
from slm.errors import UsageError

COLUMNS = {
    "word": ("word", "orthography", "wordform"),
    "frequency": ("frequency", "freq", "count"),
    "pronunciation": ("pronunciation", "phones", "phonemes", "ipa", "phon"),
}
_MOST_PIECES = 1 << 20  # held, where a language has no blanks and every line is another
_HEADER = "its first line must name the columns: word, and if you have them frequency and pronunciation"
ELIDING = ("ca", "fr", "it")
# Vowel signs, tone marks and decomposed accents are no letters to `re`, nor are the joiners of Persian and Hindi.
_MARKS = "".join(c for c in map(chr, range(0x300, 0x20000)) if unicodedata.category(c)[0] == "M") + "\u200c\u200d"
_LETTERS = rf"[^\W\d_](?:[^\W\d_]|[{_MARKS}])*"
WORD = re.compile(rf"{_LETTERS}(?:['’-]{_LETTERS})*")


@dataclass(frozen=True)
class Entry:
    """A word as the lexicon has it. What it does not say is None (its frequency) or empty (its pronunciation). `others`
    are pronunciations by which nothing is said, but that are those of a word."""

    word: str
    frequency: float | None = None
    pronunciation: str = ""
    others: tuple[str, ...] = ()


def key(word: str) -> str:
    """By which words of lexicon and transcripts are the same: capitals, apostrophes and Unicode's forms aside."""
    return unicodedata.normalize("NFC", word).replace("’", "'").lower()


def words_of(text: str, language: str = "") -> list[str]:
    """The words of a transcript, in small letters. What has digits in it is none, such as LibriSpeech's ids.

    Where a language joins words by an apostrophe (l'été), the last one is the word."""
    found = [key(w) for piece in text.split() if not any(map(str.isdigit, piece)) for w in WORD.findall(piece)]
    return [w.rpartition("'")[2] for w in found] if language in ELIDING else found


def read_lexicon(path: str) -> list[Entry]:
    """A .csv or .tsv with a header. A word that stands twice keeps its first row, with the frequencies added and the
    other pronunciations noted.

    UsageError, with its line, for a row that is not whole or a frequency that is no count.
    """
    if not Path(path).is_file():
        raise UsageError(f"--lexicon: no such file: {path}")
    entries: dict[str, Entry] = {}
    for line, word, frequency, pronunciation in _rows(path):
        entry = Entry(word, _count(path, line, frequency), pronunciation)
        first = entries.setdefault(key(word), entry)
        if first is not entry:
            known = [n for n in (first.frequency, entry.frequency) if n is not None]
            others = (*first.others, *filter(None, [pronunciation]))
            entries[key(word)] = replace(first, frequency=sum(known) if known else None, others=others)
    if not entries:
        raise UsageError(f"--lexicon: {path} has no words; {_HEADER}")
    return list(entries.values())


def _rows(path: str) -> Iterator[tuple[int, str, str, str]]:
    """Line, word, frequency, pronunciation; empty where there is none."""
    with open_text(path) as file:
        try:
            head = file.readline()
            file.seek(0)
            # A quote within a table of tabs is a letter: some ways to write IPA use it.
            table = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if "\t" in head else csv.reader(file)
            names = [name.strip().lower() for name in next(table, [])]
            places = {c: next((names.index(n) for n in known if n in names), None) for c, known in COLUMNS.items()}
            if places["word"] is None:
                raise UsageError(f"--lexicon: {path} has no column word; {_HEADER}")
            for row in table:
                if not any(map(str.strip, row)):
                    continue
                if len(row) != len(names):
                    raise UsageError(f"{path}, line {table.line_num}: {len(row)} values for {len(names)} columns")
                word, frequency, pronunciation = ("" if i is None else row[i].strip() for i in places.values())
                if not word:
                    raise UsageError(f"{path}, line {table.line_num}: the word is empty; mend the row")
                yield table.line_num, word, frequency, pronunciation
        except csv.Error as error:
            raise UsageError(f"--lexicon: {path} cannot be read: {error}") from error


def _count(path: str, line: int, frequency: str) -> float | None:
    if not frequency:
        return None
    try:
        value = float(frequency)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UsageError(f"{path}, line {line}: frequency is {frequency!r}, not a count; mend the row")
    return value


def count_words(location: str, language: str = "") -> Counter[str]:
    """How often each word is in the transcripts: of a text file, of all .txt in a folder, of a tokenized corpus, or of
    whatever tokenize_corpus.py reads (a manifest, LibriSpeech, ...), where it has a column `text`.

    UsageError where there is nothing to read, or no word in it.
    """
    counts, pieces = Counter[str](), Counter[str]()
    for text in _texts(location):
        pieces.update(text.split())  # of which there are few different ones, and only they are looked into
        if len(pieces) > _MOST_PIECES:
            _count_pieces(pieces, language, counts)
    _count_pieces(pieces, language, counts)
    if not counts:
        raise UsageError(
            f"--transcripts: there is no word in {location}; give a text file, a folder of .txt files, or a corpus or "
            "manifest with a column text"
        )
    return counts


def _count_pieces(pieces: Counter[str], language: str, counts: Counter[str]) -> None:
    """Add the words of these pieces of text, of each as many as there are, and forget them."""
    for piece, number in pieces.items():
        for word in words_of(piece, language):
            counts[word] += number
    pieces.clear()


def _texts(location: str) -> Iterable[str]:
    path = Path(location)
    if not path.exists():
        raise UsageError(f"--transcripts: no such file or folder: {location}")
    if path.suffix == ".txt":
        return _lines([path])
    if path.is_dir() and any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
        return _column(path)
    if path.is_dir() and (found := sorted(path.rglob("*.txt"))):
        return _lines(found)
    from slm.corpus.sources import open_source

    clips = open_source(location).clips()
    return (text for clip in clips if isinstance(text := clip.metadata.get("text"), str))


def _lines(paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        try:
            with open(path, encoding="utf-8-sig") as file:
                yield from file
        except UnicodeDecodeError as error:
            raise UsageError(f"--transcripts: {path} is not UTF-8 text ({error})") from error


def _column(path: Path) -> Iterator[str]:
    """Column `text` of a data set on disk, all of its splits."""
    from datasets import DatasetDict, load_from_disk

    loaded = load_from_disk(str(path))
    for split in loaded.values() if isinstance(loaded, DatasetDict) else [loaded]:
        if "text" not in split.column_names:
            raise UsageError(
                f"--transcripts: {path} has no column text (it has {', '.join(split.column_names)}): tokenize the "
                "corpus from a source that has transcripts, or give these"
            )
        yield from (text for text in split.select_columns("text")["text"] if text)
