"""Whisper out of a CTranslate2 `model.bin` and into transformers, with nothing unpickled.

The file (format 6, written by CTranslate2's `ModelSpec.save`, all little-endian) is: u32 format, spec name, u32
revision, u32 count of variables; each variable: name, u8 rank, u32 dimensions, u8 type, u32 bytes, the bytes; then
u32 count of aliases, each alias and its target. A string is a u16 length and so many bytes, the last of them 0.
Attention is fused there: `linear_0` holds query, key and value rows (cross attention: query, then key and value).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slm.errors import UsageError

if TYPE_CHECKING:
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_GELU = 3  # ctranslate2.specs.common_spec.Activation.GELU
_HEAD_WIDTH = 64  # of every Whisper, for the files that do not say
_ENGLISH_VOCABULARY = 51864


class _Reader:
    """Takes values off a buffer; past its end is a UsageError, not garbage."""

    def __init__(self, path: Path):
        self.path, self.position = path, 0
        self.buffer = memoryview(np.memmap(path, np.uint8, mode="r"))  # type: ignore[arg-type]

    def fail(self, why: str) -> UsageError:
        return UsageError(f"{self.path} is not a usable CTranslate2 Whisper model: {why}")

    def take(self, size: int) -> memoryview:
        if size > len(self.buffer) - self.position:
            raise self.fail(f"it ends early, at byte {len(self.buffer)} (a broken download?)")
        start, self.position = self.position, self.position + size
        return self.buffer[start : self.position]

    def number(self, code: str) -> int:
        return struct.unpack("<" + code, self.take(struct.calcsize(code)))[0]

    def text(self) -> str:
        raw = bytes(self.take(self.number("H")))
        if not raw.endswith(b"\0") or not raw.isascii():
            raise self.fail(f"expected a name before byte {self.position}")
        return raw[:-1].decode()

    def array(self) -> np.ndarray:
        shape = [self.number("I") for _ in range(self.number("B"))]
        kind, size = self.number("B"), self.number("I")
        if kind not in _DTYPES:
            raise self.fail(f"unknown number type {kind} before byte {self.position}")
        dtype = np.dtype(_DTYPES[kind])
        if size != math.prod(shape) * dtype.itemsize:
            raise self.fail(f"{size} bytes for an array {shape} of {dtype} before byte {self.position}")
        return np.frombuffer(self.take(size), dtype).reshape(shape)


def read_variables(path: str | Path) -> dict[str, np.ndarray]:
    """The variables of a Whisper `model.bin` by name, as views of the mapped file; aliases included.

    Raises UsageError for a file that is missing, cut short, of another format version or of another model.
    """
    path = Path(path)
    if not path.is_file() or path.stat().st_size == 0:
        raise UsageError(f"no such CTranslate2 model: {path}")
    reader = _Reader(path)
    if (version := reader.number("I")) != 6:
        raise reader.fail(f"its format version is {version}, and only 6 is known")
    if (spec := reader.text()) != "WhisperSpec":
        raise reader.fail(f"it holds a {spec}")
    reader.number("I")  # revision of the spec: the names below tell whether it fits
    variables = {}
    for _ in range(reader.number("I")):
        name = reader.text()
        variables[name] = reader.array()
    for _ in range(reader.number("I")):
        alias, target = reader.text(), reader.text()
        if target not in variables:
            raise reader.fail(f"{alias} stands for {target}, which is not there")
        variables[alias] = variables[target]
    if reader.position != len(reader.buffer):
        raise reader.fail(f"{len(reader.buffer) - reader.position} bytes are left over at its end")
    return variables


class _Converter:
    """Builds a transformers state dict (fp32) from the variables."""

    def __init__(self, path: str | Path):
        self.path = path
        self.variables = read_variables(path)
        for side in ("encoder", "decoder"):
            if int(self.variables.get(f"{side}/activation", _GELU)) != _GELU:
                raise UsageError(f"{path}: a Whisper whose activation is not GELU is not supported")

    def tensor(self, name: str) -> torch.Tensor:
        import torch

        if name not in self.variables:
            raise UsageError(f"{self.path} is not a usable CTranslate2 Whisper model: {name} is missing")
        array = self.variables[name]
        if array.dtype not in (np.float16, np.float32):
            raise UsageError(f"{self.path}: its weights are quantized to {array.dtype}; use an fp16 or fp32 conversion")
        return torch.from_numpy(array.astype(np.float32))

    def count_layers(self, side: str) -> int:
        names = {name.split("/")[1] for name in self.variables if name.startswith(f"{side}/layer_")}
        return len(names - {"layer_norm"})

    def norm(self, target: str, source: str) -> dict[str, torch.Tensor]:
        return {f"{target}.weight": self.tensor(f"{source}/gamma"), f"{target}.bias": self.tensor(f"{source}/beta")}

    def linear(self, target: str, source: str) -> dict[str, torch.Tensor]:
        return {f"{target}.weight": self.tensor(f"{source}/weight"), f"{target}.bias": self.tensor(f"{source}/bias")}

    def fused(self, target: str, source: str, parts: str) -> dict[str, torch.Tensor]:
        """Split the rows of one linear layer into `parts` (of "qkv") of equal height; Whisper's keys have no bias."""
        weights = self.tensor(f"{source}/weight").chunk(len(parts))
        biases = self.tensor(f"{source}/bias").chunk(len(parts))
        state = {}
        for part, weight, bias in zip(parts, weights, biases, strict=True):
            state[f"{target}.{part}_proj.weight"] = weight
            if part != "k":
                state[f"{target}.{part}_proj.bias"] = bias
        return state

    def layer(self, target: str, source: str, cross_attention: bool) -> dict[str, torch.Tensor]:
        attention = f"{source}/self_attention"
        state = {
            **self.norm(f"{target}.self_attn_layer_norm", f"{attention}/layer_norm"),
            **self.fused(f"{target}.self_attn", f"{attention}/linear_0", "qkv"),
            **self.linear(f"{target}.self_attn.out_proj", f"{attention}/linear_1"),
            **self.norm(f"{target}.final_layer_norm", f"{source}/ffn/layer_norm"),
            **self.linear(f"{target}.fc1", f"{source}/ffn/linear_0"),
            **self.linear(f"{target}.fc2", f"{source}/ffn/linear_1"),
        }
        if cross_attention:
            attention = f"{source}/attention"
            state |= self.norm(f"{target}.encoder_attn_layer_norm", f"{attention}/layer_norm")
            state |= self.linear(f"{target}.encoder_attn.q_proj", f"{attention}/linear_0")
            state |= self.fused(f"{target}.encoder_attn", f"{attention}/linear_1", "kv")
            state |= self.linear(f"{target}.encoder_attn.out_proj", f"{attention}/linear_2")
        return state

    def encoder_state(self) -> dict[str, torch.Tensor]:
        state = {"embed_positions.weight": self.tensor("encoder/position_encodings/encodings")}
        for part in ("conv1", "conv2"):
            state |= self.linear(part, f"encoder/{part}")
        for i in range(self.count_layers("encoder")):
            state |= self.layer(f"layers.{i}", f"encoder/layer_{i}", cross_attention=False)
        return state | self.norm("layer_norm", "encoder/layer_norm")

    def decoder_state(self) -> dict[str, torch.Tensor]:
        state = {
            "embed_positions.weight": self.tensor("decoder/position_encodings/encodings"),
            "embed_tokens.weight": self.tensor("decoder/embeddings/weight"),
        }
        for i in range(self.count_layers("decoder")):
            state |= self.layer(f"layers.{i}", f"decoder/layer_{i}", cross_attention=True)
        return state | self.norm("layer_norm", "decoder/layer_norm")

    def config(self) -> WhisperConfig:
        from transformers import WhisperConfig

        width, bands, _ = self.tensor("encoder/conv1/weight").shape
        vocab_size, _ = self.tensor("decoder/embeddings/weight").shape
        end = 50256 if vocab_size == _ENGLISH_VOCABULARY else 50257
        sides: dict[str, Any] = {}
        for side in ("encoder", "decoder"):
            heads = self.variables.get(f"{side}/num_heads")
            sides[f"{side}_layers"] = self.count_layers(side)
            sides[f"{side}_attention_heads"] = int(heads) if heads is not None else width // _HEAD_WIDTH
            sides[f"{side}_ffn_dim"] = len(self.tensor(f"{side}/layer_0/ffn/linear_0/bias"))
        return WhisperConfig(
            vocab_size=vocab_size,
            num_mel_bins=bands,
            d_model=width,
            max_source_positions=len(self.tensor("encoder/position_encodings/encodings")),
            max_target_positions=len(self.tensor("decoder/position_encodings/encodings")),
            pad_token_id=end,
            bos_token_id=end,
            eos_token_id=end,
            decoder_start_token_id=end + 1,
            **sides,
        )


def _filled(model: Any, state: Mapping[str, torch.Tensor]) -> Any:
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def load_whisper_encoder(path: str | Path) -> WhisperEncoder:
    """The encoder alone of a CTranslate2 `model.bin`, in fp32 and evaluation mode. UsageError for another file."""
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    source = _Converter(path)
    return _filled(WhisperEncoder(source.config()), source.encoder_state())


def load_whisper(path: str | Path) -> WhisperForConditionalGeneration:
    """The whole model of a CTranslate2 `model.bin`, in fp32 and evaluation mode. UsageError for another file.

    Its tokenizer and the tokens to suppress lie beside the file; `generate` wants them from there.
    """
    from transformers import WhisperForConditionalGeneration

    source = _Converter(path)
    state = {f"model.encoder.{name}": value for name, value in source.encoder_state().items()}
    state |= {f"model.decoder.{name}": value for name, value in source.decoder_state().items()}
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    return _filled(WhisperForConditionalGeneration(source.config()), state)
