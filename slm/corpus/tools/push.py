"""`python -m slm.corpus push`: a corpus goes to the Hugging Face hub, with its dataset card."""

from __future__ import annotations

from dataclasses import dataclass

from slm.corpus.folder import DESCRIPTION
from slm.corpus.tools.check import examine
from slm.corpus.tools.files import local, open_corpus
from slm.errors import UsageError
from slm.hub import check_access, upload


@dataclass(frozen=True)
class PushConfig:
    """Upload a corpus to the Hugging Face hub: `python -m slm.corpus push OUT USER/NAME`.

    It is checked first. Then it opens everywhere with `datasets.load_dataset("USER/NAME")`, also with streaming=True;
    downloaded (`hf download --repo-type dataset`) it is again a corpus to train on. An upload that was stopped goes on
    when the same command is given again. The token is that of `hf auth login` or of HF_TOKEN.
    """

    corpus: str
    """Folder of a finished corpus."""
    repo_id: str
    """Name of the dataset on the hub, made if need be: USER/NAME or ORGANIZATION/NAME."""
    private: bool = False
    """Make a new dataset private; one that is there stays as it is."""
    revision: str | None = None
    """Branch to upload to, made if need be (default: main)."""


def push(config: PushConfig) -> None:
    """Upload, and say where it is."""
    out = local(config.corpus)
    check_access(config.repo_id, "dataset")
    with open_corpus(config.corpus) as files:
        verdict = examine(files)
    if verdict.faults:
        first = verdict.faults[0]
        raise UsageError(
            f"{out} is not whole (faults: {len(verdict.faults)}, the first {first.file}: {first.what}): "
            f"see `python -m slm.corpus check {out}`"
        )
    address = upload(
        out,
        config.repo_id,
        "dataset",
        message=f"{verdict.num_clips:,} clips, {verdict.duration_s / 3600:.3f} h",
        private=config.private,
        revision=config.revision,
        allow=["data-*.arrow", "tokenizer.json", *DESCRIPTION],
        delete=["data-*.arrow"],  # of an earlier corpus with another number of shards
    )
    print(f"{config.repo_id} is at {address}")
