"""Spoken StoryCloze, single- and multi-speaker and cross-modal, in folders as they are distributed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from eval.benchmarks.base import BENCHMARKS, Setup
from eval.benchmarks.storycloze import SSC, TSC, MultiSpeakerTSC
from eval.likelihoods import Likelihoods, find_convention
from eval.run import main
from slm.audio import read_audio
from slm.errors import UsageError
from slm.tokenizers import load_tokenizer
from slm.types import AudioClip
from tests.contracts import benchmark_law
from tests.eval.material import RIGHT, WRONG, config, scores, write_level
from tests.model import test_interleaved as interleaved

SPEECH = Path(__file__).parents[1] / "data/speech/en"


def write_stories(folder: Path, stories, first: int = 0) -> None:
    for i, story in enumerate(stories, first):
        for side, word in enumerate(("correct", "incorrect")):
            write_level(folder / f"{2 * i + side}_{story}_{word}.wav", (RIGHT, WRONG)[side])
            (folder / f"{2 * i + side}_{story}_{word}.txt").write_text("A story.")


def test_the_distributed_folder(tmp_path, lm):
    write_stories(tmp_path / "data/sSC", ["b-2_x", "a-1", "c"])
    benchmark = SSC(Setup(tmp_path / "data"))
    benchmark_law(benchmark)
    assert [(p.positive, p.negative, p.group) for p in benchmark.all_pairs] == [
        ("0_b-2_x_correct", "1_b-2_x_incorrect", "b-2_x"),
        ("2_a-1_correct", "3_a-1_incorrect", "a-1"),
        ("4_c_correct", "5_c_incorrect", "c"),
    ]
    main(config(tmp_path / "data", benchmarks="ssc"))
    assert scores(tmp_path / "out", "ssc")["all", "mean"]["value"] == 1.0


@pytest.mark.parametrize("ending", [".WAV", ".flac", ".Flac"])
def test_recordings_of_any_ending_are_read(tmp_path, lm, ending):
    write_stories(tmp_path / "data/tSC", ["a", "b"])
    for wav in (tmp_path / "data/tSC").glob("*.wav"):
        samples, rate_hz = soundfile.read(wav)
        wav.unlink()
        soundfile.write(str(wav.with_suffix(ending)), samples, rate_hz, format=ending[1:].upper())
    main(config(tmp_path / "data", benchmarks="tsc"))
    assert scores(tmp_path / "out", "tsc")["all", "mean"]["value"] == 1.0


def test_a_folder_that_is_short_says_so(tmp_path, lm, monkeypatch):
    """One story has lost a file: it is one of those that there are, and of the 1,871 of the whole set."""
    write_stories(tmp_path / "data/sSC", ["a", "b", "c"])
    (tmp_path / "data/sSC/2_b_correct.wav").unlink()
    main(config(tmp_path / "data", benchmarks="ssc"))
    result = json.loads((tmp_path / "out/results.json").read_text())["results"][0]
    assert (result["counts"]["pairs"], result["counts"]["pairs_scored"]) == (3, 2)
    assert result["details"]["note"] == "The data is short of the whole set: 3 of 1,871 stories; fetch the others"
    assert "2 of 3 pairs could be used" in (tmp_path / "out/results.md").read_text()
    monkeypatch.setattr(SSC, "size", 3)
    assert not SSC(Setup(tmp_path / "data")).notes


def test_the_folder_itself_may_be_given_as_data(tmp_path):
    write_stories(tmp_path / "tSC", ["a", "b"])
    assert len(TSC(Setup(tmp_path / "tSC")).all_pairs) == 2
    with pytest.raises(UsageError, match=r"no sSC: put its zip, or its wavs .*SpokenStoryCloze.*speed/sStoryCloze"):
        SSC(Setup(tmp_path / "tSC"))


def test_voices_of_a_story_are_averaged_first(tmp_path):
    """Story s is right in two voices of three (2/3), story t wrong in its only one: 1/3, where wavs would give 1/2."""
    for voice in "abc":
        write_stories(tmp_path / "ms_tSC" / voice, ["s"] if voice != "c" else ["s", "t"])
    benchmark = MultiSpeakerTSC(Setup(tmp_path))
    benchmark_law(benchmark)
    made = dict.fromkeys((p.positive for p in benchmark.all_pairs), 0.0)
    made |= dict.fromkeys((p.negative for p in benchmark.all_pairs), -1.0)
    made |= {"c/0_s_correct": -2.0, "c/2_t_correct": -2.0}
    score = benchmark.judge(made, "sum", resamples=10)[0]
    assert (score.value, score.count) == (pytest.approx(1 / 3), 2)


def write_cross(root: Path) -> Path:
    """Real speech: three recordings a story, one of them at another rate."""
    recordings = sorted(SPEECH.glob("*.opus"))
    folder = root / "cross_ms_tSC/voice"
    folder.mkdir(parents=True)
    for i in range(2):
        for k, part in enumerate(("mutual", "correct", "incorrect")):
            rate_hz = 8000 if part == "incorrect" else 16000
            soundfile.write(folder / f"{i}_s{i}_{part}.wav", read_audio(recordings[3 * i + k], rate_hz), rate_hz)
            (folder / f"{i}_s{i}_{part}.txt").write_text(f"{part} {i}")
    return folder


def test_spoken_beginnings_and_endings_become_one_recording(tmp_path):
    folder = write_cross(tmp_path)
    benchmark = BENCHMARKS.get("cross_tsc_speech_speech")(Setup(tmp_path, cache=tmp_path / "cache"))
    benchmark_law(benchmark)
    assert sorted(benchmark.files) == [f"voice/{i}_s{i}_{e}" for i in range(2) for e in ("correct", "incorrect")]
    for item, path in benchmark.files.items():
        made, rate_hz = soundfile.read(path, dtype="float32")
        beginning, _ = soundfile.read(folder.parent / f"{item.rpartition('_')[0]}_mutual.wav", dtype="float32")
        ending = read_audio(folder.parent / f"{item}.wav", 16000)
        assert rate_hz == 16000
        assert np.abs(made - np.concatenate([beginning, ending])).max() <= 1 / 32768
    before = {p: p.stat().st_mtime_ns for p in benchmark.files.values()}
    again = BENCHMARKS.get("cross_tsc_speech_speech")(Setup(tmp_path, cache=tmp_path / "cache"))
    assert {p: p.stat().st_mtime_ns for p in again.files.values()} == before


def test_a_part_that_cannot_be_read_is_left_out_by_its_reason(tmp_path, lm):
    folder = write_cross(tmp_path / "data")
    (folder / "1_s1_mutual.wav").write_bytes(b"no audio")
    (folder / "2_s2_correct.wav").write_bytes(b"no partner")
    main(config(tmp_path / "data", benchmarks="cross_tsc_speech_speech"))
    result = json.loads((tmp_path / "out/results.json").read_text())["results"][0]
    assert (result["counts"]["pairs"], result["counts"]["pairs_scored"]) == (3, 1)
    assert "1 of 3 pairs could be used" in (tmp_path / "out/results.md").read_text()
    reasons = {left["item"]: left["reason"] for left in result["left_out"]}
    assert set(reasons) == {"voice/1_s1_correct", "voice/1_s1_incorrect", "voice/2_s2"}
    assert reasons["voice/2_s2"] == "no recording 2_s2_mutual"


def test_recordings_may_have_any_ending(tmp_path, lm):
    """The same samples as WAV, FLAC and AIFF, in any case: the same scores. Two files of one part are refused."""
    main(config(write_cross(tmp_path / "wav").parents[1], benchmarks="cross_tsc_speech_speech"))
    expected = scores(tmp_path / "out", "cross_tsc_speech_speech")
    folder = write_cross(tmp_path / "other")
    for path, ending in zip(sorted(folder.glob("*.wav")), (".FLAC", ".aiff", ".flac") * 2, strict=True):
        samples, rate_hz = soundfile.read(path, dtype="int16")
        soundfile.write(path.with_suffix(ending), samples, rate_hz, format=ending[1:].upper())
        path.unlink()
    (folder / "._0_s0_mutual.wav").write_bytes(b"what a Mac leaves beside it")
    (folder / "0_s0_mutual.txt").rename(folder / "0_s0_mutual.TXT")
    main(config(tmp_path / "other", benchmarks="cross_tsc_speech_speech", out=str(tmp_path / "out2")))
    found = scores(tmp_path / "out2", "cross_tsc_speech_speech")
    assert found == expected
    assert found["all", "mean"]["count"] == 2
    texts = BENCHMARKS.get("cross_tsc_text_text")(Setup(tmp_path / "other", cache=tmp_path / "cache"))
    assert len(texts.all_pairs) == 2
    write_level(folder / "1_s1_correct.wav", 0.25)
    with pytest.raises(UsageError, match=r"has 1_s1_correct\.\S+ and 1_s1_correct\.\S+: keep one"):
        BENCHMARKS.get("cross_tsc_speech_speech")(Setup(tmp_path / "other", cache=tmp_path / "cache"))


@pytest.mark.parametrize("form", ["speech_text", "text_speech", "text_text"])
def test_text_needs_a_model_that_reads_text(tmp_path, form):
    write_cross(tmp_path)
    benchmark = BENCHMARKS.get(f"cross_tsc_{form}")(Setup(tmp_path, cache=tmp_path / "cache"))
    assert len(benchmark.all_pairs) == 2
    assert {p.suffix for p in benchmark.files.values()} == {".wav" if form.endswith("speech") else ".txt"}
    assert not (tmp_path / "cache").exists()
    model = SimpleNamespace(spec=SimpleNamespace(name="mimi"))
    with pytest.raises(
        UsageError, match=r"needs a model that reads text.* of mimi only: score cross_tsc_speech_speech"
    ):
        benchmark.check(model)


def test_a_model_of_text_and_units_reads_every_form(tmp_path):
    """Real speech, a model as slamkit saves it; against its log-likelihood of the strings that slamkit would make."""
    write_cross(tmp_path / "data")
    model = interleaved.save(tmp_path / "m", units=100, positions=2048)
    names = ",".join(f"cross_tsc_{p}_{e}" for p in ("speech", "text") for e in ("speech", "text"))
    tokenizer = "configs/tokenizers/logmel-kmeans.yaml"
    main(config(tmp_path / "data", model=str(tmp_path / "m"), benchmarks=names, tokenizer=tokenizer, per_frame=True))
    tokens = load_tokenizer(tokenizer, "cpu")

    def said(form, *parts):
        if form == "text":
            return "<text>" + "".join(p.with_suffix(".txt").read_text() for p in parts)
        samples = np.concatenate([read_audio(p.with_suffix(".wav"), 16000) for p in parts])
        samples = np.round(samples * 32768).clip(-32768, 32767) / 32768 if len(parts) > 1 else samples
        units = tokens.encode([AudioClip("x", samples.astype(np.float32), 16000)])[0].codes[:, 0]
        return "<speech>" + "".join(f"<Un{u}>" for u in units[np.r_[True, units[1:] != units[:-1]]])

    for name in names.split(","):
        prompt, ending = name.split("_")[2:]
        table = Likelihoods.read(tmp_path / f"out/likelihoods/{name}-stories-model.parquet")
        made = table.scores(find_convention("mean"))
        for i in range(2):
            for side in ("correct", "incorrect"):
                files = [tmp_path / f"data/cross_ms_tSC/voice/{i}_s{i}_{part}" for part in ("mutual", side)]
                text = said(prompt, *files) if prompt == ending else said(prompt, files[0]) + said(ending, files[1])
                ids = interleaved.slamkit_ids(tmp_path / "m", text, units=100)
                item, expected = f"voice/{i}_s{i}_{side}", interleaved.plain(model, ids)
                assert made[item] == pytest.approx(expected.mean(), abs=1e-5)
                place = table.items.index(item)
                assert table.frames.log_probs[place][:, 0] == pytest.approx(expected, abs=1e-5), "each id by itself"
                assert table.frames.starts[place].tolist()[:-1] == list(range(1, len(ids)))
        found = scores(tmp_path / "out", name)
        assert found["all", "mean"]["count"] == 2
        assert ("all", "normalized") not in found
        assert not scores(tmp_path / "out", name, metric="bits_per_s")


def test_a_text_that_is_none_costs_its_own_story_only(tmp_path):
    folder = write_cross(tmp_path / "data")
    (folder / "0_s0_correct.txt").write_bytes("caf\u00e9".encode("latin-1"))
    (folder / "2_s2_mutual.txt").write_text(" \n")
    for part in ("correct", "incorrect"):
        (folder / f"2_s2_{part}.txt").write_text("word")
    interleaved.save(tmp_path / "m", units=100, positions=2048)
    main(config(tmp_path / "data", model=str(tmp_path / "m"), benchmarks="cross_tsc_text_text",
                tokenizer="configs/tokenizers/logmel-kmeans.yaml"))  # fmt: skip
    [result] = json.loads((tmp_path / "out/results.json").read_text())["results"]
    assert (result["counts"]["pairs"], result["counts"]["pairs_scored"]) == (3, 1)
    assert {left["item"]: left["reason"] for left in result["left_out"]} == {
        "voice/0_s0_correct": "voice/0_s0_correct.txt: not UTF-8 text",
        "voice/2_s2_correct": "voice/2_s2_mutual.txt: an empty text",
        "voice/2_s2_incorrect": "voice/2_s2_mutual.txt: an empty text",
    }


def test_a_missing_set_says_where_it_goes(tmp_path):
    with pytest.raises(UsageError, match=r"no cross_ms_sSC: put its .* into .*cross_ms_sSC"):
        BENCHMARKS.get("cross_ssc_speech_speech")(Setup(tmp_path))
