"""Checkpoints are found or their lack is told; what a pickle would run is not run."""

from __future__ import annotations

import argparse
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from slm.errors import UsageError
from slm.tokenizers._bounded import bounded, loaded
from slm.tokenizers._checkpoints import Inert, find_files, fold_weight_norm, load_strict, read_tensors
from slm.tokenizers._foreign_kmeans import read_foreign_centroids


class Hostile:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "run")


STATE = OrderedDict(weight=torch.arange(6.0).reshape(2, 3), steps=torch.tensor(7))


@pytest.mark.parametrize("new_format", [True, False])
def test_a_plain_state_dict_is_read(tmp_path: Path, new_format: bool) -> None:
    torch.save({"generator": STATE}, tmp_path / "x.pt", _use_new_zipfile_serialization=new_format)
    read = read_tensors(tmp_path / "x.pt")["generator"]
    assert torch.equal(read["weight"], STATE["weight"])
    assert read["steps"] == 7


@pytest.mark.parametrize("new_format", [True, False])
def test_foreign_classes_become_inert(tmp_path: Path, new_format: bool) -> None:
    contents = {
        "state_dict": STATE,
        "args": argparse.Namespace(rate=16000),
        "hostile": Hostile(tmp_path / "harm"),
        "scores": np.arange(3.0),
        "best": np.float64(0.5),
        "half": nn.Parameter(torch.ones(2, dtype=torch.bfloat16)),
    }
    torch.save(contents, tmp_path / "x.ckpt", _use_new_zipfile_serialization=new_format)
    read = read_tensors(tmp_path / "x.ckpt")
    assert not (tmp_path / "harm").exists()
    assert torch.equal(read["state_dict"]["weight"], STATE["weight"])
    assert isinstance(read["hostile"], Inert)
    assert isinstance(read["args"], Inert)
    assert read["args"].name == "argparse.Namespace"
    assert read["args"].state == {"rate": 16000}
    assert read["scores"].tolist() == [0, 1, 2]
    assert read["best"] == 0.5
    assert read["half"].dtype == torch.bfloat16
    # The same file, opened as it should not be, does run: the test can fail.
    torch.load(tmp_path / "x.ckpt", weights_only=False)
    assert (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["torch._utils\n_rebuild_tensor_v2", "torch\nFloatStorage"])
def test_a_pickle_leaves_no_mark_on_torch(tmp_path: Path, name: str) -> None:
    """It may set attributes of what it was given, which a function of torch's would keep for all later files."""
    (tmp_path / "x.km").write_bytes(b"\x80\x02c" + name.encode() + b"\nN}X\x06\x00\x00\x00markedK\x01s\x86b.")
    with pytest.raises(UsageError, match="neither safetensors nor a k-means file"):
        read_foreign_centroids(tmp_path / "x.km")
    found = pickle.loads(b"c" + name.encode() + b"\n.")
    assert not hasattr(found, "marked")
    pickle.loads((tmp_path / "x.km").read_bytes())  # as it should not be opened
    assert found.marked == 1
    del found.marked


def test_an_array_that_promises_more_than_there_is_memory_is_one_error(tmp_path: Path) -> None:
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (300000000000, 400), }".ljust(117) + b"\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)
    with pytest.raises(UsageError, match=r"x.npy is no array of NumPy that can be read"):
        read_foreign_centroids(tmp_path / "x.npy")


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(dict(STATE), tmp_path / "x.safetensors")
    assert torch.equal(read_tensors(tmp_path / "x.safetensors")["weight"], STATE["weight"])


@pytest.mark.parametrize(
    "contents",
    [b"", b"junk", b"not a checkpoint", pickle.dumps([1, 2])[:-3], b"PK\x03\x04 torn", b"\x80\x02\x8d" + b"\xff" * 8],
)
@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_broken_files_are_one_error(tmp_path: Path, name: str, contents: bytes) -> None:
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(UsageError, match="no readable checkpoint"):
        read_tensors(tmp_path / name)


def test_a_cut_file_is_one_error(tmp_path: Path) -> None:
    torch.save(dict(STATE), tmp_path / "x.pt")
    (tmp_path / "x.pt").write_bytes((tmp_path / "x.pt").read_bytes()[:-200])
    with pytest.raises(UsageError, match="no readable checkpoint"):
        read_tensors(tmp_path / "x.pt")
    with pytest.raises(UsageError, match="no such checkpoint"):
        read_tensors(tmp_path / "y.pt")


