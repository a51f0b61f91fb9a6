"""The S3 tokenizer: supervised semantic speech tokens of CosyVoice (Du et al., 2024, arXiv 2407.05407)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from slm.errors import UsageError
from slm.files import atomic_directory
from slm.tokenizers._checkpoints import find_files, load_strict
from slm.tokenizers._codec import widest_layer
from slm.tokenizers._log_mel import whisper_log_mel
from slm.tokenizers._s3tokenizer_graph import read_graph, write_graph
from slm.tokenizers._supervised import MEL_HOP, SupervisedTokenizer, fill_codebook
from slm.tokenizers.base import TOKENIZERS
from slm.tokenizers.database import taxonomy_of

if TYPE_CHECKING:
    import torch


FILES = tuple(f"speech_tokenizer_{version}.onnx" for version in ("v2", "v2_25hz", "v3", "v1", "v1_25hz"))
"""The authors' names, and those of the package `s3tokenizer`."""
_RATE_HZ, _BANDS = 16_000, 128
_MEL_RATE_HZ = _RATE_HZ / MEL_HOP
_SHORTEST = 201
"""Samples, less than which cannot be mirrored at their ends, as Whisper's spectra are."""
_RANGE = 2.0
"""What lies further below the loudest band of a clip is cut off: 80 dB, of which Whisper's frames have 40 as 1."""


