"""What a corpus costs before and while a model is trained on it: time and memory to the first batch, codes per second.

    python -m bench.loader [--codes 1e9] [--where /tmp] [--rounds 3]

A synthetic corpus (one codebook of 2,000 at 25 Hz, documents of 5 to 20 s) is written once, in shards of 10 hours as
`tokenize_corpus.py` writes them. Every figure is of a process of its own.

"first batch": seconds from the start of the process to a batch of 8 rows of 1,024 steps, with what `train_lm.py` needs
on the way: 2 % of the clips held out, all of them identified (digest), rows planned. "resume": the same for a step at
1.9 epochs. "memory": the peak of the resident set, mapped pages that were touched included. "codes/s": batches one
after the other on one thread, of that corpus and of small ones of other kinds; "filled": the share of steps that are
not padding. Seconds and codes/s are of the best of the rounds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slm.data.loader import TrainLoader

ROW_LENGTH, ROWS = 1024, 8
KINDS = [  # name, codebooks, pattern, frame rate in Hz, seconds of the shortest and the longest document
    ("flat, 1 codebook, 5-20 s", 1, "flat", 25, 5, 20),
    ("flat, 1 codebook, 2 s", 1, "flat", 25, 2, 2),
    ("flat, 8 codebooks, 5-20 s", 8, "flat", 50, 5, 20),
    ("delay, 8 codebooks, 2 s", 8, "delay", 50, 2, 2),
    ("delay, 8 codebooks, 5-20 s", 8, "delay", 50, 5, 20),
]
SMALL_CODES, TIMED_S = 2e7, 4.0


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.loader", description="Speed and memory of the loader.")
    parser.add_argument("--codes", type=float, default=1e9, help="codes of the large corpus (default: 1e9)")
    parser.add_argument("--where", type=Path, default=Path(tempfile.gettempdir()), help="where corpora are kept")
    parser.add_argument("--rounds", type=int, default=3, help="processes for each figure (default: 3)")
    options = parser.parse_args(arguments)
    corpora = [written(options.where, options.codes if kind is KINDS[0] else SMALL_CODES, *kind[1:]) for kind in KINDS]
    print(f"{options.codes:.0e} codes, flat\n{'':<28} {'first batch':>12} {'memory':>9} {'resume':>9} {'memory':>9}")
    for label, library in [("numpy and pyarrow", "pyarrow"), ("and torch", "torch")]:
        first, later = (best(options.rounds, "start", corpora[0], "flat", library, epochs) for epochs in ("0", "1.9"))
        times = f"{first['seconds']:>10.2f} s {first['mb']:>6.0f} MB {later['seconds']:>7.2f} s {later['mb']:>6.0f} MB"
        print(f"{label:<28} {times}", flush=True)
    print(f"\n{'':<28} {'codes/s':>12} {'filled':>9}")
    for (name, _, pattern, *_), corpus in zip(KINDS, corpora, strict=True):
        made = best(options.rounds, "speed", corpus, pattern)
        print(f"{name:<28} {1 / made['seconds']:>12,.0f} {made['filled']:>9.1%}", flush=True)


def best(rounds: int, part: str, corpus: Path, *arguments: str) -> dict[str, float]:
    """Of several processes the one that took least time."""
    return min((measured(part, str(corpus), *arguments) for _ in range(rounds)), key=lambda made: made["seconds"])


def measured(part: str, *arguments: str) -> dict[str, float]:
    command = [sys.executable, "-c", "import sys, bench.loader; bench.loader.run_part(*sys.argv[1:])"]
    made = subprocess.run([*command, part, repr(time.time()), *arguments], check=True, stdout=subprocess.PIPE)
    return json.loads(made.stdout)


def run_part(part: str, started: str, *arguments: str) -> None:
    """In a process of its own, whose time began at `started`: print what was measured."""
    made = {"start": start, "speed": speed}[part](float(started), *arguments)
    print(json.dumps(made))


def start(started: float, corpus: str, pattern: str, library: str, epochs: str) -> dict[str, float]:
    __import__(library)
    loader, total = opened(corpus, pattern)
    loader.batches(int(float(epochs) * total / (ROW_LENGTH * ROWS)))
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return {"seconds": time.time() - started, "mb": int(status.split("VmHWM:")[1].split()[0]) / 1024}


def speed(started: float, corpus: str, pattern: str) -> dict[str, float]:
    """Seconds a code, and the share of steps that are filled."""
    loader, _ = opened(corpus, pattern)
    loader.batches(0)
    codes, used, step, began = 0, 0, 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < TIMED_S:
        step += 1
        (batch,) = loader.batches(step)
        codes += loader.codes_and_audio_s(step)[0]
        used += int((batch.document_ids >= 0).sum())
    return {"seconds": spent / codes, "filled": used / (step * ROWS * ROW_LENGTH)}


def opened(corpus: str, pattern_name: str) -> tuple[TrainLoader, int]:
    """The loader as `train_lm.py` makes it, and about how many steps an epoch has."""
    from slm.data.documents import Documents, hold_out
    from slm.data.loader import TrainLoader
    from slm.data.store import CodeStore
    from slm.patterns import PATTERNS

    store = CodeStore(corpus)
    sides = [Documents(store, keep=side) for side in hold_out(store.ids, 0.02)]
    for documents in sides:
        documents.digest()
    pattern = PATTERNS.create(pattern_name, codebook_sizes=store.spec.codebook_sizes)
    mean = int(sides[0].num_frames.mean())
    loader = TrainLoader(sides[0], pattern, ROW_LENGTH, ROWS, 1, 0, 1, seed=0)
    return loader, len(sides[0]) * pattern.num_steps(mean)


def written(where: Path, codes: float, books: int, pattern: str, rate_hz: int, shortest_s: int, longest_s: int) -> Path:
    """A corpus of about so many codes, written unless it is there."""
    import numpy as np
    import pyarrow as pa

    from slm.corpus.shards import codes_array, write_table
    from slm.files import atomic_directory, write_json
    from slm.types import TokenizerSpec

    path = where / f"bench-loader-{codes:.0e}-{books}x{rate_hz}-{shortest_s}-{longest_s}"
    if path.exists():
        return path
    spec = TokenizerSpec("synthetic", f"synthetic-{books}", 24_000, 24_000 // rate_hz, (2000,) * books)
    clips_a_shard = round(36_000 / ((shortest_s + longest_s) / 2))
    rng, made = np.random.default_rng(0), 0
    names: list[str] = []
    with atomic_directory(path) as folder:
        while made < codes:
            lengths = rng.integers(shortest_s * rate_hz, longest_s * rate_hz, clips_a_shard, endpoint=True)
            number = len(names)
            samples = lengths * spec.hop_samples
            columns = {
                "id": pa.array([f"{number:05d}_{i // 50:05d}_{i:06d}" for i in range(clips_a_shard)]),
                "codes": codes_array(rng.integers(0, 2000, (lengths.sum(), books), np.uint16), lengths),
                "num_samples": pa.array(samples),
                "duration_s": pa.array((samples / spec.sample_rate_hz).astype(np.float32)),
            }
            names.append(f"data-{number:05d}.arrow")
            write_table(folder / names[-1], pa.table(columns), {}, spec)
            made += int(lengths.sum()) * books
        write_json(folder / "state.json", {"_data_files": [{"filename": name} for name in names]})
        write_json(folder / "tokenizer.json", spec.to_dict())
    return path


if __name__ == "__main__":
    main(sys.argv[1:])
