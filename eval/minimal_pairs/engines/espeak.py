"""eSpeak NG: more than a hundred languages, each in many variants of its voice; small, fast, robotic.

The engine is GPL-3: it is no dependency of ours, is never linked to, and runs as a process that is asked by pipe
(`_espeak_process.py`). Speech that it made is not covered by its licence.
"""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from eval.minimal_pairs.engines.base import ENGINES
from eval.minimal_pairs.ipa import STRESS, bare, stress_of, to_nuclei
from slm.errors import UsageError

INSTALL = "the package espeakng-loader is missing (it brings eSpeak NG, GPL-3): pip install espeakng-loader==0.2.4"
WORDS_A_MINUTE = 175  # at speed 1
BATCH = 2_000  # texts in one request
_STRESS = {"'": "ˈ", "''": "ˈ", ",": "ˌ", "%": "", "=": ""}  # eSpeak's marks


@ENGINES.register("espeak")
class EspeakVoice:
    """`espeak:LANGUAGE` or `espeak:LANGUAGE+VARIANT`, such as en-us+f3, fr, de+m2.

    UsageError when the package is missing or the voice unknown. The seed makes the noise of variants that have any.
    What it writes of a word in its own alphabet and in IPA, phoneme by phoneme, tells how to write one in the other.
    """

    rate_hz = 22_050

    def __init__(self, voice: str = "en-us") -> None:
        try:
            import espeakng_loader as package
        except ImportError as error:
            raise UsageError(INSTALL) from error
        self.name = voice or "en-us"
        self.language = self.name.partition("+")[0].partition("-")[0]
        self.engine = f"espeakng-loader {version('espeakng-loader')}"
        self._places = [package.get_library_path(), package.get_data_path()]
        self._process: subprocess.Popen | None = None
        self._said: dict[str, str] = {}
        self._ipa: dict[str, str] = {}  # eSpeak's phoneme -> IPA
        self._seen: dict[str, Counter[str]] = {}  # IPA -> eSpeak's phonemes
        self._check_names()

    def _check_names(self) -> None:
        """eSpeak NG takes an unknown variant for none."""
        language, plus, variant = self.name.partition("+")
        folder = Path(self._places[1], "voices", "!v")
        if not folder.is_dir():
            folder = Path(self._places[1], "espeak-ng-data", "voices", "!v")
        if plus and not (folder / variant).is_file():
            known = sorted(p.name for p in folder.iterdir())
            raise UsageError(f"espeak has no variant {variant!r}; known: {', '.join(known)}")
        languages = sorted(p.name.lower() for p in (folder.parent.parent / "lang").rglob("*") if p.is_file())
        if language.lower() not in languages:
            raise UsageError(f"espeak has no language {language!r}; known: {', '.join(languages)}")

    def _ask(self, **request: Any) -> tuple[dict[str, Any], bytes]:
        if self._process is None:
            script = str(Path(__file__).with_name("_espeak_process.py"))
            command = [sys.executable, "-I", "-S", script, *self._places]
            # Out of reach of Ctrl-C, at which it would show where it was: it ends with the pipe.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
        to, back = self._process.stdin, self._process.stdout
        assert to is not None
        assert back is not None
        to.write(json.dumps({"voice": self.name, **request}).encode() + b"\n")
        to.flush()
        line = back.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "espeak-ng's process ended", "bytes": 0}
        if "error" in answer:
            raise UsageError(f"espeak:{self.name}: {answer['error']}")
        return answer, back.read(answer["bytes"])

    def __del__(self) -> None:
        if getattr(self, "_process", None) is not None:
            self._process.stdin.close()  # type: ignore[union-attr]  # it ends when there is nothing more to read
            self._process.stdout.close()  # type: ignore[union-attr]
            self._process.wait()  # type: ignore[union-attr]

    def learn(self, words: Iterable[str]) -> None:
        """Transcribe all of these at once: quicker than one by one, and it shows the phonemes of the language."""
        new = [w for w in dict.fromkeys(words) if w not in self._said]
        for i in range(0, len(new), BATCH):
            self._transcribe(new[i : i + BATCH])

    def _transcribe(self, texts: Sequence[str]) -> None:
        for text, (own, ipa) in zip(texts, self._ask(texts=texts)[0]["transcriptions"], strict=True):
            self._said[text] = own
            symbols, written = own.replace(" ", "|").split("|"), ipa.replace(" ", "|").split("|")
            if len(symbols) == len(written) and "(" not in own:  # "(en)": read by the rules of another language
                for symbol, phoneme in zip(symbols, written, strict=True):
                    self._remember(
                        symbol.lstrip("".join(_STRESS)), unicodedata.normalize("NFD", bare(phoneme)).rstrip("-")
                    )

    def _remember(self, symbol: str, phoneme: str) -> None:
        if symbol and phoneme:
            self._ipa[symbol] = phoneme
            self._seen.setdefault(phoneme, Counter())[symbol] += 1

    def phonemize(self, text: str) -> str:
        """Empty for what it reads by the rules of another language."""
        self.learn([text])
        return "" if "(" in self._said[text] else self._said[text]

    def synthesize(self, phonemes: str, speed: float, seed: int) -> np.ndarray:
        """float32 `[N]`. The full stop that ends an utterance is melody here, too."""
        own = phonemes.rstrip(".!")
        _, samples = self._ask(speak=own, rate=round(WORDS_A_MINUTE * speed), seed=seed)
        return np.frombuffer(samples, np.int16).astype(np.float32) / 32768

    def pronunciations(self) -> list[str]:
        """It has rules rather than a list of words."""
        return []

    def ipa(self, phonemes: str) -> tuple[str, ...]:
        made = list[str]()
        for part in phonemes.rstrip(".!").replace(" ", "|").split("|"):
            symbol = part.lstrip("".join(_STRESS))
            if symbol in self._ipa:
                made.append(_STRESS.get(part[: len(part) - len(symbol)], "") + self._ipa[symbol])
        return to_nuclei(made)

    def spoken(self, pronunciation: Sequence[str]) -> str | None:
        """By the symbol that it writes most often for this phoneme; length and a few letters need not agree."""
        marks = {"": "", STRESS[0]: "'", STRESS[1]: ","}
        symbols = [(stress_of(p), self._symbol(bare(p))) for p in pronunciation]
        return None if any(s is None for _, s in symbols) else "|".join(f"{marks[m]}{s}" for m, s in symbols)

    def _symbol(self, phoneme: str) -> str | None:
        for like in (phoneme, f"{phoneme}ː", phoneme.replace("ː", ""), _LIKE.get(phoneme, phoneme)):
            if like in self._seen:
                return min(self._seen[like].items(), key=lambda item: (-item[1], item[0]))[0]
        return None


_LIKE = {"g": "ɡ", "r": "ɹ", "ɹ": "r", "ɝ": "ɜː", "ɜ": "ɜː", "əʊ": "oʊ", "ɾ": "t", "a": "æ", "o": "oʊ", "e": "eɪ",
         "ɐ": "ə", "ə": "ɐ", "ᵻ": "ɪ"}  # fmt: skip
