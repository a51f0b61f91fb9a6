"""A small grammar with agreement: sentences to train on, and 2 x 2 designs of minimal pairs to test.

A `Design` is two pairs in which each word stands as often in a correct sentence as in an incorrect one, at the same
place: "this rabbit / *these rabbit" and "these rabbits / *this rabbits". Whoever only knows how frequent words are gets
exactly one of the two right. Words that change within a pair have equally many phonemes (this/these, is/are,
man/men, himself/herself).
"""

# ruff: noqa: SIM905  (word lists read better as text)

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from slm.types import stable_hash

ANIMALS = (
    "rabbit tiger monkey spider dragon doctor teacher farmer soldier painter pilot captain student sailor kitten "
    "pigeon turtle lawyer wizard panda"
).split()
OBJECTS = (
    "basket bottle ladder pencil blanket hammer jacket candle carrot lemon pumpkin letter ticket mirror wallet button"
).split()
PLACES = "garden river village mountain forest castle market kitchen island station tunnel desert".split()
ADJECTIVES = "hungry happy angry lazy clever thirsty gentle silent friendly nervous famous modern".split()
COLOURS = "yellow purple golden wooden heavy dirty".split()
WAITED = "waited landed rested started worked stopped".split()
CARRIED = "carried wanted borrowed noticed painted collected".split()
HELPED = "helped watched praised covered trusted blamed".split()
WALKS = (
    ("walks", "walk"), ("travels", "travel"), ("wanders", "wander"), ("hurries", "hurry"), ("listens", "listen"),
    ("swims", "swim"),
)  # fmt: skip
SINGING = "singing dancing sleeping laughing reading working".split()
PREPOSITIONS = "near behind beside".split()
TIMES = "today tonight again".split()
MEN = (("man", "men"), ("woman", "women"), ("mouse", "mice"), ("goose", "geese"))
ROYALS = (("king", "queen"), ("father", "mother"), ("brother", "sister"), ("uncle", "lady"), ("prince", "princess"))
REFLEXIVES = ((("he", "she"), ("himself", "herself")), (("we", "they"), ("ourselves", "themselves")))

# Never in a training sentence: the "oov" words of the lexical task.
HELD_OUT_WORDS = (
    "donkey parrot hamster barber plumber lantern curtain pillow cabin meadow canyon museum walnut pepper whistle "
    "needle shoulder camera cousin winter summer dinner butter cotton copper saddle rocket magnet helmet napkin "
    "biscuit marble coffin dentist turnip bucket sandal velvet gallery salmon lizard beetle cactus muffin cabbage "
    "picnic puzzle trumpet violin harvest"
).split()
HELD_OUT_SHARE = 6  # one content in so many is kept for the test
HELD_OUT_SENTENCES = 3  # one in so many, where a design's two sentences must both be


@dataclass(frozen=True)
class Design:
    """Two minimal pairs of sentences: `correct[i]` against `incorrect[i]`, i = 0, 1.

    `content` is what both numbers share (subject, verb, place, ...): a content is trained on or tested, never both.
    `apart`: the two have words of their own (le chat, la vache), and stand beside others in other designs; then each
    sentence is trained on or tested.
    """

    type: str
    subtype: str
    content: tuple[str, ...]
    correct: tuple[str, str]
    incorrect: tuple[str, str]
    apart: bool = False

    @property
    def trained(self) -> tuple[str, ...]:
        """The correct sentences that training may have."""
        if self.apart:
            return tuple(text for text in self.correct if _hashed([self.subtype, text]) % HELD_OUT_SENTENCES)
        return self.correct if _hashed([self.subtype, *self.content]) % HELD_OUT_SHARE else ()

    @property
    def held_out(self) -> bool:
        return not self.trained


def _hashed(content: list[str]) -> int:
    return int(stable_hash(content)[:8], 16)


Designs = Mapping[str, Sequence[Design]]
"""By subtype."""


def _cross(type: str, subtype: str, content: tuple, heads: tuple[str, str], tails: tuple[str, str]) -> Design:
    """Heads and tails that agree index by index: (a, b) x (x, y) -> correct a x, b y; incorrect b x, a y."""
    (a, b), (x, y) = heads, tails
    return Design(type, subtype, content, (f"{a} {x}", f"{b} {y}"), (f"{b} {x}", f"{a} {y}"))


