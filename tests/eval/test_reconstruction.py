"""Round trips and pairs: a tokenizer that keeps everything is perfect, a delay is found, counts are those by hand."""

from __future__ import annotations

import html
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from eval.config import EvalConfig
from eval.reconstruction.alignment import Delay, align, common_delay, envelope, measure_delay
from eval.reconstruction.command import codebook_counts
from eval.reconstruction.judging import Found
from eval.reconstruction.material import Piece, find_recordings
from eval.reconstruction.pairs import find_pairs
from eval.reconstruction.results import note_of
from eval.reconstruction.scoring import Job, Judged, judge, judge_all, pool
from eval.reconstruction.settings import Reconstruction
from eval.reconstruction.sources import RoundTrip, entropy_bits
from eval.report.__main__ import main as report
from eval.results import read_results
from eval.run import main
from eval.silence import read_made
from slm.errors import UsageError
from slm.tokenizers.base import Tokenizer, fingerprint
from slm.types import AudioClip, TokenizerSpec
from tests.eval.test_signal_metrics import PERFECT, noise, speech
from tests.fakes import ArithmeticTokenizer

QUIET = {"mos": "", "asr": "", "speaker": "", "workers": 1}
RATE = 16_000


class KeepsAll(Tokenizer):
    """A code for each 16-bit sample; what comes back is late by `late` samples."""

    def __init__(self, late: int = 0, device: str = "cpu"):
        self.late = late
        self.spec = TokenizerSpec(
            "keeps-all", fingerprint({"late": late}), RATE, hop_samples=1, codebook_sizes=(65_536,)
        )

    def _encode(self, signals):
        return [(np.rint(s.astype(np.float64) * 32768) + 32768).astype(np.int64)[:, None] for s in signals]

    def _decode(self, codes):
        samples = (codes[:, 0].astype(np.float32) - 32768) / 32768
        return np.pad(samples, (self.late, 0))[: len(samples)]


