"""Plots of a site as Plotly figures: plain dictionaries, with the same numbers as a table for whoever cannot see them.

The script that draws them comes with the `plotly` package, of which nothing else is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from eval.benchmarks.base import MODEL
from eval.report.columns import COUNT, without_count
from eval.report.drawing import MOST_POINTS, is_number, thin_out
from eval.report.inputs import Evaluated, Training
from eval.report.rows import CHANCE, headline_score, short_name
from eval.report.wording import few, label

INSTALL = "pip install 'slm-toolkit[report]'"
QUALITY = "reconstruction"  # benchmarks whose name begins so are plotted against bitrate
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """A line; `labels`, where there are some, stand beside its points."""

    name: str
    points: Points
    labels: tuple[str, ...] = ()

    def table(self, most: int = 12) -> list[tuple[str, float, float]]:
        """(label, x, y) of each point, of a long line some and the last."""
        rows = [
            (label, *point) for label, point in zip(self.labels or ("",) * len(self.points), self.points, strict=True)
        ]
        return rows if len(rows) <= most else [*rows[: -1 : len(rows) // most + 1], rows[-1]]

    def trace(self, lines: bool) -> dict[str, Any]:
        """As Plotly has it."""
        mode = "lines+markers" if lines and len(self.points) > 1 else "markers"
        points = self.points if self.labels else thin_out(self.points)
        made: dict[str, Any] = {"type": "scatter", "mode": mode, "name": self.name,
                                "x": [x for x, _ in points], "y": [y for _, y in points]}  # fmt: skip
        if self.labels:
            made |= {"text": list(self.labels), "mode": f"{mode}+text", "textposition": "top center"}
            made["cliponaxis"] = False
        return made


@dataclass(frozen=True)
class View:
    """One choice of what to plot."""

    name: str
    x: str
    y: str
    series: tuple[Series, ...]
    log_x: bool = False
    chance: float | None = None
    lines: bool = True

    def figure(self) -> dict[str, Any]:
        """`data` and `layout` of Plotly. Colours are left to the page, which knows whether it is dark."""
        data = [s.trace(self.lines) for s in self.series]
        layout: dict[str, Any] = {
            "xaxis": {"title": {"text": self.x}, "type": "log" if self.log_x else "linear"},
            "yaxis": {"title": {"text": self.y}},
        }
        if self.chance is not None:
            line = {"dash": "dot", "width": 1}
            layout["shapes"] = [{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": self.chance,
                                 "y1": self.chance, "line": line}]  # fmt: skip
        return {"data": data, "layout": layout}


@dataclass(frozen=True)
class Plot:
    """A plot with its views; none of them: `absent` says why."""

    key: str
    title: str
    about: str
    views: tuple[View, ...]
    absent: str = ""


def plotly_script() -> Path | None:
    """plotly.min.js of the installed package; None without it."""
    found = find_spec("plotly")
    path = Path(found.origin).parent / "package_data" / "plotly.min.js" if found and found.origin else None
    return path if path and path.is_file() else None


def make_plots(evaluated: Sequence[Evaluated], trainings: Sequence[Training]) -> list[Plot]:
    return [quality_plot(evaluated), zero_shot_plot(evaluated), sweep_plot(evaluated), compute_plot(trainings)]


def quality_plot(evaluated: Sequence[Evaluated]) -> Plot:
    """What comes out of a tokenizer against the bits that go in: a view for each measure, a line for each tokenizer."""
    views: dict[tuple[str, str], dict[str, Points]] = {}
    for run in evaluated:
        for result in run.record["results"]:
            if not result["benchmark"].startswith(QUALITY):
                continue
            scores = result["scores"].get(MODEL, [])
            rates = {s["item"]: s["value"] for s in scores if s["unit"] in ("bit/s", "bits/s", "bps")}
            for s in scores:
                x = rates.get(s["item"], nominal_bps(run, s["item"]))
                if (s["item"] in rates and s["value"] == rates[s["item"]]) or not _finite(x, s["value"]):
                    continue
                kind = without_count(short_name(result, s["item"]))
                name = f"{run.name}, {kind}" if kind else run.name
                views.setdefault((label(s["metric"]), s["unit"]), {}).setdefault(name, []).append((x, s["value"]))
    made = [View(_axis(m, u), "bits per second of audio", _axis(m, u), _series(found), log_x=True)
            for (m, u), found in views.items()]  # fmt: skip
    about = "What comes back from a tokenizer against the bits per second that it takes, for each number of codebooks."
    absent = "" if made else "No tokenizer's reconstruction: eval/run.py --tokenizer NAME --benchmarks reconstruction."
    return Plot("quality", "Quality against bitrate", about, tuple(made), absent)


def nominal_bps(run: Evaluated, item: str) -> float:
    """Of the codebooks that the last number of an item's name counts; of all where it has none. NaN for recordings of
    which nobody knows what made them."""
    spec = run.record["tokenizer"]
    sizes, found = spec["codebook_sizes"], COUNT.search(item)
    if not sizes or spec["frame_rate_hz"] is None:
        return math.nan
    count = int(found[1]) if found else len(sizes)
    return spec["frame_rate_hz"] * sum(math.log2(size) for size in sizes[:count])


def zero_shot_plot(evaluated: Sequence[Evaluated]) -> Plot:
    """Accuracy of each model against how many bits it needs, by its own likelihoods and by its tokenizer's codes."""
    axes: dict[str, Callable[[Evaluated, Mapping[str, Any]], float | None]] = {
        "bits per second that the model needs": lambda run, result: _bits_per_s(result),
        "bits per second of the tokenizer's codes": lambda run, _: run.record["tokenizer"].get("bitrate_bps"),
    }
    views: dict[tuple[str, str, str], list[Series]] = {}
    plotted: dict[str, Evaluated] = {}
    for run in evaluated:
        for result in run.record["results"]:
            if not result["headline"] or (score := headline_score(result))["metric"] not in CHANCE:
                continue
            for x_name, reader in axes.items():
                if (x := reader(run, result)) is not None and _finite(x, score["value"]):
                    key = (f"{result['benchmark']} {result['split']}", score["convention"], x_name)
                    views.setdefault(key, []).append(Series(run.name, [(x, 100 * score["value"])]))
                    plotted.setdefault(run.name, run)
    made = [View(f"{b} ({c}), {x}", x, f"{b}, accuracy (%)", tuple(s), log_x=True, chance=50.0)
            for (b, c, x), s in views.items()]  # fmt: skip
    about = (
        "Each point is a model. Guessing gives 50 % (dotted). Fewer bits are better only between models that "
        "have the same to tell: a coarser tokenizer has less."
    )
    about += dedup_note(list(plotted.values()))
    absent = "" if made else "No benchmark of minimal pairs is among the results."
    return Plot("zero-shot", "Zero-shot score against bits per second", about, tuple(made), absent)


