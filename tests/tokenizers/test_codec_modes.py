"""Modes of encoding: clips of different lengths in one batch, against each clip alone."""

from __future__ import annotations

import copy
import pickle
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slm.errors import UsageError
from slm.tokenizers import TOKENIZERS, load_tokenizer
from slm.tokenizers._batched import code_mismatch
from slm.tokenizers._codec import NeuralCodec
from slm.tokenizers._modes import inference
from slm.tokenizers.encodec import EncodecTokenizer
from slm.tokenizers.laws import batching_law, tokenizer_law
from slm.tokenizers.networks.packed import PackedClips
from slm.tokenizers.xcodec2 import XCodec2Tokenizer
from slm.types import AudioClip
from tests.tokenizers.light_codecs import DAC, ENCODEC, MIMI
from tests.tokenizers.semantic_codecs import LIGHT
from tests.tokenizers.speech import real_clips

RATES = {"encodec": 24_000, "dac": 16_000, "mimi": 24_000}
SMALL: dict[str, dict[str, Any]] = {
    "encodec": ENCODEC,
    "dac": DAC,
    "mimi": MIMI,
    "snac": {"encoder_dim": 4, "decoder_dim": 32, "codebook_size": 64},
    "sq-codec": {"init_channel": 4},
    "speechtokenizer": {"n_filters": 4, "dimension": 24, "codebook_size": 64, "n_q": 3},
    "wavtokenizer": {
        "width": 4,
        "input_channels": 24,
        "vq_bins": 64,
        "dim": 64,
        "intermediate_dim": 48,
        "num_layers": 2,
    },
}

