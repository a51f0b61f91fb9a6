"""What packing is worth: codes predicted per second in packed rows against padded batches of whole documents.

    python -m bench.packing [--steps 12]

The same model, the same documents (lengths of real utterances, log-normal), as many positions in every batch; forward
and backward. Padded batches hold documents in random order, padded to the longest, as most scripts do.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from slm.data.packing import best_fit_rows
from slm.model.acoustic_lm import AcousticLM
from slm.model.backbone import build_causal_lm
from slm.patterns import PATTERNS

ROW, ROWS = 512, 8
BACKBONE = {"model_type": "llama", "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": ROW}  # fmt: skip


def packed(lengths: np.ndarray) -> list[list[list[int]]]:
    row_of, count = best_fit_rows(lengths, ROW)
    rows = [lengths[row_of == r].tolist() for r in np.random.default_rng(0).permutation(count)]
    return [rows[i : i + ROWS] for i in range(0, count - ROWS + 1, ROWS)]


def padded(lengths: np.ndarray) -> list[list[list[int]]]:
    """Batches of single documents, as many as fit ROW x ROWS positions once padded to the longest."""
    batches: list[list[list[int]]] = []
    current: list[list[int]] = []
    for n in lengths.tolist():
        if current and (len(current) + 1) * max(n, *(r[0] for r in current)) > ROW * ROWS:
            batches.append(current)
            current = []
        current.append([n])
    return batches


def throughput(model: AcousticLM, batches: list[list[list[int]]], steps: int) -> tuple[float, float]:
    """(codes per second, share of positions that are predicted)."""
    codes, positions_run, start = 0, 0, 0.0
    for number, rows in enumerate(batches[: steps + 2]):
        width = max(sum(row) for row in rows)
        positions = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros(len(rows), width, 1, dtype=torch.bool)
        for b, row in enumerate(rows):
            filled = np.concatenate([np.arange(n) for n in [*row, width - sum(row)]])
            positions[b], mask[b, : sum(row), 0] = torch.from_numpy(filled), True
        ids = torch.randint(0, 100, (len(rows), width, 1))
        if number == 2:  # two batches to warm up
            codes, positions_run, start = 0, 0, time.perf_counter()
        model(ids, mask, positions).weighted_nll.backward()
        codes, positions_run = codes + int(mask.sum()), positions_run + mask.numel()
    return codes / (time.perf_counter() - start), codes / positions_run


def main(steps: int) -> None:
    pattern = PATTERNS.create("flat", codebook_sizes=(100,))
    model = AcousticLM(build_causal_lm(BACKBONE, pattern, 0), pattern)
    lengths = np.random.default_rng(0).lognormal(5.0, 0.7, 4000).astype(int).clip(10, ROW)
    results = {name: throughput(model, make(lengths), steps) for name, make in [("packed", packed), ("padded", padded)]}
    for name, (rate, share) in results.items():
        ratio = rate / results["padded"][0]
        print(f"{name:<8} {rate:10,.0f} codes/s   {share:6.1%} of positions predicted   x{ratio:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="batches of each kind (default: 12)")
    main(parser.parse_args().steps)
