"""How the values of one modality are stored and what they mean: type, scale, holes, channels."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ktb.data.arrays import Array
from ktb.data.readers.image import can_hold
from ktb.data.tools.new.found import Guess
from ktb.data.tools.new.stats import Stats
from ktb.data.tools.new.words import band_of


def guess_modality(name: str, pattern: str | list[str], stats: Stats) -> Guess:
    """How the values of a modality are stored and what they mean.

    Args:
        name: of the modality.
        pattern: that finds its files; several where a sample has several.
        stats: what some of them hold.
    """
    settings: dict[str, Any] = {"files": pattern}
    mixed = len(stats.channels) > 1
    channels = max(stats.channels) if not mixed else 3 if name == "rgb" else 1
    reasons = [f"{channels} channel{'s' * (channels > 1)} of {_bits(stats.dtypes)}"]
    if stats.keys:
        settings["key"] = stats.keys[0]
        others = f", not {' or '.join(stats.keys[1:])}" if len(stats.keys) > 1 else ""
        reasons.append(f"the array {stats.keys[0]} of each file{others}")
    if mixed and name == "rgb":
        reasons.append("grey pictures among them are taken as three equal channels, alpha is left out")
    elif mixed:
        reasons[0] += ", in some files saved as several equal ones"
    elif stats.grey and name != "rgb":
        settings["pick"] = [0]
        reasons[0] += ", all equal: one is taken"
        channels = 1
    elif channels == 4 and name == "rgb":
        settings["pick"] = [0, 1, 2]
        reasons[0] += ", without the fourth"
        channels = 3
    if name != "rgb" and channels != 1:
        settings["channels"] = channels
    dtype = next(iter(stats.dtypes)) if len(stats.dtypes) == 1 else "uint16" if name == "rgb" else "float32"
    if len(stats.dtypes) > 1:
        reasons.append("files of several types: are their values in one unit?")
    dtype = dtype if dtype in ("uint8", "uint16") else "float32"
    if dtype != "uint8":
        settings["dtype"] = dtype
    if name == "rgb":
        white = next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if stats.most < 2**bits)
        if dtype == "uint16" and white < 65535:
            settings["scale"] = white
            reasons.append(f"values up to {stats.most:g}: {white.bit_length()} bits of 16 are used, {white} is white")
        return Guess(name, settings, tuple(reasons))

    values = stats.values
    named = {tag for tag in stats.nodata if tag is not None and can_hold(dtype, tag)}  # tags often name others
    tags = {tag for tag in named if not np.isnan(tag)}
    if len(tags) > 1 or (tags and stats.not_finite):
        settings |= {"hole_value": "nodata", "dtype": "float32"}
        dtype = "float32"
        reasons.append(
            f"no measurement by the files' own tags (GDAL_NODATA): {', '.join(f'{tag:g}' for tag in sorted(tags))}"
            + ", and NaN" * bool(stats.not_finite)
        )
        values = values[~np.isin(values, list(tags))]
    elif tags:
        tag = tags.pop()
        settings["hole_value"] = tag
        lacking = values == (np.float32(tag) if dtype == "float32" else tag)
        reasons.append(f"{tag:g} is no measurement by the files' own tag (GDAL_NODATA): {lacking.mean():.1%} of pixels")
        values = values[~lacking]
    elif stats.not_finite or named:
        settings["hole_value"] = float("nan")
        reasons.append(f"NaN or infinity in {stats.not_finite:.1%} of pixels: no measurement")
    elif (hole := _hole(values)) is not None:
        settings["hole_value"] = hole
        rest = values[values != hole]
        reasons.append(
            f"{hole:g} in {(values == hole).mean():.1%} of pixels and nothing near it (all others are "
            f"{rest.min():g} to {rest.max():g}): no measurement"
        )
        values = rest
    if "hole_value" in settings:
        settings["holes"] = "zero"
    if shown := _natural_colours(channels, pattern):
        settings["show"] = shown
        reasons.append(f"pictures show the bands {', '.join(map(str, shown))} as red, green and blue")
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    reasons.insert(1, f"values {low:g} to {high:g}")
    scale = scale_of(dtype, max(abs(low), abs(high)))
    if scale is not None:
        settings["scale"] = scale
        reasons.append(f"divided by {scale:g}, so that about 1 is the most")
    if low < 0:
        reasons.append("negative values stay negative; mean and std move them")
    return Guess(name, settings, tuple(reasons))


def _natural_colours(channels: int, pattern: str | list[str]) -> list[int] | None:
    """Numbers of the bands that are red, green and blue, as far as the number of bands or their names say it."""
    if isinstance(pattern, list):
        places: dict[tuple[int, str], int] = {}
        for i, glob in enumerate(pattern, 1):
            bands = [b for b in map(band_of, re.split(r"[/._*-]+", glob)) if b]
            if bands:
                places[bands[-1]] = i
        by_name = [band_of(word) for word in ("red", "green", "blue")]
        by_number = [(4, ""), (3, ""), (2, "")]  # as Sentinel-2 and Landsat 8 and 9 number them
        for wanted in (by_name, by_number):
            if all(band in places for band in wanted):
                return [places[band] for band in wanted if band is not None]
        return None
    return [4, 3, 2] if channels in (12, 13) else None  # Sentinel-2, level 2A and 1C


def _bits(dtypes: set[str]) -> str:
    names = {"uint8": "8 bits", "uint16": "16 bits", "float32": "floats", "float64": "floats", "float16": "floats"}
    return " or ".join(sorted({names.get(d, d) for d in dtypes}))


def _hole(values: Array) -> float | None:
    """A value at either end of the range that is frequent and far from all others: a sensor's "no measurement"."""
    if not values.size or values.min() == values.max():
        return None
    for end in (float(values.min()), float(values.max())):
        rest = values[values != end]
        spread = float(np.percentile(rest, 99) - np.percentile(rest, 1)) or abs(float(rest[0])) or 1.0
        # A percentile, so that noise in single pixels near the end does not close the gap.
        gap = abs(float(np.percentile(rest, 0.1 if end < rest[0] else 99.9)) - end)
        usual = end == 0 or end < 0 < rest.min()  # -1 among positive values is as good a sign as 0
        if len(rest) < 0.999 * len(values) and gap > spread * (0.02 if usual else 1.0):
            return end
    return None


def scale_of(dtype: str, most: float) -> float | None:
    """What values up to `most` are divided by; None where the default of the type fits.

    Args:
        dtype: of the modality's settings.
        most: largest absolute value.
    """
    if dtype == "uint8" or (dtype == "float32" and 0.2 <= most <= 1.05):
        return None
    if dtype == "uint16" and most > 32767:
        return None
    for bits in (10, 12, 14):
        if dtype == "uint16" and most == 2**bits - 1:
            return most
    if most <= 0:
        return None
    step = 10.0 ** np.floor(np.log10(most))
    return float(next(m * step for m in (1, 2, 5, 10) if most <= m * step * 1.0001))
