"""DualCodec (Li et al., 2025, arXiv 2505.13000), from its authors' own checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from slm.tokenizers._checkpoints import find_files, read_tensors
from slm.tokenizers._codec import NeuralCodec, conv_context, pad_to_frames, widest_layer
from slm.tokenizers._dualcodec_checkpoint import (
    LAYER,
    MODELS,
    SAMPLE_RATE_HZ,
    STATISTICS,
    build,
    choose_encoder,
    choose_model,
    load_bert,
    read_statistics,
    write_random,
)
from slm.tokenizers.base import TOKENIZERS
from slm.tokenizers.database import taxonomy_of

if TYPE_CHECKING:
    import torch

    from slm.tokenizers._batched import Batch

_HEARD_HZ, _MEL_WINDOW, _MEL_HOP = 16_000, 400, 160
_FIRST_SAMPLES = 119
"""How much more than whole frames a clip must hold: for S states, the last of a half pair of log-mel frames, w2v-BERT
must hear 320 S + 80 samples, and of N samples it hears ceil(2 N / 3)."""


@TOKENIZERS.register("dualcodec")
class DualCodecTokenizer(NeuralCodec):
    """DualCodec: speech at 24 kHz in 8 codebooks at 12.5 Hz or 12 at 25 Hz, the first a semantic one of 16,384.

    `checkpoint` is a hub id (amphion/dualcodec) or a folder with the authors' files: weights and
    `w2vbert2_mean_var_stats_emilia.pt`. `model_id` is theirs, 12hz_v1 or 25hz_v1 (default: the one that a folder holds,
    or the former); `encoder` w2v-BERT 2.0, by hub id or folder (default: the folder `w2v-bert-2.0` in the checkpoint's,
    where there is one, or facebook/w2v-bert-2.0). `num_codebooks` keeps the first n; the first alone needs no acoustic
    encoder. Hidden state 17 is read, as by the authors' code.

    T = floor((N - 119) / hop), of frames of w2v-BERT: a tail of less than a frame and 119 samples is dropped.
    The authors run in half precision; here it is single. w2v-BERT attends to and normalizes over the whole clip, of 10
    minutes at most, in time that grows with the square of it; the acoustic encoder goes in pieces, as does decoding.

    Raises UsageError where weights cannot be had or do not fit, and for codebooks that there are not.

    Follows the package dualcodec 0.4.2 (github.com/jiaqili3/DualCodec).
    """

    batching: Literal["none", "frames", "samples"] = "frames"
    longest_clip_s = 600.0
    about: ClassVar[Mapping[str, str]] = {
        "dualcodec": "16384 + 4096 x 7 at 12.5 Hz from 24 kHz (25 Hz: 16384 + 1024 x 11; the first semantic); decodes; "
        "needs amphion/dualcodec and facebook/w2v-bert-2.0 (hub or local folders)"
    }

    def __init__(
        self,
        *,
        checkpoint: str = "amphion/dualcodec",
        model_id: str | None = None,
        encoder: str | None = None,
        num_codebooks: int | None = None,
        device: str = "cpu",
    ):
        model_id, encoder = choose_model(checkpoint, model_id), choose_encoder(checkpoint, encoder)
        name = MODELS[model_id][0]
        files = find_files(checkpoint, [name, STATISTICS])
        weights, statistics = read_tensors(files[name]), read_statistics(files[STATISTICS])
        in_fp32 = {weight: value.float() for weight, value in weights.items()}
        self.model, config = build(in_fp32, statistics, str(files[name]))
        self._bert = load_bert(encoder, config.semantic_dim, device)
        self.model.w2v_bert = self._bert.model
        self.model.to(device)
        dac = self.model.dac
        self._acoustic_context = conv_context(dac["encoder"], config.hop_samples)
        self.decoder_context_frames = (
            conv_context(self.model.convnext_decoder, 1)
            + conv_context(dac["decoder"], config.hop_samples, from_frames=True)
        )  # fmt: skip
        self.spec = self._make_spec(
            name="dualcodec",
            checkpoint=checkpoint,
            num_codebooks=num_codebooks,
            codebook_sizes=(config.semantic_codebook_size, *[config.codebook_size] * config.n_codebooks),
            sample_rate_hz=SAMPLE_RATE_HZ,
            hop_samples=config.hop_samples,
            frame_offset_samples=-_FIRST_SAMPLES,
            semantic_codebooks=[0],
            identity={"w2v_bert": self._bert.identity(LAYER)},
            settings={"model_id": model_id, "encoder": encoder},
            taxonomy=taxonomy_of("dualcodec", checkpoint),
            published=[*weights.values(), *statistics],
        )

    def encoder_stages(self) -> Sequence[Any]:
        model = self.model
        return [*self._bert.stages(), model.convnext_encoder, model.convnext_decoder, model.dac["encoder"]]

    def _gap_frames(self) -> int:
        # The branches run beside one another, the semantic one in frames of w2v-BERT, then in those of codes.
        *semantic, before, behind, acoustic = self.encoder_stages()
        return max(
            widest_layer(semantic, self.model.frames_per_code),
            widest_layer([before, behind], 1),
            widest_layer([acoustic], self.spec.hop_samples),
        )

    def _codes_of(self, signals: torch.Tensor) -> torch.Tensor:
        import torch

        model, count = self.model, self.spec.num_codebooks
        states = torch.cat([model.hear(*self._spectra_of(signal)) for signal in signals[:, 0]])
        codes, semantic = model.semantic(model.pool(states))
        return codes if count == 1 else model.with_acoustic(codes, semantic, self._acoustic(signals), count)

    def _spectra_of(self, signal: torch.Tensor) -> tuple[torch.Tensor, bool]:
        """A signal `[N]` -> pairs of log-mel frames `[1, T, 160]`, and whether the last is half padding."""
        from slm.tokenizers.networks.resample import resample

        heard = resample(signal, SAMPLE_RATE_HZ, _HEARD_HZ)
        frames = (len(heard) - _MEL_WINDOW) // _MEL_HOP + 1
        return self._to_model(self._bert.log_mel(heard, fill_last=True)), frames % 2 > 0

    def _acoustic(self, signals: torch.Tensor) -> torch.Tensor:
        """Latents of the DAC `[B, D, ceil(N / hop)]`; of a long clip in pieces."""
        import torch

        hop, encode = self.spec.hop_samples, self.model.dac["encoder"]
        signals, made = pad_to_frames(signals, hop), []
        for first, last, start, stop in self._pieces(signals.shape[-1] // hop, self._acoustic_context):
            made.append(encode(signals[..., start * hop : stop * hop])[..., first - start : last - start])
        return torch.cat(made, dim=-1)

    def _codes_of_batch(self, batch: Batch, signals: Sequence[np.ndarray]) -> torch.Tensor:
        from slm.tokenizers._batched import end_to_end, frames_of_batch

        model, frames, hop = self.model, frames_of_batch(self), self.spec.hop_samples
        members, starts = [signals[i] for i in batch.members], [start * hop for start in batch.starts]
        heard = end_to_end(members, starts, frames * hop, self._parameter())
        clips = [heard[0, 0, start : start + len(each)] for start, each in zip(starts, members, strict=True)]
        pooled = model.pool(self._hear_together(batch, clips, frames))
        with batch.packed(batch.starts, [self.spec.num_frames(len(clip)) for clip in clips], frames):
            codes, semantic = model.semantic(pooled)
        if self.spec.num_codebooks == 1:
            return codes
        with batch.packed(starts, [self._samples_taken(len(clip)) for clip in clips], frames * hop):
            latents = model.dac["encoder"](heard)
        return model.with_acoustic(codes, semantic, latents, self.spec.num_codebooks)

    def _hear_together(self, batch: Batch, clips: Sequence[torch.Tensor], frames: int) -> torch.Tensor:
        """States of w2v-BERT in a tensor of so many codes. What becomes of a half pair, if it is part of a code, only
        the clip alone says: no mask of a batch keeps others from hearing it."""
        from slm.tokenizers._batched import spectra_end_to_end

        factor = self.model.frames_per_code
        spectra, starts = [self._spectra_of(clip) for clip in clips], [start * factor for start in batch.starts]
        with batch.packed(starts, [pairs.shape[1] - filled for pairs, filled in spectra], frames * factor):
            states = self.model.hear(spectra_end_to_end([pairs for pairs, _ in spectra], starts, frames * factor))
        for start, (pairs, filled) in zip(starts, spectra, strict=True):
            if filled and pairs.shape[1] % factor == 0:
                states[:, start : start + pairs.shape[1]] = self.model.hear(pairs, filled)
        return states

    def _audio_of(self, codes: torch.Tensor) -> torch.Tensor:
        return self.model.decode(codes)

    @classmethod
    def write_untrained(cls, folder: str | Path, seed: int = 0, model_id: str = "12hz_v1", **changes: Any) -> None:
        """The authors' files with random weights, and w2v-BERT up to the layer read in `w2v-bert-2.0`. `changes` are
        fields of `DualCodecConfig`, and `w2v_bert`, a dictionary: of the configuration of that."""
        write_random(folder, seed, choose_model("", model_id), **changes)
