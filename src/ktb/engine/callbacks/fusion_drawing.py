"""What the fusion does with an image: sampling points of DSCF, and the maps that any block names."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ktb.data.pictures import RGBImage
from ktb.errors import first_line
from ktb.io import atomic_file
from ktb.models.fusion.base import Fusion
from ktb.models.fusion.dscf import DSCF
from ktb.models.segmentor import KTBSegmentor

EXPLAINED_PIXELS = 1 << 20
"""Larger images are scaled down to this before the fusion is drawn over them."""
MAP_SIDE = 256
"""Pixels of a drawn map's longer side at most."""
COLOURS = "viridis"
"""Of matplotlib; the page shows the same ramp."""

Maps = dict[str, NDArray[np.float32]]
"""Title → (h, w) in [0, 1]."""

_log = logging.getLogger(__name__)


class Seen(NamedTuple):
    """What the fusion blocks of a model were given of one image.

    Args:
        streams: per stage the block's argument, (M, 1, h, w, C).
        size: (height, width) of the image.
    """

    streams: list[Tensor]
    size: tuple[int, int]


@torch.no_grad()
def seen_by_fusion(model: KTBSegmentor, inputs: Mapping[str, Tensor]) -> Seen:
    """Run the model once and keep what its fusion blocks are given.

    Args:
        model: in evaluation mode.
        inputs: modality → (1, C, H, W), normalised.
    """
    given: dict[nn.Module, Tensor] = {}
    hooks = [
        block.register_forward_pre_hook(lambda block, args: given.update({block: args[0]})) for block in model.fusion
    ]
    try:
        _, size = model.features(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return Seen([given[block] for block in model.fusion], size)


@torch.no_grad()
def explain_fusion(model: KTBSegmentor, seen: Seen) -> list[dict[str, Any]]:
    """Sampling points and modality weights of every DSCF block on one image, as plain values; empty without DSCF.

    Args:
        model: in evaluation mode.
        seen: by its fusion blocks.

    Returns:
        Per stage: `map` [rows, columns]; `groups`; `gain`, the mean magnitudes of the factors on the attention branch
        and on the fused features; per proposing modality its `points` (x and y in 1/10000 of the image's width and
        height, group after group) and the `weights` of every modality in 1/1000 (those of one group; all groups share
        them); and `mean`, each modality's mean weight over all points.
    """
    h, w = seen.size
    stages = []
    for block, maps in zip(model.fusion, seen.streams, strict=True):
        if not isinstance(block, DSCF):
            return []
        points, weights = (t[0].float().cpu() for t in block.explain(maps))  # g, M·N, 2 and M, M·N
        rows, columns = maps.shape[2:4]
        extent = torch.tensor([rows, columns])
        # [-1, 1] spans pixel centres of the map, `stride` pixels wide each, and may reach beyond the image.
        position = ((points + 1) / 2 * (extent - 1) + 0.5) * block.stride / torch.tensor([h, w])
        position = (position.clamp(0, 1) * 10_000).round().int()
        count = len(model.modalities)
        by_modality = zip(position.chunk(count, 1), weights.chunk(count, 1), strict=True)
        stages.append(
            {
                "map": [rows, columns],
                "groups": block.groups,
                "gain": {
                    "attention": float(block.attention_gain.abs().mean()),
                    "features": float(block.identity_gain.abs().mean()),
                },
                "points": {
                    m: {
                        "y": p[..., 0].flatten().tolist(),
                        "x": p[..., 1].flatten().tolist(),
                        "weights": dict(zip(model.modalities, (1000 * v).round().int().tolist(), strict=True)),
                    }
                    for m, (p, v) in zip(model.modalities, by_modality, strict=True)
                },
                "mean": dict(zip(model.modalities, weights.mean(1).tolist(), strict=True)),
            }
        )
    return stages


def within(inputs: Mapping[str, Tensor], pixels: int) -> dict[str, Tensor]:
    """Normalised inputs (1, C, H, W), scaled down to at most `pixels`."""
    h, w = next(iter(inputs.values())).shape[-2:]
    if h * w <= pixels:
        return dict(inputs)
    scale = math.sqrt(pixels / (h * w))
    size = (max(1, int(h * scale)), max(1, int(w * scale)))
    return {m: F.interpolate(x, size=size, mode="area") for m, x in inputs.items()}


@torch.no_grad()
def fusion_maps(model: KTBSegmentor, seen: Seen) -> list[Maps]:
    """Per stage the maps that its fusion block names (`Fusion.pictures`), over the image without its padding.

    Args:
        model: in evaluation mode.
        seen: by its fusion blocks.
    """
    covered = model.backbone.covers(*seen.size)
    found: list[Maps] = []
    for block, streams in zip(model.fusion, seen.streams, strict=True):
        named = _pictures(block, streams)
        maps = {str(title): _over_image(value, seen.size, covered) for title, value in named.items()}
        found.append({title: value for title, value in maps.items() if value is not None})
        if wrong := [title for title, value in maps.items() if value is None]:
            _log.warning(
                "%s.pictures: %r is left out; expected a map of shape (B, h, w)", type(block).__qualname__, wrong[0]
            )
    return found


def _pictures(block: nn.Module, streams: Tensor) -> dict[str, Tensor]:
    """What a block names; nothing of one that can't, as a training must not end without results for a picture."""
    if not hasattr(block, "pictures"):
        return {}
    try:
        return dict(cast(Fusion, block).pictures(streams))
    except Exception as error:  # whatever a block of somebody's own raises
        _log.warning("%s.pictures: %s: %s", type(block).__qualname__, type(error).__name__, first_line(error))
        return {}


def _over_image(value: Tensor, size: tuple[int, int], covered: tuple[int, int]) -> NDArray[np.float32] | None:
    """A block's map (1, h, w), which is spread over `covered` pixels, as far as it lies over an image of `size`, drawn
    small; None where it is no such map."""
    if not isinstance(value, Tensor) or value.dim() != 3 or not value.numel():
        return None
    scale = min(1.0, MAP_SIDE / max(covered))
    whole, height, width = ([max(1, round(scale * n)) for n in part] for part in (covered, size[:1], size[1:]))
    drawn = F.interpolate(value[:1, None].float().nan_to_num(0.0).clamp(0, 1), size=tuple(whole), mode="nearest-exact")
    return drawn[0, 0, : height[0], : width[0]].cpu().numpy()


def overlay(value: NDArray[np.float32], picture: RGBImage) -> RGBImage:
    """A map in colours, darker where the picture is: its colour says the value, its brightness what lies there."""
    from matplotlib import colormaps

    height, width = value.shape
    grey = np.asarray(Image.fromarray(picture).convert("L").resize((width, height), Image.Resampling.BOX)) / 255
    colours = colormaps[COLOURS](value)[..., :3]
    return (255 * colours * (0.45 + 0.55 * grey[..., None])).round().astype(np.uint8)


def write_fusion(
    folder: Path,
    model: KTBSegmentor,
    called: Mapping[str, str],
    samples: Sequence[tuple[int, Mapping[str, Tensor], RGBImage]],
) -> None:
    """fusion.json, and a file for each map that a block names; nothing where there is nothing to show.

    Args:
        folder: of the panels.
        model: in evaluation mode.
        called: modality → title of its picture.
        samples: number of the panel, inputs as the model takes them, the picture that maps are drawn over.
    """
    points, maps = [], []
    for number, inputs, picture in samples:
        seen = seen_by_fusion(model, within(inputs, EXPLAINED_PIXELS))
        if stages := explain_fusion(model, seen):
            points.append({"panel": number, "stages": stages})
        named = fusion_maps(model, seen)
        shown = []
        for stage, of_stage in enumerate(named):
            for i, (title, value) in enumerate(of_stage.items()):
                name = f"fusion_{number:02d}_{stage + 1}_{i}.png"
                with atomic_file(folder / name) as file:
                    Image.fromarray(overlay(value, picture)).save(file, "PNG")
                entry = {"stage": stage + 1, "title": title, "file": name, "mean": round(float(value.mean()), 4)}
                shown.append(entry)
        if shown:
            maps.append({"panel": number, "maps": shown})
    if points or maps:
        content = {"modalities": dict(called), "samples": points, "maps": maps}
        with atomic_file(folder / "fusion.json") as file:
            file.write_text(json.dumps(content) + "\n", encoding="utf-8")
