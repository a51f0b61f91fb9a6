"""The dataset card of a corpus: `README.md` with the front matter that the Hugging Face hub reads."""

from __future__ import annotations

import json

from slm.corpus.plan import count_kinds
from slm.corpus.summary import CorpusSummary

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def dataset_card(summary: CorpusSummary, source: str) -> str:
    """Markdown; says the same for the same corpus, whenever and in however many runs it was made."""
    size = next((name for limit, name in _SIZES if summary.num_clips < limit), "n>1M")
    spec = summary.spec
    outside = f"\n| hours in no segment | {summary.outside_s / 3600:.4f} |" if summary.outside_s > 0 else ""
    return f"""---
pretty_name: {json.dumps(f"Audio codes by {spec.name}")}
size_categories:
- {size}
tags:
- audio
- audio-codes
- spoken-language-modelling
configs:
- config_name: default
  data_files: "data-*.arrow"
---

# Audio codes by {spec.name}

Audio from `{source.replace("`", "'")}`, tokenized by `{spec.describe()}`. Open the folder with
`datasets.load_from_disk`, or on the hub with `datasets.load_dataset` (`streaming=True` too).

| | |
|---|---|
| clips | {summary.num_clips:,} |
| hours | {summary.duration_s / 3600:.4f} |
| frames | {summary.num_frames:,} |
| codes | {summary.num_codes:,} |
| frame rate | {spec.frame_rate_hz:g} Hz |
| sample rate | {spec.sample_rate_hz} Hz |
| bitrate, nominal | {spec.bitrate_bps:.1f} bit/s |
| bitrate, entropy | {summary.entropy_bitrate_bps:.1f} bit/s |
| shards | {summary.num_shards} |
| clips left out | {len(summary.rejects):,} |{outside}

Each row has `id`, `codes` (frames x {spec.num_codebooks} codebooks), `num_samples` (at the sample rate above),
`duration_s`, and what the source says of the clip. The nominal bitrate counts log2(codebook size) bits a code; the
entropy bitrate counts the entropy of the code frequencies of each codebook (order 0), in this corpus.

## Codebooks

| codebook | size | used | use | entropy (bits) | perplexity |
|---|---|---|---|---|---|
{_codebook_rows(summary)}

## Left out

{_rejects(summary)}

## Tokenizer

```json
{json.dumps(spec.to_dict(), indent=2, ensure_ascii=False, default=str)}
```
"""


def _codebook_rows(summary: CorpusSummary) -> str:
    return "\n".join(
        f"| {k} | {c.size} | {c.used} | {c.used / c.size:.1%} | {c.entropy_bits:.3f} | {c.perplexity:.1f} |"
        for k, c in enumerate(summary.codebooks)
    )


def _rejects(summary: CorpusSummary) -> str:
    if not summary.rejects:
        return "Nothing: every clip of the source is here."
    rows = "\n".join(f"| {kind} | {count:,} |" for kind, count in count_kinds(summary.rejects).items())
    return f"Each clip is named with its reason in `rejects.jsonl`.\n\n| reason | clips |\n|---|---|\n{rows}"
