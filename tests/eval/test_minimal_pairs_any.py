"""Minimal pairs of any lexicon, grammar and number of voices: recounted from the files, with voices of tones."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf

from eval.benchmarks.base import Setup
from eval.benchmarks.sblimp import SBlimp
from eval.benchmarks.swuggy import SWuggy
from eval.minimal_pairs.__main__ import MinimalPairsConfig, main
from eval.minimal_pairs.ipa import is_vowel, to_nuclei
from eval.minimal_pairs.matching import Contrast, equally_long
from eval.minimal_pairs.wordpairs import shares
from slm import run_lock
from slm.errors import UsageError
from tests.contracts import benchmark_law
from tests.eval.test_minimal_pairs import ToneVoice, tree
from tests.training.test_run_lock import another_process

GRAMMAR = """
language: tones
words:
  noun: {forms: [sg, pl], list: [bada/badi, kolo/koli, mesa/mesi, nuta/nuti, pika/piki]}
  verb: [luma, sopa, rena, tibu, gole]
templates:
  - type: agreement
    subtype: article
    slots: {n: noun, v: verb}
    pairs:
      - {right: "la {n.sg} {v}", wrong: "li {n.sg} {v}"}
      - {right: "li {n.pl} {v}", wrong: "la {n.pl} {v}"}
