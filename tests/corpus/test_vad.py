"""Voice activity, held to Silero's own code (its TorchScript model and its loop) on speech with silences between."""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from slm import _sndfile
from slm.audio import read_audio
from slm.corpus.reading import read_clip, read_clip_blocks
from slm.corpus.segmenters import _silero
from slm.corpus.segmenters.vad import cut_at_doubt, join
from slm.corpus.sources import SourceClip
from tests.corpus.test_segmentation import plan_of

pytest.importorskip("onnxruntime")
silero_vad = pytest.importorskip("silero_vad")

SPEECH = Path(__file__).parents[1] / "data" / "speech"
RATE_HZ = 16_000
PAUSES_S = (0.2, 0.6, 1.5, 3.0, 0.9, 5.0, 0.4)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """(folder, samples `[N]` at 16 kHz): seven prompts of five languages, silence behind each, and very soft noise."""
    files = sorted(SPEECH.glob("*/*.opus"))[::16]
    rng = np.random.default_rng(0)
    parts = []
    for path, pause_s in zip(files, PAUSES_S, strict=True):
        parts += [read_audio(path, RATE_HZ), np.zeros(round(pause_s * RATE_HZ), np.float32)]
    samples = np.concatenate(parts)
    samples += 1e-4 * rng.standard_normal(len(samples)).astype(np.float32)
    folder = tmp_path_factory.mktemp("vad") / "audio"
    folder.mkdir()
    soundfile.write(str(folder / "a.wav"), samples, RATE_HZ, subtype="FLOAT")
    return folder, samples


@pytest.fixture(scope="module")
def model():
    return silero_vad.load_silero_vad()


@pytest.fixture(scope="module")
def theirs(speech, model):
    """Regions by the package's own code from its model's probabilities, frame by frame, for settings of its own."""
    import torch

    model.reset_states()
    padded = torch.from_numpy(np.pad(speech[1], (0, -len(speech[1]) % 512)))
    probabilities = [model(frame, RATE_HZ).item() for frame in padded.split(512)]

    def regions(**settings):
        from_them = silero_vad.get_speech_timestamps_from_probs
        found = from_them(probabilities, RATE_HZ, audio_length_samples=len(speech[1]), **settings)
        return [(region["start"], region["end"]) for region in found]

    return regions


@pytest.fixture(scope="module")
def probabilities(speech):
    found, num_samples = _silero.speech_probabilities(np.array_split(speech[1], 7))
    assert num_samples == len(speech[1])
    return found


DEFAULTS = {"threshold": 0.5, "min_speech_s": 0.25, "min_silence_s": 0.1, "pad_s": 0.03}


@pytest.mark.parametrize(
    ("ours", "settings"),
    [
        ({}, {}),
        ({"threshold": 0.9}, {"threshold": 0.9}),
        ({"threshold": 0.1}, {"threshold": 0.1}),
        ({"min_silence_s": 0.0}, {"min_silence_duration_ms": 0}),
        (
            {"min_silence_s": 1.0, "min_speech_s": 2.0},
            {"min_silence_duration_ms": 1000, "min_speech_duration_ms": 2000},
        ),
        ({"pad_s": 0.4}, {"speech_pad_ms": 400}),
        ({"pad_s": 0.0}, {"speech_pad_ms": 0}),
    ],
)
def test_regions_are_those_of_the_package(speech, probabilities, theirs, ours, settings):
    found = _silero.speech_regions(probabilities, len(speech[1]), **{**DEFAULTS, **ours})
    assert found == theirs(**settings)
    assert len(found) > 3


