"""`python -m slm.tokenizers` and its `fit`."""

from __future__ import annotations

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
from tests.tokenizers.speech import SPEECH, real_clips


def test_the_list_has_a_line_for_each_and_loads_no_model() -> None:
    code = (
        "import sys; from slm.tokenizers.__main__ import main\n"
        "try: main([])\n"
        "finally: print('loaded:', {'torch', 'transformers'} & set(sys.modules))"
    )
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.splitlines()
    assert lines.pop() == "loaded: set()"
    assert [line.split()[0] for line in lines] == TOKENIZERS.names()
    assert all(len(line.split(maxsplit=1)[1]) > 10 for line in lines)


def test_a_broken_plug_in_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = EntryPoint("broken", "no_such_module:Tokenizer", TOKENIZERS.group)
    monkeypatch.setattr(TOKENIZERS, "_plugins", lambda: {"broken": broken})
    assert run() == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "cannot be loaded: the entry point no_such_module:Tokenizer fails" in lines["broken"]
    assert {"mimi", "codec2-700c"} < set(lines)


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


def test_an_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fitt") == 2
    assert "unknown command 'fitt'" in capsys.readouterr().err
