"""Pairs of any lexicon and grammar, read by several voices: what they are made of, the plan, what describes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.minimal_pairs.corpus import ISOLATED_SHARE, plan_corpus
from eval.minimal_pairs.dataset import Plan, statistics, store_plan, write_manifest
from eval.minimal_pairs.gold import write_gold
from eval.minimal_pairs.lexicon import Entry, count_words, read_lexicon, words_of
from eval.minimal_pairs.sentences import Sieve, plan_sentences
from eval.minimal_pairs.synthesis import Studio
from eval.minimal_pairs.templates import Grammar, for_language, load_grammar
from eval.minimal_pairs.utterance import Pair, Utterance, phonemes_of
from eval.minimal_pairs.vocabulary import Vocabulary, build_vocabulary
from eval.minimal_pairs.voice import Voice
from eval.minimal_pairs.wordpairs import BANDS, plan_words
from slm.errors import UsageError
from slm.files import write_json
from slm.types import stable_hash

VERSION = 3  # of this generator; another one makes other pairs
NO_GRAMMAR = "none"


@dataclass(frozen=True)
class Materials:
    """`lexicon`: words to ask for, None where they are the grammar's. `transcripts`: how often each is trained on."""

    voices: Mapping[str, Voice]
    lexicon: list[Entry] | None
    transcripts: Counter[str] | None
    world: Grammar | None

    @property
    def language(self) -> str:
        return next(iter(self.voices.values())).language

    @property
    def makes_its_corpus(self) -> bool:
        """Where there is nothing of the user's to train on, it is made here unless --minutes says otherwise."""
        return self.lexicon is None and self.transcripts is None

    def fingerprint(self) -> dict[str, Any]:
        """All that the pairs depend on, for plan.json."""
        words = [[e.word, e.frequency, e.pronunciation, *e.others] for e in self.lexicon or []]
        return {
            "generator_version": f"any language {VERSION}",
            "language": self.language,
            "voices": {name: voice.engine for name, voice in self.voices.items()},
            "lexicon": stable_hash(words) if words else None,
            "transcripts": self.transcripts and stable_hash(sorted(self.transcripts.items())),
            "grammar": self.world and self.world.name,
            "grammar_content": self.world and stable_hash(self.world.content),
        }


def gather(voices: Mapping[str, Voice], lexicon: str, transcripts: str, grammar: str) -> Materials:
    """Read what the options name. UsageError where that is nothing to make pairs of."""
    language = next(iter(voices.values())).language
    name = grammar or for_language(language)
    world = None if name in ("", NO_GRAMMAR) else load_grammar(name)
    if world and world.language != language:
        raise UsageError(f"--grammar {name} is of language {world.language!r}, and the voices speak {language!r}")
    counts = count_words(transcripts, language) if transcripts else None
    entries = read_lexicon(lexicon) if lexicon else None
    if world is None and entries is None and counts is None:
        raise UsageError(
            f"there is no grammar of language {language!r} here, and no words: give --lexicon FILE, --transcripts "
            "FILE, or --grammar FILE.yaml"
        )
    return Materials(voices, entries, counts, world)


def make(out: Path, settings: dict[str, Any], materials: Materials, studio: Studio) -> Plan:
    """A new plan, written to plan.json. UsageError when so many pairs cannot be matched."""
    seed, pairs, voices, world = settings["seed"], settings["pairs"], materials.voices, materials.world
    if settings["minutes"] and world is None:
        raise UsageError(
            "--minutes: the sentences to train on are a grammar's; give --grammar FILE.yaml, or --minutes 0"
        )
    corpus = plan_corpus(voices, seed, settings["minutes"], world) if settings["minutes"] and world else []
    trained = _trained(materials, corpus)
    vocabulary = build_vocabulary(voices, _entries(materials), trained)
    lexical = plan_words(voices, studio, vocabulary, seed, pairs, corpus)
    sieve = Sieve(voices, trained if materials.transcripts is not None else None, materials.language)
    held_out = bool(corpus)
    syntactic = plan_sentences(voices, studio, world, sieve, seed, pairs, held_out) if world else []
    _check_enough(pairs, lexical, syntactic, bool(world), vocabulary, sieve)
    plan = Plan(corpus, _numbered(lexical, "lexical/dev"), _numbered(syntactic, "syntactic/dev"))
    settings["left_out"] = {"words": vocabulary.left_out, "sentences": dict(sieve.left_out.most_common(20))}
    settings["phonemes"] = dict(sorted(vocabulary.phonemes.items()))
    store_plan(out, settings, plan)
    return plan


def _trained(materials: Materials, corpus: Sequence[Utterance]) -> Counter[str] | None:
    """How often each word is trained on; None where only the lexicon may say."""
    if not corpus and materials.transcripts is None:
        return None if materials.lexicon is not None else Counter()
    made = Counter(word for u in corpus for word in words_of(u.text, materials.language))
    return made + (materials.transcripts or Counter())


