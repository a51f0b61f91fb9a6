"""Metrics of texts: by hand, against slow readings of their definitions, and against nltk and jiwer where at hand."""

from __future__ import annotations

import math
import unicodedata

import numpy as np
import pytest

from eval.metrics.auto_bleu import AutoBleu, GeometricAutoBleu, geometric_auto_bleu, repeated_share
from eval.metrics.base import CorpusMetric
from eval.metrics.bootstrap import estimate
from eval.metrics.distinct_n import DistinctOne, DistinctTwo
from eval.metrics.gen_perplexity import GenPerplexity, GenPerplexityMedian, GenPerplexityTokens
from eval.metrics.self_bleu import SelfBleu, Vert, self_bleu, vert
from eval.metrics.texts import TextLikelihood, Transcript, Transcription, ngrams, words_of
from eval.metrics.word_errors import CharacterErrorRate, WordErrorRate, edit_distance
from tests.contracts import metric_law


def said(*texts: str) -> list[Transcript]:
    return [Transcript(str(i), words_of(text)) for i, text in enumerate(texts)]


def random_texts(count: int, seed: int, vocabulary: int = 6, longest: int = 12) -> list[tuple[str, ...]]:
    rng = np.random.default_rng(seed)
    return [tuple(f"w{i}" for i in rng.integers(0, vocabulary, rng.integers(0, longest))) for _ in range(count)]


@pytest.mark.parametrize(
    ("text", "words"),
    [("Hello - it's 5 O’Clock!", ["hello", "it's", "5", "o'clock"]), ("", []), (" ... '' _ ", []),
     ("'quoted' Ёлка, d'où?", ["quoted", "ёлка", "d'où"])],
)  # fmt: skip
def test_words_are_what_is_between_punctuation(text, words):
    assert list(words_of(text)) == words


def test_words_of_any_script_are_whole():
    """Vowel signs, tone marks and joiners are no letters, but stand inside words. As the package regex tells letters,
    digits and marks."""
    regex = pytest.importorskip("regex")
    assert words_of("नमस्ते दुनिया। สวัสดี, مُحَمَّد می‌خواهم") == ("नमस्ते", "दुनिया", "สวัสดี", "مُحَمَّد", "می‌خواهم")
    assert words_of("İstanbul ❤️ \u0301") == ("i\u0307stanbul",)
    rng = np.random.default_rng(0)
    known = [c for c in map(chr, range(32, 0x0F00)) if unicodedata.category(c) != "Cn"]  # to both, whichever is newer
    for _ in range(300):
        text = "".join(rng.choice(known, 30)).lower()
        split = regex.split(r"[^\p{L}\p{N}\p{M}\u200c\u200d'_]+", unicodedata.normalize("NFC", text))
        words = [w for part in split if regex.search(r"[\p{L}\p{N}]", w := part.strip("'_\u200c\u200d"))]
        assert list(words_of(text)) == words


def test_auto_bleu_by_hand():
    """the cat | cat the | the cat | cat ran: 2 of 4; the other text repeats nothing."""
    items = said("the cat the cat ran", "one two three")
    metric_law(AutoBleu(), items, expected=0.25, better=said("a cat the cat ran", "one two three"))


def test_geometric_auto_bleu_by_hand():
    """Words: the x2, cat x2 of 5 -> 4/5. Pairs: the cat x2 of 4 -> 1/2. sqrt(0.4), and 0 for the other."""
    items = said("the cat the cat ran", "one two three")
    metric_law(GeometricAutoBleu(), items, expected=math.sqrt(0.4) / 2, better=said("the cat ran", "one two three"))


def test_the_two_auto_bleus_differ_where_pairs_overlap():
    """a a a has the pair twice, but no two that do not share a word."""
    assert repeated_share("aaa", 2) == 1.0
    assert geometric_auto_bleu("aaa", 2) == 0.0
    assert geometric_auto_bleu("aaaa", 2) == pytest.approx(math.sqrt(2 / 3))
    assert geometric_auto_bleu("a", 2) == repeated_share("a", 2) == repeated_share("", 2) == 0.0


def slow_apart_share(words, n):
    """As written in words: n-grams of what stands before and of what stands behind."""
    grams = ngrams(words, n)
    return np.mean([g in ngrams(words[:p], n) + ngrams(words[p + n :], n) for p, g in enumerate(grams)])


@pytest.mark.parametrize("seed", range(5))
def test_geometric_auto_bleu_agrees_with_cutting_the_text(seed):
    for words in (w for w in random_texts(20, seed, vocabulary=3) if len(w) >= 3):
        for order in (2, 3):
            slow = np.prod([slow_apart_share(words, n) for n in range(1, order + 1)]) ** (1 / order)
            assert geometric_auto_bleu(words, order) == pytest.approx(slow)


def test_self_bleu_by_hand():
    """a b c against (a b d, c c): 3/3 words, 1/2 pairs. a b d: 2/3 and 1/2. c c: one c of two, no pair."""
    items = said("a b c", "a b d", "c c")
    expected = (math.sqrt(1 / 2) + math.sqrt(1 / 3) + 0) / 3
    metric_law(SelfBleu(), items, expected=expected, better=said("a b c", "a e d", "c c"))
    assert self_bleu([("a", "b"), ("a", "b")], 2) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(4))
