"""Models by name: what is a name, where its file is looked for, and what is said where it is not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ktb.config.zoo import zoo_model
from ktb.errors import CheckpointError
from ktb.weights import by_name
from ktb.weights.files import find_checkpoint
from tests.ktb.hub_stand_in import Hub, hub_stand_in

NAME = "nyu_swin_b"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for the zoo's files, in which the process also stands."""
    found = tmp_path / "zoo"
    found.mkdir()
    monkeypatch.setenv(by_name.PLACE, str(found))
    monkeypatch.chdir(found)
    return found


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub_stand_in() as found:
        found.lead(monkeypatch, tmp_path / "cache")
        yield found


def know(monkeypatch: pytest.MonkeyPatch, **facts: str) -> None:
    """A table that knows more of `NAME` than the real one."""
    monkeypatch.setattr(by_name, "zoo_model", lambda source: replace(zoo_model(source), **facts))


def test_what_lies_here_or_would_is_a_path(folder: Path) -> None:
    assert by_name.name_of("someone/model") == "someone/model"
    assert by_name.name_of(f"zoo:{NAME}") == NAME
    (folder / "runs").mkdir()
    for path in ("runs/mien", "model", "./a/b", "../b", "/a/b", "a/b/c", "someone/model.ckpt", "someone/nyu.pth"):
        assert by_name.name_of(path) is None, path
        assert by_name.fetched(path) is None
    with pytest.raises(CheckpointError, match="^runs/mien: no such checkpoint or run folder"):
        find_checkpoint("runs/mien")


def test_a_file_or_a_bundle_in_the_folder_is_taken(folder: Path) -> None:
    file = folder / f"{NAME}.pth"
    file.write_bytes(b"published")
    assert find_checkpoint(f"zoo:{NAME}") == file
    bundle = folder / NAME / "model.safetensors"
    bundle.parent.mkdir()
    bundle.write_bytes(b"bundle")
    assert find_checkpoint(f"zoo:{NAME}") == bundle


def test_the_hash_of_a_published_file_is_compared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / f"{NAME}.pth"
    file.write_bytes(b"published")
    know(monkeypatch, sha256=hashlib.sha256(b"published").hexdigest())
    assert by_name.fetched(f"zoo:{NAME}") == file
    file.write_bytes(b"cut short")
    with pytest.raises(
        CheckpointError, match=rf"{NAME}\.pth: expected the published file of NYU .*, found .*get it again"
    ):
        by_name.fetched(f"zoo:{NAME}")


def test_without_the_file_one_line_says_which_goes_where(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = "NYU Depth V2, RGB \\+ HHA, Swin-B"
    with pytest.raises(
        CheckpointError, match=rf"^zoo:{NAME}: no {NAME}\.pth in KTB_ZOO={folder}; save .* of {row} there"
    ):
        by_name.fetched(f"zoo:{NAME}")
    monkeypatch.setenv(by_name.PLACE, str(folder / "nothing"))
    with pytest.raises(CheckpointError, match=rf"^zoo:{NAME}: KTB_ZOO={folder}/nothing: no such folder$"):
        by_name.fetched(f"zoo:{NAME}")
    monkeypatch.delenv(by_name.PLACE)
    with pytest.raises(CheckpointError, match=rf"of {row} .*, save it as FOLDER/{NAME}\.pth and set KTB_ZOO=FOLDER$"):
        by_name.fetched(f"zoo:{NAME}")
    with pytest.raises(CheckpointError, match="did you mean 'nyu_swin_b'"):
        by_name.fetched("zoo:nyu_swin_bb")


def test_an_organisation_of_the_hub_has_a_repository_for_each(
    folder: Path, server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(by_name.PLACE, "our-lab")
    server.repositories[f"our-lab/{NAME}"] = {f"{NAME}.pth": b"published"}
    found = by_name.fetched(f"zoo:{NAME}")
    assert found is not None
    assert (found.name, found.read_bytes()) == (f"{NAME}.pth", b"published")
    know(monkeypatch, sha256="0" * 64)
    with pytest.raises(CheckpointError, match="expected the published file of NYU"):
        by_name.fetched(f"zoo:{NAME}")
    server.repositories["our-lab/nyu_swin_l"] = {"model.safetensors": b"bundle"}  # has no published file's hash
    assert by_name.fetched("zoo:nyu_swin_l").read_bytes() == b"bundle"  # type: ignore[union-attr]
    with pytest.raises(CheckpointError, match="^zoo:mfnet_swin_b: KTB_ZOO=our-lab is no folder, so an organisation"):
        by_name.fetched("zoo:mfnet_swin_b")


def test_a_model_that_is_known_to_be_on_the_hub_needs_no_setting(
    server: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(by_name.PLACE, raising=False)
    monkeypatch.chdir(tmp_path)
    know(monkeypatch, hub="authors/model")
    server.repositories["authors/model"] = {f"{NAME}.pth": b"published"}
    assert find_checkpoint(f"zoo:{NAME}").read_bytes() == b"published"
