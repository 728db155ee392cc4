"""Split lists: text files that name one sample per line."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from ktb.data.files import read_text
from ktb.errors import DataError
from ktb.io import normal


class ListLine(NamedTuple):
    """A line of a split list: its number from 1, and its columns."""

    number: int
    columns: tuple[str, ...]


def read_list(path: Path, root: Path, *, spaces: bool = True) -> list[ListLine]:
    """A split list: one sample per line, columns separated by tabs; empty lines do not count.

    Names come out as relative paths below `root` with "/" between their parts, see `below_root`.

    Args:
        root: data root.
        spaces: lines without a tab are split into columns at spaces and commas, so no name may contain one.

    Raises:
        DataError: missing, empty, not text, a name that leaves the data root, or a sample listed twice.
    """
    text = read_text(path)
    lines: list[ListLine] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), start=1):
        fields = re.split(r"[\s,;]+", line) if spaces and "\t" not in line else line.split("\t")
        written = [f.strip() for f in fields if f.strip()]
        if not written:
            continue
        names = [below_root(name, root) for name in written]
        for name, given in zip(names, written, strict=True):
            if name is None:
                raise DataError(
                    f"{path}, line {number}: {given!r} leaves the data root {root}; expected a name below the root, "
                    "with '/' between its parts: correct dataset.root or the list"
                )
        columns = tuple(name for name in names if name is not None)
        if normal(columns[0]) in seen:
            raise DataError(
                f"{path}: {columns[0]!r} stands on lines {seen[normal(columns[0])]} and {number}; expected each sample "
                "once: remove one of them"
            )
        seen[normal(columns[0])] = number
        lines.append(ListLine(number, columns))
    if not lines:
        raise DataError(f"{path}: lists no sample; expected one per line")
    return lines


def below_root(name: str, root: Path) -> str | None:
    """A name in a list as a relative path below the data root.

    Backslashes separate parts too. An absolute path counts if it lies below the root, and so does one that is meant
    from the root on ("/JPEGImages/1.jpg", as the lists of PASCAL VOC's extended labels have it) if that file is there.

    Args:
        name: as it is written, with or without quotes.
        root: data root.

    Returns:
        The path with "/" between its parts; None if it leaves the root.
    """
    plain = name.strip("\"'").replace("\\", "/")
    if plain.startswith("/") or PureWindowsPath(plain).drive:
        places = (root.absolute().as_posix(), root.resolve().as_posix())
        inside = next((plain[len(place) :] for place in places if plain.startswith(f"{place}/")), None)
        if inside is None and plain.startswith("/") and (root / plain.lstrip("/")).exists():
            inside = plain
        if inside is None:
            return None
        plain = inside.lstrip("/")
    return str(PurePosixPath(plain)) if inside_root(plain) else None


def inside_root(name: str) -> bool:
    """Whether `name` is a relative path without "..", as every name in a list must be."""
    parts = PurePosixPath(name).parts
    windows = "\\" in name or PureWindowsPath(name).drive
    return bool(parts) and not name.startswith("/") and ".." not in parts and not windows and "\0" not in name
