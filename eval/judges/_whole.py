"""Models of transformers with all of their weights: one that lacks some is filled with chance, and judges by it."""

from __future__ import annotations

from typing import Any

from eval.judges.base import MissingJudgeError
from slm.load_report import refused_in_a_line

_NOT_HEARD = "masked_spec_embed"
"""For training only; many published checkpoints are without it."""


@refused_in_a_line(MissingJudgeError)
def whole_model(kind: Any, source: str, judge: str, **given: Any) -> Any:
    """`kind.from_pretrained(source)` in float32. MissingJudgeError where weights are not there or of another shape, as
    those of the head are in a checkpoint that was only pre-trained: transformers would draw them, and go on."""
    model, report = kind.from_pretrained(
        source, dtype="float32", output_loading_info=True, ignore_mismatched_sizes=True, **given
    )
    own = {name for name, _ in model.named_parameters() if not name.endswith(_NOT_HEARD)}
    other = {key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]}
    if lacking := sorted(own & (set(report["missing_keys"]) | other)):
        raise MissingJudgeError(
            f"{judge} needs another checkpoint than {source}, which lacks {len(lacking)} weights of a "
            f"{type(model).__name__}, such as {lacking[0]}"
        )
    return model
