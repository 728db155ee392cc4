"""Sliding windows: against a plain loop, against whole images, and in bands. Multi-scale and flip: against a plain
loop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ktb.engine import inference
from ktb.engine.inference import inference as bound
from ktb.engine.inference import multi_scale_flip, sliding_bands, sliding_window, whole_image
from ktb.errors import ConfigError
from ktb.models.segmentor import KTBSegmentor, SegOutput

K = 3


def model_of(function: Any) -> KTBSegmentor:
    """Anything that maps a dict of modalities to logits, called as the model is."""
    return cast(KTBSegmentor, lambda inputs, *, side: SimpleNamespace(logits=function(inputs)))


def pointwise(inputs: Mapping[str, Tensor]) -> Tensor:
    """Logits that depend on a pixel's own values only."""
    x = torch.cat([*inputs.values()], dim=1)
    return torch.stack([x.sin().sum(1), x.prod(1), x.amax(1)], dim=1)


def positional(inputs: Mapping[str, Tensor]) -> Tensor:
    """Logits that depend on where in its tile a pixel lies."""
    x = next(iter(inputs.values()))
    b, _, h, w = x.shape
    ramp = torch.linspace(-1, 1, h, dtype=x.dtype)[:, None] * torch.linspace(0, 2, w, dtype=x.dtype)
    return torch.stack([ramp, ramp.cos(), -ramp]) + x.mean(1, keepdim=True).expand(b, K, h, w)


