"""Callbacks of Lightning's own in the group callbacks: those that contradict ktb are refused, and mistakes told."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping

from lightning.pytorch import callbacks as library
from lightning.pytorch.callbacks import Callback

from ktb.errors import ConfigError, KTBError, did_you_mean, first_line

_CHECKPOINTS = (
    "writes checkpoints at moments from which no training of ktb's continues exactly; best.ckpt and last.ckpt are "
    "written anyway: save.every_n_steps, save.every_n_minutes, save.keep"
)
_AVERAGES = "puts other weights in the place of the trained ones when ktb's checkpoints are written"
REFUSED: tuple[tuple[type[Callback], str], ...] = (
    (library.Checkpoint, _CHECKPOINTS),
    (library.StochasticWeightAveraging, f"{_AVERAGES}; an average that is saved, tested and resumed: callbacks=ema"),
    (library.WeightAveraging, f"{_AVERAGES}; an average that is saved, tested and resumed: callbacks=ema"),
    (
        library.LearningRateFinder,
        "changes optim.lr after the schedule and the run's config.yaml have been made with it; try some values: "
        "ktb-train -m optim.lr=1e-4,3e-4,1e-3",
    ),
    (
        library.BatchSizeFinder,
        "changes dataset.batch_size after the schedule and the run's config.yaml have been made with it; set "
        "dataset.batch_size (docs/scaling.md says what needs how much memory)",
    ),
    (
        library.GradientAccumulationScheduler,
        "changes the number of steps after the schedule has been made for it; set trainer.accumulate_grad_batches",
    ),
    (
        library.ModelPruning,
        "puts masks beside the parameters, which neither checkpoints nor exported files of ktb have a place for",
    ),
    (
        library.BackboneFinetuning,
        "gives the optimiser the frozen backbone in mid-training; train all of it from the start: peft=full",
    ),
)
"""Class, and why it can't work here."""
SCORES = ("val/miou", "val/macc", "val/pixel_acc", "val_miou")
"""What is logged of every validation beside the IoU of each class: more is better."""


def refuse_unfit(name: str, callback: Callback, metrics: Iterable[str]) -> None:
    """Refuse a callback that contradicts what ktb does, or waits for a score that there is not.

    Args:
        name: in the group callbacks.
        callback: as built.
        metrics: names of the user's own.

    Raises:
        ConfigError: saying why, and what to do instead.
    """
    for kind, reason in REFUSED:
        if isinstance(callback, kind):
            raise ConfigError(f"callbacks.{name}: {type(callback).__name__} {reason}")
    if not isinstance(callback, library.EarlyStopping):
        return
    monitor, own = str(callback.monitor), [f"val/{metric}" for metric in metrics]
    known = [*SCORES, *own]
    if monitor.startswith("val") and monitor not in known and not monitor.startswith("val_iou/"):
        raise ConfigError(
            f"callbacks.{name}.monitor={monitor}: no validation logs it{did_you_mean(monitor, known)}; it logs "
            f"{', '.join(known)} and val_iou/CLASS"
        )
    if callback.mode == "min" and (monitor in SCORES or monitor.startswith("val_iou/")):
        raise ConfigError(
            f"callbacks.{name}: with mode=min the training ends as soon as {monitor} rises; say callbacks.{name}.mode="
            "max, or take callbacks=early_stopping"
        )


def failure_of(error: BaseException, chosen: Mapping[str, Callback]) -> ConfigError | None:
    """An error in words, if one of Lightning's own callbacks has raised it.

    Args:
        error: as caught.
        chosen: name in the group callbacks → callback.
    """
    if isinstance(error, KTBError | OSError | MemoryError) or not isinstance(error, Exception):
        return None
    names = {id(callback): name for name, callback in chosen.items()}
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not frames or not str(frames[-1].f_globals.get("__name__")).startswith("lightning."):
        return None
    for frame in reversed(frames):
        if (name := names.get(id(frame.f_locals.get("self")))) is not None:
            return ConfigError(f"callbacks.{name} ({type(chosen[name]).__name__}): {first_line(error, limit=None)}")
    return None
