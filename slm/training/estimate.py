"""What a run will be, before anything starts: parameters, steps, tokens, memory, time."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

from slm.data.loader import TrainLoader
from slm.model.acoustic_lm import AcousticLM
from slm.model.flops import flops_per_step_position
from slm.model.memory import activation_bytes
from slm.training.budget import Budget, duration_text
from slm.training.config import TrainConfig
from slm.training.setup import TrainingData, computes_in_bf16, load_data, make_loader, make_model, make_pattern
from slm.training.throughput import matmul_flops_per_s

ASSUMED_MFU = 0.4
"""Of a well-filled device: what the dry run takes for its guess of the time."""


def describe_run(config: TrainConfig, data: TrainingData, model: AcousticLM) -> str:
    pattern = config.pattern.name + (", deduplicated" if config.dedup else "") + (", unit BPE" if config.bpe else "")
    return (
        f"{data.spec.describe()}, {pattern}; {duration_text(data.duration_s)} in {data.num_clips} clips; "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters"
    )


def dry_run(config: TrainConfig) -> str:
    """A page about the run. The model is made without weights, the data are opened, and nothing is written but the
    units of the corpora, where they are deduplicated or BPE and not made yet.

    Memory is that of weights, gradients and AdamW's two moments in float32, on one process with nothing divided, and
    of what a micro-batch keeps (see `activation_bytes`). Time is FLOPs over the measured matrix-product rate of this
    device at an assumed MFU.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    data = load_data(config)
    pattern = make_pattern(config, data)
    with torch.device("meta"):
        model = make_model(config, pattern)
    loader = make_loader(config, data, pattern, 0, world)
    flops = flops_per_step_position(model, config.row_length) * config.row_length * loader.rows_per_step
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = computes_in_bf16(config.precision)
    rate = matmul_flops_per_s(device, torch.bfloat16 if half else torch.float32)
    step_s = flops / (rate * ASSUMED_MFU * world)
    spends = {**step_spends(loader, flops), "elapsed_s": step_s}
    codes, audio_s, epochs = (spends[name] for name in ("codes", "audio_s", "epochs"))
    budget = config.run_budget()
    steps = _steps(budget, spends)
    parameters = sum(p.numel() for p in model.parameters())
    state_gb = parameters * (4 + 4 + 8 + 4 * bool(config.ema_decay)) / 2**30
    lines = {
        "model": describe_run(config, data, model),
        "budget": _budget_text(budget, config),
        "one step": f"{loader.rows_per_step} rows of {config.row_length} ({world} x {config.accumulation} x "
                    f"{config.rows_per_batch}), {codes:,.0f} codes, {duration_text(audio_s)} of audio",
        "steps": f"{steps:,}",
        "codes": f"{codes * steps:,.0f}",
        "audio": f"{duration_text(audio_s * steps)} heard, {epochs * steps:.2f} epochs",
        "compute": f"{flops * steps:.2e} FLOPs",
        "memory": f"{state_gb:.1f} GB for weights, gradients, moments; {_activations_text(model, config, half)}",
        "time": f"{duration_text(step_s * steps)} on {world} of this device ({rate / 1e12:.2f} TFLOP/s in "
                f"matrix products, MFU {ASSUMED_MFU:.0%} assumed)",
    }  # fmt: skip
    if len(config.corpora) > 1:
        each = zip(config.corpora, loader.epochs_of_each(steps), strict=True)
        lines["corpora"] = ", ".join(f"{Path(name).name} {float(f'{times:.2g}'):,g} epochs" for name, times in each)
    told = [f"{name:<9} {text}" for name, text in lines.items()]
    return "\n".join([*told, *warm_up_warnings(config, spends)])


def step_spends(loader: TrainLoader, flops: float) -> dict[str, float]:
    """What a step spends of each budget but time, by the fields of `Progress`: the mean of the first ones."""
    probe = min(20, 1 + 2000 // loader.rows_per_step)
    codes, audio_s = (sum(of) / probe for of in zip(*map(loader.codes_and_audio_s, range(probe)), strict=True))
    return {"steps": 1, "codes": codes, "audio_s": audio_s, "epochs": loader.epoch_at(probe) / probe, "flops": flops}


def warm_up_warnings(config: TrainConfig, spends: dict[str, float]) -> list[str]:
    """A line where the run is over before its warm-up; none where what a step spends of the budget is not known."""
    budget, warm_up = config.run_budget(), config.optimizer.warmup_steps
    steps = _steps(budget, spends) if budget.field in spends else warm_up
    if config.optimizer.warmup_ratio is not None or warm_up <= steps:
        return []
    return [f"warning: the warm-up (optimizer.warmup_steps {warm_up}) is longer than the run, of {steps} steps: the "
            f"rate ends at {steps / warm_up:.0%} of optimizer.lr. Give fewer, or optimizer.warmup_ratio"]  # fmt: skip


def _steps(budget: Budget, spends: dict[str, float]) -> int:
    """A run ends with the first step that has spent the whole."""
    return math.ceil(budget.amount / spends[budget.field])


def _budget_text(budget: Budget, config: TrainConfig) -> str:
    return f"{budget.amount:g} {budget.field}" if config.budget is None else config.budget


def _activations_text(model: AcousticLM, config: TrainConfig, half: bool) -> str:
    if config.model.kernels == "liger":  # which cannot run without values
        return "activations not counted, fewer than with model.kernels torch"
    again = config.model.activation_checkpointing
    kept = activation_bytes(model, config.rows_per_batch, config.row_length, half, again)
    if kept is None:
        return "activations not counted: the layers of this family cannot be followed without values"
    return f"{kept / 2**30:.1f} GB for activations of a micro-batch" + (", less if compiled" if config.compile else "")
