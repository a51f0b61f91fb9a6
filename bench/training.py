"""Codes learned from in a second: `train_lm.py` against the Hugging Face Trainer, and what a checkpoint costs.

    python -m bench.training [--steps 10] [--turns 3] [--body small|357m] [--row-length 512] [--rows 8] [--compile]

The same backbone, corpus, optimizer and precision (bf16 on a GPU). Documents are like utterances: 2 to 20 s, log-normal
around 7 s, 25 deduplicated units a second.

padded     Trainer with batches of `--rows` documents in random order, padded to the longest, as slamkit feeds it
grouped    Trainer with `train_sampling_strategy="group_by_length"`, which leaves little padding
packed     train_lm.py itself: `--rows` rows of `--row-length`, what a padded batch takes at most
compiled   the same with `--compile true`
liger      the same with Liger's kernels (`--liger`, on a GPU), compiled too if `--compile` is given

All take turns, in changing order, each turn a process of its own; a way's first steps do not count. On one thread of a
CPU time is processor time, so that what else the machine does meets no side. "of padded" and "of grouped" are ratios
within a turn: the median and, in brackets, the least and the greatest. "real": the share of positions that hold a
document. Codes are those of documents, without begins and ends. "save" is one checkpoint, all that resuming needs and
the model, in seconds by the wall clock, and its share of the time at the default interval, which follows from it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

UNITS, UNITS_PER_S, WARM_UP = 500, 25, 2
BODIES = {
    "small": {"model_type": "llama", "hidden_size": 320, "intermediate_size": 896, "num_hidden_layers": 6,
              "num_attention_heads": 5, "num_key_value_heads": 5, "max_position_embeddings": 2048},
    "357m": {"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
             "num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 2048},
}  # fmt: skip


def main(arguments: Sequence[str]) -> None:
    options = _options(arguments)
    if options.way:
        import torch

        torch.set_num_threads(options.threads)
        return print(json.dumps(WAYS[options.way](options)))
    more = [way for way in ("compiled", "liger") if getattr(options, way)]
    ways = ["padded", "grouped", "packed", *more]
    with TemporaryDirectory(prefix="bench-training-") as folder:
        write_corpus(Path(folder) / "corpus")
        found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for turn in range(options.turns):
            for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
                command = [sys.executable, "-m", "bench.training", *arguments, "--way", way, "--folder", folder]
                made = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                found[way].append(json.loads(made.stdout.splitlines()[-1]))
                print(f"turn {turn + 1}, {way}: {found[way][-1]['codes_per_s']:,.0f} codes/s", file=sys.stderr)
    print(f"{'':<10} {'codes/s':>10} {'real':>7} {'of padded':>20} {'of grouped':>20} {'MFU':>6}")
    for way in ways:
        values = {key: median(made[key] for made in found[way]) for key in found[way][0]}
        mfu = f"{values['mfu']:.0%}" if "mfu" in values else ""
        row = f"{way:<10} {values['codes_per_s']:>10,.0f} {values['real']:>7.1%}"
        print(f"{row} {_ratio(found, way, 'padded'):>20} {_ratio(found, way, 'grouped'):>20} {mfu:>6}".rstrip())
    from slm.training.checkpoint import FIRST_AFTER_S, TIMES_ITS_COST

    for way in ways[2:]:
        save_s, step_s = (median(made[key] for made in found[way]) for key in ("save_s", "step_s"))
        every_s = max(FIRST_AFTER_S, TIMES_ITS_COST * save_s)
        share = save_s / (save_s + every_s)
        print(
            f"{way}: a step takes {step_s:.3f} s, a save {save_s:.2f} s: {share:.2%} of the time every {every_s:.0f} s"
        )


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.training", description="Speed of training.")
    parser.add_argument("--steps", type=int, default=10, help="of train_lm.py in each turn; the Trainer takes twice")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--body", choices=BODIES, default="small", help="8 M, or Qwen2.5-0.5B's 358 M")
    parser.add_argument("--row-length", type=int, default=512)
    parser.add_argument("--rows", type=int, default=8, help="rows, or documents, in a batch")
    parser.add_argument("--threads", type=int, default=1, help="threads of a CPU")
    parser.add_argument("--compile", action="store_true", dest="compiled", help="also measure train_lm.py compiled")
    parser.add_argument("--liger", action="store_true", help="also measure train_lm.py with Liger's kernels")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _ratio(found: dict[str, list[dict[str, float]]], way: str, other: str) -> str:
    pairs = zip(found[way], found[other], strict=True)
    ratios = [a["codes_per_s"] / b["codes_per_s"] for a, b in pairs]
    return "" if way == other else f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def clock_of(options: argparse.Namespace) -> Callable[[], float]:
    import torch

    return time.process_time if options.threads == 1 and not torch.cuda.is_available() else time.perf_counter


def write_corpus(path: Path, clips: int = 4000) -> None:
    import numpy as np
    import pyarrow as pa

    from slm.corpus.shards import codes_array, write_table
    from slm.files import write_json
    from slm.types import TokenizerSpec

    spec, rng = (
        TokenizerSpec("synthetic", "synthetic", 16_000, 16_000 // UNITS_PER_S, (UNITS,)),
        np.random.default_rng(0),
    )
    lengths = (rng.lognormal(np.log(7), 0.7, clips).clip(2, 20) * UNITS_PER_S).astype(int)
    samples = lengths * spec.hop_samples
    columns = {
        "id": pa.array([f"{i:05d}" for i in range(clips)]),
        "codes": codes_array(rng.integers(0, UNITS, (lengths.sum(), 1), np.uint16), lengths),
        "num_samples": pa.array(samples),
        "duration_s": pa.array((samples / spec.sample_rate_hz).astype(np.float32)),
    }
    path.mkdir()
    write_table(path / "data-00000.arrow", pa.table(columns), {}, spec)
    write_json(path / "state.json", {"_data_files": [{"filename": "data-00000.arrow"}]})
    write_json(path / "tokenizer.json", spec.to_dict())


def run_trainer(options: argparse.Namespace) -> dict[str, float]:
    """`padded` and `grouped`."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from slm.model.backbone import build_causal_lm
    from slm.patterns import PATTERNS

    pattern = PATTERNS.create("flat", codebook_sizes=(UNITS,))
    model = build_causal_lm(BODIES[options.body], pattern, seed=0)
    documents = _documents(Path(options.folder) / "corpus", pattern, options.row_length)
    seen: list[tuple[int, int]] = []  # codes and positions of each batch, in order
    times, clock = list[float](), clock_of(options)

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        ids = torch.nn.utils.rnn.pad_sequence([row["input_ids"] for row in rows], batch_first=True)
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        seen.append((int((lengths - 2).sum()), ids.numel()))
        return {"input_ids": ids, "attention_mask": mask.long(), "labels": ids.masked_fill(~mask, -100)}

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(clock())
            control.should_training_stop = len(times) >= 2 * options.steps

    class ShuffledTrainer(Trainer):
        """Its own batches in random order: grouped ones come longest first, and only few are taken here."""

        def _get_train_sampler(self, *_: Any) -> Any:
            order = torch.tensor(list(super()._get_train_sampler(*_)))
            whole = order[: len(order) // options.rows * options.rows].view(-1, options.rows)
            return whole[torch.randperm(len(whole))].flatten().tolist()

    cuda = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(Path(options.folder) / "trainer"), per_device_train_batch_size=options.rows, max_steps=10**6,
        train_sampling_strategy="group_by_length" if options.way == "grouped" else "random",
        learning_rate=1e-3, lr_scheduler_type="cosine", weight_decay=0.1,
        adam_beta2=0.95, max_grad_norm=1.0, optim="adamw_torch_fused", bf16=cuda, use_cpu=not cuda, report_to=[],
        save_strategy="no", logging_steps=1, disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip
    ShuffledTrainer(model, arguments, collate, documents, callbacks=[Stop()]).train()
    counted = seen[WARM_UP : len(times)]
    codes, positions = (sum(part) for part in zip(*counted, strict=True))
    return {
        "codes_per_s": codes / (times[-1] - times[WARM_UP - 1]),
        "real": (codes + 2 * options.rows * len(counted)) / positions,
    }


def _documents(corpus: Path, pattern: Any, longest: int) -> list[dict[str, Any]]:
    """Begin, codes, end of each document, in memory: reading rows is not what is measured. All fit a row."""
    import numpy as np
    import torch

    from slm.data.store import CodeStore

    store = CodeStore(corpus)
    rows = [pattern.apply(np.asarray(store.codes(i)[: longest - 2])).steps[:, 0] for i in range(len(store))]
    return [{"input_ids": torch.from_numpy(row)} for row in rows]


def run_ours(options: argparse.Namespace) -> dict[str, float]:
    """`packed`, `compiled` and `liger`: the command's own main, looked at when it logs and saves."""
    import train_lm
    from slm.training.checkpoint import Checkpoints
    from slm.training.config import ModelConfig, OptimizerConfig, TrainConfig
    from slm.training.metrics import MetricsLog

    clock, times, mfu, saves_s = clock_of(options), list[float](), list[float](), list[float]()
    write, save = MetricsLog.write, Checkpoints.save

    def timed_write(self: MetricsLog, step: int, values: dict[str, Any]) -> None:
        write(self, step, values)
        times.append(clock())
        mfu.append(values["mfu"])

    def timed_save(self: Checkpoints, progress: Any) -> None:
        start = time.perf_counter()
        save(self, progress)
        saves_s.append(time.perf_counter() - start)

    MetricsLog.write, Checkpoints.save = timed_write, timed_save  # type: ignore[method-assign]
    with TemporaryDirectory(dir=options.folder) as out:
        config = TrainConfig(
            data=str(Path(options.folder) / "corpus"), out=out, eval_fraction=0.0, steps=options.steps,
            model=ModelConfig(backbone=BODIES[options.body], kernels="liger" if options.way == "liger" else "torch"),
            optimizer=OptimizerConfig(lr=1e-3), row_length=options.row_length, rows_per_batch=options.rows,
            log_every=1, compile=options.compiled and options.way != "packed", trackers=[],
        )  # fmt: skip
        train_lm.main(config)
    codes, spent_s = _codes(config, range(WARM_UP, options.steps)), times[-1] - times[WARM_UP - 1]
    steps = options.steps - WARM_UP
    return {"codes_per_s": codes / spent_s, "real": codes / (steps * options.rows * options.row_length),
            "step_s": spent_s / steps, "save_s": saves_s[-1], "mfu": median(mfu[WARM_UP:])}  # fmt: skip


def _codes(config: Any, steps: range) -> int:
    from slm.training.setup import load_data, make_loader, make_pattern

    data = load_data(config)
    loader = make_loader(config, data, make_pattern(config, data), 0, 1)
    return sum(loader.codes_and_audio_s(step)[0] for step in steps)


WAYS = {"padded": run_trainer, "grouped": run_trainer, "packed": run_ours, "compiled": run_ours, "liger": run_ours}


if __name__ == "__main__":
    main(sys.argv[1:])
