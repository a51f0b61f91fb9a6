"""Models of several streams, as a class of their own for `transformers`: `AutoModelForCausalLM` opens and saves them
once this module is imported.

The Q vocabularies stand one after the other in a single table of embeddings. A step's input is the sum of its Q
embeddings; the next step is predicted by Q heads side by side (MusicGen, arXiv 2306.05284) or by a depth transformer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from slm.model.depth import DepthTransformer


class MultiStreamConfig(PreTrainedConfig):
    """`backbone` is the body's configuration, with as many ids as all streams have together; `depth` the depth
    transformer's, where there is one; `stream_sizes [Q]` are the ids of each stream."""

    model_type = "slm_multi_stream"

    def __init__(self, backbone: Any = None, stream_sizes: Sequence[int] = (), depth: Any = None, **kwargs: Any):
        self.backbone, self.depth = _as_config(backbone or {"model_type": "llama"}), _as_config(depth)
        self.stream_sizes = list(stream_sizes)
        kwargs.setdefault("tie_word_embeddings", bool(getattr(self.backbone, "tie_word_embeddings", False)))
        super().__init__(**kwargs)

    @property
    def vocab_size(self) -> int:
        return sum(self.stream_sizes)

    @property
    def hidden_size(self) -> int:
        return self.backbone.hidden_size

    @property
    def max_position_embeddings(self) -> int | None:
        return getattr(self.backbone, "max_position_embeddings", None)


def _as_config(fields: Any) -> Any:
    if not isinstance(fields, Mapping):
        return fields
    return CONFIG_MAPPING[fields["model_type"]](**{k: v for k, v in fields.items() if k != "model_type"})


def _has_sdpa(config: Any) -> bool:
    kind = MODEL_MAPPING.get(type(config), None)
    return bool(getattr(kind, "_supports_sdpa", True))


class MultiStreamLM(PreTrainedModel):
    """`model` is the body, any transformers decoder; `lm_head` holds the Q heads, or `depth` predicts instead."""

    config_class = MultiStreamConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: MultiStreamConfig):
        super().__init__(config)
        attention = config._attn_implementation
        if attention == "sdpa" and not _has_sdpa(config.backbone):  # what transformers asks for where nobody did
            attention = "eager"
        self.model = AutoModel.from_config(
            config.backbone, dtype=torch.get_default_dtype(), attn_implementation=attention
        )
        width = getattr(config.backbone, "word_embed_proj_dim", config.hidden_size)
        if config.depth is None:
            self.lm_head = nn.Linear(width, config.vocab_size, bias=False)
            table = self.model.get_input_embeddings().weight
            name = next(n for n, p in self.model.named_parameters() if p is table)
            self._tied_weights_keys = {"lm_head.weight": f"model.{name}"}
        else:
            self.depth = DepthTransformer(config.depth, width, config.stream_sizes)
        self.post_init()

    def forward(self, input_ids: Tensor, **kwargs: Any) -> CausalLMOutputWithPast:
        """Ids `[B, S, Q]`, each counted within its stream -> logits `[B, S, sum of stream sizes]`: those of the next
        step, stream after stream. Other arguments are the body's. A depth transformer needs the codes of that step
        too (`slm.load_lm` scores and generates with either): then logits are None, and hidden states are given."""
        offsets = torch.tensor([0, *self.config.stream_sizes[:-1]], device=input_ids.device).cumsum(0)
        embedded = self.get_input_embeddings()(input_ids + offsets).sum(dim=2)
        made = self.model(inputs_embeds=embedded, **kwargs)
        logits = self.lm_head(made.last_hidden_state) if self.config.depth is None else None
        return CausalLMOutputWithPast(logits=logits, past_key_values=made.past_key_values,
                                      hidden_states=(made.last_hidden_state,))  # fmt: skip

    def resize_token_embeddings(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("the ids of a multi-stream model are its tokenizer's: make a new model instead")


AutoConfig.register(MultiStreamConfig.model_type, MultiStreamConfig)
AutoModelForCausalLM.register(MultiStreamConfig, MultiStreamLM)
