"""Label files → class ids: stored ids or colours, tables of ids, transparent pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np

from ktb.data.arrays import Array, Label, Mask
from ktb.data.files import read_bytes
from ktb.data.readers import extras
from ktb.data.readers.decode import channels_in_words, decode
from ktb.data.spec import IGNORE, Colour
from ktb.errors import ConfigError, DataError

Alpha = Literal["void", "unused"]


@dataclass(frozen=True)
class LabelReader:
    """Label files → (H, W) with class ids 0..K-1 and `void`; uint8, or uint16 where `void` is beyond 255.

    Ids may be stored as whole numbers of any type, floats included, in one channel or in several equal ones.

    Args:
        table: stored id → class id or `void`; no other ids may occur (`id_table` makes one).
        colours: (R, G, B) → class id or `void`, for labels stored as colours; the table is then not used.
        channel: of label images with several unrelated channels, the one that holds the ids.
        void: what pixels get that do not count (see `ktb.data.spec.ignore_index`).
        alpha: "void": transparent pixels (alpha channel, or transparent colours of a PNG) do not count; "unused": alpha
            says nothing.
        key: name of the array in NPZ files that hold several.
    """

    table: Mapping[int, int] = field(default_factory=dict)
    colours: Mapping[Colour, int] | None = None
    channel: int | None = None
    void: int = IGNORE
    alpha: Alpha = "unused"
    key: str | None = None

    def __post_init__(self) -> None:
        if self.alpha not in get_args(Alpha):
            raise ConfigError(f"alpha is {self.alpha!r}; expected one of {', '.join(get_args(Alpha))}")

    def __call__(self, path: Path) -> Label:
        data = read_bytes(path)
        stored = decode(path, data=data, lossless=True, key=self.key)
        hidden = None if self.alpha == "unused" else _transparent(path, data, stored)
        if self.colours is not None:
            return self._from_colours(path, _as_colours(data, stored), self.colours, hidden)
        return self._from_ids(path, whole_numbers(path, self._one_channel(path, data, stored)), hidden)

    def describe(self, path: Path) -> str:
        """How a label file is taken, in words: what is stored, and what it means.

        Raises:
            DataError: it cannot be read.
        """
        data = read_bytes(path)
        stored = decode(path, data=data, lossless=True, key=self.key)
        channels = 1 if stored.ndim == 2 else stored.shape[2] - extras.has_alpha(data)
        kind = "palette" if extras.palette(data) is not None else f"{stored.dtype} x {channels}"
        if self.colours is not None:
            meant = "classes by colour"
        elif channels == 1:
            meant = "ids"
        else:
            meant = "ids in equal channels" if self.channel is None else f"ids in channel {self.channel}"
        if extras.alpha(data, stored) is not None:
            meant += ", transparent is void" if self.alpha == "void" else ", transparency unused"
        return f"{kind}: {meant}"

    def _one_channel(self, path: Path, data: bytes, stored: Array) -> Array:
        if stored.ndim == 2:
            return stored
        found = channels_in_words(stored.shape[2])
        if self.channel is not None:
            if self.channel >= stored.shape[2]:
                raise DataError(
                    f"{path}: label has {found}, expected ids in channel {self.channel} (from 0); "
                    "correct the label's channel or the file"
                )
            return stored[..., self.channel]
        ids = stored[..., :-1] if extras.has_alpha(data) else stored
        if not (ids == ids[..., :1]).all():
            found = channels_in_words(ids.shape[2])
            raise DataError(
                f"{path}: label has {found} that differ, so it holds colours; expected one channel "
                "of class ids: convert it, or tell the data set how its colours or channels are meant (label.colours: "
                "true with the palette, or label.channel)"
            )
        return ids[..., 0]

    @cached_property
    def _dtype(self) -> type[np.uint8] | type[np.uint16]:
        return label_type(self.void)

    @cached_property
    def _bytes(self) -> tuple[Array, Array]:
        """For 8-bit ids: the class of each, and 1 where it must not occur."""
        classes, wrong = np.zeros(256, self._dtype), np.ones(256, np.uint8)
        for stored, value in self.table.items():
            if 0 <= stored <= 255:
                classes[stored], wrong[stored] = value, 0
        return classes, wrong

    @cached_property
    def _sorted(self) -> tuple[Array, Array]:
        """Stored ids in order, and the class of each."""
        ids = np.array(sorted(self.table), np.int64)
        return ids, np.array([self.table[int(i)] for i in ids], self._dtype)

    def _from_ids(self, path: Path, stored: Array, hidden: Mask | None) -> Label:
        if stored.dtype == np.uint8:
            classes, wrong = self._bytes
            label: Label = cv2.LUT(stored, classes)
            outside = cv2.LUT(stored, wrong)
            bad = None if not cv2.countNonZero(outside) else outside.astype(bool)
        else:
            ids, values = self._sorted
            at = np.minimum(np.searchsorted(ids, stored), len(ids) - 1)
            bad = ids[at] != stored
            label = values[at]
        if hidden is not None:
            label[hidden] = self.void
            bad = None if bad is None else bad & ~hidden
        if bad is None or not bad.any():
            return label
        found = np.unique(stored[bad])
        row, column = np.argwhere(bad)[0]
        raise DataError(
            f"{path}: label {'ids' if len(found) > 1 else 'id'} {_listed(found)} at {int(bad.sum())} pixels, the first "
            f"at row {row}, column {column}; expected {ranges(sorted(self.table))}: correct the file, or the classes, "
            "or label.map or label.ignore"
        )

    def _from_colours(self, path: Path, stored: Array, colours: Mapping[Colour, int], hidden: Mask | None) -> Label:
        if stored.ndim != 3 or stored.shape[2] not in (3, 4) or stored.dtype != np.uint8:
            raise DataError(
                f"{path}: label is {stored.dtype} of shape {stored.shape}; expected an 8-bit colour image, because the "
                "labels are declared as colours: correct one of them"
            )
        codes = (stored[..., 0].astype(np.int32) << 16) | (stored[..., 1].astype(np.int32) << 8) | stored[..., 2]
        known = {(r << 16) | (g << 8) | b: value for (r, g, b), value in colours.items()}
        order = np.array(sorted(known), np.int32)
        at = np.minimum(np.searchsorted(order, codes), len(order) - 1)
        bad = order[at] != codes
        label: Label = np.array([known[int(code)] for code in order], self._dtype)[at]
        if hidden is not None:
            label[hidden] = self.void
            bad &= ~hidden
        if bad.any():
            row, column = np.argwhere(bad)[0]
            colour = tuple(int(v) for v in stored[row, column, :3])
            raise DataError(
                f"{path}: label colour {colour} at row {row}, column {column} ({int(bad.sum())} pixels of unknown "
                "colours); expected those of the palette or ignored ones: add it, or store labels without smoothing"
            )
        return label


def label_type(void: int) -> type[np.uint8] | type[np.uint16]:
    """The type of labels in which void has this value: two bytes where one does not hold it."""
    return np.uint8 if void <= np.iinfo(np.uint8).max else np.uint16


def whole_numbers(path: Path, stored: Array) -> Array:
    """Ids of any stored type as whole numbers.

    Args:
        path: the file, for messages.
        stored: (H, W) of any numeric type.

    Returns:
        (H, W) of a type of whole numbers.

    Raises:
        DataError: fractions, NaN or infinity.
    """
    if stored.dtype.kind in "ui":
        # No table has ids that large, so what is cut to the end of int64 stays an unknown id.
        return stored if stored.dtype != np.uint64 else np.minimum(stored, np.iinfo(np.int64).max).astype(np.int64)
    whole = np.isfinite(stored) & (np.rint(stored) == stored) & (np.abs(stored.astype(np.float64)) < 2**53)
    if not whole.all():
        row, column = np.argwhere(~whole)[0]
        raise DataError(
            f"{path}: label holds {stored.dtype} values, {stored[row, column]:g} at row {row}, column {column}; "
            "expected whole numbers: write it again with class ids, and one id for what is unlabelled"
        )
    return stored.astype(np.int64)


def _as_colours(data: bytes, stored: Array) -> Array:
    """Palette indices as their colours; all else as it is."""
    palette = extras.palette(data)
    if palette is None or stored.ndim != 2:
        return stored
    full = np.zeros((np.iinfo(stored.dtype).max + 1, 3), np.uint8)
    full[: len(palette)] = palette
    return full[stored]


def _transparent(path: Path, data: bytes, stored: Array) -> Mask | None:
    alpha = extras.alpha(data, stored)
    if alpha is None:
        return None
    hidden: Mask = alpha == 0
    between = ~hidden & (alpha != np.iinfo(alpha.dtype).max)
    if between.any():
        row, column = np.argwhere(between)[0]
        raise DataError(
            f"{path}: alpha is {alpha[row, column]} at row {row}, column {column}; expected 0 (unlabelled) or "
            f"{np.iinfo(alpha.dtype).max}: export the label without smoothing, or say label.alpha: unused"
        )
    return hidden


def id_table(
    num_classes: int, *, offset: int = 0, ignore: Iterable[int] = (IGNORE,), void: int = IGNORE
) -> dict[int, int]:
    """A table of stored ids for `LabelReader`.

    NYU's labels, 1..40 with 0 = void, are `id_table(40, offset=-1, ignore=(0, 255))`.

    Args:
        num_classes: number of classes.
        offset: class id minus stored id.
        ignore: stored ids that are void.
        void: label value of void, see `ktb.data.spec.ignore_index`.

    Returns:
        Stored id → class id or `void`.
    """
    return {i - offset: i for i in range(num_classes)} | dict.fromkeys(ignore, void)


def _listed(ids: Array) -> str:
    return ", ".join(str(int(i)) for i in ids[:5]) + (", ..." if len(ids) > 5 else "")


def ranges(ids: Sequence[int], most: int | None = None) -> str:
    """Ids in words: [0, 1, 2, 255] → "0-2, 255".

    Args:
        ids: in order.
        most: so many ranges at most, then "..."; None: all.
    """
    parts: list[list[int]] = []
    for i in ids:
        if parts and parts[-1][1] == i - 1:
            parts[-1][1] = i
        else:
            parts.append([i, i])
    shown = [str(a) if a == b else f"{a} to {b}" if a < 0 else f"{a}-{b}" for a, b in parts[:most]]
    return ", ".join([*shown, *(["..."] if len(shown) < len(parts) else [])])
