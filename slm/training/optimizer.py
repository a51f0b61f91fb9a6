"""AdamW with decay on matrices only, and a learning rate that is a function of the budget spent."""

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


def learning_rate(step: int, fraction: float, warm_at: float | None, config: OptimizerConfig) -> float:
    """The rate of 0-based `step`, at whose end `fraction` of the budget will be spent.

    Linear warm-up to the peak, over `warmup_steps` or `warmup_ratio` of the budget; then from the peak to
    `final_lr_ratio` of it at the end by a cosine or a line, or (wsd: arXiv 2404.06395) the peak until the last
    `decay_ratio` of the budget and a line down. `warm_at` is the fraction at which a warm-up in steps ended.
    """
    if config.warmup_ratio is not None:
        warm_at = config.warmup_ratio
        if fraction <= warm_at:
            return config.lr * fraction / warm_at
    elif step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    begin = max(warm_at or 0.0, 1 - config.decay_ratio if config.schedule == "wsd" else 0.0)
    done = min(1.0, max(0.0, (fraction - begin) / max(1e-12, 1 - begin)))
    left = 0.5 * (1 + math.cos(math.pi * done)) if config.schedule == "cosine" else 1 - done
    return config.lr * (config.final_lr_ratio + (1 - config.final_lr_ratio) * left)
