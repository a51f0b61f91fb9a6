"""`python -m slm.corpus push`: a corpus goes to the Hugging Face hub, with its dataset card."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from slm.corpus.folder import DESCRIPTION
from slm.corpus.tools.check import examine
from slm.corpus.tools.files import local, open_corpus
from slm.errors import UsageError


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
    from huggingface_hub import HfApi
    from huggingface_hub.utils import validate_repo_id

    out, api = local(config.corpus), HfApi()
    with _hub_errors(config.repo_id):  # what would stop it, before the work
        validate_repo_id(config.repo_id)
        api.whoami()
    with open_corpus(config.corpus) as files:
        verdict = examine(files)
    if verdict.faults:
        first = verdict.faults[0]
        raise UsageError(
            f"{out} is not whole (faults: {len(verdict.faults)}, the first {first.file}: {first.what}): "
            f"see `python -m slm.corpus check {out}`"
        )
    with _hub_errors(config.repo_id):
        api.create_repo(config.repo_id, repo_type="dataset", private=config.private, exist_ok=True)
        if config.revision is not None:
            api.create_branch(config.repo_id, branch=config.revision, repo_type="dataset", exist_ok=True)
        made = api.upload_folder(
            repo_id=config.repo_id,
            folder_path=out,
            repo_type="dataset",
            revision=config.revision,
            commit_message=f"{verdict.num_clips:,} clips, {verdict.duration_s / 3600:.3f} h",
            allow_patterns=["data-*.arrow", "tokenizer.json", *DESCRIPTION],
            delete_patterns=["data-*.arrow"],  # of an earlier corpus with another number of shards
        )
    print(f"{config.repo_id} is at {made.commit_url}")


@contextmanager
def _hub_errors(repo_id: str) -> Iterator[None]:
    """What the hub or the way to it has against the command, in one line."""
    from huggingface_hub import errors

    try:
        yield
    except errors.LocalTokenNotFoundError:
        raise UsageError("no token for the hub: run `hf auth login`, or set HF_TOKEN") from None
    except errors.OfflineModeIsEnabled:
        raise UsageError("the hub is switched off by HF_HUB_OFFLINE: unset it to push") from None
    except errors.HFValidationError as error:
        raise UsageError(f"{repo_id!r} is no name of a dataset ({error}): give USER/NAME") from None
    except errors.HfHubHTTPError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"the hub refuses {repo_id}: {reason}; check the token's rights and the name") from None
    except (errors.HTTPError, OSError) as error:
        raise UsageError(f"the hub cannot be reached ({error}): go on with the same command later") from None
