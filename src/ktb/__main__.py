"""`python -m ktb`: lists the commands; `python -m ktb train ...` is `ktb-train ...`, also without it on the PATH."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from ktb.errors import did_you_mean

COMMANDS = {
    "train": ("ktb.cli.train:train", "train a model and score it on the test split; sweeps with -m"),
    "eval": ("ktb.cli.train:evaluate", "score a run, a checkpoint, a published file"),
    "predict": ("ktb.cli.predict:main", "masks for your own pictures"),
    "data": ("ktb.cli.data:main", "prepare, describe, check and look at data sets"),
    "model": ("ktb.cli.model:main", "look at models, translate, ship and export them"),
    "report": ("ktb.cli.report:main", "pages and tables of runs and sweeps"),
}
"""Name after "ktb-" → its function, as in pyproject.toml, and what it is for."""


def main(argv: Sequence[str]) -> int:
    """Run a command of ktb.

    Args:
        argv: the command without "ktb-", then its arguments; without any, or with --help, the commands are listed.

    Returns:
        The command's exit code; 2 where there is no such command.
    """
    if not argv or argv[0] in ("-h", "--help"):
        lines = [f"  {name:<9}{what}" for name, (_, what) in COMMANDS.items()]
        print(
            "\n".join(["usage: python -m ktb COMMAND ...", "", *lines, "", "python -m ktb COMMAND --help tells more"])
        )
        return 0
    if argv[0] == "--version":
        from ktb import __version__

        print(f"ktb {__version__}")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        near = did_you_mean(name, COMMANDS) or f"; there are {', '.join(COMMANDS)}"
        print(f"ktb: error: no command {name!r}{near}", file=sys.stderr)
        return 2
    script = Path(sys.executable).with_name(f"ktb-{name}")
    # As the script starts it: of several processes, Lightning starts the others as it finds the first one started.
    sys.argv[:] = [str(script) if script.is_file() else script.name, *rest]
    sys.modules["__main__"].__spec__ = None
    module, _, function = COMMANDS[name][0].partition(":")
    return int(getattr(import_module(module), function)() or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
