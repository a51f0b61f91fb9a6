"""`python -m slm.tokenizers check`: a tokenizer, with the weights that are here, against the laws."""

from __future__ import annotations

import math
import os
import random
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm.devices import choose_device
from slm.errors import AudioError, UsageError
from slm.tokenizers.base import EXACT, check_no_option

if TYPE_CHECKING:
    from slm.tokenizers.base import Tokenizer
    from slm.types import AudioClip

KEPT, BROKEN, NOTHING, MEASURED = "kept", "BROKEN", "-", "seen"
_BATCH_S = 30.0
"""Seconds of audio in a batch where a device makes none by itself."""
_FEWEST_FRAMES = 20
"""Of a clip: enough for what is cut from it to share a batch."""
_SHORT_S = 8.0
"""Several clips of so many seconds share a batch on any device; longer streams show nothing more."""


@dataclass(frozen=True)
class CheckConfig:
    """Hold a tokenizer to the laws, with the weights that you have, on this machine.

    Clips give the same codes together, in another order and alone; frames and decoded audio have the lengths that the
    spec says; bad input is refused; its settings load it again; long clips in pieces, clips in one batch and streams
    give what one pass gives (in float64, where near ties do not flip). Of each faster mode, how many codes differ from
    those of `exact`. Exit status 1 where a law is broken.
    """

    tokenizer: str
    """Name of a tokenizer (`python -m slm.tokenizers` lists them), or a YAML file such as those in
    configs/tokenizers."""
    audio: str
    """Folder of audio, or a manifest (JSONL, CSV, TSV), as for tokenize_corpus.py."""
    tokenizer_settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the tokenizer, over those of its file: --tokenizer_settings.checkpoint FOLDER"""
    clips: int = 4
    """How many clips of the audio are taken."""
    seconds: float = 4.0
    """Length of the longest of them, once cut."""
    seed: int = 0
    """Decides which clips."""
    device: str = "cpu"
    """Where it runs: cpu, cuda, cuda:1, ...; auto takes a GPU if there is one."""

    def __post_init__(self) -> None:
        if self.clips < 2:
            raise UsageError(f"--clips must be at least 2, which can share a batch, not {self.clips}")
        if not 0 < self.seconds <= 60:
            raise UsageError(f"--seconds must be more than 0 and at most 60, not {self.seconds:g}")
        check_no_option(self.tokenizer_settings)

    def length_s(self, number: int) -> float:
        """Of a clip: from the longest to half of it, no two of one length."""
        return self.seconds * (1 - number / (2 * self.clips))


@dataclass(frozen=True)
class Finding:
    """What became of one law, or of one mode."""

    law: str
    verdict: str
    seen: str

    def __str__(self) -> str:
        return f"{self.verdict:<8}{self.law:<18}{self.seen}"


def check(config: CheckConfig) -> int:
    """Print what becomes of each law; how the process ends: 1 where one is broken."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # a bar for each of a dozen loads; read when tqdm is imported
    from slm.tokenizers import load_tokenizer

    device = choose_device(config.device)
    load = partial(load_tokenizer, config.tokenizer, device, **config.tokenizer_settings)
    tokenizer = load()
    clips = _clips(config, tokenizer)
    total_s = sum(clip.duration_s for clip in clips)
    print(f"{tokenizer.spec.describe()}, mode {tokenizer.mode}, on {device}")
    print(f"{len(clips)} clips of {config.audio}, {total_s:.1f} s in all\n", flush=True)
    verdicts, causes = dict[str, str](), dict[str, str]()
    for name, law in _laws(load, tokenizer, clips, device).items():
        finding = _tried(name, law)
        first = causes.setdefault(finding.seen, name) if finding.verdict == BROKEN else name
        print(finding if first == name else Finding(name, BROKEN, f"as {first}"), flush=True)
        verdicts[name] = finding.verdict
    broken = [name for name, verdict in verdicts.items() if verdict == BROKEN]
    for finding in [] if broken else _measured_modes(load, tokenizer, _short(clips), device):
        print(finding, flush=True)
    kept = list(verdicts.values()).count(KEPT)
    print(f"\n{kept} laws are kept" + (f", {len(broken)} broken: {', '.join(broken)}" if broken else ""))
    return 1 if broken else 0


def _clips(config: CheckConfig, tokenizer: Tokenizer) -> list[AudioClip]:
    """Of different lengths, from some recordings of the audio; UsageError where too few can be had."""
    from dataclasses import replace

    from slm.corpus.reading import probe_clip, read_clip
    from slm.corpus.sources import list_clips
    from slm.tokenizers.base import audio_fault
    from slm.types import AudioClip

    spec, fault = tokenizer.spec, ""
    if spec.num_frames(int(config.length_s(config.clips - 1) * spec.sample_rate_hz)) < _FEWEST_FRAMES:
        least_s = (_FEWEST_FRAMES + spec.frame_multiple) / spec.frame_rate_hz * config.seconds
        least_s /= config.length_s(config.clips - 1)
        raise UsageError(
            f"--seconds {config.seconds:g}: the shortest of {config.clips} clips would have less than "
            f"{_FEWEST_FRAMES} frames of {spec.name}; give {math.ceil(10 * least_s) / 10:g}"
        )
    made: list[AudioClip] = []
    listed = sorted(list_clips(config.audio), key=lambda clip: clip.id)
    random.Random(config.seed).shuffle(listed)
    for clip in listed:
        cut_s = clip.start_s + config.length_s(len(made))
        try:
            ends_s = probe_clip(clip).duration_s if clip.end_s is None else clip.end_s
            samples = read_clip(replace(clip, end_s=cut_s) if cut_s < ends_s else clip, spec.sample_rate_hz)
        except AudioError as error:
            fault = f"; {clip.id}: {error}"
            continue
        if spec.num_frames(len(samples)) < _FEWEST_FRAMES or audio_fault(samples) or samples.min() == samples.max():
            fault = f"; {clip.id} is silent, no audio, or less than {_FEWEST_FRAMES} frames"
            continue
        made.append(AudioClip(clip.id, samples, spec.sample_rate_hz))
        if len(made) == config.clips:
            return made
    if len(made) < 2:
        raise UsageError(
            f"--audio {config.audio}: {len(made)} of {len(listed)} clips can be used, two are needed{fault}"
        )
    return made


