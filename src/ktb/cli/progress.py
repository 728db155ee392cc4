"""Work on many files, shown as it goes on and summed up at its end."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from ktb.data.tools.parallel import Outcome
from ktb.errors import DataError

_T = TypeVar("_T")

FAILED_FILES = 1
"""Exit code when some files failed and all others are done."""


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "", style="progress.data.speed")


COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
"""Of a progress bar."""


def watch(outcomes: Iterable[Outcome], total: int, title: str) -> list[Outcome]:
    """All of `outcomes`, with a progress bar on standard error.

    Args:
        outcomes: come as the work goes on.
        total: how many there will be.
        title: stands before the bar, with the number of failures.
    """
    seen = []
    failed = 0
    with Progress(*COLUMNS, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total)
        for outcome in outcomes:
            seen.append(outcome)
            failed += outcome.state == "failed"
            progress.update(task, advance=1, description=f"{title} ({failed} failed)" if failed else title)
    return seen


def watched(items: Iterable[_T], total: int, title: str) -> Iterator[_T]:
    """Items, with a progress bar on standard error.

    Args:
        items: come as the work goes on.
        total: how many there will be.
        title: stands before the bar.
    """
    with Progress(*COLUMNS, console=Console(stderr=True)) as progress:
        yield from progress.track(items, total=total, description=title)


def print_outcomes(outcomes: Sequence[Outcome], where: str) -> int:
    """Print everything odd, one line each, to standard error, then the sum.

    Args:
        outcomes: of all files.
        where: stands before the sum.

    Returns:
        The exit code: `FAILED_FILES` if any failed, else 0.
    """
    for outcome in sorted(outcomes, key=lambda o: str(o.path)):
        if outcome.message:
            print(f"{outcome.state}: {outcome.message}", file=sys.stderr)
    count = Counter(outcome.state for outcome in outcomes)
    print(f"{where}: {count['written']} written, {count['kept']} kept, {count['failed']} failed")
    return FAILED_FILES if count["failed"] else 0


def make_folder(path: Path) -> None:
    """Make a folder for results, with those around it.

    Raises:
        DataError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be made a folder for the results ({error.strerror})") from None
