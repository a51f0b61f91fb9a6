"""The folder of a checkpoint: its model card, and what goes to the hub, which a folder stands in for."""

from __future__ import annotations

import json
import os
import shutil
import stat
from fnmatch import fnmatch
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard

from slm.errors import UsageError
from slm.model.__main__ import main
from slm.model.backbone import build_causal_lm
from slm.model.checkpoint import ModelRecord, save_model
from slm.model.statistics import CodeStatistics
from slm.spoken_lm import load_lm
from slm.units import Units
from tests.fakes import TINY_BACKBONE, ArithmeticTokenizer, markov_codes, random_codes
from tests.model.test_depth import DEPTH


def save(folder, pattern="delay", fields=None, figures=None, **backbone):
    tokenizer = ArithmeticTokenizer(2)
    training = {"data": ["librispeech", "tinystories"], "steps": 40}
    settings = {"delays": [0, 1]} if pattern == "delay" else {}
    record = ModelRecord(tokenizer.spec, pattern, settings, codebook_weights=(100.0, 1.0), training=training)
    pairs = [(c.codes, c.codes) for c in markov_codes(tokenizer, 5)]
    lm = build_causal_lm({**TINY_BACKBONE, **backbone}, record.make_pattern(), 0, depth=fields)
    folder.mkdir(parents=True)
    save_model(folder, lm, record, CodeStatistics.measure(Units(tokenizer.spec.codebook_sizes), pairs), figures=figures)
    return lm


def run(*args) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    return caught.value.code or 0


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("pattern", "fields"), [("flat", None), ("delay", None), ("delay", DEPTH)])
def test_the_card_states_what_the_model_is(tmp_path, pattern, fields, tied):
    lm = save(tmp_path / "m", pattern, fields, {"eval_nats_per_code": 2.71828}, tie_word_embeddings=tied)
    card = ModelCard.load(tmp_path / "m" / "README.md")
    assert card.data.library_name == "transformers"
    assert "spoken-language-modelling" in card.data.tags
    text = card.text
    for said in (
        f"| parameters | {sum(p.numel() for p in lm.parameters()):,} |",
        "| body | llama, with a depth transformer |" if fields else "| body | llama |",
        "arithmetic",
        "| pattern | delay (delays [0, 1]) |" if pattern == "delay" else "| pattern | flat |",
        "| training data | librispeech, tinystories |",
        "| loss weights of codebooks | 100, 1 |",
        "| eval_nats_per_code | 2.7183 |",
        'slm.load_lm("DIR")',
        "ordinary causal LM" if pattern == "flat" else "a class of 2 streams",
    ):
        assert said in text, said
    assert yaml.safe_load(text.split("```json")[1].split("```")[0])["steps"] == 40


def test_a_card_without_figures_has_no_table_of_them(tmp_path):
    save(tmp_path / "m")
    assert "Held out" not in (tmp_path / "m" / "README.md").read_text()


def test_all_files_can_be_read_by_those_who_can_read_the_folder(tmp_path):
    save(tmp_path / "m")
    modes = {stat.S_IMODE(os.stat(file).st_mode) for file in (tmp_path / "m").iterdir()}
    assert len(modes) == 1


class Hub:
    """Takes the calls of `HfApi`; `upload_folder` does what its documentation says, in a folder of its own."""

    def __init__(self, folder):
        self.folder, self.calls = folder, []

    def whoami(self):
        self.calls.append("whoami")

    def create_repo(self, repo_id, repo_type, private, exist_ok):
        self.calls.append(("create_repo", repo_id, repo_type, private))

    def upload_folder(self, *, repo_id, folder_path, repo_type, revision, commit_message, allow_patterns,
                      delete_patterns):  # fmt: skip
        self.calls.append(("upload_folder", repo_id, repo_type, commit_message))
        self.folder.mkdir(exist_ok=True)
        for path in self.folder.iterdir():
            if any(fnmatch(path.name, p) for p in delete_patterns):
                path.unlink()
        for path in folder_path.rglob("*"):
            name = str(path.relative_to(folder_path))
            if path.is_file() and any(fnmatch(name, p) for p in allow_patterns):
                shutil.copy(path, self.folder)
        return SimpleNamespace(commit_url="https://huggingface.co/me/lm/commit/1")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    made = Hub(tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: made)
    return made


