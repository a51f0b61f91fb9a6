"""Codebook patterns: pure, drawn in their docstrings, exactly invertible."""

from slm.patterns.base import BOS, EMPTY, EOS, PATTERNS, Pattern

__all__ = ["BOS", "EMPTY", "EOS", "PATTERNS", "Pattern"]
