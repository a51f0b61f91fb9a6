"""Checkpoints that slamkit published (`slprl/slam`, TWIST models converted to it), read as they are.

Such a folder holds config.json (`model_type` "speech_language_model", the body's configuration nested under
`base_config`), safetensors (or an older .bin) whose names begin with `lm.`, and sometimes tokeniser_config.json. Its
ids are padding 0, `<S>` 1, which begins and ends every document, and unit u at u + 2 (slamkit at 388b402, `unit_lm.py`
and `unit_tokeniser.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slm.errors import UsageError
from slm.files import read_json
from slm.model.statistics import CodeStatistics
from slm.types import StreamVocabulary, TokenizerSpec, stable_hash

if TYPE_CHECKING:
    from torch import Tensor

MODEL_TYPES = ("speech_language_model", "unit_lm")
MAX_UNITS = 16_384  # more rows than that are those of a model of text and units
NEVER = -1e4  # a logit whose probability is exactly 0, finite in every float type

MHUBERT_25HZ = {
    "encoder": "slprl/mhubert-base-25hz",
    "layer": 11,
    "input_norm": "none",
    "padding_samples": 40,
    "centroids": "mhubert_base_25hz_cp_mls_cv_sp_fisher_L11_km500.bin",
}


@dataclass(frozen=True)
class Layout:
    """What the rows of slamkit's vocabulary are."""

    num_units: int
    pad_id: int
    bos_id: int
    eos_id: int

    @property
    def offset(self) -> int:
        """The row of unit 0: units come after the special ids."""
        return max(self.pad_id, self.bos_id, self.eos_id) + 1

    @property
    def size(self) -> int:
        return self.offset + self.num_units

    def rows(self) -> np.ndarray:
        """For each id of this package's vocabulary of one stream, slamkit's row: units, end, beginning, padding."""
        units = np.arange(self.num_units) + self.offset
        return np.concatenate([units, [self.eos_id, self.bos_id, self.pad_id]])


def is_slamkit(folder: Path) -> bool:
    try:
        return read_json(folder / "config.json").get("model_type") in MODEL_TYPES
    except (OSError, ValueError, AttributeError):  # no file, no JSON, no object: whoever needs it will say so
        return False


def read_layout(folder: Path) -> Layout:
    """UsageError for a model of text and units without its text tokenizer (see `slm.model.interleaved` for others), and
    for rows of which nothing says what they mean."""
    config, told = read_json(folder / "config.json"), folder / "tokeniser_config.json"
    rows = _whole(folder / "config.json", config, "vocab_size")
    if told.is_file():
        said = _read_object(told)
        if "bos_eos_token_id" not in said:
            raise UsageError(f"{folder}: a model of text and units together: put its text tokenizer.json beside it")
        bos = eos = _whole(told, said, "bos_eos_token_id")
        pad, num_units = _whole(told, said, "pad_token_id"), _whole(told, said, "num_units")
    else:
        base = config["base_config"] if isinstance(config.get("base_config"), Mapping) else {}
        pad, bos, eos = (
            usual if base.get(f"{name}_token_id") is None else _whole(folder / "config.json", base, f"{name}_token_id")
            for name, usual in (("pad", 0), ("bos", 1), ("eos", 1))
        )
        num_units = rows - max(pad, bos, eos) - 1
    layout = Layout(num_units, pad, bos, eos)
    if num_units > MAX_UNITS or num_units < 1 or {pad, bos, eos} != set(range(layout.offset)):
        raise UsageError(
            f"{folder}: a vocabulary of {rows} with padding {pad}, beginning {bos} and end {eos} is "
            "not that of a model of units alone; beside one of text and units its text tokenizer.json is needed"
        )
    if layout.size != rows:
        raise UsageError(f"{folder}: {rows} rows, but {num_units} units make {layout.size}")
    return layout


def _read_object(file: Path) -> Mapping[str, Any]:
    """UsageError for what is no JSON object."""
    try:
        said = read_json(file)
    except ValueError as error:
        raise UsageError(f"{file} is not JSON ({error}): fetch it again") from None
    if not isinstance(said, Mapping):
        raise UsageError(f"{file} is not a JSON object: fetch it again")
    return said


def _whole(file: Path, said: Mapping[str, Any], name: str) -> int:
    """A number that `file` says. UsageError where it does not."""
    value = said.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"{file}: {name} is {value!r}, not a whole number: fetch it again")
    return value


def read_settings(folder: Path) -> dict[str, Any]:
    """What `ModelRecord` takes: the flat pattern over one codebook, deduplicated where nothing says otherwise."""
    layout, told = read_layout(folder), folder / "tokeniser_config.json"
    config = read_json(folder / "config.json")
    return {
        "tokenizer": declared_spec(layout.num_units),
        "pattern_name": "flat",
        "dedup": bool(_read_object(told).get("dedup", True)) if told.is_file() else True,
        "training": {"published_by": "slamkit", "base_model": config.get("base_model_name")},
    }


def declared_spec(num_units: int) -> TokenizerSpec:
    """The tokenizer that such models are published with, as far as it is known without its weights: mHuBERT at 25 Hz
    with k-means, on clips with 40 zeros at either end."""
    return TokenizerSpec(
        name="ssl-kmeans",
        fingerprint=TokenizerSpec.DECLARED + stable_hash({**MHUBERT_25HZ, "units": num_units}),
        sample_rate_hz=16_000,
        hop_samples=640,
        codebook_sizes=(num_units,),
        semantic_codebooks=(0,),
        has_decoder=False,
        settings=MHUBERT_25HZ,
    )


