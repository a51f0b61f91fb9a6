"""How fast codes are made: ours in batches against transformers' own `generate`, or a plain loop where it has none.

    python -m bench.generation [--body tiny|40m|357m] [--device cpu|cuda] [--frames N] [--batches 1,8,64] [--compile]

Every model has random weights, greedy draws, prompts of 50 frames, and makes the same number of codes on both sides.
`flat` is one stream of 500 units at 25 Hz, against `generate` of transformers on the same model and batch. `delay` and
`depth` are 8 codebooks of 2,048 codes at 12.5 Hz with heads side by side or a depth transformer, against a loop of one
clip at a time: the body with a growing cache, each stream's head (or the depth transformer from its first stream on)
asked in turn, an id read back for each code. The loop makes fewer frames, and is given per frame. A first run warms up
both sides, and compiles ours where asked; times are those of the run after it. On CUDA weights are bf16.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from slm.generation import Generator, Request, Sampling, Speed
from slm.model.acoustic_lm import AcousticLM
from slm.model.backbone import build_causal_lm
from slm.patterns import PATTERNS, Pattern

PROMPT = 50
BODIES = {"tiny": (128, 2, 4), "40m": (512, 12, 8), "357m": (896, 24, 14)}  # width, layers, heads
GREEDY = Sampling(temperature=0, may_stop=False)


class Case(NamedTuple):
    pattern: str
    sizes: tuple[int, ...]
    rate_hz: float
    depth: bool = False


CASES = {"flat": Case("flat", (500,), 25.0), "delay": Case("delay", (2048,) * 8, 12.5),
         "depth": Case("delay", (2048,) * 8, 12.5, True)}  # fmt: skip


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.generation", description="Codes made per second.")
    parser.add_argument("--body", choices=BODIES, default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--frames", type=int, default=100, help="frames to make")
    parser.add_argument("--batches", default="1,8,64")
    parser.add_argument("--cases", default="flat,delay,depth")
    parser.add_argument("--compile", action="store_true", help="compile ours (CUDA graphs), with a static cache")
    options = parser.parse_args(arguments)
    print(f"{options.body} on {options.device}, {options.frames} frames\n")
    print(f"{'':8} {'batch':>5} {'side':<22} {'frames/s':>10} {'s of audio/s':>13}")
    for name in options.cases.split(","):
        case = CASES[name]
        pattern = PATTERNS.create(case.pattern, codebook_sizes=case.sizes)
        model = make_model(case, pattern, options)
        generator = Generator(model, pattern)
        single = None if len(pattern.streams) == 1 else measured(lambda n: plain_loop(model, pattern, n), 20)  # noqa: B023
        for batch in map(int, options.batches.split(",")):
            theirs = single or measured(lambda n: transformers_generate(model, pattern, batch, n), options.frames)  # noqa: B023
            report(name, batch, "generate" if single is None else "one clip at a time", theirs, theirs, case)
            speeds = {"ours": Speed(batch)} | (
                {"ours, compiled": Speed(batch, compile=True)} if options.compile else {}
            )
            for side, speed in speeds.items():
                ours = measured(lambda n: ours_of(generator, case, batch, n, speed), options.frames)  # noqa: B023
                report(name, batch, side, ours, theirs, case)


def make_model(case: Case, pattern: Pattern, options: argparse.Namespace) -> AcousticLM:
    width, layers, heads = BODIES[options.body]
    fields = {"model_type": "llama", "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers,
              "num_attention_heads": heads, "num_key_value_heads": heads, "max_position_embeddings": 8192}  # fmt: skip
    small = {"hidden_size": width // 2, "intermediate_size": 2 * width, "num_hidden_layers": max(1, layers // 6),
             "num_attention_heads": heads // 2, "num_key_value_heads": heads // 2}  # fmt: skip
    depth = {**fields, **small}
    model = AcousticLM(build_causal_lm(fields, pattern, 0, depth=depth if case.depth else None), pattern).eval()
    return model.to(options.device, torch.bfloat16 if options.device != "cpu" else torch.float32)


def measured(make: Callable[[int], int], frames: int) -> float:
    """Frames per second, of the second of two runs; `make(frames)` says how many frames it has made in all."""
    make(frames)
    start = time.perf_counter()
    made = make(frames)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return made / (time.perf_counter() - start)


def report(name: str, batch: int, side: str, frames_per_s: float, theirs: float, case: Case) -> None:
    audio = frames_per_s / case.rate_hz
    print(
        f"{name:8} {batch:5} {side:<22} {frames_per_s:10,.0f} {audio:13,.1f}   x{frames_per_s / theirs:.2f}", flush=True
    )


def prompts(case: Case, batch: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, case.sizes, (PROMPT, len(case.sizes))) for _ in range(batch)]


def ours_of(generator: Generator, case: Case, batch: int, frames: int, speed: Speed) -> int:
    requests = [Request(prompt, PROMPT + frames, i) for i, prompt in enumerate(prompts(case, batch))]
    return sum(len(codes) - PROMPT for codes in generator.make(requests, GREEDY, speed))


@torch.no_grad()
def transformers_generate(model: AcousticLM, pattern: Pattern, batch: int, frames: int) -> int:
    rng, special = np.random.default_rng(0), pattern.streams[0]
    ids = torch.from_numpy(rng.integers(0, special.num_codes, (batch, PROMPT + 1))).to(model.id_offsets.device)
    ids[:, 0] = special.bos_id
    made = model.causal_lm.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=frames, min_new_tokens=frames,
        suppress_tokens=[special.bos_id, special.empty_id], pad_token_id=special.eos_id,
    )  # fmt: skip
    return batch * (made.shape[1] - PROMPT - 1)


@torch.no_grad()
def plain_loop(model: AcousticLM, pattern: Pattern, frames: int) -> int:
    from transformers import DynamicCache

    device, total = model.id_offsets.device, PROMPT + frames
    layout, case = pattern.layout(total), Case(pattern.name, pattern.codebook_sizes, 1.0)
    steps = pattern.place(layout, prompts(case, 1)[0].reshape(-1))
    given, cache, fed = PROMPT * pattern.num_codebooks, DynamicCache(), 0
    for step in range(PROMPT + 1, len(steps)):
        ids: Any = torch.from_numpy(steps[None, fed:step]).to(device)
        hidden = model.hidden_states(ids, torch.arange(fed, step, device=device)[None], cache)[:, -1]
        fed = step
        for q, vocabulary in enumerate(pattern.streams):
            if layout[step, q] >= given:
                known = torch.from_numpy(steps[None, step, :q]).to(device)
                logits = model.stream_logits(hidden, known)[0, : vocabulary.num_codes]
                steps[step, q] = int(logits.argmax())
    return len(pattern.invert(steps, total)) - PROMPT


if __name__ == "__main__":
    main(sys.argv[1:])