def test_self_bleu_agrees_with_nltk(seed):
    """nltk's precisions, without its brevity penalty: what the GSLM code computes."""
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    texts = [t for t in random_texts(15, seed) if len(t) >= 2]
    slow = []
    for i, text in enumerate(texts):
        others = texts[:i] + texts[i + 1 :]
        slow.append(math.sqrt(math.prod(float(bleu.modified_precision(others, text, n)) for n in (1, 2))))
    assert self_bleu(texts, 2) == pytest.approx(np.mean(slow))


def test_vert_is_the_geometric_mean_of_both():
    texts = random_texts(10, 7, vocabulary=3)
    auto = np.mean([geometric_auto_bleu(t, 2) for t in texts])
    assert vert(texts) == pytest.approx(math.sqrt(self_bleu(texts, 2) * auto))
    items = [Transcript(str(i), t) for i, t in enumerate(texts)]
    fresh = [Transcript("x", tuple(f"only{i}" for i in range(12))), *items[1:]]
    metric_law(Vert(), items, expected=vert(texts), better=fresh)
    assert math.isnan(vert(texts[:1]))
    assert math.isnan(vert([]))


def test_texts_of_silence_are_observations():
    """All empty: nothing repeats and nothing is alike; nothing divides by zero."""
    silent = said("", "", "")
    assert [m.value(silent) for m in (AutoBleu(), GeometricAutoBleu(), SelfBleu(), Vert())] == [0, 0, 0, 0]
    assert math.isnan(DistinctOne().value(silent))


def test_distinct_by_hand():
    """4 different of 5 words; pairs a b, b a, c d: all different of 3."""
    items = said("a b a", "c d")
    metric_law(DistinctOne(), items, expected=4 / 5, better=said("a b e", "c d"))
    metric_law(DistinctTwo(), said("a b a", "a b"), expected=2 / 3, better=said("a b a", "c b"))


def test_word_errors_by_hand():
    """the cat sat -> the hat: one wrong, one missing of 3; 'a b' understood as nothing: 2 of 2."""
    items = [Transcription("x", ("the", "hat"), ("the", "cat", "sat")), Transcription("y", (), ("a", "b"))]
    better = [items[0], Transcription("y", ("a",), ("a", "b"))]
    metric_law(WordErrorRate(), items, expected=4 / 5, better=better)
    metric_law(CharacterErrorRate(), items, expected=(1 + 4 + 3) / (11 + 3), better=better)
    assert math.isnan(WordErrorRate().value([Transcription("x", ("a",), ())]))


@pytest.mark.parametrize("seed", range(3))
def test_edits_agree_with_jiwer(seed):
    jiwer = pytest.importorskip("jiwer")
    hypotheses, references = random_texts(40, seed), [("x", *t) for t in random_texts(40, seed + 100)]
    found = WordErrorRate().value(
        [Transcription(str(i), *p) for i, p in enumerate(zip(hypotheses, references, strict=True))]
    )
    assert found == pytest.approx(jiwer.wer([" ".join(r) for r in references], [" ".join(h) for h in hypotheses]))


def test_edits_agree_with_the_recursion():
    def slow(a, b):
        if not a or not b:
            return len(a) + len(b)
        return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))

    rng = np.random.default_rng(0)
    for _ in range(60):
        a, b = (rng.integers(0, 3, rng.integers(0, 6)).tolist() for _ in range(2))
        assert edit_distance(a, b) == slow(a, b)


def test_perplexities_by_hand():
    """NLL a token: ln 2 over 3, ln 8 over 1. Mean ln 4; all: 6 ln 2 over 4 tokens; median of 2 and 8: 5."""
    bit = math.log(2)
    items = [TextLikelihood("a", 3 * bit, 3), TextLikelihood("b", 3 * bit, 1)]
    better = [TextLikelihood("a", 2 * bit, 3), TextLikelihood("b", 3 * bit, 1)]
    metric_law(GenPerplexity(), items, expected=4.0, better=better)
    metric_law(GenPerplexityTokens(), items, expected=2**1.5, better=better)
    metric_law(GenPerplexityMedian(), items, expected=5.0, better=better)


@pytest.mark.parametrize("wrong", [TextLikelihood("b", 0.0, 0), TextLikelihood("b", math.nan, 3)])
def test_a_text_without_tokens_is_refused_by_name(wrong):
    for metric in (GenPerplexity(), GenPerplexityTokens(), GenPerplexityMedian()):
        with pytest.raises(ValueError, match="'b'"):
            metric.value([TextLikelihood("a", 1.0, 1), wrong])


def test_intervals_of_a_perplexity_are_those_of_its_logarithm():
    metric = GenPerplexity()
    items = [TextLikelihood(str(i), nll, 1) for i, nll in enumerate(np.random.default_rng(0).normal(3, 1, 50))]
    found = estimate([metric.observe(items)], 500, seed=0)
    assert (
        metric.shown(found.interval[0])
        < metric.value(items)
        == metric.shown(found.value)
        < metric.shown(found.interval[1])
    )


def test_what_only_the_whole_has_is_one_observation():
    assert issubclass(Vert, CorpusMetric)
    assert len(Vert().observe(said("a b", "a c"))) == 1
