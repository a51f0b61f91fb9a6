"""`python -m slm.tokenizers` and its `fit`."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from slm.tokenizers import TOKENIZERS, load_tokenizer
from slm.tokenizers.__main__ import main
from slm.tokenizers._kmeans import Centroids
from slm.tokenizers.database import records
from tests.fakes import ArithmeticTokenizer
from tests.tokenizers.speech import SPEECH, real_clips


def test_the_list_has_a_line_for_each_and_loads_no_model() -> None:
    code = (
        "import sys; from slm.tokenizers.__main__ import main\n"
        "try: main([])\n"
        "finally: print('loaded:', {'torch', 'transformers'} & set(sys.modules))"
    )
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.splitlines()
    assert lines.pop() == "loaded: set()"
    assert max(map(len, lines)) <= 120
    listed = [line.split()[0] for line in lines if line]
    assert {row.name for row in records()} <= set(listed)
    assert len(listed) == len(set(listed) | {"name"}) + 1  # no name twice, but the header of two tables
    above = lines[: lines.index("Known, not loaded")]
    assert {line.split()[-1] for line in above[2:] if line} == set(TOKENIZERS.names())


def test_plug_ins_are_listed_and_a_broken_one_hides_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = EntryPoint("broken", "no_such_module:Tokenizer", TOKENIZERS.group)
    fine = EntryPoint("arithmetic", "tests.fakes:ArithmeticTokenizer", TOKENIZERS.group)
    monkeypatch.setattr(TOKENIZERS, "_plugins", lambda: {"broken": broken, "arithmetic": fine})
    assert {"broken", "arithmetic", "mimi"} < set(listed(capsys, "--runnable"))
    assert run("broken") == 0
    assert "cannot be loaded: the entry point no_such_module:Tokenizer fails" in words(capsys)
    assert run("arithmetic") == 0
    assert "quantizer: unknown" in words(capsys)
    assert "arithmetic" not in listed(capsys, "--quantizer", "SQ")
    monkeypatch.setattr(ArithmeticTokenizer, "facts", {"arithmetic": {"quantizer": "SQ", "codebooks": "16 x 2"}})
    assert "arithmetic" in listed(capsys, "--quantizer", "SQ")
    monkeypatch.setattr(ArithmeticTokenizer, "facts", {"arithmetic": {"quantizer": "\u00dcQ"}})
    assert run("arithmetic") == 0
    assert "its `facts` cannot be read: record arithmetic: quantizer \u00dcQ is not in the vocabulary" in words(capsys)
    for args in (["arithmetic", "--json"], ["--json"]):  # JSON of any locale
        assert run(*args) == 0
        assert r"quantizer \u00dcQ is not" in (told := capsys.readouterr().out)
        assert told.isascii()


def words(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def listed(capsys: pytest.CaptureFixture[str], *args: str) -> list[str]:
    """The names that a filter leaves, by way of the JSON."""
    assert run(*args, "--json") == 0
    return [row["name"] for row in json.loads(capsys.readouterr().out)]


def test_all_filters_must_hold(capsys: pytest.CaptureFixture[str]) -> None:
    music = listed(capsys, "--quantizer", "rvq", "--streamable", "--domain", "music")
    assert set(music) == {"encodec-24khz", "hilcodec", "soundstream"}
    assert listed(capsys, "--quantizer", "RVQ", "--streamable", "--domain", "music", "--runnable") == ["encodec-24khz"]
    assert set(listed(capsys, "--objective", "diffusion,vq")) == {"semanticodec"}
    assert set(listed(capsys, "--bitrate", "adaptive")) == {"disen-tf-codec", "harp-net"}
    assert set(listed(capsys, "--streamable", "--auxiliary", "supervised-semantic")) == {"past"}
    assert "encodec-32khz" not in listed(capsys, "--encoder", "RNN", "--streamable")
    slowest = {"mhubert-25hz", "glm-4-voice", "focalcodec-12.5hz"}
    assert set(listed(capsys, "--max_bitrate_bps", "225", "--runnable")) == slowest
    slow = listed(capsys, "--max_frame_rate_hz", "12.5")
    assert "mimi" in slow
    assert "s-tfnet" not in slow  # whose rate is unknown


def test_what_is_unknown_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--quantizer", "SVQ", "--max_bitrate_bps", "1") == 0
    unknown = sum(row.quantizer == "SVQ" and row.bitrate_bps is None for row in records())
    assert words(capsys).endswith(f"is unknown of them: {unknown}.")
    assert run("s-tfnet") == 0
    page = words(capsys)
    for fact in ("licence: unknown", "sample rate: unknown", "bitrate: unknown", "not loaded"):
        assert fact in page


def test_the_page_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("mimi") == 0
    page = words(capsys)
    for fact in ("load_tokenizer('mimi', checkpoint='kyutai/mimi')", "frame rate: 12.5 Hz", "bitrate: 4400 bit/s"):
        assert fact in page
    assert run("logmel-kmeans", "--measure", "--seconds", "1", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["measured"]["weights"] == "of the package"
    # Each of the 49 frames of a second: 80 bands of 201 bins, then its distance from 100 centroids.
    assert made["measured"]["encode_macs_per_s"] == 49 * (80 * 201 + 80 * 100)
    assert made["measured"]["decode_speed"] is None
    assert run("dac") == 0
    assert words(capsys).endswith("dac is also: dac-24khz, dac-44khz")


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["mimmi"], "unknown tokenizer 'mimmi'; did you mean 'mimi'"),
        ([""], "unknown tokenizer ''"),
        (["fitt"], "unknown tokenizer 'fitt'; did you mean 'fit'"),
        (["--quantizer", "RQV"], "unknown quantizer 'RQV'; did you mean 'RVQ'"),
        (["--domain", "speech,musik"], "unknown domain 'musik'; did you mean 'music'"),
        (["--max_bitrate_bps", "0"], "--max_bitrate_bps must be above 0, not 0"),
        (["--streamble"], "did you mean 'streamable'"),
        (["mimi", "--seconds", "5"], "--seconds says how to measure: give --measure too"),
        (["mimi", "--measure", "--seconds", "0"], "--seconds must be positive"),
        (["mimi", "--measure", "--seconds", "1e9"], "--seconds must be at most 10800"),
        (["mimi", "--measure", "--seed", str(2**63)], "--seed must be in [0, 2^63), not 9223372036854775808"),
        (["--quantizer", ""], "unknown quantizer ''"),
        (["--json", "--markdown"], "give one of them"),
        (["soundstream", "--measure"], "soundstream is known, but not loaded by slm"),
    ],
)
def test_wrong_use_is_one_line(args: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*args) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as exit:
        main(list(args))
    return int(exit.value.code or 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips and a file that is no audio."""
    path = tmp_path_factory.mktemp("audio")
    for clip in real_clips(16_000, 3):
        soundfile.write(path / f"{clip.id}.wav", clip.samples, 16_000, subtype="FLOAT")
    (path / "broken.wav").write_bytes(b"RIFF nothing")
    return path


