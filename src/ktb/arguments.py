"""What the argparse commands share."""

from __future__ import annotations

import argparse


class HelpFormatter(argparse.HelpFormatter):
    """Wraps text, but leaves an example, which is there to be copied, on a line of its own."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        head, colon, example = text.partition("Example: ")
        if not colon:
            return super()._fill_text(text, width, indent)
        return f"{head}example:\n  {example}\n"
