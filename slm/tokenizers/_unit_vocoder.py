"""Unit vocoders: from discrete units back to audio, for tokenizers that have no decoder of their own.

`_unit_vocoder_formats` says whose can be loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from slm.audio import joined
from slm.errors import UsageError
from slm.tokenizers._unit_vocoder_formats import Published, read_published
from slm.types import TokenizerSpec

if TYPE_CHECKING:
    import torch


@dataclass
class UnitVocoder:
    """Units, one frame every `hop_samples`, -> audio at `sample_rate_hz`.

    `columns` says which of the network's codebooks each column of units is of. Where some are not given, SpeechBrain's
    network, which was trained with layers left out at random, makes do with the others, as in `DiscreteSSL.decode`.
    """

    network: Published
    columns: tuple[int, ...]
    speaker: int = 0
    style: int = 0
    piece_frames: int = 3000

    @property
    def sample_rate_hz(self) -> int:
        return self.network.sample_rate_hz

    @property
    def hop_samples(self) -> int:
        return self.network.model.generator.hop_samples

    @property
    def num_units(self) -> int:
        return self.network.num_units

    @property
    def predicts_durations(self) -> bool:
        return self.network.model.durations is not None

    def identity(self) -> dict[str, Any]:
        """What decides the audio, for a fingerprint."""
        network = self.network
        return {
            "sample_rate_hz": network.sample_rate_hz,
            "num_units": network.num_units,
            "first_row": network.first_row,
            "reflects": network.model.generator.min_frames > 1,
            "pools": network.model.attention is not None,
            "columns": list(self.columns),
            "speaker": self.speaker,
            "style": self.style,
            "weights": list(network.weights),
        }

    def check_fits(self, spec: TokenizerSpec, source: str) -> None:
        """UsageError unless this vocoder makes audio of the spec's rate out of its codes, frame by frame."""
        wanted = (spec.sample_rate_hz, spec.hop_samples, {*spec.codebook_sizes})
        if wanted != (self.sample_rate_hz, self.hop_samples, {self.num_units}):
            sizes = "x".join(str(size) for size in spec.codebook_sizes)
            raise UsageError(
                f"the vocoder {source} is for {self.num_units} units, each of {self.hop_samples} samples at "
                f"{self.sample_rate_hz} Hz; this tokenizer makes {sizes}, of {spec.hop_samples} samples at "
                f"{spec.sample_rate_hz} Hz: give the vocoder that was trained on these units"
            )

    def predict_durations(self, units: np.ndarray) -> np.ndarray:
        """Units `[T, K]`, deduplicated, -> int64 frames that each lasts `[T]`, at least 1. UsageError without a
        predictor."""
        import torch

        if self.network.model.durations is None:
            raise UsageError("this vocoder predicts no durations: give them, or units that last one frame each")
        rows = self._rows(units)
        if not len(units):
            return np.zeros(0, np.int64)
        with torch.inference_mode():
            return self.network.model.durations(self.network.model.features(rows))[0].cpu().numpy()

    def decode(self, units: np.ndarray, durations: np.ndarray | Literal["predict"] | None = None) -> np.ndarray:
        """Units `[T, K]` -> samples in the precision of the model (fp32), `hop_samples` for each frame.

        Each unit lasts a frame, or as many as `durations [T]` says, or as the vocoder predicts. Audio of more than
        `piece_frames` is made in pieces that overlap as far as a sample can see, which in exact arithmetic equals one
        pass. ValueError for units or durations out of range.
        """
        from slm.tokenizers._modes import inference

        if durations is not None:
            lasting = self.predict_durations(units) if isinstance(durations, str) else np.asarray(durations)
            if lasting.shape != (len(units),) or lasting.dtype.kind not in "iu" or (lasting < 0).any():
                raise ValueError(f"durations must be {len(units)} whole numbers of frames, none below 0")
            units = np.repeat(units, lasting, axis=0)
        rows = self._rows(units)
        with inference():
            return joined(self._pieces(rows))

    def _pieces(self, rows: torch.Tensor) -> Iterator[np.ndarray]:
        """Rows `[1, T, ..]` -> the samples of each piece."""
        frames, reach, hop = rows.shape[1], self.network.model.generator.reach_frames, self.hop_samples
        for first in range(0, frames, self.piece_frames):
            last, start = min(first + self.piece_frames, frames), max(0, first - reach)
            audio = self.network.model(rows[:, start : last + reach], self.speaker, self.style)[0]
            end = None if last == frames else (last - start) * hop
            yield audio[(first - start) * hop : end].cpu().numpy()

    def _rows(self, units: np.ndarray) -> torch.Tensor:
        """Units `[T, K]` -> rows of the embedding table `[1, T, num_codebooks]`."""
        import torch

        if units.ndim != 2 or units.shape[1] != len(self.columns):
            raise ValueError(f"units of shape {units.shape}, not [T, {len(self.columns)}]")
        if len(units) and (units.min() < 0 or units.max() >= self.num_units):
            raise ValueError(f"units must lie within 0 and {self.num_units - 1}")
        rows = np.zeros((len(units), self.network.num_codebooks), np.int64)
        columns = list(self.columns)
        rows[:, columns] = units.astype(np.int64) + np.array(columns) * self.num_units + self.network.first_row
        return torch.from_numpy(rows)[None].to(self.network.model.units.weight.device)


def load_unit_vocoder(
    source: str,
    device: str = "cpu",
    *,
    num_units: int | None = None,
    layers: Sequence[int] | None = None,
    speaker: int = 0,
    style: int = 0,
) -> UnitVocoder:
    """The unit vocoder of a folder or hub id, in fp32.

    `num_units` is the size of a codebook, for a checkpoint of SpeechBrain's that does not say it. `layers` are the
    encoder layers that the units come from, a column each (default: all that the vocoder knows). `speaker` and
    `style` are numbers, as in the `speakers.txt` and `styles.txt` beside a checkpoint of several. UsageError where
    none can be had or it does not fit its configuration, and for layers, a speaker or a style that it does not have.
    """
    network = read_published(source, num_units)
    model = network.model.to(device).eval().requires_grad_(False)
    for what, table, chosen in (("speaker", model.speaker, speaker), ("style", model.style, style)):
        count = table.num_embeddings if table is not None else 1
        if not 0 <= chosen < count:
            raise UsageError(f"{source} has {count} {what}{'s' if count > 1 else ''}, from 0: there is no {chosen}")
    return UnitVocoder(network, _columns(source, network, layers), speaker, style)


def _columns(source: str, network: Published, layers: Sequence[int] | None) -> tuple[int, ...]:
    """Which codebook the units of each of `layers` are of."""
    known, count = network.layers, network.num_codebooks
    if layers is None or (not known and len(layers) == count):
        return tuple(range(count))
    if known and set(layers) <= set(known):
        return tuple(known.index(layer) for layer in layers)
    wanted = f"layers {list(known)}" if known else f"{count} layer{'s at once' if count > 1 else ''}"
    raise UsageError(f"the vocoder {source} turns units of {wanted} into audio, not of layers {list(layers)}")
