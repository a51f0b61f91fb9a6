"""One thing that cannot be evaluated does not cost the others, and nothing is left out or replaced in silence."""

from __future__ import annotations

import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

import eval.tokens
from eval.config import EvalConfig
from eval.conventions import find_convention
from eval.processes import ALONE
from eval.run import main
from eval.several import Attempts, name_models
from eval.tokens import tokenize_items
from slm.config import run_command
from slm.data.store import CodeStore
from slm.errors import UsageError
from tests.eval.material import LevelLM, config, scores, write_lexical


class NoNumberLM(LevelLM):
    """NaN for every sentence, whose recordings last 0.3 s or more."""

    def score_codes(self, codes):
        made = super().score_codes(codes)
        return [type(s)(s.id, s.log_probs * (np.nan if s.duration_s > 0.29 else 1), s.eos_log_probs, s.duration_s)
                for s in made]  # fmt: skip


def test_two_spellings_of_one_model_are_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for twice in (["a/x/final", "./a/x/final"], ["a/x", str(tmp_path / "a/x")], ["a/x/final", "link/x/final"]):
        with pytest.raises(UsageError, match="each once"):
            name_models(twice)
    with pytest.raises(UsageError, match="share its folder a-x-final"):
        name_models(["a/x/final", "../a/x/final"])


@pytest.mark.parametrize("name", ["local-0s", "local-0.0s-sum", "weighted-0:0-mean"])
def test_a_convention_that_counts_nothing_is_none(name):
    with pytest.raises(UsageError, match=r"nothing begins within 0 s|counts no codebook"):
        find_convention(name)


def test_another_convention_never_stands_in_the_place_of_the_one_asked_for(root, lm):
    """The words end where the others go on: nothing follows on one side of any pair."""
    write_lexical(root, [(f"f{i}_{c}", i, "v", 5, c) for i in range(3) for c in (0, 1)])
    wrong = [np.full(round(8000 * s), 0.25, np.float32) for s in (0.2, 0.3)]
    for path in (root / "lexical/dev").glob("*.wav"):
        soundfile.write(str(path), wrong[path.stem.endswith("_0")], 8000)
    with pytest.raises(UsageError, match=r"--convention local-0.1s can score no pair of swuggy/dev/all"):
        main(config(root, benchmarks="swuggy", convention="local-0.1s"))
    main(config(root, benchmarks="swuggy", conventions="local-0.1s"))
    assert ("all", "local-0.1s") not in scores(root.parent / "out", "swuggy")
    [result] = json.loads((root.parent / "out/results.json").read_text())["results"]
    assert result["details"]["pairs_not_scored"] == {"local-0.1s": 3}
    assert "Only 0 of 3 pairs by local-0.1s could be scored: of the others one item" in result["details"]["note"]


def test_a_clip_beyond_the_positions_is_left_out_and_the_others_are_scored(root, real_lm):
    real_lm.model.causal_lm.config.max_position_embeddings = real_lm.pattern.num_steps(12)
    main(config(root, benchmarks="swuggy", baselines="no"))
    out = root.parent / "out"
    [result] = json.loads((out / "results.json").read_text())["results"]
    long = {c.id for c in CodeStore(next((out / "tokens").glob("swuggy-dev-*/"))) if len(c.codes) > 12}
    assert {left["item"] for left in result["left_out"]} == long
    assert 0 < len(long) < 24
    assert result["left_out"][0]["reason"].startswith("takes ")
    kept = {f"f{i}_{v}" for i in range(6) for v in (0, 1)} - {item[:-2] for item in long}
    assert result["counts"]["pairs_scored"] == len(kept)
    assert f"{len(kept)} of 12 pairs could be used" in (out / "results.md").read_text()
    real_lm.model.causal_lm.config.max_position_embeddings = 5
    with pytest.raises(UsageError, match=r"no pair can be scored; .* takes .* steps, but the model has 5 positions"):
        main(config(root, benchmarks="swuggy", baselines="no", out=str(root.parent / "none")))


def test_a_benchmark_that_fails_costs_no_other_benchmark_and_no_other_model(root, monkeypatch, capsys):
    known = {"runs/bad/final": NoNumberLM(name="bad"), "runs/good/final": LevelLM(name="good")}
    monkeypatch.setattr("slm.spoken_lm.load_lm", lambda path, device, vocoder: known[path])
    monkeypatch.setattr("eval.run.check_models", lambda paths: None)
    values = vars(config(root, benchmarks="sblimp,swuggy", baselines="no"))
    argv = [a for key, value in values.items() if isinstance(value, str) for a in (f"--{key}", value) if key != "model"]
    with pytest.raises(SystemExit) as stop:
        run_command(main, EvalConfig, ["--model", json.dumps(list(known)), *argv])
    assert stop.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-2].startswith("error: could not be evaluated")
    assert said[-1].startswith("  bad, sblimp: the model gives NaN")
    assert any(line.startswith("bad, sblimp cannot be evaluated: the model gives NaN") for line in said)
    out = root.parent / "out"
    done = {name: [r["benchmark"] for r in json.loads((out / name / "results.json").read_text())["results"]]
            for name in ("bad", "good")}  # fmt: skip
    assert done == {"bad": ["swuggy"], "good": ["sblimp", "swuggy"]}
    compared = json.loads((out / "comparison.json").read_text())
    assert {t["benchmark"] for t in compared["tests"]} == {"swuggy"}
    assert [(f["model"], f["benchmark"], f["wrong_use"]) for f in compared["failures"]] == [("bad", "sblimp", True)]
    assert "- bad, sblimp: the model gives NaN" in (out / "comparison.md").read_text()


