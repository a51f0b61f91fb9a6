"""How much memory the training of a model takes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from slm.model.acoustic_lm import AcousticLM, Places
from slm.model.attention import whole_row_attention
from slm.model.depth import CHUNK_TOKENS


def activation_bytes(model: AcousticLM, rows: int, row_length: int, half: bool,
                     checkpointing: bool = False) -> int | None:  # fmt: skip
    """What the forward pass of a micro-batch of `rows` keeps for the backward pass, layers not compiled: a pass over
    tensors without values tells autograd what to keep, to the byte. `half`: under autocast to bf16. What is made again
    for the backward pass is not held all at once: of layers (`checkpointing`) that is counted for one, of a depth
    transformer for one chunk. None where a family cannot be followed in this way, as experts cannot.
    """
    if any(type(module).__name__.endswith("Experts") for module in model.modules()):
        return None  # where their rows go depends on values, and PyTorch would print pages about it
    model = copy.deepcopy(model)
    steps, streams = rows * row_length, len(model.stream_sizes)
    body, depth = model.causal_lm.base_model, getattr(model.causal_lm, "depth", None)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.autocast("cpu", torch.bfloat16, enabled=half):
            model.to_empty(device="cpu").train()
            ids = torch.zeros(rows, row_length, streams, dtype=torch.long)
            places = Places(torch.arange(steps - 1), torch.arange(rows + 1, dtype=torch.int32))

            def step() -> object:
                return model(ids, torch.ones_like(ids, dtype=torch.bool), None, places)

            is_eager = body.config._attn_implementation == "eager"  # which keeps scores, as no other does
            with nullcontext() if is_eager else whole_row_attention(body):
                kept = _kept_bytes(model, step)
                if checkpointing:  # which layers do in training only
                    kept += (_kept_bytes(model.eval(), step) - kept) // body.config.num_hidden_layers
            if depth is not None and steps > (chunk := CHUNK_TOKENS // streams):
                hidden = torch.zeros(chunk, body.config.hidden_size, requires_grad=True)
                kept += _kept_bytes(model, lambda: depth(hidden, ids[0, :1, 1:].expand(chunk, -1)))
    except Exception:  # whatever the layers of a family raise, such as one that training will refuse
        return None
    return kept


def _kept_bytes(model: AcousticLM, forward: Callable[[], object]) -> int:
    """What autograd keeps of a forward pass beside the model: each storage once."""
    own = {_storage(t) for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(_storage(tensor), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(t.untyped_storage().nbytes() for storage, t in kept.items() if storage not in own)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
