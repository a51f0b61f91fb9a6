"""What a corpus opens with, here and after `push`: the hub is stood in for by a folder that gets what would be sent."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from inspect import signature
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import load_dataset, load_from_disk
from huggingface_hub import HfApi, errors

from slm.data.store import CodeStore
from tests.corpus.audio import bad_folder, contents, good_folder, write_clip
from tests.corpus.tools import run, shards, tokenize


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache" / "datasets")
    bad_folder(good_folder(tmp_path / "audio"))
    tokenize(tmp_path / "audio", tmp_path / "out")
    return tmp_path / "out"


class Hub:
    """Takes the calls of `HfApi`; `upload_folder` does what its documentation says, in a folder of its own."""

    def __init__(self, folder):
        self.folder, self.calls = folder, []

    def whoami(self):
        self.calls.append(("whoami",))

    def create_repo(self, repo_id, **kwargs):
        signature(HfApi.create_repo).bind(self, repo_id, **kwargs)
        self.calls.append(("create_repo", repo_id, kwargs))

    def create_branch(self, repo_id, **kwargs):
        signature(HfApi.create_branch).bind(self, repo_id, **kwargs)
        self.calls.append(("create_branch", repo_id, kwargs))

    def upload_folder(self, *, repo_id, folder_path, allow_patterns, delete_patterns, **kwargs):
        signature(HfApi.upload_folder).bind(self, repo_id=repo_id, folder_path=folder_path, **kwargs)
        self.calls.append(("upload_folder", repo_id, kwargs))
        sent = [path for path in folder_path.rglob("*") if any(fnmatch(path.name, p) for p in allow_patterns)]
        self.folder.mkdir(exist_ok=True)
        for path in self.folder.iterdir():
            if any(fnmatch(path.name, p) for p in delete_patterns):
                path.unlink()
        for path in sent:
            shutil.copy(path, self.folder)
        return SimpleNamespace(commit_url="https://huggingface.co/datasets/me/speech/commit/1")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    made = Hub(tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: made)
    return made


def rows(dataset):
    return [{name: np.asarray(value).tolist() for name, value in row.items()} for row in dataset]


def test_it_opens_from_disk_and_streams(corpus):
    """By every way that `datasets` has to a folder of its own; the codes are those of the store."""
    whole = load_from_disk(str(corpus))
    streams = [
        load_dataset("arrow", data_files=f"{corpus}/data-*.arrow", split="train", streaming=True),
        load_from_disk(str(corpus)).to_iterable_dataset(num_shards=3),
    ]
    store = CodeStore(corpus)
    assert [row["id"] for row in whole] == store.ids
    for dataset in streams:
        assert dataset.features == whole.features
        assert rows(dataset) == rows(whole)
    for row, codes in zip(streams[0], store, strict=True):
        assert np.array_equal(row["codes"], codes.codes)


def test_what_is_pushed_opens_by_its_card_and_is_a_corpus_again(corpus, hub, tmp_path, capsys):
    assert run("push", corpus, "me/speech", "--private") == 0
    assert "me/speech is at https://huggingface.co/datasets/me/speech/commit/1\n" in capsys.readouterr().out
    message = {"repo_type": "dataset", "revision": None, "commit_message": "7 clips, 0.002 h"}
    assert hub.calls == [
        ("whoami",),
        ("create_repo", "me/speech", {"repo_type": "dataset", "private": True, "exist_ok": True}),
        ("upload_folder", "me/speech", message),
    ]
    names = {path.name for path in hub.folder.iterdir()}
    beside = {"README.md", "tokenizer.json", "shards.json", "rejects.jsonl", "dataset_info.json", "state.json"}
    assert names == beside | {path.name for path in shards(corpus)}
    whole = load_from_disk(str(corpus))
    assert run("check", hub.folder) == 0  # a download of it
    assert rows(load_from_disk(str(hub.folder))) == rows(whole)
    assert CodeStore(hub.folder).ids == CodeStore(corpus).ids
    # On the hub `load_dataset` goes by the card alone; of a folder here it refuses one with state.json.
    (hub.folder / "state.json").unlink()
    for streaming in (True, False):
        (split,) = (found := load_dataset(str(hub.folder), streaming=streaming)).keys()
        assert split == "train"
        assert rows(found[split]) == rows(whole)


def test_no_shard_of_an_earlier_push_is_left(corpus, hub, tmp_path):
    assert run("push", corpus, "me/speech") == 0
    write_clip(tmp_path / "more" / "x.wav", 0.5)
    tokenize(tmp_path / "more", tmp_path / "small")
    assert run("push", tmp_path / "small", "me/speech", "--revision", "v2") == 0
    assert [path.name for path in shards(hub.folder)] == [path.name for path in shards(tmp_path / "small")]
    branch = {"branch": "v2", "repo_type": "dataset", "exist_ok": True}
    assert hub.calls[-2] == ("create_branch", "me/speech", branch)
    assert hub.calls[-1][2]["revision"] == "v2"


def test_what_is_not_whole_is_not_pushed(corpus, hub, capsys):
    state, shard = corpus / "state.json", shards(corpus)[1]
    kept = state.read_bytes()
    state.unlink()
    assert run("push", corpus, "me/speech") == 2
    assert "is not whole (faults: 1, the first state.json: unfinished: 6 of 6 shards" in capsys.readouterr().err
    state.write_bytes(kept)
    shard.write_bytes(shard.read_bytes()[:-1])
    before = contents(corpus)
    assert run("push", corpus, "me/speech") == 2
    error = capsys.readouterr().err
    assert f"is not whole (faults: 1, the first {shard.name}: damaged" in error
    assert error.count("\n") == 1
    assert hub.calls == [("whoami",)] * 2
    assert contents(corpus) == before


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errors.LocalTokenNotFoundError("no token"), "no token for the hub: run `hf auth login`, or set HF_TOKEN"),
        (errors.OfflineModeIsEnabled("offline"), "the hub is switched off by HF_HUB_OFFLINE: unset it to push"),
        (errors.HTTPError("Connection refused"), "the hub cannot be reached (Connection refused)"),
        (json.JSONDecodeError("no value", "<html>", 0), "the hub cannot be spoken with (no value: line 1 column 1"),
        (ConnectionResetError("reset"), "the hub cannot be reached (reset): go on with the same command later"),
    ],
)
def test_what_the_hub_has_against_it_is_one_line(corpus, hub, capsys, monkeypatch, error, said):
    def fail(*args, **kwargs):
        raise error

    for step in ("upload_folder", "create_repo", "whoami"):
        monkeypatch.setattr(hub, step, fail)
        assert run("push", corpus, "me/speech") == 2
        told = capsys.readouterr().err
        assert told.startswith(f"error: {said}")
        assert told.count("\n") == 1


def test_a_refusal_is_told_in_the_words_of_the_hub(corpus, hub, capsys, monkeypatch):
    response = SimpleNamespace(headers={}, request=None)

    def refuse(*args, **kwargs):
        raise errors.HfHubHTTPError("403 Forbidden:\n you have no right\n to do this", response=response)

    monkeypatch.setattr(hub, "create_repo", refuse)
    assert run("push", corpus, "them/speech") == 2
    said = "error: the hub refuses them/speech: 403 Forbidden: you have no right to do this; check the token's rights"
    assert capsys.readouterr().err.startswith(said)


def test_a_name_that_none_can_have(corpus, hub, capsys):
    assert run("push", corpus, "a/b/c") == 2
    assert "'a/b/c' is no name of a dataset (Repo id must be in the form" in capsys.readouterr().err
    assert hub.calls == []


def test_the_real_client_without_a_token(corpus, tmp_path):
    """In a process of its own, since the client reads its settings once."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    command = [sys.executable, "-m", "slm.corpus", "push", str(corpus), "me/speech"]
    made = subprocess.run(command, env=plain | {"HF_HOME": str(tmp_path / "home")}, capture_output=True, text=True)
    assert made.returncode == 2
    assert made.stderr == "error: no token for the hub: run `hf auth login`, or set HF_TOKEN\n"
