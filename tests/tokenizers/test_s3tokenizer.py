"""The S3 tokenizer of CosyVoice against the package `s3tokenizer`, which is compared with the authors' graphs."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slm.errors import UsageError
from slm.tokenizers import load_tokenizer
from slm.tokenizers._batched import code_mismatch
from slm.tokenizers._s3tokenizer_graph import read_graph, write_graph
from slm.tokenizers.laws import batching_law, tokenizer_law
from slm.tokenizers.s3tokenizer import S3Tokenizer
from slm.types import AudioClip
from tests.tokenizers.light_codecs import speech
from tests.tokenizers.references import reference
from tests.tokenizers.seeded import seeded_state
from tests.tokenizers.speech import real_clips

pytest.importorskip("onnx")

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/data/golden/s3tokenizer.npz"
LIGHT: dict[str, Any] = {"width": 128, "layers": 2, "codebook_size": 256}
FORMS = {"v1-50hz": (1, 1), "v1-25hz": (1, 2), "v2": (2, 2), "v3": (3, 2)}
"""Version, and stride of the first convolution."""
ONE_OF_EACH = ["v1-50hz", "v2"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("s3tokenizer")
    for form, (version, stride) in FORMS.items():
        S3Tokenizer.write_untrained(root / form, version=version, stride=stride, **LIGHT)
    return {form: root / form for form in FORMS}


def load(folder: Path) -> S3Tokenizer:
    tokenizer = load_tokenizer("s3tokenizer", checkpoint=str(folder))
    assert isinstance(tokenizer, S3Tokenizer)
    return tokenizer


def long_clip(mel_frames: int) -> AudioClip:
    speech = np.concatenate([clip.samples for clip in real_clips(16_000)])
    return AudioClip("long", np.resize(speech, 160 * mel_frames + 7), 16_000)


@pytest.mark.parametrize("form", ONE_OF_EACH)
def test_keeps_the_law(form: str, folders: dict[str, Path]) -> None:
    tokenizer_law(load(folders[form]), speech(16_000, 3))


@pytest.mark.parametrize(("form", "file"), [("v1-50hz", "v1-50hz"), ("v2", "v2-25hz"), ("v3", "v3-25hz")])
def test_its_files_load_it(form: str, file: str, folders: dict[str, Path]) -> None:
    path = ROOT / f"configs/tokenizers/s3tokenizer-{file}.yaml"
    assert load_tokenizer(str(path), checkpoint=str(folders[form])).spec == load(folders[form]).spec


@pytest.mark.parametrize("form", FORMS)
def test_a_graph_has_the_weights_that_were_written(form: str, folders: dict[str, Path], tmp_path: Path) -> None:
    version, stride = FORMS[form]
    tokenizer = load(folders[form])
    state = seeded_state(tokenizer.model.state_dict())
    write_graph(tmp_path / "graph.onnx", state, version, stride)
    weights, of_the_graph = read_graph(tmp_path / "graph.onnx")
    assert of_the_graph == stride
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[name], state[name]) for name in state)
    write_graph(tmp_path / "other.onnx", state, version, 3 - stride)
    again, other = load(tmp_path / "graph.onnx"), load(tmp_path / "other.onnx")
    assert len({made.spec.fingerprint for made in (tokenizer, again, other)}) == 3
    assert again.spec.frame_rate_hz == (50 if stride == 1 else 25)


@pytest.mark.parametrize("form", ONE_OF_EACH)
def test_codes_are_those_of_the_package_for_seeded_weights(form: str, folders: dict[str, Path], tmp_path: Path) -> None:
    golden = np.load(GOLDEN)
    state = golden_state(load(folders[form]), golden["directions"])
    write_graph(tmp_path / "graph.onnx", state, *FORMS[form])
    tokenizer = load(tmp_path / "graph.onnx")
    tokenizer.model.double()
    made = [codes.codes for codes in tokenizer.encode(speech(16_000, 3))]
    for i, codes in enumerate(made):
        assert np.array_equal(codes, golden[f"{form}_{i}"])
    assert len(np.unique(np.concatenate(made))) >= 10, "too few codes show nothing"


@pytest.mark.parametrize("form", FORMS)
def test_codes_are_those_of_the_package(form: str, folders: dict[str, Path]) -> None:
    """Its own reading of the graph, its spectra, its network; its windows where it loses nothing between them."""
    package = package_of(form, folders[form])
    clips = [*speech(16_000, 4), long_clip(3000), long_clip(4001), long_clip(8300)]
    for clip, codes in zip(clips, load(folders[form]).encode(clips), strict=True):
        expected = package_codes(package, clip.samples)
        assert len(codes.codes) == len(expected)
        assert (codes.codes[:, 0] != expected).mean() < 0.002  # near ties, in float32


@pytest.mark.parametrize("form", ONE_OF_EACH)
def test_long_clips_are_windows_of_which_the_outer_seconds_are_dropped(form: str, folders: dict[str, Path]) -> None:
    """A length of which version 0.3.0 of the package loses up to two seconds. Where nothing is as loud as in the whole,
    windows would be other clips alone."""
    tokenizer = load(folders[form])
    tokenizer.piece_s, tokenizer.overlap_s = 3.0, 0.4
    per_frame = tokenizer.spectra_per_frame
    samples = np.resize(long_clip(900).samples, 160 * 530 + 99) * np.linspace(1, 0.01, 160 * 530 + 99, dtype=np.float32)
    [codes] = tokenizer.encode([AudioClip("long", samples, 16_000)])
    assert len(codes.codes) == -(-530 // per_frame)
    spectra = tokenizer.spectra_of(torch.from_numpy(samples))
    part = tokenizer._spectra_at(samples, 260, 300).clamp(min=float(spectra.max()) - 2.0)
    torch.testing.assert_close(part, spectra[:, 260:300], rtol=0, atol=1e-4)
    first, last = (tokenizer._codes_of_spectra(spectra[:, start:stop])[0, 0] for start, stop in ((0, 300), (260, 530)))
    half = 20 // per_frame
    assert np.array_equal(codes.codes[:, 0], torch.cat((first[:-half], last[half:])).numpy())


@pytest.mark.parametrize("form", ONE_OF_EACH)
def test_a_batch_equals_its_clips(form: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(S3Tokenizer, "batch_s", {"cpu": 8.0})
    exact, batched = (
        load_tokenizer("s3tokenizer", checkpoint=str(folders[form]), mode=mode) for mode in ("exact", "batched")
    )
    assert isinstance(exact, S3Tokenizer)
    assert isinstance(batched, S3Tokenizer)
    batching_law(exact, batched, real_clips(16_000)[:2])
    for tokenizer in (exact, batched):  # a clip that fits in a tensor, but not in one piece
        tokenizer.piece_s, tokenizer.overlap_s = 2.0, 0.4
    monkeypatch.setattr(S3Tokenizer, "longest_in_batch_s", 2.0)
    clips = [long_clip(310), *real_clips(16_000)[:1]]
    for alone, together in zip(exact.encode(clips), batched.encode(clips), strict=True):
        assert np.array_equal(alone.codes, together.codes)


def test_rounding_the_encoder_changes_some_codes(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(S3Tokenizer, "batch_s", {"cpu": 8.0})
    rounded = load_tokenizer("s3tokenizer", checkpoint=str(folders["v2"]), mode="bf16")
    exact = load(folders["v2"])
    clips = speech(16_000, 3)
    assert 0 < code_mismatch(rounded.encode(clips), exact.encode(clips)) < 0.5


@pytest.mark.parametrize("num_samples", [159, 160, 200, 201])
def test_the_shortest_clips_have_a_code(num_samples: int, folders: dict[str, Path]) -> None:
    tokenizer = load(folders["v2"])
    samples = speech(16_000, 1)[0].samples[:num_samples]
    [codes] = tokenizer.encode([AudioClip("short", samples, 16_000)])
    assert len(codes.codes) == (num_samples >= 160)
    if num_samples > 200:
        signal = torch.from_numpy(samples)
        assert torch.equal(tokenizer.spectra_of(signal), tokenizer._log_mel(signal)), "filled up without need"


def test_what_is_no_such_tokenizer_is_refused_in_words(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="num_codebooks must be 1 to 1, not 2"):
        load_tokenizer("s3tokenizer", checkpoint=str(folders["v2"]), num_codebooks=2)
    with pytest.raises(UsageError, match=r"lacks speech_tokenizer_v2\.onnx"):
        load(tmp_path)
    with pytest.raises(UsageError, match=r"lacks speech\.onnx"):
        load(tmp_path / "speech.onnx")
    with pytest.raises(UsageError, match=r"cannot get speech_tokenizer_v3\.onnx of owner/name"):
        load_tokenizer("s3tokenizer", checkpoint="owner/name/speech_tokenizer_v3.onnx")
    two = tmp_path / "two"
    two.mkdir()
    for version, form in (("v1", "v1-25hz"), ("v2", "v2")):
        name = f"speech_tokenizer_{version}.onnx"
        (two / name).write_bytes((folders[form] / name).read_bytes())
    with pytest.raises(UsageError, match="give the file itself"):
        load(two)
    assert load(two / "speech_tokenizer_v1.onnx").spec.fingerprint == load(folders["v1-25hz"]).spec.fingerprint
    (tmp_path / "cut.onnx").write_bytes((two / "speech_tokenizer_v2.onnx").read_bytes()[:100_000])
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("cut.onnx", "empty.onnx"):
        with pytest.raises(UsageError, match=r"no readable ONNX graph|no S3 tokenizer"):
            load(tmp_path / name)
    weights, stride = read_graph(two / "speech_tokenizer_v2.onnx")
    for name in ("encoder.blocks.1.attn.out.bias", "encoder.blocks.0.attn.fsmn_block.weight"):
        write_graph(tmp_path / "less.onnx", {key: weights[key] for key in weights if key != name}, 2, stride)
        with pytest.raises(UsageError, match=name.rpartition("blocks")[2]):
            load(tmp_path / "less.onnx")
    memory = {key: value[..., 1:] if "fsmn_block" in key else value for key, value in weights.items()}
    write_graph(tmp_path / "even.onnx", memory, 2, stride)
    with pytest.raises(UsageError, match="a memory of 30 steps has no middle"):
        load(tmp_path / "even.onnx")
    write_graph(tmp_path / "strides.onnx", weights, 2, 3)
    with pytest.raises(UsageError, match=r"has the strides \[3\], not 1 or 2"):
        load(tmp_path / "strides.onnx")
    weights, stride = read_graph(two / "speech_tokenizer_v1.onnx")
    weights["encoder.positional_embedding"] = weights["encoder.positional_embedding"][:749]
    write_graph(tmp_path / "short.onnx", weights, 1, stride)
    with pytest.raises(UsageError, match=r"it has 749 positions, of 750 in 30 s"):
        load(tmp_path / "short.onnx")
    real = builtins.__import__

    def without(name: str, *rest: Any, **others: Any) -> Any:
        if name == "onnx":
            raise ImportError("No module named 'onnx'")
        return real(name, *rest, **others)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match="pip install onnx"):
        load(folders["v2"])


def golden_state(tokenizer: S3Tokenizer, directions: np.ndarray) -> dict[str, torch.Tensor]:
    """Seeded weights; a codebook of mixtures of `directions [8, width]`, in which vectors differ most."""
    state = seeded_state(tokenizer.model.state_dict())
    if "quantizer.embed" in state:
        rows = state["quantizer.embed"][:, : len(directions)].double().numpy() @ directions
        state["quantizer.embed"] = torch.from_numpy(rows).float()
    return state


def package_of(form: str, folder: Path) -> Any:
    """The package's network with the weights that it reads from the graph."""
    version, stride = FORMS[form]
    package = reference("s3tokenizer", "s3tokenizer", {"torchaudio": {}})
    sizes = {"n_audio_state": 128, "n_audio_head": 2, "n_audio_layer": 2}
    path = str(folder / f"speech_tokenizer_v{version}.onnx")
    if version == 1:
        name = "speech_tokenizer_v1" if stride == 1 else "speech_tokenizer_v1_25hz"
        network = package.model.S3Tokenizer(name, package.model.ModelConfig(**sizes, n_codebook_size=256))
    elif version == 2:
        network = package.model_v2.S3TokenizerV2("v2", package.model_v2.ModelConfig(**sizes))
    else:
        network = package.model_v3.S3TokenizerV3("v3", package.model_v3.ModelConfigV3(**sizes))
    read = package.onnx2torch_v3 if version == 3 else package.onnx2torch
    network.load_state_dict(read(path), strict=True)
    return network.eval()


def package_codes(network: Any, samples: np.ndarray) -> np.ndarray:
    package = reference("s3tokenizer", "s3tokenizer", {"torchaudio": {}})
    mel = package.log_mel_spectrogram(torch.from_numpy(samples))
    codes, lengths = network.quantize(mel[None], torch.tensor([mel.shape[1]]))
    found: np.ndarray = codes[0, : lengths[0]].numpy()
    return found
