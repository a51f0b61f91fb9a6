"""DNSMOS P.835 and P.808 as networks of torch, with the weights of Microsoft's package, for a clip at a time.

A clip is heard in windows of 9.01 s, one a second. The package computes each alone; here everything before the first
pooling, which takes nine tenths of the time, is computed once for all. A window's first and last frames, which see
nothing beyond it, are made again. Numbers agree to four decimals.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.judges._onnx import read_tensors
from eval.metrics.signal_spectra import mel_filters

if TYPE_CHECKING:
    from torch import Tensor

FILES = ("sig_bak_ovr.onnx", "model_v8.onnx")
RATE_HZ = 16_000
WINDOW_S = 9.01
HOP = 160
FRAMES = 900
EDGE = 4  # frames that four layers of 3 see beyond their own
BLOCK = 400  # frames at a time: a minute of activations would fill memory
FLOOR = 1e-10  # of power, as librosa's decibels have it
# What the three answers of P.835 are in opinions: polynomials, highest power first.
SCALES = {
    "sig": (-0.08397278, 1.22083953, 0.0052439),
    "bak": (-0.13166888, 1.60915514, -0.39604546),
    "ovrl": (-0.06766283, 1.11546468, 0.04602535),
}


class DnsmosNetworks:
    """`folder` holds `FILES`."""

    def __init__(self, folder: Path, device: str = "cpu"):
        import torch

        self.device = device
        self.p835, self.p808 = (
            {name: torch.from_numpy(array.copy()).to(device) for name, array in read_tensors(folder / file).items()}
            for file in FILES
        )
        self.mel = torch.from_numpy(mel_filters(2 * HOP + 1, 120, RATE_HZ).astype(np.float32)).to(device)

    def rate(self, samples: np.ndarray) -> dict[str, float]:
        """Of float32 `[N]` within ±1: each answer, mean over windows."""
        import torch

        starts, samples = windows(samples)
        with torch.inference_mode():
            heard = torch.from_numpy(samples).to(self.device)
            answers = self._p835(heard, starts).cpu().double().numpy()
            p808 = self._p808(heard, starts).cpu().double().mean().item()
        made = {part: float(np.polyval(scale, answers[:, i]).mean()) for i, (part, scale) in enumerate(SCALES.items())}
        return {**made, "p808": p808}

    def _p835(self, heard: Tensor, starts: list[int]) -> Tensor:
        """Answers `[windows, 3]`."""
        import torch

        frames = heard.unfold(0, 2 * HOP, HOP)
        real, imag = (frames @ self.p835[f"time2freq/stft-{part}/kernel:0"][..., 0].T for part in ("real", "imag"))
        levels = torch.log10((real**2 + imag**2).clamp_min(1e-12))[None, None]
        whole, made = self._in_blocks(levels), []
        for start in starts:
            window = levels[:, :, start : start + FRAMES]
            edges = self._layers(torch.cat([window[:, :, : 2 * EDGE], window[:, :, -2 * EDGE :]]))
            middle = whole[:, :, (start + EDGE) // 2 : (start + FRAMES - EDGE) // 2]
            first, last = _pooled(edges[:1, :, :EDGE]), _pooled(edges[1:, :, EDGE:])
            made.append(self._answer(torch.cat([first, middle, last], dim=2)))
        return torch.cat(made)

    def _in_blocks(self, levels: Tensor) -> Tensor:
        """`_layers` of all frames, some at a time, and pooled: windows begin at even ones."""
        import torch

        made = []
        for start in range(0, levels.shape[2], BLOCK):
            before = min(EDGE, start)
            block = self._layers(levels[:, :, start - before : start + BLOCK + EDGE])
            made.append(_pooled(block[:, :, before : before + BLOCK]))
        return torch.cat(made, dim=2)

    def _layers(self, h: Tensor) -> Tensor:
        for layer in ("conv2d", "conv2d_1", "conv2d_2", "conv2d_3"):
            h = _convolved(h, self.p835, layer)
        return h

    def _answer(self, h: Tensor) -> Tensor:
        """The rest of P.835, of one window after the first pooling: `[1, 3]`."""
        h = _convolved(h, self.p835, "conv2d_4")
        for layer in ("conv2d_5", "conv2d_6"):
            h = _convolved(_pooled(h), self.p835, layer)
        return _dense(h.amax((2, 3)), self.p835, "mos_estimator_logpow", ("dense", "dense_1", "dense_3"))

    def _p808(self, heard: Tensor, starts: list[int]) -> Tensor:
        """Answers `[windows, 1]`: each window's loudest band is 0 dB."""
        import torch

        frames = torch.nn.functional.pad(heard, (HOP, HOP)).unfold(0, 2 * HOP + 1, HOP)
        whole, made = self._mel(frames), []
        for start in starts:
            edges = torch.stack([frames[start], frames[start + FRAMES - 1]])
            edges[0, :HOP], edges[1, -1] = 0, 0  # they see nothing beyond the window
            first, last = self._mel(edges)
            power = torch.cat([first[None], whole[start + 1 : start + FRAMES - 1], last[None]])
            levels = 10 * torch.log10(power.clamp_min(FLOOR))
            levels = (levels - levels.max()).clamp_min(-80)
            made.append(self._answer_p808((levels[None, None] + 40) / 40))
        return torch.cat(made)

    def _mel(self, frames: Tensor) -> Tensor:
        """Power in mel bands `[T, 120]` of frames `[T, 321]`."""
        import torch

        window = torch.hann_window(2 * HOP + 1, device=self.device)
        return torch.fft.rfft(frames * window).abs().square() @ self.mel

    def _answer_p808(self, h: Tensor) -> Tensor:
        for layer, pools in (("5", True), ("6", True), ("7", False), ("8", True), ("9", False)):
            h = _convolved(h, self.p808, f"conv2d_{layer}")
            h = _pooled(h) if pools else h
        return _dense(h.amax((2, 3)), self.p808, "mos_estimator_small_1", ("dense_3", "dense_4", "dense_5"))