def _determiners() -> Iterator[Design]:
    type = "determiner_noun_agreement"
    for dets in (("this", "these"), ("that", "those")):
        subtype = "_".join(dets)
        for noun, verb, time in product(ANIMALS, WAITED, TIMES):
            tails = (f"{noun} {verb} {time}", f"{noun}s {verb} {time}")
            yield _cross(type, f"{subtype}_subject", (*dets, noun, verb, time), dets, tails)
        for pronoun, verb, noun in product(("he", "she", "we", "they"), CARRIED, OBJECTS):
            heads = (f"{pronoun} {verb} {dets[0]}", f"{pronoun} {verb} {dets[1]}")
            yield _cross(type, f"{subtype}_object", (*dets, pronoun, verb, noun), heads, (noun, f"{noun}s"))


def _verbs() -> Iterator[Design]:
    type = "subject_verb_agreement"

    def auxiliary(pair: tuple[str, str], noun: str, rest: str) -> Design:
        # The auxiliary, not the noun, changes within a pair: both have equally many phonemes.
        (one, many), (is_, are) = (f"the {noun}", f"the {noun}s"), pair
        correct = (f"{one} {is_} {rest}", f"{many} {are} {rest}")
        incorrect = (f"{one} {are} {rest}", f"{many} {is_} {rest}")
        return Design(type, "_".join(pair), (*pair, noun, rest), correct, incorrect)

    for noun, adjective in product(ANIMALS, ADJECTIVES):
        yield auxiliary(("is", "are"), noun, adjective)
    for noun, verb, preposition, place in product(ANIMALS, SINGING, PREPOSITIONS, PLACES):
        yield auxiliary(("was", "were"), noun, f"{verb} {preposition} the {place}")
    for noun, colour, thing in product(ANIMALS, COLOURS, OBJECTS):
        yield auxiliary(("has", "have"), noun, f"the {colour} {thing}")
    for man, verbs, place in product(MEN, WALKS, PLACES):
        heads = (f"the {man[0]}", f"the {man[1]}")
        yield _cross(type, "irregular_noun", (*man, *verbs, place), heads, _with(verbs, f"to the {place}"))
    for pronouns, verbs, place in product((("he", "we"), ("she", "they")), WALKS, PLACES):
        yield _cross(type, "pronoun", (*pronouns, *verbs, place), pronouns, _with(verbs, f"to the {place}"))


def _anaphors() -> Iterator[Design]:
    type = "anaphor_agreement"
    for pair, verb, time in product(ROYALS, HELPED, TIMES):
        heads = (f"the {pair[0]} {verb}", f"the {pair[1]} {verb}")
        selves = _with(("himself", "herself"), time)
        correct = (f"{heads[0]} {selves[0]}", f"{heads[1]} {selves[1]}")
        incorrect = (f"{heads[0]} {selves[1]}", f"{heads[1]} {selves[0]}")
        yield Design(type, "gender", (*pair, verb, time), correct, incorrect)
    for (pronouns, selves), verb, time in product(REFLEXIVES, HELPED, TIMES):
        heads = (f"{pronouns[0]} {verb}", f"{pronouns[1]} {verb}")
        yield _cross(type, "person", (*pronouns, verb, time), heads, _with(selves, time))


def _with(pair: tuple[str, str], rest: str) -> tuple[str, str]:
    return f"{pair[0]} {rest}", f"{pair[1]} {rest}"


def designs() -> dict[str, list[Design]]:
    """Every design of the grammar, by subtype."""
    by_subtype: dict[str, list[Design]] = {}
    for design in (*_determiners(), *_verbs(), *_anaphors()):
        by_subtype.setdefault(design.subtype, []).append(design)
    return by_subtype


def training_sentences(rng: random.Random, groups: Designs | None = None) -> Iterator[str]:
    """Correct sentences without end: each subtype equally often, either half of a design, none that is tested."""
    trained = [[made for d in group if (made := d.trained)] for group in (groups or designs()).values()]
    trained = [group for group in trained if group]
    while True:
        yield rng.choice(rng.choice(rng.choice(trained)))


def test_designs(rng: random.Random, groups: Designs | None = None, held_out: bool = True) -> Iterator[Design]:  # noqa: PT028
    """Designs without repetition, one subtype after the other: those held out, or all."""
    tested = [[d for d in group if d.held_out or not held_out] for group in (groups or designs()).values()]
    left = [rng.sample(group, len(group)) for group in tested if group]
    while any(left):
        for group in left:
            if group:
                yield group.pop()


def content_words() -> list[str]:
    """The words of the training sentences that are also said alone and that the lexical task asks about."""
    people = [noun for pair in ROYALS for noun in pair]
    verbs = [*WAITED, *CARRIED, *HELPED, *(base for _, base in WALKS), *SINGING]
    plurals = [f"{noun}s" for noun in (*ANIMALS, *OBJECTS)]
    return [*ANIMALS, *OBJECTS, *plurals, *people, *PLACES, *ADJECTIVES, *COLOURS, *verbs, *PREPOSITIONS, *TIMES]