@pytest.mark.parametrize(("pattern", "fields"), [("flat", None), ("delay", DEPTH)])
def test_what_is_pushed_is_a_checkpoint_again(tmp_path, hub, capsys, pattern, fields):
    save(tmp_path / "m", pattern, fields)
    (tmp_path / "m" / "state").mkdir()
    (tmp_path / "m" / "state" / "optimizer.json").write_text("{}")
    hub.folder.mkdir()
    (hub.folder / "model-00001-of-00002.safetensors").write_text("of an earlier push")
    assert run("push", tmp_path / "m", "me/lm", "--private") == 0
    assert capsys.readouterr().out == "me/lm is at https://huggingface.co/me/lm/commit/1\n"
    assert hub.calls == [
        "whoami",
        ("create_repo", "me/lm", "model", True),
        ("upload_folder", "me/lm", "model", f"arithmetic, {pattern}"),
    ]
    assert {path.name for path in hub.folder.iterdir()} - {"generation_config.json"} == {
        "README.md", "config.json", "model.safetensors", "slm.json", "statistics.safetensors",
    }  # fmt: skip
    codes = random_codes(ArithmeticTokenizer(2), [7])
    one, other = (load_lm(folder).score_codes(codes)[0].log_probs for folder in (tmp_path / "m", hub.folder))
    assert np.array_equal(one, other)


def test_what_is_no_checkpoint_is_not_pushed(tmp_path, hub, capsys):
    save(tmp_path / "run" / "final")
    assert run("push", tmp_path / "run", "me/lm") == 2
    assert "did you mean" in capsys.readouterr().err
    assert run("push", tmp_path / "run" / "final", "a/b/c") == 2
    assert "'a/b/c' is no name of a model" in capsys.readouterr().err
    assert run("pull") == 2
    assert "did you mean 'push'" in capsys.readouterr().err
    assert hub.calls == []


@pytest.mark.parametrize("name", ["slm.json", "config.json", "statistics.safetensors", "model.safetensors"])
@pytest.mark.parametrize("share", [0, 0.5, None], ids=["empty", "cut", "gone"])
def test_a_folder_that_was_copied_in_part_is_named_in_a_line(name, share, tmp_path):
    save(tmp_path / "model")
    file = tmp_path / "model" / name
    whole = file.read_bytes()
    file.unlink()
    if share is not None:
        file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UsageError, match=str(tmp_path)):
        load_lm(tmp_path / "model")


def test_a_model_that_lacks_a_weight_is_not_given_a_random_one(tmp_path):
    from safetensors.torch import load_file, save_file

    save(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "up_proj" in name)
    save_file({k: v for k, v in weights.items() if k != name}, file, metadata={"format": "pt"})
    with pytest.raises(UsageError, match=f"lacks 1 of its weights, such as {name}"):
        load_lm(tmp_path / "model")


@pytest.mark.parametrize(("changes", "said"), [
    ({"hidden_size": 10**9}, "config.json is not that of its weights"),
    ({"hidden_size": "x"}, "config.json is not that of its weights"),
    ({"num_hidden_layers": 10**9}, "config.json tells of 1,000,000,000 layers"),
    ({"model_type": "other", "auto_map": {"AutoConfig": "other.C", "AutoModelForCausalLM": "other.M"}}, "code"),
])  # fmt: skip
def test_a_configuration_takes_no_memory_and_runs_no_code(tmp_path, changes, said, monkeypatch):
    """Whatever stands on stdin, from which transformers would take leave to run the code of a checkpoint."""
    monkeypatch.setattr("builtins.input", lambda prompt: "y")
    save(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    (tmp_path / "model" / "other.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UsageError, match=said):
        load_lm(tmp_path / "model")
    assert not (tmp_path / "ran").exists()


def test_too_little_memory_is_not_told_as_a_damaged_checkpoint(tmp_path, monkeypatch):
    save(tmp_path / "model")

    def fail(*_, **__):
        raise RuntimeError("unable to mmap 541051144 bytes from file <model.safetensors>: Cannot allocate memory (12)")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fail)
    with pytest.raises(RuntimeError, match="allocate memory"):
        load_lm(tmp_path / "model")
