"""hibari-tts: a neural voice in a wheel of 14 MB (Apache-2.0). English."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from importlib.resources import files

import numpy as np

from eval.minimal_pairs.engines.base import ENGINES
from eval.minimal_pairs.ipa import STRESS, bare, stress_of

# Its alphabet (misaki's) has one letter for each phoneme. What differs from IPA:
_TO_IPA = {"A": "eɪ", "I": "aɪ", "O": "oʊ", "Q": "əʊ", "W": "aʊ", "Y": "ɔɪ", "ʤ": "dʒ", "ʧ": "tʃ", "T": "ɾ", "ᵊ": "ə"}
_SAME = "bdfhijklmnpstuvwzæðŋɑɐɒɔəɛɜɡɪɹɾʃʊʌʒʔθᵻ"
# How other transcriptions write what it has.
_FROM_IPA = {
    **{ipa: letter for letter, ipa in _TO_IPA.items() if letter != "ᵊ"},
    **{c: c for c in _SAME},
    "g": "ɡ", "r": "ɹ", "ɚ": "əɹ", "ɝ": "ɜɹ", "ɜː": "ɜɹ", "ɫ": "l", "l̩": "əl", "n̩": "ən", "m̩": "əm", "əl": "əl",
    "a": "æ", "o": "O", "e": "A", "ɑːɹ": "ɑɹ", "ɔːɹ": "ɔɹ", "oːɹ": "ɔɹ", "ɛɹ": "ɛɹ", "ɪɹ": "ɪɹ", "ʊɹ": "ʊɹ", "iə": "iə",
    "aɪɚ": "Iəɹ", "aɪə": "Iə",
}  # fmt: skip


@ENGINES.register("hibari")
class HibariVoice:
    """Voice "heart" of hibari-tts. UsageError when the package is missing."""

    rate_hz = 24_000
    language = "en"

    def __init__(self, voice: str = "heart") -> None:
        from slm.errors import UsageError

        self.name = voice or "heart"
        if self.name != "heart":
            raise UsageError(f"hibari-tts has one voice that needs no download, heart, not {self.name!r}")
        try:
            from hibari import Hibari
        except ImportError as error:
            raise UsageError("minimal pairs need the package hibari-tts: pip install hibari-tts==0.2.1") from error
        self.engine = f"hibari-tts {version('hibari-tts')}"
        self._tts = Hibari(voice=self.name, threads=1)

    def learn(self, words: Iterable[str]) -> None:
        """Its alphabet is known beforehand."""

    def phonemize(self, text: str) -> str:
        return " ".join(self._tts.phonemize(text))

    def synthesize(self, phonemes: str, speed: float, seed: int) -> np.ndarray:
        return self._tts.from_phonemes(phonemes, speed=speed, seed=seed)

    def pronunciations(self) -> list[str]:
        found: list[str] = []
        for name in ("lexicon_us_gold.json.gz", "lexicon_us_silver.json.gz"):
            entries = json.loads(gzip.decompress(files("hibari").joinpath("assets", name).read_bytes()))
            for entry in entries.values():
                found += [p for p in (entry.values() if isinstance(entry, dict) else [entry]) if p]
        return found

    def ipa(self, phonemes: str) -> tuple[str, ...]:
        made, stress = list[str](), ""
        for letter in phonemes:
            if letter in STRESS:
                stress = letter
            elif letter.isalpha():
                made.append(stress + _TO_IPA.get(letter, letter))
                stress = ""
        return tuple(made)

    def spoken(self, pronunciation: Sequence[str]) -> str | None:
        """Length is not written: its vowels have the length that they have."""
        letters = [
            stress_of(p) + _FROM_IPA.get(bare(p), _FROM_IPA.get(bare(p).replace("ː", ""), "?")) for p in pronunciation
        ]
        return None if any(part.endswith("?") for part in letters) else "".join(letters).replace("ɜɹɹ", "ɜɹ")