MEASURED = {name: changes for name, changes in SMALL.items() if name != "snac" or find_spec("snac")}
"""Families of which it is known how many codes rounding changes."""
FAMILIES = {**MEASURED, "bigcodec": {"ngf": 2, "upsample_initial_channel": 64, "vq_dim": 16, "codebook_size": 64}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("untrained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("GPUs of the program around are seeded"))
        for name, changes in FAMILIES.items():
            TOKENIZERS.get(name).write_untrained(root / name, **changes)  # type: ignore[attr-defined]
    return {name: str(root / name) for name in FAMILIES}


@pytest.fixture
def rows_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 8 s, where a CPU would take clips one by one."""
    for codec in (NeuralCodec, XCodec2Tokenizer):
        monkeypatch.setattr(codec, "batch_s", {"cpu": 8.0})


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_of_any_lengths_equals_its_clips(name: str, folders: dict[str, str], rows_on_cpu: None) -> None:
    exact, batched = (load_tokenizer(name, checkpoint=folders[name], mode=mode) for mode in ("exact", "batched"))
    assert isinstance(exact, NeuralCodec)
    assert isinstance(batched, NeuralCodec)
    rate = exact.spec.sample_rate_hz
    clips = [
        replace(clip, samples=clip.samples[: int(1.6 * rate)])
        for clip in real_clips(rate)[: 1 if name == "bigcodec" else 2]
    ]
    batching_law(exact, batched, clips)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("encodec", "batched"),
        *(pytest.param(name, "bf16", marks=pytest.mark.thorough) for name in ("mimi", "dac")),
    ],
)
def test_no_neighbour_changes_a_code_in_any_precision(
    name: str, mode: str, folders: dict[str, str], rows_on_cpu: None
) -> None:
    tokenizer_law(load_tokenizer(name, checkpoint=folders[name], mode=mode), real_clips(RATES[name])[:3])


def test_clips_begun_one_after_the_other_are_finished_in_any_order(
    folders: dict[str, str], rows_on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    batched = load_tokenizer("encodec", checkpoint=folders["encodec"], mode="batched")
    clips = [*real_clips(24_000), AudioClip("short", np.zeros(100, np.float32), 24_000)]
    expected = batched.encode(clips)
    assert not batched.runs_ahead
    monkeypatch.setattr(NeuralCodec, "runs_ahead", True)
    waiting = [batched.start(part) for part in (clips[:1], clips[1:])]
    made = [codes for wait in reversed(waiting) for codes in wait()]
    by_id = {codes.id: codes.codes for codes in made}
    assert all(np.array_equal(by_id[codes.id], codes.codes) for codes in expected)
    with pytest.raises(ValueError, match="empty: no samples"):
        batched.start([AudioClip("none", np.zeros(0, np.float32), 24_000)])


def test_clips_as_long_as_a_tensor_and_about_the_shortest(folders: dict[str, str], rows_on_cpu: None) -> None:
    """A sample, a frame more or less than a tensor, than its shares, than what is coded alone."""
    exact, batched = (load_tokenizer("encodec", checkpoint=folders["encodec"], mode=m) for m in ("exact", "batched"))
    assert isinstance(exact, NeuralCodec)
    assert isinstance(batched, NeuralCodec)
    exact.model.double()
    batched.model.double()
    hop, total = 320, 8 * 75 // 16 * 16
    speech = np.concatenate([clip.samples for clip in real_clips(24_000)])
    speech = np.tile(speech, 1 + (total + 2) * hop // len(speech))
    sizes = [frames * hop + more for frames in (16, total // 2, total) for more in (-hop, -1, 0, 1)]
    clips = [AudioClip(str(n), speech[i * 100 :][:n], 24_000) for i, n in enumerate(sizes)]
    for alone, together in zip(exact.encode(clips), batched.encode(clips), strict=True):
        assert np.array_equal(alone.codes, together.codes), alone.id


def test_windows_of_attention_stay_whole(tmp_path: Path, rows_on_cpu: None) -> None:
    """SNAC at 32 kHz attends within windows of frames: clips begin with one."""
    pytest.importorskip("snac")
    changes = {
        "sampling_rate": 16_000,
        "encoder_dim": 16,
        "encoder_rates": [8, 8],
        "decoder_dim": 256,
        "decoder_rates": [8, 8],
        "attn_window_size": 32,
        "codebook_size": 64,
        "vq_strides": [8, 4, 2, 1],
    }
    TOKENIZERS.get("snac").write_untrained(tmp_path / "snac", **changes)  # type: ignore[attr-defined]
    exact, batched = (load_tokenizer("snac", checkpoint=str(tmp_path / "snac"), mode=m) for m in ("exact", "batched"))
    assert exact.spec.frame_multiple == 4
    assert isinstance(exact, NeuralCodec)
    assert isinstance(batched, NeuralCodec)
    batching_law(exact, batched, real_clips(16_000)[:2])
    rounded = load_tokenizer("snac", checkpoint=str(tmp_path / "snac"), mode="bf16")
    assert 0 < code_mismatch(rounded.encode(real_clips(16_000)), exact.encode(real_clips(16_000))) < 0.9


@pytest.mark.filterwarnings("error:Support for mismatched key_padding_mask")
@pytest.mark.parametrize(
    ("name", "semantic"),
    [
        ("xcodec", "hubert"),
        pytest.param("higgs-audio-v2", "hubert", marks=pytest.mark.thorough),
        pytest.param("xcodec", "wavlm", marks=pytest.mark.thorough),
        pytest.param("xcodec2", "wav2vec2-bert", marks=pytest.mark.thorough),
        pytest.param("neucodec", "wav2vec2-bert", marks=pytest.mark.thorough),
    ],
)
def test_two_branches_hear_each_clip_between_zeros(name: str, semantic: str, tmp_path: Path, rows_on_cpu: None) -> None:
    """The acoustic one only where a clip is not of whole frames."""
    folder = str(tmp_path / name)
    model = {**LIGHT[name]["semantic_model_config"], "model_type": semantic}
    TOKENIZERS.get(name).write_untrained(folder, **{**LIGHT[name], "semantic_model_config": model})  # type: ignore[attr-defined]
    exact, batched = (load_tokenizer(name, checkpoint=folder, mode=mode) for mode in ("exact", "batched"))
    assert isinstance(exact, NeuralCodec)
    assert isinstance(batched, NeuralCodec)
    hop, (clip,) = exact.spec.hop_samples, real_clips(exact.spec.sample_rate_hz, 1)
    cut = [replace(clip, id=str(k), samples=clip.samples[: 30 * hop + k * hop // 4]) for k in range(8)]
    batching_law(exact, batched, [replace(clip, samples=clip.samples[: 40 * hop])])
    for alone, together in zip(exact.encode(cut), batched.encode(cut), strict=True):
        assert np.array_equal(alone.codes, together.codes), alone.id
    fresh = load_tokenizer(name, checkpoint=folder)
    fresh.encode(cut[:1])
    for tokenizer in (pickle.loads(pickle.dumps(fresh)), fresh):  # though hidden states were asked for
        assert np.array_equal(tokenizer.encode(cut[1:2])[0].codes, exact.encode(cut[1:2])[0].codes)


def test_encodec_for_music_looks_to_both_sides(tmp_path: Path, rows_on_cpu: None) -> None:
    changes = {**ENCODEC, "use_causal_conv": False, "num_lstm_layers": 2}
    TOKENIZERS.get("encodec").write_untrained(tmp_path / "music", **changes)  # type: ignore[attr-defined]
    exact, batched = (
        load_tokenizer("encodec", checkpoint=str(tmp_path / "music"), mode=m) for m in ("exact", "batched")
    )
    assert isinstance(exact, NeuralCodec)
    assert isinstance(batched, NeuralCodec)
    batching_law(exact, batched, real_clips(24_000)[:2])


def test_a_norm_over_the_whole_clip_is_one_for_each(tmp_path: Path, rows_on_cpu: None) -> None:
    changes = {**ENCODEC, "norm_type": "time_group_norm"}
    TOKENIZERS.get("encodec").write_untrained(tmp_path / "norm", **changes)  # type: ignore[attr-defined]
    exact, batched = (
        load_tokenizer("encodec", checkpoint=str(tmp_path / "norm"), mode=m) for m in ("exact", "batched")
    )
    assert isinstance(exact, NeuralCodec)
    assert isinstance(batched, NeuralCodec)
    batching_law(exact, batched, real_clips(24_000)[:1])


COPIES: list[Any] = [copy.deepcopy, lambda tokenizer: pickle.loads(pickle.dumps(tokenizer))]


@pytest.mark.parametrize(("name", "mode"), [("mimi", "batched"), ("encodec", "bf16")])
@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_computes_with_its_own_weights(
    copied: Any, name: str, mode: str, folders: dict[str, str], rows_on_cpu: None
) -> None:
    tokenizer: Any = load_tokenizer(name, checkpoint=folders[name], mode=mode)
    clips = [replace(clip, samples=clip.samples[:24_000]) for clip in real_clips(24_000, 2)]
    before = tokenizer.encode(clips)
    other = copied(tokenizer)
    assert code_mismatch(other.encode(clips), before) == 0
    with torch.no_grad():
        for stage in (*tokenizer.encoder_stages(), tokenizer.model.quantizer):
            for value in (*stage.parameters(), *stage.buffers()):
                if value.is_floating_point():
                    value.normal_(std=3)
    assert code_mismatch(tokenizer.encode(clips), before) > 0
    assert code_mismatch(other.encode(clips), before) == 0


@pytest.mark.parametrize("copied", COPIES)
def test_a_package_of_weight_norms_can_be_copied(copied: Any, folders: dict[str, str]) -> None:
    """PyTorch pickles no layer under one."""
    if "snac" not in MEASURED:
        pytest.skip("its package is not installed")
    tokenizer = load_tokenizer("snac", checkpoint=folders["snac"])
    [codes] = tokenizer.encode(real_clips(24_000, 1))
    other = copied(tokenizer)
    assert other.spec == tokenizer.spec
    assert np.array_equal(other.encode(real_clips(24_000, 1))[0].codes, codes.codes)
    assert np.array_equal(other.decode(codes).samples, tokenizer.decode(codes).samples)


def test_captured_layers_may_use_one_place_for_all_that_they_return(
    folders: dict[str, str], rows_on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As CUDA graphs do, which overwrite what they returned before."""
    places: dict[tuple[int, ...], torch.Tensor] = {}
    calls: list[int] = []

    def captured(self: PackedClips, x: torch.Tensor, *rest: Any) -> torch.Tensor:
        made = plain(self, x, *rest)
        calls.append(1)
        return places.setdefault(tuple(made.shape), torch.empty_like(made)).copy_(made)

    batched = load_tokenizer("encodec", checkpoint=folders["encodec"], mode="batched")
    clips = [replace(clip, id=f"{clip.id}-{i}") for i in range(4) for clip in real_clips(24_000)]
    expected, plain = batched.encode(clips), PackedClips._run_lstm
    monkeypatch.setattr(PackedClips, "_run_lstm", captured)
    assert code_mismatch(batched.encode(clips), expected) == 0
    assert len(calls) > len(places) > 0, "nothing was overwritten"


def test_what_a_subclass_does_before_encoding_is_not_gone_past(
    folders: dict[str, str], rows_on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Louder(EncodecTokenizer):
        def _encode(self, signals: Any) -> list[np.ndarray]:
            return super()._encode([signal * 4 for signal in signals])

    monkeypatch.setattr(torch.nn.Parameter, "is_cuda", True, raising=False)
    plain, louder = (kind(checkpoint=folders["encodec"]) for kind in (EncodecTokenizer, Louder))
    plain.use_mode("batched")
    louder.use_mode("batched")
    assert plain.runs_ahead
    assert not louder.runs_ahead


@pytest.mark.parametrize("name", ["encodec", "mimi"])
def test_long_clips_and_streams_work_in_bfloat16(name: str, folders: dict[str, str], rows_on_cpu: None) -> None:
    tokenizer = load_tokenizer(name, checkpoint=folders[name], mode="bf16")
    assert isinstance(tokenizer, NeuralCodec)
    clips, tokenizer.piece_s, tokenizer.batch_s = real_clips(RATES[name]), 1.0, {"cpu": 1.0}
    exact = load_tokenizer(name, checkpoint=folders[name])
    assert {p.dtype for p in tokenizer.model.encoder.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in tokenizer.model.decoder.parameters()} == {torch.float32}
    assert 0 < code_mismatch(tokenizer.encode(clips), exact.encode(clips)) < 0.9


def test_on_a_cpu_clips_go_one_by_one_and_nothing_differs(folders: dict[str, str]) -> None:
    exact, batched = (load_tokenizer("encodec", checkpoint=folders["encodec"], mode=m) for m in ("exact", "batched"))
    clips = real_clips(24_000)
    assert code_mismatch(batched.encode(clips), exact.encode(clips)) == 0


def test_the_mode_is_part_of_the_spec(folders: dict[str, str], tmp_path: Path) -> None:
    exact, batched = (load_tokenizer("mimi", checkpoint=folders["mimi"], mode=mode) for mode in ("exact", "batched"))
    assert exact.spec == load_tokenizer("mimi", checkpoint=folders["mimi"]).spec
    assert "mode" not in exact.spec.settings
    assert batched.spec.fingerprint != exact.spec.fingerprint
    assert batched.spec.taxonomy["mode"].startswith("batched: ")
    assert batched.spec.taxonomy["mode"].endswith("8.0 % of codes differed from exact, with random weights on one GPU")
    assert load_tokenizer(batched.spec).spec == batched.spec
    (tmp_path / "fast.yaml").write_text(f"name: mimi\nmode: batched\ncheckpoint: {folders['mimi']}\n")
    assert load_tokenizer(tmp_path / "fast.yaml").spec == batched.spec
    with pytest.raises(UsageError, match="two different tokenizers"):
        exact.decode(batched.encode(real_clips(24_000)[:1])[0])


def test_the_page_says_what_the_specs_say(folders: dict[str, str]) -> None:
    page = (Path(__file__).parents[2] / "docs/tokenizers.md").read_text(encoding="utf-8")
    table = page.split("## Batches")[1].split("\n## ")[0]
    told = dict(re.findall(r"^\| ([\w-]+)(?: \(causal\))? \| (.*? \| .*? \| .*?) \|$", table, re.M))
    for name in MEASURED:
        tokenizer: Any = load_tokenizer(name, checkpoint=folders[name])
        shares = {mode: tokenizer.mismatch.get(mode, "not measured") for mode in tokenizer.modes}
        assert told[name] == " | ".join(shares.get(mode, "none") for mode in ("batched", "tf32", "bf16"))
        assert set(tokenizer.mismatch) | {"tf32"} == set(tokenizer.modes) - {"exact"} | {"tf32"}
        assert tokenizer.modes == type(tokenizer).known_modes()


def test_a_mode_that_a_tokenizer_has_not_is_refused(folders: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="no mode 'quick', only exact, batched, tf32, bf16"):
        load_tokenizer("mimi", checkpoint=folders["mimi"], mode="quick")
    with pytest.raises(UsageError, match="no mode 'batched', only exact"):
        load_tokenizer("logmel-kmeans", mode="batched")


def test_mismatch_counts_codes(folders: dict[str, str]) -> None:
    codes = load_tokenizer("dac", checkpoint=folders["dac"]).encode(real_clips(16_000))
    assert code_mismatch(codes, codes) == 0
    others = [replace(each, codes=each.codes ^ np.array([0, 0, 0, 1], each.codes.dtype)) for each in codes]
    assert code_mismatch(others, codes) == 0.25


@pytest.mark.parametrize("tf32", [False, True])
def test_matrix_products_of_networks_are_exact_whatever_the_program_around_asked_for(tf32, monkeypatch):
    asked = ["high"]  # TF32, by a program that trains, say
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: asked[-1])
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    with inference(tf32):
        assert asked[-1] == "highest"  # in mode tf32 too: that is of convolutions, as PyTorch has it by default
        assert torch.backends.cudnn.allow_tf32 is tf32
    assert asked[-1] == "high"
