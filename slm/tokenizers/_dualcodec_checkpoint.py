"""DualCodec's checkpoints: the authors' files, their architectures, and random weights in the same form."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm.errors import UsageError
from slm.files import atomic_directory
from slm.tokenizers._checkpoints import fold_weight_norm, load_strict, read_tensors, with_weight_norm
from slm.tokenizers._encoders import load_encoder
from slm.tokenizers._spectral_encoders import BertEncoder

if TYPE_CHECKING:
    import torch

    from slm.tokenizers.networks.dualcodec import DualCodecConfig, DualCodecNetwork

SAMPLE_RATE_HZ = 24_000
STATISTICS = "w2vbert2_mean_var_stats_emilia.pt"
LAYER = 17
_ENCODER = "w2v-bert-2.0"
_STATE_SAMPLES = 480
"""From one of w2v-BERT's states to the next, at the codec's rate."""
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "12hz_v1": ("dualcodec_12hz_16384_4096.safetensors", {}),
    "25hz_v1": (
        "dualcodec_25hz_16384_1024.safetensors",
        {
            "encoder_dim": 64,
            "encoder_rates": (4, 5, 6, 8),
            "decoder_rates": (8, 6, 5, 4),
            "n_codebooks": 11,
            "codebook_size": 1024,
        },
    ),
}
"""The authors' `model_id` -> its file, and what of its architecture is not that of `DualCodecConfig`."""


def choose_model(checkpoint: str, model_id: str | None) -> str:
    """The one asked for, or that a folder holds. UsageError for one that there is not."""
    if model_id is None:
        folder = Path(checkpoint).expanduser()
        return next((name for name, (file, _) in MODELS.items() if (folder / file).is_file()), next(iter(MODELS)))
    if model_id not in MODELS:
        raise UsageError(f"no model_id {model_id!r}: it is {' or '.join(MODELS)}")
    return model_id


def choose_encoder(checkpoint: str, encoder: str | None) -> str:
    """The w2v-BERT 2.0 asked for, or beside the checkpoint, or on the hub; a folder by its absolute path."""
    if encoder is None:
        beside = Path(checkpoint).expanduser() / _ENCODER
        encoder = str(beside) if beside.is_dir() else f"facebook/{_ENCODER}"
    return str(Path(encoder).resolve()) if Path(encoder).is_dir() else encoder


def load_bert(encoder: str, width: int, device: str) -> BertEncoder:
    """w2v-BERT 2.0 up to the layer that is read; UsageError where it cannot be had, or is another encoder."""
    made = load_encoder(encoder, LAYER, device)
    if not isinstance(made, BertEncoder) or not made.shares_tensors or made.width != width:
        raise UsageError(f"{encoder} is no w2v-BERT 2.0 of width {width}, whose states DualCodec codes: give `encoder`")
    return made


