"""What the machine can be at fault for, each in one line with what helps against it: memory, disks, GPUs, networks.

Libraries raise most of these as a RuntimeError, so they are known by their words.
"""

from __future__ import annotations

import errno
import re
import traceback
from collections.abc import Iterator
from pathlib import Path

from ktb.errors import first_line, is_out_of_gpu_memory, is_out_of_memory
from ktb.io import write_failure

_GPU_MEMORY = {
    "train": "lower dataset.batch_size or dataset.crop, or set model.recompute=true; if it happens in evaluation, use "
    "eval=sliding",
    "eval": "set dataset.eval_batch_size=1, or use eval=sliding",
    "predict": "use a lower --tile or --short-side, or --device cpu",
    "model": "use a smaller --size, or --device cpu",
}
_MEMORY = {
    "train": "lower dataset.batch_size, dataset.crop or dataset.num_workers, or set model.recompute=true; if it "
    "happens in evaluation, use eval=sliding",
    "eval": "set dataset.eval_batch_size=1 and a lower dataset.num_workers, or use eval=sliding",
    "predict": "use a lower --tile or --short-side",
    "model": "use a smaller --size",
    "data": "use fewer --workers",
}
_OTHERWISE = "close other programs, or use a larger machine"
_COMPILER = (
    "InvalidCxxCompiler", "CppCompileError", "CUDACompileError", "TritonMissing", "TritonUnavailableError",
    "GPUTooOldForTriton", "InductorError", "BackendCompilerFailed",
)  # fmt: skip
_LOADERS = "dataset.num_workers=0 loads in the process itself"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def machine_fault(error: BaseException, command: str) -> str | None:
    """One line for an error that the machine is at fault for; None for any other error.

    Args:
        error: the error itself, or one that was raised from it.
        command: as in `ktb.cli.run_command.run_command`; what helps depends on it.
    """
    for part in _causes(error):
        if text := _fault(part, command):
            return text
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and those that it was raised from."""
    part: BaseException | None = error
    while part is not None:
        yield part
        part = part.__cause__ or getattr(part, "inner_exception", None)


def _fault(error: BaseException, command: str) -> str | None:
    text, name, said = str(error), type(error).__name__, first_line(error)
    part = command.split()[0].removeprefix("ktb-")

    def says(*patterns: str) -> bool:
        return any(re.search(pattern, text) for pattern in patterns)

    if is_out_of_gpu_memory(error):
        return f"out of GPU memory ({said}); {_GPU_MEMORY.get(part, _OTHERWISE)}"
    if says(r"Too many open files", r"received \d+ items of ancdata"):
        return "too many open files; raise the limit (ulimit -n 65536), or lower dataset.num_workers"
    if says(r"(out of|insufficient) shared memory", r"shared memory (object|file)|shared memory\(shm\)", r"</torch_"):
        return (
            "too little shared memory (/dev/shm) for the processes that load data; "
            f"{_LOADERS}; in a container give more: docker run --shm-size=8g"
        )
    if found := re.search(
        r"DataLoader worker \(pid\S* ?[\d, ]+\) (is killed by signal: [^.]+|exited unexpectedly)", text
    ):
        return (
            f"a process that loads data {found[1]}, most likely for want of memory or shared memory (/dev/shm); lower "
            f"dataset.num_workers ({_LOADERS}) or dataset.batch_size"
        )
    if name in _COMPILER or says(r"torch\.compile is not supported", r"Dynamo is not supported"):
        return (
            f"the model can't be compiled here ({first_line(error, containing='error:')}); install a C++ compiler that "
            "works (g++, clang; for GPUs triton as well), or set model.compile=false"
        )
    if is_out_of_memory(error):
        return f"out of memory ({said}); {_MEMORY.get(part, _OTHERWISE)}"
    if says(r"can't start new thread"):
        fewer = "use --workers 1" if part == "data" else "lower dataset.num_workers"
        return f"the system allows no more threads, or has no memory for them (ulimit -u, ulimit -v); {fewer}"
    if says(
        r"no kernel image is available", r"NVIDIA driver", r"CUDA driver", r"busy or unavailable", r"CUDA unknown error"
    ):
        return f"the GPU can't be used ({said}); install a PyTorch build and a driver that fit it, or go without: " + (
            "trainer=cpu" if part in ("train", "eval") else "--device cpu"
        )
    if says(r"NCCL built in"):
        return "this PyTorch has no NCCL, which processes on GPUs need; install one that has, or use trainer.devices=1"
    if says(r"NCCL error", r"ncclSystemError", r"ncclUnhandledCudaError"):
        return (
            f"the GPUs' processes can't reach each other through NCCL ({said}); NCCL_DEBUG=INFO says why: often "
            "another NCCL_SOCKET_IFNAME or more shared memory helps"
        )
    if says(r"EADDRINUSE", r"[Aa]ddress already in use"):
        return "the port where the job's processes meet is in use already; choose another with MASTER_PORT"
    if name.startswith("Dist") and type(error).__module__.startswith("torch"):
        return (
            f"the job's processes can't reach each other ({said}); check MASTER_ADDR and MASTER_PORT, and that "
            "all of them have started"
        )
    if says(r"database or disk is full", r"readonly database", r"unable to open database"):
        return f"the search's database can't be written ({said}); make room or mend the folder, then call it again"
    if type(error).__module__.startswith("wandb"):
        return f"wandb: {said}; logger.wandb.mode=offline keeps the run in its folder (later: wandb sync)"
    if found := re.match(r"Symlink loop from '(.*)'", text):
        return f"{found[1]}: symbolic links lead in a circle here (a symlink loop); remove one of them"
    if says(r"Could not determine home directory", r"getpwuid\(\): uid not found"):
        return f"this user has no home or no name here ({said}); set the variables HOME and USER"
    if isinstance(error, UnicodeEncodeError):
        return (
            f"{error.object[error.start : error.end]!a} can't be written in the encoding {error.encoding}; set "
            "PYTHONUTF8=1"
        )
    return _of_the_system(error, part) if isinstance(error, OSError) else None


def _of_the_system(error: OSError, part: str) -> str | None:
    found = write_failure(error) or error
    number, said, file = found.errno, found.strerror, found.filename
    if number is None:  # raised anew by PyTorch, in a process that loads data
        told = re.search(r"\[Errno (\d+)\] ([^:\n]+)(?:: '([^'\n]+)')?", str(error))
        if told is None:
            return "TMPDIR is too long a path for a socket; set a shorter one" if "AF_UNIX" in str(error) else None
        number, said, file = int(told[1]), told[2], told[3]
    if file is None and _raised_in(error, "multiprocessing", "synchronize.py"):
        return (
            f"processes can't be started, as the system gives no semaphores ({said}): /dev/shm is missing or can't be "
            "written; " + ("use --workers 1" if part == "data" else _LOADERS)
        )
    where = f"{file}: " if file is not None else ""
    if number in _FULL:
        again = "continue with ckpt_path=auto and the same run_dir" if part == "train" else "call it again"
        return f"{where}can't be written ({said}); make room, then {again}"
    if number == errno.ELOOP:
        return f"{where}symbolic links lead in a circle here (a symlink loop); remove one of them"
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{where}{said}; change its rights, or choose another place"
    if number in (errno.ENOENT, errno.ESTALE) and file is None and not _has_current_folder():
        return f"the folder that it was called in is not there any more ({said}); change into one that is"
    if number in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
        if "temporary directory" in str(said):
            return f"{said}; set TMPDIR to a folder that can be written"
        return f"{where}{said}; was it moved or removed under way?"
    if number in (errno.EIO, errno.ENODEV, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOTCONN):
        return f"{where}{said}: the disk or network drive does not answer; check it, then call the command again"
    if number in (errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.EBUSY):
        return f"{where}{said}; choose another name"
    return None


def _has_current_folder() -> bool:
    try:
        return Path.cwd().is_dir()
    except OSError:
        return False


def _raised_in(error: BaseException, *end: str) -> bool:
    return any(Path(frame.filename).parts[-len(end) :] == end for frame in traceback.extract_tb(error.__traceback__))
