"""The documented example package, installed as a user would: listed, loaded by name, and used on a folder of audio."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile

from tests.tokenizers.speech import real_clips

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "docs" / "example_tokenizer_package"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed: by pip, or, where its build backend is not there, as pip leaves it."""
    folder = tmp_path_factory.mktemp("site")
    if find_spec("hatchling") and find_spec("pip"):
        source = tmp_path_factory.mktemp("source") / "package"
        shutil.copytree(PACKAGE, source)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*command, "--target", str(folder), str(source)], check=True)
        return folder
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    ((group, entries),) = project["entry-points"].items()
    lines = [f"[{group}]", *(f"{name} = {target}" for name, target in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    shutil.copy(PACKAGE / "mulaw_tokenizer.py", folder)
    return folder


def run(site: Path, *args: str) -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *args], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_listed_and_has_a_page(site: Path) -> None:
    rows = [line.split() for line in run(site, "-m", "slm.tokenizers", "--runnable").splitlines()]
    assert ["mulaw", "mulaw"] in [[row[0], row[-1]] for row in rows if row]
    assert "256 x 8 at 1000 Hz from 8 kHz" in run(site, "-m", "slm.tokenizers", "mulaw")
    wanted = ["--quantizer", "SQ", "--streamable", "--max_bitrate_bps", "64000", "--json"]
    found = {row["name"]: row for row in json.loads(run(site, "-m", "slm.tokenizers", *wanted))}
    assert found["mulaw"]["bitrate_bps"] == 64_000
    assert "mulaw" not in run(site, "-m", "slm.tokenizers", *wanted, "--domain", "music")


def test_it_tokenizes_a_folder(site: Path, tmp_path: Path) -> None:
    clips = real_clips(8000, 3)
    (tmp_path / "audio").mkdir()
    for clip in clips:
        soundfile.write(tmp_path / "audio" / f"{clip.id}.wav", clip.samples, 8000, subtype="FLOAT")
    out = tmp_path / "tokens"
    run(site, "tokenize_corpus.py", "--audio", str(tmp_path / "audio"), "--tokenizer", "mulaw", "--out", str(out))
    rows = {Path(row["id"]).stem: np.array(row["codes"]) for row in datasets.load_from_disk(str(out))}
    assert set(rows) == {clip.id for clip in clips}
    for clip in clips:
        codes = rows[clip.id]
        assert codes.shape == (len(clip.samples) // 8, 8)
        level = codes.reshape(-1) / 255 * 2 - 1  # the inverse of the mu-law curve
        samples = np.sign(level) * (256 ** np.abs(level) - 1) / 255
        assert np.abs(samples - clip.samples[: len(samples)]).max() < 0.025


def test_its_own_tests_pass(site: Path) -> None:
    assert "5 passed" in run(site, "-m", "pytest", "-p", "no:cacheprovider", str(PACKAGE))
