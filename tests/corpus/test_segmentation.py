"""Segments: nothing of a recording is lost or doubled where they meet."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from slm.audio import read_audio
from slm.corpus.config import CorpusConfig
from slm.corpus.pipeline import tokenize_corpus
from slm.corpus.planning import PlanSettings, make_plan
from slm.corpus.reading import read_clip
from slm.corpus.segmentation import Segmentation
from slm.corpus.segmenters import _silero
from slm.corpus.sources import open_source
from slm.errors import UsageError
from tests.corpus.audio import write_clip
from tests.encode import encode_with_ffmpeg
from tests.fakes import ArithmeticTokenizer

PROMPT = Path(__file__).parents[1] / "data" / "speech" / "en" / "check-number-dial-again.opus"
PROMPT_S = 2.2171
SPEC = ArithmeticTokenizer().spec


def plan_of(source, **segmentation):
    """(clips with their length, rejects as id and reason, the plan)."""
    out = Path(tempfile.mkdtemp(dir=Path(source).parent))
    plan = make_plan(out, open_source(source), SPEC, PlanSettings(10.0, Segmentation(**segmentation)), 0)
    clips = [planned for shard in plan.shards for planned in plan.clips(shard)]
    return clips, {reject.id: reject.reason for reject in plan.rejects()}, plan


def noise(num_samples):
    return (0.1 * np.random.default_rng(num_samples).standard_normal(num_samples)).astype(np.float32)


SOUNDFILE = {"wav": {}, "flac": {}, "mp3": {}, "ogg": {"format": "OGG"}, "opus": {"format": "OGG", "subtype": "OPUS"}}
UNSEEKABLE = {"au": {"subtype": "G721_32"}, "aiff": {"subtype": "GSM610"}}
FFMPEG = {
    "m4a": ("aac", 48_000, "fltp"), "webm": ("libopus", 48_000, "flt"), "g722": ("g722", 16_000, "s16", "g722"),
}  # fmt: skip


def recording(path, rate_hz, num_samples):
    """Noise: any sample that is lost or doubled is seen."""
    suffix = path.suffix[1:]
    if suffix in FFMPEG:
        return encode_with_ffmpeg(path, noise(num_samples), rate_hz, *FFMPEG[suffix])
    soundfile.write(str(path), noise(num_samples), rate_hz, **{**SOUNDFILE, **UNSEEKABLE}[suffix])
    return path


@pytest.mark.parametrize(
    ("suffix", "rate_hz", "to_hz"),
    [
        *itertools.product(["wav", "flac", "mp3", "ogg"], [44_100], [16_000]),
        *itertools.product([*SOUNDFILE, *UNSEEKABLE, *FFMPEG], [48_000], [24_000]),
        *[
            ("wav", 8_000, 24_000),
            ("flac", 16_000, 16_000),
            ("mp3", 16_000, 16_000),
            ("headerless mp3", 48_000, 16_000),
        ],
    ],
)
def test_windows_make_the_whole_again_at_any_rate(tmp_path, suffix, rate_hz, to_hz):
    (tmp_path / "audio").mkdir()
    path = recording(tmp_path / "audio" / f"a.{suffix.split()[-1]}", rate_hz, 31 * rate_hz // 10 + 1)
    if suffix == "headerless mp3":
        data = path.read_bytes()
        path.write_bytes(data[data.index(data[:2], data.index(b"Xing")) :])
    clips, _, plan = plan_of(tmp_path / "audio", kind="windows", window_s=0.7)
    parts = [read_clip(planned.clip, to_hz) for planned in clips]
    whole = read_audio(path, to_hz)
    assert [planned.clip.id for planned in clips] == [f"a#{i}" for i in range(5)]
    assert sum(map(len, parts)) == len(whole)
    assert np.abs(np.concatenate(parts) - whole).max() < 1e-6  # soxr's float32, begun elsewhere
    assert plan.outside_s == 0
    for planned, part in zip(clips, parts, strict=True):
        assert planned.duration_s <= 0.7
        assert len(part) / to_hz == pytest.approx(planned.duration_s, abs=0.03)  # the end: padding of the codec


@pytest.mark.parametrize("to_hz", [16_000, pytest.param(48_000, marks=pytest.mark.thorough)])
def test_windows_of_opus_speech_make_the_whole_again(tmp_path, to_hz):
    """At the bitrates of speech its decoder remembers seconds, which a seek does not bring back."""
    spoken = [read_audio(path, 48_000) for path in sorted(PROMPT.parent.glob("*.opus"))]
    speech = np.concatenate(spoken)[: 30 * 48_000]
    (tmp_path / "audio").mkdir()
    path = tmp_path / "audio" / "a.opus"
    encode_with_ffmpeg(path, speech, 48_000, "libopus", 48_000, "flt", "ogg", bit_rate=12_000)
    clips, _, _ = plan_of(tmp_path / "audio", kind="windows", window_s=1.3)
    assert len(clips) == 24
    made = np.concatenate([read_clip(planned.clip, to_hz) for planned in clips])
    whole = read_audio(path, to_hz)
    assert len(made) == len(whole)
    assert np.abs(made - whole).max() < 1e-6


def test_windows_of_a_manifests_segments(tmp_path):
    path = write_clip(tmp_path / "a.wav", 5.0, 44_100)
    (tmp_path / "m.csv").write_text("id,path,start,end,text\nx,a.wav,0.33,2.33,hello\ny,a.wav,4.5,,you\n")
    clips, _, _ = plan_of(tmp_path / "m.csv", kind="windows", window_s=0.8)
    assert [planned.clip.id for planned in clips] == ["x#0", "x#1", "x#2", "y"]
    made = np.concatenate([read_clip(planned.clip, 16_000) for planned in clips[:3]])
    assert np.abs(made - read_audio(path, 16_000, 0.33, 2.33)).max() < 1e-6
    seams = [round(0.33 * 44_100) + 88_200 * i // 3 for i in (1, 2)]
    times = [(c.clip.metadata["start_s"], c.clip.metadata["end_s"]) for c in clips]
    assert times == [
        (0.33, seams[0] / 44_100),
        (seams[0] / 44_100, seams[1] / 44_100),
        (seams[1] / 44_100, 2.33),
        (4.5, 5.0),
    ]
    assert [c.clip.metadata["segment_of"] for c in clips] == ["x", "x", "x", str(path)]
    assert [c.clip.metadata["text"] for c in clips] == ["hello"] * 3 + ["you"]


def test_the_corpus_tells_of_each_segment_what_it_is_one_of(tmp_path):
    from datasets import load_from_disk

    path = write_clip(tmp_path / "audio" / "a.wav", 1.5)
    write_clip(tmp_path / "audio" / "b.wav", 0.5)
    segmentation = Segmentation("windows", window_s=0.6)
    config = CorpusConfig(
        str(tmp_path / "audio"), "arithmetic", str(tmp_path / "out"), segmentation=segmentation, num_workers=0
    )
    tokenizer = ArithmeticTokenizer()
    tokenize_corpus(config, tokenizer)
    rows = load_from_disk(config.out).to_list()
    told = [(row["id"], row["segment_of"], row["start_s"], row["end_s"]) for row in rows]
    assert told == [("a#0", "a", 0.0, 0.5), ("a#1", "a", 0.5, 1.0), ("a#2", "a", 1.0, 1.5), ("b", None, None, None)]
    (whole,) = tokenizer._encode([read_audio(path, 8000)])
    assert [code for row in rows[:3] for code in row["codes"]] == whole.tolist()


TIMES = {
    "-1,0.5": "not a segment: -1 to 0.5 s",
    "0.5,0.25": "not a segment: 0.5 to 0.25 s",
    "0.5,0.5": "not a segment: 0.5 to 0.5 s",
    "nan,0.5": "not a segment: nan to 0.5 s",
    "0,nan": "not a segment: 0 to nan s",
    "inf,": "not a segment: inf s to the end",
    "0,inf": "not a segment: 0 to inf s",
    "0.5,3": "segment outside the file: 0.5 to 3 s of 1.000 s",
    "1,": "segment outside the file: 1 s to the end of 1.000 s",
    "7,8": "segment outside the file: 7 to 8 s of 1.000 s",
    "0.5,0.5001": "too short: 1 samples at 8000 Hz are less than one frame",
}


@pytest.mark.parametrize("kind", ["none", "windows", "vad"])
def test_times_that_the_file_does_not_have(tmp_path, kind):
    if kind == "vad":
        pytest.importorskip("silero_vad")
    write_clip(tmp_path / "a.wav", 1.0)
    rows = [f"{i},a.wav,{times}" for i, times in enumerate(TIMES)]
    (tmp_path / "m.csv").write_text(
        "\n".join(["id,path,start,end", *rows, f"good,{PROMPT},0,{PROMPT_S + 0.05}"]) + "\n"
    )
    clips, rejects, _ = plan_of(tmp_path / "m.csv", kind=kind)
    expected = {str(i): reason for i, reason in enumerate(TIMES.values())}
    if kind == "vad":
        expected["10"] = "no speech: none found in 0.000 s"
    assert rejects == expected
    assert [planned.clip.id for planned in clips] == ["good#0" if kind == "vad" else "good"]


def test_segments_of_other_lengths_than_asked_for_are_left_out(tmp_path):
    for name, duration_s in {"a": 0.5, "b": 1.0, "c": 2.5}.items():
        write_clip(tmp_path / "audio" / f"{name}.wav", duration_s)
    clips, rejects, _ = plan_of(tmp_path / "audio", min_s=0.75, max_s=2.0)
    assert [planned.clip.id for planned in clips] == ["b"]
    assert rejects == {
        "a": "shorter than asked for: 0.500 s, below 0.75 s",
        "c": "longer than asked for: 2.500 s, above 2 s",
    }
    clips, rejects, _ = plan_of(tmp_path / "audio", kind="windows", window_s=1.25, min_s=0.75)
    assert [planned.clip.id for planned in clips] == ["b", "c#0", "c#1"]
    assert list(rejects) == ["a"]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"kind": "window"}, "did you mean 'windows'"),
        ({"window_s": 0}, "window_s must be 0.1 or more, not 0"),
        ({"window_s": float("nan")}, "window_s must be 0.1 or more"),
        ({"window_s": float("inf")}, "window_s must be 0.1 or more"),
        ({"min_s": float("nan")}, "min_s must be 0 or more, not nan"),
        ({"max_s": float("inf")}, "max_s must be 0 or more, not inf"),
        ({"min_s": 2.0, "max_s": 2.0}, "max_s 2 must be above --segmentation.min_s 2"),
        ({"kind": "vad", "settings": {"threshold": 1.0}}, "threshold must be between 0 and 1, not 1"),
        ({"kind": "vad", "window_s": 0.5}, "max_pause_s must be from 0 to window_s, not 1"),
        ({"kind": "vad", "settings": {"pad": 1}}, "pad"),
        ({"kind": "windows", "settings": {"threshold": 1}}, "threshold"),
        ({"kind": "windows", "settings": {"window_s": 1}}, "no setting 'window_s'"),
    ],
)
def test_settings_that_make_no_segments(settings, complaint):
    with pytest.raises(UsageError, match=complaint):
        Segmentation(**settings)


def test_what_is_just_as_short_or_long_as_asked_for_is_kept():
    limits = Segmentation("windows", window_s=0.1, min_s=1.0, max_s=2.0)
    assert [limits.complaint(length) is None for length in (0.999, 1.0, 2.0, 2.001)] == [False, True, True, False]


def test_voice_activity_needs_its_package(monkeypatch):
    monkeypatch.setattr(_silero, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs Silero VAD: pip install 'slm-toolkit\[vad\]'"):
        Segmentation("vad")
