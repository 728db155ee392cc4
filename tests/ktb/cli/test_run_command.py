"""The edge that all ktb-* commands share: whatever happens, one line or silence, and the right exit code."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import pytest

from ktb.cli.run_command import run_command
from ktb.errors import DataError
from ktb.models.imports import imported_class

SRC = Path(__file__).parents[3] / "src"
MAINS = {
    "ktb-train": "from ktb.cli.train import train as main",
    "ktb-eval": "from ktb.cli.train import evaluate as main",
    "ktb-data": "from ktb.cli.data import main",
    "ktb-predict": "from ktb.cli.predict import main",
    "ktb-model": "from ktb.cli.model import main",
    "ktb-report": "from ktb.cli.report import main",
}


def script(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SRC), "PYTHONUNBUFFERED": "", **more}


def with_closed(stream: str, code: str, **more: str) -> tuple[int, str]:
    """Exit code, and what the other stream says, of Python code one of whose streams is a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    other = "stderr" if stream == "stdout" else "stdout"
    try:
        streams = {stream: writer, other: subprocess.PIPE}
        done = subprocess.run(
            script(code), env=environment(**more), stdout=streams["stdout"], stderr=streams["stderr"], text=True,
            check=False,
        )  # fmt: skip
    finally:
        os.close(writer)
    return done.returncode, getattr(done, other)


# ------------------------------------------------------------------------------------------------ a closed pipe

OF_A_COMMAND = """
    import sys
    from ktb.cli.run_command import run_command
    from ktb.errors import KTBError
    from rich.console import Console
    from rich.progress import track
    def work():
        {work}
        return 0
    sys.exit(run_command("ktb-x", work))
"""


@pytest.mark.parametrize(
    "work",
    [
        "print('one line, which stays in the buffer until the end')",
        "for i in range(100_000): print(i)",
        "print('said', flush=True)",
        "print('help'); sys.exit(0)",
        "Console().print('[b]a table')",
        "for i in range(50): Console().print('x' * 1000)",
        "list(track(range(3), console=Console(force_terminal=True)))",
        "print('x', flush=False); import os; os.write(1, b'y')",
        "import argparse; argparse.ArgumentParser().parse_args(['--help'])",
    ],
)
def test_a_closed_output_ends_the_command_in_silence(work: str) -> None:
    assert with_closed("stdout", OF_A_COMMAND.format(work=work)) == (1, "")


def test_a_closed_output_without_a_buffer() -> None:
    assert with_closed("stdout", OF_A_COMMAND.format(work="print('x')"), PYTHONUNBUFFERED="1") == (1, "")


@pytest.mark.parametrize(
    "work",
    [
        "print('x', file=sys.stderr)",
        "list(track(range(3), console=Console(stderr=True, force_terminal=True)))",
        "import argparse; argparse.ArgumentParser().error('wrong')",
        "raise KTBError('nobody reads it')",
        "raise ZeroDivisionError",
    ],
)
def test_a_closed_error_output_is_no_error_of_its_own(work: str) -> None:
    code, output = with_closed("stderr", OF_A_COMMAND.format(work=work))
    assert code in (1, 2)
    assert output == ""


def test_an_error_is_told_although_the_output_is_closed() -> None:
    work = "print('x'); raise KTBError('train.txt: no such file')"
    assert with_closed("stdout", OF_A_COMMAND.format(work=work)) == (2, "ktb-x: error: train.txt: no such file\n")


