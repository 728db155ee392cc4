"""Names of models on the hub, weights from it and bundles to it, and a machine without a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from ktb.errors import CheckpointError
from ktb.weights import hub
from tests.ktb.hub_stand_in import LARGE, OWNER, READER, Hub, hub_stand_in


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub_stand_in() as found:
        found.lead(monkeypatch, tmp_path / "cache")
        yield found


@pytest.mark.parametrize("name", ["bundle", "a/b/c", "../bundle", "owner/na me", "/nowhere", "./owner", "owner/"])
def test_what_is_no_name_is_not_looked_for(name: str, server: Hub) -> None:
    assert not hub.is_hub_name(name)
    with pytest.raises(CheckpointError, match="expected OWNER/NAME"):
        hub.push({}, name)
    assert server.repositories == {}


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # between the client and its own library
def test_what_was_uploaded_is_fetched_again(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(range(256)) * (LARGE // 128))  # goes beside the commit
    url = hub.push({weights.name: weights, "config.yaml": b"dataset: x\n", "README.md": b"# x\n"}, "someone/mine")
    assert url.startswith(f"{server.url}/someone/mine/commit/")
    assert server.private == {"someone/mine": True}
    assert len(server.commits) == 1
    found = hub.fetch("someone/mine")
    assert found.read_bytes() == weights.read_bytes()
    assert (found.parent / "config.yaml").read_text() == "dataset: x\n"
    assert not (found.parent / "README.md").exists()
    monkeypatch.setattr(hub, "_resolves", lambda host: False)  # from the cache, then
    assert hub.fetch("someone/mine") == found


def test_a_repository_with_files_is_left_as_it_is_unless_told(server: Hub) -> None:
    hub.push({"README.md": b"one"}, "someone/mine", public=True)
    assert server.private == {"someone/mine": False}
    with pytest.raises(CheckpointError, match=r"someone/mine: exists on the hub already, .*README.md.* with --update$"):
        hub.push({"README.md": b"two"}, "someone/mine")
    assert server.repositories["someone/mine"]["README.md"] == b"one"
    hub.push({"README.md": b"two"}, "someone/mine", update=True)
    assert server.repositories["someone/mine"]["README.md"] == b"two"


def test_an_upload_that_failed_after_the_repository_was_made_can_be_repeated(server: Hub, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="someone/mine: could not be uploaded"):
        hub.push({"README.md": tmp_path / "nothing"}, "someone/mine")
    assert list(server.repositories["someone/mine"]) == [".gitattributes"]
    hub.push({"README.md": b"one"}, "someone/mine")
    assert server.repositories["someone/mine"]["README.md"] == b"one"


@pytest.mark.parametrize(
    ("token", "owner", "message"),
    [
        (None, OWNER, "no token of the hub: run `hf auth login`, or set HF_TOKEN"),
        ("hf_nobody", OWNER, "someone/mine: the hub refuses the token"),
        (READER, OWNER, "someone/mine: this token may not write for someone: it needs the role write"),
        ("hf_writer", "another", "another/mine: this token may not write for another"),
    ],
)
def test_who_may_not_upload_is_told_why(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None, owner: str, message: str
) -> None:
    server.lead(monkeypatch, tmp_path / "cache", token)
    with pytest.raises(CheckpointError) as refused:
        hub.push({"README.md": b"one"}, f"{owner}/mine")
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)
    assert server.repositories == {}


def test_the_first_file_that_there_is_counts(server: Hub) -> None:
    server.repositories["someone/published"] = {"a.pth": b"a", "b.pth": b"b"}
    assert hub.fetch("someone/published", ("model.safetensors", "b.pth", "a.pth")).read_bytes() == b"b"
    with pytest.raises(CheckpointError, match=r"someone/published: .*model\.safetensors or c\.pth .* could not be"):
        hub.fetch("someone/published", ("model.safetensors", "c.pth"))
    with pytest.raises(CheckpointError, match=r"someone/nothing: no such folder here, and model\.safetensors of that"):
        hub.fetch("someone/nothing")


def test_without_a_network_the_client_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Through `constants.HF_HUB_OFFLINE`, as there is no other way after its import; else it tries for a minute."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "_resolves", lambda host: False)
    with pytest.raises(CheckpointError, match=r"someone/model: no such folder here, and model\.safetensors of that"):
        hub.fetch("someone/model")
    assert constants.HF_HUB_OFFLINE is True
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    with pytest.raises(CheckpointError, match="someone/model: could not be uploaded"):
        hub.push({"README.md": b"one"}, "someone/model")


def test_a_proxy_knows_addresses_that_we_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    monkeypatch.setattr(hub, "getproxies", dict)
    assert not hub._resolves("huggingface.co")
    monkeypatch.setattr(hub, "getproxies", lambda: {"https": "http://proxy:3128"})
    assert hub._resolves("huggingface.co")
