"""Frames of sensors that run at their own rates, paired by their times: each with the nearest of the other sensors.

A frame's time stands in its file's name, or in a list with "time file" per line as the TUM RGB-D benchmark has them.
Times are whole nanoseconds: a float of seconds since 1970 is exact to a quarter of a microsecond only.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ktb.data.files import read_text
from ktb.data.lists import below_root
from ktb.errors import DataError

__all__ = ["UNITS", "Frame", "Pairs", "as_text", "list_frames", "named_frames", "pair"]

NS = 1_000_000_000
UNITS = {"s": NS, "ms": 1_000_000, "us": 1_000, "ns": 1}
"""Unit of a stamp → nanoseconds."""

_DIGITS = {10: "s", 13: "ms", 16: "us", 19: "ns"}
"""Digits before the point → unit, of times since 1970 that lie between 2001 and 2286."""
# "1305031102.175304", "1305031102_175304", "1305031102175"
_NUMBER = re.compile(r"(\d+)(?:\.(\d+)|[_-](\d{3}|\d{6}|\d{9}))?")
# "2021-05-03_12-30-15.250", "20210503T123015", "20210503_123015_250"
_DATE = re.compile(
    r"((?:19|20)\d\d)[-_.]?(\d\d)[-_.]?(\d\d)[-_T .]?(\d\d)[-_:.h]?(\d\d)[-_:.m]?(\d\d)(?:[._,-](\d{1,9}))?Z?"
)


class Frame(NamedTuple):
    """One picture: its time in ns, the file below the data root, and the time as it was written."""

    time: int
    file: str
    stamp: str


Frames = Mapping[str, Sequence[Frame]]
"""Sequence (what wildcards before the time match; "" if there are none) → its frames."""


def nanoseconds(stamp: str, unit: str | None) -> int | None:
    """The time that `stamp` stands for; None if it is none, or if its unit can't be told.

    Args:
        stamp: a number, or with `unit` None also a date and time of day.
        unit: one of `UNITS`; None: by the number of digits before the point; numbers with a point are seconds if they
            have at most ten.
    """
    number = _NUMBER.fullmatch(stamp)
    if unit is None and (date := _DATE.fullmatch(stamp)) and not (number and len(number[1]) in _DIGITS):
        year, month, day, hour, minute, second = (int(part) for part in date.groups()[:6])
        try:
            moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        except ValueError:  # month 13
            return None
        return int(moment.timestamp()) * NS + int((date[7] or "").ljust(9, "0"))
    if number is None:
        return None
    whole, fraction = number[1], number[2] or number[3] or ""
    unit = unit or ("s" if fraction and len(whole) <= 10 else _DIGITS.get(len(whole)))
    if unit is None:
        return None
    return int(whole) * UNITS[unit] + int(fraction or 0) * UNITS[unit] // 10 ** len(fraction)


def _time(stamp: str, unit: str | None, where: str) -> int:
    time = nanoseconds(stamp, unit)
    if time is None:
        raise DataError(
            f"{where}: {stamp!r} is no time stamp; expected seconds such as 1305031102.175304, or 13, 16 or 19 digits "
            f"for ms, us or ns since 1970, or a date such as 2021-05-03_12-30-15.250: put what else stands in the "
            f"names into the pattern, or set dataset.time_unit to one of {', '.join(UNITS)}"
        )
    return time


def named_frames(files: Mapping[str, str], unit: str | None) -> dict[str, list[Frame]]:
    """Frames of files that have their times in their names.

    Args:
        files: what a pattern's wildcards match → file. The last wildcard matches the time, those before it the
            sequence.
        unit: of the times, see `nanoseconds`.

    Returns:
        Sequence → its frames.

    Raises:
        DataError: a name without a time.
    """
    found: dict[str, list[Frame]] = defaultdict(list)
    for key, file in files.items():
        sequence, _, stamp = key.rpartition("/")
        found[sequence].append(Frame(_time(stamp, unit, file), file, stamp))
    return found


def list_frames(root: Path, lists: Mapping[str, str], unit: str | None) -> dict[str, list[Frame]]:
    """Frames of lists with "time file" per line, files relative to the list's folder.

    Empty lines and those that begin with # do not count; columns are separated by spaces, a tab or a comma.

    Args:
        root: data root.
        lists: sequence → list below the root.
        unit: of the times, see `nanoseconds`.

    Returns:
        Sequence → its frames.

    Raises:
        DataError: a list that cannot be read, a line without a time and a file, a file outside the root.
    """
    found: dict[str, list[Frame]] = {}
    for sequence, path in lists.items():
        where = f"{root / path}"
        text = read_text(root / path)
        frames = []
        for number, line in enumerate(re.split(r"\r\n|\n|\r", text), start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            parts = re.split(r"\s*[,\t]\s*|\s+", line.strip(), maxsplit=1)
            if len(parts) != 2:
                raise DataError(f"{where}, line {number}: {line.strip()!r}; expected a time and a file")
            name = parts[1].strip("\"'").replace("\\", "/")
            file = below_root(str(PurePosixPath(path).parent / name), root)
            if file is None:
                raise DataError(f"{where}, line {number}: {parts[1]!r} leaves the data root; expected a file below it")
            frames.append(Frame(_time(parts[0], unit, f"{where}, line {number}"), file, parts[0]))
        found[sequence] = frames
    return found


class Pairs(NamedTuple):
    """partners: (sequence, frame of the first sensor) → the frame of each other one. lonely: those of the first sensor
    that lack one. lacking: sensor → how many frames lack a partner of it (the first one that they lack)."""

    partners: dict[tuple[str, Frame], dict[str, Frame]]
    lonely: list[tuple[str, Frame]]
    lacking: Counter[str]


def pair(first: Frames, others: Mapping[str, Frames], max_gap: float) -> Pairs:
    """Every frame of one sensor with the nearest frame of each of the others, of the same sequence.

    No frame is used twice: the closest pair comes first, and a frame that loses its partner to a closer one gets the
    next nearest.

    Args:
        first: frames of the sensor that the samples are named after.
        others: sensor → its frames.
        max_gap: seconds that a partner may be away.
    """
    most = round(max_gap * NS)
    result = Pairs({}, [], Counter())
    for sequence, frames in sorted(first.items()):
        matched = {
            name: _nearest([f.time for f in frames], [f.time for f in streams.get(sequence, ())], most)
            for name, streams in others.items()
        }
        for i, frame in enumerate(frames):
            lacking = next((name for name, found in matched.items() if i not in found), None)
            if lacking is not None:
                result.lonely.append((sequence, frame))
                result.lacking[lacking] += 1
                continue
            result.partners[sequence, frame] = {
                name: others[name][sequence][found[i]] for name, found in matched.items()
            }
    return result


def _nearest(times: Sequence[int], others: Sequence[int], most: int) -> dict[int, int]:
    """Index in `times` → index in `others`, one to one, the smallest gaps first."""
    order = sorted(range(len(others)), key=others.__getitem__)
    ordered = [others[j] for j in order]
    near = [
        (abs(ordered[at] - time), i, order[at])
        for i, time in enumerate(times)
        for at in range(bisect_left(ordered, time - most), bisect_right(ordered, time + most))
    ]
    found: dict[int, int] = {}
    taken: set[int] = set()
    for _, i, j in sorted(near):
        if i not in found and j not in taken:
            found[i] = j
            taken.add(j)
    return found


def as_text(seconds: float) -> str:
    """A gap for people: "12.5 ms", "3 s"."""
    return f"{1000 * seconds:.3g} ms" if abs(seconds) < 1 else f"{seconds:.3g} s"
