"""Generation from end to end: judges whose answers are known, over models whose continuations are known."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from eval.benchmarks import continuation, generation
from eval.benchmarks._sheet import Sheet
from eval.benchmarks.base import Generation
from eval.judges.base import JudgeRecord
from eval.judges.config import Judges
from eval.judges.panel import Panel
from eval.metrics.self_bleu import vert
from eval.metrics.texts import TextLikelihood, Transcript, words_of
from eval.report.plots import swept_series
from eval.run import main
from slm.audio import read_audio
from slm.errors import UsageError
from tests.eval.material import config, write_level

GENERATION = Generation(prompt_s=0.3, continue_s=0.6, max_prompts=0)


class Ear:
    """Hears a word for each 20 ms frame: its level in sixteenths, as the arithmetic tokenizer renders codes. `deaf` to
    some clips."""

    name, deaf = "ear", ()

    def record(self):
        return JudgeRecord("ear 1", "sixteenths", 8000, "whole clips")

    def transcribe(self, clips):
        return ["" if c.id in self.deaf and len(c.samples) > 2400 else self._hear(c) for c in clips]

    def _hear(self, clip):
        frames = clip.samples[: len(clip.samples) // 160 * 160].reshape(-1, 160).mean(axis=1)
        return " ".join(f"w{round(16 * level)}" for level in frames)


class Reader:
    """Finds every word one bit unlikely, and rates a text by whether it was given what stood before it."""

    def record(self):
        return JudgeRecord("reader 1", "bits", 0, "nothing cut")

    def likelihoods(self, texts, before=None):
        return [(math.log(2) * len(t.split()), len(t.split())) for t in texts]

    def rate(self, prompts, texts):
        return [4.0 if prompt else 1.0 for prompt in prompts]


class Voice:
    """The mean level is all there is to a voice; an embedding a frame."""

    name = "voice"

    def record(self):
        return JudgeRecord("voice 1", "levels", 8000, "whole clips")

    def embed(self, clips):
        return [np.array([1.0, 0.0]) for _ in clips]


class Frames(Voice):
    def embed(self, clips):
        return [c.samples[: len(c.samples) // 160 * 160].reshape(-1, 160).mean(axis=1)[:, None] for c in clips]


class Opinion(Voice):
    def rate(self, clips):
        return [{"opinion": 3.0 if i else 5.0} if len(clips) else None for i, _ in enumerate(clips)]


@pytest.fixture
def ear() -> Ear:
    return Ear()


@pytest.fixture
def panel(monkeypatch, ear):
    class Fakes(Panel):
        def asr(self):
            return ear

        def text_lm(self):
            return Reader()

        def mos(self):
            return [Opinion()]

        def speaker(self):
            return Voice()

        def embedding(self):
            return Frames()

    monkeypatch.setattr(generation, "Panel", Fakes)
    return Fakes


@pytest.fixture
def spoken(root):
    """Prompts of 1.2 s, of which 0.3 s are heard: 0.6 s of each recording's rest are a reference."""
    for i in range(4):
        write_level(root / f"said/s{i}.wav", 0.1 * (i + 1), duration_s=1.2)
    return root


def run(root, **changes) -> dict:
    settings = {"benchmarks": "generation", "prompts": str(root / "said"), "generation": GENERATION, **changes}
    main(config(root, **settings))
    record = json.loads((root.parent / "out/results.json").read_text())
    return next(r for r in record["results"] if r["benchmark"] == "generation")


def table(result: dict, scorer: str = "model") -> dict:
    return {(s["metric"], s["item"].split("/", 2)[2]): s for s in result["scores"][scorer]}


