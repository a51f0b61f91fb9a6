"""Fitting centroids: killed at any point and begun again, the command gives the bytes of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from slm import run_lock
from slm.errors import UsageError
from slm.files import temporary_name
from slm.tokenizers import _fit_state, load_tokenizer
from slm.tokenizers.__main__ import main
from slm.tokenizers._clustering import MiniBatch
from slm.tokenizers._kmeans import Centroids
from tests.tokenizers.speech import real_clips

LLOYD = ["--k", "12", "--restarts", "2", "--iterations", "15", "--max_frames", "600"]
STREAM = ["--k", "12", "--max_frames", "300", "--batch_frames", "170", "--passes", "2"]


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as exit:
        main(["fit", "--tokenizer", "logmel-kmeans", "--seed", "5", *args])
    return int(exit.value.code or 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audio")
    for clip in real_clips(16_000, 8):
        soundfile.write(path / f"{clip.id}.wav", clip.samples, 16_000, subtype="FLOAT")
    return path


class Killed(BaseException):
    pass


@pytest.mark.parametrize("args", [LLOYD, STREAM])
def test_killed_after_every_save_the_result_is_the_same(
    folder: Path, tmp_path: Path, args: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    assert run("--audio", str(folder), *args, "--out", str(undisturbed)) == 0
    monkeypatch.setattr(_fit_state, "SAVE_EVERY_S", 0)
    saved: list[str] = []
    save = _fit_state.FitState.save

    def save_and_die(self: _fit_state.FitState, name: str, state: _fit_state.State) -> None:
        save(self, name, state)
        saved.append(name)
        raise Killed

    monkeypatch.setattr(_fit_state.FitState, "save", save_and_die)
    status, attempts = None, 0
    while status is None:
        attempts += 1
        assert attempts < 100, "it does not get on"
        try:
            status = run("--audio", str(folder), *args, "--out", str(out))
        except Killed:
            assert not out.exists()
            shutil.copy(Path(f"{out}.fit") / "request.json", tmp_path)
    assert status == 0
    assert out.read_bytes() == undisturbed.read_bytes()
    assert not Path(f"{out}.fit").exists()
    assert len(saved) == attempts - 1 > 8
    assert {name.split("-")[0] for name in saved} == ({"frames", "lloyd"} if args is LLOYD else {"frames", "stream"})

    # Killed while what was kept is removed: the same command removes the rest, and computes nothing.
    for name, status in (("request.json", 0), ("nothing more", 2)):
        Path(f"{out}.fit").mkdir()
        if name == "request.json":
            shutil.copy(tmp_path / name, f"{out}.fit")
            half_written = tmp_path / temporary_name("out").replace(f"-{os.getpid()}", f"-{1 << 30}")
            half_written.touch()
        assert run("--audio", str(folder), *args, "--out", str(out)) == status
        assert not Path(f"{out}.fit").exists()
        assert not half_written.exists()


def test_a_second_process_is_refused_and_a_killed_one_leaves_what_the_next_one_needs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    args = ["--tokenizer", "logmel-kmeans", "--seed", "5", "--audio", str(folder), *STREAM]
    assert run("--audio", str(folder), *STREAM, "--out", str(undisturbed)) == 0
    code = (
        "import os, time\n"
        "from slm.tokenizers import _fit_state, __main__\n"
        "_fit_state.SAVE_EVERY_S, save, saves = 0, _fit_state.FitState.save, []\n"
        "def counted(self, name, state):\n"
        "    save(self, name, state)\n"
        "    saves.append(name)\n"
        "    if saves.count('stream') == 4: os.close(1), time.sleep(100)\n"
        "_fit_state.FitState.save = counted\n"
        f"__main__.main({['fit', *args, '--out', str(out)]!r})"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    monkeypatch.setattr(run_lock, "HERE_S", 0.0)
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        first.stdout.read()  # until it is where it waits
        assert run("--audio", str(folder), *STREAM, "--out", str(out)) == 2
        assert f"out.fit is being written to by process {first.pid}" in capsys.readouterr().err
        first.kill()
    state = json.loads(_values(Path(f"{out}.fit") / "stream.safetensors"))
    assert state["at"]["turn"] == 0
    assert state["at"]["frames"] == 4 * 170
    assert run("--audio", str(folder), *STREAM, "--out", str(out)) == 0
    assert out.read_bytes() == undisturbed.read_bytes()


def _values(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return file.metadata()["values"]


def test_the_state_of_another_fit_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    _fit_state.FitState(Path(f"{out}.fit"), {"k": 7}).begin()
    assert run("--audio", str(folder), *LLOYD, "--out", str(out)) == 2
    error = capsys.readouterr().err
    assert "holds an unfinished fit with other" in error
    assert "or remove the folder" in error
    state = _fit_state.FitState(tmp_path / "other.fit", {"k": 7, "layer": (1, 2)})
    state.begin()
    assert _fit_state.FitState(tmp_path / "other.fit", {"k": 7, "layer": [1, 2]}).load("lloyd") is None
    with pytest.raises(UsageError, match="with other k:"):
        _fit_state.FitState(state.folder, {"k": 8, "layer": [1, 2]})


def test_streamed_frames_are_those_of_the_clips_in_mini_batches(folder: Path, tmp_path: Path) -> None:
    """The same by hand: all frames at once, cut into batches, for the start and standardization that the file tells."""
    out, clips = tmp_path / "out", sorted(real_clips(16_000, 8), key=lambda clip: clip.id)
    assert run("--audio", str(folder), *STREAM, "--passes", "1", "--out", str(out)) == 0
    made = Centroids.load(out)
    random.Random(5).shuffle(clips)
    encoder = load_tokenizer("logmel-kmeans").encoder  # type: ignore[attr-defined]
    frames = torch.cat([encoder.features(clip.samples)[0] for clip in clips])
    held = frames[:300]
    torch.testing.assert_close(made.mean, held.mean(dim=0))
    torch.testing.assert_close(made.scale, held.std(dim=0, correction=0))
    frames = made.standardize(frames)

    from slm.tokenizers._clustering import plus_plus

    generator = torch.Generator().manual_seed(5)
    starts = [plus_plus(frames[:300], 12, generator) for _ in range(3)]
    inertias = [float(torch.cdist(frames[:300].double(), s.double()).min(dim=1).values.square().sum()) for s in starts]
    search = MiniBatch(starts[int(np.argmin(inertias))])
    for batch in frames.split(170):
        search.update(batch)
    torch.testing.assert_close(search.centroids, made.centroids)
    assert made.metadata["frames"] == len(frames)
    assert made.metadata["clips"] == 8
    assert made.metadata["batch_frames"] == 170
    assert made.metadata["inertia_per_frame"] == pytest.approx(search.inertia / len(frames))


def test_clips_of_several_windows_are_streamed_whole(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows of 7 frames: batches and held frames begin and end anywhere in them, nothing is lost or doubled."""
    from slm.tokenizers.logmel_kmeans import LogMelFrames

    whole = LogMelFrames.features_of
    loudest = np.concatenate([clip.samples for clip in real_clips(16_000, 8)])

    def same_peak(self: LogMelFrames, samples: np.ndarray) -> torch.Tensor:
        # The peak of one fixed signal for all, so that features do not depend on the window.
        together = whole(self, np.concatenate([samples, np.zeros(-len(samples) % 320), loudest]).astype(np.float32))
        return together[:, : self.num_frames(len(samples))]

    monkeypatch.setattr(LogMelFrames, "features_of", same_peak)
    made = {}
    for frames in (None, 7):
        monkeypatch.setattr(LogMelFrames, "max_window_frames", frames)
        for name, args in {"lloyd": LLOYD, "stream": STREAM}.items():
            assert run("--audio", str(folder), *args, "--out", str(tmp_path / f"{name}-{frames}")) == 0
            made[name, frames] = Centroids.load(tmp_path / f"{name}-{frames}")
    for name in ("lloyd", "stream"):
        torch.testing.assert_close(made[name, 7].centroids, made[name, None].centroids, atol=1e-3, rtol=1e-3)
        assert made[name, 7].metadata["frames"] == made[name, None].metadata["frames"]


