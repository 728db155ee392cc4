"""Whether a piece of LZW data, as TIFF has it, can be decoded: the decoder follows codes that were never defined, and
damaged files can end the whole process that way."""

from __future__ import annotations

import numpy as np

_CLEAR, _END, _FIRST, _FULL = 256, 257, 258, 4096


def _offsets() -> tuple[np.ndarray, np.ndarray]:
    """Place in bits and width of each code after a clear code: wider as soon as the table's next entry asks for it."""
    entries = np.minimum(_FIRST - 1 + np.arange(_FULL - _FIRST + 2), _FULL - 1)  # in the table before the code is read
    widths = np.select([entries < 511, entries < 1023, entries < 2047], [9, 10, 11], 12)
    return np.concatenate([[0], np.cumsum(widths)[:-1]]), widths


_PLACES, _WIDTHS = _offsets()


def is_decodable(data: bytes) -> bool:
    """Whether every code is a byte, a clear code, the end, or an entry that the codes before it have defined.

    Args:
        data: one strip or tile, most significant bits first; what comes after its end does not count, and it may be
            cut short.
    """
    padded = np.frombuffer(data + bytes(4), np.uint8).astype(np.uint32)
    bits, at = 8 * len(data), 0
    if bits < 9 or _codes(padded, at, 1)[0] != _CLEAR:
        return False
    while at + 9 <= bits:
        count = int(np.searchsorted(_PLACES + _WIDTHS, bits - at, side="right"))
        codes = _codes(padded, at, count)
        special = np.flatnonzero((codes == _CLEAR) | (codes == _END))
        until = int(special[0]) if len(special) else count
        # The first code defines nothing; each one after it an entry, which it may be itself.
        defined = np.maximum(_FIRST - 1 + np.arange(until), 255)
        if (codes[:until] > np.where(np.arange(until) == 0, 255, defined)).any():
            return False
        if not len(special):
            return count < len(_PLACES)  # a full table has to be cleared
        if codes[until] == _END:
            return True
        at += int(_PLACES[until] + _WIDTHS[until])
    return True


def _codes(padded: np.ndarray, at: int, count: int) -> np.ndarray:
    """The first codes after a clear code that ends at bit `at`."""
    places, widths = at + _PLACES[:count], _WIDTHS[:count]
    byte = places >> 3
    window = (padded[byte] << 16) | (padded[byte + 1] << 8) | padded[byte + 2]
    codes: np.ndarray = (window >> (24 - (places & 7) - widths)) & ((1 << widths) - 1)
    return codes
