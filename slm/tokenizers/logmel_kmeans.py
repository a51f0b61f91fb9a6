"""Units of the log-mel spectrogram: the baseline of GSLM (Lakhotia et al., 2021) that needs no model at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from slm.tokenizers._frames import FrameEncoder
from slm.tokenizers._kmeans import KmeansTokenizer
from slm.tokenizers.base import TOKENIZERS
from slm.tokenizers.database import taxonomy_of

if TYPE_CHECKING:
    import torch

_WINDOW = 400  # 25 ms
_PART_FRAMES = 3_000  # a minute
_FLOOR = -8.0  # log10 of power below the clip's loudest band: 80 dB
_QUIETEST_PEAK = 1e-2  # power: a clip whose loudest band is below it is quiet, not to be amplified


class LogMelFrames(FrameEncoder):
    """80-band log-mel (Slaney) of 25 ms Hann windows, one every 20 ms, in log10 of power relative to the clip's peak.

    No window reaches past the clip: T = floor((N - 400) / 320) + 1. Being relative to the peak, the features do not
    change with the recording level, except that of a nearly silent clip. The spectrum of a long clip is taken in
    parts, which do not change it; only the bands of the whole clip are held (0.17 GB for three hours).
    """

    sample_rate_hz = 16_000
    hop_samples = 320
    frame_offset_samples = hop_samples - _WINDOW
    width = 80

    def __init__(self, device: str = "cpu"):
        import torch
        from transformers.audio_utils import mel_filter_bank

        filters = mel_filter_bank(
            num_frequency_bins=_WINDOW // 2 + 1,
            num_mel_filters=self.width,
            min_frequency=0.0,
            max_frequency=self.sample_rate_hz / 2,
            sampling_rate=self.sample_rate_hz,
            norm="slaney",
            mel_scale="slaney",
        )
        self.filters = torch.from_numpy(filters).float().to(device)
        self.window = torch.hann_window(_WINDOW, device=device)

    def features_of(self, part: np.ndarray) -> torch.Tensor:
        import torch

        waveform = torch.from_numpy(np.ascontiguousarray(part)).to(self.window.device)
        frames = self.num_frames(len(part))
        power = torch.empty(frames, self.width, device=self.window.device)
        for start in range(0, frames, _PART_FRAMES):
            first = start * self.hop_samples
            piece = waveform[first : first + (_PART_FRAMES - 1) * self.hop_samples + _WINDOW]
            spectrum = torch.stft(
                piece, _WINDOW, self.hop_samples, window=self.window, center=False, return_complex=True
            )
            power[start : start + _PART_FRAMES] = spectrum.abs().square().T @ self.filters
        peak = power.max().clamp_min(_QUIETEST_PEAK)
        return power.div_(peak).clamp_min_(10**_FLOOR).log10_()[None]  # in place: of three hours, 0.17 GB each

    def identity(self, layer: int) -> dict[str, Any]:
        # Filters and window are computed: their last bits may differ between machines, so they are not hashed.
        settings = {"family": "log-mel", "bands": self.width, "window": _WINDOW, "hop": self.hop_samples}
        return settings | {"floor": _FLOOR, "quietest_peak": _QUIETEST_PEAK}


@TOKENIZERS.register("logmel-kmeans")
class LogmelKmeansTokenizer(KmeansTokenizer):
    """k-means units of 80-band log-mel frames at 50 Hz.

    `centroids` is a safetensors file made by `python -m slm.tokenizers fit --tokenizer logmel-kmeans`, or the name of
    a packaged one.
    """

    about: ClassVar[Mapping[str, str]] = {"logmel-kmeans": "100 at 50 Hz from 16 kHz; no decoder; needs nothing"}

    def __init__(self, centroids: str = "logmel-k100", device: str = "cpu"):
        self._assemble(
            self.make_encoder(device),
            centroids,
            device,
            origin={},
            cut={},
            settings={},
            name="logmel-kmeans",
            taxonomy=taxonomy_of("logmel-kmeans"),
        )

    @classmethod
    def make_encoder(cls, device: str = "cpu") -> FrameEncoder:
        return LogMelFrames(device)
