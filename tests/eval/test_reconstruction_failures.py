"""Several tokenizers in one run: one that fails costs itself only, is told, and is told again at the end."""

from __future__ import annotations

import json
from multiprocessing import active_children
from pathlib import Path

import pytest

from eval.config import EvalConfig
from eval.reconstruction.settings import Reconstruction
from eval.results import read_results
from eval.run import main
from slm.errors import StoppedError, UsageError
from tests.eval.test_reconstruction import QUIET, KeepsAll, recordings

__all__ = ["recordings"]


class FailsIn(KeepsAll):
    """At the second call, of which the first is to warm up."""

    def __init__(self, where: str, error: Exception):
        super().__init__()
        self.where, self.error, self.calls = where, error, 0

    def _encode(self, signals):
        self._count("encode")
        return super()._encode(signals)

    def _decode(self, codes):
        self._count("decode")
        return super()._decode(codes)

    def _count(self, where: str) -> None:
        self.calls += where == self.where
        if self.calls > 1:
            raise self.error


class KillsJudges(KeepsAll):
    def _decode(self, codes):
        for child in active_children():
            child.kill()  # which may have ended by itself since
            child.join()
        return super()._decode(codes)


@pytest.fixture
def run(monkeypatch, recordings, tmp_path):
    def go(tokenizers: dict, **settings) -> Path:
        def load(source, device, **given):
            if isinstance(tokenizers[source], Exception):
                raise tokenizers[source]
            return tokenizers[source]

        monkeypatch.setattr("slm.tokenizers.load_tokenizer", load)
        options = Reconstruction(**{**QUIET, "metrics": "snr", **settings})
        main(EvalConfig("reconstruction", str(tmp_path / "out"), data=str(recordings), bootstrap=20,
                        tokenizer=",".join(tokenizers), reconstruction=options))  # fmt: skip
        return tmp_path / "out"

    return go


def test_one_that_fails_costs_itself_only(run, tmp_path, capsys):
    """It cannot be loaded, raises in encode or decode, or wants too much memory; the last one is judged as alone."""
    broken = {
        "mimi": UsageError("mimi needs a package"),
        "encodec": FailsIn("encode", ValueError("no such\nshape")),
        "snac": FailsIn("decode", RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")),
    }
    with pytest.raises(StoppedError) as told:
        run({**broken, "codec2-1200": KeepsAll()})
    said = {"mimi": "mimi needs a package", "encodec": "ValueError: no such", "snac": "out of memory"}
    out, errors = tmp_path / "out", capsys.readouterr().err
    listed = json.loads((out / "reconstruction.json").read_text())
    assert {p["system"] for p in listed["points"]} == {"codec2-1200"}
    assert [f["system"] for f in listed["failures"]] == list(broken)
    for name, reason in said.items():
        assert f"{name} cannot be evaluated: {reason}" in errors
        for text in (str(told.value), (out / "reconstruction.md").read_text(), (out / "index.html").read_text()):
            assert name in text
            assert reason in text
    assert errors.index("mimi cannot") < errors.index("2 of 4: encodec") < errors.index("4 of 4: codec2-1200")
    (speech,) = [r for r in read_results(out / "codec2-1200")["results"] if r["split"] == "speech"]
    assert next(s["value"] for s in speech["scores"]["model"] if s["metric"] == "snr") == 100


def test_what_failed_is_noted_beside_its_earlier_results_until_it_is_judged(run, tmp_path):
    both = {"mimi": KeepsAll(), "encodec": KeepsAll(late=7)}
    out = run(both)
    assert "failed" not in read_results(out / "encodec")
    with pytest.raises(UsageError, match="encodec: gone"):
        run({**both, "encodec": UsageError("gone")})
    record = read_results(out / "encodec")
    assert [f["reason"] for f in record["failed"]] == ["gone"]
    assert record["results"]
    assert "encodec" not in {p["system"] for p in json.loads((out / "reconstruction.json").read_text())["points"]}
    assert "failed" not in read_results(run(both) / "encodec")


def test_what_was_judged_before_it_failed_is_kept(run, tmp_path, monkeypatch):
    """The first of two recordings, which is being judged while the second is made."""
    monkeypatch.setattr("eval.reconstruction.judging.FIRST", 1)
    monkeypatch.setattr("eval.reconstruction.judging.CHUNK", 1)
    fails = FailsIn("encode", ValueError("later"))
    fails.calls = -1  # it codes one more
    with pytest.raises(StoppedError, match="ValueError: later"):
        run({"mimi": fails}, samples=0)
    (file,) = (tmp_path / "out/reconstruction/kept").glob("speech-*.jsonl")
    assert sum("judged" in line for line in file.read_text().splitlines()) == 1


def test_where_processes_that_judge_are_killed_the_next_tokenizer_has_new_ones(run, tmp_path):
    with pytest.raises(UsageError, match="mimi: a process that judges was killed"):
        run({"mimi": KillsJudges(), "encodec": KeepsAll()}, workers=2)
    assert {r["split"] for r in read_results(tmp_path / "out/encodec")["results"]} == {"speech", "music"}


def test_of_one_alone_the_reason_is_all_that_is_said(run, tmp_path):
    with pytest.raises(UsageError, match=r"^mimi needs a package$"):
        run({"mimi": UsageError("mimi needs a package")})
    assert not (tmp_path / "out/reconstruction.md").exists()
