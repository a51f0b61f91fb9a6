"""Held-out likelihood: every document once, spread over the processes, exact sums."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator

from slm.data.documents import Documents
from slm.data.loader import eval_batches
from slm.devices import in_float64, sent
from slm.model.acoustic_lm import Places, places_of
from slm.patterns import Pattern
from slm.training.config import TrainConfig
from slm.training.engine import is_sharded
from slm.training.metrics import bits_per_s, by_codebook, nats_per_code
from slm.types import Batch


def to_device(batch: Batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Places]:
    """The arguments of `AcousticLM.forward`."""
    ids, mask, positions = (torch.from_numpy(array) for array in (batch.ids, batch.loss_mask, batch.positions))
    places = Places(*(sent(tensor, device) for tensor in places_of(mask, positions)))
    return sent(ids, device), sent(mask, device), sent(positions, device), places


@torch.no_grad()
def evaluate(accelerator: Accelerator, model: torch.nn.Module, evaluation: Sequence[Documents], pattern: Pattern,
             config: TrainConfig) -> dict[str, float]:  # fmt: skip
    """Nats per code, accuracy (share of codes that were the likeliest), each by codebook, and bits per second of audio
    over `evaluation`, every code of it, as `SpokenLM` scores: also where training leaves the tail out. Ends count where
    the model knows them. A document that is longer than a row is evaluated in pieces, as it is trained on, where
    `SpokenLM` scores it whole. Leaves the model in training mode."""
    model.eval()
    full = pattern.full()
    sums = in_float64(torch.zeros(3, pattern.num_codebooks + 1, device=accelerator.device))  # which is read at the end
    rank, world = accelerator.process_index, accelerator.num_processes
    # Where weights are divided among the processes, each forward pass needs all of them: all go on until all are done.
    together = is_sharded(accelerator)
    inner = model if together else accelerator.unwrap_model(model)
    for documents in evaluation:
        for batch in eval_batches(documents, full, config.row_length, config.rows_per_batch, rank, world, together,
                                  whole=config.compile):  # fmt: skip
            with accelerator.autocast():
                made = inner(*to_device(batch, accelerator.device), with_hits=True)
            sums += in_float64(torch.stack([made.nlls.float(), made.counts.float(), made.hits.float()]))
    nll, count, hits = accelerator.reduce(sums, "sum").tolist()
    model.train()
    if not pattern.has_ends:
        nll[-1] = count[-1] = 0.0
    return {
        **nats_per_code("eval", nll, count),
        **by_codebook("eval_accuracy", hits, count),
        "eval_bits_per_s": bits_per_s(nll, sum(documents.duration_s for documents in evaluation)),
    }