def dedup_note(evaluated: Sequence[Evaluated]) -> str:
    """What `wording.DEDUP` says of one model, of those among several that it is true of; "" for none."""
    names = [run.name for run in evaluated if run.is_deduplicated]
    if not names:
        return ""
    return (
        f" Models of deduplicated units ({', '.join(names)}) read runs of equal codes as one, so how long each lasts "
        "is not counted: their bits are fewer than all codes would take, and only comparable with those of other "
        "deduplicated models over the same tokenizer."
    )


def _bits_per_s(result: Mapping[str, Any]) -> float | None:
    """On the right items, which are ordinary speech."""
    found = [s for s in result["scores"][MODEL] if s["metric"] == "bits_per_s"]
    right = [s for s in found if s["item"].endswith("right items")]
    return (right or found)[0]["value"] if found else None


def sweep_plot(evaluated: Sequence[Evaluated]) -> Plot:
    """The curve of each model over temperatures: perplexity of what it says against VERT; recordings; and where the
    curve meets theirs. Points go by temperature, not by VERT."""
    views: dict[str, list[Series]] = {}
    for run in evaluated:
        for result in run.record["results"]:
            if swept := result["details"].get("sweep"):
                own = views.setdefault(f"{result['benchmark']}, {result['split']}", [])
                own += [s for s in swept_series(run.name, swept) if s.points and s not in own]
    made = [View(name, "VERT (%): less is more diverse", "perplexity of the transcripts", tuple(series))
            for name, series in views.items() if series]  # fmt: skip
    about = (
        "A model that is sampled colder says likelier and duller things, so models compare along the whole curve, and "
        "with recordings where it meets their VERT or their perplexity. A curve that does not come there has no such "
        "point. Perplexities of different text models or recognizers cannot be compared."
    )
    absent = (
        "" if made else "No temperatures were swept: --benchmarks generation --generation.temperatures 0.5,0.8,1.1."
    )
    return Plot("sweep", "Perplexity against diversity", about, tuple(made), absent)


