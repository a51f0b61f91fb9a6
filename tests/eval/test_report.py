"""Drawings and tables by hand."""

from __future__ import annotations

import errno
import json
import math
import re
from pathlib import Path

import numpy as np
import soundfile

from eval.report.__main__ import main as report
from eval.report.drawing import MOST_POINTS, draw_lines, draw_waveform, is_recording, nice_ticks, thin_out
from eval.report.inputs import read_inputs
from eval.report.page import _curve
from eval.report.plots import Series, curve
from eval.report.table import comparison_table, markdown_table, result_table
from eval.report.wording import absences, format_interval, format_p, format_span, format_value


def test_ticks_are_round_and_span_the_values():
    assert nice_ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert nice_ticks(3.61, 4.79) == [3.5, 4.0, 4.5, 5.0]
    assert nice_ticks(7, 7) == [7]


def test_a_curve_stands_where_its_values_say():
    chart = draw_lines([("a", "train", [(0, 4.0), (50, 2.0), (100, float("nan")), (100, 0.0)]), ("b", "eval", [])])
    assert chart is not None
    (line,) = chart.lines
    assert line.path == "M0.0 0.00L500.0 50.00L1000.0 100.00"
    assert (line.last, [t.label for t in chart.y_ticks]) == (0.0, ["0", "1", "2", "3", "4"])
    assert [t.percent for t in chart.y_ticks] == [100, 75, 50, 25, 0]
    assert draw_lines([("a", "train", [(1, 1.0)])]) is None


def test_lines_of_a_curve_that_cannot_be_drawn_are_passed_over(tmp_path):
    lines = [{"step": step, "train_nats_per_code": 1.0} for step in (1, 2, math.inf, math.nan, 10**400, "3")]
    lines += [{"step": 3, "train_nats_per_code": loss} for loss in (math.inf, 10**400, "x")]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (training,) = read_inputs([tmp_path]).trainings
    assert curve(training, "train_nats_per_code") == [(1, 1.0), (2, 1.0)]
    chart = _curve(tmp_path / "metrics.jsonl")
    assert [tick.label for tick in chart.x_ticks if tick.percent in (0, 100)] == ["1", "2"]


def test_long_curves_are_drawn_by_few_points_that_keep_ends_and_spikes():
    points = [(float(i), 2.0 + (i % 7) / 10) for i in range(20_000)]
    points[12_345] = (12_345.0, 9.0)
    for drawn in (thin_out(points), list(zip(*(Series("a", points).trace(True)[axis] for axis in "xy"), strict=True))):
        assert len(drawn) <= MOST_POINTS
        assert (drawn[0], drawn[-1]) == (points[0], points[-1])
        assert points[12_345] in drawn
        assert drawn == sorted(set(drawn) & set(points))
        assert sum(x < 200 for x, _ in drawn) > 100  # the first two of four decades of a logarithmic axis
    chart = draw_lines([("a", "train", points)])
    assert chart is not None
    assert chart.lines[0].path.count("L") < MOST_POINTS
    assert thin_out(points[:MOST_POINTS]) == points[:MOST_POINTS]


def test_a_waveform_is_as_high_as_its_peak_and_marks_the_prompt(tmp_path):
    """A quiet half and one twice as loud: the outline reaches 96 % of the height there, and 48 % before."""
    signal = np.where(np.arange(8000) < 4000, 0.1, 0.2) * np.where(np.arange(8000) % 2, 1, -1)
    soundfile.write(str(tmp_path / "x.wav"), signal, 8000)
    wave = draw_waveform(tmp_path / "x.wav", prompt_s=0.25, bins=10)
    places, heights = np.array(re.findall(r"([\d.]+) ([\d.]+)", wave.path), float).T
    assert places.tolist() == [*range(50, 1000, 100), *range(950, 0, -100)]
    assert np.allclose(heights[:5], 26, atol=0.2)
    assert np.allclose(heights[5:10], 2, atol=0.2)
    assert np.allclose(heights[10:15], 98, atol=0.2)
    assert (wave.duration_s, wave.prompt_percent) == (1.0, 25.0)


def test_what_is_gone_empty_or_no_audio_is_no_recording(tmp_path):
    soundfile.write(str(tmp_path / "one.wav"), np.zeros(1), 8000)
    soundfile.write(str(tmp_path / "empty.wav"), np.zeros(0), 8000)
    (tmp_path / "text.wav").write_text("no audio")
    known = ("one.wav", "empty.wav", "text.wav", "gone.wav")
    assert [is_recording(tmp_path / name) for name in known] == [True, False, False, False]


def test_a_markdown_table_is_aligned_and_escaped():
    assert markdown_table(["a|b", "n"], [["x", "10"]]).splitlines() == [
        "| a\\|b |   n |",
        "|------|----:|",
        "| x    |  10 |",
    ]


