"""What a PNG holds beside its pixels: the palette, which pixels are transparent, texts."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL.PngImagePlugin import PngImageFile

from ktb.data.arrays import Array

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PALETTE, GREY_ALPHA, RGB_ALPHA = 3, 4, 6
"""Colour types of the header."""


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, content) of the chunks before the pixels; ends early where `data` is no PNG or is cut short."""
    position = len(SIGNATURE)
    while data.startswith(SIGNATURE) and position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        content = data[position + 8 : position + 8 + length]
        if kind in (b"IDAT", b"IEND") or len(content) < length:
            return
        yield kind, content
        position += 12 + length


def header(data: bytes) -> tuple[int, int]:
    """(bit depth, colour type); (0, 0) if `data` does not begin like a PNG."""
    for kind, content in chunks(data):
        return (content[8], content[9]) if kind == b"IHDR" and len(content) >= 10 else (0, 0)
    return 0, 0


def palette(data: bytes) -> Array | None:
    """Colours of a palette PNG, (entries, 3) uint8; None for all other files."""
    if header(data)[1] != PALETTE:
        return None
    content = next((content for kind, content in chunks(data) if kind == b"PLTE"), b"")
    return np.frombuffer(content[: len(content) // 3 * 3], np.uint8).reshape(-1, 3)


def has_alpha(data: bytes) -> bool:
    """Whether the last of its channels is alpha."""
    return header(data)[1] in (GREY_ALPHA, RGB_ALPHA)


def alpha(data: bytes, stored: Array) -> Array | None:
    """Alpha (H, W) of a PNG, 0 transparent; None where it has none, as in every file of another format.

    Args:
        data: the file.
        stored: its pixels as `ktb.data.readers.decode.decode` gives them: palette indices, or all channels.
    """
    if has_alpha(data) and stored.ndim == 3:
        channel: Array = stored[..., -1]
        return channel
    transparent = next((content for kind, content in chunks(data) if kind == b"tRNS"), None)
    if not transparent:
        return None
    if header(data)[1] == PALETTE:
        by_index = np.full(256, 255, np.uint8)
        by_index[: len(transparent)] = np.frombuffer(transparent[:256], np.uint8)
        return by_index[stored]
    # One grey value or one colour, stored in 16 bits each.
    value = np.frombuffer(transparent[: len(transparent) // 2 * 2], ">u2").astype(np.int64)
    pixels = stored[..., None] if stored.ndim == 2 else stored
    if len(value) != pixels.shape[2]:
        return None
    return np.where((pixels == value).all(axis=2), 0, 255).astype(np.uint8)


def png_text(path: Path, key: str) -> str | None:
    """The text chunk `key` of a PNG file.

    Args:
        path: the file.
        key: name of the chunk.

    Returns:
        The text; None where there is none, where the file does not exist, is no PNG or is cut short.
    """
    try:
        # Not by Image.open, which has a limit of its own for the number of pixels.
        with PngImageFile(path) as image:
            text = image.text.get(key)
        with path.open("rb") as file:
            file.seek(-8, os.SEEK_END)
            return text if file.read(4) == b"IEND" else None
    except (OSError, SyntaxError, ValueError):
        return None
