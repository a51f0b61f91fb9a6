"""DDP, FSDP2 and DeepSpeed ZeRO on two processes: each has the losses of one process, and resumes to the bit."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import train_lm
from slm.errors import UsageError
from slm.training.config import ModelConfig, SamplesConfig
from slm.training.engine import refuse_old_deepspeed
from tests.fakes import TINY_BACKBONE
from tests.training.runs import ENV, ROOT, as_arguments, config, losses, reset_accelerate
from tests.training.two_processes import free_port

SIDE = Path(sys.prefix, "deepspeed")  # where `make` puts it: beside the packages, so that only these tests import it
HAS_DEEPSPEED = SIDE.is_dir() or importlib.util.find_spec("deepspeed") is not None
DDP = {"ACCELERATE_USE_CPU": "true"}
FSDP2 = {"ACCELERATE_USE_CPU": "true", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2",
         "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}  # fmt: skip
NO_DEVICE = {k: v for k, v in ENV.items() if k != "ACCELERATE_USE_CPU"}  # which is said by each strategy
STEPS = {"steps": 6, "save_every": 3, "eval_every": 6}


def environment(strategy: str, folder: Path) -> dict[str, str]:
    """As `accelerate launch` sets it, with a DeepSpeed file of the user's own where no parameter is too small to be
    divided."""
    if not strategy.startswith("zero"):
        machines = {**FSDP2, "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}  # each process the only one of its machine
        return {"ddp": DDP, "two machines": machines, "fsdp2": FSDP2, "fsdp1": {**FSDP2, "FSDP_VERSION": "1"}}[strategy]
    file = folder / f"{strategy}.json"
    zero = {"stage": int(strategy[-1]), "stage3_param_persistence_threshold": 0}
    file.write_text(json.dumps({"zero_optimization": zero}))
    return {"ACCELERATE_USE_DEEPSPEED": "true", "DS_ACCELERATOR": "cpu", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}


def beside_deepspeed() -> dict[str, str]:
    path = f"{SIDE}/bin:{os.environ['PATH']}"  # of ninja, with which DeepSpeed compiles where there is a compiler
    return {**NO_DEVICE, "PATH": path, "PYTHONPATH": f"{SIDE}:{ROOT}", "DS_ACCELERATOR": "cpu"}


def ema_decay(strategy: str) -> float:
    return 0.0 if strategy == "zero3" else 0.5


class Jobs:
    """Runs of two processes, put together and then started from one process."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.jobs: list[dict[str, Any]] = []

    def add(self, name: str, strategy: str, c: Any, remove: list[Path] | None = None) -> None:
        made = {"arguments": as_arguments(c, self.folder / f"{name}.yaml"), "log": str(self.folder / f"{name}.log"),
                "environment": environment(strategy, self.folder), "remove": list(map(str, remove or []))}  # fmt: skip
        self.jobs.append(made)

    def start(self, with_deepspeed: bool) -> None:
        file = self.folder / "jobs.json"
        file.write_text(json.dumps(self.jobs))
        env = beside_deepspeed() if with_deepspeed else NO_DEVICE
        subprocess.run([sys.executable, "-m", "tests.training.two_processes", str(file)], cwd=ROOT, env=env, check=True,
                       capture_output=True, timeout=400)  # fmt: skip

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()


@pytest.fixture(scope="module")
def one(corpora, tmp_path_factory) -> dict[float, Path]:
    """Runs of one process, without and with a moving average of the weights."""
    made = {}
    for decay in (0.0, 0.5):
        made[decay] = tmp_path_factory.mktemp("one") / "run"
        reset_accelerate()
        train_lm.main(config(corpora["two"], made[decay], **STEPS, ema_decay=decay))
    reset_accelerate()
    return made


def add_twice(jobs: Jobs, strategy: str, corpora: dict[str, str]) -> None:
    """A run, and the same again after its last checkpoint is lost. Where weights are divided, layers are made again for
    the backward pass, as large models will have it."""
    out = jobs.folder / strategy
    model = ModelConfig(backbone=TINY_BACKBONE, activation_checkpointing=strategy in ("fsdp2", "zero3"))
    samples = SamplesConfig(every=6, count=2, prompt_s=0.2, seconds=0.2)
    c = config(corpora["two"], out, **STEPS, ema_decay=ema_decay(strategy), rows_per_batch=2, accumulation=2,
               samples=samples, model=model)  # fmt: skip
    jobs.add(strategy, strategy, c)
    jobs.add(f"{strategy} again", strategy, c, [out / "final", out / "checkpoints" / "step-0000006"])


