"""Documents packed in a row are kept apart, whatever computes the attention.

sdpa, eager: a mask [B, 1, L, L]. flex_attention: the same rule as a block mask, which costs no memory in L^2.
varlen (PyTorch's own flash attention), flash_attention_2, _3: all rows laid in one, with the places where documents
begin; padding is a document of its own. by_document: the same by one causal sdpa for each document, anywhere; on a CPU
that is faster than a mask, by as much as documents are shorter than rows.
The rule is given outright because some families (OPT) do not derive it from positions, and none does for several
rows under flash attention. `check_attention` finds the families for which it is not the whole truth.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from slm.errors import UsageError, did_you_mean

BACKENDS = ("sdpa", "eager", "by_document", "varlen", "flash_attention_2", "flash_attention_3", "flex_attention")
_FLATTENED = ("by_document", "varlen", "flash_attention_2", "flash_attention_3")
_FULL_HEADS = "sdpa_full_heads"


def choose_attention(name: str, cuda: bool, compiled: bool, bf16: bool) -> str:
    """The backend that an option means. `auto`: on CUDA the fastest flash attention there is, if weights are computed
    with in bf16; on a CPU by_document, unless compiled, which it cannot be; else sdpa, or what the family has. Flex
    attention is taken by name alone: compiled for one shape, it was seen to give other values at the next (torch 2.11,
    CUDA). UsageError where one cannot run.
    """
    if name == "auto" and not cuda:  # at once: to look for flash attention takes seconds
        return "auto" if compiled else "by_document"
    installed = _flash_attention()
    if name == "auto":
        flash = [backend for backend, there in installed.items() if there and bf16]
        return flash[0] if flash else "auto"
    if name not in BACKENDS:
        raise UsageError(f"model.attention: no {name!r}{did_you_mean(name, ('auto', *BACKENDS))}")
    if name == "by_document" and compiled:
        raise UsageError("model.attention by_document cannot be compiled: take auto or sdpa, or compile false")
    if name in ("sdpa", "eager", "by_document"):
        return name
    if not cuda:
        raise UsageError(f"model.attention {name} needs a CUDA device: take auto or sdpa")
    if not installed.get(name, True):
        remedy = "pip install 'torch>=2.11'" if name == "varlen" else "pip install flash-attn"
        raise UsageError(f"model.attention {name} is not installed ({remedy}): take auto or sdpa")
    if name in installed and not bf16:
        raise UsageError(f"model.attention {name} computes in half precision: take precision bf16, or attention sdpa")
    return name


def _flash_attention() -> dict[str, bool]:
    """The kinds of flash attention, fastest first, and whether each can be imported here."""
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

    return {"flash_attention_3": is_flash_attn_3_available(), "varlen": _varlen_attention() is not None,
            "flash_attention_2": is_flash_attn_2_available()}  # fmt: skip


@cache
def _varlen_attention() -> Callable[..., Any] | None:
    """PyTorch's own flash attention over documents laid end to end, from 2.11 on: causal, with fewer heads of keys."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    names = inspect.signature(varlen_attn).parameters
    if "window_size" not in names or "scale" not in names:
        return None
    more: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in names else {}  # 2.11 asks nobody, and can
    return partial(varlen_attn, window_size=(-1, 0), **more)


def register_attention(backend: str) -> None:
    """Make a backend that is not transformers' own known to it."""
    from transformers import AttentionInterface

    if backend == "by_document":
        AttentionInterface.register(backend, by_document)
    attend = _varlen_attention() if backend == "varlen" else None
    if attend is None:
        return

    def attention(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any,
                  scaling: float | None = None, dropout: float = 0.0, cu_seq_lens_q: Tensor | None = None,
                  max_length_q: int = 0, **_: Any) -> tuple[Tensor, None]:  # fmt: skip
        """Query `[1, heads, N, D]` -> `[1, N, heads, D]`, in half precision, in which values always come: rotary
        positions may have made float32 of the others."""
        if cu_seq_lens_q is None:
            raise ValueError("varlen attention needs a family that hands on where documents begin")
        if dropout:
            raise UsageError("varlen attention has no dropout: set that of the backbone to 0, or model.attention sdpa")
        q, k, v = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
        return attend(q, k, v, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q, scale=scaling)[None], None

    AttentionInterface.register(backend, attention)


def is_flattened(backend: str) -> bool:
    """Whether this backend takes all rows as one."""
    return backend in _FLATTENED


def document_starts(positions: Tensor) -> Tensor:
    """Where documents begin in rows `[B, L]` laid end to end, and the end: int32 `[D + 1]`."""
    flat = positions.flatten()
    return F.pad((flat == 0).nonzero()[:, 0], (0, 1), value=len(flat)).to(torch.int32)


def document_attention(
    backend: str, positions: Tensor, dtype: torch.dtype, starts: Tensor | None = None
) -> dict[str, Any]:
    """The arguments by which a transformers model attends causally within each document of `positions [B, L]`, which
    restart at 0 in each. `starts`: see `document_starts`, by which they are found if they are not given."""
    if is_flattened(backend):
        starts = document_starts(positions) if starts is None else starts
        if backend != "by_document":  # which is never compiled
            torch._dynamo.maybe_mark_dynamic(starts, 0)  # as many as there are documents: compiled once for any number
        longest = positions.shape[1]  # a row is the longest that a document can be: nothing waits for the device
        return {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": longest, "max_length_k": longest}
    document = (positions == 0).cumsum(dim=1)
    if backend == "flex_attention":
        return {"attention_mask": _block_mask(document)}
    length = positions.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=positions.device).tril()
    visible = ((document[:, :, None] == document[:, None, :]) & causal)[:, None]
    if backend == "eager":
        open_mask = torch.zeros(visible.shape, dtype=dtype, device=positions.device)
        return {"attention_mask": open_mask.masked_fill(~visible, torch.finfo(dtype).min)}
    if backend != "sdpa":
        raise ValueError(f"attention backend {backend!r} takes no mask that keeps packed documents apart")
    return {"attention_mask": visible}


