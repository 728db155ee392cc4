"""Sensors that fail: which runs there are, and the sums over them."""

from __future__ import annotations

from typing import Any

import pytest

from ktb.data.spec import RGB, ModalitySpec
from ktb.engine.robustness import average, cases, expectation, subsets, summarise, summary
from ktb.errors import ConfigError

DEPTH = ModalitySpec("depth")


def test_sums_of_two_modalities_by_hand() -> None:
    """With two modalities: Avg = (F + R + X) / 3."""
    runs = {(): 0.60, ("depth",): 0.45, ("rgb",): 0.30}
    assert average(runs) == pytest.approx((0.60 + 0.45 + 0.30) / 3, abs=1e-15)
    # p = 0.2: weights 0.8², 0.2·0.8 twice
    assert expectation(runs, 2, 0.2) == pytest.approx((0.64 * 0.60 + 0.16 * 0.45 + 0.16 * 0.30) / 0.96, abs=1e-15)
    assert expectation(runs, 2, 0.0) == 0.60
    found = summary(runs, 2, [0.2, 0.05])
    assert (found["worst"], found["drop"]) == (0.30, pytest.approx(0.30))
    assert list(found["expected"]) == ["0.2", "0.05"]


def test_sums_of_three_modalities_by_hand() -> None:
    names = ("rgb", "depth", "event")
    assert subsets(names) == [("rgb",), ("depth",), ("event",), ("rgb", "depth"), ("rgb", "event"), ("depth", "event")]
    values = [0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    runs = dict(zip([(), *subsets(names)], values, strict=True))
    assert average(runs) == pytest.approx(2.8 / 7, abs=1e-15)
    # p = 0.1: 0.9³ = 0.729; one missing 0.1·0.9² = 0.081, three times; two missing 0.1²·0.9 = 0.009, three times
    by_hand = (0.729 * 0.7 + 0.081 * (0.6 + 0.5 + 0.4) + 0.009 * (0.3 + 0.2 + 0.1)) / (0.729 + 3 * 0.081 + 3 * 0.009)
    assert expectation(runs, 3, 0.1) == pytest.approx(by_hand, abs=1e-15)


def test_one_modality_has_one_run() -> None:
    settings = {"emm": {"missing": ["zeros"]}, "rmm": {"rates": [0.5]}}
    with pytest.raises(ConfigError, match="a model of rgb alone cannot do without it"):
        cases(settings, [RGB])
    noise = {"nm": {"low": {"density": 0.1, "sigma": 0.1}}}
    assert [c.protocol for c in cases(settings | noise, [RGB])] == ["full", "nm"]
    assert expectation({(): 0.5}, 1, 0.2) == 0.5


def test_side_heads_stand_in_where_something_is_missing() -> None:
    full, *rest = cases({"emm": {"missing": ["masked"]}}, [RGB, DEPTH])
    miou = {(): {"fused": 0.6, "rgb": 0.5, "depth": 0.4}, ("rgb",): {"fused": 0.1, "depth": 0.2}}
    miou[("depth",)] = {"fused": 0.3, "rgb": 0.45}
    scores = {(c, h): {"miou": v} for c in (full, *rest) for h, v in miou[c.affected].items()}
    emm = summarise(scores, ["rgb", "depth"], [0.2])["emm"]["masked"]
    assert emm["summary"]["avg"] == pytest.approx((0.6 + 0.1 + 0.3) / 3)
    assert emm["summary_side"]["avg"] == pytest.approx((0.6 + 0.2 + 0.45) / 3)
    assert emm["summary_side"]["worst"] == 0.2
    assert [(run["affected"], run["side"]) for run in emm["runs"]] == [
        (["rgb"], {"depth": 0.2}),
        (["depth"], {"rgb": 0.45}),
    ]
    fused_only = {key: value for key, value in scores.items() if key[1] == "fused"}  # a model without side heads
    assert "summary_side" not in summarise(fused_only, ["rgb", "depth"], [0.2])["emm"]["masked"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"emm": {"missing": ["zeroes"]}}, "robustness.emm.missing: 'zeroes' is unknown; expected some of zeros"),
        ({"emm": {"missing": "zeros"}}, "robustness.emm.missing=zeros: expected a list"),
        ({"rmm": {"rates": [0.5, 1.5]}}, "robustness.rmm.rates: 1.5 cannot work; expected a share from 0 to 1"),
        ({"nm": {"low": {"density": 0.1}}}, "robustness.nm.low={'density': 0.1}: expected {density: ..., sigma: ...}"),
        ({"nm": {"low": {"density": 0.1, "sigma": -1}}}, "robustness.nm.low.sigma=-1: expected 0 or more"),
        ({"rmm": {"rates": [[1]]}}, "robustness.rmm.rates: [1] cannot work"),
        ({"emm": {"missing": []}, "expected": None}, "robustness: nothing is asked for; give"),
        ({"expected": [2]}, "robustness.expected: 2 cannot work"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        cases(settings, [RGB, DEPTH])
    assert str(error.value).startswith(message)
