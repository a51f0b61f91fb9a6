"""The laws of a tokenizer: what must hold of every one, whatever made it.

A test calls them (`tokenizer_law(tokenizer, clips)`), in this repository or in another package's; `python -m
slm.tokenizers check` holds the weights that a user has to them. Each raises AssertionError, which says what is broken.
"""

from slm.tokenizers.laws.contract import fingerprint_law, tokenizer_law
from slm.tokenizers.laws.networks import batching_law, long_audio_law, streaming_law

__all__ = ["batching_law", "fingerprint_law", "long_audio_law", "streaming_law", "tokenizer_law"]
