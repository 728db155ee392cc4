"""How work on many files shows its progress."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ktb.data.tools.parallel import Outcome

Watch = Callable[[Iterator[Outcome], int, str], Iterable[Outcome]]
"""Wraps outcomes that are about to come: their iterator, how many, what they are; for a progress bar."""


def plain_watch(outcomes: Iterator[Outcome], total: int, title: str) -> Iterable[Outcome]:
    """Shows nothing."""
    return outcomes
