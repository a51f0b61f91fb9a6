"""Data sets of pairs as the hub has them and as `datasets` saves them: read back against what was put in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile

from eval.benchmarks._pair_tables import choose_split, find_table, read_pairs
from eval.benchmarks.base import Setup
from eval.benchmarks.sblimp import SBlimp
from eval.benchmarks.storycloze import SSC, TSC
from eval.benchmarks.swuggy import SWuggy
from eval.run import main
from slm.errors import UsageError
from tests.contracts import benchmark_law
from tests.eval.material import RIGHT, WRONG, config, scores, write_level, write_lexical

SPEECH = Path(__file__).parents[1] / "data/speech/en"


def dataset(recordings: Path, pairs: int = 3, columns=("positive", "negative"), fields=None):
    """A `datasets.Dataset` of pairs, whose audio is embedded when it is written: levels say which is right."""
    from datasets import Audio, Dataset

    rows = {
        column: [str(write_level(recordings / f"{column}{i}.wav", level, 0.2 + 0.02 * i)) for i in range(pairs)]
        for column, level in zip(columns, (RIGHT, WRONG), strict=True)
    }
    made = Dataset.from_dict({**rows, **(fields or {})})
    for column in columns:
        made = made.cast_column(column, Audio())
    return made


def write_parquet(path: Path, made) -> Path:
    """As `push_to_hub` does: the bytes inside."""
    from datasets.table import embed_table_storage

    path.parent.mkdir(parents=True, exist_ok=True)
    embedded = made.with_format("arrow").map(embed_table_storage, batched=True).with_format(None)
    embedded.to_parquet(str(path))
    return path


def levels(benchmark) -> dict[str, float]:
    return {item: float(soundfile.read(path)[0].mean()) for item, path in benchmark.files.items()}


@pytest.mark.parametrize(
    ("cls", "folder"), [(SWuggy, "sWUGGY"), (SBlimp, "sBLIMP"), (SSC, "sStoryCloze"), (TSC, "tstorycloze")]
)
def test_parquet_of_pairs_is_a_benchmark(tmp_path, cls, folder):
    write_parquet(tmp_path / "data" / folder / "data/train-00000-of-00001.parquet", dataset(tmp_path / "raw"))
    benchmark = cls(Setup(tmp_path / "data", cache=tmp_path / "cache"))
    benchmark_law(benchmark)
    assert benchmark.split == "pairs-train"
    assert [(p.positive, p.negative) for p in benchmark.all_pairs] == [
        (f"{i:05d}-positive", f"{i:05d}-negative") for i in range(3)
    ]
    for item, level in levels(benchmark).items():
        assert level == pytest.approx(RIGHT if "positive" in item else WRONG, abs=1e-4)


def test_voices_that_a_table_names_are_averaged_within_ids(tmp_path):
    """Id 7 is right in two voices of three (2/3), id 8 wrong in its only one: 1/3, where rows would give 1/2."""
    fields = {"id": [7, 7, 8, 7], "voice": ["a", "b", "a", "c"]}
    write_parquet(tmp_path / "sWUGGY/train.parquet", dataset(tmp_path / "raw", 4, fields=fields))
    benchmark = SWuggy(Setup(tmp_path, cache=tmp_path / "cache"))
    made = {p.positive: right for p, right in zip(benchmark.all_pairs, (1.0, 1.0, -1.0, -1.0), strict=True)}
    score = benchmark.judge(made | {p.negative: 0.0 for p in benchmark.all_pairs}, "sum", resamples=10)[0]
    assert (score.value, score.count) == (pytest.approx(1 / 3), 2)
    of_types = {**fields, "type": ["x", "x", "x", "y"]}
    write_parquet(tmp_path / "sBLIMP/train.parquet", dataset(tmp_path / "raw", 4, fields=of_types))
    assert [p.group for p in SBlimp(Setup(tmp_path, cache=tmp_path / "cache")).all_pairs] == [
        "x/7",
        "x/7",
        "x/8",
        "y/7",
    ]


def test_a_saved_data_set_is_read_as_the_parquet_is(tmp_path):
    made = dataset(tmp_path / "raw")
    write_parquet(tmp_path / "a/sWUGGY/train.parquet", made)
    made.save_to_disk(str(tmp_path / "b/sWUGGY"))
    one, other = (SWuggy(Setup(tmp_path / d, cache=tmp_path / "cache")) for d in "ab")
    assert levels(one) == levels(other)
    assert one.all_pairs == other.all_pairs


def test_bytes_are_written_out_as_they_are_and_only_once(tmp_path):
    """Real speech in Opus: the file written out has the bytes of the one put in."""
    from datasets import Audio, Dataset

    names = sorted(SPEECH.glob("*.opus"))[:4]
    columns = {"positive": [str(n) for n in names[:2]], "negative": [str(n) for n in names[2:]]}
    made = Dataset.from_dict(columns).cast_column("positive", Audio()).cast_column("negative", Audio())
    table = write_parquet(tmp_path / "sWUGGY/train.parquet", made).parent
    rows = read_pairs(str(table), tmp_path / "cache")
    written = [path for row in rows for path in (row.positive, row.negative)]
    assert [p.read_bytes() for p in written] == [names[i].read_bytes() for i in (0, 2, 1, 3)]
    assert {p.suffix for p in written} == {".opus"}
    before = {p: p.stat().st_mtime_ns for p in written}
    assert [r.positive for r in read_pairs(str(table), tmp_path / "cache")] == [r.positive for r in rows]
    assert {p: p.stat().st_mtime_ns for p in written} == before
    write_parquet(table / "train.parquet", made.select([1]))
    assert len(read_pairs(str(table), tmp_path / "cache")) == 1


def test_the_hash_of_a_table_knows_its_recordings_and_its_columns(tmp_path):
    """Two tables of as many rows are not one list: neither where the audio differs nor where a column does."""

    def hash_of(name, columns=("positive", "negative"), fields=None):
        made = dataset(tmp_path / name / "raw", columns=columns, fields=fields)
        write_parquet(tmp_path / name / "sWUGGY/train.parquet", made)
        return SWuggy(Setup(tmp_path / name, cache=tmp_path / name / "cache"))._list_hash()

    words = {"word": ["a", "b", "c"]}
    same, again = hash_of("a", fields=words), hash_of("b", fields=words)
    swapped = hash_of("c", ("negative", "positive"), words)  # the same recordings on other sides
    assert same == again
    assert len({same, swapped, hash_of("d", fields={"word": ["a", "b", "d"]}), hash_of("e")}) == 4


def test_a_split_of_the_name_asked_for_is_taken_alone(tmp_path):
    write_parquet(tmp_path / "sWUGGY/dev-00000-of-00001.parquet", dataset(tmp_path / "raw", 2))
    write_parquet(tmp_path / "sWUGGY/test-00000-of-00001.parquet", dataset(tmp_path / "raw", 3))
    rows = read_pairs(str(tmp_path / "sWUGGY"), tmp_path / "cache")
    assert len(rows) == 5
    assert (len(choose_split(rows, "test")[0]), choose_split(rows, "test")[1]) == (3, "pairs-test")
    dev = (len(choose_split(rows, "dev")[0]), choose_split(rows, "dev")[1])
    assert dev == (2, "pairs-validation"), "as `datasets` calls what lies in files of that name"
    assert choose_split(rows, "validation") == choose_split(rows, "dev")
    every, name = choose_split(rows, "dev-clean")
    assert len(every) == 5
    assert name.startswith("pairs-")


def test_an_id_of_one_split_is_not_that_of_another(tmp_path):
    """As in files of their own: ids are counted anew in each split, so that four words are not two."""
    for split in ("dev", "test"):
        fields = {"id": [1, 2], "voice": ["a", "a"]}
        write_parquet(tmp_path / f"sWUGGY/{split}-00000-of-00001.parquet", dataset(tmp_path / "raw", 2, fields=fields))
    whole = SWuggy(Setup(tmp_path, split="all", cache=tmp_path / "cache"))
    assert len({p.group for p in whole.all_pairs}) == len(whole.all_pairs) == 4
    assert [p.group for p in SWuggy(Setup(tmp_path, cache=tmp_path / "cache")).all_pairs] == ["1", "2"]


def test_a_row_without_audio_is_left_out_by_name(tmp_path, lm):
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = [path.read_bytes() for path in (write_level(tmp_path / f"{i}.wav", RIGHT) for i in range(2))]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    right = pa.array([{"bytes": d, "path": "x.wav"} for d in data], kind)
    wrong = pa.array([{"bytes": data[0], "path": "x.wav"}, {"bytes": None, "path": None}], kind)
    root = tmp_path / "data"
    (root / "sWUGGY").mkdir(parents=True)
    pq.write_table(pa.table({"positive": right, "negative": wrong}), root / "sWUGGY/train.parquet")
    main(config(root, benchmarks="swuggy"))
    result = json.loads((tmp_path / "out/results.json").read_text())["results"][0]
    assert (result["counts"]["pairs"], result["counts"]["pairs_scored"]) == (2, 1)
    assert [left["item"] for left in result["left_out"]] == ["00001-negative"]
    assert "empty" in result["left_out"][0]["reason"]


def test_it_runs_from_end_to_end(tmp_path, lm):
    root = tmp_path / "data"
    write_parquet(root / "sWUGGY/train.parquet", dataset(root.parent / "raw"))
    main(config(root, benchmarks="swuggy", cache=str(tmp_path / "kept")))
    found = scores(tmp_path / "out", "swuggy")
    assert found["all", "mean"]["value"] == 1.0
    assert found["all", "mean"]["count"] == 3
    assert not list(tmp_path.glob("out/submission*"))  # voices are lost: there is nothing to submit


def test_the_official_layout_is_preferred(tmp_path):
    write_lexical(tmp_path, [("w", 1, "a", 3, 1), ("n", 1, "a", 0, 0)])
    write_parquet(tmp_path / "sWUGGY/train.parquet", dataset(tmp_path / "raw"))
    assert SWuggy(Setup(tmp_path, cache=tmp_path / "cache")).layout == "sLM21"


def test_where_a_table_is_looked_for(tmp_path):
    assert find_table(Path("speed/sWUGGY"), ["sWUGGY"]) == "speed/sWUGGY"  # the hub
    assert find_table(Path("speed/sBLIMP"), ["sWUGGY"]) is None
    assert find_table(tmp_path / "nowhere", ["sWUGGY"]) is None
    (tmp_path / "sWUGGY").mkdir()
    assert find_table(tmp_path, ["sWUGGY"]) is None
    (tmp_path / "sWUGGY/train.parquet").touch()
    assert find_table(tmp_path, ["sWUGGY"]) == find_table(tmp_path / "sWUGGY", ["swuggy"]) == str(tmp_path / "sWUGGY")


def test_a_table_of_the_hub_that_cannot_be_reached_says_what_to_fetch(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"hf download --repo-type dataset speed/sWUGGY --local-dir ROOT/sWUGGY"):
        SWuggy(Setup(Path("speed/sWUGGY"), cache=tmp_path / "cache"))


def test_a_table_of_other_columns_is_refused(tmp_path):
    write_parquet(tmp_path / "sWUGGY/train.parquet", dataset(tmp_path / "raw", columns=("chosen", "rejected")))
    with pytest.raises(UsageError, match=r"positive.* it has chosen, rejected"):
        SWuggy(Setup(tmp_path, cache=tmp_path / "cache"))
    assert not list((tmp_path / "cache").rglob("made.json"))
