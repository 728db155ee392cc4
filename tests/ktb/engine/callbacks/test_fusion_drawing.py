"""The pictures of the fusion show what the model really does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ktb.engine.callbacks.fusion_drawing import (
    explain_fusion,
    fusion_maps,
    overlay,
    seen_by_fusion,
    within,
    write_fusion,
)
from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.backbones.vit import ViT
from ktb.models.fusion.base import Fusion
from ktb.models.fusion.cmx import CMX
from ktb.models.fusion.concat import Concat
from ktb.models.fusion.dscf import DSCF
from ktb.models.fusion.simple import PlainSum
from ktb.models.segmentor import KTBSegmentor

ARCH = SwinArch(embed_dim=32, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), window_size=4)


@pytest.fixture(scope="module")
def model() -> KTBSegmentor:
    torch.manual_seed(0)
    return KTBSegmentor(
        FrozenSwin(ARCH), ("rgb", "depth", "event"), 5, head={"width": 32}, side_head={"width": 16}
    ).eval()


def test_explained_points_and_weights_are_those_of_the_forward_pass(
    model: KTBSegmentor, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[tuple[torch.Tensor, torch.Tensor]] = []
    mix = DSCF._mix

    def spy(self: DSCF, maps: torch.Tensor, query: torch.Tensor, points: torch.Tensor):  # type: ignore[no-untyped-def]
        weights, mixed = mix(self, maps, query, points)
        used.append((points, weights))
        return weights, mixed

    monkeypatch.setattr(DSCF, "_mix", spy)
    inputs = {m: torch.rand(1, 3, 90, 122) for m in model.modalities}
    with torch.no_grad():
        model(inputs)
        forward = used[:]
        stages = explain_fusion(model, seen_by_fusion(model, inputs))
    assert len(stages) == len(forward) == 4
    for i, (stage, (points, weights)) in enumerate(zip(stages, forward, strict=True)):
        rows, columns = stage["map"]
        assert (rows, columns) == (-(-90 // (4 << i)), -(-122 // (4 << i)))
        n = points.shape[2] // 3
        for j, m in enumerate(model.modalities):
            shown = stage["points"][m]
            y, x = points[0, :, j * n : (j + 1) * n].reshape(-1, 2).T.numpy()
            for axis, ours, theirs, cells, pixels in (
                ("y", shown["y"], y, rows, 90),
                ("x", shown["x"], x, columns, 122),
            ):
                centre = ((theirs + 1) / 2 * (cells - 1) + 0.5) * (4 << i)  # in pixels from the image's edge
                np.testing.assert_allclose(ours, 10_000 * np.clip(centre / pixels, 0, 1), atol=0.51, err_msg=axis)
            for k, other in enumerate(model.modalities):
                expected = 1000 * weights[0, k, j * n : (j + 1) * n].numpy()
                np.testing.assert_allclose(shown["weights"][other], expected, atol=0.51)
            assert stage["mean"][m] == pytest.approx(float(weights[0, j].mean()), abs=1e-6)


def test_without_dscf_there_is_nothing_to_explain() -> None:
    model = KTBSegmentor(
        FrozenSwin(ARCH), ("rgb", "depth"), 5, fusion={"_target_": "ktb.models.fusion.simple.PlainSum"}
    )
    assert explain_fusion(model, seen_by_fusion(model.eval(), {"rgb": torch.rand(1, 3, 32, 32)})) == []


def test_large_images_are_scaled_down() -> None:
    small = within({"rgb": torch.rand(1, 3, 300, 200)}, 10_000)["rgb"]
    assert small.shape == (1, 3, 122, 81)
    same = torch.rand(1, 3, 100, 100)
    assert within({"rgb": same}, 10_000)["rgb"] is same


class Named(Fusion):
    """A block of somebody's own: names a map of two halves, and what is none."""

    def forward(self, streams: Tensor) -> Tensor:
        return streams.mean(0)

    def pictures(self, streams: Tensor) -> dict[str, Tensor]:
        left = torch.zeros(streams.shape[1:4])
        left[..., : left.shape[-1] // 2] = 2.0  # values are cut to [0, 1]
        return {"left": left, "wrong": streams}


def fused_by(block: type[nn.Module], **backbone: Any) -> KTBSegmentor:
    torch.manual_seed(0)
    fusion = {"_target_": f"{block.__module__}.{block.__qualname__}"}
    given = backbone or {"backbone": FrozenSwin(ARCH)}
    return KTBSegmentor(**given, modalities=("rgb", "depth"), num_classes=5, head={"width": 8}, fusion=fusion).eval()


def test_maps_of_the_blocks_lie_over_the_image_without_its_padding(caplog: pytest.LogCaptureFixture) -> None:
    """Maps of 64 x 80 pixels of a vision transformer with patches of 14 stand for 84 x 84."""
    tiny = {"depth": 4, "embed_dim": 32, "num_heads": 2}
    model = fused_by(Named, backbone=ViT("vit_small_patch14_dinov2", options=tiny))
    maps = fusion_maps(model, seen_by_fusion(model, {m: torch.rand(1, 3, 64, 80) for m in model.modalities}))
    assert [list(of_stage) for of_stage in maps] == [["left"]] * 4
    for of_stage, edge in zip(maps, (42, 42, 42, 28), strict=True):  # half of a map of 24, 12, 6; one third of 3
        left = of_stage["left"]
        assert left.shape == (64, 80)
        assert (left[:, :edge] == 1).all()
        assert (left[:, edge:] == 0).all()
    assert "Named.pictures: 'wrong' is left out; expected a map of shape (B, h, w)" in caplog.text


@pytest.mark.parametrize(
    ("block", "names"),
    [
        (Concat, ["share of rgb", "share of depth"]),
        (PlainSum, ["agreement of the streams"]),
        (CMX, ["given by rgb", "given by depth"]),
        (DSCF, []),  # its sampling points say more
    ],
)
def test_every_block_is_asked_with_what_it_is_given(block: type[nn.Module], names: list[str]) -> None:
    model = fused_by(block)
    inputs = {m: torch.rand(1, 3, 64, 96) for m in model.modalities}
    given: list[tuple[Any, Tensor]] = []
    for part in model.fusion:
        part.register_forward_pre_hook(lambda part, args: given.append((part, args[0])))
    maps = fusion_maps(model, seen_by_fusion(model, inputs))
    assert [list(of_stage) for of_stage in maps] == [names] * 4
    for of_stage, (part, streams) in zip(maps, given, strict=True):
        with torch.no_grad():
            expected = part.pictures(streams)
        for title, value in of_stage.items():
            rows, columns = expected[title].shape[1:]
            cells = value.reshape(rows, 64 // rows, columns, 96 // columns)
            assert (cells == expected[title][0].numpy()[:, None, :, None]).all()
            assert 0 <= value.min() <= value.max() <= 1
        assert not names or np.std(list(of_stage.values())) > 0
    assert [len(part._forward_pre_hooks) for part in model.fusion] == [1] * 4  # ours is gone


def test_shares_and_agreement_by_hand() -> None:
    concat = Concat(("a", "b"), 2, 0, 4)
    with torch.no_grad():
        concat.mix.weight.copy_(torch.tensor([[1.0, 0, 3, 0], [0, 1, 0, 3]]))  # b counts three times as much
    streams = torch.tensor([[3.0, 4], [0, 1]])[:, None, None, None]
    shares = concat.pictures(streams)
    assert shares["share of a"].item() == pytest.approx(5 / (5 + 3))
    assert shares["share of b"].item() == pytest.approx(3 / (5 + 3))
    block = PlainSum(("a", "b"), 2, 0, 4)
    for other, expected in (([3.0, 4.0], 1.0), ([4.0, -3.0], 0.5), ([-3.0, -4.0], 0.0)):
        both = torch.tensor([[3.0, 4], other])[:, None, None, None]
        assert block.pictures(both)["agreement of the streams"].item() == pytest.approx(expected)
    assert PlainSum(("a",), 2, 0, 4).pictures(streams[:1]) == Concat(("a",), 2, 0, 4).pictures(streams[:1]) == {}


def test_what_is_written(tmp_path: Path) -> None:
    model = fused_by(Concat)
    inputs = {m: torch.rand(1, 3, 64, 96) for m in model.modalities}
    picture = np.full((64, 96, 3), 255, np.uint8)
    write_fusion(tmp_path, model, {"rgb": "RGB", "depth": "depth"}, [(7, inputs, picture)])
    content = json.loads((tmp_path / "fusion.json").read_text())
    assert content["samples"] == []
    (sample,) = content["maps"]
    assert sample["panel"] == 7
    assert [(m["stage"], m["title"]) for m in sample["maps"]] == [
        (stage, f"share of {m}") for stage in (1, 2, 3, 4) for m in ("rgb", "depth")
    ]
    for stage, of_stage in enumerate(fusion_maps(model, seen_by_fusion(model, inputs))):
        for written, value in zip(sample["maps"][2 * stage :], of_stage.values(), strict=False):
            assert written["mean"] == pytest.approx(value.mean(), abs=1e-4)
            with Image.open(tmp_path / written["file"]) as image:
                np.testing.assert_array_equal(np.asarray(image), overlay(value, picture))
    write_fusion(tmp_path / "nowhere", fused_by(Fusionless), {}, [(0, inputs, picture)])  # nothing, so no file


class Fusionless(Fusion):
    def forward(self, streams: Tensor) -> Tensor:
        return streams[0]


class Broken(Fusionless):
    def pictures(self, streams: Tensor) -> dict[str, Tensor]:
        raise RuntimeError("no pictures today")


def test_a_block_that_cannot_show_itself_costs_nobody_his_results(caplog: pytest.LogCaptureFixture) -> None:
    inputs = {m: torch.rand(1, 3, 32, 32) for m in ("rgb", "depth")}
    broken = fused_by(Broken)
    assert fusion_maps(broken, seen_by_fusion(broken, inputs)) == [{}] * 4
    assert "Broken.pictures: RuntimeError: no pictures today" in caplog.text


def test_colour_says_the_value_and_brightness_the_picture() -> None:
    value = np.array([[0.0, 1.0], [0.0, 1.0]], np.float32)
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[0] = 255
    found = overlay(value, picture).astype(int)
    assert found[0].tolist() == [[68, 1, 84], [253, 231, 37]]  # the ends of the ramp
    np.testing.assert_allclose(found[1], 0.45 * found[0], atol=1)
