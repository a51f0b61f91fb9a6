"""Language models on a GPU that is none score and generate as on the CPU; and that GPU is one that finds faults."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch

from slm.generation import Sampling
from slm.spoken_lm import SpokenLM
from tests.fakes import ArithmeticTokenizer, markov_codes, random_codes
from tests.second_device import second_device
from tests.test_spoken_lm import KINDS, describe, make_lm


def test_what_is_forgotten_on_the_cpu_is_found() -> None:
    with second_device(), torch.inference_mode():
        layer = torch.nn.Linear(3, 2).to("cuda")
        x = torch.ones(4, 3, device="cuda")
        made = layer(x)
        assert made.is_cuda
        assert made.device == torch.zeros_like(made).device == torch.device("cuda", 0)
        x[:, 1:] = 0
        assert x.cpu().sum() == x[0].sum().item() * 4 == 4
        for wrong in (lambda: layer(torch.ones(4, 3)), lambda: made + torch.ones(2), lambda: made.numpy()):
            with pytest.raises((RuntimeError, TypeError), match="of the GPU"):
                wrong()


def says(lm: SpokenLM, kind: Any) -> list[np.ndarray]:
    """Scores of clips of many lengths, and continuations of some."""
    tokenizer = ArithmeticTokenizer(kind.books)
    codes = [*random_codes(tokenizer, [7, 1, 19, 4]), *markov_codes(tokenizer, 2)]
    with torch.inference_mode():
        scores = lm.score_codes(codes)
        plain = lm.continue_many(codes[:2], 0.3, [3, 4])
        chosen = Sampling(temperature=0.7, top_k=9, top_p=0.9, repetition_penalty=1.2, may_stop=True)
        sampled = lm.continue_many(codes[:2], 0.3, [5, 6], chosen)
    return [*(s.log_probs for s in scores), *(s.eos_log_probs for s in scores), *(c.codes for c in plain + sampled)]


@pytest.mark.parametrize("kind", KINDS, ids=describe)
def test_language_models(kind: Any) -> None:
    here = make_lm(*kind)
    with second_device():
        there = says(SpokenLM(deepcopy(here.model.causal_lm), here.record, here.statistics, "cuda"), kind)
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(says(here, kind), there, strict=True))
