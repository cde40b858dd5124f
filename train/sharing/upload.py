"""A folder uploaded to the hub, by the hub's own client: what an earlier try left there is not sent again."""

from __future__ import annotations

import contextlib
import glob
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.common.errors import StageError, one_line
from pipeline.common.shown import HIDDEN
from pipeline.publish.publish import SUMS, read_sums

log = logging.getLogger(__name__)
LOGIN = (
    "make a token that may write in the settings of your account there, and give it to "
    "`hf auth login --force`, or as HF_TOKEN"
)


def check_token() -> None:
    """Raises StageError where there is no token of the hub, or none that may write there."""
    with _client("check the network, and run again") as api:
        role = api.whoami().get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise StageError(f"--push: the token of the hub may read alone; {LOGIN}")


def upload(folder: str, repo: str, private: bool, command: str) -> None:
    """Make the repository, if it is not there yet, and upload the folder to it in one commit.

    Of an earlier publication files are deleted that are in this one no more: of two models in one place, programs
    would load either. Raises StageError where the hub does not take it; `command` then goes on.
    """
    with _client(f"run again, or `{command}`: what has arrived is not sent again") as api:
        api.create_repo(repo, private=private or None, exist_ok=True)
        url = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message="Publish with neutral-residues",
            delete_patterns=[glob.escape(name) for name in _stale(api, repo, folder)] or None,
        )
    log.info("%s", url)


def _stale(api: Any, repo: str, folder: str) -> list[str]:
    """The files of an earlier publication in the repository that are not in the folder."""
    if not api.file_exists(repo, SUMS):
        return []
    earlier = read_sums(api.hf_hub_download(repo, SUMS))
    return [name for name in earlier if not Path(folder, name).is_file()]


@contextlib.contextmanager
def _client(cure: str) -> Iterator[Any]:
    """The hub's client, with the token of this user. Raises StageError of what it raises, without the token."""
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if token is None:
        raise StageError(f"--push: there is no token of the hub; {LOGIN}")
    try:
        yield HfApi(token=token)
    except StageError:
        raise
    except Exception as error:  # of HTTP, of the network, of the disk, and of hf_xet, which is in Rust
        status = getattr(getattr(error, "response", None), "status_code", None)
        said = one_line(RuntimeError(str(error).replace(token, HIDDEN) or type(error).__name__))
        cure = LOGIN if status in (401, 403) else cure
        raise StageError(f"--push: the hub did not take it: {said}; {cure}") from None
