"""A Ray cluster, by its address or started here: a task is a shard, actors hold the tokenizer.

https://docs.ray.io/en/latest/ray-core/fault_tolerance/actors.html: Ray restarts an actor that died and runs its task
again; a shard that was whole by then is not made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from slm.corpus.job import Job, Step, go_to, make_shards
from slm.corpus.output import Output
from slm.corpus.plan import Plan
from slm.corpus.shards import shard_name
from slm.devices import choose_device
from slm.errors import UsageError
from slm.tokenizers import load_tokenizer

_CORES_AN_ACTOR = 4  # where there is no GPU
_RESTARTS = 3


def run_ray(
    job: Job,
    indices: Sequence[int],
    on_step: Callable[[Step], None],
    device: str,
    processes: int | None,
    address: str | None,
) -> None:
    """Make the shards of `indices` by `processes` actors (default: one a GPU of the cluster; without GPUs one a 4
    cores). Raises what an actor raises, and RuntimeError where actors die again and again."""
    ray = _ray()
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except ConnectionError as error:
        raise UsageError(f"--ray_address {address}: no Ray cluster answers there ({_first_line(error)})") from None
    try:
        actors = _actors(ray, job, device, processes, len(indices))
        _deal(ray, actors, indices, on_step)
    finally:
        ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise UsageError("--engine ray needs Ray: pip install 'slm-toolkit[ray]'") from None
    return ray


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _actors(ray: Any, job: Job, device: str, processes: int | None, num_shards: int) -> list[Any]:
    has = ray.cluster_resources()
    on_gpu = device.startswith("cuda") or (device == "auto" and has.get("GPU", 0) >= 1)
    if on_gpu and not has.get("GPU"):
        raise UsageError(f"--device {device}: the Ray cluster has no GPU; give --device cpu")
    cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    cores, places = _share(cpus, processes)
    count = (processes or int(has["GPU"])) if on_gpu else places
    needs = {"num_gpus": min(1.0, has["GPU"] / count)} if on_gpu else {"num_cpus": cores}
    actor = ray.remote(max_restarts=_RESTARTS, max_task_retries=_RESTARTS, **needs)(_Maker)
    return [actor.remote(job, "cuda" if on_gpu else device) for _ in range(min(count, num_shards))]


def _share(cpus: Sequence[int], processes: int | None) -> tuple[int, int]:
    """Cores for each actor and number of actors, where machines have so many: an actor is on one of them."""
    for cores in range(_CORES_AN_ACTOR, 0, -1):
        places = sum(cpu // cores for cpu in cpus)
        if places >= (processes or 1):
            return cores, processes or places
    return 0, processes or 1  # more than there are cores: they share them


def _deal(ray: Any, actors: Sequence[Any], indices: Sequence[int], on_step: Callable[[Step], None]) -> None:
    waiting = list(reversed(indices))
    working = {actor.make.remote(waiting.pop()): actor for actor in actors}
    while working:
        done, _ = ray.wait(list(working))
        for task in done:
            actor = working.pop(task)
            try:
                steps = ray.get(task)
            except ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, Exception) else error from None
            except ray.exceptions.RayActorError as error:
                raise RuntimeError(
                    f"an actor died {_RESTARTS + 1} times ({_first_line(error)}): if memory ran out, lower "
                    "--batch_seconds, --num_workers or --processes"
                ) from None
            if waiting:
                working[actor.make.remote(waiting.pop())] = actor
            for step in steps:
                on_step(step)


class _Maker:
    """An actor: a tokenizer that makes the shards it is given."""

    def __init__(self, job: Job, device: str):
        go_to(job.cwd)
        self.job = job
        self.tokenizer = load_tokenizer(job.spec, choose_device(device))

    def make(self, index: int) -> list[Step]:
        output = Output(self.job.out)
        output.bring()
        plan = Plan(output.folder, self.job.base)
        shard = plan.shards[index]
        if shard_name(plan, shard) in output.names():  # an earlier try got so far, and died before it could say so
            return [Step(shard.duration_s, output.record(shard_name(plan, shard)).rejects, index)]
        steps: list[Step] = []
        make_shards(self.job, [index], steps.append, self.tokenizer)
        return steps
