"""eval/run.py from end to end with models whose answers are known: what lands on disk, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from eval.run import EvalConfig, main
from slm.config import run_command
from slm.corpus.config import CorpusConfig
from slm.corpus.pipeline import tokenize_corpus
from slm.data.store import CodeStore
from slm.errors import UsageError
from tests.eval.material import LevelLM, random_lexical, random_syntactic, write_level, write_lexical, write_syntactic
from tests.fakes import ArithmeticTokenizer, markov_codes

ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path) -> Path:
    data = tmp_path / "data"
    write_lexical(data, random_lexical(6, 2, seed=0))
    write_syntactic(data, random_syntactic(6, 2, seed=0))
    for i in range(3):
        write_level(data / f"prompts/p{i}.wav", 0.1 * (i + 1), duration_s=0.5)
    (data / "generated.json").write_text(json.dumps({"seed": 3}))
    return data


@pytest.fixture
def lm(monkeypatch) -> LevelLM:
    made = LevelLM()
    monkeypatch.setattr("slm.spoken_lm.load_lm", lambda path, device: made)
    return made


def config(root: Path, **changes) -> EvalConfig:
    run = root.parent / "run"
    run.mkdir(exist_ok=True)
    lines = [{"step": s, "train_nats_per_code": 4.0 - s / 100, "lr": 0.1} for s in range(0, 100, 10)]
    lines += [{"step": 50, "eval_nats_per_code": 3.7}, {"step": 90, "eval_nats_per_code": 3.321}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {"model": str(run / "final"), "benchmarks": "swuggy,sblimp,continuation", "data": str(root),
                "out": str(root.parent / "out"), "bootstrap": 50, "device": "cpu"}  # fmt: skip
    return EvalConfig(**{**settings, **changes})


def scores(out: Path, benchmark: str, scorer: str = "model", metric: str = "pair_accuracy") -> dict:
    record = json.loads((out / "results.json").read_text())
    result = next(r for r in record["results"] if r["benchmark"] == benchmark)
    return {(s["item"].split("/", 2)[2], s["convention"]): s for s in result["scores"][scorer] if s["metric"] == metric}


def test_everything_lands_on_disk(root, lm, capsys):
    main(config(root))
    out = root.parent / "out"
    record = json.loads((out / "results.json").read_text())
    assert record["model"]["fingerprint"] == lm.fingerprint
    assert record["tokenizer"]["fingerprint"] == lm.spec.fingerprint
    assert {"slm", "torch", "transformers"} <= set(record["versions"])
    assert [(r["benchmark"], r["split"]) for r in record["results"]] == [
        ("swuggy", "dev"), ("sblimp", "dev"), ("continuation", "prompts"),
    ]  # fmt: skip
    swuggy = record["results"][0]
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


def test_continuations_are_written_and_repeatable(root, lm):
    main(config(root, benchmarks="continuation"))
    folder = root.parent / "out/continuation"
    records = json.loads((folder / "prompts.json").read_text())
    assert [r["id"] for r in records] == ["p0", "p1", "p2"]
    assert len({r["seed"] for r in records}) == 3
    for record in records:
        place = folder.parent / record["folder"]
        codes = np.load(place / "codes.npy")
        assert codes.shape == (25 + 150, 1)
        prompt, rate_hz = soundfile.read(place / "prompt.wav")
        assert (len(prompt), rate_hz) == (4000, 8000)
        whole, _ = soundfile.read(place / "whole.wav")
        added, _ = soundfile.read(place / "continuation.wav")
        assert np.array_equal(whole[4000:], added)
        assert record["continuation"]["duration_s"] == 3.0
    before = {p.name: p.read_bytes() for p in sorted(folder.rglob("*.npy"))}
    main(config(root, benchmarks="continuation", generation=EvalConfig("", "", "", "").generation))
    assert {p.name: p.read_bytes() for p in sorted(folder.rglob("*.npy"))} == before


def test_units_without_a_decoder_give_codes_only_and_say_so(root, lm):
    object.__setattr__(lm.spec, "has_decoder", False)
    main(config(root, benchmarks="continuation"))
    out = root.parent / "out"
    place = out / "continuation/000"
    assert sorted(p.name for p in place.iterdir()) == ["codes.npy", "prompt.wav"]
    for said in ((out / "results.md").read_text(), (out / "index.html").read_text().replace("Tokenizer", "tokenizer")):
        assert "tokenizer arithmetic has no decoder: codes only" in said


def test_a_second_run_tokenizes_nothing(root, lm, monkeypatch):
    main(config(root, benchmarks="swuggy"))
    tokens = next((root.parent / "out/tokens").glob("swuggy-dev-*/"))
    assert len(CodeStore(tokens)) == 24
    monkeypatch.setattr("eval.tokens._tokenize", lambda *_: pytest.fail("tokenized again"))
    main(config(root, benchmarks="swuggy", convention="sum"))
    record = json.loads((root.parent / "out/results.json").read_text())
    assert record["results"][0]["scores"]["model"][0]["convention"] == "sum"


def test_benchmarks_may_be_added_later_but_not_of_another_model(root, lm):
    main(config(root, benchmarks="swuggy"))
    main(config(root, benchmarks="sblimp"))
    main(config(root, benchmarks="swuggy"))
    record = json.loads((root.parent / "out/results.json").read_text())
    assert [r["benchmark"] for r in record["results"]] == ["sblimp", "swuggy"]
    lm.fingerprint = "another"
    with pytest.raises(UsageError, match="holds results of another model"):
        main(config(root, benchmarks="swuggy"))


def test_what_cannot_be_scored_is_counted_and_named(root, lm):
    folder = root / "lexical/dev"
    (folder / "f0_0_1.wav").unlink()
    (folder / "f1_0_0.wav").write_bytes(b"RIFF no audio")
    write_level(folder / "f2_0_0.wav", 0.1, duration_s=0.005)
    main(config(root, benchmarks="swuggy", baselines="no"))
    record = json.loads((root.parent / "out/results.json").read_text())
    (result,) = record["results"]
    assert set(result["scores"]) == {"model"}
    assert result["counts"]["pairs_scored"] == 12 - 3
    reasons = {left["item"]: left["reason"] for left in result["left_out"]}
    assert set(reasons) == {"f0_0_1", "f1_0_0", "f2_0_0"}
    assert "no such file" in reasons["f0_0_1"]
    assert "Left out: 3 items" in (root.parent / "out/results.md").read_text()
    assert "3 items left out" in (root.parent / "out/index.html").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benchmarks": "swuggy,sblmp"}, "unknown benchmark 'sblmp'; did you mean 'sblimp'"),
        ({"benchmarks": " , "}, "names none; known: continuation, sblimp, swuggy"),
        ({"split": "test"}, "no such benchmark data"),
        ({"convention": "average"}, "unknown convention"),
        ({"prompts": "nowhere"}, "no prompts: nowhere does not exist"),
    ],
)
def test_wrong_use_is_refused_before_the_model_is_loaded(root, monkeypatch, capsys, changes, message):
    monkeypatch.setattr("slm.spoken_lm.load_lm", lambda path, device: pytest.fail("loaded a model"))
    values = {k: v for k, v in vars(config(root, **changes)).items() if isinstance(v, str)}
    argv = [arg for key, value in values.items() for arg in (f"--{key}", value)]
    with pytest.raises(SystemExit) as stop:
        run_command(main, EvalConfig, argv)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_the_script_runs_from_anywhere(tmp_path):
    command = [sys.executable, str(ROOT / "eval/run.py"), "--model", "x", "--benchmarks", "swugy"]
    command += ["--data", ".", "--out", "o"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (made.returncode, made.stderr.count("\n")) == (2, 1)
    assert "did you mean 'swuggy'" in made.stderr
    assert not (tmp_path / "o").exists()


class Outline(HTMLParser):
    """Checks that every element is closed in its order; collects text, ids, links and sources."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.ids, self.targets, self.sources, self.tags = [], [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        if tag not in ("meta", "link"):
            self.open.append(tag)
        if "id" in values:
            self.ids.append(values["id"])
        self.targets += [values["href"][1:]] if values.get("href", "").startswith("#") else []
        self.targets += [values["aria-labelledby"]] if "aria-labelledby" in values else []
        self.sources += [values[k] for k in ("src", "href") if k in values and not values[k].startswith("#")]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parse(page: Path) -> Outline:
    outline = Outline()
    outline.feed(page.read_text())
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert set(outline.targets) <= set(outline.ids)
    return outline


