"""k-means against scikit-learn, and the file of centroids."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from slm.errors import UsageError
from slm.tokenizers import _clustering
from slm.tokenizers._clustering import Fit, Lloyd, MiniBatch, plus_plus
from slm.tokenizers._kmeans import Centroids, nearest


def blobs(k: int, per_blob: int, width: int = 5, spread: float = 0.3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centers = rng.uniform(-5, 5, (k, width))
    points = np.repeat(centers, per_blob, axis=0) + spread * rng.standard_normal((k * per_blob, width))
    return points.astype(np.float32), centers


def fit_kmeans(frames: torch.Tensor, k: int, seed: int = 0, restarts: int = 3) -> Fit:
    search = Lloyd(frames, k, seed, restarts)
    while search.step():
        pass
    return search.best


def from_start(frames: torch.Tensor, starts: torch.Tensor, iterations: int = 100) -> Fit:
    """One run of Lloyd's algorithm from these centroids."""
    search = Lloyd(frames, len(starts), restarts=1, iterations=iterations)
    search.centroids = starts
    while search.step():
        pass
    return search.best


def test_nearest_equals_all_distances_written_out() -> None:
    rng = np.random.default_rng(0)
    frames, centroids = rng.standard_normal((300, 7)), rng.standard_normal((11, 7))
    distances = ((frames[:, None] - centroids[None]) ** 2).sum(axis=2)
    index, squared = nearest(torch.from_numpy(frames).float(), torch.from_numpy(centroids).float())
    assert np.array_equal(index.numpy(), distances.argmin(axis=1))
    np.testing.assert_allclose(squared.numpy(), distances.min(axis=1), rtol=1e-4)


def test_assignment_equals_scikit_learn() -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    frames, _ = blobs(k=12, per_blob=150, spread=2.0)
    model = cluster.KMeans(12, n_init=1, random_state=0).fit(frames)
    index, _ = nearest(torch.from_numpy(frames), torch.from_numpy(model.cluster_centers_))
    assert np.array_equal(index.numpy(), model.predict(frames))


@pytest.mark.parametrize("spread", [0.3, 2.5])
def test_inertia_is_as_low_as_that_of_scikit_learn(spread: float) -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    frames, _ = blobs(k=15, per_blob=100, spread=spread)
    theirs = cluster.KMeans(15, n_init=10, random_state=0).fit(frames).inertia_
    ours = fit_kmeans(torch.from_numpy(frames), 15, seed=0, restarts=10)
    assert theirs * 0.97 < ours.inertia < theirs * 1.03
    squared = ((frames[:, None] - ours.centroids.numpy()[None]) ** 2).sum(axis=2).min(axis=1)
    assert ours.inertia == pytest.approx(squared.sum(), rel=1e-4)


@pytest.mark.parametrize("iterations", [1, 7, 300])
def test_lloyd_from_the_same_start_is_that_of_scikit_learn(iterations: int) -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    frames = blobs(k=15, per_blob=80, spread=2.0)[0].astype(np.float64)
    starts = frames[np.random.default_rng(2).choice(len(frames), 15, replace=False)]
    theirs = cluster.KMeans(15, init=starts, n_init=1, tol=0, max_iter=iterations, algorithm="lloyd").fit(frames)
    ours = from_start(torch.from_numpy(frames), torch.from_numpy(starts), iterations)
    if iterations < 10:
        np.testing.assert_allclose(ours.centroids.numpy(), theirs.cluster_centers_, rtol=1e-9)
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-9 if iterations < 10 else 1e-3)
    assert ours.reseeded == 0


def test_mini_batches_from_the_same_start_are_those_of_scikit_learn() -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    frames = blobs(k=15, per_blob=80, spread=2.0)[0].astype(np.float64)
    np.random.default_rng(0).shuffle(frames)
    theirs = cluster.MiniBatchKMeans(15, init=frames[:15], n_init=1, reassignment_ratio=0)
    ours = MiniBatch(torch.from_numpy(frames[:15].copy()))
    inertia = 0.0
    for batch in np.array_split(frames, 7):
        inertia += ((batch[:, None] - ours.centroids.numpy()[None]) ** 2).sum(axis=2).min(axis=1).sum()
        theirs.partial_fit(batch)
        ours.update(torch.from_numpy(batch))
        np.testing.assert_allclose(ours.centroids.numpy(), theirs.cluster_centers_, rtol=1e-9)
    assert ours.inertia == pytest.approx(inertia)
    assert int(ours.taken.sum()) == int(ours.weights.sum()) == len(frames)


def test_a_cluster_that_mini_batches_never_fill_moves_to_the_worst_frame() -> None:
    frames = torch.tensor([[0.0], [0.2], [10.0], [10.2]] * 50 + [[30.0]])
    search = MiniBatch(torch.tensor([[0.0], [10.0], [-1000.0]]))
    search.update(frames)
    assert search.reseeded == 0  # 201 idle frames do not make it dead
    search.update(frames)
    assert (search.reseeded, search.centroids[2].item(), search.weights[2].item()) == (1, 30.0, 0)
    search.update(frames)
    assert search.centroids[2].item() == 30.0
    assert search.weights[2].item() == 1
    assert search.centroids[0].item() == pytest.approx(0.1)