def test_every_number_is_that_of_what_was_made(spoken, lm, panel, ear):
    result = run(spoken, benchmarks="continuation,generation")
    assert not (spoken.parent / "out/generation").exists()  # what `continuation` made was read
    folder = spoken.parent / "out/continuation"
    made = json.loads((folder / "prompts.json").read_text())
    clips = [
        SimpleNamespace(id=m["id"], samples=read_audio(folder.parent / m["folder"] / "continuation.wav", 8000))
        for m in made
    ]
    texts = [words_of(ear._hear(c)) for c in clips]
    found = table(result)
    assert [len(t) for t in texts] == [30] * 4  # 0.6 s of 20 ms
    assert found["vert", "continuation"]["value"] == pytest.approx(vert(texts))
    assert found["distinct_1", "continuation"]["value"] == len({w for t in texts for w in t}) / 120
    for part in ("continuation", "prompt and continuation", "continuation, given the prompt"):
        assert found["gen_ppl", part]["value"] == pytest.approx(2.0)
    assert found["words", "continuation"]["value"] == 30
    assert found["duration_s", "continuation"]["value"] == pytest.approx(0.6)
    assert found["opinion", "continuation"]["value"] == 3.5
    assert found["text_lm_rating", "continuation"]["value"] == 4.0
    assert found["speaker_similarity", "continuation"]["value"] == 1.0
    levels = np.concatenate([c.samples.reshape(-1, 160).mean(axis=1) for c in clips]).astype(np.float64)
    known = np.repeat([0.1, 0.2, 0.3, 0.4], 30)
    closed = (levels.mean() - known.mean()) ** 2 + (levels.std(ddof=1) - known.std(ddof=1)) ** 2
    assert found["fad", "continuation"]["value"] == pytest.approx(closed, rel=1e-3)


def test_beside_the_model_stand_the_recordings(spoken, lm, panel):
    found = table(run(spoken), "recordings")
    assert found["duration_s", "continuation"]["value"] == pytest.approx(0.6)
    assert found["self_bleu_2", "continuation"]["value"] == 0.0  # each is at a level of its own
    assert found["auto_bleu_2", "continuation"]["value"] == 1.0
    assert found["gen_ppl", "continuation"]["count"] == 4


def test_conventions_say_who_judged_and_how(spoken, lm, panel):
    found = table(run(spoken))
    for part, how in {"continuation": "prompt out of the text", "prompt and continuation": "prompt in the text",
                      "continuation, given the prompt": "prompt read before"}.items():  # fmt: skip
        convention = found["gen_ppl", part]["convention"]
        for piece in ("temperature 1", "seed 0", "sixteenths, ear 1, 8 kHz, whole clips", "bits, reader 1", how):
            assert piece in convention
    assert "120 embeddings of 4 recordings" in found["fad", "continuation"]["convention"]


def test_empty_transcripts_are_counted_and_never_a_zero(spoken, lm, panel, ear):
    ear.deaf = ("s1",)
    result = run(spoken)
    found = table(result)
    assert found["gen_ppl", "continuation"]["count"] == 3
    assert found["gen_ppl", "continuation"]["convention"].endswith("empty transcripts left out")
    assert found["empty_transcripts", "continuation"]["value"] == 0.25
    assert result["counts"]["empty_transcripts"] == 1
    ear.deaf = ("s0", "s1", "s2", "s3")
    result = run(spoken)
    assert ("gen_ppl", "continuation") not in table(result)
    assert table(result)["empty_transcripts", "continuation"]["value"] == 1.0


def test_what_nobody_can_judge_is_absent_and_named(spoken, lm, panel):
    result = run(spoken)
    assert {"kld", "clap_score", "wer"} <= set(result["details"]["absent"])
    assert not {"kld", "clap_score", "wer", "dwer"} & {s["metric"] for s in result["scores"]["model"]}
    assert "--judges.classifier" in (spoken.parent / "out/results.md").read_text()


