"""Pairs scored in a second: the usual way, from the audio each time, against `eval/run.py`'s, from warm caches.

    python -m bench.zero_shot [--device cuda] [--body small|357m] [--words 40] [--stories 8] [--batch 8] [--dev]
                              [--precision bf16] [--compile] [--threads 1] [--turns 3]

The same model and tokenizer on both sides: a fresh Llama or Qwen2 over deduplicated units (25 Hz, 500) of an untrained
HuBERT of the published size, so that its speed is true and its units mean nothing. Words are cuts of 0.4 to 1.1 s of
real speech, stories are pairs of 8 to 12 s that differ in their last fifth.

usual      as scripts of the field do: batches of `--batch` pairs in file order, the right and the wrong items apart;
           each recording is read and tokenized (by our tokenizer, without the padding of these scripts, so that units
           are equal), units are padded to the longest, the model gives all logits, and losses are masked
here       what eval/run.py does a second time: hash the recordings, map their units, pack and score, sums and a score
scoring    both ways once more with units at hand: what packing and sorting are worth by themselves; and shared
           beginnings, on stories whose first four fifths are made the same units, as a causal tokenizer makes them
           (HuBERT hears the whole recording: of the same audio it makes other units)

Both take turns; times are the best of `--turns`, on one thread of a CPU of processor time. "apart" is the largest
difference between the two ways' log-probabilities of an item, over its length, in nats. `--dev` scores as many random
documents as sWUGGY's dev set has recordings (40,000, each different, of a word's length) with the model, once.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile

from bench.training import BODIES
from eval.likelihoods import Likelihoods
from eval.tokens import tokenize_items
from slm.audio import find_audio, read_audio
from slm.spoken_lm import SpokenLM
from slm.types import AudioClip, Codes

SPEECH = Path(__file__).parents[1] / "tests" / "data" / "speech"
RATE_HZ = 16_000
DEV_RECORDINGS = 40_000
Scores = dict[str, float]


def main(arguments: Sequence[str]) -> None:
    import torch

    options = _options(arguments)
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("highest")
    cuda = options.device.startswith("cuda")
    on = torch.cuda.get_device_name() if cuda else f"CPU, {options.threads} thread(s)"
    with TemporaryDirectory(prefix="bench-zero-shot-") as folder:
        lm = make_lm(Path(folder), options)
        if options.compile:
            lm.compile()
        parameters = sum(p.numel() for p in lm.model.causal_lm.parameters())
        print(f"{on}, {parameters / 1e6:,.0f} M parameters, {options.precision}")
        print(f"{'':<22} {'usual':>12} {'here':>12} {'times':>8} {'apart':>9}")
        sets = {
            "words": write_words(Path(folder) / "words", options.words),
            "stories": write_stories(Path(folder) / "stories", options.stories),
        }
        for name, files in sets.items():
            compare(name, files, lm, Path(folder) / "tokens", options)
    if options.dev:
        codes = dev_codes(lm)
        took_s, _ = timed(lambda: Likelihoods.measure(lm, codes), time.perf_counter)
        print(f"{DEV_RECORDINGS:,} recordings of words, units at hand: {took_s:.1f} s, "
              f"{DEV_RECORDINGS / 2 / took_s:,.0f} pairs/s")  # fmt: skip


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.zero_shot", description="Speed of zero-shot evaluation.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--body", choices=BODIES, default="small", help="8 M, or Qwen2.5-0.5B's 358 M")
    parser.add_argument("--words", type=int, default=40, help="pairs of words (a GPU wants 400)")
    parser.add_argument("--stories", type=int, default=8, help="pairs of stories (a GPU wants 60)")
    parser.add_argument("--batch", type=int, default=8, help="pairs in a batch of the usual way")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="threads of a CPU")
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32", help="of scoring, on both sides")
    parser.add_argument("--compile", action="store_true", help="compile the layers of the model, on this side alone")
    parser.add_argument("--dev", action="store_true", help="also score as much as all of sWUGGY's dev set")
    return parser.parse_args(arguments)


def make_lm(folder: Path, options: argparse.Namespace) -> SpokenLM:
    from slm.model.backbone import build_causal_lm
    from slm.model.checkpoint import ModelRecord
    from slm.model.statistics import CodeStatistics
    from slm.tokenizers import load_tokenizer
    from slm.tokenizers._untrained_encoders import write_untrained_units

    tokenizer = load_tokenizer(str(write_untrained_units(folder / "hubert", "mhubert-25hz", [11], 500)), options.device)
    record = ModelRecord(tokenizer.spec, "flat", dedup=True)
    causal_lm = build_causal_lm(BODIES[options.body], record.make_pattern(), seed=0)
    sample = np.arange(500, dtype=np.uint16)[:, None]
    lm = SpokenLM(causal_lm, record, CodeStatistics.measure(record.units, [(sample, sample)]), options.device)
    lm.tokenizer, lm.precision = tokenizer, options.precision
    return lm


def speech() -> np.ndarray:
    """All the recordings there are, one after the other."""
    return np.concatenate([read_audio(path, RATE_HZ) for path in sorted(find_audio(SPEECH))])


def write_words(folder: Path, pairs: int) -> dict[str, Path]:
    rng, source = np.random.default_rng(0), speech()
    made = {}
    for i in range(pairs):
        for side in ("right", "wrong"):
            length = int(rng.uniform(0.4, 1.1) * RATE_HZ)
            made[f"{i}-{side}"] = cut(source, rng, length)
    return write_all(folder, made)


def write_stories(folder: Path, pairs: int) -> dict[str, Path]:
    rng, source = np.random.default_rng(1), speech()
    made = {}
    for i in range(pairs):
        length = int(rng.uniform(8, 12) * RATE_HZ)
        start = cut(source, rng, length * 4 // 5)
        for side in ("right", "wrong"):
            made[f"{i}-{side}"] = np.concatenate([start, cut(source, rng, length // 5)])
    return write_all(folder, made)


def cut(source: np.ndarray, rng: np.random.Generator, length: int) -> np.ndarray:
    at = int(rng.integers(0, len(source) - length))
    return source[at : at + length]


def write_all(folder: Path, clips: dict[str, np.ndarray]) -> dict[str, Path]:
    folder.mkdir()
    for name, samples in clips.items():
        soundfile.write(str(folder / f"{name}.wav"), samples, RATE_HZ)
    return {name: folder / f"{name}.wav" for name in clips}


def compare(name: str, files: dict[str, Path], lm: SpokenLM, cache: Path, options: argparse.Namespace) -> None:
    cpu = options.device == "cpu" and options.threads == 1
    clock = time.process_time if cpu else time.perf_counter
    codes = tokenize_items(files, lm, cache, name).codes  # the caches are warm from here on

    def read_and_score() -> Scores:
        return score_here(lm, list(tokenize_items(files, lm, cache, name).codes.values()))

    rows: dict[str, tuple[Callable[[], Scores], Callable[[], Scores]]] = {
        f"{name}, from audio": (lambda: usual(lm, files, options.batch), read_and_score),
        f"{name}, scoring": (
            lambda: usual(lm, files, options.batch, codes),
            lambda: score_here(lm, list(codes.values())),
        ),
    }
    if name == "stories":
        alike = with_shared_beginnings(codes)
        rows["shared, scoring"] = (
            lambda: usual(lm, files, options.batch, alike),
            lambda: score_here(lm, list(alike.values())),
        )
    for label, (theirs, ours) in rows.items():
        ours(), theirs()  # to warm up
        times: list[list[float]] = [[], []]
        for _ in range(options.turns):
            found = []
            for way, run in enumerate((theirs, ours)):
                took_s, scores = timed(run, clock)
                times[way].append(took_s)
                found.append(scores)
        apart = max(abs(found[0][item] - found[1][item]) for item in files)
        first, second = (len(files) / 2 / min(t) for t in times)
        print(f"{label:<22} {first:>8,.1f} p/s {second:>8,.1f} p/s {second / first:>7.1f}x {apart:>9.1e}", flush=True)


def with_shared_beginnings(codes: Mapping[str, Codes]) -> dict[str, Codes]:
    """The wrong item of each pair begins with four fifths of the right one's units."""
    made = dict(codes)
    for item in (i for i in codes if i.endswith("wrong")):
        right = codes[item.replace("wrong", "right")].codes
        upto = min(len(right), len(codes[item].codes)) * 4 // 5
        made[item] = replace(codes[item], codes=np.concatenate([right[:upto], codes[item].codes[upto:]]))
    return made