def test_values_carry_their_unit():
    assert format_value({"value": 0.7512, "unit": "fraction"}) == "75.1 %"
    assert format_value({"value": -12.34, "unit": "dBFS"}) == "-12.3 dBFS"
    assert format_interval({"interval": [0.5, 0.75], "unit": "fraction"}) == "50.0–75.0"
    assert format_interval({"interval": None, "unit": "fraction"}) == ""
    assert format_interval({"interval": [-10.0, -7.5], "unit": "dB"}) == "-10.0 to -7.5"
    assert format_interval({"interval": [3.06, 3.92], "unit": "of 5"}) == "3.06–3.92"
    assert format_span({"interval": [-10.0, 7.5], "unit": "dB"}) == "-10.0 to 7.50"


def _result(**counts):
    def score(item, value, interval):
        return {"item": f"b/dev/{item}", "metric": "pair_accuracy", "convention": "sum", "unit": "fraction",
                "value": value, "interval": interval, "count": 20}  # fmt: skip

    model = [score("all", 0.6, (0.52, 0.7)), score("sub", 0.6, (0.45, 0.7)), score("edge", 0.5, (0.5, 0.5))]
    return {"benchmark": "b", "split": "dev", "about": "About.", "headline": "b/dev/all", "scores": {"model": model},
            "left_out": [], "details": {}, "counts": counts}  # fmt: skip


def test_what_may_be_guessing_and_what_was_not_scored_is_said():
    said = result_table(_result(pairs=1200, pairs_scored=1198))
    assert "Inside the noise: guessing (50 %) lies in the 95 % interval of sub, edge." in said
    assert "1,198 of 1,200 pairs could be used" in said
    assert "could be used" not in result_table(_result(pairs=12, pairs_scored=12))


def test_what_is_absent_is_said_once_for_each_reason():
    details = {"absent": {"utmos": "fetch it", "level_dbfs": "fetch it", "wer": "give --judges.asr"}}
    said = result_table({**_result(), "details": details}).splitlines()
    assert [line for line in said if "absent" in line] == [
        "utmos, mean level are absent: fetch it", "wer is absent: give --judges.asr",
    ]  # fmt: skip
    for names in (["pesq"], {"pesq": None}):
        assert absences({"details": {"absent": names}}) == ["pesq is absent."]
    assert absences({"details": {}}) == []


def test_p_values_are_short():
    assert [format_p(p) for p in (1.0, 0.0312, 0.00002, 0.0)] == ["1.000", "0.031", "2e-05", "0"]


def test_a_number_of_other_items_than_the_one_beside_it_says_of_how_many():
    def score(value, count):
        return {"item": "g/prompts/continuation", "metric": "gen_ppl", "convention": "c", "unit": "perplexity",
                "value": value, "interval": [value - 1, value + 1], "count": count}  # fmt: skip

    result = {**_result(), "benchmark": "g", "split": "prompts", "headline": "",
              "scores": {"model": [score(10, 10)], "same": [score(11, 10)], "recordings": [score(12, 2)]}}  # fmt: skip
    row = next(line for line in result_table(result).splitlines() if line.startswith("| gen ppl"))
    assert [cell.strip() for cell in row.split("|")[4:-1]] == [
        "11.0 perplexity (10.0–12.0)", "12.0 perplexity (11.0–13.0; n 2)", "10",
    ]  # fmt: skip


def test_of_many_models_some_differences_are_told_and_the_others_counted():
    def compared(number: int) -> dict:
        row = {"benchmark": "b", "split": "dev", "name": "all", "headline": True, "convention": "c", "metric": "m",
               "unit": "fraction", "scores": {"0": {"value": 0.5, "interval": None, "count": 9}}}  # fmt: skip
        test = {**row, "within_noise": True, "difference": 0.0, "interval": [-0.1, 0.1], "count": 9}
        tests = [{**test, "first": str(i), "second": str(j)} for j in range(number) for i in range(j)]
        return {"models": [{"name": str(i)} for i in range(number)], "rows": [row], "tests": tests}

    few, many = (comparison_table(compared(n)).splitlines()[-1] for n in (4, 20))
    assert few.count(" items") == 6
    assert "others" not in few
    assert many.endswith("; and 180 others, told one by one in comparison.md.")
    assert len(many) < 2 * len(few)


def test_a_full_disk_is_a_line_and_leaves_what_the_site_had(tmp_path, monkeypatch, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.jsonl").write_text('{"step": 1, "lr": 0.5}\n')
    asked = [str(tmp_path / "run"), "--out", str(tmp_path / "site")]
    assert report(asked) == 0
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def fill(source, target):
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", fill)
    assert report(asked) == 1
    assert "error: no space left on the disk; free some" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
