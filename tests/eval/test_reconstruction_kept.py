"""A reconstruction that is killed goes on where it was, and comes to what it would have come to."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from eval.config import EvalConfig
from eval.reconstruction import judging
from eval.reconstruction.kept import KeptPieces
from eval.reconstruction.settings import Reconstruction
from eval.results import read_results
from eval.run import main
from tests.eval.test_reconstruction import write
from tests.eval.test_signal_metrics import noise
from tests.fakes import ArithmeticTokenizer

LIMIT = 9  # clips that are encoded before the process is killed
SCRIPT = """
import os, signal, sys
from pathlib import Path
import slm.tokenizers
from eval.reconstruction import judging
from eval.run import main
from tests.eval.test_reconstruction_kept import Counting, LIMIT, given

class Dies(Counting):
    def _encode(self, signals):
        if len(self.heard) + len(signals) > LIMIT:
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._encode(signals)

judging.FIRST, judging.CHUNK = 4, 2
tokenizer = Dies()
slm.tokenizers.load_tokenizer = lambda source, device, **options: tokenizer
main(given(Path(sys.argv[1]), Path(sys.argv[2])))
"""


class Counting(ArithmeticTokenizer):
    """Remembers how many clips it was given."""

    def __init__(self):
        super().__init__(2)
        self.heard: list[int] = []

    def _encode(self, signals):
        self.heard += [len(s) for s in signals]
        return super()._encode(signals)


def given(data: Path, out: Path, **changes) -> EvalConfig:
    options = {
        "mos": "",
        "asr": "",
        "speaker": "",
        "workers": 1,
        "metrics": "snr,mel_distance",
        "samples": 2,
        **changes,
    }
    return EvalConfig("reconstruction", str(out), data=str(data), tokenizer="mimi", bootstrap=20,
                      reconstruction=Reconstruction(**options))  # fmt: skip


@pytest.fixture
def data(tmp_path) -> Path:
    """Twelve recordings of different lengths, each at a level of its own."""
    for i in range(12):
        write(tmp_path / f"data/{i:02d}.wav", 0.05 * i + noise(i, 0.02, 1600 + 160 * i), 8000)
    return tmp_path / "data"


@pytest.fixture
def run(monkeypatch, data):
    monkeypatch.setattr(judging, "FIRST", 4)
    monkeypatch.setattr(judging, "CHUNK", 2)

    def go(out: Path, **changes) -> tuple[dict, Counting]:
        tokenizer = Counting()
        monkeypatch.setattr("slm.tokenizers.load_tokenizer", lambda source, device, **options: tokenizer)
        main(given(data, out, **changes))
        return read_results(out), tokenizer

    return go


def told(record: dict) -> dict:
    """Everything but what depends on the clock."""
    (result,) = record["results"]
    (point,) = result["details"]["points"]
    timed = ("encode_rtf", "decode_rtf", "time_s")
    scores = [s for s in result["scores"]["model"] if s["metric"] not in timed]
    return {"scores": scores, "point": {k: v for k, v in point.items() if k not in timed}, "counts": result["counts"],
            "samples": result["details"]["samples"], "left_out": result["left_out"]}  # fmt: skip


def test_a_run_that_is_killed_goes_on_where_it_was(run, data, tmp_path):
    """Killed at the tenth clip, with the one before the last chunk still being judged: at least six are kept."""
    out = tmp_path / "killed"
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(data), str(out)], cwd=Path(__file__).parents[2],
                          capture_output=True, timeout=120, check=False)  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not (out / "results.json").exists()
    resumed, tokenizer = run(out)
    whole, fresh = run(tmp_path / "whole")
    new = tokenizer.heard[1:]  # the first warms up
    assert fresh.heard[1:] == [1600 + 160 * i for i in range(12)]
    assert 12 - LIMIT < len(new) <= 6
    assert new == fresh.heard[-len(new) :]
    assert told(resumed) == told(whole)
    for name in (f for s in told(resumed)["samples"] for f in s["files"].values()):
        assert (out / "reconstruction" / name).read_bytes() == (tmp_path / "whole/reconstruction" / name).read_bytes()


def test_a_finished_run_makes_nothing_again_and_a_changed_recording_is_new(run, data, tmp_path, capsys):
    first, _ = run(tmp_path / "out")
    again, tokenizer = run(tmp_path / "out")
    assert tokenizer.heard == []
    assert told(again) == told(first)
    assert "all had been judged before" in capsys.readouterr().err
    write(data / "11.wav", np.zeros(1600), 8000)  # left out, and so never kept
    for _ in range(2):
        run(tmp_path / "out")
        assert "11 had been judged before" in capsys.readouterr().err
    write(data / "11.wav", noise(99, 0.02, 1600), 8000)
    _, tokenizer = run(tmp_path / "out")
    assert tokenizer.heard[1:] == [1600]
    assert "11 had been judged before" in capsys.readouterr().err
    write(data / "00.wav", noise(98, 0.02, 1600), 8000)  # one of those that tell the common delay: all anew
    _, tokenizer = run(tmp_path / "out")
    assert len(tokenizer.heard[1:]) == 12


@pytest.mark.parametrize("changes", [{"metrics": "snr"}, {"max_delay_s": 0.05}, {"alignment": "none"}])
def test_other_settings_are_other_numbers(run, tmp_path, changes):
    run(tmp_path / "out")
    _, tokenizer = run(tmp_path / "out", **changes)
    assert len(tokenizer.heard[1:]) == 12


def test_samples_that_were_removed_are_made_again(run, tmp_path):
    first, _ = run(tmp_path / "out")
    gone = told(first)["samples"][1]
    (tmp_path / "out/reconstruction" / gone["files"]["original"]).unlink()
    again, tokenizer = run(tmp_path / "out")
    assert len(tokenizer.heard[1:]) == 1
    assert told(again) == told(first)
    assert (tmp_path / "out/reconstruction" / gone["files"]["original"]).is_file()


def test_half_a_line_is_no_line(run, tmp_path):
    run(tmp_path / "out")
    (file,) = (tmp_path / "out/reconstruction/kept").glob("*.jsonl")
    whole = file.read_bytes()
    assert len(KeptPieces(file)._lines) == 12
    file.write_bytes(whole[:-20])
    kept = KeptPieces(file)
    assert (len(kept._lines), kept.common is None) == (11, False)
    _, tokenizer = run(tmp_path / "out")
    assert len(tokenizer.heard[1:]) == 1
    assert np.isfinite(KeptPieces(file).common.delay_s)
    assert len(KeptPieces(file)._lines) == 12


def test_the_next_domain_is_made_while_the_last_recordings_of_the_one_before_are_judged(run, data, tmp_path,
                                                                                        monkeypatch):  # fmt: skip
    """With processes beside, here ones that do nothing until they are waited for. Numbers are those without."""
    for i in range(6):
        write(data / f"music/{i}.wav", 0.1 * i + noise(50 + i, 0.02, 1600), 8000)
    alone, _ = run(tmp_path / "alone")
    events: list[str] = []

    class Later:
        def map(self, work, jobs):
            events.append(f"made {jobs[0].domain}")
            return self.judge(work, jobs)

        def judge(self, work, jobs):
            events.append(f"judged {jobs[0].domain}")
            yield from map(work, jobs)

    monkeypatch.setattr("eval.reconstruction.command.pool", lambda workers: nullcontext(Later()))
    beside, _ = run(tmp_path / "beside", workers=2)
    first = {domain: [f"made {domain}"] * 2 for domain in ("speech", "music")}  # two chunks at once
    assert events == [*first["speech"], *["made speech", "judged speech"] * 4,
                      *first["music"], *["judged speech"] * 2, "made music", *["judged music"] * 3]  # fmt: skip
    assert [[r["scores"], r["split"]] for r in untimed(beside)] == [[r["scores"], r["split"]] for r in untimed(alone)]


def untimed(record: dict) -> list[dict]:
    timed = ("encode_rtf", "decode_rtf")
    return [{**r, "scores": [s for s in r["scores"]["model"] if s["metric"] not in timed]} for r in record["results"]]
