"""BigCodec (Xin et al., 2024, arXiv 2409.05377), from its authors' own checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from slm.errors import UsageError
from slm.files import atomic_directory
from slm.tokenizers._checkpoints import find_files, load_strict, read_tensors
from slm.tokenizers._seanet import TwoWaySEANetCodec
from slm.tokenizers.base import TOKENIZERS
from slm.tokenizers.database import taxonomy_of

if TYPE_CHECKING:
    import torch

WEIGHTS = "bigcodec.pt"
SAMPLE_RATE_HZ = 16_000


@TOKENIZERS.register("bigcodec")
class BigCodecTokenizer(TwoWaySEANetCodec):
    """BigCodec: speech in one stream of 80 codes of 8192 per second (1.04 kbit/s), by a large network (159 M).

    `checkpoint` is a hub id or a folder with `bigcodec.pt`, which holds encoder (`CodecEnc`) and decoder (`generator`);
    their sizes are read from the shapes of the weights. The authors always fill up a clip, by a whole frame where it
    is one: T = floor(N / 200) + 1. The LSTMs run forward only, so that long clips are coded in pieces with their
    states carried, both ways, as in one pass. Raises UsageError when the file cannot be had or does not fit.

    Follows github.com/Aria-K-Alethia/BigCodec.
    """

    batching = "frames"
    about: ClassVar[Mapping[str, str]] = {
        "bigcodec": "8192 x 1 at 80 Hz from 16 kHz; decodes; needs Alethia/BigCodec (hub or local folder)"
    }

    def __init__(self, *, checkpoint: str = "Alethia/BigCodec", num_codebooks: int | None = None, device: str = "cpu"):
        file = find_files(checkpoint, [WEIGHTS])[WEIGHTS]
        parts = read_parts(file)
        self.model = build(parts, str(file)).float().to(device)
        hop = self.model.encoder.model[0].hop_samples
        self.spec = self._make_spec(
            name="bigcodec",
            checkpoint=checkpoint,
            num_codebooks=num_codebooks,
            codebook_sizes=(self.model.quantizer.codebook.num_embeddings,),
            sample_rate_hz=SAMPLE_RATE_HZ,
            hop_samples=hop,
            frame_offset_samples=hop,
            identity={},
            taxonomy=taxonomy_of("bigcodec", checkpoint),
            published=[value for part in parts.values() for value in part.values()],
        )

    def _samples_taken(self, num_samples: int) -> int:
        return self.spec.num_frames(num_samples) * self.spec.hop_samples  # a frame more where all are whole

    @classmethod
    def write_untrained(cls, folder: str | Path, seed: int = 0, **changes: Any) -> None:
        """`bigcodec.pt` as the authors publish it, with random weights; `changes` are fields of `BigCodecConfig`."""
        import torch

        from slm.tokenizers._untrained import fill_projected, noise, own_folder, redraw
        from slm.tokenizers.networks.bigcodec import BigCodecConfig, BigCodecNetwork, published_names

        folder = own_folder(folder)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(seed)
            network = BigCodecNetwork(BigCodecConfig(**changes)).eval()
            redraw(network)
            quantizer = network.quantizer
            signal = 0.1 * noise(SAMPLE_RATE_HZ)[..., : 4 * SAMPLE_RATE_HZ]
            fill_projected(quantizer, quantizer.in_proj(network.encoder(signal).mT)[0])
        with atomic_directory(folder) as temporary:
            torch.save(published_names(network), temporary / WEIGHTS)


def read_parts(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """`CodecEnc` and `generator` of the authors' file; UsageError where it does not hold them."""
    values = read_tensors(path)
    names = ("CodecEnc", "generator")
    if not isinstance(values, Mapping) or not all(isinstance(values.get(name), Mapping) for name in names):
        raise UsageError(f"{path} holds no `CodecEnc` and `generator`: it is no BigCodec as its authors publish it")
    return {name: dict(values[name]) for name in names}


def build(parts: Mapping[str, Mapping[str, torch.Tensor]], what: str) -> Any:
    """The network with these weights (published names), in their precision."""
    from slm.tokenizers.networks.bigcodec import BigCodecNetwork, own_names

    state = own_names(parts)
    network = BigCodecNetwork(_config(state, what)).to(next(iter(state.values())).dtype)
    load_strict(network, state, what)
    return network.eval().requires_grad_(False)


def _config(state: Mapping[str, torch.Tensor], what: str) -> Any:
    """The sizes of the network, from the shapes of its weights; the kernel of a strided convolution is twice its
    stride."""
    from slm.tokenizers.networks.bigcodec import BigCodecConfig

    try:
        strides: list[int] = []
        while (name := f"encoder.model.{len(strides) + 1}.block.4.weight") in state:
            strides.append(state[name].shape[2] // 2)
        codebook = state["quantizer.codebook.weight"]
        return BigCodecConfig(
            ngf=len(state["encoder.model.0.weight"]),
            up_ratios=strides,
            rnn_num_layers=sum(".lstm.weight_hh_l" in name for name in state if name.startswith("encoder.")),
            vq_dim=len(state["quantizer.out_proj.weight"]),
            codebook_size=len(codebook),
            codebook_dim=codebook.shape[1],
            upsample_initial_channel=len(state["decoder.model.0.weight"]),
        )
    except KeyError as error:
        raise UsageError(f"{what} lacks {error}: it is no BigCodec as its authors publish it") from error
