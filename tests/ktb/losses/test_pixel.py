"""The loss of the fused head alone: by name, as a sum, and of the user's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ktb.config.checks import PIXEL_LOSSES
from ktb.losses.cross_entropy import cross_entropy
from ktb.losses.pixel import _PIXEL_LOSSES, PixelLoss
from ktb.losses.regions import dice
from ktb.models.segmentor import SegOutput
from tests.ktb.losses.test_cross_entropy import WEIGHTS, value_and_gradient, weighted_case

THIRDS = [[0.0, 0.0], [0.0, math.log(3.0)]]
"""Logits of two classes in two pixels: of the second class a half and three quarters."""


def two_pixels(*labels: int) -> tuple[Tensor, Tensor]:
    """Probabilities (1/2, 1/2) and (1/4, 3/4), with these labels."""
    logits = torch.tensor(THIRDS, dtype=torch.float64).T.reshape(1, 2, 1, 2)
    return logits, torch.tensor(labels).reshape(1, 1, 2)


@pytest.mark.parametrize(
    ("kind", "labels", "value"),
    [
        ("ce", (0, 1), (math.log(2) + math.log(4 / 3)) / 2),
        ("ohem", (0, 1), math.log(2)),  # 3/4 is more than 0.7
        # Class 0: hit 1/2, sizes 3/4 + 1; class 1: hit 3/4, sizes 5/4 + 1.
        ("dice", (0, 1), ((1 - 1 / 1.75) + (1 - 1.5 / 2.25)) / 2),
        # Class 0: errors 1/2 (its own), 1/4: IoU 0 after the first. Class 1: errors 1/2 (other's), 1/4 (its own): the
        # first makes the IoU 1/2, the second 0.
        ("lovasz", (0, 1), (0.5 * 1 + (0.5 * 0.5 + 0.25 * 0.5)) / 2),
        ("ce", (255, 1), math.log(4 / 3)),
        ("dice", (255, 1), 1 - 1.5 / 1.75),  # class 0 does not occur
        ("lovasz", (255, 1), 0.25),
    ],
)
def test_values_by_hand(kind: str, labels: tuple[int, int], value: float) -> None:
    logits, target = two_pixels(*labels)
    terms = PixelLoss(kind)(SegOutput(logits), target)
    assert list(terms) == ["loss"]
    assert terms["loss"].item() == pytest.approx(value, rel=1e-12)


def test_label_smoothing_by_hand() -> None:
    logits, target = two_pixels(0, 1)
    half = -math.log(0.5)  # of either class
    second = -(0.95 * math.log(0.75) + 0.05 * math.log(0.25))
    terms = PixelLoss("ce", label_smoothing=0.1)(SegOutput(logits), target)
    assert terms["loss"].item() == pytest.approx((half + second) / 2, rel=1e-12)
    weighted = PixelLoss("ce", [3.0, 1.0], 0.1)(SegOutput(logits), target)
    assert weighted["loss"].item() == pytest.approx((3 * half + second) / 4, rel=1e-12)


def test_cross_entropy_alone_is_the_function_to_the_last_bit() -> None:
    logits, label, weights = weighted_case()
    ours = value_and_gradient(lambda x: PixelLoss("ce", WEIGHTS)(SegOutput(x), label)["loss"], logits)
    for a, b in zip(ours, value_and_gradient(lambda x: cross_entropy(x, label, weights), logits), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_a_sum_names_its_parts(weights: list[float] | None) -> None:
    logits, label, _ = weighted_case()
    of_class = None if weights is None else torch.tensor(weights)
    terms = PixelLoss({"ce": 0.5, "dice": 3, "lovasz": 0}, weights)(SegOutput(logits), label)
    assert list(terms) == ["loss", "loss_ce", "loss_dice"]
    expected = cross_entropy(logits, label, of_class).item(), dice(logits, label, of_class).item()
    assert [terms["loss_ce"].item(), terms["loss_dice"].item()] == pytest.approx(expected, rel=1e-12)
    assert terms["loss"].item() == pytest.approx(0.5 * expected[0] + 3 * expected[1], rel=1e-12)


class Squared(nn.Module):
    """A loss as one writes it: mean over labelled pixels of the squared distance to the true class."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(factor, dtype=torch.float64))

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        valid = target != 255
        truth = F.one_hot(target.where(valid, 0), logits.shape[1]).movedim(-1, 1)
        distance = ((logits.softmax(1) - truth) ** 2).sum(1)
        return self.factor * torch.where(valid, distance, 0.0).sum() / valid.sum().clamp(min=1)


