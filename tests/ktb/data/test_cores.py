"""The number of cores where the system tells which this process may use, and where it does not."""

from __future__ import annotations

import os

import pytest

from ktb.data.cores import usable_cores


def test_cores_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5}, raising=False)
    assert usable_cores() == 3


@pytest.mark.parametrize(("told", "cores"), [(6, 6), (None, 1)])
def test_cores_where_the_system_tells_only_how_many_there_are(
    told: int | None, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: told)
    assert usable_cores() == cores
