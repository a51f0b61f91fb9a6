"""slamkit's numbered lists: joined by names where its own reader joins by order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eval.benchmarks._folders import numbered_pairs
from eval.benchmarks.base import Setup
from eval.benchmarks.sblimp import SBlimp
from eval.benchmarks.swuggy import SWuggy
from slm.errors import UsageError
from tests.contracts import benchmark_law
from tests.eval.material import write_level


def write_list(folder: Path, names) -> None:
    for name in names:
        write_level(folder / f"{name}.wav", 0.1)


def slamkits_pairs(root: Path, separator: str) -> list[tuple[str, str]]:
    """Its rule: within each sub-folder sort by the number and take two by two."""
    made = []
    for folder in sorted(root.iterdir()):
        files = sorted(folder.glob("*.wav"), key=lambda p: int(p.name.split(separator)[0]))
        made += [(str(a.relative_to(root))[:-4], str(b.relative_to(root))[:-4])
                 for a, b in zip(files[::2], files[1::2], strict=True)]  # fmt: skip
    return made


def test_a_whole_list_is_paired_as_slamkit_does(tmp_path):
    rng = np.random.default_rng(0)
    for folder, size in (("a", 14), ("b", 24)):
        write_list(tmp_path / "sblimp" / folder, [f"{i}+{rng.integers(100)}+x" for i in range(size)])
    benchmark = SBlimp(Setup(tmp_path))
    benchmark_law(benchmark)
    expected = slamkits_pairs(tmp_path / "sblimp", "+")
    assert sorted((p.positive, p.negative) for p in benchmark.all_pairs) == sorted(expected)
    scores = {item: float(rng.integers(0, 3)) for item in sorted(benchmark.files)}
    found = {s.item.split("/", 2)[2]: s.value for s in benchmark.judge(scores, "sum", resamples=10)}
    decided = {p: (scores[p[0]] > scores[p[1]]) + 0.5 * (scores[p[0]] == scores[p[1]]) for p in expected}
    assert found["all"] == pytest.approx(np.mean(list(decided.values())))
    for folder in "ab":
        own = [v for p, v in decided.items() if p[0].startswith(f"{folder}/")]
        assert found[f"folder {folder}"] == pytest.approx(np.mean(own))
    assert found["mean over folders"] == pytest.approx(np.mean([found["folder a"], found["folder b"]]))


def test_recordings_beside_the_folders_are_named(tmp_path):
    write_list(tmp_path / "sblimp/agreement", ["0+a", "1+a"])
    write_list(tmp_path / "sblimp", ["2+a"])
    found = numbered_pairs(tmp_path / "sblimp", "+", subfolders=True)
    assert [(p.positive, p.negative) for p in found.pairs] == [("agreement/0+a", "agreement/1+a")]
    assert [left.item for left in found.unpaired] == ["2+a"]
    assert found.lost == 1


def test_folders_without_recordings_are_no_lists(tmp_path):
    write_list(tmp_path / "sblimp", ["0+a", "1+a"])
    (tmp_path / "sblimp/texts").mkdir()
    found = numbered_pairs(tmp_path / "sblimp", "+", subfolders=True)
    assert [(p.positive, p.negative) for p in found.pairs] == [("0+a", "1+a")]


def test_a_missing_file_costs_its_own_pair_only(tmp_path):
    """slamkit's reader would pair 1 with 3, 4 with 5 and so on: every later pair would be a wrong one."""
    write_list(tmp_path / "swuggy_inter/a", [f"{i}_word" for i in range(8) if i != 2])
    benchmark = SWuggy(Setup(tmp_path))
    assert [(p.positive, p.negative) for p in benchmark.all_pairs] == [
        (f"swuggy_inter/a/{i}_word", f"swuggy_inter/a/{i + 1}_word") for i in (0, 4, 6)
    ]
    assert [(left.item, left.reason) for left in benchmark.unpaired] == [
        ("swuggy_inter/a/3_word", "no partner of number 2")
    ]
    assert "swuggy_inter/a/3_word" in benchmark.files


