"""Qwen3-TTS's tokenizer against golden codes and audio of its authors' package, in a light build with true strides."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from slm.errors import UsageError
from slm.tokenizers import load_tokenizer
from slm.tokenizers.laws import batching_law, tokenizer_law
from slm.tokenizers.networks.qwen3_tts import Codebook, Decoder
from slm.tokenizers.qwen3_tts import DECODER, Qwen3TtsTokenizer
from slm.types import AudioClip, Codes
from tests.tokenizers.light_codecs import MIMI, speech
from tests.tokenizers.seeded import seeded_tensor
from tests.tokenizers.speech import real_clips

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/data/golden/qwen3_tts.npz"
LIGHT: dict[str, Any] = {
    "encoder_valid_num_quantizers": 3,
    # Within the window of attention, which the authors' version of transformers does not keep to.
    "encoder_config": {**MIMI, "num_quantizers": 4, "sliding_window": 250},
    "decoder_config": {
        "codebook_dim": 16,
        "codebook_size": 64,
        "num_quantizers": 3,
        "latent_dim": 32,
        "hidden_size": 32,
        "intermediate_size": 64,
        "head_dim": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "sliding_window": 8,
        "decoder_dim": 48,
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("qwen") / "light"
    Qwen3TtsTokenizer.write_untrained(made, **LIGHT)
    return made


def load(folder: Path, **settings: Any) -> Qwen3TtsTokenizer:
    tokenizer = load_tokenizer("qwen3-tts-12hz", checkpoint=str(folder), **settings)
    assert isinstance(tokenizer, Qwen3TtsTokenizer)
    return tokenizer


def golden_state(folder: Path, books: np.ndarray) -> dict[str, torch.Tensor]:
    """Seeded weights by their published names; the encoder's codebooks are `books [4, 64, 16]`."""
    state, left = load_file(folder / "model.safetensors"), iter(books)
    made = {}
    for name, value in sorted(state.items()):
        if name.endswith("codebook.embed_sum"):
            made[name] = torch.from_numpy(next(left))
        elif name.endswith(("cluster_usage", "initialized")):
            made[name] = value
        else:
            made[name] = torch.from_numpy(seeded_tensor(name, tuple(value.shape), 0)).to(value.dtype)
        if "layer_scale" in name or name.endswith("gamma"):
            made[name] = 0.5 * made[name]
        elif name == "decoder.decoder.6.conv.weight":
            made[name] = 0.01 * made[name]  # audio within -1..1
    return made


def golden_clips() -> list[AudioClip]:
    return speech(24_000, 3)


def golden_codes() -> np.ndarray:
    """`[T, K]`, longer than what is decoded at once."""
    return np.random.default_rng(0).integers(0, 64, (340, 3))


def test_keeps_the_law(folder: Path) -> None:
    by_its_file = load_tokenizer(str(ROOT / "configs/tokenizers/qwen3-tts-12hz.yaml"), checkpoint=str(folder))
    assert by_its_file.spec == load(folder).spec
    tokenizer_law(load(folder), speech(24_000, 3))


def test_codes_and_audio_are_those_of_the_authors_for_seeded_weights(folder: Path, tmp_path: Path) -> None:
    golden = np.load(GOLDEN)
    shutil.copy(folder / "config.json", tmp_path)
    save_file(golden_state(folder, golden["books"]), tmp_path / "model.safetensors", {"format": "pt"})
    tokenizer = load(tmp_path)
    assert tokenizer.spec.semantic_codebooks == (0,)
    tokenizer.model.double()
    made = [codes.codes for codes in tokenizer.encode(golden_clips())]
    for i, codes in enumerate(made):
        assert np.array_equal(codes, golden[f"codes_{i}"])
    assert all(len(np.unique(column)) >= 5 for column in np.concatenate(made).T), "too few codes show nothing"
    long = Codes("long", golden_codes().astype(tokenizer.spec.code_dtype), 340 * 1920, tokenizer.spec)
    audio = tokenizer.decode(long).samples
    places = golden["places"]
    np.testing.assert_allclose(audio[places], golden["audio"], atol=1e-6 * np.abs(golden["audio"]).max())