"""


class SpelledVoice(ToneVoice):
    """A language that is spelled as it is said; `slowness` makes a voice of another timing."""

    language = "tones"

    def __init__(self, name: str, slowness: float):
        self.name, self.engine, self.slowness = name, f"tones {slowness}", slowness

    def learn(self, words):
        pass

    def phonemize(self, text):
        return text

    def synthesize(self, phonemes, speed, seed):
        return super().synthesize(phonemes, speed / self.slowness ** (sum(map(ord, phonemes)) % 3), seed)

    def pronunciations(self):
        return []

    def ipa(self, phonemes):
        return to_nuclei(phonemes.replace(" ", "").rstrip(".!"))

    def spoken(self, pronunciation):
        return "".join(pronunciation)


def two_voices():
    return {"low": SpelledVoice("low", 1.0), "high": SpelledVoice("high", 1.06)}


def words_of_tones(number: int) -> list[str]:
    rng, made = random.Random(5), dict[str, None]()
    while len(made) < number:
        parts = [
            rng.choice("bdgklmnprst") + rng.choice("aeiou") + rng.choice(["", "", "n", "s", "r"]) for _ in range(3)
        ]
        made.setdefault("".join(parts[: rng.choice([2, 3])]))
    return list(made)


WORDS = [w for w in words_of_tones(400) if len(w) >= 4]


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, str]:
    folder, rng = tmp_path_factory.mktemp("sources"), random.Random(0)
    (folder / "words.tsv").write_text("word\tfrequency\n" + "".join(f"{w}\t7\n" for w in WORDS), encoding="utf-8")
    said = [w for i, w in enumerate(WORDS[:200]) for _ in range([2, 9, 40, 150][i % 4])]
    sentences = [["la", "li", "bada", "badi", "kolo", "koli", "luma", "sopa", "mesa", "rena"]]
    sentences += [rng.sample(said, 8) for _ in range(900)]
    text = "\n".join(" ".join(s).upper() for s in sentences)
    (folder / "text.txt").write_text(text, encoding="utf-8")
    (folder / "tones.yaml").write_text(GRAMMAR, encoding="utf-8")
    return {
        "lexicon": str(folder / "words.tsv"),
        "transcripts": str(folder / "text.txt"),
        "grammar": str(folder / "tones.yaml"),
    }


def make(out: Path, **options) -> Path:
    main(MinimalPairsConfig(out=str(out), **{"pairs": 6, "workers": 1, **options}), make_voices=two_voices)
    return out


@pytest.fixture(scope="module")
def made(sources, tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("any") / "out", pairs=8, **sources)


def gold(root: Path, task: str) -> list[dict[str, str]]:
    with open(root / task / "dev/gold.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def num_samples(root: Path, task: str, row: dict) -> int:
    return sf.info(root / task / "dev" / f"{row['filename']}.wav").frames


@pytest.mark.parametrize("benchmark", [SWuggy, SBlimp])
def test_benchmarks_read_it_and_average_voices_within_ids(made, benchmark):
    read = benchmark(Setup(made))
    benchmark_law(read)
    assert Counter(Counter(p.group for p in read.all_pairs).values()) == {2: 8}  # eight ids, two voices each
    # Right in one voice and wrong in the other is half a hit of the one id; "all" knows no wavs.
    wanted = {p.positive: 1.0 if p.labels["voice"] == "low" else -1.0 for p in read.all_pairs}
    found = read.judge({**dict.fromkeys(read.files, 0.0), **wanted}, "sum", resamples=20)
    judged = next(s for s in found if s.metric == "pair_accuracy")
    assert (judged.value, judged.count) == (0.5, 8)
    reach = 0.5 * 0.025 ** (1 / 8)  # of which eight that agree leave one chance in forty to either side
    assert judged.interval == pytest.approx((reach, 1 - reach))


@pytest.mark.parametrize("task", ["lexical", "syntactic"])
def test_every_voice_reads_every_pair_equally_long(made, task):
    rows = gold(made, task)
    assert Counter(r["voice"] for r in rows) == {"low": 16, "high": 16}
    by_pair: dict[tuple, dict[str, dict]] = {}
    for row in rows:
        by_pair.setdefault((row["id"], row["voice"]), {})[row["correct"]] = row
    difference = [num_samples(made, task, p["1"]) - num_samples(made, task, p["0"]) for p in by_pair.values()]
    assert np.abs(difference).max() <= 320
    for voice in ("low", "high"):
        signs = [np.sign(d) for d, key in zip(difference, by_pair, strict=True) if key[1] == voice]
        assert abs(np.mean(signs)) <= 0.3
    texts = {(i, c): {r.get("word", r.get("transcription")) for r in rows if (r["id"], r["correct"]) == (i, c)}
             for i in {r["id"] for r in rows} for c in "01"}  # fmt: skip
    assert all(len(said) == 1 for said in texts.values())  # all voices say the same


@pytest.mark.parametrize(
    ("lengths", "fastest", "follows", "speeds"),
    [
        ((16_000, 15_700), 1.0, 1.0, (1.0, 1.0)),
        ((16_000, 15_000), 1.0, 1.0, (1.0, 0.938)),
        ((15_000, 16_000), 1.0, 1.0, (0.938, 1.0)),
        ((16_000, 15_000), 0.9, 1.0, (0.9, 0.844)),
        ((16_000, 15_000), 1.0, 0.5, (1.0, 0.908)),  # a voice that follows half is asked again,
        ((16_000, 15_000), 1.0, 1.5, (1.0, 0.968)),  # as is one that does so too much, of which now the other is longer
        ((16_000, 15_300), 1.0, 0.2, None),  # but not for ever
        ((16_000, 13_920), 1.0, 1.0, (1.0, 0.87)),
        ((16_000, 13_900), 1.0, 1.0, None),
        ((16_000, 0), 1.0, 1.0, None),
    ],
)
def test_the_shorter_side_is_read_more_slowly(lengths, fastest, follows, speeds):
    asked = []

    def measure(items):
        asked.extend(items)
        return [round(lengths[u.text == "wrong"] / u.speed**follows) for u in items]

    said = {"low": ("r", "w"), "high": ("r", "w")}
    contrast = Contrast("right", "wrong", said, {"low": ((), ()), "high": ((), ())}, speed=fastest)
    (found,) = equally_long([contrast], SimpleNamespace(measure=measure), 0)  # type: ignore[arg-type]
    assert {voice: (p.right.speed, p.wrong.speed) for voice, p in found.items()} == (
        dict.fromkeys(said, speeds) if speeds else {}
    )
    assert len(asked) == len(set(asked)) <= 2 * 4  # both sides, and two corrections of the shorter
    seeds = {u.seed for u in asked}
    asked.clear()
    equally_long([contrast], SimpleNamespace(measure=measure), 1)  # type: ignore[arg-type]
    assert seeds.isdisjoint(u.seed for u in asked)


def test_frequency_is_counted_in_the_transcripts_and_bands_are_dealt_evenly(made, sources):
    counts = Counter(Path(sources["transcripts"]).read_text(encoding="utf-8").lower().split())
    words = [r for r in gold(made, "lexical") if r["correct"] == "1" and r["voice"] == "low"]
    for row in words:
        assert int(row["frequency"]) == counts[row["word"]]
        assert row["phones"] == " ".join(row["word"])
    unheard = sum(row["frequency"] == "0" for row in words)
    assert unheard == 2  # a fifth of 8
    assert json.loads((made / "generated.json").read_text())["counts"]["lexical_pairs_by_frequency"]["0"] == 2
    others = [int(row["frequency"]) for row in words if row["frequency"] != "0"]
    bands = np.histogram(others, [1, 5, 20, 100, 10**6])[0]
    available = np.histogram([counts[w] for w in WORDS if counts[w]], [1, 5, 20, 100, 10**6])[0]
    assert bands.max() - bands[available > 10].min() <= 1


def test_pseudo_words_are_no_words_and_equally_many_phonemes(made):
    by_id: dict[str, dict[str, str]] = {}
    for row in gold(made, "lexical"):
        by_id.setdefault(row["id"], {})[row["correct"]] = row["phones"]
    for sides in by_id.values():
        right, wrong = sides["1"].split(), sides["0"].split()
        assert "".join(wrong) not in WORDS
        assert len(right) == len(wrong)
        assert [*map(is_vowel, right)] == [*map(is_vowel, wrong)]


def test_sentences_hold_only_words_of_the_transcripts(made):
    rows = gold(made, "syntactic")
    assert {w for r in rows for w in r["transcription"].split()} <= {
        "la", "li", "bada", "badi", "kolo", "koli", "luma", "sopa", "rena",
    }  # fmt: skip
    assert {(r["type"], r["subtype"]) for r in rows} == {("agreement", "article")}
    left_out = json.loads((made / "generated.json").read_text())["left_out"]["sentences"]
    assert left_out["the word tibu is not trained on"] >= 1


def test_same_bytes_when_interrupted_other_seeds_differ_other_sources_are_refused(sources, tmp_path):
    first, again = make(tmp_path / "first", **sources), make(tmp_path / "again", workers=2, **sources)
    assert tree(first) == tree(again)
    (again / "generated.json").unlink()
    for path in sorted(again.rglob("*.wav"))[::3]:
        path.unlink()
    make(again, **sources)
    assert tree(first) == tree(again)
    other = make(tmp_path / "other", seed=1, **sources)
    assert gold(other, "lexical") != gold(first, "lexical")
    with pytest.raises(UsageError, match=r"other settings .*lexicon was"):
        make(first, transcripts=sources["transcripts"], grammar=sources["grammar"])


def test_two_commands_on_one_folder_are_one_too_many(sources, tmp_path, monkeypatch):
    """They would clear each other's half-written files."""
    monkeypatch.setattr(run_lock, "HERE_S", 0.0)
    with another_process(tmp_path / "out"), pytest.raises(UsageError, match="is being written to by process"):
        make(tmp_path / "out", **sources)


