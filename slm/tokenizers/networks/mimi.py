"""Mimi as transformers has it, but told of every weight of a checkpoint that it has no place for."""

from __future__ import annotations

import transformers


class MimiModel(transformers.MimiModel):
    def post_init(self) -> None:
        super().post_init()
        # Each half, which can be loaded alone, ignores what may be the other's: of both, that is all.
        self._keys_to_ignore_on_load_unexpected: set[str] = set()

    @classmethod
    def is_custom_code(cls) -> bool:
        """Names of weights are converted for classes of transformers alone."""
        return False
