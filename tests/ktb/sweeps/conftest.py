"""The command ktb-train with a small script in place of its jobs; everything around them is the real thing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.ktb.commands import run
from tests.ktb.sweeps.fake_jobs import FAKE, Train, plugin


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Train:
    """ktb-train in this process, with the script in place of its jobs; plan: seed → what its job does."""
    (tmp_path / "fake.py").write_text(FAKE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ktb.sweeps.processes.program", lambda command: [sys.executable, str(tmp_path / "fake.py")])
    monkeypatch.setattr(plugin().ProcessLauncher, "poll_s", 0.02)

    def command(*argv: str, plan: dict[int, dict[str, Any]] | None = None) -> int:
        (tmp_path / "plan.json").write_text(json.dumps(plan or {}))
        (tmp_path / "ran.jsonl").unlink(missing_ok=True)
        return run("ktb-train", *argv, cwd=tmp_path).returncode

    return command
