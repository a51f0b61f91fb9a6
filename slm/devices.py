"""Where models run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from slm.errors import UsageError

if TYPE_CHECKING:
    import torch


def choose_device(name: str) -> str:
    """The device `name` (cpu, cuda, cuda:1, mps, ...), or for `auto` cuda where there is one, else cpu.

    Raises UsageError for a name that is no device, and for a device that this machine does not have.
    """
    if name == "cpu":
        return name  # without torch, which not every tokenizer needs
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=torch.device(name))
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        # No such type, a PyTorch without CUDA, no driver, fewer GPUs than that: all in PyTorch's own words.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0].rstrip(".")
        raise UsageError(f"--device {name} cannot be used: {reason}; give auto or cpu") from None
    return name


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host on a device. A plain copy to a GPU would wait until all that was given to it is done; from
    pinned memory it takes its turn, and the host goes on."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def in_float64(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor in float64: on its own device, or on the host where the device has no such numbers (Apple's GPUs, which
    training takes by itself where there is one)."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


@contextmanager
def exact_float32() -> Iterator[None]:
    """Within, matrix products in float32 are that, whatever the program around asked for: no TF32 on a GPU, no bfloat16
    on a CPU."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def available_cores() -> int:
    """Cores that this process may use: a job of a cluster has few of its machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
