from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, jaccard_score, recall_score
from torchmetrics.classification import MulticlassConfusionMatrix

from ktb.metrics.scores import ConfusionMatrix, Evaluation, boundary_counts, merged, scores


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


def region(mask: np.ndarray, distance: int) -> np.ndarray:
    """Boundary region as Cheng et al. define it: the mask without its erosion, the image surrounded by nothing."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)
    return mask & ~eroded[1:-1, 1:-1].astype(bool)


@pytest.mark.parametrize(("size", "distance"), [((40, 56), 1), ((96, 128), 3), ((120, 400), 8)])
def test_boundary_regions_class_by_class(size: tuple[int, int], distance: int) -> None:
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 4, (2, 3, 6, 9)).astype(np.uint8)  # class 4 occurs nowhere
    truth, prediction = (
        np.stack([cv2.resize(x, size[::-1], interpolation=cv2.INTER_NEAREST) for x in y]) for y in coarse
    )
    prediction[:, 5:30, 10:40] = 0
    ours = boundary_counts(torch.from_numpy(prediction), torch.from_numpy(truth), 5).numpy()
    assert ours.dtype == np.int64
    for b in range(3):
        for c in range(5):
            t, p = region(truth[b] == c, distance), region(prediction[b] == c, distance)
            assert ours[b, :, c].tolist() == [(t & p).sum(), t.sum(), p.sum()]
    assert ours[:, 0].sum() > 0
    perfect = boundary_counts(torch.from_numpy(truth), torch.from_numpy(truth), 5)
    assert torch.equal(perfect[:, 0], perfect[:, 1])


def test_boundaries_and_void() -> None:
    """A strip of void between two classes hides where their contour is, and is not a contour itself."""
    truth = np.zeros((100, 100), np.uint8)  # 2 % of the diagonal: 3 pixels
    truth[:, 60:] = 1
    prediction = truth.copy()
    truth[:, 59:61] = 255
    truth[:20] = 255
    counts = boundary_counts(torch.from_numpy(prediction)[None], torch.from_numpy(truth)[None], 2)
    both, of_truth, of_prediction = counts[0].tolist()
    inside = 80 - 3  # rows that are neither void nor within 3 of the lower edge
    left = 80 * 3 + 3 * (59 - 3) + inside  # the image's left and lower edge; column 58 is 3 from class 1's first
    right = 80 * 3 + 3 * (39 - 3) + inside
    assert both == of_truth == of_prediction == [left, right]


def test_an_evaluation_over_ranks_is_that_of_one_process() -> None:
    truth, prediction, k = data("random")
    truth, prediction = (np.concatenate([x, x[:, ::-1], x[:, :, ::-1]])[:5].copy() for x in (truth, prediction))
    truth[3] = 255
    ids = [f"scene/{i}" for i in range(5)]
    weather = ["fog", "sun", "fog", "rain", "sun"]
    conditions = [{"weather": w, "time": "day"} if i != 2 else {"weather": w} for i, w in enumerate(weather)]

    def evaluated(which: list[int], batch: int) -> Evaluation:
        evaluation = Evaluation(k)
        for start in range(0, len(which), batch):
            now = which[start : start + batch]
            evaluation.update(
                torch.from_numpy(prediction[now]),
                torch.from_numpy(truth[now].astype(np.uint8)),
                [ids[i] for i in now],
                [conditions[i] for i in now],
            )
        return evaluation

    alone = evaluated([0, 1, 2, 3, 4], 5)
    several = merged([evaluated([0, 3], 1), evaluated([1, 4], 2), evaluated([2], 1)])
    assert [row["id"] for row in several.images] == ids
    for whole in (alone, several):
        assert whole.total.samples == 5
        assert whole.total.matrix.dtype == np.int64
        assert {c: {v: t.samples for v, t in values.items()} for c, values in whole.conditions.items()} == {
            "weather": {"fog": 2, "sun": 2, "rain": 1},
            "time": {"day": 4},
        }
        for key, value in (("weather", "sun"), ("weather", "rain"), ("time", "day")):
            chosen = [i for i in range(5) if conditions[i].get(key) == value]
            tally, by_itself = whole.conditions[key][value], evaluated(chosen, 1).total
            assert np.array_equal(tally.matrix, by_itself.matrix)
            assert np.array_equal(tally.boundary, by_itself.boundary)
        assert math.isnan(whole.conditions["weather"]["rain"].scores()["miou"])
    assert np.array_equal(alone.total.matrix, several.total.matrix)
    assert np.array_equal(alone.total.boundary, several.total.boundary)
    for i, row in enumerate(several.images):
        assert row["labelled_pixels"] == (truth[i] != 255).sum()
        for name in ("miou", "pixel_acc"):
            assert row[name] == pytest.approx(by_hand(truth[i], prediction[i], k)[name], abs=1e-12, nan_ok=True)


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
