"""Files that scikit-learn, joblib and torch write, read without executing them; hostile ones do nothing."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slm.errors import UsageError
from slm.tokenizers._foreign_kmeans import read_foreign_centroids
from slm.tokenizers._kmeans import Centroids

joblib = pytest.importorskip("joblib")
cluster = pytest.importorskip("sklearn.cluster")


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((400, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def model(frames: np.ndarray) -> Any:
    """As fairseq's learn_kmeans.py and SpeechBrain's recipe make it: with a random state, counts and labels in it."""
    return cluster.MiniBatchKMeans(9, random_state=np.random.RandomState(1), batch_size=100, n_init=1).fit(frames)


def plain(protocol: int) -> Callable[[Any, Path], Any]:
    return lambda model, path: path.write_bytes(pickle.dumps(model, protocol))


def compressed(method: str) -> Callable[[Any, Path], Any]:
    return lambda model, path: joblib.dump(model, path, compress=(method, 3))


WRITERS: dict[str, Callable[[Any, Path], Any]] = {
    "joblib": joblib.dump,
    **{f"joblib-{method}": compressed(method) for method in ("zlib", "gzip", "bz2", "xz", "lzma")},
    **{f"pickle-{protocol}": plain(protocol) for protocol in (0, 2, 4, 5)},
    "torch": lambda model, path: torch.save(torch.from_numpy(model.cluster_centers_), path),
    "torch-dict": lambda model, path: torch.save({"centroids": torch.from_numpy(model.cluster_centers_)}, path),
    "torch-old": lambda model, path: torch.save(
        torch.from_numpy(model.cluster_centers_), path, _use_new_zipfile_serialization=False
    ),
    "npy": lambda model, path: np.save(path.open("wb"), model.cluster_centers_),
    "npy of another machine": lambda model, path: np.save(path.open("wb"), model.cluster_centers_.astype(">f8")),
    "npz": lambda model, path: np.savez(path.open("wb"), other=np.zeros(3), centroids=model.cluster_centers_),
    "joblib-array": lambda model, path: joblib.dump(model.cluster_centers_, path),
    "joblib-fortran": lambda model, path: joblib.dump({"cluster_centers_": np.asfortranarray(model.cluster_centers_)},
                                                      path),
    "joblib-big-endian": lambda model, path: joblib.dump(model.cluster_centers_.astype(">f8"), path),
    "joblib-objects": lambda model, path: joblib.dump(
        {"names": np.array(["a", None], dtype=object), "cluster_centers_": model.cluster_centers_}, path),
}  # fmt: skip


@pytest.mark.parametrize("writer", WRITERS)
def test_the_centroids_are_those_that_were_written(tmp_path: Path, model: Any, frames: np.ndarray, writer: str) -> None:
    path = tmp_path / "km.bin"
    WRITERS[writer](model, path)
    centroids = Centroids.load(path)
    assert np.array_equal(centroids.centroids.numpy(), model.cluster_centers_)
    assert np.array_equal(centroids.assign(torch.from_numpy(frames)).numpy(), model.predict(frames))


def test_arrays_of_joblib_before_1_2_have_no_alignment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from joblib import numpy_pickle

    class OldWrapper(numpy_pickle.NumpyArrayWrapper):
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            del self.numpy_array_alignment_bytes

    OldWrapper.__qualname__, OldWrapper.__name__, OldWrapper.__module__ = (
        "W",
        "NumpyArrayWrapper",
        "joblib.numpy_pickle",
    )
    OldWrapper.__qualname__ = "NumpyArrayWrapper"
    monkeypatch.setattr(numpy_pickle, "NumpyArrayWrapper", OldWrapper)
    written = np.arange(12.0).reshape(4, 3)
    joblib.dump({"cluster_centers_": written, "counts": np.arange(4)}, tmp_path / "old.bin")
    assert np.array_equal(read_foreign_centroids(tmp_path / "old.bin").numpy(), written)


class Hostile:
    def __init__(self, code: str):
        self.code = code

    def __reduce__(self) -> Any:
        return os.system, (self.code,)


@pytest.mark.parametrize("dump", ["pickle", "joblib", "torch"])
def test_a_hostile_file_runs_nothing(tmp_path: Path, dump: str) -> None:
    path, trace = tmp_path / "km.bin", tmp_path / "ran"
    bomb = {"cluster_centers_": np.ones((3, 2)), "bomb": Hostile(f"touch '{trace}'")}
    {"pickle": lambda: path.write_bytes(pickle.dumps(bomb)), "joblib": lambda: joblib.dump(bomb, path),
     "torch": lambda: torch.save(bomb, path)}[dump]()  # fmt: skip
    assert read_foreign_centroids(path).tolist() == [[1, 1]] * 3
    assert not trace.exists()
    path.write_bytes(pickle.dumps(Hostile(f"touch '{trace}'")))
    with pytest.raises(UsageError, match="holds no centroids"):
        read_foreign_centroids(path)
    assert not trace.exists()
    pickle.loads(path.read_bytes())  # what an ordinary reader would have done
    assert trace.exists()


def truncated(model: Any) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    return buffer.getvalue()[:-500]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (lambda m: b"not a pickle at all", "neither safetensors nor a k-means file"),
        (lambda m: b"", "neither safetensors nor a k-means file"),
        (lambda m: b"\x93NUMPY\x01\x00 and no more", "no array of NumPy that can be read"),
        (truncated, "neither safetensors nor a k-means file"),
        (lambda m: pickle.dumps({"other": 1}), "holds no centroids"),
        (lambda m: pickle.dumps(np.zeros(4)), "holds no centroids"),
        (lambda m: pickle.dumps(np.zeros((4, 2), np.int64)), "holds no centroids"),
        (lambda m: pickle.dumps(np.full((4, 2), np.nan)), "NaN or infinity"),
    ],
)
def test_a_file_without_centroids_is_refused(
    tmp_path: Path, model: Any, content: Callable[[Any], bytes], complaint: str
) -> None:
    path = tmp_path / "km.bin"
    path.write_bytes(content(model))
    with pytest.raises(UsageError, match=complaint):
        Centroids.load(path)


def test_import_writes_safetensors(tmp_path: Path, model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from slm.tokenizers.__main__ import main

    joblib.dump(model, tmp_path / "km.bin")
    out = tmp_path / "km.safetensors"
    for file, status in ((out, 0), (out, 2), (out / "km", 2)):
        with pytest.raises(SystemExit) as exit:
            main(["import-kmeans", "--file", str(tmp_path / "km.bin"), "--out", str(file)])
        assert exit.value.code == status
    printed = capsys.readouterr()
    assert "9 centroids of 6" in printed.out
    assert "exists" in printed.err
    assert "km.safetensors is a file; give a folder" in printed.err
    made = Centroids.load(out)
    assert np.array_equal(made.centroids.numpy(), model.cluster_centers_)
    assert made.mean.tolist() == [0] * 6
