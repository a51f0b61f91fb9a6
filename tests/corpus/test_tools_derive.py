"""`merge` and `select`: the rows are those of the corpora they came from, and what is made is a corpus like others."""

from __future__ import annotations

import json
import re
import shutil
from itertools import pairwise

import pyarrow as pa
import pytest
from datasets import concatenate_datasets, load_from_disk

from slm.corpus.locks import held
from slm.corpus.output import Output
from slm.corpus.tools import derive
from slm.data.store import CodeStore
from slm.errors import UsageError
from slm.files import read_json
from tests.corpus.audio import bad_folder, contents, good_folder, write_clip
from tests.corpus.tools import run, shards, tokenize
from tests.fakes import ArithmeticTokenizer, random_codes, write_corpus


def manifest(folder, rows):
    """A manifest of clips of the folder, each row with its own columns, and the audio beside it."""
    for i, row in enumerate(rows):
        write_clip(folder / row["path"], 0.3 + 0.1 * i, seed=len(row["path"]) + i)
    path = folder / "m.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.fixture
def two(tmp_path):
    """Two corpora with some columns in common, of other types, and clips left out."""
    first = [{"path": f"a{i}.wav", "speaker": "xy"[i % 2], "n": i, "take": i} for i in range(6)]
    second = [{"path": f"b{i}.wav", "n": i + 0.5, "lang": "en", "take": f"no {i}"} for i in range(5)]
    tokenize(manifest(tmp_path / "one", first), tmp_path / "A")
    rows = manifest(tmp_path / "two", second)
    kinds = bad_folder(tmp_path / "two")
    extra = [{"path": path.name} for path in sorted((tmp_path / "two").iterdir()) if path.stem in kinds]
    rows.write_text(rows.read_text() + "\n" + "\n".join(json.dumps(row) for row in extra))
    tokenize(rows, tmp_path / "B")
    return tmp_path / "A", tmp_path / "B"


def rows_of(folder):
    return load_from_disk(str(folder)).to_list()


def test_merge_holds_the_rows_of_all(two, tmp_path, capsys):
    assert run("merge", *two, "--out", tmp_path / "C") == 0
    said = capsys.readouterr().out
    first, second, merged = rows_of(two[0]), rows_of(two[1]), rows_of(tmp_path / "C")
    assert [row["id"] for row in merged] == [f"a{i}" for i in range(6)] + [f"b{i}" for i in range(5)]
    columns = {"id", "codes", "num_samples", "duration_s", "speaker", "n", "take", "lang"}
    for made, row in zip(merged, [*first, *second], strict=True):
        assert set(made) == columns
        assert {name: made[name] for name in made if row.get(name) is None} == dict.fromkeys(columns - set(row))
        assert made["take"] == str(row["take"])
        assert {name: made[name] for name in row if name != "take"} == {n: row[n] for n in row if n != "take"}
    assert load_from_disk(str(tmp_path / "C")).features["n"].dtype == "float64"
    rejects = [(folder / "rejects.jsonl").read_text() for folder in two]
    assert (tmp_path / "C" / "rejects.jsonl").read_text() == "".join(rejects)
    assert "11 clips," in said
    assert "left out   8 clips: " in said
    assert [run("check", folder) for folder in (*two, tmp_path / "C")] == [0, 0, 0]
    assert len(shards(tmp_path / "C")) < sum(len(shards(folder)) for folder in two)  # small ones are joined


