"""EnCodec, DAC and Mimi in a light build with random weights, for tests: the classes of transformers, real strides.

Fresh EnCodec and Mimi have codebooks of zeros and give one single code, which satisfies any comparison. Theirs are
filled with latents of real speech, level by level; a test should still assert that many codes come out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel, MimiConfig, MimiModel

from slm.tokenizers._untrained import filling_codebooks
from slm.types import AudioClip

SPEECH = sorted((Path(__file__).parents[1] / "data/speech/en").glob("vm-*.opus"))
FAMILIES = ("encodec", "dac", "mimi")
RATES_HZ = {"encodec": 24_000, "dac": 16_000, "mimi": 24_000}
HOPS = {"encodec": 320, "dac": 320, "mimi": 1920}

# Strides, padding and rates are those of the published models, so that the frame rule is; widths are not.
ENCODEC = {
    "num_filters": 4,
    "hidden_size": 16,
    "num_lstm_layers": 1,
    "codebook_size": 64,
    "target_bandwidths": [0.9, 1.8],  # 2 and 4 codebooks of 6 bits at 75 Hz
}
DAC = {
    "encoder_hidden_size": 4,
    "decoder_hidden_size": 32,
    "downsampling_ratios": [2, 4, 5, 8],
    "n_codebooks": 4,
    "codebook_size": 64,
}
MIMI = {
    "num_filters": 4,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "sliding_window": 8,
    "upsample_groups": 32,
    "vector_quantization_hidden_dimension": 16,
    "codebook_dim": 16,
    "codebook_size": 64,
    "num_quantizers": 4,
    "frame_rate": 12.5,
}


def speech(rate_hz: int, clips: int = 4) -> list[AudioClip]:
    """Real clips of odd lengths, 0.9 s and more."""
    made = []
    for i, path in enumerate(SPEECH[:clips]):
        samples, from_hz = soundfile.read(path, dtype="float32")
        samples = soxr.resample(samples, from_hz, rate_hz)
        made.append(AudioClip(path.stem, samples[: int(rate_hz * (0.9 + 0.2 * i)) + 7].copy(), rate_hz))
    return made


def fill_codebooks(model: Any, clips: list[AudioClip], seed: int = 0) -> None:
    """Give each codebook as many of the latents that reach it on `clips`; a level sees the residue of those before."""
    audio = torch.from_numpy(np.concatenate([clip.samples for clip in clips]))[None, None]
    highest = {"bandwidth": max(model.config.target_bandwidths)} if isinstance(model, EncodecModel) else {}
    filling_codebooks(model, lambda: model.encode(audio, **highest), seed)


def make_model(family: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    if family == "encodec":
        model = EncodecModel(EncodecConfig(**{**ENCODEC, **changes})).eval()
    elif family == "mimi":
        model = MimiModel(MimiConfig(**{**MIMI, **changes})).eval()
    else:
        return DacModel(DacConfig(**{**DAC, **changes})).eval()
    fill_codebooks(model, speech(24_000, clips=8))
    return model
