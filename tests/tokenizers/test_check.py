"""`python -m slm.tokenizers check`: kept laws, broken ones, and what does not apply."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from slm.tokenizers import TOKENIZERS
from slm.tokenizers.__main__ import main
from slm.tokenizers._check_command import CheckConfig, _clips, _laws
from slm.tokenizers.dac import DacTokenizer
from slm.tokenizers.laws.networks import _nearly, in_float64
from slm.types import AudioClip
from tests.fakes import ArithmeticTokenizer
from tests.tokenizers.light_codecs import DAC, MIMI

SPEECH = Path(__file__).parents[1] / "data/speech/en"
VERDICTS = ("kept", "BROKEN", "-", "seen")


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Exit status, and of each law its verdict and what was seen."""
    with pytest.raises(SystemExit) as ended:
        main(["check", "--clips", "2", "--seconds", "1.8", *args])
    told = capsys.readouterr()
    lines = [line for line in told.out.splitlines() if line.startswith(VERDICTS)]
    if not lines:
        return int(str(ended.value)), {"error": ("", told.err)}
    return int(str(ended.value)), {line[8:26].strip(): (line[:8].strip(), line[26:]) for line in lines}


@pytest.mark.parametrize(
    ("name", "changes", "seconds", "streams"),
    [("dac", DAC, "0.7", "-"), ("mimi", MIMI, "2.5", "kept")],
    ids=["dac", "mimi"],
)
def test_all_laws_of_a_codec(
    name: str, changes: dict[str, Any], seconds: str, streams: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    TOKENIZERS.get(name).write_untrained(tmp_path / name, **changes)  # type: ignore[attr-defined]
    checkpoint = str(tmp_path / name)
    status, told = run(
        capsys,
        "--tokenizer",
        name,
        "--audio",
        str(SPEECH),
        "--tokenizer_settings.checkpoint",
        checkpoint,
        "--seconds",
        seconds,
    )
    assert status == 0
    laws = {law: verdict for law, (verdict, _) in told.items() if verdict != "seen"}
    assert laws.pop("streams") == streams
    assert set(laws.values()) == {"kept"}
    assert len(laws) == 8
    assert told["mode batched"][1].endswith("codes are not those of exact")


def test_a_piece_that_hears_too_little_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    DacTokenizer.write_untrained(tmp_path / "dac", **DAC)
    monkeypatch.setattr("slm.tokenizers.dac.conv_context", lambda *_, **__: 0)
    args = ["--tokenizer", "dac", "--tokenizer_settings.checkpoint", str(tmp_path / "dac")]
    status, told = run(capsys, *args, "--audio", str(SPEECH), "--seconds", "0.7")
    assert status == 1
    assert [law for law, (verdict, _) in told.items() if verdict == "BROKEN"] == ["long audio"]
    assert "2 pieces give other codes than one pass" in told["long audio"][1]


class Leaky(ArithmeticTokenizer):
    def _encode(self, signals: Any) -> Any:
        return [(codes + len(signals)) % 16 for codes in super()._encode(signals)]


class Crashing(ArithmeticTokenizer):
    """Cannot take a clip of one frame."""

    def _encode(self, signals: Any) -> Any:
        return [codes + 0 * codes[1] for codes in super()._encode(signals)]


class Wordless(ArithmeticTokenizer):
    def _decode(self, codes: np.ndarray) -> np.ndarray:
        raise AssertionError


@pytest.mark.parametrize(
    ("broken", "law", "told"),
    [
        (Leaky, "batched = single", "a batch gives other codes than the clip alone: "),
        (Crashing, "frames", "IndexError: index 1 is out of bounds .* (test_check.py:"),
        (Wordless, "decoding", "AssertionError: no reason (test_check.py:"),
    ],
)
def test_what_is_broken_is_told_and_the_rest_goes_on(
    broken: type[ArithmeticTokenizer],
    law: str,
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(TOKENIZERS._classes, "arithmetic", broken)
    status, found = run(capsys, "--tokenizer", "arithmetic", "--audio", str(SPEECH))
    assert status == 1
    assert found[law][0] == "BROKEN"
    assert all(part in found[law][1] for part in told.split(" .* "))
    assert found["bad input"][0] == "kept"
    if broken is Crashing:
        assert found["decoding"] == ("BROKEN", "as frames")  # one cause is told once
    assert found["streams"] == ("-", "is not made to be streamed")


def test_audio_that_proves_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, samples in (("silent", np.zeros(8000)), ("short", np.random.default_rng(0).normal(size=800) / 10)):
        soundfile.write(tmp_path / f"{name}.wav", samples, 8000)
    (tmp_path / "text.wav").write_text("no audio")
    status, told = run(capsys, "--tokenizer", "codec2-700c", "--audio", str(tmp_path))
    assert status == 2
    assert "0 of 3 clips can be used, two are needed; " in told["error"][1]
    for wrong, told_why in (
        (["--clips", "1"], "--clips must be at least 2"),
        (["--seconds", "0"], "--seconds must be more than 0"),
        (["--seconds", "1"], "of 2 clips would have less than 20 frames of codec2-700c; give 1.2"),
        (["--tokenizer_settings.device", "cuda"], "give --device"),
    ):
        status, told = run(capsys, "--tokenizer", "codec2-700c", "--audio", str(tmp_path), *wrong)
        assert status == 2
        assert told_why in told["error"][1]


def test_a_recording_that_is_shorter_is_taken_whole() -> None:
    config = CheckConfig(tokenizer="arithmetic", audio=str(SPEECH), seconds=60.0)
    clips = _clips(config, ArithmeticTokenizer())
    assert len(clips) == config.clips
    lengths_s = {path.stem: soundfile.info(path).duration for path in SPEECH.iterdir()}
    assert [clip.duration_s for clip in clips] == pytest.approx([lengths_s[clip.id] for clip in clips], abs=0.01)


def test_clips_of_a_minute_are_cut_to_share_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, shared_s = ArithmeticTokenizer(), []
    rate = tokenizer.spec.sample_rate_hz
    minute = [AudioClip(str(i), np.zeros((60 - i) * rate, np.float32), rate) for i in range(2)]
    monkeypatch.setattr(
        "slm.tokenizers.laws.batching_law", lambda _, __, clips: shared_s.extend(c.duration_s for c in clips)
    )
    packed = SimpleNamespace(modes={"batched": ""}, batch_s={})
    _laws(lambda **_: packed, tokenizer, minute, "cpu")["one tensor"]()  # type: ignore[arg-type, return-value]
    assert len(shared_s) * max(shared_s) < packed.batch_s["cpu"]


def test_other_audio_is_told_in_a_line() -> None:
    with pytest.raises(AssertionError, match=r"^decoded, it is other audio: 2 of 3 samples differ$"):
        _nearly(np.array([0.0, 1.0, np.nan]), np.zeros(3), "decoded")


def test_nothing_is_rounded_within_a_law(tmp_path: Path) -> None:
    DacTokenizer.write_untrained(tmp_path / "dac", **DAC)
    value = torch.tensor(1.0 + 2.0**-40, dtype=torch.float64)
    with in_float64(DacTokenizer(checkpoint=str(tmp_path / "dac"))):
        for kept in (value.float(), value.to(torch.float32), value.to("cpu", dtype=torch.float32)):
            assert kept == value
        assert value.to(torch.bfloat16) == 1
    assert value.float() == 1
