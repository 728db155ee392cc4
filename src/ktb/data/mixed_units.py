"""Whether files of one modality are in different units or bit depths, which a network would take for another scene.

Scenes differ without steps: among many pictures the brightest of the dim ones is hardly dimmer than the dimmest of the
bright ones. Units differ by a factor, which leaves a gap that no picture lies in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ktb.data.arrays import Array

GAP = 8.0
"""So many times more is another unit: 12 bits among 16, metres among decimetres."""
GAP_8_BITS = 20.0
"""The same among files of 8 bits: a night is dark."""
GAP_NARROW, NARROW, SEVERAL = 2.5, 4.0, 3
"""Where `SEVERAL` pictures or more on either side are alike, a smaller gap tells: one that is `NARROW` times as wide
(as a logarithm) as both sides together. Raw thermal values are so alike, and so are hundredths of a kelvin."""
CERTAIN = 100.0
"""So many times more, in files of another type, is no scene."""


class Picture(NamedTuple):
    """One picture of a modality; absolute values of its valid pixels.

    Attributes:
        name: what messages call it.
        stored: type of its file.
        middle, most, largest: median, 98th percentile and largest of the values.
    """

    name: str
    stored: str
    middle: float
    most: float
    largest: float


class Mixed(NamedTuple):
    """text: what was found, in one line. certain: nothing else can be meant."""

    text: str
    certain: bool


def picture(name: str, stored: str, values: Array) -> Picture | None:
    """What `mixed_units` compares of a picture.

    Args:
        name: of the picture.
        stored: type of its file.
        values: absolute values of valid pixels, or of many of them.

    Returns:
        None: nothing was measured.
    """
    if not values.size:
        return None
    middle, most = np.percentile(values, (50, 98))
    return Picture(name, stored, float(middle), float(most), float(values.max()))


def mixed_units(modality: str, pictures: Sequence[Picture]) -> Mixed | None:
    """Whether pictures of a modality fall into two groups that no difference of scenes explains.

    Args:
        modality: its name.
        pictures: of it, in one unit if all is well.

    Returns:
        None: all may be in one unit.
    """
    ordered = sorted((p for p in pictures if p.most > 0), key=lambda p: p.most)
    if len(ordered) < 2:
        return None
    most = np.array([p.most for p in ordered])
    at = int(np.argmax(most[1:] / most[:-1])) + 1
    lower, upper = ordered[:at], ordered[at:]
    wanted = _wanted_gap(lower, upper)
    # Values in another unit are larger altogether; of a sparse sensor the 98th percentile alone may jump.
    gaps = [most[at] / most[at - 1], min(p.largest for p in upper) / max(p.largest for p in lower)]
    if wanted <= GAP_NARROW and (middle := max(p.middle for p in lower)) > 0:
        gaps.append(min(p.middle for p in upper) / middle)
    if min(gaps) < wanted:
        return None
    few, many = sorted((lower, upper), key=len)
    described = f"{_described(few)} and {_described(many)}"
    types = [{p.stored for p in group} for group in (lower, upper)]
    factor = float(np.median([p.most for p in upper]) / np.median([p.most for p in lower]))
    text = f"{modality}: files in two units or bit depths? {described}: bring them to one unit"
    return Mixed(text, types[0].isdisjoint(types[1]) and factor >= CERTAIN)


def _wanted_gap(lower: Sequence[Picture], upper: Sequence[Picture]) -> float:
    """How many times more the least of the upper group must be than the greatest of the lower."""
    if {p.stored for p in (*lower, *upper)} == {"uint8"}:
        return GAP_8_BITS
    widths = sum(float(np.log(group[-1].most / group[0].most)) for group in (lower, upper))
    gap = float(np.log(upper[0].most / lower[-1].most))
    alike = min(len(lower), len(upper)) >= SEVERAL and gap >= NARROW * widths
    return GAP_NARROW if alike else GAP


def _described(group: Sequence[Picture]) -> str:
    types = " or ".join(f"{stored}" for stored, _ in Counter(p.stored for p in group).most_common())
    least, most = (f"{f(p.most for p in group):.5g}" for f in (min, max))
    reach = most if least == most else f"{least} to {most}"
    return f"{len(group)} reach {reach} ({types}; such as {min(group, key=lambda p: p.name).name})"
