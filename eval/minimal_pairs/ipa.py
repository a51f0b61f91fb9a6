"""Pronunciations as IPA: a tuple of phonemes, in which a stressed vowel carries its mark ("ɹ", "ˈæ", "b", "ɪ", "t").

All of it in Unicode's decomposed form, so that a nasal vowel is a vowel and a mark however it was typed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container, Iterable, Sequence
from typing import TypeVar

Pronunciation = tuple[str, ...]
Said = TypeVar("Said", str, Pronunciation)

STRESS = "ˈˌ"
VOWELS = frozenset("iyɨʉɯuɪʏʊeøɘɵɤoəɛœɜɞʌɔæɐaɶɑɒɚɝᵻᵊ")
SYLLABIC = "\u0329"
TIE = "\u0361"
_MODIFIERS = frozenset("ːˑʰʲʷˠˤ˞")
_IGNORED = frozenset(". -‿/[]()|")

# English weak vowels, and ways to say /t/, that tell no two words apart ("kitten" with a stop or a glottal stop).
_BROAD = {
    **dict.fromkeys("ɾTʔ", ("t",)), **dict.fromkeys("ɪᵻᵊɐɚ", ("ə",)),
    "n̩": ("ə", "n"), "m̩": ("ə", "m"), "l̩": ("ə", "l"),
}  # fmt: skip

_ARPABET = {
    "AA": "ɑ", "AE": "æ", "AH": "ʌ", "AO": "ɔ", "AW": "aʊ", "AY": "aɪ", "B": "b", "CH": "tʃ", "D": "d", "DH": "ð",
    "EH": "ɛ", "ER": "ɝ", "EY": "eɪ", "F": "f", "G": "ɡ", "HH": "h", "IH": "ɪ", "IY": "i", "JH": "dʒ", "K": "k",
    "L": "l", "M": "m", "N": "n", "NG": "ŋ", "OW": "oʊ", "OY": "ɔɪ", "P": "p", "R": "ɹ", "S": "s", "SH": "ʃ", "T": "t",
    "TH": "θ", "UH": "ʊ", "UW": "u", "V": "v", "W": "w", "Y": "j", "Z": "z", "ZH": "ʒ",
}  # fmt: skip
_ARPABET_SYMBOL = re.compile(r"([A-Z]{1,2})([012]?)")


def bare(phoneme: str) -> str:
    """Without stress."""
    return phoneme.lstrip(STRESS)


def stress_of(phoneme: str) -> str:
    return phoneme[: len(phoneme) - len(bare(phoneme))][:1]


def is_vowel(phoneme: str) -> bool:
    """Whether it is the nucleus of a syllable: a vowel, a diphthong, or a syllabic consonant."""
    return SYLLABIC in phoneme or any(c in VOWELS for c in phoneme)


def broadly(said: Iterable[str], language: str = "en") -> Pronunciation:
    """Without stress, and in English without length and what else tells no two words apart."""
    plain = map(bare, said)
    return tuple(p for q in plain for p in _BROAD.get(q, (q.rstrip("ː"),))) if language == "en" else tuple(plain)


def is_form_of(said: Said, words: Container[Said], endings: Iterable[Said]) -> bool:
    """Whether it is among the words, or would be without one of the endings (neither with stress)."""
    return said in words or any(said[-len(e) :] == e and said[: -len(e)] in words for e in endings)


def to_nuclei(phonemes: Iterable[str]) -> Pronunciation:
    """Stress, which may stand before the syllable's first consonant, moved to its vowel."""
    made, waiting = list[str](), ""
    for phoneme in phonemes:
        waiting, plain = stress_of(phoneme) or waiting, bare(phoneme)
        if not plain:
            continue
        if is_vowel(plain):
            plain, waiting = waiting + plain, ""
        made.append(plain)
    return tuple(made)


def parse(text: str, known: Iterable[str] = ()) -> Pronunciation:
    """A pronunciation as a lexicon gives it: phonemes apart by blanks (IPA, or ARPABET as in CMUdict), or one string of
    IPA, of which `known` phonemes of several letters ("tʃ", "aɪ") are kept together. Empty for an empty one."""
    text = unicodedata.normalize("NFD", text.strip())
    parts = text.split()
    if parts and all((m := _ARPABET_SYMBOL.fullmatch(p)) and m[1] in _ARPABET for p in parts):
        return _from_arpabet(parts)
    if len(parts) > 1:
        return to_nuclei(parts)
    return to_nuclei(_cut(text, sorted({k for k in known if len(k) > 1}, key=lambda k: (-len(k), k))))


def _from_arpabet(parts: Sequence[str]) -> Pronunciation:
    made = []
    for symbol, stress in (m.groups() for p in parts if (m := _ARPABET_SYMBOL.fullmatch(p))):
        phoneme = (
            "ə" if (symbol, stress) == ("AH", "0") else "ɚ" if (symbol, stress) == ("ER", "0") else _ARPABET[symbol]
        )
        made.append({"1": "ˈ", "2": "ˌ"}.get(stress, "") + phoneme)
    return tuple(made)


def _cut(text: str, known: Sequence[str]) -> list[str]:
    """Phonemes of a string, the longest known one first; else a letter with the marks that follow it."""
    made, at, stress = list[str](), 0, ""
    while at < len(text):
        if text[at] in STRESS:
            stress, at = text[at], at + 1
        elif text[at] in _IGNORED:
            at += 1
        else:
            end = next((at + len(k) for k in known if text.startswith(k, at)), at + 1)
            while end < len(text) and (
                unicodedata.combining(text[end]) or text[end] in _MODIFIERS or text[end - 1] == TIE
            ):
                end += 1
            made.append(stress + text[at:end])
            stress, at = "", end
    return made