def swept_series(name: str, swept: Mapping[str, Any]) -> list[Series]:
    """The curve, the recordings, and the two points where they meet."""
    points = sorted(swept["points"], key=lambda p: p["temperature"])
    found = [(p["vert"], p["gen_ppl"], f"T={p['temperature']:g}") for p in points if _finite(p["vert"], p["gen_ppl"])]
    real, met = swept["recordings"], swept["anchored"]
    made = [Series(name, [(100 * x, y) for x, y, _ in found], tuple(label for _, _, label in found))]
    for title, x, y in (
        ("recordings", real["vert"], real["gen_ppl"]),
        (f"{name} at the recordings' VERT", real["vert"], met["perplexity_at_vert"]),
        (f"{name} at the recordings' perplexity", met["vert_at_perplexity"], real["gen_ppl"]),
    ):
        if _finite(x, y):
            made.append(Series(title, [(100 * x, y)]))
    return made


LOSSES = {
    "eval_bits_per_s": "held out, bits per second of audio",
    "eval_nats_per_code": "held out, nats per code",
    "train_nats_per_code": "training, nats per code",
}


COMPARED = (
    "Nats per code can only be compared between models that read the same units of one tokenizer: a byte pair and a "
    "run of equal codes each count as one code. Bits per second of audio can be compared between all, with care, "
    "because a coarser tokenizer has less to tell; but those of models of deduplicated units, which code no durations, "
    "only among themselves."
)


def compute_plot(trainings: Sequence[Training]) -> Plot:
    """Loss against floating-point operations, for the runs that say what a step costs."""
    costed = [t for t in trainings if t.flops_per_step]
    views = []
    for key, name in LOSSES.items():
        series = [Series(t.name, [(x * (t.flops_per_step or 0.0), y) for x, y in curve(t, key)]) for t in costed]
        if series := [s for s in series if s.points]:
            views.append(View(name, "training compute (FLOPs)", name, tuple(series), log_x=True))
    without = [t.name for t in trainings if not t.flops_per_step]
    about = COMPARED
    if views and without:
        about += f" Without {few(without)}, whose run folder (checkpoints/) is not at hand."
    absent = "" if views else "No run says what it has spent: give the run folder itself, with its checkpoints/."
    return Plot("compute", "Loss against compute", about, tuple(views), absent)


def training_plot(trainings: Sequence[Training]) -> Plot:
    """Every logged number by step."""
    keys = list(dict.fromkeys(k for t in trainings for line in t.lines for k, v in line.items()
                              if k != "step" and isinstance(v, int | float)))  # fmt: skip
    keys.sort(key=lambda k: list(LOSSES).index(k) if k in LOSSES else len(LOSSES))
    views = []
    for key in keys:
        series = [s for t in trainings if (s := Series(t.name, curve(t, key))).points]
        if series:
            name = LOSSES.get(key, key.replace("_", " "))
            views.append(View(name, "step", name, tuple(series)))
    absent = "" if views else "No training curve is among what was given: give a run folder, with its metrics.jsonl."
    about = f"What was logged, by optimizer step. {COMPARED}"
    if any(len(series.points) > MOST_POINTS for view in views for series in view.series):
        about += " Of long curves the lowest and the highest value of each stretch are drawn."
    return Plot("training", "Training curves", about, tuple(views), absent)


def curve(training: Training, key: str) -> Points:
    found = [(float(line["step"]), line.get(key)) for line in training.lines]
    return [(x, float(y)) for x, y in found if is_number(y)]


def _series(found: Mapping[str, Points]) -> tuple[Series, ...]:
    return tuple(Series(name, sorted(points)) for name, points in found.items())


def _axis(name: str, unit: str) -> str:
    return f"{name} ({unit})" if unit and unit not in ("1", "fraction") else name


def _finite(*values: float | None) -> bool:
    return all(v is not None and math.isfinite(v) for v in values)
