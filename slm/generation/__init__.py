"""Making codes step by step, where only codes that the pattern allows can come out."""

from slm.generation.drawing import Grammar
from slm.generation.generator import Generator, Speed, generate_codes
from slm.generation.plan import Request
from slm.generation.sampling import Sampling, guide

__all__ = ["Generator", "Grammar", "Request", "Sampling", "Speed", "generate_codes", "guide"]