def no_statistics(spec: TokenizerSpec) -> CodeStatistics:
    """Nothing is known of how often units occurred in training."""
    zeros = np.zeros(spec.codebook_sizes[0], np.int64)
    return CodeStatistics((zeros,), zeros, 0)


def load_slamkit(folder: Path) -> Any:
    """The body as a plain transformers model whose ids are this package's, in float32.

    Rows are put in this package's order. `<S>` becomes two ids, end and beginning, of which only the end may be
    predicted: the softmax then runs over the same logits as slamkit's, padding included.
    """
    layout = read_layout(folder)
    ids = {"pad_token_id": layout.pad_id, "bos_token_id": layout.bos_id, "eos_token_id": layout.eos_id}
    body = read_body(folder, layout.size, ids)
    never = [StreamVocabulary(layout.num_units).bos_id] if layout.bos_id == layout.eos_id else []
    return with_rows(body, layout.rows(), never)


def read_body(folder: Path, size: int, ids: Mapping[str, int]) -> Any:
    """The model of `base_config` with `size` rows; `ids` are its special ones. UsageError where weights and
    configuration do not fit, and for a body whose logits are bent."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    values = read_json(folder / "config.json").get("base_config")
    if not isinstance(values, Mapping) or values.get("model_type") not in CONFIG_MAPPING:
        kind = values.get("model_type") if isinstance(values, Mapping) else None
        raise UsageError(f"{folder / 'config.json'}: base_config is of no known model_type ({kind!r})")
    try:
        config = CONFIG_MAPPING[values["model_type"]].from_dict({**values, **ids, "vocab_size": size})
        body = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except Exception as error:  # transformers raises whatever its validation and its layers raise
        raise UsageError(f"{folder}: no model can be made of base_config ({' '.join(str(error).split())})") from None
    if getattr(config, "final_logit_softcapping", None):
        raise UsageError(f"{folder}: a body with a soft cap on its logits ({config.model_type}) is not read")
    weights = _with_both_ends(_read_weights(folder), body)
    try:
        missing, unexpected = body.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise UsageError(f"{folder}: {' '.join(str(error).split())}") from None
    lost = sorted(set(missing) - set(body.all_tied_weights_keys))
    unexpected = [name for name in unexpected if not name.endswith("rotary_emb.inv_freq")]
    if lost or unexpected:
        raise UsageError(f"{folder}: weights do not fit base_config (missing {lost[:3]}, unexpected {unexpected[:3]})")
    return body


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """Names without their `lm.`; one file, or as many as there are. A .bin is a pickle: nothing but tensors is read."""
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise UsageError(f"{folder}: no model.safetensors and no pytorch_model.bin: fetch its weights")
    found: dict[str, Tensor] = {}
    for file in files:
        try:
            whole = file.suffix == ".safetensors"
            read = load_file(file) if whole else torch.load(file, map_location="cpu", weights_only=True)
            found |= {name: value.float() for name, value in read.items()}
        except pickle.UnpicklingError:
            raise UsageError(
                f"{file} holds more than tensors, which only running its code would read: save it as safetensors where "
                "you trust it"
            ) from None
        except (SafetensorError, OSError, EOFError, RuntimeError, AttributeError, MemoryError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UsageError(f"{file} cannot be read ({reason}): fetch it again") from None
    return {name.removeprefix("lm."): value for name, value in found.items()}


def _with_both_ends(weights: dict[str, Tensor], body: Any) -> dict[str, Tensor]:
    """Tied embeddings are saved once, under the one name or the other."""
    for tied, kept in dict(body.all_tied_weights_keys).items():
        for here, there in ((tied, kept), (kept, tied)):
            if here in weights and there not in weights:
                weights[there] = weights[here]
    return weights


def with_rows(body: Any, rows: np.ndarray, never: Sequence[int]) -> Any:
    """Embeddings and output layer of these `rows [N]`, untied, as a model whose ids are this package's: N - 3 codes,
    end, beginning, padding. Those that are `never` predicted have probability 0."""
    import torch
    from torch import nn

    taken = torch.from_numpy(rows)
    embedded, head = body.get_input_embeddings().weight.detach(), body.get_output_embeddings()
    bias = torch.zeros(len(rows)) if head.bias is None else head.bias.detach()[taken]
    vocabulary = StreamVocabulary(len(rows) - 3)
    bias[list(never)] = NEVER
    output = nn.Linear(head.in_features, len(rows))
    output.weight, output.bias = nn.Parameter(head.weight.detach()[taken].clone()), nn.Parameter(bias)
    inputs = body.get_input_embeddings()  # kept: some (Gemma's) scale what they give
    inputs.weight, inputs.num_embeddings, inputs.padding_idx = nn.Parameter(embedded[taken].clone()), len(rows), None
    body.config.tie_word_embeddings = False
    body.config.vocab_size = vocabulary.size
    body.config.pad_token_id = None
    body.config.bos_token_id, body.config.eos_token_id = vocabulary.bos_id, vocabulary.eos_id
    body.set_output_embeddings(output)
    return body.eval()
