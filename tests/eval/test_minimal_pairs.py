"""The generator keeps its promises: recounted from the files it wrote, with a stand-in voice of tones."""

import csv
import itertools
import json
import math
import os
import pickle
import random
import signal
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
import soxr

from eval.minimal_pairs import grammar
from eval.minimal_pairs.__main__ import MinimalPairsConfig, main
from eval.minimal_pairs.balance import choose_balanced
from eval.minimal_pairs.engines.hibari import HibariVoice
from eval.minimal_pairs.phonology import Phonotactics, phones
from eval.minimal_pairs.synthesis import alone, open_studio
from eval.minimal_pairs.utterance import utterance
from eval.minimal_pairs.voice import render, trim
from slm.errors import StoppedError, UsageError

SPOKEN = {
    "this": "ðɪs", "these": "ðiz", "that": "ðæt", "those": "ðOz", "is": "ɪz", "are": "ɑɹ", "was": "wʌz", "were": "wɜɹ",
    "has": "hæz", "have": "hæv", "he": "hi", "she": "ʃi", "we": "wi", "they": "ðA", "the": "ðə", "woman": "wʊmən",
    "women": "wɪmən", "mouse": "mWs", "mice": "mIs", "goose": "ɡus", "geese": "ɡis",
    "himself": "hɪmsɛlf", "herself": "hɜɹsɛlf", "ourselves": "Wɹsɛlvz", "themselves": "ðəmɛlvz",
}  # fmt: skip


class ToneVoice:
    """One tone for each phoneme, of its own pitch and duration; letters stand for the phonemes of most words."""

    name, engine, rate_hz = "tones", "tones 1", 16_000

    def phonemize(self, text):
        return " ".join(SPOKEN.get(word, word[0] + "ˈ" + word[1:]) for word in text.split())

    def synthesize(self, phonemes, speed, seed):
        rng, parts = np.random.default_rng(seed), [np.zeros(3_200)]
        for phoneme in phones(phonemes):
            t = np.arange(round((25 + 4 * (ord(phoneme) % 9)) / 1000 / speed * self.rate_hz)) / self.rate_hz
            parts.append(0.5 * np.sin(2 * np.pi * (150 + 23 * (ord(phoneme) % 97)) * t))
        samples = np.concatenate([*parts, np.zeros(4_800)])
        return (samples + 1e-4 * rng.standard_normal(len(samples))).astype(np.float32)

    def pronunciations(self):
        rng = random.Random(0)
        shapes = ["".join(rng.choice("bdfgklmnprstvwz" if i % 2 else "aeiou") for i in range(k)) for k in [7, 8] * 300]
        return [*shapes, *map(self.phonemize, [*grammar.content_words(), *grammar.HELD_OUT_WORDS])]


def make(out: Path, **options) -> Path:
    main(MinimalPairsConfig(out=str(out), **{"minutes": 4.0, "pairs": 60, "workers": 1, **options}), ToneVoice)
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("pairs") / "out")


