"""Where a run's results go and where its training starts: anew, or from a checkpoint of an interrupted run."""

from __future__ import annotations

import math
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from ktb.config.compose import config_folders
from ktb.config.keys import setting_names
from ktb.config.moved import with_current_targets
from ktb.config.overrides import overridden, user_overrides
from ktb.config.saved import differences, resume_saved
from ktb.data.module import RGBXDataModule
from ktb.distributed import decisions as ranks
from ktb.engine.checkpoint_files import newest_first
from ktb.engine.epochs import EpochPlan, carry_over
from ktb.errors import CheckpointError, ConfigError
from ktb.run_folder.names import CHECKPOINTS, LAST, RESULT, run_of
from ktb.run_folder.result import read_result
from ktb.weights.checkpoint import refuse_other_data
from ktb.weights.files import is_ours, read_file


@dataclass
class Checkpoint:
    """One that training continues from, read once."""

    path: Path
    content: dict[str, Any]
    changed: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """Settings that are no longer those the checkpoint was written with: key → before, now."""

    @property
    def position(self) -> Mapping[str, Any]:
        """What `Saving` noted: "epoch", "batch" (those of the epoch already taken), "rows" (of metrics.csv), "plan"
        (of an `EpochPlan`)."""
        position: Mapping[str, Any] = self.content["callbacks"]["Saving"]
        return position

    @property
    def config(self) -> DictConfig:
        """The configuration it was written with."""
        plain = OmegaConf.to_container(OmegaConf.create(self.content["ktb"]["config"]))
        config = OmegaConf.create(with_current_targets(plain))
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

    def reached(self, plan: EpochPlan, trainer: DictConfig) -> str | None:
        """The limit of training that it has got to, and what sets a further one; None: there is training left.

        Args:
            plan: of its epochs.
            trainer: the settings of the trainer to continue with.
        """
        loops = self.content["loops"]["fit_loop"]
        validating = loops["epoch_loop.val_loop.batch_progress"]["total"]["ready"]
        epochs = self.position["epoch"] + (self.position["batch"] >= plan.batches and not validating)
        if epochs >= trainer.max_epochs:
            return f"epoch {epochs} (trainer.max_epochs={trainer.max_epochs}; a larger one trains on)"
        if 0 <= trainer.max_steps <= self.content["global_step"]:
            return f"step {self.content['global_step']} (trainer.max_steps={trainer.max_steps}; a larger one trains on)"
        return None


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
    contents: dict[Path, dict[str, Any]] = {}
    found = ranks.decide("run folder", lambda: _find(cfg, contents), processes=processes(cfg))
    point = None
    if found["path"] is not None:
        path = Path(found["path"])
        if cfg.trainer.fast_dev_run:
            raise ConfigError("trainer.fast_dev_run tries a new run out; it can't continue one (ckpt_path=...)")
        point = Checkpoint(path, contents.get(path) or _read(path))
        cfg = _continued(cfg, point)
    with open_dict(cfg):
        cfg.run_dir = found["run_dir"]
    return cfg, point


def processes(cfg: DictConfig) -> int | None:
    """How many processes the job has: 1, or None where that depends on the machine."""
    return 1 if str(cfg.trainer.devices) == "1" and cfg.trainer.num_nodes == 1 else None


def _find(cfg: DictConfig, contents: dict[Path, dict[str, Any]]) -> dict[str, str | None]:
    """Run folder and checkpoint, with what was read put into `contents`; damaged files are passed over, with a
    warning."""
    run_dir = Path(cfg.run_dir).expanduser().absolute()
    wanted = cfg.ckpt_path
    if wanted not in (None, "last", "auto"):
        path = Path(wanted).expanduser().absolute()
        if not path.is_dir():
            if run_dir != run_of(path):
                _refuse_occupied(cfg, run_dir)
            contents[path] = _read(path)
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
    content = read_file(path)
    if zipfile.is_zipfile(path):  # PyTorch does not look at the checksums it writes
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
        if damaged is not None:
            raise CheckpointError(f"{path}: not a readable checkpoint ({damaged} in it is damaged); fetch it again")
    if not is_ours(content) or "Saving" not in content.get("callbacks", {}):
        raise CheckpointError(f"{path}: not a checkpoint of ktb-train, so training can't continue from it")
    ours: dict[str, Any] = content
    return ours