def _entries(materials: Materials) -> list[Entry]:
    """The lexicon; without one the words of the transcripts, or else of the grammar."""
    if materials.lexicon is not None:
        return materials.lexicon
    words = materials.transcripts and sorted(materials.transcripts)
    if not words:
        assert materials.world is not None
        words = [*materials.world.words, *materials.world.other_words]
    return [Entry(word) for word in dict.fromkeys(words)]


def _check_enough(
    pairs: int, lexical: Sequence, syntactic: Sequence, has_grammar: bool, vocabulary: Vocabulary, sieve: Sieve
) -> None:
    fewest = min(len(lexical), len(syntactic)) if has_grammar else len(lexical)
    if fewest >= pairs:
        return
    reasons = [f"{n} words: {why}" for why, n in vocabulary.left_out.items()]
    reasons += [f"{n} sentence designs: {why}" for why, n in sieve.left_out.most_common(5)]
    made = f"only {len(lexical)} lexical" + (f" and {len(syntactic)} syntactic" if has_grammar else "")
    why = f" (left out: {'; '.join(reasons)})" if reasons else ""
    alone = ", or --grammar none for words alone" if has_grammar and lexical else ""
    remedy = f"ask for --pairs {fewest} or fewer" if fewest else f"give more words{alone}"
    raise UsageError(f"{made} pairs could be made and matched in duration{why}: {remedy}")


def _numbered(options: Sequence[Sequence[Pair]], folder: str) -> list[Pair]:
    """Pairs with an id for each option, and the paths of their files, which tell id, side and voice."""
    return [
        replace(
            pair,
            right=replace(pair.right, path=f"{folder}/{i:04d}_0_{pair.labels['voice']}.wav"),
            wrong=replace(pair.wrong, path=f"{folder}/{i:04d}_1_{pair.labels['voice']}.wav"),
            labels={"id": i, **pair.labels},
        )
        for i, option in enumerate(options)
        for pair in option
    ]


def describe(out: Path, settings: dict[str, Any], plan: Plan, lengths: Sequence[int]) -> str:
    """manifest.jsonl, gold.csv and generated.json; returns one line about them."""
    minutes = 0.0
    if plan.corpus:
        rows = write_manifest(out, plan.corpus, lengths)
        minutes = sum(row["duration_s"] for row in rows) / 60
    both = (plan.lexical, plan.syntactic)
    write_gold(out, *([(p.labels["id"], p.labels["voice"], p) for p in pairs] for pairs in both))
    voices = len(settings["voices"])
    phonemes = Counter(settings["phonemes"])
    tasks = {"lexical": plan.lexical, "syntactic": plan.syntactic}
    counts = {
        "corpus_utterances": len(plan.corpus),
        "corpus_minutes": round(minutes, 2),
        **{f"{task}_pairs": len(pairs) // voices for task, pairs in tasks.items()},
        "lexical_pairs_by_frequency": _by_band(plan.lexical, voices),
    }
    description = {
        "generator": "eval.minimal_pairs",
        **{name: value for name, value in settings.items() if name != "phonemes"},
        "isolated_word_share": ISOLATED_SHARE if plan.corpus else None,
        "counts": counts,
        "shortcuts": {task: _shortcuts(pairs, phonemes) for task, pairs in tasks.items() if pairs},
    }
    write_json(out / "generated.json", description)
    tested = (
        f"{counts['lexical_pairs']} + {counts['syntactic_pairs']} pairs, each by {voices} voice{'s' * (voices > 1)}"
    )
    return f"{minutes:.1f} minutes to train on, {tested}"


def _shortcuts(pairs: Sequence[Pair], phonemes: Counter[str]) -> dict[str, Any]:
    """Of each voice: what is matched, and how well (`dataset.statistics`); and if the right side is read faster."""
    made: dict[str, Any] = {}
    for name in dict.fromkeys(pair.labels["voice"] for pair in pairs):
        of_voice = [pair for pair in pairs if pair.labels["voice"] == name]
        heard = phonemes + Counter(p for pair in of_voice for side in phonemes_of(pair) for p in side)
        faster = sum((p.right.speed > p.wrong.speed) + (p.right.speed == p.wrong.speed) / 2 for p in of_voice)
        counts = [(len(right), len(wrong)) for right, wrong in map(phonemes_of, of_voice)]
        longer = sum((right > wrong) + (right == wrong) / 2 for right, wrong in counts)
        made[name] = {
            **statistics(of_voice, heard),
            "more_phonemes_is_right": round(longer / len(of_voice), 4),
            "faster_is_right": round(faster / len(of_voice), 4),
        }
    return made


def _by_band(pairs: Sequence[Pair], voices: int) -> dict[str, int]:
    frequencies = [pair.labels["frequency"] for pair in pairs][::voices]
    bands = {f"{low}-{high - 1:g}" if high < float("inf") else f"{low}-": (low, high) for low, high in BANDS}
    counted = {name: sum(low <= f < high for f in frequencies) for name, (low, high) in bands.items()}
    return {"0": sum(f < BANDS[0][0] for f in frequencies), **counted}
