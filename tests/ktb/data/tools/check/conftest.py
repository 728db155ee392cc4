"""A small data set in the layout of NYU, for the tests of `ktb-data check`."""

from __future__ import annotations

import pytest

from ktb.data.tools.fixtures import make_fixture
from tests.ktb.data.tools.check.reports import SIZE


@pytest.fixture
def nyu(tmp_path):
    return make_fixture("nyu", tmp_path / "nyu", counts={"train": 3, "test": 2}, size=SIZE)
