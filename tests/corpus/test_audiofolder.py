"""Raw audio beside a `metadata.csv` or `.jsonl`, as Hugging Face's AudioFolder has it: a folder here, and on the hub.

Layout: https://huggingface.co/docs/datasets/audio_dataset"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from slm.audio import read_audio
from slm.corpus.reading import read_clip
from slm.corpus.sources import list_clips
from tests.corpus.audio import write_clip
from tests.corpus.hub import serving


@pytest.fixture
def audiofolder(tmp_path):
    """Two recordings of a split, one of them in a folder, with a `metadata` as CSV and as JSON lines."""
    folder = tmp_path / "speech" / "train"
    rows = [{"file_name": "x/b.wav", "text": "one, two"}, {"file_name": "a.wav", "text": "three"}]
    for seed, row in enumerate(rows):
        write_clip(folder / row["file_name"], 0.3 + 0.1 * seed, seed=seed)
    lines = ["file_name,text", *(f'{row["file_name"]},"{row["text"]}"' for row in rows)]
    (folder / "metadata.csv").write_text("".join(line + "\n" for line in lines))
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_its_metadata_is_a_manifest_of_the_files_that_datasets_finds(tmp_path, audiofolder, suffix):
    from datasets import StreamingDownloadManager, load_dataset_builder

    if suffix == "jsonl":
        (audiofolder / "metadata.csv").unlink()
        (tmp_path / "metadata.jsonl").rename(audiofolder / "metadata.jsonl")
    builder = load_dataset_builder("audiofolder", data_dir=str(audiofolder), cache_dir=str(tmp_path))
    (split,) = builder._split_generators(StreamingDownloadManager())  # the public way needs torchcodec
    theirs = {row["audio"]: row["text"] for *_, row in builder._generate_examples(**split.gen_kwargs)}
    clips = list_clips(audiofolder / f"metadata.{suffix}")
    assert [(clip.id, clip.metadata) for clip in clips] == [("x/b", {"text": "one, two"}), ("a", {"text": "three"})]
    assert {clip.path: clip.metadata["text"] for clip in clips} == theirs
    for clip in clips:
        assert np.array_equal(read_clip(clip, 8000), read_audio(clip.path, 8000))


COMMAND = """
import json, sys
from slm.corpus.reading import read_clip
from slm.corpus.sources import list_clips
from slm.errors import UsageError

def found(audio, kind="auto"):
    try:
        clips = list_clips(audio, kind)
    except UsageError as error:
        return str(error)
    return [(clip.id, clip.metadata, read_clip(clip, 8000).tolist()) for clip in clips]

print(json.dumps([found(*arguments.split()) for arguments in sys.argv[1:]]))
"""


@pytest.mark.thorough
def test_on_the_hub_it_is_read_as_the_error_says(tmp_path, audiofolder):
    """In a process of its own, for which this machine is the hub."""
    url = "hf://datasets/someone/speech"
    asked = ["someone/speech", url, f"{url} folder", f"{url}/train/metadata.csv"]
    with serving(tmp_path / "speech") as hub:
        own = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
        environment = {**os.environ, **own, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", COMMAND, *asked]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *said, of_folder, of_manifest = json.loads(done.stdout)
    for location, error in zip(asked, said, strict=False):
        assert error.startswith(f"{location} holds ")
        assert error.endswith(
            f"no Parquet or tar: raw audio is read by --source folder --audio {url}, or with its texts by "
            f"--audio {url}/train/metadata.csv"
        )
    samples = {name: read_audio(audiofolder / f"{name}.wav", 8000).tolist() for name in ("a", "x/b")}
    assert of_folder == [[f"train/{name}", {}, samples[name]] for name in ("a", "x/b")]
    assert of_manifest == [["x/b", {"text": "one, two"}, samples["x/b"]], ["a", {"text": "three"}, samples["a"]]]
