"""What pairs are made of: pseudo-words against a slow search of all candidates, syllables, IPA, lexica, templates."""

from __future__ import annotations

import json
import random
import statistics
import unicodedata
from collections import Counter
from itertools import combinations, islice, product
from types import SimpleNamespace

import pytest

from eval.minimal_pairs.engines.hibari import HibariVoice
from eval.minimal_pairs.grammar import training_sentences
from eval.minimal_pairs.ipa import bare, is_vowel, parse, stress_of
from eval.minimal_pairs.lexicon import count_words, read_lexicon, words_of
from eval.minimal_pairs.phonology import Phonotactics
from eval.minimal_pairs.pseudowords import Chains
from eval.minimal_pairs.sentences import _designs
from eval.minimal_pairs.syllables import Syllables
from eval.minimal_pairs.templates import for_language, load_grammar, shipped
from eval.minimal_pairs.vocabulary import build_vocabulary
from slm.errors import UsageError
from tests.eval.test_minimal_pairs_any import SpelledVoice

ONSETS, VOWELS, CODAS = ["b", "d", "k", "s", "t", "tr", "st", ""], ["a", "e", "i", "o"], ["", "", "n", "s", "nt"]


def random_words(number: int, seed: int) -> list[tuple[str, ...]]:
    """Of one or two syllables; frequent and rare segments, the first vowel stressed."""
    rng, made = random.Random(seed), dict[tuple[str, ...], None]()
    while len(made) < number:
        syllables = []
        for i in range(rng.choice([1, 2, 2])):
            onset = rng.choices(ONSETS, [8, 7, 6, 5, 4, 2, 2, 3])[0]
            syllables += [*onset, "ˈ" * (i == 0) + rng.choices(VOWELS, [6, 4, 2, 1])[0], *rng.choice(CODAS)]
        made.setdefault(tuple(syllables))
    return list(made)


class Slowly:
    """The same definitions, counted word by word over the whole list whenever asked."""

    def __init__(self, words: list[tuple[str, ...]]):
        self.words, self.counted = words, dict[tuple, int]()
        self.onsets = {w[: next(i for i, p in enumerate(w) if is_vowel(p))] for w in words}
        self.split = [self.segments(w) for w in words]

    def segments(self, word: tuple[str, ...]) -> list[tuple[str, ...]]:
        nuclei = [i for i, p in enumerate(word) if is_vowel(p)]
        made: list[tuple[str, ...]] = [word[: nuclei[0]]]
        for k, nucleus in enumerate(nuclei):
            end = nuclei[k + 1] if k + 1 < len(nuclei) else len(word)
            between = word[nucleus + 1 : end]
            cuts = [between[i:] for i in range(len(between) + 1) if between[i:] in self.onsets or i == len(between)]
            onset = cuts[0] if k + 1 < len(nuclei) else ()
            made += [(word[nucleus],), between[: len(between) - len(onset)], *([onset] if k + 1 < len(nuclei) else [])]
        return made

    def frequency(self, place: int, segments: list) -> int:
        """Words of as many segments that have the same two before and after `place`."""
        asked = (len(segments), place, *[None, *segments, None][place : place + 2])
        if asked not in self.counted:
            alike = ([None, *s, None] for s in self.split if len(s) == len(segments))
            self.counted[asked] = sum(tuple(s[place : place + 2]) == asked[2:] for s in alike)
        return self.counted[asked]

    def frequencies(self, segments: list) -> list[int]:
        return [self.frequency(place, segments) for place in range(len(segments) + 1)]

    def worst(self, word: list, other: list) -> int:
        return max(abs(a - b) for a, b in zip(self.frequencies(word), self.frequencies(other), strict=True))

    def all_candidates(self, word: list) -> list[list]:
        """Every chain of attested links with a third of the segments changed for as long ones, that is no word."""
        filled = [i for i, s in enumerate(word) if s]
        said = {tuple(map(bare, w)) for w in self.words}
        known = [{s[i] for s in self.split if len(s) == len(word)} for i in range(len(word))]
        found = []
        for places in combinations(filled, max(1, round(len(filled) / 3))):
            like = [[s for s in known[i] if s != word[i] and same_kind(s, word[i])] for i in places]
            for choice in product(*like):
                other = [choice[places.index(i)] if i in places else s for i, s in enumerate(word)]
                if min(self.frequencies(other)) > 0 and tuple(bare(p) for s in other for p in s) not in said:
                    found.append(other)
        return found


