"""A sweep's folder: its jobs, their records, the processes that run them, and the lock that keeps a second one out.

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
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from ktb.errors import ConfigError, ReportError
from ktb.io import locked
from ktb.run_folder.files import read_json, write_json
from ktb.run_folder.names import CHECKPOINTS, JOB, LOG, RESULT, SWEEP
from ktb.run_folder.result import RunResult, parsed

SIGKILL = getattr(signal, "SIGKILL", signal.SIGTERM)
"""Windows has none: there SIGTERM ends a process at once."""
STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM, -SIGKILL)
"""Exit codes of a job that did stop when it was asked to."""

# Left by a job that ran in this process or by a launcher around it; a child would take itself for one of their ranks.
_FOREIGN = re.compile(
    r"(LOCAL_|GROUP_|NODE_)?RANK|(LOCAL_|GROUP_)?WORLD_SIZE|ROLE_\w+|TORCHELASTIC_\w+|KTB_DECIDED"
    r"|PL_\w+|WANDB_RUN_ID|WANDB_RESUME"
)
_OF_SLURM = re.compile(r"SLURM\w*|SRUN_\w+|PMI\w*|SUBMITIT_\w+|MASTER_(ADDR|PORT)")


class Interrupted(Exception):
    """A signal ended the sweep; its jobs have been stopped. Carries the signal's number."""

    def __init__(self, sign: int) -> None:
        super().__init__(signal.Signals(sign).name)
        self.exit_code = 128 + sign


class Job:
    """One job of a sweep and its record on disk."""

    def __init__(self, folder: Path, overrides: Sequence[str]) -> None:
        self.folder = folder
        self.overrides = list(overrides)
        self.record: dict[str, Any] = _read(folder / JOB) or {
            "overrides": self.overrides,
            "status": "pending",
            "exit_code": None,
            "started": None,
            "ended": None,
            "error": None,
            "attempts": 0,
        }

    def __str__(self) -> str:
        return self.folder.name

    @property
    def status(self) -> str:
        return str(self.record["status"])

    @property
    def result(self) -> RunResult:
        """What result.json holds; empty as long as there is none."""
        return parsed(_read(self.folder / RESULT))

    def reload(self) -> None:
        """Take over what the process that runs the job has written."""
        self.record = _read(self.folder / JOB) or self.record

    def write(self, **changes: Any) -> None:
        self.record |= changes
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / JOB, self.record)

    def settle(self) -> None:
        """Correct a record that says "running" although nothing runs: whoever kept it was killed."""
        if self.status != "running":
            return
        result = self.folder / RESULT
        started = datetime.fromisoformat(self.record["started"]).timestamp()
        if result.exists() and result.stat().st_mtime >= started and self.result.get("status") == "finished":
            self.write(status="finished", exit_code=0, error=None)
        else:
            self.write(status="interrupted", error="killed together with the sweep")

    def is_done(self) -> bool:
        """Nothing to do: finished, and its result has not been removed since."""
        return self.status == "finished" and (self.folder / RESULT).exists() and not self._anew()

    def command(self, program: Sequence[str], *more: str) -> list[str]:
        """The command line of the next attempt: it goes on from the last checkpoint, if there is one."""
        from ktb.config.overrides import as_override  # Hydra: not needed to read a sweep

        overrides = list(self.overrides)
        own = [text for text in overrides if text.startswith("ckpt_path=")]
        begun = next((self.folder / CHECKPOINTS).glob("last*.ckpt"), None) is not None
        if Path(program[-1]).stem != "ktb-eval" and not self._anew() and (begun or not own):
            overrides = [text for text in overrides if text not in own]
            overrides.append("ckpt_path=auto")
        return [*program, *overrides, *more, as_override("run_dir", str(self.folder))]

    def begin(self) -> None:
        now = _now()
        self.write(status="running", exit_code=None, started=now, ended=None, error=None,
                   attempts=self.record["attempts"] + 1)  # fmt: skip

    def end(self, code: int, *, stopped: bool = False, error: str | None = None) -> None:
        """Record how an attempt ended. stopped: it was asked to."""
        if code == 0:
            status, error = "finished", None
        elif stopped and code in STOPPED:
            status, error = "interrupted", error or "stopped; goes on from its last checkpoint"
        else:
            status, error = "failed", error or self._complaint(code)
        self.write(status=status, exit_code=code, ended=_now(), error=error)

    def open_log(self) -> IO[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        log = (self.folder / LOG).open("ab")
        log.write(f"=== {_now()}, attempt {self.record['attempts']}\n".encode())
        log.flush()
        return log

    def _anew(self) -> bool:
        return "overwrite=true" in [text.lower().lstrip("+") for text in self.overrides]

    def _complaint(self, code: int) -> str:
        """One line of why the last attempt failed, from its log."""
        if code < 0:
            name = signal.Signals(-code).name
            return f"killed by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
        try:
            with (self.folder / LOG).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 2**16))
                text = file.read().decode("utf-8", "replace").rpartition("\n=== ")[2]
        except OSError:
            text = ""
        if said := re.findall(r"^ktb-[a-z]+: (?:error: )?(.+)$", text, re.MULTILINE):
            return str(said[-1])
        if traces := re.findall(r"^Traceback .*\n(?:[ \t].*\n|\n)+(\S.*)$", text, re.MULTILINE):
            return str(traces[-1])
        return f"exit code {code}"


class Sweep:
    """The folder of a sweep. Only whoever holds its `lock` may write to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        content = _read(folder / SWEEP)
        self.jobs = {name: Job(self.folder / name, given) for name, given in content.get("jobs", {}).items()}
        self._meta = {"command": content.get("command"), "created": content.get("created") or _now()}

    def add(
        self, wanted: Sequence[tuple[str, list[str]]], alive: Callable[[Job], bool] = lambda job: False
    ) -> list[Job]:
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
                job = known[_identity(overrides)] = self.jobs[folder.name] = Job(folder, overrides)
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
        if content != _read(self.folder / SWEEP):
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


def program(command: str) -> list[str]:
    """How a job of `command`, ktb-train or ktb-eval, is started: as this process was, else from beside Python."""
    own = Path(sys.argv[0])
    if os.name == "nt":  # the commands are .exe files there, nothing that Python reads
        return [str(Path(sys.executable).with_name(f"{command}.exe"))]
    script = own if own.name == command and own.is_file() else Path(sys.executable).with_name(command)
    return [sys.executable, str(script.absolute())]


def environment(*, slurm: bool = False) -> dict[str, str]:
    """The environment of a job's process. slurm: it is one of several tasks of a Slurm job and has to know."""
    return {
        key: value
        for key, value in os.environ.items()
        if not _FOREIGN.fullmatch(key) and (slurm or not _OF_SLURM.fullmatch(key))
    }


def start(job: Job, command: Sequence[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start one attempt in a session of its own, so that a Ctrl-C reaches it only through us."""
    job.begin()
    with job.open_log() as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
            close_fds=False,  # the lock; nothing else is inheritable
        )


def run(job: Job, command: Sequence[str], env: dict[str, str]) -> None:
    """One attempt from start to end, waited for; stopped with this process when that is interrupted."""
    process = start(job, command, env)
    try:
        code = process.wait()
    except BaseException:
        process.terminate()
        job.end(process.wait(), stopped=True)
        raise
    job.end(code)


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


def _read(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none, or none that can be read."""
    try:
        return read_json(path)
    except ReportError:
        return {}


def _identity(overrides: Sequence[str]) -> str:
    return "\n".join(sorted(overrides))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
