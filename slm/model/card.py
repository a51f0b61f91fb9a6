"""The model card of a checkpoint: `README.md` with the front matter that the Hugging Face hub reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slm.model.checkpoint import ModelRecord


def model_card(record: ModelRecord, config: Any, num_parameters: int, figures: Mapping[str, float]) -> str:
    """Markdown. `config` is the transformers configuration; `figures` are held-out ones, by name."""
    spec, pattern = record.tokenizer, record.make_pattern()
    settings = ", ".join(f"{key} {value}" for key, value in record.pattern_settings.items())
    body = getattr(config, "backbone", config)
    facts = {
        "parameters": f"{num_parameters:,}",
        "body": body.model_type + (", with a depth transformer" if getattr(config, "depth", None) else ""),
        "tokenizer": f"`{spec.describe()}`",
        "pattern": record.pattern_name + (f" ({settings})" if settings else ""),
        "units": _units(record),
        "ids of each stream": ", ".join(str(stream.size) for stream in pattern.streams),
        "loss weights of codebooks": ", ".join(f"{w:g}" for w in record.codebook_weights or ()) or "all equal",
        "training data": _data(record.training.get("data")),
    }
    held_out = "\n".join(f"| {name} | {value:.4f} |" for name, value in figures.items())
    return f"""---
library_name: transformers
tags:
- audio
- audio-codes
- spoken-language-modelling
---

# Spoken language model over the codes of {spec.name}

| | |
|---|---|
{"".join(f"| {name} | {value} |{chr(10)}" for name, value in facts.items())}
{_held_out(held_out)}## Use

Download the whole folder (`hf download USER/NAME --local-dir DIR`); then, with audio in and out:

```python
import slm

lm = slm.load_lm("DIR")
lm.score(clips)                                # log-probabilities of each code, in nats
lm.continue_clip(clip, seconds=3, seed=0)
```

{_as_transformers(pattern.streams)}

## Training configuration

```json
{json.dumps(record.training, indent=2, ensure_ascii=False, default=str)}
```
"""


def _held_out(rows: str) -> str:
    return f"## Held out\n\n| figure | value |\n|---|---|\n{rows}\n\n" if rows else ""


def _units(record: ModelRecord) -> str:
    made = ["deduplicated"] if record.dedup else []
    made += [f"{record.units.sizes[0]:,} by byte-pair encoding"] if record.bpe is not None else []
    return ", ".join(made) or "the codes themselves"


def _data(names: Any) -> str:
    listed = [names] if isinstance(names, str) else names or ["not stated"]
    return ", ".join(str(name) for name in listed)


def _as_transformers(streams: Any) -> str:
    if len(streams) > 1:
        return (
            "The model alone opens with `AutoModelForCausalLM.from_pretrained` once `slm.model.multi_stream` is\n"
            f"imported: a class of {len(streams)} streams, whose ids are `[batch, steps, streams]`."
        )
    [one] = streams
    return (
        "The model alone is an ordinary causal LM: `transformers.AutoModelForCausalLM.from_pretrained`. Its ids are\n"
        f"units 0 to {one.num_codes - 1}, end of a document {one.eos_id} (predicted), its beginning {one.bos_id} "
        f"(put first), padding {one.empty_id}."
    )
