"""The ktb-* commands, and scripts, as a user calls them: exit code, output and error output.

`run` and `run_script` call them in this process, which costs a fraction of a second where a process of its own imports
PyTorch for several. `run_as_process` and `start_process` are for what only a process shows: signals, exits, imports.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import signal
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.utilities.seed import isolate_rng

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
"""Command → "module:function"."""

Done = subprocess.CompletedProcess[str]


def run(command: str, *arguments: object, cwd: Path, **env: str) -> Done:
    """A ktb-* command in this process, in the folder `cwd`, with `env` added to the environment."""
    module, _, name = SCRIPTS[command].partition(":")
    return _in_this_process(getattr(importlib.import_module(module), name), command, arguments, cwd, env)


def run_script(name: str, *arguments: object, cwd: Path, **env: str) -> Done:
    """The same with scripts/NAME.py."""
    return _in_this_process(load_script(name).main, f"{name}.py", arguments, cwd, env)


def load_script(name: str) -> Any:
    """scripts/NAME.py as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        return importlib.import_module(name)


def _in_this_process(
    main: Callable[[], object], program: str, arguments: Sequence[object], cwd: Path, env: dict[str, str]
) -> Done:
    """Whatever is changed of this process is put back. What is said is passed on, so that a failing test shows it."""
    argv = [program, *map(str, arguments)]
    output, errors = io.StringIO(), io.StringIO()
    with process_put_back(), contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        os.chdir(cwd)
        os.environ.update(environment(**env))
        sys.argv, sys.path = [*argv], [str(ROOT / "scripts"), *sys.path]
        try:
            code = main()
        except SystemExit as stop:
            code = stop.code
    text = f"{code}\n" if isinstance(code, str) else ""
    sys.stdout.write(output.getvalue())
    sys.stderr.write(errors.getvalue() + text)
    number = 1 if text else code if isinstance(code, int) else 0
    return subprocess.CompletedProcess(argv, number, output.getvalue(), errors.getvalue() + text)


@contextlib.contextmanager
def process_put_back() -> Iterator[None]:
    """Put back what commands change of their process: it ends with them, and this one goes on with other tests."""
    folder, argv, path, environ = Path.cwd(), sys.argv, sys.path, dict(os.environ)
    signals = {number: signal.getsignal(number) for number in signal.valid_signals()}
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in logging.root.manager.loggerDict)]
    logs = [(logger, logger.level, logger.disabled, logger.handlers[:]) for logger in loggers]
    hydra, composed = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    numbers = torch.get_num_threads(), torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()
    try:
        with warnings.catch_warnings(), isolate_rng():
            yield
    finally:
        os.chdir(folder)
        sys.argv, sys.path = argv, path
        os.environ.clear()
        os.environ.update(environ)
        for number, handler in signals.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        for logger, level, disabled, handlers in logs:
            logger.setLevel(level)
            logger.disabled, logger.handlers = disabled, handlers
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = hydra, composed
        torch.set_num_threads(numbers[0])
        torch.set_default_dtype(numbers[1])
        torch.use_deterministic_algorithms(numbers[2])


def run_as_process(command: str, *arguments: object, cwd: Path, **env: str) -> Done:
    """The same, in a process of its own as from a shell; it may take five minutes."""
    with start_process(command, *arguments, cwd=cwd, stdout=subprocess.PIPE, **env) as process:
        try:
            output, errors = process.communicate(timeout=300)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def start_process(
    command: str, *arguments: object, cwd: Path, stdout: int = subprocess.DEVNULL, **env: str
) -> subprocess.Popen[str]:
    """A command that has just been started, its error output in a pipe."""
    return subprocess.Popen(
        [str(installed(command)), *map(str, arguments)],
        cwd=cwd,
        env=environment(**env),
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


def installed(command: str) -> Path:
    return Path(sys.executable).with_name(command)


def environment(**more: str) -> dict[str, str]:
    """For processes: this one's, one thread, and the package of this checkout."""
    found = os.pathsep.join([str(SRC), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": found, **more}
