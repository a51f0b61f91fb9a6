"""Train a decoder-only language model on audio codes.

    python train_lm.py --config configs/train/NAME.yaml --data CORPUS --out RUN        (several GPUs: accelerate launch)

The whole loop is below; what it is made of is in slm/training, slm/data and slm/model. A run stopped in any way goes
on from its last whole checkpoint when the same command is given again, with the losses it would have had.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm.config import run_command
from slm.errors import UsageError
from slm.training.config import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

    from slm.model.acoustic_lm import AcousticLM
    from slm.training.setup import TrainingData


def main(config: TrainConfig) -> None:
    import torch
    from accelerate.utils import set_seed

    from slm.data.loader import TrainLoader
    from slm.training.checkpoint import load_latest, remove_left_overs, save_checkpoint, save_final, start_run
    from slm.training.evaluation import evaluate, to_device
    from slm.training.metrics import MetricsLog, Throughput, nats_per_code
    from slm.training.optimizer import learning_rate, make_optimizer
    from slm.training.setup import load_data, make_model, make_pattern, make_record, run_identity

    accelerator = make_accelerator(config)
    say = accelerator.print
    out = Path(config.out)
    data = load_data(config)
    store = data.train.store
    pattern = make_pattern(config, store)
    model = make_model(config, pattern)
    record = make_record(config, store, pattern)
    loader = TrainLoader(data.train, pattern, config.row_length, config.rows_per_batch, config.accumulation,
                         accelerator.process_index, accelerator.num_processes, config.seed)  # fmt: skip
    set_seed(config.seed, device_specific=True)
    if accelerator.is_main_process:
        remove_left_overs(out)
    with accelerator.main_process_first():
        start_run(out, run_identity(config, data, loader.rows_per_step, accelerator.mixed_precision))
    say(describe_run(config, data, model))

    if config.compile:
        model.compile()
    model, optimizer = accelerator.prepare(model, make_optimizer(model, config.optimizer))
    inner = accelerator.unwrap_model(model)
    done = load_latest(accelerator, out)
    if done:
        say(f"resuming {out} after step {done}")
    metrics = MetricsLog(out, done, accelerator.is_main_process)
    throughput = Throughput()
    window = torch.zeros(2, pattern.num_codebooks + 1, device=accelerator.device)
    scale = accelerator.num_processes * config.accumulation  # undoes DDP's mean and accelerate's division

    model.train()
    for step in range(done, config.steps):
        lr = learning_rate(step, config.steps, config.optimizer)
        for group in optimizer.param_groups:
            group["lr"] = lr
        batches = [to_device(batch, accelerator.device) for batch in loader.batches(step)]
        # One denominator for the whole step, over all micro-batches of all processes.
        weight = accelerator.reduce(sum(inner.target_weight(ids, mask) for ids, mask, _ in batches), "sum")
        weight = weight.clamp(min=1e-9)  # a step in which nothing weighs anything costs 0, not NaN
        for batch in batches:
            with accelerator.accumulate(model):
                sums = model(*batch)
                accelerator.backward(sums.weighted_nll * (scale / weight))
                if accelerator.sync_gradients and config.optimizer.clip_norm > 0:
                    accelerator.clip_grad_norm_(model.parameters(), config.optimizer.clip_norm)
                optimizer.step()
                optimizer.zero_grad()
            window += torch.stack([sums.nlls, sums.counts.float()])

        at = step + 1
        last = at == config.steps
        if at % config.log_every == 0 or last:
            nll, count = accelerator.reduce(window, "sum").tolist()
            window.zero_()
            throughput.add(sum(count))
            values = {**nats_per_code("train", nll, count), "lr": lr, "epoch": loader.epoch_at(at),
                      **throughput.read(data.codes_per_audio_s)}  # fmt: skip
            metrics.write(at, values)
            say(progress_line(at, config, values))
            if not math.isfinite(sum(nll)):
                sys.exit(f"error: the loss is not finite at step {at}; the last checkpoint in {out} is kept. "
                         "Lower optimizer.lr, or lengthen optimizer.warmup_steps, in a new --out")  # fmt: skip
        if data.evaluation is not None and (at % config.eval_every == 0 or last):
            values = evaluate(accelerator, model, data.evaluation, pattern, config)
            metrics.write(at, values)
            say(f"  held out: {values['eval_nats_per_code']:.4f} nats per code, "
                f"{values['eval_bits_per_s']:.2f} bits per s of audio")  # fmt: skip
        if at % config.save_every == 0 or last:
            save_checkpoint(accelerator, out, at, model, record, data.statistics, config.keep_checkpoints)

    if done == config.steps and (out / "final" / "slm.json").is_file():
        say(f"{out} is finished: nothing to do")
    else:
        save_final(accelerator, out, model, record, data.statistics)
        say(f"model: {out / 'final'}")
    metrics.close()
    accelerator.end_training()


def make_accelerator(config: TrainConfig) -> Accelerator:
    import torch
    from accelerate import Accelerator
    from accelerate.utils import DistributedType
    from transformers.utils import logging

    logging.disable_progress_bar()
    bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    precision = {"fp32": "no", "bf16": "bf16", "auto": "bf16" if bf16 else "no"}[config.precision]
    accelerator = Accelerator(mixed_precision=precision, gradient_accumulation_steps=config.accumulation)
    if accelerator.num_processes != int(os.environ.get("WORLD_SIZE", 1)):
        raise UsageError("several processes were started, but each believes itself alone: "
                         "on CPU set ACCELERATE_USE_CPU=true; on GPUs check that they are visible")  # fmt: skip
    plain = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if accelerator.distributed_type not in plain:
        raise UsageError(f"train_lm.py runs on one process or with DDP, not with {accelerator.distributed_type.value}")
    return accelerator


def describe_run(config: TrainConfig, data: TrainingData, model: AcousticLM) -> str:
    pattern = config.pattern.name + (", deduplicated" if config.dedup else "")
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    return (
        f"{data.train.store.spec.describe()}, {pattern}; "
        f"{data.train.duration_s / 3600:.3f} h in {len(data.train)} clips; {parameters:.2f} M parameters"
    )


def progress_line(step: int, config: TrainConfig, values: dict[str, Any]) -> str:
    return (
        f"step {step}/{config.steps}  {values['train_nats_per_code']:.4f} nats per code  lr {values['lr']:.2e}  "
        f"epoch {values['epoch']:.2f}  {values['codes_per_s']:,.0f} codes/s  "
        f"{values['times_real_time']:,.0f}x real time"
    )


if __name__ == "__main__":
    run_command(main, TrainConfig)
