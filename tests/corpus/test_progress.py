"""What a run says on its way."""

from __future__ import annotations

import os
import pty
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from slm.corpus import progress as module
from slm.corpus.config import CorpusConfig
from slm.corpus.pipeline import tokenize_corpus
from slm.corpus.progress import Progress
from tests.corpus.audio import bad_folder, good_folder
from tests.fakes import ArithmeticTokenizer


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


def _all_of(handle: int) -> bytes:
    said = b""
    try:
        while part := os.read(handle, 4096):
            said += part
    except OSError:  # how a terminal ends that nobody writes to any more
        pass
    return said


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> Iterator[list[str]]:
    """Let standard error be a terminal without colours; what its last line showed, one after another, is known at the
    end."""
    for name, value in (("TERM", "xterm"), ("NO_COLOR", "1"), ("COLUMNS", str(columns))):
        monkeypatch.setenv(name, value)
    ours, theirs = pty.openpty()
    shown: list[str] = []
    with ThreadPoolExecutor(1) as reader, monkeypatch.context() as patch:
        said = reader.submit(_all_of, ours)
        with os.fdopen(theirs, "w", encoding="utf-8") as stderr:
            patch.setattr(sys, "stderr", stderr)
            yield shown
        text = re.sub(r"\x1b\[[?0-9]*[a-zA-Z]", "", said.result().decode())
    os.close(ours)
    shown += re.split(r"\r(?!\n)", text.removesuffix("\r\n"))


@pytest.mark.parametrize(("columns", "done", "width"), [(120, 25, 40), (80, 11, 18)])
def test_a_terminal_shows_a_bar_and_the_line_and_the_bar_makes_room_for_it(monkeypatch, columns, done, width):
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    with terminal(monkeypatch, columns) as shown, Progress(total_s=7200.0, done_s=3600.0, rejects=2) as progress:
        clock[0] = 110.0
        progress.advance(900.0, 1)
    assert shown[0] == "━" * 20 + " " * 20 + " 1.00 / 2.00 h, 2 clips left out"
    line = "1.25 / 2.00 h, 90 x real time, 0:00:30 left, 3 clips left out"
    assert shown[-1] == f"{'━' * done:{width}} {line}"
    assert len(shown[-1]) <= columns


def test_a_run_on_a_terminal_ends_with_a_full_bar(tmp_path, monkeypatch):
    bad_folder(good_folder(tmp_path / "audio"))
    config = CorpusConfig(str(tmp_path / "audio"), "arithmetic", str(tmp_path / "out"), num_workers=0)
    with terminal(monkeypatch, columns=120) as shown:
        tokenize_corpus(config, ArithmeticTokenizer())
    assert shown[0] == " " * 41 + "0.00 / 0.00 h, 5 clips left out"
    assert re.fullmatch(r"━{40} 0\.00 / 0\.00 h, [1-9]\d* x real time, 0:00:00 left, 8 clips left out", shown[-1])