def _refuse_occupied(cfg: DictConfig, run_dir: Path) -> None:
    if any((run_dir / name).exists() for name in (CHECKPOINTS, RESULT)) and not cfg.overwrite:
        replace = "" if cfg.ckpt_path else ", or replace it with overwrite=true"  # both together are refused
        raise ConfigError(
            f"{run_dir} already holds a run; choose another run_dir, continue it with ckpt_path=last{replace}"
        )


def _continued(cfg: DictConfig, point: Checkpoint) -> DictConfig:
    """The resumed run's own configuration, with what the user overrode on the command line."""
    saved, typed = point.config, overridden(user_overrides(cfg))
    kept = resume_saved(saved, cfg, user_overrides(cfg), config_folders())
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
        for group, key in (("model", "head_init"), ("dataset.recipe", "head_init")):
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


_SAME_DATA = (
    "dataset.name", "dataset.root", "dataset.num_workers", "dataset.batch_size", "dataset.eval_batch_size",
    "dataset.crop", "dataset.max_pixels", "dataset.report_split", "dataset.recipe", "dataset.palette",
    "dataset.default_modality", "dataset.default_streams", "dataset.seed",
)  # fmt: skip
"""Settings of a data set, or groups of them, that leave the samples of its splits and the scores on them as they are.
Any other one counts as one that changes both, as data sets of the user's own may have any."""

_TRAINED_ON = ("dataset.train", "dataset.lists.train", "dataset.splits.train")
"""Settings of a data set that leave its validation split as it is."""

_MEASURED_BY = ("dataset.selection_split", "dataset.eval_size", "dataset.mean_without")
"""Settings of a data set that leave its training split as it is."""

_SCORED_BY = ("eval.scoring", "trainer.limit_val_batches")
"""Settings of other groups without which two validation scores can't be compared."""


_VALIDATED_AT = ("trainer.limit_val_batches", "trainer.val_check_interval", "trainer.check_val_every_n_epoch")
"""Settings that decide at which steps there is a validation."""


def begun(point: Checkpoint | None) -> dict[str, Any] | None:
    """What the continued run was started from (`ktb.jobs.finetune.begin`), if from other weights at all."""
    summary: dict[str, Any] | None = None if point is None else point.content["ktb"].get("init_from")
    return summary


def is_finished(point: Checkpoint, cfg: DictConfig, data: RGBXDataModule, plan: EpochPlan, processes: int) -> bool:
    """Let training go on where the checkpoint stands (`prepare`); whether nothing is left to do (`results_stand`)."""
    prepare(point, cfg, data, plan, processes)
    return results_stand(point, cfg, plan, Path(cfg.run_dir) / RESULT)


def prepare(point: Checkpoint, cfg: DictConfig, data: RGBXDataModule, now: EpochPlan, processes: int) -> None:
    """Let the checkpoint and the data stand where training goes on, under the configuration of today.

    Args:
        point: changed in place.
        cfg: to continue with.
        data: set up for training.
        now: how an epoch goes from here on.
        processes: of this job.

    Raises:
        ConfigError: the place in the data does not exist with the new settings, or they deal out the samples anew.
    """
    point.changed = differences(point.config, cfg)
    was = point.plan(now, processes)
    changed = _meant(point, cfg)
    _refuse_other_shares(point, changed)
    other_data = [key for key in changed if _within(key, ("dataset",)) and not _within(key, _SAME_DATA)]
    same_order = "dataset.seed" not in point.changed and all(_within(key, _MEASURED_BY) for key in other_data)
    if was != now or not same_order or any(key in point.changed for key in _VALIDATED_AT):
        carry_over(point.content, was, now, same_order=same_order)
    data.start_at(point.position["epoch"], point.position["batch"])
    if any(not _within(key, _TRAINED_ON) for key in other_data) or any(_within(key, _SCORED_BY) for key in changed):
        point.content["callbacks"]["Saving"]["best_score"] = -math.inf
        _say("validation is scored in another way now: the best checkpoint is chosen among those from here on")


