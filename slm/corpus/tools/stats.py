"""`python -m slm.corpus stats`: what a corpus holds, as text, as JSON, as a page of plots."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slm.corpus.tools.finished import FinishedCorpus
from slm.corpus.tools.plots import page
from slm.corpus.tools.statistics import ORDER_1, CorpusStatistics, count_corpus, histogram
from slm.errors import UsageError
from slm.files import check_folder, write_text

_BAR = 40  # characters


@dataclass(frozen=True)
class StatsConfig:
    """Hours, rates, use of each codebook and lengths of clips of a corpus: `python -m slm.corpus stats OUT`."""

    corpus: str
    """Folder of a finished corpus."""
    plot: str | None = None
    """Also write plots: a page that opens in any browser (.html)."""
    json: bool = False
    """Print JSON."""

    def __post_init__(self) -> None:
        if self.plot is not None and not self.plot.endswith(".html"):
            raise UsageError(f"--plot writes a page: give it a name that ends in .html, not {self.plot}")


def stats(config: StatsConfig) -> None:
    """Print, and write the page where asked for."""
    if config.plot is not None:
        check_folder(Path(config.plot).parent, "the folder of --plot")
        if Path(config.plot).is_dir():
            raise UsageError(f"--plot {config.plot} is a folder: give the name of a file")
    found = count_corpus(FinishedCorpus(config.corpus))
    if config.plot is not None:
        write_text(Path(config.plot), page(config.corpus, found))
    print(json.dumps(found.to_dict(), indent=2) if config.json else report(config.corpus, found))


def report(name: str, found: CorpusStatistics) -> str:
    """The text of the command."""
    facts = found.to_dict()
    length, order1 = facts["length_s"], facts["order1_bits_per_s"]
    units = facts["units_per_s"]
    lines = [
        f"{name}: {facts['tokenizer']}",
        f"clips       {facts['clips']:,}",
        f"hours       {facts['hours']:,.3f}",
        f"frames/s    {facts['frame_rate_hz']:g} nominal, {facts['frames_per_s']:.2f} in these clips",
    ]
    if units is not None:
        lines.append(f"units/s     {units:.2f}, runs of equal codes counted once")
    lines += [
        f"bits/s      {facts['nominal_bits_per_s']:,.1f} nominal (log2 of codebook sizes)",
        f"            {facts['entropy_bits_per_s']:,.1f} by entropy of the codes (order 0)",
    ]
    if order1 is not None:
        lines.append(f"            {order1:,.1f} by entropy given the code before (order 1)")
    lines += [
        f"            {facts['disk_bits_per_s']:,.1f} on disk, with ids and metadata",
        "",
        "codebook     size     used      use  entropy  perplexity  order 1  most frequent",
        *_codebook_lines(found),
        "",
        f"Entropies in bits a code. {ORDER_1}",
        "",
        f"clips of {length['min']:.2f} to {length['max']:.2f} s, median {length['median']:.2f}, "
        f"mean {length['mean']:.2f}",
        *_histogram_lines(found.durations_s),
    ]
    return "\n".join(lines)


def _codebook_lines(found: CorpusStatistics) -> Iterator[str]:
    for k, codebook in enumerate(found.codebooks):
        use = codebook.use
        order1 = "-" if codebook.order1_bits is None else f"{codebook.order1_bits:.3f}"
        yield (
            f"{k:>8}{use.size:>9,}{use.used:>9,}{use.used / use.size:>9.1%}{use.entropy_bits:>9.3f}"
            f"{use.perplexity:>12,.1f}{order1:>9}  {codebook.most_frequent} ({codebook.most_frequent_share:.1%})"
        )


def _histogram_lines(durations_s: np.ndarray) -> Iterator[str]:
    bins = histogram(durations_s)
    most = max(bin.count for bin in bins)
    for bin in bins:
        stop = "" if bin.stop_s is None else f"{bin.stop_s:g}"
        bar = "#" * round(_BAR * bin.count / most)
        yield f"{bin.start_s:>8g} - {stop:<8} {bar:<{_BAR}} {bin.count:,}"
