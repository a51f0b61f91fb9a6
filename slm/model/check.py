"""Before a run: is the family one that the loss trains as scoring reads it?"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from slm.errors import UsageError
from slm.model.acoustic_lm import AcousticLM
from slm.model.attention import depends_on_length, is_flattened, reference_attention, scoring_attention
from slm.patterns import Pattern

SHORT_ROW = 16
TAKE = "take a decoder-only family with full causal attention (llama, qwen2, opt, ..)"
EXACT = 1e-5
"""Of log-probabilities in nats that come out of the same shapes: what they do not depend on changes no bit of them,
but that experts to which other codes go as well may round otherwise."""


@torch.no_grad()
def check_attention(model: AcousticLM, pattern: Pattern, row_length: int) -> None:
    """Refuse a family that the loss would train otherwise than scoring reads it: UsageError.

    Two random documents that fill a row must be predicted as each alone (sliding windows shorter than the row are not),
    the second one whatever is in the first (in state-space models something is left, which is little in fresh weights);
    no code may see what follows it (bidirectional models let it); and for one stream the loss must be that of the
    family's own logits. The row is short unless the configuration has something that depends on its length. Flash
    attention is stood in for by a slow equal that runs anywhere, which shows that the family hands on where documents
    begin. A model without weights (on the meta device) has nothing to check.
    """
    if any(p.is_meta for p in model.parameters()):
        return
    body = model.causal_lm.base_model
    kind, backend = body.config.model_type, body.config._attn_implementation
    length = row_length if depends_on_length(body.config, row_length) else min(row_length, SHORT_ROW)
    take = f"{TAKE}, or model.attention auto" if is_flattened(backend) or backend == "flex_attention" else TAKE
    training = model.training
    model.eval()
    try:
        with reference_attention(body):
            packs, is_causal, is_whole = _findings(model, pattern, length)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise UsageError(f"model_type {kind!r} with {backend!r} attention cannot be trained on packed documents; "
                         f"{take} (it failed with: {reason})") from error  # fmt: skip
    finally:
        model.train(training)
    if not is_causal:  # first, since documents that see the future are mostly not kept apart either
        raise UsageError(f"model_type {kind!r} sees the future: it is no causal language model; {TAKE}")
    if not packs:
        remedy = f"{take}, or row_length within its window" if length == row_length else take
        raise UsageError(f"model_type {kind!r} does not keep packed documents apart; {remedy}")
    if not is_whole:
        raise UsageError(f"model_type {kind!r} makes its logits in a way that the loss does not know; {TAKE}")


def _findings(model: AcousticLM, pattern: Pattern, length: int) -> tuple[bool, bool, bool]:
    """Whether packed documents are as if alone, nothing sees the future, the logits are the family's own."""
    generator, sizes = torch.Generator().manual_seed(0), [v.num_codes for v in pattern.streams]
    streams = [torch.randint(size, (1, length), generator=generator) for size in sizes]
    ids = torch.stack(streams, dim=-1).to(model.id_offsets.device)
    short = min(4, length // 2)
    positions = torch.cat([torch.arange(short), torch.arange(length - short)])[None].to(ids.device)
    packed, beside_other = (model.log_probs(row, positions)[:, short:] for row in (ids, _changed(ids, sizes, 0, short)))
    changed = _changed(ids, sizes, length - 1, length)
    second = F.pad(ids[:, short:], (0, 0, 0, short))
    with scoring_attention(model.causal_lm.base_model):
        whole, otherwise, alone = model.log_probs(torch.cat([ids, changed, second])).split(1)
        hidden = model.hidden_states(ids)[:, -2]
    near = 1e-3 * min(1.0, float(whole[:, 1:].std()))  # fresh weights say almost the same of everything
    is_packed = torch.allclose(packed[:, 1:], alone[:, 1 : length - short], rtol=0, atol=near)
    is_packed &= torch.allclose(packed[:, 1:], beside_other[:, 1:], rtol=0, atol=EXACT)
    is_causal = torch.allclose(whole[:, :-1], otherwise[:, :-1], rtol=0, atol=EXACT)
    if len(sizes) == 1:
        return is_packed, is_causal, torch.allclose(_own_log_probs(model, ids), whole, rtol=0, atol=near)
    # The first stream of the last step, with nothing of that step at hand.
    first = model.stream_logits(hidden, ids[:, -1, :0]).log_softmax(dim=-1)
    is_causal &= torch.allclose(first.gather(1, ids[:, -1, :1]), whole[:, -1, :1], atol=1e-4)
    return is_packed, is_causal, True


def _changed(ids: Tensor, sizes: list[int], begin: int, end: int) -> Tensor:
    """Ids `[B, S, Q]` with others from step `begin` to `end`."""
    made = ids.clone()
    made[:, begin:end] = (made[:, begin:end] + 1) % torch.tensor(sizes, device=ids.device)
    return made


def _own_log_probs(model: AcousticLM, ids: Tensor) -> Tensor:
    """What the causal LM makes of one stream by its own logits."""
    logits = model.causal_lm(input_ids=ids[..., 0]).logits[:, :-1].float().log_softmax(dim=-1)
    return F.pad(logits.gather(-1, ids[:, 1:]), (0, 0, 1, 0))
