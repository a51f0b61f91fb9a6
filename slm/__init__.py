"""slm: spoken language modelling over any audio tokenizer.

The three commands live beside this package (`tokenize_corpus.py`, `train_lm.py`, `eval/run.py`); from Python:

    import slm
    tokenizer = slm.load_tokenizer("codec2-700c")   # .spec, .encode(clips), .decode(codes)
    lm = slm.load_lm("runs/x/final")                # .score(clips), .continue_clip(clip, seconds=3, seed=0)

Importing `slm` imports neither torch nor transformers: both load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from slm.spoken_lm import load_lm as load_lm
    from slm.tokenizers import load_tokenizer as load_tokenizer

_LAZY = {"load_tokenizer": "slm.tokenizers", "load_lm": "slm.spoken_lm"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'slm' has no attribute {name!r}")
