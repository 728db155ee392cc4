"""Where a run's results go and where its training starts: anew, or from a checkpoint of an interrupted run.

What other settings than the checkpoint's mean for the rest of the training is in `ktb.jobs.resume_settings`.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from ktb.config.compose import config_folders
from ktb.config.keys import unresolved
from ktb.config.moved import with_current_settings
from ktb.config.overrides import overridden, user_overrides
from ktb.config.saved import resume_saved
from ktb.data.module import RGBXDataModule
from ktb.distributed import decisions as ranks
from ktb.engine.checkpoint_files import newest_first
from ktb.engine.epochs import EpochPlan
from ktb.errors import CheckpointError, ConfigError
from ktb.jobs.callbacks import stopped_early
from ktb.run_folder.names import CHECKPOINTS, LAST, RESULT, run_of
from ktb.weights.checkpoint import refuse_other_data
from ktb.weights.files import is_ours, read_file


@dataclass
class Checkpoint:
    """One that training continues from, read once."""

    path: Path
    content: dict[str, Any]
    changed: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """Settings that are no longer those the checkpoint was written with: key → before, now."""
    written: int = 0
    """When the file that was read had been written, in nanoseconds."""

    @property
    def position(self) -> Mapping[str, Any]:
        """What `Saving` noted: "epoch", "batch" (those of the epoch already taken), "rows" (of metrics.csv), "plan"
        (of an `EpochPlan`)."""
        position: Mapping[str, Any] = self.content["callbacks"]["Saving"]
        return position

    @property
    def config(self) -> DictConfig:
        """The configuration it was written with."""
        config = OmegaConf.create(with_current_settings(unresolved(OmegaConf.create(self.content["ktb"]["config"]))))
        assert isinstance(config, DictConfig)
        return config

    def plan(self, now: EpochPlan, processes: int) -> EpochPlan:
        """How an epoch went when it was written. Older versions did not note that: by its configuration, on as many
        samples as `now` and, where that was left to the machine, on as many processes."""
        if "plan" in self.position:
            return EpochPlan(**self.position["plan"])
        config = self.config
        if isinstance(config.trainer.devices, int) and config.trainer.devices > 0:
            processes = config.trainer.devices * config.trainer.num_nodes
        return EpochPlan.planned(
            samples=now.samples,
            batch_size=config.dataset.batch_size,
            processes=processes,
            limit=config.trainer.limit_train_batches,
            accumulate=config.trainer.accumulate_grad_batches,
        )

    def reached(self, plan: EpochPlan, cfg: DictConfig) -> str | None:
        """The limit of training that it has got to, and what sets a further one; None: there is training left.

        Args:
            plan: of its epochs.
            cfg: to continue with.
        """
        trainer = cfg.trainer
        loops = self.content["loops"]["fit_loop"]
        validating = loops["epoch_loop.val_loop.batch_progress"]["total"]["ready"]
        epochs = self.position["epoch"] + (self.position["batch"] >= plan.batches and not validating)
        if epochs >= trainer.max_epochs:
            return f"epoch {epochs} (trainer.max_epochs={trainer.max_epochs}; a larger one trains on)"
        if 0 <= trainer.max_steps <= self.content["global_step"]:
            return f"step {self.content['global_step']} (trainer.max_steps={trainer.max_steps}; a larger one trains on)"
        return stopped_early(self.content, cfg)


def start(cfg: DictConfig) -> tuple[DictConfig, Checkpoint | None]:
    """Fix the run folder and find the checkpoint that `ckpt_path` names; the same in every process of the job.

    ckpt_path: null, a new run; "last", the run in `run_dir`; "auto", the same if it has got to a checkpoint and a new
    run otherwise; a run folder; a checkpoint file.

    Args:
        cfg: of ktb-train.

    Returns:
        the configuration to train with, that of the interrupted run under the user's overrides, with an absolute
        `run_dir`; and the checkpoint, None for a new run.

    Raises:
        ConfigError: the folder holds a run and nothing says what to do with it.
        CheckpointError: no checkpoint there, or none that can be read.
    """
    read: dict[Path, Checkpoint] = {}
    found = ranks.decide("run folder", lambda: _find(cfg, read), processes=processes(cfg))
    point = None
    if found["path"] is not None:
        path = Path(found["path"])
        if cfg.trainer.fast_dev_run:
            raise ConfigError("trainer.fast_dev_run tries a new run out; it can't continue one (ckpt_path=...)")
        point = read.get(path) or _read(path)
        cfg = _continued(cfg, point)
    with open_dict(cfg):
        cfg.run_dir = found["run_dir"]
    return cfg, point


def processes(cfg: DictConfig) -> int | None:
    """How many processes the job has: 1, or None where that depends on the machine."""
    return 1 if str(cfg.trainer.devices) == "1" and cfg.trainer.num_nodes == 1 else None


def _find(cfg: DictConfig, read: dict[Path, Checkpoint]) -> dict[str, str | None]:
    """Run folder and checkpoint, which is put into `read`; damaged files are passed over, with a warning."""
    run_dir = Path(cfg.run_dir).expanduser().absolute()
    wanted = cfg.ckpt_path
    if wanted not in (None, "last", "auto"):
        path = Path(wanted).expanduser().absolute()
        if not path.is_dir():
            if run_dir != run_of(path):
                _refuse_occupied(cfg, run_dir)
            read[path] = _read(path)
            return {"run_dir": str(run_dir), "path": str(path)}
        run_dir = path
    candidates = newest_first(run_dir / CHECKPOINTS)
    if wanted is None or (wanted == "auto" and not candidates):
        if wanted is None:
            _refuse_occupied(cfg, run_dir)
        return {"run_dir": str(run_dir), "path": None}
    if not candidates:
        raise CheckpointError(
            f"{run_dir / CHECKPOINTS / LAST}: no checkpoint to continue from; name the run with run_dir=... "
            "(ckpt_path=last continues the run in run_dir)"
        )
    damaged: CheckpointError | None = None
    for path in candidates:
        try:
            read[path] = _read(path)
        except CheckpointError as error:
            print(f"warning: {error}", file=sys.stderr)
            damaged = damaged or error
            continue
        if damaged is not None:
            print(f"warning: continuing from {path} instead", file=sys.stderr)
        return {"run_dir": str(run_dir), "path": str(path)}
    assert damaged is not None
    raise damaged


def _read(path: Path) -> Checkpoint:
    written = _written(path)
    content = read_file(path)
    if zipfile.is_zipfile(path):  # PyTorch does not look at the checksums it writes
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
        if damaged is not None:
            raise CheckpointError(f"{path}: not a readable checkpoint ({damaged} in it is damaged); fetch it again")
    if not is_ours(content) or "Saving" not in content.get("callbacks", {}):
        raise CheckpointError(f"{path}: not a checkpoint of ktb-train, so training can't continue from it")
    return Checkpoint(path, dict(content), written=written)


def _refuse_occupied(cfg: DictConfig, run_dir: Path) -> None:
    if any((run_dir / name).exists() for name in (CHECKPOINTS, RESULT)) and not cfg.overwrite:
        replace = "" if cfg.ckpt_path else ", or replace it with overwrite=true"  # both together are refused
        raise ConfigError(
            f"{run_dir} already holds a run; choose another run_dir, continue it with ckpt_path=last{replace}"
        )


def refuse_changed(cfg: DictConfig, run_dir: Path, point: Checkpoint | None) -> None:
    """Refuse to write over what another process has written since `start` looked.

    Args:
        cfg: of ktb-train.
        run_dir: the run folder, which nobody else writes into any more.
        point: the checkpoint to continue from; None: a new run.

    Raises:
        ConfigError: there is another run in it now, or its checkpoint is another one.
    """
    if point is None:
        if cfg.ckpt_path is None:
            _refuse_occupied(cfg, run_dir)
        changed = not cfg.overwrite and bool(newest_first(run_dir / CHECKPOINTS))
    else:
        changed = run_of(point.path) == run_dir and _written(point.path) != point.written
    if changed:
        raise ConfigError(f"{run_dir}: another ktb-train has written into it meanwhile; call the command again")


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _continued(cfg: DictConfig, point: Checkpoint) -> DictConfig:
    """The resumed run's own configuration, with what the user overrode on the command line."""
    saved, typed = point.config, overridden(user_overrides(cfg))
    kept = resume_saved(saved, cfg, user_overrides(cfg), f"{point.path}: its configuration", config_folders())
    was, now = (OmegaConf.select(config, "optim._target_") for config in (saved, kept))
    if was != now:
        raise ConfigError(
            f"{point.path} was trained with {was}, whose moments are of no use to {now}; leave "
            f"optim as it was, or start anew from its weights: init_from={point.path}"
        )
    begun = saved.get("init_from")
    if kept.init_from != begun:
        given = kept.init_from and Path(kept.init_from).expanduser().absolute()  # perhaps the folder of the file
        if not begun or not given or not Path(begun).is_relative_to(given):
            raise ConfigError(
                f"init_from={kept.init_from} says what a run starts from, and that of {point.path} has started "
                f"{f'from {begun}' if begun else 'without it'}; leave it out, or start a new run in another run_dir"
            )
    with open_dict(kept):
        kept.init_from = begun
        if begun and "backbone.weights" not in typed:  # they were the source's, whatever the group backbone names
            kept.backbone.weights = saved.backbone.weights
        for group, key in (("head", "init"), ("dataset.recipe", "head_init")):
            _keep_start(kept, saved, group, key, typed, point.path)
        # Loggers name classes of other packages, which nothing that came out of a file may do.
        for key in ("run_dir", "ckpt_path", "overwrite", "logger"):
            kept[key] = cfg[key]
    return kept


