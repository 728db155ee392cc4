"""A small folder of one's own data, for the tests of `dataset=folder`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.ktb.data.sets.own import SIZE, STEMS
from tests.ktb.data.written import save


@pytest.fixture
def root(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for stem in STEMS:
        save(tmp_path / f"rgb/{stem}.png", rng.integers(0, 256, (*SIZE, 3), np.uint8))
        save(tmp_path / f"disparity/{stem}.png", rng.integers(1, 65536, SIZE).astype(np.uint16))
        save(tmp_path / f"label/{stem}.png", rng.integers(0, 2, SIZE, np.uint8))
    (tmp_path / "train.txt").write_text("a_01\nb_02\na_02\n")
    (tmp_path / "val.txt").write_text("b_01\n")
    return tmp_path
