"""The `ktb-model` command: look at models, translate, ship and export them."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from ktb.cli.run_command import command_name, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run `ktb-model`; the exit code: 0 done, 2 the call or a file was wrong, 130 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)

    def work() -> int:
        parser = _parser()
        arguments, rest = parser.parse_known_args(argv)
        if rest and not (hasattr(arguments, "settings") and all(re.match(r"[^-=][^=]*=", text) for text in rest)):
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        if rest:
            arguments.settings = rest
        arguments.run(arguments)
        return 0

    return run_command(command_name("ktb-model", argv), work, stopped=lambda word: f"{word}; nothing was written")


def _parser() -> argparse.ArgumentParser:
    from ktb.cli import model_export, model_files, model_info, model_push, model_zoo

    parser = argparse.ArgumentParser(prog="ktb-model", description="Look at models, translate, ship and export them.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    model_info.add_info(commands)
    model_files.add_convert(commands)
    model_files.add_bundle(commands)
    model_export.add_export(commands)
    model_push.add_push(commands)
    model_zoo.add_zoo(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
