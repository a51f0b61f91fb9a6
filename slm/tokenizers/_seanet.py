"""What the codecs with a SEANet encoder share: its LSTM sees the whole clip, yet long clips go in pieces, exactly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from slm.audio import joined
from slm.errors import UsageError
from slm.tokenizers._codec import NeuralCodec, conv_context

if TYPE_CHECKING:
    import torch


class SEANetCodec(NeuralCodec):
    """A codec whose `model` has an `encoder` (SEANet) and a `quantizer` (residual).

    T = ceil(N / hop): the encoder fills the last frame itself, layer by layer. Clips longer than `piece_s` run through
    the convolutions in pieces, and through the LSTM in blocks of `pieces_per_block` with its state carried between
    them. Both are exact. An LSTM that runs both ways costs (layers + 1) sweeps over a clip of several blocks.
    """

    batching: Literal["none", "frames", "samples"] = "samples"
    pieces_per_block: int = 10
    pieces_are_exact = True

    def _codes_of(self, signals: torch.Tensor) -> torch.Tensor:
        return self.model.quantizer.encode(self.model.encoder(signals), self.spec.num_codebooks)

    def _encode_long(self, signal: np.ndarray) -> np.ndarray:
        import torch

        encoder, hop, frames = self.model.encoder, self.spec.hop_samples, self.spec.num_frames(len(signal))
        front = encoder.front
        blocks = self._blocks(frames, conv_context(front, hop))

        def features(block: int) -> torch.Tensor:
            made = []
            for first, last, start, stop in blocks[block]:
                end = len(signal) if stop == frames else stop * hop
                values = torch.from_numpy(np.ascontiguousarray(signal[start * hop : end]))[None, None]
                made.append(front(self._to_model(values))[..., first - start : last - start])
            return torch.cat(made, dim=-1)

        latents = encoder.in_pieces(features, len(blocks), conv_context(encoder.back, 1), 1)
        codes = [self.model.quantizer.encode(each, self.spec.num_codebooks)[0].T.cpu().numpy() for each in latents]
        return np.concatenate(codes)

    def _blocks(self, frames: int, context: int) -> list[list[tuple[int, int, int, int]]]:
        pieces, size = list(self._pieces(frames, context)), self.pieces_per_block
        return [pieces[i : i + size] for i in range(0, len(pieces), size)]


class TwoWaySEANetCodec(SEANetCodec):
    """One whose `decoder` is the same the other way, with an LSTM that sees all codes of a clip: long clips are decoded
    in pieces with its state carried."""

    def _audio_of(self, codes: torch.Tensor) -> torch.Tensor:
        return self.model.decode(codes)

    def _decode_whole(self, codes: np.ndarray) -> np.ndarray:
        if not self._is_long(len(codes) * self.spec.hop_samples):
            return super()._decode_whole(codes)
        import torch

        decoder, hop = self.model.decoder, self.spec.hop_samples
        pieces = list(self._pieces(len(codes), conv_context(decoder.front, 1)))
        values = torch.from_numpy(codes.T.astype(np.int64))[None].to(self._parameter().device)

        def features(piece: int) -> torch.Tensor:
            first, last, start, stop = pieces[piece]
            latents = self.model.quantizer.decode(values[..., start:stop])
            return decoder.front(latents)[..., first - start : last - start]

        made = decoder.in_pieces(features, len(pieces), conv_context(decoder.back, hop, from_frames=True), hop)
        return joined(audio[0, 0].cpu().numpy() for audio in made)


def pick(values: Any, names: Iterable[str], where: str) -> dict[str, Any]:
    """These fields of a configuration; UsageError that names all which are not there."""
    if not isinstance(values, Mapping):
        raise UsageError(f"{where} is no configuration: it must hold {', '.join(names)}")
    names = list(names)
    if missing := [name for name in names if name not in values]:
        raise UsageError(f"{where} lacks {', '.join(missing)}: it must be the configuration that the authors publish")
    return {name: values[name] for name in names}


def fill_with_noise(model: Any, rate_hz: int) -> None:
    """Draw the encoder and the codebooks of a new model so that many codes come out, at every level."""
    from slm.tokenizers._untrained import noise, redraw

    redraw(model.encoder)
    model.quantizer.fill(model.encoder(0.1 * noise(rate_hz)))  # about as loud as speech