def images(h: int, w: int, b: int = 2, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(h * 1000 + w)
    return {
        "rgb": torch.rand(b, 3, h, w, generator=generator, dtype=dtype),
        "depth": torch.rand(b, 1, h, w, generator=generator, dtype=dtype),
    }


SHAPES = [
    ((50, 70), (32, 32), 0.25),
    ((50, 70), (32, 48), 0.0),
    ((33, 97), (32, 32), 0.8),
    ((20, 90), (32, 32), 0.5),  # lower than the window
    ((20, 30), (32, 32), 0.5),  # smaller than the window
    ((1, 5), (2, 2), 0.5),
    ((64, 64), (32, 32), 0.0),
]


@pytest.mark.parametrize(("image", "window", "overlap"), SHAPES)
def test_what_depends_on_no_position_is_the_whole_image(
    image: tuple[int, int], window: tuple[int, int], overlap: float
) -> None:
    inputs = images(*image)
    for size in (image, (2 * image[0] + 5, image[1] // 2 + 1)):
        tiled = sliding_window(model_of(pointwise), inputs, size, window=window, overlap=overlap)
        torch.testing.assert_close(tiled, whole_image(model_of(pointwise), inputs, size), rtol=0, atol=1e-12)


def test_a_constant_model_gives_the_constant() -> None:
    constants = torch.tensor([1.5, -2.0, 40.0])[:, None, None]
    model = model_of(lambda inputs: constants.expand(2, K, *inputs["rgb"].shape[-2:]))
    inputs = images(61, 83, dtype=torch.float32)
    logits = sliding_window(model, inputs, (61, 83), window=24, overlap=0.4)
    torch.testing.assert_close(logits, constants.expand(2, K, 61, 83), rtol=3e-7, atol=0)


@pytest.mark.parametrize(("image", "window", "overlap"), SHAPES)
def test_blending_is_that_of_a_plain_loop(image: tuple[int, int], window: tuple[int, int], overlap: float) -> None:
    inputs = images(*image)
    starts, weights = [], []
    for length, side in zip(image, window, strict=True):
        side = min(side, length)
        count = 1
        while (length - side) > (count - 1) * int(side * (1 - overlap)):
            count += 1
        starts.append([round(i * (length - side) / max(count - 1, 1)) for i in range(count)])
        weights.append(torch.sin(torch.pi * (torch.arange(side, dtype=torch.float64) + 0.5) / side) ** 2)
    weight = weights[0][:, None] * weights[1]
    total, norm = torch.zeros(2, K, *image, dtype=torch.float64), torch.zeros(image, dtype=torch.float64)
    for y in starts[0]:
        for x in starts[1]:
            place = (..., slice(y, y + weight.shape[0]), slice(x, x + weight.shape[1]))
            total[place] += positional({name: v[place] for name, v in inputs.items()}) * weight
            norm[place] += weight
    for size in (image, (image[0] + 13, 3 * image[1])):
        tiled = sliding_window(model_of(positional), inputs, size, window=window, overlap=overlap)
        expected = F.interpolate(total / norm, size=size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(tiled, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(150, 90), (173, 190), (60, 31)])
def test_bands_are_the_full_result_and_never_large(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    monkeypatch.setattr(inference, "BAND_VALUES", 2 * K * size[1] * 7)
    inputs = images(150, 90)
    row = 0
    bands = []
    for start, band in sliding_bands(positional, inputs, size, window=32, overlap=0.3):
        assert start == row
        assert band.shape[2] <= (32 if size == (150, 90) else 7)
        row += band.shape[2]
        bands.append(band.clone())
    full = sliding_window(model_of(positional), inputs, size, window=32, overlap=0.3)
    assert torch.equal(torch.cat(bands, dim=2), full)


def test_missing_modalities_stay_missing() -> None:
    seen = set()

    def predict(tile: dict[str, Tensor]) -> Tensor:
        seen.add(tuple(tile))
        return pointwise(tile)

    list(sliding_bands(predict, {"depth": images(40, 40)["depth"]}, (40, 40), window=24))
    assert seen == {("depth",)}


@pytest.mark.parametrize(("window", "overlap"), [(0, 0.25), ((32, -1), 0.25), (32, 1.0), (32, -0.1)])
def test_windows_that_cannot_work(window: int | tuple[int, int], overlap: float) -> None:
    with pytest.raises(ConfigError, match=r"expected 1 or more, and a share from 0 to below 1"):
        sliding_window(model_of(pointwise), images(40, 40), (40, 40), window=window, overlap=overlap)


# --------------------------------------------------------------------------------------------------- multi-scale, flip


class Averaging(torch.nn.Module):
    """Logits that depend on neighbours and on left and right; twice as many channels with `heads=2`."""

    def __init__(self, num_classes: int, heads: int = 1) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.calls: list[tuple[int, ...]] = []
        generator = torch.Generator().manual_seed(1)
        self.weight = torch.randn(heads * num_classes, 4, 3, 3, generator=generator)

    def forward(self, inputs: Mapping[str, Tensor], *, side: bool | None = None) -> SegOutput:
        x = torch.cat([*inputs.values()], dim=1)
        self.calls.append(tuple(x.shape))
        return SegOutput(3 * F.conv2d(x, self.weight.to(x.dtype), padding=1))


@pytest.mark.parametrize(("image", "size"), [((96, 128), (96, 128)), ((64, 96), (75, 131))])
@pytest.mark.parametrize("flip", [True, False])
def test_multi_scale_flip_is_the_plain_loop(image: tuple[int, int], size: tuple[int, int], flip: bool) -> None:
    """docs/method.md#evaluation, one image, scale and flip at a time."""
    scales = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    model, inputs = Averaging(5), images(*image, b=3, dtype=torch.float32)
    total = torch.zeros(3, 5, *size)
    for b in range(3):
        for scale in scales:
            h, w = (math.ceil(scale * side / 32) * 32 for side in image)
            for mirrored in [False, True][: 1 + flip]:
                copies = {}
                for name, x in inputs.items():
                    copy = F.interpolate(x[b : b + 1], size=(h, w), mode="bilinear", align_corners=True)
                    copies[name] = copy.flip(3) if mirrored else copy
                logits = model(copies).logits
                logits = F.interpolate(
                    logits.flip(3) if mirrored else logits, size=size, mode="bilinear", align_corners=True
                )
                total[b] += logits.softmax(1)[0]
    model.calls.clear()
    ours = multi_scale_flip(model, inputs, size, scales=scales, flip=flip)
    assert len(model.calls) == len({(math.ceil(s * image[0] / 32), math.ceil(s * image[1] / 32)) for s in scales})
    torch.testing.assert_close(ours.softmax(1), total / total.sum(1, keepdim=True), rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.exp() * len(scales) * (1 + flip), total, rtol=0, atol=1e-5)
    assert torch.equal(ours.argmax(1), total.argmax(1))


def test_large_logits_come_in_several_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = Averaging(5), images(64, 96, b=3, dtype=torch.float32)
    options = {"scales": [0.5, 1.0], "flip": True}
    at_once = multi_scale_flip(model, inputs, (64, 96), **options)
    assert [call[0] for call in model.calls] == [6, 6]
    model.calls.clear()
    monkeypatch.setattr(inference, "PASS_VALUES", 4 * 5 * 64 * 96)
    torch.testing.assert_close(multi_scale_flip(model, inputs, (64, 96), **options), at_once)
    assert [call[0] for call in model.calls] == [6, 4, 2]


def test_several_heads_are_several_models() -> None:
    both, inputs = Averaging(4, heads=2), images(64, 64, dtype=torch.float32)
    options = {"scales": [0.5, 1.0], "flip": True}
    stacked = multi_scale_flip(both, inputs, (64, 64), **options)
    for head, part in enumerate(stacked.chunk(2, dim=1)):
        one = Averaging(4)
        one.weight = both.weight[4 * head : 4 * head + 4]
        torch.testing.assert_close(part, multi_scale_flip(one, inputs, (64, 64), **options))


def test_scales_that_only_rounding_lifts_over_a_multiple_of_32() -> None:
    model = Averaging(2)
    multi_scale_flip(model, images(320, 32, b=1, dtype=torch.float32), (320, 32), scales=[1.1], flip=False)
    assert model.calls == [(1, 4, 352, 64)]  # 1.1 * 320 is 352.00000000000006


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "wole"}, "eval.method=wole: expected one of whole, sliding, ms_flip"),
        ({"method": "whole", "flip": True}, "eval.flip is no setting of eval.method=whole: it has none"),
        ({"method": "ms_flip", "flip": True}, "eval.method=ms_flip needs eval.scales"),
        ({"method": "ms_flip", "flip": True, "scales": []}, "eval.scales=[]: expected one number or more"),
        ({"method": "ms_flip", "flip": True, "scales": [1, 0]}, "eval.scales=[1, 0]: expected one number or more"),
        ({"method": "sliding", "window": [64]}, "eval.window=[64]: expected [height, width]"),
        ({"method": "sliding", "window": 64, "overlap": 1.0}, "eval.overlap=1.0: expected a share"),
    ],
)
def test_protocols_that_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        bound(**options)
    assert str(error.value).startswith(message)