def test_fit_writes_centroids_that_a_tokenizer_takes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "units.safetensors"
    args = ["fit", "--tokenizer", "logmel-kmeans", "--k", "12", "--audio", str(folder), "--seed", "5"]
    assert run(*args, "--out", str(out)) == 0
    printed = capsys.readouterr().out
    assert "3 clips" in printed
    assert "left out: " in printed
    assert "broken" in printed
    assert "12 of 12 units used" in printed

    tokenizer, clips = load_tokenizer("logmel-kmeans", centroids=str(out)), real_clips(16_000, 3)
    codes = [c.codes[:, 0] for c in tokenizer.encode(clips)]
    made = Centroids.load(out)
    assert made.metadata["frames"] == sum(map(len, codes))
    # The inertia on file is the mean squared distance of these very clips to their units.
    features = [tokenizer.encoder.features(clip.samples)[0] for clip in clips]  # type: ignore[attr-defined]
    gaps = made.standardize(torch.cat(features)) - made.centroids[np.concatenate(codes).astype(np.int64)]
    assert made.metadata["inertia_per_frame"] == pytest.approx(float(gaps.square().sum(dim=1).mean()), rel=1e-4)

    again = tmp_path / "again.safetensors"
    assert run(*args, "--out", str(again)) == 0
    assert again.read_bytes() == out.read_bytes()
    assert run(*args, "--out", str(out)) == 2
    assert "exists" in capsys.readouterr().err


def test_fit_stops_reading_when_it_has_enough_frames(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.safetensors"
    args = ["--tokenizer", "logmel-kmeans", "--k", "4", "--audio", str(folder), "--max_frames", "150"]
    assert run("fit", *args, "--out", str(out)) == 0
    metadata = Centroids.load(out).metadata
    assert metadata["frames"] == 150
    assert metadata["clips"] == 2


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["--tokenizer", "codec2-700c"], "has no centroids to fit; these have: logmel-kmeans, ssl-kmeans"),
        (["--tokenizer", "logmel-kmeans", "--layer", "3"], "--layer has no meaning for logmel-kmeans"),
        (["--tokenizer", "logmel-kmens"], "did you mean 'logmel-kmeans'"),
        (["--k", "0"], "--k must be at least 1"),
        (["--kk", "5"], "unknown option"),
        (["--device", "foo"], "--device foo cannot be used"),
    ],
)
def test_wrong_use_of_fit_is_one_line(
    args: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", "--audio", str(SPEECH), "--out", str(tmp_path / "c"), *args) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
