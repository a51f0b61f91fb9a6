"""The whole of it with an arithmetic tokenizer: three readers agree, runs go on, other runs are refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import yaml

from slm.audio import read_audio
from slm.corpus import pipeline
from slm.corpus.card import dataset_card
from slm.corpus.config import CorpusConfig
from slm.corpus.folder import begin
from slm.corpus.output import Output
from slm.corpus.pipeline import tokenize_corpus
from slm.corpus.tools.check import CheckConfig, check
from slm.data.store import CodeStore
from slm.errors import UsageError
from slm.files import read_json, write_json
from slm.types import AudioClip
from tests.corpus.audio import bad_folder, contents, good_folder, write_clip
from tests.fakes import ArithmeticTokenizer


def config_for(tmp_path, **kwargs):
    given = {"audio": str(tmp_path / "audio"), "tokenizer": "arithmetic", "out": str(tmp_path / "out"), **kwargs}
    return CorpusConfig(**{"shard_hours": 1.6 / 3600, "batch_seconds": 2.0, "num_workers": 0, **given})


@pytest.fixture
def corpus(tmp_path):
    """(config, tokenizer, summary) of a corpus with good and bad clips, odd rates, two channels and metadata."""
    audio = good_folder(tmp_path / "audio")
    bad_folder(audio)
    write_clip(audio / "stereo ♫.wav", 0.8, 44_100, channels=2, seed=20)
    write_clip(audio / "high.wav", 0.6, 96_000, seed=21)
    tokenizer = ArithmeticTokenizer(num_codebooks=3, codebook_size=16)
    rows = [
        {"path": path.name, "text": f"text of {path.stem}", "n": i, "codes": "not ours"}
        for i, path in enumerate(sorted(audio.iterdir()))
    ]
    (audio / "m.jsonl").write_text("\n".join(json.dumps(row) for row in [*rows, {"path": "absent.wav"}]))
    config = config_for(tmp_path, audio=str(audio / "m.jsonl"))
    return config, tokenizer, tokenize_corpus(config, tokenizer)


def test_store_and_datasets_read_what_the_tokenizer_gives(corpus, tmp_path):
    from datasets import load_from_disk

    config, tokenizer, summary = corpus
    dataset, store = load_from_disk(config.out), CodeStore(config.out)
    assert store.ids == dataset["id"][:] == [*(f"clip-{i}" for i in range(7)), "high", "stereo ♫"]
    assert store.spec == tokenizer.spec
    for i, row in enumerate(dataset):
        samples = read_audio(tmp_path / "audio" / f"{row['id']}.wav", 8000)
        (expected,) = tokenizer.encode([AudioClip(row["id"], samples, 8000)])
        assert np.array_equal(row["codes"], expected.codes)
        assert np.array_equal(store[i].codes, expected.codes)
        assert row["num_samples"] == store[i].num_samples == len(samples)
        assert row["duration_s"] == pytest.approx(len(samples) / 8000)
        assert row["text"] == f"text of {row['id']}"
    assert list(dataset.features) == ["id", "codes", "num_samples", "duration_s", "text", "n"]
    assert dataset.features["n"].dtype == "int64"
    assert len(store.content) > 2  # several shards
    assert (summary.num_clips, summary.num_frames) == (len(store), store.num_frames.sum())
    assert summary.duration_s == pytest.approx(store.duration_s)


def test_names_that_are_not_utf8(tmp_path):
    audio = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    good_folder(tmp_path / "audio", clips=2)
    os.rename(tmp_path / "audio", audio)
    config = config_for(tmp_path, audio=audio)
    assert tokenize_corpus(config, ArithmeticTokenizer()).num_clips == 2
    with open(tmp_path / "out" / "log.jsonl", encoding="utf-8") as lines:
        assert json.loads(next(lines))["options"]["audio"] == audio
    assert check(CheckConfig(config.out)) == 0
    with pytest.raises(UsageError, match=r"--out .*/caf\\xe9/out has a name that is not UTF-8"):
        tokenize_corpus(config_for(tmp_path, out=f"{audio}/out"), ArithmeticTokenizer())


def test_every_clip_is_either_there_or_named_in_rejects(corpus, tmp_path):
    _, _, summary = corpus
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    expected = {
        "hundred-samples": "too short",
        "link": "missing file",
        "nan": "NaN or infinite samples",
        "no-samples": "empty",
        "silent": "silent",
        "text": "not audio",
        "truncated": "truncated",
        "zero-bytes": "empty",
        "absent": "missing file",
    }
    assert {reject["id"]: reject["reason"].partition(":")[0] for reject in rejects} == expected
    assert [asdict(reject) for reject in summary.rejects] == rejects
    assert rejects[-1]["path"] == str(tmp_path / "audio" / "absent.wav")
    assert "left out   9 clips: 2 empty, 2 missing file, 1 NaN or infinite samples" in summary.describe()


def test_card_and_summary_hold_what_can_be_counted_by_hand(corpus, tmp_path):
    config, tokenizer, summary = corpus
    codes = np.concatenate([codes.codes for codes in CodeStore(config.out)])
    card = (tmp_path / "out" / "README.md").read_text()
    for k, use in enumerate(summary.codebooks):
        _, counts = np.unique(codes[:, k], return_counts=True)
        shares = counts / len(codes)
        entropy = -(shares * np.log2(shares)).sum()
        assert (use.size, use.used) == (16, len(counts))
        assert use.entropy_bits == pytest.approx(entropy)
        assert use.perplexity == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
        assert f"| {k} | 16 | {len(counts)} | {len(counts) / 16:.1%} | {entropy:.3f} |" in card
    assert summary.entropy_bitrate_bps == pytest.approx(50 * sum(use.entropy_bits for use in summary.codebooks))
    assert tokenizer.spec.bitrate_bps == 50 * 3 * 4
    front, _, body = card.removeprefix("---\n").partition("---\n")
    assert yaml.safe_load(front)["size_categories"] == ["n<1K"]
    assert "| bitrate, nominal | 600.0 bit/s |" in body
    assert "| empty | 2 |" in body
    assert f"dataset    {tmp_path / 'out'}\n" in summary.describe()
    assert "unfinished" not in summary.describe()
    assert "in no segment" not in card + summary.describe()
    silent = replace(summary, outside_s=1800.0)
    assert "| hours in no segment | 0.5000 |\n" in dataset_card(silent, "x")
    assert "outside    0.500 h of the recordings are in no segment\n" in silent.describe()
    assert tokenizer.spec.fingerprint in body


def test_a_finished_folder_is_left_as_it_is(corpus, tmp_path, capsys):
    config, tokenizer, summary = corpus
    before = contents(tmp_path / "out")
    again = tokenize_corpus(config, tokenizer)
    assert again == replace(summary, real_time_factor=None)
    assert "is finished: nothing to do" in capsys.readouterr().err
    assert contents(tmp_path / "out") == before


def test_the_same_bytes_for_other_workers_and_batches(corpus, tmp_path):
    config, tokenizer, _ = corpus
    other = replace(config, out=str(tmp_path / "other"), num_workers=5, batch_seconds=0.5)
    tokenize_corpus(other, tokenizer)
    assert contents(tmp_path / "other") == contents(tmp_path / "out")


def test_a_lost_shard_is_made_again(corpus, tmp_path):
    config, tokenizer, _ = corpus
    before = contents(tmp_path / "out")
    shards = sorted((tmp_path / "out").glob("data-*"))
    shards[1].unlink()
    with pytest.raises(UsageError, match="a shard is missing"):
        CodeStore(config.out)
    tokenize_corpus(config, tokenizer)
    assert contents(tmp_path / "out") == before


def test_a_source_that_cannot_be_listed_leaves_nothing_or_the_plan_that_was_begun(tmp_path):
    """With nothing of it, another tokenizer may be given; hours of planning are not thrown away for a slip."""
    (tmp_path / "m.csv").write_text("text\nb\n")
    config = config_for(tmp_path, audio=str(tmp_path / "m.csv"))
    with pytest.raises(UsageError, match="no path column"):
        tokenize_corpus(config, ArithmeticTokenizer())
    assert not (tmp_path / "out").exists()
    begin(Output(tmp_path / "out"), ArithmeticTokenizer().spec)
    (tmp_path / "out/plan.parts").mkdir()
    with pytest.raises(UsageError, match="no path column"):
        tokenize_corpus(config, ArithmeticTokenizer())
    assert (tmp_path / "out/plan.parts").exists()


def test_all_silent_is_an_error_and_leaves_no_dataset(tmp_path):
    import soundfile

    (tmp_path / "audio").mkdir()
    soundfile.write(str(tmp_path / "audio" / "a.wav"), np.zeros(8000), 8000)
    for _ in range(2):
        with pytest.raises(UsageError, match=r"none of the 1 clips can be used \(1 silent\)"):
            tokenize_corpus(config_for(tmp_path), ArithmeticTokenizer())
        assert not (tmp_path / "out").exists()
    write_clip(tmp_path / "audio" / "b.wav", 0.5)
    assert tokenize_corpus(config_for(tmp_path), ArithmeticTokenizer(3)).num_clips == 1
    (tmp_path / "audio" / "b.wav").unlink()
    (tmp_path / "audio" / "a.wav").write_bytes(b"")
    with pytest.raises(UsageError, match=r"none of the 1 clips can be used \(1 empty\)"):  # found while planning
        tokenize_corpus(config_for(tmp_path, out=str(tmp_path / "other")), ArithmeticTokenizer())
    assert not (tmp_path / "other").exists()


def test_other_audio_behind_the_same_paths_is_refused(tmp_path, monkeypatch):
    """Same names, lengths and headers: in a finished corpus, and between a stop and its continuation."""
    good_folder(tmp_path / "audio")
    config = config_for(tmp_path)

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            tokenize_corpus(config, ArithmeticTokenizer())
    shutil.copytree(tmp_path / "audio", tmp_path / "copy")  # with other times
    for path in (tmp_path / "copy").iterdir():
        os.utime(path)
    for i, finished in enumerate([False, True]):
        write_clip(tmp_path / "audio" / "clip-2.wav", 0.7, seed=90 + i)
        with pytest.raises(UsageError, match=r"audio has changed .*1 of 7 files, 0 of them gone .*'clip-2\.wav'"):
            tokenize_corpus(config, ArithmeticTokenizer())
        tokenize_corpus(replace(config, audio=str(tmp_path / "copy")), ArithmeticTokenizer())
        assert (tmp_path / "out" / "state.json").is_file() or not finished
    (tmp_path / "copy" / "clip-5.wav").write_bytes(b"")
    with pytest.raises(UsageError, match="audio has changed"):
        tokenize_corpus(replace(config, audio=str(tmp_path / "copy")), ArithmeticTokenizer())


def test_of_clips_with_one_id_the_first_that_can_be_used_is_kept(tmp_path):
    good_folder(tmp_path / "audio", clips=4)
    (tmp_path / "audio" / "empty.wav").touch()
    names = ["empty", "clip-0", "clip-1", "clip-2", "clip-3", "clip-0"]
    rows = [{"path": f"{name}.wav", "id": id} for name, id in zip(names, "xyxyzx", strict=True)]
    (tmp_path / "audio" / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for shard_hours in (1.0, 0.4 / 3600):
        config = config_for(tmp_path, audio=str(tmp_path / "audio" / "m.jsonl"), shard_hours=shard_hours)
        config = replace(config, out=str(tmp_path / f"out-{shard_hours:g}"))
        summary = tokenize_corpus(config, ArithmeticTokenizer())
        kept = {codes.id: codes.num_samples for codes in CodeStore(config.out)}
        assert kept == {"y": 2400, "x": 4000, "z": 7200}  # clips 0, 1 and 3, at 8 kHz
        doubled = "id not unique: a clip before it has the same"
        assert sorted((r.id, r.reason) for r in summary.rejects) == [
            ("x", "empty: 0 bytes"),
            ("x", doubled),
            ("y", doubled),
        ]
        assert check(CheckConfig(config.out)) == 0


def test_files_skipped_for_their_suffix_are_said_and_counted(tmp_path, capsys):
    for name in ("a.txt", "b.txt", "README"):
        (good_folder(tmp_path / "audio", clips=1) / name).touch()
    said = "3 files that are no audio by their name: 2 .txt, 1 without suffix"
    summary = tokenize_corpus(config_for(tmp_path), ArithmeticTokenizer())
    assert f"skipped: {said}\n" in capsys.readouterr().err
    assert f"skipped    {said}\n" in summary.describe()


@pytest.mark.parametrize("out", ["audio/clip-0.wav/below", "/proc/out", "x" * 300])
def test_an_out_that_cannot_be_is_wrong_use(tmp_path, out):
    good_folder(tmp_path / "audio", clips=1)
    with pytest.raises(UsageError, match=r"--out .* cannot be used \(.*\): give a folder"):
        tokenize_corpus(config_for(tmp_path, out=str(tmp_path / out)), ArithmeticTokenizer())


def test_a_plan_of_another_version_is_refused(tmp_path):
    good_folder(tmp_path / "audio", clips=1)
    tokenize_corpus(config_for(tmp_path), ArithmeticTokenizer())
    path = tmp_path / "out" / "plan.json"
    plan = read_json(path)
    for other, complaint in (
        ({"shards": [], "rejects": []}, "not a plan that this version wrote"),
        ({**plan, "format": plan["format"] + 1}, "not a plan that this version wrote"),
        ({**plan, "num_rows": plan["num_rows"] + 1}, "and plan.arrow do not belong together"),
    ):
        write_json(path, other)
        with pytest.raises(UsageError, match=complaint):
            tokenize_corpus(config_for(tmp_path), ArithmeticTokenizer())


@pytest.mark.parametrize(("setting", "option"), [("device", "device"), ("name", "tokenizer"), ("source", "tokenizer")])
def test_settings_that_have_options_of_their_own(setting, option):
    with pytest.raises(UsageError, match=f"tokenizer_settings.{setting} is no setting of a tokenizer: give --{option}"):
        CorpusConfig("a", "b", "c", tokenizer_settings={setting: "x"})


def test_a_device_that_is_not_there(tmp_path):
    good_folder(tmp_path / "audio", clips=1)
    with pytest.raises(UsageError, match="--device foo cannot be used"):
        tokenize_corpus(config_for(tmp_path, tokenizer="codec2-700c", device="foo"))


def test_other_tokenizers_settings_and_sources_are_refused(tmp_path):
    good_folder(tmp_path / "audio")
    config = config_for(tmp_path)
    tokenize_corpus(config, ArithmeticTokenizer())
    before = contents(tmp_path / "out")
    with pytest.raises(UsageError, match=r"holds codes of arithmetic \[.*16x16 .* asks for arithmetic \[.*32x32 "):
        tokenize_corpus(config, ArithmeticTokenizer(codebook_size=32))
    with pytest.raises(UsageError, match=r"begun with --shard_hours 0\.000444444, and this command says 5"):
        tokenize_corpus(replace(config, shard_hours=5.0), ArithmeticTokenizer())
    write_clip(tmp_path / "audio" / "new.wav", 0.5)
    (tmp_path / "audio" / "clip-1.wav").unlink()
    with pytest.raises(UsageError, match=r"clips have changed .*1 new and 1 gone, such as 'clip-1', 'new'"):
        tokenize_corpus(config, ArithmeticTokenizer())
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("name", ["notes.txt", "tokenizer.json"])
def test_a_folder_of_something_else_is_refused(tmp_path, name):
    good_folder(tmp_path / "audio")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text('{"version": "1.0", "model": {}}')
    with pytest.raises(UsageError, match="not empty and not a corpus of codes"):
        tokenize_corpus(config_for(tmp_path), ArithmeticTokenizer())
    with pytest.raises(UsageError, match="is a file"):
        tokenize_corpus(config_for(tmp_path, out=str(tmp_path / "out" / name)), ArithmeticTokenizer())
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_a_second_run_at_the_same_time_is_refused(tmp_path):
    good_folder(tmp_path / "audio")

    class Impatient(ArithmeticTokenizer):
        def encode(self, clips):
            with pytest.raises(UsageError, match="another run is writing"):
                tokenize_corpus(config_for(tmp_path), ArithmeticTokenizer())
            return super().encode(clips)

    assert tokenize_corpus(config_for(tmp_path), Impatient()).num_clips == 7


@pytest.mark.parametrize("fails_at", range(1, 10))
def test_a_full_disk_leaves_nothing_half_written_and_the_run_goes_on(tmp_path, monkeypatch, fails_at):
    good_folder(tmp_path / "audio")
    config, whole = config_for(tmp_path), config_for(tmp_path, out=str(tmp_path / "whole"))
    tokenize_corpus(whole, ArithmeticTokenizer())
    calls, fsync = [], os.fsync

    def full(handle):
        calls.append(handle)
        if len(calls) >= fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            tokenize_corpus(config, ArithmeticTokenizer())
    assert (tmp_path / "out").exists() == (fails_at > 1)
    left = contents(tmp_path / "out") if fails_at > 1 else {}  # the first: nothing was begun
    assert set(left.items()) <= set(contents(tmp_path / "whole").items())
    tokenize_corpus(config, ArithmeticTokenizer())
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("field", "least"), [("shard_hours", "above 0"), ("batch_seconds", "above 0"), ("max_rejects", "0 or more")]
)
def test_settings_out_of_range(field, least):
    for value in (-1, float("nan"), float("inf"), *([0] if least == "above 0" else [])):
        with pytest.raises(UsageError, match=f"--{field} must be {least}, not {value}"):
            CorpusConfig("a", "b", "c", **{field: value})
