"""Making and loading the causal LM itself: from scratch by configuration, or warm from a text LM (TWIST)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from slm.errors import UsageError, did_you_mean
from slm.patterns import Pattern


def build_causal_lm(backbone: Mapping[str, Any], pattern: Pattern, seed: int, attention: str = "auto",
                    depth: Mapping[str, Any] | None = None) -> Any:  # fmt: skip
    """A fresh model. `backbone` holds `model_type` and any field of that type's transformers configuration."""
    from transformers import CONFIG_MAPPING, AutoConfig

    fields = dict(backbone)
    model_type = fields.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        hint = did_you_mean(str(model_type), CONFIG_MAPPING) if model_type else ", such as llama"
        raise UsageError(f"model.backbone needs a transformers model_type, not {model_type!r}{hint}")
    known = AutoConfig.for_model(model_type)
    for field in fields:
        if not hasattr(known, field):
            raise UsageError(
                f"model.backbone: {model_type} has no field {field!r}{did_you_mean(field, known.to_dict())}"
            )
    try:
        return from_config(AutoConfig.for_model(model_type, **{**fields, **_vocabulary_fields(pattern)}), seed)
    except Exception as error:  # transformers raises whatever its validation and its layers raise
        raise UsageError(f"model.backbone: no {model_type} can be made of this ({_first_line(error)})") from error


def from_config(config: Any, seed: int) -> Any:
    """Seeded random weights, without disturbing the caller's random state."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def twist_causal_lm(source: str, pattern: Pattern, seed: int, gguf_file: str | None = None, attention: str = "auto",
                    depth: Mapping[str, Any] | None = None) -> Any:  # fmt: skip
    """TWIST (arXiv 2305.13009): keep the body of a pretrained text LM, start new embeddings and a new output layer.

    `source` is a hub id, a local folder, or the name of an installed package that carries a GGUF file.
    """
    pretrained = _load_pretrained(source, gguf_file)
    config = type(pretrained.config).from_dict({**pretrained.config.to_dict(), **_vocabulary_fields(pattern)})
    fresh = from_config(config, seed)
    body = _without_vocabulary(pretrained)
    missing, unexpected = fresh.load_state_dict(body, strict=False)
    lost = sorted(_without_vocabulary(fresh).keys() & set(missing))
    if lost or unexpected:
        raise UsageError(f"{source}: weights do not fit the configuration (missing {lost}, unexpected {unexpected})")
    return fresh


def _without_vocabulary(model: Any) -> dict[str, torch.Tensor]:
    """The parameters of a causal LM by name, but for its embeddings and output layer (tied or not)."""
    vocabulary = (model.get_input_embeddings(), model.get_output_embeddings())
    left_out = {id(p) for module in vocabulary for p in module.parameters()}
    return {name: p for name, p in model.named_parameters(remove_duplicate=False) if id(p) not in left_out}


def _load_pretrained(source: str, gguf_file: str | None) -> Any:
    from importlib.util import find_spec

    from transformers import AutoModelForCausalLM

    folder = source
    if gguf_file and not Path(source).is_dir():
        spec = find_spec(source) if source.isidentifier() else None
        if spec is not None and spec.submodule_search_locations:
            folder = next(iter(spec.submodule_search_locations))
    arguments = {"gguf_file": gguf_file} if gguf_file else {"use_safetensors": True}
    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **arguments)
    except (OSError, ImportError, ValueError) as error:
        remedy = "give a local folder or a hub id"
        raise UsageError(f"model.init_from: cannot load {source!r} ({_first_line(error)}); {remedy}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _vocabulary_fields(pattern: Pattern) -> dict[str, Any]:
    """The ids of stream 0 double as the configuration's special tokens, so that generic tools stop at its EOS."""
    first = pattern.streams[0]
    return {
        "vocab_size": sum(v.size for v in pattern.streams),
        "bos_token_id": first.bos_id,
        "eos_token_id": first.eos_id,
        "pad_token_id": None,  # or the family would freeze that id's embedding at zero
    }
