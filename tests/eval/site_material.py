"""What the tests of the site are given: models on two benchmarks, tokenizers alone, a comparison."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from eval.report.__main__ import main as report
from eval.run import main
from tests.eval.material import LevelLM, config, random_lexical, write_level, write_lexical


def write_reconstruction(out: Path, like: Path, name: str, sizes: list[int], rate_hz: float, gain: float) -> Path:
    """Results of a tokenizer alone, at 1, 2, .. codebooks, with one recording: `gain` a codebook more is better."""
    record = json.loads((like / "results.json").read_text())
    spec = {**record["tokenizer"], "name": name, "codebook_sizes": sizes, "frame_rate_hz": rate_hz,
            "sample_rate_hz": 24000, "bitrate_bps": rate_hz * float(np.log2(sizes).sum())}  # fmt: skip
    made = []
    for k in range(1, len(sizes) + 1):
        common = {"item": f"reconstruction/dev/speech/{k}", "convention": "aligned", "count": 7, "interval": None}
        bits = rate_hz * float(np.log2(sizes[:k]).sum())
        made += [{**common, "metric": "bitrate", "value": bits, "unit": "bit/s"},
                 {**common, "metric": "pair_accuracy", "value": gain * k, "unit": "fraction"}]  # fmt: skip
    (out / "rec").mkdir(parents=True)
    for part in ("original", "reconstruction"):
        soundfile.write(str(out / f"rec/{part}.wav"), 0.3 * np.sin(np.arange(4800) / 5), 24000)
    files = {"original": "original.wav", "reconstruction": "reconstruction.wav", "outside": "../../data/p0.wav"}
    result = record["results"][0] | {
        "benchmark": "reconstruction", "headline": "", "scores": {"model": made}, "left_out": [], "meanings": {},
        "details": {"samples": [{"id": "p0", "folder": "rec", "files": files}], "absent": {"visqol": "pip install it"}},
    }  # fmt: skip
    text = json.dumps({**record, "model": None, "tokenizer": spec, "corpus": None, "results": [result]})
    (out / "results.json").write_text(text)
    return out


SWEPT = {
    "points": [{"temperature": 1.1, "vert": 0.35, "gen_ppl": 150.0}, {"temperature": 0.5, "vert": 0.5, "gen_ppl": 20.0},
               {"temperature": 0.8, "vert": 0.3, "gen_ppl": 60.0}, {"temperature": 0.1, "vert": 0.9, "gen_ppl": None}],
    "recordings": {"vert": 0.4, "gen_ppl": 80.0},
    "anchored": {"perplexity_at_vert": 40.0, "vert_at_perplexity": None},
}  # fmt: skip
JUDGED = [
    {"id": "p0", "texts": {"prompt": "hello", "continuation": ""}, "distillmos": None},
    {"id": "p1", "texts": {"prompt": "well <then>", "continuation": "so it goes", "whole": "well then so it goes"},
     "dnsmos": {"dnsmos_ovrl": 3.21}, "utmos": {"utmos": 2.5}, "text_lm_rating": 1.75,
     "nll_nats_per_token": math.log(20)},
]  # fmt: skip


def add_generation(out: Path) -> None:
    """To results: what judges said of the continuations, and a sweep of temperatures."""
    record = json.loads((out / "results.json").read_text())
    like = next(r for r in record["results"] if r["benchmark"] == "continuation")
    score = {"item": "generation/prompts/continuation", "metric": "gen_ppl", "value": 20.0, "unit": "perplexity",
             "convention": "judged", "count": 3, "interval": [10.0, 30.0]}  # fmt: skip
    details = {"judged": JUDGED, "sweep": SWEPT, "absent": {}}
    record["results"].append({**like, "benchmark": "generation", "scores": {"model": [score]}, "details": details})
    (out / "results.json").write_text(json.dumps(record))


def write_results(base: Path) -> list[Path]:
    """Two models on two benchmarks, two tokenizers alone, a comparison. Nothing is written to them later."""
    lm = LevelLM()
    root = base / "data"
    write_lexical(root, random_lexical(6, 2, seed=0))
    for i in range(3):
        write_level(root / f"prompts/p{i}.wav", 0.1 * (i + 1), duration_s=0.5)
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slm.spoken_lm.load_lm", lambda path, device, vocoder: lm)
        for name, right in (("good", -1.0), ("bad", -3.0)):
            lm.right, lm.fingerprint = right, name * 8
            out, model = str(base / f"out-{name}"), str(base / name / "final")
            one = config(root, model=model, out=out, baselines="no", benchmarks="swuggy,continuation")
            (base / name).mkdir()
            (base / name / "metrics.jsonl").write_text((base / "run/metrics.jsonl").read_text())
            main(one)
            made.append(base / f"out-{name}")
    add_generation(base / "out-good")
    state = base / "good/checkpoints/step-0000090/state"
    state.mkdir(parents=True)
    (state / "progress.json").write_text(json.dumps({"steps": 90, "flops": 1.8e12}))
    test = {
        "benchmark": "swuggy", "split": "dev", "name": "all", "convention": "sum", "first": "good", "second": "bad",
        "difference": -1.0, "interval": [-1.0, -1.0], "p_value": 0.03, "count": 6, "within_noise": False,
    }  # fmt: skip
    (base / "both").mkdir()
    models = [{"name": "good"}, {"name": "bad"}]
    (base / "both/comparison.json").write_text(json.dumps({"models": models, "rows": [], "tests": [test]}))
    made += [write_reconstruction(base / "a", made[0], "mimi", [2048] * 4, 12.5, 0.2)]
    made += [write_reconstruction(base / "b", made[0], "encodec", [1024] * 2, 75.0, 0.1)]
    return [*made, base / "both"]


def build(given: list[Path], site: Path) -> Path:
    assert report([*map(str, given), "--out", str(site)]) == 0
    return site
