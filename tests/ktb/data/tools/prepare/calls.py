"""The command as a user calls it."""

from __future__ import annotations

import numpy as np

from ktb.cli.data import main

SIZE = (36, 44)
RNG = np.random.default_rng(0)


def call(*arguments) -> int:
    return main([str(a) for a in arguments])
