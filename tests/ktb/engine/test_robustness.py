"""Sensors that fail: what is fed to the model, and the sums over the runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ktb.data.spec import RGB, ModalitySpec, normalize
from ktb.engine.disturbances import SampleNoise, noisy, randomly_zeroed, without
from ktb.engine.robustness import average, cases, expectation, subsets, summarise, summary
from ktb.errors import ConfigError

DEPTH = ModalitySpec("depth")
EVENT = ModalitySpec("event")
IDS = ["a/1", "a/2"]


def inputs(*modalities: ModalitySpec, size: int = 64, samples: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    stored = {m.name: torch.randint(0, 256, (samples, 3, size, size), generator=generator) for m in modalities}
    return normalize(stored, modalities)


# ------------------------------------------------------------------------------------------------------------- sums


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


# ----------------------------------------------------------------------------------------------------- disturbances


def test_ways_of_missing() -> None:
    x = inputs(RGB, DEPTH)
    zeros = without(x, ["rgb"], "zeros", [RGB, DEPTH])
    assert torch.equal(zeros["rgb"], torch.zeros_like(x["rgb"]))
    assert zeros["depth"] is x["depth"]
    black = without(x, ["rgb", "depth"], "black", [RGB, DEPTH])
    stored = {m: torch.zeros(2, 3, 64, 64, dtype=torch.uint8) for m in x}
    for m, value in normalize(stored, [RGB, DEPTH]).items():
        assert torch.equal(black[m], value)
    assert set(without(x, ["rgb"], "masked", [RGB, DEPTH])) == {"depth"}
    assert set(x) == {"rgb", "depth"}, "the batch itself is left as it was"


@pytest.mark.parametrize("rate", [0.25, 0.5, 0.75])
def test_share_of_randomly_zeroed_elements(rate: float) -> None:
    x = inputs(RGB, DEPTH)
    x = {m: v + 10 for m, v in x.items()}  # no zeros of its own
    out = randomly_zeroed(x, ["depth"], rate, SampleNoise(1, IDS))
    assert torch.equal(out["rgb"], x["rgb"])
    zeroed = out["depth"] == 0
    assert torch.equal(out["depth"][~zeroed], x["depth"][~zeroed])
    n = zeroed.numel()
    assert float(zeroed.float().mean()) == pytest.approx(rate, abs=4 * (rate * (1 - rate) / n) ** 0.5)
    assert not torch.equal(zeroed[:, 0], zeroed[:, 1]), "per element, not per pixel"


@pytest.mark.parametrize(("density", "sigma"), [(0.05, 0.1), (0.1, 0.2), (0.2, 0.5)])
def test_density_and_sigma_of_noise(density: float, sigma: float) -> None:
    x = inputs(RGB, EVENT, size=128)
    out = noisy(x, density, 0.0, SampleNoise(1, IDS))
    for m, v in x.items():
        inner = (v > v.amin((1, 2, 3), keepdim=True)) & (v < v.amax((1, 2, 3), keepdim=True))
        n = int(inner.sum())
        for extreme in (v.amin((1, 2, 3), keepdim=True), v.amax((1, 2, 3), keepdim=True)):
            share = float((out[m] == extreme)[inner].float().mean())
            assert share == pytest.approx(density / 2, abs=4 * (density / 2 / n) ** 0.5)
    noise = noisy(x, density, sigma, SampleNoise(1, IDS))
    assert torch.equal(noise["event"], out["event"]), "no Gaussian noise on event"
    gaussian = noise["rgb"] - out["rgb"]
    assert float(gaussian.std()) == pytest.approx(sigma, rel=4 / (2 * gaussian.numel()) ** 0.5)
    assert float(gaussian.mean()) == pytest.approx(0, abs=4 * sigma / gaussian.numel() ** 0.5)


def test_a_sample_is_disturbed_alike_in_any_batch() -> None:
    x = inputs(RGB, DEPTH, samples=3)
    ids = ["c/1", "c/2", "c/3"]
    together = noisy(randomly_zeroed(x, ["rgb"], 0.5, SampleNoise(5, ids)), 0.1, 0.2, SampleNoise(5, ids))
    for i, name in enumerate(ids):
        one = {m: v[i : i + 1] for m, v in x.items()}
        alone = noisy(randomly_zeroed(one, ["rgb"], 0.5, SampleNoise(5, [name])), 0.1, 0.2, SampleNoise(5, [name]))
        assert all(torch.equal(alone[m][0], together[m][i]) for m in x)
    other = randomly_zeroed(x, ["rgb", "depth"], 0.5, SampleNoise(6, ids))
    again = randomly_zeroed(x, ["rgb", "depth"], 0.5, SampleNoise(5, ids))
    zeroed = [torch.stack([v == 0 for v in draw.values()]) for draw in (again, other)]
    assert not torch.equal(*zeroed), "the seed counts"
    assert not torch.equal(zeroed[0][0], zeroed[0][1]), "modalities differ"
    assert not torch.equal(zeroed[0][0, 0], zeroed[0][0, 1]), "samples differ"
    more = randomly_zeroed(x, ["rgb"], 0.75, SampleNoise(5, ids))["rgb"] == 0
    assert bool((more | ~(again["rgb"] == 0)).all()), "a higher rate only adds"


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
