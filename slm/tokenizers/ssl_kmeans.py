"""Semantic units: k-means over a layer of a self-supervised or supervised speech encoder.

After GSLM (Lakhotia et al., 2021) and TWIST (Hassid et al., 2023), which cluster HuBERT; Whisper's encoder is
clustered in the same way. The units carry what is said far more than who says it, and have no decoder of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from slm.tokenizers._encoders import FrameEncoder, load_encoder
from slm.tokenizers._kmeans import KmeansTokenizer
from slm.tokenizers.base import TOKENIZERS


@TOKENIZERS.register("ssl-kmeans")
class SslKmeansTokenizer(KmeansTokenizer):
    """Units of `layer` of a HuBERT, WavLM, wav2vec 2.0 or Whisper encoder (hub id or local folder).

    `centroids` is a safetensors file made by `python -m slm.tokenizers fit`, or the name of a packaged one. Layers
    count as in transformers' `hidden_states`. Raises UsageError when the encoder cannot be had, or when the centroids
    were fitted on another encoder or layer: other weights under the same name are another encoder, be it by a bit.

    Whisper takes a clip in windows of 30 s, the others in one piece: what the first convolution gives (512 channels at
    3.2 kHz in fp32, 0.4 GB for a minute of audio) is held more than once, and attention grows with the square of the
    length. Cut long recordings into segments before.
    """

    about: ClassVar[Mapping[str, str]] = {
        "ssl-kmeans": "100 at 50 Hz from 16 kHz (Whisper tiny.en; fit your own for HuBERT, WavLM, wav2vec 2.0); "
        "no decoder; needs the encoder (extra `offline`, a local folder or the hub)"
    }

    def __init__(
        self,
        encoder: str = "openai/whisper-tiny.en",
        layer: int = 3,
        centroids: str = "whisper-tiny.en-l3-k100",
        device: str = "cpu",
    ):
        if Path(encoder).is_dir():
            encoder = str(Path(encoder).resolve())  # the next stage may run elsewhere
        frames = self.make_encoder(encoder, layer, device)
        self._assemble(
            frames,
            centroids,
            device,
            settings={"encoder": encoder, "layer": layer},
            name="ssl-kmeans",
            semantic_codebooks=(0,),
            taxonomy={
                "architecture": "speech encoder, one layer of it",
                "quantization": "k-means (single codebook)",
                "training": "quantizer fitted after the encoder, which is frozen",
                "distillation": "none",
                "bitrate": "fixed",
                "streamable": "no",
                "domain": "speech",
            },
        )

    @classmethod
    def make_encoder(cls, encoder: str = "openai/whisper-tiny.en", layer: int = 3, device: str = "cpu") -> FrameEncoder:
        return load_encoder(encoder, layer, device)
