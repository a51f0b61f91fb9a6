"""Networks of a configuration that may ask for layers without end, or of any width: refused before they take memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from slm.errors import UsageError
from slm.tokenizers._checkpoints import check_fit, load_strict

if TYPE_CHECKING:
    import torch

N = TypeVar("N", bound="torch.nn.Module")

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


def check_size(
    build: Callable[[], torch.nn.Module],
    state: Mapping[str, torch.Tensor],
    what: str,
    as_published: Callable[[str], str] = str,
) -> None:
    """The UsageError of `load_strict`, or of `bounded`, before the network takes memory: it is built without any."""
    import torch
    from torch.overrides import TorchFunctionMode

    class Shapes(TorchFunctionMode):
        """Leaves out the values for which torch, where there is no memory, imports its compiler: 75 MB, a second."""

        def __torch_function__(self, called: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if getattr(called, "__module__", "") == "torch.nn.init":
                return kwargs["tensor"]
            if called is torch.hann_window:
                return torch.empty(args[0])
            if called is torch.norm_except_dim:
                weight, _, dim = args
                return weight.new_empty([size if at == dim else 1 for at, size in enumerate(weight.shape)])
            return called(*args, **(kwargs or {}))

    with bounded(what), torch.device("meta"), Shapes():
        check_fit(build(), state, what, as_published)


def loaded(
    build: Callable[[], N], state: Mapping[str, torch.Tensor], what: str, as_published: Callable[[str], str] = str
) -> N:
    """The network that `build` makes, with exactly these weights; the UsageError of `check_size` where there is none
    with them."""
    check_size(build, state, what, as_published)
    network = build()
    load_strict(network, state, what)
    return network
