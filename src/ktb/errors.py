"""The one exception type a user's mistake raises.

The command line prints it as a single line and exits with code 2; anything else that escapes is a bug of ours
and keeps its stack trace.
"""

from __future__ import annotations

import errno
import re
from os import PathLike


class KTBError(Exception):
    """A mistake in the input that the user can mend.

    The message is one line: what was found, what was expected, which file, what to do.
    """


class ConfigError(KTBError):
    """A setting that cannot work: unknown name, value out of range, settings that contradict each other."""


class DataError(KTBError):
    """A file, list or folder of a data set that is missing, damaged or not in the expected form."""


class CheckpointError(KTBError):
    """A checkpoint or weight file that cannot be used here."""


class NotFiniteError(KTBError):
    """A loss, gradient, weight or output that is NaN or infinite: nothing that follows from it would mean anything."""


class ReportError(KTBError):
    """A run or sweep folder that no report can be made of."""


class WriteError(KTBError):
    """A result that cannot be written: no space left, no permission, a read-only file system."""

    def __init__(self, path: str | PathLike[str], error: OSError) -> None:
        super().__init__(
            f"{path}: can't be written ({error.strerror or error}); what was saved before is intact: make room or mend "
            "the folder, then continue with ckpt_path=auto and the same run_dir"
        )


def is_out_of_gpu_memory(error: BaseException) -> bool:
    """Whether a GPU has too little memory."""
    return type(error).__name__ == "OutOfMemoryError" or bool(
        isinstance(error, RuntimeError)
        and re.search(r"out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED", str(error))
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the machine itself has too little memory."""
    return (
        isinstance(error, MemoryError)
        or getattr(error, "errno", None) == errno.ENOMEM
        or bool(
            re.search(
                r"DefaultCPUAllocator|not enough memory: you tried|Insufficient memory|bad[_ ]alloc|"
                r"Cannot allocate memory", str(error),
            )
        )
    )  # fmt: skip
