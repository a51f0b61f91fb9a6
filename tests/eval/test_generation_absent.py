"""What has no value in `generation` is named, every metric of it, with the reason: none of them vanishes."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from eval.benchmarks.base import Generation
from eval.judges.config import Judges
from eval.judges.panel import Panel
from eval.metrics import bootstrap
from tests.eval.test_generation import GENERATION, Ear, ear, panel, run, spoken, table

__all__ = ["ear", "panel", "spoken"]


def metrics(result: dict) -> set[str]:
    return {s["metric"] for s in result["scores"]["model"]}


def expecting(root) -> dict:
    """Prompts that say what should follow."""
    rows = [{"id": f"s{i}", "path": f"s{i}.wav", "expected_text": "w3 w4"} for i in range(4)]
    (root / "said/prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"prompts": str(root / "said/prompts.jsonl")}


@pytest.mark.parametrize("missing", ["asr", "text_lm", "speaker", "embedding"])
def test_all_that_a_judge_would_have_told_is_absent_by_name(spoken, lm, panel, monkeypatch, missing):
    """Whatever is there with the judge and is not there without it."""
    given = expecting(spoken)
    whole = metrics(run(spoken, **given))
    monkeypatch.setattr(panel, missing, getattr(Panel, missing))
    less = run(spoken, **given, judges=Judges(**{missing: ""}))
    lost = whole - metrics(less)
    assert lost
    assert lost <= set(less["details"]["absent"])
    assert all(f"--judges.{missing}" in less["details"]["absent"][name] for name in lost)
    for page in ("results.md", "index.html"):
        assert re.search(rf"(is|are) absent: .*--judges.{missing}", (spoken.parent / "out" / page).read_text())
    assert f"--judges.{missing}" not in less["details"]["note"]


def test_perplexities_without_any_word_are_named(spoken, lm, panel, ear):
    ear.deaf = tuple(f"s{i}" for i in range(4))
    result = run(spoken)
    named = set(result["details"]["undefined"])
    for part in ("continuation", "prompt and continuation", "continuation, given the prompt"):
        assert {f"{name} of model, {part}" for name in ("gen_ppl", "gen_ppl_tokens", "gen_ppl_median")} <= named
    assert "text_lm_rating of model, continuation" in named
    assert "Without a value" in result["details"]["note"]
    assert "gen_ppl_median of model" in (spoken.parent / "out/results.md").read_text()


def test_no_errors_against_recordings_without_a_recording(spoken, lm, panel):
    """Prompts that take the whole of their recordings leave nothing to compare with."""
    given = expecting(spoken)
    result = run(spoken, **given, generation=Generation(prompt_s=1.2, continue_s=0.6))
    assert {"wer", "cer"} <= metrics(result)
    assert {"dwer", "dcer", "fad", "fad_inf", "kld"} <= set(result["details"]["absent"])


def test_few_prompts_have_no_intervals(spoken, lm, panel, monkeypatch):
    """Resampling one clip would give an interval of no width, as if all were known; of two, these two."""
    assert {s["interval"] for s in run(spoken)["scores"]["model"]} == {None}
    monkeypatch.setattr(bootstrap, "LEAST", 2)
    for scorer in ("model", "recordings"):
        found = run(spoken, generation=replace(GENERATION, max_prompts=1))["scores"][scorer]
        assert found
        assert {s["interval"] for s in found} == {None}
    assert any(s["interval"] for s in run(spoken)["scores"]["model"])


class Loops(Ear):
    """Hears one word in most clips, and in what is called s1 a loop."""

    def _hear(self, clip):
        return "on and " * 40 if clip.id == "s1" else "well"


def test_more_words_than_anybody_says_are_counted(spoken, lm, panel, monkeypatch):
    """80 words in 0.6 s; the others hear one."""
    monkeypatch.setattr(panel, "asr", lambda self: Loops())
    result = run(spoken)
    for scorer in ("model", "recordings"):
        found = table(result, scorer)["overfull_transcripts", "continuation"]
        assert (found["value"], found["count"]) == (0.25, 4)
    assert "over 8 words a second" in found["convention"]