def write(path: Path, samples: np.ndarray, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(str(path), samples, rate, subtype="PCM_16")
    return path


@pytest.fixture
def recordings(tmp_path) -> Path:
    write(tmp_path / "data/speech/a.wav", speech()[:24_000])
    write(tmp_path / "data/speech/b.wav", speech()[8_000:28_000])
    write(tmp_path / "data/music/c.wav", noise(0, length=16_000))
    write(tmp_path / "data/music/silence.wav", np.zeros(8_000, np.float32))
    (tmp_path / "data/speech/a.txt").write_text("Login  incorrect.\n")
    return tmp_path / "data"


def run(monkeypatch, tokenizer, data: Path, out: Path, **settings) -> dict:
    monkeypatch.setattr("slm.tokenizers.load_tokenizer", lambda source, device, **given: tokenizer)
    options = Reconstruction(**{**QUIET, **settings})
    main(EvalConfig("reconstruction", str(out), data=str(data), tokenizer="mimi", reconstruction=options, bootstrap=20))
    return read_results(out)


def scores_of(record: dict, split: str) -> dict[str, float]:
    result = next(r for r in record["results"] if r["split"] == split)
    return {s["metric"]: s["value"] for s in result["scores"]["model"]}


def test_a_tokenizer_that_keeps_everything_is_perfect_on_every_metric(monkeypatch, recordings, tmp_path, capsys):
    record = run(monkeypatch, KeepsAll(), recordings, tmp_path / "out", sample_rate_hz=RATE)
    found = scores_of(record, "speech")
    known = {name: value for name, value in PERFECT.items() if name in found}
    assert {"snr", "si_snr", "sdr", "mel_distance", "stft_distance", "mcd"} <= set(known)
    assert {name: found[name] for name in known} == pytest.approx(known, abs=1e-3)
    assert found["bitrate_bps"] == 16 * RATE
    assert scores_of(record, "music")["snr"] == 100
    music = next(r for r in record["results"] if r["split"] == "music")
    assert [left["reason"] for left in music["left_out"]] == ["silent: all samples are 0"]
    assert "pesq" not in scores_of(record, "music")
    for path in ("index.html", "reconstruction.md", "reconstruction.json", "reconstruction/items.jsonl"):
        assert (tmp_path / "out" / path).stat().st_size > 100
    (sample, _) = record["results"][0]["details"]["samples"]
    assert sample["text"] == "Login incorrect."
    original, made = (soundfile.read(tmp_path / "out" / sample["folder"] / f)[0] for f in sample["files"].values())
    np.testing.assert_array_equal(original, made)


@pytest.mark.parametrize("alignment", ["constant", "each"])
def test_a_delay_is_measured_corrected_and_reported(monkeypatch, recordings, tmp_path, alignment):
    record = run(monkeypatch, KeepsAll(late=40), recordings, tmp_path / "out", alignment=alignment,
                 metrics="snr,mel_distance")  # fmt: skip
    (point,) = record["results"][0]["details"]["points"]
    assert point["alignment"]["delay_s"] == point["alignment"]["corrected_s"] == pytest.approx(40 / RATE)
    assert scores_of(record, "speech")["snr"] == 100
    assert "2.50 ms late" in record["results"][0]["details"]["note"]
    record = run(monkeypatch, KeepsAll(late=40), recordings, tmp_path / "none", alignment="none", metrics="snr")
    assert scores_of(record, "speech")["snr"] < 5
    assert record["results"][0]["details"]["points"][0]["alignment"]["corrected_s"] == 0


def test_delays_are_told_of_pieces_that_tell_and_lengths_of_all():
    told = [(0.25, 0.75, "waveforms", 2.0), (0.125, 0.5, "envelopes", -1.0), (9.0, 0.25, "", 0.5)]
    judged = [Judged(str(i), "", "speech", Delay(*delay), 250 * i, 1000, length_s, {}, {}, 12.0)
              for i, (*delay, length_s) in enumerate(told)]  # fmt: skip
    found = Found("speech", None, sample_rate_hz=1000, judged=judged)
    assert found.alignment == {
        "corrected_s": 0.25, "delay_s": 0.1875, "delay_range_s": [0.125, 0.25], "correlation": 0.5,
        "measured_by": {"waveforms": 1, "envelopes": 1, "not alike enough": 1},
        "other_length": 1, "length_s": 0.5, "length_range_s": [-1.0, 2.0],
    }  # fmt: skip
    assert "it is 500.0 ms longer (median)" in note_of([found])
    assert "it is 1000.0 ms shorter (median)" in note_of([replace(found, judged=judged[1:2])])


def test_how_far_it_is_is_told_after_every_chunk(monkeypatch, tmp_path, capsys):
    for i in range(5):
        write(tmp_path / f"data/speech/{i}.wav", speech()[1_000 * i :][:8_000])
    monkeypatch.setattr("eval.progress.QUIET_S", 0.0)
    monkeypatch.setattr("eval.reconstruction.judging.FIRST", 3)
    monkeypatch.setattr("eval.reconstruction.judging.CHUNK", 1)
    run(monkeypatch, KeepsAll(), tmp_path / "data", tmp_path / "out", metrics="snr")
    told = [line for line in capsys.readouterr().err.splitlines() if "recordings judged" in line]
    assert [line.split(" recordings")[0] for line in told] == [
        f"reconstruction: speech, 1 codebooks: {n} of 5" for n in range(1, 6)
    ]


class Noise(KeepsAll):
    """What comes back is noise of the same length."""

    def _decode(self, codes):
        return np.random.default_rng(len(codes)).normal(0, 0.1, len(codes)).astype(np.float32)


@pytest.mark.parametrize(("share", "snr", "marked"), [(0.95, 100, 0), (0.8, 100, 2), (0.4, None, 2)])
def test_an_output_of_another_length_is_marked_and_of_a_scrap_nothing_is_said(tmp_path, share, snr, marked):
    """Pairs on disk: what a tokenizer gives is cut to its frames."""
    for name, samples in (("a", speech()[:24_000]), ("b", speech()[8_000:28_000])):
        write(tmp_path / f"data/ground_truth/{name}.wav", samples)
        write(tmp_path / f"data/mine/{name}.wav", samples[: round(share * len(samples))])
    options = Reconstruction(**QUIET, metrics="snr,mel_distance")
    start = EvalConfig("reconstruction", str(tmp_path / "out"), data=str(tmp_path / "data"), reconstruction=options)
    if snr is None:
        with pytest.raises(UsageError, match="less than 50% of the ground truth is left"):
            main(start)
        return
    main(start)
    record = read_results(tmp_path / "out")
    assert scores_of(record, "speech")["snr"] == snr
    assert record["results"][0]["details"]["points"][0]["alignment"]["other_length"] == marked
    assert ("2 of 2 outputs" in (tmp_path / "out/reconstruction.md").read_text()) == bool(marked)


@pytest.mark.parametrize("alignment", ["constant", "each"])
def test_where_no_delay_can_be_measured_none_is_said_to_be_removed(monkeypatch, recordings, tmp_path, alignment):
    record = run(monkeypatch, Noise(), recordings, tmp_path / "out", alignment=alignment, metrics="snr")
    conventions = {s["convention"] for r in record["results"] for s in r["scores"]["model"] if s["metric"] == "snr"}
    assert all("no delay could be measured and none removed" in c for c in conventions)
    record = run(monkeypatch, KeepsAll(late=40), recordings, tmp_path / "late", alignment=alignment, metrics="snr")
    conventions = {s["convention"] for r in record["results"] for s in r["scores"]["model"] if s["metric"] == "snr"}
    assert not any("none removed" in c for c in conventions)


@pytest.mark.parametrize("lag", [-33, 0, 47])
def test_delays_of_waveforms(lag):
    x = noise(1, length=4_000)
    made = -0.3 * np.pad(x, (lag, 0)) if lag >= 0 else -0.3 * x[-lag:]
    found = measure_delay(x, made.astype(np.float32), RATE, 0.01)
    assert (found.delay_s, found.by) == (lag / RATE, "waveform")
    assert measure_delay(x, made.astype(np.float32), RATE, abs(lag) / RATE).delay_s == found.delay_s
    first, second = align(x, made, lag)
    np.testing.assert_allclose(-0.3 * first, second)
    for added, by in ((1.3, "waveform"), (2.2, "")):  # noise so much louder leaves a correlation of 0.61, or of 0.41
        found = measure_delay(x, (made + 0.3 * added * noise(2, length=len(made))).astype(np.float32), RATE, 0.01)
        assert found.by == by
        assert found.correlation == pytest.approx((1 + added**2) ** -0.5, abs=0.03)


def test_an_envelope_is_the_loudness_under_a_window():
    x, window = noise(1, length=8_015), np.sin(np.pi * np.arange(1, 21) / 21) ** 2
    power = [np.mean(x[i : i + 16].astype(np.float64) ** 2) for i in range(0, 8_000, 16)]
    slow = np.sqrt([np.dot(power[i : i + 20], window) / window.sum() for i in range(481)])
    np.testing.assert_allclose(envelope(x, 16), slow - slow.mean())
    assert [len(envelope(x[: 16 * n], 16)) for n in (299, 300)] == [0, 281]


def test_delays_of_envelopes_where_phases_are_new():
    """Two carriers of noise that share nothing but how loud they are, 20 ms apart."""
    loud = np.repeat(np.random.default_rng(3).random(40) ** 2, 800)
    x, y = noise(4, 1.0, 32_000) * loud, noise(5, 1.0, 32_000) * np.roll(loud, 320)
    found = measure_delay(x.astype(np.float32), y.astype(np.float32), RATE, 0.1)
    assert found.by == "envelope"
    assert found.delay_s == pytest.approx(0.02, abs=0.004)
    assert abs(measure_delay(x.astype(np.float32), y.astype(np.float32), RATE, 0.01).delay_s) <= 0.01
    unlike = measure_delay(noise(6, length=16_000), noise(7, length=16_000), RATE, 0.01)
    assert (unlike.delay_s, unlike.by) == (0.0, "")
    assert common_delay([found, unlike, unlike, unlike]) == found
    assert common_delay([unlike]).delay_s == 0
    alike = [Delay(0.0, 0.7, "waveform"), Delay(0.0, 0.6, "envelope")]
    assert common_delay([*alike, unlike, unlike, unlike, unlike]).delay_s == 0


def test_the_common_delay_is_the_median_of_waveforms_where_half_of_them_tell():
    waveforms = [Delay(s, c, "waveform") for s, c in ((0.03, 0.9), (0.01, 0.6), (0.02, 0.8))]
    envelopes = [Delay(0.5, 0.9, "envelope")] * 3
    assert common_delay([*waveforms, *envelopes]) == Delay(0.02, 0.8, "waveform")
    assert common_delay([*waveforms[:2], *envelopes]) == envelopes[0]
    assert common_delay([*waveforms[:2], envelopes[0], Delay(0.0, 0.1, ""), *[Delay(0.0, 0.2, "")] * 3]).delay_s == 0.03


def test_processes_say_what_one_says():
    jobs = [Job(f"{i}", f"{i}", "music", noise(i), noise(i) + noise(i + 9, 0.01), RATE, 0, 0.01) for i in range(3)]
    alone = [judge(("snr", "mel_distance"), job) for job in jobs]
    metrics = [type("M", (), {"name": name}) for name in ("snr", "mel_distance")]
    with pool(2) as workers:
        assert list(judge_all(jobs, metrics, workers)) == alone
    assert alone[0].values["snr"][0] == pytest.approx(20, abs=0.5)


def test_facts_of_codes_by_hand(tmp_path):
    """160 samples of 0.1 are code 1100, of 0.2 are 1200: in 16 codes 12 and 0; halves (second codebook) 6 and 8."""
    samples = np.repeat(np.array([0.1, 0.1, 0.1, 0.2], np.float32), 160)
    path = write(tmp_path / "a.wav", np.append(samples, np.zeros(80, np.float32)), 8_000)
    source = RoundTrip(ArithmeticTokenizer())
    (made,), _ = source.make([Piece("a", path, "speech")])
    assert len(made.samples) == 640  # half a frame is not coded, and no silence stands in for it
    facts = source.facts()
    entropy = 0.25 * 2 + 0.75 * math.log2(4 / 3)
    assert facts["bitrate_bps"] == 50 * 8
    assert facts["entropy_bitrate_bps"] == pytest.approx(50 * 2 * entropy)
    assert facts["codebook_use"] == 2 / 16
    assert facts["codes"]["used"] == [2, 2]
    assert source.facts()["codes"]["frames"] == 0  # of the next domain
    assert entropy_bits(np.array([4, 4, 0, 8])) == 1.5


def test_what_a_decoder_does_not_make_is_missing_too(tmp_path):
    """A decoder that ends 24 samples early: what is left is like the input to the last bit, as far as it goes."""

    class Short(ArithmeticTokenizer):
        def _decode(self, codes):
            return super()._decode(codes)[:-24]

    path = write(tmp_path / "a.wav", noise(1, 0.1, 1_600), 8_000)
    (short,), _ = RoundTrip(Short()).make([Piece("a", path, "speech")])
    (whole,), _ = RoundTrip(ArithmeticTokenizer()).make([Piece("a", path, "speech")])
    assert (len(short.samples), len(whole.samples)) == (1_576, 1_600)
    np.testing.assert_array_equal(short.samples, whole.samples[:1_576])
    codes = Short().encode([AudioClip("a", noise(1, 0.1, 1_600), 8_000)])[0]
    assert not Short().decode(codes).samples[1_576:].any()  # elsewhere clips keep their length


def test_domains_pieces_and_words(tmp_path):
    for name in ("Music/x.wav", "speech/84/84-1-0.flac", "y.wav"):
        path = write(tmp_path / name, noise(1, length=4_000))
    (tmp_path / "speech/84/84-1.trans.txt").write_text("84-1-0 HELLO THERE\n")
    (tmp_path / "manifest.jsonl").write_text(json.dumps({"path": path.name, "text": "hi"}) + "\n")
    found, left_out = find_recordings(tmp_path, Reconstruction(domain="audio", cut_s=0.1))
    assert [(p.id, p.domain, p.text) for p in sorted(found, key=lambda p: p.id)[::2]] == [
        ("Music/x.wav@0-0.1", "music", ""), ("speech/84/84-1-0.flac@0-0.1", "speech", "HELLO THERE"),
        ("y.wav@0-0.1", "audio", "hi"),
    ]  # fmt: skip
    assert (len(found), left_out) == (6, [])
    write(tmp_path / "z.wav", noise(1, length=16_000))
    found, left_out = find_recordings(tmp_path, Reconstruction(cut_s=1))
    assert [p.file for p in found] == ["z.wav"]
    assert {left.reason for left in left_out} == {"shorter than 1 s"}


@pytest.mark.parametrize(
    ("truth", "made"),
    [
        ("ground_truth/1.wav", "mimi/1.wav"), ("1/original.wav", "1/mimi.flac"), ("rec_gt_1.wav", "rec_mimi_1.wav"),
        ("music/rec_music_gt_1.wav", "music/rec_music_mimi_1.wav"), ("1-GT.wav", "1-mimi.wav"),
    ],
)  # fmt: skip
def test_pairs_are_found_by_what_stands_for_the_ground_truth(tmp_path, truth, made):
    for name in (truth, made, "speech/rec_lonely_7.wav"):
        write(tmp_path / name, noise(1))
    systems, left_out = find_pairs(tmp_path, Reconstruction())
    assert list(systems) == ["mimi"]
    (piece,) = systems["mimi"]
    assert (piece.path, piece.made) == (tmp_path / truth, tmp_path / made)
    assert piece.domain == ("music" if "music" in truth else "speech")
    assert [left.item for left in left_out["mimi"]] == ["speech/rec_lonely_7"]
    with pytest.raises(UsageError, match=r"no pair in .* can be judged; .*: shorter than 60 s"):
        find_pairs(tmp_path, Reconstruction(cut_s=60))
    write(tmp_path / "x-gt-1.wav", noise(1))
    write(tmp_path / "x--1.wav", noise(1))  # of a system without a name
    assert list(find_pairs(tmp_path, Reconstruction())[0]) == ["mimi"]


def test_pairs_on_disk_are_judged_without_a_tokenizer(tmp_path):
    x = speech()[:20_000]
    for name, made in (
        ("ground_truth", x),
        ("same", x),
        ("late", np.pad(x, (160, 0))),
        ("noisy", x + noise(1, 0.01, 20_000)),
        ("silent", 0 * x),
    ):
        write(tmp_path / f"pairs/{name}/a.wav", made)
    options = Reconstruction(**QUIET, metrics="snr,mel_distance,si_snr", max_files=1)
    main(EvalConfig("reconstruction", str(tmp_path / "out"), data=str(tmp_path / "pairs"), reconstruction=options))
    points = {p["system"]: p for p in json.loads((tmp_path / "out/reconstruction.json").read_text())["points"]}
    assert set(points) == {"late", "noisy", "same", "silent"}
    assert points["silent"]["scores"]["si_snr"]["value"] == -100  # as of a tokenizer: it is not left out
    rounded_s = 20_000 / RATE + 0.09
    for name in ("same", "silent"):
        assert len(read_made(tmp_path / f"pairs/{name}/a.wav", RATE, 0, rounded_s)) == 20_000
        assert len(read_made(tmp_path / f"pairs/{name}/a.wav", RATE, 0.25, rounded_s)) == 20_000 - RATE // 4
    assert points["same"]["scores"]["snr"]["value"] == points["late"]["scores"]["snr"]["value"] == 100
    assert points["late"]["alignment"]["delay_s"] == pytest.approx(0.01)
    assert points["late"]["alignment"]["length_s"] == pytest.approx(0.01)
    expected = 10 * math.log10(float(x @ x) / 20_000 / 0.01**2)
    assert points["noisy"]["scores"]["snr"]["value"] == pytest.approx(expected, abs=0.3)
    assert " Hz" not in (tmp_path / "out/index.html").read_text().split('class="facts"')[1].split("</p>")[0]
    assert report([str(tmp_path / "out"), "--out", str(tmp_path / "site")]) == 0  # of no known bitrate: no plot
    assert "No tokenizer's reconstruction" in html.unescape((tmp_path / "site/plots.html").read_text())


def test_each_number_of_codebooks_is_a_subset_and_all_of_them_the_first(monkeypatch, recordings, tmp_path):
    def load(source, device, num_codebooks=3):
        return ArithmeticTokenizer(num_codebooks)

    monkeypatch.setattr("slm.tokenizers.load_tokenizer", load)
    options = Reconstruction(**QUIET, metrics="snr,mel_distance")
    main(EvalConfig("reconstruction", str(tmp_path / "out"), data=str(recordings), tokenizer="mimi,encodec",
                    reconstruction=options, bootstrap=10))  # fmt: skip
    for name in ("mimi", "encodec"):
        result = read_results(tmp_path / "out" / name)["results"][0]
        assert result["headline"] == result["scores"]["model"][0]["item"] == "reconstruction/speech/speech"
        rates = {s["item"]: s["value"] for s in result["scores"]["model"] if s["metric"] == "bitrate_bps"}
        subsets = ("speech", "speech 2 codebooks", "speech 1 codebooks")
        assert rates == {f"reconstruction/speech/{s}": 50 * 4 * k for s, k in zip(subsets, (3, 2, 1), strict=True)}


def test_numbers_of_codebooks():
    five = ArithmeticTokenizer(num_codebooks=5)
    assert codebook_counts(five, Reconstruction()) == [1, 2, 4, 5]
    assert codebook_counts(five, Reconstruction(codebooks="3, 1")) == [1, 3]
    assert codebook_counts(KeepsAll(), Reconstruction()) == [1]
    with pytest.raises(UsageError, match="cannot do with 8 codebooks, only with 1, 2, 3, 4, 5"):
        codebook_counts(five, Reconstruction(codebooks="8"))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model": "x"}, "with --tokenizer NAME and no --model"),
        ({"benchmarks": "reconstruction,swuggy", "model": "x"}, "run it by itself"),
        ({"benchmarks": "swuggy"}, "--model is missing"),
        ({"benchmarks": "reconstructon"}, "unknown benchmark .reconstructon.; did you mean .reconstruction."),
        ({"tokenizer": "mimi,mimi"}, "give each once"),
        ({"tokenizer": "mimi,encodecc"}, "unknown tokenizer 'encodecc'"),
        ({"tokenizer": "mimi,gone.yaml"}, "no such tokenizer file: gone.yaml"),
        ({}, "no pairs in"),
        ({"data": "/nowhere"}, "no such folder"),
        ({"reconstruction": Reconstruction(metrics="snrr")}, "no metric 'snrr'"),
    ],
)
def test_wrong_use_is_one_line(recordings, tmp_path, changes, complaint):
    given = {"benchmarks": "reconstruction", "out": str(tmp_path / "out"), "data": str(recordings), **changes}
    with pytest.raises(UsageError, match=complaint):
        main(EvalConfig(**given))


def test_several_processes_would_do_the_same_work_in_one_folder(recordings, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="runs in one process"):
        main(EvalConfig("reconstruction", str(tmp_path / "out"), data=str(recordings), tokenizer="codec2"))


def test_options_that_cannot_be():
    with pytest.raises(UsageError, match="give numbers from 1"):
        Reconstruction(codebooks="0")
    with pytest.raises(UsageError, match="must be 0 or more"):
        Reconstruction(cut_s=-1)
