from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ktb.losses import cross_entropy as losses
from ktb.losses.cross_entropy import _kth_largest, cross_entropy, ohem_cross_entropy
from tests.ktb.reference import load_json, rng


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_cross_entropy_is_torchs(dtype: torch.dtype, scale: float) -> None:
    torch.manual_seed(0)
    logits = (torch.randn(2, 7, 9, 11, dtype=torch.float64) * scale).to(dtype)
    label = torch.randint(0, 7, (2, 9, 11))
    label[torch.rand(2, 9, 11) < 0.3] = 255
    results = []
    for ours in (True, False):
        leaf = logits.clone().requires_grad_()
        wide = leaf if ours else leaf.double()
        loss = cross_entropy(wide, label) if ours else F.cross_entropy(wide, label, ignore_index=255)
        (gradient,) = torch.autograd.grad(3 * loss, leaf)
        assert gradient.dtype == dtype
        results.append((loss.double(), gradient.double()))
    for a, b in zip(*results, strict=True):
        exact = {torch.float64: 1e-12, torch.float32: 2e-6 * max(1, scale / 1e3), torch.bfloat16: 1e-2}[dtype]
        assert (a - b).abs().max() <= exact * b.abs().max()


@pytest.mark.parametrize(("tag", "case"), load_json("ohem.json").items())
def test_ohem_reference(tag: str, case: dict[str, float]) -> None:
    shape = (case["batch"], case["height"], case["width"])
    logits = rng(f"{tag}/logits").standard_normal((shape[0], case["classes"], *shape[1:])) * case["scale"]
    label = rng(f"{tag}/label").randint(0, case["classes"], shape)
    agree = rng(f"{tag}/agree").uniform(size=shape) < case["agree"]
    label = np.where(agree, logits.argmax(1), label)
    label[rng(f"{tag}/void").uniform(size=shape) < case["void"]] = 255
    assert (label != 255).sum() == case["n_valid"]
    loss = ohem_cross_entropy(torch.from_numpy(logits), torch.from_numpy(label))
    assert loss.item() == pytest.approx(case["loss"], rel=1e-12)


def test_ohem_is_the_mean_of_the_selected_losses() -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(2, 5, 16, 16).double() * 3, torch.randint(0, 5, (2, 16, 16))
    pixel = F.cross_entropy(logits, label, reduction="none")
    hard = pixel[pixel > -math.log(0.7)]
    assert len(hard) > label.numel() // 16
    assert ohem_cross_entropy(logits, label).item() == pytest.approx(hard.mean().item(), rel=1e-12)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("loss", [cross_entropy, ohem_cross_entropy])
def test_one_pixel_that_is_nan_makes_the_loss_nan(
    loss: Callable[..., torch.Tensor], processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "world_size", lambda: processes)
    torch.manual_seed(0)
    logits, label = torch.randn(2, 5, 16, 16), torch.randint(0, 5, (2, 16, 16))
    assert loss(logits, label).isfinite()
    logits[1, 2, 3, 4] = float("nan")
    assert loss(logits, label).isnan()


@pytest.mark.parametrize("loss", [cross_entropy, ohem_cross_entropy])
def test_nothing_selected_gives_zero_and_no_nan_gradient(loss: object) -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    value = loss(logits, torch.full((1, 4, 4), 255))  # type: ignore[operator]
    assert value.item() == 0
    value.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


WEIGHTS = [0.5, 2.0, 0.0, 7.25, 1.0]


