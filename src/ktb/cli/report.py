"""The `ktb-report` command: pages and tables of run and sweep folders."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ktb.cli.run_command import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run `ktb-report`; the exit code: 0 done, 2 the call was wrong, 130 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    form = argv[0] if argv[:1] in (["sweep"], ["wandb"]) else ""

    def work() -> int:
        from ktb.cli import report_forms

        forms = {"": report_forms.runs, "sweep": report_forms.sweep, "wandb": report_forms.wandb}
        return forms[form](argv[1:] if form else argv)

    return run_command(f"ktb-report{form and f' {form}'}", work)


if __name__ == "__main__":
    sys.exit(main())
