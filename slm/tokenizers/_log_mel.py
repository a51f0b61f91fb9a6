"""The log-mel frames that encoders of transformers read, by its own feature extractors, or the same on a GPU.

Those of w2v-BERT 2.0 are Kaldi's, every 10 ms, each band normalized over the clip, `stride` in one: transformers
computes them frame by frame in numpy, at some 200 times real time, which would be most of the time of a GPU. There the
same steps run on the device, as far as that goes in the same precision. Whisper's come back to the host from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_FRAME, _HOP, _FFT = 400, 160, 512
_PREEMPHASIS = 0.97
_QUIETEST = 1.192092955078125e-07


class LogMel:
    """By a `SeamlessM4TFeatureExtractor`, or what such a one is without settings."""

    def __init__(self, extractor: Any = None):
        from transformers import SeamlessM4TFeatureExtractor

        self.extractor = extractor or SeamlessM4TFeatureExtractor()
        self._tables: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, signal: torch.Tensor, fill_last: bool) -> torch.Tensor:
        """A signal `[N]` -> fp32 `[1, T, stride x bands]` on its device. What is left of a `stride` is filled up with
        zeros (`fill_last`) or dropped."""
        extractor = self.extractor
        if not signal.is_cuda:
            made: torch.Tensor = extractor(
                signal.float().cpu().numpy(),
                sampling_rate=extractor.sampling_rate,
                pad_to_multiple_of=extractor.stride if fill_last else None,
                return_tensors="pt",
            ).input_features
            return made.to(signal.device)
        return self.on_device(signal, fill_last)

    def on_device(self, signal: torch.Tensor, fill_last: bool) -> torch.Tensor:
        """The same by torch."""
        import torch

        stride = self.extractor.stride
        bands = self._log_bands(signal.double())
        centred = bands - bands.mean(dim=0)
        normed = centred / (centred.square().sum(dim=0) / (len(bands) - 1) + 1e-7).sqrt()
        over = len(normed) % stride
        if over and fill_last:
            normed = torch.nn.functional.pad(normed, (0, 0, 0, stride - over))
        return normed[: len(normed) // stride * stride].reshape(1, -1, stride * normed.shape[1]).float()

    def _log_bands(self, signal: torch.Tensor) -> torch.Tensor:
        """float64 `[N]` -> `[T, bands]` in float64, rounded where transformers rounds: the spectrum and the logarithm
        are kept in single precision."""
        import torch

        if signal.device not in self._tables:
            tables = (torch.from_numpy(t).double() for t in (self.extractor.window, self.extractor.mel_filters))
            window, filters = (t.to(signal.device) for t in tables)
            self._tables[signal.device] = window, filters
        window, filters = self._tables[signal.device]
        frames = (signal * 2**15).unfold(0, _FRAME, _HOP)  # as 16-bit samples
        frames = frames - frames.mean(dim=1, keepdim=True)
        before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
        spectrum = torch.fft.rfft((frames - _PREEMPHASIS * before) * window, _FFT).to(torch.complex64)
        power = spectrum.to(torch.complex128).abs().square()
        return (power @ filters).clamp_min(_QUIETEST).log().float().double()


def whisper_log_mel(bands: int) -> WhisperLogMel:
    """That of a Whisper of so many bands, 10 ms apart, at 16 kHz."""
    from transformers import WhisperFeatureExtractor

    return WhisperLogMel(WhisperFeatureExtractor(feature_size=bands))


class WhisperLogMel:
    """By a `WhisperFeatureExtractor`."""

    def __init__(self, extractor: Any):
        self.extractor = extractor
        self._tables: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, signal: torch.Tensor) -> torch.Tensor:
        """A signal `[N]` -> fp32 `[1, N / 160, bands]` on its device."""
        if signal.is_cuda:
            return self.on_device(signal)
        made: torch.Tensor = self.extractor(
            signal.float().cpu().numpy(),
            sampling_rate=self.extractor.sampling_rate,
            padding="longest",
            truncation=False,
            return_tensors="pt",
        ).input_features
        return made.mT.to(signal.device)

    def on_device(self, signal: torch.Tensor) -> torch.Tensor:
        """The same by torch, step by step."""
        import torch

        extractor, signal = self.extractor, signal.float()[None]
        if extractor.dither:
            signal = signal + extractor.dither * torch.randn_like(signal)
        if signal.device not in self._tables:
            filters = torch.from_numpy(extractor.mel_filters).float().to(signal.device)
            self._tables[signal.device] = torch.hann_window(extractor.n_fft, device=signal.device), filters
        window, filters = self._tables[signal.device]
        spectrum = torch.stft(signal, extractor.n_fft, extractor.hop_length, window=window, return_complex=True)
        power = (spectrum[..., :-1].abs() ** 2).contiguous()
        log_mel = (filters.T @ power).clamp(min=1e-10).log10()
        return ((torch.maximum(log_mel, log_mel.amax() - 8.0) + 4.0) / 4.0).mT
