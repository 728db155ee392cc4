"""A training that goes on with other settings than its checkpoint's: what they change, and what they may not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ktb.config.keys import setting_names
from ktb.config.overrides import overridden, user_overrides
from ktb.config.saved import differences
from ktb.data.module import RGBXDataModule
from ktb.distributed import decisions as ranks
from ktb.engine.epochs import EpochPlan, carry_over
from ktb.errors import ConfigError
from ktb.jobs.resume import Checkpoint
from ktb.run_folder.names import RESULT, run_of
from ktb.run_folder.result import read_result

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


_TEST = ("test", "eval", "robustness", "dataset.report_split", "dataset.eval_batch_size")
"""Settings, or groups of them, that play a part after the training only."""

_ENDS = ("trainer.max_epochs", "trainer.max_steps")
"""Settings that say how far the training goes."""

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
    if (reached := point.reached(plan, cfg)) is None:
        return False
    text = f"{point.path}: nothing is left to train, its run has got to {reached}"
    if run_of(point.path) != result.parent:
        raise ConfigError(
            f"{text}; init_from={point.path} starts anew from its weights, ktb-eval checkpoint={point.path} scores it"
        )
    changed = {key: value for key, value in _meant(point, cfg).items() if not _within(key, _MACHINE)}
    there = read_result(result.parent)
    done = there.get("status") == "finished" and there.get("steps") in (None, point.content["global_step"])
    # A lower limit of training may be what ended it.
    late = _TEST if done else (*_TEST, *_ENDS)
    useless = {key: value for key, value in changed.items() if not _within(key, late)}
    if useless:
        given = ", ".join(f"{key}={value}" for key, value in useless.items())
        raise ConfigError(f"{text}, so {given} would have no effect; leave {'it' if len(useless) == 1 else 'them'} out")
    if point.content["epoch"] > cfg.trainer.max_epochs:
        raise ConfigError(
            f"{text}; it can't end earlier than that any more: leave trainer.max_epochs={cfg.trainer.max_epochs} out, "
            f"or score it as it is with ktb-eval checkpoint={point.path}"
        )
    if not done or changed:
        _say(f"{text}; only what follows the training is done")
        return False
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