def weighted_case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits and labels of five classes with void, float64, and `WEIGHTS`."""
    torch.manual_seed(0)
    label = torch.randint(0, 5, (2, 12, 14))
    label[torch.rand(2, 12, 14) < 0.3] = 255
    return torch.randn(2, 5, 12, 14).double() * 3, label, torch.tensor(WEIGHTS)


def value_and_gradient(loss: Any, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = logits.clone().requires_grad_()
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value, gradient


def test_weighted_cross_entropy_is_torchs() -> None:
    logits, label, weights = weighted_case()
    ours = value_and_gradient(lambda x: cross_entropy(x, label, weights), logits)
    torchs = value_and_gradient(lambda x: F.cross_entropy(x, label, weight=weights.double(), ignore_index=255), logits)
    for a, b in zip(ours, torchs, strict=True):
        assert (a - b).abs().max() <= 1e-13 * b.abs().max()
    equal = torch.full((5,), 3.0)
    assert cross_entropy(logits, label, equal).item() == pytest.approx(cross_entropy(logits, label).item(), rel=1e-13)


@pytest.mark.parametrize("scale", [3.0, 0.01])  # many hard pixels; few, so that a share of the largest is taken
def test_weighted_ohem_by_hand(scale: float) -> None:
    logits, label, weights = weighted_case()
    logits, valid = logits * scale, label != 255
    if scale < 1:  # right almost everywhere
        logits = logits.scatter_add(1, label.where(valid, 0)[:, None], torch.full_like(logits, 9.0))

    def by_hand(x: torch.Tensor) -> torch.Tensor:
        loss = F.cross_entropy(x, label.where(valid, 0), reduction="none")[valid]
        of_pixel = weights.double()[label[valid]]
        order = loss.argsort(descending=True)
        hard = int((loss > -math.log(0.7)).sum())
        least = int(valid.sum()) // 16
        assert (hard > least) == (scale > 1)
        chosen = order[: max(hard, least)]
        return (of_pixel[chosen] * loss[chosen]).sum() / of_pixel[chosen].sum()

    ours = value_and_gradient(lambda x: ohem_cross_entropy(x, label, weights=weights), logits)
    for a, b in zip(ours, value_and_gradient(by_hand, logits), strict=True):
        assert (a - b).abs().max() <= 1e-11 * b.abs().max()


@pytest.mark.parametrize("margin", [9.0, 30.0])
def test_equal_class_weights_choose_the_pixels_that_none_choose(margin: float) -> None:
    """Also where most pixels are so sure that their loss is 0, which must not be ranked as if it were negative."""
    label = torch.zeros(1, 64, 64).long()
    logits = torch.zeros(1, 3, 64, 64)
    logits[:, 0] = margin
    logits[:, :, 0, :32] = torch.tensor([0.0, margin, 0.0]).view(1, 3, 1)  # 32 of 4096 are wrong: fewer than 1 / 16
    assert ((F.cross_entropy(logits, label, reduction="none") == 0).sum() == 4064) == (margin == 30)
    plain = value_and_gradient(lambda x: ohem_cross_entropy(x, label), logits)
    weighted = value_and_gradient(lambda x: ohem_cross_entropy(x, label, weights=torch.ones(3)), logits)
    assert plain[0].item() == pytest.approx((32 * margin) / 256, rel=0.01)
    assert weighted[0].item() == pytest.approx(plain[0].item(), rel=1e-6)
    # Of pixels that are equally sure, one takes the first and the other a part of each.
    assert (weighted[1] - plain[1])[:, :, 0, :32].abs().max() <= 1e-6 * plain[1].abs().max()


@pytest.mark.parametrize("loss", [cross_entropy, ohem_cross_entropy])
def test_only_classes_of_weight_zero_give_zero_and_no_nan_gradient(loss: Any) -> None:
    logits = torch.randn(1, 3, 4, 4)
    weights = torch.tensor([0.0, 1.0, 1.0])
    value, gradient = value_and_gradient(lambda x: loss(x, torch.zeros(1, 4, 4).long(), weights=weights), logits)
    assert value.item() == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_ohem_with_a_perfect_prediction_of_few_pixels_is_zero() -> None:
    label = torch.full((1, 4, 4), 255)
    label[0, 0, :3] = 1  # 3 // 16 = 0 pixels kept, none hard
    logits = torch.zeros(1, 3, 4, 4)
    logits[:, 1] = 50
    assert ohem_cross_entropy(logits, label).item() == 0


def test_kth_largest_by_digits() -> None:
    values = torch.cat([torch.rand(500) * 10, torch.zeros(10), -torch.zeros(10), torch.full((7,), 3.25)])
    order = values.sort(descending=True).values
    for k in (1, 2, 100, 300, 507, 508, 527):
        assert _kth_largest(values, torch.tensor(k)) == order[k - 1]
