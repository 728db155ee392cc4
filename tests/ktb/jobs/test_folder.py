"""Whose a run folder is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from ktb.errors import ConfigError
from ktb.io import locked
from ktb.jobs.folder import claimed_for_training
from ktb.jobs.resume import Checkpoint


def config(run_dir: Path, **settings: Any) -> DictConfig:
    return OmegaConf.create({"run_dir": str(run_dir), "ckpt_path": None, "overwrite": False, **settings})


def checkpoint(run_dir: Path) -> Checkpoint:
    """As a resumed training has read it."""
    path = run_dir / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"weights")
    return Checkpoint(path, {}, written=path.stat().st_mtime_ns)


@pytest.mark.parametrize("settings", [{}, {"overwrite": True}, {"ckpt_path": "auto"}])
def test_a_folder_is_written_by_one_training_at_a_time(tmp_path: Path, settings: dict[str, Any]) -> None:
    run = tmp_path / "run"
    cfg = config(run, **settings)
    with claimed_for_training(run, cfg, None):
        (run / "result.json").write_text("{}", encoding="utf-8")
        with (
            pytest.raises(ConfigError, match=r"/run: another ktb-train is writing into it; wait for it, or choose"),
            claimed_for_training(run, config(run, overwrite=True), None),
        ):
            pass
        assert (run / "result.json").read_text(encoding="utf-8") == "{}"  # nothing was removed
    (run / "result.json").unlink()
    with claimed_for_training(run, cfg, None), pytest.raises(BlockingIOError), locked(run):
        pass
    with locked(run):
        pass


def test_what_another_training_has_written_since_it_was_looked_at_is_left_alone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    point = checkpoint(run)
    (run / "result.json").write_text("{}", encoding="utf-8")
    # It looked when the folder was free.
    with (
        pytest.raises(ConfigError, match=r"/run already holds a run; choose another run_dir"),
        claimed_for_training(run, config(run), None),
    ):
        pass
    with (
        pytest.raises(ConfigError, match=r"/run: another ktb-train has written into it meanwhile; call the command"),
        claimed_for_training(run, config(run, ckpt_path="auto"), None),
    ):
        pass
    # It has read a checkpoint that is another one now.
    os.utime(point.path, ns=(point.written + 1, point.written + 1))
    with (
        pytest.raises(ConfigError, match="has written into it meanwhile"),
        claimed_for_training(run, config(run, ckpt_path="last"), point),
    ):
        pass
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "result.json"]
    # That of another run may be.
    with claimed_for_training(tmp_path / "other", config(tmp_path / "other", ckpt_path=str(point.path)), point):
        pass
    with claimed_for_training(run, config(run, ckpt_path="last"), checkpoint(run)):
        assert not (run / "result.json").exists()
    with claimed_for_training(run, config(run, overwrite=True), None):
        assert [path.name for path in run.iterdir()] == ["config.yaml"]
