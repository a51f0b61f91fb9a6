"""What share of a GPU's matrix products a training step of `AcousticLM` uses, and where its time goes.

    python -m bench.mfu [--pattern flat|delay] [--rows 64] [--row-length 1024] [--longest N] [--body 357m|small]
                        [--no-compile] [--liger] [--attention NAME] [--profile]

The step is that of `train_lm.py` on one process: packed rows of random documents (from an eighth of `--longest` to all
of it; default: a row), bf16, AdamW, clipping, everything on the device already. `flat` has 500 units, `delay` 8
codebooks of 2,048 codes. The ceiling is the best of a few products of 8,192 x 8,192 random matrices, measured first.

"MFU" counts matrices, and attention over half a row, as the runs print it (`slm.model.flops`); "of documents" counts
attention over what documents really have before them. `--profile` lists the kernels of a step.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from bench.training import BODIES
from slm.model.acoustic_lm import AcousticLM, Places, places_of
from slm.model.attention import choose_attention
from slm.model.backbone import build_causal_lm, use_liger
from slm.model.flops import flops_per_step_position
from slm.patterns import PATTERNS, Pattern
from slm.training.config import OptimizerConfig
from slm.training.optimizer import make_optimizer
from slm.training.throughput import matmul_flops_per_s, peak_memory_gb

SIZES = {"flat": (500,), "delay": (2048,) * 8}
BATCHES, WARM_UP, STEPS, KERNELS = 4, 4, 8, 40


def main(arguments: Sequence[str]) -> None:
    options = _options(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pattern = PATTERNS.create(options.pattern, codebook_sizes=SIZES[options.pattern])
    model = make_model(options, pattern, device)
    batches = [make_batch(options, pattern, seed, device) for seed in range(BATCHES)]
    step = make_step(model, [batch for batch, _ in batches], device)
    ceiling = matmul_flops_per_s(device, torch.bfloat16)
    start = time.perf_counter()
    timed(step, WARM_UP, device)
    ready_s, step_s = time.perf_counter() - start, timed(step, STEPS, device)
    positions = options.rows * options.row_length
    usual = flops_per_step_position(model, options.row_length) * positions
    attended = sum(seen for _, seen in batches) / len(batches)
    exact = usual + _attention_flops(model) * (attended - positions * (options.row_length + 1) / 2)
    print(f"{torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU'}: {ceiling / 1e12:.0f} TFLOP/s")
    print(f"{options.pattern}, {options.rows} rows of {options.row_length}, documents up to "
          f"{options.longest or options.row_length}: {step_s * 1e3:.1f} ms a step, {positions / step_s:,.0f} steps/s, "
          f"{peak_memory_gb(device):.1f} GB, ready after {ready_s:.0f} s")  # fmt: skip
    print(f"MFU {usual / step_s / ceiling:.1%}, of documents {exact / step_s / ceiling:.1%}")
    if options.profile:
        print_kernels(step)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.mfu", description="The share of a GPU that training uses.")
    parser.add_argument("--pattern", choices=SIZES, default="flat")
    parser.add_argument("--body", choices=BODIES, default="357m")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--row-length", type=int, default=1024)
    parser.add_argument("--longest", type=int, default=0, help="steps of the longest document (default: a row)")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--no-compile", action="store_false", dest="compiled")
    parser.add_argument("--liger", action="store_true", help="Liger's kernels")
    parser.add_argument("--profile", action="store_true")
    return parser.parse_args(arguments)


def make_model(options: argparse.Namespace, pattern: Pattern, device: torch.device) -> AcousticLM:
    attention = choose_attention(options.attention, device.type == "cuda", options.compiled, bf16=True)
    with device:
        causal_lm = build_causal_lm(BODIES[options.body], pattern, seed=0, attention=attention)
    model = AcousticLM(causal_lm, pattern).to(device)
    if options.liger:
        use_liger(causal_lm)
    if options.compiled:
        model.compile()
    return model


def make_batch(options: argparse.Namespace, pattern: Pattern, seed: int,
               device: torch.device) -> tuple[tuple[Any, ...], int]:  # fmt: skip
    """The arguments of `AcousticLM.forward`, and how many positions all of its positions attend to."""
    generator, longest = torch.Generator().manual_seed(seed), options.longest or options.row_length
    rows, attended = [], 0
    for _ in range(options.rows):
        left, documents = options.row_length, []
        while left:
            length = min(left, int(torch.randint(max(1, longest // 8), longest + 1, (1,), generator=generator)))
            documents.append(torch.arange(length))
            attended, left = attended + length * (length + 1) // 2, left - length
        rows.append(torch.cat(documents))
    positions = torch.stack(rows)
    codes = [torch.randint(v.num_codes, positions.shape, generator=generator) for v in pattern.streams]
    ids = torch.stack(codes, dim=-1)
    mask = (positions > 0)[..., None].expand_as(ids).contiguous()
    places = Places(*(place.to(device) for place in places_of(mask, positions)))
    return (ids.to(device), mask.to(device), positions.to(device), places), attended


def make_step(model: AcousticLM, batches: Sequence[tuple[Any, ...]], device: torch.device) -> Callable[[int], None]:
    optimizer = make_optimizer(model, OptimizerConfig())

    def step(number: int) -> None:
        batch = batches[number % len(batches)]
        weight = model.target_weight(*batch[:2])
        with torch.autocast(device.type, torch.bfloat16):
            sums = model(*batch)
        (sums.weighted_nll / weight).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def timed(step: Callable[[int], None], steps: int, device: torch.device) -> float:
    """Seconds of a step."""
    start = time.perf_counter()
    for number in range(steps):
        step(number)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps


def _attention_flops(model: AcousticLM) -> float:
    """Of one position that attends to one more: what two more steps of a row add, half of which it sees."""
    return flops_per_step_position(model, 3) - flops_per_step_position(model, 1)


def print_kernels(step: Callable[[int], None]) -> None:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as made:
        step(0)
        step(1)
        torch.cuda.synchronize()
    kernels = [e for e in made.key_averages() if e.device_type == torch.autograd.DeviceType.CUDA]
    for event in sorted(kernels, key=lambda e: -e.self_device_time_total)[:KERNELS]:
        print(f"{event.self_device_time_total / 2e3:8.2f} ms {event.count // 2:5d}x  {event.key[:100]}")


if __name__ == "__main__":
    main(sys.argv[1:])
