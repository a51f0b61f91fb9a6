"""The import walls: imports point downward only, and looking things up costs no heavy library."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Lower rooms first; a module may import its own room and those before it.
LAYERS = [
    [
        "slm.types",
        "slm.errors",
        "slm.option_names",
        "slm.yaml_files",
        "slm.config",
        "slm.registry",
        "slm.files",
        "slm.run_lock",
        "slm.devices",
        "slm.process_pool",
        "slm.hub",
        "slm.load_report",
    ],
    [
        "slm._segment",
        "slm._stream",
        "slm._folders",
        "slm._headers",
        "slm._ffmpeg",
        "slm._sndfile",
        "slm.audio",
        "slm.units",
        "slm.patterns",
        "slm.tokenizers",
        "slm.model",
    ],
    ["slm.data", "slm.corpus", "slm.training", "slm.generation", "slm.scoring", "slm.unigram_lm"],
    ["slm.spoken_lm", "slm.interleaved_lm", "slm.continuation", "slm.samples"],
    ["eval"],
    ["tokenize_corpus", "train_lm"],
]
FORBIDDEN = [("slm.patterns", "slm.tokenizers"), ("slm.model", "slm.tokenizers"), ("slm.units", "slm.tokenizers"),
             ("slm.audio", "slm.tokenizers"), ("slm.data", "slm.corpus")]  # fmt: skip
# `python -m slm.tokenizers`, `python -m slm.units`: the top, not the room
COMMANDS = {f"slm.tokenizers.{name}" for name in ("__main__", "_fit", "_fit_stream", "_fit_command", "_check_command")}
COMMANDS |= {"slm.units.__main__"}


def modules() -> dict[str, Path]:
    files = [*ROOT.glob("slm/**/*.py"), *ROOT.glob("eval/**/*.py"), ROOT / "train_lm.py", ROOT / "tokenize_corpus.py"]
    names = {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}
    return {name: file for name, file in names.items() if name != "slm"}


def layer_of(name: str) -> int:
    found = [i for i, rooms in enumerate(LAYERS) if any(name == r or name.startswith(r + ".") for r in rooms)]
    assert found, f"{name} has no place in the house: give it one in LAYERS"
    return found[0]


def imports_of(file: Path) -> set[str]:
    made = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            made |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: relative import"
            made |= {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "slm" else {node.module}
    return {m for m in made if m.split(".")[0] in ("slm", "eval") and m not in ("slm", "slm.__version__")}


@pytest.mark.parametrize("name", sorted(set(modules()) - COMMANDS))
def test_imports_point_downward(name):
    for imported in imports_of(modules()[name]):
        assert layer_of(imported) <= layer_of(name), f"{name} imports {imported}, which stands above it"
        for room, other in FORBIDDEN:
            assert not (name.startswith(room) and imported.startswith(other)), f"{name} imports {imported}"


def test_the_lowest_know_nothing_above_them():
    assert imports_of(ROOT / "slm" / "types.py") == set()
    assert imports_of(ROOT / "slm" / "registry.py") <= {"slm.errors"}


@pytest.mark.parametrize("room", ["slm/tokenizers", "slm/patterns", "eval/benchmarks", "eval/metrics"])
def test_a_base_does_not_know_its_children(room):
    package = room.replace("/", ".")
    children = {f"{package}.{f.stem}" for f in (ROOT / room).glob("*.py")} - {f"{package}.base"}
    assert not imports_of(ROOT / room / "base.py") & children


def test_the_test_sees_walls_that_are_broken(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from eval.report import page\n    import slm.spoken_lm\n")
    assert imports_of(bad) == {"eval.report", "slm.spoken_lm"}
    assert layer_of("eval.report") > layer_of("slm.patterns.flat")


HEAVY = "{'torch', 'transformers', 'datasets', 'accelerate', 'sklearn', 'pandas', 'scipy'}"


@pytest.mark.parametrize(
    "statement",
    [
        "import slm",
        "from slm.tokenizers import TOKENIZERS; assert 'mimi' in TOKENIZERS.names()",
        "from slm.patterns import PATTERNS; assert 'delay' in PATTERNS.names()",
        "from eval.benchmarks.base import BENCHMARKS; assert 'swuggy' in BENCHMARKS.names()",
        "from eval.metrics.base import METRICS; assert METRICS.names()",
        "import tokenize_corpus, train_lm, eval.run",
    ],
)
def test_looking_things_up_loads_nothing_heavy(statement):
    code = f"{statement}\nimport sys\nheavy = {HEAVY} & set(sys.modules)\nassert not heavy, heavy"
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr


@pytest.mark.parametrize(
    "command", [["tokenize_corpus.py"], ["train_lm.py"], ["eval/run.py"], ["-m", "eval.minimal_pairs"],
                ["-m", "eval.report"], ["-m", "slm.tokenizers", "fit"], ["-m", "slm.units", "train"]],
)  # fmt: skip
def test_help_is_complete_and_light(command):
    """A newcomer's first command answers fully, and loads no torch for it."""
    code = f"""
import runpy, sys
module, target = {command[0] == "-m"}, {command[-1] if command[0] != "-m" else command[1]!r}
sys.argv = [target, *{command[2:] if command[0] == "-m" else []!r}, "--help"]
try:
    (runpy.run_module if module else runpy.run_path)(target, run_name="__main__")
except SystemExit as stop:
    assert stop.code in (0, None), stop.code
assert "torch" not in sys.modules
"""
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert "--out" in made.stdout
