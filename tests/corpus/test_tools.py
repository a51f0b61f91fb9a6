"""`python -m slm.corpus`: what it says of itself, and what it does not load for that."""

from __future__ import annotations

import subprocess
import sys

import pytest

from slm.corpus.__main__ import COMMANDS
from tests.corpus.tools import run


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]])
def test_the_commands_are_listed(args, capsys):
    assert run(*args) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:-2]] == list(COMMANDS)
    assert max(map(len, lines)) <= 120


def test_an_unknown_command(capsys):
    assert run("chek", "x") == 2
    assert capsys.readouterr().err == "error: no command 'chek'; did you mean 'check'?\n"


def test_help_of_each_loads_nothing_heavy():
    code = """
import sys
from slm.corpus.__main__ import COMMANDS, main
for name in COMMANDS:
    try:
        main([name, "--help"])
    except SystemExit as stop:
        assert not stop.code
heavy = {"torch", "transformers", "datasets", "pandas", "huggingface_hub"} & set(sys.modules)
assert not heavy, heavy
"""
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    for option in ("--redo", "--plot", "--corpora", "--where", "--sample_hours", "--repo_id", "--private"):
        assert option in made.stdout
