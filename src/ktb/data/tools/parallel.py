"""Work on many files at once in several processes, going on where one of them fails."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import cv2

from ktb.data.cores import usable_cores
from ktb.errors import KTBError

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes:
        path: the file.
        state: "written", "kept" (it was there already) or "failed".
        message: why it failed, or what is odd about it.
    """

    path: Path
    state: Literal["written", "kept", "failed"]
    message: str = ""


def parallel(work: Callable[[T], Outcome], jobs: Sequence[T], workers: int | None = None) -> Iterator[Outcome]:
    """Work on many jobs in several processes.

    Args:
        work: a picklable function; what the user can mend it reports as an `Outcome`, anything it raises ends the
            whole.
        jobs: its arguments.
        workers: processes; None: one per usable core. One worker, or one job, runs in this process.

    Yields:
        The outcomes, in the order in which the jobs finish.

    Raises:
        KTBError: a process was killed.
    """
    workers = min(workers or usable_cores(), len(jobs))
    if workers <= 1:
        yield from map(work, jobs)
        return
    # This process has threads (progress bar, OpenMP), so it must not be forked. A fork server imports once for all.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(
            [getattr(work, "func", work).__module__]
        )  # `func` is what a functools.partial calls
    pool = ProcessPoolExecutor(workers, context, _single_threaded)
    try:
        for future in as_completed([pool.submit(work, job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool:
        raise KTBError(
            "a worker process was killed, most likely for want of memory: try again with fewer --workers; "
            "files already written are complete and are kept"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _single_threaded() -> None:
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which lets running jobs finish