def _keep_start(kept: DictConfig, saved: DictConfig, group: str, key: str, typed: set[str], path: Path) -> None:
    """Let a setting that only a run's start looks at be what it was, also where a group brings another value along.

    Raises:
        ConfigError: the user asked for another one.
    """
    node, name = OmegaConf.select(kept, group), f"{group}.{key}"
    was = OmegaConf.select(saved, name)
    if not isinstance(node, DictConfig) or key not in node or node[key] == (was or "published"):
        return
    if name in typed:
        raise ConfigError(
            f"{name}={node[key]} says how a run starts, and that of {path} has started with {was or 'published'}; "
            "leave it out, or start a new run in another run_dir"
        )
    if was is None:
        del node[key]
    else:
        node[key] = was


def check_data(point: Checkpoint, data: RGBXDataModule) -> None:
    """Refuse to continue on other data than the checkpoint's.

    Raises:
        CheckpointError: another data set, other classes, other modalities, or values scaled in another way.
    """
    about, model = point.content["ktb"], point.content["ktb"].get("model") or {}
    other = f"to start anew from its weights on other data: init_from={point.path}"
    if "num_classes" in model:
        refuse_other_data(
            model,
            about.get("classes"),
            str(point.path),
            dataset=data.spec.name,
            classes=data.spec.classes,
            channels={m.name: m.channels for m in data.modalities},
            remedy=other,
        )
    if about.get("dataset", data.spec.name) != data.spec.name:
        raise CheckpointError(
            f"{point.path}: its run is on the data set {about['dataset']!r}, and here is {data.spec.name!r}; {other}"
        )
    theirs = {str(m["name"]): m for m in about.get("modalities") or ()}
    for modality in data.modalities:
        known = theirs.get(modality.name, {})
        for key in ("scale", "mean", "std", "validity"):
            if key not in known:  # a checkpoint from before there was that setting
                continue
            before, now = known[key], asdict(modality)[key]
            before, now = (tuple(x) if isinstance(x, list | tuple) else x for x in (before, now))
            if before != now:
                raise CheckpointError(
                    f"{point.path}: {modality.name} was trained on with {key} {before}, and is read with {now} here; "
                    f"restore that setting of the data set, or {other}"
                )


def begun(point: Checkpoint | None) -> dict[str, Any] | None:
    """What the continued run was started from (`ktb.jobs.finetune.begin`), if from other weights at all."""
    summary: dict[str, Any] | None = None if point is None else point.content["ktb"].get("init_from")
    return summary
