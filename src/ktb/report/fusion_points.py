"""What the page shows of the fusion: DSCF's sampling points over the pictures, which its script draws, and its mean
weights; and the maps that any block names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ktb.report.run_sections import picture_id, picture_uri, samples_with_pictures
from ktb.report.runs import Run, listed, mapping, number

_SHADES = ((242, 120, 30), (40, 120, 220), (40, 160, 90), (170, 70, 190), (220, 50, 80), (120, 120, 120))
"""Of the modalities, as in `page.js`."""


def fusion(run: Run, key: str) -> dict[str, Any] | None:
    """What `fusion.html` shows of a run.

    Args:
        run: the run.
        key: its own part of ids in the page.

    Returns:
        The template's content; None: there is nothing that can be drawn.
    """
    modalities = {str(k): str(v) for k, v in mapping(run.fusion.get("modalities")).items()}
    samples = _samples(run, key, modalities)
    if not samples or not modalities:
        return None
    stages = range(min(len(sample["stages"]) for sample in samples))
    return {
        "data": {"modalities": modalities, "samples": samples},
        "choices": [
            ("sample", [str(sample["id"]) for sample in samples]),
            ("stage", [str(stage + 1) for stage in stages]),
        ],
        "modalities": [
            {"name": name, "title": title, "shade": "rgb({} {} {})".format(*_SHADES[i % len(_SHADES)])}
            for i, (name, title) in enumerate(modalities.items())
        ],
        "stages": [
            {
                "means": {m: sum(s["stages"][i]["mean"][m] for s in samples) / len(samples) for m in modalities},
                "gain": f"{sum(s['stages'][i]['gain']['attention'] for s in samples) / len(samples):.2g}",
            }
            for i in stages
        ],
    }


def fusion_maps(run: Run, key: str) -> dict[str, Any] | None:
    """What `fusion_maps.html` shows of a run: the maps that its fusion blocks name, over the samples.

    Args:
        run, key: as of `fusion`.

    Returns:
        The template's content; None: no block names any.
    """
    panels = listed(run.panels.get("samples"))
    samples = []
    for entry in listed(run.fusion.get("maps")):
        index = mapping(entry).get("panel")
        stages: dict[int, list[dict[str, Any]]] = {}
        for drawn in map(mapping, listed(mapping(entry).get("maps"))):
            uri, stage, mean = picture_uri(run, drawn.get("file")), drawn.get("stage"), number(drawn.get("mean"))
            if uri and isinstance(stage, int) and mean is not None:
                stages.setdefault(stage, []).append({"title": str(drawn.get("title")), "uri": uri, "mean": mean})
        if stages and isinstance(index, int) and 0 <= index < len(panels):
            samples.append({"id": str(mapping(panels[index]).get("id", "")), "stages": sorted(stages.items())})
    return {"samples": samples} if samples else None


def _samples(run: Run, key: str, modalities: dict[str, str]) -> list[dict[str, Any]]:
    """The samples of fusion.json that can be drawn, each with the ids of its pictures in the page."""
    panels = samples_with_pictures(run)
    samples: list[dict[str, Any]] = []
    for entry in listed(run.fusion.get("samples")):
        index, stages = mapping(entry).get("panel"), mapping(entry).get("stages")
        if not isinstance(index, int) or not 0 <= index < len(panels) or not _drawable(stages, list(modalities)):
            continue
        titles = [picture.get("title") for picture in panels[index]["pictures"]]
        if all(title in titles for title in modalities.values()):
            panel_key = key.replace("fusion", "panels")
            ids = {m: picture_id(panel_key, index, titles.index(title)) for m, title in modalities.items()}
            samples.append({"id": str(panels[index].get("id", "")), "pictures": ids, "stages": stages})
    return samples


def _drawable(stages: Any, modalities: Sequence[str]) -> bool:
    """Whether the script can draw these stages."""
    if not isinstance(stages, list) or not stages:
        return False
    for stage in stages:
        points = mapping(mapping(stage).get("points"))
        gain, mean, size = (mapping(stage).get(k) for k in ("gain", "mean", "map"))
        if not isinstance(size, list) or len(size) != 2 or not isinstance(mapping(stage).get("groups"), int):
            return False
        if any(number(mapping(gain).get(k)) is None for k in ("attention", "features")):
            return False
        for m in modalities:
            x, y, weights = (mapping(points.get(m)).get(k) for k in ("x", "y", "weights"))
            columns: list[Any] = [x, y, *(mapping(weights).get(other) for other in modalities)]
            if number(mapping(mean).get(m)) is None or not all(isinstance(c, list) and c for c in columns):
                return False
            if any(number(v) is None for column in columns for v in column):
                return False
    return True
