"""Hostile input, all of it in one folder and one run: each entry is tokenized rightly, or left out for its reason."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from slm.corpus.config import CorpusConfig
from slm.corpus.pipeline import tokenize_corpus
from slm.corpus.segmentation import Segmentation
from slm.data.store import CodeStore
from tests.corpus.audio import contents
from tests.corpus.hostile import CASES, Heard, LevelTokenizer
from tests.corpus.hostile.entries import THREE_HOURS, WINDOWS

pytest.importorskip("av")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    for name, case in CASES.items():
        path = folder / "audio" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        case.put(path)
    return folder


def run(folder, out, num_workers):
    segmentation = Segmentation("windows", window_s=600.0)
    config = CorpusConfig(
        str(folder / "audio"), "level", str(folder / out), segmentation=segmentation, num_workers=num_workers
    )
    return tokenize_corpus(config, LevelTokenizer())


@pytest.fixture(scope="module")
def outcome(folder):
    """(codes by id, reasons by path below the folder) of the run."""
    summary = run(folder, "out", num_workers=0)
    store = CodeStore(folder / "out")
    codes = {id: store[i].codes.astype(int) for i, id in enumerate(store.ids)}
    lines = [json.loads(line) for line in (folder / "out" / "rejects.jsonl").read_text().splitlines()]
    reasons = {os.path.relpath(line["path"], folder / "audio"): line["reason"] for line in lines}
    assert (summary.num_clips, len(summary.rejects)) == (len(codes), len(reasons))
    return codes, reasons


def readable(name):
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def codes_of(codes, name):
    """A clip is called by its path, without suffix where that is its own."""
    name = readable(name)
    (found,) = {name, os.path.splitext(name)[0]} & codes.keys()
    return codes[found]


HEARD = [name for name, case in CASES.items() if isinstance(case.outcome, Heard)]
REFUSED = [name for name, case in CASES.items() if isinstance(case.outcome, str)]


@pytest.mark.parametrize("name", HEARD, ids=ascii)
def test_what_is_sound_is_tokenized_rightly(outcome, name):
    heard, got = CASES[name].outcome, codes_of(outcome[0], name)
    expected = heard.expected()
    assert len(expected) <= len(got) <= len(expected) + (5 if heard.lossy else 1)
    difference = np.abs(got[: len(expected)] - expected)
    assert difference[:, int(heard.lossy) :].max() <= heard.tolerance


@pytest.mark.parametrize("name", REFUSED, ids=ascii)
def test_what_is_not_is_left_out_with_its_reason(outcome, name):
    assert outcome[1][readable(name)].partition(":")[0] == CASES[name].outcome


def test_everything_is_one_or_the_other(outcome):
    codes, reasons = outcome
    assert len(codes) == len(HEARD) + WINDOWS
    assert len(reasons) == len(REFUSED)
    assert len(CASES) > 150


def test_three_hours_in_windows_are_whole(outcome):
    """Each window begins with its own level and goes on with the lowest."""
    for i in range(WINDOWS):
        got = outcome[0][f"{os.path.splitext(THREE_HOURS)[0]}#{i}"]
        assert len(got) == 600 * 50
        level = (10 * i - 128) / 128
        assert got[0].tolist() == [round(1000 + 1000 * level), round(1000 * abs(level))]
        assert (got[1:] == [0, 1000]).all()


BROKEN = {
    "csv": 'path,text\none\na.wav,x\nb.wav,x,y,z\nb.wav,"a, b"\n',
    "tsv": "path\ttext\none\na.wav\tx\nb.wav\tx\ty\tz\nb.wav\ta, b\n",
    "jsonl": '\n{"path": "a.w\n{"path": "a.wav", "text": "x"}\n"b.wav"\n{"path": "b.wav", "text": "a, b"}\n',
}


@pytest.mark.parametrize("suffix", BROKEN)
def test_broken_lines_of_a_manifest_are_left_out_with_their_reasons(tmp_path, suffix):
    for name in ("a.wav", "b.wav"):
        CASES["UPPER.WAV"].put(tmp_path / name)
    path = tmp_path / f"m.{suffix}"
    path.write_text(BROKEN[suffix])
    summaries = [
        tokenize_corpus(CorpusConfig(str(path), "level", str(tmp_path / out), num_workers=0), LevelTokenizer())
        for out in ("out", "again")
    ]
    assert [summary.num_clips for summary in summaries] == [2, 2]
    assert contents(tmp_path / "out") == contents(tmp_path / "again")
    store = CodeStore(tmp_path / "out")
    assert store.ids == ["a", "b"]
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    second, fourth = (
        ("not JSON", "not a JSON object") if suffix == "jsonl" else ("1 of 2 cells", "4 cells for 2 columns")
    )
    assert [(line["id"], line["path"], line["reason"].partition(" (")[0]) for line in lines] == [
        ("line 2", str(path), f"no row: line 2: {second}"), ("line 4", str(path), f"no row: line 4: {fourth}"),
    ]  # fmt: skip


def test_a_closed_folder_is_one_clip_that_is_left_out(unprivileged):
    """Whoever runs the tests: without the rights to it."""
    folder, drop_rights = unprivileged
    for name in ("a.wav", "closed.wav", "closed/b.wav", "d/e.wav"):
        (folder / "audio" / name).parent.mkdir(parents=True, exist_ok=True)
        CASES["UPPER.WAV"].put(folder / "audio" / name)
    run(folder, "open", num_workers=0)  # and all that is imported
    assert sorted(CodeStore(folder / "open").ids) == ["a", "closed", "closed/b", "d/e"]
    (folder / "audio" / "closed").rename(folder / "closed")
    (folder / "audio" / "closed").symlink_to(folder / "closed")
    (folder / "closed").chmod(0)
    folder.chmod(0o777)
    drop_rights()
    summary = run(folder, "out", num_workers=0)
    assert sorted(CodeStore(folder / "out").ids) == ["a", "closed", "d/e"]
    (line,) = (folder / "out" / "rejects.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "id": "closed/", "path": f"{folder}/audio/closed/", "reason": "no permission to read: a folder",
    }  # fmt: skip
    assert len(summary.rejects) == 1


def test_worker_processes_make_the_same_of_it(folder, outcome):
    run(folder, "other", num_workers=2)
    made = [contents(folder / out) for out in ("out", "other")]
    for files in made:
        del files["plan.arrow"]  # holds the times of files, and /proc/self/mem is another in each process
    assert made[0] == made[1]
