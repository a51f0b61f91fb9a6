"""`python -m slm.tokenizers fit` and `import-kmeans`: where the centroids of a k-means tokenizer come from."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slm.devices import choose_device
from slm.errors import UsageError
from slm.files import check_new_file, clear_half_written
from slm.types import stable_hash

if TYPE_CHECKING:
    from slm.corpus.sources import SourceClip


@dataclass(frozen=True)
class FitConfig:
    """Fit the centroids of a k-means tokenizer on audio and write them as one safetensors file for each layer.

    Use them with a tokenizer file: `name: ssl-kmeans`, `encoder: ...`, `layer: ...`, `centroids: OUT`. Full Lloyd on
    frames held in memory, or with --batch_frames mini-batches of frames that are streamed, for a corpus of any size.
    What was reached is kept in the folder OUT.fit: when the command is killed, the same command goes on and gives the
    same centroids as if it had not been.
    """

    audio: str
    """Folder of audio, or a manifest (JSONL, CSV, TSV)."""
    out: str
    """The safetensors file to write; it must not exist yet. For several layers, with {layer} in its name."""
    tokenizer: str = "ssl-kmeans"
    """Registered name of a k-means tokenizer."""
    encoder: str | None = None
    """Hub id or local folder of the speech encoder (ssl-kmeans; default: as the tokenizer)."""
    layer: int | list[int] | None = None
    """Layer of the encoder, counted as in transformers' hidden_states, or several, fitted in one pass over the audio:
    [1,3,7] (ssl-kmeans; default: as the tokenizer)."""
    input_norm: str | None = None
    """What is done to a clip first: none, unit-variance, layer-norm (ssl-kmeans; default: as the encoder's own)."""
    k: int = 100
    """Number of centroids."""
    seed: int = 0
    """Decides the order in which clips are taken and where clusters start."""
    restarts: int = 3
    """k-means++ starts: each is run to its end and the one with the lowest inertia kept; with --batch_frames, the best
    start is run."""
    iterations: int = 100
    """At most so many iterations of Lloyd's algorithm in a run (without --batch_frames)."""
    max_frames: int = 1_000_000
    """Frames held in memory, shared among the layers: clips are taken in random order until there are so many. Full
    Lloyd fits on these; mini-batches take the standardization and the k-means++ start from them."""
    batch_frames: int | None = None
    """Frames in a mini-batch, 10000 or more for 1,000 centroids: all of the audio is read, and none of it held."""
    passes: int = 1
    """How often mini-batches go through the audio."""
    device: str = "cpu"
    """Where the encoder and the clustering run: cpu, cuda, cuda:1, ...; auto takes a GPU if there is one."""

    def __post_init__(self) -> None:
        for name in ("k", "restarts", "iterations", "max_frames", "passes", "batch_frames"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"--{name} must be at least 1, not {value}")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"--seed must be in [0, 2^63), not {self.seed}")
        if isinstance(self.layer, list) and len(self.layer) > 1 and "{layer}" not in self.out:
            raise UsageError(f"--out {self.out}: several layers are several files; write {{layer}} in their name")


def fit(config: FitConfig) -> None:
    from slm.corpus.sources.base import readable
    from slm.tokenizers._fit import Job, encoder_settings, fit_held, kmeans_class
    from slm.tokenizers._fit_state import FitState
    from slm.tokenizers._fit_stream import fit_stream
    from slm.tokenizers.base import fingerprint

    started = time.monotonic()
    device = choose_device(config.device)
    if device.startswith("mps"):
        raise UsageError(f"--device {device} has no float64, in which k-means sums: give cpu or cuda")
    given = {"encoder": config.encoder, "layer": config.layer, "input_norm": config.input_norm}
    settings = encoder_settings(config.tokenizer, given)
    encoder = kmeans_class(config.tokenizer).make_encoder(**settings, device=device)
    _check_max_frames(config, len(encoder.layers))
    clips = _list_clips(config)
    request = asdict(config) | {
        "device": device,
        "clips": stable_hash([[clip.id, readable(clip.path), clip.start_s, clip.end_s] for clip in clips]),
        "encoder": [fingerprint(encoder.identity(layer)) for layer in encoder.layers],
    }
    options = {
        name: getattr(config, name)
        for name in ("tokenizer", "out", "k", "seed", "restarts", "iterations", "max_frames", "batch_frames", "passes")
    }
    folder = Path(f"{config.out}.fit")
    state = FitState(folder, request)
    job = Job(settings=settings, encoder=encoder, clips=clips, device=device, state=state, report=_say, **options)
    outs = [job.out_of(layer) for layer in encoder.layers]
    _check_outs(outs, state.has_begun)
    with _alone_in(folder):
        _check_outs(outs, state.has_begun)  # again: another command may have ended in between
        if all(out.exists() for out in outs):
            _say(f"{config.out} is finished")
        elif config.batch_frames is None:
            fit_held(job)
        else:
            fit_stream(job, config.batch_frames)
        state.remove()
    print(f"{time.monotonic() - started:.0f} s")


def _check_outs(outs: Sequence[Path], has_begun: bool) -> None:
    for out in outs:
        if has_begun:
            clear_half_written(out)
        else:
            check_new_file(out, ": codes may depend on it")


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Of two commands for one file the second is refused. Nothing is left of a folder in which nothing is."""
    from slm.run_lock import held

    try:
        with held(folder):
            yield
    finally:
        with suppress(OSError):
            folder.rmdir()


def _check_max_frames(config: FitConfig, layers: int) -> None:
    if config.max_frames // layers < config.k:
        shared = f", shared among {layers} layers," if layers > 1 else ""
        raise UsageError(
            f"--max_frames {config.max_frames}{shared} cannot make {config.k} clusters: give more or a smaller --k"
        )


def _say(line: str) -> None:
    print(line, flush=True)


def _list_clips(config: FitConfig) -> list[SourceClip]:
    """All clips of the source, in an order drawn by seed."""
    from slm.corpus.sources import list_clips

    clips = sorted(list_clips(config.audio), key=lambda clip: clip.id)
    random.Random(config.seed).shuffle(clips)
    return clips


@dataclass(frozen=True)
class ImportConfig:
    """Turn a k-means file of fairseq, textlesslib or SpeechBrain (scikit-learn, by joblib or pickle) into safetensors.

    Arrays of NumPy and tensors of torch are taken too. Nothing in the file is executed. `centroids:` of a tokenizer
    file takes such a file as it is, too.
    """

    file: str
    """The file: .bin, .km, .pt, .npy, .npz."""
    out: str
    """The safetensors file to write; it must not exist yet."""

    def __post_init__(self) -> None:
        check_new_file(self.out)


def import_kmeans(config: ImportConfig) -> None:
    from slm.tokenizers._kmeans import Centroids

    centroids = Centroids.load(config.file)
    centroids.save(config.out)
    k, width = centroids.centroids.shape
    print(f"wrote {config.out}: {k} centroids of {width}")
