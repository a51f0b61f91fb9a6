"""GLM-4-Voice's tokenizer against golden codes of its authors' code, in a light build with true strides and blocks."""

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
from slm.tokenizers._batched import code_mismatch
from slm.tokenizers.glm_4_voice import Glm4VoiceTokenizer, _published_name
from slm.tokenizers.laws import batching_law, tokenizer_law
from slm.types import AudioClip
from tests.tokenizers.light_codecs import speech
from tests.tokenizers.seeded import seeded_state
from tests.tokenizers.speech import real_clips

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/data/golden/glm_4_voice.npz"
LIGHT: dict[str, Any] = {
    "d_model": 64,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 128,
    "quantize_position": 2,
    "pooling_position": 2,
    "quantize_vocab_size": 256,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("glm") / "light"
    Glm4VoiceTokenizer.write_untrained(made, **LIGHT)
    return made


def load(folder: Path) -> Glm4VoiceTokenizer:
    tokenizer = load_tokenizer("glm-4-voice", checkpoint=str(folder))
    assert isinstance(tokenizer, Glm4VoiceTokenizer)
    return tokenizer


def all_speech() -> AudioClip:
    """9 s: three blocks of attention."""
    return AudioClip("all", np.concatenate([clip.samples for clip in real_clips(16_000)]), 16_000)


def golden_clips() -> list[AudioClip]:
    return [*speech(16_000, 2), all_speech()]


def golden_state(tokenizer: Glm4VoiceTokenizer, centre: np.ndarray, directions: np.ndarray) -> dict[str, torch.Tensor]:
    """Seeded weights by their published names; a codebook around `centre [width]` along `directions [8, width]`."""
    state = seeded_state(tokenizer.model.state_dict())
    mixtures = 8 * state["quantizer.weight"][:, : len(directions)].double().numpy()
    state["quantizer.weight"] = torch.from_numpy(centre + mixtures @ directions).float()
    return {_published_name(name): value for name, value in state.items()}


def test_keeps_the_law(folder: Path) -> None:
    by_its_file = load_tokenizer(str(ROOT / "configs/tokenizers/glm-4-voice.yaml"), checkpoint=str(folder))
    assert by_its_file.spec == load(folder).spec
    samples = all_speech().samples
    clips = [AudioClip(str(n), samples[n:][: 20_000 + 3 * n], 16_000) for n in (0, 20_000, 60_000)]
    tokenizer_law(load(folder), clips)


def test_codes_are_those_of_the_authors_for_seeded_weights(folder: Path, tmp_path: Path) -> None:
    golden = np.load(GOLDEN)
    shutil.copy(folder / "config.json", tmp_path)
    state = golden_state(load(folder), golden["centre"], golden["directions"])
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    tokenizer = load(tmp_path)
    tokenizer.model.double()
    made = [codes.codes for codes in tokenizer.encode(golden_clips())]
    for i, codes in enumerate(made):
        assert np.array_equal(codes, golden[f"codes_{i}"])
    assert len(np.unique(np.concatenate(made))) >= 20, "too few codes show nothing"


def test_longer_clips_are_pieces_that_know_nothing_of_one_another(folder: Path) -> None:
    tokenizer = load(folder)
    samples = np.resize(all_speech().samples, 31 * 16_000 + 5)
    [codes] = tokenizer.encode([AudioClip("long", samples, 16_000)])
    first, last = tokenizer.encode(
        [AudioClip(str(i), part, 16_000) for i, part in enumerate(np.split(samples, [480_000]))]
    )
    assert len(first.codes) == 375
    assert np.array_equal(codes.codes, np.concatenate([first.codes, last.codes]))


def test_a_batch_equals_its_clips(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over blocks of attention, with zeros behind that nothing attends to; and with pieces of one clip in it."""
    monkeypatch.setattr(Glm4VoiceTokenizer, "batch_s", {"cpu": 30.0})
    exact, batched = (load_tokenizer("glm-4-voice", checkpoint=str(folder), mode=mode) for mode in ("exact", "batched"))
    assert isinstance(exact, Glm4VoiceTokenizer)
    assert isinstance(batched, Glm4VoiceTokenizer)
    exact.model.double()
    batched.model.double()
    samples = all_speech().samples
    lengths = (20_480, 20_481, 21_000, 64_000, 64_001, 70_007, len(samples))
    clips = [AudioClip(str(n), samples[:n], 16_000) for n in lengths]
    clips.append(AudioClip("pieces", np.resize(samples, 33 * 16_000), 16_000))
    runs: list[int] = []
    batched.model.encoder.layers[0].register_forward_pre_hook(lambda _, inputs: runs.append(len(inputs)))
    for alone, together in zip(exact.encode(clips), batched.encode(clips), strict=True):
        assert np.array_equal(alone.codes, together.codes), alone.id
    assert len(runs) < len(clips)
    batching_law(exact, batched, clips[3:5])
    batched.batch_s = {"cpu": 0.0}
    with pytest.raises(AssertionError, match="did not share batches"):
        batching_law(exact, batched, clips[:2])
    rounded = load_tokenizer("glm-4-voice", checkpoint=str(folder), mode="bf16")
    assert 0 < code_mismatch(rounded.encode(clips), batched.encode(clips)) < 0.5


def test_only_the_first_half_of_the_encoder_is_taken(folder: Path, tmp_path: Path) -> None:
    """Of a whole Whisper, with the statistics of its codebook, or of an encoder saved alone."""
    tokenizer = load(folder)
    weights = load_file(folder / "model.safetensors")
    more = {
        "model.encoder.layers.2.fc1.weight": torch.ones(3),
        "model.encoder.layer_norm.weight": torch.ones(64),
        "model.encoder.ema_count": torch.ones(256),
        "model.encoder.embed_positions2.weight": torch.ones(375, 64),
        "model.decoder.layers.0.fc1.weight": torch.ones(3),
        "proj_out.weight": torch.ones(2, 2),
    }
    alone = {name.removeprefix("model.encoder."): value for name, value in weights.items()}
    for name, state in {"whole": {**weights, **more}, "alone": alone}.items():
        (tmp_path / name).mkdir()
        shutil.copy(folder / "config.json", tmp_path / name)
        save_file(state, tmp_path / name / "model.safetensors", {"format": "pt"})
        assert load(tmp_path / name).spec.fingerprint == tokenizer.spec.fingerprint
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "whole/config.json").write_text(json.dumps({**config, "quantize_causal_block_size": 100}))
    assert load(tmp_path / "whole").spec.fingerprint != tokenizer.spec.fingerprint, "other codes of the same weights"


def test_what_is_of_another_form_is_refused_in_words(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="num_codebooks must be 1 to 1, not 2"):
        load_tokenizer("glm-4-voice", checkpoint=str(folder), num_codebooks=2)
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    config = json.loads((broken / "config.json").read_text())
    for change, told in (
        ({"pooling_type": "max"}, "only 'avg' is known"),
        ({"pooling_position": 1}, "pools after layer 1 and quantizes after another"),
        ({"d_model": 32}, r"not \("),
        ({"quantize_causal_block_size": "200"}, "has quantize_causal_block_size '200', not a whole number"),
        ({"encoder_attention_heads": -1}, "has encoder_attention_heads -1, not a whole number"),
        ({"pooling_kernel_size": 1501}, "pools 1501 frames, more than a piece has"),
        ({"quantize_position": 3, "pooling_position": 3}, "lacks"),
        ({"quantize_position": 10**12, "pooling_position": 10**12}, "more than 20000 weights and layers"),
    ):
        (broken / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(UsageError, match=told):
            load(broken)
    (broken / "config.json").write_text(json.dumps(config))
    weights = load_file(broken / "model.safetensors")
    weights.pop("model.encoder.codebook.weight")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=r"lacks 1 weights \(model\.encoder\.codebook\.weight\)"):
        load(broken)
    for text, told in (("{", "is no JSON"), ('{"model_type": "whisper"}', "no configuration of GLM-4-Voice")):
        (broken / "config.json").write_text(text)
        with pytest.raises(UsageError, match=told):
            load(broken)
    with pytest.raises(UsageError, match=r"lacks config\.json"):
        load(tmp_path)
