"""`python -m slm.corpus stats`: its numbers are those of a count by hand."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from math import log2
from xml.etree import ElementTree

import numpy as np
import pytest

from slm.corpus.tools import statistics
from slm.corpus.tools.finished import FinishedCorpus
from slm.corpus.tools.statistics import count_corpus, histogram
from slm.types import Codes
from slm.units import deduplicate
from tests.corpus.audio import good_folder
from tests.corpus.tools import run, shards, tokenize
from tests.fakes import ArithmeticTokenizer, markov_codes, write_corpus


def corpus_of(folder, *clips, sizes=None):
    """Each clip a list of codes of one codebook, or of frames of several."""
    arrays = [np.array(clip, np.uint16).reshape(len(clip), -1) for clip in clips]
    spec = ArithmeticTokenizer(arrays[0].shape[1], codebook_size=4).spec
    return write_corpus(folder, [Codes(f"c{i}", a, 160 * len(a), spec) for i, a in enumerate(arrays)])


def told(capsys, *args):
    assert run("stats", *args, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_by_hand(tmp_path, capsys):
    """Codes 0 1 1 3 | 1 1: counts 1 4 0 1, so H = -(1/6 log 1/6 + 4/6 log 4/6 + 1/6 log 1/6); 50 frames a second."""
    found = told(capsys, corpus_of(tmp_path / "c", [0, 1, 1, 3], [1, 1]))
    entropy = -(2 / 6 * log2(1 / 6) + 4 / 6 * log2(4 / 6))
    (codebook,) = found["codebooks"]
    assert codebook.pop("entropy_bits") == pytest.approx(entropy)
    assert codebook.pop("perplexity") == pytest.approx(2**entropy)
    assert codebook == {
        "size": 4,
        "used": 3,
        "order1_bits": None,
        "most_frequent": 1,
        "most_frequent_share": pytest.approx(4 / 6),
    }
    assert (found["clips"], found["frames"]) == (2, 6)
    assert found["hours"] == pytest.approx(0.12 / 3600)
    assert found["frames_per_s"] == pytest.approx(50)
    assert found["units_per_s"] == pytest.approx(4 / 0.12)  # 0 1 3 | 1
    assert found["nominal_bits_per_s"] == 50 * 2
    assert found["entropy_bits_per_s"] == pytest.approx(50 * entropy)
    assert found["order1_bits_per_s"] is None
    assert found["length_s"] == pytest.approx({"min": 0.04, "median": 0.06, "mean": 0.06, "max": 0.08})
    bits = sum(8 * path.stat().st_size for path in shards(tmp_path / "c"))
    assert found["disk_bits_per_s"] == pytest.approx(bits / 0.12)


def test_order_1_of_a_known_source(tmp_path, capsys):
    """0 1 0 1 .. leaves nothing to tell; a code that is followed by either of two costs one bit."""
    found = told(capsys, corpus_of(tmp_path / "sure", [0, 1] * 100))
    assert found["codebooks"][0]["order1_bits"] == 0
    assert found["codebooks"][0]["entropy_bits"] == pytest.approx(1)
    found = told(capsys, corpus_of(tmp_path / "even", [0, 0, 1, 1] * 50 + [0]))
    assert found["codebooks"][0]["order1_bits"] == pytest.approx(1)
    assert found["order1_bits_per_s"] == pytest.approx(50)


@pytest.mark.parametrize("block", [1, 2, 7, 1 << 18])
def test_blocks_and_shards_make_no_difference(tmp_path, monkeypatch, block):
    """Against loops over the clips, through many small blocks."""
    monkeypatch.setattr(statistics, "_BLOCK_FRAMES", block)
    monkeypatch.setattr(statistics, "_PAIRS_PER_CELL", 0)
    clips = markov_codes(ArithmeticTokenizer(2, 16), 30)
    clips.insert(3, Codes("none", clips[0].codes[:0], 100, clips[0].spec))
    clips.append(Codes("last", clips[0].codes[:0], 100, clips[0].spec))
    found = count_corpus(FinishedCorpus(write_corpus(tmp_path / "c", clips)))
    for k, codebook in enumerate(found.codebooks):
        rows = [clip.codes[:, k].tolist() for clip in clips]
        counts = Counter(code for row in rows for code in row)
        pairs = Counter(pair for row in rows for pair in pairwise(row))
        firsts = Counter(first for row in rows for first in row[:-1])
        expected = -sum(n * log2(n / firsts[a]) for (a, _), n in pairs.items()) / sum(pairs.values())
        assert codebook.counts.tolist() == [counts[c] for c in range(16)]
        assert codebook.order1_bits == pytest.approx(expected)
    one = [Codes(clip.id, clip.codes[:, :1], clip.num_samples, ArithmeticTokenizer(1, 16).spec) for clip in clips]
    found = count_corpus(FinishedCorpus(write_corpus(tmp_path / "one", one)))
    assert found.num_units == sum(len(deduplicate(clip.codes)[0]) for clip in one)


def test_the_same_as_the_summary_of_the_run(tmp_path, capsys):
    audio = good_folder(tmp_path / "audio")
    tokenize(audio, tmp_path / "out")
    found = told(capsys, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert len(shards(tmp_path / "out")) > 2
    assert found["units_per_s"] is None
    assert f"| bitrate, entropy | {found['entropy_bits_per_s']:.1f} bit/s |" in card
    for k, codebook in enumerate(found["codebooks"]):
        assert f"| {k} | 16 | {codebook['used']} |" in card
        assert f"| {codebook['entropy_bits']:.3f} | {codebook['perplexity']:.1f} |" in card


def test_pairs_are_not_counted_where_that_takes_too_much_memory(tmp_path, capsys, monkeypatch):
    folder = corpus_of(tmp_path / "c", [0, 1] * 100)
    monkeypatch.setattr(statistics, "_PAIR_CELLS", 15)
    assert told(capsys, folder)["order1_bits_per_s"] is None


@pytest.mark.parametrize(
    ("durations", "expected"),
    [
        ([0.5, 1.5, 1.7, 15.9], {(0, 1): 1, (1, 2): 2, (15, 16): 1}),
        ([0.25] * 3, {(0.24, 0.26): 3, (0.26, None): 0}),
        ([1.0] * 990 + [5000.0] * 10, {(0.9, 1.0): 0, (1.0, 1.1): 990, (1.1, None): 10}),
        ([10.0] * 1000 + [5000.0] * 9, {(10, 11): 1000, (11, None): 9}),
    ],
)
def test_lengths_in_bins(durations, expected):
    bins = histogram(np.array(durations, np.float32))
    assert sum(bin.count for bin in bins) == len(durations)
    assert len(bins) <= 18
    found = {(bin.start_s, bin.stop_s): bin.count for bin in bins}
    assert {key: found.get(key, 0) for key in expected} == expected
    assert all(a.stop_s == b.start_s for a, b in pairwise(bins))


def test_text_and_page(tmp_path, capsys):
    folder = corpus_of(tmp_path / "<c>", [0, 1] * 100, [3, 1, 3], [3, 1, 3])
    assert run("stats", folder, "--plot", tmp_path / "page.html") == 0
    text = capsys.readouterr().out
    assert "clips       3\n" in text
    assert "frames/s    50 nominal, 50.00 in these clips" in text
    assert re.search(r"\n +0 - 0\.5 +#{40} 2\n(.* 0\n)+ +4 - 4\.5 +#{20} +1$", text)
    entropy = -sum(n / 206 * log2(n / 206) for n in (102, 100, 4))
    assert "\nunits/s     50.00, runs of equal codes counted once\nbits/s      100.0 nominal" in text
    assert f"\n            {50 * entropy:.1f} by entropy of the codes (order 0)\n" in text
    order1 = -(99 * log2(99 / 101) + 2 * log2(2 / 101)) / 203  # 101 pairs begin with 1, of which two go on to 3
    assert re.search(rf"\n +0 +4 +3 +75\.0% .* {order1:.3f}  1 \(49\.5%\)\n", text)
    assert f"\n            {50 * order1:.1f} by entropy given the code before (order 1)\n" in text
    page = (tmp_path / "page.html").read_text()
    assert "<h1>" in page
    assert "<c>" not in page  # a name is text
    assert "http" not in page  # nothing to fetch
    drawings = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.S)]
    lengths, entropies, ranks = drawings
    bins = histogram(np.array([4.0, 0.06, 0.06], np.float32))
    bars = [{key: float(bar.get(key)) for key in ("x", "y", "width", "height")} for bar in lengths.findall("rect")]
    assert [bar["height"] for bar in bars] == pytest.approx([101 * bin.count for bin in bins])
    assert [bar["y"] + bar["height"] for bar in bars] == pytest.approx([206] * len(bins))  # above the numbers
    assert [bar["x"] for bar in bars] == pytest.approx(np.linspace(bars[0]["x"], bars[-1]["x"], len(bars)), abs=0.1)
    rest, bar = (float(rect.get("width")) for rect in entropies.findall("rect"))
    assert bar / rest == pytest.approx(entropy / 2, abs=1e-3)  # of four codes
    mark = re.match(r"M([\d.]+) ", entropies.find("path").get("d"))
    assert float(mark[1]) - float(entropies.find("rect").get("x")) == pytest.approx(rest * order1 / 2, abs=0.1)
    assert entropies.findall("text")[-1].text == f"{entropy:.2f}"
    decades = [[t for t in ranks.findall("text") if t.get("text-anchor") == anchor] for anchor in ("middle", "end")]
    across, down = ([(float(t.get(at)), np.log10(float(t.text))) for t in some]
                    for some, at in zip(decades, ("x", "y"), strict=True))  # fmt: skip
    (curve,) = ranks.findall("path")
    points = np.array(re.findall(r"([\d.]+) ([\d.]+)", curve.get("d")), float)
    read = [10 ** np.polyval(np.polyfit(*zip(*axis, strict=True), 1), points[:, i] + 4 * i)
            for i, axis in enumerate((across, down))]  # fmt: skip
    assert read[0] == pytest.approx([1, 2, 3], rel=0.01)
    assert read[1] == pytest.approx(np.array([102, 100, 4]) / 206, rel=0.01)
    assert max(at for at, _ in down) == 206 + 4  # the lowest line is the floor
    assert run("stats", folder, "--plot", tmp_path / "again.html") == 0
    assert (tmp_path / "again.html").read_text() == page


def test_wrong_use(tmp_path, capsys):
    folder = corpus_of(tmp_path / "c", [0, 1])
    (tmp_path / "taken.html").mkdir()
    for args, what in [
        ((folder, "--plot", "x.png"), "a name that ends in .html"),
        ((folder, "--plot", tmp_path / "taken.html"), "taken.html is a folder"),
        ((folder, "--plot", folder / "state.json/x.html"), "state.json is a file"),
        ((tmp_path,), "not a tokenized corpus"),
        ((folder, "--jsn"), "unknown option 'jsn'; did you mean 'json'?"),
        ((), "corpus"),
        ((folder, folder), "unrecognized arguments"),
    ]:
        assert run("stats", *args) == 2
        assert what in capsys.readouterr().err
    (folder / "state.json").unlink()
    assert run("stats", folder) == 2
    assert "is unfinished" in capsys.readouterr().err


def test_codes_beyond_the_codebook_are_said(tmp_path, capsys):
    folder = corpus_of(tmp_path / "c", [0, 9])
    assert run("stats", folder) == 2
    assert "codes beyond its codebooks: check" in capsys.readouterr().err
