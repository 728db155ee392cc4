"""How the learning rate changes in the course of a training: ktb's own schedules, and those of PyTorch.

ktb's follow from the place in the training alone, the epoch and the share of it, so that they stand where they should
in a training that goes on with another batch size. PyTorch's are run again from their beginning up to that place.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then what `after_warmup` says.

    Args:
        warmup_epochs: epochs of linear warm-up, from `warmup_ratio` times the learning rate on.
        warmup_ratio: from 0 to 1.
    """

    warmup_epochs: float = 0
    warmup_ratio: float = 0.1

    def factor(self, step: int, *, epochs: int, steps_per_epoch: int) -> float:
        """What the learning rate is multiplied by.

        Args:
            step: optimiser step, from 0.
            epochs: of the whole training.
            steps_per_epoch: optimiser steps.
        """
        warmup = int(self.warmup_epochs * steps_per_epoch)
        if step < warmup:
            return self.warmup_ratio + (1 - self.warmup_ratio) * step / warmup
        return self.after_warmup(step, warmup, epochs=epochs, steps_per_epoch=steps_per_epoch)

    def after_warmup(self, step: int, warmup: int, *, epochs: int, steps_per_epoch: int) -> float:
        """The factor at a step that is not before `warmup`, the number of steps of the warm-up."""
        raise NotImplementedError

    def begin(self, optimizer: Optimizer, steps: int, *, epochs: int, steps_per_epoch: int) -> LRScheduler:
        """See `TorchSchedule.begin`."""
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]

        def factor(step: int) -> float:
            return self.factor(step, epochs=epochs, steps_per_epoch=steps_per_epoch)

        return LambdaLR(optimizer, factor, last_epoch=steps - 1)


@dataclass(frozen=True)
class Poly(Schedule):
    """Warm-up, then polynomial decay: the published recipes' (docs/method.md#recipe).

    It ends one epoch after the training does.

    Args:
        power: of the decay.
    """

    power: float = 0.9

    def after_warmup(self, step: int, warmup: int, *, epochs: int, steps_per_epoch: int) -> float:
        total = (epochs + 1) * steps_per_epoch
        return float(max(0.0, 1 - (step - warmup) / max(1, total - warmup)) ** self.power)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Warm-up, then half a cosine, which ends with the training.

    Args:
        min_ratio: what the learning rate is multiplied by at the end.
    """

    min_ratio: float = 0.0

    def after_warmup(self, step: int, warmup: int, *, epochs: int, steps_per_epoch: int) -> float:
        share = min(1.0, (step - warmup) / max(1, epochs * steps_per_epoch - warmup))
        return self.min_ratio + (1 - self.min_ratio) * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class Constant(Schedule):
    """Warm-up, then no change."""

    def after_warmup(self, step: int, warmup: int, *, epochs: int, steps_per_epoch: int) -> float:
        return 1.0


_WHOLE_TRAINING = ("total_steps", "total_iters", "T_max")
"""Settings of PyTorch's schedules that say how long they are; None: as long as the training."""
FILLED_IN = (*_WHOLE_TRAINING, "max_lr")
"""Settings that may be None here, which PyTorch's own classes do not take."""


@dataclass(frozen=True)
class TorchSchedule:
    """A schedule of `torch.optim.lr_scheduler`, or one like them.

    Args:
        kind: its class.
        settings: its arguments but the optimiser. None for `total_steps`, `total_iters` or `T_max` means the whole
            training, and for `max_lr` the learning rates of the optimiser.
        interval: whether it counts optimiser steps or epochs.
    """

    kind: type[LRScheduler]
    settings: Mapping[str, Any]
    interval: Literal["step", "epoch"] = "epoch"

    def begin(self, optimizer: Optimizer, steps: int, *, epochs: int, steps_per_epoch: int) -> LRScheduler:
        """The schedule of an optimiser, whose learning rates it sets to what they are after some steps.

        Args:
            optimizer: with the learning rates that it was configured with.
            steps: optimiser steps taken so far.
            epochs: of the whole training.
            steps_per_epoch: optimiser steps.
        """
        settings = dict(self.settings)
        for name in _WHOLE_TRAINING:
            if name in settings and settings[name] is None:
                settings[name] = epochs if self.interval == "epoch" else epochs * steps_per_epoch
        if "max_lr" in settings and settings["max_lr"] is None:
            settings["max_lr"] = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group.pop("initial_lr", None)
        schedule = self.kind(optimizer, **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the optimiser has not taken these steps
            for _ in range(steps if self.interval == "step" else steps // max(1, steps_per_epoch)):
                schedule.step()
        return schedule
