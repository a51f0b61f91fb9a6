"""The same through `fastabx`, where it is installed (it needs Python 3.12): quicker, and on a GPU where there is one.

It is given the codes that `eval.abx.items` cut, so that only what is drawn from large groups differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from eval.abx.distance import Representation
from eval.abx.items import COLUMNS, Segment
from eval.abx.score import Limits, Speaker
from slm.errors import UsageError

CONTEXT = ["prev-phone", "next-phone"]


def fastabx_version() -> str | None:
    """None where it is not installed."""
    try:
        return version("fastabx")
    except PackageNotFoundError:
        return None


def fastabx_errors(
    segments: Sequence[Segment], speaker: Speaker, units: Representation, limits: Limits
) -> dict[tuple[str, str], float]:
    """As `eval.abx.score.phone_errors`. UsageError where the version that is installed works otherwise."""
    try:
        return _errors(segments, speaker, units, limits)
    except (ImportError, AttributeError, TypeError) as error:
        raise UsageError(
            f"fastabx {fastabx_version()} cannot be used ({error}): install the newest, or uninstall it, and ABX is "
            "computed without it"
        ) from error


def _errors(
    segments: Sequence[Segment], speaker: Speaker, units: Representation, limits: Limits
) -> dict[tuple[str, str], float]:
    from fastabx import Dataset, Score, Subsampler, Task

    within = speaker == "within"
    with TemporaryDirectory() as name:
        item, vectors = _write(segments, units, Path(name))
        # One frame a second, so that times are numbers of frames.
        dataset = Dataset.from_item(item, name, 1, feature_maker=vectors, extension=".codes")
    task = Task(
        dataset,
        on="#phone",
        by=[*CONTEXT, "speaker"] if within else CONTEXT,
        across=None if within else ["speaker"],
        subsampler=Subsampler(limits.group, None if within else limits.speakers, limits.seed),
    )
    if not len(task):
        return {}
    rows = Score(task, "angular").details(levels=[(CONTEXT[1], CONTEXT[0]), "speaker"]).iter_rows(named=True)
    return {(row["#phone"], row["#phone_b"]): float(row["score"]) for row in rows}


def _write(segments: Sequence[Segment], units: Representation, folder: Path) -> tuple[Path, Any]:
    """An .item file of all segments, each as a recording of its own, and what gives its vectors by its path."""
    lines = [" ".join(COLUMNS)]
    for i, segment in enumerate(segments):
        item = segment.item
        lines.append(f"{i:07d} 0 {len(segment.codes)} {item.phone} {' '.join(item.context)} {item.speaker}")
        (folder / f"{i:07d}.codes").touch()
    path = folder / "segments.item"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def vectors(file: str | Path) -> Any:
        import torch

        return torch.from_numpy(units.vectors(segments[int(Path(file).stem)].codes))

    return path, vectors
