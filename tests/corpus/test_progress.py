"""What a run says on its way."""

from __future__ import annotations

import pytest

from slm.corpus import progress as module
from slm.corpus.progress import Progress


def test_the_line_counts_only_this_run_for_speed(monkeypatch, capsys):
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    with Progress(total_s=7200.0, done_s=3600.0, rejects=2) as progress:
        assert progress.line() == "1.00 / 2.00 h, 2 clips left out"
        clock[0] = 110.0
        progress.advance(900.0, 1)
        assert progress.real_time_factor == pytest.approx(90.0)
        assert progress.line() == "1.25 / 2.00 h, 90 x real time, 0:00:30 left, 3 clips left out"
        assert capsys.readouterr().err == ""  # not yet time for a plain line
        clock[0] = 131.0
        progress.advance(0.0, 0)
        assert capsys.readouterr().err.startswith("1.25 / 2.00 h, 29 x real time")
