"""Two lines of libraries that nobody could act on are left out, and no other."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

from eval.judges.asr import _no_complaint_about_itself
from eval.judges.base import MissingJudgeError, from_local_or_hub

COMPLAINT = (
    "Passing `generation_config` together with generation-related arguments=({'suppress_tokens', "
    "'begin_suppress_tokens'}) is deprecated and will be removed in future versions."
)


def test_only_whispers_complaint_about_itself_is_left_out(caplog):
    logger = logging.getLogger("transformers.generation.utils")
    others = [COMPLAINT.replace("'begin_suppress_tokens'", "'max_length'"), "something else"]
    caplog.handler.setLevel(0)
    logger.addHandler(caplog.handler)
    try:
        with _no_complaint_about_itself():
            for said in (COMPLAINT, *others):
                logger.warning(said)
        logger.warning(COMPLAINT)
    finally:
        logger.removeHandler(caplog.handler)
    assert list(dict.fromkeys(caplog.messages)) == [*others, COMPLAINT]


def test_one_line_of_the_standard_error_is_left_out_and_all_others_come(capfd):
    visqol = pytest.importorskip("eval.metrics._visqol")

    def write():
        print("before", file=sys.stderr)
        os.write(2, b"WARNING: before INFO\n" + visqol.DELEGATE + b"\nERROR: after\nno end of line")
        raise ValueError("as it was")

    with pytest.raises(ValueError, match="as it was"), visqol.without_line(visqol.DELEGATE):
        write()
    print(", and after", file=sys.stderr)
    assert capfd.readouterr().err == "before\nWARNING: before INFO\nERROR: after\nno end of line, and after\n"


@pytest.mark.thorough
def test_the_lattice_of_visqol_is_loaded_in_silence():
    pytest.importorskip("visqol")
    pytest.importorskip("ai_edge_litert")
    for code, said in (
        ("from eval.metrics._visqol import visqol_api; visqol_api('speech', True)", False),
        ("from visqol import VisqolApi; VisqolApi().create(mode='speech', use_lattice_model=True)", True),
    ):
        made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert ("TensorFlow Lite" in made.stderr) == said


def test_a_folder_that_is_not_there_is_no_name_to_fetch(tmp_path):
    def load(local_only):
        raise AssertionError("asked for")

    for folder in (str(tmp_path / "none"), "./none", "../none/at/all"):
        with pytest.raises(MissingJudgeError, match=r"needs .*none.*: there is no such folder$"):
            from_local_or_hub(load, folder, "speech recognition")