def test_without_words_those_of_the_grammar_are_asked_and_a_corpus_is_made(sources, tmp_path):
    root = make(tmp_path / "out", pairs=2, minutes=0.3, grammar=sources["grammar"])
    rows = [json.loads(line) for line in (root / "corpus/manifest.jsonl").read_text().splitlines()]
    assert Counter(r["speaker"] for r in rows).keys() == {"low", "high"}
    said = Counter(word for r in rows for word in r["text"].split())
    for row in gold(root, "lexical"):
        assert row["correct"] == "0" or int(row["frequency"]) == said[row["word"]]
    trained = {r["text"] for r in rows}
    assert not trained & {r["transcription"] for r in gold(root, "syntactic")}
    assert json.loads((root / "generated.json").read_text())["minutes"] == 0.3


def test_the_lexicon_s_own_frequency_counts_where_nothing_else_does(sources, tmp_path):
    root = make(tmp_path / "out", lexicon=sources["lexicon"], grammar="none", pairs=4)
    assert {r["frequency"] for r in gold(root, "lexical") if r["correct"] == "1"} == {"7"}
    assert not (root / "syntactic").exists()
    assert not (root / "corpus").exists()


def test_a_frequency_below_1_is_out_of_vocabulary(tmp_path):
    """As in sLM21's bands: [0, 1) is `oov`. Such words were left out unsaid."""
    rows = "".join(f"{w},{[0.25, 4.5][i % 2]}\n" for i, w in enumerate(WORDS[:60]))
    (tmp_path / "rare.csv").write_text("word,frequency\n" + rows, encoding="utf-8")
    root = make(tmp_path / "out", lexicon=str(tmp_path / "rare.csv"), grammar="none", pairs=5)
    words = [r["frequency"] for r in gold(root, "lexical") if (r["correct"], r["voice"]) == ("1", "low")]
    assert Counter(words) == {"0.25": 1, "4.5": 4}  # a fifth
    counts = json.loads((root / "generated.json").read_text())["counts"]["lexical_pairs_by_frequency"]
    assert (counts["0"], counts["1-4"]) == (1, 4)