def _within(key: str, settings: Sequence[str]) -> bool:
    """Whether `key` is one of the settings, or part of one."""
    return any(key == name or key.startswith((f"{name}.", f"{name}[")) for name in settings)


def _meant(point: Checkpoint, cfg: DictConfig) -> dict[str, Any]:
    """Dotted key → value now, of the settings that changed; but what ktb had no setting for yet when the run began, and
    a group brings along, changes nothing."""
    known, typed = set(setting_names(point.config)), overridden(user_overrides(cfg))
    return {
        key: value
        for key, (_, value) in point.changed.items()
        if ".".join(key.split("[")[0].split(".")[:2]) in known
        or any("." in name and _within(key, (name,)) for name in typed)
    }


def _refuse_other_shares(point: Checkpoint, changed: Iterable[str]) -> None:
    """Samples that are dealt out anew would be validated on after having been trained on."""
    for key in changed:
        before, now = point.changed[key]
        shares = _within(key, ("dataset.splits",)) and any(isinstance(v, int | float) for v in (before, now))
        if key == "dataset.split_seed" or shares:
            raise ConfigError(
                f"{key}={now} deals out the samples anew (it was {before}), and {point.path} has been trained on some "
                "that would be validated on; leave it as it was, or start anew from its weights: "
                f"init_from={point.path}"
            )


_TEST = ("test", "eval", "dataset.report_split", "dataset.eval_batch_size")
"""Settings, or groups of them, that play a part after the training only."""

_MACHINE = (
    "save", "dataset.root", "dataset.num_workers", "dataset.max_pixels", "trainer.accelerator", "trainer.devices",
    "trainer.num_nodes", "trainer.strategy", "trainer.enable_progress_bar", "trainer.enable_model_summary",
)  # fmt: skip
"""Settings, or groups of them, that say where and how the work is done, not what comes out of it."""


def results_stand(point: Checkpoint, cfg: DictConfig, plan: EpochPlan, result: Path) -> bool:
    """Whether the run has been finished and nothing is left to do for it; says so where nothing is left to train.

    Args:
        cfg: to continue with.
        plan: of its epochs.
        result: the file of the run's results, if it has got so far.

    Raises:
        ConfigError: settings that could have no effect any more, or another run's checkpoint and nothing to train.
    """
    if (reached := point.reached(plan, cfg.trainer)) is None:
        return False
    text = f"{point.path}: nothing is left to train, its run has got to {reached}"
    if run_of(point.path) != result.parent:
        raise ConfigError(
            f"{text}; init_from={point.path} starts anew from its weights, ktb-eval checkpoint={point.path} scores it"
        )
    changed = {key: value for key, value in _meant(point, cfg).items() if not _within(key, _MACHINE)}
    scored_anew = [key for key in changed if _within(key, _TEST)]
    there = read_result(result.parent)
    done = there.get("status") == "finished" and there.get("steps") in (None, point.content["global_step"])
    if not done or (scored_anew and len(scored_anew) == len(changed)):
        _say(f"{text}; only what follows the training is done")
        return False
    if changed:
        given = ", ".join(f"{key}={value}" for key, value in changed.items())
        raise ConfigError(f"{text}, so {given} would have no effect")
    _say(f"{text}; nothing was trained, and the results are as they were: {result}")
    return True


def _say(text: str) -> None:
    if ranks.is_first():
        print(text)


def announce(point: Checkpoint, cfg: DictConfig, plan: EpochPlan) -> None:
    """Say where training goes on, with which settings other than before, and which loggers are missing."""
    batch = point.position["batch"]
    within = f", after {batch} of {plan.batches} batches" if batch else ""
    _say(f"continuing {point.path} in epoch {point.position['epoch'] + 1} of {cfg.trainer.max_epochs}{within}")
    if point.changed:
        _say("changed: " + ", ".join(f"{key}={now} (was {was})" for key, (was, now) in point.changed.items()))
    if missing := sorted(set(point.config.get("logger") or {}) - set(cfg.logger or {})):
        _say(f"the run was logged to {', '.join(missing)} too: that has to be said again, with logger=...")
