"""The Hugging Face hub: weights by name, from the local cache where there is no network; bundles to it."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from ktb.errors import CheckpointError, first_line
from ktb.run_folder.names import CONFIG

BUNDLE_WEIGHTS = "model.safetensors"
"""The file of a bundle that holds tensors and, in its header under "ktb", everything about the model as JSON."""
BUNDLE_FILES = (BUNDLE_WEIGHTS, "config.json", CONFIG, "README.md")
"""What a bundle consists of; of a model that does not know its run's configuration without `CONFIG`."""
TO_BE_HAD = ("hub", "bundled", "offline")
"""Values of backbone.weights that name no file: weights that anybody can have again."""


def prepare_hub_client() -> None:
    """Without a network the hub client takes its local cache or fails at once, and says nothing of its own."""
    from huggingface_hub import constants

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; our error says it once
    if not _resolves(urlsplit(constants.ENDPOINT).hostname or ""):
        constants.HF_HUB_OFFLINE = True  # instead of a minute of retries


def fetch(name: str, files: Sequence[str] = (BUNDLE_WEIGHTS,)) -> Path:
    """The weights in a repository of the hub, in the local cache; of a bundle also its configuration, beside them.

    Args:
        name: OWNER/NAME.
        files: what they may be called; the first that there is counts.

    Raises:
        CheckpointError: no network and not in the cache, or no such repository or file.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    prepare_hub_client()
    failure: Exception | None = None
    try:
        for file in files:
            try:
                found = Path(hf_hub_download(name, file))
            except EntryNotFoundError as error:
                failure = failure or error
                continue
            if file == BUNDLE_WEIGHTS:
                with suppress(EntryNotFoundError):
                    hf_hub_download(name, CONFIG)
            return found
    except Exception as error:  # the hub client raises many kinds; all mean that there is no file
        failure = error
    what = " or ".join(files)
    raise CheckpointError(
        f"{name}: no such folder here, and {what} of that name could not be fetched from the hub "
        f"({first_line(failure or FileNotFoundError())}); fetch the bundle where there is a network and pass its folder"
    )


def push(content: Mapping[str, Path | bytes], name: str, *, public: bool = False, update: bool = False) -> str:
    """Upload a bundle into a repository of the hub, in one commit.

    Args:
        content: its files, by their names in the repository.
        name: OWNER/NAME; made where there is none.
        public: whether everybody sees a repository that is made; one that exists stays as it is.
        update: whether files that the repository has already are written over.

    Returns:
        the commit's address.

    Raises:
        CheckpointError: no token, or one that may not; another form of name; the repository has files already; the hub
            can't be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    if not is_hub_name(name):
        raise CheckpointError(f"{name}: expected OWNER/NAME, your name on the hub (or an organisation's) and a new one")
    if get_token() is None:
        raise CheckpointError("no token of the hub: run `hf auth login`, or set HF_TOKEN, with one that may write")
    prepare_hub_client()
    api = HfApi()
    try:
        api.create_repo(name, private=not public, exist_ok=True)
        there = sorted(set(api.list_repo_files(name)) - {".gitattributes"})
        if there and not update:
            raise CheckpointError(
                f"{name}: exists on the hub already, with {len(there)} files ({', '.join(there[:3])}, ...); choose "
                "another name, or write over them with --update"
            )
        operations = [CommitOperationAdd(file, stored) for file, stored in content.items()]
        return str(api.create_commit(name, operations, commit_message="Upload of a ktb bundle").commit_url)
    except CheckpointError:
        raise
    except HfHubHTTPError as error:
        raise CheckpointError(f"{name}: {_refusal(error.response.status_code, name)} ({first_line(error)})") from None
    except Exception as error:  # the client raises many kinds
        why = first_line(error.__cause__ or error)
        raise CheckpointError(f"{name}: could not be uploaded ({why}); try again") from None


def _refusal(status: int, name: str) -> str:
    """What an answer of the hub means for a user who uploads."""
    owner = name.partition("/")[0]
    if status == 401:
        return "the hub refuses the token: run `hf auth login` again, or set another HF_TOKEN"
    if status == 403:
        return f"this token may not write for {owner}: it needs the role write, and {owner} has to be you or yours"
    if status == 404:
        return f"the hub has no {owner}"
    return "the hub refused it"


def is_hub_name(text: str) -> bool:
    """Whether a text has the form OWNER/NAME."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", text) is not None


def _resolves(host: str) -> bool:
    """Whether the machine knows the address of `host`, or leaves that to a proxy."""
    if getproxies().get("https"):
        return True
    try:
        return bool(socket.getaddrinfo(host, 443))
    except OSError:
        return False