def test_k_means_plus_plus_takes_a_sample_of_many_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = torch.arange(10_000.0)[:, None]
    monkeypatch.setattr(_clustering, "_START_FRAMES_PER_CLUSTER", 20)
    seen: list[int] = []

    def watched(frames: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(len(frames))
        return nearest(frames, centroids)

    monkeypatch.setattr(_clustering, "nearest", watched)
    starts = plus_plus(frames, 8, torch.Generator().manual_seed(0))
    assert set(seen) == {160}
    assert len(starts.unique()) == 8
    assert starts.max() - starts.min() > 5000


def test_separate_blobs_are_found() -> None:
    frames, centers = blobs(k=6, per_blob=200, spread=0.05)
    found = fit_kmeans(torch.from_numpy(frames), 6, seed=1, restarts=5).centroids.numpy()
    gaps = np.linalg.norm(found[:, None] - centers[None], axis=2)
    assert sorted(gaps.argmin(axis=1)) == list(range(6))
    assert gaps.min(axis=1).max() < 0.02


def test_starts_never_fall_twice_on_one_place() -> None:
    """The chance of a start is its squared distance: zero where a start already is."""
    places = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 9.0]]).repeat(50, 1)
    for seed in range(20):
        starts = plus_plus(places, 3, torch.Generator().manual_seed(seed))
        assert len(starts.unique(dim=0)) == 3


def test_the_second_start_is_drawn_by_squared_distance() -> None:
    """From a first start at 0 the places 1 and 3 have chances 1/10 and 9/10."""
    places = torch.tensor([[0.0], [1.0], [3.0]])
    draws = [plus_plus(places, 2, torch.Generator().manual_seed(seed))[:, 0].tolist() for seed in range(900)]
    after_zero = [second for first, second in draws if first == 0]
    assert 240 < len(after_zero) < 360
    assert 0.84 < np.mean(np.array(after_zero) == 3) < 0.96


def test_an_empty_cluster_moves_to_the_worst_frame() -> None:
    frames = torch.tensor([[0.0], [0.2], [10.0], [10.2]] * 10 + [[30.0]])
    starts = torch.tensor([[0.0], [10.0], [-1000.0]])
    fit = from_start(frames, starts, iterations=20)
    assert fit.reseeded == 1
    assert sorted(fit.centroids[:, 0].tolist()) == pytest.approx([0.1, 10.1, 30.0])
    assert fit.inertia == pytest.approx(40 * 0.1**2, rel=1e-2)


def test_the_seed_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = torch.from_numpy(blobs(k=20, per_blob=40, spread=3.0)[0])
    first, again, other = (fit_kmeans(frames, 20, seed=s, restarts=2) for s in (3, 3, 4))
    assert torch.equal(first.centroids, again.centroids)
    assert not torch.equal(first.centroids, other.centroids)
    monkeypatch.setattr(_clustering, "CHUNK_FRAMES", 100)
    chunked = fit_kmeans(frames, 20, seed=3, restarts=2)
    torch.testing.assert_close(chunked.centroids, first.centroids)


def test_too_few_frames_are_refused() -> None:
    with pytest.raises(UsageError, match="3 frames cannot make 4 clusters"):
        fit_kmeans(torch.zeros(3, 2), 4)


def test_fewer_places_than_clusters_still_end() -> None:
    fit = fit_kmeans(torch.tensor([[1.0], [1.0], [2.0], [2.0]]), 3, restarts=1)
    assert fit.inertia == 0


def test_centroids_survive_their_file(tmp_path: Path) -> None:
    made = Centroids(torch.randn(4, 3), torch.randn(3), torch.rand(3) + 0.5, {"k": 4, "settings": {"layer": 3}})
    made.save(tmp_path / "c.safetensors")
    read = Centroids.load(tmp_path / "c.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(made.tensors().values(), read.tensors().values(), strict=True))
    assert read.metadata == {"k": 4, "settings": {"layer": 3}}
    assert stat.S_IMODE((tmp_path / "c.safetensors").stat().st_mode) & 0o044 == 0o044


def test_features_are_standardized_before_they_are_compared() -> None:
    # Raw distances would choose the first centroid; in units of the scale 0.1 of the second feature, the second.
    centroids = Centroids(torch.tensor([[0.0, 0.0], [1.0, 5.0]]), torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.1]))
    assert centroids.assign(torch.tensor([[1.0, 2.0], [1.0, 2.5]])).tolist() == [0, 1]


def test_foreign_centroids_need_only_the_one_tensor(tmp_path: Path) -> None:
    save_file({"centroids": torch.tensor([[0.0, 0.0], [4.0, 4.0]])}, tmp_path / "foreign.safetensors")
    centroids = Centroids.load(tmp_path / "foreign.safetensors")
    assert centroids.assign(torch.tensor([[1.0, 1.0], [3.0, 3.0]])).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ({"weights": torch.zeros(2, 2)}, "no tensor `centroids"),
        ({"centroids": torch.zeros(4)}, "no tensor `centroids"),
        ({"centroids": torch.zeros(4, 2), "mean": torch.zeros(3)}, r"must be \[2\]"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, tensors: dict, complaint: str) -> None:
    save_file(tensors, tmp_path / "c.safetensors")
    with pytest.raises(UsageError, match=complaint):
        Centroids.load(tmp_path / "c.safetensors")


def test_a_file_that_is_not_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.safetensors").write_bytes(b"not tensors at all")
    with pytest.raises(UsageError, match="not a safetensors file"):
        Centroids.load(tmp_path / "c.safetensors")


def test_an_unknown_asset_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="did you mean 'logmel-k100'"):
        Centroids.load("logmel-k10")


@pytest.mark.parametrize("name", ["centroids", "mean", "scale"])
def test_centroids_with_nan_are_refused(tmp_path: Path, name: str) -> None:
    tensors = {"centroids": torch.ones(3, 2), "mean": torch.ones(2), "scale": torch.ones(2)}
    tensors[name].view(-1)[1] = float("nan")
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match=f"its {name} hold NaN"):
        Centroids.load(tmp_path / "x.safetensors")
