"""Benchmarks as zips and tars: what is in them, and what is refused."""

from __future__ import annotations

import gzip
import io
import json
import platform
import shutil
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from eval.benchmarks._archives import unpacked
from eval.benchmarks.base import Setup
from eval.benchmarks.salmon import Salmon
from eval.benchmarks.storycloze import SSC, TSC
from eval.benchmarks.swuggy import SWuggy
from eval.run import main
from slm.audio import find_audio
from slm.errors import UsageError
from tests.contracts import benchmark_law
from tests.eval.material import RIGHT, WRONG, config, scores, write_gold, write_level

SPEECH = Path(__file__).parents[1] / "data/speech/en"
HEADER = ("filename", "id", "voice", "word", "correct")


def write_zip(path: Path, folder: Path) -> Path:
    """Of all below `folder`, with what some systems put beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("__MACOSX/sSC/._0_a_correct.wav", b"no audio")
        for file in sorted(folder.rglob("*.*")):
            packed.write(file, file.relative_to(folder))
    return path


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def stories(folder: Path) -> None:
    for i, story in enumerate(("a", "b", "c")):
        for side, word in enumerate(("correct", "incorrect")):
            write_level(folder / f"{2 * i + side}_{story}_{word}.wav", (RIGHT, WRONG)[side])


@pytest.mark.parametrize("inside", ["sSC", ".", "data/stories"])
def test_zipped_stories_are_those_of_the_folder(tmp_path, inside):
    stories(tmp_path / "made" / inside)
    stories(tmp_path / "plain/sSC")
    write_zip(tmp_path / "data/sSC.zip", tmp_path / "made")
    zipped, plain = SSC(Setup(tmp_path / "data", cache=tmp_path / "cache")), SSC(Setup(tmp_path / "plain"))
    benchmark_law(zipped)
    assert zipped.all_pairs == plain.all_pairs
    assert {n: p.read_bytes() for n, p in zipped.files.items()} == {n: p.read_bytes() for n, p in plain.files.items()}
    written = {p: p.stat().st_mtime_ns for p in zipped.files.values()}
    again = SSC(Setup(tmp_path / "data", cache=tmp_path / "cache"))
    assert {p: p.stat().st_mtime_ns for p in again.files.values()} == written
    with pytest.raises(UsageError, match="no tSC: put its zip, or its wavs"):
        TSC(Setup(tmp_path / "data", cache=tmp_path / "cache"))


def test_a_zip_is_scored_from_end_to_end(tmp_path, lm):
    stories(tmp_path / "made/sSC")
    write_zip(tmp_path / "data/ssc.ZIP", tmp_path / "made")
    main(config(tmp_path / "data", benchmarks="ssc"))
    assert scores(tmp_path / "out", "ssc")["all", "mean"]["value"] == 1.0


def test_a_zip_whose_folders_are_parted_by_backslashes(tmp_path):
    """As old versions of .NET make them."""
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as packed:
        for name in ("set\\a\\x.wav", "set\\b\\x.wav", "set\\c\\"):
            entry = zipfile.ZipInfo(name)
            entry.create_system = 0
            packed.writestr(entry, name)
    root = unpacked([tmp_path / "set.zip"], tmp_path / "cache")
    assert {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()} == {"set/a/x.wav", "set/b/x.wav"}
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as packed:
        entry = zipfile.ZipInfo("..\\..\\x.wav")
        entry.create_system = 0
        packed.writestr(entry, b"")
    with pytest.raises(UsageError, match="outside of its folder"):
        unpacked([tmp_path / "evil.zip"], tmp_path / "cache")


@pytest.mark.parametrize("names", [["x" * 300 + ".wav"], ["d/" * 3000 + "a.wav"], ["a.wav", "a.wav/b.wav"]])
def test_names_that_no_disk_can_hold_are_one_line(tmp_path, names):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as packed:
        for name in names:
            packed.writestr(name, b"")
    with pytest.raises(UsageError, match=r"set.zip cannot be unpacked \(File (name too long|exists): .*\): rename it"):
        unpacked([tmp_path / "set.zip"], tmp_path / "cache")
    assert [file for file in (tmp_path / "cache").rglob("*") if file.is_file()] == []


def test_parts_of_salmon_in_a_zip(tmp_path):
    for part in ("bg_alignment", "rir_consistency"):
        for side in (0, 1):
            write_level(tmp_path / f"made/salmon_benchmark/{part}/sample_0_{side}.wav", RIGHT)
    write_zip(tmp_path / "data/salmon_benchmark.zip", tmp_path / "made")
    found = Salmon(Setup(tmp_path / "data", cache=tmp_path / "cache"))
    assert sorted(p.group for p in found.all_pairs) == ["bg_alignment/0", "rir_consistency/0"]


def test_what_would_be_written_elsewhere_or_is_broken_is_refused(tmp_path):
    bad = write_tar(tmp_path / "bad.tar", {"../x.wav": b"x"})
    with pytest.raises(UsageError, match=r"holds ../x.wav, which would be written outside"):
        unpacked([bad], tmp_path / "cache")
    half = write_tar(tmp_path / "half.tar", {f"{i}.wav": b"x" * 2000 for i in range(20)})
    whole = half.read_bytes()
    for size in (0, 300, 2560, 3000, 4000):  # the second member begins at 2560
        half.write_bytes(whole[:size])
        with pytest.raises(UsageError, match=r"half.tar cannot be unpacked \(.*\); fetch it again"):
            unpacked([half], tmp_path / "cache")
    mixed = tmp_path / "mixed.tar.gz"
    mixed.write_bytes(gzip.compress(whole[:12_000]) + b"no more of it" + gzip.compress(whole[12_000:]))
    with pytest.raises(UsageError, match=r"mixed.tar.gz cannot be unpacked \(Not a gzipped file .*\); fetch it again"):
        unpacked([mixed], tmp_path / "cache")
    stories(tmp_path / "made")
    cut = write_zip(tmp_path / "cut.zip", tmp_path / "made")
    cut.write_bytes(cut.read_bytes()[:-100])
    with pytest.raises(UsageError, match=r"cut.zip cannot be unpacked"):
        unpacked([cut], tmp_path / "cache")
    twice = [write_tar(tmp_path / f"{n}.tar", {"a.wav": b"x"}) for n in "ab"]
    with pytest.raises(UsageError, match=r"b.tar: a.wav stands in it, or in another of its set, already"):
        unpacked(twice, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.wav"))
    assert not (tmp_path / "x.wav").exists()


def test_what_the_disk_has_no_room_for_is_not_begun(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in ("a.wav", "b.wav", "unwanted.bin"):
            packed.writestr(name, bytes(10**6))
    large = write_tar(tmp_path / "b.tar", {"a.wav": b"x", "b.wav": bytes(10**6)})
    total, free = 10**9, 1_999_999
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(total=total, free=free))
    with pytest.raises(UsageError, match=r"a.zip would unpack to 0.0 GB or more, and the disk of .*cache has .* free"):
        unpacked([tmp_path / "a.zip"], tmp_path / "cache")
    unpacked([large], tmp_path / "cache")
    free = 2_000_000
    unpacked([tmp_path / "a.zip"], tmp_path / "cache")
    free = 999_999
    with pytest.raises(UsageError, match=r"b.tar would unpack to"):
        unpacked([large], tmp_path / "other")
    assert not list((tmp_path / "other").rglob("*.wav"))
    total, free = 0, 0  # a disk that does not tell
    unpacked([large], tmp_path / "other")


def test_an_archive_that_changes_is_unpacked_anew(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a.wav": b"one", "note.json": b"{}"})
    first = unpacked([path], tmp_path / "cache")
    assert [p.name for p in first.rglob("*.*")] == ["a.wav"]
    write_tar(path, {"a.wav": b"three"})
    assert (unpacked([path], tmp_path / "cache") / "a.wav").read_bytes() == b"three"


def write_tars(root: Path, frequency: bool = False) -> Path:
    """Two splits of real speech beside one gold.csv: of the first, in two tars, three words in two voices, one of whose
    recordings is lost; of the second one word."""
    recordings = [p.read_bytes() for p in sorted(SPEECH.glob("*.opus"))[:14]]
    rows, tars = [], {"testset_1-000000": {}, "testset_1-000001": {}, "testset_16-000000": {}}
    for i in range(4):
        for voice in "ab"[: 2 if i < 3 else 1]:
            for correct in (1, 0):
                name = f"{i}{voice}{correct}"
                rows.append((name, i, voice, f"w{i}", correct))
                if name != "2b0":
                    tar = "testset_16-000000" if i == 3 else f"testset_1-00000{i % 2}"
                    tars[tar] |= {f"{name}.ogg": recordings[len(rows) - 1], f"{name}.json": b"{}"}
    header = (*HEADER, "frequency") if frequency else HEADER
    write_gold(root / "inftrain/en", header, [(*r, 10 * r[1]) for r in rows] if frequency else rows)
    for name, files in tars.items():
        write_tar(root / f"inftrain/en/audio/{name}.tar", files)
    return root


def test_what_a_killed_process_left_half_unpacked_is_cleared(tmp_path):
    with zipfile.ZipFile(tmp_path / "a[1].zip", "w") as packed:
        packed.writestr("x.txt", "whole")
    folder = unpacked([tmp_path / "a[1].zip"], tmp_path / "cache").parent
    shutil.rmtree(folder)
    theirs = tmp_path / "cache" / f".{folder.name}.tmp-{platform.node()}-1"
    other = tmp_path / "cache" / f".other.tmp-{platform.node()}-1"
    for left in (theirs, other):
        left.mkdir()
    unpacked([tmp_path / "a[1].zip"], tmp_path / "cache")
    assert not theirs.exists()
    assert other.exists()


def test_gold_beside_tars_is_read_by_split(tmp_path):
    write_tars(tmp_path / "sWuggy")
    first = SWuggy(Setup(tmp_path, "testset_1", cache=tmp_path / "cache"))
    benchmark_law(first)
    assert sorted((p.positive, p.negative, p.group) for p in first.all_pairs) == [
        (f"{i}{v}1", f"{i}{v}0", str(i)) for i in range(3) for v in "ab"
    ]
    assert {n for n, p in first.files.items() if not p.is_file()} == {"2b0"}
    assert [s.name for s in first.subsets(first.all_pairs)] == ["all"]
    second = SWuggy(Setup(tmp_path / "sWuggy/inftrain/en", "16", cache=tmp_path / "cache"))
    assert (second.split, [p.group for p in second.all_pairs]) == ("testset_16", ["3"])
    assert not any("testset_16" in str(p) for p in first.files.values())  # no other split was unpacked for it


def test_real_speech_in_tars_is_scored_from_end_to_end(tmp_path, lm):
    write_tars(tmp_path / "data/sWuggy", frequency=True)
    main(config(tmp_path / "data", benchmarks="swuggy", split="testset_1"))
    result = json.loads((tmp_path / "out/results.json").read_text())["results"][0]
    assert (result["split"], result["counts"]["pairs"], result["counts"]["pairs_scored"]) == ("testset_1", 6, 5)
    assert [left["item"] for left in result["left_out"]] == ["2b0"]
    found = scores(tmp_path / "out", "swuggy")
    assert found["all", "mean"]["count"] == 3  # the word that lost a voice has another
    assert found["out-of-vocabulary", "mean"]["count"] == 1
    assert found["frequency 5-19", "mean"]["count"] == 1


def test_splits_of_tars_that_are_not_there_or_several(tmp_path):
    write_tars(tmp_path / "sWuggy")
    with pytest.raises(
        UsageError, match=r"no tars of dev beside .*gold.csv; --split .* there are: testset_1, testset_16"
    ):
        SWuggy(Setup(tmp_path, cache=tmp_path / "cache"))
    (tmp_path / "sWuggy/inftrain/en").rename(tmp_path / "sWuggy/inftrain/fr")
    write_tars(tmp_path / "sWuggy")
    with pytest.raises(
        UsageError, match=r"several sets of tars are called testset_1: say which by --data .*/en or .*/fr"
    ):
        SWuggy(Setup(tmp_path, "testset_1", cache=tmp_path / "cache"))
    twice = [("x/1a0", 0, "a", "w", 1), ("y/1a0", 1, "a", "w", 1)]
    write_gold(tmp_path / "sWuggy/inftrain/fr", HEADER, twice)
    with pytest.raises(UsageError, match=r"lines 2 and 3: x/1a0 and y/1a0 would be one recording of .*tar"):
        SWuggy(Setup(tmp_path / "sWuggy/inftrain/fr", "testset_1", cache=tmp_path / "cache"))
    write_gold(tmp_path / "sWuggy/inftrain/fr", HEADER, [("other", 0, "a", "w", 1)])
    with pytest.raises(UsageError, match=r"holds none of the recordings of .*, such as other; fetch both"):
        SWuggy(Setup(tmp_path / "sWuggy/inftrain/fr", "testset_1", cache=tmp_path / "cache"))
    assert not find_audio(tmp_path / "sWuggy")
