"""The shipped scripts call the commands with options that they have, and files that are there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from eval.config import EvalConfig
from eval.minimal_pairs.__main__ import MinimalPairsConfig
from slm.config import join_list, parse_config
from slm.corpus.config import CorpusConfig
from slm.training.config import TrainConfig

ROOT = Path(__file__).parents[1]
CONFIGS = {"train_lm.py": TrainConfig, "tokenize_corpus.py": CorpusConfig, "eval/run.py": EvalConfig,
           "eval.minimal_pairs": MinimalPairsConfig}  # fmt: skip

LISTS = {"eval/run.py": "--model", "eval.minimal_pairs": "--tokenizer"}


def commands_of(script: Path, folder: Path) -> list[list[str]]:
    """What a script would have Python do, by one that only writes down what it is asked."""
    recorder = folder / "python"
    recorder.write_text(f"#!/bin/sh\nprintf '%s\\0' \"$@\" >> '{folder}/calls'\necho >> '{folder}/calls'\n")
    recorder.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    subprocess.run(["bash", script, folder / "out"], env=environment, check=True, capture_output=True)
    return [line.split("\0")[:-1] for line in (folder / "calls").read_text().splitlines()]


@pytest.mark.parametrize("name", ["quickstart", "study"])
def test_its_commands_are_right(name, tmp_path):
    commands = [c for c in commands_of(ROOT / "configs" / name / "run.sh", tmp_path) if c[0] != "-c"]
    kinds = set()
    for command in commands:
        kind, *arguments = command[command[0] == "-m" :]
        kinds.add(kind)
        assert all((ROOT / a).exists() for a in arguments if a.startswith(("configs/", "tests/")))
        if kind in CONFIGS:
            parse_config(CONFIGS[kind], join_list(arguments, LISTS[kind]) if kind in LISTS else arguments)
    assert kinds == {*CONFIGS, "eval.report"}
