"""Judges of reconstruction, with ones whose answers are known: words by hand, the ground truth asked once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eval.judges.base import JudgeRecord, MissingJudgeError
from eval.reconstruction.opinions import Opinions
from eval.reconstruction.scoring import Job
from eval.reconstruction.settings import Reconstruction
from eval.reconstruction.table import tables
from slm.errors import UsageError

RATE = 16_000
SAYS = {1: "Please hold the line.", 2: "please fold a line"}  # by level of the recording


class Told:
    """Answers by the level of a clip, and counts what it was asked."""

    name = "told"

    def __init__(self, source="", device="cpu"):
        self.asked = 0

    def record(self):
        return JudgeRecord("told 1.0", "weights", RATE, "whole clips")

    def _levels(self, clips):
        self.asked += len(clips)
        return [round(float(c.samples[0])) for c in clips]

    def rate(self, clips):
        return [{"told": 4.5 - level} for level in self._levels(clips)]

    def embed(self, clips):
        return [np.array([1.0, level - 1.0]) for level in self._levels(clips)]

    def transcribe(self, clips):
        return [SAYS[level] for level in self._levels(clips)]


class Gone:
    def __init__(self, source="", device="cpu"):
        raise MissingJudgeError("UTMOS needs --judges.utmos DIR")


@pytest.fixture
def opinions(monkeypatch) -> Opinions:
    monkeypatch.setattr("eval.reconstruction.opinions.MOS_JUDGES", {"told": Told, "utmos": Gone})
    monkeypatch.setattr("eval.reconstruction.opinions.speaker_judge", Told)
    monkeypatch.setattr("eval.reconstruction.opinions.SpeechRecognizer", Told)
    return Opinions(Reconstruction(mos="told,utmos"), "cpu")


def job(id: str, domain: str = "speech") -> Job:
    level = np.ones(RATE, np.float32)
    return Job(id, id, domain, level, 2 * level, RATE, 0, 0.1)


def test_what_judges_say(opinions):
    """Of four words two come back wrong: a substitution each. Vectors (1, 0) and (1, 1) are 45 degrees apart."""
    made = opinions.about([job("a"), job("b"), job("c", "music")], {"a": "Please hold the line, caller!"})
    assert set(made) == {"a", "b"}
    assert made["a"]["told"] == (2.5, 1.0)
    assert made["a"]["told_ground_truth"] == (3.5, 1.0)
    assert made["a"]["dwer"] == made["b"]["dwer"] == (2.0, 4.0)
    assert made["a"]["wer"] == (3.0, 5.0)
    assert made["a"]["wer_ground_truth"] == (1.0, 5.0)
    assert "wer" not in made["b"]  # nobody knows its words
    assert made["b"]["speaker_similarity"][0] == pytest.approx(0.5**0.5)
    assert "weights, told 1.0, 16 kHz, whole clips" in opinions.measures["wer"].convention
    assert {name for name, o in opinions.measures.items() if not o.higher_is_better} == {
        "dwer",
        "wer",
        "wer_ground_truth",
    }


def test_the_ground_truth_is_judged_once(opinions):
    for _ in range(3):
        opinions.about([job("a"), job("b")], {})
    assert [one.judge.asked for one in (opinions.mos[0], opinions.speaker, opinions.asr)] == [2] * 3  # both are alike


def test_only_what_is_new_is_asked_in_a_second_run(opinions, tmp_path):
    settings = Reconstruction(mos="told")
    first = Opinions(settings, "cpu", tmp_path).about([job("a")], {"a": "please"})
    again = Opinions(settings, "cpu", tmp_path)
    assert again.about([job("a")], {"a": "please"}) == first
    assert [one.judge.asked for one in (again.mos[0], again.speaker, again.asr)] == [0] * 3
    later = replace(job("a"), made=np.full(RATE, 2.25, np.float32))
    assert again.about([later], {})["a"]["told"] == (2.5, 1.0)
    assert again.mos[0].judge.asked == 1


def test_a_judge_that_is_not_here_is_named_with_what_brings_it(opinions):
    assert opinions.missing == {"utmos": "UTMOS needs --reconstruction.mos utmos=DIR"}
    with pytest.raises(UsageError, match="no predictor 'tolld'"):
        Opinions(Reconstruction(mos="tolld"), "cpu")


def test_the_ground_truth_has_a_row_of_its_own():
    score = {"interval": None, "unit": "of 5", "convention": "told", "count": 3}
    point = {"system": "mimi", "domain": "speech", "codebooks": 8, "pieces": 3, "alignment": {"delay_s": 0.001},
             "absent": {"utmos": "fetch it"}, "undefined": {"pesq": {"no utterance was found": 2}}, "files_left_out": 1,
             "scores": {"told": {**score, "value": 2.5}, "told_ground_truth": {**score, "value": 3.5}}}  # fmt: skip
    lines = [line.replace(" ", "") for line in tables([point]).splitlines()]
    assert lines[2:6] == [
        "|tokenizer|codebooks|told|delayms|n|",
        lines[3],
        "|groundtruth|–|3.5|–|3|",
        "|mimi|8|2.5|1.00|3|",
    ]
    assert "-utmosisabsent:fetchit" in lines
    assert "-pesqsaysnothingof2of3(mimi,8):noutterancewasfound" in lines
