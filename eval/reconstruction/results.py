"""What was found of a source as results: scores with intervals and conventions, facts, what was left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.benchmarks.base import MODEL, LeftOut, Result
from eval.metrics.bootstrap import estimate
from eval.metrics.signals import SPEECH, observations
from eval.reconstruction.judging import Bench, Found
from eval.reconstruction.scoring import OTHER_LENGTH
from eval.tokens import item_list_hash
from slm.errors import UsageError
from slm.types import Score

NAME = "reconstruction"
ABOUT = {
    "speech": "How much of recordings of speech comes back?",
    "music": "How much of music comes back?",
    "audio": "How much of recordings of any sound comes back?",
}
FIRST = "mel_distance"  # of everything, and never undefined
ALIGNED = {
    "constant": "one delay removed",
    "each": "the delay of each clip removed",
    "none": "not aligned",
}
UNMEASURED = "no delay could be measured and none removed"
FACTS = {
    "bitrate_bps": ("bit/s", "nominal: frame rate x sum of log2 codebook size"),
    "entropy_bitrate_bps": ("bit/s of entropy", "entropy of each codebook, alone, over these recordings"),
    "tokens_per_s": ("tokens/s", "frame rate x codebooks"),
    "codebook_use": ("fraction", "codes that occur in these recordings, mean over codebooks"),
    "encode_rtf": ("s per s of audio", "encoding, without reading and resampling"),
    "decode_rtf": ("s per s of audio", "decoding, clip by clip"),
}


def result_of(domain: str, founds: Sequence[Found], bench: Bench, resamples: int, seed: int,
              left_out: Sequence[LeftOut] = ()) -> Result:  # fmt: skip
    """One result for each domain: a subset for each number of codebooks, the most first. UsageError where nothing
    could be judged."""
    scores = [score for found in reversed(founds) for score in scores_of(found, bench, resamples, seed)]
    if not scores:
        unsaid = {reason for found in founds for one in found.judged for reason in one.undefined.values()}
        reasons = sorted({left.reason for found in founds for left in found.left_out} | unsaid)
        raise UsageError(f"{NAME}: no recording of {domain} could be judged ({'; '.join(reasons[:3]) or 'none found'})")
    most = founds[-1]
    every = {(left.item, left.reason) for found in founds for left in found.left_out}
    about = {m.name: m.about for m in bench.metrics} | {n: o.about for n, o in bench.opinions.measures.items()}
    return Result(
        benchmark=NAME,
        split=domain,
        about=ABOUT[domain],
        item_list_sha256=item_list_hash([one.pair_id] for one in most.judged),
        counts={
            "files": len({one.group for one in most.judged} | {left.item for left in most.left_out}),
            "files_judged": len({one.group for one in most.judged}),
            "pieces_judged": len(most.judged),
        },
        scores={MODEL: scores},
        left_out=(*left_out, *(LeftOut(item, reason) for item, reason in sorted(every))),
        headline=scores[0].item,
        meanings={item_of(f): subset_meaning(f) for f in founds},
        details={
            "points": [point_of(found) for found in founds],
            "samples": [sample for found in founds for sample in found.samples],
            "metrics": {name: about[name] for name in sorted({s.metric for s in scores} & set(about))},
            "absent": absent(domain, bench),
            "alignment": bench.settings.alignment,
            "note": note_of(founds),
        },
    )


def item_of(found: Found) -> str:
    """The domain stands in the name of the subset too, for plots over several. That of all codebooks is called alike
    for all tokenizers: what each can do at its best is what is compared."""
    subset = found.domain if found.whole else f"{found.domain} {found.codebooks} codebooks"
    return f"{NAME}/{found.domain}/{subset}"


def subset_meaning(found: Found) -> str:
    if found.codebooks is None:
        return "recordings as given"
    return f"coded with {'all' if found.whole else 'the first'} {found.codebooks} codebooks"


def aligned_of(found: Found, alignment: str) -> str:
    """What was done about delays, where one could be measured: an output may be too unlike its input to tell."""
    sure = sum(bool(one.delay.by) for one in found.judged)
    if alignment == "constant" and (found.common is None or not found.common.by):
        return UNMEASURED
    if alignment == "each" and sure < len(found.judged):
        return f"{ALIGNED['each']} where it could be measured ({sure} of {len(found.judged)})" if sure else UNMEASURED
    return ALIGNED[alignment]


def scores_of(found: Found, bench: Bench, resamples: int, seed: int) -> list[Score]:
    """Every metric that said something, then the facts."""
    aligned = aligned_of(found, bench.settings.alignment)
    told = {
        m.name: (m.unit, f"{m.convention(found.domain, found.sample_rate_hz)}; {aligned}, cut to the shorter")
        for m in bench.metrics
    }
    told |= {name: (o.unit, o.convention) for name, o in bench.opinions.measures.items()}
    made = []
    for name, (unit, convention) in sorted(told.items(), key=lambda one: (one[0] != FIRST, one[0])):
        parts = [(j.group, *j.values[name]) for j in found.judged if name in j.values]
        parts = [part for part in parts if part[2] > 0]
        if parts:
            one = estimate([observations(parts)], resamples, seed)
            made.append(Score(item_of(found), name, one.value, unit, convention, one.count, one.interval))
    count = len({j.group for j in found.judged})
    facts = [(name, *FACTS[name]) for name in FACTS if name in found.facts]
    made += [Score(item_of(found), n, float(found.facts[n]), u, c, count) for n, u, c in facts if made]
    return made


def point_of(found: Found) -> dict[str, Any]:
    """One number of codebooks as one record: for plots, and for whoever compares."""
    return {
        "domain": found.domain,
        "codebooks": found.codebooks,
        "item": item_of(found),
        "sample_rate_hz": found.sample_rate_hz,
        **found.facts,
        "alignment": found.alignment,
        "undefined": found.undefined,
        "pieces": len(found.judged),
        "left_out": len(found.left_out),
        "time_s": found.time,
    }


def absent(domain: str, bench: Bench) -> Mapping[str, str]:
    """Metrics that nobody could compute here -> what installs what they need."""
    made = {m.name: m.missing() for m in missing_of(bench) if domain in m.domains}
    return made | (dict(bench.opinions.missing) if domain == SPEECH else {})


def missing_of(bench: Bench) -> list[Any]:
    from eval.reconstruction.scoring import chosen_metrics

    return [m for m in chosen_metrics(bench.settings.metrics) if m.missing()]


def note_of(founds: Sequence[Found]) -> str:
    """Delay, length, and what is undefined, in a sentence each."""
    most = founds[-1]
    told = most.alignment
    parts = []
    if told["delay_s"] is not None:
        parts.append(f"the output comes {1000 * told['delay_s']:.2f} ms late (median; {1000 * told['corrected_s']:.2f} "
                     "ms were removed)")  # fmt: skip
    else:
        parts.append("no delay could be measured: the output is not alike enough")
    if told["length_s"] is not None:
        way = "shorter" if told["length_s"] < 0 else "longer"
        parts.append(f"it is {1000 * abs(told['length_s']):.1f} ms {way} (median)")
    if told["other_length"]:
        parts.append(
            f"{told['other_length']} of {len(most.judged)} outputs are over {OTHER_LENGTH:.0%} longer or shorter"
        )
    for name, reasons in most.undefined.items():
        parts.append(f"{name} says nothing of {sum(reasons.values())} pieces ({next(iter(reasons))})")
    return "; ".join(parts)