def test_both_lists_of_swuggy_are_subsets_of_one_benchmark(tmp_path):
    write_list(tmp_path / "swuggy_inter/a", ["0_x", "1_x", "2_y", "3_y"])
    write_list(tmp_path / "swuggy_oov/a", ["0_x", "1_x"])
    benchmark = SWuggy(Setup(tmp_path))
    benchmark_law(benchmark)
    scores = {p.positive: 1.0 for p in benchmark.all_pairs} | {p.negative: 0.0 for p in benchmark.all_pairs}
    scores["swuggy_oov/a/1_x"] = 1.0
    found = {s.item.split("/", 2)[2]: (s.value, s.count) for s in benchmark.judge(scores, "sum", resamples=10)}
    assert found == {"all": (pytest.approx(2.5 / 3), 3), "swuggy_inter": (1.0, 2), "swuggy_oov": (0.5, 1)}


@pytest.mark.parametrize(
    ("names", "reasons"),
    [
        (["0_a", "1_a", "x_b"], {"x_b": "its name does not begin with a number and '_'"}),
        (["0_a", "1_a", "2_b", "02_b", "3_b"], dict.fromkeys(["2_b", "02_b", "3_b"], "files of one number")),
        (["0_a", "1_a", "2_s_correct", "3_t_incorrect"],
         dict.fromkeys(["2_s_correct", "3_t_incorrect"], "of different stories")),
        (["0_a", "1_a", "2_s_incorrect", "3_s_correct"],
         dict.fromkeys(["2_s_incorrect", "3_s_correct"], "incorrect, but its number 2 is even")),
    ],
)  # fmt: skip
def test_names_that_contradict_each_other_are_left_out(tmp_path, names, reasons):
    write_list(tmp_path, names)
    found = numbered_pairs(tmp_path, "_", subfolders=False)
    assert [(p.positive, p.negative) for p in found.pairs] == [("0_a", "1_a")]
    assert {left.item for left in found.unpaired} == set(reasons)
    for left in found.unpaired:
        assert left.reason.startswith(reasons[left.item])
    assert set(found.files) == set(names)
    assert found.lost == 1  # one pair more would be there


@pytest.mark.parametrize("numbers", [range(1, 7), range(1, 10), [1, 2, 4, 5, 6, 7], [1, 2, 3, 6]])
def test_a_list_that_counts_from_one_is_refused(tmp_path, numbers):
    """Whole, of an odd length or with a gap: by even and odd, 2 would be the right item of 3."""
    write_list(tmp_path / "swuggy_oov/a", [f"{i}_x" for i in numbers])
    with pytest.raises(
        UsageError, match=r"counts its files from 1, but right items .* rename them, or restore number 0"
    ):
        SWuggy(Setup(tmp_path))


def test_names_tell_that_a_list_without_its_first_file_counts_from_zero(tmp_path):
    names = ["1_s_incorrect", "2_t_correct", "3_t_incorrect"]
    write_list(tmp_path / "zero", names)
    found = numbered_pairs(tmp_path / "zero", "_", subfolders=False)
    assert [(p.positive, p.negative) for p in found.pairs] == [("2_t_correct", "3_t_incorrect")]
    assert [left.item for left in found.unpaired] == ["1_s_incorrect"]
    write_list(tmp_path / "one", ["1_s_correct", "2_s_incorrect", "3_t_correct", "4_t_incorrect"])
    with pytest.raises(UsageError, match="counts its files from 1"):
        numbered_pairs(tmp_path / "one", "_", subfolders=False)


def test_a_list_of_nothing_says_what_it_found(tmp_path):
    write_list(tmp_path / "sblimp/a", ["x", "y"])
    with pytest.raises(
        UsageError, match=r"no pairs of recordings in .*sblimp: the first of 2 files is a/x, its name does not"
    ):
        SBlimp(Setup(tmp_path))
