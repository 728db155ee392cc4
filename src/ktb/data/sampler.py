"""The order of samples in an epoch, the share of it that each process takes, and where an interrupted epoch goes on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index): a seeded permutation per epoch in training, plain order in evaluation.

    Of several processes each takes every `world_size`-th index from `rank` on. In training all get equally many, the
    rest of the permutation is left out; in evaluation nothing is left out and nothing is padded, so no sample counts
    twice (use Trainer(use_distributed_sampler=False)). In training their next batches together are the next batch of
    one process with as many times the batch size.

    `epoch` and `position` (samples of the epoch already taken by this process) may be set to continue an interrupted
    epoch exactly; the position holds for the next iteration only.

    Args:
        length: number of samples of the split.
        seed: of the permutations.
        train: shuffle, and equal shares.
    """

    def __init__(self, length: int, *, seed: int = 0, train: bool = False, rank: int = 0, world_size: int = 1) -> None:
        self.length = length
        self.seed = seed
        self.train = train
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.position = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def __len__(self) -> int:
        rest = 0 if self.train else self.length % self.world_size > self.rank
        return self.length // self.world_size + rest

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = (
            np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
            if self.train
            else np.arange(self.length)
        )
        share = order[self.rank :: self.world_size][: len(self)]
        start, self.position = self.position, 0
        return iter([(self.epoch, int(index)) for index in share[start:]])
