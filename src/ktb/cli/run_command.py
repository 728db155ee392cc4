"""The edge that all ktb-* commands share: errors as one line, Ctrl-C, a closed pipe, characters a terminal lacks.

Exit codes: 0 done; 1 a bug of ours (with its stack trace), a closed pipe, or some files failed; 2 a mistake in the
input or a fault of the machine; 130 interrupted, 143 terminated.

Imports little, as does the module of every command: what is imported before `run_command` runs could not be
interrupted in one line.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import select
import sys
from collections.abc import Callable, Sequence
from typing import TextIO

from ktb.errors import KTBError

BUG, USER_ERROR, INTERRUPTED, TERMINATED = 1, 2, 130, 143
CLOSED_PIPE = 1


def run_command(command: str, work: Callable[[], int], *, stopped: Callable[[str], str] = str) -> int:
    """Do the work of a command and put whatever stops it into words; returns the exit code.

    Args:
        command: as the user wrote it, without arguments: "ktb-train", "ktb-data check". Begins every message.
        work: returns the exit code; may raise anything.
        stopped: what is printed after an interruption, from "interrupted" or "terminated".

    Raises:
        SystemExit: one that `work` raised by intention, such as argparse after --help.
    """
    for stream in (sys.stdout, sys.stderr):
        # Better a question mark than no output, where the terminal's encoding lacks a character.
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")
    exit_: SystemExit | None = None
    code = 0
    try:
        code = work()
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns both signals into SystemExit
            code = _say(f"{command}: {stopped('interrupted')}", INTERRUPTED)
        elif type(error).__name__ == "SIGTERMException":
            code = _say(f"{command}: {stopped('terminated')}", TERMINATED)
        else:
            exit_ = error
    except KeyboardInterrupt:
        code = _say(f"{command}: {stopped('interrupted')}", INTERRUPTED)
    except KTBError as error:
        code = _say(f"{command}: error: {error}", USER_ERROR)
    except Exception as error:
        if _is_of_a_pipe(error) and (_is_closed(sys.stdout) or _is_closed(sys.stderr)):
            code = CLOSED_PIPE
        elif isinstance(error, ImportError) and _is_of_an_interruption(error):
            code = _say(f"{command}: {stopped('interrupted')}", INTERRUPTED)
        else:
            code = _say_fault(command, error)
    unwritten = _flush(command)
    if unwritten is None and exit_ is not None:
        raise exit_
    return code or unwritten or 0


def _is_of_an_interruption(error: BaseException) -> bool:
    """Whether an error was raised from a Ctrl-C, as modules written in C do when they are interrupted in an import."""
    part: BaseException | None = error
    while part is not None and not isinstance(part, KeyboardInterrupt):
        part = part.__cause__ or part.__context__
    return part is not None


def command_name(program: str, argv: Sequence[str]) -> str:
    """How messages call a command with subcommands: as argparse does.

    Args:
        program: the command, "ktb-data".
        argv: its arguments, of which the first may be a subcommand.
    """
    return f"{program} {argv[0]}" if argv and re.fullmatch(r"[a-z-]*[a-z]", argv[0]) else program


def _say(text: str, code: int) -> int:
    """Print to standard error; returns `code`."""
    with contextlib.suppress(OSError):  # nobody reads it, or its disk is full
        print(text, file=sys.stderr, flush=True)
    return code


def _say_fault(command: str, error: Exception) -> int:
    """Say in one line what is wrong with the machine or in code of the user's own, or show a bug of ours; returns the
    exit code."""
    import traceback

    from ktb.cli.machine_faults import machine_fault
    from ktb.models.imports import own_packages, raised_in_own_code, told

    if text := machine_fault(error, command):
        return _say(f"{command}: error: {text}", USER_ERROR)
    if raised_in_own_code(error) and not os.environ.get("KTB_TRACEBACK"):
        said = f"{told(error, *own_packages())}; KTB_TRACEBACK=1 shows all calls that led there"
        return _say(f"{command}: error: {said}", USER_ERROR)
    return _say("".join(traceback.format_exception(error)).rstrip("\n"), BUG)


def _flush(command: str) -> int | None:
    """Write what is left of the output, which at the interpreter's exit could only fail with a complaint of Python's.

    Returns: an exit code if that is not possible.
    """
    code = None
    for stream in (sys.stdout, sys.stderr):
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except OSError as error:
            code = CLOSED_PIPE
            if not _is_of_a_pipe(error):
                code = _say(f"{command}: error: its output can't be written ({error.strerror or error})", USER_ERROR)
            with contextlib.suppress(OSError):  # what is left is for nobody
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


def _is_of_a_pipe(error: Exception) -> bool:
    """Whether a write failed because nobody reads what is written; Windows says EINVAL then."""
    return isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.EINVAL)


def _is_closed(stream: TextIO | None) -> bool:
    """Whether a standard stream is a pipe that nobody reads any more, as after `| head`."""
    if stream is None or stream.closed:
        return False
    try:
        descriptor = stream.fileno()
    except OSError:  # no file, as in a notebook
        return False
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(descriptor, 0)  # errors are always told
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    try:
        stream.flush()  # what could not be written is tried again
    except OSError as error:
        return _is_of_a_pipe(error)
    return False
