"""The words that the lexical task may ask for: how often they are trained on, how they are said, and all that is no
pseudo-word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from eval.minimal_pairs.ipa import Pronunciation, bare, is_vowel, parse
from eval.minimal_pairs.lexicon import Entry, key
from eval.minimal_pairs.pseudowords import Chains
from eval.minimal_pairs.voice import Voice

SHORTEST, LONGEST = 4, 15  # phonemes of a word that is asked for
INVENTORY_WORDS = 1_000  # of the lexicon, from which the first voice's phonemes are known


@dataclass(frozen=True)
class Word:
    """`frequency` counts it in what there is to train on."""

    text: str
    frequency: float
    pronunciation: Pronunciation


@dataclass(frozen=True)
class Vocabulary:
    """`phonemes`: how often each is trained on. `left_out`: why words are not asked for, and how many."""

    words: list[Word]
    chains: Chains
    phonemes: Counter[str]
    left_out: dict[str, int]


def build_vocabulary(
    voices: Mapping[str, Voice], entries: Sequence[Entry], counts: Mapping[str, int] | None
) -> Vocabulary:
    """Frequencies are `counts`, by `lexicon.key`, or without any those of the entries.

    Pronunciations are those of the entries, brought to the first voice's own phonemes, or how that voice reads the
    word. A word that a voice cannot say is left out.
    """
    first, *_ = voices.values()
    listed = {key(entry.word) for entry in entries}
    heard = [word for word in counts or {} if word not in listed]
    for voice in voices.values():
        voice.learn(entry.word for entry in entries)
    first.learn(heard)
    known = {bare(p) for e in entries[:INVENTORY_WORDS] for p in first.ipa(first.phonemize(e.word))}
    left_out: Counter[str] = Counter()
    words: dict[Pronunciation, Word] = {}
    said_of_all = list[Pronunciation]()
    for entry in entries:
        said = _pronounced(first, entry, known)
        said_of_all += [said] if said else []
        frequency = counts.get(key(entry.word), 0) if counts is not None else entry.frequency or 0
        if reason := _unfit(entry.word, said, voices):
            left_out[reason] += 1
        elif words.setdefault(tuple(map(bare, said)), word := Word(entry.word, frequency, said)) is not word:
            left_out["said like another word"] += 1
    chains = Chains(
        [*said_of_all, *map(first.ipa, first.pronunciations())],
        first.language,
        _also_words(first, entries, heard, known),
    )
    return Vocabulary([*words.values()], chains, _phonemes([*words.values()]), dict(left_out))


def _pronounced(voice: Voice, entry: Entry, known: set[str]) -> Pronunciation:
    """Empty where the voice cannot read or say it."""
    if not entry.pronunciation:
        return voice.ipa(voice.phonemize(entry.word))
    spoken = voice.spoken(parse(entry.pronunciation, known))
    return voice.ipa(spoken) if spoken else ()


def _also_words(
    voice: Voice, entries: Sequence[Entry], heard: Sequence[str], known: set[str]
) -> Iterator[Pronunciation]:
    """What no pseudo-word may be, beside what the entries are said as: other pronunciations of them, and how the voice
    reads them and the words that are trained on but not listed."""
    for entry in entries:
        for pronunciation in entry.others:
            yield _pronounced(voice, replace(entry, pronunciation=pronunciation), known)
    for word in (*(entry.word for entry in entries if entry.pronunciation), *heard):
        yield voice.ipa(voice.phonemize(word))


def _unfit(word: str, said: Pronunciation, voices: Mapping[str, Voice]) -> str:
    if not said or not any(map(is_vowel, said)):
        return "the voice cannot say it"
    if len(word.split()) > 1:
        return "several words"
    if not SHORTEST <= len(said) <= LONGEST:
        return f"under {SHORTEST} or over {LONGEST} phonemes"
    lacking = [name for name, voice in voices.items() if voice.spoken(said) is None]
    return f"{lacking[0]} lacks a phoneme of it" if lacking else ""


def _phonemes(words: Sequence[Word]) -> Counter[str]:
    """Weighted by the frequency of words, or each word once where none has any; none is 0."""
    counted = Counter({bare(p): 1 for word in words for p in word.pronunciation})
    weighted = any(word.frequency for word in words)
    for word in words:
        for phoneme in word.pronunciation:
            counted[bare(phoneme)] += word.frequency if weighted else 1  # type: ignore[assignment]
    return counted