def test_models_that_were_not_scored_on_as_many_items_are_said_to_be(root, monkeypatch, capsys):
    class Short(LevelLM):
        def document(self, codes):
            return codes.codes

        def check_length(self, item, frames):
            if item.startswith("f0"):
                raise UsageError(f"{item} takes {frames} steps, but the model has 1 positions")

    known = {"all/final": LevelLM(name="all"), "few/final": Short(name="few")}
    monkeypatch.setattr("slm.spoken_lm.load_lm", lambda path, device, vocoder: known[path])
    monkeypatch.setattr("eval.run.check_models", lambda paths: None)
    main(config(root, model=list(known), benchmarks="swuggy,sblimp", baselines="no"))
    compared = json.loads((root.parent / "out/comparison.json").read_text())
    [note] = compared["notes"]
    assert note.startswith("swuggy dev, all: n is 6 of all, 5 of few.")
    assert f"NOTE: {note}" in capsys.readouterr().out
    assert f"NOTE: {note}" in (root.parent / "out/comparison.md").read_text()
    assert {t["count"] for t in compared["tests"] if (t["benchmark"], t["name"]) == ("swuggy", "all")} == {5}


def test_a_result_about_other_items_is_not_replaced_in_silence(root, lm, capsys):
    main(config(root, benchmarks="swuggy", baselines="no"))
    main(config(root, benchmarks="swuggy", baselines="no", convention="sum"))
    assert "takes the place" not in capsys.readouterr().err
    write_lexical(root, [(f"g{i}_{c}", i, "v", 5, c) for i in range(3) for c in (0, 1)])
    main(config(root, benchmarks="swuggy", baselines="no"))
    assert "swuggy, dev: takes the place of a result about other items" in capsys.readouterr().err


def test_a_model_that_cannot_be_loaded_costs_no_other(root, monkeypatch):
    def load(path: str, device: str, vocoder: str | None) -> LevelLM:
        if "none" in path:
            raise UsageError("no weights there")
        return LevelLM()

    monkeypatch.setattr("slm.spoken_lm.load_lm", load)
    monkeypatch.setattr("eval.run.check_models", lambda paths: None)
    with pytest.raises(UsageError, match=r"(?s)could not be evaluated .*none: no weights there"):
        main(config(root, model=["none/final", "good/final"], benchmarks="swuggy", baselines="no"))
    out = Path(root.parent / "out")
    assert (out / "good/results.json").is_file()
    assert [m["name"] for m in json.loads((out / "comparison.json").read_text())["models"]] == ["good"]


def test_who_comes_while_a_benchmark_is_tokenized_waits(root, monkeypatch):
    """Two runs on one cache."""
    files = {path.stem: path for path in (root / "lexical/dev").glob("*.wav")}
    begun, made, real = threading.Event(), [], eval.tokens._tokenize

    def slowly(*args):
        made.append(args[-1])
        begun.set()
        time.sleep(0.3)
        real(*args)

    monkeypatch.setattr("eval.tokens._tokenize", slowly)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(tokenize_items, files, LevelLM(), root / "cache", "swuggy-dev")
        assert begun.wait(20)
        second = pool.submit(tokenize_items, files, LevelLM(), root / "cache", "swuggy-dev")
        assert first.result(60).codes.keys() == second.result(60).codes.keys() == files.keys()
    assert len(made) == 1


class HungryLM(LevelLM):
    """Out of memory for every sentence, as a GPU is, and faulty for what lasts 0.5 s."""

    def score_codes(self, codes):
        import torch

        if any(c.duration_s > 0.29 for c in codes):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity")
        return super().score_codes(codes)


def run_several(root: Path, known: dict[str, LevelLM], monkeypatch, **changes) -> int:
    """Exit status of the command over these models."""
    monkeypatch.setattr("slm.spoken_lm.load_lm", lambda path, device, vocoder: known[path])
    monkeypatch.setattr("eval.run.check_models", lambda paths: None)
    values = vars(config(root, **{"benchmarks": "sblimp,swuggy", "baselines": "no", **changes}))
    argv = [a for key, value in values.items() if isinstance(value, str) for a in (f"--{key}", value) if key != "model"]
    with pytest.raises(SystemExit) as stop:
        run_command(main, EvalConfig, ["--model", json.dumps(list(known)), *argv])
    return stop.value.code


