"""A compression model as audiocraft exports it: AudioGen's configuration made narrow, with seeded weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from tests.tokenizers.seeded import seeded_state, seeded_tensor

SEED = 3
WIDTH, LATENT, BOOKS, CODES, RATIOS = 4, 16, 4, 64, (8, 5, 4, 2)
# config/model/encodec/encodec_large_nq4_s320.yaml on default.yaml, with references as they are exported.
CONFIG: dict[str, Any] = {
    "sample_rate": 16_000,
    "channels": 1,
    "compression_model": "encodec",
    "encodec": {
        "autoencoder": "seanet",
        "quantizer": "rvq",
        "sample_rate": "${sample_rate}",
        "channels": "${channels}",
        "causal": False,
        "renormalize": False,
    },
    "seanet": {
        "dimension": LATENT,
        "channels": "${channels}",
        "causal": "${encodec.causal}",
        "n_filters": WIDTH,
        "n_residual_layers": 1,
        "ratios": list(RATIOS),
        "activation": "ELU",
        "activation_params": {"alpha": 1.0},
        "norm": "weight_norm",
        "norm_params": {},
        "kernel_size": 7,
        "residual_kernel_size": 3,
        "last_kernel_size": 7,
        "dilation_base": 2,
        "pad_mode": "constant",
        "true_skip": True,
        "compress": 2,
        "lstm": 2,
        "disable_norm_outer_blocks": 0,
        "decoder": {"trim_right_ratio": 1.0, "final_activation": None, "final_activation_params": None},
        "encoder": {},
    },
    "rvq": {
        "n_q": BOOKS,
        "q_dropout": False,
        "bins": CODES,
        "decay": 0.99,
        "kmeans_init": True,
        "kmeans_iters": 50,
        "threshold_ema_dead_code": 2,
        "orthogonal_reg_weight": 0.0,
        "orthogonal_reg_active_codes_only": False,
    },
}


NAMES_AND_SHAPES = Path(__file__).parents[1] / "data/golden/encodec_audiocraft.json"


def write_package(folder: Path, **package: Any) -> Path:
    """`compression_state_dict.bin` as audiocraft's `export_encodec` writes it; `package` replaces entries."""
    shapes = json.loads(NAMES_AND_SHAPES.read_text())
    state = fill({name: torch.zeros(shape) for name, shape in shapes.items()})
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"best_state": state, "xp.cfg": yaml.safe_dump(CONFIG), "version": "1.0.0", "exported": True}
    torch.save({**whole, **package}, folder / "compression_state_dict.bin")
    return folder


def fill(state: Mapping[str, Any]) -> dict[str, Any]:
    """Seeded weights of these names and shapes; each level's codebook is narrower than the last."""
    made = seeded_state(state, SEED)
    for k in range(BOOKS):
        name = f"quantizer.vq.layers.{k}._codebook.embed"
        made[name] = torch.from_numpy(seeded_tensor(name, (CODES, LATENT), SEED) * 0.7**k).to(state[name].dtype)
    return made
