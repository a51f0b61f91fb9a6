from __future__ import annotations

import pytest

from tests.fakes import ArithmeticTokenizer, markov_codes, write_corpus
from tests.training.runs import reset_accelerate


@pytest.fixture(autouse=True)
def fresh_accelerate():
    yield
    reset_accelerate()


@pytest.fixture(scope="session")
def corpora(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("corpora")
    return {
        name: str(write_corpus(root / name, markov_codes(ArithmeticTokenizer(books, bias=bias), 120)))
        for name, books, bias in [("two", 2, 0), ("one", 1, 0), ("other", 2, 1)]
    }
