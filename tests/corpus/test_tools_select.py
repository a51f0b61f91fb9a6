"""`select`: which clips fit."""

from __future__ import annotations

import os
from itertools import pairwise

import pytest

from tests.corpus.audio import write_clip
from tests.corpus.test_tools_derive import manifest, rows_of, two
from tests.corpus.tools import run, tokenize

__all__ = ["two"]  # a fixture


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
        (["--where", "'x' in speaker"], "`speaker` stands where only text, numbers and lists of them can"),
        (["--where", "n == [1, 2]"], "`[1, 2]` is not known"),
        (["--where", "speaker > 3"], "snr.astype(float) > 1"),
        (["--where", "speaker is 'x'"], "`is` is not known: use == or isna()"),
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
        (["--sample_hours", "1e-9"], "the first one drawn lasts 0.3 s; ask for more hours"),
        (["--sample_clips", "0"], "--sample_clips must be above 0"),
        (["--sample_clips", "2", "--sample_hours", "1"], "not both"),
        ([], "select needs --where, --ids"),
        (["--ids", "absent.txt"], "cannot read absent.txt"),
        (["--ids", os.devnull], "/dev/null holds no id"),
    ],
)
def test_select_wrong_use_is_one_line(two, tmp_path, capsys, args, what):
    assert run("select", two[0], *args, "--out", tmp_path / "S") == 2
    error = capsys.readouterr().err
    assert what in error
    assert error.count("\n") == 1
    assert not (tmp_path / "S").exists()