class _NothingToCheck(Exception):
    """A law that does not apply, and why."""


def _laws(
    load: Callable[..., Tokenizer], tokenizer: Tokenizer, clips: Sequence[AudioClip], device: str
) -> Mapping[str, Callable[[], str]]:
    from slm.tokenizers.laws.contract import CONTRACT, Trial

    trial, short = Trial(tokenizer, clips, device), _short(clips)
    contract = {name: partial(law, trial) for name, law in CONTRACT.items()}
    return {
        **contract,
        "long audio": partial(_in_pieces, load, clips),
        "one tensor": partial(_in_one_tensor, load, short, device),
        "streams": partial(_as_streams, load, short),
    }


def _short(clips: Sequence[AudioClip]) -> list[AudioClip]:
    from dataclasses import replace

    return [replace(clip, samples=clip.samples[: int(_SHORT_S * clip.sample_rate_hz)]) for clip in clips]


def _tried(law: str, attempt: Callable[[], str]) -> Finding:
    """Whatever a tokenizer raises breaks the law, but for what is the machine's."""
    try:
        return Finding(law, KEPT, attempt())
    except _NothingToCheck as reason:
        return Finding(law, NOTHING, str(reason))
    except Exception as error:
        if isinstance(error, MemoryError) or type(error).__name__ in ("OutOfMemoryError", "AcceleratorError"):
            raise
        *_, where = traceback.extract_tb(error.__traceback__)
        told = (str(error).strip() or "no reason").splitlines()[0]
        if isinstance(error, AssertionError) and str(error):
            return Finding(law, BROKEN, told)
        return Finding(law, BROKEN, f"{type(error).__name__}: {told} ({Path(where.filename).name}:{where.lineno})")


def _in_pieces(load: Callable[..., Tokenizer], clips: Sequence[AudioClip]) -> str:
    import numpy as np

    from slm.tokenizers._codec import NeuralCodec
    from slm.tokenizers.laws import long_audio_law
    from slm.types import AudioClip

    codec = load(mode=EXACT)
    if not isinstance(codec, NeuralCodec) or not codec.pieces_are_exact:
        raise _NothingToCheck("a clip is coded in one piece, or in windows that are no part of one pass")
    one = AudioClip("all clips, end to end", np.concatenate([c.samples for c in clips]), clips[0].sample_rate_hz)
    long_audio_law(codec, one)
    noise = ", but for the noise that decoding draws" if codec.decoder_is_random else ""
    return f"{one.duration_s:.1f} s in 2, 3 and 7 pieces as in one pass, in float64{noise}"


def _in_one_tensor(load: Callable[..., Tokenizer], clips: Sequence[AudioClip], device: str) -> str:
    from slm.tokenizers.laws import batching_law

    exact: Any = load(mode=EXACT)
    if "batched" not in exact.modes:
        raise _NothingToCheck("has no mode in which clips share a tensor")
    batching_law(exact, _sharing(load, "batched", device), clips)
    return f"{5 * len(clips)} cuts of the clips in shared tensors as each alone, in float64"


def _sharing(load: Callable[..., Tokenizer], mode: str, device: str) -> Any:
    """The tokenizer in a mode, with batches also where its device would make none."""
    made: Any = load(mode=mode)
    if device == "cpu":
        made.batch_s = {**made.batch_s, "cpu": _BATCH_S}
    return made


def _as_streams(load: Callable[..., Tokenizer], clips: Sequence[AudioClip]) -> str:
    from slm.tokenizers._streaming import CausalCodec
    from slm.tokenizers.laws import streaming_law

    tokenizer = load(mode=EXACT)
    opened = {"there": tokenizer.stream_encoder, "back": tokenizer.stream_decoder}
    ways = " and ".join(way for way, open_stream in opened.items() if _opens(open_stream))
    if not ways:
        raise _NothingToCheck("is not made to be streamed")
    clip = min(clips, key=lambda clip: len(clip.samples))
    known = "there" not in ways or isinstance(tokenizer, CausalCodec)
    wait = None if known else tokenizer.spec.num_frames(len(clip.samples))
    streaming_law(tokenizer, [clip], wait, ways)
    return f"{clip.duration_s:.1f} s in chunks of many sizes as at once, {ways}"


def _opens(open_stream: Callable[[], object]) -> bool:
    with suppress(UsageError):
        return open_stream() is not None
    return False


def _measured_modes(
    load: Callable[..., Tokenizer], tokenizer: Tokenizer, clips: Sequence[AudioClip], device: str
) -> Iterator[Finding]:
    """How many codes the faster modes change, in the precision that they are used in."""
    from slm.tokenizers._batched import code_mismatch

    of_gpus = ("tf32", "bf16") if device == "cpu" else ()  # there tf32 is as batched, and bf16 slow
    faster = [mode for mode in tokenizer.modes if mode not in (EXACT, *of_gpus)]
    if not faster:
        return
    exact = load(mode=EXACT).encode(clips)
    for mode in faster:
        share = code_mismatch(_sharing(load, mode, device).encode(clips), exact)
        count = sum(each.codes.size for each in exact)
        yield Finding(f"mode {mode}", MEASURED, f"{share:.3%} of {count:,} codes are not those of {EXACT}")
