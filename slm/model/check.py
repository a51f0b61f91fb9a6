"""Before a run: is the family one that the loss trains as scoring reads it?"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from slm.errors import UsageError
from slm.model.acoustic_lm import AcousticLM
from slm.model.attention import depends_on_length, reference_attention, scoring_attention
from slm.patterns import Pattern

SHORT_ROW = 16


@torch.no_grad()
def check_attention(model: AcousticLM, pattern: Pattern, row_length: int) -> None:
    """Refuse a family that the loss would train otherwise than scoring reads it: UsageError.

    Two random documents that fill a row must be predicted as each alone (state-space models and sliding windows
    shorter than the row are not); no code may see what follows it (bidirectional models let it); and for one stream
    the loss must be that of the family's own logits. The row is short unless the configuration has something that
    depends on its length. Flash attention is stood in for by a slow equal that runs anywhere, which shows that the
    family hands on where documents begin. A model without weights (on the meta device) has nothing to check.
    """
    if any(p.is_meta for p in model.parameters()):
        return
    body = model.causal_lm.base_model
    kind, backend = body.config.model_type, body.config._attn_implementation
    length = row_length if depends_on_length(body.config, row_length) else min(row_length, SHORT_ROW)
    training = model.training
    model.eval()
    try:
        with reference_attention(body):
            packs, is_causal, is_whole = _findings(model, pattern, length)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        remedy = "take another model_type, or model.attention sdpa"
        raise UsageError(f"{kind!r} with {backend!r} attention cannot be trained on packed documents ({reason}); "
                         f"{remedy}") from error  # fmt: skip
    finally:
        model.train(training)
    if not is_causal:  # first, since documents that see the future are mostly not kept apart either
        remedy = "take one that is (llama, qwen2, opt, ..)"
        raise UsageError(f"model_type {kind!r} sees the future: it is no causal language model; {remedy}")
    if not packs:
        remedy = "take a family with full causal attention (llama, qwen2, opt, ..), or row_length within its window"
        raise UsageError(f"model_type {kind!r} does not keep packed documents apart; {remedy}")
    if not is_whole:
        raise UsageError(f"model_type {kind!r} makes its logits in a way that the loss does not know: take another")


def _findings(model: AcousticLM, pattern: Pattern, length: int) -> tuple[bool, bool, bool]:
    """Whether packed documents are as if alone, nothing sees the future, the logits are the family's own."""
    generator, sizes = torch.Generator().manual_seed(0), [v.num_codes for v in pattern.streams]
    streams = [torch.randint(size, (1, length), generator=generator) for size in sizes]
    ids = torch.stack(streams, dim=-1).to(model.id_offsets.device)
    short = min(4, length // 2)
    positions = torch.cat([torch.arange(short), torch.arange(length - short)])[None].to(ids.device)
    packed = model.log_probs(ids, positions)[:, short:]
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % torch.tensor(sizes, device=ids.device)
    second = F.pad(ids[:, short:], (0, 0, 0, short))
    with scoring_attention(model.causal_lm.base_model):
        whole, otherwise, alone = model.log_probs(torch.cat([ids, changed, second])).split(1)
        hidden = model.hidden_states(ids)[:, -2]
    is_packed = torch.allclose(packed[:, 1:], alone[:, 1 : length - short], atol=1e-3)
    is_causal = torch.allclose(whole[:, :-1], otherwise[:, :-1], atol=1e-4)
    if len(sizes) == 1:
        return is_packed, is_causal, torch.allclose(_own_log_probs(model, ids), whole, atol=1e-3)
    # The first stream of the last step, with nothing of that step at hand.
    first = model.stream_logits(hidden, ids[:, -1, :0]).log_softmax(dim=-1)
    is_causal &= torch.allclose(first.gather(1, ids[:, -1, :1]), whole[:, -1, :1], atol=1e-4)
    return is_packed, is_causal, True


def _own_log_probs(model: AcousticLM, ids: Tensor) -> Tensor:
    """What the causal LM makes of one stream by its own logits."""
    logits = model.causal_lm(input_ids=ids[..., 0]).logits[:, :-1].float().log_softmax(dim=-1)
    return F.pad(logits.gather(-1, ids[:, 1:]), (0, 0, 1, 0))
