"""The steps by which arrays are prepared for the network: plain dicts with the key "do", and a sentence for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Step = dict[str, Any]
"""One step from a file's array to what the network takes, see `ktb.data.preparation`."""


def in_words(step: Mapping[str, Any]) -> str:
    """A step as a sentence that says all that somebody needs who programs it.

    Args:
        step: one of `preparation`, or of a file; of an unknown kind its own words are given back.
    """
    words = {
        "mark no-data": lambda s: "Values that are the one in the file's own TIFF tag GDAL_NODATA become NaN.",
        "take": _take,
        "stack files": _stack,
        "channels": lambda s: _CHANNELS[s["how"]],
        "pick": lambda s: f"Take the channels {_listed(s['channels'])}, counted from 0, in this order.",
        "multiply and add": lambda s: f"Multiply each channel by {_listed(s['factor'])} and add {_listed(s['add'])}.",
        "high byte": lambda s: "Of uint16 values v take v // 256, of uint8 values the value.",
        "find holes": _find_holes,
        "plane": lambda s: _PLANE.format(range=_number(s["range"])),
        "percentiles": _percentiles,
        "round": lambda s: f"Round to the nearest whole number (halves to the even one) and clip to {s['type']}.",
        "fill holes": lambda s: _FILL + (" Round them to whole numbers." if s["round"] else ""),
        "match size": _match,
        "resize": _resize,
        "zero holes": lambda s: "Set holes to 0.",
        "divide": lambda s: f"Divide by {_number(s['by'])}.",
        "append validity": lambda s: "Append a channel that is 1 where measured and 0 in holes.",
        "standardise": lambda s: f"Subtract {_listed(s['mean'])}, then divide by {_listed(s['std'])} (per channel).",
        "repeat to": lambda s: f"If one channel is left, repeat it; the network takes {s['channels']} channels.",
        "read as": lambda s: f"Read as {s['name']} of ktb does.",
    }
    kind = words.get(str(step.get("do")))
    try:
        return kind(step) if kind else str(dict(step))
    except (KeyError, TypeError, ValueError):  # a file of another version
        return str(dict(step))


def _take(step: Mapping[str, Any]) -> str:
    parts = [f"{name} values times {_number(factor)}" if factor != 1 else f"{name} values as they are"
             for name, factor in step["factors"].items()]  # fmt: skip
    if step["others"]:
        parts.append("values of other types as they are" if parts else "values of any type as they are")
        return f"Take {', '.join(parts)}, in float32."
    return f"Take {', '.join(parts)} (rows, columns, channels); no other type."


def _stack(step: Mapping[str, Any]) -> str:
    text = (
        "Stack the files along the channels, in the order of the configuration; resize a file of another size than the "
        "first to it before, bilinearly (half-pixel centres, OpenCV's INTER_LINEAR, in its own type)"
    )
    if (holes := step["holes"]) is None:
        return f"{text}."
    value = "NaN" if holes == "nan" else _number(holes)
    found = "NaN or infinite" if holes == "nan" else value
    return (
        f"{text}, weighing holes: with a mask of the file, 1 where none of its channels is {found}, resize the values, "
        "0 in holes, and the mask, in float32; where the resized mask is 0.5 or more, the value is their quotient (of "
        f"whole numbers rounded), else {value}."
    )


def _resize(step: Mapping[str, Any]) -> str:
    side, multiple = step["short_side"], step["multiple_of"]
    text = (
        f"Resize bilinearly (half-pixel centres, OpenCV's INTER_LINEAR, in the array's own type): with s = {side} / "
        f"min(height, width), each side n becomes floor(n·s + 0.5), rounded up to a multiple of {multiple}."
    )
    return text + (_WEIGHING.format(rounded="uint8") if step["weigh_holes"] else "")


def _match(step: Mapping[str, Any]) -> str:
    text = f"Where its size is another than that of {step['like']}, resize it to that one"
    if "of" in step:
        scale, side = step.get("scale"), step.get("short_side")
        factor = f"{_number(scale)}" if scale is not None else f"{side} / min(height, width)"
        text += f" (the label's sides are those of {step['of']} times {factor}, rounded)"
    if not step["smooth"]:
        return f"{text}, nearest (OpenCV's INTER_NEAREST_EXACT)."
    text += ", bilinearly (half-pixel centres, OpenCV's INTER_LINEAR, in the array's own type)."
    return text + _WEIGHING.format(rounded="whole numbers")


def _find_holes(step: Mapping[str, Any]) -> str:
    value = "NaN or infinite" if step["value"] == "nan" else _number(step["value"])
    return f"A pixel is a hole, where nothing was measured, if any channel is {value}."


def _percentiles(step: Mapping[str, Any]) -> str:
    of = "all values"
    if (every := step["every"]) > 1:
        of = f"the measured values among those of every {every}th row and column (of all values if there are none)"
    return (
        f"With low and high the {_number(step['low'])}th and {_number(step['high'])}th percentile of {of}, take "
        "(value - low) / (high - low), clipped to [0, 1]."
    )


_WEIGHING = (
    " With holes (and with a validity channel always), in float32: resize the values with holes at 0, and a mask, 1 "
    "where measured; where the resized mask is 0.5 or more, the value is their quotient (of {rounded} rounded), all "
    "else is a hole."
)
_CHANNELS = {
    "colour": "The channels are red, green, blue; one channel is taken three times, a fourth (alpha) is left out.",
    "one": "One channel; of a picture with several equal channels the first.",
    "fourth": "One channel; of a picture with four channels the fourth.",
}
_PLANE = (
    "Take the dominating plane out: on a grid of every k-th row and column, k = max(1, floor(sqrt(height·width / "
    "2500))), fit a + b·row/height + c·column/width to the measured values by least squares, at most 6 times: first to "
    "all, then to those grid values whose distance from the last plane is at most 2.5·1.4826 times the median distance "
    "of the values it was fitted to; stop when these are the same again, or fewer than 3. (With fewer than 3 measured "
    "grid values the plane is the mean of all measured values.) With r the value less the plane's, take 0.5 + r / "
    "(2·{range}), clipped to [0, 1]; 0 where nothing is measured."
)
_FILL = (
    "Fill holes from around them: while holes are left, halve the picture (values times mask, and mask, each by "
    "OpenCV's INTER_AREA to ceil(n / 2), then the quotient); going back, double it (INTER_LINEAR) and put that into "
    "the holes. All 0 where nothing is measured."
)


def _number(value: float) -> str:
    return f"{value:.9g}"


def _listed(values: list[float]) -> str:
    return ", ".join(map(_number, values))
