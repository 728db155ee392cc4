"""Names in any script on pictures: a font that has their letters, or a number in the place of the name.

Matplotlib and Pillow draw letter by letter, from left to right: scripts that are written from the right, or whose
letters change shape, come out wrong in any font. The report's page and tables have all names, as a browser draws them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

_PLAIN = "DejaVu Sans"
"""Matplotlib brings it along."""
_NO_LETTERS = ("emoji", "last resort")
"""Words in the names of fonts with pictures, or with a box for every letter there is."""


def legible(text: str, instead: str | None = None) -> str:
    """`text` if it can be drawn, with a font of this machine; else `instead`, or the text with "?" for such letters.

    Args:
        text: a name.
        instead: what stands for it.
    """
    odd = {c for c in text if not _is_drawn(c)}
    if not odd:
        return text
    return "".join("?" if c in odd else c for c in text) if instead is None else instead


def class_names(names: Sequence[str]) -> list[str]:
    """Names of classes as a picture can have them: `class 3` for one that cannot be drawn."""
    return [legible(name, f"class {i}") for i, name in enumerate(names)]


@contextmanager
def fonts_for(texts: Iterable[str]) -> Iterator[None]:
    """Within the block, what Matplotlib makes is drawn with fonts that have the letters of these texts."""
    letters = {c for text in texts for c in text if not c.isascii()}
    families = list(dict.fromkeys(family for c in sorted(letters) if (found := _font_of(c)) for family, _ in [found]))
    if not set(families) - {_PLAIN}:
        yield
        return
    import matplotlib as mpl

    usual = list(mpl.rcParams["font.family"])
    with mpl.rc_context({"font.family": [*usual, *families]}):
        yield


def font_file(text: str) -> Path | None:
    """A font that has every letter of a text; None where the plain Latin ones do, or no font does."""
    fonts = {found for c in text if not c.isascii() and (found := _font_of(c))}
    for _, path in sorted(fonts):
        if set(map(ord, text)) <= _letters(path):
            return path
    return None


def _is_drawn(letter: str) -> bool:
    if letter.isascii():
        return True
    shaped = unicodedata.bidirectional(letter) in ("R", "AL") or unicodedata.category(letter) in ("Mc", "Mn")
    return not shaped and _font_of(letter) is not None


@cache
def _font_of(letter: str) -> tuple[str, Path] | None:
    """Family and file of a font that has a letter."""
    return next(((family, path) for family, path in _fonts() if ord(letter) in _letters(path)), None)


@cache
def _fonts() -> list[tuple[str, Path]]:
    """Those of this machine, upright and of usual weight, Matplotlib's own first; without pictures for letters."""
    from matplotlib.font_manager import fontManager

    entries = [e for e in fontManager.ttflist if e.style == "normal" and e.weight in (400, "normal", "regular")]
    entries = [e for e in entries if not any(word in e.name.lower() for word in _NO_LETTERS)]
    entries.sort(key=lambda e: (e.name != _PLAIN, "sans" not in e.name.lower(), e.name))
    return [(e.name, Path(e.fname)) for e in entries]


@cache
def _letters(font: Path) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(str(font)).get_charmap())
    except (OSError, RuntimeError):  # gone since Matplotlib listed it, or no font that it reads
        return frozenset()
