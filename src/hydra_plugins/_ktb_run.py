"""One pass over the jobs of a sweep: which wait, which run, how many have ended, and the display of it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ktb.run_folder.names import LOG
from ktb.sweeps.job import SIGKILL, SweepJob
from ktb.sweeps.signals import Interrupted, Signals

if TYPE_CHECKING:
    from hydra_plugins._ktb_processes import ProcessLauncher


class SweepRun:
    """The jobs that a launcher runs, from the first to the last.

    Args:
        launcher: starts the jobs, and tells which have ended.
        jobs: taken as needed: all at once, or with ahead=False each when there is room for it.
        total: how many `jobs` will yield.
        ahead: whether to take jobs before there is room for them.
        watch: asked about every running job; a text stops the job, and is why.
        done: told of every job that has ended, those that had finished before too.
    """

    def __init__(
        self,
        launcher: ProcessLauncher,
        jobs: Iterator[SweepJob],
        total: int,
        *,
        ahead: bool,
        watch: Callable[[SweepJob], str | None],
        done: Callable[[SweepJob], None],
    ) -> None:
        self.launcher = launcher
        self.source: Iterator[SweepJob] | None = jobs
        self.total = total
        self.ahead = ahead
        self.watch = watch
        self.done = done
        self.waiting: list[SweepJob] = []
        self.running: list[SweepJob] = []
        self.stopped: dict[str, str | None] = {}  # name → why
        self.finished = self.failed = self.kept = 0
        self.console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=self.console,
        )  # fmt: skip
        self.bar = self.progress.add_task("", total=total)

    def is_over(self) -> bool:
        """Whether no job is left."""
        return not self.running and not self.waiting and self.source is None

    def step(self, signals: Signals) -> None:
        """Take and start what there is room for, look after what runs, and do what a signal asks for.

        Raises:
            Interrupted: after a signal, when the jobs that ran have stopped, or need not.
        """
        self._take(signals)
        self._start(signals)
        for job in list(self.running):
            self._look_after(job, told=not signals.seen)
        self._show()
        if signals.seen:
            self._stop(signals)

    def _take(self, signals: Signals) -> None:
        """Take jobs from the source until a signal arrives, and with ahead=False while there is room for them."""
        while self.source is not None and not signals.seen:
            if not self.ahead and len(self.running) + len(self.waiting) >= self.launcher.room():
                break
            job = next(self.source, None)
            if job is None:
                self.source = None
            elif job.is_done():
                self.kept += 1
                self.done(job)
            else:
                self.waiting.append(job)

    def _start(self, signals: Signals) -> None:
        """Start waiting jobs until a signal arrives, as many as there is room for."""
        for job in list(self.waiting):
            if signals.seen or len(self.running) >= self.launcher.room():
                break
            if self.launcher.start(job):
                self.waiting.remove(job)
                self.running.append(job)

    def _look_after(self, job: SweepJob, *, told: bool) -> None:
        """Stop a running job if `watch` says so; count one that has ended. told: say so of one that someone else
        ended (scancel)."""
        if not self.launcher.ended(job):
            if str(job) not in self.stopped and (why := self.watch(job)):
                self.stopped[str(job)] = why
                self.launcher.stop(job, signal.SIGTERM)
            return
        self.running.remove(job)
        if job.status == "finished":
            self.finished += 1
            self._say(job, f"finished{_score(job)}")
        elif job.status == "failed":
            self.failed += 1
            self._say(job, f"failed: {job.record['error']} ({job.folder / LOG})")
        elif why := self.stopped.get(str(job)):
            self.finished += 1
            job.write(error=why)
            self._say(job, why)
        elif told:
            self._say(job, str(job.record["error"]))
        self.done(job)

    def _stop(self, signals: Signals) -> None:
        """Ask the running jobs to end; after a second signal, end them."""
        if self.launcher.detaches:
            self._print(self.launcher.left_behind())
            self.running.clear()
        for job in self.running:
            if str(job) not in self.stopped:
                self.stopped[str(job)] = None
                self.launcher.stop(job, signal.SIGTERM)
            elif signals.insisted:
                self.launcher.stop(job, SIGKILL)
        if not self.running:
            raise Interrupted(signals.seen)
        if not signals.said:
            signals.said = True
            self._print(
                f"{self.launcher.command}: stopping {len(self.running)} running jobs, which write a checkpoint; once "
                "more kills them"
            )

    def _show(self) -> None:
        ended = self.finished + self.failed + self.kept
        left = max(0, self.total - ended - len(self.running))
        parts = {
            "finished": self.finished + self.kept,
            "running": len(self.running),
            "failed": self.failed,
            "pending": left,
        }
        text = ", ".join(f"{number} {state}" for state, number in parts.items())
        self.progress.update(self.bar, completed=ended, description=text)

    def _say(self, job: SweepJob, text: str) -> None:
        self._print(f"{self.launcher.command}: {job}: {text}")

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _score(job: SweepJob) -> str:
    miou = job.result.get("metrics", {}).get("miou")
    return "" if miou is None else f", mIoU {100 * miou:.2f} %"
