"""An arithmetic tokenizer and tiny models, so that most of the suite needs no weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slm.files import write_json
from slm.tokenizers.base import Tokenizer, fingerprint
from slm.types import AudioClip, Codes, TokenizerSpec


class ArithmeticTokenizer(Tokenizer):
    """Each frame of 160 samples at 8 kHz becomes K codes computed from its rounded mean: exact, invertible up to
    rounding, and instant. `bias` changes the codes, hence the fingerprint."""

    def __init__(self, num_codebooks: int = 2, codebook_size: int = 16, bias: int = 0, device: str = "cpu"):
        self.bias = bias
        settings = {"num_codebooks": num_codebooks, "codebook_size": codebook_size, "bias": bias}
        self.spec = TokenizerSpec(
            name="arithmetic",
            fingerprint=fingerprint(settings),
            sample_rate_hz=8000,
            hop_samples=160,
            codebook_sizes=(codebook_size,) * num_codebooks,
            settings=settings,
        )

    def _encode(self, signals: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [self._encode_one(signal) for signal in signals]

    def _encode_one(self, signal: np.ndarray) -> np.ndarray:
        frames = signal[: len(signal) // 160 * 160].reshape(-1, 160).astype(np.float64)
        level = np.rint((frames.mean(axis=1) + 1) * 1000).astype(np.int64) + self.bias
        return np.stack([(level // (k + 1)) % size for k, size in enumerate(self.spec.codebook_sizes)], axis=1)

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        return np.repeat(codes[:, 0].astype(np.float32) / self.spec.codebook_sizes[0], 160)


def random_codes(tokenizer: Tokenizer, frames: Sequence[int], seed: int = 0) -> list[Codes]:
    """Codes of the given lengths, uniform over each codebook."""
    rng, spec = np.random.default_rng(seed), tokenizer.spec
    return [
        Codes(f"clip-{i:03d}", rng.integers(0, spec.codebook_sizes, (t, spec.num_codebooks)).astype(spec.code_dtype),
              t * spec.hop_samples, spec)
        for i, t in enumerate(frames)
    ]  # fmt: skip


def tone(duration_s: float, sample_rate_hz: int = 8000, hz: float = 220.0, id: str = "tone") -> AudioClip:
    t = np.arange(round(duration_s * sample_rate_hz)) / sample_rate_hz
    return AudioClip(id, (0.3 * np.sin(2 * np.pi * hz * t)).astype(np.float32), sample_rate_hz)


def write_corpus(path: Path, codes: Sequence[Codes]) -> Path:
    """A tokenized corpus written by `datasets` itself: what `slm.corpus` writes must read the same."""
    from datasets import Dataset, Features, List, Value

    spec = codes[0].spec
    rows = {
        "id": [c.id for c in codes],
        "codes": [c.codes for c in codes],
        "num_samples": [c.num_samples for c in codes],
        "duration_s": [c.duration_s for c in codes],
    }
    features = Features(
        {
            "id": Value("string"),
            "codes": List(List(Value("uint16"), length=spec.num_codebooks)),
            "num_samples": Value("int64"),
            "duration_s": Value("float32"),
        }
    )
    Dataset.from_dict(rows, features=features).save_to_disk(str(path))
    write_json(path / "tokenizer.json", spec.to_dict())
    return path


def markov_codes(tokenizer: Tokenizer, clips: int, seed: int = 0) -> list[Codes]:
    """Clips with something to learn: code c is followed by c + 1 (mod V) nine times in ten; lengths vary."""
    rng, spec = np.random.default_rng(seed), tokenizer.spec
    made = []
    for i in range(clips):
        frames = int(rng.integers(8, 40))
        steps = np.where(rng.random((frames, spec.num_codebooks)) < 0.9, 1, rng.integers(0, 16, (frames, 1)))
        codes = (np.cumsum(steps, axis=0) % spec.codebook_sizes).astype(spec.code_dtype)
        made.append(Codes(f"clip-{i:03d}", codes, frames * spec.hop_samples, spec))
    return made


TINY_BACKBONE = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