def test_memory_that_does_not_do_for_one_costs_that_one_and_says_what_helps(root, monkeypatch, capsys):
    known = {"a/final": LevelLM(name="a"), "b/final": HungryLM(name="b"), "c/final": LevelLM(name="c")}
    assert run_several(root, known, monkeypatch) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "GPU 0" not in said
    assert said.count("b, sblimp cannot be evaluated: out of memory (OutOfMemoryError: CUDA out of memory.") == 1
    assert said.index("b, sblimp cannot") < said.index("model 3 of 3: c")
    assert said.strip().splitlines()[-1].startswith("  b, sblimp: out of memory")
    assert said.count("--batch_steps") == 2
    out = root.parent / "out"
    record = json.loads((out / "b/results.json").read_text())
    assert [r["benchmark"] for r in record["results"]] == ["swuggy"]
    assert [(f["benchmark"], "out of memory" in f["reason"]) for f in record["failed"]] == [("sblimp", True)]
    for file in ("b/results.md", "b/index.html", "comparison.md", "index.html"):
        assert "out of memory (OutOfMemoryError" in (out / file).read_text(), file
    compared = json.loads((out / "comparison.json").read_text())
    assert [m["name"] for m in compared["models"]] == ["a", "b", "c"]
    assert [(t["benchmark"], t["first"], t["second"]) for t in compared["tests"] if t["name"] == "all"] == [
        ("sblimp", "a", "c"), ("swuggy", "a", "b"), ("swuggy", "a", "c"), ("swuggy", "b", "c"),
    ]  # fmt: skip
    known["b/final"] = LevelLM(name="b")  # with memory enough, the failure is gone from the results
    main(config(root, benchmarks="sblimp", baselines="no", out=str(out / "b"), model="b/final"))
    assert json.loads((out / "b/results.json").read_text())["failed"] == []


def test_what_nobody_foresaw_costs_that_one_and_shows_its_place_in_the_code(root, monkeypatch, capsys):
    class Broken(LevelLM):
        def score_codes(self, codes):
            raise KeyError("a bug")

    assert run_several(root, {"a/final": Broken(name="a"), "b/final": LevelLM(name="b")}, monkeypatch) == 1
    said = capsys.readouterr().err
    assert said.count("Traceback") == 2
    assert said.strip().splitlines()[-2:] == ["  a, sblimp: KeyError: 'a bug'", "  a, swuggy: KeyError: 'a bug'"]
    compared = json.loads((root.parent / "out/comparison.json").read_text())
    assert [m["name"] for m in compared["models"]] == ["a", "b"]
    assert {name for row in compared["rows"] for name in row["scores"]} == {"b"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), OSError(28, "No space left on device")])
def test_an_interruption_and_a_full_disk_still_end_the_run(root, monkeypatch, error):
    asked = []

    class Stopped(LevelLM):
        def score_codes(self, codes):
            asked.append(len(codes))
            raise error

    known = {"a/final": Stopped(name="a"), "b/final": Stopped(name="b")}
    assert run_several(root, known, monkeypatch) == {KeyboardInterrupt: 130, SystemExit: 143, OSError: 1}[type(error)]
    assert len(asked) == 1


def test_memory_is_let_go_of_before_the_next_is_scored(root, monkeypatch):
    import weakref

    class Big:
        pass

    held = []

    class Holding(LevelLM):
        def score_codes(self, codes):
            if held:
                assert held[0]() is None
                return super().score_codes(codes)
            big = Big()
            big.me = big
            held.append(weakref.ref(big))
            raise MemoryError

    assert run_several(root, {"a/final": Holding(name="a"), "b/final": LevelLM(name="b")}, monkeypatch) == 1
    record = json.loads((root.parent / "out/a/results.json").read_text())
    assert [r["benchmark"] for r in record["results"]] == ["swuggy"]


def test_a_disk_that_a_model_cannot_be_read_from_costs_it_alone(capsys):
    attempts = Attempts(ALONE, 2)
    with attempts.apart("a"):
        raise OSError(5, "Input/output error", "/models/a/model.safetensors")
    told = capsys.readouterr().err
    assert "a cannot be evaluated: OSError: [Errno 5] Input/output error: '/models/a/model.safetensors'" in told
    assert "Traceback" not in told


def test_a_reader_who_leaves_ends_the_run_and_is_no_failure_of_a_benchmark(monkeypatch):
    class Left(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    attempts = Attempts(ALONE, 2)
    with attempts.apart("a", "swuggy"):
        raise BrokenPipeError("a worker's")
    monkeypatch.setattr("sys.stdout", Left())
    with pytest.raises(BrokenPipeError), attempts.apart("a", "sblimp"):
        print("a table")
    assert [f.where for f in attempts.failures] == ["a, swuggy"]
