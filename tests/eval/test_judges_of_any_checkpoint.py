"""Judges by folder, with checkpoints of the published architectures: what is whole is heard as its model hears it, what
is not whole judges nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eval.judges.asr import SpeechRecognizer
from eval.judges.base import MissingJudgeError
from eval.judges.sounds import SoundClassifier
from eval.judges.speaker import XVector
from eval.judges.text_lm import TextModel, _no_bars
from slm.types import AudioClip

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
EARS = {"conv_dim": (8,) * 7, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}  # strides as published


def noise(samples: int) -> AudioClip:
    drawn = np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32)
    return AudioClip(f"{samples}", drawn, 16_000)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> SimpleNamespace:
    """WavLM for speakers (strides and kernels as published, narrow), and the same without its head."""
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMForXVector, WavLMModel

    root = tmp_path_factory.mktemp("judges")
    torch.manual_seed(0)
    config = WavLMConfig(**SMALL, **EARS, tdnn_dim=(8,) * 5, xvector_output_dim=8)
    for name, kind in (("whole", WavLMForXVector), ("encoder", WavLMModel)):
        kind(config).save_pretrained(root / name)
        Wav2Vec2FeatureExtractor().save_pretrained(root / name)
    return SimpleNamespace(root=root, whole=root / "whole", encoder=root / "encoder")


def test_an_x_vector_of_less_than_two_frames_is_none(folders):
    """The TDNN takes 5 + 3 + 3 frames, by 1, 2 and 3: 14 are lost. 16 frames of 20 ms begin at 5200 samples."""
    judge = XVector(str(folders.whole))
    clips = [noise(n) for n in (4000, 4800, 5000, 5199, 5200, 8000)]
    found = judge.embed(clips)
    assert [vector is not None for vector in found] == [False] * 4 + [True] * 2
    given = judge.features(clips[4].samples, sampling_rate=16_000, return_tensors="pt").input_values
    with torch.inference_mode():
        assert np.isfinite(found[4]).all()
        assert found[4] == pytest.approx(judge.model(given).embeddings[0].numpy(), abs=1e-5)


def test_a_head_that_chance_would_draw_judges_nothing(folders):
    for judge in (XVector, SoundClassifier):
        with pytest.raises(MissingJudgeError, match=r"another .*, which lacks \d+ weights of a WavLMFor"):
            judge(str(folders.encoder))


def test_a_mask_that_is_for_training_only_may_be_lacking(folders, tmp_path):
    """As in many checkpoints of the hub."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folders.whole, tmp_path / "x")
    weights = load_file(tmp_path / "x/model.safetensors")
    del weights["wavlm.masked_spec_embed"]
    save_file(weights, tmp_path / "x/model.safetensors", {"format": "pt"})
    lacking, whole = (XVector(str(f)).embed([noise(8000)])[0] for f in (tmp_path / "x", folders.whole))
    assert lacking == pytest.approx(whole, rel=1e-5)


def test_half_a_file_and_other_shapes_are_missing_judges(folders, tmp_path):
    for name in ("half", "other"):
        shutil.copytree(folders.whole, tmp_path / name)
    data = (tmp_path / "half/model.safetensors").read_bytes()
    (tmp_path / "half/model.safetensors").write_bytes(data[: len(data) // 2])
    config = tmp_path / "other/config.json"
    config.write_text(config.read_text().replace('"xvector_output_dim": 8', '"xvector_output_dim": 9'))
    with pytest.raises(MissingJudgeError, match="a whole checkpoint there"):
        XVector(str(tmp_path / "half"))
    with pytest.raises(MissingJudgeError, match="lacks 5 weights"):
        XVector(str(tmp_path / "other"))


def test_w2v_bert_is_not_asked_about_frames_that_are_padding(tmp_path):
    """Its frames are paired: of an odd number the last pair would be half a frame; its mask is heard, and cut."""
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertForCTC, Wav2Vec2CTCTokenizer

    (tmp_path / "v.json").write_text('{"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "A": 5, "B": 6, "C": 7}')
    Wav2Vec2CTCTokenizer(str(tmp_path / "v.json")).save_pretrained(tmp_path)
    SeamlessM4TFeatureExtractor().save_pretrained(tmp_path)
    torch.manual_seed(0)
    Wav2Vec2BertForCTC(Wav2Vec2BertConfig(vocab_size=8, **SMALL)).save_pretrained(tmp_path)
    asr, clips = SpeechRecognizer(str(tmp_path)), [noise(n) for n in (1, 300, *range(1600, 1600 + 40 * 160, 160))]
    expected = ["", ""]
    for clip in clips[2:]:
        heard = asr.features(clip.samples, sampling_rate=16_000, return_tensors="pt")
        with torch.inference_mode():
            ids = asr.model(**heard).logits.argmax(-1)[:, : int(heard.attention_mask.sum())]
        expected += asr.tokenizer.batch_decode(ids)
    assert asr.transcribe(clips) == [text.strip() for text in expected]


def text_model(kind: str, folder: Path, **settings) -> TextModel:
    """Of random weights, with eight words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({w: i for i, w in enumerate("?abc12345")}, unk_token="?"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?", eos_token="?").save_pretrained(folder)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings)).save_pretrained(folder)
    return TextModel(str(folder))


def test_a_model_that_reads_what_comes_later_is_no_judge_of_likelihood(tmp_path):
    with pytest.raises(MissingJudgeError, match=r"causal model, not .*: it is a Bert"):
        text_model("bert", tmp_path, vocab_size=16, **SMALL)


def test_settings_of_text_models_that_stand_elsewhere(tmp_path):
    """Gemma 3 has those of its text in a configuration inside; MPT calls its reach by another name."""
    mpt = text_model("mpt", tmp_path / "mpt", vocab_size=16, d_model=16, n_layers=1, n_heads=2, max_seq_len=6)
    assert (mpt.max_tokens, mpt.likelihoods(["a b c a b c a b c"])[0][1]) == (6, 5)
    text = {"vocab_size": 16, "head_dim": 8, "num_key_value_heads": 2, "max_position_embeddings": 32, **SMALL}
    sight = {**SMALL, "image_size": 28, "patch_size": 14}
    gemma = text_model("gemma3", tmp_path / "gemma", text_config=text, vision_config=sight, mm_tokens_per_image=4)
    assert gemma.max_tokens == 32
    nll, count = gemma.likelihoods(["a b"])[0]
    with torch.inference_mode():
        logits = gemma.model(input_ids=torch.tensor([[gemma._start(), 1, 2]])).logits[0].double()
    slow = -sum(float(torch.log_softmax(logits[place], -1)[word]) for place, word in enumerate((1, 2)))
    assert (count, nll) == (2, pytest.approx(slow, rel=1e-5))


def test_the_bars_of_unpacking_are_left_out_and_all_others_come(capfd):
    unpacking = pytest.importorskip("transformers.modeling_gguf_pytorch_utils")
    from transformers.utils import logging

    was = logging.is_progress_bar_enabled()
    logging.enable_progress_bar()
    try:
        with _no_bars():
            list(unpacking.tqdm([1], desc="unpacked"))
            list(logging.tqdm([1], desc="loaded"))
        list(unpacking.tqdm([1], desc="another"))
        assert logging.is_progress_bar_enabled()
    finally:
        (logging.enable_progress_bar if was else logging.disable_progress_bar)()
    said = capfd.readouterr().err
    assert "another" in said
    assert not any(word in said for word in ("unpacked", "loaded"))
