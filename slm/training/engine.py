"""One process, DDP, FSDP2 or DeepSpeed ZeRO: what differs between them, so that the loop need not know."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs, ProjectConfiguration
from packaging.version import Version
from torch import nn

from slm import run_lock
from slm.errors import StoppedError, UsageError
from slm.training.config import TrainConfig
from slm.training.metrics import usable_trackers
from slm.training.setup import computes_in_bf16

_PLAIN = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
# Up to 0.18.2, ZeRO 1 and 2 learn from other gradients than one process does, in silence; 0.18.9 stops at torch 2.13.
_DEEPSPEED = "0.19.1"


def make_accelerator(config: TrainConfig) -> Accelerator:
    """As `accelerate launch` (or torchrun and ACCELERATE_* variables) asked for it; UsageError where it cannot be."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    # Which says at each checkpoint that tied weights are written once, and asks whether that is well: it is.
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)
    precision = "bf16" if computes_in_bf16(config.precision) else "no"
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" and not torch.cuda.is_available():
        _allow_fsdp_on_cpu()
    # DeepSpeed's processes on CPU find each other over gloo; Accelerate knows that of the other strategies by itself.
    group = [InitProcessGroupKwargs(backend="gloo")] if os.environ.get("DS_ACCELERATOR") == "cpu" else []
    project = ProjectConfiguration(project_dir=config.out, logging_dir=str(Path(config.out, "tensorboard")))
    try:
        accelerator = Accelerator(mixed_precision=precision, gradient_accumulation_steps=config.accumulation,
                                  log_with=usable_trackers(config.trackers) or None, project_config=project,
                                  kwargs_handlers=group)  # fmt: skip
    except ImportError as error:
        raise UsageError(f"{error}; DeepSpeed comes with: pip install 'slm-toolkit[deepspeed]'") from error
    if accelerator.num_processes != int(os.environ.get("WORLD_SIZE", 1)):
        raise UsageError("several processes were started, but each believes itself alone: "
                         "on CPU set ACCELERATE_USE_CPU=true; on GPUs check that they are visible")  # fmt: skip
    kind = accelerator.distributed_type
    if kind == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise UsageError("FSDP version 1 is not supported: set fsdp_version: 2 (configs/accelerate/fsdp2.yaml)")
    if kind not in (*_PLAIN, DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise UsageError(f"train_lm.py runs on one process, DDP, FSDP2 or DeepSpeed, not on {kind.value}")
    stage = zero_stage(accelerator)
    if config.ema_decay and stage == 3:
        raise UsageError("ema_decay needs whole parameters: take FSDP2 or ZeRO 1 or 2 instead of ZeRO 3")
    if stage is not None:
        refuse_old_deepspeed(version("deepspeed"))
        _fill_deepspeed(accelerator, config)
    return accelerator


def refuse_old_deepspeed(found: str) -> None:
    if Version(found) < Version(_DEEPSPEED):
        raise UsageError(f"DeepSpeed {found} may add up gradients wrongly: pip install 'deepspeed>={_DEEPSPEED}'")


def _allow_fsdp_on_cpu() -> None:
    """Accelerate divides weights among GPUs only, though PyTorch can among CPU processes: a way to try it out."""
    from accelerate import PartialState

    if PartialState(cpu=True).distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def told_by_main(accelerator: Accelerator, value: Any) -> Any:
    """`value` as the main process has it, on all."""
    told = [value]
    if accelerator.num_processes > 1:
        torch.distributed.broadcast_object_list(told, src=0)
    return told[0]


@contextmanager
def alone_in(out: Path, accelerator: Accelerator) -> Iterator[None]:
    """The main process holds the folder for its life; UsageError on all processes where another has it."""
    with ExitStack() as stack:
        refusal = None
        if accelerator.is_main_process:
            try:
                stack.enter_context(run_lock.held(out))
            except UsageError as error:
                refusal = str(error)
        if (refusal := told_by_main(accelerator, refusal)) is not None:
            raise UsageError(refusal)
        yield


@contextmanager
def told_of_others() -> Iterator[None]:
    """StoppedError where this process waits for one that has ended, on a full disk, say: that one tells why."""
    try:
        yield
    except RuntimeError as error:
        if "/gloo/transport/" not in str(error):
            raise
        raise StoppedError("another process of this run has ended: what it says tells why") from error


def strategy(accelerator: Accelerator) -> str:
    """`plain` (one process or DDP: the same files), `fsdp2`, `zero1`, ..: what a checkpoint's state was written by."""
    stage = zero_stage(accelerator)
    if stage is not None:
        return f"zero{stage}"
    return "fsdp2" if accelerator.distributed_type == DistributedType.FSDP else "plain"


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether a forward pass needs all processes."""
    return strategy(accelerator) in ("fsdp2", "zero3")


def zero_stage(accelerator: Accelerator) -> int | None:
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return None
    return int(accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]["stage"])


def _fill_deepspeed(accelerator: Accelerator, config: TrainConfig) -> None:
    """DeepSpeed counts batches and clips by itself, from its own configuration: tell it what ours says."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    settings = accelerator.state.deepspeed_plugin.deepspeed_config
    if settings["zero_optimization"].get("offload_optimizer", {}).get("device") == "none":
        settings["zero_optimization"].pop("offload_optimizer")
    settings.update(
        train_micro_batch_size_per_gpu=config.rows_per_batch,
        gradient_accumulation_steps=config.accumulation,
        train_batch_size=config.rows_per_batch * config.accumulation * accelerator.num_processes,
        gradient_clipping=config.optimizer.clip_norm,
    )
    settings["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True
    settings.setdefault("zero_force_ds_cpu_optimizer", False)
    # Or transformers would divide the weights of stage 3 before they are checked.
    unset_hf_deepspeed_config()


def optimizer_step(accelerator: Accelerator, model: nn.Module, optimizer: Any, clip_norm: float) -> Any:
    """Clip and step where a step is due (`accelerator.accumulate` knows); the norm of the gradients, or None."""
    norm = None
    if accelerator.sync_gradients:
        norm = accelerator.clip_grad_norm_(model.parameters(), clip_norm or float("inf"))
    optimizer.step()
    optimizer.zero_grad()
    return norm


def full_weights(accelerator: Accelerator, model: nn.Module) -> dict[str, torch.Tensor]:
    """The whole state dict, by the names of the unwrapped model, on the main process (elsewhere it may be empty)."""
    weights = accelerator.get_state_dict(model)
    return {name.removeprefix("_orig_mod."): value for name, value in (weights or {}).items()}
