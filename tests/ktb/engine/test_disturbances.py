"""Sensors that fail: what is fed to the model."""

from __future__ import annotations

import pytest
import torch

from ktb.data.spec import RGB, ModalitySpec, normalize
from ktb.engine.disturbances import SampleNoise, noisy, randomly_zeroed, without

DEPTH = ModalitySpec("depth")
EVENT = ModalitySpec("event")
IDS = ["a/1", "a/2"]


def inputs(*modalities: ModalitySpec, size: int = 64, samples: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    stored = {m.name: torch.randint(0, 256, (samples, 3, size, size), generator=generator) for m in modalities}
    return normalize(stored, modalities)


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
