from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassConfusionMatrix

from ktb.engine.metrics import ConfusionMatrix, scores


def by_hand(truth: np.ndarray, prediction: np.ndarray, k: int) -> dict[str, float]:
    """Every score from sets of pixels, class by class."""
    valid = truth != 255
    t, p = truth[valid], prediction[valid]
    iou, acc, f1, weighted = [], [], [], 0.0
    for c in range(k):
        both, either = ((t == c) & (p == c)).sum(), ((t == c) | (p == c)).sum()
        iou.append(both / either if either else math.nan)
        acc.append(both / (t == c).sum() if (t == c).any() else math.nan)
        f1.append(2 * both / ((t == c).sum() + (p == c).sum()) if either else math.nan)
        weighted += (t == c).mean() * (iou[-1] if either else 0.0) if t.size else math.nan

    def mean(values: list[float]) -> float:
        known = [v for v in values if not math.isnan(v)]
        return sum(known) / len(known) if known else math.nan

    return {
        "miou": mean(iou),
        "miou_all": sum(0.0 if math.isnan(v) else v for v in iou) / k,
        "macc": mean(acc),
        "mf1": mean(f1),
        "pixel_acc": (t == p).mean() if t.size else math.nan,
        "fwiou": weighted,
    }


def data(kind: str) -> tuple[np.ndarray, np.ndarray, int]:
    generator = np.random.default_rng(0)
    truth, prediction = generator.integers(0, 6, (2, 40, 50)), generator.integers(0, 6, (2, 40, 50))
    if kind == "random":
        truth[generator.random(truth.shape) < 0.2] = 255
    elif kind == "absent":  # class 5 in neither, class 4 in the prediction only
        truth, prediction = np.minimum(truth, 3), np.minimum(prediction, 4)
    elif kind == "void":
        truth[:] = 255
    elif kind == "one class":
        truth[:], prediction[:] = 2, 2
    return truth, prediction, 6


@pytest.mark.parametrize("kind", ["random", "absent", "void", "one class"])
def test_scores_by_hand(kind: str) -> None:
    truth, prediction, k = data(kind)
    metric = ConfusionMatrix(k)
    for t, p in zip(truth, prediction, strict=True):
        metric.update(torch.from_numpy(p), torch.from_numpy(t.astype(np.uint8)))
    matrix = metric.compute()
    assert matrix.dtype == torch.int64
    theirs = MulticlassConfusionMatrix(k, ignore_index=255)
    theirs.update(torch.from_numpy(prediction), torch.from_numpy(truth))
    assert torch.equal(matrix, theirs.compute())
    ours = scores(matrix)
    for name, value in by_hand(truth, prediction, k).items():
        assert ours[name] == pytest.approx(value, abs=1e-12, nan_ok=True), name


def test_absent_classes_have_no_score_and_do_not_count() -> None:
    result = scores(np.diag([5, 3, 0]))
    assert result["miou"] == 1.0
    assert result["miou_all"] == pytest.approx(2 / 3)
    assert math.isnan(result["iou"][2])
