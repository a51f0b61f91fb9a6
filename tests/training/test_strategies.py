"""DDP, FSDP2 and DeepSpeed ZeRO on two processes: each has the losses of one process, and resumes to the bit."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train_lm
from slm.training.config import ModelConfig
from tests.fakes import TINY_BACKBONE
from tests.training.runs import ENV, ROOT, TORCHRUN, as_arguments, config, losses, run

SIDE = Path(sys.prefix, "deepspeed")  # where `make` puts it: beside the packages, so that only these tests import it
DEEPSPEED = {**ENV, "ACCELERATE_USE_DEEPSPEED": "true", "DS_ACCELERATOR": "cpu", "PYTHONPATH": f"{SIDE}:{ROOT}"}
FSDP = {**ENV, "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
ENVIRONMENTS = {"ddp": ENV, "fsdp2": FSDP}
SETTINGS = {"steps": 6, "save_every": 3, "eval_every": 6, "ema_decay": 0.5}


def needs_deepspeed() -> None:
    if not (SIDE.is_dir() or importlib.util.find_spec("deepspeed")):
        pytest.skip("needs DeepSpeed: make install")


def deepspeed(stage: int, folder: Path) -> tuple[dict[str, str], str]:
    """As `accelerate launch` with a DeepSpeed file of the user's own; no parameter is too small to be divided."""
    needs_deepspeed()
    zero = {"stage": stage, "stage3_param_persistence_threshold": 0}
    file = folder / "deepspeed.json"
    file.write_text(json.dumps({"zero_optimization": zero}))
    environment = {k: v for k, v in DEEPSPEED.items() if k != "ACCELERATE_USE_CPU"}
    return {**environment, "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}, "tests/training/deepspeed_on_cpu.py"


@pytest.fixture(scope="module")
def one(corpora, tmp_path_factory) -> dict[float, Path]:
    """A run of one process, without and with a moving average of the weights."""
    from tests.training.runs import reset_accelerate

    made = {}
    for decay in (0.0, 0.5):
        made[decay] = tmp_path_factory.mktemp("one") / "run"
        reset_accelerate()
        train_lm.main(config(corpora["two"], made[decay], **{**SETTINGS, "ema_decay": decay}))
    reset_accelerate()
    return made


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "zero1", "zero2", "zero3"])
def test_two_processes_agree_with_one_and_resume_to_the_bit(corpora, tmp_path, one, strategy):
    decay = 0.0 if strategy == "zero3" else 0.5
    settings = {**SETTINGS, "ema_decay": decay, "rows_per_batch": 2, "accumulation": 2}
    out = tmp_path / "two"
    environment, script = ENVIRONMENTS.get(strategy), "train_lm.py"
    if environment is None:
        environment, script = deepspeed(int(strategy[-1]), tmp_path)
    command = [*TORCHRUN, script, *as_arguments(config(corpora["two"], out, **settings), tmp_path / "c.yaml")]
    made = run(command, environment)
    assert made.returncode == 0, made.stderr
    logged = losses(out)
    for (step, key, a), (_, _, b) in zip(losses(one[decay]), logged, strict=True):
        assert a == pytest.approx(b, rel=2e-4), (step, key)
    weights, expected = (load_file(p / "final" / "model.safetensors") for p in (out, one[decay]))
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], atol=2e-4, rtol=1e-3)

    shutil.rmtree(out / "final")
    shutil.rmtree(out / "checkpoints" / "step-0000006")
    again = run(command, environment)
    assert again.returncode == 0, again.stderr
    assert "resuming" in again.stdout
    assert losses(out) == logged


def test_what_a_strategy_cannot_do_is_refused(corpora, tmp_path):
    refused = config(corpora["two"], tmp_path / "run", **SETTINGS)
    environment, script = deepspeed(3, tmp_path)
    made = run([*TORCHRUN, script, *as_arguments(refused, tmp_path / "c.yaml")], environment)
    assert "ema_decay needs whole parameters" in made.stderr
    assert not (tmp_path / "run").exists()


def test_more_processes_go_on_with_the_same_rows_and_say_so(corpora, tmp_path):
    whole = config(corpora["two"], tmp_path / "whole", **SETTINGS)
    train_lm.main(whole)
    parts = tmp_path / "parts"
    shutil.copytree(tmp_path / "whole", parts)
    shutil.rmtree(parts / "final")
    shutil.rmtree(parts / "checkpoints" / "step-0000006")
    two = config(corpora["two"], parts, **{**SETTINGS, "rows_per_batch": 4})
    made = run([*TORCHRUN, "train_lm.py", *as_arguments(two, tmp_path / "c.yaml")])
    assert made.returncode == 0, made.stderr
    assert "2 processes go on where 1 stopped: the same rows in the same order" in made.stdout
    for (step, key, a), (_, _, b) in zip(losses(tmp_path / "whole"), losses(parts), strict=True):
        assert a == pytest.approx(b, rel=2e-4), (step, key)
    other = run([*TORCHRUN, "train_lm.py", *as_arguments(two, tmp_path / "c.yaml")], FSDP)
    assert "was begun with strategy 'plain'" in other.stderr


def test_accelerate_files_are_ones_that_it_reads():
    from accelerate.commands.config.config_args import load_config_from_file

    kinds = {"ddp": "MULTI_GPU", "multi-node": "MULTI_GPU", "one-process": "NO", "fsdp2": "FSDP",
             **{f"zero{stage}": "DEEPSPEED" for stage in (1, 2, 3)}}  # fmt: skip
    files = {file.stem: file for file in (ROOT / "configs" / "accelerate").glob("*.yaml")}
    assert files.keys() == kinds.keys()
    for name, kind in kinds.items():
        loaded = load_config_from_file(str(files[name]))
        assert loaded.distributed_type.value == kind
        if kind == "DEEPSPEED":
            assert loaded.deepspeed_config["zero_stage"] == int(name[-1])
    assert load_config_from_file(str(files["fsdp2"])).fsdp_config["fsdp_version"] == 2


@pytest.mark.parametrize("depth", [{}, {**TINY_BACKBONE, "num_hidden_layers": 1}])
def test_any_division_of_a_step_has_the_same_gradients(corpora, depth):
    """8 rows as 1 x 8, 2 x 4 and 8 x 1 micro-batches, in float64 so that only the arithmetic could differ."""
    from slm.training.evaluation import to_device
    from slm.training.setup import load_data, make_loader, make_model, make_pattern

    found = []
    for rows, accumulation in [(8, 1), (4, 2), (1, 8)]:
        c = config(corpora["two"], Path("x"), rows_per_batch=rows, accumulation=accumulation,
                   codebook_weights=[100.0, 1.0], model=ModelConfig(backbone=TINY_BACKBONE, depth=depth))  # fmt: skip
        data = load_data(c)
        pattern = make_pattern(c, data)
        model = make_model(c, pattern).double()
        batches = [to_device(b, torch.device("cpu")) for b in make_loader(c, data, pattern, 0, 1).batches(0)]
        weight = torch.stack([model.target_weight(ids, mask) for ids, mask, _ in batches]).sum()
        for batch in batches:
            (model(*batch).weighted_nll / weight).backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    for gradients in found[1:]:
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, found[0][name], atol=1e-12, rtol=1e-9)
