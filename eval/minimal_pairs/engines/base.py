"""The registry of engines, and how voices are called by the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.minimal_pairs.voice import Voice
from slm.errors import UsageError
from slm.registry import Registry

ENGINES: Registry[Voice] = Registry("speech engine", "eval.minimal_pairs.engines", "slm.speech_engines")


def open_voice(name: str) -> Voice:
    """`ENGINE:VOICE`, or ENGINE alone for its first voice. UsageError for an unknown one or a missing package."""
    engine, _, voice = name.partition(":")
    return ENGINES.create(engine, voice=voice)


def open_voices(names: Sequence[str]) -> dict[str, Voice]:
    """Voices by the names that gold.csv gives them. UsageError where two are alike or of different languages."""
    voices: dict[str, Voice] = {}
    for name in names:
        voice = open_voice(name)
        if voice.name in voices:
            raise UsageError(f"--voices names {voice.name!r} twice; give each voice once")
        voices[voice.name] = voice
    if not voices:
        raise UsageError("--voices names none; give one or more, such as hibari:heart espeak:en-us+f3")
    languages = {v.language for v in voices.values()}
    if len(languages) > 1:
        said = ", ".join(f"{name} speaks {v.language}" for name, v in voices.items())
        raise UsageError(f"every pair is read by every voice, so all must speak one language: {said}")
    return voices


@dataclass(frozen=True)
class Voices:
    """Opens these voices: what is sent to each process, which opens its own."""

    names: tuple[str, ...]

    def __call__(self) -> dict[str, Voice]:
        return open_voices(self.names)