def agrees_and_resumes(jobs: Jobs, one: dict[float, Path], strategy: str) -> None:
    first, again = jobs.log(strategy), jobs.log(f"{strategy} again")
    assert first.endswith("status 0 0\n"), first
    assert again.endswith("status 0 0\n"), again
    assert "resuming" in again
    assert "; 2 x 2 x 2 rows a step" in first  # how one sees whether a launcher started as many as asked
    out, alone = jobs.folder / strategy, one[ema_decay(strategy)]
    state = json.loads((out / "checkpoints" / "step-0000006" / "state" / "progress.json").read_text())
    named = {"ddp": "plain", "two machines": "fsdp2"}.get(strategy, strategy)
    assert (state["strategy"], state["processes"]) == (named, 2)
    for (step, key, a), (_, _, b) in zip(losses(alone), losses(out), strict=True):
        assert a == pytest.approx(b, rel=2e-4), (strategy, step, key)
    weights, expected = (load_file(p / "final" / "model.safetensors") for p in (out, alone))
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], atol=2e-4, rtol=1e-3)
    steps = [[line for line in log.splitlines() if line.startswith(("step 4", "step 5", "step 6"))]
             for log in (first, again)]  # fmt: skip
    exact = [[" ".join(line.split()[:9]) for line in lines] for lines in steps]
    assert exact[0] == exact[1]
    assert len(exact[0]) == 3
    assert len(list((out / "samples" / "step-0000006").iterdir())) == 2


def test_ddp_and_fsdp2_agree_with_one_process_and_resume_to_the_bit(corpora, one, tmp_path, capsys):
    jobs = Jobs(tmp_path)
    for strategy in ("ddp", "fsdp2"):
        add_twice(jobs, strategy, corpora)
    more = tmp_path / "more"
    shutil.copytree(one[0.0], more)
    two = config(corpora["two"], more, **STEPS, rows_per_batch=4)
    jobs.add("other strategy", "fsdp2", two, [more / "final", more / "checkpoints" / "step-0000006"])
    jobs.add("more", "ddp", two)
    jobs.add("fsdp1", "fsdp1", config(corpora["two"], tmp_path / "old", **STEPS))
    jobs.start(with_deepspeed=False)
    for strategy in ("ddp", "fsdp2"):
        agrees_and_resumes(jobs, one, strategy)

    assert "FSDP version 1 is not supported" in jobs.log("fsdp1")
    assert not (tmp_path / "old").exists()
    assert "was begun with strategy 'plain'" in jobs.log("other strategy")
    assert "2 processes go on where 1 stopped: the same rows in the same order" in jobs.log("more")
    for (step, key, a), (_, _, b) in zip(losses(one[0.0]), losses(more), strict=True):
        assert a == pytest.approx(b, rel=2e-4), (step, key)

    fewer = tmp_path / "ddp"
    shutil.rmtree(fewer / "final")
    shutil.rmtree(fewer / "checkpoints" / "step-0000006")
    reset_accelerate()
    train_lm.main(config(corpora["two"], fewer, **STEPS, ema_decay=0.5))
    assert "1 process goes on where 2 stopped: the same rows in the same order" in capsys.readouterr().out
    for (step, key, a), (_, _, b) in zip(losses(one[0.5]), losses(fewer), strict=True):
        assert a == pytest.approx(b, rel=2e-4), (step, key)


@pytest.mark.thorough
def test_fsdp2_over_two_machines_agrees_with_one_process_and_resumes_to_the_bit(corpora, one, tmp_path):
    jobs = Jobs(tmp_path)
    add_twice(jobs, "two machines", corpora)
    jobs.start(with_deepspeed=False)
    agrees_and_resumes(jobs, one, "two machines")


@pytest.mark.skipif(not HAS_DEEPSPEED, reason="needs DeepSpeed: make install")
@pytest.mark.thorough
def test_deepspeed_agrees_with_one_process_and_resumes_to_the_bit(corpora, one, tmp_path):
    jobs = Jobs(tmp_path)
    for stage in (1, 2, 3):
        add_twice(jobs, f"zero{stage}", corpora)
    jobs.add("refused", "zero3", config(corpora["two"], tmp_path / "refused", **STEPS, ema_decay=0.5))
    jobs.start(with_deepspeed=True)
    for stage in (1, 2, 3):
        agrees_and_resumes(jobs, one, f"zero{stage}")
    assert "ema_decay needs whole parameters" in jobs.log("refused")
    assert not (tmp_path / "refused").exists()


