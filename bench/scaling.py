"""How loss falls with compute: several small models at several budgets, trained by `train_lm.py`, and a law fitted.

    python -m bench.scaling --data CORPUS --out FOLDER [--widths 64,128,192] [--budgets 3e12,1e13,3e13] [--config FILE]

Every width (a Llama of one layer for each 32 of it) is trained at every budget in FLOPs, each a run of its own in
FOLDER with its schedule ended by then; killed, the same command goes on. The loss is nats per code on held-out clips at
the end. The law is fitted to the lower hull, the runs that none reaches with less compute (arXiv 2001.08361):

    loss = a + b (compute / c0) ^ -c     c0 the geometric mean of the compute of the hull
    loss =     b (compute / c0) ^ -c     a straight line where both axes are logarithmic

Standard errors are those of least squares. FOLDER/scaling.html draws runs, hull and laws, and opens from disk. Options
of --config (YAML of train_lm.py) go to all runs, such as pattern, dedup, row_length.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).parents[1]
_CSS = """svg { width: 100%; max-width: 760px; font: 12px sans-serif } path { fill: none; stroke: #4477aa }
.hull { fill: #4477aa } .other { fill: #4477aa55 }"""


class Run(NamedTuple):
    name: str
    flops: float
    loss: float


class Law(NamedTuple):
    """`a + b x ** -c` with x = compute / c0; `errors` are the standard errors of a, b, c (nan where n is too small)."""

    a: float
    b: float
    c: float
    c0: float
    errors: tuple[float, float, float]

    def __call__(self, flops: np.ndarray) -> np.ndarray:
        return self.a + self.b * (flops / self.c0) ** -self.c


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description="Loss against compute.")
    parser.add_argument("--data", type=Path, required=True, help="a tokenized corpus")
    parser.add_argument("--out", type=Path, required=True, help="where the runs go")
    parser.add_argument("--widths", default="64,128,192", help="hidden sizes, multiples of 32")
    parser.add_argument("--budgets", default="3e12,1e13,3e13", help="training FLOPs")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak rate at width 128; others in inverse proportion")
    parser.add_argument("--config", type=Path, help="options of train_lm.py that all runs share")
    options = parser.parse_args(arguments)
    runs = [
        trained(options, int(width), budget)
        for budget in options.budgets.split(",")
        for width in options.widths.split(",")
    ]
    best = hull(runs)
    print(f"\n{'run':<16} {'FLOPs':>10} {'nats per code':>14}")
    for run in runs:
        print(f"{run.name:<16} {run.flops:>10.2e} {run.loss:>14.4f} {'hull' if run in best else ''}".rstrip())
    if len(best) < 3:
        sys.exit(f"error: a law needs 3 runs on the hull, not {len(best)}: give more budgets")
    flops, losses = (np.array([getattr(run, field) for run in best]) for field in ("flops", "loss"))
    laws = {"a + b C^-c": fit(flops, losses)} if len(best) > 3 else {}
    laws["b C^-c"] = fit_line(flops, losses)
    for name, law in laws.items():
        numbers = zip("abc", law[:3], law.errors, strict=True)
        values = "   ".join(f"{k} {v:.4f} ± {e:.4f}" for k, v, e in numbers if k in name)
        print(f"{name:<12} {values}   c0 {law.c0:.3g}")
    if len(laws) < 2:
        print(f"a + b C^-c is left out: it needs 4 runs on the hull, not {len(best)}")
    (options.out / "scaling.html").write_text(page(runs, best, laws), encoding="utf-8")
    print(options.out / "scaling.html")


def trained(options: argparse.Namespace, width: int, budget: str) -> Run:
    """The result of one run, which is made unless it is there."""
    name = f"{width}-{float(budget):.0e}"
    out = (options.out / name).resolve()
    backbone = {"model_type": "llama", "hidden_size": width, "intermediate_size": 8 * width // 3,
                "num_hidden_layers": width // 32, "num_attention_heads": width // 32,
                "num_key_value_heads": width // 32, "max_position_embeddings": 2048}  # fmt: skip
    shared = (
        ["--config", str(options.config.resolve())]
        if options.config
        else ["--row_length", "256", "--rows_per_batch", "4"]
    )
    command = [sys.executable, "train_lm.py", *shared, "--data", str(options.data.resolve()), "--out", str(out),
               "--model.backbone", json.dumps(backbone), "--budget", f"{budget} flops",
               "--optimizer.lr", repr(options.lr * 128 / width), "--optimizer.warmup_ratio", "0.1",
               "--eval_every", "1000000"]  # fmt: skip
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
    last = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()][-1]
    progress = max((out / "checkpoints").glob("step-*")) / "state" / "progress.json"
    return Run(name, json.loads(progress.read_text(encoding="utf-8"))["flops"], last["eval_nats_per_code"])


def hull(runs: Sequence[Run]) -> list[Run]:
    """The runs than which none with as little compute has a lower loss, by compute."""
    best: list[Run] = []
    for run in sorted(runs, key=lambda run: (run.flops, run.loss)):
        if not best or run.loss < best[-1].loss:
            best.append(run)
    return best


def fit(flops: np.ndarray, losses: np.ndarray) -> Law:
    """Least squares in nats. For each c the rest is linear, so c alone is searched, ever more finely."""
    c0 = float(np.exp(np.log(flops).mean()))
    x, low, high = flops / c0, 1e-3, 3.0

    def linear(c: float) -> tuple[float, np.ndarray]:
        columns = np.stack([np.ones_like(x), x**-c], axis=1)
        solution = np.linalg.lstsq(columns, losses, rcond=None)[0]
        return float(((columns @ solution - losses) ** 2).sum()), solution

    for _ in range(12):
        grid = np.geomspace(low, high, 41)
        i = int(np.argmin([linear(c)[0] for c in grid]))
        low, high = grid[max(0, i - 1)], grid[min(40, i + 1)]
    (a, b), c = linear(grid[i])[1], float(grid[i])
    slopes = np.stack([np.ones_like(x), x**-c, -b * x**-c * np.log(x)], axis=1)
    return Law(float(a), float(b), c, c0, _errors(slopes, a + b * x**-c - losses))


def fit_line(flops: np.ndarray, losses: np.ndarray) -> Law:
    """Least squares of ln loss on ln compute."""
    c0 = float(np.exp(np.log(flops).mean()))
    columns = np.stack([np.ones_like(flops), -np.log(flops / c0)], axis=1)
    log_b, c = np.linalg.lstsq(columns, np.log(losses), rcond=None)[0]
    error_of_log_b, error_of_c = _errors(columns, columns @ (log_b, c) - np.log(losses))
    return Law(0.0, float(np.exp(log_b)), float(c), c0, (0.0, float(np.exp(log_b)) * error_of_log_b, error_of_c))


def _errors(slopes: np.ndarray, residuals: np.ndarray) -> tuple[float, ...]:
    spare = len(residuals) - slopes.shape[1]
    if spare < 1:
        return (float("nan"),) * slopes.shape[1]
    covariance = np.linalg.pinv(slopes.T @ slopes) * (residuals**2).sum() / spare
    return tuple(float(e) for e in np.sqrt(np.diag(covariance)))


def page(runs: Sequence[Run], best: Sequence[Run], laws: dict[str, Law]) -> str:
    """HTML with one drawing as SVG, both axes logarithmic."""
    flops, losses = np.array([run.flops for run in runs]), np.array([run.loss for run in runs])
    curve = np.geomspace(flops.min(), flops.max(), 60)
    shown = np.concatenate([losses, *(law(curve) for law in laws.values())])
    x, y = _axis(flops, 60, 700), _axis(shown, 300, 20)
    parts = [f'<text x="60" y="330">{flops.min():.1e} FLOPs</text>',
             f'<text x="700" y="330" text-anchor="end">{flops.max():.1e}</text>']  # fmt: skip
    parts += [f'<text x="52" y="{y(v) + 4:.1f}" text-anchor="end">{v:.3f}</text>' for v in (losses.min(), losses.max())]
    for run in runs:
        css, place = "hull" if run in best else "other", f'cx="{x(run.flops):.1f}" cy="{y(run.loss):.1f}"'
        title = escape(f"{run.name}: {run.loss:.4f}")
        parts.append(f'<circle class="{css}" {place} r="4"><title>{title}</title></circle>')
    for (name, law), dash in zip(laws.items(), ("", "6 4"), strict=False):
        points = "L".join(f"{x(c):.1f} {y(v):.1f}" for c, v in zip(curve, law(curve), strict=True))
        parts.append(f'<path stroke-dasharray="{dash}" d="M{points}"><title>{escape(name)}</title></path>')
    items = "".join(f"<li>{escape(name)}: a {v.a:.4f}, b {v.b:.4f}, c {v.c:.4f}</li>" for name, v in laws.items())
    return f"""<!doctype html><meta charset="utf-8"><title>Loss against compute</title><style>{_CSS}</style>
<h1>Loss against compute</h1>
<svg viewBox="0 0 720 340">{"".join(parts)}</svg>
<p>Nats per code, held out. Dark points are the lower hull; the dashed line is the law without a floor.</p>
<ul>{items}</ul>
"""


def _axis(values: np.ndarray, start: float, stop: float) -> Callable[[float], float]:
    low, high = float(np.log(values.min())), float(np.log(values.max()))
    return lambda value: start + (stop - start) * (float(np.log(value)) - low) / max(1e-9, high - low)


if __name__ == "__main__":
    main(sys.argv[1:])
