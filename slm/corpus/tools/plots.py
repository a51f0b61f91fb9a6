"""The page of plots of a corpus: one HTML file with drawings as SVG, no script and nothing to fetch."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from slm.corpus.tools.statistics import ORDER_1, CodebookStatistics, CorpusStatistics, histogram

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM = 720.0, 240.0, 56.0, 24.0, 34.0
_POINTS = 200  # of a curve
_CSS = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 780px; margin: 2em auto; color-scheme: light dark }
svg { width: 100%; height: auto } svg text { font-size: 12px; fill: currentColor } .bar { fill: #4477aa }
.rest { fill: #4477aa44 } path { fill: none; stroke-width: 1.5 } .axis { stroke: currentColor; opacity: .3 }
table { border-collapse: collapse } td { padding: 0 1.5em 0 0 }
"""


def page(name: str, found: CorpusStatistics) -> str:
    """HTML; it says the same for the same corpus."""
    facts = found.to_dict()
    rows = {
        "tokenizer": facts["tokenizer"],
        "clips": f"{facts['clips']:,}",
        "hours": f"{facts['hours']:,.3f}",
        "frames per second": f"{facts['frames_per_s']:.2f}",
        "bits per second": f"{facts['nominal_bits_per_s']:,.1f} nominal, {facts['entropy_bits_per_s']:,.1f} by entropy",
    }
    table = "".join(f"<tr><td>{key}</td><td>{escape(value)}</td></tr>" for key, value in rows.items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(name)}</title><style>{_CSS}</style></head><body>
<h1>{escape(name)}</h1>
<table>{table}</table>
<h2>Length of clips (s)</h2>
{_lengths(found.durations_s)}
<h2>Entropy of each codebook (bits a code)</h2>
<p>The light part of a bar is what its size would allow. Marks are entropies given the code before. {ORDER_1}</p>
{_entropies(found.codebooks)}
<h2>How often codes occur</h2>
<p>Share of each code, the most frequent first, a curve a codebook; both axes are logarithmic. What never occurs is left
out.</p>
{_ranks(found.codebooks)}
</body></html>
"""


def _svg(parts: Sequence[str], height: float = _HEIGHT) -> str:
    return f'<svg viewBox="0 0 {_WIDTH:g} {height:g}">{"".join(parts)}</svg>'


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _rect(x: float, y: float, width: float, height: float, css: str, title: str = "") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect class="{css}" {place}><title>{escape(title)}</title></rect>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="axis" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _lengths(durations_s: np.ndarray) -> str:
    bins = histogram(durations_s)
    most, floor = max(bin.count for bin in bins), _HEIGHT - _BOTTOM
    step = (_WIDTH - _LEFT) / len(bins)
    parts = [_text(_LEFT - 6, 12, f"{most:,}", "end"), _text(_LEFT - 6, floor, "0", "end")]
    for i, bin in enumerate(bins):
        x, height = _LEFT + i * step, (floor - 4) * bin.count / most
        stop = "and more" if bin.stop_s is None else f"to {bin.stop_s:g}"
        parts.append(_rect(x + 1, floor - height, step - 2, height, "bar", f"{bin.start_s:g} {stop} s: {bin.count:,}"))
        parts.append(_text(x, floor + 16, f"{bin.start_s:g}"))
    last = bins[-1].stop_s
    parts.append(_text(_WIDTH, floor + 16, "more" if last is None else f"{last:g}", "end"))
    return _svg(parts)


def _entropies(codebooks: Sequence[CodebookStatistics]) -> str:
    row = 22.0
    scale = (_WIDTH - _LEFT - 60) / max(np.log2(codebook.use.size) for codebook in codebooks)
    parts = []
    for k, codebook in enumerate(codebooks):
        y, bits = k * row + 3, codebook.use.entropy_bits
        parts.append(_text(_LEFT - 8, y + 13, str(k), "end"))
        parts.append(_rect(_LEFT, y, scale * float(np.log2(codebook.use.size)), row - 6, "rest"))
        parts.append(_rect(_LEFT, y, scale * bits, row - 6, "bar", f"{bits:.3f} bits"))
        if codebook.order1_bits is not None:
            x = _LEFT + scale * codebook.order1_bits
            parts.append(f'<path stroke="currentColor" d="M{x:.1f} {y:.1f}V{y + row - 6:.1f}"/>')
        parts.append(_text(_WIDTH, y + 13, f"{bits:.2f}", "end"))
    return _svg(parts, row * len(codebooks) + 4)


def _ranks(codebooks: Sequence[CodebookStatistics]) -> str:
    curves = [np.sort(c.counts[c.counts > 0])[::-1] / c.counts.sum() for c in codebooks]
    ranks = int(np.ceil(np.log10(max(2, *(len(curve) for curve in curves)))))
    shares = int(np.floor(np.log10(min(float(curve[-1]) for curve in curves)) - 1e-9)) or -1
    floor = _HEIGHT - _BOTTOM

    def x(rank: Any) -> Any:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * np.log10(rank) / ranks

    def y(share: Any) -> Any:
        return 6 + (floor - 6) * np.log10(share) / shares

    parts = []
    for tick in 10.0 ** np.arange(ranks + 1):
        parts += [_line(x(tick), 6, x(tick), floor), _text(x(tick), floor + 16, f"{tick:,.0f}")]
    for tick in 10.0 ** np.arange(0, shares - 1, -1):
        parts += [_line(_LEFT, y(tick), _WIDTH - _RIGHT, y(tick)), _text(_LEFT - 6, y(tick) + 4, f"{tick:g}", "end")]
    for k, curve in enumerate(curves):
        rank = np.unique(np.geomspace(1, len(curve), min(_POINTS, len(curve))).round().astype(int))
        points = "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x(rank), y(curve[rank - 1]), strict=True))
        colour = f"hsl({360 * k / len(curves):.0f} 60% 50%)"
        parts.append(f'<path stroke="{colour}" d="M{points}"><title>codebook {k}</title></path>')
        parts.append(_text(x(len(curve)) + 4, y(curve[-1]) + 4, str(k), "start"))
    return _svg(parts)
