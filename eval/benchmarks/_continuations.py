"""Continuations to judge: those that `continuation` wrote where they are of the same model and settings, else made."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from eval.benchmarks.base import Generation, LeftOut, Run, Setup
from eval.benchmarks.continuation import Continuation, hash_of_prompts
from eval.tokens import item_list_hash
from slm.files import read_json, write_json

FOLDER = "generation"
_SPEED = ("batch_size", "compile", "temperatures")  # settings that change no continuation


def settings_of(generation: Generation) -> dict[str, Any]:
    """Those that decide what comes out."""
    return {name: value for name, value in asdict(generation).items() if name not in _SPEED}


def find_or_make(setup: Setup, run: Run, temperature: float) -> tuple[list[dict[str, Any]], Path, list[LeftOut]]:
    """The records of prompts.json, the folder that their paths begin at, and the prompts left out."""
    benchmark = Continuation(replace(setup, generation=replace(setup.generation, temperature=temperature)))
    heard = benchmark.read_prompts(run.lm)
    wanted = {
        "model": run.lm.fingerprint,
        "tokenizer": [run.lm.spec.fingerprint, run.lm.spec.decoder_fingerprint],
        "generation": settings_of(benchmark.generation),
        "seed": run.seed,
        "item_list_sha256": item_list_hash(entry.id for entry in benchmark.prompts),
        "prompts": hash_of_prompts(heard[0].values()),
    }
    if found := _of_continuation(run, wanted):
        return found[0], run.out, found[1]
    folder = run.out / FOLDER / f"temperature-{temperature:g}"
    known = folder / "settings.json"
    if known.is_file() and (kept := read_json(known))["wanted"] == wanted:
        return read_json(folder / "continuation/prompts.json"), folder, [LeftOut(**item) for item in kept["left_out"]]
    known.unlink(missing_ok=True)
    result = benchmark.run(replace(run, out=folder), heard)
    write_json(known, {"wanted": wanted, "left_out": [asdict(item) for item in result.left_out]})
    return list(result.details["prompts"]), folder, list(result.left_out)


def _of_continuation(run: Run, wanted: dict[str, Any]) -> tuple[list[dict[str, Any]], list[LeftOut]] | None:
    """What stands in OUT/continuation, where results.json says that it was made just so. results.json is of this model
    alone: another is refused there."""
    results, prompts = run.out / "results.json", run.out / "continuation/prompts.json"
    if not (results.is_file() and prompts.is_file()):
        return None
    record = read_json(results)
    made = next((r for r in record["results"] if r["benchmark"] == "continuation"), None)
    if made is None or record["model"]["fingerprint"] != wanted["model"]:
        return None
    spec = record["tokenizer"]
    same = (
        {k: v for k, v in made["details"]["generation"].items() if k not in _SPEED} == wanted["generation"]
        and made["details"]["seed"] == wanted["seed"]
        and made["item_list_sha256"] == wanted["item_list_sha256"]
        and [spec["fingerprint"], spec["decoder_fingerprint"]] == wanted["tokenizer"]
        and made["details"].get("prompt_audio_sha256") == wanted["prompts"]
    )
    return (read_json(prompts), [LeftOut(**item) for item in made["left_out"]]) if same else None
