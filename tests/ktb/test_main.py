"""`python -m ktb`: every command, as its script starts it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ktb import __main__ as ktb_main
from ktb.sweeps import processes

ROOT = Path(__file__).parents[2]
SEEN: list[list[str]] = []


def seen() -> int:
    """A command that only writes down how it was started."""
    SEEN.append([*sys.argv, str(sys.modules["__main__"].__spec__)])
    return 7


def test_the_commands_are_those_that_are_installed() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert {f"ktb-{name}": target for name, (target, _) in ktb_main.COMMANDS.items()} == scripts


def test_without_a_command_they_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert ktb_main.main([]) == ktb_main.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in ktb_main.COMMANDS)
    assert ktb_main.main(["trian"]) == 2
    assert capsys.readouterr().err == "ktb: error: no command 'trian'; did you mean 'train'?\n"


def test_a_command_is_started_as_by_its_script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Lightning's further processes and a sweep's jobs are started as the first process seems to have been."""
    monkeypatch.setattr(ktb_main, "COMMANDS", {"train": (f"{__name__}:seen", "")})
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", "a spec", raising=False)
    monkeypatch.setattr(sys, "argv", ["-m", "train"])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert ktb_main.main(["train", "seed=1"]) == 7
    assert SEEN.pop() == ["ktb-train", "seed=1", "None"]
    assert processes.program("ktb-train") == [sys.executable, "-m", "ktb", "train"]
    script = tmp_path / "ktb-train"
    script.touch()
    assert ktb_main.main(["train", "-m", "seed=1,2"]) == 7
    assert SEEN.pop() == [str(script), "-m", "seed=1,2", "None"]
    assert processes.program("ktb-train") == [sys.executable, str(script)]


def test_it_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ktb", "train", "seed=1", "sed=2"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ktb-train: error: ")
    assert "did you mean 'seed'?" in done.stderr
