"""The checkpoint files of a training: their names, and how they are written whole."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from ktb.errors import WriteError
from ktb.run_folder.names import LAST


def older(file: Path, age: int) -> Path:
    """Where the checkpoint written `age` saves before `file` is: last.ckpt, last-1.ckpt, last-2.ckpt."""
    return file if age == 0 else file.with_name(f"{file.stem}-{age}{file.suffix}")


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints of a run that training can continue from, newest first."""
    ages = {0: folder / LAST} if (folder / LAST).is_file() else {}
    for file in folder.glob("last-*.ckpt"):
        if found := re.fullmatch(r"last-(\d+)", file.stem):
            ages[int(found[1])] = file
    return [ages[age] for age in sorted(ages)]


class AtomicIO(TorchCheckpointIO):
    """Files appear whole or not at all, also when the machine dies: written aside, synced, renamed.

    The checkpoint that a new one replaces is kept as `last-1.ckpt`, the one before it as `last-2.ckpt`, ...

    Args:
        keep: how many there are, the newest among them.
        known: files whose content has been read already.
    """

    def __init__(self, keep: int = 1, known: Mapping[Path, dict[str, Any]] | None = None) -> None:
        super().__init__()
        self.keep = keep
        self.known = dict(known or {})

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint, and where asked the same content as best checkpoint too, and first.

        In that order a kill between the two leaves a best checkpoint that the run, continued from before it, writes
        again.

        Args:
            checkpoint: its content.
            path: the file.
            storage_options: {"best": FILE} for a best checkpoint.

        Raises:
            WriteError: no space, no permission; earlier checkpoints are as they were.
        """
        path = Path(path)
        partial = path.with_name(f"{path.name}.partial")
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with partial.open("wb") as file:
                    file.write(content.getbuffer())
                    file.flush()
                    os.fsync(file.fileno())
                if best := (storage_options or {}).get("best"):
                    _link(partial, Path(best))
                for age in range(self.keep - 1, 0, -1):
                    if older(path, age - 1).exists():
                        older(path, age - 1).replace(older(path, age))
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise WriteError(path, error) from error

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What is known of `path` (once: Lightning changes it), else the file's content."""
        content = self.known.pop(Path(path), None)
        return content if content is not None else super().load_checkpoint(path, *args, **kwargs)


def _link(file: Path, other: Path) -> None:
    """Let `other` have the content of `file`, without a second copy where the file system can."""
    aside = other.with_name(f"{other.name}.partial")
    aside.unlink(missing_ok=True)
    try:
        aside.hardlink_to(file)
    except OSError:
        aside.write_bytes(file.read_bytes())
    aside.replace(other)