@TOKENIZERS.register("s3tokenizer")
class S3Tokenizer(SupervisedTokenizer):
    """S3: the quantized middle of a speech recognizer, which keeps what is said. No decoder: the way back is
    CosyVoice's flow matching, a model for itself.

    One codebook: 4096 directions at 50 or 25 Hz (version 1), 6561 by finite scalar quantization at 25 Hz (2 and 3).
    `checkpoint` is a graph, on the hub (FunAudioLLM/Fun-CosyVoice3-0.5B-2512/speech_tokenizer_v3.onnx) or here, a
    folder with one of them, or a hub id with `speech_tokenizer_v2.onnx`. Which version it is, is read from the graph.

    T is that of mel frames, M = floor(N / 160), rounded up to whole codes: ceil(M / 4) at 25 Hz, ceil(M / 2) at 50 Hz.
    Clips of 160 to 200 samples are filled up with zeros to 201. The encoder attends to the whole clip, of 30 s at most,
    and is trained on these. A longer one is coded in windows of 30 s that overlap by 4 s, of which the outer 2 s are
    dropped, as the package `s3tokenizer` has it (after version 0.3.0, in which of some lengths up to 2 s were lost);
    how loud the loudest band is, from which spectra are cut off 80 dB below, is that of the whole clip.

    Raises UsageError where the weights or the package `onnx` are not there, and for more than one codebook.
    """

    piece_s = 30.0
    longest_in_batch_s = piece_s
    overlap_s = 4.0
    mismatch: ClassVar[Mapping[str, str]] = {"bf16": "about 5 %"}
    measured_on = "a CPU"
    about: ClassVar[Mapping[str, str]] = {
        "s3tokenizer": "6561 x 1 at 25 Hz from 16 kHz (CosyVoice 2 and 3; version 1: 4096 at 50 or 25 Hz); no decoder; "
        "needs `pip install onnx` and FunAudioLLM/CosyVoice2-0.5B (hub or local folder)"
    }

    def __init__(
        self, *, checkpoint: str = "FunAudioLLM/CosyVoice2-0.5B", num_codebooks: int | None = None, device: str = "cpu"
    ):
        from slm.tokenizers.networks.s3tokenizer import S3Network

        path = find_graph(checkpoint)
        weights, stride = read_graph(path)
        try:
            self.model = S3Network.like(weights, stride).eval().requires_grad_(False)
        except KeyError as error:
            raise UsageError(f"{path} is no S3 tokenizer: it lacks {error}") from error
        except ValueError as error:
            raise UsageError(f"{path} is no S3 tokenizer: {error}") from error
        load_strict(self.model, weights, str(path))
        self.model.to(device)
        encoder = self.model.encoder
        self._log_mel = whisper_log_mel(encoder.conv1.in_channels)
        self.spectra_per_frame = 2 * stride
        hop = self.spectra_per_frame * MEL_HOP
        self.spec = self._make_spec(
            name="s3tokenizer",
            checkpoint=checkpoint,
            num_codebooks=num_codebooks,
            codebook_sizes=(self.model.codebook_size,),
            sample_rate_hz=_RATE_HZ,
            hop_samples=hop,
            frame_offset_samples=hop - MEL_HOP,
            identity={"stride": stride},
            taxonomy=taxonomy_of("s3tokenizer", checkpoint),
        )

    def encoder_stages(self) -> Sequence[Any]:
        encoder = self.model.encoder
        return [encoder.conv1, encoder.conv2, *encoder.blocks]

    def _gap_frames(self) -> int:
        return widest_layer(self.encoder_stages(), self.spectra_per_frame)

    def spectra_of(self, signal: torch.Tensor) -> torch.Tensor:
        import torch

        missing = max(0, _SHORTEST - len(signal))
        return self._log_mel(torch.nn.functional.pad(signal, (0, missing)))[:, : len(signal) // MEL_HOP]

    def _encode_long(self, signal: np.ndarray) -> np.ndarray:
        import torch

        half = round(self.overlap_s * _MEL_RATE_HZ) // 2
        windows = list(self._windows(len(signal) // MEL_HOP, 2 * half))
        loudest = max(float(self._spectra_at(signal, *window).max()) for window in windows)
        made = []
        for start, stop in windows:
            spectra = torch.clamp(self._spectra_at(signal, start, stop), min=loudest - _RANGE)
            codes = self._codes_of_spectra(spectra)[0].T.int().cpu().numpy()
            first = half // self.spectra_per_frame if start else 0
            last = len(codes) if (start, stop) == windows[-1] else len(codes) - half // self.spectra_per_frame
            made.append(codes[first:last])
        return np.concatenate(made)

    def _windows(self, total: int, overlap: int) -> Iterator[tuple[int, int]]:
        """Of mel frames: the last one ends where they end."""
        size = round(self.piece_s * _MEL_RATE_HZ)
        for start in range(0, max(1, total - overlap), size - overlap):
            yield start, min(start + size, total)

    def _spectra_at(self, signal: np.ndarray, start: int, stop: int) -> torch.Tensor:
        """Some of the mel frames of a signal, in its own range; read from two frames more to either side."""
        import torch

        before = min(start, 2)
        end = len(signal) if stop == len(signal) // MEL_HOP else (stop + 2) * MEL_HOP
        part = torch.from_numpy(np.ascontiguousarray(signal[(start - before) * MEL_HOP : end]))
        return self.spectra_of(part.to(self._parameter().device))[:, before : before + stop - start]

    @classmethod
    def write_untrained(
        cls,
        folder: str | Path,
        seed: int = 0,
        version: int = 2,
        stride: int = 2,
        width: int = 1280,
        layers: int | None = None,
        codebook_size: int = 4096,
    ) -> None:
        """`speech_tokenizer_vN.onnx` with random weights. `stride` 1 is version 1 at 50 Hz, of which alone there are
        codebooks of some size."""
        import torch
        from transformers.models.whisper.modeling_whisper import sinusoids

        from slm.tokenizers._untrained import noise, own_folder, redraw, spread_scalars
        from slm.tokenizers.networks.s3tokenizer import Directions, Encoder, S3Network, Scalars

        folder = own_folder(folder)
        first = version == 1
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(seed)
            encoder = Encoder(
                _BANDS, width, 4 * width, layers or (12 if version == 3 else 6), stride, 1500 if first else None,
                None if first else 31,
            )  # fmt: skip
            redraw(encoder)
            if encoder.positional_embedding is not None:
                encoder.positional_embedding.copy_(sinusoids(*encoder.positional_embedding.shape))
            quantizer = Directions(codebook_size, width) if first else Scalars(width)
            model = S3Network(encoder, quantizer).eval()
            spectra = whisper_log_mel(_BANDS)(noise(_RATE_HZ)[0, 0])
            hidden = encoder(spectra, torch.arange(spectra.shape[1] // (2 * stride)))
            if isinstance(quantizer, Scalars):
                spread_scalars(quantizer.project_down, lambda: quantizer(hidden))
            else:
                fill_codebook(quantizer.embed, torch.nn.functional.normalize(hidden[0], dim=-1))
                quantizer.embed.copy_(torch.nn.functional.normalize(quantizer.embed, dim=-1))
        with atomic_directory(folder) as temporary:
            write_graph(temporary / f"speech_tokenizer_v{version}.onnx", model.state_dict(), version, stride)


def find_graph(checkpoint: str) -> Path:
    """The graph that a checkpoint is or holds. UsageError as `find_files`, and for a folder with several."""
    folder, name = checkpoint, FILES[0]
    if checkpoint.endswith(".onnx"):
        folder, name = str(Path(checkpoint).parent), Path(checkpoint).name
    elif Path(checkpoint).expanduser().is_dir():
        found = [name for name in FILES if Path(checkpoint).expanduser().joinpath(name).is_file()]
        if len(found) > 1:
            raise UsageError(f"{checkpoint} holds {' and '.join(found)}: give the file itself")
        name = found[0] if found else name
    return find_files(folder, [name])[name]
