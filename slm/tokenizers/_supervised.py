"""What tokenizers out of speech recognizers share: log-mel frames in, the quantized middle of the network out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from slm.tokenizers._codec import NeuralCodec
from slm.types import TokenizerSpec

if TYPE_CHECKING:
    import torch

    from slm.tokenizers._batched import Batch

MEL_HOP = 160
"""Samples from one of Whisper's log-mel frames to the next, 10 ms."""


class SupervisedTokenizer(NeuralCodec):
    """Supervised semantic tokens, of one codebook, without a decoder: what makes audio of them is a model for itself.

    A family's `model` has an `encoder`, which takes what `spectra_of` makes and which frame of its clip each frame of
    codes is `[T]`, and a `quantizer` of what that gives `[1, T, width]` -> codes `[1, T]`.
    """

    batching: Literal["none", "frames", "samples"] = "samples"
    spectra_per_frame: int

    @abstractmethod
    def spectra_of(self, signal: torch.Tensor) -> torch.Tensor:
        """A signal `[N]` -> what the encoder takes `[1, spectra, bands]`, on its device."""

    def run(self, spectra: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Spectra, of one clip or packed, and which frame of its clip each frame is `[T]` -> codes `[1, 1, T]`."""
        quantizer = self.model.quantizer
        hidden = self.model.encoder(self._to_model(spectra), positions)
        made: torch.Tensor = quantizer(hidden.to(next(iter(quantizer.state_dict().values())).dtype))
        return made[:, None]

    def _make_spec(self, **facts: Any) -> TokenizerSpec:
        return replace(super()._make_spec(**facts, semantic_codebooks=(0,)), has_decoder=False)

    def _to_bfloat16(self) -> None:
        import torch

        self.model.encoder.to(torch.bfloat16)

    def _codes_of(self, signals: torch.Tensor) -> torch.Tensor:
        return self._codes_of_spectra(self.spectra_of(signals[0, 0]))

    def _codes_of_spectra(self, spectra: torch.Tensor) -> torch.Tensor:
        import torch

        frames = -(-spectra.shape[1] // self.spectra_per_frame)
        return self.run(spectra, torch.arange(frames, device=spectra.device))

    def _codes_of_batch(self, batch: Batch, signals: Sequence[np.ndarray]) -> torch.Tensor:
        from slm.tokenizers._batched import frames_of_batch, run_on_spectra

        clips = [signals[i] for i in batch.members]
        return run_on_spectra(self, self.spec.hop_samples, batch, clips, frames_of_batch(self), self._parameter())


def fill_codebook(table: torch.Tensor, rows: torch.Tensor) -> None:
    """Give a codebook `[size, width]` vectors near those that come up `[T, width]`: of random weights, many codes then
    come out."""
    import torch

    chosen = rows[torch.randperm(len(rows))[torch.arange(len(table)) % len(rows)]]
    table.copy_(chosen + 0.3 * rows.std(dim=0) * torch.randn(table.shape))
