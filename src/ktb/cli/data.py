"""The `ktb-data` command: prepare and check data sets."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ktb.cli.run_command import command_name, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run `ktb-data`; the exit code: 0 done, 1 some files failed, 2 the call itself was wrong, 130 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)

    def work() -> int:
        parser = _parser()
        arguments, rest = parser.parse_known_args(argv)
        # argparse takes positional arguments in one piece only: check dataset=nyu --out DIR dataset.root=DIR
        if rest and (arguments.command not in ("check", "preview") or any(text.startswith("-") for text in rest)):
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        if rest:
            arguments.overrides += rest
        return int(arguments.run(arguments))

    return run_command(
        command_name("ktb-data", argv),
        work,
        stopped=lambda word: f"{word}; finished files are kept, the same call goes on",
    )


def _parser() -> argparse.ArgumentParser:
    from ktb.cli import data_align, data_look, data_write

    parser = argparse.ArgumentParser(prog="ktb-data", description="Prepare and check data for ktb.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    data_write.add_hha(commands)
    data_look.add_new(commands)
    data_write.add_prepare(commands)
    data_look.add_check(commands)
    data_look.add_preview(commands)
    data_align.add_align(commands)
    data_write.add_fixture(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
