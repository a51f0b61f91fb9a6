"""Tokenize audio into a Hugging Face dataset of codes.

    python tokenize_corpus.py --audio FOLDER_OR_MANIFEST --tokenizer codec2-700c --out corpora/speech

The steps are in slm/corpus/pipeline.py: list the clips, plan the shards, tokenize what is left, finish. The folder
then opens with `datasets.load_from_disk`, and `train_lm.py --data` trains on it.
"""

from __future__ import annotations

from slm.config import run_command
from slm.corpus.config import CorpusConfig


def main(config: CorpusConfig) -> None:
    from slm.corpus.pipeline import tokenize_corpus

    print(tokenize_corpus(config).describe())


if __name__ == "__main__":
    run_command(main, CorpusConfig)
