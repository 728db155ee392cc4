from __future__ import annotations

import torch
import torch.nn.functional as F

from ktb.models.heads.linear import LinearHead


def test_it_is_one_linear_on_all_scales_together() -> None:
    torch.manual_seed(0)
    channels, maps = (6, 8, 10), ((12, 9), (6, 5), (3, 3))
    head = LinearHead(channels, 4).double()
    for p in head.parameters():
        torch.nn.init.normal_(p)
    features = [torch.randn(2, h, w, c, dtype=torch.float64) for c, (h, w) in zip(channels, maps, strict=True)]
    resized = [F.interpolate(x.movedim(-1, 1), size=(12, 9), mode="bilinear") for x in features]
    weight = torch.cat([layer.weight for layer in head.predict], dim=1)
    logits = F.conv2d(torch.cat(resized, dim=1), weight[:, :, None, None], head.predict[0].bias)
    expected = F.interpolate(logits, size=(45, 35), mode="bilinear")
    found = head(features, (45, 35))
    assert found.is_contiguous()
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert sum(p.numel() for p in head.parameters()) == 4 * sum(channels) + 4


def test_all_classes_start_about_equally_likely() -> None:
    torch.manual_seed(0)
    head = LinearHead((256, 512), 3)
    probabilities = head([torch.randn(1, 8, 8, 256), torch.randn(1, 4, 4, 512)], (16, 16)).softmax(1)
    assert probabilities.min() > 0.15
    assert probabilities.max() < 0.6