def test_a_loss_of_ones_own() -> None:
    logits, target = two_pixels(0, 1)
    value = 2 * (2 * 0.5**2 + 2 * 0.25**2) / 2
    loss = PixelLoss(Squared(2.0))
    assert {k: v.item() for k, v in loss(SegOutput(logits), target).items()} == {"loss": pytest.approx(value)}
    assert loss.float().own.Squared.factor.dtype == torch.float32, "its buffers move with the loss"
    sum_ = PixelLoss({"ce": 2.0, "mine": Squared()}, class_weights=[1.0, 3.0])(SegOutput(logits), target)
    assert sum_["loss_ce"].item() == pytest.approx((math.log(2) + 3 * math.log(4 / 3)) / 4)
    assert sum_["loss"].item() == pytest.approx(2 * sum_["loss_ce"].item() + value / 2)
    torchs = nn.CrossEntropyLoss(ignore_index=255, label_smoothing=0.2)
    logits, label, _ = weighted_case()
    assert PixelLoss(torchs)(SegOutput(logits), label)["loss"].item() == torchs(logits, label).item()


@pytest.mark.parametrize("kind", [*_PIXEL_LOSSES, {"ce": 1.0, "dice": 1.0}])
@pytest.mark.parametrize("labels", ["all void", "one class", "uint8"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_every_loss_is_finite_with_a_finite_gradient(
    kind: str | Mapping[str, float], labels: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    logits = (torch.randn(2, 4, 5, 6) * 100).to(dtype)  # so sure that probabilities are 0 and 1
    label = torch.randint(0, 4, (2, 5, 6))
    if labels != "uint8":
        label = torch.full_like(label, 255 if labels == "all void" else 2)
    target = label.to(torch.uint8)

    def loss(x: Tensor) -> Tensor:
        return PixelLoss(kind)(SegOutput(x), target)["loss"]

    value, gradient = value_and_gradient(loss, logits)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert (value == 0) == (labels == "all void")
    assert bool(gradient.any()) == (labels != "all void") or kind in ("dice", "lovasz")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "focal"}, "pixel loss must be one of ce, ohem, dice, lovasz, got 'focal'"),
        ({"kind": {"ce": 1, "focal": 1}}, "got 'focal'"),
        ({"kind": {"ce": -1}}, "the weight of ce must be a number of 0 or more, got -1"),
        ({"kind": {"ce": 0, "dice": 0}}, "no part of weight above 0"),
        ({"kind": {"ce": Squared()}}, "ce is a loss of ktb: give your own another name"),
        ({"kind": Squared(), "class_weights": [1, 2]}, "class_weights are for ktb's own losses"),
        ({"kind": "dice", "label_smoothing": 0.1}, "label_smoothing=0.1 is for the cross-entropy ce"),
        ({"kind": "ce", "label_smoothing": 1.5}, "label_smoothing must be from 0 to 1, got 1.5"),
        ({"class_weights": [1.0, -1.0]}, "class_weights must be numbers of 0 or more"),
        ({"class_weights": [0.0, 0.0]}, "class_weights must be numbers of 0 or more"),
        ({"class_weights": [1.0, float("nan")]}, "class_weights must be numbers of 0 or more"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PixelLoss(**settings)


def test_the_checks_of_the_configuration_know_the_same_names() -> None:
    assert tuple(_PIXEL_LOSSES) == PIXEL_LOSSES