def _block_mask(document: Tensor) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (document[batch, query] == document[batch, key])

    rows, length = document.shape
    make = _compiled_block_mask() if document.is_cuda else create_block_mask
    return make(visible, rows, None, length, length, device=str(document.device))


@cache
def _compiled_block_mask() -> Callable[..., Any]:
    """Which never holds the mask that it makes blocks of."""
    from torch.nn.attention.flex_attention import create_block_mask

    return torch.compile(create_block_mask)


def by_document(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any,
                scaling: float | None = None, dropout: float = 0.0, cu_seq_lens_q: Tensor | None = None,
                softcap: float | None = None, **_: Any) -> tuple[Tensor, None]:  # fmt: skip
    """What flash attention computes, anywhere: causal attention within each span of `cu_seq_lens_q` of one row, without
    them within each row. Query `[B, heads, N, D]` -> `[B, N, heads, D]`. A family that does not hand the spans on lets
    documents mix. `softcap` is Gemma 2's, of scores."""
    if query.shape[2] != key.shape[2]:
        raise ValueError("by_document attention takes whole documents: none that goes on from a cache")
    lengths = [query.shape[2]] if cu_seq_lens_q is None else cu_seq_lens_q.diff().tolist()
    documents = zip(*(x.to(value.dtype).split(lengths, dim=2) for x in (query, key, value)), strict=True)
    if softcap:
        made = [_capped(q, k, v, softcap, dropout, scaling) for q, k, v in documents]
    else:
        made = [
            F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=True)
            for q, k, v in documents
        ]
    return torch.cat(made, dim=2).transpose(1, 2), None


def _capped(query: Tensor, key: Tensor, value: Tensor, cap: float, dropout: float, scale: float | None) -> Tensor:
    """Causal attention whose scores become cap tanh(scores / cap), which PyTorch's has not."""
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    scores = cap * torch.tanh(query @ key.transpose(-1, -2) * (scale or query.shape[-1] ** -0.5) / cap)
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    weights = scores.masked_fill(later, float("-inf")).softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    return F.dropout(weights, dropout) @ value


@contextmanager
def _attending_by(backend: str, body: Any) -> Iterator[None]:
    before = body.config._attn_implementation
    body.config._attn_implementation = backend
    try:
        yield
    finally:
        body.config._attn_implementation = before


@contextmanager
def whole_row_attention(body: Any) -> Iterator[None]:
    """Inside, a body attends causally over each row, without masks, whatever its backend: what is kept for a backward
    pass is as much as by flash attention within documents."""
    register_attention("by_document")
    with _attending_by("by_document", body):
        yield


@contextmanager
def reference_attention(body: Any) -> Iterator[None]:
    """Inside, a body that attends by flash or flex attention does so by equals that run on any device."""
    backend = body.config._attn_implementation
    if backend == "flex_attention":
        with torch.compiler.set_stance("force_eager"):
            yield
        return
    if not is_flattened(backend):
        yield
        return
    if backend == "varlen" and getattr(body.config, "attn_logit_softcapping", None):
        raise ValueError("it has no soft cap of scores")
    with whole_row_attention(body):
        yield


def plain_attention(body: Any) -> str:
    """What a body attends by that is loaded without further words: sdpa, but for families that have none (Gemma 2)."""
    return "sdpa" if body._supports_sdpa else "eager"


@contextmanager
def scoring_attention(body: Any) -> Iterator[None]:
    """Inside, a body that attends by documents does so as it will when it is loaded to score. Documents are attended to
    causally whatever the family; without them it is the family's own rule, which may be to see the future."""
    backend = body.config._attn_implementation
    with _attending_by(plain_attention(body) if is_flattened(backend) else backend, body):
        yield


@contextmanager
def full_heads(body: Any) -> Iterator[None]:
    """Inside, a body that attends by sdpa has keys and values for every head. With fewer heads of them (Llama 3, Qwen)
    and no mask transformers leaves that to PyTorch, of whose CUDA kernels only flash attention can, in half precision,
    and one that holds all scores `[B, H, L, L]`: gigabytes, in float32."""
    _register_full_heads()
    backend = body.config._attn_implementation
    with _attending_by(_FULL_HEADS if backend == "sdpa" else backend, body):
        yield


@cache
def _register_full_heads() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    # Modules that say no more than this, such as how few heads of keys they have. Where attention is compiled, none can
    # be made.
    causal, full = (SimpleNamespace(is_causal=which) for which in (True, False))

    def attention(module: Any, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **others: Any) -> Any:
        if (groups := query.shape[1] // key.shape[1]) > 1:
            key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
        told = causal if getattr(module, "is_causal", True) else full
        return sdpa_attention_forward(told, query, key, value, *rest, **others)  # type: ignore[arg-type]

    AttentionInterface.register(_FULL_HEADS, attention)
    AttentionMaskInterface.register(_FULL_HEADS, AttentionMaskInterface()["sdpa"])


def depends_on_length(config: Any, row_length: int) -> bool:
    """Whether attention may differ between a short row and one of `row_length`: by a window or chunk shorter than it,
    or by rotary positions that are scaled with the length."""
    fields = config.to_dict()
    named = re.compile("(window|chunk|local|sliding|block)(?!.*layer)")
    windows = [value for name, value in fields.items() if named.search(name) and isinstance(value, int)]
    scaled = re.search("dynamic|longrope", str(fields.get("rope_parameters")))
    return any(1 < window < row_length for window in windows) or scaled is not None
