"""Work on many files in several processes: every outcome comes, and a killed process ends in one line."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from ktb.data.tools.parallel import Outcome, parallel
from ktb.errors import KTBError

PATHS = [Path(f"{i}.png") for i in range(7)]


def name(path: Path, *, suffix: str = "") -> Outcome:
    return Outcome(path, "written", f"{path.stem}{suffix}")


def die(path: Path) -> Outcome:
    os._exit(9)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_has_its_outcome(workers: int) -> None:
    found = sorted(parallel(partial(name, suffix="!"), PATHS, workers), key=lambda outcome: outcome.path)
    assert found == [Outcome(path, "written", f"{i}!") for i, path in enumerate(PATHS)]


def test_a_killed_worker_ends_in_one_line() -> None:
    with pytest.raises(KTBError, match=r"a worker process was killed.*fewer --workers"):
        list(parallel(die, PATHS, workers=2))
