"""`python -m slm.corpus check` finds what is really damaged, and what it lets make anew is as it was."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from slm.corpus.locks import held
from slm.corpus.output import Output
from slm.corpus.plan import Plan, Reject
from slm.corpus.seal import BLANK, KEY, is_intact, seal
from slm.corpus.shards import read_record, write_table
from slm.data.store import CodeStore, map_table
from slm.errors import StoppedError, UsageError
from slm.files import read_json, write_json
from tests.corpus.audio import bad_folder, contents, good_folder
from tests.corpus.tools import moved, run, shards, tokenize
from tests.fakes import ArithmeticTokenizer, random_codes, write_corpus

SPEC = ArithmeticTokenizer().spec


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The command of a corpus of several shards, with clips left out by the plan and by reading."""
    root = tmp_path_factory.mktemp("whole")
    bad_folder(good_folder(root / "audio"))
    return tokenize(root / "audio", root / "out")


@pytest.fixture
def corpus(whole, tmp_path):
    """(command, folder) of a copy."""
    return moved(whole, tmp_path / "out"), tmp_path / "out"


def faults(capsys, out, *options):
    """The lines about faults; the exit status says whether there are any."""
    capsys.readouterr()
    status = run("check", out, *options)
    *lines, last = capsys.readouterr().out.splitlines()
    assert status == (1 if lines else 0)
    assert ("is whole" in last) == (not lines)
    assert all(re.fullmatch(r"\S.*: .*; .*", line) for line in lines)
    anew = {line.split(":")[0] for line in lines if re.search("anew$|made the corpus again$", line)}
    assert (f"files to be made anew: {len(anew)};" in last) == ("--redo" in options and bool(anew))
    assert ("each line says what to do" in last) == (bool(lines) and not ("--redo" in options and anew))
    return lines


def test_a_whole_corpus(corpus, capsys):
    _, out = corpus
    before = contents(out)
    assert run("check", out) == 0
    assert re.search(r"is whole: 7 clips, 0\.002 h in \d shards\n", capsys.readouterr().out)
    assert run("check", "--redo", out) == 0
    assert contents(out) == before
    assert len(shards(out)) > 3


def test_every_flipped_byte_of_a_shard_is_found(corpus):
    """Wherever it is: none is outside the digest."""
    _, out = corpus
    shard = shards(out)[1]
    data, sealed = shard.read_bytes(), read_record(shard).seal
    assert is_intact(shard, sealed)
    for at in [*range(0, len(data), 7), len(data) - 1]:
        shard.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert not is_intact(shard, sealed), at


