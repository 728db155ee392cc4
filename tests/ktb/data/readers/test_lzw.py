"""LZW data that the decoder may be given."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest

from ktb.data.readers.lzw import is_decodable


def packed(*codes: int) -> bytes:
    """Codes of 9 bits, most significant bits first."""
    text = "".join(f"{code:09b}" for code in codes)
    return int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")


@pytest.mark.parametrize("size", [1, 10, 1000, 5000, 100_000])
@pytest.mark.parametrize("values", [1, 3, 256])
def test_what_an_encoder_writes_is_decodable(size: int, values: int) -> None:
    data = np.random.default_rng(size).integers(0, values, size, np.uint8).tobytes()
    encoded = imagecodecs.lzw_encode(data)
    assert is_decodable(encoded)
    assert is_decodable(encoded[: len(encoded) // 2 + 2])  # cut short: what there is, is defined
    assert imagecodecs.lzw_decode(encoded) == data


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ((256, 65, 66, 258, 257), True),
        ((256, 65, 258, 257), True),  # an entry that its own code defines
        ((256, 65, 259, 257), False),  # defined by nothing
        ((256, 258, 257), False),
        ((256, 65, 256, 258, 257), False),  # cleared in between
        ((256, 256, 65, 257), True),
        ((256, 257), True),
        ((65, 66, 257), False),  # begins with no clear code
    ],
)
def test_codes_are_followed_to_where_they_were_defined(codes: tuple[int, ...], expected: bool) -> None:
    assert is_decodable(packed(*codes)) == expected
