"""Held-out likelihood: every document once, spread over the processes, exact sums."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator

from slm.data.documents import Documents
from slm.data.loader import eval_batches
from slm.patterns import Pattern
from slm.training.config import TrainConfig
from slm.training.metrics import bits_per_s, nats_per_code
from slm.types import Batch


def to_device(batch: Batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The arguments of `AcousticLM.forward`."""

    def move(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    return move(batch.ids), move(batch.loss_mask), move(batch.positions)


@torch.no_grad()
def evaluate(accelerator: Accelerator, model: torch.nn.Module, documents: Documents, pattern: Pattern,
             config: TrainConfig) -> dict[str, float]:  # fmt: skip
    """Nats per code and bits per second of audio over `documents`. Leaves the model in training mode."""
    model.eval()
    sums = torch.zeros(2, pattern.num_codebooks + 1, dtype=torch.float64)
    batches = eval_batches(documents, pattern, config.row_length, config.rows_per_batch,
                           accelerator.process_index, accelerator.num_processes)  # fmt: skip
    inner = accelerator.unwrap_model(model)
    for batch in batches:
        with accelerator.autocast():
            made = inner(*to_device(batch, accelerator.device))
        sums += torch.stack([made.nlls.float(), made.counts.float()]).cpu().double()
    nll, count = accelerator.reduce(sums.float().to(accelerator.device), "sum").tolist()
    model.train()
    return {**nats_per_code("eval", nll, count), "eval_bits_per_s": bits_per_s(nll, documents.duration_s)}
