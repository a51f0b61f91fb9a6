"""Mini-batch k-means on frames that are streamed from the audio, several layers in one pass."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from slm.tokenizers._clustering import MiniBatch, State, plus_plus
from slm.tokenizers._fit import Job, clip_features, hold_frames, sample_hash, standardization, write
from slm.tokenizers._kmeans import Centroids, nearest
from slm.types import AudioClip, stable_hash

if TYPE_CHECKING:
    import torch


@dataclass
class Position:
    """How far a fit on streamed frames is: the pass, the clip and its frames already taken; totals of this pass."""

    turn: int = 0
    clip: int = 0
    skip: int = 0
    frames: int = 0
    clips: int = 0
    duration_s: float = 0.0
    corpus: str = "0"
    """Sum of the hashes of all clips, so that it does not depend on their order."""

    def count(self, clip: AudioClip) -> None:
        self.clips += 1
        self.duration_s += clip.duration_s
        added = int(stable_hash([clip.id, sample_hash(clip)]), 16)
        self.corpus = f"{(int(self.corpus, 16) + added) % 2**256:x}"


def _batches(job: Job, batch_frames: int, at: Position) -> Iterator[torch.Tensor]:
    """The rest of the pass in batches `[layers, batch_frames, d]` (the last may be shorter). When one is given, `at`
    says where the next begins: going on from there encodes the clip that is cut once more."""
    import torch

    clips = list(job.clips)
    if at.turn:
        random.Random(job.seed + at.turn).shuffle(clips)
    held: list[torch.Tensor] = []
    room = batch_frames
    for number, clip, windows in clip_features(job, clips, at.clip):
        if number > at.clip or not at.skip:
            at.clip, at.skip = number, 0
            at.count(clip)
        end = 0
        for features in windows:
            start, end = end, end + features.shape[1]
            while at.skip < end:
                held.append(features[:, at.skip - start : at.skip - start + room])
                taken = held[-1].shape[1]
                at.skip, at.frames, room = at.skip + taken, at.frames + taken, room - taken
                if not room:
                    yield torch.cat(held, dim=1)
                    held, room = [], batch_frames
    if held:
        yield torch.cat(held, dim=1)


@dataclass
class Stream:
    """Mini-batch k-means of several layers at once."""

    searches: list[MiniBatch]
    means: list[torch.Tensor]
    scales: list[torch.Tensor]
    at: Position = field(default_factory=Position)

    @classmethod
    def begin(cls, job: Job) -> Stream:
        """From the best of `restarts` k-means++ starts on held frames, which also give the standardization."""
        import torch

        searches, means, scales = [], [], []
        for features in hold_frames(job).features:
            mean, scale = standardization(features)
            frames, generator = (features - mean) / scale, torch.Generator().manual_seed(job.seed)
            starts = [plus_plus(frames, job.k, generator) for _ in range(job.restarts)]
            best = min(starts, key=lambda start: nearest(frames, start)[1].double().sum().item())
            searches.append(MiniBatch(best))
            means.append(mean)
            scales.append(scale)
        return cls(searches, means, scales)

    @classmethod
    def restored(cls, state: State, device: str) -> Stream:
        tensors, values = state
        stream = cls([], [], [], Position(**values["at"]))
        for i, search_values in enumerate(values["searches"]):
            own = {name.removeprefix(f"{i}."): t.to(device) for name, t in tensors.items() if name.startswith(f"{i}.")}
            stream.means.append(own.pop("mean"))
            stream.scales.append(own.pop("scale"))
            stream.searches.append(MiniBatch(own["centroids"]))
            stream.searches[-1].restore((own, search_values))
        return stream

    def state(self) -> State:
        tensors: dict[str, torch.Tensor] = {}
        values: dict[str, Any] = {"at": asdict(self.at), "searches": []}
        for i, (search, mean, scale) in enumerate(zip(self.searches, self.means, self.scales, strict=True)):
            own, search_values = search.state()
            tensors |= {f"{i}.{name}": tensor for name, tensor in {**own, "mean": mean, "scale": scale}.items()}
            values["searches"].append(search_values)
        return tensors, values

    def update(self, batch: torch.Tensor) -> None:
        for search, mean, scale, features in zip(self.searches, self.means, self.scales, batch, strict=True):
            search.update((features - mean) / scale)

    def progress(self, passes: int) -> str:
        inertia = ", ".join(f"{search.inertia / max(1, self.at.frames):.6g}" for search in self.searches)
        reseeded = ", ".join(str(search.reseeded) for search in self.searches)
        return (
            f"pass {self.at.turn + 1} of {passes}, {self.at.frames:,} frames of {self.at.clips:,} clips: inertia per "
            f"frame {inertia}; dead clusters reseeded {reseeded}"
        )


def fit_stream(job: Job, batch_frames: int) -> None:
    """Mini-batches of frames, read from the audio as they are needed, for all layers in one pass."""
    state = job.state.load("stream")
    stream = Stream.restored(state, job.device) if state else Stream.begin(job)
    while True:
        for batch in _batches(job, batch_frames, stream.at):
            stream.update(batch)
            if job.state.due():
                job.report(stream.progress(job.passes))
                job.state.save("stream", stream.state())
        job.report(stream.progress(job.passes))
        if stream.at.turn + 1 == job.passes:
            break
        stream.at = Position(stream.at.turn + 1)
        for search in stream.searches:
            search.begin_pass()
    for layer, search, mean, scale in zip(
        job.encoder.layers, stream.searches, stream.means, stream.scales, strict=True
    ):
        at = stream.at
        metadata = job.metadata(layer) | {
            "clips": at.clips,
            "frames": at.frames,
            "duration_s": round(at.duration_s, 3),
            "inertia_per_frame": search.inertia / at.frames,
            "corpus_hash": at.corpus,
        }
        write(job, layer, Centroids(search.centroids.cpu(), mean.cpu(), scale.cpu(), metadata), search.taken)
