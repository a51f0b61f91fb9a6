"""The store reads what `datasets` itself writes, in place."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from datasets import concatenate_datasets, load_from_disk

from slm.data.store import CodeStore
from slm.errors import UsageError
from slm.files import read_json, write_json
from slm.types import Codes
from tests.fakes import ArithmeticTokenizer, random_codes, write_corpus

LENGTHS = [5, 1, 0, 9, 3, 7]


@pytest.fixture
def made(tmp_path):
    codes = random_codes(ArithmeticTokenizer(num_codebooks=3), LENGTHS)
    write_corpus(tmp_path / "a", codes)
    return codes, tmp_path / "a"


def assert_same(store, codes):
    assert store.ids == [c.id for c in codes]
    assert store.num_frames.tolist() == [len(c.codes) for c in codes]
    assert store.num_samples.tolist() == [c.num_samples for c in codes]
    for i, expected in enumerate(codes):
        assert np.array_equal(store[i].codes, expected.codes)
        assert store[i].codes.dtype == np.uint16
    assert [c.id for c in store] == store.ids


def test_one_file_of_datasets(made):
    codes, path = made
    store = CodeStore(path)
    assert_same(store, codes)
    assert len(store) == 6
    assert store.duration_s == sum(LENGTHS) * 160 / 8000
    assert store.column("duration_s")[0] == pytest.approx(5 * 160 / 8000)


def test_several_files_of_datasets_with_empty_clips_at_their_edges(made, tmp_path):
    codes, path = made
    dataset = load_from_disk(str(path))
    dataset.save_to_disk(str(tmp_path / "b"), num_shards=3)
    (tmp_path / "b" / "tokenizer.json").write_bytes((path / "tokenizer.json").read_bytes())
    assert len(list((tmp_path / "b").glob("*.arrow"))) == 3
    assert_same(CodeStore(tmp_path / "b"), codes)


def test_several_record_batches_in_a_file_and_a_file_of_no_rows(made):
    codes, path = made
    (name,) = [file["filename"] for file in read_json(path / "state.json")["_data_files"]]
    table = load_from_disk(str(path)).data.table.combine_chunks()
    for file, part, rows in ((name, table, 2), ("empty.arrow", table.slice(0, 0), 1)):
        with pa.OSFile(str(path / f"new-{file}"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(part, max_chunksize=rows)
    write_json(path / "state.json", {"_data_files": [{"filename": f"new-{f}"} for f in ("empty.arrow", name)]})
    assert_same(CodeStore(path), codes)


def test_codes_are_views_of_the_mapped_file(made):
    store = CodeStore(made[1])
    first, last = store.codes(0), store.codes(5)
    assert not first.flags.owndata
    assert not first.flags.writeable
    gap = last.__array_interface__["data"][0] - first.__array_interface__["data"][0]
    assert gap == sum(LENGTHS[:5]) * 3 * 2  # bytes: the frames of all clips lie one after another


def test_codebooks_above_16_bits(tmp_path):
    tokenizer = ArithmeticTokenizer(num_codebooks=2, codebook_size=70_000)
    big = np.array([[69_999, 1], [0, 65_536]], np.uint32)
    write_uint32(tmp_path / "a", [Codes("x", big, 320, tokenizer.spec)])
    assert np.array_equal(CodeStore(tmp_path / "a").codes(0), big)


def write_uint32(path, codes):
    from datasets import Dataset, Features, List, Value

    features = Features({"id": Value("string"), "codes": List(List(Value("uint32"), length=2)),
                         "num_samples": Value("int64")})  # fmt: skip
    rows = {
        "id": [c.id for c in codes],
        "codes": [c.codes for c in codes],
        "num_samples": [c.num_samples for c in codes],
    }
    Dataset.from_dict(rows, features=features).save_to_disk(str(path))
    write_json(path / "tokenizer.json", codes[0].spec.to_dict())


def test_what_is_no_finished_corpus_is_refused(made, tmp_path):
    _, path = made
    with pytest.raises(UsageError, match="no such corpus"):
        CodeStore(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match=r"no tokenizer\.json"):
        CodeStore(tmp_path / "other")
    store = CodeStore(path)
    for index in (-1, 6):
        with pytest.raises(IndexError):
            store[index]
    (path / "state.json").rename(path / "state.txt")
    for damaged in ('{"_data_files": [', "{}", "[]", '{"_data_files": null}'):
        (path / "state.json").write_text(damaged)
        with pytest.raises(UsageError, match=r"state\.json is damaged"):
            CodeStore(path)
    (path / "state.json").unlink()
    with pytest.raises(UsageError, match="is unfinished"):
        CodeStore(path)


@pytest.mark.parametrize("size", [0, 100, 700])
def test_a_shard_that_is_cut_off_is_named(made, size):
    (file,) = made[1].glob("*.arrow")
    file.write_bytes(file.read_bytes()[:-size] if size else b"")
    with pytest.raises(UsageError, match=r"\.arrow is damaged"):
        CodeStore(made[1])


def test_concatenated_corpora_keep_their_order(made, tmp_path):
    codes, path = made
    dataset = load_from_disk(str(path))
    concatenate_datasets([dataset.select([4, 5]), dataset.select([0])]).save_to_disk(str(tmp_path / "c"))
    (tmp_path / "c" / "tokenizer.json").write_bytes((path / "tokenizer.json").read_bytes())
    assert_same(CodeStore(tmp_path / "c"), [codes[4], codes[5], codes[0]])
