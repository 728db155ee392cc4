"""The edge that all ktb-* commands share: whatever happens, one line or silence, and the right exit code."""

from __future__ import annotations

import argparse
import errno
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from ktb.cli import data as data_cli
from ktb.cli import model as model_cli
from ktb.cli import predict as predict_cli
from ktb.cli import report as report_cli
from ktb.cli.run import run_command
from ktb.errors import DataError
from ktb.io import expanded

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
    from ktb.cli.run import run_command
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


def test_an_intended_exit_keeps_its_code() -> None:
    with pytest.raises(SystemExit) as stop:
        run_command("ktb-data", lambda: sys.exit(5))
    assert stop.value.code == 5


class OutOfMemoryError(RuntimeError):
    """As PyTorch calls it."""


class InductorError(RuntimeError):
    """As PyTorch calls it."""


class DistNetworkError(RuntimeError):
    """As PyTorch calls it."""


DistNetworkError.__module__ = "torch.distributed"

IN_A_WORKER = "Caught {} in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File ...\n{}"
FAULTS: dict[str, tuple[BaseException, str, list[str]]] = {
    "gpu memory": (
        OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB"),
        "ktb-train",
        ["out of GPU memory", "Tried to allocate 2.00 GiB", "dataset.batch_size", "dataset.crop", "model.recompute"],
    ),
    "gpu memory in evaluation": (
        OutOfMemoryError("CUDA out of memory."), "ktb-eval", ["dataset.eval_batch_size=1", "eval=sliding"],
    ),
    "gpu memory of a picture": (OutOfMemoryError("CUDA out of memory."), "ktb-predict", ["--tile", "--device cpu"]),
    "gpu memory in an old way": (RuntimeError("CUDA error: out of memory"), "ktb-model info", ["--size"]),
    "host memory": (
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you "
                     "tried to allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"),
        "ktb-train", ["out of memory", "dataset.batch_size", "dataset.num_workers"],
    ),
    "host memory of NumPy": (
        MemoryError("Unable to allocate 7.28 TiB for an array"), "ktb-data check", ["7.28 TiB", "--workers"],
    ),
    "host memory without a word": (MemoryError(), "ktb-train", ["out of memory (MemoryError)"]),
    "no memory to start a process": (OSError(errno.ENOMEM, "Cannot allocate memory"), "ktb-train", ["out of memory"]),
    "shared memory in a worker": (
        RuntimeError(IN_A_WORKER.format("RuntimeError", "RuntimeError: unable to allocate shared memory(shm) for file "
                                        "</torch_7_1>: No space left on device (28)")),
        "ktb-train", ["too little shared memory", "dataset.num_workers=0", "--shm-size"],
    ),
    "shared memory, bus error": (
        RuntimeError("DataLoader worker (pid 42) is killed by signal: Bus error. It is possible that dataloader's "
                     "workers are out of shared memory. Please try to raise your shared memory limit."),
        "ktb-eval", ["too little shared memory", "--shm-size"],
    ),
    "a worker killed by the kernel": (
        RuntimeError("DataLoader worker (pid 42) is killed by signal: Killed. "), "ktb-train",
        ["is killed by signal: Killed", "want of memory", "dataset.num_workers", "dataset.batch_size"],
    ),
    "workers gone": (
        RuntimeError("DataLoader worker (pid(s) 42, 43) exited unexpectedly"), "ktb-train",
        ["exited unexpectedly", "/dev/shm"],
    ),
    "open files": (OSError(errno.EMFILE, "Too many open files", "a.png"), "ktb-train", ["ulimit -n"]),
    "open files in a worker": (
        RuntimeError("Too many open files. Communication with the workers is no longer possible. Please increase the "
                     "limit using `ulimit -n` in the shell"), "ktb-train", ["ulimit -n"],
    ),
    "no compiler": (
        InductorError("InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx: (None, "
                      "'g++')\n\nSet TORCHDYNAMO_VERBOSE=1"),
        "ktb-train", ["No working C++ compiler", "model.compile=false"],
    ),
    "a compiler without Python's headers": (
        InductorError("CppCompileError: C++ compile error\n\nOutput:\nx.cpp:1:10: fatal error: Python.h: No such file"),
        "ktb-train", ["Python.h", "model.compile=false"],
    ),
    "a full disk": (OSError(errno.ENOSPC, "No space left on device", "r/x.json"), "ktb-train",
                    ["r/x.json: can't be written (No space left on device)", "ckpt_path=auto"]),
    "a quota": (
        OSError(errno.EDQUOT, "Disk quota exceeded", "o"), "ktb-data prepare", ["can't be written", "make room"],
    ),
    "a full disk in a worker": (
        OSError(IN_A_WORKER.format("OSError", "OSError: [Errno 28] No space left on device: 'c/x.npy'")),
        "ktb-train", ["c/x.npy: can't be written (No space left on device)"],
    ),
    "a read-only disk": (
        OSError(errno.EROFS, "Read-only file system", "/r"), "ktb-model", ["/r: Read-only file system"],
    ),
    "rights": (
        PermissionError(errno.EACCES, "Permission denied", "/r"), "ktb-report", ["/r: Permission denied", "rights"],
    ),
    "a file that vanished": (
        FileNotFoundError(errno.ENOENT, "No such file or directory", "d/7.png"), "ktb-train", ["d/7.png", "removed"],
    ),
    "a network drive": (OSError(errno.EIO, "Input/output error", "d/7.png"), "ktb-train", ["d/7.png", "drive"]),
    "a circle of links": (
        OSError(errno.ELOOP, "Too many levels of symbolic links", "d"), "ktb-data new", ["symlink loop"],
    ),
    "a circle of links, resolved": (
        RuntimeError("Symlink loop from '/d'"), "ktb-data new", ["/d: symbolic", "symlink loop"],
    ),
    "a port": (
        DistNetworkError("The server socket has failed to listen on any local network address. port: 29500, useIpv6: "
                         "false, code: -98, name: EADDRINUSE, message: address already in use"),
        "ktb-train", ["in use already", "MASTER_PORT"],
    ),
    "an address": (
        DistNetworkError("The client socket has failed to connect to any network address of (nowhere, 29500)."),
        "ktb-train", ["can't reach each other", "MASTER_ADDR"],
    ),
    "no NCCL": (RuntimeError("Distributed package doesn't have NCCL built in"), "ktb-train", ["NCCL"]),
    "a driver": (
        RuntimeError("The NVIDIA driver on your system is too old (found version 11040)."), "ktb-eval", ["trainer=cpu"],
    ),
    "a GPU that PyTorch does not know": (
        RuntimeError("CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors"),
        "ktb-predict", ["no kernel image", "--device cpu"],
    ),
    "no home": (KeyError("getpwuid(): uid not found: 4711"), "ktb-train", ["HOME", "USER"]),
    "no temporary folder": (
        FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), "ktb-data hha", ["TMPDIR"],
    ),
    "threads": (RuntimeError("can't start new thread"), "ktb-predict", ["threads"]),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_machine_is_one_line_with_the_remedy(fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    error, command, words = FAULTS[fault]
    code, said = outcome(error, capsys, command)
    assert code == 2
    assert said.startswith(f"{command}: error: ")
    assert said.count("\n") == 1
    for word in words:
        assert word in said


def test_a_fault_is_known_behind_the_error_that_was_raised_from_it(capsys: pytest.CaptureFixture[str]) -> None:
    error = RuntimeError("the loader has failed")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device", "x.csv")
    assert outcome(error, capsys)[1].startswith("ktb-train: error: x.csv: can't be written")


def test_an_error_that_was_handled_before_a_bug_does_not_hide_it(capsys: pytest.CaptureFixture[str]) -> None:
    error = ZeroDivisionError("of ours")
    error.__context__ = FileNotFoundError(errno.ENOENT, "No such file or directory", "cache")
    assert outcome(error, capsys)[0] == 1


@pytest.mark.parametrize(
    "error", [OSError("image file is truncated"), RuntimeError("shape mismatch"), KeyError("rgb"), BrokenPipeError()]
)
def test_other_errors_keep_their_trace(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = outcome(error, capsys)
    assert code == 1
    assert "Traceback" in said


def test_missing_semaphores_are_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /dev/shm multiprocessing raises FileNotFoundError, and names no file."""
    import multiprocessing
    import multiprocessing.synchronize

    def refuse(*args: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(multiprocessing.synchronize._multiprocessing, "SemLock", refuse)  # type: ignore[attr-defined]
    code = run_command("ktb-data check", lambda: bool(multiprocessing.Lock()))
    said = capsys.readouterr().err
    assert code == 2
    assert "/dev/shm is missing" in said
    assert "--workers 1" in said


# ------------------------------------------------------------------------------------------------ ~


def options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from options(sub)
        else:
            yield parser.prog, action


NO_PATHS = {
    "help", "overrides", "split", "unit", "camera", "name", "layout", "input", "backbone", "device", "command",
    "entity", "project", "url",
}  # fmt: skip
"""Free text that is no path; `overrides` and `input` are looked at part by part (`at_home`, `home`)."""
BY_FIND_CHECKPOINT = {("ktb-predict", "checkpoint"), ("ktb-model convert", "input")} | {
    (f"ktb-model {name}", "source") for name in ("info", "bundle", "export")
}


def parsers(monkeypatch: pytest.MonkeyPatch) -> list[argparse.ArgumentParser]:
    """Those of all argparse commands; ktb-report makes its own as it is called."""
    made: list[argparse.ArgumentParser] = []

    def seen(parser: argparse.ArgumentParser, *args: object) -> None:
        made.append(parser)
        raise SystemExit(0)

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", seen)
        for argv in (["x"], ["sweep", "x"], ["wandb"]):
            with pytest.raises(SystemExit):
                report_cli.main(argv)
    assert [parser.prog for parser in made] == ["ktb-report", "ktb-report sweep", "ktb-report wandb"]
    return [data_cli._parser(), model_cli._parser(), predict_cli._parser(), *made]


def test_a_home_is_understood_in_every_argument_that_is_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    seen = []
    for program, action in (found for parser in parsers(monkeypatch) for found in options(parser)):
        if action.nargs == 0 or action.choices or (program, action.dest) in BY_FIND_CHECKPOINT:
            continue
        if action.type is None and action.dest in NO_PATHS:
            continue
        assert action.type is not None, f"{program} {action.dest}: a path? then type=expanded or home"
        try:
            value = action.type("~/there")  # type: ignore[operator]
        except (argparse.ArgumentTypeError, ValueError):  # a number, a size, a list
            continue
        if value == ("~/there",):  # --write LIST
            continue
        assert str(value) == str(tmp_path / "there"), f"{program} {action.dest}"
        seen.append((program, action.dest))
    some = {
        ("ktb-data check", "out"), ("ktb-data hha", "source"), ("ktb-predict", "csv"), ("ktb-report", "runs"),
        ("ktb-model info", "base"), ("ktb-report sweep", "folder"), ("ktb-data new", "folder"),
    }  # fmt: skip
    assert some <= set(seen)
    assert len(seen) > 20


def test_a_home_that_there_is_not_stays_as_it_is() -> None:
    assert expanded("~no_such_user/x") == Path("~no_such_user/x")
