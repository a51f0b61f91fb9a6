"""Lhotse cuts. The files are those that Lhotse 1.33 wrote of a recording of two channels and one of one."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import soundfile

from slm.corpus.planning import PlanSettings, make_plan
from slm.corpus.reading import read_clip
from slm.corpus.sources import list_clips, open_source
from slm.errors import UsageError
from tests.fakes import ArithmeticTokenizer


def recording(id, name, channels=(0,), seconds=2.0, **more):
    source = {"type": "file", "channels": list(channels), "source": name}
    return {
        "id": id, "sources": [source], "sampling_rate": 8000, "num_samples": round(8000 * seconds),
        "duration": seconds, "channel_ids": list(channels), **more,
    }  # fmt: skip


def supervision(id, text, speaker="s0", **more):
    return {"id": id, "recording_id": "a", "start": 0.0, "duration": 1.0, "channel": 0, "text": text,
            "speaker": speaker, **more}  # fmt: skip


def mono_cut(id, of, start=0, duration=2.0, channel=0, supervisions=(), **more):
    return {"id": id, "start": start, "duration": duration, "channel": channel, "supervisions": list(supervisions),
            "recording": of, **more, "type": "MonoCut"}  # fmt: skip


def write(path, *cuts):
    data = "".join(json.dumps(cut, ensure_ascii=False) + "\n" for cut in cuts).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.fixture
def two_channels(tmp_path):
    """a.wav, its samples, and its recording."""
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (16_000, 2)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 8000, subtype="FLOAT")
    return samples, recording("a", "a.wav", (0, 1))


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts_train.jsonl.gz"])
def test_a_cut_is_a_part_of_a_channel(tmp_path, two_channels, name):
    samples, a = two_channels
    about = [supervision("s", "one", language="en", gender="f", custom={"snr": 3.5, "words": [1], "ok": True})]
    cuts = write(
        tmp_path / name,
        mono_cut("x", a, 0.1, 1.0, 0, about, custom={"book": "B", "features": {"a": 1}}),
        mono_cut("y", a, 0.7, 0.7, 1, [supervision("t", "two"), supervision("u", "three", "s1")]),
        mono_cut("z", a, 0, 2.0004, 1),
    )
    x, y, z = list_clips(cuts)
    assert [clip.path for clip in (x, y, z)] == [str(tmp_path / "a.wav")] * 3
    assert x.metadata == {"text": "one", "speaker": "s0", "gender": "f", "language": "en", "book": "B", "snr": 3.5,
                          "ok": True}  # fmt: skip
    assert y.metadata == {"text": "two three", "speaker": None}
    assert z.metadata == {"text": None}
    assert (y.start_s, y.end_s, z.start_s, z.end_s) == (0.7, 1.4, 0.0, None)
    assert np.array_equal(read_clip(x, 8000), samples[800:8800, 0])
    assert np.array_equal(read_clip(y, 8000), samples[5600:11_200, 1])
    assert np.array_equal(read_clip(z, 8000), samples[:, 1])


def test_what_a_supervision_says_counts_before_custom_fields(tmp_path, two_channels):
    about = supervision("s", "one", custom={"text": "norm", "speaker": "no", "gender": "f", "snr": 1})
    (clip,) = list_clips(write(tmp_path / "cuts.jsonl", mono_cut("x", two_channels[1], 0, 1.0, 0, [about])))
    assert clip.metadata == {"text": "one", "speaker": "s0", "gender": "f", "snr": 1}


def test_numbers_as_ids_are_text(tmp_path, two_channels):
    _, a = two_channels
    clips = list_clips(write(tmp_path / "cuts.jsonl", mono_cut(7, a), {"id": 8, "tracks": [], "type": "MixedCut"}))
    assert [clip.id for clip in clips] == ["7", "8"]


def test_one_channel_a_file(tmp_path, two_channels):
    samples, a = two_channels
    soundfile.write(tmp_path / "b.wav", samples[:, 1], 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "c.wav", samples[:, 0], 8000, subtype="FLOAT")
    a["sources"] = [*recording("", "c.wav", (0,))["sources"], *recording("", "b.wav", (1,))["sources"]]
    (clip,) = list_clips(write(tmp_path / "cuts.jsonl", mono_cut("x", a, 0.5, 1.0, 1)))
    assert (clip.path, clip.member) == (str(tmp_path / "b.wav"), "")
    assert np.array_equal(read_clip(clip, 8000), samples[4000:12_000, 1])


def test_what_only_lhotse_can_make_is_left_out_with_the_reason(tmp_path, two_channels):
    _, a = two_channels
    command, memory = recording("c", "sox a.wav -t wav -"), recording("m", "bytes")
    command["sources"][0]["type"], memory["sources"][0]["type"] = "command", "memory"
    cut = mono_cut("b-1", recording("b", "a.wav"))
    cuts = write(
        tmp_path / "cuts.jsonl",
        mono_cut("good", a),
        mono_cut("resampled", {**a, "transforms": [{"name": "Resample", "kwargs": {}}]}),
        {"id": "mixed", "tracks": [{"cut": cut, "offset": 0.0}], "type": "MixedCut"},
        {"id": "padding", "duration": 1.0, "feat_value": -23.0, "type": "PaddingCut"},
        {**mono_cut("several", a, channel=[0, 1]), "type": "MultiCut"},
        mono_cut("command", command),
        mono_cut("memory", memory),
        mono_cut("features", None, features={"type": "kaldi-fbank"}),
        mono_cut("fast", {**a, "transforms": [{"name": "Speed", "kwargs": {"factor": 1.1}}]}),
        mono_cut("lacks", recording("b", "a.wav"), channel=1),
    )
    (tmp_path / "out").mkdir()
    plan = make_plan(tmp_path / "out", open_source(cuts), ArithmeticTokenizer().spec, PlanSettings(1), 0)
    assert [planned.clip.id for planned in plan.clips(plan.shards[0])] == ["good", "resampled"]
    what = "not a plain recording: "
    assert {reject.id: reject.reason for reject in plan.rejects()} == {
        "mixed": what + "a MixedCut",
        "padding": what + "a PaddingCut",
        "several": what + "a MultiCut",
        "command": what + "a command",
        "memory": what + "a memory",
        "features": what + "features only",
        "fast": what + "Lhotse makes it by Speed",
        "lacks": "no channel 1: the recording lacks it",
    }


def test_paths_are_found_from_above_the_cuts_or_below_a_root(tmp_path, two_channels):
    _, a = two_channels
    (tmp_path / "data" / "manifests").mkdir(parents=True)
    cuts = write(
        tmp_path / "data/manifests/cuts.jsonl.gz",
        mono_cut("x", recording("w", "s3://bucket/x.wav")),
        mono_cut("y", {**a, "sources": [{**a["sources"][0], "source": f"{tmp_path}/a.wav"}]}),
        mono_cut("z", a),
    )
    source = open_source(cuts)
    assert [clip.path for clip in source.clips()] == ["s3://bucket/x.wav", str(tmp_path / "a.wav"), f"{tmp_path}/a.wav"]
    assert source.base == str(tmp_path)
    assert list(open_source(cuts, root="/there").clips())[2].path == "/there/a.wav"


def test_files_that_are_no_cuts_are_told_with_the_remedy(tmp_path):
    def complaint(*rows, kind="auto"):
        with pytest.raises(UsageError) as caught:
            list(open_source(write(tmp_path / "x.jsonl", *rows), kind).clips())
        return str(caught.value)

    assert "line 1: recordings, not cuts: make them with `lhotse cut simple`" in complaint(recording("a", "a.wav"))
    assert "line 1: supervisions, not cuts" in complaint(supervision("a", "hello"), kind="lhotse")
    broken = mono_cut("x", recording("a", "a.wav"))
    del broken["duration"]
    assert "line 1: not a cut as Lhotse writes it (KeyError('duration'))" in complaint(broken)
    shar = recording("a", "")
    shar["sources"][0]["type"] = "shar"
    assert "cuts of a Shar folder have no files: write some with CutSet.save_audios" in complaint(mono_cut("x", shar))