def test_pronunciations_of_the_lexicon_are_what_is_said(tmp_path):
    rows = [f"W{i:02d}\t{'ˈ'.join((w[:1], w[1:]))}" for i, w in enumerate(WORDS[:30])]
    (tmp_path / "said.tsv").write_text("word\tipa\n" + "\n".join([*rows, "mute\t"]), encoding="utf-8")
    root = make(tmp_path / "out", lexicon=str(tmp_path / "said.tsv"), grammar="none", pairs=4)
    for row in gold(root, "lexical"):
        if row["correct"] == "1" and row["word"] != "mute":
            assert row["phones"].replace(" ", "") == WORDS[int(row["word"][1:])]  # the mark of stress aside
            assert row["frequency"] == "0"


def test_too_few_pairs_say_why(sources, tmp_path):
    (tmp_path / "few.csv").write_text("word\nba\nkadon\nmiresa\n")
    with pytest.raises(UsageError, match=r"only 0 lexical .*1 words: under 4 or over 15 phonemes.*give more words$"):
        make(tmp_path / "out", lexicon=str(tmp_path / "few.csv"), grammar="none")
    assert not (tmp_path / "out").exists()
    (tmp_path / "text.txt").write_text(" ".join(WORDS))
    with pytest.raises(UsageError, match=r"and 0 syntactic .*the word \w+ is not trained on.*--grammar none"):
        make(tmp_path / "out", transcripts=str(tmp_path / "text.txt"), grammar=sources["grammar"])


def test_as_many_pairs_as_the_complaint_promises_can_be_made(sources, tmp_path):
    (tmp_path / "some.csv").write_text("word,frequency\n" + "".join(f"{w},{i % 3}\n" for i, w in enumerate(WORDS[:24])))
    given = {"lexicon": str(tmp_path / "some.csv"), "grammar": sources["grammar"]}
    with pytest.raises(UsageError) as complaint:
        make(tmp_path / "out", pairs=100, **given)
    promised = int(str(complaint.value).split("--pairs ")[1].split()[0])
    assert promised >= 8
    assert len(gold(make(tmp_path / "out", pairs=promised, **given), "lexical")) == 4 * promised


def test_shares_by_hand():
    assert shares([10, 10, 10, 10], 8) == [2, 2, 2, 2]
    assert shares([1, 0, 10, 3], 8) == [1, 0, 4, 3]
    assert shares([1, 1], 5) == [1, 1]
