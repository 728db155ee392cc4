"""Faults of the machine: known by the words of the libraries, told in one line with what helps."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ktb.cli.machine_faults import machine_fault
from ktb.cli.run_command import run_command
from tests.ktb.cli.test_run_command import outcome


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
    "threads of ktb-data": (RuntimeError("can't start new thread"), "ktb-data check", ["ulimit", "--workers 1"]),
    "no memory for a network": (RuntimeError("could not create a primitive"), "ktb-train", ["out of memory"]),
}  # fmt: skip


def test_a_current_folder_that_is_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = FileNotFoundError(errno.ENOENT, "No such file or directory")  # as os.getcwd raises it
    text = machine_fault(error, "ktb-train")
    assert text == "No such file or directory; was it moved or removed under way?"

    def gone() -> Path:
        raise error

    monkeypatch.setattr(Path, "cwd", gone)
    text = machine_fault(error, "ktb-train")
    assert text is not None
    assert text.startswith("the folder that it was called in is not there any more (No such file")
    named = FileNotFoundError(errno.ENOENT, "No such file or directory", "a.png")
    assert machine_fault(named, "ktb-train") == "a.png: No such file or directory; was it moved or removed under way?"


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
