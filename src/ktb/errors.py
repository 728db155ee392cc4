"""The exceptions that a user's mistake raises, and the parts that their messages are made of.

The command line prints such an exception as a single line and exits with code 2. Anything else that escapes is a bug
of ours and keeps its stack trace.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable
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


class PartError(ConfigError, ValueError):
    """A class, of the user's own or of ktb, that cannot be had, or does not do what its place in the model asks for."""


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


def first_line(error: BaseException, *, limit: int | None = 160, containing: str = "") -> str:
    """The first line of an exception's message that says anything, for a message of ours that quotes it.

    Args:
        error: an exception, most often of a library.
        limit: longest text in characters; a longer line is cut and ends in "...". None: whole, however long it is.
        containing: take the first line with this text in it, if there is one.

    Returns:
        The line without blanks around it; the exception's class name where it has no message.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    line = next((line for line in lines if containing in line), lines[0])
    return line if limit is None or len(line) <= limit else f"{line[: limit - 3]}..."


def one_line(error: BaseException, *, limit: int | None = None) -> str:
    """The whole message of an exception as a single line, for libraries that say where the fault is in a later line.

    Args:
        error: an exception, most often of a library.
        limit: longest text in characters; a longer one is cut and ends in "...". None: however long it is.
    """
    line = " ".join(str(error).split()) or type(error).__name__
    return line if limit is None or len(line) <= limit else f"{line[: limit - 3]}..."


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known name that `word` is most likely a misspelling of; None if none is similar.

    Args:
        word: what the user wrote.
        known: what there is.
        cutoff: least similarity, from 0 (any name) to 1 (only the same one), as in `difflib.get_close_matches`.
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return close[0] if close else None


def did_you_mean(word: str, known: Iterable[str], *, cutoff: float = 0.6, before: str = "; ") -> str:
    """The end of a message about an unknown name: "; did you mean 'depth'?", or nothing if no known name is similar.

    Args:
        word: what the user wrote.
        known: what there is.
        cutoff: as in `nearest`.
        before: what joins it to the message.
    """
    meant = nearest(word, known, cutoff=cutoff)
    return "" if meant is None else f"{before}did you mean {meant!r}?"


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
                r"Cannot allocate memory|Could not allocate|could not create a primitive", str(error),
            )
        )
    )  # fmt: skip
