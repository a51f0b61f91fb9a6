"""Checkpoints as their authors publish them: found in a folder or on the hub, and read without executing a pickle.

A `.pt`, `.ckpt` or `.bin` is a pickle, and unpickling runs whatever its author wrote into it. `read_tensors` takes
torch's own `weights_only=True` where that suffices. Files that also carry configurations, callbacks or optimizers are
read by an unpickler that knows tensors, arrays and plain containers; every other class becomes an `Inert` record.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache, partial
from math import inf
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from slm.errors import UsageError
from slm.files import read_json

if TYPE_CHECKING:
    import torch

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
"""Of one layer among several, in the name of a weight."""


def find_files(source: str, names: Sequence[str]) -> dict[str, Path]:
    """The files `names` of a checkpoint: a local folder, or a hub id (`owner/name`, or `owner/name/sub/folder`).

    Raises UsageError naming what is missing and how to get it.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        found = {name: folder / name for name in names}
        if missing := [name for name, path in found.items() if not path.is_file()]:
            raise UsageError(f"the folder {source} lacks {', '.join(missing)}: the checkpoint is {', '.join(names)}")
        return found
    parts = source.split("/")
    if source.startswith((".", "/", "~")) or folder.exists() or len(parts) < 2:
        raise UsageError(f"no such folder: {source} (the checkpoint is a folder with {', '.join(names)}, or a hub id)")
    from huggingface_hub import hf_hub_download

    repository, below = "/".join(parts[:2]), "".join(part + "/" for part in parts[2:])
    try:
        return {name: Path(hf_hub_download(repository, below + name)) for name in names}
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        wanted = " ".join(below + name for name in names)
        raise UsageError(
            f"cannot get {wanted} of {repository}: run `hf download {repository} {wanted}` where there is network, or "
            f"give a folder that holds {', '.join(names)} ({reason})"
        ) from error


def read_config(path: Path) -> dict[str, Any]:
    """The fields of a configuration in JSON; UsageError for what is none."""
    try:
        values = read_json(path)
    except ValueError as error:
        raise UsageError(f"{path} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} is no configuration: it holds {type(values).__name__}, not fields")
    return values


def read_tensors(path: str | Path, what: str | None = None) -> Any:
    """What a safetensors or torch file holds, on the CPU: usually nested dictionaries of tensors. `what` is its name in
    errors, where it is not its path.

    Raises UsageError for a file that is missing, broken or no checkpoint. Objects of classes other than tensors,
    arrays and containers come back as `Inert`; nothing of theirs runs.
    """
    import torch
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise UsageError(f"no such checkpoint: {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            inert = ModuleType("inert")
            vars(inert).update(Unpickler=InertUnpickler, load=lambda file, **_: InertUnpickler(file).load())
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=inert)
    except Exception as error:  # a broken pickle may end in any
        raise UsageError(f"{what or path} is no readable checkpoint: {_first_line(error)}") from error


def load_strict(
    model: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    what: str,
    assign: bool = False,
    as_published: Callable[[str], str] = str,
) -> None:
    """Load exactly these weights into the model, or raise the UsageError of `check_fit`. `assign`: the tensors
    themselves, into a model that has no memory yet (on torch's device "meta")."""
    check_fit(model, state, what, as_published)
    model.load_state_dict(dict(state), assign=assign)


def check_fit(
    model: torch.nn.Module, state: Mapping[str, torch.Tensor], what: str, as_published: Callable[[str], str] = str
) -> None:
    """One UsageError that names all in which these are not exactly the weights of the model. `as_published` gives the
    name in the file of one in the model."""
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in state.items()}
    faults = []
    for label, names in (
        ("lacks", sorted(wanted.keys() - given.keys())),
        ("has besides", sorted(given.keys() - wanted.keys())),
    ):
        if names:
            first = ", ".join(map(as_published, names[:2]))
            faults.append(f"{label} {len(names)} weights ({first}{', ...' if names[2:] else ''})")
    for name in sorted(wanted.keys() & given.keys()):
        if wanted[name] != given[name]:
            faults.append(f"has {as_published(name)} as {given[name]}, not {wanted[name]}")
            break
    if faults:
        raise UsageError(f"{what} does not fit its configuration: it {'; '.join(faults)}")


def check_shapes(checkpoint: str, report: Mapping[str, Any]) -> None:
    """UsageError for weights of other shapes than the configuration says; `report` is the loading info of transformers
    (which, left to itself, does not say in its error which they are)."""
    for name, given, wanted in sorted(report["mismatched_keys"]):
        raise UsageError(
            f"{checkpoint} does not fit its configuration: it has {name} as {tuple(given)}, not {tuple(wanted)}; get "
            "config.json and weights of one release"
        )


