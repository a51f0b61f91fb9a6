"""eval/run.py from end to end with models whose answers are known: what lands on disk, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile

from eval.abx.__main__ import AbxConfig
from eval.benchmarks.base import BENCHMARKS, Benchmark, Result
from eval.benchmarks.continuation import prompt_seed
from eval.config import EvalConfig
from eval.metrics.base import METRICS, Metric, Observations, ScoredPair
from eval.minimal_pairs.__main__ import MinimalPairsConfig
from eval.results import read_results
from eval.run import main
from eval.tokens import tokenize_items
from slm import run_lock
from slm.config import run_command
from slm.corpus.config import CorpusConfig
from slm.corpus.pipeline import tokenize_corpus
from slm.data.documents import hold_out
from slm.data.store import CodeStore
from slm.errors import StoppedError, UsageError
from slm.model.statistics import CodeStatistics
from tests.eval.material import config, scores, write_level
from tests.fakes import ArithmeticTokenizer, markov_codes
from tests.training.test_run_lock import another_process

ROOT = Path(__file__).parents[2]


def test_everything_lands_on_disk(root, lm, capsys):
    main(config(root))
    out = root.parent / "out"
    record = json.loads((out / "results.json").read_text())
    assert record["model"]["fingerprint"] == lm.fingerprint
    assert record["tokenizer"]["fingerprint"] == lm.spec.fingerprint
    assert [(r["benchmark"], r["split"]) for r in record["results"]] == [
        ("swuggy", "dev"), ("sblimp", "dev"), ("continuation", "prompts"),
    ]  # fmt: skip
    swuggy = record["results"][0]
    assert {"slm", "torch", "transformers"} <= set(swuggy["versions"])
    assert swuggy["generated"] == {"seed": 3}
    assert swuggy["counts"] == {
        "items": 24, "items_scored": 24, "pairs": 12, "pairs_scored": 12, "groups_scored": 6,
    }  # fmt: skip
    assert swuggy["left_out"] == []
    for benchmark in ("swuggy", "sblimp"):
        assert scores(out, benchmark)["all", "mean"]["value"] == 1.0
        assert scores(out, benchmark, "untrained")["all", "mean"]["value"] == 0.5
        assert scores(out, benchmark, "unigram")["all", "mean"]["value"] == 0.0
        assert {c for _, c in scores(out, benchmark)} == {"mean+eos", "mean", "sum+eos", "sum"}
    assert set(swuggy["scores"]) == {"model", "untrained", "unigram"}
    printed = capsys.readouterr().out
    assert "| accuracy, all" in printed
    assert "100.0 %" in (out / "results.md").read_text()
    assert "mean of the log-probabilities" in (out / "results.md").read_text()


def test_the_table_says_what_the_results_say(root, lm):
    main(config(root, benchmarks="swuggy"))
    out = root.parent / "out"
    rows = pd.read_parquet(out / "likelihoods/swuggy-dev-model.parquet").set_index("item")
    gold = pd.read_csv(root / "lexical/dev/gold.csv").set_index("filename")
    assert sorted(rows.index) == sorted(gold.index)
    assert (rows.log_prob_nats / rows["count"]).round(6).to_dict() == {
        name: -1.0 if correct else -2.0 for name, correct in gold.correct.items()
    }
    words = rows[gold.correct.loc[rows.index] == 1]
    bits = -(words.log_prob_nats + words.eos_log_prob_nats).sum() / np.log(2) / words.duration_s.sum()
    found = scores(out, "swuggy", metric="bits_per_s")["right items", "sum+eos"]
    assert found["value"] == pytest.approx(bits)
    assert found["interval"][0] <= bits <= found["interval"][1]
    assert found["count"] == 6  # words, though each is there in two voices


def test_continuations_are_written_and_repeatable(root, lm):
    main(config(root, benchmarks="continuation", seed=3))
    folder = root.parent / "out/continuation"
    records = json.loads((folder / "prompts.json").read_text())
    assert [r["id"] for r in records] == ["p0", "p1", "p2"]
    assert [r["seed"] for r in records] == [prompt_seed(3, f"p{i}") for i in range(3)]
    for record in records:
        place = folder.parent / record["folder"]
        codes = np.load(place / "codes.npy")
        assert codes.shape == (25 + 150, 1)
        prompt, rate_hz = soundfile.read(place / "prompt.wav")
        assert (len(prompt), rate_hz) == (4000, 8000)
        whole, _ = soundfile.read(place / "whole.wav")
        added, _ = soundfile.read(place / "continuation.wav")
        assert np.array_equal(whole[4000:], added)
        assert (record["prompt_frames"], record["continuation"]["duration_s"]) == (25, 3.0)
    before = {p.name: p.read_bytes() for p in sorted(folder.rglob("*.npy"))}
    main(config(root, benchmarks="continuation", seed=3, generation=EvalConfig("", "", "", "").generation))
    assert {p.name: p.read_bytes() for p in sorted(folder.rglob("*.npy"))} == before


def test_units_without_a_decoder_give_codes_only_and_say_so(root, lm):
    object.__setattr__(lm.spec, "has_decoder", False)
    main(config(root, benchmarks="continuation"))
    out = root.parent / "out"
    place = out / "continuation/000"
    assert sorted(p.name for p in place.iterdir()) == ["codes.npy", "prompt.wav"]
    for said in ((out / "results.md").read_text(), (out / "index.html").read_text()):
        assert "Tokenizer arithmetic has no decoder: codes only" in said
        assert "expect babble" in said


def test_a_second_run_tokenizes_nothing(root, lm, monkeypatch):
    main(config(root, benchmarks="swuggy"))
    tokens = next((root.parent / "out/tokens").glob("swuggy-dev-*/"))
    assert len(CodeStore(tokens)) == 24
    monkeypatch.setattr("eval.tokens._tokenize", lambda *_: pytest.fail("tokenized again"))
    (lock := tokens.with_name(f".{tokens.name}.lock")).touch()  # of a run that was killed
    main(config(root, benchmarks="swuggy", convention="sum"))
    assert not lock.exists()
    record = json.loads((root.parent / "out/results.json").read_text())
    assert record["results"][0]["scores"]["model"][0]["convention"] == "sum"


def test_damaged_tokens_say_what_helps(root, lm):
    """Whatever was cut or is gone of them: what the error says is done, and all is there again."""
    files = {path.stem: path for path in sorted((root / "lexical/dev").glob("*.wav"))[:2]}
    whole = tokenize_items(files, lm, root.parent / "tokens", "x")
    kept = root.parent / "kept"
    shutil.copytree(whole.folder, kept)
    for file in ("data-00000-of-00001.arrow", "state.json", "tokenizer.json"):
        for content in (b"", (kept / file).read_bytes()[:20], None):
            shutil.rmtree(whole.folder)
            shutil.copytree(kept, whole.folder)
            (whole.folder / file).unlink()
            if content is not None:
                (whole.folder / file).write_bytes(content)
            elif file == "state.json":
                continue  # without it the folder is one that a killed run left
            with pytest.raises(UsageError, match=r"are damaged.* remove that folder, and give this command again"):
                tokenize_items(files, lm, root.parent / "tokens", "x")
    shutil.rmtree(whole.folder)
    again = tokenize_items(files, lm, root.parent / "tokens", "x")
    assert {i: c.codes.tolist() for i, c in again.codes.items()} == {
        i: c.codes.tolist() for i, c in whole.codes.items()
    }


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_recordings_whose_name_is_not_utf_8_are_named_so(root, lm):
    """What a list of recordings cannot name: all of a folder, or one file of others."""
    wavs = sorted((root / "lexical/dev").glob("*.wav"))[:3]
    wrong = wavs[0].with_name(os.fsdecode(b"\xff.wav"))
    wavs[0].rename(wrong)
    tokens = tokenize_items({"a": wrong, "b": wavs[1]}, lm, root.parent / "tokens", "x")
    assert set(tokens.codes) == {"b"}
    assert [(left.item, left.reason) for left in tokens.left_out] == [
        ("a", f"no UTF-8 in the name of {wrong.parent}/\\xff.wav")
    ]
    folder = root.parent / os.fsdecode(b"data-\xff")
    folder.mkdir()
    shutil.copy(wavs[1], folder)
    with pytest.raises(UsageError, match=r"no UTF-8 in the name of .*/data-\\xff/.*: rename the file or a folder"):
        tokenize_items({"b": folder / wavs[1].name}, lm, root.parent / "tokens", "x")


def test_other_endings_than_gold_csv_means_are_read(root, lm):
    wavs = sorted((root / "lexical/dev").glob("*.wav"))
    wavs[0].rename(wavs[0].with_suffix(".WAV"))
    wavs[0].with_suffix(".flac").write_bytes(b"no audio")  # beside it
    samples, rate_hz = soundfile.read(wavs[1])
    wavs[1].unlink()
    soundfile.write(str(wavs[1].with_suffix(".flac")), samples, rate_hz)
    main(config(root, benchmarks="swuggy", baselines="no"))
    record = json.loads((root.parent / "out/results.json").read_text())
    assert record["results"][0]["counts"]["pairs_scored"] == 12


def test_other_audio_of_the_same_names_and_sizes_is_tokenized_anew(root, lm):
    main(config(root, benchmarks="swuggy"))
    for wav in (root / "lexical/dev").glob("*.wav"):
        samples, rate_hz = soundfile.read(wav, dtype="float32")
        size = wav.stat().st_size
        soundfile.write(str(wav), -samples, rate_hz)
        assert wav.stat().st_size == size
    main(config(root, benchmarks="swuggy"))
    assert scores(root.parent / "out", "swuggy")["all", "mean"]["value"] == 0.0


def test_every_table_says_whose_it_is(root, lm):
    main(config(root, benchmarks="swuggy"))
    first = {n: table_metadata(root, n) for n in ("model", "untrained", "unigram")}
    assert first["model"]["scorer_fingerprint"] == lm.fingerprint
    assert first["untrained"]["scorer_fingerprint"] == lm.untrained(0).fingerprint
    record = json.loads((root.parent / "out/results.json").read_text())
    assert record["results"][0]["fingerprints"] == {n: m["scorer_fingerprint"] for n, m in first.items()}
    lm.statistics = CodeStatistics((np.arange(16) + 1,), np.arange(16), 3)
    main(config(root, benchmarks="swuggy"))
    again = table_metadata(root, "unigram")
    assert len({again["scorer_fingerprint"], *(m["scorer_fingerprint"] for m in first.values())}) == 4


def table_metadata(root: Path, scorer: str) -> dict[str, str]:
    made = pq.read_schema(root.parent / f"out/likelihoods/swuggy-dev-{scorer}.parquet").metadata
    return {k.decode(): v.decode() for k, v in made.items()}


def test_each_result_keeps_the_versions_it_was_made_with(root, lm, monkeypatch):
    main(config(root, benchmarks="swuggy"))
    monkeypatch.setattr("eval.results.versions", lambda: {"slm": "9.9"})
    main(config(root, benchmarks="sblimp"))
    old, new = json.loads((root.parent / "out/results.json").read_text())["results"]
    assert old["versions"]["slm"] != "9.9" == new["versions"]["slm"]
    page = (root.parent / "out/index.html").read_text()
    assert "Versions for swuggy" in page
    assert "Versions for sblimp</dt><dd>slm 9.9</dd>" in page


def test_a_deduplicated_model_says_that_durations_are_not_counted(root, lm):
    lm.convention = {**lm.convention, "dedup": True}
    main(config(root, benchmarks="swuggy"))
    assert list(scores(root.parent / "out", "swuggy", metric="bits_per_s")) == [
        ("right items", "sum+eos, durations not counted")
    ]
    assert "right items (sum+eos, durations not counted)" in (root.parent / "out/results.md").read_text()
    assert "how long each lasts is not counted" in (root.parent / "out/index.html").read_text()


def test_a_registered_metric_is_computed_without_further_ado(root, lm, monkeypatch):
    class Margin(Metric[ScoredPair]):
        name, observes, unit, higher_is_better = "margin", ScoredPair, "nats", True
        about = "By how much."

        def observe(self, items):
            return Observations(np.array([p.positive - p.negative for p in items]), np.ones(len(items)))

    METRICS.names()
    monkeypatch.setitem(METRICS._classes, "margin", Margin)
    main(config(root, benchmarks="swuggy"))
    assert scores(root.parent / "out", "swuggy", metric="margin")["all", "mean"]["value"] == 1.0
    assert "| margin, in-vocabulary" in (root.parent / "out/results.md").read_text()
    assert "Margin, in-vocabulary: <b>" in (root.parent / "out/index.html").read_text()


def test_a_result_that_no_page_could_show_costs_none_of_the_others(root, lm, monkeypatch):
    class Counting(Benchmark):
        name, about = "counting", "A stranger's, with a word for details that pages have another use for."

        def __init__(self, setup):
            pass

        def run(self, run):
            return Result("counting", "dev", self.about, "", {}, {}, details={"samples": 100})

    BENCHMARKS.names()
    monkeypatch.setitem(BENCHMARKS._classes, "counting", Counting)
    with pytest.raises(StoppedError, match=r"counting: .*, \$\.details\.samples: 100 is not of type 'array'"):
        main(config(root, benchmarks="counting,swuggy"))
    record = read_results(root.parent / "out")
    assert [r["benchmark"] for r in record["results"]] == ["swuggy"]
    assert [f["benchmark"] for f in record["failed"]] == ["counting"]


def test_benchmarks_may_be_added_later_but_not_of_another_model(root, lm):
    main(config(root, benchmarks="swuggy"))
    main(config(root, benchmarks="sblimp"))
    main(config(root, benchmarks="swuggy"))
    record = json.loads((root.parent / "out/results.json").read_text())
    assert [r["benchmark"] for r in record["results"]] == ["sblimp", "swuggy"]
    lm.fingerprint = "another"
    with pytest.raises(UsageError, match="holds results of another model"):
        main(config(root, benchmarks="swuggy"))


@pytest.mark.parametrize("changes", [{}, {"benchmarks": "reconstruction", "model": "", "tokenizer": "codec2"}])
def test_two_commands_at_once_do_not_lose_each_other_s_results(root, lm, monkeypatch, changes):
    monkeypatch.setattr(run_lock, "HERE_S", 0.0)
    with another_process(root.parent / "out"), pytest.raises(UsageError, match="is being written to by process"):
        main(config(root, **changes))
    if not changes:
        main(config(root, benchmarks="swuggy"))
        assert not (root.parent / "out" / run_lock.NAME).exists()


def test_what_cannot_be_scored_is_counted_and_named(root, lm):
    folder = root / "lexical/dev"
    long = "f" * 300  # than any file's name can be
    gold = (folder / "gold.csv").read_text().replace("f0_0_1,", f"{long},").replace("f3_0_1,", "f3_0_1.WAV,")
    (folder / "gold.csv").write_text(gold)
    (folder / "f1_0_0.wav").write_bytes(b"RIFF no audio")
    write_level(folder / "f2_0_0.wav", 0.1, duration_s=0.005)
    main(config(root, benchmarks="swuggy", baselines="no"))
    record = json.loads((root.parent / "out/results.json").read_text())
    (result,) = record["results"]
    assert set(result["scores"]) == {"model"}
    assert result["counts"]["pairs_scored"] == 12 - 3
    reasons = {left["item"]: left["reason"] for left in result["left_out"]}
    assert set(reasons) == {long, "f1_0_0", "f2_0_0"}
    assert "no such file" in reasons[long]
    assert "Left out: 3 items" in (root.parent / "out/results.md").read_text()
    assert "3 items left out" in (root.parent / "out/index.html").read_text()


def test_a_model_that_gives_nan_is_refused(root, lm):
    lm.right = lm.wrong = float("nan")
    for benchmark in ("swuggy", "continuation"):
        with pytest.raises(UsageError, match="gives NaN: was its training stable"):
            main(config(root, benchmarks=benchmark))


def test_a_model_that_gives_an_infinite_value_is_refused(root, lm):
    lm.wrong = -float("inf")
    with pytest.raises(UsageError, match="gives infinite log-probabilities: was its training stable"):
        main(config(root, benchmarks="swuggy"))


def test_a_benchmark_of_broken_recordings_is_not_blamed_on_an_option_of_another_command(root, lm):
    for wav in (root / "lexical/dev").glob("*.wav"):
        wav.write_bytes(b"RIFF no audio")
    with pytest.raises(UsageError, match=r"none of the 24 clips .* fetch the recordings") as refused:
        main(config(root, benchmarks="swuggy"))
    assert "--audio" not in str(refused.value)


def test_unusable_prompts_do_not_cost_the_old_continuations(root, lm):
    main(config(root, benchmarks="continuation"))
    for wav in (root / "prompts").glob("*.wav"):
        wav.write_bytes(b"RIFF no audio")
    with pytest.raises(UsageError, match="no prompt can be used"):
        main(config(root, benchmarks="continuation"))
    assert (root.parent / "out/continuation/000/whole.wav").is_file()


def test_broken_files_are_wrong_use(root, lm):
    out = root.parent / "out"
    main(config(root, benchmarks="swuggy"))
    (out / "results.json").write_text("{")
    with pytest.raises(UsageError, match=r"results\.json is not JSON"):
        main(config(root, benchmarks="swuggy"))
    (root / "generated.json").write_text("[]")
    with pytest.raises(UsageError, match=r"generated\.json is not a JSON object"):
        main(config(root, benchmarks="swuggy"))
    (root.parent / "file").write_text("")
    with pytest.raises(UsageError, match="file is a file; give a folder"):
        main(config(root, benchmarks="swuggy", out=str(root.parent / "file/out")))
    (root.parent / "link").symlink_to(root.parent / "gone")
    with pytest.raises(UsageError, match="link is a link to nothing; give a folder"):
        main(config(root, benchmarks="swuggy", out=str(root.parent / "link")))
    with pytest.raises(UsageError, match=r"--cache .*file is a file; give a folder"):
        main(config(root, benchmarks="swuggy", cache=str(root.parent / "file")))


def test_a_folder_that_may_not_be_written_to_is_refused_and_a_shared_cache_may_be_such(root, lm, monkeypatch):
    cache = root.parent / "cache"
    main(config(root, benchmarks="swuggy", baselines="no", cache=str(cache)))
    plain = tempfile.TemporaryFile

    def refused(locked):
        def make(*, dir):
            if dir == locked:
                raise PermissionError(errno.EACCES, "Permission denied")
            return plain(dir=dir)

        return make

    for locked, named in ((root.parent, "--out .*new/out: .* cannot be written to .Permission denied"), (cache, None)):
        monkeypatch.setattr(tempfile, "TemporaryFile", refused(locked))
        with pytest.raises(UsageError, match=named) if named else nullcontext():
            main(config(root, benchmarks="swuggy", out=str(root.parent / "new/out"), baselines="no", cache=str(cache)))
    with pytest.raises(UsageError, match=r"--cache .*cache: .* cannot be written to"):
        main(config(root, benchmarks="sblimp", baselines="no", cache=str(cache)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benchmarks": "swuggy,sblmp"}, "unknown benchmark 'sblmp'; did you mean 'sblimp'"),
        ({"benchmarks": " , "}, "names none; known: "),
        ({"split": "test", "benchmarks": "swuggy"}, "no such benchmark data"),
        ({"corpus": "nowhere"}, "--corpus: no "),
        ({"convention": "average"}, "unknown convention"),
        ({"prompts": "nowhere"}, "no prompts: nowhere does not exist"),
        ({"device": "foo"}, "--device foo cannot be used"),
    ],
)
def test_wrong_use_is_refused_before_the_model_is_loaded(root, monkeypatch, capsys, changes, message):
    monkeypatch.setattr("slm.spoken_lm.load_lm", lambda path, device, vocoder: pytest.fail("loaded a model"))
    values = {k: v for k, v in vars(config(root, **changes)).items() if isinstance(v, str)}
    argv = [arg for key, value in values.items() for arg in (f"--{key}", value)]
    with pytest.raises(SystemExit) as stop:
        run_command(main, EvalConfig, argv)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_all_that_is_missing_is_named_at_once(root):
    with pytest.raises(UsageError, match=r"(?s)no such benchmark data: .*\nno sSC: .*\nno SALMon: ") as error:
        main(config(root, benchmarks="swuggy,sblimp,ssc,salmon", split="test"))
    assert str(error.value).count("\n") == 3


def test_an_empty_split_is_none():
    with pytest.raises(UsageError, match="--split is empty: give the name of a split"):
        EvalConfig("swuggy", "out", model="m", split="")


@pytest.mark.parametrize(
    "make", [partial(EvalConfig, "swuggy", "out"), partial(AbxConfig, "mimi", "data", "out"),
             partial(MinimalPairsConfig, "out")]
)  # fmt: skip
def test_a_seed_below_zero_is_refused_by_every_command(make):
    with pytest.raises(UsageError, match="--seed must be "):
        make(seed=-1)


def test_a_seed_that_torch_cannot_take_is_refused_before_the_work():
    with pytest.raises(UsageError, match=r"--seed must be in \[0, 2\^63\)"):
        EvalConfig("swuggy", "out", seed=2**63)


def test_the_script_runs_from_anywhere(tmp_path):
    command = [sys.executable, str(ROOT / "eval/run.py"), "--model", "x", "--benchmarks", "swugy"]
    command += ["--data", ".", "--out", "o"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (made.returncode, made.stderr.count("\n")) == (2, 1)
    assert "did you mean 'swuggy'" in made.stderr
    assert not (tmp_path / "o").exists()


def test_a_corpus_is_described(root, lm, tmp_path, monkeypatch):
    codes = markov_codes(lm.tokenizer, 4)
    folder = tmp_path / "wavs"
    folder.mkdir()
    for clip in map(lm.tokenizer.decode, codes):
        soundfile.write(str(folder / f"{clip.id}.wav"), clip.samples + 0.01, clip.sample_rate_hz)
    corpus = CorpusConfig(audio=str(folder), tokenizer="arithmetic", out=str(tmp_path / "corpus"))
    tokenize_corpus(corpus, lm.tokenizer)
    main(config(root, benchmarks="swuggy", corpus=str(tmp_path / "corpus")))
    described = json.loads((tmp_path / "out/results.json").read_text())["corpus"]
    store = CodeStore(tmp_path / "corpus")
    every = np.concatenate([c.codes for c in store])
    shares = np.unique(every, return_counts=True)[1] / len(every)
    assert (described["clips"], described["codes"]) == (4, len(every))
    assert described["codebooks"][0]["used"] == len(shares)
    entropy, rate_hz = -(shares * np.log2(shares)).sum(), lm.spec.frame_rate_hz
    assert described["codebooks"][0]["entropy_bits"] == pytest.approx(entropy)
    assert described["entropy_bitrate_bps"] == pytest.approx(rate_hz * entropy)
    assert described["bitrate_bps"] == pytest.approx(rate_hz * 4)
    assert described["hours"] == pytest.approx(sum(c.duration_s for c in store) / 3600)
    assert "Training corpus" not in (tmp_path / "out/index.html").read_text()
    lm.record.training["eval_fraction"] = 0.6
    kept, held = hold_out(store.ids, 0.6)
    assert len(kept) > 0 < len(held)
    seen = np.bincount(np.concatenate([store.codes(int(i)) for i in kept])[:, 0], minlength=16)
    lm.statistics = CodeStatistics((seen,), seen, len(kept))
    read, codes_of = [], CodeStore.codes
    monkeypatch.setattr("eval.results._CLIPS_AT_ONCE", 1)
    monkeypatch.setattr(CodeStore, "codes", lambda store, i: (read.append(store.path), codes_of(store, i))[1])
    main(config(root, benchmarks="swuggy", corpus=str(tmp_path / "corpus")))
    assert "Training corpus" in (tmp_path / "out/index.html").read_text()
    assert tmp_path / "corpus" not in read  # clip by clip, which takes minutes where there are millions
    plan = (tmp_path / "corpus/plan.json").read_text()
    (tmp_path / "corpus/plan.json").write_text("{}")
    with pytest.raises(UsageError, match=r"plan\.json is not one that this version wrote"):
        main(config(root, benchmarks="swuggy", corpus=str(tmp_path / "corpus")))
    (tmp_path / "corpus/plan.json").write_text(plan)
    lm.spec = ArithmeticTokenizer(1, bias=3).spec
    with pytest.raises(UsageError, match="two different tokenizers"):
        main(config(root, benchmarks="swuggy", out=str(tmp_path / "other"), corpus=str(tmp_path / "corpus")))