def windows(samples: np.ndarray) -> tuple[list[int], np.ndarray]:
    """The first frame of each window, and the samples up to the last one's end. A clip that is shorter than one is
    doubled until it is not; the last second or two may be heard by none, as in the package."""
    length = int(WINDOW_S * RATE_HZ)
    while len(samples) < length:
        samples = np.concatenate([samples, samples])
    number = int(len(samples) // RATE_HZ - WINDOW_S) + 1
    ends = [int((i + WINDOW_S) * RATE_HZ) for i in range(number)]
    whole = [i for i, end in enumerate(ends) if min(end, len(samples)) - i * RATE_HZ >= length]
    return [i * RATE_HZ // HOP for i in whole], samples[: whole[-1] * RATE_HZ + length]


def _convolved(h: Tensor, weights: dict[str, Tensor], layer: str) -> Tensor:
    import torch

    return torch.relu_(torch.conv2d(h, weights[f"{layer}/kernel:0"], weights[f"{layer}/bias:0"], padding=1))


def _pooled(h: Tensor) -> Tensor:
    """The largest of every 2 x 2, as `max_pool2d`, which also looks for where each is, one after the other."""
    import torch

    rows, columns = h.shape[2] // 2 * 2, h.shape[3] // 2 * 2
    h = torch.maximum(h[:, :, 0:rows:2, :columns], h[:, :, 1:rows:2, :columns])
    return torch.maximum(h[..., 0::2], h[..., 1::2])


def _dense(h: Any, weights: dict[str, Tensor], network: str, layers: tuple[str, ...]) -> Tensor:
    """Layers with rectifiers between them."""
    for number, layer in enumerate(layers):
        h = h.relu() if number else h
        kernel, bias = (f"{network}/{layer}/{op}/ReadVariableOp/resource:0" for op in ("MatMul", "BiasAdd"))
        h = h @ weights[kernel] + weights[bias]
    return h
