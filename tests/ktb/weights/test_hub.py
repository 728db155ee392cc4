"""Names of models on the hub, and a machine without a network."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from ktb.errors import CheckpointError
from ktb.weights import hub


@pytest.mark.parametrize("name", ["bundle", "a/b/c", "../bundle", "owner/na me", "/nowhere"])
def test_what_is_no_name_is_not_looked_for(name: str) -> None:
    with pytest.raises(CheckpointError, match="neither a folder nor the name of a model on the hub"):
        hub.fetch_bundle(name)


def test_without_a_network_the_client_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Through `constants.HF_HUB_OFFLINE`, as there is no other way after its import; else it tries for a minute."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "_resolves", lambda host: False)
    with pytest.raises(CheckpointError, match=r"someone/model: no such folder here, and model\.safetensors of that"):
        hub.fetch_bundle("someone/model")
    assert constants.HF_HUB_OFFLINE is True


def test_a_proxy_knows_addresses_that_we_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    monkeypatch.setattr(hub, "getproxies", dict)
    assert not hub._resolves("huggingface.co")
    monkeypatch.setattr(hub, "getproxies", lambda: {"https": "http://proxy:3128"})
    assert hub._resolves("huggingface.co")
