"""Whose files are whose: the run of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktb.run_folder.names import run_of


@pytest.mark.parametrize("file", ["runs/a/checkpoints/best.ckpt", "runs/a/model.safetensors"])
def test_the_run_of_a_checkpoint(file: str) -> None:
    assert run_of(Path(file)) == Path("runs/a")
