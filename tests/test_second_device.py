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
from tests.test_spoken_lm import KINDS, describe, make_lm, own_logits


def test_what_is_forgotten_on_the_cpu_is_found() -> None:
    with second_device(), torch.inference_mode():
        layer = torch.nn.Linear(3, 2).to("cuda")
        x = torch.ones(4, 3, device="cuda")
        made = layer(x)
        assert made.is_cuda
        assert made.device == torch.zeros_like(made).device == torch.device("cuda", 0)
        x[:, 1:] = 0
        assert x.cpu().sum() == x[0].sum().item() * 4 == 4
        places, table = torch.tensor([0, 1]), torch.ones(4, 3)
        assert torch.equal(x[places].cpu(), x[places.to("cuda")].cpu())
        x[places] = 0
        for wrong in (
            lambda: layer(table),
            lambda: made + torch.ones(2),
            lambda: made.numpy(),
            lambda: table[places.to("cuda")],
            lambda: table.index_put_((places.to("cuda"),), torch.tensor(0.0)),
            lambda: x.index_put_((places,), torch.ones(2, 3)),
            lambda: x.normal_(generator=torch.Generator()),
            lambda: torch.rand(3, device="cuda", generator=torch.Generator()),
        ):
            with pytest.raises((RuntimeError, TypeError), match="of the GPU"):
                wrong()


def says(lm: SpokenLM, kind: Any) -> list[np.ndarray]:
    """Scores of clips of many lengths, continuations of some, and what the model says to those who call it alone."""
    tokenizer = ArithmeticTokenizer(kind.books)
    codes = [*random_codes(tokenizer, [7, 1, 19, 4]), *markov_codes(tokenizer, 2)]
    with torch.inference_mode():
        assert lm.scorer._trees_agree, "a fault there is taken for a model that cannot, and scores are made otherwise"
        scores = lm.score_codes(codes)
        plain = lm.continue_many(codes[:2], 0.3, [3, 4])
        guidance = 1.0 if kind.pattern in ("coarse-first", "musiclm") else 1.5  # where the prompt comes first
        chosen = Sampling(0.7, top_k=9, top_p=0.9, repetition_penalty=1.2, may_stop=True, guidance=guidance)
        sampled = lm.continue_many(codes[:2], 0.3, [5, 6], chosen)
        alone = own_logits(lm, torch.zeros(1, 5, len(lm.pattern.streams), dtype=torch.int64, device=lm.device))
    made = [*(s.log_probs for s in scores), *(s.eos_log_probs for s in scores), *(c.codes for c in plain + sampled)]
    return [*made, alone.cpu().numpy()]


@pytest.mark.parametrize("kind", KINDS, ids=describe)
def test_language_models(kind: Any) -> None:
    here = make_lm(*kind)
    with second_device():
        there = says(SpokenLM(deepcopy(here.model.causal_lm), here.record, here.statistics, "cuda"), kind)
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(says(here, kind), there, strict=True))
