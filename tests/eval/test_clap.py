"""CLAP with a tiny model of random weights: the judge's cosine is the model's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eval.judges.sounds import Clap
from eval.metrics.similarity import cosine
from slm.types import AudioClip

TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "vocab_size": 6, "max_position_embeddings": 32, "projection_dim": 8}  # fmt: skip
AUDIO = {"spec_size": 64, "num_mel_bins": 16, "patch_size": 4, "patch_stride": [4, 4], "patch_embeds_hidden_size": 8,
         "hidden_size": 16, "depths": [1, 1], "num_attention_heads": [1, 2], "window_size": 4, "num_hidden_layers": 2,
         "projection_dim": 8}  # fmt: skip


@pytest.fixture(scope="module")
def clap(tmp_path_factory) -> Clap:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, ClapProcessor, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("clap")
    words = Tokenizer(WordLevel({w: i for i, w in enumerate(["<s>", "<pad>", "</s>", "?", "a", "dog"])}, unk_token="?"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?", pad_token="<pad>")
    features = ClapFeatureExtractor(16, sampling_rate=16_000, hop_length=500, max_length_s=2, truncation="rand_trunc")
    torch.manual_seed(0)
    ClapModel(ClapConfig(text_config=TEXT, audio_config=AUDIO, projection_dim=8)).save_pretrained(folder)
    ClapProcessor(features, tokenizer).save_pretrained(folder)
    return Clap(str(folder))


def test_the_cosine_is_that_of_the_model(clap):
    clip = AudioClip("x", np.random.default_rng(0).normal(0, 0.1, 20_000).astype(np.float32), 16_000)
    (sound, nothing), (words,) = (
        clap.embed([clip, AudioClip("y", np.zeros(0, np.float32), 16_000)]),
        clap.embed_texts(["a dog"]),
    )
    heard = clap.processor.feature_extractor(clip.samples, sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        logits = clap.model(input_ids=torch.tensor([[4, 5]]), input_features=heard.input_features).logits_per_audio
    assert cosine(sound, words) == pytest.approx(
        float(logits) / float(clap.model.logit_scale_a.detach().exp()), abs=1e-5
    )
    assert nothing is None
    assert "rand_trunc to 2 s" in clap.record().sentence()


def test_a_caption_is_cut_to_what_the_model_can_read(clap):
    """Its tokenizer need not know: 32 positions, of which RoBERTa leaves two free."""
    with torch.inference_mode():
        read = clap.model.get_text_features(input_ids=torch.tensor([[4, 5] * 15])).pooler_output[0].numpy()
    assert clap.embed_texts(["a dog " * 40])[0] == pytest.approx(read, abs=1e-6)


def test_a_long_clip_is_cut_at_the_same_place_each_time_and_nobody_elses_dice_are_touched(clap):
    long = AudioClip("x", np.random.default_rng(0).normal(0, 0.1, 64_000).astype(np.float32), 16_000)
    np.random.seed(7)
    first = clap.embed([long])[0]
    drawn = np.random.rand()
    assert np.array_equal(first, clap.embed([long])[0])
    np.random.seed(7)
    assert np.random.rand() == drawn