def test_a_deepspeed_that_learns_from_other_gradients_is_refused():
    refuse_old_deepspeed("0.19.1+0f8c9a7")
    with pytest.raises(UsageError, match=r"0.18.2 may add up gradients wrongly: pip install 'deepspeed>=0.19.1'"):
        refuse_old_deepspeed("0.18.2")


def test_accelerate_files_are_ones_that_it_reads():
    from accelerate.commands.config.config_args import load_config_from_file

    kinds = {"ddp": "MULTI_GPU", "multi-node": "MULTI_GPU", "one-process": "NO", "fsdp2": "FSDP",
             **{f"zero{stage}": "DEEPSPEED" for stage in (1, 2, 3)}}  # fmt: skip
    files = {file.stem: file for file in (ROOT / "configs" / "accelerate").glob("*.yaml")}
    assert files.keys() == kinds.keys()
    for name, kind in kinds.items():
        loaded = load_config_from_file(str(files[name]))
        assert loaded.distributed_type.value == kind
        if kind == "DEEPSPEED":
            assert loaded.deepspeed_config["zero_stage"] == int(name[-1])
    assert load_config_from_file(str(files["fsdp2"])).fsdp_config["fsdp_version"] == 2


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero1", "zero2", "zero3", "multi-node"])
def test_the_shipped_files_start_two_processes(corpora, one, tmp_path, name):
    """As a user starts them, `accelerate launch --config_file`; of several machines each starts its own."""
    if name.startswith("zero") and not HAS_DEEPSPEED:
        pytest.skip("needs DeepSpeed: make install")
    arguments = as_arguments(config(corpora["two"], tmp_path / "run", **STEPS, rows_per_batch=4), tmp_path / "c.yaml")
    address = ["--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port())]
    machines = [["--num_machines", "2", "--machine_rank", str(i), *address] for i in (0, 1)]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    launch += ["--config_file", f"configs/accelerate/{name}.yaml"]
    env = beside_deepspeed() if name.startswith("zero") else ENV
    started = [
        subprocess.Popen([*launch, *more, "train_lm.py", *arguments], cwd=ROOT, env=env, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for more in (machines if name == "multi-node" else [[]])
    ]  # fmt: skip
    said = [process.communicate(timeout=200)[0] for process in started]
    assert [process.returncode for process in started] == [0] * len(started), said
    state = json.loads((tmp_path / "run/checkpoints/step-0000006/state/progress.json").read_text())
    assert (state["strategy"], state["processes"]) == ({"ddp": "plain", "multi-node": "plain"}.get(name, name), 2)
    for (step, key, a), (_, _, b) in zip(losses(one[0.0]), losses(tmp_path / "run"), strict=True):
        assert a == pytest.approx(b, rel=2e-4), (step, key)


@pytest.mark.parametrize("depth", [{}, {**TINY_BACKBONE, "num_hidden_layers": 1}])
def test_any_division_of_a_step_has_the_same_gradients(corpora, depth):
    """8 rows as 1 x 8, 2 x 4 and 8 x 1 micro-batches, in float64 so that only the arithmetic could differ."""
    from slm.training.evaluation import to_device
    from slm.training.setup import load_data, make_loader, make_model, make_pattern

    found = []
    for rows, accumulation in [(8, 1), (4, 2), (1, 8)]:
        c = config(corpora["two"], Path("x"), rows_per_batch=rows, accumulation=accumulation,
                   codebook_weights=[100.0, 1.0], model=ModelConfig(backbone=TINY_BACKBONE, depth=depth))  # fmt: skip
        data = load_data(c)
        pattern = make_pattern(c, data)
        model = make_model(c, pattern).double()
        batches = [to_device(b, torch.device("cpu")) for b in make_loader(c, data, pattern, 0, 1).batches(0)]
        weight = torch.stack([model.target_weight(ids, mask) for ids, mask, *_ in batches]).sum()
        for batch in batches:
            (model(*batch).weighted_nll / weight).backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    for gradients in found[1:]:
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, found[0][name], atol=1e-12, rtol=1e-9)
