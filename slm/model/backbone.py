"""Making the model itself: from scratch by configuration, or warm from a text LM (TWIST)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from slm.errors import UsageError, did_you_mean, is_out_of_memory
from slm.load_report import refused_in_a_line
from slm.model.attention import register_attention
from slm.patterns import Pattern


def build_causal_lm(backbone: Mapping[str, Any], pattern: Pattern, seed: int, attention: str = "auto",
                    depth: Mapping[str, Any] | None = None) -> Any:  # fmt: skip
    """A fresh model. `backbone` holds `model_type` and any field of that type's transformers configuration; so does
    `depth`, for a depth transformer over the streams of a step. `attention` is a backend of transformers (see
    `choose_attention`), or auto: sdpa where the family has it."""
    body = _config("model.backbone", backbone, _vocabulary_fields(pattern))
    return _fresh("model.backbone", body, pattern, seed, attention, depth)


def _fresh(option: str, body: Any, pattern: Pattern, seed: int, attention: str, depth: Mapping[str, Any] | None) -> Any:
    """`from_config` of a body that an option names; UsageError where transformers makes no such model."""
    try:
        return from_config(_with_streams(body, pattern, depth), seed, attention)
    except UsageError:
        raise
    except Exception as error:  # transformers raises whatever its validation and its layers raise
        reason = _first_line(error)
        if error.args == (attention,):  # the key that a family's own table of backends lacks (GPT-J, GPT-Neo)
            reason = f"it has no attention {attention!r}: take model.attention auto"
        raise UsageError(f"{option}: no {body.model_type} can be made of this ({reason})") from error


def _config(option: str, fields: Mapping[str, Any], vocabulary: Mapping[str, Any]) -> Any:
    """The transformers configuration that an option describes."""
    from transformers import CONFIG_MAPPING, AutoConfig

    values = dict(fields)
    model_type = values.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        hint = did_you_mean(str(model_type), CONFIG_MAPPING) if model_type else ", such as llama"
        raise UsageError(f"{option} needs a transformers model_type, not {model_type!r}{hint}")
    _check_kind(option, CONFIG_MAPPING[model_type])
    try:
        known = AutoConfig.for_model(model_type, **vocabulary)  # of its own, some warn that their ids lie beyond it
        for field in values:
            if not _has(known, field):
                raise UsageError(f"{option}: {model_type} has no field {field!r}{did_you_mean(field, known.to_dict())}")
        made = AutoConfig.for_model(model_type, **{**values, **vocabulary})
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{option}: no {model_type} can be made of this ({_first_line(error)})") from error
    heads, shared = (made.to_dict().get(n) for n in ("num_attention_heads", "num_key_value_heads"))
    if isinstance(heads, int) and isinstance(shared, int) and (not shared or heads % shared):  # 32 by default: Qwen 2
        default = "" if "num_key_value_heads" in values else f", {model_type}'s default: give it too"
        raise UsageError(f"{option}: {heads} num_attention_heads cannot share {shared} num_key_value_heads{default}")
    return made


def _has(config: Any, field: str) -> bool:
    try:
        return hasattr(config, field)
    except RuntimeError:  # it may differ from layer to layer (Gemma 4), and transformers asks which one is meant
        return True


def _check_kind(option: str, kind: Any) -> None:
    """Refuse classes of configurations of which transformers makes no causal language model, or one with others in
    it, such as of images: UsageError."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UsageError(f"{option}: transformers has no causal language model of type {kind.model_type!r}; take a "
                         "decoder-only family (llama, qwen2, opt, ..)")  # fmt: skip
    if kind.sub_configs.keys() - {"attn_config", "ffn_config"}:  # which say how layers are
        text = getattr(kind.sub_configs.get("text_config"), "model_type", None)
        remedy = f"take {text!r}" if text else "take one that is a language model only"
        raise UsageError(f"{option}: {kind.model_type!r} is made of several models; {remedy}")


def _with_streams(body: Any, pattern: Pattern, depth: Mapping[str, Any] | None) -> Any:
    """The configuration of the whole model: the body's own for one stream, `MultiStreamConfig` for several."""
    sizes = [v.size for v in pattern.streams]
    if len(sizes) == 1:
        if depth:
            raise UsageError(
                f"model.depth predicts several streams, but pattern {pattern.name!r} has one: leave it out"
            )
        return body
    from slm.model.multi_stream import MultiStreamConfig

    # A family's own special tokens would lie beyond the streams (GPT-2's are 50256), and transformers warn of them.
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    vocabulary = {"vocab_size": sum(sizes), **special, "tie_word_embeddings": False}
    return MultiStreamConfig(body, sizes, _config("model.depth", depth, vocabulary) if depth else None,
                             **{k: v for k, v in _vocabulary_fields(pattern).items() if k != "vocab_size"})  # fmt: skip


def from_config(config: Any, seed: int, attention: str = "auto") -> Any:
    """Seeded random weights, without disturbing the caller's random state."""
    from transformers import AutoModelForCausalLM

    backend = None if attention == "auto" else attention
    register_attention(attention)
    # Weights are drawn on the CPU: no GPU is woken for them (of several, each would be, in each process).
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=backend)


