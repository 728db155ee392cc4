"""Hydra launchers that give every job of a sweep a process of its own: on this machine, on its GPUs, through Slurm.

Configurations, and jobs that wait in Slurm's queue, look for them in this module. What they share is in a module that
begins with an underscore: Hydra would run it again when it looks for plugins, and define its classes twice.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins._ktb_processes import ProcessLauncher
from ktb.data.cores import usable_cores
from ktb.errors import ConfigError
from ktb.sweeps import processes
from ktb.sweeps.job import SIGKILL, STOPPED, SweepJob


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
        self.processes: dict[SweepJob, subprocess.Popen[bytes]] = {}
        self.held: dict[SweepJob, list[str]] = {}
        self.asked: set[SweepJob] = set()
        self.wanted: dict[SweepJob, int] = {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.gpus = None if self.given is None else _gpus(self.given)
        self.free = list(self.gpus or ())

    def room(self) -> int:
        return self.jobs or max(1, len(self.gpus or ()))

    def check(self, job: SweepJob) -> None:
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

    def start(self, job: SweepJob) -> bool:
        env = processes.environment()
        env.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // self.room())))
        if self.gpus is not None:
            if job not in self.wanted:
                self.check(job)
            count = self.wanted[job]
            if count > len(self.free):
                return False
            self.held[job], self.free = self.free[:count], self.free[count:]
            env["CUDA_VISIBLE_DEVICES"] = ",".join(self.held[job])
        self.processes[job] = processes.start(job, job.command(self.program, *self.flags), env)
        return True

    def ended(self, job: SweepJob) -> bool:
        code = self.processes[job].poll()
        if code is None:
            return False
        del self.processes[job]
        self.free += self.held.pop(job, [])
        job.end(code, stopped=job in self.asked)
        self.asked.discard(job)
        return True

    def stop(self, job: SweepJob, sign: int) -> None:
        self.asked.add(job)
        if sign == SIGKILL and hasattr(os, "killpg"):
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

    def check(self, job: SweepJob) -> None:
        devices, nodes = self.needs(job)
        if not str(devices).isdigit() or int(devices) < 1:
            raise ConfigError(f"{job}: trainer.devices={devices}: expected the number of processes per node")

    def alive(self) -> Callable[[SweepJob], bool]:
        return lambda job: job.record.get("slurm_job") in self.queue()

    def start(self, job: SweepJob) -> bool:
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

    def ended(self, job: SweepJob) -> bool:
        if job.record["slurm_job"] in self.queue():
            return False
        job.reload()
        if job.status in ("pending", "running"):
            number = job.record["slurm_job"]
            job.end(1, error=f"Slurm job {number} ended without a word: out of time, out of memory, or cancelled")
        return True

    def stop(self, job: SweepJob, sign: int) -> None:
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
        job = SweepJob(self.folder, self.overrides)
        env = processes.environment(slurm=self.tasks > 1)
        rank = int(os.environ.get("SLURM_PROCID", "0"))
        command = job.command(self.program)
        if rank:
            with (self.folder / f"log_{rank}.txt").open("ab") as log:
                return subprocess.run(command, stdout=log, stderr=log, env=env, check=False).returncode
        self.running = processes.start(job, command, env)
        code = self._code()
        if code in STOPPED:
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
        SweepJob(self.folder, self.overrides).end(self._code(), stopped=True)
        again = SlurmTask(self.folder, self.overrides, self.program, self.tasks)
        return submitit.helpers.DelayedSubmission(again)

    def _code(self) -> int:
        """Exit code of the process, once it has ended; without `Popen.wait`, whose lock a signal handler that waits for
        the same process would wait for in vain."""
        ended = os.waitid(os.P_PID, self.running.pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


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
