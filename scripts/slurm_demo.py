"""A real Slurm on this machine, and what ktb-train does on it: a job on two nodes, and a sweep with disturbed jobs.

    sudo apt-get install slurmctld slurmd slurm-client munge
    python scripts/slurm_demo.py [FOLDER]

Starts munged, slurmctld and two slurmd (virtual nodes n1 and n2, 127.0.0.1 only) with a configuration of their own in
FOLDER, and ends them again. Needs root, as slurmd does. docs/sweeps.md shows its commands as a recipe.
"""

from __future__ import annotations

import csv
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

PACKAGES = {"munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client"}
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

CONF = """\
ClusterName=ktb
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
KillWait=60
ReturnToService=2
SchedulerParameters=sched_interval=5,bf_interval=5
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=1
PartitionName=all Nodes=n[1-2] Default=YES State=UP
"""

# Small enough for two processor cores; a checkpoint after every epoch.
TINY = [
    "trainer=debug", "trainer.accelerator=cpu", "dataset.train=16", "dataset.val=4", "dataset.test=4",
    "dataset.size=[32,64]", "dataset.batch_size=2",
]  # fmt: skip
SLURM = ["launcher=slurm", "launcher.gpus=false", "launcher.timeout_min=30"]


def main() -> int:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="ktb_slurm_")).absolute()
    missing = sorted({package for program, package in PACKAGES.items() if not shutil.which(program, path=PATH)})
    if missing:
        print(f"missing: apt-get install {' '.join(missing)}", file=sys.stderr)
        return 2
    if os.geteuid() != 0:
        print("slurmd has to run as root", file=sys.stderr)
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        env = start_slurm(folder, stack)
        os.chdir(folder)
        print("\n=== one job on two nodes, one process on each (DDP)", flush=True)
        two = ["trainer.max_epochs=2", "trainer.strategy=ddp", "trainer.num_nodes=2", "trainer.devices=1"]
        train(env, *TINY, *two, "sweep=two_nodes", "seed=1")
        print(
            "\n=== six jobs, of which one is preempted and one gets the signal that its time is nearly up", flush=True
        )
        command = [*TINY, "trainer.max_epochs=12", "loss=self_teaching,ce", "seed=1,2,3", "sweep=six"]
        sweep = subprocess.Popen(ktb_train(*command), env=env)
        stack.callback(sweep.kill)
        jobs = folder / "sweeps" / "six"
        disturbed = [disturb(jobs, env, "scontrol", "requeue"), disturb(jobs, env, "scancel", "--signal=USR2")]
        assert sweep.wait() == 0
        for name in disturbed:
            check_one_curve(jobs / name)
        print("\n=== the same command: nothing left to do", flush=True)
        train(env, *command)
    print(f"everything is stopped; logs and runs: {folder}")
    return 0


def start_slurm(folder: Path, stack: ExitStack) -> dict[str, str]:
    """Start the daemons, ended when `stack` closes; returns the environment in which Slurm's commands find them."""
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    folder.chmod(0o755)
    for name in ("state", "spool.n1", "spool.n2"):
        (folder / name).mkdir(exist_ok=True)
    port, first, last = free_ports(3)
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=socket.gethostname(), folder=folder, port=port, first=first, last=last))
    # n1 is no name that a resolver knows; on a cluster the first node's own name is taken.
    env = {**os.environ, "PATH": PATH, "SLURM_CONF": str(conf), "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    daemons = [
        ["munged", "--foreground", f"--key-file={key}", f"--socket={folder}/munge.socket", f"--seed-file={folder}/seed",
         f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log"],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", "n1"],
        ["slurmd", "-D", "-N", "n2"],
    ]  # fmt: skip
    for command in daemons:
        with (folder / "daemons.log").open("ab") as log:
            daemon = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        stack.callback(stop, daemon)
        if command[0] == "munged":
            wait_for(lambda: (folder / "munge.socket").exists(), "munged's socket", 20)
    idle = ["sinfo", "-h", "-t", "idle", "-o", "%D"]
    wait_for(lambda: output(idle, env) == "2", "two idle nodes", 60)
    stack.callback(cancel_jobs, env)
    print(output(["sinfo"], env))
    return env


def cancel_jobs(env: dict[str, str]) -> None:
    """No job outlives the daemons."""
    for command in (["scancel", "--signal=KILL", "--me"], ["scancel", "--me"]):
        subprocess.run(command, env=env, check=False)
    wait_for(lambda: not output(["squeue", "-h"], env), "the last job to end", 90)


def disturb(sweep: Path, env: dict[str, str], *command: str) -> str:
    """Run a command of Slurm's on a job in its first attempt, once it has a checkpoint; returns its folder's name."""

    def undisturbed() -> list[Path]:
        files = sorted(sweep.glob("*/checkpoints/last.ckpt"))
        return [
            file.parents[1]
            for file in files
            if (r := record(file.parents[1]))["status"] == "running" and r["attempts"] == 1
        ]

    wait_for(lambda: bool(undisturbed()), "a job with a checkpoint", 300)
    job = undisturbed()[0]
    number = record(job)["slurm_job"]
    print(" ".join([*command, number]), f"({job.name})", flush=True)
    subprocess.run([*command, number], env=env, check=True)
    wait_for(lambda: record(job)["status"] != "running", "the job to write its checkpoint", 120)
    return job.name


def check_one_curve(job: Path) -> None:
    """A job that was disturbed went on where it stopped: as many rows as without, every step once."""
    assert (record(job)["status"], record(job)["attempts"]) == ("finished", 2), record(job)
    with (job / "metrics.csv").open(newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]
    log = (job / "log.txt").read_text()
    first, second = (re.findall(r"^epoch (\d+)/", part, re.MULTILINE) for part in log.split(", attempt 2\n"))
    assert steps == sorted(set(steps))
    assert len(steps) == 24
    assert not set(first) & set(second)
    print(f"{job.name}: epochs {first[0]} to {first[-1]}, then {second[0]} to {second[-1]}; {len(steps)} steps")


def record(job: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((job / "job.json").read_text())
    return content


def ktb_train(*overrides: str) -> list[str]:
    return [str(Path(sys.executable).with_name("ktb-train")), "-m", *overrides, *SLURM]


def train(env: dict[str, str], *overrides: str) -> None:
    subprocess.run(ktb_train(*overrides), env=env, check=True)


def free_ports(count: int) -> list[int]:
    """A free port and, after it, a run of free ones."""
    for base in range(17000, 20000, count):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for offset, one in enumerate(sockets):
                one.bind(("127.0.0.1", base + offset))
            return [base + offset for offset in range(count)]
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
    raise OSError("no free ports")


def wait_for(condition: Any, what: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.5)


def output(command: list[str], env: dict[str, str]) -> str:
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False).stdout.strip()


def stop(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


if __name__ == "__main__":
    sys.exit(main())
