"""Ids or colours that smoothing has made: between those of two classes, and only along the border of areas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ktb.data.tools.new.label_files import LabelSeen
from ktb.errors import DataError

THIN = 0.05
"""Share of the pixels of an id that begin a square of 2 x 2, below which it only has lines of one pixel."""
TOLERANCE = 2
"""Steps of 256 by which a mixture of two colours may be off in each channel."""
SEVERAL = 3
"""So many such ids or colours, and most of all, are refused; of fewer a note is made."""


def refuse_smoothed(
    seen: Sequence[LabelSeen], counted: Counter[Any], known: Iterable[Any], *, by_colour: bool
) -> list[str]:
    """Refuse labels whose borders are smoothed, as by anti-aliasing or by resizing with anything but nearest neighbour.

    Args:
        seen: what the files hold.
        counted: id or colour → pixels in all of them.
        known: ids or colours that have a name, and so are meant.
        by_colour: whether these are colours.

    Returns:
        A note where only a few are suspicious, and so may be lines that are meant.

    Raises:
        DataError: most of them are mixtures.
    """
    squares = _squares(seen, by_colour)
    lines = {code for code, pixels in counted.items() if squares[code] < THIN * pixels}
    areas = [code for code in counted if code not in lines]
    between = [code for code in sorted(lines - set(known)) if len(areas) > 1 and _is_mixture(code, areas)]
    if not between:
        return []
    what, examples = "colours" if by_colour else "ids", ", ".join(map(str, between[:3]))
    found = f"{examples}: between the {what} of larger areas, and only in lines of one pixel"
    if len(between) < SEVERAL or 2 * len(between) <= len(counted) - 2:
        return [
            f"{len(between)} of {len(counted)} {what} may come from smoothed borders ({found}): if so, name them in "
            "label.ignore"
        ]
    raise DataError(
        f"{seen[0].path}: and the other labels have {len(counted)} {what}, {len(between)} of which come from smoothed "
        f"borders ({found}); expected one of the {what} per class: write them again without anti-aliasing and resized "
        "by nearest neighbour (masks of two classes: 0 below 128, 255 from there on), or name them in a classes.txt"
    )


def _squares(seen: Sequence[LabelSeen], by_colour: bool) -> Counter[Any]:
    """Id or colour → pixels that begin a square of 2 x 2 of it."""
    total: Counter[Any] = Counter()
    for s in seen:
        found: Mapping[Any, int] = dict(s.squares)
        if by_colour and s.ids is not None:
            found = {(s.palette[i] if i < len(s.palette) else (i, i, i)): n for i, n in found.items()}
        elif not by_colour and s.ids is None:  # ids in the first channel, beside constant ones
            found = {colour[0]: n for colour, n in found.items()}
        total.update(found)
    return total


def _is_mixture(code: Any, areas: Sequence[Any]) -> bool:
    """Whether an id or a colour lies between two others."""
    others = np.array(areas, np.float64).reshape(len(areas), -1)
    steps = others - np.array(code, np.float64).reshape(1, -1)
    toward, length = steps @ steps.T, np.linalg.norm(steps, axis=1)
    # Seen from a mixture the two lie in opposite directions; off the line between them by less than the tolerance.
    with np.errstate(divide="ignore", invalid="ignore"):
        off = np.sqrt(np.maximum(length[:, None] ** 2 - (toward / length[None]) ** 2, 0))
    return bool(((toward < 0) & (np.minimum(off, off.T) <= TOLERANCE)).any())