def test_files_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert find_files(str(tmp_path), ["config.json"]) == {"config.json": tmp_path / "config.json"}
    with pytest.raises(UsageError, match=r"lacks model\.pt"):
        find_files(str(tmp_path), ["config.json", "model.pt"])
    with pytest.raises(UsageError, match="no such folder"):
        find_files("./nowhere", ["config.json"])
    with pytest.raises(UsageError, match="no such folder"):
        find_files("nowhere", ["config.json"])


def test_a_hub_id_says_what_to_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"hf download someone/thing sub/config\.json"):
        find_files("someone/thing/sub", ["config.json"])


def test_weights_that_do_not_fit_are_named() -> None:
    model = nn.Linear(3, 2)
    good = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
    load_strict(model, good, "x")
    assert torch.equal(model.weight, torch.ones(2, 3))
    for state, complaint in (
        ({"weight": good["weight"]}, r"x does not fit .* lacks 1 weights \(bias\)"),
        ({**good, "other": torch.ones(1)}, r"has besides 1 weights \(other\)"),
        ({**good, "bias": torch.ones(3)}, r"it has bias as \(3,\), not \(2,\)"),
    ):
        with pytest.raises(UsageError, match=complaint):
            load_strict(model, state, "x")


@pytest.mark.parametrize("part", [
    lambda: nn.Linear(1, 1, bias=False), lambda: nn.BatchNorm1d(1, affine=False), lambda: nn.Sequential(nn.ReLU()),
])  # fmt: skip
def test_a_network_without_end_is_refused_before_it_takes_all_memory(part, monkeypatch) -> None:
    monkeypatch.setattr("slm.tokenizers._bounded._MOST_PARTS", 40)
    with bounded("x"):
        _ = [part() for _ in range(13)]
    with pytest.raises(UsageError, match="x has a configuration of more than 40 weights and layers"), bounded("x"):
        _ = [part() for _ in range(41)]
    _ = [part() for _ in range(41)]  # are not counted


def test_a_network_is_built_as_large_as_its_weights_or_not_at_all(monkeypatch) -> None:
    state = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}
    with pytest.raises(UsageError, match=r"x does not fit .* as \(2,\), not \(1000000,\)"):
        loaded(lambda: nn.Linear(10**6, 10**6), state, "x")
    monkeypatch.setattr("slm.tokenizers._bounded._MOST_PARTS", 40)
    with pytest.raises(UsageError, match="x has a configuration of more than 40"):
        loaded(lambda: nn.Sequential(*(nn.Linear(1, 1) for _ in range(10**9))), state, "x")
    model = loaded(lambda: nn.Linear(3, 2), state, "x")
    assert torch.equal(model.weight, state["weight"])
    assert model.weight.data_ptr() != state["weight"].data_ptr()


@pytest.mark.thorough
def test_to_compare_shapes_takes_no_compiler() -> None:
    script = """
import sys
import torch
from torch import nn
from slm.tokenizers._bounded import loaded

def build():
    norm = nn.utils.parametrizations.weight_norm
    network = nn.Sequential(nn.Embedding(5, 3), norm(nn.Conv1d(3, 4, 5)), norm(nn.ConvTranspose1d(3, 4, 5), dim=1))
    network.register_buffer("window", torch.hann_window(8))
    return network

loaded(build, build().state_dict(), "x")
assert not {"torch._dynamo", "sympy"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)


@pytest.mark.parametrize("wrap", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
@pytest.mark.parametrize("layer", [nn.Conv1d(4, 6, 3), nn.ConvTranspose1d(4, 6, 3)])
def test_weight_norm_is_folded(wrap, layer) -> None:
    normed = nn.Sequential(wrap(type(layer)(4, 6, 3)))
    folded = fold_weight_norm(normed.state_dict())
    assert set(folded) == {"0.weight", "0.bias"}
    layer.load_state_dict({key.removeprefix("0."): value for key, value in folded.items()})
    x = torch.randn(1, 4, 20)
    assert torch.equal(layer(x), normed(x))


def test_a_gain_of_another_size_is_no_weight_norm() -> None:
    """torch takes it, and computes with what lies in memory."""
    state = {"weight_v": torch.ones(4, 1, 7), "weight_g": torch.ones(3, 1, 1)}
    assert set(fold_weight_norm({f"0.{name}": value for name, value in state.items()})) == {"0.weight_v"}
