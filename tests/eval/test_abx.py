"""ABX against a slow reading of libri-light's definition, one triple and one frame at a time."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from eval.abx.__main__ import AbxConfig
from eval.abx.__main__ import main as judge_tokenizer
from eval.abx.distance import Embedded, OneHot, Padded, align, segment_distances
from eval.abx.fast import fastabx_errors, fastabx_version
from eval.abx.items import Item, Segment, cut, read_items
from eval.abx.score import Limits, make_cells, phone_errors
from eval.benchmarks.abx import ABX, error_score, representations
from eval.benchmarks.base import Setup
from eval.run import main
from slm.errors import UsageError
from slm.tokenizers._kmeans import Centroids
from tests.eval.material import config, scores, write_level

HEADER = "#file onset offset #phone prev-phone next-phone speaker"
ALL = Limits(group=10**6, speakers=10**6)
UNITS = OneHot((4,))


def slow_angle(a: np.ndarray, b: np.ndarray) -> np.float32:
    return np.float32(0 if (a == b).all() else math.acos(min(1.0, max(-1.0, float(a @ b)))) / math.pi)


def slow_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Frames `[T, D]` that are no unit vectors yet; the path is found from its end."""
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
    costs = [[slow_angle(a, b) for b in y] for a in x]
    total = np.zeros((len(x), len(y)), np.float32)
    for i in range(len(x)):
        for j in range(len(y)):
            before = [total[p, q] for p, q in ((i - 1, j), (i - 1, j - 1), (i, j - 1)) if p >= 0 and q >= 0]
            total[i, j] = costs[i][j] + (min(before) if before else np.float32(0))
    i, j, steps = len(x) - 1, len(y) - 1, 1
    while i > 0 and j > 0:
        if total[i - 1, j - 1] <= total[i, j - 1] and total[i - 1, j - 1] <= total[i - 1, j]:
            i, j = i - 1, j - 1
        elif total[i, j - 1] <= total[i - 1, j]:
            j -= 1
        else:
            i -= 1
        steps += 1
    return float(total[-1, -1] / np.float32(steps + i + j))


def slow_abx(segments: list[tuple[Item, np.ndarray]], speaker: str) -> float:
    """Every triple of the corpus, then means over contexts (and speakers of X), speakers, and pairs of phones."""
    right: dict[tuple, list[float]] = defaultdict(list)
    for n, (a, frames_a) in enumerate(segments):
        for m, (x, frames_x) in enumerate(segments):
            same = (a.phone, a.context) == (x.phone, x.context) and n != m
            if not same or (a.speaker == x.speaker) != (speaker == "within"):
                continue
            # Which of two segments of one phone and speaker is X must not matter: the earlier one gives the rows.
            first, second = (frames_x, frames_a) if speaker == "across" or m < n else (frames_a, frames_x)
            to_a = slow_distance(first, second)
            for b, frames_b in segments:
                if b.context == a.context and b.speaker == a.speaker and b.phone != a.phone:
                    to_b = slow_distance(frames_x, frames_b)
                    key = (a.phone, b.phone, a.speaker, a.context, x.speaker)
                    right[key].append(1.0 if to_a < to_b else 0.5 if to_a == to_b else 0.0)
    cells: dict[tuple, list[float]] = defaultdict(list)
    for (p, q, s, *_), values in right.items():
        cells[p, q, s].append(1 - float(np.mean(values)))
    phones: dict[tuple, list[float]] = defaultdict(list)
    for (p, q, _), values in cells.items():
        phones[p, q].append(float(np.mean(values)))
    return float(np.mean([np.mean(v) for v in phones.values()]))


