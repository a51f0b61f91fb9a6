"""To the Hugging Face hub, with what it has against it told in one line."""

from __future__ import annotations

import re
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


def is_hub_id(name: str) -> bool:
    """Whether a name looks like USER/NAME: one slash, and nothing that only a path has."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) is not None


def download(repo_id: str, patterns: Sequence[str]) -> Path:
    """The files of a model that match, in the hub's own cache; from there alone where HF_HUB_OFFLINE says so.

    UsageError, with the way out, where there is neither such a folder nor such a repository.
    """
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(repo_id, allow_patterns=list(patterns)))
    except (errors.HfHubHTTPError, errors.HFValidationError, errors.HTTPError, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"no model at {repo_id}: no such folder, and the hub has none to give ({reason}); check the name, or fetch "
            f"it where there is a network (hf download {repo_id} --local-dir DIR) and give DIR"
        ) from None


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
    except ValueError as error:  # what is no JSON but a proxy's page; a token that no header can hold
        raise UsageError(
            f"the hub cannot be spoken with ({error}): check HF_ENDPOINT, the token, and if a proxy answers instead"
        ) from None
