"""What the launchers share: in which order the jobs of a sweep are started, what is shown of them, what Ctrl-C does.

A launcher only says whether there is room for a job, starts it, tells whether it has ended, and stops it.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from ktb.cli.hydra_flags import config_dir
from ktb.config.compose import groups
from ktb.errors import ConfigError
from ktb.sweeps import processes
from ktb.sweeps.folder import SweepFolder, job_name
from ktb.sweeps.job import SweepJob
from ktb.sweeps.signals import Signals


class ProcessLauncher(Launcher):
    """What launchers share.

    Those of other packages (joblib, Ray, ...) work too, through `ktb.cli.hydra_command`, without resuming by overrides
    and without the display.
    """

    poll_s = 0.2
    detaches = False
    """Its jobs do not need this process: a signal ends the watching, not the jobs."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config
        self.command = str(config.hydra.job.name)
        self.program = processes.program(self.command)
        own = config_dir()
        self.flags = ["--config-dir", str(Path(own).absolute())] if own else []
        # hydra.verbose=true and the like are for the jobs; where and how they run is not.
        given = [str(text) for text in config.hydra.overrides.hydra]
        ours = ("hydra.sweep", "hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.mode", "hydra.run")
        self.flags += [text for text in given if not text.lstrip("+~").startswith(ours)]
        self.sweep = SweepFolder(Path(config.hydra.sweep.dir))
        self._needs: dict[tuple[str, ...], tuple[Any, int]] = {}
        jobs = config.hydra.launcher.jobs
        if jobs is not None and (not isinstance(jobs, int) or jobs < 1):
            raise ConfigError(f"jobs={jobs}: expected a number, 1 or more, or null")

    # ---- what a launcher says

    def room(self) -> int:
        """How many jobs may run at once at most."""
        raise NotImplementedError

    def check(self, job: SweepJob) -> None:
        """Refuse a job that can never start; called for all of them before the first one starts.

        Raises:
            ConfigError: what it needs and what there is.
        """

    def alive(self) -> Callable[[SweepJob], bool]:
        """Tells of a job whose record says "running" whether it still does, though this process did not start it."""
        return lambda job: False

    def left_behind(self) -> str:
        """What is said when a launcher that `detaches` is left."""
        raise NotImplementedError

    def start(self, job: SweepJob) -> bool:
        """Start a job; False: what it needs is not free now."""
        raise NotImplementedError

    def ended(self, job: SweepJob) -> bool:
        """Whether a job that was started has ended, and its record says how."""
        raise NotImplementedError

    def stop(self, job: SweepJob, sign: int) -> None:
        """SIGTERM: let it write its checkpoint and end; `SIGKILL`: end it."""
        raise NotImplementedError

    # ---- what is the same for all

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch of jobs to its end. A failed one does not raise: it is in its record and has been printed."""
        parser = OverridesParser.create()
        task = parser.parse_overrides([str(text) for text in self.config.hydra.overrides.task])
        swept = [o.get_key_element() for o in task if o.is_sweep_override()] or ["seed"]
        known = list(groups(self.command.removeprefix("ktb-")))
        wanted = [(job_name(given, swept, known), list(given)) for given in job_overrides]
        jobs = self.sweep.add(wanted, self.alive())
        different = list(dict.fromkeys(jobs))  # seed=1,1 is one job, and two would write into its folder at once
        for job in different:
            if not job.is_done():
                self.check(job)
        self.run(iter(different), len(different))
        return [JobReturn(job.overrides, status=JobStatus.COMPLETED, _return_value=job.status) for job in jobs]

    def needs(self, job: SweepJob) -> tuple[Any, int]:
        """trainer.devices and trainer.num_nodes of the job's composed configuration."""
        deciding = tuple(text for text in job.overrides if text.lstrip("+~").startswith(("trainer", "experiment")))
        if deciding not in self._needs:  # composing takes a third of a second
            cfg = self.hydra_context.config_loader.load_sweep_config(self.config, list(deciding))
            self._needs[deciding] = (
                OmegaConf.select(cfg, "trainer.devices"),
                OmegaConf.select(cfg, "trainer.num_nodes"),
            )
        return self._needs[deciding]

    def run(
        self,
        jobs: Iterator[SweepJob],
        total: int,
        *,
        ahead: bool = True,
        watch: Callable[[SweepJob], str | None] = lambda job: None,
        done: Callable[[SweepJob], None] = lambda job: None,
    ) -> None:
        """Run jobs, as many at once as there is room for, in order; one that does not fit lets later ones pass.

        Args:
            jobs: taken as needed: all at once, or with ahead=False each when there is room for it.
            total: how many `jobs` will yield.
            watch: asked about every running job; a text stops the job, and is why.
            done: told of every job that has ended, those that had finished before too.

        Raises:
            Interrupted: after a signal, when the jobs that ran have stopped. A second signal kills them.
        """
        from hydra_plugins._ktb_run import SweepRun  # with the display: not needed to look for plugins

        work = SweepRun(self, jobs, total, ahead=ahead, watch=watch, done=done)
        with self._stopping(work.running), Signals() as signals, work.progress:
            while True:
                work.step(signals)
                if work.is_over():
                    return
                time.sleep(self.poll_s)

    @contextlib.contextmanager
    def _stopping(self, running: list[SweepJob]) -> Iterator[None]:
        """No job outlives an error of ours."""
        try:
            yield
        except BaseException:
            if not self.detaches:
                for job in running:
                    self.stop(job, signal.SIGTERM)
                while running := [job for job in running if not self.ended(job)]:
                    time.sleep(self.poll_s)
            raise
