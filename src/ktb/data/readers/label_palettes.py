"""Labels as palette pictures: whether an id means the same colour, and so the same class, in every file.

Programs that reduce colours (PIL's quantize, GIMP, web tools) number the colours of each file anew. Such ids are no
class ids, and nothing in a single file shows it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path

import numpy as np

from ktb.data.files import check_ends, read_bytes
from ktb.data.readers import extras, png, tiff
from ktb.data.readers.decode import decode, pixel_limit
from ktb.data.readers.label import LabelReader
from ktb.data.spec import Colour
from ktb.errors import DataError

Palette = tuple[Colour, ...]

_BEGINNING = 4096
"""Bytes of a file that nearly always hold its palette."""
_THREADS = 8


def colours_of(data: bytes) -> Palette:
    """The palette of a palette picture, of which a PNG may be cut after it; empty for all other files."""
    palette = extras.palette(data)
    return () if palette is None else tuple((int(r), int(g), int(b)) for r, g, b in palette)


def conflict(used: Iterable[tuple[Path, dict[int, Colour]]]) -> str | None:
    """What to say if an id has another colour in one file than in another one.

    Args:
        used: per file, the ids that its pixels have, and their colours in its palette.
    """
    known: dict[int, tuple[Colour, Path]] = {}
    for path, colours in used:
        for stored, colour in colours.items():
            expected, first = known.setdefault(stored, (colour, path))
            if expected != colour:
                return (
                    f"{path}: id {stored} has the colour {colour} in its palette, but {expected} in {first}: palettes "
                    "that differ, so ids are no class ids"
                )
    return None


class LabelPalettes:
    """The palettes of a data set's label files, of all splits that were opened."""

    def __init__(self) -> None:
        self._palettes: dict[Path, Palette] = {}

    def add(self, paths: Sequence[Path], reader: LabelReader, max_pixels: int) -> None:
        """Take in more files. Only where their palettes are not one are their pixels read.

        Args:
            reader: reads the labels. The colours of ids that it takes for void, and of transparent pixels, may differ.
            max_pixels: of a label that may be read (see `ktb.data.readers.decode.pixel_limit`).

        Raises:
            DataError: an id of one file has another colour in another file.
        """
        classes = {stored for stored, value in reader.table.items() if value != reader.void}

        def used(path: Path) -> tuple[Path, dict[int, Colour]]:
            try:
                data = read_bytes(path)
                with pixel_limit(max_pixels):
                    stored = decode(path, data=data, key=reader.key)
                alpha = extras.alpha(data, stored) if reader.alpha == "void" else None
                ids = np.unique(stored if alpha is None else stored[alpha > 0])
            except DataError:  # reported when training reads it
                return path, {}
            palette = self._palettes[path]
            return path, {int(i): palette[i] for i in ids if i < len(palette) and int(i) in classes}

        new = [path for path in paths if path not in self._palettes]
        with ThreadPoolExecutor(_THREADS) as pool:
            self._palettes |= dict(zip(new, pool.map(_palette_of_file, new), strict=True))
        groups: dict[Palette, list[Path]] = defaultdict(list)
        for path, palette in self._palettes.items():
            if palette:
                groups[palette].append(path)
        longest = max(groups, key=len, default=())
        if all(longest[: len(palette)] == palette for palette in groups):
            return
        # One file of each palette in turn: a conflict is then found after few files.
        order = [path for turn in zip_longest(*groups.values()) for path in turn if path is not None]
        pool = ThreadPoolExecutor(_THREADS)
        try:
            text = conflict(pool.map(used, order))
        finally:
            pool.shutdown(cancel_futures=True)
        if text:
            raise DataError(
                f"{text}; read them by colour: dataset.label.colours=true with the colours in dataset.palette "
                "(`ktb-data new` writes them), or, if the ids are right and the colours are not, "
                "dataset.label.palettes=unused"
            )


def _palette_of_file(path: Path) -> Palette:
    for size in (_BEGINNING, -1):
        try:
            check_ends(path)
            with path.open("rb") as file:
                data = file.read(size)
        except (DataError, OSError):  # reported when training reads it
            return ()
        if tiff.is_tiff(data) and size > 0:
            continue
        if (found := colours_of(data)) or png.header(data)[1] != png.PALETTE:
            return found
    return ()
