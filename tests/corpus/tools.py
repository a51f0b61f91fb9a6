"""A small corpus, and the commands about corpora as they are called."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from slm.corpus.__main__ import main
from slm.corpus.config import CorpusConfig
from slm.corpus.pipeline import tokenize_corpus
from tests.fakes import ArithmeticTokenizer


def tokenize(audio: Path, out: Path, tokenizer: ArithmeticTokenizer | None = None, **options: object) -> CorpusConfig:
    """Make or complete a corpus of shards of about 1.6 s."""
    given = {"shard_hours": 1.6 / 3600, "batch_seconds": 2.0, "num_workers": 0, **options}
    config = CorpusConfig(audio=str(audio), tokenizer="arithmetic", out=str(out), **given)
    tokenize_corpus(config, tokenizer or ArithmeticTokenizer())
    return config


def moved(config: CorpusConfig, out: Path) -> CorpusConfig:
    """A copy of the corpus, and the command that would have made it there."""
    shutil.copytree(config.out, out)
    return replace(config, out=str(out))


def run(*args: object) -> int:
    """The exit status of `python -m slm.corpus ...`."""
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    return caught.value.code or 0


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("data-*.arrow"))
