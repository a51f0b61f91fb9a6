"""WavTokenizer (Ji et al., 2024, arXiv 2408.16532), from the authors' own checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from slm.errors import UsageError
from slm.files import atomic_directory, write_text
from slm.tokenizers._bounded import loaded
from slm.tokenizers._checkpoints import find_files, read_tensors
from slm.tokenizers._seanet import SEANetCodec, fill_with_noise, pick
from slm.tokenizers._untrained import own_folder
from slm.tokenizers.base import TOKENIZERS
from slm.tokenizers.database import taxonomy_of

if TYPE_CHECKING:
    import torch

SAMPLE_RATE_HZ = 24_000
# The authors' two configurations lie beside the small models; the medium and large ones are built alike.
_HUB_CONFIG = "novateur/WavTokenizer/wavtokenizer_smalldata_frame{}_3s_nq1_code4096_dim512_kmeans200_attn.yaml"
_SECTIONS = {
    "feature_extractor": ("dowmsamples", "vq_bins", "num_quantizers"),  # spelled like this
    "backbone": ("input_channels", "dim", "intermediate_dim", "num_layers", "adanorm_num_embeddings"),
    "head": ("n_fft", "hop_length", "padding"),
}
_ENCODER = "feature_extractor.encodec."
_FIRST = f"{_ENCODER}encoder.model.0.conv.conv.weight_v"


@TOKENIZERS.register("wavtokenizer")
class WavTokenizer(SEANetCodec):
    """WavTokenizer: one codebook of 4096 for any sound, 75 or 40 frames per second (hop 320 or 600) at 24 kHz.

    `checkpoint` is a `.ckpt` file, by its path or by its place on the hub, or a folder with one `.ckpt` and one
    `.yaml`. Releases: novateur/WavTokenizer/WavTokenizer_small_{320,600}_24k_4096.ckpt, and for more than speech those
    of the larger models (`python -m slm.tokenizers wavtokenizer`). `config` is the YAML that goes with it; by default
    the one beside a local file, and for the hub the authors' YAML for the hop that the file's name gives.
    T = ceil(N / hop).

    The encoder's LSTM runs forward, so that long clips are encoded in pieces exactly. The decoder normalizes and
    attends over the whole clip: it decodes a clip in one piece, in time that grows with the square of its length.
    Raises UsageError when files cannot be had or do not fit each other.

    Follows github.com/jishengpeng/WavTokenizer, decoding with bandwidth_id 0 as its README does.
    """

    mismatch: ClassVar[Mapping[str, str]] = {"batched": "0.1 %", "tf32": "0.9 %", "bf16": "6.9 %"}
    about: ClassVar[Mapping[str, str]] = {
        "wavtokenizer": "4096 at 75 Hz from 24 kHz (40 Hz by checkpoint); decodes; "
        "needs novateur/WavTokenizer-... (hub, or local .ckpt and .yaml)"
    }

    def __init__(
        self,
        *,
        checkpoint: str = "novateur/WavTokenizer-large-speech-75token/wavtokenizer_large_speech_320_v2.ckpt",
        config: str | None = None,
        num_codebooks: int | None = None,
        device: str = "cpu",
    ):
        weights_path, config_path = _find(checkpoint, config)
        form = _read_config(config_path)
        state = _inference_weights(read_tensors(weights_path), weights_path)
        self.model = build(form, {name: value.float() for name, value in state.items()}, str(weights_path)).to(device)
        hop = form["head"]["hop_length"]
        self.spec = self._make_spec(
            name="wavtokenizer",
            checkpoint=checkpoint,
            num_codebooks=num_codebooks,
            codebook_sizes=(form["feature_extractor"]["vq_bins"],),
            sample_rate_hz=SAMPLE_RATE_HZ,
            hop_samples=hop,
            frame_offset_samples=hop - 1,
            identity=form,
            settings={"config": str(Path(config).resolve()) if config and Path(config).exists() else config},
            taxonomy=taxonomy_of("wavtokenizer", checkpoint),
            published=state.values(),
        )

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
            (_ENCODER + name if name.startswith(("encoder.", "quantizer.")) else name): value
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


def _find(checkpoint: str, config: str | None) -> tuple[Path, Path]:
    """The files of weights and configuration."""
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        return _only(folder, ".ckpt"), _at(config) if config else _only(folder, ".yaml")
    if not checkpoint.endswith(".ckpt"):
        raise UsageError(
            f"{checkpoint} names no .ckpt file: give a folder with a .ckpt and a .yaml, or one file, such as "
            "novateur/WavTokenizer/WavTokenizer_small_600_24k_4096.ckpt"
        )
    weights = _at(checkpoint)
    if config:
        return weights, _at(config)
    if folder.is_file():
        return weights, _only(folder.parent, ".yaml")
    return weights, _at(_HUB_CONFIG.format(40 if "_600_" in folder.name else 75))


def _at(address: str) -> Path:
    """One file by its path, or by its place on the hub."""
    place, _, name = address.rpartition("/")
    return find_files(place or ".", [name])[name]


def _only(folder: Path, suffix: str) -> Path:
    found = sorted(folder.glob(f"*{suffix}"))
    if len(found) != 1:
        listed = ", ".join(path.name for path in found) or "none"
        setting = "checkpoint" if suffix == ".ckpt" else "config"
        raise UsageError(f"{folder} must hold one {suffix} file, not {listed}: name the file by `{setting}`")
    return found[0]


def _read_config(path: Path) -> dict[str, dict[str, Any]]:
    """The fields of each section that say how the network is built."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    model = pick(pick(values, ["model"], str(path))["model"], ["init_args"], f"{path}: model")["init_args"]
    form = {}
    for section, names in _SECTIONS.items():
        where = f"{path}: {section}"
        arguments = pick(pick(model, [section], str(path))[section], ["init_args"], where)["init_args"]
        form[section] = pick(arguments, names, where)
    extractor, head = form["feature_extractor"], form["head"]
    if extractor["num_quantizers"] != 1 or head["padding"] != "same":
        raise UsageError(
            f"{path}: WavTokenizer has one quantizer and a head with padding 'same'; nothing else is known"
        )
    if prod(extractor["dowmsamples"]) != head["hop_length"]:
        raise UsageError(
            f"{path}: the encoder's strides make a hop of {prod(extractor['dowmsamples'])} samples, the head's is "
            f"{head['hop_length']}"
        )
    return form


def _inference_weights(loaded: Any, path: Path) -> dict[str, torch.Tensor]:
    """What codes and decodes, by published names: a Lightning checkpoint also holds discriminators, the optimizer and
    the decoder of an EnCodec that nothing uses."""
    state = loaded.get("state_dict") if isinstance(loaded, Mapping) else None
    if not isinstance(state, Mapping) or _FIRST not in state:
        raise UsageError(f"{path} holds no WavTokenizer: it must be the authors' Lightning checkpoint")
    quantizer = f"{_ENCODER}quantizer."
    return {
        name: value
        for name, value in state.items()
        if name.startswith(("backbone.", "head.", f"{_ENCODER}encoder."))
        or (name.startswith(quantizer) and name.endswith(".embed"))
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

    own = own_names({name.removeprefix(_ENCODER): value for name, value in state.items()})
    first = state[_FIRST]  # the YAML does not say how wide the encoder is; its first convolution does
    return loaded(lambda: _network(form, len(first)).to(first.dtype), own, what)