def check_all_used(
    model: torch.nn.Module, checkpoint: str, report: Mapping[str, Any], but: tuple[str, ...] = ()
) -> None:
    """UsageError for layers or codebooks beyond those that the configuration knows, which transformers leaves out;
    names that begin as one of `but` may be. Other weights may be of training, and are left out."""
    from torch import nn

    stacks = {name: len(module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    further = [
        name
        for name in sorted(report["unexpected_keys"])
        if not name.startswith(but)
        and any(int(at[0]) >= stacks.get(name[: at.start() - 1], inf) for at in _NUMBER.finditer(name))
    ]
    if further:
        raise UsageError(
            f"{checkpoint} does not fit its configuration, which knows fewer layers or codebooks: it has "
            f"{len(further)} weights more, such as {further[0]}; get config.json and weights of one release"
        )


def check_no_nan(model: torch.nn.Module, checkpoint: str) -> None:
    """UsageError for a damaged weight, of which all codes would be the same."""
    for name, value in model.state_dict().items():
        # Which only training uses.
        if not name.endswith("masked_spec_embed") and value.isnan().any():
            raise UsageError(f"{checkpoint} is damaged: its weight {name} holds NaN; get it anew")


def fold_weight_norm(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict in which each pair (gain, direction) of a weight norm over dimension 0 is the weight they make.

    A direction without its gain, or with one of another size (which torch does not notice), stays under its name, for
    `load_strict` to complain of.
    """
    import torch

    pairs = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))
    folded = {}
    for name, value in state.items():
        for gain, direction in pairs:
            stem = name.removesuffix(direction)
            fits = value.ndim > 0 and stem + gain in state and state[stem + gain].numel() == len(value)
            if name.endswith("." + direction) and fits:
                folded[stem + "weight"] = torch._weight_norm(value, state[stem + gain], 0)
                break
        else:
            if not name.endswith(tuple("." + gain for gain, _ in pairs)):
                folded[name] = value
    return folded


def fold_in_place(model: torch.nn.Module) -> None:
    """Give layers under a weight norm the weight that it makes of theirs at each call: nothing is then computed anew
    for each clip, and the model can be pickled. Fingerprints are of the weights as published, and come before."""
    from torch.nn.utils import parametrize

    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
            module.weight.requires_grad_(False)
            module._load_state_dict_pre_hooks.clear()  # PyTorch's, for older weight norms, which cannot be pickled


def with_weight_norm(model: torch.nn.Module, without: Collection[torch.nn.Module] = ()) -> dict[str, torch.Tensor]:
    """The inverse: weights as published with a weight norm in all convolutions and linear layers, but for some."""
    from torch import nn

    state = model.state_dict()
    for path, module in model.named_modules():
        if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d, nn.Linear)) and module not in without:
            weight = state.pop(f"{path}.weight")
            gain = weight.flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.ndim - 1))
            state |= {f"{path}.weight_g": gain, f"{path}.weight_v": weight}
    return dict(state)


class Inert:
    """An object out of a pickle whose class was not loaded: its name, and what its class would have been given."""

    name = ""

    def __init__(self, *args: Any, **kwargs: Any):
        self.args, self.kwargs, self.state = args, kwargs, None
        self.items: list[Any] = []

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def append(self, value: Any) -> None:
        self.items.append(value)

    def extend(self, values: Iterable[Any]) -> None:
        self.items.extend(values)

    def __call__(self, *args: Any, **kwargs: Any) -> Inert:
        return self

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<{self.name}, not loaded>"


class InertUnpickler(pickle.Unpickler):
    """Unpickles tensors, arrays and plain containers; all else becomes `Inert`."""

    def find_class(self, module: str, name: str) -> Any:
        known = _known_classes()
        if (module, name) in known:
            found = known[module, name]
            # A pickle may set attributes of what it was given, and a function of torch's would keep them: a new one.
            return partial(found) if isinstance(found, FunctionType) else found
        return type("Inert", (Inert,), {"name": f"{module}.{name}"})


@cache
def _known_classes() -> dict[tuple[str, str], Any]:
    """What may be built: nothing here has an effect beside its value."""
    import numpy as np
    import torch

    reconstruct: Any = np.empty(0).__reduce__()[0]
    scalar: Any = np.float64(0).__reduce__()[0]
    known: dict[tuple[str, str], Any] = {("collections", "OrderedDict"): OrderedDict, ("_codecs", "encode"): _encode}
    for plain in (set, frozenset, complex, bytearray, slice, list, dict, tuple, int, float, bool, str, bytes):
        known["builtins", plain.__name__] = known["__builtin__", plain.__name__] = plain
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        known[core, "_reconstruct"], known[core, "scalar"] = reconstruct, scalar
    for numeric in ("numpy.core.numeric", "numpy._core.numeric"):
        known[numeric, "_frombuffer"] = np.empty(1).__reduce_ex__(5)[0]
    known["numpy", "ndarray"], known["numpy", "dtype"] = np.ndarray, np.dtype
    for rebuild in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"):
        known["torch._utils", rebuild] = getattr(torch._utils, rebuild)
    known["torch", "Size"] = torch.Size
    for name in dir(torch):  # its storages, which are classes in Python, `torch.load` names by records of its own
        if isinstance(getattr(torch, name), torch.dtype):
            known["torch", name] = getattr(torch, name)
    return known


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Bytes as old pickles hold them."""
    return text.encode("latin1" if encoding != "utf-8" else encoding)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
