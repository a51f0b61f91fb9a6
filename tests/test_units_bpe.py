"""Unit BPE against slow byte-pair encoding, over alphabets of any size, and its command."""

from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
import pytest

from slm.errors import UsageError
from slm.units import UnitBPE, deduplicate
from slm.units.__main__ import main
from slm.units.bpe import LONGEST_SENTENCE
from tests.fakes import ArithmeticTokenizer, markov_codes, write_corpus

SIZES = (5, 3)


def some_documents(sizes=SIZES, count=80, seed=0) -> list[np.ndarray]:
    """Each frame is likely to be one of three."""
    rng = np.random.default_rng(seed)
    favourites = rng.integers(0, sizes, (3, len(sizes)))
    anything = rng.integers(0, sizes, (count, 30, len(sizes)))
    often = favourites[rng.integers(0, 3, (count, 30))]
    return list(np.where(rng.random((count, 30, 1)) < 0.7, often, anything).astype(np.uint16))


@pytest.fixture(scope="module")
def bpe() -> UnitBPE:
    return UnitBPE.train(some_documents(), SIZES, 60)


def symbols_of(bpe: UnitBPE) -> list[tuple[tuple[int, int], ...]]:
    """Each unit as (codebook, code) pairs, read off the characters of the sentencepiece model."""
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(model_proto=bpe.model_bytes)
    pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())][-bpe.vocab_size :]
    places = [(k, code) for k, size in enumerate(bpe.codebook_sizes) for code in range(size)]
    return [tuple(places[ord(character) - 0x4E00] for character in piece) for piece in pieces]


def slow_encode(symbols: list[tuple], codes: np.ndarray) -> list[int]:
    """Of all neighbours that together are a unit, merge those that were learned first; until there are none."""
    rank = {unit: i for i, unit in enumerate(symbols)}
    made = [((k, int(code)),) for frame in codes for k, code in enumerate(frame)]
    while pairs := [(rank[a + b], i) for i, (a, b) in enumerate(pairwise(made)) if a + b in rank]:
        at = min(pairs)[1]
        made[at : at + 2] = [made[at] + made[at + 1]]
    return [rank[unit] for unit in made]


def test_encoding_equals_slow_merging(bpe):
    symbols = symbols_of(bpe)
    for codes in some_documents(count=20, seed=1):
        assert bpe.encode(codes)[:, 0].tolist() == slow_encode(symbols, codes)


def test_the_likeliest_pair_is_learned_first():
    bpe = UnitBPE.train([np.array([[0], [1], [2], [0], [1], [3], [0], [1]])], (5,), 6)
    assert symbols_of(bpe)[0] == ((0, 0), (0, 1))
    assert bpe.encode(np.array([[3], [0], [1], [0], [0], [1]])).shape == (4, 1)


def test_decoding_is_reading_the_symbols(bpe):
    symbols = symbols_of(bpe)
    for codes in some_documents(count=5, seed=2):
        units = bpe.encode(codes)
        flat = [code for unit in units[:, 0] for _, code in symbols[unit]]
        assert np.array_equal(bpe.decode(units), np.reshape(flat, (-1, 2)))


def test_of_a_frame_begun_and_of_units_out_of_order(bpe):
    symbols = symbols_of(bpe)
    first, second = symbols.index(((0, 4),)), symbols.index(((1, 2),))
    assert bpe.decode(np.array([[first], [second], [first]])).tolist() == [[4, 2]]
    with pytest.raises(ValueError, match="codebooks of a frame in their order"):
        bpe.decode(np.array([[second], [first]]))


def test_of_each_unit_the_codebook_that_it_begins_with_and_how_many_codes_it_holds(bpe):
    begins, lengths = bpe.codebooks()
    symbols = symbols_of(bpe)
    assert begins.tolist() == [unit[0][0] for unit in symbols]
    assert lengths.tolist() == [len(unit) for unit in symbols]


