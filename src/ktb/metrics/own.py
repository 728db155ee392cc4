"""Metrics of the user's own, updated while a split is scored: `+metrics.NAME._target_=my_lab.MyMetric`."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torchmetrics import Metric

from ktb.data.spec import ignore_index
from ktb.distributed.collectives import world_size
from ktb.errors import ConfigError, PartError
from ktb.metrics.scores import MEANS
from ktb.models.parts import Spec, check_settings, class_of, made


def build_metric(name: str, spec: Spec, num_classes: int) -> Metric:
    """A metric out of plain values.

    Args:
        name: what its value is called.
        spec: its class, which derives from `torchmetrics.Metric`, and settings. `num_classes` and `ignore_index` are
            given where the constructor has them and the settings do not.
        num_classes: K.

    Raises:
        ConfigError: a name that can be none.
        PartError: no such class, no metric, or settings that it does not take.
    """
    if not name.isidentifier() or name in MEANS:
        taken = " is computed in any case" if name in MEANS else ": use letters, digits and underscores"
        raise ConfigError(f"metrics.{name}: the name{taken}; choose another")
    if not isinstance(spec, Mapping) or "_target_" not in spec:
        raise ConfigError(f"metrics.{name}: expected metrics.{name}._target_=my_lab.MyMetric")
    cls, target = class_of(spec), str(spec["_target_"])
    if not issubclass(cls, Metric):
        raise PartError(f"{target} is no metric: it must derive from torchmetrics.Metric")
    if lacking := sorted(getattr(cls, "__abstractmethods__", ())):
        raise PartError(f"{target} is no metric: it lacks the method {lacking[0]}")
    try:
        inspect.signature(cls.update).bind(None, "prediction", "target")
    except TypeError:
        signature = inspect.signature(cls.update)
        raise PartError(f"{target}: its method update{signature} is called as update(prediction, target)") from None
    takes = inspect.signature(cls).parameters
    known = {"num_classes": num_classes, "ignore_index": ignore_index(num_classes)}
    settings = {key: value for key, value in known.items() if key in takes}
    settings |= {key: value for key, value in spec.items() if key != "_target_"}
    check_settings(cls, target, settings)
    metric: Metric = made(lambda: cls(**settings), cls, target, settings)
    return metric


class OwnMetrics:
    """Metrics of one pass over a split. No part of the module that holds them: checkpoints hold nothing of them.

    Args:
        metrics: name → metric; a copy of each is updated.
    """

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self._metrics = {name: copy.deepcopy(metric) for name, metric in metrics.items()}
        self._counted = False

    def begin(self, device: torch.device) -> None:
        """Forget what was counted, on the device where predictions will be."""
        for metric in self._metrics.values():
            metric.to(device).reset()
        self._counted = False

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count a batch.

        Args:
            prediction, target: class ids (B, H, W), B ≥ 1; `ignore_index` of K where nothing counts.
        """
        for metric in self._metrics.values():
            metric.update(prediction.long(), target.long())
        self._counted = True

    def compute(self) -> dict[str, float]:
        """Name → value, over the images of all processes; every one of them has to call it.

        Raises:
            PartError: a value that is not one number.
        """
        values: dict[str, Any] = {}
        with _counting(self._counted) as group:
            if self._counted:
                for name, metric in self._metrics.items():
                    metric.process_group = group
                    values[name] = metric.compute()
        values = _of_first(values if self._counted else None)
        return {name: _number(name, self._metrics[name], value) for name, value in values.items()}

    def nothing(self) -> dict[str, float]:
        """The values of a split without labels."""
        return dict.fromkeys(self._metrics, float("nan"))


@contextmanager
def _counting(counted: bool) -> Iterator[Any]:
    """The processes that have counted anything, as a group, None if all have: a state that is a list of batches cannot
    be gathered from a process that has none.

    Args:
        counted: whether this process has.
    """
    group = None
    if world_size() > 1:
        parts: list[Any] = [None] * world_size()
        torch.distributed.all_gather_object(parts, counted)
        members = [rank for rank, part in enumerate(parts) if part]
        group = None if len(members) == len(parts) else torch.distributed.new_group(members)
    yield group
    if group is not None and counted:
        torch.distributed.destroy_process_group(group)


def _of_first(values: dict[str, Any] | None) -> dict[str, Any]:
    """The values of the first process that has any, on all of them."""
    parts: list[Any] = [values]
    if world_size() > 1:
        parts = [None] * world_size()
        torch.distributed.all_gather_object(parts, values)
    return next((part for part in parts if part is not None), {})


def _number(name: str, metric: Metric, value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    if isinstance(value, int | float):
        return float(value)
    found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    cls = f"{type(metric).__module__}.{type(metric).__qualname__}"
    raise PartError(f"metrics.{name}: {cls}.compute() returned {found}, expected one number")
