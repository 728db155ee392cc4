"""A data root with RGB, another modality and labels, for the tests of what reads it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ktb.data.written import save


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        save(tmp_path / f"rgb/{i}.png", rng.integers(0, 256, (40, 48, 3), np.uint8))
        save(tmp_path / f"x/{i}.png", rng.integers(0, 256, (20, 24), np.uint8))
        save(tmp_path / f"label/{i}.png", rng.integers(0, 3, (40, 48), np.uint8))
    return tmp_path
