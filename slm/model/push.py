"""`python -m slm.model push`: a checkpoint goes to the Hugging Face hub, with its model card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slm.hub import check_access, upload
from slm.model.checkpoint import load_record


@dataclass(frozen=True)
class PushConfig:
    """Upload a checkpoint to the Hugging Face hub: `python -m slm.model push RUN/final USER/NAME`.

    What is needed to evaluate it is sent, with its model card; the state that resumes training is not. Downloaded
    (`hf download USER/NAME --local-dir DIR`) it is again a checkpoint for eval/run.py and slm.load_lm. An upload that
    was stopped goes on when the same command is given again. The token is that of `hf auth login` or of HF_TOKEN.
    """

    checkpoint: str
    """Folder of a checkpoint, such as RUN/final."""
    repo_id: str
    """Name of the model on the hub, made if need be: USER/NAME or ORGANIZATION/NAME."""
    private: bool = False
    """Make a new model private; one that is there stays as it is."""
    revision: str | None = None
    """Branch to upload to, made if need be (default: main)."""


def push(config: PushConfig) -> None:
    """Upload, and say where it is."""
    folder = Path(config.checkpoint)
    record = load_record(folder)
    check_access(config.repo_id, "model")
    files = [file.name for file in folder.iterdir() if file.is_file()]
    address = upload(
        folder,
        config.repo_id,
        "model",
        message=f"{record.tokenizer.name}, {record.pattern_name}",
        private=config.private,
        revision=config.revision,
        allow=files,
        delete=["*.safetensors", "*.safetensors.index.json"],  # of an earlier model in more parts
    )
    print(f"{config.repo_id} is at {address}")
