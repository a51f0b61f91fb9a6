"""The plan: the same for any number of workers, and what is left out named."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from slm.corpus import changes, planning, probing, reading
from slm.corpus.changes import file_state, hash_source
from slm.corpus.columns import ColumnTypes, column, features
from slm.corpus.planning import PlanSettings, make_plan
from slm.corpus.segmentation import Segmentation
from slm.corpus.sources import open_source
from slm.errors import UsageError
from tests.corpus.audio import bad_folder, good_folder, write_clip
from tests.fakes import ArithmeticTokenizer

SPEC = ArithmeticTokenizer().spec


def plan_of(source, hours, workers=0, **segmentation):
    out = Path(tempfile.mkdtemp(dir=Path(source).parent))
    return make_plan(out, open_source(source), SPEC, PlanSettings(hours, Segmentation(**segmentation)), workers)


def ids_by_shard(plan):
    return [[planned.clip.id for planned in plan.clips(shard)] for shard in plan.shards]


def test_clips_are_dealt_in_order_until_a_shard_is_full(tmp_path):
    good_folder(tmp_path)  # 0.3 0.5 0.7 | 0.9 | 1.1 | 1.3 | 1.5, in shards of 1.6 s
    plan = plan_of(tmp_path, 1.6 / 3600)
    assert [[id[-1] for id in ids] for ids in ids_by_shard(plan)] == [["0", "1", "2"], ["3"], ["4"], ["5"], ["6"]]
    assert plan.duration_s == pytest.approx(0.3 + 0.5 + 0.7 + 0.9 + 1.1 + 1.3 + 1.5)
    assert [shard.index for shard in plan.shards] == [0, 1, 2, 3, 4]


def test_a_shard_that_could_not_be_written_is_refused_when_it_is_planned(tmp_path, monkeypatch):
    """Arrow writes 2^31 - 1 values in an array, and no more. Clips of one frame, in a plan for arrays of nine."""
    for i in range(6):
        write_clip(tmp_path / "audio" / f"{i}.wav", 0.2, seed=i)
    codes_of_a_clip = (0.2 * SPEC.frame_rate_hz + 1) * SPEC.num_codebooks
    monkeypatch.setattr(planning, "MAX_CODES", round(3.1 * codes_of_a_clip))
    with pytest.raises(
        UsageError, match=r"more codes of arithmetic than can be written in one: give --shard_hours"
    ) as e:
        plan_of(tmp_path / "audio", 1)
    hours = float(str(e.value).split()[-3])
    assert 0.6 < hours * 3600 < 0.62
    assert [shard.num_clips for shard in plan_of(tmp_path / "audio", hours).shards] == [3, 3]
    monkeypatch.setattr(planning, "MAX_CODES", 1)
    with pytest.raises(UsageError, match=r"a clip of 0 h has more codes than a shard can hold: cut it by"):
        plan_of(tmp_path / "audio", 0.2 / 3600)


def test_the_plan_does_not_depend_on_workers(tmp_path, monkeypatch):
    bad_folder(good_folder(tmp_path / "audio"))
    monkeypatch.setattr(changes.chunks, "__defaults__", (3,))  # several chunks
    plans = [plan_of(tmp_path / "audio", 1 / 3600, workers) for workers in (0, 1, 3)]
    assert plans[0].table.num_rows == 15
    for plan in plans[1:]:
        assert plan.head == plans[0].head
        assert plan.table.equals(plans[0].table)


def test_a_plan_that_was_stopped_goes_on_where_it_was(tmp_path, monkeypatch):
    good_folder(tmp_path / "audio")
    monkeypatch.setattr(changes.chunks, "__defaults__", (2,))
    whole = plan_of(tmp_path / "audio", 1 / 3600)
    probed = []

    def mortal(clip):
        probed.append(clip.id)
        if len(probed) == 6:
            raise KeyboardInterrupt
        return reading.probe_clip(clip)

    monkeypatch.setattr(probing, "probe_clip", mortal)
    out, settings = tmp_path / "out", PlanSettings(1 / 3600)
    out.mkdir()
    with pytest.raises(KeyboardInterrupt):
        make_plan(out, open_source(tmp_path / "audio"), SPEC, settings, 0)
    again = make_plan(out, open_source(tmp_path / "audio"), SPEC, settings, 0)
    assert again.head == whole.head
    assert again.table.equals(whole.table)
    assert len(probed) <= 6 + 7 - 2  # at least the first chunk was kept


def test_a_plan_that_was_stopped_looks_anew_at_files_that_changed(tmp_path, monkeypatch):
    """They were away, say, with the disk they are on."""
    good_folder(tmp_path / "audio")
    monkeypatch.setattr(changes.chunks, "__defaults__", (2,))
    whole = plan_of(tmp_path / "audio", 1)
    out, settings = tmp_path / "out", PlanSettings(1)
    out.mkdir()

    def stop_at_the_last(clip):
        if clip.id == "clip-6":
            raise KeyboardInterrupt
        return reading.probe_clip(clip)

    rows = [{"path": f"clip-{i}.wav"} for i in range(7)]
    (tmp_path / "audio" / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = open_source(tmp_path / "audio" / "m.jsonl")
    (tmp_path / "audio" / "clip-1.wav").rename(tmp_path / "away")
    with monkeypatch.context() as patch:
        patch.setattr(probing, "probe_clip", stop_at_the_last)
        with pytest.raises(KeyboardInterrupt):
            make_plan(out, source, SPEC, settings, 0)
    (tmp_path / "away").rename(tmp_path / "audio" / "clip-1.wav")
    again = make_plan(out, source, SPEC, settings, 0)
    assert not again.head.rejects
    assert again.shards == whole.shards


def test_faults_that_headers_show_are_rejects_of_the_plan(tmp_path):
    kinds = bad_folder(good_folder(tmp_path))
    found = {reject.id: reject.reason.partition(":")[0] for reject in plan_of(tmp_path, 1).rejects()}
    shown = {"hundred-samples", "link", "no-samples", "text", "zero-bytes"}
    assert found == {id: kind for id, kind in kinds.items() if id in shown}


def test_segments_of_a_file_are_planned_by_their_own_length(tmp_path):
    write_clip(tmp_path / "a.wav", 2.0)
    (tmp_path / "m.csv").write_text("id,path,start,end\nx#1,a.wav,0.5,1.25\ny,a.wav,1.5,\nz,a.wav,0,9\n")
    plan = plan_of(tmp_path / "m.csv", 1)
    assert [planned.duration_s for planned in plan.clips(plan.shards[0])] == [0.75, 0.5]
    assert plan.source_ids() == ["x#1", "y", "z"]  # no number of a segment
    assert [reject.reason for reject in plan.rejects()] == ["segment outside the file: 0 to 9 s of 2.000 s"]


def test_columns_of_segments_are_the_corpus_s_own(tmp_path):
    """And `source` is not one of them: it is whatever the manifest says."""
    write_clip(tmp_path / "a.wav", 1.0)
    rows = [
        {"path": "a.wav", "id": "x", "source": "radio", "segment_of": "y", "from": 0.5, "start_s": "?"},
        {"path": "a.wav", "id": "z", "source": "web", "segment_of": "y", "start_s": "?"},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = open_source(tmp_path / "m.jsonl", start_column="from")
    (tmp_path / "out").mkdir()
    plan = make_plan(tmp_path / "out", source, SPEC, PlanSettings(1), 0)
    assert [planned.clip.metadata for planned in plan.clips(plan.shards[0])] == [
        {"source": "radio", "segment_of": str(tmp_path / "a.wav"), "start_s": 0.5, "end_s": 1.0},
        {"source": "web"},
    ]
    assert plan.columns == {"source": "string", "segment_of": "string", "start_s": "float64", "end_s": "float64"}


def test_one_frame_exactly_is_enough(tmp_path):
    write_clip(tmp_path / "a.wav", 160 / 8000)
    write_clip(tmp_path / "b.wav", 150 / 8000)
    plan = plan_of(tmp_path, 1)
    assert ids_by_shard(plan) == [["a"]]
    assert [reject.reason for reject in plan.rejects()] == ["too short: 150 samples at 8000 Hz are less than one frame"]


def test_nothing_usable_is_wrong_use(tmp_path):
    bad_folder(tmp_path)
    for id in ("nan", "silent", "truncated"):
        (tmp_path / f"{id}.wav").unlink()
    with pytest.raises(UsageError, match=r"none of the 5 clips can be used \(2 empty, 1 missing file, 1 not audio, "):
        plan_of(tmp_path, 1)


def test_the_source_hash_moves_with_the_folder_and_sees_every_change(tmp_path):
    def hash_of(folder, text):
        folder.mkdir(exist_ok=True)
        (folder / "m.csv").write_text(text)
        return hash_source(open_source(folder / "m.csv"))

    rows = "path,text,start\na.wav,hello,0\nb.wav,world,1\n"
    first = hash_of(tmp_path / "here", rows)
    assert first == hash_of(tmp_path / "there", rows)
    changes = [("hello", "hallo"), ("b.wav,world,1", "b.wav,world,2"), ("a.wav", "c.wav"), ("b.wav,world,1\n", "")]
    assert len({first} | {hash_of(tmp_path / "here", rows.replace(*change)) for change in changes}) == 5


def test_a_digest_sees_size_and_beginning_and_of_large_files_the_end_and_follows_a_copy(tmp_path):
    def digest_of(name, data):
        (tmp_path / name).write_bytes(data)
        return file_state(tmp_path / name).digest

    data, large = bytes(range(256)) * 1000, bytes(range(256)) * 5000
    variants = [data, data + b"x", b"x" + data[1:], large, large[:-1] + b"x", b"", b"ab", b"ba"]
    assert len({digest_of("a", variant) for variant in variants}) == len(variants)
    assert digest_of("a", data) == digest_of("copy", data)
    assert file_state(tmp_path / "absent").digest == file_state(tmp_path).digest == ""


def test_names_that_the_system_refuses_are_rejects(tmp_path):
    write_clip(tmp_path / "a.wav", 0.5)
    (tmp_path / "m.csv").write_text(f"path\na.wav\n{'x' * 300}.wav\na.wav/b.wav\n")
    plan = plan_of(tmp_path / "m.csv", 1)
    assert [reject.reason for reject in plan.rejects()] == ["unreadable: File name too long", "missing file"]


def test_columns_have_one_type_over_the_whole_corpus():
    rows = [
        {
            "i": 1,
            "f": 1,
            "b": True,
            "s": "x",
            "mixed": 1,
            "l": [1, 2],
            "n": None,
            "big": 2**70,
            "id": "own",
            "codes": 3,
        },
        {"i": None, "f": 0.5, "b": False, "mixed": "1", "late": 2, "boolint": 1},
        {"boolint": True, "duration_s": 3.0, "num_samples": 1},
    ]
    rows[0] |= {"long": 2**60, "longfloat": 2**60}
    rows[1] |= {"long": 1, "longfloat": 0.5}
    columns = ColumnTypes()
    for row in rows:
        columns.add(row)
    types = columns.result()
    assert types == {
        "i": "int64", "f": "float64", "b": "bool", "s": "string", "mixed": "string", "l": "string", "n": "string",
        "big": "string", "late": "int64", "boolint": "string", "long": "int64", "longfloat": "string",
    }  # fmt: skip
    values = {name: column([row.get(name) for row in rows], kind).to_pylist() for name, kind in types.items()}
    assert values["longfloat"] == [str(2**60), "0.5", None]  # float64 would round it
    assert values["i"] == [1, None, None]
    assert values["f"] == [1.0, 0.5, None]
    assert values["mixed"] == ["1", "1", None]
    assert values["l"] == ["[1, 2]", None, None]
    assert values["big"] == [str(2**70), None, None]
    assert values["boolint"] == [None, "1", "true"]


def test_features_are_written_as_datasets_writes_them():
    from datasets import Features, List, Value

    theirs = Features(
        {
            "id": Value("string"),
            "codes": List(List(Value("uint16"), length=3)),
            "num_samples": Value("int64"),
            "duration_s": Value("float32"),
            "text": Value("string"),
        }
    )
    assert features({"text": "string"}, 3, "uint16") == theirs.to_dict()
