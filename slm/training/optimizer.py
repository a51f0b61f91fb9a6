"""AdamW with decay on matrices only, and a learning rate that is a function of the step alone."""

from __future__ import annotations

import math

import torch
from torch import nn

from slm.training.config import OptimizerConfig


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)


def learning_rate(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """At 0-based `step`: linear warm-up, then a cosine or a line from the peak to `final_lr_ratio` of it at the last.

    Being a function of the step, it needs no state and cannot drift over a resumption.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    span = max(1, total_steps - 1 - config.warmup_steps)
    done = min(1.0, (step - config.warmup_steps) / span)
    left = 0.5 * (1 + math.cos(math.pi * done)) if config.schedule == "cosine" else 1 - done
    return config.lr * (config.final_lr_ratio + (1 - config.final_lr_ratio) * left)