def test_the_page_is_whole_and_needs_no_network(root, lm):
    (root / "prompts/prompts.jsonl").write_text(json.dumps({"path": "p0.wav", "text": "<b>bold & brave</b>"}))
    main(config(root, prompts=str(root / "prompts/prompts.jsonl")))
    page = parse(root.parent / "out/index.html")
    text = " ".join(" ".join(page.text).split())
    assert page.tags.count("audio") == 2
    assert all(s.startswith("data:audio/wav;base64,") for s in page.sources)
    assert "<b>bold & brave</b>" in text
    assert "3.321 at the end" in text
    assert "This benchmark is synthetic" in text
    bits = scores(root.parent / "out", "swuggy", metric="bits_per_s")["right items", "sum+eos"]["value"]
    assert f"{bits:.1f} bits per second" in text
    assert text.count("100.0 %") >= 4


def test_one_page_about_two_models_copies_long_recordings(root, lm, monkeypatch, tmp_path):
    from eval.report.__main__ import main as report

    monkeypatch.setattr("eval.report.page.EMBED_BYTES", 20_000)
    main(config(root))
    lm.fingerprint = "second"
    lm.right, lm.wrong = -2.0, -1.0
    main(config(root, benchmarks="swuggy,continuation", out=str(tmp_path / "second")))
    assert report([str(tmp_path / "out"), str(tmp_path / "second"), "--out", str(tmp_path / "site")]) == 0
    page = parse(tmp_path / "site/index.html")
    files = [s for s in page.sources if not s.startswith("data:")]
    assert len(files) == len(set(files)) == 6
    assert all((tmp_path / "site" / s).is_file() for s in files)
    assert "2 models compared" in page.text


def test_the_training_corpus_is_described(root, lm, tmp_path):
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
    assert described["codebooks"][0]["entropy_bits"] == pytest.approx(-(shares * np.log2(shares)).sum())
    assert "Training corpus" in (tmp_path / "out/index.html").read_text()
    lm.spec = ArithmeticTokenizer(1, bias=3).spec
    with pytest.raises(UsageError, match="two different tokenizers"):
        main(config(root, benchmarks="swuggy", out=str(tmp_path / "other"), corpus=str(tmp_path / "corpus")))


def test_a_folder_without_results_is_refused(tmp_path, capsys):
    from eval.report.__main__ import main as report

    assert report([str(tmp_path), "--out", str(tmp_path / "site")]) == 2
    assert "no results.json" in capsys.readouterr().err
