"""Which files are judged where some cannot be read: as many as were asked for, and the others are named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eval.reconstruction.material import find_recordings, texts_of
from eval.reconstruction.pairs import find_pairs
from eval.reconstruction.settings import Reconstruction
from slm.errors import UsageError
from tests.eval.test_reconstruction import KeepsAll, recordings, run, write
from tests.eval.test_signal_metrics import noise

__all__ = ["recordings"]


def break_some(folder: Path, ending: str = ".wav") -> None:
    """Six recordings: 0 is a text, 2 is cut off, 3 is silent; 1, 4 and 5 can be read."""
    for i in range(6):
        write(folder / f"{i}{ending}", noise(i, length=8_000) * (i != 3))
    (folder / f"0{ending}").write_text("no audio")
    (folder / f"2{ending}").write_bytes((folder / f"1{ending}").read_bytes()[:9_000])


def test_as_many_files_as_asked_for_can_be_read(tmp_path):
    break_some(tmp_path / "speech")
    write(tmp_path / "music/short.wav", noise(1, length=1_600))
    write(tmp_path / "music/z.wav", noise(1, length=8_000))
    found, left_out = find_recordings(tmp_path, Reconstruction(max_files=2))
    assert [p.id for p in found] == ["music/short.wav", "music/z.wav", "speech/1.wav", "speech/4.wav"]
    assert [left.item for left in left_out] == ["speech/0.wav", "speech/2.wav", "speech/3.wav"]
    found, left_out = find_recordings(tmp_path, Reconstruction(max_files=1, cut_s=0.5))
    assert [p.id for p in found] == ["music/z.wav@0-0.5", "speech/1.wav@0-0.5"]
    assert [(left.item, left.reason) for left in left_out[:1]] == [("music/short.wav", "shorter than 0.5 s")]
    for broken in ("1", "4", "5"):
        (tmp_path / f"speech/{broken}.wav").unlink()
    with pytest.raises(UsageError, match=r"nothing in .* can be reconstructed; 0.wav: "):
        find_recordings(tmp_path / "speech", Reconstruction(max_files=2))


def test_a_pair_is_read_on_both_sides_and_each_system_has_its_own_broken_files(tmp_path):
    for system in ("ground_truth", "one", "other"):
        for i in range(4):
            write(tmp_path / f"{system}/{i}.wav", noise(i, length=8_000))
        os.rename(tmp_path / f"{system}/2.wav", os.fsencode(tmp_path / system) + b"/2\xe9.wav")  # not UTF-8
    (tmp_path / "ground_truth/0.wav").write_text("no audio")
    (tmp_path / "one/1.wav").write_text("no audio")
    for lone in ("ground_truth/4.wav", "one/4.wav", "ground_truth/music/5.wav", "one/music/5.wav"):
        write(tmp_path / lone, noise(4, length=8_000))  # `other` does no music, and lacks one of the rest
    systems, left_out = find_pairs(tmp_path, Reconstruction(max_files=2))
    assert {s: [p.id for p in pieces] for s, pieces in systems.items()} == {
        "one": ["one/2\\xe9", "one/3", "one/music/5"], "other": ["other/1", "other/2\\xe9"]
    }  # fmt: skip
    assert [left.item for left in left_out["one"]] == ["one/0", "one/1"]
    assert [left.item for left in left_out["other"]] == ["other/4", "other/0"]
    assert left_out["other"][0].reason == "nothing of other beside ground_truth/4"
    assert left_out["other"][1].reason.startswith("ground truth: ")


def test_each_domain_names_its_own_broken_files(monkeypatch, recordings, tmp_path):
    (recordings / "speech/0.wav").write_text("no audio")
    os.rename(recordings / "speech/a.wav", os.fsencode(recordings / "speech") + b"/a\xe9.wav")  # not UTF-8
    (recordings / "audio").mkdir()
    (recordings / "audio/0.wav").write_text("no audio")
    record = run(monkeypatch, KeepsAll(), recordings, tmp_path / "out", max_files=1, metrics="snr")
    named = {r["split"]: [left["item"] for left in r["left_out"]] for r in record["results"]}
    assert named == {"speech": ["audio/0.wav", "speech/0.wav"], "music": ["audio/0.wav"]}  # nothing is shown of audio
    assert [r["counts"]["files_judged"] for r in record["results"]] == [1, 1]


def test_texts_are_found_and_checked(tmp_path):
    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.wav", noise(0, length=100))
    (tmp_path / "manifest.jsonl").write_bytes('\ufeff{"path": "a.wav", "text": "one\u2028two"}\r\n\r\n'.encode())
    (tmp_path / "b.txt").write_bytes("ein\r\nWörtchen\r\n".encode())
    (tmp_path / "x.trans.txt").write_bytes(b"x-0 THREE FOUR\r\n")
    assert {path.name: text for path, text in texts_of(tmp_path).items()} == {
        "a.wav": "one\u2028two", "b.wav": "ein Wörtchen", "x-0.flac": "THREE FOUR"
    }  # fmt: skip
    (tmp_path / "c.txt").write_bytes("größer".encode("latin-1"))
    with pytest.raises(UsageError, match=r"c.txt is not UTF-8 text"):
        texts_of(tmp_path)
    (tmp_path / "manifest.jsonl").write_text("[1]\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"manifest.jsonl, line 1: not a JSON object"):
        texts_of(tmp_path)