def same_kind(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    return len(a) == len(b) and [*map(stress_of, a)] == [*map(stress_of, b)]


def test_pseudo_words_are_the_nearest_of_all_candidates():
    words = random_words(250, seed=1)
    chains, slowly = Chains(words), Slowly(words)
    nearest, typical = [], []
    for word in random.Random(2).sample(words, 15):
        segments = slowly.segments(word)
        possible = slowly.all_candidates(segments)
        found = chains.pseudo_words(word, random.Random(3), 4)
        assert bool(found) == bool(possible)
        if not possible:
            continue
        for made in found:
            split = [*map(tuple, chains.syllables.segments(word) or [])]
            assert split == segments
            assert len(made) == len(word)
            assert tuple(map(bare, made)) not in {tuple(map(bare, w)) for w in words}
        deviations = sorted(slowly.worst(segments, other) for other in possible)
        reached = [
            min(slowly.worst(segments, o) for o in possible if tuple(p for s in o for p in s) == m) for m in found
        ]
        assert reached == sorted(reached)  # the nearest first; and each one is a candidate at all
        # A circle of radius 2^k holds it where one of radius 2^(k-1) holds none.
        assert reached[0] <= max(1, 2 * deviations[0])
        nearest.append(reached[0])
        typical.append(statistics.mean(deviations))
    assert statistics.mean(nearest) < 0.6 * statistics.mean(typical)


def test_pseudo_words_are_the_same_for_a_seed_and_no_regular_forms():
    words = random_words(250, seed=1)
    chains = Chains(words)
    first, again, other = ([chains.pseudo_words(w, random.Random(s), 3) for w in words[:40]] for s in (0, 0, 1))
    assert first == again
    assert first != other
    assert chains.pseudo_words(("s", "t"), random.Random(0), 3) == []  # no vowel
    english = Chains([("k", "ˈæ", "t"), ("d", "ˈɔ", "ɡ")], "en")
    assert english.is_word("dɔɡz")
    assert english.is_word(("k", "æ", "t", "ɪ", "ŋ"))
    assert not english.is_word("tæk")
    assert not Chains([("k", "ˈæ", "t")], "fr").is_word("kæts")


def test_a_word_with_another_weak_vowel_or_t_is_no_pseudo_word():
    kittens, teacher = ("k", "ˈɪ", "ʔ", "n̩", "z"), ("t", "ˈiː", "tʃ", "ɚ")
    english = Chains([kittens, teacher], "en")
    assert english.is_word(("k", "ɪ", "t", "ə", "n", "z"))  # espeak made it of "pigeons"
    assert english.is_word(("t", "iː", "tʃ", "ə"))
    assert not english.is_word(("p", "ɪ", "t", "ə", "n", "z"))
    assert not Chains([teacher], "fr").is_word(("t", "iː", "tʃ", "ə"))
    assert Phonotactics(["kˈæptᵊn"]).is_word("kæptɪn")
    assert not Phonotactics(["kˈæptᵊn"]).is_word("kæptʌn")


class Reader(SpelledVoice):
    """As it is spelled, but for one word."""

    def phonemize(self, text):
        return {"mesa": "mosa"}.get(text, text)


def test_whatever_is_heard_or_another_reading_of_a_word_is_no_pseudo_word(tmp_path):
    (tmp_path / "w.csv").write_text(
        "word,frequency,ipa\nkado,0.5,kado\nKado,,kedo\nmesa,2,mesa\n\n , ,\n", encoding="utf-8"
    )
    entries = read_lexicon(str(tmp_path / "w.csv"))
    assert [(e.word, e.frequency, e.others) for e in entries] == [("kado", 0.5, ("kedo",)), ("mesa", 2, ())]
    chains = build_vocabulary({"low": Reader("low", 1.0)}, entries, Counter(nuta=3)).chains
    assert all(map(chains.is_word, ("kado", "kedo", "mesa", "mosa", "nuta")))
    assert not chains.is_word("kada")
    assert not any("nuta"[:1] in link[2] or "nuta"[:1] in link[3] for link in chains.counts)  # no word to be made of


def test_syllables_by_maximal_onset_by_hand():
    known = Syllables([tuple(w) for w in ("stra", "tra", "ra", "ta", "sta", "ka", "ak")])
    assert known.segments(tuple("astra")) == ((), ("a",), (), tuple("str"), ("a",), ())
    assert known.segments(tuple("aktra")) == ((), ("a",), ("k",), tuple("tr"), ("a",), ())
    assert known.segments(tuple("anka")) == ((), ("a",), ("n",), ("k",), ("a",), ())
    assert known.segments(tuple("anma")) == ((), ("a",), tuple("nm"), (), ("a",), ())  # no word begins so
    assert known.segments(("b", "ʌ", "t", "n̩")) == (("b",), ("ʌ",), (), ("t",), ("n̩",), ())
    assert known.segments(tuple("pst")) is None


@pytest.mark.parametrize(("text", "said"), [
    ("HH AH0 L OW1", ("h", "ə", "l", "ˈoʊ")),
    ("ˈtʃɜːtʃ", ("tʃ", "ˈɜː", "tʃ")),  # stress goes to the vowel
    ("t͡sʰa", ("t͡sʰ", "a")),
    ("bɔ̃.ˈʒuʁ", ("b", "ɔ̃", "ʒ", "ˈu", "ʁ")),
    ("ˈk æ t", ("k", "ˈæ", "t")),
    ("b ˈʌ t n̩", ("b", "ˈʌ", "t", "n̩")),
    ("", ()),
])  # fmt: skip
def test_pronunciations_by_hand(text, said):
    assert parse(text, ["tʃ", "aɪ"]) == said


def test_lexicon_by_hand(tmp_path):
    path = tmp_path / "words.tsv"
    path.write_text("Count\tWord\tIPA\n3\tHaus\tˈhaʊs\n\tBaum\t\n2\thaus\tx\n", encoding="utf-8")
    assert [(e.word, e.frequency, e.pronunciation) for e in read_lexicon(str(path))] == [
        ("Haus", 5, "ˈhaʊs"), ("Baum", None, ""),
    ]  # fmt: skip
    path = tmp_path / "words.csv"
    path.write_text('word,phones\n"a, b",x\n', encoding="utf-8")
    assert read_lexicon(str(path))[0].word == "a, b"


@pytest.mark.parametrize(("text", "complaint"), [
    ("form,n\nx,1\n", "no column word; its first line must name"),
    ("word,frequency\nx,many\n", "line 2: frequency is 'many'"),
    ("word,frequency\nx,nan\n", "line 2: frequency is 'nan'"),
    ("word,frequency\nx\n", "line 2: 1 values for 2 columns"),
    ("word,frequency\n,2\n", "line 2: the word is empty"),
    ("word\n", "has no words"),
])  # fmt: skip
def test_a_bad_lexicon_is_named_with_its_line(tmp_path, text, complaint):
    (tmp_path / "bad.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=complaint):
        read_lexicon(str(tmp_path / "bad.csv"))


def test_a_lexicon_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "bad.tsv").write_bytes("word\tfrequency\nh\u00e9ron\t3\n".encode("latin-1"))
    with pytest.raises(UsageError, match=r"bad.tsv is not UTF-8 text .*convert it"):
        read_lexicon(str(tmp_path / "bad.tsv"))


@pytest.mark.parametrize("most", [1, 1000])
def test_what_comes_again_in_transcripts_is_looked_into_once(tmp_path, monkeypatch, most):
    """But for what would take too much to remember: then now and then."""
    looked = []
    monkeypatch.setattr("eval.minimal_pairs.lexicon._MOST_PIECES", most)
    monkeypatch.setattr(
        "eval.minimal_pairs.lexicon.words_of", lambda text, language: looked.append(text) or words_of(text, language)
    )
    (tmp_path / "a.txt").write_text("One, two-three two's.\n" * 50, encoding="utf-8")
    found = count_words(str(tmp_path / "a.txt"))
    assert list(found.items()) == [("one", 50), ("two-three", 50), ("two's", 50)]
    assert len(looked) == (3 if most > 3 else 150)


def test_words_of_transcripts_by_hand(tmp_path):
    assert words_of("84-121-0000 IT'S, well-known L’été 3rd!") == ["it's", "well-known", "l'été"]
    assert words_of("L’été d'abord", "fr") == ["été", "abord"]
    assert words_of(unicodedata.normalize("NFD", "Fenêtre, l'été.")) == ["fenêtre", "l'été"]
    assert words_of("किताब विद्यालय। நூல் می\u200cرود") == ["किताब", "विद्यालय", "நூல்", "می\u200cرود"]
    folder = tmp_path / "texts/deep"
    folder.mkdir(parents=True)
    (tmp_path / "texts/a.txt").write_text("One two\ntwo", encoding="utf-8")
    (folder / "b.trans.txt").write_text("1-2-3 TWO THREE\n", encoding="utf-8")
    expected = Counter(one=1, two=3, three=1)
    assert count_words(str(tmp_path / "texts")) == expected
    manifest = tmp_path / "m.jsonl"
    rows = [{"path": "a.wav", "text": "one two Two"}, {"path": "b.wav", "text": "two three"}, {"path": "c.wav"}]
    manifest.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert count_words(str(manifest)) == expected
    from datasets import Dataset

    Dataset.from_list([{"id": "x", "text": "one two two two three"}]).save_to_disk(str(tmp_path / "corpus"))
    assert count_words(str(tmp_path / "corpus")) == expected
    Dataset.from_list([{"id": "x"}]).save_to_disk(str(tmp_path / "silent"))
    for wrong, complaint in (("silent", "no column text"), ("nowhere", "no such file"), ("empty.txt", "no word")):
        (tmp_path / "empty.txt").write_text("123")
        with pytest.raises(UsageError, match=complaint):
            count_words(str(tmp_path / wrong))


GRAMMAR = """
language: xx
words: {noun: {forms: [sg, pl], list: [a/as, b/bs]}, verb: [c]}
templates:
  - {type: t, subtype: s, slots: {n: noun, v: verb}, pairs: [{right: "le {n.sg} {v}", wrong: "les {n.sg} {v}"},
     {right: "les {n.pl} {v}", wrong: "le {n.pl} {v}"}]}
"""


def test_a_grammar_by_hand(tmp_path):
    (tmp_path / "g.yaml").write_text(GRAMMAR)
    made = load_grammar(str(tmp_path / "g.yaml"))
    assert [(d.correct, d.incorrect) for d in made.designs["s"]] == [
        (("le a c", "les as c"), ("les a c", "le as c")), (("le b c", "les bs c"), ("les b c", "le bs c")),
    ]  # fmt: skip
    assert made.words == ["a", "as", "b", "bs", "c"]


@pytest.mark.parametrize(("old", "new", "complaint"), [
    ("wrong: \"le {n.pl}", "wrong: \"les {n.pl}", "template s: le, les is not as often"),
    ("{n.pl} {v}\", wrong", "{n.du} {v}\", wrong", r"\{n.du\} is no form; known: \['sg', 'pl'\]"),
    ("v: verb", "v: verbs", "no list 'verbs'; did you mean 'verb'"),
    ("le {n.sg}", "le {m.sg}", "no slot 'm'"),
    ("\"le {n.sg} {v}\"", "{n.sg}", "template s: {'n.sg': None} is no text"),
    ("a/as", "a", "list noun: a has 1 forms, not those of sg/pl"),
    ("verb: [c]", "verb: [c, no]", "list verb: False is no text to YAML; put quotes around it"),
    ("language: xx", "language: no", r"language is missing or no text \(quote the word no"),
    ("language: xx", "language: xx\nother_words: [on]", "other_words: True is no text"),
    ("language: xx", "language: xx\nother_words: on", "other_words is no list"),
    ("verb: [c]", "verb: [c], off: [d]", "False is no text"),
    ("v: verb", "yes: verb", "template s: True is no text"),
    ("verb: [c]", "verb: c", r"list verb is no list of words, and no \{forms"),
    ("list: [a/as, b/bs]", "list: 3", "list noun is no list of words"),
    ("{n: noun, v: verb}", "[noun, verb]", "template s: slots name a list each"),
    ("n: noun", "n: [noun]", "template s: slots name a list each"),
    ("templates:", "template:", "templates is missing"),
    ("language: xx", "language: xx\nother_words: [bs]", "bs among other_words"),
])  # fmt: skip
def test_a_bad_grammar_says_what_is_wrong(tmp_path, old, new, complaint):
    assert old in GRAMMAR
    (tmp_path / "g.yaml").write_text(GRAMMAR.replace(old, new))
    with pytest.raises(UsageError, match=complaint):
        load_grammar(str(tmp_path / "g.yaml"))


def test_no_sentence_is_tested_twice_or_was_heard():
    """French designs share sentences: "le chat dort dehors" stands beside that of each noun with "la"."""
    world, sieve = load_grammar("french"), SimpleNamespace(passes=lambda design: True)
    everything = [d for group in world.designs.values() for d in group if d.held_out]
    assert len({d.correct[0] for d in everything}) < len(everything)
    heard = set(islice(training_sentences(random.Random(0), world.designs), 20_000))
    designs = list(_designs(world, random.Random(1), sieve, held_out=True))
    tested = [text for d in designs for text in d.correct]
    assert len(tested) == len(set(tested))
    assert not heard & {*tested}
    assert [d.subtype for d in designs].count("le_la_subject") > 20
    shared = {text for text in heard if text.endswith("dort dehors")}
    assert 15 < len(shared) < 25  # of 28, a third of which is kept for the test


def test_no_word_and_no_place_tells_in_the_shipped_grammars():
    assert set(shipped()) == {"english", "french"}
    for name in shipped():
        grammar = load_grammar(name)
        assert for_language(grammar.language) == name
        for design in (d for group in grammar.designs.values() for d in group):
            right, wrong = (Counter(" ".join(side).split()) for side in (design.correct, design.incorrect))
            assert right == wrong
            assert len({*design.correct, *design.incorrect}) == 4
            first = [[text.split()[0] for text in side] for side in (design.correct, design.incorrect)]
            assert sorted(first[0]) == sorted(first[1])
        assert all(any(d.held_out for d in group) and not all(d.held_out for d in group)
                   for group in grammar.designs.values())  # fmt: skip
    types = {d.type for group in load_grammar("english").designs.values() for d in group}
    assert types == {
        "determiner_noun_agreement", "subject_verb_agreement", "anaphor_agreement", "negative_polarity",
    }  # fmt: skip
    nouns = load_grammar("french").content["words"]
    assert not {"docteur", "reine", "chèvre", "poule"} & {*nouns["il"], *nouns["elle"]}  # la docteure, le renne, ...
    with pytest.raises(UsageError, match="did you mean 'french'"):
        load_grammar("frensh")


@pytest.mark.parametrize(("name", "right", "wrong"), [
    ("english", "no pilots ever worked but some rabbits started", "some pilots ever worked but no rabbits started"),
    ("english", "some rabbits started but no pilots ever worked", "no rabbits started but some pilots ever worked"),
    ("english", "the king helped himself today", "the king helped herself today"),
    ("english", "those", "that"),
    ("french", "les chats vont dormir demain", "les chats va dormir demain"),
    ("french", "le chat veut dormir demain", "le chat veulent dormir demain"),
    ("french", "la vache chante bien", "le vache chante bien"),
])  # fmt: skip
def test_shipped_grammars_know_their_language(name, right, wrong):
    pairs = [
        pair
        for g in load_grammar(name).designs.values()
        for d in g
        for pair in zip(d.correct, d.incorrect, strict=True)
    ]
    if len(right.split()) == 1:
        assert any(a.replace(right, wrong) == b for a, b in pairs if right in a.split())
    else:
        assert (right, wrong) in pairs


def test_hibari_s_alphabet_and_ipa():
    pytest.importorskip("hibari")
    voice = HibariVoice()
    assert voice.ipa("ʧˈɜɹʧ.") == ("tʃ", "ˈɜ", "ɹ", "tʃ")
    assert voice.spoken(("tʃ", "ˈɜː", "tʃ")) == "ʧˈɜɹʧ"
    assert voice.spoken(parse("HH AH0 L OW1")) == "həlˈO"
    assert voice.spoken(("ʁ", "y")) is None
    for word in ("rabbit", "church", "boys", "house", "time"):
        said = voice.phonemize(word)
        assert voice.spoken(voice.ipa(said)) == said