def corpus(seed: int, count: int = 60) -> list[Segment]:
    """Items whose units tell their phone a little, of unequal numbers in each group, with ties."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        phone, context, speaker = rng.integers(3), ("a", "b")[rng.integers(2)], f"s{rng.integers(3)}"
        item = Item(i, "f", 0.0, 1.0, f"p{phone}", (context, "z"), speaker)
        units = np.where(rng.random((rng.integers(1, 6), 1)) < 0.5, phone, rng.integers(0, 4, (1, 1)))
        made.append(Segment(item, units.astype(np.int64)))
    return made


@pytest.mark.parametrize("speaker", ["within", "across"])
@pytest.mark.parametrize("seed", range(3))
def test_codes_are_judged_as_one_hot_vectors_are_by_the_definition(seed, speaker):
    segments = corpus(seed)
    found = phone_errors(segments, speaker, UNITS, ALL)
    expected = slow_abx([(s.item, np.eye(4, dtype=np.float32)[s.codes[:, 0]]) for s in segments], speaker)
    assert np.mean(list(found.values())) == pytest.approx(expected, abs=1e-12)
    assert 0.05 < expected < 0.5


@pytest.mark.parametrize("speaker", ["within", "across"])
def test_codes_with_vectors_are_judged_by_the_definition(speaker):
    table, segments = np.random.default_rng(3).normal(size=(4, 5)), corpus(3)
    found = phone_errors(segments, speaker, Embedded([table]), ALL)
    expected = slow_abx([(s.item, table[s.codes[:, 0]]) for s in segments], speaker)
    assert np.mean(list(found.values())) == pytest.approx(expected, abs=1e-12)
    one_hot = phone_errors(segments, speaker, UNITS, ALL)
    assert np.mean(list(found.values())) != pytest.approx(np.mean(list(one_hot.values())))


TABLES = [np.random.default_rng(k).normal(size=(v, 4)) for k, v in enumerate((3, 5, 2))]
OF_THREE = [
    (OneHot((3, 5, 2)), [np.eye(v) for v in (3, 5, 2)]),
    (Embedded(TABLES), TABLES),
    (Embedded([table / 100 for table in TABLES]), TABLES),
]


@pytest.mark.parametrize(("units", "tables"), OF_THREE)
def test_distances_are_the_angles_between_the_vectors(units, tables):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, (3, 5, 2), (2, 4, 3)), rng.integers(0, (3, 5, 2), (2, 5, 3))
    vectors = [np.concatenate([t[z[..., k]] for k, t in enumerate(tables)], axis=-1) for z in (x, y)]
    a, b = (v / np.linalg.norm(v, axis=2, keepdims=True) for v in vectors)
    expected = np.arccos(np.clip(np.einsum("nsd,ntd->nst", a, b), -1, 1)) / np.pi
    found = units.between(x[:, :, None], y[:, None])
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-6
    assert units.between(x, x).tolist() == [[0] * 4] * 2
    on_device = units.moved(torch.from_numpy).between(torch.from_numpy(x)[:, :, None], torch.from_numpy(y)[:, None])
    assert on_device.dtype == torch.float32
    assert np.array_equal(on_device.numpy(), found)


def test_a_vector_of_zeros_is_far_from_all_but_itself():
    units = Embedded([np.array([[0.0, 0.0], [1.0, 2.0], [-3.0, 1.0]])])
    codes = np.arange(3)[None, :, None]
    assert units.between(codes[:, :, None], codes[:, None])[0, 0].tolist() == [0.0, 1.0, 1.0]


def test_alignment_by_hand():
    """Costs [[0, 1, 1], [1, 0, 1]]: the path 0,0 - 1,1 - 1,2 costs 1 in 3 steps, as does 0,0 - 1,1 and none shorter."""
    costs = np.array([[[0, 1, 1], [1, 0, 1]]], np.float32)
    assert align(costs, np.array([[2, 3]])).tolist() == [np.float32(1) / np.float32(3)]
    assert align(costs, np.array([[2, 2]])).tolist() == [0.0]
    assert align(costs, np.array([[1, 3]])).tolist() == [np.float32(2) / np.float32(3)]


def test_distances_do_not_depend_on_what_they_are_computed_with(monkeypatch):
    segments = Padded.of([s.codes for s in corpus(5, 20)])
    pairs = np.array([(x, y) for x in range(20) for y in range(20)])
    together = segment_distances(segments, pairs, UNITS)
    monkeypatch.setattr("eval.abx.distance.BATCH_CELLS", 7)
    assert np.array_equal(segment_distances(segments, pairs, UNITS), together)
    assert np.array_equal(together[::-1], segment_distances(segments, pairs[::-1], UNITS))


@pytest.mark.parametrize("speaker", ["within", "across"])
def test_errors_do_not_depend_on_how_many_distances_are_held(monkeypatch, speaker, capsys):
    """And where it is long, one is told how far it is."""
    segments = corpus(5, 20)
    together = phone_errors(segments, speaker, UNITS, ALL)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("eval.abx.score.HELD_DISTANCES", 9)
    monkeypatch.setattr("eval.progress.QUIET_S", 0)
    assert phone_errors(segments, speaker, UNITS, ALL) == together != {}
    cells = len(make_cells(segments, speaker, ALL))
    assert f" of {cells} cells, " in capsys.readouterr().err


def test_an_oracle_makes_no_error_and_a_constant_errs_half_the_time():
    segments = corpus(1)
    for codes, expected in ((lambda s: [[int(s.item.phone[1])]] * 3, 0.0), (lambda s: [[0]] * 3, 0.5)):
        judged = [Segment(s.item, np.array(codes(s))) for s in segments]
        for speaker in ("within", "across"):
            assert set(phone_errors(judged, speaker, UNITS, ALL).values()) == {expected}


def test_large_groups_are_drawn_from_by_the_seed():
    segments = corpus(2, 200)
    limits = Limits(group=3, speakers=1)
    cells = make_cells(segments, "across", limits)
    groups = [group for cell in cells for group in (cell.a, cell.b, cell.x)]
    assert max(map(len, groups)) == 3
    assert all(list(group) == sorted({*group}) for group in groups)
    assert len({(c.speaker, c.phones[0], segments[c.a[0]].item.context) for c in cells}) * 2 == len(cells)
    assert cells == make_cells(segments, "across", limits)
    assert cells != make_cells(segments, "across", Limits(3, 1, seed=1))


def test_the_frames_of_an_item_are_libri_lights():
    """Frame i stands for the time (i + 1/2) / rate; of 0.1 to 0.3 s at 50 Hz those are 5 to 14, and the last is not
    taken. An item shorter than two frames has none."""
    frames = {"f": np.arange(20)[:, None]}
    items = [Item(2, "f", 0.1, 0.3, "p", ("a", "b"), "s"), Item(3, "f", 0.1, 0.12, "p", ("a", "b"), "s"),
             Item(4, "f", 0.3, 9.0, "p", ("a", "b"), "s"), Item(5, "g", 0.1, 0.3, "p", ("a", "b"), "s"),
             Item(6, "f", 3.0, 4.0, "p", ("a", "b"), "s")]  # fmt: skip
    segments, left_out = cut(items, frames, 50.0)
    assert [s.codes[:, 0].tolist() for s in segments] == [list(range(5, 14)), list(range(15, 20))]
    assert [(left.item, left.reason) for left in left_out] == [
        ("line 3: f 0.1-0.12 s", "no frame at 50 Hz"), ("line 5: g 0.1-0.3 s", "its recording was not tokenized"),
        ("line 6: f 3-4 s", "no frame at 50 Hz"),
    ]  # fmt: skip
    for onset, offset in np.sort(np.random.default_rng(0).uniform(0, 0.4, (50, 2))).tolist():
        segments, _ = cut([Item(2, "f", onset, offset, "p", ("a", "b"), "s")], frames, 50.0)
        within = [i for i in range(20) if onset <= (i + 0.5) / 50 <= offset][:-1]
        assert [s.codes[:, 0].tolist() for s in segments] == [within] * bool(within)


def write_corpus(root: Path, phones: int = 2) -> None:
    """Two speakers say each phone twice between the same neighbours, each as a level of its own; half a second each."""
    lines = [HEADER]
    for s in range(2):
        for n in range(2):
            for p in range(phones):
                name = f"s{s}-{n}-{p}"
                write_level(root / f"dev-clean/{name}.wav", 0.1 + 0.2 * p, 0.5)
                lines.append(f"{name} 0.1 0.4 P{p} A B s{s}")
    (root / "triphone-dev-clean.item").write_text("\n".join(lines) + "\n")


def test_it_runs_from_end_to_end(tmp_path, lm):
    write_corpus(tmp_path / "data/abx")
    item = tmp_path / "data/abx/triphone-dev-clean.item"
    item.write_text(item.read_text() + "s0-0-0 0.1 0.11 P0 A B s0\ngone 0.1 0.4 P0 A B s0\n")
    main(config(tmp_path / "data", benchmarks="abx"))
    result = json.loads((tmp_path / "out/results.json").read_text())["results"][0]
    found = scores(tmp_path / "out", "abx", metric="abx_error")
    assert {name: (s["value"], s["count"]) for (name, _), s in found.items()} == {
        "triphone-dev-clean within": (0.0, 1), "triphone-dev-clean across": (0.0, 1),
    }  # fmt: skip
    engine = fastabx_version()
    assert {c for _, c in found} == {f"one-hot, fastabx {engine}" if engine else "one-hot, libri-light"}
    assert result["counts"] == {"files": 9, "files_scored": 8, "items": 10, "items_scored": 8}
    assert [left["item"] for left in result["left_out"]] == [
        "gone", "triphone-dev-clean, line 10: s0-0-0 0.1-0.11 s", "triphone-dev-clean, line 11: gone 0.1-0.4 s",
    ]  # fmt: skip
    assert "abx error" in (tmp_path / "out/results.md").read_text()


def test_both_orders_of_two_phones_are_one_observation():
    """The value is the mean over ordered pairs, of which `a`, `c` has one only. The interval is that of plainly
    resampled unordered pairs; with the orders apart it would be narrower."""
    rng = np.random.default_rng(0)
    errors = {}
    for p in range(8):
        for q in range(p):
            errors[f"p{p}", f"p{q}"] = errors[f"p{q}", f"p{p}"] = float(rng.random())
    errors |= {("a", "c"): 0.25}
    score = error_score("x", errors, "one-hot", 4000, 0)
    assert score.value == pytest.approx(np.mean(list(errors.values())))
    assert score.count == 8 * 7 // 2 + 1
    units = [(2 * e, 2) for (p, q), e in errors.items() if p < q and p != "a"] + [(0.25, 1)]
    drawn = np.array(units)[rng.integers(0, len(units), (4000, len(units)))].sum(axis=1)
    expected = np.percentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5])
    assert score.interval == pytest.approx(expected, abs=0.015)
    assert score.interval[1] - score.interval[0] > 0.15
    of_one = error_score("x", {("a", "b"): 0.0, ("b", "a"): 0.0}, "one-hot", 100, 0)
    assert (of_one.count, of_one.interval) == (1, (0.0, pytest.approx(0.975)))  # Clopper and Pearson of 0 of 1


def test_a_tokenizer_is_judged_without_a_language_model(tmp_path, lm, monkeypatch, capsys):
    write_corpus(tmp_path / "data")
    monkeypatch.setattr("slm.tokenizers.load_tokenizer", lambda name, device: lm.tokenizer)
    judge_tokenizer(AbxConfig("arithmetic", str(tmp_path / "data"), str(tmp_path / "alone"), device="cpu"))
    main(config(tmp_path / "data", benchmarks="abx"))
    alone = json.loads((tmp_path / "alone/abx-dev.json").read_text())
    assert alone["tokenizer"]["fingerprint"] == lm.spec.fingerprint
    found = {s["item"]: s["value"] for s in alone["results"][0]["scores"]["model"]}
    of_model = json.loads((tmp_path / "out/results.json").read_text())["results"][0]["scores"]["model"]
    assert found == {s["item"]: s["value"] for s in of_model}
    assert len(found) == 2
    assert "abx error, triphone-dev-clean within" in capsys.readouterr().out


def test_centroids_are_compared_by_their_features_after_one_hot_vectors(tmp_path, lm, monkeypatch):
    """Of phones that one speaker says nothing is compared across speakers."""
    write_corpus(tmp_path / "data")
    lines = (tmp_path / "data/triphone-dev-clean.item").read_text().splitlines()
    alone = tmp_path / "data/phoneme-dev-clean.item"
    alone.write_text("\n".join(line for line in lines if not line.endswith("s1")))
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(3.0, 2.0, (16, 4)))
    mean, scale = features.mean(dim=0), features.std(dim=0)
    centroids = (Centroids((features - mean) / scale, mean, scale),)
    monkeypatch.setattr(lm.tokenizer, "centroids", centroids, raising=False)
    x, y = np.arange(16)[:, None, None], np.arange(16)[None, :, None]
    expected = Embedded([features.numpy()]).between(x, y)
    np.testing.assert_allclose(representations(lm.tokenizer)["centroids"].between(x, y), expected, atol=1e-6)
    monkeypatch.setattr("slm.tokenizers.load_tokenizer", lambda name, device: lm.tokenizer)
    start = AbxConfig("arithmetic", str(tmp_path / "data"), str(tmp_path / "alone"), device="cpu")
    judge_tokenizer(start)
    (result,) = json.loads((tmp_path / "alone/abx-dev.json").read_text())["results"]
    assert [(s["convention"].split(",")[0], s["item"]) for s in result["scores"]["model"]] == [
        (kind, f"abx/dev/{item}") for kind in ("one-hot", "centroids")
        for item in ("triphone-dev-clean within", "triphone-dev-clean across", "phoneme-dev-clean within")
    ]  # fmt: skip
    for path in (tmp_path / "data").glob("*.item"):
        path.write_text(lines[1])
    with pytest.raises(UsageError, match="abx: no two items of triphone-dev-clean, phoneme-dev-clean can be compared"):
        judge_tokenizer(start)
    (tmp_path / "data/more").mkdir()
    (tmp_path / "data/more/phoneme-dev-clean.item").write_text(lines[1])
    with pytest.raises(UsageError, match=r"has two files phoneme-dev-clean\.item; keep one of them"):
        judge_tokenizer(start)


def test_fastabx_computes_where_it_is_asked_to(tmp_path, lm, monkeypatch):
    asked = []

    def errors(*given, device):
        asked.append(device)
        return phone_errors(*given)

    write_corpus(tmp_path / "data")
    monkeypatch.setattr("slm.tokenizers.load_tokenizer", lambda name, device: lm.tokenizer)
    monkeypatch.setattr("slm.devices.choose_device", lambda name: f"chosen {name}")
    monkeypatch.setattr("eval.benchmarks.abx.fastabx_version", lambda: "0.9")
    monkeypatch.setattr("eval.benchmarks.abx.fastabx_errors", errors)
    judge_tokenizer(AbxConfig("arithmetic", str(tmp_path / "data"), str(tmp_path / "alone"), device="cuda:1"))
    assert set(asked) == {"chosen cuda:1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEADER}\nf 0.1 0.2 p a b\n", "line 2: 6 columns, not #file"),
        (f"{HEADER}\nf x 0.2 p a b s\n", "line 2: x and 0.2 are no times"),
        (f"{HEADER}\nf 0.1 nan p a b s\n", "line 2: 0.1 and nan are no times"),
        (f"{HEADER}\nf -inf 0.2 p a b s\n", "line 2: -inf and 0.2 are no times"),
        (f"{HEADER}\n\n", "has no items"),
    ],
)
def test_a_bad_item_file_is_refused(tmp_path, text, message):
    (tmp_path / "x.item").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_items(tmp_path / "x.item")


def test_an_item_file_without_a_header_loses_no_item(tmp_path):
    lines = "f 0.1 0.2 p a b s\nf 0.3 0.4 p a b s\n"
    (tmp_path / "with.item").write_text(f"{HEADER}\n{lines}")
    (tmp_path / "without.item").write_text(lines)
    headed, bare = (read_items(tmp_path / f"{name}.item") for name in ("with", "without"))
    assert [i.onset_s for i in bare] == [i.onset_s for i in headed] == [0.1, 0.3]
    assert [i.line for i in bare] == [1, 2]


def test_an_item_file_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "x.item").write_text(f"{HEADER}\r\nf 0.1 0.2 p a b s\r\n", encoding="utf-8-sig", newline="")
    assert [(i.line, i.file, i.offset_s) for i in read_items(tmp_path / "x.item")] == [(2, "f", 0.2)]


def test_an_item_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "x.item").write_bytes(f"{HEADER}\nf 0.1 0.2 \u00e4 a b s\n".encode("latin-1"))
    with pytest.raises(UsageError, match=r"x.item is not UTF-8 text"):
        read_items(tmp_path / "x.item")


def test_missing_data_says_what_to_fetch(tmp_path):
    with pytest.raises(UsageError, match=r"no .item file of dev in .*abx; fetch it with `zrc datasets:pull abxLS"):
        ABX(Setup(tmp_path))
    (tmp_path / "abx").mkdir()
    (tmp_path / "abx/dev-clean.item").write_text(f"{HEADER}\nf 0.1 0.2 p a b s\n")
    with pytest.raises(UsageError, match=r"none of the recordings of dev-clean.item, such as f.wav"):
        ABX(Setup(tmp_path))


def hard_corpus(seed: int, books: int) -> list[Segment]:
    """Segments of 1 to 14 frames of which a third tell the phone, so paths and distances tie; names like numbers."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(200):
        phone, context, speaker = rng.integers(4), str(rng.integers(2)), f"{rng.integers(4)}"
        shape = (rng.integers(1, 15), books)
        codes = np.where(rng.random(shape) < 0.3, phone, rng.integers(0, 6, shape))
        made.append(Segment(Item(i, "f", 0.0, 1.0, f"{phone}", (context, "nan"), speaker), codes.astype(np.int64)))
    return made


@pytest.mark.parametrize("speaker", ["within", "across"])
@pytest.mark.parametrize("books", [1, 3])
@pytest.mark.parametrize("kind", ["one-hot", "embedded"])
def test_fastabx_finds_the_same(speaker, books, kind):
    pytest.importorskip("fastabx")
    tables = [np.random.default_rng(k).normal(size=(6, 4)) for k in range(books)]
    units = OneHot((6,) * books) if kind == "one-hot" else Embedded(tables)
    for seed in range(3):
        segments = hard_corpus(seed, books)
        for limits in (ALL, Limits(group=4, speakers=2)):
            expected = phone_errors(segments, speaker, units, limits)
            assert len(expected) == 12
            assert fastabx_errors(segments, speaker, units, limits) == pytest.approx(expected, abs=1e-6)
        assert fastabx_errors(segments[:1], speaker, units, ALL) == {}