def test_errors_are_told_where_the_prompts_say_what_should_follow(spoken, lm, panel):
    rows = [{"id": f"s{i}", "path": f"s{i}.wav", "expected_text": "w3 " * 30} for i in range(2)] + [
        {"id": "s2", "path": "s2.wav"}
    ]
    (spoken / "said/prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run(spoken, prompts=str(spoken / "said/prompts.jsonl"))
    found = table(result)
    assert found["wer", "continuation"]["count"] == 2
    assert "against expected_text" in found["wer", "continuation"]["convention"]
    texts = [j["texts"] for j in result["details"]["judged"][:2]]
    errors = sum(30 - t["continuation"].split().count("w3") for t in texts)
    assert errors / 60 >= found["wer", "continuation"]["value"] > 0  # an alignment may save some
    assert found["dwer", "continuation"]["count"] == 2


def test_a_sweep_goes_through_the_temperatures_and_is_kept(spoken, lm, panel, monkeypatch):
    calls, plain = [], lm.continue_many

    def counted(prompts, seconds, seeds, sampling=None, speed=None):
        calls.append(sampling.temperature)
        return plain(prompts, seconds, [seed + round(10 * sampling.temperature) for seed in seeds])

    reads, read = [], continuation.read_clip
    monkeypatch.setattr(continuation, "read_clip", lambda *clip: reads.append(clip) or read(*clip))
    monkeypatch.setattr(lm, "continue_many", counted)
    swept = Generation(prompt_s=0.3, continue_s=0.6, max_prompts=0, temperatures="1.0,0.5")
    result = run(spoken, generation=swept)
    assert sorted(calls) == [0.5, 1.0]  # 1.0 is made once, for the judgement and for the sweep
    assert len(reads) == 3 * result["counts"]["prompts"], "once for each time that continuations are asked for"
    found = table(result)
    assert [p["temperature"] for p in result["details"]["sweep"]["points"]] == [0.5, 1.0]
    assert found["vert", "temperature 1"]["value"] == found["vert", "continuation"]["value"]
    assert "temperature 0.5" in found["gen_ppl", "temperature 0.5"]["convention"]
    assert result["details"]["sweep"]["recordings"]["texts"] == 4
    assert any("where VERT is the recordings'" in name for name in result["details"]["absent"])  # theirs is 0
    run(spoken, generation=swept)
    assert len(calls) == 2
    run(spoken, generation=swept, seed=1)
    assert len(calls) == 4


def test_a_sweep_in_which_nothing_was_understood_is_json_and_has_no_numbers(spoken, lm, panel, ear):
    ear.deaf = [f"s{i}" for i in range(4)]
    result = run(spoken, generation=replace(GENERATION, temperatures="0.5,1"))
    text = (spoken.parent / "out/results.json").read_text()
    json.loads(text, parse_constant=pytest.fail)  # NaN, which browsers do not read
    swept = result["details"]["sweep"]
    assert [(p["temperature"], p["gen_ppl"], p["empty_transcripts"]) for p in swept["points"]] == [
        (0.5, None, 4), (1.0, None, 4)
    ]  # fmt: skip
    assert set(swept["anchored"].values()) == {None}
    assert not swept_series("lm", swept)[0].points


def test_the_prompts_are_hashed_with_their_audio(spoken, lm, panel):
    first = run(spoken)
    again = run(spoken, out=str(spoken.parent / "out"), bootstrap=20)
    assert again["details"]["prompt_audio_sha256"] == first["details"]["prompt_audio_sha256"]
    write_level(spoken / "said/s3.wav", 0.45, duration_s=1.2)
    changed = run(spoken, benchmarks="continuation,generation")  # what was made of another recording is not taken
    assert changed["item_list_sha256"] == first["item_list_sha256"]
    write_level(spoken / "said/s3.wav", 0.35, duration_s=1.2)
    once_more = run(spoken)  # nor is what `continuation` made of it
    hashes = {r["details"]["prompt_audio_sha256"] for r in (first, changed, once_more)}
    assert len(hashes) == 3


def test_other_recordings_can_be_the_reference(spoken, lm, panel):
    for i in range(3):
        write_level(spoken / f"other/o{i}.wav", 0.3, duration_s=0.9)
    result = run(spoken, judges=Judges(reference=str(spoken / "other")))
    assert result["counts"]["references"] == 3
    assert table(result, "recordings")["duration_s", "continuation"]["value"] == pytest.approx(0.6)
    with pytest.raises(UsageError, match=r"--judges\.reference"):
        run(spoken, judges=Judges(reference=str(spoken / "absent")))


def test_a_tokenizer_that_cannot_be_heard_is_refused_before_the_work(spoken, lm, panel):
    from dataclasses import replace

    lm.spec = replace(lm.spec, has_decoder=False)
    with pytest.raises(UsageError, match="no decoder"):
        run(spoken)


def test_a_sheet_notes_what_has_no_value():
    sheet = Sheet("generation", "prompts", 50, 0)
    assert sheet.add("x", [], "c") == {}
    sheet.add("x", [Transcript("a", ())], "c")
    assert {"distinct_1 of model, x", "vert of model, x", "self_bleu_2 of model, x"} <= set(sheet.undefined)
    heard = [TextLikelihood(name, nll, 1) for name, nll in zip("abcdef", 3 * (1.0, 3.0), strict=True)]
    made = sheet.add("x", heard, "c")
    assert made["gen_ppl"] == pytest.approx(math.exp(2))
    score = next(s for s in sheet.scores["model"] if s.metric == "gen_ppl")
    assert math.e - 1e-9 <= score.interval[0] <= score.value <= score.interval[1] <= math.e**3 + 1e-9
    sheet.number("x", "nothing", math.nan, "", "c", 1)
    assert "nothing" not in {s.metric for s in sheet.scores["model"]}
