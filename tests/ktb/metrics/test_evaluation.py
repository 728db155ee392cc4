from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ktb.metrics.evaluation import Evaluation, merged
from tests.ktb.metrics.test_scores import by_hand, data


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