def test_regions_of_any_probabilities_are_those_of_the_package():
    """Speech at either end, too, and silences of just the least length: of three frames."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        probabilities = np.repeat(rng.random(20), rng.integers(1, 8, 20)).astype(np.float32)
        num_samples = len(probabilities) * 512 - int(rng.integers(0, 512))
        found = _silero.speech_regions(probabilities, num_samples, **{**DEFAULTS, "min_silence_s": 0.096})
        expected = silero_vad.get_speech_timestamps_from_probs(
            probabilities, RATE_HZ, audio_length_samples=num_samples, min_silence_duration_ms=96
        )
        assert found == [(region["start"], region["end"]) for region in expected]


def test_a_short_recording_as_a_whole(speech, model):
    samples = speech[1][: 7 * RATE_HZ + 123]
    found = _silero.speech_regions(*_silero.speech_probabilities([samples]), **DEFAULTS)
    expected = silero_vad.get_speech_timestamps(samples, model)
    assert found == [(region["start"], region["end"]) for region in expected]


def test_every_region_is_in_one_segment_and_silence_in_none(speech, theirs):
    folder, samples = speech
    clips, _, plan = plan_of(folder, kind="vad")
    times = [(planned.clip.start_s, planned.clip.end_s) for planned in clips]
    segments = [(round(start * RATE_HZ), len(samples) if end is None else round(end * RATE_HZ)) for start, end in times]
    regions = theirs()
    for start, end in regions:
        assert sum(first <= start and end <= last for first, last in segments) == 1
    assert all(last <= first for (_, last), (first, _) in itertools.pairwise(segments))
    # Begun and ended by speech, with pauses of a second at most in it.
    assert {first for first, _ in segments} <= {start for start, _ in regions}
    assert {last for _, last in segments} <= {end for _, end in regions}
    gaps = [start - end for (_, end), (start, _) in itertools.pairwise(regions)]
    assert len(segments) == 1 + sum(gap > RATE_HZ for gap in gaps) == 5
    inside = sum(last - first for first, last in segments)
    assert plan.outside_s == pytest.approx((len(samples) - inside) / RATE_HZ, abs=1e-3)
    assert plan.outside_s > 8
    assert [planned.clip.id for planned in clips] == [f"a#{i}" for i in range(len(segments))]
    for planned, (first, last) in zip(clips, segments, strict=True):
        assert np.array_equal(read_clip(planned.clip, RATE_HZ), samples[first:last])
        assert planned.clip.metadata == {"segment_of": "a", "start_s": first / RATE_HZ, "end_s": last / RATE_HZ}


def test_speech_that_is_longer_than_a_window_is_cut_into_parts_that_touch(speech, theirs):
    clips, _, _ = plan_of(speech[0], kind="vad", window_s=2.0, settings={"max_pause_s": 0.0})
    parts = [(round(c.clip.start_s * RATE_HZ), round((c.clip.start_s + c.duration_s) * RATE_HZ)) for c in clips]
    assert all(planned.duration_s <= 2.0 for planned in clips)
    merged = []
    for first, last in parts:
        if merged and merged[-1][1] == first:
            merged[-1] = (merged[-1][0], last)
        else:
            merged.append((first, last))
    assert merged == theirs()
    assert len(parts) > len(merged) > 3


def test_segments_at_other_rates_lie_on_samples_and_lose_nothing(tmp_path, speech):
    """A recording at 44.1 kHz, cut by speech at 16 kHz: parts that touch make one signal at 24 kHz."""
    import soxr

    (tmp_path / "audio").mkdir()
    samples = soxr.resample(speech[1][: 12 * RATE_HZ], RATE_HZ, 44_100)
    soundfile.write(str(tmp_path / "audio" / "a.flac"), samples, 44_100, subtype="PCM_24")
    clips, _, _ = plan_of(tmp_path / "audio", kind="vad", window_s=1.0, settings={"max_pause_s": 0.0})
    whole = read_audio(tmp_path / "audio" / "a.flac", 24_000)
    touching = 0
    for planned, after in itertools.pairwise(clips):
        for time_s in (planned.clip.start_s, planned.clip.end_s):
            assert time_s * 44_100 == pytest.approx(round(time_s * 44_100), abs=1e-6)
        assert planned.clip.end_s <= after.clip.start_s
        touching += planned.clip.end_s == after.clip.start_s
        first, last = round(planned.clip.start_s * 24_000), round(planned.clip.end_s * 24_000)
        assert np.abs(read_clip(planned.clip, 24_000) - whole[first:last]).max() < 1e-6
    assert touching > 3


def test_a_recording_without_speech_is_left_out_and_counted(tmp_path, speech):
    (tmp_path / "audio").mkdir()
    noise = 1e-4 * np.random.default_rng(0).standard_normal(3 * RATE_HZ)
    soundfile.write(str(tmp_path / "audio" / "noise.wav"), noise, RATE_HZ, subtype="FLOAT")
    soundfile.write(str(tmp_path / "audio" / "silence.wav"), np.zeros(8000), RATE_HZ)
    (tmp_path / "audio" / "speech.wav").symlink_to(speech[0] / "a.wav")
    clips, rejects, plan = plan_of(tmp_path / "audio", kind="vad")
    assert rejects == {"noise": "no speech: none found in 3.000 s", "silence": "silent: all samples are 0"}
    kept_s = sum(planned.duration_s for planned in clips)
    assert plan.outside_s == pytest.approx(3.0 + len(speech[1]) / RATE_HZ - kept_s, abs=1e-3)


def test_parts_are_cut_where_the_model_doubts_most():
    """Frame 70 is the least sure of those between half a window of 100 frames and all of it."""
    frame, sure = 512, np.full(250, 0.9, np.float32)
    sure[[20, 70, 190]] = [0.1, 0.2, 0.3]
    assert cut_at_doubt((0, 250 * frame), 100 * frame, sure) == [
        (0, 70 * frame + 256),
        (70 * frame + 256, 121 * frame + 256),  # all alike: the first that may be
        (121 * frame + 256, 190 * frame + 256),
        (190 * frame + 256, 250 * frame),
    ]
    assert cut_at_doubt((5, 90 * frame), 100 * frame, sure) == [(5, 90 * frame)]
    sure[95] = 0.0  # whose rest would be shorter than a quarter of a window
    seam = 70 * frame + 256
    assert cut_at_doubt((0, 110 * frame), 100 * frame, sure) == [(0, seam), (seam, 110 * frame)]
    assert cut_at_doubt((0, 1601), 1600, sure) == [(0, 800), (800, 1601)]  # no frame lies between


def test_parts_are_joined_over_short_pauses_up_to_a_window():
    parts = [(0, 10), (12, 20), (25, 30), (30, 38), (60, 70)]
    assert join(parts, longest=30, max_pause=5) == [(0, 30), (30, 38), (60, 70)]
    assert join(parts, longest=100, max_pause=2) == [(0, 20), (25, 38), (60, 70)]
    assert join(parts, longest=100, max_pause=0) == [(0, 10), (12, 20), (25, 38), (60, 70)]


def test_three_hours_need_no_more_memory_than_some_blocks(tmp_path, monkeypatch):
    """Samples of 8 bits that are holes in a file; the model, which would take minutes, stands aside."""

    class Silent:
        def run(self, names, inputs):
            return np.zeros(len(inputs["input"]), np.float32), inputs["h"], inputs["c"]

    monkeypatch.setattr(_silero, "_session", Silent)
    num_samples = 3 * 3600 * RATE_HZ
    soundfile.write(str(tmp_path / "a.wav"), np.zeros(1), RATE_HZ, subtype="PCM_U8")
    header = (tmp_path / "a.wav").read_bytes()[:40]
    (tmp_path / "a.wav").write_bytes(header + num_samples.to_bytes(4, "little"))
    with open(tmp_path / "a.wav", "r+b") as file:
        file.truncate(44 + num_samples)
    tracemalloc.start()
    try:
        blocks = read_clip_blocks(SourceClip("a", str(tmp_path / "a.wav")), RATE_HZ)
        probabilities, heard = _silero.speech_probabilities(blocks)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert heard == num_samples
    assert len(probabilities) == -(-num_samples // 512)
    assert peak < 20 * _sndfile._BLOCK_FRAMES * 4 < num_samples * 4 / 8