def read_statistics(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance `[C]` of w2v-BERT's states; UsageError where the file does not hold them."""
    import torch

    values = read_tensors(path)
    found: list[Any] = [values.get(name) for name in ("mean", "var")] if isinstance(values, Mapping) else [None]
    if not all(isinstance(value, torch.Tensor) for value in found) or not bool((found[1] > 0).all()):
        raise UsageError(f"{path} holds no `mean` and `var` above 0, of w2v-BERT's states")
    mean, variance = (value.flatten().float() for value in found)
    return mean, variance


def build(
    weights: Mapping[str, torch.Tensor], statistics: tuple[torch.Tensor, torch.Tensor], what: str
) -> tuple[DualCodecNetwork, DualCodecConfig]:
    """The network with these weights (published names), in their precision, and its sizes; w2v-BERT is not in it."""
    from slm.tokenizers.networks.dualcodec import DualCodecNetwork, published_names

    state = fold_weight_norm(weights)
    config, (mean, variance) = _config(state, what), statistics
    hop, back, sizes = config.hop_samples, prod(config.decoder_rates), f"{len(mean)} and {len(variance)}"
    if not len(mean) == len(variance) == config.semantic_dim:
        raise UsageError(f"{what} codes states of {config.semantic_dim} numbers, {STATISTICS} is of {sizes}")
    if hop % _STATE_SAMPLES:
        raise UsageError(f"{what} has frames of {hop} samples, not of w2v-BERT's, {_STATE_SAMPLES} each")
    if hop != back:
        raise UsageError(f"{what} has frames of {hop} samples that come back as {back}")
    network = DualCodecNetwork(config, hop // _STATE_SAMPLES).to(next(iter(state.values())).dtype)
    published = published_names(network, network.state_dict())
    own = {name: ours for ours, name in published.items()}
    state = {own.get(name, name): value for name, value in state.items()}
    state |= {"mean": mean, "std": variance.sqrt()}
    load_strict(network, state, what, as_published=lambda name: published.get(name, name))
    return network.eval().requires_grad_(False), config


def _config(state: Mapping[str, torch.Tensor], what: str) -> DualCodecConfig:
    """The sizes of the network, from the shapes of its weights; the kernel of a strided convolution is twice its
    stride."""
    from slm.tokenizers.networks.dualcodec import DualCodecConfig

    def several(name: str) -> list[torch.Tensor]:
        """The weights of a name with a number in it, from the first on."""
        found: list[torch.Tensor] = []
        while not found or name.format(len(found), len(found) + 1) in state:
            found.append(state[name.format(len(found), len(found) + 1)])
        return found

    try:
        books = several("dac.quantizer.quantizers.{}.codebook.weight")
        semantic = state["semantic_vq.quantizers.0.codebook.weight"]
        inner = several("convnext_encoder.{1}.pwconv1.weight")
        return DualCodecConfig(
            encoder_dim=len(state["dac.encoder.block.0.weight"]),
            encoder_rates=[w.shape[2] // 2 for w in several("dac.encoder.block.{1}.block.4.weight")],
            decoder_dim=len(state["dac.decoder.model.0.weight"]),
            decoder_rates=[w.shape[2] // 2 for w in several("dac.decoder.model.{1}.block.1.weight")],
            n_codebooks=len(books),
            codebook_size=len(books[0]),
            codebook_dim=books[0].shape[1],
            semantic_codebook_size=len(semantic),
            semantic_codebook_dim=semantic.shape[1],
            semantic_dim=state["convnext_encoder.0.weight"].shape[1],
            convnext_dim=len(state["convnext_encoder.0.weight"]),
            convnext_layers=len(inner),
            intermediate_dim=len(inner[0]),
        )
    except (KeyError, IndexError) as error:
        raise UsageError(f"{what} lacks weights ({error}): it is no DualCodec as its authors publish it") from error


def write_random(folder: str | Path, seed: int, model_id: str, **changes: Any) -> None:
    """A checkpoint in an empty folder; `changes` as those of `DualCodecTokenizer.write_untrained`."""
    import torch
    from safetensors.torch import save_file
    from torch import nn
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel

    from slm.tokenizers._untrained import own_folder, redraw
    from slm.tokenizers.networks.dualcodec import DualCodecConfig, DualCodecNetwork, published_names

    folder, (file, different) = own_folder(folder), MODELS[model_id]
    form = Wav2Vec2BertConfig(**{"num_hidden_layers": LAYER, **changes.pop("w2v_bert", {})})
    config = DualCodecConfig(**{**different, "semantic_dim": form.hidden_size, **changes})
    with torch.random.fork_rng(devices=[]), torch.no_grad(), atomic_directory(folder) as temporary:
        torch.default_generator.manual_seed(seed)
        bert = Wav2Vec2BertModel(form).eval()
        network = DualCodecNetwork(config, config.hop_samples // _STATE_SAMPLES).eval()
        redraw(bert)
        redraw(network)
        bert.save_pretrained(temporary / _ENCODER)
        SeamlessM4TFeatureExtractor().save_pretrained(temporary / _ENCODER)
        network.w2v_bert = bert
        mean, variance = _fill(network)
        del network.w2v_bert
        torch.save({"mean": mean, "var": variance}, temporary / STATISTICS)
        plain = [m for m in network.modules() if isinstance(m, nn.Linear) or getattr(m, "groups", 1) > 1]
        weights = {name: w for name, w in with_weight_norm(network, plain).items() if name not in ("mean", "std")}
        published = published_names(network, weights)
        save_file({published[name]: w.contiguous() for name, w in weights.items()}, temporary / file, {"format": "pt"})


def _fill(network: DualCodecNetwork) -> tuple[torch.Tensor, torch.Tensor]:
    """Fill each codebook with what those before it leave of noise -> mean and variance of w2v-BERT's states."""
    from slm.tokenizers._log_mel import LogMel
    from slm.tokenizers._untrained import fill_projected, noise
    from slm.tokenizers.networks.resample import resample

    signal = 0.1 * noise(SAMPLE_RATE_HZ)
    states = network.hear(LogMel()(resample(signal[0, 0], SAMPLE_RATE_HZ, 16_000), fill_last=False))
    mean, variance = states[0].mean(dim=0), states[0].var(dim=0)
    network.mean.copy_(mean)
    network.std.copy_(variance.sqrt())

    def coded(quantizer: Any, latents: torch.Tensor) -> torch.Tensor:
        fill_projected(quantizer, quantizer.in_proj(latents)[0].T)
        made: torch.Tensor = quantizer(latents)[0]
        return made

    made = coded(network.semantic_vq.quantizers[0], network.convnext_encoder(network.pool(states)))
    rest = network.dac["encoder"](signal)[..., : made.shape[-1]] - network.convnext_decoder(made)
    acoustic: Any = network.dac["quantizer"]
    for quantizer in acoustic.quantizers:
        rest = rest - coded(quantizer, rest)
    return mean, variance
