from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, jaccard_score, recall_score
from torchmetrics.classification import MulticlassConfusionMatrix

from ktb.metrics.counts import ConfusionMatrix
from ktb.metrics.evaluation import Evaluation, merged
from ktb.metrics.scores import scores


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


@pytest.mark.parametrize("kind", ["random", "absent", "one class"])
def test_scores_are_those_of_scikit_learn(kind: str) -> None:
    truth, prediction, k = data(kind)
    t, p = truth[truth != 255], prediction[truth != 255]
    metric = ConfusionMatrix(k)
    metric.update(torch.from_numpy(prediction), torch.from_numpy(truth))
    ours = scores(metric.compute())
    assert metric.compute().tolist() == confusion_matrix(t, p, labels=range(k)).tolist()
    present = sorted({*t, *p})
    iou = jaccard_score(t, p, labels=present, average=None)
    assert [ours["iou"][c] for c in present] == pytest.approx(list(iou), abs=1e-12)
    assert ours["miou"] == pytest.approx(jaccard_score(t, p, labels=present, average="macro"), abs=1e-12)
    assert ours["miou_all"] == pytest.approx(sum(iou) / k, abs=1e-12)
    assert ours["macc"] == pytest.approx(recall_score(t, p, labels=sorted({*t}), average="macro"), abs=1e-12)
    assert ours["mf1"] == pytest.approx(f1_score(t, p, labels=present, average="macro"), abs=1e-12)
    assert ours["pixel_acc"] == pytest.approx(accuracy_score(t, p), abs=1e-12)
    assert ours["fwiou"] == pytest.approx(jaccard_score(t, p, labels=present, average="weighted"), abs=1e-12)


def test_absent_classes_have_no_score_and_do_not_count() -> None:
    result = scores(np.diag([5, 3, 0]))
    assert result["miou"] == 1.0
    assert result["miou_all"] == pytest.approx(2 / 3)
    assert math.isnan(result["iou"][2])


def test_one_class() -> None:
    """torchmetrics makes a number of a 1 x 1 matrix."""
    metric = ConfusionMatrix(1)
    metric.update(torch.zeros(2, 3, 3, dtype=torch.uint8), torch.zeros(2, 3, 3, dtype=torch.uint8))
    assert scores(metric.compute().numpy()) == {
        "miou": 1.0, "miou_all": 1.0, "macc": 1.0, "pixel_acc": 1.0, "mf1": 1.0, "fwiou": 1.0,
        "iou": [1.0], "acc": [1.0], "f1": [1.0],
    }  # fmt: skip


def test_means_leave_classes_out_and_everything_else_counts_them() -> None:
    """Class 0 is left out: its pixels stay errors of the others, in the pixel accuracy and in the matrix."""
    matrix = np.array([[50, 10, 0], [5, 30, 5], [0, 0, 0]])
    every, left = scores(matrix), scores(matrix, (0,))
    iou = [50 / 65, 30 / 50, 0.0]  # class 2 is predicted, but never there
    assert every["miou"] == pytest.approx(sum(iou) / 3)
    assert left["miou"] == pytest.approx(sum(iou[1:]) / 2)
    assert left["miou_all"] == pytest.approx(sum(iou[1:]) / 2)
    assert left["macc"] == pytest.approx(30 / 40)
    assert left["mf1"] == pytest.approx((60 / 80 + 0) / 2)
    for key in ("pixel_acc", "fwiou", "iou", "acc", "f1"):
        np.testing.assert_array_equal(left[key], every[key])
    truth, prediction = (torch.from_numpy(x)[None] for x in data("random")[:2])
    plain, without = Evaluation(6), Evaluation(6, (0, 3))
    for evaluation in (plain, without):
        evaluation.update(prediction, truth, ["a"], [{"light": "dim"}])
    np.testing.assert_array_equal(plain.total.matrix, without.total.matrix)
    expected = scores(plain.total.matrix)["iou"]
    assert without.images[0]["miou"] == pytest.approx(np.mean([expected[i] for i in (1, 2, 4, 5)]))
    boundary = plain.total.scores()["boundary_iou"]
    kept = np.mean([boundary[i] for i in (1, 2, 4, 5)])
    assert without.total.scores((0, 3))["mboundary_iou"] == pytest.approx(kept)
    assert merged([without, without]).mean_without == (0, 3)
