"""How far the modalities of a data set are shifted and scaled against the first one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ktb.data.module import RGBXDataModule
from ktb.data.readers.decode import pixel_limit
from ktb.data.tools.align.offset import Offset, displacement, find_offset
from ktb.data.tools.check.look import Look
from ktb.data.tools.parallel import Outcome
from ktb.errors import DataError

SAMPLES = 24
"""Samples that are compared unless the user says how many."""
TOLERATED, TOLERATED_SHARE = 2.0, 0.003
"""Displacement in pixels, and as a share of the diagonal, up to which pictures line up: sensors differ in where they
see the edge of a thing, by one or two pixels."""
FOUND = 0.25
"""Share of the samples compared in which something must be found."""


@dataclass(frozen=True)
class Compared(Outcome):
    """What became of comparing the modalities of one sample.

    Attributes:
        split: of the sample.
        offsets: modality → where it lies against the first one; empty where the sample could not be read.
    """

    split: str = ""
    offsets: dict[str, Offset] = field(default_factory=dict)


def to_compare(looks: Sequence[Look], count: int = SAMPLES) -> list[Look]:
    """Samples spread evenly over all splits.

    Args:
        looks: all samples.
        count: how many are wanted.

    Returns:
        As many as there are, none where samples have one modality only.
    """
    if not looks or len(looks[0].streams) < 2 or count < 1:
        return []
    chosen = np.linspace(0, len(looks) - 1, min(count, len(looks))).round().astype(int)
    return [looks[i] for i in chosen]


def compare(job: Look) -> Compared:
    """Estimate where each modality of a sample lies against the first; never raises for what a file holds."""
    try:
        with pixel_limit(job.max_pixels):
            raw = job.samples.read(job.index, job.streams)
    except DataError as error:
        return Compared(Path(job.name), "failed", str(error), job.split)
    first, *others = job.streams
    offsets = {
        name: find_offset(raw.images[first], raw.images[name], raw.valid.get(name), raw.valid.get(first))
        for name in others
    }
    return Compared(Path(job.name), "kept", "", job.split, offsets)


def summarise_alignment(data: RGBXDataModule, compared: Iterable[Outcome]) -> dict[str, dict[str, Any]]:
    """All samples together, as plain values: what report.json holds.

    Args:
        data: the data set.
        compared: what `compare` gave, in any order.

    Returns:
        Modality → medians of shift (pixels to the right and down) and scale against the first modality over the samples
        in which they were found, their spread in pixels (robust standard deviation), and `lines_up`: null where too
        little was found to tell.
    """
    seen = sorted((c for c in compared if isinstance(c, Compared)), key=lambda c: (c.split, str(c.path)))
    result: dict[str, dict[str, Any]] = {}
    for m in data.modalities[1:]:
        looked_at = [c.offsets[m.name] for c in seen if m.name in c.offsets]
        if not looked_at:
            continue
        found = [offset for offset in looked_at if offset.reliable]
        entry: dict[str, Any] = {
            "onto": data.modalities[0].name,
            "samples": len(looked_at),
            "found_in": len(found),
            "lines_up": None,
        }
        if found and len(found) >= FOUND * len(looked_at):
            entry |= _together(found)
        entry["offsets"] = {
            f"{c.split}: {c.path}": {
                "dx": o.dx,
                "dy": o.dy,
                "scale": o.scale,
                "strength": o.strength,
                "uncertainty": o.uncertainty if np.isfinite(o.uncertainty) else None,
            }
            for c in seen
            if (o := c.offsets.get(m.name))
        }
        result[m.name] = entry
    return result


def _together(found: Sequence[Offset]) -> dict[str, Any]:
    dx, dy, scale = (float(np.median([getattr(o, name) for o in found])) for name in ("dx", "dy", "scale"))
    away = [displacement(o.dx - dx, o.dy - dy, 1 + o.scale - scale, o.size) for o in found]
    # Of one sample the spread is not known, but how uncertain its own estimate is.
    spread = max(1.4826 * float(np.median(away)), float(np.median([o.uncertainty for o in found])))
    sizes = np.median([o.size for o in found], axis=0)
    moved = displacement(dx, dy, scale, (int(sizes[0]), int(sizes[1])))
    tolerated = max(TOLERATED, TOLERATED_SHARE * float(np.hypot(*sizes)), spread)
    return {"dx": dx, "dy": dy, "scale": scale, "spread": spread, "displacement": moved, "lines_up": moved <= tolerated}


def misaligned(alignment: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each modality that does not line up with the first one.

    Args:
        alignment: what `summarise_alignment` gave.
    """
    return [
        f"{name} does not line up with {a['onto']}: it lies {abs(a['dx']):.1f} px to the "
        f"{'right' if a['dx'] > 0 else 'left'} and {abs(a['dy']):.1f} px {'lower' if a['dy'] > 0 else 'higher'}, at "
        f"{a['scale']:.3f} times its size (median of {a['found_in']} of {a['samples']} samples, spread "
        f"{a['spread']:.1f} px); --out DIR draws it, ktb-data align moves it"
        for name, a in alignment.items()
        if a["lines_up"] is False
    ]
