"""Raw audio beside a `metadata.csv` or `.jsonl`, as Hugging Face's AudioFolder has it: a folder here, and on the hub.

Layout: https://huggingface.co/docs/datasets/audio_dataset"""

from __future__ import annotations

import json

import numpy as np
import pytest

from slm.audio import read_audio
from slm.corpus.reading import read_clip
from slm.corpus.sources import list_clips
from tests.corpus.audio import write_clip


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
    builder = load_dataset_builder("audiofolder", data_dir=str(audiofolder))
    (split,) = builder._split_generators(StreamingDownloadManager())  # the public way needs torchcodec
    theirs = {row["audio"]: row["text"] for *_, row in builder._generate_examples(**split.gen_kwargs)}
    clips = list_clips(audiofolder / f"metadata.{suffix}")
    assert [(clip.id, clip.metadata) for clip in clips] == [("x/b", {"text": "one, two"}), ("a", {"text": "three"})]
    assert {clip.path: clip.metadata["text"] for clip in clips} == theirs
    for clip in clips:
        assert np.array_equal(read_clip(clip, 8000), read_audio(clip.path, 8000))
