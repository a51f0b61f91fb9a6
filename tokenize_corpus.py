"""Tokenize audio into a Hugging Face dataset of codes.

    python tokenize_corpus.py --audio FOLDER_OR_MANIFEST --tokenizer codec2-700c --out corpora/speech

The steps are in slm/corpus/pipeline.py: list the clips, plan the shards, tokenize what is left, finish. The folder
then opens with `datasets.load_from_disk`, and `train_lm.py --data` trains on it.

Exit status: 0 where all is there, 3 where clips were left out (0 with --max_rejects, which says how many may be), 4
where they were too many, 2 for wrong use, 1 for a fault.
"""

from __future__ import annotations

import sys

from slm.config import run_command
from slm.corpus.config import CorpusConfig


def main(config: CorpusConfig) -> int:
    from slm.corpus.pipeline import tokenize_corpus
    from slm.corpus.tally import TooManyRejectsError

    try:
        summary = tokenize_corpus(config)
    except TooManyRejectsError as error:
        print(f"stopped: {error}; see {config.out}/rejects.jsonl", file=sys.stderr)
        return 4
    print(summary.describe())
    return 3 if summary.rejects and config.max_rejects is None else 0


if __name__ == "__main__":
    run_command(main, CorpusConfig)
