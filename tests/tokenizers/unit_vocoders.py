"""Unit vocoders as their authors publish them, small and with seeded weights: the very ones that made the goldens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.tokenizers.seeded import seeded_tensor

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "unit_vocoder.npz"
SEEDS = {"fairseq": 1, "textless": 2, "speechbrain": 3, "speechbrain-durations": 4}
PREDICTORS = ("dur_predictor", "var_predictor")


def golden(case: str) -> dict[str, Any]:
    """What belongs to one case: `config` (the constructor's), `shapes` of the weights by name, and arrays."""
    with np.load(GOLDEN) as file:
        found = {name.removeprefix(f"{case}."): file[name] for name in file.files if name.startswith(f"{case}.")}
    return {**found, "config": json.loads(str(found["config"])), "shapes": json.loads(str(found["shapes"]))}


def weights(shapes: dict[str, list[int]], seed: int) -> dict[str, torch.Tensor]:
    """Seeded, but with louder embeddings and more different durations than variances of 1 / fan-in give."""
    state = {}
    for name, shape in shapes.items():
        values, module = seeded_tensor(name, tuple(shape), seed), name.split(".")[0]
        if module in ("dict", "unit_embedding", "spkr", "style"):
            values = 4 * values
        if module in PREDICTORS and ".proj." in name:
            values = 3 * values if name.endswith("weight") else values + 1.2
        state[name] = torch.from_numpy(np.asarray(values))
    return state


def write_vocoder(folder: Path, case: str, **values: Any) -> Path:
    """The checkpoint of a golden case; `values` join the configuration (of SpeechBrain: the top level of the YAML)."""
    made = golden(case)
    config, state = made["config"], weights(made["shapes"], SEEDS[case])
    folder.mkdir(parents=True, exist_ok=True)
    if case.startswith("speechbrain"):
        (folder / "hyperparams.yaml").write_text(hyperparams(config, values), encoding="utf-8")
        torch.save(state, folder / "generator.ckpt")
    else:
        (folder / "config.json").write_text(json.dumps({**config, **values}), encoding="utf-8")
        torch.save({"generator": state}, folder / "model.pt")
    return folder


def hyperparams(config: dict[str, Any], values: dict[str, Any]) -> str:
    """As SpeechBrain writes them: values, then objects that refer to them, by tags that would build what they name."""
    top = {**config, "sample_rate": 16_000, **values}
    lines = [f"{key}: {json.dumps(value)}" for key, value in top.items()]
    lines += ["data_folder: !PLACEHOLDER", "__set_seed: !apply:speechbrain.utils.seed_everything [!ref <sample_rate>]"]
    lines += ["generator: !new:speechbrain.lobes.models.HifiGAN.UnitHifiganGenerator"]
    lines += [f"  {key}: !ref <{key}>" for key in {**config, **values} if key not in ("num_clusters", "layer")]
    lines += ["modules:", "  generator: !ref <generator>"]
    lines += ["pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer"]
    lines += ["  loadables:", "    generator: !ref <generator>"]
    return "\n".join(lines) + "\n"
