"""The command, in processes of its own: what it prints, how it exits, and that it can be killed at any moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm.data.store import CodeStore
from tests.corpus.audio import bad_folder, contents, good_folder
from tests.corpus.plugin import tokenize_command
from tests.fakes import ArithmeticTokenizer


def arguments(tmp_path: Path, out: str = "out", **options: str) -> list[str]:
    given = {
        "audio": str(tmp_path / "audio"),
        "tokenizer": "mortal",
        "out": str(tmp_path / out),
        "device": "cpu",
        "shard_hours": str(2 / 3600),
        "batch_seconds": "1.5",
        **options,
    }
    return [part for name, value in given.items() for part in (f"--{name}", value)]


def test_help_is_complete_and_imports_no_torch(tmp_path):
    done = tokenize_command(tmp_path, "--help")
    assert done.returncode == 0
    for option in ("audio", "tokenizer", "out", "tokenizer_settings", "device", "engine", "shard_hours", "config"):
        assert f"--{option} " in done.stdout
    assert "Hours of audio in a shard" in done.stdout


def test_a_run_a_second_run_and_another_tokenizer(tmp_path):
    bad_folder(good_folder(tmp_path / "audio"))
    config = tmp_path / "config.yaml"
    config.write_text("tokenizer_settings:\n  num_codebooks: 3\n")
    done = tokenize_command(tmp_path, "--config", str(config), *arguments(tmp_path))
    assert done.returncode == 3, done.stderr
    store = CodeStore(tmp_path / "out")
    assert store.spec == ArithmeticTokenizer(3).spec
    assert "7 clips, 0.002 h" in done.stdout
    assert "codebook 2" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("left out   8 clips: 2 empty")
    before = contents(tmp_path / "out")

    settings = ["--tokenizer_settings.num_codebooks", "3"]
    again = tokenize_command(tmp_path, *arguments(tmp_path), *settings)
    assert again.returncode == 3
    assert "is finished: nothing to do" in again.stderr
    other = tokenize_command(tmp_path, *arguments(tmp_path))
    assert other.returncode == 2
    assert "16x16x16 at 50 Hz, and this command asks for" in other.stderr
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": "mortel"}, "unknown tokenizer 'mortel'; did you mean 'mortal'"),
        pytest.param(
            {"tokenizr": "x"}, "unknown option 'tokenizr'; did you mean 'tokenizer'", marks=pytest.mark.thorough
        ),
        ({"audio": "nowhere"}, "no such folder or manifest: nowhere; give a folder of audio files, a manifest ("),
    ],
)
def test_wrong_use_is_one_line_and_status_2(tmp_path, options, message):
    good_folder(tmp_path / "audio", clips=1)
    done = tokenize_command(tmp_path, *arguments(tmp_path, **options))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.thorough
def test_real_speech_with_codec2(tmp_path):
    pytest.importorskip("pycodec2")
    manifest = Path(__file__).parent / "data" / "speech" / "manifest.jsonl"
    args = arguments(tmp_path, audio=str(manifest), tokenizer="codec2-700c", shard_hours="1")
    done = tokenize_command(tmp_path, *args)
    assert done.returncode == 0, done.stderr
    store = CodeStore(tmp_path / "out")
    assert "108 clips" in done.stdout
    assert store.spec.codebook_sizes == (512, 512, 16, 64)
    assert set(store.column("language")) == {"en", "es", "fr", "it", "ru"}
    assert all(store.column("text"))
