"""Hydra launchers that give every job of a sweep a process of its own: on this machine, on its GPUs, through Slurm.

What they share is here once: which jobs are left to do, what is shown, what Ctrl-C does. A launcher only says whether
there is room for a job, starts it, tells whether it has ended, and stops it. `register` makes Hydra know them, from a
checkout as well as from a wheel.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from ktb.cli.hydra_flags import config_dir
from ktb.config.compose import groups
from ktb.data.cores import usable_cores
from ktb.errors import ConfigError
from ktb.run_folder.names import LOG
from ktb.sweeps import folder as sweep
from ktb.sweeps.folder import Interrupted, Job, Sweep


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
        self.program = sweep.program(self.command)
        own = config_dir()
        self.flags = ["--config-dir", str(Path(own).absolute())] if own else []
        # hydra.verbose=true and the like are for the jobs; where and how they run is not.
        given = [str(text) for text in config.hydra.overrides.hydra]
        ours = ("hydra.sweep", "hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.mode", "hydra.run")
        self.flags += [text for text in given if not text.lstrip("+~").startswith(ours)]
        self.sweep = Sweep(Path(config.hydra.sweep.dir))
        self._needs: dict[tuple[str, ...], tuple[Any, int]] = {}
        jobs = config.hydra.launcher.jobs
        if jobs is not None and (not isinstance(jobs, int) or jobs < 1):
            raise ConfigError(f"jobs={jobs}: expected a number, 1 or more, or null")

    # ---- what a launcher says

    def room(self) -> int:
        """How many jobs may run at once at most."""
        raise NotImplementedError

    def check(self, job: Job) -> None:
        """Refuse a job that can never start; called for all of them before the first one starts.

        Raises:
            ConfigError: what it needs and what there is.
        """

    def alive(self) -> Callable[[Job], bool]:
        """Tells of a job whose record says "running" whether it still does, though this process did not start it."""
        return lambda job: False

    def left_behind(self) -> str:
        """What is said when a launcher that `detaches` is left."""
        raise NotImplementedError

    def start(self, job: Job) -> bool:
        """Start a job; False: what it needs is not free now."""
        raise NotImplementedError

    def ended(self, job: Job) -> bool:
        """Whether a job that was started has ended, and its record says how."""
        raise NotImplementedError

    def stop(self, job: Job, sign: int) -> None:
        """SIGTERM: let it write its checkpoint and end; `sweep.SIGKILL`: end it."""
        raise NotImplementedError

    # ---- what is the same for all

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch of jobs to its end. A failed one does not raise: it is in its record and has been printed."""
        parser = OverridesParser.create()
        task = parser.parse_overrides([str(text) for text in self.config.hydra.overrides.task])
        swept = [o.get_key_element() for o in task if o.is_sweep_override()] or ["seed"]
        known = list(groups(self.command.removeprefix("ktb-")))
        wanted = [(sweep.job_name(given, swept, known), list(given)) for given in job_overrides]
        jobs = self.sweep.add(wanted, self.alive())
        for job in jobs:
            if not job.is_done():
                self.check(job)
        self.run(iter(jobs), len(jobs))
        return [JobReturn(job.overrides, status=JobStatus.COMPLETED, _return_value=job.status) for job in jobs]

    def needs(self, job: Job) -> tuple[Any, int]:
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
        jobs: Iterator[Job],
        total: int,
        *,
        ahead: bool = True,
        watch: Callable[[Job], str | None] = lambda job: None,
        done: Callable[[Job], None] = lambda job: None,
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
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        waiting: list[Job] = []
        running: list[Job] = []
        stopped: dict[str, str | None] = {}  # name → why
        finished = failed = kept = 0
        source: Iterator[Job] | None = jobs
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        )  # fmt: skip
        with self._stopping(running), _Signals() as signals, Progress(*columns, console=console) as progress:
            bar = progress.add_task("", total=total)

            def say(job: Job, text: str) -> None:
                console.print(f"{self.command}: {job}: {text}", markup=False, highlight=False, soft_wrap=True)

            def show() -> None:
                left = max(0, total - finished - failed - kept - len(running))
                parts = {"finished": finished + kept, "running": len(running), "failed": failed, "pending": left}
                text = ", ".join(f"{n} {state}" for state, n in parts.items())
                progress.update(bar, completed=finished + failed + kept, description=text)

            while True:
                while source is not None and not signals.seen and (ahead or len(running) + len(waiting) < self.room()):
                    job = next(source, None)
                    if job is None:
                        source = None
                    elif job.is_done():
                        kept += 1
                        done(job)
                    else:
                        waiting.append(job)
                for job in list(waiting):
                    if signals.seen or len(running) >= self.room():
                        break
                    if self.start(job):
                        waiting.remove(job)
                        running.append(job)
                for job in list(running):
                    if not self.ended(job):
                        if str(job) not in stopped and (why := watch(job)):
                            stopped[str(job)] = why
                            self.stop(job, signal.SIGTERM)
                        continue
                    running.remove(job)
                    if job.status == "finished":
                        finished += 1
                        say(job, f"finished{_score(job)}")
                    elif job.status == "failed":
                        failed += 1
                        say(job, f"failed: {job.record['error']} ({job.folder / LOG})")
                    elif why := stopped.get(str(job)):
                        finished += 1
                        job.write(error=why)
                        say(job, why)
                    elif not signals.seen:  # someone else ended it: scancel
                        say(job, str(job.record["error"]))
                    done(job)
                show()
                if signals.seen and self.detaches:
                    console.print(self.left_behind(), markup=False, highlight=False, soft_wrap=True)
                    running.clear()
                    raise Interrupted(signals.seen)
                if signals.seen:
                    for job in running:
                        if str(job) not in stopped:
                            stopped[str(job)] = None
                            self.stop(job, signal.SIGTERM)
                        elif signals.insisted:
                            self.stop(job, sweep.SIGKILL)
                    if not running:
                        raise Interrupted(signals.seen)
                    if not signals.said:
                        signals.said = True
                        console.print(
                            f"{self.command}: stopping {len(running)} running jobs, which write a checkpoint; once "
                            "more kills them", markup=False, highlight=False, soft_wrap=True,
                        )  # fmt: skip
                if not running and not waiting and source is None:
                    return
                time.sleep(self.poll_s)

    @contextlib.contextmanager
    def _stopping(self, running: list[Job]) -> Iterator[None]:
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