def twist_causal_lm(source: str, pattern: Pattern, seed: int, gguf_file: str | None = None, attention: str = "auto",
                    depth: Mapping[str, Any] | None = None) -> Any:  # fmt: skip
    """TWIST (arXiv 2305.13009): keep the body of a pretrained text LM, start new embeddings and new output layers.

    `source` is a hub id, a local folder, or the name of an installed package that carries a GGUF file; the rest is
    as in `build_causal_lm`. On the meta device only the configuration is read.
    """
    outlined = torch.get_default_device().type == "meta"
    pretrained = None if outlined else _load_pretrained(source, gguf_file)
    found = _load_config(source, gguf_file) if pretrained is None else pretrained.config
    _check_kind("model.init_from", type(found))
    config = type(found).from_dict({**found.to_dict(), **_vocabulary_fields(pattern)})
    fresh = _fresh("model.init_from", config, pattern, seed, attention, depth)
    if pretrained is None:
        return fresh
    target = fresh if type(fresh) is type(pretrained) else fresh.base_model
    kept, made = _without_vocabulary(pretrained if target is fresh else pretrained.base_model), _saved(target)
    # A table with a row for each word (DeepSeek V4) is of the vocabulary too.
    kept = {name: t for name, t in kept.items() if name not in made or t.shape == made[name].shape or _is_weight(t)}
    missing, unexpected = target.load_state_dict(kept, strict=False)
    lost = sorted(name for name, t in _without_vocabulary(target).items() if name in missing and _is_weight(t))
    if lost or unexpected:
        raise UsageError(f"{source}: weights do not fit the configuration (missing {lost}, unexpected {unexpected})")
    return fresh


def checkpoint_activations(causal_lm: Any) -> None:
    """Of each layer of a body keep only what goes in while training, and make the rest again for the backward pass
    (arXiv 1604.06174). UsageError for a family that cannot."""
    body = causal_lm.base_model  # newer versions of transformers have another name for the same
    enable = getattr(body, "activation_checkpointing_enable", None) or body.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        kind = body.config.model_type
        raise UsageError(f"model.activation_checkpointing: transformers' {kind!r} cannot; leave it out") from error


def use_liger(causal_lm: Any) -> None:
    """Liger's Triton kernels (arXiv 2410.10989) for the norms, rotary positions and gated layers of a body, in place,
    and of all models of its family that this process makes later: they then run on CUDA only. The loss stays
    `AcousticLM`'s. UsageError where the package is missing or does not know the family."""
    body = causal_lm.base_model
    try:
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN, _apply_liger_kernel_to_instance
    except ImportError as error:
        raise UsageError("model.kernels liger is not installed: pip install liger-kernel, or take torch") from error
    if body.config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        known = did_you_mean(body.config.model_type, MODEL_TYPE_TO_APPLY_LIGER_FN)
        raise UsageError(f"model.kernels: liger does not know {body.config.model_type!r}{known}; take torch")
    _apply_liger_kernel_to_instance(model=body, cross_entropy=False, fused_linear_cross_entropy=False)


def _without_vocabulary(model: Any) -> dict[str, torch.Tensor]:
    """What is saved of a model, by name, but for its embeddings and output layer (tied or not): parameters, and buffers
    that were learned too (by which some choose experts)."""
    vocabulary = (model.get_input_embeddings(), model.get_output_embeddings())
    left_out = {id(t) for module in vocabulary if module is not None for t in _saved(module).values()}
    return {name: tensor for name, tensor in _saved(model).items() if id(tensor) not in left_out}


def _is_weight(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, torch.nn.Parameter)


def _saved(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return module.state_dict(keep_vars=True)


@refused_in_a_line(UsageError)
def _load_pretrained(source: str, gguf_file: str | None) -> Any:
    """UsageError where weights of the body are not there, or of another shape: transformers would draw them at random,
    and go on. Those of the vocabulary, which are made anew, may be."""
    from transformers import AutoModelForCausalLM

    arguments = {"gguf_file": gguf_file} if gguf_file else {"use_safetensors": True}
    with _loading(source):
        model, report = AutoModelForCausalLM.from_pretrained(
            _folder(source, gguf_file), dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True,
            trust_remote_code=False, **arguments,
        )  # fmt: skip
    other = {key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]}
    own = (name for name, tensor in _without_vocabulary(model).items() if _is_weight(tensor))
    if lacking := sorted({*own} & ({*report["missing_keys"]} | other)):
        raise UsageError(
            f"model.init_from: {source!r} lacks {len(lacking)} weights of a {type(model).__name__}, such as "
            f"{lacking[0]}, or has them in another shape: fetch it anew, or take another model"
        )
    return model


def _load_config(source: str, gguf_file: str | None) -> Any:
    from transformers import AutoConfig

    with _loading(source):
        given = {"gguf_file": gguf_file} if gguf_file else {}
        return AutoConfig.from_pretrained(_folder(source, gguf_file), trust_remote_code=False, **given)


def _folder(source: str, gguf_file: str | None) -> str:
    """Where an installed package has its GGUF file; anything else as it is given."""
    from importlib.util import find_spec

    spec = find_spec(source) if gguf_file and source.isidentifier() and not Path(source).is_dir() else None
    return next(iter(spec.submodule_search_locations)) if spec and spec.submodule_search_locations else source


@contextmanager
def _loading(source: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # transformers raises whatever its validation and its layers raise
        if is_out_of_memory(error):
            raise
        remedy = "give a local folder or a hub id"
        raise UsageError(f"model.init_from: cannot load {source!r} ({_first_line(error)}); {remedy}") from error


def _first_line(error: Exception) -> str:
    """What an error says, without what follows; where that is said behind a colon, with the line after it."""
    lines = (str(error).strip() or type(error).__name__).splitlines()
    return " ".join(line.strip() for line in lines[: 1 + lines[0].endswith(":")])


def _vocabulary_fields(pattern: Pattern) -> dict[str, Any]:
    """The ids of stream 0 double as the configuration's special tokens, so that generic tools stop at its EOS."""
    first = pattern.streams[0]
    return {
        "vocab_size": sum(v.size for v in pattern.streams),
        "bos_token_id": first.bos_id,
        "eos_token_id": first.eos_id,
        "pad_token_id": None,  # or the family would freeze that id's embedding at zero
    }
