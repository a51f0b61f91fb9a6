"""WavTokenizer (Ji et al., 2024, arXiv 2408.16532), from its authors' checkpoints or those of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from slm.files import atomic_directory, write_text
from slm.tokenizers._bounded import loaded
from slm.tokenizers._seanet import SEANetCodec, fill_with_noise
from slm.tokenizers._untrained import own_folder
from slm.tokenizers._wavtokenizer_checkpoint import ENCODER, FIRST, SAMPLE_RATE_HZ, read_release
from slm.tokenizers.base import TOKENIZERS
from slm.tokenizers.database import taxonomy_of

if TYPE_CHECKING:
    import torch


@TOKENIZERS.register("wavtokenizer")
class WavTokenizer(SEANetCodec):
    """WavTokenizer: one codebook of 4096 for any sound, 75 or 40 frames per second (hop 320 or 600) at 24 kHz.

    `checkpoint` is a `.ckpt` file, by its path or by its place on the hub, or a folder with one `.ckpt` and one
    `.yaml`. Releases: novateur/WavTokenizer/WavTokenizer_small_{320,600}_24k_4096.ckpt, and for more than speech those
    of the larger models (`python -m slm.tokenizers wavtokenizer`). `config` is the YAML that goes with it; by default
    the one beside a local file, and for the hub the authors' YAML for the hop that the file's name gives. Or
    `checkpoint` is a folder, or a repository of the hub (swiss-ai/wavtokenizer-large-unify-40token), in the layout of
    transformers; where its preprocessor_config.json says `normalize_audio`, the loudest sample of every clip is brought
    to its level first, as there. T = ceil(N / hop).

    The encoder's LSTM runs forward, so that long clips are encoded in pieces exactly. The decoder normalizes and
    attends over the whole clip: it decodes a clip in one piece, in time that grows with the square of its length.
    Raises UsageError when files cannot be had or do not fit each other.

    Follows github.com/jishengpeng/WavTokenizer, decoding with bandwidth_id 0 as its README does.
    """

    mismatch: ClassVar[Mapping[str, str]] = {"batched": "0.1 %", "tf32": "0.9 %", "bf16": "6.9 %"}
    about: ClassVar[Mapping[str, str]] = {
        "wavtokenizer": "4096 at 75 Hz from 24 kHz (40 Hz by checkpoint); decodes; "
        "needs novateur/WavTokenizer-... (hub, or local .ckpt and .yaml), or a folder or hub id of transformers"
    }

    def __init__(
        self,
        *,
        checkpoint: str = "novateur/WavTokenizer-large-speech-75token/wavtokenizer_large_speech_320_v2.ckpt",
        config: str | None = None,
        num_codebooks: int | None = None,
        device: str = "cpu",
    ):
        release = read_release(checkpoint, config)
        form, state = release.form, {name: value.float() for name, value in release.state.items()}
        self.model = build(form, state, str(release.weights)).to(device)
        self._peak, hop = release.peak, form["head"]["hop_length"]
        self.spec = self._make_spec(
            name="wavtokenizer",
            checkpoint=checkpoint,
            num_codebooks=num_codebooks,
            codebook_sizes=(form["feature_extractor"]["vq_bins"],),
            sample_rate_hz=SAMPLE_RATE_HZ,
            hop_samples=hop,
            frame_offset_samples=hop - 1,
            identity=dict(form) if self._peak is None else {**form, "peak": self._peak},
            settings={"config": str(Path(config).resolve()) if config and Path(config).exists() else config},
            taxonomy=taxonomy_of("wavtokenizer", checkpoint),
            published=release.state.values(),
        )

    def _cut(self, signal: np.ndarray) -> list[np.ndarray]:
        if self._peak is None:
            return [signal]
        return [signal * (self._peak / max(float(np.abs(signal).max()), 1e-10))]

    def _audio_of(self, codes: torch.Tensor) -> torch.Tensor:
        return self.model.decode(codes)

    @classmethod
    def write_untrained(
        cls, folder: str | Path, seed: int = 0, width: int = 32, hop: int = 320, **changes: Any
    ) -> None:
        """A checkpoint as the authors publish it, with random weights.

        `hop` 320 or 600 gives either release; `width` are the encoder's first channels; `changes` are fields of the
        YAML's feature_extractor, backbone and head.
        """
        import torch
        import yaml

        folder = own_folder(folder)
        form = _published_form(hop)
        for section in form.values():
            section.update({name: value for name, value in changes.items() if name in section})
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(seed)
            model = _network(form, width)
            fill_with_noise(model, SAMPLE_RATE_HZ)
        from slm.tokenizers.networks.seanet import published_names

        state = {
            (ENCODER + name if name.startswith(("encoder.", "quantizer.")) else name): value
            for name, value in published_names(model).items()
        }
        sections = {name: {"init_args": values} for name, values in form.items()}
        with atomic_directory(folder) as temporary:
            text = yaml.safe_dump({"model": {"init_args": {"sample_rate": SAMPLE_RATE_HZ, **sections}}})
            write_text(temporary / "wavtokenizer.yaml", text)
            torch.save({"state_dict": state}, temporary / "wavtokenizer.ckpt")


def _published_form(hop: int) -> dict[str, dict[str, Any]]:
    """What the YAML says of the networks: that of the releases with hop 320, or with 600."""
    return {
        "feature_extractor": {
            "encodec_model": "encodec_24khz",
            "num_quantizers": 1,
            "dowmsamples": [8, 5, 4, 2] if hop == 320 else [6, 5, 5, 4],
            "vq_bins": 4096,
        },
        "backbone": {
            "input_channels": 512,
            "dim": 768,
            "intermediate_dim": 2304,
            "num_layers": 12,
            "adanorm_num_embeddings": 4,
        },
        "head": {"dim": 768, "n_fft": 4 * hop, "hop_length": hop, "padding": "same"},
    }


def _network(form: Mapping[str, Mapping[str, Any]], width: int) -> torch.nn.Module:
    from slm.tokenizers.networks.seanet import SEANetConfig
    from slm.tokenizers.networks.wavtokenizer import WavTokenizerNetwork

    extractor, backbone = form["feature_extractor"], form["backbone"]
    network = WavTokenizerNetwork(
        SEANetConfig(tuple(extractor["dowmsamples"]), width, backbone["input_channels"]),
        codebook_size=extractor["vq_bins"],
        channels=backbone["dim"],
        inner=backbone["intermediate_dim"],
        layers=backbone["num_layers"],
        num_ids=backbone["adanorm_num_embeddings"],
        n_fft=form["head"]["n_fft"],
    )
    return network.eval().requires_grad_(False)


def build(form: Mapping[str, Mapping[str, Any]], state: Mapping[str, torch.Tensor], what: str) -> torch.nn.Module:
    """The network with these weights (published names), in their precision."""
    from slm.tokenizers.networks.seanet import own_names

    own = own_names({name.removeprefix(ENCODER): value for name, value in state.items()})
    first = state[FIRST]  # the YAML does not say how wide the encoder is; its first convolution does
    return loaded(lambda: _network(form, len(first)).to(first.dtype), own, what)
