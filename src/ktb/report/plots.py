"""Where everything of a plot goes; `templates/plots.html` draws it as SVG.

The page's style gives the colours, so that a plot suits light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ktb.report.runs import Curve

COLOURS = 8
"""Series colours of the style sheet (--s0 … --s7), used in turn."""

_SIZE = (560, 250)
_BOX = (46, 10, 500, 206)
_POINTS = 400
_LONGEST = 22
"""Letters of a class's name that are shown beside a confusion matrix."""

Drawing = dict[str, Any]
"""What a macro of `templates/plots.html` shows."""


def colour(index: int) -> str:
    """The CSS colour of a series, by its number."""
    return f"var(--s{index % COLOURS})"


def line_plot(series: Sequence[tuple[str, int, Curve]], unit: str = "") -> Drawing:
    """Curves over steps, for the macro `lines` of `templates/plots.html`.

    Args:
        series: (name, colour number, points) of each curve.
        unit: of the values; "%" shows fractions in percent.

    Returns:
        Places in the drawing, and the values that the page's script shows beside the mouse.
    """
    drawn = [(name, index, thinned(curve)) for name, index, curve in series]
    left, top, width, height = _BOX
    x0, x1 = _span([x for _, _, c in drawn for x, _ in c])
    y0, y1 = _span([y for _, _, c in drawn for _, y in c])
    y_ticks = ticks(y0, y1)
    y0, y1 = min(y0, y_ticks[0]), max(y1, y_ticks[-1])

    def column(x: float) -> float:
        return left + (x - x0) / (x1 - x0) * width

    def row(y: float) -> float:
        return top + height - (y - y0) / (y1 - y0) * height

    return {
        "size": _SIZE,
        "box": {"left": left, "top": top, "right": left + width, "bottom": top + height},
        "rows": [(row(tick), f"{100 * tick if unit == '%' else tick:g}") for tick in y_ticks],
        "columns": [(column(x), f"{x:g}") for x in ticks(x0, x1) if x0 <= x <= x1 and x.is_integer()],
        "curves": [(colour(index), [(column(x), row(y)) for x, y in curve]) for _, index, curve in drawn],
        # Four significant digits are what the page shows.
        "data": {
            "x": [x0, x1],
            "y": [y0, y1],
            "box": list(_BOX),
            "unit": unit,
            "series": [{"name": n, "points": [[round(x), float(f"{y:.5g}")] for x, y in c]} for n, _, c in drawn],
        },
    }


def thinned(curve: Curve) -> Curve:
    """At most `_POINTS` points: each the mean of as many neighbours as needed."""
    size = math.ceil(len(curve) / _POINTS)
    parts = [curve[i : i + size] for i in range(0, len(curve), size)]
    return [(sum(x for x, _ in p) / len(p), sum(y for _, y in p) / len(p)) for p in parts]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that span [low, high], low < high; about `count` of them."""
    raw = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.10g}") for i in range(first, last + 1)]


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = abs(low) * 0.05 or 0.01  # around a value that is always the same
    return (low, high) if high > low else (low - room, high + room)


def confusion_plot(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> Drawing:
    """Row-normalised confusion matrix: a row per true class, darker for a larger share of its pixels.

    Args:
        matrix: pixels by true class (row) and predicted class.
        classes: their names.

    Returns:
        Places and words, for the macro `confusion` of `templates/plots.html`.
    """
    side = max(11.0, min(44.0, 560 / len(matrix)))
    longest = min(_LONGEST, max(len(name) for name in classes))
    cells = []
    for i, (row, truth) in enumerate(zip(matrix, classes, strict=True)):
        for j, pixels in enumerate(row):
            if pixels:
                share = pixels / sum(row)
                text = f"{truth} taken for {classes[j]}" if i != j else f"{truth} recognised"
                hint = f"{text}: {100 * share:.2f} % ({pixels:,} pixels)"
                cells.append({"row": i, "column": j, "share": share, "hint": hint})
    return {
        "left": 12 + 6.4 * longest,
        "below": 40 + 4.6 * longest,
        "side": side,
        "names": [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in classes],
        "cells": cells,
    }
