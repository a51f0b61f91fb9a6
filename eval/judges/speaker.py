"""Speaker embeddings: Resemblyzer out of an installed package, or any x-vector model of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.judges.base import Judge, JudgeRecord, at_rate, from_local_or_hub, need, tool
from slm.types import AudioClip

RATE_HZ = 16_000
SHORTEST_S = 0.25


class SpeakerJudge(Judge):
    """`embed` gives one vector `[D]` a clip; None where there is too little voice to tell."""

    def embed(self, clips: Sequence[AudioClip]) -> list[np.ndarray | None]:
        made: list[np.ndarray | None] = []
        for clip in clips:
            samples = at_rate(clip, RATE_HZ)
            heard = len(samples) >= SHORTEST_S * RATE_HZ and bool(samples.any())
            made.append(self._embed(samples) if heard else None)
        return made

    def _embed(self, samples: np.ndarray) -> np.ndarray | None:
        raise NotImplementedError


class Resemblyzer(SpeakerJudge):
    """GE2E (arXiv 1710.10467), 256 numbers. Volume is set and long pauses are cut, as its package does."""

    def __init__(self, source: str = "", device: str = "cpu"):
        self.name = "resemblyzer"
        install = "pip install --no-deps Resemblyzer==0.1.4 webrtcvad-wheels, and pip install librosa"
        self.tool = need("resemblyzer", "speaker similarity", install)
        self.model = self.tool.VoiceEncoder(device, verbose=False)

    def record(self) -> JudgeRecord:
        return JudgeRecord(tool("Resemblyzer"), "pretrained.pt", RATE_HZ, "windows of 1.6 s, averaged",
                           "pauses cut by webrtcvad 3")  # fmt: skip

    def _embed(self, samples: np.ndarray) -> np.ndarray | None:
        voiced = self.tool.preprocess_wav(np.clip(samples, -1, 1), source_sr=RATE_HZ)
        return self.model.embed_utterance(voiced) if len(voiced) >= SHORTEST_S * RATE_HZ else None


class XVector(SpeakerJudge):
    """`microsoft/wavlm-base-sv` and the like: a hub id or a folder."""

    def __init__(self, source: str, device: str = "cpu"):
        self.name, self.source, self.device = source, source, device

        def load(local_only: bool) -> tuple[Any, Any]:
            from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

            given = {"local_files_only": local_only}
            model = AutoModelForAudioXVector.from_pretrained(source, dtype="float32", **given)
            return model, AutoFeatureExtractor.from_pretrained(source, **given)

        model, self.features = from_local_or_hub(load, source, "speaker similarity")
        self.model = model.to(device).eval()

    def record(self) -> JudgeRecord:
        return JudgeRecord(tool("transformers"), self.source, RATE_HZ, "whole clips")

    def _embed(self, samples: np.ndarray) -> np.ndarray | None:
        import torch

        heard = self.features(samples, sampling_rate=RATE_HZ, return_tensors="pt").input_values.to(self.device)
        with torch.inference_mode():
            return self.model(heard).embeddings[0].float().cpu().numpy()


def speaker_judge(source: str, device: str = "cpu") -> SpeakerJudge:
    return Resemblyzer(device=device) if source == "resemblyzer" else XVector(source, device)
