"""The ZeroSpeech submission folder, read as its evaluator reads it: its numbers are those of results.json."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from eval.run import main
from slm.types import CodeLogProbs
from tests.eval.material import LevelLM, config, random_lexical, scores, write_lexical


class NoisyLM(LevelLM):
    """Scores of few values that depend on the item's name alone, so that right, wrong and tied pairs occur."""

    def score_codes(self, codes):
        made = []
        for c in codes:
            value = -float(len(c.codes) % 3) - (1.0 if c.codes[0, 0] == self._right_code else 0.5)
            made.append(CodeLogProbs(c.id, np.full(c.codes.shape, value), np.array([-0.125]), c.duration_s))
        return made


@pytest.fixture
def noisy(monkeypatch) -> NoisyLM:
    made = NoisyLM()
    monkeypatch.setattr("slm.spoken_lm.load_lm", lambda path, device, vocoder: made)
    return made


def evaluator(gold: Path, submitted: Path, unit: list[str]) -> float:
    """Join by file name, pair, 1, 1/2 or 0, mean over voices, mean over units."""
    rows = pd.read_csv(gold)
    given = pd.read_csv(submitted, sep=" ", header=None, names=["filename", "score"])
    assert given.score.dtype == float
    assert sorted(given.filename) == sorted(rows.filename)  # every file must be present
    rows = rows.merge(given, on="filename")
    pairs = rows[rows.correct == 1].merge(rows[rows.correct == 0], on=["voice", *unit], suffixes=("", "_non"))
    hit = (pairs.score > pairs.score_non) + 0.5 * (pairs.score == pairs.score_non)
    return float(hit.groupby([pairs[c] for c in unit]).mean().mean())


@pytest.mark.parametrize(
    "convention",
    ["zerospeech", *(pytest.param(n, marks=pytest.mark.thorough) for n in ("mean+eos", "sum", "first-mean"))],
)
def test_the_evaluator_finds_the_same_numbers(root, noisy, convention):
    main(config(root, benchmarks="swuggy,sblimp", convention=convention))
    out = root.parent / "out"
    for name, folder, unit in (("swuggy", "lexical", ["id"]), ("sblimp", "syntactic", ["type", "subtype", "id"])):
        found = evaluator(root / folder / "dev/gold.csv", out / f"submission-sLM21/{folder}/dev.txt", unit)
        assert found == pytest.approx(scores(out, name)["all", convention]["value"])
        assert 0 < found < 1
    results = json.loads((out / "results.json").read_text())["results"]
    assert [r["details"]["submission"] for r in results] == [
        "submission-sLM21/lexical/dev.txt", "submission-sLM21/syntactic/dev.txt",
    ]  # fmt: skip


def test_what_only_authors_know_is_theirs_to_fill_in(root, noisy):
    main(config(root, benchmarks="swuggy"))
    folder = root.parent / "out/submission-sLM21"
    meta = yaml.safe_load((folder / "meta.yaml").read_text())
    assert meta["benchmark_name"] == "sLM21"
    assert {"username", "model_info", "publication", "open_source", "code_url"} <= set(meta)
    assert isinstance(meta["publication"]["publication_year"], int)
    assert meta["publication"]["authors"].startswith("<required")
    description = meta["model_info"]["system_description"]
    assert noisy.fingerprint[:12] in description
    assert "mean+eos" in description
    assert yaml.safe_load((folder / "params.yaml").read_text())["semantic"]["pooling"] == "mean"
    (folder / "meta.yaml").write_text("authors: filled in")
    main(config(root, benchmarks="sblimp"))
    assert (folder / "meta.yaml").read_text() == "authors: filled in"


def test_the_description_names_the_convention_of_the_scores_beside_it(root, noisy):
    """Written anew until its authors have filled it in; from then on the result tells when the two part."""
    meta = root.parent / "out/submission-sLM21/meta.yaml"

    def note_after(convention: str) -> str:
        main(config(root, benchmarks="swuggy", convention=convention))
        return json.loads((root.parent / "out/results.json").read_text())["results"][0]["details"].get("note", "")

    note_after("mean+eos")
    assert "(mean+eos)" in meta.read_text()
    note_after("sum")
    description = yaml.safe_load(meta.read_text())["model_info"]["system_description"]
    assert "(sum)" in description
    assert "mean+eos" not in description
    filled = meta.read_text().replace("<required", "filled in")
    meta.write_text(filled)
    assert "meta.yaml" not in note_after("sum")
    told = "submission-sLM21/meta.yaml is filled in, and does not name the convention of these scores, (mean)"
    assert told in note_after("mean")
    assert meta.read_text() == filled


def test_what_only_pairs_have_cannot_be_submitted(root, noisy):
    main(config(root, benchmarks="swuggy", convention="normalized"))
    details = json.loads((root.parent / "out/results.json").read_text())["results"][0]["details"]
    assert "by convention normalized no wav has a score of its own" in details["note"]
    assert not (root.parent / "out/submission-sLM21").exists()


def test_an_incomplete_file_is_not_left_there(tmp_path, noisy):
    root = write_lexical(tmp_path / "data", random_lexical(4, 1, seed=0))
    main(config(root, benchmarks="swuggy"))
    written = tmp_path / "out/submission-sLM21/lexical/dev.txt"
    assert written.is_file()
    gone = sorted((root / "lexical/dev").glob("*.wav"))[0]
    gone.unlink()
    main(config(root, benchmarks="swuggy"))
    assert not written.exists()
    details = json.loads((tmp_path / "out/results.json").read_text())["results"][0]["details"]
    assert details["submission"] is None
    assert ". No submission-sLM21/lexical/dev.txt: 2 of 8 wavs have no score" in details["note"]
    assert "2 of 8 wavs have no score" in (tmp_path / "out/results.md").read_text()


def test_blanks_in_names_are_no_line_of_a_submission(tmp_path, noisy):
    rows = [(name.replace("_", " ", 1) if i < 2 else name, *rest) for i, (name, *rest) in enumerate(
        random_lexical(4, 1, seed=0))]  # fmt: skip
    main(config(write_lexical(tmp_path / "data", rows), benchmarks="swuggy"))
    details = json.loads((tmp_path / "out/results.json").read_text())["results"][0]["details"]
    assert details["submission"] is None
    assert f"2 of 8 wavs have blanks in their names, such as '{rows[0][0]}'" in details["note"]
    assert not (tmp_path / "out/submission-sLM21/lexical/dev.txt").exists()
