"""The Hugging Face hub: files by name, from its local cache where there is no network."""

from __future__ import annotations

import logging
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from ktb.errors import CheckpointError, first_line
from ktb.weights.files import BUNDLE_WEIGHTS

TO_BE_HAD = ("hub", "bundled", "offline")
"""Values of backbone.weights that name no file: weights that anybody can have again."""


def prepare_hub_client() -> None:
    """Without a network the hub client takes its local cache or fails at once, and says nothing of its own."""
    from huggingface_hub import constants

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; our error says it once
    if not _resolves(urlsplit(constants.ENDPOINT).hostname or ""):
        constants.HF_HUB_OFFLINE = True  # instead of a minute of retries


def fetch_bundle(name: str) -> Path:
    """The tensors' file of a bundle on the hub, in the local cache.

    Args:
        name: OWNER/NAME.

    Raises:
        CheckpointError: another form of name, no network and not in the cache, or no such bundle.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise CheckpointError(f"{name}: neither a folder nor the name of a model on the hub (OWNER/NAME)")
    from huggingface_hub import hf_hub_download

    prepare_hub_client()
    try:
        return Path(hf_hub_download(name, BUNDLE_WEIGHTS))
    except Exception as error:  # the hub client raises many kinds; all mean that there is no file
        raise CheckpointError(
            f"{name}: no such folder here, and {BUNDLE_WEIGHTS} of that name could not be fetched from the "
            f"hub ({first_line(error)}); fetch the bundle where there is a network and pass its folder"
        ) from None


def _resolves(host: str) -> bool:
    """Whether the machine knows the address of `host`, or leaves that to a proxy."""
    if getproxies().get("https"):
        return True
    try:
        return bool(socket.getaddrinfo(host, 443))
    except OSError:
        return False