def test_a_broken_pipe_to_another_process_is_not_passed_over() -> None:
    """Only a closed output is silent: a command must not end without a word because a helper has died."""
    work = "import os; r, w = os.pipe(); os.close(r); os.write(w, b'x')"
    done = subprocess.run(
        script(OF_A_COMMAND.format(work=work)), env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.endswith("BrokenPipeError: [Errno 32] Broken pipe\n")


@pytest.mark.parametrize("command", MAINS)
def test_help_of_every_command_into_a_closed_pipe(command: str) -> None:
    code = f"import sys; sys.argv = ['{command}', '--help']; {MAINS[command]}; sys.exit(main())"
    assert with_closed("stdout", code) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_an_output_that_cannot_be_written_is_one_line() -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            script(OF_A_COMMAND.format(work="print('x')")),
            env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "ktb-x: error: its output can't be written (No space left on device)\n"


# ------------------------------------------------------------------------------------------------ characters


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", b"Stra?e ?"), ("cp1252", b"Stra\xdfe ?"), ("utf-8", None)])
def test_characters_that_the_terminal_lacks_are_replaced(encoding: str, shown: bytes | None) -> None:
    code = OF_A_COMMAND.format(work="print('Straße →'); Console(width=40).print('Straße →')")
    done = subprocess.run(script(code), env=environment(PYTHONIOENCODING=encoding), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.splitlines() == [shown or "Straße →".encode()] * 2


def test_a_name_whose_bytes_are_no_text_can_be_printed() -> None:
    code = OF_A_COMMAND.format(work="import os; print(os.fsdecode(b'caf\\xe9.png'))")
    done = subprocess.run(script(code), env=environment(PYTHONUTF8="1"), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"caf\xe9.png\n" or done.stdout == b"caf?.png\n"


# ------------------------------------------------------------------------------------------------ errors


def outcome(error: BaseException, capsys: pytest.CaptureFixture[str], command: str = "ktb-train") -> tuple[int, str]:
    def work() -> int:
        raise error

    code = run_command(command, work)
    return code, capsys.readouterr().err


def test_a_mistake_an_interruption_and_a_bug(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(DataError("a.png: no file"), capsys, "ktb-data check") == (
        2, "ktb-data check: error: a.png: no file\n",
    )  # fmt: skip
    assert outcome(KeyboardInterrupt(), capsys) == (130, "ktb-train: interrupted\n")
    code, said = outcome(ZeroDivisionError("of ours"), capsys)
    assert code == 1
    assert said.startswith("Traceback")
    assert said.endswith("ZeroDivisionError: of ours\n")


def test_an_error_in_the_users_own_code_is_one_line_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also if it is raised in a library that the code calls; all calls that led there are shown on demand."""
    file = tmp_path / "lab_of_run_command.py"
    file.write_text("import json\nclass Mine:\n    def run(self):\n        return json.loads('{')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    mine = imported_class("lab_of_run_command.Mine")()
    assert run_command("ktb-train", mine.run) == 2
    place = f"({file}, line 4)"
    assert capsys.readouterr().err == (
        "ktb-train: error: JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char "
        f"1) {place}; KTB_TRACEBACK=1 shows all calls that led there\n"
    )
    monkeypatch.setenv("KTB_TRACEBACK", "1")
    assert run_command("ktb-train", mine.run) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err
    del sys.modules["lab_of_run_command"]


def test_an_intended_exit_keeps_its_code() -> None:
    with pytest.raises(SystemExit) as stop:
        run_command("ktb-data", lambda: sys.exit(5))
    assert stop.value.code == 5


def test_an_import_that_a_ctrl_c_broke_off_is_an_interruption(capsys: pytest.CaptureFixture[str]) -> None:
    """A module written in C turns the KeyboardInterrupt into an ImportError."""
    error = ImportError("initialization failed")
    error.__cause__ = KeyboardInterrupt()
    assert outcome(error, capsys) == (130, "ktb-train: interrupted\n")
    bug = ZeroDivisionError("of ours, while it tidied up")
    bug.__context__ = KeyboardInterrupt()
    assert outcome(bug, capsys)[0] == 1


# ------------------------------------------------------------------------------------------------ Ctrl-C in imports

PRESSED = """
    import importlib.abc, os, signal, sys
    class Press(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name == "{module}":
                sys.meta_path.remove(self)
                os.kill(os.getpid(), signal.SIGINT)
    sys.meta_path.insert(0, Press())
    sys.argv = {argv!r}
    {imports}
    sys.exit(main())
"""
CALLS = {  # command → its arguments, and modules that are imported on its way
    "ktb-train": (["trainer=debug"], ["hydra", "torch"]),
    "ktb-eval": (["checkpoint=x"], ["ktb.cli.hydra_command"]),
    "ktb-data": (["check"], ["rich", "cv2", "hydra"]),
    "ktb-predict": (["x", "--rgb", "a", "--out", "o"], ["rich", "torch"]),
    "ktb-model": (["info", "x"], ["rich", "torch"]),
    "ktb-report": (["x"], ["rich", "yaml"]),
}


@pytest.mark.parametrize(
    ("command", "module"), [(command, module) for command, (_, modules) in CALLS.items() for module in modules]
)
def test_ctrl_c_while_a_module_is_imported_is_one_line(command: str, module: str, tmp_path: Path) -> None:
    argv = [command, *CALLS[command][0]]
    code = textwrap.dedent(PRESSED).format(module=module, argv=argv, imports=MAINS[command])
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    *before, last = done.stderr.splitlines()
    assert (done.returncode, before) == (130, []), done.stderr
    assert last.startswith(f"{command}")
    assert ": interrupted" in last


@cache
def of_bare_python() -> set[str]:
    """Modules that Python imports for itself."""
    code = script("import sys; print(*sys.modules)")
    return set(subprocess.run(code, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("command", MAINS)
def test_a_command_imports_next_to_nothing_before_it_can_be_interrupted(command: str) -> None:
    """Only what is imported within `run_command` ends in one line."""
    code = f"import sys; {MAINS[command]}; print(*sys.modules)"
    done = subprocess.run(script(code), env=environment(), capture_output=True, text=True, check=True)
    foreign = {name for name in done.stdout.split() if name.partition(".")[0] not in sys.stdlib_module_names}
    site = {name for name in foreign if not name.startswith("ktb") and name != "__main__"}
    assert site <= of_bare_python()  # what the installation's .pth files import
    assert {name for name in foreign if name.startswith("ktb")} <= {
        "ktb", "ktb.cli", "ktb.cli.arguments", "ktb.cli.run_command", "ktb.errors", "ktb.io",
        MAINS[command].split()[1],
    }  # fmt: skip
