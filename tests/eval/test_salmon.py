"""SALMon from folders and from tables: both are the same benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from eval.benchmarks.base import Setup
from eval.benchmarks.salmon import PARTS, Salmon
from eval.run import main
from slm.errors import UsageError
from tests.contracts import benchmark_law
from tests.eval.material import RIGHT, WRONG, config, scores, write_level
from tests.eval.test_pair_tables import dataset, write_parquet

COLUMNS = ("positive_audio", "negative_audio")


def write_parts(root: Path, sizes: dict[str, int]) -> Path:
    for part, size in sizes.items():
        for i in range(size):
            for j in (0, 1):
                write_level(root / part / f"sample_{i}_{j}.wav", (RIGHT, WRONG)[j], 0.2 + 0.02 * (i % 3))
    return root


def official(root: Path, part: str, scores: dict[str, float]) -> float:
    """The rule of salmon.py: group by the first number, sort as text, the first is right; 1, 1/2 or 0."""
    groups: dict[int, list[str]] = {}
    for path in (root / part).glob("*.wav"):
        groups.setdefault(int(path.stem.split("_")[1]), []).append(f"{part}/{path.stem}")
    decided = []
    for files in groups.values():
        right, wrong = (scores[f] for f in sorted(files))
        decided.append(1.0 if right > wrong else 0.5 if right == wrong else 0.0)
    return float(np.mean(decided))


def test_parts_are_what_the_official_script_makes_of_them(tmp_path):
    sizes = {part: 3 + 5 * i for i, part in enumerate(PARTS)}
    root = write_parts(tmp_path / "salmon_benchmark", sizes)
    benchmark = Salmon(Setup(tmp_path))
    benchmark_law(benchmark)
    rng = np.random.default_rng(0)
    made = {item: float(rng.integers(0, 4)) for item in sorted(benchmark.files)}
    found = {s.item.split("/", 2)[2]: s for s in benchmark.judge(made, "sum", resamples=10)}
    expected = {part: official(root, part, made) for part in PARTS}
    assert {part: found[part].value for part in PARTS} == pytest.approx(expected)
    assert {part: found[part].count for part in PARTS} == sizes
    assert found["mean over parts"].value == pytest.approx(np.mean(list(expected.values())))
    assert next(iter(found)) == "mean over parts"


def test_some_parts_will_do_and_files_without_partner_are_named(tmp_path):
    root = write_parts(tmp_path, {"rir_consistency": 3, "bg_alignment": 2})
    (root / "rir_consistency/sample_1_0.wav").unlink()
    write_level(root / "rir_consistency/sample_7_2.wav", 0.1)
    benchmark = Salmon(Setup(tmp_path))
    assert [p.group for p in benchmark.all_pairs] == [
        "bg_alignment/0", "bg_alignment/1", "rir_consistency/0", "rir_consistency/2",
    ]  # fmt: skip
    assert {left.item: left.reason for left in benchmark.unpaired} == {
        "rir_consistency/sample_7_2": "its name is not sample_<number>_0 or sample_<number>_1",
        "rir_consistency/sample_1_1": "no partner of its number",
    }
    assert benchmark.lost == 2
    write_level(root / "rir_consistency/sample_0_2.wav", 0.1)  # of a pair that is whole
    assert Salmon(Setup(tmp_path)).lost == 2


def test_a_convention_that_leaves_a_part_empty_says_so_in_the_name_of_the_mean(tmp_path):
    benchmark = Salmon(Setup(write_parts(tmp_path / "salmon", dict.fromkeys(PARTS, 2)).parent))
    made = {item: 1.0 for item in benchmark.files if not item.startswith("bg_alignment/")}
    names = [s.item.split("/", 2)[2] for s in benchmark.judge(made, "sum", resamples=10)]
    assert names[0] == "mean over 7 of 8 parts"
    assert "bg_alignment" not in names


def test_a_whole_set_has_no_note(tmp_path, monkeypatch):
    write_parts(tmp_path / "salmon", dict.fromkeys(PARTS, 2))
    (short,) = Salmon(Setup(tmp_path)).notes
    assert short.startswith(
        "The data is short of the whole set: 2 of 200 pairs of bg_alignment, 2 of 200 pairs of bg_all"
    )
    monkeypatch.setattr("eval.benchmarks.salmon.PAIRS", 2)
    assert not Salmon(Setup(tmp_path)).notes
    write_parts(tmp_path / "few" / "salmon", {"bg_alignment": 2})
    (lacking,) = Salmon(Setup(tmp_path / "few")).notes
    assert f"put their folders into {tmp_path / 'few' / 'salmon'} (" in lacking
    assert "hf download" not in lacking  # a table beside folders is not read


def test_a_table_of_all_parts(tmp_path, lm):
    fields = {"task": ["bg_alignment", "rir_consistency", "bg_alignment"], "ind": [0, 0, 1]}
    write_parquet(tmp_path / "data/SALMon/all/train.parquet", dataset(tmp_path / "raw", 3, COLUMNS, fields))
    benchmark = Salmon(Setup(tmp_path / "data", cache=tmp_path / "cache"))
    benchmark_law(benchmark)
    assert [p.labels["part"] for p in benchmark.all_pairs] == ["bg_alignment", "bg_alignment", "rir_consistency"]
    main(config(tmp_path / "data", benchmarks="salmon"))
    found = scores(tmp_path / "out", "salmon")
    assert {name for name, _ in found} == {"mean over 2 of 8 parts", "bg_alignment", "rir_consistency"}
    assert found["mean over 2 of 8 parts", "mean"]["value"] == 1.0
    result = json.loads((tmp_path / "out/results.json").read_text())["results"][0]
    missing = ", ".join(part for part in PARTS if part not in ("bg_alignment", "rir_consistency"))
    assert result["details"]["note"].startswith(f"Parts that are missing: {missing}; put the folders of its parts into")
    assert "hf download --repo-type dataset slprl/SALMon" in result["details"]["note"]
    assert "2 of 200 pairs of bg_alignment, 1 of 200 pairs of rir_consistency" in result["details"]["note"]
    assert result["headline"] == "salmon/parts/mean over 2 of 8 parts"
    assert set(result["meanings"]) >= {s["item"] for s in result["scores"]["model"]}


def test_the_hash_of_a_table_knows_its_recordings(tmp_path):
    hashes = set()
    for name, columns in (("a", COLUMNS), ("b", COLUMNS[::-1])):
        fields = {"task": ["bg_alignment"] * 2, "ind": [0, 1]}
        write_parquet(tmp_path / name / "SALMon/all/train.parquet", dataset(tmp_path / name, 2, columns, fields))
        hashes.add(Salmon(Setup(tmp_path / name, cache=tmp_path / name / "cache"))._list_hash())
    assert len(hashes) == 2


def test_tables_of_one_part_each(tmp_path):
    for part in ("gender_consistency", "speaker_consistency"):
        made = dataset(tmp_path / "raw" / part, 2, COLUMNS, {"task": [part] * 2, "ind": [0, 1]})
        write_parquet(tmp_path / "salmon" / part / "train-00000-of-00001.parquet", made)
    benchmark = Salmon(Setup(tmp_path, cache=tmp_path / "cache"))
    assert [p.group for p in benchmark.all_pairs] == [
        "gender_consistency/00000", "gender_consistency/00001",
        "speaker_consistency/00000", "speaker_consistency/00001",
    ]  # fmt: skip


def test_missing_data_says_what_to_fetch(tmp_path):
    with pytest.raises(UsageError, match=r"no SALMon: .*hf download --repo-type dataset slprl/SALMon"):
        Salmon(Setup(tmp_path))


def test_recordings_of_any_ending_in_any_case_are_read(tmp_path):
    root = write_parts(tmp_path / "SALMon", {"rir_consistency": 3})
    part = root / "rir_consistency"
    (part / "sample_0_0.wav").rename(part / "sample_0_0.WAV")
    (part / "sample_1_1.wav").rename(part / "sample_1_1.flac")
    benchmark = Salmon(Setup(tmp_path))
    assert len(benchmark.all_pairs) == 3
    assert benchmark.files["rir_consistency/sample_1_1"] == part / "sample_1_1.flac"
    (part / "sample_1_1.wav").write_bytes(b"")
    with pytest.raises(UsageError, match=r"has sample_1_1\.flac and sample_1_1\.wav: keep one"):
        Salmon(Setup(tmp_path))
