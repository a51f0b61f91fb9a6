"""ProsAudit (arXiv 2302.12057): natural pauses against unnatural ones, by the rules of the ZeroSpeech evaluation.

As in sBLIMP, the k-th correct row of gold.csv is paired with the k-th incorrect one, of the same type and id; pairs of
one (type, id) count as one. Types are `lexical` (a pause between words or inside of one) and `protosyntax` (between
phrases or inside of one); the evaluation reports each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.benchmarks._gold import pair_by_row_order, read_gold_file, wavs_beside
from eval.benchmarks._submission import PROSAUDIT_PARAMS, Submission, add_submission
from eval.benchmarks.base import BENCHMARKS, Result, Run, Setup
from eval.benchmarks.pairs import PairBenchmark, Subset, mean_over, stratify
from slm.errors import UsageError
from slm.types import MinimalPair

COLUMNS = ("filename", "id", "type", "correct")
FETCH = "fetch it with `zrc datasets:pull prosaudit-dataset`, and give its folder as --data"


@BENCHMARKS.register("prosaudit")
class ProsAudit(PairBenchmark):
    name = "prosaudit"
    about = "Speech with natural pauses against unnatural ones: does the model know where pauses may be?"

    def __init__(self, setup: Setup):
        self.split = setup.split
        folder = _find(setup.data, setup.split)
        self.path = folder / "gold.csv"
        rows = read_gold_file(self.path, COLUMNS)
        self.files = wavs_beside(folder, rows, FETCH)
        self.all_pairs = pair_by_row_order(self.path, rows, ["type", "id"], [])

    def run(self, run: Run) -> Result:
        submission = Submission("prosAudit", f"english_{self.split}.txt", PROSAUDIT_PARAMS)
        return add_submission(super().run(run), run, submission, [*self.files])

    def subsets(self, pairs: Sequence[MinimalPair]) -> list[Subset]:
        types = stratify(pairs, lambda p: p.labels["type"])
        return [
            Subset("all", "all pairs, each counted once", (tuple(pairs),)),
            mean_over("type", types, {p.labels["type"] for p in self.all_pairs}),
            *(Subset(f"type {name}", f"pairs of type {name}", (members,)) for name, members in types.items()),
        ]


def _find(data: Path, split: str) -> Path:
    """The folder of gold.csv and its wavs. UsageError where there is none."""
    roots = [data, *(data / name for name in ("prosaudit-dataset", "prosaudit", "ProsAudit", "prosody"))]
    places = [root / place for root in roots for place in (f"english/{split}", f"english_{split}", split)]
    found = [place for place in places if (place / "gold.csv").is_file()]
    if not found:
        raise UsageError(f"no ProsAudit: {data / 'prosaudit' / 'english' / split} has no gold.csv and wavs; {FETCH}")
    return found[0]
