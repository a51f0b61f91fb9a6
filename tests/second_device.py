"""A GPU that is none: its tensors call themselves CUDA's, compute on the CPU, and refuse to meet tensors of the CPU.

What a network forgets on the CPU (an index, a mask, a table), reads back as if it lay there, or only does where a
tensor `is_cuda`, is thus found by a test on any machine. In inference its numbers are those of the CPU, to the bit. It
has no streams and no kernels of its own: speed, memory and other precisions want a real one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda", 0)
_MAY_MEET = {"aten::copy_", "aten::_to_copy", "aten::_has_compatible_shallow_copy_type"}
"""What takes tensors of the CPU beside those of a GPU there too."""
_INDEXING = {"aten::index.Tensor", "aten::index_put_"}
"""What takes indices of the CPU, its second argument, but no table and no values."""


class ThereTensor(torch.Tensor):
    """A tensor of the second device: `here` holds its values. (To PyTorch it is one of `meta`, the one device beside
    the CPU that every build of it knows.)"""

    here: torch.Tensor
    device = property(lambda self: DEVICE)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> ThereTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            layout=here.layout,
            device="meta",
        )
        made.here = here
        return made  # type: ignore[no-any-return]

    def __repr__(self, **_: Any) -> str:
        return f"ThereTensor({self.here})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.here.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), func.name()
        there = [x for x in tree_leaves((args, kwargs)) if isinstance(x, ThereTensor)]
        for x in tree_leaves((args[:1], args[2:], kwargs) if name in _INDEXING else (args, kwargs)):
            if isinstance(x, torch.Generator):
                raise RuntimeError(f"{name}: a generator of the CPU draws none of the GPU")
            if not isinstance(x, torch.Tensor) or isinstance(x, ThereTensor):
                continue
            if x.is_meta:
                raise NotImplementedError(f"{name}: a tensor that PyTorch made by itself has no values here")
            if x.ndim and name not in _MAY_MEET:
                raise RuntimeError(f"{name}: a tensor of the CPU, {tuple(x.shape)}, among those of the GPU")
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        made = func(*tree_map(_here, args), **tree_map(_here, kwargs))
        if name == "aten::copy_":
            return args[0]
        known = {id(x.here): x for x in there}

        def wrapped(x: Any) -> Any:
            if not isinstance(x, torch.Tensor):
                return x
            if id(x) in known:  # changed in place
                return known[id(x)]
            # A view of a tensor that was made outside of inference mode must not be of it either.
            with nullcontext() if any(t.is_inference() for t in there) else torch.inference_mode(False):
                return ThereTensor(x)

        return tree_map(wrapped, made)


class SecondDevice(TorchFunctionMode):
    """Within, `cuda` is that device: tensors are made there, sent there and brought back."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        first = args[0] if args else None
        if func in (torch.Tensor.to, torch.Tensor.cpu):
            return _sent(func, *args, **kwargs)
        if func is torch.Tensor.pin_memory:
            return first.clone()
        if isinstance(first, ThereTensor):
            if func is torch.Tensor.numpy:
                raise TypeError("a tensor of the GPU cannot become an array: copy it to the CPU first")
            if func in (torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.data_ptr, torch.Tensor.untyped_storage):
                return func(first.here)
            if func is torch.Tensor.__getitem__ and isinstance(args[1], list):
                return first[torch.tensor(args[1])]
            if func is torch.Tensor.__setitem__ and not isinstance(args[2], torch.Tensor):
                return func(first.here, tree_map(_here, args[1]), args[2])
        if func is functional.scaled_dot_product_attention and not torch.is_inference_mode_enabled():
            with self:
                return _attended(*args, **kwargs)
        if func is torch.where and isinstance(first, ThereTensor):
            args = [first, *(ThereTensor(torch.tensor(a)) if isinstance(a, (int, float)) else a for a in args[1:])]
        kwargs.pop("pin_memory", None)
        if _is_there(kwargs.get("device")):
            if kwargs.get("generator") is not None:
                raise RuntimeError(f"{func.__name__}: a generator of the CPU draws none of the GPU")
            return ThereTensor(func(*args, **{**kwargs, "device": torch.device("cpu")}))
        return func(*args, **kwargs)


def _here(x: Any) -> Any:
    return x.here if isinstance(x, ThereTensor) else x


def _is_there(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _sent(func: Callable[..., Any], x: torch.Tensor, *rest: Any, **kwargs: Any) -> torch.Tensor:
    """`Tensor.to` and `Tensor.cpu` where one side is the second device."""
    given = [part for r in rest for part in ((r.device, r.dtype) if isinstance(r, torch.Tensor) else (r,))]
    given += [kwargs.get("device"), kwargs.get("dtype")]
    dtype = next((g for g in given if isinstance(g, torch.dtype)), x.dtype)
    device = next((g for g in given if isinstance(g, (torch.device, str)) and g), x.device)
    if func is torch.Tensor.cpu:
        device = "cpu"
    from_there, to_there = isinstance(x, ThereTensor), _is_there(device)
    if from_there and to_there:
        return x.to(dtype) if x.dtype != dtype else x.clone() if kwargs.get("copy") else x
    if from_there:
        return x.here.detach().to(dtype).clone()  # type: ignore[attr-defined]
    return ThereTensor(x.detach().to(dtype).clone()) if to_there else func(x, *rest, **kwargs)


def _attended(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """What PyTorch would put together of tensors that it makes by itself."""
    assert dropout_p == 0
    if enable_gqa:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, float("-inf")) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(dim=-1) @ v


class _Event:
    def record(self) -> None: ...

    def synchronize(self) -> None: ...


class _Generator:
    def manual_seed(self, seed: int) -> None:
        torch.default_generator.manual_seed(seed)


@contextmanager
def second_device() -> Iterator[None]:
    """What of `torch.cuda` the code of the repository asks for is there, too; a CUDA graph is what it would capture."""
    with pytest.MonkeyPatch.context() as patch, SecondDevice():
        patch.setattr("torch.__future__._overwrite_module_params_on_conversion", True)
        patch.setattr("torch.cuda.device", lambda device: nullcontext())
        patch.setattr("torch.cuda.Event", _Event)
        patch.setattr("torch.backends.cudnn.is_acceptable", lambda tensor: False)
        patch.setattr("torch.cuda.default_generators", (_Generator(),))
        patch.setattr("torch.cuda.get_rng_state", lambda device: torch.default_generator.get_state())
        patch.setattr("torch.cuda.set_rng_state", lambda state, device: torch.default_generator.set_state(state))
        patch.setattr("slm.tokenizers.networks.packed.captured", lambda run, like: run)
        yield


@contextmanager
def training_on_it() -> Iterator[None]:
    """The same for `train_lm.main`: Accelerate takes it, and parameters that go there stay those of the optimizer."""
    with second_device(), pytest.MonkeyPatch.context() as patch:
        patch.delenv("ACCELERATE_USE_CPU", raising=False)
        patch.setattr("accelerate.state.PartialState.default_device", DEVICE)
        patch.setattr("torch.__future__._swap_module_params_on_conversion", True)
        patch.setattr("torch.accelerator.synchronize", lambda device: None)
        patch.setattr("torch.cuda.max_memory_allocated", lambda device: 0)
        patch.setattr("slm.training.throughput.matmul_flops_per_s", lambda device, dtype: 1e12)
        yield
