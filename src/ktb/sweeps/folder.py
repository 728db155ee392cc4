"""A sweep's folder: its jobs, their names, and the lock that keeps a second invocation out.

    SWEEP/sweep.json            {"command", "created", "jobs": {folder: [overrides]}}
    SWEEP/<folder>/job.json     {"overrides", "status", "exit_code", "started", "ended", "error", "attempts"}
    SWEEP/<folder>/log.txt      what the job printed, all attempts
    SWEEP/<folder>/...          the rest of a run folder (ktb.jobs.train)

A job is known by its overrides, not by its number: a list of values may grow, and what is done stays done. Hydra's
part, who asks for which jobs and where they run, is in `hydra_plugins.ktb`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ktb.errors import ConfigError
from ktb.io import locked
from ktb.run_folder.files import write_json
from ktb.run_folder.names import SWEEP
from ktb.sweeps.job import SweepJob, now, read_or_empty


class SweepFolder:
    """The folder of a sweep. Only whoever holds its `lock` may write to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        content = read_or_empty(folder / SWEEP)
        self.jobs = {name: SweepJob(self.folder / name, given) for name, given in content.get("jobs", {}).items()}
        self._meta = {"command": content.get("command"), "created": content.get("created") or now()}

    def add(
        self, wanted: Sequence[tuple[str, list[str]]], alive: Callable[[SweepJob], bool] = lambda job: False
    ) -> list[SweepJob]:
        """The jobs with these (name, overrides), those of an earlier call with the same overrides among them.

        alive: of a job whose record says "running", whether it runs, though this process did not start it.
        """
        known = {_identity(job.overrides): job for job in self.jobs.values()}
        found = []
        for name, overrides in wanted:
            job = known.get(_identity(overrides))
            if job is None:
                taken = name in self.jobs or (self.folder / name).exists()
                folder = self.folder / (f"{name}_{_digest(_identity(overrides))}" if taken else name)
                job = known[_identity(overrides)] = self.jobs[folder.name] = SweepJob(folder, overrides)
                job.write()
            if not alive(job):
                job.settle()
            found.append(job)
        self.save()
        return found

    def save(self, command: str | None = None) -> None:
        """Write sweep.json, if anything in it changed."""
        self._meta["command"] = command or self._meta["command"]
        content = {**self._meta, "jobs": {name: job.overrides for name, job in self.jobs.items()}}
        if content != read_or_empty(self.folder / SWEEP):
            write_json(self.folder / SWEEP, content)

    def count(self) -> dict[str, int]:
        states = [job.status for job in self.jobs.values()]
        return {state: states.count(state) for state in ("finished", "running", "failed", "interrupted", "pending")}

    def summary(self) -> str:
        """The counts in words."""
        return ", ".join(f"{number} {state}" for state, number in self.count().items() if number)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the sweep, for this process and the jobs it starts.

        The jobs inherit the lock: after a kill -9 of this process it stays held until the last of them has ended, so
        that no folder is ever written by two.

        Raises:
            ConfigError: another process runs this sweep, or the folder cannot be written.
        """
        path = self.folder / ".lock"
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                descriptor = stack.enter_context(locked(path))
                if descriptor is not None:
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, f" {os.getpid()}".encode())  # the first byte is locked on Windows
                    os.set_inheritable(descriptor, True)
            except BlockingIOError:
                owner = _owner(path)
                alive = owner.isdigit() and _runs(int(owner))
                who = f"process {owner} runs it" if alive else "jobs of an invocation that was killed still run"
                raise ConfigError(
                    f"{self.folder}: this sweep is running already ({who}); wait for it, watch it with ktb-report "
                    "sweep, or choose another with sweep=NAME"
                ) from None
            except OSError as error:
                raise ConfigError(
                    f"{self.folder}: can't write a sweep here ({error.strerror}); choose another with sweep=DIR"
                ) from None
            yield


def _owner(lock: Path) -> str:
    """The number of the process that wrote it into a lock file, whose first byte is blank."""
    with lock.open("rb", buffering=0) as file:
        file.seek(1)
        return file.read().decode(errors="replace").strip()


def _runs(process: int) -> bool:
    """Whether there is a process of this number."""
    if os.name != "posix":  # no signal there asks without ending the process; whoever holds the lock does run
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    return True


def job_name(overrides: Sequence[str], swept: Sequence[str], groups: Sequence[str]) -> str:
    """A folder's name: the values of what is swept, without characters that a shell or Hydra's grammar would mind."""
    parts = []
    for text in overrides:
        key, _, value = text.lstrip("+~").partition("=")
        if key in swept:
            parts.append(value if key in groups else key.rpartition(".")[2] + value)
    name = "_".join(re.sub(r"[^\w.+-]+", "-", part).strip("-") for part in parts) or "job"
    return name if len(name) <= 100 else f"{name[:91]}_{_digest(name)}"


def sweep_name(overrides: Sequence[str], swept: Sequence[str]) -> str:
    """A folder's name that the same overrides, in any order, always give."""
    keys = "_".join(re.split(r"[./]", key)[-1] for key in swept) or "sweep"
    return f"{re.sub(r'[^A-Za-z0-9_]+', '-', keys)[:60]}_{_digest(_identity(overrides))}"


def _identity(overrides: Sequence[str]) -> str:
    return "\n".join(sorted(overrides))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
