"""What could not be evaluated is named on the site wherever its absence would mislead, with the reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from eval.report.__main__ import main as report
from eval.report.inputs import read_inputs
from tests.eval.test_page import parse

SHOWN = "Its numbers here are of another run."


def folder_of(out: Path, name: str, benchmark: str, failed: list[dict] | None = None, like: Path | None = None) -> Path:
    """Results of one model on one benchmark, as those of `like`."""
    record = json.loads(((like or out) / "results.json").read_text())
    result = next(r for r in record["results"] if r["benchmark"] == benchmark)
    made = {**record, "results": [result], "failed": failed or [], "corpus": None}
    made["model"] = {**record["model"], "path": name}
    (out / name).mkdir(parents=True)
    (out / name / "results.json").write_text(json.dumps(made))
    return out / name


@pytest.fixture
def out(given, tmp_path) -> Path:
    """One run of four models, of which `gone` could not be loaded, and one benchmark of `half` and one of `old` failed:
    of the latter an earlier result is there."""
    made = tmp_path / "out"
    folder_of(made, "whole", "swuggy", like=given[0])
    reason = {"reason": "too <long>", "created": "2026-01-01"}
    folder_of(made, "half", "swuggy", [{"benchmark": "generation", **reason}], given[0])
    folder_of(made, "old", "swuggy", [{"benchmark": "swuggy", **reason}], given[0])
    failures = [
        {"model": "half", "benchmark": "generation", **reason}, {"model": "old", "benchmark": "swuggy", **reason},
        {"model": "gone", "benchmark": "", "reason": "no such folder"},
    ]  # fmt: skip
    (made / "comparison.json").write_text(json.dumps({"models": [], "rows": [], "tests": [], "failures": failures}))
    return made


def test_each_failure_is_named_once_with_its_reason(out):
    assert sorted(map(str, read_inputs([out]).failed)) == [
        "gone could not be evaluated: no such folder",
        "half, generation could not be evaluated: too <long>",
        f"old, swuggy could not be evaluated: too <long> ({SHOWN})",
    ]
    assert [str(f) for f in read_inputs([out / "half"]).failed] == [
        "half, generation could not be evaluated: too <long>"
    ]


def test_the_page_says_it_beside_the_tables_and_plots(out, tmp_path):
    assert report([str(out), "--out", str(tmp_path / "site")]) == 0
    for page in ("index.html", "plots.html"):
        text = " ".join(" ".join(parse(tmp_path / "site" / page).text).split())
        for said in ("gone could not be evaluated: no such folder", "half, generation could not be", "too <long>"):
            assert said in text
    table = (tmp_path / "site/index.html").read_text().split('id="table-swuggy-dev"')[1].split("</section>")[0]
    assert "old, swuggy could not be evaluated" in table
    assert "half, generation" not in table


def test_a_cell_of_what_failed_says_so(given, tmp_path):
    folder_of(tmp_path, "whole", "swuggy", like=given[0])
    failed = [{"benchmark": "swuggy", "reason": "broken", "created": ""}]
    folder_of(tmp_path, "other", "continuation", failed, given[0])
    assert report([str(tmp_path / "whole"), str(tmp_path / "other"), "--out", str(tmp_path / "site")]) == 0
    overview = (tmp_path / "site/index.html").read_text().split('id="overview-table"')[1].split("</table>")[0]
    assert '<td data-sort="">failed</td>' in overview.split("other")[-1]


def test_results_of_one_checkpoint_are_said_to_be(given, tmp_path):
    """Two runs of one checkpoint, and one of another that has the same name."""
    folders = [folder_of(tmp_path, name, "swuggy", like=given[0]) for name in ("first", "second", "other")]
    record = json.loads((folders[2] / "results.json").read_text())
    record["model"]["fingerprint"] = "f" * 64
    (folders[2] / "results.json").write_text(json.dumps(record))
    assert report([*map(str, folders), "--out", str(tmp_path / "site")]) == 0
    page = (tmp_path / "site/index.html").read_text()
    assert "first, second are results of one checkpoint" in page
    assert "other are" not in page


def test_results_of_one_name_are_told_apart_by_their_runs(given, tmp_path):
    for place in ("monday/good", "tuesday/good", "wednesday"):
        shutil.copytree(given[0], tmp_path / place)
    found = read_inputs([tmp_path / "monday", tmp_path / "tuesday", tmp_path / "wednesday"])
    assert [e.name for e in found.evaluated] == ["good", "good (tuesday)", "good (wednesday)"]


def test_a_tokenizer_that_failed_is_named_though_it_left_no_folder(given, tmp_path):
    """As eval/run.py --tokenizer mimi,broken leaves it."""
    mimi = next(folder for folder in given if folder.name == "a")
    (tmp_path / "rec/mimi").mkdir(parents=True)
    (tmp_path / "rec/mimi/results.json").write_text((mimi / "results.json").read_text())
    listed = {"points": [], "failures": [{"system": "broken", "reason": "out of memory"}]}
    (tmp_path / "rec/reconstruction.json").write_text(json.dumps(listed))
    assert report([str(tmp_path / "rec"), "--out", str(tmp_path / "site")]) == 0
    page = (tmp_path / "site/index.html").read_text()
    assert page.count("broken, reconstruction could not be evaluated: out of memory") == 2  # above, and below its table
    assert "broken" not in (tmp_path / "site/tokenizers.html").read_text()
