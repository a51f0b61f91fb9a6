"""What there is to train on: sentences of the grammar, and single words."""

from __future__ import annotations

import random

from eval.minimal_pairs import grammar
from eval.minimal_pairs.phonology import phones
from eval.minimal_pairs.utterance import Utterance, utterance
from eval.minimal_pairs.voice import SPEEDS, Voice
from slm.types import stable_hash

ENDINGS = (".", "!", "")  # they change the melody
ISOLATED_SHARE = 0.2  # of the utterances: one content word alone, as the lexical task asks for them
SECONDS_PER_PHONEME = 0.057  # of the voice at speed 1, and what an utterance has besides:
SECONDS_PER_UTTERANCE = 0.29  # they say how many make "about 45 minutes" before any is synthesized


def plan_corpus(voice: Voice, seed: int, minutes: float) -> list[Utterance]:
    """Utterances that should last about `minutes` together."""
    rng = random.Random(stable_hash(["corpus", seed]))
    sentences, words = grammar.training_sentences(rng), grammar.content_words()
    said: dict[str, str] = {}
    planned: list[Utterance] = []
    left_s = minutes * 60
    while left_s > 0:
        text = rng.choice(words) if rng.random() < ISOLATED_SHARE else next(sentences)
        if text not in said:
            said[text] = voice.phonemize(text)
        speed = round(rng.uniform(*SPEEDS), 3)
        path = f"corpus/{len(planned):05d}.wav"
        planned.append(utterance(seed, path, text, said[text] + rng.choice(ENDINGS), speed))
        left_s -= len(phones(said[text])) * SECONDS_PER_PHONEME / speed + SECONDS_PER_UTTERANCE
    return planned