class PoolLauncher(ProcessLauncher):
    """Jobs on this machine: `jobs` at once, or as many as there are GPUs for.

    Args:
        jobs: how many at once at most; null: one, or with gpus as many as fit.
        gpus: null: jobs share what there is | auto: each job gets GPUs of its own, as many as its trainer.devices says,
            out of all that are visible | a number, or a list of indices or UUIDs, to take them from.
    """

    def __init__(self, jobs: int | None = None, gpus: str | int | list[str | int] | None = None) -> None:
        self.jobs = jobs
        self.given = gpus
        self.processes: dict[Job, subprocess.Popen[bytes]] = {}
        self.held: dict[Job, list[str]] = {}
        self.asked: set[Job] = set()
        self.wanted: dict[Job, int] = {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.gpus = None if self.given is None else _gpus(self.given)
        self.free = list(self.gpus or ())

    def room(self) -> int:
        return self.jobs or max(1, len(self.gpus or ()))

    def check(self, job: Job) -> None:
        if self.gpus is None:
            return
        devices, nodes = self.needs(job)
        everything = devices in ("auto", -1, "-1")
        if nodes != 1:
            raise ConfigError(f"{job}: trainer.num_nodes={nodes}, but launcher=gpus runs jobs on one machine")
        if not everything and not str(devices).isdigit():
            raise ConfigError(f"{job}: trainer.devices={devices}: expected a number; the launcher picks which GPUs")
        self.wanted[job] = len(self.gpus) if everything else int(devices)
        if self.wanted[job] > len(self.gpus):
            raise ConfigError(f"{job}: trainer.devices={devices}, but the pool has {len(self.gpus)} GPUs")

    def start(self, job: Job) -> bool:
        env = sweep.environment()
        env.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // self.room())))
        if self.gpus is not None:
            if job not in self.wanted:
                self.check(job)
            count = self.wanted[job]
            if count > len(self.free):
                return False
            self.held[job], self.free = self.free[:count], self.free[count:]
            env["CUDA_VISIBLE_DEVICES"] = ",".join(self.held[job])
        self.processes[job] = sweep.start(job, job.command(self.program, *self.flags), env)
        return True

    def ended(self, job: Job) -> bool:
        code = self.processes[job].poll()
        if code is None:
            return False
        del self.processes[job]
        self.free += self.held.pop(job, [])
        job.end(code, stopped=job in self.asked)
        self.asked.discard(job)
        return True

    def stop(self, job: Job, sign: int) -> None:
        self.asked.add(job)
        if sign == sweep.SIGKILL and hasattr(os, "killpg"):
            os.killpg(self.processes[job].pid, sign)  # its ranks and loaders too
        else:
            self.processes[job].send_signal(sign)  # it tells its ranks


class SlurmLauncher(ProcessLauncher):
    """Every job a Slurm job, submitted through submitit, with one task per process of its trainer.

    trainer.num_nodes and trainer.devices say how many nodes and tasks per node. The jobs do not need this process,
    which only watches them: after a Ctrl-C the same command watches them again, and submits what is missing. Before
    the time limit (SIGUSR2, `signal_delay_s` before) and when Slurm preempts (SIGTERM) a job writes a checkpoint; it
    is queued again, and goes on from there.

    Args:
        jobs: how many are submitted at a time; null: all.
        gpus: whether to ask for trainer.devices GPUs per node.
        timeout_min: time limit.
        max_num_timeout: how often a job is queued again after its time limit.
        parameters: anything else that submitit's Slurm executor takes, as it calls it: partition, account, mem, ...
    """

    poll_s = 2.0
    detaches = True

    def __init__(
        self, jobs: int | None, gpus: bool, timeout_min: int, max_num_timeout: int, parameters: dict[str, Any]
    ) -> None:
        self.jobs = jobs
        self.gpus = gpus
        self.timeout_min = timeout_min
        self.max_num_timeout = max_num_timeout
        given = OmegaConf.to_container(OmegaConf.create(parameters))
        assert isinstance(given, dict)
        self.parameters = {str(key): value for key, value in given.items() if value is not None}
        self._queue: tuple[float, dict[str, str] | None] = (float("-inf"), None)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        try:
            import submitit
        except ImportError:
            raise ConfigError("launcher=slurm needs submitit: pip install 'ktb[slurm]'") from None
        try:
            self.executor = submitit.SlurmExecutor(
                folder=self.sweep.folder / ".submitit" / "%j", max_num_timeout=self.max_num_timeout
            )
            self.executor.update_parameters(**self.parameters)
        except RuntimeError:
            raise ConfigError("launcher=slurm: no srun on this machine; launcher=local runs jobs here") from None
        except ValueError as error:
            first, _, valid = str(error).partition("\n")
            names = ", ".join(line.split()[1] for line in valid.splitlines()[1:])
            raise ConfigError(f"launcher.parameters: {first} (there are: {names})") from None

    def room(self) -> int:
        return self.jobs or 10**6

    def check(self, job: Job) -> None:
        devices, nodes = self.needs(job)
        if not str(devices).isdigit() or int(devices) < 1:
            raise ConfigError(f"{job}: trainer.devices={devices}: expected the number of processes per node")

    def alive(self) -> Callable[[Job], bool]:
        return lambda job: job.record.get("slurm_job") in self.queue()

    def start(self, job: Job) -> bool:
        if job.record.get("slurm_job") in self.queue():
            return True  # submitted by an earlier invocation
        devices, nodes = self.needs(job)
        self.executor.update_parameters(
            time=self.timeout_min, nodes=nodes, ntasks_per_node=int(devices), job_name=f"{self.sweep.folder.name}/{job}"
        )
        if self.gpus:
            self.executor.update_parameters(gpus_per_node=int(devices))
        task = SlurmTask(job.folder, job.overrides, [*self.program, *self.flags], nodes * int(devices))
        job.write(status="pending", slurm_job=None)
        try:
            number = self.executor.submit(task).job_id
        except Exception as error:  # submitit raises what sbatch said in several ways
            said = [line for line in str(error).splitlines() if "error" in line.lower()] or str(error).splitlines()
            raise ConfigError(f"{job}: sbatch refused it: {said[-1] if said else type(error).__name__}") from None
        job.write(slurm_job=number)
        self._queue = (float("-inf"), {**self.queue(), number: "PENDING"})
        return True

    def ended(self, job: Job) -> bool:
        if job.record["slurm_job"] in self.queue():
            return False
        job.reload()
        if job.status in ("pending", "running"):
            number = job.record["slurm_job"]
            job.end(1, error=f"Slurm job {number} ended without a word: out of time, out of memory, or cancelled")
        return True

    def stop(self, job: Job, sign: int) -> None:
        subprocess.run(["scancel", str(job.record["slurm_job"])], capture_output=True, check=False)

    def left_behind(self) -> str:
        names = f"scancel --name={self.sweep.folder.name}/JOB"
        return f"{self.command}: submitted jobs stay with Slurm ({names} ends one); the same command watches them again"

    def queue(self) -> dict[str, str]:
        """Slurm's jobs that have not ended → their state, as of at most some seconds ago.

        Raises:
            ConfigError: Slurm cannot be asked, and has not been yet: then nothing is known of jobs that may be at work.
        """
        asked, states = self._queue
        if states is None or time.monotonic() - asked > self.poll_s:
            done = subprocess.run(
                ["squeue", "--me", "-h", "-o", "%i %T"], capture_output=True, encoding="utf-8", errors="replace"
            )
            if done.returncode == 0:
                over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
                states = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
                states = {number: state for number, state in states.items() if state not in over}
            elif states is None:
                said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
                raise ConfigError(f"launcher=slurm: squeue does not tell which jobs run ({said}); try again later")
            # Otherwise the controller is away for a moment: what was known stays.
            self._queue = (time.monotonic(), states)
        return states


class SlurmTask:
    """What submitit runs in every task of a job: one process of the job, and its record in the first task."""

    def __init__(self, folder: Path, overrides: Sequence[str], program: Sequence[str], tasks: int) -> None:
        self.folder = folder
        self.overrides = list(overrides)
        self.program = list(program)
        self.tasks = tasks

    def __call__(self) -> int:
        job = Job(self.folder, self.overrides)
        env = sweep.environment(slurm=self.tasks > 1)
        rank = int(os.environ.get("SLURM_PROCID", "0"))
        command = job.command(self.program)
        if rank:
            with (self.folder / f"log_{rank}.txt").open("ab") as log:
                return subprocess.run(command, stdout=log, stderr=log, env=env, check=False).returncode
        self.running = sweep.start(job, command, env)
        code = self._code()
        if code in sweep.STOPPED:
            # Slurm stopped it and queues it again itself, or ends it. Ending first would make the job a finished one.
            job.end(code, stopped=True)
            time.sleep(self.grace_s)
        else:
            job.end(code)
        return code

    grace_s = 300.0

    def checkpoint(self) -> Any:
        """Called by submitit when the time is up or Slurm preempts, before it has the job queued again."""
        import submitit

        os.kill(self.running.pid, signal.SIGTERM)  # not yet reaped, so still its own id
        Job(self.folder, self.overrides).end(self._code(), stopped=True)
        again = SlurmTask(self.folder, self.overrides, self.program, self.tasks)
        return submitit.helpers.DelayedSubmission(again)

    def _code(self) -> int:
        """Exit code of the process, once it has ended; without `Popen.wait`, whose lock a signal handler that waits for
        the same process would wait for in vain."""
        ended = os.waitid(os.P_PID, self.running.pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


class _Signals:
    """Takes SIGINT, SIGTERM and SIGHUP while a sweep runs: the first stops it, a second one, later, insists."""

    def __init__(self) -> None:
        self.seen = 0
        self.insisted = False
        self.said = False
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            # Windows has no SIGHUP.
            for sign in filter(None, (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", None))):
                self._before[sign] = signal.signal(sign, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for sign, handler in self._before.items():
            signal.signal(sign, handler)

    def _take(self, sign: int, frame: FrameType | None) -> None:
        if not self.seen:
            self.seen, self._since = sign, time.monotonic()
        elif time.monotonic() - self._since > 0.5:  # not the same key press, delivered twice
            self.insisted = True


def _gpus(gpus: str | int | list[str | int]) -> list[str]:
    """The devices of a pool, as CUDA_VISIBLE_DEVICES writes them."""
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if OmegaConf.is_config(gpus) or isinstance(gpus, list | tuple):
        found = [str(name) for name in gpus]  # type: ignore[union-attr]
    elif gpus == "auto":
        if not visible:
            import torch  # asks the driver without taking memory on a GPU

            visible = [str(index) for index in range(torch.cuda.device_count())]
        found = visible
    elif isinstance(gpus, int) and not isinstance(gpus, bool):
        found = visible[:gpus] if visible else [str(index) for index in range(gpus)]
    else:
        raise ConfigError(f"launcher.gpus={gpus}: expected auto, a number, or a list like [0,2]")
    if not found:
        raise ConfigError("launcher=gpus: no GPU is visible here; launcher=local shares the processor")
    if len(set(found)) < len(found):
        raise ConfigError(f"launcher.gpus={found}: a GPU appears twice")
    return found


def _score(job: Job) -> str:
    miou = job.result.get("metrics", {}).get("miou")
    return "" if miou is None else f", mIoU {100 * miou:.2f} %"
