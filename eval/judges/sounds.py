"""Judges of general audio, by hub id or folder: CLAP (words and sounds in one space) and classifiers of sounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.judges._whole import whole_model
from eval.judges.base import Judge, JudgeRecord, at_rate, from_local_or_hub, in_equal_batches, tool
from slm.types import AudioClip

BATCH = 8


class Clap(Judge):
    """LAION's CLAP (arXiv 2211.06687) as transformers has it: one vector `[D]` a clip, and one a text."""

    def __init__(self, source: str = "laion/clap-htsat-unfused", device: str = "cpu"):
        self.name, self.source, self.device = "clap", source, device

        def load(local_only: bool) -> tuple[Any, Any]:
            from transformers import ClapModel, ClapProcessor

            given = {"local_files_only": local_only, "trust_remote_code": False}
            return whole_model(ClapModel, source, "CLAP", **given), ClapProcessor.from_pretrained(source, **given)

        model, self.processor = from_local_or_hub(load, source, "CLAP")
        self.model = model.to(device).eval()
        self.rate_hz = int(self.processor.feature_extractor.sampling_rate)

    def record(self) -> JudgeRecord:
        features = self.processor.feature_extractor
        cut = f"{features.truncation} to {features.max_length_s:g} s, {features.padding}"
        return JudgeRecord(tool("transformers"), self.source, self.rate_hz, cut)

    def embed(self, clips: Sequence[AudioClip]) -> list[np.ndarray | None]:
        return [self._audio(at_rate(clip, self.rate_hz)) if len(clip.samples) else None for clip in clips]

    def embed_texts(self, texts: Sequence[str]) -> list[np.ndarray]:
        import torch

        config = self.model.config.text_config
        room = config.max_position_embeddings - config.pad_token_id - 1  # as RoBERTa counts them
        most, made = min(self.processor.tokenizer.model_max_length, room), []
        for text in texts:
            given = self.processor.tokenizer([text], return_tensors="pt", truncation=True, max_length=most)
            with torch.inference_mode():
                made.append(_vector(self.model.get_text_features(**given.to(self.device))))
        return made

    def _audio(self, samples: np.ndarray) -> np.ndarray:
        """numpy's generator decides where a long clip is cut: seeded, so that it is the same each time."""
        import torch

        state = np.random.get_state()
        np.random.seed(0)
        try:
            given = self.processor.feature_extractor(samples, sampling_rate=self.rate_hz, return_tensors="pt")
        finally:
            np.random.set_state(state)
        with torch.inference_mode():
            return _vector(self.model.get_audio_features(**given.to(self.device)))


class SoundClassifier(Judge):
    """Probabilities `[C]` of sounds (softmax, as AudioCraft takes them), by any classifier of transformers."""

    def __init__(self, source: str = "MIT/ast-finetuned-audioset-10-10-0.4593", device: str = "cpu"):
        self.name, self.source, self.device = "classifier", source, device

        def load(local_only: bool) -> tuple[Any, Any]:
            from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

            given = {"local_files_only": local_only, "trust_remote_code": False}
            model = whole_model(AutoModelForAudioClassification, source, "the classifier of sounds", **given)
            return model, AutoFeatureExtractor.from_pretrained(source, **given)

        model, self.features = from_local_or_hub(load, source, "the classifier of sounds")
        self.model = model.to(device).eval()
        self.rate_hz = int(self.features.sampling_rate)

    def record(self) -> JudgeRecord:
        return JudgeRecord(
            tool("transformers"), self.source, self.rate_hz, "as its feature extractor cuts and pads", "softmax"
        )

    def classify(self, clips: Sequence[AudioClip]) -> list[np.ndarray | None]:
        import torch

        samples = [at_rate(clip, self.rate_hz) for clip in clips]
        heard = [i for i, one in enumerate(samples) if len(one) >= 0.15 * self.rate_hz]  # as AudioCraft has it
        made: list[np.ndarray | None] = [None] * len(clips)
        for batch in in_equal_batches([samples[i] for i in heard], BATCH):
            places = [heard[b] for b in batch]
            given = self.features([samples[i] for i in places], sampling_rate=self.rate_hz, return_tensors="pt")
            with torch.inference_mode():
                shares = torch.softmax(self.model(**given.to(self.device)).logits.cpu().double(), -1).numpy()
            for place, one in zip(places, shares, strict=True):
                made[place] = one
        return made


def _vector(found: Any) -> np.ndarray:
    """Of one item: transformers gives the tensor, or an output that holds it."""
    return getattr(found, "pooler_output", found)[0].float().cpu().numpy()
