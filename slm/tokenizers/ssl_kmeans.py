"""Semantic units: k-means over layers of a self-supervised or supervised speech encoder.

After GSLM (Lakhotia et al., 2021) and TWIST (Hassid et al., 2023), which cluster a layer of HuBERT, and DASB's Discrete
WavLM (Mousavi et al., 2024), which clusters six layers of WavLM; Whisper's encoder is clustered in the same way. The
units carry what is said far more than who says it, and have no decoder of their own: a unit vocoder takes them back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from slm.errors import UsageError
from slm.tokenizers._checkpoints import fold_in_place
from slm.tokenizers._codec import widest_layer
from slm.tokenizers._encoder_families import LayeredEncoder
from slm.tokenizers._encoders import check_layers, load_encoder
from slm.tokenizers._frames import FrameEncoder
from slm.tokenizers._kmeans import KmeansTokenizer
from slm.tokenizers._spectral_encoders import SpectralEncoder
from slm.tokenizers._unit_vocoder import UnitVocoder, load_unit_vocoder
from slm.tokenizers.base import TOKENIZERS, fingerprint
from slm.tokenizers.database import taxonomy_of

if TYPE_CHECKING:
    import torch

    from slm.tokenizers._batched import Batch

MAX_WINDOW_S = 100.0  # as textlesslib


@TOKENIZERS.register("ssl-kmeans")
class SslKmeansTokenizer(KmeansTokenizer):
    """Units of `layer` of a HuBERT, WavLM, wav2vec 2.0, w2v-BERT 2.0 or Whisper encoder (hub id or local folder).

    `layer` counts as in transformers' `hidden_states`; several (`[1, 3, 7]`) give a codebook each, in that order, of
    which `num_codebooks` keeps the first ones. `centroids` is a safetensors file made by `python -m slm.tokenizers
    fit`, a k-means file of fairseq, textlesslib or SpeechBrain (read without executing its pickle), the name of a
    packaged one, or a file on the hub (`hf://owner/repository/path`); for several layers, with `{layer}` in its name.
    `input_norm` is "none", "unit-variance" or "layer-norm" (see `ConvEncoder`) where it should not be what the
    encoder's feature extractor says: units fitted by fairseq or SpeechBrain need what these did. `padding_samples`
    zeros are put before and behind each clip (slamkit: 40, with which T = floor(N / hop)).

    `vocoder` (folder or hub id, see `_unit_vocoder_formats`) was trained on these very units and makes audio of them,
    frame by frame, in the voice `vocoder_speaker` where it has several. It has no part in the codes: their fingerprint
    is the same with and without it, and the spec has its own as `decoder_fingerprint`.

    Raises UsageError when encoder or vocoder cannot be had, when the vocoder does not fit (rate, hop, number of units,
    layers), or when the centroids were fitted on another encoder or layer: other weights under the same name are
    another encoder, be it by a bit.

    Long clips are the exception to one pass: these encoders attend to (and, base models, normalize over) the whole
    clip. A clip of more than `max_window_s` (Whisper: 30 s at most) is encoded as the fewest windows of equal length,
    each as a clip of its own; T stays what the spec says.
    """

    encoder: LayeredEncoder
    batching: Literal["none", "frames", "samples"] = "samples"
    mismatch: ClassVar[Mapping[str, str]] = {"bf16": "about 3 %"}
    measured_on = "a CPU"

    about: ClassVar[Mapping[str, str]] = {
        "ssl-kmeans": "100 at 50 Hz from 16 kHz (Whisper tiny.en; fit or import others: HuBERT, WavLM, wav2vec 2.0, "
        "w2v-BERT 2.0); decodes by a unit vocoder, if given one; needs the encoder (extra `offline`, a local folder or "
        "the hub)"
    }

    def __init__(
        self,
        encoder: str = "openai/whisper-tiny.en",
        layer: int | list[int] = 3,
        centroids: str = "whisper-tiny.en-l3-k100",
        num_codebooks: int | None = None,
        input_norm: str | None = None,
        padding_samples: int = 0,
        max_window_s: float = MAX_WINDOW_S,
        vocoder: str | None = None,
        vocoder_speaker: int = 0,
        device: str = "cpu",
    ):
        layers = _first_layers(check_layers(layer), num_codebooks)
        if padding_samples < 0 or max_window_s <= 0:
            raise UsageError(f"padding_samples {padding_samples} and max_window_s {max_window_s} must be positive")
        if Path(encoder).is_dir():
            encoder = str(Path(encoder).resolve())  # the next stage may run elsewhere
        frames = load_encoder(encoder, layers, device, input_norm)
        usual = frames.max_window_frames
        frames.cut_at(max_window_s, padding_samples)
        cut = {"max_window_frames": frames.max_window_frames} if frames.max_window_frames != usual else {}
        cut |= {"padding_samples": padding_samples} if padding_samples else {}
        origin = {"encoder": encoder, "layer": layers[0] if len(layers) == 1 else list(layers)}
        origin |= {"input_norm": input_norm} if input_norm is not None else {}
        changed: dict[str, Any] = {"padding_samples": padding_samples} if padding_samples else {}
        changed |= {"max_window_s": max_window_s} if max_window_s != MAX_WINDOW_S else {}
        self._assemble(
            frames,
            str(centroids),
            device,
            origin=origin,
            cut=cut,
            settings={**origin, **changed},
            name="ssl-kmeans",
            semantic_codebooks=tuple(range(len(layers))),
            taxonomy=taxonomy_of("ssl-kmeans", encoder),
        )
        if not frames.shares_tensors:
            self.batching = "none"
        self.model = frames.model
        fold_in_place(self.model)
        self.vocoder: UnitVocoder | None = None
        if vocoder is not None:
            self._use_vocoder(vocoder, vocoder_speaker, layers, device)

    def _use_vocoder(self, source: str, speaker: int, layers: tuple[int, ...], device: str) -> None:
        if Path(source).is_dir():
            source = str(Path(source).resolve())
        self.vocoder = load_unit_vocoder(
            source, device, num_units=self.spec.codebook_sizes[0], layers=layers, speaker=speaker
        )
        self.vocoder.check_fits(self.spec, source)
        self.spec = replace(
            self.spec,
            has_decoder=True,
            decoder_fingerprint=fingerprint(self.vocoder.identity()),
            settings={**self.spec.settings, "vocoder": source, **({"vocoder_speaker": speaker} if speaker else {})},
        )

    def encoder_stages(self) -> Sequence[Any]:
        return self.encoder.stages()

    def _gap_frames(self) -> int:
        if isinstance(self.encoder, SpectralEncoder):
            return widest_layer(self.encoder_stages(), self.encoder.spectra_per_frame)
        return super()._gap_frames()

    def _to_bfloat16(self) -> None:
        import torch

        self.model.to(torch.bfloat16)

    def _codes_of(self, signals: torch.Tensor) -> torch.Tensor:
        return self._assign(self.encoder.hear(signals[0, 0])).T[None]

    def _codes_of_batch(self, batch: Batch, signals: Sequence[np.ndarray]) -> torch.Tensor:
        from slm.tokenizers._batched import frames_of_batch

        if not isinstance(self.encoder, SpectralEncoder):
            return super()._codes_of_batch(batch, signals)
        clips = [signals[i] for i in batch.members]
        return self._assign(self.encoder.run_packed(batch, clips, frames_of_batch(self))).T[None]

    def _num_frames(self, num_samples: int) -> int:
        return (num_samples + self.encoder.hop_samples - self.encoder.window_samples) // self.encoder.hop_samples

    @property
    def _tail_samples(self) -> int:
        return self.encoder.window_samples - self.encoder.hop_samples

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        assert self.vocoder is not None  # `decode` has asked the spec
        return self.vocoder.decode(codes)

    def predict_durations(self, units: np.ndarray) -> np.ndarray | None:
        return self.vocoder.predict_durations(units) if self.vocoder and self.vocoder.predicts_durations else None

    @classmethod
    def make_encoder(
        cls,
        encoder: str = "openai/whisper-tiny.en",
        layer: int | list[int] = 3,
        input_norm: str | None = None,
        device: str = "cpu",
    ) -> FrameEncoder:
        frames = load_encoder(encoder, layer, device, input_norm)
        frames.cut_at(MAX_WINDOW_S)
        return frames


def _first_layers(layers: tuple[int, ...], num_codebooks: int | None) -> tuple[int, ...]:
    if num_codebooks is not None and not 1 <= num_codebooks <= len(layers):
        raise UsageError(
            f"layer {list(layers)} makes {len(layers)} codebooks: num_codebooks must be 1 to {len(layers)}, "
            f"not {num_codebooks}"
        )
    return layers[:num_codebooks]
