"""Devices by name: what is there is taken, what is not is wrong use."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from slm.devices import choose_device, exact_float32, in_float64, sent
from slm.errors import UsageError


def test_a_device_that_is_there_is_taken_and_auto_finds_one() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["foo", "", "cpu:x", "meta:", f"cuda:{torch.cuda.device_count()}"])
def test_a_device_that_is_not_there_is_wrong_use(name: str) -> None:
    with pytest.raises(UsageError, match=f"--device {name} cannot be used: .+; give auto or cpu"):
        choose_device(name)


def test_auto_takes_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == "cuda"


def test_float32_is_itself_within_and_as_before_after_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["high"]
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: asked[-1])
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)

    def fails() -> None:
        with exact_float32():
            assert asked[-1] == "highest"
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert asked == ["high", "highest", "high"]


class Host:
    """A tensor of the host that tells how it was moved."""

    def __init__(self, pinned: bool = False):
        self.pinned = pinned

    def pin_memory(self) -> Host:
        return Host(pinned=True)

    def to(self, device: torch.device, non_blocking: bool = False) -> tuple[str, bool, bool]:
        return str(device), self.pinned, non_blocking


def test_what_is_sent_to_a_gpu_waits_for_nothing() -> None:
    """A copy takes its turn on the device only from pinned memory, and only where it may."""
    tensor: Any = Host()
    assert sent(tensor, torch.device("cuda", 1)) == ("cuda:1", True, True)
    assert sent(tensor, torch.device("cpu")) == ("cpu", False, False)


def test_what_has_no_float64_leaves_sums_to_the_host() -> None:
    class Apple:
        device = torch.device("mps")

        def cpu(self) -> torch.Tensor:
            return torch.full((2,), 0.1)

        def double(self) -> torch.Tensor:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the framework has none.")

    apple: Any = Apple()
    assert in_float64(apple).dtype == torch.float64
    assert in_float64(torch.ones(2, device="meta")).device.type == "meta"  # any other keeps them
