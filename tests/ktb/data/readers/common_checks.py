"""What the tests of the readers share: one source of random values, and the one line of an error."""

from __future__ import annotations

import numpy as np
import pytest

from ktb.errors import DataError

RNG = np.random.default_rng(0)


def message(call, *args) -> str:
    """The error's message, which must be one line that begins with the file."""
    with pytest.raises(DataError) as caught:
        call(*args)
    text = str(caught.value)
    assert "\n" not in text
    path = args[0][0] if isinstance(args[0], list) else args[0]
    assert text.startswith(str(path)), text
    return text