def test_what_the_golden_build_does_not_show() -> None:
    """Heads wider than their share of the width, as published; codes by how often they came up; audio that is cut."""
    decoder = Decoder({**DECODER, **LIGHT["decoder_config"], "head_dim": 32}).eval()
    attention = decoder.pre_transformer.layers[0].self_attn
    assert (attention.q_proj.out_features, attention.scaling) == (2 * 32, 32**-0.5)
    assert len(decoder.pre_transformer.rotary_emb.inv_freq) == 16
    book = Codebook(2, 1)
    with torch.inference_mode():
        book.cluster_usage.copy_(torch.tensor([0.5, 0.0]))
        book.embedding_sum.copy_(torch.tensor([[3.0], [1e-5]]))
        torch.testing.assert_close(book(torch.tensor([[0, 1]])), torch.tensor([[[6.0], [1.0]]]))
        decoder.decoder[-1].conv.bias.fill_(9.0)
        assert decoder(torch.zeros(1, 3, 1, dtype=torch.int64)).eq(1).all()


def test_a_batch_equals_its_clips(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Qwen3TtsTokenizer, "batch_s", {"cpu": 16.0})
    exact, batched = load(folder), load(folder, mode="batched")
    clips = [AudioClip(clip.id, clip.samples[: int(1.6 * 24_000)], 24_000) for clip in real_clips(24_000)[:2]]
    batching_law(exact, batched, clips)


def test_long_clips_and_streams_are_coded_as_one_pass_would(folder: Path) -> None:
    tokenizer = load(folder)
    tokenizer.model.double()
    samples = np.concatenate([clip.samples for clip in real_clips(24_000)])[: 8 * 24_000 + 77]
    [whole] = tokenizer.encode([AudioClip("clip", samples, 24_000)])
    tokenizer.piece_s = 1.0
    [pieces] = tokenizer.encode([AudioClip("clip", samples, 24_000)])
    assert np.array_equal(pieces.codes, whole.codes)
    stream = tokenizer.stream_encoder()
    chunks = [stream.feed(part) for part in np.array_split(samples, 23)]
    assert np.array_equal(np.concatenate([*chunks, stream.finish()]), whole.codes)
    with pytest.raises(UsageError, match="cannot be streamed"):
        tokenizer.stream_decoder()


def test_what_is_of_another_form_is_refused_in_words(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UsageError, match="num_codebooks must be 1 to 3, not 4"):
        load(folder, num_codebooks=4)
    assert "MISSING" not in caplog.text + capfd.readouterr().err, "of a decoder that is not Mimi's"
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    config, weights = json.loads((broken / "config.json").read_text()), load_file(folder / "model.safetensors")
    for change, told in (
        ({"model_type": "mimi"}, "its model_type is 'mimi'"),
        ({"encode_downsample_rate": 960}, "a frame of 960 samples would come back as 1920"),
        ({"decoder_config": {**config["decoder_config"], "latent_dim": 16}}, r"not \("),
        ({"encoder_config": {**config["encoder_config"], "hidden_size": 64}}, r"not \("),
        ({"encoder_config": {**config["encoder_config"], "num_hidden_layers": 0}}, "it has 12 weights more"),
        ({"decoder_config": {**config["decoder_config"], "num_hidden_layers": 10**12}}, "not a number above 0, up to"),
        ({"encoder_config": {**config["encoder_config"], "rope_theta": 0}}, "has rope_theta 0 in its"),
        ({"decoder_config": {**config["decoder_config"], "rope_theta": -1}}, "has rope_theta -1 in decoder_config"),
        ({"decoder_config": {**config["decoder_config"], "sliding_window": 0}}, "has sliding_window 0 in"),
        ({"encoder_valid_num_quantizers": 4}, "of 4 codebooks the decoder would take 3"),
    ):
        (broken / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(UsageError, match=told):
            load(broken)
    window = {**config["encoder_config"], "sliding_window": 100}
    (broken / "config.json").write_text(json.dumps({**config, "encoder_config": window}))
    assert load(broken).spec.fingerprint != load(folder).spec.fingerprint, "other codes of the same weights"
    (broken / "config.json").write_text(json.dumps(config))
    for name in ("encoder.downsample.conv.weight", "decoder.pre_transformer.input_proj.bias"):
        save_file({key: value for key, value in weights.items() if key != name}, broken / "model.safetensors")
        with pytest.raises(UsageError, match="lacks 1 weights"):
            load(broken)
    with pytest.raises(UsageError, match=r"lacks config\.json"):
        load(tmp_path)