def test_merge_of_like_corpora_is_their_concatenation(tmp_path):
    """Against `datasets`, which reads and joins them itself."""
    for name in "ab":
        audio = tmp_path / "audio" / name
        for i in range(4):
            write_clip(audio / f"{name}{i}.wav", 0.4 + 0.3 * i, seed=i + ord(name))
        tokenize(audio, tmp_path / name)
    assert run("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "c") == 0
    expected = concatenate_datasets([load_from_disk(str(tmp_path / name)) for name in "ab"])
    merged = load_from_disk(str(tmp_path / "c"))
    assert merged.features == expected.features
    assert merged.to_list() == expected.to_list()
    again = str(tmp_path / "again")
    assert run("merge", "--out", again, tmp_path / "a", tmp_path / "b") == 0
    assert contents(tmp_path / "again") == contents(tmp_path / "c") | {
        "README.md": (tmp_path / "again" / "README.md").read_bytes()
    }
    assert CodeStore(again).ids == merged["id"][:]


def test_merge_refuses_what_does_not_fit(two, tmp_path, capsys):
    tokenize(good_folder(tmp_path / "audio"), tmp_path / "other", ArithmeticTokenizer(3))
    for args, what in [
        ((two[0], tmp_path / "other"), r"16x16 at 50 Hz, and .*other of arithmetic .* 16x16x16 at 50 Hz: only corpora"),
        ((two[0], two[0]), r"6 ids come more than once, such as 'a0', in .*A and in .*A: give --prefix"),
        ((two[0],), "two corpora or more"),
        ((two[0], tmp_path / "none"), "no such corpus"),
        ((two[0], two[0], "--prefix"), "folders of different names, and 'A' comes twice"),
    ]:
        assert run("merge", *args, "--out", tmp_path / "C") == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert re.search(what, error), error
    assert not (tmp_path / "C").exists()
    (two[1] / "state.json").unlink()
    assert run("merge", *two, "--out", tmp_path / "C") == 2
    assert "is unfinished" in capsys.readouterr().err
    assert run("merge", two[0], tmp_path / "other", "--out", two[1]) == 2


def test_merge_with_prefixes(two, tmp_path):
    shutil.copytree(two[0], tmp_path / "A2")
    assert run("merge", two[0], tmp_path / "A2", "--prefix", "--out", tmp_path / "C") == 0
    ids = [row["id"] for row in rows_of(tmp_path / "C")]
    assert ids == [f"{name}/a{i}" for name in ("A", "A2") for i in range(6)]


def test_merge_of_large_integers_and_fractions_keeps_both(tmp_path):
    for name, value in [("a", 2**60 + 1), ("b", 0.5)]:
        tokenize(manifest(tmp_path / name, [{"path": f"{name}.wav", "n": value}]), tmp_path / f"{name}.out")
    assert run("merge", tmp_path / "a.out", tmp_path / "b.out", "--out", tmp_path / "c") == 0
    assert [row["n"] for row in rows_of(tmp_path / "c")] == [str(2**60 + 1), "0.5"]


def test_merge_of_a_corpus_by_another_program(tmp_path):
    made = random_codes(ArithmeticTokenizer(), [3, 4, 5])
    write_corpus(tmp_path / "a", made)
    tokenize(good_folder(tmp_path / "audio"), tmp_path / "b")
    assert run("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "c") == 0
    assert run("check", tmp_path / "c") == 0
    assert rows_of(tmp_path / "c") == rows_of(tmp_path / "a") + rows_of(tmp_path / "b")


def test_a_stopped_merge_goes_on_and_a_finished_one_is_left(two, tmp_path, capsys, monkeypatch):
    out, whole = tmp_path / "C", tmp_path / "whole"
    assert run("merge", *two, "--out", whole) == 0
    count, write = len(shards(whole)), derive.write_table
    assert count > 2
    for stop_at in range(1, count + 1):
        calls = []

        def fail(*args, stop_at=stop_at, calls=calls):
            calls.append(args)
            if len(calls) == stop_at:
                raise KeyboardInterrupt
            write(*args)

        with monkeypatch.context() as patch:
            patch.setattr(derive, "write_table", fail)
            assert run("merge", *two, "--out", out) == 130
        assert len(shards(out)) == stop_at - 1
        assert run("check", out) == 1
        assert run("merge", *two, "--out", out) == 0
        assert contents(out) == contents(whole)
        shutil.rmtree(out)
    before = {path.name: path.stat().st_mtime_ns for path in shards(whole)}
    capsys.readouterr()
    assert run("merge", *two, "--out", whole) == 0
    assert "is finished: nothing to do" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in shards(whole)} == before
    assert run("merge", *reversed(two), "--out", whole) == 2
    assert "was begun from other corpora or settings" in capsys.readouterr().err
    with held(Output(whole), None):
        assert run("merge", *two, "--out", whole) == 2
    assert "another run is writing" in capsys.readouterr().err


def test_a_damaged_shard_of_a_merged_corpus_is_made_anew(two, tmp_path, capsys):
    out = tmp_path / "C"
    assert run("merge", *two, "--out", out) == 0
    before = contents(out)
    shards(out)[1].write_bytes(shards(out)[1].read_bytes()[:99])
    assert run("merge", *two, "--out", out) == 1
    assert f"error: {shards(out)[1]} is damaged or no shard; delete it" in capsys.readouterr().err
    assert run("check", out, "--redo") == 1
    assert len(shards(out)) == len([name for name in before if name.startswith("data-")]) - 1
    assert run("merge", *two, "--out", out) == 0
    assert contents(out) == before


def test_urls_are_wrong_use(two, tmp_path, capsys):
    for command, args in [
        ("select", (f"file://{two[0]}", "--where", "n > 1", "--out", tmp_path / "S")),
        ("select", (two[0], "--where", "n > 1", "--out", f"file://{tmp_path}/S")),
        ("merge", (two[0], f"file://{two[1]}", "--out", tmp_path / "S")),
        ("stats", (f"file://{two[0]}",)),
    ]:
        assert run(command, *args) == 2
        assert "is not on this machine: copy it into a folder" in capsys.readouterr().err
    assert not (tmp_path / "S").exists()


def test_a_stopped_selection_is_no_place_to_tokenize_to(two, tmp_path, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(derive, "write_table", stop)
    assert run("select", two[0], "--where", "n > 1", "--out", tmp_path / "S") == 130
    with pytest.raises(UsageError, match="holds a corpus that another command made"):
        tokenize(tmp_path / "one" / "m.jsonl", tmp_path / "S")


def test_select_takes_no_folder_that_is_used(two, tmp_path, capsys):
    for out in (two[0], two[1]):
        before = contents(out)
        assert run("select", two[0], "--where", "n > 1", "--out", out) == 2
        assert "is not empty: give a new folder" in capsys.readouterr().err
        assert contents(out) == before


def test_selections_of_all_and_of_their_merge_are_the_whole(two, tmp_path):
    """Selecting, then merging what was selected, gives the rows back, whatever the shards."""
    for name, where in [("x", "speaker == 'x'"), ("y", "speaker == 'y'")]:
        assert run("select", two[0], "--where", where, "--out", tmp_path / name) == 0
    assert run("merge", tmp_path / "x", tmp_path / "y", "--out", tmp_path / "z") == 0
    assert sorted(rows_of(tmp_path / "z"), key=lambda row: row["id"]) == rows_of(two[0])
    origin = read_json(tmp_path / "z" / "origin.json")
    assert origin["command"] == "merge"
    assert [str(tmp_path / name) for name in "xy"] == origin["corpora"]
    source = f"{two[0]} (select where speaker == 'x', seed 1)"
    assert run("select", two[0], "--where", "speaker == 'x'", "--seed", 1, "--out", tmp_path / "again") == 0
    assert f"Audio from `{source}`, tokenized by" in (tmp_path / "again" / "README.md").read_text()


def test_shards_are_no_larger_than_those_they_come_from(two, tmp_path):
    for command, folders, options in (("merge", two, ()), ("select", two[:1], ("--where", "1 < n < 4"))):
        assert run(command, *folders, *options, "--out", tmp_path / command) == 0
        largest = max(_frames(path) for folder in folders for path in shards(folder))
        made = [_frames(path) for path in shards(tmp_path / command)]
        assert max(made) <= largest
        assert all(a + b > largest for a, b in pairwise(made))  # none could be joined with the next


def _frames(path):
    with pa.memory_map(str(path)) as source:
        return sum(len(codes) for codes in pa.ipc.open_stream(source).read_all()["codes"].to_pylist())
