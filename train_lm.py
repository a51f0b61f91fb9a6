"""Train a decoder-only language model on audio codes.

    python train_lm.py --config configs/train/NAME.yaml --data CORPUS --out RUN        (several GPUs: accelerate launch)

The whole loop is below; what it is made of is in slm/training, slm/data and slm/model. A run stopped in any way goes
on from its last whole checkpoint when the same command is given again, with the losses it would have had.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm.config import ending_at_once, run_command
from slm.errors import StoppedError
from slm.training import watch
from slm.training.budget import Progress, duration_text
from slm.training.config import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator


def main(config: TrainConfig) -> None:
    """Train, alone in the run's folder, and ready to leave when a signal asks for it."""
    with watch.LeaveSignal() as leave:
        from slm.training.engine import alone_in, make_accelerator, told_of_others
        from slm.training.estimate import dry_run

        if config.dry_run:
            return print(dry_run(config)) if os.environ.get("RANK", "0") == "0" else None
        accelerator = make_accelerator(config)
        with told_of_others(), alone_in(Path(config.out), accelerator):
            train(config, accelerator, leave)


def train(config: TrainConfig, accelerator: Accelerator, leave: watch.LeaveSignal) -> None:
    """Make everything, then train: one function, so that the order of things is seen at once."""
    import torch
    from accelerate.utils import set_seed

    from slm.devices import sent
    from slm.model.flops import flops_per_step_position
    from slm.samples import Sampler
    from slm.training.checkpoint import Checkpoints, remove_left_overs, start_run
    from slm.training.ema import MovingAverage
    from slm.training.engine import optimizer_step, told_by_main
    from slm.training.estimate import describe_run, step_spends, warm_up_warnings
    from slm.training.evaluation import evaluate, to_device
    from slm.training.metrics import MetricsLog, nats_per_code
    from slm.training.optimizer import learning_rate, make_optimizer
    from slm.training.setup import load_data, make_loader, make_model, make_pattern, make_record, run_identity
    from slm.training.throughput import Clock, Throughput, matmul_flops_per_s

    device, out = accelerator.device, Path(config.out)
    say = print if accelerator.is_main_process else lambda text: None  # once, not on each machine
    data = load_data(config)
    pattern = make_pattern(config, data)
    model = make_model(config, pattern)
    loader = make_loader(config, data, pattern, accelerator.process_index, accelerator.num_processes)
    record = make_record(config, data, pattern, loader.rows_per_step)
    set_seed(config.seed, device_specific=True)
    if accelerator.is_main_process:
        remove_left_overs(out)
    with accelerator.main_process_first():
        start_run(out, run_identity(config, data, loader.rows_per_step, accelerator.mixed_precision))
    division = f"{accelerator.num_processes} x {config.accumulation} x {config.rows_per_batch}"  # as a dry run says it
    say(f"{describe_run(config, data, model)}; {division} rows a step")

    flops_per_step = flops_per_step_position(model, config.row_length) * config.row_length * loader.rows_per_step
    for warning in warm_up_warnings(config, step_spends(loader, flops_per_step)):
        say(warning)
    if config.compile:
        model.compile()
    model, optimizer = accelerator.prepare(model, make_optimizer(model, config.optimizer))
    inner = accelerator.unwrap_model(model)
    average = MovingAverage(model, config.ema_decay) if config.ema_decay else None
    averaged = nullcontext if average is None else average.applied
    checkpoints = Checkpoints(accelerator, out, model, record, data.statistics, average, config.keep_checkpoints)
    progress = checkpoints.load_latest()
    if progress.steps:
        say(f"resuming {out} after step {progress.steps}")
    budget = config.run_budget()
    finished = budget.is_spent(progress)
    if finished and (out / "final" / "slm.json").is_file() and any((out / "final").glob("model*.safetensors")):
        accelerator.end_training()
        return say(f"{out} is finished: nothing to do")
    metrics = MetricsLog(out, progress.steps, accelerator, config)
    checkpoints.figures = metrics.last_evaluation()
    sampler = None
    if config.samples.every and data.evaluation:
        sampler = Sampler(accelerator, out, model, record, data.evaluation[0], data.statistics, config.samples)
    clock = Clock(progress.elapsed_s)
    trouble = watch.Trouble(config.divergence_nats, told_by_main(accelerator, metrics.losses()))
    ceiling = matmul_flops_per_s(device, torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32)
    throughput = Throughput(device, ceiling * accelerator.num_processes, budget, progress)
    window = torch.zeros(2, pattern.num_codebooks + 1, device=device)
    scale = accelerator.num_processes * config.accumulation  # undoes the mean over processes and micro-batches

    model.train()
    leave.in_steps = True  # from here on all processes leave together
    for made in () if finished else loader.stream(progress.steps):
        batches = [to_device(batch, device) for batch in made]
        # One denominator for the whole step, over all micro-batches of all processes; one clock; and one will.
        weight = torch.stack([inner.target_weight(ids, mask) for ids, mask, *_ in batches]).sum()
        told = sent(torch.tensor([clock.read(), float(leave.asked), float(checkpoints.is_due())]), device)
        weight, elapsed_s, leaving, due = accelerator.reduce(torch.cat([weight[None], told]), "sum").unbind()
        weight = weight.clamp(min=1e-9)  # a step in which nothing weighs anything costs 0, not NaN
        step, before = progress.steps, progress
        # All processes must agree on the time where it decides; else nothing waits for the device to tell it.
        spent_s = float(elapsed_s) / accelerator.num_processes if budget.is_time else clock.read()
        progress = before.after_step(
            *loader.codes_and_audio_s(step), loader.epoch_at(step + 1), flops_per_step, spent_s
        )
        lr = learning_rate(step, budget.fraction(progress), before.warm_at, config.optimizer)
        if step + 1 == config.optimizer.warmup_steps:
            progress = progress.warm(budget.fraction(progress))
        for group in optimizer.param_groups:
            group["lr"] = lr
        for batch in batches:
            with accelerator.accumulate(model):
                sums = model(*batch)
                accelerator.backward(sums.weighted_nll * (scale / weight))
                norm = optimizer_step(accelerator, model, optimizer, config.optimizer.clip_norm)
            window += torch.stack([sums.nlls, sums.counts.float()])
        if average is not None:
            average.update()

        at, last = step + 1, budget.is_spent(progress)
        logs = at % config.log_every == 0
        leaves = logs and bool(leaving)
        if logs or last:
            nll, count = accelerator.reduce(window, "sum").tolist()
            window.zero_()
            values = {**nats_per_code("train", nll, count), "lr": lr, "grad_norm": float(norm or 0.0),
                      "epoch": progress.epochs, **throughput.read(progress)}  # fmt: skip
            metrics.write(at, values)
            say(progress_line(progress, budget.fraction(progress), values))
            if reason := trouble.see(values):
                if accelerator.is_main_process:
                    watch.write_report(out, at, reason, metrics.lines)
                raise StoppedError(
                    f"{reason} at step {at}; what was saved before is kept, and {out / watch.REPORT} says more. "
                    "Lower optimizer.lr, or lengthen the warm-up, in a new --out"
                )
        if data.evaluation and (at % config.eval_every == 0 or last):
            with throughput.aside(), averaged():
                values = evaluate(accelerator, model, data.evaluation, pattern, config)
            metrics.write(at, values)
            checkpoints.figures = values
            say(f"  held out: {values['eval_nats_per_code']:.4f} nats per code, "
                f"{values['eval_bits_per_s']:.2f} bits per s of audio"
                f"{' (durations not counted)' if config.dedup else ''}")  # fmt: skip
        if sampler is not None and (at % config.samples.every == 0 or last):
            with throughput.aside(), averaged():
                sampler.write(at)
        saves = logs and bool(due) if config.save_every is None else at % config.save_every == 0
        if saves or last or leaves:
            with throughput.aside():
                checkpoints.save(progress)
        if leaves and not last:
            say(f"asked to leave after step {at}: the same command goes on from here")
            metrics.close()
            sys.exit(watch.LEFT)
        if last:
            break

    checkpoints.save_final()
    say(f"model: {out / 'final'}")
    metrics.close()


def progress_line(progress: Progress, fraction: float, values: dict[str, Any]) -> str:
    return (
        f"step {progress.steps} ({fraction:.1%})  {values['train_nats_per_code']:.4f} nats per code  "
        f"lr {values['lr']:.2e}  epoch {progress.epochs:.2f}  {values['codes_per_s']:,.0f} codes/s  "
        f"{values['times_real_time']:,.0f}x real time  MFU {values['mfu']:.0%}  {values['memory_gb']:.1f} GB  "
        f"{duration_text(values['eta_s'])} left"
    )


if __name__ == "__main__":
    with ending_at_once(), watch.LeaveSignal():  # which counts while the options are read, too
        run_command(main, TrainConfig)
