"""The optimiser of what is trained, and its schedule, as Lightning steps them and a checkpoint restores them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ktb.engine.schedules import Poly, Schedule, TorchSchedule


@dataclass(frozen=True)
class Optimisation:
    """By which steps a model is trained.

    Args:
        optimizer: gives the optimiser of parameter groups; a class of `torch.optim`, or one like them, with its
            settings bound to it by `functools.partial`.
        schedule: of its learning rate.
    """

    optimizer: Callable[..., Optimizer]
    schedule: Schedule | TorchSchedule


def published(lr: float, weight_decay: float, warmup_epochs: float = 10) -> Optimisation:
    """That of the published recipes: AdamW with weight decay on everything, warm-up, polynomial decay
    (docs/method.md#recipe)."""
    return Optimisation(partial(torch.optim.AdamW, lr=lr, weight_decay=weight_decay), Poly(warmup_epochs))


class SteppedSchedule:
    """A schedule that is stepped after every optimiser step, also one that counts epochs.

    A checkpoint holds how many steps there were, and nothing else: after it has been restored, `resume` puts the
    schedule, and the optimiser's settings with it, where today's configuration has them at that place.
    """

    def __init__(
        self, optimizer: Optimizer, schedule: Schedule | TorchSchedule, *, epochs: int, steps_per_epoch: int
    ) -> None:
        self.optimizer = optimizer
        self.last_epoch = 0
        """Steps so far; the name is PyTorch's."""
        self._begin = partial(schedule.begin, optimizer, epochs=epochs, steps_per_epoch=steps_per_epoch)
        by_epoch = isinstance(schedule, TorchSchedule) and schedule.interval == "epoch"
        self._every = max(1, steps_per_epoch) if by_epoch else 1
        # Some optimisers keep what they have learned about the model in their groups too: that is no setting.
        known = {"lr", *inspect.signature(type(optimizer)).parameters}
        self._settings = [{k: v for k, v in group.items() if k in known} for group in optimizer.param_groups]
        self._schedule = self._begin(0)

    def step(self) -> None:
        """To be called after every step of the optimiser."""
        self.last_epoch += 1
        if self.last_epoch % self._every == 0:
            self._schedule.step()

    def state_dict(self) -> dict[str, Any]:
        """What checkpoints keep."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up the place of a checkpoint, also of versions that noted more; `resume` comes after it."""
        self.last_epoch = state_dict["last_epoch"]

    def resume(self) -> None:
        """Let a restored optimiser follow the configuration, not what the checkpoint says of it.

        Restoring brings back the settings of the time of saving along with moments and position. The learning rate
        becomes that of the schedule's position; nothing changes, to the last bit, when nothing was configured anew.
        """
        for group, own in zip(self.optimizer.param_groups, self._settings, strict=True):
            group.update(own)
        self._schedule = self._begin(self.last_epoch)


def build_optimizer(
    model: nn.Module, config: Optimisation, *, epochs: int, steps_per_epoch: int
) -> tuple[Optimizer, SteppedSchedule]:
    """The optimiser of what is trained, and its schedule, to be stepped once per iteration.

    Args:
        model: its parameters that require gradients are trained.
        config: optimiser and schedule.
        epochs: of the whole training.
        steps_per_epoch: optimiser steps.

    Raises:
        TypeError, ValueError: what the optimiser or the schedule says of its settings.
    """
    factors, groups = zip(*parameter_groups(model), strict=True)
    form = _form(config.optimizer, [p for group in groups for p in group])
    optimizer = config.optimizer([{"params": group} for group in groups], **form)
    for group, factor in zip(optimizer.param_groups, factors, strict=True):
        if "lr" not in group:
            raise ValueError(f"{type(optimizer).__name__} has no learning rate lr that a schedule could change")
        group["lr"] *= factor

    def keep_form(_: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        # How the step is computed belongs to this machine and version, not to those that wrote the checkpoint.
        forms = [{k: v for k, v in group.items() if k in ("fused", "foreach")} for group in optimizer.param_groups]
        return {**state, "param_groups": [{**g, **f} for g, f in zip(state["param_groups"], forms, strict=False)]}

    optimizer.register_load_state_dict_pre_hook(keep_form)
    return optimizer, SteppedSchedule(optimizer, config.schedule, epochs=epochs, steps_per_epoch=steps_per_epoch)


def _form(optimizer: Callable[..., Optimizer], parameters: list[nn.Parameter]) -> dict[str, Any]:
    """One call for all parameters instead of a dozen for each, where the optimiser has that and the user has not said
    otherwise. On a GPU PyTorch chooses; there it does not go together with the clipping of scaled gradients."""
    given = optimizer.keywords if isinstance(optimizer, partial) else {}
    if "fused" not in inspect.signature(optimizer).parameters or {"fused", "foreach", "differentiable"} & set(given):
        return {}
    return {"fused": True} if all(p.device.type == "cpu" for p in parameters) else {}


def parameter_groups(model: nn.Module) -> list[tuple[float, list[nn.Parameter]]]:
    """Trained parameters by learning rate: what is new first, then what a PEFT method gives a share of it.

    Args:
        model: a `KTBSegmentor`, or any other module, whose parameters all have the same rate.

    Returns:
        (factor on the learning rate, parameters).
    """
    factors: Mapping[str, float] = {}
    if (peft := getattr(model, "peft", None)) is not None:
        factors = {f"backbone.{name}": factor for name, factor in peft.lr_factors(model.backbone).items()}
    by_factor: dict[float, list[nn.Parameter]] = {1.0: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            by_factor.setdefault(factors.get(name, 1.0), []).append(parameter)
    return [(factor, found) for factor, found in by_factor.items() if found]
