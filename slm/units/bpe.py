"""Byte-pair encoding of codes by sentencepiece (Shen et al. 2024, arXiv 2310.14580; several codebooks as codec-bpe
takes them: the codes of a frame one after the other).

Each code of each codebook is a character, and all of them are in the vocabulary, seen in training or not: any codes
come back exactly. sentencepiece is told to normalize nothing and to split nowhere.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from slm.errors import UsageError
from slm.files import atomic_file

# sentencepiece's own piece for the unknown, and one that says what the characters stand for. Neither ever comes out:
# ids are counted from behind them.
_NUM_SPECIAL = 2
_ABOUT = re.compile(r"<codes ([\dx]+)( dedup)?(?: of (\w+))?>")
LONGEST_SENTENCE = 16_384  # in codes; sentencepiece counts places in a sentence with 16 bits
_FRAMES_PER_UNIT = 16  # the longest unit: sentencepiece's default where a frame is one character


class UnitBPE:
    """A vocabulary of units: `encode` makes codes `[T, K]` into ids `[R, 1]`, `decode` goes back.

    `model_bytes` are an ordinary sentencepiece model; UsageError for one that `train` has not made.
    `codebook_sizes` are those of the codes; `dedup` says that it was trained on deduplicated ones; `tokenizer` is the
    fingerprint of what made them, where it was said.
    """

    def __init__(self, model_bytes: bytes):
        from sentencepiece import SentencePieceProcessor

        self.model_bytes = model_bytes
        try:
            self._processor = SentencePieceProcessor(model_proto=model_bytes)
            about = _ABOUT.fullmatch(self._processor.id_to_piece(_NUM_SPECIAL - 1))
        except (RuntimeError, IndexError):
            about = None
        if about is None:
            raise UsageError("this is no model of unit BPE: make one with python -m slm.units train")
        self.codebook_sizes = tuple(int(size) for size in about[1].split("x"))
        self.dedup = about[2] is not None
        self.tokenizer: str | None = about[3]
        self.vocab_size = self._processor.get_piece_size() - _NUM_SPECIAL

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnitBPE) and self.model_bytes == other.model_bytes

    def __hash__(self) -> int:
        return hash(self.model_bytes)

    def __reduce__(self) -> tuple[type[UnitBPE], tuple[bytes]]:
        return UnitBPE, (self.model_bytes,)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the model, which holds the codebook sizes too."""
        return hashlib.sha256(self.model_bytes).hexdigest()

    @classmethod
    def load(cls, path: str | Path) -> UnitBPE:
        """Read a model file; UsageError where there is none, or another."""
        try:
            return cls(Path(path).read_bytes())
        except OSError as error:
            raise UsageError(f"no unit BPE at {path}: make one with python -m slm.units train --out {path}") from error
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error

    def save(self, path: str | Path) -> None:
        with atomic_file(path) as temporary:
            temporary.write_bytes(self.model_bytes)

    @classmethod
    def train(cls, documents: Iterable[np.ndarray], codebook_sizes: Sequence[int], vocab_size: int,
              dedup: bool = False, tokenizer: str | None = None) -> UnitBPE:  # fmt: skip
        """Learn a vocabulary of `vocab_size` units from codes `[T, K]` (deduplicated ones where `dedup`) of the
        tokenizer of this fingerprint.

        The same documents in the same order give the same model to the byte. Documents are read one after the other,
        but sentencepiece holds what it was given. It sees those of more than `LONGEST_SENTENCE` codes in pieces.
        UsageError for a vocabulary that the alphabet fills, or that the documents cannot.
        """
        from sentencepiece import SentencePieceTrainer

        sizes = tuple(int(size) for size in codebook_sizes)
        alphabet = _alphabet(sizes)
        if vocab_size <= len(alphabet):
            raise UsageError(f"vocab_size {vocab_size} leaves no room beside the {len(alphabet)} single codes")
        made_by = f" of {tokenizer}" if tokenizer else ""
        about = f"<codes {'x'.join(map(str, sizes))}{' dedup' if dedup else ''}{made_by}>"
        model = io.BytesIO()
        failure: list[BaseException] = []
        try:
            SentencePieceTrainer.train(
                sentence_iterator=_kept_failure(_sentences(documents, alphabet, sizes), failure),
                model_writer=model,
                model_type="bpe",
                vocab_size=min(vocab_size + _NUM_SPECIAL, 2**31 - 1),  # an int of C: more is refused as too many
                control_symbols=[about],
                unk_id=0, bos_id=-1, eos_id=-1, pad_id=-1,
                character_coverage=1.0,
                normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False,
                split_by_unicode_script=False, split_by_whitespace=False, split_by_number=False,
                max_sentence_length=4 * LONGEST_SENTENCE,
                max_sentencepiece_length=min(512, _FRAMES_PER_UNIT * len(sizes)),
                shuffle_input_sentence=False,
                minloglevel=2,
            )  # fmt: skip
        except Exception as error:  # RuntimeError, or in older versions SystemError
            if failure:
                raise failure[0] from None
            found = re.search(r"value <= (\d+)", str(error))
            if found is None:
                raise
            most = int(found[1]) - _NUM_SPECIAL
            if most <= len(alphabet):
                raise UsageError("the documents have no two codes that follow each other often: give more") from error
            raise UsageError(f"the documents give no more than {most} units: lower vocab_size, or give more") from error
        return cls(model.getvalue())

    def encode(self, codes: np.ndarray) -> np.ndarray:
        """Codes `[T, K]` -> ids `[R, 1]`, uint16 or, for more than 65,536 units, uint32."""
        ids = self._processor.encode(_text(codes, self._characters, self.codebook_sizes), out_type=int)
        dtype = np.uint16 if self.vocab_size <= 65_536 else np.uint32
        return (np.array(ids, np.int64) - _NUM_SPECIAL).astype(dtype)[:, None]

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """Ids `[R, 1]` -> codes `[T, K]`, uint16 or uint32: T whole frames (what the last units begin of another is
        left out; there is none in what `encode` made). ValueError for ids that no codes are encoded as."""
        lengths, starts, symbols = self._pieces
        units = np.asarray(ids, np.int64)[:, 0]
        counts = lengths[units]
        before = np.cumsum(counts) - counts
        flat = symbols[np.repeat(starts[units] - before, counts) + np.arange(counts.sum())]
        books = len(self.codebook_sizes)
        codes = flat[: len(flat) // books * books].reshape(-1, books) - _offsets(self.codebook_sizes)
        if ((codes < 0) | (codes >= self.codebook_sizes)).any():
            raise ValueError("these units do not hold the codebooks of a frame in their order")
        return codes.astype(np.uint16 if max(self.codebook_sizes) <= 65_536 else np.uint32)

    def count_codes(self, counts: np.ndarray) -> np.ndarray:
        """How often each unit occurs `[V]` -> how often each code of codebook 0 does in them, int64 `[V_0]`."""
        lengths, _, symbols = self._pieces
        within = np.bincount(symbols, weights=np.repeat(counts, lengths), minlength=len(self._characters))
        return within[: self.codebook_sizes[0]].astype(np.int64)

    def codebooks(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each unit the codebook of its first code, and how many codes it holds: int64 `[V]` each."""
        lengths, starts, symbols = self._pieces
        return np.searchsorted(_offsets(self.codebook_sizes), symbols[starts], side="right") - 1, lengths

    @cached_property
    def _characters(self) -> np.ndarray:
        return _alphabet(self.codebook_sizes)

    @cached_property
    def _pieces(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each id the number of its codes and where they begin, `[V]`; and those of all ids, as places in the
        alphabet."""
        ids = range(_NUM_SPECIAL, _NUM_SPECIAL + self.vocab_size)
        pieces = [np.frombuffer(self._processor.id_to_piece(i).encode("utf-32-le"), "<u4") for i in ids]
        lengths = np.array([len(piece) for piece in pieces], np.int64)
        symbols = np.searchsorted(self._characters, np.concatenate(pieces))
        return lengths, np.cumsum(lengths) - lengths, symbols


def _alphabet(codebook_sizes: Sequence[int]) -> np.ndarray:
    """A code point for each code of each codebook, rising: from U+4E00 as in codec-bpe, without surrogates, private
    use and what is no character."""
    planes = [np.arange(start, start + 0xFFFE) for start in range(0x10000, 0xF0000, 0x10000)]
    points = np.concatenate([np.arange(0x4E00, 0xD800), *planes]).astype("<u4")
    if sum(codebook_sizes) > len(points):
        raise UsageError(f"unit BPE takes {len(points):,} codes of all codebooks together, not {sum(codebook_sizes):,}")
    return points[: sum(codebook_sizes)]


def _offsets(codebook_sizes: Sequence[int]) -> np.ndarray:
    return np.cumsum([0, *codebook_sizes[:-1]])


def _text(codes: np.ndarray, alphabet: np.ndarray, codebook_sizes: Sequence[int]) -> str:
    if codes.shape[1] != len(codebook_sizes) or (codes.astype(np.int64) >= codebook_sizes).any():
        raise ValueError(f"codes of shape {codes.shape} do not fit codebooks of sizes {tuple(codebook_sizes)}")
    return alphabet[codes.astype(np.int64) + _offsets(codebook_sizes)].tobytes().decode("utf-32-le")


def _kept_failure(sentences: Iterator[str], failure: list[BaseException]) -> Iterator[str]:
    """sentencepiece makes an error of its own of whatever stops the sentences, Ctrl-C too: keep what it was."""
    try:
        yield from sentences
    except (Exception, KeyboardInterrupt) as error:
        failure.append(error)
        raise


def _sentences(documents: Iterable[np.ndarray], alphabet: np.ndarray, codebook_sizes: Sequence[int]) -> Iterator[str]:
    """First every character alone, so that none is missing, which adds to no pair; then the documents."""
    yield from alphabet.tobytes().decode("utf-32-le")
    frames = LONGEST_SENTENCE // len(codebook_sizes)
    for codes in documents:
        for start in range(0, len(codes), frames):
            yield _text(codes[start : start + frames], alphabet, codebook_sizes)
