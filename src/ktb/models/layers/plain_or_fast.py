"""Which form of attention is computed: the fast ones of this package, or the plain ones beside the method."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_plain = False


def is_plain() -> bool:
    """Whether attention is to be computed as it is written down, see `plain_forms`."""
    return _plain


@contextmanager
def plain_forms() -> Iterator[None]:
    """Let all models compute window attention and DSCF's attention in their plain forms; not safe between threads.

    They give the same numbers up to rounding, slower and with more memory, and no size is a number in them: exporters
    need that, for a file that takes images of any size. On large maps whose size is known DSCF takes a form that is
    made for exporters too (`ktb.models.layers.dscf_blocks`).
    """
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before
