"""Fixtures that tests of several rooms share."""

from __future__ import annotations

import logging
import multiprocessing.forkserver
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real sample data beside the checkout (or KTB_SHARED); tests that need it skip where there is none."""
    folder = Path(os.environ.get("KTB_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real samples in {folder}")
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", type=int, metavar="N", help="of every file the first N tests that are not slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files with slow tests first: the process that met them last would end alone.

    And with --quick, as a first answer while working: a few tests of every room instead of all of them.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    if (most := config.getoption("--quick")) is None:
        return
    taken: Counter[Path] = Counter()
    kept = []
    for item in items:
        if item.get_closest_marker("slow") is None and taken[item.path] < most:
            taken[item.path] += 1
            kept.append(item)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def pytest_configure() -> None:
    """A job in the background of a script ignores Ctrl-C, and so would the commands that tests start and interrupt."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def one_fork_server() -> None:
    """What the processes of all tests have imported when they begin.

    A fork server imports once, what its first user names. Those of a later user, who named something else, each import
    PyTorch for themselves, in some seconds.
    """
    every = ["ktb.jobs.train", "ktb.data.sets.synthetic", "ktb.data.tools.check.look", "ktb.data.tools.new.survey"]
    multiprocessing.forkserver.set_forkserver_preload(every)
    multiprocessing.forkserver.set_forkserver_preload = lambda modules_names: None


@pytest.fixture(autouse=True)
def lightning_says_all() -> None:
    """A training makes Lightning say less for the rest of its process; every test begins as a process does."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.INFO)


@pytest.fixture(autouse=True)
def nobodys_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose classes a process has looked for decides what it calls an error in the user's own code."""
    monkeypatch.setattr("ktb.models.imports._own", set())


@pytest.fixture
def little_memory() -> Iterator[None]:
    """While a test runs, asking for 8 GiB of memory more than this process has now fails."""
    import resource  # not on Windows

    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
