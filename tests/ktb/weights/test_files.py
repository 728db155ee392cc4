"""Files that are damaged, missing or would run code."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path

import pytest
import torch

from ktb.errors import CheckpointError
from ktb.weights.checkpoint import load_published
from ktb.weights.files import find_checkpoint, read_state_dict


class Evil:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_pickles_with_code_are_refused_and_not_run(tmp_path: Path, form: str) -> None:
    file, trace = tmp_path / "evil.pth", tmp_path / "executed"
    if form == "torch":
        torch.save({"state_dict": {"a": torch.zeros(1)}, "x": Evil(trace)}, file)
    else:
        file.write_bytes(pickle.dumps(Evil(trace)))
    with pytest.raises(CheckpointError, match=r"evil\.pth: refused") as error:
        load_published(file)
    assert not trace.exists()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"<html>not found</html>", b"\0" * 99, b"PK\x03\x04 cut short"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".ckpt"])
def test_damaged_files_are_one_clear_line(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"weights{suffix}") as error:
        read_state_dict(file)
    assert "\n" not in str(error.value)
    assert "refused" not in str(error.value)


def test_a_whole_file_is_not_called_damaged_for_want_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.zeros(2**18)}, tmp_path / "w.pth")

    def out_of_memory(*args: object, **kwargs: object) -> None:
        raise RuntimeError("Could not allocate bytes object!")  # as PyTorch says it

    monkeypatch.setattr(torch, "load", out_of_memory)
    expected = r"w.pth: there is too little memory to read its 1.0 MB \(Could not allocate .*; close other programs or"
    with pytest.raises(CheckpointError, match=expected):
        read_state_dict(tmp_path / "w.pth")

    def refused(path: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(torch, "load", refused)
    with pytest.raises(CheckpointError, match=r"w.pth: cannot be read \(Permission denied\); check its rights"):
        read_state_dict(tmp_path / "w.pth")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.pth: no such checkpoint file"):
        read_state_dict(tmp_path / "nowhere.pth")


def test_a_sweep_in_the_place_of_a_run_names_one_of_its_runs(tmp_path: Path) -> None:
    for name in ("seed=1", "seed=2"):
        (tmp_path / "sweep" / name / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=f"it holds runs, name one of them: {tmp_path / 'sweep' / 'seed=1'}$"):
        find_checkpoint(tmp_path / "sweep")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="is it a run of ktb-train or a bundle"):
        find_checkpoint(tmp_path / "empty")
