"""To the Hugging Face hub, with what it has against it told in one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from slm.errors import UsageError

Kind = Literal["dataset", "model"]


def check_access(repo_id: str, kind: Kind) -> None:
    """UsageError for what would stop an upload, before the work: the name, the token, the connection."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import validate_repo_id

    with _hub_errors(repo_id, kind):
        validate_repo_id(repo_id)
        HfApi().whoami()


def upload(folder: Path, repo_id: str, kind: Kind, message: str, private: bool, revision: str | None,
           allow: Sequence[str], delete: Sequence[str]) -> str:  # fmt: skip
    """Send the files of a folder that match `allow`, in one commit that deletes what matches `delete` and is not
    among them. The repository and the branch are made if need be. Returns the address of the commit."""
    from huggingface_hub import HfApi

    api = HfApi()
    with _hub_errors(repo_id, kind):
        api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, repo_type=kind, exist_ok=True)
        made = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            repo_type=kind,
            revision=revision,
            commit_message=message,
            allow_patterns=list(allow),
            delete_patterns=list(delete),
        )
    return str(made.commit_url)


@contextmanager
def _hub_errors(repo_id: str, kind: Kind) -> Iterator[None]:
    """What the hub or the way to it has against the command, in one line."""
    from huggingface_hub import errors

    try:
        yield
    except errors.LocalTokenNotFoundError:
        raise UsageError("no token for the hub: run `hf auth login`, or set HF_TOKEN") from None
    except errors.OfflineModeIsEnabled:
        raise UsageError("the hub is switched off by HF_HUB_OFFLINE: unset it to push") from None
    except errors.HFValidationError as error:
        raise UsageError(f"{repo_id!r} is no name of a {kind} ({error}): give USER/NAME") from None
    except errors.HfHubHTTPError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"the hub refuses {repo_id}: {reason}; check the token's rights and the name") from None
    except (errors.HTTPError, OSError) as error:
        raise UsageError(f"the hub cannot be reached ({error}): go on with the same command later") from None
