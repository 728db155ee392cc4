"""An extension of Griffe, which reads docstrings for the documentation site: what a section Args says of several
parameters in one line, `height, width: in pixels.`, is said of each."""

from __future__ import annotations

import re
from typing import Any

import griffe

SEVERAL = re.compile(r"^( +)(\w+(?:, \w+)+): (.*(?:\n\1 +\S.*)*)", re.MULTILINE)


class OneByOne(griffe.Extension):
    """Repeats what is said of several parameters at once for each of them."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None and "Args:\n" in obj.docstring.value:
            obj.docstring.value = one_by_one(obj.docstring.value)


def one_by_one(docstring: str) -> str:
    """A docstring in Google style whose section Args names each parameter on a line of its own."""
    before, args, after = docstring.partition("Args:\n")
    end = re.search(r"\n\n", after)
    section, rest = (after[: end.start()], after[end.start() :]) if end else (after, "")
    return before + args + SEVERAL.sub(_each, section) + rest


def _each(found: re.Match[str]) -> str:
    return "\n".join(f"{found[1]}{name}: {found[3]}" for name in found[2].split(", "))
