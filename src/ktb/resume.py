"""Where a run's results go and where its training starts: anew, or from a checkpoint of an interrupted run."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from ktb import checkpoints, ranks
from ktb.config import resume_saved, user_overrides
from ktb.engine.saving import newest_first
from ktb.errors import CheckpointError, ConfigError


@dataclass
class Checkpoint:
    """One that training continues from, read once."""

    path: Path
    content: dict[str, Any]

    @property
    def position(self) -> Mapping[str, int]:
        """What `Saving` noted: "epoch", "batch" (those of the epoch already taken), "rows" (of metrics.csv)."""
        position: Mapping[str, int] = self.content["callbacks"]["Saving"]
        return position


def start(cfg: DictConfig, *, occupied: tuple[str, ...]) -> tuple[DictConfig, Checkpoint | None]:
    """Fix the run folder and find the checkpoint that `ckpt_path` names; the same in every process of the job.

    ckpt_path: null, a new run; "last", the run in `run_dir`; "auto", the same if it has got to a checkpoint and a new
    run otherwise; a run folder; a checkpoint file.

    Args:
        cfg: of ktb-train.
        occupied: names in the run folder that belong to a run, which a new one must not mix with.

    Returns:
        the configuration to train with, that of the interrupted run under the user's overrides, with an absolute
        `run_dir`; and the checkpoint, None for a new run.

    Raises:
        ConfigError: the folder holds a run and nothing says what to do with it.
        CheckpointError: no checkpoint there, or none that can be read.
    """
    contents: dict[Path, dict[str, Any]] = {}
    found = ranks.decide(lambda: _find(cfg, occupied, contents), processes=processes(cfg))
    point = None
    if found["path"] is not None:
        path = Path(found["path"])
        point = Checkpoint(path, contents.get(path) or _read(path))
        cfg = _continued(cfg, point)
    with open_dict(cfg):
        cfg.run_dir = found["run_dir"]
    return cfg, point


def processes(cfg: DictConfig) -> int | None:
    """How many processes the job has: 1, or None where that depends on the machine."""
    return 1 if str(cfg.trainer.devices) == "1" and cfg.trainer.num_nodes == 1 else None


def _find(cfg: DictConfig, occupied: tuple[str, ...], contents: dict[Path, dict[str, Any]]) -> dict[str, str | None]:
    """Run folder and checkpoint, with what was read put into `contents`; damaged files are passed over, with a
    warning."""
    run_dir = Path(cfg.run_dir).expanduser().absolute()
    wanted = cfg.ckpt_path
    if wanted not in (None, "last", "auto"):
        path = Path(wanted).expanduser().absolute()
        if not path.is_dir():
            if run_dir != path.parent.parent:
                _refuse_occupied(cfg, run_dir, occupied)
            contents[path] = _read(path)
            return {"run_dir": str(run_dir), "path": str(path)}
        run_dir = path
    candidates = newest_first(run_dir / "checkpoints")
    if wanted is None or (wanted == "auto" and not candidates):
        if wanted is None:
            _refuse_occupied(cfg, run_dir, occupied)
        return {"run_dir": str(run_dir), "path": None}
    if not candidates:
        raise CheckpointError(
            f"{run_dir / 'checkpoints' / 'last.ckpt'}: no checkpoint to continue from; name the run with run_dir=... "
            "(ckpt_path=last continues the run in run_dir)"
        )
    damaged: CheckpointError | None = None
    for path in candidates:
        try:
            contents[path] = _read(path)
        except CheckpointError as error:
            print(f"warning: {error}", file=sys.stderr)
            damaged = damaged or error
            continue
        if damaged is not None:
            print(f"warning: continuing from {path} instead", file=sys.stderr)
        return {"run_dir": str(run_dir), "path": str(path)}
    assert damaged is not None
    raise damaged


def _read(path: Path) -> dict[str, Any]:
    content = checkpoints.read_file(path)
    if zipfile.is_zipfile(path):  # PyTorch does not look at the checksums it writes
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
        if damaged is not None:
            raise CheckpointError(f"{path}: not a readable checkpoint ({damaged} in it is damaged); fetch it again")
    if not checkpoints.is_ours(content) or "Saving" not in content.get("callbacks", {}):
        raise CheckpointError(f"{path}: not a checkpoint of ktb-train, so training can't continue from it")
    ours: dict[str, Any] = content
    return ours


def _refuse_occupied(cfg: DictConfig, run_dir: Path, occupied: tuple[str, ...]) -> None:
    if any((run_dir / name).exists() for name in occupied) and not cfg.overwrite:
        raise ConfigError(
            f"{run_dir} already holds a run; choose another run_dir, continue it with ckpt_path=last, or replace "
            "it with overwrite=true"
        )


def _continued(cfg: DictConfig, point: Checkpoint) -> DictConfig:
    """The resumed run's own configuration, with what the user overrode on the command line."""
    kept = resume_saved(OmegaConf.create(point.content["ktb"]["config"]), cfg, user_overrides(cfg))
    with open_dict(kept):
        # Loggers name classes of other packages, which nothing that came out of a file may do.
        for key in ("run_dir", "ckpt_path", "overwrite", "logger"):
            kept[key] = cfg[key]
    return kept
