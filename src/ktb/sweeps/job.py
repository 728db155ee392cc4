"""One job of a sweep: its record on disk, the command of its next attempt, and why the last one failed."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from ktb.errors import ReportError
from ktb.run_folder.files import read_json, write_json
from ktb.run_folder.names import CHECKPOINTS, JOB, LOG, RESULT
from ktb.run_folder.result import RunResult, parsed

SIGKILL = getattr(signal, "SIGKILL", signal.SIGTERM)
"""Windows has none: there SIGTERM ends a process at once."""
STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM, -SIGKILL)
"""Exit codes of a job that did stop when it was asked to."""


class SweepJob:
    """One job of a sweep and its record on disk."""

    def __init__(self, folder: Path, overrides: Sequence[str]) -> None:
        self.folder = folder
        self.overrides = list(overrides)
        self.record: dict[str, Any] = read_or_empty(folder / JOB) or {
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
        return parsed(read_or_empty(self.folder / RESULT))

    def reload(self) -> None:
        """Take over what the process that runs the job has written."""
        self.record = read_or_empty(self.folder / JOB) or self.record

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
        self.write(status="running", exit_code=None, started=now(), ended=None, error=None,
                   attempts=self.record["attempts"] + 1)  # fmt: skip

    def end(self, code: int, *, stopped: bool = False, error: str | None = None) -> None:
        """Record how an attempt ended. stopped: it was asked to."""
        if code == 0:
            status, error = "finished", None
        elif stopped and code in STOPPED:
            status, error = "interrupted", error or "stopped; goes on from its last checkpoint"
        else:
            status, error = "failed", error or self._complaint(code)
        self.write(status=status, exit_code=code, ended=now(), error=error)

    def open_log(self) -> IO[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        log = (self.folder / LOG).open("ab")
        log.write(f"=== {now()}, attempt {self.record['attempts']}\n".encode())
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


def read_or_empty(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none, or none that can be read."""
    try:
        return read_json(path)
    except ReportError:
        return {}


def now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