def gold(root: Path, task: str) -> list[dict[str, str]]:
    with open(root / task / "dev" / "gold.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def pairs(root: Path, task: str) -> list[tuple[dict, dict]]:
    """k-th right row with k-th wrong row, as the syntactic task pairs them; ids must agree."""
    rows = gold(root, task)
    both = zip([r for r in rows if r["correct"] == "1"], [r for r in rows if r["correct"] == "0"], strict=True)
    found = list(both)
    assert all((a["id"], a["voice"]) == (b["id"], b["voice"]) for a, b in found)
    assert len({a["id"] for a, _ in found}) == len(found)
    return found


def corpus(root: Path) -> list[dict]:
    return [json.loads(line) for line in (root / "corpus/manifest.jsonl").read_text(encoding="utf-8").splitlines()]


def num_samples(root: Path, task: str, row: dict) -> int:
    info = sf.info(root / task / "dev" / f"{row['filename']}.wav")
    assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
    return info.frames


def test_layout(made):
    header = (made / "lexical/dev/gold.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == "filename,id,voice,frequency,word,phones,length,correct"
    header = (made / "syntactic/dev/gold.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == "filename,id,voice,type,subtype,transcription,correct"
    for row in corpus(made):
        info = sf.info(made / "corpus" / row["path"])
        assert info.samplerate == 16_000
        assert info.duration == pytest.approx(row["duration_s"], abs=1e-4)
    description = json.loads((made / "generated.json").read_text(encoding="utf-8"))
    assert description["counts"]["syntactic_pairs"] == len(pairs(made, "syntactic")) == 60
    assert description["counts"]["lexical_pairs_held_out"] == 12
    assert len(pairs(made, "lexical")) == 60


@pytest.mark.parametrize("task", ["lexical", "syntactic"])
def test_durations_match_within_a_frame_and_either_side_is_longer_equally_often(made, task):
    difference = np.array([num_samples(made, task, a) - num_samples(made, task, b) for a, b in pairs(made, task)])
    assert np.abs(difference).max() <= 320
    assert abs(np.sign(difference).mean()) <= 0.1
    assert abs(difference.mean()) <= 32


def test_lexical_pairs_have_equally_many_phonemes_and_balanced_ones(made):
    counts = Counter("".join(phones(row["phones"]) for row in corpus(made)))
    in_words, in_pseudo_words, favoured = Counter(), Counter(), []
    for word, other in pairs(made, "lexical"):
        right, wrong = word["phones"].split(), other["phones"].split()
        assert len(right) == len(wrong) == int(word["length"])
        assert 1 <= sum(a != b for a, b in zip(right, wrong, strict=True)) <= 2
        in_words.update(right)
        in_pseudo_words.update(wrong)
        favoured.append(math.fsum(math.log(counts[p]) for p in right) - math.fsum(math.log(counts[p]) for p in wrong))
    assert abs(np.sign(np.round(favoured, 6)).mean()) <= 0.1
    assert abs(np.mean(favoured)) <= 0.1
    # An unbalanced choice differs by about one or two phonemes a pair.
    unmatched = sum((in_words - in_pseudo_words).values())
    assert unmatched <= 0.5 * len(favoured)


def test_frequency_counts_training_words_and_held_out_words_are_never_said(made):
    said = Counter(word for row in corpus(made) for word in row["text"].split())
    held_out = 0
    for word, other in pairs(made, "lexical"):
        assert int(word["frequency"]) == said[word["word"]]
        assert (word["word"] in grammar.HELD_OUT_WORDS) == (int(word["frequency"]) == 0)
        assert other["frequency"] == "0"
        held_out += word["frequency"] == "0"
    assert held_out == 12
    assert not set(grammar.HELD_OUT_WORDS) & set(said)


def test_test_sentences_have_new_content_and_known_words(made):
    trained = {row["text"] for row in corpus(made)}
    tested = {text for a, b in pairs(made, "syntactic") for text in (a["transcription"], b["transcription"])}
    assert not trained & tested
    design_of = {text: d for group in grammar.designs().values() for d in group for text in d.correct}
    contents = {(d.subtype, d.content) for text in trained if (d := design_of.get(text))}
    tested_contents = {(d.subtype, d.content) for text in tested if (d := design_of.get(text))}
    assert len(tested_contents) == 30
    assert not contents & tested_contents
    possible = {
        w for g in grammar.designs().values() for d in g if not d.held_out for t in d.correct for w in t.split()
    }
    assert {word for text in tested for word in text.split()} <= possible


def test_every_word_of_the_syntactic_task_is_as_often_right_as_wrong(made):
    rows = pairs(made, "syntactic")
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        right = Counter(" ".join(pair[0]["transcription"] for pair in (first, second)).split())
        wrong = Counter(" ".join(pair[1]["transcription"] for pair in (first, second)).split())
        assert right == wrong
        assert first[0]["subtype"] == second[0]["subtype"]
    assert {a["type"] for a, _ in rows} == {
        "determiner_noun_agreement", "subject_verb_agreement", "anaphor_agreement",
    }  # fmt: skip


@pytest.mark.parametrize(("right", "wrong"), [
    ("this rabbit waited today", "these rabbit waited today"),
    ("she carried those baskets", "she carried that baskets"),
    ("the doctors are hungry", "the doctors is hungry"),
    ("the kitten was singing near the river", "the kitten were singing near the river"),
    ("the tiger has the golden lemon", "the tiger have the golden lemon"),
    ("the mice walk to the castle", "the mouse walk to the castle"),
    ("they swim to the island", "she swim to the island"),
    ("the queen helped herself today", "the queen helped himself today"),
    ("we watched ourselves again", "they watched ourselves again"),
    ("he praised himself tonight", "she praised himself tonight"),
])  # fmt: skip
def test_designs_know_english(right, wrong):
    found = {pair for g in grammar.designs().values() for d in g for pair in zip(d.correct, d.incorrect, strict=True)}
    assert (right, wrong) in found


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.thorough
def test_same_bytes_when_interrupted_and_with_other_workers(made, tmp_path):
    again = make(tmp_path / "again", workers=2)
    assert tree(again) == tree(made)
    (again / "generated.json").unlink()
    for path in sorted(again.rglob("*.wav"))[::3]:
        path.unlink()
    (again / "corpus/.00003.wav.tmp-1").write_bytes(b"half")
    make(again)
    assert tree(again) == tree(made)
    next(again.rglob("lexical/dev/*.wav")).unlink()  # lost after all was there
    make(again)
    assert tree(again) == tree(made)
    assert tree(make(tmp_path / "other", seed=1, minutes=0.5, pairs=4)) != tree(made)


def test_finished_folder_is_left_alone_and_other_settings_are_refused(made, capsys):
    before = tree(made)
    make(made)
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(UsageError, match="other settings"):
        make(made, seed=1)
    assert tree(made) == before


def test_processes_can_be_told_their_voices_by_the_command(tmp_path, monkeypatch):
    """Of a module that runs as the command, other processes find nothing."""
    sent = []

    def no_studio(make_voices, workers, tokenizers):
        sent.append(pickle.dumps(make_voices))
        raise UsageError("closed")

    monkeypatch.setattr("eval.minimal_pairs.synthesis.open_studio", no_studio)
    with pytest.raises(UsageError, match="closed"):
        make(tmp_path / "out")
    assert b"__main__" not in sent[0]
    assert pickle.loads(sent[0])()[""].name == "tones"


def die(item):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_ends_the_command_which_says_so():
    told = pytest.raises(StoppedError, match=r"one of 2 processes was killed.* fewer --workers")
    with told, open_studio(partial(alone, ToneVoice), 2) as studio:
        list(studio._each("", die, range(40)))


def test_more_pairs_than_can_be_matched_is_a_usage_error(tmp_path, monkeypatch):
    monkeypatch.setattr(grammar, "HELD_OUT_WORDS", ())
    with pytest.raises(UsageError, match="ask for --pairs 8 or fewer"):
        make(tmp_path / "out", minutes=0.5, pairs=10)
    assert not (tmp_path / "out").exists()


@pytest.mark.thorough
def test_units_of_tokenizers_are_balanced_on_request(tmp_path):
    """Runs of one codebook, all codes of several: each occurs about as often on either side."""
    from slm.tokenizers import load_tokenizer
    from slm.types import AudioClip

    runs, codec = map(load_tokenizer, ("logmel-kmeans", "codec2-700c"))

    def codes(tokenizer, file: Path) -> np.ndarray:
        samples, rate_hz = sf.read(file, dtype="float32")
        samples = soxr.resample(samples, rate_hz, tokenizer.spec.sample_rate_hz)
        return tokenizer.encode([AudioClip("x", samples, tokenizer.spec.sample_rate_hz)])[0].codes

    def units(file: Path) -> Counter:
        found = Counter(unit for unit, _ in itertools.groupby(codes(runs, file)[:, 0].tolist()))
        return found + Counter((k, code) for frame in codes(codec, file).tolist() for k, code in enumerate(frame))

    def imbalance(root: Path) -> tuple[int, int]:
        right, wrong = Counter(), Counter()
        for good, bad in pairs(root, "lexical"):
            right.update(units(root / "lexical/dev" / f"{good['filename']}.wav"))
            wrong.update(units(root / "lexical/dev" / f"{bad['filename']}.wav"))
        squares = {unit: (right[unit] - wrong[unit]) ** 2 for unit in right | wrong}
        of_runs = sum(v for unit, v in squares.items() if isinstance(unit, int))
        return of_runs, sum(squares.values()) - of_runs

    asked = imbalance(make(tmp_path / "asked", minutes=0.5, pairs=40, tokenizer=["logmel-kmeans", "codec2-700c"]))
    plain = imbalance(make(tmp_path / "plain", minutes=0.5, pairs=40))
    assert asked[0] < 0.6 * plain[0]
    assert asked[1] < 0.6 * plain[1]


def test_units_are_counted_of_each_tokenizer_and_codebook(monkeypatch):
    """Runs once with one codebook; with several every frame."""
    made = {1: [[3], [3], [0], [3]], 2: [[1, 0], [1, 2], [0, 2], [1, 2]]}

    def tokenizer(k: int):
        spec = SimpleNamespace(sample_rate_hz=8000, num_codebooks=k, codebook_sizes=(4, 3)[:k])
        return SimpleNamespace(spec=spec, encode=lambda clips: [SimpleNamespace(codes=np.array(made[k]))])

    monkeypatch.setattr("slm.tokenizers.load_tokenizer", tokenizer)
    with open_studio(partial(alone, ToneVoice), 1, [1, 2]) as studio:
        counted = studio.count_units([utterance(0, "test", "a", "a.")] * 3)
    assert [[c.tolist() for c in of_one] for of_one in counted] == [[[1, 0, 0, 2]] * 3, [[1, 3, 0, 0, 1, 0, 3]] * 3]


def test_choice_is_near_the_best_of_all_choices():
    rng = np.random.default_rng(0)
    options = [rng.normal(size=(4, 2)) for _ in range(6)]
    best = min(
        np.square(np.sum([g[i] for g, i in zip(options, picks, strict=True)], axis=0)).sum()
        for picks in itertools.product(range(4), repeat=6)
    )
    typical = np.mean([np.square(np.sum([g[rng.integers(4)] for g in options], axis=0)).sum() for _ in range(500)])
    picked = choose_balanced(options, np.random.default_rng(1))
    reached = np.square(np.sum([g[i] for g, i in zip(options, picked, strict=True)], axis=0)).sum()
    assert best <= reached <= best + 0.1 * typical
    options = [rng.normal(size=(4, 3)) for _ in range(60)]
    total = np.sum(chosen := [g[i] for g, i in zip(options, choose_balanced(options, rng), strict=True)], axis=0)
    nearest = min(np.square(total - one + g).sum(axis=1).min() for g, one in zip(options, chosen, strict=True))
    assert nearest >= np.square(total).sum() - 1e-9  # no other choice in one group comes nearer


def test_pseudo_words_by_hand():
    # The only other sequences attested are those of "tap", "pat" and "mat"; "mat" is a word, so is "mats".
    tactics = Phonotactics(["tˈap", "pˈat", "mˈat", "sat"])
    assert tactics.is_legal("sat")
    assert not tactics.is_legal("tam")  # no word ends in "am"
    assert tactics.is_word("mats")
    assert tactics.is_word("mat")
    assert not tactics.is_word("pap")
    assert set(tactics.pseudo_words("pˈat", "apstm", random.Random(0), 10)) <= {"pˈap", "tˈat", "mˈap", "sˈap"}


def test_a_reading_is_trimmed_to_40_ms_around_the_sound_and_keeps_its_level():
    tone = 0.5 * np.sin(2 * np.pi * 200 * np.arange(1_600) / 16_000)
    quiet = 0.009 * np.tile(tone, 2)  # 41 dB below
    trimmed = trim(np.concatenate([quiet, tone, np.zeros(4_800)]))
    assert len(trimmed) == 640 + 1_600 + 640
    np.testing.assert_array_equal(trimmed[640:-640], tone)
    assert len(trim(np.concatenate([0.011 * tone, tone]))) == 3_200
    for amplitude, loudest in ((1.0, 16_383), (3.0, 32_767)):
        voice = SimpleNamespace(rate_hz=16_000, synthesize=lambda *_, a=amplitude: a * tone)
        assert np.abs(render(voice, "", 1.0, 0)).max() == loudest
    for silent in (np.zeros(1_000), np.zeros(3)):
        assert len(trim(silent)) == len(silent)


def test_hibari_speaks_and_repeats_itself():
    pytest.importorskip("hibari")
    voice = HibariVoice()
    spoken = voice.phonemize("rabbit")
    assert phones(spoken) == "ɹæbət"
    first, second, other = (render(voice, f"{spoken}.", 1.0, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
    assert 0.3 < len(first) / 16_000 < 0.9
    tactics = Phonotactics(voice.pronunciations())
    assert tactics.is_word("ɹæbət")
    assert tactics.is_word("ɹæbəts")
    assert not tactics.is_legal("ɹæbəŋk")  # no English word ends so
    assert len(tactics.pseudo_words(spoken, "bdfɡklmnpɹstvwzæɪɛʌiə", random.Random(0), 20)) == 20