def test_a_shard_of_random_damage_never_brings_the_check_down(corpus, capsys):
    _, out = corpus
    shard, rng = shards(out)[0], np.random.default_rng(0)
    data = shard.read_bytes()
    for _ in range(40):
        damaged = bytearray(data)
        for at in rng.integers(0, 400 if rng.random() < 0.5 else len(data), rng.integers(1, 9)):
            damaged[at] = rng.integers(256)
        shard.write_bytes(bytes(damaged[: rng.integers(len(data) // 2, len(data))] if rng.random() < 0.2 else damaged))
        (line,) = faults(capsys, out)
        assert line.startswith(f"{shard.name}: ")


def flip(out):
    shard = shards(out)[2]
    data = bytearray(shard.read_bytes())
    data[-20] ^= 1
    shard.write_bytes(data)
    return {shard.name: "damaged: its bytes are not those that were written"}


def truncate(out):
    shard = shards(out)[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    return {shard.name: "damaged"}


def empty(out):
    shards(out)[1].write_bytes(b"")
    return {shards(out)[1].name: "damaged: it cannot be read"}


def delete(out):
    shards(out)[1].unlink()
    return {"data-00001": "missing"}


def swap(out):
    first, second = shards(out)[:2]
    first.rename(out / "x")
    second.rename(first)
    (out / "x").rename(second)
    return {first.name: f"it holds what is listed as {second.name}", second.name: "clips of the plan are neither in it"}


def copy_over(out):
    shutil.copy(shards(out)[3], shards(out)[0])
    return {shards(out)[0].name: "clips in it are not planned for it", shards(out)[3].name: "ids come more than once"}


def text_file(out):
    shards(out)[0].write_text("no Arrow data at all " * 100)
    return {shards(out)[0].name: "damaged: it cannot be read"}


def foreign_shard(out):
    made = write_corpus(out.parent / "foreign", random_codes(ArithmeticTokenizer(), [3, 4]))
    shutil.copy(shards(made)[0], shards(out)[0])
    return {shards(out)[0].name: "written by another program"}


DAMAGES = [flip, truncate, empty, delete, swap, copy_over, text_file, foreign_shard]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_made_good_on_request(corpus, capsys, damage):
    config, out = corpus
    before = contents(out)
    expected = damage(out)
    after = contents(out)
    lines = faults(capsys, out)
    for name, what in expected.items():
        assert any(line.startswith(name) and what in line for line in lines), (what, lines)
    assert contents(out) == after  # a check alone changes nothing
    assert faults(capsys, out, "--redo") == lines
    kept = {path.name: path.stat().st_mtime_ns for path in shards(out)}
    assert len(kept) < len(before)
    with pytest.raises(UsageError, match="unfinished"):
        CodeStore(out)
    tokenize(config.audio, out)
    assert contents(out) == before
    assert faults(capsys, out) == []
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept  # those that were whole are left alone


@pytest.mark.parametrize("damage", [empty, text_file, foreign_shard])
def test_going_on_names_a_shard_that_cannot_be_read(corpus, damage):
    config, out = corpus
    before = contents(out)
    (name,) = damage(out)
    shards(out)[2].unlink()
    with pytest.raises(StoppedError, match=f"{out}/{name} is damaged or no shard; delete it and run the command"):
        tokenize(config.audio, out)
    (out / name).unlink()
    tokenize(config.audio, out)
    assert contents(out) == before


def test_redo_takes_only_what_is_damaged(corpus, capsys):
    _, out = corpus
    names = [path.name for path in shards(out)]
    flip(out)
    faults(capsys, out, "--redo")
    assert [path.name for path in shards(out)] == [*names[:2], *names[3:]]
    assert not (out / "state.json").exists()
    assert re.match(r"state\.json: unfinished: \d of \d shards are there; run the command", faults(capsys, out)[0])


def test_redo_waits_for_no_run(corpus, capsys):
    _, out = corpus
    flip(out)
    with held(Output(out), None):
        assert run("check", out, "--redo") == 2
    assert "another run is writing" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["shards.json", "dataset_info.json", "rejects.jsonl", "README.md", "state.json"])
@pytest.mark.parametrize("change", ["removed", "emptied", "altered"])
def test_what_stands_beside_the_shards(corpus, capsys, name, change):
    config, out = corpus
    before, path = contents(out), out / name
    text = path.read_text()
    path.unlink()
    if change == "emptied" and name != "README.md":
        path.touch()
    if change == "altered" and name != "README.md":
        lines = text.splitlines()
        path.write_text(
            "\n".join(lines[:-1]) if name == "rejects.jsonl" else text.replace("0", "1").replace("id", "ix")
        )
    (line,) = faults(capsys, out)
    assert line.startswith(name)
    faults(capsys, out, "--redo")
    tokenize(config.audio, out)
    assert contents(out) == before


def test_strays_are_named_and_left(corpus, capsys):
    _, out = corpus
    shutil.copy(shards(out)[0], out / "data-copy.arrow")
    (out / "notes.txt").write_text("mine")
    (line,) = faults(capsys, out, "--redo")
    assert line.startswith("data-copy.arrow: no shard of this corpus")
    assert (out / "data-copy.arrow").exists()
    assert (out / "state.json").exists()


@pytest.mark.parametrize("name", ["plan.json", "plan.arrow"])
def test_a_damaged_plan(corpus, capsys, name):
    _, out = corpus
    data = (out / name).read_bytes()
    offsets = Plan(out).table["id"].chunk(0).buffers()[1].to_pybytes()
    beyond = data.replace(offsets, offsets[:4] + b"\xff\xff\xff\x7f" + offsets[8:])  # ids far outside the file
    columns = data.replace(b'"columns": {', b'"columns": {"x": "tring"')
    for broken in (b"", data[: len(data) // 2], columns, beyond, None):
        if broken == data:
            continue
        (out / name).unlink()
        if broken is not None:
            (out / name).write_bytes(broken)
        (line,) = faults(capsys, out)
        assert "plan.json: missing or damaged; bring both from a copy" in line
    flip(out)
    assert run("check", out, "--redo") == 2  # nothing could make the shard anew
    assert len(shards(out)) > 5


def test_a_corpus_without_its_plan_is_checked_for_the_rest(corpus, capsys):
    """As it comes from the hub."""
    _, out = corpus
    for name in ("plan.json", "plan.arrow"):
        (out / name).unlink()
    assert faults(capsys, out) == []
    flip(out)
    assert len(faults(capsys, out)) == 1
    assert run("check", out, "--redo") == 2
    assert "has no plan by which its shards could be made anew" in capsys.readouterr().err
    assert len(shards(out)) > 3


def rewritten(out, change):
    """Write the first shard again, sealed and listed, with other rows or rejects: what a fault of a program does."""
    path = shards(out)[0]
    record = read_record(path)
    rows, rejects = change(map_table(path).replace_schema_metadata(None), list(record.rejects))
    write_table(path, rows, {}, SPEC, rejects)
    entries = read_json(out / "shards.json")
    entries[0]["seal"] = read_record(path).seal
    write_json(out / "shards.json", entries)


def filled(rows, name, value, type=None):
    """The rows with one value in all of a column."""
    return rows.set_column(rows.column_names.index(name), name, pa.array([value] * len(rows), type))


CHANGES = [
    (lambda rows, rejects: (rows.slice(1), rejects), "1 clips of the plan are neither in it nor among its rejects"),
    (lambda rows, rejects: (rows, [*rejects, Reject("z", "", "lost")]), "1 clips in it are not planned for it"),
    (lambda rows, rejects: (rows, [*rejects, Reject("clip-0", "", "lost")]), "1 clips are in it and among its rejects"),
    (lambda rows, rejects: (rows.take([1, 0, 2]), rejects), "its clips are not in the order of the plan"),
    (lambda rows, rejects: (filled(rows, "id", "clip-0"), rejects), "2 ids come more than once, such as 'clip-0'"),
    (
        lambda rows, rejects: (filled(rows, "num_samples", 160 * 99, pa.int64()), rejects),
        "3 of its clips have another number of frames than the tokenizer gives them, such as 'clip-0'",
    ),
    (
        lambda rows, rejects: (filled(rows, "duration_s", 9.0, pa.float32()), rejects),
        "3 of its clips have a duration_s that is not num_samples / sample rate",
    ),
    (lambda rows, rejects: (filled(rows, "id", None, pa.string()), rejects), "it has rows without id"),
    (lambda rows, rejects: (filled(rows, "id", 7), rejects), "its column id is int64, and not string"),
    (
        lambda rows, rejects: (rows.append_column("x", pa.array([1, 2, 3])), rejects),
        "its metadata are {'x': 'int64'}, and not {}",
    ),
]


@pytest.mark.parametrize(("change", "what"), CHANGES)
def test_rows_that_are_not_what_they_should_be(tmp_path, capsys, change, what):
    config = tokenize(good_folder(tmp_path / "audio"), out := tmp_path / "out")
    before = contents(out)
    rewritten(out, change)
    assert any(what in line for line in faults(capsys, out, "--redo"))
    tokenize(config.audio, out)
    assert contents(out) == before


def test_codes_beyond_the_codebooks(corpus, capsys):
    """Against the spec, whatever wrote the shard believed."""
    _, out = corpus
    spec = read_json(out / "tokenizer.json")
    spec["codebook_sizes"] = [16, 15]
    write_json(out / "tokenizer.json", spec)
    lines = [line for line in faults(capsys, out) if "codebook 1 has 15 codes, and here is code 15;" in line]
    beyond = [path.name for path in shards(out) if read_record(path).counts[1][15]]
    assert [line.split(":")[0] for line in lines] == beyond
    assert 0 < len(beyond) < len(shards(out))


def test_codes_of_another_shape(corpus, capsys):
    _, out = corpus
    spec = read_json(out / "tokenizer.json")
    spec["codebook_sizes"] = [16, 16, 16]
    write_json(out / "tokenizer.json", spec)
    assert "its column codes is list<" in faults(capsys, out)[0]


def test_codes_of_another_tokenizer(corpus, capsys):
    """Of the same rates and codebooks."""
    config, out = corpus
    tokenize(config.audio, other := out.parent / "other", ArithmeticTokenizer(bias=1))
    shutil.copy(shards(other)[1], shards(out)[1])
    first, second = faults(capsys, out)
    assert "it holds codes of another tokenizer [" in first
    assert "it is not the shard that shards.json lists" in second


def test_a_record_that_tells_other_counts(tmp_path, capsys):
    """The record is what cards and summaries are made of."""
    tokenize(good_folder(tmp_path / "audio"), out := tmp_path / "out")
    path = shards(out)[0]
    table = map_table(path)
    metadata = dict(table.schema.metadata)
    own = json.loads(metadata[b"slm"])
    own["counts"][0][0] += 1
    metadata[b"slm"] = json.dumps(own).encode()
    metadata[KEY.encode()] = BLANK.encode()
    changed = table.replace_schema_metadata(metadata)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, changed.schema) as writer:
        writer.write_table(changed)
    seal(path)
    lines = faults(capsys, out)
    assert any("its record tells other counts of codes" in line for line in lines)
    assert any("it is not the shard that shards.json lists" in line for line in lines)


def test_a_corpus_at_a_url(corpus, capsys, monkeypatch, tmp_path):
    """By fsspec, which reads a folder here as it would a bucket; nothing is left on this machine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    config, out = corpus
    url, before = f"file://{out}", contents(out)
    assert faults(capsys, url) == []
    flip(out)
    shutil.copy(shards(out)[0], shards(out)[1])
    (out / "data-copy.arrow").touch()
    at_fault = {"data-00001-of-00006.arrow", "data-00002-of-00006.arrow", "data-copy.arrow"}
    lines = faults(capsys, url, "--redo")
    assert {line.split(":")[0] for line in lines} == at_fault
    assert not (out / "state.json").exists()
    (out / "data-copy.arrow").unlink()
    tokenize(config.audio, out)
    assert contents(out) == before
    assert not list((tmp_path / "scratch").iterdir())
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_corpus_that_is_hardly_begun(tmp_path, capsys):
    write_json(tmp_path / "tokenizer.json", SPEC.to_dict())
    assert faults(capsys, tmp_path) == [
        "state.json: unfinished: 0 of 0 shards are there; run the command that made the corpus again"
    ]


def test_no_corpus_is_wrong_use(tmp_path, capsys):
    (tmp_path / "tokenizer.json").write_text("{}")
    for folder, what in [
        (tmp_path / "no", "no such corpus"),
        (tmp_path, "is damaged"),
        ("file:///no/such/place", "there is no tokenizer.json"),
    ]:
        assert run("check", folder) == 2
        assert what in capsys.readouterr().err


def test_the_plan_of_the_fixture_leaves_clips_out_in_both_ways(whole):
    """Else the tests above would say less than they seem to."""
    plan = Plan(whole.out)
    assert sum(plan.head.rejects.values()) > 0
    assert sum(len(read_record(path).rejects) for path in shards(Path(whole.out))) > 0