def timed(run: Callable[[], Any], clock: Callable[[], float]) -> tuple[float, Any]:
    """Seconds, and what came out (numbers on the CPU: a GPU has been waited for)."""
    start = clock()
    made = run()
    return clock() - start, made


def score_here(lm: SpokenLM, codes: Sequence[Codes]) -> Scores:
    from eval.conventions import find_convention

    return Likelihoods.measure(lm, codes).scores(find_convention("slamkit"))


def usual(lm: SpokenLM, files: dict[str, Path], batch: int, codes: Any = None) -> Scores:
    """Mean log-probabilities of units and end."""
    scores: Scores = {}
    for side in ("right", "wrong"):
        items = [item for item in files if item.endswith(side)]
        for start in range(0, len(items), batch):
            group = items[start : start + batch]
            if codes is None:
                clips = [AudioClip(i, soundfile.read(str(files[i]), dtype="float32")[0], RATE_HZ) for i in group]
                made = lm.tokenizer.encode(clips)
            else:
                made = [codes[item] for item in group]
            scores |= zip(group, padded_scores(lm, [lm.record.units.apply(c.codes)[:, 0] for c in made]), strict=True)
    return scores


def padded_scores(lm: SpokenLM, units: Sequence[np.ndarray]) -> list[float]:
    """Padded to the longest, all logits, cross-entropy, a mask."""
    import torch
    from torch.nn import functional as F
    from torch.nn.utils.rnn import pad_sequence

    [stream] = lm.pattern.streams
    rows = [torch.tensor([stream.bos_id, *u.tolist(), stream.eos_id]) for u in units]
    x = pad_sequence(rows, batch_first=True, padding_value=stream.empty_id).to(lm.device)
    bf16 = torch.autocast(x.device.type, torch.bfloat16, enabled=lm.precision == "bf16")
    with torch.no_grad(), bf16, torch.compiler.set_stance("force_eager"):
        logits = lm.model.causal_lm(input_ids=x).logits
        mask = x[:, 1:] != stream.empty_id
        losses = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), x[:, 1:], reduction="none") * mask
    return (-losses.sum(dim=-1) / mask.sum(dim=-1)).tolist()


def dev_codes(lm: SpokenLM) -> list[Codes]:
    rng = np.random.default_rng(2)
    lengths = rng.normal(18, 5, DEV_RECORDINGS).clip(6, 40).astype(int)
    return [
        Codes(str(i), rng.integers(0, 500, (n, 1), np.uint16), int(n) * lm.spec.hop_samples, lm.spec)
        for i, n in enumerate(lengths)
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
