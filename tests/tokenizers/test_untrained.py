"""Checkpoints with random weights: of the published architectures, reproducible, and with codes that differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slm.errors import UsageError
from slm.tokenizers import TOKENIZERS, load_tokenizer
from tests.tokenizers.light_codecs import DAC, ENCODEC, MIMI, speech
from tests.tokenizers.semantic_codecs import LIGHT

CHANGES: dict[str, dict[str, Any]] = {"encodec": ENCODEC, "dac": DAC, "mimi": MIMI, **LIGHT}
# Samples per frame, codebooks and their size, from each release.
RELEASES = {
    "encodec": (320, 32, 1024),
    "dac": (320, 12, 1024),
    "mimi": (1920, 32, 2048),
    "xcodec": (320, 8, 1024),
    "higgs-audio-v2": (960, 8, 1024),
}
# Millions of parameters by table 2 of arXiv 2506.10274.
PARAMETERS = {"encodec": 14.9, "mimi": 79.3}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.thorough) if n in ("neucodec", "xcodec", "xcodec2") else n for n in CHANGES],
)
def test_it_is_reproducible_and_gives_many_codes(name: str, tmp_path: Path) -> None:
    family: Any = TOKENIZERS.get(name)
    before = torch.random.get_rng_state()
    for folder, seed in (("one", 5), ("same", 5), ("other", 6)):
        family.write_untrained(tmp_path / folder, seed=seed, **CHANGES[name])
    assert torch.equal(torch.random.get_rng_state(), before)
    one, same, other = (load_tokenizer(name, checkpoint=str(tmp_path / f)) for f in ("one", "same", "other"))
    assert one.spec.fingerprint == same.spec.fingerprint != other.spec.fingerprint
    codes = np.concatenate([c.codes for c in one.encode(speech(one.spec.sample_rate_hz))])
    assert all(len(np.unique(column)) >= 10 for column in codes.T)
    with pytest.raises(UsageError, match="not empty"):
        family.write_untrained(tmp_path / "one")


@pytest.mark.parametrize("name", RELEASES)
def test_the_architecture_is_the_published_one(name: str) -> None:
    family: Any = TOKENIZERS.get(name)
    network = family._network()
    with torch.device("meta"):
        model = network(network.config_class(**family.published))
    config = model.config
    hop = config.sampling_rate / config.frame_rate if name == "mimi" else config.hop_length
    books = config.n_codebooks if name == "dac" else config.num_quantizers
    assert (hop, books, config.codebook_size) == RELEASES[name]
    if name in PARAMETERS:
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(PARAMETERS[name], abs=0.1)
