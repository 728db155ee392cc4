from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ktb.losses.pixel import PixelLoss
from ktb.losses.self_teaching import SelfTeachingLoss
from ktb.models.segmentor import SegOutput
from tests.ktb.losses.test_cross_entropy import WEIGHTS, weighted_case


def test_self_teaching_weights_every_term() -> None:
    logits, label, weights = weighted_case()
    rgb = torch.randn_like(logits)
    loss = SelfTeachingLoss(class_weights=WEIGHTS)
    terms = loss(SegOutput(logits, {"rgb": rgb}), label)
    taught = label.where(logits.argmax(1) == label, 255)
    expected = [
        F.cross_entropy(x, y, weight=weights.double(), ignore_index=255).item()
        for x, y in ((logits, label), (rgb, taught))
    ]
    assert [terms[k].item() for k in ("loss_fused", "loss_rgb")] == pytest.approx(expected, rel=1e-12)
    assert terms["loss"].item() == pytest.approx(expected[0] + 0.01 * expected[1], rel=1e-12)
    # Weights are settings: checkpoints don't hold them, and move to the device with the loss.
    assert loss.state_dict() == {}
    assert loss.double().class_weights.dtype == torch.float64


def test_self_teaching_terms_by_hand() -> None:
    torch.manual_seed(1)
    fused, rgb, x = (torch.randn(2, 4, 6, 6).double() for _ in range(3))
    label = torch.randint(0, 4, (2, 6, 6))
    label[0, :2] = 255
    terms = SelfTeachingLoss(side_weight=0.01)(SegOutput(fused, {"rgb": rgb, "x": x}), label)
    right = (fused.argmax(1) == label) & (label != 255)
    pixel = {n: F.cross_entropy(z, label.clamp(max=3), reduction="none") for n, z in {"rgb": rgb, "x": x}.items()}
    expected = F.cross_entropy(fused, label, ignore_index=255).item()
    assert terms["loss_fused"].item() == pytest.approx(expected, rel=1e-12)
    for name, values in pixel.items():
        assert terms[f"loss_{name}"].item() == pytest.approx(values[right].mean().item(), rel=1e-12)
        expected += 0.01 * values[right].mean().item()
    assert terms["loss"].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["ohem", "dice", "lovasz", {"ce": 1.0, "dice": 0.5}])
def test_every_pixel_loss_teaches(kind: str | dict[str, float]) -> None:
    """All terms are the same loss: of the labels, and of those that the fused head got right."""
    logits, label, _ = weighted_case()
    rgb = torch.randn_like(logits)
    terms = SelfTeachingLoss(kind, side_weight=0.1, class_weights=WEIGHTS)(SegOutput(logits, {"rgb": rgb}), label)
    taught = label.where(logits.argmax(1) == label, 255)
    plain = PixelLoss(kind, WEIGHTS)
    expected = plain.pixel_loss(logits, label).item(), plain.pixel_loss(rgb, taught).item()
    assert [terms["loss_fused"].item(), terms["loss_rgb"].item()] == pytest.approx(expected, rel=1e-12)
    assert terms["loss"].item() == pytest.approx(expected[0] + 0.1 * expected[1], rel=1e-12)
    parts = ["loss_fused_ce", "loss_fused_dice"] if isinstance(kind, dict) else []
    assert list(terms) == ["loss", "loss_fused", *parts, "loss_rgb"]


def test_smoothing_is_of_all_terms() -> None:
    logits, label, _ = weighted_case()
    rgb = torch.randn_like(logits)
    terms = SelfTeachingLoss(label_smoothing=0.1)(SegOutput(logits, {"rgb": rgb}), label)
    taught = label.where(logits.argmax(1) == label, 255)
    for name, x, y in (("fused", logits, label), ("rgb", rgb, taught)):
        expected = F.cross_entropy(x, y, ignore_index=255, label_smoothing=0.1).item()
        assert terms[f"loss_{name}"].item() == pytest.approx(expected, rel=1e-12)


def test_of_equal_logits_the_first_class_is_the_prediction() -> None:
    """So the side heads learn where the truth is the first of them, and are left alone where it is a later one."""
    logits = torch.zeros(1, 3, 1, 2)
    logits[:, 0] = -1.0  # classes 1 and 2 are equally likely
    side = {"rgb": torch.randn(1, 3, 1, 2, generator=torch.Generator().manual_seed(0))}
    loss = SelfTeachingLoss()(SegOutput(logits, side), torch.tensor([[[1, 2]]]))
    assert loss["loss_rgb"] == pytest.approx(float(F.cross_entropy(side["rgb"][..., 0], torch.tensor([[1]]))), rel=1e-6)
