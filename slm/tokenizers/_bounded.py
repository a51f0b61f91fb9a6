"""Networks that a configuration makes without end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from slm.errors import UsageError

_MOST_PARTS = 20_000
"""Several times those of the largest encoders."""


@contextmanager
def bounded(checkpoint: str) -> Iterator[None]:
    """Within, to build a network of more parts than any has is a UsageError: of a configuration with layers without
    end, it would go on until memory is used up."""
    from torch.nn.modules import module

    parts = iter(range(_MOST_PARTS))

    def count(*_: Any) -> None:
        if next(parts, None) is None:
            raise UsageError(
                f"{checkpoint} has a configuration of more than {_MOST_PARTS} weights and layers, which no checkpoint "
                "has: mend its counts of layers and codebooks"
            )

    hooks = (
        module.register_module_parameter_registration_hook(count),
        module.register_module_buffer_registration_hook(count),
        module.register_module_module_registration_hook(count),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
