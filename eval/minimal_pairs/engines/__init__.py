"""Speech synthesizers: one file each, by name. `hibari:heart`, `espeak:en-us+f3`: engine and voice."""

from eval.minimal_pairs.engines.base import ENGINES, Voices, open_voice, open_voices

__all__ = ["ENGINES", "Voices", "open_voice", "open_voices"]
