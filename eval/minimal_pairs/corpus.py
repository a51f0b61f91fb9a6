"""What there is to train on: sentences of the grammar, and single words."""

from __future__ import annotations

import random
from collections.abc import Mapping

from eval.minimal_pairs import grammar
from eval.minimal_pairs.phonology import phones
from eval.minimal_pairs.templates import Grammar
from eval.minimal_pairs.utterance import Utterance, utterance
from eval.minimal_pairs.voice import SPEEDS, Voice
from slm.errors import UsageError
from slm.types import stable_hash

ENDINGS = (".", "!", "")  # they change the melody
ISOLATED_SHARE = 0.2  # of the utterances: one content word alone, as the lexical task asks for them
SECONDS_PER_PHONEME = 0.057  # of the voice at speed 1, and what an utterance has besides:
SECONDS_PER_UTTERANCE = 0.29  # they say how many make "about 45 minutes" before any is synthesized
MOST_UNREAD = 10_000  # texts that the voice cannot read, before it is the wrong one


def plan_corpus(
    voice: Voice | Mapping[str, Voice], seed: int, minutes: float, world: Grammar | None = None
) -> list[Utterance]:
    """Utterances that should last about `minutes` together; of several voices each reads one in turn.

    Without a `world`, those of the closed world of `grammar.py`."""
    rng = random.Random(stable_hash(["corpus", seed]))
    sentences = grammar.training_sentences(rng, world.designs if world else None)
    words = world.words if world else grammar.content_words()
    voices = voice if isinstance(voice, Mapping) else {"": voice}
    said: dict[tuple[str, str], str] = {}
    planned: list[Utterance] = []
    left_s, unread = minutes * 60, 0
    while left_s > 0:
        text = rng.choice(words) if rng.random() < ISOLATED_SHARE else next(sentences)
        name = [*voices][len(planned) % len(voices)]
        if (name, text) not in said:
            said[name, text] = voices[name].phonemize(text)
        spoken = said[name, text]
        if not spoken:  # its voice reads it by the rules of another language
            unread += 1
            if unread > MOST_UNREAD:
                raise UsageError(f"the voice {name} cannot read the sentences of this grammar, such as {text!r}")
            continue
        speed = round(rng.uniform(*SPEEDS), 3)
        path = f"corpus/{len(planned):05d}.wav"
        planned.append(utterance(seed, path, text, spoken + rng.choice(ENDINGS), speed, name))
        count = len(voices[name].ipa(spoken)) if world else len(phones(spoken))
        left_s -= count * SECONDS_PER_PHONEME / speed + SECONDS_PER_UTTERANCE
    return planned