def test_progress_is_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("--audio", str(folder), *LLOYD, "--out", str(tmp_path / "lloyd")) == 0
    printed = capsys.readouterr().out
    assert "run 2 of 2, iteration 10: inertia per frame " in printed
    assert "dead clusters reseeded 0" in printed
    assert "12 of 12 units used" in printed
    monkeypatch.setattr(_fit_state, "SAVE_EVERY_S", 0)
    assert run("--audio", str(folder), *STREAM, "--out", str(tmp_path / "stream")) == 0
    printed = capsys.readouterr().out
    assert "pass 1 of 2, 170 frames of 2 clips: inertia per frame " in printed
    assert "pass 2 of 2, " in printed
    assert "12 of 12 units used" in printed


def test_several_layers_are_fitted_in_one_pass(folder: Path, tmp_path: Path) -> None:
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    torch.manual_seed(0)
    config = HubertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
                          conv_dim=(16,) * 7, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2)  # fmt: skip
    HubertModel(config).save_pretrained(tmp_path / "hubert")
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path / "hubert")
    encoder = ["--tokenizer", "ssl-kmeans", "--encoder", str(tmp_path / "hubert"), "--input_norm", "none"]
    common = ["--audio", str(folder), *encoder, "--k", "6", "--restarts", "2"]
    for name, args in {"lloyd": ["--max_frames", "900"], "stream": ["--batch_frames", "200"]}.items():
        several = str(tmp_path / f"{name}-L{{layer}}.safetensors")
        assert run(*common, *args, "--layer", "[0,2]", "--out", several) == 0
        alone = tmp_path / f"{name}-alone"
        args = ["--max_frames", "450"] if name == "lloyd" else ["--batch_frames", "200", "--max_frames", "500000"]
        assert run(*common, *args, "--layer", "2", "--out", str(alone)) == 0
        two, one = Centroids.load(tmp_path / f"{name}-L2.safetensors"), Centroids.load(alone)
        torch.testing.assert_close(two.centroids, one.centroids)
        assert two.metadata["settings"] == one.metadata["settings"]
        assert two.metadata["settings"]["layer"] == 2
        settings = {"encoder": str(tmp_path / "hubert"), "input_norm": "none"}
        tokenizer = load_tokenizer("ssl-kmeans", layer=[2, 0], centroids=several, **settings)
        clip = real_clips(16_000)[0]
        by_one = load_tokenizer("ssl-kmeans", layer=2, centroids=str(alone), **settings).encode([clip])[0].codes
        assert np.array_equal(tokenizer.encode([clip])[0].codes[:, :1], by_one)
        with pytest.raises(UsageError, match="were fitted for"):
            load_tokenizer("ssl-kmeans", layer=[2, 0], centroids=several, encoder=settings["encoder"])


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["--layer", "[1,3]"], "several layers are several files"),
        (["--batch_frames", "0"], "--batch_frames must be at least 1"),
        (["--k", "5000"], "frames cannot make 5000 clusters"),
        (["--k", "12", "--max_frames", "11"], "--max_frames 11 cannot make 12 clusters"),
        (["--seed", str(2**63)], "--seed must be in"),
        (["--out", "/proc/centroids"], "--out /proc/centroids: /proc cannot be written to"),
        (["--out", f"{__file__}/{{layer}}"], "test_fit.py is a file; give a folder"),
        (["--input_norm", "none"], "--input_norm has no meaning for logmel-kmeans"),
    ],
)
def test_wrong_use_is_one_line(
    folder: Path, tmp_path: Path, args: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--audio", str(folder), "--out", str(tmp_path / "out"), *args) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir()), "a mistake stands in the way of its correction"


@pytest.mark.parametrize("args", [LLOYD, STREAM])
def test_what_is_there_is_neither_passed_over_nor_written_over(
    folder: Path, tmp_path: Path, args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the name of the file comes from the encoder's own layer, which nobody named."""
    (tmp_path / "centroids-0").write_text("another's")
    assert run("--audio", str(folder), *args, "--out", str(tmp_path / "centroids-{layer}")) == 2
    assert "centroids-0 exists: codes may depend on it" in capsys.readouterr().err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["another's"]


@pytest.mark.parametrize("args", [LLOYD, STREAM])
def test_a_clip_of_no_audio_is_not_in_the_centroids(
    folder: Path, tmp_path: Path, args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """One infinite frame is enough to make every mean NaN: the result is that without the clip."""
    poisoned = tmp_path / "poisoned"
    poisoned.mkdir()
    for name, path in zip(["a.wav", "b.wav", os.fsdecode(b"caf\xe9.wav")], folder.iterdir(), strict=False):
        (poisoned / name).write_bytes(path.read_bytes())
    audio = ["--audio", str(poisoned)]
    assert run(*audio, *args, "--out", str(tmp_path / "without")) == 0
    samples = real_clips(16_000, 1)[0].samples.copy()
    samples[1000] = 1e30
    soundfile.write(poisoned / "loud.wav", samples, 16_000, subtype="FLOAT")
    soundfile.write(poisoned / "short.wav", samples[2000:2160], 16_000)
    assert run(*audio, *args, "--out", str(tmp_path / "with")) == 0
    told = capsys.readouterr().out
    assert "left out: loud" in told
    assert f"left out: short ({poisoned / 'short.wav'}): too short: 160 samples at 16000 Hz are less than" in told
    made, wanted = Centroids.load(tmp_path / "with"), Centroids.load(tmp_path / "without")
    assert made.metadata["clips"] == wanted.metadata["clips"] == 3
    assert made.centroids.isfinite().all()
