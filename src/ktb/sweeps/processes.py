"""The processes that run a sweep's jobs: their command, their environment, their start and their end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ktb.sweeps.job import SweepJob

# Left by a job that ran in this process or by a launcher around it; a child would take itself for one of their ranks.
_FOREIGN = re.compile(
    r"(LOCAL_|GROUP_|NODE_)?RANK|(LOCAL_|GROUP_)?WORLD_SIZE|ROLE_\w+|TORCHELASTIC_\w+|KTB_DECIDED"
    r"|PL_\w+|WANDB_RUN_ID|WANDB_RESUME"
)
_OF_SLURM = re.compile(r"SLURM\w*|SRUN_\w+|PMI\w*|SUBMITIT_\w+|MASTER_(ADDR|PORT)")


def program(command: str) -> list[str]:
    """How a job of `command`, ktb-train or ktb-eval, is started: as this process was, else from beside Python."""
    own = Path(sys.argv[0])
    if os.name == "nt":  # the commands are .exe files there, nothing that Python reads
        return [str(Path(sys.executable).with_name(f"{command}.exe"))]
    script = own if own.name == command and own.is_file() else Path(sys.executable).with_name(command)
    if not script.is_file():  # ktb is on the path, but not installed
        return [sys.executable, "-m", "ktb", command.removeprefix("ktb-")]
    return [sys.executable, str(script.absolute())]


def environment(*, slurm: bool = False) -> dict[str, str]:
    """The environment of a job's process. slurm: it is one of several tasks of a Slurm job and has to know."""
    return {
        key: value
        for key, value in os.environ.items()
        if not _FOREIGN.fullmatch(key) and (slurm or not _OF_SLURM.fullmatch(key))
    }


def start(job: SweepJob, command: Sequence[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
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


def run(job: SweepJob, command: Sequence[str], env: dict[str, str]) -> None:
    """One attempt from start to end, waited for; stopped with this process when that is interrupted."""
    process = start(job, command, env)
    try:
        code = process.wait()
    except BaseException:
        process.terminate()
        job.end(process.wait(), stopped=True)
        raise
    job.end(code)
