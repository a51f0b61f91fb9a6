"""The same through `fastabx`, where it is installed (it needs Python 3.12): on the GPU that is asked for, or the CPU.

It is given the same segments in the same triples, and distances between frames that are exactly those of
`eval.abx.distance`: units tie often, and rounded angles would break ties by chance. The errors are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from eval.abx.distance import Representation
from eval.abx.items import Segment
from eval.abx.score import Limits, Speaker, average, make_cells
from slm.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


def fastabx_version() -> str | None:
    """None where it is not installed."""
    try:
        return version("fastabx")
    except PackageNotFoundError:
        return None


def fastabx_errors(
    segments: Sequence[Segment], speaker: Speaker, units: Representation, limits: Limits, device: str = "cpu"
) -> dict[tuple[str, str], float]:
    """As `eval.abx.score.phone_errors`. UsageError where the version that is installed works otherwise."""
    try:
        return _errors(segments, speaker, units, limits, device if device.startswith("cuda") else "cpu")
    except (ImportError, AttributeError, TypeError) as error:
        raise UsageError(
            f"fastabx {fastabx_version()} cannot be used ({error}): install the newest, or uninstall it, and ABX is "
            "computed without it"
        ) from error


def _errors(
    segments: Sequence[Segment], speaker: Speaker, units: Representation, limits: Limits, name: str
) -> dict[tuple[str, str], float]:
    import polars as pl
    import torch
    from fastabx import Dataset, InMemoryAccessor, Score, Task

    cells, within = make_cells(segments, speaker, limits), speaker == "within"
    if not cells:
        return {}
    device = torch.device(name)
    ends = np.cumsum([0, *(len(s.codes) for s in segments)]).tolist()
    codes = torch.from_numpy(np.concatenate([s.codes for s in segments]).astype(np.int64))
    accessor = InMemoryAccessor(dict(enumerate(pairwise(ends))), codes, device)
    dataset = Dataset(pl.DataFrame({"phone": [s.item.phone for s in segments]}), accessor)
    columns: dict[str, list] = {f"index_{side}": [list(getattr(c, side)) for c in cells] for side in "abx"}
    columns |= {name: ["-".join(c.phones) for c in cells] for name in ("header", "description")}
    task = Task.from_cells(dataset, pl.DataFrame(columns), is_symmetric=within)
    on_device = units.moved(lambda array: torch.from_numpy(array).to(device))

    def frame_distances(x: Tensor, y: Tensor) -> Tensor:
        """Codes `[N, S, K]` and `[M, T, K]` -> `[N, M, S, T]`."""
        return on_device.between(x[:, None, :, None], y[None, :, None])

    score = Score(task, frame_distances, alignment=_align_within if within else _align)
    return average(cells, score.cells["score"].to_list())


def _align(costs: Tensor, x_sizes: Tensor, y_sizes: Tensor, *, symmetric: bool) -> Tensor:
    """Frame distances `[N, M, S, T]` -> those of segments `[N, M]`."""
    from torchdtw import dtw_batch

    return dtw_batch(costs, x_sizes, y_sizes, symmetric=symmetric)


def _align_within(costs: Tensor, x_sizes: Tensor, y_sizes: Tensor, *, symmetric: bool) -> Tensor:
    """The same where the first N of the M are X themselves. Of paths that cost the same, which one is taken depends on
    which segment gives the rows: of two of one group it is the earlier one, as in libri-light, whichever is X."""
    made = _align(costs, x_sizes, y_sizes, symmetric=symmetric)
    own = made[:, : len(made)]
    own.copy_(own.triu() + own.triu(1).T)
    return made
