"""The list of classes that a folder of one's own data may hold."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from ktb.data.files import read_text
from ktb.data.spec import Colour

CLASS_FILES = ("classes.txt", "class_names.txt", "labels.txt", "labelmap.txt", "label_names.txt")


@dataclass
class ClassNames:
    """Names of classes from a file of the user's, by id and by colour; numbered: the file has the ids itself."""

    ids: dict[int, str] = field(default_factory=dict)
    colours: dict[Colour, str] = field(default_factory=dict)
    numbered: bool = True
    source: str = ""


def read_class_names(root: Path) -> ClassNames:
    """From a classes.txt or the like in `root`; empty if there is none.

    One class per line, alone or as `id name`, `name r g b` or `name:r,g,b`; lines starting with # do not count.
    """
    path = next((root / name for name in CLASS_FILES if (root / name).is_file()), None)
    if path is None:
        return ClassNames()
    number, colour = r"(?:(-?\d+)[\s:,]+)?", r"(?:[\s:,]+(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3}))?"
    lines = [t.strip() for t in read_text(path).splitlines()]
    found = [re.fullmatch(rf"{number}(.*?[^\s:,]){colour}[:,\s]*", t) for t in lines if t and t[0] != "#"]
    matches = [m for m in found if m]
    numbered = all(m[1] for m in matches)
    return ClassNames(
        ids={int(m[1]) if numbered else i: m[2] for i, m in enumerate(matches)},
        colours={(int(m[3]), int(m[4]), int(m[5])): m[2] for m in matches if m[3]},
        numbered=numbered,
        source=path.name,
    )
