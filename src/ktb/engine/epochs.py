"""How training goes through one epoch, and how a checkpoint's place in an epoch is carried over to another batch size.

Optimiser steps alone do not say where a training stands: with another global batch an epoch has another number of them.
What counts is the epoch and how many of its samples have been seen.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import lightning as L

from ktb.errors import ConfigError


@dataclass(frozen=True)
class EpochPlan:
    """An epoch over all processes.

    Args:
        samples: of the training split.
        batch_size: of all processes together.
        batches: per epoch and process; the incomplete last one is dropped.
        accumulate: batches whose gradients make one optimiser step.
    """

    samples: int
    batch_size: int
    batches: int
    accumulate: int = 1

    @classmethod
    def planned(
        cls, *, samples: int, batch_size: int, processes: int, limit: int | float, accumulate: int
    ) -> EpochPlan:
        """The plan of a training whose loaders do not exist yet.

        Args:
            samples: of the training split.
            batch_size: of each process.
            processes: how many there are.
            limit: as `trainer.limit_train_batches`: a number of batches, or a share of them.
            accumulate: batches whose gradients make one optimiser step.
        """
        batches = samples // processes // batch_size
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        return cls(samples, batch_size * processes, batches, accumulate)

    @classmethod
    def of(cls, trainer: L.Trainer) -> EpochPlan:
        """That of a training under way."""
        loader = trainer.train_dataloader
        assert loader is not None
        return cls(
            samples=len(loader.dataset),
            batch_size=loader.batch_size * trainer.world_size,
            batches=int(trainer.num_training_batches),
            accumulate=trainer.accumulate_grad_batches,
        )

    @property
    def steps(self) -> int:
        """Optimiser steps per epoch."""
        return math.ceil(self.batches / self.accumulate)

    def to_dict(self) -> dict[str, int]:
        """Plain values, for checkpoints."""
        return asdict(self)

    def describe(self) -> str:
        """In words, for messages: "a global batch of 8 samples (in 2 parts)"."""
        parts = f" (in {self.accumulate} parts)" if self.accumulate > 1 else ""
        return f"a global batch of {self.batch_size * self.accumulate} samples{parts}"


def carry_over(content: dict[str, Any], was: EpochPlan, now: EpochPlan, *, same_order: bool) -> None:
    """Change a checkpoint's content so that training continues from it with another plan of its epochs, or with
    validation at other places.

    The samples of the epoch that have been seen stay seen, the learning-rate schedule stands where it would stand had
    the new plan held from the start, and optimiser steps are counted on.

    Args:
        content: of a checkpoint of `Saving`, changed in place.
        was: the plan it was written under.
        now: the plan to continue with.
        same_order: whether the training split still deals out its samples in the same order.

    Raises:
        ConfigError: the checkpoint stands within an epoch, at a place that the new plan does not have.
    """
    place = content["callbacks"]["Saving"]
    batch = _batch(place["epoch"], place["batch"], was, now, same_order=same_order)
    loops = content["loops"]["fit_loop"]
    progress, validation = loops["epoch_loop.batch_progress"], loops["epoch_loop.val_loop.batch_progress"]
    shift = batch - place["batch"]
    if 0 < place["batch"] < was.batches:  # within an epoch
        over = batch == now.batches
        for part in (progress["total"], progress["current"]):
            done = part["processed"] + shift
            # As if the step were just ending; if it was the last one, as if validation were just beginning.
            part.update(ready=done, started=done, processed=done, completed=done - (not over))
        progress["is_last_batch"] = over
        for part in ("total", "current"):
            validation[part] = dict.fromkeys(validation[part], 0)
        validation["total"].update(ready=int(over), started=int(over))
    elif place["batch"] and validation["total"]["ready"]:  # after its last batch, before validation
        for part in (progress["total"], progress["current"]):
            part.update({key: count + shift for key, count in part.items()})
    elif place["batch"]:  # after both: as if the next epoch were just beginning
        for part in (loops["epoch_progress"]["total"], loops["epoch_progress"]["current"]):
            part["processed"] = part["started"]
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
        place["epoch"], batch = place["epoch"] + 1, 0
    place["batch"] = batch
    for schedule in content["lr_schedulers"]:
        schedule["last_epoch"] = place["epoch"] * now.steps + math.ceil(batch / now.accumulate)


def _batch(epoch: int, batch: int, was: EpochPlan, now: EpochPlan, *, same_order: bool) -> int:
    """How many batches of the epoch have been taken, counted in the new ones."""
    if batch == 0:
        return 0
    if batch >= was.batches:
        return now.batches
    if was == now and same_order:
        return batch
    seen = batch * was.batch_size
    place = f"the checkpoint stands within epoch {epoch + 1}, after {seen} of its samples"
    back = f"finish that epoch with {was.describe()} over {was.samples} samples first, or continue from best.ckpt"
    if not same_order or was.samples != now.samples:
        raise ConfigError(
            f"{place}, and the training split has other samples or another order now ({was.samples} samples then, "
            f"{now.samples} now), so some would be seen twice: {back}"
        )
    if seen % (now.batch_size * now.accumulate):
        raise ConfigError(
            f"{place}, which are no whole number of steps of {now.describe()}: choose a global batch (batch size x "
            f"processes x accumulate_grad_batches) that divides {seen}, or {back}"
        )
    if seen // now.batch_size > now.batches:
        raise ConfigError(f"{place}, but an epoch has {now.batches * now.batch_size} now: {back}")
    return seen // now.batch_size
