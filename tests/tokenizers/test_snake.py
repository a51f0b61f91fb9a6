"""Snake activations: the packages' own values to the bit, and one kernel that gives them too, where it can run."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from transformers.models.dac.modeling_dac import Snake1d

from slm.tokenizers.networks.snake import fused_snake, snake, snake_by_passes, with_own_snakes

CPU = torch.device("cpu")
KERNEL = "slm.tokenizers.networks.snake_kernel"


@pytest.fixture(autouse=True)
def _looked_for_anew() -> None:
    fused_snake.cache_clear()


def test_values_are_those_of_the_formula() -> None:
    rng = np.random.default_rng(0)
    x, frequency, scale = rng.normal(size=(2, 3, 50)), rng.uniform(0, 4, (3, 1)), rng.uniform(0, 4, (3, 1))
    made = snake(*(torch.from_numpy(a) for a in (x, frequency, scale)))
    np.testing.assert_allclose(made.numpy(), x + scale * np.sin(frequency * x) ** 2, rtol=1e-12)


def test_those_of_packages_are_replaced_by_the_same_to_the_bit() -> None:
    published = Snake1d(7)
    torch.nn.init.uniform_(published.alpha, 0, 4)
    own = with_own_snakes(torch.nn.Sequential(published))
    x = torch.randn(2, 7, 400)
    assert type(own[0]) is not Snake1d
    assert torch.equal(own(x), published(x))
    assert own.state_dict().keys() == {"0.alpha"}


@pytest.mark.parametrize("fault", ["raises", "wrong", "absent"])
def test_a_kernel_that_cannot_run_is_not_used(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    def kernel(x: torch.Tensor, frequency: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        if fault == "raises":
            raise RuntimeError("no C compiler")
        return snake_by_passes(x, frequency, scale) + 0.01

    module = ModuleType(KERNEL)
    if fault != "absent":
        module.fused_snake = kernel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, KERNEL, module)
    assert fused_snake(CPU) is None


def test_a_kernel_that_is_right_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType(KERNEL)
    module.fused_snake = lambda *given: snake_by_passes(*given)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, KERNEL, module)
    assert fused_snake(CPU) is module.fused_snake


def test_the_kernel_gives_the_same_wherever_triton_is() -> None:
    """Interpreted, in a process of its own: Triton decides when it is imported."""
    pytest.importorskip("triton")
    code = (
        "import torch\nfrom slm.tokenizers.networks.snake import fused_snake, snake_by_passes\n"
        "given = torch.randn(2, 5, 3001) * 3, torch.rand(1, 5, 1) * 4, torch.rand(1, 5, 1)\n"
        "assert (fused_snake(torch.device('cpu'))(*given) - snake_by_passes(*given)).abs().max() < 2e-6\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "TRITON_INTERPRET": "1"})
