"""A small data set, and a model whose answers are known in the place of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slm.spoken_lm import SpokenLM
from tests.eval.material import LevelLM, random_lexical, random_syntactic, write_level, write_lexical, write_syntactic
from tests.eval.site_material import build, write_results
from tests.fakes import ArithmeticTokenizer
from tests.test_spoken_lm import make_lm


@pytest.fixture
def root(tmp_path) -> Path:
    data = tmp_path / "data"
    write_lexical(data, random_lexical(6, 2, seed=0))
    write_syntactic(data, random_syntactic(6, 2, seed=0))
    for i in range(3):
        write_level(data / f"prompts/p{i}.wav", 0.1 * (i + 1), duration_s=0.5)
    (data / "generated.json").write_text(json.dumps({"seed": 3}))
    return data


@pytest.fixture
def lm(monkeypatch) -> LevelLM:
    made = LevelLM()
    monkeypatch.setattr("slm.spoken_lm.load_lm", lambda path, device, vocoder: made)
    return made


@pytest.fixture
def real_lm(monkeypatch) -> SpokenLM:
    """A small model of real code, with random weights, over two codebooks."""
    made = make_lm("flat", 2)
    made.tokenizer = ArithmeticTokenizer(2)
    monkeypatch.setattr("slm.spoken_lm.load_lm", lambda path, device, vocoder: made)
    return made


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> list[Path]:
    """Folders to make a site of. Nothing is written to them later."""
    return write_results(tmp_path_factory.mktemp("given"))


@pytest.fixture(scope="module")
def site(given, tmp_path_factory) -> Path:
    return build(given, tmp_path_factory.mktemp("made") / "site")
