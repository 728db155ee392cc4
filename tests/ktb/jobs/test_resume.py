"""A run that is killed and started again ends as if nothing had happened, wherever it was killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from ktb.engine.callbacks.saving import Saving
from ktb.engine.checkpoint_files import newest_first
from ktb.engine.module import SegmentationModule
from ktb.errors import CheckpointError, WriteError
from ktb.run_folder.result import RunResult
from tests.ktb.jobs.test_train import last_state, metric_rows, train


class Killed(Exception):
    pass


def killed_after(saves: int, patch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """Let every training from now on die once it has written so many checkpoints; (step, moment) of all of them."""
    save, begin = Saving._save, Saving.on_train_start
    written: list[tuple[int, str]] = []
    of_this_one = 0

    def counted(self: Saving, trainer: Any, moment: str, **kwargs: Any) -> None:
        nonlocal of_this_one
        save(self, trainer, moment, **kwargs)
        written.append((trainer.global_step, moment))
        of_this_one += 1
        if of_this_one == saves:
            raise Killed

    def from_none(self: Saving, *args: Any) -> None:
        nonlocal of_this_one
        of_this_one = 0
        begin(self, *args)

    patch.setattr(Saving, "_save", counted)
    patch.setattr(Saving, "on_train_start", from_none)
    return written


RUNS = {
    "validation twice in an epoch": ["dataset.train=9", "trainer.val_check_interval=2"],
    "none, gradients accumulated": [
        "dataset.train=10",
        "trainer.limit_val_batches=0",
        "trainer.accumulate_grad_batches=2",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_killed_after_every_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Each process gets to one more checkpoint than the one before it."""
    options = ["save.every_n_steps=1", "test=false", "trainer.log_every_n_steps=1", *RUNS[kind]]
    train(tmp_path / "undisturbed", *options)
    with monkeypatch.context() as patch:
        moments = killed_after(1, patch)
        for _ in range(20):
            try:
                train(tmp_path / "killed", *options, "ckpt_path=auto")
                break
            except Killed:
                pass
    assert len(set(moments)) == len(moments) > 4
    assert metric_rows(tmp_path / "killed") == metric_rows(tmp_path / "undisturbed"), moments
    ours, expected = last_state(tmp_path / "killed"), last_state(tmp_path / "undisturbed")
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[k], expected[k]) for k in expected), moments


THREE_EPOCHS = ["test=false", "trainer.max_epochs=3", "trainer.log_every_n_steps=1"]


@pytest.fixture(scope="module")
def killed_and_undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, RunResult]:
    """The run folders of one that was killed at its fifth checkpoint and of one left in peace, and the result of the
    latter. Not to be changed."""
    folder = tmp_path_factory.mktemp("damaged")
    expected = train(folder / "undisturbed", *THREE_EPOCHS)
    with pytest.MonkeyPatch.context() as patch:
        killed_after(5, patch)
        with pytest.raises(Killed):
            train(folder / "killed", *THREE_EPOCHS)
    return (folder / "killed").rename(folder / "kept"), folder / "undisturbed", expected


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "changed", "not finite"])
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    killed_and_undisturbed: tuple[Path, Path, RunResult],
    damage: str,
) -> None:
    """In a folder that has been moved, too, whose best score still counts."""
    killed, undisturbed, expected = killed_and_undisturbed
    folder = shutil.copytree(killed, tmp_path / "moved")
    last = folder / "checkpoints" / "last.ckpt"
    assert [file.name for file in newest_first(last.parent)] == ["last.ckpt", "last-1.ckpt"]
    if damage == "not finite":
        state = torch.load(last, weights_only=True)
        state["state_dict"]["model.head.predict.bias"][0] = float("nan")
        torch.save(state, last)
    else:
        content = bytearray(last.read_bytes())
        content[len(content) // 2] ^= 1
        last.write_bytes(content if damage == "changed" else content[: len(content) // 2])
    capsys.readouterr()
    result = train(folder, *THREE_EPOCHS, "ckpt_path=auto")
    warning = capsys.readouterr().err
    assert (
        f"{last}: {'holds weights that are NaN' if damage == 'not finite' else 'not a readable checkpoint'}" in warning
    )
    assert f"continuing from {last.with_name('last-1.ckpt')} instead" in warning
    assert result["best_val_miou"] == expected["best_val_miou"]
    assert metric_rows(folder) == metric_rows(undisturbed)
    ours, theirs = last_state(folder), last_state(undisturbed)
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    last.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"last\.ckpt: not a checkpoint"):
        train(folder, "ckpt_path=auto")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_signals_end_a_training_with_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    step, asked = SegmentationModule.training_step, tmp_path / "asked"
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {asked}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "77")

    def signalled(self: SegmentationModule, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.global_step == 1:
            os.kill(os.getpid(), number)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationModule, "training_step", signalled)
    with pytest.raises(SIGTERMException):
        train(tmp_path / "run")
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    assert asked.exists() == (number == signal.SIGUSR1)
    if asked.exists():
        assert asked.read_text() == "requeue 77\n"
    assert signal.getsignal(number) in (signal.SIG_DFL, None)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that two checkpoints fit on, but not three."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.name != "posix" or os.geteuid() or subprocess.run(mount("size=30m", disk), check=False).returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def mount(options: str, disk: Path) -> list[str]:
    return ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]


@pytest.mark.slow
def test_a_full_disk(small_disk: Path) -> None:
    folder = small_disk / "run"
    options = ["save.every_n_steps=1", "test=false"]
    with pytest.raises(WriteError, match=r"can't be written \(No space left on device\)") as error:
        train(folder, *options)
    assert "\n" not in str(error.value)
    files = newest_first(folder / "checkpoints")
    assert [torch.load(file, weights_only=True)["global_step"] for file in files] == [2, 1]
    assert not list(folder.rglob("*.partial"))
    subprocess.run(mount("remount,size=100m", small_disk), check=True)
    train(folder, *options, "ckpt_path=auto")
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6


def test_a_folder_that_becomes_read_only(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = Saving._save

    def then_read_only(self: Saving, *args: Any, **kwargs: Any) -> None:
        save(self, *args, **kwargs)
        subprocess.run(mount("remount,ro", small_disk), check=True)

    monkeypatch.setattr(Saving, "_save", then_read_only)
    with pytest.raises(WriteError, match=r"can't be written \(Read-only file system\)"):
        train(small_disk / "run", "save.every_n_steps=1", "test=false")
    (file,) = newest_first(small_disk / "run" / "checkpoints")
    assert torch.load(file, weights_only=True)["global_step"] == 1
