"""Metrics of the user's own: what they are built with, what they are given, and what cannot be one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from ktb.errors import ConfigError
from ktb.metrics.own import OwnMetrics, build_metric
from ktb.metrics.scores import MEANS, boundary_scores, scores


class Counted(Metric):
    def __init__(self, num_classes: int, scale: float = 1.0) -> None:
        super().__init__()
        self.num_classes, self.scale = num_classes, scale
        self.add_state("right", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        assert prediction.dtype == target.dtype == torch.int64
        self.right += (prediction == target).sum()

    def compute(self) -> Tensor:
        return self.right * self.scale


class Incomplete(Metric):
    def update(self, prediction: Tensor, target: Tensor) -> None:
        pass


class OfLogits(Counted):
    def update(self, logits: Tensor, prediction: Tensor, target: Tensor) -> None:  # type: ignore[override]
        pass


def spec(cls: type, **settings: Any) -> dict[str, Any]:
    return {"_target_": f"{__name__}.{cls.__name__}", **settings}


def test_what_a_metric_is_built_with() -> None:
    ours = build_metric("right", spec(Counted, scale=0.5), 7)
    assert (ours.num_classes, ours.scale) == (7, 0.5)  # type: ignore[union-attr]
    assert build_metric("right", spec(Counted, num_classes=3), 7).num_classes == 3  # type: ignore[union-attr]
    theirs = build_metric("iou", {"_target_": "torchmetrics.classification.MulticlassJaccardIndex"}, 300)
    assert (theirs.num_classes, theirs.ignore_index) == (300, 65535)  # type: ignore[union-attr]


def test_values_are_of_one_pass() -> None:
    metric = build_metric("right", spec(Counted, scale=0.5), 7)
    first, second = OwnMetrics({"right": metric}), OwnMetrics({"right": metric})
    rng = np.random.default_rng(0)
    for _ in range(2):  # a second pass forgets the first
        first.begin(torch.device("cpu"))
        second.begin(torch.device("cpu"))
        right = 0
        for _ in range(3):
            prediction, target = (torch.from_numpy(rng.integers(0, 3, (2, 4, 5), np.uint8)) for _ in range(2))
            first.update(prediction, target)
            right += int((prediction == target).sum())
        assert first.compute() == {"right": right / 2}
    assert second.nothing().keys() == {"right"}
    assert np.isnan(second.nothing()["right"])
    assert int(metric.right) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("a.b", spec(Counted), r"^metrics\.a\.b: the name: use letters"),
        ("macc", spec(Counted), r"^metrics\.macc: the name is computed in any case"),
        ("x", {"num_classes": 3}, r"^metrics\.x: expected metrics\.x\._target_="),
        ("x", 3, r"^metrics\.x: expected metrics\.x\._target_="),
        ("x", spec(Counted, scal=2), "takes no setting 'scal'; did you mean 'scale'"),
        ("x", spec(Incomplete), "Incomplete is no metric: it lacks the method compute"),
        ("x", spec(OfLogits), r"OfLogits: its method update\(self, logits.* is called as update\(prediction, target\)"),
        ("x", {"_target_": "pathlib.Path"}, r"pathlib\.Path is no metric: it must derive from torchmetrics\.Metric"),
    ],
)
def test_what_cannot_be_one(name: str, given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_metric(name, given, 4)


def test_names_that_are_taken_are_those_of_the_scores() -> None:
    computed = scores(np.eye(2, dtype=np.int64)) | boundary_scores(np.ones((3, 2), np.int64))
    assert sorted(MEANS) == sorted(key for key, value in computed.items() if not isinstance(value, list))
