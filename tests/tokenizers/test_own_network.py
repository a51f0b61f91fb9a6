"""A codec of one's own on `NeuralCodec`, small and whole, as docs/adding_a_tokenizer.md has it, and its laws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from slm.tokenizers._checkpoints import find_files, load_strict, read_tensors
from slm.tokenizers._codec import NeuralCodec, conv_context, pad_to_frames
from slm.tokenizers.laws import batching_law, fingerprint_law, long_audio_law, tokenizer_law
from slm.types import AudioClip
from tests.contracts import second_device_law
from tests.tokenizers.speech import real_clips

HOP, SIZE = 160, 64


class Network(nn.Module):
    """Convolutions, two residual codebooks, and a way back."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv1d(1, 8, 2 * HOP, HOP, padding=HOP // 2), nn.ELU(), nn.Conv1d(8, 8, 3, padding=1)
        )
        self.decoder = nn.Sequential(
            nn.Conv1d(8, 8, 3, padding=1), nn.ELU(), nn.ConvTranspose1d(8, 1, 2 * HOP, HOP, HOP // 2)
        )
        self.books = nn.ModuleList(nn.Embedding(SIZE, 8) for _ in range(2))


class OwnCodec(NeuralCodec):
    """Two codebooks at 100 Hz. T = ceil(N / hop)."""

    about: ClassVar[Mapping[str, str]] = {"own": "64 x 2 at 100 Hz from 16 kHz; decodes; needs model.safetensors"}
    batching = "frames"  # a clip is filled up to whole frames and ends there: `batching_law` proves it

    def __init__(self, *, checkpoint: str, num_codebooks: int | None = None, device: str = "cpu"):
        file = find_files(checkpoint, ["model.safetensors"])["model.safetensors"]
        self.model = Network().eval().requires_grad_(False)
        load_strict(self.model, read_tensors(file), checkpoint)
        self.model.to(device)
        self.context_frames = conv_context(self.model.encoder, HOP)
        self.decoder_context_frames = conv_context(self.model.decoder, HOP, from_frames=True)
        self.spec = self._make_spec(
            name="own",
            checkpoint=checkpoint,
            num_codebooks=num_codebooks,
            codebook_sizes=(SIZE, SIZE),
            sample_rate_hz=16_000,
            hop_samples=HOP,
            frame_offset_samples=HOP - 1,
            identity={},  # nothing but the weights changes a code
        )

    def _codes_of(self, signals: torch.Tensor) -> torch.Tensor:
        latents, codes = self.model.encoder(pad_to_frames(signals, HOP)).mT, []
        for book in self.model.books[: self.spec.num_codebooks]:
            codes.append(torch.cdist(latents, book.weight[None]).argmin(dim=-1))
            latents = latents - book(codes[-1])
        return torch.stack(codes, dim=1)

    def _audio_of(self, codes: torch.Tensor) -> torch.Tensor:
        latents = sum(book(code) for book, code in zip(self.model.books, codes.unbind(dim=1), strict=False))
        return self.model.decoder(latents.mT)[:, 0]  # type: ignore[union-attr]

    @classmethod
    def write_untrained(cls, folder: str | Path, seed: int = 0) -> None:
        Path(folder).mkdir(parents=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            state = Network().state_dict()
        state |= {name: 0.05 * value for name, value in state.items() if name.startswith("books.")}
        save_file(state, Path(folder) / "model.safetensors")


@pytest.fixture
def load(tmp_path: Path) -> Any:
    OwnCodec.write_untrained(tmp_path / "weights")

    def loaded(mode: str = "exact", device: str = "cpu") -> OwnCodec:
        codec = OwnCodec(checkpoint=str(tmp_path / "weights"), device=device)
        codec.use_mode(mode)
        return codec

    return loaded


def test_it_keeps_the_law(load: Any) -> None:
    tokenizer_law(load(), real_clips(16_000))


def test_its_fingerprint_is_that_of_its_weights(tmp_path: Path) -> None:
    OwnCodec.write_untrained(tmp_path / "weights")

    def make(weights: Mapping[str, np.ndarray]) -> OwnCodec:
        save_file({name: torch.from_numpy(w) for name, w in weights.items()}, tmp_path / "weights/model.safetensors")
        return OwnCodec(checkpoint=str(tmp_path / "weights"))

    tensors = load_file(tmp_path / "weights/model.safetensors")
    fingerprint_law(make, {name: tensor.numpy().copy() for name, tensor in tensors.items()})


def test_long_clips_go_in_pieces(load: Any) -> None:
    long_audio_law(load(), real_clips(16_000)[0])


def test_nothing_is_forgotten_on_the_cpu_nor_left_there(load: Any) -> None:
    clips = [replace(clip, samples=clip.samples[:20_000]) for clip in real_clips(16_000)]
    second_device_law(load, clips)
    with pytest.raises(AssertionError, match="weights stay on the CPU"):
        second_device_law(lambda mode="exact", device="cpu": load(mode), clips)


class WholeFrames(OwnCodec):
    """T = floor(N / hop); the last frame sees the samples behind it that have no frame."""

    def __init__(self, *, checkpoint: str):
        super().__init__(checkpoint=checkpoint)
        self.spec = replace(self.spec, frame_offset_samples=0)

    def _codes_of(self, signals: torch.Tensor) -> torch.Tensor:
        return super()._codes_of(functional.pad(signals, (0, HOP)))[..., : signals.shape[-1] // HOP]


def test_pieces_hear_what_has_no_frame(tmp_path: Path) -> None:
    """The last piece but one too, where the last is shorter than a frame sees."""
    OwnCodec.write_untrained(tmp_path / "weights")
    codec = WholeFrames(checkpoint=str(tmp_path / "weights"))
    codec.model.double()
    rng = np.random.default_rng(0)
    clips = [AudioClip(f"{i}", rng.normal(size=12 * HOP - 1).astype(np.float32), 16_000) for i in range(60)]
    whole = codec.encode(clips)
    codec.piece_s = 10 / codec.spec.frame_rate_hz
    assert all(len(codes.codes) == 11 for codes in whole)
    assert all(np.array_equal(a.codes, b.codes) for a, b in zip(codec.encode(clips), whole, strict=True))


def test_clips_share_a_batch(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OwnCodec, "batch_s", {"cpu": 30.0})
    batching_law(load(), load("batched"), real_clips(16_000))


def test_a_wrong_kind_of_batch_is_found_out(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OwnCodec, "batch_s", {"cpu": 30.0})
    monkeypatch.setattr(OwnCodec, "batching", "samples")
    with pytest.raises(AssertionError, match="differ in a batch"):
        batching_law(load(), load("batched"), real_clips(16_000))


def test_by_hand(load: Any) -> None:
    """Each code is the nearest row of its codebook to what the ones before left."""
    codec = load()
    (clip,) = real_clips(16_000, 1)
    (made,) = codec.encode([AudioClip("start", clip.samples[: 50 * HOP], 16_000)])
    with torch.inference_mode():
        left = codec.model.encoder(torch.from_numpy(clip.samples[None, None, : 50 * HOP]))[0].T.numpy()
    for column, book in zip(made.codes.T, codec.model.books, strict=True):
        table = book.weight.numpy()
        distances = np.square(left[:, None] - table).sum(axis=2)
        assert np.array_equal(column, distances.argmin(axis=1))
        left = left - table[column]
