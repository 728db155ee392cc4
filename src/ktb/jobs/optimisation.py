"""Optimiser and schedule out of the groups optim and schedule."""

from __future__ import annotations

from functools import partial
from typing import Any

from omegaconf import DictConfig
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ktb.config.build import instantiate
from ktb.engine.epochs import EpochPlan
from ktb.engine.optim import Optimisation, build_optimizer
from ktb.engine.schedules import FILLED_IN, Schedule, TorchSchedule
from ktb.errors import ConfigError, PartError, first_line
from ktb.jobs.build import without
from ktb.models.imports import own_packages, raised_in_own_code, told


def build_optimisation(cfg: DictConfig) -> Optimisation:
    """What the groups optim and schedule describe.

    Args:
        cfg: of ktb-train.

    Raises:
        ConfigError: no optimiser, no schedule, or settings that it does not have.
    """
    kind, settings = _named(without(cfg.optim, "name"))
    if not issubclass(kind, Optimizer):
        raise ConfigError(f"optim._target_={cfg.optim._target_} is no torch.optim.Optimizer")
    return Optimisation(partial(kind, **settings), _schedule(cfg.schedule))


def _schedule(node: DictConfig) -> Schedule | TorchSchedule:
    interval, target = node.get("interval"), f"schedule._target_={node._target_}"
    later = [key for key in FILLED_IN if key in node and node[key] is None]
    kind, settings = _named(without(node, "name", *later, *(["interval"] if interval is not None else [])))
    settings |= dict.fromkeys(later)
    if issubclass(kind, ReduceLROnPlateau):
        raise ConfigError(
            f"{target} follows a score: where it stands does not follow from the place in the training; choose one for "
            "which it does, such as schedule=step, or callbacks=early_stopping"
        )
    if issubclass(kind, LRScheduler):
        if interval not in ("epoch", "step"):
            raise ConfigError(f"schedule.interval={interval}: expected what the schedule counts, epoch or step")
        return TorchSchedule(kind, settings, interval)
    if not issubclass(kind, Schedule):
        raise ConfigError(f"{target} is no torch.optim.lr_scheduler.LRScheduler, nor a ktb.engine.schedules.Schedule")
    if interval is not None:
        raise ConfigError(f"schedule.interval={interval}: {node._target_} goes by steps and has no such setting")
    return kind(**settings)


def _named(node: DictConfig) -> tuple[type[Any], dict[str, Any]]:
    """The class that a node names, and its settings as plain values.

    Raises:
        ConfigError: no class, or one that has no such setting.
    """
    bound: partial[Any] = instantiate(node, _partial_=True, _convert_="all")
    if not isinstance(bound.func, type):
        raise ConfigError(f"_target_={node._target_} is no class")
    return bound.func, bound.keywords


def try_out(config: Optimisation, model: nn.Module, plan: EpochPlan, epochs: int) -> None:
    """Build optimiser and schedule for the model once, for what they have to say of their settings.

    Raises:
        ConfigError: they refuse them.
    """
    try:
        build_optimizer(model, config, epochs=epochs, steps_per_epoch=plan.steps)
    except Exception as error:
        if raised_in_own_code(error):
            raise PartError(f"optimiser or schedule: {told(error, *own_packages())}") from None
        if not isinstance(error, TypeError | ValueError | KeyError):
            raise
        raise ConfigError(f"optimiser or schedule: {first_line(error, limit=None)}") from None
