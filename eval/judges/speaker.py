"""Speaker embeddings: Resemblyzer out of an installed package, or any x-vector model of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.judges._whole import whole_model
from eval.judges.base import Judge, JudgeRecord, at_rate, from_local_or_hub, in_equal_batches, need, tool
from slm.types import AudioClip

RATE_HZ = 16_000
SHORTEST_S = 0.25
BATCH = 8


class SpeakerJudge(Judge):
    """`embed` gives one vector `[D]` a clip; None where there is too little voice to tell."""

    def embed(self, clips: Sequence[AudioClip]) -> list[np.ndarray | None]:
        samples = [at_rate(clip, RATE_HZ) for clip in clips]
        heard = [i for i, one in enumerate(samples) if len(one) >= SHORTEST_S * RATE_HZ and one.any()]
        made: list[np.ndarray | None] = [None] * len(clips)
        for place, vector in zip(heard, self._embed([samples[i] for i in heard]), strict=True):
            made[place] = vector
        return made

    def _embed(self, clips: Sequence[np.ndarray]) -> Sequence[np.ndarray | None]:
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

    def _embed(self, clips: Sequence[np.ndarray]) -> Sequence[np.ndarray | None]:
        voiced = [self.tool.preprocess_wav(np.clip(one, -1, 1), source_sr=RATE_HZ) for one in clips]
        return [self.model.embed_utterance(v) if len(v) >= SHORTEST_S * RATE_HZ else None for v in voiced]


class XVector(SpeakerJudge):
    """`microsoft/wavlm-base-sv` and the like: a hub id or a folder."""

    def __init__(self, source: str, device: str = "cpu"):
        self.name, self.source, self.device = source, source, device

        def load(local_only: bool) -> tuple[Any, Any]:
            from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

            given = {"local_files_only": local_only, "trust_remote_code": False}
            model = whole_model(AutoModelForAudioXVector, source, "speaker similarity", **given)
            return model, AutoFeatureExtractor.from_pretrained(source, **given)

        model, self.features = from_local_or_hub(load, source, "speaker similarity")
        self.model = model.to(device).eval()

    def record(self) -> JudgeRecord:
        return JudgeRecord(tool("transformers"), self.source, RATE_HZ, "whole clips")

    def _embed(self, clips: Sequence[np.ndarray]) -> Sequence[np.ndarray | None]:
        """Clips of one length together: some of these models would hear padding."""
        import torch

        made: list[np.ndarray | None] = [None] * len(clips)
        for places in in_equal_batches(clips, BATCH):
            given = self.features([clips[i] for i in places], sampling_rate=RATE_HZ, return_tensors="pt")
            heard = given[self.model.main_input_name]
            if not self._can_tell(heard):
                continue
            with torch.inference_mode():
                found = self.model(heard.to(self.device)).embeddings.float().cpu().numpy()
            for place, vector in zip(places, found, strict=True):
                made[place] = vector
        return made

    def _can_tell(self, heard: Any) -> bool:
        """Whether two frames or more reach the end of the TDNN, of which mean and deviation are taken. `heard` are
        samples `[B, N]` or spectra `[B, T, C]`."""
        config = self.model.config
        frames = heard.shape[1]
        if heard.ndim == 2:
            frames = int(self.model._get_feat_extract_output_lengths(frames))
        lost = sum((kernel - 1) * step for kernel, step in zip(config.tdnn_kernel, config.tdnn_dilation, strict=True))
        return frames - lost >= 2


def speaker_judge(source: str, device: str = "cpu") -> SpeakerJudge:
    """Resemblyzer is small, and hears voice on a CPU first: it stays there."""
    return Resemblyzer() if source == "resemblyzer" else XVector(source, device)
