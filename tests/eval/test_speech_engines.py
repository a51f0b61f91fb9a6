"""The voices that minimal pairs are read by: how they are called, and what eSpeak says."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

from eval.benchmarks.base import Setup
from eval.benchmarks.sblimp import SBlimp
from eval.benchmarks.swuggy import SWuggy
from eval.minimal_pairs.__main__ import MinimalPairsConfig, main
from eval.minimal_pairs.engines import Voices, open_voices
from eval.minimal_pairs.voice import render
from slm.errors import UsageError
from tests.contracts import benchmark_law
from tests.eval.test_minimal_pairs_any import gold, num_samples

ESPEAK = "pip install espeakng-loader==0.2.4"


def test_voices_of_the_command_line():
    with pytest.raises(UsageError, match="unknown speech engine 'hibary'; did you mean 'hibari'"):
        open_voices(["hibary:heart"])
    with pytest.raises(UsageError, match="names none"):
        open_voices([])


def test_espeak_says_the_same_whatever_it_said_before():
    pytest.importorskip("espeakng_loader", reason=ESPEAK)
    first, second = (open_voices(["espeak:fr+f2"])["fr+f2"] for _ in range(2))
    alone = render(first, first.phonemize("grenouille"), 1.0, 0)
    second.learn(["bonjour", "fenêtre"])
    for text in ("bonjour", "fenêtre", "grenouille"):
        after = render(second, second.phonemize(text), 1.0, 0)
    np.testing.assert_array_equal(alone, after)
    assert not np.array_equal(alone, render(first, first.phonemize("grenouille"), 1.0, 1))  # the breath is another
    assert 0.2 < len(alone) / 16_000 < 1.0
    slow = render(first, first.phonemize("grenouille"), 0.9, 0)
    assert 1.02 < len(slow) / len(alone) < 1.25
    assert os.getpgid(first._process.pid) != os.getpgid(0)  # which Ctrl-C is for
    first._process.stdout.close()  # as when this process is killed
    first._process.stdin.write(b"{}\n")
    first._process.stdin.close()
    assert first._process.wait() == 0


def test_espeak_writes_ipa_and_reads_it():
    pytest.importorskip("espeakng_loader", reason=ESPEAK)
    voice = open_voices(["espeak:fr"])["fr"]
    voice.learn(["chat", "bonjour", "enfant", "grenouille", "football"])
    # As a French dictionary has them, but for the mark of stress.
    assert voice.ipa(voice.phonemize("chat")) == ("ʃ", "ˈa")
    assert voice.ipa(voice.phonemize("bonjour")) == ("b", "ɔ̃", "ʒ", "ˈu", "ʁ")
    for word in ("chat", "bonjour", "enfant", "grenouille"):
        said = voice.ipa(voice.phonemize(word))
        assert voice.ipa(voice.spoken(said)) == said
    assert voice.spoken(("ʘ", "a")) is None
    assert voice.phonemize("football") == ""  # it would be read as English
    with pytest.raises(UsageError, match=r"no language 'xx'; known: .*fr, "):
        open_voices(["espeak:xx"])
    with pytest.raises(UsageError, match=r"no variant 'nobody'; known: .*f2"):
        open_voices(["espeak:fr+nobody"])


def test_voices_must_speak_one_language():
    pytest.importorskip("espeakng_loader", reason=ESPEAK)
    with pytest.raises(UsageError, match=r"one language: fr speaks fr, de speaks de"):
        open_voices(["espeak:fr", "espeak:de"])
    with pytest.raises(UsageError, match="'fr' twice"):
        open_voices(["espeak:fr", "espeak:fr"])


def test_espeak_missing_is_one_line_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UsageError, match=ESPEAK):
        open_voices(["espeak:fr"])


@pytest.mark.thorough
def test_french_pairs_by_two_variants_of_espeak(tmp_path):
    pytest.importorskip("espeakng_loader", reason=ESPEAK)
    root, voices = tmp_path / "fr", ["espeak:fr", "espeak:fr+f2"]
    main(MinimalPairsConfig(out=str(root), voices=voices, grammar="french", minutes=0.05, pairs=6, workers=1),
         make_voices=Voices(tuple(voices)))  # fmt: skip
    benchmark_law(SWuggy(Setup(root)))
    benchmark_law(SBlimp(Setup(root)))
    for task in ("lexical", "syntactic"):
        rows = gold(root, task)
        assert {r["voice"] for r in rows} == {"fr", "fr+f2"}
        lengths = np.array([num_samples(root, task, r) for r in rows]).reshape(-1, 2)
        assert np.abs(lengths[:, 0] - lengths[:, 1]).max() <= 320
    assert {r["type"] for r in gold(root, "syntactic")} == {"determiner_noun_agreement", "subject_verb_agreement"}


def test_voices_with_commas_between_are_told_how_they_are_given():
    with pytest.raises(UsageError, match="--voices espeak:en,espeak:fr: give several with blanks between them"):
        MinimalPairsConfig("out", voices=["espeak:en,espeak:fr"])
