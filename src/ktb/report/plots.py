"""Plots as SVG text, coloured by the page's style so that they suit light and dark."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape

from ktb.report.runs import Curve

COLOURS = 8
"""Series colours of the style sheet (--s0 … --s7), used in turn."""

_SIZE = (560, 250)
_BOX = (46, 10, 500, 206)
_POINTS = 400


def colour(index: int) -> str:
    """The CSS colour of a series, by its number."""
    return f"var(--s{index % COLOURS})"


def line_plot(series: Sequence[tuple[str, int, Curve]], unit: str = "") -> str:
    """Curves over steps.

    Args:
        series: (name, colour number, points) of each curve.
        unit: of the values; "%" shows fractions in percent.

    Returns:
        An SVG element.
    """
    drawn = [(name, index, thinned(curve)) for name, index, curve in series]
    left, top, width, height = _BOX
    x0, x1 = _span([x for _, _, c in drawn for x, _ in c])
    y0, y1 = _span([y for _, _, c in drawn for _, y in c])
    y_ticks = ticks(y0, y1)
    x_ticks = [tick for tick in ticks(x0, x1) if x0 <= tick <= x1 and tick.is_integer()]
    y0, y1 = min(y0, y_ticks[0]), max(y1, y_ticks[-1])

    def at(x: float, y: float) -> tuple[float, float]:
        return left + (x - x0) / (x1 - x0) * width, top + height - (y - y0) / (y1 - y0) * height

    parts = []
    for tick in y_ticks:
        _, y = at(x0, tick)
        parts.append(f'<line class="grid" x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}"/>')
        label = f"{100 * tick:g}" if unit == "%" else f"{tick:g}"
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for tick in x_ticks:
        x, _ = at(tick, y0)
        parts.append(f'<text x="{x:.1f}" y="{top + height + 18}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{left + width}" y="{top + height + 34}" text-anchor="end">step</text>')
    for _, index, curve in drawn:
        points = [at(x, y) for x, y in curve]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path class="line" style="stroke:{colour(index)}" d="{path}"/>')
        if len(points) < 30:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" style="fill:{colour(index)}"/>' for x, y in points]
    parts.append(f'<line class="cursor" y1="{top}" y2="{top + height}"/>')
    # Four significant digits are what the page shows.
    data = {
        "x": [x0, x1],
        "y": [y0, y1],
        "box": list(_BOX),
        "unit": unit,
        "series": [{"name": n, "points": [[round(x), float(f"{y:.5g}")] for x, y in c]} for n, _, c in drawn],
    }
    return (
        f'<svg viewBox="0 0 {_SIZE[0]} {_SIZE[1]}" data-plot="{escape(json.dumps(data, separators=(",", ":")))}">'
        f"{''.join(parts)}</svg>"
    )


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


def confusion_plot(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """Row-normalised confusion matrix: a row per true class, darker for a larger share of its pixels.

    Args:
        matrix: pixels by true class (row) and predicted class.
        classes: their names.

    Returns:
        An SVG element.
    """
    count = len(matrix)
    cell = max(11.0, min(44.0, 560 / count))
    left = 12 + 6.4 * min(22, max(len(name) for name in classes))
    size = cell * count
    parts = [f'<rect class="diag" x="{left:.1f}" y="20" width="{size:.1f}" height="{size:.1f}"/>']
    for i, (row, truth) in enumerate(zip(matrix, classes, strict=True)):
        y, total = 20 + i * cell, sum(row)
        parts.append(
            f'<text class="label" x="{left - 6:.1f}" y="{y + cell / 2 + 4:.1f}" text-anchor="end">'
            f"{_short(truth)}</text>"
        )
        x = left + i * cell + cell / 2
        parts.append(
            f'<text class="label" transform="translate({x + 4:.1f} {26 + size:.1f}) rotate(-45)" text-anchor="end">'
            f"{_short(classes[i])}</text>"
        )
        for j, pixels in enumerate(row):
            if not pixels:
                continue
            share = pixels / total
            text = f"{truth} taken for {classes[j]}" if i != j else f"{truth} recognised"
            hint = escape(f"{text}: {100 * share:.2f} % ({pixels:,} pixels)")
            parts.append(
                f'<rect class="cell" x="{left + j * cell:.1f}" y="{y:.1f}" width="{cell:.1f}" height="{cell:.1f}" '
                f'fill-opacity="{0.02 + 0.98 * share:.3f}" data-tip="{hint}"/>'
            )
            if cell >= 30 and share >= 0.005:
                strong = " strong" if share > 0.55 else ""
                parts.append(
                    f'<text class="in{strong}" x="{left + (j + 0.5) * cell:.1f}" y="{y + cell / 2 + 4:.1f}">'
                    f"{100 * share:.0f}</text>"
                )
    parts.append(f'<text x="{left:.1f}" y="13">predicted class →</text>')
    bottom = 40 + size + 4.6 * min(22, max(len(name) for name in classes))
    return f'<svg viewBox="0 0 {left + size + 8:.1f} {bottom:.1f}">{"".join(parts)}</svg>'


def _short(name: str) -> str:
    return escape(name if len(name) <= 22 else f"{name[:21]}…")
