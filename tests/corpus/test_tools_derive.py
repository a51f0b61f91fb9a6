"""`merge` and `select`: the rows are those of the corpora they came from, and what is made is a corpus like others."""

from __future__ import annotations

import json
import os
import re
import shutil
from itertools import pairwise

import pyarrow as pa
import pytest
from datasets import concatenate_datasets, load_from_disk

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


def test_a_damaged_shard_of_a_merged_corpus_is_made_anew(two, tmp_path):
    out = tmp_path / "C"
    assert run("merge", *two, "--out", out) == 0
    before = contents(out)
    shards(out)[1].write_bytes(shards(out)[1].read_bytes()[:-9])
    assert run("check", out, "--redo") == 1
    assert len(shards(out)) == len([name for name in before if name.startswith("data-")]) - 1
    assert run("merge", *two, "--out", out) == 0
    assert contents(out) == before


def chosen(two, tmp_path, *args):
    """The ids that select leaves of the first corpus."""
    out = tmp_path / f"S{len(os.listdir(tmp_path))}"
    assert run("select", two[0], *args, "--out", out) == 0
    assert run("check", out) == 0
    whole = {row["id"]: row for row in rows_of(two[0])}
    rows = rows_of(out)
    assert rows == [whole[row["id"]] for row in rows]
    assert [row["id"] for row in rows] == [id for id in whole if id in {row["id"] for row in rows}]
    return [row["id"] for row in rows]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("speaker == 'x'", "a0 a2 a4"),
        ("speaker == 'x' and duration_s > 0.45", "a2 a4"),
        ("0.35 < duration_s < 0.65 or n == 5", "a1 a2 a3 a5"),
        ("speaker in ['y', 'z'] and not n > 2", "a1"),
        ("id.str.endswith('3')", "a3"),
        ("num_samples >= 6400", "a5"),
        ("n != 3", "a0 a1 a2 a4 a5"),
        ("(speaker == 'x') & ~(n > 2) | (n == 5)", "a0 a2 a5"),
        ("n + take * 2 >= 9 and -n < -3", "a4 a5"),
        ("speaker.str.upper() == 'X' and n not in [0, 4]", "a2"),
        ("speaker == '`'  or `take` == 3", "a3"),
        ("n.between(2, 3)", "a2 a3"),
    ],
)
def test_select_by_metadata_and_duration(two, tmp_path, where, expected):
    assert chosen(two, tmp_path, "--where", where) == expected.split()


def test_missing_values_equal_nothing(tmp_path):
    rows = [{"path": f"c{i}.wav"} for i in range(4)]
    rows[0] |= {"s": "u", "n": 1, "b": True}
    rows[2] |= {"s": "v", "n": 3, "b": False}
    two = [tmp_path / "out"]
    tokenize(manifest(tmp_path / "audio", rows), two[0])
    for where, expected in [
        ("s == 'u'", "c0"),
        ("s != 'u'", "c1 c2 c3"),
        ("n > 1", "c2"),
        ("n <= 1", "c0"),
        ("n != 1", "c1 c2 c3"),
        ("not n > 1", "c0 c1 c3"),
        ("b == True", "c0"),
        ("b", "c0"),
        ("s.isna()", "c1 c3"),
        ("s.str.contains('v')", "c2"),
        ("not s.str.contains('v')", "c0 c1 c3"),
        ("not b", "c1 c2 c3"),
        ("b != True", "c1 c2 c3"),
        ("not (b or n > 2)", "c1 c3"),
    ]:
        assert chosen(two, tmp_path, "--where", where) == expected.split(), where


def test_numbers_of_a_csv_are_compared_as_such(tmp_path):
    for i in range(4):
        write_clip(tmp_path / "audio" / f"c{i}.wav", 0.3, seed=i)
    (tmp_path / "audio" / "m.csv").write_text("path,snr\nc0.wav,9\nc1.wav,10.5\nc2.wav,\nc3.wav,-1\n")
    tokenize(tmp_path / "audio" / "m.csv", tmp_path / "out")
    assert chosen([tmp_path / "out"], tmp_path, "--where", "snr.astype(float) > 8.5") == ["c0", "c1"]


def test_each_clip_is_asked_alone(two, tmp_path):
    """However the clips lie in shards: all of them ask the same."""
    assert len(shards(two[0])) > 1
    assert chosen(two, tmp_path, "--where", "n == take and id.str.len() == 2") == [f"a{i}" for i in range(6)]