@pytest.mark.parametrize("sizes", [(2,), (35_400,), (65_536,), (70_000,), (4096,) * 9])
def test_codes_never_seen_come_back_exactly(sizes):
    """Alphabets up to and beyond the surrogates, and beyond 16 bits; every code of every codebook stands once."""
    documents = some_documents(sizes, count=20)
    bpe = UnitBPE.train(documents, sizes, sum(sizes) + 1)
    frames = np.stack([np.arange(max(sizes)) % size for size in sizes], axis=1)
    codes = np.random.default_rng(0).permutation(np.concatenate([frames, *documents]))
    codes = codes.astype(np.uint16 if max(sizes) <= 65_536 else np.uint32)
    units = bpe.encode(codes)
    assert units.dtype == (np.uint16 if sum(sizes) + 1 <= 65_536 else np.uint32)
    assert units.max() < bpe.vocab_size == sum(sizes) + 1
    back = bpe.decode(units)
    assert back.dtype == codes.dtype
    assert np.array_equal(back, codes)


def test_long_documents_are_learned_from_to_their_end():
    """What stands only beyond the longest sentence is learned too; and what is longer still is encoded at once."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 50, (LONGEST_SENTENCE + 3000, 1))
    codes[LONGEST_SENTENCE + 1000 :] = np.resize([50, 51], (2000, 1))
    bpe = UnitBPE.train([codes], (60,), 61)
    assert symbols_of(bpe)[0] == ((0, 50), (0, 51))
    long = np.tile(codes, (10, 1))
    assert np.array_equal(bpe.decode(bpe.encode(long)), long)


def test_training_is_deterministic_and_a_model_is_its_bytes(bpe, tmp_path):
    again = UnitBPE.train(iter(some_documents()), SIZES, 60)
    assert again == bpe
    assert again.fingerprint == bpe.fingerprint
    other = UnitBPE.train(some_documents(seed=5), SIZES, 60)
    assert other != bpe
    assert other.fingerprint != bpe.fingerprint
    bpe.save(tmp_path / "x.model")
    for copy in (UnitBPE.load(tmp_path / "x.model"), pickle.loads(pickle.dumps(bpe))):
        assert copy == bpe
        assert (copy.codebook_sizes, copy.dedup, copy.vocab_size) == (SIZES, False, 60)
    assert UnitBPE.train([deduplicate(d[:, :1])[0] for d in some_documents()], (5,), 9, dedup=True).dedup


def test_wrong_use_is_one_clear_line(bpe, tmp_path):
    with pytest.raises(UsageError, match="vocab_size 8 leaves no room beside the 8 single codes"):
        UnitBPE.train(some_documents(), SIZES, 8)
    with pytest.raises(UsageError, match=r"give no more than \d+ units: lower vocab_size"):
        UnitBPE.train(some_documents(count=1), SIZES, 5000)
    with pytest.raises(UsageError, match=r"give no more than \d+ units: lower vocab_size"):
        UnitBPE.train(some_documents(count=1), SIZES, 2**40)
    with pytest.raises(UsageError, match="no two codes that follow each other"):
        UnitBPE.train([np.array([[3]]), np.zeros((0, 1), int)], (5,), 6)
    with pytest.raises(UsageError, match="unit BPE takes 952,804 codes of all codebooks together, not 2,000,000"):
        UnitBPE.train(some_documents(), (1_000_000, 1_000_000), 3_000_000)
    with pytest.raises(UsageError, match=r"no unit BPE at .*make one with python -m slm.units train"):
        UnitBPE.load(tmp_path / "nothing.model")
    (tmp_path / "text.model").write_text("not a model")
    with pytest.raises(UsageError, match=r"text.model: this is no model of unit BPE"):
        UnitBPE.load(tmp_path / "text.model")
    for wrong in (np.array([[5, 0]]), np.array([[0]])):
        with pytest.raises(ValueError, match="do not fit codebooks of sizes"):
            bpe.encode(wrong)


@pytest.mark.parametrize("error", [KeyboardInterrupt, UsageError])
def test_what_stops_the_documents_stops_the_training(error):
    def documents():
        yield from some_documents()
        raise error("now")

    with pytest.raises(error, match="now"):
        UnitBPE.train(documents(), SIZES, 60)


def test_a_sentencepiece_model_of_text_is_refused(tmp_path):
    import io

    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    SentencePieceTrainer.train(sentence_iterator=iter(["some words of text"] * 5), model_writer=model, vocab_size=20,
                               model_type="bpe", minloglevel=2)  # fmt: skip
    with pytest.raises(UsageError, match="no model of unit BPE"):
        UnitBPE(model.getvalue())


def run(*args: object) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", *map(str, args)])
    assert stop.value.code == 0


def test_the_command_learns_from_a_corpus_and_says_what_it_gains(tmp_path, capfd):
    codes = markov_codes(ArithmeticTokenizer(1), 30)
    corpus = write_corpus(tmp_path / "corpus", codes)
    capfd.readouterr()
    run("--data", corpus, "--out", tmp_path / "my units.model", "--vocab-size", 40, "--dedup")
    said = capfd.readouterr()
    assert said.err == ""
    documents = [deduplicate(c.codes)[0] for c in codes]
    made, fingerprint = UnitBPE.load(tmp_path / "my units.model"), ArithmeticTokenizer(1).spec.fingerprint
    assert made == UnitBPE.train(documents, (16,), 40, dedup=True, tokenizer=fingerprint)
    assert made.tokenizer == fingerprint
    units = [made.encode(d) for d in documents]
    before, after = sum(map(len, documents)), sum(map(len, units))
    seconds = sum(len(c.codes) for c in codes) / 50
    assert "30 of 30 clips" in said.out
    expected = f"{before / seconds:.1f} deduplicated, {after / seconds:.1f} units: {before / after:.2f} x fewer by BPE"
    assert f"50.0 codes a second, {expected}" in said.out
    assert f"40 units, of which {len(np.unique(np.concatenate(units)))} occur" in said.out
    assert f"train_lm.py --bpe '{tmp_path}/my units.model' --dedup true" in said.out


def test_the_seed_decides_which_clips_are_read(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", markov_codes(ArithmeticTokenizer(2), 30))
    models = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        out = tmp_path / f"{name}.model"
        run("--data", corpus, "--out", out, "--vocab-size", 60, "--max-documents", 5, "--seed", seed)
        models.append(out.read_bytes())
    assert models[0] == models[1] != models[2]


def test_without_a_number_of_clips_there_are_codes_enough(tmp_path, monkeypatch, capsys):
    """As many clips, in the order drawn, as hold no more than CODES_READ; at least one."""
    codes = markov_codes(ArithmeticTokenizer(2), 30)
    corpus = write_corpus(tmp_path / "corpus", codes)
    lengths = np.array([2 * len(c.codes) for c in codes])[np.random.default_rng(0).permutation(30)]
    for limit, expected in ((500, int((np.cumsum(lengths) <= 500).sum())), (1, 1)):
        monkeypatch.setattr("slm.units.__main__.CODES_READ", limit)
        run("--data", corpus, "--out", tmp_path / f"{limit}.model", "--vocab-size", 40)
        assert f"{expected} of 30 clips" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--vocab-size", "32"], "leaves no room"),
        (["--vocab-size", "60", "--dedup"], "dedup takes one codebook, not 2"),
        (["--vocab-size", "60", "--max-documents", "0"], "must be at least 1"),
        (["--vocab-size", "60", "--seed=-1"], "--seed must be 0 or more"),
        (["--vocab-size", "60", "--out", "/proc/a.model"], "/proc cannot be written to"),
        (["--vocab-size", "60", "--out", "s3://bucket/a.model"], "--out s3://bucket/a.model is a URL"),
    ],
)
def test_the_command_refuses_wrong_use_and_writes_nothing(tmp_path, capsys, args, message):
    corpus = write_corpus(tmp_path / "corpus", markov_codes(ArithmeticTokenizer(2), 3))
    with pytest.raises(SystemExit) as stop:
        main(["train", "--data", str(corpus), "--out", str(tmp_path / "a.model"), *args])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a.model").exists()


@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_model_file_is_not_overwritten(meanwhile, tmp_path, capsys, monkeypatch):
    """Be it there from the start, or made by another command while this one learned."""
    corpus = write_corpus(tmp_path / "corpus", markov_codes(ArithmeticTokenizer(2), 30))
    if meanwhile:
        other = tmp_path / "a.model"
        monkeypatch.setattr("slm.units.__main__.describe_gain", lambda *_: [str(other.write_text("mine"))])
    else:
        (tmp_path / "a.model").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        main(["train", "--data", str(corpus), "--out", str(tmp_path / "a.model"), "--vocab-size", "60"])
    assert stop.value.code == 2
    assert "exists: models may depend on it" in capsys.readouterr().err
    assert (tmp_path / "a.model").read_text() == "mine"
