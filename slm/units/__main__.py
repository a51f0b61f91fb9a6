"""`python -m slm.units train` learns a vocabulary of units by byte-pair encoding from a tokenized corpus."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slm.config import Command, run_one_of
from slm.errors import UsageError
from slm.files import check_new_file
from slm.units.bpe import LONGEST_SENTENCE, UnitBPE
from slm.units.units import Units

if TYPE_CHECKING:
    from slm.data.store import CodeStore

CODES_READ = 10_000_000


@dataclass(frozen=True)
class BPEConfig:
    """Learn unit BPE from a tokenized corpus: a sentencepiece model, for train_lm.py --bpe.

    Codes of several codebooks are read frame by frame, one after the other. The same corpus, options and seed give the
    same model.
    """

    data: str
    """The tokenized corpus (see tokenize_corpus.py)."""
    out: str
    """The model file to write; it must not exist yet."""
    vocab_size: int
    """Number of units, the single codes of all codebooks among them."""
    dedup: bool = False
    """Collapse runs of equal codes first (one codebook only); train_lm.py then wants --dedup true too."""
    max_documents: int | None = None
    """How many clips are read, drawn by seed; sentencepiece holds them in memory (100 to 300 bytes a code). Default:
    as many as hold 10 million codes."""
    seed: int = 0
    """Decides which clips are read where there are more."""

    def __post_init__(self) -> None:
        if self.max_documents is not None and self.max_documents < 1:
            raise UsageError(f"--max_documents must be at least 1, not {self.max_documents}")
        if self.seed < 0:
            raise UsageError(f"--seed must be 0 or more, not {self.seed}")
        self.check_out()

    def check_out(self) -> None:
        check_new_file(self.out, ": models may depend on it")


def train(config: BPEConfig) -> None:
    from slm.data.store import CodeStore

    store = CodeStore(config.data)
    sizes = store.spec.codebook_sizes
    read = Units(sizes, config.dedup)
    chosen = choose_documents(store, config.max_documents, config.seed)
    if not len(chosen):
        raise UsageError(f"{config.data} has no clip to learn from")
    documents = (read.apply(store.codes(i)) for i in chosen)
    bpe = UnitBPE.train(documents, sizes, config.vocab_size, config.dedup, store.spec.fingerprint)
    print(f"{store.spec.describe()}: {len(chosen):,} of {len(store):,} clips")
    for line in describe_gain(store, chosen, read, Units(sizes, config.dedup, bpe)):
        print(line)
    config.check_out()  # again: another command may have ended in between
    bpe.save(config.out)
    print(
        f"wrote {config.out}: train_lm.py --bpe {shlex.quote(str(config.out))}{' --dedup true' if config.dedup else ''}"
    )


def choose_documents(store: CodeStore, most: int | None, seed: int) -> list[int]:
    """The clips to read, in the order of the corpus."""
    drawn = np.random.default_rng(seed).permutation(len(store))
    if most is None:
        codes = np.cumsum(store.num_frames[drawn]) * store.spec.num_codebooks
        most = max(1, int(np.searchsorted(codes, CODES_READ, side="right")))
    return sorted(drawn[:most].tolist())


def describe_gain(store: CodeStore, chosen: Sequence[int], read: Units, units: Units) -> Iterator[str]:
    """What the vocabulary makes of the clips that it was learned from."""
    frames, before, pieces = 0, 0, 0
    counts = np.zeros(units.sizes, np.int64)
    longest = LONGEST_SENTENCE // store.spec.num_codebooks
    for index in chosen:
        codes = store.codes(index)
        made = read.apply(codes)
        frames, before, pieces = frames + len(codes), before + len(made), pieces + (len(made) > longest)
        counts += np.bincount(units.apply(codes)[:, 0], minlength=len(counts))
    books, after = store.spec.num_codebooks, int(counts.sum())
    seconds = frames / store.spec.frame_rate_hz
    deduplicated = f", {before / seconds:.1f} deduplicated" if read.dedup else ""
    yield (
        f"{frames * books / seconds:.1f} codes a second{deduplicated}, {after / seconds:.1f} units: "
        f"{before * books / after:.2f} x fewer by BPE"
    )
    share = counts[counts > 0] / after
    perplexity = float(np.exp(-(share * np.log(share)).sum()))
    yield f"{len(counts):,} units, of which {len(share):,} occur; perplexity {perplexity:,.0f}"
    if pieces:
        yield f"{pieces:,} clips of more than {longest:,} frames were learned from in pieces"


COMMANDS: dict[str, Command] = {"train": (train, BPEConfig, ())}


def main(argv: Sequence[str] | None = None) -> None:
    run_one_of(COMMANDS, "python -m slm.units", "What is done with the units of a corpus:", argv)


if __name__ == "__main__":
    main()