def test_select_by_a_list_of_ids(two, tmp_path, capsys):
    (tmp_path / "ids.txt").write_text("a4\na1\r\n\na2")
    assert chosen(two, tmp_path, "--ids", tmp_path / "ids.txt") == ["a1", "a2", "a4"]
    assert chosen(two, tmp_path, "--ids", tmp_path / "ids.txt", "--where", "speaker == 'x'") == ["a2", "a4"]
    (tmp_path / "ids.txt").write_text("a4\nb1\nb0")
    assert run("select", two[0], "--ids", tmp_path / "ids.txt", "--out", tmp_path / "x") == 2
    assert "2 ids of" in (error := capsys.readouterr().err)
    assert "such as 'b0'" in error


def test_samples_are_nested_seeded_and_as_long_as_asked(two, tmp_path):
    samples = [chosen(two, tmp_path, "--sample_clips", n) for n in range(1, 7)]
    assert [len(sample) for sample in samples] == [1, 2, 3, 4, 5, 6]
    assert all(set(small) < set(large) for small, large in pairwise(samples))
    assert samples[2] == chosen(two, tmp_path, "--sample_clips", 3)
    others = {tuple(chosen(two, tmp_path, "--sample_clips", 3, "--seed", seed)) for seed in range(1, 5)}
    assert len(others) > 1
    seconds = {row["id"]: row["num_samples"] / 8000 for row in rows_of(two[0])}
    for hours in (0.4 / 3600, 1.2 / 3600, 2.0 / 3600):
        sample = chosen(two, tmp_path, "--sample_hours", hours)
        assert sample in samples  # it stops at the first that does not fit
        assert sum(seconds[id] for id in sample) <= hours * 3600
        following = samples[len(sample)]
        assert sum(seconds[id] for id in following) > hours * 3600
    some = chosen(two, tmp_path, "--where", "speaker == 'x'", "--sample_clips", "2")
    assert len(some) == 2
    assert set(some) < {"a0", "a2", "a4"}


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (["--where", "speakr == 'x'"], "there is no column 'speakr'; did you mean 'speaker'?"),
        (["--where", "speaker =="], "cannot be evaluated: invalid syntax"),
        (["--where", "duration_s"], "does not say yes or no of each clip"),
        (["--where", "speaker = 'x'"], "cannot be evaluated: invalid syntax"),
        (["--where", "`two words` == 'x'"], "there is no column 'two words'"),
        (["--where", "duration_s > duration_s.mean()"], "`duration_s.mean()` is not known, or not of one clip alone"),
        (["--where", "index < 1"], "there is no column 'index'"),
        (["--where", "n.isin(take)"], "`take` stands where only text, numbers and lists of them can"),
        (["--where", "n == [1, 2]"], "`[1, 2]` is not known"),
        (["--where", "speaker > 3"], "snr.astype(float) > 1"),
        (["--where", "1 < 2"], "does not say yes or no of each clip"),
        (["--where", "codes == 1"], "there is no column 'codes'"),
        (["--where", "__import__('os').getpid() > 0"], "cannot be evaluated"),
        (["--where", "id.__class__ == 1"], "`id.__class__` is not known"),
        (["--where", "id.to_csv('made.csv') == None"], "`id.to_csv('made.csv')` is not known"),
        (["--where", "id.str.__init__(id) == 1"], "is not known"),
        (["--where", "@pd.io.common.os.getpid() > 0"], "cannot be evaluated: invalid syntax"),
        (["--where", "n > 99"], "no clip of"),
        (["--sample_clips", "7"], "there are 6 clips of 0.001 h to draw from"),
        (["--sample_hours", "1"], "there are 6 clips of 0.001 h to draw from"),
        (["--sample_hours", "1e-9"], "no clip of"),
        (["--sample_clips", "0"], "--sample_clips must be above 0"),
        (["--sample_clips", "2", "--sample_hours", "1"], "not both"),
        ([], "select needs --where, --ids"),
        (["--ids", "absent.txt"], "cannot read absent.txt"),
    ],
)
def test_select_wrong_use_is_one_line(two, tmp_path, capsys, args, what):
    assert run("select", two[0], *args, "--out", tmp_path / "S") == 2
    error = capsys.readouterr().err
    assert what in error
    assert error.count("\n") == 1
    assert not (tmp_path / "S").exists()


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
    assert run("merge", *two, "--out", tmp_path / "C") == 0
    largest = max(_frames(path) for folder in two for path in shards(folder))
    made = [_frames(path) for path in shards(tmp_path / "C")]
    assert max(made) <= largest
    assert all(a + b > largest for a, b in pairwise(made))  # none could be joined with the next


def _frames(path):
    with pa.memory_map(str(path)) as source:
        return sum(len(codes) for codes in pa.ipc.open_stream(source).read_all()["codes"].to_pylist())
